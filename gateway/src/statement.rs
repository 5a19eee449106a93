//! The boundary between the wire (`session`) and the execution of statements (`exec`).
//!
//! The wire turns messages into calls of `SqlSession` and answers into bytes; it knows no SQL. The execution side knows
//! SQL and no wire. A test drives the wire with a scripted `SqlSession`.

use std::{
    any::Any,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use cortex_planner::bind::OutputColumn;
use cortex_shard_api::{Datum, SqlType, client::Row, value::ValueSettings};
use futures::Stream;

use crate::error::PgError;

/// One statement of a query text, not bound yet.
#[derive(Clone, Debug)]
pub struct ParsedStatement {
    /// Its own text, without the neighbours in a multi-statement query.
    pub sql: Arc<str>,
    /// Characters of the query text before it. Errors of `prepare` and `execute` give positions in the whole query text.
    pub offset: usize,
    /// The AST, opaque to the wire.
    pub ast: Arc<dyn Any + Send + Sync>,
}

/// A statement bound to the catalog: what Parse makes and Describe tells.
#[derive(Clone)]
pub struct Prepared {
    pub parameters: Vec<SqlType>,
    /// `None` for statements that return no rows (NoData).
    pub columns: Option<Arc<[OutputColumn]>>,
    /// What execution needs, opaque to the wire.
    pub plan: Arc<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("parameters", &self.parameters)
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

/// What executing a statement gives.
pub enum Execution {
    /// Rows, then a tag that may need their number.
    Rows { columns: Arc<[OutputColumn]>, rows: RowSource, tag: RowsTag },
    /// No rows: `INSERT 0 5`, `CREATE TABLE`.
    Command(String),
    /// An empty query string.
    Empty,
    /// COPY FROM STDIN: the wire sends CopyInResponse, then feeds `sink`.
    CopyIn { format: CopyShape, sink: Box<dyn CopySink> },
    /// COPY TO STDOUT: CopyOutResponse, one CopyData for each item, then the tag with the number of rows.
    CopyOut { format: CopyShape, data: CopyStream },
}

/// How the tag of a statement with rows reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsTag {
    /// `SELECT n`
    Select,
    /// `FETCH n`
    Fetch,
    /// `SHOW`, `EXPLAIN`: the word alone.
    Word(&'static str),
    /// `INSERT 0 n`, `UPDATE n`, `DELETE n` with RETURNING: the prefix, a blank, the number.
    Counted(&'static str, u64),
}

/// Rows, lazily: nothing is read before it is polled, nothing is collected.
pub enum RowSource {
    /// The analytic path. Columns are as `value::arrow` represents the output columns' types.
    Batches(Pin<Box<dyn Stream<Item = Result<RecordBatch, PgError>> + Send>>),
    /// The fast path, RETURNING, SHOW: values of the output columns' types.
    Rows(std::vec::IntoIter<Row>),
}

/// Overall format and per-column formats of a COPY.
#[derive(Clone, Copy, Debug)]
pub struct CopyShape {
    pub binary: bool,
    pub columns: usize,
}

/// Data rows of COPY TO as they go out, each item with the number of rows it holds.
pub type CopyStream = Pin<Box<dyn Stream<Item = Result<(Bytes, u64), PgError>> + Send>>;

/// Takes the data of COPY FROM. Dropping it without `finish` undoes everything.
#[async_trait]
pub trait CopySink: Send {
    /// Any cut of the stream; waits while the shards are behind, which stops reading from the socket.
    async fn data(&mut self, bytes: Bytes) -> Result<(), PgError>;

    /// All data is here: commits (unless in a transaction) and returns the number of rows.
    async fn finish(self: Box<Self>) -> Result<u64, PgError>;
}

/// Whether a statement that is interrupted may still be dropped. An error must not be reported for what has been committed, so
/// the SQL side raises the shield around its commits, and the wire looks at it before it drops a future.
#[derive(Debug, Default)]
pub struct CommitShield(AtomicU8);

/// What a raised shield says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shielded {
    /// Nothing is being committed: drop it at once.
    No = 0,
    /// One request that first may wait for a lock and then commits: give it a moment to end by itself.
    Maybe = 1,
    /// A commit is on its way: wait for its outcome.
    Yes = 2,
}

impl CommitShield {
    /// Raised until the returned value is dropped.
    pub fn raise(self: &Arc<CommitShield>, how: Shielded) -> RaisedShield {
        self.0.store(how as u8, Ordering::Release);
        RaisedShield(self.clone())
    }

    pub fn state(&self) -> Shielded {
        match self.0.load(Ordering::Acquire) {
            0 => Shielded::No,
            1 => Shielded::Maybe,
            _ => Shielded::Yes,
        }
    }
}

/// Lowers the shield when it is dropped.
#[derive(Debug)]
pub struct RaisedShield(Arc<CommitShield>);

impl Drop for RaisedShield {
    fn drop(&mut self) {
        self.0.0.store(Shielded::No as u8, Ordering::Release);
    }
}

/// ReadyForQuery's byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

/// A NOTICE, WARNING or INFO.
#[derive(Clone, Debug)]
pub struct Notice {
    pub severity: &'static str,
    pub code: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// The SQL side of one connection. Calls come one after the other. Cancellation is dropping the future (or the
/// returned rows); `failed` must be called after any error, also one that the wire found itself.
#[async_trait]
pub trait SqlSession: Send {
    /// Splits and parses a query text. Empty for one of blanks and comments.
    fn parse(&mut self, sql: &str) -> Result<Vec<ParsedStatement>, PgError>;

    /// Binds. `parameter_oids` are the client's; 0 means unspecified.
    async fn prepare(
        &mut self,
        statement: &ParsedStatement,
        parameter_oids: &[u32],
    ) -> Result<Arc<Prepared>, PgError>;

    /// Runs. `autocommit`: nothing else can come before the implicit transaction ends (the next message is Sync, or this is the
    /// only statement of a simple query), so a statement outside a transaction block may commit by itself.
    async fn execute(
        &mut self,
        prepared: &Arc<Prepared>,
        parameters: Vec<Datum>,
        autocommit: bool,
    ) -> Result<Execution, PgError>;

    /// Ends the implicit transaction: Sync, or the end of a simple query. Commits it, or rolls it back after an error.
    async fn sync(&mut self) -> Result<(), PgError>;

    /// An error was sent to the client: the transaction is failed.
    async fn failed(&mut self);

    fn transaction_status(&self) -> TransactionStatus;

    /// For reading and printing values in this session.
    fn value_settings(&self) -> ValueSettings;

    /// How `regclass` and its like print an OID: the object's name, with its schema where the search path does not find
    /// it. `None`: there is no such object (the number is printed).
    fn object_name(&self, ty: SqlType, oid: u32) -> Option<String>;

    /// How `regclass` and its like read a parameter that is a name; 42P01 and its like if there is no such object.
    fn object_oid(&self, ty: SqlType, name: &str) -> Result<u32, PgError>;

    /// Raised around commits; the same for the whole session.
    fn shield(&self) -> Arc<CommitShield>;

    /// The columns of an open cursor that SQL has declared: in Postgres it is a portal too, and clients describe it as one.
    fn cursor_columns(&self, name: &str) -> Option<Arc<[OutputColumn]>>;

    /// `statement_timeout`; `None` is no limit.
    fn statement_timeout(&self) -> Option<std::time::Duration>;

    /// Notices since the last call.
    fn take_notices(&mut self) -> Vec<Notice>;

    /// Settings marked GUC_REPORT that changed since the last call: ParameterStatus messages.
    fn take_parameter_changes(&mut self) -> Vec<(String, String)>;

    /// DEALLOCATE, DISCARD and PREPARE act on the wire's prepared statements: names dropped since the last call (`None`: all).
    fn take_deallocated(&mut self) -> Vec<Option<String>>;

    /// The connection is gone: rolls back and releases everything.
    async fn close(&mut self);
}

/// Makes the SQL side of connections: the rest of the gateway, as the wire sees it.
#[async_trait]
pub trait SqlService: Send + Sync {
    /// What authentication needs: `None` if there is no such role that may log in.
    fn login(&self, user: &str) -> Option<LoginRole>;

    /// After authentication. `options` are the startup parameters other than user and database. 3D000 for an unknown database;
    /// the initial ParameterStatus values are `take_parameter_changes` of the new session.
    async fn open(
        &self,
        user: &str,
        database: &str,
        process_id: i32,
        options: &[(String, String)],
    ) -> Result<Box<dyn SqlSession>, PgError>;
}

/// How a role logs in.
#[derive(Clone, Debug)]
pub struct LoginRole {
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, or none: trust, on loopback only.
    pub password: Option<String>,
}
