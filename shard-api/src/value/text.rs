//! Text input and output of every type. (Bootstrap signatures.)

use super::{Datum, ValueSettings};
use crate::{error::ValueError, types::{SqlType, TypeMod}};

/// Parses a type's text form, as the type's input function in Postgres does. No modifier is applied.
pub fn parse(_ty: SqlType, _text: &str, _settings: &ValueSettings) -> Result<Datum, ValueError> { todo!() }

/// Appends a type's text form. `Null` must be handled by the caller (it prints nothing).
pub fn format(_value: &Datum, _ty: SqlType, _settings: &ValueSettings, _out: &mut String) { todo!() }

/// Applies a type modifier to a value of that type: length of varchar(n) and char(n) (22001 on overflow unless only
/// blanks are cut or `explicit`), numeric(p,s), precision of times.
pub fn apply_typmod(_value: Datum, _to: TypeMod, _explicit: bool) -> Result<Datum, ValueError> { todo!() }

/// `format_type(oid, typmod)`: `character varying(20)`, `numeric(10,2)`, `integer[]`.
pub fn type_name(_ty: TypeMod) -> String { todo!() }
