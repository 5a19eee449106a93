//! Every fast form beside the DataFusion plan of the same statement: equal answers, tags, errors and rows afterwards.
//!
//! Each statement runs in two sessions, `cortex.fast_path` on and off, each over its own copy of the table; INSERT, which is
//! never planned as VALUES, is compared with its INSERT ... SELECT. The gateway's counters say which road was taken, and
//! EXPLAIN must say the same.

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::client::{Client, ClientError, Parameter, Reply};

use super::Database;

/// A key type with values in ascending order; the last is never stored at first.
struct KeyType {
    name: &'static str,
    values: &'static [&'static str],
}

const KEY_TYPES: &[KeyType] = &[
    KeyType { name: "int4", values: &["-2147483648", "-1", "0", "7", "2147483647", "42"] },
    KeyType { name: "int2", values: &["-32768", "0", "3", "32767", "11"] },
    KeyType {
        name: "int8",
        values: &["-9223372036854775808", "0", "5", "9223372036854775807", "9"],
    },
    KeyType { name: "text", values: &["", "a", "a b", "ä'ö", "Z", "new"] },
    KeyType { name: "varchar(20)", values: &["", "a", "longer text", "é", "new"] },
    KeyType { name: "char(5)", values: &["a", "ab  ", "zzzzz", "new"] },
    KeyType { name: "numeric", values: &["-1.50", "0", "1.5", "1e30", "NaN", "7.0"] },
    KeyType { name: "numeric(10,2)", values: &["-1.50", "0", "1.5", "99999999.99", "7"] },
    KeyType { name: "float8", values: &["-1.5", "0", "1e300", "Infinity", "NaN", "2.5"] },
    KeyType { name: "float4", values: &["-1.5", "0.25", "1e30", "2.5"] },
    KeyType { name: "bool", values: &["false", "true"] },
    KeyType { name: "date", values: &["0001-01-01", "2000-01-01", "infinity", "2026-11-22"] },
    KeyType { name: "time", values: &["00:00", "12:34:56.789", "24:00", "01:00"] },
    KeyType {
        name: "timestamp",
        values: &["2000-01-01 00:00", "2026-11-22 18:00:00.5", "-infinity", "1999-12-31"],
    },
    KeyType {
        name: "timestamptz",
        values: &["2000-01-01 00:00+02", "2026-11-22 18:00:00.5Z", "1999-12-31 12:00-05"],
    },
    KeyType { name: "interval", values: &["1 day", "-3 months", "25:00:01", "2 years"] },
    KeyType {
        name: "uuid",
        values: &[
            "00000000-0000-0000-0000-000000000000",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ],
    },
    KeyType { name: "bytea", values: &["\\x", "\\x00ff", "\\xdeadbeef", "\\x01"] },
];

/// How a table is placed. `%` stands for its key columns.
const PLACEMENTS: &[&str] = &["", "hash(k)", "range(k)", "reference"];

