//! Session settings: the values of one session over one table of definitions.
//!
//! Lives here: accepting values, SET LOCAL, what ROLLBACK undoes, what is reported. Not here: what a setting does; whoever
//! needs one reads it by name or through a typed accessor.

mod definitions;
mod values;

use std::{collections::BTreeMap, time::Duration};

use cortex_shard_api::value::ValueSettings;

pub use self::definitions::{DEFINITIONS, Definition, Kind, SERVER_VERSION};
use self::values::{accept, parse_bytes, parse_milliseconds, split_list, time_zone_of};
use crate::error::{PgError, SqlState};

/// Settings a session may make up for itself (`my.variable`).
const CUSTOM_MAX: usize = 1_000;

/// The values of one session, by lower-case name; what is not there has its definition's default.
#[derive(Clone, Debug)]
pub struct Settings {
    values: BTreeMap<String, String>,
    /// What the session started with (startup options): RESET returns to it.
    initial: BTreeMap<String, String>,
    /// Values at the start of the transaction, to which ROLLBACK returns.
    before_transaction: Option<BTreeMap<String, String>>,
    /// What COMMIT returns to after SET LOCAL.
    before_local: BTreeMap<String, Option<String>>,
    /// Reported settings changed since they were last sent.
    changed: Vec<&'static Definition>,
    cached: Cached,
}

/// Parsed once per change, because every statement reads them.
#[derive(Clone, Debug, Default)]
struct Cached {
    values: ValueSettings,
    statement_timeout: Option<Duration>,
    lock_timeout: Option<Duration>,
    fast_path: bool,
}

impl Settings {
    /// Defaults, then the startup packet's options; an unknown or bad one ends the connection, as in Postgres.
    pub fn new(user: &str, options: &[(String, String)]) -> Result<Settings, PgError> {
        let mut settings = Settings {
            values: BTreeMap::new(),
            initial: BTreeMap::new(),
            before_transaction: None,
            before_local: BTreeMap::new(),
            changed: Vec::new(),
            cached: Cached::default(),
        };
        settings.values.insert("session_authorization".to_owned(), user.to_owned());
        settings.refresh();
        for (name, value) in options {
            settings.set(name, Some(value), false)?;
        }
        settings.initial = settings.values.clone();
        settings.changed = DEFINITIONS.iter().filter(|definition| definition.report).collect();
        Ok(settings)
    }

