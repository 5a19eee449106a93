//! UPDATE and DELETE: of rows that a query found, or of one row by its key.
//!
//! A set of updates first takes away what changes of the old rows and then adds the new ones, so that keys may be
//! shifted within one statement.

use std::sync::Arc;

use bytes::Bytes;
use cortex_functions::{scalar, session::EvalContext};
use cortex_shard_api::{
    Datum, LogIndex, ScalarExpr, ShardError, TableDescriptor,
    client::{Row, RowUpdate, StoredRow, WriteOutcome},
    key,
};

use super::{
    Effect, Statement,
    constraints::{IndexEntry, check_row, entries, index_violation, primary_key_violation},
};
use crate::{storage::Keyspace, txn::locks::LockMode};

/// A row with what it becomes; its lock is held and `old` is the newest state.
pub(super) struct PlannedUpdate {
    pub old: StoredRow,
    pub old_row: Row,
    pub new_row: Row,
}

/// An update that the shard computes.
pub(super) struct KeyedUpdate<'a> {
    pub key: Bytes,
    pub predicate: Option<&'a ScalarExpr>,
    pub assignments: &'a [(usize, ScalarExpr)],
    pub parameters: &'a [Datum],
}

/// A row's key with the version that the statement saw.
type SeenKey = (Bytes, LogIndex);

/// Rows as they are now, or the news that they are not what the statement saw.
enum Seen {
    Rows(Vec<StoredRow>),
    Changed,
}

/// The row after its assignments, evaluated over `input`.
pub(super) fn assign(
    old: &[Datum],
    input: &[Datum],
    assignments: &[(usize, ScalarExpr)],
    parameters: &[Datum],
    eval: &EvalContext,
) -> Result<Row, ShardError> {
    let mut new = old.to_vec();
    for (position, expr) in assignments {
        let value = scalar::evaluate(expr, input, parameters, eval)?;
        if new.len() <= *position {
            new.resize(*position + 1, Datum::Null);
        }
        if let Some(column) = new.get_mut(*position) {
            *column = value;
        }
    }
    Ok(new)
}

/// Columns that others may refer to or that identify the row: their change needs the strongest lock.
fn lock_mode(table: &TableDescriptor, assigned: impl IntoIterator<Item = usize>) -> LockMode {
    let is_key = |position: usize| {
        let mut unique = table.indexes.iter().filter(|index| index.unique);
        table.primary_key.contains(&position)
            || unique.any(|index| index.columns.iter().any(|column| column.column == position))
    };
    if assigned.into_iter().any(is_key) { LockMode::Update } else { LockMode::NoKeyUpdate }
}

