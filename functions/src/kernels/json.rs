//! Functions on json and jsonb. Access works on slices of the text (jsonb's is canonical, json's stays as it was given); changes
//! go through the tree `shard_api::value::json::Json`.

use std::{cmp::Ordering, fmt::Write};

use cortex_shard_api::{
    Datum, SqlType, ValueError, ValueErrorKind,
    key::{KeyOrder, encode_datum},
    value::json::{Json, parse, sort_members, write_string},
};

use super::{
    Call, Kernel, Result, array, boolean, error, int4, invalid_parameter, make_text, output, text,
};

pub(super) fn find(name: &str) -> Option<Kernel> {
    Some(match name {
        "json_object_field" | "jsonb_object_field" => {
            |call, args| Ok(wrap_slice(call, member(text(&args[0])?, text(&args[1])?)))
        }
        "json_object_field_text" | "jsonb_object_field_text" => {
            |_, args| Ok(slice_text(member(text(&args[0])?, text(&args[1])?)))
        }
        "json_array_element" | "jsonb_array_element" => {
            |call, args| Ok(wrap_slice(call, element(text(&args[0])?, int4(&args[1])?)))
        }
        "json_array_element_text" | "jsonb_array_element_text" => {
            |_, args| Ok(slice_text(element(text(&args[0])?, int4(&args[1])?)))
        }
        "json_extract_path" | "jsonb_extract_path" => |call, args| {
            Ok(match extract_path(args)? {
                Some(found) => wrap_slice(call, Some(found)),
                None => Datum::Null,
            })
        },
        "json_extract_path_text" | "jsonb_extract_path_text" => {
            |_, args| Ok(slice_text(extract_path(args)?))
        }
        "json_array_length" | "jsonb_array_length" => array_length,
        "json_typeof" | "jsonb_typeof" => |_, args| Ok(make_text(kind(text(&args[0])?))),
        "to_json" | "to_jsonb" => |call, args| {
            let mut out = String::new();
            append_json(&args[0], call.args[0], call, &mut out)?;
            wrap(call, out)
        },
        "array_to_json" => |call, args| {
            let mut out = String::new();
            append_json(&args[0], call.args[0], call, &mut out)?;
            let pretty = matches!(args.get(1), Some(Datum::Bool(true)));
            Ok(Datum::Json(if pretty { out.replace(',', ",\n ") } else { out }.into()))
        },
        "json_build_object" | "jsonb_build_object" => build_object,
        "json_build_array" | "jsonb_build_array" => build_array,
        "json_object" | "jsonb_object" => object_of_arrays,
        "jsonb_contains" => {
            |_, args| Ok(Datum::Bool(contains(&tree(&args[0])?, &tree(&args[1])?, true)))
        }
        "jsonb_contained" => {
            |_, args| Ok(Datum::Bool(contains(&tree(&args[1])?, &tree(&args[0])?, true)))
        }
        "jsonb_exists" => |_, args| Ok(Datum::Bool(exists(&tree(&args[0])?, text(&args[1])?))),
        "jsonb_exists_any" => |_, args| {
            let value = tree(&args[0])?;
            Ok(Datum::Bool(keys(&args[1])?.iter().any(|key| exists(&value, key))))
        },
        "jsonb_exists_all" => |_, args| {
            let value = tree(&args[0])?;
            Ok(Datum::Bool(keys(&args[1])?.iter().all(|key| exists(&value, key))))
        },
        "jsonb_concat" => |_, args| make(concatenated(tree(&args[0])?, tree(&args[1])?)),
        "jsonb_delete" => delete,
        "jsonb_delete_path" => |_, args| {
            let value = tree(&args[0])?;
            if !matches!(value, Json::Array(_) | Json::Object(_)) {
                return invalid_parameter("cannot delete path in scalar");
            }
            make(delete_path(value, &keys(&args[1])?)?)
        },
        "jsonb_set" => set,
        "jsonb_insert" => insert,
        "jsonb_pretty" => |_, args| {
            let mut out = String::new();
            pretty(&tree(&args[0])?, 0, &mut out);
            Ok(make_text(out))
        },
        "json_strip_nulls" => |_, args| {
            let mut out = String::new();
            strip_text(text(&args[0])?, &mut out);
            Ok(Datum::Json(out.into()))
        },
        "jsonb_strip_nulls" => |_, args| make(strip(tree(&args[0])?)),
        _ => return None,
    })
}

