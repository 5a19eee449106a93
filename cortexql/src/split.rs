//! A query text → its statements, each in its language.
//!
//! Where a statement ends depends on the language that it is in: in SQL a backslash in double quotes is itself, `$$`
//! quotes, and `#` is an operator; in CortexQL a backslash escapes, and `#` begins a comment. So the head of each
//! statement decides first, and then its own rules find its semicolon. Nothing is checked here: a text with an open
//! quote is one statement to its end, and the parser of its language says what is wrong.

use crate::{
    error::{Problem, SyntaxError},
    language::{Language, language_of},
    lexer::{is_word_part, is_word_start, skip_comment},
    limits::{STATEMENTS_MAX, TEXT_BYTES_MAX},
    token::Span,
};

/// `SET cortex.language`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// Each statement's first words decide.
    Auto,
    Sql,
    CortexQl,
}

/// One statement of a query text, without its semicolon and what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub language: Language,
    pub span: Span,
}

/// Cuts a text at its semicolons. Empty statements are left out.
pub fn split(text: &str, preference: Preference) -> Result<Vec<Piece>, SyntaxError> {
    let limit = |what, max, at| {
        Err(SyntaxError::new(Problem::LimitExceeded { what, max }, Span::new(at, at)))
    };
    if text.len() > TEXT_BYTES_MAX {
        return limit("bytes of a text", TEXT_BYTES_MAX, 0);
    }
    let mut pieces = Vec::new();
    let mut position = 0;
    loop {
        let start = statement_start(text, position, preference != Preference::Sql);
        let rest = text.get(start..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(pieces);
        }
        let language = match preference {
            Preference::Auto => language_of(rest),
            Preference::Sql => Language::Sql,
            Preference::CortexQl => Language::CortexQl,
        };
        let end = match language {
            Language::Sql => sql_end(text, start),
            Language::CortexQl => cortexql_end(text, start),
        };
        let piece = text.get(start..end).unwrap_or_default().trim_end();
        if pieces.len() == STATEMENTS_MAX {
            return limit("statements in a text", STATEMENTS_MAX, start);
        }
        pieces.push(Piece { language, span: Span::new(start, start + piece.len()) });
        position = end;
    }
}

/// Behind semicolons, whitespace and comments; an open comment is the start of a statement that will not parse.
fn statement_start(text: &str, mut position: usize, with_hash: bool) -> usize {
    loop {
        let rest = text.get(position..).unwrap_or_default();
        if rest.starts_with("--") || with_hash && rest.starts_with('#') {
            position = line_end(text, position);
        } else if rest.starts_with("/*") {
            match skip_comment(text, position) {
                Some(end) => position = end,
                None => return position,
            }
        } else {
            match rest.chars().next() {
                Some(character) if character == ';' || character.is_whitespace() => {
                    position += character.len_utf8();
                }
                _ => return position,
            }
        }
    }
}

fn line_end(text: &str, position: usize) -> usize {
    let rest = text.as_bytes().get(position..).unwrap_or_default();
    position + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
}

/// The place of the semicolon that ends a CortexQL statement, or the end of the text.
fn cortexql_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let mut position = start;
    while let Some(byte) = bytes.get(position) {
        let next = bytes.get(position + 1);
        position = match byte {
            b';' => return position,
            b'"' => quoted_end(bytes, position, true),
            b'\'' => quoted_end(bytes, position, false),
            b'#' => line_end(text, position),
            b'-' if next == Some(&b'-') => line_end(text, position),
            b'/' if next == Some(&b'*') => skip_comment(text, position).unwrap_or(text.len()),
            _ => position + 1,
        };
    }
    text.len()
}

