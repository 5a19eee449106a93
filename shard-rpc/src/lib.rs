//! Shards over the network: a `ShardClient` that speaks gRPC, and the server that answers it for any `ShardClient`.
//!
//! Lives here: the bytes between processes (docs/format/wire.md), connections and what happens when they break, TLS, and a
//! small helper for other calls between nodes. Not here: what a request means (the shard), who is a member of the cluster
//! and which shard has which address (the gateway).
//!
//! ```text
//! RemoteShard ──► Link ──► Connection ═══ gRPC stream, batched both ways ═══► Session ──► Arc<dyn ShardClient>
//!      └──────────── execute: Arrow Flight DoGet, a connection of its own ═══► Flight ──────┘
//! ```

/// What goes over the wire, and its bounds.
pub mod protocol;

/// `RemoteShard`.
pub mod client;

/// The server.
pub mod server;

/// Other calls between nodes, on the same port.
pub mod service;

/// Certificates between nodes.
pub mod tls;

pub use client::{ClientConfig, Endpoint, LinkState, RemoteShard};
pub use server::{Server, ServerConfig};
pub use service::{CallError, Service, ServiceClient};
pub use tls::TlsConfig;

#[cfg(test)]
mod tests;
