//! sqllogictest over the wire client: one connection of the runner, and the letters that stand for column types.
//!
//! Lives here: `Session` (what the sqllogictest runner talks to), `TypeLetter`, running one file, and the marking of
//! expectations. Not here: which files run where (`tests/it/matrix.rs`).
//!
//! A record that CortexDB answers wrongly today keeps the right expectation and carries `skipif cortexdb` under a comment
//! with today's answer. It still runs: when it comes out right, the report says so, and the mark can go.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use sqllogictest::{ColumnType, Condition, DB, DBOutput, Record, Runner};

use crate::client::{Client, ClientError, Reply, Target};

/// Which half of the protocol carries the statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Simple,
    Extended,
}

/// A column's type as one letter, so that `query il` checks type OIDs and not only values. `?` matches anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeLetter(char);

/// Letters of the types; arrays are upper-case `A`, whatever they hold.
const LETTERS: &[(u32, char)] = &[
    (16, 'b'),
    (17, 'x'),
    (20, 'l'),
    (21, 's'),
    (23, 'i'),
    (25, 't'),
    (114, 'j'),
    (700, 'f'),
    (701, 'd'),
    (1042, 'c'),
    (1043, 'v'),
    (1082, 'D'),
    (1083, 'T'),
    (1114, 'S'),
    (1184, 'Z'),
    (1186, 'I'),
    (1700, 'n'),
    (2950, 'u'),
    (3802, 'J'),
];
const ARRAYS: &[u32] = &[
    199, 1000, 1001, 1005, 1007, 1009, 1014, 1015, 1016, 1021, 1022, 1115, 1182, 1183, 1185, 1187,
    1231, 2951, 3807,
];

impl TypeLetter {
    pub fn of(oid: u32) -> Self {
        if ARRAYS.contains(&oid) {
            return Self('A');
        }
        Self(LETTERS.iter().find(|(o, _)| *o == oid).map_or('?', |(_, letter)| *letter))
    }
}

impl ColumnType for TypeLetter {
    fn from_char(value: char) -> Option<Self> {
        Some(Self(value))
    }

    fn to_char(&self) -> char {
        self.0
    }
}

#[expect(clippy::ptr_arg, reason = "the signature is sqllogictest's")]
fn types_agree(actual: &Vec<TypeLetter>, expected: &Vec<TypeLetter>) -> bool {
    actual.len() == expected.len() && actual.iter().zip(expected).all(|(a, e)| a == e || e.0 == '?')
}

/// How many tables a sharded run made, and how many of them became sharded.
#[derive(Default)]
pub struct TableCount {
    pub made: AtomicUsize,
    pub home: AtomicUsize,
}

/// One connection of a runner.
pub struct Session {
    client: Client,
    protocol: Protocol,
    engine: &'static str,
    tables: Arc<TableCount>,
}

impl Session {
    pub fn open(case: &Case) -> std::result::Result<Self, ClientError> {
        let mut client = Client::connect(&case.target)?;
        for sql in &case.setup {
            client.simple(sql)?;
        }
        client.notices.clear();
        Ok(Self {
            client,
            protocol: case.protocol,
            engine: case.engine,
            tables: Arc::clone(&case.tables),
        })
    }

    fn count_table(&mut self, sql: &str) {
        let upper = sql.to_uppercase();
        let explicit = upper.contains("SHARD_BY") || upper.contains("SHARD BY");
        if upper.starts_with("CREATE TABLE") && !explicit {
            self.tables.made.fetch_add(1, Ordering::Relaxed);
            let stays_home = self.client.notices.iter().any(|n| n.contains("home"));
            self.tables.home.fetch_add(usize::from(stays_home), Ordering::Relaxed);
        }
    }
}

impl DB for Session {
    type Error = ClientError;
    type ColumnType = TypeLetter;

    fn run(&mut self, sql: &str) -> std::result::Result<DBOutput<TypeLetter>, ClientError> {
        self.client.notices.clear();
        let reply = match self.protocol {
            Protocol::Simple => self.client.simple(sql),
            Protocol::Extended => self.client.extended(sql, &[], false),
        }?;
        self.count_table(sql);
        Ok(output(&reply))
    }

