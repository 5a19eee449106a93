//! The facade of a shard: one engine with its log, as the gateway sees it.
//!
//! Lives here: opening and shutting down, which transaction and snapshot a request means, and the hand-over to `scan`,
//! `write`, `exec` and the sequencer. Not here: any rule of SQL.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, MoveId, Oid, ShardError, ShardId, SnapshotId, StorageId, TableDescriptor, TxnId,
    client::{
        BatchStream, FragmentRequest, GetRequest, LockRowsRequest, LockedRow, MetaWrite,
        RequestContext, SCAN_ROWS_MAX, ScanRowsRequest, SequenceSpec, SequenceState,
        SequenceValues, ShardClient, ShardStatus, StorageStats, StoredRow, TableLock, WaitPolicy,
        WriteOutcome, WriteRequest,
    },
    copies::{Changes, ChangesRequest},
    descriptor::Fence,
    moves::{
        ApplyMoving, HoldRanges, MovePosition, MovingRequest, MovingRows, RangeChecksum,
        TableRanges,
    },
};
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    exec::{self, FragmentRunner},
    fences::{FenceKey, Fences, Raised},
    maintenance::{DROPS_MAX, Maintenance, Task},
    moves::{self, Moves, hold::Wanted},
    recovery::{OpenError, OpenReport, Parts, ShardConfig, recover},
    replication::{self, Links},
    scan::{self, DroppedStorages, ShardScan, is_owned},
    sequences::{RowIds, Sequences, log},
    storage::{KeyRange, Keyspace, Op},
    txn::{
        Txn,
        locks::{Granted, LockKey, LockManager, LockMode, LockRequest},
        sequencer::{Core, Guard, QUEUE_REQUESTS_MAX, Request, Sequencer},
        snapshot::{Published, ReadView},
    },
};

/// Transactions open in a shard at a time; each belongs to a session, which the gateway bounds far below.
const TRANSACTIONS_MAX: usize = 1 << 16;

/// Snapshots leased at a time.
const SNAPSHOTS_MAX: usize = 1 << 16;

/// Fences of one request or transaction: more tables than a schema change or a move is made for.
const FENCES_MAX: usize = 1 << 17;

/// Set in the ids of transactions that live for one request; those of sessions never have it.
const OWN_TXN_BIT: u64 = 1 << 63;

/// One shard. See `ShardClient` for what it does.
pub struct Shard {
    pub(crate) core: Arc<Core>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) row_ids: RowIds,
    fragments: FragmentRunner,
    sequences: Sequences,
    transactions: Mutex<HashMap<TxnId, Arc<Txn>>>,
    leases: Mutex<HashMap<SnapshotId, ReadView>>,
    next_id: AtomicU64,
    dropped: DroppedStorages,
    spill_directory: PathBuf,
    write_set_bytes: usize,
    is_closed: AtomicBool,
    pub(crate) tasks: Sender<Task>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("id", &self.core.id).finish_non_exhaustive()
    }
}

impl Shard {
    /// Opens the shard in its directory, or creates it there, and starts its threads.
    pub fn open(config: ShardConfig) -> Result<(Arc<Shard>, OpenReport), OpenError> {
        let parts = Parts::on_disk(&config)?;
        Shard::open_parts(config, parts)
    }

