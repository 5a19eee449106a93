//! Hash tables: from the shard key's values to slots, and from slots to shards.

use std::collections::{BTreeMap, BTreeSet};

use cortex_shard_api::{
    Datum, ShardId, SqlType, TableDescriptor, descriptor::SlotMap, ids::Slot, key::slot,
};

use super::domain::Constraint;

/// Combinations of shard key values that are hashed at the most; beyond, most slots would be hit anyway.
const POINTS_MAX: usize = 1000;

/// The slots that rows under the constraint can be in; `None` if any.
pub fn slots(
    table: &TableDescriptor,
    key: &[usize],
    constraint: &Constraint,
) -> Option<BTreeSet<Slot>> {
    let mut combinations: Vec<Vec<(Datum, SqlType)>> = vec![vec![]];
    for position in key {
        let ty = table.columns.get(*position)?.ty.ty;
        let points = constraint.domain(*position)?.points()?;
        if combinations.len().saturating_mul(points.len()) > POINTS_MAX {
            return None;
        }
        combinations = combinations
            .iter()
            .flat_map(|prefix| {
                points.iter().map(|point| {
                    let mut longer = prefix.clone();
                    longer.push((point.clone(), ty));
                    longer
                })
            })
            .collect();
    }
    Some(combinations.iter().map(|values| slot_of(values)).collect())
}

/// The slot of one combination of shard key values.
pub fn slot_of(values: &[(Datum, SqlType)]) -> Slot {
    let borrowed: Vec<(&Datum, SqlType)> = values.iter().map(|(value, ty)| (value, *ty)).collect();
    slot(&borrowed)
}

/// The slots grouped by the shards that own them; `None` is all slots.
pub fn owners(map: &SlotMap, slots: Option<&BTreeSet<Slot>>) -> BTreeMap<ShardId, Vec<Slot>> {
    let mut owners: BTreeMap<ShardId, Vec<Slot>> = BTreeMap::new();
    for (number, owner) in map.owner.iter().enumerate() {
        let slot = Slot(number as u16);
        if slots.is_none_or(|slots| slots.contains(&slot)) {
            owners.entry(*owner).or_default().push(slot);
        }
    }
    owners
}
