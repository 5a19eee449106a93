//! The target of a move: rows come as they are on the source, their index entries are made here.
//!
//! A request is one transaction with the position it reaches, so a crash leaves all of it or nothing, and repeating it changes
//! nothing. While a move is under way the rows are those of some moment of the source only now and then: a chunk of a big
//! transaction, or old rows that a page has not reached yet, may give a unique index two rows for one entry. So an entry belongs
//! to the row that came last, and a row that goes takes only its own with it. Two rows in one request are an error; what
//! remains in the end is found by `checksum`.

use std::collections::BTreeMap;

use bytes::Bytes;
use cortex_shard_api::{
    ShardError, TableDescriptor,
    client::Row,
    moves::{ApplyMoving, MovedRow},
    row,
};
use tokio::sync::oneshot;

use super::{Place, Ranges, Span, Step};
use crate::{
    shard::Shard,
    storage::{KeyRange, Keyspace, StorageError, StorageSnapshot},
    txn::{
        Txn,
        sequencer::{Core, Request, storage_error},
    },
    write::{IndexEntry, entries},
};

/// Answers `apply_moving`.
pub(crate) async fn apply(shard: &Shard, request: ApplyMoving) -> Result<(), ShardError> {
    let core = shard.core.clone();
    let step = Step { id: request.id, from: request.from.clone(), to: request.to.clone() };
    if !core.moves.is_next(&step)? {
        return Ok(());
    }
    let ranges = Ranges::new(core.id, &request.tables)?;
    if core.moves.is_being_cleaned(&ranges) {
        let reason = "what was in the ranges before is still being deleted".to_owned();
        return Err(ShardError::Conflict { reason });
    }
    let txn = shard.own_transaction();
    for part in &request.tables {
        // What becomes the primary copy is followed from its first row on.
        shard.note_copied(&txn, &part.table)?;
    }
    {
        let mut state = txn.state.lock();
        for part in &request.tables {
            let table = &part.table;
            // Also keeps out a coordinator that does not know that the move is over: its maps are older than the fence.
            core.fences.check_now(core.id, table)?;
            shard.check_dropped(table)?;
            state.note_used(table);
        }
        state.moving = Some(step);
    }
    let (built, to_build) = (txn.clone(), core.clone());
    let build = move || build(&to_build, &built, &ranges, request);
    tokio::task::spawn_blocking(build).await.map_err(|_| shard.stopped())??;
    let (reply, answer) = oneshot::channel();
    let request = Request::Commit { txn, reply };
    shard.requests.send(request).await.map_err(|_closed| shard.stopped())?;
    answer.await.map_err(|_closed| ShardError::OutcomeUnknown { shard: core.id })??;
    Ok(())
}

impl super::Moves {
    /// Whether a step is to be made: false if it was, an error if it cannot.
    pub(crate) fn is_next(&self, step: &Step) -> Result<bool, ShardError> {
        let known = self.known.lock();
        if known.ended.contains(&step.id) {
            let reason = format!("the end of move {} on this shard", step.id);
            return Err(ShardError::Conflict { reason });
        }
        match step.place(known.positions.get(&step.id)) {
            Place::Before => Ok(true),
            Place::Behind => Ok(false),
            Place::Elsewhere => {
                let reason = format!("move {} being at another place", step.id);
                Err(ShardError::Conflict { reason })
            }
        }
    }
}

/// Writes the request's rows into the transaction. Nobody else writes in the ranges, so the published state is what they replace.
fn build(core: &Core, txn: &Txn, ranges: &Ranges, request: ApplyMoving) -> Result<(), ShardError> {
    let refuse = |what: &str| ShardError::Internal { shard: core.id, what: what.to_owned() };
    let failed = |error: StorageError| storage_error(core.id, error);
    let published = core.published.load_full();
    let snapshot = &*published.snapshot;
    let mut build = Build { core, txn, snapshot, removed: Vec::new(), added: BTreeMap::new() };
    match request.page {
        Some((start, end)) => {
            let span = ranges.find(&start).filter(|span| end <= span.end && start < end);
            let span = match span {
                Some(span) => span,
                // The one page of a move without ranges.
                None if start == end && request.rows.is_empty() => return build.finish(),
                None => return Err(refuse("a page is not in one range")),
            };
            let is_ascending = request.rows.windows(2).all(|pair| pair[0].key < pair[1].key);
            let is_inside = |row: &MovedRow| row.key >= start && row.key < end;
            if !is_ascending || !request.rows.iter().all(is_inside) {
                return Err(refuse("the rows of a page are not in its range and order"));
            }
            let range = KeyRange { start, end: Some(end) };
            let mut rows = request.rows.into_iter().peekable();
            for entry in snapshot.range(Keyspace::Rows, range, false) {
                let (key, old) = entry.map_err(failed)?;
                while let Some(row) = rows.next_if(|row| row.key < key) {
                    build.put(span, row, None)?;
                }
                let same = rows.next_if(|row| row.key == key);
                let row = same.unwrap_or(MovedRow { key, value: None });
                build.put(span, row, Some(old))?;
            }
            for row in rows {
                build.put(span, row, None)?;
            }
        }
        None => {
            let last: BTreeMap<Bytes, Option<Bytes>> =
                request.rows.into_iter().map(|row| (row.key, row.value)).collect();
            for (key, value) in last {
                let Some(span) = ranges.find(&key) else {
                    return Err(refuse("a row is not in the moving ranges"));
                };
                let old = snapshot.get(Keyspace::Rows, &key).map_err(failed)?;
                build.put(span, MovedRow { key, value }, old)?;
            }
        }
    }
    build.finish()
}

