//! Commands over a small catalog, with a binder that knows columns, integers and comparisons by name alone.

use std::sync::Arc;

use cortex_functions::session::EvalContext;
use cortex_shard_api::{Datum, ScalarExpr, SqlType, TypeMod, descriptor::Placement, ids::ShardId};
use sqlparser::{
    ast::{Expr, Query},
    parser::Parser,
};

use super::*;
use crate::{
    CortexDialect,
    bind::ddl::parse_ddl,
    catalog::{
        Role, SystemRelation,
        edit::{PUBLIC, SUPERUSER},
    },
};

#[derive(Debug)]
struct NoSystem;

impl SystemRelations for NoSystem {
    fn relation(&self, _: &str, _: &str) -> Option<Arc<SystemRelation>> {
        None
    }
}

struct TestBinder;

impl DdlBinder for TestBinder {
    fn default(
        &self,
        _: &Namespace,
        _: &str,
        ty: TypeMod,
        _: &Expr,
    ) -> Result<ScalarExpr, PlanError> {
        Ok(ScalarExpr::Call { function: "test".to_owned(), args: Vec::new(), ty })
    }

    fn check(&self, _: &Namespace, table: &Table, expr: &Expr) -> Result<ScalarExpr, PlanError> {
        let text = expr.to_string();
        let columns = table.descriptor.columns.iter().enumerate();
        let args = columns
            .filter(|(_, column)| text.split(' ').any(|word| word == column.name))
            .map(|(position, column)| ScalarExpr::Column { position, ty: column.ty })
            .collect();
        let ty = TypeMod::plain(SqlType::Bool);
        Ok(ScalarExpr::Call { function: "test".to_owned(), args, ty })
    }

    fn conversion(
        &self,
        namespace: &Namespace,
        _: &Table,
        column: &str,
        ty: TypeMod,
        expr: &Expr,
    ) -> Result<ScalarExpr, PlanError> {
        self.default(namespace, column, ty, expr)
    }

    fn query(&self, _: &Namespace, query: &Query) -> Result<BoundQuery, PlanError> {
        Ok(BoundQuery { columns: Vec::new(), relations: Vec::new(), sql: query.to_string() })
    }
}

struct Fixture {
    catalog: Arc<Catalog>,
    default_shard_by: DefaultShardBy,
    notices: Vec<String>,
    work: Vec<Work>,
}

impl Fixture {
    fn new() -> Fixture {
        let mut catalog = Catalog::default();
        catalog.put_schema(Schema {
            oid: PUBLIC,
            name: "public".to_owned(),
            owner: SUPERUSER,
            home: ShardId(1),
        });
        let role = Role {
            oid: SUPERUSER,
            name: "postgres".to_owned(),
            superuser: true,
            can_login: true,
            password: None,
        };
        catalog.roles.insert(SUPERUSER, Arc::new(role));
        Fixture {
            catalog: Arc::new(catalog),
            default_shard_by: DefaultShardBy::Home,
            notices: Vec::new(),
            work: Vec::new(),
        }
    }

    fn run(&mut self, sql: &str) -> Result<(), PlanError> {
        let dialect = CortexDialect;
        let mut parser = Parser::new(&dialect).try_with_sql(sql).expect("tokens");
        let command = parse_ddl(&mut parser, sql)?;
        let system: Arc<dyn SystemRelations> = Arc::new(NoSystem);
        let env = DdlEnvironment {
            search_path: &["public".to_owned()],
            system: &system,
            binder: &TestBinder,
            eval: &EvalContext::default(),
            current_role: SUPERUSER,
            shards: &[ShardId(1), ShardId(2), ShardId(3), ShardId(4)],
            default_shard_by: self.default_shard_by,
            schema_placement: SchemaPlacement::Home,
            password_verifier: &|password| format!("SCRAM-SHA-256${password}"),
        };
        let plan = plan(&command, &self.catalog, &env)?;
        self.catalog = plan.catalog;
        self.notices = plan.notices.into_iter().map(|notice| notice.message).collect();
        self.work = plan.work;
        Ok(())
    }

