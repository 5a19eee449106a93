//! Fences: which versions of tables and shard maps this shard still serves.
//!
//! A schema change or a move raises a fence here before it takes effect for everybody; from then on requests that were planned
//! with an older version are refused. Lives here: the fences with their short history, how views are judged by them, and
//! their keys in the state. Not here: when a fence is raised (the gateway's schema changes and moves), and how it becomes
//! durable (`txn::sequencer`).
//!
//! ```text
//!   log index      ...... 40 ............ 70 .........
//!   fence of t            3               4
//!   view at 20: serves up to 2    view at 50: serves 3 only    view at 90: serves 4 and later
//! ```
//!
//! A view is judged by its own time, in both directions: one from before a fence still shows what the older version means, and
//! nothing of what the newer one does (the rows that a move brought, the entries of a new index).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{BufMut, Bytes};
use cortex_shard_api::{LogIndex, Oid, ShardError, ShardId, TableDescriptor, descriptor::Fence};
use parking_lot::RwLock;

use crate::storage::{KeyRange, Keyspace, Op, StorageError, StorageSnapshot};

/// `Keyspace::Meta`: `[prefix][kind u8][oid u32 BE]` → the least version that is served, u64 BE.
const FENCE_PREFIX: &[u8] = b"fence/";
const KIND_PLACEMENT: u8 = b'p';
const KIND_SHAPE: u8 = b's';

/// Versions of one fence that are remembered: a view that is older than so many changes is refused, as one must be that is
/// from before the shard was opened.
const HISTORY_MAX: usize = 16;

/// A view that shows whatever is committed: what writers are judged by.
const NOW: LogIndex = LogIndex(u64::MAX);

/// What a fence is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FenceKey {
    Placement(Oid),
    Shape(Oid),
}

impl FenceKey {
    /// A fence's key and version.
    pub(crate) fn of(fence: Fence) -> (FenceKey, u64) {
        match fence {
            Fence::Shape { table, version } => (FenceKey::Shape(table), u64::from(version)),
            Fence::Placement { id, epoch } => (FenceKey::Placement(id), epoch),
        }
    }

    /// What a table's requests are judged by, with the versions that they have.
    pub(crate) fn of_table(table: &TableDescriptor) -> [(FenceKey, u64); 2] {
        [
            (FenceKey::Shape(table.oid), u64::from(table.version)),
            (FenceKey::Placement(table.placement_id()), table.epoch()),
        ]
    }

    fn stored(self) -> Bytes {
        let (kind, oid) = match self {
            FenceKey::Placement(oid) => (KIND_PLACEMENT, oid),
            FenceKey::Shape(oid) => (KIND_SHAPE, oid),
        };
        let mut key = FENCE_PREFIX.to_vec();
        key.push(kind);
        key.put_u32(oid.0);
        Bytes::from(key)
    }

    fn of_stored(key: &[u8]) -> Option<FenceKey> {
        let (kind, oid) = key.strip_prefix(FENCE_PREFIX)?.split_first()?;
        let oid = Oid(u32::from_be_bytes(*oid.first_chunk::<4>()?));
        match *kind {
            KIND_PLACEMENT => Some(FenceKey::Placement(oid)),
            KIND_SHAPE => Some(FenceKey::Shape(oid)),
            _ => None,
        }
    }
}

/// Sets fences in the state; keys ascend.
pub(crate) fn ops(fences: &BTreeMap<FenceKey, u64>) -> impl Iterator<Item = Op> {
    fences.iter().map(|(key, version)| {
        let value = Some(Bytes::copy_from_slice(&version.to_be_bytes()));
        Op { keyspace: Keyspace::Meta, key: key.stored(), value }
    })
}

/// Tables whose writers a fence lets commit what they wrote before it: a hold has kept them out of all that moves.
pub(crate) type Excused = Option<Arc<HashSet<Oid>>>;

/// With which version a transaction has written a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub table: Oid,
    pub key: FenceKey,
    pub version: u64,
}

/// A fence that is raised from an entry of the log on.
#[derive(Clone, Debug)]
pub(crate) struct Raised {
    pub key: FenceKey,
    pub version: u64,
    pub index: LogIndex,
    pub excused: Excused,
}

impl Raised {
    /// Whether what was written so must not be committed behind this fence.
    pub(crate) fn forbids(&self, used: &Used) -> bool {
        self.key == used.key && forbids(self.version, &self.excused, used)
    }
}

fn forbids(version: u64, excused: &Excused, used: &Used) -> bool {
    used.version < version && excused.as_ref().is_none_or(|tables| !tables.contains(&used.table))
}

#[derive(Clone, Debug)]
struct Entry {
    index: LogIndex,
    version: u64,
    excused: Excused,
}

/// The versions of one fence, ascending.
#[derive(Clone, Debug, Default)]
struct History {
    entries: Vec<Entry>,
    /// Views from before are too old to be judged.
    known_from: LogIndex,
}

impl History {
    fn current(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.version)
    }

    fn raise(&mut self, version: u64, index: LogIndex, excused: Excused) {
        if version <= self.current() {
            return;
        }
        let entry = Entry { index, version, excused };
        match self.entries.last_mut() {
            // Nobody sees a view in between, and only what both excuse is excused.
            Some(last) if last.index >= index => {
                *last = Entry { index: last.index, excused: None, ..entry };
            }
            Some(_) | None => self.entries.push(entry),
        }
        if self.entries.len() > HISTORY_MAX {
            self.entries.remove(0);
            self.known_from = self.entries.first().map_or(index, |first| first.index);
        }
    }

    /// Whether a view that shows the log up to `at` may serve a request of this version.
    fn serves(&self, at: LogIndex, version: u64) -> bool {
        let position = self.entries.partition_point(|entry| entry.index <= at);
        let least = position.checked_sub(1).and_then(|before| self.entries.get(before));
        let next = self.entries.get(position);
        at >= self.known_from
            && least.is_none_or(|least| version >= least.version)
            && next.is_none_or(|next| version < next.version)
    }

    /// Whether what was written so must not be committed any more.
    fn forbids(&self, used: &Used) -> bool {
        let is_forgotten = self.known_from > LogIndex(0)
            && self.entries.first().is_some_and(|first| used.version < first.version);
        is_forgotten || self.entries.iter().any(|it| forbids(it.version, &it.excused, used))
    }
}

