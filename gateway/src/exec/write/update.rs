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

use super::{Attempt, Part, ROWS_PER_REQUEST, Session, WriteRun, Written, direct::DirectRow};
use crate::{
    error::PgError,
    exec::{
        fast::primary_key,
        plan::{QueryPlan, WritePlan},
        rows::BatchRows,
    },
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
        let outcome = self.send(run, shard, op, true, run.returning).await?;
        let mut written = Written::default();
        Ok(if written.add(outcome) { Attempt::Done(written) } else { Attempt::Retry })
    }

    pub(super) async fn attempt_update(
        &mut self,
        update: &BoundUpdate,
        plan: &WritePlan,
        run: &WriteRun,
    ) -> Result<Attempt, PgError> {
        let to_op =
            |rows: Vec<RowUpdate>| WriteOp::Update { rows, assigned: update.assigned.clone() };
        if let Some(direct) = &update.direct
            && let Some(rows) = self.find_directly(direct, run).await?
        {
            let to_update = |it: DirectRow| {
                let row = it.assigned(direct, run)?;
                Ok(RowUpdate { key: it.key, seen: it.version, row })
            };
            return self.write_direct(run, rows, to_update, to_op).await;
        }
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
        self.write_found(plan.read()?, run, to_update, to_op).await
    }

    pub(super) async fn attempt_delete(
        &mut self,
        delete: &BoundDelete,
        plan: &WritePlan,
        run: &WriteRun,
    ) -> Result<Attempt, PgError> {
        let to_op = |rows| WriteOp::Delete { rows };
        if let Some(direct) = &delete.direct
            && let Some(rows) = self.find_directly(direct, run).await?
        {
            return self.write_direct(run, rows, |it| Ok((it.key, it.version)), to_op).await;
        }
        self.write_found(plan.read()?, run, |key, seen, _| (key, seen), to_op).await
    }

    /// Sends rows that were found without a query to the shards that own them.
    async fn write_direct<T: Send>(
        &mut self,
        run: &WriteRun,
        rows: Vec<DirectRow>,
        to_item: impl Fn(DirectRow) -> Result<T, PgError>,
        to_op: impl Fn(Vec<T>) -> WriteOp + Send + Sync,
    ) -> Result<Attempt, PgError> {
        let mut pending: BTreeMap<ShardId, Found<T>> = BTreeMap::new();
        for row in rows {
            let shard = key::shard_of_key(&run.table, &row.key);
            pending.entry(shard).or_default().items.push(to_item(row)?);
        }
        self.send_last(run, pending, to_op, Written::default()).await
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
        let mut pending: BTreeMap<ShardId, Found<T>> = BTreeMap::new();
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
                let mut values = rows.values_after(index, 2)?;
                let found = pending.entry(shard).or_default();
                if run.joined > 0 {
                    found.joined.push(values.split_off(values.len().saturating_sub(run.joined)));
                }
                found.items.push(to_item(key, version, values));
                if found.items.len() >= ROWS_PER_REQUEST {
                    let found = std::mem::take(found);
                    let part = Part::More;
                    if !self.send_found(run, shard, found, &to_op, part, &mut written).await? {
                        return Ok(Attempt::Retry);
                    }
                }
            }
        }
        drop(batches);
        self.send_last(run, pending, to_op, written).await
    }

    /// Sends the last request to each shard that has one to get.
    async fn send_last<T: Send>(
        &mut self,
        run: &WriteRun,
        mut pending: BTreeMap<ShardId, Found<T>>,
        to_op: impl Fn(Vec<T>) -> WriteOp + Send + Sync,
        mut written: Written,
    ) -> Result<Attempt, PgError> {
        pending.retain(|_, found| !found.items.is_empty() || run.needs_last_request());
        self.refuse_several(pending.keys().copied())?;
        let only = pending.len() == 1 && self.transaction.is_none();
        let part = if only { Part::Only } else { Part::Last };
        for (shard, found) in pending {
            if !self.send_found(run, shard, found, &to_op, part, &mut written).await? {
                return Ok(Attempt::Retry);
            }
        }
        Ok(Attempt::Done(written))
    }

    /// Sends one request; `false` asks for another attempt.
    async fn send_found<T>(
        &mut self,
        run: &WriteRun,
        shard: ShardId,
        found: Found<T>,
        to_op: impl Fn(Vec<T>) -> WriteOp,
        part: Part,
        written: &mut Written,
    ) -> Result<bool, PgError> {
        let op = to_op(found.items);
        let mut outcome = self.send_part(run, shard, op, part, run.returning).await?;
        if let (WriteOutcome::Done { rows, .. }, true) = (&mut outcome, run.joined > 0) {
            if rows.len() != found.joined.len() {
                return Err(PgError::internal("a shard returned other rows than it was sent"));
            }
            for (row, joined) in rows.iter_mut().zip(found.joined) {
                row.resize(run.table.columns.len(), Datum::Null);
                row.extend(joined);
            }
        }
        Ok(written.add(outcome))
    }
}

/// Rows on their way to one shard, and what RETURNING wants of the rows joined with each.
struct Found<T> {
    items: Vec<T>,
    joined: Vec<Vec<Datum>>,
}

impl<T> Default for Found<T> {
    fn default() -> Found<T> {
        Found { items: Vec::new(), joined: Vec::new() }
    }
}
