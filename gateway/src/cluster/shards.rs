//! Clients of the shards, as they come and go.
//!
//! One registry for everybody in a process. A shard keeps its client for as long as it is a member, also when it comes back at
//! another address: the client knows which transactions began on which connection. Not here: who is a member (`membership`).

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use cortex_shard_api::{ShardError, ShardId, client::ShardClient};

use crate::error::PgError;

type Clients = BTreeMap<ShardId, Arc<dyn ShardClient>>;

/// Every shard by id, the meta shard included.
#[derive(Clone, Debug)]
pub struct Shards(Arc<ArcSwap<Clients>>);

impl Shards {
    pub fn new(clients: impl IntoIterator<Item = Arc<dyn ShardClient>>) -> Shards {
        let clients: Clients = clients.into_iter().map(|client| (client.id(), client)).collect();
        Shards(Arc::new(ArcSwap::from_pointee(clients)))
    }

    /// 58000 for a shard that is not there.
    pub fn get(&self, shard: ShardId) -> Result<Arc<dyn ShardClient>, PgError> {
        Ok(self.client(shard)?)
    }

    /// `ShardError::Unavailable` for a shard that is not there.
    pub fn client(&self, shard: ShardId) -> Result<Arc<dyn ShardClient>, ShardError> {
        let missing =
            || ShardError::Unavailable { shard, reason: "it is not registered".to_owned() };
        self.0.load().get(&shard).cloned().ok_or_else(missing)
    }

    /// Ids of the shards that hold rows, ascending.
    pub fn data(&self) -> Vec<ShardId> {
        self.0.load().keys().copied().filter(|shard| *shard != ShardId::META).collect()
    }

    /// All of them as they are now.
    pub fn all(&self) -> Arc<Clients> {
        self.0.load_full()
    }

    /// Makes the shards these, of the ones there are. `add` makes clients of new ones.
    pub(crate) fn keep(
        &self,
        shards: &[ShardId],
        mut add: impl FnMut(ShardId) -> Arc<dyn ShardClient>,
    ) {
        let old = self.all();
        let is_wanted = |id: &ShardId| *id == ShardId::META || shards.contains(id);
        if old.keys().all(is_wanted) && shards.iter().all(|id| old.contains_key(id)) {
            return;
        }
        let mut clients: Clients =
            old.iter().filter(|(id, _)| is_wanted(id)).map(|(id, it)| (*id, it.clone())).collect();
        for id in shards {
            clients.entry(*id).or_insert_with(|| add(*id));
        }
        self.0.store(Arc::new(clients));
    }
}
