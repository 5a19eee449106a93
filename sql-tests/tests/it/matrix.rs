//! Same text, every way: each slt file over {simple, extended protocol} × {1 home shard, 4 shards with every table sharded
//! by its primary key}, twice more sharded in the extended protocol, with every fragment as bytes and over 3 shards that are
//! processes, and the files of `slt/pg_compat/` over PostgreSQL too. Distribution and protocol are invisible.
//!
//! `CORTEX_SLT_FILE=part-of-a-path` narrows a run. `CORTEX_SLT=rewrite` writes the expectations of `pg_compat` as PostgreSQL
//! answers, `=record` those of the other files as CortexDB answers (to be read before they land), `=mark` marks what CortexDB answers wrongly today, `=unmark` takes the marks off what is right now.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{
    ClusterServer, CortexServer,
    client::{Client, Target},
    postgres::Postgres,
    slt::{self, Case, Outcome, Protocol, TableCount},
};

use crate::embedded::Database;

/// Fewer sharded tables than this, and the sharded half of the matrix would prove little.
const SHARDED_PERCENT_MIN: usize = 80;

#[test]
fn files_answer_alike_in_every_configuration() -> Result<()> {
    let mode = std::env::var("CORTEX_SLT").unwrap_or_default();
    let files = files()?;
    ensure!(!files.is_empty(), "no slt file matches");
    let postgres = Postgres::find()?;
    if mode == "rewrite" {
        let postgres = postgres.context("expectations come from PostgreSQL")?;
        for file in files.iter().filter(|f| is_compat(f)) {
            let case = postgres_case(&postgres.target);
            in_schema(&postgres.target, file, &case, |case| slt::rewrite(file, case))?;
        }
        return Ok(());
    }
    if mode == "record" {
        let server = CortexServer::start(4)?;
        for file in files.iter().filter(|f| !is_compat(f)) {
            let case = cortex_case(&server.target, Protocol::Simple, &["sharded", "simple"]);
            in_schema(&server.target, file, &case, |case| slt::rewrite(file, case))?;
        }
        return Ok(());
    }
    let tables = Arc::new(TableCount::default());
    let runs = thread::scope(|scope| {
        let sharded = scope.spawn(|| run_cortex(&files, 4, &tables));
        let encoded = scope.spawn(|| run_encoded(&files));
        let home = run_cortex(&files, 1, &Arc::default());
        let processes = run_processes(&files);
        let mut runs = home?;
        runs.extend(processes?);
        runs.extend(sharded.join().map_err(|_| anyhow::anyhow!("the sharded run panicked"))??);
        runs.extend(encoded.join().map_err(|_| anyhow::anyhow!("the encoded run panicked"))??);
        anyhow::Ok(runs)
    })?;
    let compat = match &postgres {
        Some(postgres) if mode.is_empty() => run_postgres(&files, postgres)?,
        Some(_) | None => Vec::new(),
    };
    let made = tables.made.load(Ordering::Relaxed);
    let sharded = made - tables.home.load(Ordering::Relaxed);
    let report = report(&runs, &compat);
    println!("{sharded} of {made} tables were sharded in the runs with default_shard_by");
    match mode.as_str() {
        "mark" => return mark(&runs),
        "unmark" => return unmark(&runs),
        _ => ensure!(report == 0, "{report} records failed"),
    }
    if std::env::var_os("CORTEX_SLT_FILE").is_none() {
        ensure!(
            sharded * 100 >= made * SHARDED_PERCENT_MIN,
            "only {sharded} of {made} tables were sharded"
        );
    }
    Ok(())
}

/// A file's outcome in one configuration.
struct Run {
    file: PathBuf,
    labels: Vec<&'static str>,
    outcome: Outcome,
}

fn files() -> Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("slt");
    let wanted = std::env::var("CORTEX_SLT_FILE").unwrap_or_default();
    let mut files = Vec::new();
    let mut dirs = vec![root];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "slt")
                && path.to_string_lossy().contains(&wanted)
            {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn is_compat(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "pg_compat")
}

