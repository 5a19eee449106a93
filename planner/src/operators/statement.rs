//! What one statement holds open on shards while it runs.
//!
//! A statement sees one snapshot of each shard, opened when it first needs the shard and shared by everything the statement
//! does there: its fragments, its reads before writes, its fetches. Lives in the session config of the statement's
//! execution, as an extension, where `operators::scatter` finds it. Not here: transactions and writes
//! (`gateway::exec`).

use std::{collections::BTreeMap, fmt, sync::Arc};

use cortex_shard_api::{
    ShardError, ShardId, SnapshotId,
    client::{RequestContext, ShardClient},
};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// Finds the client of a shard; `None` if there is no such shard.
pub type Shards = dyn Fn(ShardId) -> Option<Arc<dyn ShardClient>> + Send + Sync;

/// The shards as one statement sees them. Snapshots are closed when the last clone of its `Arc` is dropped, that is when
/// neither the statement nor any of its streams can read any more.
pub struct StatementContext {
    shards: Arc<Shards>,
    base: RequestContext,
    snapshots: Mutex<BTreeMap<ShardId, Arc<OnceCell<Pinned>>>>,
}

/// A snapshot with the client that closes it.
struct Pinned {
    client: Arc<dyn ShardClient>,
    snapshot: SnapshotId,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.client.close_snapshot(self.snapshot);
    }
}

impl StatementContext {
    /// `base` is what every request says: transaction, mark, time. Its own snapshot is ignored.
    pub fn new(shards: Arc<Shards>, base: RequestContext) -> StatementContext {
        StatementContext { shards, base, snapshots: Mutex::default() }
    }

    /// The client of a shard.
    pub fn client(&self, shard: ShardId) -> Result<Arc<dyn ShardClient>, ShardError> {
        (self.shards)(shard).ok_or_else(|| ShardError::Unavailable {
            shard,
            reason: "it is not part of the cluster".to_owned(),
        })
    }

    /// The context of requests to a shard, with the statement's snapshot there; opens it if this is the first.
    pub async fn context(&self, shard: ShardId) -> Result<RequestContext, ShardError> {
        let cell = self.snapshots.lock().entry(shard).or_default().clone();
        let pinned = cell
            .get_or_try_init(|| async {
                let client = self.client(shard)?;
                let context = RequestContext { snapshot: None, ..self.base.clone() };
                let snapshot = client.open_snapshot(&context).await?;
                Ok::<_, ShardError>(Pinned { client, snapshot })
            })
            .await?;
        Ok(RequestContext { snapshot: Some(pinned.snapshot), ..self.base.clone() })
    }

    /// What every request of the statement says, without a snapshot.
    pub fn base(&self) -> &RequestContext {
        &self.base
    }
}

impl fmt::Debug for StatementContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatementContext").field("base", &self.base).finish_non_exhaustive()
    }
}
