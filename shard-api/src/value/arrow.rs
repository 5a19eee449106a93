//! Values to and from Arrow columns. (Bootstrap signatures.)
//!
//! | SQL | Arrow |
//! |---|---|
//! | bool, int2, int4, int8, float4, float8 | Boolean, Int16, Int32, Int64, Float32, Float64 |
//! | numeric | Binary: `Numeric::to_sortable` |
//! | text, varchar, bpchar, name, "char", json, jsonb, unknown, record | Utf8 |
//! | bytea | Binary |
//! | date, time, timestamp, timestamptz | Date32, Time64(us), Timestamp(us), Timestamp(us, "UTC") |
//! | interval | IntervalMonthDayNano (nanoseconds a multiple of 1000) |
//! | uuid | FixedSizeBinary(16) |
//! | oid and reg* | UInt32 |
//! | void | Null |
//! | arrays | List of the element, field name "item", nullable |

use arrow::{array::{Array, ArrayRef}, datatypes::{DataType, Field}, record_batch::RecordBatch};
use bytes::Bytes;

use super::Datum;
use crate::{error::ValueError, ids::LogIndex, types::{SqlType, TypeMod}, TableDescriptor};

pub fn arrow_type(_ty: SqlType) -> DataType { todo!() }

/// A field whose metadata carries the SQL type: `cortex.type` = OID, `cortex.typmod`.
pub fn field(_name: &str, _ty: TypeMod, _nullable: bool) -> Field { todo!() }

/// The SQL type of a field made by `field`; for others the nearest one (Int64 → int8, Utf8 → text).
pub fn field_type(_field: &Field) -> TypeMod { todo!() }

/// Reads one value of a column that holds `ty`.
pub fn datum_at(_array: &dyn Array, _row: usize, _ty: SqlType) -> Result<Datum, ValueError> { todo!() }

/// Makes a column from values of one type (`Null`s allowed).
pub fn array_from_datums(_ty: SqlType, _values: &[Datum]) -> Result<ArrayRef, ValueError> { todo!() }

/// Decodes stored rows straight into columns, for scans.
pub struct RowBatchBuilder {}

impl RowBatchBuilder {
    /// `columns` are positions in the table; with identity two columns follow: `cortex_key` Binary, `cortex_version` UInt64.
    pub fn new(_table: &TableDescriptor, _columns: &[usize], _with_identity: bool, _capacity: usize) -> Self { todo!() }
    pub fn schema(&self) -> arrow::datatypes::SchemaRef { todo!() }
    pub fn push(&mut self, _key: &Bytes, _version: LogIndex, _value: &[u8]) -> Result<(), ValueError> { todo!() }
    pub fn len(&self) -> usize { todo!() }
    /// Yields the rows pushed so far and starts anew.
    pub fn finish(&mut self) -> RecordBatch { todo!() }
}
