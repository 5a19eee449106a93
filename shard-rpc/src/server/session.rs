//! One client's stream: the handshake, its requests in, its answers out, and what it leaves behind when it ends.
//!
//! The task that sends answers also reads requests and starts them: a request that can be answered at once costs no task and
//! no wake-up. One that waits is spawned; it writes its answer into the buffer that is sent next.
//!
//! What belongs to a session: transactions, snapshots, and fragments whose batches nobody has fetched yet. It ends with the stream
//! (the client left, the link is dead, the server stops): then its requests are dropped, except commits that have begun, its
//! transactions are rolled back behind them and its snapshots closed.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use cortex_shard_api::{
    ShardError, SnapshotId, TxnId,
    client::{BatchStream, ShardClient},
    report::FragmentReport,
};
use futures::{FutureExt, Stream, future::BoxFuture, task::noop_waker};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::AbortHandle,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming, server::StreamingService};

use super::{
    SESSIONS_MAX, Shared,
    requests::{self, Tables},
};
use crate::protocol::{
    Hello, Refusal, VERSION, Welcome,
    call::Call,
    frame::{self, FrameBuffer, FrameError, Kind, next_frame},
};

/// A client says who it is within so long.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests of a session under way; more are refused. Far more than a gateway has sessions.
const RUNNING_MAX: usize = 1 << 15;

/// Frames that are started before what is answered is sent: some 100 microseconds of point reads.
const FRAMES_PER_TURN: usize = 32;

/// Transactions of a session: as many as a shard keeps for all.
const TRANSACTIONS_MAX: usize = 1 << 16;

/// Snapshots of a session: as many as a shard leases to all.
const SNAPSHOTS_MAX: usize = 1 << 16;

/// Fragments whose batches nobody fetches yet.
const FRAGMENTS_MAX: usize = 4096;

/// The order of a transaction's requests: each holds it until it is answered or dropped. Fair.
pub(super) type Turn = Arc<tokio::sync::Mutex<()>>;

/// What its requests share. See the module.
pub(crate) struct Session {
    pub shard: Arc<dyn ShardClient>,
    caller: String,
    out: Mutex<Out>,
    state: Mutex<State>,
    /// Cancelled when the session ends.
    pub ended: CancellationToken,
    /// What may outlive the connection runs there,
    background: Handle,
    /// what takes long there,
    queries: Handle,
    /// and all else on the connection's own thread.
    lane: Handle,
    leftovers: watch::Sender<()>,
}

#[derive(Default)]
struct Out {
    frames: FrameBuffer,
    /// Who sends, while it has nothing to send.
    waker: Option<Waker>,
}

#[derive(Default)]
struct State {
    has_ended: bool,
    running: HashMap<u64, Running>,
    txns: HashMap<TxnId, Turn>,
    snapshots: HashSet<SnapshotId>,
    fragments: HashMap<u64, Fragment>,
}

struct Running {
    task: AbortHandle,
    is_uncancellable: bool,
}

/// What a fragment makes.
pub(super) struct Batches {
    pub stream: BatchStream,
    /// Filled before the end of the stream, if the client asked for it.
    pub report: Option<Arc<FragmentReport>>,
}

enum Fragment {
    /// It runs, and waits for `DoGet`.
    Ready(Batches),
    /// `DoGet` waits for it.
    Awaited(oneshot::Sender<Batches>),
}

