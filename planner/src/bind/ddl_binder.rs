//! Expressions and queries inside schema changes: DEFAULT, CHECK, the query of a view.

use std::{collections::HashSet, ops::ControlFlow, sync::Arc};

use cortex_functions::scalar::DEPTH_MAX;
use cortex_shard_api::{Oid, ScalarExpr, TypeMod, value::ValueSettings};
use sqlparser::ast::{
    Expr, Ident, ObjectName, ObjectNamePart, Query, Visit, Visitor, visit_relations_mut,
};

use super::{
    Binder, Clause, Scope, TypedExpr,
    ddl::plan::{BoundQuery, DdlBinder},
    types::Target,
    write::split_name,
};
use crate::{
    PlanError,
    catalog::{Namespace, Relation, Table},
};

/// Binds what schema changes contain.
#[derive(Debug)]
pub struct StatementBinder<'a> {
    pub settings: &'a ValueSettings,
}

impl DdlBinder for StatementBinder<'_> {
    fn default(
        &self,
        namespace: &Namespace,
        column: &str,
        ty: TypeMod,
        expr: &Expr,
    ) -> Result<ScalarExpr, PlanError> {
        let mut binder = Binder::new(namespace, self.settings, "".into(), Vec::new());
        let target = Target { column, ty };
        let bound = binder.bind_assignment(expr, &Scope::empty(), Clause::Default, target)?;
        scalar(&binder, bound, "DEFAULT expression")
    }

    fn check(
        &self,
        namespace: &Namespace,
        table: &Table,
        expr: &Expr,
    ) -> Result<ScalarExpr, PlanError> {
        let mut binder = Binder::new(namespace, self.settings, "".into(), Vec::new());
        let scope = Scope::of_table(&Arc::new(table.clone()), None);
        let bound = binder.bind_predicate(expr, &scope, Clause::Check)?;
        scalar(&binder, bound, "check constraint")
    }

    fn conversion(
        &self,
        namespace: &Namespace,
        table: &Table,
        column: &str,
        ty: TypeMod,
        expr: &Expr,
    ) -> Result<ScalarExpr, PlanError> {
        let mut binder = Binder::new(namespace, self.settings, "".into(), Vec::new());
        let scope = Scope::of_table(&Arc::new(table.clone()), None);
        let target = Target { column, ty };
        let bound = binder.bind_assignment(expr, &scope, Clause::Update, target)?;
        scalar(&binder, bound, "transform expression")
    }

    fn query(&self, namespace: &Namespace, query: &Query) -> Result<BoundQuery, PlanError> {
        let sql: Arc<str> = query.to_string().into();
        let mut binder = Binder::new(namespace, self.settings, sql, Vec::new());
        let bound = binder.bind_query(query)?;
        if !binder.parameters.is_empty() {
            return Err(PlanError::new(
                crate::PlanErrorKind::UndefinedParameter,
                "views cannot have parameters",
            ));
        }
        let columns = bound.columns.into_iter().map(|column| (column.name, column.ty)).collect();
        let (sql, relations) = qualified(namespace, query);
        Ok(BoundQuery { columns, relations, sql })
    }
}

/// What can be evaluated over one row.
fn scalar(binder: &Binder<'_>, expr: TypedExpr, clause: &str) -> Result<ScalarExpr, PlanError> {
    if !binder.parameters.is_empty() {
        return Err(PlanError::new(
            crate::PlanErrorKind::UndefinedParameter,
            format!("{clause}s cannot have parameters"),
        ));
    }
    expr.to_scalar().ok_or_else(|| {
        PlanError::new(
            crate::PlanErrorKind::Unsupported,
            format!("cannot use subquery in {clause}"),
        )
        .with_hint(format!(
            "Expressions over the row nest at most {DEPTH_MAX} deep and have no queries."
        ))
    })
}

/// The query's text with every relation qualified, so that a later search path means the same, and what it reads.
fn qualified(namespace: &Namespace, query: &Query) -> (String, Vec<Oid>) {
    let mut names = WithNames::default();
    let _ = query.visit(&mut names);
    let mut query = query.clone();
    let mut relations = Vec::new();
    let _ = visit_relations_mut(&mut query, |name: &mut ObjectName| {
        if let Ok((schema, relation)) = split_name(name)
            && !(schema.is_none() && names.0.contains(&relation))
            && let Some(found) = namespace.relation(schema.as_deref(), &relation)
        {
            let (oid, schema) = place(namespace, &found);
            relations.extend(oid);
            if let Some(schema) = schema {
                let part = |text: &str| ObjectNamePart::Identifier(Ident::with_quote('"', text));
                *name = ObjectName(vec![part(&schema), part(&relation)]);
            }
        }
        ControlFlow::<()>::Continue(())
    });
    relations.sort_unstable();
    relations.dedup();
    (query.to_string(), relations)
}

/// OID and schema of a relation; system relations have no dependencies worth keeping.
fn place(namespace: &Namespace, relation: &Relation) -> (Option<Oid>, Option<String>) {
    let schema = |oid: Oid| namespace.catalog.schemas.get(&oid).map(|schema| schema.name.clone());
    match relation {
        Relation::Table(table) => (Some(table.descriptor.oid), schema(table.schema)),
        Relation::View(view) => (Some(view.oid), schema(view.schema)),
        Relation::Sequence(sequence) => (Some(sequence.oid), schema(sequence.schema)),
        Relation::System(system) => (None, Some(system.schema.to_owned())),
    }
}

/// Names of WITH queries anywhere in a query: they hide relations of the same name.
#[derive(Default)]
struct WithNames(HashSet<String>);

impl Visitor for WithNames {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.0.insert(super::names::fold_ident(&cte.alias.name));
        }
        ControlFlow::Continue(())
    }
}
