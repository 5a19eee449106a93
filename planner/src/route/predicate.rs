//! What a DataFusion predicate says about a table's columns.
//!
//! Understood: a column compared with a constant of its own type (or another integer type), IN, = ANY, BETWEEN, IS [NOT] NULL, boolean
//! columns, AND, OR and NOT of them. Everything else may be true of any row. Comparison keys of `functions::lower` are looked
//! through: they keep equality, which is all that is used of them unless the key's order is the value's.

use cortex_functions::lower::comparison_key_argument;
use cortex_shard_api::{
    Datum, SqlType, TableDescriptor,
    descriptor::ColumnDescriptor,
    key::{KeyOrder, decode_datum},
    value::{
        Interval, Numeric,
        arrow::{arrow_type, datum_at},
    },
};
use datafusion::{
    arrow::{array::Array, datatypes::DataType},
    common::ScalarValue,
    logical_expr::{BinaryExpr, Expr, Operator},
};

use super::{
    domain::{Comparison, Constraint, Domain},
    scalar,
};

/// Nesting that is followed; deeper parts narrow nothing.
const DEPTH_MAX: usize = 200;

/// What holds of the rows for which the filter is true.
pub fn constraint(table: &TableDescriptor, filter: &Expr) -> Constraint {
    constraint_at(table, filter, 0)
}

fn constraint_at(table: &TableDescriptor, filter: &Expr, depth: usize) -> Constraint {
    if depth > DEPTH_MAX {
        return Constraint::everything();
    }
    known(table, filter, depth).unwrap_or_else(Constraint::everything)
}

/// `None`: nothing is known.
#[expect(clippy::wildcard_enum_match_arm, reason = "an unknown expression may be true of any row")]
fn known(table: &TableDescriptor, filter: &Expr, depth: usize) -> Option<Constraint> {
    let deeper = |expr: &Expr| constraint_at(table, expr, depth + 1);
    match filter {
        Expr::Alias(alias) => Some(deeper(&alias.expr)),
        Expr::Literal(ScalarValue::Boolean(Some(true)), _) => None,
        Expr::Literal(ScalarValue::Boolean(_), _) => Some(Constraint::nothing()),
        Expr::BinaryExpr(BinaryExpr { op: Operator::And, .. }) => {
            let all = flatten(filter, Operator::And);
            Some(all.into_iter().fold(Constraint::everything(), |all, part| all.and(deeper(part))))
        }
        Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
            let any = flatten(filter, Operator::Or);
            Some(Constraint::any(any.into_iter().map(deeper).collect()))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let comparison = comparison(*op)?;
            compare(table, left, comparison, right)
                .or_else(|| compare(table, right, comparison.flipped(), left))
        }
        Expr::Between(between) if !between.negated => {
            let low = compare(table, &between.expr, Comparison::GreaterOrEqual, &between.low);
            let high = compare(table, &between.expr, Comparison::LessOrEqual, &between.high);
            let everything = Constraint::everything;
            Some(low.unwrap_or_else(everything).and(high.unwrap_or_else(everything)))
        }
        Expr::InList(list) if !list.negated => {
            let equals = |value| compare(table, &list.expr, Comparison::Equal, value);
            Some(Constraint::any(list.list.iter().map(equals).collect::<Option<_>>()?))
        }
        Expr::ScalarFunction(call) => {
            let [left, array] = call.args.as_slice() else { return None };
            equals_any(table, call.func.name(), left, array)
        }
        Expr::IsNull(arg) => Some(Constraint::column(column(table, arg)?.position, Domain::null())),
        Expr::IsNotNull(arg) => {
            Some(Constraint::column(column(table, arg)?.position, Domain::not_null()))
        }
        Expr::Column(_) => boolean(table, filter, true),
        Expr::IsTrue(arg) => boolean(table, arg, true),
        Expr::Not(arg) => boolean(table, arg, false).or_else(|| match arg.as_ref() {
            Expr::IsNull(arg) => {
                Some(Constraint::column(column(table, arg)?.position, Domain::not_null()))
            }
            _ => None,
        }),
        _ => None,
    }
}

