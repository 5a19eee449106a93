//! Subqueries in expressions.
//!
//! DataFusion makes joins of scalar subqueries in projections and filters and of EXISTS and IN in filters. Everything else is
//! prepared here: correlated scalar subqueries are aggregates that insist on one row, and EXISTS, IN, ANY and ALL outside the
//! top level of a WHERE clause are mark joins, with the NULL of three-valued logic told apart by a second mark.

use std::sync::Arc;

use cortex_shard_api::{Datum, TypeMod};
use datafusion::{
    common::{
        Column, DFSchema, ExprSchema, JoinType,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    logical_expr::{
        Case, Distinct, Expr, LogicalPlan, LogicalPlanBuilder, Operator, SortExpr,
        expr::AggregateFunction, lit,
    },
    scalar::ScalarValue,
};
use sqlparser::ast::{Expr as AstExpr, Query, Spanned};

use super::{
    Relational,
    correlated::{is_native, is_native_predicate, predicate_rows},
    dependent::join_on_domain,
    engine_error,
    expr::{balanced, lower, lower_native_subquery, subquery_node},
    project,
};
use crate::{
    PlanError, PlanErrorKind,
    bind::{
        Binder, Clause, Scope,
        typed::{Kind, OuterColumn, SubqueryExpr, SubqueryKind, TypedExpr},
    },
};

/// A subquery as it was planned: its rows, and what it uses of the query around it.
struct Nested {
    relational: Relational,
    outer: Vec<OuterColumn>,
}

impl Binder<'_> {
    fn bind_nested(
        &mut self,
        query: &Query,
        scope: &Scope,
        clause: Clause,
    ) -> Result<Nested, PlanError> {
        let position = self.position(query.span());
        let refused = match clause {
            Clause::Default => Some("cannot use subquery in DEFAULT expression"),
            Clause::Check => Some("cannot use subquery in check constraint"),
            Clause::IndexExpression => Some("cannot use subquery in index expression"),
            _ => None,
        };
        if let Some(message) = refused {
            return Err(PlanError::new(PlanErrorKind::Unsupported, message).at(position));
        }
        self.outer.push(Arc::new(scope.clone()));
        self.outer_used.push(Vec::new());
        let bound = self.bind_subselect(query);
        self.outer.pop();
        let outer = self.outer_used.pop().unwrap_or_default();
        Ok(Nested { relational: bound?, outer })
    }

    fn one_column(&self, nested: &Nested, query: &Query) -> Result<(Column, TypeMod), PlanError> {
        match nested.relational.columns.as_slice() {
            [only] => Ok((only.column.clone(), only.ty)),
            _ => Err(PlanError::new(PlanErrorKind::Syntax, "subquery must return only one column")
                .at(self.open_paren(query))),
        }
    }

    pub(crate) fn bind_scalar_subquery(
        &mut self,
        query: &Query,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let nested = self.bind_nested(query, scope, clause)?;
        let (column, ty) = self.one_column(&nested, query)?;
        let plan = one_row(nested.relational.plan, &column, !nested.outer.is_empty())?;
        let subquery =
            SubqueryExpr { kind: SubqueryKind::Scalar, plan: Arc::new(plan), outer: nested.outer };
        Ok(TypedExpr::new(Kind::Subquery(Box::new(subquery)), ty).at(self.position(query.span())))
    }

    pub(crate) fn bind_array_subquery(
        &mut self,
        query: &Query,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let nested = self.bind_nested(query, scope, clause)?;
        let (column, ty) = self.one_column(&nested, query)?;
        let Some(array) = ty.ty.array() else {
            return Err(PlanError::unsupported(
                "multidimensional arrays are not supported",
                "Use one dimension, or jsonb.",
            )
            .at(self.position(query.span())));
        };
        let (plan, order_by) = split_order(nested.relational.plan);
        let aggregate = Expr::AggregateFunction(AggregateFunction::new_udf(
            datafusion::functions_aggregate::array_agg::array_agg_udaf(),
            vec![Expr::Column(column)],
            false,
            None,
            order_by,
            None,
        ));
        let empty = cortex_functions::lower::literal(
            &cortex_shard_api::Datum::Array(Box::new(cortex_shard_api::value::ArrayValue {
                element: ty.ty,
                lower_bound: 1,
                elements: Vec::new(),
            })),
            array,
        )?;
        let collected = Expr::Column(Column::from_name("elements"));
        let plan = LogicalPlanBuilder::from(plan)
            .aggregate(Vec::<Expr>::new(), vec![aggregate.alias("elements")])
            .and_then(|builder| {
                let value = datafusion::functions::core::expr_fn::coalesce(vec![collected, empty]);
                builder.project(vec![value.alias("array")])
            })
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let subquery =
            SubqueryExpr { kind: SubqueryKind::Array, plan: Arc::new(plan), outer: nested.outer };
        Ok(TypedExpr::new(
            Kind::Subquery(Box::new(subquery)),
            TypeMod { ty: array, typmod: ty.typmod },
        ))
    }

    pub(crate) fn bind_exists(
        &mut self,
        query: &Query,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let nested = self.bind_nested(query, scope, clause)?;
        let subquery = SubqueryExpr {
            kind: SubqueryKind::Exists,
            plan: Arc::new(bare_rows(nested.relational.plan)?),
            outer: nested.outer,
        };
        Ok(TypedExpr::boolean(Kind::Subquery(Box::new(subquery))).at(self.position(query.span())))
    }

    /// `left op ANY (query)`, `left op ALL (query)`, `left IN (query)`.
    pub(crate) fn bind_quantified_subquery(
        &mut self,
        left: &AstExpr,
        op: &str,
        query: &Query,
        all: bool,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let position = self.operator_position(left);
        let left = self.bind_expr(left, scope, clause)?;
        let nested = self.bind_nested(query, scope, clause)?;
        let lefts = match left.kind {
            Kind::Row(items) => items,
            _ => vec![left],
        };
        let columns = &nested.relational.columns;
        if columns.len() != lefts.len() {
            let message = if columns.len() > lefts.len() {
                "subquery has too many columns"
            } else {
                "subquery has too few columns"
            };
            return Err(PlanError::new(PlanErrorKind::Syntax, message).at(position));
        }
        if lefts.len() > 1 && op != "=" {
            return Err(PlanError::unsupported(
                "rows can be compared with a subquery by IN and = ANY only",
                "Use EXISTS with the comparison inside.",
            )
            .at(position));
        }
        let mut bound_left = Vec::new();
        let mut bound_right = Vec::new();
        let mut comparisons = Vec::new();
        for (left, column) in lefts.into_iter().zip(columns) {
            let right = TypedExpr::new(Kind::Plan(Expr::Column(column.column.clone())), column.ty);
            let compared = self.compare(op, left, right, position)?;
            let Kind::Call { call, args } = compared.kind else {
                return Err(PlanError::new(PlanErrorKind::Internal, "comparison is no call"));
            };
            let mut args = args.into_iter();
            bound_left.extend(args.next());
            bound_right.extend(args.next());
            comparisons.push(call);
        }
        let kind =
            SubqueryKind::Quantified { left: bound_left, comparisons, right: bound_right, all };
        let subquery =
            SubqueryExpr { kind, plan: Arc::new(nested.relational.plan), outer: nested.outer };
        Ok(TypedExpr::boolean(Kind::Subquery(Box::new(subquery))).at(position))
    }

    /// Rows of a plan for which the predicate is true.
    pub(crate) fn filter(
        &mut self,
        mut plan: LogicalPlan,
        predicate: TypedExpr,
    ) -> Result<LogicalPlan, PlanError> {
        let terms = match predicate.kind {
            Kind::And(terms) => terms,
            kind => vec![TypedExpr { kind, ..predicate }],
        };
        let mut plain = Vec::new();
        let mut others = Vec::new();
        for term in terms {
            let native = match lower_native_subquery(&term)? {
                Some(native) => Some(native),
                None => native_quantified(&term, plan.schema())?,
            };
            match native.filter(is_native_form) {
                Some(native) => plain.push(native),
                None if term.has_subquery() => others.push(term),
                None => plain.push(lower(&term)?),
            }
        }
        // Subqueries that are joined come behind the rest of the condition: what they are joined with may be a product of
        // tables that only the rest makes small.
        if !plain.is_empty() && !others.is_empty() {
            plan = filtered(plan, balanced(Operator::And, std::mem::take(&mut plain)))?;
        }
        for mut term in others {
            plan = self.mark_subqueries(plan, &mut [&mut term])?;
            plain.push(lower(&term)?);
        }
        filtered(plan, balanced(Operator::And, plain))
    }

    /// Replaces EXISTS, IN, ANY and ALL inside expressions by marks that joins with the subqueries put on each row.
    pub(super) fn mark_subqueries(
        &mut self,
        mut plan: LogicalPlan,
        exprs: &mut [&mut TypedExpr],
    ) -> Result<LogicalPlan, PlanError> {
        for expr in exprs.iter_mut() {
            plan = self.mark_in(plan, expr)?;
        }
        Ok(plan)
    }

    fn mark_in(
        &mut self,
        mut plan: LogicalPlan,
        expr: &mut TypedExpr,
    ) -> Result<LogicalPlan, PlanError> {
        for child in expr.children_mut() {
            plan = self.mark_in(plan, child)?;
        }
        let Kind::Subquery(subquery) = &expr.kind else { return Ok(plan) };
        match &subquery.kind {
            SubqueryKind::Scalar | SubqueryKind::Array => {
                if subquery.outer.is_empty() || is_native(&subquery.plan) {
                    return Ok(plan);
                }
                if has_no_rows(&plan) {
                    // There is no row to compute it for, however it is correlated.
                    expr.kind = Kind::Literal(Datum::Null);
                    return Ok(plan);
                }
                match self.join_scalar(&plan, &subquery.plan)? {
                    Some((joined, value)) => {
                        expr.kind = Kind::Plan(value);
                        Ok(joined)
                    }
                    None => {
                        let (joined, value) =
                            self.join_dependent(plan, &subquery.plan, expr.position)?;
                        expr.kind = Kind::Plan(value);
                        Ok(joined)
                    }
                }
            }
            SubqueryKind::Exists => {
                let inner = subquery.plan.as_ref().clone();
                let (marked, mark) = self.mark_join(plan, inner, expr.position)?;
                expr.kind = Kind::Plan(mark);
                Ok(marked)
            }
            SubqueryKind::Quantified { all, .. } => {
                let all = *all;
                let condition = comparison(subquery, plan.schema())?;
                let decided =
                    if all { Expr::Not(Box::new(condition.clone())) } else { condition.clone() };
                let inner = subquery.plan.as_ref().clone();
                let decides = filtered(inner.clone(), decided)?;
                let unknown = filtered(inner, condition.is_null())?;
                let (marked, decided) = self.mark_join(plan, decides, expr.position)?;
                let (marked, unknown) = self.mark_join(marked, unknown, expr.position)?;
                expr.kind = Kind::Plan(Expr::Case(Case {
                    expr: None,
                    when_then_expr: vec![
                        (Box::new(decided), Box::new(lit(!all))),
                        (Box::new(unknown), Box::new(lit(ScalarValue::Boolean(None)))),
                    ],
                    else_expr: Some(Box::new(lit(all))),
                }));
                Ok(marked)
            }
        }
    }

    /// The plan with the value of a subquery of one row and one column beside each of its rows.
    fn join_dependent(
        &mut self,
        plan: LogicalPlan,
        subquery: &LogicalPlan,
        position: Option<usize>,
    ) -> Result<(LogicalPlan, Expr), PlanError> {
        let [value] = <[Column; 1]>::try_from(subquery.schema().columns()).map_err(|_| {
            PlanError::new(PlanErrorKind::Internal, "scalar subquery without its column")
        })?;
        let Some(rows) = self.dependent(&plan, subquery)? else {
            return Err(too_correlated().at(position));
        };
        // The value gets a name that nothing in the outer plan has.
        let own = self.fresh("value");
        let keys = rows.keys.iter().map(|(_, column)| Expr::Column(column.clone()));
        let exprs: Vec<Expr> = keys.chain([Expr::Column(value).alias(&own)]).collect();
        let right = project(rows.plan, exprs)?;
        let joined = join_on_domain(plan, right, &rows.keys, JoinType::Left, None)?;
        Ok((joined, Expr::Column(Column::from_name(own))))
    }

    /// Marks each row for which the subquery, whatever its shape, has rows.
    fn mark_dependent(
        &mut self,
        plan: LogicalPlan,
        subquery: &LogicalPlan,
        position: Option<usize>,
    ) -> Result<(LogicalPlan, Expr), PlanError> {
        let Some(rows) = self.dependent(&plan, subquery)? else {
            return Err(too_correlated().at(position));
        };
        let own = self.fresh("mark");
        let keys = rows.keys.iter().map(|(_, column)| Expr::Column(column.clone()));
        let right = LogicalPlanBuilder::from(rows.plan)
            .project(keys.collect::<Vec<_>>())
            .and_then(|builder| builder.distinct())
            .and_then(|builder| {
                let mut exprs: Vec<Expr> =
                    rows.keys.iter().map(|(_, column)| Expr::Column(column.clone())).collect();
                exprs.push(lit(true).alias(&own));
                builder.project(exprs)
            })
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let joined = join_on_domain(plan, right, &rows.keys, JoinType::Left, None)?;
        Ok((joined, Expr::Column(Column::from_name(own)).is_not_null()))
    }

    /// Joins so that each row of `plan` is marked with whether the subquery has a row for it.
    fn mark_join(
        &mut self,
        plan: LogicalPlan,
        subquery: LogicalPlan,
        position: Option<usize>,
    ) -> Result<(LogicalPlan, Expr), PlanError> {
        let Some((rows, condition)) = predicate_rows(self, &subquery)? else {
            return self.mark_dependent(plan, &subquery, position);
        };
        let marked = LogicalPlanBuilder::from(plan)
            .join_on(rows, JoinType::LeftMark, Some(balanced(Operator::And, condition)))
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let mark = marked.schema().columns().into_iter().next_back();
        match mark {
            Some(mark) => Ok((marked, Expr::Column(mark))),
            None => Err(PlanError::new(PlanErrorKind::Internal, "mark join without mark")),
        }
    }

    /// Computes subqueries inside expressions in a projection of their own: aggregates, windows and sorts cannot.
    pub(super) fn project_subqueries(
        &mut self,
        plan: LogicalPlan,
        exprs: &mut [&mut TypedExpr],
    ) -> Result<LogicalPlan, PlanError> {
        let plan = self.mark_subqueries(plan, exprs)?;
        let mut computed = Vec::new();
        for expr in exprs.iter_mut() {
            self.take_scalar_subqueries(expr, &mut computed)?;
        }
        if computed.is_empty() {
            return Ok(plan);
        }
        let columns = plan.schema().columns().into_iter().map(Expr::Column);
        let all: Vec<Expr> = columns.chain(computed).collect();
        project(plan, all)
    }

    fn take_scalar_subqueries(
        &mut self,
        expr: &mut TypedExpr,
        computed: &mut Vec<Expr>,
    ) -> Result<(), PlanError> {
        if matches!(expr.kind, Kind::Subquery(_)) {
            let name = self.fresh("subquery");
            computed.push(lower(expr)?.alias(&name));
            expr.kind = Kind::Plan(Expr::Column(Column::from_name(&name)));
            return Ok(());
        }
        for child in expr.children_mut() {
            self.take_scalar_subqueries(child, computed)?;
        }
        Ok(())
    }
}

