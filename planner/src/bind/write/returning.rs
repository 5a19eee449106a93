//! RETURNING over the written table's row.

use cortex_shard_api::{ScalarExpr, TypeMod};
use sqlparser::ast::{SelectItem, SelectItemQualifiedWildcardKind};

use super::Returning;
use crate::{
    PlanError, PlanErrorKind,
    bind::{Binder, Clause, OutputColumn, Scope, TypedExpr, names::fold_ident, typed::Kind},
    lower::output::column_name,
};

impl Binder<'_> {
    /// The RETURNING list, if there is one.
    pub(super) fn bind_returning(
        &mut self,
        items: Option<&[SelectItem]>,
        scope: &Scope,
    ) -> Result<Option<Returning>, PlanError> {
        let Some(items) = items else { return Ok(None) };
        let mut exprs = Vec::new();
        let mut columns = Vec::new();
        for item in items {
            match item {
                SelectItem::UnnamedExpr(expr) => {
                    let name = column_name(expr);
                    self.push_returning(expr, name, scope, &mut exprs, &mut columns)?;
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    self.push_returning(expr, fold_ident(alias), scope, &mut exprs, &mut columns)?;
                }
                SelectItem::Wildcard(_)
                | SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(_),
                    _,
                ) => {
                    for column in &scope.visible {
                        push(&column.expr, column.name.clone(), &mut exprs, &mut columns)?;
                    }
                }
                _ => return Err(unsupported()),
            }
        }
        Ok(Some(Returning { exprs, columns: columns.into() }))
    }

    fn push_returning(
        &mut self,
        expr: &sqlparser::ast::Expr,
        name: String,
        scope: &Scope,
        exprs: &mut Vec<ScalarExpr>,
        columns: &mut Vec<OutputColumn>,
    ) -> Result<(), PlanError> {
        let bound = self.bind_expr(expr, scope, Clause::Returning)?;
        let bound = self.default_to_text(bound)?;
        push(&bound, name, exprs, columns)
    }
}

fn push(
    expr: &TypedExpr,
    name: String,
    exprs: &mut Vec<ScalarExpr>,
    columns: &mut Vec<OutputColumn>,
) -> Result<(), PlanError> {
    let source = match &expr.kind {
        Kind::Column { column, level: 0 } => column.source(),
        _ => (0, 0),
    };
    exprs.push(expr.to_scalar().ok_or_else(unsupported)?);
    let ty = TypeMod { ty: expr.ty.ty, typmod: expr.ty.typmod };
    columns.push(OutputColumn { name, ty, source });
    Ok(())
}

fn unsupported() -> PlanError {
    PlanError {
        kind: PlanErrorKind::Unsupported,
        message: "RETURNING supports expressions over the written row only".to_owned(),
        position: None,
        detail: None,
        hint: Some("Subqueries and aggregates need a SELECT of their own.".to_owned()),
    }
}
