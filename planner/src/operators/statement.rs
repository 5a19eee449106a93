//! What one statement holds open on shards while it runs.
//!
//! A statement sees one snapshot of each shard, shared by everything the statement does there: its fragments, its reads before
//! writes, its fetches. One that sends a shard a single request need not open it: that request reads one view anyway (`open`). Lives in the session config of the statement's
//! execution, as an extension, where `operators::scatter` finds it. Not here: transactions and writes
//! (`gateway::exec`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use cortex_shard_api::{
    LogIndex, ShardError, ShardId, SnapshotId, TableDescriptor,
    client::{RequestContext, ShardClient},
};
use futures::future::{join, try_join_all};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// Finds the client of a shard; `None` if there is no such shard.
pub type Shards = dyn Fn(ShardId) -> Option<Arc<dyn ShardClient>> + Send + Sync;

/// How far copies of reference tables are.
#[async_trait]
pub trait Copies: Send + Sync {
    /// What the copies on a shard are known to have of tables whose primary copies are on `source`, without asking anybody.
    fn known(&self, source: ShardId, shard: ShardId) -> Option<LogIndex>;

    /// The newest change on `source` that the statement must see.
    async fn required(&self, source: ShardId) -> Result<LogIndex, ShardError>;

    /// Returns once the copies on a shard of tables whose primary copies are on `source` have all that the statement must see.
    async fn reach(&self, source: ShardId, shard: ShardId) -> Result<(), ShardError>;
}

/// Which copies of reference tables a statement may read.
#[derive(Clone, Default)]
pub enum CopyUse {
    /// Whichever is at hand.
    #[default]
    Any,
    /// The primary ones: its transaction has changed them.
    PrimaryOnly,
    /// Others too, once they have caught up.
    After(Arc<dyn Copies>),
}

/// The shards as one statement sees them. Snapshots are closed when the last clone of its `Arc` is dropped, that is when
/// neither the statement nor any of its streams can read any more.
pub struct StatementContext {
    shards: Arc<Shards>,
    base: RequestContext,
    copies: CopyUse,
    /// Shards that the statement does without: nothing is asked of them, and they have no rows.
    left_out: BTreeSet<ShardId>,
    /// Copies that the plan may read, with the shard of the primary one: known before the first snapshot is opened.
    planned: Mutex<BTreeSet<(ShardId, ShardId)>>,
    /// Shards with primary copies that are left out and could not be asked for their latest changes.
    unasked: Mutex<BTreeSet<ShardId>>,
    snapshots: Mutex<BTreeMap<ShardId, Arc<OnceCell<Pinned>>>>,
    /// Shards whose only request has been sent: another one would see another state.
    alone: Mutex<BTreeSet<ShardId>>,
    is_opened: AtomicBool,
    wants_reports: AtomicBool,
    /// Whether how many rows a table has makes a difference to the plan.
    counts_rows: AtomicBool,
}

/// A snapshot with the client that closes it.
struct Pinned {
    client: Arc<dyn ShardClient>,
    snapshot: SnapshotId,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.client.close_snapshot(self.snapshot);
    }
}

impl StatementContext {
    /// `base` is what every request says: transaction, mark, time. Its own snapshot is ignored.
    pub fn new(shards: Arc<Shards>, base: RequestContext) -> StatementContext {
        StatementContext {
            shards,
            base,
            copies: CopyUse::Any,
            left_out: BTreeSet::new(),
            planned: Mutex::default(),
            unasked: Mutex::default(),
            snapshots: Mutex::default(),
            alone: Mutex::default(),
            is_opened: AtomicBool::new(false),
            wants_reports: AtomicBool::new(false),
            counts_rows: AtomicBool::new(true),
        }
    }

    /// The same, for a statement that must see certain changes of reference tables.
    pub fn with_copies(self, copies: CopyUse) -> StatementContext {
        StatementContext { copies, ..self }
    }

    /// The same, for a statement that does without some shards. Its plan must allow that (`partial::can_leave_out`).
    pub fn without(self, left_out: BTreeSet<ShardId>) -> StatementContext {
        StatementContext { left_out, ..self }
    }

    pub fn is_left_out(&self, shard: ShardId) -> bool {
        self.left_out.contains(&shard)
    }

    /// Whether only primary copies of reference tables may be read.
    pub fn reads_primary_only(&self) -> bool {
        matches!(self.copies, CopyUse::PrimaryOnly)
    }

    /// The plan may read any of these copies of a reference table, of which the first is the primary one.
    pub fn plan_copies(&self, replicas: &[ShardId]) {
        let Some((source, others)) = replicas.split_first() else { return };
        self.planned.lock().extend(others.iter().map(|copy| (*copy, *source)));
    }

    /// Shards of whose reference tables the statement may have read copies without knowing that they are up to date.
    pub fn unasked(&self) -> BTreeSet<ShardId> {
        self.unasked.lock().clone()
    }

    /// Waits for the copies on a shard that the plan may read.
    async fn reach_copies(&self, shard: ShardId) -> Result<(), ShardError> {
        let CopyUse::After(copies) = &self.copies else { return Ok(()) };
        for source in self.sources_of(shard) {
            match copies.reach(source, shard).await {
                Err(ShardError::Unavailable { shard, .. })
                    if shard == source && self.is_left_out(shard) =>
                {
                    self.unasked.lock().insert(shard);
                }
                reached => reached?,
            }
        }
        Ok(())
    }

