//! What a shard holds of each storage id: exact counts, kept by the commits themselves.
//!
//! Each commit logs how it changes the counts, computed when its final writes are known. The counts at a checkpoint are
//! in the checkpoint file and replay adds the rest, so they survive restarts without a scan.

use std::collections::BTreeMap;

use cortex_shard_api::{StorageId, client::StorageStats};

/// A change of one storage's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delta {
    pub storage: StorageId,
    pub rows: i64,
    pub bytes: i64,
}

/// What an entry does to the counts.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Add(Vec<Delta>),
    Remove(StorageId),
}

/// Sums up the deltas of one commit.
#[derive(Debug, Default)]
pub(crate) struct DeltaSum(BTreeMap<StorageId, (i64, i64)>);

impl DeltaSum {
    /// Counts one key: what was committed of it before (its stored size), and what is now.
    pub(crate) fn add(&mut self, key: &[u8], before: Option<u64>, after: Option<u64>) {
        let rows = i64::from(after.is_some()) - i64::from(before.is_some());
        let bytes = after.unwrap_or(0) as i64 - before.unwrap_or(0) as i64;
        let sum = self.0.entry(storage_of(key)).or_default();
        sum.0 += rows;
        sum.1 += bytes;
    }

    pub(crate) fn finish(self) -> Vec<Delta> {
        self.0
            .into_iter()
            .filter(|(_, (rows, bytes))| *rows != 0 || *bytes != 0)
            .map(|(storage, (rows, bytes))| Delta { storage, rows, bytes })
            .collect()
    }
}

/// The storage id that every row and index key begins with.
pub(crate) fn storage_of(key: &[u8]) -> StorageId {
    let prefix = key.first_chunk::<4>().copied().unwrap_or_default();
    StorageId(u32::from_be_bytes(prefix))
}

/// Counts by storage id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters(BTreeMap<StorageId, StorageStats>);

impl Counters {
    pub(crate) fn change(&mut self, change: &Change) {
        match change {
            Change::Add(deltas) => self.add(deltas),
            Change::Remove(storage) => {
                self.0.remove(storage);
            }
        }
    }

    fn add(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            let stats = self.0.entry(delta.storage).or_default();
            stats.rows = stats.rows.saturating_add_signed(delta.rows);
            stats.bytes = stats.bytes.saturating_add_signed(delta.bytes);
            if *stats == StorageStats::default() {
                self.0.remove(&delta.storage);
            }
        }
    }

    pub(crate) fn get(&self, storage: StorageId) -> StorageStats {
        self.0.get(&storage).copied().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, storage: StorageId, stats: StorageStats) {
        self.0.insert(storage, stats);
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (StorageId, StorageStats)> {
        self.0.iter().map(|(storage, stats)| (*storage, *stats))
    }
}
