//! A `ShardClient` that fails, or loses the answer of, the n-th commit, counts what reaches the shards, and behaves as one of a
//! shard process that is down, hangs, breaks off its answers or was restarted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, MoveId, Oid, ShardError, ShardId, SnapshotId, StorageId, TableDescriptor, TxnId,
    client::{
        BatchStream, Fragment, FragmentRequest, GetRequest, LockRowsRequest, LockedRow, MetaWrite,
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
use futures::StreamExt;

/// What happens to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The shard refuses it: nothing is committed, and the gateway is told so.
    Refuse,
    /// The shard commits, but its answer never arrives.
    LoseAnswer,
    /// The request never arrives, which looks the same from outside.
    LoseRequest,
}

/// How a shard is, seen from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Up,
    /// Every request fails at once.
    Down,
    /// No request is answered, until the shard is up again.
    Hangs,
    /// Requests are carried out, and their answers are lost; streams break off behind their first batch.
    LosesAnswers,
    /// Only streams break off, behind their first batch.
    BreaksStreams,
}

/// What `Faults` knows of one shard.
#[derive(Debug, Default)]
struct Seen {
    health: Health,
    /// Transactions that requests have named.
    begun: BTreeSet<TxnId>,
    /// Those of them that a restart has ended.
    lost: BTreeSet<TxnId>,
    /// It goes down with the next `validate`, which is still answered.
    down_after_validation: bool,
}

/// Shared by the clients of all data shards, so that commits are counted in the order in which they are sent.
#[derive(Debug, Default)]
pub struct Faults {
    /// By number of the commit, from 1, since `plan`.
    planned: Mutex<BTreeMap<u64, Fault>>,
    /// The next `validate` is refused.
    refuse_validation: Mutex<bool>,
    /// No copy of a reference table learns of a change.
    hold_changes: AtomicBool,
    commits: AtomicU64,
    writes: AtomicU64,
    /// So many fragments are refused as if the schema had just changed, after the first `fresh` ones.
    stale: Mutex<(u64, u64)>,
    /// Reading requests by name, since they were read last.
    asked: Mutex<BTreeMap<&'static str, u64>>,
    /// Requests that open something wait for each other until so many are there.
    together: AtomicU64,
    shards: Mutex<BTreeMap<ShardId, Seen>>,
    clients: Mutex<BTreeMap<ShardId, Arc<dyn ShardClient>>>,
}

/// Between two looks at the health of a shard that hangs.
const LOOK: Duration = Duration::from_millis(5);

impl Faults {
    fn seen<T>(&self, shard: ShardId, look: impl FnOnce(&mut Seen) -> T) -> T {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        look(shards.entry(shard).or_default())
    }

    pub fn set_health(&self, shard: u32, health: Health) {
        self.seen(ShardId(shard), |seen| seen.health = health);
        if health == Health::Down {
            self.restart(shard);
        }
    }

    fn health(&self, shard: ShardId) -> Health {
        self.seen(shard, |seen| seen.health)
    }

    /// The shard forgets every open transaction, as a restarted process or a new connection does.
    pub fn restart(&self, shard: u32) {
        let begun = self.seen(ShardId(shard), |seen| std::mem::take(&mut seen.begun));
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.get(&ShardId(shard)).cloned();
        drop(clients);
        for txn in &begun {
            let rollback = client.iter().map(|client| client.rollback(*txn));
            futures::executor::block_on(futures::future::join_all(rollback));
        }
        self.seen(ShardId(shard), |seen| seen.lost.extend(begun));
    }

    /// The shard says that it would commit, and is gone when it should.
    pub fn down_after_validation(&self, shard: u32) {
        self.seen(ShardId(shard), |seen| seen.down_after_validation = true);
    }

    /// Some fragments are taken, then some meet a schema change.
    pub fn make_stale(&self, fresh: u64, stale: u64) {
        *self.stale.lock().unwrap_or_else(PoisonError::into_inner) = (fresh, stale);
    }

    fn is_stale(&self) -> bool {
        let mut left = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        match *left {
            (0, 0) => false,
            (0, stale) => {
                *left = (0, stale - 1);
                true
            }
            (fresh, stale) => {
                *left = (fresh - 1, stale);
                false
            }
        }
    }

