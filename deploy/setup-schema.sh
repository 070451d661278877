#!/bin/sh
# Creates Temporal's two databases and brings their tables up to this image's version. Safe to repeat.
set -eu

for db in temporal:temporal temporal_visibility:visibility; do
	name=${db%%:*}
	set -- temporal-sql-tool --plugin "$DB" --ep "$POSTGRES_SEEDS" -p "$DB_PORT" -u "$POSTGRES_USER" --db "$name"
	"$@" create
	"$@" setup-schema -v 0.0
	"$@" update-schema -d "/etc/temporal/schema/postgresql/v12/${db##*:}/versioned"
done