    fn engine_name(&self) -> &str {
        self.engine
    }

    fn error_sql_state(error: &ClientError) -> Option<String> {
        error.code().map(Into::into)
    }
}

fn output(reply: &Reply) -> DBOutput<TypeLetter> {
    if reply.columns.is_empty() {
        return DBOutput::StatementComplete(reply.n_rows());
    }
    DBOutput::Rows {
        types: reply.columns.iter().map(|c| TypeLetter::of(c.oid)).collect(),
        rows: reply
            .text()
            .iter()
            .map(|row| row.iter().map(|v| shown(v.as_deref())).collect())
            .collect(),
    }
}

/// A value on one line, with NULL and the empty string told apart.
fn shown(value: Option<&str>) -> String {
    match value {
        None => "NULL".into(),
        Some("") => "(empty)".into(),
        Some(text) => text.replace('\n', "\\n"),
    }
}

/// A way to run files.
#[derive(Clone)]
pub struct Case {
    pub target: Target,
    pub protocol: Protocol,
    /// `cortexdb` or `postgres`, for `skipif` and `onlyif`.
    pub engine: &'static str,
    /// Further labels: `home` or `sharded`, `simple` or `extended`.
    pub labels: Vec<&'static str>,
    /// What every connection begins with.
    pub setup: Vec<String>,
    pub tables: Arc<TableCount>,
}

/// What a file came to, by the line of each record.
#[derive(Default)]
pub struct Outcome {
    pub n_records: usize,
    pub failures: Vec<(u32, String)>,
    /// Records that came out right, and those that carry the mark of a wrong answer.
    pub right: HashSet<u32>,
    pub marked: HashSet<u32>,
}

/// Runs every record of a file, also those behind a failure, so that one report shows all.
pub fn run_file(path: &Path, case: &Case) -> Result<Outcome> {
    let records = sqllogictest::parse_file::<TypeLetter>(path)
        .with_context(|| format!("parsing {}", path.display()))?;
    let mut runner = Runner::new(|| async { Session::open(case) });
    runner.with_column_validator(types_agree);
    case.labels.iter().for_each(|label| runner.add_label(label));
    let mut outcome = Outcome::default();
    for mut record in records {
        let (line, marked) = match &mut record {
            Record::Statement { loc, conditions, .. } | Record::Query { loc, conditions, .. } => {
                let marked = take_mark(conditions, case);
                (loc.line(), marked)
            }
            Record::Halt { .. } => break,
            _ => (0, false),
        };
        outcome.n_records += usize::from(line > 0);
        if marked {
            outcome.marked.insert(line);
        }
        match runner.run(record) {
            Ok(_) => {
                outcome.right.insert(line);
            }
            Err(error) if !marked => outcome.failures.push((line, error.to_string())),
            Err(_) => {}
        }
    }
    Ok(outcome)
}

/// Takes the conditions away that mark a wrong answer of this case; true if there were any.
fn take_mark(conditions: &mut Vec<Condition>, case: &Case) -> bool {
    let before = conditions.len();
    conditions.retain(|condition| match condition {
        Condition::SkipIf { label } => {
            case.engine != "cortexdb"
                || (label != case.engine && !case.labels.contains(&label.as_str()))
        }
        Condition::OnlyIf { .. } => true,
    });
    conditions.len() < before
}

/// Marks records as answered wrongly: the label that covers all failing cases, and the first of today's answers.
pub fn mark(path: &Path, wrong: &HashMap<u32, (String, String)>) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let mut out = String::new();
    for (i, line) in text.lines().enumerate() {
        if let Some((label, today)) = wrong.get(&(i as u32 + 1)) {
            writeln!(out, "# Wrong today: {today}\nskipif {label}")?;
        }
        writeln!(out, "{line}")?;
    }
    Ok(std::fs::write(path, out)?)
}

