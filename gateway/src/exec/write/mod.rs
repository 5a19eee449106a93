//! Writes: rows to the shards that own them, statement by statement.
//!
//! A write that one shard can do in one request commits with that request. Everything else runs inside a transaction: the
//! session's, or an implicit one. A row that changed since the statement's snapshot makes the shard answer `Retry`; the
//! statement is undone everywhere, keeps its locks, and runs again on a fresh snapshot (READ COMMITTED).
//! Not here: binding (`planner::bind::write`), what a shard checks (the shard).

mod direct;
mod insert;
mod reference;
mod table_lock;
mod update;

pub(super) use self::insert::InsertSender;

use std::{collections::BTreeSet, sync::Arc};

use cortex_functions::{scalar, session::EvalContext};
use cortex_planner::{
    bind::write::{BoundWrite, InsertSource, Returning},
    catalog::{Catalog, Table},
};
use cortex_shard_api::{
    Datum, Oid, ScalarExpr, ShardError, ShardId, SqlType, TableDescriptor,
    client::{RequestContext, Row, WriteOp, WriteOutcome, WriteRequest},
};

use super::{plan::WritePlan, session::Session};
use crate::{
    error::{PgError, SqlState},
    statement::{Execution, RowSource, RowsTag, Shielded},
};

/// How often a statement runs again because rows changed under it. Each round waits for a lock holder to finish, so
/// only a pathological schedule gets here; then 40001 tells the client.
const RETRIES_MAX: usize = 200;

/// Rows in one request to a shard: large enough to amortize the call, small enough to be held a few times in memory.
pub(super) const ROWS_PER_REQUEST: usize = 4_096;

/// What a statement has done so far.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub affected: u64,
    /// RETURNING's rows, in the order the shards gave them.
    pub rows: Vec<Row>,
}

/// Which of a statement's requests to one shard a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// There is no other request, to no shard: it may commit with this one.
    Only,
    /// More follow to this shard.
    More,
    Last,
}

/// One attempt at a statement.
pub(super) enum Attempt {
    Done(Written),
    Retry,
}

/// One write statement, with what its requests have in common.
pub(super) struct WriteRun {
    pub table: Arc<TableDescriptor>,
    pub related: Arc<[Arc<TableDescriptor>]>,
    pub parameters: Arc<[Datum]>,
    pub types: Vec<SqlType>,
    pub eval: EvalContext,
    pub returning: bool,
    /// Values of joined tables that RETURNING wants behind each row.
    pub joined: usize,
    /// The write may commit with its only request.
    pub autocommit: bool,
}

impl WriteRun {
    /// Whether a shard that got some of the statement's rows must also get its last request, even without rows: it has
    /// put off foreign keys until then.
    fn needs_last_request(&self) -> bool {
        self.table.refers_to_itself()
    }

    /// An expression for a shard: what needs the session and no row is a constant by then.
    fn settle(&self, expr: &ScalarExpr) -> ScalarExpr {
        scalar::settle(expr, &self.parameters, &self.eval)
    }
}

impl Session {
    pub async fn run_write(
        &mut self,
        plan: &WritePlan,
        types: &[SqlType],
        parameters: Arc<[Datum]>,
        autocommit: bool,
    ) -> Result<Execution, PgError> {
        let write = &plan.bound;
        self.refuse_in_read_only(verb(write))?;
        if is_fast(write) {
            self.gateway.counters.count_fast_statement();
        }
        let table = write.table();
        let autocommit = autocommit && self.transaction.is_none();
        let guard = self.share_table(&table.descriptor, autocommit).await?;
        let run = WriteRun {
            table: table.descriptor.clone(),
            related: related(&self.catalog(), table),
            parameters,
            types: types.to_vec(),
            eval: self.eval_context(),
            returning: write.returning().is_some(),
            joined: write.returning().map_or(0, |returning| returning.joined),
            autocommit,
        };
        let written = self.attempts(plan, &run).await?;
        drop(guard);
        answer(verb(write), write.returning(), &run, written)
    }

