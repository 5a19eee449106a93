//! INSERT: where each column's value comes from, and what a conflict means.

use std::sync::Arc;

use cortex_functions::scalar::runs_in_shard;
use cortex_shard_api::{Datum, ScalarExpr, TypeMod, client::Arbiter};
use sqlparser::ast::{
    ConflictTarget, Expr, Insert, OnConflict, OnConflictAction, OnInsert, Query, SetExpr,
    TableObject, Values,
};

use super::{
    BoundConflict, BoundInsert, InsertSource,
    overriding::Overriding,
    target::{last_ident, refuse_shard_key},
};
use crate::{
    PlanError, PlanErrorKind,
    bind::{Binder, Clause, Scope, TypedExpr, names::fold_ident, typed::Kind, types::Target},
    catalog::{Identity, Table},
};

/// Where the values of an INSERT go.
#[derive(Clone, Copy)]
struct Destination<'t> {
    table: &'t Arc<Table>,
    /// Positions of the columns that get values, in order.
    targets: &'t [usize],
    /// There is no column list: values may be fewer than columns.
    is_implicit: bool,
    overriding: Option<Overriding>,
}

impl Binder<'_> {
    pub fn bind_insert(&mut self, insert: &Insert) -> Result<BoundInsert, PlanError> {
        let TableObject::TableName(name) = &insert.table else {
            return Err(PlanError::new(PlanErrorKind::Syntax, "INSERT INTO wants a table name"));
        };
        let table = self.write_target(name)?;
        let alias = insert.table_alias.as_ref().map(|it| fold_ident(&it.alias));
        let targets = self.insert_targets(&table, insert)?;
        let into = Destination {
            table: &table,
            targets: &targets,
            is_implicit: insert.columns.is_empty(),
            overriding: Overriding::of(insert),
        };
        let source = match &insert.source {
            None => InsertSource::Values(vec![default_row(&table)]),
            Some(query) => match plain_values(query) {
                Some(values) => self.bind_insert_values(into, values)?,
                None => self.bind_insert_query(into, query)?,
            },
        };
        let on_conflict = self.bind_on_conflict(&table, alias.as_deref(), insert.on.as_ref())?;
        let scope = Scope::of_table(&table, alias.as_deref());
        let returning = self.bind_returning(insert.returning.as_deref(), &scope)?;
        Ok(BoundInsert { table, source, on_conflict, returning })
    }

    /// Positions of the columns that get values, in the order of the list (all live columns without one).
    fn insert_targets(&self, table: &Table, insert: &Insert) -> Result<Vec<usize>, PlanError> {
        if insert.columns.is_empty() {
            return Ok(table.descriptor.live_columns().map(|(position, _)| position).collect());
        }
        let mut targets = Vec::with_capacity(insert.columns.len());
        for name in &insert.columns {
            let ident = last_ident(name)?;
            let position = self.target_column(table, ident)?;
            if targets.contains(&position) {
                return Err(PlanError::new(
                    PlanErrorKind::DuplicateColumn,
                    format!("column \"{}\" specified more than once", fold_ident(ident)),
                )
                .at(self.position(ident.span)));
            }
            targets.push(position);
        }
        Ok(targets)
    }

    /// VALUES lists whose values need no query.
    fn bind_insert_values(
        &mut self,
        into: Destination<'_>,
        values: &Values,
    ) -> Result<InsertSource, PlanError> {
        let Destination { table, targets, is_implicit, overriding } = into;
        let width = values.rows.first().map_or(0, |row| row.len());
        let mut rows = Vec::with_capacity(values.rows.len());
        for row in &values.rows {
            if row.len() != width {
                return Err(PlanError::new(
                    PlanErrorKind::Syntax,
                    "VALUES lists must all be the same length",
                ));
            }
            check_width(targets.len(), row.len(), is_implicit)?;
            let mut bound = default_row(table);
            for (position, expr) in targets.iter().zip(row.iter()) {
                if is_default(expr) {
                    continue;
                }
                let is_taken = takes_value(table, *position, overriding)?;
                let value =
                    self.bind_value_for(table, *position, expr, &Scope::empty(), Clause::Values)?;
                if !is_taken {
                    continue;
                }
                bound[*position] = value.to_scalar().ok_or_else(|| {
                    PlanError::unsupported(
                        "subqueries in INSERT ... VALUES are not supported",
                        "Use INSERT ... SELECT instead.",
                    )
                })?;
            }
            rows.push(bound);
        }
        Ok(InsertSource::Values(rows))
    }

    /// An expression as it is stored in a column.
    pub(super) fn bind_value_for(
        &mut self,
        table: &Table,
        position: usize,
        expr: &Expr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let column = &table.descriptor.columns[position];
        self.bind_assignment(expr, scope, clause, Target { column: &column.name, ty: column.ty })
    }

    fn bind_insert_query(
        &mut self,
        into: Destination<'_>,
        query: &Query,
    ) -> Result<InsertSource, PlanError> {
        let Destination { table, targets, is_implicit, overriding } = into;
        let columns = &table.descriptor.columns;
        let wanted = targets.iter().map(|position| &columns[*position]);
        let wanted: Vec<Target<'_>> =
            wanted.map(|column| Target { column: &column.name, ty: column.ty }).collect();
        let query = self.bind_query_into(query, &wanted)?;
        check_width(targets.len(), query.columns.len(), is_implicit)?;
        let mut row = default_row(table);
        for (index, (position, output)) in targets.iter().zip(query.columns.iter()).enumerate() {
            let is_taken = takes_value(table, *position, overriding)?;
            let column = &table.descriptor.columns[*position];
            let value = self.cast_column(index, output.ty, &column.name, column.ty)?;
            if is_taken {
                row[*position] = value;
            }
        }
        Ok(InsertSource::Query { query: Box::new(query), row })
    }

    /// Column `index` of a source row, assigned to a column of the table.
    fn cast_column(
        &mut self,
        index: usize,
        from: TypeMod,
        column: &str,
        to: TypeMod,
    ) -> Result<ScalarExpr, PlanError> {
        let value = ScalarExpr::Column { position: index, ty: from };
        if from == to {
            return Ok(value);
        }
        // The same checks and texts as for any assignment; only the argument is a column of the source row.
        let probe = TypedExpr::new(Kind::Parameter(0), from);
        let cast = self.assign(probe, Target { column, ty: to })?;
        let Some(mut cast) = cast.to_scalar() else {
            return Err(PlanError::new(PlanErrorKind::Internal, "assignment is not scalar"));
        };
        replace_parameter(&mut cast, &value);
        Ok(cast)
    }

    fn bind_on_conflict(
        &mut self,
        table: &Arc<Table>,
        alias: Option<&str>,
        on: Option<&OnInsert>,
    ) -> Result<BoundConflict, PlanError> {
        let conflict = match on {
            None => return Ok(BoundConflict::Fail),
            Some(OnInsert::OnConflict(conflict)) => conflict,
            Some(_) => {
                return Err(PlanError::unsupported(
                    "ON DUPLICATE KEY UPDATE is not supported",
                    "Use ON CONFLICT (column) DO UPDATE SET ...",
                ));
            }
        };
        let arbiter = self.arbiter(table, conflict)?;
        let update = match &conflict.action {
            OnConflictAction::DoNothing => return Ok(BoundConflict::DoNothing { arbiter }),
            OnConflictAction::DoUpdate(update) => update,
        };
        let Some(arbiter) = arbiter else {
            return Err(PlanError::new(
                PlanErrorKind::Syntax,
                "ON CONFLICT DO UPDATE requires inference specification or constraint name",
            )
            .with_hint("For example, ON CONFLICT (column_name)."));
        };
        let scope = Scope::with_excluded(table, alias);
        let mut assignments = Vec::new();
        for (position, value) in
            self.bind_assignments(table, &update.assignments, &scope, Clause::OnConflict)?
        {
            refuse_shard_key(table, position)?;
            assignments.push((position, shard_scalar(&value)?));
        }
        let predicate = match &update.selection {
            Some(selection) => {
                Some(shard_scalar(&self.bind_predicate(selection, &scope, Clause::OnConflict)?)?)
            }
            None => None,
        };
        Ok(BoundConflict::DoUpdate { arbiter, assignments, predicate })
    }

    /// The unique constraint that a conflict target names. 42P10 if there is none, 42704 for an unknown name.
    fn arbiter(&self, table: &Table, conflict: &OnConflict) -> Result<Option<Arbiter>, PlanError> {
        let descriptor = &table.descriptor;
        match &conflict.conflict_target {
            None => Ok(None),
            Some(ConflictTarget::OnConstraint(name)) => {
                let name = fold_ident(last_ident(name)?);
                if descriptor.primary_key_name.as_deref() == Some(name.as_str()) {
                    return Ok(Some(Arbiter::PrimaryKey));
                }
                let index =
                    descriptor.indexes.iter().position(|it| it.constraint && it.name == name);
                index.map(|index| Some(Arbiter::Index(index))).ok_or_else(|| {
                    PlanError::new(
                        PlanErrorKind::UndefinedObject,
                        format!(
                            "constraint \"{name}\" for table \"{}\" does not exist",
                            descriptor.name
                        ),
                    )
                })
            }
            Some(ConflictTarget::Columns(columns)) => {
                let mut wanted = columns
                    .iter()
                    .map(|ident| self.target_column(table, ident))
                    .collect::<Result<Vec<_>, _>>()?;
                wanted.sort_unstable();
                wanted.dedup();
                let same = |mut found: Vec<usize>| {
                    found.sort_unstable();
                    found == wanted
                };
                if !descriptor.primary_key.is_empty() && same(descriptor.primary_key.clone()) {
                    return Ok(Some(Arbiter::PrimaryKey));
                }
                let index = descriptor.indexes.iter().position(|index| {
                    index.unique && same(index.columns.iter().map(|it| it.column).collect())
                });
                index.map(|index| Some(Arbiter::Index(index))).ok_or_else(|| {
                    PlanError::new(
                        PlanErrorKind::InvalidColumnReference,
                        "there is no unique or exclusion constraint matching the ON CONFLICT specification",
                    )
                })
            }
        }
    }
}

