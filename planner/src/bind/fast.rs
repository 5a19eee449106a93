//! SELECT by primary key, recognized: the form that never sees DataFusion.
//!
//! A statement qualifies when it reads one table, its WHERE fixes the whole primary key, and everything else is a scalar
//! expression over the row. Whatever does not fit is left to the analytic path, which also reports all errors.

use std::sync::Arc;

use cortex_shard_api::ScalarExpr;
use sqlparser::ast::{
    GroupByExpr, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableFactor,
};

use super::{Binder, Clause, OutputColumn, Scope, names::fold_ident, typed::Kind, write::key_of};
use crate::{
    catalog::{Relation, Table},
    lower::output::column_name,
};

/// SELECT ... FROM table WHERE primary key = value.
#[derive(Clone, Debug)]
pub struct FastSelect {
    pub table: Arc<Table>,
    /// Primary key values in key order, over no row.
    pub key: Vec<ScalarExpr>,
    /// What is left of WHERE, over the row.
    pub predicate: Option<ScalarExpr>,
    pub projection: Vec<ScalarExpr>,
    /// Positions of the projected columns when the projection is nothing but columns.
    pub plain_columns: Option<Vec<usize>>,
    pub columns: Arc<[OutputColumn]>,
}

impl Binder<'_> {
    /// The fast form of a query, or `None`. Parameter types found on the way are kept only on success.
    pub fn bind_fast_select(&mut self, query: &Query) -> Option<FastSelect> {
        let select = plain_select(query)?;
        let parameters = self.parameters.clone();
        let fast = self.fast_select(select);
        if fast.is_none() {
            self.parameters = parameters;
        }
        fast
    }

    fn fast_select(&mut self, select: &Select) -> Option<FastSelect> {
        let [from] = &select.from[..] else { return None };
        let TableFactor::Table { name, alias, args: None, .. } = &from.relation else {
            return None;
        };
        if !from.joins.is_empty() || alias.as_ref().is_some_and(|alias| !alias.columns.is_empty()) {
            return None;
        }
        let (schema, relation) = super::write::split_name(name).ok()?;
        let Some(Relation::Table(table)) = self.namespace.relation(schema.as_deref(), &relation)
        else {
            return None;
        };
        let alias = alias.as_ref().map(|alias| fold_ident(&alias.name));
        let scope = Scope::of_table(&table, alias.as_deref());
        let predicate =
            self.bind_predicate(select.selection.as_ref()?, &scope, Clause::Where).ok()?;
        let (key, predicate) = key_of(&table, &predicate)?;
        let mut projection = Vec::new();
        let mut columns = Vec::new();
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(expr) => {
                    let name = column_name(expr);
                    self.fast_column(expr, name, &scope, &mut projection, &mut columns)?;
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    self.fast_column(
                        expr,
                        fold_ident(alias),
                        &scope,
                        &mut projection,
                        &mut columns,
                    )?;
                }
                SelectItem::Wildcard(options) if options.to_string().is_empty() => {
                    for column in &scope.visible {
                        projection.push(column.expr.to_scalar()?);
                        columns.push(output(&column.expr, column.name.clone()));
                    }
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(_),
                    _,
                )
                | SelectItem::Wildcard(_)
                | SelectItem::QualifiedWildcard(..)
                | SelectItem::ExprWithAliases { .. } => return None,
            }
        }
        let plain_columns = projection
            .iter()
            .map(|expr| match expr {
                ScalarExpr::Column { position, .. } => Some(*position),
                _ => None,
            })
            .collect();
        Some(FastSelect {
            table,
            key,
            predicate,
            projection,
            plain_columns,
            columns: columns.into(),
        })
    }

    fn fast_column(
        &mut self,
        expr: &sqlparser::ast::Expr,
        name: String,
        scope: &Scope,
        projection: &mut Vec<ScalarExpr>,
        columns: &mut Vec<OutputColumn>,
    ) -> Option<()> {
        let bound = self.bind_expr(expr, scope, Clause::Returning).ok()?;
        if bound.has_aggregate() || bound.has_window() || bound.has_set() {
            return None;
        }
        let bound = self.default_to_text(bound).ok()?;
        projection.push(bound.to_scalar()?);
        columns.push(output(&bound, name));
        Some(())
    }
}

fn output(expr: &super::TypedExpr, name: String) -> OutputColumn {
    let source = match &expr.kind {
        Kind::Column { column, level: 0 } => column.source(),
        _ => (0, 0),
    };
    OutputColumn { name, ty: expr.ty, source }
}

/// The SELECT of a query that has nothing but a select list, FROM and WHERE.
fn plain_select(query: &Query) -> Option<&Select> {
    let bare = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty();
    let SetExpr::Select(select) = &*query.body else { return None };
    let no_groups = matches!(&select.group_by, GroupByExpr::Expressions(exprs, modifiers) if exprs.is_empty() && modifiers.is_empty());
    let plain = select.distinct.is_none()
        && select.having.is_none()
        && select.named_window.is_empty()
        && select.into.is_none()
        && select.top.is_none();
    (bare && no_groups && plain).then_some(select)
}
