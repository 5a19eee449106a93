//! Rows of a batch as values, for writes that read their rows through a query.

use arrow::{
    array::{Array, BinaryArray, UInt64Array},
    record_batch::RecordBatch,
};
use cortex_shard_api::{
    LogIndex, SqlType,
    client::{Key, Row},
    value::arrow::datum_at,
};

use crate::error::PgError;

/// A batch with the SQL types of its columns.
pub(super) struct BatchRows<'a> {
    batch: &'a RecordBatch,
    types: &'a [SqlType],
}

impl<'a> BatchRows<'a> {
    pub fn new(batch: &'a RecordBatch, types: &'a [SqlType]) -> Self {
        BatchRows { batch, types }
    }

    /// All columns of a row.
    pub fn row(&self, index: usize) -> Result<Row, PgError> {
        self.values_after(index, 0)
    }

    /// The columns of a row from `first` on.
    pub fn values_after(&self, index: usize, first: usize) -> Result<Row, PgError> {
        let columns = self.batch.columns().iter().zip(self.types).skip(first);
        let values = columns.map(|(array, ty)| datum_at(array, index, *ty));
        Ok(values.collect::<Result<Row, _>>()?)
    }

    /// Row key and version: the first two columns of a write's query.
    pub fn identity(&self, index: usize) -> Result<(Key, LogIndex), PgError> {
        let key = self.batch.column(0).as_any().downcast_ref::<BinaryArray>();
        let version = self.batch.column(1).as_any().downcast_ref::<UInt64Array>();
        match (key, version) {
            (Some(key), Some(version)) if key.is_valid(index) && version.is_valid(index) => {
                Ok((Key::copy_from_slice(key.value(index)), LogIndex(version.value(index))))
            }
            _ => Err(PgError::internal("a write's query lost the identity of its rows")),
        }
    }
}