    /// Reading requests that reached a shard, by name; counts anew.
    pub fn asked(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ask(&self, name: &'static str) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked.entry(name).or_default() += 1;
    }

    /// The next `n` requests that open a snapshot or a fragment go on when all of them are there.
    pub fn expect_together(&self, n: u64) {
        self.together.store(n, Ordering::SeqCst);
    }

    async fn come_together(&self) {
        let left = |left: u64| left.checked_sub(1);
        // Nobody is awaited.
        if self.together.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_err() {
            return;
        }
        while self.together.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Counts anew; the commits with these numbers meet these faults.
    pub fn plan(&self, faults: impl IntoIterator<Item = (u64, Fault)>) {
        *self.planned.lock().unwrap_or_else(PoisonError::into_inner) = faults.into_iter().collect();
        self.commits.store(0, Ordering::SeqCst);
        self.writes.store(0, Ordering::SeqCst);
    }

    pub fn refuse_next_validation(&self) {
        *self.refuse_validation.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Keeps changes of reference tables from their copies, or lets them through again.
    pub fn hold_changes(&self, held: bool) {
        self.hold_changes.store(held, Ordering::SeqCst);
    }

    /// Commits that were asked for, with those that a write brings along.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// Write requests that reached a shard.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    fn next(&self) -> Option<Fault> {
        let n = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).remove(&n)
    }
}

#[derive(Debug)]
pub struct Faulty {
    shard: Arc<dyn ShardClient>,
    faults: Arc<Faults>,
}

impl Faulty {
    pub fn new(shard: Arc<dyn ShardClient>, faults: Arc<Faults>) -> Faulty {
        let mut clients = faults.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.insert(shard.id(), shard.clone());
        drop(clients);
        Faulty { shard, faults }
    }

    fn unavailable(&self) -> ShardError {
        ShardError::Unavailable { shard: self.id(), reason: "the test says so".to_owned() }
    }

