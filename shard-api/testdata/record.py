#!/usr/bin/env python3
"""Rewrites the results in the recorded files beside this script with the answers of a PostgreSQL 15.

Usage: PGHOST=... PGPORT=... PGUSER=... record.py FILE...   (psql must be installed)

Each line is `type<TAB>input<TAB>result`; a result that begins with `!` is an error: SQLSTATE, message, DETAIL, HINT.
`input` has \\n, \\t and \\\\ escaped. In files named op_*, the input is an expression.
"""
import subprocess
import sys

FUNCTION = r"""
SET client_min_messages = error;
CREATE OR REPLACE FUNCTION pg_temp.attempt(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE r text; m text; d text; h text;
BEGIN
  EXECUTE query INTO r;
  RETURN coalesce(r, 'NULL');
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
  RETURN '!' || SQLSTATE || ' ' || m || CASE WHEN d <> '' THEN ' DETAIL ' || d ELSE '' END
    || CASE WHEN h <> '' THEN ' HINT ' || h ELSE '' END;
END $$;
SET timezone = 'America/New_York';
SET datestyle = 'ISO, MDY';
"""


def unescape(text):
    out, at = [], 0
    while at < len(text):
        if text[at] == "\\" and at + 1 < len(text):
            out.append({"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}[text[at + 1]])
            at += 2
        else:
            out.append(text[at])
            at += 1
    return "".join(out)


def literal(text):
    return "'" + text.replace("'", "''") + "'"


for path in sys.argv[1:]:
    lines = open(path, encoding="utf-8").read().split("\n")
    script, asked = [FUNCTION], []
    for number, line in enumerate(lines):
        if not line or line.startswith("#"):
            continue
        ty, given = line.split("\t")[:2]
        if ty == "op":
            query = f"SELECT ({unescape(given)})::text"
        else:
            query = f"SELECT {literal(unescape(given))}::{ty}::text"
        asked.append((number, ty, given))
        script.append(
            "SELECT replace(replace(pg_temp.attempt(" + literal(query)
            + r"), '\', '\\'), E'\n', '\n');"
        )
    run = subprocess.run(
        ["psql", "-XAtq", "-d", "postgres"], input="\n".join(script), text=True, capture_output=True
    )
    answers = run.stdout.rstrip("\n").split("\n")
    assert len(answers) == len(asked), (len(answers), len(asked), run.stderr)
    for (number, ty, given), answer in zip(asked, answers):
        lines[number] = f"{ty}\t{given}\t{answer}"
    open(path, "w", encoding="utf-8").write("\n".join(lines))
