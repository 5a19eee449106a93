//! Signatures and how Postgres chooses among them. (Bootstrap signatures.)

use cortex_shard_api::{SqlType, TypeMod};

/// A scalar function or operator chosen for its arguments.
#[derive(Clone, Debug)]
pub struct ResolvedCall {
    /// Unique signature, e.g. `int4pl(int4,int4)`; what `ScalarExpr::Call::function` holds.
    pub signature: String,
    /// The types that the arguments must be cast to (implicitly), one per argument given.
    pub arg_types: Vec<SqlType>,
    pub returns: SqlType,
    pub volatility: Volatility,
    /// Set-returning functions may stand in FROM and in a select list.
    pub returns_set: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatility { Immutable, Stable, Volatile }

/// An aggregate or window function chosen for its arguments.
#[derive(Clone, Debug)]
pub struct ResolvedAggregate { pub signature: String, pub arg_types: Vec<SqlType>, pub returns: SqlType, pub window_only: bool }

/// Why no function was chosen; the message is Postgres's ("function foo(integer) does not exist").
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    /// 42883
    #[error("{0}")]
    Undefined(String),
    /// 42725
    #[error("{0}")]
    Ambiguous(String),
    /// 42846, 42804
    #[error("{0}")]
    TypeMismatch(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CastContext { Implicit, Assignment, Explicit }

impl ResolveError {
    /// Postgres's HINT for this error.
    pub fn hint(&self) -> Option<&'static str> { None }
}

/// Chooses a scalar function. `Unknown` marks untyped literals and parameters.
pub fn resolve_function(_name: &str, _args: &[SqlType]) -> Result<ResolvedCall, ResolveError> { todo!() }

/// Chooses an operator; `left` is `None` for prefix operators. Comparison returns signatures such as `int4eq(int4,int4)`.
pub fn resolve_operator(_op: &str, _left: Option<SqlType>, _right: SqlType) -> Result<ResolvedCall, ResolveError> { todo!() }

pub fn is_aggregate(_name: &str) -> bool { todo!() }
/// True for functions that exist only as window functions (row_number, lag, ...).
pub fn is_window_function(_name: &str) -> bool { todo!() }
pub fn resolve_aggregate(_name: &str, _args: &[SqlType]) -> Result<ResolvedAggregate, ResolveError> { todo!() }

/// Whether a value of `from` may become `to` in this context.
pub fn can_cast(_from: SqlType, _to: SqlType, _context: CastContext) -> bool { todo!() }

/// The common type of UNION columns, CASE branches, VALUES, COALESCE, ARRAY elements, as `select_common_type` chooses.
/// `context` is for the message ("UNION types integer and text cannot be matched").
pub fn common_type(_types: &[SqlType], _context: &str) -> Result<SqlType, ResolveError> { todo!() }

/// A type by the name a user writes: `int`, `int4`, `integer`, `character varying`, `_int4`, `timestamptz`.
pub fn type_by_name(_name: &str) -> Option<SqlType> { todo!() }

/// Row of `pg_proc`/`pg_operator`/`pg_cast`/`pg_aggregate` for the system catalogs.
#[derive(Clone, Debug)]
pub struct FunctionInfo {
    pub oid: u32,
    pub name: &'static str,
    /// `pg_proc.prokind`: f, a, w.
    pub kind: char,
    /// OIDs of types, pseudo-types (anyelement, "any") included.
    pub args: Vec<u32>,
    pub returns: u32,
    pub returns_set: bool,
    /// OID of the variadic element type, or 0.
    pub variadic: u32,
    pub volatility: Volatility,
    pub strict: bool,
    pub source: &'static str,
}

/// Row of `pg_operator`. OIDs; 0 for none.
#[derive(Clone, Debug)]
pub struct OperatorInfo { pub oid: u32, pub name: &'static str, pub left: u32, pub right: u32, pub result: u32, pub function: u32, pub commutator: u32, pub negator: u32, pub can_merge: bool, pub can_hash: bool }

/// Row of `pg_cast`.
#[derive(Clone, Debug)]
pub struct CastInfo { pub oid: u32, pub source: u32, pub target: u32, pub function: u32, pub context: char, pub method: char }

pub fn operators() -> Vec<OperatorInfo> { todo!() }
pub fn casts() -> Vec<CastInfo> { todo!() }

/// Columns that a set-returning function has in FROM: (name, type). One, named as the function, unless it has OUT parameters.
pub fn set_columns(_call: &ResolvedCall) -> Vec<(String, SqlType)> { todo!() }

pub fn functions() -> Vec<FunctionInfo> { todo!() }

/// Result modifier of a call: e.g. numeric(10,2) survives `max`, char(n) does not survive `||`.
pub fn result_typmod(_call: &ResolvedCall, _args: &[TypeMod]) -> i32 { -1 }
