//! Comparing both sides of a move: rows counted and summed up, index entries checked against them.

use bytes::Bytes;
use cortex_shard_api::{
    ShardError, TableDescriptor,
    client::RequestContext,
    descriptor::{IndexDescriptor, IndexState, Placement},
    key::{self, prefix_end},
    moves::{RangeChecksum, TableRanges},
    row,
};
use xxhash_rust::xxh3::Xxh3;

use super::{Ranges, Span};
use crate::{
    shard::Shard,
    storage::{KeyRange, StorageError},
    txn::{
        sequencer::{Core, storage_error},
        snapshot::ReadView,
    },
    write::entries,
};

/// Storage id, at the beginning of each key.
const STORAGE_LEN: usize = 4;

/// Storage id and slot: what the keys of rows and of index entries of a hash table have in common.
const SLOT_PREFIX_LEN: usize = 6;

/// Answers `checksum_ranges`.
pub(crate) async fn checksum(
    shard: &Shard,
    context: &RequestContext,
    tables: Vec<TableRanges>,
) -> Result<Vec<RangeChecksum>, ShardError> {
    let view = shard.view(context)?;
    let core = shard.core.clone();
    let check = move || {
        let of = |part: TableRanges| {
            let ranges = Ranges::new(core.id, std::slice::from_ref(&part))?;
            of_table(&core, &view, &part.table, &ranges)
        };
        tables.into_iter().map(of).collect()
    };
    tokio::task::spawn_blocking(check).await.map_err(|_| shard.stopped())?
}

fn of_table(
    core: &Core,
    view: &ReadView,
    table: &TableDescriptor,
    ranges: &Ranges,
) -> Result<RangeChecksum, ShardError> {
    let failed = |error: StorageError| storage_error(core.id, error);
    let mut sum = RangeChecksum::default();
    let mut expected = vec![0_u64; table.indexes.len()];
    for span in ranges.spans() {
        let range = KeyRange { start: span.start.clone(), end: Some(span.end.clone()) };
        for stored in view.rows(range, false) {
            let stored = stored.map_err(failed)?;
            sum.rows += 1;
            // A reference table has another storage on each side.
            let key = stored.key.get(STORAGE_LEN..).unwrap_or_default();
            sum.checksum = sum.checksum.wrapping_add(hash(key, &stored.value));
            if table.indexes.is_empty() {
                continue;
            }
            let row = row::decode(table, &stored.value)?;
            for entry in entries(table, &row, &stored.key, true) {
                if view.index_entry(&entry.key).map_err(failed)?.as_ref() != Some(&entry.value) {
                    return Err(differs(core, table, entry.index, "lacks an entry of a row"));
                }
                expected[entry.index] += 1;
            }
        }
    }
    for (position, index) in table.indexes.iter().enumerate() {
        // Keys are distinct and all that rows need are there: if there are as many, there are no others.
        if index.state != IndexState::DeleteOnly
            && count(core, view, table, index, ranges)? != expected[position]
        {
            return Err(differs(core, table, position, "has an entry without a row"));
        }
    }
    Ok(sum)
}

fn hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update(value);
    hash.digest()
}

fn differs(core: &Core, table: &TableDescriptor, index: usize, what: &str) -> ShardError {
    let name = table.indexes.get(index).map_or("", |index| &index.name);
    let what = format!("index {name} of table {} {what}", table.qualified_name());
    ShardError::Corrupt { shard: core.id, what }
}

/// Entries whose rows are in the ranges.
fn count(
    core: &Core,
    view: &ReadView,
    table: &TableDescriptor,
    index: &IndexDescriptor,
    ranges: &Ranges,
) -> Result<u64, ShardError> {
    let storage = key::storage_prefix(index.storage);
    let all = || vec![KeyRange::prefix(&storage)];
    let searched = match table.placement {
        Placement::Hash { .. } => {
            // Entries carry the slot: those of other slots need not be looked at.
            let of = |span: &Span| {
                let start = span.start.get(4..SLOT_PREFIX_LEN)?;
                let start = Bytes::from([&storage[..], start].concat());
                let end = span.end.get(4..SLOT_PREFIX_LEN).map(|end| [&storage[..], end].concat());
                let is_whole = span.end.len() == SLOT_PREFIX_LEN;
                let end = match end {
                    Some(end) if is_whole => Some(Bytes::from(end)),
                    Some(end) => prefix_end(&end),
                    None => prefix_end(&storage),
                };
                Some(KeyRange { start, end })
            };
            let of_slots: Option<Vec<KeyRange>> = ranges.spans().iter().map(of).collect();
            // Parts of one slot would be counted twice.
            let of_slots = of_slots.filter(|ranges| {
                ranges.windows(2).all(|pair| pair[0].end.as_ref() <= Some(&pair[1].start))
            });
            of_slots.unwrap_or_else(all)
        }
        Placement::Home(_) | Placement::Range { .. } | Placement::Reference(_) => all(),
    };
    let mut n_entries = 0;
    for range in searched {
        for entry in view.index_entries(range, false) {
            let entry = entry.map_err(|error| storage_error(core.id, error))?;
            let row_key = key::row_key_of_entry(table, index, &entry.key, &entry.value)?;
            n_entries += u64::from(ranges.contains(&row_key));
        }
    }
    Ok(n_entries)
}
