//! Storage in a map, for tests and simulations: no files, no threads.
//!
//! Each key has its versions by sequence number, so that a snapshot is a number. Versions that no snapshot can see are
//! dropped when their key is written again. `flush` copies the maps: what a crash would leave of the state.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use smallvec::{SmallVec, smallvec};

use super::{Entries, FlushToken, KeyRange, Keyspace, Op, Storage, StorageError, StorageSnapshot};

/// Entries copied under the lock at a time by an iterator.
const CHUNK_ENTRIES: usize = 256;

type Versions = SmallVec<[(u64, Option<Bytes>); 1]>;
type Map = BTreeMap<Bytes, Versions>;

#[derive(Default)]
struct Shared {
    maps: RwLock<[Map; 4]>,
    /// Sequence number of the last applied batch.
    sequence: AtomicU64,
    /// Open snapshots: sequence number → count.
    open: Mutex<BTreeMap<u64, usize>>,
    /// What `begin_flush` last saw.
    flushed: Mutex<Option<[Map; 4]>>,
}

/// See the module's documentation. Clones share the state.
#[derive(Clone, Default)]
pub(crate) struct MemoryStorage(Arc<Shared>);

impl MemoryStorage {
    /// What a crash may leave: of each keyspace the last flush, or something newer up to now.
    #[cfg(test)]
    pub(crate) fn crash(&self, seed: u64) -> MemoryStorage {
        let storage = MemoryStorage::default();
        let flushed = self.0.flushed.lock().clone();
        let mut maps = flushed.clone().unwrap_or_default();
        let newest = self.0.maps.read();
        for (position, (map, newest)) in maps.iter_mut().zip(newest.iter()).enumerate() {
            if flushed.is_some() && seed >> position & 1 == 1 {
                *map = newest.clone();
            }
        }
        // What it left is on disk: a second crash leaves that, too.
        *storage.0.flushed.lock() = flushed.map(|_| maps.clone());
        *storage.0.maps.write() = maps;
        storage.0.sequence.store(self.0.sequence.load(Ordering::Acquire), Ordering::Release);
        storage
    }

    fn write(
        &self,
        ops: &mut dyn Iterator<Item = Result<Op, StorageError>>,
    ) -> Result<(), StorageError> {
        let sequence = self.0.sequence.load(Ordering::Acquire) + 1;
        let oldest = self.0.open.lock().keys().next().copied().unwrap_or(sequence);
        let mut maps = self.0.maps.write();
        for op in ops {
            let op = op?;
            let Some(map) = maps.get_mut(op.keyspace.position()) else { continue };
            match map.get_mut(&op.key) {
                Some(versions) => {
                    // The newest version at or below the oldest snapshot is the last one anyone can see.
                    let first = versions.iter().rposition(|(s, _)| *s <= oldest).unwrap_or(0);
                    versions.drain(..first);
                    match versions.last_mut() {
                        Some(last) if last.0 == sequence => last.1 = op.value,
                        Some(_) | None => versions.push((sequence, op.value)),
                    }
                }
                None => {
                    if op.value.is_some() {
                        map.insert(op.key, smallvec![(sequence, op.value)]);
                    }
                }
            }
        }
        drop(maps);
        self.0.sequence.store(sequence, Ordering::Release);
        Ok(())
    }
}

impl Storage for MemoryStorage {
    fn apply(&self, ops: Vec<Op>) -> Result<(), StorageError> {
        self.write(&mut ops.into_iter().map(Ok))
    }

    fn ingest(
        &self,
        _keyspace: Keyspace,
        ops: &mut dyn Iterator<Item = Result<Op, StorageError>>,
    ) -> Result<(), StorageError> {
        self.write(ops)
    }

    fn snapshot(&self) -> Arc<dyn StorageSnapshot> {
        let mut open = self.0.open.lock();
        let sequence = self.0.sequence.load(Ordering::Acquire);
        *open.entry(sequence).or_insert(0) += 1;
        Arc::new(MemorySnapshot(Arc::new(Lease { shared: self.0.clone(), sequence })))
    }

    fn begin_flush(&self) -> Result<FlushToken, StorageError> {
        *self.0.flushed.lock() = Some(self.0.maps.read().clone());
        Ok(FlushToken(Vec::new()))
    }

    fn is_flushed(&self, _token: &FlushToken) -> bool {
        true
    }

    fn is_persistent(&self) -> bool {
        false
    }
}

struct Lease {
    shared: Arc<Shared>,
    sequence: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut open = self.shared.open.lock();
        if let Some(count) = open.get_mut(&self.sequence) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.sequence);
            }
        }
    }
}

impl Lease {
    fn visible<'a>(&self, versions: &'a Versions) -> Option<&'a Bytes> {
        let version = versions.iter().rev().find(|(sequence, _)| *sequence <= self.sequence)?;
        version.1.as_ref()
    }
}

struct MemorySnapshot(Arc<Lease>);

impl StorageSnapshot for MemorySnapshot {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let maps = self.0.shared.maps.read();
        let versions = maps.get(keyspace.position()).and_then(|map| map.get(key));
        Ok(versions.and_then(|versions| self.0.visible(versions)).cloned())
    }

    fn range(&self, keyspace: Keyspace, range: KeyRange, reverse: bool) -> Entries {
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let start = Bound::Included(range.start);
        let end = range.end.map_or(Bound::Unbounded, Bound::Excluded);
        Box::new(MemoryIterator {
            lease: self.0.clone(),
            keyspace,
            start,
            end,
            reverse,
            ready: Vec::new().into_iter(),
            is_done: false,
        })
    }
}

/// Copies entries a chunk at a time, so that no lock is held between calls.
struct MemoryIterator {
    lease: Arc<Lease>,
    keyspace: Keyspace,
    start: Bound<Bytes>,
    end: Bound<Bytes>,
    reverse: bool,
    ready: std::vec::IntoIter<(Bytes, Bytes)>,
    is_done: bool,
}

impl MemoryIterator {
    fn refill(&mut self) {
        let maps = self.lease.shared.maps.read();
        let Some(map) = maps.get(self.keyspace.position()) else {
            self.is_done = true;
            return;
        };
        let range = map.range((self.start.clone(), self.end.clone()));
        let mut chunk = Vec::new();
        let mut visit = |key: &Bytes, versions: &Versions| {
            if let Some(value) = self.lease.visible(versions) {
                chunk.push((key.clone(), value.clone()));
            }
        };
        let mut last = None;
        let mut n_seen = 0;
        if self.reverse {
            for (key, versions) in range.rev().take(CHUNK_ENTRIES) {
                visit(key, versions);
                last = Some(key.clone());
                n_seen += 1;
            }
        } else {
            for (key, versions) in range.take(CHUNK_ENTRIES) {
                visit(key, versions);
                last = Some(key.clone());
                n_seen += 1;
            }
        }
        self.is_done = n_seen < CHUNK_ENTRIES;
        if let Some(last) = last {
            if self.reverse {
                self.end = Bound::Excluded(last);
            } else {
                self.start = Bound::Excluded(last);
            }
        }
        self.ready = chunk.into_iter();
    }
}

impl Iterator for MemoryIterator {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Some(Ok(entry));
            }
            if self.is_done {
                return None;
            }
            self.refill();
            // `range` panics on excluded bounds that meet.
            if let (Bound::Excluded(start) | Bound::Included(start), Bound::Excluded(end)) =
                (&self.start, &self.end)
                && start >= end
            {
                self.is_done = true;
            }
        }
    }
}