    pub(crate) fn open_parts(
        config: ShardConfig,
        parts: Parts,
    ) -> Result<(Arc<Shard>, OpenReport), OpenError> {
        let id = config.id;
        let recovered = recover(&config, parts)?;
        let snapshot = recovered.storage.snapshot();
        let row_ids = RowIds::load(id, &*snapshot)
            .map_err(|error| OpenError::Corrupt { shard: id, what: error.to_string() })?;
        let corrupt = |error: crate::storage::StorageError| OpenError::Corrupt {
            shard: id,
            what: error.to_string(),
        };
        let links = Links::load(&*snapshot).map_err(corrupt)?;
        let fences = Fences::load(&*snapshot).map_err(corrupt)?;
        let moves = Moves::load(&*snapshot).map_err(corrupt)?;
        let copies = replication::positions(id, &*snapshot).map_err(corrupt)?;
        let fragments =
            FragmentRunner::new(config.fragment_memory_bytes).map_err(|error| OpenError::Io {
                shard: id,
                context: "preparing to run fragments".to_owned(),
                error: error.to_string(),
            })?;
        let published = Published { snapshot, applied: recovered.applied };
        let core = Arc::new(Core {
            id,
            storage: recovered.storage,
            log: recovered.log,
            published: ArcSwap::from_pointee(published),
            locks: LockManager::default(),
            counters: Mutex::new(recovered.counters),
            fences,
            moves,
            applied: watch::Sender::new(recovered.applied),
            copies: watch::Sender::new(copies),
            meta_changed: watch::Sender::new(recovered.applied),
            poison: OnceLock::new(),
            log_bytes: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
        });
        let (requests, queue) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let (tasks, task_queue) = crossbeam_channel::bounded(DROPS_MAX);
        let sequencer = Sequencer::new(core.clone(), queue, links);
        let maintenance = Maintenance {
            core: core.clone(),
            requests: requests.clone(),
            tasks: task_queue,
            files: recovered.files,
            checkpoint_log_bytes: config.checkpoint_log_bytes,
        };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(format!("shard-{id}-{name}")).spawn(run).map_err(
                |error| OpenError::Io {
                    shard: id,
                    context: "starting a thread".to_owned(),
                    error: error.to_string(),
                },
            )
        };
        let threads = vec![
            spawn("maintenance", Box::new(move || maintenance.run()))?,
            spawn("sequencer", Box::new(move || sequencer.run()))?,
        ];
        for storage in &recovered.dropping {
            // The queue is as long as the list may be; what does not fit waits for the next open.
            let _ = tasks.try_send(Task::Clean(*storage));
        }
        for id in core.moves.dropping() {
            let _ = tasks.try_send(Task::CleanRanges(id));
        }
        let dropped = DroppedStorages::default();
        for storage in recovered.dropping {
            dropped.insert(storage, LogIndex(0));
        }
        let shard = Shard {
            core,
            requests,
            row_ids,
            fragments,
            sequences: Sequences::default(),
            transactions: Mutex::default(),
            leases: Mutex::default(),
            next_id: AtomicU64::new(1),
            dropped,
            spill_directory: config.directory.join("spill"),
            write_set_bytes: config.write_set_bytes,
            is_closed: AtomicBool::new(false),
            tasks,
            threads: Mutex::new(threads),
        };
        Ok((Arc::new(shard), recovered.report))
    }

    /// Finishes what was begun, takes a checkpoint so that the next open is quick, and stops the threads. Requests that
    /// come later fail. Transactions that are still open are lost.
    pub async fn shutdown(&self) -> Result<(), ShardError> {
        self.is_closed.store(true, Ordering::Release);
        self.core.is_stopping.store(true, Ordering::Release);
        let mut result = Ok(());
        if self.core.poison.get().is_none() {
            let exact = self.sequences.exact().await;
            if !exact.is_empty() {
                result = log(self.core.id, &self.requests, exact).await;
            }
            if self.core.storage.is_persistent() && result.is_ok() {
                result = self.checkpoint().await;
            }
        }
        self.stop_threads();
        result
    }

    /// Takes a checkpoint: the next open replays from here.
    pub(crate) async fn checkpoint(&self) -> Result<(), ShardError> {
        let (reply, answer) = oneshot::channel();
        self.tasks.send(Task::Checkpoint(reply)).map_err(|_closed| self.stopped())?;
        answer.await.map_err(|_closed| self.stopped())?
    }

    fn stop_threads(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        if threads.is_empty() {
            return;
        }
        self.core.is_stopping.store(true, Ordering::Release);
        let _ = self.tasks.send(Task::Stop);
        let mut stop = Request::Stop;
        // Called where blocking is not allowed, too; the queue empties by itself.
        while let Err(mpsc::error::TrySendError::Full(request)) = self.requests.try_send(stop) {
            stop = request;
            std::thread::sleep(Duration::from_millis(1));
        }
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(shard = %self.core.id, "a thread of the shard panicked");
            }
        }
    }

    pub(crate) fn stopped(&self) -> ShardError {
        ShardError::Unavailable { shard: self.core.id, reason: "it is shut down".to_owned() }
    }

    fn check_open(&self) -> Result<(), ShardError> {
        if self.is_closed.load(Ordering::Acquire) { Err(self.stopped()) } else { Ok(()) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Refuses a write to a table that was dropped.
    pub(crate) fn check_dropped(&self, table: &TableDescriptor) -> Result<(), ShardError> {
        if self.dropped.contains(table.storage) {
            return Err(ShardError::StaleEpoch { shard: self.core.id, current: table.epoch() });
        }
        Ok(())
    }

    /// Whether a storage is dropped, as far as this is known since the shard was opened.
    pub(crate) fn is_dropped(&self, storage: StorageId) -> bool {
        self.dropped.contains(storage)
    }

    fn limit(what: &str, limit: usize) -> ShardError {
        ShardError::LimitExceeded { what: what.to_owned(), limit: limit.to_string() }
    }

    /// The transaction of a request; it begins here with its first request.
    pub(crate) fn transaction(&self, id: TxnId) -> Result<Arc<Txn>, ShardError> {
        self.core.locks.check_doomed(id)?;
        let mut transactions = self.transactions.lock();
        if let Some(txn) = transactions.get(&id) {
            return Ok(txn.clone());
        }
        if transactions.len() >= TRANSACTIONS_MAX {
            return Err(Shard::limit("number of open transactions", TRANSACTIONS_MAX));
        }
        let txn = Arc::new(self.new_txn(id));
        transactions.insert(id, txn.clone());
        Ok(txn)
    }

    /// A transaction that lives for one request.
    pub(crate) fn own_transaction(&self) -> Arc<Txn> {
        let id = TxnId(OWN_TXN_BIT | self.next_id.fetch_add(1, Ordering::Relaxed));
        Arc::new(self.new_txn(id))
    }

    fn new_txn(&self, id: TxnId) -> Txn {
        Txn::new(id, &self.spill_directory, self.write_set_bytes)
    }

    pub(crate) fn forget(&self, id: TxnId) -> Option<Arc<Txn>> {
        self.transactions.lock().remove(&id)
    }

    /// What the request reads.
    pub(crate) fn view(&self, context: &RequestContext) -> Result<ReadView, ShardError> {
        self.check_open()?;
        if let Some(id) = context.snapshot {
            let leases = self.leases.lock();
            return leases.get(&id).cloned().ok_or_else(|| ShardError::Internal {
                shard: self.core.id,
                what: format!("snapshot {id} is not open"),
            });
        }
        let txn = context.txn.map(|id| self.transaction(id)).transpose()?;
        Ok(ReadView::pin(self.core.published.load_full(), txn.as_deref()))
    }

    /// Refuses a table that the view does not serve in this version.
    fn check_version(&self, view: &ReadView, table: &TableDescriptor) -> Result<(), ShardError> {
        self.core.fences.check_view(self.core.id, view.applied(), table)?;
        self.dropped.check(view, table, table.storage, self.core.id)
    }

    /// What a writer sees: the newest state with its own writes.
    pub(crate) fn live_view(&self, txn: &Txn) -> ReadView {
        ReadView::live(self.core.published.load_full(), txn)
    }

    /// Takes a table lock, once for each transaction and table.
    pub(crate) async fn hold_table(
        &self,
        txn: &Txn,
        table: Oid,
        mode: LockMode,
        context: &RequestContext,
        wait: WaitPolicy,
    ) -> Result<Option<Granted>, ShardError> {
        if mode == LockMode::TableShared && txn.state.lock().tables.contains(&table) {
            return Ok(Some(Granted::default()));
        }
        let request = LockRequest { txn: txn.id, mode, wait, timeout: context.lock_timeout };
        let granted = self.core.locks.acquire(LockKey::Table(table), request).await?;
        if granted.is_some() {
            let mut state = txn.state.lock();
            state.tables.insert(table);
            if mode != LockMode::TableShared {
                state.sole.insert(table);
            }
            if mode == LockMode::TableExclusive {
                state.exclusive.insert(table);
            }
        }
        Ok(granted)
    }

    /// Takes the shared lock that every writer of a table holds, and refuses a descriptor from before a schema change.
    pub(crate) async fn hold_for_writing(
        &self,
        txn: &Txn,
        table: &TableDescriptor,
        context: &RequestContext,
    ) -> Result<(), ShardError> {
        let wait = WaitPolicy::Wait;
        let granted = self.hold_table(txn, table.oid, LockMode::TableShared, context, wait).await?;
        let stale = |current| ShardError::StaleEpoch { shard: self.core.id, current };
        if granted.is_some_and(|granted| granted.schema_changed) {
            return Err(stale(table.epoch()));
        }
        if self.dropped.contains(table.storage) {
            return Err(stale(table.epoch()));
        }
        self.core.fences.check_now(self.core.id, table)?;
        let mut state = txn.state.lock();
        state.note_used(table);
        if state.exclusive.contains(&table.oid) {
            // It may be changing the schema: others are bound by this version once it has committed.
            let key = FenceKey::Shape(table.oid);
            let version = state.versions.entry(key).or_default();
            *version = u64::from(table.version).max(*version);
        }
        Ok(())
    }

    /// Notes that the transaction changes a table, which copies follow if it is a reference table.
    pub(crate) fn note_copied(&self, txn: &Txn, table: &TableDescriptor) -> Result<(), ShardError> {
        let Some(primary) = table.primary_copy() else { return Ok(()) };
        if primary != self.core.id {
            let what = format!("table {} is written past its primary copy", table.qualified_name());
            return Err(ShardError::Internal { shard: self.core.id, what });
        }
        let storages = table.indexes.iter().map(|index| index.storage);
        txn.state.lock().copied.extend(storages.chain([table.storage]));
        Ok(())
    }

    /// Commits a transaction that is out of the map (or never was in it).
    pub(crate) async fn commit_txn(&self, txn: Arc<Txn>) -> Result<LogIndex, ShardError> {
        let is_writing = txn.is_writing();
        {
            let mut state = txn.state.lock();
            state.is_over = true;
            if state.deferred.is_some() {
                let what = "a commit before the last request of a statement".to_owned();
                drop(state);
                self.abandon(&txn);
                return Err(ShardError::Internal { shard: self.core.id, what });
            }
        }
        if let Err(error) = self.core.locks.check_doomed(txn.id) {
            self.abandon(&txn);
            return Err(error);
        }
        if !is_writing {
            let versions = std::mem::take(&mut txn.state.lock().versions);
            let applied = self.core.published.load().applied;
            for (key, version) in versions {
                self.core.fences.raise(Raised { key, version, index: applied, excused: None });
            }
            self.core.locks.release_all(txn.id, true);
            return Ok(applied);
        }
        let (reply, answer) = oneshot::channel();
        // Nobody else knows the transaction any more: its locks must go if we are dropped while the queue is full.
        let mut abandon = AbandonOnDrop { shard: self, txn: Some(txn) };
        let place = self.requests.reserve().await.map_err(|_closed| self.stopped())?;
        if let Some(txn) = abandon.txn.take() {
            place.send(Request::Commit { txn, reply });
        }
        answer.await.map_err(|_closed| ShardError::OutcomeUnknown { shard: self.core.id })?
    }

    /// Ends a transaction without a trace.
    pub(crate) fn abandon(&self, txn: &Txn) {
        txn.state.lock().is_over = true;
        self.core.locks.release_all(txn.id, false);
    }

    pub(crate) async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<LogIndex, ShardError>>) -> Request,
    ) -> Result<LogIndex, ShardError> {
        self.check_open()?;
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_closed| self.stopped())?;
        answer.await.map_err(|_closed| ShardError::OutcomeUnknown { shard: self.core.id })?
    }
}

