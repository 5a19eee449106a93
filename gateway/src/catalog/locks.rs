//! Table locks of this gateway's transactions.
//!
//! A statement that reads or writes a table takes it shared *before* it trusts its plan, and keeps it until its
//! transaction ends; a schema change takes it exclusively and keeps it until the new catalog is published. So nobody works
//! with a descriptor that a commit in progress is about to replace. Shards have table locks too, but they end with the
//! shard's commit, which comes before the catalog's. Deadlocks among these locks are found here (40P01).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use cortex_shard_api::{Oid, TxnId, client::TableLock};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::changes::TableChanges;
use crate::error::{PgError, SqlState};

/// A wait without `lock_timeout` ends after this: a shard's row lock may be part of a circle that nobody sees whole. Who waits for
/// a table whose rows are being copied waits on: the copying waits for nobody.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Who holds and awaits which table.
#[derive(Debug, Default)]
pub struct TableLocks {
    state: Mutex<State>,
    released: Notify,
    changes: Arc<TableChanges>,
}

#[derive(Debug, Default)]
struct State {
    tables: HashMap<Oid, BTreeMap<TxnId, TableLock>>,
    held: HashMap<TxnId, Vec<Oid>>,
    waiting: HashMap<TxnId, (Oid, TableLock)>,
}

impl State {
    /// Transactions in the way of this request: holders of a conflicting lock, and, for newcomers, those who wait for
    /// an exclusive one (or they would never get it).
    fn blockers(&self, txn: TxnId, table: Oid, lock: TableLock) -> Vec<TxnId> {
        let holders = self.tables.get(&table);
        let mut blockers: Vec<TxnId> = holders
            .into_iter()
            .flatten()
            .filter(|(holder, held)| {
                **holder != txn && (lock == TableLock::Exclusive || **held == TableLock::Exclusive)
            })
            .map(|(holder, _)| *holder)
            .collect();
        let holds = holders.is_some_and(|holders| holders.contains_key(&txn));
        if lock == TableLock::Shared && !holds && !self.waiting.is_empty() {
            blockers.extend(self.waiting.iter().filter_map(|(waiter, wanted)| {
                (*waiter != txn && *wanted == (table, TableLock::Exclusive)).then_some(*waiter)
            }));
        }
        blockers
    }

    fn grant(&mut self, txn: TxnId, table: Oid, lock: TableLock) {
        let held = self.tables.entry(table).or_default().entry(txn);
        let mut new = false;
        let entry = held.or_insert_with(|| {
            new = true;
            lock
        });
        if lock == TableLock::Exclusive {
            *entry = lock;
        }
        if new {
            self.held.entry(txn).or_default().push(table);
        }
    }

    /// Everybody that a transaction waits for, over others; itself in a deadlock.
    fn awaited(&self, txn: TxnId) -> HashSet<TxnId> {
        let mut seen = HashSet::new();
        let mut queue = vec![txn];
        while let Some(waiter) = queue.pop() {
            let Some((table, lock)) = self.waiting.get(&waiter) else { continue };
            for blocker in self.blockers(waiter, *table, *lock) {
                if seen.insert(blocker) {
                    queue.push(blocker);
                }
            }
        }
        seen
    }
}

/// Takes a waiter out of the queue when its request ends, however it ends.
struct Waiting<'a> {
    locks: &'a TableLocks,
    txn: TxnId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.locks.state.lock().waiting.remove(&self.txn).is_some() {
            self.locks.released.notify_waiters();
        }
    }
}

impl TableLocks {
    /// Takes a lock if nobody is in the way: the whole of it for almost every statement.
    pub fn try_lock(&self, txn: TxnId, table: Oid, lock: TableLock) -> bool {
        let mut state = self.state.lock();
        if !state.blockers(txn, table, lock).is_empty() {
            return false;
        }
        state.grant(txn, table, lock);
        true
    }

