//! Reference tables whose copies are behind: what was committed is waited for, and never a part of it shown.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    thread,
    time::{Duration, Instant},
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
fn a_write_that_changed_nothing_of_a_reference_table_keeps_nobody_waiting() -> Result<()> {
    let (_database, mut client) = start()?;
    for sql in [
        "CREATE TABLE h (id int8 PRIMARY KEY)",
        "SET lock_timeout = '3s'",
        "BEGIN",
        "UPDATE r SET v = 9 WHERE id = 999",
        "INSERT INTO h VALUES (1)",
        "COMMIT",
    ] {
        client.simple(sql).context(sql)?;
    }
    ensure!(joined(&mut client)? == (30, 0));
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

/// The primary copy goes from shard to shard while it is written, and copies are read: none shows less than what was
/// acknowledged, and foreign keys hold on all sides.
#[test]
fn a_primary_copy_moves_while_it_is_written_and_its_copies_are_read() -> Result<()> {
    const MOVES: i64 = 8;
    let (database, mut client) = start()?;
    for sql in [
        "INSERT INTO r SELECT g, 0 FROM generate_series(2, 500) g",
        "CREATE INDEX ON r (v)",
        "ALTER TABLE f ADD FOREIGN KEY (r) REFERENCES r",
        "CREATE TABLE log (n int8, note text) WITH (shard_by = 'reference')",
        "CREATE TABLE home (id int8 PRIMARY KEY, r int8 REFERENCES r ON DELETE CASCADE)",
    ] {
        client.simple(sql).context(sql)?;
    }
    let (done, written, slowest) = (AtomicBool::new(false), AtomicI64::new(0), AtomicI64::new(0));
    let insist = |client: &mut Client, statements: &[String]| -> Result<()> {
        loop {
            match statements.iter().try_for_each(|sql| client.simple(sql).map(drop)) {
                Ok(()) => return Ok(()),
                Err(error) if error.code() == Some("40001") => drop(client.simple("ROLLBACK")?),
                Err(error) => anyhow::bail!("{statements:?}: {error}"),
            }
        }
    };
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<()> {
            let mut writer = database.connect()?;
            let mut n = 0;
            while !done.load(Ordering::SeqCst) {
                n += 1;
                let statements = [
                    "BEGIN".to_owned(),
                    format!("UPDATE r SET v = {n} WHERE id = 1"),
                    format!("INSERT INTO log VALUES ({n}, 'x')"),
                    format!("INSERT INTO home VALUES ({n}, {})", 1 + n % 500),
                    "COMMIT".to_owned(),
                ];
                let begun = Instant::now();
                insist(&mut writer, &statements)?;
                slowest.fetch_max(begun.elapsed().as_millis() as i64, Ordering::SeqCst);
                written.store(n, Ordering::SeqCst);
            }
            Ok(())
        });
        let child = scope.spawn(|| -> Result<()> {
            let mut writer = database.connect()?;
            let mut n = 1000;
            while !done.load(Ordering::SeqCst) {
                n += 1;
                let parent = format!("INSERT INTO r VALUES ({n}, 0)");
                insist(&mut writer, &[parent])?;
                insist(&mut writer, &[format!("INSERT INTO f VALUES ({n}, {n})")])?;
                let orphan = format!("INSERT INTO f VALUES (-{n}, -1)");
                let refused = code(writer.simple(&orphan));
                ensure!(matches!(refused.as_deref(), Some("23503" | "40001")), "{refused:?}");
            }
            Ok(())
        });
        let reader = scope.spawn(|| -> Result<()> {
            let mut reader = database.connect()?;
            while !done.load(Ordering::SeqCst) {
                let least = written.load(Ordering::SeqCst);
                for id in [1, 3, 5, 7, 9] {
                    // One row of `f`, on whichever shard, and its parent in the copy there.
                    let sql = format!("SELECT max(r.v), (SELECT count(*) FROM log) FROM f JOIN r ON r.id = 1 WHERE f.id = {id}");
                    let row = first_row(&mut reader, &sql)?;
                    let seen: Vec<i64> =
                        row.iter().map(|it| Ok(it.as_deref().context("NULL")?.parse()?)).collect::<Result<_>>()?;
                    ensure!(seen.iter().all(|it| *it >= least), "{seen:?}, {least} are acknowledged");
                }
            }
            Ok(())
        });
        let moved = (0..MOVES).try_for_each(|n| {
            let sql = format!("SELECT cortex.move_schema('public', {})", 1 + (n + 1) % 3);
            client.simple(&sql).map(drop).context(sql)
        });
        done.store(true, Ordering::SeqCst);
        for thread in [writer, child, reader] {
            thread.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        }
        moved
    })?;
    let n = written.load(Ordering::SeqCst).to_string();
    let (one, all) = ("SELECT max(v) FROM r WHERE id = 1", "SELECT count(*), sum(1) FROM log");
    ensure!(first_row(&mut client, one)? == [Some(n.clone())]);
    ensure!(first_row(&mut client, all)? == [Some(n.clone()), Some(n.clone())]);
    ensure!(
        first_row(&mut client, "SELECT count(*) FROM home JOIN r ON r.id = home.r")? == [Some(n)]
    );
    let orphans = "SELECT count(*) FROM f LEFT JOIN r ON r.id = f.r WHERE r.id IS NULL";
    ensure!(first_row(&mut client, orphans)? == [Some("0".to_owned())]);
    let verified = "SELECT count(*) FROM cortex.verify(1) WHERE target_rows + source_rows > 0";
    ensure!(first_row(&mut client, verified)?.len() == 1);
    // Rows of `f` on other shards refer to it; without them its parents can go, with what refers to them at home.
    let delete = "DELETE FROM r WHERE id = 20";
    ensure!(code(client.simple(delete)).as_deref() == Some("0A000"));
    client.simple("DROP TABLE f")?;
    client.simple(delete)?;
    ensure!(
        first_row(&mut client, "SELECT count(*) FROM home WHERE r = 20")? == [Some("0".to_owned())]
    );
    let slowest = slowest.load(Ordering::SeqCst);
    let stall = first_row(
        &mut client,
        "SELECT ceil(max(write_stall_ms))::int8 FROM cortex.rebalance_status()",
    )?;
    println!("{:?} writes, the slowest took {slowest} ms; longest cutover {stall:?} ms", written);
    let stall: i64 = stall[0].as_deref().context("NULL")?.parse()?;
    ensure!(stall < 1000, "{stall} ms");
    Ok(())
}