/// Ends a transaction that never reached the sequencer.
struct AbandonOnDrop<'a> {
    shard: &'a Shard,
    txn: Option<Arc<Txn>>,
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(txn) = &self.txn {
            self.shard.abandon(txn);
        }
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

#[async_trait]
impl ShardClient for Shard {
    fn id(&self) -> ShardId {
        self.core.id
    }

    async fn status(&self) -> Result<ShardStatus, ShardError> {
        let counters = self.core.counters.lock();
        let sum = counters.iter().fold(StorageStats::default(), |sum, (_, stats)| StorageStats {
            rows: sum.rows + stats.rows,
            bytes: sum.bytes + stats.bytes,
        });
        Ok(ShardStatus {
            applied: self.core.published.load().applied,
            rows: sum.rows,
            bytes: sum.bytes,
            log_bytes: self.core.log_bytes.load(Ordering::Relaxed),
            poisoned: self.core.poison.get().cloned(),
        })
    }

    async fn fence(
        &self,
        context: &RequestContext,
        fences: Vec<Fence>,
    ) -> Result<LogIndex, ShardError> {
        self.check_open()?;
        self.core.check_writable()?;
        if fences.len() > FENCES_MAX {
            return Err(Shard::limit("number of fences", FENCES_MAX));
        }
        if let Some(id) = context.txn {
            let txn = self.transaction(id)?;
            let mut state = txn.state.lock();
            if state.is_over {
                return Err(ShardError::TransactionLost { shard: self.core.id });
            }
            if state.fences.len() + fences.len() > FENCES_MAX {
                return Err(Shard::limit("number of fences", FENCES_MAX));
            }
            let marked = fences.into_iter().map(FenceKey::of);
            state.fences.extend(marked.map(|(key, version)| (context.mark, key, version)));
            return Ok(self.core.published.load().applied);
        }
        let mut raised = BTreeMap::new();
        for (key, version) in fences.into_iter().map(FenceKey::of) {
            let highest = raised.entry(key).or_insert(version);
            *highest = version.max(*highest);
        }
        self.ask(|reply| Request::Fence { fences: raised, reply }).await
    }

