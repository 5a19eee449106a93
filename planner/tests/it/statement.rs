//! SQL text to answers and plans, on shards in memory or on one table in memory.

use std::sync::Arc;

use cortex_planner::{
    CortexDialect,
    bind::Binder,
    catalog::{Catalog, Namespace, Schema, SystemRelation, SystemRelations},
    operators::provider,
};
use cortex_shard_api::{
    Datum, Oid, ShardId,
    value::{ValueSettings, arrow},
};
use datafusion::{
    arrow::{datatypes::SchemaRef, record_batch::RecordBatch},
    catalog::MemTable,
    common::tree_node::Transformed,
    datasource::{TableProvider, provider_as_source},
    error::Result,
    logical_expr::LogicalPlan,
    physical_plan::{ExecutionPlan, collect},
    prelude::SessionContext,
};
use sqlparser::{ast::Statement, parser::Parser};

use crate::cluster::{Cluster, Tables};

/// No pg_catalog here.
#[derive(Debug)]
struct NoSystem;

impl SystemRelations for NoSystem {
    fn relation(&self, _schema: &str, _name: &str) -> Option<Arc<SystemRelation>> {
        None
    }
}

/// A session, and the tables it knows.
pub struct Scope {
    pub session: SessionContext,
    namespace: Namespace,
    /// What to read instead of the shards, by schema.
    memory: Vec<(SchemaRef, Arc<dyn TableProvider>)>,
}

impl Scope {
    /// Reads the shards of a cluster.
    pub fn distributed(cluster: &Cluster, tables: &Tables) -> Scope {
        Scope { session: cluster.session(), namespace: namespace(tables), memory: vec![] }
    }

    /// Reads the same tables, each from one batch in memory, planned by DataFusion alone.
    pub fn in_memory(tables: &Tables) -> Scope {
        let state = cortex_planner::operators::session_state(
            cortex_planner::operators::session_config(8192, 1 << 30),
        );
        Scope {
            session: SessionContext::new_with_state(state),
            namespace: namespace(tables),
            memory: tables.iter().map(in_memory).collect(),
        }
    }

    /// The bound and optimized plan of a query.
    pub fn logical(&self, sql: &str) -> LogicalPlan {
        let statements = Parser::parse_sql(&CortexDialect, sql).expect(sql);
        let Some(Statement::Query(query)) = statements.into_iter().next() else {
            panic!("{sql} is not a query");
        };
        let settings = ValueSettings::default();
        let mut binder = Binder::new(&self.namespace, &settings, sql.into(), vec![]);
        let bound = binder.bind_query(&query).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let plan = bound.plan.transform_up_with_subqueries(|plan| Ok(self.replaced(plan)));
        plan.expect("a plan").data
    }

    fn replaced(&self, mut plan: LogicalPlan) -> Transformed<LogicalPlan> {
        if let LogicalPlan::TableScan(scan) = &mut plan {
            let schema = scan.source.schema();
            let table = self.memory.iter().find(|(known, _)| *known == schema);
            if let Some((_, table)) = table {
                scan.source = provider_as_source(table.clone());
                return Transformed::yes(plan);
            }
        }
        Transformed::no(plan)
    }

    /// The plan that runs.
    pub async fn physical(&self, sql: &str) -> Result<Arc<dyn ExecutionPlan>> {
        self.session.state().create_physical_plan(&self.logical(sql)).await
    }

    /// The answer.
    pub async fn run(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        collect(self.physical(sql).await?, self.session.task_ctx()).await
    }
}

fn namespace(tables: &Tables) -> Namespace {
    let mut catalog = Catalog::default();
    let (oid, owner) = (Oid(2200), Oid(10));
    let public = Schema { oid, name: "public".to_owned(), owner, home: ShardId(1) };
    catalog.schemas.insert(oid, Arc::new(public));
    for (table, _) in tables {
        catalog.names.insert((oid, table.descriptor.name.clone()), table.descriptor.oid);
        catalog.tables.insert(table.descriptor.oid, table.clone());
    }
    let search_path = vec!["public".to_owned()];
    Namespace { catalog: Arc::new(catalog), search_path, system: Arc::new(NoSystem) }
}

fn in_memory(
    (table, rows): &(Arc<cortex_planner::catalog::Table>, Vec<Vec<Datum>>),
) -> (SchemaRef, Arc<dyn TableProvider>) {
    let schema = provider(table, false).schema();
    let columns = table.descriptor.columns.iter().enumerate().map(|(position, column)| {
        let values: Vec<Datum> = rows.iter().map(|row| row[position].clone()).collect();
        arrow::array_from_datums(column.ty.ty, &values).expect("a column")
    });
    let batch = RecordBatch::try_new(schema.clone(), columns.collect()).expect("a batch");
    let memory = MemTable::try_new(schema.clone(), vec![vec![batch]]).expect("a table");
    (schema, Arc::new(memory))
}