/// Whether DataFusion makes a join of this EXISTS or IN.
fn is_native_form(expr: &Expr) -> bool {
    let subquery = match expr {
        Expr::Exists(exists) => &exists.subquery.subquery,
        Expr::InSubquery(within) => &within.subquery.subquery,
        _ => return true,
    };
    subquery.all_out_ref_exprs().is_empty() || is_native_predicate(subquery)
}

/// Whether the plan certainly yields nothing, because it joins with a relation that is always empty.
fn has_no_rows(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::EmptyRelation(empty) => !empty.produce_one_row,
        LogicalPlan::Filter(_)
        | LogicalPlan::Projection(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Window(_) => plan.inputs().into_iter().any(has_no_rows),
        LogicalPlan::Join(join) => match join.join_type {
            JoinType::Inner => has_no_rows(&join.left) || has_no_rows(&join.right),
            JoinType::Left => has_no_rows(&join.left),
            _ => false,
        },
        _ => false,
    }
}

fn too_correlated() -> PlanError {
    PlanError::unsupported(
        "this correlated subquery is not supported",
        "Rewrite it as a join or with a window function.",
    )
}

fn filtered(plan: LogicalPlan, condition: Expr) -> Result<LogicalPlan, PlanError> {
    LogicalPlanBuilder::from(plan)
        .filter(condition)
        .and_then(|builder| builder.build())
        .map_err(engine_error)
}

