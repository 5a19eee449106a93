//! EXPLAIN: the plan of a statement as text or JSON; ANALYZE runs it and adds what each shard did.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cortex_functions::registry;
use cortex_planner::{
    bind::write::{BoundWrite, InsertSource},
    explain::{self, Detail, Explain},
    route::for_scalar,
};
use cortex_shard_api::{Datum, ScalarExpr, SqlType, TableDescriptor, TypeMod};
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;

use super::{
    plan::{Plan, PreparedPlan, QueryPlan, WritePlan, text_columns},
    query::physical_plan,
    session::Session,
};
use crate::{
    error::{PgError, SqlState},
    parse::{Ast, ExplainFormat, ExplainOptions},
    statement::{Execution, RowSource, RowsTag},
};

/// A plan to show, with the times that ANALYZE measured.
struct Shown {
    plan: Explain,
    planning: Duration,
    execution: Option<Duration>,
}

impl Session {
    pub async fn run_explain(
        &mut self,
        ast: &Ast,
        inner: &PreparedPlan,
        parameters: Arc<[Datum]>,
    ) -> Result<Execution, PgError> {
        let Ast::Explain { options, statement } = ast else {
            return Err(PgError::internal("EXPLAIN of another statement"));
        };
        if let Ast::Execute { name, arguments } = &**statement {
            let (prepared, values) = self.executed(name, arguments)?;
            let prepared = self.refreshed(&prepared)?;
            let inner = PreparedPlan::of(&prepared)?;
            let ast = Ast::Explain {
                options: options.clone(),
                statement: Box::new(inner.parsed.ast.as_ref().clone()),
            };
            return Box::pin(self.run_explain(&ast, inner, values.into())).await;
        }
        let begun = Instant::now();
        let mut shown = match &inner.plan {
            Plan::Query(query) => {
                self.explain_query(query, &inner.parameters, &parameters, options.analyze).await?
            }
            Plan::FastSelect(fast) => {
                let key = (&fast.key[..], fast.predicate.is_some());
                Shown {
                    plan: self.explain_key("select", &fast.table.descriptor, key, &parameters)?,
                    planning: begun.elapsed(),
                    execution: None,
                }
            }
            Plan::Write(write) => {
                let plan = self.explain_write(write, &inner.parameters, &parameters).await?;
                Shown { plan, planning: begun.elapsed(), execution: None }
            }
            Plan::Ddl(_) | Plan::Administration(_) | Plan::Utility | Plan::Explain(_) => {
                return Err(PgError::new(
                    SqlState::SYNTAX_ERROR,
                    "EXPLAIN takes SELECT, INSERT, UPDATE or DELETE",
                ));
            }
        };
        if options.analyze && shown.execution.is_none() {
            let running = Instant::now();
            match &inner.plan {
                Plan::FastSelect(fast) => drop(self.run_fast_select(fast, &parameters).await?),
                Plan::Write(write) => {
                    drop(self.run_write(write, &inner.parameters, parameters, false).await?);
                }
                Plan::Query(_)
                | Plan::Ddl(_)
                | Plan::Administration(_)
                | Plan::Utility
                | Plan::Explain(_) => {}
            }
            shown.execution = Some(running.elapsed());
        }
        Ok(answer(&shown, options))
    }

    async fn explain_query(
        &self,
        query: &QueryPlan,
        types: &[SqlType],
        parameters: &[Datum],
        analyze: bool,
    ) -> Result<Shown, PgError> {
        let begun = Instant::now();
        let (plan, execution) = self.planned(query, types, parameters, analyze).await?;
        let planning = begun.elapsed().saturating_sub(execution.unwrap_or_default());
        Ok(Shown { plan: explain::explain(&plan, analyze), planning, execution })
    }

    /// The physical plan; with `run`, run to its end first, so that its operators have counted.
    async fn planned(
        &self,
        query: &QueryPlan,
        types: &[SqlType],
        parameters: &[Datum],
        run: bool,
    ) -> Result<(Arc<dyn ExecutionPlan>, Option<Duration>), PgError> {
        let query_run = self.query_run(self.read_base())?;
        let plan = physical_plan(&query_run, query, types, parameters).await?;
        if !run {
            return Ok((plan, None));
        }
        query_run.context.ask_for_reports();
        let begun = Instant::now();
        let mut batches = query_run.stream(plan.clone());
        while let Some(batch) = batches.next().await {
            batch?;
        }
        Ok((plan, Some(begun.elapsed())))
    }

