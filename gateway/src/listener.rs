//! Socket → connection: accepting, the connection limit, and the graceful end.
//!
//! Lives here: what all connections share. Not here: anything that one connection says (`session`). Connections are spawned
//! here and nowhere else, and `serve` returns only when the last one has ended.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    session::{self, cancel::Registry},
    statement::SqlService,
};

/// Connections beyond the limit that may be in their startup at once: cancel requests must get through when all places
/// are taken, and whoever is refused should read why.
const STARTUP_EXTRA: usize = 64;
/// A pause after an accept that failed (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// When an idle connection is first asked whether its client still exists, and how often then.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// What all connections of a server share.
pub(crate) struct Shared {
    /// Empty while the shards are opening: clients read 57P03.
    pub(crate) service: OnceLock<Arc<dyn SqlService>>,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) registry: Arc<Registry>,
    /// One for each session.
    pub(crate) places: Arc<Semaphore>,
    /// The server stops; nobody new is let in.
    pub(crate) stopping: CancellationToken,
}

/// A server on its addresses.
pub struct Server {
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
    connections_max: usize,
    grace: Duration,
}

/// Lets the SQL side be handed in once it is ready, while `serve` is already running.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

impl Gate {
    /// From now on connections are let in.
    pub fn open(&self, service: Arc<dyn SqlService>) {
        if self.0.service.set(service).is_err() {
            tracing::warn!("the gate was opened twice; the first service stays");
        }
    }
}

impl Server {
    /// Binds every address of `listen` (`host:port`).
    pub async fn bind(
        listen: &str,
        connections_max: usize,
        grace: Duration,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<Server> {
        let mut listeners = Vec::new();
        let mut refused = None;
        for address in lookup_host(listen).await? {
            match TcpListener::bind(address).await {
                Ok(listener) => listeners.push(listener),
                // A name may stand for addresses that this machine does not have.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        if listeners.is_empty() {
            return Err(refused.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()));
        }
        let shared = Arc::new(Shared {
            service: OnceLock::new(),
            tls,
            registry: Arc::new(Registry::default()),
            places: Arc::new(Semaphore::new(connections_max)),
            stopping: CancellationToken::new(),
        });
        Ok(Server { listeners, shared, connections_max, grace })
    }

    pub fn gate(&self) -> Gate {
        Gate(self.shared.clone())
    }

    /// The first address, with the port that the system chose if 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listeners
            .first()
            .map_or_else(|| Err(io::ErrorKind::AddrNotAvailable.into()), TcpListener::local_addr)
    }

    /// Accepts until `stop`, then lets running statements finish within the grace time, ends the rest, and returns.
    pub async fn serve(self, stop: CancellationToken) {
        let Server { listeners, shared, connections_max, grace } = self;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept_any(&listeners) => match accepted {
                    Ok((stream, peer)) if connections.len() < connections_max + STARTUP_EXTRA => {
                        set_up(&stream);
                        connections.spawn(session::run(stream, peer.ip(), shared.clone()));
                    }
                    // No task is spent on telling why: that bound has been used up.
                    Ok((stream, _)) => drop(stream),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listeners);
        shared.stopping.cancel();
        shared.registry.drain();
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all_ended).await.is_err() {
            shared.registry.terminate();
            let all_ended = async { while connections.join_next().await.is_some() {} };
            if tokio::time::timeout(grace, all_ended).await.is_err() {
                tracing::warn!(n = connections.len(), "connections did not end and are dropped");
                connections.shutdown().await;
            }
        }
    }
}

/// An option that the system refuses makes a connection slower, not wrong.
fn set_up(stream: &TcpStream) {
    // A small answer must not wait for the acknowledgement of the last one.
    let _ = stream.set_nodelay(true);
    // A client whose machine has vanished gives its place and its locks back.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// The next connection on any of the addresses.
async fn accept_any(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    let mut accepts: FuturesUnordered<_> =
        listeners.iter().map(|listener| listener.accept()).collect();
    match accepts.next().await {
        Some(accepted) => accepted,
        None => std::future::pending().await,
    }
}
