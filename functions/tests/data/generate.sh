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

# Aggregates: name, type and values of x; the answers go beside them.
{
  echo "set timezone='UTC'; set client_min_messages=warning;"
  cat <<'SQL'
create function pg_temp.answer(a text, t text, v text) returns text language plpgsql as $$
declare r text; s text;
begin
  execute format('select pg_typeof(%s)::text, (%s)::text from unnest(%L::%s[]) with ordinality u(x, n)', a, a, v, t)
    into r, s;
  return r || E'\t' || coalesce(replace(s, E'\n', '\n'), '\N');
exception when others then
  return 'error' || E'\t' || sqlstate || E'\t' || sqlerrm;
end $$;
SQL
  grep -v '^#' aggregates.rows | while IFS=$'\t' read -r aggregate type values; do
    printf "select concat_ws(E'\\t', \$q\$%s\$q\$, '%s', \$q\$%s\$q\$, pg_temp.answer(\$q\$%s\$q\$, '%s', \$q\$%s\$q\$));\n" \
      "$aggregate" "$type" "$values" "$aggregate" "$type" "$values"
  done
} | psql -qAt -v ON_ERROR_STOP=1 > aggregates.answers
