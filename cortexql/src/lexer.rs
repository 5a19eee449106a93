//! Text → tokens, one at a time and from any place: no list of tokens is built, so a statement of 64 MB costs its
//! text. Bare JSON and component lists are read by their own scanners from where the parser stands.

use crate::{
    error::{Problem, SyntaxError},
    json,
    limits::PARAMETER_MAX,
    token::{Span, Symbol, Token, TokenKind},
};

/// The token at or after `position`, behind blanks and comments.
pub(crate) fn token_at(source: &str, position: usize) -> Result<Token, SyntaxError> {
    let start = skip_blanks(source, position)?;
    let Some(first) = char_at(source, start) else {
        return Ok(Token { kind: TokenKind::End, span: Span::new(start, start) });
    };
    let token = |kind, end| Ok(Token { kind, span: Span::new(start, end) });
    match first {
        '"' => token(TokenKind::DoubleQuoted, scan_text(source, start, '"')?),
        '\'' => token(TokenKind::SingleQuoted, scan_text(source, start, '\'')?),
        '$' => parameter(source, start),
        '0'..='9' | '-' => number(source, start),
        'x' | 'X' if char_at(source, start + 1) == Some('\'') => {
            let end = scan_text(source, start + 1, '\'')?;
            let span = Span::new(start, end);
            match bytes(source, span) {
                Some(_) => Ok(Token { kind: TokenKind::Bytes, span }),
                None => {
                    Err(SyntaxError::new(Problem::InvalidBytes, span).hint("for example X'0AFF'"))
                }
            }
        }
        _ if is_word_start(first) => token(TokenKind::Word, word_end(source, start)),
        _ => match symbol(source, start) {
            Some(symbol) => token(TokenKind::Symbol(symbol), start + symbol.as_str().len()),
            None => Err(invalid_character(source, start, first)),
        },
    }
}

pub(crate) fn char_at(source: &str, position: usize) -> Option<char> {
    source.get(position..)?.chars().next()
}

pub(crate) fn is_word_start(character: char) -> bool {
    character.is_alphabetic() || character == '_'
}

pub(crate) fn is_word_part(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

pub(crate) fn word_end(source: &str, start: usize) -> usize {
    let rest = source.get(start..).unwrap_or_default();
    rest.find(|character| !is_word_part(character)).map_or(source.len(), |length| start + length)
}

/// Behind whitespace, `--` and `#` comments to the end of the line, and `/* nested */` ones.
pub(crate) fn skip_blanks(source: &str, mut position: usize) -> Result<usize, SyntaxError> {
    loop {
        let rest = source.get(position..).unwrap_or_default();
        if rest.starts_with("--") || rest.starts_with('#') {
            position += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            position = skip_comment(source, position).ok_or_else(|| {
                SyntaxError::new(Problem::UnterminatedComment, Span::new(position, position + 2))
            })?;
        } else {
            match rest.chars().next() {
                Some(character) if character.is_whitespace() => position += character.len_utf8(),
                _ => return Ok(position),
            }
        }
    }
}

/// The end of the block comment that starts at `position`; comments nest as in SQL.
pub(crate) fn skip_comment(source: &str, position: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    let mut depth = 0_usize;
    let mut position = position;
    loop {
        match bytes.get(position..position + 2)? {
            b"/*" => (depth, position) = (depth + 1, position + 2),
            b"*/" => (depth, position) = (depth - 1, position + 2),
            _ => position += 1,
        }
        if depth == 0 {
            return Some(position);
        }
    }
}

fn symbol(source: &str, start: usize) -> Option<Symbol> {
    let rest = source.get(start..)?;
    Symbol::ALL.iter().copied().find(|symbol| rest.starts_with(symbol.as_str()))
}

fn invalid_character(source: &str, start: usize, character: char) -> SyntaxError {
    let error = SyntaxError::new(
        Problem::InvalidCharacter(character),
        Span::new(start, start + character.len_utf8()),
    );
    let next = char_at(source, start + character.len_utf8());
    match character {
        '+' if next.is_some_and(|next| next.is_ascii_digit()) => {
            error.hint("a number has no plus sign")
        }
        '+' | '-' | '/' | '%' => error.hint("CortexQL has no arithmetic"),
        '&' => error.hint("write AND"),
        '!' => error.hint("write NOT, or != to compare"),
        '`' | '\u{201c}' | '\u{201d}' | '\u{2018}' | '\u{2019}' => error.hint("quotes are \" or '"),
        _ => error,
    }
}

fn parameter(source: &str, start: usize) -> Result<Token, SyntaxError> {
    let end = word_end(source, start + 1);
    let span = Span::new(start, end);
    let digits = source.get(start + 1..end).unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(SyntaxError::new(Problem::InvalidCharacter('$'), Span::new(start, start + 1))
            .hint("a parameter is $ and its number: $1"));
    }
    match digits.parse::<u16>() {
        Ok(index) if index > 0 => Ok(Token { kind: TokenKind::Parameter(index), span }),
        _ => {
            let (what, max) = ("the number of a parameter", i64::from(PARAMETER_MAX));
            Err(SyntaxError::new(Problem::OutOfRange { what, min: 1, max }, span))
        }
    }
}

