//! INSERT, with ON CONFLICT.
//!
//! A new row locks its primary key and its keys in unique indexes before it looks whether they are taken: of two
//! transactions that insert the same key, the second waits for the first and then sees its row.

use std::sync::Arc;

use bytes::Bytes;
use cortex_functions::scalar;
use cortex_shard_api::{
    Datum, ShardError, TableDescriptor,
    client::{Arbiter, OnConflict, Row, StoredRow, WriteOutcome},
    key,
};

use super::{
    Effect, Statement,
    constraints::{IndexEntry, check_row, entries, index_violation, primary_key_violation},
    update::{self, PlannedUpdate},
};
use crate::{
    storage::Keyspace,
    txn::{locks::LockMode, snapshot::ReadView},
};

/// A conflicting row can vanish while its lock is waited for; so often, something else is wrong.
const CONFLICT_ROUNDS_MAX: usize = 100;

/// A row on its way in.
struct NewRow {
    row: Row,
    key: Bytes,
    entries: Vec<IndexEntry>,
}

/// Rows of a request from which on it pays to look over the span of their keys first.
const FREE_GROUND_ROWS: usize = 16;

/// What is certainly not in the span of a request's primary keys.
#[derive(Clone, Copy, Default)]
struct FreeGround {
    of_committed: bool,
    /// Nor do two of the request's rows have the same key.
    of_own: bool,
}

/// What a new row collides with.
struct Conflict {
    arbiter: Arbiter,
    existing: Bytes,
}

