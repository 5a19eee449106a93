//! Pattern matching: LIKE, SIMILAR TO, and Postgres's advanced regular expressions over the `regex` crate.
//!
//! The crate has no back-references and no look-around; a pattern that needs them is refused, never misread. Alternatives match
//! leftmost-first where Postgres takes the longest.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use cortex_shard_api::{Datum, SqlType, ValueError, ValueErrorKind};
use regex::Regex;

use super::{Call, Kernel, Result, error, int4, invalid_parameter, make_array, make_text, text};

pub(super) fn find(name: &str) -> Option<Kernel> {
    Some(match name {
        "textlike" | "namelike" | "bpcharlike" | "like" | "bytealike" => {
            |_, args| like_result(args, false, false)
        }
        "textnlike" | "namenlike" | "bpcharnlike" | "notlike" | "byteanlike" => {
            |_, args| like_result(args, false, true)
        }
        "texticlike" | "nameiclike" | "bpchariclike" => |_, args| like_result(args, true, false),
        "texticnlike" | "nameicnlike" | "bpcharicnlike" => |_, args| like_result(args, true, true),
        "textregexeq" | "nameregexeq" | "bpcharregexeq" => |_, args| matches(args, "", false),
        "textregexne" | "nameregexne" | "bpcharregexne" => |_, args| matches(args, "", true),
        "texticregexeq" | "nameicregexeq" | "bpcharicregexeq" => {
            |_, args| matches(args, "i", false)
        }
        "texticregexne" | "nameicregexne" | "bpcharicregexne" => |_, args| matches(args, "i", true),
        "like_escape" => like_escape,
        "similar_to_escape" | "similar_escape" => |_, args| {
            let escape = match args.get(1) {
                None | Some(Datum::Null) => "\\",
                Some(escape) => text(escape)?,
            };
            Ok(make_text(similar_to_regex(text(&args[0])?, escape)?))
        },
        "regexp_replace" => regexp_replace,
        "regexp_match" => regexp_match,
        "regexp_split_to_array" => |_, args| {
            let pieces = split(text(&args[0])?, text(&args[1])?, flags_at(args, 2)?)?;
            Ok(make_array(SqlType::Text, pieces.into_iter().map(make_text).collect()))
        },
        "regexp_count" => regexp_count,
        "regexp_like" => |_, args| matches(args, flags_at(args, 2)?, false),
        "regexp_substr" => regexp_substr,
        "regexp_instr" => regexp_instr,
        // With positions it is `strings::substring`.
        "substring" => substring,
        _ => return None,
    })
}

/// Compiled patterns kept per thread; a query has a handful.
const CACHE_MAX: usize = 64;
/// Compiled size of one pattern at the most, against patterns that explode.
const COMPILED_BYTES_MAX: usize = 10 << 20;

thread_local! {
    static CACHE: RefCell<HashMap<(String, String), Arc<Regex>>> = RefCell::new(HashMap::new());
}

/// A Postgres pattern with its flags, compiled.
pub(crate) fn compile(pattern: &str, flags: &str) -> Result<Arc<Regex>> {
    let key = (pattern.to_owned(), flags.to_owned());
    if let Some(found) = CACHE.with(|cache| cache.borrow().get(&key).cloned()) {
        return Ok(found);
    }
    let compiled = Arc::new(translate(pattern, flags)?);
    CACHE.with(|cache| {
        let mut cache = cache.borrow_mut();
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        cache.insert(key, compiled.clone());
    });
    Ok(compiled)
}

fn bad_pattern(reason: &str) -> ValueError {
    ValueError::new(ValueErrorKind::InvalidRegex, format!("invalid regular expression: {reason}"))
}

fn unsupported(what: &str) -> ValueError {
    ValueError::new(
        ValueErrorKind::Unsupported,
        format!("{what} in regular expressions are not supported"),
    )
    .with_hint("Rewrite the pattern without them.")
}

