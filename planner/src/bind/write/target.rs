//! The table that a statement writes, its columns by name, and the primary key in a predicate.

use std::sync::Arc;

use cortex_functions::registry;
use cortex_shard_api::{ScalarExpr, SqlType, TypeMod, descriptor::Placement};
use sqlparser::ast::{Ident, ObjectName, ObjectNamePart};

use crate::{
    PlanError, PlanErrorKind,
    bind::{Binder, TypedExpr, names::fold_ident, typed::Kind},
    catalog::{Relation, Table},
};

impl Binder<'_> {
    /// The table to write, by name. 42P01 if there is none, 42809 for other relations.
    pub(crate) fn write_target(&self, name: &ObjectName) -> Result<Arc<Table>, PlanError> {
        let (schema, relation) = split_name(name)?;
        let position = name_position(self, name);
        let shown = match &schema {
            Some(schema) => format!("{schema}.{relation}"),
            None => relation.clone(),
        };
        match self.namespace.relation(schema.as_deref(), &relation) {
            Some(Relation::Table(table)) => Ok(table),
            Some(Relation::View(_)) => Err(PlanError::unsupported(
                format!("cannot change view \"{relation}\""),
                "Views are read-only: write to the tables behind it.",
            )
            .at(position)),
            Some(Relation::Sequence(_)) => Err(PlanError::new(
                PlanErrorKind::WrongObjectType,
                format!("cannot change sequence \"{relation}\""),
            )
            .at(position)),
            Some(Relation::System(_)) => Err(PlanError::new(
                PlanErrorKind::InsufficientPrivilege,
                format!("permission denied: \"{relation}\" is a system catalog"),
            )
            .at(position)),
            None => Err(PlanError::new(
                PlanErrorKind::UndefinedTable,
                format!("relation \"{shown}\" does not exist"),
            )
            .at(position)),
        }
    }

    /// Position of a target column in the table. 42703.
    pub(crate) fn target_column(&self, table: &Table, ident: &Ident) -> Result<usize, PlanError> {
        let name = fold_ident(ident);
        table.descriptor.column(&name).ok_or_else(|| {
            PlanError::new(
                PlanErrorKind::UndefinedColumn,
                format!(
                    "column \"{name}\" of relation \"{}\" does not exist",
                    table.descriptor.name
                ),
            )
            .at(self.position(ident.span))
        })
    }
}

/// (schema, name); a database name in front must be dropped by the caller.
pub(crate) fn split_name(name: &ObjectName) -> Result<(Option<String>, String), PlanError> {
    let parts: Vec<String> = name
        .0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => Ok(fold_ident(ident)),
            ObjectNamePart::Function(_) => Err(PlanError::new(
                PlanErrorKind::Syntax,
                format!("\"{name}\" is not a table name"),
            )),
        })
        .collect::<Result<_, _>>()?;
    match &parts[..] {
        [table] => Ok((None, table.clone())),
        [schema, table] | [_, schema, table] => Ok((Some(schema.clone()), table.clone())),
        _ => Err(PlanError::new(
            PlanErrorKind::Syntax,
            format!("improper relation name (too many dotted names): {name}"),
        )),
    }
}

fn name_position(binder: &Binder<'_>, name: &ObjectName) -> Option<usize> {
    match name.0.first() {
        Some(ObjectNamePart::Identifier(ident)) => binder.position(ident.span),
        _ => None,
    }
}

/// The last identifier of a column target such as `t.a` or `a`.
pub(crate) fn last_ident(name: &ObjectName) -> Result<&Ident, PlanError> {
    match name.0.last() {
        Some(ObjectNamePart::Identifier(ident)) => Ok(ident),
        _ => Err(PlanError::new(PlanErrorKind::Syntax, format!("\"{name}\" is not a column name"))),
    }
}

