//! What this gateway's statements must see of the copies of reference tables.
//!
//! A write goes to the primary copy; the other shards follow its log. So a statement that reads a copy waits until the copy
//! has what this gateway acknowledged: to whichever session, so that a client that writes on one connection reads it on
//! another. Lives here: the newest commit for each shard with primary copies, and the wait. Not here: following
//! (`shard_node::replication`), which tables are read from copies at all (`planner::operators::table`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use cortex_planner::operators;
use cortex_shard_api::{LogIndex, ShardError, ShardId};

use super::gateway::Shards;
use crate::error::PgError;

/// A copy is milliseconds behind; one that is not there after so long is not coming soon, and the client should know.
const COPY_WAIT_MAX: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Copies {
    shards: Shards,
    /// By shard with primary copies: the newest commit that a copy must have.
    required: Mutex<BTreeMap<ShardId, LogIndex>>,
    /// By that shard and the copy's: what the copy is known to have.
    reached: Mutex<BTreeMap<(ShardId, ShardId), LogIndex>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Copies {
    pub fn new(shards: Shards) -> Copies {
        Copies { shards, required: Mutex::default(), reached: Mutex::default() }
    }

    /// Asks every shard for its newest change: what an earlier gateway acknowledged counts, too.
    pub async fn load(&self) -> Result<(), PgError> {
        for shard in self.shards.data() {
            self.refresh(shard).await?;
        }
        Ok(())
    }

    /// Asks one shard for its newest change.
    pub async fn refresh(&self, source: ShardId) -> Result<(), PgError> {
        let client = self.shards.get(source)?;
        let newest = client.copy_position(source, LogIndex(0), Duration::ZERO).await?;
        self.committed(source, newest);
        Ok(())
    }

    /// A transaction that changed primary copies on `source` was committed there.
    pub fn committed(&self, source: ShardId, index: LogIndex) {
        let mut required = locked(&self.required);
        let newest = required.entry(source).or_default();
        *newest = (*newest).max(index);
    }

    /// Returns once the copies on `copy` of the tables of `source` have everything that was acknowledged before the call.
    pub async fn reach(
        &self,
        source: ShardId,
        copy: ShardId,
        limit: Option<Duration>,
    ) -> Result<(), ShardError> {
        if source == copy {
            return Ok(());
        }
        let required = locked(&self.required).get(&source).copied().unwrap_or_default();
        let reached = locked(&self.reached).get(&(source, copy)).copied().unwrap_or_default();
        if reached >= required {
            return Ok(());
        }
        let wait = limit.unwrap_or(COPY_WAIT_MAX).min(COPY_WAIT_MAX);
        let client = self.shards.get(copy).map_err(|error| ShardError::Unavailable {
            shard: copy,
            reason: error.message.clone(),
        })?;
        let position = client.copy_position(source, required, wait).await?;
        locked(&self.reached).insert((source, copy), position);
        if position >= required {
            return Ok(());
        }
        let message = format!(
            "shard {copy} did not get the latest changes of reference tables from shard {source} within {} ms",
            wait.as_millis()
        );
        Err(ShardError::LockNotAvailable { message })
    }
}

/// The copies as one statement waits for them.
pub(super) struct StatementCopies {
    pub copies: Arc<Copies>,
    pub limit: Option<Duration>,
}

#[async_trait]
impl operators::Copies for StatementCopies {
    async fn reach(&self, source: ShardId, copy: ShardId) -> Result<(), ShardError> {
        self.copies.reach(source, copy, self.limit).await
    }
}
