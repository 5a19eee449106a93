//! Maps of the next version: who owns which slots, ranges and home tables.
//!
//! Each change raises the epoch of the map it changes, and nothing else: table versions count shapes. Lives here: edits of a
//! catalog's copy. Not here: how rows get to a new owner (`gateway::moves`), where new tables are placed (`bind::ddl`).

use std::sync::Arc;

use cortex_shard_api::{
    Oid, SqlType,
    descriptor::{Placement, RangeMap, TableDescriptor},
    key::range_of,
};

use super::{Catalog, Table};
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