    /// A statement that finds its row by primary key.
    fn explain_key(
        &self,
        operation: &str,
        table: &TableDescriptor,
        (key, filtered): (&[ScalarExpr], bool),
        parameters: &[Datum],
    ) -> Result<Explain, PgError> {
        let predicate = key_predicate(table, key)?;
        let route = for_scalar(table, Some(&predicate), parameters, &self.eval_context());
        let filter = filtered.then_some("on the row");
        Ok(explain::explain_fast(operation, table, &route, filter))
    }

    async fn explain_write(
        &self,
        write: &WritePlan,
        types: &[SqlType],
        parameters: &[Datum],
    ) -> Result<Explain, PgError> {
        let name = &write.bound.table().descriptor.name;
        let stage = match &write.bound {
            BoundWrite::UpdateByKey(it) => {
                let key = (&it.key[..], it.predicate.is_some());
                return self.explain_key("update", &it.table.descriptor, key, parameters);
            }
            BoundWrite::DeleteByKey(it) => {
                let key = (&it.key[..], it.predicate.is_some());
                return self.explain_key("delete", &it.table.descriptor, key, parameters);
            }
            BoundWrite::Insert(it) => match &it.source {
                InsertSource::Values(rows) => {
                    let detail = format!("{name}, rows={}", rows.len());
                    let stage = if super::write::is_fast(&write.bound) {
                        "FastPath: insert"
                    } else {
                        "Insert"
                    };
                    return Ok(Explain::stage(stage, &detail));
                }
                InsertSource::Query { .. } => "Insert",
            },
            BoundWrite::Update(_) => "Update",
            BoundWrite::Delete(_) => "Delete",
        };
        if let Some(direct) = write.bound.direct() {
            let (table, eval) = (&write.bound.table().descriptor, self.eval_context());
            if let Some(route) = self.direct_route(direct, table, parameters, &eval).await? {
                let filter = direct.predicate.as_ref().map(|_| "on the row");
                let operation = stage.to_lowercase();
                return Ok(explain::explain_fast(&operation, table, &route, filter));
            }
        }
        let (plan, _) = self.planned(write.read()?, types, parameters, false).await?;
        Ok(explain::explain(&plan, false).below(stage, name))
    }
}

/// `key column = value AND ...`, as the router takes it.
fn key_predicate(table: &TableDescriptor, key: &[ScalarExpr]) -> Result<ScalarExpr, PgError> {
    let mut terms = Vec::with_capacity(key.len());
    for (position, value) in table.primary_key.iter().zip(key) {
        let ty = table.columns[*position].ty;
        let equality = registry::resolve_operator("=", Some(ty.ty), ty.ty)
            .map_err(|error| PgError::internal(error.to_string()))?;
        terms.push(ScalarExpr::Call {
            function: equality.signature,
            args: vec![ScalarExpr::Column { position: *position, ty }, value.clone()],
            ty: TypeMod::plain(SqlType::Bool),
        });
    }
    Ok(ScalarExpr::And(terms))
}

fn answer(shown: &Shown, options: &ExplainOptions) -> Execution {
    let with_summary = options.summary.unwrap_or(options.analyze);
    let detail = Detail { times: options.timing != Some(false), parts: options.verbose };
    let lines = match options.format {
        ExplainFormat::Json => {
            let planning = with_summary.then_some(shown.planning);
            vec![shown.plan.json(detail, planning, shown.execution.filter(|_| with_summary))]
        }
        ExplainFormat::Text => {
            let mut lines = shown.plan.text(detail);
            if with_summary {
                let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
                lines.push(format!("Planning Time: {:.3} ms", millis(shown.planning)));
                lines.extend(
                    shown.execution.map(|time| format!("Execution Time: {:.3} ms", millis(time))),
                );
            }
            lines
        }
    };
    let rows: Vec<_> = lines.into_iter().map(|line| vec![Datum::Text(line.into())]).collect();
    Execution::Rows {
        columns: text_columns(&["QUERY PLAN"]),
        rows: RowSource::Rows(rows.into_iter()),
        tag: RowsTag::Word("EXPLAIN"),
    }
}
