//! What can go wrong with a value, and what can go wrong in a shard.
//!
//! A variant for each thing a caller can do something about. SQLSTATEs are the gateway's (`gateway/src/error.rs`).

use serde::{Deserialize, Serialize};

use crate::ids::ShardId;

/// A value that cannot be, or an operation that has no result: the user's input is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct ValueError {
    pub kind: ValueErrorKind,
    /// Postgres's own wording, without "ERROR:".
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// The classes of value errors; each has one SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueErrorKind {
    /// 22P02
    InvalidText,
    /// 22P03
    InvalidBinary,
    /// 22003
    OutOfRange,
    /// 22012
    DivisionByZero,
    /// 22001
    StringTooLong,
    /// 22007
    InvalidDatetime,
    /// 22008
    DatetimeOverflow,
    /// 22015
    IntervalOverflow,
    /// 22023
    InvalidParameter,
    /// 22021
    InvalidCharacter,
    /// 22025
    InvalidEscape,
    /// 2201B
    InvalidRegex,
    /// 22011
    SubstringLength,
    /// 2202E
    ArraySubscript,
    /// 2201E: logarithm of zero or a negative number.
    InvalidArgument,
    /// 2201F: root of a negative number, zero to a negative power.
    InvalidPower,
    /// 2201G: bounds or count of width_bucket.
    InvalidBucket,
    /// 54000: a result longer than can be.
    LimitExceeded,
    /// 22004
    NullNotAllowed,
    /// 21000: more than one row where one value is wanted.
    Cardinality,
    /// 2201W: LIMIT below zero.
    InvalidRowCount,
    /// 2201X: OFFSET below zero.
    InvalidRowOffset,
    /// 42P01
    UndefinedTable,
    /// 42703
    UndefinedColumn,
    /// 42704
    UndefinedObject,
    /// 42883
    UndefinedFunction,
    /// 42725
    AmbiguousFunction,
    /// 3F000
    UndefinedSchema,
    /// 42809
    WrongObjectType,
    /// 42602
    InvalidName,
    /// 55000
    NotInPrerequisiteState,
    /// 2200H
    SequenceExhausted,
    /// 0A000
    Unsupported,
    /// 42P22, 42804 and others that the binder missed and only execution saw.
    TypeMismatch,
    /// 58000: a function needs a shard that is down.
    ShardUnavailable,
    /// XX000
    Internal,
}

impl ValueError {
    /// An error without detail or hint.
    pub fn new(kind: ValueErrorKind, message: impl Into<String>) -> ValueError {
        ValueError { kind, message: message.into(), detail: None, hint: None }
    }

    /// `invalid input syntax for type integer: "x"`
    pub fn invalid_text(type_name: &str, input: &str) -> ValueError {
        ValueError::new(
            ValueErrorKind::InvalidText,
            format!("invalid input syntax for type {type_name}: \"{input}\""),
        )
    }

    /// `integer out of range`
    pub fn out_of_range(type_name: &str) -> ValueError {
        ValueError::new(ValueErrorKind::OutOfRange, format!("{type_name} out of range"))
    }

    /// `division by zero`
    pub fn division_by_zero() -> ValueError {
        ValueError::new(ValueErrorKind::DivisionByZero, "division by zero")
    }

    /// The same error with a DETAIL line.
    pub fn with_detail(mut self, detail: impl Into<String>) -> ValueError {
        self.detail = Some(detail.into());
        self
    }

    /// The same error with a HINT line.
    pub fn with_hint(mut self, hint: impl Into<String>) -> ValueError {
        self.hint = Some(hint.into());
        self
    }
}

/// What a shard answers instead of a result.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum ShardError {
    /// 23505. `detail`: `Key (id)=(1) already exists.`
    #[error("duplicate key value violates unique constraint \"{constraint}\"")]
    UniqueViolation { schema: String, table: String, constraint: String, detail: String },

    /// 23502
    #[error(
        "null value in column \"{column}\" of relation \"{table}\" violates not-null constraint"
    )]
    NotNullViolation { schema: String, table: String, column: String, detail: String },

    /// 23514
    #[error("new row for relation \"{table}\" violates check constraint \"{constraint}\"")]
    CheckViolation { schema: String, table: String, constraint: String, detail: String },

    /// 23503. `message` differs between the referencing and the referenced side.
    #[error("{message}")]
    ForeignKeyViolation {
        schema: String,
        table: String,
        constraint: String,
        message: String,
        detail: String,
    },

    /// 21000: ON CONFLICT DO UPDATE met a row twice.
    #[error("ON CONFLICT DO UPDATE command cannot affect row a second time")]
    CardinalityViolation,

    /// 22xxx from an expression that the shard evaluated.
    #[error(transparent)]
    Value(#[from] ValueError),

    /// 40P01
    #[error("deadlock detected")]
    Deadlock { detail: String },

    /// 55P03
    #[error("{message}")]
    LockNotAvailable { message: String },

    /// 40001
    #[error("could not serialize access due to {reason}")]
    Conflict { reason: String },

    /// 40001 after refresh: the caller's map or descriptor is older than the shard's.
    #[error("shard {shard} has another version of the shard map (epoch {current})")]
    StaleEpoch { shard: ShardId, current: u64 },

    /// The transaction is not known here: it was rolled back, or the shard restarted since (40001 if nothing can have
    /// been committed).
    #[error("transaction is not known to shard {shard}; it was rolled back")]
    TransactionLost { shard: ShardId },

    /// 55000: `nextval` past the bounds is 2200H.
    #[error("nextval: reached {bound} value of sequence ({value})")]
    SequenceExhausted { bound: String, value: i64 },

    /// The guard of a catalog write did not hold: someone else changed the catalog.
    #[error("the catalog was changed by another session")]
    MetaConflict,

    /// 53200 and its like: a bound of ours.
    #[error("{what} exceeds the limit of {limit}")]
    LimitExceeded { what: String, limit: String },

    /// 40003: sent, but no answer came; the write may or may not be durable.
    #[error("the outcome of the commit on shard {shard} is not known")]
    OutcomeUnknown { shard: ShardId },

    /// 58000
    #[error("shard {shard} is unavailable: {reason}")]
    Unavailable { shard: ShardId, reason: String },

    /// 58000: after a failed fsync or write the shard refuses to write until it is restarted.
    #[error("shard {shard} refuses writes after an I/O error: {reason}")]
    Poisoned { shard: ShardId, reason: String },

    /// XX001
    #[error("shard {shard} found corrupt data: {what}")]
    Corrupt { shard: ShardId, what: String },

    /// 58030
    #[error("shard {shard}: {context}: {error}")]
    Io { shard: ShardId, context: String, error: String },

    /// A fragment failed in execution; the text of the engine's error with its class unknown.
    #[error("{0}")]
    Execution(String),

    /// XX000
    #[error("internal error in shard {shard}: {what}")]
    Internal { shard: ShardId, what: String },
}

impl ShardError {
    /// Whether the same transaction, run again from its start, may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            ShardError::Deadlock { .. }
                | ShardError::Conflict { .. }
                | ShardError::StaleEpoch { .. }
                | ShardError::TransactionLost { .. }
                | ShardError::MetaConflict
        )
    }
}
