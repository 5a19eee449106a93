//! Statements that run from their AST: transactions, settings, prepared statements, cursors, maintenance.

use std::sync::Arc;

use cortex_functions::scalar;
use cortex_planner::bind::{Binder, Clause, Scope, types::data_type};
use cortex_shard_api::{Datum, SqlType, TypeMod};

use super::{
    plan::{PreparedPlan, ends_transaction, no_statement, text_columns},
    session::{Saved, Session},
    settings::{DEFINITIONS, Definition, unrecognized},
    transaction::Block,
};
use crate::{
    error::{PgError, SqlState},
    parse::{
        Ast, DiscardTarget, IsolationLevel, Parsed, ParsedText, SetScope, SetValue,
        TransactionStatement, parse_type,
    },
    statement::{Execution, Prepared, RowSource, RowsTag},
};

/// Named statements of one session.
const NAMED_MAX: usize = 10_000;

impl Session {
    pub async fn run_utility(
        &mut self,
        prepared: &Arc<Prepared>,
        parsed: &Parsed,
        autocommit: bool,
    ) -> Result<Execution, PgError> {
        let ast = &*parsed.ast;
        let failed = self.transaction.as_ref().is_some_and(|transaction| transaction.failed);
        if failed && !ends_transaction(ast) {
            return Err(PgError::new(
                SqlState::IN_FAILED_SQL_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        match ast {
            Ast::Transaction(statement) => self.run_transaction(statement).await,
            Ast::Set { name, value, scope } => self.run_set(name, value, *scope),
            Ast::Show { name } => self.run_show(name.as_deref(), prepared),
            Ast::Reset { name } => {
                match name {
                    Some(name) => self.settings.set(name, None, false)?,
                    None => self.settings.reset_all(),
                }
                self.sync_settings();
                Ok(command("RESET"))
            }
            Ast::Discard(target) => self.run_discard(*target).await,
            Ast::Maintenance { command: word, tables } => self.run_maintenance(word, tables),
            Ast::Checkpoint => Ok(command("CHECKPOINT")),
            Ast::Prepare { name, types, statement } => self.run_prepare(name, types, statement),
            Ast::Execute { name, arguments } => self.run_execute(name, arguments, autocommit).await,
            Ast::Deallocate { name } => self.run_deallocate(name.as_deref()),
            Ast::DeclareCursor { name, hold, scroll, query } => {
                self.run_declare(name, *hold, *scroll, query).await
            }
            Ast::Fetch { cursor, count, discard } => {
                let rows = self.cursors.fetch(cursor, *count).await?;
                if *discard {
                    return Ok(command(format!("MOVE {}", rows.len())));
                }
                let columns = self.cursors.columns(cursor)?;
                let rows = RowSource::Rows(rows.into_iter());
                Ok(Execution::Rows { columns, rows, tag: RowsTag::Fetch })
            }
            Ast::CloseCursor { name } => {
                self.cursors.close(name.as_deref())?;
                Ok(command(if name.is_some() { "CLOSE CURSOR" } else { "CLOSE CURSOR ALL" }))
            }
            Ast::Unlisten => Ok(command("UNLISTEN")),
            Ast::Copy(copy) => self.run_copy(copy, parsed, autocommit).await,
            Ast::Sql(_) | Ast::Ddl(_) | Ast::Explain { .. } => {
                Err(PgError::internal("a planned statement came to the utility path"))
            }
        }
    }

    async fn run_transaction(
        &mut self,
        statement: &TransactionStatement,
    ) -> Result<Execution, PgError> {
        match statement {
            TransactionStatement::Begin { isolation, read_only } => {
                check_isolation(*isolation)?;
                match &mut self.transaction {
                    Some(transaction) if transaction.block == Block::Explicit => {
                        self.warning("25001", "there is already a transaction in progress");
                    }
                    // Statements before BEGIN in the same message belong to the block, as in Postgres.
                    Some(transaction) => transaction.block = Block::Explicit,
                    None => self.begin(Block::Explicit),
                }
                if let (Some(read_only), Some(transaction)) = (read_only, &mut self.transaction) {
                    transaction.read_only = *read_only;
                }
                Ok(command("BEGIN"))
            }
            TransactionStatement::Commit { chain } => {
                let block = self.explicit_block();
                if !block {
                    self.warning("25P01", "there is no transaction in progress");
                }
                let failed = self.transaction.as_ref().is_some_and(|it| it.failed);
                if block {
                    self.commit().await?;
                }
                self.chain(*chain, block)?;
                Ok(command(if failed { "ROLLBACK" } else { "COMMIT" }))
            }
            TransactionStatement::Rollback { chain } => {
                let block = self.explicit_block();
                if !block {
                    self.warning("25P01", "there is no transaction in progress");
                }
                self.rollback().await;
                self.chain(*chain, block)?;
                Ok(command("ROLLBACK"))
            }
            TransactionStatement::Savepoint(name) => {
                self.require_block("SAVEPOINT")?;
                let saved = Saved {
                    settings: self.settings.mark(),
                    ddl: self.ddl.as_ref().map(|ddl| ddl.savepoint()),
                };
                if let Some(transaction) = &mut self.transaction {
                    let mark = transaction.savepoint(name)?;
                    self.saved.insert(mark, saved);
                }
                Ok(command("SAVEPOINT"))
            }
            TransactionStatement::Release(name) => {
                self.require_block("RELEASE SAVEPOINT")?;
                if let Some(transaction) = &mut self.transaction {
                    let mark = transaction.release(name)?;
                    self.saved.split_off(&mark);
                }
                Ok(command("RELEASE"))
            }
            TransactionStatement::RollbackTo(name) => {
                self.require_block("ROLLBACK TO SAVEPOINT")?;
                if let Some(transaction) = &mut self.transaction {
                    let mark = transaction.rollback_to(name, &self.gateway.shards).await?;
                    self.saved.split_off(&(mark + 1));
                    if let Some(saved) = self.saved.get(&mark).cloned() {
                        self.settings.return_to(saved.settings);
                        match (&mut self.ddl, saved.ddl) {
                            (Some(ddl), Some(savepoint)) => ddl.rollback_to(&savepoint),
                            // Its schema changes all came later; the right to make more is kept.
                            (Some(ddl), None) => ddl.rollback_all(),
                            (None, None) => {}
                            // A cancelled schema change took the transaction's version with it.
                            (None, Some(_)) => {
                                transaction.failed = true;
                                return Err(PgError::new(
                                    SqlState::IN_FAILED_SQL_TRANSACTION,
                                    "the transaction's schema changes were lost when a statement was canceled",
                                )
                                .with_hint("ROLLBACK the whole transaction."));
                            }
                        }
                    }
                    self.sync_settings();
                }
                Ok(command("ROLLBACK"))
            }
            TransactionStatement::Set { isolation, read_only, session } => {
                check_isolation(*isolation)?;
                if let Some(read_only) = read_only {
                    let value = if *read_only { "on" } else { "off" };
                    if *session {
                        self.settings.set("default_transaction_read_only", Some(value), false)?;
                        self.sync_settings();
                    } else if let Some(transaction) = &mut self.transaction {
                        transaction.read_only = *read_only;
                    }
                }
                if !session && !self.explicit_block() {
                    self.warning("25P01", "SET TRANSACTION can only be used in transaction blocks");
                }
                Ok(command("SET"))
            }
        }
    }

    fn explicit_block(&self) -> bool {
        self.transaction.as_ref().is_some_and(|it| it.block == Block::Explicit)
    }

    fn chain(&mut self, chain: bool, block: bool) -> Result<(), PgError> {
        if !chain {
            return Ok(());
        }
        if !block {
            return Err(PgError::new(
                SqlState::NO_ACTIVE_SQL_TRANSACTION,
                "AND CHAIN can only be used in transaction blocks",
            ));
        }
        self.begin(Block::Explicit);
        Ok(())
    }

    fn require_block(&self, statement: &str) -> Result<(), PgError> {
        if self.explicit_block() {
            return Ok(());
        }
        Err(PgError::new(
            SqlState::NO_ACTIVE_SQL_TRANSACTION,
            format!("{statement} can only be used in transaction blocks"),
        ))
    }

    fn run_set(
        &mut self,
        name: &str,
        value: &SetValue,
        scope: SetScope,
    ) -> Result<Execution, PgError> {
        let local = scope == SetScope::Local;
        if local && !self.explicit_block() {
            self.warning("25P01", "SET LOCAL can only be used in transaction blocks");
            return Ok(command("SET"));
        }
        if name.eq_ignore_ascii_case("session_authorization") {
            return Err(PgError::unsupported(
                "SET SESSION AUTHORIZATION is not supported",
                "Connect as the other role instead.",
            ));
        }
        let text = match value {
            SetValue::Default => None,
            SetValue::Values(values) if name.eq_ignore_ascii_case("search_path") => {
                Some(values.iter().map(|it| quote_if_needed(it)).collect::<Vec<_>>().join(", "))
            }
            SetValue::Values(values) => Some(values.join(", ")),
        };
        self.settings.set(name, text.as_deref(), local)?;
        if let (Some(transaction), true) =
            (&mut self.transaction, name.eq_ignore_ascii_case("transaction_read_only"))
        {
            transaction.read_only = self.settings.is_on("transaction_read_only");
        }
        self.sync_settings();
        Ok(command("SET"))
    }

    fn run_show(
        &mut self,
        name: Option<&str>,
        prepared: &Arc<Prepared>,
    ) -> Result<Execution, PgError> {
        let text = |value: &str| Datum::Text(value.into());
        let rows = match name {
            Some(name) => {
                let value = self.settings.get(name).ok_or_else(|| unrecognized(name))?;
                vec![vec![text(&value)]]
            }
            None => {
                let mut shown: Vec<&Definition> = DEFINITIONS.iter().collect();
                shown.sort_by_key(|definition| definition.name.to_ascii_lowercase());
                let value = |it: &Definition| self.settings.get(it.name).unwrap_or_default();
                shown
                    .into_iter()
                    .map(|it| vec![text(it.name), text(&value(it)), text(it.description)])
                    .collect()
            }
        };
        let columns = match &prepared.columns {
            Some(columns) => columns.clone(),
            None => text_columns(&["setting"]),
        };
        let rows = RowSource::Rows(rows.into_iter());
        Ok(Execution::Rows { columns, rows, tag: RowsTag::Word("SHOW") })
    }

    async fn run_discard(&mut self, target: DiscardTarget) -> Result<Execution, PgError> {
        let tag = match target {
            DiscardTarget::All => {
                if self.explicit_block() {
                    return Err(PgError::new(
                        SqlState::ACTIVE_SQL_TRANSACTION,
                        "DISCARD ALL cannot run inside a transaction block",
                    ));
                }
                self.cursors.close(None)?;
                self.settings.reset_all();
                self.named.clear();
                self.deallocated.push(None);
                self.functions.discard();
                self.sync_settings();
                "DISCARD ALL"
            }
            // Plans know the catalog they were made for; there is nothing to forget.
            DiscardTarget::Plans => "DISCARD PLANS",
            DiscardTarget::Sequences => {
                self.functions.discard();
                "DISCARD SEQUENCES"
            }
            DiscardTarget::Temp => "DISCARD TEMP",
        };
        Ok(command(tag))
    }

    /// VACUUM and ANALYZE: storage compacts itself and there are no statistics to gather, but the tables must exist.
    fn run_maintenance(
        &mut self,
        word: &'static str,
        tables: &[Vec<String>],
    ) -> Result<Execution, PgError> {
        if word == "VACUUM" && self.explicit_block() {
            return Err(PgError::new(
                SqlState::ACTIVE_SQL_TRANSACTION,
                "VACUUM cannot run inside a transaction block",
            ));
        }
        let namespace = self.namespace();
        for parts in tables {
            let (schema, name) = match &parts[..] {
                [name] => (None, name),
                [schema, name] | [_, schema, name] => (Some(schema.as_str()), name),
                _ => continue,
            };
            if namespace.relation(schema, name).is_none() {
                return Err(PgError::new(
                    SqlState::UNDEFINED_TABLE,
                    format!("relation \"{}\" does not exist", parts.join(".")),
                ));
            }
        }
        Ok(command(word))
    }

    fn run_prepare(
        &mut self,
        name: &str,
        types: &[String],
        statement: &ParsedText,
    ) -> Result<Execution, PgError> {
        if self.named.contains_key(name) {
            return Err(PgError::new(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        if self.named.len() >= NAMED_MAX {
            return Err(PgError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("a session can have at most {NAMED_MAX} prepared statements"),
            ));
        }
        let types = types
            .iter()
            .map(|text| Ok(Some(data_type(&parse_type(text)?)?.ty)))
            .collect::<Result<Vec<Option<SqlType>>, PgError>>()?;
        let parsed =
            Parsed { sql: statement.sql.clone(), offset: 0, ast: Arc::new(statement.ast.clone()) };
        let prepared = self.prepare_now(&parsed, types)?;
        self.named.insert(name.to_owned(), Arc::new(prepared));
        Ok(command("PREPARE"))
    }

    async fn run_execute(
        &mut self,
        name: &str,
        arguments: &[sqlparser::ast::Expr],
        autocommit: bool,
    ) -> Result<Execution, PgError> {
        let (prepared, values) = self.executed(name, arguments)?;
        Box::pin(self.run(&prepared, values, autocommit)).await
    }

    /// What EXECUTE runs, with its arguments.
    pub(super) fn executed(
        &self,
        name: &str,
        arguments: &[sqlparser::ast::Expr],
    ) -> Result<(Arc<Prepared>, Vec<Datum>), PgError> {
        let prepared = self.named.get(name).cloned().ok_or_else(|| no_statement(name))?;
        // It could run itself without end.
        if matches!(*PreparedPlan::of(&prepared)?.parsed.ast, Ast::Execute { .. }) {
            return Err(PgError::unsupported(
                "a prepared EXECUTE cannot be executed by EXECUTE",
                "Prepare the statement itself.",
            ));
        }
        if arguments.len() != prepared.parameters.len() {
            return Err(PgError::new(
                SqlState::SYNTAX_ERROR,
                format!("wrong number of parameters for prepared statement \"{name}\""),
            )
            .with_detail(format!(
                "Expected {} parameters but got {}.",
                prepared.parameters.len(),
                arguments.len()
            )));
        }
        let values = self.argument_values(&prepared, arguments)?;
        Ok((prepared, values))
    }

    /// EXECUTE's arguments: constants, cast to the parameters' types.
    fn argument_values(
        &self,
        prepared: &Prepared,
        arguments: &[sqlparser::ast::Expr],
    ) -> Result<Vec<Datum>, PgError> {
        let namespace = self.namespace();
        let eval = self.eval_context();
        let sql = PreparedPlan::of(prepared)?.parsed.sql.clone();
        let mut binder = Binder::new(&namespace, &eval.settings, sql, Vec::new());
        let mut values = Vec::with_capacity(arguments.len());
        for (argument, ty) in arguments.iter().zip(&prepared.parameters) {
            let target = cortex_planner::bind::types::Target {
                column: "parameter",
                ty: TypeMod::plain(*ty),
            };
            let bound =
                binder.bind_assignment(argument, &Scope::empty(), Clause::Values, target)?;
            let Some(scalar) = bound.to_scalar() else {
                return Err(PgError::unsupported(
                    "EXECUTE takes constant arguments",
                    "Compute the value first and pass it as a literal.",
                ));
            };
            values.push(scalar::evaluate(&scalar, &[], &[], &eval)?);
        }
        Ok(values)
    }

    fn run_deallocate(&mut self, name: Option<&str>) -> Result<Execution, PgError> {
        match name {
            None => {
                self.named.clear();
                self.deallocated.push(None);
                Ok(command("DEALLOCATE ALL"))
            }
            Some(name) => {
                // A name that PREPARE did not make may be one of the extended protocol's, which the wire keeps.
                self.named.remove(name);
                self.deallocated.push(Some(name.to_owned()));
                Ok(command("DEALLOCATE"))
            }
        }
    }

    async fn run_declare(
        &mut self,
        name: &str,
        hold: bool,
        scroll: bool,
        query: &ParsedText,
    ) -> Result<Execution, PgError> {
        if hold {
            return Err(PgError::unsupported(
                "WITH HOLD cursors are not supported",
                "Fetch inside the transaction, or store the result in a table.",
            ));
        }
        if scroll {
            return Err(PgError::unsupported(
                "SCROLL cursors are not supported",
                "Cursors move forward only; declare with NO SCROLL.",
            ));
        }
        self.require_block("DECLARE CURSOR")?;
        let parsed = Parsed { sql: query.sql.clone(), offset: 0, ast: Arc::new(query.ast.clone()) };
        let prepared = Arc::new(self.prepare_now(&parsed, Vec::new())?);
        let plan = PreparedPlan::of(&prepared)?;
        let execution =
            Box::pin(super::dispatch(self, &prepared, plan, Arc::from([]), false)).await?;
        match execution {
            Execution::Rows { columns, rows, tag: RowsTag::Select } => {
                self.cursors.open(name, columns, rows)?;
                Ok(command("DECLARE CURSOR"))
            }
            _ => Err(PgError::new(SqlState::SYNTAX_ERROR, "a cursor needs a query")),
        }
    }
}

fn command(tag: impl Into<String>) -> Execution {
    Execution::Command(tag.into())
}

/// 0A000 for the levels that are not there yet; READ UNCOMMITTED is READ COMMITTED, as in Postgres.
fn check_isolation(level: Option<IsolationLevel>) -> Result<(), PgError> {
    let name = match level {
        None | Some(IsolationLevel::ReadUncommitted | IsolationLevel::ReadCommitted) => {
            return Ok(());
        }
        Some(IsolationLevel::RepeatableRead) => "REPEATABLE READ",
        Some(IsolationLevel::Serializable) => "SERIALIZABLE",
    };
    Err(PgError::unsupported(
        format!("isolation level {name} is not supported"),
        "Transactions run at READ COMMITTED; lock what must not change with SELECT ... FOR UPDATE.",
    ))
}

/// An item of search_path as it is shown: quoted where folding would change it.
fn quote_if_needed(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain && !name.is_empty() { name.to_owned() } else { format!("\"{name}\"") }
}
