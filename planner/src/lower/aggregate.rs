//! GROUP BY, aggregates, HAVING.
//!
//! One aggregation computes all aggregates of a query; the expressions above it then name its columns. Grouping is by comparison
//! keys, so that 1.0 and 1.00 meet; the value shown is then the least of the group's. Grouping sets are a UNION ALL of one
//! aggregation for each set.

use cortex_functions::lower as functions;
use cortex_shard_api::{Datum, SqlType};
use datafusion::{
    common::Column,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
};
use sqlparser::ast::{Expr as AstExpr, GroupByExpr};

use super::{
    engine_error,
    expr::{key, lower},
    project,
    select::{Item, check_groupable, is_representative, minimum},
};
use crate::{
    PlanError, PlanErrorKind,
    bind::{
        Binder, Clause, Scope,
        names::fold_ident,
        typed::{ColumnRef, Kind, OuterColumn, TypedExpr},
    },
};

/// Grouping sets of one query at the most, as in Postgres.
const GROUPING_SETS_MAX: usize = 4096;

/// What a query groups by.
#[derive(Debug)]
pub(super) struct Groups {
    pub exprs: Vec<TypedExpr>,
    /// Positions in `exprs`, one list for each grouping set.
    pub sets: Vec<Vec<usize>>,
}

impl Default for Groups {
    /// One group: the whole input.
    fn default() -> Self {
        Groups { exprs: Vec::new(), sets: vec![Vec::new()] }
    }
}

