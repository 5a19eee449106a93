//! Answers without the shards that are down, for those who ask for them (`cortex.partial_reads`).
//!
//! Lives here: which shards a plan reads, and whether leaving some out only takes rows away. It does not where a row is there
//! *because* another is not: the anti side of a join, the side that an outer join fills with NULL. Such an answer would have
//! rows that the whole one has not, so it is never given. Not here: who decides that a shard is down (the gateway).

use std::{collections::BTreeSet, sync::Arc};

use cortex_shard_api::ShardId;
use datafusion::{
    common::JoinType,
    physical_plan::{
        ExecutionPlan,
        joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec},
    },
};

use super::ShardFragmentExec;

/// Why shards cannot be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// Some part of the plan reads no other shard: nothing would be left of it.
    Alone,
    /// The answer would have rows that the whole one has not.
    Absence,
}

/// Every shard that a plan reads.
pub fn shards_of(plan: &Arc<dyn ExecutionPlan>) -> BTreeSet<ShardId> {
    let mut shards = BTreeSet::new();
    collect(plan, &mut shards);
    shards
}

fn collect(plan: &Arc<dyn ExecutionPlan>, shards: &mut BTreeSet<ShardId>) {
    if let Some(fragment) = plan.downcast_ref::<ShardFragmentExec>() {
        shards.extend(fragment.shards());
    }
    plan.children().into_iter().for_each(|child| collect(child, shards));
}

/// Whether the plan's answer without these shards is a part of its answer with them.
pub fn can_leave_out(
    plan: &Arc<dyn ExecutionPlan>,
    missing: &BTreeSet<ShardId>,
) -> Result<(), Needed> {
    if let Some(fragment) = plan.downcast_ref::<ShardFragmentExec>() {
        if fragment.shards().iter().all(|shard| missing.contains(shard)) {
            return Err(Needed::Alone);
        }
        // What the gateway gives to the shards meets whatever operators are in the fragment.
        let fed = plan.children().into_iter().any(|child| !shards_of(child).is_disjoint(missing));
        if fed && has_absence(fragment.fragment()) {
            return Err(Needed::Absence);
        }
    }
    let whole = needs_whole(plan.as_ref());
    for (child, whole) in plan.children().into_iter().zip(whole) {
        if whole && !shards_of(child).is_disjoint(missing) {
            return Err(Needed::Absence);
        }
    }
    plan.children().into_iter().try_for_each(|child| can_leave_out(child, missing))
}

fn has_absence(plan: &Arc<dyn ExecutionPlan>) -> bool {
    needs_whole(plan.as_ref()).contains(&true) || plan.children().into_iter().any(has_absence)
}

/// Which inputs of a join must be whole: left, right.
fn needs_whole(plan: &dyn ExecutionPlan) -> [bool; 2] {
    let join_type = if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        *join.join_type()
    } else if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        *join.join_type()
    } else if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
        join.join_type()
    } else {
        return [false, false];
    };
    match join_type {
        JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => [false, false],
        JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => [false, true],
        JoinType::Right | JoinType::RightAnti | JoinType::RightMark => [true, false],
        JoinType::Full => [true, true],
    }
}