/// Orders two jsonb values as Postgres's btree does.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    if left == right {
        return Ordering::Equal;
    }
    let key = |value: &str| {
        let mut out = Vec::new();
        encode_datum(&mut out, &Datum::Jsonb(value.into()), SqlType::Jsonb, KeyOrder::default());
        out
    };
    key(left).cmp(&key(right))
}

fn tree(value: &Datum) -> Result<Json> {
    parse(text(value)?)
}

fn make(value: Json) -> Result<Datum> {
    Ok(Datum::Jsonb(value.to_string().into()))
}

/// JSON text as the type the call returns.
fn wrap(call: &Call<'_>, out: String) -> Result<Datum> {
    if call.returns == SqlType::Jsonb { make(parse(&out)?) } else { Ok(Datum::Json(out.into())) }
}

/// A slice of a document as the type the call returns; nothing is NULL.
fn wrap_slice(call: &Call<'_>, slice: Option<&str>) -> Datum {
    match slice {
        None => Datum::Null,
        Some(slice) if call.returns == SqlType::Jsonb => Datum::Jsonb(slice.into()),
        Some(slice) => Datum::Json(slice.into()),
    }
}

/// What `->>` gives: strings without quotes, NULL for null.
pub(super) fn slice_text(slice: Option<&str>) -> Datum {
    match slice {
        None | Some("null") => Datum::Null,
        Some(slice) if slice.starts_with('"') => make_text(unquoted(slice)),
        Some(slice) => make_text(slice),
    }
}

/// A JSON string's characters.
fn unquoted(slice: &str) -> String {
    if !slice.contains('\\') {
        return slice[1..slice.len() - 1].to_owned();
    }
    match parse(slice) {
        Ok(Json::String(text)) => text.into(),
        _ => slice.to_owned(),
    }
}

fn kind(document: &str) -> &'static str {
    match document.trim_start().as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    }
}

/// Walks over valid JSON text.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0 }
    }

    fn blank(&mut self) {
        while self.text.as_bytes().get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn byte(&mut self) -> Option<u8> {
        self.blank();
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next value's text; the scanner stands behind it.
    fn value(&mut self) -> &'a str {
        self.blank();
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut depth = 0usize;
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'"' => self.string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' | b',' | b':' if depth == 0 => break,
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                byte if depth == 0 && byte.is_ascii_whitespace() => break,
                _ => self.at += 1,
            }
            if depth == 0 && matches!(bytes.get(self.at - 1), Some(b'}' | b']' | b'"')) {
                break;
            }
        }
        &self.text[start..self.at]
    }

    fn string(&mut self) {
        let bytes = self.text.as_bytes();
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += match byte {
                b'\\' => 2,
                b'"' => {
                    self.at += 1;
                    return;
                }
                _ => 1,
            };
        }
    }
}

/// The members of an object in their order; `None` for what is no object.
pub(super) fn members(document: &str) -> Option<Vec<(String, &str)>> {
    let mut scanner = Scanner::new(document);
    if scanner.byte() != Some(b'{') {
        return None;
    }
    scanner.at += 1;
    let mut found = Vec::new();
    while scanner.byte().is_some_and(|byte| byte != b'}') {
        let key = unquoted(scanner.value());
        scanner.blank();
        scanner.at += 1;
        found.push((key, scanner.value()));
        if scanner.byte() == Some(b',') {
            scanner.at += 1;
        }
    }
    Some(found)
}