#[test]
fn a_move_of_a_primary_copy_that_is_given_up_leaves_all_as_it_was() -> Result<()> {
    let (database, mut client) = start()?;
    client.simple("INSERT INTO r SELECT g, 0 FROM generate_series(2, 2000) g")?;
    // It cannot be cut over while this one is in its way again and again; a copy that does not follow keeps it from trying.
    database.faults.hold_changes(true);
    let id = first_row(&mut client, "SELECT cortex.move_schema('public', 2, false)")?;
    let id = id[0].clone().context("NULL")?;
    let phase = format!("SELECT phase FROM cortex.rebalance_status() WHERE move = {id}");
    let begun = Instant::now();
    while first_row(&mut client, &phase)? != [Some("following".to_owned())] {
        ensure!(begun.elapsed() < Duration::from_secs(30), "{:?}", first_row(&mut client, &phase)?);
        thread::sleep(Duration::from_millis(10));
    }
    let verified = format!("SELECT bool_and(is_equal), count(*) FROM cortex.verify({id})");
    ensure!(first_row(&mut client, &verified)? == [Some("t".to_owned()), Some("1".to_owned())]);
    thread::sleep(Duration::from_millis(300));
    ensure!(first_row(&mut client, &phase)? == [Some("following".to_owned())]);
    client.simple("UPDATE r SET v = 5 WHERE id = 1")?;
    client.simple(&format!("SELECT cortex.abort({id})"))?;
    database.faults.hold_changes(false);
    ensure!(joined(&mut client)? == (60, 150), "{:?}", joined(&mut client)?);
    let primary = "SELECT shard_id FROM cortex.placements WHERE table_name = 'r' AND is_primary";
    ensure!(first_row(&mut client, primary)? == [Some("1".to_owned())]);
    client.simple("SELECT cortex.move_schema('public', 2)")?;
    ensure!(first_row(&mut client, primary)? == [Some("2".to_owned())]);
    ensure!(joined(&mut client)? == (60, 150));
    Ok(())
}
