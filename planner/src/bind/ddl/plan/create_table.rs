//! CREATE TABLE.

use cortex_shard_api::Oid;

use super::{Ddl, Work, placement::check_options, table::empty_table};
use crate::{
    PlanError, PlanErrorKind,
    bind::ddl::{ColumnDefinition, ConstraintDefinition, ConstraintKind, CreateTable, LikeClause},
    catalog::{CommentKey, Table, edit::class},
};

impl Ddl<'_> {
    pub(super) fn create_table(&mut self, command: &CreateTable) -> Result<(), PlanError> {
        let schema = self.creation_schema(&command.name)?;
        let name = &command.name.name;
        if self.name_taken(&schema, name, command.if_not_exists)? {
            return Ok(());
        }
        check_options(&command.options)?;
        if command.unlogged {
            self.notice("00000", format!("table \"{name}\" is logged: every table is"));
        }
        let ids = self.catalog.ids.clone();
        let oid = ids.oid()?;
        let mut table = empty_table(oid, &schema, name, ids.storage()?, self.env.current_role);
        table.options = command.options.clone();
        let columns = self.create_columns(command)?;
        for (position, column) in columns.iter().enumerate() {
            if columns[..position].iter().any(|other| other.name == column.name) {
                return Err(PlanError::new(
                    PlanErrorKind::DuplicateColumn,
                    format!("column \"{}\" specified more than once", column.name),
                )
                .at(column.position));
            }
            self.append_column(&mut table, column)?;
        }
        let inherited = self.liked_constraints(command, &mut table)?;
        let constraints: Vec<(&ConstraintDefinition, Option<&str>)> = columns
            .iter()
            .flat_map(|column| {
                column.constraints.iter().map(|constraint| (constraint, Some(column.name.as_str())))
            })
            .chain(command.constraints.iter().map(|constraint| (constraint, None)))
            .chain(inherited.iter().map(|constraint| (constraint, None)))
            .collect();
        self.create_constraints(&mut table, &constraints)?;
        self.place(&mut table)?;
        let parents: Vec<_> = table.descriptor.foreign_keys.iter().map(|key| key.parent).collect();
        self.catalog.put_table(table);
        for parent in parents {
            self.wait_for_reference(parent, oid)?;
            self.catalog.refresh_referenced_by(parent);
        }
        self.created = Some(oid);
        Ok(())
    }

    /// Rows of the new table on other shards are checked against copies of a reference table, which show rows until their
    /// deletion commits: deletions that are under way must end before there can be such rows.
    fn wait_for_reference(&mut self, parent: Oid, child: Oid) -> Result<(), PlanError> {
        if parent != child {
            let parent = self.table_by_oid(parent)?;
            if parent.descriptor.primary_copy().is_some() {
                self.work.push(Work::Lock(parent.descriptor.clone()));
            }
        }
        Ok(())
    }

    /// Keys first: foreign keys may refer to them.
    fn create_constraints(
        &mut self,
        table: &mut Table,
        constraints: &[(&ConstraintDefinition, Option<&str>)],
    ) -> Result<(), PlanError> {
        for (constraint, _) in constraints {
            if let ConstraintKind::PrimaryKey { columns } = &constraint.kind {
                self.set_primary_key(table, constraint.name.as_deref(), columns)
                    .map_err(|error| error.at(constraint.position))?;
            }
        }
        for (constraint, _) in constraints {
            match &constraint.kind {
                ConstraintKind::Unique { columns } => {
                    self.add_unique(table, constraint.name.as_deref(), columns)
                        .map_err(|error| error.at(constraint.position))?;
                }
                ConstraintKind::UsingIndex { .. } => {
                    return Err(PlanError::unsupported(
                        "USING INDEX is not possible in CREATE TABLE",
                        "Name the columns instead.",
                    ));
                }
                _ => {}
            }
        }
        for (constraint, column) in constraints {
            if let ConstraintKind::Check(check) = &constraint.kind {
                self.add_check(table, constraint.name.as_deref(), check, *column)?;
            }
        }
        for (constraint, _) in constraints {
            if matches!(constraint.kind, ConstraintKind::ForeignKey { .. }) {
                self.add_foreign_key(table, constraint)?;
            }
        }
        Ok(())
    }

    /// The statement's columns behind those of LIKE.
    fn create_columns(
        &mut self,
        command: &CreateTable,
    ) -> Result<Vec<ColumnDefinition>, PlanError> {
        let mut columns = Vec::new();
        for like in &command.likes {
            let source = self.table(&like.source)?;
            for (_, column) in source.descriptor.live_columns() {
                columns.push(ColumnDefinition {
                    not_null: column.not_null.then_some(true),
                    ..ColumnDefinition::plain(column.name.clone(), column.ty)
                });
            }
        }
        columns.extend(command.columns.iter().cloned());
        Ok(columns)
    }

    /// What LIKE ... INCLUDING copies besides names, types and NOT NULL. Constraints are returned to be made with the others.
    fn liked_constraints(
        &mut self,
        command: &CreateTable,
        table: &mut Table,
    ) -> Result<Vec<ConstraintDefinition>, PlanError> {
        let mut constraints = Vec::new();
        for like in &command.likes {
            let source = self.table(&like.source)?;
            self.liked_columns(like, &source, table)?;
            if like.indexes {
                constraints.extend(liked_keys(&source));
                if source.descriptor.indexes.iter().any(|index| !index.constraint) {
                    return Err(PlanError::unsupported(
                        "LIKE INCLUDING INDEXES does not copy indexes without a constraint",
                        "Leave INCLUDING INDEXES out and create the indexes.",
                    ));
                }
            }
            if like.constraints && !source.descriptor.checks.is_empty() {
                return Err(PlanError::unsupported(
                    "LIKE INCLUDING CONSTRAINTS does not copy CHECK constraints",
                    "Leave INCLUDING CONSTRAINTS out and add the constraints.",
                ));
            }
        }
        Ok(constraints)
    }

    fn liked_columns(
        &mut self,
        like: &LikeClause,
        source: &Table,
        table: &mut Table,
    ) -> Result<(), PlanError> {
        for (position, column) in source.descriptor.live_columns() {
            let Some(target) = table.descriptor.column(&column.name) else { continue };
            let extra = &source.columns[position];
            if let (true, None, Some(default)) = (like.defaults, extra.identity, &extra.default) {
                let mut default = default.clone();
                default.oid = self.catalog.ids.oid()?;
                table.columns[target].default = Some(default);
            }
            if let (true, Some(identity)) = (like.identity, extra.identity) {
                let default = self.sequence_default(table, target, &Default::default())?;
                table.columns[target].default = Some(default);
                table.columns[target].identity = Some(identity);
            }
            if like.comments {
                let key = |object, column: usize| CommentKey {
                    class: class::RELATION,
                    object,
                    column: column as i32 + 1,
                };
                let comment =
                    self.catalog.comments.get(&key(source.descriptor.oid, position)).cloned();
                if let Some(comment) = comment {
                    self.catalog.comments.insert(key(table.descriptor.oid, target), comment);
                }
            }
        }
        Ok(())
    }
}

