//! Queries on the analytic path: a bound plan through DataFusion to a stream of batches.
//!
//! Planning happens on the connection's thread; execution on the query runtime, with a channel of `BATCHES_AHEAD` batches
//! between, so that a slow client holds back the shards and a dropped stream stops them.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arrow::record_batch::RecordBatch;
use cortex_functions::session::{self as eval_context, EvalContext, Stop};
use cortex_planner::{
    bind::parameters::param_values,
    lower::{
        optimizer::verify,
        row_count::{RowCounts, compute_row_counts},
    },
    operators::{self, CopyUse, Failure, StatementContext, find_error, has_joins, open_shards},
};
use cortex_shard_api::{Datum, ShardId, SqlType, client::RequestContext};
use datafusion::{
    common::ParamValues,
    error::DataFusionError,
    execution::{SessionState, TaskContext, runtime_env::RuntimeEnv},
    logical_expr::LogicalPlan,
    physical_plan::{ExecutionPlan, execute_stream},
};
use futures::{Stream, StreamExt, stream};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::{JoinError, JoinHandle},
};

use super::{
    copies::StatementCopies, counters::Counters, gateway::Gateway, plan::QueryPlan,
    session::Session, settings::Settings,
};
use crate::{
    error::{PgError, SqlState},
    statement::{Execution, RowSource, RowsTag},
};

/// Batches computed before the client takes them.
const BATCHES_AHEAD: usize = 2;

/// A stream of batches that the rest of the gateway can hold.
pub(crate) type Batches = Pin<Box<dyn Stream<Item = Result<RecordBatch, PgError>> + Send>>;

/// The surroundings of one query: its snapshot context, its functions' context, DataFusion's state.
pub(crate) struct QueryRun {
    pub context: Arc<StatementContext>,
    pub state: SessionState,
    runtime: Arc<RuntimeEnv>,
    queries: Handle,
    counters: Arc<Counters>,
    stop: Stop,
}

impl QueryRun {
    pub fn new(
        gateway: &Gateway,
        settings: &Settings,
        eval: Arc<EvalContext>,
        base: RequestContext,
        copies: CopyUse,
        left_out: BTreeSet<ShardId>,
    ) -> Result<QueryRun, PgError> {
        let shards = gateway.shards.clone();
        let find = move |shard| shards.get(shard).ok();
        let context = StatementContext::new(Arc::new(find), base);
        let context = context.with_copies(copies).without(left_out);
        let context = Arc::new(context);
        let batch_rows = usize::try_from(settings.integer("cortex.batch_rows")).unwrap_or(8192);
        let mut config = operators::session_config(batch_rows, settings.query_memory());
        let stop = eval.stop.clone();
        eval_context::install(config.options_mut(), eval);
        config.set_extension(context.clone());
        let runtime = operators::runtime(settings.query_memory()).map_err(query_error)?;
        let state = operators::session_state(config);
        let (queries, counters) = (gateway.queries.clone(), gateway.counters.clone());
        Ok(QueryRun { context, state, runtime, queries, counters, stop })
    }

    /// Runs a physical plan, up to its first rows: a statement that met a schema change is told so before anything is sent. Other
    /// errors come in their place among the rows.
    pub async fn first_answers(
        &self,
        physical: Arc<dyn ExecutionPlan>,
    ) -> Result<Batches, PgError> {
        let mut batches = self.stream(physical);
        match batches.next().await {
            Some(Err(error)) if error.is_stale => Err(error),
            first => Ok(Box::pin(stream::iter(first).chain(batches))),
        }
    }

    /// Has every shard take its part of a plan, on the query runtime. Errors: one for each shard that does not.
    pub async fn open(&self, physical: &Arc<dyn ExecutionPlan>) -> Result<(), Vec<PgError>> {
        let (physical, task) = (physical.clone(), self.task());
        let opening = self.queries.spawn(async move { open_shards(&physical, &task).await });
        match AbortOnDrop(opening).await {
            Ok(opened) => opened.map_err(|errors| errors.into_iter().map(query_error).collect()),
            Err(_) => Err(vec![PgError::internal("opening the shards of a query panicked")]),
        }
    }