impl Binder<'_> {
    pub(super) fn bind_group_by(
        &mut self,
        group_by: &GroupByExpr,
        items: &[Item],
        scope: &Scope,
    ) -> Result<Option<Groups>, PlanError> {
        let list = match group_by {
            GroupByExpr::Expressions(list, modifiers) if modifiers.is_empty() => list,
            _ => {
                return Err(PlanError::new(
                    PlanErrorKind::Syntax,
                    "GROUP BY ALL and WITH ROLLUP are not PostgreSQL",
                ));
            }
        };
        if list.is_empty() {
            return Ok(None);
        }
        let mut groups = Groups::default();
        for item in list {
            let sets = self.group_item(item, items, scope, &mut groups.exprs)?;
            // The sets of the items multiply.
            groups.sets = groups
                .sets
                .iter()
                .flat_map(|left| {
                    sets.iter().map(move |right| {
                        let mut both = left.clone();
                        both.extend(right.iter().filter(|index| !left.contains(index)));
                        both
                    })
                })
                .collect();
            if groups.sets.len() > GROUPING_SETS_MAX {
                return Err(PlanError::new(
                    PlanErrorKind::TooComplex,
                    format!("too many grouping sets present (maximum {GROUPING_SETS_MAX})"),
                ));
            }
        }
        Ok(Some(groups))
    }

    /// The grouping sets of one item of GROUP BY.
    fn group_item(
        &mut self,
        item: &AstExpr,
        items: &[Item],
        scope: &Scope,
        exprs: &mut Vec<TypedExpr>,
    ) -> Result<Vec<Vec<usize>>, PlanError> {
        let mut lists = |binder: &mut Self, lists: &[Vec<AstExpr>]| {
            lists
                .iter()
                .map(|list| binder.group_list(list, items, scope, exprs))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(match item {
            AstExpr::GroupingSets(sets) => {
                let mut all = Vec::new();
                for set in sets {
                    match set.as_slice() {
                        [
                            nested @ (AstExpr::Rollup(_)
                            | AstExpr::Cube(_)
                            | AstExpr::GroupingSets(_)),
                        ] => {
                            all.extend(self.group_item(nested, items, scope, exprs)?);
                        }
                        list => all.push(self.group_list(list, items, scope, exprs)?),
                    }
                }
                all
            }
            AstExpr::Rollup(elements) => {
                let parts = lists(self, elements)?;
                (0..=parts.len()).rev().map(|taken| parts[..taken].concat()).collect()
            }
            AstExpr::Cube(elements) => {
                let parts = lists(self, elements)?;
                if parts.len() > 12 {
                    return Err(PlanError::new(
                        PlanErrorKind::TooComplex,
                        "CUBE is limited to 12 elements",
                    ));
                }
                let count = parts.len();
                (0..1_usize << count)
                    .rev()
                    .map(|mask| {
                        (0..count)
                            .filter(|bit| mask & (1 << (count - 1 - bit)) != 0)
                            .flat_map(|bit| parts[bit].clone())
                            .collect()
                    })
                    .collect()
            }
            AstExpr::Tuple(list) => vec![self.group_list(list, items, scope, exprs)?],
            single => vec![self.group_list(std::slice::from_ref(single), items, scope, exprs)?],
        })
    }

    fn group_list(
        &mut self,
        list: &[AstExpr],
        items: &[Item],
        scope: &Scope,
        exprs: &mut Vec<TypedExpr>,
    ) -> Result<Vec<usize>, PlanError> {
        let mut positions = Vec::new();
        for expr in list {
            if let AstExpr::Tuple(inner) = expr {
                positions.extend(self.group_list(inner, items, scope, exprs)?);
                continue;
            }
            let bound = self.group_expr(expr, items, scope)?;
            let index = match exprs.iter().position(|other| other.same(&bound)) {
                Some(index) => index,
                None => {
                    exprs.push(bound);
                    exprs.len() - 1
                }
            };
            if !positions.contains(&index) {
                positions.push(index);
            }
        }
        Ok(positions)
    }

    /// A column of FROM comes before an output name; an ordinal means an output column.
    fn group_expr(
        &mut self,
        expr: &AstExpr,
        items: &[Item],
        scope: &Scope,
    ) -> Result<TypedExpr, PlanError> {
        let is_column = match expr {
            AstExpr::Identifier(ident) => {
                let name = fold_ident(ident);
                scope.visible.iter().any(|column| column.name == name)
            }
            _ => false,
        };
        let output = match is_column {
            true => None,
            false => self.output_reference(expr, items, Clause::GroupBy)?,
        };
        let bound = match output {
            Some(index) => {
                let expr = items[index].expr.clone();
                if expr.has_aggregate() {
                    return Err(PlanError::new(
                        PlanErrorKind::Grouping,
                        "aggregate functions are not allowed in GROUP BY",
                    )
                    .at(expr.position));
                }
                if expr.has_window() {
                    return Err(PlanError::new(
                        PlanErrorKind::Windowing,
                        "window functions are not allowed in GROUP BY",
                    )
                    .at(expr.position));
                }
                self.default_to_text(expr)?
            }
            None => self.bind_typed(expr, scope, Clause::GroupBy)?,
        };
        check_groupable(&bound)?;
        Ok(bound)
    }

    /// Aggregates `plan` and makes `exprs` name the results.
    pub(super) fn aggregate(
        &mut self,
        plan: LogicalPlan,
        mut groups: Groups,
        exprs: &mut [&mut TypedExpr],
    ) -> Result<LogicalPlan, PlanError> {
        let mut calls = Vec::new();
        let single_set = groups.sets.len() == 1;
        let written = groups.exprs.len();
        for expr in exprs.iter() {
            collect(expr, &mut groups, written, single_set, &mut calls)?;
        }
        // Columns that the primary key determines are grouped by, too.
        if single_set {
            groups.sets[0].extend(written..groups.exprs.len());
        }
        let originals = groups.exprs.clone();
        let original_calls = calls.clone();
        let mut inputs: Vec<&mut TypedExpr> = groups.exprs.iter_mut().collect();
        for call in &mut calls {
            inputs.extend(call.children_mut());
        }
        let plan = self.project_subqueries(plan, &mut inputs)?;
        let mut aggregation =
            Aggregation { parts: Vec::new(), finished: Vec::new(), groups: Vec::new() };
        for call in &calls {
            self.lower_call(call, &mut aggregation)?;
        }
        for group in &groups.exprs {
            aggregation.groups.push(self.group_column(group));
        }
        let groupings = collect_groupings(exprs, &originals)?;
        let plan = match groups.sets.as_slice() {
            [only] => aggregate_set(&plan, &groups.exprs, only, &aggregation)?,
            sets => self.union_sets(&plan, &groups.exprs, sets, &aggregation, &groupings)?,
        };
        let rewrite =
            Rewrite { originals, calls: original_calls, aggregation, groupings, single_set };
        for expr in exprs.iter_mut() {
            rewrite.apply(expr)?;
        }
        Ok(plan)
    }

    fn lower_call(
        &mut self,
        expr: &TypedExpr,
        aggregation: &mut Aggregation,
    ) -> Result<(), PlanError> {
        let Kind::Aggregate(call) = &expr.kind else {
            return Err(PlanError::new(PlanErrorKind::Internal, "not an aggregate"));
        };
        let args = call
            .args
            .iter()
            .map(|arg| Ok((lower(arg)?, arg.ty)))
            .collect::<Result<Vec<_>, PlanError>>()?;
        let filter = match &call.filter {
            Some(filter) => Some(lower(filter)?),
            None => None,
        };
        let order_by = call
            .order_by
            .iter()
            .map(|sort| Ok((key(&sort.expr)?, sort.ascending, sort.nulls_first)))
            .collect::<Result<Vec<_>, PlanError>>()?;
        let lowered = functions::aggregate(&call.call, args, call.distinct, filter, order_by)
            .map_err(|error| PlanError::from(error).at(expr.position))?;
        let mut columns = Vec::new();
        for part in &lowered.parts {
            let known = aggregation.parts.iter().find(|(_, other)| other == part);
            let name = match known {
                Some((name, _)) => name.clone(),
                None => {
                    let name = self.fresh("aggregate");
                    aggregation.parts.push((name.clone(), part.clone()));
                    name
                }
            };
            columns.push(Expr::Column(Column::from_name(name)));
        }
        aggregation.finished.push(lowered.finish(columns));
        Ok(())
    }

    /// The column that a group expression becomes. A plain column keeps its name: correlated subqueries above may use it.
    fn group_column(&mut self, group: &TypedExpr) -> Column {
        match &group.kind {
            Kind::Column { column, level: 0 } => column.column.clone(),
            Kind::Plan(Expr::Column(column)) => column.clone(),
            _ => Column::from_name(self.fresh("group")),
        }
    }

    fn union_sets(
        &mut self,
        plan: &LogicalPlan,
        groups: &[TypedExpr],
        sets: &[Vec<usize>],
        aggregation: &Aggregation,
        groupings: &[(TypedExpr, Vec<usize>)],
    ) -> Result<LogicalPlan, PlanError> {
        // Names without qualifiers inside, the columns' own names outside.
        let names: Vec<String> = groups.iter().map(|_| self.fresh("group")).collect();
        let mut whole: Option<LogicalPlanBuilder> = None;
        for set in sets {
            let aggregated = aggregate_set(plan, groups, set, aggregation)?;
            let mut exprs = Vec::new();
            for (index, group) in groups.iter().enumerate() {
                let value = if set.contains(&index) {
                    Expr::Column(aggregation.groups[index].clone())
                } else {
                    functions::literal(&Datum::Null, group.ty.ty)?
                };
                exprs.push(value.alias(&names[index]));
            }
            for (name, _) in &aggregation.parts {
                exprs.push(Expr::Column(Column::from_name(name)).alias(name));
            }
            for (number, (_, args)) in groupings.iter().enumerate() {
                let bits = args
                    .iter()
                    .fold(0, |bits, index| (bits << 1) | i32::from(!set.contains(index)));
                let value = functions::literal(&Datum::Int4(bits), SqlType::Int4)?;
                exprs.push(value.alias(grouping_name(number)));
            }
            let part = project(aggregated, exprs)?;
            whole = Some(match whole {
                None => LogicalPlanBuilder::from(part),
                Some(builder) => builder.union(part).map_err(engine_error)?,
            });
        }
        let Some(builder) = whole else {
            return Err(PlanError::new(PlanErrorKind::Internal, "no grouping sets"));
        };
        let mut exprs = Vec::new();
        for (name, column) in names.iter().zip(&aggregation.groups) {
            let value = Expr::Column(Column::from_name(name));
            exprs.push(value.alias_qualified(column.relation.clone(), &column.name));
        }
        for (name, _) in &aggregation.parts {
            exprs.push(Expr::Column(Column::from_name(name)));
        }
        for number in 0..groupings.len() {
            exprs.push(Expr::Column(Column::from_name(grouping_name(number))));
        }
        builder.project(exprs).and_then(|builder| builder.build()).map_err(engine_error)
    }
}