impl Statement<'_> {
    pub(super) async fn update(
        &self,
        table: &Arc<TableDescriptor>,
        rows: Vec<RowUpdate>,
        assigned: &[usize],
        returning: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<WriteOutcome, ShardError> {
        let mode = lock_mode(table, assigned.iter().copied());
        let keys = rows.iter().map(|row| (row.key.clone(), row.seen)).collect();
        let (rows, keys) = self.without_repeated(rows, keys, |row| &row.key)?;
        let Seen::Rows(stored) = self.lock_seen(table, &keys, mode).await? else {
            return Ok(WriteOutcome::Retry);
        };
        let mut planned = Vec::with_capacity(rows.len());
        for (old, update) in stored.into_iter().zip(rows) {
            let old_row = self.decode(table, &old)?;
            planned.push(PlannedUpdate { old, old_row, new_row: update.row });
        }
        self.update_and_answer(table, planned, returning, effects).await
    }

    async fn update_and_answer(
        &self,
        table: &Arc<TableDescriptor>,
        planned: Vec<PlannedUpdate>,
        returning: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<WriteOutcome, ShardError> {
        let affected = planned.len() as u64;
        let mut returned = Vec::new();
        if returning {
            returned.extend(planned.iter().map(|update| update.new_row.clone()));
        }
        if !table.foreign_keys.is_empty() || !table.referenced_by.is_empty() {
            effects.extend(planned.iter().map(|update| Effect {
                table: table.clone(),
                old: Some(update.old_row.clone()),
                new: Some(update.new_row.clone()),
            }));
        }
        self.update_planned(table, planned).await?;
        Ok(WriteOutcome::Done { affected, rows: returned })
    }

    /// Leaves out rows that this statement has changed already: a join may find a row twice, and the first time counts.
    fn without_repeated<T>(
        &self,
        rows: Vec<T>,
        keys: Vec<(Bytes, LogIndex)>,
        key_of: impl Fn(&T) -> &Bytes,
    ) -> Result<(Vec<T>, Vec<SeenKey>), ShardError> {
        let mut seen = std::collections::HashSet::with_capacity(keys.len());
        let mut kept = Vec::with_capacity(rows.len());
        let mut kept_keys = Vec::with_capacity(keys.len());
        let may_be_written = self.txn.has_written();
        for (row, key) in rows.into_iter().zip(keys) {
            let is_first = seen.insert(key.0.clone());
            if is_first && !(may_be_written && self.is_written_by_this_statement(key_of(&row))?) {
                kept.push(row);
                kept_keys.push(key);
            }
        }
        Ok((kept, kept_keys))
    }

    /// Locks rows and compares them with what the statement saw.
    async fn lock_seen(
        &self,
        table: &TableDescriptor,
        rows: &[(Bytes, LogIndex)],
        mode: LockMode,
    ) -> Result<Seen, ShardError> {
        for (key, _) in rows {
            self.check_owner(table, key)?;
        }
        let keys = rows.iter().map(|(key, _)| key.clone()).collect();
        self.lock_keys(table.oid, keys, mode).await?;
        let view = self.view();
        let mut stored = Vec::with_capacity(rows.len());
        for (key, seen) in rows {
            match self.read(&view, key)? {
                Some(row) if row.version == *seen => stored.push(row),
                Some(_) | None => return Ok(Seen::Changed),
            }
        }
        Ok(Seen::Rows(stored))
    }

    /// Replaces rows with all their index entries.
    pub(super) async fn update_planned(
        &self,
        table: &TableDescriptor,
        planned: Vec<PlannedUpdate>,
    ) -> Result<(), ShardError> {
        struct Change {
            update: PlannedUpdate,
            new_key: Bytes,
            removed: Vec<IndexEntry>,
            added: Vec<IndexEntry>,
        }
        let mut changes = Vec::with_capacity(planned.len());
        let mut keys = Vec::new();
        for update in planned {
            check_row(table, &update.new_row, &self.eval)?;
            let new_key = if table.primary_key.is_empty() {
                update.old.key.clone()
            } else {
                key::row_key(table, &update.new_row, None)?
            };
            self.check_owner(table, &new_key)?;
            let mut removed = entries(table, &update.old_row, &update.old.key, false);
            let mut added = entries(table, &update.new_row, &new_key, true);
            let same: Vec<IndexEntry> =
                added.iter().filter(|entry| removed.contains(entry)).cloned().collect();
            removed.retain(|entry| !same.contains(entry));
            added.retain(|entry| !same.contains(entry));
            if new_key != update.old.key {
                keys.push(new_key.clone());
            }
            let unique = removed.iter().chain(&added).filter(|entry| entry.is_unique());
            keys.extend(unique.map(|entry| entry.key.clone()));
            changes.push(Change { update, new_key, removed, added });
        }
        self.lock_keys(table.oid, keys, LockMode::Update).await?;
        for change in &changes {
            if change.new_key != change.update.old.key {
                self.delete_row(&change.update.old)?;
            }
            for entry in &change.removed {
                self.delete_entry(table, entry.clone())?;
            }
        }
        let view = self.view();
        for change in changes {
            let PlannedUpdate { old, new_row, .. } = &change.update;
            let is_moved = change.new_key != old.key;
            if is_moved && self.read(&view, &change.new_key)?.is_some() {
                return Err(primary_key_violation(table, new_row));
            }
            for entry in &change.added {
                if entry.is_unique()
                    && self.storage(view.index_entry(&entry.key))?.is_some()
                    && let Some(index) = table.indexes.get(entry.index)
                {
                    return Err(index_violation(table, index, new_row));
                }
            }
            self.put_row(table, change.new_key, new_row, (!is_moved).then_some(old))?;
            for entry in change.added {
                self.put(Keyspace::Index, entry.key, Some(entry.value), None)?;
            }
        }
        Ok(())
    }

    pub(super) async fn delete(
        &self,
        table: &Arc<TableDescriptor>,
        rows: Vec<(Bytes, LogIndex)>,
        returning: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<WriteOutcome, ShardError> {
        let (_, keys) = self.without_repeated(rows.clone(), rows, |(key, _)| key)?;
        let Seen::Rows(stored) = self.lock_seen(table, &keys, LockMode::Update).await? else {
            return Ok(WriteOutcome::Retry);
        };
        let affected = stored.len() as u64;
        let rows = self.delete_stored(table, stored, returning, effects).await?;
        Ok(WriteOutcome::Done { affected, rows })
    }

    /// Deletes rows whose locks are held; returns them if asked to.
    pub(super) async fn delete_stored(
        &self,
        table: &Arc<TableDescriptor>,
        stored: Vec<StoredRow>,
        returning: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<Vec<Row>, ShardError> {
        let follows = !table.referenced_by.is_empty();
        let mut returned = Vec::new();
        if table.indexes.is_empty() && !follows && !returning {
            stored.iter().try_for_each(|old| self.delete_row(old))?;
            return Ok(returned);
        }
        let mut keys = Vec::new();
        let mut removed = Vec::with_capacity(stored.len());
        for old in stored {
            let row = self.decode(table, &old)?;
            let entries = entries(table, &row, &old.key, false);
            let unique = entries.iter().filter(|entry| entry.is_unique());
            keys.extend(unique.map(|entry| entry.key.clone()));
            removed.push((old, row, entries));
        }
        // Who wants to insert one of these keys waits for us.
        self.lock_keys(table.oid, keys, LockMode::Update).await?;
        for (old, row, entries) in removed {
            self.delete_row(&old)?;
            for entry in entries {
                self.delete_entry(table, entry)?;
            }
            if returning {
                returned.push(row.clone());
            }
            if follows {
                effects.push(Effect { table: table.clone(), old: Some(row), new: None });
            }
        }
        Ok(returned)
    }

    pub(super) async fn update_by_key(
        &self,
        table: &Arc<TableDescriptor>,
        change: KeyedUpdate<'_>,
        returning: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<WriteOutcome, ShardError> {
        let mode = lock_mode(table, change.assignments.iter().map(|(position, _)| *position));
        let Some((old, old_row)) =
            self.lock_one(table, change.key, mode, change.predicate, change.parameters).await?
        else {
            return Ok(WriteOutcome::Done { affected: 0, rows: Vec::new() });
        };
        let (assignments, parameters) = (change.assignments, change.parameters);
        let new_row = assign(&old_row, &old_row, assignments, parameters, &self.eval)?;
        let planned = vec![PlannedUpdate { old, old_row, new_row }];
        self.update_and_answer(table, planned, returning, effects).await
    }

    pub(super) async fn delete_by_key(
        &self,
        table: &Arc<TableDescriptor>,
        key: Bytes,
        predicate: Option<&ScalarExpr>,
        parameters: &[Datum],
        returning: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<WriteOutcome, ShardError> {
        let found = self.lock_one(table, key, LockMode::Update, predicate, parameters).await?;
        let Some((old, _)) = found else {
            return Ok(WriteOutcome::Done { affected: 0, rows: Vec::new() });
        };
        let rows = self.delete_stored(table, vec![old], returning, effects).await?;
        Ok(WriteOutcome::Done { affected: 1, rows })
    }

    /// Locks a row and reads its newest state; `None` if it is not there or the predicate does not hold.
    async fn lock_one(
        &self,
        table: &TableDescriptor,
        key: Bytes,
        mode: LockMode,
        predicate: Option<&ScalarExpr>,
        parameters: &[Datum],
    ) -> Result<Option<(StoredRow, Row)>, ShardError> {
        self.check_owner(table, &key)?;
        self.lock_keys(table.oid, vec![key.clone()], mode).await?;
        let Some(old) = self.read(&self.view(), &key)? else { return Ok(None) };
        let row = self.decode(table, &old)?;
        if let Some(predicate) = predicate {
            let holds = scalar::evaluate(predicate, &row, parameters, &self.eval)?;
            if !matches!(holds, Datum::Bool(true)) {
                return Ok(None);
            }
        }
        Ok(Some((old, row)))
    }
}
