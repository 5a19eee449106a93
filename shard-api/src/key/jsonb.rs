//! The bytes of a jsonb value in a key, in Postgres's btree order of jsonb.
//!
//! Object > array > boolean > number > string > null; longer containers above shorter ones; then by elements. Postgres
//! has one exception, kept here: an empty array at the top is below every scalar.

use super::{
    datum::{decode_bytes, encode_bytes},
    malformed,
};
use crate::{
    error::ValueError,
    value::{
        Numeric,
        json::{self, DEPTH_MAX, Json},
    },
};

const EMPTY_TOP_ARRAY: u8 = 0x01;
const NULL: u8 = 0x02;
const STRING: u8 = 0x03;
const NUMBER: u8 = 0x04;
const FALSE: u8 = 0x05;
const TRUE: u8 = 0x06;
const ARRAY: u8 = 0x07;
const OBJECT: u8 = 0x08;

pub(super) fn encode(out: &mut Vec<u8>, canonical: &str) {
    match json::parse(canonical) {
        Ok(Json::Array(elements)) if elements.is_empty() => out.push(EMPTY_TOP_ARRAY),
        Ok(value) => encode_json(out, &value),
        // A jsonb datum always holds valid JSON; should one not, it still gets a place of its own.
        Err(_) => {
            out.push(STRING);
            encode_bytes(out, canonical.as_bytes());
        }
    }
}

fn encode_json(out: &mut Vec<u8>, value: &Json) {
    match value {
        Json::Null => out.push(NULL),
        Json::String(text) => {
            out.push(STRING);
            encode_bytes(out, text.as_bytes());
        }
        Json::Number(number) => {
            out.push(NUMBER);
            number.write_key(out);
        }
        Json::Bool(value) => out.push(if *value { TRUE } else { FALSE }),
        Json::Array(elements) => {
            out.push(ARRAY);
            out.extend_from_slice(&(elements.len() as u32).to_be_bytes());
            elements.iter().for_each(|element| encode_json(out, element));
        }
        Json::Object(members) => {
            out.push(OBJECT);
            out.extend_from_slice(&(members.len() as u32).to_be_bytes());
            for (key, value) in members {
                encode_bytes(out, key.as_bytes());
                encode_json(out, value);
            }
        }
    }
}

/// Decodes one value and returns how many bytes it took.
pub(super) fn decode(bytes: &[u8]) -> Result<(Json, usize), ValueError> {
    if bytes.first() == Some(&EMPTY_TOP_ARRAY) {
        return Ok((Json::Array(Vec::new()), 1));
    }
    let mut at = 0;
    let value = decode_json(bytes, &mut at, 0)?;
    Ok((value, at))
}

fn decode_json(bytes: &[u8], at: &mut usize, depth: usize) -> Result<Json, ValueError> {
    if depth > DEPTH_MAX {
        return Err(malformed());
    }
    let kind = *bytes.get(*at).ok_or_else(malformed)?;
    *at += 1;
    Ok(match kind {
        NULL => Json::Null,
        FALSE => Json::Bool(false),
        TRUE => Json::Bool(true),
        STRING => Json::String(decode_string(bytes, at)?),
        NUMBER => {
            let (number, n_bytes) = Numeric::from_key(&bytes[*at..])?;
            *at += n_bytes;
            Json::Number(number)
        }
        ARRAY => {
            let mut elements = Vec::new();
            for _ in 0..decode_count(bytes, at)? {
                elements.push(decode_json(bytes, at, depth + 1)?);
            }
            Json::Array(elements)
        }
        OBJECT => {
            let mut members = Vec::new();
            for _ in 0..decode_count(bytes, at)? {
                let key = decode_string(bytes, at)?;
                members.push((key, decode_json(bytes, at, depth + 1)?));
            }
            Json::Object(members)
        }
        _ => return Err(malformed()),
    })
}

fn decode_count(bytes: &[u8], at: &mut usize) -> Result<u32, ValueError> {
    let count = bytes.get(*at..).and_then(|rest| rest.first_chunk::<4>()).ok_or_else(malformed)?;
    *at += 4;
    Ok(u32::from_be_bytes(*count))
}

fn decode_string(bytes: &[u8], at: &mut usize) -> Result<Box<str>, ValueError> {
    let (string, n_bytes) = decode_bytes(bytes.get(*at..).ok_or_else(malformed)?)?;
    *at += n_bytes;
    String::from_utf8(string).map(String::into_boxed_str).map_err(|_| malformed())
}
