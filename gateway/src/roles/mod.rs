//! The processes of a cluster: meta, shard, gateway, and the commands that go with them.
//!
//! Each claims its port first, then its data directory, joins, and serves until it is told to stop. Lives here: these orders, and
//! what the processes have in common. Not here: what they serve (`cluster`, `exec`, `cortex_shard_node`), bytes between them
//! (`cortex_shard_rpc`).

/// `cortexdb meta`
pub mod meta;

/// `cortexdb shard`
pub mod shard;

/// `cortexdb gateway`
pub mod gateway;

/// `cortexdb ready`
pub mod ready;

/// `cortexdb certs`
pub mod certs;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use cortex_shard_api::{
    ShardId,
    client::ShardClient,
    cluster::{ClusterError, Identity, Join, Joined, Members, MetaClient},
};
use cortex_shard_rpc::{
    ClientConfig, Endpoint, RemoteShard, Server, ServerConfig, client::refused,
};
use parking_lot::Mutex;

use crate::{
    cluster::{Shards, remote::RemoteMeta},
    config::{NodeConfig, NodeTls},
    run::say,
};

/// Pause between attempts to reach the meta process at the start.
const JOIN_PAUSE: Duration = Duration::from_millis(200);

/// Attempts that fail before it is worth a line.
const JOIN_QUIET: usize = 5;

/// Looks an address up to listen on.
async fn resolve(listen: &str) -> Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    found.next().ok_or_else(|| anyhow!("cannot listen on {listen}: the name has no address"))
}

/// What others are told: an address that means this process on their hosts, too.
fn advertised(advertise: Option<&str>, listening: SocketAddr) -> Result<String> {
    match advertise {
        Some(address) => {
            let port = listening.port();
            let after_bracket = address.rsplit(']').next().unwrap_or(address);
            let has_port = after_bracket.contains(':');
            Ok(if has_port { address.to_owned() } else { format!("{address}:{port}") })
        }
        None if listening.ip().is_unspecified() => bail!(
            "{listening} is no address that other processes can reach: name one with --advertise \
             HOST:PORT"
        ),
        None => Ok(listening.to_string()),
    }
}

/// Claims the port of a meta or shard process; its cluster is not known yet. The second is what others are told.
async fn bind(config: &NodeConfig) -> Result<(Server, String)> {
    let listen = resolve(&config.listen).await?;
    let server = ServerConfig::new(String::new(), config.tls.clone());
    let server = Server::bind(listen, server).await?;
    let address = advertised(config.advertise.as_deref(), server.address())?;
    warn_if_open(server.address(), config.tls.as_ref());
    Ok((server, address))
}

/// A port that is open to other hosts without certificates is open to everybody there.
fn warn_if_open(listening: SocketAddr, tls: Option<&NodeTls>) {
    if tls.is_none() && !listening.ip().is_loopback() {
        say(format_args!(
            "warning: no cluster certificates (--cluster-ca, `cortexdb certs`): whoever reaches \
             {listening} can read and write everything"
        ));
    }
}

fn client_config(tls: Option<&NodeTls>) -> ClientConfig {
    ClientConfig { tls: tls.cloned(), ..ClientConfig::default() }
}

/// Joins the cluster, waiting for the meta process.
async fn join(
    address: &str,
    tls: Option<&NodeTls>,
    join: Join,
) -> Result<(Arc<RemoteMeta>, Joined)> {
    let meta = RemoteMeta::new(address, &client_config(tls)).map_err(|error| anyhow!("{error}"))?;
    let mut n_failed = 0;
    loop {
        match meta.join(join.clone()).await {
            Ok(joined) => return Ok((Arc::new(meta), joined)),
            Err(ClusterError::Unavailable { reason }) => {
                if let Some(why) = refused(address, tls).await {
                    bail!("the meta process at {address} cannot be joined: {why}");
                }
                n_failed += 1;
                if n_failed == JOIN_QUIET {
                    say(format_args!("waiting for the meta process: {reason}"));
                }
                tokio::time::sleep(JOIN_PAUSE).await;
            }
            Err(error) => bail!("{error}"),
        }
    }
}

/// Clients of the shards, with the addresses at which they are now.
#[derive(Debug)]
struct RemoteShards {
    shards: Shards,
    /// The same, as what can be given another address.
    clients: Mutex<Vec<Arc<RemoteShard>>>,
    cluster: Identity,
    caller: String,
    config: ClientConfig,
}

impl RemoteShards {
    fn new(cluster: Identity, caller: String, tls: Option<&NodeTls>) -> RemoteShards {
        RemoteShards {
            shards: Shards::new([]),
            clients: Mutex::default(),
            cluster,
            caller,
            config: client_config(tls),
        }
    }

    fn connect(&self, shard: ShardId, address: &str) -> Arc<RemoteShard> {
        let endpoint = Endpoint {
            shard,
            address: address.to_owned(),
            cluster: self.cluster.to_string(),
            caller: self.caller.clone(),
        };
        let client = RemoteShard::connect_lazy(endpoint, self.config.clone());
        self.clients.lock().push(client.clone());
        client
    }

    /// Adds the meta shard.
    fn add_meta(&self, address: &str) {
        let client: Arc<dyn ShardClient> = self.connect(ShardId::META, address);
        self.shards.keep(&[ShardId::META], |_| client.clone());
    }

    /// Follows the members: new ones get clients, moved ones another address, removed ones are forgotten.
    fn follow(&self, members: &Members) {
        let known: Vec<_> = members.shards().map(|it| (ShardId(it.id), &it.address)).collect();
        let find = |id: ShardId| known.iter().find(|(known, _)| *known == id);
        self.clients.lock().retain(|client| {
            let id = client.id();
            if let Some((_, address)) = find(id) {
                client.set_address(address);
            }
            id == ShardId::META || find(id).is_some()
        });
        let mut ids: Vec<ShardId> = known.iter().map(|(id, _)| *id).collect();
        if self.shards.all().contains_key(&ShardId::META) {
            ids.push(ShardId::META);
        }
        self.shards.keep(&ids, |id| {
            let address = find(id).map_or("", |(_, address)| address.as_str());
            self.connect(id, address)
        });
    }
}