impl Session {
    /// Appends an answer. `wake`: the sender may be asleep.
    fn answer(&self, id: u64, body: &[u8], wake: bool) {
        let mut out = self.out.lock();
        let pushed = out.frames.push(id, |frame| {
            frame.extend_from_slice(body);
            Ok(())
        });
        if pushed.is_err() {
            let error = requests::too_large();
            // A short error fits.
            let _ = out.frames.push(id, |frame| frame::write(frame, &Err::<(), _>(error)));
        }
        let waker = if wake { out.waker.take() } else { None };
        drop(out);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The turn of a transaction that begins here.
    pub fn begin(&self, txn: TxnId) -> Result<Turn, ShardError> {
        let mut state = self.state.lock();
        if state.txns.len() >= TRANSACTIONS_MAX && !state.txns.contains_key(&txn) {
            return Err(ShardError::LimitExceeded {
                what: "number of open transactions".to_owned(),
                limit: TRANSACTIONS_MAX.to_string(),
            });
        }
        Ok(state.txns.entry(txn).or_default().clone())
    }

    /// The turn of a transaction that has begun.
    pub fn turn(&self, txn: TxnId) -> Option<Turn> {
        self.state.lock().txns.get(&txn).cloned()
    }

    /// The turn of a transaction that ends with the request.
    pub fn end_txn(&self, txn: TxnId) -> Option<Turn> {
        self.state.lock().txns.remove(&txn)
    }

    pub fn has_snapshot(&self, snapshot: SnapshotId) -> bool {
        self.state.lock().snapshots.contains(&snapshot)
    }

    /// Whether another snapshot may be opened.
    pub fn has_room(&self) -> bool {
        self.state.lock().snapshots.len() < SNAPSHOTS_MAX
    }

    /// Takes over a snapshot that was opened; closes it if the session has ended meanwhile.
    pub fn keep_snapshot(&self, snapshot: SnapshotId) {
        let mut state = self.state.lock();
        if state.has_ended {
            drop(state);
            self.shard.close_snapshot(snapshot);
        } else {
            state.snapshots.insert(snapshot);
        }
    }

    fn close_snapshot(&self, snapshot: SnapshotId) {
        if self.state.lock().snapshots.remove(&snapshot) {
            self.shard.close_snapshot(snapshot);
        }
    }

    /// Hands a fragment's batches to whoever asks, or asked, for them.
    pub fn keep_batches(&self, id: u64, batches: Batches) -> Result<(), ShardError> {
        let mut state = self.state.lock();
        if state.has_ended {
            return Ok(());
        }
        match state.fragments.remove(&id) {
            Some(Fragment::Awaited(reply)) => {
                drop(state);
                // Nobody there any more: the batches are dropped, which ends the fragment.
                drop(reply.send(batches));
                Ok(())
            }
            Some(Fragment::Ready(_)) | None if state.fragments.len() < FRAGMENTS_MAX => {
                state.fragments.insert(id, Fragment::Ready(batches));
                Ok(())
            }
            Some(Fragment::Ready(_)) | None => Err(ShardError::LimitExceeded {
                what: "number of fragments without a reader".to_owned(),
                limit: FRAGMENTS_MAX.to_string(),
            }),
        }
    }

    /// Nobody will get the batches of a request.
    pub fn drop_batches(&self, id: u64) {
        let fragment = self.state.lock().fragments.remove(&id);
        drop(fragment);
    }

    /// The batches of a request, for `DoGet`; waits until it runs. `None`: it does not.
    pub async fn batches(&self, id: u64) -> Option<Batches> {
        let answer = {
            let mut state = self.state.lock();
            if state.has_ended {
                return None;
            }
            match state.fragments.remove(&id) {
                Some(Fragment::Ready(batches)) => return Some(batches),
                // Asked for twice: the newer one gets them.
                Some(Fragment::Awaited(_)) | None => {}
            }
            if state.fragments.len() >= FRAGMENTS_MAX {
                return None;
            }
            let (reply, answer) = oneshot::channel();
            state.fragments.insert(id, Fragment::Awaited(reply));
            answer
        };
        let forget = ForgetOnDrop { session: self, id };
        let batches = answer.await.ok();
        std::mem::forget(forget);
        batches
    }

    fn cancel(&self, id: u64) {
        let mut state = self.state.lock();
        let fragment = state.fragments.remove(&id);
        if state.running.get(&id).is_some_and(|running| !running.is_uncancellable)
            && let Some(running) = state.running.remove(&id)
        {
            running.task.abort();
        }
        drop(state);
        drop(fragment);
    }

    /// Ends the session. See the module. Once is enough.
    pub fn end(&self) {
        let state = {
            let mut state = self.state.lock();
            if state.has_ended {
                return;
            }
            std::mem::replace(&mut *state, State { has_ended: true, ..State::default() })
        };
        self.ended.cancel();
        tracing::info!(caller = %self.caller, shard = %self.shard.id(), "client disconnected");
        for running in state.running.into_values() {
            if !running.is_uncancellable {
                running.task.abort();
            }
        }
        drop(state.fragments);
        for snapshot in state.snapshots {
            self.shard.close_snapshot(snapshot);
        }
        for (txn, turn) in state.txns {
            let shard = self.shard.clone();
            let leftover = self.leftovers.subscribe();
            self.background.spawn(async move {
                let _turn = turn.lock_owned().await;
                if let Err(error) = shard.rollback(txn).await {
                    tracing::warn!(shard = %shard.id(), %txn, %error, "rolling back a lost transaction failed");
                }
                drop(leftover);
            });
        }
    }
}

/// `DoGet` was dropped while it waited.
struct ForgetOnDrop<'a> {
    session: &'a Session,
    id: u64,
}

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        let mut state = self.session.state.lock();
        if matches!(state.fragments.get(&self.id), Some(Fragment::Awaited(_))) {
            state.fragments.remove(&self.id);
        }
    }
}

