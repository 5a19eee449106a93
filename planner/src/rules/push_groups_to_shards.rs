//! Groups that never span shards are finished in the shards.
//!
//! Before, where `t` is sharded by `tenant_id`:
//! ```text
//! AggregateExec: mode=Final, gby=[tenant_id, kind]
//!   CoalescePartitionsExec
//!     ShardFragmentExec [AggregateExec: mode=Partial, gby=[tenant_id, kind] > TableScanExec: t]
//! ```
//! After:
//! ```text
//! CoalescePartitionsExec
//!   ShardFragmentExec [AggregateExec: mode=Single, gby=[tenant_id, kind] > TableScanExec: t]
//! ```
//! Does not fire when a shard key column is missing from the groups, nor on grouping sets, where it may be left out.

use std::sync::Arc;

use datafusion::{
    common::{
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    error::Result,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan,
        aggregates::{AggregateExec, AggregateMode},
        coalesce_partitions::CoalescePartitionsExec,
    },
};

use super::placement::{column, spread};
use crate::operators::ShardFragmentExec;

/// See the module.
#[derive(Debug)]
pub struct PushGroupsToShards;

impl PhysicalOptimizerRule for PushGroupsToShards {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rewritten = plan.transform_up(|node| match finished_in_shards(node.as_ref())? {
            Some(better) => Ok(Transformed::yes(better)),
            None => Ok(Transformed::no(node)),
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &'static str {
        "PushGroupsToShards"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn finished_in_shards(node: &dyn ExecutionPlan) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some((whole, below, partial)) = parts(node) else { return Ok(None) };
    if !has_shard_key(partial) || whole.limit_options().is_some() {
        return Ok(None);
    }
    let single = AggregateExec::try_new(
        AggregateMode::Single,
        partial.group_expr().clone(),
        partial.aggr_expr().to_vec(),
        partial.filter_expr().to_vec(),
        partial.input().clone(),
        partial.input_schema(),
    )?;
    if single.schema() != whole.schema() {
        return Ok(None);
    }
    let fragment = below.around(Arc::new(single))?;
    Ok(Some(Arc::new(CoalescePartitionsExec::new(Arc::new(fragment)))))
}

/// The final aggregate, the fragment below it, and the partial aggregate that it ends with.
fn parts(node: &dyn ExecutionPlan) -> Option<(&AggregateExec, &ShardFragmentExec, &AggregateExec)> {
    let whole = node.downcast_ref::<AggregateExec>()?;
    if *whole.mode() != AggregateMode::Final {
        return None;
    }
    let gathered = whole.input().downcast_ref::<CoalescePartitionsExec>()?;
    let below = gathered.input().downcast_ref::<ShardFragmentExec>()?;
    let partial = below.fragment().downcast_ref::<AggregateExec>()?;
    (*partial.mode() == AggregateMode::Partial).then_some((whole, below, partial))
}

fn has_shard_key(partial: &AggregateExec) -> bool {
    let groups = partial.group_expr();
    if groups.has_grouping_set() {
        return false;
    }
    let columns: Vec<usize> = groups.expr().iter().filter_map(|(expr, _)| column(expr)).collect();
    spread(partial.input()).is_some_and(|spread| {
        spread.key.iter().all(|held| columns.iter().any(|column| held.contains(column)))
    })
}
