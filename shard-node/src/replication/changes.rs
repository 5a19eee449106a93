//! Reading changes of reference tables where their primary copies are: from the log, or from a snapshot.
//!
//! What is read is durable and applied, so a copy is never ahead of its primary copy, whatever crashes.

use std::{collections::BTreeSet, ops::Bound};

use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, ShardError, ShardId, StorageId,
    copies::{CHANGES_BYTES, Changes, CopyCursor, CopyEntry, CopyKeyspace, CopyPart},
    key::storage_prefix,
};

use super::{Link, keyspace, storages};
use crate::{
    entry::{Entry, OpReader},
    log::LogError,
    recovery::dropping,
    stats::storage_of,
    storage::{KeyRange, Keyspace, StorageError, after},
    txn::{
        sequencer::{Core, storage_error},
        snapshot::ReadView,
    },
};

/// Where an answer is cut. Tests cut small, so that transactions of many parts stay quick.
const ANSWER_BYTES: usize = if cfg!(test) { 6 << 10 } else { CHANGES_BYTES };

/// Log bytes looked through for one answer: a reader that finds nothing for so long is told how far it got.
const LOOKED_THROUGH_BYTES: usize = 32 << 20;

/// Why reading stops.
enum Stop {
    /// The log was purged where the reader is.
    Purged,
    Failed(ShardError),
}

impl Stop {
    fn of_log(shard: ShardId, error: LogError) -> Stop {
        match error {
            LogError::Purged { .. } => Stop::Purged,
            other => Stop::Failed(other.into_shard_error(shard)),
        }
    }

    fn of_storage(shard: ShardId, error: impl Into<StorageError>) -> Stop {
        Stop::Failed(storage_error(shard, error.into()))
    }
}

