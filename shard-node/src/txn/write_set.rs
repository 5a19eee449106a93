//! What a transaction has written in a shard and not committed: private, ordered, undoable.
//!
//! Lives here: the set in memory, its pins (what an open snapshot sees of it), undo by mark, and the merge with sorted
//! runs on disk (`spill`) once the set outgrows its budget. Not here: locks, constraints, and the commit itself.
//!
//! ```text
//!   key ──► versions [(epoch, mark, value | deleted), ...]    newest last
//!            │ epoch: counts pins; a reader pinned at p sees versions with epoch <= p
//!            └ mark:  statement or savepoint; rollback_to(m) removes versions with mark >= m
//! ```
//!
//! Each key also remembers the size of what is committed under it, as its first writer saw it under the key's lock:
//! the exact counts of `stats` come from there.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::RwLock;
use smallvec::{SmallVec, smallvec};

use super::spill::{Run, RunReader, RunWriter};
use crate::storage::{KeyRange, Keyspace, StorageError};

/// Memory of one transaction's writes in one shard, before they go to disk.
pub(crate) const WRITE_SET_BYTES_MAX: usize = 48 << 20;

/// What the maps cost per key besides its bytes.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// Entries that a cursor copies under the lock at a time.
const CURSOR_ENTRIES: usize = 256;

/// "Everything written so far."
pub(crate) const NEWEST: u64 = u64::MAX;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub epoch: u64,
    pub mark: u32,
    /// `None` deletes.
    pub value: Option<Bytes>,
}

/// One key's writes.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// Stored size of what is committed; `None` if nothing is.
    pub base: Option<u64>,
    pub versions: SmallVec<[Version; 1]>,
}

impl Written {
    fn visible(&self, epoch: u64) -> Option<&Version> {
        self.versions.iter().rev().find(|version| version.epoch <= epoch)
    }
}

/// The final state of one key, as the commit sees it.
#[derive(Clone, Debug)]
pub(crate) struct FinalWrite {
    pub keyspace: Keyspace,
    pub key: Bytes,
    pub value: Option<Bytes>,
    pub base: Option<u64>,
}

/// See the module's documentation. Shared between its transaction and pinned readers behind a lock.
pub(crate) struct WriteSet {
    maps: [BTreeMap<Bytes, Written>; 2],
    /// Versions in the order they were written, for `rollback_to`; those in runs are not in it.
    undo: Vec<(u32, Keyspace, Bytes)>,
    epoch: u64,
    bytes: usize,
    budget: usize,
    runs: Vec<Arc<Run>>,
    /// Changes when `runs` do: cursors then look for their place again.
    generation: u64,
    /// Where runs go.
    directory: PathBuf,
}

/// The two keyspaces that transactions write.
fn slot(keyspace: Keyspace) -> usize {
    match keyspace {
        Keyspace::Rows => 0,
        Keyspace::Index => 1,
        Keyspace::Kv | Keyspace::Meta => unreachable!("transactions write rows and index entries"),
    }
}

const WRITTEN_KEYSPACES: [Keyspace; 2] = [Keyspace::Rows, Keyspace::Index];

impl WriteSet {
    pub(crate) fn new(directory: PathBuf, budget: usize) -> WriteSet {
        WriteSet {
            maps: [BTreeMap::new(), BTreeMap::new()],
            undo: Vec::new(),
            epoch: 0,
            bytes: 0,
            budget,
            runs: Vec::new(),
            generation: 0,
            directory,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.maps.iter().all(BTreeMap::is_empty) && self.runs.is_empty()
    }

    /// Bytes in memory and on disk: what the commit will log, about.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.bytes as u64 + self.runs.iter().map(|run| run.bytes()).sum::<u64>()
    }

    /// What a reader that starts now may see, also while the transaction goes on.
    pub(crate) fn pin(&mut self) -> u64 {
        // Always a new epoch for later writes: a statement that writes while it reads must never meet its own rows.
        let epoch = self.epoch;
        self.epoch += 1;
        epoch
    }

