//! Vector indexes for a shard: nearest neighbours among points that come, change and go, as of any log index.
//!
//! Lives here: the engines behind [`VectorIndex`], their kernels, strategies and snapshots. Not here: rows, SQL, the log, or
//! when to collect and save; a shard decides that. The index is never the truth: rows are, and an index can always be built
//! from them.

/// What can go wrong.
mod error;

/// What an index is made with.
mod options;

/// The trait, requests and answers.
mod index;

/// Distances, by the fastest instructions there are.
mod kernels;

/// Codes and how far they may be off.
mod quantize;

/// Slots, keys and versions.
mod store;

/// Exact search.
mod flat;

/// Which way a search goes.
mod plan;

/// Our engine.
mod graph;

/// The library's engine.
mod library;

/// Bytes.
mod snapshot;

/// Work on all cores.
mod parallel;

/// Making and opening indexes.
mod make;

pub use error::{Error, Result};
pub use index::{
    Answer, Applied, Collected, Cost, Counts, Cursor, EF_MAX, Filter, Hit, LATEST, Request,
    Statistics, Strategy, VectorIndex,
};
pub use kernels::kernel_name;
pub use make::{Point, build, create, distance, open};
pub use options::{
    DIM_MAX, EF_CONSTRUCTION_MAX, EF_CONSTRUCTION_MIN, EXACT_BELOW_DEFAULT, Element, Engine, M_MAX,
    M_MIN, Metric, Options, Quantization,
};
