//! Everything that can be asked of a shard.
//!
//! `ShardClient` is the only way to a shard: embedded shards implement it in place, shard processes will over RPC, and
//! tests wrap it to lose answers. So requests are plain data, name their transaction, snapshot and table version, and
//! keep no borrowed state. Dropping a returned future or stream cancels the request.

use std::{any::Any, fmt, pin::Pin, sync::Arc, time::Duration};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use serde::{Deserialize, Serialize};

use crate::{
    copies::{Changes, ChangesRequest},
    descriptor::{Fence, TableDescriptor},
    error::ShardError,
    expr::ScalarExpr,
    ids::{LogIndex, MoveId, Oid, ShardId, SnapshotId, StorageId, TxnId},
    moves::{
        ApplyMoving, HoldRanges, MovePosition, MovingRequest, MovingRows, RangeChecksum,
        TableRanges,
    },
    report::FragmentReport,
    value::Datum,
};

/// Record batches of one shard, in the order the fragment promises.
pub type BatchStream = Pin<Box<dyn Stream<Item = Result<RecordBatch, ShardError>> + Send>>;

/// All columns of a table by position, dropped ones as `Null`.
pub type Row = Vec<Datum>;

/// A row's full key as stored: `[storage][slot?][primary key]`.
pub type Key = Bytes;

/// What every request of a statement says about itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RequestContext {
    /// The transaction; it begins on a shard with the first request that names it there. `None`: no transaction,
    /// reads see the latest committed state (or `snapshot`) and a write must commit itself.
    pub txn: Option<TxnId>,
    /// Counts up with each statement and savepoint of the transaction. A shard tags what it writes with it, so that
    /// `rollback_to(mark)` undoes a failed statement or returns to a savepoint.
    pub mark: u32,
    /// What reads see; `None` is the newest published state together with the transaction's own writes.
    pub snapshot: Option<SnapshotId>,
    /// The statement's `now()`, microseconds since 1970-01-01 UTC; expiry compares with it, never with a shard's clock.
    pub now_micros: i64,
    /// How long a row or table lock may be waited for; `None` waits until the statement is cancelled.
    pub lock_timeout: Option<Duration>,
    /// The request may take at most so long. A shard in another process ends it then by itself, for a cancellation may not
    /// reach it. `None`: as long as it takes.
    pub timeout: Option<Duration>,
}

/// How a row is locked. As in Postgres: Update conflicts with all, NoKeyUpdate with all but KeyShare, Share with
/// writers, KeyShare with Update alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RowLock {
    KeyShare,
    Share,
    NoKeyUpdate,
    Update,
}

/// What to do when a lock is held by another transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitPolicy {
    Wait,
    /// `ShardError::LockNotAvailable`
    NoWait,
    /// Leave the row out.
    SkipLocked,
}

/// Table locks; `Shared` by every write until its transaction ends, `Exclusive` by schema changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TableLock {
    Shared,
    Exclusive,
}

/// A stored row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredRow {
    pub key: Key,
    /// Encoded as `row::RowCodec` says.
    pub value: Bytes,
    /// Index of the entry that committed it; 0 for the transaction's own uncommitted rows.
    pub version: LogIndex,
}

/// Reads rows by full row key, in the order of `keys`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetRequest {
    pub context: RequestContext,
    pub table: Arc<TableDescriptor>,
    pub keys: Vec<Key>,
}

/// Locks rows and returns them as they are after the wait.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LockRowsRequest {
    pub context: RequestContext,
    pub table: Arc<TableDescriptor>,
    /// Each row's key with the version that the statement saw.
    pub rows: Vec<(Key, LogIndex)>,
    pub lock: RowLock,
    pub wait: WaitPolicy,
}

/// Which rows of a table a scan visits in one shard, and what it yields.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScanSpec {
    pub table: Arc<TableDescriptor>,
    /// Positions of the columns to decode, in output order.
    pub columns: Vec<usize>,
    /// Adds two columns behind `columns`: the row key (Binary, not null) and the version (UInt64, not null).
    pub with_identity: bool,
    pub access: Access,
    /// Stop after so many rows. Exact only where the scan alone decides which rows qualify.
    pub limit: Option<usize>,
    /// Rows per batch at most.
    pub batch_rows: usize,
}

