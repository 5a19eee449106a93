//! One connection: requests go out in the order in which they are made, many in flight, and answers find who asked.
//!
//! Callers write their frames into a shared buffer under a lock, which gRPC takes away as one message whenever it can send: so
//! frames that are made while another is on its way travel together. The reader hands bodies to callers, who decode them.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll, Waker},
};

use bytes::{BufMut, Bytes};
use cortex_shard_api::{ShardError, ShardId, SnapshotId, TableDescriptor};
use futures::Stream;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, oneshot};
use tonic::{Streaming, transport::Channel};

use super::{Entered, Shared};
use crate::protocol::{
    TABLES_MAX,
    call::{Call, TableNumber, TxnUse},
    frame::{self, FrameBuffer, FrameError, Kind, next_frame},
};

/// Bytes that wait to be sent before new requests wait, too: the peer or the network does not keep up.
const OUT_BYTES_MAX: usize = 64 << 20;

/// Tables that one request names at the most, before the connection would have to forget some of them meanwhile.
const TABLES_PER_REQUEST: usize = TABLES_MAX / 2;

/// Bits of a snapshot's number that are the server's; above them is the connection's.
const SNAPSHOT_BITS: u32 = 40;

/// The number by which the server knows a snapshot; `None` if it is of another connection.
pub(super) fn remote_snapshot(snapshot: SnapshotId, epoch: u64) -> Option<SnapshotId> {
    (snapshot.0 >> SNAPSHOT_BITS == epoch)
        .then_some(SnapshotId(snapshot.0 & ((1 << SNAPSHOT_BITS) - 1)))
}

/// A snapshot's number for callers; `None` if the server's is out of bounds.
pub(super) fn local_snapshot(snapshot: SnapshotId, epoch: u64) -> Option<SnapshotId> {
    (snapshot.0 >> SNAPSHOT_BITS == 0).then_some(SnapshotId(epoch << SNAPSHOT_BITS | snapshot.0))
}

/// See the module.
pub(super) struct Connection {
    pub shard: ShardId,
    /// Which connection of its `RemoteShard` this is, counting from 1.
    pub epoch: u64,
    /// What tickets name, once the server has said it.
    pub session: AtomicU64,
    /// Batches have a connection of their own, so that they do not hold up answers.
    pub flight: Channel,
    out: Mutex<Out>,
    /// Something was sent while callers waited for room.
    drained: Notify,
    pending: Mutex<HashMap<u64, Waiter>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Out {
    frames: FrameBuffer,
    /// Who sends, while it has nothing to send.
    waker: Option<Waker>,
    tables: HashMap<usize, KnownTable>,
    last_id: u64,
    /// Requests up to this one are out of our hands.
    taken_id: u64,
    closed: Option<Arc<str>>,
}

/// A descriptor that the server knows: named by its address, which it keeps by being alive.
struct KnownTable {
    number: TableNumber,
    _descriptor: Arc<TableDescriptor>,
}

/// Who waits for an answer.
enum Waiter {
    Caller(oneshot::Sender<Bytes>),
    /// Nobody any more, but the answer names a snapshot that must be closed.
    AbandonedSnapshot,
}

/// What a request needs to know of its connection while it is made.
pub(super) struct Tables<'a> {
    out: &'a mut Out,
    shard: ShardId,
    pub epoch: u64,
}

impl Tables<'_> {
    /// The number of a descriptor, which is sent if the server does not have it.
    pub fn number(&mut self, table: &Arc<TableDescriptor>) -> Result<TableNumber, ShardError> {
        let address = Arc::as_ptr(table) as usize;
        if let Some(known) = self.out.tables.get(&address) {
            return Ok(known.number);
        }
        let number = u32::try_from(self.out.tables.len()).unwrap_or(u32::MAX);
        let written = self.out.frames.push(0, |frame| {
            frame.put_u8(Kind::Table as u8);
            frame::write(frame, &(number, &**table))
        });
        written.map_err(|error| too_large(self.shard, error))?;
        let known = KnownTable { number: TableNumber(number), _descriptor: table.clone() };
        self.out.tables.insert(address, known);
        Ok(TableNumber(number))
    }
}

/// What becomes of a request that cannot be encoded.
fn too_large(shard: ShardId, error: FrameError) -> ShardError {
    match error {
        FrameError::TooLarge => ShardError::LimitExceeded {
            what: "size of a request to a shard".to_owned(),
            limit: format!("{} MB", crate::protocol::FRAME_BYTES_MAX >> 20),
        },
        FrameError::Encode | FrameError::Decode | FrameError::Torn => {
            ShardError::Internal { shard, what: error.to_string() }
        }
    }
}

