//! Names of output columns, as Postgres's `FigureColname` chooses them.

use sqlparser::ast::{
    AccessExpr, ArrayElemTypeDef, DataType, Expr, FunctionArguments, SelectItem, SetExpr, Subscript,
};

use crate::bind::{names::fold_ident, types::data_type};

/// The name of a select item without an alias.
pub(crate) fn column_name(expr: &Expr) -> String {
    figure(expr).map_or_else(|| "?column?".to_owned(), |(name, _)| name)
}

/// The name and its strength: 2 for a column or function, 1 for a type's name.
fn figure(expr: &Expr) -> Option<(String, u8)> {
    let strong = |name: &str| Some((name.to_owned(), 2));
    match expr {
        Expr::Identifier(ident) => Some((fold_ident(ident), 2)),
        Expr::CompoundIdentifier(parts) => parts.last().map(|ident| (fold_ident(ident), 2)),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => figure(inner),
        Expr::Function(function) => {
            if matches!(function.args, FunctionArguments::Subquery(_)) {
                return strong("array");
            }
            let name = function.name.0.last()?.as_ident()?;
            Some((fold_ident(name), 2))
        }
        Expr::Cast { expr, data_type, .. } => match figure(expr) {
            Some((name, 2)) => Some((name, 2)),
            _ => Some((type_label(data_type), 1)),
        },
        Expr::TypedString(literal) => Some((type_label(&literal.data_type), 1)),
        Expr::Interval(_) => Some(("interval".to_owned(), 1)),
        Expr::Case { else_result, .. } => match else_result.as_deref().and_then(figure) {
            Some((name, 2)) => Some((name, 2)),
            _ => Some(("case".to_owned(), 1)),
        },
        Expr::Exists { .. } => strong("exists"),
        Expr::Subquery(query) => Some((subquery_name(&query.body), 2)),
        Expr::Array(_) => strong("array"),
        Expr::Tuple(_) => strong("row"),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|access| match access {
                AccessExpr::Dot(Expr::Identifier(ident)) => Some(fold_ident(ident)),
                AccessExpr::Dot(_)
                | AccessExpr::Subscript(Subscript::Index { .. } | Subscript::Slice { .. }) => None,
            });
            match field {
                Some(field) => Some((field, 2)),
                None => figure(root),
            }
        }
        Expr::AtTimeZone { .. } => strong("timezone"),
        Expr::Extract { .. } => strong("extract"),
        Expr::Ceil { .. } => strong("ceil"),
        Expr::Floor { .. } => strong("floor"),
        Expr::Position { .. } => strong("position"),
        Expr::Substring { shorthand, .. } => {
            strong(if *shorthand { "substr" } else { "substring" })
        }
        Expr::Trim { trim_where, .. } => strong(match trim_where {
            Some(sqlparser::ast::TrimWhereField::Leading) => "ltrim",
            Some(sqlparser::ast::TrimWhereField::Trailing) => "rtrim",
            _ => "btrim",
        }),
        Expr::Overlay { .. } => strong("overlay"),
        _ => None,
    }
}

/// The name of a subquery's first column; it counts even if it is `?column?`.
fn subquery_name(body: &SetExpr) -> String {
    match body {
        SetExpr::Query(query) => subquery_name(&query.body),
        SetExpr::SetOperation { left, .. } => subquery_name(left),
        SetExpr::Values(_) => "column1".to_owned(),
        SetExpr::Select(select) => match select.projection.first() {
            Some(SelectItem::ExprWithAlias { alias, .. }) => fold_ident(alias),
            Some(SelectItem::UnnamedExpr(expr)) => column_name(expr),
            _ => "?column?".to_owned(),
        },
        _ => "?column?".to_owned(),
    }
}

/// The type's name as the grammar spells it: int4 for int, the last part of a qualified name.
fn type_label(ty: &DataType) -> String {
    match ty {
        DataType::Custom(name, _) => {
            name.0.last().and_then(|part| part.as_ident()).map(fold_ident).unwrap_or_default()
        }
        // The array's brackets are no part of the name.
        DataType::Array(ArrayElemTypeDef::SquareBracket(element, _)) => type_label(element),
        other => match data_type(other) {
            Ok(ty) => ty.ty.catalog_name().to_owned(),
            Err(_) => other.to_string().to_lowercase(),
        },
    }
}