/// The gRPC method: takes the handshake, then is a `SessionStream`.
pub(super) struct Connect(pub Arc<Shared>);

impl StreamingService<Bytes> for Connect {
    type Response = Bytes;
    type ResponseStream = Answers;
    type Future = BoxFuture<'static, Result<tonic::Response<Answers>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Bytes>>) -> Self::Future {
        let shared = self.0.clone();
        let mut inbound = request.into_inner();
        Box::pin(async move {
            let hello = tokio::time::timeout(HELLO_TIMEOUT, inbound.message()).await;
            let hello = hello.map_err(|_| Status::deadline_exceeded("no handshake"))??;
            let hello = hello.ok_or_else(|| Status::invalid_argument("no handshake"))?;
            let answers = match accept(&shared, &hello) {
                Ok(session) => {
                    Answers::Session(Box::new(SessionStream::new(shared, session, inbound)))
                }
                Err(refusal) => {
                    tracing::warn!(%refusal, "a client is refused");
                    let welcome = frame::encode(&Welcome::Refused(refusal));
                    let welcome = welcome.map_err(|error| Status::internal(error.to_string()))?;
                    Answers::Refused(Some(welcome.freeze()))
                }
            };
            Ok(tonic::Response::new(answers))
        })
    }
}

fn accept(shared: &Shared, hello: &[u8]) -> Result<Arc<Session>, Refusal> {
    let (protocol, _) = postcard::take_from_bytes::<u32>(hello).map_err(|_| Refusal::Malformed)?;
    if protocol != VERSION {
        return Err(Refusal::Protocol { ours: VERSION });
    }
    let hello: Hello = frame::decode(hello).map_err(|_| Refusal::Malformed)?;
    if hello.cluster != shared.cluster {
        return Err(Refusal::Cluster { ours: shared.cluster.clone() });
    }
    let shard = shared.shards.read().get(&hello.shard).cloned();
    let shard = shard.ok_or(Refusal::Shard { shard: hello.shard })?;
    let mut sessions = shared.sessions.lock();
    sessions.retain(|_, session| session.strong_count() > 0);
    if sessions.len() >= SESSIONS_MAX || *shared.is_stopping.borrow() {
        return Err(Refusal::Full { limit: SESSIONS_MAX });
    }
    let id = shared.new_session_id();
    let mut out = Out::default();
    let welcome =
        frame::encode(&Welcome::Accepted { session: id }).map_err(|_| Refusal::Malformed)?;
    out.frames.push_message(welcome.freeze());
    tracing::info!(caller = %hello.caller, shard = %hello.shard, "client connected");
    let session = Arc::new(Session {
        shard,
        caller: hello.caller,
        out: Mutex::new(out),
        state: Mutex::default(),
        ended: CancellationToken::new(),
        background: shared.background.clone(),
        lane: Handle::current(),
        queries: shared.queries.clone(),
        leftovers: shared.leftovers.clone(),
    });
    sessions.insert(id, Arc::downgrade(&session));
    Ok(session)
}

/// What a client gets.
pub(super) enum Answers {
    Refused(Option<Bytes>),
    Session(Box<SessionStream>),
}

impl Stream for Answers {
    type Item = Result<Bytes, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Answers::Refused(message) => Poll::Ready(message.take().map(Ok)),
            Answers::Session(session) => session.poll(context),
        }
    }
}

