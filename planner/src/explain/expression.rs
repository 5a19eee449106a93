//! Expressions as a user would write them: names without positions, values without their representation.

use std::{collections::HashMap, fmt, sync::Arc};

use cortex_functions::lower::comparison_key_argument;
use cortex_shard_api::{
    SqlType,
    value::{Numeric, ValueSettings, arrow::datum_at, arrow::nearest_type, text},
};
use datafusion::{
    common::ScalarValue,
    logical_expr::{Expr, Operator, ScalarUDF},
    physical_expr::{
        PhysicalExpr, PhysicalSortExpr, ScalarFunctionExpr,
        expressions::{
            BinaryExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal,
            NotExpr,
        },
    },
};

/// Characters of one expression at the most: a plan is read line by line.
const CHARS_MAX: usize = 300;

/// What columns are called: the binder's names of computed columns (`aggregate#3`) to what computes them.
pub type Names = HashMap<String, String>;

/// An expression.
pub fn expression(expr: &Arc<dyn PhysicalExpr>, names: &Names) -> String {
    let text = operand(expr, 0, names);
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// `amount DESC, id ASC`
pub fn order<'a>(keys: impl IntoIterator<Item = &'a PhysicalSortExpr>, names: &Names) -> String {
    let key = |key: &PhysicalSortExpr| {
        let direction = if key.options.descending { "DESC" } else { "ASC" };
        let nulls = match (key.options.descending, key.options.nulls_first) {
            (false, true) => " NULLS FIRST",
            (true, false) => " NULLS LAST",
            _ => "",
        };
        format!("{} {direction}{nulls}", expression(&key.expr, names))
    };
    list(keys.into_iter().map(key))
}

/// `[a, b]`
pub fn list(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().collect();
    format!("[{}]", items.join(", "))
}

/// The name of a column: what computes it, or its name without what the binder adds to keep columns apart
/// (`Binder::fresh`).
pub fn name(name: &str, names: &Names) -> String {
    if let Some(known) = names.get(name) {
        return known.clone();
    }
    match name.rsplit_once('#') {
        Some((shown, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            shown.to_owned()
        }
        _ => name.to_owned(),
    }
}

fn operand(expr: &Arc<dyn PhysicalExpr>, precedence: u8, names: &Names) -> String {
    if let Some(column) = expr.downcast_ref::<Column>() {
        return name(column.name(), names);
    }
    if let Some(literal) = expr.downcast_ref::<Literal>() {
        return constant(literal.value());
    }
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        let own = binary.op().precedence();
        let (left, right) =
            (operand(binary.left(), own, names), operand(binary.right(), own + 1, names));
        let text = format!("{left} {} {right}", operator(*binary.op()));
        return if own < precedence { format!("({text})") } else { text };
    }
    if let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() {
        return function(call, precedence, names);
    }
    if let Some(is_null) = expr.downcast_ref::<IsNullExpr>() {
        return format!("{} IS NULL", operand(is_null.arg(), u8::MAX, names));
    }
    if let Some(is_not_null) = expr.downcast_ref::<IsNotNullExpr>() {
        return format!("{} IS NOT NULL", operand(is_not_null.arg(), u8::MAX, names));
    }
    if let Some(not) = expr.downcast_ref::<NotExpr>() {
        return format!("NOT {}", operand(not.arg(), u8::MAX, names));
    }
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        let ty = nearest_type(cast.cast_type());
        return format!("{}::{}", operand(cast.expr(), u8::MAX, names), ty.sql_name());
    }
    if let Some(member) = expr.downcast_ref::<InListExpr>() {
        let items: Vec<String> = member.list().iter().map(|item| operand(item, 0, names)).collect();
        let not = if member.negated() { "NOT " } else { "" };
        return format!(
            "{} {not}IN ({})",
            operand(member.expr(), u8::MAX, names),
            items.join(", ")
        );
    }
    if let Some(like) = expr.downcast_ref::<LikeExpr>() {
        let not = if like.negated() { "NOT " } else { "" };
        let word = if like.case_insensitive() { "ILIKE" } else { "LIKE" };
        let (subject, pattern) =
            (operand(like.expr(), 5, names), operand(like.pattern(), 5, names));
        return format!("{subject} {not}{word} {pattern}");
    }
    AsSql(expr.as_ref()).to_string()
}

/// An expression in DataFusion's own words.
struct AsSql<'a>(&'a dyn PhysicalExpr);

impl fmt::Display for AsSql<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_sql(f)
    }
}

fn operator(operator: Operator) -> String {
    match operator {
        Operator::NotEq => "<>".to_owned(),
        other => other.to_string(),
    }
}

fn function(call: &ScalarFunctionExpr, precedence: u8, names: &Names) -> String {
    if let [arg] = call.args()
        && is_comparison_key(call.fun())
    {
        return operand(arg, precedence, names);
    }
    let args: Vec<String> = call.args().iter().map(|arg| operand(arg, 0, names)).collect();
    if let ([_], Some(ty)) = (args.as_slice(), call.fun().name().strip_prefix("cast_")) {
        return format!("{}::{ty}", operand(&call.args()[0], u8::MAX, names));
    }
    format!("{}({})", call.fun().name(), args.join(", "))
}

fn is_comparison_key(function: &ScalarUDF) -> bool {
    let call = function.call(vec![Expr::Literal(ScalarValue::Null, None)]);
    comparison_key_argument(&call).is_some()
}

/// A constant. Binary is numeric more often than bytea, and says itself whether it is.
fn constant(value: &ScalarValue) -> String {
    if value.is_null() {
        return "NULL".to_owned();
    }
    if let ScalarValue::Binary(Some(bytes)) = value {
        let whole = Numeric::from_sortable(bytes);
        let key = || Numeric::from_key(bytes).ok().filter(|(_, n)| *n == bytes.len());
        if let Some(number) = whole.ok().or_else(|| key().map(|(number, _)| number)) {
            return number.to_string();
        }
    }
    let ty = nearest_type(&value.data_type());
    let array = value.to_array().ok();
    let Some(datum) = array.and_then(|array| datum_at(array.as_ref(), 0, ty).ok()) else {
        return value.to_string();
    };
    let mut text = String::new();
    text::format(&datum, ty, &ValueSettings::default(), &mut text);
    if ty.is_number() || ty.is_oid_like() || ty == SqlType::Bool {
        text
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}
