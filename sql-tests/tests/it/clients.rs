//! Real clients: psql, psycopg 3, SQLAlchemy 2, asyncpg and tokio-postgres against the program. A client that is not installed
//! is skipped with a message; `clients/*.py` hold what the Python ones do, and run against a PostgreSQL too.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use cortex_sql_tests::{CortexServer, client::Target, postgres};
use tokio_postgres::{NoTls, types::Type};

/// A command that finds the server in its environment.
fn client(program: impl AsRef<std::ffi::OsStr>, target: &Target) -> Command {
    let mut command = Command::new(program);
    command
        .env("PGHOST", &target.host)
        .env("PGPORT", target.port.to_string())
        .env("PGUSER", &target.user)
        .env("PGDATABASE", &target.database)
        .stdin(Stdio::null());
    command
}

/// Runs a script in Python, if the modules it needs are there.
fn python(script: &str, modules: &[&str]) -> Result<()> {
    let imports = format!("import {}", modules.join(", "));
    let found = Command::new("python3").args(["-c", &imports]).output();
    if !found.is_ok_and(|out| out.status.success()) {
        println!("skipped: python3 with {} is not installed", modules.join(", "));
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let server = CortexServer::start(4)?;
    // A table of each script lies on one shard, then over all of them.
    for options in ["", "-c cortex.default_shard_by=primary_key"] {
        let out =
            client("python3", &server.target).arg(&path).env("PGOPTIONS", options).output()?;
        if !out.status.success() {
            bail!("{script} {options}: {}", String::from_utf8_lossy(&out.stderr));
        }
        print!("{}", String::from_utf8_lossy(&out.stdout));
    }
    Ok(())
}

#[test]
fn psycopg() -> Result<()> {
    python("psycopg_crud.py", &["psycopg"])
}

#[test]
fn sqlalchemy() -> Result<()> {
    python("sqlalchemy_orm.py", &["sqlalchemy", "psycopg"])
}

#[test]
fn asyncpg() -> Result<()> {
    python("asyncpg_crud.py", &["asyncpg"])
}

/// What psql prints for a command, without decoration.
fn psql(target: &Target, command: &str) -> Result<String> {
    let program = postgres::bin_dir().map(|dir| dir.join("psql")).filter(|path| path.exists());
    let program = program.unwrap_or_else(|| "psql".into());
    let out = client(program, target).args(["-X", "-A", "-q", "-c", command]).output()?;
    let (said, errors) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    ensure!(out.status.success() && errors.is_empty(), "{command}: {said}{errors}");
    Ok(said.into_owned())
}

#[test]
fn psql_describes_what_is_there() -> Result<()> {
    let installed = Command::new("psql").arg("--version").output();
    if !installed.is_ok_and(|out| out.status.success()) {
        println!("skipped: psql is not installed");
        return Ok(());
    }
    let server = CortexServer::start(4)?;
    let mut setup = server.connect()?;
    for sql in [
        "CREATE SCHEMA app",
        "CREATE TABLE users (id serial PRIMARY KEY, name varchar(20) NOT NULL DEFAULT 'x' UNIQUE, age int CHECK (age > 0), tags text[])",
        "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE, at timestamptz DEFAULT now())",
        "CREATE INDEX orders_at ON orders (at DESC, user_id)",
        "CREATE VIEW adults AS SELECT id, name FROM users WHERE age >= 18",
        "CREATE SEQUENCE numbers",
        "COMMENT ON TABLE users IS 'who is here'",
        "CREATE ROLE reader LOGIN",
    ] {
        setup.simple(sql).with_context(|| sql.to_owned())?;
    }
    for (command, expected) in [
        (
            "\\d",
            &[
                "public|adults|view|postgres",
                "public|numbers|sequence|postgres",
                "public|orders|table|postgres",
                "public|users_id_seq|sequence|postgres",
            ][..],
        ),
        ("\\dt", &["public|orders|table|postgres", "public|users|table|postgres", "(2 rows)"]),
        ("\\dt+", &["who is here"]),
        (
            "\\di",
            &[
                "public|orders_at|index|postgres|orders",
                "public|users_name_key|index|postgres|users",
                "public|users_pkey|index|postgres|users",
            ],
        ),
        ("\\dv", &["public|adults|view|postgres"]),
        ("\\ds", &["public|numbers|sequence|postgres"]),
        ("\\dn", &["app|postgres", "public|"]),
        ("\\l", &["postgres|postgres|UTF8|"]),
        ("\\du", &["postgres|Superuser", "reader|"]),
        (
            "\\d users",
            &[
                "Table \"public.users\"",
                "id|integer||not null|nextval('users_id_seq'::regclass)",
                "name|character varying(20)||not null|'x'::character varying",
                "tags|text[]|||",
                "\"users_pkey\" PRIMARY KEY, btree (id)",
                "\"users_name_key\" UNIQUE CONSTRAINT, btree (name)",
                "\"users_age_check\" CHECK (age > 0)",
                "TABLE \"orders\" CONSTRAINT \"orders_user_id_fkey\" FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE",
            ],
        ),
        (
            "\\d orders",
            &[
                "id|bigint||not null|generated always as identity",
                "at|timestamp with time zone|||now()",
                "\"orders_at\" btree (at DESC, user_id)",
                "\"orders_user_id_fkey\" FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE",
            ],
        ),
        ("\\d+ users", &["id|integer||not null|nextval('users_id_seq'::regclass)|plain|"]),
        ("\\d+ adults", &["View definition:", "name|character varying(20)"]),
        ("\\d orders_at", &["Index \"public.orders_at\"", "btree, for table \"public.orders\""]),
        ("\\d numbers", &["Sequence \"public.numbers\"", "bigint|1|1|9223372036854775807|1|no|1"]),
        ("\\dt *.users", &["public|users|table|postgres"]),
        ("\\dT", &[]),
        ("\\df", &[]),
        ("\\dp users", &["public|users|table|"]),
        ("\\conninfo", &["You are connected to database \"postgres\" as user \"postgres\""]),
        ("\\copy (SELECT 1, 'a') TO STDOUT (FORMAT csv)", &["1,a"]),
    ] {
        let said = psql(&server.target, command)?;
        for line in expected {
            ensure!(said.contains(line), "{command}: {line:?} is missing in\n{said}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tokio_postgres_in_text_and_binary() -> Result<()> {
    let server = CortexServer::start(4)?;
    let mut config = tokio_postgres::Config::new();
    config.host(&server.target.host).port(server.target.port).user("postgres").dbname("postgres");
    let (mut client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    client
        .batch_execute(
            "CREATE TABLE t (id bigserial PRIMARY KEY, name text NOT NULL UNIQUE, n int, f float8, d bytea, tags text[])
             WITH (shard_by = 'home')",
        )
        .await?;
    let insert = client
        .prepare("INSERT INTO t (name, n, f, d, tags) VALUES ($1, $2, $3, $4, $5) RETURNING id")
        .await?;
    ensure!(
        insert.params() == [Type::TEXT, Type::INT4, Type::FLOAT8, Type::BYTEA, Type::TEXT_ARRAY]
    );
    ensure!(insert.columns()[0].type_() == &Type::INT8);
    for n in 0..10_i32 {
        let tags = vec![Some(format!("tag {n}")), None];
        let number = (n % 2 == 0).then_some(n);
        let row = client
            .query_one(&insert, &[&format!("name {n}"), &number, &0.5, &vec![0_u8, 255], &tags])
            .await?;
        ensure!(row.get::<_, i64>(0) == i64::from(n) + 1);
    }
    let row = client.query_one("SELECT * FROM t WHERE id = $1", &[&3_i64]).await?;
    ensure!(row.get::<_, &str>("name") == "name 2" && row.get::<_, Option<i32>>("n") == Some(2));
    ensure!(row.get::<_, Vec<Option<String>>>("tags") == [Some("tag 2".to_owned()), None]);
    ensure!(row.get::<_, Vec<u8>>("d") == [0, 255]);
    let rows =
        client.query("SELECT id FROM t ORDER BY id LIMIT $1 OFFSET $2", &[&2_i64, &4_i64]).await?;
    ensure!(rows.iter().map(|row| row.get::<_, i64>(0)).eq([5, 6]));
    let found = client
        .query_one(
            "SELECT count(*) FROM t WHERE name = ANY($1)",
            &[&vec!["name 1", "name 9", "no"]],
        )
        .await?;
    ensure!(found.get::<_, i64>(0) == 2);
    let transaction = client.transaction().await?;
    ensure!(transaction.execute("UPDATE t SET n = coalesce(n, 0) + $1", &[&1]).await? == 10);
    let portal = transaction.bind("SELECT id FROM t ORDER BY id", &[]).await?;
    ensure!(transaction.query_portal(&portal, 4).await?.len() == 4);
    ensure!(transaction.query_portal(&portal, 100).await?.len() == 6);
    transaction.rollback().await?;
    let error = client.execute("INSERT INTO t (name) VALUES ('name 1')", &[]).await.err();
    let error = error.context("a name twice")?;
    ensure!(error.code().map(|code| code.code()) == Some("23505"), "{error}");
    let text = client.simple_query("SELECT sum(n), NULL FROM t; SELECT 1").await?;
    ensure!(text.len() >= 4, "{text:?}");
    let cancel = client.cancel_token();
    let slow = tokio::spawn(async move { client.execute("SELECT pg_sleep(30)", &[]).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    cancel.cancel_query(NoTls).await?;
    let error = slow.await?.err().context("it was not cancelled")?;
    ensure!(error.code().map(|code| code.code()) == Some("57014"), "{error}");
    connection.await??;
    Ok(())
}
