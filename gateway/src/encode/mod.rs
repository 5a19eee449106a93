//! Answers → bytes of the Postgres protocol.
//!
//! Lives here: every backend message (this file), values in text and binary (`text`, `binary`), rows of Arrow columns
//! (`rows`). Not here: what is sent when, and flushing (`session`). Everything appends to a `Vec<u8>`; nothing can fail.

use cortex_planner::bind::OutputColumn;
use cortex_shard_api::SqlType;

use crate::{
    error::PgError,
    session::message::Formats,
    statement::{CopyShape, Notice, TransactionStatus},
};

/// Values in binary.
pub(crate) mod binary;

/// DataRows from record batches and from rows of datums.
pub(crate) mod rows;

/// Values in text.
pub(crate) mod text;

/// Appends a message: its type, its length, and what `body` appends.
#[inline]
pub(crate) fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = begin(out, kind);
    body(out);
    end(out, start);
}

/// Opens a message; `end` fills in its length.
#[inline]
fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    out.extend_from_slice(&[kind, 0, 0, 0, 0]);
    out.len() - 4
}

#[inline]
fn end(out: &mut [u8], start: usize) {
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A text and its NUL; a NUL inside would end it early, so it is cut there.
fn text(out: &mut Vec<u8>, text: &str) {
    let text = text.split('\0').next().unwrap_or_default();
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn i16(out: &mut Vec<u8>, value: i16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn authentication_ok(out: &mut Vec<u8>) {
    message(out, b'R', |out| i32(out, 0));
}

/// AuthenticationSASL with the mechanisms to choose from.
pub(crate) fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    message(out, b'R', |out| {
        i32(out, 10);
        mechanisms.iter().for_each(|mechanism| text(out, mechanism));
        out.push(0);
    });
}

pub(crate) fn authentication_sasl_continue(out: &mut Vec<u8>, data: &str) {
    message(out, b'R', |out| {
        i32(out, 11);
        out.extend_from_slice(data.as_bytes());
    });
}

pub(crate) fn authentication_sasl_final(out: &mut Vec<u8>, data: &str) {
    message(out, b'R', |out| {
        i32(out, 12);
        out.extend_from_slice(data.as_bytes());
    });
}

/// The newest version we speak, and the protocol options we do not know.
pub(crate) fn negotiate_protocol_version(out: &mut Vec<u8>, version: i32, unknown: &[String]) {
    message(out, b'v', |out| {
        i32(out, version);
        i32(out, unknown.len() as i32);
        unknown.iter().for_each(|option| text(out, option));
    });
}

pub(crate) fn backend_key_data(out: &mut Vec<u8>, process_id: i32, secret: i32) {
    message(out, b'K', |out| {
        i32(out, process_id);
        i32(out, secret);
    });
}

pub(crate) fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, b'S', |out| {
        text(out, name);
        text(out, value);
    });
}

pub(crate) fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    let byte = match status {
        TransactionStatus::Idle => b'I',
        TransactionStatus::InTransaction => b'T',
        TransactionStatus::Failed => b'E',
    };
    out.extend_from_slice(&[b'Z', 0, 0, 0, 5, byte]);
}

/// The messages that have no body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bare {
    ParseComplete,
    BindComplete,
    CloseComplete,
    NoData,
    PortalSuspended,
    EmptyQueryResponse,
    CopyDone,
}

pub(crate) fn bare(out: &mut Vec<u8>, message: Bare) {
    let kind = match message {
        Bare::ParseComplete => b'1',
        Bare::BindComplete => b'2',
        Bare::CloseComplete => b'3',
        Bare::NoData => b'n',
        Bare::PortalSuspended => b's',
        Bare::EmptyQueryResponse => b'I',
        Bare::CopyDone => b'c',
    };
    out.extend_from_slice(&[kind, 0, 0, 0, 4]);
}

pub(crate) fn command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, b'C', |out| text(out, tag));
}

/// `SELECT 5` and its like, without making a string.
pub(crate) fn command_complete_counted(out: &mut Vec<u8>, word: &str, count: u64) {
    message(out, b'C', |out| {
        out.extend_from_slice(word.as_bytes());
        out.push(b' ');
        out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
        out.push(0);
    });
}

