//! From a constraint and a table's placement to a route: which shards, then how each finds the rows.

use std::collections::{BTreeMap, BTreeSet};

use cortex_shard_api::{
    ShardId, TableDescriptor, client::Access, descriptor::Placement, ids::Slot,
};

use super::{
    Route, ShardScan,
    access::{self, Path},
    domain::{Constraint, Domain},
    hash, range,
};

/// The slots of a hash table that one shard visits.
pub struct ShardSlots {
    pub slots: Vec<Slot>,
    /// Not just all that the shard owns.
    pub pruned: bool,
}

/// The route of a table under a constraint.
pub fn route(table: &TableDescriptor, constraint: &Constraint) -> Route {
    let constraint = with_not_null(table, constraint);
    let replicas = match &table.placement {
        Placement::Reference(shards) => shards.clone(),
        Placement::Home(_) | Placement::Hash { .. } | Placement::Range { .. } => vec![],
    };
    let n_shards = if replicas.is_empty() { table.shards().len() } else { 1 };
    if constraint.is_nothing() {
        return Route { scans: vec![], n_shards, replicas, path: Path::Empty };
    }
    let shards = shards(table, &constraint);
    let (path, scans) = access::choose(table, &constraint, &shards);
    let scans = scans
        .into_iter()
        .filter(|(_, access)| !matches!(access, Access::Empty))
        .map(|(shard, access)| ShardScan { shard, access })
        .collect();
    Route { scans, n_shards, replicas, path }
}

/// Columns that cannot be NULL lose NULL from what is known of them, so that points stay points.
fn with_not_null(table: &TableDescriptor, constraint: &Constraint) -> Constraint {
    let mut narrowed = constraint.clone();
    for (position, column) in table.live_columns() {
        if column.not_null && constraint.domain(position).is_some() {
            narrowed = narrowed.and(Constraint::column(position, Domain::not_null()));
        }
    }
    narrowed
}

/// The shards that can hold matching rows; of hash tables with the slots to visit.
fn shards(
    table: &TableDescriptor,
    constraint: &Constraint,
) -> BTreeMap<ShardId, Option<ShardSlots>> {
    match &table.placement {
        Placement::Home(shard) => BTreeMap::from([(*shard, None)]),
        // The first copy is the primary one, on the home shard, where most other scans are too.
        Placement::Reference(shards) => {
            shards.first().map(|shard| (*shard, None)).into_iter().collect()
        }
        Placement::Hash { key, map } => {
            let slots: Option<BTreeSet<Slot>> = hash::slots(table, key, constraint);
            let pruned = slots.is_some();
            hash::owners(map, slots.as_ref())
                .into_iter()
                .map(|(shard, slots)| (shard, Some(ShardSlots { slots, pruned })))
                .collect()
        }
        Placement::Range { key, map } => {
            let first = key.first().copied().unwrap_or_default();
            let Some(column) = table.columns.get(first) else { return BTreeMap::new() };
            range::owners(map, column.ty.ty, constraint.domain(first))
                .into_iter()
                .map(|shard| (shard, None))
                .collect()
        }
    }
}
