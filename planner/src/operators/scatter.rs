//! Sends a fragment to each shard and gives what they answer, one partition for each shard.
//!
//! ```text
//!   gateway     ShardFragmentExec          partition 0   partition 1   partition 2
//!                                               │             │             │
//!   shard-api   ShardClient::execute            ▼             ▼             ▼
//!   shards      fragment, cut to one shard   shard 1       shard 2       shard 4
//! ```
//!
//! For the optimizer this is a leaf: what is inside belongs to the shards, and rules that wrap more into it
//! (`rules::push_to_shards`) make a new one. Only the small sides of joins that are broadcast to the shards are children: they
//! are computed in the gateway first (`broadcast`). Not here: how far a fragment reaches (`rules`), how it is run
//! (`shard_node::exec`).

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Instant,
};

use cortex_functions::{
    broadcast_rows::BroadcastRowsExec, fragment::PlanFragment, leaf, session,
    table_scan::TableScanExec,
};
use cortex_shard_api::{
    ShardError, ShardId,
    client::{Fragment, FragmentRequest},
};
use datafusion::{
    arrow::record_batch::RecordBatch,
    common::{
        Statistics, internal_datafusion_err, internal_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{Distribution, Partitioning, PhysicalExpr},
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, EmptyRecordBatchStream,
        ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
        coop::make_cooperative,
        execution_plan::SchedulingType,
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time},
        statistics::{StatisticsArgs, StatisticsContext},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    broadcast::{Gathered, Gathering, gather},
    statement::StatementContext,
};

/// The metric of each partition: from the request to the shard to its last row.
pub const SHARD_TIME: &str = "shard_time";

/// Adds the time of its life to a metric.
struct Elapsed {
    time: Time,
    started: Instant,
}

impl Drop for Elapsed {
    fn drop(&mut self) {
        self.time.add_elapsed(self.started);
    }
}

/// Runs a fragment on each of its shards.
///
/// - Output: partition `i` is what shard `i` answers, in the order the fragment promises. Nothing is known about how rows are
///   spread over partitions.
/// - Errors: the first error of a shard ends the partition, as `DataFusionError::External(ShardError)`.
/// - The fragment sees one shard only: it is cut to it first, so that nothing is shared between shards.
#[derive(Debug)]
pub struct ShardFragmentExec {
    fragment: Arc<dyn ExecutionPlan>,
    shards: Vec<ShardId>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// The fragment of each shard, made when it is first run; EXPLAIN ANALYZE reads their metrics.
    slices: Arc<[OnceLock<Arc<dyn ExecutionPlan>>]>,
    /// What the fragment's `BroadcastRowsExec`s stand for, by number.
    broadcasts: Vec<Arc<dyn ExecutionPlan>>,
    gathered: Arc<Gathering>,
}

impl ShardFragmentExec {
    /// A fragment of which partition `i` belongs to `shards[i]`; its leaves are `TableScanExec`s.
    pub fn try_new(
        fragment: Arc<dyn ExecutionPlan>,
        shards: Vec<ShardId>,
    ) -> Result<ShardFragmentExec> {
        ShardFragmentExec::with_broadcasts(fragment, shards, Vec::new())
    }

