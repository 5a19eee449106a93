//! What functions may ask of the session and the catalog, and how they reach it from inside a plan.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use cortex_shard_api::{Datum, ValueError, value::ValueSettings};
use datafusion::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};

/// Functions whose answer depends on the session or the catalog. Implemented by the gateway; called by signature.
///
/// Signatures: those of `kernels::system::SESSION_FUNCTIONS` with the call's argument types, such as
/// `pg_get_indexdef(oid,int4,bool)`, `nextval(regclass)`, `current_setting(text,bool)`, `current_user()`; and the casts
/// `regclass(text)`, `regtype(text)`, `regproc(text)`, `regnamespace(text)`, `regrole(text)` (the argument is a name as
/// written, maybe quoted or qualified; answer `Datum::Oid` or Postgres's error) and back `text(regclass)`, ... (answer
/// `Datum::Text`, or `Null` where there is no such object). Arguments are never NULL where the function is strict.
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
    pub stop: Stop,
}

/// Set once nobody waits for the statement any more: cancelled, timed out, disconnected. Functions that wait look at it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The context as an extension of DataFusion's configuration, which is what reaches functions.
#[derive(Clone, Debug, Default)]
struct ContextExtension(Arc<EvalContext>);

impl ConfigExtension for ContextExtension {
    const PREFIX: &'static str = "cortex_context";
}

impl ExtensionOptions for ContextExtension {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _value: &str) -> datafusion::error::Result<()> {
        datafusion::common::config_err!("{key} is not an option")
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

/// Makes the context reach the functions inside a plan. Call it on the session config of every execution.
pub fn install(config: &mut ConfigOptions, context: Arc<EvalContext>) {
    config.extensions.insert(ContextExtension(context));
}

/// The context installed in a configuration; the default one (UTC, no session) if there is none.
pub fn installed(config: &ConfigOptions) -> Arc<EvalContext> {
    config
        .extensions
        .get::<ContextExtension>()
        .map(|extension| extension.0.clone())
        .unwrap_or_default()
}
