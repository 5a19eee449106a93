//! SELECT: from WHERE to the select list, DISTINCT and ORDER BY.
//!
//! A SELECT becomes a `Stage`: the plan below its select list, and the list itself still as typed expressions, so that a set
//! operation or an INSERT around it can give untyped literals their types. `finish` turns it into a plan.

use std::sync::Arc;

use cortex_functions::lower as functions;
use cortex_shard_api::{SqlType, TypeMod};
use datafusion::{
    common::{Column, ScalarValue},
    logical_expr::{
        Expr, LogicalPlan, LogicalPlanBuilder, SortExpr, WindowFrame, WindowFrameBound,
        WindowFrameUnits, WindowFunctionDefinition,
        expr::{AggregateFunction, WindowFunction, WindowFunctionParams},
    },
};
use sqlparser::ast::{
    self, Distinct, Expr as AstExpr, OrderBy, OrderByKind, Select, SelectItem,
    SelectItemQualifiedWildcardKind, Spanned, Value, WildcardAdditionalOptions,
};

use super::{
    PlanColumn, Relational, engine_error, expr::lower, from::Identity, output::column_name, project,
};
use crate::{
    PlanError, PlanErrorKind,
    bind::{
        Binder, Clause, Scope,
        names::fold_ident,
        typed::{Kind, TypedExpr},
        types::Target,
    },
    catalog::Table,
};

/// Columns of a select list at the most, as in Postgres.
const COLUMNS_MAX: usize = 1664;

/// A query before its select list is computed.
#[derive(Debug)]
pub(crate) struct Stage {
    pub plan: LogicalPlan,
    pub items: Vec<Item>,
    pub order_by: Vec<StageSort>,
    pub distinct: StageDistinct,
    /// Tables whose identity columns the plan has.
    pub identities: Vec<(String, Arc<Table>, Column, Column)>,
    /// Why rows of this query cannot be locked, if so: what Postgres calls it.
    pub unlockable: Option<&'static str>,
}

/// One column of a select list.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub name: String,
    pub expr: TypedExpr,
}

#[derive(Debug)]
pub(crate) enum SortTarget {
    Output(usize),
    Expr(TypedExpr),
}

#[derive(Debug)]
pub(crate) struct StageSort {
    pub target: SortTarget,
    pub ascending: bool,
    pub nulls_first: bool,
}

#[derive(Debug)]
pub(crate) enum StageDistinct {
    No,
    All,
    On(Vec<SortTarget>),
}

