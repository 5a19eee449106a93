//! CREATE TABLE: columns, constraints, LIKE, storage parameters, SHARD BY.

use cortex_shard_api::descriptor::ReferentialAction;
use sqlparser::tokenizer::Token;

use super::{
    AsQuery, ColumnDefinition, ConstraintDefinition, ConstraintKind, CreateTable, DdlCommand,
    LikeClause,
    cursor::{Cursor, Parsed},
    parse::no_tablespaces,
};
use crate::{PlanError, PlanErrorKind, catalog::Identity};

impl Cursor<'_, '_> {
    pub fn create_table(&mut self, unlogged: bool) -> Parsed<DdlCommand> {
        let if_not_exists = self.if_not_exists();
        let name = self.qualified_name()?;
        let mut table = CreateTable {
            name,
            if_not_exists,
            unlogged,
            columns: Vec::new(),
            constraints: Vec::new(),
            likes: Vec::new(),
            options: Vec::new(),
            as_query: None,
        };
        if self.at("partition") || self.at("of") {
            return Err(PlanError::unsupported(
                "partitions and typed tables are not supported",
                "Shard the table: WITH (shard_by = 'range(column)').",
            )
            .at(self.position()));
        }
        let mut names = Vec::new();
        let has_elements = self.at_token(&Token::LParen);
        if has_elements {
            if self.is_name_list() {
                names = self.names_in_parentheses()?;
            } else {
                self.table_elements(&mut table)?;
            }
        }
        self.table_tail(&mut table)?;
        if self.eat("as") {
            let (query, _) = self.query()?;
            let with_data = if self.eat("with no data") {
                false
            } else {
                self.eat("with data");
                true
            };
            table.as_query = Some(AsQuery { query, names, with_data });
        } else if !names.is_empty() || !has_elements {
            return Err(self.unexpected());
        }
        Ok(DdlCommand::CreateTable(Box::new(table)))
    }

    /// `(a, b, c)`: the columns of CREATE TABLE AS have no types.
    fn is_name_list(&self) -> bool {
        matches!(self.peek_nth(2), Token::Comma | Token::RParen)
            && matches!(self.peek_nth(1), Token::Word(_))
    }

    fn table_elements(&mut self, table: &mut CreateTable) -> Parsed<()> {
        self.expect_token(&Token::LParen)?;
        if self.eat_token(&Token::RParen) {
            return Ok(());
        }
        loop {
            if self.eat("like") {
                let like = self.like_clause()?;
                table.likes.push(like);
            } else if self.at_table_constraint() {
                let constraint = self.table_constraint()?;
                table.constraints.push(constraint);
            } else {
                let column = self.column_definition()?;
                table.columns.push(column);
            }
            if !self.eat_token(&Token::Comma) {
                break;
            }
        }
        self.expect_token(&Token::RParen)
    }

