#!/bin/sh
# POSTGRES_PASSWORD as Postgres's image has it: given directly or in a file, and asked for where a database is new.
set -eu

if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
    if [ -n "${POSTGRES_PASSWORD:-}" ]; then
        echo "cortexdb: POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are both set" >&2
        exit 1
    fi
    POSTGRES_PASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"
    export POSTGRES_PASSWORD
fi

case "${1:-}" in
start | meta)
    # Without a password only loopback may log in, and nobody is on a container's loopback.
    if [ -z "${POSTGRES_PASSWORD:-}" ] && [ ! -e "$CORTEX_DATA_DIR/cortexdb.format" ]; then
        echo "cortexdb: a new database needs a password: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE" >&2
        exit 1
    fi
    ;;
esac

exec cortexdb "$@"
