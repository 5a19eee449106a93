//! `RemoteShard`: a shard in another process.
//!
//! Lives here: what the gateway holds. `link` keeps a connection (connecting, backing off, taking a new address),
//! `connection` sends requests over it and finds their answers, `calls` is the trait, `execute` fetches batches.
//!
//! Rules: nothing here blocks; without a connection requests fail soon: each has the link try again, and waits a moment for what
//! comes of it. A transaction and a snapshot belong to the connection on which they began. There must be one `RemoteShard`
//! per shard as long as a process lives (`set_address` when the shard moves house): it is what knows which transactions
//! have begun.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use cortex_shard_api::{ShardError, ShardId, SnapshotId, TxnId, client::RequestContext};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

use crate::{protocol::call::TxnUse, tls::TlsConfig};

mod calls;
mod connection;
mod execute;
mod link;
mod refused;

use connection::Connection;

pub use refused::refused;

pub(crate) use connection::reason_of;
pub(crate) use link::{chain, endpoint};

/// Which shard, where, and who asks.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub shard: ShardId,
    /// `host:port`
    pub address: String,
    /// A shard of another cluster refuses.
    pub cluster: String,
    /// For the shard's logs: `gateway 3`.
    pub caller: String,
}

/// How connections are made and watched.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `None`: plaintext.
    pub tls: Option<TlsConfig>,
    /// For an attempt, handshake included.
    pub connect_timeout: Duration,
    /// A peer that is silent for so long is asked whether it lives,
    pub keep_alive_interval: Duration,
    /// and is given up when it does not answer for so long.
    pub keep_alive_timeout: Duration,
    /// Pause after the first failed attempt; doubles up to `backoff_max`.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            tls: None,
            connect_timeout: Duration::from_secs(2),
            keep_alive_interval: Duration::from_secs(2),
            keep_alive_timeout: Duration::from_secs(4),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
        }
    }
}

/// A request to a shard that was away waits so long for a new attempt: enough to find a shard that is back, too short to hold up
/// a client when a host does not answer at all.
const PROBE_WAIT: Duration = Duration::from_millis(150);

/// Whether a shard can be asked, for views.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    Connecting,
    Up,
    Down { reason: String },
}

/// What the link is at.
#[derive(Clone, Debug)]
enum State {
    /// The first attempt: after the start, a new address, or a broken connection.
    Connecting,
    Up(Arc<Connection>),
    Down(Arc<str>),
}

/// A shard in another process. See the module.
pub struct RemoteShard {
    shared: Arc<Shared>,
    link: AbortHandle,
}

struct Shared {
    endpoint: Endpoint,
    config: ClientConfig,
    address: watch::Sender<String>,
    state: watch::Sender<State>,
    /// Somebody asks for a shard that is away: the next attempt need not wait for its time.
    asked: Notify,
    /// Transactions that have begun on the shard, with the connection they belong to.
    txns: Mutex<HashMap<TxnId, u64>>,
}

impl fmt::Debug for RemoteShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteShard")
            .field("id", &self.shared.endpoint.shard)
            .field("address", &*self.shared.address.borrow())
            .finish_non_exhaustive()
    }
}

impl Drop for RemoteShard {
    fn drop(&mut self) {
        self.link.abort();
        if let State::Up(connection) = &*self.shared.state.borrow() {
            connection.close("the client is gone");
        }
    }
}

impl RemoteShard {
    /// Begins to connect in the background and returns. Needs a tokio runtime around it.
    pub fn connect_lazy(endpoint: Endpoint, config: ClientConfig) -> Arc<RemoteShard> {
        let shared = Arc::new(Shared {
            address: watch::Sender::new(endpoint.address.clone()),
            state: watch::Sender::new(State::Connecting),
            asked: Notify::new(),
            txns: Mutex::default(),
            endpoint,
            config,
        });
        let link = tokio::spawn(link::run(shared.clone())).abort_handle();
        Arc::new(RemoteShard { shared, link })
    }

    /// Goes on with the shard at another address; a connection to the old one is closed.
    pub fn set_address(&self, address: &str) {
        self.shared.address.send_if_modified(|current| {
            let is_new = current != address;
            if is_new {
                address.clone_into(current);
            }
            is_new
        });
    }

    pub fn address(&self) -> String {
        self.shared.address.borrow().clone()
    }

    pub fn state(&self) -> LinkState {
        match &*self.shared.state.borrow() {
            State::Connecting => LinkState::Connecting,
            State::Up(_) => LinkState::Up,
            State::Down(reason) => LinkState::Down { reason: reason.to_string() },
        }
    }

    /// Waits until the shard can be asked, at most so long; whether it can.
    pub async fn ready(&self, timeout: Duration) -> bool {
        let mut state = self.shared.state.subscribe();
        let is_up = state.wait_for(|state| matches!(state, State::Up(_)));
        tokio::time::timeout(timeout, is_up).await.is_ok_and(|state| state.is_ok())
    }
}

