//! The current version, and how the next one is published.
//!
//! The meta shard's entries are the truth; this gateway keeps the version it loaded or published last. Schema changes come
//! one after the other: a transaction holds `ddl` from its first one to its end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use cortex_planner::catalog::{
    Catalog, IdSource, Role, Schema,
    edit::{CORTEX, INFORMATION_SCHEMA, PG_CATALOG, PUBLIC, SUPERUSER},
};
use cortex_shard_api::{
    Oid, ShardError, ShardId, StorageId,
    client::{MetaWrite, ShardClient},
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{TableLocks, format};
use crate::error::{PgError, SqlState};

/// Identifiers reserved at a time: more than any statement takes, few enough to waste at a restart.
const IDS_RESERVED: u32 = 8192;

/// How many must be left before a statement begins: a table of 1,600 serial columns takes four for each.
const IDS_LEFT_MIN: u32 = 7000;

/// Old contents are deleted this long after nothing refers to them any more: a plan of the old version may be about to
/// open its snapshot. A restart in between finds them unreferenced.
const DROP_DELAY: Duration = Duration::from_secs(10);

/// A schema change waits so long for another transaction's, unless `lock_timeout` says otherwise.
const DDL_WAIT_MAX: Duration = Duration::from_secs(60);

/// The catalog of this gateway.
#[derive(Debug)]
pub struct CatalogStore {
    meta: Arc<dyn ShardClient>,
    data: Vec<Arc<dyn ShardClient>>,
    current: ArcSwap<Catalog>,
    ddl: Arc<Mutex<()>>,
    locks: TableLocks,
}

impl CatalogStore {
    /// Loads the catalog, or makes the first version of it, and has storage that nothing refers to deleted.
    pub async fn open(
        meta: Arc<dyn ShardClient>,
        data: Vec<Arc<dyn ShardClient>>,
    ) -> Result<CatalogStore, PgError> {
        let entries = meta.meta_scan(&[format::PREFIX]).await?;
        let catalog = match format::load(&entries)? {
            Some(catalog) => catalog,
            None => {
                let home = data.first().map_or(ShardId::HOME, |shard| shard.id());
                bootstrap(&*meta, home).await?
            }
        };
        let store = CatalogStore {
            meta,
            data,
            current: ArcSwap::from_pointee(catalog),
            ddl: Arc::default(),
            locks: TableLocks::default(),
        };
        store.collect_storages().await?;
        Ok(store)
    }

    /// The latest published version.
    pub fn current(&self) -> Arc<Catalog> {
        self.current.load_full()
    }

    /// Its number, without touching the reference count.
    pub fn version(&self) -> u64 {
        self.current.load().version
    }

    pub fn locks(&self) -> &TableLocks {
        &self.locks
    }

    /// Data shards, ascending.
    pub fn data_shards(&self) -> Vec<ShardId> {
        self.data.iter().map(|shard| shard.id()).collect()
    }

    /// A data shard's client.
    pub fn shard(&self, id: ShardId) -> Result<&Arc<dyn ShardClient>, PgError> {
        self.data.iter().find(|shard| shard.id() == id).ok_or_else(|| {
            PgError::new(SqlState::SYSTEM_ERROR, format!("shard {id} is not part of this cluster"))
                .with_hint(
                    "Start with at least as many shards as the data directory was made with.",
                )
        })
    }

    /// The right to change the schema; held to the end of the transaction.
    pub(super) async fn lock_ddl(
        &self,
        timeout: Option<Duration>,
    ) -> Result<OwnedMutexGuard<()>, PgError> {
        let limit = timeout.unwrap_or(DDL_WAIT_MAX);
        tokio::time::timeout(limit, self.ddl.clone().lock_owned()).await.map_err(|_| {
            PgError::new(SqlState::LOCK_NOT_AVAILABLE, "canceling statement due to lock timeout")
                .with_detail("Another transaction is changing the schema.")
                .with_hint(
                    "Transactions with schema changes run one after the other; end the other one.",
                )
        })
    }

    /// Reserves identifiers durably, so that none is given twice, not even after a crash.
    pub(super) async fn reserve_ids(&self, ids: &IdSource) -> Result<(), PgError> {
        if ids.left() >= IDS_LEFT_MIN {
            return Ok(());
        }
        let old = ids.limit();
        let new = old.checked_add(IDS_RESERVED).ok_or_else(|| {
            PgError::internal("object identifiers are used up")
                .with_hint("Dump the database and load it into a new data directory.")
        })?;
        let (key, old) = format::ids(old);
        let (_, value) = format::ids(new);
        let write = MetaWrite { key: key.clone(), value: Some(value) };
        self.meta.meta_write((key, Some(old)), vec![write]).await?;
        ids.extend(new);
        Ok(())
    }

    /// The commit point: writes what differs and publishes the version. The caller holds the DDL lock, and the data
    /// shards have committed.
    pub(super) async fn publish(
        &self,
        base: &Catalog,
        next: &Arc<Catalog>,
    ) -> Result<Arc<Catalog>, PgError> {
        let mut next = Catalog::clone(next);
        next.version = base.version + 1;
        let (key, old) = format::head(base.version);
        let (_, value) = format::head(next.version);
        let mut writes = format::difference(base, &next)?;
        writes.push(MetaWrite { key: key.clone(), value: Some(value.clone()) });
        match self.meta.meta_write((key.clone(), Some(old)), writes).await {
            Ok(_) => {}
            Err(ShardError::OutcomeUnknown { shard }) => {
                let found = self.meta.meta_scan(&key).await?;
                if found.first().is_none_or(|(_, head)| *head != value) {
                    return Err(ShardError::OutcomeUnknown { shard }.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        let next = Arc::new(next);
        self.current.store(next.clone());
        Ok(next)
    }

    /// Has storage deleted on every shard, a little later. A failure is not an error: the next start collects.
    pub(super) fn drop_storages(&self, storages: Vec<StorageId>) {
        if storages.is_empty() {
            return;
        }
        let shards = self.data.clone();
        tokio::spawn(async move {
            tokio::time::sleep(DROP_DELAY).await;
            for shard in shards {
                if let Err(error) = shard.drop_storage(storages.clone()).await {
                    tracing::warn!(shard = %shard.id(), %error, "dropped storage is deleted at the next start");
                }
            }
        });
    }

    /// Deletes what a crash left behind: storage that no object refers to.
    async fn collect_storages(&self) -> Result<(), PgError> {
        let referenced: BTreeSet<StorageId> = self.current().storages();
        for shard in &self.data {
            let orphans: Vec<StorageId> = shard
                .storages()
                .await?
                .into_iter()
                .filter(|storage| storage.0 >= Oid::FIRST_USER.0 && !referenced.contains(storage))
                .collect();
            if !orphans.is_empty() {
                tracing::info!(shard = %shard.id(), count = orphans.len(), "deleting unreferenced storage");
                shard.drop_storage(orphans).await?;
            }
        }
        Ok(())
    }
}

/// The first version: system schemas, `public`, the role `postgres`.
async fn bootstrap(meta: &dyn ShardClient, home: ShardId) -> Result<Catalog, PgError> {
    let mut catalog = Catalog { version: 1, ..Catalog::default() };
    let schemas = [
        (PG_CATALOG, "pg_catalog"),
        (PUBLIC, "public"),
        (INFORMATION_SCHEMA, "information_schema"),
        (CORTEX, "cortex"),
    ];
    for (oid, name) in schemas {
        catalog.put_schema(Schema { oid, name: name.to_owned(), owner: SUPERUSER, home });
    }
    let role = Role {
        oid: SUPERUSER,
        name: "postgres".to_owned(),
        superuser: true,
        can_login: true,
        password: None,
    };
    catalog.roles.insert(role.oid, Arc::new(role));
    let limit = Oid::FIRST_USER.0 + IDS_RESERVED;
    catalog.ids = Arc::new(IdSource::new(Oid::FIRST_USER.0, limit));
    let mut writes = format::difference(&Catalog::default(), &catalog)?;
    let (key, value) = format::head(catalog.version);
    writes.push(MetaWrite { key: key.clone(), value: Some(value) });
    let (ids_key, ids) = format::ids(limit);
    writes.push(MetaWrite { key: ids_key, value: Some(ids) });
    meta.meta_write((key, None), writes).await?;
    Ok(catalog)
}
