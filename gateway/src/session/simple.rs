//! The simple protocol: one text, any number of statements, one implicit transaction around them.

use bytes::Bytes;

use super::{
    Session,
    message::{Formats, decode_text},
    portal::{Cursor, Progress},
};
use crate::{
    encode::{self, Bare},
    error::PgError,
    statement::{Execution, ParsedStatement, RowsTag},
};

/// What CommandComplete will say. It is held back at the end of a query until the implicit transaction has committed.
pub(super) enum Completion {
    Rows(RowsTag, u64),
    Tag(String),
    Copied(u64),
    Empty,
}

impl Completion {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Completion::Rows(RowsTag::Select, n) => {
                encode::command_complete_counted(out, "SELECT", *n);
            }
            Completion::Rows(RowsTag::Fetch, n) => {
                encode::command_complete_counted(out, "FETCH", *n);
            }
            Completion::Rows(RowsTag::Word(word), _) => encode::command_complete(out, word),
            Completion::Rows(RowsTag::Counted(word, n), _) => {
                encode::command_complete_counted(out, word, *n);
            }
            Completion::Tag(tag) => encode::command_complete(out, tag),
            Completion::Copied(n) => encode::command_complete_counted(out, "COPY", *n),
            Completion::Empty => encode::bare(out, Bare::EmptyQueryResponse),
        }
    }
}

impl Session {
    /// Query. Only what ends the connection comes back as an error.
    pub(super) async fn query(&mut self, body: Bytes) -> Result<(), PgError> {
        match self.run_query(body).await {
            Ok(()) => {}
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                self.report(&error).await;
                self.roll_back_implicit().await;
            }
        }
        self.drop_portals_outside_transaction();
        self.ready().await
    }

    async fn run_query(&mut self, body: Bytes) -> Result<(), PgError> {
        let text = decode_text(body, "Query")?;
        self.statements.remove("");
        self.portals.remove("");
        let statements = self.sql.parse(text.as_str()?)?;
        let Some((last, others)) = statements.split_last() else {
            self.end_implicit().await?;
            Completion::Empty.write(&mut self.wire.out);
            return Ok(());
        };
        for statement in others {
            let done = self.run_statement(statement, false).await?;
            self.tell();
            done.write(&mut self.wire.out);
        }
        let done = self.run_statement(last, others.is_empty()).await?;
        self.end_implicit().await?;
        self.tell();
        done.write(&mut self.wire.out);
        Ok(())
    }

    async fn run_statement(
        &mut self,
        statement: &ParsedStatement,
        autocommit: bool,
    ) -> Result<Completion, PgError> {
        self.guard.begin(self.sql.statement_timeout());
        let Session { wire, guard, sql, .. } = self;
        let prepared = guard.run(wire, sql.prepare(statement, &[])).await?;
        let execution = guard.run(wire, sql.execute(&prepared, Vec::new(), autocommit)).await?;
        let done = self.deliver(execution).await?;
        self.guard.begin(None);
        self.forget_deallocated();
        Ok(done)
    }

    /// Sends what a statement gives, all but its completion.
    async fn deliver(&mut self, execution: Execution) -> Result<Completion, PgError> {
        match execution {
            Execution::Rows { columns, rows, tag } => {
                let formats = Formats::default();
                encode::row_description(&mut self.wire.out, &columns, &formats);
                let mut cursor = Cursor::new(columns, rows, tag);
                let Session { wire, guard, sql, .. } = self;
                match cursor.send(wire, guard, sql.as_mut(), &formats, 0).await? {
                    Progress::Finished(n) => Ok(Completion::Rows(tag, n)),
                    Progress::Suspended => Err(PgError::internal("suspended without a row limit")),
                }
            }
            Execution::Command(tag) => Ok(Completion::Tag(tag)),
            Execution::Empty => Ok(Completion::Empty),
            Execution::CopyIn { format, sink } => {
                self.copy_in(format, sink).await.map(Completion::Copied)
            }
            Execution::CopyOut { format, data } => {
                self.copy_out(format, data).await.map(Completion::Copied)
            }
        }
    }
}