/// The comparison of a quantified subquery, inside the subquery: columns of the left side are outer references there.
fn comparison(subquery: &SubqueryExpr, outer: &DFSchema) -> Result<Expr, PlanError> {
    let SubqueryKind::Quantified { left, comparisons, right, .. } = &subquery.kind else {
        return Err(PlanError::new(PlanErrorKind::Internal, "subquery without comparison"));
    };
    let mut terms = Vec::new();
    for ((left, right), call) in left.iter().zip(right).zip(comparisons) {
        if left.has_subquery() {
            return Err(too_correlated().at(left.position));
        }
        let moved = outer_references(lower(left)?, outer)?;
        let args = vec![(moved, left.ty), (lower(right)?, right.ty)];
        terms.push(cortex_functions::lower::call(call, args));
    }
    Ok(balanced(Operator::And, terms))
}

fn outer_references(expr: Expr, outer: &DFSchema) -> Result<Expr, PlanError> {
    let mut nested = false;
    let moved = expr
        .transform(|expr| {
            Ok(match expr {
                Expr::Column(column) => {
                    let field = outer.field_from_column(&column)?.clone();
                    Transformed::yes(Expr::OuterReferenceColumn(field, column))
                }
                Expr::OuterReferenceColumn(..) => {
                    nested = true;
                    Transformed::no(expr)
                }
                other => Transformed::no(other),
            })
        })
        .data()
        .map_err(engine_error)?;
    if nested { Err(too_correlated()) } else { Ok(moved) }
}

