//! The leaf of a fragment: reads a table inside a shard. (Bootstrap signatures.)
//!
//! `TableScanExec` has one partition per shard, each with its own `ScanSpec`. It finds the shard's `ScanSource` in the task
//! context (`SessionConfig` extension `FragmentSource`), so the same node serves every shard.

use std::sync::Arc;

use cortex_shard_api::client::ScanSource;

/// The `SessionConfig` extension under which a shard offers its rows to the fragment it runs.
#[derive(Clone)]
pub struct FragmentSource(pub Arc<dyn ScanSource>);
