//! Shards that come and go: `cortex.add_shard`, `cortex.drain_shard`, `cortex.remove_shard`.

use std::collections::BTreeSet;

use cortex_shard_api::{Datum, ShardId, client::Row, cluster::MemberState};

use super::Arguments;
use crate::{
    error::{PgError, SqlState},
    exec::session::Session,
    moves::{copies::held_by, plan::Strategy},
};

fn not_now(message: String) -> PgError {
    PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}

impl Session {
    /// The shards that are there, known ones alone.
    fn check_is_shard(&self, shard: ShardId) -> Result<(), PgError> {
        if self.gateway.shards.data().contains(&shard) {
            return Ok(());
        }
        Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, format!("there is no shard {shard}")))
    }

    pub(super) async fn add_shard(&mut self, arguments: &Arguments) -> Result<Vec<Row>, PgError> {
        let address = arguments.text(0)?;
        let cluster = self.gateway.store.cluster().clone();
        let members = cluster.fresh_members().await?;
        if members.shards().all(|shard| shard.address.is_empty()) {
            return Err(PgError::unsupported(
                "the shards of this database are in one process; none can be added",
                "Run shards as processes: cortexdb meta, cortexdb shard --join, cortexdb gateway --join.",
            ));
        }
        let Some(shard) = members.shards().find(|shard| shard.address == address) else {
            return Err(PgError::new(
                SqlState::UNDEFINED_OBJECT,
                format!("no shard has joined from {address}"),
            )
            .with_hint(format!(
                "Start it first: cortexdb shard --listen {address} --data-dir DIR --join META."
            )));
        };
        if shard.state != MemberState::Up {
            return Err(not_now(format!("the shard at {address} is {}", shard.state)));
        }
        let id = ShardId(shard.id);
        cluster.meta().set_draining(id, false).await?;
        self.gateway.moves.add_copies(id).await?;
        Ok(vec![vec![Datum::Int4(id.0 as i32)]])
    }

    pub(super) async fn drain_shard(&mut self, arguments: &Arguments) -> Result<Vec<Row>, PgError> {
        let shard = arguments.shard(0)?;
        self.check_is_shard(shard)?;
        let cluster = self.gateway.store.cluster().clone();
        let members = cluster.fresh_members().await?;
        let draining: BTreeSet<u32> =
            members.shards().filter(|it| it.is_draining).map(|it| it.id).collect();
        let others = cluster.shards.data();
        if !others.iter().any(|it| *it != shard && !draining.contains(&it.0)) {
            return Err(not_now(format!("no other shard can take what shard {shard} has")));
        }
        cluster.meta().set_draining(shard, true).await?;
        let moves = self.planned_moves(Strategy::Count).await?;
        let moves: Vec<_> = moves.into_iter().filter(|it| it.from == shard).collect();
        let added = self.add_planned(moves).await?;
        if added == 0 {
            self.gateway.moves.drop_copies(shard).await?;
        }
        Ok(vec![vec![Datum::Int8(added as i64)]])
    }

    pub(super) async fn remove_shard(&mut self, arguments: &Arguments) -> Result<(), PgError> {
        let shard = arguments.shard(0)?;
        self.check_is_shard(shard)?;
        let cluster = self.gateway.store.cluster().clone();
        let members = cluster.fresh_members().await?;
        if members.shards().any(|it| it.id == shard.0 && it.address.is_empty()) {
            return Err(PgError::unsupported(
                "the shards of this database are in one process; none can be taken out",
                "cortex.drain_shard() empties one.",
            ));
        }
        let catalog = self.gateway.store.refresh().await?;
        if let Some(what) = held_by(&catalog, shard) {
            return Err(not_now(format!("shard {shard} holds {what}")).with_hint(format!(
                "SELECT cortex.drain_shard({shard}) moves everything off it."
            )));
        }
        let records = self.gateway.moves.records.all().await?;
        let concerns = |from: ShardId, to: ShardId| from == shard || to == shard;
        if let Some(open) = records.iter().find(|it| it.is_open() && concerns(it.from, it.to)) {
            return Err(not_now(format!(
                "move {} from or to shard {shard} has not ended",
                open.id
            )));
        }
        cluster.meta().set_draining(shard, true).await?;
        self.gateway.moves.drop_copies(shard).await?;
        // Something may have been placed there before everybody knew.
        if let Some(what) = held_by(&*self.gateway.store.refresh().await?, shard) {
            return Err(not_now(format!("shard {shard} holds {what}")));
        }
        cluster.meta().remove_shard(shard).await?;
        Ok(())
    }
}