/// Takes the marks away from the records at these lines.
pub fn unmark(path: &Path, lines: &[u32]) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let mut out: Vec<&str> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if lines.contains(&(i as u32 + 1)) {
            while out
                .last()
                .is_some_and(|l| l.starts_with("skipif ") || l.starts_with("# Wrong today:"))
            {
                out.pop();
            }
        }
        out.push(line);
    }
    Ok(std::fs::write(path, out.join("\n") + "\n")?)
}

/// Writes the expectations of a file as the given server answers, keeping statements, comments and conditions.
///
/// A paragraph without a `statement` or `query` line is bare SQL and gets its header, so a new file can be a list of
/// statements with blank lines between them.
pub fn rewrite(path: &Path, case: &Case) -> Result<()> {
    let mut session = Session::open(case)?;
    let text = std::fs::read_to_string(path)?;
    let mut out = String::new();
    for paragraph in text.split("\n\n").map(|p| p.trim_matches('\n')).filter(|p| !p.is_empty()) {
        if !out.is_empty() {
            out.push('\n');
        }
        let is_head =
            |l: &str| l.starts_with('#') || l.starts_with("skipif ") || l.starts_with("onlyif ");
        let lines: Vec<&str> = paragraph.lines().collect();
        let n_head = lines.iter().take_while(|l| is_head(l)).count();
        let (head, body) = lines.split_at(n_head);
        head.iter().try_for_each(|l| writeln!(out, "{l}"))?;
        let skipped = head.iter().any(|l| *l == "onlyif cortexdb" || *l == "skipif postgres");
        let Some(first) = body.first() else { continue };
        if skipped
            || !["statement ", "query "].iter().any(|w| first.starts_with(w)) && is_control(first)
        {
            body.iter().try_for_each(|l| writeln!(out, "{l}"))?;
            continue;
        }
        let headed = first.starts_with("statement ") || first.starts_with("query ");
        let sql: Vec<&str> =
            body.iter().skip(usize::from(headed)).take_while(|l| **l != "----").copied().collect();
        let sql = sql.join("\n");
        let sql = sql.trim_end_matches(';');
        write_record(&mut out, &mut session, sql)?;
    }
    Ok(std::fs::write(path, out)?)
}

fn is_control(line: &str) -> bool {
    ["connection ", "control ", "halt", "subtest ", "include "].iter().any(|w| line.starts_with(w))
}

fn write_record(out: &mut String, session: &mut Session, sql: &str) -> Result<()> {
    match session.run(sql) {
        Err(ClientError::Io(error)) => return Err(error.into()),
        Err(ClientError::Db(error)) => writeln!(out, "statement error ({})\n{sql}", error.code)?,
        Ok(DBOutput::StatementComplete(0)) => writeln!(out, "statement ok\n{sql}")?,
        Ok(DBOutput::StatementComplete(n)) => writeln!(out, "statement count {n}\n{sql}")?,
        Ok(DBOutput::Rows { types, mut rows }) => {
            let letters: String = types.iter().map(ColumnType::to_char).collect();
            let is_plan = sql.trim_start().to_uppercase().starts_with("EXPLAIN");
            let ordered = rows.len() < 2 || is_plan || is_ordered(sql);
            if !ordered {
                rows.sort_unstable();
            }
            writeln!(out, "query {letters}{}\n{sql}\n----", if ordered { "" } else { " rowsort" })?;
            for row in rows {
                writeln!(out, "{}", row.join(" "))?;
            }
        }
        Ok(_) => anyhow::bail!("sqllogictest knows more outputs than this does"),
    }
    Ok(())
}

/// Whether the statement's own answer is ordered: an ORDER BY outside parentheses.
fn is_ordered(sql: &str) -> bool {
    let mut depth = 0_i32;
    let outside: String = sql
        .chars()
        .filter(|c| {
            depth += i32::from(*c == '(') - i32::from(*c == ')');
            depth == 0
        })
        .collect();
    outside.to_uppercase().split_whitespace().collect::<Vec<_>>().join(" ").contains("ORDER BY")
}
