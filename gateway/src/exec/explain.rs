//! EXPLAIN.

use std::sync::Arc;

use cortex_shard_api::Datum;

use super::{plan::PreparedPlan, session::Session};
use crate::{error::PgError, parse::Ast, statement::Execution};

impl Session {
    pub async fn run_explain(
        &mut self,
        _ast: &Ast,
        _inner: &PreparedPlan,
        _parameters: Arc<[Datum]>,
    ) -> Result<Execution, PgError> {
        Err(PgError::unsupported("EXPLAIN is not supported yet", "It is coming."))
    }
}