/// The elements of an array; `None` for what is no array.
pub(super) fn elements(document: &str) -> Option<Vec<&str>> {
    let mut scanner = Scanner::new(document);
    if scanner.byte() != Some(b'[') {
        return None;
    }
    scanner.at += 1;
    let mut found = Vec::new();
    while scanner.byte().is_some_and(|byte| byte != b']') {
        found.push(scanner.value());
        if scanner.byte() == Some(b',') {
            scanner.at += 1;
        }
    }
    Some(found)
}

/// A member by key; of several the last counts.
fn member<'a>(document: &'a str, key: &str) -> Option<&'a str> {
    members(document)?.into_iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
}

/// An element by position from 0, or from the end if negative.
fn element(document: &str, position: i32) -> Option<&str> {
    let all = elements(document)?;
    let at = if position < 0 { all.len() as i64 + i64::from(position) } else { position.into() };
    usize::try_from(at).ok().and_then(|at| all.get(at).copied())
}

fn extract_path(args: &[Datum]) -> Result<Option<&str>> {
    let mut current = text(&args[0])?.trim();
    let path: &[Datum] = match &args[1..] {
        [Datum::Array(path)] => &path.elements,
        path => path,
    };
    for step in path {
        if matches!(step, Datum::Null) {
            return Ok(None);
        }
        let step = text(step)?;
        let next = match kind(current) {
            "object" => member(current, step),
            "array" => step.trim().parse().ok().and_then(|at| element(current, at)),
            _ => None,
        };
        match next {
            Some(next) => current = next,
            None => return Ok(None),
        }
    }
    Ok(Some(current))
}

fn array_length(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let document = text(&args[0])?;
    match (elements(document), kind(document)) {
        (Some(elements), _) => Ok(Datum::Int4(elements.len() as i32)),
        (None, "object") => invalid_parameter("cannot get array length of a non-array"),
        (None, _) => invalid_parameter("cannot get array length of a scalar"),
    }
}

/// Appends a value's JSON form, as `to_json` makes it.
pub(crate) fn append_json(
    value: &Datum,
    ty: SqlType,
    call: &Call<'_>,
    out: &mut String,
) -> Result<()> {
    match value {
        Datum::Null => out.push_str("null"),
        Datum::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Datum::Json(text) | Datum::Jsonb(text) => out.push_str(text),
        Datum::Int2(_)
        | Datum::Int4(_)
        | Datum::Int8(_)
        | Datum::Float4(_)
        | Datum::Float8(_)
        | Datum::Numeric(_) => {
            let shown = output(value, ty, call)?;
            // NaN and the infinities are no JSON numbers.
            if shown.starts_with(|c: char| c.is_ascii_digit())
                || shown.as_bytes().get(1).is_some_and(u8::is_ascii_digit)
            {
                out.push_str(&shown);
            } else {
                quote(out, &shown);
            }
        }
        Datum::Array(array) => {
            out.push('[');
            for (position, element) in array.elements.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                append_json(element, array.element, call, out)?;
            }
            out.push(']');
        }
        Datum::Timestamp(_) => quote(out, &output(value, ty, call)?.replacen(' ', "T", 1)),
        Datum::Timestamptz(_) => {
            let mut shown = output(value, ty, call)?.replacen(' ', "T", 1);
            // The zone always has its minutes here.
            let zone = shown.rfind(['+', '-']).filter(|at| *at > 10);
            if let Some(at) = zone
                && !shown[at..].contains(':')
                && shown[at..].len() == 3
            {
                shown.push_str(":00");
            }
            quote(out, &shown);
        }
        value => quote(out, &output(value, ty, call)?),
    }
    Ok(())
}

/// Appends a JSON string.
pub(crate) fn quote(out: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = write_string(out, text);
}

fn key_null(call: &Call<'_>, position: usize) -> ValueError {
    if call.returns == SqlType::Jsonb {
        return ValueError::new(
            ValueErrorKind::InvalidParameter,
            format!("argument {position}: key must not be null"),
        );
    }
    ValueError::new(ValueErrorKind::InvalidParameter, format!("argument {position} cannot be null"))
        .with_hint("Object keys should be text.")
}

