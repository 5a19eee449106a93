//! Maps of the next version: who owns which slots, ranges and home tables.
//!
//! Each change raises the epoch of the map it changes, and nothing else: table versions count shapes. Lives here: edits of a
//! catalog's copy. Not here: how rows get to a new owner (`gateway::moves`), where new tables are placed (`bind::ddl`).

use std::{collections::BTreeSet, sync::Arc};

use cortex_shard_api::{
    Oid, ShardId, SqlType, StorageId,
    descriptor::{Placement, RangeMap, SlotMap, TableDescriptor},
    key::range_of,
};

use super::{Catalog, Group, Schema, Sequence, Table, edit::Grouped};
use crate::{PlanError, PlanErrorKind};

/// Ranges of a table at most: the map travels with every request's descriptor.
pub const RANGES_MAX: usize = 4096;

/// The first column of a range table's shard key: its position and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeColumn {
    pub position: usize,
    pub ty: SqlType,
}

fn not_ranged(table: &TableDescriptor) -> PlanError {
    PlanError::new(
        PlanErrorKind::WrongObjectType,
        format!("table \"{}\" is not sharded by range", table.name),
    )
    .with_hint("Tables with shard_by = 'range(column)' have ranges.")
}

fn table_of(catalog: &Catalog, oid: Oid) -> Result<&Arc<Table>, PlanError> {
    catalog.tables.get(&oid).ok_or_else(|| {
        PlanError::new(PlanErrorKind::WrongObjectType, "the relation is not a table")
    })
}

/// The column that splits a range table; 42809 for other tables.
pub fn range_column(catalog: &Catalog, table: Oid) -> Result<RangeColumn, PlanError> {
    let table = table_of(catalog, table)?;
    match &table.descriptor.placement {
        Placement::Range { key, .. } => {
            let position = key.first().copied().unwrap_or(0);
            let column = table.descriptor.columns.get(position);
            let column = column.ok_or_else(|| not_ranged(&table.descriptor))?;
            Ok(RangeColumn { position, ty: column.ty.ty })
        }
        Placement::Home(_) | Placement::Hash { .. } | Placement::Reference(_) => {
            Err(not_ranged(&table.descriptor))
        }
    }
}

/// Cuts the range that holds `at` in two, both on its shard.
pub fn split_range(catalog: &mut Catalog, table: Oid, at: Vec<u8>) -> Result<(), PlanError> {
    edit_ranges(catalog, table, |map| {
        if map.splits.binary_search(&at).is_ok() {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                "there is a split point at this value already",
            ));
        }
        if map.owner.len() >= RANGES_MAX {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                format!("a table can have at most {RANGES_MAX} ranges"),
            )
            .with_hint("cortex.merge_ranges() makes one of two."));
        }
        let range = range_of(map, &at);
        let owner = map.owner.get(range).copied().unwrap_or_default();
        map.splits.insert(range, at);
        map.owner.insert(range, owner);
        Ok(())
    })
}

/// Takes a split point out; the ranges on both sides must be on one shard.
pub fn merge_ranges(catalog: &mut Catalog, table: Oid, at: &[u8]) -> Result<(), PlanError> {
    edit_ranges(catalog, table, |map| {
        let Ok(split) = map.splits.binary_search_by(|split| split.as_slice().cmp(at)) else {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                "there is no split point at this value",
            ));
        };
        let (left, right) = (map.owner.get(split), map.owner.get(split + 1));
        if let (Some(left), Some(right)) = (left, right)
            && left != right
        {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                format!("the ranges are on different shards, {left} and {right}"),
            )
            .with_hint("Move one of them first: cortex.move_range()."));
        }
        map.splits.remove(split);
        map.owner.remove(split + 1);
        Ok(())
    })
}

