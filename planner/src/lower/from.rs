//! FROM: relations, joins, table functions.
//!
//! Each relation gets a qualifier of its own in the plan, so that DataFusion never sees two columns of one name. LATERAL
//! subqueries are joins that DataFusion decorrelates; functions over columns of relations to their left are unnested in place.

use std::sync::Arc;

use cortex_shard_api::Oid;
use datafusion::{
    arrow::datatypes::Schema,
    common::{DFSchema, JoinType, TableReference},
    datasource::provider_as_source,
    logical_expr::{EmptyRelation, Expr as PlanExpr, LogicalPlan, LogicalPlanBuilder},
};
use sqlparser::{
    ast::{
        Expr, FunctionArg, FunctionArgExpr, Join, JoinConstraint, JoinOperator, ObjectName,
        Spanned, TableAlias, TableFactor, TableWithJoins,
    },
    parser::Parser,
};

use super::{
    PlanColumn, Relational, dependent::join_on_domain, engine_error, expr::lower, set_returning,
};
use crate::{
    CortexDialect, PlanError, PlanErrorKind,
    bind::{
        Binder, Clause, Scope,
        names::{ScopeColumn, ScopeRelation, fold_ident, plan_column, table_relation},
        stands_alone,
        typed::{ColumnRef, Kind, TypedExpr},
    },
    catalog::{Relation, Table, View},
    operators::table::{IDENTITY_KEY, IDENTITY_VERSION, provider},
};

/// Views inside views at the most.
const VIEW_DEPTH_MAX: usize = 32;

/// A plan and what may be named of it.
#[derive(Clone, Debug)]
pub(crate) struct FromItem {
    pub plan: LogicalPlan,
    pub scope: Scope,
}

/// What the relations of a FROM clause are scanned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    Without,
    /// FOR UPDATE, UPDATE, DELETE.
    With,
}

/// A plan under a new qualifier.
pub(super) fn plan_alias(
    binder: &mut Binder<'_>,
    relational: Relational,
    alias: &str,
) -> Result<Relational, PlanError> {
    let qualifier = binder.qualifier(alias);
    let reference = TableReference::bare(qualifier.clone());
    let builder = LogicalPlanBuilder::from(relational.plan);
    // Decorrelation loses columns behind an alias node, but not behind a projection.
    let plan = match builder.plan().all_out_ref_exprs().is_empty() {
        true => builder.alias(reference),
        false => {
            let columns = builder.schema().columns().into_iter().map(|column| {
                let name = column.name.clone();
                PlanExpr::Column(column).alias_qualified(Some(reference.clone()), name)
            });
            let columns: Vec<PlanExpr> = columns.collect();
            builder.project(columns)
        }
    }
    .and_then(|builder| builder.build())
    .map_err(engine_error)?;
    let columns = relational
        .columns
        .into_iter()
        .map(|column| PlanColumn { column: plan_column(&qualifier, &column.column.name), ..column })
        .collect();
    Ok(Relational { plan, columns })
}

