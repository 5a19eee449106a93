//! UPDATE and DELETE: by primary key where the predicate gives it, through a query otherwise.

use std::sync::Arc;

use cortex_shard_api::ScalarExpr;
use sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, SelectItem, TableFactor, TableWithJoins,
    Update, UpdateTableFromKind,
};

use super::{
    BoundDelete, BoundDeleteByKey, BoundUpdate, BoundUpdateByKey, BoundWrite, Direct, Returning,
    insert::{column_default, is_default},
    key_of,
    target::{last_ident, refuse_shard_key},
};
use crate::{
    PlanError, PlanErrorKind,
    bind::{Binder, Clause, Scope, TypedExpr, names::fold_ident, typed::Kind},
    catalog::{Identity, Table},
    lower::{TargetQuery, target::Outputs},
};

impl Binder<'_> {
    pub fn bind_update(&mut self, update: &Update, by_key: bool) -> Result<BoundWrite, PlanError> {
        let (table, alias) = self.target_of(&update.table)?;
        if !update.order_by.is_empty() || update.limit.is_some() {
            return Err(no_limit("UPDATE"));
        }
        let from: &[TableWithJoins] = match &update.from {
            None => &[],
            Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) => {
                from
            }
        };
        let scope = Scope::of_table(&table, alias.as_deref());
        for position in self.assigned_positions(&table, &update.assignments)? {
            refuse_identity(&table, position)?;
            refuse_shard_key(&table, position)?;
        }
        if by_key
            && from.is_empty()
            && let Some(write) = self.update_by_key(&table, &scope, update)?
        {
            return Ok(write);
        }
        let assigned = self.assigned_positions(&table, &update.assignments)?;
        let direct = match by_key && from.is_empty() {
            true => self.direct(&table, &scope, update.selection.as_ref(), &update.assignments)?,
            false => None,
        };
        let target = TargetQuery {
            table: &table,
            alias: alias.as_deref(),
            with: None,
            from,
            selection: update.selection.as_ref(),
        };
        let mut returning = None;
        let query = self.bind_target_query(target, |binder, scope| {
            let values =
                binder.bind_assignments(&table, &update.assignments, scope, Clause::Update)?;
            let mut outputs = new_row(&table, scope, &values);
            let items = update.returning.as_deref();
            returning = binder.returning_of_query(items, scope, &table, &mut outputs)?;
            Ok(outputs)
        })?;
        let query = Box::new(query);
        Ok(BoundWrite::Update(BoundUpdate { table, assigned, query, direct, returning }))
    }

    /// The fast form, if the predicate fixes the primary key and nothing needs a query.
    fn update_by_key(
        &mut self,
        table: &Arc<Table>,
        scope: &Scope,
        update: &Update,
    ) -> Result<Option<BoundWrite>, PlanError> {
        let Some(selection) = &update.selection else { return Ok(None) };
        let predicate = self.bind_predicate(selection, scope, Clause::Where)?;
        let Some((key, predicate)) = key_of(table, &predicate) else { return Ok(None) };
        let mut assignments = Vec::new();
        for (position, value) in
            self.bind_assignments(table, &update.assignments, scope, Clause::Update)?
        {
            match value.to_scalar() {
                Some(value) if is_pushable(&value) => assignments.push((position, value)),
                _ => return Ok(None),
            }
        }
        if !predicate.as_ref().is_none_or(is_pushable) {
            return Ok(None);
        }
        let returning = self.bind_returning(update.returning.as_deref(), scope)?;
        Ok(Some(BoundWrite::UpdateByKey(BoundUpdateByKey {
            table: table.clone(),
            key,
            predicate,
            assignments,
            returning,
        })))
    }

    /// The form without a query, if WHERE and SET are scalar expressions over the row.
    fn direct(
        &mut self,
        table: &Arc<Table>,
        scope: &Scope,
        selection: Option<&Expr>,
        assignments: &[Assignment],
    ) -> Result<Option<Direct>, PlanError> {
        let predicate = match selection {
            Some(selection) => {
                let predicate = self.bind_predicate(selection, scope, Clause::Where)?;
                match predicate.to_scalar() {
                    Some(predicate) => Some(predicate),
                    None => return Ok(None),
                }
            }
            None => None,
        };
        let mut values = Vec::new();
        for (position, value) in self.bind_assignments(table, assignments, scope, Clause::Update)? {
            match value.to_scalar() {
                Some(value) => values.push((position, value)),
                None => return Ok(None),
            }
        }
        Ok(Some(Direct { predicate, assignments: values }))
    }

    pub fn bind_delete(&mut self, delete: &Delete, by_key: bool) -> Result<BoundWrite, PlanError> {
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        let [target] = &from[..] else {
            return Err(PlanError::new(PlanErrorKind::Syntax, "DELETE takes one table"));
        };
        if !delete.order_by.is_empty() || delete.limit.is_some() {
            return Err(no_limit("DELETE"));
        }
        let (table, alias) = self.target_of(target)?;
        let scope = Scope::of_table(&table, alias.as_deref());
        let using = delete.using.as_deref().unwrap_or_default();
        if by_key
            && using.is_empty()
            && let Some(selection) = &delete.selection
        {
            let predicate = self.bind_predicate(selection, &scope, Clause::Where)?;
            if let Some((key, predicate)) = key_of(&table, &predicate)
                && predicate.as_ref().is_none_or(is_pushable)
            {
                let returning = self.bind_returning(delete.returning.as_deref(), &scope)?;
                return Ok(BoundWrite::DeleteByKey(BoundDeleteByKey {
                    table,
                    key,
                    predicate,
                    returning,
                }));
            }
        }
        let direct = match by_key && using.is_empty() {
            true => self.direct(&table, &scope, delete.selection.as_ref(), &[])?,
            false => None,
        };
        let target = TargetQuery {
            table: &table,
            alias: alias.as_deref(),
            with: None,
            from: using,
            selection: delete.selection.as_ref(),
        };
        let mut returning = None;
        let query = self.bind_target_query(target, |binder, scope| {
            let mut outputs = Vec::new();
            let items = delete.returning.as_deref();
            returning = binder.returning_of_query(items, scope, &table, &mut outputs)?;
            Ok(outputs)
        })?;
        let query = Box::new(query);
        Ok(BoundWrite::Delete(BoundDelete { table, query, direct, returning }))
    }

    /// RETURNING of a write with a query: what it needs of joined tables is added to the query's outputs.
    fn returning_of_query(
        &mut self,
        items: Option<&[SelectItem]>,
        scope: &Scope,
        table: &Table,
        outputs: &mut Outputs,
    ) -> Result<Option<Returning>, PlanError> {
        let width = table.descriptor.columns.len();
        let Some((returning, joined)) = self.bind_joined_returning(items, scope, width)? else {
            return Ok(None);
        };
        outputs.extend(joined.into_iter().map(|expr| ("returned".to_owned(), expr)));
        Ok(Some(returning))
    }

    /// The table and alias of UPDATE and DELETE.
    fn target_of(
        &mut self,
        target: &TableWithJoins,
    ) -> Result<(Arc<Table>, Option<String>), PlanError> {
        match &target.relation {
            TableFactor::Table { name, alias, .. } if target.joins.is_empty() => {
                let alias = alias.as_ref().map(|alias| fold_ident(&alias.name));
                Ok((self.write_target(name)?, alias))
            }
            _ => Err(PlanError::new(PlanErrorKind::Syntax, "a table name is expected here")
                .with_hint("Join other tables with UPDATE ... FROM or DELETE ... USING.")),
        }
    }

    /// SET's values by position, in order.
    pub(super) fn bind_assignments(
        &mut self,
        table: &Arc<Table>,
        assignments: &[Assignment],
        scope: &Scope,
        clause: Clause,
    ) -> Result<Vec<(usize, TypedExpr)>, PlanError> {
        let mut bound = Vec::new();
        for assignment in assignments {
            match &assignment.target {
                AssignmentTarget::ColumnName(name) => {
                    let position = self.target_column(table, last_ident(name)?)?;
                    bound.push((
                        position,
                        self.assigned_value(table, position, &assignment.value, scope, clause)?,
                    ));
                }
                AssignmentTarget::Tuple(names) => {
                    let Expr::Tuple(values) = &assignment.value else {
                        return Err(PlanError::unsupported(
                            "assigning a subquery to several columns is not supported",
                            "Write one assignment for each column, or use UPDATE ... FROM.",
                        ));
                    };
                    if values.len() != names.len() {
                        return Err(PlanError::new(
                            PlanErrorKind::Syntax,
                            "number of columns does not match number of values",
                        ));
                    }
                    for (name, value) in names.iter().zip(values) {
                        let position = self.target_column(table, last_ident(name)?)?;
                        bound.push((
                            position,
                            self.assigned_value(table, position, value, scope, clause)?,
                        ));
                    }
                }
            }
        }
        Ok(bound)
    }

    fn assigned_value(
        &mut self,
        table: &Arc<Table>,
        position: usize,
        value: &Expr,
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        if is_default(value) {
            return match column_default(table, position) {
                ScalarExpr::Literal { value, ty } => Ok(TypedExpr::new(Kind::Literal(value), ty)),
                _ => Err(PlanError::unsupported(
                    "SET column = DEFAULT is supported for constant defaults only",
                    "Write the default's expression itself.",
                )),
            };
        }
        self.bind_value_for(table, position, value, scope, clause)
    }

    /// Positions that SET names. 42601 when one is named twice.
    fn assigned_positions(
        &self,
        table: &Table,
        assignments: &[Assignment],
    ) -> Result<Vec<usize>, PlanError> {
        let mut positions = Vec::new();
        for assignment in assignments {
            let names = match &assignment.target {
                AssignmentTarget::ColumnName(name) => std::slice::from_ref(name),
                AssignmentTarget::Tuple(names) => names,
            };
            for name in names {
                let position = self.target_column(table, last_ident(name)?)?;
                if positions.contains(&position) {
                    return Err(PlanError::new(
                        PlanErrorKind::Syntax,
                        format!(
                            "multiple assignments to same column \"{}\"",
                            table.descriptor.columns[position].name
                        ),
                    ));
                }
                positions.push(position);
            }
        }
        Ok(positions)
    }
}

