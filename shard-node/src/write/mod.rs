//! Writes: one request changes rows of one table, and everything that must follow from it.
//!
//! Lives here: the frame of a request (transaction, table lock, undo on failure, commit), the locks on keys, and putting
//! rows and index entries into the write set. The operations are in `insert` and `update`, what rows must satisfy in
//! `constraints` and `foreign_keys`, bulk work of DDL in `build`. Not here: waiting (`txn::locks`), durability
//! (`txn::sequencer`).
//!
//! READ COMMITTED: locks first, then the newest published state. A row that is not what the statement saw makes the whole
//! request undo itself and answer `Retry`; its locks stay, so that the second run meets no surprise.

mod build;

mod constraints;

mod foreign_keys;

mod insert;

mod update;

use std::sync::Arc;

use bytes::Bytes;
use cortex_functions::session::EvalContext;
use cortex_shard_api::{
    Datum, Oid, ShardError, TableDescriptor,
    client::{RequestContext, Row, StoredRow, WaitPolicy, WriteOp, WriteOutcome, WriteRequest},
    descriptor::IndexState,
    row,
    value::ValueSettings,
};
use smallvec::SmallVec;

pub(crate) use build::{build_index, rewrite_table};
pub(crate) use constraints::{IndexEntry, entries};

use crate::{
    fences::Used,
    moves::hold::Wanted,
    scan::is_owned,
    shard::Shard,
    storage::{Keyspace, StorageError},
    txn::{
        Txn,
        locks::{LockKey, LockMode, LockRequest},
        sequencer::stored_size,
        snapshot::ReadView,
    },
};

/// A row that is stored is written, logged and read as a whole.
const ROW_BYTES_MAX: usize = 32 << 20;

/// Keys are bounded by the storage engine.
const KEY_BYTES_MAX: usize = 65_535;

/// Row locks of one table after which a transaction tries to lock the table instead.
const ROW_LOCKS_MAX: usize = 100_000;

/// Changed rows of one statement whose foreign keys wait for its last request: their key columns are held in memory. A
/// larger statement is checked in pieces of this size, so a row must not refer to one of a later piece.
const DEFERRED_ROWS_MAX: usize = 1 << 20;

/// Runs a request.
pub(crate) async fn run(shard: &Shard, request: WriteRequest) -> Result<WriteOutcome, ShardError> {
    let WriteRequest { context, table, related, op, commit, returning, more } = request;
    let (txn, is_own) = match context.txn {
        Some(id) => (shard.transaction(id)?, false),
        None if commit => (shard.own_transaction(), true),
        None => return Err(internal(shard, "a write outside of a transaction must commit itself")),
    };
    let is_all = commit && txn.state.lock().used.is_empty();
    let mut undo = Undo::new(shard, &txn, context.mark, is_own);
    let statement = Statement::new(shard, &txn, &context, &table, &related);
    shard.hold_for_writing(&txn, &table, &context).await?;
    shard.note_copied(&txn, &table)?;
    let mut effects = Vec::new();
    let outcome = match op {
        WriteOp::Insert { rows, on_conflict } => {
            statement.insert(&table, rows, &on_conflict, returning, &mut effects).await?
        }
        WriteOp::Update { rows, assigned } => {
            statement.update(&table, rows, &assigned, returning, &mut effects).await?
        }
        WriteOp::Delete { rows } => statement.delete(&table, rows, returning, &mut effects).await?,
        WriteOp::UpdateByKey { key, predicate, assignments, parameters } => {
            let change = update::KeyedUpdate {
                key,
                predicate: predicate.as_ref(),
                assignments: &assignments,
                parameters: &parameters,
            };
            statement.update_by_key(&table, change, returning, &mut effects).await?
        }
        WriteOp::DeleteByKey { key, predicate, parameters } => {
            let (predicate, parameters) = (predicate.as_ref(), &parameters[..]);
            statement
                .delete_by_key(&table, key, predicate, parameters, returning, &mut effects)
                .await?
        }
    };
    if matches!(outcome, WriteOutcome::Retry) {
        return Ok(outcome);
    }
    if let Some(effects) = statement.effects_to_follow(effects, more) {
        statement.follow_foreign_keys(effects).await?;
    }
    if txn.state.lock().is_over {
        return Err(ShardError::TransactionLost { shard: shard.core.id });
    }
    let spilled = txn.writes.write().maybe_spill();
    spilled.map_err(|error| shard.core.storage_error(error))?;
    undo.is_armed = false;
    if commit {
        shard.forget(txn.id);
        let committed = shard.commit_txn(txn.clone()).await;
        committed.map_err(|error| match error {
            // The request is all that there was of the transaction: it can be made again with what is valid now.
            ShardError::Conflict { .. } if is_all => {
                ShardError::StaleEpoch { shard: shard.core.id, current: table.epoch() }
            }
            other => other,
        })?;
    }
    Ok(outcome)
}

