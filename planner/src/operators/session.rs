//! DataFusion's settings for statements of the gateway.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use datafusion::{
    error::Result,
    execution::{
        SessionState, SessionStateBuilder, TaskContext, config::SessionConfig,
        disk_manager::DiskManagerBuilder, memory_pool::FairSpillPool, runtime_env::RuntimeEnv,
    },
    functions_aggregate::first_last::first_value_udaf,
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
    static COMMON: LazyLock<SessionConfig> = LazyLock::new(common_config);
    let mut config = COMMON.clone().with_batch_size(batch_rows);
    let execution = &mut config.options_mut().execution;
    let merge_bytes = execution.sort_spill_reservation_bytes.min(memory_bytes / SORT_MERGE_PART);
    execution.sort_spill_reservation_bytes = merge_bytes;
    config
}

fn common_config() -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(1)
        .with_round_robin_repartition(false)
        .with_repartition_joins(false)
        .with_repartition_windows(false)
        .with_collect_statistics(false)
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(false);
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
    // Caches of files and of where they are, which nothing here has.
    static COMMON: LazyLock<RuntimeEnv> = LazyLock::new(RuntimeEnv::default);
    Ok(Arc::new(RuntimeEnv {
        memory_pool: Arc::new(FairSpillPool::new(memory_bytes)),
        disk_manager: Arc::new(DiskManagerBuilder::default().build()?),
        ..COMMON.clone()
    }))
}

/// A state that plans distributed statements: DataFusion's planner with our rules, logical and physical. Its plans run in a
/// `task_context`.
///
/// One is needed for each execution, so what all have in common is made once. It holds no more than planning asks for: names of
/// functions are the binder's matter, only DISTINCT ON looks an aggregate up by its name.
pub fn session_state(config: SessionConfig) -> SessionState {
    static COMMON: LazyLock<SessionState> = LazyLock::new(|| {
        SessionStateBuilder::new()
            .with_config(common_config())
            .with_aggregate_functions(vec![first_value_udaf()])
            .with_analyzer_rules(analyzer_rules())
            .with_optimizer_rules(optimizer_rules())
            .with_physical_optimizer_rules(rules::physical_rules())
            .build()
    });
    let mut state = COMMON.clone();
    *state.config_mut() = config;
    // Hands the configuration, and with it the session, to every function of the physical plan.
    state.mark_start_execution();
    state
}

/// What a plan of the state runs with.
pub fn task_context(state: &SessionState, runtime: Arc<RuntimeEnv>) -> Arc<TaskContext> {
    Arc::new(TaskContext::new(
        None,
        String::new(),
        state.config().clone(),
        HashMap::new(),
        HashMap::new(),
        HashMap::new(),
        HashMap::new(),
        runtime,
    ))
}
