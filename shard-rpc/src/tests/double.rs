//! A shard that writes down what it is asked, and waits or fails where a test says.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use arrow::{array::Int64Array, record_batch::RecordBatch};
use async_trait::async_trait;
use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, MoveId, Oid, ShardError, ShardId, SnapshotId, SqlType, StorageId, TableDescriptor,
    TxnId, TypeMod,
    client::{
        BatchStream, Fragment, FragmentRequest, GetRequest, LockRowsRequest, LockedRow, MetaWrite,
        RequestContext, ScanRowsRequest, SequenceSpec, SequenceState, SequenceValues, ShardClient,
        ShardStatus, StorageStats, StoredRow, TableLock, WriteOutcome, WriteRequest,
    },
    copies::{Changes, ChangesRequest},
    descriptor::{ColumnDescriptor, Fence, Placement},
    moves::{
        ApplyMoving, HoldRanges, MovePosition, MovingRequest, MovingRows, RangeChecksum,
        TableRanges,
    },
    report::OperatorCounts,
    value::Datum,
};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// See the module.
pub struct Double {
    id: ShardId,
    /// What was asked, in order.
    pub asked: Mutex<Vec<String>>,
    /// Requests whose name is here wait for a permit.
    pub held: Mutex<HashSet<&'static str>>,
    pub gate: Semaphore,
    /// The next request with this name fails.
    pub fails: Mutex<Option<(&'static str, ShardError)>>,
    /// The next request with this name panics.
    pub panics: Mutex<Option<&'static str>>,
    pub txns: Mutex<HashSet<TxnId>>,
    pub snapshots: Mutex<HashSet<SnapshotId>>,
    counter: AtomicU64,
    /// Addresses of the descriptors that `get` was given.
    pub tables: Mutex<Vec<(usize, u32)>>,
    pub batches_polled: Arc<AtomicU64>,
    /// Write nothing down: for figures.
    pub is_quiet: Mutex<bool>,
}

impl std::fmt::Debug for Double {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Double")
    }
}

/// Writes down that a request was dropped before its end.
struct Dropped<'a> {
    shard: &'a Double,
    name: &'static str,
    is_over: bool,
}

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.shard.asked.lock().push(format!("{} dropped", self.name));
        }
    }
}

impl Double {
    pub fn new(id: ShardId) -> Double {
        Double {
            id,
            asked: Mutex::default(),
            held: Mutex::default(),
            gate: Semaphore::new(0),
            fails: Mutex::default(),
            panics: Mutex::default(),
            txns: Mutex::default(),
            snapshots: Mutex::default(),
            counter: AtomicU64::new(1),
            tables: Mutex::default(),
            batches_polled: Arc::default(),
            is_quiet: Mutex::new(false),
        }
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }

    pub fn has_asked(&self, what: &str) -> bool {
        self.asked.lock().iter().any(|asked| asked.starts_with(what))
    }

    /// The last request.
    pub fn last(&self) -> String {
        self.asked.lock().last().cloned().unwrap_or_default()
    }

