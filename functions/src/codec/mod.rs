//! Plans for shards as bytes, for shards in other processes (`docs/format/fragment.md`).
//!
//! Lives here: what of a plan travels and under which bounds. Operators and expressions are messages of datafusion-proto, each by
//! itself in a flat list that refers to its children by number (`frame`), so that no message nests deeper than one node and a
//! long chain of operators is no deep message. Scans, functions and constants of nested types are ours (`scan`, `names`,
//! `constant`). Not here: who sends them (`fragment`, `shard_rpc`) and who runs them (`shard_node::exec`).
//!
//! Invariants: what is decoded means what was encoded, or there is an error; nothing outside of the lists in `kinds` and
//! `names` is ever made from bytes, so that no message can read a file or call what is not ours. Whatever the bytes are,
//! decoding neither panics nor allocates more than some multiple of their length.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use cortex_shard_api::ShardError;
use datafusion::{error::DataFusionError, physical_plan::ExecutionPlan};

use crate::{failure::find, session::EvalContext};

/// Nested constants.
mod constant;

/// Bytes to a plan.
mod decode;

/// A plan to bytes.
mod encode;

/// The bytes: header and nodes.
mod frame;

/// Which operators and expressions may travel.
mod kinds;

/// Functions by name.
mod names;

/// Rows of a broadcast.
mod rows;

/// Table scans.
mod scan;

#[cfg(test)]
mod tests;

/// The version of the bytes. It counts up when they change or when a function's meaning does; a shard takes its own alone.
pub const VERSION: u16 = 2;

/// Bytes of a fragment: far above what plans have (some kilobytes) and the rows sent along with one
/// (`planner::rules`), below the messages that the transport takes.
pub const BYTES_MAX: usize = 32 << 20;

/// Nodes of a fragment, operators and expressions: an IN list of a statement at its length limit fits.
pub const NODES_MAX: usize = 200_000;

/// Operators above each other. Each takes stack in every pass over a plan.
pub const PLAN_DEPTH_MAX: usize = 500;

/// Expressions inside each other: what the gateway's parser lets through in one chain of operators, and some more.
pub const EXPRESSION_DEPTH_MAX: usize = 6_000;

/// The stack of threads that run fragments: the engine goes through expressions recursively, also when it only drops them.
pub const STACK_BYTES: usize = 32 << 20;

/// Stack to have before a whole plan is read or written; where it is missing, `STACK_BYTES` are added.
const STACK_WHOLE: usize = 16 << 20;

/// The same for one node more. Frames of unoptimized builds are large.
const STACK_RED_ZONE: usize = 256 << 10;
const STACK_GROWTH: usize = 4 << 20;

/// Why a plan cannot become bytes, or bytes no plan.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CodecError {
    #[error("a fragment of format {found} cannot be run here, which takes format {VERSION}")]
    Version { found: u16 },
    #[error("a fragment of {bytes} bytes is more than the {BYTES_MAX} that travel")]
    TooBig { bytes: usize },
    #[error("a fragment with more than {NODES_MAX} operators and expressions does not travel")]
    TooManyNodes,
    #[error("a fragment nested deeper than {limit} does not travel")]
    TooDeep { limit: usize },
    #[error("the operator {0} does not travel between processes")]
    Operator(String),
    #[error("the expression {0} does not travel between processes")]
    Expression(String),
    #[error("the function {0} does not travel between processes")]
    Function(String),
    #[error("a constant of type {0} does not travel between processes")]
    Constant(String),
    #[error("a fragment cannot be read: {0}")]
    Malformed(String),
}

impl From<CodecError> for DataFusionError {
    fn from(error: CodecError) -> DataFusionError {
        DataFusionError::External(Box::new(error))
    }
}

impl From<DataFusionError> for CodecError {
    fn from(error: DataFusionError) -> CodecError {
        match find::<CodecError>(&error) {
            Some(found) => found.clone(),
            None => CodecError::Malformed(error.strip_backtrace()),
        }
    }
}

impl From<CodecError> for ShardError {
    fn from(error: CodecError) -> ShardError {
        let limit = match &error {
            CodecError::TooBig { .. } => format!("{BYTES_MAX} bytes"),
            CodecError::TooManyNodes => format!("{NODES_MAX} operators and expressions"),
            CodecError::TooDeep { limit } => format!("{limit} levels"),
            CodecError::Version { .. }
            | CodecError::Operator(_)
            | CodecError::Expression(_)
            | CodecError::Function(_)
            | CodecError::Constant(_)
            | CodecError::Malformed(_) => return ShardError::Execution(error.to_string()),
        };
        ShardError::LimitExceeded { what: "a plan for a shard".to_owned(), limit }
    }
}

/// A plan with what its expressions may see.
#[derive(Debug)]
pub struct Decoded {
    pub plan: Arc<dyn ExecutionPlan>,
    pub context: Arc<EvalContext>,
}

/// The bytes of a plan for one shard, in format `VERSION`.
pub fn encode(plan: &Arc<dyn ExecutionPlan>, context: &EvalContext) -> Result<Bytes, CodecError> {
    let root = stacker::maybe_grow(STACK_WHOLE, STACK_BYTES, || encode::encode(plan))?;
    frame::write(&frame::Header::new(context), root)
}

/// The plan of `bytes`, which may come from anywhere.
pub fn decode(version: u16, bytes: &[u8]) -> Result<Decoded, CodecError> {
    if version != VERSION {
        return Err(CodecError::Version { found: version });
    }
    if bytes.len() > BYTES_MAX {
        return Err(CodecError::TooBig { bytes: bytes.len() });
    }
    let (header, nodes) = frame::read(bytes)?;
    let context = Arc::new(header.context()?);
    // The engine's constructors trust their arguments in places. A panic there costs no more than the request.
    let plan = catch_unwind(AssertUnwindSafe(|| {
        stacker::maybe_grow(STACK_WHOLE, STACK_BYTES, || decode::decode(&nodes, &context))
    }));
    let plan = plan.unwrap_or_else(|_| {
        Err(CodecError::Malformed("its parts do not belong together".to_owned()))
    })?;
    Ok(Decoded { plan, context })
}