/// A configuration of CortexDB; the label `sharded` asks for tables sharded by their primary key.
fn cortex_case(target: &Target, protocol: Protocol, labels: &[&'static str]) -> Case {
    let mut setup = vec!["SET timezone = 'UTC'".to_owned()];
    if labels.contains(&"sharded") {
        setup.push("SET cortex.default_shard_by = 'primary_key'".into());
    }
    Case {
        target: target.clone(),
        protocol,
        engine: "cortexdb",
        labels: labels.to_vec(),
        setup,
        tables: Arc::default(),
    }
}

fn run_cortex(files: &[PathBuf], n_shards: usize, tables: &Arc<TableCount>) -> Result<Vec<Run>> {
    let server = CortexServer::start(n_shards)?;
    let placement = if n_shards == 1 { "home" } else { "sharded" };
    let mut runs = Vec::new();
    for file in files {
        for (protocol, name) in [(Protocol::Simple, "simple"), (Protocol::Extended, "extended")] {
            let labels = vec![placement, name];
            let mut case = cortex_case(&server.target, protocol, &labels);
            case.tables = Arc::clone(tables);
            let outcome = in_schema(&server.target, file, &case, |case| slt::run_file(file, case))
                .with_context(|| format!("{} {labels:?}: {}", file.display(), server.log()))?;
            runs.push(Run { file: file.clone(), labels, outcome });
        }
    }
    Ok(runs)
}

/// Over shards whose clients turn every plan into bytes.
fn run_encoded(files: &[PathBuf]) -> Result<Vec<Run>> {
    let database = Database::start(4)?;
    let mut runs = Vec::new();
    for file in files {
        let labels = vec!["sharded", "extended", "encoded"];
        let case = cortex_case(&database.target, Protocol::Extended, &labels);
        let outcome = in_schema(&database.target, file, &case, |case| slt::run_file(file, case))
            .with_context(|| format!("{} {labels:?}", file.display()))?;
        runs.push(Run { file: file.clone(), labels, outcome });
    }
    Ok(runs)
}

/// Over processes, with one gateway that makes the schema and another that runs the file.
fn run_processes(files: &[PathBuf]) -> Result<Vec<Run>> {
    let cluster = ClusterServer::start(3, 2)?;
    let (owner, target) = (cluster.target(1)?, cluster.target(2)?);
    let mut runs = Vec::new();
    for file in files {
        let labels = vec!["sharded", "extended", "processes"];
        let case = cortex_case(&target, Protocol::Extended, &labels);
        let mut outcome = in_schema(&owner, file, &case, |case| slt::run_file(file, case))
            .with_context(|| format!("{} {labels:?}: {}", file.display(), cluster.logs()))?;
        // Plans name shards and count them, and the files hold those of four. What was analyzed is alike everywhere.
        let is_plan = |error: &str| {
            error.contains("[SQL] EXPLAIN") && !error.contains("[SQL] EXPLAIN (ANALYZE")
        };
        outcome.failures.retain(|(_, error)| !is_plan(error));
        runs.push(Run { file: file.clone(), labels, outcome });
    }
    Ok(runs)
}

fn postgres_case(target: &Target) -> Case {
    Case {
        target: target.clone(),
        protocol: Protocol::Simple,
        engine: "postgres",
        labels: Vec::new(),
        setup: vec!["SET timezone = 'UTC'".into()],
        tables: Arc::default(),
    }
}

fn run_postgres(files: &[PathBuf], postgres: &Postgres) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for file in files.iter().filter(|f| is_compat(f)) {
        let case = postgres_case(&postgres.target);
        let outcome = in_schema(&postgres.target, file, &case, |case| slt::run_file(file, case))?;
        runs.push(Run { file: file.clone(), labels: vec!["postgres"], outcome });
    }
    Ok(runs)
}

