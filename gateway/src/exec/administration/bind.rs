//! From a statement to the call in it: `SELECT f(...)`, or `SELECT ... FROM f(...)`, with nothing else in FROM.

use std::sync::Arc;

use cortex_functions::registry::CastContext;
use cortex_planner::{
    PlanError, PlanErrorKind,
    bind::{Binder, Clause, Scope, names::fold_ident},
    catalog::{Namespace, SystemRelation, SystemRelations},
};
use cortex_shard_api::{Datum, ScalarExpr, TypeMod, value::text};
use sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, ObjectName,
    ObjectNamePart, Query, Select, SelectItem, SetExpr, TableAlias, TableFactor, TableWithJoins,
};

use super::result::ResultTable;
use crate::{
    catalog::administration::{self, DefaultValue, Function},
    exec::plan::QueryPlan,
};

/// A call bound: its arguments, and the statement as a query over its result.
#[derive(Debug)]
pub(crate) struct AdministrationPlan {
    pub function: &'static Function,
    /// One for each argument that the function has.
    pub arguments: Vec<ScalarExpr>,
    pub query: QueryPlan,
    pub result: Arc<ResultTable>,
}

/// A call that stands by itself in a statement.
pub(crate) struct Call<'q> {
    function: &'static Function,
    arguments: &'q [FunctionArg],
    query: &'q Query,
    /// The select list is the call: not FROM.
    in_select: bool,
}

impl<'q> Call<'q> {
    /// The call of a statement that is nothing else. In other places the binder refuses these functions by name.
    pub fn find(query: &'q Query) -> Option<Call<'q>> {
        let SetExpr::Select(select) = &*query.body else { return None };
        match (&select.from[..], &select.projection[..]) {
            (
                [],
                [
                    SelectItem::UnnamedExpr(Expr::Function(call))
                    | SelectItem::ExprWithAlias { expr: Expr::Function(call), .. },
                ],
            ) => {
                let function = function_of(&call.name)?;
                let FunctionArguments::List(list) = &call.args else { return None };
                let plain = list.duplicate_treatment.is_none()
                    && list.clauses.is_empty()
                    && call.over.is_none()
                    && call.filter.is_none()
                    && call.within_group.is_empty();
                let bare = select.selection.is_none()
                    && select.having.is_none()
                    && matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
                (plain && bare).then_some(Call {
                    function,
                    arguments: &list.args,
                    query,
                    in_select: true,
                })
            }
            ([TableWithJoins { relation, joins }], _) if joins.is_empty() => {
                let (name, arguments) = match relation {
                    TableFactor::Table {
                        name, args: Some(args), with_ordinality: false, ..
                    } => (name, &args.args[..]),
                    TableFactor::Function { name, args, with_ordinality: false, .. } => {
                        (name, &args[..])
                    }
                    _ => return None,
                };
                let function = function_of(name)?;
                Some(Call { function, arguments, query, in_select: false })
            }
            _ => None,
        }
    }

    /// The statement with the call's result in place of the call.
    fn over_result(&self) -> Result<Query, PlanError> {
        let name = self.function.name;
        let mut query = self.query.clone();
        let SetExpr::Select(select) = &mut *query.body else {
            return Err(PlanError::new(PlanErrorKind::Internal, "a call without its SELECT"));
        };
        if self.in_select {
            if self.function.returns_table {
                return Err(PlanError::unsupported(
                    format!("function {} returns a table", self.function.qualified_name()),
                    format!("Use SELECT * FROM {}(...).", self.function.qualified_name()),
                ));
            }
            select_column(select, name);
            select.from =
                vec![TableWithJoins { relation: result_relation(name, None), joins: vec![] }];
            return Ok(query);
        }
        if let [from] = &mut select.from[..] {
            let alias = match &from.relation {
                TableFactor::Table { alias, .. } | TableFactor::Function { alias, .. } => {
                    alias.clone()
                }
                _ => None,
            };
            from.relation = result_relation(name, alias);
        }
        Ok(query)
    }
}

fn function_of(name: &ObjectName) -> Option<&'static Function> {
    let mut parts = [const { String::new() }; 2];
    let (schema, name) = match &name.0[..] {
        [name] => {
            parts[1] = fold_ident(name.as_ident()?);
            // Without a schema only those are found that are in pg_catalog; cortex is in no search path.
            ("pg_catalog", &parts[1])
        }
        [schema, name] => {
            parts = [fold_ident(schema.as_ident()?), fold_ident(name.as_ident()?)];
            (parts[0].as_str(), &parts[1])
        }
        _ => return None,
    };
    administration::by_name(schema, name)
}

