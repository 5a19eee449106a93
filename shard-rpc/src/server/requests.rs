//! From a request to the shard's answer: tables by their numbers, whose turn it is, how long it may take, and the call itself.

use std::{
    collections::HashMap,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arrow::record_batch::RecordBatch;
use bytes::BytesMut;
use cortex_shard_api::{
    ShardError, ShardId, TableDescriptor,
    client::{
        BatchStream, Fragment, FragmentRequest, GetRequest, LockRowsRequest, ScanRowsRequest,
        ScanSpec, ShardClient, WriteOutcome, WriteRequest,
    },
    copies::ChangesRequest,
    moves::{ApplyMoving, HoldRanges, MovingFrom, MovingRequest, TableRanges},
    report::FragmentReport,
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use serde::Serialize;
use tokio::{sync::mpsc, task::AbortHandle};

use super::session::{Batches, Session, Turn};
use crate::protocol::{
    FRAME_BYTES_MAX, TABLES_MAX,
    call::{Call, Ranges, Scan, TableNumber, TxnUse},
    check::{self, Wrong},
    frame::{self, FrameError},
};

/// A request under way; its result is the body of the answer.
pub(super) type Work = BoxFuture<'static, BytesMut>;

/// How much longer a request may take than it says: the caller ends it by itself, with a better error, if it still can.
const TIMEOUT_GRACE: Duration = Duration::from_millis(250);

/// Table descriptors by the client's numbers.
#[derive(Default)]
pub(super) struct Tables(HashMap<u32, Result<Arc<TableDescriptor>, Wrong>>);

impl Tables {
    /// Takes a descriptor. One that is wrong in itself fails the requests that use it.
    pub fn learn(&mut self, body: &[u8]) -> Result<(), FrameError> {
        if self.0.len() >= TABLES_MAX {
            return Err(FrameError::TooLarge);
        }
        let (number, table): (u32, TableDescriptor) = frame::decode(body)?;
        let table = check::table(&table).map(|()| Arc::new(table));
        self.0.insert(number, table);
        Ok(())
    }

    pub fn forget(&mut self) {
        self.0.clear();
    }

    fn get(&self, number: TableNumber) -> Result<Arc<TableDescriptor>, Wrong> {
        match self.0.get(&number.0) {
            Some(table) => table.clone(),
            None => Err("a table that was not sent"),
        }
    }

    fn ranges(&self, moving: Vec<Ranges>) -> Result<Vec<TableRanges>, Wrong> {
        let one =
            |Ranges { table, ranges }: Ranges| Ok(TableRanges { table: self.get(table)?, ranges });
        moving.into_iter().map(one).collect()
    }

    fn scan(&self, scan: Scan) -> Result<ScanSpec, Wrong> {
        let Scan { table, columns, with_identity, access, limit, batch_rows } = scan;
        let table = self.get(table)?;
        let spec = ScanSpec { table, columns, with_identity, access, limit, batch_rows };
        check::scan(&spec)?;
        Ok(spec)
    }
}

pub(super) fn too_large() -> ShardError {
    ShardError::LimitExceeded {
        what: "size of an answer of a shard".to_owned(),
        limit: format!("{} MB", FRAME_BYTES_MAX >> 20),
    }
}

pub(super) fn unreadable(shard: ShardId) -> ShardError {
    ShardError::Internal { shard, what: "a request cannot be read".to_owned() }
}

/// The body of an answer.
fn body<T: Serialize>(shard: ShardId, answer: &Result<T, ShardError>) -> BytesMut {
    frame::encode(answer).unwrap_or_else(|error| {
        let error = match error {
            FrameError::TooLarge => too_large(),
            FrameError::Encode | FrameError::Decode | FrameError::Torn => {
                ShardError::Internal { shard, what: error.to_string() }
            }
        };
        // An error with a few words cannot fail to encode.
        frame::encode(&Err::<(), _>(error)).unwrap_or_default()
    })
}

/// Makes a request ready to run. Errors are answered at once.
pub(super) fn start(
    session: &Arc<Session>,
    tables: &Tables,
    id: u64,
    begins: bool,
    call: Call,
) -> Result<Work, ShardError> {
    let shard = session.shard.id();
    let mut timeout = None;
    if let Some(context) = call.context() {
        timeout = context.timeout;
        if context.snapshot.is_some_and(|snapshot| !session.has_snapshot(snapshot)) {
            return Err(lost_snapshot(shard));
        }
    }
    let turn = turn(session, begins, &call)?;
    let (commits, is_long) = (call.commits(), call.is_long());
    let Some(turn) = turn else {
        // A transaction that is over, or never was here, needs no rollback.
        return Ok(Box::pin(std::future::ready(body(shard, &Ok(())))));
    };
    let work = match work(session, tables, id, call) {
        Ok(work) => work,
        Err(NotStarted::Wrong(wrong)) => {
            let what = format!("a request with {wrong}");
            return Err(ShardError::Internal { shard, what });
        }
        Err(NotStarted::Refused(error)) => return Err(error),
    };
    Ok(Box::pin(run(shard, turn, is_long, timeout, commits, work)))
}

/// Whether a request belongs to a transaction, and the turn it then waits for. `None`: it has nothing to do.
fn turn(
    session: &Arc<Session>,
    begins: bool,
    call: &Call,
) -> Result<Option<Option<Turn>>, ShardError> {
    let lost = ShardError::TransactionLost { shard: session.shard.id() };
    match call.txn() {
        None => Ok(Some(None)),
        Some(TxnUse::Statement(txn)) if begins => Ok(Some(Some(session.begin(txn)?))),
        Some(TxnUse::Statement(txn) | TxnUse::Existing(txn)) => {
            session.turn(txn).map(|turn| Some(Some(turn))).ok_or(lost)
        }
        Some(TxnUse::Commit(txn)) => session.end_txn(txn).map(|turn| Some(Some(turn))).ok_or(lost),
        Some(TxnUse::Rollback(txn)) => Ok(session.end_txn(txn).map(Some)),
    }
}

fn lost_snapshot(shard: ShardId) -> ShardError {
    let reason = "the snapshot is not open on this connection".to_owned();
    ShardError::Unavailable { shard, reason }
}

async fn run(
    shard: ShardId,
    turn: Option<Turn>,
    is_long: bool,
    timeout: Option<Duration>,
    commits: bool,
    work: Work,
) -> BytesMut {
    let _turn = match turn {
        Some(turn) => Some(turn.lock_owned().await),
        None => None,
    };
    if is_long {
        // It has its place in the order; now let a task of its own go on.
        Later::default().await;
    }
    let work = AssertUnwindSafe(work).catch_unwind();
    let answer = match timeout {
        Some(timeout) => tokio::time::timeout(timeout.saturating_add(TIMEOUT_GRACE), work).await,
        None => Ok(work.await),
    };
    let error = match answer {
        Ok(Ok(body)) => return body,
        Ok(Err(_panic)) if commits => ShardError::OutcomeUnknown { shard },
        Ok(Err(_panic)) => ShardError::Internal {
            shard,
            what: "a request failed in a way it should not".to_owned(),
        },
        Err(_) if commits => ShardError::OutcomeUnknown { shard },
        Err(_) => {
            let reason = "the request took longer than its statement may".to_owned();
            ShardError::Unavailable { shard, reason }
        }
    };
    body::<()>(shard, &Err(error))
}

/// Is not ready the first time.
#[derive(Default)]
struct Later(bool);

impl Future for Later {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

enum NotStarted {
    Wrong(Wrong),
    Refused(ShardError),
}

impl From<Wrong> for NotStarted {
    fn from(wrong: Wrong) -> NotStarted {
        NotStarted::Wrong(wrong)
    }
}

/// Runs a call of the shard and encodes what it answers.
fn ask<T, F>(shard: &Arc<dyn ShardClient>, call: impl FnOnce(Arc<dyn ShardClient>) -> F) -> Work
where
    T: Serialize + 'static,
    F: Future<Output = Result<T, ShardError>> + Send + 'static,
{
    let id = shard.id();
    let answer = call(shard.clone());
    Box::pin(async move { body(id, &answer.await) })
}

/// The call of the shard that a request is.
fn work(session: &Arc<Session>, tables: &Tables, id: u64, call: Call) -> Result<Work, NotStarted> {
    let shard = &session.shard;
    Ok(match call {
        Call::Status => ask(shard, |shard| async move { shard.status().await }),
        Call::OpenSnapshot { context, tables: wanted } => {
            if !session.has_room() {
                return Err(NotStarted::Refused(ShardError::LimitExceeded {
                    what: "number of open snapshots".to_owned(),
                    limit: "a connection's".to_owned(),
                }));
            }
            let wanted: Result<Vec<_>, Wrong> =
                wanted.into_iter().map(|table| tables.get(table)).collect();
            let (session, wanted) = (session.clone(), wanted?);
            ask(shard, |shard| async move {
                let snapshot = shard.open_snapshot(&context, &wanted).await?;
                session.keep_snapshot(snapshot);
                Ok(snapshot)
            })
        }
        Call::Get { context, table, keys } => {
            check::keys(&keys)?;
            let request = GetRequest { context, table: tables.get(table)?, keys };
            ask(shard, |shard| async move { shard.get(request).await })
        }
        Call::ScanRows { context, scan, reverse } => {
            let request = ScanRowsRequest { context, spec: tables.scan(scan)?, reverse };
            ask(shard, |shard| async move { shard.scan_rows(request).await })
        }
        Call::Execute { context, version, fragment, report } => {
            let fragment = Fragment::Bytes { version, bytes: fragment };
            let report = report.then(Arc::<FragmentReport>::default);
            let request = FragmentRequest { context, fragment, report: report.clone() };
            let session = session.clone();
            ask(shard, move |shard| async move {
                let forget = Unfetched { session: session.clone(), id, is_running: false };
                let batches = shard.execute(request).await?;
                let stream = ahead(shard.id(), batches);
                session.keep_batches(id, Batches { stream, report })?;
                forget.runs();
                Ok(())
            })
        }
        Call::LockRows { context, table, rows, lock, wait } => {
            check::keys(rows.iter().map(|(key, _)| key))?;
            let table = tables.get(table)?;
            let request = LockRowsRequest { context, table, rows, lock, wait };
            ask(shard, |shard| async move { shard.lock_rows(request).await })
        }
        Call::LockTable { context, table, lock } => {
            ask(shard, move |shard| async move { shard.lock_table(&context, table, lock).await })
        }
        Call::Write { context, table, related, op, commit, returning, more } => {
            let related: Result<Vec<_>, Wrong> =
                related.into_iter().map(|table| tables.get(table)).collect();
            let request = WriteRequest {
                context,
                table: tables.get(table)?,
                related: related?.into(),
                op,
                commit,
                returning,
                more,
            };
            check::write(&request)?;
            let session = session.clone();
            let ends = request.context.txn.filter(|_| commit);
            ask(shard, move |shard| async move {
                let outcome = shard.write(request).await?;
                if let (Some(txn), WriteOutcome::Done { .. }) = (ends, &outcome) {
                    session.end_txn(txn);
                }
                Ok(outcome)
            })
        }
        Call::RollbackTo { txn, mark } => {
            ask(shard, move |shard| async move { shard.rollback_to(txn, mark).await })
        }
        Call::Validate(txn) => ask(shard, move |shard| async move { shard.validate(txn).await }),
        Call::Commit(txn) => ask(shard, move |shard| async move { shard.commit(txn).await }),
        Call::Rollback(txn) => ask(shard, move |shard| async move { shard.rollback(txn).await }),
        Call::Fence { context, fences } => {
            ask(shard, move |shard| async move { shard.fence(&context, fences).await })
        }
        Call::BuildIndex { context, table, index } => {
            let table = tables.get(table)?;
            check::index(&table, index)?;
            ask(shard, move |shard| async move { shard.build_index(&context, table, index).await })
        }
        Call::RewriteTable { context, from, to } => {
            let (from, to) = (tables.get(from)?, tables.get(to)?);
            ask(shard, move |shard| async move { shard.rewrite_table(&context, from, to).await })
        }
        Call::DropStorage(storages) => {
            ask(shard, |shard| async move { shard.drop_storage(storages).await })
        }
        Call::StorageStats(storage) => {
            ask(shard, move |shard| async move { shard.storage_stats(storage).await })
        }
        Call::Storages => ask(shard, |shard| async move { shard.storages().await }),
        Call::ReadChanges(request) => {
            if let ChangesRequest::Snapshot { snapshot, .. } = &request
                && !session.has_snapshot(*snapshot)
            {
                return Err(NotStarted::Refused(lost_snapshot(shard.id())));
            }
            ask(shard, |shard| async move { shard.read_changes(request).await })
        }
        Call::CopyPosition { source, at_least, wait } => {
            ask(
                shard,
                move |shard| async move { shard.copy_position(source, at_least, wait).await },
            )
        }
        Call::ReadMoving { id, tables: moving, from } => {
            if let MovingFrom::Snapshot { snapshot, .. } = &from
                && !session.has_snapshot(*snapshot)
            {
                return Err(NotStarted::Refused(lost_snapshot(shard.id())));
            }
            let request = MovingRequest { id, tables: tables.ranges(moving)?, from };
            ask(shard, |shard| async move { shard.read_moving(request).await })
        }
        Call::ApplyMoving { id, tables: moving, page, rows, from, to } => {
            check::keys(rows.iter().map(|row| &row.key))?;
            let tables = tables.ranges(moving)?;
            let request = ApplyMoving { id, tables, page, rows, from, to };
            ask(shard, |shard| async move { shard.apply_moving(request).await })
        }
        Call::MovePosition(id) => {
            ask(shard, move |shard| async move { shard.move_position(id).await })
        }
        Call::HoldRanges { id, tables: moving, grace, limit } => {
            let request = HoldRanges { id, tables: tables.ranges(moving)?, grace, limit };
            ask(shard, |shard| async move { shard.hold_ranges(request).await })
        }
        Call::ReleaseRanges(id) => {
            ask(shard, move |shard| async move { shard.release_ranges(id).await })
        }
        Call::DropRanges { id, tables: moving } => {
            let ranges = tables.ranges(moving)?;
            ask(shard, move |shard| async move { shard.drop_ranges(id, ranges).await })
        }
        Call::IsRangeClean(id) => {
            ask(shard, move |shard| async move { shard.is_range_clean(id).await })
        }
        Call::ChecksumRanges { context, tables: moving } => {
            let ranges = tables.ranges(moving)?;
            ask(shard, move |shard| async move { shard.checksum_ranges(&context, ranges).await })
        }
        Call::SequenceNext { spec, count } => {
            ask(shard, move |shard| async move { shard.sequence_next(&spec, count).await })
        }
        Call::SequenceSet { spec, state } => {
            ask(shard, move |shard| async move { shard.sequence_set(&spec, state).await })
        }
        Call::SequenceGet(spec) => {
            ask(shard, move |shard| async move { shard.sequence_get(&spec).await })
        }
        Call::MetaScan(prefix) => {
            ask(shard, move |shard| async move { shard.meta_scan(&prefix).await })
        }
        Call::MetaWrite { guard, writes } => {
            ask(shard, move |shard| async move { shard.meta_write(guard, writes).await })
        }
        Call::MetaWatch { after, wait } => {
            ask(shard, move |shard| async move { shard.meta_watch(after, wait).await })
        }
    })
}

/// A fragment that fails, or is dropped before it runs, has no batches: who waits for them is told.
struct Unfetched {
    session: Arc<Session>,
    id: u64,
    is_running: bool,
}

impl Unfetched {
    fn runs(mut self) {
        self.is_running = true;
    }
}

impl Drop for Unfetched {
    fn drop(&mut self) {
        if !self.is_running {
            self.session.drop_batches(self.id);
        }
    }
}

/// Batches that a fragment may be ahead of who fetches them.
const BATCHES_AHEAD: usize = 2;

/// What a fragment has made.
enum Made {
    Batch(Result<RecordBatch, ShardError>),
    /// Without it, the fragment was cut off.
    End,
}

/// Runs a fragment in a task of its own, on the runtime of the request that began it: making a batch may take long and does not
/// yield. Dropping the stream ends it.
fn ahead(shard: ShardId, batches: BatchStream) -> BatchStream {
    let (made, receiver) = mpsc::channel(BATCHES_AHEAD);
    let mut batches = AssertUnwindSafe(batches).catch_unwind();
    let task = tokio::spawn(async move {
        while let Some(batch) = batches.next().await {
            let batch = batch.unwrap_or_else(|_panic| {
                let what = "a fragment failed in a way it should not".to_owned();
                Err(ShardError::Internal { shard, what })
            });
            let is_last = batch.is_err();
            if made.send(Made::Batch(batch)).await.is_err() || is_last {
                return;
            }
        }
        // Nobody listens any more, or everybody knows.
        let _ = made.send(Made::End).await;
    });
    let running = AbortOnDropHandle(task.abort_handle());
    let stream = futures::stream::unfold(Some((receiver, running)), move |state| async move {
        let (mut receiver, running) = state?;
        match receiver.recv().await {
            Some(Made::Batch(Ok(batch))) => Some((Ok(batch), Some((receiver, running)))),
            Some(Made::Batch(Err(error))) => Some((Err(error), None)),
            Some(Made::End) => None,
            None => {
                let reason = "the fragment was cut off".to_owned();
                Some((Err(ShardError::Unavailable { shard, reason }), None))
            }
        }
    });
    Box::pin(stream)
}

/// Ends a task with its owner.
struct AbortOnDropHandle(AbortHandle);

impl Drop for AbortOnDropHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}
