//! Types by name, literals, coercions.
//!
//! Lives here: what a type written in a statement is, what type a literal has, and how an expression becomes another type
//! in the contexts that Postgres knows. Not here: which casts exist (`functions::registry`).

use cortex_functions::{
    registry::{self, CastContext, ResolveError},
    scalar,
    session::EvalContext,
};
use cortex_shard_api::{
    Datum, SqlType, TypeMod,
    value::{Numeric, text},
};
use sqlparser::ast::{
    ArrayElemTypeDef, CharacterLength, DataType, DateTimeField, ExactNumberInfo, Expr, Interval,
    ObjectName, TimezoneInfo, Value,
};

use super::{
    Binder,
    names::fold_ident,
    typed::{Kind, TypedExpr},
};
use crate::{PlanError, PlanErrorKind};

/// The longest `varchar(n)` and `char(n)`.
const CHAR_LENGTH_MAX: u64 = 10_485_760;

/// `numeric(p, s)` at the most.
const PRECISION_MAX: u64 = 1000;

/// Digits behind the point of a second.
const TIME_PRECISION_MAX: u64 = 6;

/// The type that a statement names.
pub fn data_type(ty: &DataType) -> Result<TypeMod, PlanError> {
    let plain = |ty: SqlType| Ok(TypeMod::plain(ty));
    match ty {
        DataType::Character(length) | DataType::Char(length) => {
            character(SqlType::Bpchar, length.as_ref(), Some(1))
        }
        DataType::CharacterVarying(length)
        | DataType::CharVarying(length)
        | DataType::Varchar(length) => character(SqlType::Varchar, length.as_ref(), None),
        DataType::Uuid => plain(SqlType::Uuid),
        DataType::Numeric(info) | DataType::Decimal(info) | DataType::Dec(info) => numeric(info),
        DataType::Float(info) => match info {
            ExactNumberInfo::None => plain(SqlType::Float8),
            ExactNumberInfo::Precision(1..=24) => plain(SqlType::Float4),
            ExactNumberInfo::Precision(25..=53) => plain(SqlType::Float8),
            ExactNumberInfo::Precision(0) => {
                Err(invalid("precision for type float must be at least 1 bit"))
            }
            ExactNumberInfo::Precision(_) | ExactNumberInfo::PrecisionAndScale(..) => {
                Err(invalid("precision for type float must be less than 54 bits"))
            }
        },
        DataType::Int2(None) | DataType::SmallInt(None) => plain(SqlType::Int2),
        DataType::Int(None) | DataType::Int4(None) | DataType::Integer(None) => {
            plain(SqlType::Int4)
        }
        DataType::Int8(None) | DataType::BigInt(None) => plain(SqlType::Int8),
        DataType::Float4 | DataType::Real => plain(SqlType::Float4),
        DataType::Float8 | DataType::DoublePrecision | DataType::Double(ExactNumberInfo::None) => {
            plain(SqlType::Float8)
        }
        DataType::Bool | DataType::Boolean => plain(SqlType::Bool),
        DataType::Date => plain(SqlType::Date),
        DataType::Time(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            time(SqlType::Time, *precision)
        }
        DataType::Timestamp(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            time(SqlType::Timestamp, *precision)
        }
        DataType::Timestamp(precision, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            time(SqlType::Timestamptz, *precision)
        }
        DataType::Interval { fields: None, precision: None } => plain(SqlType::Interval),
        DataType::JSON => plain(SqlType::Json),
        DataType::JSONB => plain(SqlType::Jsonb),
        DataType::Regclass => plain(SqlType::Regclass),
        DataType::Text => plain(SqlType::Text),
        DataType::Bytea => plain(SqlType::Bytea),
        DataType::Array(ArrayElemTypeDef::SquareBracket(element, _)) => {
            let element = data_type(element)?;
            // Postgres does not keep the number of dimensions: int[][] is int[].
            if element.ty.element().is_some() {
                return Ok(element);
            }
            match element.ty.array() {
                Some(array) => Ok(TypeMod { ty: array, typmod: element.typmod }),
                None => Err(undefined_type(&format!("{}[]", element.ty.sql_name()))),
            }
        }
        DataType::Custom(name, modifiers) => custom(name, modifiers),
        other => Err(unsupported_type(other)),
    }
}

