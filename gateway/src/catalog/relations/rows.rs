//! Rows of system relations, made column by column name.

use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use cortex_shard_api::{
    Datum, Oid, SqlType, TypeMod, ValueError, ValueErrorKind,
    value::{self, ArrayValue, ValueSettings, arrow::array_from_datums},
};

use super::facts::RelationFacts;

/// Rows of one relation so far, as columns.
pub struct Rows {
    facts: &'static RelationFacts,
    columns: Vec<Vec<Datum>>,
    count: usize,
}

impl Rows {
    pub fn new(facts: &'static RelationFacts) -> Rows {
        Rows { facts, columns: facts.columns.iter().map(|_| Vec::new()).collect(), count: 0 }
    }

    /// Adds a row; columns that are not named get their type's nothing, NULL where that is allowed.
    pub fn push<const N: usize>(&mut self, values: [(&str, Datum); N]) {
        for (name, value) in values {
            let position = self.facts.position(name);
            debug_assert!(position.is_some(), "{} has no column {name}", self.facts.name);
            if let Some(column) = position.and_then(|position| self.columns.get_mut(position)) {
                column.push(value);
            }
        }
        self.count += 1;
        for (column, facts) in self.columns.iter_mut().zip(&self.facts.columns) {
            if column.len() < self.count {
                column.push(facts.unsaid());
            }
        }
    }

    /// Adds rows from text as COPY writes it: tabs between columns, `\N` for NULL.
    pub fn push_text(
        &mut self,
        text: &str,
        keep: impl Fn(&[&str]) -> bool,
    ) -> Result<(), ValueError> {
        let settings = ValueSettings::default();
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            if !keep(&fields) {
                continue;
            }
            for ((column, facts), field) in
                self.columns.iter_mut().zip(&self.facts.columns).zip(&fields)
            {
                column.push(parse(facts.ty, field, &settings)?);
            }
            self.count += 1;
        }
        Ok(())
    }

    /// The rows as a batch of all columns.
    pub fn finish(self, schema: arrow::datatypes::SchemaRef) -> Result<RecordBatch, ValueError> {
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (column, facts) in self.columns.iter().zip(&self.facts.columns) {
            arrays.push(array_from_datums(facts.ty.ty, column)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.count));
        RecordBatch::try_new_with_options(schema, arrays, &options)
            .map_err(|error| ValueError::new(ValueErrorKind::Internal, error.to_string()))
    }
}

fn parse(ty: TypeMod, field: &str, settings: &ValueSettings) -> Result<Datum, ValueError> {
    if field == "\\N" {
        return Ok(Datum::Null);
    }
    let ty = match ty.ty {
        // Facts hold numbers.
        ty if ty.is_oid_like() => SqlType::Oid,
        ty => ty,
    };
    if ty == SqlType::Array(&SqlType::Oid) && !field.starts_with('{') {
        // An oidvector prints its elements with blanks between them.
        let elements: Result<Vec<Datum>, ValueError> = field
            .split_whitespace()
            .map(|oid| value::text::parse(SqlType::Oid, oid, settings))
            .collect();
        return Ok(array(SqlType::Oid, elements?));
    }
    value::text::parse(ty, field, settings)
}

pub fn oid(oid: Oid) -> Datum {
    Datum::Oid(oid.0)
}

pub fn text(text: impl AsRef<str>) -> Datum {
    Datum::Text(text.as_ref().into())
}

/// NULL for `None`.
pub fn maybe_text(value: Option<impl AsRef<str>>) -> Datum {
    value.map_or(Datum::Null, text)
}

/// A one-byte `"char"`.
pub fn letter(letter: char) -> Datum {
    Datum::Text(letter.to_string().into())
}

pub fn array(element: SqlType, elements: Vec<Datum>) -> Datum {
    Datum::Array(Box::new(ArrayValue { element, lower_bound: 1, elements }))
}

pub fn int2_array(values: impl IntoIterator<Item = i16>) -> Datum {
    array(SqlType::Int2, values.into_iter().map(Datum::Int2).collect())
}

pub fn oid_array(values: impl IntoIterator<Item = u32>) -> Datum {
    array(SqlType::Oid, values.into_iter().map(Datum::Oid).collect())
}

pub fn text_array(values: impl IntoIterator<Item = String>) -> Datum {
    array(SqlType::Text, values.into_iter().map(text).collect())
}

/// `YES` or `NO` of information_schema.
pub fn yes_no(value: bool) -> Datum {
    text(if value { "YES" } else { "NO" })
}