    /// Writes one key. `committed` is the stored size of what is committed under it; it counts the first time only.
    pub(crate) fn put(
        &mut self,
        keyspace: Keyspace,
        key: Bytes,
        value: Option<Bytes>,
        mark: u32,
        committed: Option<u64>,
    ) -> Result<(), StorageError> {
        let n_bytes = value.as_ref().map_or(0, Bytes::len);
        let version = Version { epoch: self.epoch, mark, value };
        let [rows, index] = &mut self.maps;
        let map = if slot(keyspace) == 0 { rows } else { index };
        match map.get_mut(&key) {
            Some(written) => {
                self.bytes += n_bytes;
                match written.versions.last_mut() {
                    Some(last) if last.mark == mark && last.epoch == version.epoch => {
                        self.bytes -= last.value.as_ref().map_or(0, Bytes::len);
                        *last = version;
                    }
                    Some(_) | None => {
                        written.versions.push(version);
                        self.undo.push((mark, keyspace, key));
                    }
                }
            }
            None => {
                let mut base = committed;
                for run in self.runs.iter().rev() {
                    if let Some(written) = run.get(keyspace, &key)? {
                        base = written.base;
                        break;
                    }
                }
                self.bytes += n_bytes + key.len() + ENTRY_OVERHEAD_BYTES;
                self.undo.push((mark, keyspace, key.clone()));
                map.insert(key, Written { base, versions: smallvec![version] });
            }
        }
        Ok(())
    }

    /// Moves the set to disk if it outgrew its budget.
    pub(crate) fn maybe_spill(&mut self) -> Result<(), StorageError> {
        if self.bytes < self.budget {
            return Ok(());
        }
        let n_keys = self.maps.iter().map(BTreeMap::len).sum();
        let mut writer = RunWriter::create(&self.directory, n_keys)?;
        for keyspace in WRITTEN_KEYSPACES {
            let Some(map) = self.maps.get(slot(keyspace)) else { continue };
            for (key, written) in map {
                writer.push(keyspace, key, written)?;
            }
        }
        self.runs.push(Arc::new(writer.finish()?));
        self.maps = [BTreeMap::new(), BTreeMap::new()];
        self.undo.clear();
        self.bytes = 0;
        self.generation += 1;
        Ok(())
    }

    /// What the transaction wrote under a key: `None` if nothing, `Some(None)` if it deleted it.
    pub(crate) fn get(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        epoch: u64,
    ) -> Result<Option<Option<Bytes>>, StorageError> {
        let written = self.maps.get(slot(keyspace)).and_then(|map| map.get(key));
        if let Some(version) = written.and_then(|written| written.visible(epoch)) {
            return Ok(Some(version.value.clone()));
        }
        for run in self.runs.iter().rev() {
            if let Some(written) = run.get(keyspace, key)?
                && let Some(version) = written.visible(epoch)
            {
                return Ok(Some(version.value.clone()));
            }
        }
        Ok(None)
    }

    /// Whether nothing was written under the keys from `first` to `last`. Runs answer by their ends: a load in key order
    /// leaves them behind.
    pub(crate) fn is_free(&self, keyspace: Keyspace, first: &Bytes, last: &Bytes) -> bool {
        let map = &self.maps[slot(keyspace)];
        map.range::<Bytes, _>(first..=last).next().is_none()
            && self.runs.iter().all(|run| run.is_outside(keyspace, first, last))
    }

    /// The mark of the newest write under a key.
    pub(crate) fn last_mark(
        &self,
        keyspace: Keyspace,
        key: &[u8],
    ) -> Result<Option<u32>, StorageError> {
        let written = self.maps.get(slot(keyspace)).and_then(|map| map.get(key));
        if let Some(version) = written.and_then(|written| written.visible(NEWEST)) {
            return Ok(Some(version.mark));
        }
        for run in self.runs.iter().rev() {
            if let Some(written) = run.get(keyspace, key)?
                && let Some(version) = written.visible(NEWEST)
            {
                return Ok(Some(version.mark));
            }
        }
        Ok(None)
    }

    /// Undoes everything with this mark or a later one.
    pub(crate) fn rollback_to(&mut self, mark: u32) {
        while self.undo.last().is_some_and(|(m, _, _)| *m >= mark) {
            let Some((_, keyspace, key)) = self.undo.pop() else { break };
            let Some(map) = self.maps.get_mut(slot(keyspace)) else { continue };
            let Some(written) = map.get_mut(&key) else { continue };
            if let Some(version) = written.versions.pop() {
                self.bytes =
                    self.bytes.saturating_sub(version.value.map_or(0, |value| value.len()));
            }
            if written.versions.is_empty() {
                self.bytes = self.bytes.saturating_sub(key.len() + ENTRY_OVERHEAD_BYTES);
                map.remove(&key);
            }
        }
        if self.runs.iter().any(|run| run.last_mark() >= mark) {
            self.runs.retain_mut(|run| {
                if run.first_mark() >= mark {
                    return false;
                }
                if run.last_mark() >= mark {
                    *run = Arc::new(run.without_marks_from(mark));
                }
                true
            });
            self.generation += 1;
        }
    }

