//! The SQL test kit: a small wire client, servers to talk to, and the sqllogictest glue.
//!
//! Lives here: what the test binary in `tests/it` and `cargo xtask` share. Not here: the cases (`slt/`), and anything that
//! knows the inside of CortexDB; the database is a process that is reached over its port, as a user reaches it.

/// A blocking wire client that shows what really travelled: codes, OIDs, formats, notices.
pub mod client;

/// `cortexdb` as a process of its own on a free port.
pub mod server;

/// A cluster: meta, shards and gateways as processes.
pub mod cluster;

/// The PostgreSQL that answers are compared with.
pub mod postgres;

/// kill -9 under load, and what must have survived it.
pub mod kill9;

/// pgbench's scripts over every placement of its tables.
pub mod pgbench;

/// Transfers whose every balance can be checked.
pub mod transfers;

/// sqllogictest over the client, and the rewriting of expectations.
pub mod slt;

/// The Debian package table: the real one, or a generated one of the same shape.
pub mod packages;

pub use client::{Client, ClientError, Reply};
pub use cluster::ClusterServer;
pub use server::CortexServer;
