//! What went wrong in a plan, in our own words.

use cortex_functions::failure::find;
use cortex_shard_api::{ShardError, ValueError};
use datafusion::error::DataFusionError;

use crate::error::PlanError;

/// An error of ours that was inside DataFusion's, or the class of one of DataFusion's own.
#[derive(Clone, Debug)]
pub enum Failure {
    Plan(PlanError),
    Shard(ShardError),
    Value(ValueError),
    /// 53200: the query's memory limit.
    OutOfMemory(String),
    /// DataFusion cannot do this: 0A000.
    Unsupported(String),
    /// Everything else.
    Other(String),
}

/// Digs our own error out of a DataFusion error, however it is wrapped.
pub fn find_error(error: &DataFusionError) -> Failure {
    if let Some(found) = find::<PlanError>(error) {
        return Failure::Plan(found.clone());
    }
    match find::<ShardError>(error) {
        Some(ShardError::Value(value)) => return Failure::Value(value.clone()),
        Some(found) => return Failure::Shard(found.clone()),
        None => {}
    }
    if let Some(found) = find::<ValueError>(error) {
        return Failure::Value(found.clone());
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(what) => Failure::OutOfMemory(what.clone()),
        DataFusionError::NotImplemented(what) => Failure::Unsupported(what.clone()),
        _ => Failure::Other(error.strip_backtrace()),
    }
}