    async fn read_moving(&self, request: MovingRequest) -> Result<MovingRows, ShardError> {
        self.check_open()?;
        moves::source::read(self, request).await
    }

    async fn apply_moving(&self, request: ApplyMoving) -> Result<(), ShardError> {
        self.check_open()?;
        self.core.check_writable()?;
        moves::target::apply(self, request).await
    }

    async fn move_position(&self, id: MoveId) -> Result<Option<MovePosition>, ShardError> {
        self.check_open()?;
        Ok(self.core.moves.position(id))
    }

    async fn hold_ranges(&self, request: HoldRanges) -> Result<LogIndex, ShardError> {
        self.check_open()?;
        moves::hold::hold(self, request).await
    }

    async fn release_ranges(&self, id: MoveId) -> Result<(), ShardError> {
        self.core.moves.holds.release(id);
        Ok(())
    }

    async fn drop_ranges(&self, id: MoveId, tables: Vec<TableRanges>) -> Result<(), ShardError> {
        self.check_open()?;
        self.core.check_writable()?;
        moves::clean::drop_ranges(self, id, tables).await
    }

    async fn is_range_clean(&self, id: MoveId) -> Result<bool, ShardError> {
        self.check_open()?;
        Ok(self.core.moves.is_clean(id))
    }

    async fn checksum_ranges(
        &self,
        context: &RequestContext,
        tables: Vec<TableRanges>,
    ) -> Result<Vec<RangeChecksum>, ShardError> {
        moves::checksum::checksum(self, context, tables).await
    }

