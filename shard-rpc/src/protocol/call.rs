//! The requests of `ShardClient` as they travel: tables are numbers that the connection knows, snapshots are the server's.

use std::time::Duration;

use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, MoveId, Oid, ShardId, StorageId, TxnId,
    client::{
        Access, Key, MetaWrite, RequestContext, RowLock, SequenceSpec, SequenceState, TableLock,
        WaitPolicy, WriteOp,
    },
    copies::ChangesRequest,
    descriptor::Fence,
    moves::{MovePosition, MovedRow, MovingFrom},
};
use serde::{Deserialize, Serialize};

/// The number of a table descriptor on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct TableNumber(pub u32);

/// `ScanSpec`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Scan {
    pub table: TableNumber,
    pub columns: Vec<usize>,
    pub with_identity: bool,
    pub access: Access,
    pub limit: Option<usize>,
    pub batch_rows: usize,
}

/// `TableRanges`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ranges {
    pub table: TableNumber,
    pub ranges: Vec<(Bytes, Bytes)>,
}

/// A request. The order of variants is part of the format.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    Status,
    OpenSnapshot {
        context: RequestContext,
        tables: Vec<TableNumber>,
    },
    Get {
        context: RequestContext,
        table: TableNumber,
        keys: Vec<Key>,
    },
    ScanRows {
        context: RequestContext,
        scan: Scan,
        reverse: bool,
    },
    /// Its batches are fetched with `DoGet`.
    Execute {
        context: RequestContext,
        version: u16,
        fragment: Bytes,
        report: bool,
    },
    LockRows {
        context: RequestContext,
        table: TableNumber,
        rows: Vec<(Key, LogIndex)>,
        lock: RowLock,
        wait: WaitPolicy,
    },
    LockTable {
        context: RequestContext,
        table: Oid,
        lock: TableLock,
    },
    Write {
        context: RequestContext,
        table: TableNumber,
        related: Vec<TableNumber>,
        op: WriteOp,
        commit: bool,
        returning: bool,
        more: bool,
    },
    RollbackTo {
        txn: TxnId,
        mark: u32,
    },
    Validate(TxnId),
    Commit(TxnId),
    Rollback(TxnId),
    Fence {
        context: RequestContext,
        fences: Vec<Fence>,
    },
    BuildIndex {
        context: RequestContext,
        table: TableNumber,
        index: usize,
    },
    RewriteTable {
        context: RequestContext,
        from: TableNumber,
        to: TableNumber,
    },
    DropStorage(Vec<StorageId>),
    StorageStats(StorageId),
    Storages,
    ReadChanges(ChangesRequest),
    CopyPosition {
        source: ShardId,
        at_least: LogIndex,
        wait: Duration,
    },
    ReadMoving {
        id: MoveId,
        tables: Vec<Ranges>,
        from: MovingFrom,
    },
    ApplyMoving {
        id: MoveId,
        tables: Vec<Ranges>,
        page: Option<(Key, Key)>,
        rows: Vec<MovedRow>,
        from: Option<MovePosition>,
        to: MovePosition,
    },
    MovePosition(MoveId),
    HoldRanges {
        id: MoveId,
        tables: Vec<Ranges>,
        grace: Duration,
        limit: Duration,
    },
    ReleaseRanges(MoveId),
    DropRanges {
        id: MoveId,
        tables: Vec<Ranges>,
    },
    IsRangeClean(MoveId),
    ChecksumRanges {
        context: RequestContext,
        tables: Vec<Ranges>,
    },
    SequenceNext {
        spec: SequenceSpec,
        count: u32,
    },
    SequenceSet {
        spec: SequenceSpec,
        state: SequenceState,
    },
    SequenceGet(SequenceSpec),
    MetaScan(Vec<u8>),
    MetaWrite {
        guard: (Vec<u8>, Option<Vec<u8>>),
        writes: Vec<MetaWrite>,
    },
    MetaWatch {
        after: LogIndex,
        wait: Duration,
    },
}

/// What a request does to the transaction that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TxnUse {
    /// Begins it here, or goes on with it.
    Statement(TxnId),
    /// Needs it to be there.
    Existing(TxnId),
    /// Commits it, whatever the answer is.
    Commit(TxnId),
    /// Ends it without a trace; fine if it is not there.
    Rollback(TxnId),
}

