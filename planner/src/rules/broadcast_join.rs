//! A join whose one side is small runs in the shards that have the other: the small side's rows go there with the fragment.
//!
//! Before:
//! ```text
//! HashJoinExec: on=[(d.name, o.kind)]
//!   ShardFragmentExec [TableScanExec: d]
//!   ShardFragmentExec [TableScanExec: o]
//! ```
//! After:
//! ```text
//! ShardFragmentExec [HashJoinExec: on=[(d.name, o.kind)] > BroadcastRowsExec, TableScanExec: o]
//!   ShardFragmentExec [TableScanExec: d]
//! ```
//! The small side is the join's left one, which joins keep in memory; DataFusion put it there by the same statistics. Fires where
//! every row of the result belongs to one row of the other side: inner joins, right ones, and semi, anti and mark joins of the
//! right side. Does not fire on `LEFT JOIN` with the small side on the left, nor on FULL JOIN: each shard would take the rows that
//! match nothing there for rows that match nothing. Over one shard any join may. Nor when more than `BROADCAST_ROWS_MAX` rows
//! are expected; when nobody knows how many there are, it shows when they are computed (`operators::broadcast`).
//!
//! Runs behind `PushJoinToShards`, which needs no rows to travel. The fragment that comes of it takes part in no other join
//! but as the large side of another broadcast.

use std::sync::Arc;

use cortex_functions::broadcast_rows::BroadcastRowsExec;
use datafusion::{
    common::{
        JoinSide,
        config::ConfigOptions,
        stats::Precision,
        tree_node::{Transformed, TreeNode},
    },
    error::Result,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan,
        joins::{HashJoinExec, PartitionMode},
        statistics::{StatisticsArgs, StatisticsContext},
    },
};

use super::{
    placement::{Side, decides},
    push_join_to_shards::{JoinShape, shape, side},
    pushable::is_pushable,
};
use crate::operators::ShardFragmentExec;

/// Rows that the small side may be expected to have: what fits the bound on their bytes when rows are short.
const BROADCAST_ROWS_MAX: usize = 50_000;

/// Small sides of one fragment, whose rows travel in one message.
const BROADCASTS_MAX: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct BroadcastJoin;

impl PhysicalOptimizerRule for BroadcastJoin {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(plan.transform_up(broadcast)?.data)
    }

    fn name(&self) -> &'static str {
        "BroadcastJoin"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn broadcast(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let (Some(shape), [small, large]) = (shape(node.as_ref()), &node.children()[..]) else {
        return Ok(Transformed::no(node));
    };
    let Some(large) = side(large)? else { return Ok(Transformed::no(node)) };
    if !is_right(&shape, &large)
        || !keeps_left(node.as_ref())
        || large.broadcasts.len() >= BROADCASTS_MAX
        || !is_small(small)?
        || !is_pushable(node.as_ref())?
    {
        return Ok(Transformed::no(node));
    }
    let rows = BroadcastRowsExec::awaited(large.broadcasts.len(), small.schema());
    let mut broadcasts = large.broadcasts;
    broadcasts.push(Arc::clone(small));
    let fragment = super::with_children(node, vec![Arc::new(rows), large.fragment])?;
    let fragment = ShardFragmentExec::with_broadcasts(fragment, large.shards, broadcasts)?;
    Ok(Transformed::yes(Arc::new(fragment)))
}

/// Whether each shard's answer to the join is its part of the whole answer.
fn is_right(shape: &JoinShape, large: &Side) -> bool {
    large.shards.len() == 1 || (decides(shape.join_type, JoinSide::Right) && !shape.null_aware)
}

/// Whether the join keeps its whole left side, whoever reads the right one.
fn keeps_left(node: &dyn ExecutionPlan) -> bool {
    let hash = node.downcast_ref::<HashJoinExec>();
    hash.is_none_or(|join| *join.partition_mode() != PartitionMode::Partitioned)
}

fn is_small(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new())?;
    Ok(match statistics.num_rows {
        Precision::Exact(rows) | Precision::Inexact(rows) => rows <= BROADCAST_ROWS_MAX,
        Precision::Absent => true,
    })
}
