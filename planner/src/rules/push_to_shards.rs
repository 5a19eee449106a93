//! The longest chain of operators above a scan that works shard by shard runs in the shards.
//!
//! Before:
//! ```text
//! AggregateExec: mode=Final
//!   CoalescePartitionsExec
//!     AggregateExec: mode=Partial
//!       FilterExec
//!         ShardFragmentExec [TableScanExec]
//! ```
//! After:
//! ```text
//! AggregateExec: mode=Final
//!   CoalescePartitionsExec
//!     ShardFragmentExec [AggregateExec: mode=Partial > FilterExec > TableScanExec]
//! ```
//! Does not fire on a filter with `random()` in it, nor (over several shards) on a whole aggregate or a window: those need
//! rows of more than one shard. Over one shard everything goes there.

use std::sync::Arc;

use datafusion::{
    common::{
        config::ConfigOptions,
        internal_err,
        tree_node::{Transformed, TreeNode},
    },
    error::Result,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan,
        aggregates::{AggregateExec, AggregateMode},
        coop::CooperativeExec,
        filter::FilterExec,
        limit::{GlobalLimitExec, LocalLimitExec},
        projection::ProjectionExec,
        sorts::sort::SortExec,
        unnest::UnnestExec,
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};

use super::pushable::is_pushable;
use crate::operators::ShardFragmentExec;

/// See the module.
#[derive(Debug)]
pub struct PushToShards;

impl PhysicalOptimizerRule for PushToShards {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(plan.transform_up(absorb)?.data)
    }

    fn name(&self) -> &'static str {
        "PushToShards"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Moves an operator with one input into the fragment below it, if it works shard by shard.
fn absorb(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let [child] = node.children()[..] else { return Ok(Transformed::no(node)) };
    let Some(below) = child.downcast_ref::<ShardFragmentExec>() else {
        return Ok(Transformed::no(node));
    };
    if !is_partition_wise(node.as_ref(), below.shards().len()) || !is_pushable(node.as_ref())? {
        return Ok(Transformed::no(node));
    }
    let (fragment, below) = (below.fragment().clone(), Arc::clone(child));
    let fragment = super::with_children(node, vec![fragment])?;
    match below.downcast_ref::<ShardFragmentExec>() {
        Some(below) => Ok(Transformed::yes(Arc::new(below.around(fragment)?))),
        None => internal_err!("a fragment that is none"),
    }
}

/// Whether the operator's output on each shard depends on nothing but its input there.
fn is_partition_wise(node: &dyn ExecutionPlan, n_shards: usize) -> bool {
    if node.is::<FilterExec>()
        || node.is::<ProjectionExec>()
        || node.is::<CooperativeExec>()
        || node.is::<LocalLimitExec>()
    {
        return true;
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        return n_shards == 1 || *aggregate.mode() == AggregateMode::Partial;
    }
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        return n_shards == 1 || sort.preserve_partitioning();
    }
    n_shards == 1
        && (node.is::<GlobalLimitExec>()
            || node.is::<WindowAggExec>()
            || node.is::<BoundedWindowAggExec>()
            || node.is::<UnnestExec>())
}
