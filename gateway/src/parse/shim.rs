//! A few tokens rewritten before sqlparser sees them.
//!
//! `UPDATE ONLY t`, `DELETE FROM ONLY t`, `FROM ONLY t` lose their ONLY: tables have no child tables, so it says what is true
//! anyway, and sqlparser takes it for the table's name. `OVERRIDING SYSTEM VALUE` and `OVERRIDING USER VALUE`, which it does not
//! know, are taken out and put back into its AST (`planner::bind::write::overriding`).

use cortex_planner::{bind::write::overriding::Overriding, dialect::is_word};
use sqlparser::{
    ast::{SetExpr, Statement},
    tokenizer::{Token, TokenWithSpan},
};

/// OVERRIDING as it stood in the text.
pub(super) struct Found {
    overriding: Overriding,
    /// The word itself, for errors.
    pub token: TokenWithSpan,
}

impl Found {
    /// Puts the clause into the statement's INSERT; `false` if there is none.
    pub(super) fn attach(&self, statement: &mut Statement) -> bool {
        let insert = match statement {
            Statement::Insert(insert) => insert,
            Statement::Query(query) => match &mut *query.body {
                SetExpr::Insert(Statement::Insert(insert)) => insert,
                _ => return false,
            },
            _ => return false,
        };
        // DEFAULT VALUES gives no value that could be overridden.
        if insert.source.is_none() {
            return false;
        }
        self.overriding.attach(insert);
        true
    }
}

/// Takes OVERRIDING ... VALUE out of an INSERT's tokens.
pub(super) fn take_overriding(tokens: &mut Vec<TokenWithSpan>) -> Option<Found> {
    let at = tokens.windows(3).position(|three| {
        is_word(&three[0], "overriding")
            && (is_word(&three[1], "system") || is_word(&three[1], "user"))
            && is_word(&three[2], "value")
    })?;
    let overriding = match is_word(tokens.get(at + 1)?, "system") {
        true => Overriding::SystemValue,
        false => Overriding::UserValue,
    };
    let token = tokens.drain(at..at + 3).next()?;
    Some(Found { overriding, token })
}

pub(super) fn rewrite(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut rewritten: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut tokens =
        tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).peekable();
    while let Some(token) = tokens.next() {
        let names_a_table = ["update", "from", "join"]
            .iter()
            .any(|word| rewritten.last().is_some_and(|before| is_word(before, word)));
        let before_a_name = tokens.peek().is_some_and(|next| matches!(next.token, Token::Word(_)));
        if !(is_word(&token, "only") && names_a_table && before_a_name) {
            rewritten.push(token);
        }
    }
    rewritten
}