/// A top-level term of WHERE of the form [NOT] ANY/ALL (subquery), where only truth counts, as [NOT] EXISTS.
fn native_quantified(term: &TypedExpr, outer: &DFSchema) -> Result<Option<Expr>, PlanError> {
    let (inner, not) = match &term.kind {
        Kind::Not(inner) => (&**inner, true),
        _ => (term, false),
    };
    let Kind::Subquery(subquery) = &inner.kind else { return Ok(None) };
    let SubqueryKind::Quantified { all, left, .. } = &subquery.kind else { return Ok(None) };
    if left.iter().any(TypedExpr::has_subquery) {
        return Ok(None);
    }
    let condition = comparison(subquery, outer)?;
    // True: ANY finds a true; ALL finds none that is not true. False: the other way round.
    let (condition, negated) = match (*all, not) {
        (false, false) => (condition, false),
        (false, true) => (Expr::IsNotFalse(Box::new(condition)), true),
        (true, false) => (Expr::IsNotTrue(Box::new(condition)), true),
        (true, true) => (Expr::Not(Box::new(condition)), false),
    };
    let plan = filtered(subquery.plan.as_ref().clone(), condition)?;
    Ok(Some(Expr::Exists(datafusion::logical_expr::expr::Exists {
        subquery: subquery_node(Arc::new(plan)),
        negated,
    })))
}

