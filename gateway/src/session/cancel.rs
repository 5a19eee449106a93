//! Cancellation: what may end a running statement from outside, and how it does.
//!
//! Lives here: the registry that CancelRequests look into, the handle each session listens to, and `Guard`, which runs a
//! statement's future next to everything that may end it: cancel, statement_timeout, shutdown, a client that has gone.
//! Ending a statement is dropping its future; nothing is asked to stop.

use std::{
    collections::HashMap,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Sleep;

use super::framing::Wire;
use crate::{
    error::{PgError, SqlState},
    statement::{CommitShield, Shielded},
};

/// How long a write that may be committing is waited for after it was interrupted: many times an fsync, and still short for
/// somebody who cancels a statement that waits for a lock.
const PATIENCE: Duration = Duration::from_millis(500);

/// A statement shall end.
const CANCEL: u8 = 1;
/// The server stops: end the connection when it is idle.
const DRAIN: u8 = 2;
/// The server stops: end the connection now.
const TERMINATE: u8 = 4;

/// What a session listens to.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    bits: AtomicU8,
    waker: AtomicWaker,
}

impl Signal {
    fn raise(&self, bit: u8) {
        self.bits.fetch_or(bit, Ordering::AcqRel);
        self.waker.wake();
    }

    fn has(&self, bits: u8) -> bool {
        self.bits.load(Ordering::Acquire) & bits != 0
    }

    /// A cancel that found no statement running is forgotten, as in Postgres.
    pub(crate) fn forget_cancel(&self) {
        if self.has(CANCEL) {
            self.bits.fetch_and(!CANCEL, Ordering::AcqRel);
        }
    }

    /// Ready when an idle connection must end.
    pub(crate) fn poll_idle_stop(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_bits(DRAIN | TERMINATE, cx)
    }

    /// Ready when even a busy connection must end.
    fn poll_terminate(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_bits(TERMINATE, cx)
    }

    fn poll_bits(&self, bits: u8, cx: &mut Context<'_>) -> Poll<()> {
        if self.has(bits) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        if self.has(bits) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// 57P01, the end of a connection when the server stops.
pub(crate) fn admin_shutdown() -> PgError {
    PgError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

/// All sessions by process id, each with the secret its client was told.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sessions: Mutex<HashMap<i32, (i32, Arc<Signal>)>>,
    last_id: AtomicI32,
}

/// A session's place in the registry; dropping it gives it up.
pub(crate) struct Registration {
    registry: Arc<Registry>,
    pub(crate) process_id: i32,
    pub(crate) secret: i32,
    pub(crate) signal: Arc<Signal>,
}

impl Registry {
    pub(crate) fn register(self: &Arc<Registry>) -> Registration {
        let signal = Arc::new(Signal::default());
        let secret: i32 = rand::random();
        let mut sessions = self.sessions.lock();
        let process_id = loop {
            let id = self.last_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if id > 0 && !sessions.contains_key(&id) {
                break id;
            }
        };
        sessions.insert(process_id, (secret, signal.clone()));
        Registration { registry: self.clone(), process_id, secret, signal }
    }

    /// A CancelRequest. A wrong key does nothing and says nothing.
    pub(crate) fn cancel(&self, process_id: i32, secret: i32) {
        let signal = match self.sessions.lock().get(&process_id) {
            Some((expected, signal)) if *expected == secret => signal.clone(),
            Some(_) | None => return,
        };
        signal.raise(CANCEL);
    }

    /// Idle connections end now, busy ones when they are idle.
    pub(crate) fn drain(&self) {
        self.sessions.lock().values().for_each(|(_, signal)| signal.raise(DRAIN));
    }

    /// All connections end now.
    pub(crate) fn terminate(&self) {
        self.sessions.lock().values().for_each(|(_, signal)| signal.raise(TERMINATE));
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.sessions.lock().remove(&self.process_id);
    }
}

/// Runs futures of statements next to everything that may end them.
pub(crate) struct Guard {
    signal: Arc<Signal>,
    shield: Arc<CommitShield>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Guard {
    pub(crate) fn new(signal: Arc<Signal>, shield: Arc<CommitShield>) -> Guard {
        Guard { signal, shield, deadline: None }
    }

    /// A statement begins: `statement_timeout` counts from here.
    pub(crate) fn begin(&mut self, timeout: Option<Duration>) {
        self.deadline = timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout)));
    }