    async fn meta_watch(&self, after: LogIndex, wait: Duration) -> Result<LogIndex, ShardError> {
        self.check_open()?;
        let mut changed = self.core.meta_changed.subscribe();
        let newer = changed.wait_for(|index| *index > after);
        match tokio::time::timeout(wait, newer).await {
            Ok(Ok(index)) => Ok(*index),
            // Time is up, or the shard is going away.
            Ok(Err(_)) | Err(_) => Ok(*self.core.meta_changed.borrow()),
        }
    }

    async fn open_snapshot(
        &self,
        context: &RequestContext,
        tables: &[Arc<TableDescriptor>],
    ) -> Result<SnapshotId, ShardError> {
        let context = RequestContext { snapshot: None, ..context.clone() };
        let view = self.view(&context)?;
        for table in tables {
            self.check_version(&view, table)?;
        }
        let mut leases = self.leases.lock();
        if leases.len() >= SNAPSHOTS_MAX {
            return Err(Shard::limit("number of open snapshots", SNAPSHOTS_MAX));
        }
        let id = SnapshotId(self.next_id.fetch_add(1, Ordering::Relaxed));
        leases.insert(id, view);
        Ok(id)
    }

    fn close_snapshot(&self, snapshot: SnapshotId) {
        let lease = self.leases.lock().remove(&snapshot);
        drop(lease);
    }

