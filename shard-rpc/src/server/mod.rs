//! The server: shards and services behind one port.
//!
//! Lives here: listening, TLS, which method a request is for, and stopping. `lanes` are its threads, `session` is one client's stream, `requests` turns
//! its frames into calls of a shard, `flight` hands out batches. Not here: what a shard is; any `ShardClient` is served.

use std::{
    collections::{HashMap, hash_map::RandomState},
    convert::Infallible,
    future::Future,
    hash::{BuildHasher, Hasher},
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use arrow_flight::flight_service_server::FlightServiceServer;
use cortex_shard_api::{ShardId, client::ShardClient};
use futures::future::BoxFuture;
use http::{Request, Response};
use parking_lot::{Mutex, RwLock};
use tokio::{net::TcpListener, runtime::Handle, sync::watch};
use tonic::{Status, body::Body, codegen::Service as TowerService, server::Grpc};

use crate::{
    protocol::{CONNECT_PATH, MESSAGE_BYTES_MAX, codec::BytesCodec},
    service::Service,
    tls::TlsConfig,
};

mod flight;
mod handshake;
mod lanes;
mod requests;
mod session;

use handshake::Handshakes;
use lanes::Lanes;
use session::Session;

/// Connections of clients at a time: gateways, other shards, tools. Each costs a few kilobytes while idle.
const SESSIONS_MAX: usize = 4096;

/// Streams of one TCP connection at a time: as many fragments of one gateway run on a shard at once.
const STREAMS_MAX: u32 = 4096;

/// Bytes of one stream, and of all streams of a connection, that may be under way to us.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// How long `serve` waits for connections to end by themselves once it is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Clients of another cluster are refused.
    pub cluster: String,
    /// `None`: plaintext, and whoever reaches the port is let in.
    pub tls: Option<TlsConfig>,
    /// A client that is silent for so long is asked whether it lives,
    pub keep_alive_interval: Duration,
    /// and is given up, its transactions rolled back, when it does not answer for so long.
    pub keep_alive_timeout: Duration,
}

impl ServerConfig {
    pub fn new(cluster: impl Into<String>, tls: Option<TlsConfig>) -> ServerConfig {
        ServerConfig {
            cluster: cluster.into(),
            tls,
            keep_alive_interval: Duration::from_secs(2),
            keep_alive_timeout: Duration::from_secs(4),
        }
    }
}

/// The server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {error}")]
    Bind { address: SocketAddr, error: std::io::Error },
    #[error("the certificate, its key or the authority cannot be used: {0}")]
    Tls(String),
    #[error("serving failed: {0}")]
    Serve(String),
}

/// A bound port with what is served on it.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: ServerConfig,
    shared: Arc<Shared>,
    services: HashMap<&'static str, Arc<Service>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What sessions share.
pub(crate) struct Shared {
    cluster: String,
    shards: RwLock<HashMap<ShardId, Arc<dyn ShardClient>>>,
    sessions: Mutex<HashMap<u64, Weak<Session>>>,
    /// Makes the numbers of sessions, which nobody else may guess by counting.
    random: RandomState,
    counter: AtomicU64,
    is_stopping: watch::Sender<bool>,
    /// Where what may outlive its connection runs: commits that have begun, and rollbacks.
    background: Handle,
    /// Where what takes long runs, so that answers and keep-alives are not held up.
    queries: Handle,
    /// Held by what sessions leave behind: rollbacks and commits under way.
    leftovers: watch::Sender<()>,
}

impl Shared {
    fn new_session_id(&self) -> u64 {
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(self.counter.fetch_add(1, Ordering::Relaxed));
        hasher.finish()
    }

    fn session(&self, id: u64) -> Option<Arc<Session>> {
        self.sessions.lock().get(&id)?.upgrade()
    }
}

/// Adds shards to a server that is running.
#[derive(Clone)]
pub struct Shards(Arc<Shared>);

impl std::fmt::Debug for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.shards.read().keys()).finish()
    }
}

impl Shards {
    pub fn add(&self, shard: Arc<dyn ShardClient>) {
        self.0.shards.write().insert(shard.id(), shard);
    }
}

