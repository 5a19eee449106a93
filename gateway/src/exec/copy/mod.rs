//! COPY: a table or query to the client, the client's data into a table.
//!
//! Lives here: what a COPY statement names and its options. The formats are `crate::copy`.

mod from;
mod options;
mod reader;
mod to;

pub(super) use self::from::Lent;

use std::sync::Arc;

use cortex_planner::catalog::{Relation, Table};

use super::{rerun::RERUNS_MAX, session::Session};
use crate::{
    error::{PgError, SqlState},
    parse::{CopyDirection, CopySource, CopyStatement, Parsed},
    statement::Execution,
};

impl Session {
    pub async fn run_copy(
        &mut self,
        copy: &CopyStatement,
        parsed: &Parsed,
        autocommit: bool,
    ) -> Result<Execution, PgError> {
        match (&copy.source, copy.direction) {
            (CopySource::Table { name, columns }, CopyDirection::FromStdin) => {
                for _ in 0..RERUNS_MAX {
                    let table = self.copy_table(name)?;
                    let positions = column_positions(&table, columns)?;
                    match self.copy_from(&table, positions, &copy.options, autocommit).await {
                        // The table changed while its lock was waited for; no data has been asked for yet.
                        Err(error) if error.is_stale => {}
                        done => return done,
                    }
                }
                Err(PgError::new(
                    SqlState::SERIALIZATION_FAILURE,
                    format!("table \"{}\" is being changed again and again", name.join(".")),
                )
                .with_hint("Run the statement again."))
            }
            (CopySource::Table { name, columns }, CopyDirection::ToStdout) => {
                self.copy_table_to(name, columns, &copy.options).await
            }
            (CopySource::Query(query), CopyDirection::ToStdout) => {
                self.copy_query_to(&parsed.sql, query, &copy.options, autocommit).await
            }
            (CopySource::Query(_), CopyDirection::FromStdin) => {
                Err(PgError::internal("COPY FROM into a query passed the parser"))
            }
        }
    }

    /// The table that data is copied into.
    fn copy_table(&self, name: &[String]) -> Result<Arc<Table>, PgError> {
        let (schema, relation) = split(name)?;
        match self.namespace().relation(schema, relation) {
            Some(Relation::Table(table)) => Ok(table),
            Some(_) => Err(PgError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("cannot copy to non-table relation \"{relation}\""),
            )),
            None => Err(undefined(name)),
        }
    }
}

fn split(name: &[String]) -> Result<(Option<&str>, &str), PgError> {
    match name {
        [relation] => Ok((None, relation)),
        [schema, relation] | [_, schema, relation] => Ok((Some(schema), relation)),
        _ => Err(PgError::new(SqlState::SYNTAX_ERROR, "improper relation name")),
    }
}

fn undefined(name: &[String]) -> PgError {
    PgError::new(
        SqlState::UNDEFINED_TABLE,
        format!("relation \"{}\" does not exist", name.join(".")),
    )
}

/// Positions of the columns named, or of all live ones.
fn column_positions(table: &Table, columns: &[String]) -> Result<Vec<usize>, PgError> {
    let descriptor = &table.descriptor;
    if columns.is_empty() {
        return Ok(descriptor.live_columns().map(|(position, _)| position).collect());
    }
    let mut positions = Vec::with_capacity(columns.len());
    for name in columns {
        let position = descriptor.column(name).ok_or_else(|| {
            PgError::new(
                SqlState::UNDEFINED_COLUMN,
                format!("column \"{name}\" of relation \"{}\" does not exist", descriptor.name),
            )
        })?;
        if positions.contains(&position) {
            return Err(PgError::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{name}\" specified more than once"),
            ));
        }
        positions.push(position);
    }
    Ok(positions)
}

/// A name as SQL reads it back.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