    fn task(&self) -> Arc<TaskContext> {
        operators::task_context(&self.state, self.runtime.clone())
    }

    /// Runs a physical plan on the query runtime. The first batch, or error, comes when every shard has taken its part.
    pub fn stream(&self, physical: Arc<dyn ExecutionPlan>) -> Batches {
        let task = self.task();
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        // Keeps the snapshots open until the last batch is computed.
        let context = self.context.clone();
        let worker = self.queries.spawn(async move {
            let _context = context;
            let opened = open_shards(&physical, &task).await;
            let opened = opened.map_err(|errors| errors.into_iter().next().map(query_error));
            let batches = match opened {
                Ok(()) => execute_stream(physical, task).map_err(query_error),
                Err(error) => {
                    Err(error.unwrap_or_else(|| PgError::internal("a shard failed without saying")))
                }
            };
            let mut batches = match batches {
                Ok(batches) => batches,
                Err(error) => {
                    // Nobody listens any more, or somebody is told.
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            while let Some(batch) = batches.next().await {
                let failed = batch.is_err();
                if sender.send(batch.map_err(query_error)).await.is_err() || failed {
                    return;
                }
            }
        });
        Box::pin(Received { receiver, worker, stop: self.stop.clone(), is_over: false })
    }
}

/// A task that ends with its owner.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    pub fn query_run(&self, base: RequestContext) -> Result<QueryRun, PgError> {
        self.query_run_without(base, BTreeSet::new())
    }

    /// A query that does without some shards.
    pub(super) fn query_run_without(
        &self,
        base: RequestContext,
        left_out: BTreeSet<ShardId>,
    ) -> Result<QueryRun, PgError> {
        let eval = Arc::new(self.eval_context());
        QueryRun::new(&self.gateway, &self.settings, eval, base, self.copy_use(), left_out)
    }

    pub(super) fn reads_primary_only(&self) -> bool {
        let wrote = self.transaction.as_ref().is_some_and(|it| !it.references().is_empty());
        wrote || self.ddl.is_some()
    }

    /// A transaction sees its own changes of reference tables on their primary copies alone.
    fn copy_use(&self) -> CopyUse {
        if self.reads_primary_only() {
            return CopyUse::PrimaryOnly;
        }
        let copies = self.gateway.copies.clone();
        CopyUse::After(Arc::new(StatementCopies::new(copies, self.settings.lock_timeout())))
    }

    /// SELECT without row locks.
    pub async fn run_query(
        &mut self,
        query: &QueryPlan,
        types: &[SqlType],
        parameters: &[Datum],
    ) -> Result<Execution, PgError> {
        let batches = if self.settings.get("cortex.partial_reads").as_deref() == Some("allow") {
            self.run_partially(query, types, parameters).await?
        } else {
            let run = self.query_run(self.read_base())?;
            let physical = physical_plan(&run, query, types, parameters).await?;
            run.first_answers(physical).await?
        };
        Ok(Execution::Rows {
            columns: query.bound.columns.clone().into(),
            rows: RowSource::Batches(batches),
            tag: RowsTag::Select,
        })
    }

    /// The context of reads: with the transaction, so that they see its own writes.
    pub fn read_base(&self) -> RequestContext {
        let txn = self.transaction.as_ref().filter(|it| !it.touched().is_empty()).map(|it| it.id);
        RequestContext { txn, ..self.request_base() }
    }
}

/// The gateway's end of a running query. Dropping it stops the query.
struct Received {
    receiver: mpsc::Receiver<Result<RecordBatch, PgError>>,
    worker: JoinHandle<()>,
    stop: Stop,
    is_over: bool,
}

