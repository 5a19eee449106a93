//! What all sessions of a gateway share, and how sessions are opened.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use cortex_planner::catalog::Catalog;
use cortex_shard_api::TxnId;
use tokio::runtime::Handle;

use super::{
    activity::Activities, copies::Copies, counters::Counters, session::Session, settings::Settings,
};
use crate::{
    catalog::{CatalogStore, MadeRows},
    cluster::Shards,
    error::{PgError, SqlState},
    moves::{Moves, driver::Timing},
    statement::{LoginRole, SqlService, SqlSession},
};

/// The one database.
pub const DATABASE: &str = "postgres";

/// The gateway as its sessions see it.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) shards: Shards,
    pub(crate) store: Arc<CatalogStore>,
    pub(crate) activities: Arc<Activities>,
    pub(crate) copies: Arc<Copies>,
    pub(crate) moves: Arc<Moves>,
    /// Where analytic queries run, so that a long one does not hold up the connections.
    pub(crate) queries: Handle,
    pub counters: Arc<Counters>,
    next_txn: AtomicU64,
    /// Rows of system relations over the published catalog, made once for each version.
    made: Mutex<(u64, Arc<MadeRows>)>,
}

impl Gateway {
    pub fn new(store: Arc<CatalogStore>, queries: Handle) -> Gateway {
        Gateway::with_timing(store, queries, Timing::default())
    }

    /// A gateway whose moves are in more or less of a hurry.
    pub fn with_timing(store: Arc<CatalogStore>, queries: Handle, timing: Timing) -> Gateway {
        let cluster = store.cluster();
        Gateway {
            moves: Moves::start(store.clone(), timing),
            copies: Arc::new(Copies::new(store.clone())),
            shards: cluster.shards.clone(),
            // No other gateway, and no other start of this one, has these.
            next_txn: AtomicU64::new(cluster.first_txn()),
            store,
            activities: Arc::default(),
            queries,
            counters: Arc::default(),
            made: Mutex::default(),
        }
    }

    /// Rows made of a catalog version. A transaction's own version shares its number with the published one, and so
    /// gets rows of its own.
    pub(crate) fn made_rows(&self, catalog: &Arc<Catalog>) -> Arc<MadeRows> {
        if !Arc::ptr_eq(catalog, &self.store.current()) {
            return Arc::default();
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 != catalog.version {
            *made = (catalog.version, Arc::default());
        }
        made.1.clone()
    }

    pub(crate) fn next_txn(&self) -> TxnId {
        TxnId(self.next_txn.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.store.current()
    }
}

/// Microseconds since 1970-01-01 UTC.
pub(crate) fn now_micros() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

/// The service that the wire talks to.
#[derive(Clone, Debug)]
pub struct Service(pub Arc<Gateway>);

#[async_trait]
impl SqlService for Service {
    fn login(&self, user: &str) -> Option<LoginRole> {
        let catalog = self.0.catalog();
        let role = catalog.role_by_name(user).filter(|role| role.can_login)?;
        Some(LoginRole { password: role.password.clone() })
    }

    async fn open(
        &self,
        user: &str,
        database: &str,
        process_id: i32,
        options: &[(String, String)],
    ) -> Result<Box<dyn SqlSession>, PgError> {
        if database != DATABASE {
            return Err(PgError::fatal(
                SqlState::INVALID_CATALOG_NAME,
                format!("database \"{database}\" does not exist"),
            )
            .with_hint(format!("There is one database, \"{DATABASE}\".")));
        }
        let settings = Settings::new(user, options)?;
        Ok(Box::new(Session::new(self.0.clone(), user, process_id, settings)?))
    }
}
