//! Foreign keys inside a shard: what a changed row asks of its parents, and what it does to its children.
//!
//! Lives here: both sides, after the statement's own rows are written. A child locks its parent's row (`KeyShare`) and
//! then looks for it; a parent that goes away or changes its key holds its own row's strongest lock and then looks for
//! children. So neither can miss the other. Cascades are a work list, not recursion: each change they make is followed
//! like the statement's own. NO ACTION is checked last, when the statement's net effect is known.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use cortex_functions::scalar;
use cortex_shard_api::{
    Datum, Oid, ShardError, TableDescriptor, TypeMod, ValueError,
    client::{Row, StoredRow},
    descriptor::{ForeignKeyDescriptor, IndexDescriptor, IndexState, Placement, ReferentialAction},
    error::ValueErrorKind,
    key::{self, KeyOrder},
};

use super::{Effect, Statement, constraints::describe_key, internal, update::PlannedUpdate};
use crate::{
    scan::is_owned,
    storage::KeyRange,
    txn::{locks::LockMode, snapshot::ReadView},
};

/// Rows between two chances to let others run.
const STEP_ROWS: usize = 4096;

/// A child row that needs its parent.
struct NeedsParent {
    child: Arc<TableDescriptor>,
    foreign_key: usize,
    row: Row,
}

/// A parent key that is gone, whose children must be gone too.
struct NeedsNoChildren {
    parent: Arc<TableDescriptor>,
    child: Arc<TableDescriptor>,
    foreign_key: usize,
    old: Row,
}

fn values_of(row: &[Datum], columns: &[usize]) -> Vec<Datum> {
    columns.iter().map(|position| row.get(*position).cloned().unwrap_or_default()).collect()
}

fn has_null(values: &[Datum]) -> bool {
    values.iter().any(|value| matches!(value, Datum::Null))
}

fn type_of(table: &TableDescriptor, position: usize) -> Option<TypeMod> {
    table.columns.get(position).map(|column| column.ty)
}

/// Equal values have equal encodings.
fn encode(table: &TableDescriptor, columns: &[usize], values: &[Datum]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (position, value) in columns.iter().zip(values) {
        if let Some(ty) = type_of(table, *position) {
            key::encode_datum(&mut bytes, value, ty.ty, KeyOrder::default());
        }
    }
    bytes
}

fn is_same_set(left: &[usize], right: &[usize]) -> bool {
    left.len() == right.len() && left.iter().all(|position| right.contains(position))
}

/// The values, given in the order of `columns`, in the order of `wanted`.
fn reorder(values: &[Datum], columns: &[usize], wanted: &[usize]) -> Vec<Datum> {
    let value = |position: &usize| {
        let at = columns.iter().position(|column| column == position);
        at.and_then(|at| values.get(at)).cloned().unwrap_or_default()
    };
    wanted.iter().map(value).collect()
}

/// The keys under which rows with these values can stand: as narrow a range as the keys allow.
fn narrow(
    table: &TableDescriptor,
    storage: cortex_shard_api::StorageId,
    leading: &[(usize, KeyOrder)],
    columns: &[usize],
    values: &[Datum],
) -> Option<KeyRange> {
    let mut prefix = key::storage_prefix(storage).to_vec();
    if let Placement::Hash { key: shard_key, .. } = &table.placement {
        if !shard_key.iter().all(|position| columns.contains(position)) {
            return None;
        }
        let of_shard_key = reorder(values, columns, shard_key);
        let typed = shard_key.iter().zip(&of_shard_key);
        let typed: Vec<_> = typed
            .filter_map(|(position, value)| Some((value, type_of(table, *position)?.ty)))
            .collect();
        prefix.extend_from_slice(&key::slot(&typed).0.to_be_bytes());
    }
    for (position, order) in leading.iter().take(columns.len()) {
        let at = columns.iter().position(|column| column == position)?;
        key::encode_datum(&mut prefix, values.get(at)?, type_of(table, *position)?.ty, *order);
    }
    Some(KeyRange::prefix(&prefix))
}