fn grouping_name(number: usize) -> String {
    format!("grouping#{number}")
}

/// The aggregates of a query as they are computed.
struct Aggregation {
    /// Column name and expression of each part.
    parts: Vec<(String, Expr)>,
    /// For each call: its value from the parts' columns.
    finished: Vec<Expr>,
    /// For each group expression: its column afterwards.
    groups: Vec<Column>,
}

/// The aggregation of one grouping set.
fn aggregate_set(
    plan: &LogicalPlan,
    groups: &[TypedExpr],
    set: &[usize],
    aggregation: &Aggregation,
) -> Result<LogicalPlan, PlanError> {
    let mut keys = Vec::new();
    let mut values = Vec::new();
    for index in set {
        let group = &groups[*index];
        let column = &aggregation.groups[*index];
        let value = lower(group)?;
        let key = functions::comparison_key(value.clone(), group.ty.ty);
        if key != value && is_representative(group.ty.ty) {
            // The key is a value of the group itself: +0 for -0.
            keys.push(key.alias_qualified(column.relation.clone(), &column.name));
        } else if key != value {
            keys.push(key.alias(format!("key#{index}")));
            values.push(minimum(value).alias_qualified(column.relation.clone(), &column.name));
        } else if value == Expr::Column(column.clone()) {
            keys.push(value);
        } else {
            keys.push(value.alias(&column.name));
        }
    }
    values.extend(aggregation.parts.iter().map(|(name, part)| part.clone().alias(name)));
    if keys.is_empty() && values.is_empty() {
        // A group of everything, of which nothing is asked.
        values.push(
            datafusion::functions_aggregate::expr_fn::count(datafusion::logical_expr::lit(1_i64))
                .alias("rows#0"),
        );
    }
    LogicalPlanBuilder::from(plan.clone())
        .aggregate(keys, values)
        .and_then(|builder| builder.build())
        .map_err(engine_error)
}

