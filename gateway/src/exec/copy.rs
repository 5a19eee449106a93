//! COPY.

use super::session::Session;
use crate::{
    error::PgError,
    parse::{CopyStatement, Parsed},
    statement::Execution,
};

impl Session {
    pub async fn run_copy(
        &mut self,
        _copy: &CopyStatement,
        _parsed: &Parsed,
        _autocommit: bool,
    ) -> Result<Execution, PgError> {
        Err(PgError::unsupported("COPY is not supported yet", "Use INSERT."))
    }
}
