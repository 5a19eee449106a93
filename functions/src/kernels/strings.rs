//! Functions on text and bytea. Positions count characters from 1; case mapping is the C locale's (ASCII).

use cortex_shard_api::{Datum, SqlType, ValueError, ValueErrorKind};

use super::{
    Call, Kernel, Result, STRING_BYTES_MAX, array, bytes, compare::bpchar_significant, error, int,
    int4, invalid_parameter, make_array, make_text, output, text, to_text,
};

pub(super) fn find(name: &str, args: &[Option<SqlType>]) -> Option<Kernel> {
    let first = args.first().copied().flatten();
    let is_bytea = first == Some(SqlType::Bytea);
    Some(match name {
        "length" | "char_length" | "character_length" | "textlen" if !is_bytea => length,
        "length" | "octet_length" | "byteaoctetlen" => octet_length,
        "bit_length" => |call, args| match octet_length(call, args)? {
            Datum::Int4(n) => Ok(Datum::Int4(n * 8)),
            other => Ok(other),
        },
        "lower" => |_, args| Ok(make_text(text(&args[0])?.to_ascii_lowercase())),
        "upper" => |_, args| Ok(make_text(text(&args[0])?.to_ascii_uppercase())),
        "initcap" => initcap,
        "btrim" => |_, args| trim(args, true, true),
        "ltrim" => |_, args| trim(args, true, false),
        "rtrim" => |_, args| trim(args, false, true),
        "substr" | "substring" if args.get(1) == Some(&Some(SqlType::Int4)) => substring,
        "left" => left,
        "right" => right,
        "lpad" => |_, args| pad(args, true),
        "rpad" => |_, args| pad(args, false),
        "replace" => replace,
        "translate" => translate,
        "reverse" => |_, args| Ok(make_text(text(&args[0])?.chars().rev().collect::<String>())),
        "repeat" => repeat,
        "position" | "strpos" => position,
        "split_part" => split_part,
        "textcat" => |_, args| concatenate(text(&args[0])?, text(&args[1])?),
        "textanycat" => |call, args| {
            concatenate(text(&args[0])?, &to_text(&args[1], call.args[1], call.context)?)
        },
        "anytextcat" => |call, args| {
            concatenate(&to_text(&args[0], call.args[0], call.context)?, text(&args[1])?)
        },
        "byteacat" => {
            |_, args| Ok(Datum::Bytea([bytes(&args[0])?, bytes(&args[1])?].concat().into()))
        }
        "concat" => concat,
        "concat_ws" => concat_ws,
        "format" => format,
        "quote_ident" => |_, args| Ok(make_text(quote_identifier(text(&args[0])?))),
        "quote_literal" => |call, args| {
            Ok(make_text(quote_literal(&to_text(&args[0], call.args[0], call.context)?)))
        },
        "quote_nullable" => |call, args| match &args[0] {
            Datum::Null => Ok(make_text("NULL")),
            value => Ok(make_text(quote_literal(&to_text(value, call.args[0], call.context)?))),
        },
        "ascii" => {
            |_, args| Ok(Datum::Int4(text(&args[0])?.chars().next().map_or(0, |c| c as i32)))
        }
        "chr" => chr,
        "md5" => md5,
        "sha224" | "sha256" | "sha384" | "sha512" => return Some(sha(name)),
        "encode" => encode,
        "decode" => decode,
        "to_hex" => |_, args| {
            Ok(make_text(match &args[0] {
                Datum::Int4(value) => format!("{value:x}"),
                value => format!("{:x}", int(value)?),
            }))
        },
        "starts_with" => |_, args| Ok(Datum::Bool(text(&args[0])?.starts_with(text(&args[1])?))),
        "overlay" => overlay,
        "string_to_array" => string_to_array,
        "convert_from" => convert_from,
        "convert_to" => convert_to,
        "get_byte" => get_byte,
        "set_byte" => set_byte,
        "get_bit" => get_bit,
        "unistr" => return None,
        _ => return None,
    })
}

/// The characters of a string value; trailing blanks of char(n) do not count.
fn significant(value: &Datum, ty: SqlType) -> Result<&str> {
    if ty == SqlType::Bpchar { bpchar_significant(value) } else { text(value) }
}

