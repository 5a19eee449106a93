//! The meta service over the network: its methods on the meta process, and the client that other processes have.
//!
//! A member's connection is a stream of answers that never ends by itself: `session`. The meta process drops what the member
//! holds when the stream ends; the client opens another one, and joins again by what it was told the first time. Other
//! methods name the session. Not here: what the service does (`service`).

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use cortex_shard_api::{
    ShardId,
    cluster::{ClusterError, ClusterLock, Join, Joined, LockId, Members, MetaClient, Report},
};
use cortex_shard_rpc::{CallError, ClientConfig, Service, ServiceClient};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{sync::watch, task::AbortHandle};

use super::service::{MetaService, MetaSession};

/// The service's name on the port.
const SERVICE: &str = "cortexdb.Meta";

/// An answer from memory takes at most so long; a write of the meta shard, too.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// A join may wait for a twin to be given up.
const JOIN_WAIT: Duration = Duration::from_secs(15);

/// Pause before a lost connection is made again.
const PAUSE: Duration = Duration::from_millis(200);

/// Pause after a refusal: it lasts until somebody does something about it.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// Members at a time: each has a stream and a few hundred bytes.
const SESSIONS_MAX: usize = 4096;

/// Longest wait that a caller may ask the meta process for.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// What a session's stream says: once, and then nothing while it lives.
type Opened = Result<(u64, Joined), ClusterError>;

/// Sessions of the network by their number.
type Sessions = Arc<Mutex<HashMap<u64, Arc<MetaSession>>>>;

/// A session's place among the others, while its stream lives.
struct Place {
    sessions: Sessions,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let session = self.sessions.lock().remove(&self.number);
        drop(session);
    }
}

/// A question about a session.
#[derive(Serialize, Deserialize)]
struct Of<T> {
    session: u64,
    ask: T,
}

/// The service's methods, to be added to the meta process's server.
pub fn serve(service: Arc<MetaService>) -> Service {
    let sessions: Sessions = Arc::default();
    let find = {
        let sessions = sessions.clone();
        move |number: u64| -> Result<Arc<MetaSession>, ClusterError> {
            let found = sessions.lock().get(&number).cloned();
            found.ok_or_else(|| unavailable("the connection is not known there"))
        }
    };
    macro_rules! method {
        ($service:expr, $name:literal, $ask:ty, |$session:ident, $question:ident| $answer:expr) => {{
            let find = find.clone();
            $service.unary($name, move |of: Of<$ask>| {
                let found = find(of.session);
                async move {
                    let $session = found?;
                    let $question = of.ask;
                    $answer
                }
            })
        }};
    }
    let methods = Service::new(SERVICE).streaming("session", move |join: Join| {
        let (service, sessions) = (service.clone(), sessions.clone());
        let opened = async move {
            if sessions.lock().len() >= SESSIONS_MAX {
                return (Err(unavailable("it has too many members")), None);
            }
            let session = service.connect();
            let joined = match session.join(join).await {
                Ok(joined) => joined,
                Err(error) => return (Err(error), None),
            };
            // Nobody else may know it by counting.
            let number: u64 = rand::random();
            sessions.lock().insert(number, session);
            (Ok((number, joined)), Some(Place { sessions, number }))
        };
        stream::once(opened).flat_map(|(opened, place): (Opened, _)| {
            let lasting = match place {
                Some(place) => stream::once(async move {
                    let _place = place;
                    std::future::pending::<Opened>().await
                })
                .boxed(),
                None => stream::empty().boxed(),
            };
            stream::once(std::future::ready(opened)).chain(lasting)
        })
    });
    let methods = method!(methods, "report", Report, |session, ask| session.report(ask).await);
    let methods = method!(methods, "members", (u64, Duration), |session, ask| {
        session.members(ask.0, ask.1.min(WAIT_MAX)).await
    });
    let methods = method!(methods, "lock", (ClusterLock, LockId, Duration), |session, ask| {
        session.lock_as(ask.0, ask.1, ask.2.min(WAIT_MAX)).await
    });
    let methods = method!(methods, "unlock", LockId, |session, ask| {
        session.unlock(ask);
        Ok::<_, ClusterError>(())
    });
    let methods = method!(methods, "holds", LockId, |session, ask| session.holds(ask).await);
    let methods = method!(methods, "await_catalog", (u64, Duration), |session, ask| {
        session.await_catalog(ask.0, ask.1.min(WAIT_MAX)).await
    });
    let methods = method!(methods, "set_draining", (ShardId, bool), |session, ask| {
        session.set_draining(ask.0, ask.1).await
    });
    method!(methods, "remove_shard", ShardId, |session, ask| session.remove_shard(ask).await)
}