struct Build<'a> {
    core: &'a Core,
    txn: &'a Txn,
    snapshot: &'a dyn StorageSnapshot,
    removed: Vec<IndexEntry>,
    added: BTreeMap<Bytes, Bytes>,
}

impl Build<'_> {
    fn failed(&self, error: StorageError) -> ShardError {
        storage_error(self.core.id, error)
    }

    /// Replaces what is stored under the row's key.
    fn put(&mut self, span: &Span, row: MovedRow, old: Option<Bytes>) -> Result<(), ShardError> {
        let MovedRow { key, value } = row;
        let old_row = old.as_ref().and_then(|old| old.get(8..));
        let table = &*span.table;
        if old_row == value.as_deref() {
            // Its entries may be missing: it came before an index did, or what is read again of the log gave them away.
            if !table.indexes.is_empty()
                && let Some(value) = old_row
            {
                let row = row::decode(table, value)?;
                self.index(table, &key, None, Some(row))?;
            }
            return Ok(());
        }
        if let Some(value) = &value
            && row::version_of(value)? > table.version
        {
            let current = u64::from(table.version) + 1;
            return Err(ShardError::StaleEpoch { shard: self.core.id, current });
        }
        if !table.indexes.is_empty() {
            let decode =
                |value: &[u8]| -> Result<Row, ShardError> { Ok(row::decode(table, value)?) };
            let old = old_row.map(decode).transpose()?;
            let new = value.as_deref().map(decode).transpose()?;
            self.index(table, &key, old, new)?;
        }
        let committed = old.as_ref().map(|old| (key.len() + old.len()) as u64);
        let put = self.txn.writes.write().put(Keyspace::Rows, key, value, 0, committed);
        put.map_err(|error| self.failed(error))
    }

    fn index(
        &mut self,
        table: &TableDescriptor,
        key: &Bytes,
        old: Option<Row>,
        new: Option<Row>,
    ) -> Result<(), ShardError> {
        let removed = old.map_or_else(Vec::new, |row| entries(table, &row, key, false));
        let added = new.map_or_else(Vec::new, |row| entries(table, &row, key, true));
        for entry in &added {
            let other = self.added.insert(entry.key.clone(), entry.value.clone());
            if other.is_some() {
                let name = table.indexes.get(entry.index).map_or("", |index| &index.name);
                let what = format!("two moving rows have the same key in unique index {name}");
                return Err(ShardError::Corrupt { shard: self.core.id, what });
            }
        }
        self.removed.extend(removed);
        Ok(())
    }

    /// Writes the index entries: all that go, then all that come.
    fn finish(mut self) -> Result<(), ShardError> {
        let size = |key: &Bytes, value: &Bytes| (key.len() + value.len()) as u64;
        let mut writes = self.txn.writes.write();
        for entry in std::mem::take(&mut self.removed) {
            if self.added.contains_key(&entry.key) {
                continue;
            }
            let stored = self.snapshot.get(Keyspace::Index, &entry.key);
            let stored = stored.map_err(|error| self.failed(error))?;
            // One that another row has now stays.
            if stored.as_ref() == Some(&entry.value) {
                let committed = Some(size(&entry.key, &entry.value));
                let put = writes.put(Keyspace::Index, entry.key, None, 0, committed);
                put.map_err(|error| self.failed(error))?;
            }
        }
        for (key, value) in std::mem::take(&mut self.added) {
            let stored = self.snapshot.get(Keyspace::Index, &key);
            let stored = stored.map_err(|error| self.failed(error))?;
            if stored.as_ref() == Some(&value) {
                continue;
            }
            let committed = stored.as_ref().map(|stored| size(&key, stored));
            let put = writes.put(Keyspace::Index, key, Some(value), 0, committed);
            put.map_err(|error| self.failed(error))?;
        }
        writes.maybe_spill().map_err(|error| self.failed(error))
    }
}