    /// The statement's result, or the error that ended it. A statement that is committing is not dropped: its outcome counts,
    /// whatever interrupted it.
    pub(crate) async fn run<T>(
        &mut self,
        wire: &mut Wire,
        work: impl Future<Output = Result<T, PgError>>,
    ) -> Result<T, PgError> {
        let mut work = pin!(work);
        let mut interruption: Option<Interruption> = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            if interruption.is_none() {
                let error = match self.interrupted(cx) {
                    Some(error) => error,
                    None => {
                        ready!(wire.poll_closed(cx));
                        client_gone()
                    }
                };
                interruption = Some(Interruption { error, patience: None });
            }
            match &mut interruption {
                Some(interruption) => interruption.poll_drop(&self.shield, cx).map(Err),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Waits for the client's next bytes in the middle of a statement (COPY).
    pub(crate) async fn fill(&mut self, wire: &mut Wire) -> Result<(), PgError> {
        std::future::poll_fn(|cx| {
            if let Some(error) = self.interrupted(cx) {
                return Poll::Ready(Err(error));
            }
            wire.poll_fill(cx).map(Ok)
        })
        .await?;
        if wire.is_closed() { Err(client_gone()) } else { Ok(()) }
    }

    /// Sends rows while a statement runs: a client that does not read holds the statement up, and may still cancel it.
    pub(crate) async fn flush(&mut self, wire: &mut Wire) -> Result<(), PgError> {
        std::future::poll_fn(|cx| {
            // Looked at first: rows that are always ready and a client that reads fast never wait anywhere.
            if let Some(error) = self.interrupted(cx) {
                return Poll::Ready(Err(error));
            }
            wire.poll_flush(cx).map(Ok)
        })
        .await?;
        if wire.is_closed() { Err(client_gone()) } else { Ok(()) }
    }

    /// Sends what ends a command; only the server's stop ends it early.
    pub(crate) async fn flush_end(&mut self, wire: &mut Wire) -> Result<(), PgError> {
        std::future::poll_fn(|cx| {
            if wire.poll_flush(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            self.signal.poll_terminate(cx).map(|()| Err(admin_shutdown()))
        })
        .await
    }

    fn interrupted(&mut self, cx: &mut Context<'_>) -> Option<PgError> {
        if self.signal.poll_bits(CANCEL | TERMINATE, cx).is_ready() {
            if self.signal.has(TERMINATE) {
                return Some(admin_shutdown());
            }
            self.signal.forget_cancel();
            return Some(PgError::new(
                SqlState::QUERY_CANCELED,
                "canceling statement due to user request",
            ));
        }
        if self.deadline.as_mut()?.as_mut().poll(cx).is_ready() {
            self.deadline = None;
            return Some(PgError::new(
                SqlState::QUERY_CANCELED,
                "canceling statement due to statement timeout",
            ));
        }
        None
    }
}

/// Something wants a statement to end, and the statement may be about to commit.
struct Interruption {
    error: PgError,
    patience: Option<Pin<Box<Sleep>>>,
}

impl Interruption {
    /// Ready with the error once the statement may be dropped.
    fn poll_drop(&mut self, shield: &CommitShield, cx: &mut Context<'_>) -> Poll<PgError> {
        match shield.state() {
            Shielded::No => {}
            Shielded::Maybe => {
                let patience =
                    self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
                ready!(patience.as_mut().poll(cx));
            }
            Shielded::Yes => return Poll::Pending,
        }
        Poll::Ready(self.error.clone())
    }
}

/// The client closed its socket in the middle of a statement. Nobody reads this error; it ends the session.
fn client_gone() -> PgError {
    PgError::fatal(SqlState::CONNECTION_FAILURE, "the client has closed the connection")
}
