//! The source of a move: pages of a snapshot, then what the log says about the moving rows.
//!
//! What is read is durable and applied, so a target is never ahead of its source, whatever crashes.

use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, ShardError,
    client::{Key, RequestContext},
    copies::{CHANGES_BYTES, CopyCursor, CopyPart},
    moves::{MovedRow, MovingFrom, MovingRequest, MovingRows},
};

use super::{Ranges, is_cleaning};
use crate::{
    entry::{Entry, OpReader},
    log::LogError,
    shard::Shard,
    storage::{KeyRange, Keyspace, StorageError, after},
    txn::{
        sequencer::{Core, storage_error},
        snapshot::ReadView,
    },
};

/// Where an answer is cut. Tests cut small, so that transactions of many parts stay quick.
const ANSWER_BYTES: usize = if cfg!(test) { 1 << 10 } else { CHANGES_BYTES };

/// Log bytes looked through for one answer: a reader that finds nothing for so long is told how far it got.
const LOOKED_THROUGH_BYTES: usize = 32 << 20;

/// What an entry of the log takes when none was looked at.
const ENTRY_BYTES_GUESS: u64 = 256;

/// Answers `read_moving`.
pub(crate) async fn read(shard: &Shard, request: MovingRequest) -> Result<MovingRows, ShardError> {
    let MovingRequest { id, tables, from } = request;
    let core = shard.core.clone();
    let ranges = Ranges::new(core.id, &tables)?;
    let answer = match from {
        MovingFrom::Snapshot { snapshot, start } => {
            let context = RequestContext { snapshot: Some(snapshot), ..RequestContext::default() };
            let view = shard.view(&context)?;
            core.moves.lease_snapshot(id, view.applied());
            let read = move || {
                let page = page(&view, &ranges, start);
                page.map_err(|error| storage_error(core.id, error))
            };
            tokio::task::spawn_blocking(read).await
        }
        MovingFrom::Log { cursor, wait } => {
            let needed = cursor.part.map_or(cursor.after, |part| LogIndex(part.first.0 - 1));
            core.moves.lease(id, needed.min(cursor.after));
            if cursor.part.is_none() {
                let mut applied = core.applied.subscribe();
                let newer = applied.wait_for(|applied| *applied > cursor.after);
                // Time is up: the answer says that there is nothing.
                let _ = tokio::time::timeout(wait, newer).await;
            }
            tokio::task::spawn_blocking(move || of_log(&core, &ranges, cursor)).await
        }
    };
    answer.map_err(|_| shard.stopped())?
}

/// A row as it travels; the stored value has its version in front.
fn moved(key: Bytes, stored: Option<Bytes>) -> Result<MovedRow, StorageError> {
    let value = match stored {
        Some(stored) if stored.len() < 8 => {
            return Err(StorageError::Corrupt("a stored row is shorter than its index".to_owned()));
        }
        Some(stored) => Some(stored.slice(8..)),
        None => None,
    };
    Ok(MovedRow { key, value })
}

fn page(view: &ReadView, ranges: &Ranges, start: Option<Key>) -> Result<MovingRows, StorageError> {
    let from = start.unwrap_or_default();
    let mut spans = ranges.from(&from);
    let index = view.applied();
    let Some(span) = spans.next() else {
        let (start, end) = (from.clone(), from.clone());
        return Ok(MovingRows::Page { start, end, rows: Vec::new(), next: None, index });
    };
    let start = from.clone().max(span.start.clone());
    let range = KeyRange { start: start.clone(), end: Some(span.end.clone()) };
    let (mut rows, mut n_bytes) = (Vec::new(), 0);
    for entry in view.committed().range(Keyspace::Rows, range, false) {
        let (key, value) = entry?;
        n_bytes += key.len() + value.len();
        rows.push(moved(key, Some(value))?);
        if n_bytes >= ANSWER_BYTES {
            break;
        }
    }
    if let Some(last) = rows.last().filter(|_| n_bytes >= ANSWER_BYTES) {
        let end = after(&last.key).min(span.end.clone());
        let rest = if end < span.end { Some(end.clone()) } else { None };
        let next = rest.or_else(|| spans.next().map(|span| span.start.clone()));
        return Ok(MovingRows::Page { start, end, rows, next, index });
    }
    let next = spans.next().map(|span| span.start.clone());
    Ok(MovingRows::Page { start, end: span.end.clone(), rows, next, index })
}

/// Why reading the log stops.
enum Stop {
    /// It was purged where the reader is.
    Purged,
    Failed(ShardError),
}

struct LogReader<'a> {
    core: &'a Core,
    ranges: &'a Ranges,
    rows: Vec<MovedRow>,
    /// Of the rows found.
    n_bytes: usize,
    n_looked_through: usize,
    n_entries: u64,
}