impl Server {
    /// Binds the port. Nobody is answered before `serve`.
    pub async fn bind(address: SocketAddr, config: ServerConfig) -> Result<Server, ServerError> {
        let bind = |error| ServerError::Bind { address, error };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let shared = Shared {
            cluster: config.cluster.clone(),
            shards: RwLock::default(),
            sessions: Mutex::default(),
            random: RandomState::new(),
            counter: AtomicU64::new(1),
            is_stopping: watch::Sender::new(false),
            background: Handle::current(),
            queries: Handle::current(),
            leftovers: watch::Sender::new(()),
        };
        Ok(Server { listener, address, config, shared: Arc::new(shared), services: HashMap::new() })
    }

    /// Where it listens: the port is known even if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Names the cluster, for a process that takes its port before it knows. Before `shards`.
    #[must_use]
    pub fn with_cluster(mut self, cluster: impl Into<String>) -> Server {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.cluster = cluster.into();
        }
        self
    }

    /// Runs fragments and other long requests on a runtime of their own. Before `shards`.
    #[must_use]
    pub fn with_queries(mut self, queries: Handle) -> Server {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.queries = queries;
        }
        self
    }

    /// Serves a shard. A client names the shard it means.
    #[must_use]
    pub fn add_shard(self, shard: Arc<dyn ShardClient>) -> Server {
        self.shards().add(shard);
        self
    }

    /// To add shards later.
    pub fn shards(&self) -> Shards {
        Shards(self.shared.clone())
    }

    /// Answers calls of a service on the same port.
    #[must_use]
    pub fn add_service(mut self, service: Service) -> Server {
        self.services.insert(service.name(), Arc::new(service));
        self
    }

    /// Serves until `shutdown` is ready; then ends every connection, rolls back what they had open, and returns.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServerError> {
        let builder = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(self.config.keep_alive_interval))
            .http2_keepalive_timeout(Some(self.config.keep_alive_timeout))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_MAX);
        let handshakes = self.config.tls.as_ref().map(Handshakes::new).transpose();
        let handshakes = handshakes.map_err(ServerError::Tls)?;
        let flight = FlightServiceServer::new(flight::Flight(self.shared.clone()));
        let dispatch =
            Dispatch { shared: self.shared.clone(), services: Arc::new(self.services), flight };
        let mut lanes = Lanes::start(&builder, &dispatch, handshakes.as_ref())?;
        let served = tokio::select! {
            error = lanes.accept(self.listener) => Err(error),
            () = shutdown => {
                self.shared.is_stopping.send_replace(true);
                tokio::time::timeout(STOP_GRACE, lanes.stop()).await.unwrap_or(Ok(()))
            }
        };
        self.shared.is_stopping.send_replace(true);
        let sessions: Vec<_> = self.shared.sessions.lock().drain().collect();
        for (_, session) in sessions {
            if let Some(session) = session.upgrade() {
                session.end();
            }
        }
        let leftovers = self.shared.leftovers.closed();
        // A commit that hangs is known to the shard, which is shut down next.
        let _ = tokio::time::timeout(STOP_GRACE, leftovers).await;
        let _ = tokio::time::timeout(STOP_GRACE, lanes.end()).await;
        served
    }
}

/// Finds who answers a request, by its path.
#[derive(Clone)]
struct Dispatch {
    shared: Arc<Shared>,
    services: Arc<HashMap<&'static str, Arc<Service>>>,
    flight: FlightServiceServer<flight::Flight>,
}

impl TowerService<Request<Body>> for Dispatch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if path == CONNECT_PATH {
            let connect = session::Connect(self.shared.clone());
            return Box::pin(async move {
                let mut grpc = Grpc::new(BytesCodec).max_decoding_message_size(MESSAGE_BYTES_MAX);
                Ok(grpc.streaming(connect, request).await)
            });
        }
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (name, method) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if name == <FlightServiceServer<flight::Flight> as tonic::server::NamedService>::NAME {
            return self.flight.call(request);
        }
        let found = self.services.get(name).and_then(|service| service.method(method));
        match found {
            Some(method) => method.answer(request, self.shared.is_stopping.subscribe()),
            None => {
                let status = Status::unimplemented(format!("there is no {path} here"));
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}
