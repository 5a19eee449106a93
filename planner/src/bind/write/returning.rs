//! RETURNING over the written table's row, and over the rows joined with it.

use std::sync::Arc;

use cortex_shard_api::ScalarExpr;
use sqlparser::ast::{SelectItem, SelectItemQualifiedWildcardKind, WildcardAdditionalOptions};

use super::Returning;
use crate::{
    PlanError, PlanErrorKind,
    bind::{
        Binder, Clause, OutputColumn, Scope, TypedExpr,
        names::{ScopeColumn, fold_ident},
        typed::{ColumnRef, Kind},
    },
    lower::output::column_name,
};

impl Binder<'_> {
    /// The RETURNING list of a write without joined tables, if there is one.
    pub(super) fn bind_returning(
        &mut self,
        items: Option<&[SelectItem]>,
        scope: &Scope,
    ) -> Result<Option<Returning>, PlanError> {
        let width = usize::MAX;
        Ok(self.bind_joined_returning(items, scope, width)?.map(|(returning, _)| returning))
    }

    /// The RETURNING list over the scope of a write's query: the written table first (`width` columns, dropped ones
    /// included), then what is joined with it. Returns also what the query must compute of the latter, in order.
    pub(super) fn bind_joined_returning(
        &mut self,
        items: Option<&[SelectItem]>,
        scope: &Scope,
        width: usize,
    ) -> Result<Option<(Returning, Vec<TypedExpr>)>, PlanError> {
        let Some(items) = items else { return Ok(None) };
        let written = scope.relations.first().and_then(|relation| relation.columns.first());
        let written = written.and_then(|column| match &column.expr.kind {
            Kind::Column { column, .. } => Some(column.instance),
            _ => None,
        });
        let mut joined = Joined { written, width, found: Vec::new() };
        let mut exprs: Vec<ScalarExpr> = Vec::new();
        let mut columns = Vec::new();
        for ScopeColumn { name, mut expr } in self.returned(items, scope)? {
            let source = match &expr.kind {
                Kind::Column { column, level: 0 } => column.source(),
                _ => (0, 0),
            };
            columns.push(OutputColumn { name, ty: expr.ty, source });
            joined.move_behind(&mut expr);
            exprs.push(expr.to_scalar().ok_or_else(unsupported)?);
        }
        let returning = Returning { exprs, joined: joined.found.len(), columns: columns.into() };
        Ok(Some((returning, joined.found)))
    }

    /// The items with their names, `*` written out.
    fn returned(
        &mut self,
        items: &[SelectItem],
        scope: &Scope,
    ) -> Result<Vec<ScopeColumn>, PlanError> {
        let mut returned = Vec::new();
        for item in items {
            let (name, expr) = match item {
                SelectItem::UnnamedExpr(expr) => (column_name(expr), expr),
                SelectItem::ExprWithAlias { expr, alias } => (fold_ident(alias), expr),
                SelectItem::Wildcard(options) if is_plain(options) => {
                    returned.extend(scope.visible.iter().cloned());
                    continue;
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                ) if is_plain(options) => {
                    let parts: Vec<_> =
                        name.0.iter().filter_map(|part| part.as_ident()).cloned().collect();
                    returned.extend(self.star_columns(&parts, scope)?);
                    continue;
                }
                SelectItem::Wildcard(_)
                | SelectItem::QualifiedWildcard(..)
                | SelectItem::ExprWithAliases { .. } => return Err(unsupported()),
            };
            let bound = self.bind_expr(expr, scope, Clause::Returning)?;
            returned.push(ScopeColumn { name, expr: self.default_to_text(bound)? });
        }
        Ok(returned)
    }
}

/// Columns of joined tables that RETURNING names.
struct Joined {
    /// The written table in the scope; `None` for one without columns.
    written: Option<usize>,
    width: usize,
    found: Vec<TypedExpr>,
}

impl Joined {
    /// Makes every column that is not the written table's a column behind its row.
    fn move_behind(&mut self, expr: &mut TypedExpr) {
        let is_joined = match &expr.kind {
            Kind::Column { column, level: 0 } => Some(column.instance) != self.written,
            Kind::Plan(_) => true,
            _ => false,
        };
        if !is_joined {
            expr.children_mut().into_iter().for_each(|child| self.move_behind(child));
            return;
        }
        let known = self.found.iter().position(|found| match (&found.kind, &expr.kind) {
            (Kind::Column { column: a, .. }, Kind::Column { column: b, .. }) => a.same(b),
            (Kind::Plan(a), Kind::Plan(b)) => a == b,
            _ => false,
        });
        let index = known.unwrap_or_else(|| {
            self.found.push(expr.clone());
            self.found.len() - 1
        });
        let column = ColumnRef {
            instance: usize::MAX,
            position: self.width.saturating_add(index),
            relation: String::new(),
            name: format!("returned#{index}"),
            column: datafusion::common::Column::new_unqualified(format!("returned#{index}")),
            table: None,
            system: None,
        };
        expr.kind = Kind::Column { column: Arc::new(column), level: 0 };
    }
}

fn is_plain(options: &WildcardAdditionalOptions) -> bool {
    options.to_string().is_empty()
}

fn unsupported() -> PlanError {
    PlanError {
        kind: PlanErrorKind::Unsupported,
        message: "RETURNING supports expressions over the written and joined rows only".to_owned(),
        position: None,
        detail: None,
        hint: Some("Subqueries and aggregates need a SELECT of their own.".to_owned()),
    }
}
