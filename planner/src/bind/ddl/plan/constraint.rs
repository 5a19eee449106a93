//! PRIMARY KEY, UNIQUE, CHECK, FOREIGN KEY: made with a table or added to one.

use std::{collections::BTreeSet, sync::Arc};

use cortex_shard_api::{
    ScalarExpr, SqlType, TableDescriptor,
    descriptor::{CheckDescriptor, ForeignKeyDescriptor, ReferentialAction},
};

use super::{
    Ddl, Violation, Work,
    table::{ascending, check_key_length, qualified, quote},
};
use crate::{
    PlanError, PlanErrorKind,
    bind::ddl::{ConstraintDefinition, ConstraintKind, QualifiedName, SourceExpr},
    bind::write::column_default,
    catalog::{
        Table, deparse,
        naming::{self, joined_columns},
    },
};

impl Ddl<'_> {
    /// PRIMARY KEY of a table that has no rows yet. Adding one to a filled table rewrites it (`alter`).
    pub(super) fn set_primary_key(
        &mut self,
        table: &mut Table,
        name: Option<&str>,
        columns: &[String],
    ) -> Result<(), PlanError> {
        if table.primary_key_oids.is_some() {
            return Err(PlanError::new(
                PlanErrorKind::InvalidTableDefinition,
                format!(
                    "multiple primary keys for table \"{}\" are not allowed",
                    table.descriptor.name
                ),
            ));
        }
        let positions = self.key_columns(table, columns, "primary key")?;
        let name = self.index_constraint_name(table, name, None, "pkey")?;
        table.primary_key_oids = Some((self.catalog.ids.oid()?, self.catalog.ids.oid()?));
        let descriptor = Arc::make_mut(&mut table.descriptor);
        for position in &positions {
            descriptor.columns[*position].not_null = true;
        }
        descriptor.primary_key = positions;
        descriptor.primary_key_name = Some(name);
        Ok(())
    }

    /// Adds a UNIQUE constraint with its index, not filled; returns the index's position.
    pub(super) fn add_unique(
        &mut self,
        table: &mut Table,
        name: Option<&str>,
        columns: &[String],
    ) -> Result<usize, PlanError> {
        let positions = self.key_columns(table, columns, "unique")?;
        let joined = joined_columns(columns.iter().map(String::as_str));
        let name = self.index_constraint_name(table, name, Some(&joined), "key")?;
        let index = self.new_index(
            name.clone(),
            true,
            true,
            positions.into_iter().map(ascending).collect(),
        )?;
        let position = table.descriptor.indexes.len();
        Arc::make_mut(&mut table.descriptor).indexes.push(index);
        table.unique_constraints.push((self.catalog.ids.oid()?, name, position));
        Ok(position)
    }

    /// The given name, or a chosen one; 42P07 if a relation has it, 42710 if a constraint of the table has it.
    fn index_constraint_name(
        &self,
        table: &Table,
        name: Option<&str>,
        columns: Option<&str>,
        label: &str,
    ) -> Result<String, PlanError> {
        let relation_taken = |name: &str| {
            self.catalog.names.contains_key(&(table.schema, name.to_owned()))
                || table.relation_names().iter().any(|(_, other)| other == name)
        };
        let Some(name) = name else {
            return Ok(naming::choose(&table.descriptor.name, columns, label, relation_taken));
        };
        if relation_taken(name) {
            return Err(PlanError::new(
                PlanErrorKind::DuplicateTable,
                format!("relation \"{name}\" already exists"),
            ));
        }
        self.check_constraint_name(table, name)?;
        Ok(name.to_owned())
    }

    pub(super) fn check_constraint_name(&self, table: &Table, name: &str) -> Result<(), PlanError> {
        if !table.constraint_names().contains(&name) {
            return Ok(());
        }
        Err(PlanError::new(
            PlanErrorKind::DuplicateObject,
            format!(
                "constraint \"{name}\" for relation \"{}\" already exists",
                table.descriptor.name
            ),
        ))
    }

    /// Adds a CHECK constraint; rows are not looked at. Returns its position.
    pub(super) fn add_check(
        &mut self,
        table: &mut Table,
        name: Option<&str>,
        check: &SourceExpr,
        column: Option<&str>,
    ) -> Result<usize, PlanError> {
        let expr = self.env.binder.check(&self.namespace(), table, &check.expr)?;
        let descriptor = &table.descriptor;
        let name = match name {
            Some(name) => {
                self.check_constraint_name(table, name)?;
                name.to_owned()
            }
            None => {
                let mut used = BTreeSet::new();
                columns_of(&expr, &mut used);
                let only = match (column, used.len(), used.first()) {
                    (Some(column), ..) => Some(column.to_owned()),
                    (None, 1, Some(position)) => Some(descriptor.columns[*position].name.clone()),
                    _ => None,
                };
                let names = table.constraint_names();
                naming::choose(&descriptor.name, only.as_deref(), "check", |name| {
                    names.contains(&name)
                })
            }
        };
        let oid = self.catalog.ids.oid()?;
        Arc::make_mut(&mut table.descriptor).checks.push(CheckDescriptor { oid, name, expr });
        table.check_sql.push(check.sql.clone());
        Ok(table.check_sql.len() - 1)
    }

    /// Resolves and adds a FOREIGN KEY; neither rows nor placement are looked at. Returns its position.
    pub(super) fn add_foreign_key(
        &mut self,
        table: &mut Table,
        definition: &ConstraintDefinition,
    ) -> Result<usize, PlanError> {
        let ConstraintKind::ForeignKey { columns, parent, parent_columns, on_delete, on_update } =
            &definition.kind
        else {
            return Err(PlanError::new(PlanErrorKind::Internal, "not a foreign key"));
        };
        let mut positions = Vec::with_capacity(columns.len());
        for name in columns {
            positions.push(table.descriptor.column(name).ok_or_else(|| {
                PlanError::new(
                    PlanErrorKind::UndefinedColumn,
                    format!(
                        "column \"{name}\" referenced in foreign key constraint does not exist"
                    ),
                )
                .at(definition.position)
            })?);
        }
        check_key_length(positions.len())?;
        let parent_table = self.foreign_key_parent(table, parent)?;
        let parent_descriptor = match &parent_table {
            Some(parent) => parent.descriptor.clone(),
            None => table.descriptor.clone(),
        };
        let parent_positions = referenced_columns(&parent_descriptor, parent_columns)?;
        if parent_positions.len() != positions.len() {
            return Err(PlanError::new(
                PlanErrorKind::InvalidForeignKey,
                "number of referencing and referenced columns for foreign key disagree",
            ));
        }
        let names = table.constraint_names();
        let name = match &definition.name {
            Some(name) => {
                self.check_constraint_name(table, name)?;
                name.clone()
            }
            None => {
                let joined = joined_columns(columns.iter().map(String::as_str));
                naming::choose(&table.descriptor.name, Some(&joined), "fkey", |name| {
                    names.contains(&name)
                })
            }
        };
        for (child, parent) in positions.iter().zip(&parent_positions) {
            check_types(&name, &table.descriptor, *child, &parent_descriptor, *parent)?;
        }
        for action in [on_delete, on_update] {
            if *action == ReferentialAction::SetNull || *action == ReferentialAction::SetDefault {
                self.check_set_action(table, &positions)?;
            }
        }
        let key = ForeignKeyDescriptor {
            oid: self.catalog.ids.oid()?,
            name,
            columns: positions,
            parent: parent_descriptor.oid,
            parent_columns: parent_positions,
            on_delete: *on_delete,
            on_update: *on_update,
            set_default: Vec::new(),
        };
        Arc::make_mut(&mut table.descriptor).foreign_keys.push(key);
        check_key_defaults(table)?;
        Ok(table.descriptor.foreign_keys.len() - 1)
    }

    /// ON ... SET NULL would change the shard key of a row.
    fn check_set_action(&self, table: &Table, columns: &[usize]) -> Result<(), PlanError> {
        let key = super::placement::shard_key(&table.descriptor);
        if columns.iter().any(|column| key.contains(column)) {
            return Err(PlanError::unsupported(
                "SET NULL and SET DEFAULT cannot change a shard key",
                "Use ON DELETE CASCADE or NO ACTION.",
            ));
        }
        Ok(())
    }

    /// The parent; `None` is the table itself, which may not be in the catalog yet.
    fn foreign_key_parent(
        &self,
        table: &Table,
        parent: &QualifiedName,
    ) -> Result<Option<Arc<Table>>, PlanError> {
        let itself = parent.name == table.descriptor.name
            && parent.schema.as_ref().is_none_or(|schema| *schema == table.descriptor.schema);
        let found = self.lookup(parent)?;
        match found {
            Some(oid) if oid == table.descriptor.oid => Ok(None),
            Some(_) => Ok(Some(self.table(parent)?)),
            None if itself => Ok(None),
            None => Err(super::undefined_relation(parent)),
        }
    }

    /// Existing rows must pass a check.
    pub(super) fn verify_check(&mut self, table: &Table, position: usize) {
        let check = &table.descriptor.checks[position];
        let sql = format!(
            "SELECT 1 FROM {} WHERE NOT ({}) LIMIT 1",
            qualified(&table.descriptor),
            deparse::Deparser {
                catalog: &self.catalog,
                columns: &deparse::column_names(table),
                pretty: false
            }
            .top(&check.expr)
        );
        let violation = Violation::Check {
            table: table.descriptor.name.clone(),
            constraint: check.name.clone(),
        };
        self.verify(sql, violation);
    }

    pub(super) fn verify_not_null(&mut self, table: &Table, position: usize) {
        let column = &table.descriptor.columns[position].name;
        let sql = format!(
            "SELECT 1 FROM {} WHERE {} IS NULL LIMIT 1",
            qualified(&table.descriptor),
            quote(column)
        );
        let violation =
            Violation::NotNull { table: table.descriptor.name.clone(), column: column.clone() };
        self.verify(sql, violation);
    }

    pub(super) fn verify_foreign_key(
        &mut self,
        table: &Table,
        position: usize,
    ) -> Result<(), PlanError> {
        let key = table.descriptor.foreign_keys[position].clone();
        let parent = if key.parent == table.descriptor.oid {
            table.descriptor.clone()
        } else {
            self.table_by_oid(key.parent)?.descriptor.clone()
        };
        let name =
            |descriptor: &TableDescriptor, column: usize| descriptor.columns[column].name.clone();
        let child_columns: Vec<String> =
            key.columns.iter().map(|column| name(&table.descriptor, *column)).collect();
        let selected: Vec<String> =
            child_columns.iter().map(|column| format!("c.{}", quote(column))).collect();
        let present: Vec<String> =
            selected.iter().map(|column| format!("{column} IS NOT NULL")).collect();
        let equal: Vec<String> = selected
            .iter()
            .zip(&key.parent_columns)
            .map(|(column, parent_column)| {
                format!("p.{} = {column}", quote(&name(&parent, *parent_column)))
            })
            .collect();
        let sql = format!(
            "SELECT {} FROM {} c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} p WHERE {}) LIMIT 1",
            selected.join(", "),
            qualified(&table.descriptor),
            present.join(" AND "),
            qualified(&parent),
            equal.join(" AND "),
        );
        let violation = Violation::ForeignKey {
            table: table.descriptor.name.clone(),
            constraint: key.name,
            columns: child_columns,
            parent: parent.name.clone(),
        };
        self.verify(sql, violation);
        Ok(())
    }

    pub(super) fn verify(&mut self, sql: String, violation: Violation) {
        let catalog = Arc::new(self.catalog.clone());
        self.work.push(Work::Verify { catalog, sql, violation });
    }
}

