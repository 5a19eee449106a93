//! ALTER TABLE and its relatives for indexes, views, sequences, schemas and roles.

use sqlparser::tokenizer::Token;

use super::{
    AlterAction, AlterTable, DdlCommand, ObjectKind, SequenceOptions,
    cursor::{Cursor, Parsed},
};
use crate::{PlanError, catalog::Identity};

impl Cursor<'_, '_> {
    pub fn alter(&mut self) -> Parsed<DdlCommand> {
        let kind = match self.object_kind() {
            Some(ObjectKind::Extension) | None => return Err(self.no_such_command("ALTER")),
            Some(kind) => kind,
        };
        match kind {
            ObjectKind::Role => return self.alter_role(),
            ObjectKind::Schema => return self.alter_schema(),
            _ => {}
        }
        let if_exists = self.if_exists();
        if kind == ObjectKind::Table {
            self.eat("only");
        }
        let name = self.qualified_name()?;
        self.eat_token(&Token::Mul);
        if kind == ObjectKind::Sequence
            && !self.at("rename")
            && !self.at("owner")
            && !self.at("set")
        {
            let options = self.sequence_options()?;
            return Ok(DdlCommand::AlterSequence { name, if_exists, options });
        }
        let actions = self.list(Self::alter_action)?;
        Ok(DdlCommand::AlterTable(AlterTable { kind, name, if_exists, actions }))
    }

    fn alter_schema(&mut self) -> Parsed<DdlCommand> {
        let name = self.qualified_name()?;
        if self.eat("rename to") {
            let to = self.name()?;
            return Ok(DdlCommand::RenameSchema { name: name.name, to });
        }
        self.expect("owner to")?;
        let owner = self.role_name()?;
        Ok(DdlCommand::AlterTable(AlterTable {
            kind: ObjectKind::Schema,
            name,
            if_exists: false,
            actions: vec![AlterAction::OwnerTo(owner)],
        }))
    }

    fn alter_action(&mut self) -> Parsed<AlterAction> {
        let position = self.position();
        if self.eat("add") {
            return self.alter_add();
        }
        if self.eat("drop constraint") {
            let if_exists = self.if_exists();
            let name = self.name()?;
            let cascade = self.cascade();
            return Ok(AlterAction::DropConstraint { name, if_exists, cascade });
        }
        if self.eat("drop") {
            self.eat("column");
            let if_exists = self.if_exists();
            let name = self.name()?;
            let cascade = self.cascade();
            return Ok(AlterAction::DropColumn { name, if_exists, cascade });
        }
        if self.eat("alter constraint") {
            return Err(PlanError::unsupported(
                "ALTER CONSTRAINT is not supported",
                "Drop the constraint and add it again.",
            )
            .at(position));
        }
        if self.eat("alter") {
            self.eat("column");
            let column = self.name()?;
            return self.alter_column(column);
        }
        if self.eat("rename to") {
            return Ok(AlterAction::RenameTo(self.name()?));
        }
        if self.eat("rename constraint") {
            let name = self.name()?;
            self.expect("to")?;
            return Ok(AlterAction::RenameConstraint { name, to: self.name()? });
        }
        if self.eat("rename") {
            self.eat("column");
            let name = self.name()?;
            self.expect("to")?;
            return Ok(AlterAction::RenameColumn { name, to: self.name()? });
        }
        if self.eat("owner to") {
            return Ok(AlterAction::OwnerTo(self.role_name()?));
        }
        if self.eat("set schema") {
            return Ok(AlterAction::SetSchema(self.name()?));
        }
        if self.at("set") && matches!(self.peek_nth(1), Token::LParen) {
            self.skip();
            return Ok(AlterAction::SetOptions(self.options()?));
        }
        if self.at("reset") && matches!(self.peek_nth(1), Token::LParen) {
            self.skip();
            return Ok(AlterAction::ResetOptions(self.names_in_parentheses()?));
        }
        if self.eat("validate constraint") {
            return Ok(AlterAction::ValidateConstraint { name: self.name()? });
        }
        const KNOWN: &[&str] = &[
            "set", "reset", "enable", "disable", "cluster", "inherit", "no", "of", "not",
            "replica", "force", "attach", "detach",
        ];
        match self.peek_word() {
            Some(word) if KNOWN.contains(&word.as_str()) => Err(PlanError::unsupported(
                format!("ALTER ... {} is not supported", word.to_uppercase()),
                "COMPAT.md lists what CortexDB has.",
            )
            .at(position)),
            _ => Err(self.unexpected()),
        }
    }

