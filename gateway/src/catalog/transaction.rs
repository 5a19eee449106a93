//! A session's uncommitted schema changes.
//!
//! Begun with the transaction's first schema change, ended with the transaction. The session sees its own version
//! (`catalog`), nobody else does. The order of a commit:
//!
//! 1. `fence` writes an intent to the meta shard and, inside the session's transaction, has every shard of a changed table
//!    refuse older versions of it: what other gateways plan with them.
//! 2. Every shard in `shards()` commits the session's transaction.
//! 3. `commit` writes the catalog, and with it the end of the intent: the commit point. Then other gateways are waited for.
//! 4. The session's table locks are released.
//!
//! A crash before 2 leaves an intent alone; one before 3, shards that demand versions which were never published. Whoever
//! takes the DDL lock next finds the intent and publishes the tables as they were with versions above these
//! (`CatalogStore::undo_left_behind`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use cortex_planner::{
    PlanError,
    bind::ddl::{
        DdlCommand,
        plan::{self, DdlEnvironment},
    },
    catalog::Catalog,
};
use cortex_shard_api::{
    Oid, ShardId, StorageId, TableDescriptor, client::RequestContext, descriptor::Fence,
};
use futures::future::try_join_all;

use super::{CatalogStore, changes::ChangeHandle, format::Intent, work};
use crate::{cluster::ClusterGuard, error::PgError, statement::Notice};

/// Fences in one request to a shard.
const FENCES_PER_REQUEST: usize = 1000;

/// What a schema change asks of the session that runs it.
#[async_trait]
pub trait DdlHost: Send + Sync {
    /// Runs a SELECT in the session's transaction over this version of the catalog and returns the first row's values
    /// as text.
    async fn first_row(
        &self,
        catalog: &Arc<Catalog>,
        sql: &str,
    ) -> Result<Option<Vec<Option<String>>>, PgError>;
}

/// The statement that a command runs in.
pub struct DdlContext<'a> {
    /// Names the session's transaction (`txn` is needed) and the statement's mark.
    pub request: RequestContext,
    /// Of the session, for those who look what it does.
    pub process_id: i32,
    pub environment: DdlEnvironment<'a>,
    pub host: &'a dyn DdlHost,
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct DdlOutcome {
    pub tag: &'static str,
    pub notices: Vec<Notice>,
    /// The table that CREATE TABLE made, to be filled by CREATE TABLE AS; `None` if it existed already.
    pub created: Option<Oid>,
}

/// A point to return to.
#[derive(Clone, Debug)]
pub struct CatalogSavepoint {
    catalog: Arc<Catalog>,
    /// Rows were on their way to so many tables.
    progress: usize,
}

/// A session's uncommitted schema changes.
pub struct CatalogTransaction {
    store: Arc<CatalogStore>,
    base: Arc<Catalog>,
    current: Arc<Catalog>,
    /// Every version a statement made, for the storage that it allocated and may have filled.
    fresh: BTreeSet<StorageId>,
    shards: BTreeSet<ShardId>,
    /// Written by `fence`.
    intent: Option<Intent>,
    /// What other sessions see of it, until it ends.
    progress: Vec<ChangeHandle>,
    ddl: ClusterGuard,
}

impl CatalogTransaction {
    /// Waits until no other transaction changes the schema.
    pub async fn begin(
        store: Arc<CatalogStore>,
        lock_timeout: Option<std::time::Duration>,
    ) -> Result<CatalogTransaction, PgError> {
        let guard = store.lock_ddl(lock_timeout).await?;
        let base = store.current();
        Ok(CatalogTransaction {
            current: base.clone(),
            base,
            fresh: BTreeSet::new(),
            shards: BTreeSet::new(),
            intent: None,
            progress: Vec::new(),
            store,
            ddl: guard,
        })
    }