impl Binder<'_> {
    /// The whole FROM clause. Without one: a single row without columns.
    pub(crate) fn bind_from(
        &mut self,
        from: &[TableWithJoins],
        identity: Identity,
    ) -> Result<FromItem, PlanError> {
        let mut whole: Option<FromItem> = None;
        for item in from {
            whole = Some(self.bind_joins(whole, item, identity)?);
        }
        match whole {
            Some(item) => Ok(item),
            None => Ok(FromItem {
                plan: LogicalPlanBuilder::empty(true).build().map_err(engine_error)?,
                scope: Scope::empty(),
            }),
        }
    }

    /// One item of the FROM list beside those before it.
    pub(crate) fn bind_joins(
        &mut self,
        before: Option<FromItem>,
        item: &TableWithJoins,
        identity: Identity,
    ) -> Result<FromItem, PlanError> {
        // Columns of the list before are in sight of LATERAL items only.
        let simple = item.joins.is_empty();
        if simple && let Some(before) = before {
            return self.bind_lateral_join(
                before,
                &item.relation,
                JoinType::Inner,
                &JoinConstraint::None,
                identity,
            );
        }
        let mut joined = match &before {
            Some(_) if is_lateral(&item.relation) => {
                return Err(PlanError::unsupported(
                    "LATERAL at the start of a join that follows a comma is not supported",
                    "Write the relations before it with CROSS JOIN.",
                ));
            }
            _ => self.bind_factor(&item.relation, identity)?,
        };
        for join in &item.joins {
            joined = self.bind_join(joined, join, identity)?;
        }
        match before {
            Some(before) => {
                self.check_aliases(&before.scope, &joined.scope)?;
                cross_join(before, joined)
            }
            None => Ok(joined),
        }
    }

    fn bind_join(
        &mut self,
        left: FromItem,
        join: &Join,
        identity: Identity,
    ) -> Result<FromItem, PlanError> {
        let (join_type, constraint) = match &join.join_operator {
            JoinOperator::Join(constraint) | JoinOperator::Inner(constraint) => {
                (JoinType::Inner, constraint)
            }
            JoinOperator::CrossJoin(constraint) => (JoinType::Inner, constraint),
            JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => {
                (JoinType::Left, constraint)
            }
            JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => {
                (JoinType::Right, constraint)
            }
            JoinOperator::FullOuter(constraint) => (JoinType::Full, constraint),
            _ => {
                return Err(PlanError::new(
                    PlanErrorKind::Syntax,
                    "syntax error: this kind of join is not SQL",
                ));
            }
        };
        self.bind_lateral_join(left, &join.relation, join_type, constraint, identity)
    }

    /// A join whose right side may be LATERAL.
    fn bind_lateral_join(
        &mut self,
        left: FromItem,
        factor: &TableFactor,
        join_type: JoinType,
        constraint: &JoinConstraint,
        identity: Identity,
    ) -> Result<FromItem, PlanError> {
        if !is_lateral(factor) {
            let right = self.bind_factor(factor, identity)?;
            self.check_aliases(&left.scope, &right.scope)?;
            return self.join_items(left, right, join_type, constraint);
        }
        let mut visible = left.scope.clone();
        if matches!(join_type, JoinType::Right | JoinType::Full) {
            visible.relations.iter_mut().for_each(|relation| relation.blocked = true);
            visible.visible.clear();
        }
        if let TableFactor::Derived { .. } = factor {
            return self
                .join_lateral_subquery(left, visible, factor, join_type, constraint, identity);
        }
        let function = self.table_function(factor)?;
        let calls = self.bind_table_calls(&function, &visible)?;
        if !calls.iter().any(TypedExpr::has_column) {
            let right = self.unnest_calls(None, calls, &function, false)?;
            self.check_aliases(&left.scope, &right.scope)?;
            return self.join_items(left, right, join_type, constraint);
        }
        let on_true = match constraint {
            JoinConstraint::None => true,
            JoinConstraint::On(Expr::Value(value)) => {
                matches!(value.value, sqlparser::ast::Value::Boolean(true))
            }
            _ => false,
        };
        match join_type {
            JoinType::Inner => {
                let joined = self.unnest_calls(Some(left), calls, &function, false)?;
                match constraint {
                    JoinConstraint::None => Ok(joined),
                    JoinConstraint::On(condition) => {
                        let predicate =
                            self.bind_predicate(condition, &joined.scope, Clause::JoinOn)?;
                        let plan = self.filter(joined.plan, predicate)?;
                        Ok(FromItem { plan, ..joined })
                    }
                    JoinConstraint::Using(_) | JoinConstraint::Natural => {
                        Err(lateral_unsupported())
                    }
                }
            }
            JoinType::Left if on_true => self.unnest_calls(Some(left), calls, &function, true),
            _ => Err(lateral_unsupported()),
        }
    }

    fn join_lateral_subquery(
        &mut self,
        left: FromItem,
        visible: Scope,
        factor: &TableFactor,
        join_type: JoinType,
        constraint: &JoinConstraint,
        identity: Identity,
    ) -> Result<FromItem, PlanError> {
        self.outer.push(Arc::new(visible));
        self.outer_used.push(Vec::new());
        let right = self.bind_factor(factor, identity);
        self.outer.pop();
        self.outer_used.pop();
        let right = right?;
        self.check_aliases(&left.scope, &right.scope)?;
        if right.plan.all_out_ref_exprs().is_empty() {
            return self.join_items(left, right, join_type, constraint);
        }
        if !matches!(join_type, JoinType::Inner | JoinType::Left) {
            return Err(lateral_unsupported());
        }
        let scope = left.scope.clone().join(right.scope);
        let predicate = match constraint {
            JoinConstraint::None => None,
            JoinConstraint::On(condition) => {
                Some(self.bind_predicate(condition, &scope, Clause::JoinOn)?)
            }
            JoinConstraint::Using(_) | JoinConstraint::Natural => {
                return Err(lateral_unsupported());
            }
        };
        let plan = if join_type == JoinType::Inner {
            let joined = match self.dependent_rows(&left.plan, &right.plan)? {
                Some(joined) => joined,
                None => {
                    let rows = self.dependent(&left.plan, &right.plan)?;
                    let rows = rows.ok_or_else(lateral_unsupported)?;
                    join_on_domain(left.plan, rows.plan, &rows.keys, join_type, None)?
                }
            };
            match predicate {
                Some(predicate) => self.filter(joined, predicate)?,
                None => joined,
            }
        } else {
            let rows = self.dependent(&left.plan, &right.plan)?.ok_or_else(lateral_unsupported)?;
            let condition = match predicate {
                Some(predicate) if predicate.has_subquery() => return Err(lateral_unsupported()),
                Some(predicate) => Some(lower(&predicate)?),
                None => None,
            };
            join_on_domain(left.plan, rows.plan, &rows.keys, join_type, condition)?
        };
        Ok(FromItem { plan, scope })
    }

    fn check_aliases(&self, left: &Scope, right: &Scope) -> Result<(), PlanError> {
        for relation in &right.relations {
            let same = left.relations.iter().any(|other| {
                other.name == relation.name
                    && (other.schema.is_none()
                        || relation.schema.is_none()
                        || other.schema == relation.schema)
            });
            if same {
                return Err(PlanError::new(
                    PlanErrorKind::DuplicateAlias,
                    format!("table name \"{}\" specified more than once", relation.name),
                ));
            }
        }
        Ok(())
    }

    fn join_items(
        &mut self,
        left: FromItem,
        right: FromItem,
        join_type: JoinType,
        constraint: &JoinConstraint,
    ) -> Result<FromItem, PlanError> {
        let names = match constraint {
            JoinConstraint::None => return cross_join(left, right),
            JoinConstraint::On(condition) => {
                let scope = left.scope.clone().join(right.scope.clone());
                let predicate = self.bind_predicate(condition, &scope, Clause::JoinOn)?;
                let plan = self.join_plans(left.plan, right.plan, join_type, Some(predicate))?;
                return Ok(FromItem { plan, scope });
            }
            JoinConstraint::Using(names) => names
                .iter()
                .filter_map(|name| name.0.last().and_then(|part| part.as_ident()))
                .map(fold_ident)
                .collect::<Vec<_>>(),
            JoinConstraint::Natural => left
                .scope
                .visible
                .iter()
                .filter(|column| right.scope.visible.iter().any(|other| other.name == column.name))
                .map(|column| column.name.clone())
                .collect(),
        };
        self.join_using(left, right, join_type, &names)
    }

    /// USING and NATURAL: merged columns come first, then the rest of the left side, then of the right.
    fn join_using(
        &mut self,
        left: FromItem,
        right: FromItem,
        join_type: JoinType,
        names: &[String],
    ) -> Result<FromItem, PlanError> {
        let mut terms = Vec::new();
        let mut merged = Vec::new();
        for name in names {
            let left_column = using_column(&left.scope, name, "left")?;
            let right_column = using_column(&right.scope, name, "right")?;
            let (left_expr, right_expr) = (left_column.expr.clone(), right_column.expr.clone());
            terms.push(self.compare("=", left_expr.clone(), right_expr.clone(), None)?);
            let (pair, ty) = self.unify(vec![left_expr, right_expr], "JOIN/USING")?;
            let expr = match (join_type, pair.as_slice()) {
                (JoinType::Right, [_, right]) => right.clone(),
                (JoinType::Full, _) => TypedExpr::new(Kind::Coalesce(pair), ty),
                (_, [left, ..]) => left.clone(),
                (_, []) => return Err(PlanError::new(PlanErrorKind::Internal, "empty USING pair")),
            };
            merged.push(ScopeColumn { name: name.clone(), expr });
        }
        let others = |scope: &Scope| {
            scope
                .visible
                .iter()
                .filter(|column| !names.contains(&column.name))
                .cloned()
                .collect::<Vec<_>>()
        };
        let mut visible = merged;
        visible.extend(others(&left.scope));
        visible.extend(others(&right.scope));
        let mut scope = left.scope.join(right.scope);
        scope.visible = visible;
        let predicate = (!terms.is_empty()).then(|| TypedExpr::and(terms));
        let plan = self.join_plans(left.plan, right.plan, join_type, predicate)?;
        Ok(FromItem { plan, scope })
    }

    fn join_plans(
        &mut self,
        left: LogicalPlan,
        right: LogicalPlan,
        join_type: JoinType,
        predicate: Option<TypedExpr>,
    ) -> Result<LogicalPlan, PlanError> {
        let Some(predicate) = predicate else {
            return LogicalPlanBuilder::from(left)
                .join_on(right, join_type, std::iter::empty())
                .and_then(|builder| builder.build())
                .map_err(engine_error);
        };
        if predicate.has_subquery() {
            if join_type != JoinType::Inner {
                return Err(PlanError::unsupported(
                    "a subquery in the condition of an outer join is not supported",
                    "Join with the subquery as a relation.",
                ));
            }
            let crossed = LogicalPlanBuilder::from(left)
                .cross_join(right)
                .and_then(|builder| builder.build())
                .map_err(engine_error)?;
            return self.filter(crossed, predicate);
        }
        LogicalPlanBuilder::from(left)
            .join_on(right, join_type, Some(lower(&predicate)?))
            .and_then(|builder| builder.build())
            .map_err(engine_error)
    }

    fn bind_factor(
        &mut self,
        factor: &TableFactor,
        identity: Identity,
    ) -> Result<FromItem, PlanError> {
        self.deeper(|binder| binder.bind_factor_form(factor, identity))
    }

    fn bind_factor_form(
        &mut self,
        factor: &TableFactor,
        identity: Identity,
    ) -> Result<FromItem, PlanError> {
        match factor {
            TableFactor::Table {
                name, alias, args: None, sample, with_ordinality: false, ..
            } => {
                if sample.is_some() {
                    return Err(PlanError::unsupported(
                        "TABLESAMPLE is not supported",
                        "Use WHERE random() < p.",
                    ));
                }
                self.bind_relation(name, alias.as_ref(), identity)
            }
            TableFactor::Derived { subquery, alias, sample: None, .. } => {
                let relational = self.bind_subselect(subquery)?;
                let Some(alias) = alias else {
                    return Err(PlanError::new(
                        PlanErrorKind::Syntax,
                        "subquery in FROM must have an alias",
                    )
                    .with_hint("For example, FROM (SELECT ...) [AS] foo.")
                    .at(self.position(subquery.span())));
                };
                let name = fold_ident(&alias.name);
                let aliased = plan_alias(self, relational, &name)?;
                self.derived_item(aliased, &name, Some(alias), None)
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => {
                self.bind_joins(None, table_with_joins, identity)
            }
            TableFactor::NestedJoin { alias: Some(_), .. } => Err(PlanError::unsupported(
                "an alias for a parenthesized join is not supported",
                "Give the relations inside it their aliases.",
            )),
            TableFactor::Table { args: Some(_), .. }
            | TableFactor::Function { .. }
            | TableFactor::UNNEST { .. } => {
                let function = self.table_function(factor)?;
                let calls = self.bind_table_calls(&function, &Scope::empty())?;
                self.unnest_calls(None, calls, &function, false)
            }
            other => Err(PlanError::unsupported(
                format!("{other} in FROM is not supported"),
                "COMPAT.md lists what FROM can hold.",
            )
            .at(self.position(other.span()))),
        }
    }

    /// A table, view, system relation or WITH query by name.
    fn bind_relation(
        &mut self,
        name: &ObjectName,
        alias: Option<&TableAlias>,
        identity: Identity,
    ) -> Result<FromItem, PlanError> {
        let position = self.position(name.span());
        let parts: Vec<String> =
            name.0.iter().filter_map(|part| part.as_ident()).map(fold_ident).collect();
        let (schema, relation) = match parts.as_slice() {
            [relation] => (None, relation),
            [.., schema, relation] => (Some(schema.as_str()), relation),
            [] => {
                return Err(
                    PlanError::new(PlanErrorKind::Syntax, "relation without a name").at(position)
                );
            }
        };
        let alias_name = alias.map(|alias| fold_ident(&alias.name));
        let shown = alias_name.as_deref().unwrap_or(relation);
        if schema.is_none()
            && let Some(cte) = self.find_cte(relation)
        {
            let relational = self.cte_plan(&cte, shown)?;
            return self.derived_item(relational, shown, alias, None);
        }
        match self.namespace.relation(schema, relation) {
            Some(Relation::Table(table)) => {
                self.scan_table(&table, alias_name.as_deref(), alias, identity)
            }
            Some(Relation::View(view)) => {
                let relational = self.bind_view(&view).map_err(|error| error.at(position))?;
                let aliased = plan_alias(self, relational, shown)?;
                let mut item = self.derived_item(aliased, shown, alias, None)?;
                for relation in &mut item.scope.relations {
                    relation.oid = None;
                    relation.table_name = alias.map(|_| view.name.clone());
                    if alias.is_none() {
                        relation.schema = self
                            .namespace
                            .catalog
                            .schemas
                            .get(&view.schema)
                            .map(|schema| schema.name.clone());
                    }
                }
                Ok(item)
            }
            Some(Relation::System(system)) => {
                let qualifier = self.qualifier(shown);
                let plan = if system.always_empty {
                    no_rows(&qualifier, &system.provider.schema())?
                } else {
                    LogicalPlanBuilder::scan(
                        TableReference::bare(qualifier.clone()),
                        provider_as_source(system.provider.clone()),
                        None,
                    )
                    .and_then(|builder| builder.build())
                    .map_err(engine_error)?
                };
                let columns = system
                    .columns
                    .iter()
                    .map(|(name, ty)| PlanColumn {
                        name: (*name).to_owned(),
                        ty: *ty,
                        column: plan_column(&qualifier, name),
                        source: (0, 0),
                    })
                    .collect();
                let mut item = self.derived_item(
                    Relational { plan, columns },
                    shown,
                    alias,
                    Some(system.oid),
                )?;
                for relation in &mut item.scope.relations {
                    match alias {
                        None => relation.schema = Some(system.schema.to_owned()),
                        Some(_) => relation.table_name = Some(system.name.to_owned()),
                    }
                }
                Ok(item)
            }
            Some(Relation::Sequence(_)) => Err(PlanError::unsupported(
                format!("cannot read sequence \"{relation}\" as a table"),
                "Query pg_sequences.",
            )
            .at(position)),
            None => {
                let name = match schema {
                    Some(schema) => format!("{schema}.{relation}"),
                    None => relation.clone(),
                };
                Err(PlanError::new(
                    PlanErrorKind::UndefinedTable,
                    format!("relation \"{name}\" does not exist"),
                )
                .at(position))
            }
        }
    }

    /// A scan of a table.
    pub(crate) fn scan_table(
        &mut self,
        table: &Arc<Table>,
        alias_name: Option<&str>,
        alias: Option<&TableAlias>,
        identity: Identity,
    ) -> Result<FromItem, PlanError> {
        let qualifier = self.qualifier(alias_name.unwrap_or(&table.descriptor.name));
        let source = provider_as_source(provider(table, identity == Identity::With));
        let plan = LogicalPlanBuilder::scan(TableReference::bare(qualifier.clone()), source, None)
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let instance = self.next_instance();
        let mut relation = table_relation(table, alias_name, instance, 0, Some(&qualifier));
        if identity == Identity::With {
            relation.identity = Some((
                plan_column(&qualifier, IDENTITY_KEY),
                plan_column(&qualifier, IDENTITY_VERSION),
            ));
        }
        self.rename_columns(&mut relation, alias)?;
        let visible = relation.columns.clone();
        Ok(FromItem {
            plan,
            scope: Scope { relations: vec![relation], visible, ..Scope::default() },
        })
    }

    /// A view is its query, bound where nothing of this statement is in sight.
    fn bind_view(&mut self, view: &View) -> Result<Relational, PlanError> {
        if self.view_depth >= VIEW_DEPTH_MAX {
            return Err(PlanError::new(
                PlanErrorKind::TooComplex,
                format!("views nest more than {VIEW_DEPTH_MAX} levels deep"),
            ));
        }
        let broken = |what: String| {
            PlanError::new(
                PlanErrorKind::Internal,
                format!("the query of view \"{}\" cannot be read: {what}", view.name),
            )
        };
        let query = Parser::new(&CortexDialect)
            .try_with_sql(&view.sql)
            .and_then(|mut parser| parser.parse_query())
            .map_err(|error| broken(error.to_string()))?;
        let outer = std::mem::take(&mut self.outer);
        let outer_used = std::mem::take(&mut self.outer_used);
        let ctes = std::mem::take(&mut self.ctes);
        self.view_depth += 1;
        let bound = self.bind_subselect(&query);
        self.view_depth -= 1;
        self.outer = outer;
        self.outer_used = outer_used;
        self.ctes = ctes;
        let mut relational = bound?;
        for (column, (name, _)) in relational.columns.iter_mut().zip(&view.columns) {
            column.name.clone_from(name);
            column.source = (0, 0);
        }
        Ok(relational)
    }

    /// A relation over the columns of a plan.
    pub(super) fn derived_item(
        &mut self,
        relational: Relational,
        name: &str,
        alias: Option<&TableAlias>,
        oid: Option<Oid>,
    ) -> Result<FromItem, PlanError> {
        let instance = self.next_instance();
        let columns = relational
            .columns
            .iter()
            .enumerate()
            .map(|(position, column)| derived_column(instance, position, name, column, oid))
            .collect();
        let mut relation = ScopeRelation {
            name: name.to_owned(),
            schema: None,
            table_name: None,
            oid,
            columns,
            identity: None,
            table: None,
            blocked: false,
            scalar: false,
        };
        self.rename_columns(&mut relation, alias)?;
        let visible = relation.columns.clone();
        Ok(FromItem {
            plan: relational.plan,
            scope: Scope { relations: vec![relation], visible, ..Scope::default() },
        })
    }

    /// `AS t (a, b)`
    fn rename_columns(
        &self,
        relation: &mut ScopeRelation,
        alias: Option<&TableAlias>,
    ) -> Result<(), PlanError> {
        let names: &[_] = alias.map_or(&[], |alias| &alias.columns);
        if names.len() > relation.columns.len() {
            return Err(PlanError::new(
                PlanErrorKind::InvalidColumnReference,
                format!(
                    "table \"{}\" has {} columns available but {} columns specified",
                    relation.name,
                    relation.columns.len(),
                    names.len()
                ),
            ));
        }
        for (column, name) in relation.columns.iter_mut().zip(names) {
            column.name = fold_ident(&name.name);
        }
        Ok(())
    }

    /// The call and alias of a function in FROM.
    fn table_function<'f>(&self, factor: &'f TableFactor) -> Result<TableFunction<'f>, PlanError> {
        let position = self.position(factor.span());
        if let TableFactor::Table { name, .. } | TableFactor::Function { name, .. } = factor
            && let [schema, name] = &name.0[..]
            && let (Some(schema), Some(name)) = (schema.as_ident(), name.as_ident())
            && let (schema, name) = (fold_ident(schema), fold_ident(name))
            && self.namespace.system.is_administration(&schema, &name)
        {
            return Err(stands_alone(&format!("{schema}.{name}")).at(position));
        }
        match factor {
            TableFactor::Table { name, alias, args: Some(args), with_ordinality, .. } => {
                Ok(TableFunction {
                    name: function_name(name),
                    args: unnamed(&args.args, position)?,
                    alias: alias.as_ref(),
                    ordinality: *with_ordinality,
                    each: false,
                    position,
                })
            }
            TableFactor::Function { name, args, alias, with_ordinality, .. } => Ok(TableFunction {
                name: function_name(name),
                args: unnamed(args, position)?,
                alias: alias.as_ref(),
                ordinality: *with_ordinality,
                each: false,
                position,
            }),
            TableFactor::UNNEST {
                alias, array_exprs, with_offset: false, with_ordinality, ..
            } => Ok(TableFunction {
                name: "unnest".to_owned(),
                args: array_exprs.iter().collect(),
                alias: alias.as_ref(),
                ordinality: *with_ordinality,
                each: array_exprs.len() > 1,
                position,
            }),
            other => Err(PlanError::unsupported(
                format!("{other} in FROM is not supported"),
                "COMPAT.md lists what FROM can hold.",
            )
            .at(position)),
        }
    }

    /// The function's calls: one, or one for each array of `unnest(a, b)`.
    fn bind_table_calls(
        &mut self,
        function: &TableFunction<'_>,
        scope: &Scope,
    ) -> Result<Vec<TypedExpr>, PlanError> {
        let args = function
            .args
            .iter()
            .map(|arg| self.bind_expr(arg, scope, Clause::FromFunction))
            .collect::<Result<Vec<_>, _>>()?;
        if function.each {
            return args
                .into_iter()
                .map(|arg| {
                    self.call(&function.name, vec![arg], function.position, Clause::FromFunction)
                })
                .collect();
        }
        let name = match function.name.as_str() {
            // Constructs that are no functions elsewhere are none here.
            "current_date" | "current_timestamp" => "now",
            other => other,
        };
        Ok(vec![self.call(name, args, function.position, Clause::FromFunction)?])
    }

    /// A relation of the calls' rows; with `left`, for each of its rows.
    fn unnest_calls(
        &mut self,
        left: Option<FromItem>,
        calls: Vec<TypedExpr>,
        function: &TableFunction<'_>,
        outer: bool,
    ) -> Result<FromItem, PlanError> {
        let alias_name = function.alias.map(|alias| fold_ident(&alias.name));
        let shown = alias_name.clone().unwrap_or_else(|| function.name.clone());
        let (input, scope) = match left {
            Some(left) => (left.plan, left.scope),
            None => {
                (LogicalPlanBuilder::empty(true).build().map_err(engine_error)?, Scope::empty())
            }
        };
        let single = calls.len() == 1;
        let (plan, mut columns) =
            set_returning::expand(self, input, &calls, function.ordinality, outer, &shown)?;
        // A function that returns one column names it after the alias.
        let scalar_columns = columns.len() - usize::from(function.ordinality);
        if single
            && scalar_columns == 1
            && columns[0].name == function.name
            && let Some(alias) = &alias_name
        {
            columns[0].name.clone_from(alias);
        }
        let mut right = self.derived_item(
            Relational { plan: plan.clone(), columns },
            &shown,
            function.alias,
            None,
        )?;
        for relation in &mut right.scope.relations {
            relation.scalar = relation.columns.len() == 1;
        }
        if !scope.relations.is_empty() {
            self.check_aliases(&scope, &right.scope)?;
        }
        Ok(FromItem { plan, scope: scope.join(right.scope) })
    }
}

