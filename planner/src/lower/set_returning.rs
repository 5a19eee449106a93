//! Functions that return sets, in FROM and in the select list.
//!
//! Such a call is a List; an Unnest makes its elements rows. Several calls side by side run in step, the shorter ones padded with
//! NULL, as Postgres does.

use cortex_functions::{lower as functions, registry};
use cortex_shard_api::{SqlType, TypeMod};
use datafusion::{
    common::{Column, NullHandling, UnnestOptions},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
};

use super::{
    PlanColumn, engine_error,
    expr::{function_name, lower},
};
use crate::{
    PlanError,
    bind::{
        Binder,
        typed::{Kind, TypedExpr},
    },
};

/// Adds the columns of calls to each row of `input`; rows multiply where a call returns a set. `outer` keeps rows for which all
/// sets are empty.
pub(super) fn expand(
    binder: &mut Binder<'_>,
    input: LogicalPlan,
    calls: &[TypedExpr],
    ordinality: bool,
    outer: bool,
    name: &str,
) -> Result<(LogicalPlan, Vec<PlanColumn>), PlanError> {
    let kept = input.schema().columns();
    let mut exprs: Vec<Expr> = kept.iter().cloned().map(Expr::Column).collect();
    let mut lists = Vec::new();
    let mut found = Vec::new();
    for call in calls {
        let (list, outputs) = call_list(call)?;
        let column = binder.fresh(name);
        let is_set = call.has_set();
        exprs.push(list.clone().alias(&column));
        if is_set {
            lists.push((Column::from_name(&column), list));
        }
        found.push((Column::from_name(&column), outputs));
    }
    let ordinal = binder.fresh("ordinality");
    if ordinality {
        let args = match lists.is_empty() {
            // One row, for a function that returns no set.
            true => Vec::new(),
            false => lists.iter().map(|(_, list)| list.clone()).collect(),
        };
        if args.is_empty() {
            exprs.push(datafusion::logical_expr::lit(1_i64).alias(&ordinal));
        } else {
            exprs.push(functions::ordinality(args).alias(&ordinal));
        }
    }
    let mut unnested: Vec<Column> = lists.into_iter().map(|(column, _)| column).collect();
    if ordinality && !unnested.is_empty() {
        unnested.push(Column::from_name(&ordinal));
    }
    let mut builder = LogicalPlanBuilder::from(input).project(exprs).map_err(engine_error)?;
    if !unnested.is_empty() {
        let null_handling =
            if outer { NullHandling::PreserveAndExpandEmpty } else { NullHandling::Drop };
        let options = UnnestOptions { null_handling, recursions: Vec::new() };
        builder = builder.unnest_columns_with_options(unnested, options).map_err(engine_error)?;
    }
    let mut columns = Vec::new();
    let mut fields: Vec<Expr> = kept.into_iter().map(Expr::Column).collect();
    let mut has_records = false;
    for (column, outputs) in found {
        match outputs.as_slice() {
            [(name, ty)] => {
                fields.push(Expr::Column(column.clone()));
                columns.push(plan_column(name, *ty, column));
            }
            many => {
                has_records = true;
                for (name, ty) in many {
                    let own = binder.fresh(name);
                    let field = datafusion::functions::core::expr_fn::get_field(
                        Expr::Column(column.clone()),
                        name.as_str(),
                    );
                    fields.push(field.alias(&own));
                    columns.push(plan_column(name, *ty, Column::from_name(&own)));
                }
            }
        }
    }
    if ordinality {
        fields.push(Expr::Column(Column::from_name(&ordinal)));
        let ty = TypeMod::plain(SqlType::Int8);
        columns.push(plan_column("ordinality", ty, Column::from_name(&ordinal)));
    }
    if has_records {
        builder = builder.project(fields).map_err(engine_error)?;
    }
    Ok((builder.build().map_err(engine_error)?, columns))
}

fn plan_column(name: &str, ty: TypeMod, column: Column) -> PlanColumn {
    PlanColumn { name: name.to_owned(), ty, column, source: (0, 0) }
}

/// The List of a call (or the value of one that returns no set), and the columns that come of it.
fn call_list(expr: &TypedExpr) -> Result<(Expr, Vec<(String, TypeMod)>), PlanError> {
    if let Kind::Call { call, args } = &expr.kind
        && call.returns_set
    {
        if args.iter().any(TypedExpr::has_set) {
            return Err(PlanError::unsupported(
                "set-returning functions inside each other are not supported",
                "Call the inner one in FROM.",
            )
            .at(expr.position));
        }
        let args = args
            .iter()
            .map(|arg| Ok((lower(arg)?, arg.ty)))
            .collect::<Result<Vec<_>, PlanError>>()?;
        let columns: Vec<(String, TypeMod)> = registry::set_columns(call)
            .into_iter()
            .map(|(name, ty)| (name, TypeMod::plain(ty)))
            .collect();
        let list = match columns.len() {
            1 => functions::call(call, args),
            _ => functions::record_set(&call.signature, args, &columns),
        };
        return Ok((list, columns));
    }
    let name = match &expr.kind {
        Kind::Call { call, .. } => function_name(&call.signature).to_owned(),
        _ => "value".to_owned(),
    };
    Ok((lower(expr)?, vec![(name, expr.ty)]))
}

impl Binder<'_> {
    /// Unnests the set-returning calls inside expressions, which then name columns instead.
    pub(super) fn expand_sets(
        &mut self,
        plan: LogicalPlan,
        exprs: &mut [&mut TypedExpr],
    ) -> Result<LogicalPlan, PlanError> {
        let mut calls = Vec::new();
        for expr in exprs.iter() {
            collect_sets(expr, &mut calls);
        }
        if calls.is_empty() {
            return Ok(plan);
        }
        let (plan, columns) = expand(self, plan, &calls, false, false, "set")?;
        if columns.len() != calls.len() {
            return Err(PlanError::unsupported(
                "functions that return records are not supported in the select list",
                "Call them in FROM.",
            )
            .at(calls[0].position));
        }
        let mut next = columns.into_iter();
        for expr in exprs.iter_mut() {
            replace_sets(expr, &mut next);
        }
        Ok(plan)
    }
}

fn is_set(expr: &TypedExpr) -> bool {
    matches!(&expr.kind, Kind::Call { call, .. } if call.returns_set)
}

fn collect_sets(expr: &TypedExpr, calls: &mut Vec<TypedExpr>) {
    if is_set(expr) {
        calls.push(expr.clone());
        return;
    }
    expr.children().into_iter().for_each(|child| collect_sets(child, calls));
}

/// In the order of `collect_sets`.
fn replace_sets(expr: &mut TypedExpr, columns: &mut impl Iterator<Item = PlanColumn>) {
    if is_set(expr) {
        if let Some(column) = columns.next() {
            expr.kind = Kind::Plan(Expr::Column(column.column));
        }
        return;
    }
    expr.children_mut().into_iter().for_each(|child| replace_sets(child, columns));
}