/// Puts the column of the result where the call was; its alias stays.
fn select_column(select: &mut Select, name: &str) {
    for item in &mut select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                *expr = Expr::Identifier(Ident::with_quote('"', name));
            }
            _ => {}
        }
    }
}

fn result_relation(name: &str, alias: Option<TableAlias>) -> TableFactor {
    let part = |name: &str| ObjectNamePart::Identifier(Ident::with_quote('"', name));
    TableFactor::Table {
        name: ObjectName(vec![part("cortex"), part(name)]),
        alias,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

impl AdministrationPlan {
    pub fn bind(call: Call<'_>, binder: &mut Binder<'_>) -> Result<AdministrationPlan, PlanError> {
        let function = call.function;
        let arguments = bind_arguments(function, call.arguments, binder)?;
        let query = call.over_result()?;
        let result = Arc::new(ResultTable::new(function)?);
        let system = Arc::new(WithResult {
            inner: binder.namespace.system.clone(),
            function,
            result: result.clone(),
        });
        let namespace = Namespace { system, ..binder.namespace.clone() };
        let parameters = std::mem::take(&mut binder.parameters);
        let mut over = Binder::new(&namespace, binder.settings, binder.sql.clone(), parameters);
        let bound = over.bind_query(&query);
        binder.parameters = over.parameters;
        Ok(AdministrationPlan { function, arguments, query: QueryPlan::new(bound?), result })
    }
}

/// The system relations, and the result of one call under the function's name.
#[derive(Debug)]
struct WithResult {
    inner: Arc<dyn SystemRelations>,
    function: &'static Function,
    result: Arc<ResultTable>,
}

impl SystemRelations for WithResult {
    fn relation(&self, schema: &str, name: &str) -> Option<Arc<SystemRelation>> {
        if (schema, name) != ("cortex", self.function.name) {
            return self.inner.relation(schema, name);
        }
        Some(Arc::new(SystemRelation {
            oid: cortex_shard_api::Oid(self.function.oid),
            schema: "cortex",
            name: self.function.name,
            columns: self
                .function
                .columns
                .iter()
                .map(|(n, ty)| (*n, TypeMod::plain(*ty)))
                .collect(),
            always_empty: false,
            provider: self.result.clone(),
        }))
    }

    fn is_administration(&self, schema: &str, name: &str) -> bool {
        self.inner.is_administration(schema, name)
    }
}

/// An expression for each argument of the function, by position, by name, or its default.
fn bind_arguments(
    function: &'static Function,
    given: &[FunctionArg],
    binder: &mut Binder<'_>,
) -> Result<Vec<ScalarExpr>, PlanError> {
    let mut places: Vec<Option<&Expr>> = vec![None; function.arguments.len()];
    for (position, argument) in given.iter().enumerate() {
        let (place, expr) = match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => (Some(position), expr),
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => {
                (place_of(function, &fold_ident(name)), expr)
            }
            FunctionArg::ExprNamed {
                name: Expr::Identifier(name),
                arg: FunctionArgExpr::Expr(expr),
                ..
            } => (place_of(function, &fold_ident(name)), expr),
            _ => return Err(undefined(function)),
        };
        match place.and_then(|place| places.get_mut(place)) {
            Some(place) if place.is_none() => *place = Some(expr),
            _ => return Err(undefined(function)),
        }
    }
    let mut arguments = Vec::with_capacity(places.len());
    for (argument, place) in function.arguments.iter().zip(places) {
        let ty = TypeMod::plain(argument.ty);
        let literal = |value| ScalarExpr::Literal { value, ty };
        arguments.push(match (place, argument.default) {
            (Some(expr), _) => {
                let bound = binder.bind_expr(expr, &Scope::empty(), Clause::Values)?;
                let bound = binder.coerce(bound, ty, CastContext::Assignment)?;
                bound.to_scalar().ok_or_else(|| {
                    PlanError::unsupported(
                        format!("{} takes constants and parameters", function.qualified_name()),
                        "Compute the argument first and pass it as a literal.",
                    )
                    .at(bound.position)
                })?
            }
            (None, DefaultValue::Required) => return Err(undefined(function)),
            (None, DefaultValue::Null) => literal(Datum::Null),
            (None, DefaultValue::Value(value)) => {
                literal(text::parse(argument.ty, value, binder.settings)?)
            }
        });
    }
    Ok(arguments)
}

fn place_of(function: &Function, name: &str) -> Option<usize> {
    function.arguments.iter().position(|argument| argument.name == name)
}

/// 42883, with what the function takes.
fn undefined(function: &Function) -> PlanError {
    let name = function.qualified_name();
    PlanError::new(
        PlanErrorKind::UndefinedFunction,
        format!("function {name} does not take these arguments"),
    )
    .with_hint(format!("It is {name}({}).", function.arguments_text(true)))
}