    /// What every request meets first.
    async fn arrive(&self) -> Result<(), ShardError> {
        loop {
            match self.faults.health(self.id()) {
                Health::Up | Health::LosesAnswers | Health::BreaksStreams => return Ok(()),
                Health::Down => return Err(self.unavailable()),
                Health::Hangs => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// The same for a request of a transaction, which must not begin anew where it was lost.
    async fn arrive_in(&self, txn: Option<TxnId>) -> Result<(), ShardError> {
        self.arrive().await?;
        let Some(txn) = txn else { return Ok(()) };
        let lost = self.faults.seen(self.id(), |seen| {
            seen.begun.insert(txn);
            seen.lost.contains(&txn)
        });
        if lost { Err(ShardError::TransactionLost { shard: self.id() }) } else { Ok(()) }
    }

    /// What every answer meets.
    fn answer<T>(&self, answer: Result<T, ShardError>) -> Result<T, ShardError> {
        match self.faults.health(self.id()) {
            Health::LosesAnswers => Err(self.unavailable()),
            Health::Up | Health::Down | Health::Hangs | Health::BreaksStreams => answer,
        }
    }

    /// Carries a commit out as the plan says.
    async fn committing<T>(
        &self,
        commit: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        match self.faults.next() {
            None => commit.await,
            Some(Fault::Refuse) => Err(self.unavailable()),
            Some(Fault::LoseRequest) => Err(ShardError::OutcomeUnknown { shard: self.id() }),
            Some(Fault::LoseAnswer) => {
                commit.await?;
                Err(ShardError::OutcomeUnknown { shard: self.id() })
            }
        }
    }
}

#[async_trait]
impl ShardClient for Faulty {
    fn id(&self) -> ShardId {
        self.shard.id()
    }

    async fn status(&self) -> Result<ShardStatus, ShardError> {
        self.arrive().await?;
        self.answer(self.shard.status().await)
    }

    async fn fence(
        &self,
        context: &RequestContext,
        fences: Vec<Fence>,
    ) -> Result<LogIndex, ShardError> {
        self.arrive_in(context.txn).await?;
        self.answer(self.shard.fence(context, fences).await)
    }

    async fn read_moving(&self, request: MovingRequest) -> Result<MovingRows, ShardError> {
        self.shard.read_moving(request).await
    }

    async fn apply_moving(&self, request: ApplyMoving) -> Result<(), ShardError> {
        self.shard.apply_moving(request).await
    }

    async fn move_position(&self, id: MoveId) -> Result<Option<MovePosition>, ShardError> {
        self.shard.move_position(id).await
    }

    async fn hold_ranges(&self, request: HoldRanges) -> Result<LogIndex, ShardError> {
        self.shard.hold_ranges(request).await
    }

    async fn release_ranges(&self, id: MoveId) -> Result<(), ShardError> {
        self.shard.release_ranges(id).await
    }

    async fn drop_ranges(&self, id: MoveId, tables: Vec<TableRanges>) -> Result<(), ShardError> {
        self.shard.drop_ranges(id, tables).await
    }

    async fn is_range_clean(&self, id: MoveId) -> Result<bool, ShardError> {
        self.shard.is_range_clean(id).await
    }

    async fn checksum_ranges(
        &self,
        context: &RequestContext,
        tables: Vec<TableRanges>,
    ) -> Result<Vec<RangeChecksum>, ShardError> {
        self.shard.checksum_ranges(context, tables).await
    }

    async fn meta_watch(&self, after: LogIndex, wait: Duration) -> Result<LogIndex, ShardError> {
        self.shard.meta_watch(after, wait).await
    }

    async fn write(&self, request: WriteRequest) -> Result<WriteOutcome, ShardError> {
        self.arrive_in(request.context.txn).await?;
        self.faults.writes.fetch_add(1, Ordering::SeqCst);
        if !request.commit {
            return self.answer(self.shard.write(request).await);
        }
        self.committing(self.shard.write(request)).await
    }

    async fn validate(&self, txn: TxnId) -> Result<(), ShardError> {
        self.arrive_in(Some(txn)).await?;
        let refuse = std::mem::take(
            &mut *self.faults.refuse_validation.lock().unwrap_or_else(PoisonError::into_inner),
        );
        let valid = if refuse { Err(self.unavailable()) } else { self.shard.validate(txn).await };
        if self.faults.seen(self.id(), |seen| std::mem::take(&mut seen.down_after_validation)) {
            self.faults.set_health(self.id().0, Health::Down);
        }
        valid
    }

    async fn commit(&self, txn: TxnId) -> Result<LogIndex, ShardError> {
        self.arrive_in(Some(txn)).await?;
        self.committing(self.shard.commit(txn)).await
    }

    async fn open_snapshot(
        &self,
        context: &RequestContext,
        tables: &[Arc<TableDescriptor>],
    ) -> Result<SnapshotId, ShardError> {
        self.arrive_in(context.txn).await?;
        self.faults.ask("open_snapshot");
        self.faults.come_together().await;
        if !tables.is_empty() && self.faults.is_stale() {
            return Err(ShardError::StaleEpoch { shard: self.id(), current: 0 });
        }
        self.answer(self.shard.open_snapshot(context, tables).await)
    }

    fn close_snapshot(&self, snapshot: SnapshotId) {
        self.shard.close_snapshot(snapshot)
    }

    async fn get(&self, request: GetRequest) -> Result<Vec<Option<StoredRow>>, ShardError> {
        self.arrive_in(request.context.txn).await?;
        self.faults.ask("get");
        self.answer(self.shard.get(request).await)
    }

    async fn scan_rows(&self, request: ScanRowsRequest) -> Result<Vec<StoredRow>, ShardError> {
        self.arrive_in(request.context.txn).await?;
        self.faults.ask("scan_rows");
        self.answer(self.shard.scan_rows(request).await)
    }

    /// As bytes, the way to another process: whatever runs over this client shows that plans survive it.
    async fn execute(&self, mut request: FragmentRequest) -> Result<BatchStream, ShardError> {
        if let Fragment::Plan(plan) = &request.fragment {
            let (version, bytes) = plan.encode()?;
            request.fragment = Fragment::Bytes { version, bytes };
        }
        self.arrive_in(request.context.txn).await?;
        self.faults.ask("execute");
        self.faults.come_together().await;
        if self.faults.is_stale() {
            return Err(ShardError::StaleEpoch { shard: self.id(), current: 0 });
        }
        let answer = self.answer(self.shard.execute(request).await)?;
        let (faults, shard, lost) = (self.faults.clone(), self.id(), self.unavailable());
        let breaks = move |n: usize| {
            n > 0 && matches!(faults.health(shard), Health::BreaksStreams | Health::LosesAnswers)
        };
        Ok(Box::pin(answer.enumerate().map(
            move |(n, batch)| {
                if breaks(n) { Err(lost.clone()) } else { batch }
            },
        )))
    }

    async fn lock_rows(&self, request: LockRowsRequest) -> Result<Vec<LockedRow>, ShardError> {
        self.arrive_in(request.context.txn).await?;
        self.answer(self.shard.lock_rows(request).await)
    }

    async fn lock_table(
        &self,
        context: &RequestContext,
        table: Oid,
        lock: TableLock,
    ) -> Result<(), ShardError> {
        self.arrive_in(context.txn).await?;
        self.answer(self.shard.lock_table(context, table, lock).await)
    }

    async fn rollback_to(&self, txn: TxnId, mark: u32) -> Result<(), ShardError> {
        self.arrive_in(Some(txn)).await?;
        self.answer(self.shard.rollback_to(txn, mark).await)
    }

    async fn rollback(&self, txn: TxnId) -> Result<(), ShardError> {
        self.arrive().await?;
        self.shard.rollback(txn).await
    }

    async fn build_index(
        &self,
        context: &RequestContext,
        table: Arc<TableDescriptor>,
        index: usize,
    ) -> Result<(), ShardError> {
        self.arrive_in(context.txn).await?;
        self.answer(self.shard.build_index(context, table, index).await)
    }

    async fn rewrite_table(
        &self,
        context: &RequestContext,
        from: Arc<TableDescriptor>,
        to: Arc<TableDescriptor>,
    ) -> Result<u64, ShardError> {
        self.arrive_in(context.txn).await?;
        self.answer(self.shard.rewrite_table(context, from, to).await)
    }

    async fn drop_storage(&self, storages: Vec<StorageId>) -> Result<(), ShardError> {
        self.arrive().await?;
        self.answer(self.shard.drop_storage(storages).await)
    }

    async fn storage_stats(&self, storage: StorageId) -> Result<StorageStats, ShardError> {
        self.arrive().await?;
        self.faults.ask("storage_stats");
        self.answer(self.shard.storage_stats(storage).await)
    }

    async fn storages(&self) -> Result<Vec<StorageId>, ShardError> {
        self.arrive().await?;
        self.answer(self.shard.storages().await)
    }

    async fn read_changes(&self, request: ChangesRequest) -> Result<Changes, ShardError> {
        self.arrive().await?;
        let changes = self.shard.read_changes(request).await?;
        // What was under way when it was held is held, too.
        if self.faults.hold_changes.load(Ordering::SeqCst) {
            return Err(self.unavailable());
        }
        Ok(changes)
    }

    async fn copy_position(
        &self,
        source: ShardId,
        at_least: LogIndex,
        wait: Duration,
    ) -> Result<LogIndex, ShardError> {
        self.arrive().await?;
        self.answer(self.shard.copy_position(source, at_least, wait).await)
    }

    async fn sequence_next(
        &self,
        spec: &SequenceSpec,
        count: u32,
    ) -> Result<SequenceValues, ShardError> {
        self.arrive().await?;
        self.answer(self.shard.sequence_next(spec, count).await)
    }

    async fn sequence_set(
        &self,
        spec: &SequenceSpec,
        state: SequenceState,
    ) -> Result<(), ShardError> {
        self.arrive().await?;
        self.answer(self.shard.sequence_set(spec, state).await)
    }

    async fn sequence_get(&self, spec: &SequenceSpec) -> Result<Option<SequenceState>, ShardError> {
        self.arrive().await?;
        self.answer(self.shard.sequence_get(spec).await)
    }

    async fn meta_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ShardError> {
        self.shard.meta_scan(prefix).await
    }

    async fn meta_write(
        &self,
        guard: (Vec<u8>, Option<Vec<u8>>),
        writes: Vec<MetaWrite>,
    ) -> Result<LogIndex, ShardError> {
        self.shard.meta_write(guard, writes).await
    }
}
