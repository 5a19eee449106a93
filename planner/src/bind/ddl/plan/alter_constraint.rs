//! ADD and DROP CONSTRAINT: on tables with rows.

use std::{collections::BTreeSet, sync::Arc};

use cortex_shard_api::{Oid, descriptor::Placement};

use super::{Ddl, DefaultShardBy, Work, placement::check_keys, remove::remove_index};
use crate::{
    PlanError, PlanErrorKind,
    bind::ddl::{ConstraintDefinition, ConstraintKind, SourceExpr},
    catalog::Table,
};

impl Ddl<'_> {
    pub(super) fn add_constraint(
        &mut self,
        oid: Oid,
        definition: &ConstraintDefinition,
    ) -> Result<(), PlanError> {
        let name = definition.name.as_deref();
        match &definition.kind {
            ConstraintKind::PrimaryKey { columns } => self.add_primary_key(oid, name, columns),
            ConstraintKind::Unique { columns } => {
                let mut table = self.next_version(oid)?;
                let index = self.add_unique(&mut table, name, columns)?;
                self.settle_keys(&mut table)?;
                self.work.push(Work::BuildIndex { table: table.descriptor.clone(), index });
                self.catalog.put_table(table);
                Ok(())
            }
            ConstraintKind::Check(check) => self.add_check_to(oid, name, check, None),
            ConstraintKind::ForeignKey { .. } => self.add_foreign_key_to(oid, definition),
            ConstraintKind::UsingIndex { index, primary } => {
                self.add_using_index(oid, name, index, *primary)
            }
        }
    }

    /// The rows get another key, so they are written anew.
    fn add_primary_key(
        &mut self,
        oid: Oid,
        name: Option<&str>,
        columns: &[String],
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        let from = table.descriptor.clone();
        let nullable: Vec<usize> = columns
            .iter()
            .filter_map(|name| table.descriptor.column(name))
            .filter(|position| !table.descriptor.columns[*position].not_null)
            .collect();
        self.set_primary_key(&mut table, name, columns)?;
        for position in nullable {
            self.verify_not_null(&table, position);
        }
        let home = matches!(table.descriptor.placement, Placement::Home(_));
        if home
            && table.option("shard_by").is_none()
            && self.env.default_shard_by == DefaultShardBy::PrimaryKey
            && table.descriptor.referenced_by.is_empty()
        {
            self.place(&mut table)?;
            if !matches!(table.descriptor.placement, Placement::Home(_)) {
                return self.move_rows(from, table);
            }
        }
        check_keys(&table.descriptor)?;
        self.move_storage(&mut table)?;
        self.work.push(Work::Rewrite { from, to: table.descriptor.clone() });
        self.catalog.put_table(table);
        Ok(())
    }

    pub(super) fn add_check_to(
        &mut self,
        oid: Oid,
        name: Option<&str>,
        check: &SourceExpr,
        column: Option<&str>,
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        let position = self.add_check(&mut table, name, check, column)?;
        self.verify_check(&table, position);
        self.catalog.put_table(table);
        Ok(())
    }

    fn add_foreign_key_to(
        &mut self,
        oid: Oid,
        definition: &ConstraintDefinition,
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        let position = self.add_foreign_key(&mut table, definition)?;
        let key = table.descriptor.foreign_keys[position].clone();
        if key.parent != oid {
            let parent = self.table_by_oid(key.parent)?;
            self.work.push(Work::Lock(parent.descriptor.clone()));
        }
        self.catalog.put_table(table.clone());
        self.catalog.refresh_referenced_by(key.parent);
        if let Err(error) = self.foreign_key_fits(&table.descriptor, &key) {
            // Neither side was sharded by the user's word: both come home.
            if self.bring_family_home(oid).is_err() {
                return Err(error);
            }
        }
        let table = self.table_by_oid(oid)?;
        self.foreign_key_fits(&table.descriptor, &key)?;
        self.verify_foreign_key(&table, position)
    }

    fn add_using_index(
        &mut self,
        oid: Oid,
        name: Option<&str>,
        index: &str,
        primary: bool,
    ) -> Result<(), PlanError> {
        let table = self.table_by_oid(oid)?;
        let position = table.descriptor.indexes.iter().position(|other| other.name == index);
        let Some(position) = position else {
            return Err(PlanError::new(
                PlanErrorKind::UndefinedObject,
                format!("index \"{index}\" does not exist"),
            ));
        };
        let found = &table.descriptor.indexes[position];
        if !found.unique || found.constraint || found.columns.iter().any(|c| c.descending) {
            return Err(PlanError::new(
                PlanErrorKind::WrongObjectType,
                format!("\"{index}\" is not a plain unique index"),
            )
            .with_detail("Cannot create a primary key or unique constraint using such an index."));
        }
        let columns: Vec<String> = found
            .columns
            .iter()
            .map(|column| table.descriptor.columns[column.column].name.clone())
            .collect();
        let name = name.unwrap_or(index);
        if primary {
            let mut without = Table::clone(&table);
            remove_index(&mut without, position);
            self.catalog.put_table(without);
            return self.add_primary_key(oid, Some(name), &columns);
        }
        let mut table = self.next_version(oid)?;
        self.check_constraint_name(&table, name)?;
        Arc::make_mut(&mut table.descriptor).indexes[position].constraint = true;
        table.unique_constraints.push((self.catalog.ids.oid()?, name.to_owned(), position));
        self.catalog.put_table(table);
        if name != index {
            self.rename_index(oid, Some(position), name)?;
        }
        Ok(())
    }

    pub(super) fn drop_constraint(
        &mut self,
        oid: Oid,
        name: &str,
        if_exists: bool,
        cascade: bool,
    ) -> Result<(), PlanError> {
        let table = self.table_by_oid(oid)?;
        let descriptor = &table.descriptor;
        if descriptor.primary_key_name.as_deref() == Some(name) {
            return self.drop_primary_key(&table, name, cascade);
        }
        if let Some((_, _, index)) = table.unique_constraints.iter().find(|(_, n, _)| n == name) {
            let index = *index;
            self.check_unreferenced_index(&table, index, cascade)?;
            let mut table = Table::clone(&*self.table_by_oid(oid)?);
            remove_index(&mut table, index);
            self.catalog.put_table(table);
            return Ok(());
        }
        if let Some(position) = descriptor.checks.iter().position(|check| check.name == name) {
            let mut table = self.next_version(oid)?;
            Arc::make_mut(&mut table.descriptor).checks.remove(position);
            table.check_sql.remove(position);
            self.catalog.put_table(table);
            return Ok(());
        }
        if let Some(key) = descriptor.foreign_keys.iter().find(|key| key.name == name) {
            return self.remove_foreign_key(oid, key.oid);
        }
        let message =
            format!("constraint \"{name}\" of relation \"{}\" does not exist", descriptor.name);
        if if_exists {
            self.notice("00000", format!("{message}, skipping"));
            return Ok(());
        }
        Err(PlanError::new(PlanErrorKind::UndefinedObject, message))
    }

    fn drop_primary_key(
        &mut self,
        table: &Table,
        name: &str,
        cascade: bool,
    ) -> Result<(), PlanError> {
        let oid = table.descriptor.oid;
        let columns: BTreeSet<usize> = table.descriptor.primary_key.iter().copied().collect();
        let what = format!("constraint {name} on {}", self.describe_relation(oid));
        self.drop_foreign_keys_on(table, &columns, &what, cascade)?;
        let mut table = self.next_version(oid)?;
        let from = table.descriptor.clone();
        let descriptor = Arc::make_mut(&mut table.descriptor);
        descriptor.primary_key.clear();
        descriptor.primary_key_name = None;
        table.primary_key_oids = None;
        let by_default = table.option("shard_by").is_none()
            && matches!(table.descriptor.placement, Placement::Hash { .. });
        if by_default {
            // It was sharded by the key that goes.
            let home = self.home_of(&table)?;
            Arc::make_mut(&mut table.descriptor).placement = Placement::Home(home);
            return self.move_rows(from, table);
        }
        self.move_storage(&mut table)?;
        self.work.push(Work::Rewrite { from, to: table.descriptor.clone() });
        self.catalog.put_table(table);
        Ok(())
    }

    pub(super) fn rename_constraint(
        &mut self,
        oid: Oid,
        name: &str,
        to: &str,
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        if table.descriptor.primary_key_name.as_deref() == Some(name) {
            self.check_relation_free(&table, to)?;
            return self.rename_index(oid, None, to);
        }
        if let Some((_, _, index)) = table.unique_constraints.iter().find(|(_, n, _)| n == name) {
            self.check_relation_free(&table, to)?;
            return self.rename_index(oid, Some(*index), to);
        }
        self.check_constraint_name(&table, to)?;
        let descriptor = Arc::make_mut(&mut table.descriptor);
        if let Some(check) = descriptor.checks.iter_mut().find(|check| check.name == name) {
            check.name = to.to_owned();
        } else if let Some(key) = descriptor.foreign_keys.iter_mut().find(|key| key.name == name) {
            key.name = to.to_owned();
        } else {
            return Err(PlanError::new(
                PlanErrorKind::UndefinedObject,
                format!("constraint \"{name}\" for table \"{}\" does not exist", descriptor.name),
            ));
        }
        self.catalog.put_table(table);
        Ok(())
    }

    fn check_relation_free(&self, table: &Table, name: &str) -> Result<(), PlanError> {
        if self.catalog.names.contains_key(&(table.schema, name.to_owned())) {
            return Err(PlanError::new(
                PlanErrorKind::DuplicateTable,
                format!("relation \"{name}\" already exists"),
            ));
        }
        self.check_constraint_name(table, name)
    }

    /// Every constraint is valid: rows are checked when it is added.
    pub(super) fn validate_constraint(&self, oid: Oid, name: &str) -> Result<(), PlanError> {
        let table = self.table_by_oid(oid)?;
        if table.constraint_names().contains(&name) {
            return Ok(());
        }
        Err(PlanError::new(
            PlanErrorKind::UndefinedObject,
            format!(
                "constraint \"{name}\" of relation \"{}\" does not exist",
                table.descriptor.name
            ),
        ))
    }
}