/// Finds the aggregates of an expression, and the columns outside of them that are not grouped by: an error, unless the
/// table's primary key is grouped by.
fn collect(
    expr: &TypedExpr,
    groups: &mut Groups,
    written: usize,
    single_set: bool,
    calls: &mut Vec<TypedExpr>,
) -> Result<(), PlanError> {
    if groups.exprs.iter().any(|group| group.same(expr)) {
        return Ok(());
    }
    match &expr.kind {
        Kind::Aggregate(_) => {
            if !calls.iter().any(|call| call.same(expr)) {
                calls.push(expr.clone());
            }
            Ok(())
        }
        Kind::Grouping(_) => Ok(()),
        Kind::Column { column, level: 0 } => {
            if single_set && is_determined(column, &groups.exprs[..written]) {
                groups.exprs.push(expr.clone());
                return Ok(());
            }
            Err(PlanError::new(
                PlanErrorKind::Grouping,
                format!(
                    "column \"{}.{}\" must appear in the GROUP BY clause or be used in an aggregate function",
                    column.relation, column.name
                ),
            )
            .at(expr.position))
        }
        _ => {
            if let Kind::Subquery(subquery) = &expr.kind {
                for outer in &subquery.outer {
                    check_outer(outer, groups, written, single_set)?;
                }
            }
            expr.children()
                .into_iter()
                .try_for_each(|child| collect(child, groups, written, single_set, calls))
        }
    }
}