fn build_object(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if args.len() % 2 == 1 {
        let name = if call.returns == SqlType::Jsonb { "jsonb" } else { "json" };
        return Err(ValueError::new(
            ValueErrorKind::InvalidParameter,
            "argument list must have even number of elements",
        )
        .with_hint(format!(
            "The arguments of {name}_build_object() must consist of alternating keys and values."
        )));
    }
    let mut out = String::from("{");
    for (position, pair) in args.chunks(2).enumerate() {
        if position > 0 {
            out.push_str(", ");
        }
        if matches!(pair[0], Datum::Null) {
            return Err(key_null(call, position * 2 + 1));
        }
        quote(&mut out, &output(&pair[0], call.args[position * 2], call)?);
        out.push_str(" : ");
        append_json(&pair[1], call.args[position * 2 + 1], call, &mut out)?;
    }
    out.push('}');
    wrap(call, out)
}

fn build_array(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let mut out = String::from("[");
    for (position, (value, ty)) in args.iter().zip(call.args).enumerate() {
        if position > 0 {
            out.push_str(", ");
        }
        append_json(value, *ty, call, &mut out)?;
    }
    out.push(']');
    wrap(call, out)
}

/// `json_object(keys_and_values)` and `json_object(keys, values)`.
fn object_of_arrays(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let first = &array(&args[0])?.elements;
    let pairs: Vec<(&Datum, &Datum)> = match args.get(1) {
        None => {
            if first.len() % 2 == 1 {
                return error(
                    ValueErrorKind::ArraySubscript,
                    "array must have even number of elements",
                );
            }
            first.chunks(2).map(|pair| (&pair[0], &pair[1])).collect()
        }
        Some(values) => {
            let values = &array(values)?.elements;
            if first.len() != values.len() {
                return error(ValueErrorKind::ArraySubscript, "mismatched array dimensions");
            }
            first.iter().zip(values).collect()
        }
    };
    let mut out = String::from("{");
    for (position, (key, value)) in pairs.into_iter().enumerate() {
        if position > 0 {
            out.push_str(", ");
        }
        if matches!(key, Datum::Null) {
            return error(ValueErrorKind::NullNotAllowed, "null value not allowed for object key");
        }
        quote(&mut out, text(key)?);
        out.push_str(" : ");
        match value {
            Datum::Null => out.push_str("null"),
            value => quote(&mut out, text(value)?),
        }
    }
    out.push('}');
    wrap(call, out)
}

/// `@>`. At the top an array also contains a bare scalar.
fn contains(outer: &Json, inner: &Json, top: bool) -> bool {
    match (outer, inner) {
        (Json::Object(outer), Json::Object(inner)) => inner.iter().all(|(key, wanted)| {
            outer
                .iter()
                .find(|(name, _)| name == key)
                .is_some_and(|(_, value)| contains(value, wanted, false))
        }),
        (Json::Array(outer), Json::Array(inner)) => {
            inner.iter().all(|wanted| outer.iter().any(|element| contains(element, wanted, false)))
        }
        (Json::Array(outer), scalar) if top && !matches!(scalar, Json::Object(_)) => {
            outer.iter().any(|element| element == scalar)
        }
        (left, right) => left == right,
    }
}

/// `?`: a key of an object, a string in an array, or the string itself.
fn exists(value: &Json, key: &str) -> bool {
    match value {
        Json::Object(members) => members.iter().any(|(name, _)| &**name == key),
        Json::Array(elements) => {
            elements.iter().any(|element| matches!(element, Json::String(text) if &**text == key))
        }
        Json::String(text) => &**text == key,
        _ => false,
    }
}

/// The strings of a text array, NULLs left out.
fn keys(value: &Datum) -> Result<Vec<&str>> {
    array(value)?
        .elements
        .iter()
        .filter(|element| !matches!(element, Datum::Null))
        .map(text)
        .collect()
}

