//! Tables as DataFusion sees them: one partition for each shard that can hold matching rows.
//!
//! Lives here: schema, pushdown decisions and the scan's plan. Not here: pruning itself (`route`), reading
//! (`functions::table_scan`). Filters are always kept above the scan, because a route may name too many rows.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use cortex_functions::table_scan::{ScanPartition, TableScanExec};
use cortex_shard_api::{
    SqlType, TableDescriptor,
    client::{Access, ScanSpec},
    descriptor::Placement,
    key::has_shard_key_prefix,
    value::arrow::field,
};
use datafusion::{
    arrow::{
        compute::SortOptions,
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    catalog::{Session, TableProvider},
    common::tree_node::TreeNodeRecursion,
    error::Result,
    logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableType},
    physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr, expressions::Column},
    physical_plan::{ExecutionPlan, empty::EmptyExec, projection::ProjectionExec},
};
use futures::future::try_join_all;

use super::{ShardFragmentExec, StatementContext};
use crate::{
    catalog,
    route::{self, Path, Route},
};

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
        ShardedTable { table: table.clone(), positions, schema }
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

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| {
            if route::understands(&self.table.descriptor, filter) {
                TableProviderFilterPushDown::Inexact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(support).collect())
    }

    /// DataFusion gives a limit only when no filter is left above the scan, so each shard may stop there.
    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let shape = self.shape(projection)?;
        let mut route = route::for_filters(&self.table.descriptor, filters);
        self.choose_copies(state, &shape, &mut route);
        if route.scans.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(projection)?))));
        }
        let spec = |access: &Access| ScanSpec {
            table: self.table.descriptor.clone(),
            columns: shape.columns.clone(),
            with_identity: shape.with_identity,
            access: access.clone(),
            limit,
            batch_rows: state.config().batch_size(),
        };
        let partitions = route
            .scans
            .iter()
            .map(|scan| ScanPartition { shard: scan.shard, spec: spec(&scan.access) })
            .collect();
        let ordering = key_ordering(&self.table.descriptor, &route, &shape);
        let replicas = route.replicas.clone();
        let rows = expected_rows(state, &self.table.descriptor, &route).await;
        let note = Arc::new(ScanNote { route, filters: filters.len() });
        let scan = TableScanExec::new(shape.schema.clone(), partitions, ordering, note)
            .with_replicas(replicas)
            .with_rows(rows);
        let shards = scan.partitions().iter().map(|partition| partition.shard).collect();
        let fragment = reordered(Arc::new(scan), &shape.reorder)?;
        Ok(Arc::new(ShardFragmentExec::try_new(fragment, shards)?))
    }
}

impl ShardedTable {
    /// Which copies of a reference table will do: rows that are to be written or locked are those of the primary copy.
    fn choose_copies(&self, state: &dyn Session, shape: &ScanShape, route: &mut Route) {
        let statement = state.config().get_extension::<StatementContext>();
        if shape.with_identity || statement.as_ref().is_some_and(|it| it.reads_primary_only()) {
            route.replicas.clear();
        }
        if let Some(statement) = statement {
            statement.plan_copies(&route.replicas);
            // Without the shard of the primary copy any other will do: the statement says what it may lack.
            let there = route.replicas.iter().find(|copy| !statement.is_left_out(**copy));
            if let (Some(there), [scan]) = (there, &mut route.scans[..])
                && statement.is_left_out(scan.shard)
            {
                scan.shard = *there;
            }
        }
    }
}

/// One in so many rows is expected in a key range or behind an index entry, for want of anything better.
const ROWS_PER_HIT: usize = 20;

/// About how many rows the route visits, by the shards' own counts. `None` while planning without shards, and for a statement
/// without joins: nothing but their order and kind depends on it, so an unreachable shard is not an error yet.
async fn expected_rows(
    state: &dyn Session,
    table: &TableDescriptor,
    route: &Route,
) -> Option<usize> {
    if let Path::KeyPoints(n) = route.path {
        return Some(n);
    }
    let statement = state.config().get_extension::<StatementContext>()?;
    if !statement.counts_rows() {
        return None;
    }
    let mut clients = Vec::with_capacity(route.scans.len());
    for scan in route.scans.iter().filter(|scan| !statement.is_left_out(scan.shard)) {
        clients.push(statement.client(scan.shard).ok()?);
    }
    // All at a time: a shard may be a network away.
    let counts = clients.iter().map(|client| client.storage_stats(table.storage));
    let counts = try_join_all(counts).await.ok()?;
    let rows = usize::try_from(counts.iter().map(|stats| stats.rows).sum::<u64>()).ok()?;
    match route.path {
        Path::Full | Path::Slots(_) => Some(rows),
        Path::Empty => Some(0),
        Path::KeyPoints(n) => Some(n),
        Path::KeyRanges | Path::KeySkips | Path::Index { .. } => Some(rows.div_ceil(ROWS_PER_HIT)),
    }
}

