//! Any error → SQLSTATE, message, position, hint. (Bootstrap: the wire's owner completes this.)

/// A SQLSTATE: five characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlState(pub &'static str);

/// An error as the client sees it. Boxed fields keep `Result`s small.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PgError {
    pub severity: Severity,
    pub code: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Characters from 1 in the statement.
    pub position: Option<usize>,
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity { Error, Fatal, Panic }
