#!/bin/sh
# For a Temporal server that is not almanac-server: creates the namespace, and the search attributes by which executions are found. Safe to repeat.
# TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE say where.
set -eu

temporal operator namespace describe -n "$TEMPORAL_NAMESPACE" >/dev/null 2>&1 ||
	temporal operator namespace create -n "$TEMPORAL_NAMESPACE" --retention "${RETENTION:-30d}"

# A new namespace is known to every part of the server only after some seconds.
tries=0
until known=$(temporal operator search-attribute list -n "$TEMPORAL_NAMESPACE" 2>&1); do
	tries=$((tries + 1))
	if [ "$tries" -ge 30 ]; then
		echo "$known" >&2
		exit 1
	fi
	sleep 1
done

while read -r name type; do
	case "$known" in
	*"$name "*) ;;
	*) temporal operator search-attribute create -n "$TEMPORAL_NAMESPACE" --name "$name" --type "$type" ;;
	esac
done <<END
AlmanacRunbook Keyword
AlmanacStatus Keyword
AlmanacStep Keyword
AlmanacCaller Keyword
AlmanacCompliance Keyword
AlmanacTargets KeywordList
END
