//! Aggregates as DataFusion computes them: its own vectorized ones where they mean the same, `collect` for the rest.

use std::{fmt, sync::Arc};

use arrow::datatypes::DataType;
use cortex_shard_api::{SqlType, TypeMod, ValueError, ValueErrorKind};
use datafusion::{
    functions_aggregate::{
        average::avg_udaf,
        bit_and_or_xor::{bit_and_udaf, bit_or_udaf, bit_xor_udaf},
        bool_and_or::{bool_and_udaf, bool_or_udaf},
        count::count_udaf,
        min_max::{max_udaf, min_udaf},
        sum::sum_udaf,
    },
    logical_expr::{
        AggregateUDF, Expr, WindowFunctionDefinition, cast as native_cast,
        expr::{AggregateFunction, WindowFunction, WindowFunctionParams},
        lit,
    },
};

use super::{
    accumulate::{self, OrderedBy},
    finish,
    keys::comparison_key,
    window::WindowSpec,
};
use crate::registry::ResolvedAggregate;

/// An aggregate (plain or windowed) as DataFusion computes it: some aggregate expressions, and what to make of their results.
/// avg(int4) is [sum, count] and a division.
#[derive(Clone)]
pub struct LoweredAggregate {
    /// `Expr::AggregateFunction`s for `LogicalPlan::Aggregate`, or `Expr::WindowFunction`s for `LogicalPlan::Window`.
    pub parts: Vec<Expr>,
    pub(super) finish: Arc<dyn Fn(Vec<Expr>) -> Expr + Send + Sync>,
}

impl LoweredAggregate {
    /// The aggregate's value from the values of `parts` (normally columns of the plan node that computed them).
    pub fn finish(&self, parts: Vec<Expr>) -> Expr {
        (self.finish)(parts)
    }
}

impl fmt::Debug for LoweredAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoweredAggregate").field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// Where a part is computed: in a group or over a window.
pub(super) enum Place {
    Group { distinct: bool, filter: Option<Expr> },
    Window { filter: Option<Expr>, spec: Box<WindowSpec> },
}

impl Place {
    fn part(&self, function: Arc<AggregateUDF>, args: Vec<Expr>) -> Expr {
        self.part_with(function, args, true)
    }

    /// `native_distinct`: DISTINCT is DataFusion's task, not the function's.
    fn part_with(
        &self,
        function: Arc<AggregateUDF>,
        args: Vec<Expr>,
        native_distinct: bool,
    ) -> Expr {
        match self {
            Place::Group { distinct, filter } => {
                Expr::AggregateFunction(AggregateFunction::new_udf(
                    function,
                    args,
                    *distinct && native_distinct,
                    filter.clone().map(Box::new),
                    Vec::new(),
                    None,
                ))
            }
            Place::Window { filter, spec } => Expr::WindowFunction(Box::new(WindowFunction {
                fun: WindowFunctionDefinition::AggregateUDF(function),
                params: WindowFunctionParams {
                    args,
                    partition_by: spec.partition_by.clone(),
                    order_by: spec.order_by.clone(),
                    window_frame: spec.frame.clone(),
                    filter: filter.clone().map(Box::new),
                    null_treatment: None,
                    distinct: false,
                },
            })),
        }
    }

    fn distinct(&self) -> bool {
        matches!(self, Place::Group { distinct: true, .. })
    }

    /// Moving frames take values out again, which not every native aggregate can.
    fn is_window(&self) -> bool {
        matches!(self, Place::Window { .. })
    }
}

/// An aggregate over arguments that already have `call.arg_types`. `order_by` holds comparison keys: (key, ascending, nulls first).
/// Ordered-set aggregates (`WITHIN GROUP`): `args` are the direct arguments followed by the ordered values themselves
/// (not their keys), `order_by` gives their direction.
pub fn aggregate(
    call: &ResolvedAggregate,
    args: Vec<(Expr, TypeMod)>,
    distinct: bool,
    filter: Option<Expr>,
    order_by: Vec<(Expr, bool, bool)>,
) -> Result<LoweredAggregate, ValueError> {
    let args = args.into_iter().map(|(expr, _)| expr).collect();
    lower(call, args, order_by, &Place::Group { distinct, filter })
}

/// One part that is the value itself.
fn single(part: Expr) -> Result<LoweredAggregate, ValueError> {
    Ok(LoweredAggregate { parts: vec![part], finish: Arc::new(first) })
}

fn first(mut parts: Vec<Expr>) -> Expr {
    parts.swap_remove(0)
}

/// Aggregates that exist here.
pub(crate) fn implemented(name: &str) -> bool {
    matches!(
        name,
        "count"
            | "sum"
            | "avg"
            | "min"
            | "max"
            | "bool_and"
            | "bool_or"
            | "every"
            | "bit_and"
            | "bit_or"
            | "bit_xor"
    ) || accumulate::implemented(name)
}

/// Decimal128 sums of int8 cannot overflow: 2^63 rows of 2^63.
const INT8_DECIMAL: DataType = DataType::Decimal128(20, 0);