/// A number as JSON has it, or digits with a unit behind them.
fn number(source: &str, start: usize) -> Result<Token, SyntaxError> {
    let Some(end) = json::scan_number(source, start) else {
        let digits = usize::from(source.get(start..).is_some_and(|rest| rest.starts_with('-')));
        let end = word_end(source, start + digits).max(start + 1);
        if end == start + 1 && digits == 1 {
            return Err(invalid_character(source, start, '-'));
        }
        return Err(invalid_number(source, start, end));
    };
    match char_at(source, end) {
        Some(next) if is_word_part(next) => {
            let end = word_end(source, end);
            let text = source.get(start..end).unwrap_or_default();
            // Digits behind a whole number mean a leading zero; letters behind it, a unit.
            if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') || text.contains('.')
            {
                return Err(invalid_number(source, start, end));
            }
            Ok(Token { kind: TokenKind::Measure, span: Span::new(start, end) })
        }
        Some('.') => Err(invalid_number(source, start, end + 1)),
        _ => Ok(Token { kind: TokenKind::Number, span: Span::new(start, end) }),
    }
}

fn invalid_number(source: &str, start: usize, end: usize) -> SyntaxError {
    let found = source.get(start..end).unwrap_or_default().to_owned();
    SyntaxError::new(Problem::InvalidNumber { found }, Span::new(start, end))
        .hint("numbers are written as in JSON: 7, -0.5, 1e3")
}

/// The end of the quoted text that starts at `start`, with its escapes checked.
fn scan_text(source: &str, start: usize, quote: char) -> Result<usize, SyntaxError> {
    let mut position = start + 1;
    loop {
        let rest = source.as_bytes().get(position..).unwrap_or_default();
        let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\'' | b'\\' | 0));
        position += plain.unwrap_or(rest.len());
        match quoted_char(source, position, quote)? {
            Quoted::Char(_, next) => position = next,
            Quoted::Close(end) => return Ok(end),
            Quoted::End => {
                return Err(SyntaxError::new(
                    Problem::UnterminatedText { quote },
                    Span::new(start, source.len()),
                ));
            }
        }
    }
}

/// What stands at a place inside quotes.
pub(crate) enum Quoted {
    /// A character, and where the next one starts.
    Char(char, usize),
    /// The closing quote, and the place behind it.
    Close(usize),
    /// The end of the text.
    End,
}