/// The place of the semicolon that ends an SQL statement, or the end of the text.
fn sql_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let mut position = start;
    while let Some(byte) = bytes.get(position) {
        let next = bytes.get(position + 1);
        position = match byte {
            b';' => return position,
            b'"' | b'\'' => quoted_end(bytes, position, false),
            b'$' => dollar_end(text, position),
            b'-' if next == Some(&b'-') => line_end(text, position),
            b'/' if next == Some(&b'*') => skip_comment(text, position).unwrap_or(text.len()),
            b'E' | b'e' if next == Some(&b'\'') => quoted_end(bytes, position + 1, true),
            _ => word_end(text, position),
        };
    }
    text.len()
}

/// Behind a whole word, since an `e` or a `$` inside one quotes nothing; else behind one byte.
fn word_end(text: &str, position: usize) -> usize {
    let rest = text.get(position..).unwrap_or_default();
    if !rest.chars().next().is_some_and(is_word_part) {
        return position + 1;
    }
    let end = rest.find(|character| !is_word_part(character) && character != '$');
    end.map_or(text.len(), |length| position + length)
}

/// Behind the quote that closes the one at `start`: a doubled one does not, nor one behind a backslash if those escape.
fn quoted_end(bytes: &[u8], start: usize, with_backslashes: bool) -> usize {
    let quote = bytes.get(start).copied();
    let mut position = start + 1;
    while let Some(byte) = bytes.get(position) {
        if *byte == b'\\' && with_backslashes {
            position += 2;
        } else if Some(*byte) != quote {
            position += 1;
        } else if bytes.get(position + 1).copied() == quote {
            position += 2;
        } else {
            return position + 1;
        }
    }
    bytes.len()
}