pub(super) fn lower(
    call: &ResolvedAggregate,
    mut args: Vec<Expr>,
    order_by: Vec<(Expr, bool, bool)>,
    place: &Place,
) -> Result<LoweredAggregate, ValueError> {
    let name = call.signature.split('(').next().unwrap_or_default().to_owned();
    let first_type = call.arg_types.first().copied();
    match (name.as_str(), first_type) {
        ("count", None) => return single(place.part(count_udaf(), vec![lit(1i64)])),
        ("count", Some(ty)) => {
            let arg = args.swap_remove(0);
            let arg = if place.distinct() { comparison_key(arg, ty) } else { arg };
            return single(place.part(count_udaf(), vec![arg]));
        }
        ("sum", Some(SqlType::Int2 | SqlType::Int4)) => {
            let arg = native_cast(args.swap_remove(0), DataType::Int64);
            return single(place.part(sum_udaf(), vec![arg]));
        }
        ("sum", Some(SqlType::Int8)) => {
            let arg = native_cast(args.swap_remove(0), INT8_DECIMAL);
            return Ok(LoweredAggregate {
                parts: vec![place.part(sum_udaf(), vec![arg])],
                finish: Arc::new(|parts| finish::decimal_to_numeric(first(parts))),
            });
        }
        ("sum", Some(SqlType::Float8)) => return single(place.part(sum_udaf(), args)),
        ("sum", Some(SqlType::Float4)) => {
            let arg = native_cast(args.swap_remove(0), DataType::Float64);
            return Ok(LoweredAggregate {
                parts: vec![place.part(sum_udaf(), vec![arg])],
                finish: Arc::new(|parts| native_cast(first(parts), DataType::Float32)),
            });
        }
        ("avg", Some(ty @ (SqlType::Int2 | SqlType::Int4 | SqlType::Int8))) => {
            let wide = if ty == SqlType::Int8 { INT8_DECIMAL } else { DataType::Int64 };
            let arg = native_cast(args.swap_remove(0), wide);
            return Ok(LoweredAggregate {
                parts: vec![
                    place.part(sum_udaf(), vec![arg.clone()]),
                    place.part(count_udaf(), vec![arg]),
                ],
                finish: Arc::new(|parts| finish::average(SqlType::Int8, parts)),
            });
        }
        ("avg", Some(SqlType::Float4 | SqlType::Float8)) => {
            let arg = native_cast(args.swap_remove(0), DataType::Float64);
            return single(place.part(avg_udaf(), vec![arg]));
        }
        ("avg", Some(ty @ (SqlType::Numeric | SqlType::Interval))) => {
            let arg = args.swap_remove(0);
            let sum = accumulate::function("sum", &[ty], ty, place.distinct(), Vec::new())
                .ok_or_else(|| missing(call))?;
            let (sum_arg, count_arg) = (arg.clone(), arg);
            let count_arg =
                if place.distinct() { comparison_key(count_arg, ty) } else { count_arg };
            return Ok(LoweredAggregate {
                parts: vec![
                    place.part_with(sum, vec![sum_arg], false),
                    place.part(count_udaf(), vec![count_arg]),
                ],
                finish: Arc::new(move |parts| finish::average(ty, parts)),
            });
        }
        ("min" | "max", Some(ty)) if native_extremes(ty) => {
            let function = if name == "min" { min_udaf() } else { max_udaf() };
            return single(place.part(function, args));
        }
        ("bool_and" | "every", _) if !place.is_window() => {
            return single(place.part(bool_and_udaf(), args));
        }
        ("bool_or", _) if !place.is_window() => return single(place.part(bool_or_udaf(), args)),
        ("bit_and", _) if !place.is_window() => return single(place.part(bit_and_udaf(), args)),
        ("bit_or", _) if !place.is_window() => return single(place.part(bit_or_udaf(), args)),
        ("bit_xor", _) if !place.is_window() && !place.distinct() => {
            return single(place.part(bit_xor_udaf(), args));
        }
        _ => {}
    }
    let ordered = order_by
        .iter()
        .map(|(_, ascending, nulls_first)| OrderedBy {
            ascending: *ascending,
            nulls_first: *nulls_first,
        })
        .collect();
    let (args, arg_types) = accumulate::prepare(&name, args, &call.arg_types);
    let function = accumulate::function(&name, &arg_types, call.returns, place.distinct(), ordered)
        .ok_or_else(|| missing(call))?;
    let mut args = args;
    if !call.ordered_set {
        args.extend(order_by.into_iter().map(|(key, _, _)| key));
    }
    single(place.part_with(function, args, false))
}

/// Types whose Arrow order is Postgres's, so that native min and max agree.
fn native_extremes(ty: SqlType) -> bool {
    ty.is_integer()
        || ty.is_oid_like()
        || matches!(
            ty,
            SqlType::Numeric
                | SqlType::Text
                | SqlType::Varchar
                | SqlType::Date
                | SqlType::Time
                | SqlType::Timestamp
                | SqlType::Timestamptz
        )
}

fn missing(call: &ResolvedAggregate) -> ValueError {
    ValueError::new(
        ValueErrorKind::Unsupported,
        format!("aggregate {} is not supported", call.signature),
    )
}