impl Binder<'_> {
    pub(super) fn bind_select(
        &mut self,
        select: &Select,
        order_by: Option<&OrderBy>,
        identity: Identity,
    ) -> Result<Stage, PlanError> {
        refuse_foreign(select)?;
        let from = self.bind_from(&select.from, identity)?;
        let mut scope = from.scope;
        let mut plan = from.plan;
        scope.window_names = self.named_windows(&select.named_window)?;
        if let Some(selection) = &select.selection {
            let predicate = self.bind_predicate(selection, &scope, Clause::Where)?;
            plan = self.filter(plan, predicate)?;
        }
        let mut items = self.bind_items(&select.projection, &scope)?;
        let mut having = match &select.having {
            Some(having) => Some(self.bind_predicate(having, &scope, Clause::Having)?),
            None => None,
        };
        let mut groups = self.bind_group_by(&select.group_by, &items, &scope)?;
        let mut distinct = match &select.distinct {
            None | Some(Distinct::All) => StageDistinct::No,
            Some(Distinct::Distinct) => StageDistinct::All,
            Some(Distinct::On(exprs)) => {
                let mut targets = Vec::new();
                for expr in exprs {
                    targets.push(self.sort_target(expr, &items, &scope, Clause::DistinctOn)?);
                }
                StageDistinct::On(targets)
            }
        };
        let mut order_by = self.bind_order_by(order_by, &items, &scope)?;
        let grouped = groups.is_some()
            || having.is_some()
            || stage_exprs(&mut items, &mut order_by, &mut distinct)
                .iter()
                .any(|expr| expr.has_aggregate());
        if grouped {
            let mut exprs = stage_exprs(&mut items, &mut order_by, &mut distinct);
            exprs.extend(having.as_mut());
            plan = self.aggregate(plan, groups.take().unwrap_or_default(), &mut exprs)?;
        }
        if let Some(having) = having {
            plan = self.filter(plan, having)?;
        }
        let mut exprs = stage_exprs(&mut items, &mut order_by, &mut distinct);
        let windowed = exprs.iter().any(|expr| expr.has_window());
        if windowed {
            plan = self.windows(plan, &mut exprs)?;
        }
        let has_sets = exprs.iter().any(|expr| expr.has_set());
        plan = self.expand_sets(plan, &mut exprs)?;
        let identities = scope
            .relations
            .iter()
            .filter_map(|relation| {
                let (key, version) = relation.identity.clone()?;
                Some((relation.name.clone(), relation.table.clone()?, key, version))
            })
            .collect();
        let unlockable = if grouped {
            let plain = matches!(&select.group_by, ast::GroupByExpr::Expressions(list, _) if list.is_empty());
            Some(if !plain {
                "GROUP BY clause"
            } else if select.having.is_some() {
                "HAVING clause"
            } else {
                "aggregate functions"
            })
        } else if windowed {
            Some("window functions")
        } else if has_sets {
            Some("set-returning functions in the target list")
        } else if !matches!(distinct, StageDistinct::No) {
            Some("DISTINCT clause")
        } else {
            None
        };
        Ok(Stage { plan, items, order_by, distinct, identities, unlockable })
    }

    /// The select list, `*` expanded.
    pub(crate) fn bind_items(
        &mut self,
        projection: &[SelectItem],
        scope: &Scope,
    ) -> Result<Vec<Item>, PlanError> {
        self.bind_items_in(projection, scope, Clause::Select)
    }

    /// A select list in another place: RETURNING.
    pub(crate) fn bind_items_in(
        &mut self,
        projection: &[SelectItem],
        scope: &Scope,
        clause: Clause,
    ) -> Result<Vec<Item>, PlanError> {
        let mut items = Vec::new();
        for item in projection {
            match item {
                SelectItem::UnnamedExpr(expr) => {
                    let name = column_name(expr);
                    items.push(Item { name, expr: self.bind_expr(expr, scope, clause)? });
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    let name = fold_ident(alias);
                    items.push(Item { name, expr: self.bind_expr(expr, scope, clause)? });
                }
                SelectItem::Wildcard(options) => {
                    check_wildcard(options)?;
                    if scope.relations.is_empty() {
                        return Err(PlanError::new(
                            PlanErrorKind::Syntax,
                            "SELECT * with no tables specified is not valid",
                        )
                        .at(self.position(options.wildcard_token.0.span)));
                    }
                    items.extend(star_items(scope.visible.clone()));
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                ) => {
                    check_wildcard(options)?;
                    let parts: Vec<_> =
                        name.0.iter().filter_map(|part| part.as_ident()).cloned().collect();
                    items.extend(star_items(self.star_columns(&parts, scope)?));
                }
                other => {
                    return Err(PlanError::unsupported(
                        format!("{other} in a select list is not supported"),
                        "Name the columns.",
                    )
                    .at(self.position(other.span())));
                }
            }
        }
        if items.len() > COLUMNS_MAX {
            return Err(PlanError::new(
                PlanErrorKind::TooManyColumns,
                format!("target lists can have at most {COLUMNS_MAX} entries"),
            ));
        }
        for item in &items {
            if matches!(item.expr.kind, Kind::Row(_)) {
                return Err(PlanError::unsupported(
                    "row values in a select list are not supported",
                    "Select the columns one by one.",
                )
                .at(item.expr.position));
            }
        }
        Ok(items)
    }

    pub(super) fn bind_order_by(
        &mut self,
        order_by: Option<&OrderBy>,
        items: &[Item],
        scope: &Scope,
    ) -> Result<Vec<StageSort>, PlanError> {
        let Some(order_by) = order_by else { return Ok(Vec::new()) };
        let OrderByKind::Expressions(keys) = &order_by.kind else {
            return Err(PlanError::new(PlanErrorKind::Syntax, "syntax error at or near \"ALL\""));
        };
        keys.iter()
            .map(|key| {
                let target = self.sort_target(&key.expr, items, scope, Clause::OrderBy)?;
                let ascending = key.options.asc.unwrap_or(true);
                let nulls_first = key.options.nulls_first.unwrap_or(!ascending);
                Ok(StageSort { target, ascending, nulls_first })
            })
            .collect()
    }

    /// A key of ORDER BY or DISTINCT ON: an ordinal, an output name, or an expression.
    fn sort_target(
        &mut self,
        expr: &AstExpr,
        items: &[Item],
        scope: &Scope,
        clause: Clause,
    ) -> Result<SortTarget, PlanError> {
        if let Some(index) = self.output_reference(expr, items, clause)? {
            crate::bind::check_orderable(&items[index].expr)?;
            return Ok(SortTarget::Output(index));
        }
        let bound = self.bind_typed(expr, scope, clause)?;
        crate::bind::check_orderable(&bound)?;
        Ok(match items.iter().position(|item| item.expr.same(&bound)) {
            Some(index) => SortTarget::Output(index),
            None => SortTarget::Expr(bound),
        })
    }

    /// The select item that an ordinal or an output name means.
    pub(super) fn output_reference(
        &self,
        expr: &AstExpr,
        items: &[Item],
        clause: Clause,
    ) -> Result<Option<usize>, PlanError> {
        let position = self.position(expr.span());
        match expr {
            AstExpr::Value(value) => match &value.value {
                Value::Number(text, _) => match text.parse::<usize>() {
                    Ok(ordinal) if (1..=items.len()).contains(&ordinal) => Ok(Some(ordinal - 1)),
                    Ok(ordinal) => Err(PlanError::new(
                        PlanErrorKind::InvalidColumnReference,
                        format!("{} position {ordinal} is not in select list", clause.name()),
                    )
                    .at(position)),
                    Err(_) => Err(non_integer_constant(clause).at(position)),
                },
                Value::Placeholder(_) | Value::Null => Ok(None),
                _ => Err(non_integer_constant(clause).at(position)),
            },
            AstExpr::Identifier(ident) => {
                let name = fold_ident(ident);
                let mut found = items.iter().enumerate().filter(|(_, item)| item.name == name);
                let Some((index, first)) = found.next() else { return Ok(None) };
                if found.any(|(_, other)| !other.expr.same(&first.expr)) {
                    return Err(PlanError::new(
                        PlanErrorKind::AmbiguousColumn,
                        format!("{} \"{name}\" is ambiguous", clause.name()),
                    )
                    .at(position));
                }
                Ok(Some(index))
            }
            _ => Ok(None),
        }
    }

    /// Computes the select list, DISTINCT and ORDER BY. `targets`: columns that the rows are stored in. Identity columns of the
    /// stage follow the items if `keep_identities`.
    pub(super) fn finish(
        &mut self,
        mut stage: Stage,
        targets: Option<&[Target<'_>]>,
        keep_identities: bool,
    ) -> Result<Relational, PlanError> {
        // DISTINCT compares the values, as text where nothing says otherwise.
        let targets = targets.filter(|_| matches!(stage.distinct, StageDistinct::No));
        for (index, item) in stage.items.iter_mut().enumerate() {
            let expr = item.expr.clone();
            item.expr = match targets.and_then(|targets| targets.get(index)) {
                Some(target) if expr.ty.ty == SqlType::Unknown => self.assign(expr, *target)?,
                Some(_) | None => self.default_to_text(expr)?,
            };
        }
        self.check_distinct(&stage)?;
        let mut exprs: Vec<&mut TypedExpr> =
            stage.items.iter_mut().map(|item| &mut item.expr).collect();
        exprs.extend(stage.order_by.iter_mut().filter_map(|key| target_expr(&mut key.target)));
        let mut plan = self.mark_subqueries(stage.plan, &mut exprs)?;
        // The visible columns, under names that are unique among them.
        let mut used = std::collections::HashSet::new();
        let mut columns = Vec::new();
        let mut projection = Vec::new();
        for item in &stage.items {
            let name = unique_name(&item.name, &mut used);
            projection.push(lower(&item.expr)?.alias(&name));
            columns.push(PlanColumn {
                name: item.name.clone(),
                ty: item.expr.ty,
                column: Column::from_name(name),
                source: source_of(&item.expr),
            });
        }
        let mut keys = Vec::new();
        for key in &stage.order_by {
            let (column, ty) = self.sort_column(&key.target, &columns, &mut projection)?;
            let expr = functions::comparison_key(Expr::Column(column), ty.ty);
            keys.push(SortExpr::new(expr, key.ascending, key.nulls_first));
        }
        let mut on = Vec::new();
        if let StageDistinct::On(targets) = &stage.distinct {
            for target in targets {
                let (column, ty) = self.sort_column(target, &columns, &mut projection)?;
                on.push(functions::comparison_key(Expr::Column(column), ty.ty));
            }
        }
        let mut kept: Vec<Column> = columns.iter().map(|column| column.column.clone()).collect();
        if keep_identities {
            for (_, _, key, version) in &stage.identities {
                for column in [key, version] {
                    let name = self.fresh(&column.name);
                    projection.push(Expr::Column(column.clone()).alias(&name));
                    kept.push(Column::from_name(name));
                }
            }
        }
        let width = projection.len();
        plan = project(plan, projection)?;
        match stage.distinct {
            StageDistinct::No => {}
            StageDistinct::All => plan = self.distinct(plan, &columns)?,
            StageDistinct::On(_) => plan = distinct_on(plan, on, &keys)?,
        }
        let mut builder = LogicalPlanBuilder::from(plan);
        if !keys.is_empty() {
            builder = builder.sort(keys).map_err(engine_error)?;
        }
        if width > kept.len() {
            builder = builder.project(kept.into_iter().map(Expr::Column)).map_err(engine_error)?;
        }
        Ok(Relational { plan: builder.build().map_err(engine_error)?, columns })
    }

    /// The column that a key sorts by; one that is no output is added to the projection.
    fn sort_column(
        &mut self,
        target: &SortTarget,
        columns: &[PlanColumn],
        projection: &mut Vec<Expr>,
    ) -> Result<(Column, TypeMod), PlanError> {
        match target {
            SortTarget::Output(index) => Ok((columns[*index].column.clone(), columns[*index].ty)),
            SortTarget::Expr(expr) => {
                let name = self.fresh("sort");
                projection.push(lower(expr)?.alias(&name));
                Ok((Column::from_name(name), expr.ty))
            }
        }
    }

    fn check_distinct(&self, stage: &Stage) -> Result<(), PlanError> {
        match &stage.distinct {
            StageDistinct::No => Ok(()),
            StageDistinct::All => {
                for item in &stage.items {
                    check_groupable(&item.expr)?;
                }
                let hidden = stage.order_by.iter().find_map(|key| match &key.target {
                    SortTarget::Expr(expr) => Some(expr),
                    SortTarget::Output(_) => None,
                });
                match hidden {
                    Some(expr) => Err(PlanError::new(
                        PlanErrorKind::InvalidColumnReference,
                        "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
                    )
                    .at(expr.position)),
                    None => Ok(()),
                }
            }
            StageDistinct::On(targets) => {
                // Every key of ORDER BY up to the number of DISTINCT ON expressions must be one of them.
                let matches = |key: &StageSort| {
                    targets.iter().any(|target| match (target, &key.target) {
                        (SortTarget::Output(a), SortTarget::Output(b)) => a == b,
                        (SortTarget::Expr(a), SortTarget::Expr(b)) => a.same(b),
                        _ => false,
                    })
                };
                if stage.order_by.iter().take(targets.len()).all(matches) {
                    return Ok(());
                }
                Err(PlanError::new(
                    PlanErrorKind::InvalidColumnReference,
                    "SELECT DISTINCT ON expressions must match initial ORDER BY expressions",
                ))
            }
        }
    }

    /// One row of each group of equal rows.
    pub(super) fn distinct(
        &mut self,
        plan: LogicalPlan,
        columns: &[PlanColumn],
    ) -> Result<LogicalPlan, PlanError> {
        let mut groups = Vec::new();
        let mut values = Vec::new();
        for column in columns {
            let value = Expr::Column(column.column.clone());
            let key = functions::comparison_key(value.clone(), column.ty.ty);
            if key == value {
                groups.push(value);
            } else if is_representative(column.ty.ty) {
                groups.push(key.alias(&column.column.name));
            } else {
                let name = self.fresh("key");
                groups.push(key.alias(name));
                values.push(minimum(value).alias(&column.column.name));
            }
        }
        let builder = LogicalPlanBuilder::from(plan);
        if values.is_empty() && groups.iter().all(|group| matches!(group, Expr::Column(_))) {
            return builder.distinct().and_then(|builder| builder.build()).map_err(engine_error);
        }
        let kept = columns.iter().map(|column| {
            Expr::Column(Column::from_name(&column.column.name)).alias(&column.column.name)
        });
        builder
            .aggregate(groups, values)
            .and_then(|builder| builder.project(kept))
            .and_then(|builder| builder.build())
            .map_err(engine_error)
    }
}

