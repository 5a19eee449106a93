//! Two gateways of one cluster: schema changes in one, statements in the other, one answer in both.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{ClientError, ClusterServer};

/// Schema changes while the other gateway writes.
const CHANGES: u32 = 12;

#[test]
fn a_change_in_one_gateway_is_there_in_the_other() -> Result<()> {
    let _alone = super::alone();
    let cluster = ClusterServer::start(3, 2)?;
    let mut one = cluster.connect(1)?;
    let mut two = cluster.connect(2)?;
    for placement in ["", " WITH (shard_by = 'hash(id)')", " WITH (shard_by = 'reference')"] {
        one.simple(&format!("CREATE TABLE t (id int PRIMARY KEY, a int){placement}"))?;
        two.simple("INSERT INTO t SELECT g, g FROM generate_series(1, 100) g")?;
        one.simple("ALTER TABLE t ADD COLUMN b text DEFAULT 'x'")?;
        let row = two.simple("SELECT * FROM t WHERE id = 7")?.text();
        ensure!(row == [[Some("7".to_owned()), Some("7".into()), Some("x".into())]], "{row:?}");
        two.simple("CREATE UNIQUE INDEX t_a ON t (id, a)")?;
        let plan = one.simple("INSERT INTO t VALUES (7, 7, 'twice')");
        ensure!(plan.err().is_some_and(|error| error.code() == Some("23505")));
        // A plan that was prepared before the change is made again.
        let counted = two.extended("SELECT count(*) FROM t WHERE a > 50", &[], false)?.text();
        ensure!(counted == [[Some("50".to_owned())]]);
        one.simple("ALTER TABLE t DROP COLUMN a CASCADE")?;
        let gone = two.extended("SELECT count(*) FROM t WHERE a > 50", &[], false);
        ensure!(gone.err().is_some_and(|error| error.code() == Some("42703")));
        two.simple("DROP TABLE t")?;
        let gone = one.simple("SELECT * FROM t");
        ensure!(gone.err().is_some_and(|error| error.code() == Some("42P01")));
    }
    // Objects without rows.
    one.simple("CREATE SEQUENCE s; CREATE VIEW v AS SELECT 1 AS one; CREATE SCHEMA other")?;
    let first = two.simple("SELECT nextval('s')")?.text();
    let second = one.simple("SELECT nextval('s')")?.text();
    ensure!(first != second, "both gateways gave out {first:?}");
    ensure!(two.simple("SELECT one FROM v")?.rows.len() == 1);
    two.simple("CREATE TABLE other.t (a int)")?;
    ensure!(one.simple("SELECT * FROM other.t")?.rows.is_empty());
    Ok(())
}

#[test]
fn writes_go_on_while_the_other_gateway_changes_the_table() -> Result<()> {
    let _alone = super::alone();
    let cluster = ClusterServer::start(3, 2)?;
    let mut changer = cluster.connect(1)?;
    changer.simple(
        "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL) WITH (shard_by = 'hash(id)')",
    )?;
    changer.simple("CREATE TABLE u (id int PRIMARY KEY)")?;
    let target = cluster.target(2)?;
    let stop = AtomicBool::new(false);
    let n_written = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = cortex_sql_tests::Client::connect(&target)?;
            let mut n_written = 0_i64;
            let mut id = 0;
            while !stop.load(Ordering::Relaxed) {
                id += 1;
                match client.simple(&format!("INSERT INTO t (id, v) VALUES ({id}, {id})")) {
                    Ok(_) => n_written += 1,
                    // A statement that has met too many changes may say so; it must have left nothing.
                    Err(ClientError::Db(error)) if error.code == "40001" => {}
                    Err(error) => return Err(error).context("writing"),
                }
            }
            anyhow::Ok(n_written)
        });
        let changed = (0..CHANGES).try_for_each(|n| {
            changer.simple(&format!("ALTER TABLE t ADD COLUMN c{n} int DEFAULT {n}"))?;
            changer.simple(&format!("CREATE INDEX t_c{n} ON t (c{n})"))?;
            if n % 3 == 2 {
                changer.simple(&format!("ALTER TABLE t DROP COLUMN c{}", n - 1))?;
            }
            anyhow::Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        changed?;
        written
    })
    .with_context(|| cluster.logs())?;
    println!("{n_written} rows were written over {CHANGES} changes");
    for gateway in 1..=2 {
        let mut client = cluster.connect(gateway)?;
        for sql in [
            "SELECT count(*) FROM t",
            "SELECT count(*) FROM t WHERE c0 = 0",
            "SELECT count(*) FROM t WHERE v = id AND c11 BETWEEN 11 AND 11",
        ] {
            let rows = client.simple(sql)?.text();
            ensure!(rows == [[Some(n_written.to_string())]], "{sql}: {rows:?}, not {n_written}");
        }
    }
    Ok(())
}