fn unsupported_type(ty: &DataType) -> PlanError {
    let name = ty.to_string().to_lowercase();
    // Words that only other dialects know are plain unknown types.
    match ty {
        DataType::Time(..)
        | DataType::Interval { .. }
        | DataType::Bit(_)
        | DataType::BitVarying(_)
        | DataType::VarBit(_)
        | DataType::GeometricType(_)
        | DataType::TsVector
        | DataType::TsQuery => PlanError::unsupported(
            format!("type {name} is not supported"),
            "COMPAT.md lists the types that are.",
        ),
        _ => undefined_type(&name),
    }
}

fn undefined_type(name: &str) -> PlanError {
    PlanError::new(PlanErrorKind::UndefinedObject, format!("type \"{name}\" does not exist"))
}

fn invalid(message: &str) -> PlanError {
    PlanError::new(PlanErrorKind::InvalidParameterValue, message)
}

fn character(
    ty: SqlType,
    length: Option<&CharacterLength>,
    default: Option<u64>,
) -> Result<TypeMod, PlanError> {
    let length = match length {
        Some(CharacterLength::IntegerLength { length, .. }) => Some(*length),
        Some(CharacterLength::Max) => return Err(undefined_type("max")),
        None => default,
    };
    let Some(length) = length else { return Ok(TypeMod::plain(ty)) };
    let name = if ty == SqlType::Bpchar { "char" } else { "varchar" };
    if length == 0 {
        return Err(invalid(&format!("length for type {name} must be at least 1")));
    }
    if length > CHAR_LENGTH_MAX {
        return Err(invalid(&format!("length for type {name} cannot exceed {CHAR_LENGTH_MAX}")));
    }
    Ok(TypeMod { ty, typmod: length as i32 + 4 })
}

fn numeric(info: &ExactNumberInfo) -> Result<TypeMod, PlanError> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => return Ok(TypeMod::plain(SqlType::Numeric)),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    if !(1..=PRECISION_MAX).contains(&precision) {
        return Err(invalid(&format!(
            "NUMERIC precision {precision} must be between 1 and {PRECISION_MAX}"
        )));
    }
    if scale < 0 {
        return Err(PlanError::unsupported(
            "negative scale of numeric is not supported",
            "Use round(x, -n).",
        ));
    }
    if scale as u64 > precision {
        return Err(invalid(&format!(
            "NUMERIC scale {scale} must be between 0 and precision {precision}"
        )));
    }
    Ok(TypeMod { ty: SqlType::Numeric, typmod: (((precision as i32) << 16) | scale as i32) + 4 })
}

fn time(ty: SqlType, precision: Option<u64>) -> Result<TypeMod, PlanError> {
    // Postgres warns and takes 6 for more.
    let typmod = precision.map_or(-1, |precision| precision.min(TIME_PRECISION_MAX) as i32);
    Ok(TypeMod { ty, typmod })
}

/// A type whose name the parser does not know: `int4`, `_text`, `"char"`, `pg_catalog.regtype`, `bpchar(3)`.
fn custom(name: &ObjectName, modifiers: &[String]) -> Result<TypeMod, PlanError> {
    let parts: Vec<_> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    let last = parts.last().map(|ident| fold_ident(ident)).unwrap_or_default();
    let schema = (parts.len() > 1).then(|| fold_ident(parts[parts.len() - 2]));
    if let Some(schema) = &schema
        && schema != "pg_catalog"
    {
        return Err(undefined_type(&format!("{schema}.{last}")));
    }
    let quoted = parts.last().is_some_and(|ident| ident.quote_style.is_some());
    let ty = match last.as_str() {
        "char" if quoted || schema.is_some() => Some(SqlType::Char),
        other => registry::type_by_name(other),
    };
    let Some(ty) = ty else { return Err(undefined_type(&last)) };
    if modifiers.is_empty() {
        return Ok(TypeMod::plain(ty));
    }
    let numbers: Vec<i64> = modifiers.iter().filter_map(|text| text.trim().parse().ok()).collect();
    if numbers.len() != modifiers.len() {
        return Err(PlanError::new(PlanErrorKind::Syntax, "type modifiers must be integers"));
    }
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    match (ty, numbers.as_slice()) {
        (SqlType::Bpchar | SqlType::Varchar, [length]) => {
            let length = CharacterLength::IntegerLength { length: unsigned(*length), unit: None };
            character(ty, Some(&length), None)
        }
        (SqlType::Numeric, [precision]) => {
            numeric(&ExactNumberInfo::Precision(unsigned(*precision)))
        }
        (SqlType::Numeric, [precision, scale]) => {
            numeric(&ExactNumberInfo::PrecisionAndScale(unsigned(*precision), *scale))
        }
        (SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz, [precision]) => {
            time(ty, Some(unsigned(*precision)))
        }
        _ => Err(PlanError::new(
            PlanErrorKind::Syntax,
            format!("type modifier is not allowed for type \"{}\"", ty.catalog_name()),
        )),
    }
}