/// How the rows are found. Ranges are over encoded keys, sorted, disjoint; `[start, end)`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Access {
    /// Every row of the table that this shard owns.
    Full,
    /// Row keys in these ranges.
    KeyRanges(Vec<(Bytes, Bytes)>),
    /// Entries of the index (position in `TableDescriptor::indexes`) in these ranges, then their rows.
    IndexRanges { index: usize, ranges: Vec<(Bytes, Bytes)> },
    /// Row keys whose first `columns` primary key columns have any value, and what follows them lies in one of these ranges
    /// (of encoded keys without those columns). Found by skipping from value to value; where values change with every few
    /// rows, rows outside of the ranges are visited too.
    KeySkips { columns: usize, ranges: Vec<(Bytes, Bytes)> },
    /// Nothing: the predicate can hold for no row of this shard.
    Empty,
}

/// Rows of a short scan, without Arrow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScanRowsRequest {
    pub context: RequestContext,
    pub spec: ScanSpec,
    pub reverse: bool,
}

/// A part of a plan for one shard.
#[derive(Clone)]
pub struct FragmentRequest {
    pub context: RequestContext,
    pub fragment: Fragment,
    /// Where to leave what the operators did, for who wants to know.
    pub report: Option<Arc<FragmentReport>>,
}

/// A fragment, opaque to this crate.
#[derive(Clone)]
pub enum Fragment {
    /// A plan as objects. A shard in the same process runs it as it is; on the way to another process it is encoded.
    Plan(Arc<dyn FragmentPlan>),
    /// A serialized plan: a format version and its bytes.
    Bytes { version: u16, bytes: Bytes },
}

/// A plan for one shard, made by the planner.
pub trait FragmentPlan: Any + Send + Sync {
    /// The plan for a shard in another process: format version and bytes. The same on every call.
    ///
    /// Errors: `ShardError::Execution` for a plan with a part that cannot travel.
    fn encode(&self) -> Result<(u16, Bytes), ShardError>;

    /// For a shard in the same process, which knows the type.
    fn as_any(&self) -> &dyn Any;
}

impl fmt::Debug for FragmentRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.fragment {
            Fragment::Plan(_) => "a plan".to_owned(),
            Fragment::Bytes { version, bytes } => {
                format!("version {version}, {} bytes", bytes.len())
            }
        };
        f.debug_struct("FragmentRequest")
            .field("context", &self.context)
            .field("fragment", &kind)
            .field("report", &self.report.is_some())
            .finish()
    }
}

/// What a running fragment reads from: implemented by the shard, found by the scan operator in its task context.
pub trait ScanSource: Send + Sync {
    /// Batches of the rows in key order (index order for `IndexRanges`), on the request's snapshot.
    fn scan(&self, spec: &ScanSpec) -> Result<BatchStream, ShardError>;
}

