//! The small sides of joins that run in the shards: computed in the gateway, then sent along with the fragment.
//!
//! ```text
//!   gateway   small side ──► rows, up to a bound ──► one copy with the fragment of each shard
//!   shards                                           HashJoin(rows, scan), and what was pushed above it
//! ```
//!
//! How small the side is shows when it is computed. Rows beyond `BROADCAST_BYTES_MAX` are not sent: then the operators that the
//! shards would have run from the join upwards run here, over the shards' part of what is below, as if nothing had been
//! pushed (`here`). So a wrong guess of the planner costs what it would have cost without the rule. Not here: which joins
//! may be done so (`rules::broadcast_join`).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use cortex_functions::{
    broadcast_rows::{BROADCAST_BYTES_MAX, BroadcastRowsExec},
    leaf,
    table_scan::TableScanExec,
};
use cortex_shard_api::ShardId;
use datafusion::{
    arrow::{datatypes::SchemaRef, record_batch::RecordBatch},
    common::{internal_err, tree_node::TreeNodeRecursion},
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext, memory_pool::MemoryConsumer},
    physical_expr::PhysicalExpr,
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
        ReplaceChildrenOptions, stream::RecordBatchStreamAdapter,
    },
};
use futures::{StreamExt, stream};
use tokio::sync::OnceCell;

use super::ShardFragmentExec;

/// What became of a fragment's broadcasts; computed once for all of its partitions.
pub(super) type Gathering = OnceCell<Gathered>;

#[derive(Debug)]
pub(super) enum Gathered {
    /// The rows of each, to be sent.
    Sent(Vec<Vec<RecordBatch>>),
    /// One was too large: the plan that runs in the gateway instead, one partition for each shard.
    Here(Arc<dyn ExecutionPlan>),
}

/// Computes the small sides of a fragment, one after the other.
pub(super) async fn gather(
    fragment: &Arc<dyn ExecutionPlan>,
    shards: &[ShardId],
    broadcasts: &[Arc<dyn ExecutionPlan>],
    context: &Arc<TaskContext>,
) -> Result<Gathered> {
    let mut sides = Vec::with_capacity(broadcasts.len());
    let mut all_fit = true;
    for small in broadcasts {
        let side = collect(small.execute(0, context.clone())?, context).await?;
        all_fit &= side.rest.is_none();
        sides.push(side);
    }
    if all_fit {
        return Ok(Gathered::Sent(sides.into_iter().map(|side| side.rows).collect()));
    }
    let mut sides: Vec<Option<Side>> = sides.into_iter().map(Some).collect();
    Ok(Gathered::Here(here(fragment, shards, &mut sides)?))
}

/// The rows of a small side: all, or the first ones and what comes behind them.
struct Side {
    rows: Vec<RecordBatch>,
    rest: Option<SendableRecordBatchStream>,
}

async fn collect(mut input: SendableRecordBatchStream, context: &TaskContext) -> Result<Side> {
    let held = MemoryConsumer::new("Broadcast").register(context.memory_pool());
    let mut rows = Vec::new();
    while let Some(batch) = input.next().await {
        let batch = batch?;
        held.try_grow(batch.get_array_memory_size())?;
        rows.push(batch);
        if held.size() > BROADCAST_BYTES_MAX {
            return Ok(Side { rows, rest: Some(input) });
        }
    }
    Ok(Side { rows, rest: None })
}

/// The fragment's operators above its broadcasts, to be run in the gateway over fragments of what is below.
fn here(
    node: &Arc<dyn ExecutionPlan>,
    shards: &[ShardId],
    sides: &mut [Option<Side>],
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(awaited) = node.downcast_ref::<BroadcastRowsExec>() {
        let Some(side) = sides.get_mut(awaited.number()).and_then(Option::take) else {
            return internal_err!("a broadcast without its rows");
        };
        return Ok(Arc::new(GatheredExec::new(awaited.schema_ref().clone(), side)));
    }
    if !has_broadcast(node) {
        return Ok(Arc::new(ShardFragmentExec::try_new(node.clone(), shards.to_vec())?));
    }
    let children = node.children().into_iter();
    let children = children.map(|child| here(child, shards, sides)).collect::<Result<Vec<_>>>()?;
    node.clone()
        .replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// Whether rows of a broadcast are read in the plan.
pub fn has_broadcast(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<BroadcastRowsExec>()
        || (!plan.is::<TableScanExec>() && plan.children().into_iter().any(has_broadcast))
}

/// Rows that were collected, and those behind them; read once, by the join that keeps them.
struct GatheredExec {
    schema: SchemaRef,
    side: Mutex<Option<Side>>,
    properties: Arc<PlanProperties>,
}

impl GatheredExec {
    fn new(schema: SchemaRef, side: Side) -> GatheredExec {
        let properties = Arc::new(leaf::properties(&schema, 1, None));
        GatheredExec { schema, side: Mutex::new(Some(side)), properties }
    }
}

impl fmt::Debug for GatheredExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatheredExec")
    }
}

impl DisplayAs for GatheredExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatheredExec")
    }
}

impl ExecutionPlan for GatheredExec {
    fn name(&self) -> &'static str {
        "GatheredExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("gathered rows have no children") }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(
        &self,
        _partition: usize,
        _context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let side = self.side.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(side) = side else {
            return internal_err!("the rows of a broadcast were read twice");
        };
        let schema = self.schema.clone();
        let first = stream::iter(side.rows.into_iter().map(Ok));
        let rest = stream::iter(side.rest).flatten();
        let named = first.chain(rest).map(move |batch| leaf::rename(&batch?, &schema));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), named)))
    }
}
