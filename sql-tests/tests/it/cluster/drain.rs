//! The home shard is emptied while it serves and processes die, and taken out for good: with it go the primary copies of
//! reference tables, and nothing that was acknowledged is lost.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{Client, ClusterServer, client::Target, cluster::Node};

/// With everything that is done to it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);
/// Between blows, and how long a process stays away.
const PAUSE: Duration = Duration::from_millis(600);

/// Numbers in the reference table: those that were acknowledged, and those of which nobody knows.
#[derive(Default)]
struct Written {
    known: BTreeSet<i64>,
    maybe: BTreeSet<i64>,
}

fn write(target: &Target, stop: &AtomicBool, worker: i64) -> Result<Written> {
    let mut written = Written::default();
    let mut client = Client::connect(target).ok();
    let mut n = worker * 1_000_000;
    while !stop.load(Ordering::Relaxed) {
        let Some(session) = &mut client else {
            thread::sleep(Duration::from_millis(50));
            client = Client::connect(target).ok();
            continue;
        };
        n += 1;
        // With a home table: one shard's transaction, wherever both are.
        let sql =
            format!("BEGIN; INSERT INTO r VALUES ({n}); INSERT INTO home VALUES ({n}); COMMIT");
        match session.simple(&sql) {
            Ok(_) => drop(written.known.insert(n)),
            Err(error) => match error.code() {
                // Nothing of it was done.
                Some("40001") => drop(session.simple("ROLLBACK")),
                Some("58000" | "40003" | "57P01" | "55P03") => {
                    written.maybe.insert(n);
                    let _ = session.simple("ROLLBACK");
                }
                Some(_) => return Err(error).context(sql),
                None => {
                    written.maybe.insert(n);
                    client = None;
                }
            },
        }
    }
    Ok(written)
}

fn number(client: &mut Client, sql: &str) -> Result<i64> {
    let rows = client.simple(sql).with_context(|| sql.to_owned())?.text();
    let value = rows.first().and_then(|row| row.first().cloned().flatten());
    value.with_context(|| format!("NULL: {sql}"))?.parse().context("a number")
}

#[test]
fn the_home_shard_is_drained_under_load_and_taken_out() -> Result<()> {
    let _alone = super::alone();
    let mut cluster = ClusterServer::start(3, 2)?;
    let mut client = cluster.connect(1)?;
    for sql in [
        "CREATE TABLE r (id int8 PRIMARY KEY) WITH (shard_by = 'reference')",
        "CREATE TABLE home (id int8 PRIMARY KEY REFERENCES r, at timestamptz DEFAULT now())",
        "CREATE TABLE h (id int PRIMARY KEY, r int8 REFERENCES r) WITH (shard_by = 'hash(id)')",
        "INSERT INTO r SELECT generate_series(1, 3000)",
        "INSERT INTO h SELECT g, g FROM generate_series(1, 3000) g",
    ] {
        client.simple(sql).context(sql)?;
    }
    drop(client);
    let targets = [cluster.target(1)?, cluster.target(2)?];
    let stop = AtomicBool::new(false);
    let (drained, written) = thread::scope(|scope| {
        let writers: Vec<_> = targets
            .iter()
            .zip(1..)
            .map(|(target, worker)| {
                let stop = &stop;
                scope.spawn(move || write(target, stop, worker))
            })
            .collect();
        let drained = drain(&mut cluster);
        stop.store(true, Ordering::Relaxed);
        let written: Result<Vec<Written>> = writers
            .into_iter()
            .map(|writer| writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
            .collect();
        (drained, written)
    });
    drained.with_context(|| cluster.logs())?;
    let written = written.with_context(|| cluster.logs())?;
    remove(&mut cluster).with_context(|| cluster.logs())?;
    cluster.kill(Node::Shard(1))?;
    for gateway in 1..=2 {
        let mut client = cluster.connect(gateway)?;
        // By way of the copies on both shards, and from the primary copy.
        let by_copies = "SELECT count(*) FROM h JOIN r ON r.id = h.r";
        ensure!(number(&mut client, by_copies)? == 3000);
        let found = client.simple("SELECT r.id FROM r JOIN home USING (id)")?.text();
        let found: BTreeSet<i64> =
            found.iter().filter_map(|row| row[0].as_deref()?.parse().ok()).collect();
        for written in &written {
            let lost: Vec<_> = written.known.difference(&found).collect();
            ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        }
        let n_maybe: usize = written.iter().map(|it| it.maybe.len()).sum();
        let n_known: usize = written.iter().map(|it| it.known.len()).sum();
        ensure!(n_known > 0 && found.len() <= n_known + n_maybe, "{} rows", found.len());
        println!("{n_known} transactions acknowledged, {n_maybe} unknown, {} found", found.len());
        let all = number(&mut client, "SELECT count(*) FROM r")?;
        ensure!(all == 3000 + found.len() as i64, "{all} rows in the reference table");
    }
    let mut client = cluster.connect(2)?;
    for sql in [
        "CREATE TABLE later (id int PRIMARY KEY) WITH (shard_by = 'reference')",
        "INSERT INTO later VALUES (1)",
        "CREATE SCHEMA s",
        "CREATE TABLE s.t (id serial PRIMARY KEY)",
        "INSERT INTO s.t DEFAULT VALUES",
        "DROP TABLE h",
        "DELETE FROM home",
        "DELETE FROM r WHERE id <= 3000",
    ] {
        client.simple(sql).context(sql)?;
    }
    Ok(())
}

/// Empties shard 1 while one process after the other dies.
fn drain(cluster: &mut ClusterServer) -> Result<()> {
    thread::sleep(PAUSE);
    let moves = number(&mut cluster.connect(1)?, "SELECT cortex.drain_shard(1)")?;
    ensure!(moves > 1, "{moves} moves");
    let victims = [
        Node::Shard(1),
        Node::Gateway(1),
        Node::Shard(2),
        Node::Meta,
        Node::Shard(3),
        Node::Gateway(2),
    ];
    let since = Instant::now();
    let mut victims = victims.into_iter();
    loop {
        if let Some(node) = victims.next() {
            println!("kill -9 {node}, {} moves are open", open(cluster).unwrap_or(-1));
            cluster.kill(node)?;
            thread::sleep(PAUSE / 2);
            cluster.restart(node)?;
        } else if open(cluster).is_ok_and(|open| open == 0) {
            return Ok(());
        }
        let status = "SELECT subject, phase, error FROM cortex.rebalance_status()";
        ensure!(
            since.elapsed() < DRAIN_TIMEOUT,
            "{:?}",
            cluster.connect(1)?.simple(status)?.text()
        );
        thread::sleep(PAUSE);
    }
}

fn open(cluster: &ClusterServer) -> Result<i64> {
    let sql =
        "SELECT count(*) FROM cortex.rebalance_status() WHERE phase NOT IN ('done', 'aborted')";
    number(&mut cluster.connect(1)?, sql)
}

fn remove(cluster: &mut ClusterServer) -> Result<()> {
    let mut client = cluster.connect(1)?;
    client.simple("SELECT cortex.remove_shard(1)").context("remove_shard")?;
    let left = number(&mut client, "SELECT count(*) FROM cortex.placements WHERE shard_id = 1")?;
    ensure!(left == 0, "{left} tables have something on it");
    Ok(())
}