/// Runs a file in a schema of its own, so that files may use the same names and leave things behind.
fn in_schema<T>(
    target: &Target,
    file: &Path,
    case: &Case,
    run: impl FnOnce(&Case) -> Result<T>,
) -> Result<T> {
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or("file");
    let schema = format!("slt_{stem}");
    let mut client = Client::connect(target)?;
    client.simple(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE"))?;
    client.simple(&format!("CREATE SCHEMA {schema}"))?;
    let mut case = case.clone();
    case.setup.push(format!("SET search_path = {schema}"));
    let answer = run(&case);
    client.simple(&format!("DROP SCHEMA {schema} CASCADE"))?;
    answer
}

/// Prints failures and what became right; the number of failures.
fn report(runs: &[Run], compat: &[Run]) -> usize {
    let mut n_failures = 0;
    for run in runs.iter().chain(compat) {
        for (line, error) in &run.outcome.failures {
            n_failures += 1;
            println!("{}:{line} {:?}\n{error}\n", run.file.display(), run.labels);
        }
    }
    for (file, lines) in right_everywhere(runs) {
        if !lines.is_empty() {
            println!(
                "now right, CORTEX_SLT=unmark takes the marks off: {} {lines:?}",
                file.display()
            );
        }
    }
    let n_records: usize = runs.iter().map(|run| run.outcome.n_records).sum();
    println!("{n_records} records in {} runs, {n_failures} failed", runs.len() + compat.len());
    n_failures
}

/// Marked records that no configuration answers wrongly any more.
fn right_everywhere(runs: &[Run]) -> BTreeMap<PathBuf, Vec<u32>> {
    let mut by_file: BTreeMap<PathBuf, Vec<&Outcome>> = BTreeMap::new();
    for run in runs {
        by_file.entry(run.file.clone()).or_default().push(&run.outcome);
    }
    by_file
        .into_iter()
        .map(|(file, outcomes)| {
            let marked: BTreeSet<u32> = outcomes.iter().flat_map(|o| &o.marked).copied().collect();
            let right = |line: &u32| outcomes.iter().all(|o| o.right.contains(line));
            (file, marked.into_iter().filter(right).collect())
        })
        .collect()
}

fn mark(runs: &[Run]) -> Result<()> {
    let mut wrong: BTreeMap<&PathBuf, HashMap<u32, (String, String)>> = BTreeMap::new();
    let mut labels: HashMap<(&PathBuf, u32), Vec<&Vec<&str>>> = HashMap::new();
    for run in runs {
        for (line, error) in &run.outcome.failures {
            labels.entry((&run.file, *line)).or_default().push(&run.labels);
            let today = wrong.entry(&run.file).or_default().entry(*line).or_default();
            if today.1.is_empty() {
                today.1 = summary(error);
            }
        }
    }
    for (file, lines) in &mut wrong {
        for (line, (label, _)) in lines.iter_mut() {
            let failing = &labels[&(*file, *line)];
            let shared = failing[0]
                .iter()
                .find(|l| failing.len() == 2 && failing.iter().all(|labels| labels.contains(l)));
            *label = shared.copied().unwrap_or("cortexdb").to_owned();
        }
        slt::mark(file, lines)?;
    }
    Ok(())
}

fn unmark(runs: &[Run]) -> Result<()> {
    for (file, lines) in right_everywhere(runs) {
        slt::unmark(&file, &lines)?;
    }
    Ok(())
}

/// The line of a failure that says what came instead.
fn summary(error: &str) -> String {
    let lines = error.lines();
    let mut got: Vec<&str> = lines
        .filter(|l| !l.starts_with("[SQL]") && !l.starts_with("at ") && !l.trim().is_empty())
        .collect();
    if error.contains("[Diff]") {
        got.retain(|l| l.starts_with('+'));
    }
    let mut text = got.join(" | ");
    if text.chars().count() > 160 {
        text = text.chars().take(160).collect::<String>() + "...";
    }
    text
}
