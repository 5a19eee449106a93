//! A SQL side that understands a handful of words, and counts what the wire does with it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arrow::{
    array::{ArrayRef, Int32Array, StringArray},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use bytes::Bytes;
use cortex_gateway::{
    error::{PgError, SqlState},
    session::auth::scram_verifier,
    statement::{
        CommitShield, CopyShape, CopySink, Execution, LoginRole, Notice, ParsedStatement, Prepared,
        RowSource, RowsTag, Shielded, SqlService, SqlSession, TransactionStatus,
    },
};
use cortex_planner::bind::OutputColumn;
use cortex_shard_api::{Datum, SqlType, TypeMod, value::ValueSettings};

/// What happened behind the wire.
#[derive(Default)]
pub struct Counters {
    pub executed: AtomicUsize,
    /// Statements that were dropped before they had ended.
    pub dropped: AtomicUsize,
    pub failed: AtomicUsize,
    pub closed: AtomicUsize,
    /// Executions that were told that they may commit by themselves.
    pub autocommits: AtomicUsize,
    /// Batches that were asked for.
    pub batches: AtomicUsize,
    pub copied_bytes: AtomicUsize,
}

pub struct Script {
    pub counters: Arc<Counters>,
}

#[async_trait]
impl SqlService for Script {
    fn login(&self, user: &str) -> Option<LoginRole> {
        match user {
            "postgres" => Some(LoginRole { password: None }),
            "secret" => Some(LoginRole { password: Some(scram_verifier("right")) }),
            _ => None,
        }
    }

    async fn open(
        &self,
        user: &str,
        database: &str,
        process_id: i32,
        options: &[(String, String)],
    ) -> Result<Box<dyn SqlSession>, PgError> {
        if database == "nowhere" {
            let message = format!("database \"{database}\" does not exist");
            return Err(PgError::new(SqlState::INVALID_CATALOG_NAME, message));
        }
        assert!(process_id > 0 && !user.is_empty());
        let mut changes = vec![("server_version".to_owned(), "15.0".to_owned())];
        changes.extend(options.iter().cloned());
        Ok(Box::new(ScriptSession {
            counters: self.counters.clone(),
            status: TransactionStatus::Idle,
            timeout: None,
            notices: Vec::new(),
            changes,
            commit_fails: false,
            shield: Arc::default(),
        }))
    }
}

struct ScriptSession {
    counters: Arc<Counters>,
    status: TransactionStatus,
    timeout: Option<Duration>,
    notices: Vec<Notice>,
    changes: Vec<(String, String)>,
    commit_fails: bool,
    shield: Arc<CommitShield>,
}

/// Counts when it is dropped before its work is done.
struct Unfinished(Arc<Counters>, bool);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn column(name: &str, ty: SqlType) -> OutputColumn {
    OutputColumn { name: name.into(), ty: TypeMod::plain(ty), source: (0, 0) }
}

fn id_and_name() -> Arc<[OutputColumn]> {
    [column("id", SqlType::Int4), column("name", SqlType::Text)].into()
}

impl ScriptSession {
    fn word(sql: &str) -> (&str, &str) {
        let sql = sql.trim();
        sql.split_once(' ').unwrap_or((sql, ""))
    }

    fn batches(&self, n: i32) -> RowSource {
        let counters = self.counters.clone();
        let starts = (0..n).step_by(1000);
        RowSource::Batches(Box::pin(futures::stream::iter(starts.map(move |start| {
            counters.batches.fetch_add(1, Ordering::SeqCst);
            let ids: Vec<i32> = (start..(start + 1000).min(n)).collect();
            let names: Vec<String> = ids.iter().map(|id| format!("row {id}")).collect();
            let ids: ArrayRef = Arc::new(Int32Array::from(ids));
            let names: ArrayRef = Arc::new(StringArray::from(names));
            Ok(RecordBatch::try_from_iter([("id", ids), ("name", names)]).expect("a batch"))
        }))))
    }
}

#[async_trait]
impl SqlSession for ScriptSession {
    fn parse(&mut self, sql: &str) -> Result<Vec<ParsedStatement>, PgError> {
        let mut statements = Vec::new();
        let mut offset = 0;
        for part in sql.split(';') {
            if !part.trim().is_empty() {
                statements.push(ParsedStatement { sql: part.into(), offset, ast: Arc::new(()) });
            }
            offset += part.chars().count() + 1;
        }
        Ok(statements)
    }

    async fn prepare(
        &mut self,
        statement: &ParsedStatement,
        oids: &[u32],
    ) -> Result<Arc<Prepared>, PgError> {
        let (word, _) = ScriptSession::word(&statement.sql);
        let (parameters, columns) = match word {
            "rows" | "batches" => (vec![], Some(id_and_name())),
            "echo" => {
                let types: Vec<SqlType> = oids
                    .iter()
                    .map(|oid| SqlType::from_oid(*oid).unwrap_or(SqlType::Text))
                    .collect();
                let columns = types.iter().map(|ty| column("e", *ty)).collect();
                (types, Some(columns))
            }
            "syntax" => return Err(PgError::new(SqlState::SYNTAX_ERROR, "no").at(Some(1))),
            _ => (vec![], None),
        };
        Ok(Arc::new(Prepared { parameters, columns, plan: Arc::new(statement.clone()) }))
    }

