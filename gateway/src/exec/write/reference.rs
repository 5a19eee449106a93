//! Writes to reference tables: the primary copy on the home shard decides, the others take what came of it.
//!
//! The primary copy's locks serialize writers, so copies never disagree about order. All copies are written in one
//! transaction; like any other over several shards it is not atomic, and its outcome is reported.

use cortex_shard_api::{
    ScalarExpr, ShardId,
    client::{Arbiter, Key, OnConflict, Row, WriteOp, WriteOutcome},
    descriptor::TableDescriptor,
};

use super::{Session, WriteRun};
use crate::error::PgError;

impl Session {
    pub(super) async fn insert_reference(
        &mut self,
        run: &WriteRun,
        primary: ShardId,
        rows: Vec<Row>,
        on_conflict: OnConflict,
    ) -> Result<WriteOutcome, PgError> {
        let op = WriteOp::Insert { rows, on_conflict };
        self.write_reference(run, primary, op).await
    }

    /// Writes the primary copy, then brings the others to the same rows.
    pub(super) async fn write_reference(
        &mut self,
        run: &WriteRun,
        primary: ShardId,
        op: WriteOp,
    ) -> Result<WriteOutcome, PgError> {
        self.refuse_several(run.table.shards())?;
        let deleted = deleted_keys(&op);
        let outcome = self.send(run, primary, op, false, true).await?;
        let WriteOutcome::Done { affected, rows } = outcome else { return Ok(outcome) };
        for shard in run.table.shards() {
            if shard != primary {
                self.follow(run, shard, &deleted, &rows).await?;
            }
        }
        Ok(WriteOutcome::Done { affected, rows: if run.returning { rows } else { Vec::new() } })
    }

    /// Applies what the primary copy did to another one.
    async fn follow(
        &mut self,
        run: &WriteRun,
        shard: ShardId,
        deleted: &Option<Vec<Key>>,
        rows: &[Row],
    ) -> Result<(), PgError> {
        if let Some(keys) = deleted {
            for key in keys {
                let op = WriteOp::DeleteByKey {
                    key: key.clone(),
                    predicate: None,
                    parameters: run.parameters.clone(),
                };
                self.send(run, shard, op, false, false).await?;
            }
            return Ok(());
        }
        if rows.is_empty() {
            return Ok(());
        }
        let op = WriteOp::Insert { rows: rows.to_vec(), on_conflict: overwrite(run) };
        self.send(run, shard, op, false, false).await?;
        Ok(())
    }
}

/// The keys that an operation deletes; `None` for one that leaves rows.
fn deleted_keys(op: &WriteOp) -> Option<Vec<Key>> {
    match op {
        WriteOp::Delete { rows } => Some(rows.iter().map(|(key, _)| key.clone()).collect()),
        WriteOp::DeleteByKey { key, .. } => Some(vec![key.clone()]),
        WriteOp::Insert { .. } | WriteOp::Update { .. } | WriteOp::UpdateByKey { .. } => None,
    }
}

/// ON CONFLICT (primary key) DO UPDATE SET every column = excluded.
fn overwrite(run: &WriteRun) -> OnConflict {
    let table: &TableDescriptor = &run.table;
    let width = table.columns.len();
    let assignments = table
        .live_columns()
        .filter(|(position, _)| !table.primary_key.contains(position))
        .map(|(position, column)| {
            (position, ScalarExpr::Column { position: width + position, ty: column.ty })
        })
        .collect();
    OnConflict::DoUpdate {
        arbiter: Arbiter::PrimaryKey,
        assignments,
        predicate: None,
        parameters: run.parameters.clone(),
    }
}
