//! INSERT, UPDATE and DELETE, bound: which table, which values, which rows.
//!
//! Lives here: from the AST to `BoundWrite`. What can be found and computed by primary key alone becomes the `…ByKey` form, which
//! the shard executes under the row's lock without DataFusion; everything else reads its rows through a bound query with the
//! hidden identity columns. Not here: sending it to shards (`gateway::exec::write`), constraints (the shard).

mod insert;
pub mod overriding;
mod returning;
mod target;
mod update;

use std::sync::Arc;

use cortex_shard_api::{ScalarExpr, client::Arbiter};
use sqlparser::ast::{Query, SetExpr, Statement};

pub(crate) use self::target::split_name;
pub use self::{insert::column_default, target::key_of};
use super::{Binder, OutputColumn};
use crate::{PlanError, PlanErrorKind, catalog::Table, lower::BoundQuery};

/// Whether a query is a write behind WITH: the parser has both in one form.
pub fn is_write(query: &Query) -> bool {
    matches!(&*query.body, SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_))
}

impl Binder<'_> {
    /// INSERT, UPDATE or DELETE. `by_key`: the forms without DataFusion may be taken.
    pub fn bind_write(
        &mut self,
        statement: &Statement,
        by_key: bool,
    ) -> Result<BoundWrite, PlanError> {
        match statement {
            Statement::Insert(insert) => Ok(BoundWrite::Insert(self.bind_insert(insert)?)),
            Statement::Update(update) => self.bind_update(update, by_key),
            Statement::Delete(delete) => self.bind_delete(delete, by_key),
            _ => Err(PlanError::new(PlanErrorKind::Internal, "not a statement that writes")),
        }
    }

    /// A write with WITH queries in front of it: they are in sight of everything in it.
    pub fn bind_with_write(
        &mut self,
        query: &Query,
        by_key: bool,
    ) -> Result<BoundWrite, PlanError> {
        let (SetExpr::Insert(write) | SetExpr::Update(write) | SetExpr::Delete(write)) =
            &*query.body
        else {
            return Err(PlanError::new(PlanErrorKind::Internal, "not a statement that writes"));
        };
        if let Some(with) = &query.with {
            self.bind_with(with)?;
        }
        let bound = self.bind_write(write, by_key);
        self.ctes.clear();
        bound
    }
}

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

    /// The query that finds the rows, or gives them; `None` for what is computed by key or from values.
    pub fn query(&self) -> Option<&BoundQuery> {
        match self {
            BoundWrite::Insert(it) => match &it.source {
                InsertSource::Query { query, .. } => Some(query),
                InsertSource::Values(_) => None,
            },
            BoundWrite::Update(it) => Some(&it.query),
            BoundWrite::Delete(it) => Some(&it.query),
            BoundWrite::UpdateByKey(_) | BoundWrite::DeleteByKey(_) => None,
        }
    }

    /// The form without the query, if there is one.
    pub fn direct(&self) -> Option<&Direct> {
        match self {
            BoundWrite::Update(it) => it.direct.as_ref(),
            BoundWrite::Delete(it) => it.direct.as_ref(),
            BoundWrite::Insert(_) | BoundWrite::UpdateByKey(_) | BoundWrite::DeleteByKey(_) => None,
        }
    }
}

/// RETURNING: expressions over the table's row and, behind its columns, what the write's query computes for them of the
/// tables joined with it (`joined` columns after those that the write itself needs).
#[derive(Clone, Debug)]
pub struct Returning {
    pub exprs: Vec<ScalarExpr>,
    pub joined: usize,
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

/// An UPDATE or DELETE of one table whose rows are chosen and computed by scalar expressions alone: where few rows come
/// into question (by an index, by a part of the primary key) they are read and written without its query.
#[derive(Clone, Debug)]
pub struct Direct {
    /// Over the row; `None` is every row.
    pub predicate: Option<ScalarExpr>,
    /// Over the row; empty for DELETE.
    pub assignments: Vec<(usize, ScalarExpr)>,
}

#[derive(Clone, Debug)]
pub struct BoundUpdate {
    pub table: Arc<Table>,
    /// Positions of assigned columns.
    pub assigned: Vec<usize>,
    /// Yields row key, version, then the new value of each live column in order.
    pub query: Box<BoundQuery>,
    pub direct: Option<Direct>,
    pub returning: Option<Returning>,
}

#[derive(Clone, Debug)]
pub struct BoundDelete {
    pub table: Arc<Table>,
    /// Yields row key and version.
    pub query: Box<BoundQuery>,
    pub direct: Option<Direct>,
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
