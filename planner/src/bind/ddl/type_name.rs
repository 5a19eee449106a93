//! Type names with modifiers: `varchar(20)`, `numeric(10, 2)`, `timestamp(3) with time zone`, `int[]`.

use cortex_shard_api::{SqlType, TypeMod, types::SCALARS};
use sqlparser::tokenizer::Token;

use super::cursor::{Cursor, Parsed};
use crate::{PlanError, PlanErrorKind};

/// A column's type; `serial` and its like are an integer with a sequence.
pub struct ParsedType {
    pub ty: TypeMod,
    pub serial: bool,
}

/// Digits of numeric at most.
const NUMERIC_PRECISION_MAX: i64 = 1000;
/// Characters of `varchar(n)` at most.
const CHAR_LENGTH_MAX: i64 = 10_485_760;
/// Digits of fractional seconds.
const TIME_PRECISION_MAX: i64 = 6;

impl Cursor<'_, '_> {
    pub fn type_name(&mut self) -> Parsed<ParsedType> {
        let position = self.position();
        let scalar = self.scalar_type(position)?;
        let array = self.array_suffix()?;
        if !array {
            return Ok(scalar);
        }
        if scalar.serial {
            return Err(PlanError::unsupported(
                "array of serial is not implemented",
                "Use an integer array.",
            )
            .at(position));
        }
        let ty = scalar.ty.ty.array().ok_or_else(|| {
            PlanError::new(
                PlanErrorKind::UndefinedObject,
                format!("could not find array type for data type {}", scalar.ty.ty.sql_name()),
            )
            .at(position)
        })?;
        Ok(ParsedType { ty: TypeMod { ty, typmod: scalar.ty.typmod }, serial: false })
    }

    /// `[]`, `[3]`, `ARRAY`, `ARRAY[4]`; the number of dimensions does not matter, as in Postgres, but we have one.
    fn array_suffix(&mut self) -> Parsed<bool> {
        let mut dimensions = 0;
        if self.eat("array") {
            dimensions += 1;
            if self.eat_token(&Token::LBracket) {
                self.integer()?;
                self.expect_token(&Token::RBracket)?;
            }
        }
        while self.eat_token(&Token::LBracket) {
            if !self.at_token(&Token::RBracket) {
                self.integer()?;
            }
            self.expect_token(&Token::RBracket)?;
            dimensions += 1;
        }
        Ok(dimensions > 0)
    }

    fn scalar_type(&mut self, position: Option<usize>) -> Parsed<ParsedType> {
        let plain = |ty| Ok(ParsedType { ty: TypeMod::plain(ty), serial: false });
        let quoted = self.peek_word().is_none();
        let mut name = self.name()?;
        if self.eat_token(&Token::Period) {
            if name != "pg_catalog" {
                let full = format!("{name}.{}", self.name()?);
                return Err(undefined_type(&full).at(position));
            }
            name = self.name()?;
        }
        if quoted {
            return match SCALARS.iter().find(|ty| ty.catalog_name() == name) {
                Some(ty) => plain(*ty),
                None => Err(undefined_type(&name).at(position)),
            };
        }
        let serial = |ty| Ok(ParsedType { ty: TypeMod::plain(ty), serial: true });
        match name.as_str() {
            "serial" | "serial4" => serial(SqlType::Int4),
            "bigserial" | "serial8" => serial(SqlType::Int8),
            "smallserial" | "serial2" => serial(SqlType::Int2),
            "int" | "integer" => plain(SqlType::Int4),
            "bigint" => plain(SqlType::Int8),
            "smallint" => plain(SqlType::Int2),
            "boolean" => plain(SqlType::Bool),
            "real" => plain(SqlType::Float4),
            "double" => {
                self.expect("precision")?;
                plain(SqlType::Float8)
            }
            "float" => self.float_type(),
            "decimal" | "dec" | "numeric" => self.numeric_type(),
            "varchar" => self.char_type(SqlType::Varchar, -1),
            "national" => {
                if !self.eat("character") {
                    self.expect("char")?;
                }
                self.character_type()
            }
            "character" | "char" | "nchar" => self.character_type(),
            "bpchar" => self.char_type(SqlType::Bpchar, -1),
            "timestamp" => self.time_type(SqlType::Timestamp, SqlType::Timestamptz),
            "timestamptz" => self.precision(SqlType::Timestamptz),
            "time" => self.time_type_without_zone(position),
            "interval" => self.interval_type(),
            _ => match SCALARS.iter().find(|ty| ty.catalog_name() == name && **ty != SqlType::Char)
            {
                Some(ty) => plain(*ty),
                None => match name.strip_prefix('_').and_then(|element| {
                    SCALARS.iter().find(|ty| ty.catalog_name() == element)?.array()
                }) {
                    Some(ty) => plain(ty),
                    None => Err(undefined_type(&name).at(position)),
                },
            },
        }
    }

    fn modifiers(&mut self) -> Parsed<Option<Vec<i64>>> {
        if !self.eat_token(&Token::LParen) {
            return Ok(None);
        }
        let values = self.list(Self::integer)?;
        self.expect_token(&Token::RParen)?;
        Ok(Some(values))
    }

    fn character_type(&mut self) -> Parsed<ParsedType> {
        if self.eat("varying") {
            self.char_type(SqlType::Varchar, -1)
        } else {
            self.char_type(SqlType::Bpchar, 5)
        }
    }

