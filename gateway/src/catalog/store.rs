//! The current version, and how the next one is published.
//!
//! The meta shard's entries are the truth; each gateway keeps the version that it loaded or published last, and a task loads
//! what others publish. Schema changes come one after the other: a transaction holds the cluster's DDL lock from its first one
//! to its end. The lock keeps gateways from working in vain; what makes a change safe is that every publication is guarded by
//! the version that it was made from, and that shards refuse older versions of a changed table (`transaction`).

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use cortex_planner::catalog::{
    Catalog, IdSource, Role, Schema, Table,
    edit::{CORTEX, INFORMATION_SCHEMA, PG_CATALOG, PUBLIC, SUPERUSER},
};
use cortex_shard_api::{
    LogIndex, Oid, ShardError, ShardId, StorageId,
    client::{MetaWrite, ShardClient},
    cluster::{ClusterLock, Report},
};
use tokio::sync::{Mutex, watch};

use super::{
    TableLocks,
    format::{self, Intent},
};
use crate::{
    cluster::{Cluster, ClusterGuard},
    error::{PgError, SqlState},
    moves::record::Records,
};

/// Identifiers reserved at a time: more than any statement takes, few enough to waste at a restart.
const IDS_RESERVED: u32 = 8192;

/// How many must be left before a statement begins: a table of 1,600 serial columns takes four for each.
const IDS_LEFT_MIN: u32 = 7000;

/// Gateways that reserve at the same time take turns; nobody loses so often.
const RESERVE_TRIES_MAX: usize = 100;

/// Old contents are deleted this long after nothing refers to them any more: a plan of the old version may be about to
/// open its snapshot. A restart in between finds them unreferenced.
const DROP_DELAY: Duration = Duration::from_secs(10);

/// A schema change waits so long for another transaction's, unless `lock_timeout` says otherwise.
const DDL_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long the meta shard holds a question for changes that has no news.
const WATCH_WAIT: Duration = Duration::from_secs(5);

/// Pause after a question to the meta shard that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Who published a version waits so long for the other gateways to load it. One that is slower learns from the shards.
const GATEWAYS_WAIT: Duration = Duration::from_secs(2);

/// How often the outcome of a publication is looked up after its answer was lost, a pause apart: the time in which a meta
/// process restarts.
const LOOK_UPS_MAX: usize = 50;

/// How often a gateway tries to undo what a schema change left behind, a pause apart, before it leaves that to the next one.
const UNDO_TRIES_MAX: usize = 50;

/// How long clean-up waits for a schema change under way.
const TIDY_WAIT: Duration = Duration::from_secs(60);

/// The catalog of this gateway.
#[derive(Debug)]
pub struct CatalogStore {
    cluster: Arc<Cluster>,
    meta: Arc<dyn ShardClient>,
    current: ArcSwap<Catalog>,
    /// The number of `current`; told to whoever waits for a newer one.
    versions: watch::Sender<u64>,
    /// One load at a time: who comes meanwhile finds it done.
    loading: Mutex<()>,
    /// The same for undoing what was left behind: many statements find out at once.
    recovering: Mutex<()>,
    locks: TableLocks,
}

impl CatalogStore {
    /// Loads the catalog, or makes the first version of it, goes on loading what other gateways publish, and has storage
    /// that nothing refers to deleted.
    pub async fn open(cluster: Arc<Cluster>) -> Result<Arc<CatalogStore>, PgError> {
        let meta = cluster.shards.get(ShardId::META)?;
        let catalog = match load(&*meta).await? {
            Some(catalog) => catalog,
            None => {
                let home = cluster.shards.data().first().copied().unwrap_or(ShardId::HOME);
                match bootstrap(&*meta, home, None).await {
                    Ok(()) => {}
                    // Another gateway was quicker.
                    Err(ShardError::MetaConflict) => {}
                    Err(error) => return Err(error.into()),
                }
                let missing = || PgError::internal("the catalog is not there after it was made");
                load(&*meta).await?.ok_or_else(missing)?
            }
        };
        let store = Arc::new(CatalogStore {
            versions: watch::Sender::new(catalog.version),
            cluster,
            meta,
            current: ArcSwap::from_pointee(catalog),
            loading: Mutex::default(),
            recovering: Mutex::default(),
            locks: TableLocks::default(),
        });
        store.cluster.report(Report::Catalog(store.version())).await?;
        follow(&store);
        report(&store);
        // A schema change under way elsewhere may take long; nothing depends on the clean-up.
        if !store.tidy(Duration::ZERO).await? {
            let store = Arc::downgrade(&store);
            tokio::spawn(async move {
                let Some(store) = store.upgrade() else { return };
                if let Err(error) = store.tidy(TIDY_WAIT).await {
                    tracing::warn!(%error, "unreferenced storage is looked for at the next start");
                }
            });
        }
        Ok(store)
    }