/// The type of a number as it is written: int4, int8, numeric.
pub(crate) fn number_literal(text: &str) -> Result<TypedExpr, PlanError> {
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        if let Ok(value) = text.parse::<i32>() {
            return Ok(TypedExpr::literal(Datum::Int4(value), SqlType::Int4));
        }
        if let Ok(value) = text.parse::<i64>() {
            return Ok(TypedExpr::literal(Datum::Int8(value), SqlType::Int8));
        }
    }
    let value = Numeric::parse(text)?;
    Ok(TypedExpr::literal(Datum::Numeric(value), SqlType::Numeric))
}

/// The column that a value is stored in: for the messages of assignment casts.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t> {
    pub column: &'t str,
    pub ty: TypeMod,
}

impl From<ResolveError> for PlanError {
    fn from(error: ResolveError) -> PlanError {
        let kind = match &error {
            ResolveError::Undefined(_) => PlanErrorKind::UndefinedFunction,
            ResolveError::Ambiguous(_) => PlanErrorKind::AmbiguousFunction,
            ResolveError::TypeMismatch(_) => PlanErrorKind::DatatypeMismatch,
        };
        let hint = error.hint();
        let plan_error = PlanError::new(kind, error.to_string());
        match hint {
            Some(hint) => plan_error.with_hint(hint),
            None => plan_error,
        }
    }
}

