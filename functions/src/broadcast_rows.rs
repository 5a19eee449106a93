//! The rows of a small side of a join, sent along with the fragment that joins them in each shard.
//!
//! Lives here: `BroadcastRowsExec`, in a plan first the place of rows that are not known yet, then the rows. Not here: which
//! joins are done so (`planner::rules`) and how the rows are collected (`planner::operators::broadcast`).

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    common::{Statistics, internal_err, tree_node::TreeNodeRecursion},
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
        ReplaceChildrenOptions,
        coop::make_cooperative,
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet},
        statistics::StatisticsArgs,
        stream::RecordBatchStreamAdapter,
    },
};
use futures::stream;

use crate::leaf;

/// Bytes of the rows of one side that travel: they go to every shard, and each keeps them while it joins.
pub const BROADCAST_BYTES_MAX: usize = 4 << 20;

/// Gives the rows of the broadcast with a number; one partition.
#[derive(Clone, Debug)]
pub struct BroadcastRowsExec {
    number: usize,
    schema: SchemaRef,
    rows: Option<Arc<[RecordBatch]>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl BroadcastRowsExec {
    /// The place of rows that are collected when the plan runs.
    pub fn awaited(number: usize, schema: SchemaRef) -> BroadcastRowsExec {
        let properties = Arc::new(leaf::properties(&schema, 1, None));
        let metrics = ExecutionPlanMetricsSet::new();
        BroadcastRowsExec { number, schema, rows: None, properties, metrics }
    }

    /// The same with its rows, under the names that the plan knows. Error: they are of other types.
    pub fn with_rows(&self, rows: &[RecordBatch]) -> Result<BroadcastRowsExec> {
        let renamed = rows.iter().map(|batch| leaf::rename(batch, &self.schema));
        let rows = Some(renamed.collect::<Result<Arc<[_]>>>()?);
        Ok(BroadcastRowsExec { rows, metrics: ExecutionPlanMetricsSet::new(), ..self.clone() })
    }

    /// Which of the fragment's broadcasts it is.
    pub fn number(&self) -> usize {
        self.number
    }

    pub fn schema_ref(&self) -> &SchemaRef {
        &self.schema
    }

    /// `None`: not collected yet.
    pub fn rows(&self) -> Option<&[RecordBatch]> {
        self.rows.as_deref()
    }
}

impl DisplayAs for BroadcastRowsExec {
    fn fmt_as(
        &self,
        _format: DisplayFormatType,
        f: &mut std::fmt::Formatter<'_>,
    ) -> std::fmt::Result {
        write!(f, "BroadcastRowsExec: number={}", self.number)
    }
}

impl ExecutionPlan for BroadcastRowsExec {
    fn name(&self) -> &'static str {
        "BroadcastRowsExec"
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
        if children.is_empty() {
            Ok(self)
        } else {
            internal_err!("broadcast rows have no children")
        }
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
        _context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(rows) = self.rows.clone() else {
            return internal_err!("broadcast rows were read before they were collected");
        };
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let batches = (0..rows.len()).map(move |number| {
            baseline.record_output(rows[number].num_rows());
            Ok(rows[number].clone())
        });
        let batches = stream::iter(batches);
        let stream = RecordBatchStreamAdapter::new(self.schema.clone(), batches);
        Ok(make_cooperative(Box::pin(stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _inputs: &[Arc<Statistics>],
        _args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::new_unknown(&self.schema)))
    }
}