    fn like_clause(&mut self) -> Parsed<LikeClause> {
        let source = self.qualified_name()?;
        let mut like = LikeClause {
            source,
            defaults: false,
            constraints: false,
            identity: false,
            indexes: false,
            comments: false,
        };
        loop {
            let including = if self.eat("including") {
                true
            } else if self.eat("excluding") {
                false
            } else {
                return Ok(like);
            };
            match self.name_or_word()?.as_str() {
                "all" => {
                    like.defaults = including;
                    like.constraints = including;
                    like.identity = including;
                    like.indexes = including;
                    like.comments = including;
                }
                "defaults" => like.defaults = including,
                "constraints" => like.constraints = including,
                "identity" => like.identity = including,
                "indexes" => like.indexes = including,
                "comments" => like.comments = including,
                // We have none of these, so there is nothing to copy.
                "compression" | "generated" | "statistics" | "storage" => {}
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn table_tail(&mut self, table: &mut CreateTable) -> Parsed<()> {
        loop {
            let position = self.position();
            if self.eat("with") {
                table.options.extend(self.options()?);
            } else if self.eat("without oids") {
            } else if self.eat("shard by") {
                let options = self.shard_by()?;
                table.options.extend(options);
            } else if self.eat("tablespace") {
                if self.name()? != "pg_default" {
                    return Err(no_tablespaces().at(position));
                }
            } else if self.eat("using") {
                let method = self.name()?;
                if method != "heap" {
                    return Err(PlanError::new(
                        PlanErrorKind::UndefinedObject,
                        format!("access method \"{method}\" does not exist"),
                    )
                    .at(position));
                }
            } else if self.at("partition") {
                return Err(PlanError::unsupported(
                    "PARTITION BY is not supported",
                    "Shard the table: WITH (shard_by = 'range(column)') or 'hash(column)'.",
                )
                .at(position));
            } else if self.at("inherits") {
                return Err(PlanError::unsupported(
                    "table inheritance is not supported",
                    "LIKE copies the columns of another table.",
                )
                .at(position));
            } else if self.at("on") {
                return Err(PlanError::unsupported(
                    "temporary tables are not supported",
                    "Leave ON COMMIT out.",
                )
                .at(position));
            } else {
                return Ok(());
            }
        }
    }

    /// `HASH (a, b)`, `RANGE (a) [SPLIT AT ('x', 'y')]`, `REFERENCE`, then `COLOCATE WITH t`.
    fn shard_by(&mut self) -> Parsed<Vec<(String, String)>> {
        let mut options = Vec::new();
        if self.eat("reference") {
            options.push(("shard_by".to_owned(), "reference".to_owned()));
        } else {
            let kind = if self.eat("hash") {
                "hash"
            } else {
                self.expect("range")?;
                "range"
            };
            let columns: Vec<String> =
                self.names_in_parentheses()?.iter().map(|name| quote(name)).collect();
            options.push(("shard_by".to_owned(), format!("{kind}({})", columns.join(", "))));
        }
        if self.eat("split at") {
            self.expect_token(&Token::LParen)?;
            let values = self.list(|cursor| cursor.option_value())?;
            self.expect_token(&Token::RParen)?;
            options.push(("split_at".to_owned(), values.join(",")));
        }
        if self.eat("colocate with") {
            let other = self.qualified_name()?;
            options.push(("colocate_with".to_owned(), other.to_string()));
        }
        Ok(options)
    }

    pub fn column_definition(&mut self) -> Parsed<ColumnDefinition> {
        let position = self.position();
        let name = self.name()?;
        let ty = self.type_name()?;
        let mut column = ColumnDefinition {
            serial: ty.serial,
            position,
            ..ColumnDefinition::plain(name, ty.ty)
        };
        loop {
            let position = self.position();
            let constraint_name = if self.eat("constraint") { Some(self.name()?) } else { None };
            if self.eat("not null") {
                if column.not_null == Some(false) {
                    return Err(conflicting_null(&column.name).at(position));
                }
                column.not_null = Some(true);
            } else if self.eat("null") {
                if column.not_null == Some(true) {
                    return Err(conflicting_null(&column.name).at(position));
                }
                column.not_null = Some(false);
            } else if self.eat("default") {
                if column.default.is_some() {
                    return Err(PlanError::new(
                        PlanErrorKind::Syntax,
                        format!("multiple default values specified for column \"{}\"", column.name),
                    )
                    .at(position));
                }
                column.default = Some(self.default_expr()?);
            } else if self.eat("generated") {
                column.identity = Some(self.generated(position)?);
            } else if self.eat("collate") {
                self.collation()?;
            } else if self.eat("primary key") {
                self.constraint_tail()?;
                let kind = ConstraintKind::PrimaryKey { columns: vec![column.name.clone()] };
                column.constraints.push(ConstraintDefinition {
                    name: constraint_name,
                    kind,
                    position,
                });
            } else if self.eat("unique") {
                self.nulls_distinct()?;
                self.constraint_tail()?;
                let kind = ConstraintKind::Unique { columns: vec![column.name.clone()] };
                column.constraints.push(ConstraintDefinition {
                    name: constraint_name,
                    kind,
                    position,
                });
            } else if self.eat("check") {
                let kind = self.check()?;
                column.constraints.push(ConstraintDefinition {
                    name: constraint_name,
                    kind,
                    position,
                });
            } else if self.eat("references") {
                let kind = self.references(vec![column.name.clone()])?;
                column.constraints.push(ConstraintDefinition {
                    name: constraint_name,
                    kind,
                    position,
                });
            } else if constraint_name.is_some() {
                return Err(self.unexpected());
            } else if self.at("compression") || self.at("storage") {
                return Err(PlanError::unsupported(
                    "STORAGE and COMPRESSION of columns are not supported",
                    "Leave them out.",
                )
                .at(position));
            } else {
                return Ok(column);
            }
        }
    }

    /// Behind GENERATED.
    pub fn generated(
        &mut self,
        position: Option<usize>,
    ) -> Parsed<(Identity, super::SequenceOptions)> {
        let identity = if self.eat("by default") {
            Identity::ByDefault
        } else {
            self.expect("always")?;
            Identity::Always
        };
        self.expect("as")?;
        if !self.eat("identity") {
            return Err(PlanError::unsupported(
                "generated columns are not supported",
                "Compute the value in a view.",
            )
            .at(position));
        }
        let mut options = super::SequenceOptions::default();
        if self.eat_token(&Token::LParen) {
            options = self.sequence_options()?;
            self.expect_token(&Token::RParen)?;
        }
        Ok((identity, options))
    }

    fn at_table_constraint(&self) -> bool {
        self.at("constraint")
            || self.at("check")
            || (self.at("primary") && self.at_nth(1, "key"))
            || self.at("unique")
            || (self.at("foreign") && self.at_nth(1, "key"))
            || self.at("exclude") && !matches!(self.peek_nth(1), Token::Word(_))
            || self.at("exclude") && self.at_nth(1, "using")
    }

    pub fn table_constraint(&mut self) -> Parsed<ConstraintDefinition> {
        let position = self.position();
        let name = if self.eat("constraint") { Some(self.name()?) } else { None };
        let kind = if self.eat("primary key") {
            if self.eat("using index") {
                let index = self.name()?;
                ConstraintKind::UsingIndex { index, primary: true }
            } else {
                let columns = self.names_in_parentheses()?;
                self.no_include()?;
                ConstraintKind::PrimaryKey { columns }
            }
        } else if self.eat("unique") {
            if self.eat("using index") {
                let index = self.name()?;
                ConstraintKind::UsingIndex { index, primary: false }
            } else {
                self.nulls_distinct()?;
                let columns = self.names_in_parentheses()?;
                self.no_include()?;
                ConstraintKind::Unique { columns }
            }
        } else if self.eat("check") {
            return Ok(ConstraintDefinition { name, kind: self.check()?, position });
        } else if self.eat("foreign key") {
            let columns = self.names_in_parentheses()?;
            self.expect("references")?;
            return Ok(ConstraintDefinition { name, kind: self.references(columns)?, position });
        } else if self.at("exclude") {
            return Err(PlanError::unsupported(
                "EXCLUDE constraints are not supported",
                "UNIQUE covers equality.",
            )
            .at(position));
        } else {
            return Err(self.unexpected());
        };
        self.constraint_tail()?;
        Ok(ConstraintDefinition { name, kind, position })
    }

    fn no_include(&mut self) -> Parsed<()> {
        if self.at("include") {
            return Err(PlanError::unsupported(
                "INCLUDE columns of constraints are not supported",
                "Leave INCLUDE out; the row is read by its key.",
            )
            .at(self.position()));
        }
        Ok(())
    }

    fn nulls_distinct(&mut self) -> Parsed<()> {
        if self.at("nulls") && self.at_nth(1, "not") {
            return Err(PlanError::unsupported(
                "NULLS NOT DISTINCT is not supported",
                "Declare the columns NOT NULL.",
            )
            .at(self.position()));
        }
        self.eat("nulls distinct");
        Ok(())
    }

    /// Behind CHECK.
    fn check(&mut self) -> Parsed<ConstraintKind> {
        self.expect_token(&Token::LParen)?;
        let expr = self.expr()?;
        self.expect_token(&Token::RParen)?;
        if self.at("no") && self.at_nth(1, "inherit") {
            return Err(PlanError::unsupported(
                "NO INHERIT is not supported",
                "Leave it out: there is no inheritance.",
            )
            .at(self.position()));
        }
        self.constraint_tail()?;
        Ok(ConstraintKind::Check(expr))
    }

    /// Behind REFERENCES.
    fn references(&mut self, columns: Vec<String>) -> Parsed<ConstraintKind> {
        let parent = self.qualified_name()?;
        let parent_columns =
            if self.at_token(&Token::LParen) { self.names_in_parentheses()? } else { Vec::new() };
        let position = self.position();
        if self.eat("match") && !self.eat("simple") {
            return Err(PlanError::unsupported(
                "MATCH FULL and MATCH PARTIAL are not supported",
                "Use MATCH SIMPLE, the default, with NOT NULL columns.",
            )
            .at(position));
        }
        let mut on_delete = ReferentialAction::NoAction;
        let mut on_update = ReferentialAction::NoAction;
        loop {
            if self.eat("on delete") {
                on_delete = self.referential_action()?;
            } else if self.eat("on update") {
                on_update = self.referential_action()?;
            } else {
                break;
            }
        }
        self.constraint_tail()?;
        Ok(ConstraintKind::ForeignKey { columns, parent, parent_columns, on_delete, on_update })
    }

    fn referential_action(&mut self) -> Parsed<ReferentialAction> {
        let action = if self.eat("no action") {
            ReferentialAction::NoAction
        } else if self.eat("restrict") {
            ReferentialAction::Restrict
        } else if self.eat("cascade") {
            ReferentialAction::Cascade
        } else if self.eat("set null") {
            ReferentialAction::SetNull
        } else if self.eat("set default") {
            ReferentialAction::SetDefault
        } else {
            return Err(self.unexpected());
        };
        if self.at_token(&Token::LParen) {
            return Err(PlanError::unsupported(
                "a column list for SET NULL and SET DEFAULT is not supported",
                "Leave the list out.",
            )
            .at(self.position()));
        }
        Ok(action)
    }

    /// DEFERRABLE and its like, WITH (...), USING INDEX TABLESPACE.
    fn constraint_tail(&mut self) -> Parsed<()> {
        loop {
            let position = self.position();
            if self.eat("not deferrable") || self.eat("initially immediate") {
            } else if self.at("deferrable") || self.at("initially") {
                return Err(PlanError::unsupported(
                    "DEFERRABLE constraints are not supported",
                    "Constraints are checked at the end of each statement; leave DEFERRABLE out.",
                )
                .at(position));
            } else if self.at("with") && matches!(self.peek_nth(1), Token::LParen) {
                self.skip();
                // fillfactor and its like tell how pages are filled; we have no pages.
                self.options()?;
            } else if self.eat("using index tablespace") {
                if self.name()? != "pg_default" {
                    return Err(no_tablespaces().at(position));
                }
            } else if self.at("not") && self.at_nth(1, "valid") {
                return Err(PlanError::unsupported(
                    "NOT VALID is not supported",
                    "Leave it out: existing rows are checked at once.",
                )
                .at(position));
            } else {
                return Ok(());
            }
        }
    }
}

fn conflicting_null(column: &str) -> PlanError {
    PlanError::new(
        PlanErrorKind::Syntax,
        format!("conflicting NULL/NOT NULL declarations for column \"{column}\""),
    )
}

/// An identifier as SQL text: quoted where needed.
pub fn quote(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}
