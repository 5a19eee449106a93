//! Memcomparable keys: byte order is SQL order. Format: docs/format/keys.md.
//!
//! Row key: `[storage u32 BE][slot u16 BE, hash tables only][primary key columns | hidden row id u64 BE]`.
//! Range tables whose primary key does not start with the shard key (or that have none) put the shard key's columns
//! before it. Index entry: `[index storage u32 BE][slot, hash tables only][indexed columns][row key without its
//! storage]`, the last part left out of the key (and put into the value) when the index is unique and no indexed
//! column is NULL.
//!
//! Lives here: whole keys, slots and the owners of keys. The bytes of single values are in `key::datum`.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    descriptor::{IndexDescriptor, Placement, RangeMap, SLOTS, TableDescriptor},
    error::{ValueError, ValueErrorKind},
    ids::{ShardId, Slot, StorageId},
    types::SqlType,
    value::Datum,
};

/// The bytes of one value.
mod datum;

/// The bytes of a jsonb value.
mod jsonb;

pub use datum::{datum_len, decode_datum, encode_datum};

/// How a column of a key is ordered. The default is Postgres's: ascending, NULLs last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyOrder {
    pub descending: bool,
    pub nulls_first: bool,
}

/// Bytes of the storage id in front of every key.
const STORAGE_LEN: usize = 4;

/// Bytes of the slot in the keys of hash tables.
const SLOT_LEN: usize = 2;

/// What keys usually take: one allocation for nearly all.
const KEY_CAPACITY: usize = 32;

/// The slot of a shard key: xxh3_64 (seed 0) over the concatenated `encode_datum` of its columns, mod SLOTS. Frozen.
pub fn slot(values: &[(&Datum, SqlType)]) -> Slot {
    let mut bytes = Vec::with_capacity(KEY_CAPACITY);
    for (value, ty) in values {
        encode_datum(&mut bytes, value, *ty, KeyOrder::default());
    }
    slot_of_bytes(&bytes)
}

fn slot_of_bytes(encoded: &[u8]) -> Slot {
    Slot((xxh3_64(encoded) % u64::from(SLOTS)) as u16)
}

/// The full row key of a row. `hidden` is the row id where the table has no primary key.
pub fn row_key(
    table: &TableDescriptor,
    row: &[Datum],
    hidden: Option<u64>,
) -> Result<Bytes, ValueError> {
    let mut key = start_key(table, table.storage, |position| value_at(row, position));
    for position in &table.primary_key {
        let value = value_at(row, *position);
        if matches!(value, Datum::Null) {
            let name = table.columns.get(*position).map_or("", |column| column.name.as_str());
            return Err(ValueError::new(
                ValueErrorKind::NullNotAllowed,
                format!("null value in primary key column \"{name}\""),
            ));
        }
        encode_column(&mut key, table, *position, value);
    }
    if table.primary_key.is_empty() {
        let row_id = hidden.ok_or_else(|| {
            ValueError::new(ValueErrorKind::Internal, "a table without primary key needs a row id")
        })?;
        key.extend_from_slice(&row_id.to_be_bytes());
    }
    Ok(key.into())
}

/// Bytes of a row key before its first column: storage id, and slot in a hash table.
pub fn row_key_header(table: &TableDescriptor) -> usize {
    match &table.placement {
        Placement::Hash { .. } => 6,
        Placement::Home(_) | Placement::Reference(_) | Placement::Range { .. } => 4,
    }
}

/// The row key from primary key values alone, in key order (the shard key is part of the primary key).
pub fn row_key_from_primary_key(table: &TableDescriptor, values: &[Datum]) -> Bytes {
    let mut key = start_key(table, table.storage, |position| {
        let at = table.primary_key.iter().position(|column| *column == position);
        at.and_then(|at| values.get(at)).unwrap_or(&Datum::Null)
    });
    for (position, value) in table.primary_key.iter().zip(values) {
        encode_column(&mut key, table, *position, value);
    }
    key.into()
}

/// The entry of a row in an index: key and value.
pub fn index_entry(
    table: &TableDescriptor,
    index: &IndexDescriptor,
    row: &[Datum],
    row_key: &Bytes,
) -> (Bytes, Bytes) {
    let mut key = Vec::with_capacity(KEY_CAPACITY + row_key.len());
    key.extend_from_slice(&storage_prefix(index.storage));
    let tail = row_key.slice(STORAGE_LEN.min(row_key.len())..);
    if is_hashed(table) {
        key.extend_from_slice(&tail[..SLOT_LEN.min(tail.len())]);
    }
    let mut has_null = false;
    for column in &index.columns {
        let value = value_at(row, column.column);
        has_null |= matches!(value, Datum::Null);
        let order = KeyOrder { descending: column.descending, nulls_first: column.nulls_first };
        if let Some(descriptor) = table.columns.get(column.column) {
            encode_datum(&mut key, value, descriptor.ty.ty, order);
        }
    }
    if index.unique && !has_null {
        return (key.into(), tail);
    }
    key.extend_from_slice(&tail);
    (key.into(), Bytes::new())
}

/// The row key behind an index entry.
pub fn row_key_of_entry(
    table: &TableDescriptor,
    index: &IndexDescriptor,
    key: &[u8],
    value: &[u8],
) -> Result<Bytes, ValueError> {
    let tail = if value.is_empty() {
        let mut at = STORAGE_LEN + if is_hashed(table) { SLOT_LEN } else { 0 };
        for column in &index.columns {
            let order = KeyOrder { descending: column.descending, nulls_first: column.nulls_first };
            let descriptor = table.columns.get(column.column).ok_or_else(malformed)?;
            let rest = key.get(at..).ok_or_else(malformed)?;
            at += datum_len(rest, descriptor.ty.ty, order)?;
        }
        key.get(at..).filter(|tail| !tail.is_empty()).ok_or_else(malformed)?
    } else {
        value
    };
    let mut row_key = Vec::with_capacity(STORAGE_LEN + tail.len());
    row_key.extend_from_slice(&storage_prefix(table.storage));
    row_key.extend_from_slice(tail);
    Ok(row_key.into())
}

