//! A plan for one shard, as `ShardClient::execute` takes it.

use std::{any::Any, fmt, sync::Arc};

use bytes::Bytes;
use cortex_shard_api::{ShardError, client::FragmentPlan};
use datafusion::physical_plan::ExecutionPlan;

/// A plan of one partition whose leaves are `TableScanExec`s of one shard.
pub struct PlanFragment {
    plan: Arc<dyn ExecutionPlan>,
}

impl PlanFragment {
    pub fn new(plan: Arc<dyn ExecutionPlan>) -> PlanFragment {
        PlanFragment { plan }
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
        Err(ShardError::Execution("plans cannot travel to another process yet".to_owned()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