    /// Runs the statement until no row changes under it.
    async fn attempts(&mut self, plan: &WritePlan, run: &WriteRun) -> Result<Written, PgError> {
        for _ in 0..RETRIES_MAX {
            if let Some(transaction) = &mut self.transaction {
                transaction.next_mark();
            }
            match self.attempt(plan, run).await {
                Ok(Attempt::Done(written)) => return Ok(written),
                Ok(Attempt::Retry) => self.undo_statement().await?,
                Err(error) if error.is_stale => {
                    self.undo_statement().await?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(PgError::new(
            SqlState::SERIALIZATION_FAILURE,
            "could not serialize access due to concurrent update",
        )
        .with_hint("Run the transaction again."))
    }

    /// Undoes what an attempt wrote, everywhere; its locks stay.
    async fn undo_statement(&self) -> Result<(), PgError> {
        match &self.transaction {
            Some(transaction) => transaction.undo(transaction.mark, &self.gateway.shards).await,
            None => Ok(()),
        }
    }

    async fn attempt(&mut self, plan: &WritePlan, run: &WriteRun) -> Result<Attempt, PgError> {
        match &plan.bound {
            BoundWrite::Insert(insert) => self.attempt_insert(insert, plan, run).await,
            BoundWrite::Update(update) => self.attempt_update(update, plan, run).await,
            BoundWrite::Delete(delete) => self.attempt_delete(delete, plan, run).await,
            BoundWrite::UpdateByKey(update) => self.attempt_update_by_key(update, run).await,
            BoundWrite::DeleteByKey(delete) => self.attempt_delete_by_key(delete, run).await,
        }
    }

    pub(super) fn refuse_in_read_only(&self, statement: &str) -> Result<(), PgError> {
        let read_only = match &self.transaction {
            Some(transaction) => transaction.read_only,
            None => self.settings.is_on("default_transaction_read_only"),
        };
        if !read_only {
            return Ok(());
        }
        Err(PgError::new(
            SqlState::READ_ONLY_SQL_TRANSACTION,
            format!("cannot execute {statement} in a read-only transaction"),
        ))
    }

    /// Sends an operation to one shard. `only`: it is the statement's only request, so it may commit with it.
    pub(super) async fn send(
        &mut self,
        run: &WriteRun,
        shard: ShardId,
        op: WriteOp,
        only: bool,
        returning: bool,
    ) -> Result<WriteOutcome, PgError> {
        let part = if only { Part::Only } else { Part::Last };
        self.send_part(run, shard, op, part, returning).await
    }

    async fn send_part(
        &mut self,
        run: &WriteRun,
        shard: ShardId,
        op: WriteOp,
        part: Part,
        returning: bool,
    ) -> Result<WriteOutcome, PgError> {
        self.before_write(run, shard, &op).await?;
        let commit = part == Part::Only && run.autocommit && self.transaction.is_none();
        let context = if commit { self.request_base() } else { self.write_context(shard)? };
        let request = WriteRequest {
            context: context.clone(),
            table: run.table.clone(),
            related: run.related.clone(),
            op,
            commit,
            returning,
            more: part == Part::More,
        };
        let client = self.gateway.shards.get(shard)?;
        let _shield = commit.then(|| self.shield.raise(Shielded::Maybe));
        let result = client.write(request).await;
        result.map_err(|error| self.lock_error(shard, &context, error))
    }

    /// The context of a write or lock: begins a transaction if there is none, and on the shard if it is new there.
    pub(super) fn write_context(&mut self, shard: ShardId) -> Result<RequestContext, PgError> {
        let strict = self.is_strict();
        let lock_timeout = self.settings.lock_timeout();
        let cross_timeout = self.settings.cross_shard_lock_timeout();
        let transaction = self.ensure_transaction();
        let crosses = transaction.touches_another(shard);
        if strict && crosses {
            return Err(several_shards());
        }
        transaction.touch(shard);
        let (txn, mark) = (transaction.id, transaction.mark);
        // A transaction that holds locks elsewhere may be part of a deadlock that no single shard can see.
        let lock_timeout = match lock_timeout {
            Some(limit) if crosses => Some(limit.min(cross_timeout)),
            None if crosses => Some(cross_timeout),
            limit => limit,
        };
        Ok(RequestContext { txn: Some(txn), mark, lock_timeout, ..self.request_base() })
    }

    fn is_strict(&self) -> bool {
        self.settings.get("cortex.multi_shard_writes").as_deref() == Some("strict")
    }

    /// Under `strict`, refuses a write on several shards before the first of them is asked for anything.
    pub(super) fn refuse_several(
        &self,
        shards: impl IntoIterator<Item = ShardId>,
    ) -> Result<(), PgError> {
        let touched = self.transaction.iter().flat_map(|it| it.touched().iter().copied());
        let all: BTreeSet<ShardId> = touched.chain(shards).collect();
        if all.len() > 1 && self.is_strict() { Err(several_shards()) } else { Ok(()) }
    }

    /// A lock that was waited for too long while others are held on another shard counts as a deadlock.
    pub(super) fn lock_error(
        &self,
        shard: ShardId,
        context: &RequestContext,
        error: ShardError,
    ) -> PgError {
        let crossed = context.lock_timeout != self.settings.lock_timeout();
        match error {
            ShardError::LockNotAvailable { .. } if crossed => ShardError::Deadlock {
                detail: format!(
                    "A lock on shard {shard} was not granted within cortex.cross_shard_lock_timeout \
                     while the transaction holds locks on other shards."
                ),
            }
            .into(),
            error => error.into(),
        }
    }
}

/// 0A000 of `cortex.multi_shard_writes = 'strict'`.
fn several_shards() -> PgError {
    PgError::new(
        SqlState::FEATURE_NOT_SUPPORTED,
        "the transaction would write on more than one shard",
    )
    .with_detail("Each shard commits on its own: such a transaction is not atomic.")
    .with_hint(
        "Keep a transaction's rows under one shard key, or SET cortex.multi_shard_writes = \
         'best_effort'.",
    )
}

/// Whether the statement names its one row by key or by all its values, so that no query is planned.
pub(super) fn is_fast(write: &BoundWrite) -> bool {
    match write {
        BoundWrite::UpdateByKey(_) | BoundWrite::DeleteByKey(_) => true,
        BoundWrite::Insert(insert) => {
            matches!(&insert.source, InsertSource::Values(rows) if rows.len() == 1)
        }
        BoundWrite::Update(_) | BoundWrite::Delete(_) => false,
    }
}

/// The statement's word, for tags and messages.
fn verb(write: &BoundWrite) -> &'static str {
    match write {
        BoundWrite::Insert(_) => "INSERT",
        BoundWrite::Update(_) | BoundWrite::UpdateByKey(_) => "UPDATE",
        BoundWrite::Delete(_) | BoundWrite::DeleteByKey(_) => "DELETE",
    }
}

/// The tag, and RETURNING's rows.
fn answer(
    verb: &'static str,
    returning: Option<&Returning>,
    run: &WriteRun,
    written: Written,
) -> Result<Execution, PgError> {
    let prefix = if verb == "INSERT" { "INSERT 0" } else { verb };
    let Some(returning) = returning else {
        return Ok(Execution::Command(format!("{prefix} {}", written.affected)));
    };
    let mut rows = Vec::with_capacity(written.rows.len());
    for row in &written.rows {
        let values =
            returning.exprs.iter().map(|it| scalar::evaluate(it, row, &run.parameters, &run.eval));
        rows.push(values.collect::<Result<Row, _>>()?);
    }
    Ok(Execution::Rows {
        columns: returning.columns.clone(),
        rows: RowSource::Rows(rows.into_iter()),
        tag: RowsTag::Counted(prefix, written.affected),
    })
}

impl Written {
    /// Adds a shard's answer; `false` asks for another attempt.
    pub fn add(&mut self, outcome: WriteOutcome) -> bool {
        match outcome {
            WriteOutcome::Done { affected, rows } => {
                self.affected += affected;
                self.rows.extend(rows);
                true
            }
            WriteOutcome::Retry => false,
        }
    }
}

/// Tables that foreign keys connect with this one, in either direction, transitively: cascades may reach them.
pub(super) fn related(catalog: &Catalog, table: &Table) -> Arc<[Arc<TableDescriptor>]> {
    let neighbours = |descriptor: &TableDescriptor| -> Vec<Oid> {
        let parents = descriptor.foreign_keys.iter().map(|key| key.parent);
        parents.chain(descriptor.referenced_by.iter().copied()).collect()
    };
    let mut seen = BTreeSet::from([table.descriptor.oid]);
    let mut open = neighbours(&table.descriptor);
    let mut found = Vec::new();
    while let Some(oid) = open.pop() {
        if !seen.insert(oid) {
            continue;
        }
        if let Some(table) = catalog.tables.get(&oid) {
            open.extend(neighbours(&table.descriptor));
            found.push(table.descriptor.clone());
        }
    }
    found.into()
}