/// Rows for EXISTS, without what they show: as in PostgreSQL, the select list, ORDER BY and DISTINCT are not computed.
fn bare_rows(mut plan: LogicalPlan) -> Result<LogicalPlan, PlanError> {
    loop {
        plan = match plan {
            LogicalPlan::Projection(it) => Arc::unwrap_or_clone(it.input),
            LogicalPlan::Sort(it) if it.fetch.is_none() => Arc::unwrap_or_clone(it.input),
            LogicalPlan::Distinct(Distinct::All(input)) => Arc::unwrap_or_clone(input),
            rows => return project(rows, vec![lit(true).alias("row")]),
        };
    }
}

/// The subquery's rows without their order, and the order.
fn split_order(plan: LogicalPlan) -> (LogicalPlan, Vec<SortExpr>) {
    match plan {
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
            (Arc::unwrap_or_clone(sort.input), sort.expr)
        }
        LogicalPlan::Projection(projection) => match projection.input.as_ref() {
            // Hidden sort columns were dropped: below them everything is still there.
            LogicalPlan::Sort(sort)
                if sort.fetch.is_none()
                    && projection.expr.iter().all(|expr| matches!(expr, Expr::Column(_))) =>
            {
                (sort.input.as_ref().clone(), sort.expr.clone())
            }
            _ => (LogicalPlan::Projection(projection), Vec::new()),
        },
        other => (other, Vec::new()),
    }
}

