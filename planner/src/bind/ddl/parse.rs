//! First words to commands: CREATE, DROP, TRUNCATE. Which statements are ours is decided here.

use sqlparser::{parser::Parser, tokenizer::Token};

use super::{
    CreateIndex, CreateSchema, CreateView, DdlCommand, Drop, IndexColumnDefinition, ObjectKind,
    QualifiedName,
    cursor::{Cursor, Parsed},
};
use crate::{PlanError, PlanErrorKind};

/// Whether a statement that begins with these words (any case) is read by `parse_ddl`.
pub fn is_ddl(first: &str, second: &str) -> bool {
    let first = first.to_ascii_lowercase();
    match first.as_str() {
        "create" | "drop" | "truncate" | "comment" | "grant" | "revoke" => true,
        // ALTER SYSTEM and ALTER DATABASE ... SET are settings, refused here by name all the same.
        "alter" => !second.eq_ignore_ascii_case("system"),
        _ => false,
    }
}

/// Reads one statement from the parser's position to its end (a semicolon or the end of input, which is left). `sql` is
/// the text that the tokens' locations refer to.
pub fn parse_ddl(parser: &mut Parser<'_>, sql: &str) -> Result<DdlCommand, PlanError> {
    let mut cursor = Cursor::new(parser, sql);
    let command = cursor.command()?;
    cursor.expect_end()?;
    Ok(command)
}

impl Cursor<'_, '_> {
    fn command(&mut self) -> Parsed<DdlCommand> {
        if self.eat("create") {
            self.create()
        } else if self.eat("drop") {
            self.drop_objects()
        } else if self.eat("truncate") {
            self.truncate()
        } else if self.eat("alter") {
            self.alter()
        } else if self.eat("comment on") {
            self.comment()
        } else if self.eat("grant") {
            self.grant(false)
        } else if self.eat("revoke") {
            self.grant(true)
        } else {
            Err(self.unexpected())
        }
    }

    fn create(&mut self) -> Parsed<DdlCommand> {
        let position = self.position();
        let or_replace = self.eat("or replace");
        if self.at("view") || (self.at("recursive") && self.at_nth(1, "view")) {
            return self.create_view(or_replace);
        }
        if or_replace {
            return Err(self.no_such_command("CREATE OR REPLACE"));
        }
        if self.eat("global") || self.eat("local") || self.at("temp") || self.at("temporary") {
            return Err(PlanError::unsupported(
                "temporary tables, views and sequences are not supported",
                "Create it in a schema of its own and drop it when you are done.",
            )
            .at(position));
        }
        if self.eat("unlogged table") {
            return self.create_table(true);
        }
        if self.eat("table") {
            return self.create_table(false);
        }
        if self.at("unique") || self.at("index") {
            return self.create_index();
        }
        if self.eat("sequence") {
            let if_not_exists = self.if_not_exists();
            let name = self.qualified_name()?;
            let options = self.sequence_options()?;
            return Ok(DdlCommand::CreateSequence { name, if_not_exists, options });
        }
        if self.eat("schema") {
            return self.create_schema();
        }
        if self.at("role") || self.at("user") || self.at("group") {
            let login = self.at("user");
            self.skip();
            if self.at("mapping") {
                return Err(self.no_such_command("CREATE USER"));
            }
            return self.create_role(login);
        }
        if self.eat("extension") {
            let if_not_exists = self.if_not_exists();
            let name = self.name()?;
            self.eat("with");
            while self.eat("cascade") || (self.at("schema") || self.at("version")) {
                if self.eat("schema") || self.eat("version") {
                    self.option_value()?;
                }
            }
            return Ok(DdlCommand::CreateExtension { name, if_not_exists });
        }
        Err(self.no_such_command("CREATE"))
    }

    /// 0A000 for a statement that Postgres has and we have not; 42601 for what Postgres has not either.
    pub fn no_such_command(&self, verb: &str) -> PlanError {
        const KNOWN: &[&str] = &[
            "access",
            "aggregate",
            "cast",
            "collation",
            "constraint",
            "conversion",
            "database",
            "default",
            "domain",
            "event",
            "foreign",
            "function",
            "language",
            "large",
            "materialized",
            "operator",
            "policy",
            "procedural",
            "procedure",
            "publication",
            "routine",
            "rule",
            "server",
            "statistics",
            "subscription",
            "tablespace",
            "text",
            "transform",
            "trigger",
            "trusted",
            "type",
            "mapping",
            "owned",
            "recursive",
        ];
        let Some(word) = self.peek_word() else { return self.unexpected() };
        if !KNOWN.contains(&word.as_str()) {
            return self.unexpected();
        }
        let mut what = word.to_uppercase();
        if matches!(
            word.as_str(),
            "materialized" | "foreign" | "text" | "event" | "access" | "default"
        ) && let Some(second) = self.nth_word(1)
        {
            what = format!("{what} {}", second.to_uppercase());
        }
        PlanError::unsupported(
            format!("{verb} {what} is not supported"),
            "COMPAT.md lists what CortexDB has.",
        )
        .at(self.position())
    }