    async fn ask(&self, name: &'static str, what: String) -> Result<(), ShardError> {
        self.asked.lock().push(format!("{name} {what}"));
        if self.held.lock().contains(name) {
            let mut dropped = Dropped { shard: self, name, is_over: false };
            self.gate.acquire().await.expect("never closed").forget();
            dropped.is_over = true;
            self.asked.lock().push(format!("{name} done"));
        }
        let mut panics = self.panics.lock();
        if panics.take_if(|one| *one == name).is_some() {
            drop(panics);
            panic!("as the test wants");
        }
        match self.fails.lock().take_if(|(one, _)| *one == name) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    fn enter(&self, context: &RequestContext) {
        if let Some(txn) = context.txn {
            self.txns.lock().insert(txn);
        }
    }

    fn row(key: &Bytes) -> StoredRow {
        StoredRow { key: key.clone(), value: Bytes::from_static(b"value"), version: LogIndex(3) }
    }
}

/// A table with two columns.
pub fn table(oid: u32, version: u32) -> Arc<TableDescriptor> {
    let column = |name: &str| ColumnDescriptor {
        name: name.to_owned(),
        ty: TypeMod::plain(SqlType::Int4),
        not_null: false,
        dropped: false,
        added_in: 0,
        missing: Datum::Null,
    };
    Arc::new(TableDescriptor {
        oid: Oid(oid),
        schema: "public".to_owned(),
        name: "t".to_owned(),
        storage: StorageId(oid),
        version,
        columns: vec![column("a"), column("b")],
        primary_key: vec![0],
        primary_key_name: Some("t_pkey".to_owned()),
        placement: Placement::Home(ShardId(7)),
        placement_epoch: 0,
        indexes: vec![],
        checks: vec![],
        foreign_keys: vec![],
        referenced_by: vec![],
    })
}

/// Batches of one column that count up; `n` of them.
fn batches(n: u64, polled: Arc<AtomicU64>) -> BatchStream {
    let batch = move |i: u64| {
        polled.fetch_add(1, Ordering::SeqCst);
        let column = Int64Array::from_iter_values((0..1000).map(|j| (i * 1000 + j) as i64));
        Ok(RecordBatch::try_from_iter([("n", Arc::new(column) as _)]).expect("one column"))
    };
    Box::pin(futures::stream::iter(0..n).map(batch))
}

#[async_trait]
impl ShardClient for Double {
    fn id(&self) -> ShardId {
        self.id
    }

    async fn status(&self) -> Result<ShardStatus, ShardError> {
        self.ask("status", String::new()).await?;
        Ok(ShardStatus {
            applied: LogIndex(5),
            rows: 6,
            poisoned: Some("it hurts".to_owned()),
            ..ShardStatus::default()
        })
    }

    async fn open_snapshot(
        &self,
        context: &RequestContext,
        tables: &[Arc<TableDescriptor>],
    ) -> Result<SnapshotId, ShardError> {
        self.ask("open_snapshot", format!("{context:?} {tables:?}")).await?;
        self.enter(context);
        let id = SnapshotId(self.counter.fetch_add(1, Ordering::SeqCst));
        self.snapshots.lock().insert(id);
        Ok(id)
    }

    fn close_snapshot(&self, snapshot: SnapshotId) {
        assert!(self.snapshots.lock().remove(&snapshot), "closed twice");
    }

    async fn get(&self, request: GetRequest) -> Result<Vec<Option<StoredRow>>, ShardError> {
        if *self.is_quiet.lock() {
            return Ok(request.keys.iter().map(|key| Some(Double::row(key))).collect());
        }
        self.tables.lock().push((Arc::as_ptr(&request.table) as usize, request.table.version));
        self.ask("get", format!("{request:?}")).await?;
        self.enter(&request.context);
        Ok(request.keys.iter().map(|key| (key.len() > 4).then(|| Double::row(key))).collect())
    }

    async fn scan_rows(&self, request: ScanRowsRequest) -> Result<Vec<StoredRow>, ShardError> {
        self.ask("scan_rows", format!("{request:?}")).await?;
        Ok(vec![Double::row(&Bytes::from_static(b"scanned"))])
    }