fn translate(pattern: &str, flags: &str) -> Result<Regex> {
    let (mut insensitive, mut newline, mut literal, mut extended) = (false, false, false, false);
    let mut pattern = pattern;
    for flag in flags.chars() {
        match flag {
            'i' => insensitive = true,
            'c' => insensitive = false,
            'n' | 'm' => newline = true,
            's' => newline = false,
            'q' => literal = true,
            'x' => extended = true,
            't' | 'g' | 'e' | 'b' => {}
            other => {
                return invalid_parameter(format!(
                    "invalid regular expression option: \"{other}\""
                ));
            }
        }
    }
    if let Some(rest) = pattern.strip_prefix("***=") {
        pattern = rest;
        literal = true;
    } else if let Some(rest) = pattern.strip_prefix("***:") {
        pattern = rest;
    }
    let source = if literal { regex::escape(pattern) } else { translate_pattern(pattern)? };
    regex::RegexBuilder::new(&source)
        .case_insensitive(insensitive)
        .dot_matches_new_line(!newline)
        .multi_line(newline)
        .ignore_whitespace(extended)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|error| bad_pattern(reason(&error)))
}

/// The crate's complaint in Postgres's words.
fn reason(error: &regex::Error) -> &'static str {
    let message = error.to_string();
    if message.contains("unclosed group") || message.contains("unopened group") {
        "parentheses () not balanced"
    } else if message.contains("unclosed character class") {
        "brackets [] not balanced"
    } else if message.contains("repetition operator missing") {
        "quantifier operand invalid"
    } else if message.contains("invalid repetition count") {
        "invalid repetition count(s)"
    } else if message.contains("invalid character class range") {
        "invalid character range"
    } else if message.contains("size limit") {
        "regular expression is too complex"
    } else {
        "invalid escape \\ sequence"
    }
}

