//! Schemas, roles, comments, grants, extensions.

use std::sync::Arc;

use cortex_shard_api::{Oid, ids::ShardId};

use super::{Ddl, SchemaPlacement, is_system_schema, table::column_position};
use crate::{
    PlanError, PlanErrorKind,
    bind::ddl::{
        AlterAction, CommentTarget, CreateSchema, Grant, ObjectKind, QualifiedName, RoleOptions,
    },
    catalog::{
        CommentKey, Role, Schema,
        edit::{DATABASE, DATABASE_NAME, PUBLIC, SUPERUSER, class},
    },
};

impl Ddl<'_> {
    pub(super) fn create_schema(&mut self, command: &CreateSchema) -> Result<(), PlanError> {
        let owner = match &command.owner {
            Some(owner) => self.role(owner)?,
            None => self.env.current_role,
        };
        let name = &command.name;
        if self.catalog.schema_by_name(name).is_some() {
            let message = format!("schema \"{name}\" already exists");
            if command.if_not_exists {
                self.notice("42P06", format!("{message}, skipping"));
                return Ok(());
            }
            return Err(PlanError::new(PlanErrorKind::DuplicateSchema, message));
        }
        check_schema_name(name)?;
        let home = match command.home {
            Some(home) => {
                let home = ShardId(home);
                if !self.env.shards.contains(&home) {
                    return Err(PlanError::new(
                        PlanErrorKind::InvalidParameterValue,
                        format!("shard {home} does not exist"),
                    )
                    .with_hint("SELECT shard_id FROM cortex.shards lists them."));
                }
                home
            }
            None => self.next_home(),
        };
        let oid = self.catalog.ids.oid()?;
        self.catalog.put_schema(Schema { oid, name: name.clone(), owner, home });
        Ok(())
    }

    fn next_home(&self) -> ShardId {
        let default = self.catalog.schemas.get(&PUBLIC).map(|schema| schema.home);
        // One that is being emptied gets nothing new.
        let default = default.filter(|home| self.env.shards.contains(home));
        let default = default.or(self.env.shards.first().copied()).unwrap_or(ShardId::HOME);
        match self.env.schema_placement {
            SchemaPlacement::Home => default,
            SchemaPlacement::RoundRobin => {
                let users = self.catalog.schemas.keys().filter(|oid| !is_system_schema(**oid));
                let place = users.count() % self.env.shards.len().max(1);
                self.env.shards.get(place).copied().unwrap_or(default)
            }
        }
    }

    pub(super) fn rename_schema(&mut self, name: &str, to: &str) -> Result<(), PlanError> {
        let schema = self.schema(name)?;
        if self.catalog.schema_by_name(to).is_some() {
            return Err(PlanError::new(
                PlanErrorKind::DuplicateSchema,
                format!("schema \"{to}\" already exists"),
            ));
        }
        if is_system_schema(schema.oid) {
            return Err(PlanError::new(
                PlanErrorKind::InsufficientPrivilege,
                format!("permission denied for schema {name}"),
            ));
        }
        check_schema_name(to)?;
        let inside: Vec<(String, Oid)> = self
            .catalog
            .names
            .iter()
            .filter(|((owner, _), _)| *owner == schema.oid)
            .map(|((_, name), oid)| (name.clone(), *oid))
            .collect();
        for (relation, oid) in inside {
            self.rename_in_views(oid, (name, &relation), (to, &relation))?;
            if self.catalog.tables.contains_key(&oid) {
                let mut table = self.next_version(oid)?;
                Arc::make_mut(&mut table.descriptor).schema = to.to_owned();
                self.catalog.put_table(table);
            }
        }
        self.catalog.put_schema(Schema { name: to.to_owned(), ..Schema::clone(&schema) });
        Ok(())
    }

    pub(super) fn schema_owner(
        &mut self,
        name: &str,
        actions: &[AlterAction],
    ) -> Result<(), PlanError> {
        let schema = self.schema(name)?;
        for action in actions {
            if let AlterAction::OwnerTo(role) = action {
                let owner = self.role(role)?;
                self.catalog.put_schema(Schema { owner, ..Schema::clone(&schema) });
            }
        }
        Ok(())
    }

    pub(super) fn create_role(
        &mut self,
        name: &str,
        options: &RoleOptions,
    ) -> Result<(), PlanError> {
        if self.catalog.role_by_name(name).is_some() {
            return Err(PlanError::new(
                PlanErrorKind::DuplicateObject,
                format!("role \"{name}\" already exists"),
            ));
        }
        if name == "public" || name == "none" || name.starts_with("pg_") {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                format!("role name \"{name}\" is reserved"),
            ));
        }
        self.check_role_options(options)?;
        if options.superuser.is_none() {
            self.notice(
                "00000",
                format!("role \"{name}\" has all rights: rights of roles are not restricted yet"),
            );
        }
        let role = Role {
            oid: self.catalog.ids.oid()?,
            name: name.to_owned(),
            superuser: true,
            can_login: options.login.unwrap_or(false),
            password: self.verifier(options).flatten(),
        };
        self.catalog.roles.insert(role.oid, Arc::new(role));
        Ok(())
    }

    pub(super) fn alter_role(
        &mut self,
        name: &str,
        options: &RoleOptions,
    ) -> Result<(), PlanError> {
        let oid = match self.role(name) {
            Ok(oid) => oid,
            Err(error) if options.if_exists => {
                self.notice("00000", format!("{}, skipping", error.message));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.check_role_options(options)?;
        let Some(role) = self.catalog.roles.get(&oid) else { return Ok(()) };
        let mut role = Role::clone(role);
        if let Some(login) = options.login {
            if oid == SUPERUSER && !login {
                return Err(PlanError::unsupported(
                    "role \"postgres\" must be able to log in",
                    "Give it a password instead.",
                ));
            }
            role.can_login = login;
        }
        if let Some(password) = self.verifier(options) {
            role.password = password;
        }
        self.catalog.roles.insert(oid, Arc::new(role));
        Ok(())
    }

    fn verifier(&self, options: &RoleOptions) -> Option<Option<String>> {
        let password = options.password.as_ref()?;
        Some(password.as_ref().map(|password| (self.env.password_verifier)(password)))
    }

    /// Nothing that would have to be enforced and is not.
    fn check_role_options(&self, options: &RoleOptions) -> Result<(), PlanError> {
        let refused = match options.superuser {
            Some(false) => Some("NOSUPERUSER"),
            _ => options.unsupported.first().map(String::as_str),
        };
        match refused {
            None => Ok(()),
            Some(option) => Err(PlanError::unsupported(
                format!("role option {option} is not supported"),
                "Rights of roles are not restricted yet; every role has those of a superuser.",
            )),
        }
    }

    pub(super) fn rename_role(&mut self, name: &str, to: &str) -> Result<(), PlanError> {
        let oid = self.role(name)?;
        if self.catalog.role_by_name(to).is_some() {
            return Err(PlanError::new(
                PlanErrorKind::DuplicateObject,
                format!("role \"{to}\" already exists"),
            ));
        }
        if oid == self.env.current_role || oid == SUPERUSER {
            return Err(PlanError::new(
                PlanErrorKind::Unsupported,
                "session user cannot be renamed",
            ));
        }
        if let Some(role) = self.catalog.roles.get(&oid) {
            let role = Role { name: to.to_owned(), ..Role::clone(role) };
            self.catalog.roles.insert(oid, Arc::new(role));
        }
        Ok(())
    }

    pub(super) fn create_extension(
        &mut self,
        name: &str,
        if_not_exists: bool,
    ) -> Result<(), PlanError> {
        if name != "plpgsql" {
            return Err(PlanError::unsupported(
                format!("extension \"{name}\" is not available"),
                "CortexDB has no extensions; COMPAT.md lists what is built in.",
            ));
        }
        let message = format!("extension \"{name}\" already exists");
        if if_not_exists {
            self.notice("42710", format!("{message}, skipping"));
            return Ok(());
        }
        Err(PlanError::new(PlanErrorKind::DuplicateObject, message))
    }

    pub(super) fn comment(
        &mut self,
        target: &CommentTarget,
        text: Option<&str>,
    ) -> Result<(), PlanError> {
        let key = self.comment_key(target)?;
        match text {
            Some(text) => self.catalog.comments.insert(key, Arc::from(text)),
            None => self.catalog.comments.remove(&key),
        };
        Ok(())
    }

    fn comment_key(&self, target: &CommentTarget) -> Result<CommentKey, PlanError> {
        let key = |class, object| CommentKey { class, object, column: 0 };
        Ok(match target {
            CommentTarget::Relation(kind, name) => {
                let oid = self.relation_of_kind(*kind, name)?;
                key(class::RELATION, oid)
            }
            CommentTarget::Column(name, column) => self.column_comment(name, column)?,
            CommentTarget::Constraint(name, table) => {
                let table = self.table(table)?;
                let names = table.constraint_names().into_iter();
                let found = names.zip(table.constraint_oids()).find(|(other, _)| other == name);
                match found {
                    Some((_, oid)) => key(class::CONSTRAINT, oid),
                    None => {
                        return Err(PlanError::new(
                            PlanErrorKind::UndefinedObject,
                            format!(
                                "constraint \"{name}\" for table \"{}\" does not exist",
                                table.descriptor.name
                            ),
                        ));
                    }
                }
            }
            CommentTarget::Schema(name) => key(class::SCHEMA, self.schema(name)?.oid),
            CommentTarget::Role(name) => key(class::ROLE, self.role(name)?),
            CommentTarget::Database(name) if name == DATABASE_NAME => {
                key(class::DATABASE, DATABASE)
            }
            CommentTarget::Database(name) => {
                return Err(PlanError::new(
                    PlanErrorKind::UndefinedObject,
                    format!("database \"{name}\" does not exist"),
                ));
            }
        })
    }

    fn column_comment(&self, name: &QualifiedName, column: &str) -> Result<CommentKey, PlanError> {
        let Some(oid) = self.lookup(name)? else { return Err(super::undefined_relation(name)) };
        let position = match self.catalog.views.get(&oid) {
            Some(view) => view
                .columns
                .iter()
                .position(|(other, _)| other == column)
                .ok_or_else(|| super::undefined_column(column, &view.name))?,
            None => column_position(&*self.table(name)?, column)?,
        };
        Ok(CommentKey { class: class::RELATION, object: oid, column: position as i32 + 1 })
    }

    fn relation_of_kind(&self, kind: ObjectKind, name: &QualifiedName) -> Result<Oid, PlanError> {
        match self.lookup(name)? {
            Some(oid) if self.kind_of(oid) == kind => Ok(oid),
            Some(_) => {
                let article = if kind == ObjectKind::Index { "an" } else { "a" };
                Err(PlanError::new(
                    PlanErrorKind::WrongObjectType,
                    format!("\"{}\" is not {article} {}", name.name, kind.word()),
                ))
            }
            None => Err(super::undefined_relation(name)),
        }
    }

    /// Every role has every right, so granting changes nothing, and what is revoked would not be enforced.
    pub(super) fn grant(&mut self, grant: &Grant) -> Result<(), PlanError> {
        for relation in &grant.relations {
            if self.lookup(relation)?.is_none() {
                return Err(super::undefined_relation(relation));
            }
        }
        if !grant.roles.is_empty() {
            return Err(PlanError::unsupported(
                "memberships of roles are not supported",
                "Every role has the rights of a superuser.",
            ));
        }
        for grantee in &grant.grantees {
            if grantee != "public" {
                let role = self.role(grantee)?;
                if role == SUPERUSER {
                    continue;
                }
            }
            if grant.revoke {
                return Err(PlanError::unsupported(
                    "REVOKE is not supported",
                    "Rights of roles are not restricted yet; every role has those of a superuser.",
                ));
            }
        }
        Ok(())
    }
}

fn check_schema_name(name: &str) -> Result<(), PlanError> {
    if !name.starts_with("pg_") {
        return Ok(());
    }
    Err(PlanError::new(PlanErrorKind::ReservedName, format!("unacceptable schema name \"{name}\""))
        .with_detail("The prefix \"pg_\" is reserved for system schemas."))
}