fn internal(shard: &Shard, what: &str) -> ShardError {
    ShardError::Internal { shard: shard.core.id, what: what.to_owned() }
}

/// Undoes the statement unless it succeeded: on errors, on `Retry`, and when the request is dropped half-way.
struct Undo<'a> {
    shard: &'a Shard,
    txn: &'a Txn,
    mark: u32,
    is_own: bool,
    is_armed: bool,
    /// With which versions the transaction had written before.
    used: SmallVec<[Used; 2]>,
}

impl<'a> Undo<'a> {
    fn new(shard: &'a Shard, txn: &'a Txn, mark: u32, is_own: bool) -> Undo<'a> {
        let used = txn.state.lock().used.clone();
        Undo { shard, txn, mark, is_own, is_armed: true, used }
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.txn.writes.write().rollback_to(self.mark);
            {
                let mut state = self.txn.state.lock();
                state.deferred = None;
                state.used = std::mem::take(&mut self.used);
            }
            if self.is_own {
                self.shard.abandon(self.txn);
            }
        }
    }
}

/// What happened to one row, for foreign keys to follow.
struct Effect {
    table: Arc<TableDescriptor>,
    old: Option<Row>,
    new: Option<Row>,
}

/// Effects of a statement's requests so far, while more are to come.
pub(crate) struct Deferred {
    mark: u32,
    effects: Vec<Effect>,
}

impl Deferred {
    pub(crate) fn mark(&self) -> u32 {
        self.mark
    }
}

impl Effect {
    /// Forgets the values that no foreign key can ask for: its own columns, and those that identify a row.
    fn trim(&mut self) {
        let table = &self.table;
        let is_key = |position: usize| {
            let unique = table.indexes.iter().filter(|index| index.unique);
            table.primary_key.contains(&position)
                || table.foreign_keys.iter().any(|key| key.columns.contains(&position))
                || unique.flat_map(|index| &index.columns).any(|it| it.column == position)
        };
        for row in [&mut self.old, &mut self.new].into_iter().flatten() {
            for (position, value) in row.iter_mut().enumerate() {
                if !is_key(position) {
                    *value = Datum::Null;
                }
            }
        }
    }
}

/// A running request.
struct Statement<'a> {
    shard: &'a Shard,
    txn: &'a Txn,
    context: &'a RequestContext,
    table: &'a Arc<TableDescriptor>,
    related: &'a [Arc<TableDescriptor>],
    eval: EvalContext,
}