/// What a transaction is told that wrote before a fence.
pub(crate) fn passed_by() -> ShardError {
    let reason = "a table that the transaction wrote was changed or moved meanwhile".to_owned();
    ShardError::Conflict { reason }
}

#[derive(Default)]
struct Shared {
    /// Whether there is any: without, nobody takes the lock.
    is_used: AtomicBool,
    histories: RwLock<HashMap<FenceKey, History>>,
}

/// All fences of a shard. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Fences(Arc<Shared>);

impl Fences {
    pub(crate) fn load(snapshot: &dyn StorageSnapshot) -> Result<Fences, StorageError> {
        let fences = Fences::default();
        for entry in snapshot.range(Keyspace::Meta, KeyRange::prefix(FENCE_PREFIX), false) {
            let (key, value) = entry?;
            let version = value.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
            let Some((key, version)) = FenceKey::of_stored(&key).zip(version) else {
                return Err(StorageError::Corrupt("a fence is not what was written".to_owned()));
            };
            fences.raise(Raised { key, version, index: LogIndex(0), excused: None });
        }
        Ok(fences)
    }

    /// Raises a fence for views from its entry on. Called before such a view can be had.
    pub(crate) fn raise(&self, raised: Raised) {
        let Raised { key, version, index, excused } = raised;
        self.0.histories.write().entry(key).or_default().raise(version, index, excused);
        self.0.is_used.store(true, Ordering::Release);
    }

    /// The least version that new views serve.
    pub(crate) fn current(&self, key: FenceKey) -> u64 {
        self.0.histories.read().get(&key).map_or(0, History::current)
    }

    /// Refuses a read that was planned with another version than the view can serve.
    pub(crate) fn check_view(
        &self,
        shard: ShardId,
        at: LogIndex,
        table: &TableDescriptor,
    ) -> Result<(), ShardError> {
        if !self.0.is_used.load(Ordering::Acquire) {
            return Ok(());
        }
        let histories = self.0.histories.read();
        for (key, version) in FenceKey::of_table(table) {
            if let Some(history) = histories.get(&key)
                && !history.serves(at, version)
            {
                return Err(ShardError::StaleEpoch { shard, current: history.current() });
            }
        }
        Ok(())
    }

    /// Refuses an older shape of a table.
    pub(crate) fn check_shape(
        &self,
        shard: ShardId,
        table: &TableDescriptor,
    ) -> Result<(), ShardError> {
        let current = self.current(FenceKey::Shape(table.oid));
        if u64::from(table.version) < current {
            return Err(ShardError::StaleEpoch { shard, current });
        }
        Ok(())
    }

    /// Refuses what was written under versions that are not served any more.
    pub(crate) fn check_used(&self, used: &[Used]) -> Result<(), ShardError> {
        if !self.0.is_used.load(Ordering::Acquire) {
            return Ok(());
        }
        let histories = self.0.histories.read();
        let forbids = |used: &Used| histories.get(&used.key).is_some_and(|it| it.forbids(used));
        if used.iter().any(forbids) { Err(passed_by()) } else { Ok(()) }
    }

    /// Refuses a write that was planned with an older version.
    pub(crate) fn check_now(
        &self,
        shard: ShardId,
        table: &TableDescriptor,
    ) -> Result<(), ShardError> {
        self.check_view(shard, NOW, table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_judged_by_its_own_time() {
        let mut history = History::default();
        assert!(history.serves(LogIndex(5), 0) && history.serves(NOW, 7));
        history.raise(3, LogIndex(40), None);
        history.raise(2, LogIndex(50), None);
        history.raise(4, LogIndex(70), None);
        let serves = |at| (0..6).filter(|v| history.serves(LogIndex(at), *v)).collect::<Vec<_>>();
        assert_eq!(serves(39), [0, 1, 2]);
        assert_eq!(serves(40), [3]);
        assert_eq!(serves(69), [3]);
        assert_eq!(serves(70), [4, 5]);
    }

    #[test]
    fn what_the_history_has_forgotten_is_refused() {
        let mut history = History::default();
        for n in 1..=HISTORY_MAX as u64 + 2 {
            history.raise(n, LogIndex(n * 10), None);
        }
        assert!(!(0..30).any(|version| history.serves(LogIndex(25), version)));
        assert!(history.serves(LogIndex(30), 3) && history.serves(LogIndex(45), 4));
    }

    #[test]
    fn who_was_kept_out_of_what_moved_commits_behind_the_fence() {
        let mut history = History::default();
        let moved = Some(Arc::new(HashSet::from([Oid(1)])));
        history.raise(2, LogIndex(10), moved.clone());
        let key = FenceKey::Placement(Oid(7));
        let used = |table, version| Used { table: Oid(table), key, version };
        assert!(!history.forbids(&used(1, 1)) && history.forbids(&used(2, 1)));
        history.raise(3, LogIndex(20), None);
        assert!(history.forbids(&used(1, 1)) && history.forbids(&used(1, 2)));
        history.raise(4, LogIndex(30), moved);
        assert!(history.forbids(&used(1, 2)) && !history.forbids(&used(1, 3)));
    }
}