    fn ok(&mut self, sql: &str) {
        if let Err(error) = self.run(sql) {
            panic!("{sql}: {error} {:?}", error.detail);
        }
    }

    fn error(&mut self, sql: &str) -> PlanError {
        match self.run(sql) {
            Ok(()) => panic!("{sql} succeeds"),
            Err(error) => error,
        }
    }

    fn table(&self, name: &str) -> Arc<Table> {
        let oid = self.catalog.names[&(PUBLIC, name.to_owned())];
        self.catalog.tables[&oid].clone()
    }

    fn names(&self) -> Vec<&str> {
        self.catalog.names.keys().map(|(_, name)| name.as_str()).collect()
    }
}

#[test]
fn a_table_takes_names_as_in_postgres() {
    let mut f = Fixture::new();
    f.ok("CREATE TABLE users (id serial PRIMARY KEY, name text NOT NULL DEFAULT 'x', email varchar(200) UNIQUE, \
          age int CHECK (age > 0), balance numeric(10,2), tags text[], UNIQUE (name, age), CHECK (age < balance))");
    let users = f.table("users");
    assert_eq!(
        f.names(),
        ["users", "users_email_key", "users_id_seq", "users_name_age_key", "users_pkey"]
    );
    let checks: Vec<&str> = users.descriptor.checks.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(checks, ["users_age_check", "users_check"]);
    assert_eq!(users.descriptor.columns[2].ty, TypeMod { ty: SqlType::Varchar, typmod: 204 });
    assert_eq!(users.descriptor.columns[4].ty.numeric_limits(), Some((10, 2)));
    assert_eq!(users.descriptor.columns[5].ty.ty.sql_name(), "text[]");
    assert!(users.descriptor.columns[0].not_null && users.columns[0].default.is_some());
    f.ok("CREATE INDEX ON users (name, age DESC)");
    f.ok("CREATE UNIQUE INDEX IF NOT EXISTS users_pkey ON users (name)");
    assert_eq!(f.notices, ["relation \"users_pkey\" already exists, skipping"]);
    assert!(f.names().contains(&"users_name_age_idx"));
}

#[test]
fn foreign_keys_are_resolved_and_dropped() {
    let mut f = Fixture::new();
    f.ok("CREATE TABLE p (id int PRIMARY KEY)");
    f.ok("CREATE TABLE c (id bigint GENERATED ALWAYS AS IDENTITY (START 5) PRIMARY KEY, p_id int REFERENCES p ON DELETE CASCADE)");
    let p = f.table("p");
    assert_eq!(p.descriptor.referenced_by, [f.table("c").descriptor.oid]);
    let error = f.error("DROP TABLE p");
    assert_eq!(error.kind, PlanErrorKind::DependentObjects);
    assert_eq!(error.message, "cannot drop table p because other objects depend on it");
    assert_eq!(
        error.detail.as_deref(),
        Some("constraint c_p_id_fkey on table c depends on table p")
    );
    f.ok("DROP TABLE p CASCADE");
    assert_eq!(f.notices, ["drop cascades to constraint c_p_id_fkey on table c"]);
    assert!(f.table("c").descriptor.foreign_keys.is_empty());
    f.ok("DROP TABLE IF EXISTS p, c");
    assert_eq!(f.notices, ["table \"p\" does not exist, skipping"]);
    assert!(f.catalog.names.is_empty());
}

