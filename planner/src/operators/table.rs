//! Tables as DataFusion sees them: one partition for each shard that can hold matching rows.
//!
//! Lives here: schema, pushdown decisions and the scan's plan. Not here: pruning itself (`route`), reading
//! (`functions::table_scan`). Filters are always kept above the scan, because a route may name too many rows.

use std::{fmt, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use cortex_functions::table_scan::{ScanPartition, TableScanExec};
use cortex_shard_api::{
    client::{Access, ScanSpec},
    descriptor::Placement,
    value::arrow::field,
};
use datafusion::{
    catalog::{Session, TableProvider},
    error::Result,
    logical_expr::{Expr, TableType},
    physical_plan::ExecutionPlan,
};

use crate::catalog;

/// The hidden column that holds a row's key.
pub const IDENTITY_KEY: &str = "cortex_key";

/// The hidden column that holds the version of a row that the statement saw.
pub const IDENTITY_VERSION: &str = "cortex_version";

/// A table for a logical plan. With `identity` the columns `cortex_key` (Binary) and `cortex_version` (UInt64) follow
/// the table's own live columns: the read half of UPDATE and DELETE needs them.
pub fn provider(table: &Arc<catalog::Table>, identity: bool) -> Arc<dyn TableProvider> {
    Arc::new(ShardedTable::new(table, identity))
}

/// One version of a table.
struct ShardedTable {
    table: Arc<catalog::Table>,
    identity: bool,
    /// Position in the descriptor of each field but the identity's.
    positions: Vec<usize>,
    schema: SchemaRef,
}

impl ShardedTable {
    fn new(table: &Arc<catalog::Table>, identity: bool) -> ShardedTable {
        let mut positions = Vec::new();
        let mut fields = Vec::new();
        for (position, column) in table.descriptor.live_columns() {
            positions.push(position);
            fields.push(field(&column.name, column.ty, !column.not_null));
        }
        if identity {
            fields.push(Field::new(IDENTITY_KEY, DataType::Binary, false));
            fields.push(Field::new(IDENTITY_VERSION, DataType::UInt64, false));
        }
        let schema = Arc::new(Schema::new(fields));
        ShardedTable { table: table.clone(), identity, positions, schema }
    }
}

impl fmt::Debug for ShardedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardedTable({})", self.table.descriptor.qualified_name())
    }
}

#[async_trait]
impl TableProvider for ShardedTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let descriptor = &self.table.descriptor;
        let spec = ScanSpec {
            table: descriptor.clone(),
            columns: self.positions.clone(),
            with_identity: self.identity,
            access: Access::Full,
            limit: None,
            batch_rows: state.config().batch_size(),
        };
        let mut shards = descriptor.shards();
        if matches!(descriptor.placement, Placement::Reference(_)) {
            shards.truncate(1);
        }
        let partitions =
            shards.into_iter().map(|shard| ScanPartition { shard, spec: spec.clone() }).collect();
        let scan = TableScanExec::new(self.schema.clone(), partitions, None, Arc::new(()));
        match projection {
            None => Ok(Arc::new(scan)),
            Some(projection) => project(Arc::new(scan), projection),
        }
    }
}

fn project(input: Arc<dyn ExecutionPlan>, projection: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
    use datafusion::physical_plan::{expressions::Column, projection::ProjectionExec};
    let schema = input.schema();
    let columns = projection.iter().map(|index| {
        let name = schema.field(*index).name();
        (Arc::new(Column::new(name, *index)) as _, name.clone())
    });
    Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), input)?))
}
