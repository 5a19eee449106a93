//! What the operators of a fragment did: asked for by EXPLAIN ANALYZE, and the same from every shard, in this process or another.
//!
//! Operators are told apart by their place in the plan, which is the same on both sides. Not here: how they are counted
//! (`shard_node::exec`) and shown (`planner::explain`).

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Operators that are reported: more than anybody reads of a plan, and some tens of kilobytes.
pub const OPERATORS_REPORTED_MAX: usize = 4096;

/// What one operator did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCounts {
    /// Rows that it gave.
    pub rows: u64,
    /// Nanoseconds that it computed, without those of the operators below it.
    pub nanos: u64,
}

/// Where a shard leaves its report: it is there when the fragment's batches are over, and never before. A fragment that failed or
/// was not read to its end has none.
#[derive(Debug, Default)]
pub struct FragmentReport(OnceLock<Vec<OperatorCounts>>);

impl FragmentReport {
    /// The operators from the root on, each before its inputs; those behind the bound are left out.
    pub fn fill(&self, mut operators: Vec<OperatorCounts>) {
        operators.truncate(OPERATORS_REPORTED_MAX);
        // A report that is there stays: a fragment ends once.
        let _ = self.0.set(operators);
    }

    pub fn operators(&self) -> Option<&[OperatorCounts]> {
        self.0.get().map(Vec::as_slice)
    }
}
