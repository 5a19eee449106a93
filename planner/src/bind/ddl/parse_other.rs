//! Sequences, roles, comments, grants.

use sqlparser::tokenizer::Token;

use super::{
    CommentTarget, DdlCommand, Grant, ObjectKind, QualifiedName, RoleOptions, SequenceOptions,
    cursor::{Cursor, Parsed},
};
use crate::{PlanError, PlanErrorKind};

impl Cursor<'_, '_> {
    /// All options up to something else, in any order.
    pub fn sequence_options(&mut self) -> Parsed<SequenceOptions> {
        let mut options = SequenceOptions::default();
        while self.sequence_option(&mut options)? {}
        Ok(options)
    }

    /// Reads one option; false if there is none.
    pub fn sequence_option(&mut self, options: &mut SequenceOptions) -> Parsed<bool> {
        if self.eat("as") {
            let position = self.position();
            let ty = self.type_name()?.ty.ty;
            if !ty.is_integer() {
                return Err(PlanError::new(
                    PlanErrorKind::InvalidParameterValue,
                    "sequence type must be smallint, integer, or bigint",
                )
                .at(position));
            }
            options.ty = Some(ty);
        } else if self.eat("increment") {
            self.eat("by");
            options.increment = Some(self.integer()?);
        } else if self.eat("no minvalue") {
            options.min = Some(None);
        } else if self.eat("minvalue") {
            options.min = Some(Some(self.integer()?));
        } else if self.eat("no maxvalue") {
            options.max = Some(None);
        } else if self.eat("maxvalue") {
            options.max = Some(Some(self.integer()?));
        } else if self.eat("start") {
            self.eat("with");
            options.start = Some(self.integer()?);
        } else if self.eat("restart") {
            let with = self.eat("with");
            let value =
                with || matches!(self.peek_nth(0), Token::Number(..) | Token::Minus | Token::Plus);
            options.restart = Some(if value { Some(self.integer()?) } else { None });
        } else if self.eat("cache") {
            options.cache = Some(self.integer()?);
        } else if self.eat("no cycle") {
            options.cycle = Some(false);
        } else if self.eat("cycle") {
            options.cycle = Some(true);
        } else if self.eat("owned by none") {
            options.owned_by = Some(None);
        } else if self.eat("owned by") {
            let name = self.qualified_column()?;
            options.owned_by = Some(Some(name));
        } else if self.eat("sequence name") {
            options.name = Some(self.qualified_name()?);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// `[schema.]table.column`
    fn qualified_column(&mut self) -> Parsed<(QualifiedName, String)> {
        let position = self.position();
        let mut parts = vec![self.name()?];
        while self.eat_token(&Token::Period) {
            parts.push(self.name()?);
        }
        let column = parts.pop().unwrap_or_default();
        let Some(name) = parts.pop() else {
            return Err(
                PlanError::new(PlanErrorKind::Syntax, "column name must be qualified").at(position)
            );
        };
        Ok((QualifiedName { schema: parts.pop(), name, position }, column))
    }

    /// A role's name; `current_user` and its like stay as they are and are resolved later.
    pub fn role_name(&mut self) -> Parsed<String> {
        match self.peek_word().as_deref() {
            Some(word @ ("current_user" | "current_role" | "session_user" | "user")) => {
                let word = if word == "user" { "current_user".to_owned() } else { word.to_owned() };
                self.skip();
                Ok(word)
            }
            _ => self.name(),
        }
    }

    pub fn create_role(&mut self, login: bool) -> Parsed<DdlCommand> {
        let name = self.role_name()?;
        let mut options = self.role_options()?;
        options.login = options.login.or(Some(login));
        Ok(DdlCommand::CreateRole { name, options })
    }

    pub fn alter_role(&mut self) -> Parsed<DdlCommand> {
        let if_exists = self.if_exists();
        let name = self.role_name()?;
        if self.eat("rename to") {
            return Ok(DdlCommand::RenameRole { name, to: self.name()? });
        }
        if self.at("set") || self.at("reset") || self.at("in") {
            return Err(PlanError::unsupported(
                "settings of roles are not supported",
                "SET in the session, or in the connection's options.",
            )
            .at(self.position()));
        }
        let mut options = self.role_options()?;
        options.if_exists = if_exists;
        Ok(DdlCommand::AlterRole { name, options })
    }

    fn role_options(&mut self) -> Parsed<RoleOptions> {
        let mut options = RoleOptions::default();
        self.eat("with");
        while let Some(word) = self.peek_word() {
            let position = self.position();
            self.skip();
            match word.as_str() {
                "superuser" => options.superuser = Some(true),
                "nosuperuser" => options.superuser = Some(false),
                "login" => options.login = Some(true),
                "nologin" => options.login = Some(false),
                "encrypted" => {}
                "password" => {
                    options.password =
                        Some(if self.eat("null") { None } else { Some(self.string()?) });
                }
                // Rights that a superuser has anyway, and defaults.
                "createdb" | "createrole" | "inherit" | "noreplication" | "nobypassrls"
                | "bypassrls" | "replication" => {}
                "nocreatedb" | "nocreaterole" | "noinherit" => {
                    options.unsupported.push(word.to_uppercase());
                }
                "connection" => {
                    self.expect("limit")?;
                    if self.integer()? != -1 {
                        options.unsupported.push("CONNECTION LIMIT".to_owned());
                    }
                }
                "valid" => {
                    self.expect("until")?;
                    if self.string()? != "infinity" {
                        options.unsupported.push("VALID UNTIL".to_owned());
                    }
                }
                "in" | "role" | "admin" | "user" => {
                    return Err(PlanError::unsupported(
                        "memberships of roles are not supported",
                        "Every role has the rights of a superuser.",
                    )
                    .at(position));
                }
                _ => {
                    return Err(PlanError::new(
                        PlanErrorKind::Syntax,
                        format!("unrecognized role option \"{word}\""),
                    )
                    .at(position));
                }
            }
        }
        Ok(options)
    }

    /// Behind COMMENT ON.
    pub fn comment(&mut self) -> Parsed<DdlCommand> {
        let target = if self.eat("column") {
            let (relation, column) = self.qualified_column()?;
            CommentTarget::Column(relation, column)
        } else if self.eat("constraint") {
            let name = self.name()?;
            self.expect("on")?;
            CommentTarget::Constraint(name, self.qualified_name()?)
        } else if self.eat("database") {
            CommentTarget::Database(self.name()?)
        } else {
            match self.object_kind() {
                Some(ObjectKind::Schema) => CommentTarget::Schema(self.name()?),
                Some(ObjectKind::Role) => CommentTarget::Role(self.role_name()?),
                Some(ObjectKind::Extension) | None => {
                    return Err(self.no_such_command("COMMENT ON"));
                }
                Some(kind) => CommentTarget::Relation(kind, self.qualified_name()?),
            }
        };
        self.expect("is")?;
        let text = if self.eat("null") { None } else { Some(self.string()?) };
        Ok(DdlCommand::Comment { target, text: text.filter(|text| !text.is_empty()) })
    }

    /// Behind GRANT or REVOKE.
    pub fn grant(&mut self, revoke: bool) -> Parsed<DdlCommand> {
        let mut grant =
            Grant { revoke, grantees: Vec::new(), relations: Vec::new(), roles: Vec::new() };
        if revoke {
            let _ = self.eat("grant option for") || self.eat("admin option for");
        }
        let mut words = Vec::new();
        while !self.at("on") && !self.at("to") && !self.at("from") {
            match self.peek_nth(0).clone() {
                Token::Word(_) => words.push(self.name_or_word()?),
                Token::LParen => {
                    self.skip();
                    self.skip_parentheses()?;
                }
                Token::Comma => self.skip(),
                _ => return Err(self.unexpected()),
            }
        }
        if self.eat("on") {
            self.grant_objects(&mut grant)?;
        } else {
            grant.roles = words;
        }
        self.expect(if revoke { "from" } else { "to" })?;
        grant.grantees = self.list(|cursor| {
            cursor.eat("group");
            cursor.role_name()
        })?;
        let _ = self.eat("with grant option") || self.eat("with admin option");
        if self.eat("granted by") {
            self.role_name()?;
        }
        self.cascade();
        Ok(DdlCommand::Grant(grant))
    }

    fn grant_objects(&mut self, grant: &mut Grant) -> Parsed<()> {
        if self.eat("all") {
            // ALL TABLES IN SCHEMA a, b
            self.skip();
            self.expect("in schema")?;
            self.list(Self::name)?;
            return Ok(());
        }
        let relations = if self.eat("table") || self.eat("sequence") {
            true
        } else {
            const OTHERS: &[&str] =
                &["schema", "database", "language", "tablespace", "type", "domain"];
            !OTHERS.iter().any(|word| self.eat(word))
        };
        if self.at("function") || self.at("procedure") || self.at("routine") || self.at("foreign") {
            return Err(self.no_such_command("GRANT ON"));
        }
        let names = self.list(Self::qualified_name)?;
        if relations {
            grant.relations = names;
        }
        Ok(())
    }
}
