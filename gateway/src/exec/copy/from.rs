//! COPY FROM STDIN: data to rows to shards, in one transaction.
//!
//! The wire owns the session while data comes in, and the sink must reach the session's transaction. So the sink gets a
//! session of its own that borrows the transaction: it goes back when the sink ends, however it ends.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use cortex_planner::{bind::write::column_default, catalog::Table};
use cortex_shard_api::{
    Datum, ScalarExpr,
    client::{OnConflict, Row},
};

use super::{
    Session, options,
    reader::{Layout, RowReader},
};
use crate::{
    copy::{CopyColumn, CopyFormat, CopyTarget, format::CopyReader},
    error::PgError,
    exec::{
        defaults::RowMaker,
        transaction::{Block, Transaction},
        write::{Attempt, InsertSender, WriteRun},
    },
    parse,
    statement::{CopyShape, CopySink, Execution},
};

/// Where a lent transaction comes back to.
pub(in crate::exec) type Lent = Arc<Mutex<Option<Transaction>>>;

impl Session {
    pub(super) async fn copy_from(
        &mut self,
        table: &Arc<Table>,
        positions: Vec<usize>,
        given: &parse::CopyOptions,
        autocommit: bool,
    ) -> Result<Execution, PgError> {
        self.refuse_in_read_only("COPY FROM")?;
        let target = CopyTarget {
            table: table.descriptor.name.clone(),
            columns: positions
                .iter()
                .map(|position| {
                    let column = &table.descriptor.columns[*position];
                    CopyColumn { name: column.name.clone(), ty: column.ty }
                })
                .collect(),
        };
        let (format, options) = options::resolve(given, &target)?;
        let shape = CopyShape { binary: format == CopyFormat::Binary, columns: positions.len() };
        let reader = CopyReader::new(format, Arc::new(target), options);
        self.ensure_transaction().next_mark();
        self.share_table(&table.descriptor, false).await?;
        let run = WriteRun {
            table: table.descriptor.clone(),
            related: crate::exec::write::related(&self.catalog(), table),
            parameters: Arc::from(Vec::<Datum>::new()),
            types: Vec::new(),
            eval: self.eval_context(),
            returning: false,
            joined: 0,
            autocommit: false,
        };
        let width = table.descriptor.columns.len();
        let defaults = (0..width).filter(|position| !positions.contains(position));
        let defaults = defaults.map(|position| (position, column_default(table, position)));
        let (default_positions, default_exprs) =
            defaults.filter(|(_, expr)| !is_null(expr)).unzip();
        // Outside of a block the COPY is a transaction of its own.
        let commits =
            autocommit && self.transaction.as_ref().is_some_and(|it| it.block == Block::Implicit);
        let layout = Layout { width, positions, settings: run.eval.settings.clone() };
        let lent = Lent::default();
        let sink = Sink {
            default_positions,
            default_exprs,
            sender: Some(InsertSender::new(OnConflict::Fail)),
            reader: RowReader::spawn(reader, layout),
            run,
            commits,
            rows: 0,
            session: Some(self.lend(&lent)),
            lent,
        };
        Ok(Execution::CopyIn { format: shape, sink: Box::new(sink) })
    }
}

fn is_null(expr: &ScalarExpr) -> bool {
    matches!(expr, ScalarExpr::Literal { value: Datum::Null, .. })
}

/// A COPY FROM that is running.
struct Sink {
    /// `None` once it ended.
    session: Option<Session>,
    lent: Lent,
    reader: RowReader,
    sender: Option<InsertSender>,
    run: WriteRun,
    /// Columns that the data does not have and that are not simply NULL.
    default_positions: Vec<usize>,
    default_exprs: Vec<ScalarExpr>,
    commits: bool,
    rows: u64,
}

impl Sink {
    /// Sends rows to their shards.
    async fn write(&mut self, rows: Vec<Row>) -> Result<(), PgError> {
        let (Some(session), Some(sender)) = (&mut self.session, &mut self.sender) else {
            return Err(PgError::internal("COPY data after its end"));
        };
        self.rows += rows.len() as u64;
        let each = std::iter::repeat_n(self.default_exprs.as_slice(), rows.len());
        let mut maker = RowMaker::new(session, each).await?;
        for mut row in rows {
            if !self.default_exprs.is_empty() {
                let made = maker.row(&self.default_exprs, &[], &[], &self.run.eval)?;
                for (position, value) in self.default_positions.iter().zip(made) {
                    row[*position] = value;
                }
            }
            sender.push(session, &self.run, row).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl CopySink for Sink {
    async fn data(&mut self, bytes: Bytes) -> Result<(), PgError> {
        while let Some(rows) = self.reader.push(&bytes).await? {
            self.write(rows).await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<u64, PgError> {
        self.reader.end();
        while let Some(rows) = self.reader.next().await? {
            self.write(rows).await?;
        }
        let (Some(session), Some(sender)) = (&mut self.session, self.sender.take()) else {
            return Err(PgError::internal("COPY ended twice"));
        };
        match sender.finish(session, &self.run).await? {
            Attempt::Done(_) => {}
            Attempt::Retry => return Err(PgError::internal("COPY cannot meet its own rows")),
        }
        if self.commits {
            session.commit().await?;
        }
        Ok(self.rows)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(session) = &mut self.session {
            let transaction = session.transaction.take();
            *self.lent.lock().unwrap_or_else(PoisonError::into_inner) = transaction;
        }
    }
}
