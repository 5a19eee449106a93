//! A few tokens rewritten before sqlparser sees them.
//!
//! `UPDATE ONLY t`, `DELETE FROM ONLY t`, `FROM ONLY t` lose their ONLY: tables have no child tables, so it says what is true
//! anyway, and sqlparser takes it for the table's name.

use sqlparser::tokenizer::{Token, TokenWithSpan};

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

fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}
