//! What an analytic statement asks of the shards: one request for each where one does, all at a time, and one snapshot where a
//! statement comes to a shard more than once.
//!
//! An extra request to each shard is not seen in any answer. It is a round trip to other hosts for every query.

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::client::Client;

use super::Database;

const SHARDS: u32 = 4;

fn start() -> Result<(Database, Client)> {
    let database = Database::start(SHARDS)?;
    let mut client = database.connect()?;
    for sql in [
        "CREATE TABLE t (id int, k int, v int, PRIMARY KEY (id)) WITH (shard_by = 'hash(id)')",
        "CREATE TABLE u (id int PRIMARY KEY, w int) WITH (shard_by = 'hash(id)', colocate_with = 't')",
        "CREATE TABLE r (id int PRIMARY KEY, name text) WITH (shard_by = 'reference')",
        "INSERT INTO t SELECT g, g % 7, g % 10 FROM generate_series(1, 400) g",
        "INSERT INTO u SELECT g, g % 5 FROM generate_series(1, 400) g",
        "INSERT INTO r SELECT g, 'name ' || g FROM generate_series(0, 9) g",
        "SET statement_timeout = '20s'",
    ] {
        client.simple(sql).context(sql)?;
    }
    Ok((database, client))
}

/// A statement, and the requests that it is made of.
type Expected = (&'static str, &'static [(&'static str, u64)]);

const ALL: u64 = SHARDS as u64;

const STATEMENTS: &[Expected] = &[
    ("SELECT v, count(*) FROM t GROUP BY v", &[("execute", ALL)]),
    ("SELECT k FROM t ORDER BY v, k LIMIT 3", &[("execute", ALL)]),
    ("SELECT count(DISTINCT v) FROM t WHERE k > 1", &[("execute", ALL)]),
    ("SELECT v, sum(k) OVER (ORDER BY id) FROM t", &[("execute", ALL)]),
    ("SELECT count(*) FROM t WHERE id = 5", &[("execute", 1)]),
    ("SELECT count(*) FROM t WHERE id = 5 AND v IN (1, 2, 5)", &[("execute", 1)]),
    // Joins ask how many rows there are.
    ("SELECT count(*) FROM t JOIN u USING (id)", &[("execute", ALL), ("storage_stats", 2 * ALL)]),
    ("SELECT count(*) FROM t JOIN u USING (id) WHERE t.id = 5", &[("execute", 1)]),
    // Twice on each shard: one snapshot for both.
    (
        "SELECT v FROM t WHERE k = 1 UNION ALL SELECT w FROM u WHERE w = 1",
        &[("execute", 2 * ALL), ("open_snapshot", ALL)],
    ),
    (
        "SELECT count(*) FROM t WHERE v > (SELECT avg(v) FROM t)",
        &[("execute", 2 * ALL), ("open_snapshot", ALL)],
    ),
    ("SELECT 1", &[]),
];

#[test]
fn a_statement_asks_each_shard_as_little_as_it_can() -> Result<()> {
    let (database, mut client) = start()?;
    for (sql, expected) in STATEMENTS {
        database.faults.asked();
        client.simple(sql).context(*sql)?;
        let asked: Vec<_> = database.faults.asked().into_iter().collect();
        let seen: Vec<_> = asked.iter().filter(|it| it.0 != "storage_stats").collect();
        let wanted: Vec<_> = expected.iter().filter(|it| it.0 != "storage_stats").collect();
        ensure!(seen == wanted, "{sql}: {asked:?}");
        let counts = expected.iter().any(|it| it.0 == "storage_stats");
        let counted = asked.iter().any(|it| it.0 == "storage_stats");
        ensure!(
            !counted || counts || sql.contains("JOIN") || sql.contains("avg"),
            "{sql}: {asked:?}"
        );
    }
    // Inside of a transaction that has written it is the same, and sees what was written.
    client.simple("BEGIN")?;
    client.simple("UPDATE t SET v = 100 WHERE k = 3")?;
    database.faults.asked();
    let rows = client.simple("SELECT count(*) FROM t WHERE v = 100")?.text();
    ensure!(rows[0][0].as_deref() == Some("57"), "{rows:?}");
    let asked: Vec<_> = database.faults.asked().into_iter().collect();
    ensure!(asked == [("execute", ALL)], "{asked:?}");
    client.simple("ROLLBACK")?;
    Ok(())
}

#[test]
fn shards_are_opened_all_at_a_time() -> Result<()> {
    let (database, mut client) = start()?;
    for sql in [
        "SELECT v, count(*) FROM t GROUP BY v",
        "SELECT v FROM t ORDER BY v LIMIT 5",
        "SELECT v FROM t WHERE k = 1 UNION ALL SELECT w FROM u WHERE w = 1",
        "SELECT count(*) FROM t WHERE v > (SELECT avg(v) FROM t)",
        "INSERT INTO u SELECT id + 1000, v FROM t WHERE k = 2",
        "EXPLAIN ANALYZE SELECT sum(v) FROM t",
        "SET cortex.partial_reads = 'allow'",
        "SELECT v, count(*) FROM t GROUP BY v",
    ] {
        if !sql.starts_with("SET") {
            database.faults.expect_together(ALL);
        }
        client.simple(sql).with_context(|| format!("{sql}: one after the other"))?;
    }
    Ok(())
}

#[test]
fn an_insert_does_not_meet_its_own_rows() -> Result<()> {
    let (_database, mut client) = start()?;
    client.simple("SET cortex.batch_rows = 16")?;
    for round in 0..4 {
        let before = 400 << round;
        let sql = format!("INSERT INTO t SELECT id + {before}, k, v FROM t");
        let reply = client.simple(&sql)?;
        ensure!(reply.tag == format!("INSERT 0 {before}"), "{}", reply.tag);
    }
    Ok(())
}
