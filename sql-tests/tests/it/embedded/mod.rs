//! The database inside the test's own process, where its counters can be read and its shards can be made to fail. Fragments
//! reach these shards as bytes only.
//!
//! Lives here: opening shards under `Faulty` clients and serving them on a port. Clients still come over the wire. Not here:
//! anything that a process of its own can show (`CortexServer`).

mod commits;
mod down;
mod fast_path;
mod faulty;
mod flaky;
mod moves;
mod reference;
mod requests;
mod simulation;
mod stale;

use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use cortex_gateway::{
    catalog::CatalogStore,
    cluster::Cluster,
    exec::{
        counters::Counters,
        gateway::{Gateway, Service},
    },
    listener::Server,
};
use cortex_shard_api::{ShardId, client::ShardClient};
use cortex_shard_node::{Follower, Shard, ShardConfig};
use cortex_sql_tests::client::{Client, Target};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use self::faulty::{Faults, Faulty};

/// As the program has it: binding recurses over a statement.
const STACK_BYTES: usize = 32 << 20;
const CONNECTIONS: usize = 20;
const GRACE: Duration = Duration::from_millis(100);

/// A gateway over embedded shards, on a port of its own.
pub struct Database {
    pub target: Target,
    pub counters: Arc<Counters>,
    /// What every data shard's client asks before it commits.
    pub faults: Arc<Faults>,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
    _data: TempDir,
}

impl Database {
    pub fn start(n_shards: u32) -> Result<Database> {
        let data = tempfile::Builder::new().prefix("cortex-embedded").tempdir()?;
        let stop = CancellationToken::new();
        let faults = Arc::new(Faults::default());
        let (ready, opened) = mpsc::channel();
        let (path, stopped, seen) = (data.path().to_owned(), stop.clone(), faults.clone());
        let serving = std::thread::spawn(move || {
            let Ok(runtime) = runtime() else { return };
            let Ok(queries) = self::runtime() else { return };
            let handle = queries.handle().clone();
            runtime.block_on(async {
                let opening = async {
                    let opened = (0..=n_shards)
                        .map(|id| -> Result<Arc<Shard>> {
                            let config = ShardConfig::new(ShardId(id), path.join(id.to_string()));
                            Ok(Shard::open(config)?.0)
                        })
                        .collect::<Result<Vec<_>>>()?;
                    let shards: Vec<Arc<dyn ShardClient>> = opened
                        .iter()
                        .map(|shard| Arc::new(Faulty::new(shard.clone(), seen.clone())) as _)
                        .collect();
                    let followers = follow(&opened, &shards);
                    let cluster = Cluster::embedded(shards).await;
                    let store = CatalogStore::open(cluster.map_err(|error| anyhow!("{error}"))?);
                    let store = store.await.map_err(|error| anyhow!("{error}"))?;
                    let gateway = Arc::new(Gateway::new(store, handle));
                    let server = Server::bind("127.0.0.1:0", CONNECTIONS, GRACE, None).await?;
                    server.gate().open(Arc::new(Service(gateway.clone())));
                    let port = server.address()?.port();
                    anyhow::Ok((server, port, gateway.counters.clone(), followers))
                };
                match opening.await {
                    Ok((server, port, counters, _followers)) => {
                        let _ = ready.send(Ok((port, counters)));
                        server.serve(stopped).await;
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            });
            queries.shutdown_background();
        });
        let (port, counters) = opened.recv().context("the database did not start")??;
        let target = Target::local(port);
        Ok(Database { target, counters, faults, stop, serving: Some(serving), _data: data })
    }

    pub fn connect(&self) -> Result<Client> {
        Ok(Client::connect(&self.target)?)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

/// Every data shard follows every other one, by way of its faulty client.
fn follow(opened: &[Arc<Shard>], clients: &[Arc<dyn ShardClient>]) -> Vec<Follower> {
    let mut followers = Vec::new();
    for copy in opened.iter().filter(|copy| copy.id() != ShardId::META) {
        let sources = clients.iter().filter(|it| it.id() != ShardId::META && it.id() != copy.id());
        followers.extend(sources.map(|source| copy.follow(source.clone())));
    }
    followers
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build()?)
}
