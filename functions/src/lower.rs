//! Resolved calls, casts and aggregates as DataFusion expressions. (Bootstrap signatures.)

use cortex_shard_api::{Datum, SqlType, TypeMod, ValueError};
use datafusion::logical_expr::Expr;

use crate::{registry::{ResolvedAggregate, ResolvedCall}};

/// A call whose arguments already have `call.arg_types`. Comparisons, AND-able predicates and LIKE become native DataFusion
/// expressions where their meaning is the same, so that pushdown and pruning see them.
pub fn call(_call: &ResolvedCall, _args: Vec<(Expr, TypeMod)>) -> Expr { todo!() }

pub fn cast(_expr: Expr, _from: TypeMod, _to: TypeMod, _explicit: bool) -> Expr { todo!() }

pub fn literal(_value: &Datum, _ty: SqlType) -> Result<Expr, ValueError> { todo!() }

/// What equality, grouping, DISTINCT and join keys compare, so that equal values have equal Arrow values: normalized numeric,
/// trimmed bpchar, +0 for -0, normalized interval, jsonb by value. The same expression for types that need nothing.
pub fn comparison_key(expr: Expr, _ty: SqlType) -> Expr { expr }

/// An aggregate over arguments that already have their types. `order_by`: (expression, ascending, nulls first).
pub fn aggregate(_call: &ResolvedAggregate, _args: Vec<(Expr, TypeMod)>, _distinct: bool, _filter: Option<Expr>, _order_by: Vec<(Expr, bool, bool)>) -> Expr { todo!() }
