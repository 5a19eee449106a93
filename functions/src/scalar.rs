//! Evaluates `ScalarExpr` over one row, with Postgres's meaning. (Bootstrap signatures.)

use cortex_shard_api::{Datum, ScalarExpr, ValueError};

use crate::session::EvalContext;

/// Nesting of scalar expressions at the most.
pub const DEPTH_MAX: usize = 1000;

pub fn evaluate(_expr: &ScalarExpr, _row: &[Datum], _parameters: &[Datum], _context: &EvalContext) -> Result<Datum, ValueError> { todo!() }

/// A cast of one value, `explicit` as in `ScalarExpr::Cast`.
pub fn cast(_value: Datum, _from: cortex_shard_api::TypeMod, _to: cortex_shard_api::TypeMod, _explicit: bool, _context: &EvalContext) -> Result<Datum, ValueError> { todo!() }

/// Evaluates a constant expression to a value (`None` if it has columns, parameters or volatile calls).
pub fn fold(_expr: &ScalarExpr, _context: &EvalContext) -> Option<Result<Datum, ValueError>> { todo!() }

/// Orders two values of one type as ORDER BY ASC does (Nulls last), for merges and tests.
pub fn compare(_left: &Datum, _right: &Datum, _ty: cortex_shard_api::SqlType) -> std::cmp::Ordering { todo!() }

/// The rows of a set-returning function over constant arguments, as FROM needs them.
pub fn set_returning(_signature: &str, _args: &[Datum], _context: &EvalContext) -> Result<Vec<cortex_shard_api::client::Row>, ValueError> { todo!() }