/// The new value of each live column in order: assigned, or as it is.
fn new_row(
    table: &Table,
    scope: &Scope,
    values: &[(usize, TypedExpr)],
) -> Vec<(String, TypedExpr)> {
    let Some(target) = scope.relations.first() else { return Vec::new() };
    table
        .descriptor
        .live_columns()
        .zip(&target.columns)
        .map(|((position, _), column)| {
            let assigned = values.iter().find(|(assigned, _)| *assigned == position);
            let value = assigned.map_or_else(|| column.expr.clone(), |(_, value)| value.clone());
            (column.name.clone(), value)
        })
        .collect()
}

/// Whether a shard can evaluate the expression: session functions are the gateway's.
fn is_pushable(expr: &ScalarExpr) -> bool {
    cortex_functions::scalar::runs_in_shard(expr)
}

/// GENERATED ALWAYS AS IDENTITY can only be updated to DEFAULT, which we do not do either.
fn refuse_identity(table: &Table, position: usize) -> Result<(), PlanError> {
    if table.columns.get(position).and_then(|extra| extra.identity) != Some(Identity::Always) {
        return Ok(());
    }
    let name = &table.descriptor.columns[position].name;
    Err(PlanError::new(
        PlanErrorKind::GeneratedAlways,
        format!("column \"{name}\" can only be updated to DEFAULT"),
    )
    .with_detail(format!("Column \"{name}\" is an identity column defined as GENERATED ALWAYS.")))
}

fn no_limit(statement: &str) -> PlanError {
    PlanError::unsupported(
        format!("{statement} with ORDER BY or LIMIT is not supported"),
        "Select the keys in a subquery: WHERE id IN (SELECT id ... LIMIT n).",
    )
}
