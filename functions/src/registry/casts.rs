//! Which casts exist, in which context, and by which pathway: `find_coercion_pathway` of Postgres.

use std::collections::HashMap;

use cortex_shard_api::SqlType;

use super::{CastContext, facts, types::category};

/// How a value becomes another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pathway {
    /// Same representation, another name: varchar → text.
    Relabel,
    /// A conversion of our own or by function.
    Function,
    /// Element by element.
    Array,
    /// Through the text forms.
    Text,
}

impl CastContext {
    fn allows(self, required: char) -> bool {
        match required {
            'i' => true,
            'a' => self != CastContext::Implicit,
            _ => self == CastContext::Explicit,
        }
    }
}

pub(crate) fn cast_table() -> &'static HashMap<(SqlType, SqlType), (char, char)> {
    &facts::facts().casts
}

/// The way from one type to another in a context, if there is one.
pub(crate) fn pathway(from: SqlType, to: SqlType, context: CastContext) -> Option<Pathway> {
    if from == to {
        return Some(Pathway::Relabel);
    }
    if let Some((required, method)) = cast_table().get(&(from, to)) {
        return context.allows(*required).then_some(match method {
            'b' => Pathway::Relabel,
            'i' => Pathway::Text,
            _ => Pathway::Function,
        });
    }
    if let (SqlType::Array(from), SqlType::Array(to)) = (from, to) {
        return pathway(*from, *to, context).map(|way| match way {
            Pathway::Relabel => Pathway::Relabel,
            _ => Pathway::Array,
        });
    }
    if context != CastContext::Implicit && category(to) == 'S' {
        return Some(Pathway::Text);
    }
    if context == CastContext::Explicit && category(from) == 'S' {
        return Some(Pathway::Text);
    }
    None
}

/// Whether a value of `from` may become `to` in this context.
pub fn can_cast(from: SqlType, to: SqlType, context: CastContext) -> bool {
    match (from, to) {
        (SqlType::Void, _) | (_, SqlType::Void) => from == to,
        (SqlType::Unknown, _) => true,
        (_, SqlType::Unknown) => false,
        (SqlType::Record, SqlType::Record) => true,
        _ => pathway(from, to, context).is_some(),
    }
}