/// A function in FROM as it is written.
struct TableFunction<'f> {
    name: String,
    args: Vec<&'f Expr>,
    alias: Option<&'f TableAlias>,
    ordinality: bool,
    /// Each argument is a call of its own: `unnest(a, b)`.
    each: bool,
    position: Option<usize>,
}

fn function_name(name: &ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(fold_ident).unwrap_or_default()
}

fn unnamed(args: &[FunctionArg], position: Option<usize>) -> Result<Vec<&Expr>, PlanError> {
    args.iter()
        .map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr),
            _ => Err(PlanError::unsupported(
                "named and whole-row arguments are not supported",
                "Give the arguments by position.",
            )
            .at(position)),
        })
        .collect()
}

/// Functions see the relations before them even without the word LATERAL.
fn is_lateral(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::Derived { lateral, .. } => *lateral,
        TableFactor::Function { .. } | TableFactor::UNNEST { .. } => true,
        TableFactor::Table { args, .. } => args.is_some(),
        _ => false,
    }
}

fn lateral_unsupported() -> PlanError {
    PlanError::unsupported(
        "this kind of LATERAL join is not supported",
        "Use CROSS JOIN LATERAL, or LEFT JOIN LATERAL ... ON true.",
    )
}

fn using_column<'s>(
    scope: &'s Scope,
    name: &str,
    side: &str,
) -> Result<&'s ScopeColumn, PlanError> {
    let mut found = scope.visible.iter().filter(|column| column.name == name);
    match (found.next(), found.next()) {
        (Some(column), None) => Ok(column),
        (Some(_), Some(_)) => Err(PlanError::new(
            PlanErrorKind::AmbiguousColumn,
            format!("common column name \"{name}\" appears more than once in {side} table"),
        )),
        (None, _) => Err(PlanError::new(
            PlanErrorKind::UndefinedColumn,
            format!("column \"{name}\" specified in USING clause does not exist in {side} table"),
        )),
    }
}