/// `[storage]`: all keys of a storage id.
pub fn storage_prefix(storage: StorageId) -> [u8; 4] {
    storage.0.to_be_bytes()
}

/// `[storage][slot]`: all keys of one slot of a hash table or of an index of it.
pub fn slot_prefix(storage: StorageId, slot: Slot) -> [u8; 6] {
    let mut prefix = [0; STORAGE_LEN + SLOT_LEN];
    prefix[..STORAGE_LEN].copy_from_slice(&storage.0.to_be_bytes());
    prefix[STORAGE_LEN..].copy_from_slice(&slot.0.to_be_bytes());
    prefix
}

/// The least key above every key with this prefix; `None` for all 0xff.
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// The shard that owns a row of the table, by its full row values. Reference tables: the primary copy.
pub fn shard_of_row(table: &TableDescriptor, row: &[Datum]) -> ShardId {
    match &table.placement {
        Placement::Home(_) | Placement::Reference(_) => unsharded_owner(table),
        Placement::Hash { key, map } => {
            let encoded = encode_columns(table, key, |position| value_at(row, position));
            owner_of_slot(&map.owner, slot_of_bytes(&encoded))
        }
        Placement::Range { key, map } => {
            let encoded = encode_columns(table, key, |position| value_at(row, position));
            owner_of_range(map, &encoded)
        }
    }
}

/// The shard that owns a row key.
pub fn shard_of_key(table: &TableDescriptor, key: &[u8]) -> ShardId {
    let tail = key.get(STORAGE_LEN..).unwrap_or_default();
    match &table.placement {
        Placement::Home(_) | Placement::Reference(_) => unsharded_owner(table),
        Placement::Hash { map, .. } => {
            let slot = tail.first_chunk::<SLOT_LEN>().map_or(0, |slot| u16::from_be_bytes(*slot));
            owner_of_slot(&map.owner, Slot(slot))
        }
        Placement::Range { map, .. } => owner_of_range(map, tail),
    }
}

/// The slot in a key of a hash table (or of an index of it).
pub fn slot_of_key(key: &[u8]) -> Option<Slot> {
    let slot = key.get(STORAGE_LEN..)?.first_chunk::<SLOT_LEN>()?;
    Some(Slot(u16::from_be_bytes(*slot)))
}

/// Whether the shard key's columns stand before the primary key in row keys.
pub fn has_shard_key_prefix(table: &TableDescriptor) -> bool {
    matches!(&table.placement, Placement::Range { key, .. } if !table.primary_key.starts_with(key))
}

/// The range that holds keys beginning with these encoded shard key columns: its position in the map.
pub fn range_of(map: &RangeMap, encoded: &[u8]) -> usize {
    map.splits.partition_point(|split| split.as_slice() <= encoded)
}

fn owner_of_range(map: &RangeMap, encoded: &[u8]) -> ShardId {
    map.owner.get(range_of(map, encoded)).copied().unwrap_or(ShardId::HOME)
}

fn owner_of_slot(owners: &[ShardId], slot: Slot) -> ShardId {
    owners.get(usize::from(slot.0)).copied().unwrap_or(ShardId::HOME)
}

fn unsharded_owner(table: &TableDescriptor) -> ShardId {
    match &table.placement {
        Placement::Home(shard) => *shard,
        Placement::Reference(shards) => shards.first().copied().unwrap_or(ShardId::HOME),
        Placement::Hash { .. } | Placement::Range { .. } => ShardId::HOME,
    }
}

fn is_hashed(table: &TableDescriptor) -> bool {
    matches!(table.placement, Placement::Hash { .. })
}

/// The part of a key in front of the primary key.
fn start_key<'a>(
    table: &TableDescriptor,
    storage: StorageId,
    value: impl Fn(usize) -> &'a Datum,
) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEY_CAPACITY);
    key.extend_from_slice(&storage_prefix(storage));
    match &table.placement {
        Placement::Home(_) | Placement::Reference(_) => {}
        Placement::Hash { key: columns, .. } => {
            let slot = slot_of_bytes(&encode_columns(table, columns, value));
            key.extend_from_slice(&slot.0.to_be_bytes());
        }
        Placement::Range { key: columns, .. } => {
            if has_shard_key_prefix(table) {
                key.extend_from_slice(&encode_columns(table, columns, value));
            }
        }
    }
    key
}

fn encode_columns<'a>(
    table: &TableDescriptor,
    columns: &[usize],
    value: impl Fn(usize) -> &'a Datum,
) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(KEY_CAPACITY);
    for position in columns {
        encode_column(&mut encoded, table, *position, value(*position));
    }
    encoded
}

fn encode_column(out: &mut Vec<u8>, table: &TableDescriptor, position: usize, value: &Datum) {
    if let Some(column) = table.columns.get(position) {
        encode_datum(out, value, column.ty.ty, KeyOrder::default());
    }
}

/// Rows may be shorter than the table is now: columns added since are NULL until the caller fills them in.
fn value_at(row: &[Datum], position: usize) -> &Datum {
    row.get(position).unwrap_or(&Datum::Null)
}

fn malformed() -> ValueError {
    ValueError::new(ValueErrorKind::Internal, "malformed key")
}

#[cfg(test)]
mod tests;
