//! Correlated scalar subqueries that DataFusion cannot decorrelate: those whose condition is more than equalities, and those
//! that compute with the outer row.
//!
//! Before: a row of the outer plan, and a subquery `aggregate(rows where condition(outer, row))`.
//! After: number the outer rows, join them with the rows (outer join on the condition, matches marked), aggregate by number
//! over the marked rows. Costs a join and an aggregation of the outer plan, so it is the second choice.

use std::collections::{BTreeSet, HashMap, HashSet};

use datafusion::{
    common::{
        Column, JoinType, TableReference,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, Operator, lit},
    optimizer::decorrelate::PullUpCorrelatedExpr,
    scalar::ScalarValue,
};

use super::{engine_error, expr::balanced, project, select::row_number};
use crate::{PlanError, bind::Binder};

/// Whether DataFusion makes a join of this correlated subquery by itself.
pub(super) fn is_native(plan: &LogicalPlan) -> bool {
    let pull_up = PullUpCorrelatedExpr::new().with_need_handle_count_bug(true);
    pulled_up(plan, pull_up).is_some_and(|(_, plan)| has_distinct_names(&plan))
}

/// Whether it makes a join of EXISTS or IN with this subquery.
pub(super) fn is_native_predicate(plan: &LogicalPlan) -> bool {
    let pull_up = PullUpCorrelatedExpr::new().with_exists_sub_query(true);
    pulled_up(plan, pull_up).is_some_and(|(_, plan)| has_distinct_names(&plan))
}

/// The rows of EXISTS with the columns that its conditions on the outer row need, all under names of their own, and those
/// conditions over them; `None` where the conditions cannot move up.
pub(super) fn predicate_rows(
    binder: &mut Binder<'_>,
    subquery: &LogicalPlan,
) -> Result<Option<(LogicalPlan, Vec<Expr>)>, PlanError> {
    let pull_up = PullUpCorrelatedExpr::new().with_exists_sub_query(true);
    let pulled_up = match subquery.all_out_ref_exprs().is_empty() {
        true => Some((pull_up, subquery.clone())),
        false => pulled_up(subquery, pull_up),
    };
    let Some((pull_up, rows)) = pulled_up else { return Ok(None) };
    // With a qualifier, because a mark is named by it.
    let table = TableReference::bare(binder.qualifier("subquery"));
    // Tables have names of their own in the whole statement, so what is not among these is the outer row's.
    let inner: HashSet<&Column> = pull_up.correlated_subquery_cols_map.values().flatten().collect();
    let columns = rows.schema().columns();
    let mut own: Vec<(Column, String)> = Vec::new();
    let mut names = HashMap::new();
    // In one order, so that the same text makes the same plan.
    let named: Vec<BTreeSet<&Column>> =
        pull_up.join_filters.iter().map(|it| it.column_refs().into_iter().collect()).collect();
    for column in named.into_iter().flatten().filter(|column| inner.contains(column)) {
        // Above an alias a column has another table's name.
        let mut called_so = columns.iter().filter(|it| it.name == column.name);
        let found = match (columns.contains(column), called_so.next(), called_so.next()) {
            (true, _, _) => column,
            (false, Some(only), None) => only,
            _ => return Ok(None),
        };
        let name = match own.iter().find(|(column, _)| column == found) {
            Some((_, name)) => String::clone(name),
            None => {
                let name = binder.fresh("row");
                own.push((found.clone(), name.clone()));
                name
            }
        };
        names.insert(column.clone(), Expr::Column(Column::new(Some(table.clone()), name)));
    }
    let mut projection: Vec<Expr> =
        own.into_iter().map(|(column, name)| Expr::Column(column).alias(name)).collect();
    if projection.is_empty() {
        projection.push(lit(true).alias(binder.fresh("row")));
    }
    let conditions = pull_up
        .join_filters
        .into_iter()
        .map(|filter| substitute(filter, &names))
        .collect::<Result<Vec<_>, _>>()?;
    let rows = LogicalPlanBuilder::from(project(rows, projection)?)
        .alias(table)
        .and_then(|builder| builder.build())
        .map_err(engine_error)?;
    Ok(Some((rows, conditions)))
}

fn pulled_up(
    plan: &LogicalPlan,
    mut pull_up: PullUpCorrelatedExpr,
) -> Option<(PullUpCorrelatedExpr, LogicalPlan)> {
    if computes_over_outer(plan) {
        return None;
    }
    let mut correlated = HashSet::new();
    correlated_aliases(plan, &mut correlated);
    let plan = plan.clone().rewrite(&mut pull_up).data().ok()?;
    let is_whole = pull_up.can_pull_up
        && plan.all_out_ref_exprs().is_empty()
        && aliases_have_distinct_names(&plan, &correlated);
    is_whole.then_some((pull_up, plan))
}