impl Shared {
    fn unavailable(&self, reason: impl Into<String>) -> ShardError {
        ShardError::Unavailable { shard: self.endpoint.shard, reason: reason.into() }
    }

    /// There is no connection for now; told in the log when it is news.
    fn down(&self, address: &str, reason: &str) {
        let reason = format!("{address}: {reason}");
        let is_news = match &*self.state.borrow() {
            State::Down(before) => **before != *reason,
            State::Connecting | State::Up(_) => true,
        };
        if is_news {
            tracing::warn!(shard = %self.endpoint.shard, reason, "shard cannot be reached");
        }
        self.state.send_replace(State::Down(reason.into()));
    }

    /// The connection; waits for an attempt that has just begun, and a moment for another one while the shard is away.
    async fn connection(&self) -> Result<Arc<Connection>, ShardError> {
        let state = self.state.borrow().clone();
        match state {
            State::Up(connection) => return Ok(connection),
            State::Down(reason) => return self.probe(&reason).await,
            State::Connecting => {}
        }
        let mut state = self.state.subscribe();
        let decided = state.wait_for(|state| !matches!(state, State::Connecting));
        match tokio::time::timeout(self.config.connect_timeout, decided).await {
            Ok(Ok(state)) => match &*state {
                State::Up(connection) => Ok(connection.clone()),
                State::Down(reason) => Err(self.unavailable(&**reason)),
                State::Connecting => Err(self.unavailable("it is being connected to")),
            },
            Ok(Err(_)) => Err(self.unavailable("the client is shut down")),
            Err(_) => Err(self.unavailable("connecting takes too long")),
        }
    }

    /// Has the link try again at once.
    async fn probe(&self, reason: &str) -> Result<Arc<Connection>, ShardError> {
        let mut state = self.state.subscribe();
        self.asked.notify_one();
        let tried = tokio::time::timeout(PROBE_WAIT, state.changed()).await;
        match &*self.state.borrow() {
            State::Up(connection) => Ok(connection.clone()),
            State::Down(reason) if tried.is_ok() => Err(self.unavailable(&**reason)),
            State::Down(_) | State::Connecting => Err(self.unavailable(reason)),
        }
    }

    /// What a request means for its transaction on this connection: whether it begins here. Called while nothing else can be
    /// sent, so that requests go out in the order in which they were entered.
    fn enter(&self, txn: TxnUse, epoch: u64) -> Result<Entered, ShardError> {
        let lost = || Err(ShardError::TransactionLost { shard: self.endpoint.shard });
        let mut txns = self.txns.lock();
        match txn {
            TxnUse::Statement(id) => match txns.get(&id) {
                None => {
                    txns.insert(id, epoch);
                    Ok(Entered::Begins)
                }
                Some(began) if *began == epoch => Ok(Entered::GoesOn),
                Some(_) => lost(),
            },
            TxnUse::Existing(id) => match txns.get(&id) {
                Some(began) if *began == epoch => Ok(Entered::GoesOn),
                Some(_) | None => lost(),
            },
            TxnUse::Commit(id) => match txns.remove(&id) {
                Some(began) if began == epoch => Ok(Entered::GoesOn),
                Some(_) | None => lost(),
            },
            TxnUse::Rollback(id) => match txns.remove(&id) {
                Some(began) if began == epoch => Ok(Entered::GoesOn),
                Some(_) | None => Ok(Entered::IsOver),
            },
        }
    }

    fn has_begun(&self, txn: TxnId) -> bool {
        self.txns.lock().contains_key(&txn)
    }

    fn forget(&self, txn: TxnId) {
        self.txns.lock().remove(&txn);
    }

    /// The context as the server knows it: snapshots by its own numbers.
    fn context(&self, context: &RequestContext, epoch: u64) -> Result<RequestContext, ShardError> {
        let mut context = context.clone();
        if let Some(snapshot) = context.snapshot {
            context.snapshot = Some(match self.snapshot(snapshot, epoch) {
                Ok(remote) => remote,
                Err(_) if context.txn.is_some() => {
                    return Err(ShardError::TransactionLost { shard: self.endpoint.shard });
                }
                Err(error) => return Err(error),
            });
        }
        Ok(context)
    }

    /// A snapshot's number on the server.
    fn snapshot(&self, snapshot: SnapshotId, epoch: u64) -> Result<SnapshotId, ShardError> {
        connection::remote_snapshot(snapshot, epoch)
            .ok_or_else(|| self.unavailable("the connection with its snapshot was lost"))
    }
}

/// See `Shared::enter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entered {
    Begins,
    GoesOn,
    /// There is nothing to ask the shard.
    IsOver,
}
