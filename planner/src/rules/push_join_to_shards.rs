//! Joins of rows that are on the same shard run there, with the filters and projections below them.
//!
//! Before:
//! ```text
//! HashJoinExec: on=[(o.tenant_id, c.tenant_id)]
//!   ShardFragmentExec [TableScanExec: o]
//!   ShardFragmentExec [TableScanExec: c]
//! ```
//! After:
//! ```text
//! ShardFragmentExec [HashJoinExec: on=[(o.tenant_id, c.tenant_id)] > TableScanExec: o, TableScanExec: c]
//! ```
//! Fires for tables of one co-location group joined by their whole shard key, for reference tables on a side whose unmatched rows
//! are not wanted, and for tables on one and the same shard. Does not fire for `LEFT JOIN` with the reference table on the
//! left: its unmatched rows would come once from each shard. Runs before DataFusion decides how to bring the sides together.

use std::sync::Arc;

use datafusion::{
    common::{
        JoinType,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    error::Result,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan,
        filter::FilterExec,
        joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec},
        projection::ProjectionExec,
    },
};

use super::{
    placement::{self, Side, column},
    pushable::is_pushable,
};
use crate::operators::ShardFragmentExec;

/// See the module.
#[derive(Debug)]
pub struct PushJoinToShards;

impl PhysicalOptimizerRule for PushJoinToShards {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(plan.transform_up(absorb_join)?.data)
    }

    fn name(&self) -> &'static str {
        "PushJoinToShards"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What decides whether a join can run in the shards.
pub(super) struct JoinShape {
    pub on: Vec<(usize, usize)>,
    pub join_type: JoinType,
    pub null_aware: bool,
}

pub(super) fn shape(node: &dyn ExecutionPlan) -> Option<JoinShape> {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        let on = join.on().iter();
        let on = on.filter_map(|(left, right)| Some((column(left)?, column(right)?))).collect();
        return Some(JoinShape { on, join_type: *join.join_type(), null_aware: join.null_aware });
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        return Some(JoinShape { on: vec![], join_type: *join.join_type(), null_aware: false });
    }
    node.is::<CrossJoinExec>().then_some(JoinShape {
        on: vec![],
        join_type: JoinType::Inner,
        null_aware: false,
    })
}

fn absorb_join(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let (Some(shape), [left, right]) = (shape(node.as_ref()), &node.children()[..]) else {
        return Ok(Transformed::no(node));
    };
    let (Some(left), Some(right)) = (side(left)?, side(right)?) else {
        return Ok(Transformed::no(node));
    };
    // Were the rows too many to be sent, the join would run in the gateway, and then not shard by shard.
    if !left.broadcasts.is_empty() || !right.broadcasts.is_empty() {
        return Ok(Transformed::no(node));
    }
    let shards =
        placement::join_shards(&left, &right, &shape.on, shape.join_type, shape.null_aware);
    let Some(shards) = shards else { return Ok(Transformed::no(node)) };
    if !is_pushable(node.as_ref())? {
        return Ok(Transformed::no(node));
    }
    let fragment = super::with_children(node, vec![left.fragment, right.fragment])?;
    Ok(Transformed::yes(Arc::new(ShardFragmentExec::try_new(fragment, shards)?)))
}

/// A side as a fragment, with the filters and projections between it and the join.
pub(super) fn side(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Side>> {
    if let Some(below) = node.downcast_ref::<ShardFragmentExec>() {
        let (fragment, shards) = (below.fragment().clone(), below.shards().to_vec());
        let broadcasts = below.broadcasts().to_vec();
        return Ok(Some(Side { fragment, shards, broadcasts }));
    }
    let ([input], true) = (&node.children()[..], is_light(node.as_ref())) else {
        return Ok(None);
    };
    let Some(below) = side(input)? else { return Ok(None) };
    if !is_pushable(node.as_ref())? {
        return Ok(None);
    }
    let fragment = super::with_children(node.clone(), vec![below.fragment])?;
    Ok(Some(Side { fragment, ..below }))
}

fn is_light(node: &dyn ExecutionPlan) -> bool {
    node.is::<FilterExec>() || node.is::<ProjectionExec>()
}
