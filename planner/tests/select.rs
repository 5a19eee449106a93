//! SELECT against PostgreSQL's answers: names, types, rows, errors.
//!
//! Each file in `select/` holds queries with the answers that PostgreSQL 15 gave. They run over memory tables with the data of
//! `select/data.sql`. With `CORTEX_TEST_PG=host=... user=...` the answers are asked of that server and the files are rewritten.

use std::{collections::BTreeMap, fmt::Write, panic::AssertUnwindSafe, path::PathBuf, sync::Arc};

use arrow::{datatypes::Schema, record_batch::RecordBatch};
use cortex_functions::{
    scalar,
    session::{EvalContext, install},
};
use cortex_planner::{
    CortexDialect, PlanError,
    bind::{Binder, Clause, Scope, types::Target},
    catalog::{Catalog, Namespace, SystemRelation, SystemRelations},
    lower::optimizer,
};
use cortex_shard_api::{
    Datum, Oid, TypeMod,
    value::{ValueSettings, arrow as arrow_values, text},
};
use datafusion::{
    datasource::MemTable,
    error::DataFusionError,
    execution::{SessionStateBuilder, session_state::SessionState},
    physical_plan::collect,
    prelude::SessionConfig,
};
use futures::FutureExt;
use sqlparser::{
    ast::{self, Statement},
    parser::Parser,
};

const DATA: &str = include_str!("select/data.sql");

/// The tables of `data.sql`, as relations that every search path sees.
#[derive(Debug, Default)]
struct Tables(BTreeMap<String, Arc<SystemRelation>>);

impl SystemRelations for Tables {
    fn relation(&self, schema: &str, name: &str) -> Option<Arc<SystemRelation>> {
        (schema == "pg_catalog").then(|| self.0.get(name).cloned()).flatten()
    }
}

fn settings() -> ValueSettings {
    ValueSettings::default()
}

fn namespace(tables: Arc<Tables>) -> Namespace {
    Namespace {
        catalog: Arc::new(Catalog::default()),
        search_path: vec!["public".to_owned()],
        system: tables,
    }
}

/// A table's name, columns and rows.
type Shape = (String, Vec<(String, TypeMod)>, Vec<Vec<Datum>>);

/// Reads `CREATE TABLE` and `INSERT ... VALUES`.
fn load() -> Arc<Tables> {
    let settings = settings();
    let empty = namespace(Arc::new(Tables::default()));
    let mut shapes: Vec<Shape> = Vec::new();
    let statements = Parser::parse_sql(&CortexDialect, DATA).expect("data.sql parses");
    for statement in statements {
        match statement {
            Statement::CreateTable(create) => {
                let columns = create
                    .columns
                    .iter()
                    .map(|column| {
                        let ty = cortex_planner::bind::types::data_type(&column.data_type);
                        (column.name.value.clone(), ty.expect("a type"))
                    })
                    .collect();
                shapes.push((create.name.to_string(), columns, Vec::new()));
            }
            Statement::Insert(insert) => {
                let name = insert.table.to_string();
                let shape = shapes.iter_mut().find(|shape| shape.0 == name).expect("a table");
                let source = insert.source.expect("rows");
                let ast::SetExpr::Values(values) = *source.body else { panic!("not VALUES") };
                for row in &values.rows {
                    let mut binder = Binder::new(&empty, &settings, "".into(), Vec::new());
                    let data = row.content.iter().zip(&shape.1).map(|(expr, (column, ty))| {
                        let target = Target { column, ty: *ty };
                        let bound = binder
                            .bind_assignment(expr, &Scope::empty(), Clause::Insert, target)
                            .expect("a value");
                        let scalar = bound.to_scalar().expect("a scalar");
                        scalar::evaluate(&scalar, &[], &[], &EvalContext::default())
                            .expect("a constant")
                    });
                    shape.2.push(data.collect());
                }
            }
            other => panic!("data.sql: {other}"),
        }
    }
    let tables = shapes.into_iter().enumerate().map(|(number, (name, columns, rows))| {
        let fields: Vec<_> =
            columns.iter().map(|(name, ty)| arrow_values::field(name, *ty, true)).collect();
        let arrays = columns
            .iter()
            .enumerate()
            .map(|(index, (_, ty))| {
                let values: Vec<Datum> = rows.iter().map(|row| row[index].clone()).collect();
                arrow_values::array_from_datums(ty.ty, &values).expect("an array")
            })
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(schema.clone(), arrays).expect("a batch");
        let provider = MemTable::try_new(schema, vec![vec![batch]]).expect("a table");
        let relation = SystemRelation {
            oid: Oid(20_000 + number as u32),
            schema: "pg_catalog",
            name: Box::leak(name.clone().into_boxed_str()),
            columns: columns
                .into_iter()
                .map(|(name, ty)| (&*Box::leak(name.into_boxed_str()), ty))
                .collect(),
            always_empty: false,
            provider: Arc::new(provider),
        };
        (name, Arc::new(relation))
    });
    Arc::new(Tables(tables.collect()))
}

