//! CortexDB's gateway: the Postgres wire, sessions, statement execution, the catalog and its system relations.
//!
//! Modules in reading order: the path of a query.

/// Flags, environment and file.
pub mod config;

/// A process from start to stop.
pub mod run;

/// The data directory: lock and format version.
pub mod data_dir;

/// Certificates.
pub mod tls;

/// Accepting connections.
pub mod listener;

/// One connection: messages, authentication, protocols.
pub mod session;

/// The boundary between the wire and the execution of statements.
pub mod statement;

/// COPY's data formats.
pub mod copy;

/// Answers as bytes.
mod encode;

/// Members, shards as they come and go, the meta service.
pub mod cluster;

/// The durable catalog, schema changes, and the relations that show it.
pub mod catalog;

/// Rows that change their shard.
pub mod moves;

/// Query text to statements.
pub mod parse;

/// Statements executed: the SQL side of a session.
pub mod exec;

/// Gateway and shards in one process.
pub mod embedded;

/// The processes of a cluster, and the commands that go with them.
pub mod roles;

/// Errors with SQLSTATE, as clients see them.
pub mod error;
