//! Deleting what a move has left behind, piece by piece, through the log.
//!
//! Each piece is one entry: rows with their index entries, which are found from the rows, for entries of range tables do not say
//! which range they belong to. A crash goes on where it was. Nobody writes in these ranges meanwhile: their maps say that they
//! are another shard's, and a move that comes back waits for the end.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use cortex_shard_api::{
    MoveId, ShardError, StorageId, descriptor::Placement, moves::TableRanges, row,
};

use super::{Ranges, Span};
use crate::{
    entry::CHUNK_BYTES,
    maintenance::{Maintenance, Task},
    recovery::dropping,
    scan::is_owned,
    shard::Shard,
    stats::storage_of,
    storage::{KeyRange, Keyspace, StorageError, StorageSnapshot},
    txn::{sequencer::Request, write_set::FinalWrite},
    write::entries,
};

/// Rows of one piece: few enough that commits beside it do not wait. Tests cut small, so that crashes come in between.
const PIECE_ROWS: usize = if cfg!(test) { 20 } else { 2_000 };

/// Answers `drop_ranges`.
pub(crate) async fn drop_ranges(
    shard: &Shard,
    id: MoveId,
    tables: Vec<TableRanges>,
) -> Result<(), ShardError> {
    let core = &shard.core;
    if core.moves.is_ended(id) {
        if !core.moves.is_clean(id) {
            // Whoever asks again may have seen it fail; what is under way is found done.
            let _ = shard.tasks.try_send(Task::CleanRanges(id));
        }
        return Ok(());
    }
    Ranges::new(core.id, &tables)?;
    for part in &tables {
        let table = &part.table;
        // Rows of a newer shape, or entries of a newer index, would not be understood.
        core.fences.check_shape(core.id, table)?;
        let is_ours = match &table.placement {
            Placement::Home(shard) => *shard == core.id,
            Placement::Reference(shards) => shards.contains(&core.id),
            Placement::Hash { .. } | Placement::Range { .. } => false,
        };
        if is_ours {
            let what = format!("ranges of {} that are its own", table.qualified_name());
            return Err(ShardError::Internal { shard: core.id, what });
        }
    }
    let tables = Arc::new(tables);
    shard.ask(|reply| Request::EndMove { id, tables, reply }).await?;
    core.moves.holds.release(id);
    // When the queue is full the next open continues: the list is durable.
    let _ = shard.tasks.try_send(Task::CleanRanges(id));
    Ok(())
}

impl Maintenance {
    /// Deletes the ranges of a move that has ended here.
    pub(crate) fn clean_ranges(&self, id: MoveId) -> Result<(), ShardError> {
        let core = &self.core;
        let Some(tables) = core.moves.ranges_to_drop(id) else { return Ok(()) };
        let ranges = Ranges::new(core.id, &tables)?;
        for span in ranges.spans() {
            let mut start = span.start.clone();
            loop {
                if core.is_stopping.load(Ordering::Acquire) {
                    // The list is durable: the next open continues.
                    return Ok(());
                }
                let snapshot = core.published.load().snapshot.clone();
                let gone = dropping(&*snapshot).map_err(|error| core.storage_error(error))?;
                let piece = self.piece(&*snapshot, span, start, &gone)?;
                if !piece.deletes.is_empty() {
                    let deletes = piece.deletes;
                    self.ask(|reply| Request::CleanRanges { id, deletes, reply })?;
                }
                let Some(next) = piece.next else { break };
                start = next;
            }
        }
        self.ask(|reply| Request::Cleaned { id, reply })?;
        Ok(())
    }

    fn piece(
        &self,
        snapshot: &dyn StorageSnapshot,
        span: &Span,
        start: Bytes,
        gone: &[StorageId],
    ) -> Result<Piece, ShardError> {
        let core = &self.core;
        let failed = |error: StorageError| core.storage_error(error);
        let table = &*span.table;
        if gone.contains(&table.storage) {
            // It goes as a whole.
            return Ok(Piece { deletes: Vec::new(), next: None });
        }
        let (mut deletes, mut n_bytes) = (Vec::new(), 0);
        let range = KeyRange { start, end: Some(span.end.clone()) };
        for (n, entry) in snapshot.range(Keyspace::Rows, range, false).enumerate() {
            let (key, stored) = entry.map_err(failed)?;
            if n >= PIECE_ROWS || n_bytes >= CHUNK_BYTES {
                return Ok(Piece { deletes, next: Some(key) });
            }
            let is_sharded =
                matches!(table.placement, Placement::Hash { .. } | Placement::Range { .. });
            if is_sharded && is_owned(table, &key, core.id) {
                let what = format!("own rows of {} are to be deleted", table.qualified_name());
                return Err(ShardError::Internal { shard: core.id, what });
            }
            // Slices of their blocks would keep the blocks in memory.
            let key = Bytes::copy_from_slice(&key);
            if !table.indexes.is_empty() {
                let row = row::decode(table, stored.get(8..).unwrap_or_default())?;
                for entry in entries(table, &row, &key, false) {
                    let other = snapshot.get(Keyspace::Index, &entry.key).map_err(failed)?;
                    // A unique entry may have become another row's while they moved.
                    if other.as_ref() == Some(&entry.value)
                        && !gone.contains(&storage_of(&entry.key))
                    {
                        n_bytes += entry.key.len();
                        let base = Some((entry.key.len() + entry.value.len()) as u64);
                        let (keyspace, key) = (Keyspace::Index, entry.key);
                        deletes.push(FinalWrite { keyspace, key, value: None, base });
                    }
                }
            }
            n_bytes += key.len();
            let base = Some((key.len() + stored.len()) as u64);
            deletes.push(FinalWrite { keyspace: Keyspace::Rows, key, value: None, base });
        }
        Ok(Piece { deletes, next: None })
    }
}

struct Piece {
    deletes: Vec<FinalWrite>,
    /// Where the next one begins; `None`: this is the range's last.
    next: Option<Bytes>,
}