fn length(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    Ok(Datum::Int4(significant(&args[0], call.args[0])?.chars().count() as i32))
}

fn octet_length(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    Ok(Datum::Int4(match &args[0] {
        Datum::Bytea(bytes) => bytes.len() as i32,
        value => text(value)?.len() as i32,
    }))
}

fn initcap(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let mut out = String::new();
    let mut inside = false;
    for c in text(&args[0])?.chars() {
        if inside {
            out.push(c.to_ascii_lowercase());
        } else {
            out.push(c.to_ascii_uppercase());
        }
        inside = c.is_ascii_alphanumeric();
    }
    Ok(make_text(out))
}

fn trim(args: &[Datum], start: bool, end: bool) -> Result<Datum> {
    if let Datum::Bytea(value) = &args[0] {
        let set = bytes(&args[1])?;
        let mut rest = &value[..];
        while start && rest.first().is_some_and(|byte| set.contains(byte)) {
            rest = &rest[1..];
        }
        while end && rest.last().is_some_and(|byte| set.contains(byte)) {
            rest = &rest[..rest.len() - 1];
        }
        return Ok(Datum::Bytea(rest.into()));
    }
    let set = match args.get(1) {
        Some(set) => text(set)?,
        None => " ",
    };
    let mut rest = text(&args[0])?;
    if start {
        rest = rest.trim_start_matches(|c| set.contains(c));
    }
    if end {
        rest = rest.trim_end_matches(|c| set.contains(c));
    }
    Ok(make_text(rest))
}

/// The half-open range of positions (from 0) that `substring(from, for)` means in a string of `n`.
fn range(args: &[Datum], n: usize) -> Result<(usize, usize)> {
    let start = i64::from(int4(&args[1])?);
    let end = match args.get(2) {
        None => i64::MAX,
        Some(length) => {
            let length = i64::from(int4(length)?);
            if length < 0 {
                return error(
                    ValueErrorKind::SubstringLength,
                    "negative substring length not allowed",
                );
            }
            start + length
        }
    };
    let clamp = |position: i64| (position - 1).clamp(0, n as i64) as usize;
    Ok((clamp(start), clamp(end).max(clamp(start))))
}

fn substring(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if let Datum::Bytea(value) = &args[0] {
        let (from, to) = range(args, value.len())?;
        return Ok(Datum::Bytea(value[from..to].into()));
    }
    let value = text(&args[0])?;
    if value.is_ascii() {
        let (from, to) = range(args, value.len())?;
        return Ok(make_text(&value[from..to]));
    }
    let (from, to) = range(args, value.chars().count())?;
    Ok(make_text(value.chars().skip(from).take(to - from).collect::<String>()))
}

fn left(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (value, n) = (text(&args[0])?, i64::from(int4(&args[1])?));
    let kept = if n >= 0 { n } else { (value.chars().count() as i64 + n).max(0) };
    Ok(make_text(value.chars().take(kept as usize).collect::<String>()))
}

fn right(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (value, n) = (text(&args[0])?, i64::from(int4(&args[1])?));
    let count = value.chars().count() as i64;
    let skipped = if n >= 0 { (count - n).max(0) } else { (-n).min(count) };
    Ok(make_text(value.chars().skip(skipped as usize).collect::<String>()))
}

fn pad(args: &[Datum], at_start: bool) -> Result<Datum> {
    let value = text(&args[0])?;
    let wanted = int4(&args[1])?.max(0) as usize;
    let fill = match args.get(2) {
        Some(fill) => text(fill)?,
        None => " ",
    };
    if wanted.saturating_mul(4) > STRING_BYTES_MAX {
        return invalid_limit();
    }
    let count = value.chars().count();
    if wanted <= count || fill.is_empty() {
        return Ok(make_text(value.chars().take(wanted).collect::<String>()));
    }
    let padding = fill.chars().cycle().take(wanted - count).collect::<String>();
    Ok(make_text(if at_start { format!("{padding}{value}") } else { format!("{value}{padding}") }))
}

/// Longer than any string may be.
fn invalid_limit<T>() -> Result<T> {
    error(ValueErrorKind::LimitExceeded, "requested length too large")
}

fn replace(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (value, from, to) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    Ok(make_text(if from.is_empty() { value.to_owned() } else { value.replace(from, to) }))
}