/// Changes rows of one table. On error the shard has undone everything tagged with `context.mark`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteRequest {
    pub context: RequestContext,
    pub table: Arc<TableDescriptor>,
    /// Tables reachable over foreign keys in either direction, transitively, as far as this write can need them.
    pub related: Arc<[Arc<TableDescriptor>]>,
    pub op: WriteOp,
    /// Commit with this call when it succeeds. Needed when `context.txn` is `None`; with a transaction it ends it.
    pub commit: bool,
    /// Whether to send back rows: new ones for INSERT and UPDATE, old ones for DELETE.
    pub returning: bool,
    /// The statement has more requests for this shard: foreign keys of a table that refers to itself are followed with
    /// the last one, when all of the statement's rows are there. That one may have no rows of its own.
    pub more: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum WriteOp {
    Insert {
        rows: Vec<Row>,
        on_conflict: OnConflict,
    },
    /// Rows found and computed by a query on this statement's snapshot.
    Update {
        rows: Vec<RowUpdate>,
        /// Positions that the statement assigns (which constraints to check).
        assigned: Vec<usize>,
    },
    /// Rows found by a query on this statement's snapshot.
    Delete {
        rows: Vec<(Key, LogIndex)>,
    },
    /// Computed in the shard, under the row's lock: the fast path.
    UpdateByKey {
        key: Key,
        /// Over the current row.
        predicate: Option<ScalarExpr>,
        /// Position and new value, over the current row.
        assignments: Vec<(usize, ScalarExpr)>,
        parameters: Arc<[Datum]>,
    },
    DeleteByKey {
        key: Key,
        predicate: Option<ScalarExpr>,
        parameters: Arc<[Datum]>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RowUpdate {
    pub key: Key,
    /// The version the statement saw.
    pub seen: LogIndex,
    pub row: Row,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum OnConflict {
    /// 23505
    Fail,
    /// `arbiter`: `None` is any unique constraint.
    DoNothing { arbiter: Option<Arbiter> },
    DoUpdate {
        arbiter: Arbiter,
        /// Over existing row ++ proposed row.
        assignments: Vec<(usize, ScalarExpr)>,
        predicate: Option<ScalarExpr>,
        parameters: Arc<[Datum]>,
    },
}

/// The unique constraint that decides what a conflict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arbiter {
    PrimaryKey,
    /// Position in `TableDescriptor::indexes`.
    Index(usize),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum WriteOutcome {
    Done {
        affected: u64,
        /// Empty unless asked for; in the order of the request.
        rows: Vec<Row>,
    },
    /// A row changed since the statement's snapshot. Everything with this mark is undone, the locks are kept: run the
    /// statement again on a fresh snapshot (READ COMMITTED).
    Retry,
}

/// A key-value change of the meta shard: the catalog's rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MetaWrite {
    pub key: Vec<u8>,
    /// `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// How a sequence counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceSpec {
    /// Identity of the counter; a dropped and recreated sequence has another.
    pub storage: StorageId,
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cycle: bool,
}

/// Values reserved from a sequence: `first`, `first + increment`, ... `count` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceValues {
    pub first: i64,
    pub count: u32,
}

/// A sequence's `last_value` and `is_called`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceState {
    pub last_value: i64,
    pub is_called: bool,
    /// The sequence moves or has moved to another shard: this one gives no values (`ShardError::StaleEpoch`) until it is set
    /// without. Setting it keeps the counter as it is, whatever `last_value` says, so that `sequence_get` tells then where
    /// another shard goes on.
    pub is_gone: bool,
    /// How often the sequence has left or come to this shard. A move sets the number that follows the one it has read, so that a
    /// request that comes late, or of a coordinator that has been replaced, changes nothing (`ShardError::StaleEpoch`). 0 in
    /// what is set: no move, which leaves the number as it is and is refused where the sequence is gone.
    pub turn: u64,
}

/// What a shard holds of one storage id; counted, not estimated, as of the last published state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageStats {
    pub rows: u64,
    pub bytes: u64,
}

/// How a shard is, for views and health checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The entry of the log that the published state shows last.
    pub applied: LogIndex,
    /// Rows of all tables and bytes of all keyspaces, counted.
    pub rows: u64,
    pub bytes: u64,
    /// Bytes of the log that a restart would read again.
    pub log_bytes: u64,
    /// Why it refuses writes; `None`: it takes them.
    pub poisoned: Option<String>,
}

/// One shard.
///
/// Rules for callers: statements of a transaction come one after the other; a transaction ends with `commit` or
/// `rollback` on every shard that saw it. Rules for implementations: nothing is acknowledged before it is durable;
/// a request that fails has changed nothing.
#[async_trait]
pub trait ShardClient: Send + Sync + fmt::Debug {
    fn id(&self) -> ShardId;

    async fn status(&self) -> Result<ShardStatus, ShardError>;

    /// Pins the newest published state and the transaction's own writes so far, until `close_snapshot`. Refuses tables whose
    /// versions it does not serve, as every read does (`ShardError::StaleEpoch`): what a snapshot takes it takes until it is
    /// closed.
    async fn open_snapshot(
        &self,
        context: &RequestContext,
        tables: &[Arc<TableDescriptor>],
    ) -> Result<SnapshotId, ShardError>;

    fn close_snapshot(&self, snapshot: SnapshotId);

    async fn get(&self, request: GetRequest) -> Result<Vec<Option<StoredRow>>, ShardError>;