/// Columns that move up keep their names without their tables: two of one name would be taken for one.
fn has_distinct_names(plan: &LogicalPlan) -> bool {
    let mut seen = HashSet::new();
    plan.schema().fields().iter().all(|field| seen.insert(field.name()))
}

/// The names of subqueries in FROM that look at the outer row.
fn correlated_aliases(plan: &LogicalPlan, found: &mut HashSet<TableReference>) {
    if let LogicalPlan::SubqueryAlias(it) = plan
        && !plan.all_out_ref_exprs().is_empty()
    {
        found.insert(it.alias.clone());
    }
    plan.inputs().into_iter().for_each(|input| correlated_aliases(input, found));
}

/// An alias takes the tables off its columns' names.
fn aliases_have_distinct_names(plan: &LogicalPlan, aliases: &HashSet<TableReference>) -> bool {
    let here = match plan {
        LogicalPlan::SubqueryAlias(it) => {
            !aliases.contains(&it.alias) || has_distinct_names(&it.input)
        }
        _ => true,
    };
    here && plan.inputs().into_iter().all(|input| aliases_have_distinct_names(input, aliases))
}

/// Whether an operator that looks at several rows stands above a reference to the outer row, so that it would see the rows of
/// all outer rows once the condition has moved up. DataFusion does not check windows and conditions on aggregates.
fn computes_over_outer(plan: &LogicalPlan) -> bool {
    let correlated = |plan: &LogicalPlan| !plan.all_out_ref_exprs().is_empty();
    let here = match plan {
        LogicalPlan::Window(window) => correlated(&window.input),
        LogicalPlan::Limit(limit) => {
            let some = matches!(
                limit.fetch.as_deref(),
                Some(Expr::Literal(ScalarValue::Int64(Some(1..)), _))
            );
            correlated(&limit.input) && (limit.skip.is_some() || !some)
        }
        LogicalPlan::Filter(filter) => {
            matches!(&*filter.input, LogicalPlan::Aggregate(it) if correlated(&it.input))
        }
        LogicalPlan::Join(join) => join.join_type != JoinType::Inner && correlated(plan),
        // What is pulled up would be a column more of the first term, and none of the steps.
        LogicalPlan::RecursiveQuery(_) => correlated(plan),
        _ => false,
    };
    here || plan.inputs().into_iter().any(computes_over_outer)
}

impl Binder<'_> {
    /// The outer plan with the subquery's value for each row beside it; `None` where it has another shape.
    pub(super) fn join_scalar(
        &mut self,
        outer: &LogicalPlan,
        subquery: &LogicalPlan,
    ) -> Result<Option<(LogicalPlan, Expr)>, PlanError> {
        let Some((value, aggregate)) = take_aggregate(subquery)? else { return Ok(None) };
        let (input, substitutions) = take_projections(&aggregate.input)?;
        if computes_over_outer(&input) {
            return Ok(None);
        }
        let mut pull_up = PullUpCorrelatedExpr::new();
        // It fails where the columns that move up meet others of their name.
        let Ok(rows) = input.rewrite(&mut pull_up).data() else { return Ok(None) };
        if !pull_up.can_pull_up || !rows.all_out_ref_exprs().is_empty() {
            return Ok(None);
        }
        // The rows under names that nothing else has, each marked.
        let mut names = HashMap::new();
        let mut projection = Vec::new();
        for column in rows.schema().columns() {
            let name = self.fresh("row");
            projection.push(Expr::Column(column.clone()).alias(&name));
            names.insert(column, Expr::Column(Column::from_name(name)));
        }
        let matched = self.fresh("matched");
        projection.push(lit(true).alias(&matched));
        let rows = project(rows, projection)?;
        // The outer rows, numbered.
        let columns = outer.schema().columns();
        let number = row_number(Vec::new(), Vec::new());
        let number_column = Column::from_name(number.schema_name().to_string());
        let own_number = self.fresh("outer");
        let mut projection: Vec<Expr> = columns.iter().cloned().map(Expr::Column).collect();
        projection.push(Expr::Column(number_column).alias(&own_number));
        let numbered = LogicalPlanBuilder::window_plan(outer.clone(), [number])
            .map_err(engine_error)
            .and_then(|plan| project(plan, projection))?;
        let condition = pull_up
            .join_filters
            .into_iter()
            .map(|filter| substitute(filter, &names))
            .collect::<Result<Vec<_>, _>>()?;
        let joined = LogicalPlanBuilder::from(numbered)
            .join_on(rows, JoinType::Left, Some(balanced(Operator::And, condition)))
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let mut parts = Vec::new();
        let mut results = HashMap::new();
        for (expr, column) in aggregate.aggr_expr.iter().zip(aggregate.schema.columns()) {
            let call = substitute(expr.clone().unalias(), &substitutions)?;
            let call = substitute(outer_to_plain(call)?, &names)?;
            let Some(call) = only_matched(call, Column::from_name(&matched)) else {
                return Ok(None);
            };
            let name = self.fresh("value");
            parts.push(call.alias(&name));
            results.insert(column, Expr::Column(Column::from_name(name)));
        }
        let mut groups = vec![Expr::Column(Column::from_name(&own_number))];
        groups.extend(columns.into_iter().map(Expr::Column));
        let plan = LogicalPlanBuilder::from(joined)
            .aggregate(groups, parts)
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let value = outer_to_plain(substitute(value, &results)?)?;
        Ok(Some((plan, value)))
    }
}

