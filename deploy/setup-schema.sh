#!/bin/sh
# Creates Temporal's two databases and the inventory's, and brings their tables up to this image's version. Safe to repeat.
set -eu

for db in temporal:temporal temporal_visibility:visibility; do
	name=${db%%:*}
	set -- temporal-sql-tool --plugin "$DB" --ep "$POSTGRES_SEEDS" -p "$DB_PORT" -u "$POSTGRES_USER" --db "$name"
	"$@" create
	"$@" setup-schema -v 0.0
	"$@" update-schema -d "/etc/temporal/schema/postgresql/v12/${db##*:}/versioned"
done

# The worker's own, for inventory and compliance; it makes its tables itself.
temporal-sql-tool --plugin "$DB" --ep "$POSTGRES_SEEDS" -p "$DB_PORT" -u "$POSTGRES_USER" --db almanac create
