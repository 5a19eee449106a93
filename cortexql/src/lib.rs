//! CortexQL, the language alone: text → AST with spans, and back to canonical text.
//!
//! Lives here: tokens, the parser, the AST, its printing, syntax errors, and the decision whether a text is CortexQL
//! or SQL. Not here: what names mean and how statements run (lowering, in the planner), SQLSTATEs (the gateway).
//! No DataFusion, no sockets, no clock. Invariants: `parse(print(ast)) == ast`; no input panics; nothing recurses
//! without a bound. `GRAMMAR.md` is the grammar, tested against the parser. Modules in reading order.

/// The bounds of everything.
pub mod limits;

/// Spans and tokens.
mod token;

/// The words that mean something.
mod keyword;

/// Text → tokens, one at a time.
mod lexer;

/// JSON literals: checked, kept as text.
mod json;

/// JSON paths: `$.a.b[0]`.
mod path;

/// Component lists of vectors.
mod components;

/// Durations: `30s`.
mod duration;

/// What a statement says.
pub mod ast;

/// AST → canonical text.
mod display;

/// Names, text and bytes as they are printed.
mod quote;

/// Syntax errors: what, where, what could stand there.
mod error;

/// Near misses: "did you mean".
mod similar;

/// Tokens → AST.
mod parser;

/// CortexQL or SQL.
mod language;

/// A query text of several statements, in either language.
mod split;

pub use error::{ErrorClass, Expected, JsonProblem, PathProblem, Problem, SyntaxError};
pub use keyword::Keyword;
pub use language::{Language, language_of};
pub use parser::{ParameterRole, ParameterUse, Parsed, parse, parse_all, parse_piece};
pub use split::{Piece, Preference, split};
pub use token::{Span, Spanned};