    /// Every key's final state, in (keyspace, key) order. The set must not change meanwhile: the commit owns it.
    pub(crate) fn final_writes(
        &self,
    ) -> Result<impl Iterator<Item = Result<FinalWrite, StorageError>> + '_, StorageError> {
        let mut sources: Vec<Source<'_>> = Vec::new();
        for run in &self.runs {
            sources.push(Box::new(run.read_from(Keyspace::Rows, &[])?));
        }
        let memory = WRITTEN_KEYSPACES.into_iter().flat_map(|keyspace| {
            let map = self.maps.get(slot(keyspace)).into_iter().flatten();
            map.map(move |(key, written)| Ok((keyspace, key.clone(), written.clone())))
        });
        sources.push(Box::new(memory));
        let merge = Merge::new(sources)?;
        Ok(merge.filter_map(|merged| {
            let (keyspace, key, written) = match merged {
                Ok(merged) => merged,
                Err(error) => return Some(Err(error)),
            };
            let version = written.visible(NEWEST)?.clone();
            // Written and deleted again: nothing happened.
            if version.value.is_none() && written.base.is_none() {
                return None;
            }
            Some(Ok(FinalWrite { keyspace, key, value: version.value, base: written.base }))
        }))
    }
}

type SourceItem = (Keyspace, Bytes, Written);
type Source<'a> = Box<dyn Iterator<Item = Result<SourceItem, StorageError>> + Send + 'a>;

/// Merges ordered sources, older first; a key in several comes out once, with all its versions in order.
///
/// Runs of a load in key order follow one another, so the source with the least key is read on without looking at the
/// others, up to the first key of theirs.
struct Merge<'a> {
    sources: Vec<(Option<SourceItem>, Source<'a>)>,
    ahead: Option<Ahead>,
}

/// The one source that has keys below `until`; without a limit, the last one left.
struct Ahead {
    source: usize,
    until: Option<(Keyspace, Bytes)>,
}

impl<'a> Merge<'a> {
    fn new(sources: Vec<Source<'a>>) -> Result<Merge<'a>, StorageError> {
        let mut merge = Merge { sources: Vec::new(), ahead: None };
        for mut source in sources {
            let head = source.next().transpose()?;
            merge.sources.push((head, source));
        }
        Ok(merge)
    }

    fn take_least(&mut self) -> Result<Option<SourceItem>, StorageError> {
        if let Some(Ahead { source, until }) = &self.ahead {
            let (head, source) = &mut self.sources[*source];
            if let Some((keyspace, key, _)) = head
                && until.as_ref().is_none_or(|(at, end)| (*keyspace, &*key) < (*at, end))
            {
                let next = source.next().transpose()?;
                return Ok(std::mem::replace(head, next));
            }
            self.ahead = None;
        }
        let key = |(head, _): &(Option<SourceItem>, Source<'_>)| {
            head.as_ref().map(|(keyspace, key, _)| (*keyspace, key.clone()))
        };
        let keys: Vec<Option<(Keyspace, Bytes)>> = self.sources.iter().map(key).collect();
        let Some(least) = keys.iter().flatten().min() else { return Ok(None) };
        let mut merged: Option<SourceItem> = None;
        for (position, (head, source)) in self.sources.iter_mut().enumerate() {
            if keys[position].as_ref() != Some(least) {
                continue;
            }
            let Some(item) = head.take() else { continue };
            *head = source.next().transpose()?;
            match &mut merged {
                Some((_, _, written)) => written.versions.extend(item.2.versions),
                None => {
                    merged = Some(item);
                    let others = keys.iter().enumerate().filter(|(other, _)| *other != position);
                    let until = others.filter_map(|(_, key)| key.clone()).min();
                    self.ahead = Some(Ahead { source: position, until });
                }
            }
        }
        Ok(merged)
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<SourceItem, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take_least().transpose()
    }
}

/// Walks a pinned write set in key order, a chunk at a time, also while its transaction writes on.
pub(crate) struct WriteCursor {
    set: Arc<RwLock<WriteSet>>,
    epoch: u64,
    keyspace: Keyspace,
    start: Bound<Bytes>,
    end: Bound<Bytes>,
    reverse: bool,
    ready: VecDeque<(Bytes, Option<Bytes>)>,
    is_done: bool,
}

impl WriteCursor {
    pub(crate) fn new(
        set: Arc<RwLock<WriteSet>>,
        epoch: u64,
        keyspace: Keyspace,
        range: KeyRange,
        reverse: bool,
    ) -> WriteCursor {
        WriteCursor {
            is_done: range.is_empty(),
            set,
            epoch,
            keyspace,
            start: Bound::Included(range.start),
            end: range.end.map_or(Bound::Unbounded, Bound::Excluded),
            reverse,
            ready: VecDeque::new(),
        }
    }