impl Stream for Received {
    type Item = Result<RecordBatch, PgError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let next = self.poll_receiver(cx);
        self.is_over = matches!(next, Poll::Ready(None));
        next
    }
}

impl Received {
    fn poll_receiver(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<RecordBatch, PgError>>> {
        match self.receiver.poll_recv(cx) {
            // The sender is gone: finished, or panicked, which must not look like the end of the rows.
            Poll::Ready(None) => match Pin::new(&mut self.worker).poll(cx) {
                Poll::Ready(Err(error)) if error.is_panic() => {
                    Poll::Ready(Some(Err(PgError::internal("the query's worker panicked"))))
                }
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
            other => other,
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.worker.is_finished() {
            self.stop.set();
            self.worker.abort();
        }
    }
}

/// Optimizes (once for each prepared statement) and plans a query with its parameters.
pub(crate) async fn physical_plan(
    run: &QueryRun,
    query: &QueryPlan,
    types: &[SqlType],
    parameters: &[Datum],
) -> Result<Arc<dyn ExecutionPlan>, PgError> {
    run.counters.count_analytic_plan();
    let optimized = match query.optimized.get() {
        Some(plan) => plan.clone(),
        None => {
            let plan = query.bound.plan.clone();
            let plan = compute_row_counts(plan, RowCounts::Constant, &run.state)?;
            let plan = run.state.optimize(&plan).map_err(query_error)?;
            verify(&query.bound.plan, &plan)?;
            query.optimized.get_or_init(|| plan).clone()
        }
    };
    let bound = if parameters.is_empty() {
        optimized
    } else {
        with_parameters(run, optimized, types, parameters)?
    };
    let bound = compute_row_counts(bound, RowCounts::All, &run.state)?;
    if !has_joins(&bound).map_err(query_error)? {
        run.context.plan_without_counts();
    }
    run.state.query_planner().create_physical_plan(&bound, &run.state).await.map_err(query_error)
}

/// The physical planner takes no placeholders; what their values make constant is folded again.
fn with_parameters(
    run: &QueryRun,
    plan: LogicalPlan,
    types: &[SqlType],
    parameters: &[Datum],
) -> Result<LogicalPlan, PgError> {
    let values = param_values(parameters, types)?;
    let plan = plan.replace_params_with_values(&ParamValues::from(values)).map_err(query_error)?;
    let plan = compute_row_counts(plan, RowCounts::Constant, &run.state)?;
    run.state.optimize(&plan).map_err(query_error)
}

/// All batches of a stream, for callers that bounded it themselves.
pub(crate) async fn collect(
    mut batches: Batches,
    rows_max: usize,
) -> Result<Vec<RecordBatch>, PgError> {
    let (mut collected, mut rows) = (Vec::new(), 0);
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        rows += batch.num_rows();
        if rows > rows_max {
            return Err(PgError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("more than {rows_max} rows where a bounded number is needed"),
            ));
        }
        collected.push(batch);
    }
    Ok(collected)
}

/// DataFusion's error as ours.
pub(crate) fn query_error(error: DataFusionError) -> PgError {
    match find_error(&error) {
        Failure::Plan(error) => error.into(),
        Failure::Shard(error) => error.into(),
        Failure::Value(error) => error.into(),
        Failure::OutOfMemory(what) => {
            PgError::new(SqlState::OUT_OF_MEMORY, "out of memory").with_detail(what).with_hint(
                "Raise cortex.query_memory, join on the columns by which the tables are sharded, or filter so that less is held at once.",
            )
        }
        Failure::Unsupported(what) => {
            PgError::unsupported(what, "Rewrite the query, or see COMPAT.md.")
        }
        // Arrow makes a regular expression of a LIKE pattern, and bounds what it compiles to.
        Failure::Other(what) if what.contains("Compiled regex exceeds size limit") => {
            PgError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "the pattern is too long")
        }
        Failure::Other(what) => PgError::internal(what),
    }
}