    /// The session's version.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.current
    }

    /// Whether anything would be written.
    pub fn is_changed(&self) -> bool {
        !Arc::ptr_eq(&self.base, &self.current)
    }

    /// Shards that the session's transaction reached through schema changes: to be committed, or rolled back, with the
    /// others. Also after an error.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.shards.iter().copied()
    }

    pub fn savepoint(&self) -> CatalogSavepoint {
        CatalogSavepoint { catalog: self.current.clone(), progress: self.progress.len() }
    }

    /// Forgets changes since the savepoint; the shards' part is `ShardClient::rollback_to`.
    pub fn rollback_to(&mut self, savepoint: &CatalogSavepoint) {
        self.current = savepoint.catalog.clone();
        self.progress.truncate(savepoint.progress);
    }

    /// Back to before the transaction's first change.
    pub fn rollback_all(&mut self) {
        self.current = self.base.clone();
        self.progress.clear();
    }

    /// Runs one command. After an error nothing of it is left in the catalog; the caller undoes its mark on the shards.
    pub async fn execute(
        &mut self,
        command: &DdlCommand,
        context: &DdlContext<'_>,
    ) -> Result<DdlOutcome, PgError> {
        self.store.reserve_ids(&self.current.ids).await?;
        let plan = plan::plan(command, &self.current, &context.environment)?;
        let before = self.current.storages();
        self.fresh.extend(plan.catalog.storages().difference(&before));
        work::expect_new_tables(&self.current, &plan.catalog, &self.store).await?;
        // Dropped with the command if it fails.
        let mut progress: Vec<_> =
            plan.work.iter().map(|item| work::announce(item, &self.store, context)).collect();
        for (item, progress) in plan.work.iter().zip(&progress) {
            let (shards, fresh) = (&mut self.shards, &mut self.fresh);
            let progress = progress.as_ref();
            work::run(item, &self.store, &plan.catalog, context, shards, fresh, progress).await?;
        }
        self.progress.extend(progress.drain(..).flatten());
        self.current = plan.catalog;
        let notices = plan
            .notices
            .into_iter()
            .map(|notice| Notice {
                severity: "NOTICE",
                code: notice.code,
                message: notice.message,
                detail: notice.detail,
                hint: notice.hint,
            })
            .collect();
        Ok(DdlOutcome { tag: plan.tag, notices, created: plan.created })
    }

    /// Changes maps, which need no work on shards. After an error nothing is changed.
    pub fn edit(
        &mut self,
        edit: impl FnOnce(&mut Catalog) -> Result<(), PlanError>,
    ) -> Result<(), PgError> {
        let mut next = Catalog::clone(&self.current);
        edit(&mut next)?;
        self.current = Arc::new(next);
        Ok(())
    }

    /// Makes the shards of changed tables refuse older versions once the session's transaction has committed there.
    /// After an error nothing is left but shards in `shards()` to roll back.
    pub async fn fence(&mut self, request: &RequestContext) -> Result<(), PgError> {
        let changed = changed_tables(&self.base, &self.current);
        if changed.is_empty() {
            return Ok(());
        }
        let mut fences: BTreeMap<ShardId, Vec<Fence>> = BTreeMap::new();
        for (old, version) in &changed {
            let new = self.current.tables.get(&old.oid).map(|table| table.descriptor.shards());
            for shard in old.shards().into_iter().chain(new.into_iter().flatten()) {
                let fence = Fence::Shape { table: old.oid, version: *version };
                let fences = fences.entry(shard).or_default();
                if fences.last() != Some(&fence) {
                    fences.push(fence);
                }
            }
        }
        let versions = changed.iter().map(|(old, version)| (old.oid, *version)).collect();
        let intent = Intent { gateway: self.store.cluster().number(), fences: versions };
        self.store.announce(&self.base, &intent).await?;
        self.intent = Some(intent);
        self.shards.extend(fences.keys());
        let store = &self.store;
        let sent = fences.into_iter().map(|(shard, fences)| async move {
            let client = store.shard(shard)?;
            for fences in fences.chunks(FENCES_PER_REQUEST) {
                client.fence(request, fences.to_vec()).await?;
            }
            Ok::<_, PgError>(())
        });
        let sent = try_join_all(sent).await;
        if sent.is_err()
            && let Some(intent) = self.intent.take()
        {
            self.store.withdraw(&intent).await;
        }
        sent.map(drop)
    }

    /// Writes and publishes the changes, after the shards have committed, and waits for the other gateways. Returns the
    /// version now in force.
    pub async fn commit(self) -> Result<Arc<Catalog>, PgError> {
        let referenced = self.current.storages();
        if !self.is_changed() {
            self.store.drop_storages(self.fresh.difference(&referenced).copied().collect());
            return Ok(self.base);
        }
        let intents = self.intent.as_slice();
        let published = self.store.publish(&self.base, &self.current, intents).await;
        let store = self.store.clone();
        let published = match published {
            Ok(published) => published,
            Err(error) => {
                self.failed();
                return Err(error);
            }
        };
        let mut unused = self.base.storages();
        unused.extend(&self.fresh);
        store.drop_storages(unused.difference(&referenced).copied().collect());
        drop(self.ddl);
        store.await_gateways(published.version).await;
        Ok(published)
    }

    /// The commit has failed on a shard or in the catalog: what it may have done to some shards is undone.
    pub fn failed(self) {
        drop(self.ddl);
        if self.intent.is_some() {
            self.store.recover_soon();
        }
    }
}

/// Tables of `base` that are not the same in `current`, with the version that others must have from then on. Versions alone
/// tell: shards look at nothing else, and a change that matters to them has a new one.
fn changed_tables(base: &Catalog, current: &Catalog) -> Vec<(Arc<TableDescriptor>, u32)> {
    let mut changed = Vec::new();
    for (oid, table) in &base.tables {
        let old = &table.descriptor;
        let version = match current.tables.get(oid) {
            Some(new) => new.descriptor.version,
            None => old.version + 1,
        };
        if version > old.version {
            changed.push((old.clone(), version));
        }
    }
    changed
}

impl std::fmt::Debug for CatalogTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CatalogTransaction")
            .field("base", &self.base.version)
            .field("changed", &self.is_changed())
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}