    /// A definition by name, any case.
    pub fn definition(name: &str) -> Option<&'static Definition> {
        DEFINITIONS.iter().find(|definition| definition.name.eq_ignore_ascii_case(name))
    }

    /// The value of a setting, or `None` if there is no such setting.
    pub fn get(&self, name: &str) -> Option<String> {
        match self.values.get(&name.to_ascii_lowercase()) {
            Some(value) => Some(value.clone()),
            None => Settings::definition(name).map(|definition| definition.default.to_owned()),
        }
    }

    /// SET, or RESET for `None`. `local`: until the transaction ends.
    pub fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<(), PgError> {
        let lower = name.to_ascii_lowercase();
        let definition = Settings::definition(name);
        if definition.is_none() && !is_custom(&lower) {
            return Err(unrecognized(name));
        }
        let accepted = match (definition, value) {
            (Some(definition), Some(value)) => Some(accept(definition, value)?),
            (None, Some(_)) if self.values.len() >= CUSTOM_MAX => {
                return Err(PgError::new(
                    SqlState::PROGRAM_LIMIT_EXCEEDED,
                    format!("a session can have at most {CUSTOM_MAX} settings"),
                ));
            }
            (None, Some(value)) => Some(value.to_owned()),
            (_, None) => self.initial.get(&lower).cloned(),
        };
        if local {
            let before = self.values.get(&lower).cloned();
            self.before_local.entry(lower.clone()).or_insert(before);
        } else {
            self.before_local.remove(&lower);
        }
        self.store(&lower, accepted);
        Ok(())
    }

    fn store(&mut self, lower: &str, value: Option<String>) {
        let before = self.get(lower);
        match value {
            Some(value) => self.values.insert(lower.to_owned(), value),
            None => self.values.remove(lower),
        };
        if let Some(definition) = Settings::definition(lower)
            && definition.report
            && self.get(lower) != before
        {
            self.changed.push(definition);
        }
        self.refresh();
    }

    /// RESET ALL.
    pub fn reset_all(&mut self) {
        self.return_to(self.initial.clone());
    }

    /// A transaction begins: remember what ROLLBACK returns to.
    pub fn begin_transaction(&mut self) {
        self.before_transaction = Some(self.values.clone());
    }

    /// The values now, for a savepoint.
    pub fn mark(&self) -> BTreeMap<String, String> {
        self.values.clone()
    }

    /// Back to values remembered earlier.
    pub fn return_to(&mut self, mark: BTreeMap<String, String>) {
        let names: Vec<String> = self.values.keys().chain(mark.keys()).cloned().collect();
        for name in names {
            if self.values.get(&name) != mark.get(&name) {
                self.store(&name, mark.get(&name).cloned());
            }
        }
    }

    /// The transaction ended: SET LOCAL ends, after a rollback SET too.
    pub fn end_transaction(&mut self, committed: bool) {
        let before = self.before_transaction.take();
        let local = std::mem::take(&mut self.before_local);
        if committed {
            for (name, value) in local {
                self.store(&name, value);
            }
        } else if let Some(before) = before {
            self.return_to(before);
        }
    }

    /// Name and value of reported settings that changed since the last call.
    pub fn take_changes(&mut self) -> Vec<(String, String)> {
        let changed = std::mem::take(&mut self.changed);
        let value = |definition: &Definition| self.get(definition.name).unwrap_or_default();
        changed.into_iter().map(|it| (it.name.to_owned(), value(it))).collect()
    }

    /// How values are read and printed.
    pub fn value_settings(&self) -> &ValueSettings {
        &self.cached.values
    }

    pub fn statement_timeout(&self) -> Option<Duration> {
        self.cached.statement_timeout
    }

    pub fn lock_timeout(&self) -> Option<Duration> {
        self.cached.lock_timeout
    }

    pub fn cross_shard_lock_timeout(&self) -> Duration {
        Duration::from_millis(self.milliseconds("cortex.cross_shard_lock_timeout"))
    }

    pub fn fast_path(&self) -> bool {
        self.cached.fast_path
    }

    /// A Boolean setting.
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name).as_deref() == Some("on")
    }

    /// An integer setting.
    pub fn integer(&self, name: &str) -> i64 {
        self.get(name).and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    fn milliseconds(&self, name: &str) -> u64 {
        let value = self.get(name).unwrap_or_default();
        parse_milliseconds(&value).and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default()
    }

    /// `cortex.query_memory` in bytes.
    pub fn query_memory(&self) -> usize {
        self.get("cortex.query_memory").and_then(|text| parse_bytes(&text)).unwrap_or(1 << 30)
    }

    /// Schemas in search order, `"$user"` resolved.
    pub fn search_path(&self) -> Vec<String> {
        let user = self.get("session_authorization").unwrap_or_default();
        split_list(&self.get("search_path").unwrap_or_default())
            .into_iter()
            .map(|schema| if schema == "$user" { user.clone() } else { schema })
            .collect()
    }

    fn refresh(&mut self) {
        let timeout = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        let zone = self.get("TimeZone").unwrap_or_default();
        self.cached = Cached {
            values: ValueSettings {
                time_zone: time_zone_of(&zone).unwrap_or(chrono_tz::Tz::UTC),
                day_first: self.get("DateStyle").unwrap_or_default().ends_with("DMY"),
                extra_float_digits: i32::try_from(self.integer("extra_float_digits")).unwrap_or(1),
                bytea_escape: self.get("bytea_output").as_deref() == Some("escape"),
                now_micros: 0,
            },
            statement_timeout: timeout(self.milliseconds("statement_timeout")),
            lock_timeout: timeout(self.milliseconds("lock_timeout")),
            fast_path: self.is_on("cortex.fast_path"),
        };
    }
}

/// `a.b`: a name that nobody defines but the user; those in our own classes are all defined.
fn is_custom(name: &str) -> bool {
    name.split_once('.').is_some_and(|(class, rest)| {
        !class.is_empty() && !rest.is_empty() && class != "cortex" && class != "hnsw"
    })
}

/// 42704
pub fn unrecognized(name: &str) -> PgError {
    PgError::new(
        SqlState::UNDEFINED_OBJECT,
        format!("unrecognized configuration parameter \"{name}\""),
    )
}