    /// The next key in order without taking it.
    pub(crate) fn peek(&mut self) -> Result<Option<&(Bytes, Option<Bytes>)>, StorageError> {
        while self.ready.is_empty() && !self.is_done {
            self.refill()?;
        }
        Ok(self.ready.front())
    }

    pub(crate) fn take(&mut self) -> Option<(Bytes, Option<Bytes>)> {
        self.ready.pop_front()
    }

    fn refill(&mut self) -> Result<(), StorageError> {
        if let (Bound::Excluded(start) | Bound::Included(start), Bound::Excluded(end)) =
            (&self.start, &self.end)
            && start >= end
        {
            self.is_done = true;
            return Ok(());
        }
        let set = self.set.clone();
        let set = set.read();
        if !set.runs.is_empty() {
            return self.refill_with_runs(&set);
        }
        let Some(map) = set.maps.get(slot(self.keyspace)) else { return Ok(()) };
        let range = map.range((self.start.clone(), self.end.clone()));
        let mut last = None;
        let mut n_seen = 0;
        let mut visit = |key: &Bytes, written: &Written| {
            if let Some(version) = written.visible(self.epoch) {
                self.ready.push_back((key.clone(), version.value.clone()));
            }
            last = Some(key.clone());
            n_seen += 1;
        };
        if self.reverse {
            range.rev().take(CURSOR_ENTRIES).for_each(|(key, written)| visit(key, written));
        } else {
            range.take(CURSOR_ENTRIES).for_each(|(key, written)| visit(key, written));
        }
        self.is_done = n_seen < CURSOR_ENTRIES;
        self.move_past(last);
        Ok(())
    }

    fn move_past(&mut self, last: Option<Bytes>) {
        let Some(last) = last else { return };
        if self.reverse {
            self.end = Bound::Excluded(last);
        } else {
            self.start = Bound::Excluded(last);
        }
    }

    /// The rarer case: part of the set is on disk. Runs are read forward, from the cursor's place, each time anew.
    fn refill_with_runs(&mut self, set: &WriteSet) -> Result<(), StorageError> {
        let from = match &self.start {
            Bound::Included(key) | Bound::Excluded(key) => key.clone(),
            Bound::Unbounded => Bytes::new(),
        };
        let keyspace = self.keyspace;
        let mut sources: Vec<Source<'_>> = Vec::new();
        for run in &set.runs {
            sources.push(Box::new(run.read_from(keyspace, &from)?));
        }
        let map = set.maps.get(slot(keyspace)).map(|map| map.range(from..));
        let memory = map.into_iter().flatten();
        sources.push(Box::new(
            memory.map(move |(key, written)| Ok((keyspace, key.clone(), written.clone()))),
        ));
        let mut n_seen = 0;
        for merged in Merge::new(sources)? {
            let (at, key, written) = merged?;
            if let Bound::Excluded(start) = &self.start
                && key <= *start
            {
                continue;
            }
            if at != keyspace || matches!(&self.end, Bound::Excluded(end) if key >= *end) {
                self.is_done = true;
                break;
            }
            if let Some(version) = written.visible(self.epoch) {
                let entry = (key.clone(), version.value.clone());
                if self.reverse {
                    self.ready.push_front(entry);
                } else {
                    self.ready.push_back(entry);
                }
            }
            n_seen += 1;
            // In reverse the whole range is read at once: short reads of the fast path only.
            if n_seen >= CURSOR_ENTRIES && !self.reverse {
                self.move_past(Some(key));
                return Ok(());
            }
        }
        self.is_done = true;
        Ok(())
    }
}

/// What `RunReader` yields fits `Merge`.
impl Iterator for RunReader {
    type Item = Result<SourceItem, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}
