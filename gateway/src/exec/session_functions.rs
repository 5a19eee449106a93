//! What functions may ask of a session while a plan runs.
//!
//! A plan runs on other threads than its session, so it sees a handle: a copy of the settings, the sequences' last values, and
//! what never changes. Not here: functions over the catalog alone (`crate::catalog`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cortex_functions::session::SessionFunctions;
use cortex_planner::catalog::{Catalog, Sequence, SystemRelations};
use cortex_shard_api::{
    Datum, Oid, ShardId, SqlType, ValueError, ValueErrorKind, value::ValueSettings,
};

use super::{
    activity::Activity,
    gateway::Gateway,
    settings::{DEFINITIONS, Definition, Kind, Settings},
};
use crate::{
    catalog::{ActivityRow, CatalogStore, SessionInfo, SettingRow, SystemCatalog, functions},
    error::PgError,
};

/// A session as its running plans see it.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    gateway: Arc<Gateway>,
    user: String,
    process_id: i32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    /// The catalog that names in function arguments are looked up in: the running statement's.
    catalog: Arc<Catalog>,
    /// What `currval` says.
    current_values: BTreeMap<Oid, i64>,
    last_sequence: Option<Oid>,
    /// Settings that `set_config` changed while a statement ran: (name, value, local).
    changes: Vec<(String, String, bool)>,
}

impl SessionHandle {
    pub fn new(gateway: Arc<Gateway>, user: &str, process_id: i32, settings: Settings) -> Self {
        let catalog = gateway.catalog();
        let state = State {
            settings,
            catalog,
            current_values: BTreeMap::new(),
            last_sequence: None,
            changes: Vec::new(),
        };
        SessionHandle { gateway, user: user.to_owned(), process_id, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete when the lock is released, also after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_settings(&self, settings: Settings) {
        self.state().settings = settings;
    }

    /// Settings that functions changed since the last call.
    pub fn take_changes(&self) -> Vec<(String, String, bool)> {
        std::mem::take(&mut self.state().changes)
    }

    /// The relations of pg_catalog and information_schema over a version of the catalog; functions of the statement use the
    /// same version.
    pub fn system_relations(self: &Arc<Self>, catalog: &Arc<Catalog>) -> Arc<dyn SystemRelations> {
        self.state().catalog = catalog.clone();
        let made = self.gateway.made_rows(catalog);
        Arc::new(SystemCatalog::new(catalog.clone(), self.clone(), made))
    }

    /// How `regclass` and its like print an OID.
    pub fn object_name(&self, ty: SqlType, oid: u32) -> Option<String> {
        let signature = format!("text({})", ty.catalog_name());
        match functions::call(self, &signature, &[Datum::Oid(oid)]) {
            Ok(Datum::Text(name)) => Some(name.into()),
            _ => None,
        }
    }

    /// How `regclass` and its like read a name.
    pub fn object_oid(&self, ty: SqlType, name: &str) -> Result<u32, PgError> {
        let signature = format!("{}(text)", ty.catalog_name());
        match functions::call(self, &signature, &[Datum::Text(name.into())])? {
            Datum::Oid(oid) => Ok(oid),
            _ => Err(ValueError::invalid_text(ty.sql_name(), name).into()),
        }
    }

    /// DISCARD SEQUENCES.
    pub fn discard(&self) {
        let mut state = self.state();
        state.current_values.clear();
        state.last_sequence = None;
    }

    /// A value that the session got from a sequence.
    pub fn note_sequence_value(&self, sequence: Oid, value: i64) {
        let mut state = self.state();
        state.current_values.insert(sequence, value);
        state.last_sequence = Some(sequence);
    }

    /// The shard that counts a sequence: its schema's home.
    pub fn sequence_shard(&self, sequence: &Sequence) -> ShardId {
        let catalog = self.state().catalog.clone();
        catalog.schemas.get(&sequence.schema).map_or(ShardId::HOME, |schema| schema.home)
    }
}

impl SessionFunctions for SessionHandle {
    fn call(&self, signature: &str, args: &[Datum]) -> Result<Datum, ValueError> {
        functions::call(self, signature, args)
    }
}

impl SessionInfo for SessionHandle {
    fn catalog(&self) -> Arc<Catalog> {
        self.state().catalog.clone()
    }

    fn store(&self) -> &Arc<CatalogStore> {
        &self.gateway.store
    }

    fn current_user(&self) -> String {
        self.user.clone()
    }

    fn session_user(&self) -> String {
        self.user.clone()
    }

    fn search_path(&self) -> Vec<String> {
        self.state().settings.search_path()
    }

    fn process_id(&self) -> i32 {
        self.process_id
    }

    fn value_settings(&self) -> ValueSettings {
        self.state().settings.value_settings().clone()
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.state().settings.get(name)
    }

    fn set_setting(&self, name: &str, value: &str, local: bool) -> Result<String, ValueError> {
        let mut state = self.state();
        let set = state.settings.set(name, Some(value), local);
        set.map_err(|error| {
            ValueError::new(ValueErrorKind::InvalidParameter, error.message.clone())
        })?;
        state.changes.push((name.to_owned(), value.to_owned(), local));
        Ok(state.settings.get(name).unwrap_or_default())
    }

    fn settings(&self) -> Vec<SettingRow> {
        let settings = self.state().settings.clone();
        DEFINITIONS.iter().map(|definition| setting_row(&settings, definition)).collect()
    }

    fn activities(&self) -> Vec<ActivityRow> {
        let row = |activity: Activity| ActivityRow {
            process_id: activity.process_id,
            user: activity.user,
            application_name: activity.application_name,
            started_micros: activity.started_micros,
            query_started_micros: activity.query_started_micros,
            state: activity.state.to_owned(),
            query: activity.query,
        };
        self.gateway.activities.list().into_iter().map(row).collect()
    }

    fn last_value(&self, sequence: Oid) -> Option<i64> {
        self.state().current_values.get(&sequence).copied()
    }

    fn last_sequence(&self) -> Option<Oid> {
        self.state().last_sequence
    }

    fn remember_value(&self, sequence: Oid, value: i64) {
        self.note_sequence_value(sequence, value);
    }

    fn call_other(&self, _signature: &str, _args: &[Datum]) -> Option<Result<Datum, ValueError>> {
        None
    }
}

/// A definition with its value as `pg_settings` shows them.
fn setting_row(settings: &Settings, definition: &Definition) -> SettingRow {
    let value = settings.get(definition.name).unwrap_or_default();
    let (kind, min, max, choices) = match definition.kind {
        Kind::Bool => ("bool", None, None, None),
        Kind::Integer(min, max) | Kind::Milliseconds(min, max) => {
            ("integer", Some(min.to_string()), Some(max.to_string()), None)
        }
        Kind::Enum(words) | Kind::Only(words, _) => {
            ("enum", None, None, Some(words.iter().map(|word| (*word).to_owned()).collect()))
        }
        Kind::Bytes | Kind::Text | Kind::TimeZone | Kind::DateStyle | Kind::ReadOnly => {
            ("string", None, None, None)
        }
    };
    let is_internal = matches!(definition.kind, Kind::ReadOnly);
    let is_default = value == definition.default;
    SettingRow {
        name: definition.name.to_owned(),
        setting: value,
        unit: None,
        category: "CortexDB".to_owned(),
        description: definition.description.to_owned(),
        context: if is_internal { "internal" } else { "user" }.to_owned(),
        kind: kind.to_owned(),
        source: if is_default { "default" } else { "session" }.to_owned(),
        min,
        max,
        choices,
        boot: Some(definition.default.to_owned()),
        reset: Some(definition.default.to_owned()),
    }
}
