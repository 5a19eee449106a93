//! Prepared statements and portals: what a client has named, and rows that are read as it asks for them.
//!
//! A portal keeps the `RowSource` itself. Nothing is collected: a row limit leaves the rest unread, and closing the portal
//! drops it.

use std::{collections::HashMap, sync::Arc};

use arrow::record_batch::RecordBatch;
use cortex_planner::bind::OutputColumn;
use cortex_shard_api::Datum;
use futures::StreamExt;

use super::{
    cancel::Guard,
    framing::{FLUSH_BYTES, Wire},
    message::Formats,
};
use crate::{
    encode::{rows, text::TextContext},
    error::{PgError, SqlState},
    statement::{Prepared, RowSource, RowsTag, SqlSession},
};

/// A session that names more statements leaks them.
const STATEMENTS_MAX: usize = 10_000;
/// Each open portal may hold a snapshot on every shard.
const PORTALS_MAX: usize = 1_000;

/// What Parse made.
#[derive(Clone)]
pub(crate) struct Statement {
    /// `None` is an empty query.
    pub prepared: Option<Arc<Prepared>>,
}

/// What Bind made.
pub(crate) struct Portal {
    pub prepared: Option<Arc<Prepared>>,
    pub formats: Formats,
    pub state: PortalState,
}

/// How far a portal has come.
pub(crate) enum PortalState {
    /// Not executed yet.
    Bound(Vec<Datum>),
    /// Rows have been sent and more may follow.
    Open(Cursor),
    /// All rows were sent; asking again finds none.
    Drained(RowsTag),
    /// A command without rows ran; it must not run twice.
    Done,
}

/// Things with names; the empty name is special because each new one replaces the last.
pub(crate) struct Named<T> {
    unnamed: Option<T>,
    named: HashMap<Box<str>, T>,
    max: usize,
    what: &'static str,
}

impl Named<Statement> {
    pub(crate) fn statements() -> Named<Statement> {
        Named::new(STATEMENTS_MAX, "prepared statements")
    }
}

impl Named<Portal> {
    pub(crate) fn portals() -> Named<Portal> {
        Named::new(PORTALS_MAX, "portals")
    }
}

impl<T> Named<T> {
    fn new(max: usize, what: &'static str) -> Named<T> {
        Named { unnamed: None, named: HashMap::new(), max, what }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    pub(crate) fn insert(&mut self, name: &str, value: T) -> Result<(), PgError> {
        if name.is_empty() {
            self.unnamed = Some(value);
            return Ok(());
        }
        if self.named.len() >= self.max && !self.named.contains_key(name) {
            return Err(PgError::new(
                SqlState::CONFIGURATION_LIMIT_EXCEEDED,
                format!("too many {} in this session (the limit is {})", self.what, self.max),
            )
            .with_hint("Close those that are not needed any more."));
        }
        self.named.insert(name.into(), value);
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<T> {
        if name.is_empty() { self.unnamed.take() } else { self.named.remove(name) }
    }

    pub(crate) fn clear(&mut self) {
        self.unnamed = None;
        self.named.clear();
    }
}

/// Rows that are being sent.
pub(crate) struct Cursor {
    pub columns: Arc<[OutputColumn]>,
    pub tag: RowsTag,
    source: RowSource,
    /// The batch that is being sent, and its next row.
    batch: Option<(RecordBatch, usize)>,
}

/// How a run of a cursor ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// No more rows; how many were sent in this run.
    Finished(u64),
    /// The row limit was reached.
    Suspended,
}

impl Cursor {
    pub(crate) fn new(columns: Arc<[OutputColumn]>, source: RowSource, tag: RowsTag) -> Cursor {
        Cursor { columns, tag, source, batch: None }
    }

    /// Sends at most `rows_max` rows (0: all), in pieces of the output buffer, at the client's pace.
    pub(crate) async fn send(
        &mut self,
        wire: &mut Wire,
        guard: &mut Guard,
        sql: &mut dyn SqlSession,
        formats: &Formats,
        rows_max: u64,
    ) -> Result<Progress, PgError> {
        let settings = sql.value_settings();
        let mut scratch = String::new();
        let mut sent: u64 = 0;
        loop {
            if rows_max > 0 && sent >= rows_max {
                return Ok(Progress::Suspended);
            }
            let left = if rows_max == 0 { u64::MAX } else { rows_max - sent };
            let step = {
                let session = &*sql;
                let scratch = &mut scratch;
                let mut context = TextContext { settings: &settings, session, scratch };
                self.encode_some(&mut wire.out, formats, left, &mut context)?
            };
            match step {
                Some(n) => sent += n,
                None => match &mut self.source {
                    RowSource::Rows(_) => return Ok(Progress::Finished(sent)),
                    RowSource::Batches(stream) => {
                        let next = async { stream.next().await.transpose() };
                        match guard.run(wire, next).await? {
                            Some(next) => self.batch = Some((next, 0)),
                            None => return Ok(Progress::Finished(sent)),
                        }
                    }
                },
            }
            if wire.should_flush() {
                guard.flush(wire).await?;
            }
        }
    }

    /// Encodes rows that are here, until the buffer is full or `left` are written. `None`: there are none.
    fn encode_some(
        &mut self,
        out: &mut Vec<u8>,
        formats: &Formats,
        left: u64,
        context: &mut TextContext<'_>,
    ) -> Result<Option<u64>, PgError> {
        match &mut self.source {
            RowSource::Rows(source) => {
                let mut n = 0;
                while n < left && out.len() < FLUSH_BYTES {
                    let Some(row) = source.next() else { break };
                    rows::encode_row(out, &row, &self.columns, formats, context)?;
                    n += 1;
                }
                Ok((n > 0).then_some(n))
            }
            RowSource::Batches(_) => {
                let Some((batch, next)) = &mut self.batch else { return Ok(None) };
                let (from, left) = (*next, usize::try_from(left).unwrap_or(usize::MAX));
                let n =
                    rows::encode_batch(out, batch, from, left, &self.columns, formats, context)?;
                *next += n;
                if *next >= batch.num_rows() {
                    // Let go before the next one is waited for.
                    self.batch = None;
                }
                Ok((n > 0).then_some(n as u64))
            }
        }
    }
}
