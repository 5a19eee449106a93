//! INSERT: values computed in the gateway, rows sent to the shards that own them.

use std::collections::BTreeMap;

use cortex_planner::bind::write::{BoundConflict, BoundInsert, InsertSource};
use cortex_shard_api::{
    ShardId,
    client::{OnConflict, Row, WriteOp},
    key,
};
use futures::StreamExt;

use super::{Attempt, Part, ROWS_PER_REQUEST, Session, WriteRun, Written};
use crate::{
    error::PgError,
    exec::{
        defaults::RowMaker,
        plan::{QueryPlan, WritePlan},
        query::{Batches, physical_plan},
        rows::BatchRows,
    },
};

impl Session {
    pub(super) async fn attempt_insert(
        &mut self,
        insert: &BoundInsert,
        plan: &WritePlan,
        run: &WriteRun,
    ) -> Result<Attempt, PgError> {
        let on_conflict = conflict(&insert.on_conflict, run);
        let mut sender = InsertSender::new(on_conflict);
        match &insert.source {
            InsertSource::Values(exprs) => {
                let mut maker = RowMaker::new(self, exprs.iter().map(Vec::as_slice)).await?;
                for exprs in exprs {
                    let row = maker.row(exprs, &[], &run.parameters, &run.eval)?;
                    sender.push(self, run, row).await?;
                }
            }
            InsertSource::Query { row, .. } => {
                let query = plan.read()?;
                let mut batches = self.source(query, run).await?;
                let types: Vec<_> = query.bound.columns.iter().map(|column| column.ty.ty).collect();
                while let Some(batch) = batches.next().await {
                    let batch = batch?;
                    let rows = BatchRows::new(&batch, &types);
                    let exprs = std::iter::repeat_n(row.as_slice(), batch.num_rows());
                    let mut maker = RowMaker::new(self, exprs).await?;
                    for index in 0..batch.num_rows() {
                        let source = rows.row(index)?;
                        let made = maker.row(row, &source, &run.parameters, &run.eval)?;
                        sender.push(self, run, made).await?;
                    }
                }
            }
        }
        sender.finish(self, run).await
    }

    /// The query that a write reads its rows from. It reads on each shard what is there when it begins, before the first row has
    /// come: it does not see what the write does.
    pub(super) async fn source(
        &mut self,
        query: &QueryPlan,
        run: &WriteRun,
    ) -> Result<Batches, PgError> {
        let query_run = self.query_run(self.read_base())?;
        let physical = physical_plan(&query_run, query, &run.types, &run.parameters).await?;
        Ok(query_run.stream(physical))
    }
}

/// Collects rows by shard and sends them in requests of bounded size.
pub(in crate::exec) struct InsertSender {
    on_conflict: OnConflict,
    /// An entry stays when its rows are sent: a shard that got more than one request gets a last one.
    pending: BTreeMap<ShardId, Vec<Row>>,
    written: Written,
    retry: bool,
}

impl InsertSender {
    pub fn new(on_conflict: OnConflict) -> InsertSender {
        InsertSender {
            on_conflict,
            pending: BTreeMap::new(),
            written: Written::default(),
            retry: false,
        }
    }

    pub async fn push(
        &mut self,
        session: &mut Session,
        run: &WriteRun,
        row: Row,
    ) -> Result<(), PgError> {
        let shard = key::shard_of_row(&run.table, &row);
        let rows = self.pending.entry(shard).or_default();
        rows.push(row);
        if rows.len() >= ROWS_PER_REQUEST {
            let rows = std::mem::take(rows);
            self.send(session, run, shard, rows, Part::More).await?;
        }
        Ok(())
    }

    async fn send(
        &mut self,
        session: &mut Session,
        run: &WriteRun,
        shard: ShardId,
        rows: Vec<Row>,
        part: Part,
    ) -> Result<(), PgError> {
        let on_conflict = self.on_conflict.clone();
        let op = WriteOp::Insert { rows, on_conflict };
        let outcome = session.send_part(run, shard, op, part, run.returning).await?;
        self.retry |= !self.written.add(outcome);
        Ok(())
    }

    pub async fn finish(
        mut self,
        session: &mut Session,
        run: &WriteRun,
    ) -> Result<Attempt, PgError> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.retain(|_, rows| !rows.is_empty() || run.needs_last_request());
        session.refuse_several(pending.keys().copied())?;
        let only = pending.len() == 1 && session.transaction.is_none();
        let part = if only { Part::Only } else { Part::Last };
        for (shard, rows) in pending {
            self.send(session, run, shard, rows, part).await?;
        }
        Ok(if self.retry { Attempt::Retry } else { Attempt::Done(self.written) })
    }
}

/// The bound conflict clause as the shard takes it.
fn conflict(bound: &BoundConflict, run: &WriteRun) -> OnConflict {
    match bound {
        BoundConflict::Fail => OnConflict::Fail,
        BoundConflict::DoNothing { arbiter } => OnConflict::DoNothing { arbiter: *arbiter },
        BoundConflict::DoUpdate { arbiter, assignments, predicate } => OnConflict::DoUpdate {
            arbiter: *arbiter,
            assignments: assignments.iter().map(|(at, it)| (*at, run.settle(it))).collect(),
            predicate: predicate.as_ref().map(|it| run.settle(it)),
            parameters: run.parameters.clone(),
        },
    }
}