/// Statements over `t (k, a, b)`: `@1` and `@2` are key values, as literals or parameters. Of a pair, the second is what runs
/// without the fast path.
const FORMS: &[(&str, &str)] = &[
    ("SELECT * FROM t WHERE k = @1", ""),
    ("SELECT b, a FROM t WHERE @1 = k", ""),
    ("SELECT x.k, x.a + 1 AS n, upper(b), a / 2.0 FROM t AS x WHERE x.k = @1 AND a > 1", ""),
    ("SELECT t.b, 'c' AS c, NULL FROM t WHERE t.k = @1 AND (b IS NOT NULL OR a = 0)", ""),
    ("SELECT a FROM t WHERE k = @1 AND k = @2", ""),
    ("SELECT a FROM t WHERE k IN (@1, @2) ORDER BY a", ""),
    ("SELECT a FROM t WHERE k = @1 OR k = @2 ORDER BY a", ""),
    ("SELECT count(*), max(k) FROM t WHERE k >= @1", ""),
    ("SELECT a FROM t WHERE k = NULL", ""),
    ("SELECT 1 / (a - a) FROM t WHERE k = @1", ""),
    ("SELECT a FROM t WHERE k = @1 FOR UPDATE", ""),
    ("SELECT (SELECT max(a) FROM t) FROM t WHERE k = @1", ""),
    ("UPDATE t SET a = a + 1, b = upper(b) || '!' WHERE k = @1", ""),
    ("UPDATE t SET a = 9 WHERE k = @1 AND a < 5 RETURNING *", ""),
    ("UPDATE t SET b = NULL WHERE k = @1 AND k = @2", ""),
    ("UPDATE t SET a = 1 / (a - a) WHERE k = @1", ""),
    ("UPDATE t SET a = -1 WHERE k = @1", ""),
    ("UPDATE t SET a = DEFAULT WHERE k = @1 RETURNING a, b AS was", ""),
    ("UPDATE t SET b = k::text WHERE k = @1", ""),
    ("UPDATE t SET a = (SELECT max(a) FROM t) WHERE k = @1", ""),
    ("DELETE FROM t WHERE k = @1 AND a > 1000", ""),
    ("DELETE FROM t WHERE k = @1 RETURNING b, k", ""),
    ("DELETE FROM t WHERE k = @1", ""),
    ("INSERT INTO t VALUES (@1, 3, 'x')", "INSERT INTO t SELECT @1, 3, 'x'"),
    ("INSERT INTO t VALUES (@1, 3, 'x')", "INSERT INTO t SELECT @1, 3, 'x'"),
    (
        "INSERT INTO t (b, k) VALUES ('y', @2) RETURNING *",
        "INSERT INTO t (b, k) SELECT 'y', @2 RETURNING *",
    ),
    (
        "INSERT INTO t VALUES (@1, 4, 'z') ON CONFLICT DO NOTHING",
        "INSERT INTO t SELECT @1, 4, 'z' WHERE true ON CONFLICT DO NOTHING",
    ),
    (
        "INSERT INTO t VALUES (@1, 4, 'z') ON CONFLICT (k) DO UPDATE SET a = t.a + EXCLUDED.a RETURNING a",
        "INSERT INTO t SELECT @1, 4, 'z' WHERE true ON CONFLICT (k) DO UPDATE SET a = t.a + EXCLUDED.a RETURNING a",
    ),
    ("INSERT INTO t (a, b) VALUES (4, 'z')", "INSERT INTO t (a, b) SELECT 4, 'z'"),
    ("INSERT INTO t VALUES (@1, -4, 'z')", "INSERT INTO t SELECT @1, -4, 'z'"),
    ("UPDATE t SET a = 8 WHERE k BETWEEN @1 AND @2", ""),
    ("DELETE FROM t WHERE k IN (@1, @2)", ""),
];

/// Columns after the key.
const REST: &str = "a int4 DEFAULT 5 CHECK (a >= 0), b text";

/// How values reach the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Simple,
    Text,
    Binary,
}

struct Pair<'a> {
    database: &'a Database,
    fast: Client,
    slow: Client,
    /// Statements that took the fast path, and those that did not.
    n_fast: u64,
    n_slow: u64,
}