/// `min(value)` on Arrow's own order: any one of values that are equal to Postgres, and the same one every time.
pub(super) fn minimum(value: Expr) -> Expr {
    Expr::AggregateFunction(AggregateFunction::new_udf(
        datafusion::functions_aggregate::min_max::min_udaf(),
        vec![value],
        false,
        None,
        Vec::new(),
        None,
    ))
}

/// Types whose comparison key is itself a value that equals all of its group. DataFusion's min of floats is not to be trusted
/// with infinities.
pub(super) fn is_representative(ty: SqlType) -> bool {
    matches!(ty, SqlType::Float4 | SqlType::Float8)
}

/// The first row of each group in the order of the keys.
fn distinct_on(
    plan: LogicalPlan,
    on: Vec<Expr>,
    keys: &[SortExpr],
) -> Result<LogicalPlan, PlanError> {
    let all: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let number = row_number(on, keys.to_vec());
    let number_column = Expr::Column(Column::from_name(number.schema_name().to_string()));
    let first = number_column.eq(datafusion::logical_expr::lit(1_u64));
    LogicalPlanBuilder::window_plan(plan, [number])
        .and_then(|plan| LogicalPlanBuilder::from(plan).filter(first))
        .and_then(|builder| builder.project(all))
        .and_then(|builder| builder.build())
        .map_err(engine_error)
}

