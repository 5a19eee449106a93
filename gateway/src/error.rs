//! Any error → SQLSTATE, message, position, hint.
//!
//! Lives here: `SqlState`, `PgError` and the exhaustive matches from the errors of the layers below. Not here: how an
//! error looks in bytes (`encode`), and who decides that a connection must end (`session`).

use std::ops::{Deref, DerefMut};

use cortex_planner::error::{PlanError, PlanErrorKind};
use cortex_shard_api::{ShardError, ShardId, ValueError, ValueErrorKind};

/// A SQLSTATE: five characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SqlState(pub &'static str);

macro_rules! states {
    ($($name:ident = $code:literal;)*) => {
        impl SqlState {
            $(#[doc = $code] pub const $name: SqlState = SqlState($code);)*
        }
    };
}

states! {
    SUCCESSFUL_COMPLETION = "00000";
    WARNING = "01000";
    PROTOCOL_VIOLATION = "08P01";
    CONNECTION_FAILURE = "08006";
    FEATURE_NOT_SUPPORTED = "0A000";
    CARDINALITY_VIOLATION = "21000";
    INVALID_ROW_COUNT_IN_LIMIT = "2201W";
    INVALID_ROW_COUNT_IN_OFFSET = "2201X";
    DATA_EXCEPTION = "22000";
    STRING_DATA_RIGHT_TRUNCATION = "22001";
    NUMERIC_VALUE_OUT_OF_RANGE = "22003";
    NULL_VALUE_NOT_ALLOWED = "22004";
    INVALID_DATETIME_FORMAT = "22007";
    DATETIME_FIELD_OVERFLOW = "22008";
    SUBSTRING_ERROR = "22011";
    DIVISION_BY_ZERO = "22012";
    INTERVAL_FIELD_OVERFLOW = "22015";
    INVALID_ARGUMENT_FOR_LOG = "2201E";
    INVALID_ARGUMENT_FOR_POWER = "2201F";
    INVALID_ARGUMENT_FOR_WIDTH_BUCKET = "2201G";
    INVALID_REGULAR_EXPRESSION = "2201B";
    CHARACTER_NOT_IN_REPERTOIRE = "22021";
    INVALID_PARAMETER_VALUE = "22023";
    INVALID_ESCAPE_SEQUENCE = "22025";
    ARRAY_SUBSCRIPT_ERROR = "2202E";
    INVALID_TEXT_REPRESENTATION = "22P02";
    INVALID_BINARY_REPRESENTATION = "22P03";
    BAD_COPY_FILE_FORMAT = "22P04";
    NOT_NULL_VIOLATION = "23502";
    FOREIGN_KEY_VIOLATION = "23503";
    UNIQUE_VIOLATION = "23505";
    CHECK_VIOLATION = "23514";
    INVALID_CURSOR_STATE = "24000";
    ACTIVE_SQL_TRANSACTION = "25001";
    READ_ONLY_SQL_TRANSACTION = "25006";
    NO_ACTIVE_SQL_TRANSACTION = "25P01";
    IN_FAILED_SQL_TRANSACTION = "25P02";
    INVALID_SQL_STATEMENT_NAME = "26000";
    INVALID_AUTHORIZATION = "28000";
    INVALID_PASSWORD = "28P01";
    DEPENDENT_OBJECTS_STILL_EXIST = "2BP01";
    INVALID_CURSOR_NAME = "34000";
    INVALID_SAVEPOINT = "3B001";
    INVALID_CATALOG_NAME = "3D000";
    INVALID_SCHEMA_NAME = "3F000";
    SEQUENCE_LIMIT_EXCEEDED = "2200H";
    SERIALIZATION_FAILURE = "40001";
    STATEMENT_COMPLETION_UNKNOWN = "40003";
    DEADLOCK_DETECTED = "40P01";
    INSUFFICIENT_PRIVILEGE = "42501";
    SYNTAX_ERROR = "42601";
    INVALID_NAME = "42602";
    INVALID_COLUMN_DEFINITION = "42611";
    DUPLICATE_COLUMN = "42701";
    AMBIGUOUS_COLUMN = "42702";
    UNDEFINED_COLUMN = "42703";
    UNDEFINED_OBJECT = "42704";
    DUPLICATE_OBJECT = "42710";
    DUPLICATE_ALIAS = "42712";
    AMBIGUOUS_FUNCTION = "42725";
    GROUPING_ERROR = "42803";
    DATATYPE_MISMATCH = "42804";
    WRONG_OBJECT_TYPE = "42809";
    INVALID_FOREIGN_KEY = "42830";
    CANNOT_COERCE = "42846";
    UNDEFINED_FUNCTION = "42883";
    GENERATED_ALWAYS = "428C9";
    UNDEFINED_TABLE = "42P01";
    UNDEFINED_PARAMETER = "42P02";
    DUPLICATE_CURSOR = "42P03";
    DUPLICATE_PREPARED_STATEMENT = "42P05";
    DUPLICATE_SCHEMA = "42P06";
    RESERVED_NAME = "42939";
    DUPLICATE_TABLE = "42P07";
    AMBIGUOUS_PARAMETER = "42P08";
    INVALID_COLUMN_REFERENCE = "42P10";
    INVALID_TABLE_DEFINITION = "42P16";
    INVALID_OBJECT_DEFINITION = "42P17";
    INDETERMINATE_DATATYPE = "42P18";
    WINDOWING_ERROR = "42P20";
    INSUFFICIENT_RESOURCES = "53000";
    DISK_FULL = "53100";
    OUT_OF_MEMORY = "53200";
    TOO_MANY_CONNECTIONS = "53300";
    CONFIGURATION_LIMIT_EXCEEDED = "53400";
    PROGRAM_LIMIT_EXCEEDED = "54000";
    STATEMENT_TOO_COMPLEX = "54001";
    TOO_MANY_COLUMNS = "54011";
    TOO_MANY_ARGUMENTS = "54023";
    OBJECT_NOT_IN_PREREQUISITE_STATE = "55000";
    OBJECT_IN_USE = "55006";
    CANT_CHANGE_RUNTIME_PARAM = "55P02";
    LOCK_NOT_AVAILABLE = "55P03";
    QUERY_CANCELED = "57014";
    ADMIN_SHUTDOWN = "57P01";
    CANNOT_CONNECT_NOW = "57P03";
    SYSTEM_ERROR = "58000";
    IO_ERROR = "58030";
    PARTIAL_COMMIT = "CX001";
    INTERNAL_ERROR = "XX000";
    DATA_CORRUPTED = "XX001";
}

/// What to do about a shard that is down.
pub const SHARD_DOWN_HINT: &str = "Statements that do not need this shard go on, and it is asked again by the next one that \
     does: bring it back and repeat. SET cortex.partial_reads = 'allow' lets a SELECT over several shards answer without it.";

/// What an error does to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Ends the statement.
    Error,
    /// Ends the connection.
    Fatal,
    /// Ends the process; Postgres's word, kept for completeness.
    Panic,
}

