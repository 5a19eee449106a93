//! Values in binary, each behind its length, as Postgres's send functions write them.

use cortex_shard_api::{Datum, SqlType, value};

use super::text::{null_of, raw};

/// A value of fixed width, already in network order.
#[inline]
pub(crate) fn fixed<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&(N as u32).to_be_bytes());
    out.extend_from_slice(&bytes);
}

/// jsonb: version 1, then its text.
pub(crate) fn jsonb(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32 + 1).to_be_bytes());
    out.push(1);
    out.extend_from_slice(text.as_bytes());
}

/// One value in binary. The type decides the form: a value of another type than its column goes through
/// `value::binary`, which knows what the type's width is.
#[inline]
pub(crate) fn datum(out: &mut Vec<u8>, ty: SqlType, datum: &Datum) {
    match (ty, datum) {
        (_, Datum::Null) => null_of(out, ty),
        (SqlType::Int4, Datum::Int4(value)) => fixed(out, value.to_be_bytes()),
        (SqlType::Int8, Datum::Int8(value)) => fixed(out, value.to_be_bytes()),
        (SqlType::Text | SqlType::Varchar | SqlType::Bpchar, Datum::Text(text)) => {
            raw(out, text.as_bytes());
        }
        (_, _) => {
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            value::binary::encode(datum, ty, out);
            let length = (out.len() - start - 4) as u32;
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}
