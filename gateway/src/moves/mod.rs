//! Moves: rows change their shard while both serve.
//!
//! Lives here: the state machine (`machine`), what carries out its commands (`driver`), the durable records (`record`), what a
//! move means for a catalog (`subject`), which moves would be good (`plan`), and the coordinator (this file): the one gateway
//! that has the lock drives moves one by one, and takes over those that another has left. Not here: SQL
//! (`exec::administration`), and a shard's part (`shard_node::moves`).

/// What the meta shard keeps.
pub mod record;

/// The order of steps.
pub mod machine;

/// What a move means for a catalog.
pub mod subject;

/// Copies of reference tables.
pub(crate) mod copies;

/// Carrying out commands.
pub mod driver;

/// Which moves to make.
pub mod plan;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use cortex_shard_api::{ShardId, cluster::ClusterLock, ids::MoveId};
use tokio::sync::Notify;

use self::{
    driver::{Driver, Stopped, Timing},
    record::{Record, Records},
};
use crate::{
    catalog::CatalogStore,
    cluster::ClusterGuard,
    error::{PgError, SqlState},
};

/// How long the lock is waited for at a time, before another look whether this gateway still lives.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Between looks for moves that other gateways have added.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// The moves as one gateway sees them.
#[derive(Debug)]
pub struct Moves {
    pub(crate) store: Arc<CatalogStore>,
    pub(crate) records: Records,
    timing: Timing,
    /// There may be something to do.
    wake: Notify,
}

impl Moves {
    /// Takes part in driving moves until it is dropped.
    pub fn start(store: Arc<CatalogStore>, timing: Timing) -> Arc<Moves> {
        let records = Records(store.meta().clone());
        let moves = Arc::new(Moves { store, records, timing, wake: Notify::new() });
        tokio::spawn(coordinate(Arc::downgrade(&moves)));
        moves
    }

    /// A move or a wish was written.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Gives a shard copies of all reference tables.
    pub(crate) async fn add_copies(&self, shard: ShardId) -> Result<(), PgError> {
        copies::add(&self.store, shard, self.timing).await.map_err(failed)
    }

    /// Takes a shard's copies of reference tables out of the placements.
    pub(crate) async fn drop_copies(&self, shard: ShardId) -> Result<(), PgError> {
        copies::remove(&self.store, shard, self.timing).await.map_err(failed)
    }

    /// A drained shard that has nothing else any more gives up its copies of reference tables.
    async fn finish_drains(&self) -> Result<(), PgError> {
        let catalog = self.store.current();
        let members = self.store.cluster().members();
        for member in members.shards().filter(|member| member.is_draining) {
            let shard = ShardId(member.id);
            if copies::held_by(&catalog, shard).is_none() {
                self.drop_copies(shard).await?;
            }
        }
        Ok(())
    }

    /// Drives one move a part of the way. False: there is none to drive.
    async fn step(&self, guard: &Arc<ClusterGuard>, last: &mut MoveId) -> Result<bool, PgError> {
        let records = self.records.all().await?;
        let wishes = self.records.wishes().await?;
        let wants = |record: &&Record| {
            let goes_on = record.is_open() && record.failed.is_none();
            // Wishes for those that have ended are taken, and come to nothing.
            goes_on || !record.fenced.is_empty() || wishes.contains(&record.id)
        };
        let wanting: Vec<&Record> = records.iter().filter(wants).collect();
        // One after the other: what had trouble waits for its turn.
        let next = wanting.iter().find(|record| record.id > *last).or(wanting.first());
        let Some(record) = next.map(|record| (*record).clone()) else {
            self.finish_drains().await?;
            return Ok(false);
        };
        *last = record.id;
        let (store, records) = (self.store.clone(), self.records.clone());
        let driver = Driver::new(store, records, self.timing, guard.clone(), record);
        Ok(driver.run().await != Stopped::LostLock)
    }
}

fn failed(failure: machine::Failure) -> PgError {
    PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, failure.message)
}

/// Waits for the right to drive moves, and drives them as long as it has it.
async fn coordinate(moves: Weak<Moves>) {
    let mut last = MoveId(0);
    loop {
        let Some(this) = moves.upgrade() else { return };
        let cluster = this.store.cluster().clone();
        let pause = this.timing.pause;
        drop(this);
        let guard = match cluster.lock(ClusterLock::Moves, LOCK_WAIT).await {
            Ok(Some(guard)) => Arc::new(guard),
            Ok(None) => continue,
            Err(error) => {
                tracing::debug!(%error, "the lock of moves is not to be had");
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        loop {
            let Some(this) = moves.upgrade() else { return };
            match this.step(&guard, &mut last).await {
                Ok(true) => {}
                Ok(false) => {
                    // A waiter that keeps the whole gateway alive would never see it end.
                    let idle = tokio::time::timeout(IDLE_WAIT, this.wake.notified());
                    let _ = idle.await;
                }
                Err(error) => {
                    tracing::debug!(%error, "moves are not known");
                    tokio::time::sleep(pause).await;
                }
            }
            if !matches!(guard.is_held().await, Ok(true)) {
                break;
            }
        }
    }
}