/// `column = ANY (array)` with the array known: what `lower::quantified` makes of a parameter.
fn equals_any(
    table: &TableDescriptor,
    name: &str,
    left: &Expr,
    array: &Expr,
) -> Option<Constraint> {
    if scalar::comparison(name.strip_suffix("_any")?)? != Comparison::Equal {
        return None;
    }
    let column = column(table, left)?;
    let Expr::Literal(ScalarValue::List(list), _) = array else { return None };
    if list.is_null(0) {
        return Some(Constraint::nothing());
    }
    let elements = list.value(0);
    let mut domains = Vec::with_capacity(elements.len());
    for number in 0..elements.len() {
        let element = ScalarValue::try_from_array(&elements, number).ok()?;
        let ty = column.descriptor.ty.ty;
        domains.push(match integer(&element) {
            _ if element.is_null() => continue,
            Some(value) if ty.is_integer() => integer_domain(ty, Comparison::Equal, value),
            _ => Domain::compare(Comparison::Equal, &datum(&element, ty)?, ty),
        });
    }
    Some(Constraint::column(column.position, Domain::union(domains)))
}

/// The operands of a chain of one operator, without recursion: chains are long.
fn flatten(filter: &Expr, operator: Operator) -> Vec<&Expr> {
    let (mut operands, mut rest) = (Vec::new(), vec![filter]);
    while let Some(expr) = rest.pop() {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if *op == operator => {
                rest.push(right);
                rest.push(left);
            }
            other => operands.push(other),
        }
    }
    operands
}

/// A column inside an expression.
struct FoundColumn<'a> {
    position: usize,
    descriptor: &'a ColumnDescriptor,
    /// Seen through a comparison key.
    keyed: bool,
}

fn column<'a>(table: &'a TableDescriptor, expr: &Expr) -> Option<FoundColumn<'a>> {
    match expr {
        Expr::Alias(alias) => column(table, &alias.expr),
        Expr::Column(name) => {
            let position = table.column(&name.name)?;
            let descriptor = table.columns.get(position)?;
            Some(FoundColumn { position, descriptor, keyed: false })
        }
        // Widening an integer keeps its value, and so the constant it is compared with.
        Expr::Cast(cast) if is_integer(cast.field.data_type()) => {
            column(table, &cast.expr).filter(|column| column.descriptor.ty.ty.is_integer())
        }
        _ => {
            let (arg, ty) = comparison_key_argument(expr)?;
            let column = column(table, arg).filter(|column| column.descriptor.ty.ty == ty)?;
            Some(FoundColumn { keyed: true, ..column })
        }
    }
}