fn translate(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (value, from, to) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match from.chars().position(|candidate| candidate == c) {
            None => out.push(c),
            Some(position) => out.extend(to.chars().nth(position)),
        }
    }
    Ok(make_text(out))
}

fn repeat(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (value, n) = (text(&args[0])?, int4(&args[1])?.max(0) as usize);
    if value.len().saturating_mul(n) > STRING_BYTES_MAX {
        return invalid_limit();
    }
    Ok(make_text(value.repeat(n)))
}

fn position(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if let (Datum::Bytea(value), Datum::Bytea(wanted)) = (&args[0], &args[1]) {
        let found = if wanted.is_empty() {
            Some(0)
        } else {
            value.windows(wanted.len()).position(|window| window == &wanted[..])
        };
        return Ok(Datum::Int4(found.map_or(0, |at| at as i32 + 1)));
    }
    let (value, wanted) = (text(&args[0])?, text(&args[1])?);
    Ok(Datum::Int4(match value.find(wanted) {
        None => 0,
        Some(at) => value[..at].chars().count() as i32 + 1,
    }))
}

fn split_part(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (value, separator, field) = (text(&args[0])?, text(&args[1])?, int4(&args[2])?);
    if field == 0 {
        return invalid_parameter("field position must not be zero");
    }
    let part = if separator.is_empty() {
        (field == 1 || field == -1).then_some(value)
    } else if field > 0 {
        value.split(separator).nth(field as usize - 1)
    } else {
        let parts = value.split(separator).collect::<Vec<_>>();
        parts.len().checked_sub(field.unsigned_abs() as usize).map(|at| parts[at])
    };
    Ok(make_text(part.unwrap_or("")))
}

fn concatenate(left: &str, right: &str) -> Result<Datum> {
    let mut out = String::with_capacity(left.len() + right.len());
    out.push_str(left);
    out.push_str(right);
    Ok(make_text(out))
}

fn concat(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let mut out = String::new();
    for (value, ty) in args.iter().zip(call.args) {
        if !matches!(value, Datum::Null) {
            out.push_str(&output(value, *ty, call)?);
        }
    }
    Ok(make_text(out))
}

fn concat_ws(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if matches!(args[0], Datum::Null) {
        return Ok(Datum::Null);
    }
    let mut parts = Vec::new();
    for (value, ty) in args.iter().zip(call.args).skip(1) {
        if !matches!(value, Datum::Null) {
            parts.push(output(value, *ty, call)?);
        }
    }
    Ok(make_text(parts.join(text(&args[0])?)))
}

/// `format('%s %I %L %2$s %-10s %*s', ...)`.
fn format(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if matches!(args[0], Datum::Null) {
        return Ok(Datum::Null);
    }
    let template = text(&args[0])?;
    let mut out = String::new();
    let mut chars = template.chars().peekable();
    let mut next_arg = 1usize;
    let unterminated = || {
        ValueError::new(ValueErrorKind::InvalidParameter, "unterminated format() type specifier")
            .with_hint("For a single \"%\" use \"%%\".")
    };
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut digits = take_digits(&mut chars);
        let mut at = None;
        if !digits.is_empty() && chars.peek() == Some(&'$') {
            chars.next();
            let position = digits.parse::<usize>().map_err(|_| unterminated())?;
            if position == 0 {
                return invalid_parameter(
                    "format specifies argument 0, but arguments are numbered from 1",
                );
            }
            at = Some(position);
            digits.clear();
        }
        let mut align_left = false;
        while digits.is_empty() && chars.peek() == Some(&'-') {
            chars.next();
            align_left = true;
        }
        if digits.is_empty() {
            digits = take_digits(&mut chars);
        }
        let mut width = digits.parse::<i64>().unwrap_or(0);
        if chars.peek() == Some(&'*') {
            chars.next();
            let mut position = next_arg;
            let explicit = take_digits(&mut chars);
            if !explicit.is_empty() && chars.peek() == Some(&'$') {
                chars.next();
                position = explicit.parse().map_err(|_| unterminated())?;
            } else {
                next_arg += 1;
            }
            width = match argument(args, position)? {
                Datum::Null => 0,
                value => int(value)?,
            };
        }
        let kind = chars.next().ok_or_else(unterminated)?;
        let position = match at {
            Some(position) => {
                next_arg = position + 1;
                position
            }
            None => {
                next_arg += 1;
                next_arg - 1
            }
        };
        let value = argument(args, position)?;
        let ty = call.args[position];
        let piece = match (kind, value) {
            ('s', Datum::Null) => String::new(),
            ('s', value) => output(value, ty, call)?,
            ('I', Datum::Null) => {
                return error(
                    ValueErrorKind::NullNotAllowed,
                    "null values cannot be formatted as an SQL identifier",
                );
            }
            ('I', value) => quote_identifier(&output(value, ty, call)?),
            ('L', Datum::Null) => "NULL".to_owned(),
            ('L', value) => quote_literal(&output(value, ty, call)?),
            (other, _) => {
                return Err(ValueError::new(
                    ValueErrorKind::InvalidParameter,
                    format!("unrecognized format() type specifier \"{other}\""),
                )
                .with_hint("For a single \"%\" use \"%%\"."));
            }
        };
        let padding = width.unsigned_abs() as usize;
        if padding > STRING_BYTES_MAX {
            return invalid_limit();
        }
        let missing = " ".repeat(padding.saturating_sub(piece.chars().count()));
        if align_left || width < 0 {
            out.push_str(&piece);
            out.push_str(&missing);
        } else {
            out.push_str(&missing);
            out.push_str(&piece);
        }
    }
    Ok(make_text(out))
}