    async fn get(&self, request: GetRequest) -> Result<Vec<Option<StoredRow>>, ShardError> {
        let view = self.view(&request.context)?;
        self.check_version(&view, &request.table)?;
        let mut rows = Vec::with_capacity(request.keys.len());
        for key in &request.keys {
            let is_ours = is_owned(&request.table, key, self.core.id);
            let row = if is_ours { view.row(key) } else { Ok(None) };
            rows.push(row.map_err(|error| self.core.storage_error(error))?);
        }
        Ok(rows)
    }

    async fn scan_rows(&self, request: ScanRowsRequest) -> Result<Vec<StoredRow>, ShardError> {
        let view = self.view(&request.context)?;
        let (fences, dropped) = (&self.core.fences, &self.dropped);
        let rows =
            scan::rows(&view, &request.spec, request.reverse, self.core.id, fences, dropped)?;
        rows.take(SCAN_ROWS_MAX).collect()
    }

    async fn execute(&self, request: FragmentRequest) -> Result<BatchStream, ShardError> {
        let view = self.view(&request.context)?;
        let (fences, dropped) = (self.core.fences.clone(), self.dropped.clone());
        let source = Arc::new(ShardScan { view, shard: self.core.id, fences, dropped });
        let plan = exec::plan_of(&request.fragment)?;
        // All of them now: a plan may come to a scan only after it has given rows.
        exec::each_scan(&plan, &mut |spec| source.check(spec))?;
        self.fragments.run(plan, source, request.report)
    }

    async fn lock_rows(&self, request: LockRowsRequest) -> Result<Vec<LockedRow>, ShardError> {
        self.check_open()?;
        let Some(id) = request.context.txn else {
            let what = "rows are locked outside of a transaction".to_owned();
            return Err(ShardError::Internal { shard: self.core.id, what });
        };
        let txn = self.transaction(id)?;
        let (context, table) = (&request.context, request.table.oid);
        let shared = LockMode::TableShared;
        let held = self.hold_table(&txn, table, shared, context, request.wait).await?;
        let Some(held) = held else {
            return Ok(vec![LockedRow::Skipped; request.rows.len()]);
        };
        if held.schema_changed {
            let current = request.table.epoch();
            return Err(ShardError::StaleEpoch { shard: self.core.id, current });
        }
        self.core.fences.check_now(self.core.id, &request.table)?;
        let (holds, keys) =
            (&self.core.moves.holds, request.rows.iter().map(|(key, _)| key.clone()));
        let keys: Vec<Bytes> = keys.collect();
        if holds.wait(id, table, Wanted::Keys(&keys)).await {
            self.core.fences.check_now(self.core.id, &request.table)?;
        }
        let mut locked = Vec::with_capacity(request.rows.len());
        for (key, seen) in &request.rows {
            let lock = LockRequest {
                txn: txn.id,
                mode: request.lock.into(),
                wait: request.wait,
                timeout: context.lock_timeout,
            };
            if self.core.locks.acquire(LockKey::Row(key.clone()), lock).await?.is_none() {
                locked.push(LockedRow::Skipped);
                continue;
            }
            while !holds.enter(id, table, Wanted::Keys(std::slice::from_ref(key))) {
                holds.wait(id, table, Wanted::Keys(std::slice::from_ref(key))).await;
            }
            self.core.locks.check_doomed(id)?;
            self.core.fences.check_now(self.core.id, &request.table)?;
            let row = self.live_view(&txn).row(key);
            locked.push(match row.map_err(|error| self.core.storage_error(error))? {
                Some(row) if row.version == *seen => LockedRow::Same(row),
                Some(_) | None => LockedRow::Changed,
            });
        }
        Ok(locked)
    }

