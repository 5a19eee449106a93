//! UNION, INTERSECT, EXCEPT and VALUES.
//!
//! Both sides get their columns' common types while their select lists are still typed expressions, so that `SELECT 'x' UNION
//! SELECT d FROM t` reads 'x' as what d is. INTERSECT and EXCEPT are semi and anti joins in which NULL equals NULL; with ALL
//! the n-th copy of a row meets the n-th copy.

use std::sync::Arc;

use cortex_functions::lower as functions;
use cortex_shard_api::{SqlType, TypeMod, value::arrow::arrow_type};
use datafusion::{
    common::{Column, DFSchema, JoinType, NullEquality, TableReference},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
};
use sqlparser::ast::{OrderBy, SetExpr, SetOperator, SetQuantifier, Values};

use super::{
    PlanColumn, Relational, engine_error,
    expr::lower,
    from::Identity,
    project,
    select::{Item, SortTarget, Stage, StageDistinct, check_groupable, row_number},
};
use crate::{
    PlanError, PlanErrorKind,
    bind::{
        Binder, Clause, Scope,
        typed::{Kind, TypedExpr},
    },
};

impl Binder<'_> {
    /// The body of a query with the ORDER BY around it.
    pub(super) fn bind_body(
        &mut self,
        body: &SetExpr,
        order_by: Option<&OrderBy>,
        identity: Identity,
    ) -> Result<Stage, PlanError> {
        self.deeper(|binder| binder.bind_body_form(body, order_by, identity))
    }

    fn bind_body_form(
        &mut self,
        body: &SetExpr,
        order_by: Option<&OrderBy>,
        identity: Identity,
    ) -> Result<Stage, PlanError> {
        let mut stage = match body {
            SetExpr::Select(select) => return self.bind_select(select, order_by, identity),
            SetExpr::Query(query) => {
                let relational = self.bind_subselect(query)?;
                stage_of(relational, None)
            }
            SetExpr::SetOperation { left, op, set_quantifier, right } => {
                self.bind_set_operation(left, *op, *set_quantifier, right)?
            }
            SetExpr::Values(values) => self.bind_values(values)?,
            SetExpr::Table(table) => self.bind_table_body(table)?,
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                return Err(PlanError::unsupported(
                    "data-modifying statements in WITH are not supported",
                    "Run them as statements of their own in one transaction; queries in WITH may stand before INSERT, \
                     UPDATE and DELETE.",
                ));
            }
        };
        stage.order_by = self.bind_order_by_outputs(order_by, &stage.items, body)?;
        Ok(stage)
    }

    /// ORDER BY of a set operation may only name output columns.
    fn bind_order_by_outputs(
        &mut self,
        order_by: Option<&OrderBy>,
        items: &[Item],
        body: &SetExpr,
    ) -> Result<Vec<super::select::StageSort>, PlanError> {
        let scope = Scope {
            visible: items
                .iter()
                .map(|item| crate::bind::names::ScopeColumn {
                    name: item.name.clone(),
                    expr: item.expr.clone(),
                })
                .collect(),
            ..Scope::default()
        };
        let keys = self.bind_order_by(order_by, items, &scope)?;
        let hidden = keys.iter().find_map(|key| match &key.target {
            SortTarget::Expr(expr) => Some(expr),
            SortTarget::Output(_) => None,
        });
        match hidden {
            Some(expr) if matches!(body, SetExpr::SetOperation { .. }) => Err(PlanError::new(
                PlanErrorKind::Unsupported,
                "invalid UNION/INTERSECT/EXCEPT ORDER BY clause",
            )
            .with_detail("Only result column names can be used, not expressions or functions.")
            .with_hint("Add the expression/function to every SELECT, or move the UNION into a FROM clause.")
            .at(expr.position)),
            _ => Ok(keys),
        }
    }

    pub(super) fn bind_body_finished(&mut self, body: &SetExpr) -> Result<Relational, PlanError> {
        let stage = self.bind_body(body, None, Identity::Without)?;
        self.finish(stage, None, false)
    }

    fn bind_table_body(&mut self, table: &sqlparser::ast::Table) -> Result<Stage, PlanError> {
        let parts = table.schema_name.iter().chain(&table.table_name);
        let name = sqlparser::ast::ObjectName::from(
            parts.map(sqlparser::ast::Ident::new).collect::<Vec<_>>(),
        );
        let factor = sqlparser::ast::TableWithJoins {
            relation: sqlparser::ast::TableFactor::Table {
                name,
                alias: None,
                args: None,
                with_hints: Vec::new(),
                version: None,
                with_ordinality: false,
                partitions: Vec::new(),
                json_path: None,
                sample: None,
                index_hints: Vec::new(),
            },
            joins: Vec::new(),
        };
        let from = self.bind_from(&[factor], Identity::Without)?;
        let items = from
            .scope
            .visible
            .into_iter()
            .map(|column| Item { name: column.name, expr: column.expr })
            .collect();
        Ok(plain_stage(from.plan, items, None))
    }

    fn bind_set_operation(
        &mut self,
        left: &SetExpr,
        op: SetOperator,
        quantifier: SetQuantifier,
        right: &SetExpr,
    ) -> Result<Stage, PlanError> {
        let name = match op {
            SetOperator::Union => "UNION",
            SetOperator::Intersect => "INTERSECT",
            SetOperator::Except => "EXCEPT",
            SetOperator::Minus => {
                return Err(PlanError::new(
                    PlanErrorKind::Syntax,
                    "syntax error at or near \"MINUS\"",
                ));
            }
        };
        let all = match quantifier {
            SetQuantifier::All => true,
            SetQuantifier::Distinct | SetQuantifier::None => false,
            _ => {
                return Err(PlanError::new(
                    PlanErrorKind::Syntax,
                    "syntax error at or near \"BY\"",
                ));
            }
        };
        let mut left = self.bind_body(left, None, Identity::Without)?;
        let mut right = self.bind_body(right, None, Identity::Without)?;
        if left.items.len() != right.items.len() {
            return Err(PlanError::new(
                PlanErrorKind::Syntax,
                format!("each {name} query must have the same number of columns"),
            )
            .at(right.items.first().and_then(|item| item.expr.position)));
        }
        for (left, right) in left.items.iter_mut().zip(&mut right.items) {
            let pair = vec![left.expr.clone(), right.expr.clone()];
            let (pair, _) = self.unify(pair, name)?;
            for (item, expr) in [left, right].into_iter().zip(pair) {
                item.expr = expr;
            }
        }
        let left = self.finish(left, None, false)?;
        let right = self.finish(right, None, false)?;
        if !(all && op == SetOperator::Union) {
            for column in &left.columns {
                check_groupable(&TypedExpr::new(
                    Kind::Plan(Expr::Column(column.column.clone())),
                    column.ty,
                ))?;
            }
        }
        let relational = match op {
            SetOperator::Union => self.union(left, right, all)?,
            _ => self.intersect_or_except(left, right, op == SetOperator::Intersect, all)?,
        };
        Ok(stage_of(relational, Some("UNION/INTERSECT/EXCEPT")))
    }

    fn union(
        &mut self,
        left: Relational,
        right: Relational,
        all: bool,
    ) -> Result<Relational, PlanError> {
        // Both sides under the left side's names.
        let renamed: Vec<Expr> = left
            .columns
            .iter()
            .zip(&right.columns)
            .map(|(left, right)| Expr::Column(right.column.clone()).alias(&left.column.name))
            .collect();
        let right = project(right.plan, renamed)?;
        let plan = LogicalPlanBuilder::from(left.plan)
            .union(right)
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let columns: Vec<PlanColumn> = left
            .columns
            .into_iter()
            .map(|column| PlanColumn { source: (0, 0), ..column })
            .collect();
        let plan = if all { plan } else { self.distinct(plan, &columns)? };
        Ok(Relational { plan, columns })
    }

    fn intersect_or_except(
        &mut self,
        left: Relational,
        right: Relational,
        intersect: bool,
        all: bool,
    ) -> Result<Relational, PlanError> {
        let left_plan = if all { left.plan } else { self.distinct(left.plan, &left.columns)? };
        let (left_plan, left_keys) = self.with_keys(left_plan, &left.columns, all)?;
        let (right_plan, right_keys) = self.with_keys(right.plan, &right.columns, all)?;
        let join_type = if intersect { JoinType::LeftSemi } else { JoinType::LeftAnti };
        let kept: Vec<Expr> = left
            .columns
            .iter()
            .zip(left_plan.schema().columns())
            .map(|(column, plan)| Expr::Column(plan).alias(&column.column.name))
            .collect();
        let plan = LogicalPlanBuilder::from(left_plan)
            .join_detailed(
                right_plan,
                join_type,
                (left_keys, right_keys),
                None,
                NullEquality::NullEqualsNull,
            )
            .and_then(|builder| builder.project(kept))
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let columns = left
            .columns
            .into_iter()
            .map(|column| PlanColumn { source: (0, 0), ..column })
            .collect();
        Ok(Relational { plan, columns })
    }

    /// The plan under a qualifier of its own, with the columns that its rows are compared by; `numbered`: equal rows are counted.
    fn with_keys(
        &mut self,
        plan: LogicalPlan,
        columns: &[PlanColumn],
        numbered: bool,
    ) -> Result<(LogicalPlan, Vec<Column>), PlanError> {
        let qualifier = TableReference::bare(self.qualifier("set"));
        let mut exprs: Vec<Expr> =
            columns.iter().map(|column| Expr::Column(column.column.clone())).collect();
        let mut keys = Vec::new();
        for (index, column) in columns.iter().enumerate() {
            let value = Expr::Column(column.column.clone());
            let key = functions::comparison_key(value.clone(), column.ty.ty);
            if key == value {
                keys.push(column.column.name.clone());
            } else {
                let name = format!("key#{index}");
                exprs.push(key.alias(&name));
                keys.push(name);
            }
        }
        let mut builder = LogicalPlanBuilder::from(plan).project(exprs).map_err(engine_error)?;
        if numbered {
            let columns = keys.iter().map(|name| Expr::Column(Column::from_name(name))).collect();
            let number = row_number(columns, Vec::new());
            let name = number.schema_name().to_string();
            let plan =
                LogicalPlanBuilder::window_plan(builder.build().map_err(engine_error)?, [number])
                    .map_err(engine_error)?;
            let mut exprs: Vec<Expr> =
                plan.schema().columns().into_iter().map(Expr::Column).collect();
            exprs.pop();
            exprs.push(Expr::Column(Column::from_name(name)).alias("copy#0"));
            keys.push("copy#0".to_owned());
            builder = LogicalPlanBuilder::from(plan).project(exprs).map_err(engine_error)?;
        }
        let plan = builder
            .alias(qualifier.clone())
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let keys =
            keys.into_iter().map(|name| Column::new(Some(qualifier.clone()), name)).collect();
        Ok((plan, keys))
    }

    fn bind_values(&mut self, values: &Values) -> Result<Stage, PlanError> {
        let scope = Scope::empty();
        let width = values.rows.first().map_or(0, |row| row.content.len());
        let mut columns: Vec<Vec<TypedExpr>> = vec![Vec::new(); width];
        for row in &values.rows {
            if row.content.len() != width {
                return Err(PlanError::new(
                    PlanErrorKind::Syntax,
                    "VALUES lists must all be the same length",
                )
                .at(row.content.first().and_then(|expr| self.start(expr))));
            }
            for (column, expr) in columns.iter_mut().zip(&row.content) {
                column.push(self.bind_expr(expr, &scope, Clause::Values)?);
            }
        }
        if values.rows.len() == 1 {
            // One row is a select list: its untyped literals may still become anything.
            let items = columns
                .into_iter()
                .flatten()
                .enumerate()
                .map(|(index, expr)| Item { name: format!("column{}", index + 1), expr })
                .collect();
            let plan = LogicalPlanBuilder::empty(true).build().map_err(engine_error)?;
            return Ok(plain_stage(plan, items, Some("VALUES")));
        }
        let mut types = Vec::new();
        for column in &mut columns {
            let (unified, ty) = self.unify(std::mem::take(column), "VALUES")?;
            let ty = if ty.ty == SqlType::Unknown { TypeMod::plain(SqlType::Text) } else { ty };
            *column = unified
                .into_iter()
                .map(|expr| self.default_to_text(expr))
                .collect::<Result<Vec<_>, _>>()?;
            types.push(ty);
        }
        if columns.iter().flatten().any(TypedExpr::has_subquery) {
            return Err(PlanError::unsupported(
                "subqueries in a VALUES list of several rows are not supported",
                "Use SELECT ... UNION ALL SELECT ....",
            ));
        }
        self.values_plan(&columns, &types)
    }

    fn values_plan(
        &mut self,
        columns: &[Vec<TypedExpr>],
        types: &[TypeMod],
    ) -> Result<Stage, PlanError> {
        let names: Vec<String> = (1..=types.len()).map(|index| format!("column{index}")).collect();
        let fields = names
            .iter()
            .zip(types)
            .map(|(name, ty)| arrow::datatypes::Field::new(name, arrow_type(ty.ty), true))
            .collect::<Vec<_>>();
        let schema = DFSchema::from_unqualified_fields(fields.into(), Default::default())
            .map_err(engine_error)?;
        let rows = columns.first().map_or(0, Vec::len);
        let exprs = (0..rows)
            .map(|row| columns.iter().map(|column| lower(&column[row])).collect())
            .collect::<Result<Vec<Vec<Expr>>, PlanError>>()?;
        let plan = LogicalPlanBuilder::values_with_schema(exprs, &Arc::new(schema))
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let columns = names
            .into_iter()
            .zip(types)
            .zip(plan.schema().columns())
            .map(|((name, ty), column)| PlanColumn { name, ty: *ty, column, source: (0, 0) })
            .collect();
        Ok(stage_of(Relational { plan, columns }, Some("VALUES")))
    }
}

fn plain_stage(plan: LogicalPlan, items: Vec<Item>, unlockable: Option<&'static str>) -> Stage {
    Stage {
        plan,
        items,
        order_by: Vec::new(),
        distinct: StageDistinct::No,
        identities: Vec::new(),
        unlockable,
    }
}

/// A stage whose select list is the plan's columns.
fn stage_of(relational: Relational, unlockable: Option<&'static str>) -> Stage {
    let items = relational
        .columns
        .into_iter()
        .map(|column| Item {
            name: column.name,
            expr: TypedExpr::new(Kind::Plan(Expr::Column(column.column)), column.ty),
        })
        .collect();
    plain_stage(relational.plan, items, unlockable)
}
