//! Who is connected and what they do: the source of `pg_stat_activity`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What one session shows of itself.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    pub process_id: i32,
    pub user: String,
    pub application_name: String,
    /// Microseconds since 1970-01-01 UTC.
    pub started_micros: i64,
    pub query_started_micros: i64,
    /// `active`, `idle`, `idle in transaction`, `idle in transaction (aborted)`
    pub state: &'static str,
    /// The statement that runs, or the last one; shortened to `QUERY_BYTES_MAX`.
    pub query: String,
}

/// Bytes of a statement that are kept, as Postgres's `track_activity_query_size`.
const QUERY_BYTES_MAX: usize = 1024;

/// All sessions of this gateway, by process id.
#[derive(Debug, Default)]
pub struct Activities(Mutex<BTreeMap<i32, Activity>>);

impl Activities {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<i32, Activity>) -> T) -> T {
        // A panic while the map was held leaves it whole: every change is one insert or remove.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn list(&self) -> Vec<Activity> {
        self.with(|sessions| sessions.values().cloned().collect())
    }
}

/// A session's entry; it disappears with the session.
#[derive(Debug)]
pub struct ActivityHandle {
    activities: Arc<Activities>,
    process_id: i32,
}

impl ActivityHandle {
    pub fn new(activities: Arc<Activities>, activity: Activity) -> ActivityHandle {
        let process_id = activity.process_id;
        activities.with(|sessions| sessions.insert(process_id, activity));
        ActivityHandle { activities, process_id }
    }

    /// Changes the session's own entry.
    pub fn update(&self, change: impl FnOnce(&mut Activity)) {
        self.activities.with(|sessions| sessions.get_mut(&self.process_id).map(change));
    }

    /// A statement begins.
    pub fn begin(&self, sql: &str, now_micros: i64) {
        let end = (0..=QUERY_BYTES_MAX.min(sql.len())).rev().find(|it| sql.is_char_boundary(*it));
        let text = sql.get(..end.unwrap_or(0)).unwrap_or_default();
        self.update(|activity| {
            activity.state = "active";
            activity.query_started_micros = now_micros;
            activity.query.clear();
            activity.query.push_str(text);
        });
    }
}

impl Drop for ActivityHandle {
    fn drop(&mut self) {
        self.activities.with(|sessions| sessions.remove(&self.process_id));
    }
}
