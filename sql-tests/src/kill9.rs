//! Rounds of kill -9 under load: five in the normal run of the tests, as many as wanted with `cargo xtask kill9`.
//!
//! Writers insert, update and delete rows of their own and note what was acknowledged. After the kill and a restart every
//! acknowledged state must be there, the statement in flight may or may not be, and an index must agree with its table.
//! This keeps the page cache, so it proves less than the crash images of the shard log's tests; it proves the whole process.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{Client, ClientError, CortexServer, client::Target};

const WRITERS: i64 = 4;
/// Keys of one writer; few, so that rows change often.
const KEYS: i64 = 200;
const SHARDS: usize = 4;

/// What a writer knows: acknowledged values by key, and the statement whose answer never came.
#[derive(Default)]
struct Known {
    values: BTreeMap<i64, Option<i64>>,
    in_flight: Option<(i64, Option<i64>)>,
}

/// Starts a server, and kills it so often.
pub fn run(rounds: u32) -> Result<()> {
    let mut server = CortexServer::start(SHARDS)?;
    let mut client = server.connect()?;
    client.simple("CREATE TABLE k (id int8 PRIMARY KEY, v int8) WITH (shard_by = 'hash(id)')")?;
    client.simple("CREATE INDEX k_v ON k (v)")?;
    drop(client);
    let mut known: Vec<Known> = (0..WRITERS).map(|_| Known::default()).collect();
    for round in 1..=rounds {
        let stop = AtomicBool::new(false);
        let target = server.target.clone();
        let n_acknowledged = thread::scope(|scope| {
            let writers: Vec<_> = known
                .iter_mut()
                .enumerate()
                .map(|(w, known)| {
                    let (target, stop) = (&target, &stop);
                    scope.spawn(move || write(target, w as i64, round, known, stop))
                })
                .collect();
            thread::sleep(Duration::from_millis(500 + u64::from(round) * 137 % 700));
            server.kill()?;
            stop.store(true, Ordering::Relaxed);
            let mut n = 0;
            for writer in writers {
                n += writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
            }
            anyhow::Ok(n)
        })?;
        server.restart().with_context(|| format!("round {round}"))?;
        check(&mut server.connect()?, &mut known).with_context(|| format!("round {round}"))?;
        println!("round {round}: {n_acknowledged} acknowledged statements survived kill -9");
    }
    Ok(())
}

fn write(
    target: &Target,
    writer: i64,
    round: u32,
    known: &mut Known,
    stop: &AtomicBool,
) -> Result<u64> {
    let mut client = Client::connect(target)?;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return Ok(n as u64);
        }
        let key = writer * KEYS + (n * 7 + i64::from(round)) % KEYS;
        let value = (n % 5 != 4).then_some(i64::from(round) * 1_000_000 + n);
        let sql = match value {
            Some(v) => format!(
                "INSERT INTO k VALUES ({key}, {v}) ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v"
            ),
            None => format!("DELETE FROM k WHERE id = {key}"),
        };
        match client.simple(&sql) {
            Ok(_) => {
                known.values.insert(key, value);
            }
            Err(ClientError::Io(_)) => {
                known.in_flight = Some((key, value));
                return Ok(n as u64);
            }
            Err(error) => return Err(error).context(sql),
        }
    }
    Ok(0)
}

/// Read through the index: a range with two ends, over every value there is.
const BY_INDEX: &str = "SELECT id, v FROM k WHERE v BETWEEN 0 AND 1000000000000";

fn rows(client: &mut Client, sql: &str) -> Result<BTreeMap<i64, i64>> {
    let mut found = BTreeMap::new();
    for row in client.simple(sql)?.text() {
        if let [Some(id), Some(v)] = &row[..] {
            found.insert(id.parse()?, v.parse()?);
        }
    }
    Ok(found)
}

fn check(client: &mut Client, known: &mut [Known]) -> Result<()> {
    let plan = client.simple(&format!("EXPLAIN {BY_INDEX}"))?.text();
    let uses_index = plan.iter().flatten().flatten().any(|line| line.contains("index k_v"));
    ensure!(uses_index, "the index is not read: {plan:?}");
    let mut found = rows(client, "SELECT id, v FROM k")?;
    ensure!(found == rows(client, BY_INDEX)?, "the index differs from the table");
    for known in known {
        if let Some((key, value)) = known.in_flight.take() {
            let now = found.get(&key).copied();
            let before = known.values.get(&key).copied().flatten();
            ensure!(now == value || now == before, "key {key}: {now:?} was never written");
            known.values.insert(key, now);
        }
        for (key, value) in &known.values {
            let now = found.remove(key);
            ensure!(now == *value, "key {key}: acknowledged {value:?}, found {now:?}");
        }
    }
    ensure!(found.is_empty(), "rows that nobody wrote: {found:?}");
    Ok(())
}