/// A scalar subquery as a plan of at most one row, or the error that there are more.
fn one_row(plan: LogicalPlan, column: &Column, correlated: bool) -> Result<LogicalPlan, PlanError> {
    if let LogicalPlan::Limit(limit) = &plan
        && limit.skip.is_none()
        && is_one(limit.fetch.as_deref())
    {
        if !correlated {
            return Ok(plan);
        }
        let (rows, order_by) = split_order(limit.input.as_ref().clone());
        let first = Expr::AggregateFunction(AggregateFunction::new_udf(
            datafusion::functions_aggregate::first_last::first_value_udaf(),
            vec![Expr::Column(column.clone())],
            false,
            None,
            order_by,
            None,
        ));
        return aggregate_as(rows, first, &column.name);
    }
    if yields_one_row(&plan) {
        return Ok(plan);
    }
    aggregate_as(
        plan,
        cortex_functions::lower::single_value(Expr::Column(column.clone())),
        &column.name,
    )
}

fn aggregate_as(plan: LogicalPlan, aggregate: Expr, name: &str) -> Result<LogicalPlan, PlanError> {
    let inner = format!("{name}#value");
    LogicalPlanBuilder::from(plan)
        .aggregate(Vec::<Expr>::new(), vec![aggregate.alias(&inner)])
        .and_then(|builder| {
            builder.project(vec![Expr::Column(Column::from_name(&inner)).alias(name)])
        })
        .and_then(|builder| builder.build())
        .map_err(engine_error)
}

fn is_one(fetch: Option<&Expr>) -> bool {
    matches!(fetch, Some(Expr::Literal(ScalarValue::Int64(Some(1)), _)))
}

/// An aggregate without groups, under projections only.
fn yields_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => yields_one_row(&projection.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        _ => false,
    }
}
