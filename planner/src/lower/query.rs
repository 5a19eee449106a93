//! Queries: WITH in front of a body, ORDER BY, LIMIT and locking behind it.

use cortex_functions::registry::CastContext;
use cortex_shard_api::{Datum, SqlType, TypeMod};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use sqlparser::ast::{
    Expr as AstExpr, LimitClause, LockClause, LockType, NonBlock, Query, Spanned,
};

use super::{
    BoundQuery, LockStrength, LockWait, Locking, Relational, engine_error,
    expr::{check_count, lower},
    from::Identity,
    select::Stage,
};
use crate::{
    PlanError, PlanErrorKind,
    bind::{Binder, Clause, OutputColumn, Scope, names::fold_ident, typed::Kind, types::Target},
};

impl Binder<'_> {
    /// Binds a SELECT, VALUES or set operation.
    pub fn bind_query(&mut self, query: &Query) -> Result<BoundQuery, PlanError> {
        self.bind_whole(query, None)
    }

    /// Binds the query of an INSERT: literals and parameters without a type in its select list take those of the targets. 42601
    /// when there are more columns than targets; fewer, and casts of other columns, are the caller's matter.
    pub fn bind_query_into(
        &mut self,
        query: &Query,
        targets: &[Target<'_>],
    ) -> Result<BoundQuery, PlanError> {
        self.bind_whole(query, Some(targets))
    }

    fn bind_whole(
        &mut self,
        query: &Query,
        targets: Option<&[Target<'_>]>,
    ) -> Result<BoundQuery, PlanError> {
        let (relational, locking) = self.bind_query_form(query, targets)?;
        let columns = relational
            .columns
            .into_iter()
            .map(|column| OutputColumn { name: column.name, ty: column.ty, source: column.source })
            .collect();
        Ok(BoundQuery { plan: relational.plan, columns, locking })
    }

    /// A query inside another one. Its locking clause is refused: rows are locked by the outermost query only.
    pub(crate) fn bind_subselect(&mut self, query: &Query) -> Result<Relational, PlanError> {
        if !query.locks.is_empty() {
            return Err(PlanError::unsupported(
                "FOR UPDATE and FOR SHARE in a subquery are not supported",
                "Lock the rows in the outermost query.",
            ));
        }
        self.deeper(|binder| binder.bind_query_form(query, None)).map(|(relational, _)| relational)
    }

    fn bind_query_form(
        &mut self,
        query: &Query,
        targets: Option<&[Target<'_>]>,
    ) -> Result<(Relational, Vec<Locking>), PlanError> {
        let foreign = query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty();
        if foreign {
            return Err(PlanError::new(
                PlanErrorKind::Syntax,
                "syntax error: a clause of another SQL dialect",
            ));
        }
        let in_sight = self.ctes.len();
        let bound = self.bind_parts(query, targets);
        self.ctes.truncate(in_sight);
        bound
    }

    fn bind_parts(
        &mut self,
        query: &Query,
        targets: Option<&[Target<'_>]>,
    ) -> Result<(Relational, Vec<Locking>), PlanError> {
        if let Some(with) = &query.with {
            self.bind_with(with)?;
        }
        let locks = !query.locks.is_empty();
        let identity = if locks { Identity::With } else { Identity::Without };
        let stage = self.bind_body(&query.body, query.order_by.as_ref(), identity)?;
        if let Some(targets) = targets
            && stage.items.len() > targets.len()
        {
            return Err(PlanError::new(
                PlanErrorKind::Syntax,
                "INSERT has more expressions than target columns",
            )
            .at(stage.items[targets.len()].expr.position));
        }
        let locking = self.bind_locks(&query.locks, &stage)?;
        let mut relational = self.finish(stage, targets, locks)?;
        relational.plan = self.limit(relational.plan, query)?;
        Ok((relational, locking))
    }

    fn limit(&mut self, plan: LogicalPlan, query: &Query) -> Result<LogicalPlan, PlanError> {
        let (mut limit, offset) = match &query.limit_clause {
            None => (None, None),
            Some(LimitClause::LimitOffset { limit, offset, limit_by }) => {
                if !limit_by.is_empty() {
                    return Err(PlanError::new(PlanErrorKind::Syntax, "LIMIT BY is not SQL"));
                }
                (limit.as_ref(), offset.as_ref().map(|offset| &offset.value))
            }
            Some(LimitClause::OffsetCommaLimit { .. }) => {
                return Err(PlanError::new(
                    PlanErrorKind::Syntax,
                    "LIMIT #,# syntax is not supported",
                )
                .with_hint("Use separate LIMIT and OFFSET clauses."));
            }
        };
        let one = AstExpr::value(sqlparser::ast::Value::Number("1".to_owned(), false));
        if let Some(fetch) = &query.fetch {
            if fetch.with_ties || fetch.percent {
                return Err(PlanError::unsupported(
                    "FETCH FIRST WITH TIES and PERCENT are not supported",
                    "Use rank() OVER (ORDER BY ...) in a subquery.",
                ));
            }
            limit = Some(fetch.quantity.as_ref().unwrap_or(&one));
        }
        let fetch = self.row_count(limit, Clause::Limit)?;
        let skip = self.row_count(offset, Clause::Offset)?;
        if fetch.is_none() && skip.is_none() {
            return Ok(plan);
        }
        LogicalPlanBuilder::from(plan)
            .limit_by_expr(skip, fetch)
            .and_then(|builder| builder.build())
            .map_err(engine_error)
    }

    /// LIMIT and OFFSET are int8; NULL means none.
    fn row_count(
        &mut self,
        expr: Option<&AstExpr>,
        clause: Clause,
    ) -> Result<Option<Expr>, PlanError> {
        let Some(expr) = expr else { return Ok(None) };
        let bound = match self.bind_expr(expr, &Scope::empty(), clause) {
            // Whatever it names, it is a variable that LIMIT cannot have.
            Err(error) if error.kind == PlanErrorKind::UndefinedColumn && names_column(expr) => {
                return Err(PlanError::new(
                    PlanErrorKind::InvalidColumnReference,
                    format!("argument of {} must not contain variables", clause.name()),
                )
                .at(error.position));
            }
            other => other?,
        };
        let position = bound.position;
        let from = bound.ty.ty;
        let to = TypeMod::plain(SqlType::Int8);
        let Ok(count) = self.try_coerce(bound, to, CastContext::Assignment)? else {
            return Err(PlanError::new(
                PlanErrorKind::DatatypeMismatch,
                format!(
                    "argument of {} must be type bigint, not type {}",
                    clause.name(),
                    from.sql_name()
                ),
            )
            .at(position));
        };
        match &count.kind {
            Kind::Literal(Datum::Null) => return Ok(None),
            Kind::Literal(value) => check_count(value, clause.name())?,
            _ => {}
        }
        if count.has_subquery() {
            return Err(PlanError::unsupported(
                format!("a subquery in {} is not supported", clause.name()),
                "Run it first and pass the number as a parameter.",
            )
            .at(position));
        }
        lower(&count).map(Some)
    }

    /// FOR UPDATE and FOR SHARE: the tables whose rows are to be locked, with the places of their identity columns.
    fn bind_locks(
        &mut self,
        locks: &[LockClause],
        stage: &Stage,
    ) -> Result<Vec<Locking>, PlanError> {
        let mut found: Vec<Locking> = Vec::new();
        for lock in locks {
            let strength = match lock.lock_type {
                LockType::Update => LockStrength::Update,
                LockType::Share => LockStrength::Share,
            };
            let clause = match strength {
                LockStrength::Update => "FOR UPDATE",
                LockStrength::Share => "FOR SHARE",
            };
            if let Some(reason) = stage.unlockable {
                let message = match reason {
                    "UNION/INTERSECT/EXCEPT"
                    | "GROUP BY clause"
                    | "HAVING clause"
                    | "DISTINCT clause"
                    | "aggregate functions"
                    | "window functions"
                    | "set-returning functions in the target list" => {
                        format!("{clause} is not allowed with {reason}")
                    }
                    other => format!("{clause} cannot be applied to {other}"),
                };
                return Err(PlanError::new(PlanErrorKind::Unsupported, message));
            }
            let wait = match lock.nonblock {
                None => LockWait::Wait,
                Some(NonBlock::Nowait) => LockWait::Nowait,
                Some(NonBlock::SkipLocked) => LockWait::SkipLocked,
            };
            let name = match &lock.of {
                Some(name) => {
                    let folded = name
                        .0
                        .last()
                        .and_then(|part| part.as_ident())
                        .map(fold_ident)
                        .unwrap_or_default();
                    if !stage.identities.iter().any(|(other, ..)| *other == folded) {
                        return Err(PlanError::new(
                            PlanErrorKind::UndefinedTable,
                            format!(
                                "relation \"{folded}\" in {clause} clause not found in FROM clause"
                            ),
                        )
                        .at(self.position(name.span())));
                    }
                    Some(folded)
                }
                None => None,
            };
            for (index, (relation, table, ..)) in stage.identities.iter().enumerate() {
                if name.as_ref().is_some_and(|name| name != relation) {
                    continue;
                }
                let key_column = stage.items.len() + 2 * index;
                // The stronger clause wins where two name one table.
                if let Some(known) = found.iter_mut().find(|known| known.key_column == key_column) {
                    if strength == LockStrength::Update {
                        known.strength = strength;
                    }
                    continue;
                }
                found.push(Locking {
                    table: table.clone(),
                    key_column,
                    version_column: key_column + 1,
                    strength,
                    wait,
                });
            }
        }
        Ok(found)
    }
}

fn names_column(expr: &AstExpr) -> bool {
    let mut found = false;
    let _ = sqlparser::ast::visit_expressions(expr, |inner| {
        found |= matches!(inner, AstExpr::Identifier(_) | AstExpr::CompoundIdentifier(_));
        std::ops::ControlFlow::<()>::Continue(())
    });
    found
}
