//! Calls of functions, aggregates and window functions.
//!
//! Lives here: what a name followed by parentheses is, and the few names that are syntax rather than functions (COALESCE,
//! NULLIF, GREATEST, CURRENT_DATE, GROUPING).

use std::sync::Arc;

use cortex_functions::registry::{self, CastContext, ResolvedCall};
use cortex_shard_api::{Datum, SqlType, TypeMod};
use sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArguments, NullTreatment, OrderByExpr, WindowType,
};

use super::{
    Binder,
    names::{Clause, Scope, fold_ident},
    typed::{AggregateCall, Kind, SortKey, TypedExpr, WindowCall},
};
use crate::{PlanError, PlanErrorKind};

/// A call's parts as they are written.
struct Arguments<'a> {
    args: Vec<&'a Expr>,
    star: bool,
    distinct: bool,
    order_by: &'a [OrderByExpr],
}

impl Binder<'_> {
    pub(super) fn bind_function(
        &mut self,
        function: &Function,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let name = self.function_name(function)?;
        let position = function
            .name
            .0
            .first()
            .and_then(|part| part.as_ident())
            .and_then(|ident| self.position(ident.span));
        if let FunctionArguments::Subquery(query) = &function.args {
            return match name.as_str() {
                "array" => self.bind_array_subquery(query, scope, clause),
                _ => {
                    let arg = self.bind_scalar_subquery(query, scope, clause)?;
                    self.call(&name, vec![arg], position, clause)
                }
            };
        }
        let arguments = self.arguments(function, position)?;
        if registry::is_aggregate(&name) || registry::is_window_function(&name) {
            return self.bind_aggregate(&name, function, &arguments, position, scope, clause);
        }
        if function.over.is_some() {
            return Err(PlanError::new(
                PlanErrorKind::WrongObjectType,
                format!(
                    "OVER specified, but {name} is not a window function nor an aggregate function"
                ),
            )
            .at(position));
        }
        for (given, what) in [
            (arguments.distinct, "DISTINCT"),
            (!arguments.order_by.is_empty(), "ORDER BY"),
            (function.filter.is_some(), "FILTER"),
            (!function.within_group.is_empty(), "WITHIN GROUP"),
        ] {
            if given {
                return Err(PlanError::new(
                    PlanErrorKind::WrongObjectType,
                    format!("{what} specified, but {name} is not an aggregate function"),
                )
                .at(position));
            }
        }
        if arguments.star {
            return Err(PlanError::new(
                PlanErrorKind::UndefinedFunction,
                format!("{name}(*) specified, but {name} is not an aggregate function"),
            )
            .at(position));
        }
        if name == "grouping" {
            return self.bind_grouping(&arguments.args, position, scope, clause);
        }
        let args = arguments
            .args
            .iter()
            .map(|arg| self.bind_expr(arg, scope, clause))
            .collect::<Result<Vec<_>, _>>()?;
        match self.special_form(&name, args, position)? {
            Ok(form) => Ok(form),
            Err(args) => self.call(&name, args, position, clause),
        }
    }

    fn function_name(&self, function: &Function) -> Result<String, PlanError> {
        let parts: Vec<String> =
            function.name.0.iter().filter_map(|part| part.as_ident()).map(fold_ident).collect();
        match parts.as_slice() {
            [name] => Ok(name.clone()),
            [schema, name] if schema == "pg_catalog" => Ok(name.clone()),
            [schema, name] if self.namespace.system.is_administration(schema, name) => {
                Err(stands_alone(&parts.join(".")))
            }
            _ => Err(PlanError::new(
                PlanErrorKind::UndefinedFunction,
                format!("function {} does not exist", parts.join(".")),
            )),
        }
    }

    fn arguments<'e>(
        &self,
        function: &'e Function,
        position: Option<usize>,
    ) -> Result<Arguments<'e>, PlanError> {
        let mut found = Arguments { args: Vec::new(), star: false, distinct: false, order_by: &[] };
        let FunctionArguments::List(list) = &function.args else { return Ok(found) };
        found.distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
        for arg in &list.args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => found.args.push(expr),
                FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => found.star = true,
                FunctionArg::Unnamed(_) => {
                    return Err(PlanError::unsupported(
                        "whole-row arguments are not supported",
                        "Name the columns.",
                    )
                    .at(position));
                }
                FunctionArg::Named { .. } | FunctionArg::ExprNamed { .. } => {
                    return Err(PlanError::unsupported(
                        "named arguments are not supported",
                        "Give the arguments by position.",
                    )
                    .at(position));
                }
            }
        }
        for clause in &list.clauses {
            match clause {
                FunctionArgumentClause::OrderBy(keys) => found.order_by = keys,
                other => {
                    return Err(PlanError::unsupported(
                        format!("{other} in a function call is not supported"),
                        "PostgreSQL 15 does not have it either.",
                    )
                    .at(position));
                }
            }
        }
        Ok(found)
    }

    /// A function by name over bound arguments; casts written as calls, `int4('5')`, too.
    pub(crate) fn call(
        &mut self,
        name: &str,
        args: Vec<TypedExpr>,
        position: Option<usize>,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let types: Vec<SqlType> = args.iter().map(|arg| arg.ty.ty).collect();
        let call = match registry::resolve_function(name, &types) {
            Ok(call) => call,
            Err(error) => {
                if let [arg] = args.as_slice()
                    && let Some(to) = registry::type_by_name(name)
                    && (arg.ty.ty == SqlType::Unknown
                        || registry::can_cast(arg.ty.ty, to, CastContext::Explicit))
                {
                    return self.cast(arg.clone(), TypeMod::plain(to));
                }
                if self.namespace.system.is_administration("pg_catalog", name) {
                    return Err(stands_alone(name).at(position));
                }
                return Err(PlanError::from(error).at(position));
            }
        };
        if call.returns_set && !clause.allows_sets() {
            return Err(PlanError::new(
                PlanErrorKind::Unsupported,
                format!("set-returning functions are not allowed in {}", clause.name()),
            )
            .at(position));
        }
        let args = self.coerce_args(args, &call.arg_types)?;
        Ok(self.finish_call(call, args).at(position))
    }

    /// The node of a resolved call.
    pub(crate) fn finish_call(&self, call: ResolvedCall, args: Vec<TypedExpr>) -> TypedExpr {
        let types: Vec<TypeMod> = args.iter().map(|arg| arg.ty).collect();
        let typmod = registry::result_typmod(&call, &types);
        let ty = TypeMod { ty: call.returns, typmod };
        TypedExpr::new(Kind::Call { call: Arc::new(call), args }, ty)
    }

    /// Names that are syntax. Gives the arguments back for all others.
    fn special_form(
        &mut self,
        name: &str,
        mut args: Vec<TypedExpr>,
        position: Option<usize>,
    ) -> Result<Result<TypedExpr, Vec<TypedExpr>>, PlanError> {
        let form = match (name, args.len()) {
            ("coalesce", 1..) => {
                let (args, ty) = self.unify(args, "COALESCE")?;
                TypedExpr::new(Kind::Coalesce(args), ty)
            }
            ("nullif", 2) => {
                let right = args.remove(1);
                let left = args.remove(0);
                let left_type = left.ty.ty;
                let test = self.compare("=", left, right, position)?;
                // The result is the left side as the comparison sees it.
                let value = match &test.kind {
                    Kind::Call { args, .. } if left_type == SqlType::Unknown => args[0].clone(),
                    Kind::Call { args, .. } => match &args[0].kind {
                        Kind::Cast { arg, explicit: false } => (**arg).clone(),
                        _ => args[0].clone(),
                    },
                    _ => return Ok(Err(vec![])),
                };
                let null = TypedExpr::new(Kind::Literal(Datum::Null), value.ty);
                let ty = value.ty;
                let branches = vec![(test, null)];
                TypedExpr::new(Kind::Case { branches, otherwise: Some(Box::new(value)) }, ty)
            }
            ("greatest", 1..) => self.extreme(args, "GREATEST", ">=", position)?,
            ("least", 1..) => self.extreme(args, "LEAST", "<=", position)?,
            ("row", _) => TypedExpr::new(Kind::Row(args), SqlType::Record),
            ("current_timestamp", _) => self.now_as(SqlType::Timestamptz, &args)?,
            ("localtimestamp", _) => self.now_as(SqlType::Timestamp, &args)?,
            ("localtime", _) => self.now_as(SqlType::Time, &args)?,
            ("current_date", 0) => self.now_as(SqlType::Date, &args)?,
            ("current_time", _) => {
                return Err(PlanError::unsupported(
                    "type time with time zone is not supported",
                    "Use localtime or current_timestamp.",
                )
                .at(position));
            }
            ("user" | "current_role", 0) => {
                self.call("current_user", args, position, Clause::Select)?
            }
            ("current_catalog", 0) => {
                self.call("current_database", args, position, Clause::Select)?
            }
            _ => return Ok(Err(args)),
        };
        Ok(Ok(form.at(position)))
    }

    fn now_as(&mut self, ty: SqlType, precision: &[TypedExpr]) -> Result<TypedExpr, PlanError> {
        let typmod = match precision.first().map(|arg| &arg.kind) {
            Some(Kind::Literal(Datum::Int4(digits))) => (*digits).clamp(0, 6),
            _ => -1,
        };
        let now = self.call("now", Vec::new(), None, Clause::Select)?;
        self.cast(now, TypeMod { ty, typmod })
    }

    /// GREATEST and LEAST ignore NULLs: the first argument that no other one beats.
    fn extreme(
        &mut self,
        args: Vec<TypedExpr>,
        name: &str,
        op: &str,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        let (args, ty) = self.unify(args, name)?;
        let mut branches = Vec::new();
        for (index, arg) in args.iter().enumerate() {
            let is_null = |arg: &TypedExpr| TypedExpr::boolean(Kind::IsNull(Box::new(arg.clone())));
            let mut terms = vec![is_null(arg).negate()];
            // Those before have already lost.
            for other in &args[index + 1..] {
                let beats = self.compare(op, arg.clone(), other.clone(), position)?;
                terms.push(TypedExpr::or(vec![is_null(other), beats]));
            }
            branches.push((TypedExpr::and(terms), arg.clone()));
        }
        Ok(TypedExpr::new(Kind::Case { branches, otherwise: None }, ty))
    }

    fn bind_grouping(
        &mut self,
        args: &[&Expr],
        position: Option<usize>,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        if !clause.allows_aggregates() {
            return Err(PlanError::new(
                PlanErrorKind::Grouping,
                format!("grouping operations are not allowed in {}", clause.name()),
            )
            .at(position));
        }
        let args = args
            .iter()
            .map(|arg| self.bind_expr(arg, scope, Clause::GroupBy))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(TypedExpr::new(Kind::Grouping(args), SqlType::Int4).at(position))
    }

    fn bind_aggregate(
        &mut self,
        name: &str,
        function: &Function,
        arguments: &Arguments<'_>,
        position: Option<usize>,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let windowed = function.over.is_some();
        let allowed = if windowed { clause.allows_windows() } else { clause.allows_aggregates() };
        if !allowed {
            let (kind, what) = if windowed {
                (PlanErrorKind::Windowing, "window functions")
            } else {
                (PlanErrorKind::Grouping, "aggregate functions")
            };
            return Err(PlanError::new(
                kind,
                format!("{what} are not allowed in {}", clause.name()),
            )
            .at(position));
        }
        if registry::is_window_function(name) && !registry::is_aggregate(name) && !windowed {
            return Err(PlanError::new(
                PlanErrorKind::WrongObjectType,
                format!("window function {name} requires an OVER clause"),
            )
            .at(position));
        }
        if function.null_treatment == Some(NullTreatment::IgnoreNulls) {
            return Err(PlanError::new(
                PlanErrorKind::Syntax,
                "syntax error at or near \"IGNORE\"",
            )
            .at(position));
        }
        // Aggregates of aggregates are for windows only: sum(sum(x)) OVER ().
        let inner = if windowed { Clause::Window } else { Clause::Filter };
        let mut args = Vec::new();
        for arg in &arguments.args {
            args.push(self.aggregate_arg(arg, windowed, scope, clause, position)?);
        }
        let ordered_set = !function.within_group.is_empty();
        let keys = if ordered_set { &function.within_group[..] } else { arguments.order_by };
        let mut order_by = Vec::new();
        for key in keys {
            order_by.push(self.sort_key(key, scope, inner)?);
        }
        if ordered_set {
            args.extend(order_by.iter().map(|key| key.expr.clone()));
        }
        if arguments.star && name != "count" {
            return Err(PlanError::new(
                PlanErrorKind::UndefinedFunction,
                format!("function {name}() does not exist"),
            )
            .at(position));
        }
        if !arguments.star && args.is_empty() && name == "count" {
            return Err(PlanError::new(
                PlanErrorKind::WrongObjectType,
                "count(*) must be used to call a parameterless aggregate function",
            )
            .at(position));
        }
        let types: Vec<SqlType> = args.iter().map(|arg| arg.ty.ty).collect();
        let call = registry::resolve_aggregate(name, &types)
            .map_err(|error| PlanError::from(error).at(position))?;
        let args = self.coerce_args(args, &call.arg_types)?;
        if ordered_set {
            // The ordered values are the last arguments, with their final types.
            let direct = args.len() - order_by.len();
            for (key, arg) in order_by.iter_mut().zip(&args[direct..]) {
                key.expr = arg.clone();
            }
        }
        if arguments.distinct && !ordered_set {
            check_distinct_order(&args, &order_by, position)?;
        }
        let filter = match &function.filter {
            Some(filter) => Some(self.bind_predicate(filter, scope, Clause::Filter)?),
            None => None,
        };
        let ty = TypeMod::plain(call.returns);
        let call = Arc::new(call);
        let kind = match &function.over {
            None => Kind::Aggregate(Box::new(AggregateCall {
                call,
                args,
                distinct: arguments.distinct,
                filter,
                order_by,
            })),
            Some(over) => {
                if arguments.distinct || !order_by.is_empty() {
                    let what = if arguments.distinct { "DISTINCT" } else { "aggregate ORDER BY" };
                    return Err(PlanError::new(
                        PlanErrorKind::Unsupported,
                        format!("{what} is not implemented for window functions"),
                    )
                    .at(position));
                }
                Kind::Window(Box::new(self.bind_over(over, call, args, filter, scope)?))
            }
        };
        Ok(TypedExpr::new(kind, ty).at(position))
    }

    fn aggregate_arg(
        &mut self,
        arg: &Expr,
        windowed: bool,
        scope: &Scope,
        clause: Clause,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        // Window arguments may hold aggregates; no argument may hold a window function.
        let inner = if windowed { Clause::Window } else { clause };
        let bound = self.bind_expr(arg, scope, inner)?;
        let at = bound.position.or(position);
        if bound.has_window() {
            let message = if windowed {
                "window function calls cannot be nested"
            } else {
                "aggregate function calls cannot contain window function calls"
            };
            let kind = if windowed { PlanErrorKind::Windowing } else { PlanErrorKind::Grouping };
            return Err(PlanError::new(kind, message).at(at));
        }
        if !windowed && bound.has_aggregate() {
            return Err(PlanError::new(
                PlanErrorKind::Grouping,
                "aggregate function calls cannot be nested",
            )
            .at(at));
        }
        if bound.has_set() {
            return Err(PlanError::new(
                PlanErrorKind::Unsupported,
                "aggregate function calls cannot contain set-returning function calls",
            )
            .at(at));
        }
        Ok(bound)
    }

    fn bind_over(
        &mut self,
        over: &WindowType,
        call: Arc<registry::ResolvedAggregate>,
        args: Vec<TypedExpr>,
        filter: Option<TypedExpr>,
        scope: &Scope,
    ) -> Result<WindowCall, PlanError> {
        let spec = self.window_spec(over, scope)?;
        let partition_by = spec
            .partition_by
            .iter()
            .map(|key| self.bind_typed(key, scope, Clause::Window))
            .collect::<Result<Vec<_>, _>>()?;
        let order_by = spec
            .order_by
            .iter()
            .map(|key| self.sort_key(key, scope, Clause::Window))
            .collect::<Result<Vec<_>, _>>()?;
        let frame = self.bind_frame(spec.window_frame.as_ref(), &order_by, scope)?;
        Ok(WindowCall { call, args, filter, partition_by, order_by, frame })
    }

    /// One ORDER BY key over a scope; literals are values here, not ordinals.
    pub(crate) fn sort_key(
        &mut self,
        key: &OrderByExpr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<SortKey, PlanError> {
        let expr = self.bind_typed(&key.expr, scope, clause)?;
        let ascending = key.options.asc.unwrap_or(true);
        let nulls_first = key.options.nulls_first.unwrap_or(!ascending);
        check_orderable(&expr)?;
        Ok(SortKey { expr, ascending, nulls_first })
    }
}

