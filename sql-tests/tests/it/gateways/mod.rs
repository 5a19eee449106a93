//! Several gateways over the same shards, in one process: schema changes in one, rows in another, and gateways that die.

mod mortal;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cortex_gateway::{
    catalog::CatalogStore,
    cluster::{Cluster, MetaService, Shards, new_gateway},
    exec::gateway::{Gateway, Service},
    listener::Server,
};
use cortex_shard_api::{ShardId, client::ShardClient, cluster::Report};
use cortex_shard_node::{Follower, Shard, ShardConfig, StorageKind};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use self::mortal::{Death, Life, MortalMeta, MortalShard};

const STACK_BYTES: usize = 32 << 20;
const GRACE: Duration = Duration::from_millis(200);

/// Rows of each test's table.
const ROWS: i64 = 40;

/// A step after which a schema change must have ended; it takes about twenty.
const STEPS_MAX: usize = 200;

fn runtime() -> Result<Runtime> {
    let builder = &mut Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().thread_stack_size(STACK_BYTES).build()?)
}

/// Shards and a meta service, without a gateway.
struct Ground {
    shards: Vec<Arc<dyn ShardClient>>,
    service: Arc<MetaService>,
    _followers: Vec<Follower>,
    _data: tempfile::TempDir,
}

impl Ground {
    async fn new(n_shards: u32) -> Result<Ground> {
        let data = tempfile::tempdir()?;
        let mut opened = Vec::new();
        for id in 0..=n_shards {
            let mut config = ShardConfig::new(ShardId(id), data.path().join(id.to_string()));
            config.storage = StorageKind::Memory;
            opened.push(Shard::open(config)?.0);
        }
        let mut followers = Vec::new();
        for copy in opened.iter().skip(1) {
            let sources = opened.iter().skip(1).filter(|source| source.id() != copy.id());
            followers.extend(sources.map(|source| copy.follow(source.clone())));
        }
        let shards: Vec<Arc<dyn ShardClient>> =
            opened.into_iter().map(|shard| shard as Arc<dyn ShardClient>).collect();
        let service = MetaService::open(shards[0].clone()).await.map_err(|e| anyhow!("{e}"))?;
        service.embed((1..=n_shards).map(ShardId));
        Ok(Ground { shards, service, _followers: followers, _data: data })
    }
}

/// A gateway with its port.
struct Running {
    life: Arc<Life>,
    port: u16,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    async fn start(ground: &Ground, queries: &Runtime) -> Result<Running> {
        let life = Arc::new(Life::default());
        let shards = ground.shards.iter().map(|shard| MortalShard::of(shard.clone(), &life));
        let meta = MortalMeta::of(ground.service.connect(), &life);
        let join = new_gateway(String::new());
        let text = |error: cortex_gateway::error::PgError| anyhow!("{error}");
        let cluster = Cluster::join(meta, Shards::new(shards), join).await.map_err(text)?;
        cluster.follow(|_, _| {});
        let store = CatalogStore::open(cluster.clone()).await.map_err(text)?;
        let gateway = Arc::new(Gateway::new(store, queries.handle().clone()));
        let server = Server::bind("127.0.0.1:0", 50, GRACE, None).await?;
        server.gate().open(Arc::new(Service(gateway)));
        cluster.report(Report::Up).await.map_err(text)?;
        let (port, stop) = (server.address()?.port(), CancellationToken::new());
        tokio::spawn(server.serve(stop.clone()));
        Ok(Running { life, port, stop })
    }