/// ON ... SET DEFAULT happens in the shard, where there are no sequences and no sessions.
pub(super) fn check_key_defaults(table: &Table) -> Result<(), PlanError> {
    for key in table.descriptor.foreign_keys.iter().filter(|key| key.sets_default()) {
        for position in &key.columns {
            if cortex_functions::scalar::is_immutable(&column_default(table, *position)) {
                continue;
            }
            return Err(PlanError::unsupported(
                format!(
                    "SET DEFAULT of foreign key \"{}\" needs a constant default of column \"{}\"",
                    key.name, table.descriptor.columns[*position].name
                ),
                "Give the column a constant default, or use SET NULL, CASCADE or NO ACTION.",
            ));
        }
    }
    Ok(())
}

/// Positions of the parent's columns: those named, which must be a key, or its primary key.
fn referenced_columns(parent: &TableDescriptor, names: &[String]) -> Result<Vec<usize>, PlanError> {
    if names.is_empty() {
        if parent.primary_key.is_empty() {
            return Err(PlanError::new(
                PlanErrorKind::UndefinedObject,
                format!("there is no primary key for referenced table \"{}\"", parent.name),
            ));
        }
        return Ok(parent.primary_key.clone());
    }
    let mut positions = Vec::with_capacity(names.len());
    for name in names {
        positions.push(parent.column(name).ok_or_else(|| {
            PlanError::new(
                PlanErrorKind::UndefinedColumn,
                format!("column \"{name}\" referenced in foreign key constraint does not exist"),
            )
        })?);
    }
    let wanted: BTreeSet<usize> = positions.iter().copied().collect();
    let same =
        |columns: &mut dyn Iterator<Item = usize>| columns.collect::<BTreeSet<_>>() == wanted;
    let is_key = (!parent.primary_key.is_empty() && same(&mut parent.primary_key.iter().copied()))
        || parent
            .indexes
            .iter()
            .any(|index| index.unique && same(&mut index.columns.iter().map(|c| c.column)));
    if is_key && wanted.len() == positions.len() {
        return Ok(positions);
    }
    Err(PlanError::new(
        PlanErrorKind::InvalidForeignKey,
        format!(
            "there is no unique constraint matching given keys for referenced table \"{}\"",
            parent.name
        ),
    ))
}