impl Severity {
    /// As it stands in ErrorResponse.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Panic => "PANIC",
        }
    }
}

/// The fields of an error as the client sees it.
#[derive(Clone, Debug)]
pub struct ErrorFields {
    pub severity: Severity,
    pub code: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Characters from 1 in the statement.
    pub position: Option<usize>,
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
    /// CONTEXT, such as `COPY t, line 3, column b: "x"`.
    pub context: Option<String>,
    /// The statement was bound to a schema that is no more, and has done nothing: it may be bound again.
    pub is_stale: bool,
    /// The shard that could not be reached, if that was it.
    pub down: Option<ShardId>,
}

/// An error as the client sees it: one pointer, so that `Result`s stay small. Read and change its fields through it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct PgError(Box<ErrorFields>);

impl Deref for PgError {
    type Target = ErrorFields;

    fn deref(&self) -> &ErrorFields {
        &self.0
    }
}

impl DerefMut for PgError {
    fn deref_mut(&mut self) -> &mut ErrorFields {
        &mut self.0
    }
}

impl PgError {
    /// An ERROR without further fields.
    pub fn new(code: SqlState, message: impl Into<String>) -> PgError {
        PgError(Box::new(ErrorFields {
            severity: Severity::Error,
            code,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            schema: None,
            table: None,
            column: None,
            constraint: None,
            context: None,
            is_stale: false,
            down: None,
        }))
    }

    /// An error of a statement that did nothing because the schema has changed since it was bound.
    pub fn stale(mut self) -> PgError {
        self.is_stale = true;
        self
    }

    /// An error after which the connection ends.
    pub fn fatal(code: SqlState, message: impl Into<String>) -> PgError {
        let mut error = PgError::new(code, message);
        error.severity = Severity::Fatal;
        error
    }

