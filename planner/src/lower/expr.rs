//! Typed expressions as DataFusion expressions.
//!
//! Everything is typed already; nothing here chooses a type. Subqueries that only joins can compute were replaced by
//! `lower::subquery` before; what is left of them here is what DataFusion decorrelates by itself.

use std::sync::Arc;

use cortex_functions::{lower as functions, registry::ResolvedCall};
use cortex_shard_api::{Datum, SqlType, TypeMod, ValueErrorKind, value::arrow};
use datafusion::{
    common::Spans,
    logical_expr::{
        BinaryExpr, Case, Expr, LogicalPlan, Operator, Subquery, expr::InList, expr::InSubquery,
        expr::Placeholder, lit,
    },
};

use super::project;
use crate::{
    PlanError, PlanErrorKind,
    bind::typed::{Kind, SubqueryExpr, SubqueryKind, TypedExpr},
};

const STACK_RED_ZONE: usize = 256 * 1024;
const STACK_SEGMENT: usize = 4 * 1024 * 1024;

/// The expression over the plan whose columns it names.
pub(crate) fn lower(expr: &TypedExpr) -> Result<Expr, PlanError> {
    stacker::maybe_grow(STACK_RED_ZONE, STACK_SEGMENT, || lower_form(expr))
        .map_err(|error| error.at(expr.position))
}

pub(crate) fn lower_all(exprs: &[TypedExpr]) -> Result<Vec<Expr>, PlanError> {
    exprs.iter().map(lower).collect()
}

/// What equality, grouping and order compare.
pub(crate) fn key(expr: &TypedExpr) -> Result<Expr, PlanError> {
    Ok(functions::comparison_key(lower(expr)?, expr.ty.ty))
}

fn lower_form(expr: &TypedExpr) -> Result<Expr, PlanError> {
    match &expr.kind {
        Kind::Literal(value) => Ok(functions::literal(value, expr.ty.ty)?),
        Kind::Column { column, level: 0 } => Ok(Expr::Column(column.column.clone())),
        Kind::Column { column, level: 1 } => {
            let field = arrow::field(&column.column.name, expr.ty, true);
            Ok(Expr::OuterReferenceColumn(Arc::new(field), column.column.clone()))
        }
        Kind::Column { .. } => Err(PlanError::unsupported(
            "a subquery that refers to a query more than one level up is not supported",
            "Join the tables, or pass the column through the query between.",
        )),
        Kind::Parameter(index) => {
            let field = arrow::field("", expr.ty, true);
            Ok(Expr::Placeholder(Placeholder {
                id: format!("${}", index + 1),
                field: Some(Arc::new(field)),
            }))
        }
        Kind::Call { call, args } if call.returns_set => Err(PlanError::unsupported(
            format!(
                "set-returning function {} is not allowed here",
                function_name(&call.signature)
            ),
            "Call it in FROM.",
        ))
        .map_err(|error| error.at(args.first().and_then(|arg| arg.position))),
        Kind::Call { call, args } => lower_call(call, args),
        Kind::Cast { arg, explicit } => {
            Ok(functions::cast(lower(arg)?, arg.ty, expr.ty, *explicit))
        }
        Kind::And(terms) => Ok(balanced(Operator::And, lower_all(terms)?)),
        Kind::Or(terms) => Ok(balanced(Operator::Or, lower_all(terms)?)),
        Kind::Not(arg) => Ok(lower_not(arg)?),
        Kind::IsNull(arg) => Ok(lower(arg)?.is_null()),
        Kind::Case { branches, otherwise } => lower_case(branches, otherwise.as_deref()),
        Kind::Coalesce(args) => match args.as_slice() {
            [only] => lower(only),
            _ => Ok(datafusion::functions::core::expr_fn::coalesce(lower_all(args)?)),
        },
        Kind::IsDistinct { left, right, negated, equality } => {
            lower_is_distinct(left, right, *negated, equality)
        }
        Kind::Array(elements) => lower_array(elements, expr.ty),
        Kind::InList { expr: left, list, equality } => lower_in_list(left, list, equality),
        Kind::Quantified { left, array, call, all } => Ok(functions::quantified(
            call,
            *all,
            (lower(left)?, left.ty),
            (lower(array)?, array.ty),
        )),
        Kind::Subquery(subquery) => lower_subquery(subquery),
        Kind::Plan(expr) => Ok(expr.clone()),
        Kind::Row(_) => Err(PlanError::unsupported(
            "row values are only supported in comparisons",
            "Compare rows with =, <, IN, or select their columns one by one.",
        )),
        Kind::Aggregate(_) | Kind::Window(_) | Kind::Grouping(_) => Err(PlanError::new(
            PlanErrorKind::Internal,
            "aggregate or window function was not planned",
        )),
    }
}