fn leading_of(index: &IndexDescriptor) -> Vec<(usize, KeyOrder)> {
    let order = |column: &cortex_shard_api::descriptor::IndexColumn| KeyOrder {
        descending: column.descending,
        nulls_first: column.nulls_first,
    };
    index.columns.iter().map(|column| (column.column, order(column))).collect()
}

impl Statement<'_> {
    /// Does and checks everything that follows from the statement's changes.
    pub(super) async fn follow_foreign_keys(&self, effects: Vec<Effect>) -> Result<(), ShardError> {
        let mut pending: VecDeque<Effect> = effects.into();
        let mut orphans = Vec::new();
        let mut abandoned = Vec::new();
        while let Some(effect) = pending.pop_front() {
            if let Some(new) = &effect.new {
                for (position, foreign_key) in effect.table.foreign_keys.iter().enumerate() {
                    let columns = &foreign_key.columns;
                    if !self.is_changed(&effect, columns) || has_null(&values_of(new, columns)) {
                        continue;
                    }
                    orphans.push(NeedsParent {
                        child: effect.table.clone(),
                        foreign_key: position,
                        row: new.clone(),
                    });
                }
            }
            let Some(old) = &effect.old else { continue };
            for (child, position) in self.referencing(&effect.table)? {
                let Some(foreign_key) = child.foreign_keys.get(position) else { continue };
                let columns = &foreign_key.parent_columns;
                if has_null(&values_of(old, columns))
                    || (effect.new.is_some() && !self.is_changed(&effect, columns))
                {
                    continue;
                }
                let gone = NeedsNoChildren {
                    parent: effect.table.clone(),
                    child: child.clone(),
                    foreign_key: position,
                    old: old.clone(),
                };
                let action = match effect.new {
                    Some(_) => foreign_key.on_update,
                    None => foreign_key.on_delete,
                };
                match action {
                    ReferentialAction::NoAction => abandoned.push(gone),
                    ReferentialAction::Restrict => self.refuse_children(&gone)?,
                    ReferentialAction::Cascade
                    | ReferentialAction::SetNull
                    | ReferentialAction::SetDefault => {
                        let new = effect.new.as_deref();
                        pending.extend(self.change_children(&gone, action, new).await?);
                        // A default may be the very key that is gone: the children then are as they were.
                        if action == ReferentialAction::SetDefault {
                            abandoned.push(gone);
                        }
                    }
                }
            }
        }
        self.require_parents(orphans).await?;
        self.refuse_all_children(abandoned).await
    }

    /// Refuses children of keys that are gone and have not come back. Where nothing leads to the children of one key, one
    /// pass over the table looks for those of all.
    async fn refuse_all_children(&self, abandoned: Vec<NeedsNoChildren>) -> Result<(), ShardError> {
        let mut unindexed: BTreeMap<(Oid, usize), HashMap<Vec<u8>, NeedsNoChildren>> =
            BTreeMap::new();
        for gone in abandoned {
            if self.has_parent_again(&gone)? {
                continue;
            }
            let Some(foreign_key) = gone.child.foreign_keys.get(gone.foreign_key) else { continue };
            let Some(values) = self.values_of_children(&gone, foreign_key) else { continue };
            if lookup(&gone.child, &foreign_key.columns, &values).is_some() {
                self.refuse_children(&gone)?;
                continue;
            }
            let wanted = encode(&gone.child, &foreign_key.columns, &values);
            let of_key = unindexed.entry((gone.child.oid, gone.foreign_key)).or_default();
            of_key.insert(wanted, gone);
        }
        for of_key in unindexed.into_values() {
            self.refuse_unindexed_children(&of_key).await?;
        }
        Ok(())
    }

    /// All of one foreign key, by the encoded values of their children.
    async fn refuse_unindexed_children(
        &self,
        gone: &HashMap<Vec<u8>, NeedsNoChildren>,
    ) -> Result<(), ShardError> {
        let Some(any) = gone.values().next() else { return Ok(()) };
        let child = &any.child;
        let Some(foreign_key) = child.foreign_keys.get(any.foreign_key) else { return Ok(()) };
        self.shard.core.fences.check_now(self.shard.core.id, child)?;
        let view = self.view();
        let rows = view.rows(KeyRange::prefix(&key::storage_prefix(child.storage)), false);
        for (n, stored) in rows.enumerate() {
            let stored = self.storage(stored)?;
            let row = self.decode(child, &stored)?;
            let values = values_of(&row, &foreign_key.columns);
            if let Some(gone) = gone.get(&encode(child, &foreign_key.columns, &values))
                && !has_null(&values)
                && is_owned(child, &stored.key, self.shard.core.id)
            {
                return Err(still_referenced(gone, foreign_key));
            }
            if n % STEP_ROWS == STEP_ROWS - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn is_changed(&self, effect: &Effect, columns: &[usize]) -> bool {
        match (&effect.old, &effect.new) {
            (Some(old), Some(new)) => {
                encode(&effect.table, columns, &values_of(old, columns))
                    != encode(&effect.table, columns, &values_of(new, columns))
            }
            (Some(_), None) | (None, Some(_)) | (None, None) => true,
        }
    }

    fn table_by_oid(&self, oid: Oid) -> Option<&Arc<TableDescriptor>> {
        std::iter::once(self.table).chain(self.related).find(|table| table.oid == oid)
    }

    /// Every foreign key that refers to the table: its table and position there.
    fn referencing(
        &self,
        parent: &Arc<TableDescriptor>,
    ) -> Result<Vec<(Arc<TableDescriptor>, usize)>, ShardError> {
        let mut found = Vec::new();
        for oid in &parent.referenced_by {
            let child = self.table_by_oid(*oid).ok_or_else(|| {
                internal(self.shard, "a write came without the tables that refer to its own")
            })?;
            let keys = child.foreign_keys.iter().enumerate();
            let keys = keys.filter(|(_, foreign_key)| foreign_key.parent == parent.oid);
            found.extend(keys.map(|(position, _)| (child.clone(), position)));
        }
        found.sort_by_key(|(child, position)| {
            (child.oid, child.foreign_keys.get(*position).map(|foreign_key| foreign_key.oid))
        });
        found.dedup_by_key(|(child, position)| (child.oid, *position));
        Ok(found)
    }

    /// Values of `from`'s columns as values of `to`'s columns; `None` when they cannot be any.
    fn convert(
        &self,
        values: &[Datum],
        from: (&TableDescriptor, &[usize]),
        to: (&TableDescriptor, &[usize]),
    ) -> Option<Vec<Datum>> {
        let mut converted = Vec::with_capacity(values.len());
        for ((value, from_column), to_column) in values.iter().zip(from.1).zip(to.1) {
            let from_type = type_of(from.0, *from_column)?;
            let to_type = type_of(to.0, *to_column)?;
            if from_type.ty == to_type.ty {
                converted.push(value.clone());
                continue;
            }
            let to_type = TypeMod::plain(to_type.ty);
            let cast = scalar::cast(value.clone(), from_type, to_type, false, &self.eval);
            converted.push(cast.ok()?);
        }
        Some(converted)
    }

    /// The key of the parent row with these values (in the order of `parent_columns`), if there can be one.
    fn find_parent(
        &self,
        view: &ReadView,
        parent: &TableDescriptor,
        columns: &[usize],
        values: &[Datum],
    ) -> Result<Option<Bytes>, ShardError> {
        if is_same_set(columns, &parent.primary_key) {
            let ordered = reorder(values, columns, &parent.primary_key);
            return Ok(Some(key::row_key_from_primary_key(parent, &ordered)));
        }
        let unique = parent.indexes.iter().find(|index| {
            let of_index: Vec<usize> = index.columns.iter().map(|column| column.column).collect();
            index.unique && index.state == IndexState::Public && is_same_set(columns, &of_index)
        });
        let Some(index) = unique else {
            return Err(internal(
                self.shard,
                "a foreign key refers to columns that are not unique",
            ));
        };
        let range = narrow(parent, index.storage, &leading_of(index), columns, values);
        let Some(range) = range else {
            return Err(unsupported(
                "a foreign key must contain the shard key of its parent",
                "Drop the constraint, or refer to columns that contain the shard key.",
            ));
        };
        let entry = self.storage(view.index_entries(range, false).next().transpose())?;
        let entry =
            entry.map(|entry| key::row_key_of_entry(parent, index, &entry.key, &entry.value));
        Ok(entry.transpose()?)
    }

    async fn require_parents(&self, orphans: Vec<NeedsParent>) -> Result<(), ShardError> {
        // One look for each distinct value of each foreign key.
        let mut distinct: BTreeMap<(Oid, usize), BTreeMap<Vec<u8>, NeedsParent>> = BTreeMap::new();
        for orphan in orphans {
            let Some(foreign_key) = orphan.child.foreign_keys.get(orphan.foreign_key) else {
                continue;
            };
            let values = values_of(&orphan.row, &foreign_key.columns);
            let encoded = encode(&orphan.child, &foreign_key.columns, &values);
            let of_key = distinct.entry((orphan.child.oid, orphan.foreign_key)).or_default();
            of_key.entry(encoded).or_insert(orphan);
        }
        for of_key in distinct.into_values() {
            let of_key: Vec<NeedsParent> = of_key.into_values().collect();
            self.require_parents_of(&of_key).await?;
        }
        Ok(())
    }

    /// All of one foreign key.
    async fn require_parents_of(&self, orphans: &[NeedsParent]) -> Result<(), ShardError> {
        let Some(first) = orphans.first() else { return Ok(()) };
        let child = &first.child;
        let Some(foreign_key) = child.foreign_keys.get(first.foreign_key) else { return Ok(()) };
        let parent = self.table_by_oid(foreign_key.parent).ok_or_else(|| {
            internal(self.shard, "a write came without the tables that its own refers to")
        })?;
        self.shard.hold_for_writing(self.txn, parent, self.context).await?;
        let columns = &foreign_key.parent_columns[..];
        let mut wanted = Vec::with_capacity(orphans.len());
        let view = self.view();
        for orphan in orphans {
            let values = values_of(&orphan.row, &foreign_key.columns);
            let values = self.convert(&values, (child, &foreign_key.columns), (parent, columns));
            let found = match &values {
                Some(values) => self.find_parent(&view, parent, columns, values)?,
                None => None,
            };
            let Some((values, row_key)) = values.zip(found) else {
                return Err(missing_parent(child, foreign_key, parent, &orphan.row));
            };
            if !is_owned(parent, &row_key, self.shard.core.id) {
                return Err(unsupported(
                    "a foreign key must stay inside a shard",
                    "Co-locate the tables, or make the referenced one a reference table.",
                ));
            }
            wanted.push((orphan, values, row_key));
        }
        let keys = wanted.iter().map(|(_, _, row_key)| row_key.clone()).collect();
        self.lock_keys(parent.oid, keys, LockMode::KeyShare).await?;
        let view = self.view();
        for (orphan, values, row_key) in wanted {
            // Whoever had the row before us may have deleted it, or given its key to another.
            let found = self.find_parent(&view, parent, columns, &values)?;
            let is_there =
                found.as_ref() == Some(&row_key) && self.read(&view, &row_key)?.is_some();
            if !is_there {
                return Err(missing_parent(child, foreign_key, parent, &orphan.row));
            }
        }
        Ok(())
    }

    fn has_parent_again(&self, gone: &NeedsNoChildren) -> Result<bool, ShardError> {
        let Some(foreign_key) = gone.child.foreign_keys.get(gone.foreign_key) else {
            return Ok(true);
        };
        let columns = &foreign_key.parent_columns;
        let view = self.view();
        let values = values_of(&gone.old, columns);
        match self.find_parent(&view, &gone.parent, columns, &values)? {
            Some(row_key) => Ok(self.read(&view, &row_key)?.is_some()),
            None => Ok(false),
        }
    }

    fn refuse_children(&self, gone: &NeedsNoChildren) -> Result<(), ShardError> {
        match gone.child.foreign_keys.get(gone.foreign_key) {
            Some(foreign_key) if !self.find_children(gone, foreign_key, 1)?.is_empty() => {
                Err(still_referenced(gone, foreign_key))
            }
            _ => Ok(()),
        }
    }

    /// What children of the old key have in their columns; `None` if there can be none.
    fn values_of_children(
        &self,
        gone: &NeedsNoChildren,
        foreign_key: &ForeignKeyDescriptor,
    ) -> Option<Vec<Datum>> {
        let old = values_of(&gone.old, &foreign_key.parent_columns);
        let from = (&*gone.parent, &foreign_key.parent_columns[..]);
        self.convert(&old, from, (&*gone.child, &foreign_key.columns[..]))
    }

    /// Child rows that refer to the old key, at most `limit`.
    fn find_children(
        &self,
        gone: &NeedsNoChildren,
        foreign_key: &ForeignKeyDescriptor,
        limit: usize,
    ) -> Result<Vec<(StoredRow, Row)>, ShardError> {
        let child = &gone.child;
        let columns = &foreign_key.columns[..];
        let Some(values) = self.values_of_children(gone, foreign_key) else {
            return Ok(Vec::new());
        };
        let wanted = encode(child, columns, &values);
        self.shard.core.fences.check_now(self.shard.core.id, child)?;
        let view = self.view();
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut take = |stored: StoredRow| -> Result<bool, ShardError> {
            let row = self.decode(child, &stored)?;
            let is_child = is_owned(child, &stored.key, self.shard.core.id)
                && encode(child, columns, &values_of(&row, columns)) == wanted;
            if is_child && seen.insert(stored.key.clone()) {
                found.push((stored, row));
            }
            Ok(found.len() < limit)
        };
        let range = match lookup(child, columns, &values) {
            Some(Lookup::Index(index, range)) => {
                for entry in view.index_entries(range, false) {
                    let entry = self.storage(entry)?;
                    let row_key = key::row_key_of_entry(child, index, &entry.key, &entry.value)?;
                    let stored =
                        self.read(&view, &row_key)?.ok_or_else(|| ShardError::Corrupt {
                            shard: self.shard.core.id,
                            what: format!("index {} has an entry without a row", index.name),
                        })?;
                    if !take(stored)? {
                        break;
                    }
                }
                return Ok(found);
            }
            Some(Lookup::Rows(range)) => range,
            None => KeyRange::prefix(&key::storage_prefix(child.storage)),
        };
        for stored in view.rows(range, false) {
            if !take(self.storage(stored)?)? {
                break;
            }
        }
        Ok(found)
    }

    /// Deletes or changes the children of a key that is gone; returns what that did.
    async fn change_children(
        &self,
        gone: &NeedsNoChildren,
        action: ReferentialAction,
        new_parent: Option<&[Datum]>,
    ) -> Result<Vec<Effect>, ShardError> {
        let child = &gone.child;
        let Some(foreign_key) = child.foreign_keys.get(gone.foreign_key) else {
            return Ok(Vec::new());
        };
        self.shard.hold_for_writing(self.txn, child, self.context).await?;
        self.shard.note_copied(self.txn, child)?;
        let found = self.find_children(gone, foreign_key, usize::MAX)?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let keys = found.iter().map(|(stored, _)| stored.key.clone()).collect();
        self.lock_keys(child.oid, keys, LockMode::Update).await?;
        // What was waited for may have changed them; no new ones can have come, we hold the parent.
        let found = self.find_children(gone, foreign_key, usize::MAX)?;
        let mut effects = Vec::new();
        if action == ReferentialAction::Cascade && new_parent.is_none() {
            let stored = found.into_iter().map(|(stored, _)| stored).collect();
            self.delete_stored(child, stored, false, &mut effects).await?;
            return Ok(effects);
        }
        let values = match (action, new_parent) {
            (ReferentialAction::Cascade, Some(new_parent)) => {
                let parent_columns = &foreign_key.parent_columns[..];
                let values = values_of(new_parent, parent_columns);
                let from = (&*gone.parent, parent_columns);
                self.convert(&values, from, (child, &foreign_key.columns)).ok_or_else(|| {
                    unsupported(
                        "the new key does not fit the type of a referencing column",
                        "Give both columns the same type.",
                    )
                })?
            }
            (ReferentialAction::SetNull, _) => vec![Datum::Null; foreign_key.columns.len()],
            _ => {
                let defaults = foreign_key.set_default.iter();
                let values = defaults.map(|it| scalar::evaluate(it, &[], &[], &self.eval));
                values.collect::<Result<Vec<_>, _>>()?
            }
        };
        let mut planned = Vec::with_capacity(found.len());
        for (old, old_row) in found {
            let mut new_row = old_row.clone();
            for (position, value) in foreign_key.columns.iter().zip(&values) {
                if let Some(column) = new_row.get_mut(*position) {
                    *column = value.clone();
                }
            }
            effects.push(Effect {
                table: child.clone(),
                old: Some(old_row.clone()),
                new: Some(new_row.clone()),
            });
            planned.push(PlannedUpdate { old, old_row, new_row });
        }
        self.update_planned(child, planned).await?;
        Ok(effects)
    }
}

/// What leads to the rows with given values in some columns.
enum Lookup<'t> {
    Index(&'t IndexDescriptor, KeyRange),
    /// The primary key begins with the columns.
    Rows(KeyRange),
}

/// `None`: only the whole table does, as in Postgres.
fn lookup<'t>(
    table: &'t TableDescriptor,
    columns: &[usize],
    values: &[Datum],
) -> Option<Lookup<'t>> {
    let by_index = table.indexes.iter().find_map(|index| {
        let leading = leading_of(index);
        let is_usable = index.state == IndexState::Public && leading.len() >= columns.len();
        let range = is_usable.then(|| narrow(table, index.storage, &leading, columns, values));
        Some(Lookup::Index(index, range??))
    });
    if by_index.is_some() {
        return by_index;
    }
    let of_key: Vec<_> =
        table.primary_key.iter().map(|position| (*position, KeyOrder::default())).collect();
    let is_usable = of_key.len() >= columns.len() && !key::has_shard_key_prefix(table);
    let range = is_usable.then(|| narrow(table, table.storage, &of_key, columns, values));
    range.flatten().map(Lookup::Rows)
}