/// What the log has behind a cursor; nothing, with the same cursor, if there is nothing new.
pub(crate) fn of_log(core: &Core, cursor: CopyCursor) -> Result<Changes, ShardError> {
    let read = match cursor.part {
        Some(part) => read_part(core, part),
        None => read_log(core, cursor.after),
    };
    match read {
        Ok((entries, next)) => Ok(Changes::Log { entries, next }),
        Err(Stop::Purged) => Ok(Changes::Behind),
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn read_log(core: &Core, after: LogIndex) -> Result<(Vec<CopyEntry>, CopyCursor), Stop> {
    let published = core.published.load_full();
    let end = published.applied;
    let newest = Link::newest(&*published.snapshot).map_err(|e| Stop::of_storage(core.id, e))?;
    let newest = newest.map(|link| link.index).unwrap_or_default();
    if after > end {
        // A position in another history: of a log that was lost and begun anew.
        return Err(Stop::Purged);
    }
    let mut next = CopyCursor { after, part: None };
    let mut entries = Vec::new();
    if newest <= after {
        return Ok((entries, next));
    }
    let start = LogIndex(after.0 + 1).max(core.log.first_index());
    if newest < start {
        return Err(Stop::Purged);
    }
    // Behind a purge, the first link that is left tells whether one before it is gone.
    let mut is_gapless = start.0 == after.0 + 1;
    let (mut n_bytes, mut n_looked_through) = (0, 0);
    for entry in core.log.replay(start..LogIndex(end.0 + 1)) {
        let entry = entry.map_err(|error| Stop::of_log(core.id, error))?;
        n_looked_through += entry.payload.len();
        let decoded = Entry::decode(&entry.payload);
        match decoded.map_err(|error| Stop::of_storage(core.id, error))? {
            Entry::Batch { ops, .. } => {
                if let Some((link, ops)) = linked(ops).map_err(|e| Stop::of_storage(core.id, e))? {
                    check_gap(&link, after, &mut is_gapless)?;
                    n_bytes += take(core, &link, ops, &mut entries)?;
                }
            }
            Entry::Commit { first, .. } => {
                if let Some(link) = link_of_chunks(core, first)? {
                    check_gap(&link, after, &mut is_gapless)?;
                    if entries.is_empty() {
                        let part = CopyPart { first, next: first, commit: entry.index };
                        return read_part(core, part);
                    }
                    break;
                }
            }
            // Its commit record tells what it is.
            Entry::Chunk { .. } => continue,
            Entry::Drop { .. } | Entry::Dropped { .. } => {}
        }
        next.after = entry.index;
        // What was looked through counts as seen, so it must be known that nothing is missing in front of it.
        let is_long = n_bytes >= ANSWER_BYTES || n_looked_through >= LOOKED_THROUGH_BYTES;
        if is_long && is_gapless {
            break;
        }
    }
    Ok((entries, next))
}

/// Refuses the first link behind a purge if a reader that is at `after` has missed the one before it.
fn check_gap(link: &Link, after: LogIndex, is_gapless: &mut bool) -> Result<(), Stop> {
    if !*is_gapless && link.previous > after {
        return Err(Stop::Purged);
    }
    *is_gapless = true;
    Ok(())
}

/// The next chunk of a big transaction that has one for copies.
fn read_part(core: &Core, mut part: CopyPart) -> Result<(Vec<CopyEntry>, CopyCursor), Stop> {
    let corrupt = |what: &str| Stop::of_storage(core.id, StorageError::Corrupt(what.to_owned()));
    let link = link_of_chunks(core, part.first)?;
    let link = link.ok_or_else(|| corrupt("a part of a transaction without reference tables"))?;
    let mut entries = Vec::new();
    let mut n_bytes = 0;
    for entry in core.log.replay(part.next..part.commit) {
        let entry = entry.map_err(|error| Stop::of_log(core.id, error))?;
        let decoded = Entry::decode(&entry.payload);
        let Entry::Chunk { ops } = decoded.map_err(|error| Stop::of_storage(core.id, error))?
        else {
            return Err(corrupt("a transaction has an entry that is no chunk"));
        };
        n_bytes += take(core, &link, ops, &mut entries)?;
        part.next = LogIndex(entry.index.0 + 1);
        if n_bytes >= ANSWER_BYTES {
            break;
        }
    }
    let next = if part.next == part.commit {
        CopyCursor { after: part.commit, part: None }
    } else {
        CopyCursor { after: LogIndex(part.first.0 - 1), part: Some(part) }
    };
    Ok((entries, next))
}

/// The link of a transaction whose chunks begin at `first`.
fn link_of_chunks(core: &Core, first: LogIndex) -> Result<Option<Link>, Stop> {
    let read = core.log.read(first..LogIndex(first.0 + 1), 1);
    let chunk = read.map_err(|error| Stop::of_log(core.id, error))?;
    let corrupt = |what: &str| Stop::of_storage(core.id, StorageError::Corrupt(what.to_owned()));
    let chunk = chunk.first().ok_or_else(|| corrupt("a commit record without its chunks"))?;
    let decoded = Entry::decode(&chunk.payload);
    match decoded.map_err(|error| Stop::of_storage(core.id, error))? {
        Entry::Chunk { ops } => {
            let linked = linked(ops).map_err(|error| Stop::of_storage(core.id, error))?;
            Ok(linked.map(|(link, _)| link))
        }
        _ => Err(corrupt("a commit record names what is no chunk")),
    }
}

/// The link in front of operations, if they have one.
fn linked(mut ops: OpReader) -> Result<Option<(Link, OpReader)>, StorageError> {
    let Some(first) = ops.next().transpose()? else { return Ok(None) };
    Ok(Link::of_op(&first)?.map(|link| (link, ops)))
}

/// Collects what belongs to copies; returns its size.
fn take(
    core: &Core,
    link: &Link,
    ops: OpReader,
    entries: &mut Vec<CopyEntry>,
) -> Result<usize, Stop> {
    let mut n_bytes = 0;
    for op in ops {
        let op = op.map_err(|error| Stop::of_storage(core.id, error))?;
        let keyspace = match op.keyspace {
            Keyspace::Rows => CopyKeyspace::Rows,
            Keyspace::Index => CopyKeyspace::Index,
            Keyspace::Kv | Keyspace::Meta => continue,
        };
        if link.storages.contains(&storage_of(&op.key)) {
            n_bytes += op.key.len() + op.value.as_ref().map_or(0, Bytes::len);
            entries.push(CopyEntry { keyspace, key: op.key, value: op.value });
        }
    }
    Ok(n_bytes)
}

/// A page of everything that the reference tables of a snapshot have.
pub(crate) fn page(
    view: &ReadView,
    start: Option<(CopyKeyspace, Bytes)>,
) -> Result<Changes, StorageError> {
    let snapshot = view.committed();
    let dropping: BTreeSet<StorageId> = dropping(snapshot)?.into_iter().collect();
    let storages: BTreeSet<StorageId> =
        storages(snapshot)?.difference(&dropping).copied().collect();
    let first = storages.first().map(|storage| (CopyKeyspace::Rows, storage_prefix(*storage)));
    let Some((of, from)) =
        start.or(first.map(|(of, prefix)| (of, Bytes::copy_from_slice(&prefix))))
    else {
        return Ok(Changes::Page {
            keyspace: CopyKeyspace::Rows,
            start: Bytes::new(),
            end: Bytes::new(),
            entries: Vec::new(),
            next: None,
            index: view.applied(),
        });
    };
    let storage = storage_of(&from);
    let all = KeyRange::prefix(&storage_prefix(storage));
    let end = all.end.ok_or_else(|| StorageError::Corrupt("storage ids are used up".to_owned()))?;
    let range = KeyRange { start: from.clone(), end: Some(end.clone()) };
    let (mut entries, mut n_bytes) = (Vec::new(), 0);
    for entry in snapshot.range(keyspace(of), range, false) {
        let (key, value) = entry?;
        n_bytes += key.len() + value.len();
        entries.push(CopyEntry { keyspace: of, key, value: Some(value) });
        if n_bytes >= ANSWER_BYTES {
            break;
        }
    }
    if let Some(last) = entries.last().filter(|_| n_bytes >= ANSWER_BYTES) {
        let end = after(&last.key);
        let next = Some((of, end.clone()));
        let index = view.applied();
        return Ok(Changes::Page { keyspace: of, start: from, end, entries, next, index });
    }
    let behind = storages.range((Bound::Excluded(storage), Bound::Unbounded)).next();
    let next = match (behind, of) {
        (Some(storage), of) => Some((of, *storage)),
        (None, CopyKeyspace::Rows) => storages.first().map(|it| (CopyKeyspace::Index, *it)),
        (None, CopyKeyspace::Index) => None,
    };
    let next = next.map(|(of, it)| (of, Bytes::copy_from_slice(&storage_prefix(it))));
    let index = view.applied();
    Ok(Changes::Page { keyspace: of, start: from, end, entries, next, index })
}
