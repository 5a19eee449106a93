//! UPDATE and DELETE: under the row's lock in the shard where the key is known, through a query otherwise.

use std::collections::BTreeMap;

use arrow::record_batch::RecordBatch;
use cortex_planner::bind::write::{BoundDelete, BoundDeleteByKey, BoundUpdate, BoundUpdateByKey};
use cortex_shard_api::{
    Datum, LogIndex, ShardId, SqlType,
    client::{Key, RowUpdate, WriteOp, WriteOutcome},
    key,
};
use futures::StreamExt;

use super::{Attempt, ROWS_PER_REQUEST, Session, WriteRun, Written, is_reference};
use crate::{
    error::PgError,
    exec::{fast::primary_key, plan::QueryPlan, rows::BatchRows},
};

impl Session {
    pub(super) async fn attempt_update_by_key(
        &mut self,
        update: &BoundUpdateByKey,
        run: &WriteRun,
    ) -> Result<Attempt, PgError> {
        let Some(key) = primary_key(&update.key, &run.parameters, &run.eval, &run.table)? else {
            return Ok(Attempt::Done(Written::default()));
        };
        let shard = key::shard_of_key(&run.table, &key);
        let op = WriteOp::UpdateByKey {
            key,
            predicate: update.predicate.as_ref().map(|it| run.settle(it)),
            assignments: update.assignments.iter().map(|(at, it)| (*at, run.settle(it))).collect(),
            parameters: run.parameters.clone(),
        };
        self.one_request(run, shard, op).await
    }

    pub(super) async fn attempt_delete_by_key(
        &mut self,
        delete: &BoundDeleteByKey,
        run: &WriteRun,
    ) -> Result<Attempt, PgError> {
        let Some(key) = primary_key(&delete.key, &run.parameters, &run.eval, &run.table)? else {
            return Ok(Attempt::Done(Written::default()));
        };
        let shard = key::shard_of_key(&run.table, &key);
        let op = WriteOp::DeleteByKey {
            key,
            predicate: delete.predicate.as_ref().map(|it| run.settle(it)),
            parameters: run.parameters.clone(),
        };
        self.one_request(run, shard, op).await
    }

    async fn one_request(
        &mut self,
        run: &WriteRun,
        shard: ShardId,
        op: WriteOp,
    ) -> Result<Attempt, PgError> {
        let outcome = if is_reference(&run.table) {
            self.write_reference(run, shard, op).await?
        } else {
            self.send(run, shard, op, true, run.returning).await?
        };
        let mut written = Written::default();
        Ok(if written.add(outcome) { Attempt::Done(written) } else { Attempt::Retry })
    }

    pub(super) async fn attempt_update(
        &mut self,
        update: &BoundUpdate,
        run: &WriteRun,
    ) -> Result<Attempt, PgError> {
        let positions: Vec<usize> =
            run.table.live_columns().map(|(position, _)| position).collect();
        let width = run.table.columns.len();
        let to_update = |key: Key, seen: LogIndex, values: Vec<Datum>| {
            let mut row = vec![Datum::Null; width];
            for (position, value) in positions.iter().zip(values) {
                row[*position] = value;
            }
            RowUpdate { key, seen, row }
        };
        let to_op =
            |rows: Vec<RowUpdate>| WriteOp::Update { rows, assigned: update.assigned.clone() };
        let query = QueryPlan::new((*update.query).clone());
        self.write_found(&query, run, to_update, to_op).await
    }

    pub(super) async fn attempt_delete(
        &mut self,
        delete: &BoundDelete,
        run: &WriteRun,
    ) -> Result<Attempt, PgError> {
        let query = QueryPlan::new((*delete.query).clone());
        let to_op = |rows| WriteOp::Delete { rows };
        self.write_found(&query, run, |key, seen, _| (key, seen), to_op).await
    }

    /// Sends what a query found to the shards that own it, in bounded requests. A row found twice (joins) is written once,
    /// as its first match says.
    async fn write_found<T: Send>(
        &mut self,
        query: &QueryPlan,
        run: &WriteRun,
        to_item: impl Fn(Key, LogIndex, Vec<Datum>) -> T + Send + Sync,
        to_op: impl Fn(Vec<T>) -> WriteOp + Send + Sync,
    ) -> Result<Attempt, PgError> {
        let mut batches = self.source(query, run).await?;
        // The identity columns stand before the computed ones.
        let identity = [SqlType::Bytea, SqlType::Int8];
        let computed = query.bound.columns.iter().map(|column| column.ty.ty);
        let types: Vec<SqlType> = identity.into_iter().chain(computed).collect();
        let mut pending: BTreeMap<ShardId, Vec<T>> = BTreeMap::new();
        let mut seen_keys = std::collections::HashSet::new();
        let mut written = Written::default();
        while let Some(batch) = batches.next().await {
            let batch: RecordBatch = batch?;
            let rows = BatchRows::new(&batch, &types);
            for index in 0..batch.num_rows() {
                let (key, version) = rows.identity(index)?;
                if !seen_keys.insert(key.clone()) {
                    continue;
                }
                let shard = key::shard_of_key(&run.table, &key);
                let values = rows.values_after(index, 2)?;
                let items = pending.entry(shard).or_default();
                items.push(to_item(key, version, values));
                if items.len() >= ROWS_PER_REQUEST {
                    let op = to_op(std::mem::take(items));
                    let outcome = self.send_found(run, shard, op, false).await?;
                    if !written.add(outcome) {
                        return Ok(Attempt::Retry);
                    }
                }
            }
        }
        drop(batches);
        pending.retain(|_, items| !items.is_empty());
        self.refuse_several(pending.keys().copied())?;
        let only = pending.len() == 1 && self.transaction.is_none();
        for (shard, items) in pending {
            let outcome = self.send_found(run, shard, to_op(items), only).await?;
            if !written.add(outcome) {
                return Ok(Attempt::Retry);
            }
        }
        Ok(Attempt::Done(written))
    }

    async fn send_found(
        &mut self,
        run: &WriteRun,
        shard: ShardId,
        op: WriteOp,
        only: bool,
    ) -> Result<WriteOutcome, PgError> {
        if is_reference(&run.table) {
            return self.write_reference(run, shard, op).await;
        }
        self.send(run, shard, op, only, run.returning).await
    }
}