    /// Takes a lock, waiting for it. 55P03 after `timeout`, 40P01 in a deadlock.
    pub async fn lock(
        &self,
        txn: TxnId,
        table: Oid,
        lock: TableLock,
        timeout: Option<Duration>,
    ) -> Result<(), PgError> {
        if self.try_lock(txn, table, lock) {
            return Ok(());
        }
        let waiting = Waiting { locks: self, txn };
        let wait = async {
            loop {
                // Registered before the check, so that no release is missed.
                let released = self.released.notified();
                {
                    let mut state = self.state.lock();
                    if state.blockers(txn, table, lock).is_empty() {
                        state.grant(txn, table, lock);
                        return Ok(());
                    }
                    state.waiting.insert(txn, (table, lock));
                    if state.awaited(txn).contains(&txn) {
                        return Err(PgError::new(SqlState::DEADLOCK_DETECTED, "deadlock detected")
                            .with_detail("Transactions wait for each other's table locks.")
                            .with_hint("The transaction was chosen as the victim; run it again."));
                    }
                }
                released.await;
            }
        };
        let limit = timeout.unwrap_or(WAIT_MAX);
        let mut wait = std::pin::pin!(wait);
        let mut waited = tokio::time::timeout(limit, &mut wait).await;
        while waited.is_err() && timeout.is_none() && self.awaits_copying(txn) {
            waited = tokio::time::timeout(limit, &mut wait).await;
        }
        let result = waited.unwrap_or_else(|_| {
            Err(match timeout {
                Some(_) => PgError::new(
                    SqlState::LOCK_NOT_AVAILABLE,
                    "canceling statement due to lock timeout",
                ),
                None => PgError::new(SqlState::DEADLOCK_DETECTED, "deadlock detected").with_detail(
                    format!("A table lock was not granted within {} seconds.", limit.as_secs()),
                ),
            })
        });
        drop(waiting);
        result
    }

    /// Tables whose rows are on their way.
    pub fn changes(&self) -> &Arc<TableChanges> {
        &self.changes
    }

    /// Whether a transaction waits for one that copies a table's rows.
    fn awaits_copying(&self, txn: TxnId) -> bool {
        let awaited = self.state.lock().awaited(txn);
        awaited.into_iter().any(|awaited| self.changes.is_copying(awaited))
    }

    /// Releases everything a transaction holds.
    pub fn release(&self, txn: TxnId) {
        let mut state = self.state.lock();
        let Some(tables) = state.held.remove(&txn) else { return };
        for table in tables {
            if let Some(holders) = state.tables.get_mut(&table) {
                holders.remove(&txn);
                if holders.is_empty() {
                    state.tables.remove(&table);
                }
            }
        }
        let anyone = !state.waiting.is_empty();
        drop(state);
        if anyone {
            self.released.notify_waiters();
        }
    }

    /// (table, transaction, lock, granted), for pg_locks.
    pub fn snapshot(&self) -> Vec<(Oid, TxnId, TableLock, bool)> {
        let state = self.state.lock();
        let held = state.tables.iter().flat_map(|(table, holders)| {
            holders.iter().map(|(txn, lock)| (*table, *txn, *lock, true))
        });
        let waiting = state.waiting.iter().map(|(txn, (table, lock))| (*table, *txn, *lock, false));
        held.chain(waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn exclusive_waits_for_shared_and_keeps_newcomers_out() {
        let locks = Arc::new(TableLocks::default());
        let table = Oid(1);
        locks.lock(TxnId(1), table, TableLock::Shared, None).await.expect("free");
        let waiter = {
            let locks = locks.clone();
            tokio::spawn(
                async move { locks.lock(TxnId(2), table, TableLock::Exclusive, None).await },
            )
        };
        while locks.snapshot().len() < 2 {
            tokio::task::yield_now().await;
        }
        let short = Some(Duration::from_millis(10));
        let refused = locks.lock(TxnId(3), table, TableLock::Shared, short).await;
        assert_eq!(refused.expect_err("behind the waiter").code, SqlState::LOCK_NOT_AVAILABLE);
        locks.release(TxnId(1));
        waiter.await.expect("joins").expect("granted");
        locks.release(TxnId(2));
        assert!(locks.snapshot().is_empty());
    }

    #[tokio::test]
    async fn a_circle_is_a_deadlock() {
        let locks = Arc::new(TableLocks::default());
        let (a, b) = (Oid(1), Oid(2));
        locks.lock(TxnId(1), a, TableLock::Shared, None).await.expect("free");
        locks.lock(TxnId(2), b, TableLock::Shared, None).await.expect("free");
        let first = {
            let locks = locks.clone();
            tokio::spawn(async move { locks.lock(TxnId(1), b, TableLock::Exclusive, None).await })
        };
        while locks.snapshot().len() < 3 {
            tokio::task::yield_now().await;
        }
        let refused = locks.lock(TxnId(2), a, TableLock::Exclusive, None).await;
        assert_eq!(refused.expect_err("a circle").code, SqlState::DEADLOCK_DETECTED);
        locks.release(TxnId(2));
        first.await.expect("joins").expect("granted");
    }
}