/// ARE syntax to the crate's: word boundaries, classes in ASCII, brackets without set operations.
fn translate_pattern(pattern: &str) -> Result<String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                None => return Err(bad_pattern("invalid escape \\ sequence")),
                Some('m') => out.push_str("\\b{start}"),
                Some('M') => out.push_str("\\b{end}"),
                Some('y') => out.push_str("\\b"),
                Some('Y') => out.push_str("\\B"),
                Some('A') => out.push_str("\\A"),
                Some('Z') => out.push_str("\\z"),
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str("[ \\t\\n\\r\\x0b\\x0c]"),
                Some('S') => out.push_str("[^ \\t\\n\\r\\x0b\\x0c]"),
                Some('e') => out.push_str("\\x1b"),
                Some('1'..='9') => return Err(unsupported("back-references")),
                Some(c @ ('a' | 'f' | 'n' | 'r' | 't' | 'v' | 'x' | 'u' | 'U' | '0')) => {
                    out.push('\\');
                    out.push(c);
                }
                Some(c) if c.is_ascii_alphanumeric() => {
                    return Err(bad_pattern("invalid escape \\ sequence"));
                }
                Some(c) => out.push_str(&regex::escape(&c.to_string())),
            },
            '[' => bracket(&mut chars, &mut out)?,
            '(' => {
                out.push('(');
                if chars.peek() == Some(&'?') {
                    let mut ahead = chars.clone();
                    ahead.next();
                    match ahead.next() {
                        Some('=' | '!' | '<') => {
                            return Err(unsupported("look-around constraints"));
                        }
                        _ => {
                            out.push('?');
                            chars.next();
                        }
                    }
                }
            }
            // Not a bound: an ordinary character.
            '{' if !chars.peek().is_some_and(char::is_ascii_digit) => out.push_str("\\{"),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn bracket(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Result<()> {
    let rest = chars.clone().collect::<String>();
    for (boundary, translated) in [("[:<:]]", "\\b{start}"), ("[:>:]]", "\\b{end}")] {
        if rest.starts_with(boundary) {
            out.push_str(translated);
            for _ in 0..boundary.len() {
                chars.next();
            }
            return Ok(());
        }
    }
    out.push('[');
    if chars.peek() == Some(&'^') {
        chars.next();
        out.push('^');
    }
    let mut first = true;
    loop {
        let Some(c) = chars.next() else { return Err(bad_pattern("brackets [] not balanced")) };
        match c {
            ']' if !first => {
                out.push(']');
                return Ok(());
            }
            '[' if matches!(chars.peek(), Some(':')) => {
                out.push('[');
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '\\' => match chars.next() {
                Some('d') => out.push_str("0-9"),
                Some('w') => out.push_str("0-9A-Za-z_"),
                Some('s') => out.push_str(" \\t\\n\\r\\x0b\\x0c"),
                Some(c @ ('a' | 'f' | 'n' | 'r' | 't' | 'v' | 'x' | 'u')) => {
                    out.push('\\');
                    out.push(c);
                }
                Some(c) if c.is_ascii_alphanumeric() => {
                    return Err(bad_pattern("invalid escape \\ sequence"));
                }
                Some(c) => {
                    out.push('\\');
                    out.push(c);
                }
                None => return Err(bad_pattern("invalid escape \\ sequence")),
            },
            c @ ('[' | ']' | '&' | '~' | '^') => {
                out.push('\\');
                out.push(c);
            }
            // Two hyphens would be a set difference.
            '-' if chars.peek() == Some(&'-') => out.push_str("\\-"),
            c => out.push(c),
        }
        first = false;
    }
}

fn flags_at(args: &[Datum], position: usize) -> Result<&str> {
    args.get(position).map_or(Ok(""), text)
}

fn matches(args: &[Datum], flags: &str, negated: bool) -> Result<Datum> {
    let regex = compile(text(&args[1])?, flags)?;
    Ok(Datum::Bool(regex.is_match(text(&args[0])?) != negated))
}

fn like_result(args: &[Datum], fold_case: bool, negated: bool) -> Result<Datum> {
    if let (Datum::Bytea(value), Datum::Bytea(pattern)) = (&args[0], &args[1]) {
        let pattern = pattern.iter().map(|byte| char::from(*byte)).collect::<Vec<_>>();
        let value = value.iter().map(|byte| char::from(*byte)).collect::<Vec<_>>();
        return Ok(Datum::Bool(like(&value, &pattern)? != negated));
    }
    let chars = |value: &Datum| -> Result<Vec<char>> {
        let value = text(value)?;
        Ok(if fold_case {
            value.chars().map(|c| c.to_ascii_lowercase()).collect()
        } else {
            value.chars().collect()
        })
    };
    Ok(Datum::Bool(like(&chars(&args[0])?, &chars(&args[1])?)? != negated))
}

/// LIKE with backslash as the escape. A trailing escape is an error once matching gets there, as in Postgres.
fn like(value: &[char], pattern: &[char]) -> Result<bool> {
    let (mut v, mut p) = (0, 0);
    // Where to go on after the last %, with one more character swallowed.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let matched = if v < value.len() {
            match pattern.get(p) {
                Some('%') => {
                    retry = Some((v, p + 1));
                    p += 1;
                    continue;
                }
                Some('_') => {
                    p += 1;
                    true
                }
                Some('\\') => match pattern.get(p + 1) {
                    None => {
                        return error(
                            ValueErrorKind::InvalidEscape,
                            "LIKE pattern must not end with escape character",
                        );
                    }
                    Some(c) => {
                        p += 2;
                        *c == value[v]
                    }
                },
                Some(c) => {
                    p += 1;
                    *c == value[v]
                }
                None => false,
            }
        } else {
            return Ok(pattern[p..].iter().all(|c| *c == '%'));
        };
        if matched {
            v += 1;
        } else {
            let Some((from, after)) = retry else { return Ok(false) };
            v = from + 1;
            p = after;
            retry = Some((v, after));
            if v > value.len() {
                return Ok(false);
            }
        }
    }
}

/// `like_escape(pattern, escape)`: the pattern with backslash as its escape.
fn like_escape(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (pattern, escape) = (text(&args[0])?, text(&args[1])?);
    let mut characters = escape.chars();
    let escape = characters.next();
    if characters.next().is_some() {
        return Err(ValueError::new(ValueErrorKind::InvalidEscape, "invalid escape string")
            .with_hint("Escape string must be empty or one character."));
    }
    if escape == Some('\\') {
        return Ok(make_text(pattern));
    }
    let mut out = String::with_capacity(pattern.len() + 4);
    let mut after_escape = false;
    for c in pattern.chars() {
        if Some(c) == escape && !after_escape {
            out.push('\\');
            after_escape = true;
            continue;
        }
        if c == '\\' && !after_escape {
            out.push('\\');
        }
        out.push(c);
        after_escape = false;
    }
    Ok(make_text(out))
}