impl Binder<'_> {
    pub(crate) fn bind_value(
        &mut self,
        value: &Value,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        let unknown = |text: &str| {
            Ok(TypedExpr::literal(Datum::Text(text.into()), SqlType::Unknown).at(position))
        };
        match value {
            Value::Number(text, _) => {
                number_literal(text).map(|expr| expr.at(position)).map_err(|e| e.at(position))
            }
            Value::SingleQuotedString(text)
            | Value::EscapedStringLiteral(text)
            | Value::UnicodeStringLiteral(text)
            | Value::NationalStringLiteral(text) => unknown(text),
            Value::DollarQuotedString(text) => unknown(&text.value),
            Value::Boolean(value) => {
                Ok(TypedExpr::literal(Datum::Bool(*value), SqlType::Bool).at(position))
            }
            Value::Null => Ok(TypedExpr::literal(Datum::Null, SqlType::Unknown).at(position)),
            Value::Placeholder(name) => self.bind_parameter(name, position),
            _ => Err(PlanError::unsupported(
                "bit string literals are not supported",
                "Write bytes as '\\x...'::bytea.",
            )
            .at(position)),
        }
    }

    /// `INTERVAL '1' DAY` and its like.
    pub(crate) fn bind_interval(&mut self, interval: &Interval) -> Result<TypedExpr, PlanError> {
        let Expr::Value(value) = &*interval.value else {
            return Err(PlanError::new(PlanErrorKind::Syntax, "INTERVAL wants a string literal"));
        };
        let position = self.position(value.span);
        let text = match self.bind_value(&value.value, position)?.kind {
            Kind::Literal(Datum::Text(text)) => text.into_string(),
            _ => {
                return Err(PlanError::new(
                    PlanErrorKind::Syntax,
                    "INTERVAL wants a string literal",
                )
                .at(position));
            }
        };
        let is_number = text.trim().parse::<f64>().is_ok();
        let text = match (&interval.leading_field, &interval.last_field) {
            (None, None) => text,
            (Some(field), None) if is_number => format!("{text} {}", unit_of(field)),
            _ => {
                return Err(PlanError::unsupported(
                    "interval fields are supported for plain numbers only",
                    "Write the units in the string: INTERVAL '1 day 2 hours'.",
                )
                .at(position));
            }
        };
        let literal = TypedExpr::literal(Datum::Text(text.into()), SqlType::Unknown).at(position);
        self.coerce(literal, TypeMod::plain(SqlType::Interval), CastContext::Explicit)
    }

    /// The expression as `to`, or why it cannot be: 42846 "cannot cast type x to y".
    pub fn coerce(
        &mut self,
        expr: TypedExpr,
        to: TypeMod,
        context: CastContext,
    ) -> Result<TypedExpr, PlanError> {
        let position = expr.position;
        match self.try_coerce(expr, to, context)? {
            Ok(coerced) => Ok(coerced),
            Err(expr) => Err(PlanError::new(
                PlanErrorKind::CannotCoerce,
                format!(
                    "cannot cast type {} to {}",
                    text::type_name(TypeMod::plain(expr.ty.ty)),
                    text::type_name(to)
                ),
            )
            .at(position)),
        }
    }

    /// The expression as `to`; given back where there is no such cast in this context.
    pub(crate) fn try_coerce(
        &mut self,
        mut expr: TypedExpr,
        to: TypeMod,
        context: CastContext,
    ) -> Result<Result<TypedExpr, TypedExpr>, PlanError> {
        let position = expr.position;
        let explicit = context == CastContext::Explicit;
        if let Kind::Parameter(index) = expr.kind
            && expr.ty.ty == SqlType::Unknown
        {
            expr.ty = TypeMod::plain(self.infer_parameter(index, to.ty));
        }
        if expr.ty == to || (expr.ty.ty == to.ty && to.typmod == -1) {
            // A modifier that is known stays known only where it is asked for.
            return Ok(Ok(expr));
        }
        if matches!(expr.kind, Kind::Literal(Datum::Null)) {
            return Ok(Ok(TypedExpr::new(Kind::Literal(Datum::Null), to).at(position)));
        }
        if expr.ty.ty == SqlType::Unknown {
            return self.coerce_unknown(expr, to, explicit).map(Ok);
        }
        // ARRAY[...]::t[] gives its elements the type.
        if let (Kind::Array(elements), Some(element)) = (&expr.kind, to.ty.element())
            && explicit
        {
            let element = TypeMod { ty: element, typmod: to.typmod };
            let elements = elements
                .clone()
                .into_iter()
                .map(|item| self.coerce(item, element, context))
                .collect::<Result<Vec<_>, _>>()?;
            return Ok(Ok(TypedExpr::new(Kind::Array(elements), to).at(position)));
        }
        if expr.ty.ty != to.ty && !registry::can_cast(expr.ty.ty, to.ty, context) {
            return Ok(Err(expr));
        }
        if let Kind::Literal(value) = &expr.kind
            && folds(expr.ty.ty, to.ty)
        {
            let context = EvalContext { settings: self.settings.clone(), ..EvalContext::default() };
            let value = scalar::cast(value.clone(), expr.ty, to, explicit, &context)
                .map_err(|error| PlanError::from(error).at(position))?;
            return Ok(Ok(TypedExpr::new(Kind::Literal(value), to).at(position)));
        }
        Ok(Ok(TypedExpr::new(Kind::Cast { arg: Box::new(expr), explicit }, to).at(position)))
    }

    fn coerce_unknown(
        &mut self,
        expr: TypedExpr,
        to: TypeMod,
        explicit: bool,
    ) -> Result<TypedExpr, PlanError> {
        let position = expr.position;
        let literal = match expr.kind {
            Kind::Literal(Datum::Text(text)) => text,
            // A column of unknown type does not exist; treat what is left as text.
            kind => {
                let arg = TypedExpr { kind, ty: TypeMod::plain(SqlType::Text), position };
                let kind = Kind::Cast { arg: Box::new(arg), explicit: true };
                return Ok(TypedExpr::new(kind, to).at(position));
            }
        };
        let ty = to.ty.element().unwrap_or(to.ty);
        if (ty.is_oid_like() && ty != SqlType::Oid) || ty == SqlType::Void {
            // Names are looked up by the session when the statement runs.
            let arg = TypedExpr::literal(Datum::Text(literal), SqlType::Text).at(position);
            let kind = Kind::Cast { arg: Box::new(arg), explicit: true };
            return Ok(TypedExpr::new(kind, to).at(position));
        }
        if to.ty == SqlType::Record {
            return Err(PlanError::new(
                PlanErrorKind::Unsupported,
                "input of anonymous composite types is not implemented",
            )
            .at(position));
        }
        let value = text::parse(to.ty, &literal, self.settings)
            .and_then(|value| match to.typmod {
                -1 => Ok(value),
                _ => text::apply_typmod(value, to, explicit),
            })
            .map_err(|error| PlanError::from(error).at(position))?;
        Ok(TypedExpr::new(Kind::Literal(value), to).at(position))
    }

    /// For arguments of resolved calls: the cast exists, the registry chose it.
    pub(crate) fn coerce_args(
        &mut self,
        args: Vec<TypedExpr>,
        types: &[SqlType],
    ) -> Result<Vec<TypedExpr>, PlanError> {
        args.into_iter()
            .zip(types)
            .map(|(arg, ty)| {
                let plain = TypeMod::plain(*ty);
                self.coerce(arg, plain, CastContext::Implicit)
            })
            .collect()
    }

    /// A condition: `clause` is what the error calls it, "WHERE".
    pub(crate) fn condition(
        &mut self,
        expr: TypedExpr,
        clause: &str,
    ) -> Result<TypedExpr, PlanError> {
        let position = expr.position;
        match self.try_coerce(expr, TypeMod::plain(SqlType::Bool), CastContext::Assignment)? {
            Ok(condition) => Ok(condition),
            Err(expr) => Err(PlanError::new(
                PlanErrorKind::DatatypeMismatch,
                format!(
                    "argument of {clause} must be type boolean, not type {}",
                    expr.ty.ty.sql_name()
                ),
            )
            .at(position)),
        }
    }

    /// A value that is stored in a column, cast as assignments are.
    pub fn assign(&mut self, expr: TypedExpr, target: Target<'_>) -> Result<TypedExpr, PlanError> {
        let position = expr.position;
        match self.try_coerce(expr, target.ty, CastContext::Assignment)? {
            Ok(value) => Ok(value),
            Err(expr) => Err(PlanError::new(
                PlanErrorKind::DatatypeMismatch,
                format!(
                    "column \"{}\" is of type {} but expression is of type {}",
                    target.column,
                    target.ty.ty.sql_name(),
                    expr.ty.ty.sql_name()
                ),
            )
            .with_hint("You will need to rewrite or cast the expression.")
            .at(position)),
        }
    }

    /// Gives all expressions their common type; `context` names the construct: "CASE", "UNION".
    pub(crate) fn unify(
        &mut self,
        exprs: Vec<TypedExpr>,
        context: &str,
    ) -> Result<(Vec<TypedExpr>, TypeMod), PlanError> {
        let types: Vec<SqlType> = exprs.iter().map(|expr| expr.ty.ty).collect();
        let common = registry::common_type(&types, context).map_err(|error| {
            let odd = exprs.iter().find(|expr| expr.ty.ty != exprs[0].ty.ty);
            PlanError::from(error).at(odd.and_then(|expr| expr.position))
        })?;
        // The modifier survives when all agree.
        let typmod = match exprs.first() {
            Some(first) if exprs.iter().all(|expr| expr.ty == first.ty && expr.ty.ty == common) => {
                first.ty.typmod
            }
            _ => -1,
        };
        let to = TypeMod { ty: common, typmod };
        let exprs = exprs
            .into_iter()
            .map(|expr| {
                let position = expr.position;
                let from = expr.ty.ty;
                match self.try_coerce(expr, to, CastContext::Implicit)? {
                    Ok(expr) => Ok(expr),
                    Err(_) => Err(PlanError::new(
                        PlanErrorKind::CannotCoerce,
                        format!(
                            "{context} could not convert type {} to {}",
                            from.sql_name(),
                            common.sql_name()
                        ),
                    )
                    .at(position)),
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok((exprs, to))
    }

    /// An unknown literal or parameter that nothing gave a type is text.
    pub(crate) fn default_to_text(&mut self, expr: TypedExpr) -> Result<TypedExpr, PlanError> {
        match expr.ty.ty {
            SqlType::Unknown => {
                self.coerce(expr, TypeMod::plain(SqlType::Text), CastContext::Implicit)
            }
            _ => Ok(expr),
        }
    }
}

/// Casts of constants that mean the same in every session, so that pruning sees a plain constant.
fn folds(from: SqlType, to: SqlType) -> bool {
    let timeless = |ty: SqlType| {
        ty.is_number()
            || ty.is_string()
            || matches!(ty, SqlType::Bool | SqlType::Uuid | SqlType::Date | SqlType::Timestamp)
    };
    timeless(from)
        && timeless(to)
        && !(from.is_string() && matches!(to, SqlType::Date | SqlType::Timestamp))
}

fn unit_of(field: &DateTimeField) -> String {
    field.to_string().to_lowercase()
}
