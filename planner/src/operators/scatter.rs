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
    client::{BatchStream, Fragment, FragmentRequest, RequestContext},
    report::FragmentReport,
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
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use parking_lot::Mutex;

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

/// One shard's part of a run.
#[derive(Default)]
struct Part {
    /// The answer to a request that was sent before anybody reads (`ShardFragmentExec::start`).
    started: Mutex<Option<Answer>>,
    /// What the operators did, if the statement wants to know.
    report: OnceLock<Arc<FragmentReport>>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("report", &self.report.get()).finish_non_exhaustive()
    }
}

/// What a shard answers, and since when it was asked.
struct Answer {
    batches: BatchStream,
    elapsed: Elapsed,
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
    parts: Arc<[Part]>,
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
        let parts = shards.iter().map(|_| Part::default()).collect();
        Ok(ShardFragmentExec {
            fragment,
            shards,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            parts,
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

    /// What the operators did on each shard that was asked; empty where a part was not run to its end.
    pub fn reports(&self) -> impl Iterator<Item = (ShardId, &FragmentReport)> {
        let parts = self.shards.iter().copied().zip(self.parts.iter());
        parts.filter_map(|(shard, part)| Some((shard, &**part.report.get()?)))
    }

    /// Sends every shard its part, all at a time; who runs the plan reads the answers. For the only fragment of a statement, which
    /// has no broadcasts.
    pub(super) async fn start(
        &self,
        context: &Arc<TaskContext>,
        statement: &Arc<StatementContext>,
    ) -> Vec<Result<()>> {
        let parts = self.shards.iter().zip(self.parts.iter()).enumerate();
        join_all(parts.map(|(partition, (shard, part))| async move {
            if statement.is_left_out(*shard) {
                return Ok(());
            }
            let request = self.request(partition, &[], context, statement)?;
            let alone = statement.alone(*shard).await.map_err(external)?;
            let answer = request.send(statement, alone).await?;
            *part.started.lock() = Some(answer);
            Ok(())
        }))
        .await
    }

    /// What shard `partition` is to be asked.
    fn request(
        &self,
        partition: usize,
        rows: &[Vec<RecordBatch>],
        context: &TaskContext,
        statement: &StatementContext,
    ) -> Result<PartRequest> {
        let (Some(shard), Some(part)) = (self.shards.get(partition), self.parts.get(partition))
        else {
            return internal_err!("a fragment has no partition {partition}");
        };
        let seen = session::installed(context.session_config().options());
        let plan = PlanFragment::new(cut(&self.fragment, *shard, rows)?, seen);
        let report = statement.wants_reports().then(|| part.report.get_or_init(Arc::default));
        Ok(PartRequest {
            shard: *shard,
            fragment: Fragment::Plan(Arc::new(plan)),
            report: report.cloned(),
            time: MetricBuilder::new(&self.metrics).subset_time(SHARD_TIME, partition),
        })
    }
}

/// A request to be sent.
struct PartRequest {
    shard: ShardId,
    fragment: Fragment,
    report: Option<Arc<FragmentReport>>,
    time: Time,
}

impl PartRequest {
    async fn send(self, statement: &StatementContext, context: RequestContext) -> Result<Answer> {
        let elapsed = Elapsed { time: self.time, started: Instant::now() };
        let client = statement.client(self.shard).map_err(external)?;
        let request = FragmentRequest { context, fragment: self.fragment, report: self.report };
        let batches = client.execute(request).await.map_err(external)?;
        Ok(Answer { batches, elapsed })
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

    /// The same run: metrics, parts and broadcasts are this one's.
    fn shared(&self) -> ShardFragmentExec {
        ShardFragmentExec {
            fragment: self.fragment.clone(),
            shards: self.shards.clone(),
            properties: self.properties.clone(),
            metrics: self.metrics.clone(),
            parts: self.parts.clone(),
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
        let Some((shard, part)) = self.shards.get(partition).zip(self.parts.get(partition)) else {
            return internal_err!("a fragment has no partition {partition}");
        };
        let shard = *shard;
        if statement.is_left_out(shard) {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema())));
        }
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let started = part.started.lock().take();
        let request = match started {
            Some(_) => None,
            None => Some(self.request(partition, rows, &context, &statement)?),
        };
        let schema = self.schema();
        let output = schema.clone();
        let answers = stream::once(async move {
            let answer = match (started, request) {
                (Some(answer), _) => answer,
                (None, Some(request)) => {
                    let context = statement.context(shard).await.map_err(external)?;
                    request.send(&statement, context).await?
                }
                (None, None) => return internal_err!("a fragment without a request"),
            };
            let Answer { batches, elapsed } = answer;
            let batches = if statement.wants_reports() { one_ahead(batches) } else { batches };
            // The snapshot stays open as long as the stream is read.
            Ok::<_, DataFusionError>(batches.map(move |batch| {
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

/// Each batch when the next one is there, or the end. Who has the rows it wanted stops reading before the end, and a report comes
/// with it.
fn one_ahead(batches: BatchStream) -> BatchStream {
    let ahead = stream::unfold((Some(batches), None), |(mut batches, held)| async move {
        let current = match held {
            Some(held) => held,
            None => batches.as_mut()?.next().await?,
        };
        let next = match &mut batches {
            Some(batches) => batches.next().await,
            None => None,
        };
        Some((current, (batches.filter(|_| next.is_some()), next)))
    });
    Box::pin(ahead)
}

pub(super) fn external(error: ShardError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