    /// At most `spec.limit` rows (bounded by `SCAN_ROWS_MAX`), whole stored rows whatever `spec.columns` says.
    async fn scan_rows(&self, request: ScanRowsRequest) -> Result<Vec<StoredRow>, ShardError>;

    /// Runs a fragment. All of it reads one view: the context's snapshot, or what `open_snapshot` would pin now, held until the
    /// batches are dropped. Returns when every table's version has been taken, so that none is stale behind that.
    async fn execute(&self, request: FragmentRequest) -> Result<BatchStream, ShardError>;

    /// `None` for a row that is gone, skipped, or whose version is not the one seen (`LockedRow::Changed`).
    async fn lock_rows(&self, request: LockRowsRequest) -> Result<Vec<LockedRow>, ShardError>;

    async fn lock_table(
        &self,
        context: &RequestContext,
        table: Oid,
        lock: TableLock,
    ) -> Result<(), ShardError>;

    async fn write(&self, request: WriteRequest) -> Result<WriteOutcome, ShardError>;

    /// Undoes everything the transaction wrote here with a mark of `mark` or higher. Locks stay.
    async fn rollback_to(&self, txn: TxnId, mark: u32) -> Result<(), ShardError>;

    /// Whether `commit` would be accepted: the transaction is alive here and the shard takes writes.
    async fn validate(&self, txn: TxnId) -> Result<(), ShardError>;

    /// Returns after the commit is durable and visible. `ShardError::OutcomeUnknown` when the answer was lost.
    async fn commit(&self, txn: TxnId) -> Result<LogIndex, ShardError>;

    async fn rollback(&self, txn: TxnId) -> Result<(), ShardError>;

    /// Refuses, from now on and for good, requests that were made with an older version of a table or of a shard map
    /// (`ShardError::StaleEpoch`), unless their snapshot is from before. With a transaction it takes effect with its commit, and
    /// then makes it a writing one; without, it is durable and in force on return. Never goes back: an older fence is no change.
    async fn fence(
        &self,
        context: &RequestContext,
        fences: Vec<Fence>,
    ) -> Result<LogIndex, ShardError>;

    /// Fills an index of a table that the transaction holds exclusively; the entries belong to the transaction.
    /// A duplicate in a unique index is `UniqueViolation`.
    async fn build_index(
        &self,
        context: &RequestContext,
        table: Arc<TableDescriptor>,
        index: usize,
    ) -> Result<(), ShardError>;

    /// Writes every row of `from` under the key, shape and indexes of `to` (another storage id), inside the
    /// transaction, which holds the table exclusively. `from` stays as it is.
    async fn rewrite_table(
        &self,
        context: &RequestContext,
        from: Arc<TableDescriptor>,
        to: Arc<TableDescriptor>,
    ) -> Result<u64, ShardError>;

    /// Deletes all keys of these storage ids in the background. Durable: continues after a restart.
    async fn drop_storage(&self, storages: Vec<StorageId>) -> Result<(), ShardError>;

    async fn storage_stats(&self, storage: StorageId) -> Result<StorageStats, ShardError>;

    /// Storage ids that have keys here: to find those that no catalog entry refers to after a crash.
    async fn storages(&self) -> Result<Vec<StorageId>, ShardError>;

    /// Changes of the reference tables whose primary copies are here: what a copy on another shard applies.
    async fn read_changes(&self, request: ChangesRequest) -> Result<Changes, ShardError>;

    /// How far this shard's copies of the reference tables of shard `source` are, as an index of that shard's log. On `source`
    /// itself: the newest change. Waits up to `wait` until that is `at_least`, and answers with what it is then.
    async fn copy_position(
        &self,
        source: ShardId,
        at_least: LogIndex,
        wait: Duration,
    ) -> Result<LogIndex, ShardError>;

    /// Source of a move: rows of the moving ranges, a page of a snapshot or what the log has behind a place.
    async fn read_moving(&self, request: MovingRequest) -> Result<MovingRows, ShardError>;