fn state() -> SessionState {
    let mut config = SessionConfig::new().with_target_partitions(2);
    install(config.options_mut(), Arc::new(EvalContext::default()));
    SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_analyzer_rules(optimizer::analyzer_rules())
        .with_optimizer_rules(optimizer::optimizer_rules())
        .build()
}

/// A row; an empty line would end the block.
fn line(values: &[String]) -> String {
    let line = values.join(" | ");
    match line.trim_end() {
        "" => "(blank)".to_owned(),
        text => text.to_owned(),
    }
}

struct Answer {
    lines: Vec<String>,
    ordered: bool,
}

fn plan_failure(error: &PlanError) -> String {
    match error.position {
        Some(position) => format!("error at {position}: {}", error.message),
        None => format!("error: {}", error.message),
    }
}

fn run_failure(error: &DataFusionError) -> String {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            run_failure(inner)
        }
        DataFusionError::Shared(inner) => run_failure(inner),
        DataFusionError::ArrowError(inner, _) => match &**inner {
            arrow::error::ArrowError::ExternalError(inner) => format!("error: {inner}"),
            other => format!("error: {other}"),
        },
        DataFusionError::External(inner) => format!("error: {inner}"),
        DataFusionError::Execution(text) => format!("error: {text}"),
        other => format!("error: {other}"),
    }
}

async fn answer(sql: &str, tables: &Arc<Tables>, state: &SessionState) -> Answer {
    let settings = settings();
    let namespace = namespace(tables.clone());
    let query = match Parser::new(&CortexDialect)
        .try_with_sql(sql)
        .and_then(|mut parser| parser.parse_query())
    {
        Ok(query) => query,
        Err(error) => return Answer { lines: vec![format!("error: {error}")], ordered: true },
    };
    let ordered = query.order_by.is_some();
    let mut binder = Binder::new(&namespace, &settings, sql.into(), Vec::new());
    let bound = match binder.bind_query(&query) {
        Ok(bound) => bound,
        Err(error) => return Answer { lines: vec![plan_failure(&error)], ordered: true },
    };
    let types: Vec<TypeMod> = bound.columns.iter().map(|column| column.ty).collect();
    let header: Vec<String> = bound
        .columns
        .iter()
        .map(|column| format!("{} {}", column.name, column.ty.ty.sql_name()))
        .collect();
    let run = async {
        let optimized = state.optimize(&bound.plan)?;
        optimizer::verify(&bound.plan, &optimized)
            .map_err(|error| DataFusionError::Execution(error.message))?;
        let physical = state.query_planner().create_physical_plan(&optimized, state).await?;
        collect(physical, state.task_ctx()).await
    };
    let batches = match run.await {
        Ok(batches) => batches,
        Err(error) => {
            return Answer { lines: vec![header.join(" | "), run_failure(&error)], ordered: true };
        }
    };
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values: Vec<String> = types
                .iter()
                .zip(batch.columns())
                .map(|(ty, column)| {
                    match arrow_values::datum_at(column, row, ty.ty).expect("a value") {
                        Datum::Null => "NULL".to_owned(),
                        value => {
                            let mut out = String::new();
                            text::format(&value, ty.ty, &settings, &mut out);
                            out.replace('\n', "\\n")
                        }
                    }
                })
                .collect();
            lines.push(line(&values));
        }
    }
    if !ordered {
        lines.sort();
    }
    lines.insert(0, header.join(" | "));
    Answer { lines, ordered }
}

/// PostgreSQL's answer in the same form.
async fn ask(client: &tokio_postgres::Client, sql: &str, ordered: bool) -> Vec<String> {
    let failure = |error: &tokio_postgres::Error| match error.as_db_error() {
        Some(error) => match error.position() {
            Some(tokio_postgres::error::ErrorPosition::Original(position)) => {
                format!("error at {position}: {}", error.message())
            }
            _ => format!("error: {}", error.message()),
        },
        None => format!("error: {error}"),
    };
    let statement = match client.prepare(sql).await {
        Ok(statement) => statement,
        Err(error) => return vec![failure(&error)],
    };
    let mut header = Vec::new();
    for column in statement.columns() {
        let query = format!("SELECT format_type({}, NULL)", column.type_().oid());
        let name = client.query_one(&query, &[]).await.expect("a type");
        header.push(format!("{} {}", column.name(), name.get::<_, String>(0)));
    }
    let messages = match client.simple_query(sql).await {
        Ok(messages) => messages,
        Err(error) => return vec![header.join(" | "), failure(&error)],
    };
    let mut lines = Vec::new();
    for message in messages {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            let values: Vec<String> = (0..row.len())
                .map(|index| row.get(index).unwrap_or("NULL").replace('\n', "\\n"))
                .collect();
            lines.push(line(&values));
        }
    }
    if !ordered {
        lines.sort();
    }
    lines.insert(0, header.join(" | "));
    lines
}

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/select");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("tests/select")
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    files
}

