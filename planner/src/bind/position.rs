//! Characters of the statement that an error points to.
//!
//! The parser knows lines and columns; Postgres's protocol wants characters from 1.

use sqlparser::{
    ast::{Expr, Query, Spanned},
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

    /// Where the parenthesis in front of a subquery stands.
    pub(crate) fn open_paren(&self, query: &Query) -> Option<usize> {
        let start = self.location(query.span().start)?;
        let before: Vec<char> = self.sql.chars().take(start - 1).collect();
        let blanks = before.iter().rev().take_while(|c| c.is_whitespace()).count();
        start.checked_sub(blanks + 1)
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
