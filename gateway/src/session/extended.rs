//! The extended protocol: Parse, Bind, Describe, Execute, Close, Sync.
//!
//! Answers collect in the output buffer and go out at Sync or Flush. A statement whose next message is Sync may commit by
//! itself; in a longer pipeline the statements share the implicit transaction that Sync ends.

use std::mem;

use bytes::Bytes;
use cortex_shard_api::{
    Datum, SqlType,
    value::{self, ValueSettings},
};

use super::{
    Session,
    message::{Bind, Execute, Parse, Target, invalid_bytes, utf8},
    portal::{Cursor, Portal, PortalState, Progress, Statement},
    simple::Completion,
};
use crate::{
    encode::{self, Bare},
    error::{PgError, SqlState},
    statement::{Execution, RowsTag, TransactionStatus},
};

impl Session {
    pub(super) async fn parse(&mut self, body: Bytes) -> Result<(), PgError> {
        let message = Parse::decode(body)?;
        let name = message.name.as_str()?;
        if name.is_empty() {
            self.statements.remove("");
        } else if self.statements.get(name).is_some() {
            return Err(PgError::new(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        let statements = self.sql.parse(message.sql.as_str()?)?;
        let statement = match statements.as_slice() {
            [] => Statement { prepared: None },
            [one] => {
                self.guard.begin(self.sql.statement_timeout());
                let work = self.sql.prepare(one, &message.parameter_oids);
                let prepared = self.guard.run(&mut self.wire, work).await;
                self.guard.begin(None);
                Statement { prepared: Some(prepared?) }
            }
            _ => {
                return Err(PgError::new(
                    SqlState::SYNTAX_ERROR,
                    "cannot insert multiple commands into a prepared statement",
                ));
            }
        };
        self.statements.insert(name, statement)?;
        self.tell();
        encode::bare(&mut self.wire.out, Bare::ParseComplete);
        Ok(())
    }

    pub(super) fn bind(&mut self, body: Bytes) -> Result<(), PgError> {
        let message = Bind::decode(body)?;
        let statement = self.statement(message.statement.as_str()?)?.clone();
        let name = message.portal.as_str()?;
        if !name.is_empty() && self.portals.get(name).is_some() {
            return Err(PgError::new(
                SqlState::DUPLICATE_CURSOR,
                format!("cursor \"{name}\" already exists"),
            ));
        }
        let prepared = statement.prepared.as_ref();
        let types = prepared.map_or(&[][..], |prepared| prepared.parameters.as_slice());
        let columns = prepared.and_then(|p| p.columns.as_ref()).map(|columns| columns.len());
        check_counts(&message, types.len(), columns)?;
        let settings = self.sql.value_settings();
        let mut parameters = Vec::with_capacity(types.len());
        for (index, (bytes, ty)) in message.parameters.iter().zip(types).enumerate() {
            let binary = message.parameter_formats.is_binary(index);
            parameters.push(match bytes {
                None => Datum::Null,
                Some(bytes) if binary => decode_binary(*ty, bytes, index)?,
                Some(bytes) if ty.is_oid_like() && *ty != SqlType::Oid => {
                    Datum::Oid(self.object_parameter(*ty, utf8(bytes)?)?)
                }
                Some(bytes) => decode_text(*ty, bytes, &settings)?,
            });
        }
        let portal = Portal {
            prepared: statement.prepared,
            formats: message.result_formats,
            state: PortalState::Bound(parameters),
        };
        self.portals.insert(name, portal)?;
        encode::bare(&mut self.wire.out, Bare::BindComplete);
        Ok(())
    }

    /// An object by number or by name; only the catalog knows names.
    fn object_parameter(&self, ty: SqlType, text: &str) -> Result<u32, PgError> {
        match text.trim() {
            "-" => Ok(0),
            number => match number.parse() {
                Ok(oid) => Ok(oid),
                Err(_) => self.sql.object_oid(ty, text),
            },
        }
    }

    fn statement(&self, name: &str) -> Result<&Statement, PgError> {
        self.statements.get(name).ok_or_else(|| {
            let message = if name.is_empty() {
                "unnamed prepared statement does not exist".to_owned()
            } else {
                format!("prepared statement \"{name}\" does not exist")
            };
            PgError::new(SqlState::INVALID_SQL_STATEMENT_NAME, message)
        })
    }

    pub(super) fn describe(&mut self, body: Bytes) -> Result<(), PgError> {
        match Target::decode(body, "Describe")? {
            Target::Statement(name) => {
                let prepared = self.statement(name.as_str()?)?.prepared.clone();
                let out = &mut self.wire.out;
                let parameters = prepared.as_ref().map_or(&[][..], |p| p.parameters.as_slice());
                encode::parameter_description(out, parameters);
                match prepared.as_ref().and_then(|prepared| prepared.columns.as_deref()) {
                    Some(columns) => encode::row_description(out, columns, &Default::default()),
                    None => encode::bare(out, Bare::NoData),
                }
            }
            Target::Portal(name) => {
                let name = name.as_str()?;
                let out = &mut self.wire.out;
                if let Some(portal) = self.portals.get(name) {
                    let prepared = portal.prepared.as_ref();
                    match prepared.and_then(|prepared| prepared.columns.as_deref()) {
                        Some(columns) => encode::row_description(out, columns, &portal.formats),
                        None => encode::bare(out, Bare::NoData),
                    }
                } else {
                    let columns = self.sql.cursor_columns(name).ok_or_else(|| no_portal(name))?;
                    encode::row_description(out, &columns, &Default::default());
                }
            }
        }
        Ok(())
    }

    pub(super) async fn execute(&mut self, body: Bytes) -> Result<(), PgError> {
        let message = Execute::decode(body)?;
        let name = message.portal.as_str()?;
        // Out of its place while it runs: a statement that ends the transaction closes the other portals.
        let Some(mut portal) = self.portals.remove(name) else { return Err(no_portal(name)) };
        let before = self.sql.transaction_status();
        self.guard.begin(self.sql.statement_timeout());
        let result = self.run_portal(&mut portal, message.rows_max).await;
        self.guard.begin(None);
        result?;
        self.forget_deallocated();
        let after = self.sql.transaction_status();
        if before != TransactionStatus::Idle && after == TransactionStatus::Idle {
            self.portals.clear();
        }
        self.portals.insert(name, portal)
    }

    async fn run_portal(&mut self, portal: &mut Portal, rows_max: u64) -> Result<(), PgError> {
        let Some(prepared) = &portal.prepared else {
            Completion::Empty.write(&mut self.wire.out);
            return Ok(());
        };
        let cursor = match mem::replace(&mut portal.state, PortalState::Done) {
            PortalState::Bound(parameters) => {
                let autocommit = !self.implicit_open && self.wire.next_is_sync();
                self.implicit_open |= !autocommit;
                let work = self.sql.execute(prepared, parameters, autocommit);
                let done = match self.guard.run(&mut self.wire, work).await? {
                    Execution::Rows { columns, rows, tag } => {
                        return self
                            .run_cursor(portal, Cursor::new(columns, rows, tag), rows_max)
                            .await;
                    }
                    Execution::Command(tag) => Completion::Tag(tag),
                    Execution::Empty => Completion::Empty,
                    Execution::CopyIn { format, sink } => {
                        Completion::Copied(self.copy_in(format, sink).await?)
                    }
                    Execution::CopyOut { format, data } => {
                        Completion::Copied(self.copy_out(format, data).await?)
                    }
                };
                self.complete(&done);
                return Ok(());
            }
            PortalState::Open(cursor) => cursor,
            PortalState::Drained(tag) => {
                portal.state = PortalState::Drained(tag);
                self.complete(&Completion::Rows(tag, 0));
                return Ok(());
            }
            PortalState::Done => {
                return Err(PgError::new(
                    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    "a portal cannot be run twice unless it returns rows",
                ));
            }
        };
        self.run_cursor(portal, cursor, rows_max).await
    }

    async fn run_cursor(
        &mut self,
        portal: &mut Portal,
        mut cursor: Cursor,
        rows_max: u64,
    ) -> Result<(), PgError> {
        let Session { wire, guard, sql, .. } = self;
        match cursor.send(wire, guard, sql.as_mut(), &portal.formats, rows_max).await? {
            Progress::Finished(n) => {
                // RETURNING is complete with its first run; a query may be asked again and has no more rows.
                portal.state = match cursor.tag {
                    RowsTag::Select | RowsTag::Fetch => PortalState::Drained(cursor.tag),
                    RowsTag::Word(_) | RowsTag::Counted(..) => PortalState::Done,
                };
                self.complete(&Completion::Rows(cursor.tag, n));
            }
            Progress::Suspended => {
                portal.state = PortalState::Open(cursor);
                self.tell();
                encode::bare(&mut self.wire.out, Bare::PortalSuspended);
            }
        }
        Ok(())
    }

    fn complete(&mut self, done: &Completion) {
        self.tell();
        done.write(&mut self.wire.out);
    }

    /// Close; a name that does not exist is no error.
    pub(super) fn close(&mut self, body: Bytes) -> Result<(), PgError> {
        match Target::decode(body, "Close")? {
            Target::Statement(name) => drop(self.statements.remove(name.as_str()?)),
            Target::Portal(name) => drop(self.portals.remove(name.as_str()?)),
        }
        encode::bare(&mut self.wire.out, Bare::CloseComplete);
        Ok(())
    }

    pub(super) async fn sync(&mut self) -> Result<(), PgError> {
        self.skips_to_sync = false;
        self.drop_portals_outside_transaction();
        if let Err(error) = self.end_implicit().await {
            if error.is_fatal() {
                return Err(error);
            }
            self.report(&error).await;
            self.roll_back_implicit().await;
        }
        self.ready().await
    }

    /// A portal lives no longer than its transaction.
    pub(super) fn drop_portals_outside_transaction(&mut self) {
        if self.sql.transaction_status() == TransactionStatus::Idle {
            self.portals.clear();
        }
    }
}

fn no_portal(name: &str) -> PgError {
    PgError::new(SqlState::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
}

/// The numbers in Bind must fit the statement; `columns` is `None` if it returns no rows.
fn check_counts(bind: &Bind, n_types: usize, columns: Option<usize>) -> Result<(), PgError> {
    let (n_formats, n_parameters) = (bind.parameter_formats.len(), bind.parameters.len());
    let violation = |message: String| Err(PgError::new(SqlState::PROTOCOL_VIOLATION, message));
    if n_formats > 1 && n_formats != n_parameters {
        return violation(format!(
            "bind message has {n_formats} parameter formats but {n_parameters} parameters"
        ));
    }
    if n_parameters != n_types {
        let name = bind.statement.as_str()?;
        return violation(format!(
            "bind message supplies {n_parameters} parameters, but prepared statement \"{name}\" \
             requires {n_types}"
        ));
    }
    let n_results = bind.result_formats.len();
    match columns {
        Some(n_columns) if n_results > 1 && n_results != n_columns => violation(format!(
            "bind message has {n_results} result formats but query has {n_columns} columns"
        )),
        Some(_) | None => Ok(()),
    }
}

fn decode_text(ty: SqlType, bytes: &[u8], settings: &ValueSettings) -> Result<Datum, PgError> {
    let text = utf8(bytes)?;
    if memchr::memchr(0, bytes).is_some() {
        return Err(invalid_bytes(&[0]));
    }
    match ty {
        SqlType::Text | SqlType::Varchar | SqlType::Unknown => Ok(Datum::Text(text.into())),
        _ => Ok(value::text::parse(ty, text, settings)?),
    }
}

fn decode_binary(ty: SqlType, bytes: &[u8], index: usize) -> Result<Datum, PgError> {
    // The keys of point queries, without a detour.
    match ty {
        SqlType::Int4 => {
            if let Ok(bytes) = bytes.try_into() {
                return Ok(Datum::Int4(i32::from_be_bytes(bytes)));
            }
        }
        SqlType::Int8 => {
            if let Ok(bytes) = bytes.try_into() {
                return Ok(Datum::Int8(i64::from_be_bytes(bytes)));
            }
        }
        // Text is text in both formats.
        SqlType::Text | SqlType::Varchar | SqlType::Unknown => {
            return decode_text(ty, bytes, &ValueSettings::default());
        }
        _ => {}
    }
    value::binary::decode(ty, bytes).map_err(|error| {
        PgError::from(error).with_context(format!("portal parameter ${}", index + 1))
    })
}
