//! What a reader sees: a published state and, inside a transaction, its own writes on top.
//!
//! Lives here: `Published` (made by the sequencer after each group), `ReadView` (one statement's view of it) and the merge
//! of both in key order. Not here: SQL (`scan`) and leases (`shard`).

use std::sync::Arc;

use bytes::{Buf, Bytes};
use cortex_shard_api::{LogIndex, client::StoredRow};
use parking_lot::RwLock;

use super::{
    Txn,
    write_set::{NEWEST, WriteCursor, WriteSet},
};
use crate::storage::{Entries, KeyRange, Keyspace, StorageError, StorageSnapshot, after};

/// The state after an applied group.
pub(crate) struct Published {
    pub snapshot: Arc<dyn StorageSnapshot>,
    pub applied: LogIndex,
}

/// One consistent view. Immutable, also while the transaction whose writes it shows goes on writing.
#[derive(Clone)]
pub(crate) struct ReadView {
    published: Arc<Published>,
    own: Option<(Arc<RwLock<WriteSet>>, u64)>,
}

impl ReadView {
    /// What is committed, and what the transaction wrote so far.
    pub(crate) fn pin(published: Arc<Published>, txn: Option<&Txn>) -> ReadView {
        let own = txn.filter(|txn| txn.has_written());
        let own = own.map(|txn| (txn.writes.clone(), txn.writes.write().pin()));
        ReadView { published, own }
    }

    /// What is committed, and whatever the transaction has written by the time of each read: for writers.
    pub(crate) fn live(published: Arc<Published>, txn: &Txn) -> ReadView {
        ReadView { published, own: Some((txn.writes.clone(), NEWEST)) }
    }

    /// The last entry that it shows.
    pub(crate) fn applied(&self) -> LogIndex {
        self.published.applied
    }

    /// What is committed, whatever the transaction wrote.
    pub(crate) fn committed(&self) -> &dyn StorageSnapshot {
        &*self.published.snapshot
    }

    /// A row as it is stored.
    pub(crate) fn row(&self, key: &Bytes) -> Result<Option<StoredRow>, StorageError> {
        if let Some((set, epoch)) = &self.own
            && let Some(own) = set.read().get(Keyspace::Rows, key, *epoch)?
        {
            let row = |value| StoredRow { key: key.clone(), value, version: LogIndex(0) };
            return Ok(own.map(row));
        }
        self.committed_row(key)
    }

    /// The committed row, whatever the transaction did to it.
    pub(crate) fn committed_row(&self, key: &Bytes) -> Result<Option<StoredRow>, StorageError> {
        let stored = self.published.snapshot.get(Keyspace::Rows, key)?;
        stored.map(|stored| split(key.clone(), stored)).transpose()
    }

    /// Whether the transaction itself wrote a row under a key (`true`) or deleted it (`false`).
    pub(crate) fn own_row(&self, key: &Bytes) -> Result<Option<bool>, StorageError> {
        let Some((set, epoch)) = &self.own else { return Ok(None) };
        Ok(set.read().get(Keyspace::Rows, key, *epoch)?.map(|value| value.is_some()))
    }

    /// Whether no committed row has a key from `first` to `last`, both included.
    pub(crate) fn is_free_of_committed(
        &self,
        first: &Bytes,
        last: &Bytes,
    ) -> Result<bool, StorageError> {
        let range = KeyRange { start: first.clone(), end: Some(after(last)) };
        let mut rows = self.published.snapshot.range(Keyspace::Rows, range, false);
        Ok(rows.next().transpose()?.is_none())
    }

    /// Whether the transaction wrote no row with a key from `first` to `last`; false if finding out would be dear.
    pub(crate) fn is_free_of_own(&self, first: &Bytes, last: &Bytes) -> bool {
        self.own.as_ref().is_none_or(|(set, _)| set.read().is_free(Keyspace::Rows, first, last))
    }

    /// The value of an index entry.
    pub(crate) fn index_entry(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        if let Some((set, epoch)) = &self.own
            && let Some(own) = set.read().get(Keyspace::Index, key, *epoch)?
        {
            return Ok(own);
        }
        self.published.snapshot.get(Keyspace::Index, key)
    }

    /// Rows of a key range.
    pub(crate) fn rows(&self, range: KeyRange, reverse: bool) -> RowIterator {
        RowIterator(self.merged(Keyspace::Rows, range, reverse))
    }

    /// Index entries of a key range.
    pub(crate) fn index_entries(&self, range: KeyRange, reverse: bool) -> Merged {
        self.merged(Keyspace::Index, range, reverse)
    }

    fn merged(&self, keyspace: Keyspace, range: KeyRange, reverse: bool) -> Merged {
        let own = self.own.as_ref().map(|(set, epoch)| {
            WriteCursor::new(set.clone(), *epoch, keyspace, range.clone(), reverse)
        });
        let committed = self.published.snapshot.range(keyspace, range, reverse);
        Merged { committed, next_committed: None, own, reverse }
    }
}

/// Takes `[commit index][row]` apart.
fn split(key: Bytes, mut stored: Bytes) -> Result<StoredRow, StorageError> {
    let version = stored
        .try_get_u64()
        .map_err(|_| StorageError::Corrupt("a stored row is shorter than its index".to_owned()))?;
    Ok(StoredRow { key, value: stored, version: LogIndex(version) })
}

/// One key of a merged read.
pub(crate) struct MergedEntry {
    pub key: Bytes,
    pub value: Bytes,
    /// Written by the transaction itself.
    pub is_own: bool,
}

/// Committed entries with the transaction's own changes, in key order.
pub(crate) struct Merged {
    committed: Entries,
    next_committed: Option<(Bytes, Bytes)>,
    own: Option<WriteCursor>,
    reverse: bool,
}

impl Merged {
    fn read_next(&mut self) -> Result<Option<MergedEntry>, StorageError> {
        let Some(own) = &mut self.own else {
            let next = self.committed.next().transpose()?;
            return Ok(next.map(|(key, value)| MergedEntry { key, value, is_own: false }));
        };
        loop {
            if self.next_committed.is_none() {
                self.next_committed = self.committed.next().transpose()?;
            }
            let own_key = own.peek()?.map(|(key, _)| key);
            let is_own_next = match (own_key, &self.next_committed) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(own_key), Some((key, _))) if own_key == key => {
                    // Ours replaces or deletes it.
                    self.next_committed = None;
                    true
                }
                (Some(own_key), Some((key, _))) => (own_key < key) != self.reverse,
            };
            if !is_own_next {
                let next = self.next_committed.take();
                return Ok(next.map(|(key, value)| MergedEntry { key, value, is_own: false }));
            }
            if let Some((key, Some(value))) = own.take() {
                return Ok(Some(MergedEntry { key, value, is_own: true }));
            }
        }
    }
}

impl Iterator for Merged {
    type Item = Result<MergedEntry, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}

/// Rows in key order.
pub(crate) struct RowIterator(Merged);

impl Iterator for RowIterator {
    type Item = Result<StoredRow, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = match self.0.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        if entry.is_own {
            let MergedEntry { key, value, .. } = entry;
            return Some(Ok(StoredRow { key, value, version: LogIndex(0) }));
        }
        Some(split(entry.key, entry.value))
    }
}
