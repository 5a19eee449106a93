//! DECLARE, FETCH, MOVE, CLOSE: queries that keep their place in a transaction.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use cortex_planner::bind::OutputColumn;
use cortex_shard_api::{SqlType, client::Row};
use futures::StreamExt;

use super::rows::BatchRows;
use crate::{
    error::{PgError, SqlState},
    parse::FetchCount,
    statement::RowSource,
};

/// Open cursors of one session: each keeps a query running.
const CURSORS_MAX: usize = 100;

/// Rows of one FETCH: they are held in memory.
const FETCH_ROWS_MAX: u64 = 1_000_000;

/// A query that is read piece by piece.
struct Cursor {
    columns: Arc<[OutputColumn]>,
    /// Only reached through `&mut`; the lock makes the session shareable, which a stream alone is not.
    source: Mutex<RowSource>,
    /// Rows of the current batch that nobody fetched yet.
    ahead: std::vec::IntoIter<Row>,
}

/// The cursors of a session. Their names end with the transaction.
#[derive(Default)]
pub(crate) struct Cursors(BTreeMap<String, Cursor>);

impl std::fmt::Debug for Cursors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Cursors {
    /// DECLARE: 42P03 for a name in use.
    pub fn open(
        &mut self,
        name: &str,
        columns: Arc<[OutputColumn]>,
        source: RowSource,
    ) -> Result<(), PgError> {
        if self.0.contains_key(name) {
            return Err(PgError::new(
                SqlState::DUPLICATE_CURSOR,
                format!("cursor \"{name}\" already exists"),
            ));
        }
        if self.0.len() >= CURSORS_MAX {
            return Err(PgError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("a session can have at most {CURSORS_MAX} open cursors"),
            ));
        }
        let cursor = Cursor { columns, source: Mutex::new(source), ahead: Vec::new().into_iter() };
        self.0.insert(name.to_owned(), cursor);
        Ok(())
    }

    pub fn columns(&self, name: &str) -> Result<Arc<[OutputColumn]>, PgError> {
        self.0.get(name).map(|cursor| cursor.columns.clone()).ok_or_else(|| missing(name))
    }

    /// The next rows, at most `count`.
    pub async fn fetch(&mut self, name: &str, count: FetchCount) -> Result<Vec<Row>, PgError> {
        let cursor = self.0.get_mut(name).ok_or_else(|| missing(name))?;
        let (wanted, all) = match count {
            FetchCount::Rows(rows) => (rows.min(FETCH_ROWS_MAX), false),
            FetchCount::All => (FETCH_ROWS_MAX + 1, true),
        };
        let mut rows = Vec::new();
        while (rows.len() as u64) < wanted {
            match cursor.ahead.next() {
                Some(row) => rows.push(row),
                None if cursor.refill().await? => {}
                None => break,
            }
        }
        if all && rows.len() as u64 > FETCH_ROWS_MAX {
            return Err(PgError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("FETCH ALL met more than {FETCH_ROWS_MAX} rows"),
            )
            .with_hint("Fetch a bounded number of rows at a time."));
        }
        Ok(rows)
    }

    /// CLOSE; `None`: all.
    pub fn close(&mut self, name: Option<&str>) -> Result<(), PgError> {
        match name {
            Some(name) => self.0.remove(name).map(drop).ok_or_else(|| missing(name)),
            None => {
                self.0.clear();
                Ok(())
            }
        }
    }

    /// COMMIT and ROLLBACK close them.
    pub fn end_transaction(&mut self) {
        self.0.clear();
    }
}

impl Cursor {
    /// Reads the next batch; `false` at the end.
    async fn refill(&mut self) -> Result<bool, PgError> {
        match self.source.get_mut().unwrap_or_else(PoisonError::into_inner) {
            RowSource::Rows(rows) => {
                self.ahead = std::mem::take(rows);
                Ok(self.ahead.len() > 0)
            }
            RowSource::Batches(batches) => {
                let Some(batch) = batches.next().await else { return Ok(false) };
                let batch = batch?;
                let types: Vec<SqlType> = self.columns.iter().map(|column| column.ty.ty).collect();
                let reader = BatchRows::new(&batch, &types);
                let rows = (0..batch.num_rows()).map(|index| reader.row(index));
                self.ahead = rows.collect::<Result<Vec<Row>, _>>()?.into_iter();
                Ok(true)
            }
        }
    }
}

/// 34000
fn missing(name: &str) -> PgError {
    PgError::new(SqlState::INVALID_CURSOR_NAME, format!("cursor \"{name}\" does not exist"))
}