    async fn execute(&self, request: FragmentRequest) -> Result<BatchStream, ShardError> {
        self.ask("execute", format!("{request:?}")).await?;
        self.enter(&request.context);
        let Fragment::Bytes { bytes, .. } = request.fragment else {
            panic!("plans do not travel");
        };
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let (what, n) = text.split_once(' ').expect("two words");
        let n: u64 = n.parse().expect("a number");
        let some = batches(n, self.batches_polled.clone());
        // Behind the batches, as a shard does it.
        let report = request.report.clone();
        let told = futures::stream::poll_fn(move |_| {
            if let Some(report) = &report {
                report.fill(vec![OperatorCounts { rows: n, nanos: 17 }]);
            }
            Poll::Ready(None)
        });
        Ok(match what {
            "batches" => Box::pin(some.chain(told)),
            "fail" => {
                let error = ShardError::Conflict { reason: "a test".to_owned() };
                Box::pin(some.chain(futures::stream::once(async { Err(error) })))
            }
            "panic" => Box::pin(some.chain(futures::stream::once(async { panic!("as asked") }))),
            "hang" => Box::pin(some.chain(futures::stream::pending())),
            "rows" => {
                let options = arrow::array::RecordBatchOptions::new()
                    .with_row_count(Some(usize::try_from(n).expect("small")));
                let schema = Arc::new(arrow::datatypes::Schema::empty());
                let batch = RecordBatch::try_new_with_options(schema, vec![], &options);
                Box::pin(futures::stream::iter([Ok(batch.expect("no columns"))]))
            }
            other => panic!("{other}"),
        })
    }

    async fn lock_rows(&self, request: LockRowsRequest) -> Result<Vec<LockedRow>, ShardError> {
        self.ask("lock_rows", format!("{request:?}")).await?;
        self.enter(&request.context);
        Ok(vec![LockedRow::Changed, LockedRow::Skipped])
    }

    async fn lock_table(
        &self,
        context: &RequestContext,
        table: Oid,
        lock: TableLock,
    ) -> Result<(), ShardError> {
        self.ask("lock_table", format!("{context:?} {table:?} {lock:?}")).await?;
        self.enter(context);
        Ok(())
    }

    async fn write(&self, request: WriteRequest) -> Result<WriteOutcome, ShardError> {
        self.ask("write", format!("{request:?}")).await?;
        self.enter(&request.context);
        if let (true, Some(txn)) = (request.commit, request.context.txn) {
            self.txns.lock().remove(&txn);
        }
        Ok(WriteOutcome::Done { affected: 2, rows: vec![vec![Datum::Int4(1), Datum::Null]] })
    }

    async fn rollback_to(&self, txn: TxnId, mark: u32) -> Result<(), ShardError> {
        self.ask("rollback_to", format!("{txn:?} {mark}")).await
    }

    async fn validate(&self, txn: TxnId) -> Result<(), ShardError> {
        self.ask("validate", format!("{txn:?}")).await
    }

    async fn commit(&self, txn: TxnId) -> Result<LogIndex, ShardError> {
        self.ask("commit", format!("{txn:?}")).await?;
        assert!(self.txns.lock().remove(&txn), "a transaction that is not there is committed");
        Ok(LogIndex(9))
    }

    async fn rollback(&self, txn: TxnId) -> Result<(), ShardError> {
        self.ask("rollback", format!("{txn:?}")).await?;
        self.txns.lock().remove(&txn);
        Ok(())
    }

    async fn fence(
        &self,
        context: &RequestContext,
        fences: Vec<Fence>,
    ) -> Result<LogIndex, ShardError> {
        self.ask("fence", format!("{context:?} {fences:?}")).await?;
        Ok(LogIndex(10))
    }

    async fn build_index(
        &self,
        context: &RequestContext,
        table: Arc<TableDescriptor>,
        index: usize,
    ) -> Result<(), ShardError> {
        self.ask("build_index", format!("{context:?} {table:?} {index}")).await
    }

    async fn rewrite_table(
        &self,
        context: &RequestContext,
        from: Arc<TableDescriptor>,
        to: Arc<TableDescriptor>,
    ) -> Result<u64, ShardError> {
        self.ask("rewrite_table", format!("{context:?} {from:?} {to:?}")).await?;
        Ok(11)
    }

    async fn drop_storage(&self, storages: Vec<StorageId>) -> Result<(), ShardError> {
        self.ask("drop_storage", format!("{storages:?}")).await
    }

    async fn storage_stats(&self, storage: StorageId) -> Result<StorageStats, ShardError> {
        self.ask("storage_stats", format!("{storage:?}")).await?;
        Ok(StorageStats { rows: 12, bytes: 13 })
    }

