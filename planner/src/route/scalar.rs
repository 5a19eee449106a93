//! What a scalar predicate says about a table's columns: the fast path's and DML's side of `predicate`.
//!
//! Constant parts are evaluated here, with the statement's parameters.

use cortex_functions::{registry::type_by_name, scalar::evaluate, session::EvalContext};
use cortex_shard_api::{Datum, ScalarExpr, SqlType, TableDescriptor};

use super::{
    domain::{Comparison, Constraint, Domain},
    predicate::integer_domain,
};

/// What routing knows besides the predicate.
struct Scope<'a> {
    table: &'a TableDescriptor,
    parameters: &'a [Datum],
    context: &'a EvalContext,
}

/// What holds of the rows for which the predicate is true.
pub fn constraint(
    table: &TableDescriptor,
    predicate: &ScalarExpr,
    parameters: &[Datum],
    context: &EvalContext,
) -> Constraint {
    let scope = Scope { table, parameters, context };
    known(&scope, predicate).unwrap_or_else(Constraint::everything)
}

/// `None`: nothing is known. The binder bounds the depth.
fn known(scope: &Scope<'_>, predicate: &ScalarExpr) -> Option<Constraint> {
    let deeper = |expr: &ScalarExpr| known(scope, expr).unwrap_or_else(Constraint::everything);
    match predicate {
        ScalarExpr::And(parts) => {
            Some(parts.iter().fold(Constraint::everything(), |all, part| all.and(deeper(part))))
        }
        ScalarExpr::Or(parts) => Some(Constraint::any(parts.iter().map(deeper).collect())),
        ScalarExpr::IsNull(arg) => Some(Constraint::column(column(scope, arg)?.0, Domain::null())),
        ScalarExpr::Not(arg) => match arg.as_ref() {
            ScalarExpr::IsNull(arg) => {
                Some(Constraint::column(column(scope, arg)?.0, Domain::not_null()))
            }
            _ => boolean(scope, arg, false),
        },
        ScalarExpr::Column { .. } => boolean(scope, predicate, true),
        ScalarExpr::Call { function, args, .. } => {
            let [left, right] = args.as_slice() else { return None };
            let comparison = comparison(function)?;
            compare(scope, left, comparison, right)
                .or_else(|| compare(scope, right, comparison.flipped(), left))
        }
        ScalarExpr::Literal { .. } | ScalarExpr::Parameter { .. } => {
            match constant(scope, predicate)? {
                Datum::Bool(true) => None,
                _ => Some(Constraint::nothing()),
            }
        }
        ScalarExpr::Cast { .. }
        | ScalarExpr::Case { .. }
        | ScalarExpr::Coalesce { .. }
        | ScalarExpr::IsDistinct { .. }
        | ScalarExpr::Array { .. } => None,
    }
}

fn column(scope: &Scope<'_>, expr: &ScalarExpr) -> Option<(usize, SqlType)> {
    match expr {
        ScalarExpr::Column { position, .. } => {
            Some((*position, scope.table.columns.get(*position)?.ty.ty))
        }
        // Widening an integer, and going between text and varchar, keep the value.
        ScalarExpr::Cast { arg, to, .. } if to.typmod < 0 => {
            let (position, ty) = column(scope, arg)?;
            let kept = (ty.is_integer() && to.ty.is_integer()) || (is_text(ty) && is_text(to.ty));
            kept.then_some((position, ty))
        }
        _ => None,
    }
}

fn is_text(ty: SqlType) -> bool {
    matches!(ty, SqlType::Text | SqlType::Varchar)
}

fn boolean(scope: &Scope<'_>, expr: &ScalarExpr, value: bool) -> Option<Constraint> {
    let (position, _) = column(scope, expr).filter(|(_, ty)| *ty == SqlType::Bool)?;
    let domain = Domain::compare(Comparison::Equal, &Datum::Bool(value), SqlType::Bool);
    Some(Constraint::column(position, domain))
}

/// A comparison by its signature, `int4eq(int4,int4)`: Postgres ends the names of all of them alike. Both sides must be of one
/// type, or both integers, or both text, so that the order is that of keys.
pub fn comparison(signature: &str) -> Option<Comparison> {
    let (name, args) = signature.strip_suffix(')')?.split_once('(')?;
    let (left, right) = args.split_once(',')?;
    let (left, right) = (type_by_name(left)?, type_by_name(right)?);
    let comparable = left == right
        || (left.is_integer() && right.is_integer())
        || (is_text(left) && is_text(right));
    if !comparable || name.contains("like") || name.contains("pattern") {
        return None;
    }
    let endings = [
        ("eq", Comparison::Equal),
        ("ne", Comparison::NotEqual),
        ("lt", Comparison::Less),
        ("le", Comparison::LessOrEqual),
        ("gt", Comparison::Greater),
        ("ge", Comparison::GreaterOrEqual),
    ];
    endings.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, comparison)| *comparison)
}

fn compare(
    scope: &Scope<'_>,
    left: &ScalarExpr,
    comparison: Comparison,
    right: &ScalarExpr,
) -> Option<Constraint> {
    let (position, ty) = column(scope, left)?;
    let value = constant(scope, right)?;
    if matches!(value, Datum::Null) {
        return Some(Constraint::nothing());
    }
    let domain = match value {
        Datum::Int2(value) if ty.is_integer() => integer_domain(ty, comparison, value.into()),
        Datum::Int4(value) if ty.is_integer() => integer_domain(ty, comparison, value.into()),
        Datum::Int8(value) if ty.is_integer() => integer_domain(ty, comparison, value),
        value => {
            let right_ty = right.ty().ty;
            let same = right_ty == ty || (is_text(ty) && is_text(right_ty));
            if !same || !has_key_order(ty) {
                return None;
            }
            Domain::compare(comparison, &value, ty)
        }
    };
    Some(Constraint::column(position, domain))
}

/// Types whose comparison is the order of their keys.
fn has_key_order(ty: SqlType) -> bool {
    !matches!(
        ty,
        SqlType::Json | SqlType::Unknown | SqlType::Void | SqlType::Record | SqlType::Array(_)
    )
}

/// The value of an expression without columns; `None` if it has some, or fails.
fn constant(scope: &Scope<'_>, expr: &ScalarExpr) -> Option<Datum> {
    if !is_constant(expr) {
        return None;
    }
    evaluate(expr, &[], scope.parameters, scope.context).ok()
}

/// Literals, parameters and casts of them. Calls are left alone: a volatile one must not run here too.
fn is_constant(expr: &ScalarExpr) -> bool {
    match expr {
        ScalarExpr::Literal { .. } | ScalarExpr::Parameter { .. } => true,
        ScalarExpr::Cast { arg, .. } => is_constant(arg),
        _ => false,
    }
}
