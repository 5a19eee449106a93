//! ALTER TABLE and its like: which object, then one action after the other.

use std::sync::Arc;

use cortex_functions::scalar;
use cortex_shard_api::{
    Datum, Oid, ScalarExpr,
    descriptor::{Placement, TableDescriptor},
};

use super::{
    Ddl, Work,
    constraint::columns_of,
    placement::{check_keys, check_options, is_same_kind, same_columns, shard_key},
    remove::remove_index,
    table::column_position,
};
use crate::{
    PlanError, PlanErrorKind,
    bind::ddl::{
        AlterAction, AlterTable, ColumnDefinition, ConstraintKind, ObjectKind, QualifiedName,
    },
    catalog::{Schema, Sequence, Table, View},
};

impl Ddl<'_> {
    pub(super) fn alter(&mut self, command: &AlterTable) -> Result<(), PlanError> {
        if command.kind == ObjectKind::Schema {
            return self.schema_owner(&command.name.name, &command.actions);
        }
        let oid = match self.lookup(&command.name) {
            Ok(Some(oid)) => oid,
            Ok(None) if command.if_exists => {
                self.notice(
                    "00000",
                    format!("relation \"{}\" does not exist, skipping", command.name.name),
                );
                return Ok(());
            }
            Ok(None) => return Err(super::undefined_relation(&command.name)),
            Err(error) => return Err(error),
        };
        let kind = self.kind_of(oid);
        if command.kind != ObjectKind::Table && command.kind != kind {
            let article = if command.kind == ObjectKind::Index { "an" } else { "a" };
            return Err(PlanError::new(
                PlanErrorKind::WrongObjectType,
                format!("\"{}\" is not {article} {}", command.name.name, command.kind.word()),
            ));
        }
        if kind == ObjectKind::Table {
            let table = self.table_by_oid(oid)?;
            self.work.push(Work::Lock(table.descriptor.clone()));
        }
        for action in &command.actions {
            self.alter_action(oid, kind, action)?;
        }
        Ok(())
    }

    fn alter_action(
        &mut self,
        oid: Oid,
        kind: ObjectKind,
        action: &AlterAction,
    ) -> Result<(), PlanError> {
        match action {
            AlterAction::RenameTo(to) => return self.rename(oid, to),
            AlterAction::OwnerTo(role) => return self.set_owner(oid, role),
            AlterAction::SetSchema(schema) => return self.set_schema(oid, kind, schema),
            AlterAction::RenameColumn { name, to } if kind == ObjectKind::View => {
                return self.rename_view_column(oid, name, to);
            }
            _ if kind != ObjectKind::Table => {
                return Err(PlanError::unsupported(
                    format!("this change of a {} is not supported", kind.word()),
                    "Drop it and create it again.",
                ));
            }
            _ => {}
        }
        match action {
            AlterAction::AddColumn { column, if_not_exists } => {
                self.add_column(oid, column, *if_not_exists)
            }
            AlterAction::DropColumn { name, if_exists, cascade } => {
                self.drop_column(oid, name, *if_exists, *cascade)
            }
            AlterAction::RenameColumn { name, to } => self.rename_column(oid, name, to),
            AlterAction::RenameConstraint { name, to } => self.rename_constraint(oid, name, to),
            AlterAction::SetDefault { column, default } => {
                self.set_default(oid, column, default.as_ref())
            }
            AlterAction::SetNotNull { column, not_null } => {
                self.set_not_null(oid, column, *not_null)
            }
            AlterAction::SetType { column, ty, using } => {
                self.set_type(oid, column, *ty, using.as_ref())
            }
            AlterAction::AddIdentity { column, identity, options } => {
                self.add_identity(oid, column, *identity, options)
            }
            AlterAction::SetIdentity { column, identity, options } => {
                self.set_identity(oid, column, *identity, options)
            }
            AlterAction::DropIdentity { column, if_exists } => {
                self.drop_identity(oid, column, *if_exists)
            }
            AlterAction::AddConstraint { constraint } => self.add_constraint(oid, constraint),
            AlterAction::DropConstraint { name, if_exists, cascade } => {
                self.drop_constraint(oid, name, *if_exists, *cascade)
            }
            AlterAction::ValidateConstraint { name } => self.validate_constraint(oid, name),
            AlterAction::SetOptions(options) => self.set_options(oid, options),
            AlterAction::BringFamilyHome => self.undistribute_family(oid),
            AlterAction::ResetOptions(names) => self.reset_options(oid, names),
            AlterAction::RenameTo(_) | AlterAction::OwnerTo(_) | AlterAction::SetSchema(_) => {
                Ok(())
            }
        }
    }

    /// A copy of a table to change, one version up.
    pub(super) fn next_version(&self, oid: Oid) -> Result<Table, PlanError> {
        let mut table = Table::clone(&*self.table_by_oid(oid)?);
        Arc::make_mut(&mut table.descriptor).version += 1;
        Ok(table)
    }

    fn add_column(
        &mut self,
        oid: Oid,
        column: &ColumnDefinition,
        if_not_exists: bool,
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        if if_not_exists && table.descriptor.column(&column.name).is_some() {
            self.notice(
                "42701",
                format!(
                    "column \"{}\" of relation \"{}\" already exists, skipping",
                    column.name, table.descriptor.name
                ),
            );
            return Ok(());
        }
        let from = table.descriptor.clone();
        let position = self.append_column(&mut table, column)?;
        let not_null = table.descriptor.columns[position].not_null;
        let default = table.columns[position].default.as_ref().map(|default| default.expr.clone());
        let missing = match &default {
            None => Some(Datum::Null),
            Some(expr) => scalar::fold(expr, self.env.eval).transpose()?,
        };
        match (missing, default) {
            (Some(missing), _) => {
                let is_null = matches!(missing, Datum::Null);
                Arc::make_mut(&mut table.descriptor).columns[position].missing = missing;
                if not_null && is_null {
                    // The rows that are there read NULL: looked for while the column may still hold it, or the
                    // optimizer would know that there are none.
                    let descriptor = Arc::make_mut(&mut table.descriptor);
                    descriptor.columns[position].not_null = false;
                    self.catalog.put_table(table.clone());
                    self.verify_not_null(&table, position);
                    let descriptor = Arc::make_mut(&mut table.descriptor);
                    descriptor.columns[position].not_null = true;
                }
                self.catalog.put_table(table);
            }
            // Each row has a value of its own: nextval, random().
            (None, default) => {
                self.move_storage(&mut table)?;
                let mut columns = same_columns(&from).to_vec();
                columns.extend(default);
                self.work.push(Work::Convert {
                    from,
                    to: table.descriptor.clone(),
                    columns: columns.into(),
                });
                self.catalog.put_table(table);
            }
        }
        for constraint in &column.constraints {
            match &constraint.kind {
                ConstraintKind::Check(check) => {
                    self.add_check_to(oid, constraint.name.as_deref(), check, Some(&column.name))?;
                }
                _ => self.add_constraint(oid, constraint)?,
            }
        }
        Ok(())
    }

    fn drop_column(
        &mut self,
        oid: Oid,
        name: &str,
        if_exists: bool,
        cascade: bool,
    ) -> Result<(), PlanError> {
        let table = self.table_by_oid(oid)?;
        let Some(position) = table.descriptor.column(name) else {
            let message = format!(
                "column \"{name}\" of relation \"{}\" does not exist",
                table.descriptor.name
            );
            if if_exists {
                self.notice("00000", format!("{message}, skipping"));
                return Ok(());
            }
            return Err(PlanError::new(PlanErrorKind::UndefinedColumn, message));
        };
        if shard_key(&table.descriptor).contains(&position)
            && (table.option("shard_by").is_some()
                || !table.descriptor.primary_key.contains(&position))
        {
            return Err(PlanError::unsupported(
                format!("cannot drop column \"{name}\": it is the shard key"),
                "Change the table first: ALTER TABLE ... SET (shard_by = ...).",
            ));
        }
        let views = self.views_using(&table, position);
        let relation = self.describe_relation(oid);
        let what = format!("column {name} of {relation}");
        if !views.is_empty() {
            if !cascade {
                return Err(PlanError::new(
                    PlanErrorKind::DependentObjects,
                    format!("cannot drop {what} because other objects depend on it"),
                )
                .with_detail(self.describe_views(&views, &what))
                .with_hint("Use DROP ... CASCADE to drop the dependent objects too."));
            }
            for view in &views {
                let view = self.describe_relation(*view);
                self.notice("00000", format!("drop cascades to {view}"));
            }
            self.drop_relations(&views, true)?;
        }
        self.drop_uses(oid, position, cascade)?;
        let mut table = self.next_version(oid)?;
        let descriptor = Arc::make_mut(&mut table.descriptor);
        let column = &mut descriptor.columns[position];
        column.name = format!("........pg.dropped.{}........", position + 1);
        column.dropped = true;
        column.not_null = false;
        table.columns[position] = Default::default();
        let owned: Vec<Oid> = self
            .catalog
            .sequences
            .values()
            .filter(|sequence| sequence.owned_by == Some((oid, position)))
            .map(|sequence| sequence.oid)
            .collect();
        self.catalog.put_table(table);
        self.drop_relations(&owned, cascade)?;
        self.catalog
            .comments
            .retain(|key, _| key.object != oid || key.column != position as i32 + 1);
        Ok(())
    }

    /// Indexes and constraints with the column go with it; foreign keys of other tables need CASCADE.
    fn drop_uses(&mut self, oid: Oid, position: usize, cascade: bool) -> Result<(), PlanError> {
        let table = self.table_by_oid(oid)?;
        if table.descriptor.primary_key.contains(&position)
            && let Some(name) = table.descriptor.primary_key_name.clone()
        {
            self.drop_constraint(oid, &name, false, cascade)?;
        }
        loop {
            let table = self.table_by_oid(oid)?;
            let index = table
                .descriptor
                .indexes
                .iter()
                .position(|index| index.columns.iter().any(|column| column.column == position));
            let Some(index) = index else { break };
            self.check_unreferenced_index(&table, index, cascade)?;
            let mut table = Table::clone(&*self.table_by_oid(oid)?);
            remove_index(&mut table, index);
            self.catalog.put_table(table);
        }
        let table = self.table_by_oid(oid)?;
        let keys: Vec<Oid> = table
            .descriptor
            .foreign_keys
            .iter()
            .filter(|key| key.columns.contains(&position))
            .map(|key| key.oid)
            .collect();
        for key in keys {
            self.remove_foreign_key(oid, key)?;
        }
        let mut table = Table::clone(&*self.table_by_oid(oid)?);
        let uses = |expr: &ScalarExpr| {
            let mut used = std::collections::BTreeSet::new();
            columns_of(expr, &mut used);
            used.contains(&position)
        };
        let keep: Vec<bool> =
            table.descriptor.checks.iter().map(|check| !uses(&check.expr)).collect();
        let mut kept = keep.iter();
        Arc::make_mut(&mut table.descriptor)
            .checks
            .retain(|_| kept.next().copied().unwrap_or(true));
        let mut kept = keep.iter();
        table.check_sql.retain(|_| kept.next().copied().unwrap_or(true));
        self.catalog.put_table(table);
        Ok(())
    }

    fn rename_column(&mut self, oid: Oid, name: &str, to: &str) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        let position = column_position(&table, name)?;
        if table.descriptor.column(to).is_some() {
            return Err(PlanError::new(
                PlanErrorKind::DuplicateColumn,
                format!("column \"{to}\" of relation \"{}\" already exists", table.descriptor.name),
            ));
        }
        self.refuse_under_views(&table, position, "cannot rename a column used by a view")?;
        Arc::make_mut(&mut table.descriptor).columns[position].name = to.to_owned();
        rename_in_options(&mut table, name, to);
        self.catalog.put_table(table);
        Ok(())
    }

    fn rename_view_column(&mut self, oid: Oid, name: &str, to: &str) -> Result<(), PlanError> {
        let Some(view) = self.catalog.views.get(&oid) else { return Ok(()) };
        let mut view = View::clone(view);
        if view.columns.iter().any(|(other, _)| other == to) {
            return Err(PlanError::new(
                PlanErrorKind::DuplicateColumn,
                format!("column \"{to}\" of relation \"{}\" already exists", view.name),
            ));
        }
        match view.columns.iter_mut().find(|(other, _)| other == name) {
            Some(column) => column.0 = to.to_owned(),
            None => {
                return Err(PlanError::new(
                    PlanErrorKind::UndefinedColumn,
                    format!("column \"{name}\" does not exist"),
                ));
            }
        }
        if !self.views_on(oid).is_empty() {
            return Err(PlanError::unsupported(
                "cannot rename a column of a view that another view uses",
                "Drop the other view, rename the column, and create the view again.",
            ));
        }
        self.catalog.put_view(view);
        Ok(())
    }

    fn rename(&mut self, oid: Oid, to: &str) -> Result<(), PlanError> {
        let Some((schema, from)) = crate::catalog::deparse::relation_parts(&self.catalog, oid)
        else {
            return Ok(());
        };
        let schema_name =
            self.catalog.schemas.get(&schema).map(|s| s.name.clone()).unwrap_or_default();
        if self.catalog.names.contains_key(&(schema, to.to_owned())) {
            return Err(PlanError::new(
                PlanErrorKind::DuplicateTable,
                format!("relation \"{to}\" already exists"),
            ));
        }
        self.rename_in_views(oid, (&schema_name, &from), (&schema_name, to))?;
        if self.catalog.tables.contains_key(&oid) {
            let mut table = self.next_version(oid)?;
            Arc::make_mut(&mut table.descriptor).name = to.to_owned();
            self.catalog.put_table(table);
        } else if let Some(view) = self.catalog.views.get(&oid) {
            let view = View { name: to.to_owned(), ..View::clone(view) };
            self.catalog.put_view(view);
        } else if let Some(sequence) = self.catalog.sequences.get(&oid) {
            let sequence = Sequence { name: to.to_owned(), ..Sequence::clone(sequence) };
            self.catalog.put_sequence(sequence);
        } else if let Some((table, index)) = self.catalog.index(oid) {
            let table = table.descriptor.oid;
            self.rename_index(table, index, to)?;
        }
        Ok(())
    }

    /// Renames an index and the constraint it backs. `None` is the primary key.
    pub(super) fn rename_index(
        &mut self,
        table: Oid,
        index: Option<usize>,
        to: &str,
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(table)?;
        let descriptor = Arc::make_mut(&mut table.descriptor);
        match index {
            None => descriptor.primary_key_name = Some(to.to_owned()),
            Some(index) => {
                descriptor.indexes[index].name = to.to_owned();
                for (_, name, position) in &mut table.unique_constraints {
                    if *position == index {
                        *name = to.to_owned();
                    }
                }
            }
        }
        self.catalog.put_table(table);
        Ok(())
    }

    fn set_owner(&mut self, oid: Oid, role: &str) -> Result<(), PlanError> {
        let owner = self.role(role)?;
        if let Some(table) = self.catalog.tables.get(&oid) {
            let table = Table { owner, ..Table::clone(table) };
            self.catalog.put_table(table);
            for sequence in self.owned_sequences(oid) {
                self.set_owner(sequence, role)?;
            }
        } else if let Some(view) = self.catalog.views.get(&oid) {
            let view = View { owner, ..View::clone(view) };
            self.catalog.put_view(view);
        } else if let Some(sequence) = self.catalog.sequences.get(&oid) {
            let sequence = Sequence { owner, ..Sequence::clone(sequence) };
            self.catalog.put_sequence(sequence);
        }
        Ok(())
    }

    fn set_schema(&mut self, oid: Oid, kind: ObjectKind, to: &str) -> Result<(), PlanError> {
        let Some((from, name)) = crate::catalog::deparse::relation_parts(&self.catalog, oid) else {
            return Ok(());
        };
        let qualified =
            QualifiedName { schema: Some(to.to_owned()), name: name.clone(), position: None };
        let schema = self.creation_schema(&qualified)?;
        if schema.oid == from {
            return Ok(());
        }
        if kind == ObjectKind::Index {
            return Err(PlanError::unsupported(
                "an index is in its table's schema",
                "Move the table.",
            ));
        }
        self.check_free(oid, &schema)?;
        self.check_home(oid, &schema)?;
        let from_name =
            self.catalog.schemas.get(&from).map(|schema| schema.name.clone()).unwrap_or_default();
        self.rename_in_views(oid, (&from_name, &name), (&schema.name, &name))?;
        self.move_to_schema(oid, &schema)
    }

    /// What is on the home shard of its schema must be on that of the other one: schemas move with all they have.
    fn check_home(&self, oid: Oid, schema: &Schema) -> Result<(), PlanError> {
        let of_table =
            self.catalog.tables.get(&oid).and_then(|table| match &table.descriptor.placement {
                Placement::Home(home) => Some(*home),
                Placement::Reference(_) => table.descriptor.primary_copy(),
                Placement::Hash { .. } | Placement::Range { .. } => None,
            });
        let sequences = self.owned_sequences(oid).into_iter().chain([oid]);
        let sequences = sequences.filter_map(|oid| self.catalog.sequences.get(&oid));
        let mut homes = sequences.map(|sequence| sequence.home).chain(of_table);
        if homes.all(|home| home == schema.home) {
            return Ok(());
        }
        Err(PlanError::unsupported(
            format!("the home of schema \"{}\" is another shard", schema.name),
            format!(
                "Give both schemas one home first: SELECT cortex.move_schema('{}', shard).",
                schema.name
            ),
        ))
    }

    /// None of the relation's names may be taken in the schema.
    fn check_free(&self, oid: Oid, schema: &Schema) -> Result<(), PlanError> {
        let names = match self.catalog.tables.get(&oid) {
            Some(table) => table.relation_names().into_iter().map(|(_, name)| name).collect(),
            None => crate::catalog::deparse::relation_parts(&self.catalog, oid)
                .map(|(_, name)| vec![name])
                .unwrap_or_default(),
        };
        for name in names {
            if self.catalog.names.contains_key(&(schema.oid, name.clone())) {
                return Err(PlanError::new(
                    PlanErrorKind::DuplicateTable,
                    format!("relation \"{name}\" already exists in schema \"{}\"", schema.name),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn move_to_schema(&mut self, oid: Oid, schema: &Schema) -> Result<(), PlanError> {
        if self.catalog.tables.contains_key(&oid) {
            let mut table = self.next_version(oid)?;
            // The old names are those of the old schema.
            self.catalog.forget_table_names(oid);
            table.schema = schema.oid;
            Arc::make_mut(&mut table.descriptor).schema.clone_from(&schema.name);
            self.catalog.put_table(table);
            for sequence in self.owned_sequences(oid) {
                self.move_to_schema(sequence, schema)?;
            }
        } else if let Some(view) = self.catalog.views.get(&oid) {
            let view = View { schema: schema.oid, ..View::clone(view) };
            self.catalog.put_view(view);
        } else if let Some(sequence) = self.catalog.sequences.get(&oid) {
            let sequence = Sequence { schema: schema.oid, ..Sequence::clone(sequence) };
            self.catalog.put_sequence(sequence);
        }
        Ok(())
    }

    /// SET (...): parameters of Postgres are kept; `shard_by` moves the rows.
    fn set_options(&mut self, oid: Oid, options: &[(String, String)]) -> Result<(), PlanError> {
        check_options(options)?;
        let mut table = self.next_version(oid)?;
        let from = table.descriptor.clone();
        let mut moves = false;
        for (name, value) in options {
            moves |= matches!(name.as_str(), "shard_by" | "colocate_with" | "split_at");
            table.options.retain(|(other, _)| other != name);
            if name == "shard_by" {
                // What belonged to the old kind goes with it, unless it is given anew.
                table.options.retain(|(other, _)| {
                    !matches!(other.as_str(), "colocate_with" | "split_at")
                        || options.iter().any(|(given, _)| given == other)
                });
            }
            table.options.push((name.clone(), value.clone()));
        }
        if !moves {
            self.catalog.put_table(table);
            return Ok(());
        }
        self.catalog.put_table(table.clone());
        self.place(&mut table)?;
        let splits = options.iter().any(|(name, _)| name == "split_at");
        if is_same_kind(&from, &table.descriptor, splits) {
            Arc::make_mut(&mut table.descriptor).placement = from.placement.clone();
            self.catalog.put_table(table);
            self.catalog.drop_unused_groups();
            return Ok(());
        }
        self.move_rows(from, table)
    }

    /// Rows go to where the changed table says, under fresh storage.
    pub(super) fn move_rows(
        &mut self,
        from: Arc<TableDescriptor>,
        mut table: Table,
    ) -> Result<(), PlanError> {
        self.move_storage(&mut table)?;
        let oid = table.descriptor.oid;
        self.work.push(Work::Convert {
            from,
            to: table.descriptor.clone(),
            columns: same_columns(&table.descriptor),
        });
        self.catalog.put_table(table);
        self.catalog.drop_unused_groups();
        // Tables that refer to this one must still find it.
        for child in self.table_by_oid(oid)?.descriptor.referenced_by.clone() {
            let child = self.table_by_oid(child)?;
            for key in child.descriptor.foreign_keys.iter().filter(|key| key.parent == oid) {
                self.foreign_key_fits(&child.descriptor, key)?;
            }
        }
        Ok(())
    }

    fn reset_options(&mut self, oid: Oid, names: &[String]) -> Result<(), PlanError> {
        if names
            .iter()
            .any(|name| matches!(name.as_str(), "shard_by" | "colocate_with" | "split_at"))
        {
            return Err(PlanError::unsupported(
                "the placement of a table cannot be reset",
                "SET (shard_by = 'none') brings it to its home shard.",
            ));
        }
        let mut table = self.next_version(oid)?;
        table.options.retain(|(name, _)| !names.contains(name));
        self.catalog.put_table(table);
        Ok(())
    }

    /// Whether the keys fit the placement. A table that the user did not shard comes home for a key that does not fit.
    pub(super) fn settle_keys(&mut self, table: &mut Table) -> Result<(), PlanError> {
        let Err(error) = check_keys(&table.descriptor) else { return Ok(()) };
        if table.option("shard_by").is_some()
            || !matches!(table.descriptor.placement, Placement::Hash { .. })
        {
            return Err(error);
        }
        let oid = table.descriptor.oid;
        self.bring_family_home(oid)?;
        table.descriptor = self.with_storage_of(oid, &table.descriptor)?;
        Ok(())
    }

    /// A changed descriptor with the placement and storage that the catalog's version of the table has now.
    fn with_storage_of(
        &self,
        oid: Oid,
        changed: &TableDescriptor,
    ) -> Result<Arc<TableDescriptor>, PlanError> {
        let now = self.table_by_oid(oid)?;
        let mut descriptor = changed.clone();
        descriptor.placement = now.descriptor.placement.clone();
        descriptor.storage = now.descriptor.storage;
        for (index, moved) in descriptor.indexes.iter_mut().zip(&now.descriptor.indexes) {
            index.storage = moved.storage;
        }
        descriptor.version = now.descriptor.version + 1;
        Ok(Arc::new(descriptor))
    }
}

/// The shard key is kept by name in the options.
fn rename_in_options(table: &mut Table, from: &str, to: &str) {
    let quote = crate::catalog::deparse::quote;
    for (name, value) in &mut table.options {
        if name != "shard_by" {
            continue;
        }
        let Some((kind, columns)) = value.split_once('(') else { continue };
        let renamed: Vec<String> = columns
            .trim_end_matches(')')
            .split(',')
            .map(|column| {
                let column = column.trim();
                let same = column.trim_matches('"') == from || column == quote(from);
                if same { quote(to) } else { column.to_owned() }
            })
            .collect();
        *value = format!("{kind}({})", renamed.join(", "));
    }
}