    async fn lock_table(
        &self,
        context: &RequestContext,
        table: Oid,
        lock: TableLock,
    ) -> Result<(), ShardError> {
        self.check_open()?;
        let Some(id) = context.txn else {
            let what = "a table is locked outside of a transaction".to_owned();
            return Err(ShardError::Internal { shard: self.core.id, what });
        };
        let mode = match lock {
            TableLock::Shared => LockMode::TableShared,
            TableLock::Exclusive => LockMode::TableExclusive,
        };
        let txn = self.transaction(id)?;
        self.hold_table(&txn, table, mode, context, WaitPolicy::Wait).await?;
        Ok(())
    }

    async fn write(&self, request: WriteRequest) -> Result<WriteOutcome, ShardError> {
        self.check_open()?;
        self.core.check_writable()?;
        crate::write::run(self, request).await
    }

    async fn rollback_to(&self, txn: TxnId, mark: u32) -> Result<(), ShardError> {
        let transaction = self.transactions.lock().get(&txn).cloned();
        if let Some(transaction) = transaction {
            transaction.writes.write().rollback_to(mark);
            let mut state = transaction.state.lock();
            let deferred = &mut state.deferred;
            if deferred.as_ref().is_some_and(|deferred| deferred.mark() >= mark) {
                *deferred = None;
            }
            state.fences.retain(|(raised_by, _, _)| *raised_by < mark);
        }
        Ok(())
    }

    async fn validate(&self, txn: TxnId) -> Result<(), ShardError> {
        self.check_open()?;
        let transaction = self.transactions.lock().get(&txn).cloned();
        let transaction = transaction.ok_or(ShardError::TransactionLost { shard: self.core.id })?;
        self.core.locks.check_doomed(txn)?;
        if !transaction.is_writing() {
            return Ok(());
        }
        self.core.check_writable()?;
        self.core.fences.check_used(&transaction.state.lock().used)
    }

    async fn commit(&self, txn: TxnId) -> Result<LogIndex, ShardError> {
        let transaction =
            self.forget(txn).ok_or(ShardError::TransactionLost { shard: self.core.id })?;
        self.commit_txn(transaction).await
    }

    async fn rollback(&self, txn: TxnId) -> Result<(), ShardError> {
        if let Some(transaction) = self.forget(txn) {
            self.abandon(&transaction);
        }
        Ok(())
    }

    async fn build_index(
        &self,
        context: &RequestContext,
        table: Arc<TableDescriptor>,
        index: usize,
    ) -> Result<(), ShardError> {
        self.check_open()?;
        crate::write::build_index(self, context, &table, index).await
    }

    async fn rewrite_table(
        &self,
        context: &RequestContext,
        from: Arc<TableDescriptor>,
        to: Arc<TableDescriptor>,
    ) -> Result<u64, ShardError> {
        self.check_open()?;
        crate::write::rewrite_table(self, context, &from, &to).await
    }

