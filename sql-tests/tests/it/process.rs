//! The real program as a process: its command line, its end, kill -9, pgbench.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cortex_sql_tests::{
    Client, ClientError, CortexServer,
    client::Target,
    kill9,
    pgbench::{self, Load},
    server,
};

/// A mistake on the command line shows at once.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(20);

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The program in a directory without a configuration file and an environment without settings of ours.
fn program(directory: &Path) -> Result<Command> {
    let mut command = Command::new(server::binary()?);
    for name in ["CORTEX_LISTEN", "CORTEX_DATA_DIR", "CORTEX_SHARDS", "PGPORT", "POSTGRES_PASSWORD"]
    {
        command.env_remove(name);
    }
    command
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// Runs it to its end, which must come by itself.
fn output(command: &mut Command) -> Result<Output> {
    let mut child = command.spawn()?;
    let since = Instant::now();
    while child.try_wait()?.is_none() {
        if since.elapsed() > REFUSAL_TIMEOUT {
            child.kill()?;
            bail!("it did not end: {:?}", child.wait_with_output()?);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(child.wait_with_output()?)
}

/// One line that says `what`, and a non-zero exit.
fn refuses(command: &mut Command, what: &str) -> Result<()> {
    let out = output(command)?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(!out.status.success(), "{what}: ended with {}", out.status);
    ensure!(said.lines().count() == 1 && said.contains(what), "{what}: it said {said:?}");
    ensure!(said.starts_with("cortexdb: "), "{said:?}");
    Ok(())
}

#[test]
fn what_cannot_start_says_why_in_one_line() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let here = directory.path();
    let listen = format!("127.0.0.1:{}", free_port()?);

    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    refuses(program(here)?.args(["start", "--listen", &address]), "is taken by another server")?;
    refuses(program(here)?.args(["--listen", &address]), "is taken by another server")?;

    let mut running = CortexServer::start(2)?;
    let data = running.data_dir();
    let start = |data: &Path| -> Result<Command> {
        let mut command = program(here)?;
        command.args(["start", "--listen", &listen, "--data-dir"]).arg(data);
        Ok(command)
    };
    refuses(&mut start(&data)?, "is in use by another cortexdb")?;
    running.connect()?.simple("SELECT 1")?;
    running.stop()?;
    refuses(start(&data)?.args(["--shards", "3"]), "has 2 shards, not 3")?;
    refuses(start(&data)?.env("CORTEX_SHARDS", "5"), "has 2 shards, not 5")?;

    let format = data.join("cortexdb.format");
    let good = std::fs::read_to_string(&format)?;
    std::fs::write(&format, good.replace("version = 1", "version = 99"))?;
    refuses(&mut start(&data)?, "has format version 99")?;
    std::fs::write(&format, "not a format")?;
    refuses(&mut start(&data)?, "is not a format file of CortexDB")?;
    std::fs::write(&format, &good)?;

    let file = here.join("file");
    std::fs::write(&file, "x")?;
    refuses(&mut start(&file)?, "cannot make data directory")?;
    let foreign = here.join("foreign");
    std::fs::create_dir(&foreign)?;
    std::fs::write(foreign.join("thesis.tex"), "x")?;
    refuses(&mut start(&foreign)?, "is not empty and not a data directory of CortexDB")?;

    refuses(start(&here.join("d"))?.args(["--shards", "0"]), "number of shards must be between")?;
    refuses(start(&here.join("d"))?.env("CORTEX_SHARDS", "many"), "CORTEX_SHARDS is not a number")?;
    refuses(program(here)?.args(["start", "--listen", "nowhere.invalid:1"]), "cannot listen on")?;
    std::fs::write(here.join("cortexdb.toml"), "shard = 2")?;
    refuses(&mut start(&here.join("d"))?, "cortexdb.toml is not right")?;
    refuses(start(&here.join("d"))?.args(["--config", "none.toml"]), "cannot read none.toml")?;
    ensure!(!here.join("d").exists(), "a refused start made a data directory");
    Ok(())
}

#[test]
fn a_directory_that_it_may_not_read_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("closed");
    std::fs::create_dir(&data)?;
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o000))?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
    let is_root = Command::new("id").arg("-u").output()?.stdout == b"0\n";
    let mut command = program(directory.path())?;
    if is_root {
        // Root may read everything, so it is somebody else who starts the program.
        let binary = server::binary()?;
        let mut other = Command::new("setpriv");
        other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary);
        other.current_dir(directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let may_run = other.arg("--version").output().is_ok_and(|out| out.status.success());
        if !may_run {
            println!("skipped: setpriv is missing, or nobody may not run {}", binary.display());
            return Ok(());
        }
        command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(binary);
        command.current_dir(directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let listen = format!("127.0.0.1:{}", free_port()?);
    command.args(["start", "--listen", &listen, "--data-dir"]).arg(&data);
    refuses(&mut command, "closed")
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let here = directory.path();
    let (port, other) = (free_port()?, free_port()?);
    std::fs::write(
        here.join("cortexdb.toml"),
        format!("listen = '127.0.0.1:{other}'\nshards = 2\ndata_dir = 'from-file'\n"),
    )?;
    let mut child = program(here)?
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .env("CORTEX_LISTEN", format!("127.0.0.1:{other}"))
        .env("CORTEX_DATA_DIR", "from-environment")
        .spawn()?;
    let said = BufReader::new(child.stderr.take().context("stderr")?);
    let mut lines = Vec::new();
    for line in said.lines() {
        lines.push(line?);
        if lines.iter().any(|line| line.contains("psql -h")) {
            break;
        }
    }
    let shards = Client::connect(&Target::local(port))
        .and_then(|mut client| client.simple("SELECT count(*) FROM cortex.tables"));
    child.kill()?;
    child.wait()?;
    shards.context("it does not listen where the flag says")?;
    let said = lines.join("\n");
    ensure!(said.contains("making 2 shards in from-environment"), "{said}");
    ensure!(said.contains(&format!("psql -h 127.0.0.1 -p {port} -U postgres")), "{said}");
    ensure!(here.join("from-environment").exists() && !here.join("from-file").exists());
    Ok(())
}

#[test]
fn sigterm_lets_statements_finish_and_loses_nothing() -> Result<()> {
    let mut server = CortexServer::start(2)?;
    let mut client = server.connect()?;
    client.simple("CREATE TABLE t (id int PRIMARY KEY, v int)")?;
    client.simple("INSERT INTO t VALUES (1, 1)")?;
    let mut idle = server.connect()?;
    idle.simple("BEGIN; INSERT INTO t VALUES (2, 2)")?;
    let mut running = server.connect()?;
    let answer = thread::spawn(move || {
        running.simple("INSERT INTO t SELECT 3, CASE WHEN pg_sleep(3) IS NULL THEN 3 ELSE 4 END")
    });
    // On a busy machine a statement and a signal take their time.
    let since = Instant::now();
    let runs =
        "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'INSERT%pg_sleep%'";
    while client.simple(runs)?.rows.is_empty() {
        ensure!(since.elapsed() < Duration::from_secs(30), "the statement does not begin");
        thread::sleep(Duration::from_millis(20));
    }
    server.terminate()?;
    let since = Instant::now();
    while !server.log().contains("stopping:") {
        ensure!(since.elapsed() < Duration::from_secs(30), "no sign of SIGTERM: {}", server.log());
        thread::sleep(Duration::from_millis(20));
    }
    let answer = answer.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
    ensure!(answer.context("the running statement")?.tag == "INSERT 0 1");
    match idle.simple("COMMIT") {
        Err(ClientError::Db(error)) => ensure!(error.code == "57P01", "{error:?}"),
        Err(ClientError::Io(_)) => {}
        Ok(reply) => bail!("an idle session went on: {reply:?}"),
    }
    server.wait()?;
    ensure!(server.log().trim_end().ends_with("stopped"), "{}", server.log());
    server.restart()?;
    let rows = server.connect()?.simple("SELECT id FROM t ORDER BY id")?.text();
    ensure!(rows == [[Some("1".to_owned())], [Some("3".to_owned())]], "{rows:?}");
    server.stop()
}

#[test]
fn five_rounds_of_kill_9_lose_nothing() -> Result<()> {
    kill9::run(5)
}

#[test]
fn pgbench_runs_over_every_placement() -> Result<()> {
    let Some(pgbench) = pgbench::program() else {
        println!("skipped: pgbench is not installed");
        return Ok(());
    };
    let server = CortexServer::start(4)?;
    // Short, because a debug build is what tests have; the full size is `cargo xtask bench pgbench`.
    pgbench::run(&pgbench, &server.target, &Load { seconds: 1, clients: 8, scale: 1 })
        .with_context(|| server.log())
}

/// Statements that are far too big or deep end with an error of their own; the session and its neighbours go on.
#[test]
fn expressions_of_20000_terms_do_not_end_the_server() -> Result<()> {
    let server = CortexServer::start(2)?;
    let mut neighbour = server.connect()?;
    neighbour.simple("CREATE TABLE t (id int PRIMARY KEY, v int)")?;
    neighbour.simple("INSERT INTO t VALUES (1, 1)")?;
    let many = |term: &str, between: &str| vec![term; 20_000].join(between);
    let deep = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(20_000), close.repeat(20_000))
    };
    let statements = [
        format!("SELECT {}", many("1", " + ")),
        format!("SELECT {}", many("id", " + ")) + " FROM t",
        format!("SELECT * FROM t WHERE {}", many("id = 1", " OR ")),
        format!("SELECT * FROM t WHERE {}", many("id = 1", " AND ")),
        format!("SELECT * FROM t WHERE id IN ({})", many("1", ", ")),
        format!("SELECT {} FROM t", many("v", " || ")),
        format!("SELECT {}", deep("(", "1", ")")),
        format!("SELECT {} true", "NOT ".repeat(20_000)),
        format!("SELECT {}1", "- ".repeat(20_000)),
        format!("SELECT 1{}", "::int".repeat(20_000)),
        format!("SELECT {}", deep("abs(", "1", ")")),
        format!("SELECT {}", deep("CASE WHEN true THEN ", "1", " END")),
        format!("SELECT {}", deep("ARRAY[", "1", "]")),
        deep("SELECT * FROM (", "SELECT 1", ") x"),
        format!("SELECT {}", deep("(SELECT ", "1", ")")),
        many("SELECT 1", " UNION ALL "),
        format!("WITH a AS (SELECT 1) SELECT * FROM {}", many("a", ", ")),
        format!("INSERT INTO t VALUES {}", many("(1, 1)", ", ")),
        format!("UPDATE t SET v = {} WHERE id = 1", many("v", " + ")),
        format!("DELETE FROM t WHERE id = 1 AND ({})", many("v = 5", " OR ")),
        format!("SELECT '{}'::jsonb", "[".repeat(20_000)),
        format!("SELECT '{}'::int[]", "{".repeat(20_000)),
        format!("SELECT 'x' ~ '{}'", "(".repeat(20_000)),
        format!("CREATE VIEW v AS SELECT {}", many("1", " + ")),
        format!(
            "CREATE TABLE wide ({})",
            (0..20_000).map(|n| format!("c{n} int")).collect::<Vec<_>>().join(", ")
        ),
        format!("EXPLAIN SELECT {}", many("1", " + ")),
        format!("PREPARE p AS SELECT {}", many("$1", " + ")),
    ];
    let mut client = server.connect()?;
    let pattern = "%x".repeat(20_000);
    let error = client.simple(&format!("SELECT repeat('x', 100) LIKE '{pattern}y'")).err();
    ensure!(error.is_some_and(|error| error.code() == Some("54000")), "a pattern without bounds");
    for sql in &statements {
        for extended in [false, true] {
            let answer =
                if extended { client.extended(sql, &[], true) } else { client.simple(sql) };
            let shown = || sql.chars().take(60).collect::<String>();
            match answer {
                Ok(_) => {}
                Err(ClientError::Db(error)) => {
                    ensure!(!error.code.starts_with("XX"), "{}: {error:?}", shown());
                }
                Err(error) => bail!("{}: {error}", shown()),
            }
            let alive = client.simple("SELECT 1").with_context(shown)?;
            ensure!(alive.rows.len() == 1);
        }
    }
    let rows = neighbour.simple("SELECT id FROM t")?;
    ensure!(rows.rows.len() == 1, "the neighbour's table changed");
    Ok(())
}