/// The aggregation without groups that yields the subquery's row, and the value over its columns.
fn take_aggregate(plan: &LogicalPlan) -> Result<Option<(Expr, Aggregate)>, PlanError> {
    let mut value: Option<Expr> = None;
    let mut plan = plan;
    loop {
        match plan {
            LogicalPlan::Projection(projection) => {
                let exprs = projected(&projection.expr, &projection.schema.columns());
                value = match (value, projection.expr.as_slice()) {
                    (Some(value), _) => Some(substitute(value, &exprs)?),
                    (None, [only]) => Some(only.clone().unalias()),
                    (None, _) => return Ok(None),
                };
                plan = &projection.input;
            }
            LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty() => {
                let value = match (value, aggregate.schema.columns().as_slice()) {
                    (Some(value), _) => value,
                    (None, [only]) => Expr::Column(only.clone()),
                    (None, _) => return Ok(None),
                };
                return Ok(Some((value, aggregate.clone())));
            }
            _ => return Ok(None),
        }
    }
}

/// The plan below the projections at its top, and what their columns are in terms of it.
fn take_projections(plan: &LogicalPlan) -> Result<(LogicalPlan, HashMap<Column, Expr>), PlanError> {
    let mut map: Option<HashMap<Column, Expr>> = None;
    let mut plan = plan;
    while let LogicalPlan::Projection(projection) = plan {
        let below = projected(&projection.expr, &projection.schema.columns());
        map = Some(match map {
            None => below,
            Some(above) => above
                .into_iter()
                .map(|(column, expr)| Ok((column, substitute(expr, &below)?)))
                .collect::<Result<_, PlanError>>()?,
        });
        plan = &projection.input;
    }
    Ok((plan.clone(), map.unwrap_or_default()))
}

fn projected(exprs: &[Expr], columns: &[Column]) -> HashMap<Column, Expr> {
    columns.iter().cloned().zip(exprs.iter().map(|expr| expr.clone().unalias())).collect()
}

fn substitute(expr: Expr, map: &HashMap<Column, Expr>) -> Result<Expr, PlanError> {
    if map.is_empty() {
        return Ok(expr);
    }
    expr.transform_up(|expr| {
        Ok(match &expr {
            Expr::Column(column) => match map.get(column) {
                Some(inner) => Transformed::yes(inner.clone()),
                None => Transformed::no(expr),
            },
            _ => Transformed::no(expr),
        })
    })
    .data()
    .map_err(engine_error)
}

/// Above the join the outer row is a row like any other.
fn outer_to_plain(expr: Expr) -> Result<Expr, PlanError> {
    expr.transform_up(|expr| {
        Ok(match expr {
            Expr::OuterReferenceColumn(_, column) => Transformed::yes(Expr::Column(column)),
            other => Transformed::no(other),
        })
    })
    .data()
    .map_err(engine_error)
}

/// The aggregate over rows where the column `matched` is true; `None` if it is no aggregate.
pub(super) fn only_matched(expr: Expr, matched: Column) -> Option<Expr> {
    let Expr::AggregateFunction(mut call) = expr else { return None };
    let is_matched = Expr::Column(matched);
    call.params.filter = Some(Box::new(match call.params.filter.take() {
        Some(filter) => balanced(Operator::And, vec![is_matched, *filter]),
        None => is_matched,
    }));
    Some(Expr::AggregateFunction(call))
}