fn liked_keys(source: &Table) -> Vec<ConstraintDefinition> {
    let names = |positions: &mut dyn Iterator<Item = usize>| -> Vec<String> {
        positions.map(|position| source.descriptor.columns[position].name.clone()).collect()
    };
    let mut constraints = Vec::new();
    let definition = |kind| ConstraintDefinition { name: None, kind, position: None };
    if source.primary_key_oids.is_some() {
        let columns = names(&mut source.descriptor.primary_key.iter().copied());
        constraints.push(definition(ConstraintKind::PrimaryKey { columns }));
    }
    for index in source.descriptor.indexes.iter().filter(|index| index.constraint) {
        let columns = names(&mut index.columns.iter().map(|column| column.column));
        constraints.push(definition(ConstraintKind::Unique { columns }));
    }
    constraints
}

/// CREATE TABLE AS: the command that makes the table for a query's columns.
pub fn table_for_query(
    command: &CreateTable,
    columns: Vec<ColumnDefinition>,
) -> Result<CreateTable, PlanError> {
    let names = command.as_query.as_ref().map(|query| query.names.as_slice()).unwrap_or_default();
    if names.len() > columns.len() {
        return Err(PlanError::new(PlanErrorKind::Syntax, "too many column names were specified"));
    }
    let mut columns = columns;
    for (column, name) in columns.iter_mut().zip(names) {
        column.name.clone_from(name);
    }
    Ok(CreateTable { columns, name: command.name.clone(), ..command.clone() })
}
