//! SELECT ... FOR UPDATE and FOR SHARE: rows found by a query, then locked where they live.
//!
//! A row that changed between the statement's snapshot and its lock makes the statement run again on a fresh snapshot, with
//! the locks kept (READ COMMITTED).

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, BinaryArray, BooleanArray, UInt64Array},
    compute::filter_record_batch,
    record_batch::RecordBatch,
};
use cortex_planner::lower::{LockStrength, LockWait, Locking};
use cortex_shard_api::{
    Datum, LogIndex, ShardId, SqlType,
    client::{Key, LockRowsRequest, LockedRow, RowLock, WaitPolicy},
    key,
};
use futures::stream;

use super::{
    plan::QueryPlan,
    query::{collect, physical_plan},
    session::Session,
};
use crate::{
    error::{PgError, SqlState},
    statement::{Execution, RowSource, RowsTag},
};

/// Rows that one statement may lock: their keys are held in memory until the transaction ends.
const LOCKED_ROWS_MAX: usize = 1_000_000;

/// See `write::RETRIES_MAX`.
const RETRIES_MAX: usize = 200;

/// A row's place in the answer and its identity.
type Target = (usize, Key, LogIndex);

impl Session {
    pub async fn run_locking_query(
        &mut self,
        query: &QueryPlan,
        types: &[SqlType],
        parameters: &[Datum],
    ) -> Result<Execution, PgError> {
        self.refuse_in_read_only("SELECT FOR UPDATE")?;
        self.ensure_transaction();
        for _ in 0..RETRIES_MAX {
            let run = self.query_run(self.read_base())?;
            let physical = physical_plan(&run, query, types, parameters).await?;
            let batches = collect(run.stream(physical), LOCKED_ROWS_MAX).await?;
            drop(run);
            if let Some(batches) = self.lock_all(query, batches).await? {
                let width = query.bound.columns.len();
                let columns: Vec<usize> = (0..width).collect();
                let shown = batches.into_iter().map(move |batch| {
                    batch.project(&columns).map_err(|e| PgError::internal(e.to_string()))
                });
                return Ok(Execution::Rows {
                    columns: query.bound.columns.clone().into(),
                    rows: RowSource::Batches(Box::pin(stream::iter(shown.collect::<Vec<_>>()))),
                    tag: RowsTag::Select,
                });
            }
        }
        Err(PgError::new(
            SqlState::SERIALIZATION_FAILURE,
            "could not serialize access due to concurrent update",
        ))
    }

    /// Locks the rows of every table that the query names; `None` if one has changed. Skipped rows are left out.
    async fn lock_all(
        &mut self,
        query: &QueryPlan,
        mut batches: Vec<RecordBatch>,
    ) -> Result<Option<Vec<RecordBatch>>, PgError> {
        for locking in &query.bound.locking {
            let mut kept = Vec::with_capacity(batches.len());
            for batch in batches {
                match self.lock_batch(locking, &batch).await? {
                    Some(mask) => kept.push(
                        filter_record_batch(&batch, &mask)
                            .map_err(|error| PgError::internal(error.to_string()))?,
                    ),
                    None => return Ok(None),
                }
            }
            batches = kept;
        }
        Ok(Some(batches))
    }

    /// Which rows of the batch are locked now; `None` if one has changed.
    async fn lock_batch(
        &mut self,
        locking: &Locking,
        batch: &RecordBatch,
    ) -> Result<Option<BooleanArray>, PgError> {
        let table = &locking.table.descriptor;
        let mut by_shard: BTreeMap<ShardId, Vec<Target>> = BTreeMap::new();
        for target in targets(locking, batch)? {
            by_shard.entry(key::shard_of_key(table, &target.1)).or_default().push(target);
        }
        let mut mask = vec![true; batch.num_rows()];
        for (shard, targets) in by_shard {
            let request = LockRowsRequest {
                context: self.write_context(shard)?,
                table: Arc::clone(table),
                rows: targets.iter().map(|(_, key, seen)| (key.clone(), *seen)).collect(),
                lock: match locking.strength {
                    LockStrength::Update => RowLock::Update,
                    LockStrength::Share => RowLock::Share,
                },
                wait: match locking.wait {
                    LockWait::Wait => WaitPolicy::Wait,
                    LockWait::Nowait => WaitPolicy::NoWait,
                    LockWait::SkipLocked => WaitPolicy::SkipLocked,
                },
            };
            let context = request.context.clone();
            let locked = self.gateway.shards.get(shard)?.lock_rows(request).await;
            let locked = locked.map_err(|error| self.lock_error(shard, &context, error))?;
            for ((position, _, _), outcome) in targets.iter().zip(locked) {
                match outcome {
                    LockedRow::Same(_) => {}
                    LockedRow::Skipped => mask[*position] = false,
                    LockedRow::Changed => return Ok(None),
                }
            }
        }
        Ok(Some(BooleanArray::from(mask)))
    }
}

/// The rows to lock: outer joins leave some without identity.
fn targets(locking: &Locking, batch: &RecordBatch) -> Result<Vec<Target>, PgError> {
    let keys = batch.column(locking.key_column).as_any().downcast_ref::<BinaryArray>();
    let versions = batch.column(locking.version_column).as_any().downcast_ref::<UInt64Array>();
    let (Some(keys), Some(versions)) = (keys, versions) else {
        return Err(PgError::internal("a locking query lost the identity of its rows"));
    };
    let valid = (0..batch.num_rows()).filter(|row| keys.is_valid(*row) && versions.is_valid(*row));
    Ok(valid
        .map(|row| (row, Key::copy_from_slice(keys.value(row)), LogIndex(versions.value(row))))
        .collect())
}