fn boolean(table: &TableDescriptor, expr: &Expr, value: bool) -> Option<Constraint> {
    let column = column(table, expr).filter(|column| column.descriptor.ty.ty == SqlType::Bool)?;
    let domain = Domain::compare(Comparison::Equal, &Datum::Bool(value), SqlType::Bool);
    Some(Constraint::column(column.position, domain))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all other operators compare nothing")]
fn comparison(operator: Operator) -> Option<Comparison> {
    Some(match operator {
        Operator::Eq => Comparison::Equal,
        Operator::NotEq => Comparison::NotEqual,
        Operator::Lt => Comparison::Less,
        Operator::LtEq => Comparison::LessOrEqual,
        Operator::Gt => Comparison::Greater,
        Operator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

fn compare(
    table: &TableDescriptor,
    left: &Expr,
    comparison: Comparison,
    right: &Expr,
) -> Option<Constraint> {
    let column = column(table, left)?;
    let ty = column.descriptor.ty.ty;
    let (value, is_key) = literal(right)?;
    if value.is_null() {
        return Some(Constraint::nothing());
    }
    let domain = match integer(value) {
        Some(value) if ty.is_integer() => integer_domain(ty, comparison, value),
        _ if column.keyed && is_key => Domain::compare(comparison, &datum(value, ty)?, ty),
        _ if column.keyed => Domain::compare(comparison, &datum_of_key(value, ty)?, ty),
        _ => Domain::compare(arrow_comparison(comparison, ty)?, &datum(value, ty)?, ty),
    };
    Some(Constraint::column(column.position, domain))
}

/// A constant, and whether it stands inside a comparison key (which the optimizer folds away).
fn literal(expr: &Expr) -> Option<(&ScalarValue, bool)> {
    match expr {
        Expr::Literal(value, _) => Some((value, false)),
        Expr::Alias(alias) => literal(&alias.expr),
        _ => match comparison_key_argument(expr)?.0 {
            Expr::Literal(value, _) => Some((value, true)),
            _ => None,
        },
    }
}

/// A constant that represents a value of the type.
fn datum(value: &ScalarValue, ty: SqlType) -> Option<Datum> {
    if value.data_type() != arrow_type(ty) {
        return None;
    }
    datum_at(value.to_array().ok()?.as_ref(), 0, ty).ok()
}

/// The value that a folded comparison key stands for, or one equal to it.
fn datum_of_key(key: &ScalarValue, ty: SqlType) -> Option<Datum> {
    match (ty, key) {
        (SqlType::Numeric, ScalarValue::Binary(Some(bytes))) => {
            Some(Datum::Numeric(Numeric::from_key(bytes).ok()?.0))
        }
        (SqlType::Interval, ScalarValue::Decimal128(Some(micros), ..)) => {
            let micros = i64::try_from(*micros).ok()?;
            Some(Datum::Interval(Interval { months: 0, days: 0, micros }))
        }
        (SqlType::Jsonb, ScalarValue::Binary(Some(bytes))) => {
            Some(decode_datum(bytes, ty, KeyOrder::default()).ok()?.0)
        }
        (SqlType::Bpchar | SqlType::Float4 | SqlType::Float8, value) => datum(value, ty),
        _ => None,
    }
}

fn is_integer(ty: &DataType) -> bool {
    matches!(ty, DataType::Int16 | DataType::Int32 | DataType::Int64)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all others are not integers")]
fn integer(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::Int16(value) => value.map(i64::from),
        ScalarValue::Int32(value) => value.map(i64::from),
        ScalarValue::Int64(value) => *value,
        _ => None,
    }
}

/// What an Arrow comparison of the values says about their order as keys. Arrow tells apart what keys hold equal (1.0 and 1.00,
/// 0 and -0, blanks at the end), so strict comparisons become inclusive, and of types whose order is another one only
/// equality counts.
#[expect(clippy::wildcard_enum_match_arm, reason = "unknown types narrow nothing")]
fn arrow_comparison(comparison: Comparison, ty: SqlType) -> Option<Comparison> {
    match ty {
        SqlType::Bool
        | SqlType::Int2
        | SqlType::Int4
        | SqlType::Int8
        | SqlType::Text
        | SqlType::Varchar
        | SqlType::Name
        | SqlType::Bytea
        | SqlType::Date
        | SqlType::Time
        | SqlType::Timestamp
        | SqlType::Timestamptz
        | SqlType::Uuid
        | SqlType::Oid
        | SqlType::Regclass => Some(comparison),
        SqlType::Float4 | SqlType::Float8 | SqlType::Numeric => match comparison {
            Comparison::Less => Some(Comparison::LessOrEqual),
            Comparison::Greater => Some(Comparison::GreaterOrEqual),
            Comparison::NotEqual => None,
            same => Some(same),
        },
        SqlType::Bpchar | SqlType::Interval | SqlType::Jsonb => {
            (comparison == Comparison::Equal).then_some(comparison)
        }
        _ => None,
    }
}

/// A comparison of an integer column with an integer of any width.
pub fn integer_domain(ty: SqlType, comparison: Comparison, value: i64) -> Domain {
    let datum = match ty {
        SqlType::Int2 => i16::try_from(value).ok().map(Datum::Int2),
        SqlType::Int4 => i32::try_from(value).ok().map(Datum::Int4),
        _ => Some(Datum::Int8(value)),
    };
    if let Some(datum) = datum {
        return Domain::compare(comparison, &datum, ty);
    }
    // The constant lies outside of the column's type: on one side of all its values.
    let holds = match comparison {
        Comparison::Equal => false,
        Comparison::NotEqual => true,
        Comparison::Less | Comparison::LessOrEqual => value > 0,
        Comparison::Greater | Comparison::GreaterOrEqual => value < 0,
    };
    if holds { Domain::not_null() } else { Domain::nothing() }
}