impl<'a> Pair<'a> {
    fn new(database: &'a Database) -> Result<Pair<'a>> {
        let (mut fast, mut slow) = (database.connect()?, database.connect()?);
        for (client, name) in [(&mut fast, "fast"), (&mut slow, "slow")] {
            client.simple(&format!("CREATE SCHEMA IF NOT EXISTS {name}"))?;
            client.simple(&format!("SET search_path = {name}"))?;
            client.simple("SET timezone = 'UTC'")?;
        }
        slow.simple("SET cortex.fast_path = off")?;
        Ok(Pair { database, fast, slow, n_fast: 0, n_slow: 0 })
    }

    fn both(&mut self, sql: &str) -> Result<()> {
        self.fast.simple(sql).with_context(|| sql.to_owned())?;
        self.slow.simple(sql).with_context(|| sql.to_owned())?;
        Ok(())
    }

    fn counts(&self) -> (u64, u64) {
        let counters = &self.database.counters;
        (counters.fast_statements(), counters.analytic_plans())
    }

    /// Runs a statement both ways.
    fn compare(&mut self, form: (&str, &str), parameters: &[Parameter], mode: Mode) -> Result<()> {
        let (sql, other) = (form.0, if form.1.is_empty() { form.0 } else { form.1 });
        let run = |client: &mut Client, sql: &str| match mode {
            Mode::Simple => client.simple(sql),
            Mode::Text => client.extended_with(sql, parameters, false),
            Mode::Binary => client.extended_with(sql, parameters, true),
        };
        let explained = match mode {
            Mode::Simple => self.fast.simple(&format!("EXPLAIN {sql}")),
            Mode::Text | Mode::Binary => {
                self.fast.extended_with(&format!("EXPLAIN {sql}"), parameters, false)
            }
        };
        let before = self.counts();
        let answer = run(&mut self.fast, sql);
        let after = self.counts();
        let expected = run(&mut self.slow, other);
        ensure!(
            other != sql || self.counts().0 == after.0,
            "took the fast path with cortex.fast_path = off"
        );
        same(&answer, &expected)?;
        let (n_fast, n_plans) = (after.0 - before.0, after.1 - before.1);
        ensure!(n_fast <= 1 && (n_fast == 0 || n_plans == 0), "{n_fast} fast, {n_plans} plans");
        if let Ok(plan) = explained {
            let plan = plan.text();
            let says = plan.iter().flatten().flatten().any(|line| line.contains("FastPath"));
            // A statement that fails while it is bound takes no road at all.
            let bound = answer.is_ok() || n_fast + n_plans > 0;
            ensure!(!bound || says == (n_fast == 1), "EXPLAIN: {plan:?}; {n_fast} fast");
        }
        self.n_fast += n_fast;
        self.n_slow += 1 - n_fast;
        Ok(())
    }

    /// The two copies of the table are the same.
    fn same_rows(&mut self, order: &str) -> Result<()> {
        let sql = format!("SELECT * FROM t ORDER BY {order}");
        let (fast, slow) = (self.fast.simple(&sql)?, self.slow.simple(&sql)?);
        ensure!(fast.rows == slow.rows, "rows {:?}, not {:?}", fast.text(), slow.text());
        Ok(())
    }
}

fn same(answer: &Result<Reply, ClientError>, expected: &Result<Reply, ClientError>) -> Result<()> {
    match (answer, expected) {
        (Ok(answer), Ok(expected)) => {
            ensure!(answer.columns == expected.columns, "{answer:?}, not {expected:?}");
            ensure!(answer.rows == expected.rows, "{:?}, not {:?}", answer.text(), expected.text());
            ensure!(answer.tag == expected.tag, "{}, not {}", answer.tag, expected.tag);
        }
        (Err(ClientError::Db(answer)), Err(ClientError::Db(expected))) => {
            ensure!(
                (&answer.code, &answer.message) == (&expected.code, &expected.message),
                "{answer:?}, not {expected:?}"
            );
        }
        (answer, expected) => {
            let shown = |it: &Result<Reply, ClientError>| match it {
                Ok(reply) => format!("{} {:?}", reply.tag, reply.text()),
                Err(error) => error.to_string(),
            };
            anyhow::bail!("{}, not {}", shown(answer), shown(expected));
        }
    }
    Ok(())
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Everything that a key type has to go through in one placement and one mode.
fn key_type(pair: &mut Pair<'_>, key: &KeyType, placement: &str, mode: Mode) -> Result<()> {
    let with = match placement {
        "" => String::new(),
        placement => format!(" WITH (shard_by = '{placement}')"),
    };
    pair.both("DROP TABLE IF EXISTS t")?;
    pair.both(&format!("CREATE TABLE t (k {} PRIMARY KEY, {REST}){with}", key.name))?;
    let (_, stored) = key.values.split_last().context("values")?;
    for (n, value) in stored.iter().enumerate() {
        pair.both(&format!("INSERT INTO t VALUES ({}, {n}, 'row {n}')", quoted(value)))?;
    }
    for (n, form) in FORMS.iter().enumerate() {
        // Neighbours, so that ranges hold something; the last value is not there at first.
        let at = n % key.values.len();
        let values = [key.values[at], key.values[(at + 1) % key.values.len()]];
        run_form(pair, *form, key.name, &values, mode).with_context(|| {
            format!("{} {placement:?} {mode:?} {values:?}: {}", key.name, form.0)
        })?;
        // A difference stays, so not every statement has to be followed by a look at all rows.
        if n % 4 == 3 || n + 1 == FORMS.len() {
            pair.same_rows("k").with_context(|| format!("up to {} {values:?}", form.0))?;
        }
    }
    Ok(())
}

fn run_form(
    pair: &mut Pair<'_>,
    form: (&str, &str),
    type_name: &str,
    values: &[&str; 2],
    mode: Mode,
) -> Result<()> {
    if mode == Mode::Simple {
        // A bare literal, or one with its type.
        let fill = |sql: &str, typed: bool| {
            let mut sql = sql.to_owned();
            for (n, value) in values.iter().enumerate() {
                let cast = if typed { format!("::{type_name}") } else { String::new() };
                sql = sql.replace(&format!("@{}", n + 1), &format!("{}{cast}", quoted(value)));
            }
            sql
        };
        let typed = form.0.starts_with("INSERT") || values[0].len().is_multiple_of(2);
        return pair.compare((&fill(form.0, typed), &fill(form.1, true)), &[], mode);
    }
    let has_second = form.0.contains("@2") && form.0.contains("@1");
    let fill = |sql: &str, cast: bool| {
        let cast = if cast { format!("::{type_name}") } else { String::new() };
        let second = if has_second { "$2" } else { "$1" };
        sql.replace("@1", &format!("$1{cast}")).replace("@2", &format!("{second}{cast}"))
    };
    let n = match (form.0.contains('@'), has_second) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    };
    let mut parameters = Vec::new();
    for value in &values[..n] {
        parameters.push(match mode {
            Mode::Binary => {
                let sql = format!("SELECT {}::{type_name}", quoted(value));
                let reply = pair.fast.extended(&sql, &[], true)?;
                let oid = reply.columns.first().context("a column")?.oid;
                Parameter { oid, binary: true, bytes: reply.rows[0][0].clone() }
            }
            Mode::Simple | Mode::Text => Parameter::text(Some(value)),
        });
    }
    let typed = form.0.starts_with("INSERT") && mode == Mode::Text;
    pair.compare((&fill(form.0, typed), &fill(form.1, true)), &parameters, mode)?;
    // A NULL key finds nothing.
    if n == 1 && !form.0.starts_with("INSERT") {
        let oid = parameters.first().map_or(0, |it| it.oid);
        let null = [Parameter { oid, binary: mode == Mode::Binary, bytes: None }];
        pair.compare((&fill(form.0, false), ""), &null, mode).context("with NULL")?;
    }
    Ok(())
}

#[test]
fn each_key_type_answers_alike_on_both_roads() -> Result<()> {
    let database = Database::start(4)?;
    let mut pair = Pair::new(&database)?;
    let modes = [Mode::Simple, Mode::Text, Mode::Binary];
    for (n, key) in KEY_TYPES.iter().enumerate() {
        for (m, mode) in modes.into_iter().enumerate() {
            // Every placement for the first type, for the others those that their turn brings.
            for (p, placement) in PLACEMENTS.iter().enumerate() {
                if n == 0 || (n + m) % PLACEMENTS.len() == p {
                    key_type(&mut pair, key, placement, mode)?;
                }
            }
        }
    }
    println!("{} statements took the fast path, {} did not", pair.n_fast, pair.n_slow);
    ensure!(pair.n_fast > pair.n_slow / 3, "the fast path is hardly met");
    Ok(())
}

/// Statements over `t (k, l, a, b)` with the key (k, l), and whether they are fast.
const COMPOSITE: &[(&str, bool)] = &[
    ("SELECT * FROM t WHERE k = 1 AND l = 'a'", true),
    ("SELECT a FROM t WHERE l = 'b' AND 2 = k", true),
    ("SELECT a FROM t WHERE (k = 1 AND l = 'a') AND a > 0", true),
    ("SELECT a FROM t WHERE k = 1 AND l = 'a' AND k = 2", true),
    ("SELECT a FROM t WHERE k = 1 AND l = NULL", true),
    ("SELECT a FROM t WHERE k = 1 + 1 AND l = lower('B')", true),
    ("SELECT a FROM t WHERE k = '1' AND l = 'a'::text", true),
    ("SELECT a FROM t WHERE (k, l) = (1, 'a')", true),
    ("SELECT a FROM t WHERE k = 1 ORDER BY l", false),
    ("SELECT a FROM t WHERE l = 'a' ORDER BY k", false),
    ("SELECT a FROM t WHERE k = 1 AND l IN ('a', 'b') ORDER BY l", false),
    ("SELECT a FROM t WHERE k = 1 AND (l = 'a' OR a = 3) ORDER BY l", false),
    ("SELECT a FROM t WHERE k = 1::int2 AND l = 'a'", true),
    ("SELECT a FROM t WHERE k = 1::int8 AND l = 'a'", false),
    ("SELECT a FROM t WHERE k = 1.0 AND l = 'a'", false),
    ("SELECT a FROM t WHERE k = a AND l = 'a'", false),
    ("SELECT a FROM t WHERE k = 1 AND l = 'a' LIMIT 1", false),
    ("SELECT DISTINCT a FROM t WHERE k = 1 AND l = 'a'", false),
    ("SELECT count(*) FROM t WHERE k = 1 AND l = 'a'", false),
    ("SELECT a FROM t x WHERE x.k = 1 AND x.l = 'a'", true),
    ("UPDATE t SET a = a * 2 WHERE k = 1 AND l = 'a' RETURNING a, l", true),
    ("UPDATE t SET a = 7, b = b || l WHERE l = 'b' AND k = 2 AND a IS NOT NULL", true),
    ("UPDATE t SET b = (now() IS NULL)::text WHERE k = 1 AND l = 'a'", true),
    ("UPDATE t SET a = 0 WHERE k = 1", true),
    ("DELETE FROM t WHERE l = 'a' AND k = 2 RETURNING *", true),
    ("DELETE FROM t WHERE k = 2", true),
    ("BEGIN", false),
    ("INSERT INTO t (l, k) VALUES ('own', 3)", true),
    ("SELECT * FROM t WHERE k = 3 AND l = 'own'", true),
    ("UPDATE t SET a = 4 WHERE k = 3 AND l = 'own'", true),
    ("SAVEPOINT s", false),
    ("DELETE FROM t WHERE k = 3 AND l = 'own'", true),
    ("SELECT * FROM t WHERE k = 3 AND l = 'own'", true),
    ("ROLLBACK TO s", false),
    ("SELECT * FROM t WHERE k = 3 AND l = 'own'", true),
    ("ROLLBACK", false),
    ("SELECT * FROM t WHERE k = 3 AND l = 'own'", true),
];

#[test]
fn composite_keys_answer_alike_and_are_fast_as_expected() -> Result<()> {
    let database = Database::start(4)?;
    let mut pair = Pair::new(&database)?;
    for placement in ["", "hash(k)", "hash(l)", "hash(k, l)", "range(k)", "reference"] {
        let with = match placement {
            "" => String::new(),
            placement => format!(" WITH (shard_by = '{placement}')"),
        };
        pair.both("DROP TABLE IF EXISTS t")?;
        pair.both(&format!("CREATE TABLE t (k int4, l text, {REST}, PRIMARY KEY (k, l)){with}"))?;
        pair.both(
            "INSERT INTO t VALUES (1, 'a', 1, 'x'), (1, 'b', 2, 'y'), (2, 'a', 3, NULL), (2, 'b', 4, '')",
        )?;
        for protocol in [Mode::Simple, Mode::Binary] {
            for (sql, is_fast) in COMPOSITE {
                let before = pair.n_fast;
                let context = || format!("{placement:?} {protocol:?}: {sql}");
                if sql.contains(' ') && !sql.starts_with("ROLLBACK") && !sql.starts_with("SAVE") {
                    let form = match sql.strip_prefix("INSERT INTO t (l, k) VALUES ('own', 3)") {
                        Some(_) => (*sql, "INSERT INTO t (l, k) SELECT 'own', 3"),
                        None => (*sql, ""),
                    };
                    pair.compare(form, &[], protocol).with_context(context)?;
                    let took = pair.n_fast > before;
                    ensure!(took == *is_fast, "{}: fast path taken: {took}", context());
                } else {
                    pair.both(sql).with_context(context)?;
                }
            }
            pair.same_rows("k, l")?;
        }
    }
    Ok(())
}
