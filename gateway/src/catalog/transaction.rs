//! A session's uncommitted schema changes.
//!
//! Begun with the transaction's first schema change, ended with the transaction. The session sees its own version
//! (`catalog`), nobody else does. The order of a commit: every shard in `shards()` commits the session's transaction, then
//! `commit` writes the catalog (the commit point) and publishes it, then the session's table locks are released.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use cortex_planner::{
    PlanError,
    bind::ddl::{
        DdlCommand,
        plan::{self, DdlEnvironment},
    },
    catalog::Catalog,
};
use cortex_shard_api::{Oid, ShardId, StorageId, client::RequestContext};
use tokio::sync::OwnedMutexGuard;

use super::{CatalogStore, work};
use crate::{error::PgError, statement::Notice};

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
pub struct CatalogSavepoint(Arc<Catalog>);

/// A session's uncommitted schema changes.
pub struct CatalogTransaction {
    store: Arc<CatalogStore>,
    base: Arc<Catalog>,
    current: Arc<Catalog>,
    /// Every version a statement made, for the storage that it allocated and may have filled.
    fresh: BTreeSet<StorageId>,
    shards: BTreeSet<ShardId>,
    _ddl: OwnedMutexGuard<()>,
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
            store,
            _ddl: guard,
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
        CatalogSavepoint(self.current.clone())
    }

    /// Forgets changes since the savepoint; the shards' part is `ShardClient::rollback_to`.
    pub fn rollback_to(&mut self, savepoint: &CatalogSavepoint) {
        self.current = savepoint.0.clone();
    }

    /// Back to before the transaction's first change.
    pub fn rollback_all(&mut self) {
        self.current = self.base.clone();
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
        for item in &plan.work {
            let (shards, fresh) = (&mut self.shards, &mut self.fresh);
            work::run(item, &self.store, &plan.catalog, context, shards, fresh).await?;
        }
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

    /// Writes and publishes the changes, after the shards have committed. Returns the version now in force.
    pub async fn commit(self) -> Result<Arc<Catalog>, PgError> {
        let referenced = self.current.storages();
        if !self.is_changed() {
            self.store.drop_storages(self.fresh.difference(&referenced).copied().collect());
            return Ok(self.base);
        }
        let published = self.store.publish(&self.base, &self.current).await?;
        let mut unused = self.base.storages();
        unused.extend(&self.fresh);
        self.store.drop_storages(unused.difference(&referenced).copied().collect());
        Ok(published)
    }
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
