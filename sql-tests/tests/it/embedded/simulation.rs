//! Moves in bad weather: the coordinator of production over real shards in memory, through clients that lose, repeat and delay
//! requests, while sessions write. Whatever happens, a move ends as done or as if it had not been, and no row is lost, doubled
//! or left behind.
//!
//! `CORTEX_SIM_SEEDS=n` runs more seeds, `CORTEX_SIM_SEED=s` one, with its story.

use std::{
    path::Path,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use cortex_gateway::{
    catalog::CatalogStore,
    cluster::{Cluster, ClusterGuard},
    exec::gateway::{Gateway, Service},
    listener::Server,
    moves::{
        driver::{Driver, Timing},
        record::{Phase, Records},
    },
};
use cortex_shard_api::{
    MoveId, ShardId, TableDescriptor,
    client::{RequestContext, ShardClient},
    cluster::ClusterLock,
    key::{prefix_end, storage_prefix},
    moves::TableRanges,
};
use cortex_shard_node::{Follower, Shard, ShardConfig, StorageKind};
use cortex_sql_tests::client::{Client, Target};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::flaky::{Flaky, Weather};

const SEEDS: u64 = 500;

/// Seeds beyond those that found a fault once: they run always.
const FOUND: [u64; 1] = [2915];

/// Simulations beside each other: one for each core of a small machine.
const LANES: u64 = 2;

const SHARDS: u32 = 3;
const ROWS: i64 = 40;

/// Lives of the coordinator; after so many the weather clears up.
const LIVES_MAX: u32 = 15;

/// What the first lives begin with is part of a seed's story.
const LIVES_TOLD: u32 = 60;

/// A move that takes longer hangs; on a busy machine one takes seconds.
const END_WAIT: Duration = Duration::from_secs(120);

/// Copies are milliseconds behind, on a busy machine more.
const COPIES_WAIT: Duration = Duration::from_secs(20);

/// Everything happens a hundred times as fast as in production.
const TIMING: Timing = Timing {
    grace: Duration::from_millis(5),
    hold_limit: Duration::from_millis(300),
    follow_wait: Duration::from_millis(2),
    pause: Duration::from_millis(3),
    lock_wait: Duration::from_secs(1),
    copies_wait: Duration::from_secs(1),
    clean_poll: Duration::from_millis(1),
    progress: Duration::from_secs(3600),
};

/// A gateway whose moves nobody drives but the test.
struct Simulation {
    runtime: Runtime,
    target: Target,
    weather: Arc<Weather>,
    store: Arc<CatalogStore>,
    records: Records,
    guard: Arc<ClusterGuard>,
    shards: Vec<Arc<Shard>>,
    _followers: Vec<Follower>,
    stop: CancellationToken,
    _data: TempDir,
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Simulation {
    fn start() -> Result<Simulation> {
        let runtime = super::runtime()?;
        let memory = Path::new("/dev/shm");
        let mut data = tempfile::Builder::new();
        data.prefix("cortex-simulation");
        let data = if memory.is_dir() { data.tempdir_in(memory) } else { data.tempdir() }?;
        let weather = Arc::new(Weather::default());
        let opened = (0..=SHARDS)
            .map(|id| -> Result<Arc<Shard>> {
                let directory = data.path().join(id.to_string());
                let storage = StorageKind::Memory;
                let config = ShardConfig { storage, ..ShardConfig::new(ShardId(id), directory) };
                let _entered = runtime.enter();
                Ok(Shard::open(config)?.0)
            })
            .collect::<Result<Vec<_>>>()?;
        let clients: Vec<Arc<dyn ShardClient>> = opened
            .iter()
            .map(|shard| Arc::new(Flaky::new(shard.clone(), weather.clone())) as _)
            .collect();
        let meta = clients.first().context("no meta shard")?.clone();
        let _followers = {
            let _entered = runtime.enter();
            super::follow(&opened, &clients)
        };
        let stop = CancellationToken::new();
        let (queries, stopped) = (runtime.handle().clone(), stop.clone());
        let (target, store, guard) = runtime.block_on(async move {
            let cluster = Cluster::embedded(clients).await.map_err(|error| anyhow!("{error}"))?;
            // The gateway's own coordinator waits for it for ever.
            let guard = cluster.lock(ClusterLock::Moves, Duration::ZERO).await;
            let guard = guard.map_err(|error| anyhow!("{error}"))?.context("the lock")?;
            let store = CatalogStore::open(cluster).await.map_err(|error| anyhow!("{error}"))?;
            let gateway = Arc::new(Gateway::with_timing(store.clone(), queries, TIMING));
            let server =
                Server::bind("127.0.0.1:0", super::CONNECTIONS, super::GRACE, None).await?;
            server.gate().open(Arc::new(Service(gateway)));
            let target = Target::local(server.address()?.port());
            tokio::spawn(server.serve(stopped));
            anyhow::Ok((target, store, Arc::new(guard)))
        })?;
        let records = Records(meta);
        let (shards, _data) = (opened, data);
        Ok(Simulation {
            runtime,
            target,
            weather,
            store,
            records,
            guard,
            shards,
            _followers,
            stop,
            _data,
        })
    }

    /// Drives the move, again and again from its record, until it has ended.
    fn drive(&self, id: MoveId, abort_in: Option<u32>) -> Result<Phase> {
        let drive = async {
            let mut lives = 0;
            loop {
                let record = self.records.get(id).await?.context("the record is gone")?;
                if let Some(reason) = record.failed {
                    bail!("it failed: {reason}");
                }
                if !record.is_open() {
                    return Ok(record.phase);
                }
                lives += 1;
                if lives <= LIVES_TOLD {
                    let life = format!("life {lives}: {:?}, {:?}", record.phase, record.trouble);
                    self.weather.tell(life);
                }
                if lives > LIVES_MAX {
                    self.weather.clear_up();
                }
                if abort_in == Some(lives) {
                    let _ = self.records.wish(id, cortex_gateway::moves::record::Wish::Abort).await;
                }
                let (store, records) = (self.store.clone(), self.records.clone());
                let driver = Driver::new(store, records, TIMING, self.guard.clone(), record);
                let mut life = tokio::spawn(driver.run());
                tokio::select! {
                    _ended = &mut life => {}
                    () = self.weather.crash.notified() => life.abort(),
                }
            }
        };
        let ended = self.runtime.block_on(async { tokio::time::timeout(END_WAIT, drive).await });
        ended.map_err(|_| {
            anyhow!("it has not ended within {END_WAIT:?}; down: {:?}", self.weather.down())
        })?
    }

    fn table(&self, client: &mut Client, table: &str) -> Result<Arc<TableDescriptor>> {
        let sql = format!("SELECT '{table}'::regclass::oid::int8");
        let oid = number(client, &sql)? as u32;
        let catalog = self.store.current();
        let table = catalog.tables.get(&cortex_shard_api::Oid(oid)).context("no such table")?;
        Ok(table.descriptor.clone())
    }

    fn rows_stored(&self, table: &TableDescriptor) -> Result<i64> {
        let mut rows = 0;
        for shard in self.shards.iter().skip(1) {
            let stats = self.runtime.block_on(shard.storage_stats(table.storage))?;
            rows += stats.rows as i64;
        }
        Ok(rows)
    }

    /// Waits until all copies of a reference table are what the primary copy is, index entries included.
    fn await_equal_copies(&self, table: &Arc<TableDescriptor>) -> Result<()> {
        let first = Bytes::copy_from_slice(&storage_prefix(table.storage));
        let last = prefix_end(&first).context("the last storage")?;
        let part = TableRanges { table: table.clone(), ranges: vec![(first, last)] };
        let context = RequestContext::default();
        let begun = Instant::now();
        loop {
            let sums = self.shards.iter().skip(1).map(|shard| {
                self.runtime.block_on(shard.checksum_ranges(&context, vec![part.clone()]))
            });
            let sums = sums.collect::<Result<Vec<_>, _>>()?;
            if sums.windows(2).all(|pair| pair[0] == pair[1]) {
                return Ok(());
            }
            ensure!(begun.elapsed() < COPIES_WAIT, "the copies are not equal: {sums:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What the writers of one seed know.
#[derive(Default)]
struct Written {
    stop: AtomicBool,
    added: AtomicI64,
    /// Nobody can say whether these were done.
    maybe_added: AtomicI64,
    inserted: AtomicI64,
    maybe_inserted: AtomicI64,
    drawn: AtomicI64,
}

impl Written {
    fn write(&self, target: &Target, table: &str, child: Option<&str>, worker: i64) -> Result<()> {
        let mut client = Client::connect(target)?;
        let mut n = 0;
        while !self.stop.load(Ordering::Relaxed) {
            n += 1;
            let id = (n * 7 + worker * 13) % ROWS;
            let add = format!("UPDATE {table} SET v = v + 1, u = u + 1000 WHERE id = {id}");
            self.count(client.simple(&add), &self.added, &self.maybe_added)?;
            if n % 3 == 0 {
                let id = 1_000 * (worker + 1) + n;
                let insert = format!("INSERT INTO {table} (id, v, u) VALUES ({id}, 0, {id})");
                self.count(client.simple(&insert), &self.inserted, &self.maybe_inserted)?;
            }
            if let Some(child) = child {
                self.use_copies(&mut client, (table, child), id)?;
            }
            if table.contains('.') && n % 4 == 0 {
                let sql = format!("SELECT nextval('{table}_n_seq')");
                if let Ok(reply) = client.simple(&sql) {
                    let value = reply.text()[0][0].clone().context("NULL")?.parse()?;
                    // Of all sessions' values none comes again: the largest is kept, and one session's ascend.
                    self.drawn.fetch_max(value, Ordering::SeqCst);
                }
            }
            thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    /// Copies show what was acknowledged before, and have the parents of new rows.
    fn use_copies(&self, client: &mut Client, (table, child): (&str, &str), id: i64) -> Result<()> {
        let least = self.added.load(Ordering::SeqCst);
        let sql = format!("SELECT sum(v)::int8 FROM {child} c JOIN {table} r ON r.id = c.parent");
        match client.simple(&sql) {
            Ok(reply) => {
                let sum: i64 = reply.text()[0][0].clone().context("NULL")?.parse()?;
                ensure!(sum >= least, "copies show {sum} changes, {least} were acknowledged");
            }
            Err(error) => {
                ensure!(matches!(error.code(), Some("40001" | "58000")), "a reader: {error}");
            }
        }
        let sql = format!("UPDATE {child} SET parent = {id} WHERE id = {id}");
        self.count(client.simple(&sql), &AtomicI64::new(0), &AtomicI64::new(0))
    }

    fn count<T>(
        &self,
        answer: std::result::Result<T, cortex_sql_tests::client::ClientError>,
        done: &AtomicI64,
        maybe: &AtomicI64,
    ) -> Result<()> {
        match answer {
            Ok(_) => done.fetch_add(1, Ordering::SeqCst),
            Err(error) => match error.code() {
                Some("40001" | "40P01") => 0,
                Some("58000" | "40003" | "CX001") => maybe.fetch_add(1, Ordering::SeqCst),
                _ => bail!("a writer: {error}"),
            },
        };
        Ok(())
    }
}

fn number(client: &mut Client, sql: &str) -> Result<i64> {
    let rows = client.simple(sql).with_context(|| sql.to_owned())?.text();
    let value = rows.first().and_then(|row| row.first().cloned().flatten());
    value.with_context(|| format!("NULL: {sql}"))?.parse().context("a number")
}

fn between(what: &str, found: i64, least: i64, maybe: i64) -> Result<()> {
    ensure!(
        (least..=least + maybe).contains(&found),
        "{what}: {found}, but {least} and perhaps {maybe} more were written"
    );
    Ok(())
}

fn run_seed(simulation: &Simulation, client: &mut Client, seed: u64) -> Result<Phase> {
    let is_schema = seed % 4 == 3;
    // With it goes the primary copy of a reference table, to which rows on all shards refer.
    let child = (seed % 8 == 7).then(|| format!("c{seed}"));
    let (schema, table) = (format!("z{seed}"), format!("s{seed}"));
    let (from, to) = (1 + seed % 3, 1 + (seed + 1 + seed / 3 % 2) % 3);
    let (name, place) = if is_schema {
        client.simple(&format!("CREATE SCHEMA {schema} WITH (home = {from})"))?;
        let place = child.as_ref().map_or("none", |_| "reference");
        (format!("{schema}.{table}"), format!(" WITH (shard_by = '{place}')"))
    } else {
        (table, " WITH (shard_by = 'hash(id)', colocate_with = 'none')".to_owned())
    };
    for sql in [
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, v int8, u int, n serial, UNIQUE (id, u)){place}"
        ),
        format!("CREATE INDEX ON {name} (u)"),
        format!(
            "INSERT INTO {name} (id, v, u) SELECT g, 0, g FROM generate_series(0, {}) g",
            ROWS - 1
        ),
    ] {
        client.simple(&sql).with_context(|| sql.clone())?;
    }
    if let Some(child) = &child {
        let last = ROWS - 1;
        for sql in [
            format!(
                "CREATE TABLE {child} (id int PRIMARY KEY, parent int REFERENCES {name}) \
                 WITH (shard_by = 'hash(id)', colocate_with = 'none')"
            ),
            format!("INSERT INTO {child} SELECT g, g FROM generate_series(0, {last}) g"),
        ] {
            client.simple(&sql).with_context(|| sql.clone())?;
        }
    }
    let start = if is_schema {
        format!("SELECT cortex.move_schema('{schema}', {to}, false)")
    } else {
        format!("SELECT cortex.move_slots('{name}', {from}, {to}, NULL, false)")
    };
    let id = MoveId(number(client, &start)? as u32);
    let abort_in = seed.is_multiple_of(5).then_some(1 + (seed / 5 % 4) as u32);
    simulation.weather.begin(seed);
    let written = Written::default();
    let ended = thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|worker| {
                let (written, name, child) = (&written, &name, child.as_deref());
                scope.spawn(move || written.write(&simulation.target, name, child, worker))
            })
            .collect();
        let ended = simulation.drive(id, abort_in);
        written.stop.store(true, Ordering::Relaxed);
        simulation.weather.clear_up();
        for writer in writers {
            writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        ended
    })?;
    // What is still on its way arrives.
    thread::sleep(Duration::from_millis(30));
    let load = |value: &AtomicI64| value.load(Ordering::SeqCst);
    let count = number(client, &format!("SELECT count(*) FROM {name}"))?;
    between("rows", count, ROWS + load(&written.inserted), load(&written.maybe_inserted))?;
    let sum = number(client, &format!("SELECT sum(v)::int8 FROM {name}"))?;
    between("the sum", sum, load(&written.added), load(&written.maybe_added))?;
    let by_index = number(client, &format!("SELECT count(*) FROM {name} WHERE u >= 0"))?;
    ensure!(by_index == count, "{by_index} rows by an index, {count} in the table");
    let changed =
        number(client, &format!("SELECT sum(u / 1000)::int8 FROM {name} WHERE id < {ROWS}"))?;
    ensure!(changed == sum, "u was changed {changed} times, v {sum} times");
    let descriptor = simulation.table(client, &name)?;
    let is_on_source = match descriptor.primary_copy() {
        Some(primary) => {
            simulation.await_equal_copies(&descriptor)?;
            primary == ShardId(from as u32)
        }
        None => descriptor.shards().contains(&ShardId(from as u32)),
    };
    let stored = simulation.rows_stored(&descriptor)?;
    let copies = descriptor.primary_copy().map_or(1, |_| i64::from(SHARDS));
    ensure!(stored == count * copies, "{stored} rows are stored, {count} are in the table");
    ensure!(
        is_on_source == (ended == Phase::Aborted),
        "{ended:?}, and the source owns: {is_on_source}"
    );
    if is_schema {
        let next = number(client, &format!("SELECT nextval('{name}_n_seq')"))?;
        ensure!(next > load(&written.drawn).max(ROWS), "nextval gave {next} again");
    }
    if let Some(child) = &child {
        let sql = format!(
            "SELECT count(*) FROM {child} c LEFT JOIN {name} r ON r.id = c.parent WHERE r.id IS NULL"
        );
        ensure!(number(client, &sql)? == 0, "rows without their parents");
        client.simple(&format!("DROP TABLE {child}"))?;
    }
    client.simple(&format!("DROP TABLE {name}"))?;
    Ok(ended)
}

fn run_seeds(seeds: impl Iterator<Item = u64>) -> Result<(u64, u64)> {
    let simulation = Simulation::start()?;
    let mut client = Client::connect(&simulation.target)?;
    let (mut done, mut aborted) = (0, 0);
    for seed in seeds {
        match run_seed(&simulation, &mut client, seed) {
            Ok(Phase::Aborted) => aborted += 1,
            Ok(_) => done += 1,
            Err(error) => {
                let story = simulation.weather.story.lock().unwrap_or_else(PoisonError::into_inner);
                let status = client.simple("SELECT * FROM cortex.rebalance_status()");
                let last = status.ok().and_then(|reply| reply.text().into_iter().next_back());
                let story = story.join("\n");
                // At once: the other lanes still run.
                println!("CORTEX_SIM_SEED={seed}: {error:#}\n{story}\n{last:?}");
                bail!("CORTEX_SIM_SEED={seed}: {error:#}");
            }
        }
    }
    Ok((done, aborted))
}

#[test]
fn whatever_happens_a_move_ends_and_no_row_is_lost() -> Result<()> {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    if let Some(seed) = number("CORTEX_SIM_SEED") {
        return run_seeds(std::iter::once(seed)).map(drop);
    }
    let seeds = number("CORTEX_SIM_SEEDS").unwrap_or(SEEDS);
    let begun = Instant::now();
    let lanes = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let found = FOUND.into_iter().filter(move |seed| *seed >= seeds);
                let seeds = (0..seeds).chain(found);
                scope.spawn(move || run_seeds(seeds.filter(|seed| seed % LANES == lane)))
            })
            .collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().map_err(|_| anyhow!("a simulation panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let (done, aborted) = lanes.iter().fold((0, 0), |all, lane| (all.0 + lane.0, all.1 + lane.1));
    println!("{done} moves done, {aborted} given up, in {:.1} s", begun.elapsed().as_secs_f64());
    ensure!(
        seeds < SEEDS || (done > seeds / 2 && aborted > seeds / 50),
        "the runs are too much alike"
    );
    Ok(())
}