fn concatenated(left: Json, right: Json) -> Json {
    let listed = |value: Json| match value {
        Json::Array(elements) => elements,
        other => vec![other],
    };
    match (left, right) {
        (Json::Object(mut left), Json::Object(right)) => {
            left.extend(right);
            sort_members(&mut left);
            Json::Object(left)
        }
        (left, right) => {
            let mut elements = listed(left);
            elements.extend(listed(right));
            Json::Array(elements)
        }
    }
}

fn delete(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let value = tree(&args[0])?;
    let scalar = || invalid_parameter("cannot delete from scalar");
    if let Datum::Int4(position) = &args[1] {
        return match value {
            Json::Array(mut elements) => {
                if let Some(at) = position_in(*position, elements.len()) {
                    elements.remove(at);
                }
                make(Json::Array(elements))
            }
            Json::Object(_) => invalid_parameter("cannot delete from object using integer index"),
            _ => scalar(),
        };
    }
    let wanted = match &args[1] {
        Datum::Array(_) => keys(&args[1])?,
        key => vec![text(key)?],
    };
    make(match value {
        Json::Object(mut members) => {
            members.retain(|(name, _)| !wanted.contains(&&**name));
            Json::Object(members)
        }
        Json::Array(mut elements) => {
            elements.retain(
                |element| !matches!(element, Json::String(text) if wanted.contains(&&**text)),
            );
            Json::Array(elements)
        }
        _ => return scalar(),
    })
}

/// A position from 0, or from the end if negative, where there is one.
fn position_in(position: i32, length: usize) -> Option<usize> {
    let at = if position < 0 { length as i64 + i64::from(position) } else { position.into() };
    usize::try_from(at).ok().filter(|at| *at < length)
}

fn path_position(step: &str, level: usize) -> Result<i32> {
    step.trim().parse().map_err(|_| {
        ValueError::new(
            ValueErrorKind::InvalidText,
            format!("path element at position {level} is not an integer: \"{step}\""),
        )
    })
}

fn delete_path(value: Json, path: &[&str]) -> Result<Json> {
    change(value, path, 1, &mut |place| {
        Ok(match place {
            Place::Member | Place::Element => Change::Remove,
            Place::Missing => Change::Keep,
        })
    })
}

/// What a path ends at.
enum Place {
    Member,
    Element,
    /// Nothing there: a member that could be added, or a position outside the array.
    Missing,
}

enum Change {
    Keep,
    Remove,
    Put(Json),
    /// Into an array at this place.
    InsertBefore(Json),
    InsertAfter(Json),
}

/// Follows a path and applies a change at its end.
fn change(
    value: Json,
    path: &[&str],
    level: usize,
    decide: &mut dyn FnMut(Place) -> Result<Change>,
) -> Result<Json> {
    let Some((step, rest)) = path.split_first() else { return Ok(value) };
    match value {
        Json::Object(mut members) => {
            let at = members.iter().position(|(name, _)| &**name == *step);
            match (at, rest.is_empty()) {
                (Some(at), true) => match decide(Place::Member)? {
                    Change::Remove => {
                        members.remove(at);
                    }
                    Change::Put(new) => members[at].1 = new,
                    Change::InsertBefore(_) | Change::InsertAfter(_) => {
                        return Err(ValueError::new(
                            ValueErrorKind::InvalidParameter,
                            "cannot replace existing key",
                        )
                        .with_hint("Try using the function jsonb_set to replace key value."));
                    }
                    Change::Keep => {}
                },
                (Some(at), false) => {
                    let inner = std::mem::replace(&mut members[at].1, Json::Null);
                    members[at].1 = change(inner, rest, level + 1, decide)?;
                }
                (None, true) => {
                    if let Change::Put(new) | Change::InsertBefore(new) | Change::InsertAfter(new) =
                        decide(Place::Missing)?
                    {
                        members.push(((*step).into(), new));
                        sort_members(&mut members);
                    }
                }
                (None, false) => {}
            }
            Ok(Json::Object(members))
        }
        Json::Array(mut elements) => {
            let position = path_position(step, level)?;
            match (position_in(position, elements.len()), rest.is_empty()) {
                (Some(at), true) => match decide(Place::Element)? {
                    Change::Remove => {
                        elements.remove(at);
                    }
                    Change::Put(new) => elements[at] = new,
                    Change::InsertBefore(new) => elements.insert(at, new),
                    Change::InsertAfter(new) => elements.insert(at + 1, new),
                    Change::Keep => {}
                },
                (Some(at), false) => {
                    let inner = std::mem::replace(&mut elements[at], Json::Null);
                    elements[at] = change(inner, rest, level + 1, decide)?;
                }
                (None, true) => {
                    if let Change::Put(new) | Change::InsertBefore(new) | Change::InsertAfter(new) =
                        decide(Place::Missing)?
                    {
                        let at = if position < 0 { 0 } else { elements.len() };
                        elements.insert(at, new);
                    }
                }
                (None, false) => {}
            }
            Ok(Json::Array(elements))
        }
        scalar => Ok(scalar),
    }
}

