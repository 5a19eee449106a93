//! `OVERRIDING SYSTEM VALUE` and `OVERRIDING USER VALUE` of INSERT.
//!
//! sqlparser has no place for the clause. The parser takes it out of the text and puts it where the AST keeps settings of
//! another dialect's INSERT, which never come out of a Postgres text; the binder finds it there.

use sqlparser::ast::{Expr, Ident, Insert, Setting, Value};

/// Which value an identity column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overriding {
    /// The one given, also where it is GENERATED ALWAYS.
    SystemValue,
    /// The sequence's, whatever is given.
    UserValue,
}

const KEY: &str = "overriding";
const SYSTEM: &str = "system value";
const USER: &str = "user value";

impl Overriding {
    pub fn attach(self, insert: &mut Insert) {
        let word = match self {
            Overriding::SystemValue => SYSTEM,
            Overriding::UserValue => USER,
        };
        let value = Expr::value(Value::SingleQuotedString(word.to_owned()));
        insert.settings = Some(vec![Setting { key: Ident::new(KEY), value }]);
    }

    pub(super) fn of(insert: &Insert) -> Option<Overriding> {
        let settings = insert.settings.as_deref().unwrap_or_default();
        let setting = settings.iter().find(|setting| setting.key.value == KEY)?;
        let Expr::Value(value) = &setting.value else { return None };
        match &value.value {
            Value::SingleQuotedString(word) if word == SYSTEM => Some(Overriding::SystemValue),
            Value::SingleQuotedString(word) if word == USER => Some(Overriding::UserValue),
            _ => None,
        }
    }
}
