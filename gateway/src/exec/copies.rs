//! What this gateway's statements must see of the copies of reference tables.
//!
//! A write goes to the primary copy; the other shards follow its log. So a statement that reads a copy waits until the copy
//! has what was acknowledged: to whichever session, so that a client that writes on one connection reads it on another. What
//! this gateway acknowledged it knows; while there are others, it asks the primary copy's shard once for each statement, and
//! opens snapshots meanwhile. Lives here: the newest change for each shard with primary copies, and the wait. Not here:
//! following (`shard_node::replication`), which tables are read from copies at all (`planner::operators::table`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use cortex_planner::operators;
use cortex_shard_api::{LogIndex, ShardError, ShardId, client::ShardClient};
use tokio::sync::OnceCell;

use crate::catalog::CatalogStore;

/// A copy is milliseconds behind; one that is not there after so long is not coming soon, and the client should know.
const COPY_WAIT_MAX: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Copies {
    store: Arc<CatalogStore>,
    sources: Mutex<BTreeMap<ShardId, Source>>,
}

/// A shard with primary copies.
#[derive(Debug, Default)]
struct Source {
    /// Counts transactions of this gateway that may have changed them.
    changes: u64,
    /// With so many of these counted, and with this version of the catalog, this was the newest change. `None`: nobody has
    /// asked since the gateway was started, and what an earlier one acknowledged counts, too.
    newest: Option<((u64, u64), LogIndex)>,
    /// What the copies on other shards are known to have.
    reached: BTreeMap<ShardId, LogIndex>,
}

impl Copies {
    pub fn new(store: Arc<CatalogStore>) -> Copies {
        Copies { store, sources: Mutex::default() }
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<ShardId, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction that may have changed primary copies on a shard has ended; before anyone is told.
    pub fn changed(&self, source: ShardId) {
        self.sources().entry(source).or_default().changes += 1;
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
        let required = self.required(source).await?;
        self.wait(source, copy, required, limit).await
    }

    /// What a copy is known to have.
    fn known(&self, source: ShardId, copy: ShardId) -> Option<LogIndex> {
        self.sources().get(&source).and_then(|it| it.reached.get(&copy).copied())
    }

    async fn wait(
        &self,
        source: ShardId,
        copy: ShardId,
        required: LogIndex,
        limit: Option<Duration>,
    ) -> Result<(), ShardError> {
        if self.known(source, copy) >= Some(required) {
            return Ok(());
        }
        let wait = limit.unwrap_or(COPY_WAIT_MAX).min(COPY_WAIT_MAX);
        let position = self.client(copy)?.copy_position(source, required, wait).await?;
        self.sources().entry(source).or_default().reached.insert(copy, position);
        if position >= required {
            return Ok(());
        }
        let message = format!(
            "shard {copy} did not get the latest changes of reference tables from shard {source} within {} ms",
            wait.as_millis()
        );
        Err(ShardError::LockNotAvailable { message })
    }

    /// The newest change that must be seen, asked for if there may be one since.
    async fn required(&self, source: ShardId) -> Result<LogIndex, ShardError> {
        // A version that another gateway published may stand for storage that it has filled.
        let version = self.store.version();
        let is_alone = !self.store.cluster().has_other_gateways();
        let seen = {
            let mut sources = self.sources();
            let known = sources.entry(source).or_default();
            let now = (known.changes, version);
            match known.newest {
                Some((seen, newest)) if seen == now && is_alone => return Ok(newest),
                Some(_) | None => now,
            }
        };
        let client = self.client(source)?;
        let newest = client.copy_position(source, LogIndex(0), Duration::ZERO).await?;
        let mut sources = self.sources();
        let known = sources.entry(source).or_default();
        if known.newest.is_none_or(|(known, _)| known <= seen) {
            known.newest = Some((seen, newest));
        }
        Ok(newest)
    }

    fn client(&self, shard: ShardId) -> Result<Arc<dyn ShardClient>, ShardError> {
        self.store.cluster().shards.client(shard)
    }
}

/// The copies as one statement waits for them.
pub(super) struct StatementCopies {
    copies: Arc<Copies>,
    limit: Option<Duration>,
    /// The shards of primary copies are asked once, however many copies are read: the answers are not older than the statement.
    required: Mutex<BTreeMap<ShardId, Arc<OnceCell<LogIndex>>>>,
}

impl StatementCopies {
    pub fn new(copies: Arc<Copies>, limit: Option<Duration>) -> StatementCopies {
        StatementCopies { copies, limit, required: Mutex::default() }
    }
}

#[async_trait]
impl operators::Copies for StatementCopies {
    fn known(&self, source: ShardId, copy: ShardId) -> Option<LogIndex> {
        self.copies.known(source, copy)
    }

    async fn required(&self, source: ShardId) -> Result<LogIndex, ShardError> {
        let cell = {
            let mut required = self.required.lock().unwrap_or_else(PoisonError::into_inner);
            required.entry(source).or_default().clone()
        };
        cell.get_or_try_init(|| self.copies.required(source)).await.copied()
    }

    async fn reach(&self, source: ShardId, copy: ShardId) -> Result<(), ShardError> {
        if source == copy {
            return Ok(());
        }
        let required = self.required(source).await?;
        self.copies.wait(source, copy, required, self.limit).await
    }
}