/// `row_number() OVER (PARTITION BY ... ORDER BY ...)`
pub(super) fn row_number(partition_by: Vec<Expr>, order_by: Vec<SortExpr>) -> Expr {
    let frame = WindowFrame::new_bounds(
        WindowFrameUnits::Rows,
        WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
        WindowFrameBound::CurrentRow,
    );
    Expr::WindowFunction(Box::new(WindowFunction {
        fun: WindowFunctionDefinition::WindowUDF(
            datafusion::functions_window::row_number::row_number_udwf(),
        ),
        params: WindowFunctionParams {
            args: Vec::new(),
            partition_by,
            order_by,
            window_frame: frame,
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    }))
}

/// json has no equality.
pub(super) fn check_groupable(expr: &TypedExpr) -> Result<(), PlanError> {
    let ty = expr.ty.ty.element().unwrap_or(expr.ty.ty);
    if ty == cortex_shard_api::SqlType::Json {
        return Err(PlanError::new(
            PlanErrorKind::UndefinedFunction,
            format!("could not identify an equality operator for type {}", expr.ty.ty.sql_name()),
        )
        .at(expr.position));
    }
    Ok(())
}

/// Every expression over the plan below the select list.
fn stage_exprs<'s>(
    items: &'s mut [Item],
    order_by: &'s mut [StageSort],
    distinct: &'s mut StageDistinct,
) -> Vec<&'s mut TypedExpr> {
    let mut exprs: Vec<&mut TypedExpr> = items.iter_mut().map(|item| &mut item.expr).collect();
    exprs.extend(order_by.iter_mut().filter_map(|key| target_expr(&mut key.target)));
    if let StageDistinct::On(targets) = distinct {
        exprs.extend(targets.iter_mut().filter_map(target_expr));
    }
    exprs
}

