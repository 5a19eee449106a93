//! How states are saved: fields one after another, values in their binary wire form with a length before them.

use cortex_shard_api::{Datum, SqlType, ValueError, ValueErrorKind, value::binary};

type Result<T> = std::result::Result<T, ValueError>;

/// What a state does.
pub(super) trait State: std::fmt::Debug + Send + Sync {
    fn update(&mut self, args: &[Datum]) -> Result<()>;
    fn save(&self, out: &mut Vec<u8>);
    fn merge(&mut self, saved: &mut &[u8]) -> Result<()>;
    fn finish(&self) -> Result<Datum>;
    /// Bytes on the heap, roughly.
    fn size(&self) -> usize;
}

fn corrupt() -> ValueError {
    ValueError::new(ValueErrorKind::Internal, "malformed aggregate state")
}

pub(super) fn take<'a>(saved: &mut &'a [u8], n: usize) -> Result<&'a [u8]> {
    if n > saved.len() {
        return Err(corrupt());
    }
    let (head, rest) = saved.split_at(n);
    *saved = rest;
    Ok(head)
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn take_u64(saved: &mut &[u8]) -> Result<u64> {
    let bytes = take(saved, 8)?;
    Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| corrupt())?))
}

pub(super) fn put_f64(out: &mut Vec<u8>, value: f64) {
    put_u64(out, value.to_bits());
}

pub(super) fn take_f64(saved: &mut &[u8]) -> Result<f64> {
    take_u64(saved).map(f64::from_bits)
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn take_bytes<'a>(saved: &mut &'a [u8]) -> Result<&'a [u8]> {
    let n = usize::try_from(take_u64(saved)?).map_err(|_| corrupt())?;
    take(saved, n)
}

/// A value and whether there is one; the type is known to the state.
pub(super) fn put_datum(out: &mut Vec<u8>, value: &Datum, ty: SqlType) {
    match value {
        Datum::Null => out.push(0),
        value => {
            out.push(1);
            let mut bytes = Vec::new();
            binary::encode(value, ty, &mut bytes);
            put_bytes(out, &bytes);
        }
    }
}

pub(super) fn take_datum(saved: &mut &[u8], ty: SqlType) -> Result<Datum> {
    match take(saved, 1)? {
        [0] => Ok(Datum::Null),
        _ => binary::decode(ty, take_bytes(saved)?),
    }
}

/// Bytes a value has on the heap, roughly.
pub(super) fn heap_size(value: &Datum) -> usize {
    match value {
        Datum::Text(text) | Datum::Json(text) | Datum::Jsonb(text) => text.len(),
        Datum::Bytea(bytes) => bytes.len(),
        Datum::Array(array) => {
            array.elements.iter().map(|e| size_of::<Datum>() + heap_size(e)).sum()
        }
        _ => 0,
    }
}
