//! The table of settings: names, defaults, what values are accepted, which are reported.
//!
//! A setting that Postgres has and that would change nothing here accepts only what is true of us.

/// What a setting accepts.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Bool,
    /// Inclusive range.
    Integer(i64, i64),
    /// Milliseconds, with Postgres's units (`5s`, `1min`); inclusive range.
    Milliseconds(i64, i64),
    /// Bytes with Postgres's units (`64MB`).
    Bytes,
    Text,
    /// One of these words, in any case.
    Enum(&'static [&'static str]),
    TimeZone,
    /// `DateStyle`: output must be ISO.
    DateStyle,
    /// SET is refused.
    ReadOnly,
    /// SET accepts only these values, which all mean what we do; the hint says why.
    Only(&'static [&'static str], &'static str),
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    pub name: &'static str,
    pub default: &'static str,
    pub kind: Kind,
    /// Sent to the client as ParameterStatus when it changes.
    pub report: bool,
    pub description: &'static str,
}

const fn setting(
    name: &'static str,
    default: &'static str,
    kind: Kind,
    description: &'static str,
) -> Definition {
    Definition { name, default, kind, report: false, description }
}

const fn reported(
    name: &'static str,
    default: &'static str,
    kind: Kind,
    description: &'static str,
) -> Definition {
    Definition { name, default, kind, report: true, description }
}

const ISOLATION: Kind = Kind::Only(
    &["read committed", "read uncommitted"],
    "Isolation levels above READ COMMITTED are not supported yet.",
);

const LOCALE: Kind =
    Kind::Only(&["C", "en_US.UTF-8", "C.UTF-8", "POSIX", ""], "There is one locale, C.");

const MESSAGE_LEVELS: Kind = Kind::Enum(&[
    "debug5", "debug4", "debug3", "debug2", "debug1", "debug", "log", "notice", "warning", "error",
]);

const TIMEOUT: Kind = Kind::Milliseconds(0, i32::MAX as i64);

/// What `SHOW server_version` says: the dialect we speak, then ourselves.
pub const SERVER_VERSION: &str = "15.8 (CortexDB 0.1.0)";