fn target_expr(target: &mut SortTarget) -> Option<&mut TypedExpr> {
    match target {
        SortTarget::Expr(expr) => Some(expr),
        SortTarget::Output(_) => None,
    }
}

fn star_items(columns: Vec<crate::bind::names::ScopeColumn>) -> impl Iterator<Item = Item> {
    columns.into_iter().map(|column| Item { name: column.name, expr: column.expr })
}

pub(super) fn source_of(expr: &TypedExpr) -> (u32, i16) {
    match &expr.kind {
        Kind::Column { column, level: 0 } => column.source(),
        _ => (0, 0),
    }
}

fn unique_name(name: &str, used: &mut std::collections::HashSet<String>) -> String {
    let mut candidate = name.to_owned();
    let mut count = 1;
    while !used.insert(candidate.clone()) {
        count += 1;
        candidate = format!("{name}_{count}");
    }
    candidate
}

fn non_integer_constant(clause: Clause) -> PlanError {
    PlanError::new(PlanErrorKind::Syntax, format!("non-integer constant in {}", clause.name()))
}

fn check_wildcard(options: &WildcardAdditionalOptions) -> Result<(), PlanError> {
    let WildcardAdditionalOptions {
        opt_ilike: None,
        opt_exclude: None,
        opt_except: None,
        opt_replace: None,
        opt_rename: None,
        opt_alias: None,
        ..
    } = options
    else {
        return Err(PlanError::new(PlanErrorKind::Syntax, "options after * are not SQL"));
    };
    Ok(())
}

/// Clauses of other dialects that the parser knows.
fn refuse_foreign(select: &Select) -> Result<(), PlanError> {
    let foreign = select.top.is_some()
        || !select.lateral_views.is_empty()
        || select.prewhere.is_some()
        || !select.connect_by.is_empty()
        || !select.cluster_by.is_empty()
        || !select.distribute_by.is_empty()
        || !select.sort_by.is_empty()
        || select.qualify.is_some()
        || select.value_table_mode.is_some()
        || select.exclude.is_some()
        || select.select_modifiers.as_ref().is_some_and(|modifiers| modifiers.is_any_set());
    if foreign {
        return Err(PlanError::new(
            PlanErrorKind::Syntax,
            "syntax error: a clause of another SQL dialect",
        ));
    }
    if select.into.is_some() {
        return Err(PlanError::unsupported(
            "SELECT INTO is not supported",
            "Use CREATE TABLE AS or INSERT ... SELECT.",
        ));
    }
    Ok(())
}
