//! Tokens → AST: a recursive descent with one token of lookahead.
//!
//! Lives here: the token stream, the list of what could stand at the current token, names, keys, values and the other
//! leaves; `admin`, `kv`, `pipeline`, `condition` and `vector` hold the productions. Every question "is it this?" that
//! is answered with no notes what was asked for, so an error lists everything that could stand there and suggests the
//! nearest word of it. Only conditions recurse, and their depth is counted.

mod admin;
mod condition;
mod kv;
mod leaves;
mod pipeline;
mod vector;

#[cfg(test)]
pub(crate) use self::admin::FIRST_WORDS;
pub(crate) use self::admin::SHOWN;
use crate::{
    ast::{Name, ParameterIndex, Statement, ValueKind},
    error::{Expected, Problem, SyntaxError},
    keyword::Keyword,
    lexer,
    limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX},
    similar,
    split::{Piece, Preference, split},
    token::{Span, Spanned, Symbol, Token, TokenKind},
};

/// A statement and the parameters that it uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub statement: Spanned<Statement>,
    /// In the order of the text; one for each use.
    pub parameters: Vec<ParameterUse>,
}

/// A place where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterUse {
    pub index: ParameterIndex,
    pub span: Span,
    pub role: ParameterRole,
}

/// What a parameter stands for, from which its type follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterRole {
    /// Text or bytes.
    Key,
    /// Text, bytes or JSON: which one it says, if anything does.
    Value(Option<ValueKind>),
    Json,
    Vector,
    Duration,
    /// A whole number, zero or more.
    Count,
    /// A whole number.
    Integer,
    /// A pattern, or the token of a cursor.
    Text,
    /// Compared with another operand, which decides.
    Operand,
}

/// Parses one statement, with or without a semicolon behind it.
pub fn parse(text: &str) -> Result<Parsed, SyntaxError> {
    let mut parser = Parser::new(text, 0)?;
    while parser.eat_symbol(Symbol::Semicolon)? {}
    let parsed = parser.statement()?;
    while parser.eat_symbol(Symbol::Semicolon)? {}
    if parser.token.kind != TokenKind::End {
        parser.expected.clear();
        return Err(parser.missing("the end of the text").hint("one statement is expected here"));
    }
    Ok(parsed)
}

/// Parses statements separated by semicolons; spans count from the start of the text.
pub fn parse_all(text: &str) -> Result<Vec<Parsed>, SyntaxError> {
    let pieces = split(text, Preference::CortexQl)?;
    pieces.iter().map(|piece| parse_piece(text, piece)).collect()
}

/// Parses a piece that `split` cut out of `text`; spans count from the start of `text`.
pub fn parse_piece(text: &str, piece: &Piece) -> Result<Parsed, SyntaxError> {
    let source = text.get(..piece.span.end).unwrap_or_default();
    let mut parser = Parser::new(source, piece.span.start)?;
    parser.statement()
}