impl Statement<'_> {
    pub(super) async fn insert(
        &self,
        table: &Arc<TableDescriptor>,
        rows: Vec<Row>,
        on_conflict: &OnConflict,
        returning: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<WriteOutcome, ShardError> {
        let new_rows = self.prepare(table, rows).await?;
        if table.primary_key.is_empty() {
            // Nobody else can have these keys, so they are not locked; but a move may be waiting for them.
            let keys: Vec<Bytes> = new_rows.iter().map(|new| new.key.clone()).collect();
            self.wait_outside(table.oid, &keys).await?;
            self.enter(table.oid, &keys).await?;
        }
        let mut keys = Vec::new();
        for new in &new_rows {
            if !table.primary_key.is_empty() {
                keys.push(new.key.clone());
            }
            let unique = new.entries.iter().filter(|entry| entry.is_unique());
            keys.extend(unique.map(|entry| entry.key.clone()));
        }
        self.lock_keys(table.oid, keys, LockMode::Update).await?;
        let view = self.view();
        let free = match on_conflict {
            OnConflict::Fail | OnConflict::DoNothing { .. } => {
                self.free_ground(table, &view, &new_rows)?
            }
            // A row that is updated instead may get the very key of a later one.
            OnConflict::DoUpdate { .. } => FreeGround::default(),
        };
        let follows = !table.foreign_keys.is_empty();
        let mut affected = 0;
        let mut returned = Vec::new();
        for new in new_rows {
            let stored = match self.place(table, &view, free, &new, on_conflict).await? {
                Placed::Inserted => None,
                Placed::Skipped => continue,
                Placed::Updated { old, new } => Some((old, new)),
            };
            affected += 1;
            let (old, new) = match stored {
                Some((old, new)) => (Some(old), new),
                None => (None, new.row),
            };
            if returning {
                returned.push(new.clone());
            }
            if follows || (old.is_some() && !table.referenced_by.is_empty()) {
                effects.push(Effect { table: table.clone(), old, new: Some(new) });
            }
        }
        Ok(WriteOutcome::Done { affected, rows: returned })
    }

    /// Checks rows by themselves and computes their keys.
    async fn prepare(
        &self,
        table: &TableDescriptor,
        rows: Vec<Row>,
    ) -> Result<Vec<NewRow>, ShardError> {
        let mut row_id = None;
        if table.primary_key.is_empty() && !rows.is_empty() {
            let (shard, n_rows) = (self.shard, rows.len() as u64);
            row_id = Some(shard.row_ids.take(shard.core.id, n_rows, &shard.requests).await?);
        }
        let mut prepared = Vec::with_capacity(rows.len());
        for row in rows {
            check_row(table, &row, &self.eval)?;
            let key = key::row_key(table, &row, row_id)?;
            row_id = row_id.map(|id| id + 1);
            self.check_owner(table, &key)?;
            let entries = entries(table, &row, &key, true);
            prepared.push(NewRow { row, key, entries });
        }
        Ok(prepared)
    }

    async fn place(
        &self,
        table: &Arc<TableDescriptor>,
        view: &ReadView,
        free: FreeGround,
        new: &NewRow,
        on_conflict: &OnConflict,
    ) -> Result<Placed, ShardError> {
        let mut view = view.clone();
        for _ in 0..CONFLICT_ROUNDS_MAX {
            let wanted = match on_conflict {
                OnConflict::Fail | OnConflict::DoNothing { arbiter: None } => None,
                OnConflict::DoNothing { arbiter } => *arbiter,
                OnConflict::DoUpdate { arbiter, .. } => Some(*arbiter),
            };
            let Some(conflict) = self.find_conflict(table, &view, free, new, wanted)? else {
                self.put_new(table, new)?;
                return Ok(Placed::Inserted);
            };
            let is_arbiter = wanted.is_none_or(|wanted| wanted == conflict.arbiter);
            match on_conflict {
                OnConflict::DoNothing { .. } if is_arbiter => return Ok(Placed::Skipped),
                OnConflict::DoUpdate { .. } if is_arbiter => {}
                OnConflict::Fail | OnConflict::DoNothing { .. } | OnConflict::DoUpdate { .. } => {
                    return Err(violation(table, conflict.arbiter, &new.row));
                }
            }
            self.lock_keys(table.oid, vec![conflict.existing.clone()], LockMode::Update).await?;
            view = self.view();
            let Some(existing) = self.read(&view, &conflict.existing)? else { continue };
            return self.update_instead(table, existing, new, on_conflict).await;
        }
        let what = "a row kept vanishing under ON CONFLICT DO UPDATE".to_owned();
        Err(ShardError::Conflict { reason: what })
    }

    /// The first key of the row that is taken, the arbiter's before others.
    fn find_conflict(
        &self,
        table: &TableDescriptor,
        view: &ReadView,
        free: FreeGround,
        new: &NewRow,
        first: Option<Arbiter>,
    ) -> Result<Option<Conflict>, ShardError> {
        let mut found: Option<Conflict> = None;
        if !table.primary_key.is_empty() && self.is_key_taken(view, free, &new.key)? {
            found = Some(Conflict { arbiter: Arbiter::PrimaryKey, existing: new.key.clone() });
        }
        for entry in new.entries.iter().filter(|entry| entry.is_unique()) {
            let is_first = first == Some(Arbiter::Index(entry.index));
            if found.is_some() && !is_first {
                continue;
            }
            let Some(value) = self.storage(view.index_entry(&entry.key))? else { continue };
            let Some(index) = table.indexes.get(entry.index) else { continue };
            let existing = key::row_key_of_entry(table, index, &entry.key, &value)?;
            found = Some(Conflict { arbiter: Arbiter::Index(entry.index), existing });
        }
        Ok(found)
    }

    /// Whether a row is there under a primary key.
    fn is_key_taken(
        &self,
        view: &ReadView,
        free: FreeGround,
        key: &Bytes,
    ) -> Result<bool, ShardError> {
        if !free.of_own
            && let Some(own) = self.storage(view.own_row(key))?
        {
            return Ok(own);
        }
        Ok(!free.of_committed && self.storage(view.committed_row(key))?.is_some())
    }

    /// Looks once over the keys that a request's rows span: a load usually goes where nothing is yet, and then a seek
    /// per request replaces lookups per row.
    fn free_ground(
        &self,
        table: &TableDescriptor,
        view: &ReadView,
        rows: &[NewRow],
    ) -> Result<FreeGround, ShardError> {
        if rows.len() < FREE_GROUND_ROWS || table.primary_key.is_empty() {
            return Ok(FreeGround::default());
        }
        let (mut first, mut last, mut is_ascending) = (&rows[0].key, &rows[0].key, true);
        for pair in rows.windows(2) {
            let key = &pair[1].key;
            is_ascending &= pair[0].key < *key;
            first = first.min(key);
            last = last.max(key);
        }
        Ok(FreeGround {
            of_committed: self.storage(view.is_free_of_committed(first, last))?,
            // Equal keys inside the request meet only among the transaction's own rows.
            of_own: is_ascending && view.is_free_of_own(first, last),
        })
    }

    fn put_new(&self, table: &TableDescriptor, new: &NewRow) -> Result<(), ShardError> {
        self.put_row(table, new.key.clone(), &new.row, None)?;
        for entry in &new.entries {
            self.put(Keyspace::Index, entry.key.clone(), Some(entry.value.clone()), None)?;
        }
        Ok(())
    }

    async fn update_instead(
        &self,
        table: &Arc<TableDescriptor>,
        existing: StoredRow,
        new: &NewRow,
        on_conflict: &OnConflict,
    ) -> Result<Placed, ShardError> {
        let OnConflict::DoUpdate { assignments, predicate, parameters, .. } = on_conflict else {
            return Ok(Placed::Skipped);
        };
        if self.is_written_by_this_statement(&existing.key)? {
            return Err(ShardError::CardinalityViolation);
        }
        let old_row = self.decode(table, &existing)?;
        let mut both = old_row.clone();
        both.extend(new.row.iter().cloned());
        if let Some(predicate) = predicate {
            let holds = scalar::evaluate(predicate, &both, parameters, &self.eval)?;
            if !matches!(holds, Datum::Bool(true)) {
                return Ok(Placed::Skipped);
            }
        }
        let new_row = update::assign(&old_row, &both, assignments, parameters, &self.eval)?;
        let planned = PlannedUpdate { old: existing, old_row: old_row.clone(), new_row };
        let new_row = planned.new_row.clone();
        self.update_planned(table, vec![planned]).await?;
        Ok(Placed::Updated { old: old_row, new: new_row })
    }
}

/// What became of a row to insert.
enum Placed {
    Inserted,
    Skipped,
    Updated { old: Row, new: Row },
}

fn violation(table: &TableDescriptor, arbiter: Arbiter, row: &[Datum]) -> ShardError {
    match arbiter {
        Arbiter::PrimaryKey => primary_key_violation(table, row),
        Arbiter::Index(position) => match table.indexes.get(position) {
            Some(index) => index_violation(table, index, row),
            None => primary_key_violation(table, row),
        },
    }
}
