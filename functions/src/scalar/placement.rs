//! Which expressions a shard can evaluate for the gateway.
//!
//! A shard knows no session: no settings, no catalog, no clock but the request's. What needs them and no row is computed
//! beforehand (`settle`); what needs them and a row stays in the gateway (`runs_in_shard` is false).

use cortex_shard_api::{Datum, ScalarExpr};

use super::evaluate;
use crate::{
    kernels::Implementation,
    lower::cast_depends_on_session,
    registry::{Volatility, bound_call},
    session::EvalContext,
};

/// Whether a shard gives the expression the meaning that it has in the gateway, once `settle` has run over it.
pub fn runs_in_shard(expr: &ScalarExpr) -> bool {
    !has_column(expr) || (is_known(expr) && children(expr).into_iter().all(runs_in_shard))
}

/// Whether the expression has one value always and everywhere: nothing of the session, the clock or chance is in it.
pub fn is_immutable(expr: &ScalarExpr) -> bool {
    is_known(expr) && children(expr).into_iter().all(is_immutable)
}

/// Whether the expression's own operation means the same everywhere.
fn is_known(expr: &ScalarExpr) -> bool {
    match expr {
        ScalarExpr::Call { function, .. } => runs(function),
        ScalarExpr::IsDistinct { equality, .. } => runs(equality),
        ScalarExpr::Cast { arg, to, .. } => {
            !cast_depends_on_session(arg.ty().ty) && !cast_depends_on_session(to.ty)
        }
        _ => true,
    }
}

fn runs(signature: &str) -> bool {
    bound_call(signature).is_some_and(|call| {
        call.volatility == Volatility::Immutable
            && !matches!(call.implementation, Implementation::Session)
    })
}

/// Replaces every part that needs no row by its value. A part that fails is left as it is: it may never be reached.
pub fn settle(expr: &ScalarExpr, parameters: &[Datum], context: &EvalContext) -> ScalarExpr {
    if matches!(expr, ScalarExpr::Literal { .. }) {
        return expr.clone();
    }
    if !has_column(expr)
        && let Ok(value) = evaluate(expr, &[], parameters, context)
    {
        return ScalarExpr::Literal { value, ty: expr.ty() };
    }
    let mut settled = expr.clone();
    for child in children_mut(&mut settled) {
        *child = settle(child, parameters, context);
    }
    settled
}

fn has_column(expr: &ScalarExpr) -> bool {
    matches!(expr, ScalarExpr::Column { .. }) || children(expr).into_iter().any(has_column)
}

fn children(expr: &ScalarExpr) -> Vec<&ScalarExpr> {
    match expr {
        ScalarExpr::Literal { .. } | ScalarExpr::Column { .. } | ScalarExpr::Parameter { .. } => {
            Vec::new()
        }
        ScalarExpr::Call { args, .. } | ScalarExpr::Coalesce { args, .. } => args.iter().collect(),
        ScalarExpr::And(terms) | ScalarExpr::Or(terms) => terms.iter().collect(),
        ScalarExpr::Array { elements, .. } => elements.iter().collect(),
        ScalarExpr::Cast { arg, .. } | ScalarExpr::Not(arg) | ScalarExpr::IsNull(arg) => vec![arg],
        ScalarExpr::IsDistinct { left, right, .. } => vec![left, right],
        ScalarExpr::Case { branches, otherwise, .. } => {
            let branches = branches.iter().flat_map(|(condition, value)| [condition, value]);
            branches.chain(otherwise.as_deref()).collect()
        }
    }
}

fn children_mut(expr: &mut ScalarExpr) -> Vec<&mut ScalarExpr> {
    match expr {
        ScalarExpr::Literal { .. } | ScalarExpr::Column { .. } | ScalarExpr::Parameter { .. } => {
            Vec::new()
        }
        ScalarExpr::Call { args, .. } | ScalarExpr::Coalesce { args, .. } => {
            args.iter_mut().collect()
        }
        ScalarExpr::And(terms) | ScalarExpr::Or(terms) => terms.iter_mut().collect(),
        ScalarExpr::Array { elements, .. } => elements.iter_mut().collect(),
        ScalarExpr::Cast { arg, .. } | ScalarExpr::Not(arg) | ScalarExpr::IsNull(arg) => vec![arg],
        ScalarExpr::IsDistinct { left, right, .. } => vec![left, right],
        ScalarExpr::Case { branches, otherwise, .. } => {
            let branches = branches.iter_mut().flat_map(|(condition, value)| [condition, value]);
            branches.chain(otherwise.as_deref_mut()).collect()
        }
    }
}