    /// The same, whose `BroadcastRowsExec`s give the rows of these plans.
    pub fn with_broadcasts(
        fragment: Arc<dyn ExecutionPlan>,
        shards: Vec<ShardId>,
        broadcasts: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<ShardFragmentExec> {
        if shards.is_empty() {
            return internal_err!("a fragment needs a shard");
        }
        let inner = fragment.properties();
        let properties = PlanProperties::new(
            inner.equivalence_properties().clone(),
            Partitioning::UnknownPartitioning(shards.len()),
            inner.emission_type,
            inner.boundedness,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        let slices = shards.iter().map(|_| OnceLock::new()).collect();
        Ok(ShardFragmentExec {
            fragment,
            shards,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            slices,
            broadcasts,
            gathered: Arc::default(),
        })
    }

    /// On the same shards and with the same broadcasts, around what is in this one.
    pub fn around(&self, fragment: Arc<dyn ExecutionPlan>) -> Result<ShardFragmentExec> {
        let (shards, broadcasts) = (self.shards.clone(), self.broadcasts.clone());
        ShardFragmentExec::with_broadcasts(fragment, shards, broadcasts)
    }

    /// The small sides of joins, computed here and sent to every shard.
    pub fn broadcasts(&self) -> &[Arc<dyn ExecutionPlan>] {
        &self.broadcasts
    }

    /// Whether the broadcasts were too large to be sent, once that is known.
    pub fn joined_here(&self) -> Option<bool> {
        self.gathered.get().map(|gathered| matches!(gathered, Gathered::Here(_)))
    }

    /// A table read in the shards that the scan names.
    pub fn of_scan(scan: TableScanExec) -> Result<ShardFragmentExec> {
        let shards = scan.partitions().iter().map(|partition| partition.shard).collect();
        ShardFragmentExec::try_new(Arc::new(scan), shards)
    }

    /// What the shards run, before it is cut to each.
    pub fn fragment(&self) -> &Arc<dyn ExecutionPlan> {
        &self.fragment
    }

    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// What each shard ran, as far as it was run.
    pub fn executed(&self) -> impl Iterator<Item = (ShardId, Option<&Arc<dyn ExecutionPlan>>)> {
        self.shards.iter().copied().zip(self.slices.iter().map(OnceLock::get))
    }

    fn slice(
        &self,
        partition: usize,
        rows: &[Vec<RecordBatch>],
    ) -> Result<(ShardId, Arc<dyn ExecutionPlan>)> {
        let (Some(shard), Some(cell)) = (self.shards.get(partition), self.slices.get(partition))
        else {
            return internal_err!("a fragment has no partition {partition}");
        };
        let plan = match cell.get() {
            Some(plan) => plan.clone(),
            None => {
                let plan = cut(&self.fragment, *shard, rows)?;
                cell.get_or_init(|| plan).clone()
            }
        };
        Ok((*shard, plan))
    }
}

/// The fragment for one shard: the same operators, fresh, over scans of that shard alone and the rows of the broadcasts.
fn cut(
    fragment: &Arc<dyn ExecutionPlan>,
    shard: ShardId,
    rows: &[Vec<RecordBatch>],
) -> Result<Arc<dyn ExecutionPlan>> {
    let cut = Arc::clone(fragment).transform_up(|node| {
        if let Some(awaited) = node.downcast_ref::<BroadcastRowsExec>() {
            let sent = awaited.with_rows(rows.get(awaited.number()).map_or(&[][..], |it| it))?;
            return Ok(Transformed::yes(Arc::new(sent) as Arc<dyn ExecutionPlan>));
        }
        let Some(scan) = node.downcast_ref::<TableScanExec>() else {
            // Operators hand what they have gathered (a join's build side) on to their copies unless told not to.
            return Ok(Transformed::yes(node.reset_state()?));
        };
        let slice = scan.slice(shard).ok_or_else(|| {
            internal_datafusion_err!("a fragment reads a table that shard {shard} does not hold")
        })?;
        Ok(Transformed::yes(Arc::new(slice) as Arc<dyn ExecutionPlan>))
    })?;
    Ok(cut.data)
}

impl DisplayAs for ShardFragmentExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ShardFragmentExec: shards={:?}",
            self.shards.iter().map(|s| s.0).collect::<Vec<_>>()
        )
    }
}

