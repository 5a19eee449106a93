//! Spans and tokens. A token is a kind and a place; its text stays in the source.

use std::fmt;

/// A half-open range of bytes of the query text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    /// The text that it covers; empty when it is not a range of `source`.
    pub fn of(self, source: &str) -> &str {
        source.get(self.start..self.end).unwrap_or_default()
    }
}

/// A part of the AST with its place. Equality looks at the part alone: the same statement written with other blanks
/// is the same statement.
#[derive(Clone)]
pub struct Spanned<T> {
    pub node: T,
    pub span: Span,
}

impl<T> Spanned<T> {
    pub fn new(node: T, span: Span) -> Spanned<T> {
        Spanned { node, span }
    }

    pub(crate) fn map<U>(self, map: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { node: map(self.node), span: self.span }
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Spanned<T>) -> bool {
        self.node == other.node
    }
}

impl<T: fmt::Debug> fmt::Debug for Spanned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)?;
        write!(f, "@{}..{}", self.span.start, self.span.end)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A keyword or a name, by where it stands.
    Word,
    /// `"text"` with JSON's escapes; a doubled quote stands for one.
    DoubleQuoted,
    /// `'text'` where only a doubled quote is special.
    SingleQuoted,
    /// `X'0a0b'`
    Bytes,
    /// A number as JSON writes it.
    Number,
    /// Digits and letters that touch: `30s`.
    Measure,
    /// `$1`
    Parameter(u16),
    Symbol(Symbol),
    End,
}

macro_rules! symbols {
    ($($name:ident $text:literal)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Symbol { $($name),* }

        impl Symbol {
            /// Longer ones first, so that the first match is the longest.
            pub(crate) const ALL: &[Symbol] = &[$(Symbol::$name),*];

            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Symbol::$name => $text),* }
            }
        }
    };
}

symbols! {
    EqualEqual "==" BangEqual "!=" LessGreater "<>" LessEqual "<=" GreaterEqual ">="
    Equal "=" Less "<" Greater ">" Pipe "|" Semicolon ";" Comma "," Dot "." Star "*"
    LeftParen "(" RightParen ")" LeftBracket "[" RightBracket "]" LeftBrace "{" RightBrace "}"
}