fn cross_join(left: FromItem, right: FromItem) -> Result<FromItem, PlanError> {
    let plan = LogicalPlanBuilder::from(left.plan)
        .cross_join(right.plan)
        .and_then(|builder| builder.build())
        .map_err(engine_error)?;
    Ok(FromItem { plan, scope: left.scope.join(right.scope) })
}

/// A column of a relation that is not a table.
pub(super) fn derived_column(
    instance: usize,
    position: usize,
    relation: &str,
    column: &PlanColumn,
    system: Option<Oid>,
) -> ScopeColumn {
    let reference = ColumnRef {
        instance,
        position,
        relation: relation.to_owned(),
        name: column.name.clone(),
        column: column.column.clone(),
        table: None,
        system,
    };
    let kind = Kind::Column { column: Arc::new(reference), level: 0 };
    ScopeColumn { name: column.name.clone(), expr: TypedExpr::new(kind, column.ty) }
}

/// A relation without rows, so that the optimizer can leave out what depends on it.
fn no_rows(qualifier: &str, schema: &Schema) -> Result<LogicalPlan, PlanError> {
    let schema = DFSchema::try_from_qualified_schema(TableReference::bare(qualifier), schema)
        .map_err(engine_error)?;
    Ok(LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: false,
        schema: Arc::new(schema),
    }))
}