    async fn client(&self) -> Result<Client> {
        let config = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// The first column of the first row.
async fn value(client: &Client, sql: &str) -> Result<String> {
    let messages = client.simple_query(sql).await.with_context(|| sql.to_owned())?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    row.with_context(|| format!("no row: {sql}"))
}

async fn run(client: &Client, sql: &str) -> Result<()> {
    tokio::time::timeout(Duration::from_secs(30), client.batch_execute(sql))
        .await
        .with_context(|| format!("no end: {sql}"))?
        .with_context(|| sql.to_owned())
}

async fn make_table(client: &Client) -> Result<()> {
    run(client, "CREATE TABLE t (id int PRIMARY KEY, v text, n int) WITH (shard_by = 'hash(id)')")
        .await?;
    run(client, "CREATE INDEX t_n ON t (n)").await?;
    let sql = format!("INSERT INTO t SELECT i, 'v' || i, i % 5 FROM generate_series(1, {ROWS}) i");
    run(client, &sql).await
}

#[test]
fn what_one_gateway_changes_the_others_see_at_once() -> Result<()> {
    let queries = runtime()?;
    runtime()?.block_on(async {
        let ground = Ground::new(2).await?;
        let first = Running::start(&ground, &queries).await?;
        let second = Running::start(&ground, &queries).await?;
        let (a, b) = (first.client().await?, second.client().await?);
        make_table(&a).await?;
        ensure!(value(&b, "SELECT count(*) FROM t").await? == ROWS.to_string());
        run(&b, "ALTER TABLE t ADD COLUMN c int DEFAULT 7").await?;
        ensure!(value(&a, "SELECT sum(c) FROM t").await? == (7 * ROWS).to_string());
        run(&a, "CREATE TABLE r (id int PRIMARY KEY) WITH (shard_by = 'reference')").await?;
        for i in 1..=20 {
            run(&b, &format!("INSERT INTO r VALUES ({i})")).await?;
            let join = "SELECT count(*) FROM t JOIN r ON r.id = t.id";
            // Once waited for, it is known to be there, and read at once.
            for _ in 0..2 {
                ensure!(value(&a, join).await? == i.to_string(), "a copy was behind");
            }
        }
        let written = AtomicI32::new(20);
        let write = async {
            for i in 21..=ROWS as i32 {
                run(&b, &format!("INSERT INTO r VALUES ({i})")).await?;
                written.store(i, Ordering::SeqCst);
            }
            anyhow::Ok(())
        };
        let read = async {
            while written.load(Ordering::SeqCst) < ROWS as i32 {
                let least = written.load(Ordering::SeqCst);
                let found: i32 =
                    value(&a, "SELECT count(*) FROM t JOIN r ON r.id = t.id").await?.parse()?;
                ensure!(found >= least, "{found} rows, {least} were acknowledged");
            }
            anyhow::Ok(())
        };
        tokio::try_join!(write, read)?;
        run(&a, "DROP TABLE t").await?;
        let gone = b.simple_query("SELECT * FROM t").await.err().context("t is gone")?;
        ensure!(gone.code().is_some_and(|code| code.code() == "42P01"), "{gone}");
        anyhow::Ok(())
    })
}

/// Writers and readers of one gateway while another one changes the table under them.
#[test]
fn rows_are_written_and_read_while_another_gateway_changes_the_schema() -> Result<()> {
    let queries = runtime()?;
    runtime()?.block_on(async {
        let ground = Ground::new(2).await?;
        let first = Running::start(&ground, &queries).await?;
        let second = Running::start(&ground, &queries).await?;
        let a = first.client().await?;
        make_table(&a).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for writer in 0..3i64 {
            let (b, stop) = (second.client().await?, stop.clone());
            writers.push(tokio::spawn(async move {
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    let id = 1000 + writer * 1_000_000 + written;
                    match writer {
                        0 => run(&b, &format!("INSERT INTO t (id, v) VALUES ({id}, 'w')")).await?,
                        1 => {
                            let sql = format!(
                                "INSERT INTO t (id, v) SELECT i, 'w' FROM generate_series({id}, {id}) i"
                            );
                            run(&b, &sql).await?;
                        }
                        _ => {
                            let sql = format!(
                                "BEGIN; INSERT INTO t (id, v) VALUES ({id}, 'w'); UPDATE t SET v = 'x' \
                                 WHERE id = 1; COMMIT"
                            );
                            run(&b, &sql).await?;
                        }
                    }
                    written += 1;
                    let sql = format!("SELECT v FROM t WHERE id = {id}");
                    ensure!(value(&b, &sql).await? == "w", "a row is not there");
                }
                anyhow::Ok(written)
            }));
        }
        let begun = Instant::now();
        let mut changes = 0;
        while begun.elapsed() < Duration::from_secs(5) {
            for sql in [
                "ALTER TABLE t ADD COLUMN c int DEFAULT 7",
                "CREATE INDEX t_v ON t (v)",
                "ALTER TABLE t ALTER COLUMN c TYPE bigint USING c + 1",
                "DROP INDEX t_v",
                "ALTER TABLE t DROP COLUMN c",
            ] {
                run(&a, sql).await?;
                changes += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let mut written = ROWS;
        for writer in writers {
            written += writer.await??;
        }
        ensure!(changes > 5, "{changes} changes");
        for gateway in [&first, &second] {
            let client = gateway.client().await?;
            ensure!(value(&client, "SELECT count(*) FROM t").await? == written.to_string());
        }
        anyhow::Ok(())
    })
}

/// A schema change whose gateway dies, at each of its requests, leaves the table as it was or as it was to be.
fn dies_at_each_step(sql: &'static str, before: &'static str, after: &'static str) -> Result<()> {
    let queries = runtime()?;
    let runtime = runtime()?;
    for after_request in [false, true] {
        for at in 1.. {
            if at > STEPS_MAX {
                bail!("{sql} takes more than {STEPS_MAX} requests");
            }
            let death = Death { at, after_request };
            let step = step(sql, before, after, death, &queries);
            let died = runtime.block_on(step).with_context(|| format!("{sql}: {death:?}"))?;
            if !died {
                break;
            }
        }
    }
    queries.shutdown_background();
    Ok(())
}

async fn step(
    sql: &str,
    before: &str,
    after: &str,
    death: Death,
    queries: &Runtime,
) -> Result<bool> {
    let ground = Ground::new(2).await?;
    let doomed = Running::start(&ground, queries).await?;
    let other = Running::start(&ground, queries).await?;
    let (a, b) = (doomed.client().await?, other.client().await?);
    make_table(&a).await?;
    ensure!(value(&b, "SELECT count(*) FROM t").await? == ROWS.to_string());
    doomed.life.arm(death);
    let result = run(&a, sql).await;
    let died = doomed.life.is_over();
    if !died {
        result?;
    }
    doomed.life.bury().await;
    // The other one goes on by itself, whatever was left.
    let write = run(&b, "INSERT INTO t (id, v, n) VALUES (100, 'new', 3)").await;
    let found = value(&b, "SELECT count(*) FROM pg_class WHERE relname = 't'").await?;
    if found == "0" {
        ensure!(write.is_err(), "written to a table that is not there");
        ensure!(after == "gone", "the table is gone");
        return Ok(died);
    }
    write?;
    let state = value(&b, before).await?;
    ensure!(state == "before" || state == "after", "{state}");
    ensure!(died || state == "after", "the change is not there");
    let truncated = after == "truncated" && state == "after";
    let expected = if truncated { 1 } else { ROWS + 1 };
    ensure!(value(&b, "SELECT count(*) FROM t").await? == expected.to_string());
    let by_index = if truncated { 1 } else { ROWS / 5 + 1 };
    ensure!(value(&b, "SELECT count(*) FROM t WHERE n = 3").await? == by_index.to_string());
    // So does a third, which cleans up; and nothing that it deletes is missed.
    let third = Running::start(&ground, queries).await?;
    let c = third.client().await?;
    run(&c, "ALTER TABLE t ADD COLUMN late int DEFAULT 1").await?;
    let sum = "SELECT sum(late) FROM t WHERE n = 3 OR n <> 3";
    for client in [&b, &c] {
        ensure!(value(client, sum).await? == expected.to_string());
        run(client, "UPDATE t SET v = 'again' WHERE id = 100").await?;
    }
    Ok(died)
}

/// "after" when the table has a column of this name.
const HAS_COLUMN: &str = "SELECT CASE count(*) WHEN 0 THEN 'before' ELSE 'after' END FROM \
                          pg_attribute WHERE attname = 'c' AND attrelid = 't'::regclass";

#[test]
fn a_gateway_dies_while_it_adds_a_column() -> Result<()> {
    dies_at_each_step("ALTER TABLE t ADD COLUMN c int DEFAULT 7", HAS_COLUMN, "")
}

#[test]
fn a_gateway_dies_while_it_builds_an_index() -> Result<()> {
    let has_index = "SELECT CASE count(*) WHEN 0 THEN 'before' ELSE 'after' END FROM pg_class \
                     WHERE relname = 't_c'";
    dies_at_each_step("CREATE INDEX t_c ON t (v, n)", has_index, "")
}

#[test]
fn a_gateway_dies_while_it_rewrites_a_table() -> Result<()> {
    let sql = "ALTER TABLE t ALTER COLUMN n TYPE bigint USING n + 0";
    let is_wide = "SELECT CASE atttypid::int WHEN 20 THEN 'after' ELSE 'before' END FROM \
                   pg_attribute WHERE attname = 'n' AND attrelid = 't'::regclass";
    dies_at_each_step(sql, is_wide, "")
}

#[test]
fn a_gateway_dies_while_it_truncates_a_table() -> Result<()> {
    let is_empty = "SELECT CASE WHEN count(*) < 10 THEN 'after' ELSE 'before' END FROM t";
    dies_at_each_step("TRUNCATE t", is_empty, "truncated")
}

#[test]
fn a_gateway_dies_while_it_drops_a_table() -> Result<()> {
    dies_at_each_step("DROP TABLE t", "SELECT 'before'", "gone")
}