fn still_referenced(gone: &NeedsNoChildren, foreign_key: &ForeignKeyDescriptor) -> ShardError {
    let (parent, child) = (&gone.parent, &gone.child);
    let key = describe_key(parent, &foreign_key.parent_columns, &gone.old);
    ShardError::ForeignKeyViolation {
        schema: child.schema.clone(),
        table: child.name.clone(),
        constraint: foreign_key.name.clone(),
        message: format!(
            "update or delete on table \"{}\" violates foreign key constraint \"{}\" on table \"{}\"",
            parent.name, foreign_key.name, child.name
        ),
        detail: format!("{key} is still referenced from table \"{}\".", child.name),
    }
}

fn unsupported(message: &str, hint: &str) -> ShardError {
    ShardError::Value(ValueError::new(ValueErrorKind::Unsupported, message).with_hint(hint))
}

fn missing_parent(
    child: &TableDescriptor,
    foreign_key: &ForeignKeyDescriptor,
    parent: &TableDescriptor,
    row: &[Datum],
) -> ShardError {
    let key = describe_key(child, &foreign_key.columns, row);
    ShardError::ForeignKeyViolation {
        schema: child.schema.clone(),
        table: child.name.clone(),
        constraint: foreign_key.name.clone(),
        message: format!(
            "insert or update on table \"{}\" violates foreign key constraint \"{}\"",
            child.name, foreign_key.name
        ),
        detail: format!("{key} is not present in table \"{}\".", parent.name),
    }
}