impl<'a> Statement<'a> {
    fn new(
        shard: &'a Shard,
        txn: &'a Txn,
        context: &'a RequestContext,
        table: &'a Arc<TableDescriptor>,
        related: &'a [Arc<TableDescriptor>],
    ) -> Statement<'a> {
        let now_micros = context.now_micros;
        let settings = ValueSettings { now_micros, ..ValueSettings::default() };
        let eval =
            EvalContext { settings, transaction_micros: now_micros, ..EvalContext::default() };
        Statement { shard, txn, context, table, related, eval }
    }

    /// What foreign keys are to follow now: with the last request of a statement also what its others left. `None` while
    /// more are to come, for a table that refers to itself: its rows may refer to rows of later requests.
    fn effects_to_follow(&self, mut effects: Vec<Effect>, more: bool) -> Option<Vec<Effect>> {
        if !self.table.refers_to_itself() {
            return Some(effects);
        }
        let mut state = self.txn.state.lock();
        let mark = self.context.mark;
        let mut all = match state.deferred.take() {
            Some(deferred) if deferred.mark == mark => deferred.effects,
            Some(_) | None => Vec::new(),
        };
        if more {
            effects.iter_mut().for_each(Effect::trim);
        }
        all.append(&mut effects);
        if more && all.len() < DEFERRED_ROWS_MAX {
            state.deferred = Some(Deferred { mark, effects: all });
            return None;
        }
        Some(all)
    }

    /// The newest state, read after the locks were taken.
    fn view(&self) -> ReadView {
        self.shard.live_view(self.txn)
    }

    fn storage<T>(&self, result: Result<T, StorageError>) -> Result<T, ShardError> {
        result.map_err(|error| self.shard.core.storage_error(error))
    }

    fn read(&self, view: &ReadView, key: &Bytes) -> Result<Option<StoredRow>, ShardError> {
        self.storage(view.row(key))
    }

    fn decode(&self, table: &TableDescriptor, stored: &StoredRow) -> Result<Row, ShardError> {
        Ok(row::decode(table, &stored.value)?)
    }

    /// Refuses keys that the shard does not own under the request's map.
    fn check_owner(&self, table: &TableDescriptor, key: &Bytes) -> Result<(), ShardError> {
        if is_owned(table, key, self.shard.core.id) {
            Ok(())
        } else {
            Err(ShardError::StaleEpoch { shard: self.shard.core.id, current: table.epoch() })
        }
    }

    /// Locks keys of a table's rows or unique entries, waiting for their holders, in key order.
    async fn lock_keys(
        &self,
        table: Oid,
        mut keys: Vec<Bytes>,
        mode: LockMode,
    ) -> Result<(), ShardError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.wait_outside(table, &keys).await?;
        if self.txn.state.lock().sole.contains(&table) {
            return self.enter(table, &keys).await;
        }
        if keys.len() > 1 {
            keys.sort_unstable();
        }
        let locks = &self.shard.core.locks;
        for position in locks.acquire_free(self.txn.id, mode, &keys)? {
            let Some(key) = keys.get(position) else { continue };
            let request = LockRequest {
                txn: self.txn.id,
                mode,
                wait: WaitPolicy::Wait,
                timeout: self.context.lock_timeout,
            };
            locks.acquire(LockKey::Row(key.clone()), request).await?;
        }
        self.enter(table, &keys).await?;
        self.maybe_escalate(table, keys.len())
    }

    /// Waits while a move keeps writers from these rows.
    async fn wait_outside(&self, table: Oid, keys: &[Bytes]) -> Result<(), ShardError> {
        let holds = &self.shard.core.moves.holds;
        if holds.wait(self.txn.id, table, Wanted::Keys(keys)).await {
            self.check_again(table)?;
        }
        Ok(())
    }

    /// Goes on with rows that are locked, unless a move has begun to keep writers from them meanwhile.
    async fn enter(&self, table: Oid, keys: &[Bytes]) -> Result<(), ShardError> {
        let holds = &self.shard.core.moves.holds;
        while !holds.enter(self.txn.id, table, Wanted::Keys(keys)) {
            self.wait_outside(table, keys).await?;
        }
        // A hold that is not there any more may have ended with a fence.
        self.check_again(table)
    }

    /// After a wait, the rows may be another shard's.
    fn check_again(&self, table: Oid) -> Result<(), ShardError> {
        self.shard.core.locks.check_doomed(self.txn.id)?;
        let tables = std::iter::once(self.table).chain(self.related);
        for table in tables.filter(|it| it.oid == table) {
            self.shard.core.fences.check_now(self.shard.core.id, table)?;
        }
        Ok(())
    }

    /// Past many row locks, the whole table is cheaper; if others write it too, row locks go on.
    fn maybe_escalate(&self, table: Oid, n_new: usize) -> Result<(), ShardError> {
        let mut state = self.txn.state.lock();
        let count = state.row_locks.entry(table).or_insert(0);
        let before = *count;
        *count += n_new;
        if before / ROW_LOCKS_MAX == *count / ROW_LOCKS_MAX {
            return Ok(());
        }
        if self.shard.core.locks.try_table(self.txn.id, table, LockMode::TableWriter)? {
            state.sole.insert(table);
        }
        Ok(())
    }

    /// The mark with which the transaction last wrote a row.
    fn is_written_by_this_statement(&self, key: &Bytes) -> Result<bool, ShardError> {
        let mark = self.storage(self.txn.writes.read().last_mark(Keyspace::Rows, key))?;
        Ok(mark == Some(self.context.mark))
    }

    fn put(
        &self,
        keyspace: Keyspace,
        key: Bytes,
        value: Option<Bytes>,
        committed: Option<u64>,
    ) -> Result<(), ShardError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(ShardError::LimitExceeded {
                what: format!("index row of {} bytes", key.len()),
                limit: format!("{KEY_BYTES_MAX} bytes"),
            });
        }
        let mut writes = self.txn.writes.write();
        self.storage(writes.put(keyspace, key, value, self.context.mark, committed))
    }

    /// Writes a row; `replaced` is what is there under the same key.
    fn put_row(
        &self,
        table: &TableDescriptor,
        key: Bytes,
        new: &[Datum],
        replaced: Option<&StoredRow>,
    ) -> Result<(), ShardError> {
        let value = row::encode(table, new);
        if value.len() > ROW_BYTES_MAX {
            return Err(ShardError::LimitExceeded {
                what: format!("row of {} bytes", value.len()),
                limit: format!("{ROW_BYTES_MAX} bytes"),
            });
        }
        self.put(Keyspace::Rows, key, Some(Bytes::from(value)), replaced.map(row_size))
    }

    fn delete_row(&self, old: &StoredRow) -> Result<(), ShardError> {
        self.put(Keyspace::Rows, old.key.clone(), None, Some(row_size(old)))
    }

    fn delete_entry(&self, table: &TableDescriptor, entry: IndexEntry) -> Result<(), ShardError> {
        let index = table.indexes.get(entry.index);
        // An index that is still being built may not have it.
        if index.is_none_or(|index| index.state != IndexState::Public)
            && self.storage(self.view().index_entry(&entry.key))?.is_none()
        {
            return Ok(());
        }
        let size = stored_size(Keyspace::Index, &entry.key, &entry.value);
        self.put(Keyspace::Index, entry.key, None, Some(size))
    }
}

fn row_size(row: &StoredRow) -> u64 {
    stored_size(Keyspace::Rows, &row.key, &row.value)
}
