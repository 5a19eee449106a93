//! Rewrites of physical plans, in order. One file for each rule; what they share is in `placement` and `pushable`.

use std::sync::Arc;

use datafusion::{
    error::Result,
    physical_optimizer::{PhysicalOptimizerRule, optimizer::PhysicalOptimizer},
    physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions},
};

/// Where the rows of a fragment are: shards, copies, shard key.
mod placement;

/// What a shard can run.
mod pushable;

/// Joins of rows that are on the same shard run there.
mod push_join_to_shards;

/// Joins with a small side run where the other side is.
mod broadcast_join;

/// Joins that would count partners apart for each shard get one stream.
mod gather_probe_side;

/// The longest chain above a scan runs in the shards.
mod push_to_shards;

/// Groups that never span shards are finished in the shards.
mod push_groups_to_shards;

pub use broadcast_join::BroadcastJoin;
pub use gather_probe_side::GatherProbeSide;
pub use push_groups_to_shards::PushGroupsToShards;
pub use push_join_to_shards::PushJoinToShards;
pub use push_to_shards::PushToShards;

/// DataFusion's rules with ours among them. Joins are pushed before DataFusion decides how to bring their sides together; all
/// else after it has made its plan, when limits, sorts and partial aggregates are in their places.
pub fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    // DataFusion's physical filter pushdown maps columns by name through the projection above a swapped join, and so takes
    // one side's column for the other's where both have the name: wrong rows. It has nothing to give here either: scans
    // prune in `scan()`, and dynamic filters are off.
    rules.retain(|rule| !rule.name().starts_with("FilterPushdown"));
    let position = |rules: &[Arc<dyn PhysicalOptimizerRule + Send + Sync>], name: &str| {
        rules.iter().position(|rule| rule.name() == name)
    };
    let after_joins = position(&rules, "join_selection").map_or(0, |join| join + 1);
    rules.insert(after_joins, Arc::new(PushJoinToShards));
    rules.insert(after_joins + 1, Arc::new(BroadcastJoin));
    let end = position(&rules, "EnsureCooperative").unwrap_or(rules.len());
    rules.insert(end, Arc::new(GatherProbeSide));
    rules.insert(end + 1, Arc::new(PushToShards));
    rules.insert(end + 2, Arc::new(PushGroupsToShards));
    rules
}

/// The operator over other inputs, its properties made anew.
fn with_children(
    node: Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    node.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}