#[test]
fn sharding_is_placed_and_checked() {
    let mut f = Fixture::new();
    f.ok("CREATE TABLE a (tenant int, id int, PRIMARY KEY (tenant, id)) WITH (shard_by = 'hash(tenant)', fillfactor = 70)");
    f.ok("CREATE TABLE b (tenant int PRIMARY KEY, FOREIGN KEY (tenant, tenant) REFERENCES a) SHARD BY HASH (tenant)");
    let maps: Vec<_> = ["a", "b"]
        .map(|name| match &f.table(name).descriptor.placement {
            Placement::Hash { map, .. } => map.clone(),
            other => panic!("{other:?}"),
        })
        .into();
    assert!(Arc::ptr_eq(&maps[0], &maps[1]));
    assert_eq!(f.table("a").descriptor.shards().len(), 4);
    let error =
        f.error("CREATE TABLE d (id int PRIMARY KEY, tenant int) WITH (shard_by = 'hash(tenant)')");
    assert_eq!(error.kind, PlanErrorKind::Unsupported);
    let error = f.error("CREATE TABLE d (id int PRIMARY KEY REFERENCES b)");
    assert_eq!(error.kind, PlanErrorKind::Unsupported);
    assert!(error.hint.is_some());
}

#[test]
fn the_primary_key_shards_by_default_and_parents_come_home() {
    let mut f = Fixture::new();
    f.default_shard_by = DefaultShardBy::PrimaryKey;
    f.ok("CREATE TABLE p (id int PRIMARY KEY)");
    assert!(matches!(f.table("p").descriptor.placement, Placement::Hash { .. }));
    f.ok("CREATE TABLE n (id int)");
    assert_eq!(f.notices.len(), 1);
    f.ok("CREATE TABLE c (id int PRIMARY KEY, p_id int REFERENCES p)");
    assert!(matches!(f.table("c").descriptor.placement, Placement::Home(_)));
    assert!(matches!(f.table("p").descriptor.placement, Placement::Home(_)));
    assert!(f.work.iter().any(|work| matches!(work, Work::Convert { .. })));
}

#[test]
fn errors_have_positions_and_names() {
    let mut f = Fixture::new();
    let error = f.error("CREATE TABLE t (a nosuch)");
    assert_eq!(
        (error.message.as_str(), error.position),
        ("type \"nosuch\" does not exist", Some(19))
    );
    let error = f.error("CREATE TABLE t (a int,)");
    assert_eq!(error.message, "syntax error at or near \")\"");
    let error = f.error("CREATE TABLE t");
    assert_eq!(error.message, "syntax error at end of input");
    let error = f.error("CREATE FUNCTION f() RETURNS int");
    assert_eq!(error.kind, PlanErrorKind::Unsupported);
    let error = f.error("CREATE TABLE t (a int, a int)");
    assert_eq!(error.kind, PlanErrorKind::DuplicateColumn);
    assert_eq!(f.error("DROP TABLE nosuch").message, "table \"nosuch\" does not exist");
}

#[test]
fn literals_in_defaults_end_before_not_null() {
    let mut f = Fixture::new();
    f.ok("CREATE TABLE t (a int DEFAULT 1 + 2 NOT NULL, b text DEFAULT 'a''b'::text UNIQUE, c timestamp(3) with time zone DEFAULT now())");
    let t = f.table("t");
    let defaults: Vec<&str> =
        t.columns.iter().filter_map(|c| c.default.as_ref()).map(|d| d.sql.as_str()).collect();
    assert_eq!(defaults, ["1 + 2", "'a''b'::text", "now()"]);
    assert!(t.descriptor.columns[0].not_null);
    assert_eq!(t.descriptor.columns[2].ty, TypeMod { ty: SqlType::Timestamptz, typmod: 3 });
    let _ = Datum::Null;
}

