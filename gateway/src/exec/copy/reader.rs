//! COPY's data read into rows on a task of its own, while the rows before are written.
//!
//! Reading needs no session: bytes go in, rows of values come out, and an error is the last thing that does. Both
//! channels are bounded, so a slow shard stops the reading and with it the socket. Dropping the handle ends the task.

use bytes::Bytes;
use cortex_shard_api::{Datum, client::Row, value::ValueSettings};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{copy::format::CopyReader, error::PgError};

/// Pieces of data that wait to be read, each of about 64 KiB.
const PIECES_AHEAD: usize = 4;

/// Batches of rows that wait to be written; each comes from one piece.
const BATCHES_AHEAD: usize = 4;

/// Which columns of the table the data has, and how its values are read.
pub(super) struct Layout {
    /// Columns of a row.
    pub width: usize,
    /// Positions of the data's columns in the table.
    pub positions: Vec<usize>,
    pub settings: ValueSettings,
}

/// The session's end of the reading task.
pub(super) struct RowReader {
    /// `None` once the data has ended.
    pieces: Option<mpsc::Sender<Bytes>>,
    rows: mpsc::Receiver<Result<Vec<Row>, PgError>>,
    task: JoinHandle<()>,
}

impl RowReader {
    pub fn spawn(reader: CopyReader, layout: Layout) -> RowReader {
        let (pieces, from_session) = mpsc::channel(PIECES_AHEAD);
        let (to_session, rows) = mpsc::channel(BATCHES_AHEAD);
        let task = tokio::spawn(read(reader, layout, from_session, to_session));
        RowReader { pieces: Some(pieces), rows, task }
    }

    /// Hands a piece on. `Some` are rows to write first: the piece was not taken, because the task waits for room.
    pub async fn push(&mut self, piece: &Bytes) -> Result<Option<Vec<Row>>, PgError> {
        let Some(pieces) = &self.pieces else {
            return Err(PgError::internal("COPY data after its end"));
        };
        let rows = tokio::select! {
            biased;
            rows = self.rows.recv() => rows,
            sent = pieces.send(piece.clone()) => match sent {
                Ok(()) => return Ok(None),
                // The task has ended, and has left its reason.
                Err(_) => self.rows.recv().await,
            },
        };
        rows.unwrap_or_else(|| Err(gone())).map(Some)
    }

    /// No more data will come.
    pub fn end(&mut self) {
        self.pieces = None;
    }

    /// The next rows; `None` after the last, once `end` was called.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>, PgError> {
        match self.rows.recv().await {
            Some(rows) => rows.map(Some),
            None => (&mut self.task).await.map(|()| None).map_err(|_| gone()),
        }
    }
}

/// A panic while reading, which must not look like the end of the data.
fn gone() -> PgError {
    PgError::internal("the task that reads COPY data is gone")
}

async fn read(
    mut reader: CopyReader,
    layout: Layout,
    mut pieces: mpsc::Receiver<Bytes>,
    rows: mpsc::Sender<Result<Vec<Row>, PgError>>,
) {
    loop {
        let piece = pieces.recv().await;
        let is_last = piece.is_none();
        let taken = match piece {
            Some(piece) => reader.push(&piece),
            None => {
                reader.finish();
                Ok(())
            }
        };
        let batch = taken.and_then(|()| layout.rows(&mut reader));
        let is_over = is_last || batch.is_err();
        if batch.as_ref().is_ok_and(Vec::is_empty) && !is_over {
            continue;
        }
        if rows.send(batch).await.is_err() || is_over {
            return;
        }
    }
}

impl Layout {
    /// Every row that is complete.
    fn rows(&self, reader: &mut CopyReader) -> Result<Vec<Row>, PgError> {
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row()? {
            let mut values = vec![Datum::Null; self.width];
            for (column, position) in self.positions.iter().enumerate() {
                values[*position] = row.datum(column, &self.settings)?;
            }
            rows.push(values);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cortex_shard_api::{SqlType, TypeMod};

    use super::*;
    use crate::copy::{CopyColumn, CopyFormat, CopyOptions, CopyTarget};

    fn spawn(positions: Vec<usize>) -> RowReader {
        let column = CopyColumn { name: "a".to_owned(), ty: TypeMod::plain(SqlType::Int4) };
        let target = CopyTarget { table: "t".to_owned(), columns: vec![column] };
        let reader = CopyReader::new(CopyFormat::Csv, Arc::new(target), CopyOptions::csv());
        let layout = Layout { width: 1, positions, settings: ValueSettings::default() };
        RowReader::spawn(reader, layout)
    }

    #[tokio::test]
    async fn rows_end_with_the_data_and_not_with_a_panic() {
        let mut reader = spawn(vec![0]);
        reader.push(&Bytes::from_static(b"1\n2")).await.expect("taken");
        reader.end();
        let mut rows = Vec::new();
        while let Some(batch) = reader.next().await.expect("rows") {
            rows.extend(batch);
        }
        assert!(
            matches!(&rows[0][..], [Datum::Int4(1)]) && matches!(&rows[1][..], [Datum::Int4(2)])
        );
        assert_eq!(rows.len(), 2);
        // A position that no row has: the task panics at the first row.
        let mut reader = spawn(vec![7]);
        reader.push(&Bytes::from_static(b"1\n")).await.expect("taken");
        reader.end();
        assert!(reader.next().await.is_err());
    }
}
