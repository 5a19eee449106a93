//! What a gateway has of its cluster, until it dies: from then on nothing it asks is done, as if its process were killed.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cortex_gateway::cluster::service::MetaSession;
use cortex_shard_api::{
    LogIndex, MoveId, Oid, ShardError, ShardId, SnapshotId, StorageId, TableDescriptor, TxnId,
    client::{
        BatchStream, FragmentRequest, GetRequest, LockRowsRequest, LockedRow, MetaWrite,
        RequestContext, ScanRowsRequest, SequenceSpec, SequenceState, SequenceValues, ShardClient,
        ShardStatus, StorageStats, StoredRow, TableLock, WriteOutcome, WriteRequest,
    },
    cluster::{ClusterError, ClusterLock, Join, Joined, LockId, Members, MetaClient, Report},
    copies::{Changes, ChangesRequest},
    descriptor::Fence,
    moves::{
        ApplyMoving, HoldRanges, MovePosition, MovingRequest, MovingRows, RangeChecksum,
        TableRanges,
    },
};

/// When a gateway dies: with the n-th request to a shard from `arm` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    pub at: usize,
    /// The request is still done; its answer comes to nobody.
    pub after_request: bool,
}

/// A gateway's life.
#[derive(Debug, Default)]
pub struct Life(Mutex<Lived>);

#[derive(Debug, Default)]
struct Lived {
    death: Option<Death>,
    requests: usize,
    is_over: bool,
    session: Option<Arc<MetaSession>>,
    shards: Vec<Arc<dyn ShardClient>>,
    txns: BTreeSet<TxnId>,
}

impl Life {
    fn lived(&self) -> std::sync::MutexGuard<'_, Lived> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on requests count.
    pub fn arm(&self, death: Death) {
        let mut lived = self.lived();
        lived.requests = 0;
        lived.death = Some(death);
    }

    pub fn is_over(&self) -> bool {
        self.lived().is_over
    }

    /// What the shards and the meta process do when they notice: transactions are rolled back, locks end.
    pub async fn bury(&self) {
        let (session, shards, txns) = {
            let mut lived = self.lived();
            lived.is_over = true;
            (lived.session.take(), lived.shards.clone(), lived.txns.clone())
        };
        drop(session);
        for shard in shards {
            for txn in &txns {
                // A shard without the transaction has nothing to roll back.
                let _ = shard.rollback(*txn).await;
            }
        }
    }

    fn dead(&self, shard: ShardId) -> ShardError {
        ShardError::Unavailable { shard, reason: "this gateway is dead".to_owned() }
    }

    async fn request<T>(
        &self,
        shard: ShardId,
        txn: Option<TxnId>,
        request: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        let dies_after = {
            let mut lived = self.lived();
            if lived.is_over {
                return Err(self.dead(shard));
            }
            lived.txns.extend(txn);
            lived.requests += 1;
            let dies = lived.death.filter(|death| death.at == lived.requests);
            if dies.is_some_and(|death| !death.after_request) {
                lived.is_over = true;
                return Err(self.dead(shard));
            }
            dies.is_some()
        };
        let answer = request.await;
        if dies_after {
            self.lived().is_over = true;
            return Err(self.dead(shard));
        }
        answer
    }
}

/// A shard as a mortal gateway sees it.
#[derive(Debug)]
pub struct MortalShard {
    shard: Arc<dyn ShardClient>,
    life: Arc<Life>,
}

impl MortalShard {
    pub fn of(shard: Arc<dyn ShardClient>, life: &Arc<Life>) -> Arc<dyn ShardClient> {
        life.lived().shards.push(shard.clone());
        Arc::new(MortalShard { shard, life: life.clone() })
    }
}

macro_rules! mortal {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $answer:ty, txn $txn:expr;)*) => {
        #[async_trait]
        impl ShardClient for MortalShard {
            fn id(&self) -> ShardId {
                self.shard.id()
            }

            fn close_snapshot(&self, snapshot: SnapshotId) {
                self.shard.close_snapshot(snapshot);
            }

            // They wait in the background; a death is not theirs.
            async fn meta_watch(
                &self,
                after: LogIndex,
                wait: Duration,
            ) -> Result<LogIndex, ShardError> {
                if self.life.is_over() {
                    return Err(self.life.dead(self.id()));
                }
                self.shard.meta_watch(after, wait).await
            }

            $(async fn $name(&self, $($arg: $ty),*) -> Result<$answer, ShardError> {
                let txn: Option<TxnId> = $txn;
                let request = self.shard.$name($($arg),*);
                self.life.request(self.shard.id(), txn, request).await
            })*
        }
    };
}

