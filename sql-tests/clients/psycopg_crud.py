"""psycopg 3: every type in text and binary, server-side parameters, transactions, pipelines, cursors, COPY, errors.

Reads PGHOST, PGPORT, PGUSER and PGDATABASE. Exits with 0 if everything is as a PostgreSQL would have it.
"""
import datetime as dt
import decimal
import uuid

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

VALUES = {
    "b": ("bool", True),
    "i2": ("int2", -7),
    "i4": ("int4", 2_000_000_000),
    "i8": ("int8", 9_000_000_000_000),
    "f4": ("float4", 0.5),
    "f8": ("float8", 1e300),
    "n": ("numeric(20,4)", decimal.Decimal("12345678.9012")),
    "t": ("text", "ä 'quoted' \\ text"),
    "v": ("varchar(10)", "ten chars!"),
    "c": ("char(4)", "ab  "),
    "y": ("bytea", b"\x00\xff\\"),
    "d": ("date", dt.date(2026, 11, 22)),
    "ti": ("time", dt.time(18, 30, 0, 123456)),
    "ts": ("timestamp", dt.datetime(2026, 11, 22, 18, 30, 0, 1)),
    "tz": ("timestamptz", dt.datetime(2026, 11, 22, 18, 30, tzinfo=dt.timezone.utc)),
    "iv": ("interval", dt.timedelta(days=3, seconds=7)),
    "u": ("uuid", uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
    "j": ("jsonb", {"a": [1, None, "x"]}),
    "ia": ("int4[]", [1, None, 3]),
    "ta": ("text[]", ["a", "b,c", None, ""]),
}


def crud(connection, binary):
    columns = ", ".join(f"{name} {ty}" for name, (ty, _) in VALUES.items())
    connection.execute("DROP TABLE IF EXISTS crud")
    connection.execute(f"CREATE TABLE crud (id serial PRIMARY KEY, {columns})")
    given = {name: Jsonb(value) if name == "j" else value for name, (_, value) in VALUES.items()}
    places = ", ".join(f"%({name}){'b' if binary else 's'}" for name in VALUES)
    insert = f"INSERT INTO crud ({', '.join(VALUES)}) VALUES ({places}) RETURNING id"
    with connection.cursor(binary=binary, row_factory=dict_row) as cursor:
        # Often enough that psycopg prepares the statement by itself.
        ids = [cursor.execute(insert, given).fetchone()["id"] for _ in range(7)]
        assert ids == list(range(1, 8)), ids
        cursor.execute(insert, {name: None for name in VALUES})
        for n in ids:
            row = cursor.execute("SELECT * FROM crud WHERE id = %s", [n]).fetchone()
            for name, (_, value) in VALUES.items():
                assert row[name] == value, (name, row[name], value, binary)
        row = cursor.execute("SELECT * FROM crud WHERE id = 8").fetchone()
        assert all(row[name] is None for name in VALUES), row
        # A value finds its row through every type's equality.
        for name, (ty, _) in VALUES.items():
            sql = f"SELECT count(*) AS n FROM crud WHERE {name} = %s::{ty}"
            found = cursor.execute(sql, [given[name]]).fetchone()["n"]
            assert found == 7, (name, found)
        cursor.execute("UPDATE crud SET t = %s, i4 = i4 - %s WHERE id = %s RETURNING t, i4", ["new", 5, 3])
        assert cursor.fetchone() == {"t": "new", "i4": 1_999_999_995}
        cursor.execute("DELETE FROM crud WHERE id = ANY(%s)", [[1, 2]])
        assert cursor.rowcount == 2
        cursor.execute("SELECT id FROM crud ORDER BY id LIMIT %s OFFSET %s", [2, 1])
        assert [row["id"] for row in cursor] == [4, 5]
        cursor.executemany("INSERT INTO crud (i4, t) VALUES (%s, %s)", [(n, str(n)) for n in range(50)])
        assert cursor.rowcount == 50


def transactions(connection):
    with connection.transaction():
        connection.execute("UPDATE crud SET i4 = 1")
        try:
            with connection.transaction():
                connection.execute("UPDATE crud SET i4 = 2")
                raise psycopg.Rollback()
        except psycopg.Rollback:
            pass
    assert connection.execute("SELECT DISTINCT i4 FROM crud").fetchall() == [(1,)]
    try:
        connection.execute("INSERT INTO crud (id) VALUES (4)")
        raise AssertionError("a duplicate key")
    except psycopg.errors.UniqueViolation as error:
        assert error.diag.constraint_name == "crud_pkey", error.diag.constraint_name
        assert error.diag.message_detail == "Key (id)=(4) already exists.", error.diag.message_detail
        assert error.diag.table_name == "crud"
    for sql, expected in [
        ("SELECT 1/0", psycopg.errors.DivisionByZero),
        ("SELECT * FROM nowhere", psycopg.errors.UndefinedTable),
        ("SELEC 1", psycopg.errors.SyntaxError),
        ("INSERT INTO crud (v) VALUES ('eleven char')", psycopg.errors.StringDataRightTruncation),
    ]:
        try:
            connection.execute(sql)
            raise AssertionError(sql)
        except expected:
            pass


def pipelines_and_cursors(connection):
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::int4 * 2", [n]) for n in range(20)]
    assert [cursor.fetchone()[0] for cursor in cursors] == [n * 2 for n in range(20)]
    with connection.transaction(), connection.cursor(name="server_side") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT g FROM generate_series(1, 1000) g")
        assert sum(row[0] for row in cursor) == 500_500
    with connection.cursor() as cursor:
        assert list(cursor.stream("SELECT g FROM generate_series(1, 10) g")) == [(n,) for n in range(1, 11)]


def copies(connection):
    connection.execute("CREATE TABLE IF NOT EXISTS copied (id int8 PRIMARY KEY, t text, d date)")
    connection.execute("TRUNCATE copied")
    rows = [(n, None if n % 3 == 0 else f"tab\tand \\ {n}", dt.date(2026, 1, 1)) for n in range(1000)]
    with connection.cursor() as cursor:
        with cursor.copy("COPY copied FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        with cursor.copy("COPY (SELECT * FROM copied ORDER BY id) TO STDOUT") as copy:
            copy.set_types(["int8", "text", "date"])
            assert list(copy.rows()) == rows
        cursor.execute("TRUNCATE copied")
        with cursor.copy("COPY copied FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int8", "text", "date"])
            for row in rows:
                copy.write_row(row)
        with cursor.copy("COPY (SELECT * FROM copied ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int8", "text", "date"])
            assert list(copy.rows()) == rows
        try:
            with cursor.copy("COPY copied FROM STDIN") as copy:
                copy.write_row((5000, "x", None))
                raise KeyError("in the middle")
        except KeyError:
            pass
        assert cursor.execute("SELECT count(*) FROM copied").fetchone() == (1000,)


with psycopg.connect(autocommit=True) as connection:
    for binary in (False, True):
        crud(connection, binary)
        transactions(connection)
    pipelines_and_cursors(connection)
    copies(connection)
    connection.execute("DROP TABLE crud, copied")
print("psycopg", psycopg.__version__, "ok")
