//! Memcomparable keys: byte order is SQL order. (Bootstrap signatures.) Format: docs/format/keys.md.
//!
//! Row key: `[storage u32 BE][slot u16 BE, hash tables only][primary key columns | hidden row id u64 BE]`.
//! Range tables whose primary key does not start with the shard key (or that have none) put the shard key's columns before it.
//! Index entry: `[index storage u32 BE][slot, hash tables only][indexed columns][row key without its storage]`, the last part
//! left out of the key (and put into the value) when the index is unique and no indexed column is NULL.

use bytes::Bytes;

use crate::{descriptor::{IndexDescriptor, TableDescriptor}, error::ValueError, ids::{ShardId, Slot, StorageId}, types::SqlType, value::Datum};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyOrder { pub descending: bool, pub nulls_first: bool }

/// Appends one value. Self-delimiting; NULL sorts as `order` says (last by default). Strings in C order; bpchar without
/// trailing blanks; numeric by value; -0 = 0, NaN highest.
pub fn encode_datum(_out: &mut Vec<u8>, _value: &Datum, _ty: SqlType, _order: KeyOrder) { todo!() }

/// Decodes one value and returns how many bytes it took.
pub fn decode_datum(_bytes: &[u8], _ty: SqlType, _order: KeyOrder) -> Result<(Datum, usize), ValueError> { todo!() }

/// The slot of a shard key: xxh3_64 (seed 0) over the concatenated `encode_datum` of its columns, mod SLOTS. Frozen.
pub fn slot(_values: &[(&Datum, SqlType)]) -> Slot { todo!() }

/// The full row key of a row. `hidden` is the row id where the table has no primary key.
pub fn row_key(_table: &TableDescriptor, _row: &[Datum], _hidden: Option<u64>) -> Result<Bytes, ValueError> { todo!() }

/// The row key from primary key values alone, in key order (the shard key is part of the primary key).
pub fn row_key_from_primary_key(_table: &TableDescriptor, _values: &[Datum]) -> Bytes { todo!() }

/// The entry of a row in an index: key and value.
pub fn index_entry(_table: &TableDescriptor, _index: &IndexDescriptor, _row: &[Datum], _row_key: &Bytes) -> (Bytes, Bytes) { todo!() }

/// The row key behind an index entry.
pub fn row_key_of_entry(_table: &TableDescriptor, _index: &IndexDescriptor, _key: &[u8], _value: &[u8]) -> Result<Bytes, ValueError> { todo!() }

/// `[storage]`: all keys of a storage id.
pub fn storage_prefix(_storage: StorageId) -> [u8; 4] { todo!() }

/// The least key above every key with this prefix; `None` for all 0xff.
pub fn prefix_end(_prefix: &[u8]) -> Option<Bytes> { todo!() }

/// The shard that owns a row of the table, by its full row values. Reference tables: the primary copy.
pub fn shard_of_row(_table: &TableDescriptor, _row: &[Datum]) -> ShardId { todo!() }

/// The shard that owns a row key.
pub fn shard_of_key(_table: &TableDescriptor, _key: &[u8]) -> ShardId { todo!() }
