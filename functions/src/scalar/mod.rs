//! Evaluates `ScalarExpr` over one row, with Postgres's meaning: the fast path, checks, defaults and constant folding.

use std::cmp::Ordering;

use cortex_shard_api::{
    Datum, ScalarExpr, SqlType, TypeMod, ValueError, ValueErrorKind, client::Row, value::ArrayValue,
};

use crate::{
    kernels::{self, Call, Implementation},
    registry::{BoundCall, Volatility, bound_call},
    session::EvalContext,
};

mod cast;
mod placement;

pub use cast::cast;
pub(crate) use cast::{cast_value, midnight};
pub use placement::{is_immutable, runs_in_shard, settle};

/// Nesting of scalar expressions at the most.
pub const DEPTH_MAX: usize = 1000;

/// The value of an expression. `row` has the columns that `Column` positions mean, `parameters` the values of `$1`...
pub fn evaluate(
    expr: &ScalarExpr,
    row: &[Datum],
    parameters: &[Datum],
    context: &EvalContext,
) -> Result<Datum, ValueError> {
    let eval = |expr: &ScalarExpr| evaluate(expr, row, parameters, context);
    match expr {
        ScalarExpr::Literal { value, .. } => Ok(value.clone()),
        ScalarExpr::Column { position, .. } => row.get(*position).cloned().ok_or_else(|| {
            internal(format!("column {position} of a row with {} columns", row.len()))
        }),
        ScalarExpr::Parameter { index, .. } => parameters
            .get(*index)
            .cloned()
            .ok_or_else(|| internal(format!("there is no parameter ${}", index + 1))),
        ScalarExpr::Call { function, args, .. } => {
            let call = bound_call(function).ok_or_else(|| unknown_signature(function))?;
            let args = args.iter().map(eval).collect::<Result<Vec<_>, _>>()?;
            dispatch(&call, &args, context)
        }
        ScalarExpr::Cast { arg, to, explicit } => {
            cast(eval(arg)?, arg.ty(), *to, *explicit, context)
        }
        ScalarExpr::And(terms) => connect(terms, false, eval),
        ScalarExpr::Or(terms) => connect(terms, true, eval),
        ScalarExpr::Not(arg) => Ok(match eval(arg)? {
            Datum::Bool(value) => Datum::Bool(!value),
            _ => Datum::Null,
        }),
        ScalarExpr::IsNull(arg) => Ok(Datum::Bool(matches!(eval(arg)?, Datum::Null))),
        ScalarExpr::Case { branches, otherwise, .. } => {
            for (condition, value) in branches {
                if matches!(eval(condition)?, Datum::Bool(true)) {
                    return eval(value);
                }
            }
            otherwise.as_ref().map_or(Ok(Datum::Null), |otherwise| eval(otherwise))
        }
        ScalarExpr::Coalesce { args, .. } => {
            for arg in args {
                let value = eval(arg)?;
                if !matches!(value, Datum::Null) {
                    return Ok(value);
                }
            }
            Ok(Datum::Null)
        }
        ScalarExpr::IsDistinct { left, right, negated, equality } => {
            let (left, right) = (eval(left)?, eval(right)?);
            let distinct = match (&left, &right) {
                (Datum::Null, Datum::Null) => false,
                (Datum::Null, _) | (_, Datum::Null) => true,
                _ => {
                    let call = bound_call(equality).ok_or_else(|| unknown_signature(equality))?;
                    !matches!(dispatch(&call, &[left, right], context)?, Datum::Bool(true))
                }
            };
            Ok(Datum::Bool(distinct != *negated))
        }
        ScalarExpr::Array { elements, ty } => {
            let element =
                ty.ty.element().ok_or_else(|| internal("an array needs an array type"))?;
            let elements = elements.iter().map(eval).collect::<Result<Vec<_>, _>>()?;
            if elements.iter().any(|value| matches!(value, Datum::Array(_))) {
                return Err(ValueError::new(
                    ValueErrorKind::Unsupported,
                    "multidimensional arrays are not supported",
                )
                .with_hint("Use one dimension, or jsonb."));
            }
            Ok(Datum::Array(Box::new(ArrayValue { element, lower_bound: 1, elements })))
        }
    }
}

/// AND and OR with three values; stops at the first term that decides.
fn connect(
    terms: &[ScalarExpr],
    decides: bool,
    eval: impl Fn(&ScalarExpr) -> Result<Datum, ValueError>,
) -> Result<Datum, ValueError> {
    let mut unknown = false;
    for term in terms {
        match eval(term)? {
            Datum::Bool(value) if value == decides => return Ok(Datum::Bool(decides)),
            Datum::Null => unknown = true,
            _ => {}
        }
    }
    Ok(if unknown { Datum::Null } else { Datum::Bool(!decides) })
}

fn internal(message: impl Into<String>) -> ValueError {
    ValueError::new(ValueErrorKind::Internal, message)
}

fn unknown_signature(signature: &str) -> ValueError {
    internal(format!("there is no function with the signature {signature}"))
}

