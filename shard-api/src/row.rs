//! The stored form of a row. (Bootstrap signatures.) Format: docs/format/rows.md.

use crate::{client::Row, descriptor::TableDescriptor, error::ValueError, value::Datum};

/// Encodes all columns by position: `[version u32][null bitmap][fixed-width columns][offsets][variable part]`.
pub fn encode(_table: &TableDescriptor, _row: &[Datum]) -> Vec<u8> { todo!() }

/// Decodes all columns; those added after the row was written read `missing`.
pub fn decode(_table: &TableDescriptor, _bytes: &[u8]) -> Result<Row, ValueError> { todo!() }

/// Decodes some columns, in the order asked for.
pub fn decode_columns(_table: &TableDescriptor, _bytes: &[u8], _positions: &[usize]) -> Result<Vec<Datum>, ValueError> { todo!() }