/// Whether a plan joins anything, in a subquery too.
pub fn has_joins(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::Join(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// What EXPLAIN says of a scan.
#[derive(Clone, Debug)]
pub struct ScanNote {
    pub route: Route,
    /// Filters that the route was made from.
    pub filters: usize,
}

/// The columns that shards are asked for.
struct ScanShape {
    /// Positions in the descriptor.
    columns: Vec<usize>,
    with_identity: bool,
    /// Of the columns, identity behind them.
    schema: SchemaRef,
    /// Where each output column stands in `schema`, if not in that order.
    reorder: Option<Vec<usize>>,
}

impl ShardedTable {
    /// Shards give table columns first and the identity behind them, both parts of it; other orders are made of that.
    fn shape(&self, projection: &[usize]) -> Result<ScanShape> {
        let n_own = self.positions.len();
        let own: Vec<usize> = projection.iter().copied().filter(|field| *field < n_own).collect();
        let with_identity = own.len() < projection.len();
        let identity = if with_identity { vec![n_own, n_own + 1] } else { vec![] };
        let given: Vec<usize> = own.iter().copied().chain(identity).collect();
        let reorder = (given != projection).then(|| {
            let place = |field: &usize| given.iter().position(|given| given == field);
            projection.iter().filter_map(place).collect()
        });
        Ok(ScanShape {
            columns: own.iter().filter_map(|field| self.positions.get(*field)).copied().collect(),
            with_identity,
            schema: Arc::new(self.schema.project(&given)?),
            reorder,
        })
    }
}

fn reordered(
    scan: Arc<dyn ExecutionPlan>,
    order: &Option<Vec<usize>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(order) = order else { return Ok(scan) };
    let schema = scan.schema();
    let columns: Vec<(Arc<dyn PhysicalExpr>, String)> = order
        .iter()
        .map(|place| {
            let name = schema.field(*place).name();
            (Arc::new(Column::new(name, *place)) as _, name.clone())
        })
        .collect();
    Ok(Arc::new(ProjectionExec::try_new(columns, scan)?))
}

/// The order in which a shard gives the rows, as far as Arrow orders the values in the same way: that of the row key. Rows of a
/// hash table come slot by slot, and rows found by an index in the index's order.
fn key_ordering(table: &TableDescriptor, route: &Route, shape: &ScanShape) -> Option<LexOrdering> {
    let by_key = matches!(route.path, Path::Full | Path::KeyPoints(_) | Path::KeyRanges);
    if !by_key || matches!(table.placement, Placement::Hash { .. }) {
        return None;
    }
    let mut key = Vec::new();
    if has_shard_key_prefix(table)
        && let Placement::Range { key: shard_key, .. } = &table.placement
    {
        key.extend(shard_key.iter().copied());
    }
    key.extend(table.primary_key.iter().copied());
    let columns = key.into_iter().map_while(|position| {
        let column = table.columns.get(position)?;
        let place = shape.columns.iter().position(|column| *column == position)?;
        let options = SortOptions { descending: false, nulls_first: false };
        let expr: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&column.name, place));
        is_ordered_as_key(column.ty.ty).then(|| PhysicalSortExpr::new(expr, options))
    });
    LexOrdering::new(columns)
}

/// Types whose Arrow order is the order of their keys; the others compare by a key of their own (numeric, floats, char(n)).
fn is_ordered_as_key(ty: SqlType) -> bool {
    ty.is_integer()
        || ty.is_oid_like()
        || matches!(
            ty,
            SqlType::Bool
                | SqlType::Text
                | SqlType::Varchar
                | SqlType::Bytea
                | SqlType::Date
                | SqlType::Time
                | SqlType::Timestamp
                | SqlType::Timestamptz
                | SqlType::Uuid
        )
}