/// SIMILAR TO as a regular expression.
fn similar_to_regex(pattern: &str, escape: &str) -> Result<String> {
    let mut characters = escape.chars();
    let escape = characters.next();
    if characters.next().is_some() {
        return Err(ValueError::new(ValueErrorKind::InvalidEscape, "invalid escape string")
            .with_hint("Escape string must be empty or one character."));
    }
    let mut out = String::from("^(?:");
    let mut in_bracket = false;
    let mut after_escape = false;
    let mut quotes = 0;
    for c in pattern.chars() {
        if after_escape {
            if c == '"' && !in_bracket {
                // Separators of substring(... similar ...): only the middle part is wanted.
                out.push_str(match quotes {
                    0 => "){1,1}?(",
                    1 => "){1,1}(?:",
                    _ => {
                        return error(
                            ValueErrorKind::InvalidEscape,
                            "SQL regular expression may not contain more than two escape-double-quote separators",
                        );
                    }
                });
                quotes += 1;
            } else {
                out.push('\\');
                out.push(c);
            }
            after_escape = false;
        } else if Some(c) == escape {
            after_escape = true;
        } else if in_bracket {
            if c == '\\' {
                out.push('\\');
            }
            out.push(c);
            in_bracket = c != ']';
        } else {
            match c {
                '[' => {
                    out.push(c);
                    in_bracket = true;
                }
                '%' => out.push_str(".*"),
                '_' => out.push('.'),
                '(' => out.push_str("(?:"),
                '\\' | '.' | '^' | '$' => {
                    out.push('\\');
                    out.push(c);
                }
                c => out.push(c),
            }
        }
    }
    out.push_str(")$");
    Ok(out)
}

/// Byte offset of a character position counted from 1.
fn offset_of(value: &str, start: i32, what: &str) -> Result<usize> {
    if start <= 0 {
        return invalid_parameter(format!("invalid value for parameter \"{what}\": {start}"));
    }
    Ok(value.char_indices().nth(start as usize - 1).map_or(value.len(), |(at, _)| at))
}

fn regexp_replace(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (value, pattern, replacement) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    let (start, nth, flags) = match args.get(3) {
        None => (1, 1, ""),
        Some(Datum::Text(flags)) => {
            if let Some(digit) = flags.chars().next().filter(char::is_ascii_digit) {
                return Err(ValueError::new(
                    ValueErrorKind::InvalidParameter,
                    format!("invalid regular expression option: \"{digit}\""),
                )
                .with_hint("If you meant to use regexp_replace() with a start parameter, cast the fourth argument to integer explicitly."));
            }
            (1, i32::from(!flags.contains('g')), &**flags)
        }
        Some(start) => {
            let flags = flags_at(args, 5)?;
            let nth = match args.get(4) {
                Some(nth) => int4(nth)?,
                None => i32::from(!flags.contains('g')),
            };
            (int4(start)?, nth, flags)
        }
    };
    if nth < 0 {
        return invalid_parameter(format!("invalid value for parameter \"n\": {nth}"));
    }
    let regex = compile(pattern, flags)?;
    let from = offset_of(value, start, "start")?;
    let mut out = String::with_capacity(value.len());
    let mut copied = 0;
    let mut seen = 0;
    for captures in regex.captures_iter(value) {
        let Some(whole) = captures.get(0).filter(|whole| whole.start() >= from) else { continue };
        seen += 1;
        if nth != 0 && seen != nth {
            continue;
        }
        out.push_str(&value[copied..whole.start()]);
        expand(replacement, &captures, &mut out);
        copied = whole.end();
        if nth != 0 {
            break;
        }
    }
    out.push_str(&value[copied..]);
    Ok(make_text(out))
}

/// Appends a replacement: `\1` is a group, `\&` the whole match, `\\` a backslash.
fn expand(replacement: &str, captures: &regex::Captures<'_>, out: &mut String) {
    let mut chars = replacement.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('&') => out.push_str(captures.get(0).map_or("", |m| m.as_str())),
            Some(digit @ '1'..='9') => {
                let group = digit as usize - '0' as usize;
                out.push_str(captures.get(group).map_or("", |m| m.as_str()));
            }
            Some('\\') | None => out.push('\\'),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
        }
    }
}

/// The groups of a match, or all of it where the pattern has none.
fn groups(captures: &regex::Captures<'_>) -> Datum {
    let group = |position: usize| match captures.get(position) {
        Some(found) => make_text(found.as_str()),
        None => Datum::Null,
    };
    let elements =
        if captures.len() == 1 { vec![group(0)] } else { (1..captures.len()).map(group).collect() };
    make_array(SqlType::Text, elements)
}