/// The rows of a bare VALUES list, if the query is one.
fn plain_values(query: &Query) -> Option<&Values> {
    let bare = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none();
    match &*query.body {
        SetExpr::Values(values) if bare => Some(values),
        _ => None,
    }
}

/// `DEFAULT` in a VALUES list or as an assigned value.
pub(super) fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// Defaults of all columns by position.
pub(super) fn default_row(table: &Table) -> Vec<ScalarExpr> {
    (0..table.descriptor.columns.len()).map(|position| column_default(table, position)).collect()
}

/// A column's default, or NULL.
pub fn column_default(table: &Table, position: usize) -> ScalarExpr {
    let column = &table.descriptor.columns[position];
    let default = table.columns.get(position).and_then(|extra| extra.default.as_ref());
    match default {
        Some(default) if !column.dropped => default.expr.clone(),
        _ => ScalarExpr::Literal { value: Datum::Null, ty: column.ty },
    }
}

/// Whether a column takes the value that is given for it, or its default. 428C9: GENERATED ALWAYS AS IDENTITY takes none
/// without OVERRIDING.
fn takes_value(
    table: &Table,
    position: usize,
    overriding: Option<Overriding>,
) -> Result<bool, PlanError> {
    let identity = table.columns.get(position).and_then(|extra| extra.identity);
    match (identity, overriding) {
        (Some(_), Some(Overriding::UserValue)) => return Ok(false),
        (Some(Identity::Always), None) => {}
        _ => return Ok(true),
    }
    let name = &table.descriptor.columns[position].name;
    Err(PlanError::new(
        PlanErrorKind::GeneratedAlways,
        format!("cannot insert a non-DEFAULT value into column \"{name}\""),
    )
    .with_detail(format!("Column \"{name}\" is an identity column defined as GENERATED ALWAYS."))
    .with_hint("Use OVERRIDING SYSTEM VALUE to override."))
}

