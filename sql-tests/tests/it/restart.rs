//! The catalog after kill -9: every kind of object, and everything that the system relations say of it, as before.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{Client, CortexServer};

/// One of everything, some of it changed, renamed or dropped again.
const OBJECTS: &[&str] = &[
    "CREATE SCHEMA sales",
    "CREATE SCHEMA \"Odd Name\"",
    "CREATE SCHEMA gone",
    "CREATE TABLE gone.t (a int)",
    "DROP SCHEMA gone CASCADE",
    "CREATE ROLE reader LOGIN PASSWORD 'secret'",
    "CREATE SEQUENCE sales.numbers START 5 INCREMENT 3 MAXVALUE 1000 CYCLE",
    "SELECT nextval('sales.numbers'), nextval('sales.numbers')",
    "CREATE TABLE sales.customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(40) NOT NULL UNIQUE,
        born date, balance numeric(12,2) DEFAULT 0 CHECK (balance > -100), tags text[], extra jsonb)",
    "CREATE TABLE sales.orders (id serial PRIMARY KEY, customer bigint NOT NULL REFERENCES sales.customers ON DELETE CASCADE,
        placed timestamptz DEFAULT now(), note char(10), CONSTRAINT note_is_short CHECK (length(note) < 8))",
    "CREATE INDEX orders_placed ON sales.orders (placed DESC NULLS LAST, customer)",
    "CREATE UNIQUE INDEX orders_note ON sales.orders (note)",
    "CREATE VIEW sales.totals AS SELECT name, count(o.id) AS n FROM sales.customers c LEFT JOIN sales.orders o ON o.customer = c.id GROUP BY name",
    "CREATE TABLE hashed (tenant int, id int, v text, PRIMARY KEY (tenant, id)) WITH (shard_by = 'hash(tenant)', fillfactor = 80)",
    "CREATE TABLE beside (tenant int PRIMARY KEY, w int) WITH (shard_by = 'hash(tenant)', colocate_with = 'hashed')",
    "CREATE TABLE ranged (day date PRIMARY KEY, v int) WITH (shard_by = 'range(day)')",
    "CREATE TABLE everywhere (code char(2) PRIMARY KEY, name text) WITH (shard_by = 'reference')",
    "CREATE TABLE \"Odd Name\".\"Table \"\" x\" (\"Column 1\" int, \"select\" text)",
    "COMMENT ON TABLE hashed IS 'by tenant'",
    "COMMENT ON COLUMN hashed.v IS 'it''s a value'",
    "ALTER TABLE hashed ADD COLUMN added int NOT NULL DEFAULT 7",
    "ALTER TABLE hashed RENAME COLUMN v TO value",
    "ALTER TABLE hashed ADD COLUMN dropped int",
    "ALTER TABLE hashed DROP COLUMN dropped",
    "ALTER TABLE beside ALTER COLUMN w SET DEFAULT 3",
    "ALTER TABLE beside ADD CONSTRAINT w_positive CHECK (w > 0)",
    "ALTER TABLE beside RENAME TO next_to",
    "CREATE TABLE dropped (a int PRIMARY KEY)",
    "DROP TABLE dropped",
    "INSERT INTO sales.customers (name, tags) VALUES ('Ann', '{a,b}'), ('Bob', NULL)",
    "INSERT INTO sales.orders (customer, note) VALUES (1, 'x'), (2, 'y')",
    "INSERT INTO hashed SELECT g % 7, g, 'v' || g FROM generate_series(1, 100) g",
    "INSERT INTO next_to SELECT g, g + 1 FROM generate_series(0, 6) g",
    "INSERT INTO ranged SELECT date '2026-01-01' + g, g FROM generate_series(1, 50) g",
    "INSERT INTO everywhere VALUES ('de', 'Germany'), ('fr', 'France')",
    "TRUNCATE ranged",
    "INSERT INTO ranged SELECT date '2026-01-01' + g, g FROM generate_series(1, 20) g",
];

/// Relations whose rows are of the moment, not of the catalog; a crash leaves numbers of sequences out, as in PostgreSQL.
const OF_THE_MOMENT: &[&str] = &[
    "pg_stat_activity",
    "pg_locks",
    "pg_cursors",
    "pg_prepared_statements",
    "pg_sequences",
    "cortex.gateways",
    "cortex.shards",
];

