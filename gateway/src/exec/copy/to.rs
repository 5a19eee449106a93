//! COPY TO STDOUT: a query's rows in one of three formats, one CopyData for each row.

use std::sync::Arc;

use bytes::Bytes;
use cortex_planner::bind::OutputColumn;
use cortex_shard_api::{
    Datum, SqlType,
    client::Row,
    value::{ValueSettings, binary, text},
};
use futures::{StreamExt, TryStreamExt, stream};
use sqlparser::ast::Statement;

use super::{Session, options, quoted, split};
use crate::{
    copy::{
        CopyColumn, CopyFormat, CopyOptions, CopyTarget, Header, binary::BinaryWriter,
        csv::CsvWriter, text::TextWriter,
    },
    error::{PgError, SqlState},
    exec::{plan::Plan, rows::BatchRows},
    parse,
    statement::{CopyShape, CopyStream, Execution, RowSource},
};

impl Session {
    /// COPY table [(columns)] TO: the rows of the table as a query gives them.
    pub(super) async fn copy_table_to(
        &mut self,
        name: &[String],
        columns: &[String],
        given: &parse::CopyOptions,
    ) -> Result<Execution, PgError> {
        let (schema, relation) = split(name)?;
        let from = match schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(relation)),
            None => quoted(relation),
        };
        let list = match columns {
            [] => "*".to_owned(),
            columns => columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", "),
        };
        let sql: Arc<str> = format!("SELECT {list} FROM {from}").into();
        let parsed = parse::parse(&sql)?;
        match parsed.first().map(|parsed| &*parsed.ast) {
            Some(parse::Ast::Sql(statement)) => {
                // Positions in the made-up query mean nothing in the user's statement.
                let copied = self.copy_query_to(&sql, statement, given, false).await;
                copied.map_err(|mut error| {
                    error.position = None;
                    error
                })
            }
            _ => Err(PgError::internal("COPY made a query that is none")),
        }
    }

    /// COPY (query) TO.
    pub(super) async fn copy_query_to(
        &mut self,
        sql: &Arc<str>,
        query: &Statement,
        given: &parse::CopyOptions,
        autocommit: bool,
    ) -> Result<Execution, PgError> {
        let execution = self.rerun_copy(sql, query, autocommit).await?;
        let Execution::Rows { columns, rows, .. } = execution else {
            return Err(PgError::internal("a query without rows"));
        };
        let target = CopyTarget {
            table: String::new(),
            columns: columns
                .iter()
                .map(|column| CopyColumn { name: column.name.clone(), ty: column.ty })
                .collect(),
        };
        let (format, options) = options::resolve(given, &target)?;
        let shape = CopyShape { binary: format == CopyFormat::Binary, columns: columns.len() };
        let settings = self.eval_context().settings;
        let data = written(RowWriter::new(format, &options, columns, settings), &target, rows);
        Ok(Execution::CopyOut { format: shape, data })
    }
}

impl Session {
    /// The rows of a query that COPY is to send.
    pub(in crate::exec) async fn run_copied(
        &mut self,
        plan: Plan,
        autocommit: bool,
    ) -> Result<Execution, PgError> {
        match plan {
            Plan::FastSelect(fast) => self.run_fast_select(&fast, &[]).await,
            Plan::Query(query) if query.bound.locking.is_empty() => {
                self.run_query(&query, &[], &[]).await
            }
            Plan::Query(query) => self.run_locking_query(&query, &[], &[]).await,
            Plan::Write(write) if write.bound.returning().is_some() => {
                self.run_write(&write, &[], Arc::from(Vec::new()), autocommit).await
            }
            _ => Err(PgError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                "COPY query must have a RETURNING clause",
            )),
        }
    }
}

/// The rows as COPY sends them: header, rows, trailer.
fn written(writer: RowWriter, target: &CopyTarget, rows: RowSource) -> CopyStream {
    let begin = writer.begin(target).map(|bytes| (bytes, 0));
    let end = writer.end().map(|bytes| (bytes, 0));
    let writer = Arc::new(writer);
    let body: CopyStream = match rows {
        RowSource::Rows(rows) => {
            Box::pin(stream::iter(rows.map(move |row| Ok((writer.row(&row), 1)))))
        }
        RowSource::Batches(batches) => Box::pin(
            batches
                .map(move |batch| {
                    let batch = batch?;
                    let reader = BatchRows::new(&batch, &writer.types);
                    let rows = (0..batch.num_rows())
                        .map(|index| Ok::<_, PgError>((writer.row(&reader.row(index)?), 1u64)));
                    Ok::<_, PgError>(stream::iter(rows.collect::<Vec<_>>()))
                })
                .try_flatten(),
        ),
    };
    Box::pin(stream::iter(begin.map(Ok)).chain(body).chain(stream::iter(end.map(Ok))))
}

/// Writes rows of one COPY.
struct RowWriter {
    format: Format,
    types: Vec<SqlType>,
    settings: ValueSettings,
    header: Header,
}

enum Format {
    Text(TextWriter),
    Csv(CsvWriter),
    Binary(BinaryWriter),
}

impl RowWriter {
    fn new(
        format: CopyFormat,
        options: &CopyOptions,
        columns: Arc<[OutputColumn]>,
        settings: ValueSettings,
    ) -> RowWriter {
        RowWriter {
            format: match format {
                CopyFormat::Text => Format::Text(TextWriter::new(options)),
                CopyFormat::Csv => Format::Csv(CsvWriter::new(options, columns.len())),
                CopyFormat::Binary => Format::Binary(BinaryWriter),
            },
            types: columns.iter().map(|column| column.ty.ty).collect(),
            settings,
            header: options.header,
        }
    }

    /// What comes before the first row.
    fn begin(&self, target: &CopyTarget) -> Option<Bytes> {
        let mut out = Vec::new();
        match &self.format {
            Format::Text(writer) if self.header != Header::No => {
                writer.header(target.names(), &mut out);
            }
            Format::Csv(writer) if self.header != Header::No => {
                writer.header(target.names(), &mut out);
            }
            Format::Binary(writer) => writer.header(&mut out),
            Format::Text(_) | Format::Csv(_) => return None,
        }
        Some(out.into())
    }

    /// What comes after the last row.
    fn end(&self) -> Option<Bytes> {
        let Format::Binary(writer) = &self.format else { return None };
        let mut out = Vec::new();
        writer.trailer(&mut out);
        Some(out.into())
    }

    fn row(&self, row: &Row) -> Bytes {
        let mut out = Vec::new();
        if let Format::Binary(writer) = &self.format {
            writer.begin_row(row.len(), &mut out);
        }
        let mut shown = String::new();
        for (column, (value, ty)) in row.iter().zip(&self.types).enumerate() {
            let is_null = matches!(value, Datum::Null);
            if let Format::Binary(writer) = &self.format {
                let write = |out: &mut Vec<u8>| binary::encode(value, *ty, out);
                writer.field((!is_null).then_some(write), &mut out);
                continue;
            }
            shown.clear();
            if !is_null {
                text::format(value, *ty, &self.settings, &mut shown);
            }
            let field = (!is_null).then_some(shown.as_str());
            match &self.format {
                Format::Text(writer) => writer.field(column, field, &mut out),
                Format::Csv(writer) => writer.field(column, field, &mut out),
                Format::Binary(_) => {}
            }
        }
        match &self.format {
            Format::Text(writer) => writer.end_row(&mut out),
            Format::Csv(writer) => writer.end_row(&mut out),
            Format::Binary(_) => {}
        }
        out.into()
    }
}
