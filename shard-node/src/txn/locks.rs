//! Row and table locks, held to the end of the transaction.
//!
//! Lives here: who holds what, who waits, fairness, timeouts and deadlock detection. Not here: which locks a statement
//! needs (`write`, `foreign_keys`). A row lock is on a key's bytes: row keys and the keys of unique index entries have
//! different storage ids, so both fit in one space. Waiters are served in order; one that conflicts with nobody in front
//! of it may pass. A request that closes a cycle in the wait-for graph is the deadlock's victim.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use cortex_shard_api::{
    Oid, ShardError, TxnId,
    client::{RowLock, WaitPolicy},
};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;

/// Locks one transaction may hold in a shard: about 1 GiB of memory. Bulk writes escalate to a table lock long before.
const LOCKS_PER_TRANSACTION_MAX: usize = 4_000_000;

/// What is locked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LockKey {
    Table(Oid),
    Row(Bytes),
}

/// How it is locked. Each mode conflicts with all that the ones before it (of its kind) conflict with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LockMode {
    KeyShare,
    Share,
    NoKeyUpdate,
    Update,
    /// Every writer of the table.
    TableShared,
    /// One writer with too many row locks; the schema stays.
    TableWriter,
    /// A schema change.
    TableExclusive,
}

impl From<RowLock> for LockMode {
    fn from(lock: RowLock) -> LockMode {
        match lock {
            RowLock::KeyShare => LockMode::KeyShare,
            RowLock::Share => LockMode::Share,
            RowLock::NoKeyUpdate => LockMode::NoKeyUpdate,
            RowLock::Update => LockMode::Update,
        }
    }
}

impl LockMode {
    /// PostgreSQL's table of row lock conflicts, and ours of table locks.
    pub(crate) fn conflicts_with(self, other: LockMode) -> bool {
        use LockMode::{
            KeyShare, NoKeyUpdate, Share, TableExclusive, TableShared, TableWriter, Update,
        };
        match self {
            KeyShare => other == Update,
            Share => matches!(other, NoKeyUpdate | Update),
            NoKeyUpdate => matches!(other, Share | NoKeyUpdate | Update),
            Update => matches!(other, KeyShare | Share | NoKeyUpdate | Update),
            TableShared => matches!(other, TableWriter | TableExclusive),
            TableWriter | TableExclusive => {
                matches!(other, TableShared | TableWriter | TableExclusive)
            }
        }
    }
}

/// How a lock was got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    /// Somebody else had it first, so what was read before may be old.
    pub has_waited: bool,
    /// A schema change of the table was committed while we waited.
    pub schema_changed: bool,
}

/// Whose lock, and how long it may be waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockRequest {
    pub txn: TxnId,
    pub mode: LockMode,
    pub wait: WaitPolicy,
    pub timeout: Option<Duration>,
}

struct Waiter {
    id: u64,
    txn: TxnId,
    mode: LockMode,
    schema_changed: bool,
    grant: oneshot::Sender<Granted>,
}

#[derive(Default)]
struct LockState {
    holders: SmallVec<[(TxnId, LockMode); 1]>,
    queue: VecDeque<Waiter>,
}

impl LockState {
    fn held_by(&self, txn: TxnId) -> Option<LockMode> {
        self.holders.iter().find(|(holder, _)| *holder == txn).map(|(_, mode)| *mode)
    }

    fn fits_holders(&self, txn: TxnId, mode: LockMode) -> bool {
        !self.holders.iter().any(|(holder, held)| *holder != txn && mode.conflicts_with(*held))
    }

    fn hold(&mut self, txn: TxnId, mode: LockMode) {
        match self.holders.iter_mut().find(|(holder, _)| *holder == txn) {
            Some((_, held)) => *held = (*held).max(mode),
            None => self.holders.push((txn, mode)),
        }
    }