async fn connect() -> Option<tokio_postgres::Client> {
    let address = std::env::var("CORTEX_TEST_PG").ok()?;
    let (client, connection) =
        tokio_postgres::connect(&address, tokio_postgres::NoTls).await.expect("a server");
    tokio::spawn(connection);
    client
        .batch_execute("DROP SCHEMA IF EXISTS cortex_select CASCADE; CREATE SCHEMA cortex_select; SET search_path = cortex_select; SET lc_messages = 'C'; SET TimeZone = 'UTC'; SET intervalstyle = 'postgres'")
        .await
        .expect("a schema");
    client.batch_execute(DATA).await.expect("data.sql");
    Some(client)
}

#[test]
fn answers_are_those_of_postgres() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(32 << 20)
        .enable_all()
        .build()
        .expect("a runtime");
    let wrong = runtime.block_on(async { tokio::spawn(check_files()).await.expect("no panic") });
    assert!(wrong.is_empty(), "{} wrong answers\n{}", wrong.len(), wrong.join("\n"));
}

/// Long chains neither overflow the stack nor go on for ever: they run, or are refused with 54001.
#[test]
fn long_statements_end() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(32 << 20)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { tokio::spawn(check_long()).await.expect("no panic") });
}

async fn check_long() {
    let tables = load();
    let state = state();
    let chain = |term: &dyn Fn(usize) -> String, op: &str| {
        (0..20_000).map(term).collect::<Vec<_>>().join(op)
    };
    let wide = format!(
        "SELECT count(*) FROM emp WHERE {}",
        chain(&|number| format!("id = {number} AND name <> 'x'"), " OR ")
    );
    let lines = answer(&wide, &tables, &state).await.lines;
    assert_eq!(lines, ["count bigint", "6"]);
    let deep = format!("SELECT {}", chain(&|_| "1".to_owned(), " + "));
    let lines = answer(&deep, &tables, &state).await.lines;
    assert_eq!(lines, ["error: stack depth limit exceeded"]);
}

async fn check_files() -> Vec<String> {
    let tables = load();
    let state = state();
    let server = connect().await;
    let only = std::env::var("CORTEX_TEST_FILE").ok();
    let mut wrong = Vec::new();
    for path in files() {
        let name =
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let content = std::fs::read_to_string(&path).expect("a test file");
        let mut rewritten = String::new();
        for block in content.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
            let (query, expected) = match block.split_once("\n----\n") {
                Some((query, expected)) => (query, expected),
                None => (block.trim_end_matches("\n----"), ""),
            };
            let comments: Vec<&str> = query.lines().filter(|line| line.starts_with('#')).collect();
            let sql: Vec<&str> = query.lines().filter(|line| !line.starts_with('#')).collect();
            let sql = sql.join("\n");
            if sql.is_empty() {
                let _ = write!(rewritten, "{block}\n\n");
                continue;
            }
            let ours = AssertUnwindSafe(answer(&sql, &tables, &state)).catch_unwind().await;
            let ours =
                ours.unwrap_or_else(|_| Answer { lines: vec!["panic".to_owned()], ordered: false });
            // "differs": PostgreSQL's answer is not to be had, ours is on record.
            let differs = comments.iter().any(|comment| comment.starts_with("# differs"));
            let expected = match &server {
                Some(client) if !differs => ask(client, &sql, ours.ordered).await.join("\n"),
                _ => expected.to_owned(),
            };
            let _ = write!(rewritten, "{query}\n----\n{expected}\n\n");
            let lines = ours.lines.join("\n");
            if lines != expected {
                wrong.push(format!(
                    "---- {name}\n{sql}\n  expected:\n{expected}\n  got:\n{lines}\n"
                ));
            }
        }
        if server.is_some() {
            let text = format!("{}\n", rewritten.trim_end());
            std::fs::write(&path, text).expect("the file can be written");
        }
    }
    wrong
}
