//! What the leaves of physical plans have in common: what is known of their rows, and the names under which these come.

use arrow::{
    datatypes::SchemaRef,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{
    error::Result,
    physical_expr::{EquivalenceProperties, LexOrdering, Partitioning},
    physical_plan::{
        PlanProperties,
        execution_plan::{Boundedness, EmissionType, SchedulingType},
    },
};

/// Of a leaf that gives its rows as they come and lets others run in between; nothing is known about how they are spread over
/// partitions. `ordering`: of the rows of each partition.
pub fn properties(
    schema: &SchemaRef,
    n_partitions: usize,
    ordering: Option<&LexOrdering>,
) -> PlanProperties {
    let equivalences = EquivalenceProperties::new_with_orderings(schema.clone(), ordering.cloned());
    PlanProperties::new(
        equivalences,
        Partitioning::UnknownPartitioning(n_partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    )
    .with_scheduling_type(SchedulingType::Cooperative)
}

/// The batch under the planned schema: same arrays, the planner's names and metadata. Error: they are of other types.
pub fn rename(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().to_vec();
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}
