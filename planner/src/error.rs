//! What can be wrong with a statement before it runs.

/// A statement that cannot be planned. `position` counts characters from 1 in the statement's text.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    pub kind: PlanErrorKind,
    pub message: String,
    pub position: Option<usize>,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// Classes of plan errors; the gateway gives each its SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanErrorKind {
    /// 42601
    Syntax,
    /// 42P01
    UndefinedTable,
    /// 42703
    UndefinedColumn,
    /// 42883
    UndefinedFunction,
    /// 42704
    UndefinedObject,
    /// 42P02
    UndefinedParameter,
    /// 3F000
    UndefinedSchema,
    /// 42702
    AmbiguousColumn,
    /// 42725
    AmbiguousFunction,
    /// 42P07
    DuplicateTable,
    /// 42701
    DuplicateColumn,
    /// 42P06
    DuplicateSchema,
    /// 42710
    DuplicateObject,
    /// 42712
    DuplicateAlias,
    /// 42803
    Grouping,
    /// 42P20
    Windowing,
    /// 42804
    DatatypeMismatch,
    /// 42846
    CannotCoerce,
    /// 42P18
    IndeterminateDatatype,
    /// 42P10
    InvalidColumnReference,
    /// 42809
    WrongObjectType,
    /// 42P16
    InvalidTableDefinition,
    /// 42830
    InvalidForeignKey,
    /// 42P17
    InvalidObjectDefinition,
    /// 42611
    InvalidColumnDefinition,
    /// 428C9
    GeneratedAlways,
    /// 22023
    InvalidParameterValue,
    /// 42939
    ReservedName,
    /// 42501
    InsufficientPrivilege,
    /// 2BP01
    DependentObjects,
    /// 0A000
    Unsupported,
    /// 54001: nesting, terms.
    TooComplex,
    /// 54011: columns and the like.
    TooManyColumns,
    /// A constant that cannot be, with the value error's own class.
    Value(cortex_shard_api::ValueErrorKind),
    /// XX000
    Internal,
}

impl PlanError {
    /// An error without position, detail or hint.
    pub fn new(kind: PlanErrorKind, message: impl Into<String>) -> PlanError {
        PlanError { kind, message: message.into(), position: None, detail: None, hint: None }
    }

    /// 0A000 with a hint that says what to do instead.
    pub fn unsupported(message: impl Into<String>, hint: impl Into<String>) -> PlanError {
        PlanError::new(PlanErrorKind::Unsupported, message).with_hint(hint)
    }

    /// The same error at a character position (from 1); keeps one that is already there.
    pub fn at(mut self, position: Option<usize>) -> PlanError {
        self.position = self.position.or(position);
        self
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> PlanError {
        self.detail = Some(detail.into());
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> PlanError {
        self.hint = Some(hint.into());
        self
    }
}

impl From<cortex_shard_api::ValueError> for PlanError {
    fn from(error: cortex_shard_api::ValueError) -> PlanError {
        PlanError {
            kind: PlanErrorKind::Value(error.kind),
            message: error.message,
            position: None,
            detail: error.detail,
            hint: error.hint,
        }
    }
}
