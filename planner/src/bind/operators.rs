//! Operators, comparisons, LIKE, IN, BETWEEN.
//!
//! Everything ends in a call that the registry resolved; rows are compared column by column.

use std::sync::Arc;

use cortex_functions::registry::{self, CastContext, ResolvedCall};
use cortex_shard_api::{Datum, SqlType, TypeMod};
use sqlparser::ast::{BinaryOperator, Expr, ValueWithSpan};

use super::{
    Binder,
    names::{Clause, Scope},
    typed::{Kind, TypedExpr},
};
use crate::{PlanError, PlanErrorKind};

impl Binder<'_> {
    pub(super) fn bind_binary(
        &mut self,
        whole: &Expr,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        // `x = ANY (...)` arrives as a comparison with a call of ANY in some positions.
        let name = operator_name(op);
        let left_bound = self.bind_expr(left, scope, clause)?;
        let right_bound = self.bind_expr(right, scope, clause)?;
        let result = self.binary(&name, left_bound, right_bound, None);
        // The operator's place is looked for only when something is wrong.
        result.map(|bound| bound.at(None)).map_err(|error| {
            let _ = whole;
            error.at(self.operator_position(left))
        })
    }

    /// A binary operator over bound operands.
    pub(crate) fn binary(
        &mut self,
        op: &str,
        left: TypedExpr,
        right: TypedExpr,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        if matches!(left.kind, Kind::Row(_)) || matches!(right.kind, Kind::Row(_)) {
            return self.compare_rows(op, left, right, position);
        }
        let start = left.position;
        let (call, left, right) = self.resolve_binary(op, left, right, position)?;
        Ok(self.finish_call(call, vec![left, right]).at(start))
    }

    /// A comparison: an operator that yields a boolean.
    pub(crate) fn compare(
        &mut self,
        op: &str,
        left: TypedExpr,
        right: TypedExpr,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        let bound = self.binary(op, left, right, position)?;
        self.condition(bound, op)
    }

    fn resolve_binary(
        &mut self,
        op: &str,
        left: TypedExpr,
        right: TypedExpr,
        position: Option<usize>,
    ) -> Result<(ResolvedCall, TypedExpr, TypedExpr), PlanError> {
        let call = registry::resolve_operator(op, Some(left.ty.ty), right.ty.ty)
            .map_err(|error| PlanError::from(error).at(position))?;
        let [to_left, to_right] = call.arg_types.as_slice() else {
            return Err(PlanError::new(
                PlanErrorKind::Internal,
                format!("operator {op} resolved to {}", call.signature),
            ));
        };
        let left = self.coerce(left, TypeMod::plain(*to_left), CastContext::Implicit)?;
        let right = self.coerce(right, TypeMod::plain(*to_right), CastContext::Implicit)?;
        Ok((call, left, right))
    }

    /// `(a, b) op (c, d)`: equality of all, or the order of the first that differ.
    fn compare_rows(
        &mut self,
        op: &str,
        left: TypedExpr,
        right: TypedExpr,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        let (Kind::Row(left), Kind::Row(right)) = (left.kind, right.kind) else {
            return Err(PlanError::unsupported(
                "a row can only be compared with a row",
                "Write both sides as (a, b, ...).",
            )
            .at(position));
        };
        if left.len() != right.len() {
            return Err(PlanError::new(
                PlanErrorKind::Syntax,
                "unequal number of entries in row expressions",
            )
            .at(position));
        }
        if left.is_empty() {
            return Err(PlanError::new(
                PlanErrorKind::Unsupported,
                "cannot compare rows of zero length",
            )
            .at(position));
        }
        let pairs: Vec<_> = left.into_iter().zip(right).collect();
        match op {
            "=" | "<>" => {
                let terms = pairs
                    .into_iter()
                    .map(|(left, right)| self.compare(op, left, right, position))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(if op == "=" { TypedExpr::and(terms) } else { TypedExpr::or(terms) })
            }
            "<" | "<=" | ">" | ">=" => self.order_rows(op, pairs, position),
            _ => Err(PlanError::new(
                PlanErrorKind::UndefinedFunction,
                format!("operator does not exist: record {op} record"),
            )
            .at(position)),
        }
    }

    /// `(a, b) < (c, d)` is `a < c OR (a = c AND b < d)`, from the last pair to the first.
    fn order_rows(
        &mut self,
        op: &str,
        pairs: Vec<(TypedExpr, TypedExpr)>,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        let strict = &op[..1];
        let mut result: Option<TypedExpr> = None;
        for (left, right) in pairs.into_iter().rev() {
            result = Some(match result {
                None => self.compare(op, left, right, position)?,
                Some(rest) => {
                    let before = self.compare(strict, left.clone(), right.clone(), position)?;
                    let equal = self.compare("=", left, right, position)?;
                    TypedExpr::or(vec![before, TypedExpr::and(vec![equal, rest])])
                }
            });
        }
        result.ok_or_else(|| PlanError::new(PlanErrorKind::Internal, "row without columns"))
    }

    pub(super) fn bind_is_distinct(
        &mut self,
        left: &Expr,
        right: &Expr,
        negated: bool,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let position = self.operator_position(left);
        let left = self.bind_expr(left, scope, clause)?;
        let right = self.bind_expr(right, scope, clause)?;
        self.is_distinct(left, right, negated, position)
    }

    /// `left IS DISTINCT FROM right`; `negated`: IS NOT DISTINCT FROM.
    pub(crate) fn is_distinct(
        &mut self,
        left: TypedExpr,
        right: TypedExpr,
        negated: bool,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        let (left, right) = match (left.kind, right.kind) {
            (Kind::Row(left), Kind::Row(right)) => {
                if left.len() != right.len() {
                    return Err(PlanError::new(
                        PlanErrorKind::Syntax,
                        "unequal number of entries in row expressions",
                    )
                    .at(position));
                }
                let terms = left
                    .into_iter()
                    .zip(right)
                    .map(|(left, right)| self.is_distinct(left, right, negated, position))
                    .collect::<Result<Vec<_>, _>>()?;
                return Ok(if negated { TypedExpr::and(terms) } else { TypedExpr::or(terms) });
            }
            (a, b) => (TypedExpr { kind: a, ..left }, TypedExpr { kind: b, ..right }),
        };
        let (equality, left, right) = self.resolve_binary("=", left, right, position)?;
        Ok(TypedExpr::boolean(Kind::IsDistinct {
            left: Box::new(left),
            right: Box::new(right),
            negated,
            equality: Arc::new(equality),
        }))
    }

    pub(super) fn bind_in_list(
        &mut self,
        left: &Expr,
        list: &[Expr],
        negated: bool,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let position = self.operator_position(left);
        let left = self.bind_expr(left, scope, clause)?;
        let items = list
            .iter()
            .map(|item| self.bind_expr(item, scope, clause))
            .collect::<Result<Vec<_>, _>>()?;
        let is_row = matches!(left.kind, Kind::Row(_))
            || items.iter().any(|item| matches!(item.kind, Kind::Row(_)));
        // As in PostgreSQL: what names no column has one type together with the left side, a column is compared by itself.
        let (single, together): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| is_row || item.has_column());
        let types: Vec<SqlType> =
            std::iter::once(left.ty.ty).chain(together.iter().map(|item| item.ty.ty)).collect();
        let mut terms = Vec::new();
        match registry::common_type(&types, "IN") {
            Ok(common) if together.len() > 1 => {
                terms.push(self.in_list(left.clone(), together, common, position)?);
            }
            _ => {
                for item in together {
                    terms.push(self.compare("=", left.clone(), item, position)?);
                }
            }
        }
        for item in single {
            terms.push(self.compare("=", left.clone(), item, position)?);
        }
        let bound = TypedExpr::or(terms);
        Ok(if negated { bound.negate() } else { bound })
    }

    fn in_list(
        &mut self,
        left: TypedExpr,
        items: Vec<TypedExpr>,
        common: SqlType,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        let call = registry::resolve_operator("=", Some(left.ty.ty), common)
            .map_err(|error| PlanError::from(error).at(position))?;
        let to_left = TypeMod::plain(call.arg_types.first().copied().unwrap_or(common));
        let to_item = TypeMod::plain(call.arg_types.get(1).copied().unwrap_or(common));
        let left = self.coerce(left, to_left, CastContext::Implicit)?;
        let list = items
            .into_iter()
            .map(|item| {
                let item = self.coerce(item, TypeMod::plain(common), CastContext::Implicit)?;
                self.coerce(item, to_item, CastContext::Implicit)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let start = left.position;
        let kind = Kind::InList { expr: Box::new(left), list, equality: Arc::new(call) };
        Ok(TypedExpr::boolean(kind).at(start))
    }

    pub(super) fn bind_between(
        &mut self,
        arg: &Expr,
        low: &Expr,
        high: &Expr,
        negated: bool,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let position = self.operator_position(arg);
        let arg = self.bind_expr(arg, scope, clause)?;
        let low = self.bind_expr(low, scope, clause)?;
        let high = self.bind_expr(high, scope, clause)?;
        let (above, below) = if negated { ("<", ">") } else { (">=", "<=") };
        let above = self.compare(above, arg.clone(), low, position)?;
        let below = self.compare(below, arg, high, position)?;
        let terms = vec![above, below];
        Ok(if negated { TypedExpr::or(terms) } else { TypedExpr::and(terms) })
    }

    pub(super) fn bind_like(
        &mut self,
        op: &str,
        left: &Expr,
        pattern: &Expr,
        escape: Option<&ValueWithSpan>,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let position = self.operator_position(left);
        let left = self.bind_expr(left, scope, clause)?;
        let mut pattern = self.bind_expr(pattern, scope, clause)?;
        if let Some(escape) = escape {
            let escape = self.bind_value(&escape.value, None)?;
            pattern = self.call("like_escape", vec![pattern, escape], position, clause)?;
        }
        self.binary(op, left, pattern, position)
    }

    pub(super) fn bind_similar(
        &mut self,
        negated: bool,
        left: &Expr,
        pattern: &Expr,
        escape: Option<&ValueWithSpan>,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let position = self.operator_position(left);
        let left = self.bind_expr(left, scope, clause)?;
        let mut args = vec![self.bind_expr(pattern, scope, clause)?];
        if let Some(escape) = escape {
            args.push(self.bind_value(&escape.value, None)?);
        }
        let pattern = self.call("similar_to_escape", args, position, clause)?;
        self.binary(if negated { "!~" } else { "~" }, left, pattern, position)
    }

    /// `left op ANY (array or subquery)`, and ALL.
    pub(super) fn bind_quantified(
        &mut self,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
        all: bool,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let name = operator_name(op);
        let mut inner = right;
        while let Expr::Nested(next) = inner {
            inner = next;
        }
        if let Expr::Subquery(query) = inner {
            return self.bind_quantified_subquery(left, &name, query, all, scope, clause);
        }
        let position = self.operator_position(left);
        let left = self.bind_expr(left, scope, clause)?;
        let array = self.bind_expr(inner, scope, clause)?;
        // An untyped array takes its type from the left side.
        let array = if array.ty.ty == SqlType::Unknown {
            let element = if left.ty.ty == SqlType::Unknown { SqlType::Text } else { left.ty.ty };
            let Some(ty) = element.array() else {
                return Err(not_an_array(position));
            };
            self.coerce(array, TypeMod::plain(ty), CastContext::Implicit)?
        } else {
            array
        };
        let Some(element) = array.ty.ty.element() else { return Err(not_an_array(position)) };
        let call = registry::resolve_operator(&name, Some(left.ty.ty), element)
            .map_err(|error| PlanError::from(error).at(position))?;
        if call.returns != SqlType::Bool {
            return Err(PlanError::new(
                PlanErrorKind::WrongObjectType,
                "op ANY/ALL (array) requires operator to yield boolean",
            )
            .at(position));
        }
        let to_left = TypeMod::plain(call.arg_types.first().copied().unwrap_or(element));
        let to_element = call.arg_types.get(1).copied().unwrap_or(element);
        let left = self.coerce(left, to_left, CastContext::Implicit)?;
        let array = match to_element.array() {
            Some(ty) => self.coerce(array, TypeMod::plain(ty), CastContext::Implicit)?,
            None => array,
        };
        Ok(expand_quantified(left, array, Arc::new(call), all))
    }
}

/// A constant array is a list of comparisons, which pruning and pushdown understand.
fn expand_quantified(
    left: TypedExpr,
    array: TypedExpr,
    call: Arc<ResolvedCall>,
    all: bool,
) -> TypedExpr {
    let element = TypeMod::plain(array.ty.ty.element().unwrap_or(SqlType::Text));
    let items = match &array.kind {
        Kind::Array(items) => Some(items.clone()),
        Kind::Literal(Datum::Array(value)) => Some(
            value
                .elements
                .iter()
                .map(|item| TypedExpr::new(Kind::Literal(item.clone()), element))
                .collect(),
        ),
        _ => None,
    };
    let is_equality = call.signature.split('(').next().is_some_and(|name| name.ends_with("eq"));
    match items {
        Some(list) if !list.is_empty() && is_equality && !all => {
            TypedExpr::boolean(Kind::InList { expr: Box::new(left), list, equality: call })
        }
        Some(list) if !list.is_empty() => {
            let terms = list
                .into_iter()
                .map(|item| {
                    let args = vec![left.clone(), item];
                    TypedExpr::boolean(Kind::Call { call: call.clone(), args })
                })
                .collect();
            if all { TypedExpr::and(terms) } else { TypedExpr::or(terms) }
        }
        _ => TypedExpr::boolean(Kind::Quantified {
            left: Box::new(left),
            array: Box::new(array),
            call,
            all,
        }),
    }
}

fn not_an_array(position: Option<usize>) -> PlanError {
    PlanError::new(
        PlanErrorKind::WrongObjectType,
        "op ANY/ALL (array) requires array on right side",
    )
    .at(position)
}

/// The operator as `pg_operator` names it.
pub(crate) fn operator_name(op: &BinaryOperator) -> String {
    match op {
        BinaryOperator::PGBitwiseXor => "#".to_owned(),
        BinaryOperator::NotEq => "<>".to_owned(),
        BinaryOperator::PGCustomBinaryOperator(parts) => parts.last().cloned().unwrap_or_default(),
        other => other.to_string(),
    }
}
