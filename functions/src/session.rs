//! What functions may ask of the session and the catalog, and how they reach it from inside a plan.

use std::{fmt, sync::Arc};

use cortex_shard_api::{Datum, ValueError, value::ValueSettings};

/// Functions whose answer depends on the session or the catalog: `current_user`, `pg_get_indexdef`, `nextval`,
/// `current_setting`, casts between `regclass` and text. Implemented by the gateway; called by signature.
pub trait SessionFunctions: Send + Sync + fmt::Debug {
    fn call(&self, signature: &str, args: &[Datum]) -> Result<Datum, ValueError>;
}

/// What an expression may see besides its row. One per statement execution.
#[derive(Clone, Debug, Default)]
pub struct EvalContext {
    pub settings: ValueSettings,
    /// `now()`: the transaction's start, microseconds since 1970-01-01 UTC.
    pub transaction_micros: i64,
    /// `None` inside a shard: session functions are never pushed down.
    pub session: Option<Arc<dyn SessionFunctions>>,
}

/// Makes the context reach the functions inside a plan. Call it on the session config of every execution.
pub fn install(_config: &mut datafusion::config::ConfigOptions, _context: Arc<EvalContext>) { todo!() }