impl Connection {
    pub fn new(shard: ShardId, epoch: u64, flight: Channel, hello: Bytes) -> Connection {
        let mut out = Out::default();
        out.frames.push_message(hello);
        Connection {
            shard,
            epoch,
            session: AtomicU64::new(0),
            flight,
            out: Mutex::new(out),
            drained: Notify::new(),
            pending: Mutex::default(),
        }
    }

    /// Returns when there is room for a request.
    pub async fn room(&self) {
        loop {
            let drained = self.drained.notified();
            {
                let out = self.out.lock();
                if out.frames.len() < OUT_BYTES_MAX || out.closed.is_some() {
                    return;
                }
            }
            drained.await;
        }
    }

    /// Sends a request. `None`: its transaction is over, there is nothing to ask.
    pub fn send(
        self: &Arc<Connection>,
        shared: &Shared,
        build: impl FnOnce(&mut Tables<'_>) -> Result<Call, ShardError>,
    ) -> Result<Option<InFlight>, ShardError> {
        let mut out = self.out.lock();
        if let Some(reason) = &out.closed {
            return Err(shared.unavailable(&**reason));
        }
        if out.tables.len() + TABLES_PER_REQUEST >= TABLES_MAX {
            out.tables.clear();
            let written = out.frames.push(0, |frame| {
                frame.put_u8(Kind::ForgetTables as u8);
                Ok(())
            });
            written.map_err(|error| too_large(self.shard, error))?;
        }
        let tables = &mut Tables { out: &mut out, shard: self.shard, epoch: self.epoch };
        let call = build(tables)?;
        let entered = match call.txn() {
            Some(txn) => shared.enter(txn, self.epoch)?,
            None => Entered::GoesOn,
        };
        let kind = match entered {
            Entered::Begins => Kind::Begin,
            Entered::GoesOn => Kind::Call,
            Entered::IsOver => return Ok(None),
        };
        let id = out.last_id + 1;
        let written = out.frames.push(id, |frame| {
            frame.put_u8(kind as u8);
            frame::write(frame, &call)
        });
        if let Err(error) = written {
            if let (Entered::Begins, Some(TxnUse::Statement(txn))) = (entered, call.txn()) {
                shared.forget(txn);
            }
            return Err(too_large(self.shard, error));
        }
        out.last_id = id;
        let (reply, answer) = oneshot::channel();
        self.pending.lock().insert(id, Waiter::Caller(reply));
        let waker = out.waker.take();
        drop(out);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(Some(InFlight {
            connection: self.clone(),
            id,
            answer,
            commits: call.commits(),
            opens_snapshot: matches!(call, Call::OpenSnapshot { .. }),
            is_answered: false,
        }))
    }

    /// Sends a frame that has no answer, if there still is a connection.
    fn tell(&self, id: u64, kind: Kind, snapshot: Option<SnapshotId>) {
        let mut out = self.out.lock();
        if out.closed.is_some() {
            return;
        }
        // A few bytes: they fit every bound.
        let _ = out.frames.push(id, |frame| {
            frame.put_u8(kind as u8);
            match snapshot {
                Some(snapshot) => frame::write(frame, &snapshot),
                None => Ok(()),
            }
        });
        let waker = out.waker.take();
        drop(out);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Closes a snapshot by the server's number.
    pub fn close_snapshot(&self, snapshot: SnapshotId) {
        self.tell(0, Kind::CloseSnapshot, Some(snapshot));
    }

    /// Tells the shard that the batches of a request are not wanted.
    pub fn cancel(&self, id: u64) {
        self.tell(id, Kind::Cancel, None);
    }

    /// Hands out answers until the connection ends; returns why it did.
    pub async fn read(&self, mut inbound: Streaming<Bytes>) -> String {
        loop {
            let mut message = match inbound.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return "the shard ended the connection".to_owned(),
                Err(status) => return reason_of(&status),
            };
            loop {
                match next_frame(&mut message) {
                    Ok(Some((id, body))) => self.deliver(id, body),
                    Ok(None) => break,
                    Err(error) => return format!("the shard sent what cannot be read: {error}"),
                }
            }
        }
    }

    fn deliver(&self, id: u64, body: Bytes) {
        let waiter = self.pending.lock().remove(&id);
        match waiter {
            // A caller that is gone has sent its cancellation.
            Some(Waiter::Caller(reply)) => drop(reply.send(body)),
            Some(Waiter::AbandonedSnapshot) => {
                if let Ok(Ok(snapshot)) = frame::decode::<Result<SnapshotId, ShardError>>(&body) {
                    self.close_snapshot(snapshot);
                }
            }
            None => {}
        }
    }

    /// Ends the connection: whoever waits gets an error, nothing more is sent.
    pub fn close(&self, reason: &str) {
        let waker = {
            let mut out = self.out.lock();
            out.closed.get_or_insert_with(|| Arc::from(reason));
            out.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        self.drained.notify_waiters();
        let pending = std::mem::take(&mut *self.pending.lock());
        drop(pending);
    }

    /// What it means that no answer came.
    fn lost(&self, id: u64, commits: bool) -> ShardError {
        let out = self.out.lock();
        let was_sent = id <= out.taken_id;
        if commits && was_sent {
            return ShardError::OutcomeUnknown { shard: self.shard };
        }
        let reason = out.closed.as_deref().unwrap_or("the connection was lost").to_owned();
        ShardError::Unavailable { shard: self.shard, reason }
    }
}

/// What a status of gRPC says, with its causes.
pub(crate) fn reason_of(status: &tonic::Status) -> String {
    let mut reason = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let text = error.to_string();
        if !reason.contains(&text) {
            reason = if reason.is_empty() { text } else { format!("{reason}: {text}") };
        }
        source = error.source();
    }
    reason
}

/// A request that was sent. Dropping it before its answer cancels it.
pub(super) struct InFlight {
    connection: Arc<Connection>,
    pub id: u64,
    answer: oneshot::Receiver<Bytes>,
    commits: bool,
    opens_snapshot: bool,
    is_answered: bool,
}

impl InFlight {
    /// The answer.
    pub async fn answer<T: DeserializeOwned>(&mut self) -> Result<T, ShardError> {
        let body = (&mut self.answer).await;
        self.is_answered = true;
        match body {
            Ok(body) => frame::decode::<Result<T, ShardError>>(&body).unwrap_or_else(|error| {
                let shard = self.connection.shard;
                Err(if self.commits {
                    ShardError::OutcomeUnknown { shard }
                } else {
                    let what = format!("an answer that cannot be read: {error}");
                    ShardError::Internal { shard, what }
                })
            }),
            Err(_closed) => Err(self.connection.lost(self.id, self.commits)),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let mut pending = self.connection.pending.lock();
        // Not there: the answer is under way to us, or the connection is closed.
        let Some(waiter) = pending.get_mut(&self.id) else {
            drop(pending);
            self.drop_answer();
            return;
        };
        if self.opens_snapshot {
            *waiter = Waiter::AbandonedSnapshot;
            return;
        }
        pending.remove(&self.id);
        drop(pending);
        self.connection.cancel(self.id);
    }
}

impl InFlight {
    /// Nobody reads the answer that came.
    fn drop_answer(&mut self) {
        self.answer.close();
        let Ok(body) = self.answer.try_recv() else { return };
        if !self.opens_snapshot {
            return;
        }
        if let Ok(Ok(snapshot)) = frame::decode::<Result<SnapshotId, ShardError>>(&body) {
            self.connection.close_snapshot(snapshot);
        }
    }
}

/// The requests of a connection, as gRPC sends them.
pub(super) struct Outgoing {
    connection: Arc<Connection>,
    /// Others who have something to send were let go first.
    has_gathered: bool,
}

impl Outgoing {
    pub fn new(connection: Arc<Connection>) -> Outgoing {
        Outgoing { connection, has_gathered: false }
    }
}

impl Stream for Outgoing {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = self.get_mut();
        let mut out = this.connection.out.lock();
        if out.closed.is_some() {
            return Poll::Ready(None);
        }
        if out.frames.len() > 0 && !this.has_gathered {
            // Tasks that can run now may have requests, too: one message of all costs both sides little more than one of one.
            this.has_gathered = true;
            drop(out);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.has_gathered = false;
        let was_full = out.frames.len() >= OUT_BYTES_MAX;
        let Some(message) = out.frames.take() else {
            out.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        out.taken_id = out.last_id;
        if was_full && out.frames.len() < OUT_BYTES_MAX {
            this.connection.drained.notify_waiters();
        }
        Poll::Ready(Some(message))
    }
}
