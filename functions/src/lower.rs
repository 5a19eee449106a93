//! Resolved calls, casts and aggregates as DataFusion expressions. (Bootstrap signatures.)

use std::{fmt, sync::Arc};

use cortex_shard_api::{Datum, SqlType, TypeMod, ValueError};
use datafusion::logical_expr::{Expr, SortExpr, WindowFrame};

use crate::registry::{ResolvedAggregate, ResolvedCall};

/// A call whose arguments already have `call.arg_types`. Comparisons, AND-able predicates and LIKE become native DataFusion
/// expressions where their meaning is the same, so that pushdown and pruning see them.
/// A set-returning function yields a List of its rows' values, for the binder to unnest.
pub fn call(_call: &ResolvedCall, _args: Vec<(Expr, TypeMod)>) -> Expr { todo!() }

pub fn cast(_expr: Expr, _from: TypeMod, _to: TypeMod, _explicit: bool) -> Expr { todo!() }

pub fn literal(_value: &Datum, _ty: SqlType) -> Result<Expr, ValueError> { todo!() }

/// What equality, grouping, DISTINCT, ORDER BY and join keys compare, so that equal values have equal Arrow values and Arrow's
/// order is Postgres's: normalized numeric, trimmed bpchar, +0 for -0, normalized interval, jsonb and arrays by value.
/// The same expression for types that need nothing. A key need not have the value's type: carry the value beside it.
pub fn comparison_key(expr: Expr, _ty: SqlType) -> Expr { expr }

/// An aggregate (plain or windowed) as DataFusion computes it: some aggregate expressions, and what to make of their results.
/// avg(int4) is [sum, count] and a division.
#[derive(Clone)]
pub struct LoweredAggregate {
    /// `Expr::AggregateFunction`s for `LogicalPlan::Aggregate`, or `Expr::WindowFunction`s for `LogicalPlan::Window`.
    pub parts: Vec<Expr>,
    finish: Arc<dyn Fn(Vec<Expr>) -> Expr + Send + Sync>,
}

impl LoweredAggregate {
    /// The aggregate's value from the values of `parts` (normally columns of the plan node that computed them).
    pub fn finish(&self, parts: Vec<Expr>) -> Expr { (self.finish)(parts) }
}

impl fmt::Debug for LoweredAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoweredAggregate").field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// An aggregate over arguments that already have `call.arg_types`. `order_by` holds comparison keys: (key, ascending, nulls first).
/// Ordered-set aggregates (`WITHIN GROUP`): `args` are the direct arguments followed by the ordered values themselves
/// (not their keys), `order_by` gives their direction.
pub fn aggregate(_call: &ResolvedAggregate, _args: Vec<(Expr, TypeMod)>, _distinct: bool, _filter: Option<Expr>, _order_by: Vec<(Expr, bool, bool)>) -> Result<LoweredAggregate, ValueError> { todo!() }

/// The OVER clause; `order_by` and `partition_by` hold comparison keys.
#[derive(Clone, Debug)]
pub struct WindowSpec {
    pub partition_by: Vec<Expr>,
    pub order_by: Vec<SortExpr>,
    pub frame: WindowFrame,
}

/// A window function, or an aggregate over a window.
pub fn window(_call: &ResolvedAggregate, _args: Vec<(Expr, TypeMod)>, _filter: Option<Expr>, _spec: WindowSpec) -> Result<LoweredAggregate, ValueError> { todo!() }
