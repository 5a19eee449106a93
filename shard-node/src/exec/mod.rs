//! Runs fragments: the parts of plans that a gateway sends to this shard.
//!
//! Lives here: unpacking a fragment, the bounds it runs under, what its operators counted, and its errors in this crate's words. Not here: where its rows
//! come from (a `ScanSource` over the request's snapshot, made by `shard`) and what fragments are made of
//! (`planner::rules`). A fragment runs on the caller's runtime; dropping its stream ends it.

use std::{
    sync::Arc,
    task::{Poll, ready},
};

use cortex_functions::{
    codec,
    failure::shard_error,
    fragment::PlanFragment,
    table_scan::{FragmentSource, TableScanExec},
};
use cortex_shard_api::{
    ShardError,
    client::{BatchStream, Fragment, ScanSource, ScanSpec},
    report::{FragmentReport, OPERATORS_REPORTED_MAX, OperatorCounts},
};
use datafusion::{
    execution::{
        TaskContext,
        config::SessionConfig,
        memory_pool::FairSpillPool,
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    physical_plan::{ExecutionPlan, metrics::MetricsSet},
};
use futures::{StreamExt, stream};

/// Rows per batch that fragments make.
const BATCH_ROWS: usize = 8192;

/// Runs fragments within one memory bound, shared by all that run at the same time.
pub struct FragmentRunner {
    runtime: Arc<RuntimeEnv>,
    /// The settings of every fragment.
    config: SessionConfig,
}

impl FragmentRunner {
    /// Operators that can spill do so when their share of `memory_bytes` is used up; others fail with `LimitExceeded`.
    pub fn new(memory_bytes: usize) -> Result<FragmentRunner, ShardError> {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
            .build_arc()
            .map_err(|error| shard_error(&error))?;
        let config = SessionConfig::new().with_batch_size(BATCH_ROWS).with_target_partitions(1);
        Ok(FragmentRunner { runtime, config })
    }

    /// Starts a plan over the rows of `source`. Nothing is read before the stream is polled. The report is filled before the
    /// stream ends.
    pub fn run(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        source: Arc<dyn ScanSource>,
        report: Option<Arc<FragmentReport>>,
    ) -> Result<BatchStream, ShardError> {
        let config = self.config.clone().with_extension(Arc::new(FragmentSource(source)));
        let context = TaskContext::new(
            None,
            String::new(),
            config,
            Default::default(),
            Default::default(),
            Default::default(),
            Default::default(),
            self.runtime.clone(),
        );
        let mut batches =
            plan.execute(0, Arc::new(context)).map_err(|error| shard_error(&error))?;
        let Some(report) = report else {
            return Ok(Box::pin(batches.map(|batch| batch.map_err(|error| shard_error(&error)))));
        };
        let mut is_whole = true;
        Ok(Box::pin(stream::poll_fn(move |context| {
            let next = ready!(batches.poll_next_unpin(context));
            match &next {
                Some(Ok(_)) => {}
                Some(Err(_)) => is_whole = false,
                None if is_whole => report.fill(counts(&plan)),
                None => {}
            }
            Poll::Ready(next.map(|batch| batch.map_err(|error| shard_error(&error))))
        })))
    }
}

/// The plan of a fragment, whichever way it came.
pub fn plan_of(fragment: &Fragment) -> Result<Arc<dyn ExecutionPlan>, ShardError> {
    match fragment {
        Fragment::Plan(plan) => match plan.as_any().downcast_ref::<PlanFragment>() {
            Some(plan) => Ok(plan.plan().clone()),
            None => {
                let what = "the fragment is not a plan of this version".to_owned();
                Err(ShardError::Execution(what))
            }
        },
        Fragment::Bytes { version, bytes } => Ok(codec::decode(*version, bytes)?.plan),
    }
}

/// Calls back with every scan of a plan. Its first error ends it.
pub fn each_scan(
    plan: &Arc<dyn ExecutionPlan>,
    found: &mut impl FnMut(&ScanSpec) -> Result<(), ShardError>,
) -> Result<(), ShardError> {
    if let Some(scan) = plan.downcast_ref::<TableScanExec>() {
        scan.partitions().iter().try_for_each(|partition| found(&partition.spec))?;
    }
    plan.children().into_iter().try_for_each(|child| each_scan(child, found))
}

/// What the operators of a plan did, each before its inputs: the order of `FragmentReport`.
fn counts(plan: &Arc<dyn ExecutionPlan>) -> Vec<OperatorCounts> {
    let (mut counts, mut left) = (Vec::new(), vec![plan]);
    while let Some(operator) = left.pop()
        && counts.len() < OPERATORS_REPORTED_MAX
    {
        let metrics: MetricsSet = operator.metrics().unwrap_or_default();
        let of = |count: Option<usize>| count.and_then(|it| u64::try_from(it).ok()).unwrap_or(0);
        counts.push(OperatorCounts {
            rows: of(metrics.output_rows()),
            nanos: of(metrics.elapsed_compute()),
        });
        left.extend(operator.children().into_iter().rev());
    }
    counts
}
