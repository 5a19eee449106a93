//! WITH queries.
//!
//! A WITH query is planned once and stands in the plan wherever it is named. A recursive one is DataFusion's `RecursiveQuery`
//! over a work table.

use std::sync::Arc;

use cortex_shard_api::value::arrow::field;
use datafusion::{
    catalog::cte_worktable::CteWorkTable,
    common::metadata::FieldMetadata,
    datasource::provider_as_source,
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
};
use sqlparser::ast::{Ident, Query, SetExpr, SetOperator, SetQuantifier, With};

use super::{PlanColumn, Relational, engine_error, from::plan_alias, project};
use crate::{
    PlanError, PlanErrorKind,
    bind::{Binder, names::fold_ident},
};

/// A WITH query in sight.
#[derive(Clone, Debug)]
pub struct Cte {
    pub(crate) name: String,
    pub(crate) relational: Arc<Relational>,
    /// How many queries stood around it: what it refers to outside must be there where it is used.
    pub(crate) depth: usize,
}

impl Binder<'_> {
    /// Plans the WITH queries and brings them in sight; the caller takes them out again.
    pub(crate) fn bind_with(&mut self, with: &With) -> Result<(), PlanError> {
        let first = self.ctes.len();
        for cte in &with.cte_tables {
            let name = fold_ident(&cte.alias.name);
            if self.ctes[first..].iter().any(|other| other.name == name) {
                return Err(PlanError::new(
                    PlanErrorKind::DuplicateAlias,
                    format!("WITH query name \"{name}\" specified more than once"),
                )
                .at(self.position(cte.alias.name.span)));
            }
            let names: Vec<&Ident> = cte.alias.columns.iter().map(|column| &column.name).collect();
            let recursive = if with.recursive { recursive_parts(&cte.query, &name) } else { None };
            let relational = match recursive {
                Some((left, right, all)) => {
                    self.bind_recursive(&name, left, right, all, &names, &cte.query)?
                }
                None => {
                    let bound = self.bind_subselect(&cte.query)?;
                    self.rename(bound, &names, &name)?
                }
            };
            let depth = self.outer.len();
            self.ctes.push(Cte { name, relational: Arc::new(relational), depth });
        }
        Ok(())
    }

    fn rename(
        &self,
        mut relational: Relational,
        names: &[&Ident],
        relation: &str,
    ) -> Result<Relational, PlanError> {
        if names.len() > relational.columns.len() {
            return Err(PlanError::new(
                PlanErrorKind::InvalidColumnReference,
                format!(
                    "WITH query \"{relation}\" has {} columns available but {} columns specified",
                    relational.columns.len(),
                    names.len()
                ),
            )
            .at(names.first().and_then(|ident| self.position(ident.span))));
        }
        for (column, name) in relational.columns.iter_mut().zip(names) {
            column.name = fold_ident(name);
        }
        Ok(relational)
    }

    fn bind_recursive(
        &mut self,
        name: &str,
        left: &SetExpr,
        right: &SetExpr,
        all: bool,
        names: &[&Ident],
        query: &Query,
    ) -> Result<Relational, PlanError> {
        if query.order_by.is_some() || query.limit_clause.is_some() || query.fetch.is_some() {
            return Err(PlanError::unsupported(
                "ORDER BY and LIMIT in a recursive query are not implemented",
                "Put them into the query that reads it.",
            ));
        }
        if query.with.is_some() {
            return Err(PlanError::unsupported(
                "WITH inside a recursive WITH query is not supported",
                "Move it in front of the recursive query.",
            ));
        }
        let start = self.bind_body_finished(left)?;
        let mut start = self.rename(start, names, name)?;
        start.plan = typed_columns(start.plan, None, &start.columns)?;
        for (column, plan) in start.columns.iter_mut().zip(start.plan.schema().columns()) {
            column.column = plan;
        }
        let table_name = self.qualifier(name);
        // A row of a later step may hold NULL where the first rows do not.
        let fields: Vec<_> = start
            .plan
            .schema()
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        let work_table = CteWorkTable::new(&table_name, schema);
        let scan = LogicalPlanBuilder::scan(
            datafusion::common::TableReference::bare(table_name.clone()),
            provider_as_source(Arc::new(work_table)),
            None,
        )
        .and_then(|builder| builder.build())
        .map_err(engine_error)?;
        let columns: Vec<PlanColumn> = start
            .columns
            .iter()
            .zip(scan.schema().columns())
            .map(|(column, plan)| PlanColumn { column: plan, source: (0, 0), ..column.clone() })
            .collect();
        let depth = self.outer.len();
        let own = Relational { plan: scan, columns };
        self.ctes.push(Cte { name: name.to_owned(), relational: Arc::new(own), depth });
        let step = self.bind_body_finished(right);
        self.ctes.pop();
        let step = step?;
        if step.columns.len() != start.columns.len() {
            return Err(PlanError::new(
                PlanErrorKind::Syntax,
                "each UNION query must have the same number of columns",
            ));
        }
        for (index, (start, step)) in start.columns.iter().zip(&step.columns).enumerate() {
            if start.ty.ty != step.ty.ty {
                return Err(PlanError::new(
                    PlanErrorKind::DatatypeMismatch,
                    format!(
                        "recursive query \"{name}\" column {} has type {} in non-recursive term but type {} overall",
                        index + 1,
                        start.ty.ty.sql_name(),
                        step.ty.ty.sql_name()
                    ),
                )
                .with_hint("Cast the output of the non-recursive term to the correct type."));
            }
        }
        let step_plan = typed_columns(step.plan, Some(&start.plan), &start.columns)?;
        let start_columns = start.columns;
        let plan = LogicalPlanBuilder::from(start.plan)
            .to_recursive_query(table_name, step_plan, !all)
            .and_then(|builder| builder.build())
            .map_err(engine_error)?;
        let columns = start_columns
            .into_iter()
            .zip(plan.schema().columns())
            .map(|(column, plan)| PlanColumn { column: plan, source: (0, 0), ..column })
            .collect();
        Ok(Relational { plan, columns })
    }

    /// A WITH query by name, if it is in sight.
    pub(super) fn find_cte(&self, name: &str) -> Option<Cte> {
        self.ctes.iter().rev().find(|cte| cte.name == name).cloned()
    }

    /// A relation over a WITH query, under a new qualifier.
    pub(super) fn cte_plan(&mut self, cte: &Cte, alias: &str) -> Result<Relational, PlanError> {
        if cte.depth != self.outer.len() && plan_is_correlated(&cte.relational.plan) {
            return Err(PlanError::unsupported(
                format!(
                    "WITH query \"{}\" refers to another query than the one that uses it",
                    cte.name
                ),
                "Write it as a subquery where it is used.",
            ));
        }
        plan_alias(self, cte.relational.as_ref().clone(), alias)
    }
}

