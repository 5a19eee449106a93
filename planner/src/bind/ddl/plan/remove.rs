//! DROP: what goes, and what depends on it.
//!
//! Postgres's rules for the objects we have: a view depends on what it reads, a foreign key on its parent table, a default
//! on the sequence it takes values from; a column's own sequence, indexes, constraints and comments go with it.

use std::{collections::BTreeSet, sync::Arc};

use cortex_shard_api::Oid;

use super::{Ddl, Work, sequence::nextval_sequence};
use crate::{
    PlanError, PlanErrorKind,
    bind::ddl::{Drop, ObjectKind, QualifiedName},
    catalog::{
        Relation, Table,
        edit::{PUBLIC, SUPERUSER},
    },
};

/// Dependents named in a DETAIL at most.
const DEPENDENTS_SHOWN_MAX: usize = 100;

/// Something that cannot stay without what is dropped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Dependent {
    View(Oid),
    /// (child table, constraint)
    ForeignKey(Oid, Oid),
    /// (table, column position)
    Default(Oid, usize),
}

impl Ddl<'_> {
    pub(super) fn drop_objects(&mut self, command: &Drop) -> Result<(), PlanError> {
        match command.kind {
            ObjectKind::Schema => return self.drop_schemas(command),
            ObjectKind::Role => return self.drop_roles(command),
            ObjectKind::Extension => return self.drop_extensions(command),
            ObjectKind::Index => return self.drop_indexes(command),
            ObjectKind::Table | ObjectKind::View | ObjectKind::Sequence => {}
        }
        let mut targets = Vec::new();
        for name in &command.names {
            if let Some(oid) = self.find_to_drop(name, command)? {
                targets.push(oid);
            }
        }
        self.drop_relations(&targets, command.cascade)
    }

    fn find_to_drop(
        &mut self,
        name: &QualifiedName,
        command: &Drop,
    ) -> Result<Option<Oid>, PlanError> {
        let word = command.kind.word();
        if command.if_exists
            && let Some(schema) = &name.schema
            && self.catalog.schema_by_name(schema).is_none()
        {
            self.notice("00000", format!("schema \"{schema}\" does not exist, skipping"));
            return Ok(None);
        }
        match self.lookup(name)? {
            Some(oid) if self.kind_of(oid) == command.kind => Ok(Some(oid)),
            Some(oid) => Err(self.wrong_kind(oid, &name.name, command.kind)),
            None if command.if_exists => {
                self.notice("00000", format!("{word} \"{}\" does not exist, skipping", name.name));
                Ok(None)
            }
            None => Err(PlanError::new(
                if command.kind == ObjectKind::Index {
                    PlanErrorKind::UndefinedObject
                } else {
                    PlanErrorKind::UndefinedTable
                },
                format!("{word} \"{name}\" does not exist"),
            )),
        }
    }

    /// Drops tables, views and sequences together, so that they may depend on each other.
    pub(super) fn drop_relations(
        &mut self,
        targets: &[Oid],
        cascade: bool,
    ) -> Result<(), PlanError> {
        let mut going: BTreeSet<Oid> = targets.iter().copied().collect();
        let mut lines = Vec::new();
        let mut dependents: Vec<Dependent> = Vec::new();
        let mut queue: Vec<Oid> = targets.to_vec();
        while let Some(oid) = queue.pop() {
            for sequence in self.owned_sequences(oid) {
                if going.insert(sequence) {
                    queue.push(sequence);
                }
            }
            for dependent in self.dependents(oid) {
                let gone = match &dependent {
                    Dependent::View(oid) => going.contains(oid),
                    Dependent::ForeignKey(table, _) | Dependent::Default(table, _) => {
                        going.contains(table)
                    }
                };
                if gone || dependents.contains(&dependent) {
                    continue;
                }
                lines.push((self.describe(&dependent), self.describe_relation(oid)));
                if let Dependent::View(view) = dependent {
                    going.insert(view);
                    queue.push(view);
                }
                dependents.push(dependent);
            }
        }
        // What became a target after it was noted goes with the target.
        if !lines.is_empty() {
            self.dependents_found(&lines, cascade, targets)?;
        }
        for dependent in &dependents {
            match dependent {
                Dependent::ForeignKey(table, key) if !going.contains(table) => {
                    self.remove_foreign_key(*table, *key)?;
                }
                Dependent::Default(table, column) if !going.contains(table) => {
                    let mut table = Table::clone(&*self.table_by_oid(*table)?);
                    table.columns[*column].default = None;
                    self.catalog.put_table(table);
                }
                _ => {}
            }
        }
        for oid in going {
            if let Some(table) = self.catalog.tables.get(&oid) {
                self.work.push(Work::Lock(table.descriptor.clone()));
            }
            self.catalog.remove_table(oid);
            self.catalog.remove_view(oid);
            self.catalog.remove_sequence(oid);
        }
        Ok(())
    }

    fn dependents_found(
        &mut self,
        lines: &[(String, String)],
        cascade: bool,
        targets: &[Oid],
    ) -> Result<(), PlanError> {
        if cascade {
            if let [(what, _)] = lines {
                self.notice("00000", format!("drop cascades to {what}"));
            } else {
                self.notice("00000", format!("drop cascades to {} other objects", lines.len()));
                if let Some(notice) = self.notices.last_mut() {
                    let detail: Vec<String> =
                        lines.iter().map(|(what, _)| format!("drop cascades to {what}")).collect();
                    notice.detail = Some(detail.join("\n"));
                }
            }
            return Ok(());
        }
        let message = match targets {
            [target] => format!(
                "cannot drop {} because other objects depend on it",
                self.describe_relation(*target)
            ),
            _ => "cannot drop desired object(s) because other objects depend on them".to_owned(),
        };
        let detail: Vec<String> = lines
            .iter()
            .take(DEPENDENTS_SHOWN_MAX)
            .map(|(what, on)| format!("{what} depends on {on}"))
            .collect();
        Err(PlanError::new(PlanErrorKind::DependentObjects, message)
            .with_detail(detail.join("\n"))
            .with_hint("Use DROP ... CASCADE to drop the dependent objects too."))
    }

    /// Views, foreign keys and defaults that need a relation.
    fn dependents(&self, oid: Oid) -> Vec<Dependent> {
        let mut dependents = Vec::new();
        for table in self.catalog.tables.values() {
            for (column, extra) in table.columns.iter().enumerate() {
                let uses = extra
                    .default
                    .as_ref()
                    .is_some_and(|default| nextval_sequence(&default.expr) == Some(oid));
                if uses {
                    dependents.push(Dependent::Default(table.descriptor.oid, column));
                }
            }
            for key in &table.descriptor.foreign_keys {
                if key.parent == oid && table.descriptor.oid != oid {
                    dependents.push(Dependent::ForeignKey(table.descriptor.oid, key.oid));
                }
            }
        }
        for view in self.catalog.views.values() {
            if view.depends_on.contains(&oid) && view.oid != oid {
                dependents.push(Dependent::View(view.oid));
            }
        }
        dependents
    }

    pub(super) fn owned_sequences(&self, table: Oid) -> Vec<Oid> {
        self.catalog
            .sequences
            .values()
            .filter(|sequence| sequence.owned_by.is_some_and(|(owner, _)| owner == table))
            .map(|sequence| sequence.oid)
            .collect()
    }

    /// Views that read a relation.
    pub(super) fn views_on(&self, oid: Oid) -> Vec<Oid> {
        let views = self.catalog.views.values();
        views.filter(|view| view.depends_on.contains(&oid)).map(|view| view.oid).collect()
    }

    fn describe(&self, dependent: &Dependent) -> String {
        match dependent {
            Dependent::View(oid) => self.describe_relation(*oid),
            Dependent::ForeignKey(table, key) => {
                let table = self.catalog.tables.get(table);
                let name = table.and_then(|table| {
                    table.descriptor.foreign_keys.iter().find(|other| other.oid == *key)
                });
                format!(
                    "constraint {} on {}",
                    name.map_or("", |key| &key.name),
                    table.map_or(String::new(), |table| self
                        .describe_relation(table.descriptor.oid))
                )
            }
            Dependent::Default(table, column) => {
                let name = self
                    .catalog
                    .tables
                    .get(table)
                    .map_or("", |table| table.descriptor.columns[*column].name.as_str());
                format!("default value for column {name} of {}", self.describe_relation(*table))
            }
        }
    }

    /// `table t`, `view s.v`: qualified where the search path does not find it.
    pub(super) fn describe_relation(&self, oid: Oid) -> String {
        let (schema, name) = match self.catalog.relation_by_oid(oid) {
            Some(Relation::Table(table)) => (table.schema, table.descriptor.name.clone()),
            Some(Relation::View(view)) => (view.schema, view.name.clone()),
            Some(Relation::Sequence(sequence)) => (sequence.schema, sequence.name.clone()),
            Some(Relation::System(_)) | None => match self.catalog.index(oid) {
                Some((table, _)) => {
                    let names = table.relation_names();
                    let name = names.into_iter().find(|(index, _)| *index == oid);
                    (table.schema, name.map_or(String::new(), |(_, name)| name))
                }
                None => return format!("relation {oid}"),
            },
        };
        let word = self.kind_of(oid).word();
        let visible = self.env.search_path.iter().find_map(|path| {
            let schema = self.catalog.schema_by_name(path)?;
            self.catalog.names.get(&(schema.oid, name.clone()))
        });
        let schema = self.catalog.schemas.get(&schema);
        match schema {
            Some(schema) if visible != Some(&oid) => format!("{word} {}.{name}", schema.name),
            _ => format!("{word} {name}"),
        }
    }

    pub(super) fn remove_foreign_key(&mut self, table: Oid, key: Oid) -> Result<(), PlanError> {
        let mut table = Table::clone(&*self.table_by_oid(table)?);
        self.work.push(Work::Lock(table.descriptor.clone()));
        let descriptor = Arc::make_mut(&mut table.descriptor);
        let parent =
            descriptor.foreign_keys.iter().find(|other| other.oid == key).map(|k| k.parent);
        descriptor.foreign_keys.retain(|other| other.oid != key);
        descriptor.version += 1;
        self.catalog.put_table(table);
        self.catalog.comments.retain(|comment, _| comment.object != key);
        if let Some(parent) = parent {
            self.catalog.refresh_referenced_by(parent);
        }
        Ok(())
    }

    fn drop_indexes(&mut self, command: &Drop) -> Result<(), PlanError> {
        for name in &command.names {
            let Some(oid) = self.find_to_drop(name, command)? else { continue };
            let Some((table, position)) = self.catalog.index(oid) else { continue };
            let table = table.clone();
            let constraint = match position {
                None => table.descriptor.primary_key_name.clone(),
                Some(position) => {
                    table.descriptor.indexes[position].constraint.then(|| name.name.clone())
                }
            };
            if let Some(constraint) = constraint {
                let relation = self.describe_relation(table.descriptor.oid);
                return Err(PlanError::new(
                    PlanErrorKind::DependentObjects,
                    format!(
                        "cannot drop {} because constraint {constraint} on {relation} requires it",
                        self.describe_relation(oid)
                    ),
                )
                .with_hint(format!(
                    "You can drop constraint {constraint} on {relation} instead."
                )));
            }
            let Some(position) = position else { continue };
            self.check_unreferenced_index(&table, position, command.cascade)?;
            let mut table = Table::clone(&*self.table_by_oid(table.descriptor.oid)?);
            self.work.push(Work::Lock(table.descriptor.clone()));
            remove_index(&mut table, position);
            self.catalog.put_table(table);
        }
        Ok(())
    }

    /// Foreign keys may rest on a unique index of the parent.
    pub(super) fn check_unreferenced_index(
        &mut self,
        table: &Table,
        position: usize,
        cascade: bool,
    ) -> Result<(), PlanError> {
        let index = &table.descriptor.indexes[position];
        let columns: BTreeSet<usize> = index.columns.iter().map(|column| column.column).collect();
        if !index.unique {
            return Ok(());
        }
        let mut others: Vec<BTreeSet<usize>> =
            vec![table.descriptor.primary_key.iter().copied().collect()];
        for (other, index) in table.descriptor.indexes.iter().enumerate() {
            if other != position && index.unique {
                others.push(index.columns.iter().map(|column| column.column).collect());
            }
        }
        if others.contains(&columns) {
            return Ok(());
        }
        self.drop_foreign_keys_on(table, &columns, &format!("index {}", index.name), cascade)
    }

    /// Foreign keys that refer to these columns of the table: 2BP01, or dropped with CASCADE.
    pub(super) fn drop_foreign_keys_on(
        &mut self,
        table: &Table,
        columns: &BTreeSet<usize>,
        what: &str,
        cascade: bool,
    ) -> Result<(), PlanError> {
        let mut keys = Vec::new();
        for child in self.catalog.tables.values() {
            for key in &child.descriptor.foreign_keys {
                let parent_columns: BTreeSet<usize> = key.parent_columns.iter().copied().collect();
                if key.parent == table.descriptor.oid && parent_columns == *columns {
                    keys.push((child.descriptor.oid, key.oid, key.name.clone()));
                }
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        if !cascade {
            let detail: Vec<String> = keys
                .iter()
                .map(|(child, _, name)| {
                    format!(
                        "constraint {name} on {} depends on {what}",
                        self.describe_relation(*child)
                    )
                })
                .collect();
            return Err(PlanError::new(
                PlanErrorKind::DependentObjects,
                format!("cannot drop {what} because other objects depend on it"),
            )
            .with_detail(detail.join("\n"))
            .with_hint("Use DROP ... CASCADE to drop the dependent objects too."));
        }
        for (child, key, name) in keys {
            let relation = self.describe_relation(child);
            self.notice("00000", format!("drop cascades to constraint {name} on {relation}"));
            self.remove_foreign_key(child, key)?;
        }
        Ok(())
    }

    fn drop_schemas(&mut self, command: &Drop) -> Result<(), PlanError> {
        for name in &command.names {
            let Some(schema) = self.catalog.schema_by_name(&name.name).cloned() else {
                if command.if_exists {
                    self.notice(
                        "00000",
                        format!("schema \"{}\" does not exist, skipping", name.name),
                    );
                    continue;
                }
                return Err(PlanError::new(
                    PlanErrorKind::UndefinedSchema,
                    format!("schema \"{}\" does not exist", name.name),
                ));
            };
            if super::is_system_schema(schema.oid) {
                return Err(PlanError::new(
                    PlanErrorKind::DependentObjects,
                    format!(
                        "cannot drop schema {} because it is required by the database system",
                        schema.name
                    ),
                ));
            }
            let inside: Vec<Oid> = self
                .catalog
                .names
                .range((schema.oid, String::new())..)
                .take_while(|((owner, _), _)| *owner == schema.oid)
                .map(|(_, oid)| *oid)
                .filter(|oid| !self.catalog.index_tables.contains_key(oid))
                .collect();
            if !inside.is_empty() {
                let lines: Vec<(String, String)> = inside
                    .iter()
                    .filter(|oid| {
                        self.catalog.sequences.get(oid).is_none_or(|s| s.owned_by.is_none())
                    })
                    .map(|oid| (self.describe_relation(*oid), format!("schema {}", schema.name)))
                    .collect();
                if !command.cascade {
                    let detail: Vec<String> =
                        lines.iter().map(|(what, on)| format!("{what} depends on {on}")).collect();
                    return Err(PlanError::new(
                        PlanErrorKind::DependentObjects,
                        format!(
                            "cannot drop schema {} because other objects depend on it",
                            schema.name
                        ),
                    )
                    .with_detail(detail.join("\n"))
                    .with_hint("Use DROP ... CASCADE to drop the dependent objects too."));
                }
                self.dependents_found(&lines, true, &inside)?;
                let notices = self.notices.len();
                self.drop_relations(&inside, true)?;
                // What depends from other schemas was said by the drop itself.
                self.notices.truncate(self.notices.len().max(notices));
            }
            self.catalog.schemas.remove(&schema.oid);
            self.catalog.comments.retain(|key, _| key.object != schema.oid || schema.oid == PUBLIC);
        }
        Ok(())
    }

    fn drop_roles(&mut self, command: &Drop) -> Result<(), PlanError> {
        for name in &command.names {
            let Some(role) = self.catalog.role_by_name(&name.name).cloned() else {
                if command.if_exists {
                    self.notice(
                        "00000",
                        format!("role \"{}\" does not exist, skipping", name.name),
                    );
                    continue;
                }
                return Err(PlanError::new(
                    PlanErrorKind::UndefinedObject,
                    format!("role \"{}\" does not exist", name.name),
                ));
            };
            if role.oid == self.env.current_role {
                return Err(PlanError::new(
                    PlanErrorKind::Unsupported,
                    "current user cannot be dropped",
                ));
            }
            let owned = self.owned_by_role(role.oid);
            if role.oid == SUPERUSER || !owned.is_empty() {
                let detail = if role.oid == SUPERUSER {
                    "It is required by the database system.".to_owned()
                } else {
                    owned.join("\n")
                };
                return Err(PlanError::new(
                    PlanErrorKind::DependentObjects,
                    format!(
                        "role \"{}\" cannot be dropped because some objects depend on it",
                        role.name
                    ),
                )
                .with_detail(detail));
            }
            self.catalog.roles.remove(&role.oid);
            self.catalog.comments.retain(|key, _| key.object != role.oid);
        }
        Ok(())
    }

    fn owned_by_role(&self, role: Oid) -> Vec<String> {
        let catalog = &self.catalog;
        let relations = catalog
            .tables
            .values()
            .filter(|table| table.owner == role)
            .map(|table| table.descriptor.oid)
            .chain(catalog.views.values().filter(|view| view.owner == role).map(|view| view.oid))
            .chain(catalog.sequences.values().filter(|s| s.owner == role).map(|s| s.oid));
        let schemas = catalog
            .schemas
            .values()
            .filter(|schema| schema.owner == role)
            .map(|schema| format!("owner of schema {}", schema.name));
        relations
            .map(|oid| format!("owner of {}", self.describe_relation(oid)))
            .chain(schemas)
            .collect()
    }

    fn drop_extensions(&mut self, command: &Drop) -> Result<(), PlanError> {
        for name in &command.names {
            if name.name == "plpgsql" {
                return Err(PlanError::unsupported(
                    "extension \"plpgsql\" cannot be dropped",
                    "It is part of every database.",
                ));
            }
            let message = format!("extension \"{}\" does not exist", name.name);
            if !command.if_exists {
                return Err(PlanError::new(PlanErrorKind::UndefinedObject, message));
            }
            self.notice("00000", format!("{message}, skipping"));
        }
        Ok(())
    }
}

/// Takes an index off a table and moves the positions behind it.
pub(super) fn remove_index(table: &mut Table, position: usize) {
    let descriptor = Arc::make_mut(&mut table.descriptor);
    descriptor.indexes.remove(position);
    descriptor.version += 1;
    table.unique_constraints.retain(|(_, _, index)| *index != position);
    for (_, _, index) in &mut table.unique_constraints {
        if *index > position {
            *index -= 1;
        }
    }
}