fn regexp_match(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let flags = flags_at(args, 2)?;
    if flags.contains('g') {
        return Err(ValueError::new(
            ValueErrorKind::InvalidParameter,
            "regexp_match() does not support the \"global\" option",
        )
        .with_hint("Use the regexp_matches function instead."));
    }
    let regex = compile(text(&args[1])?, flags)?;
    Ok(regex.captures(text(&args[0])?).map_or(Datum::Null, |captures| groups(&captures)))
}

/// The matches of `regexp_matches`.
pub(super) fn all_matches(args: &[Datum]) -> Result<Vec<Datum>> {
    let flags = flags_at(args, 2)?;
    let regex = compile(text(&args[1])?, flags)?;
    let limit = if flags.contains('g') { usize::MAX } else { 1 };
    Ok(regex.captures_iter(text(&args[0])?).take(limit).map(|found| groups(&found)).collect())
}

/// The pieces between matches. Empty matches at the ends or right behind another match do not split.
pub(super) fn split(value: &str, pattern: &str, flags: &str) -> Result<Vec<String>> {
    if flags.contains('g') {
        return invalid_parameter("regexp_split_to_array() does not support the \"global\" option");
    }
    let regex = compile(pattern, flags)?;
    let mut pieces = Vec::new();
    let mut start = 0;
    for found in regex.find_iter(value) {
        let empty = found.start() == found.end();
        if empty && (found.start() == start || found.end() == value.len()) {
            continue;
        }
        pieces.push(value[start..found.start()].to_owned());
        start = found.end();
    }
    pieces.push(value[start..].to_owned());
    Ok(pieces)
}

fn regexp_count(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let value = text(&args[0])?;
    let regex = compile(text(&args[1])?, flags_at(args, 3)?)?;
    let from = offset_of(value, args.get(2).map_or(Ok(1), int4)?, "start")?;
    Ok(Datum::Int4(regex.find_iter(value).filter(|m| m.start() >= from).count() as i32))
}

/// The nth match from a start, and the wanted group in it.
fn nth_group<'a>(
    args: &'a [Datum],
    flags: &str,
    group: Option<&Datum>,
) -> Result<Option<regex::Match<'a>>> {
    let value = text(&args[0])?;
    let regex = compile(text(&args[1])?, flags)?;
    let from = offset_of(value, args.get(2).map_or(Ok(1), int4)?, "start")?;
    let nth = args.get(3).map_or(Ok(1), int4)?;
    if nth <= 0 {
        return invalid_parameter(format!("invalid value for parameter \"n\": {nth}"));
    }
    let group = group.map_or(Ok(0), int4)?;
    if group < 0 {
        return invalid_parameter(format!("invalid value for parameter \"subexpr\": {group}"));
    }
    Ok(regex
        .captures_iter(value)
        .filter(|captures| captures.get(0).is_some_and(|whole| whole.start() >= from))
        .nth(nth as usize - 1)
        .and_then(|captures| captures.get(group as usize)))
}

fn regexp_substr(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let found = nth_group(args, flags_at(args, 4)?, args.get(5))?;
    Ok(found.map_or(Datum::Null, |found| make_text(found.as_str())))
}

fn regexp_instr(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let end = args.get(4).map_or(Ok(0), int4)?;
    if !(0..=1).contains(&end) {
        return invalid_parameter(format!("invalid value for parameter \"endoption\": {end}"));
    }
    let found = nth_group(args, flags_at(args, 5)?, args.get(6))?;
    let value = text(&args[0])?;
    Ok(Datum::Int4(found.map_or(0, |found| {
        let at = if end == 1 { found.end() } else { found.start() };
        value[..at].chars().count() as i32 + 1
    })))
}

/// `substring(text, pattern[, escape])`: the first group, or the whole match.
fn substring(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let regex = match args.get(2) {
        Some(escape) => compile(&similar_to_regex(text(&args[1])?, text(escape)?)?, "")?,
        None => compile(text(&args[1])?, "")?,
    };
    let Some(captures) = regex.captures(text(&args[0])?) else { return Ok(Datum::Null) };
    let group = usize::from(captures.len() > 1);
    Ok(captures.get(group).map_or(Datum::Null, |found| make_text(found.as_str())))
}