/// Every setting, by name.
#[rustfmt::skip]
pub const DEFINITIONS: &[Definition] = &[
    reported("application_name", "", Kind::Text, "Sets the application name to be reported in statistics and logs."),
    setting("bytea_output", "hex", Kind::Enum(&["hex", "escape"]), "Sets the output format for bytea."),
    setting("check_function_bodies", "on", Kind::Bool, "Check routine bodies during CREATE FUNCTION and CREATE PROCEDURE."),
    reported("client_encoding", "UTF8", Kind::Only(&["UTF8", "UTF-8", "unicode"], "Text is UTF-8 throughout."), "Sets the client's character set encoding."),
    setting("client_min_messages", "notice", MESSAGE_LEVELS, "Sets the message levels that are sent to the client."),
    setting("cortex.batch_rows", "8192", Kind::Integer(1, 65_536), "Rows per batch between operators and shards."),
    setting("cortex.cross_shard_lock_timeout", "1s", Kind::Milliseconds(1, 86_400_000), "How long a transaction that wrote on another shard waits for a lock."),
    setting("cortex.default_shard_by", "none", Kind::Enum(&["none", "primary_key"]), "How new tables without shard_by are placed."),
    setting("cortex.fast_path", "on", Kind::Bool, "Runs simple statements by key without the analytic planner."),
    setting("cortex.multi_shard_writes", "best_effort", Kind::Enum(&["best_effort", "strict"]), "Whether a transaction may write on several shards."),
    setting("cortex.partial_reads", "refuse", Kind::Enum(&["refuse", "allow"]), "Whether a SELECT over several shards may answer without those that are down."),
    setting("cortex.query_memory", "1GB", Kind::Bytes, "Memory of one query in the gateway."),
    setting("cortex.schema_placement", "home", Kind::Enum(&["home", "round_robin"]), "Which shard is the home of a new schema."),
    reported("DateStyle", "ISO, MDY", Kind::DateStyle, "Sets the display format for date and time values."),
    setting("default_table_access_method", "heap", Kind::Only(&["heap"], "Tables have one access method."), "Sets the default table access method for new tables."),
    setting("default_tablespace", "", Kind::Only(&[""], "There are no tablespaces."), "Sets the default tablespace to create tables and indexes in."),
    setting("default_transaction_isolation", "read committed", ISOLATION, "Sets the transaction isolation level of each new transaction."),
    reported("default_transaction_read_only", "off", Kind::Bool, "Sets the default read-only status of new transactions."),
    setting("extra_float_digits", "1", Kind::Integer(-15, 3), "Sets the number of digits displayed for floating-point values."),
    setting("idle_in_transaction_session_timeout", "0", Kind::Only(&["0"], "Idle transactions are not ended by the server."), "Sets the maximum allowed idle time between queries, when in a transaction."),
    reported("in_hot_standby", "off", Kind::ReadOnly, "Shows whether hot standby is currently active."),
    reported("integer_datetimes", "on", Kind::ReadOnly, "Shows whether datetimes are integer based."),
    reported("IntervalStyle", "postgres", Kind::Only(&["postgres"], "Intervals print in the postgres style."), "Sets the display format for interval values."),
    reported("is_superuser", "on", Kind::ReadOnly, "Shows whether the current user is a superuser."),
    setting("jit", "off", Kind::Only(&["off", "false", "0"], "Queries are not compiled."), "Allow JIT compilation."),
    setting("lc_collate", "C", Kind::ReadOnly, "Shows the collation order locale."),
    setting("lc_ctype", "C", Kind::ReadOnly, "Shows the character classification and case conversion locale."),
    setting("lc_messages", "C", LOCALE, "Sets the language in which messages are displayed."),
    setting("lc_monetary", "C", LOCALE, "Sets the locale for formatting monetary amounts."),
    setting("lc_numeric", "C", LOCALE, "Sets the locale for formatting numbers."),
    setting("lc_time", "C", LOCALE, "Sets the locale for formatting date and time values."),
    setting("lock_timeout", "0", TIMEOUT, "Sets the maximum allowed duration of any wait for a lock."),
    setting("max_connections", "1000", Kind::ReadOnly, "Sets the maximum number of concurrent connections."),
    setting("max_identifier_length", "63", Kind::ReadOnly, "Shows the maximum identifier length."),
    setting("max_index_keys", "32", Kind::ReadOnly, "Shows the maximum number of index keys."),
    setting("quote_all_identifiers", "off", Kind::Only(&["off"], "Identifiers are quoted where they must be."), "When generating SQL fragments, quote all identifiers."),
    setting("role", "none", Kind::Only(&["none"], "SET ROLE is not supported."), "Sets the current role."),
    setting("row_security", "on", Kind::Bool, "Enable row security; no policies can exist."),
    setting("search_path", "\"$user\", public", Kind::Text, "Sets the schema search order for names that are not schema-qualified."),
    reported("server_encoding", "UTF8", Kind::ReadOnly, "Shows the server (database) character set encoding."),
    reported("server_version", SERVER_VERSION, Kind::ReadOnly, "Shows the server version."),
    setting("server_version_num", "150008", Kind::ReadOnly, "Shows the server version as an integer."),
    reported("session_authorization", "postgres", Kind::ReadOnly, "Sets the session user name."),
    setting("session_replication_role", "origin", Kind::Only(&["origin"], "Triggers and rules do not exist."), "Sets the session's behavior for triggers and rewrite rules."),
    reported("standard_conforming_strings", "on", Kind::Only(&["on", "true", "1"], "Backslashes in plain strings are plain characters."), "Causes '...' strings to treat backslashes literally."),
    setting("statement_timeout", "0", TIMEOUT, "Sets the maximum allowed duration of any statement."),
    setting("synchronous_commit", "on", Kind::Only(&["on", "local", "remote_write", "remote_apply"], "Every commit is durable before it is acknowledged."), "Sets the current transaction's synchronization level."),
    setting("synchronize_seqscans", "on", Kind::Bool, "Enable synchronized sequential scans; scans are in key order."),
    reported("TimeZone", "Etc/UTC", Kind::TimeZone, "Sets the time zone for displaying and interpreting time stamps."),
    setting("transaction_isolation", "read committed", ISOLATION, "Sets the current transaction's isolation level."),
    setting("transaction_read_only", "off", Kind::Bool, "Sets the current transaction's read-only status."),
    setting("transaction_timeout", "0", Kind::Only(&["0"], "Use statement_timeout."), "Sets the maximum allowed duration of a transaction."),
    setting("xmloption", "content", Kind::Enum(&["content", "document"]), "Sets whether XML data is to be considered documents or content fragments."),
];