    /// Hands the lock to waiters that fit; returns who got it.
    fn grant_waiters(&mut self) -> SmallVec<[TxnId; 2]> {
        let mut granted = SmallVec::new();
        let mut blocked: SmallVec<[LockMode; 4]> = SmallVec::new();
        let mut position = 0;
        while let Some(waiter) = self.queue.get(position) {
            let passes = !blocked.iter().any(|mode| waiter.mode.conflicts_with(*mode));
            if !(passes && self.fits_holders(waiter.txn, waiter.mode)) {
                blocked.push(waiter.mode);
                position += 1;
                continue;
            }
            let Some(waiter) = self.queue.remove(position) else { break };
            let how = Granted { has_waited: true, schema_changed: waiter.schema_changed };
            // A receiver that is gone gave up between our removal and its own: it never held the lock.
            if waiter.grant.send(how).is_ok() {
                self.hold(waiter.txn, waiter.mode);
                granted.push(waiter.txn);
            }
        }
        granted
    }
}

#[derive(Default)]
struct Inner {
    locks: HashMap<LockKey, LockState>,
    held: HashMap<TxnId, Vec<LockKey>>,
    /// What each waiting transaction waits for.
    waiting: HashMap<TxnId, LockKey>,
    next_waiter: u64,
    /// Transactions that cannot commit any more, until they have ended.
    doomed: HashSet<TxnId>,
}

/// All locks of a shard.
#[derive(Default)]
pub(crate) struct LockManager {
    inner: Mutex<Inner>,
    /// Whether anyone is doomed: without, nobody takes the lock to find out.
    has_doomed: AtomicBool,
}

enum Attempt {
    Granted,
    /// Not now, and the request does not wait.
    Refused,
    Queued {
        id: u64,
        grant: oneshot::Receiver<Granted>,
    },
}

impl LockManager {
    /// Takes a lock. `None`: left out under `SkipLocked`.
    pub(crate) async fn acquire(
        &self,
        key: LockKey,
        request: LockRequest,
    ) -> Result<Option<Granted>, ShardError> {
        let attempt = self.inner.lock().attempt(&key, request)?;
        let (id, grant) = match attempt {
            Attempt::Granted => return Ok(Some(Granted::default())),
            Attempt::Refused if request.wait == WaitPolicy::SkipLocked => return Ok(None),
            Attempt::Refused => {
                let what = match &key {
                    LockKey::Table(_) => "could not obtain lock on relation",
                    LockKey::Row(_) => "could not obtain lock on row",
                };
                return Err(ShardError::LockNotAvailable { message: what.to_owned() });
            }
            Attempt::Queued { id, grant } => (id, grant),
        };
        let waiting = Waiting { manager: self, key, txn: request.txn, id, is_over: false };
        let granted = match request.timeout {
            Some(timeout) => match tokio::time::timeout(timeout, grant).await {
                Ok(granted) => granted,
                Err(_elapsed) => {
                    return Err(ShardError::LockNotAvailable {
                        message: "canceling statement due to lock timeout".to_owned(),
                    });
                }
            },
            None => grant.await,
        };
        waiting.finish();
        granted.map(Some).map_err(|_closed| ShardError::LockNotAvailable {
            message: "the shard shut down while a lock was waited for".to_owned(),
        })
    }

    /// Takes row locks as far as nobody else has them; returns the positions of the others.
    pub(crate) fn acquire_free(
        &self,
        txn: TxnId,
        mode: LockMode,
        keys: &[Bytes],
    ) -> Result<Vec<usize>, ShardError> {
        let mut inner = self.inner.lock();
        let request = LockRequest { txn, mode, wait: WaitPolicy::NoWait, timeout: None };
        let mut taken = Vec::new();
        for (position, key) in keys.iter().enumerate() {
            match inner.attempt(&LockKey::Row(key.clone()), request)? {
                Attempt::Granted => {}
                Attempt::Refused | Attempt::Queued { .. } => taken.push(position),
            }
        }
        Ok(taken)
    }

    /// Takes a table lock if nobody has to be waited for.
    pub(crate) fn try_table(
        &self,
        txn: TxnId,
        table: Oid,
        mode: LockMode,
    ) -> Result<bool, ShardError> {
        let request = LockRequest { txn, mode, wait: WaitPolicy::NoWait, timeout: None };
        let attempt = self.inner.lock().attempt(&LockKey::Table(table), request)?;
        Ok(matches!(attempt, Attempt::Granted))
    }

