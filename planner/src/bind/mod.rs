//! Names, types and parameters of statements; what we run ourselves (fast plans, DML).
//!
//! Lives here: from AST to typed statements. SELECT continues in `lower`; INSERT, UPDATE and DELETE become `BoundWrite`;
//! the simplest forms become a `FastPlan` that never sees DataFusion.
//!
//! Entry points for everyone: `Binder::new`, `Scope::of_table`, `Binder::bind_expr`, `Binder::bind_predicate`,
//! `Binder::bind_assignment`, `TypedExpr::to_scalar`, `Binder::bind_query`, `Binder::bind_target_query`.

use std::{collections::HashSet, sync::Arc};

use cortex_shard_api::{SqlType, TypeMod, value::ValueSettings};

use crate::{PlanError, PlanErrorKind, catalog::Namespace};

/// Typed expressions.
pub mod typed;

/// Which names an expression may use, and what they mean.
pub mod names;

/// Types by name, literals, coercions.
pub mod types;

/// `$1` and its type.
pub mod parameters;

/// Expressions: from AST to typed.
pub mod expr;

/// Operators, comparisons, LIKE, IN, BETWEEN.
mod operators;

/// Calls of functions, aggregates and window functions.
mod calls;

pub(crate) use calls::{check_orderable, stands_alone};

/// Characters of the statement that an error points to.
mod position;

pub use names::{Clause, Scope};
pub use typed::TypedExpr;

/// Expression nodes of one statement at the most: 20,000 terms of a few nodes each fit; more would only exhaust memory.
const NODES_MAX: usize = 400_000;

/// Nesting of expressions and queries at the most. Flat AND and OR chains do not nest.
const DEPTH_MAX: usize = 800;

/// Stack that must be left before binding goes one level deeper, and what is added when it is not.
const STACK_RED_ZONE: usize = 256 * 1024;
const STACK_SEGMENT: usize = 4 * 1024 * 1024;

/// INSERT, UPDATE, DELETE.
pub mod write;

/// SELECT by primary key.
pub mod fast;

/// Statements that change the catalog.
pub mod ddl;

/// Expressions and queries inside schema changes.
pub mod ddl_binder;

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
    /// Scopes of the queries around the one being bound, outermost first.
    pub(crate) outer: Vec<Arc<Scope>>,
    /// For each query around: the columns of it that inner queries used.
    pub(crate) outer_used: Vec<Vec<typed::OuterColumn>>,
    /// WITH queries in sight, innermost last.
    pub(crate) ctes: Vec<crate::lower::with::Cte>,
    /// Qualifiers given to relations in the plan: each is unique.
    pub(crate) qualifiers: HashSet<String>,
    pub(crate) instances: usize,
    nodes: usize,
    depth: usize,
    pub(crate) view_depth: usize,
}

impl<'a> Binder<'a> {
    /// A binder for one statement; `parameters` are the types the client gave.
    pub fn new(
        namespace: &'a Namespace,
        settings: &'a ValueSettings,
        sql: Arc<str>,
        parameters: Vec<Option<SqlType>>,
    ) -> Binder<'a> {
        Binder {
            namespace,
            settings,
            parameters,
            sql,
            outer: Vec::new(),
            outer_used: Vec::new(),
            ctes: Vec::new(),
            qualifiers: HashSet::new(),
            instances: 0,
            nodes: 0,
            depth: 0,
            view_depth: 0,
        }
    }

    /// Runs `work` one level deeper, with enough stack, within the bounds of nesting and size.
    pub(crate) fn deeper<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, PlanError>,
    ) -> Result<T, PlanError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(PlanError::new(
                PlanErrorKind::TooComplex,
                format!("statement has more than {NODES_MAX} expression nodes"),
            ));
        }
        if self.depth >= DEPTH_MAX {
            return Err(PlanError::new(PlanErrorKind::TooComplex, "stack depth limit exceeded")
                .with_hint(format!("Expressions may nest {DEPTH_MAX} levels deep.")));
        }
        self.depth += 1;
        let result = stacker::maybe_grow(STACK_RED_ZONE, STACK_SEGMENT, || work(self));
        self.depth -= 1;
        result
    }

    /// A number for a new relation instance.
    pub(crate) fn next_instance(&mut self) -> usize {
        self.instances += 1;
        self.instances
    }

    /// A column name that no column of any relation has: DataFusion finds such columns without a qualifier.
    pub(crate) fn fresh(&mut self, name: &str) -> String {
        format!("{name}#{}", self.next_instance())
    }

    /// A qualifier for the plan that no other relation of the statement has, as near to `name` as possible.
    pub(crate) fn qualifier(&mut self, name: &str) -> String {
        let mut candidate = name.to_owned();
        let mut count = 1;
        while !self.qualifiers.insert(candidate.clone()) {
            count += 1;
            candidate = format!("{name}_{count}");
        }
        candidate
    }
}