/// Runs a call's kernel on evaluated arguments.
pub(crate) fn dispatch(
    call: &BoundCall,
    args: &[Datum],
    context: &EvalContext,
) -> Result<Datum, ValueError> {
    if call.strict && args.iter().any(|arg| matches!(arg, Datum::Null)) {
        return Ok(Datum::Null);
    }
    let kernel_call = Call { context, args: &call.args, returns: call.returns };
    match call.implementation {
        Implementation::Scalar(kernel) => kernel(&kernel_call, args),
        Implementation::Compare(comparison) => {
            kernels::compare::holds(&kernel_call, args, comparison).map(Datum::Bool)
        }
        Implementation::ArrayComparison { all } => array_comparison(call, args, all, context),
        Implementation::Cast => {
            cast_value(args[0].clone(), call.args[0], call.returns, true, context)
        }
        Implementation::Session => match &context.session {
            Some(session) => session.call(&call.signature, args),
            None => Err(ValueError::new(
                ValueErrorKind::Unsupported,
                format!("function {} needs a session", call.name),
            )),
        },
        Implementation::Set(_) => Err(ValueError::new(
            ValueErrorKind::Unsupported,
            "set-valued function called in context that cannot accept a set",
        )),
        Implementation::Aggregate | Implementation::Window => {
            Err(internal(format!("{} is no scalar function", call.signature)))
        }
    }
}

fn array_comparison(
    call: &BoundCall,
    args: &[Datum],
    all: bool,
    context: &EvalContext,
) -> Result<Datum, ValueError> {
    let inner = call.inner.as_ref().ok_or_else(|| unknown_signature(&call.signature))?;
    let Datum::Array(array) = &args[1] else { return Ok(Datum::Null) };
    let mut unknown = false;
    let mut pair = [args[0].clone(), Datum::Null];
    for element in &array.elements {
        pair[1] = element.clone();
        match dispatch(inner, &pair, context)? {
            Datum::Bool(value) if value != all => return Ok(Datum::Bool(!all)),
            Datum::Null => unknown = true,
            _ => {}
        }
    }
    Ok(if unknown { Datum::Null } else { Datum::Bool(all) })
}

/// Evaluates a constant expression to a value (`None` if it has columns, parameters or volatile calls).
pub fn fold(expr: &ScalarExpr, context: &EvalContext) -> Option<Result<Datum, ValueError>> {
    is_constant(expr, context).then(|| evaluate(expr, &[], &[], context))
}

fn is_constant(expr: &ScalarExpr, context: &EvalContext) -> bool {
    let all = |exprs: &[ScalarExpr]| exprs.iter().all(|expr| is_constant(expr, context));
    match expr {
        ScalarExpr::Literal { .. } => true,
        ScalarExpr::Column { .. } | ScalarExpr::Parameter { .. } => false,
        ScalarExpr::Call { function, args, .. } => {
            bound_call(function).is_some_and(|call| {
                call.volatility != Volatility::Volatile
                    && (context.session.is_some()
                        || !matches!(call.implementation, Implementation::Session))
            }) && all(args)
        }
        ScalarExpr::Cast { arg, .. } | ScalarExpr::Not(arg) | ScalarExpr::IsNull(arg) => {
            is_constant(arg, context)
        }
        ScalarExpr::And(terms) | ScalarExpr::Or(terms) => all(terms),
        ScalarExpr::Case { branches, otherwise, .. } => {
            branches.iter().all(|(condition, value)| {
                is_constant(condition, context) && is_constant(value, context)
            }) && otherwise.as_ref().is_none_or(|otherwise| is_constant(otherwise, context))
        }
        ScalarExpr::Coalesce { args, .. } => all(args),
        ScalarExpr::IsDistinct { left, right, .. } => {
            is_constant(left, context) && is_constant(right, context)
        }
        ScalarExpr::Array { elements, .. } => all(elements),
    }
}

/// Orders two values of one type as ORDER BY ASC does (Nulls last), for merges and tests.
pub fn compare(left: &Datum, right: &Datum, ty: SqlType) -> Ordering {
    thread_local! {
        static CONTEXT: EvalContext = EvalContext::default();
    }
    CONTEXT.with(|context| kernels::compare::compare(left, ty, right, ty, context))
}

/// The rows of a set-returning function over constant arguments, as FROM needs them.
pub fn set_returning(
    signature: &str,
    args: &[Datum],
    context: &EvalContext,
) -> Result<Vec<Row>, ValueError> {
    let call = bound_call(signature).ok_or_else(|| unknown_signature(signature))?;
    set_rows(&call, args, context)
}

pub(crate) fn set_rows(
    call: &BoundCall,
    args: &[Datum],
    context: &EvalContext,
) -> Result<Vec<Row>, ValueError> {
    let Implementation::Set(kernel) = call.implementation else {
        return Ok(vec![vec![dispatch(call, args, context)?]]);
    };
    if call.strict && args.iter().any(|arg| matches!(arg, Datum::Null)) {
        return Ok(Vec::new());
    }
    kernel(&Call { context, args: &call.args, returns: call.returns }, args)
}

/// A value cast to a type without modifier by the rules of implicit casts.
pub fn coerce(
    value: Datum,
    from: SqlType,
    to: SqlType,
    context: &EvalContext,
) -> Result<Datum, ValueError> {
    cast(value, TypeMod::plain(from), TypeMod::plain(to), false, context)
}