    fn create_view(&mut self, or_replace: bool) -> Parsed<DdlCommand> {
        if self.at("recursive") {
            return Err(PlanError::unsupported(
                "CREATE RECURSIVE VIEW is not supported",
                "Write CREATE VIEW ... AS WITH RECURSIVE ...",
            ));
        }
        self.expect("view")?;
        let name = self.qualified_name()?;
        let columns =
            if self.at_token(&Token::LParen) { self.names_in_parentheses()? } else { Vec::new() };
        if self.at("with") {
            return Err(PlanError::unsupported(
                "options of views are not supported",
                "Leave WITH (...) out.",
            )
            .at(self.position()));
        }
        self.expect("as")?;
        let (query, sql) = self.query()?;
        if self.at("with") {
            return Err(PlanError::unsupported(
                "WITH CHECK OPTION is not supported",
                "Views cannot be written to; write to the table.",
            )
            .at(self.position()));
        }
        Ok(DdlCommand::CreateView(Box::new(CreateView { name, or_replace, columns, query, sql })))
    }

    fn create_index(&mut self) -> Parsed<DdlCommand> {
        let unique = self.eat("unique");
        self.expect("index")?;
        let concurrently = self.eat("concurrently");
        let if_not_exists = self.if_not_exists();
        let name = if self.at("on") { None } else { Some(self.qualified_name()?) };
        self.expect("on")?;
        self.eat("only");
        let table = self.qualified_name()?;
        if self.eat("using") {
            let position = self.position();
            let method = self.name()?;
            if method != "btree" {
                return Err(index_method(&method).at(position));
            }
        }
        self.expect_token(&Token::LParen)?;
        let columns = self.list(Self::index_column)?;
        self.expect_token(&Token::RParen)?;
        self.index_tail()?;
        Ok(DdlCommand::CreateIndex(CreateIndex {
            name,
            if_not_exists,
            unique,
            concurrently,
            table,
            columns,
        }))
    }

    fn index_column(&mut self) -> Parsed<IndexColumnDefinition> {
        let position = self.position();
        let expression = || {
            PlanError::unsupported(
                "indexes on expressions are not supported",
                "Index plain columns; a column can hold the computed value.",
            )
            .at(position)
        };
        if self.at_token(&Token::LParen) {
            return Err(expression());
        }
        let name = self.name()?;
        if self.at_token(&Token::LParen) {
            return Err(expression());
        }
        if self.eat("collate") {
            self.collation()?;
        }
        if !self.at("asc") && !self.at("desc") && !self.at("nulls") && self.peek_word().is_some() {
            let class = self.qualified_name()?;
            if !is_default_operator_class(&class.name) {
                return Err(PlanError::unsupported(
                    format!("operator class \"{}\" is not supported", class.name),
                    "Strings are always compared in C order, so text_pattern_ops is not needed.",
                )
                .at(class.position));
            }
        }
        let descending = self.eat("desc") || {
            self.eat("asc");
            false
        };
        let nulls_first =
            if self.eat("nulls first") { true } else { !self.eat("nulls last") && descending };
        Ok(IndexColumnDefinition { name, descending, nulls_first })
    }

    fn index_tail(&mut self) -> Parsed<()> {
        let position = self.position();
        if self.at("include") {
            return Err(PlanError::unsupported(
                "INCLUDE columns of indexes are not supported",
                "Leave INCLUDE out; the row is read by its key.",
            )
            .at(position));
        }
        if self.eat("nulls not distinct") {
            return Err(PlanError::unsupported(
                "NULLS NOT DISTINCT is not supported",
                "Declare the columns NOT NULL.",
            )
            .at(position));
        }
        self.eat("nulls distinct");
        if self.eat("with") {
            // fillfactor and its like tell how pages are filled; we have no pages.
            self.options()?;
        }
        if self.eat("tablespace") && self.name()? != "pg_default" {
            return Err(no_tablespaces().at(position));
        }
        if self.at("where") {
            return Err(PlanError::unsupported(
                "partial indexes are not supported",
                "Leave WHERE out.",
            )
            .at(self.position()));
        }
        Ok(())
    }

    /// A collation's name: C and those that order like it.
    pub fn collation(&mut self) -> Parsed<()> {
        let name = self.qualified_name()?;
        if matches!(name.name.as_str(), "C" | "POSIX" | "default" | "ucs_basic" | "C.UTF-8") {
            return Ok(());
        }
        Err(PlanError::unsupported(
            format!("collation \"{}\" is not supported", name.name),
            "Strings are ordered by code point: COLLATE \"C\".",
        )
        .at(name.position))
    }

