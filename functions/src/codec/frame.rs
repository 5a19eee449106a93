//! The bytes of a fragment: a header, then nodes that refer to each other by number.
//!
//! ```text
//! u32 length of the header · header (postcard)
//! u32 number of operators · u32 number of expressions
//! each node: u32 length · its message without its children, which are references
//! ```
//!
//! A node comes behind its children, so that references go back only; the last operator is the root. Numbers are
//! little-endian.

use bytes::Bytes;
use cortex_shard_api::value::ValueSettings;
use serde::{Deserialize, Serialize};

use super::{BYTES_MAX, CodecError, NODES_MAX};
use crate::session::EvalContext;

/// What a fragment's expressions see besides rows: the session's settings and the statement's time.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    time_zone: String,
    day_first: bool,
    extra_float_digits: i32,
    bytea_escape: bool,
    now_micros: i64,
    transaction_micros: i64,
}

impl Header {
    pub fn new(context: &EvalContext) -> Header {
        let settings = &context.settings;
        Header {
            time_zone: settings.time_zone.name().to_owned(),
            day_first: settings.day_first,
            extra_float_digits: settings.extra_float_digits,
            bytea_escape: settings.bytea_escape,
            now_micros: settings.now_micros,
            transaction_micros: context.transaction_micros,
        }
    }

    /// The context, without a session: functions that need one never travel.
    pub fn context(&self) -> Result<EvalContext, CodecError> {
        let time_zone =
            self.time_zone.parse().map_err(|_| malformed("its time zone is unknown here"))?;
        let settings = ValueSettings {
            time_zone,
            day_first: self.day_first,
            extra_float_digits: self.extra_float_digits,
            bytea_escape: self.bytea_escape,
            now_micros: self.now_micros,
        };
        let transaction_micros = self.transaction_micros;
        Ok(EvalContext { settings, transaction_micros, ..EvalContext::default() })
    }
}

/// Messages of a plan's nodes, children before parents.
#[derive(Debug, Default)]
pub(super) struct Nodes<B> {
    pub plans: Vec<B>,
    pub expressions: Vec<B>,
}

pub(super) fn write(header: &Header, nodes: Nodes<Vec<u8>>) -> Result<Bytes, CodecError> {
    let header = postcard::to_stdvec(header).map_err(|error| malformed(error.to_string()))?;
    let all = || nodes.plans.iter().chain(&nodes.expressions);
    let bytes = 12 + header.len() + all().map(|node| 4 + node.len()).sum::<usize>();
    if bytes > BYTES_MAX {
        return Err(CodecError::TooBig { bytes });
    }
    let mut out = Vec::with_capacity(bytes);
    let number = |out: &mut Vec<u8>, n: usize| {
        // Lengths and counts are below the bounds, which fit.
        out.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
    };
    number(&mut out, header.len());
    out.extend_from_slice(&header);
    number(&mut out, nodes.plans.len());
    number(&mut out, nodes.expressions.len());
    for node in all() {
        number(&mut out, node.len());
        out.extend_from_slice(node);
    }
    Ok(out.into())
}

pub(super) fn read(bytes: &[u8]) -> Result<(Header, Nodes<&[u8]>), CodecError> {
    let mut rest = bytes;
    let length = take_number(&mut rest)?;
    let header = postcard::from_bytes(take(&mut rest, length)?)
        .map_err(|error| malformed(format!("its header: {error}")))?;
    let (n_plans, n_expressions) = (take_number(&mut rest)?, take_number(&mut rest)?);
    if n_plans.saturating_add(n_expressions) > NODES_MAX {
        return Err(CodecError::TooManyNodes);
    }
    let mut list = |n: usize| -> Result<Vec<&[u8]>, CodecError> {
        // Each has at least its length, so that a short message cannot announce many.
        if n.saturating_mul(4) > rest.len() {
            return Err(malformed("it ends too early"));
        }
        (0..n)
            .map(|_| {
                let length = take_number(&mut rest)?;
                take(&mut rest, length)
            })
            .collect()
    };
    let nodes = Nodes { plans: list(n_plans)?, expressions: list(n_expressions)? };
    if !rest.is_empty() {
        return Err(malformed("it goes on behind its end"));
    }
    Ok((header, nodes))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], CodecError> {
    let (taken, left) =
        rest.split_at_checked(length).ok_or_else(|| malformed("it ends too early"))?;
    *rest = left;
    Ok(taken)
}

fn take_number(rest: &mut &[u8]) -> Result<usize, CodecError> {
    let taken = take(rest, 4)?;
    let bytes: [u8; 4] = taken.try_into().map_err(|_| malformed("it ends too early"))?;
    usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| malformed("a length"))
}

pub(super) fn malformed(what: impl Into<String>) -> CodecError {
    CodecError::Malformed(what.into())
}