    /// Target of a move: stores rows and their index entries, or deletes them, and remembers how far it is, all in one entry of
    /// its log. Rows in the pages' ranges that are not in the page are deleted. Repeating a request changes nothing. What it
    /// stores is not visible before a map says that it is this shard's.
    ///
    /// `ShardError::StaleEpoch`: a table's version or epoch is behind a fence here (so what comes after the target's fence is sent
    /// with the new epoch, and who does not know of it is kept out), or a row was written with a newer version.
    /// `ShardError::Conflict`: the move is at another place or has ended here, or the ranges are still being cleaned up.
    async fn apply_moving(&self, request: ApplyMoving) -> Result<(), ShardError>;

    /// Target of a move: how far it is; `None` if it has nothing of it.
    async fn move_position(&self, id: MoveId) -> Result<Option<MovePosition>, ShardError>;

    /// Source of a move, before the cutover: writes to the moving ranges wait from now on. Transactions that have written or
    /// locked there may end within `grace`; then they can only be rolled back (40001). Returns, when none is left, the entry of
    /// the log behind which nothing in the ranges changes while it lasts. Ends with `release_ranges` and `drop_ranges`, and by
    /// itself after `limit` (at most 30 s), counted from the request's arrival. The fence is what keeps old writers out for good:
    /// nothing changes behind its index, however long it took.
    async fn hold_ranges(&self, request: HoldRanges) -> Result<LogIndex, ShardError>;

    /// Ends a hold: who waited goes on, and is refused if a fence was set meanwhile. No hold is no error.
    async fn release_ranges(&self, id: MoveId) -> Result<(), ShardError>;

    /// Deletes what is in the ranges, index entries too, in the background; durable: continues after a restart. Ends the
    /// move here for good: no `apply_moving` with its id is taken any more. The descriptors must be the newest, with a map by which
    /// the ranges are another shard's; rows that would be this shard's are refused. Snapshots that are open go on seeing what
    /// they see. `is_range_clean` tells when it is done. Repeating it changes nothing.
    async fn drop_ranges(&self, id: MoveId, tables: Vec<TableRanges>) -> Result<(), ShardError>;

    async fn is_range_clean(&self, id: MoveId) -> Result<bool, ShardError>;

    /// Rows in the ranges of each table, with a checksum that does not depend on where they are stored, as of the context's
    /// snapshot (or the newest state). Index entries are checked against the rows: `ShardError::Corrupt` when they differ.
    async fn checksum_ranges(
        &self,
        context: &RequestContext,
        tables: Vec<TableRanges>,
    ) -> Result<Vec<RangeChecksum>, ShardError>;

    /// Reserves `count` values, durably ahead of use; never rolled back.
    async fn sequence_next(
        &self,
        spec: &SequenceSpec,
        count: u32,
    ) -> Result<SequenceValues, ShardError>;

    async fn sequence_set(
        &self,
        spec: &SequenceSpec,
        state: SequenceState,
    ) -> Result<(), ShardError>;

    /// `None`: never used.
    async fn sequence_get(&self, spec: &SequenceSpec) -> Result<Option<SequenceState>, ShardError>;

    /// Meta shard: all entries whose key begins with the prefix, in key order.
    async fn meta_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ShardError>;

    /// Meta shard: atomically and durably writes all, provided that the entry at `guard.0` still is `guard.1`
    /// (`ShardError::MetaConflict` otherwise).
    async fn meta_write(
        &self,
        guard: (Vec<u8>, Option<Vec<u8>>),
        writes: Vec<MetaWrite>,
    ) -> Result<LogIndex, ShardError>;

    /// Meta shard: returns when an entry behind `after` changed anything that `meta_write` writes, or after `wait`, with the index
    /// of the newest such entry known.
    async fn meta_watch(&self, after: LogIndex, wait: Duration) -> Result<LogIndex, ShardError>;
}

/// Answer of `lock_rows`, one for each row asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum LockedRow {
    /// Locked, and still what the statement saw.
    Same(StoredRow),
    /// Locked, but a newer version (or none) is there now: the statement must run again.
    Changed,
    /// Left out under `SkipLocked`.
    Skipped,
}

/// Rows that `scan_rows` returns at the most: what fits a fast answer; longer scans are fragments.
pub const SCAN_ROWS_MAX: usize = 1000;
