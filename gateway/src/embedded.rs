//! Gateway and shards in one process.
//!
//! The only place that knows that a shard is in the same process: everything else has `ShardClient`s. Shard 0 is the meta
//! shard, 1 to N hold rows; each has its directory under the data directory.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use cortex_shard_api::{ShardId, client::ShardClient};
use cortex_shard_node::{Follower, Shard, ShardConfig};
use futures::FutureExt;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{
    catalog::CatalogStore,
    cluster::Cluster,
    exec::gateway::{DATABASE, Gateway, Service},
    run::{OpenRequest, Opened, say},
    statement::SqlService,
};

/// Replaying fewer entries than this is not worth a line.
const REPLAY_WORTH_SAYING: u64 = 1;

/// Planning of nested queries recurses; unused stack costs nothing.
const QUERY_STACK_BYTES: usize = 32 << 20;

/// A query that does not end with its connection is left behind after this.
const QUERIES_END_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens every shard and the catalog.
pub async fn open(request: OpenRequest) -> Result<Opened> {
    let n_shards = request.data_dir.shards;
    let directory = request.data_dir.path.clone();
    let shards = tokio::task::spawn_blocking(move || open_shards(&directory, n_shards))
        .await
        .context("opening the shards")??;
    let clients = shards.iter().map(|shard| shard.clone() as Arc<dyn ShardClient>).collect();
    let cluster = Cluster::embedded(clients).await.map_err(|error| anyhow!("{error}"))?;
    cluster.follow(|_, _| {});
    let store = CatalogStore::open(cluster).await.map_err(|error| anyhow!("{error}"))?;
    let queries = query_runtime()?;
    let gateway = Arc::new(Gateway::new(store, queries.handle.clone()));
    let followers = follow(&shards);
    let service = Service(gateway);
    if let Some(password) = &request.initial_verifier {
        set_initial_password(&service, password).await?;
    }
    let data_dir = request.data_dir;
    let close = move || {
        async move {
            queries.end();
            drop(followers);
            for shard in shards {
                shard.shutdown().await?;
            }
            // The directory is another process's to claim only when its shards are closed.
            drop(data_dir);
            Ok(())
        }
        .boxed()
    };
    let stopping = Box::new(|| async {}.boxed());
    Ok(Opened { service: Arc::new(service), stopping, close: Box::new(close) })
}

/// Every data shard follows every other one's reference tables.
fn follow(shards: &[Arc<Shard>]) -> Vec<Follower> {
    let data = || shards.iter().filter(|shard| shard.id() != ShardId::META);
    let mut followers = Vec::new();
    for copy in data() {
        let sources = data().filter(|source| source.id() != copy.id());
        followers.extend(sources.map(|source| copy.follow(source.clone())));
    }
    followers
}

/// Opens shards 0 to n, one after the other: each is bound by the disk.
fn open_shards(directory: &Path, n_shards: u32) -> Result<Vec<Arc<Shard>>> {
    let mut shards = Vec::new();
    for id in 0..=n_shards {
        let name = if id == 0 { "meta".to_owned() } else { format!("shard-{id}") };
        let config = ShardConfig::new(ShardId(id), directory.join(&name));
        let (shard, report) = Shard::open(config).with_context(|| format!("cannot open {name}"))?;
        if report.n_replayed >= REPLAY_WORTH_SAYING {
            say(format_args!(
                "  {name}: {} log entries replayed in {:.1} s",
                report.n_replayed, report.seconds
            ));
        }
        shards.push(shard);
    }
    Ok(shards)
}

/// The runtime of analytic queries.
pub(crate) struct Queries {
    pub handle: Handle,
    /// `None` once it was taken to be ended.
    runtime: Option<Runtime>,
}

impl Queries {
    /// Ends it without blocking the thread that asks.
    pub fn end(mut self) {
        if let Some(runtime) = self.runtime.take() {
            std::thread::spawn(move || runtime.shutdown_timeout(QUERIES_END_TIMEOUT));
        }
    }
}

impl Drop for Queries {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn query_runtime() -> Result<Queries> {
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .thread_name("cortexdb-query")
        .thread_stack_size(QUERY_STACK_BYTES)
        .build()?;
    Ok(Queries { handle: runtime.handle().clone(), runtime: Some(runtime) })
}

/// `POSTGRES_PASSWORD` of a new data directory becomes role postgres's.
pub(crate) async fn set_initial_password(service: &Service, password: &str) -> Result<()> {
    let mut session = service
        .open("postgres", DATABASE, 0, &[])
        .await
        .map_err(|error| anyhow!("setting the password: {error}"))?;
    let sql = format!("ALTER ROLE postgres PASSWORD '{}'", password.replace('\'', "''"));
    let result = async {
        for statement in session.parse(&sql)? {
            let prepared = session.prepare(&statement, &[]).await?;
            session.execute(&prepared, Vec::new(), true).await?;
        }
        session.sync().await
    };
    let result: Result<(), crate::error::PgError> = result.await;
    result.map_err(|error| anyhow!("setting the password: {error}"))
}