fn unavailable(reason: &str) -> ClusterError {
    ClusterError::Unavailable { reason: reason.to_owned() }
}

fn failed(error: CallError) -> ClusterError {
    ClusterError::Unavailable { reason: error.to_string() }
}

/// The meta process, seen from another one.
#[derive(Debug)]
pub struct RemoteMeta {
    calls: ServiceClient,
    shared: Arc<Shared>,
    keeping: Mutex<Option<AbortHandle>>,
}

#[derive(Debug)]
struct Shared {
    /// The session, while there is one.
    session: watch::Sender<Option<u64>>,
    /// What is said again on a new connection.
    said: Mutex<Said>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Said {
    state: Option<Report>,
    catalog: u64,
}

impl Drop for RemoteMeta {
    fn drop(&mut self) {
        if let Some(keeping) = self.keeping.lock().take() {
            keeping.abort();
        }
    }
}

impl RemoteMeta {
    /// For the meta process at `host:port`.
    pub fn new(address: &str, config: &ClientConfig) -> Result<RemoteMeta, ClusterError> {
        let calls = ServiceClient::new(address, config).map_err(failed)?;
        let shared = Shared { session: watch::Sender::new(None), said: Mutex::default() };
        Ok(RemoteMeta { calls, shared: Arc::new(shared), keeping: Mutex::default() })
    }

    /// Lets a lock go after each of these pauses.
    fn unlock_in(&self, lock: LockId, pauses: &'static [Duration]) {
        let (calls, session) = (self.calls.clone(), *self.shared.session.borrow());
        let Some(session) = session else { return };
        tokio::spawn(async move {
            for pause in pauses {
                tokio::time::sleep(*pause).await;
                let unlocked =
                    ask_in::<_, ()>(&calls, session, "unlock", lock, Duration::ZERO).await;
                if let Err(error) = unlocked {
                    tracing::debug!(%error, "a lock ends with the connection");
                }
            }
        });
    }

    async fn ask<Q: Serialize + Send + Sync, A: DeserializeOwned + Send>(
        &self,
        method: &str,
        ask: Q,
        wait: Duration,
    ) -> Result<A, ClusterError> {
        let session = *self.shared.session.borrow();
        let session = session.ok_or_else(|| unavailable("there is no connection to it"))?;
        ask_in(&self.calls, session, method, ask, wait).await
    }
}

/// A lock whose answer has not come: it may have been granted to a caller who is gone by now.
struct Unwanted<'a> {
    meta: &'a RemoteMeta,
    id: Option<LockId>,
}

impl Drop for Unwanted<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            // Also later: the first may overtake the question.
            self.meta.unlock_in(id, &[Duration::ZERO, PAUSE, ANSWER_WAIT]);
        }
    }
}

async fn ask_in<Q: Serialize + Send + Sync, A: DeserializeOwned + Send>(
    calls: &ServiceClient,
    session: u64,
    method: &str,
    ask: Q,
    wait: Duration,
) -> Result<A, ClusterError> {
    let question = Of { session, ask };
    let answer = calls.unary::<_, Result<A, ClusterError>>(
        SERVICE,
        method,
        &question,
        wait.min(WAIT_MAX) + ANSWER_WAIT,
    );
    answer.await.map_err(failed)?
}

type SessionStream =
    std::pin::Pin<Box<dyn futures::Stream<Item = Result<Opened, CallError>> + Send>>;