/// Behind `$tag$ ... $tag$`; a `$` that opens none is a character.
fn dollar_end(text: &str, start: usize) -> usize {
    let rest = text.get(start + 1..).unwrap_or_default();
    let Some(length) = rest.find('$') else { return start + 1 };
    let tag = rest.get(..length).unwrap_or_default();
    let is_tag = tag.is_empty() || tag.starts_with(is_word_start) && tag.chars().all(is_word_part);
    if !is_tag {
        return start + 1;
    }
    let delimiter = text.get(start..start + length + 2).unwrap_or_default();
    let body = rest.get(length + 1..).unwrap_or_default();
    match body.find(delimiter) {
        Some(found) => start + 2 * delimiter.len() + found,
        None => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str, preference: Preference) -> Vec<(Language, &str)> {
        let pieces = split(text, preference).expect("within the bounds");
        pieces.into_iter().map(|piece| (piece.language, piece.span.of(text))).collect()
    }

    #[test]
    fn each_statement_by_the_rules_of_its_language() {
        use Language::{CortexQl, Sql};
        let cases: &[(&str, &[(Language, &str)])] = &[
            ("", &[]),
            (" ; -- nothing\n ;; # nothing", &[]),
            ("PUT 'a' 'b'; SELECT 1;", &[(CortexQl, "PUT 'a' 'b'"), (Sql, "SELECT 1")]),
            ("SELECT ';'; GET \"a;b\"", &[(Sql, "SELECT ';'"), (CortexQl, "GET \"a;b\"")]),
            ("SELECT 'PUT -- x'; GET 'a'", &[(Sql, "SELECT 'PUT -- x'"), (CortexQl, "GET 'a'")]),
            (
                "SELECT 1 -- it's; GET 'x'\n; GET 'a'",
                &[(Sql, "SELECT 1 -- it's; GET 'x'"), (CortexQl, "GET 'a'")],
            ),
            ("SELECT 'it''s; x'; GET 'a'", &[(Sql, "SELECT 'it''s; x'"), (CortexQl, "GET 'a'")]),
            ("SELECT E'\\'; x'; GET 'a'", &[(Sql, "SELECT E'\\'; x'"), (CortexQl, "GET 'a'")]),
            ("SELECT 'a\\'; GET 'a'", &[(Sql, "SELECT 'a\\'"), (CortexQl, "GET 'a'")]),
            ("SELECT te'\\'; GET 'a'", &[(Sql, "SELECT te'\\'"), (CortexQl, "GET 'a'")]),
            ("SELECT \"a\\\"; GET 'a'", &[(Sql, "SELECT \"a\\\""), (CortexQl, "GET 'a'")]),
            ("GET \"a\\\";\"; SELECT 1", &[(CortexQl, "GET \"a\\\";\""), (Sql, "SELECT 1")]),
            ("GET 'a\\'; SELECT 1", &[(CortexQl, "GET 'a\\'"), (Sql, "SELECT 1")]),
            ("SELECT $$;'$$; GET 'a'", &[(Sql, "SELECT $$;'$$"), (CortexQl, "GET 'a'")]),
            ("SELECT $t$;$$;$t$; GET 'a'", &[(Sql, "SELECT $t$;$$;$t$"), (CortexQl, "GET 'a'")]),
            (
                "SELECT $1; GET $1; SELECT $1",
                &[(Sql, "SELECT $1"), (CortexQl, "GET $1"), (Sql, "SELECT $1")],
            ),
            ("SELECT a$b$ FROM t; SELECT $b$", &[(Sql, "SELECT a$b$ FROM t"), (Sql, "SELECT $b$")]),
            (
                "SELECT 1 # 2; GET 'a' # b; c\n; SELECT 3",
                &[(Sql, "SELECT 1 # 2"), (CortexQl, "GET 'a' # b; c"), (Sql, "SELECT 3")],
            ),
            (
                "SELECT '{\"a\": 1}'::jsonb #> '{;}'; SCAN ALL",
                &[(Sql, "SELECT '{\"a\": 1}'::jsonb #> '{;}'"), (CortexQl, "SCAN ALL")],
            ),
            (
                "SELECT /* ; /* ; */ ; */ 1; SCAN ALL",
                &[(Sql, "SELECT /* ; /* ; */ ; */ 1"), (CortexQl, "SCAN ALL")],
            ),
            (
                "PUT 'a' {\"b\": \";\\\";\", \"c\": \"\"}; SELECT 1",
                &[(CortexQl, "PUT 'a' {\"b\": \";\\\";\", \"c\": \"\"}"), (Sql, "SELECT 1")],
            ),
            (
                "BEGIN; PUT 'a' 'b'; COMMIT",
                &[(Sql, "BEGIN"), (CortexQl, "PUT 'a' 'b'"), (Sql, "COMMIT")],
            ),
            ("# SQL now\nSELECT 1", &[(Sql, "SELECT 1")]),
            ("SELECT 'open; GET 'a'; x", &[(Sql, "SELECT 'open; GET 'a'; x")]),
            ("GET 'open; SELECT 1", &[(CortexQl, "GET 'open; SELECT 1")]),
            ("/* open; GET 'a'", &[(Sql, "/* open; GET 'a'")]),
            ("SELECT 'ü;'; GET 'ü;'", &[(Sql, "SELECT 'ü;'"), (CortexQl, "GET 'ü;'")]),
            ("SELECT ü$x$; GET 'a'", &[(Sql, "SELECT ü$x$"), (CortexQl, "GET 'a'")]),
        ];
        for (text, expected) in cases {
            assert_eq!(pieces(text, Preference::Auto), *expected, "{text}");
        }
    }

    #[test]
    fn a_pinned_language_does_not_look() {
        use Language::{CortexQl, Sql};
        assert_eq!(pieces("GET 'a'; # b", Preference::Sql), [(Sql, "GET 'a'"), (Sql, "# b")]);
        assert_eq!(
            pieces("SELECT \"a\\\";\"; BEGIN", Preference::CortexQl),
            [(CortexQl, "SELECT \"a\\\";\""), (CortexQl, "BEGIN")]
        );
    }

    #[test]
    fn statements_are_bounded() {
        assert!(split(&"a;".repeat(STATEMENTS_MAX), Preference::Auto).is_ok());
        let error =
            split(&"a;".repeat(STATEMENTS_MAX + 1), Preference::Auto).expect_err("too many");
        assert_eq!(error.to_string(), "statements in a text: at most 10000");
    }
}
