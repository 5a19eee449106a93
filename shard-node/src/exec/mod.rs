//! Runs fragments: the parts of plans that a gateway sends to this shard.
//!
//! Lives here: unpacking a fragment, the bounds it runs under, and its errors in this crate's words. Not here: where its rows
//! come from (a `ScanSource` over the request's snapshot, made by `shard`) and what fragments are made of
//! (`planner::rules`). A fragment runs on the caller's runtime; dropping its stream ends it.

use std::sync::Arc;

use cortex_functions::{
    codec, failure::shard_error, fragment::PlanFragment, table_scan::FragmentSource,
};
use cortex_shard_api::{
    ShardError,
    client::{BatchStream, Fragment, ScanSource},
};
use datafusion::execution::{
    TaskContext,
    config::SessionConfig,
    memory_pool::FairSpillPool,
    runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
};
use futures::StreamExt;

/// Rows per batch that fragments make.
const BATCH_ROWS: usize = 8192;

/// Runs fragments within one memory bound, shared by all that run at the same time.
pub struct FragmentRunner {
    runtime: Arc<RuntimeEnv>,
}

impl FragmentRunner {
    /// Operators that can spill do so when their share of `memory_bytes` is used up; others fail with `LimitExceeded`.
    pub fn new(memory_bytes: usize) -> Result<FragmentRunner, ShardError> {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
            .build_arc()
            .map_err(|error| shard_error(&error))?;
        Ok(FragmentRunner { runtime })
    }

    /// Starts a fragment over the rows of `source`. Nothing is read before the stream is polled.
    pub fn run(
        &self,
        fragment: &Fragment,
        source: Arc<dyn ScanSource>,
    ) -> Result<BatchStream, ShardError> {
        let plan = match fragment {
            Fragment::Plan(plan) => match plan.as_any().downcast_ref::<PlanFragment>() {
                Some(plan) => plan.plan().clone(),
                None => {
                    let what = "the fragment is not a plan of this version".to_owned();
                    return Err(ShardError::Execution(what));
                }
            },
            Fragment::Bytes { version, bytes } => codec::decode(*version, bytes)?.plan,
        };
        let config = SessionConfig::new()
            .with_batch_size(BATCH_ROWS)
            .with_target_partitions(1)
            .with_extension(Arc::new(FragmentSource(source)));
        let context =
            TaskContext::default().with_session_config(config).with_runtime(self.runtime.clone());
        let batches = plan.execute(0, Arc::new(context)).map_err(|error| shard_error(&error))?;
        Ok(Box::pin(batches.map(|batch| batch.map_err(|error| shard_error(&error)))))
    }
}
