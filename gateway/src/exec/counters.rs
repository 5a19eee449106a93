//! What statements cost in plans, counted: the proof that the fast path is one.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the gateway was opened. Tests compare them; nothing else depends on them.
#[derive(Debug, Default)]
pub struct Counters {
    fast_statements: AtomicU64,
    analytic_plans: AtomicU64,
}

impl Counters {
    pub(super) fn count_fast_statement(&self) {
        self.fast_statements.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_analytic_plan(&self) {
        self.analytic_plans.fetch_add(1, Ordering::Relaxed);
    }

    /// Statements that took the fast path.
    pub fn fast_statements(&self) -> u64 {
        self.fast_statements.load(Ordering::Relaxed)
    }

    /// Physical plans that DataFusion made.
    pub fn analytic_plans(&self) -> u64 {
        self.analytic_plans.load(Ordering::Relaxed)
    }
}