fn require_container(value: &Json) -> Result<()> {
    if matches!(value, Json::Array(_) | Json::Object(_)) {
        return Ok(());
    }
    invalid_parameter("cannot set path in scalar")
}

fn set(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let value = tree(&args[0])?;
    require_container(&value)?;
    let new = tree(&args[2])?;
    let create = args.get(3).map_or(Ok(true), boolean)?;
    make(change(value, &keys(&args[1])?, 1, &mut |place| {
        Ok(match place {
            Place::Missing if !create => Change::Keep,
            _ => Change::Put(new.clone()),
        })
    })?)
}

fn insert(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let value = tree(&args[0])?;
    require_container(&value)?;
    let new = tree(&args[2])?;
    let after = args.get(3).map_or(Ok(false), boolean)?;
    make(change(value, &keys(&args[1])?, 1, &mut |_| {
        Ok(if after { Change::InsertAfter(new.clone()) } else { Change::InsertBefore(new.clone()) })
    })?)
}

fn pretty(value: &Json, depth: usize, out: &mut String) {
    let indent = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"    ".repeat(depth));
    };
    match value {
        Json::Array(elements) => {
            out.push('[');
            for (position, element) in elements.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                indent(out, depth + 1);
                pretty(element, depth + 1, out);
            }
            indent(out, depth);
            out.push(']');
        }
        Json::Object(members) => {
            out.push('{');
            for (position, (key, element)) in members.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                indent(out, depth + 1);
                quote(out, key);
                out.push_str(": ");
                pretty(element, depth + 1, out);
            }
            indent(out, depth);
            out.push('}');
        }
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
}

fn strip(value: Json) -> Json {
    match value {
        Json::Array(elements) => Json::Array(elements.into_iter().map(strip).collect()),
        Json::Object(members) => Json::Object(
            members
                .into_iter()
                .filter(|(_, value)| *value != Json::Null)
                .map(|(key, value)| (key, strip(value)))
                .collect(),
        ),
        scalar => scalar,
    }
}

/// The text form without members that are null, blanks gone, keys as they stood.
fn strip_text(document: &str, out: &mut String) {
    if let Some(members) = members(document) {
        out.push('{');
        let kept = members.into_iter().filter(|(_, value)| *value != "null");
        for (position, (key, value)) in kept.enumerate() {
            if position > 0 {
                out.push(',');
            }
            quote(out, &key);
            out.push(':');
            strip_text(value, out);
        }
        out.push('}');
    } else if let Some(elements) = elements(document) {
        out.push('[');
        for (position, element) in elements.into_iter().enumerate() {
            if position > 0 {
                out.push(',');
            }
            strip_text(element, out);
        }
        out.push(']');
    } else {
        out.push_str(document.trim());
    }
}