/// Splits a predicate over one table into the values of its primary key and the rest.
///
/// `None` unless every key column is compared for equality, at the top level of AND, with an expression of the column's own
/// type (or an integer of fewer bytes) that needs no row. The rest is what remains to be checked on the row.
pub fn key_of(
    table: &Table,
    predicate: &TypedExpr,
) -> Option<(Vec<ScalarExpr>, Option<ScalarExpr>)> {
    let descriptor = &table.descriptor;
    if descriptor.primary_key.is_empty() {
        return None;
    }
    let terms: Vec<&TypedExpr> = match &predicate.kind {
        Kind::And(terms) => terms.iter().collect(),
        _ => vec![predicate],
    };
    let mut key: Vec<Option<ScalarExpr>> = vec![None; descriptor.primary_key.len()];
    let mut rest = Vec::new();
    for term in terms {
        let found = equality(table, term).and_then(|(position, value)| {
            let slot = descriptor.primary_key.iter().position(|it| *it == position)?;
            key[slot].is_none().then_some((slot, value))
        });
        match found {
            Some((slot, value)) => key[slot] = Some(value),
            None => rest.push(term.to_scalar()?),
        }
    }
    let key = key.into_iter().collect::<Option<Vec<_>>>()?;
    let rest = match rest.len() {
        0 => None,
        1 => rest.pop(),
        _ => Some(ScalarExpr::And(rest)),
    };
    Some((key, rest))
}

/// `column = value`, either way round, with the equality of the column's type, or with a narrower integer.
fn equality(table: &Table, term: &TypedExpr) -> Option<(usize, ScalarExpr)> {
    let Kind::Call { call, args } = &term.kind else { return None };
    let [left, right] = &args[..] else { return None };
    let column_of = |expr: &TypedExpr| match &expr.kind {
        Kind::Column { column, level: 0 } => Some(column.position),
        _ => None,
    };
    let (position, value) = match (column_of(left), column_of(right)) {
        (Some(position), None) => (position, right),
        (None, Some(position)) => (position, left),
        _ => return None,
    };
    let ty = table.descriptor.columns.get(position)?.ty.ty;
    let means_same = |left, right| {
        registry::resolve_operator("=", Some(left), right)
            .is_ok_and(|equality| equality.signature == call.signature)
    };
    if value.has_column() || !is_stable(value) {
        return None;
    }
    if means_same(ty, ty) {
        return Some((position, value.to_scalar()?));
    }
    // `bigint_column = 1` compares with an int4 literal. Every value of a narrower integer is one of the column's.
    let (given, width) = (value.ty.ty, [SqlType::Int2, SqlType::Int4, SqlType::Int8]);
    let place = |ty| width.iter().position(|it| *it == ty);
    let is_narrower = place(given)? < place(ty)?;
    if !is_narrower || !(means_same(ty, given) || means_same(given, ty)) {
        return None;
    }
    let arg = Box::new(value.to_scalar()?);
    let wider = ScalarExpr::Cast { arg, to: TypeMod::plain(ty), explicit: false };
    Some((position, wider))
}

/// Whether the expression has one value for the whole statement.
fn is_stable(expr: &TypedExpr) -> bool {
    !expr.any(&mut |node| {
        matches!(&node.kind, Kind::Call { call, .. } if call.volatility == registry::Volatility::Volatile)
    })
}

/// A shard key cannot be assigned: the row would have to move.
pub(crate) fn refuse_shard_key(table: &Table, position: usize) -> Result<(), PlanError> {
    let key = match &table.descriptor.placement {
        Placement::Hash { key, .. } | Placement::Range { key, .. } => key,
        Placement::Home(_) | Placement::Reference(_) => return Ok(()),
    };
    if !key.contains(&position) {
        return Ok(());
    }
    let column = &table.descriptor.columns[position].name;
    Err(PlanError::unsupported(
        format!(
            "cannot change shard key column \"{column}\" of table \"{}\"",
            table.descriptor.name
        ),
        "Delete the row and insert it anew: rows do not move between shards by UPDATE.",
    ))
}
