#!/usr/bin/env bash
# Records PostgreSQL's answers: reads *.cases (one expression a line), writes *.txt (expression, type, value; or error, SQLSTATE, message).
# Usage: PGHOST=... PGPORT=... PGUSER=postgres ./generate.sh [name ...]
set -eu
cd "$(dirname "$0")"
for cases in ${@:-*.cases}; do
  name=${cases%.cases}
  {
    echo "set timezone='UTC'; set client_min_messages=warning;"
    cat <<'SQL'
create function pg_temp.answer(e text) returns text language plpgsql as $$
declare t text; v text;
begin
  execute 'select pg_typeof(x)::text, x::text from (select ' || e || ' as x) q' into t, v;
  return t || E'\t' || coalesce(replace(replace(v, E'\\', E'\\\\'), E'\n', '\n'), '\N');
exception when others then
  return 'error' || E'\t' || sqlstate || E'\t' || sqlerrm;
end $$;
SQL
    grep -v '^#' "$name.cases" | grep -v '^$' | while IFS= read -r line; do
      printf "select \$q\$%s\$q\$ || E'\\\\t' || pg_temp.answer(\$q\$%s\$q\$);\n" "$line" "$line"
    done
  } | psql -qAt -v ON_ERROR_STOP=1 > "$name.txt"
done
