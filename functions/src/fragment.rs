//! A plan for one shard, as `ShardClient::execute` takes it.

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use cortex_shard_api::{ShardError, client::FragmentPlan};
use datafusion::physical_plan::ExecutionPlan;

use crate::{codec, session::EvalContext};

/// A plan of one partition whose leaves are `TableScanExec`s of one shard.
pub struct PlanFragment {
    plan: Arc<dyn ExecutionPlan>,
    /// What the plan's functions see; those in the plan have it already, and another process must be told.
    context: Arc<EvalContext>,
    encoded: OnceLock<Result<Bytes, ShardError>>,
}

impl PlanFragment {
    pub fn new(plan: Arc<dyn ExecutionPlan>, context: Arc<EvalContext>) -> PlanFragment {
        PlanFragment { plan, context, encoded: OnceLock::new() }
    }

    pub fn plan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.plan
    }
}

impl fmt::Debug for PlanFragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlanFragment({})", self.plan.name())
    }
}

impl FragmentPlan for PlanFragment {
    fn encode(&self) -> Result<(u16, Bytes), ShardError> {
        let encoded = self
            .encoded
            .get_or_init(|| codec::encode(&self.plan, &self.context).map_err(ShardError::from));
        Ok((codec::VERSION, encoded.clone()?))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