    fn alter_add(&mut self) -> Parsed<AlterAction> {
        let column = self.eat("column");
        if !column
            && (self.at("constraint")
                || self.at("check")
                || self.at("unique")
                || self.at("exclude")
                || (self.at("primary") && self.at_nth(1, "key"))
                || (self.at("foreign") && self.at_nth(1, "key")))
        {
            let constraint = self.table_constraint()?;
            return Ok(AlterAction::AddConstraint { constraint });
        }
        let if_not_exists = self.if_not_exists();
        let column = Box::new(self.column_definition()?);
        Ok(AlterAction::AddColumn { column, if_not_exists })
    }

    fn alter_column(&mut self, column: String) -> Parsed<AlterAction> {
        let position = self.position();
        if self.eat("set default") {
            let default = Some(self.expr()?);
            return Ok(AlterAction::SetDefault { column, default });
        }
        if self.eat("drop default") {
            return Ok(AlterAction::SetDefault { column, default: None });
        }
        if self.eat("set not null") {
            return Ok(AlterAction::SetNotNull { column, not_null: true });
        }
        if self.eat("drop not null") {
            return Ok(AlterAction::SetNotNull { column, not_null: false });
        }
        if self.eat("set data type") || self.eat("type") {
            let ty = self.type_name()?;
            if self.eat("collate") {
                self.collation()?;
            }
            let using = if self.eat("using") { Some(self.expr()?) } else { None };
            if ty.serial {
                return Err(PlanError::new(
                    crate::PlanErrorKind::UndefinedObject,
                    "type \"serial\" does not exist",
                )
                .at(position));
            }
            return Ok(AlterAction::SetType { column, ty: ty.ty, using });
        }
        if self.eat("add generated") {
            let (identity, options) = self.generated(position)?;
            return Ok(AlterAction::AddIdentity { column, identity, options });
        }
        if self.eat("drop identity") {
            let if_exists = self.if_exists();
            return Ok(AlterAction::DropIdentity { column, if_exists });
        }
        if self.at("set") && self.at_nth(1, "generated")
            || self.at("restart")
            || self.at("set") && self.is_set_sequence()
        {
            return self.set_identity(column);
        }
        if self.at("set") || self.at("reset") || self.at("drop") {
            return Err(PlanError::unsupported(
                "this form of ALTER COLUMN is not supported",
                "DEFAULT, NOT NULL, TYPE and identity can be changed.",
            )
            .at(position));
        }
        Err(self.unexpected())
    }

    fn is_set_sequence(&self) -> bool {
        const WORDS: &[&str] =
            &["increment", "minvalue", "maxvalue", "start", "restart", "cache", "cycle", "no"];
        self.nth_word(1).is_some_and(|word| WORDS.contains(&word.as_str()))
    }

    fn set_identity(&mut self, column: String) -> Parsed<AlterAction> {
        let mut identity = None;
        let mut options = SequenceOptions::default();
        loop {
            if self.eat("set generated always") {
                identity = Some(Identity::Always);
            } else if self.eat("set generated by default") {
                identity = Some(Identity::ByDefault);
            } else if self.at("restart") {
                self.sequence_option(&mut options)?;
            } else if self.at("set") && self.is_set_sequence() {
                self.skip();
                self.sequence_option(&mut options)?;
            } else {
                break;
            }
        }
        Ok(AlterAction::SetIdentity { column, identity, options })
    }
}