    fn char_type(&mut self, ty: SqlType, default: i32) -> Parsed<ParsedType> {
        let typmod = match self.modifiers()?.as_deref() {
            None => default,
            Some([length]) if *length < 1 => {
                return Err(bad_modifier(format!(
                    "length for type {} must be at least 1",
                    short(ty)
                )));
            }
            Some([length]) if *length > CHAR_LENGTH_MAX => {
                return Err(bad_modifier(format!(
                    "length for type {} cannot exceed {CHAR_LENGTH_MAX}",
                    short(ty)
                )));
            }
            Some([length]) => *length as i32 + 4,
            Some(_) => return Err(bad_modifier("invalid type modifier".to_owned())),
        };
        Ok(ParsedType { ty: TypeMod { ty, typmod }, serial: false })
    }

    fn numeric_type(&mut self) -> Parsed<ParsedType> {
        let (precision, scale) = match self.modifiers()?.as_deref() {
            None => return Ok(ParsedType { ty: TypeMod::plain(SqlType::Numeric), serial: false }),
            Some([precision]) => (*precision, 0),
            Some([precision, scale]) => (*precision, *scale),
            Some(_) => return Err(bad_modifier("invalid NUMERIC type modifier".to_owned())),
        };
        if !(1..=NUMERIC_PRECISION_MAX).contains(&precision) {
            return Err(bad_modifier(format!(
                "NUMERIC precision {precision} must be between 1 and {NUMERIC_PRECISION_MAX}"
            )));
        }
        if !(0..=NUMERIC_PRECISION_MAX).contains(&scale) {
            return Err(bad_modifier(format!(
                "NUMERIC scale {scale} must be between 0 and {NUMERIC_PRECISION_MAX}"
            )));
        }
        let typmod = ((precision as i32) << 16 | scale as i32) + 4;
        Ok(ParsedType { ty: TypeMod { ty: SqlType::Numeric, typmod }, serial: false })
    }

    fn float_type(&mut self) -> Parsed<ParsedType> {
        let ty = match self.modifiers()?.as_deref() {
            None => SqlType::Float8,
            Some([bits]) if *bits < 1 => {
                return Err(bad_modifier(
                    "precision for type float must be at least 1 bit".to_owned(),
                ));
            }
            Some([bits]) if *bits <= 24 => SqlType::Float4,
            Some([bits]) if *bits <= 53 => SqlType::Float8,
            Some(_) => {
                return Err(bad_modifier(
                    "precision for type float must be less than 54 bits".to_owned(),
                ));
            }
        };
        Ok(ParsedType { ty: TypeMod::plain(ty), serial: false })
    }

    fn precision(&mut self, ty: SqlType) -> Parsed<ParsedType> {
        let typmod = match self.modifiers()?.as_deref() {
            None => -1,
            Some([digits]) if *digits < 0 => {
                return Err(bad_modifier(format!(
                    "{}({digits}) precision must not be negative",
                    short(ty)
                )));
            }
            // Postgres warns and uses the largest; so do we, without the warning.
            Some([digits]) => (*digits).min(TIME_PRECISION_MAX) as i32,
            Some(_) => return Err(bad_modifier("invalid type modifier".to_owned())),
        };
        Ok(ParsedType { ty: TypeMod { ty, typmod }, serial: false })
    }

    fn time_type(&mut self, without: SqlType, with: SqlType) -> Parsed<ParsedType> {
        let parsed = self.precision(without)?;
        if self.eat("with time zone") {
            return Ok(ParsedType { ty: TypeMod { ty: with, ..parsed.ty }, serial: false });
        }
        self.eat("without time zone");
        Ok(parsed)
    }

    fn time_type_without_zone(&mut self, position: Option<usize>) -> Parsed<ParsedType> {
        let parsed = self.precision(SqlType::Time)?;
        if self.eat("with time zone") {
            return Err(PlanError::unsupported(
                "type \"time with time zone\" is not supported",
                "Use time, or timestamp with time zone.",
            )
            .at(position));
        }
        self.eat("without time zone");
        Ok(parsed)
    }

    fn interval_type(&mut self) -> Parsed<ParsedType> {
        const FIELDS: &[&str] = &["year", "month", "day", "hour", "minute", "second"];
        if FIELDS.iter().any(|field| self.at(field)) || self.at_token(&Token::LParen) {
            return Err(PlanError::unsupported(
                "fields and precision of type interval are not supported",
                "Use interval alone.",
            )
            .at(self.position()));
        }
        Ok(ParsedType { ty: TypeMod::plain(SqlType::Interval), serial: false })
    }
}

/// The name that messages about modifiers use.
fn short(ty: SqlType) -> &'static str {
    match ty {
        SqlType::Bpchar => "char",
        SqlType::Timestamp => "TIMESTAMP",
        SqlType::Timestamptz => "TIMESTAMP WITH TIME ZONE",
        SqlType::Time => "TIME",
        other => other.catalog_name(),
    }
}

fn bad_modifier(message: String) -> PlanError {
    PlanError::new(PlanErrorKind::InvalidParameterValue, message)
}

fn undefined_type(name: &str) -> PlanError {
    PlanError::new(PlanErrorKind::UndefinedObject, format!("type \"{name}\" does not exist"))
}