/// Changes the map of a range table and raises its epoch.
pub fn edit_ranges(
    catalog: &mut Catalog,
    oid: Oid,
    edit: impl FnOnce(&mut RangeMap) -> Result<(), PlanError>,
) -> Result<(), PlanError> {
    let mut table = Table::clone(table_of(catalog, oid)?);
    let descriptor = Arc::make_mut(&mut table.descriptor);
    let Placement::Range { map, .. } = &mut descriptor.placement else {
        return Err(not_ranged(descriptor));
    };
    let map = Arc::make_mut(map);
    edit(map)?;
    map.epoch += 1;
    catalog.put_table(table);
    Ok(())
}

/// First and last slot, both included.
pub type SlotRun = (u16, u16);

/// Encoded shard keys `[start, end)`; `None` is no bound.
pub type KeyRange<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Tables of a co-location group, by OID.
pub fn tables_of_group(catalog: &Catalog, group: Oid) -> Vec<Arc<Table>> {
    let in_group = |table: &&Arc<Table>| table.descriptor.group() == Some(group);
    catalog.tables.values().filter(in_group).cloned().collect()
}

/// Gives slots of a group to a shard; `None` leaves the owners as they are. The map has this epoch then.
pub fn set_slots(
    catalog: &mut Catalog,
    group: Oid,
    owned: Option<(&[SlotRun], ShardId)>,
    epoch: u64,
) {
    let Some(entry) = catalog.groups.get(&group).cloned() else { return };
    let mut map = SlotMap { epoch, ..SlotMap::clone(&entry.map) };
    if let Some((runs, to)) = owned {
        for (first, last) in runs {
            let slots = usize::from(*first)..=usize::from(*last);
            if let Some(owners) = map.owner.get_mut(slots) {
                owners.fill(to);
            }
        }
    }
    let map = Arc::new(map);
    catalog.groups.insert(group, Arc::new(Group { map: map.clone(), ..Group::clone(&entry) }));
    for table in tables_of_group(catalog, group) {
        let mut table = Table::clone(&table);
        if let Placement::Hash { map: of_table, .. } =
            &mut Arc::make_mut(&mut table.descriptor).placement
        {
            *of_table = map.clone();
        }
        catalog.put_table(table);
    }
}

