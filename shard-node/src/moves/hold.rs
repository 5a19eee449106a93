//! Holds: writers are kept out of moving ranges for the moment of a cutover.
//!
//! A writer locks what it writes and then asks whether it may go on (`Holds::enter`); a hold is put up and then looks at the
//! locks. So one of the two sees the other: a transaction either counts as inside, and is waited for, or it waits itself. Who is
//! inside goes on as before until the grace is over; then it is doomed (`LockManager::doom`) and cannot commit any more. What was
//! committed before is in the log once the sequencer has passed a barrier. Not here: that writers with an old map are refused
//! afterwards (`fences`); a hold makes the time until then short and quiet. A fence that is raised under a complete hold lets
//! those commit who wrote other parts of the tables (`seal`): nothing that moved can be theirs.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, MoveId, Oid, ShardError, TableDescriptor, TxnId, moves::HoldRanges,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::Ranges;
use crate::{fences::Excused, shard::Shard, txn::sequencer::Request};

/// How often a hold looks whether the transactions inside have ended: much less than a stall that anybody notices.
const TICK: Duration = Duration::from_millis(1);

/// A hold may last so long at the most, whatever it asks for: a coordinator that died keeps writers waiting.
const LIMIT_MAX: Duration = Duration::from_secs(30);

/// Holds at a time: one for each move, and moves run one by one.
const HOLDS_MAX: usize = 64;

struct Hold {
    id: MoveId,
    ranges: Ranges,
    /// The tables, each with whether every writer of it counts as inside: rows without a primary key are not locked.
    tables: HashMap<Oid, bool>,
    /// The placements that it is a cutover of, with the epochs that it began with.
    placements: Vec<(Oid, u64)>,
    deadline: Instant,
    /// The sequencer is raising the fence that follows: it does not end before that stands.
    is_sealed: AtomicBool,
    inside: Mutex<Inside>,
    /// Set when it ends.
    is_over: watch::Sender<bool>,
}

#[derive(Default)]
struct Inside {
    txns: HashSet<TxnId>,
    /// Nobody is inside any more, and nobody may enter.
    is_drained: bool,
}

impl Hold {
    fn is_in_force(&self) -> bool {
        self.is_sealed.load(Ordering::SeqCst) || self.is_within_its_time()
    }

    fn is_within_its_time(&self) -> bool {
        Instant::now() < self.deadline && !*self.is_over.borrow()
    }

    fn covers(&self, table: Oid, keys: &[Bytes]) -> bool {
        self.tables.contains_key(&table) && keys.iter().any(|key| self.ranges.contains(key))
    }
}

/// All holds of a shard.
#[derive(Default)]
pub(crate) struct Holds {
    /// Whether there may be any: without, nobody takes the lock.
    is_used: AtomicBool,
    active: RwLock<Vec<Arc<Hold>>>,
}

/// Which rows of a table are written.
#[derive(Clone, Copy)]
pub(crate) enum Wanted<'a> {
    Keys(&'a [Bytes]),
    All,
}

impl Holds {
    fn find(&self, table: Oid, wanted: Wanted<'_>) -> Vec<Arc<Hold>> {
        if !self.is_used.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let active = self.active.read();
        let covers = |hold: &&Arc<Hold>| {
            hold.is_in_force()
                && match wanted {
                    Wanted::Keys(keys) => hold.covers(table, keys),
                    Wanted::All => hold.tables.contains_key(&table),
                }
        };
        active.iter().filter(covers).cloned().collect()
    }

    /// Waits until no hold keeps the transaction from these rows, before it locks them. Returns whether it waited.
    pub(crate) async fn wait(&self, txn: TxnId, table: Oid, wanted: Wanted<'_>) -> bool {
        let mut has_waited = false;
        loop {
            let mut holds = self.find(table, wanted);
            holds.retain(|hold| !hold.inside.lock().txns.contains(&txn));
            let Some(hold) = holds.first() else { return has_waited };
            has_waited = true;
            let mut is_over = hold.is_over.subscribe();
            let until = tokio::time::Instant::from_std(hold.deadline);
            // Over, or its time is up: both are looked at again.
            let _ = tokio::time::timeout_at(until, is_over.wait_for(|is_over| *is_over)).await;
            if hold.is_in_force() {
                tokio::time::sleep(TICK).await;
            }
        }
    }

    /// Whether the transaction, which has locked these rows, may write them. If so, holds wait for its end.
    pub(crate) fn enter(&self, txn: TxnId, table: Oid, wanted: Wanted<'_>) -> bool {
        self.find(table, wanted).iter().all(|hold| {
            let mut inside = hold.inside.lock();
            if !inside.is_drained {
                inside.txns.insert(txn);
            }
            inside.txns.contains(&txn)
        })
    }