fn of_log(core: &Core, ranges: &Ranges, cursor: CopyCursor) -> Result<MovingRows, ShardError> {
    let applied = core.published.load().applied;
    let mut reader =
        LogReader { core, ranges, rows: Vec::new(), n_bytes: 0, n_looked_through: 0, n_entries: 0 };
    let read = match cursor.part {
        Some(part) => reader.read_part(part),
        None => reader.read_log(cursor.after, applied),
    };
    match read {
        Ok(next) => {
            let at = next.part.map_or(next.after, |part| LogIndex(part.next.0 - 1));
            let behind_bytes = reader.guess_behind(applied.0.saturating_sub(at.0));
            Ok(MovingRows::Log { rows: reader.rows, next, behind_bytes })
        }
        Err(Stop::Purged) => Ok(MovingRows::Behind),
        Err(Stop::Failed(error)) => Err(error),
    }
}

impl LogReader<'_> {
    /// Bytes of so many entries, if they are like those looked at.
    fn guess_behind(&self, n_entries: u64) -> u64 {
        let average = match self.n_entries {
            0 => ENTRY_BYTES_GUESS,
            n => (self.n_looked_through as u64).div_ceil(n).max(1),
        };
        n_entries.saturating_mul(average)
    }

    fn stop(&self, error: LogError) -> Stop {
        match error {
            LogError::Purged { .. } => Stop::Purged,
            other => Stop::Failed(other.into_shard_error(self.core.id)),
        }
    }

    fn corrupt(&self, error: impl Into<StorageError>) -> Stop {
        Stop::Failed(storage_error(self.core.id, error.into()))
    }

    fn is_full(&self) -> bool {
        self.n_bytes >= ANSWER_BYTES || self.n_looked_through >= LOOKED_THROUGH_BYTES
    }

    fn read_log(&mut self, after: LogIndex, applied: LogIndex) -> Result<CopyCursor, Stop> {
        // Behind the end is a position in another history: of a log that was lost and begun anew.
        if after > applied || self.core.log.first_index().0 > after.0 + 1 {
            return Err(Stop::Purged);
        }
        let mut next = CopyCursor { after, part: None };
        let log = self.core.log.clone();
        for entry in log.replay(LogIndex(after.0 + 1)..LogIndex(applied.0 + 1)) {
            let entry = entry.map_err(|error| self.stop(error))?;
            match Entry::decode(&entry.payload).map_err(|error| self.corrupt(error))? {
                Entry::Batch { ops, .. } => self.take(ops)?,
                Entry::Commit { first, .. } => {
                    let part = CopyPart { first, next: first, commit: entry.index };
                    if self.rows.is_empty() {
                        return self.read_part(part);
                    }
                    return Ok(CopyCursor { after: LogIndex(first.0 - 1), part: None });
                }
                // Its commit record tells whether it counts.
                Entry::Chunk { .. } => continue,
                Entry::Drop { .. } | Entry::Dropped { .. } => {}
            }
            self.n_looked_through += entry.payload.len();
            self.n_entries += 1;
            next.after = entry.index;
            if self.is_full() {
                break;
            }
        }
        Ok(next)
    }

    /// The next chunks of a big transaction.
    fn read_part(&mut self, mut part: CopyPart) -> Result<CopyCursor, Stop> {
        let is_sane = part.first <= part.next && part.next <= part.commit && part.first.0 > 0;
        if !is_sane {
            return Err(Stop::Purged);
        }
        let log = self.core.log.clone();
        for entry in log.replay(part.next..part.commit) {
            let entry = entry.map_err(|error| self.stop(error))?;
            let decoded = Entry::decode(&entry.payload).map_err(|error| self.corrupt(error))?;
            let Entry::Chunk { ops } = decoded else {
                let what = "a transaction has an entry that is no chunk".to_owned();
                return Err(self.corrupt(StorageError::Corrupt(what)));
            };
            self.take(ops)?;
            self.n_looked_through += entry.payload.len();
            self.n_entries += 1;
            part.next = LogIndex(entry.index.0 + 1);
            if self.is_full() {
                break;
            }
        }
        if part.next == part.commit {
            return Ok(CopyCursor { after: part.commit, part: None });
        }
        Ok(CopyCursor { after: LogIndex(part.first.0 - 1), part: Some(part) })
    }

    /// Collects the moving rows of a batch or chunk.
    fn take(&mut self, ops: OpReader) -> Result<(), Stop> {
        for (n, op) in ops.enumerate() {
            let op = op.map_err(|error| self.corrupt(error))?;
            if n == 0 && is_cleaning(&op) {
                return Ok(());
            }
            if op.keyspace == Keyspace::Rows && self.ranges.contains(&op.key) {
                self.n_bytes += op.key.len() + op.value.as_ref().map_or(0, Bytes::len);
                let row = moved(op.key, op.value).map_err(|error| self.corrupt(error))?;
                self.rows.push(row);
            }
        }
        Ok(())
    }
}
