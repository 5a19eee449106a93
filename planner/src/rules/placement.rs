//! Where the rows of a fragment are: which shards have whole copies, and which output columns hold the shard key.
//!
//! Two fragments can be joined in the shards when every pair of rows that can match is on one shard. That is so when both are on
//! one shard as a whole, when one has a whole copy everywhere, or when the join compares the shard keys of tables that share a
//! shard map.

use std::{collections::BTreeSet, sync::Arc};

use cortex_functions::{lower::comparison_key_argument, table_scan::TableScanExec};
use cortex_shard_api::{
    ShardId,
    descriptor::{Placement, TableDescriptor},
};
use datafusion::{
    common::{JoinSide, JoinType, ScalarValue},
    logical_expr::{Expr, ScalarUDF},
    physical_expr::{PhysicalExpr, ScalarFunctionExpr, expressions::Column},
    physical_plan::{
        ExecutionPlan, filter::FilterExec, joins::HashJoinExec, projection::ProjectionExec,
    },
};

/// The shard map that spreads a fragment's rows, and where its shard key is in the output.
#[derive(Clone, Debug)]
pub struct Spread {
    /// Same group and epoch: same map.
    group: (u32, u64),
    /// For each column of the shard key, the output columns that hold it.
    pub key: Vec<BTreeSet<usize>>,
}

/// Shards that have a whole copy of all that the fragment reads; `None` if a table of it is not a reference table.
pub fn replicas(fragment: &Arc<dyn ExecutionPlan>) -> Option<BTreeSet<ShardId>> {
    if let Some(scan) = fragment.downcast_ref::<TableScanExec>() {
        let replicas: BTreeSet<ShardId> = scan.replicas().iter().copied().collect();
        return (!replicas.is_empty()).then_some(replicas);
    }
    let mut common: Option<BTreeSet<ShardId>> = None;
    for child in fragment.children() {
        let replicas = replicas(child)?;
        common = Some(match common {
            Some(known) => known.intersection(&replicas).copied().collect(),
            None => replicas,
        });
    }
    common.filter(|common| !common.is_empty())
}

/// How the fragment's rows are spread, as far as its output columns show it.
pub fn spread(fragment: &Arc<dyn ExecutionPlan>) -> Option<Spread> {
    if let Some(scan) = fragment.downcast_ref::<TableScanExec>() {
        let spec = &scan.partitions().first()?.spec;
        return of_table(&spec.table, &spec.columns);
    }
    if let Some(filter) = fragment.downcast_ref::<FilterExec>() {
        let spread = spread(filter.input())?;
        return match filter.projection() {
            Some(projection) => spread.moved(|old| positions(projection, old)),
            None => Some(spread),
        };
    }
    if let Some(projection) = fragment.downcast_ref::<ProjectionExec>() {
        let spread = spread(projection.input())?;
        return spread.moved(|old| {
            let outputs = projection.expr().iter().enumerate();
            outputs
                .filter(|(_, output)| column(&output.expr) == Some(old))
                .map(|(new, _)| new)
                .collect()
        });
    }
    fragment.downcast_ref::<HashJoinExec>().and_then(of_join)
}

fn of_table(table: &TableDescriptor, columns: &[usize]) -> Option<Spread> {
    let (key, group) = match &table.placement {
        Placement::Hash { key, map } => (key, (map.group.0, map.epoch)),
        Placement::Range { key, map } => (key, (map.group.0, map.epoch)),
        Placement::Home(_) | Placement::Reference(_) => return None,
    };
    let key = key.iter().map(|position| positions(columns, *position)).collect();
    Spread { group, key }.complete()
}

/// Of a join in the shards: the rows are where those of the side are that decides on its output. A side that NULLs are
/// put in for says nothing.
fn of_join(join: &HashJoinExec) -> Option<Spread> {
    let left = || spread(join.left());
    let right = || spread(join.right());
    let n_left = join.left().schema().fields().len();
    let sides = match join.join_type() {
        JoinType::Inner => match (left(), right().map(|right| right.shifted(n_left))) {
            (Some(left), Some(right)) if left.group == right.group => left.merged(right),
            (Some(one), _) | (None, Some(one)) => one,
            (None, None) => return None,
        },
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left()?,
        JoinType::Right => right()?.shifted(n_left),
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right()?,
        JoinType::Full => return None,
    };
    match &join.projection {
        Some(projection) => sides.moved(|old| positions(projection, old)),
        None => Some(sides),
    }
}

impl Spread {
    fn complete(self) -> Option<Spread> {
        (!self.key.is_empty() && self.key.iter().all(|columns| !columns.is_empty())).then_some(self)
    }

    /// The same rows with other columns; `None` when a shard key column is lost.
    fn moved(self, to: impl Fn(usize) -> BTreeSet<usize>) -> Option<Spread> {
        let key =
            self.key.iter().map(|old| old.iter().flat_map(|old| to(*old)).collect()).collect();
        Spread { key, ..self }.complete()
    }

