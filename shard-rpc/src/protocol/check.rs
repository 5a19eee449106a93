//! What of a request can be judged without a shard: positions that must be in a descriptor, lists that must be as long as
//! others. A shard may then index by them.

use cortex_shard_api::{
    TableDescriptor,
    client::{Access, Arbiter, Key, OnConflict, Row, ScanSpec, WriteOp, WriteRequest},
    descriptor::{Placement, SLOTS},
};

/// Bytes with which every row key begins: the storage id.
const KEY_BYTES_MIN: usize = 4;

/// What is wrong with a request.
pub(crate) type Wrong = &'static str;

fn all_below(positions: &[usize], n: usize, wrong: Wrong) -> Result<(), Wrong> {
    if positions.iter().all(|position| *position < n) { Ok(()) } else { Err(wrong) }
}

/// A table descriptor whose parts fit each other.
pub(crate) fn table(table: &TableDescriptor) -> Result<(), Wrong> {
    let n = table.columns.len();
    all_below(&table.primary_key, n, "a primary key column that the table does not have")?;
    for index in &table.indexes {
        if index.columns.iter().any(|column| column.column >= n) {
            return Err("an index column that the table does not have");
        }
    }
    for key in &table.foreign_keys {
        all_below(&key.columns, n, "a foreign key column that the table does not have")?;
        if key.columns.len() != key.parent_columns.len() {
            return Err("a foreign key with more columns on one side");
        }
    }
    match &table.placement {
        Placement::Home(_) => Ok(()),
        Placement::Reference(shards) if shards.is_empty() => {
            Err("a reference table without a copy")
        }
        Placement::Reference(_) => Ok(()),
        Placement::Hash { key, map } => {
            all_below(key, n, "a shard key column that the table does not have")?;
            if map.owner.len() == usize::from(SLOTS) {
                Ok(())
            } else {
                Err("a map without all slots")
            }
        }
        Placement::Range { key, map } => {
            all_below(key, n, "a shard key column that the table does not have")?;
            let has_all = map.owner.len() == map.splits.len() + 1;
            if has_all { Ok(()) } else { Err("a range without an owner") }
        }
    }
}

/// Row keys that have at least a storage id.
pub(crate) fn keys<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Result<(), Wrong> {
    let is_whole = keys.into_iter().all(|key| key.len() >= KEY_BYTES_MIN);
    if is_whole { Ok(()) } else { Err("a row key without a storage id") }
}

pub(crate) fn index(table: &TableDescriptor, index: usize) -> Result<(), Wrong> {
    if index < table.indexes.len() { Ok(()) } else { Err("an index that the table does not have") }
}

pub(crate) fn scan(spec: &ScanSpec) -> Result<(), Wrong> {
    all_below(&spec.columns, spec.table.columns.len(), "a column that the table does not have")?;
    match &spec.access {
        Access::Full | Access::KeyRanges(_) | Access::Empty => Ok(()),
        Access::IndexRanges { index: position, .. } => index(&spec.table, *position),
        Access::KeySkips { columns, .. } if *columns > spec.table.primary_key.len() => {
            Err("more columns than the primary key has")
        }
        Access::KeySkips { .. } => Ok(()),
    }
}

fn rows<'a>(rows: impl IntoIterator<Item = &'a Row>, n: usize) -> Result<(), Wrong> {
    let is_whole = rows.into_iter().all(|row| row.len() == n);
    if is_whole { Ok(()) } else { Err("a row with another number of columns than its table") }
}

pub(crate) fn write(request: &WriteRequest) -> Result<(), Wrong> {
    let n = request.table.columns.len();
    let assigns = |assignments: &[(usize, cortex_shard_api::ScalarExpr)]| {
        let is_in = assignments.iter().all(|(position, _)| *position < n);
        if is_in { Ok(()) } else { Err("an assigned column that the table does not have") }
    };
    let arbiter = |arbiter: &Arbiter| match arbiter {
        Arbiter::PrimaryKey => Ok(()),
        Arbiter::Index(position) => index(&request.table, *position),
    };
    match &request.op {
        WriteOp::Insert { rows: inserted, on_conflict } => {
            rows(inserted, n)?;
            match on_conflict {
                OnConflict::Fail | OnConflict::DoNothing { arbiter: None } => Ok(()),
                OnConflict::DoNothing { arbiter: Some(one) } => arbiter(one),
                OnConflict::DoUpdate { arbiter: one, assignments, .. } => {
                    arbiter(one)?;
                    assigns(assignments)
                }
            }
        }
        WriteOp::Update { rows: updated, assigned } => {
            rows(updated.iter().map(|update| &update.row), n)?;
            keys(updated.iter().map(|update| &update.key))?;
            all_below(assigned, n, "an assigned column that the table does not have")
        }
        WriteOp::Delete { rows } => keys(rows.iter().map(|(key, _)| key)),
        WriteOp::UpdateByKey { key, assignments, .. } => {
            keys([key])?;
            assigns(assignments)
        }
        WriteOp::DeleteByKey { key, .. } => keys([key]),
    }
}
