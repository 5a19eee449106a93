//! Resolved calls, casts and aggregates as DataFusion expressions.
//!
//! Lives here: what becomes native DataFusion (comparisons, LIKE, widening casts), what has a vectorized function of ours
//! (`arithmetic`, `keys`), and the row-by-row adapter around a kernel for everything else (`udf`). Not here: meaning; the
//! kernels have it, and tests compare both.

use cortex_shard_api::{
    Datum, SqlType, TypeMod, ValueError, ValueErrorKind,
    value::arrow::{array_from_datums, arrow_type},
};
use datafusion::{
    common::ScalarValue,
    logical_expr::{BinaryExpr, Expr, Like, Operator, ScalarUDF, Volatility, cast as native_cast},
};

use crate::{
    kernels::{Comparison, Implementation},
    registry::{BoundCall, ResolvedCall, bound_call},
};

mod accumulate;
mod aggregate;
mod arithmetic;
mod cast;
mod finish;
mod keys;
mod ordinality;
mod quantified;
mod record_set;
mod single_value;
mod udf;
mod window;

pub(crate) use aggregate::implemented as aggregate_implemented;
pub use aggregate::{LoweredAggregate, aggregate};
pub use cast::cast;
pub(crate) use cast::depends_on_session as cast_depends_on_session;
pub use keys::{comparison_key, comparison_key_argument};
pub use ordinality::ordinality;
pub use quantified::quantified;
pub use record_set::record_set;
pub use single_value::single_value;
pub use udf::value_error;
pub use window::{WindowSpec, window};

/// What `codec` names functions by.
pub(crate) mod parts {
    pub(crate) use super::{
        accumulate::{OrderedBy, StateUdaf, function as state_function},
        arithmetic::{ArithmeticUdf, find as arithmetic},
        cast::CastUdf,
        finish::{FinishUdf, Step},
        keys::KeyUdf,
        ordinality::Ordinality,
        quantified::Quantified,
        record_set::RecordSet,
        single_value::SingleValue,
        udf::KernelUdf,
    };
}

/// Whether a function gives in a shard what it gives in the gateway: it is not volatile (which would run once for each row,
/// wherever that is counted) and asks neither session nor catalog. Settings and the clock are part of the call.
pub fn runs_in_shard(function: &ScalarUDF) -> bool {
    let inner: &dyn std::any::Any = function.inner().as_ref();
    if let Some(kernel) = inner.downcast_ref::<udf::KernelUdf>() {
        return kernel.runs_in_shard();
    }
    match inner.downcast_ref::<cast::CastUdf>() {
        Some(cast) => cast.runs_in_shard(),
        None => function.signature().volatility != Volatility::Volatile,
    }
}

/// A call whose arguments already have `call.arg_types`. Comparisons and LIKE become native DataFusion expressions where their
/// meaning is the same, so that pushdown and pruning see them.
/// A set-returning function yields a List of its rows' values, for the binder to unnest.
pub fn call(call: &ResolvedCall, args: Vec<(Expr, TypeMod)>) -> Expr {
    let Some(bound) = bound_call(&call.signature) else {
        // The registry made this signature itself; a missing one shows as an error when it runs.
        return udf::missing(&call.signature, arrow_type(call.returns));
    };
    let exprs = args.into_iter().map(|(expr, _)| expr).collect::<Vec<_>>();
    if let Implementation::Compare(comparison) = bound.implementation
        && let [left, right] = &exprs[..]
        && let Some(native) = native_comparison(comparison, &bound, left, right)
    {
        return native;
    }
    if let Some(like) = native_like(&bound, &exprs) {
        return like;
    }
    if let Some(vectorized) = arithmetic::find(&bound) {
        return vectorized.call(exprs);
    }
    ScalarUDF::from(udf::KernelUdf::new(bound)).call(exprs)
}

/// A constant of a type.
pub fn literal(value: &Datum, ty: SqlType) -> Result<Expr, ValueError> {
    let array = array_from_datums(ty, std::slice::from_ref(value))?;
    let scalar = ScalarValue::try_from_array(&array, 0).map_err(|error| {
        ValueError::new(
            ValueErrorKind::Internal,
            format!("a constant of {}: {error}", ty.sql_name()),
        )
    })?;
    Ok(Expr::Literal(scalar, None))
}

fn operator(comparison: Comparison) -> Operator {
    match comparison {
        Comparison::Eq => Operator::Eq,
        Comparison::NotEq => Operator::NotEq,
        Comparison::Lt => Operator::Lt,
        Comparison::LtEq => Operator::LtEq,
        Comparison::Gt => Operator::Gt,
        Comparison::GtEq => Operator::GtEq,
    }
}

/// The native form of a comparison, where Arrow orders values (or their keys) as Postgres does.
fn native_comparison(
    comparison: Comparison,
    call: &BoundCall,
    left: &Expr,
    right: &Expr,
) -> Option<Expr> {
    let (l, r) = (call.args[0], call.args[1]);
    let (left, right) = if l == r || (l.is_oid_like() && r.is_oid_like()) || both_text(l, r) {
        (comparison_key(left.clone(), l), comparison_key(right.clone(), r))
    } else if l.is_integer() && r.is_integer() {
        let wider = if l.wire_len() > r.wire_len() { l } else { r };
        let widen = |expr: &Expr, ty: SqlType| {
            if ty == wider { expr.clone() } else { native_cast(expr.clone(), arrow_type(wider)) }
        };
        (widen(left, l), widen(right, r))
    } else if matches!(
        (l, r),
        (SqlType::Float4, SqlType::Float8) | (SqlType::Float8, SqlType::Float4)
    ) {
        let widen = |expr: &Expr| {
            comparison_key(native_cast(expr.clone(), arrow_type(SqlType::Float8)), SqlType::Float8)
        };
        (widen(left), widen(right))
    } else {
        return None;
    };
    Some(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), operator(comparison), Box::new(right))))
}

/// Strings that compare byte by byte whatever their type.
fn both_text(left: SqlType, right: SqlType) -> bool {
    let plain = |ty| matches!(ty, SqlType::Text | SqlType::Varchar | SqlType::Name);
    plain(left) && plain(right)
}

/// LIKE and ILIKE with a constant pattern that Arrow reads as Postgres does.
fn native_like(call: &BoundCall, args: &[Expr]) -> Option<Expr> {
    let (negated, case_insensitive) = match call.name {
        "textlike" | "namelike" | "bpcharlike" => (false, false),
        "textnlike" | "namenlike" | "bpcharnlike" => (true, false),
        "texticlike" | "nameiclike" | "bpchariclike" => (false, true),
        "texticnlike" | "nameicnlike" | "bpcharicnlike" => (true, true),
        _ => return None,
    };
    let [subject, Expr::Literal(ScalarValue::Utf8(Some(pattern)), _)] = args else { return None };
    // A pattern that ends in an open escape is an error in Postgres; case folding beyond ASCII is the kernel's.
    if pattern.contains('\\') || (case_insensitive && !pattern.is_ascii()) {
        return None;
    }
    Some(Expr::Like(Like::new(
        negated,
        Box::new(subject.clone()),
        Box::new(args[1].clone()),
        None,
        case_insensitive,
    )))
}
