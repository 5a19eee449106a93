//! A table changes its kind while it is read and written: readers see all of it, old or new; writers wait; a cancel, a
//! timeout and a crash leave it as it was.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cortex_sql_tests::{
    CortexServer,
    client::{Client, ClientError},
};

/// Enough for a change to take a good part of a second in a debug build.
const ROWS: i64 = 100_000;

const TO_HASH: &str = "SELECT create_distributed_table('t', 'tenant', colocate_with => 'none')";

fn value(client: &mut Client, sql: &str) -> Result<String> {
    let text = client.simple(sql).with_context(|| sql.to_owned())?.text();
    Ok(text.into_iter().flatten().map(|v| v.unwrap_or_default()).collect::<Vec<_>>().join(" "))
}

/// Code of the error that a statement must end with.
fn code(client: &mut Client, sql: &str) -> Result<String> {
    match client.simple(sql) {
        Ok(reply) => bail!("{sql} answered {}", reply.tag),
        Err(ClientError::Db(error)) => Ok(error.code),
        Err(error) => Err(error).with_context(|| sql.to_owned()),
    }
}

fn start() -> Result<(CortexServer, Client)> {
    let server = CortexServer::start(4)?;
    let mut client = server.connect()?;
    for sql in [
        "CREATE TABLE t (tenant int8, id int8, v int8, PRIMARY KEY (tenant, id))",
        "CREATE INDEX t_v ON t (v)",
        "CREATE TABLE names (tenant int8 PRIMARY KEY, name text) WITH (shard_by = 'reference')",
        "INSERT INTO names SELECT g, 'name ' || g FROM generate_series(0, 19) g",
        &format!("INSERT INTO t SELECT g % 20, g, 1 FROM generate_series(1, {ROWS}) g"),
    ] {
        client.simple(sql).with_context(|| sql.to_owned())?;
    }
    Ok((server, client))
}

