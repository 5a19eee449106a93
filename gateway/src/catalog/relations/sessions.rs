//! pg_settings, pg_stat_activity, pg_stat_database, pg_locks: what changes without a new version of the catalog.

use cortex_planner::catalog::edit::{DATABASE, DATABASE_NAME};
use cortex_shard_api::{Datum, ValueError, client::TableLock};

use super::{
    Fill, Source,
    rows::{Rows, maybe_text, oid, text, text_array},
};

pub const RELATIONS: &[(&str, Fill)] = &[
    ("pg_settings", pg_settings),
    ("pg_stat_activity", pg_stat_activity),
    ("pg_stat_database", pg_stat_database),
    ("pg_locks", pg_locks),
];

fn pg_settings(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for setting in source.session.settings() {
        rows.push([
            ("name", text(setting.name)),
            ("setting", text(setting.setting)),
            ("unit", maybe_text(setting.unit)),
            ("category", text(setting.category)),
            ("short_desc", text(setting.description)),
            ("context", text(setting.context)),
            ("vartype", text(setting.kind)),
            ("source", text(setting.source)),
            ("min_val", maybe_text(setting.min)),
            ("max_val", maybe_text(setting.max)),
            ("enumvals", setting.choices.map_or(Datum::Null, text_array)),
            ("boot_val", maybe_text(setting.boot)),
            ("reset_val", maybe_text(setting.reset)),
            ("pending_restart", Datum::Bool(false)),
        ]);
    }
    Ok(())
}

fn pg_stat_activity(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for activity in source.session.activities() {
        let role = source.catalog.role_by_name(&activity.user);
        rows.push([
            ("datid", oid(DATABASE)),
            ("datname", text(DATABASE_NAME)),
            ("pid", Datum::Int4(activity.process_id)),
            ("usesysid", role.map_or(Datum::Null, |role| oid(role.oid))),
            ("usename", text(activity.user)),
            ("application_name", text(activity.application_name)),
            ("backend_start", Datum::Timestamptz(activity.started_micros)),
            ("query_start", Datum::Timestamptz(activity.query_started_micros)),
            ("state_change", Datum::Timestamptz(activity.query_started_micros)),
            ("state", text(activity.state)),
            ("query", text(activity.query)),
            ("backend_type", text("client backend")),
        ]);
    }
    Ok(())
}

fn pg_stat_database(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    rows.push([
        ("datid", oid(DATABASE)),
        ("datname", text(DATABASE_NAME)),
        ("numbackends", Datum::Int4(source.session.activities().len() as i32)),
    ]);
    Ok(())
}

/// Table locks of this gateway.
fn pg_locks(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for (table, txn, lock, granted) in source.session.store().locks().snapshot() {
        let mode = match lock {
            TableLock::Shared => "RowExclusiveLock",
            TableLock::Exclusive => "AccessExclusiveLock",
        };
        rows.push([
            ("locktype", text("relation")),
            ("database", oid(DATABASE)),
            ("relation", oid(table)),
            ("virtualtransaction", text(txn.to_string())),
            ("mode", text(mode)),
            ("granted", Datum::Bool(granted)),
            ("fastpath", Datum::Bool(false)),
        ]);
    }
    Ok(())
}
