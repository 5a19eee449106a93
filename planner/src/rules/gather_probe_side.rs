//! A nested loop join that tells which rows of its left side found no partner sees its right side as one stream.
//!
//! Before:
//! ```text
//! NestedLoopJoinExec: join_type=Left
//!   CoalescePartitionsExec > ShardFragmentExec [TableScanExec: o]
//!   ShardFragmentExec [TableScanExec: c]
//! ```
//! After:
//! ```text
//! NestedLoopJoinExec: join_type=Left
//!   CoalescePartitionsExec > ShardFragmentExec [TableScanExec: o]
//!   CoalescePartitionsExec > ShardFragmentExec [TableScanExec: c]
//! ```
//! DataFusion's join (55.2) goes to disk when its left side does not fit into memory. From then on each partition of the right
//! side counts for itself which left rows were matched, so a row without a partner in one of them comes out as unmatched although it
//! has one in another: wrong rows, once for each shard. Does not fire for joins that say nothing of unmatched left rows, nor
//! inside of shards, where there is one partition.

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
        ExecutionPlan, ExecutionPlanProperties, coalesce_partitions::CoalescePartitionsExec,
        joins::NestedLoopJoinExec,
    },
};

use super::with_children;

/// See the module.
#[derive(Debug)]
pub struct GatherProbeSide;

impl PhysicalOptimizerRule for GatherProbeSide {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rewritten = plan.transform_up(|node| {
            let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() else {
                return Ok(Transformed::no(node));
            };
            let right = join.right();
            if !tells_unmatched_left(*join.join_type())
                || right.output_partitioning().partition_count() == 1
            {
                return Ok(Transformed::no(node));
            }
            let gathered = Arc::new(CoalescePartitionsExec::new(right.clone()));
            let children = vec![join.left().clone(), gathered as Arc<dyn ExecutionPlan>];
            Ok(Transformed::yes(with_children(node, children)?))
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &'static str {
        "GatherProbeSide"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether what comes out depends on all that a left row met.
fn tells_unmatched_left(kind: JoinType) -> bool {
    match kind {
        JoinType::Left
        | JoinType::Full
        | JoinType::LeftSemi
        | JoinType::LeftAnti
        | JoinType::LeftMark => true,
        JoinType::Inner
        | JoinType::Right
        | JoinType::RightSemi
        | JoinType::RightAnti
        | JoinType::RightMark => false,
    }
}