pub(crate) fn parameter_description(out: &mut Vec<u8>, types: &[SqlType]) {
    message(out, b't', |out| {
        i16(out, types.len() as i16);
        types.iter().for_each(|ty| i32(out, visible_type(*ty).oid() as i32));
    });
}

/// A literal's undecided type is text to clients.
fn visible_type(ty: SqlType) -> SqlType {
    if ty == SqlType::Unknown { SqlType::Text } else { ty }
}

/// Columns of system relations that Postgres has as int2vector or oidvector, by relation and number. Here they are
/// arrays; drivers know them by their OIDs and take their text, `1 2`, apart at the blanks.
const VECTORS: &[(u32, i16)] =
    &[(PG_INDEX, 16), (PG_INDEX, 17), (PG_INDEX, 18), (PG_INDEX, 19), (PG_PROC, 20)];
const PG_INDEX: u32 = 2610;
const PG_PROC: u32 = 1255;

/// The OID of int2vector or oidvector, if the column is one in Postgres.
fn vector_oid(column: &OutputColumn) -> Option<u32> {
    match column.ty.ty {
        SqlType::Array(SqlType::Int2) if VECTORS.contains(&column.source) => Some(22),
        SqlType::Array(SqlType::Oid) if VECTORS.contains(&column.source) => Some(30),
        _ => None,
    }
}

pub(crate) fn row_description(out: &mut Vec<u8>, columns: &[OutputColumn], formats: &Formats) {
    message(out, b'T', |out| {
        i16(out, columns.len() as i16);
        for (index, column) in columns.iter().enumerate() {
            let ty = visible_type(column.ty.ty);
            text(out, &column.name);
            i32(out, column.source.0 as i32);
            i16(out, column.source.1);
            i32(out, vector_oid(column).unwrap_or_else(|| ty.oid()) as i32);
            i16(out, ty.wire_len());
            i32(out, column.ty.typmod);
            i16(out, i16::from(formats.is_binary(index)));
        }
    });
}

/// CopyInResponse.
pub(crate) fn copy_in(out: &mut Vec<u8>, shape: CopyShape) {
    copy_response(out, b'G', shape);
}

/// CopyOutResponse.
pub(crate) fn copy_out(out: &mut Vec<u8>, shape: CopyShape) {
    copy_response(out, b'H', shape);
}

fn copy_response(out: &mut Vec<u8>, kind: u8, shape: CopyShape) {
    message(out, kind, |out| {
        out.push(u8::from(shape.binary));
        i16(out, shape.columns as i16);
        (0..shape.columns).for_each(|_| i16(out, i16::from(shape.binary)));
    });
}

/// One CopyData of these parts.
pub(crate) fn copy_data(out: &mut Vec<u8>, parts: &[&[u8]]) {
    message(out, b'd', |out| parts.iter().for_each(|part| out.extend_from_slice(part)));
}

fn field(out: &mut Vec<u8>, code: u8, value: &str) {
    out.push(code);
    text(out, value);
}

fn optional_field(out: &mut Vec<u8>, code: u8, value: Option<&str>) {
    if let Some(value) = value {
        field(out, code, value);
    }
}

pub(crate) fn error_response(out: &mut Vec<u8>, error: &PgError) {
    message(out, b'E', |out| {
        let severity = error.severity.name();
        field(out, b'S', severity);
        field(out, b'V', severity);
        field(out, b'C', error.code.0);
        field(out, b'M', &error.message);
        optional_field(out, b'D', error.detail.as_deref());
        optional_field(out, b'H', error.hint.as_deref());
        if let Some(position) = error.position {
            field(out, b'P', itoa::Buffer::new().format(position));
        }
        optional_field(out, b'W', error.context.as_deref());
        optional_field(out, b's', error.schema.as_deref());
        optional_field(out, b't', error.table.as_deref());
        optional_field(out, b'c', error.column.as_deref());
        optional_field(out, b'n', error.constraint.as_deref());
        out.push(0);
    });
}

pub(crate) fn notice_response(out: &mut Vec<u8>, notice: &Notice) {
    message(out, b'N', |out| {
        field(out, b'S', notice.severity);
        field(out, b'V', notice.severity);
        field(out, b'C', notice.code);
        field(out, b'M', &notice.message);
        optional_field(out, b'D', notice.detail.as_deref());
        optional_field(out, b'H', notice.hint.as_deref());
        out.push(0);
    });
}
