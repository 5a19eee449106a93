//! What a call returned, as a relation that the rest of its statement reads.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::{
    datatypes::{Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use async_trait::async_trait;
use cortex_planner::PlanError;
use cortex_shard_api::{
    Datum, TypeMod,
    client::Row,
    value::arrow::{array_from_datums, field},
};
use datafusion::{
    catalog::{Session, TableProvider, memory::MemorySourceConfig},
    error::Result,
    logical_expr::{Expr, TableType},
    physical_plan::ExecutionPlan,
};

use crate::{catalog::administration::Function, error::PgError};

/// The rows of the statement's last execution: a session runs one at a time, and a plan is made for each.
#[derive(Debug)]
pub(crate) struct ResultTable {
    function: &'static Function,
    schema: SchemaRef,
    rows: Mutex<RecordBatch>,
}

impl ResultTable {
    pub fn new(function: &'static Function) -> std::result::Result<ResultTable, PlanError> {
        let fields: Vec<_> = function
            .columns
            .iter()
            .map(|(name, ty)| field(name, TypeMod::plain(*ty), true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let rows = Mutex::new(RecordBatch::new_empty(schema.clone()));
        Ok(ResultTable { function, schema, rows })
    }

    /// The rows that the next scan gives.
    pub fn set(&self, rows: Vec<Row>) -> std::result::Result<(), PgError> {
        let mut arrays = Vec::with_capacity(self.function.columns.len());
        for (position, (_, ty)) in self.function.columns.iter().enumerate() {
            let values: Vec<Datum> =
                rows.iter().map(|row| row.get(position).cloned().unwrap_or(Datum::Null)).collect();
            arrays.push(array_from_datums(*ty, &values)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map_err(|error| {
                PgError::internal(format!("rows of {}: {error}", self.function.name))
            })?;
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = batch;
        Ok(())
    }
}

#[async_trait]
impl TableProvider for ResultTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batch = self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let exec = MemorySourceConfig::try_new_exec(
            &[vec![batch]],
            self.schema.clone(),
            projection.cloned(),
        )?;
        Ok(exec)
    }
}