    fn create_schema(&mut self) -> Parsed<DdlCommand> {
        let if_not_exists = self.if_not_exists();
        let name = if self.at("authorization") { None } else { Some(self.name()?) };
        let owner = if self.eat("authorization") { Some(self.role_name()?) } else { None };
        let mut home = None;
        if self.eat("with") {
            for (option, value) in self.options()? {
                if option != "home" {
                    return Err(unknown_parameter(&option));
                }
                home = Some(value.parse().map_err(|_| {
                    PlanError::new(
                        PlanErrorKind::InvalidParameterValue,
                        format!("invalid value for parameter \"home\": \"{value}\""),
                    )
                    .with_hint("Give the number of a data shard; shards count from 1.")
                })?);
            }
        }
        if !self.at_end() {
            return Err(PlanError::unsupported(
                "CREATE SCHEMA with further statements is not supported",
                "Create the objects with statements of their own.",
            )
            .at(self.position()));
        }
        let Some(name) = name.or_else(|| owner.clone()) else { return Err(self.unexpected()) };
        Ok(DdlCommand::CreateSchema(CreateSchema { name, if_not_exists, owner, home }))
    }

    fn drop_objects(&mut self) -> Parsed<DdlCommand> {
        let kind = match self.object_kind() {
            Some(kind) => kind,
            None => return Err(self.no_such_command("DROP")),
        };
        if kind == ObjectKind::Index {
            // The catalog change is short either way.
            self.eat("concurrently");
        }
        let if_exists = self.if_exists();
        let names = self.list(|cursor| match kind {
            ObjectKind::Role => Ok(QualifiedName {
                schema: None,
                position: cursor.position(),
                name: cursor.role_name()?,
            }),
            _ => cursor.qualified_name(),
        })?;
        let cascade = self.cascade();
        Ok(DdlCommand::Drop(Drop { kind, names, if_exists, cascade }))
    }

    pub fn object_kind(&mut self) -> Option<ObjectKind> {
        const WORDS: &[(&str, ObjectKind)] = &[
            ("table", ObjectKind::Table),
            ("index", ObjectKind::Index),
            ("view", ObjectKind::View),
            ("sequence", ObjectKind::Sequence),
            ("schema", ObjectKind::Schema),
            ("role", ObjectKind::Role),
            ("user", ObjectKind::Role),
            ("group", ObjectKind::Role),
            ("extension", ObjectKind::Extension),
        ];
        if self.at("user") && self.at_nth(1, "mapping") {
            return None;
        }
        WORDS.iter().find(|(word, _)| self.eat(word)).map(|(_, kind)| *kind)
    }

    fn truncate(&mut self) -> Parsed<DdlCommand> {
        self.eat("table");
        let tables = self.list(|cursor| {
            cursor.eat("only");
            let name = cursor.qualified_name()?;
            cursor.eat_token(&Token::Mul);
            Ok(name)
        })?;
        let restart_identity = self.eat("restart identity") || {
            self.eat("continue identity");
            false
        };
        let cascade = self.cascade();
        Ok(DdlCommand::Truncate { tables, restart_identity, cascade })
    }
}

fn is_default_operator_class(name: &str) -> bool {
    const CLASSES: &[&str] = &[
        "bool_ops",
        "bpchar_ops",
        "bytea_ops",
        "char_ops",
        "date_ops",
        "float4_ops",
        "float8_ops",
        "int2_ops",
        "int4_ops",
        "int8_ops",
        "interval_ops",
        "jsonb_ops",
        "name_ops",
        "numeric_ops",
        "oid_ops",
        "text_ops",
        "text_pattern_ops",
        "time_ops",
        "timestamp_ops",
        "timestamptz_ops",
        "uuid_ops",
        "varchar_ops",
        "varchar_pattern_ops",
        "bpchar_pattern_ops",
    ];
    CLASSES.contains(&name)
}

fn index_method(method: &str) -> PlanError {
    const METHODS: &[&str] = &["hash", "gin", "gist", "spgist", "brin", "hnsw", "ivfflat"];
    if !METHODS.contains(&method) {
        return PlanError::new(
            PlanErrorKind::UndefinedObject,
            format!("access method \"{method}\" does not exist"),
        );
    }
    PlanError::unsupported(
        format!("index access method \"{method}\" is not supported"),
        "Use btree, the default.",
    )
}

pub fn no_tablespaces() -> PlanError {
    PlanError::unsupported("tablespaces are not supported", "Leave TABLESPACE out.")
}

/// 22023 for a storage parameter nobody knows.
pub fn unknown_parameter(name: &str) -> PlanError {
    PlanError::new(
        PlanErrorKind::InvalidParameterValue,
        format!("unrecognized parameter \"{name}\""),
    )
}
