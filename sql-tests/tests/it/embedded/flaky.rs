//! A `ShardClient` on which everything that belongs to moves goes wrong now and then, as a seed says: requests and answers are
//! lost, come late or twice, the coordinator dies before or behind them, the shard's process is restarted.
//!
//! What happens to a request depends on the seed, the shard, the request's name and how many of its name came before, not on
//! the order in which threads run.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

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
        ApplyMoving, HoldRanges, MovePosition, MovingRequest, MovingRows, RangeChecksum,
        TableRanges,
    },
};
use tokio::sync::Notify;

/// One in so many requests has trouble.
const TROUBLE_EVERY: u64 = 6;

/// Requests with trouble of one seed at the most; then everything works, so that every run ends.
const TROUBLES_MAX: u64 = 25;

/// What all shards of a simulation share.
#[derive(Debug, Default)]
pub struct Weather {
    seed: AtomicU64,
    is_bad: AtomicBool,
    troubles: AtomicU64,
    down: Mutex<BTreeSet<u32>>,
    counts: Mutex<BTreeMap<(u32, &'static str), u64>>,
    /// The coordinator is to die now.
    pub crash: Notify,
    /// What went wrong, for whoever looks into a seed.
    pub story: Mutex<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    LostRequest,
    LostAnswer,
    Twice,
    TwiceLate,
    Late,
    CoordinatorDiesBefore,
    CoordinatorDiesAfter,
    Down,
}

fn mixed(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Weather {
    pub fn begin(&self, seed: u64) {
        self.seed.store(seed, Ordering::SeqCst);
        self.troubles.store(0, Ordering::SeqCst);
        lock(&self.counts).clear();
        lock(&self.story).clear();
        self.is_bad.store(true, Ordering::SeqCst);
    }

    pub fn clear_up(&self) {
        self.is_bad.store(false, Ordering::SeqCst);
    }

    pub fn tell(&self, what: String) {
        lock(&self.story).push(what);
    }

    /// Shards that are down.
    pub fn down(&self) -> Vec<u32> {
        lock(&self.down).iter().copied().collect()
    }

    fn trouble(&self, shard: ShardId, name: &'static str) -> Option<(Trouble, u64)> {
        if !self.is_bad.load(Ordering::SeqCst) {
            return None;
        }
        let n = {
            let mut counts = lock(&self.counts);
            let count = counts.entry((shard.0, name)).or_default();
            *count += 1;
            *count
        };
        let name_bits = name
            .bytes()
            .fold(7u64, |bits, byte| bits.wrapping_mul(131).wrapping_add(u64::from(byte)));
        let seed = self.seed.load(Ordering::SeqCst);
        let dice = mixed(mixed(seed ^ (u64::from(shard.0) << 48)) ^ mixed(name_bits) ^ n);
        if !dice.is_multiple_of(TROUBLE_EVERY) {
            return None;
        }
        if self.troubles.fetch_add(1, Ordering::SeqCst) >= TROUBLES_MAX {
            return None;
        }
        let all = [
            Trouble::LostRequest,
            Trouble::LostAnswer,
            Trouble::Twice,
            Trouble::TwiceLate,
            Trouble::Late,
            Trouble::CoordinatorDiesBefore,
            Trouble::CoordinatorDiesAfter,
            Trouble::Down,
        ];
        let trouble = all[(mixed(dice) % all.len() as u64) as usize];
        lock(&self.story).push(format!("shard {shard} {name} #{n}: {trouble:?}"));
        Some((trouble, dice))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub struct Flaky {
    shard: Arc<dyn ShardClient>,
    weather: Arc<Weather>,
}

impl Flaky {
    pub fn new(shard: Arc<dyn ShardClient>, weather: Arc<Weather>) -> Flaky {
        Flaky { shard, weather }
    }

    fn unavailable(&self) -> ShardError {
        ShardError::Unavailable { shard: self.shard.id(), reason: "the simulation".to_owned() }
    }

    fn arrive(&self) -> Result<(), ShardError> {
        let is_down = lock(&self.weather.down).contains(&self.shard.id().0);
        if is_down { Err(self.unavailable()) } else { Ok(()) }
    }

    /// Carries a request out as the weather has it. It goes on when whoever asked is gone: it is on its way.
    async fn send<T, F, R>(
        &self,
        name: &'static str,
        lost: ShardError,
        request: F,
    ) -> Result<T, ShardError>
    where
        T: Send + 'static,
        F: Fn(Arc<dyn ShardClient>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, ShardError>> + Send + 'static,
    {
        self.arrive()?;
        let Some((trouble, dice)) = self.weather.trouble(self.shard.id(), name) else {
            return request(self.shard.clone()).await;
        };
        let pause = Duration::from_millis(1 + mixed(dice) % 8);
        let shard = self.shard.clone();
        match trouble {
            Trouble::LostRequest => Err(self.unavailable()),
            Trouble::LostAnswer => {
                let _ = tokio::spawn(request(shard)).await;
                Err(lost)
            }
            Trouble::Twice => {
                let _ = request(shard.clone()).await;
                request(shard).await
            }
            Trouble::TwiceLate => {
                let late = request(shard.clone());
                let answer = request(shard).await;
                tokio::spawn(async move {
                    tokio::time::sleep(pause * 3).await;
                    let _ = late.await;
                });
                answer
            }
            Trouble::Late => {
                tokio::time::sleep(pause).await;
                request(shard).await
            }
            Trouble::CoordinatorDiesBefore => {
                self.weather.crash.notify_one();
                tokio::time::sleep(pause * 10).await;
                Err(self.unavailable())
            }
            Trouble::CoordinatorDiesAfter => {
                let _ = tokio::spawn(request(shard)).await;
                self.weather.crash.notify_one();
                tokio::time::sleep(pause * 10).await;
                Err(lost)
            }
            Trouble::Down => {
                let (weather, id) = (self.weather.clone(), self.shard.id().0);
                lock(&weather.down).insert(id);
                tokio::spawn(async move {
                    tokio::time::sleep(pause * 2).await;
                    lock(&weather.down).remove(&id);
                });
                Err(self.unavailable())
            }
        }
    }

    fn outcome_unknown(&self) -> ShardError {
        ShardError::OutcomeUnknown { shard: self.shard.id() }
    }
}

#[async_trait]
impl ShardClient for Flaky {
    fn id(&self) -> ShardId {
        self.shard.id()
    }

    async fn status(&self) -> Result<ShardStatus, ShardError> {
        self.arrive()?;
        self.shard.status().await
    }

    async fn open_snapshot(
        &self,
        context: &RequestContext,
        tables: &[Arc<TableDescriptor>],
    ) -> Result<SnapshotId, ShardError> {
        self.arrive()?;
        self.shard.open_snapshot(context, tables).await
    }

    fn close_snapshot(&self, snapshot: SnapshotId) {
        self.shard.close_snapshot(snapshot);
    }

    async fn get(&self, request: GetRequest) -> Result<Vec<Option<StoredRow>>, ShardError> {
        self.arrive()?;
        self.shard.get(request).await
    }

    async fn scan_rows(&self, request: ScanRowsRequest) -> Result<Vec<StoredRow>, ShardError> {
        self.arrive()?;
        self.shard.scan_rows(request).await
    }

    async fn execute(&self, request: FragmentRequest) -> Result<BatchStream, ShardError> {
        self.arrive()?;
        self.shard.execute(request).await
    }

    async fn lock_rows(&self, request: LockRowsRequest) -> Result<Vec<LockedRow>, ShardError> {
        self.arrive()?;
        self.shard.lock_rows(request).await
    }

    async fn lock_table(
        &self,
        context: &RequestContext,
        table: Oid,
        lock: TableLock,
    ) -> Result<(), ShardError> {
        self.arrive()?;
        self.shard.lock_table(context, table, lock).await
    }

    async fn write(&self, request: WriteRequest) -> Result<WriteOutcome, ShardError> {
        self.arrive()?;
        self.shard.write(request).await
    }

    async fn rollback_to(&self, txn: TxnId, mark: u32) -> Result<(), ShardError> {
        self.shard.rollback_to(txn, mark).await
    }

    async fn validate(&self, txn: TxnId) -> Result<(), ShardError> {
        self.shard.validate(txn).await
    }

    async fn commit(&self, txn: TxnId) -> Result<LogIndex, ShardError> {
        self.shard.commit(txn).await
    }

    async fn rollback(&self, txn: TxnId) -> Result<(), ShardError> {
        self.shard.rollback(txn).await
    }

    async fn fence(
        &self,
        context: &RequestContext,
        fences: Vec<Fence>,
    ) -> Result<LogIndex, ShardError> {
        if context.txn.is_some() {
            return self.shard.fence(context, fences).await;
        }
        let context = context.clone();
        self.send("fence", self.outcome_unknown(), move |shard| {
            let (context, fences) = (context.clone(), fences.clone());
            async move { shard.fence(&context, fences).await }
        })
        .await
    }

    async fn build_index(
        &self,
        context: &RequestContext,
        table: Arc<TableDescriptor>,
        index: usize,
    ) -> Result<(), ShardError> {
        self.shard.build_index(context, table, index).await
    }

    async fn rewrite_table(
        &self,
        context: &RequestContext,
        from: Arc<TableDescriptor>,
        to: Arc<TableDescriptor>,
    ) -> Result<u64, ShardError> {
        self.shard.rewrite_table(context, from, to).await
    }

    async fn drop_storage(&self, storages: Vec<StorageId>) -> Result<(), ShardError> {
        self.shard.drop_storage(storages).await
    }

    async fn storage_stats(&self, storage: StorageId) -> Result<StorageStats, ShardError> {
        self.shard.storage_stats(storage).await
    }

    async fn storages(&self) -> Result<Vec<StorageId>, ShardError> {
        self.shard.storages().await
    }

    async fn read_changes(&self, request: ChangesRequest) -> Result<Changes, ShardError> {
        self.shard.read_changes(request).await
    }

    async fn copy_position(
        &self,
        source: ShardId,
        at_least: LogIndex,
        wait: Duration,
    ) -> Result<LogIndex, ShardError> {
        self.shard.copy_position(source, at_least, wait).await
    }

    async fn read_moving(&self, request: MovingRequest) -> Result<MovingRows, ShardError> {
        self.send("read_moving", self.unavailable(), move |shard| {
            let request = request.clone();
            async move { shard.read_moving(request).await }
        })
        .await
    }

    async fn apply_moving(&self, request: ApplyMoving) -> Result<(), ShardError> {
        self.send("apply_moving", self.outcome_unknown(), move |shard| {
            let request = request.clone();
            async move { shard.apply_moving(request).await }
        })
        .await
    }

    async fn move_position(&self, id: MoveId) -> Result<Option<MovePosition>, ShardError> {
        self.send("move_position", self.unavailable(), move |shard| async move {
            shard.move_position(id).await
        })
        .await
    }

    async fn hold_ranges(&self, request: HoldRanges) -> Result<LogIndex, ShardError> {
        self.send("hold_ranges", self.unavailable(), move |shard| {
            let request = request.clone();
            async move { shard.hold_ranges(request).await }
        })
        .await
    }

    async fn release_ranges(&self, id: MoveId) -> Result<(), ShardError> {
        self.send("release_ranges", self.unavailable(), move |shard| async move {
            shard.release_ranges(id).await
        })
        .await
    }

    async fn drop_ranges(&self, id: MoveId, tables: Vec<TableRanges>) -> Result<(), ShardError> {
        self.send("drop_ranges", self.outcome_unknown(), move |shard| {
            let tables = tables.clone();
            async move { shard.drop_ranges(id, tables).await }
        })
        .await
    }

    async fn is_range_clean(&self, id: MoveId) -> Result<bool, ShardError> {
        self.send("is_range_clean", self.unavailable(), move |shard| async move {
            shard.is_range_clean(id).await
        })
        .await
    }

    async fn checksum_ranges(
        &self,
        context: &RequestContext,
        tables: Vec<TableRanges>,
    ) -> Result<Vec<RangeChecksum>, ShardError> {
        self.shard.checksum_ranges(context, tables).await
    }

    async fn sequence_next(
        &self,
        spec: &SequenceSpec,
        count: u32,
    ) -> Result<SequenceValues, ShardError> {
        self.shard.sequence_next(spec, count).await
    }

    async fn sequence_set(
        &self,
        spec: &SequenceSpec,
        state: SequenceState,
    ) -> Result<(), ShardError> {
        let spec = spec.clone();
        self.send("sequence_set", self.outcome_unknown(), move |shard| {
            let spec = spec.clone();
            async move { shard.sequence_set(&spec, state).await }
        })
        .await
    }

    async fn sequence_get(&self, spec: &SequenceSpec) -> Result<Option<SequenceState>, ShardError> {
        self.shard.sequence_get(spec).await
    }

    async fn meta_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ShardError> {
        self.shard.meta_scan(prefix).await
    }

    async fn meta_write(
        &self,
        guard: (Vec<u8>, Option<Vec<u8>>),
        writes: Vec<MetaWrite>,
    ) -> Result<LogIndex, ShardError> {
        self.send("meta_write", self.outcome_unknown(), move |shard| {
            let (guard, writes) = (guard.clone(), writes.clone());
            async move { shard.meta_write(guard, writes).await }
        })
        .await
    }

    async fn meta_watch(&self, after: LogIndex, wait: Duration) -> Result<LogIndex, ShardError> {
        self.shard.meta_watch(after, wait).await
    }
}