/// Gives the keys in `[start, end)` of a range table to a shard; `None` leaves the owners as they are. The map has this
/// epoch then, and split points at both ends.
pub fn set_range(
    catalog: &mut Catalog,
    oid: Oid,
    owned: Option<(KeyRange<'_>, ShardId)>,
    epoch: u64,
) {
    let Some(table) = catalog.tables.get(&oid) else { return };
    let mut table = Table::clone(table);
    let descriptor = Arc::make_mut(&mut table.descriptor);
    let Placement::Range { map, .. } = &mut descriptor.placement else { return };
    let map = Arc::make_mut(map);
    map.epoch = epoch;
    if let Some(((start, end), to)) = owned {
        for split in [start, end].into_iter().flatten() {
            split_at(map, split);
        }
        for range in ranges_between(map, start, end) {
            if let Some(owner) = map.owner.get_mut(range) {
                *owner = to;
            }
        }
    }
    catalog.put_table(table);
}

fn split_at(map: &mut RangeMap, at: &[u8]) {
    if map.splits.binary_search_by(|split| split.as_slice().cmp(at)).is_err() {
        let range = range_of(map, at);
        let owner = map.owner.get(range).copied().unwrap_or_default();
        map.splits.insert(range, at.to_vec());
        map.owner.insert(range, owner);
    }
}

/// Positions of the ranges that hold any key in `[start, end)`.
pub fn ranges_between(
    map: &RangeMap,
    start: Option<&[u8]>,
    end: Option<&[u8]>,
) -> std::ops::Range<usize> {
    let first = start.map_or(0, |start| range_of(map, start));
    // The range that holds the last key below `end`.
    let last = end
        .map_or(map.splits.len(), |end| map.splits.partition_point(|split| split.as_slice() < end));
    first..last + 1
}

/// Gives a home or reference table another placement. Its epoch is the placement's then.
pub fn set_placement(catalog: &mut Catalog, oid: Oid, placement: Option<Placement>, epoch: u64) {
    let Some(table) = catalog.tables.get(&oid) else { return };
    let mut table = Table::clone(table);
    let descriptor = Arc::make_mut(&mut table.descriptor);
    if let Some(placement) = placement {
        descriptor.placement = placement;
    }
    descriptor.placement_epoch = epoch;
    catalog.put_table(table);
}

/// Makes a shard the home of schemas: of tables that are made from now on.
pub fn set_schema_home(catalog: &mut Catalog, oid: Oid, to: ShardId) {
    if let Some(schema) = catalog.schemas.get(&oid) {
        let schema = Schema { home: to, ..Schema::clone(schema) };
        catalog.put_schema(schema);
    }
}

/// Has a sequence counted on another shard.
pub fn set_sequence_home(catalog: &mut Catalog, oid: Oid, to: ShardId) {
    if let Some(sequence) = catalog.sequences.get(&oid) {
        let sequence = Sequence { home: to, ..Sequence::clone(sequence) };
        catalog.put_sequence(sequence);
    }
}

/// Home tables of schemas, by OID.
fn home_tables(catalog: &Catalog, schemas: &[Oid]) -> Vec<Arc<Table>> {
    let is_home = |table: &&Arc<Table>| {
        schemas.contains(&table.schema) && matches!(table.descriptor.placement, Placement::Home(_))
    };
    catalog.tables.values().filter(is_home).cloned().collect()
}

/// What of schemas has its rows on their home shards, by OID: home tables, and reference tables by their primary copies.
pub fn tables_at_home(catalog: &Catalog, schemas: &[Oid]) -> Vec<Arc<Table>> {
    let is_at_home = |table: &&Arc<Table>| {
        let home = catalog.schemas.get(&table.schema).map(|schema| schema.home);
        schemas.contains(&table.schema)
            && match table.descriptor.placement {
                Placement::Home(_) => true,
                Placement::Reference(_) => table.descriptor.primary_copy() == home,
                Placement::Hash { .. } | Placement::Range { .. } => false,
            }
    };
    catalog.tables.values().filter(is_at_home).cloned().collect()
}

/// Makes the copy of a reference table on a shard the primary one. Its rows and indexes have other storages then, as
/// `storage_of` says: a copy of the old storages must never be taken for one of the new.
pub fn set_primary_copy(
    catalog: &mut Catalog,
    oid: Oid,
    to: ShardId,
    storage_of: impl Fn(StorageId) -> StorageId,
    epoch: u64,
) {
    let Some(table) = catalog.tables.get(&oid) else { return };
    let mut table = Table::clone(table);
    let descriptor = Arc::make_mut(&mut table.descriptor);
    let Placement::Reference(copies) = &descriptor.placement else { return };
    let others = copies.iter().copied().filter(|copy| *copy != to);
    descriptor.placement = Placement::Reference([to].into_iter().chain(others).collect());
    descriptor.storage = storage_of(descriptor.storage);
    for index in &mut descriptor.indexes {
        index.storage = storage_of(index.storage);
    }
    descriptor.placement_epoch = epoch;
    catalog.put_table(table);
}

/// A schema with all that foreign keys between home tables tie to it: they have one home.
pub fn schemas_tied_to(catalog: &Catalog, schema: Oid) -> Vec<Oid> {
    let mut tied = BTreeSet::from([schema]);
    let mut queue = vec![schema];
    while let Some(next) = queue.pop() {
        for table in home_tables(catalog, &[next]) {
            let descriptor = &table.descriptor;
            let parents = descriptor.foreign_keys.iter().map(|key| key.parent);
            for other in parents.chain(descriptor.referenced_by.iter().copied()) {
                let Some(other) = catalog.tables.get(&other) else { continue };
                let is_home = matches!(other.descriptor.placement, Placement::Home(_));
                if is_home && tied.insert(other.schema) {
                    queue.push(other.schema);
                }
            }
        }
    }
    tied.into_iter().collect()
}