/// Every system relation and every table, as sorted text.
fn dump(client: &mut Client) -> Result<BTreeMap<String, Vec<String>>> {
    let relations = client.simple(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'v', 'p') ORDER BY 1",
    )?;
    let mut dump = BTreeMap::new();
    for name in relations.text().into_iter().flatten().flatten() {
        if OF_THE_MOMENT.iter().any(|it| name.ends_with(it)) {
            continue;
        }
        let reply =
            client.simple(&format!("SELECT * FROM {name}")).with_context(|| name.clone())?;
        let mut rows: Vec<String> = reply.text().iter().map(|row| format!("{row:?}")).collect();
        rows.sort();
        rows.insert(0, format!("{:?}", reply.columns));
        dump.insert(name, rows);
    }
    for sql in [
        "SELECT c.oid::regclass, pg_get_indexdef(c.oid) FROM pg_class c WHERE relkind = 'i' ORDER BY 2",
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint ORDER BY 1, 2",
        "SELECT schemaname, sequencename, start_value, min_value, max_value, increment_by, cycle FROM pg_sequences ORDER BY 1, 2",
        "SELECT pg_get_viewdef('sales.totals'::regclass)",
        "SELECT obj_description('hashed'::regclass), col_description('hashed'::regclass, 3)",
    ] {
        let rows = client.simple(sql)?.text();
        dump.insert(sql.to_owned(), rows.iter().map(|row| format!("{row:?}")).collect());
    }
    Ok(dump)
}

fn compare(
    before: &BTreeMap<String, Vec<String>>,
    after: &BTreeMap<String, Vec<String>>,
) -> Result<()> {
    ensure!(
        before.keys().eq(after.keys()),
        "other relations: {:?} {:?}",
        before.keys(),
        after.keys()
    );
    for (name, rows) in before {
        let now = &after[name];
        let gone: Vec<_> = rows.iter().filter(|row| !now.contains(row)).collect();
        let new: Vec<_> = now.iter().filter(|row| !rows.contains(row)).collect();
        ensure!(rows == now, "{name}: gone {gone:#?}\nnew {new:#?}");
    }
    Ok(())
}

#[test]
fn the_catalog_after_kill_9_is_the_catalog_before() -> Result<()> {
    let mut server = CortexServer::start(4)?;
    let mut client = server.connect()?;
    for sql in OBJECTS {
        client.simple(sql).with_context(|| (*sql).to_owned())?;
    }
    let before = dump(&mut client)?;
    println!("{} relations, {} rows", before.len(), before.values().map(Vec::len).sum::<usize>());
    // What a transaction did not commit is not part of it.
    client.simple(
        "BEGIN; CREATE TABLE never (a int PRIMARY KEY); ALTER TABLE hashed ADD COLUMN never int",
    )?;
    server.kill()?;
    server.restart()?;
    let mut client = server.connect()?;
    compare(&before, &dump(&mut client)?).context("after kill -9")?;
    server.stop()?;
    server.restart()?;
    let mut client = server.connect()?;
    compare(&before, &dump(&mut client)?).context("after SIGTERM")?;
    // And it works: defaults, keys, checks, cascades, sequences, which may leave numbers out but never give one twice.
    for (sql, expected) in [
        ("INSERT INTO sales.customers (name) VALUES ('Ann')", "23505"),
        ("INSERT INTO sales.customers (name, balance) VALUES ('Cat', -100)", "23514"),
        ("INSERT INTO sales.orders (customer) VALUES (99)", "23503"),
        ("INSERT INTO hashed VALUES (1, 1, 'twice')", "23505"),
        ("INSERT INTO next_to VALUES (99, 0)", "23514"),
        ("INSERT INTO sales.orders (customer, note) VALUES (1, 'x')", "23505"),
        ("SELECT * FROM never", "42P01"),
    ] {
        let error = client.simple(sql).err().with_context(|| format!("{sql} succeeded"))?;
        ensure!(error.code() == Some(expected), "{sql}: {error}");
    }
    let id =
        client.simple("INSERT INTO sales.customers (name) VALUES ('Dan') RETURNING id")?.text();
    ensure!(id[0][0].as_deref().and_then(|id| id.parse::<i64>().ok()) > Some(2), "{id:?}");
    let next = client.simple("SELECT nextval('sales.numbers')")?.text();
    ensure!(next[0][0].as_deref().and_then(|n| n.parse::<i64>().ok()) > Some(8), "{next:?}");
    client.simple("DELETE FROM sales.customers WHERE name = 'Ann'")?;
    let left = client.simple("SELECT count(*) FROM sales.orders")?.text();
    ensure!(left[0][0].as_deref() == Some("1"), "{left:?}");
    let added = client.simple("INSERT INTO hashed VALUES (1, 1000, 'new') RETURNING added")?.text();
    ensure!(added[0][0].as_deref() == Some("7"), "{added:?}");
    Ok(())
}