pub(crate) fn function_name(signature: &str) -> &str {
    signature.split('(').next().unwrap_or(signature)
}

fn lower_call(call: &Arc<ResolvedCall>, args: &[TypedExpr]) -> Result<Expr, PlanError> {
    let args =
        args.iter().map(|arg| Ok((lower(arg)?, arg.ty))).collect::<Result<Vec<_>, PlanError>>()?;
    Ok(functions::call(call, args))
}

fn lower_not(arg: &TypedExpr) -> Result<Expr, PlanError> {
    Ok(match &arg.kind {
        Kind::IsNull(inner) => lower(inner)?.is_not_null(),
        Kind::InList { expr, list, equality } => match lower_in_list(expr, list, equality)? {
            Expr::InList(list) => Expr::InList(InList { negated: !list.negated, ..list }),
            other => Expr::Not(Box::new(other)),
        },
        _ => Expr::Not(Box::new(lower(arg)?)),
    })
}

fn lower_case(
    branches: &[(TypedExpr, TypedExpr)],
    otherwise: Option<&TypedExpr>,
) -> Result<Expr, PlanError> {
    let when_then_expr = branches
        .iter()
        .map(|(condition, value)| Ok((Box::new(lower(condition)?), Box::new(lower(value)?))))
        .collect::<Result<Vec<_>, PlanError>>()?;
    let else_expr = match otherwise {
        Some(otherwise) => Some(Box::new(lower(otherwise)?)),
        None => None,
    };
    Ok(Expr::Case(Case { expr: None, when_then_expr, else_expr }))
}

/// A chain as a tree of logarithmic depth: thousands of terms must not nest.
pub(crate) fn balanced(op: Operator, mut terms: Vec<Expr>) -> Expr {
    while terms.len() > 1 {
        let mut halved = Vec::with_capacity(terms.len().div_ceil(2));
        let mut pending = terms.into_iter();
        while let Some(left) = pending.next() {
            halved.push(match pending.next() {
                Some(right) => {
                    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
                }
                None => left,
            });
        }
        terms = halved;
    }
    terms.pop().unwrap_or_else(|| lit(op == Operator::And))
}

fn lower_is_distinct(
    left: &TypedExpr,
    right: &TypedExpr,
    negated: bool,
    equality: &Arc<ResolvedCall>,
) -> Result<Expr, PlanError> {
    let left_expr = lower(left)?;
    let right_expr = lower(right)?;
    let equal = functions::call(
        equality,
        vec![(left_expr.clone(), left.ty), (right_expr.clone(), right.ty)],
    );
    if let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = equal {
        let op = if negated { Operator::IsNotDistinctFrom } else { Operator::IsDistinctFrom };
        return Ok(Expr::BinaryExpr(BinaryExpr { left, op, right }));
    }
    let distinct = Expr::Case(Case {
        expr: None,
        when_then_expr: vec![
            (Box::new(left_expr.clone().is_null()), Box::new(right_expr.clone().is_not_null())),
            (Box::new(right_expr.is_null()), Box::new(lit(true))),
        ],
        else_expr: Some(Box::new(Expr::Not(Box::new(equal)))),
    });
    Ok(if negated { Expr::Not(Box::new(distinct)) } else { distinct })
}

fn lower_array(elements: &[TypedExpr], ty: TypeMod) -> Result<Expr, PlanError> {
    let element = ty.ty.element().unwrap_or(SqlType::Text);
    let constants: Option<Vec<Datum>> = elements
        .iter()
        .map(|item| match &item.kind {
            Kind::Literal(value) => Some(value.clone()),
            _ => None,
        })
        .collect();
    if let Some(elements) = constants {
        let value = cortex_shard_api::value::ArrayValue { element, lower_bound: 1, elements };
        return Ok(functions::literal(&Datum::Array(Box::new(value)), ty.ty)?);
    }
    Ok(datafusion::functions_nested::make_array::make_array(lower_all(elements)?))
}

