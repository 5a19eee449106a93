//! Characters of the statement that an error points to.
//!
//! The parser knows lines and columns; Postgres's protocol wants characters from 1.

use sqlparser::{
    ast::{Expr, Spanned},
    tokenizer::{Location, Span},
};

use super::Binder;

impl Binder<'_> {
    /// The character position (from 1) where a span begins.
    pub(crate) fn position(&self, span: Span) -> Option<usize> {
        self.location(span.start)
    }

    fn location(&self, location: Location) -> Option<usize> {
        // Spans in a view's text mean nothing in the statement.
        if location.line == 0 || self.view_depth > 0 {
            return None;
        }
        let line = usize::try_from(location.line).ok()?;
        let column = usize::try_from(location.column).ok()?;
        let before: usize =
            self.sql.split_inclusive('\n').take(line - 1).map(|line| line.chars().count()).sum();
        Some(before + column)
    }

    /// Where the operator after `left` stands: Postgres points to it, the parser does not keep it.
    pub(crate) fn operator_position(&self, left: &Expr) -> Option<usize> {
        let end = self.location(left.span().end)?;
        let skipped = self
            .sql
            .chars()
            .skip(end - 1)
            .take_while(|c| c.is_whitespace() || matches!(c, ')' | '\''))
            .count();
        Some(end + skipped)
    }
}