/// Reads, starts, sends. See the module.
pub(super) struct SessionStream {
    session: Arc<Session>,
    inbound: Streaming<Bytes>,
    /// What is left of a message.
    message: Bytes,
    tables: Tables,
    is_over: bool,
    /// There is more to read, but what was answered is to go out first: gRPC gathers until we have nothing.
    must_flush: bool,
    /// Said at the end.
    failure: Option<Status>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl SessionStream {
    fn new(shared: Arc<Shared>, session: Arc<Session>, inbound: Streaming<Bytes>) -> SessionStream {
        // The server's stop is the session's end.
        let mut stopping = shared.is_stopping.subscribe();
        let ended = session.ended.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = stopping.wait_for(|is_stopping| *is_stopping) => ended.cancel(),
                () = ended.cancelled() => {}
            }
        });
        SessionStream {
            ended: Box::pin(session.ended.clone().cancelled_owned()),
            session,
            inbound,
            message: Bytes::new(),
            tables: Tables::default(),
            is_over: false,
            must_flush: false,
            failure: None,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if !self.is_over && self.ended.as_mut().poll(context).is_ready() {
            self.is_over = true;
        }
        if std::mem::take(&mut self.must_flush) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut n_frames = 0;
        let mut is_waiting = false;
        while !self.is_over && n_frames < FRAMES_PER_TURN {
            match next_frame(&mut self.message) {
                Ok(Some((id, body))) => {
                    n_frames += 1;
                    if let Err(error) = self.frame(id, body) {
                        self.broken(&error);
                    }
                }
                Ok(None) => match Pin::new(&mut self.inbound).poll_next(context) {
                    Poll::Ready(Some(Ok(message))) => self.message = message,
                    Poll::Ready(Some(Err(_)) | None) => self.is_over = true,
                    Poll::Pending => {
                        is_waiting = true;
                        break;
                    }
                },
                Err(error) => self.broken(&error),
            }
        }
        let mut out = self.session.out.lock();
        if let Some(message) = out.frames.take() {
            self.must_flush = n_frames == FRAMES_PER_TURN;
            return Poll::Ready(Some(Ok(message)));
        }
        if self.is_over {
            return Poll::Ready(self.failure.take().map(Err));
        }
        out.waker = Some(context.waker().clone());
        drop(out);
        if !is_waiting {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// What cannot be read is the end: nobody knows what would follow.
    fn broken(&mut self, error: &FrameError) {
        self.is_over = true;
        self.failure = Some(Status::invalid_argument(error.to_string()));
        tracing::warn!(caller = %self.session.caller, %error, "a client sent what cannot be read");
    }

    fn frame(&mut self, id: u64, mut body: Bytes) -> Result<(), FrameError> {
        let kind = body.first().copied().and_then(Kind::of).ok_or(FrameError::Decode)?;
        let body = body.split_off(1);
        match kind {
            Kind::Call | Kind::Begin => self.call(id, kind, &body),
            Kind::Cancel => {
                self.session.cancel(id);
                Ok(())
            }
            Kind::CloseSnapshot => {
                self.session.close_snapshot(frame::decode(&body)?);
                Ok(())
            }
            Kind::Table => self.tables.learn(&body),
            Kind::ForgetTables => {
                self.tables.forget();
                Ok(())
            }
        }
    }

    fn call(&mut self, id: u64, kind: Kind, body: &[u8]) -> Result<(), FrameError> {
        let call: Call = match frame::decode(body) {
            Ok(call) => call,
            Err(_) => {
                self.refuse(id, &requests::unreadable(self.session.shard.id()));
                return Ok(());
            }
        };
        let (is_uncancellable, is_long) = (call.is_uncancellable(), call.is_long());
        let is_full = self.session.state.lock().running.len() >= RUNNING_MAX;
        if is_full && !is_uncancellable {
            let error = ShardError::LimitExceeded {
                what: "number of requests under way on a connection".to_owned(),
                limit: RUNNING_MAX.to_string(),
            };
            self.refuse(id, &error);
            return Ok(());
        }
        let begins = kind == Kind::Begin;
        let mut work = match requests::start(&self.session, &self.tables, id, begins, call) {
            Ok(work) => work,
            Err(error) => {
                self.refuse(id, &error);
                return Ok(());
            }
        };
        // Most are answered at once. One that is not is polled again by its task, which then is who is woken.
        let waker = noop_waker();
        if let Poll::Ready(body) = work.poll_unpin(&mut Context::from_waker(&waker)) {
            self.session.answer(id, &body, false);
            return Ok(());
        }
        let session = self.session.clone();
        let leftover = is_uncancellable.then(|| session.leftovers.subscribe());
        let mut state = self.session.state.lock();
        let runtime = match (is_uncancellable, is_long) {
            (true, _) => &self.session.background,
            (false, true) => &self.session.queries,
            (false, false) => &self.session.lane,
        };
        let task = runtime.spawn(async move {
            let body = work.await;
            session.state.lock().running.remove(&id);
            session.answer(id, &body, true);
            drop(leftover);
        });
        let running = Running { task: task.abort_handle(), is_uncancellable };
        state.running.insert(id, running);
        Ok(())
    }

    fn refuse(&self, id: u64, error: &ShardError) {
        // An error without a bound would be a table's name; whatever it is, it fits.
        if let Ok(body) = frame::encode(&Err::<(), _>(error)) {
            self.session.answer(id, &body, false);
        }
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        self.session.end();
    }
}
