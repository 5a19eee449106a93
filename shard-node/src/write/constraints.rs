//! What a row must satisfy by itself, and the wording of what it violates.
//!
//! Lives here: NOT NULL, CHECK, the columns a constraint watches, index entries of a row, and the details of errors in
//! Postgres's words. Not here: looking for duplicates (`insert`, `update`).

use bytes::Bytes;
use cortex_functions::{scalar, session::EvalContext};
use cortex_shard_api::{
    Datum, ShardError, TableDescriptor,
    descriptor::{IndexDescriptor, IndexState},
    key,
    value::{ValueSettings, text},
};

/// Longer values are cut in "Failing row contains", as Postgres does.
const FAILING_VALUE_BYTES_MAX: usize = 64;

/// NOT NULL and CHECK.
pub(super) fn check_row(
    table: &TableDescriptor,
    row: &[Datum],
    eval: &EvalContext,
) -> Result<(), ShardError> {
    for (position, column) in table.live_columns() {
        if column.not_null && matches!(row.get(position), None | Some(Datum::Null)) {
            return Err(ShardError::NotNullViolation {
                schema: table.schema.clone(),
                table: table.name.clone(),
                column: column.name.clone(),
                detail: failing_row(table, row),
            });
        }
    }
    for check in &table.checks {
        if matches!(scalar::evaluate(&check.expr, row, &[], eval)?, Datum::Bool(false)) {
            return Err(ShardError::CheckViolation {
                schema: table.schema.clone(),
                table: table.name.clone(),
                constraint: check.name.clone(),
                detail: failing_row(table, row),
            });
        }
    }
    Ok(())
}

/// A value as error details show it.
fn show(out: &mut String, table: &TableDescriptor, row: &[Datum], position: usize) {
    let value = row.get(position).unwrap_or(&Datum::Null);
    match (value, table.columns.get(position)) {
        (Datum::Null, _) | (_, None) => out.push_str("null"),
        (value, Some(column)) => {
            text::format(value, column.ty.ty, &ValueSettings::default(), out);
        }
    }
}

fn failing_row(table: &TableDescriptor, row: &[Datum]) -> String {
    let mut detail = "Failing row contains (".to_owned();
    for (i, (position, _)) in table.live_columns().enumerate() {
        if i > 0 {
            detail.push_str(", ");
        }
        let mut value = String::new();
        show(&mut value, table, row, position);
        if value.len() > FAILING_VALUE_BYTES_MAX {
            let mut end = FAILING_VALUE_BYTES_MAX;
            while !value.is_char_boundary(end) {
                end -= 1;
            }
            value.truncate(end);
            value.push_str("...");
        }
        detail.push_str(&value);
    }
    detail.push_str(").");
    detail
}

/// `Key (a, b)=(1, x)`
pub(super) fn describe_key(table: &TableDescriptor, columns: &[usize], row: &[Datum]) -> String {
    let names: Vec<&str> = columns
        .iter()
        .filter_map(|position| table.columns.get(*position))
        .map(|column| column.name.as_str())
        .collect();
    let mut detail = format!("Key ({})=(", names.join(", "));
    for (i, position) in columns.iter().enumerate() {
        if i > 0 {
            detail.push_str(", ");
        }
        show(&mut detail, table, row, *position);
    }
    detail.push(')');
    detail
}

/// Positions of an index's columns.
pub(super) fn index_columns(index: &IndexDescriptor) -> Vec<usize> {
    index.columns.iter().map(|column| column.column).collect()
}

pub(super) fn primary_key_violation(table: &TableDescriptor, row: &[Datum]) -> ShardError {
    let name = table.primary_key_name.clone();
    unique_violation(
        table,
        name.unwrap_or_else(|| format!("{}_pkey", table.name)),
        format!("{} already exists.", describe_key(table, &table.primary_key, row)),
    )
}

pub(super) fn index_violation(
    table: &TableDescriptor,
    index: &IndexDescriptor,
    row: &[Datum],
) -> ShardError {
    let detail = describe_key(table, &index_columns(index), row);
    unique_violation(table, index.name.clone(), format!("{detail} already exists."))
}

pub(super) fn unique_violation(
    table: &TableDescriptor,
    constraint: String,
    detail: String,
) -> ShardError {
    ShardError::UniqueViolation {
        schema: table.schema.clone(),
        table: table.name.clone(),
        constraint,
        detail,
    }
}

/// An index entry that a row should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Position in `TableDescriptor::indexes`.
    pub index: usize,
    pub key: Bytes,
    pub value: Bytes,
}

impl IndexEntry {
    /// Whether no other row may have the same key: a NULL makes entries of unique indexes distinct.
    pub(super) fn is_unique(&self) -> bool {
        !self.value.is_empty()
    }
}

/// All entries of a row. Those of an index that is only deleted from are left out of new rows (`is_new`).
pub(crate) fn entries(
    table: &TableDescriptor,
    row: &[Datum],
    row_key: &Bytes,
    is_new: bool,
) -> Vec<IndexEntry> {
    let maintained = table
        .indexes
        .iter()
        .enumerate()
        .filter(|(_, index)| !(is_new && index.state == IndexState::DeleteOnly));
    maintained
        .map(|(position, index)| {
            let (key, value) = key::index_entry(table, index, row, row_key);
            IndexEntry { index: position, key, value }
        })
        .collect()
}
