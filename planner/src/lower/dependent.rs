//! Correlated subqueries of any shape: LATERAL with ORDER BY and LIMIT, aggregates, windows, set operations, unnested arrays.
//!
//! Before: `outer APPLY subquery(outer row)`. After: the *domain*, the distinct values of the outer columns that the subquery
//! names, is joined to the leaves of the subquery; every operator on the way up keeps it apart (groups by it, partitions by it);
//! and the outer rows are joined with the result on the domain. Costs a second evaluation of the outer plan, so DataFusion's own
//! decorrelation comes first where it is right. Inner joins with a subquery of filters and projections need no domain: the
//! outer rows themselves go up (`Domain::Rows`).
//! Source: Neumann and Kemper, "Unnesting Arbitrary Queries", BTW 2015.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::Fields,
    catalog::cte_worktable::CteWorkTable,
    common::{
        Column, ExprSchema, JoinType, TableReference,
        metadata::FieldMetadata,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    datasource::provider_as_source,
    functions::core::expr_fn::coalesce,
    logical_expr::{
        Aggregate, Distinct, Expr, Join, Limit, LogicalPlan, LogicalPlanBuilder, Operator,
        Projection, RecursiveQuery, TableScan, Union, Window, cast, lit,
    },
    scalar::ScalarValue,
};

use super::{correlated::only_matched, engine_error, expr::balanced, project, select::row_number};
use crate::{PlanError, bind::Binder};

/// A subquery that is no longer correlated: its columns, and beside them those of the domain.
#[derive(Clone, Debug)]
pub(super) struct Dependent {
    pub plan: LogicalPlan,
    /// Columns of the outer plan, and of `plan`, that are equal.
    pub keys: Vec<(Column, Column)>,
}

/// What is joined to the subquery's leaves.
enum Domain {
    /// Distinct values of what the subquery names.
    Values(LogicalPlan),
    /// The outer rows. They can be placed once, and nothing may need to tell equal ones apart.
    Rows(Option<LogicalPlan>),
}

struct Push<'b, 'n> {
    binder: &'b mut Binder<'n>,
    domain: Domain,
    /// The columns of the outer plan that are named.
    named: Vec<Column>,
    /// Recursive queries whose step is being moved through.
    work: Vec<WorkTable>,
}

/// What the step of a recursive query reads, with the domain's columns in front of its own.
struct WorkTable {
    /// Its name in the plan that is moved through.
    before: String,
    name: String,
    provider: Arc<CteWorkTable>,
    domain: Vec<String>,
    own: Vec<String>,
}

/// A plan with the domain's columns, in the order of `Push::named`, behind them those that are only carried.
struct Pushed {
    plan: LogicalPlan,
    domain: Vec<Column>,
}

impl Binder<'_> {
    /// `None` where the subquery holds something that this cannot move through.
    pub(super) fn dependent(
        &mut self,
        outer: &LogicalPlan,
        subquery: &LogicalPlan,
    ) -> Result<Option<Dependent>, PlanError> {
        let named = outer_columns(subquery);
        if is_volatile(outer)? {
            // It would be evaluated twice, with different results.
            return Ok(None);
        }
        let exprs: Vec<Expr> = named
            .iter()
            .map(|column| Expr::Column(column.clone()).alias(self.fresh("domain")))
            .collect();
        let values = LogicalPlanBuilder::from(project(outer.clone(), exprs)?)
            .distinct()
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let domain = Domain::Values(values);
        let pushed =
            Push { binder: self, domain, named: named.clone(), work: Vec::new() }.push(subquery)?;
        Ok(pushed.map(|pushed| Dependent {
            keys: named.into_iter().zip(pushed.domain).collect(),
            plan: pushed.plan,
        }))
    }

    /// The rows of an inner LATERAL join, if the subquery works row by row.
    pub(super) fn dependent_rows(
        &mut self,
        outer: &LogicalPlan,
        subquery: &LogicalPlan,
    ) -> Result<Option<LogicalPlan>, PlanError> {
        let named = outer_columns(subquery);
        let columns = carried(&named, outer);
        let domain = Domain::Rows(Some(outer.clone()));
        let Some(pushed) =
            (Push { binder: self, domain, named, work: Vec::new() }).push(subquery)?
        else {
            return Ok(None);
        };
        // The outer columns get their names back.
        let restored = pushed
            .domain
            .into_iter()
            .zip(columns)
            .map(|(own, column)| renamed(Expr::Column(own), column));
        let exprs: Vec<Expr> =
            restored.chain(subquery.schema().columns().into_iter().map(Expr::Column)).collect();
        LogicalPlanBuilder::from(pushed.plan)
            .project(exprs)
            .and_then(|builder| builder.build())
            .map(Some)
            .map_err(engine_error)
    }
}