    async fn storages(&self) -> Result<Vec<StorageId>, ShardError> {
        self.ask("storages", String::new()).await?;
        Ok(vec![StorageId(14)])
    }

    async fn read_changes(&self, request: ChangesRequest) -> Result<Changes, ShardError> {
        self.ask("read_changes", format!("{request:?}")).await?;
        Ok(Changes::Behind)
    }

    async fn copy_position(
        &self,
        source: ShardId,
        at_least: LogIndex,
        wait: Duration,
    ) -> Result<LogIndex, ShardError> {
        self.ask("copy_position", format!("{source:?} {at_least:?} {wait:?}")).await?;
        Ok(LogIndex(15))
    }

    async fn read_moving(&self, request: MovingRequest) -> Result<MovingRows, ShardError> {
        self.ask("read_moving", format!("{request:?}")).await?;
        Ok(MovingRows::Behind)
    }

    async fn apply_moving(&self, request: ApplyMoving) -> Result<(), ShardError> {
        self.ask("apply_moving", format!("{request:?}")).await
    }

    async fn move_position(&self, id: MoveId) -> Result<Option<MovePosition>, ShardError> {
        self.ask("move_position", format!("{id:?}")).await?;
        Ok(None)
    }

    async fn hold_ranges(&self, request: HoldRanges) -> Result<LogIndex, ShardError> {
        self.ask("hold_ranges", format!("{request:?}")).await?;
        Ok(LogIndex(16))
    }

    async fn release_ranges(&self, id: MoveId) -> Result<(), ShardError> {
        self.ask("release_ranges", format!("{id:?}")).await
    }

    async fn drop_ranges(&self, id: MoveId, tables: Vec<TableRanges>) -> Result<(), ShardError> {
        self.ask("drop_ranges", format!("{id:?} {tables:?}")).await
    }

    async fn is_range_clean(&self, id: MoveId) -> Result<bool, ShardError> {
        self.ask("is_range_clean", format!("{id:?}")).await?;
        Ok(true)
    }

    async fn checksum_ranges(
        &self,
        context: &RequestContext,
        tables: Vec<TableRanges>,
    ) -> Result<Vec<RangeChecksum>, ShardError> {
        self.ask("checksum_ranges", format!("{context:?} {tables:?}")).await?;
        Ok(vec![RangeChecksum { rows: 17, checksum: u64::MAX }])
    }

    async fn sequence_next(
        &self,
        spec: &SequenceSpec,
        count: u32,
    ) -> Result<SequenceValues, ShardError> {
        self.ask("sequence_next", format!("{spec:?} {count}")).await?;
        Ok(SequenceValues { first: i64::MIN, count })
    }

    async fn sequence_set(
        &self,
        spec: &SequenceSpec,
        state: SequenceState,
    ) -> Result<(), ShardError> {
        self.ask("sequence_set", format!("{spec:?} {state:?}")).await
    }

    async fn sequence_get(&self, spec: &SequenceSpec) -> Result<Option<SequenceState>, ShardError> {
        self.ask("sequence_get", format!("{spec:?}")).await?;
        Ok(None)
    }

    async fn meta_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ShardError> {
        self.ask("meta_scan", format!("{prefix:?}")).await?;
        Ok(vec![(Bytes::from_static(b"k"), Bytes::from(vec![7; 3 << 20]))])
    }

    async fn meta_write(
        &self,
        guard: (Vec<u8>, Option<Vec<u8>>),
        writes: Vec<MetaWrite>,
    ) -> Result<LogIndex, ShardError> {
        self.ask("meta_write", format!("{guard:?} {writes:?}")).await?;
        Ok(LogIndex(18))
    }

    async fn meta_watch(&self, after: LogIndex, wait: Duration) -> Result<LogIndex, ShardError> {
        self.ask("meta_watch", format!("{after:?} {wait:?}")).await?;
        Ok(LogIndex(19))
    }
}