fn check_outer(
    outer: &OuterColumn,
    groups: &mut Groups,
    written: usize,
    single_set: bool,
) -> Result<(), PlanError> {
    let OuterColumn { column, ty, position } = outer;
    let reference = TypedExpr::new(Kind::Column { column: column.clone(), level: 0 }, *ty);
    if groups.exprs.iter().any(|group| group.same(&reference)) {
        return Ok(());
    }
    if single_set && is_determined(column, &groups.exprs[..written]) {
        groups.exprs.push(reference);
        return Ok(());
    }
    Err(PlanError::new(
        PlanErrorKind::Grouping,
        format!(
            "subquery uses ungrouped column \"{}.{}\" from outer query",
            column.relation, column.name
        ),
    )
    .at(*position))
}

/// Whether the column's table has its whole primary key among the groups.
fn is_determined(column: &ColumnRef, groups: &[TypedExpr]) -> bool {
    let Some(table) = &column.table else { return false };
    let key = &table.descriptor.primary_key;
    !key.is_empty()
        && key.iter().all(|position| {
            groups.iter().any(|group| match &group.kind {
                Kind::Column { column: other, level: 0 } => {
                    other.instance == column.instance && other.position == *position
                }
                _ => false,
            })
        })
}

fn collect_groupings(
    exprs: &[&mut TypedExpr],
    groups: &[TypedExpr],
) -> Result<Vec<(TypedExpr, Vec<usize>)>, PlanError> {
    let mut found: Vec<(TypedExpr, Vec<usize>)> = Vec::new();
    let mut pending: Vec<&TypedExpr> = exprs.iter().map(|expr| &**expr).collect();
    while let Some(expr) = pending.pop() {
        if let Kind::Grouping(args) = &expr.kind {
            let positions: Option<Vec<usize>> =
                args.iter().map(|arg| groups.iter().position(|group| group.same(arg))).collect();
            let Some(positions) = positions else {
                return Err(PlanError::new(
                    PlanErrorKind::Grouping,
                    "arguments to GROUPING must be grouping expressions of the associated query level",
                )
                .at(expr.position));
            };
            if !found.iter().any(|(other, _)| other.same(expr)) {
                found.push((expr.clone(), positions));
            }
            continue;
        }
        pending.extend(expr.children());
    }
    Ok(found)
}

/// Replaces what the aggregation computed by its columns.
struct Rewrite {
    originals: Vec<TypedExpr>,
    calls: Vec<TypedExpr>,
    aggregation: Aggregation,
    groupings: Vec<(TypedExpr, Vec<usize>)>,
    single_set: bool,
}

impl Rewrite {
    fn apply(&self, expr: &mut TypedExpr) -> Result<(), PlanError> {
        if let Some(index) = self.originals.iter().position(|group| group.same(expr)) {
            let column = self.aggregation.groups[index].clone();
            // A plain column stays one: the output knows its table.
            if !matches!(expr.kind, Kind::Column { .. }) {
                expr.kind = Kind::Plan(Expr::Column(column));
            }
            return Ok(());
        }
        match &expr.kind {
            Kind::Aggregate(_) => {
                let index = self.calls.iter().position(|call| call.same(expr));
                let Some(index) = index else {
                    return Err(PlanError::new(
                        PlanErrorKind::Internal,
                        "aggregate was not collected",
                    ));
                };
                expr.kind = Kind::Plan(self.aggregation.finished[index].clone());
            }
            Kind::Grouping(_) if self.single_set => {
                expr.kind = Kind::Literal(Datum::Int4(0));
            }
            Kind::Grouping(_) => {
                let index = self.groupings.iter().position(|(other, _)| other.same(expr));
                let name = grouping_name(index.unwrap_or_default());
                expr.kind = Kind::Plan(Expr::Column(Column::from_name(name)));
            }
            _ => {
                for child in expr.children_mut() {
                    self.apply(child)?;
                }
            }
        }
        Ok(())
    }
}