/// Reads a character inside quotes: a doubled quote is one; double quotes have JSON's escapes as well.
pub(crate) fn quoted_char(
    source: &str,
    position: usize,
    quote: char,
) -> Result<Quoted, SyntaxError> {
    let Some(character) = char_at(source, position) else { return Ok(Quoted::End) };
    let next = position + character.len_utf8();
    if character == quote {
        return Ok(match char_at(source, next) {
            Some(again) if again == quote => Quoted::Char(quote, next + 1),
            _ => Quoted::Close(next),
        });
    }
    if character == '\\' && quote == '"' {
        return escape(source, position);
    }
    if character == '\0' {
        return Err(SyntaxError::new(Problem::NulInText, Span::new(position, next)));
    }
    Ok(Quoted::Char(character, next))
}

/// A JSON escape at `position`.
fn escape(source: &str, position: usize) -> Result<Quoted, SyntaxError> {
    let Some(name) = char_at(source, position + 1) else { return Ok(Quoted::End) };
    let next = position + 1 + name.len_utf8();
    let character = match name {
        '"' | '\\' | '/' => name,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return unicode_escape(source, position),
        _ => return Err(invalid_escape(source, position, next)),
    };
    Ok(Quoted::Char(character, next))
}

/// `\uXXXX`, two of them for a character beyond U+FFFF.
fn unicode_escape(source: &str, position: usize) -> Result<Quoted, SyntaxError> {
    let unit = |at: usize| {
        let text = source.get(at..at + 6)?.strip_prefix("\\u")?;
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hex { u16::from_str_radix(text, 16).ok() } else { None }
    };
    let first = unit(position);
    let pair = first.into_iter().chain(unit(position + 6));
    let character = char::decode_utf16(pair).next().and_then(Result::ok);
    match character {
        Some('\0') => Err(SyntaxError::new(Problem::NulInText, Span::new(position, position + 6))
            .hint("bytes can hold it: X'00'")),
        Some(character) => Ok(Quoted::Char(character, position + 6 * character.len_utf16())),
        None => {
            let end = word_end(source, position + 1).min(position + 6);
            Err(invalid_escape(source, position, end))
        }
    }
}

fn invalid_escape(source: &str, position: usize, end: usize) -> SyntaxError {
    let end = if source.is_char_boundary(end) { end } else { position + 1 };
    let found = source.get(position..end).unwrap_or_default().to_owned();
    SyntaxError::new(Problem::InvalidEscape { found }, Span::new(position, end)).hint(
        "double quotes have JSON's escapes: \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u0041; in single quotes a backslash is itself",
    )
}

/// The text of a quoted token, whose escapes the lexer has checked.
pub(crate) fn unquote(source: &str, span: Span) -> String {
    let mut text = String::with_capacity(span.end.saturating_sub(span.start + 2));
    each_char(source, span, |character, _| {
        text.push(character);
        true
    });
    text
}

/// The place in the source of a byte of a quoted token's text.
pub(crate) fn place_in_quotes(source: &str, span: Span, offset: usize) -> usize {
    let (mut read, mut place) = (0, span.end.saturating_sub(1));
    each_char(source, span, |character, position| {
        if read >= offset {
            place = position;
            return false;
        }
        read += character.len_utf8();
        true
    });
    place
}

/// Calls `visit` with each character of a quoted token and its place, until it says `false`.
fn each_char(source: &str, span: Span, mut visit: impl FnMut(char, usize) -> bool) {
    let Some(quote) = char_at(source, span.start) else { return };
    let mut position = span.start + 1;
    while let Ok(Quoted::Char(character, next)) = quoted_char(source, position, quote) {
        if !visit(character, position) {
            return;
        }
        position = next;
    }
}

/// The bytes of an `X'...'` token.
pub(crate) fn bytes(source: &str, span: Span) -> Option<Vec<u8>> {
    let digits = source.get(span.start + 2..span.end.checked_sub(1)?)?.as_bytes();
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => {
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
            Some(digit(*high)? << 4 | digit(*low)?)
        }
        _ => None,
    });
    pairs.collect()
}