    pub(crate) fn meta(&self) -> &Arc<dyn ShardClient> {
        &self.meta
    }

    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The latest version that this gateway has.
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
        self.cluster.shards.data()
    }

    /// A data shard's client.
    pub fn shard(&self, id: ShardId) -> Result<Arc<dyn ShardClient>, PgError> {
        self.cluster.shards.get(id)
    }

    /// Takes over a version unless there is a newer one by now.
    fn adopt(&self, mut catalog: Catalog) -> Arc<Catalog> {
        catalog.ids = self.current.load().ids.clone();
        let catalog = Arc::new(catalog);
        self.versions.send_if_modified(|version| {
            let is_newer = catalog.version > *version;
            if is_newer {
                *version = catalog.version;
                self.current.store(catalog.clone());
            }
            is_newer
        });
        catalog
    }

    /// Loads the version that the meta shard has, if it is not the one that is here. Returns the newest.
    pub async fn refresh(&self) -> Result<Arc<Catalog>, PgError> {
        let _one = self.loading.lock().await;
        let (key, _) = format::head(0);
        let head = self.meta.meta_scan(&key).await?;
        let newest = head.first().map(|(_, value)| format::read_head(value)).transpose()?;
        if newest.is_some_and(|newest| newest > self.version())
            && let Some(catalog) = load(&*self.meta).await?
        {
            self.adopt(catalog);
        }
        Ok(self.current())
    }

    /// Waits until there is a version other than `known`, at most `limit`.
    pub async fn changed(&self, known: u64, limit: Duration) {
        let mut versions = self.versions.subscribe();
        let newer = versions.wait_for(|version| *version > known);
        // The sender is ours; only time can end the wait otherwise.
        let _ = tokio::time::timeout(limit, newer).await;
    }

    /// The right to change the schema; held to the end of the transaction. The version that is here then is the newest, and
    /// nothing of an unfinished change is left.
    pub async fn lock_ddl(&self, timeout: Option<Duration>) -> Result<ClusterGuard, PgError> {
        let limit = timeout.unwrap_or(DDL_WAIT_MAX);
        let Some(guard) = self.cluster.lock(ClusterLock::Ddl, limit).await? else {
            return Err(PgError::new(
                SqlState::LOCK_NOT_AVAILABLE,
                "canceling statement due to lock timeout",
            )
            .with_detail("Another transaction is changing the schema.")
            .with_hint(
                "Transactions with schema changes run one after the other; end the other one.",
            ));
        };
        self.undo_left_behind().await?;
        Ok(guard)
    }

    /// Reserves identifiers durably, so that none is given twice, not even after a crash.
    pub(crate) async fn reserve_ids(&self, ids: &IdSource) -> Result<(), PgError> {
        if ids.left() >= IDS_LEFT_MIN {
            return Ok(());
        }
        let (key, _) = format::ids(0);
        for _ in 0..RESERVE_TRIES_MAX {
            let stored = self.meta.meta_scan(&key).await?;
            let old = stored.first().map(|(_, value)| value.to_vec());
            let first = old.as_deref().map(format::read_ids).transpose()?;
            let first = first.unwrap_or(Oid::FIRST_USER.0);
            let limit = first.checked_add(IDS_RESERVED).ok_or_else(|| {
                PgError::internal("object identifiers are used up")
                    .with_hint("Dump the database and load it into a new data directory.")
            })?;
            let (_, value) = format::ids(limit);
            let write = MetaWrite { key: key.clone(), value: Some(value) };
            match self.meta.meta_write((key.clone(), old), vec![write]).await {
                Ok(_) => {
                    ids.extend(first, limit);
                    return Ok(());
                }
                Err(ShardError::MetaConflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ShardError::MetaConflict.into())
    }

    /// The commit point: writes what differs and publishes the version, and with it the end of these intents. The caller
    /// holds the DDL lock, and the data shards have committed.
    pub(super) async fn publish(
        &self,
        base: &Catalog,
        next: &Catalog,
        intents: &[Intent],
    ) -> Result<Arc<Catalog>, PgError> {
        self.publish_with(base, next, intents.iter().map(Intent::delete).collect()).await
    }

    /// The same with other entries of the meta shard, written in the same moment or not at all: a move and its map.
    pub(crate) async fn publish_with(
        &self,
        base: &Catalog,
        next: &Catalog,
        others: Vec<MetaWrite>,
    ) -> Result<Arc<Catalog>, PgError> {
        let mut next = next.clone();
        next.version = base.version + 1;
        let (key, old) = format::head(base.version);
        let (_, value) = format::head(next.version);
        let (author, mark) = format::author(rand::random());
        let mut writes = format::difference(base, &next)?;
        writes.push(MetaWrite { key: key.clone(), value: Some(value) });
        writes.push(MetaWrite { key: author.clone(), value: Some(mark.clone()) });
        writes.extend(others);
        match self.meta.meta_write((key, Some(old)), writes).await {
            Ok(_) => {}
            Err(ShardError::OutcomeUnknown { shard }) => {
                if !self.was_written(&author, &mark).await? {
                    return Err(ShardError::OutcomeUnknown { shard }.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(self.adopt(next))
    }

    /// Whether a publication that got no answer is there. A version number would not tell: another gateway's may have it.
    async fn was_written(&self, author: &[u8], mark: &[u8]) -> Result<bool, PgError> {
        for _ in 0..LOOK_UPS_MAX {
            match self.meta.meta_scan(author).await {
                Ok(found) => {
                    return Ok(found.first().is_some_and(|(_, value)| value[..] == *mark));
                }
                Err(ShardError::Unavailable { .. }) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Announces a change before the shards commit it; refused if the catalog is not `base` any more.
    pub(super) async fn announce(&self, base: &Catalog, intent: &Intent) -> Result<(), PgError> {
        let (key, head) = format::head(base.version);
        self.meta.meta_write((key, Some(head)), vec![intent.write()?]).await?;
        Ok(())
    }

    /// Takes an announcement back; nothing of it was committed.
    pub(super) async fn withdraw(&self, intent: &Intent) {
        let guard = async {
            let value = intent.write()?.value;
            Ok::<_, PgError>(
                self.meta.meta_write((intent.key(), value), vec![intent.delete()]).await?,
            )
        };
        // Left behind, it costs the next schema change a version.
        if let Err(error) = guard.await {
            tracing::debug!(%error, "an intent stays until the next schema change");
        }
    }

    /// Returns when the other gateways that are up have a version, or after a while.
    pub(crate) async fn await_gateways(&self, version: u64) {
        match self.cluster.meta().await_catalog(version, GATEWAYS_WAIT).await {
            Ok(slow) if slow.is_empty() => {}
            Ok(slow) => tracing::warn!(?slow, version, "gateways have not loaded the catalog yet"),
            Err(error) => tracing::debug!(%error, "other gateways were not waited for"),
        }
    }

    /// Undoes, by going forward, changes whose owner is gone: some shards may demand versions of tables that were never
    /// published, so the same tables are published with higher ones. The caller has the DDL lock, so that nobody is between
    /// an intent and its end; an owner that lost the lock without knowing will not get past the guard of its publication.
    async fn undo_left_behind(&self) -> Result<(), PgError> {
        let base = self.refresh().await?;
        let found = self.meta.meta_scan(&Intent::prefix()).await?;
        if found.is_empty() {
            return Ok(());
        }
        let intents: Vec<Intent> =
            found.iter().map(|(_, value)| Intent::read(value)).collect::<Result<_, _>>()?;
        let mut next = Catalog::clone(&base);
        for (oid, fence) in intents.iter().flat_map(|intent| &intent.fences) {
            let Some(table) = next.tables.get(oid) else { continue };
            let mut table = Table::clone(table);
            let descriptor = Arc::make_mut(&mut table.descriptor);
            descriptor.version = descriptor.version.max(fence + 1);
            next.put_table(table);
        }
        tracing::info!(n = intents.len(), "undoing schema changes that were not finished");
        let published = self.publish(&base, &next, &intents).await?;
        self.await_gateways(published.version).await;
        Ok(())
    }

    /// Undoes unfinished changes, once those under way have ended.
    pub async fn recover(&self, wait: Duration) -> Result<(), PgError> {
        let before = self.version();
        let _one = self.recovering.lock().await;
        if self.version() != before {
            return Ok(());
        }
        self.lock_ddl(Some(wait)).await.map(drop)
    }

    /// The same in the background, again and again for a while: the commit of a schema change has failed.
    pub(super) fn recover_soon(self: &Arc<CatalogStore>) {
        let store = Arc::downgrade(self);
        tokio::spawn(async move {
            for _ in 0..UNDO_TRIES_MAX {
                let Some(store) = store.upgrade() else { return };
                match store.lock_ddl(Some(DDL_WAIT_MAX)).await {
                    Ok(_) => return,
                    Err(error) => {
                        tracing::warn!(%error, "a failed schema change is not undone yet")
                    }
                }
                drop(store);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// Has storage deleted on every shard, a little later. A failure is not an error: the next start collects.
    pub(crate) fn drop_storages(&self, storages: Vec<StorageId>) {
        if !storages.is_empty() {
            drop_later(&self.cluster, storages, DROP_DELAY);
        }
    }

    /// Deletes what crashes left behind. False if a schema change was under way for all of `wait`.
    async fn tidy(&self, wait: Duration) -> Result<bool, PgError> {
        let Some(_guard) = self.cluster.lock(ClusterLock::Ddl, wait).await? else {
            return Ok(false);
        };
        self.undo_left_behind().await?;
        self.collect_storages().await?;
        Ok(true)
    }

    /// Deletes storage that no object refers to.
    ///
    /// The storage of a running CREATE INDEX looks the same, and a lock alone does not keep it apart: its gateway may have
    /// lost the lock without knowing. So a version is published first. A change that began before it fails its guard and
    /// never refers to what was found; one that begins after it takes identifiers that were not given yet when the shards
    /// were asked.
    async fn collect_storages(&self) -> Result<(), PgError> {
        let base = self.current();
        let referenced = base.storages();
        let mut orphans = BTreeSet::new();
        for id in self.data_shards() {
            let found = match self.shard(id)?.storages().await {
                Ok(found) => found,
                Err(ShardError::Unavailable { reason, .. }) => {
                    tracing::info!(shard = %id, reason, "unreferenced storage is looked for at the next start");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            orphans.extend(
                found.into_iter().filter(|storage| {
                    storage.0 >= Oid::FIRST_USER.0 && !referenced.contains(storage)
                }),
            );
        }
        // What a move fills becomes a table's when it is through. Asked for after the shards: a move is written down before
        // it fills anything, and one that ended meanwhile has published a version.
        let moves = Records(self.meta.clone()).all().await?;
        for record in moves.iter().filter(|record| record.is_open()) {
            orphans.retain(|orphan| record.storages.iter().all(|(_, new)| new != orphan));
        }
        if orphans.is_empty() {
            return Ok(());
        }
        self.publish(&base, &base, &[]).await?;
        tracing::info!(count = orphans.len(), "deleting unreferenced storage");
        let orphans: Vec<StorageId> = orphans.into_iter().collect();
        if self.cluster.has_other_gateways() {
            self.drop_storages(orphans);
            return Ok(());
        }
        for id in self.data_shards() {
            match self.shard(id)?.drop_storage(orphans.clone()).await {
                Ok(()) => {}
                Err(ShardError::Unavailable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Has storage deleted on every data shard after a while.
fn drop_later(cluster: &Arc<Cluster>, storages: Vec<StorageId>, delay: Duration) {
    let shards = cluster.shards.clone();
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        for (id, shard) in shards.all().iter().filter(|(id, _)| **id != ShardId::META) {
            if let Err(error) = shard.drop_storage(storages.clone()).await {
                tracing::warn!(shard = %id, %error, "dropped storage is deleted at the next start");
            }
        }
    });
}

/// Loads what other gateways publish, for as long as the store lives.
fn follow(store: &Arc<CatalogStore>) {
    let (meta, store): (_, Weak<CatalogStore>) = (store.meta.clone(), Arc::downgrade(store));
    tokio::spawn(async move {
        let mut seen = LogIndex(0);
        loop {
            let answer = meta.meta_watch(seen, WATCH_WAIT).await;
            let Some(store) = store.upgrade() else { return };
            let loaded = match answer {
                Ok(index) if index > seen => store.refresh().await.map(|_| seen = index),
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = loaded {
                tracing::debug!(%error, "the catalog stays as it is");
                drop(store);
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
}

/// Tells the meta process which version is loaded.
fn report(store: &Arc<CatalogStore>) {
    let (cluster, mut versions) = (store.cluster.clone(), store.versions.subscribe());
    tokio::spawn(async move {
        while versions.changed().await.is_ok() {
            let version = *versions.borrow_and_update();
            // After a lost connection it is told again when the gateway joins again.
            if let Err(error) = cluster.report(Report::Catalog(version)).await {
                tracing::debug!(%error, "the version of the catalog is not reported");
            }
        }
    });
}

async fn load(meta: &dyn ShardClient) -> Result<Option<Catalog>, PgError> {
    format::load(&meta.meta_scan(&[format::PREFIX]).await?)
}

/// Makes the first version: system schemas, `public`, the role `postgres` with this password's verifier.
/// `ShardError::MetaConflict` if there is one.
pub async fn bootstrap(
    meta: &dyn ShardClient,
    home: ShardId,
    verifier: Option<String>,
) -> Result<(), ShardError> {
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
        password: verifier,
    };
    catalog.roles.insert(role.oid, Arc::new(role));
    let internal =
        |error: PgError| ShardError::Internal { shard: ShardId::META, what: error.message.clone() };
    let mut writes = format::difference(&Catalog::default(), &catalog).map_err(internal)?;
    let (key, value) = format::head(catalog.version);
    writes.push(MetaWrite { key: key.clone(), value: Some(value) });
    meta.meta_write((key, None), writes).await?;
    Ok(())
}