impl ExecutionPlan for ShardFragmentExec {
    fn name(&self) -> &'static str {
        "ShardFragmentExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.broadcasts.iter().collect()
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition; self.broadcasts.len()]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false; self.broadcasts.len()]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.broadcasts.len()]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    /// Always a fresh one, so that a plan that is run again (a recursive query) starts anew.
    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.len() != self.broadcasts.len() {
            return internal_err!("a fragment with another number of broadcasts");
        }
        let (fragment, shards) = (self.fragment.clone(), self.shards.clone());
        Ok(Arc::new(ShardFragmentExec::with_broadcasts(fragment, shards, children)?))
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
        let statement = context
            .session_config()
            .get_extension::<StatementContext>()
            .ok_or_else(|| internal_datafusion_err!("the statement has no shards"))?;
        if !self.broadcasts.is_empty() {
            return self.execute_around(partition, context);
        }
        self.execute_slice(partition, &[], context, statement)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _inputs: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        StatisticsContext::new().compute(self.fragment.as_ref(), args)
    }

    fn supports_limit_pushdown(&self) -> bool {
        false
    }

    fn fetch(&self) -> Option<usize> {
        self.fragment.fetch()
    }

    /// Each shard stops after so many rows.
    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        let fragment = super::limit::limited(&self.fragment, limit?)?;
        Some(Arc::new(self.around(fragment).ok()?))
    }
}

impl ShardFragmentExec {
    /// Computes the broadcasts first, the first partition for all.
    fn execute_around(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let run = Arc::new(self.shared());
        let output = self.schema();
        let answers = stream::once(async move {
            let gathered = run
                .gathered
                .get_or_try_init(|| gather(&run.fragment, &run.shards, &run.broadcasts, &context))
                .await?;
            match gathered {
                Gathered::Sent(rows) => {
                    let statement = context
                        .session_config()
                        .get_extension::<StatementContext>()
                        .ok_or_else(|| internal_datafusion_err!("the statement has no shards"))?;
                    run.execute_slice(partition, rows, context.clone(), statement)
                }
                Gathered::Here(plan) => {
                    let baseline = BaselineMetrics::new(&run.metrics, partition);
                    let rows = plan.execute(partition, context.clone())?;
                    let schema = rows.schema();
                    let rows = rows.inspect_ok(move |batch| {
                        baseline.record_output(batch.num_rows());
                    });
                    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)) as _)
                }
            }
        })
        .try_flatten();
        Ok(make_cooperative(Box::pin(RecordBatchStreamAdapter::new(output, answers))))
    }

    /// The same run: metrics, slices and broadcasts are this one's.
    fn shared(&self) -> ShardFragmentExec {
        ShardFragmentExec {
            fragment: self.fragment.clone(),
            shards: self.shards.clone(),
            properties: self.properties.clone(),
            metrics: self.metrics.clone(),
            slices: self.slices.clone(),
            broadcasts: self.broadcasts.clone(),
            gathered: self.gathered.clone(),
        }
    }

    fn execute_slice(
        &self,
        partition: usize,
        rows: &[Vec<RecordBatch>],
        context: Arc<TaskContext>,
        statement: Arc<StatementContext>,
    ) -> Result<SendableRecordBatchStream> {
        let (shard, plan) = self.slice(partition, rows)?;
        if statement.is_left_out(shard) {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema())));
        }
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let time = MetricBuilder::new(&self.metrics).subset_time(SHARD_TIME, partition);
        let seen = session::installed(context.session_config().options());
        let schema = self.schema();
        let output = schema.clone();
        let answers = stream::once(async move {
            let elapsed = Elapsed { time, started: Instant::now() };
            let client = statement.client(shard).map_err(external)?;
            let request = FragmentRequest {
                context: statement.context(shard).await.map_err(external)?,
                fragment: Fragment::Plan(Arc::new(PlanFragment::new(plan, seen))),
            };
            let answer = client.execute(request).await.map_err(external)?;
            // The snapshot stays open as long as the stream is read.
            Ok::<_, DataFusionError>(answer.map(move |batch| {
                let _held = (&statement, &elapsed);
                let batch = leaf::rename(&batch.map_err(external)?, &schema)?;
                baseline.record_output(batch.num_rows());
                Ok(batch)
            }))
        })
        .try_flatten();
        Ok(make_cooperative(Box::pin(RecordBatchStreamAdapter::new(output, answers))))
    }
}

fn external(error: ShardError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
