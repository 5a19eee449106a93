//! The leaf of a fragment: reads a table inside a shard.
//!
//! Lives here: `TableScanExec`, which has one partition for each shard that a route names, each with its own `ScanSpec`.
//! Not here: which shards those are (`planner::route`) and how a fragment reaches them (`planner::operators::scatter`).
//! The node finds the shard's rows in the task context (`SessionConfig` extension `FragmentSource`), so the same node
//! serves every shard. In the gateway there is no such extension, and running it there is a bug of ours that is said.

use std::{
    any::Any,
    fmt,
    sync::Arc,
    task::{Poll, ready},
};

use arrow::datatypes::SchemaRef;
use cortex_shard_api::{
    ShardId,
    client::{ScanSource, ScanSpec},
};
use datafusion::{
    common::{
        Statistics, internal_datafusion_err, internal_err, stats::Precision,
        tree_node::TreeNodeRecursion,
    },
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{LexOrdering, PhysicalExpr},
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
        ReplaceChildrenOptions,
        coop::make_cooperative,
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet},
        statistics::StatisticsArgs,
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{StreamExt, stream};

use crate::leaf;

/// The `SessionConfig` extension under which a shard offers its rows to the fragment it runs.
#[derive(Clone)]
pub struct FragmentSource(pub Arc<dyn ScanSource>);

/// What one shard reads of the table.
#[derive(Clone, Debug)]
pub struct ScanPartition {
    pub shard: ShardId,
    pub spec: ScanSpec,
}

/// Reads a table, one partition for each shard.
///
/// - Output: the columns of the `ScanSpec`s, in key order within a partition where `ordering` says so.
/// - A reference table has one partition, which any shard in `replicas` can serve: joins with other tables read the
///   copy that is beside them.
#[derive(Clone, Debug)]
pub struct TableScanExec {
    schema: SchemaRef,
    partitions: Vec<ScanPartition>,
    replicas: Arc<[ShardId]>,
    ordering: Option<LexOrdering>,
    /// About how many rows all partitions yield together.
    rows: Option<usize>,
    /// What EXPLAIN says, made by the planner: opaque here.
    note: Arc<dyn Any + Send + Sync>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl TableScanExec {
    /// `schema` are the fields of each partition's columns; at least one partition.
    pub fn new(
        schema: SchemaRef,
        partitions: Vec<ScanPartition>,
        ordering: Option<LexOrdering>,
        note: Arc<dyn Any + Send + Sync>,
    ) -> TableScanExec {
        let properties = Arc::new(leaf::properties(&schema, partitions.len(), ordering.as_ref()));
        TableScanExec {
            schema,
            partitions,
            replicas: Arc::from([]),
            ordering,
            rows: None,
            note,
            properties,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The same scan, of a table of which each of these shards has a whole copy.
    pub fn with_replicas(mut self, replicas: Vec<ShardId>) -> TableScanExec {
        self.replicas = replicas.into();
        self
    }

    /// The same scan, expected to yield about so many rows: what the order of joins is chosen by.
    pub fn with_rows(mut self, rows: Option<usize>) -> TableScanExec {
        self.rows = rows;
        self
    }

    pub fn partitions(&self) -> &[ScanPartition] {
        &self.partitions
    }

    pub fn schema_ref(&self) -> &SchemaRef {
        &self.schema
    }

    /// The order of the rows within each partition.
    pub fn ordering(&self) -> Option<&LexOrdering> {
        self.ordering.as_ref()
    }

    /// Shards that can serve the one partition of a reference table; empty for other tables.
    pub fn replicas(&self) -> &[ShardId] {
        &self.replicas
    }

    /// What the planner attached for EXPLAIN.
    pub fn note(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.note
    }

    /// The scan of one shard alone; `None` if the table has nothing there.
    pub fn slice(&self, shard: ShardId) -> Option<TableScanExec> {
        let partition = match self.partitions.iter().find(|partition| partition.shard == shard) {
            Some(partition) => partition.clone(),
            None if self.replicas.contains(&shard) => {
                ScanPartition { shard, spec: self.partitions.first()?.spec.clone() }
            }
            None => return None,
        };
        let ordering = self.ordering.clone();
        let scan =
            TableScanExec::new(self.schema.clone(), vec![partition], ordering, self.note.clone());
        Some(TableScanExec { replicas: self.replicas.clone(), ..scan })
    }

    /// The same scan, stopping in each shard after so many rows.
    pub fn with_limit(&self, limit: usize) -> TableScanExec {
        let mut scan = self.clone();
        scan.metrics = ExecutionPlanMetricsSet::new();
        for partition in &mut scan.partitions {
            let known = partition.spec.limit.unwrap_or(usize::MAX);
            partition.spec.limit = Some(known.min(limit));
        }
        scan
    }
}

impl DisplayAs for TableScanExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.partitions.first().map_or("?", |first| first.spec.table.name.as_str());
        write!(f, "TableScanExec: table={table}, shards={}", self.partitions.len())
    }
}

impl ExecutionPlan for TableScanExec {
    fn name(&self) -> &'static str {
        "TableScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a table scan has no children") }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(scan) = self.partitions.get(partition) else {
            return internal_err!("a table scan has no partition {partition}");
        };
        let source = context
            .session_config()
            .get_extension::<FragmentSource>()
            .ok_or_else(|| internal_datafusion_err!("a table scan was run outside of a shard"))?;
        let mut batches = source.0.scan(&scan.spec).map_err(external)?;
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let schema = self.schema.clone();
        let stream = stream::poll_fn(move |context| {
            // Reading is done by whoever polls.
            let _timer = baseline.elapsed_compute().timer();
            let Some(batch) = ready!(batches.poll_next_unpin(context)) else {
                return Poll::Ready(None);
            };
            let batch = batch.map_err(external).and_then(|batch| leaf::rename(&batch, &schema));
            Poll::Ready(Some(batch.inspect(|batch| baseline.record_output(batch.num_rows()))))
        });
        let stream = RecordBatchStreamAdapter::new(self.schema.clone(), stream);
        Ok(make_cooperative(Box::pin(stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _inputs: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        if let Some(rows) = self.rows {
            let n_partitions =
                if args.partition().is_some() { self.partitions.len().max(1) } else { 1 };
            statistics.num_rows = Precision::Inexact(rows.div_ceil(n_partitions));
        }
        Ok(Arc::new(statistics))
    }
}

fn external(error: cortex_shard_api::ShardError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
