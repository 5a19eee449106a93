//! Names, types and parameters of statements; what we run ourselves (fast plans, DML).
//!
//! Lives here: from AST to typed statements. SELECT continues in `lower`; INSERT, UPDATE and DELETE become `BoundWrite`;
//! the simplest forms become a `FastPlan` that never sees DataFusion.

use std::sync::Arc;

use cortex_shard_api::{SqlType, TypeMod, value::ValueSettings};

use crate::catalog::Namespace;

/// Statements that change the catalog.
pub mod ddl;

/// One column of a statement's answer.
#[derive(Clone, Debug)]
pub struct OutputColumn {
    pub name: String,
    pub ty: TypeMod,
    /// Table OID and attribute number where the column comes straight from a table; (0, 0) otherwise.
    pub source: (u32, i16),
}

/// What binding a statement needs and collects.
#[derive(Debug)]
pub struct Binder<'a> {
    pub namespace: &'a Namespace,
    pub settings: &'a ValueSettings,
    /// Types of `$1`...: given by the client, or found from context while binding. `None`: not known yet.
    pub parameters: Vec<Option<SqlType>>,
    /// The statement's text, for positions in errors.
    pub sql: Arc<str>,
}