fn check_width(targets: usize, values: usize, implicit: bool) -> Result<(), PlanError> {
    if values > targets {
        return Err(PlanError::new(
            PlanErrorKind::Syntax,
            "INSERT has more expressions than target columns",
        ));
    }
    if values < targets && !implicit {
        return Err(PlanError::new(
            PlanErrorKind::Syntax,
            "INSERT has more target columns than expressions",
        ));
    }
    Ok(())
}

/// An expression over the conflicting rows: the shard evaluates it under the row's lock.
fn shard_scalar(expr: &TypedExpr) -> Result<ScalarExpr, PlanError> {
    let scalar = expr.to_scalar().ok_or_else(no_subquery)?;
    if runs_in_shard(&scalar) {
        return Ok(scalar);
    }
    Err(PlanError::unsupported(
        "ON CONFLICT DO UPDATE cannot combine a row's columns with functions of the session",
        "Pass the session's value as a parameter or a constant.",
    )
    .at(expr.position))
}

fn no_subquery() -> PlanError {
    PlanError::unsupported(
        "subqueries in ON CONFLICT DO UPDATE are not supported",
        "Compute the value first, or use UPDATE ... FROM.",
    )
}

/// Puts `value` in the place of the only parameter of a cast chain.
fn replace_parameter(expr: &mut ScalarExpr, value: &ScalarExpr) {
    match expr {
        ScalarExpr::Parameter { .. } => *expr = value.clone(),
        ScalarExpr::Cast { arg, .. } => replace_parameter(arg, value),
        ScalarExpr::Call { args, .. } => {
            args.iter_mut().for_each(|arg| replace_parameter(arg, value))
        }
        _ => {}
    }
}
