//! Statements that sqlparser reads differently from Postgres, or not at all: transactions, settings, cursors, EXPLAIN,
//! maintenance. What Postgres would accept and we do not is named in the error, never skipped.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::{Ast, ParsedText, cursor::Cursor, parse_expression, parse_tokens};
use crate::error::{PgError, SqlState};

/// BEGIN and its kin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionStatement {
    Begin {
        isolation: Option<IsolationLevel>,
        read_only: Option<bool>,
    },
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    /// SET TRANSACTION, or SET SESSION CHARACTERISTICS AS TRANSACTION.
    Set {
        isolation: Option<IsolationLevel>,
        read_only: Option<bool>,
        session: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsolationLevel {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetScope {
    Session,
    /// Until the transaction ends.
    Local,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetValue {
    Default,
    /// The list joined by `, `; identifiers are folded as names are.
    Values(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardTarget {
    All,
    Plans,
    Sequences,
    Temp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExplainOptions {
    pub analyze: bool,
    pub verbose: bool,
    pub costs: Option<bool>,
    pub timing: Option<bool>,
    pub summary: Option<bool>,
    pub format: ExplainFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExplainFormat {
    #[default]
    Text,
    Json,
}

/// How many rows FETCH and MOVE take, forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchCount {
    Rows(u64),
    All,
}

/// The statement if it is one of ours.
pub(super) fn parse(sql: &str, tokens: &[TokenWithSpan]) -> Result<Option<Ast>, PgError> {
    let mut cursor = Cursor::new(sql, tokens);
    let Some(Token::Word(first)) = cursor.peek() else { return Ok(None) };
    if first.quote_style.is_some() {
        return Ok(None);
    }
    let parse: fn(&mut Cursor<'_>) -> Result<Ast, PgError> =
        match first.value.to_ascii_lowercase().as_str() {
            "begin" | "start" => begin,
            "commit" | "end" => commit,
            "rollback" | "abort" => rollback,
            "savepoint" => savepoint,
            "release" => release,
            "set" => set,
            "show" => show,
            "reset" => reset,
            "discard" => discard,
            "explain" => explain,
            "vacuum" => vacuum,
            "analyze" | "analyse" => analyze,
            "checkpoint" => checkpoint,
            "prepare" => prepare,
            "execute" => execute,
            "deallocate" => deallocate,
            "declare" => declare,
            "fetch" => |cursor| fetch(cursor, false),
            "move" => |cursor| fetch(cursor, true),
            "close" => close,
            "unlisten" => unlisten,
            "table" => return table(sql, &mut cursor).map(Some),
            _ => {
                return match refused(&first.value.to_ascii_lowercase()) {
                    Some(error) => Err(error),
                    None => Ok(None),
                };
            }
        };
    let keep_first = matches!(first.value.to_ascii_lowercase().as_str(), "analyze" | "analyse");
    if !keep_first {
        cursor.advance();
    }
    parse(&mut cursor).map(Some)
}

/// Statements that Postgres has and we do not, by their first word.
fn refused(word: &str) -> Option<PgError> {
    let hint = match word {
        "listen" | "notify" => "CortexDB has no notification channels; poll a table instead.",
        "do" => "Run the statements themselves; procedural code is not supported.",
        "call" => "Procedures are not supported.",
        "merge" => "Use INSERT ... ON CONFLICT DO UPDATE.",
        "reindex" => {
            "Indexes are maintained by the shards; DROP INDEX and CREATE INDEX build one anew."
        }
        "cluster" => "Rows are always stored in primary key order.",
        "load" => "Extensions in shared libraries cannot be loaded.",
        "lock" => "Use SELECT ... FOR UPDATE to lock rows.",
        "security" | "import" | "reassign" => "See COMPAT.md for what is supported.",
        _ => return None,
    };
    Some(
        PgError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("{} is not supported", word.to_ascii_uppercase()),
        )
        .with_hint(hint),
    )
}

/// `TABLE t` is `SELECT * FROM t`.
fn table(sql: &str, cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    cursor.advance();
    let (text, _) = cursor.rest();
    let prefix = "SELECT * FROM ";
    let rewritten = format!("{prefix}{text}");
    let tokens = super::tokenize(&rewritten)?;
    parse_tokens(&rewritten, tokens).map_err(|mut error| {
        let before = sql.len() - text.len();
        error.position =
            error.position.map(|position| (position + before).saturating_sub(prefix.len()));
        error
    })
}

fn begin(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    let _ = cursor.take_word("work") || cursor.take_word("transaction");
    let (isolation, read_only) = transaction_modes(cursor)?;
    cursor.expect_end()?;
    Ok(Ast::Transaction(TransactionStatement::Begin { isolation, read_only }))
}

fn transaction_modes(
    cursor: &mut Cursor<'_>,
) -> Result<(Option<IsolationLevel>, Option<bool>), PgError> {
    let (mut isolation, mut read_only) = (None, None);
    loop {
        if cursor.take_words(&["isolation", "level"]) {
            isolation = Some(isolation_level(cursor)?);
        } else if cursor.take_words(&["read", "only"]) {
            read_only = Some(true);
        } else if cursor.take_words(&["read", "write"]) {
            read_only = Some(false);
        } else if !cursor.take_words(&["not", "deferrable"]) && !cursor.take_word("deferrable") {
            // DEFERRABLE only matters for SERIALIZABLE READ ONLY, which is refused as such.
            return Ok((isolation, read_only));
        }
        cursor.take(&Token::Comma);
    }
}

fn isolation_level(cursor: &mut Cursor<'_>) -> Result<IsolationLevel, PgError> {
    const LEVELS: [(&[&str], IsolationLevel); 4] = [
        (&["read", "uncommitted"], IsolationLevel::ReadUncommitted),
        (&["read", "committed"], IsolationLevel::ReadCommitted),
        (&["repeatable", "read"], IsolationLevel::RepeatableRead),
        (&["serializable"], IsolationLevel::Serializable),
    ];
    LEVELS
        .iter()
        .find(|(words, _)| cursor.take_words(words))
        .map(|(_, level)| *level)
        .ok_or_else(|| cursor.unexpected())
}

/// `[WORK|TRANSACTION] [AND [NO] CHAIN]`
fn chain(cursor: &mut Cursor<'_>) -> Result<bool, PgError> {
    let _ = cursor.take_word("work") || cursor.take_word("transaction");
    let chain = if cursor.take_word("and") {
        let no = cursor.take_word("no");
        cursor.expect_word("chain")?;
        !no
    } else {
        false
    };
    cursor.expect_end()?;
    Ok(chain)
}

fn commit(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    if cursor.is_word("prepared") {
        return Err(two_phase());
    }
    Ok(Ast::Transaction(TransactionStatement::Commit { chain: chain(cursor)? }))
}

fn two_phase() -> PgError {
    PgError::new(SqlState::FEATURE_NOT_SUPPORTED, "prepared transactions are not supported")
        .with_hint("CortexDB has no two-phase commit by design: each shard commits on its own.")
}

fn rollback(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    if cursor.is_word("prepared") {
        return Err(two_phase());
    }
    let work = cursor.take_word("work") || cursor.take_word("transaction");
    if cursor.take_word("to") {
        cursor.take_word("savepoint");
        let name = cursor.identifier()?;
        cursor.expect_end()?;
        return Ok(Ast::Transaction(TransactionStatement::RollbackTo(name)));
    }
    let chain = if work && cursor.at_end() { false } else { chain(cursor)? };
    Ok(Ast::Transaction(TransactionStatement::Rollback { chain }))
}

fn savepoint(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    let name = cursor.identifier()?;
    cursor.expect_end()?;
    Ok(Ast::Transaction(TransactionStatement::Savepoint(name)))
}

fn release(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    cursor.take_word("savepoint");
    let name = cursor.identifier()?;
    cursor.expect_end()?;
    Ok(Ast::Transaction(TransactionStatement::Release(name)))
}

fn set(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    if cursor.take_words(&["session", "characteristics", "as", "transaction"]) {
        let (isolation, read_only) = transaction_modes(cursor)?;
        cursor.expect_end()?;
        return Ok(Ast::Transaction(TransactionStatement::Set {
            isolation,
            read_only,
            session: true,
        }));
    }
    if cursor.take_word("transaction") {
        let (isolation, read_only) = transaction_modes(cursor)?;
        cursor.expect_end()?;
        return Ok(Ast::Transaction(TransactionStatement::Set {
            isolation,
            read_only,
            session: false,
        }));
    }
    let scope = if cursor.take_word("local") {
        SetScope::Local
    } else {
        cursor.take_word("session");
        SetScope::Session
    };
    let name = if cursor.take_words(&["time", "zone"]) {
        let value = match cursor.take_word("local") {
            true => SetValue::Default,
            false => set_value(cursor)?,
        };
        cursor.expect_end()?;
        return Ok(Ast::Set { name: "timezone".to_owned(), value, scope });
    } else if cursor.take_word("names") {
        "client_encoding".to_owned()
    } else if cursor.take_word("role") {
        let value = set_value(cursor)?;
        cursor.expect_end()?;
        return Ok(Ast::Set { name: "role".to_owned(), value, scope });
    } else if cursor.take_word("authorization") {
        "session_authorization".to_owned()
    } else {
        cursor.qualified_name()?.join(".")
    };
    if !cursor.take_word("to")
        && !cursor.take(&Token::Eq)
        && name != "client_encoding"
        && name != "session_authorization"
    {
        return Err(cursor.unexpected());
    }
    let value = set_value(cursor)?;
    cursor.expect_end()?;
    Ok(Ast::Set { name, value, scope })
}

fn set_value(cursor: &mut Cursor<'_>) -> Result<SetValue, PgError> {
    if cursor.take_word("default") {
        return Ok(SetValue::Default);
    }
    let mut values = Vec::new();
    loop {
        values.push(setting_item(cursor)?);
        if !cursor.take(&Token::Comma) {
            return Ok(SetValue::Values(values));
        }
    }
}

/// A string, a number with an optional sign, or a word.
fn setting_item(cursor: &mut Cursor<'_>) -> Result<String, PgError> {
    if let Some(text) = cursor.string() {
        return Ok(text);
    }
    // SET TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE
    if cursor.take_word("interval") {
        let Some(text) = cursor.string() else { return Err(cursor.unexpected()) };
        cursor.take_words(&["hour", "to", "minute"]);
        return Ok(text);
    }
    let negative = cursor.take(&Token::Minus);
    if !negative {
        cursor.take(&Token::Plus);
    }
    match cursor.peek() {
        Some(Token::Number(digits, _)) => {
            cursor.advance();
            Ok(if negative { format!("-{digits}") } else { digits.clone() })
        }
        Some(Token::Word(_)) if !negative => Ok(cursor.qualified_name()?.join(".")),
        _ => Err(cursor.unexpected()),
    }
}

/// The name in SHOW and RESET: `TIME ZONE`, `TRANSACTION ISOLATION LEVEL`, `SESSION AUTHORIZATION`, `ALL`.
fn setting_name(cursor: &mut Cursor<'_>) -> Result<Option<String>, PgError> {
    let name = if cursor.take_words(&["time", "zone"]) {
        Some("timezone".to_owned())
    } else if cursor.take_words(&["transaction", "isolation", "level"]) {
        Some("transaction_isolation".to_owned())
    } else if cursor.take_words(&["session", "authorization"]) {
        Some("session_authorization".to_owned())
    } else if cursor.take_word("all") {
        None
    } else {
        Some(cursor.qualified_name()?.join("."))
    };
    cursor.expect_end()?;
    Ok(name)
}

/// What SHOW knows besides settings.
const SHOWN: [(&str, &str); 2] = [
    ("shards", "SELECT * FROM cortex.shards ORDER BY shard_id"),
    ("gateways", "SELECT * FROM cortex.gateways ORDER BY gateway_id"),
];

fn show(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    for (word, query) in SHOWN {
        if cursor.take_word(word) {
            cursor.expect_end()?;
            let parsed = super::parse(query)?.into_iter().next();
            let parsed = parsed.ok_or_else(|| PgError::internal("SHOW without a query"))?;
            return Ok(Ast::clone(&parsed.ast));
        }
    }
    Ok(Ast::Show { name: setting_name(cursor)? })
}

fn reset(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    Ok(Ast::Reset { name: setting_name(cursor)? })
}

fn discard(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    let target = if cursor.take_word("all") {
        DiscardTarget::All
    } else if cursor.take_word("plans") {
        DiscardTarget::Plans
    } else if cursor.take_word("sequences") {
        DiscardTarget::Sequences
    } else if cursor.take_word("temp") || cursor.take_word("temporary") {
        DiscardTarget::Temp
    } else {
        return Err(cursor.unexpected());
    };
    cursor.expect_end()?;
    Ok(Ast::Discard(target))
}

fn explain(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    let mut options = ExplainOptions::default();
    // `EXPLAIN (SELECT 1)` explains a query in parentheses.
    let is_option_list = cursor.peek() == Some(&Token::LParen)
        && [
            "analyze",
            "verbose",
            "costs",
            "settings",
            "generic_plan",
            "buffers",
            "wal",
            "timing",
            "summary",
            "format",
        ]
        .iter()
        .any(|word| cursor.is_word_at(1, word));
    if is_option_list {
        cursor.advance();
        loop {
            explain_option(cursor, &mut options)?;
            if !cursor.take(&Token::Comma) {
                break;
            }
        }
        cursor.expect(&Token::RParen)?;
    } else {
        options.analyze = cursor.take_word("analyze");
        options.verbose = cursor.take_word("verbose");
    }
    let statement = Box::new(parse_rest(cursor)?.ast);
    Ok(Ast::Explain { options, statement })
}

fn explain_option(cursor: &mut Cursor<'_>, options: &mut ExplainOptions) -> Result<(), PgError> {
    let name = cursor.identifier()?;
    if name == "format" {
        let format = match cursor.string() {
            Some(text) => text.to_ascii_lowercase(),
            None => cursor.identifier()?,
        };
        options.format = match format.as_str() {
            "text" => ExplainFormat::Text,
            "json" => ExplainFormat::Json,
            other => {
                return Err(PgError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    format!("EXPLAIN format \"{other}\" is not supported"),
                )
                .with_hint("Use FORMAT TEXT or FORMAT JSON."));
            }
        };
        return Ok(());
    }
    let on = boolean_option(cursor)?;
    match name.as_str() {
        "analyze" => options.analyze = on,
        "verbose" => options.verbose = on,
        "costs" => options.costs = Some(on),
        "timing" => options.timing = Some(on),
        "summary" => options.summary = Some(on),
        // These ask Postgres for counters of its own pages and log; switched off they ask for nothing.
        "buffers" | "wal" | "settings" | "generic_plan" if !on => {}
        "buffers" | "wal" | "settings" | "generic_plan" => {
            return Err(PgError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("EXPLAIN option \"{name}\" is not supported"),
            )
            .with_hint("ANALYZE, VERBOSE, COSTS, TIMING, SUMMARY and FORMAT are."));
        }
        other => {
            return Err(PgError::new(
                SqlState::SYNTAX_ERROR,
                format!("unrecognized EXPLAIN option \"{other}\""),
            ));
        }
    }
    Ok(())
}

/// `ON`, `TRUE`, `1`, nothing: true.
pub(super) fn boolean_option(cursor: &mut Cursor<'_>) -> Result<bool, PgError> {
    if let Some(number) = cursor.integer() {
        return Ok(number != 0);
    }
    if let Some(text) = cursor.string() {
        return match text.to_ascii_lowercase().as_str() {
            "on" | "true" => Ok(true),
            "off" | "false" => Ok(false),
            _ => Err(cursor.unexpected()),
        };
    }
    for (word, value) in [("on", true), ("true", true), ("off", false), ("false", false)] {
        if cursor.take_word(word) {
            return Ok(value);
        }
    }
    Ok(true)
}

/// The rest of the text as a statement.
fn parse_rest(cursor: &Cursor<'_>) -> Result<ParsedText, PgError> {
    let (_, tokens) = cursor.rest();
    if tokens.is_empty() {
        return Err(cursor.unexpected());
    }
    // The tokens keep their places in the whole text, so errors point there.
    let ast = parse_tokens(cursor.sql, tokens)?;
    Ok(ParsedText { sql: cursor.sql.into(), ast })
}

fn vacuum(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    if cursor.take(&Token::LParen) {
        cursor.parenthesized()?;
    } else {
        while ["full", "freeze", "verbose", "analyze", "analyse"]
            .iter()
            .any(|word| cursor.take_word(word))
        {}
    }
    let tables = table_list(cursor)?;
    Ok(Ast::Maintenance { command: "VACUUM", tables })
}

fn analyze(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    cursor.advance();
    if cursor.take(&Token::LParen) {
        cursor.parenthesized()?;
    } else {
        cursor.take_word("verbose");
    }
    let tables = table_list(cursor)?;
    Ok(Ast::Maintenance { command: "ANALYZE", tables })
}

/// `t [(columns)], ...`, possibly empty.
fn table_list(cursor: &mut Cursor<'_>) -> Result<Vec<Vec<String>>, PgError> {
    let mut tables = Vec::new();
    while !cursor.at_end() {
        tables.push(cursor.qualified_name()?);
        if cursor.take(&Token::LParen) {
            cursor.parenthesized()?;
        }
        if !cursor.take(&Token::Comma) {
            cursor.expect_end()?;
        }
    }
    Ok(tables)
}

fn checkpoint(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    cursor.expect_end()?;
    Ok(Ast::Checkpoint)
}

fn prepare(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    if cursor.is_word("transaction") {
        return Err(two_phase());
    }
    let name = cursor.identifier()?;
    let mut types = Vec::new();
    if cursor.take(&Token::LParen) {
        let tokens = cursor.parenthesized()?;
        types = split_at_commas(&tokens)
            .into_iter()
            .map(|tokens| text_of(cursor.sql, tokens))
            .collect();
    }
    cursor.expect_word("as")?;
    let statement = Box::new(parse_rest(cursor)?);
    Ok(Ast::Prepare { name, types, statement })
}

fn execute(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    let name = cursor.identifier()?;
    let mut arguments = Vec::new();
    if cursor.take(&Token::LParen) {
        let tokens = cursor.parenthesized()?;
        for argument in split_at_commas(&tokens) {
            arguments.push(parse_expression(cursor.sql, argument.to_vec())?);
        }
    }
    cursor.expect_end()?;
    Ok(Ast::Execute { name, arguments })
}

fn split_at_commas(tokens: &[TokenWithSpan]) -> Vec<&[TokenWithSpan]> {
    let (mut pieces, mut start, mut depth) = (Vec::new(), 0, 0usize);
    for (position, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            Token::Comma if depth == 0 => {
                pieces.push(tokens.get(start..position).unwrap_or_default());
                start = position + 1;
            }
            _ => {}
        }
    }
    if !tokens.is_empty() {
        pieces.push(tokens.get(start..).unwrap_or_default());
    }
    pieces
}

fn text_of(sql: &str, tokens: &[TokenWithSpan]) -> String {
    let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return String::new() };
    let start = super::byte_offset(sql, first.span.start);
    let end = super::byte_offset(sql, last.span.end);
    sql.get(start..end).unwrap_or_default().to_owned()
}

fn deallocate(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    cursor.take_word("prepare");
    let name = if cursor.take_word("all") { None } else { Some(cursor.identifier()?) };
    cursor.expect_end()?;
    Ok(Ast::Deallocate { name })
}

fn declare(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    let name = cursor.identifier()?;
    let mut scroll = false;
    loop {
        if cursor.take_words(&["no", "scroll"])
            || cursor.take_word("insensitive")
            || cursor.take_word("asensitive")
        {
            continue;
        }
        if cursor.take_word("scroll") {
            scroll = true;
        } else if cursor.take_word("binary") {
            return Err(PgError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                "binary cursors are not supported",
            )
            .with_hint("Ask for binary results in the extended protocol."));
        } else {
            break;
        }
    }
    cursor.expect_word("cursor")?;
    let hold = cursor.take_words(&["with", "hold"]);
    if !hold {
        cursor.take_words(&["without", "hold"]);
    }
    cursor.expect_word("for")?;
    let query = Box::new(parse_rest(cursor)?);
    Ok(Ast::DeclareCursor { name, hold, scroll, query })
}

fn fetch(cursor: &mut Cursor<'_>, discard: bool) -> Result<Ast, PgError> {
    const BACKWARD: [&str; 6] = ["prior", "first", "last", "absolute", "relative", "backward"];
    if let Some(word) = BACKWARD.iter().find(|word| cursor.is_word(word)) {
        return Err(PgError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("FETCH {} is not supported", word.to_ascii_uppercase()),
        )
        .with_hint("Cursors only move forward: FETCH NEXT, FETCH n, FETCH ALL."));
    }
    let mut count = FetchCount::Rows(1);
    let forward = cursor.take_word("forward");
    if !cursor.take_word("next") {
        if cursor.take_word("all") {
            count = FetchCount::All;
        } else if let Some(rows) = cursor.integer() {
            count = FetchCount::Rows(u64::try_from(rows).map_err(|_| {
                PgError::new(SqlState::FEATURE_NOT_SUPPORTED, "cursors can only scan forward")
                    .with_hint("Ask for a number of rows from 0 upwards.")
            })?);
        }
    }
    let _ = forward;
    let _ = cursor.take_word("from") || cursor.take_word("in");
    let name = cursor.identifier()?;
    cursor.expect_end()?;
    Ok(Ast::Fetch { cursor: name, count, discard })
}

fn close(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    let name = if cursor.take_word("all") { None } else { Some(cursor.identifier()?) };
    cursor.expect_end()?;
    Ok(Ast::CloseCursor { name })
}

fn unlisten(cursor: &mut Cursor<'_>) -> Result<Ast, PgError> {
    if !cursor.take(&Token::Mul) {
        cursor.identifier()?;
    }
    cursor.expect_end()?;
    Ok(Ast::Unlisten)
}