    async fn execute(
        &mut self,
        prepared: &Arc<Prepared>,
        parameters: Vec<Datum>,
        autocommit: bool,
    ) -> Result<Execution, PgError> {
        let statement = prepared.plan.downcast_ref::<ParsedStatement>().expect("a script");
        let (sql, offset) = (statement.sql.clone(), statement.offset);
        let (word, argument) = ScriptSession::word(&sql);
        self.counters.executed.fetch_add(1, Ordering::SeqCst);
        self.counters.autocommits.fetch_add(usize::from(autocommit), Ordering::SeqCst);
        let n: i32 = argument.parse().unwrap_or(0);
        let columns = prepared.columns.clone().unwrap_or_else(id_and_name);
        let rows = |rows: RowSource| Execution::Rows { columns, rows, tag: RowsTag::Select };
        Ok(match word {
            "rows" => {
                let name = |id: i32| Datum::Text(format!("row {id}").into());
                let values: Vec<_> = (0..n).map(|id| vec![Datum::Int4(id), name(id)]).collect();
                rows(RowSource::Rows(values.into_iter()))
            }
            "batches" => rows(self.batches(n)),
            "echo" => rows(RowSource::Rows(vec![parameters].into_iter())),
            "fail" => {
                return Err(PgError::new(SqlState::DIVISION_BY_ZERO, "failed").at(Some(offset + 2)));
            }
            "panic" => panic!("the script says so"),
            "hang" => {
                let _unfinished = Unfinished(self.counters.clone(), false);
                std::future::pending().await
            }
            "sleep" => {
                let mut unfinished = Unfinished(self.counters.clone(), false);
                tokio::time::sleep(Duration::from_millis(n as u64)).await;
                unfinished.1 = true;
                Execution::Command("SLEEP".into())
            }
            // A commit that takes n milliseconds; a write that waits for a lock.
            "durable" => {
                let _shield = self.shield.raise(Shielded::Yes);
                tokio::time::sleep(Duration::from_millis(n as u64)).await;
                Execution::Command("INSERT 0 1".into())
            }
            "locked" => {
                let _unfinished = Unfinished(self.counters.clone(), false);
                let _shield = self.shield.raise(Shielded::Maybe);
                std::future::pending().await
            }
            "timeout" => {
                self.timeout = (n > 0).then(|| Duration::from_millis(n as u64));
                self.changes.push(("statement_timeout".into(), n.to_string()));
                Execution::Command("SET".into())
            }
            "notice" => {
                self.notices.push(Notice {
                    severity: "NOTICE",
                    code: "00000",
                    message: argument.to_owned(),
                    detail: None,
                    hint: None,
                });
                Execution::Command("NOTICE".into())
            }
            "begin" => {
                self.status = TransactionStatus::InTransaction;
                Execution::Command("BEGIN".into())
            }
            "commit" => {
                self.status = TransactionStatus::Idle;
                Execution::Command("COMMIT".into())
            }
            "deferred" => {
                self.commit_fails = true;
                Execution::Command("INSERT 0 1".into())
            }
            "copyin" => {
                let format = CopyShape { binary: false, columns: 2 };
                let sink = Box::new(Sink {
                    unfinished: Unfinished(self.counters.clone(), false),
                    rows: 0,
                });
                Execution::CopyIn { format, sink }
            }
            "copyout" => Execution::CopyOut {
                format: CopyShape { binary: false, columns: 1 },
                data: Box::pin(futures::stream::iter(
                    (0..n).map(|id| Ok((Bytes::from(format!("{id}\n")), 1))),
                )),
            },
            _ => Execution::Command(sql.trim().to_uppercase()),
        })
    }

    async fn sync(&mut self) -> Result<(), PgError> {
        if std::mem::take(&mut self.commit_fails) {
            return Err(PgError::new(SqlState::FOREIGN_KEY_VIOLATION, "the commit failed"));
        }
        Ok(())
    }

    async fn failed(&mut self) {
        self.counters.failed.fetch_add(1, Ordering::SeqCst);
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    fn value_settings(&self) -> ValueSettings {
        ValueSettings::default()
    }

    fn object_name(&self, _: SqlType, _: u32) -> Option<String> {
        None
    }

    fn object_oid(&self, _: SqlType, _: &str) -> Result<u32, PgError> {
        Err(PgError::new(SqlState::UNDEFINED_TABLE, "no such object"))
    }

    fn shield(&self) -> Arc<CommitShield> {
        self.shield.clone()
    }

    fn cursor_columns(&self, _: &str) -> Option<Arc<[OutputColumn]>> {
        None
    }

    fn statement_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.changes)
    }

    fn take_deallocated(&mut self) -> Vec<Option<String>> {
        Vec::new()
    }

    async fn close(&mut self) {
        self.counters.closed.fetch_add(1, Ordering::SeqCst);
    }
}

/// Counts bytes and lines; `slow` data waits a little.
struct Sink {
    unfinished: Unfinished,
    rows: u64,
}

/// Lets a test see that a slow sink stops the reading of the socket.
pub static SLOW_SINK: AtomicBool = AtomicBool::new(false);

#[async_trait]
impl CopySink for Sink {
    async fn data(&mut self, bytes: Bytes) -> Result<(), PgError> {
        if SLOW_SINK.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if bytes.starts_with(b"bad") {
            return Err(PgError::new(SqlState::BAD_COPY_FILE_FORMAT, "bad data")
                .with_context("COPY t, line 1"));
        }
        self.unfinished.0.copied_bytes.fetch_add(bytes.len(), Ordering::SeqCst);
        self.rows += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<u64, PgError> {
        self.unfinished.1 = true;
        Ok(self.rows)
    }
}
