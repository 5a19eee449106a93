//! The binary wire forms, identical to PostgreSQL's send and recv functions. (Bootstrap signatures.)

use super::Datum;
use crate::{error::ValueError, types::SqlType};

/// Decodes one value; `bytes` is the whole field.
pub fn decode(_ty: SqlType, _bytes: &[u8]) -> Result<Datum, ValueError> { todo!() }

/// Appends one value without its length; `Null` is the caller's.
pub fn encode(_value: &Datum, _ty: SqlType, _out: &mut Vec<u8>) { todo!() }