#[test]
fn alter_table_changes_columns_and_keys() {
    let mut f = Fixture::new();
    f.ok("CREATE TABLE t (a int, b varchar(5))");
    f.ok("ALTER TABLE t ADD PRIMARY KEY (a), ADD CONSTRAINT t_b UNIQUE (b)");
    let t = f.table("t");
    assert_eq!((t.descriptor.primary_key.as_slice(), t.descriptor.indexes.len()), (&[0][..], 1));
    let kinds: Vec<&str> = f
        .work
        .iter()
        .map(|work| match work {
            Work::Lock(_) => "lock",
            Work::Verify { .. } => "verify",
            Work::Rewrite { .. } => "rewrite",
            Work::BuildIndex { .. } => "index",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["lock", "verify", "rewrite", "index"]);
    f.ok("ALTER TABLE t ADD COLUMN IF NOT EXISTS a text, ADD COLUMN c text NOT NULL DEFAULT 'x', RENAME TO u");
    f.ok("ALTER TABLE u RENAME COLUMN b TO bb");
    f.ok("ALTER TABLE u ALTER COLUMN bb TYPE text, ALTER bb SET NOT NULL, ALTER c DROP DEFAULT");
    let u = f.table("u");
    let names: Vec<&str> = u.descriptor.live_columns().map(|(_, c)| c.name.as_str()).collect();
    assert_eq!(names, ["a", "bb", "c"]);
    assert_eq!(u.descriptor.columns[1].ty.ty, SqlType::Text);
    f.ok("ALTER TABLE u DROP COLUMN a");
    let u = f.table("u");
    assert!(u.primary_key_oids.is_none() && u.descriptor.columns[0].dropped);
    assert_eq!(f.names(), ["t_b", "u"]);
    f.ok("ALTER TABLE u DROP CONSTRAINT t_b");
    assert_eq!(f.error("ALTER TABLE u DROP CONSTRAINT t_b").kind, PlanErrorKind::UndefinedObject);
    assert_eq!(f.error("ALTER TABLE u ADD COLUMN c int").kind, PlanErrorKind::DuplicateColumn);
}

#[test]
fn truncate_follows_foreign_keys() {
    let mut f = Fixture::new();
    f.ok("CREATE TABLE p (id serial PRIMARY KEY)");
    f.ok("CREATE TABLE c (p_id int REFERENCES p)");
    let before = f.table("p").descriptor.storage;
    assert_eq!(f.error("TRUNCATE p").kind, PlanErrorKind::Unsupported);
    f.ok("TRUNCATE TABLE p, c RESTART IDENTITY");
    assert_ne!(f.table("p").descriptor.storage, before);
    f.ok("TRUNCATE p CASCADE");
    assert_eq!(f.notices, ["truncate cascades to table \"c\""]);
}

#[test]
fn sequences_schemas_roles_and_comments() {
    let mut f = Fixture::new();
    f.ok("CREATE SEQUENCE s CACHE 5 START WITH 10 NO CYCLE INCREMENT BY 2 MAXVALUE 100");
    f.ok("ALTER SEQUENCE s RESTART 20 CYCLE");
    f.ok("ALTER SEQUENCE s RENAME TO s2");
    let oid = f.catalog.names[&(PUBLIC, "s2".to_owned())];
    let sequence = f.catalog.sequences[&oid].clone();
    assert_eq!((sequence.spec.start, sequence.spec.increment, sequence.cache), (10, 2, 5));
    assert!(sequence.spec.cycle);
    f.ok("CREATE SCHEMA app");
    f.ok("CREATE TABLE app.t (a int)");
    assert_eq!(f.error("DROP SCHEMA app").kind, PlanErrorKind::DependentObjects);
    f.ok("COMMENT ON COLUMN app.t.a IS 'the a'");
    assert_eq!(f.catalog.comments.len(), 1);
    f.ok("ALTER SCHEMA app RENAME TO app2");
    f.ok("DROP SCHEMA app2 CASCADE");
    assert!(f.catalog.comments.is_empty());
    f.ok("CREATE USER bob PASSWORD 'secret'");
    let role = f.catalog.role_by_name("bob").expect("made");
    assert!(role.can_login && role.password.as_deref() == Some("SCRAM-SHA-256$secret"));
    assert_eq!(f.error("ALTER ROLE bob NOSUPERUSER").kind, PlanErrorKind::Unsupported);
    f.ok("GRANT SELECT ON ALL TABLES IN SCHEMA public TO bob");
    f.ok("DROP ROLE IF EXISTS bob, eve");
    assert_eq!(f.error("CREATE EXTENSION vector").kind, PlanErrorKind::Unsupported);
}