    /// Shards of primary copies of which the plan may read copies on this one.
    fn sources_of(&self, shard: ShardId) -> Vec<ShardId> {
        let planned = self.planned.lock();
        planned.iter().filter(|(copy, _)| *copy == shard).map(|(_, source)| *source).collect()
    }

    /// Opens a snapshot while the shards of primary copies are asked what there is to see: in one round trip, if the copies are
    /// known to have had it before. `None` if they may not.
    async fn open_at_once(
        &self,
        client: &Arc<dyn ShardClient>,
        shard: ShardId,
        (context, tables): (&RequestContext, &[Arc<TableDescriptor>]),
    ) -> Result<Option<Pinned>, ShardError> {
        let CopyUse::After(copies) = &self.copies else { return Ok(None) };
        let sources = self.sources_of(shard);
        let known: Option<Vec<LogIndex>> =
            sources.iter().map(|source| copies.known(*source, shard)).collect();
        let Some(known) = known.filter(|known| !known.is_empty()) else { return Ok(None) };
        let asked = try_join_all(sources.iter().map(|source| copies.required(*source)));
        let (snapshot, required) = join(client.open_snapshot(context, tables), asked).await;
        let pinned = Pinned { client: client.clone(), snapshot: snapshot? };
        // Who could not be asked is asked again by whoever waits, and what that means is said there.
        let is_there = |required: Vec<LogIndex>| required.iter().zip(&known).all(|(a, b)| a <= b);
        Ok(required.is_ok_and(is_there).then_some(pinned))
    }

    /// The client of a shard.
    pub fn client(&self, shard: ShardId) -> Result<Arc<dyn ShardClient>, ShardError> {
        (self.shards)(shard).ok_or_else(|| ShardError::Unavailable {
            shard,
            reason: "it is not part of the cluster".to_owned(),
        })
    }

    /// From now on, shards are asked what the operators of their fragments do.
    pub fn ask_for_reports(&self) {
        self.wants_reports.store(true, Ordering::Relaxed);
    }

    pub fn wants_reports(&self) -> bool {
        self.wants_reports.load(Ordering::Relaxed)
    }

    /// Plans without asking shards how many rows they have: nothing in the statement depends on it.
    pub fn plan_without_counts(&self) {
        self.counts_rows.store(false, Ordering::Relaxed);
    }

    pub(super) fn counts_rows(&self) -> bool {
        self.counts_rows.load(Ordering::Relaxed)
    }

    /// Whether this is the first call.
    pub(super) fn open_once(&self) -> bool {
        !self.is_opened.swap(true, Ordering::Relaxed)
    }

    /// Opens the statement's snapshot on a shard, which must serve these tables.
    pub(super) async fn open(
        &self,
        shard: ShardId,
        tables: &[Arc<TableDescriptor>],
    ) -> Result<(), ShardError> {
        if self.is_left_out(shard) {
            return Ok(());
        }
        self.pinned(shard, tables).await.map(drop)
    }

    /// The context of the only request to a shard, which reads what is there when it arrives.
    pub(super) async fn alone(&self, shard: ShardId) -> Result<RequestContext, ShardError> {
        let is_first = self.alone.lock().insert(shard);
        if !is_first || self.snapshots.lock().contains_key(&shard) {
            return Err(not_alone(shard));
        }
        self.reach_copies(shard).await?;
        Ok(RequestContext { snapshot: None, ..self.base.clone() })
    }

    /// The context of requests to a shard, with the statement's snapshot there; opens it if this is the first.
    pub async fn context(&self, shard: ShardId) -> Result<RequestContext, ShardError> {
        let snapshot = Some(self.pinned(shard, &[]).await?);
        Ok(RequestContext { snapshot, ..self.base.clone() })
    }

    async fn pinned(
        &self,
        shard: ShardId,
        tables: &[Arc<TableDescriptor>],
    ) -> Result<SnapshotId, ShardError> {
        if self.alone.lock().contains(&shard) {
            return Err(not_alone(shard));
        }
        let cell = self.snapshots.lock().entry(shard).or_default().clone();
        let pinned = cell
            .get_or_try_init(|| async {
                let client = self.client(shard)?;
                let context = RequestContext { snapshot: None, ..self.base.clone() };
                let opened = self.open_at_once(&client, shard, (&context, tables)).await?;
                if let Some(pinned) = opened {
                    return Ok(pinned);
                }
                self.reach_copies(shard).await?;
                let snapshot = client.open_snapshot(&context, tables).await?;
                Ok::<_, ShardError>(Pinned { client, snapshot })
            })
            .await?;
        Ok(pinned.snapshot)
    }

    /// What every request of the statement says, without a snapshot.
    pub fn base(&self) -> &RequestContext {
        &self.base
    }
}

fn not_alone(shard: ShardId) -> ShardError {
    let what = "a statement that was to read the shard once reads it again".to_owned();
    ShardError::Internal { shard, what }
}

impl fmt::Debug for StatementContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatementContext").field("base", &self.base).finish_non_exhaustive()
    }
}
