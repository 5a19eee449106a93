//! Expressions: from AST to typed.
//!
//! Lives here: one `match` over the AST's forms and those that need a few lines only. Operators are in `operators`, calls in
//! `calls`, subqueries in `lower::subquery`. Flat AND and OR chains are walked, not nested: 20,000 terms are one node.

use cortex_functions::registry::{self, CastContext};
use cortex_shard_api::{Datum, SqlType, TypeMod};
use sqlparser::ast::{
    AccessExpr, BinaryOperator, CaseWhen, CeilFloorKind, Expr, Ident, ObjectName, Spanned,
    Subscript, TrimWhereField, UnaryOperator, Value,
};

use super::{
    Binder,
    names::{Clause, Scope, fold_ident},
    typed::{Kind, TypedExpr},
    types::{Target, data_type},
};
use crate::{PlanError, PlanErrorKind};

impl Binder<'_> {
    /// Binds an expression over a scope. Untyped literals stay `Unknown`.
    pub fn bind_expr(
        &mut self,
        expr: &Expr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        self.deeper(|binder| binder.bind_form(expr, scope, clause))
    }

    /// Binds an expression whose type is what it is; untyped literals become text.
    pub fn bind_typed(
        &mut self,
        expr: &Expr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let bound = self.bind_expr(expr, scope, clause)?;
        self.default_to_text(bound)
    }

    /// Binds a condition.
    pub fn bind_predicate(
        &mut self,
        expr: &Expr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let bound = self.bind_expr(expr, scope, clause)?;
        let name = match clause {
            Clause::JoinOn => "JOIN/ON",
            Clause::Check => "CHECK",
            other => other.name(),
        };
        self.condition(bound, name)
    }

    /// Binds the value of a column: DEFAULT, SET, VALUES of an INSERT. Cast as assignments are; 42804 where there is no such cast.
    pub fn bind_assignment(
        &mut self,
        expr: &Expr,
        scope: &Scope,
        clause: Clause,
        target: Target<'_>,
    ) -> Result<TypedExpr, PlanError> {
        let bound = self.bind_expr(expr, scope, clause)?;
        if clause == Clause::Default && bound.has_set() {
            return Err(PlanError::new(
                PlanErrorKind::Unsupported,
                "set-returning functions are not allowed in DEFAULT expressions",
            ));
        }
        // Postgres words the mismatch of a default differently.
        let (position, from) = (bound.position, bound.ty.ty);
        match self.assign(bound, target) {
            Err(error)
                if clause == Clause::Default && error.kind == PlanErrorKind::DatatypeMismatch =>
            {
                Err(PlanError::new(
                    PlanErrorKind::DatatypeMismatch,
                    format!(
                        "column \"{}\" is of type {} but default expression is of type {}",
                        target.column,
                        target.ty.ty.sql_name(),
                        from.sql_name()
                    ),
                )
                .with_hint("You will need to rewrite or cast the expression.")
                .at(position))
            }
            other => other,
        }
    }

    fn bind_form(
        &mut self,
        expr: &Expr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        match expr {
            Expr::Identifier(ident) => match keyword_function(ident) {
                Some(name) => self.call(name, Vec::new(), self.position(ident.span), clause),
                None => self.bind_column(std::slice::from_ref(ident), scope, clause),
            },
            Expr::CompoundIdentifier(parts) => self.bind_column(parts, scope, clause),
            Expr::Nested(inner) => self.bind_expr(inner, scope, clause),
            Expr::Value(value) => {
                let position = self.position(value.span);
                self.bind_value(&value.value, position)
            }
            Expr::TypedString(literal) => {
                let position = self.position(literal.value.span);
                let to = data_type(&literal.data_type)?;
                let value = self.bind_value(&literal.value.value, position)?;
                self.coerce(value, to, CastContext::Explicit)
            }
            Expr::Interval(interval) => self.bind_interval(interval),
            Expr::Cast { expr: arg, data_type: ty, .. } => {
                let to = data_type(ty).map_err(|error| error.at(self.after(arg)))?;
                let arg = self.bind_cast_arg(arg, to, scope, clause)?;
                self.cast(arg, to)
            }
            Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
                self.bind_chain(left, op, right, scope, clause)
            }
            Expr::BinaryOp { left, op, right } => {
                self.bind_binary(expr, left, op, right, scope, clause)
            }
            Expr::UnaryOp { op, expr: arg } => self.bind_unary(op, arg, scope, clause),
            Expr::IsNull(arg) => self.bind_is_null(arg, false, scope, clause),
            Expr::IsNotNull(arg) => self.bind_is_null(arg, true, scope, clause),
            Expr::IsTrue(arg) => self.bind_is_bool(arg, true, false, scope, clause),
            Expr::IsNotTrue(arg) => self.bind_is_bool(arg, true, true, scope, clause),
            Expr::IsFalse(arg) => self.bind_is_bool(arg, false, false, scope, clause),
            Expr::IsNotFalse(arg) => self.bind_is_bool(arg, false, true, scope, clause),
            Expr::IsUnknown(arg) => self.bind_is_unknown(arg, false, scope, clause),
            Expr::IsNotUnknown(arg) => self.bind_is_unknown(arg, true, scope, clause),
            Expr::IsDistinctFrom(left, right) => {
                self.bind_is_distinct(left, right, false, scope, clause)
            }
            Expr::IsNotDistinctFrom(left, right) => {
                self.bind_is_distinct(left, right, true, scope, clause)
            }
            Expr::InList { expr: left, list, negated } => {
                self.bind_in_list(left, list, *negated, scope, clause)
            }
            Expr::Between { expr: arg, negated, low, high } => {
                self.bind_between(arg, low, high, *negated, scope, clause)
            }
            Expr::Like { negated, any: false, expr: left, pattern, escape_char } => {
                let op = if *negated { "!~~" } else { "~~" };
                self.bind_like(op, left, pattern, escape_char.as_ref(), scope, clause)
            }
            Expr::ILike { negated, any: false, expr: left, pattern, escape_char } => {
                let op = if *negated { "!~~*" } else { "~~*" };
                self.bind_like(op, left, pattern, escape_char.as_ref(), scope, clause)
            }
            Expr::SimilarTo { negated, expr: left, pattern, escape_char } => {
                self.bind_similar(*negated, left, pattern, escape_char.as_ref(), scope, clause)
            }
            Expr::AnyOp { left, compare_op, right, .. } => {
                self.bind_quantified(left, compare_op, right, false, scope, clause)
            }
            Expr::AllOp { left, compare_op, right } => {
                self.bind_quantified(left, compare_op, right, true, scope, clause)
            }
            Expr::Case { operand, conditions, else_result, .. } => self.bind_case(
                operand.as_deref(),
                conditions,
                else_result.as_deref(),
                scope,
                clause,
            ),
            Expr::Function(function) => self.bind_function(function, scope, clause),
            Expr::Exists { subquery, negated } => {
                let bound = self.bind_exists(subquery, scope, clause)?;
                Ok(if *negated { bound.negate() } else { bound })
            }
            Expr::Subquery(query) => self.bind_scalar_subquery(query, scope, clause),
            Expr::InSubquery { expr: left, subquery, negated } => {
                let bound =
                    self.bind_quantified_subquery(left, "=", subquery, false, scope, clause)?;
                Ok(if *negated { bound.negate() } else { bound })
            }
            Expr::Array(array) => self.bind_array(&array.elem, expr, scope, clause),
            Expr::Tuple(items) => {
                let items = items
                    .iter()
                    .map(|item| self.bind_expr(item, scope, clause))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(TypedExpr::new(Kind::Row(items), SqlType::Record).at(self.start(expr)))
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                self.bind_subscripts(root, access_chain, scope, clause)
            }
            Expr::AtTimeZone { timestamp, time_zone } => {
                self.named_call("timezone", &[time_zone, timestamp], expr, scope, clause)
            }
            Expr::Extract { field, expr: arg, .. } => {
                let field = field.to_string().to_lowercase();
                let field = field.trim_matches(['"', '\'']);
                let field = TypedExpr::literal(Datum::Text(field.into()), SqlType::Unknown);
                let arg = self.bind_expr(arg, scope, clause)?;
                self.call("extract", vec![field, arg], self.start(expr), clause)
            }
            Expr::Ceil { expr: arg, field: CeilFloorKind::DateTimeField(_) } => {
                self.named_call("ceil", &[arg], expr, scope, clause)
            }
            Expr::Floor { expr: arg, field: CeilFloorKind::DateTimeField(_) } => {
                self.named_call("floor", &[arg], expr, scope, clause)
            }
            Expr::Position { expr: what, r#in } => {
                self.named_call("position", &[r#in, what], expr, scope, clause)
            }
            Expr::Substring { expr: arg, substring_from, substring_for, .. } => {
                let mut args: Vec<&Expr> = vec![arg];
                let one = Expr::value(Value::Number("1".to_owned(), false));
                match (substring_from, substring_for) {
                    (Some(from), Some(length)) => args.extend([&**from, &**length]),
                    (Some(from), None) => args.push(from),
                    (None, Some(length)) => args.extend([&one, &**length]),
                    (None, None) => {}
                }
                self.named_call("substring", &args, expr, scope, clause)
            }
            Expr::Trim { trim_where, trim_what, expr: arg, trim_characters } => {
                let name = match trim_where {
                    None | Some(TrimWhereField::Both) => "btrim",
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                };
                let mut args: Vec<&Expr> = vec![arg];
                args.extend(trim_what.as_deref());
                args.extend(trim_characters.iter().flatten());
                self.named_call(name, &args, expr, scope, clause)
            }
            Expr::Overlay { expr: arg, overlay_what, overlay_from, overlay_for } => {
                let mut args: Vec<&Expr> = vec![arg, overlay_what, overlay_from];
                args.extend(overlay_for.as_deref());
                self.named_call("overlay", &args, expr, scope, clause)
            }
            Expr::Collate { expr: arg, collation } => {
                check_collation(collation)?;
                let arg = self.bind_expr(arg, scope, clause)?;
                let ty = arg.ty.ty.element().unwrap_or(arg.ty.ty);
                let is_text = matches!(
                    ty,
                    SqlType::Text
                        | SqlType::Varchar
                        | SqlType::Bpchar
                        | SqlType::Name
                        | SqlType::Unknown
                );
                if !is_text {
                    return Err(PlanError::new(
                        PlanErrorKind::DatatypeMismatch,
                        format!("collations are not supported by type {}", arg.ty.ty.sql_name()),
                    )
                    .at(arg.position));
                }
                // An untyped literal is text from here on.
                self.default_to_text(arg)
            }
            Expr::Prefixed { .. } | Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => {
                Err(PlanError::new(
                    PlanErrorKind::Syntax,
                    format!("syntax error at or near \"{expr}\""),
                )
                .at(self.start(expr)))
            }
            other => Err(PlanError::unsupported(
                format!("expression {other} is not supported"),
                "COMPAT.md lists the expressions that are.",
            )
            .at(self.start(other))),
        }
    }

    /// Where an expression begins.
    pub(crate) fn start(&self, expr: &Expr) -> Option<usize> {
        self.position(expr.span())
    }

    fn after(&self, expr: &Expr) -> Option<usize> {
        self.operator_position(expr).map(|position| position + 2)
    }

    /// `ARRAY[]::int[]` and `ARRAY['1']::int[]` take their element type from the cast.
    fn bind_cast_arg(
        &mut self,
        arg: &Expr,
        to: TypeMod,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let mut inner = arg;
        while let Expr::Nested(next) = inner {
            inner = next;
        }
        let (Expr::Array(array), Some(element)) = (inner, to.ty.element()) else {
            return self.bind_expr(arg, scope, clause);
        };
        let element = TypeMod { ty: element, typmod: to.typmod };
        let elements = array
            .elem
            .iter()
            .map(|item| {
                let item = self.bind_expr(item, scope, clause)?;
                self.cast(item, element)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(TypedExpr::new(Kind::Array(elements), to).at(self.start(arg)))
    }

    /// An explicit cast.
    pub(crate) fn cast(&mut self, arg: TypedExpr, to: TypeMod) -> Result<TypedExpr, PlanError> {
        let position = arg.position;
        if arg.ty.ty == to.ty && to.typmod == -1 && arg.ty.typmod != -1 {
            // The value is the same, its modifier is forgotten.
            let kind = Kind::Cast { arg: Box::new(arg), explicit: true };
            return Ok(TypedExpr::new(kind, to).at(position));
        }
        self.coerce(arg, to, CastContext::Explicit)
    }

    fn bind_chain(
        &mut self,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let mut terms = Vec::new();
        let mut pending = vec![right, left];
        while let Some(next) = pending.pop() {
            match next {
                Expr::BinaryOp { left, op: same, right } if same == op => {
                    pending.push(right);
                    pending.push(left);
                }
                Expr::Nested(inner) => match &**inner {
                    Expr::BinaryOp { left, op: same, right } if same == op => {
                        pending.push(right);
                        pending.push(left);
                    }
                    other => pending.push(other),
                },
                term => {
                    let bound = self.bind_expr(term, scope, clause)?;
                    let name = if *op == BinaryOperator::And { "AND" } else { "OR" };
                    terms.push(self.condition(bound, name)?);
                }
            }
        }
        Ok(if *op == BinaryOperator::And { TypedExpr::and(terms) } else { TypedExpr::or(terms) })
    }

    fn bind_unary(
        &mut self,
        op: &UnaryOperator,
        arg: &Expr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let start = self.start(arg);
        if *op == UnaryOperator::Not {
            let bound = self.bind_expr(arg, scope, clause)?;
            return Ok(self.condition(bound, "NOT")?.negate());
        }
        // A sign belongs to the literal: -2147483648 is int4.
        if *op == UnaryOperator::Minus
            && let Expr::Value(value) = arg
            && let Value::Number(digits, _) = &value.value
        {
            return super::types::number_literal(&format!("-{digits}"))
                .map(|expr| expr.at(start))
                .map_err(|error| error.at(start));
        }
        let name = match op {
            UnaryOperator::Minus => "-",
            UnaryOperator::Plus => "+",
            UnaryOperator::BitwiseNot => "~",
            UnaryOperator::PGAbs => "@",
            UnaryOperator::PGSquareRoot => "|/",
            UnaryOperator::PGCubeRoot => "||/",
            UnaryOperator::PGPrefixFactorial => "!!",
            other => {
                return Err(PlanError::new(
                    PlanErrorKind::UndefinedFunction,
                    format!("operator does not exist: {other}"),
                )
                .at(start));
            }
        };
        let bound = self.bind_expr(arg, scope, clause)?;
        let call = registry::resolve_operator(name, None, bound.ty.ty).map_err(|error| {
            PlanError::from(error).at(start.map(|start| start.saturating_sub(1)))
        })?;
        let args = self.coerce_args(vec![bound], &call.arg_types)?;
        Ok(self.finish_call(call, args).at(start))
    }

    fn bind_is_null(
        &mut self,
        arg: &Expr,
        negated: bool,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let bound = self.bind_typed(arg, scope, clause)?;
        let position = bound.position;
        // A row is null when all its fields are, and not null when none is.
        let items = match bound.kind {
            Kind::Row(items) => items,
            _ => vec![bound],
        };
        let terms = items
            .into_iter()
            .map(|item| {
                let test = TypedExpr::boolean(Kind::IsNull(Box::new(item)));
                if negated { test.negate() } else { test }
            })
            .collect();
        Ok(TypedExpr::and(terms).at(position))
    }

    /// `IS [NOT] TRUE`, `IS [NOT] FALSE`: never NULL.
    fn bind_is_bool(
        &mut self,
        arg: &Expr,
        value: bool,
        negated: bool,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let bound = self.bind_expr(arg, scope, clause)?;
        let name = match (value, negated) {
            (true, false) => "IS TRUE",
            (true, true) => "IS NOT TRUE",
            (false, false) => "IS FALSE",
            (false, true) => "IS NOT FALSE",
        };
        let condition = self.condition(bound, name)?;
        let position = condition.position;
        let condition = if value { condition } else { condition.negate() };
        let known = TypedExpr::new(
            Kind::Coalesce(vec![condition, TypedExpr::literal(Datum::Bool(false), SqlType::Bool)]),
            SqlType::Bool,
        );
        Ok(if negated { known.negate() } else { known }.at(position))
    }

    fn bind_is_unknown(
        &mut self,
        arg: &Expr,
        negated: bool,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let bound = self.bind_expr(arg, scope, clause)?;
        let condition =
            self.condition(bound, if negated { "IS NOT UNKNOWN" } else { "IS UNKNOWN" })?;
        let test = TypedExpr::boolean(Kind::IsNull(Box::new(condition)));
        Ok(if negated { test.negate() } else { test })
    }

    fn bind_case(
        &mut self,
        operand: Option<&Expr>,
        conditions: &[CaseWhen],
        otherwise: Option<&Expr>,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let operand = match operand {
            Some(operand) => Some(self.bind_typed(operand, scope, clause)?),
            None => None,
        };
        let mut tests = Vec::new();
        let mut values = Vec::new();
        for when in conditions {
            let position = self.start(&when.condition);
            let condition = self.bind_expr(&when.condition, scope, clause)?;
            tests.push(match &operand {
                Some(operand) => self.compare("=", operand.clone(), condition, position)?,
                None => self.condition(condition, "CASE/WHEN")?,
            });
            values.push(self.bind_expr(&when.result, scope, clause)?);
        }
        let has_else = otherwise.is_some();
        if let Some(otherwise) = otherwise {
            // ELSE comes first when Postgres chooses the common type.
            values.insert(0, self.bind_expr(otherwise, scope, clause)?);
        }
        let (mut values, ty) = self.unify(values, "CASE")?;
        let otherwise = has_else.then(|| Box::new(values.remove(0)));
        let branches = tests.into_iter().zip(values).collect();
        Ok(TypedExpr::new(Kind::Case { branches, otherwise }, ty))
    }

    fn bind_array(
        &mut self,
        elements: &[Expr],
        whole: &Expr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let position = self.start(whole);
        if elements.is_empty() {
            return Err(PlanError::new(
                PlanErrorKind::IndeterminateDatatype,
                "cannot determine type of empty array",
            )
            .with_hint("Explicitly cast to the desired type, for example ARRAY[]::integer[].")
            .at(position));
        }
        let elements = elements
            .iter()
            .map(|item| self.bind_expr(item, scope, clause))
            .collect::<Result<Vec<_>, _>>()?;
        let (elements, element) = self.unify(elements, "ARRAY")?;
        let Some(ty) = element.ty.array() else {
            return Err(PlanError::unsupported(
                "multidimensional arrays are not supported",
                "Use one dimension, or jsonb.",
            )
            .at(position));
        };
        let to = TypeMod { ty, typmod: element.typmod };
        Ok(TypedExpr::new(Kind::Array(elements), to).at(position))
    }

    /// `a[1]`, `a[1:2]`, `j['key']`.
    fn bind_subscripts(
        &mut self,
        root: &Expr,
        chain: &[AccessExpr],
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let position = self.start(root);
        let mut value = self.bind_typed(root, scope, clause)?;
        for access in chain {
            let subscript = match access {
                AccessExpr::Subscript(subscript) => subscript,
                AccessExpr::Dot(_) => {
                    return Err(PlanError::unsupported(
                        "composite types are not supported",
                        "Use separate columns, or jsonb.",
                    )
                    .at(position));
                }
            };
            let (name, args) = match subscript {
                Subscript::Index { index } => {
                    ("array_subscript", vec![self.bind_expr(index, scope, clause)?])
                }
                Subscript::Slice { lower_bound, upper_bound, stride: None } => {
                    let mut bounds = Vec::new();
                    for bound in [lower_bound, upper_bound] {
                        bounds.push(match bound {
                            Some(bound) => self.bind_expr(bound, scope, clause)?,
                            None => TypedExpr::literal(Datum::Null, SqlType::Int4),
                        });
                    }
                    ("array_slice", bounds)
                }
                Subscript::Slice { .. } => {
                    return Err(PlanError::new(
                        PlanErrorKind::Syntax,
                        "array slices have no stride",
                    ));
                }
            };
            if value.ty.ty.element().is_none() && value.ty.ty != SqlType::Jsonb {
                return Err(PlanError::new(
                    PlanErrorKind::DatatypeMismatch,
                    format!(
                        "cannot subscript type {} because it does not support subscripting",
                        value.ty.ty.sql_name()
                    ),
                )
                .at(position));
            }
            if value.ty.ty == SqlType::Jsonb {
                value = self.bind_json_subscript(value, name, args, position)?;
                continue;
            }
            let args = std::iter::once(value).chain(args).collect();
            value = self.call(name, args, position, clause)?;
        }
        Ok(value)
    }

    /// `j['key']` and `j[1]`: one step of a path.
    fn bind_json_subscript(
        &mut self,
        value: TypedExpr,
        name: &str,
        args: Vec<TypedExpr>,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        let [step] = <[TypedExpr; 1]>::try_from(args).map_err(|_| {
            PlanError::new(
                PlanErrorKind::DatatypeMismatch,
                format!("jsonb subscript does not support slices: {name}"),
            )
            .at(position)
        })?;
        let at = step.position;
        let ty = step.ty.ty;
        let whole = matches!(ty, SqlType::Int2 | SqlType::Int4 | SqlType::Int8);
        if !whole && !matches!(ty, SqlType::Unknown | SqlType::Text | SqlType::Varchar) {
            return Err(PlanError::new(
                PlanErrorKind::DatatypeMismatch,
                format!("subscript type {} is not supported", ty.sql_name()),
            )
            .with_hint("jsonb subscript must be coercible to either integer or text.")
            .at(at));
        }
        let step = self.cast(step, TypeMod::plain(SqlType::Text))?;
        let path = TypedExpr::new(Kind::Array(vec![step]), SqlType::Array(&SqlType::Text));
        self.binary("#>", value, path, position)
    }

    /// A construct with a syntax of its own that is a call of a function.
    fn named_call(
        &mut self,
        name: &str,
        args: &[&Expr],
        whole: &Expr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let args = args
            .iter()
            .map(|arg| self.bind_expr(arg, scope, clause))
            .collect::<Result<Vec<_>, _>>()?;
        self.call(name, args, self.start(whole), clause)
    }
}

/// Keywords that are calls without parentheses and that the parser takes for names.
fn keyword_function(ident: &Ident) -> Option<&'static str> {
    if ident.quote_style.is_some() {
        return None;
    }
    match ident.value.to_ascii_lowercase().as_str() {
        "current_schema" => Some("current_schema"),
        "current_role" => Some("current_user"),
        _ => None,
    }
}

/// Strings are always compared in C order; asking for it by any of its names is fine. Names that look like a locale's are
/// collations that other servers have, 0A000; the rest is 42704.
pub(crate) fn check_collation(collation: &ObjectName) -> Result<(), PlanError> {
    let Some(ident) = collation.0.last().and_then(|part| part.as_ident()) else {
        return Err(PlanError::new(PlanErrorKind::Syntax, "COLLATE wants a name"));
    };
    let name = fold_ident(ident);
    let language = name.split(['_', '-']).next().unwrap_or_default();
    let is_locale = name == "unicode"
        || matches!(language.len(), 2 | 3)
            && language.chars().all(|c| c.is_ascii_lowercase())
            && language.len() < name.len();
    match name.as_str() {
        "C" | "POSIX" | "default" | "ucs_basic" => Ok(()),
        _ if is_locale => Err(PlanError::unsupported(
            format!("collation \"{name}\" is not supported"),
            "Strings are compared in C order; use COLLATE \"C\".",
        )),
        _ => Err(PlanError::new(
            PlanErrorKind::UndefinedObject,
            format!("collation \"{name}\" for encoding \"UTF8\" does not exist"),
        )),
    }
}
