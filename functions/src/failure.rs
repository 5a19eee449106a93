//! Our own errors inside DataFusion's.
//!
//! A shard's or a kernel's error travels through plans as `DataFusionError::External`, and operators wrap it: in context, in an
//! `Arc` for several consumers, in an Arrow error. Here it is taken out again, unharmed.

use std::error::Error;

use cortex_shard_api::{ShardError, ValueError};
use datafusion::{arrow::error::ArrowError, error::DataFusionError};

/// Wrappers that are looked through at the most: more would be a cycle.
const DEPTH_MAX: usize = 64;

/// The first error of a type of ours inside a DataFusion error.
pub fn find<E: Error + 'static>(error: &DataFusionError) -> Option<&E> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    for _ in 0..DEPTH_MAX {
        let current = next?;
        if let Some(found) = current.downcast_ref::<E>() {
            return Some(found);
        }
        // Not all wrappers name what they wrap as their source.
        next = if let Some(error) = current.downcast_ref::<DataFusionError>() {
            inside(error)
        } else if let Some(ArrowError::ExternalError(inner)) = current.downcast_ref::<ArrowError>()
        {
            Some(inner.as_ref())
        } else {
            current.source()
        };
    }
    None
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all others are leaves")]
fn inside(error: &DataFusionError) -> Option<&(dyn Error + 'static)> {
    match error {
        DataFusionError::External(inner) => Some(inner.as_ref()),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            Some(inner.as_ref())
        }
        DataFusionError::Shared(inner) => Some(inner.as_ref()),
        DataFusionError::ArrowError(inner, _) => Some(inner.as_ref()),
        DataFusionError::Collection(errors) => errors.first().map(|first| first as _),
        other => other.source(),
    }
}

/// The error as a shard answers it.
pub fn shard_error(error: &DataFusionError) -> ShardError {
    if let Some(found) = find::<ShardError>(error) {
        return found.clone();
    }
    if let Some(found) = find::<ValueError>(error) {
        return ShardError::Value(found.clone());
    }
    if let DataFusionError::ResourcesExhausted(what) = error.find_root() {
        return ShardError::LimitExceeded {
            what: "memory of the query".to_owned(),
            limit: what.clone(),
        };
    }
    ShardError::Execution(error.strip_backtrace())
}
