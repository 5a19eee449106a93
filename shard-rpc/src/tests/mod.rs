//! Client and server over loopback, around a shard that does as a test says.

mod double;
mod hostile;
mod links;
mod round_trip;
mod services;
mod speed;
mod transactions;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cortex_shard_api::{ShardId, client::ShardClient};
use tokio::{sync::oneshot, task::JoinHandle};

use self::double::Double;
use crate::{ClientConfig, Endpoint, RemoteShard, Server, ServerConfig, TlsConfig};

const CLUSTER: &str = "test";

/// A server with one shard.
struct Served {
    shard: Arc<Double>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    async fn start() -> Served {
        Served::start_with("127.0.0.1:0", Arc::new(Double::new(ShardId(7))), None).await
    }

    async fn start_with(address: &str, shard: Arc<Double>, tls: Option<TlsConfig>) -> Served {
        let config = ServerConfig::new(CLUSTER, tls);
        let address = address.parse().expect("an address");
        let server = Server::bind(address, config).await.expect("a free port");
        let address = server.address();
        let server = server.add_shard(shard.clone() as Arc<dyn ShardClient>);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.serve(stopped).await.expect("serving");
        });
        Served { shard, address, stop, task }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            shard: ShardId(7),
            address: self.address.to_string(),
            cluster: CLUSTER.to_owned(),
            caller: "a test".to_owned(),
        }
    }

    async fn client(&self) -> Arc<RemoteShard> {
        let client = RemoteShard::connect_lazy(self.endpoint(), quick());
        assert!(client.ready(Duration::from_secs(5)).await, "{:?}", client.state());
        client
    }

    async fn stop(self) -> Arc<Double> {
        let _ = self.stop.send(());
        self.task.await.expect("a server that does not panic");
        self.shard
    }
}

/// As by default, but with little patience.
fn quick() -> ClientConfig {
    ClientConfig {
        keep_alive_interval: Duration::from_millis(200),
        keep_alive_timeout: Duration::from_millis(300),
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(50),
        ..ClientConfig::default()
    }
}

/// Waits until something is so.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..500 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
