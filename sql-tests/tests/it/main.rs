//! The SQL tests: one binary, because each would link the same crates again.

mod catalog;
mod change_kind;
mod clients;
mod cluster;
mod copy;
mod differential;
mod embedded;
mod gateways;
mod generator;
mod identity;
mod matrix;
mod packages;
mod precedence;
mod process;
mod restart;
mod schema_changes;
mod tpch;
