"""asyncpg, which speaks binary alone: CRUD, `LIMIT $1`, every type, transactions, cursors, COPY, a pool.

Reads PGHOST, PGPORT, PGUSER and PGDATABASE. Exits with 0 if everything is as a PostgreSQL would have it.
"""
import asyncio
import datetime as dt
import decimal
import uuid

import asyncpg

VALUES = [
    ("bool", True),
    ("int2", -7),
    ("int4", 2_000_000_000),
    ("int8", 9_000_000_000_000),
    ("float4", 0.5),
    ("float8", 1e300),
    ("numeric", decimal.Decimal("-12345678.901200")),
    ("text", "ä 'quoted' \\ text"),
    ("varchar(10)", "ten chars!"),
    ("char(4)", "ab  "),
    ("bytea", b"\x00\xff\\"),
    ("date", dt.date(2026, 11, 22)),
    ("time", dt.time(18, 30, 0, 123456)),
    ("timestamp", dt.datetime(2026, 11, 22, 18, 30, 0, 1)),
    ("timestamptz", dt.datetime(2026, 11, 22, 18, 30, tzinfo=dt.timezone.utc)),
    ("interval", dt.timedelta(days=3, seconds=7)),
    ("uuid", uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
    ("json", '{"a": 1}'),
    ("jsonb", '{"a": [1, null]}'),
]

ARRAYS = [
    ("int4[]", [1, None, 3]),
    ("text[]", ["a", "b,c", None, ""]),
    ("timestamptz[]", [dt.datetime(2026, 11, 22, tzinfo=dt.timezone.utc)]),
    ("numeric[]", [decimal.Decimal("1.50"), None]),
]


async def crud(connection):
    await connection.execute("DROP TABLE IF EXISTS ac")
    columns = ", ".join(f"c{n} {ty}" for n, (ty, _) in enumerate(VALUES))
    await connection.execute(f"CREATE TABLE ac (id serial PRIMARY KEY, {columns})")
    names = ", ".join(f"c{n}" for n in range(len(VALUES)))
    places = ", ".join(f"${n + 1}" for n in range(len(VALUES)))
    insert = f"INSERT INTO ac ({names}) VALUES ({places}) RETURNING id"
    given = [value for _, value in VALUES]
    assert [await connection.fetchval(insert, *given) for _ in range(5)] == [1, 2, 3, 4, 5]
    await connection.execute(insert, *([None] * len(VALUES)))
    row = await connection.fetchrow("SELECT * FROM ac WHERE id = $1", 3)
    for n, (ty, value) in enumerate(VALUES):
        assert row[f"c{n}"] == value, (ty, row[f"c{n}"], value)
    assert set((await connection.fetchrow("SELECT * FROM ac WHERE id = 6"))[1:]) == {None}
    for limit, offset in [(2, 0), (3, 2), (100, 5)]:
        rows = await connection.fetch("SELECT id FROM ac ORDER BY id LIMIT $1 OFFSET $2", limit, offset)
        assert [row["id"] for row in rows] == list(range(1, 7))[offset : offset + limit]
    assert await connection.execute("UPDATE ac SET c7 = $1 WHERE id = $2", "new", 1) == "UPDATE 1"
    assert await connection.execute("DELETE FROM ac WHERE id > $1", 5) == "DELETE 1"
    await connection.executemany("INSERT INTO ac (c2, c7) VALUES ($1, $2)", [(n, str(n)) for n in range(100)])
    statement = await connection.prepare("SELECT $1::int4 + id AS n FROM ac WHERE id = $2")
    assert [a.type.name for a in statement.get_attributes()] == ["int4"]
    assert [p.name for p in statement.get_parameters()] == ["int4", "int4"]
    assert await statement.fetchval(10, 4) == 14


async def arrays(connection):
    for ty, value in ARRAYS:
        assert await connection.fetchval(f"SELECT $1::{ty}", value) == value, ty
    assert await connection.fetchval("SELECT count(*) FROM ac WHERE id = ANY($1::int[])", [1, 2, 9999]) == 2


async def transactions(connection):
    try:
        async with connection.transaction():
            await connection.execute("DELETE FROM ac")
            try:
                async with connection.transaction():
                    await connection.execute("SELECT 1/0")
            except asyncpg.DivisionByZeroError:
                pass
            assert await connection.fetchval("SELECT count(*) FROM ac") == 0
            raise KeyError("undone")
    except KeyError:
        pass
    assert await connection.fetchval("SELECT count(*) FROM ac") == 105
    try:
        await connection.execute("INSERT INTO ac (id) VALUES (1)")
        raise AssertionError("a duplicate key")
    except asyncpg.UniqueViolationError as error:
        assert error.constraint_name == "ac_pkey"
    async with connection.transaction():
        seen = [r["id"] async for r in connection.cursor("SELECT id FROM ac ORDER BY id", prefetch=10)]
    assert len(seen) == 105 and seen == sorted(seen)


async def copies(connection):
    await connection.execute("DROP TABLE IF EXISTS acopy")
    await connection.execute("CREATE TABLE acopy (id int8 PRIMARY KEY, t text, d date)")
    rows = [(n, None if n % 3 == 0 else str(n), dt.date(2026, 1, 1)) for n in range(1000)]
    assert await connection.copy_records_to_table("acopy", records=rows) == "COPY 1000"
    assert [tuple(r) for r in await connection.fetch("SELECT * FROM acopy ORDER BY id")] == rows
    out = []

    async def take(data):
        out.append(data)

    assert await connection.copy_from_query("SELECT * FROM acopy", output=take, format="csv") == "COPY 1000"
    assert b"".join(out).count(b"\n") == 1000


async def main():
    connection = await asyncpg.connect()
    await crud(connection)
    await arrays(connection)
    await transactions(connection)
    await copies(connection)
    await connection.close()
    # A pool resets each connection that comes back.
    async with asyncpg.create_pool(min_size=2, max_size=4) as pool:

        async def one(n):
            async with pool.acquire() as connection:
                return await connection.fetchval("SELECT $1::int8 * 2", n)

        assert await asyncio.gather(*[one(n) for n in range(40)]) == [n * 2 for n in range(40)]
        await pool.execute("DROP TABLE ac, acopy")
    print("asyncpg", asyncpg.__version__, "ok")


asyncio.run(main())
