//! CortexDB's gateway: the Postgres wire, sessions, statement execution, the catalog and its system relations.
//!
//! Modules in reading order: the path of a query.

/// Flags, environment and file.
pub mod config;

/// The boundary between the wire and the execution of statements.
pub mod statement;

/// Errors with SQLSTATE, as clients see them.
pub mod error;