    async fn drop_storage(&self, storages: Vec<StorageId>) -> Result<(), ShardError> {
        if storages.is_empty() {
            return Ok(());
        }
        for storage in &storages {
            // No more writes; reads go on until the deletion is certain.
            self.dropped.insert(*storage, LogIndex(u64::MAX));
        }
        let to_log = storages.clone();
        let index = self.ask(|reply| Request::Drop { storages: to_log, reply }).await?;
        for storage in storages {
            self.dropped.insert(storage, index);
            self.sequences.forget(storage);
            // When the queue is full the next open continues: the list is durable.
            let _ = self.tasks.try_send(Task::Clean(storage));
        }
        Ok(())
    }

    async fn storage_stats(&self, storage: StorageId) -> Result<StorageStats, ShardError> {
        Ok(self.core.counters.lock().get(storage))
    }

    async fn storages(&self) -> Result<Vec<StorageId>, ShardError> {
        Ok(self.core.counters.lock().iter().map(|(storage, _)| storage).collect())
    }

    async fn read_changes(&self, request: ChangesRequest) -> Result<Changes, ShardError> {
        self.check_open()?;
        match request {
            ChangesRequest::Log { cursor, wait } => {
                if cursor.part.is_none() {
                    let newer = LogIndex(cursor.after.0.saturating_add(1));
                    replication::follow::wait_for(self, self.core.id, newer, wait).await;
                    self.check_open()?;
                }
                let core = self.core.clone();
                let read = move || replication::changes::of_log(&core, cursor);
                tokio::task::spawn_blocking(read).await.map_err(|_| self.stopped())?
            }
            ChangesRequest::Snapshot { snapshot, start } => {
                let context =
                    RequestContext { snapshot: Some(snapshot), ..RequestContext::default() };
                let page = replication::changes::page(&self.view(&context)?, start);
                page.map_err(|error| self.core.storage_error(error))
            }
        }
    }

    async fn copy_position(
        &self,
        source: ShardId,
        at_least: LogIndex,
        wait: Duration,
    ) -> Result<LogIndex, ShardError> {
        self.check_open()?;
        Ok(replication::follow::wait_for(self, source, at_least, wait).await)
    }

    async fn sequence_next(
        &self,
        spec: &SequenceSpec,
        count: u32,
    ) -> Result<SequenceValues, ShardError> {
        self.check_open()?;
        let snapshot = self.core.published.load().snapshot.clone();
        self.sequences.next(self.core.id, spec, count, &*snapshot, &self.requests).await
    }

    async fn sequence_set(
        &self,
        spec: &SequenceSpec,
        state: SequenceState,
    ) -> Result<(), ShardError> {
        self.check_open()?;
        let snapshot = self.core.published.load().snapshot.clone();
        let requests = &self.requests;
        self.sequences.set(self.core.id, spec, state, &*snapshot, requests).await
    }

    async fn sequence_get(&self, spec: &SequenceSpec) -> Result<Option<SequenceState>, ShardError> {
        let snapshot = self.core.published.load().snapshot.clone();
        self.sequences.get(self.core.id, spec.storage, &*snapshot).await
    }

    async fn meta_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ShardError> {
        let snapshot = self.core.published.load().snapshot.clone();
        let entries = snapshot.range(Keyspace::Kv, KeyRange::prefix(prefix), false);
        entries.map(|entry| entry.map_err(|error| self.core.storage_error(error))).collect()
    }

    async fn meta_write(
        &self,
        guard: (Vec<u8>, Option<Vec<u8>>),
        writes: Vec<MetaWrite>,
    ) -> Result<LogIndex, ShardError> {
        let op = |write: MetaWrite| Op {
            keyspace: Keyspace::Kv,
            key: Bytes::from(write.key),
            value: write.value.map(Bytes::from),
        };
        let ops = writes.into_iter().map(op).collect();
        let guard = Some(Guard { key: guard.0, value: guard.1 });
        self.ask(|reply| Request::Write { guard, ops, reply: Some(reply) }).await
    }
}
