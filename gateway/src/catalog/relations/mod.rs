//! System relations: pg_catalog, information_schema and cortex, computed from one version of the catalog.
//!
//! `facts` says which there are and what columns they have; each has a function here that makes its rows, or none and is
//! empty. Rows are made when a scan begins; those that depend on the catalog alone are kept with its version.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use arrow::{
    datatypes::{Schema, SchemaRef},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use cortex_planner::catalog::{Catalog, SystemRelation, SystemRelations};
use cortex_shard_api::{ValueError, value::arrow::field};
use datafusion::{
    catalog::{Session, TableProvider, memory::MemorySourceConfig},
    error::{DataFusionError, Result},
    logical_expr::{Expr, TableType},
    physical_plan::ExecutionPlan,
};
use parking_lot::Mutex;

use self::{facts::RelationFacts, rows::Rows};
use super::{administration, session_info::SessionInfo};

/// Which relations there are.
pub mod facts;

/// Making rows.
mod rows;

/// pg_class, pg_attribute, pg_index and their like.
mod classes;

/// pg_constraint.
mod constraints;

/// pg_depend, pg_description.
mod dependencies;

/// Types, functions, operators and other objects that do not change.
mod builtins;

/// Schemas, roles, the database.
mod globals;

/// pg_tables, pg_views, pg_indexes, pg_sequences.
mod views;

/// pg_settings, pg_stat_activity, pg_locks.
mod sessions;

/// information_schema.
mod information_schema;

/// cortex: which shard holds what, as the catalog says.
mod placement;

/// cortex: members and what they hold.
mod cluster;

pub use builtins::support_functions;

/// What a function that makes rows may see.
pub struct Source<'a> {
    pub catalog: &'a Catalog,
    pub session: &'a dyn SessionInfo,
}

/// Makes the rows of a relation.
type Fill = fn(&Source<'_>, &mut Rows) -> std::result::Result<(), ValueError>;

/// How a relation's rows are made.
#[derive(Clone, Copy)]
enum Content {
    /// From the catalog version alone: kept with it.
    Catalog(Fill),
    /// From the session, or from what changes without a new version.
    Session(Fill),
    /// Counted on the shards.
    Shards,
    Placements,
    /// Asked of the meta process.
    Gateways,
    /// Read from the shards that count.
    Sequences,
    /// Nothing of the kind exists here.
    Empty,
}

static CONTENTS: LazyLock<HashMap<(&'static str, &'static str), Content>> = LazyLock::new(|| {
    let mut contents = HashMap::new();
    let lists: [(&str, &[(&str, Fill)]); 8] = [
        ("pg_catalog", classes::RELATIONS),
        ("pg_catalog", constraints::RELATIONS),
        ("pg_catalog", dependencies::RELATIONS),
        ("pg_catalog", builtins::RELATIONS),
        ("pg_catalog", globals::RELATIONS),
        ("pg_catalog", views::RELATIONS),
        ("information_schema", information_schema::RELATIONS),
        ("cortex", placement::RELATIONS),
    ];
    for (schema, list) in lists {
        for (name, fill) in list {
            contents.insert((schema, *name), Content::Catalog(*fill));
        }
    }
    for (name, fill) in sessions::RELATIONS {
        contents.insert(("pg_catalog", *name), Content::Session(*fill));
    }
    for (name, fill) in placement::LIVE_RELATIONS {
        contents.insert(("cortex", *name), Content::Session(*fill));
    }
    contents.insert(("cortex", "shards"), Content::Shards);
    contents.insert(("cortex", "placements"), Content::Placements);
    contents.insert(("cortex", "gateways"), Content::Gateways);
    contents.insert(("pg_catalog", "pg_sequences"), Content::Sequences);
    contents
});

/// The system relations over one version of the catalog, as one session sees them.
#[derive(Debug)]
pub struct SystemCatalog {
    catalog: Arc<Catalog>,
    session: Arc<dyn SessionInfo>,
    made: Arc<MadeRows>,
}

/// Batches made of a catalog version, by relation.
#[derive(Debug, Default)]
pub struct MadeRows(Mutex<HashMap<(&'static str, &'static str), RecordBatch>>);

impl SystemCatalog {
    /// `made` may be shared by everyone who has the same version (the same `Arc`).
    pub fn new(
        catalog: Arc<Catalog>,
        session: Arc<dyn SessionInfo>,
        made: Arc<MadeRows>,
    ) -> SystemCatalog {
        SystemCatalog { catalog, session, made }
    }
}

impl SystemRelations for SystemCatalog {
    fn is_administration(&self, schema: &str, name: &str) -> bool {
        administration::by_name(schema, name).is_some()
    }

    fn relation(&self, schema: &str, name: &str) -> Option<Arc<SystemRelation>> {
        let facts = facts::relation(schema, name)?;
        Some(Arc::new(SystemRelation {
            oid: facts.oid,
            schema: facts.schema,
            name: facts.name,
            columns: facts.columns.iter().map(|column| (column.name, column.ty)).collect(),
            always_empty: !CONTENTS.contains_key(&(facts.schema, facts.name)),
            provider: Arc::new(SystemTable {
                facts,
                schema: schema_of(facts),
                catalog: self.catalog.clone(),
                session: self.session.clone(),
                made: self.made.clone(),
            }),
        }))
    }
}

fn schema_of(facts: &RelationFacts) -> SchemaRef {
    // Outer joins and views make NULLs of anything, so no column promises not to be NULL.
    let fields: Vec<_> =
        facts.columns.iter().map(|column| field(column.name, column.ty, true)).collect();
    Arc::new(Schema::new(fields))
}

/// One system relation for a plan.
#[derive(Debug)]
struct SystemTable {
    facts: &'static RelationFacts,
    schema: SchemaRef,
    catalog: Arc<Catalog>,
    session: Arc<dyn SessionInfo>,
    made: Arc<MadeRows>,
}

impl SystemTable {
    async fn batch(&self) -> std::result::Result<RecordBatch, ValueError> {
        let key = (self.facts.schema, self.facts.name);
        let content = CONTENTS.get(&key).copied().unwrap_or(Content::Empty);
        let mut rows = Rows::new(self.facts);
        let source = Source { catalog: &self.catalog, session: &*self.session };
        match content {
            Content::Empty => {}
            Content::Shards => {
                cluster::shards(&self.catalog, self.session.store(), &mut rows).await?;
            }
            Content::Placements => {
                cluster::placements(&self.catalog, self.session.store(), &mut rows).await?;
            }
            Content::Gateways => cluster::gateways(self.session.store(), &mut rows).await?,
            Content::Sequences => {
                placement::sequences(&self.catalog, self.session.store(), &mut rows).await?;
            }
            Content::Session(fill) => fill(&source, &mut rows)?,
            Content::Catalog(fill) => {
                if let Some(batch) = self.made.0.lock().get(&key) {
                    return Ok(batch.clone());
                }
                fill(&source, &mut rows)?;
                let batch = rows.finish(self.schema.clone())?;
                self.made.0.lock().insert(key, batch.clone());
                return Ok(batch);
            }
        }
        rows.finish(self.schema.clone())
    }
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batch =
            self.batch().await.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let exec = MemorySourceConfig::try_new_exec(
            &[vec![batch]],
            self.schema.clone(),
            projection.cloned(),
        )?;
        Ok(exec)
    }
}