impl Call {
    pub fn context(&self) -> Option<&RequestContext> {
        match self {
            Call::OpenSnapshot { context, .. }
            | Call::Get { context, .. }
            | Call::ScanRows { context, .. }
            | Call::Execute { context, .. }
            | Call::LockRows { context, .. }
            | Call::LockTable { context, .. }
            | Call::Write { context, .. }
            | Call::Fence { context, .. }
            | Call::BuildIndex { context, .. }
            | Call::RewriteTable { context, .. }
            | Call::ChecksumRanges { context, .. } => Some(context),
            Call::Status
            | Call::RollbackTo { .. }
            | Call::Validate(_)
            | Call::Commit(_)
            | Call::Rollback(_)
            | Call::DropStorage(_)
            | Call::StorageStats(_)
            | Call::Storages
            | Call::ReadChanges(_)
            | Call::CopyPosition { .. }
            | Call::ReadMoving { .. }
            | Call::ApplyMoving { .. }
            | Call::MovePosition(_)
            | Call::HoldRanges { .. }
            | Call::ReleaseRanges(_)
            | Call::DropRanges { .. }
            | Call::IsRangeClean(_)
            | Call::SequenceNext { .. }
            | Call::SequenceSet { .. }
            | Call::SequenceGet(_)
            | Call::MetaScan(_)
            | Call::MetaWrite { .. }
            | Call::MetaWatch { .. } => None,
        }
    }

    pub fn txn(&self) -> Option<TxnUse> {
        match self {
            Call::RollbackTo { txn, .. } | Call::Validate(txn) => Some(TxnUse::Existing(*txn)),
            Call::Commit(txn) => Some(TxnUse::Commit(*txn)),
            Call::Rollback(txn) => Some(TxnUse::Rollback(*txn)),
            other => other.context()?.txn.map(TxnUse::Statement),
        }
    }

    /// Whether something may be durable although no answer came.
    pub fn commits(&self) -> bool {
        match self {
            Call::Commit(_) | Call::MetaWrite { .. } => true,
            Call::Write { commit, .. } => *commit,
            Call::Fence { context, .. } => context.txn.is_none(),
            _ => false,
        }
    }

    /// Whether it goes on to its end once it is there, cancelled or not.
    pub fn is_uncancellable(&self) -> bool {
        matches!(self, Call::Commit(_) | Call::MetaWrite { .. } | Call::Rollback(_))
    }

    /// Whether an answer at once, in the task that serves the whole connection, would hold up others for too long.
    pub fn is_long(&self) -> bool {
        match self {
            Call::Get { keys, .. } => keys.len() > INLINE_KEYS_MAX,
            Call::ScanRows { scan, .. } => scan.limit.is_none_or(|limit| limit > INLINE_KEYS_MAX),
            Call::Write { op, .. } => match op {
                WriteOp::Insert { rows, .. } => rows.len() > INLINE_KEYS_MAX,
                WriteOp::Update { rows, .. } => rows.len() > INLINE_KEYS_MAX,
                WriteOp::Delete { rows } => rows.len() > INLINE_KEYS_MAX,
                WriteOp::UpdateByKey { .. } | WriteOp::DeleteByKey { .. } => false,
            },
            Call::LockRows { rows, .. } => rows.len() > INLINE_KEYS_MAX,
            Call::Status
            | Call::OpenSnapshot { .. }
            | Call::LockTable { .. }
            | Call::RollbackTo { .. }
            | Call::Validate(_)
            | Call::Commit(_)
            | Call::Rollback(_)
            | Call::StorageStats(_)
            | Call::SequenceNext { .. }
            | Call::SequenceSet { .. }
            | Call::SequenceGet(_)
            | Call::CopyPosition { .. }
            | Call::MetaWatch { .. } => false,
            Call::Execute { .. }
            | Call::Fence { .. }
            | Call::BuildIndex { .. }
            | Call::RewriteTable { .. }
            | Call::DropStorage(_)
            | Call::Storages
            | Call::ReadChanges(_)
            | Call::ReadMoving { .. }
            | Call::ApplyMoving { .. }
            | Call::MovePosition(_)
            | Call::HoldRanges { .. }
            | Call::ReleaseRanges(_)
            | Call::DropRanges { .. }
            | Call::IsRangeClean(_)
            | Call::ChecksumRanges { .. }
            | Call::MetaScan(_)
            | Call::MetaWrite { .. } => true,
        }
    }
}

/// Rows that are read or written at once, before other requests of the connection have their turn: some 100 microseconds.
const INLINE_KEYS_MAX: usize = 16;