/// Keys are compared in their stored form, so both columns must have one.
fn check_types(
    constraint: &str,
    child: &TableDescriptor,
    child_column: usize,
    parent: &TableDescriptor,
    parent_column: usize,
) -> Result<(), PlanError> {
    let (child, parent) = (&child.columns[child_column], &parent.columns[parent_column]);
    let (a, b) = (child.ty.ty, parent.ty.ty);
    let strings = |ty| matches!(ty, SqlType::Text | SqlType::Varchar);
    if a == b || strings(a) && strings(b) {
        return Ok(());
    }
    let detail = format!(
        "Key columns \"{}\" and \"{}\" are of incompatible types: {} and {}.",
        child.name,
        parent.name,
        a.sql_name(),
        b.sql_name()
    );
    if a.is_number() && b.is_number() || a.is_string() && b.is_string() {
        return Err(PlanError::unsupported(
            format!(
                "foreign key constraint \"{constraint}\" between different types is not supported"
            ),
            format!("Give column \"{}\" the type {}.", child.name, b.sql_name()),
        )
        .with_detail(detail));
    }
    Err(PlanError::new(
        PlanErrorKind::DatatypeMismatch,
        format!("foreign key constraint \"{constraint}\" cannot be implemented"),
    )
    .with_detail(detail))
}

/// Positions of the columns that an expression reads.
pub fn columns_of(expr: &ScalarExpr, used: &mut BTreeSet<usize>) {
    match expr {
        ScalarExpr::Column { position, .. } => {
            used.insert(*position);
        }
        ScalarExpr::Literal { .. } | ScalarExpr::Parameter { .. } => {}
        ScalarExpr::Call { args, .. }
        | ScalarExpr::And(args)
        | ScalarExpr::Or(args)
        | ScalarExpr::Coalesce { args, .. }
        | ScalarExpr::Array { elements: args, .. } => {
            args.iter().for_each(|arg| columns_of(arg, used));
        }
        ScalarExpr::Cast { arg, .. } | ScalarExpr::Not(arg) | ScalarExpr::IsNull(arg) => {
            columns_of(arg, used);
        }
        ScalarExpr::Case { branches, otherwise, .. } => {
            for (condition, value) in branches {
                columns_of(condition, used);
                columns_of(value, used);
            }
            if let Some(otherwise) = otherwise {
                columns_of(otherwise, used);
            }
        }
        ScalarExpr::IsDistinct { left, right, .. } => {
            columns_of(left, used);
            columns_of(right, used);
        }
    }
}
