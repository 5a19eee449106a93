//! The read half of UPDATE and DELETE: which rows of a table, with their identity, and what is computed for each.

use std::sync::Arc;

use datafusion::{common::Column, logical_expr::Expr};
use sqlparser::ast::{Expr as AstExpr, TableWithJoins, With};

use super::{
    BoundQuery,
    expr::lower,
    from::{FromItem, Identity},
    project,
    select::source_of,
};
use crate::{
    PlanError, PlanErrorKind,
    bind::{Binder, Clause, OutputColumn, Scope, typed::TypedExpr},
    catalog::Table,
    operators::table::{IDENTITY_KEY, IDENTITY_VERSION},
};

/// A table whose rows are to be changed, and what chooses them.
#[derive(Clone, Copy, Debug)]
pub struct TargetQuery<'q> {
    pub table: &'q Arc<Table>,
    pub alias: Option<&'q str>,
    pub with: Option<&'q With>,
    /// UPDATE ... FROM, DELETE ... USING.
    pub from: &'q [TableWithJoins],
    pub selection: Option<&'q AstExpr>,
}

/// What is computed for each row: a name and an expression over the target's scope.
pub type Outputs = Vec<(String, TypedExpr)>;

impl Binder<'_> {
    /// Binds the rows of a target: columns `cortex_key` and `cortex_version`, then what `outputs` makes of the scope (the target
    /// first, then the relations of FROM). A row that FROM meets several times comes several times.
    pub fn bind_target_query(
        &mut self,
        target: TargetQuery<'_>,
        outputs: impl FnOnce(&mut Self, &Scope) -> Result<Outputs, PlanError>,
    ) -> Result<BoundQuery, PlanError> {
        let in_sight = self.ctes.len();
        let bound = self.bind_target_parts(target, outputs);
        self.ctes.truncate(in_sight);
        bound
    }

    fn bind_target_parts(
        &mut self,
        target: TargetQuery<'_>,
        outputs: impl FnOnce(&mut Self, &Scope) -> Result<Outputs, PlanError>,
    ) -> Result<BoundQuery, PlanError> {
        if let Some(with) = target.with {
            self.bind_with(with)?;
        }
        let own = self.scan_table(target.table, target.alias, None, Identity::With)?;
        let identity = own.scope.relations.first().and_then(|relation| relation.identity.clone());
        let Some((key, version)) = identity else {
            return Err(PlanError::new(PlanErrorKind::Internal, "target without identity"));
        };
        let mut item: FromItem = own;
        for from in target.from {
            item = self.bind_joins(Some(item), from, Identity::Without)?;
        }
        let FromItem { mut plan, scope } = item;
        if let Some(selection) = target.selection {
            let predicate = self.bind_predicate(selection, &scope, Clause::Where)?;
            plan = self.filter(plan, predicate)?;
        }
        let mut outputs = outputs(self, &scope)?;
        for (_, expr) in &mut outputs {
            *expr = self.default_to_text(expr.clone())?;
        }
        let mut exprs: Vec<&mut TypedExpr> = outputs.iter_mut().map(|(_, expr)| expr).collect();
        let plan = self.mark_subqueries(plan, &mut exprs)?;
        let mut projection = vec![
            Expr::Column(key).alias(IDENTITY_KEY),
            Expr::Column(version).alias(IDENTITY_VERSION),
        ];
        let mut columns = Vec::new();
        for (index, (name, expr)) in outputs.iter().enumerate() {
            // Names may repeat: the position tells them apart.
            projection.push(lower(expr)?.alias(format!("{name}#{index}")));
            columns.push(OutputColumn { name: name.clone(), ty: expr.ty, source: source_of(expr) });
        }
        let plan = project(plan, projection)?;
        Ok(BoundQuery { plan, columns, locking: Vec::new() })
    }
}

/// Columns of a target query's plan before its outputs.
pub const IDENTITY_COLUMNS: usize = 2;

/// The identity columns of a target query's plan.
pub fn identity_columns() -> [Column; IDENTITY_COLUMNS] {
    [Column::from_name(IDENTITY_KEY), Column::from_name(IDENTITY_VERSION)]
}