mortal! {
    fn status() -> ShardStatus, txn None;
    fn open_snapshot(context: &RequestContext, tables: &[Arc<TableDescriptor>]) -> SnapshotId, txn context.txn;
    fn get(request: GetRequest) -> Vec<Option<StoredRow>>, txn request.context.txn;
    fn scan_rows(request: ScanRowsRequest) -> Vec<StoredRow>, txn request.context.txn;
    fn execute(request: FragmentRequest) -> BatchStream, txn request.context.txn;
    fn lock_rows(request: LockRowsRequest) -> Vec<LockedRow>, txn request.context.txn;
    fn lock_table(context: &RequestContext, table: Oid, lock: TableLock) -> (), txn context.txn;
    fn write(request: WriteRequest) -> WriteOutcome, txn request.context.txn;
    fn rollback_to(txn: TxnId, mark: u32) -> (), txn Some(txn);
    fn validate(txn: TxnId) -> (), txn Some(txn);
    fn commit(txn: TxnId) -> LogIndex, txn Some(txn);
    fn rollback(txn: TxnId) -> (), txn Some(txn);
    fn fence(context: &RequestContext, fences: Vec<Fence>) -> LogIndex, txn context.txn;
    fn build_index(context: &RequestContext, table: Arc<TableDescriptor>, index: usize) -> (), txn context.txn;
    fn rewrite_table(context: &RequestContext, from: Arc<TableDescriptor>, to: Arc<TableDescriptor>) -> u64, txn context.txn;
    fn drop_storage(storages: Vec<StorageId>) -> (), txn None;
    fn storage_stats(storage: StorageId) -> StorageStats, txn None;
    fn storages() -> Vec<StorageId>, txn None;
    fn read_changes(request: ChangesRequest) -> Changes, txn None;
    fn copy_position(source: ShardId, at_least: LogIndex, wait: Duration) -> LogIndex, txn None;
    fn read_moving(request: MovingRequest) -> MovingRows, txn None;
    fn apply_moving(request: ApplyMoving) -> (), txn None;
    fn move_position(id: MoveId) -> Option<MovePosition>, txn None;
    fn hold_ranges(request: HoldRanges) -> LogIndex, txn None;
    fn release_ranges(id: MoveId) -> (), txn None;
    fn drop_ranges(id: MoveId, tables: Vec<TableRanges>) -> (), txn None;
    fn is_range_clean(id: MoveId) -> bool, txn None;
    fn checksum_ranges(context: &RequestContext, tables: Vec<TableRanges>) -> Vec<RangeChecksum>, txn context.txn;
    fn sequence_next(spec: &SequenceSpec, count: u32) -> SequenceValues, txn None;
    fn sequence_set(spec: &SequenceSpec, state: SequenceState) -> (), txn None;
    fn sequence_get(spec: &SequenceSpec) -> Option<SequenceState>, txn None;
    fn meta_scan(prefix: &[u8]) -> Vec<(Bytes, Bytes)>, txn None;
    fn meta_write(guard: (Vec<u8>, Option<Vec<u8>>), writes: Vec<MetaWrite>) -> LogIndex, txn None;
}

/// The meta service as a mortal gateway sees it.
#[derive(Debug)]
pub struct MortalMeta(Arc<Life>);

impl MortalMeta {
    pub fn of(session: Arc<MetaSession>, life: &Arc<Life>) -> Arc<dyn MetaClient> {
        life.lived().session = Some(session);
        Arc::new(MortalMeta(life.clone()))
    }

    fn alive(&self) -> Result<Arc<MetaSession>, ClusterError> {
        let lived = self.0.lived();
        let session = lived.session.clone().filter(|_| !lived.is_over);
        let reason = "this gateway is dead".to_owned();
        session.ok_or(ClusterError::Unavailable { reason })
    }
}

#[async_trait]
impl MetaClient for MortalMeta {
    async fn join(&self, join: Join) -> Result<Joined, ClusterError> {
        self.alive()?.join(join).await
    }

    async fn report(&self, report: Report) -> Result<(), ClusterError> {
        self.alive()?.report(report).await
    }

    async fn members(&self, known: u64, wait: Duration) -> Result<Members, ClusterError> {
        // A question under way would keep the session alive.
        self.alive()?.members(known, wait.min(Duration::from_millis(10))).await
    }

    async fn lock(&self, lock: ClusterLock, wait: Duration) -> Result<LockId, ClusterError> {
        self.alive()?.lock(lock, wait).await
    }

    fn unlock(&self, lock: LockId) {
        if let Ok(session) = self.alive() {
            session.unlock(lock);
        }
    }

    async fn holds(&self, lock: LockId) -> Result<bool, ClusterError> {
        self.alive()?.holds(lock).await
    }

    async fn await_catalog(&self, version: u64, wait: Duration) -> Result<Vec<u32>, ClusterError> {
        self.alive()?.await_catalog(version, wait).await
    }

    async fn set_draining(&self, shard: ShardId, is_draining: bool) -> Result<(), ClusterError> {
        self.alive()?.set_draining(shard, is_draining).await
    }

    async fn remove_shard(&self, shard: ShardId) -> Result<(), ClusterError> {
        self.alive()?.remove_shard(shard).await
    }
}