/// A function that changes the cluster, called inside another statement.
pub(crate) fn stands_alone(name: &str) -> PlanError {
    PlanError::unsupported(
        format!("function {name} can only be called by itself"),
        format!(
            "Use SELECT {name}(...) without FROM, or SELECT ... FROM {name}(...) without other relations, with constants and \
             parameters as arguments."
        ),
    )
}

/// json has no order and no equality.
pub(crate) fn check_orderable(expr: &TypedExpr) -> Result<(), PlanError> {
    let ty = expr.ty.ty.element().unwrap_or(expr.ty.ty);
    if matches!(ty, SqlType::Json | SqlType::Void | SqlType::Record) {
        return Err(PlanError::new(
            PlanErrorKind::UndefinedFunction,
            format!("could not identify an ordering operator for type {}", expr.ty.ty.sql_name()),
        )
        .with_hint("Use an explicit ordering operator or modify the query.")
        .at(expr.position));
    }
    Ok(())
}

fn check_distinct_order(
    args: &[TypedExpr],
    order_by: &[SortKey],
    position: Option<usize>,
) -> Result<(), PlanError> {
    if order_by.iter().all(|key| args.iter().any(|arg| arg.same(&key.expr))) {
        return Ok(());
    }
    Err(PlanError::new(
        PlanErrorKind::InvalidColumnReference,
        "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
    )
    .at(position))
}