    /// Who has locked something in the ranges of these tables, or a whole table; of a table marked `true`, every writer.
    pub(crate) fn holders_inside(
        &self,
        tables: &HashMap<Oid, bool>,
        is_inside: impl Fn(&[u8]) -> bool,
    ) -> Vec<TxnId> {
        let inner = self.inner.lock();
        let counts = |txn: TxnId, key: &LockKey| match key {
            LockKey::Row(key) => is_inside(key),
            LockKey::Table(table) => match tables.get(table) {
                Some(true) => true,
                Some(false) => {
                    let mode = inner.locks.get(key).and_then(|state| state.held_by(txn));
                    mode >= Some(LockMode::TableWriter)
                }
                None => false,
            },
        };
        let held = inner.held.iter();
        let inside = held.filter(|(txn, keys)| keys.iter().any(|key| counts(**txn, key)));
        inside.map(|(txn, _)| *txn).collect()
    }

    /// Whether a transaction has not ended yet.
    pub(crate) fn holds_any(&self, txn: TxnId) -> bool {
        self.inner.lock().held.contains_key(&txn)
    }

    /// The transaction cannot commit any more.
    pub(crate) fn doom(&self, txn: TxnId) {
        let mut inner = self.inner.lock();
        if inner.held.contains_key(&txn) {
            inner.doomed.insert(txn);
            self.has_doomed.store(true, Ordering::SeqCst);
        }
    }

    /// Refuses whatever a doomed transaction asks for.
    pub(crate) fn check_doomed(&self, txn: TxnId) -> Result<(), ShardError> {
        if self.has_doomed.load(Ordering::SeqCst) && self.inner.lock().doomed.contains(&txn) {
            let reason = "rows that the transaction wrote or locked moving to another shard";
            return Err(ShardError::Conflict { reason: reason.to_owned() });
        }
        Ok(())
    }

