//! DataFusion's settings for statements of the gateway.

use std::sync::{Arc, LazyLock};

use datafusion::{
    error::Result,
    execution::{
        SessionState, SessionStateBuilder, config::SessionConfig, memory_pool::FairSpillPool,
        runtime_env::RuntimeEnv, runtime_env::RuntimeEnvBuilder,
    },
    functions_aggregate::first_last::first_value_udaf,
    optimizer::OptimizerRule,
    physical_optimizer::PhysicalOptimizerRule,
};

use crate::{
    lower::optimizer::{analyzer_rules, optimizer_rules},
    rules,
};

/// DataFusion's own number, 10 MB, would leave nothing of a small `cortex.query_memory`.
const SORT_MERGE_PART: usize = 8;

/// Settings of every statement.
///
/// - `target_partitions = 1`: partitions are shards and nothing else. Scans still come in one partition for each shard, so
///   aggregates are made in two steps (partial in the shards, final in the gateway), the build side of a join is
///   collected once, and its probe side stays spread over the shards' streams; but nothing is shuffled between threads
///   of the gateway, which for the sizes that reach it costs more than it gives and would stand between a fragment and
///   the operators that belong into it.
/// - No dynamic filters: they are shared state between a fragment and the gateway, which a remote shard could not see.
/// - A sort keeps a part of the memory for merging what it wrote to disk: no more than `SORT_MERGE_PART` of it.
/// - Statistics are not collected: we have none to give while planning.
pub fn session_config(batch_rows: usize, memory_bytes: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_batch_size(batch_rows)
        .with_target_partitions(1)
        .with_round_robin_repartition(false)
        .with_repartition_joins(false)
        .with_repartition_windows(false)
        .with_collect_statistics(false)
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(false);
    let execution = &mut config.options_mut().execution;
    let merge_bytes = execution.sort_spill_reservation_bytes.min(memory_bytes / SORT_MERGE_PART);
    execution.sort_spill_reservation_bytes = merge_bytes;
    let optimizer = &mut config.options_mut().optimizer;
    optimizer.enable_dynamic_filter_pushdown = false;
    optimizer.enable_topk_dynamic_filter_pushdown = false;
    optimizer.enable_join_dynamic_filter_pushdown = false;
    optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    config
}

/// Memory of queries, shared fairly among those of their operators that can spill. Exceeding it is
/// `Failure::OutOfMemory`.
pub fn runtime(memory_bytes: usize) -> Result<Arc<RuntimeEnv>> {
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
        .build_arc()
}

/// A state that plans and runs distributed statements: DataFusion's planner with our rules, logical and physical.
///
/// One is made for each execution, so it holds no more than planning asks for: names of functions are the binder's matter, only
/// DISTINCT ON looks an aggregate up by its name.
pub fn session_state(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionState {
    static OPTIMIZER: LazyLock<Vec<Arc<dyn OptimizerRule + Send + Sync>>> =
        LazyLock::new(optimizer_rules);
    static PHYSICAL: LazyLock<Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>> =
        LazyLock::new(rules::physical_rules);
    SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_aggregate_functions(vec![first_value_udaf()])
        .with_analyzer_rules(analyzer_rules())
        .with_optimizer_rules(OPTIMIZER.clone())
        .with_physical_optimizer_rules(PHYSICAL.clone())
        .build()
}
