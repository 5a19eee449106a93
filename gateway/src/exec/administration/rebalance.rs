//! `cortex.rebalance_plan` and what runs it.

use std::collections::BTreeSet;

use cortex_planner::catalog::Catalog;
use cortex_shard_api::{Datum, ShardId, client::Row};

use super::Arguments;
use crate::{
    error::{PgError, SqlState},
    exec::{gateway::now_micros, session::Session},
    moves::{
        plan::{PlannedMove, Situation, Sizes, Strategy, plan},
        record::{Phase, Record},
    },
};

impl Session {
    pub(super) async fn rebalance_plan(
        &mut self,
        arguments: &Arguments,
    ) -> Result<Vec<Row>, PgError> {
        let moves = self.planned_moves(strategy(arguments.text(0)?)?).await?;
        let shard = |shard: ShardId| Datum::Int4(shard.0 as i32);
        let rows = moves.iter().map(|planned| {
            vec![
                Datum::Text(self.subject_text(&planned.subject).into()),
                shard(planned.from),
                shard(planned.to),
                Datum::Int8(i64::try_from(planned.bytes).unwrap_or(i64::MAX)),
                Datum::Text(planned.reason.as_str().into()),
            ]
        });
        Ok(rows.collect())
    }

    pub(super) async fn rebalance_start(
        &mut self,
        arguments: &Arguments,
    ) -> Result<Vec<Row>, PgError> {
        let moves = self.planned_moves(strategy(arguments.text(0)?)?).await?;
        let added = self.add_planned(moves).await?;
        Ok(vec![vec![Datum::Int8(added as i64)]])
    }

    pub(super) async fn add_planned(&self, moves: Vec<PlannedMove>) -> Result<usize, PgError> {
        if moves.is_empty() {
            return Ok(0);
        }
        let now = now_micros();
        let records = moves.into_iter().map(|planned| Record {
            created_micros: now,
            is_of_plan: true,
            bytes_total: planned.bytes,
            ..Record::new(planned.subject, planned.from, planned.to, planned.reason)
        });
        Ok(self.add_moves(records.collect()).await?.len())
    }

    pub(super) async fn rebalance_stop(&mut self) -> Result<Vec<Row>, PgError> {
        let records = &self.gateway.moves.records;
        let mut stopped = 0;
        for record in records.all().await? {
            let is_waiting = record.phase == Phase::Planned && record.copied.is_empty();
            if !record.is_of_plan || !is_waiting {
                continue;
            }
            let mut next = Record { phase: Phase::Aborted, failed: None, ..record.clone() };
            next.trouble = Some("the rebalancing was stopped".to_owned());
            next.ended_micros = now_micros();
            // One that begins just now goes on to its end.
            match records.replace(&record, &next).await {
                Ok(()) => stopped += 1,
                Err(cortex_shard_api::ShardError::MetaConflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(vec![vec![Datum::Int8(stopped)]])
    }

    /// The plan for the cluster as it is now.
    pub(super) async fn planned_moves(
        &self,
        strategy: Strategy,
    ) -> Result<Vec<PlannedMove>, PgError> {
        let catalog = self.gateway.store.refresh().await?;
        let sizes = self.sizes(&catalog).await?;
        let members = self.gateway.store.cluster().fresh_members().await?;
        let draining: BTreeSet<ShardId> =
            members.shards().filter(|it| it.is_draining).map(|it| ShardId(it.id)).collect();
        let takers: BTreeSet<ShardId> =
            self.gateway.shards.data().into_iter().filter(|it| !draining.contains(it)).collect();
        let (takers, draining) = (&takers, &draining);
        let situation = Situation { catalog: &catalog, sizes: &sizes, takers, draining, strategy };
        Ok(plan(situation))
    }

    async fn sizes(&self, catalog: &Catalog) -> Result<Sizes, PgError> {
        let mut sizes = Sizes::new();
        for table in catalog.tables.values() {
            for shard in table.descriptor.shards() {
                let client = self.gateway.shards.get(shard)?;
                for storage in table.storages() {
                    let stats = client.storage_stats(storage).await?;
                    sizes.insert((shard, storage), stats.bytes);
                }
            }
        }
        Ok(sizes)
    }
}

fn strategy(text: &str) -> Result<Strategy, PgError> {
    Strategy::parse(text).ok_or_else(|| {
        PgError::new(SqlState::INVALID_PARAMETER_VALUE, format!("there is no strategy \"{text}\""))
            .with_hint("Available strategies: by_bytes, by_slots.")
    })
}
