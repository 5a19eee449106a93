//! INSERT, UPDATE and DELETE, bound: which table, which values, which rows.
//!
//! Lives here: from the AST to `BoundWrite`. What can be found and computed by primary key alone becomes the `…ByKey` form, which
//! the shard executes under the row's lock without DataFusion; everything else reads its rows through a bound query with the
//! hidden identity columns. Not here: sending it to shards (`gateway::exec::write`), constraints (the shard).

mod insert;
mod returning;
mod target;
mod update;

use std::sync::Arc;

use cortex_shard_api::{ScalarExpr, client::Arbiter};

pub(crate) use self::target::split_name;
pub use self::{insert::column_default, target::key_of};
use super::OutputColumn;
use crate::{catalog::Table, lower::BoundQuery};

/// A statement that writes rows of one table.
#[derive(Clone, Debug)]
pub enum BoundWrite {
    Insert(BoundInsert),
    Update(BoundUpdate),
    Delete(BoundDelete),
    UpdateByKey(BoundUpdateByKey),
    DeleteByKey(BoundDeleteByKey),
}

impl BoundWrite {
    pub fn table(&self) -> &Arc<Table> {
        match self {
            BoundWrite::Insert(it) => &it.table,
            BoundWrite::Update(it) => &it.table,
            BoundWrite::Delete(it) => &it.table,
            BoundWrite::UpdateByKey(it) => &it.table,
            BoundWrite::DeleteByKey(it) => &it.table,
        }
    }

    pub fn returning(&self) -> Option<&Returning> {
        match self {
            BoundWrite::Insert(it) => it.returning.as_ref(),
            BoundWrite::Update(it) => it.returning.as_ref(),
            BoundWrite::Delete(it) => it.returning.as_ref(),
            BoundWrite::UpdateByKey(it) => it.returning.as_ref(),
            BoundWrite::DeleteByKey(it) => it.returning.as_ref(),
        }
    }
}

/// RETURNING: expressions over the table's row.
#[derive(Clone, Debug)]
pub struct Returning {
    pub exprs: Vec<ScalarExpr>,
    pub columns: Arc<[OutputColumn]>,
}

#[derive(Clone, Debug)]
pub struct BoundInsert {
    pub table: Arc<Table>,
    pub source: InsertSource,
    pub on_conflict: BoundConflict,
    pub returning: Option<Returning>,
}

#[derive(Clone, Debug)]
pub enum InsertSource {
    /// Every column of every row by position (dropped ones NULL), over no input row.
    Values(Vec<Vec<ScalarExpr>>),
    /// Every column by position, over the query's row.
    Query { query: Box<BoundQuery>, row: Vec<ScalarExpr> },
}

#[derive(Clone, Debug)]
pub enum BoundConflict {
    Fail,
    DoNothing {
        arbiter: Option<Arbiter>,
    },
    /// Expressions over existing row ++ proposed row.
    DoUpdate {
        arbiter: Arbiter,
        assignments: Vec<(usize, ScalarExpr)>,
        predicate: Option<ScalarExpr>,
    },
}

#[derive(Clone, Debug)]
pub struct BoundUpdate {
    pub table: Arc<Table>,
    /// Positions of assigned columns.
    pub assigned: Vec<usize>,
    /// Yields row key, version, then the new value of each live column in order.
    pub query: Box<BoundQuery>,
    pub returning: Option<Returning>,
}

#[derive(Clone, Debug)]
pub struct BoundDelete {
    pub table: Arc<Table>,
    /// Yields row key and version.
    pub query: Box<BoundQuery>,
    pub returning: Option<Returning>,
}

#[derive(Clone, Debug)]
pub struct BoundUpdateByKey {
    pub table: Arc<Table>,
    /// Primary key values in key order, over no row.
    pub key: Vec<ScalarExpr>,
    /// What is left of WHERE, over the row.
    pub predicate: Option<ScalarExpr>,
    pub assignments: Vec<(usize, ScalarExpr)>,
    pub returning: Option<Returning>,
}

#[derive(Clone, Debug)]
pub struct BoundDeleteByKey {
    pub table: Arc<Table>,
    pub key: Vec<ScalarExpr>,
    pub predicate: Option<ScalarExpr>,
    pub returning: Option<Returning>,
}