async fn open_session(
    calls: &ServiceClient,
    join: &Join,
) -> Result<(u64, Joined, SessionStream), ClusterError> {
    let opening = async {
        let stream = calls.streaming::<Join, Opened>(SERVICE, "session", join, JOIN_WAIT);
        let mut stream: SessionStream = Box::pin(stream.await.map_err(failed)?);
        match stream.next().await {
            Some(Ok(opened)) => opened.map(|(session, joined)| (session, joined, stream)),
            Some(Err(error)) => Err(failed(error)),
            None => Err(unavailable("it ended the connection")),
        }
    };
    let opened = tokio::time::timeout(JOIN_WAIT, opening).await;
    opened.map_err(|_| unavailable("it does not answer in time"))?
}

/// Waits for the end of the connection, makes another one, and so on.
async fn keep(
    calls: ServiceClient,
    shared: Weak<Shared>,
    mut join: Join,
    joined: Joined,
    mut stream: SessionStream,
) {
    join.cluster = Some(joined.cluster);
    join.member = Some(joined.member);
    loop {
        // It says nothing any more; whatever comes is its end.
        let end = stream.next().await;
        tracing::info!(?end, "the connection to the meta process is lost");
        let Some(known) = shared.upgrade() else { return };
        known.session.send_replace(None);
        drop(known);
        loop {
            tokio::time::sleep(PAUSE).await;
            let opened = open_session(&calls, &join).await;
            let Some(known) = shared.upgrade() else { return };
            match opened {
                Ok((session, _, again)) => {
                    stream = again;
                    let said = *known.said.lock();
                    let catalog = Report::Catalog(said.catalog);
                    for report in [Some(catalog), said.state].into_iter().flatten() {
                        let told = ask_in::<_, ()>(&calls, session, "report", report, PAUSE).await;
                        if let Err(error) = told {
                            tracing::debug!(%error, "the meta process was not told again");
                        }
                    }
                    known.session.send_replace(Some(session));
                    break;
                }
                Err(ClusterError::Refused { message }) => {
                    tracing::error!(message, "the meta process refuses this process");
                    drop(known);
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                Err(error) => tracing::debug!(%error, "no connection to the meta process"),
            }
        }
    }
}

#[async_trait]
impl MetaClient for RemoteMeta {
    async fn join(&self, join: Join) -> Result<Joined, ClusterError> {
        let (session, joined, stream) = open_session(&self.calls, &join).await?;
        self.shared.session.send_replace(Some(session));
        let keeping = keep(self.calls.clone(), Arc::downgrade(&self.shared), join, joined, stream);
        let keeping = tokio::spawn(keeping).abort_handle();
        if let Some(earlier) = self.keeping.lock().replace(keeping) {
            earlier.abort();
        }
        Ok(joined)
    }

    async fn report(&self, report: Report) -> Result<(), ClusterError> {
        {
            let mut said = self.shared.said.lock();
            match report {
                Report::Catalog(version) => said.catalog = said.catalog.max(version),
                Report::Up | Report::Leaving => said.state = Some(report),
            }
        }
        self.ask("report", report, Duration::ZERO).await
    }

    async fn members(&self, known: u64, wait: Duration) -> Result<Members, ClusterError> {
        self.ask("members", (known, wait), wait).await
    }

    async fn lock(&self, lock: ClusterLock, wait: Duration) -> Result<LockId, ClusterError> {
        let id = LockId(rand::random());
        let mut unwanted = Unwanted { meta: self, id: Some(id) };
        let locked = self.ask("lock", (lock, id, wait), wait).await;
        if !matches!(locked, Err(ClusterError::Unavailable { .. })) {
            unwanted.id = None;
        }
        locked
    }

    fn unlock(&self, lock: LockId) {
        self.unlock_in(lock, &[Duration::ZERO]);
    }

    async fn holds(&self, lock: LockId) -> Result<bool, ClusterError> {
        self.ask("holds", lock, Duration::ZERO).await
    }

    async fn await_catalog(&self, version: u64, wait: Duration) -> Result<Vec<u32>, ClusterError> {
        self.ask("await_catalog", (version, wait), wait).await
    }

    async fn set_draining(&self, shard: ShardId, is_draining: bool) -> Result<(), ClusterError> {
        self.ask("set_draining", (shard, is_draining), Duration::ZERO).await
    }

    async fn remove_shard(&self, shard: ShardId) -> Result<(), ClusterError> {
        self.ask("remove_shard", shard, Duration::ZERO).await
    }
}