/// A native IN list where equality is native; pushdown and pruning understand it.
fn lower_in_list(
    left: &TypedExpr,
    list: &[TypedExpr],
    equality: &Arc<ResolvedCall>,
) -> Result<Expr, PlanError> {
    let left_expr = lower(left)?;
    let mut terms = Vec::with_capacity(list.len());
    let mut common: Option<Expr> = None;
    let mut items = Vec::with_capacity(list.len());
    for item in list {
        let args = vec![(left_expr.clone(), left.ty), (lower(item)?, item.ty)];
        let equal = functions::call(equality, args);
        if let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = &equal
            && common.as_ref().is_none_or(|common| common == &**left)
        {
            common.get_or_insert_with(|| (**left).clone());
            items.push((**right).clone());
        }
        terms.push(equal);
    }
    match common {
        Some(common) if items.len() == terms.len() && items.len() > 1 => {
            Ok(Expr::InList(InList { expr: Box::new(common), list: items, negated: false }))
        }
        _ => Ok(balanced(Operator::Or, terms)),
    }
}

/// A subquery node over a plan, with the outer columns it uses.
pub(crate) fn subquery_node(plan: Arc<LogicalPlan>) -> Subquery {
    let outer_ref_columns = plan.all_out_ref_exprs();
    Subquery { subquery: plan, outer_ref_columns, spans: Spans::new() }
}

fn lower_subquery(subquery: &SubqueryExpr) -> Result<Expr, PlanError> {
    match &subquery.kind {
        SubqueryKind::Scalar | SubqueryKind::Array => {
            Ok(Expr::ScalarSubquery(subquery_node(subquery.plan.clone())))
        }
        SubqueryKind::Exists | SubqueryKind::Quantified { .. } => Err(PlanError::unsupported(
            "EXISTS and IN subqueries are not supported in this place",
            "Move the condition to WHERE, or join with the subquery.",
        )),
    }
}

/// A top-level term of a WHERE clause, where DataFusion makes joins of subqueries and only truth counts.
pub(crate) fn lower_native_subquery(term: &TypedExpr) -> Result<Option<Expr>, PlanError> {
    let (inner, negated) = match &term.kind {
        Kind::Not(inner) => (&**inner, true),
        _ => (term, false),
    };
    let Kind::Subquery(subquery) = &inner.kind else { return Ok(None) };
    match &subquery.kind {
        SubqueryKind::Exists => Ok(Some(Expr::Exists(datafusion::logical_expr::expr::Exists {
            subquery: subquery_node(subquery.plan.clone()),
            negated,
        }))),
        SubqueryKind::Quantified { left, comparisons, right, all: false } => {
            let ([left], [equality], [right]) =
                (left.as_slice(), comparisons.as_slice(), right.as_slice())
            else {
                return Ok(None);
            };
            // NULLs make NOT IN of a correlated subquery more than an anti join.
            if left.has_subquery() || (negated && !subquery.outer.is_empty()) {
                return Ok(None);
            }
            let args = vec![(lower(left)?, left.ty), (lower(right)?, right.ty)];
            let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) =
                functions::call(equality, args)
            else {
                return Ok(None);
            };
            let plan = project(subquery.plan.as_ref().clone(), vec![right.alias("in_key")])?;
            Ok(Some(Expr::InSubquery(InSubquery {
                expr: left,
                subquery: subquery_node(Arc::new(plan)),
                negated,
            })))
        }
        SubqueryKind::Quantified { .. } | SubqueryKind::Scalar | SubqueryKind::Array => Ok(None),
    }
}

/// A row count that a client gave, as LIMIT and OFFSET want it.
pub(crate) fn check_count(value: &Datum, clause: &str) -> Result<(), PlanError> {
    match value {
        Datum::Int8(count) if *count < 0 => Err(PlanError::new(
            PlanErrorKind::Value(match clause {
                "OFFSET" => ValueErrorKind::InvalidRowOffset,
                _ => ValueErrorKind::InvalidRowCount,
            }),
            format!("{clause} must not be negative"),
        )),
        _ => Ok(()),
    }
}
