//! The system relations' shape beside PostgreSQL's: the same relations, with the same columns in the same order.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use cortex_sql_tests::{Client, CortexServer, postgres::Postgres};

/// Columns of every relation of pg_catalog and information_schema, with their types.
const COLUMNS: &str = "
    SELECT n.nspname || '.' || c.relname, a.attname, t.typname FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_type t ON t.oid = a.atttypid
    WHERE n.nspname IN ('pg_catalog', 'information_schema') AND a.attnum > 0 AND c.relkind IN ('r', 'v')
    ORDER BY 1, a.attnum";

/// Types that are not here, and what stands for them.
const STAND_INS: &[(&str, &str)] = &[
    ("sql_identifier", "name"),
    ("character_data", "varchar"),
    ("cardinal_number", "int4"),
    ("yes_or_no", "varchar"),
    ("time_stamp", "timestamptz"),
    ("pg_node_tree", "text"),
    ("pg_lsn", "text"),
    ("anyarray", "text"),
    ("inet", "text"),
    ("pg_ndistinct", "text"),
    ("pg_dependencies", "text"),
    ("pg_mcv_list", "text"),
    ("_pg_statistic", "text"),
    ("_aclitem", "_text"),
    ("xid", "oid"),
    ("int2vector", "_int2"),
    ("oidvector", "_oid"),
];

type Shape = BTreeMap<String, Vec<(String, String)>>;

fn shape(client: &mut Client) -> Result<Shape> {
    let mut shape = Shape::new();
    for row in client.simple(COLUMNS)?.text() {
        if let [Some(relation), Some(column), Some(ty)] = &row[..] {
            let stand_in = STAND_INS.iter().find(|(theirs, _)| theirs == ty).map_or("", |it| it.1);
            let ty = if stand_in.is_empty() { ty } else { stand_in };
            shape.entry(relation.clone()).or_default().push((column.clone(), ty.to_owned()));
        }
    }
    Ok(shape)
}

#[test]
fn system_relations_have_the_columns_that_postgresql_has() -> Result<()> {
    let Some(postgres) = Postgres::find()? else { return Ok(()) };
    let mut theirs = postgres.connect()?;
    let version = theirs.simple("SHOW server_version_num")?.text();
    if !version.iter().flatten().flatten().any(|it| it.starts_with("15")) {
        println!("skipped: the columns are those of PostgreSQL 15, this is {version:?}");
        return Ok(());
    }
    let server = CortexServer::start(1)?;
    let (ours, theirs) = (shape(&mut server.connect()?)?, shape(&mut theirs)?);
    ensure!(ours.keys().eq(theirs.keys()), "other relations: {:?}", ours.keys());
    for (relation, columns) in &theirs {
        ensure!(&ours[relation] == columns, "{relation}: {:?}, not {columns:?}", ours[relation]);
    }
    println!("{} system relations have PostgreSQL's columns", ours.len());
    Ok(())
}
