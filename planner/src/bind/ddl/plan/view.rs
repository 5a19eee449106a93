//! Views, and what changes under them.
//!
//! A view is kept as text with qualified names. So a renamed relation is renamed in the text of the views that read it, and
//! a column that a view uses is found by binding the view without it.

use std::{ops::ControlFlow, sync::Arc};

use cortex_shard_api::Oid;
use sqlparser::{
    ast::{Ident, Query, TableAlias, TableFactor, VisitMut, VisitorMut},
    parser::Parser,
};

use super::Ddl;
use crate::{
    CortexDialect, PlanError, PlanErrorKind,
    bind::{ddl::CreateView, names::fold_ident},
    catalog::{Table, View},
};

impl Ddl<'_> {
    pub(super) fn create_view(&mut self, command: &CreateView) -> Result<(), PlanError> {
        let schema = self.creation_schema(&command.name)?;
        let name = &command.name.name;
        let bound = self.env.binder.query(&self.namespace(), &command.query)?;
        if command.columns.len() > bound.columns.len() {
            return Err(PlanError::new(
                PlanErrorKind::Syntax,
                "CREATE VIEW specifies more column names than columns",
            ));
        }
        let mut columns = bound.columns;
        for (column, name) in columns.iter_mut().zip(&command.columns) {
            column.0.clone_from(name);
        }
        for (position, (name, _)) in columns.iter().enumerate() {
            if columns[..position].iter().any(|(other, _)| other == name) {
                return Err(PlanError::new(
                    PlanErrorKind::DuplicateColumn,
                    format!("column \"{name}\" specified more than once"),
                ));
            }
        }
        let existing = self.catalog.names.get(&(schema.oid, name.clone())).copied();
        let oid = match existing {
            Some(oid) if command.or_replace => {
                let Some(view) = self.catalog.views.get(&oid) else {
                    return Err(PlanError::new(
                        PlanErrorKind::WrongObjectType,
                        format!("\"{name}\" is not a view"),
                    ));
                };
                check_replacement(view, &columns)?;
                if bound.relations.contains(&oid) {
                    return Err(PlanError::new(
                        PlanErrorKind::InvalidObjectDefinition,
                        format!("infinite recursion detected in rules for relation \"{name}\""),
                    ));
                }
                oid
            }
            Some(_) => {
                self.name_taken(&schema, name, false)?;
                return Ok(());
            }
            None => self.catalog.ids.oid()?,
        };
        self.catalog.put_view(View {
            oid,
            schema: schema.oid,
            owner: self.env.current_role,
            name: name.clone(),
            sql: bound.sql,
            columns,
            depends_on: bound.relations,
        });
        Ok(())
    }

    /// Views that read a column, found by binding them as if it was gone.
    pub(super) fn views_using(&self, table: &Table, position: usize) -> Vec<Oid> {
        let views = self.views_on(table.descriptor.oid);
        if views.is_empty() {
            return Vec::new();
        }
        let mut without = table.clone();
        Arc::make_mut(&mut without.descriptor).columns[position].dropped = true;
        let mut namespace = self.namespace();
        Arc::make_mut(&mut namespace.catalog).put_table(without);
        views
            .into_iter()
            .filter(|view| {
                let Some(view) = self.catalog.views.get(view) else { return false };
                match parse(&view.sql) {
                    // `SELECT *` reads every column: it then has fewer.
                    Ok(query) => self
                        .env
                        .binder
                        .query(&namespace, &query)
                        .map_or(true, |bound| bound.columns.len() != view.columns.len()),
                    Err(_) => true,
                }
            })
            .collect()
    }

    /// A relation has another name or schema: the views that read it keep reading it.
    pub(super) fn rename_in_views(
        &mut self,
        oid: Oid,
        from: (&str, &str),
        to: (&str, &str),
    ) -> Result<(), PlanError> {
        for view in self.views_on(oid) {
            let Some(view) = self.catalog.views.get(&view) else { continue };
            let mut query = parse(&view.sql)?;
            let mut renamer = Renamer { from, to };
            let _ = query.visit(&mut renamer);
            let mut view = View::clone(view);
            view.sql = query.to_string();
            self.catalog.put_view(view);
        }
        Ok(())
    }

    pub(super) fn describe_views(&self, views: &[Oid], what: &str) -> String {
        let lines: Vec<String> = views
            .iter()
            .map(|view| format!("{} depends on {what}", self.describe_relation(*view)))
            .collect();
        lines.join("\n")
    }

    /// Refuses to change what a view rests on.
    pub(super) fn refuse_under_views(
        &self,
        table: &Table,
        position: usize,
        message: &str,
    ) -> Result<(), PlanError> {
        let views = self.views_using(table, position);
        if views.is_empty() {
            return Ok(());
        }
        let what = format!("column \"{}\"", table.descriptor.columns[position].name);
        Err(PlanError::new(PlanErrorKind::Unsupported, message)
            .with_detail(self.describe_views(&views, &what))
            .with_hint("Drop the view, change the column, and create the view again."))
    }
}

fn check_replacement(
    view: &View,
    columns: &[(String, cortex_shard_api::TypeMod)],
) -> Result<(), PlanError> {
    let invalid = |message: String| PlanError::new(PlanErrorKind::InvalidTableDefinition, message);
    if columns.len() < view.columns.len() {
        return Err(invalid("cannot drop columns from view".to_owned()));
    }
    for ((old_name, old_type), (name, ty)) in view.columns.iter().zip(columns) {
        if old_name != name {
            return Err(invalid(format!(
                "cannot change name of view column \"{old_name}\" to \"{name}\""
            ))
            .with_hint(
                "Use ALTER VIEW ... RENAME COLUMN ... to change name of view column instead.",
            ));
        }
        if old_type != ty {
            return Err(invalid(format!(
                "cannot change data type of view column \"{name}\" from {} to {}",
                cortex_shard_api::value::text::type_name(*old_type),
                cortex_shard_api::value::text::type_name(*ty)
            )));
        }
    }
    Ok(())
}

fn parse(sql: &str) -> Result<Box<Query>, PlanError> {
    let dialect = CortexDialect;
    let parsed = Parser::new(&dialect).try_with_sql(sql).and_then(|mut p| p.parse_query());
    parsed.map_err(|error| {
        PlanError::new(
            PlanErrorKind::Internal,
            format!("the text of a view cannot be read: {error}"),
        )
    })
}

struct Renamer<'a> {
    from: (&'a str, &'a str),
    to: (&'a str, &'a str),
}

impl VisitorMut for Renamer<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, alias, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let parts: Vec<String> =
            name.0.iter().filter_map(|part| part.as_ident()).map(fold_ident).collect();
        if parts == [self.from.0, self.from.1] {
            *name =
                vec![Ident::with_quote('"', self.to.0), Ident::with_quote('"', self.to.1)].into();
            // Columns may be written with the old name in front.
            if alias.is_none() && self.from.1 != self.to.1 {
                *alias = Some(TableAlias {
                    explicit: true,
                    name: Ident::with_quote('"', self.from.1),
                    columns: Vec::new(),
                    at: None,
                });
            }
        }
        ControlFlow::Continue(())
    }
}