/// The parser, standing at `token`.
pub(crate) struct Parser<'a> {
    source: &'a str,
    token: Token,
    /// Where the token before ended: the end of what was read.
    end: usize,
    /// What was asked for at `token` and is not there.
    expected: Vec<Expected>,
    /// Open parentheses and NOTs of a condition.
    depth: usize,
    /// Comparisons of the condition so far.
    comparisons: usize,
    parameters: Vec<ParameterUse>,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str, start: usize) -> Result<Parser<'a>, SyntaxError> {
        if source.len() > TEXT_BYTES_MAX {
            let problem = Problem::LimitExceeded { what: "bytes of a text", max: TEXT_BYTES_MAX };
            return Err(SyntaxError::new(problem, Span::new(0, 0)));
        }
        Ok(Parser {
            source,
            token: lexer::token_at(source, start)?,
            end: start,
            expected: Vec::new(),
            depth: 0,
            comparisons: 0,
            parameters: Vec::new(),
        })
    }

    /// A whole statement, up to its semicolon or the end.
    fn statement(&mut self) -> Result<Parsed, SyntaxError> {
        let start = self.token.span.start;
        let statement = self.any_statement()?;
        let span = Span::new(start, self.end);
        if !self.at_symbol(Symbol::Semicolon) && self.token.kind != TokenKind::End {
            self.expected.retain(|one| *one != Expected::Symbol(";"));
            self.expected.push(Expected::Thing("the end of the statement"));
            return Err(self.unexpected());
        }
        let parameters = std::mem::take(&mut self.parameters);
        Ok(Parsed { statement: Spanned::new(statement, span), parameters })
    }

    fn text(&self) -> &'a str {
        self.token.span.of(self.source)
    }

    /// Takes the token and goes on to the next.
    fn advance(&mut self) -> Result<Token, SyntaxError> {
        self.continue_at(self.token.span.end)
    }

    /// Goes on at a place that a scanner of literals has reached.
    fn continue_at(&mut self, position: usize) -> Result<Token, SyntaxError> {
        let taken = self.token;
        self.end = position;
        self.token = lexer::token_at(self.source, position)?;
        self.expected.clear();
        Ok(taken)
    }

    /// The keyword that stands here, without asking for one.
    fn keyword(&self) -> Option<Keyword> {
        if self.token.kind == TokenKind::Word { Keyword::find(self.text()) } else { None }
    }

    fn at(&mut self, keyword: Keyword) -> bool {
        let is_here = self.token.kind == TokenKind::Word && keyword.is(self.text());
        if !is_here {
            self.note(Expected::Word(keyword.as_str()));
        }
        is_here
    }

    fn eat(&mut self, keyword: Keyword) -> Result<bool, SyntaxError> {
        let is_here = self.at(keyword);
        if is_here {
            self.advance()?;
        }
        Ok(is_here)
    }

    /// Takes the first word of an option that may be given once.
    fn option(&mut self, keyword: Keyword, is_given: bool) -> Result<bool, SyntaxError> {
        if !is_given {
            return self.eat(keyword);
        }
        if self.keyword() == Some(keyword) {
            return Err(self.problem(Problem::Duplicate(keyword.as_str())));
        }
        Ok(false)
    }

    fn expect(&mut self, keyword: Keyword) -> Result<(), SyntaxError> {
        if self.eat(keyword)? { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Takes the keyword if it is one of these, and says what it stands for.
    fn choice<T: Copy>(&mut self, choices: &[(Keyword, T)]) -> Result<T, SyntaxError> {
        for (keyword, meaning) in choices {
            if self.eat(*keyword)? {
                return Ok(*meaning);
            }
        }
        Err(self.unexpected())
    }

    fn at_symbol(&mut self, symbol: Symbol) -> bool {
        let is_here = self.token.kind == TokenKind::Symbol(symbol);
        if !is_here {
            self.note(Expected::Symbol(symbol.as_str()));
        }
        is_here
    }

    fn eat_symbol(&mut self, symbol: Symbol) -> Result<bool, SyntaxError> {
        let is_here = self.at_symbol(symbol);
        if is_here {
            self.advance()?;
        }
        Ok(is_here)
    }

    fn expect_symbol(&mut self, symbol: Symbol) -> Result<(), SyntaxError> {
        if self.eat_symbol(symbol)? { Ok(()) } else { Err(self.unexpected()) }
    }

    fn note(&mut self, expected: Expected) {
        if !self.expected.contains(&expected) {
            self.expected.push(expected);
        }
    }

    /// The error that something named is missing here.
    fn missing(&mut self, thing: &'static str) -> SyntaxError {
        self.note(Expected::Thing(thing));
        self.unexpected()
    }

    /// The error that none of what was asked for is here.
    fn unexpected(&self) -> SyntaxError {
        let span = self.token.span;
        let found = match self.token.kind {
            TokenKind::End => "the end".to_owned(),
            _ => shortened(self.text()),
        };
        let expected = self.expected.clone();
        let error = SyntaxError::new(Problem::Unexpected { expected, found }, span);
        match self.meant() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// What was probably meant by the bare word that stands here.
    fn meant(&self) -> Option<String> {
        let word = self.text();
        let is_text_expected = self
            .expected
            .iter()
            .any(|one| matches!(one, Expected::Thing(thing) if QUOTED_THINGS.contains(thing)));
        let in_quotes = (is_text_expected && word.len() <= NAME_BYTES_MAX)
            .then(|| format!("text stands in quotes: \"{word}\""));
        match self.token.kind {
            TokenKind::Word => {}
            TokenKind::Number | TokenKind::Measure => return in_quotes,
            _ => return None,
        }
        let is_pipe_missing = self.expected.contains(&Expected::Symbol("|"))
            && !self.expected.contains(&Expected::Word("WHERE"))
            && pipeline::STAGES.iter().any(|(stage, _)| stage.is(word));
        if is_pipe_missing {
            return Some(format!("a stage begins with |: | {}", word.to_ascii_uppercase()));
        }
        let words = self.expected.iter().filter_map(|one| match one {
            Expected::Word(word) => Some(*word),
            Expected::Symbol(_) | Expected::Thing(_) => None,
        });
        similar::suggest(word, words).map(|meant| format!("did you mean {meant}?")).or(in_quotes)
    }

    /// A problem with the token that stands here.
    fn problem(&self, problem: Problem) -> SyntaxError {
        SyntaxError::new(problem, self.token.span)
    }

    fn limit(&self, what: &'static str, count: usize, max: usize) -> Result<(), SyntaxError> {
        if count > max {
            return Err(self.problem(Problem::LimitExceeded { what, max }));
        }
        Ok(())
    }

    /// What is read from `start` on, with its place.
    fn spanned<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<Spanned<T>, SyntaxError> {
        let start = self.token.span.start;
        let node = read(self)?;
        Ok(Spanned::new(node, Span::new(start, self.end)))
    }

    /// One or more, separated by commas.
    fn list<T>(
        &mut self,
        what: &'static str,
        max: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<Vec<T>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            self.limit(what, items.len() + 1, max)?;
            items.push(read(self)?);
            if !self.eat_symbol(Symbol::Comma)? {
                return Ok(items);
            }
        }
    }

    /// A name: a word, folded to lower case, or anything in quotes.
    fn name(&mut self, thing: &'static str) -> Result<Name, SyntaxError> {
        let name = match self.token.kind {
            TokenKind::Word => self.text().to_ascii_lowercase(),
            TokenKind::DoubleQuoted | TokenKind::SingleQuoted => {
                lexer::unquote(self.source, self.token.span)
            }
            _ => return Err(self.missing(thing)),
        };
        if name.is_empty() {
            return Err(self.missing(thing).hint("a name has at least one character"));
        }
        self.limit("bytes of a name", name.len(), NAME_BYTES_MAX)?;
        let token = self.advance()?;
        let is_qualified = self.token.kind == TokenKind::Symbol(Symbol::Dot);
        if is_qualified {
            self.expected.clear();
            return Err(self
                .missing("a name without a schema")
                .hint("keyspaces and collections live in schema public; quote a name with a dot"));
        }
        Ok(Spanned::new(name, token.span))
    }
}

/// What is written in quotes, and often is not.
const QUOTED_THINGS: &[&str] = &["a key", "a value", "a pattern", "a token", "text"];

/// A found token in quotes, cut when it is long.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let mut shown: String = text.chars().take(CHARS_MAX).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    if shown.contains('"') { shown } else { format!("\"{shown}\"") }
}