fn argument(args: &[Datum], position: usize) -> Result<&Datum> {
    match args.get(position) {
        Some(value) if position > 0 => Ok(value),
        _ => invalid_parameter("too few arguments for format()"),
    }
}

fn take_digits(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut digits = String::new();
    while let Some(c) = chars.next_if(char::is_ascii_digit) {
        digits.push(c);
    }
    digits
}

/// Keywords that an identifier may not be without quotes (reserved and function-name keywords of Postgres 15).
const QUOTED_KEYWORDS: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

/// An identifier as SQL text, quoted if it must be.
pub fn quote_identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !QUOTED_KEYWORDS.contains(&name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A string as SQL text; backslashes make it an escape string.
pub fn quote_literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if value.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

fn chr(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let code = int4(&args[0])?;
    if code == 0 {
        return error(ValueErrorKind::LimitExceeded, "null character not permitted");
    }
    if code < 0 {
        return error(ValueErrorKind::InvalidParameter, "character number must be positive");
    }
    match u32::try_from(code).ok().and_then(char::from_u32) {
        Some(c) => Ok(make_text(c.to_string())),
        None => error(
            ValueErrorKind::LimitExceeded,
            format!("requested character too large for encoding: {code}"),
        ),
    }
}

fn input_bytes(value: &Datum) -> Result<&[u8]> {
    match value {
        Datum::Bytea(bytes) => Ok(bytes),
        value => Ok(text(value)?.as_bytes()),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

fn md5(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    use md5::Digest;
    Ok(make_text(hex(&md5::Md5::digest(input_bytes(&args[0])?))))
}

fn sha(name: &str) -> Kernel {
    use sha2::Digest;
    match name {
        "sha224" => {
            |_, args| Ok(Datum::Bytea(sha2::Sha224::digest(bytes(&args[0])?).as_slice().into()))
        }
        "sha256" => {
            |_, args| Ok(Datum::Bytea(sha2::Sha256::digest(bytes(&args[0])?).as_slice().into()))
        }
        "sha384" => {
            |_, args| Ok(Datum::Bytea(sha2::Sha384::digest(bytes(&args[0])?).as_slice().into()))
        }
        _ => |_, args| Ok(Datum::Bytea(sha2::Sha512::digest(bytes(&args[0])?).as_slice().into())),
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Postgres breaks base64 lines as MIME does.
const BASE64_LINE: usize = 76;

fn encode(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let value = bytes(&args[0])?;
    let format = text(&args[1])?.to_ascii_lowercase();
    Ok(make_text(match format.as_str() {
        "hex" => hex(value),
        "base64" => encode_base64(value),
        "escape" => {
            let mut out = String::new();
            for byte in value {
                match byte {
                    b'\\' => out.push_str("\\\\"),
                    0 | 0x80.. => out.push_str(&format!("\\{byte:03o}")),
                    byte => out.push(char::from(*byte)),
                }
            }
            out
        }
        _ => return unrecognized_encoding(text(&args[1])?),
    }))
}

fn encode_base64(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len() * 4 / 3 + 4);
    let mut column = 0;
    for chunk in value.chunks(3) {
        if column == BASE64_LINE {
            out.push('\n');
            column = 0;
        }
        let group = u32::from(chunk[0]) << 16
            | u32::from(chunk.get(1).copied().unwrap_or(0)) << 8
            | u32::from(chunk.get(2).copied().unwrap_or(0));
        for position in 0..4 {
            if position <= chunk.len() {
                out.push(char::from(BASE64[(group >> (18 - 6 * position)) as usize & 63]));
            } else {
                out.push('=');
            }
        }
        column += 4;
    }
    out
}

fn unrecognized_encoding<T>(name: &str) -> Result<T> {
    invalid_parameter(format!("unrecognized encoding: \"{name}\""))
}

fn decode(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let value = text(&args[0])?;
    let format = text(&args[1])?.to_ascii_lowercase();
    let decoded = match format.as_str() {
        "hex" => decode_hex(value)?,
        "base64" => decode_base64(value)?,
        "escape" => decode_escape(value)?,
        _ => return unrecognized_encoding(text(&args[1])?),
    };
    Ok(Datum::Bytea(decoded.into()))
}

fn decode_hex(value: &str) -> Result<Vec<u8>> {
    let mut digits = Vec::new();
    for c in value.chars().filter(|c| !c.is_ascii_whitespace()) {
        match c.to_digit(16) {
            Some(digit) => digits.push(digit as u8),
            None => return invalid_parameter(format!("invalid hexadecimal digit: \"{c}\"")),
        }
    }
    if digits.len() % 2 == 1 {
        return invalid_parameter("invalid hexadecimal data: odd number of digits");
    }
    Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn decode_base64(value: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let (mut group, mut n, mut padding) = (0u32, 0, 0);
    for c in value.bytes().filter(|c| !c.is_ascii_whitespace()) {
        let six = if c == b'=' {
            padding += 1;
            if padding > 2 || n < 2 {
                return invalid_parameter("unexpected \"=\" while decoding base64 sequence");
            }
            0
        } else {
            match BASE64.iter().position(|candidate| *candidate == c) {
                Some(six) if padding == 0 => six as u32,
                _ => {
                    return invalid_parameter(format!(
                        "invalid symbol \"{}\" found while decoding base64 sequence",
                        char::from(c)
                    ));
                }
            }
        };
        group = group << 6 | six;
        n += 1;
        if n == 4 {
            out.extend_from_slice(&group.to_be_bytes()[1..4 - padding]);
            (group, n) = (0, 0);
        }
    }
    if n != 0 {
        return Err(ValueError::new(
            ValueErrorKind::InvalidParameter,
            "invalid base64 end sequence",
        )
        .with_hint("Input data is missing padding, is truncated, or is otherwise corrupted."));
    }
    Ok(out)
}

fn decode_escape(value: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'\\' {
            out.push(*first);
            rest = tail;
        } else if tail.first() == Some(&b'\\') {
            out.push(b'\\');
            rest = &tail[1..];
        } else {
            let octal = tail
                .get(..3)
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| u8::from_str_radix(digits, 8).ok());
            match octal {
                Some(byte) => out.push(byte),
                None => {
                    return error(
                        ValueErrorKind::InvalidText,
                        "invalid input syntax for type bytea",
                    );
                }
            }
            rest = &tail[3..];
        }
    }
    Ok(out)
}

fn overlay(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let start = i64::from(int4(&args[2])?);
    if start <= 0 {
        return error(ValueErrorKind::SubstringLength, "negative substring length not allowed");
    }
    if let (Datum::Bytea(value), Datum::Bytea(new)) = (&args[0], &args[1]) {
        let length = args.get(3).map(int).transpose()?.unwrap_or(new.len() as i64);
        let (head, tail) = overlay_ends(start, length, value.len());
        return Ok(Datum::Bytea([&value[..head], &new[..], &value[tail..]].concat().into()));
    }
    let value = text(&args[0])?.chars().collect::<Vec<_>>();
    let new = text(&args[1])?;
    let length = args.get(3).map(int).transpose()?.unwrap_or(new.chars().count() as i64);
    let (head, tail) = overlay_ends(start, length, value.len());
    let mut out = value[..head].iter().collect::<String>();
    out.push_str(new);
    out.extend(&value[tail..]);
    Ok(make_text(out))
}

fn overlay_ends(start: i64, length: i64, n: usize) -> (usize, usize) {
    let head = (start - 1).clamp(0, n as i64) as usize;
    let tail = (start - 1 + length).clamp(0, n as i64) as usize;
    (head, tail)
}

/// The fields of `string_to_array` and `string_to_table`.
pub(super) fn split_fields(args: &[Datum]) -> Result<Vec<Datum>> {
    let value = text(&args[0])?;
    let null = match args.get(2) {
        None | Some(Datum::Null) => None,
        Some(null) => Some(text(null)?),
    };
    let fields: Vec<String> = match &args[1] {
        _ if value.is_empty() => Vec::new(),
        Datum::Null => value.chars().map(String::from).collect(),
        separator => match text(separator)? {
            "" => vec![value.to_owned()],
            separator => value.split(separator).map(str::to_owned).collect(),
        },
    };
    Ok(fields
        .into_iter()
        .map(|field| if Some(field.as_str()) == null { Datum::Null } else { make_text(field) })
        .collect())
}

fn string_to_array(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if matches!(args[0], Datum::Null) {
        return Ok(Datum::Null);
    }
    Ok(make_array(SqlType::Text, split_fields(args)?))
}

fn check_encoding(name: &str) -> Result<()> {
    let plain = name.to_ascii_lowercase().replace(['-', '_'], "");
    match plain.as_str() {
        "utf8" | "unicode" | "sqlascii" => Ok(()),
        _ => Err(ValueError::new(
            ValueErrorKind::Unsupported,
            format!("conversion with encoding \"{name}\" is not supported"),
        )
        .with_hint("Every string is UTF8.")),
    }
}

fn convert_from(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    check_encoding(text(&args[1])?)?;
    let value = bytes(&args[0])?;
    match std::str::from_utf8(value) {
        Ok(value) => Ok(make_text(value)),
        Err(broken) => {
            let shown = value[broken.valid_up_to()..]
                .iter()
                .take(1)
                .map(|byte| format!("0x{byte:02x}"))
                .collect::<String>();
            error(
                ValueErrorKind::InvalidCharacter,
                format!("invalid byte sequence for encoding \"UTF8\": {shown}"),
            )
        }
    }
}

fn convert_to(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    check_encoding(text(&args[1])?)?;
    Ok(Datum::Bytea(text(&args[0])?.as_bytes().into()))
}

fn byte_index(index: i64, n: usize) -> Result<usize> {
    usize::try_from(index).ok().filter(|index| *index < n).ok_or_else(|| {
        ValueError::new(
            ValueErrorKind::ArraySubscript,
            format!("index {index} out of valid range, 0..{}", n as i64 - 1),
        )
    })
}

fn get_byte(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let value = bytes(&args[0])?;
    Ok(Datum::Int4(i32::from(value[byte_index(int(&args[1])?, value.len())?])))
}

fn set_byte(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let mut value = bytes(&args[0])?.to_vec();
    let at = byte_index(int(&args[1])?, value.len())?;
    value[at] = int(&args[2])? as u8;
    Ok(Datum::Bytea(value.into()))
}

fn get_bit(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let value = bytes(&args[0])?;
    let at = byte_index(int(&args[1])?, value.len() * 8)?;
    Ok(Datum::Int4(i32::from(value[at / 8] >> (at % 8) & 1)))
}

/// `array_to_string`, which concatenates text forms.
pub(super) fn array_to_string(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if matches!(args[0], Datum::Null) || matches!(args[1], Datum::Null) {
        return Ok(Datum::Null);
    }
    let value = array(&args[0])?;
    let separator = text(&args[1])?;
    let null = match args.get(2) {
        None | Some(Datum::Null) => None,
        Some(null) => Some(text(null)?),
    };
    let mut parts = Vec::new();
    for element in &value.elements {
        match element {
            Datum::Null => parts.extend(null.map(str::to_owned)),
            element => parts.push(output(element, value.element, call)?),
        }
    }
    Ok(make_text(parts.join(separator)))
}