    /// Lets go of everything. `committed` tells those who wait for a table that its schema may have changed.
    pub(crate) fn release_all(&self, txn: TxnId, committed: bool) {
        let mut inner = self.inner.lock();
        let Some(keys) = inner.held.remove(&txn) else { return };
        if inner.doomed.remove(&txn) && inner.doomed.is_empty() {
            self.has_doomed.store(false, Ordering::SeqCst);
        }
        for key in keys {
            let Some(state) = inner.locks.get_mut(&key) else { continue };
            let mode = state.held_by(txn);
            state.holders.retain(|(holder, _)| *holder != txn);
            if committed && mode == Some(LockMode::TableExclusive) {
                state.queue.iter_mut().for_each(|waiter| waiter.schema_changed = true);
            }
            inner.serve(&key);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        let inner = self.inner.lock();
        inner.locks.is_empty() && inner.held.is_empty() && inner.waiting.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn n_waiting(&self) -> usize {
        self.inner.lock().waiting.len()
    }
}

impl Inner {
    fn attempt(&mut self, key: &LockKey, request: LockRequest) -> Result<Attempt, ShardError> {
        let LockRequest { txn, mode, wait, .. } = request;
        let Some(state) = self.locks.get_mut(key) else {
            self.note_held(txn, key)?;
            let mut state = LockState::default();
            state.hold(txn, mode);
            self.locks.insert(key.clone(), state);
            return Ok(Attempt::Granted);
        };
        let held = state.held_by(txn);
        if held >= Some(mode) {
            return Ok(Attempt::Granted);
        }
        // Who holds the lock already goes in front: those who wait for it wait for him anyway.
        let passes =
            held.is_some() || !state.queue.iter().any(|waiter| mode.conflicts_with(waiter.mode));
        if passes && state.fits_holders(txn, mode) {
            if held.is_none() {
                self.note_held(txn, key)?;
            }
            if let Some(state) = self.locks.get_mut(key) {
                state.hold(txn, mode);
            }
            return Ok(Attempt::Granted);
        }
        if wait != WaitPolicy::Wait {
            return Ok(Attempt::Refused);
        }
        let id = self.next_waiter;
        self.next_waiter += 1;
        let (sender, grant) = oneshot::channel();
        let waiter = Waiter { id, txn, mode, schema_changed: false, grant: sender };
        if held.is_some() {
            state.queue.push_front(waiter);
        } else {
            state.queue.push_back(waiter);
        }
        self.waiting.insert(txn, key.clone());
        if let Some(cycle) = self.find_cycle(txn) {
            self.give_up(key, txn, id);
            return Err(ShardError::Deadlock { detail: describe_cycle(&cycle) });
        }
        Ok(Attempt::Queued { id, grant })
    }

    fn note_held(&mut self, txn: TxnId, key: &LockKey) -> Result<(), ShardError> {
        let held = self.held.entry(txn).or_default();
        if held.len() >= LOCKS_PER_TRANSACTION_MAX {
            return Err(ShardError::LimitExceeded {
                what: "number of locks of the transaction".to_owned(),
                limit: LOCKS_PER_TRANSACTION_MAX.to_string(),
            });
        }
        held.push(key.clone());
        Ok(())
    }

    /// Serves the queue of a lock that became freer, and forgets the lock if nobody is left.
    fn serve(&mut self, key: &LockKey) {
        let Some(state) = self.locks.get_mut(key) else { return };
        let upgrades: SmallVec<[TxnId; 2]> =
            state.holders.iter().map(|(holder, _)| *holder).collect();
        let granted = state.grant_waiters();
        if state.holders.is_empty() && state.queue.is_empty() {
            self.locks.remove(key);
        }
        for txn in granted {
            self.waiting.remove(&txn);
            if !upgrades.contains(&txn) {
                self.held.entry(txn).or_default().push(key.clone());
            }
        }
    }

    /// Takes a waiter out of its queue. If it was granted in the meantime, the lock stays with the transaction.
    fn give_up(&mut self, key: &LockKey, txn: TxnId, id: u64) {
        if let Some(state) = self.locks.get_mut(key)
            && let Some(position) = state.queue.iter().position(|waiter| waiter.id == id)
        {
            state.queue.remove(position);
            self.serve(key);
        }
        self.waiting.remove(&txn);
    }

    /// Whom a waiting transaction waits for.
    fn blockers(&self, txn: TxnId) -> Vec<TxnId> {
        let Some(state) = self.waiting.get(&txn).and_then(|key| self.locks.get(key)) else {
            return Vec::new();
        };
        let Some(position) = state.queue.iter().position(|waiter| waiter.txn == txn) else {
            return Vec::new();
        };
        let Some(mode) = state.queue.get(position).map(|waiter| waiter.mode) else {
            return Vec::new();
        };
        let holders = state.holders.iter().filter(|(_, held)| mode.conflicts_with(*held));
        let ahead = state.queue.iter().take(position).filter(|w| mode.conflicts_with(w.mode));
        let mut blockers: Vec<TxnId> = holders.map(|(holder, _)| *holder).collect();
        blockers.extend(ahead.map(|waiter| waiter.txn));
        blockers.retain(|blocker| *blocker != txn);
        blockers
    }

    /// The path from `start` back to itself in the wait-for graph.
    fn find_cycle(&self, start: TxnId) -> Option<Vec<TxnId>> {
        let mut seen = HashSet::new();
        let mut path = vec![start];
        let mut pending = vec![self.blockers(start)];
        while let Some(next) = pending.last_mut() {
            let Some(txn) = next.pop() else {
                pending.pop();
                path.pop();
                continue;
            };
            if txn == start {
                return Some(path);
            }
            if seen.insert(txn) {
                path.push(txn);
                pending.push(self.blockers(txn));
            }
        }
        None
    }
}

fn describe_cycle(cycle: &[TxnId]) -> String {
    let lines = cycle.iter().enumerate().map(|(position, txn)| {
        let next = cycle.get((position + 1) % cycle.len()).unwrap_or(txn);
        format!("Transaction {txn} waits for a lock; blocked by transaction {next}.")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Leaves the queue when the request is dropped.
struct Waiting<'a> {
    manager: &'a LockManager,
    key: LockKey,
    txn: TxnId,
    id: u64,
    is_over: bool,
}

impl Waiting<'_> {
    fn finish(mut self) {
        self.is_over = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.manager.inner.lock().give_up(&self.key, self.txn, self.id);
        }
    }
}