/// The outer columns that a plan names, nested subqueries apart: those name columns of the plan itself.
fn outer_columns(plan: &LogicalPlan) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for expr in plan.all_out_ref_exprs() {
        if let Expr::OuterReferenceColumn(_, column) = expr
            && !columns.contains(&column)
        {
            columns.push(column);
        }
    }
    columns
}

/// The columns of the outer rows, those that are named first.
fn carried(named: &[Column], rows: &LogicalPlan) -> Vec<Column> {
    let mut columns = named.to_vec();
    columns.extend(rows.schema().columns().into_iter().filter(|it| !named.contains(it)));
    columns
}

fn is_volatile(plan: &LogicalPlan) -> Result<bool, PlanError> {
    let mut volatile = false;
    plan.apply_with_subqueries(|plan| {
        plan.apply_expressions(|expr| {
            volatile |= expr.is_volatile();
            Ok(if volatile { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    })
    .map_err(engine_error)?;
    Ok(volatile)
}

/// Joins on the domain, NULL being equal to NULL.
pub(super) fn join_on_domain(
    left: LogicalPlan,
    right: LogicalPlan,
    keys: &[(Column, Column)],
    join_type: JoinType,
    condition: Option<Expr>,
) -> Result<LogicalPlan, PlanError> {
    let mut terms = Vec::new();
    for (left_key, right_key) in keys {
        let left_field = left.schema().field_from_column(left_key).map_err(engine_error)?;
        let right_field = right.schema().field_from_column(right_key).map_err(engine_error)?;
        let nullable = left_field.is_nullable() && right_field.is_nullable();
        let (l, r) = (Expr::Column(left_key.clone()), Expr::Column(right_key.clone()));
        match ScalarValue::new_default(left_field.data_type()) {
            _ if !nullable => terms.push(l.eq(r)),
            // Two equalities: a join on IS NOT DISTINCT FROM loses its meaning when the optimizer merges it with others.
            Ok(value) => {
                let known = |key: &Expr| coalesce(vec![key.clone(), lit(value.clone())]);
                terms.push(known(&l).eq(known(&r)));
                terms.push(l.is_null().eq(r.is_null()));
            }
            Err(_) => {
                terms.push(datafusion::logical_expr::binary_expr(l, Operator::IsNotDistinctFrom, r))
            }
        }
    }
    terms.extend(condition);
    LogicalPlanBuilder::from(left)
        .join_on(right, join_type, terms)
        .and_then(|builder| builder.build())
        .map_err(engine_error)
}

impl Push<'_, '_> {
    fn push(&mut self, plan: &LogicalPlan) -> Result<Option<Pushed>, PlanError> {
        if !self.needs_domain(plan) {
            return self.place(plan);
        }
        match plan {
            LogicalPlan::Projection(projection) => self.push_projection(projection),
            LogicalPlan::Filter(filter) => {
                let Some(input) = self.push(&filter.input)? else { return Ok(None) };
                let predicate = self.replace(filter.predicate.clone(), &input.domain)?;
                let plan = LogicalPlanBuilder::from(input.plan).filter(predicate);
                self.built(plan, input.domain)
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let Some(input) = self.push(&alias.input)? else { return Ok(None) };
                let columns = alias.input.schema().columns();
                let exprs = columns.into_iter().zip(alias.schema.columns()).map(|(from, to)| {
                    Expr::Column(from).alias_qualified(to.relation.clone(), to.name)
                });
                let exprs: Vec<Expr> = domain_exprs(&input.domain).chain(exprs).collect();
                let plan = LogicalPlanBuilder::from(input.plan).project(exprs);
                self.built(plan, input.domain)
            }
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
                let Some(input) = self.push(&sort.input)? else { return Ok(None) };
                let mut keys = sort.expr.clone();
                for key in &mut keys {
                    key.expr = self.replace(key.expr.clone(), &input.domain)?;
                }
                let plan = LogicalPlanBuilder::from(input.plan).sort(keys);
                self.built(plan, input.domain)
            }
            LogicalPlan::Unnest(unnest) => {
                let Some(input) = self.push(&unnest.input)? else { return Ok(None) };
                let plan = LogicalPlanBuilder::from(input.plan).unnest_columns_with_options(
                    unnest.exec_columns.clone(),
                    unnest.options.clone(),
                );
                self.built(plan, input.domain)
            }
            LogicalPlan::Join(join) => self.push_join(join),
            _ if matches!(self.domain, Domain::Rows(_)) => Ok(None),
            LogicalPlan::Limit(limit) => self.push_limit(limit),
            LogicalPlan::Aggregate(aggregate) => self.push_aggregate(aggregate),
            LogicalPlan::Window(window) => self.push_window(window),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let Some(input) = self.push(input)? else { return Ok(None) };
                let plan = LogicalPlanBuilder::from(input.plan).distinct();
                self.built(plan, input.domain)
            }
            LogicalPlan::Union(union) => self.push_union(union),
            LogicalPlan::RecursiveQuery(query) => self.push_recursive(query),
            LogicalPlan::TableScan(scan) => self.push_work_table(scan),
            LogicalPlan::Values(values) => {
                // A row that names outer columns is a projection of the domain.
                let mut rows = Vec::new();
                for row in &values.values {
                    let one = LogicalPlanBuilder::empty(true)
                        .project(row.iter().zip(values.schema.columns()).map(|(expr, column)| {
                            expr.clone().alias_qualified(column.relation.clone(), column.name)
                        }))
                        .and_then(|builder| builder.build())
                        .map_err(engine_error)?;
                    rows.push(Arc::new(one));
                }
                self.push_union(&Union { inputs: rows, schema: values.schema.clone() })
            }
            _ => Ok(None),
        }
    }

    /// The domain, under names of its own.
    fn instance(&mut self) -> Result<Option<Pushed>, PlanError> {
        match &mut self.domain {
            Domain::Rows(rows) => {
                let Some(rows) = rows.take() else { return Ok(None) };
                let (mut exprs, mut domain) = (Vec::new(), Vec::new());
                for column in carried(&self.named, &rows) {
                    let name = self.binder.fresh("outer");
                    exprs.push(Expr::Column(column).alias(&name));
                    domain.push(Column::from_name(name));
                }
                let plan = LogicalPlanBuilder::from(rows).project(exprs);
                self.built(plan, domain)
            }
            Domain::Values(values) => {
                let values = values.clone();
                let (mut exprs, mut domain) = (Vec::new(), Vec::new());
                for column in values.schema().columns() {
                    let name = self.binder.fresh("domain");
                    exprs.push(Expr::Column(column).alias(&name));
                    domain.push(Column::from_name(name));
                }
                let plan = LogicalPlanBuilder::from(values).project(exprs);
                self.built(plan, domain)
            }
        }
    }

    /// A plan that names nothing of the outer row, beside the domain.
    fn place(&mut self, plan: &LogicalPlan) -> Result<Option<Pushed>, PlanError> {
        let Some(domain) = self.instance()? else { return Ok(None) };
        if let LogicalPlan::EmptyRelation(empty) = plan
            && empty.produce_one_row
            && empty.schema.fields().is_empty()
        {
            return Ok(Some(domain));
        }
        let plan = LogicalPlanBuilder::from(domain.plan).cross_join(plan.clone());
        self.built(plan, domain.domain)
    }

    fn built(
        &self,
        builder: datafusion::error::Result<LogicalPlanBuilder>,
        domain: Vec<Column>,
    ) -> Result<Option<Pushed>, PlanError> {
        let plan = builder.and_then(|builder| builder.build()).map_err(engine_error)?;
        Ok(Some(Pushed { plan, domain }))
    }

    /// References to the outer row become columns of the domain.
    fn replace(&self, expr: Expr, domain: &[Column]) -> Result<Expr, PlanError> {
        expr.transform(|expr| {
            let Expr::OuterReferenceColumn(_, column) = &expr else {
                return Ok(Transformed::no(expr));
            };
            let place = self.named.iter().position(|named| named == column);
            Ok(match place.and_then(|place| domain.get(place)) {
                Some(column) => Transformed::yes(Expr::Column(column.clone())),
                None => Transformed::no(expr),
            })
        })
        .data()
        .map_err(engine_error)
    }

    fn push_projection(&mut self, projection: &Projection) -> Result<Option<Pushed>, PlanError> {
        let Some(input) = self.push(&projection.input)? else { return Ok(None) };
        let mut exprs: Vec<Expr> = domain_exprs(&input.domain).collect();
        for (expr, column) in projection.expr.iter().zip(projection.schema.columns()) {
            let expr = self.replace(expr.clone(), &input.domain)?;
            exprs.push(renamed(expr, column));
        }
        let plan = LogicalPlanBuilder::from(input.plan).project(exprs);
        self.built(plan, input.domain)
    }

    /// Top rows for each value of the domain, by their number in the order of the sort below.
    fn push_limit(&mut self, limit: &Limit) -> Result<Option<Pushed>, PlanError> {
        // A projection drops sort columns on the way: it works row by row, so the limit moves below it.
        if let LogicalPlan::Projection(projection) = &*limit.input {
            let below = Limit { input: projection.input.clone(), ..limit.clone() };
            let moved = Projection::try_new_with_schema(
                projection.expr.clone(),
                Arc::new(LogicalPlan::Limit(below)),
                projection.schema.clone(),
            )
            .map_err(engine_error)?;
            return self.push_projection(&moved);
        }
        let (input, keys) = match &*limit.input {
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => (&sort.input, sort.expr.clone()),
            _ => (&limit.input, Vec::new()),
        };
        let columns = input.schema().columns();
        let Some(input) = self.push(input)? else { return Ok(None) };
        let mut order_by = keys;
        for key in &mut order_by {
            key.expr = self.replace(key.expr.clone(), &input.domain)?;
        }
        let number = row_number(domain_exprs(&input.domain).collect(), order_by);
        let place = cast(
            Expr::Column(Column::from_name(number.schema_name().to_string())),
            datafusion::arrow::datatypes::DataType::Int64,
        );
        let zero = || lit(0_i64);
        let skip = match limit.skip.as_deref() {
            Some(skip) => coalesce(vec![skip.clone(), zero()]),
            None => zero(),
        };
        let mut terms = vec![place.clone().gt(skip.clone())];
        if let Some(fetch) = limit.fetch.as_deref() {
            // NULL is no limit. Overflow of the sum is avoided by the difference.
            terms.push(fetch.clone().is_null().or((place - skip).lt_eq(fetch.clone())));
        }
        let exprs: Vec<Expr> =
            domain_exprs(&input.domain).chain(columns.into_iter().map(Expr::Column)).collect();
        let plan = LogicalPlanBuilder::window_plan(input.plan, [number])
            .and_then(|plan| LogicalPlanBuilder::from(plan).filter(balanced(Operator::And, terms)))
            .and_then(|builder| builder.project(exprs));
        self.built(plan, input.domain)
    }

    fn push_window(&mut self, window: &Window) -> Result<Option<Pushed>, PlanError> {
        let Some(input) = self.push(&window.input)? else { return Ok(None) };
        let mut exprs: Vec<Expr> = domain_exprs(&input.domain).collect();
        exprs.extend(window.input.schema().columns().into_iter().map(Expr::Column));
        let n_inputs = window.input.schema().fields().len();
        let names = window.schema.columns();
        let mut calls = Vec::new();
        for (call, column) in window.window_expr.iter().zip(names.into_iter().skip(n_inputs)) {
            let Expr::WindowFunction(mut call) = self.replace(call.clone(), &input.domain)? else {
                return Ok(None);
            };
            call.params.partition_by.extend(domain_exprs(&input.domain));
            let call = Expr::WindowFunction(call);
            let computed = Expr::Column(Column::from_name(call.schema_name().to_string()));
            exprs.push(renamed(computed, column));
            calls.push(call);
        }
        let plan = LogicalPlanBuilder::window_plan(input.plan, calls)
            .and_then(|plan| LogicalPlanBuilder::from(plan).project(exprs));
        self.built(plan, input.domain)
    }

    fn push_aggregate(&mut self, aggregate: &Aggregate) -> Result<Option<Pushed>, PlanError> {
        if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return Ok(None);
        }
        let Some(input) = self.push(&aggregate.input)? else { return Ok(None) };
        // Without groups there is a row for every value of the domain, matched or not.
        let whole = aggregate.group_expr.is_empty();
        let (input, matched) = if whole { self.outer_rows(input)? } else { (input, None) };
        if whole && matched.is_none() {
            return Ok(None);
        }
        let (mut groups, mut calls) = (domain_exprs(&input.domain).collect::<Vec<_>>(), Vec::new());
        let mut exprs = groups.clone();
        let names = aggregate.schema.columns();
        let all = aggregate.group_expr.iter().chain(&aggregate.aggr_expr);
        for (index, (expr, column)) in all.zip(names).enumerate() {
            let expr = self.replace(expr.clone().unalias(), &input.domain)?;
            let own = self.binder.fresh("part");
            exprs.push(renamed(Expr::Column(Column::from_name(&own)), column));
            if index < aggregate.group_expr.len() {
                groups.push(expr.alias(&own));
                continue;
            }
            let call = match &matched {
                Some(matched) => only_matched(expr, matched.clone()),
                None => matches!(expr, Expr::AggregateFunction(_)).then_some(expr),
            };
            let Some(call) = call else { return Ok(None) };
            calls.push(call.alias(&own));
        }
        let plan = LogicalPlanBuilder::from(input.plan)
            .aggregate(groups, calls)
            .and_then(|builder| builder.project(exprs));
        self.built(plan, input.domain)
    }

    /// Every value of the domain with its rows, which carry a mark, or with NULLs.
    fn outer_rows(&mut self, input: Pushed) -> Result<(Pushed, Option<Column>), PlanError> {
        let Some(domain) = self.instance()? else { return Ok((input, None)) };
        let mark = self.binder.fresh("matched");
        let mut exprs: Vec<Expr> =
            input.plan.schema().columns().into_iter().map(Expr::Column).collect();
        exprs.push(lit(true).alias(&mark));
        let rows = project(input.plan, exprs)?;
        let keys: Vec<(Column, Column)> = domain.domain.iter().cloned().zip(input.domain).collect();
        let plan = join_on_domain(domain.plan, rows, &keys, JoinType::Left, None)?;
        Ok((Pushed { plan, domain: domain.domain }, Some(Column::from_name(mark))))
    }

    fn push_union(&mut self, union: &Union) -> Result<Option<Pushed>, PlanError> {
        let names: Vec<String> = self.named.iter().map(|_| self.binder.fresh("domain")).collect();
        let columns = union.schema.columns();
        let own: Vec<String> = columns.iter().map(|_| self.binder.fresh("branch")).collect();
        let mut whole: Option<LogicalPlan> = None;
        for input in &union.inputs {
            let outputs = input.schema().columns();
            let Some(branch) = self.push(input)? else { return Ok(None) };
            let domain = branch.domain.into_iter().zip(&names);
            let exprs = domain
                .chain(outputs.into_iter().zip(&own))
                .map(|(column, name)| Expr::Column(column).alias(name));
            let branch = project(branch.plan, exprs.collect::<Vec<_>>())?;
            whole = Some(match whole {
                None => branch,
                Some(before) => LogicalPlanBuilder::from(before)
                    .union(branch)
                    .and_then(|builder| builder.build())
                    .map_err(engine_error)?,
            });
        }
        let Some(whole) = whole else { return Ok(None) };
        let domain: Vec<Column> = names.iter().map(Column::from_name).collect();
        let outputs = own
            .iter()
            .zip(columns)
            .map(|(name, column)| renamed(Expr::Column(Column::from_name(name)), column));
        let exprs: Vec<Expr> = domain_exprs(&domain).chain(outputs).collect();
        let plan = LogicalPlanBuilder::from(whole).project(exprs);
        self.built(plan, domain)
    }

    /// Whether it names the outer row, or reads rows that carry the domain already.
    fn needs_domain(&self, plan: &LogicalPlan) -> bool {
        let reads_work_table = plan.exists(|node| {
            Ok(matches!(node, LogicalPlan::TableScan(scan) if self.work_table(scan).is_some()))
        });
        !plan.all_out_ref_exprs().is_empty() || reads_work_table.unwrap_or(true)
    }

    fn work_table(&self, scan: &TableScan) -> Option<&WorkTable> {
        self.work.iter().rev().find(|work| work.before == scan.table_name.table())
    }

    /// Each value of the domain has a recursion of its own; all of them take their steps together.
    fn push_recursive(&mut self, query: &RecursiveQuery) -> Result<Option<Pushed>, PlanError> {
        // DataFusion wants the marks of both terms' fields to be equal.
        let types = query.static_term.schema().fields().clone();
        let outputs = query.static_term.schema().columns();
        let Some(start) = self.push(&query.static_term)? else { return Ok(None) };
        let domain: Vec<String> =
            start.domain.iter().map(|_| self.binder.fresh("domain")).collect();
        let own: Vec<String> = outputs.iter().map(|_| self.binder.fresh("step")).collect();
        let start = in_order(start, outputs, &domain, &own, &types)?;
        let fields = start.schema().fields().iter();
        let fields: Vec<_> =
            fields.map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let name = self.binder.fresh("work");
        let schema = Arc::new(datafusion::arrow::datatypes::Schema::new(fields));
        let provider = Arc::new(CteWorkTable::new(&name, schema));
        self.work.push(WorkTable {
            before: query.name.clone(),
            name: name.clone(),
            provider,
            domain: domain.clone(),
            own: own.clone(),
        });
        let step = self.push(&query.recursive_term);
        self.work.pop();
        let Some(step) = step? else { return Ok(None) };
        let step = in_order(step, query.recursive_term.schema().columns(), &domain, &own, &types)?;
        let whole = LogicalPlanBuilder::from(start)
            .to_recursive_query(name, step, query.is_distinct)
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let mut columns = whole.schema().columns();
        let outputs = columns.split_off(domain.len());
        let exprs = outputs
            .into_iter()
            .zip(query.schema.columns())
            .map(|(from, to)| renamed(Expr::Column(from), to));
        let exprs: Vec<Expr> = domain_exprs(&columns).chain(exprs).collect();
        let plan = LogicalPlanBuilder::from(whole).project(exprs);
        self.built(plan, columns)
    }

    /// The rows of the step before, which have the domain's columns.
    fn push_work_table(&mut self, scan: &TableScan) -> Result<Option<Pushed>, PlanError> {
        let Some(work) = self.work_table(scan) else { return Ok(None) };
        let source = provider_as_source(work.provider.clone());
        let relation = TableReference::bare(work.name.clone());
        let column = |name: &String| Expr::Column(Column::new(Some(relation.clone()), name));
        let (carried, own) = (work.domain.clone(), work.own.clone());
        let positions: Vec<usize> = match &scan.projection {
            Some(positions) => positions.clone(),
            None => (0..own.len()).collect(),
        };
        let (mut exprs, mut domain) = (Vec::new(), Vec::new());
        for name in &carried {
            let fresh = self.binder.fresh("domain");
            exprs.push(column(name).alias(&fresh));
            domain.push(Column::from_name(fresh));
        }
        for (position, to) in positions.into_iter().zip(scan.projected_schema.columns()) {
            let Some(name) = own.get(position) else { return Ok(None) };
            exprs.push(renamed(column(name), to));
        }
        let plan = LogicalPlanBuilder::scan(relation.clone(), source, None)
            .and_then(|builder| builder.project(exprs));
        self.built(plan, domain)
    }

    /// The domain goes to the sides that need it: those that name the outer row, and the side whose rows are kept.
    fn push_join(&mut self, join: &Join) -> Result<Option<Pushed>, PlanError> {
        let (mut left, mut right) = (self.needs_domain(&join.left), self.needs_domain(&join.right));
        match join.join_type {
            JoinType::Inner => left |= !right,
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
                left = true;
            }
            JoinType::Right => right = true,
            _ => return Ok(None),
        }
        if join.null_aware {
            return Ok(None);
        }
        let side = |push: &mut Self, plan: &LogicalPlan, with: bool| {
            if with {
                return push.push(plan);
            }
            Ok(Some(Pushed { plan: plan.clone(), domain: Vec::new() }))
        };
        let Some(on_left) = side(self, &join.left, left)? else { return Ok(None) };
        let Some(on_right) = side(self, &join.right, right)? else { return Ok(None) };
        let domain = if left { on_left.domain.clone() } else { on_right.domain.clone() };
        let domain = match join.join_type {
            JoinType::Right => on_right.domain.clone(),
            _ => domain,
        };
        let equal = match join.null_equality {
            datafusion::common::NullEquality::NullEqualsNothing => Operator::Eq,
            datafusion::common::NullEquality::NullEqualsNull => Operator::IsNotDistinctFrom,
        };
        let mut terms = Vec::new();
        for (l, r) in &join.on {
            terms.push(datafusion::logical_expr::binary_expr(l.clone(), equal, r.clone()));
        }
        terms.extend(join.filter.clone());
        let condition = match terms.is_empty() {
            true => None,
            false => Some(self.replace(balanced(Operator::And, terms), &domain)?),
        };
        let keys: Vec<(Column, Column)> = match left && right {
            true => on_left.domain.into_iter().zip(on_right.domain).collect(),
            false => Vec::new(),
        };
        let plan = join_on_domain(on_left.plan, on_right.plan, &keys, join.join_type, condition)?;
        Ok(Some(Pushed { plan, domain }))
    }
}

/// The domain's columns and then the outputs, under these names.
fn in_order(
    pushed: Pushed,
    outputs: Vec<Column>,
    domain: &[String],
    own: &[String],
    fields: &Fields,
) -> Result<LogicalPlan, PlanError> {
    let marks = fields.iter().map(|field| Some(FieldMetadata::from(field.as_ref())));
    let outputs = outputs.into_iter().zip(own).zip(marks);
    let columns = pushed.domain.into_iter().zip(domain).map(|pair| (pair, None)).chain(outputs);
    let exprs: Vec<Expr> = columns
        .map(|((from, to), mark)| Expr::Column(from).alias_with_metadata(to, mark))
        .collect();
    project(pushed.plan, exprs)
}

fn domain_exprs(domain: &[Column]) -> impl Iterator<Item = Expr> {
    domain.iter().cloned().map(Expr::Column)
}

/// The expression under the name that those above know.
fn renamed(expr: Expr, to: Column) -> Expr {
    if matches!(&expr, Expr::Column(column) if *column == to) {
        return expr;
    }
    let relation: Option<TableReference> = to.relation;
    expr.unalias().alias_qualified(relation, to.name)
}
