//! Reference tables whose copies are behind: what was committed is waited for, and never a part of it shown.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::client::{Client, ClientError};

use super::{Database, faulty::Fault};

const SHARDS: u32 = 3;

/// `f` with 60 rows over all shards, `r` with what each of them refers to.
fn start() -> Result<(Database, Client)> {
    let database = Database::start(SHARDS)?;
    let mut client = database.connect()?;
    for sql in [
        "CREATE TABLE r (id int8 PRIMARY KEY, v int8) WITH (shard_by = 'reference')",
        "CREATE TABLE f (id int8 PRIMARY KEY, r int8) WITH (shard_by = 'hash(id)')",
        "INSERT INTO f SELECT g, 1 + g % 2 FROM generate_series(1, 60) g",
        "INSERT INTO r VALUES (1, 0)",
    ] {
        client.simple(sql).context(sql)?;
    }
    Ok((database, client))
}

const JOINED: &str = "SELECT count(*), sum(r.v) FROM f JOIN r ON r.id = f.r";

fn first_row(client: &mut Client, sql: &str) -> Result<Vec<Option<String>>> {
    client.simple(sql)?.text().into_iter().next().context("no row")
}

fn joined(client: &mut Client) -> Result<(i64, i64)> {
    match &first_row(client, JOINED)?[..] {
        [Some(count), Some(sum)] => Ok((count.parse()?, sum.parse()?)),
        other => anyhow::bail!("{other:?}"),
    }
}

fn code(result: Result<impl Sized, ClientError>) -> Option<String> {
    result.err().and_then(|error| error.code().map(str::to_owned))
}

#[test]
fn a_copy_that_is_behind_is_waited_for_within_bounds() -> Result<()> {
    let (database, mut client) = start()?;
    let mut other = database.connect()?;
    ensure!(joined(&mut client)? == (30, 0));
    database.faults.hold_changes(true);
    client.simple("INSERT INTO r VALUES (2, 5)")?;
    // The primary copy has it; a copy is waited for, in this session and in others.
    ensure!(first_row(&mut client, "SELECT count(*) FROM r")? == [Some("2".to_owned())]);
    for session in [&mut client, &mut other] {
        session.simple("SET lock_timeout = '200ms'")?;
        ensure!(code(session.simple(JOINED)).as_deref() == Some("55P03"));
        session.simple("SET lock_timeout = 0")?;
        session.simple("SET statement_timeout = '200ms'")?;
        ensure!(code(session.simple(JOINED)).as_deref() == Some("57014"));
        session.simple("SET statement_timeout = 0")?;
    }
    // A transaction that wrote reads the primary copy alone, so it need not wait.
    client.simple("BEGIN")?;
    client.simple("UPDATE r SET v = 7 WHERE id = 2")?;
    ensure!(joined(&mut client)? == (60, 210));
    client.simple("ROLLBACK")?;
    thread::scope(|scope| {
        let waits = scope.spawn(|| joined(&mut other));
        thread::sleep(Duration::from_millis(300));
        database.faults.hold_changes(false);
        let seen = waits.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        ensure!(seen == (60, 150), "{seen:?}");
        Ok(())
    })
}

#[test]
fn a_write_commits_with_home_tables_on_one_shard_or_not_at_all() -> Result<()> {
    let (database, mut client) = start()?;
    client.simple("CREATE TABLE h (id int8 PRIMARY KEY)")?;
    client.simple("SET cortex.multi_shard_writes = 'strict'")?;
    for (fault, expected, after) in [
        (Some(Fault::Refuse), "58000", (30, 0)),
        (Some(Fault::LoseRequest), "40003", (30, 0)),
        (Some(Fault::LoseAnswer), "40003", (60, 30)),
    ] {
        client.simple("BEGIN")?;
        client.simple("INSERT INTO h VALUES (1)")?;
        client.simple("INSERT INTO r VALUES (2, 1)")?;
        database.faults.plan(fault.map(|fault| (1, fault)));
        ensure!(code(client.simple("COMMIT")).as_deref() == Some(expected));
        ensure!(database.faults.commits() == 1, "one shard is asked to commit");
        // By way of copies on all shards, also when nobody was told that it was committed.
        let seen = joined(&mut client)?;
        ensure!(seen == after, "{fault:?}: {seen:?}");
        let rows = first_row(&mut client, "SELECT count(*) FROM h")?;
        ensure!(rows == [Some(i64::from(after.0 == 60).to_string())], "{fault:?}: {rows:?}");
    }
    Ok(())
}

#[test]
fn readers_beside_writers_see_whole_transactions_in_order() -> Result<()> {
    const ROUNDS: i64 = 60;
    let (database, mut client) = start()?;
    client.simple("INSERT INTO r VALUES (2, 0)")?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Each moves as much from one row to the other as it counts up in both.
        let writers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut writer = database.connect()?;
                    for _ in 0..ROUNDS {
                        writer.simple("BEGIN")?;
                        writer.simple("UPDATE r SET v = v + 3 WHERE id = 1")?;
                        writer.simple("UPDATE r SET v = v - 2 WHERE id = 2")?;
                        writer.simple("COMMIT")?;
                    }
                    Ok(())
                })
            })
            .collect();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut reader = database.connect()?;
                    let mut last = 0;
                    while !done.load(Ordering::SeqCst) {
                        // On each shard's own snapshot both rows are of one moment: 3 up and 2 down, k times.
                        let sql = "SELECT f.id, sum(r.v) FILTER (WHERE r.id = 1) * 2 + sum(r.v) FILTER (WHERE r.id = 2) * 3, \
                                   max(r.v) FROM f CROSS JOIN r WHERE f.id = 7 GROUP BY f.id";
                        let row = first_row(&mut reader, sql)?;
                        let [_, Some(torn), Some(up)] = &row[..] else { anyhow::bail!("{row:?}") };
                        ensure!(torn == "0", "half of a transaction: {row:?}");
                        let up: i64 = up.parse()?;
                        ensure!(up >= last, "back from {last} to {up}");
                        last = up;
                    }
                    Ok(())
                })
            })
            .collect();
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        }
        done.store(true, Ordering::SeqCst);
        for reader in readers {
            reader.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        }
        anyhow::Ok(())
    })?;
    let seen = joined(&mut client)?;
    ensure!(seen == (60, 30 * 2 * ROUNDS), "{seen:?}");
    Ok(())
}