    fn put_up(&self, hold: Arc<Hold>) -> bool {
        let mut active = self.active.write();
        active.retain(|hold| hold.is_in_force());
        if active.len() >= HOLDS_MAX {
            return false;
        }
        // A repeated request takes over from the one before it.
        let before = active.iter().position(|other| other.id == hold.id);
        active.push(hold);
        self.is_used.store(true, Ordering::SeqCst);
        if let Some(before) = before {
            active.remove(before).is_over.send_replace(true);
        }
        true
    }

    /// Before a fence of a placement is raised: if a hold has kept all writers out of what moves, those who wrote other parts
    /// of its tables may commit behind the fence. The hold stands until `unseal`.
    pub(crate) fn seal(&self, placement: Oid, version: u64) -> Excused {
        if !self.is_used.load(Ordering::SeqCst) {
            return None;
        }
        let active = self.active.read();
        let is_of = |hold: &&Arc<Hold>| {
            hold.placements.iter().any(|(id, epoch)| *id == placement && epoch + 1 == version)
        };
        let mut holds = active.iter().filter(is_of);
        let (Some(hold), None) = (holds.next(), holds.next()) else { return None };
        let was_sealed = hold.is_sealed.swap(true, Ordering::SeqCst);
        if !(hold.is_within_its_time() && hold.inside.lock().is_drained) {
            hold.is_sealed.store(was_sealed, Ordering::SeqCst);
            return None;
        }
        Some(Arc::new(hold.tables.keys().copied().collect()))
    }

    /// The fences stand.
    pub(crate) fn unseal(&self) {
        let mut active = self.active.write();
        active.retain(|hold| {
            hold.is_sealed.store(false, Ordering::SeqCst);
            hold.is_in_force()
        });
        self.is_used.store(!active.is_empty(), Ordering::SeqCst);
    }

    /// Ends the holds of a move.
    pub(crate) fn release(&self, id: MoveId) {
        let mut active = self.active.write();
        active.retain(|hold| {
            if hold.id == id {
                hold.is_over.send_replace(true);
            }
            hold.is_in_force()
        });
        self.is_used.store(!active.is_empty(), Ordering::SeqCst);
    }
}

/// Ends a hold that did not come about.
struct EndOnDrop<'a> {
    hold: &'a Hold,
    is_armed: bool,
}

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.hold.is_over.send_replace(true);
        }
    }
}

/// Answers `hold_ranges`.
pub(crate) async fn hold(shard: &Shard, request: HoldRanges) -> Result<LogIndex, ShardError> {
    let HoldRanges { id, tables, grace, limit } = request;
    let core = &shard.core;
    let ranges = Ranges::new(core.id, &tables)?;
    let started = Instant::now();
    let is_keyless = |table: &TableDescriptor| table.primary_key.is_empty();
    let oids: HashMap<Oid, bool> =
        tables.iter().map(|part| (part.table.oid, is_keyless(&part.table))).collect();
    let hold = Arc::new(Hold {
        id,
        ranges,
        tables: oids,
        placements: tables.iter().map(|it| (it.table.placement_id(), it.table.epoch())).collect(),
        is_sealed: AtomicBool::new(false),
        deadline: started + limit.min(LIMIT_MAX),
        inside: Mutex::default(),
        is_over: watch::Sender::new(false),
    });
    if !core.moves.holds.put_up(hold.clone()) {
        return Err(ShardError::LimitExceeded {
            what: "number of held moves".to_owned(),
            limit: HOLDS_MAX.to_string(),
        });
    }
    let mut end = EndOnDrop { hold: &hold, is_armed: true };
    let found = core.locks.holders_inside(&hold.tables, |key| hold.ranges.contains(key));
    hold.inside.lock().txns.extend(found);
    loop {
        if !hold.is_in_force() {
            let reason = "the end of a hold before it was complete".to_owned();
            return Err(ShardError::Conflict { reason });
        }
        {
            let mut inside = hold.inside.lock();
            inside.txns.retain(|txn| core.locks.holds_any(*txn));
            if started.elapsed() >= grace {
                for txn in inside.txns.drain() {
                    core.locks.doom(txn);
                }
            }
            if inside.txns.is_empty() {
                inside.is_drained = true;
                break;
            }
        }
        tokio::time::sleep(TICK).await;
    }
    // Who was doomed may be in front of the sequencer: behind this, it is refused or in the log.
    let index = shard.ask(|reply| Request::Barrier { reply }).await?;
    if !hold.is_in_force() {
        let reason = "the end of a hold before it was complete".to_owned();
        return Err(ShardError::Conflict { reason });
    }
    end.is_armed = false;
    Ok(index)
}