fn plan_is_correlated(plan: &LogicalPlan) -> bool {
    !plan.all_out_ref_exprs().is_empty()
}

/// A term's columns under the names of the start's, and marked with their types: DataFusion wants the fields of both terms to be
/// equal, and computed columns have no mark.
fn typed_columns(
    term: LogicalPlan,
    start: Option<&LogicalPlan>,
    columns: &[PlanColumn],
) -> Result<LogicalPlan, PlanError> {
    let names = start.unwrap_or(&term).schema().columns();
    let exprs: Vec<_> = term
        .schema()
        .columns()
        .into_iter()
        .zip(names)
        .zip(columns)
        .map(|((from, to), column)| {
            let field = field(&to.name, column.ty, true);
            let mark = FieldMetadata::from(&field);
            datafusion::logical_expr::Expr::Column(from).alias_with_metadata(to.name, Some(mark))
        })
        .collect();
    project(term, exprs)
}

/// `start UNION [ALL] step` where the step names the query itself.
fn recursive_parts<'q>(query: &'q Query, name: &str) -> Option<(&'q SetExpr, &'q SetExpr, bool)> {
    let SetExpr::SetOperation { left, op: SetOperator::Union, set_quantifier, right } =
        &*query.body
    else {
        return None;
    };
    let all = *set_quantifier == SetQuantifier::All;
    names_relation(right, name).then_some((left, right, all))
}

/// Whether a query body reads a relation of this name: the recursive reference.
fn names_relation(body: &SetExpr, name: &str) -> bool {
    let mut found = false;
    let _ = sqlparser::ast::visit_relations(body, |relation| {
        if let [part] = relation.0.as_slice()
            && part.as_ident().is_some_and(|ident| fold_ident(ident) == name)
        {
            found = true;
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    found
}