    fn shifted(self, by: usize) -> Spread {
        let shift = |columns: &BTreeSet<usize>| columns.iter().map(|column| column + by).collect();
        Spread { key: self.key.iter().map(shift).collect(), ..self }
    }

    fn merged(self, other: Spread) -> Spread {
        let both = self.key.iter().zip(&other.key);
        Spread { key: both.map(|(left, right)| left | right).collect(), ..self }
    }
}

/// Where an old column stands among the kept ones.
fn positions(kept: &[usize], old: usize) -> BTreeSet<usize> {
    kept.iter().enumerate().filter(|(_, kept)| **kept == old).map(|(new, _)| new).collect()
}

/// The column behind an expression that keeps equality: itself, or its comparison key.
pub fn column(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    if let Some(column) = expr.downcast_ref::<Column>() {
        return Some(column.index());
    }
    let call = expr.downcast_ref::<ScalarFunctionExpr>()?;
    match call.args() {
        [arg] if is_comparison_key(call.fun()) => column(arg),
        _ => None,
    }
}

/// Whether the function is the one that `functions::lower::comparison_key` puts around values.
fn is_comparison_key(function: &ScalarUDF) -> bool {
    let call = function.call(vec![Expr::Literal(ScalarValue::Null, None)]);
    comparison_key_argument(&call).is_some()
}

/// One side of a join: what it runs, and where.
pub struct Side {
    pub fragment: Arc<dyn ExecutionPlan>,
    pub shards: Vec<ShardId>,
    /// What travels with it.
    pub broadcasts: Vec<Arc<dyn ExecutionPlan>>,
}

/// The shards on which the join of two fragments can run by itself, or `None`. `on` are the pairs of columns that it compares;
/// `null_aware` joins must see all of the right side.
pub fn join_shards(
    left: &Side,
    right: &Side,
    on: &[(usize, usize)],
    join_type: JoinType,
    null_aware: bool,
) -> Option<Vec<ShardId>> {
    match (replicas(&left.fragment), replicas(&right.fragment)) {
        (Some(copies), Some(others)) => {
            // Where one of them would be read alone.
            let chosen = left.shards.iter().chain(&right.shards);
            let mut chosen = chosen.filter(|it| copies.contains(it) && others.contains(it));
            let shard = chosen.next().or_else(|| copies.intersection(&others).next());
            shard.map(|shard| vec![*shard])
        }
        (Some(copies), None) => beside(&copies, &right.shards, decides(join_type, JoinSide::Right)),
        (None, Some(copies)) => beside(&copies, &left.shards, decides(join_type, JoinSide::Left)),
        (None, None) => match (&left.shards[..], &right.shards[..]) {
            ([one], [other]) if one == other => Some(vec![*one]),
            _ if null_aware => None,
            _ => co_located(left, right, on, join_type),
        },
    }
}

/// A side with copies beside one that is spread: each row of the spread side meets a whole copy. Rows that only the
/// copied side decides on would come out once for each shard.
fn beside(
    copies: &BTreeSet<ShardId>,
    shards: &[ShardId],
    spread_decides: bool,
) -> Option<Vec<ShardId>> {
    let everywhere = shards.iter().all(|shard| copies.contains(shard));
    (everywhere && (spread_decides || shards.len() == 1)).then(|| shards.to_vec())
}

/// Whether every output row of the join belongs to one row of this side.
pub(super) fn decides(join_type: JoinType, side: JoinSide) -> bool {
    match join_type {
        JoinType::Inner => true,
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
            side == JoinSide::Left
        }
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
            side == JoinSide::Right
        }
        JoinType::Full => false,
    }
}

fn co_located(
    left: &Side,
    right: &Side,
    on: &[(usize, usize)],
    join_type: JoinType,
) -> Option<Vec<ShardId>> {
    let (left_spread, right_spread) = (spread(&left.fragment)?, spread(&right.fragment)?);
    if left_spread.group != right_spread.group || left_spread.key.len() != right_spread.key.len() {
        return None;
    }
    let compared = left_spread.key.iter().zip(&right_spread.key).all(|(left_key, right_key)| {
        on.iter().any(|(left, right)| left_key.contains(left) && right_key.contains(right))
    });
    if !compared {
        return None;
    }
    let lefts: BTreeSet<ShardId> = left.shards.iter().copied().collect();
    let rights: BTreeSet<ShardId> = right.shards.iter().copied().collect();
    // A shard that one side does not reach has none of its rows.
    let shards: Vec<ShardId> = if join_type == JoinType::Inner {
        lefts.intersection(&rights).copied().collect()
    } else if decides(join_type, JoinSide::Left) && lefts.is_subset(&rights) {
        lefts.into_iter().collect()
    } else if decides(join_type, JoinSide::Right) && rights.is_subset(&lefts) {
        rights.into_iter().collect()
    } else if lefts == rights {
        lefts.into_iter().collect()
    } else {
        return None;
    };
    (!shards.is_empty()).then_some(shards)
}
