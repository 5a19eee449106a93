//! `ShardClient` for `RemoteShard`: each method is one request and its answer.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, MoveId, Oid, ShardError, ShardId, SnapshotId, StorageId, TableDescriptor, TxnId,
    client::{
        BatchStream, FragmentRequest, GetRequest, LockRowsRequest, LockedRow, MetaWrite,
        RequestContext, ScanRowsRequest, SequenceSpec, SequenceState, SequenceValues, ShardClient,
        ShardStatus, StorageStats, StoredRow, TableLock, WriteOutcome, WriteRequest,
    },
    copies::{Changes, ChangesRequest},
    descriptor::Fence,
    moves::{
        ApplyMoving, HoldRanges, MovePosition, MovingFrom, MovingRequest, MovingRows,
        RangeChecksum, TableRanges,
    },
};
use serde::de::DeserializeOwned;

use super::{
    RemoteShard, Shared, State,
    connection::{InFlight, Tables, local_snapshot, remote_snapshot},
    execute,
};
use crate::protocol::call::{Call, Ranges, Scan};

impl Shared {
    /// Sends a request. `None`: there is nothing to ask.
    pub(super) async fn send(
        &self,
        build: impl FnOnce(&mut Tables<'_>) -> Result<Call, ShardError>,
    ) -> Result<Option<InFlight>, ShardError> {
        let connection = self.connection().await?;
        connection.room().await;
        connection.send(self, build)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        build: impl FnOnce(&mut Tables<'_>) -> Result<Call, ShardError>,
    ) -> Result<T, ShardError> {
        match self.send(build).await? {
            Some(mut request) => request.answer().await,
            None => Err(ShardError::Internal {
                shard: self.endpoint.shard,
                what: "a request without a shard to ask".to_owned(),
            }),
        }
    }

    /// A request without tables, snapshot or context.
    async fn plain<T: DeserializeOwned>(&self, call: Call) -> Result<T, ShardError> {
        self.call(|_| Ok(call)).await
    }

    /// A transaction whose connection is gone cannot go on: that is what its requests are told, for the shard rolls it back.
    fn explain(&self, txn: TxnId, error: ShardError) -> ShardError {
        match error {
            ShardError::Unavailable { shard, .. } if self.has_begun(txn) => {
                ShardError::TransactionLost { shard }
            }
            other => other,
        }
    }
}

fn ranges(tables: &mut Tables<'_>, moving: Vec<TableRanges>) -> Result<Vec<Ranges>, ShardError> {
    let one = |TableRanges { table, ranges }: TableRanges| {
        Ok(Ranges { table: tables.number(&table)?, ranges })
    };
    moving.into_iter().map(one).collect()
}

#[async_trait]
impl ShardClient for RemoteShard {
    fn id(&self) -> ShardId {
        self.shared.endpoint.shard
    }

    async fn status(&self) -> Result<ShardStatus, ShardError> {
        self.shared.plain(Call::Status).await
    }

    async fn open_snapshot(
        &self,
        context: &RequestContext,
        tables: &[Arc<TableDescriptor>],
    ) -> Result<SnapshotId, ShardError> {
        let shared = &*self.shared;
        let mut epoch = 0;
        let build = |numbers: &mut Tables<'_>| {
            epoch = numbers.epoch;
            // A snapshot of a snapshot is not what is meant: see the trait.
            let context = RequestContext { snapshot: None, ..context.clone() };
            let tables = tables.iter().map(|table| numbers.number(table));
            Ok(Call::OpenSnapshot { context, tables: tables.collect::<Result<_, _>>()? })
        };
        let snapshot: SnapshotId = shared.call(build).await?;
        local_snapshot(snapshot, epoch).ok_or_else(|| ShardError::Internal {
            shard: shared.endpoint.shard,
            what: format!("snapshot {snapshot} is out of bounds"),
        })
    }

    fn close_snapshot(&self, snapshot: SnapshotId) {
        if let State::Up(connection) = &*self.shared.state.borrow()
            && let Some(remote) = remote_snapshot(snapshot, connection.epoch)
        {
            connection.close_snapshot(remote);
        }
    }

    async fn get(&self, request: GetRequest) -> Result<Vec<Option<StoredRow>>, ShardError> {
        let shared = &*self.shared;
        let build = |tables: &mut Tables<'_>| {
            let context = shared.context(&request.context, tables.epoch)?;
            Ok(Call::Get { context, table: tables.number(&request.table)?, keys: request.keys })
        };
        shared.call(build).await
    }

