//! What system relations and functions ask of the session they run in.

use std::{fmt, sync::Arc};

use cortex_planner::catalog::Catalog;
use cortex_shard_api::{Oid, ValueError, value::ValueSettings};

use super::CatalogStore;

/// A session as `pg_settings`, `pg_stat_activity` and functions see it. Implemented by the session; called from inside
/// plans, so nothing here may wait for the session itself.
pub trait SessionInfo: Send + Sync + fmt::Debug {
    /// The catalog as the session sees it now: its transaction's own version if there is one.
    fn catalog(&self) -> Arc<Catalog>;

    fn store(&self) -> &Arc<CatalogStore>;

    fn current_user(&self) -> String;

    fn session_user(&self) -> String;

    /// Schemas in search order, as `Namespace::search_path`.
    fn search_path(&self) -> Vec<String>;

    fn process_id(&self) -> i32;

    fn value_settings(&self) -> ValueSettings;

    /// The value that SHOW prints; `None` for a name nobody knows.
    fn setting(&self, name: &str) -> Option<String>;

    /// `set_config`: the value now in force, or why not.
    fn set_setting(&self, name: &str, value: &str, local: bool) -> Result<String, ValueError>;

    fn settings(&self) -> Vec<SettingRow>;

    fn activities(&self) -> Vec<ActivityRow>;

    /// The value that `nextval` last gave this session for a sequence.
    fn last_value(&self, sequence: Oid) -> Option<i64>;

    /// The sequence that `nextval` was last called for in this session.
    fn last_sequence(&self) -> Option<Oid>;

    fn remember_value(&self, sequence: Oid, value: i64);

    /// Functions that need more of the session than this (advisory locks, cancelling backends, `current_query`);
    /// `None` if it does not know the signature either.
    fn call_other(
        &self,
        signature: &str,
        args: &[cortex_shard_api::Datum],
    ) -> Option<Result<cortex_shard_api::Datum, ValueError>>;
}

/// A row of `pg_settings`.
#[derive(Clone, Debug, Default)]
pub struct SettingRow {
    pub name: String,
    pub setting: String,
    pub unit: Option<String>,
    pub category: String,
    pub description: String,
    /// `user`, `postmaster`, `internal`, ...
    pub context: String,
    /// `bool`, `integer`, `real`, `string`, `enum`
    pub kind: String,
    /// `default`, `session`, `client`, ...
    pub source: String,
    pub min: Option<String>,
    pub max: Option<String>,
    pub choices: Option<Vec<String>>,
    pub boot: Option<String>,
    pub reset: Option<String>,
}

/// A row of `pg_stat_activity`. Times are microseconds since 1970-01-01 UTC.
#[derive(Clone, Debug, Default)]
pub struct ActivityRow {
    pub process_id: i32,
    pub user: String,
    pub application_name: String,
    pub started_micros: i64,
    pub query_started_micros: i64,
    pub state: String,
    pub query: String,
}