    /// 0A000 with a hint that says what to do instead.
    pub fn unsupported(message: impl Into<String>, hint: impl Into<String>) -> PgError {
        PgError::new(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(hint)
    }

    /// XX000: our bug.
    pub fn internal(message: impl Into<String>) -> PgError {
        PgError::new(SqlState::INTERNAL_ERROR, message)
    }

    /// 08P01 that ends the connection: what follows on the wire cannot be trusted.
    pub fn protocol(message: impl Into<String>) -> PgError {
        PgError::fatal(SqlState::PROTOCOL_VIOLATION, message)
    }

    /// Whether the connection must end.
    pub fn is_fatal(&self) -> bool {
        match self.severity {
            Severity::Error => false,
            Severity::Fatal | Severity::Panic => true,
        }
    }

    /// The same error at a character position (from 1); keeps one that is already there.
    pub fn at(mut self, position: Option<usize>) -> PgError {
        self.position = self.position.or(position);
        self
    }

    /// Moves the position of an error in one statement to where it is in the whole query text.
    pub fn shifted(mut self, offset: usize) -> PgError {
        self.position = self.position.map(|position| position + offset);
        self
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> PgError {
        self.detail = Some(detail.into());
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> PgError {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_context(mut self, context: impl Into<String>) -> PgError {
        self.context = Some(context.into());
        self
    }

    /// Names the table (and constraint or column) that the error is about.
    fn about(mut self, schema: String, table: String) -> PgError {
        self.schema = Some(schema);
        self.table = Some(table);
        self
    }

    fn constraint(mut self, constraint: String) -> PgError {
        self.constraint = Some(constraint);
        self
    }
}

/// The SQLSTATE of a class of value errors.
pub const fn value_state(kind: ValueErrorKind) -> SqlState {
    match kind {
        ValueErrorKind::InvalidText => SqlState::INVALID_TEXT_REPRESENTATION,
        ValueErrorKind::InvalidBinary => SqlState::INVALID_BINARY_REPRESENTATION,
        ValueErrorKind::OutOfRange => SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        ValueErrorKind::DivisionByZero => SqlState::DIVISION_BY_ZERO,
        ValueErrorKind::StringTooLong => SqlState::STRING_DATA_RIGHT_TRUNCATION,
        ValueErrorKind::InvalidDatetime => SqlState::INVALID_DATETIME_FORMAT,
        ValueErrorKind::DatetimeOverflow => SqlState::DATETIME_FIELD_OVERFLOW,
        ValueErrorKind::IntervalOverflow => SqlState::INTERVAL_FIELD_OVERFLOW,
        ValueErrorKind::InvalidParameter => SqlState::INVALID_PARAMETER_VALUE,
        ValueErrorKind::InvalidCharacter => SqlState::CHARACTER_NOT_IN_REPERTOIRE,
        ValueErrorKind::InvalidEscape => SqlState::INVALID_ESCAPE_SEQUENCE,
        ValueErrorKind::InvalidRegex => SqlState::INVALID_REGULAR_EXPRESSION,
        ValueErrorKind::SubstringLength => SqlState::SUBSTRING_ERROR,
        ValueErrorKind::ArraySubscript => SqlState::ARRAY_SUBSCRIPT_ERROR,
        ValueErrorKind::InvalidArgument => SqlState::INVALID_ARGUMENT_FOR_LOG,
        ValueErrorKind::InvalidPower => SqlState::INVALID_ARGUMENT_FOR_POWER,
        ValueErrorKind::InvalidBucket => SqlState::INVALID_ARGUMENT_FOR_WIDTH_BUCKET,
        ValueErrorKind::LimitExceeded => SqlState::PROGRAM_LIMIT_EXCEEDED,
        ValueErrorKind::NullNotAllowed => SqlState::NULL_VALUE_NOT_ALLOWED,
        ValueErrorKind::Cardinality => SqlState::CARDINALITY_VIOLATION,
        ValueErrorKind::InvalidRowCount => SqlState::INVALID_ROW_COUNT_IN_LIMIT,
        ValueErrorKind::InvalidRowOffset => SqlState::INVALID_ROW_COUNT_IN_OFFSET,
        ValueErrorKind::UndefinedTable => SqlState::UNDEFINED_TABLE,
        ValueErrorKind::UndefinedColumn => SqlState::UNDEFINED_COLUMN,
        ValueErrorKind::UndefinedObject => SqlState::UNDEFINED_OBJECT,
        ValueErrorKind::UndefinedFunction => SqlState::UNDEFINED_FUNCTION,
        ValueErrorKind::AmbiguousFunction => SqlState::AMBIGUOUS_FUNCTION,
        ValueErrorKind::UndefinedSchema => SqlState::INVALID_SCHEMA_NAME,
        ValueErrorKind::WrongObjectType => SqlState::WRONG_OBJECT_TYPE,
        ValueErrorKind::InvalidName => SqlState::INVALID_NAME,
        ValueErrorKind::NotInPrerequisiteState => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        ValueErrorKind::SequenceExhausted => SqlState::SEQUENCE_LIMIT_EXCEEDED,
        ValueErrorKind::Unsupported => SqlState::FEATURE_NOT_SUPPORTED,
        ValueErrorKind::TypeMismatch => SqlState::DATATYPE_MISMATCH,
        ValueErrorKind::ShardUnavailable => SqlState::SYSTEM_ERROR,
        ValueErrorKind::Internal => SqlState::INTERNAL_ERROR,
    }
}

/// The SQLSTATE of a class of plan errors.
pub const fn plan_state(kind: PlanErrorKind) -> SqlState {
    match kind {
        PlanErrorKind::Syntax => SqlState::SYNTAX_ERROR,
        PlanErrorKind::UndefinedTable => SqlState::UNDEFINED_TABLE,
        PlanErrorKind::UndefinedColumn => SqlState::UNDEFINED_COLUMN,
        PlanErrorKind::UndefinedFunction => SqlState::UNDEFINED_FUNCTION,
        PlanErrorKind::UndefinedObject => SqlState::UNDEFINED_OBJECT,
        PlanErrorKind::UndefinedParameter => SqlState::UNDEFINED_PARAMETER,
        PlanErrorKind::UndefinedSchema => SqlState::INVALID_SCHEMA_NAME,
        PlanErrorKind::AmbiguousColumn => SqlState::AMBIGUOUS_COLUMN,
        PlanErrorKind::AmbiguousFunction => SqlState::AMBIGUOUS_FUNCTION,
        PlanErrorKind::DuplicateTable => SqlState::DUPLICATE_TABLE,
        PlanErrorKind::DuplicateColumn => SqlState::DUPLICATE_COLUMN,
        PlanErrorKind::DuplicateSchema => SqlState::DUPLICATE_SCHEMA,
        PlanErrorKind::DuplicateObject => SqlState::DUPLICATE_OBJECT,
        PlanErrorKind::DuplicateAlias => SqlState::DUPLICATE_ALIAS,
        PlanErrorKind::Grouping => SqlState::GROUPING_ERROR,
        PlanErrorKind::Windowing => SqlState::WINDOWING_ERROR,
        PlanErrorKind::DatatypeMismatch => SqlState::DATATYPE_MISMATCH,
        PlanErrorKind::CannotCoerce => SqlState::CANNOT_COERCE,
        PlanErrorKind::IndeterminateDatatype => SqlState::INDETERMINATE_DATATYPE,
        PlanErrorKind::InvalidColumnReference => SqlState::INVALID_COLUMN_REFERENCE,
        PlanErrorKind::WrongObjectType => SqlState::WRONG_OBJECT_TYPE,
        PlanErrorKind::InvalidTableDefinition => SqlState::INVALID_TABLE_DEFINITION,
        PlanErrorKind::InvalidForeignKey => SqlState::INVALID_FOREIGN_KEY,
        PlanErrorKind::InvalidObjectDefinition => SqlState::INVALID_OBJECT_DEFINITION,
        PlanErrorKind::InvalidColumnDefinition => SqlState::INVALID_COLUMN_DEFINITION,
        PlanErrorKind::GeneratedAlways => SqlState::GENERATED_ALWAYS,
        PlanErrorKind::InvalidParameterValue => SqlState::INVALID_PARAMETER_VALUE,
        PlanErrorKind::ReservedName => SqlState::RESERVED_NAME,
        PlanErrorKind::InsufficientPrivilege => SqlState::INSUFFICIENT_PRIVILEGE,
        PlanErrorKind::DependentObjects => SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
        PlanErrorKind::Unsupported => SqlState::FEATURE_NOT_SUPPORTED,
        PlanErrorKind::TooComplex => SqlState::STATEMENT_TOO_COMPLEX,
        PlanErrorKind::TooManyColumns => SqlState::TOO_MANY_COLUMNS,
        PlanErrorKind::Value(kind) => value_state(kind),
        PlanErrorKind::Internal => SqlState::INTERNAL_ERROR,
    }
}

impl From<ValueError> for PgError {
    fn from(error: ValueError) -> PgError {
        let mut out = PgError::new(value_state(error.kind), error.message);
        out.detail = error.detail;
        out.hint = error.hint;
        out
    }
}

impl From<PlanError> for PgError {
    fn from(error: PlanError) -> PgError {
        let mut out = PgError::new(plan_state(error.kind), error.message);
        out.position = error.position;
        out.detail = error.detail;
        out.hint = error.hint;
        out
    }
}

impl From<ShardError> for PgError {
    fn from(error: ShardError) -> PgError {
        let message = error.to_string();
        let with = |code| PgError::new(code, message.clone());
        match error {
            ShardError::UniqueViolation { schema, table, constraint, detail } => {
                with(SqlState::UNIQUE_VIOLATION)
                    .with_detail(detail)
                    .about(schema, table)
                    .constraint(constraint)
            }
            ShardError::NotNullViolation { schema, table, column, detail } => {
                let mut out =
                    with(SqlState::NOT_NULL_VIOLATION).with_detail(detail).about(schema, table);
                out.column = Some(column);
                out
            }
            ShardError::CheckViolation { schema, table, constraint, detail } => {
                with(SqlState::CHECK_VIOLATION)
                    .with_detail(detail)
                    .about(schema, table)
                    .constraint(constraint)
            }
            ShardError::ForeignKeyViolation { schema, table, constraint, message: _, detail } => {
                with(SqlState::FOREIGN_KEY_VIOLATION)
                    .with_detail(detail)
                    .about(schema, table)
                    .constraint(constraint)
            }
            ShardError::CardinalityViolation => with(SqlState::CARDINALITY_VIOLATION).with_hint(
                "Ensure that no rows proposed for insertion within the same command have \
                 duplicate constrained values.",
            ),
            ShardError::Value(error) => error.into(),
            ShardError::Deadlock { detail } => with(SqlState::DEADLOCK_DETECTED)
                .with_detail(detail)
                .with_hint("The transaction was chosen as the victim; run it again."),
            ShardError::LockNotAvailable { message: _ } => with(SqlState::LOCK_NOT_AVAILABLE),
            ShardError::Conflict { reason: _ } => with(SqlState::SERIALIZATION_FAILURE)
                .with_hint("The transaction might succeed if retried."),
            ShardError::StaleEpoch { shard: _, current: _ } => {
                with(SqlState::SERIALIZATION_FAILURE)
                    .with_hint("The shard map has changed meanwhile; retry the transaction.")
                    .stale()
            }
            ShardError::TransactionLost { shard: _ } => with(SqlState::SERIALIZATION_FAILURE)
                .with_hint("The transaction might succeed if retried."),
            ShardError::SequenceExhausted { bound: _, value: _ } => {
                with(SqlState::SEQUENCE_LIMIT_EXCEEDED)
            }
            ShardError::MetaConflict => with(SqlState::SERIALIZATION_FAILURE)
                .with_hint("The transaction might succeed if retried."),
            ShardError::LimitExceeded { what: _, limit: _ } => with(SqlState::OUT_OF_MEMORY),
            ShardError::OutcomeUnknown { shard: _ } => with(SqlState::STATEMENT_COMPLETION_UNKNOWN)
                .with_hint(
                    "Read the rows back before retrying: the write may have been committed.",
                ),
            ShardError::Unavailable { shard, reason: _ } => {
                let mut out = with(SqlState::SYSTEM_ERROR).with_hint(SHARD_DOWN_HINT);
                out.down = Some(shard);
                out
            }
            ShardError::Poisoned { shard: _, reason: _ } => with(SqlState::SYSTEM_ERROR).with_hint(
                "Check the disk, then restart this shard; what was acknowledged is safe.",
            ),
            ShardError::Corrupt { shard: _, what: _ } => with(SqlState::DATA_CORRUPTED),
            ShardError::Io { shard: _, context: _, error: _ } => with(SqlState::IO_ERROR),
            ShardError::Execution(_) => with(SqlState::INTERNAL_ERROR),
            ShardError::Internal { shard: _, what: _ } => with(SqlState::INTERNAL_ERROR),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_names_its_constraint() {
        let error: PgError = ShardError::UniqueViolation {
            schema: "public".into(),
            table: "t".into(),
            constraint: "t_pkey".into(),
            detail: "Key (id)=(1) already exists.".into(),
        }
        .into();
        assert_eq!(error.code, SqlState::UNIQUE_VIOLATION);
        assert_eq!(error.message, "duplicate key value violates unique constraint \"t_pkey\"");
        assert_eq!(error.constraint.as_deref(), Some("t_pkey"));
        assert_eq!(error.detail.as_deref(), Some("Key (id)=(1) already exists."));
    }

    #[test]
    fn positions_move_with_their_statement() {
        let error = PgError::new(SqlState::SYNTAX_ERROR, "x").at(Some(3)).at(Some(9)).shifted(10);
        assert_eq!(error.position, Some(13));
    }
}