#[test]
fn readers_go_on_and_see_the_table_whole() -> Result<()> {
    let (server, mut client) = start()?;
    let (ended, inserted, reads) = (AtomicBool::new(false), AtomicI64::new(0), AtomicI64::new(0));
    thread::scope(|scope| {
        let mut others = Vec::new();
        // Every row has v = 1 and every tenant as many rows as the others: any part of the table would show.
        for sql in [
            "SELECT count(*) - sum(v), count(*) % 20 FROM t WHERE id <= 24000",
            "SELECT count(*) % 1200, count(*) / 24000 - 1 FROM t WHERE v = 1 AND id <= 24000",
            "SELECT count(*) - 24000, 0 FROM t JOIN names USING (tenant) WHERE id <= 24000",
            "SELECT v - 1, 0 FROM t WHERE tenant = 7 AND id = 4007",
        ] {
            let mut reader = server.connect()?;
            let (ended, reads) = (&ended, &reads);
            others.push(scope.spawn(move || -> Result<()> {
                while !ended.load(Ordering::SeqCst) {
                    let found = value(&mut reader, sql)?;
                    ensure!(found == "0 0", "{sql}: {found}");
                    reads.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            }));
        }
        let mut writer = server.connect()?;
        let (over, done) = (&ended, &inserted);
        others.push(scope.spawn(move || -> Result<()> {
            while !over.load(Ordering::SeqCst) {
                let id = ROWS + 1 + done.load(Ordering::SeqCst);
                writer.simple(&format!("INSERT INTO t VALUES ({}, {id}, 1)", id % 20))?;
                done.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        }));
        let changed = (|| -> Result<()> {
            for sql in [
                TO_HASH,
                "SELECT create_reference_table('t')",
                "ALTER TABLE t SET (shard_by = 'range(tenant)', split_at = '5, 10, 15')",
                "SELECT create_distributed_table('t', 'tenant')",
                "SELECT undistribute_table('t')",
            ] {
                let (before, begun) = (reads.load(Ordering::SeqCst), Instant::now());
                client.simple(sql).with_context(|| sql.to_owned())?;
                let between = reads.load(Ordering::SeqCst) - before;
                ensure!(between > 0, "nobody read during {:?} of {sql}", begun.elapsed());
                thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        })();
        ended.store(true, Ordering::SeqCst);
        for other in others {
            other.join().map_err(|_| anyhow!("a session panicked"))??;
        }
        changed
    })?;
    let inserted = inserted.load(Ordering::SeqCst);
    ensure!(inserted > 0, "nothing was written");
    let found = value(&mut client, "SELECT count(*), count(DISTINCT id), sum(v) FROM t")?;
    let all = ROWS + inserted;
    ensure!(found == format!("{all} {all} {all}"), "{found}, not {all}");
    Ok(())
}

#[test]
fn a_change_shows_how_far_it_is_and_can_be_ended() -> Result<()> {
    let (server, mut client) = start()?;
    let mut other = server.connect()?;
    let watch = "SELECT to_kind, phase, rows_done > 0, rows_total FROM cortex.table_changes";
    // A statement that is ended in the middle leaves the table as it was, for readers and for writers.
    for end in ["timeout", "cancel", "rollback"] {
        let key = client.cancel_key.clone();
        let seen = thread::scope(|scope| -> Result<bool> {
            let watching = scope.spawn(|| -> Result<bool> {
                let begun = Instant::now();
                let copying = format!("hash(tenant) copying rows t {ROWS}");
                while begun.elapsed() < Duration::from_secs(10) {
                    let seen = value(&mut other, watch)?;
                    if seen == copying {
                        if end == "cancel" {
                            key.cancel()?;
                        }
                        return Ok(true);
                    }
                }
                Ok(false)
            });
            match end {
                "timeout" => {
                    client.simple("SET statement_timeout = '250ms'")?;
                    ensure!(code(&mut client, TO_HASH)? == "57014");
                    client.simple("SET statement_timeout = 0")?;
                }
                "cancel" => ensure!(code(&mut client, TO_HASH)? == "57014"),
                _ => {
                    client.simple("BEGIN")?;
                    client.simple(TO_HASH)?;
                    client.simple("ROLLBACK")?;
                }
            }
            watching.join().map_err(|_| anyhow!("the watcher panicked"))?
        })?;
        ensure!(seen, "{end}: the change was not seen");
        ensure!(value(&mut other, watch)?.is_empty(), "{end}: it is still shown");
        let placement = "SELECT placement FROM cortex.tables WHERE table_name = 't'";
        ensure!(value(&mut other, placement)? == "home", "{end}");
        other.simple("SET lock_timeout = '2s'")?;
        ensure!(other.simple("UPDATE t SET v = 1")?.tag == format!("UPDATE {ROWS}"), "{end}");
    }
    // A writer waits for the change, no longer than it wants to; a reader does not.
    client.simple("BEGIN")?;
    client.simple(TO_HASH)?;
    other.simple("SET lock_timeout = '100ms'")?;
    ensure!(code(&mut other, "UPDATE t SET v = 2 WHERE tenant = 1 AND id = 1")? == "55P03");
    ensure!(value(&mut other, "SELECT count(*) FROM t")? == ROWS.to_string());
    other.simple("SET lock_timeout = 0")?;
    thread::scope(|scope| {
        let waiting =
            scope.spawn(|| other.simple("UPDATE t SET v = 2 WHERE tenant = 1 AND id = 1"));
        thread::sleep(Duration::from_millis(300));
        client.simple("COMMIT")?;
        let reply = waiting.join().map_err(|_| anyhow!("the writer panicked"))??;
        ensure!(reply.tag == "UPDATE 1", "{}", reply.tag);
        Ok(())
    })?;
    ensure!(value(&mut client, "SELECT sum(v) FROM t")? == (ROWS + 1).to_string());
    Ok(())
}

#[test]
fn kill_9_leaves_the_table_as_before_or_as_after() -> Result<()> {
    let (mut server, mut client) = start()?;
    let mut kinds = Vec::new();
    for delay in [50, 200, 400] {
        let process = &mut server;
        thread::scope(|scope| -> Result<()> {
            // It ends with the server, somehow.
            let changing = scope.spawn(|| drop(client.simple(TO_HASH)));
            thread::sleep(Duration::from_millis(delay));
            process.kill()?;
            changing.join().map_err(|_| anyhow!("the session panicked"))
        })?;
        server.restart()?;
        client = server.connect()?;
        kinds.push(value(
            &mut client,
            "SELECT placement FROM cortex.tables WHERE table_name = 't'",
        )?);
        let found = value(&mut client, "SELECT count(*), count(DISTINCT id), sum(v) FROM t")?;
        ensure!(found == format!("{ROWS} {ROWS} {ROWS}"), "after {delay} ms: {found}");
        ensure!(client.simple("UPDATE t SET v = 1")?.tag == format!("UPDATE {ROWS}"));
        client.simple("SELECT undistribute_table('t')")?;
    }
    ensure!(kinds.iter().any(|kind| kind == "home"), "no kill came in time: {kinds:?}");
    // What the interrupted ones had copied is gone, or going.
    let begun = Instant::now();
    loop {
        let bytes = "SELECT pg_total_relation_size('t') * 3 > sum(bytes) FROM cortex.shards";
        if value(&mut client, bytes)? == "t" {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "copies are left behind");
        thread::sleep(Duration::from_millis(200));
    }
}
