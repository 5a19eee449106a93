//! States that are lists: array_agg, string_agg and the JSON aggregates.

use cortex_shard_api::{
    Datum, SqlType, ValueError, ValueErrorKind,
    value::{ArrayValue, json},
};

use super::{
    Spec,
    saved::{State, heap_size, put_datum, put_u64, take_datum, take_u64},
};
use crate::kernels::{self, STRING_BYTES_MAX, json::quote, make_text};

#[derive(Clone, Copy, Debug)]
enum Shape {
    Array,
    /// Values joined by the delimiter beside each (but the first).
    String,
    JsonArray,
    JsonObject,
}

pub(super) fn state(spec: &Spec) -> Option<Box<dyn State>> {
    let shape = match spec.name.as_str() {
        "array_agg" => Shape::Array,
        "string_agg" => Shape::String,
        "json_agg" | "jsonb_agg" => Shape::JsonArray,
        "json_object_agg" | "jsonb_object_agg" => Shape::JsonObject,
        _ => return None,
    };
    Some(Box::new(List {
        shape,
        args: spec.args.clone(),
        returns: spec.returns,
        rows: Vec::new(),
        bytes: 0,
    }))
}

#[derive(Debug)]
struct List {
    shape: Shape,
    args: Vec<SqlType>,
    returns: SqlType,
    rows: Vec<Vec<Datum>>,
    bytes: usize,
}

impl List {
    fn push(&mut self, row: Vec<Datum>) -> Result<(), ValueError> {
        if matches!((self.shape, &row[0]), (Shape::String, Datum::Null)) {
            return Ok(());
        }
        if matches!((self.shape, &row[0]), (Shape::JsonObject, Datum::Null)) {
            return Err(ValueError::new(
                ValueErrorKind::InvalidParameter,
                "field name must not be null",
            ));
        }
        if matches!((self.shape, &row[0]), (Shape::Array, Datum::Array(_))) {
            return Err(ValueError::new(
                ValueErrorKind::Unsupported,
                "multidimensional arrays are not supported",
            ));
        }
        self.bytes += row.iter().map(|value| size_of::<Datum>() + heap_size(value)).sum::<usize>();
        if self.bytes > STRING_BYTES_MAX {
            return Err(ValueError::new(
                ValueErrorKind::InvalidParameter,
                "the result of an aggregate exceeds 1 GB",
            ));
        }
        self.rows.push(row);
        Ok(())
    }

    fn joined(&self) -> Result<Datum, ValueError> {
        if self.args[0] == SqlType::Bytea {
            let mut out = Vec::new();
            for (position, row) in self.rows.iter().enumerate() {
                if position > 0 && !matches!(row[1], Datum::Null) {
                    out.extend_from_slice(kernels::bytes(&row[1])?);
                }
                out.extend_from_slice(kernels::bytes(&row[0])?);
            }
            return Ok(Datum::Bytea(out.into()));
        }
        let mut out = String::new();
        for (position, row) in self.rows.iter().enumerate() {
            if position > 0 && !matches!(row[1], Datum::Null) {
                out.push_str(kernels::text(&row[1])?);
            }
            out.push_str(kernels::text(&row[0])?);
        }
        Ok(make_text(out))
    }

    fn json(&self) -> Result<Datum, ValueError> {
        let value = |value: &Datum| match value {
            Datum::Null => Ok("null".to_owned()),
            value => kernels::text(value).map(str::to_owned),
        };
        let mut out = String::new();
        let object = matches!(self.shape, Shape::JsonObject);
        out.push_str(if object { "{ " } else { "[" });
        for (position, row) in self.rows.iter().enumerate() {
            if position > 0 {
                out.push_str(", ");
            }
            if object {
                quote(&mut out, kernels::text(&row[0])?);
                out.push_str(" : ");
                out.push_str(&value(&row[1])?);
            } else {
                out.push_str(&value(&row[0])?);
            }
        }
        out.push_str(if object { " }" } else { "]" });
        if self.returns == SqlType::Jsonb {
            return Ok(Datum::Jsonb(json::canonical(&out)?));
        }
        Ok(Datum::Json(out.into()))
    }
}

impl State for List {
    fn update(&mut self, args: &[Datum]) -> Result<(), ValueError> {
        self.push(args[..self.args.len()].to_vec())
    }

    fn save(&self, out: &mut Vec<u8>) {
        put_u64(out, self.rows.len() as u64);
        for row in &self.rows {
            for (value, ty) in row.iter().zip(&self.args) {
                put_datum(out, value, *ty);
            }
        }
    }

    fn merge(&mut self, saved: &mut &[u8]) -> Result<(), ValueError> {
        for _ in 0..take_u64(saved)? {
            let row =
                self.args.iter().map(|ty| take_datum(saved, *ty)).collect::<Result<Vec<_>, _>>()?;
            self.push(row)?;
        }
        Ok(())
    }

    fn finish(&self) -> Result<Datum, ValueError> {
        if self.rows.is_empty() {
            return Ok(Datum::Null);
        }
        match self.shape {
            Shape::Array => Ok(Datum::Array(Box::new(ArrayValue {
                element: self.args[0],
                lower_bound: 1,
                elements: self.rows.iter().map(|row| row[0].clone()).collect(),
            }))),
            Shape::String => self.joined(),
            Shape::JsonArray | Shape::JsonObject => self.json(),
        }
    }

    fn size(&self) -> usize {
        self.bytes
    }
}