    async fn scan_rows(&self, request: ScanRowsRequest) -> Result<Vec<StoredRow>, ShardError> {
        let shared = &*self.shared;
        let ScanRowsRequest { context, spec, reverse } = request;
        let build = |tables: &mut Tables<'_>| {
            let scan = Scan {
                table: tables.number(&spec.table)?,
                columns: spec.columns,
                with_identity: spec.with_identity,
                access: spec.access,
                limit: spec.limit,
                batch_rows: spec.batch_rows,
            };
            let context = shared.context(&context, tables.epoch)?;
            Ok(Call::ScanRows { context, scan, reverse })
        };
        shared.call(build).await
    }

    async fn execute(&self, request: FragmentRequest) -> Result<BatchStream, ShardError> {
        execute::execute(&self.shared, request).await
    }

    async fn lock_rows(&self, request: LockRowsRequest) -> Result<Vec<LockedRow>, ShardError> {
        let shared = &*self.shared;
        let LockRowsRequest { context, table, rows, lock, wait } = request;
        let build = |tables: &mut Tables<'_>| {
            let context = shared.context(&context, tables.epoch)?;
            Ok(Call::LockRows { context, table: tables.number(&table)?, rows, lock, wait })
        };
        shared.call(build).await
    }

    async fn lock_table(
        &self,
        context: &RequestContext,
        table: Oid,
        lock: TableLock,
    ) -> Result<(), ShardError> {
        let shared = &*self.shared;
        let build = |tables: &mut Tables<'_>| {
            let context = shared.context(context, tables.epoch)?;
            Ok(Call::LockTable { context, table, lock })
        };
        shared.call(build).await
    }

    async fn write(&self, request: WriteRequest) -> Result<WriteOutcome, ShardError> {
        let shared = &*self.shared;
        let WriteRequest { context, table, related, op, commit, returning, more } = request;
        let txn = context.txn;
        let build = |tables: &mut Tables<'_>| {
            Ok(Call::Write {
                context: shared.context(&context, tables.epoch)?,
                table: tables.number(&table)?,
                related: related
                    .iter()
                    .map(|table| tables.number(table))
                    .collect::<Result<_, _>>()?,
                op,
                commit,
                returning,
                more,
            })
        };
        let outcome = shared.call(build).await?;
        if let (true, Some(txn), WriteOutcome::Done { .. }) = (commit, txn, &outcome) {
            shared.forget(txn);
        }
        Ok(outcome)
    }

    async fn rollback_to(&self, txn: TxnId, mark: u32) -> Result<(), ShardError> {
        if !self.shared.has_begun(txn) {
            // Nothing was written here.
            return Ok(());
        }
        let rolled_back = self.shared.plain(Call::RollbackTo { txn, mark }).await;
        rolled_back.map_err(|error| self.shared.explain(txn, error))
    }

    async fn validate(&self, txn: TxnId) -> Result<(), ShardError> {
        let valid = self.shared.plain(Call::Validate(txn)).await;
        valid.map_err(|error| self.shared.explain(txn, error))
    }

    async fn commit(&self, txn: TxnId) -> Result<LogIndex, ShardError> {
        let committed = self.shared.plain(Call::Commit(txn)).await;
        committed.map_err(|error| self.shared.explain(txn, error))
    }

    async fn rollback(&self, txn: TxnId) -> Result<(), ShardError> {
        if !self.shared.has_begun(txn) {
            return Ok(());
        }
        let rolled_back = match self.shared.send(|_| Ok(Call::Rollback(txn))).await {
            Ok(Some(mut request)) => request.answer().await,
            Ok(None) => return Ok(()),
            Err(error) => Err(error),
        };
        match rolled_back {
            // The shard rolls back by itself what was begun on a connection that is lost.
            Err(ShardError::Unavailable { .. }) => {
                self.shared.forget(txn);
                Ok(())
            }
            other => other,
        }
    }

    async fn fence(
        &self,
        context: &RequestContext,
        fences: Vec<Fence>,
    ) -> Result<LogIndex, ShardError> {
        let shared = &*self.shared;
        let build = |tables: &mut Tables<'_>| {
            Ok(Call::Fence { context: shared.context(context, tables.epoch)?, fences })
        };
        shared.call(build).await
    }

    async fn build_index(
        &self,
        context: &RequestContext,
        table: Arc<TableDescriptor>,
        index: usize,
    ) -> Result<(), ShardError> {
        let shared = &*self.shared;
        let build = |tables: &mut Tables<'_>| {
            let context = shared.context(context, tables.epoch)?;
            Ok(Call::BuildIndex { context, table: tables.number(&table)?, index })
        };
        shared.call(build).await
    }

    async fn rewrite_table(
        &self,
        context: &RequestContext,
        from: Arc<TableDescriptor>,
        to: Arc<TableDescriptor>,
    ) -> Result<u64, ShardError> {
        let shared = &*self.shared;
        let build = |tables: &mut Tables<'_>| {
            let context = shared.context(context, tables.epoch)?;
            Ok(Call::RewriteTable { context, from: tables.number(&from)?, to: tables.number(&to)? })
        };
        shared.call(build).await
    }

    async fn drop_storage(&self, storages: Vec<StorageId>) -> Result<(), ShardError> {
        self.shared.plain(Call::DropStorage(storages)).await
    }

    async fn storage_stats(&self, storage: StorageId) -> Result<StorageStats, ShardError> {
        self.shared.plain(Call::StorageStats(storage)).await
    }

    async fn storages(&self) -> Result<Vec<StorageId>, ShardError> {
        self.shared.plain(Call::Storages).await
    }

    async fn read_changes(&self, request: ChangesRequest) -> Result<Changes, ShardError> {
        let shared = &*self.shared;
        let build = |tables: &mut Tables<'_>| {
            Ok(Call::ReadChanges(match request {
                ChangesRequest::Log { .. } => request,
                ChangesRequest::Snapshot { snapshot, start } => {
                    let snapshot = shared.snapshot(snapshot, tables.epoch)?;
                    ChangesRequest::Snapshot { snapshot, start }
                }
            }))
        };
        shared.call(build).await
    }

    async fn copy_position(
        &self,
        source: ShardId,
        at_least: LogIndex,
        wait: Duration,
    ) -> Result<LogIndex, ShardError> {
        self.shared.plain(Call::CopyPosition { source, at_least, wait }).await
    }

    async fn read_moving(&self, request: MovingRequest) -> Result<MovingRows, ShardError> {
        let shared = &*self.shared;
        let MovingRequest { id, tables: moving, from } = request;
        let build = |tables: &mut Tables<'_>| {
            let from = match from {
                MovingFrom::Log { .. } => from,
                MovingFrom::Snapshot { snapshot, start } => {
                    let snapshot = shared.snapshot(snapshot, tables.epoch)?;
                    MovingFrom::Snapshot { snapshot, start }
                }
            };
            Ok(Call::ReadMoving { id, tables: ranges(tables, moving)?, from })
        };
        shared.call(build).await
    }

    async fn apply_moving(&self, request: ApplyMoving) -> Result<(), ShardError> {
        let ApplyMoving { id, tables: moving, page, rows, from, to } = request;
        let build = |tables: &mut Tables<'_>| {
            let tables = ranges(tables, moving)?;
            Ok(Call::ApplyMoving { id, tables, page, rows, from, to })
        };
        self.shared.call(build).await
    }

    async fn move_position(&self, id: MoveId) -> Result<Option<MovePosition>, ShardError> {
        self.shared.plain(Call::MovePosition(id)).await
    }

    async fn hold_ranges(&self, request: HoldRanges) -> Result<LogIndex, ShardError> {
        let HoldRanges { id, tables: moving, grace, limit } = request;
        let build = |tables: &mut Tables<'_>| {
            Ok(Call::HoldRanges { id, tables: ranges(tables, moving)?, grace, limit })
        };
        self.shared.call(build).await
    }

    async fn release_ranges(&self, id: MoveId) -> Result<(), ShardError> {
        self.shared.plain(Call::ReleaseRanges(id)).await
    }

    async fn drop_ranges(&self, id: MoveId, moving: Vec<TableRanges>) -> Result<(), ShardError> {
        let build =
            |tables: &mut Tables<'_>| Ok(Call::DropRanges { id, tables: ranges(tables, moving)? });
        self.shared.call(build).await
    }

    async fn is_range_clean(&self, id: MoveId) -> Result<bool, ShardError> {
        self.shared.plain(Call::IsRangeClean(id)).await
    }

    async fn checksum_ranges(
        &self,
        context: &RequestContext,
        moving: Vec<TableRanges>,
    ) -> Result<Vec<RangeChecksum>, ShardError> {
        let shared = &*self.shared;
        let build = |tables: &mut Tables<'_>| {
            let context = shared.context(context, tables.epoch)?;
            Ok(Call::ChecksumRanges { context, tables: ranges(tables, moving)? })
        };
        shared.call(build).await
    }

    async fn sequence_next(
        &self,
        spec: &SequenceSpec,
        count: u32,
    ) -> Result<SequenceValues, ShardError> {
        self.shared.plain(Call::SequenceNext { spec: spec.clone(), count }).await
    }

    async fn sequence_set(
        &self,
        spec: &SequenceSpec,
        state: SequenceState,
    ) -> Result<(), ShardError> {
        self.shared.plain(Call::SequenceSet { spec: spec.clone(), state }).await
    }

    async fn sequence_get(&self, spec: &SequenceSpec) -> Result<Option<SequenceState>, ShardError> {
        self.shared.plain(Call::SequenceGet(spec.clone())).await
    }

    async fn meta_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ShardError> {
        self.shared.plain(Call::MetaScan(prefix.to_vec())).await
    }

    async fn meta_write(
        &self,
        guard: (Vec<u8>, Option<Vec<u8>>),
        writes: Vec<MetaWrite>,
    ) -> Result<LogIndex, ShardError> {
        self.shared.plain(Call::MetaWrite { guard, writes }).await
    }

    async fn meta_watch(&self, after: LogIndex, wait: Duration) -> Result<LogIndex, ShardError> {
        self.shared.plain(Call::MetaWatch { after, wait }).await
    }
}
