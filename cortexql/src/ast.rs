//! What a statement says: names, literals, parameters and their places; no types, no catalog.
//!
//! Names are folded to lower case unless quoted, as in SQL, because keyspaces and collections are tables there.
//! Durations are milliseconds, JSON literals and numbers keep their text.

pub use crate::duration::Duration;
use crate::token::Spanned;

/// A keyspace, a collection, an index, a column or an alias.
pub type Name = Spanned<String>;

/// `$1` is 1.
pub type ParameterIndex = u16;

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// A key-value command; `keyspace` is what `IN` names, none for the session's.
    KeyValue {
        keyspace: Option<Name>,
        command: KeyValue,
    },
    Pipeline(Pipeline),
    CreateKeyspace(CreateKeyspace),
    DropKeyspace {
        name: Name,
        if_exists: bool,
    },
    Use {
        keyspace: Name,
    },
    CreateIndex(CreateIndex),
    /// VCREATE
    CreateCollection(CreateCollection),
    /// VPUT
    PutVector {
        collection: Name,
        id: Spanned<Key>,
        vector: Spanned<Input<Vec<f32>>>,
        meta: Option<Spanned<Input<Json>>>,
    },
    /// VGET
    GetVector {
        collection: Name,
        id: Spanned<Key>,
    },
    /// VDELETE
    DeleteVector {
        collection: Name,
        id: Spanned<Key>,
    },
    Describe {
        name: Name,
    },
    Stats {
        name: Name,
    },
    /// `statement` is a key-value command, a pipeline or one on a vector.
    Explain {
        analyze: bool,
        statement: Box<Spanned<Statement>>,
    },
    Show(Show),
    Begin,
    Commit,
    Rollback,
}

/// Commands on keys.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyValue {
    Put {
        key: Spanned<Key>,
        value: Spanned<Value>,
        ttl: Option<Spanned<Input<Duration>>>,
        condition: Option<PutCondition>,
    },
    Get {
        key: Spanned<Key>,
    },
    Mget {
        keys: Vec<Spanned<Key>>,
    },
    Delete {
        key: Spanned<Key>,
    },
    /// All keys of a range that match.
    DeleteRange {
        range: KeyRange,
        filter: Option<Spanned<Condition>>,
    },
    Exists {
        key: Spanned<Key>,
    },
    Ttl {
        key: Spanned<Key>,
    },
    Expire {
        key: Spanned<Key>,
        ttl: Spanned<Input<Duration>>,
    },
    Incr {
        key: Spanned<Key>,
        /// One, if absent.
        by: Option<Spanned<Input<i64>>>,
    },
}

/// What must hold for PUT to write.
#[derive(Clone, Debug, PartialEq)]
pub enum PutCondition {
    /// IF ABSENT
    Absent,
    /// IF VALUE v: the key has that value.
    Value(Spanned<Value>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    Text(String),
    Bytes(Vec<u8>),
    Parameter(ParameterIndex),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Json(Json),
    /// `JSON $1` says of what kind it is; without, its type decides.
    Parameter {
        index: ParameterIndex,
        kind: Option<ValueKind>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    Text,
    Bytes,
    Json,
}

/// A literal, or a parameter in its place.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<T> {
    Literal(T),
    Parameter(ParameterIndex),
}

/// The text of a valid JSON value, without blanks around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json {
    pub text: String,
}

/// Keys in key order.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyRange {
    All,
    Prefix(Spanned<Key>),
    /// From the first, inclusive, to the second, exclusive.
    Between(Spanned<Key>, Spanned<Key>),
}

/// Rows from a source, and what happens to them in turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    pub source: Source,
    pub stages: Vec<Spanned<Stage>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Scan {
        keyspace: Option<Name>,
        range: KeyRange,
        reverse: bool,
    },
    /// VSEARCH: the `k` nearest to each vector, nearest first, among the rows that match `filter`.
    VectorSearch {
        collection: Name,
        vectors: Vec<Spanned<Input<Vec<f32>>>>,
        k: Spanned<Input<u64>>,
        filter: Option<Spanned<Condition>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    Where(Spanned<Condition>),
    Project(Vec<Output>),
    SortBy(Vec<SortKey>),
    Aggregate {
        aggregates: Vec<Aggregate>,
        group_by: Vec<Output>,
    },
    Limit {
        limit: Spanned<Input<u64>>,
        offset: Option<Spanned<Input<u64>>>,
    },
    /// From where a token points to; without one, from the start. The answer carries the next token.
    Cursor(Option<Spanned<Input<String>>>),
}

/// A column of the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub field: Spanned<Field>,
    pub alias: Option<Name>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SortKey {
    pub field: Spanned<Field>,
    pub is_descending: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    pub function: AggregateFunction,
    /// None only for `COUNT()`, which counts rows.
    pub argument: Option<Spanned<Field>>,
    pub alias: Option<Name>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    Count,
    Min,
    Max,
    Sum,
    Avg,
}

/// Something of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// `JSON("$.age")`: inside the document; `value` of a keyspace, `meta` of a collection.
    Json(JsonPath),
    /// `key`, or an alias of an earlier stage; `META.category` has steps.
    Column { name: String, steps: Vec<Step> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath {
    /// None for `$`, the whole document.
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Case matters.
    Field(String),
    /// Counted from zero.
    Index(u32),
}

/// What WHERE and FILTER ask of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// Two or more.
    Or(Vec<Spanned<Condition>>),
    /// Two or more.
    And(Vec<Spanned<Condition>>),
    Not(Box<Spanned<Condition>>),
    Compare {
        left: Spanned<Operand>,
        operator: Comparison,
        right: Spanned<Operand>,
    },
    Between {
        operand: Spanned<Operand>,
        is_negated: bool,
        low: Spanned<Operand>,
        high: Spanned<Operand>,
    },
    /// One or more in the list.
    In {
        operand: Spanned<Operand>,
        is_negated: bool,
        list: Vec<Spanned<Operand>>,
    },
    Like {
        operand: Spanned<Operand>,
        is_negated: bool,
        pattern: Spanned<Input<String>>,
    },
    IsNull {
        operand: Spanned<Operand>,
        is_negated: bool,
    },
    /// The document has the field, be it null.
    Exists(Spanned<Field>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    Field(Field),
    Text(String),
    Bytes(Vec<u8>),
    /// Digits as written, a JSON number.
    Number(String),
    Bool(bool),
    Parameter(ParameterIndex),
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateKeyspace {
    pub name: Name,
    pub if_not_exists: bool,
    pub shard_by: Option<ShardBy>,
    /// Keys at which the ranges of a new keyspace are cut.
    pub split_at: Vec<Spanned<Key>>,
    /// For keys that are put without one.
    pub ttl: Option<Spanned<Duration>>,
    pub schema: Option<Spanned<Json>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardBy {
    Hash,
    Range,
}

/// `CREATE INDEX ON users JSON("$.email") UNIQUE`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateIndex {
    pub name: Option<Name>,
    pub if_not_exists: bool,
    pub keyspace: Name,
    pub path: Spanned<JsonPath>,
    pub is_unique: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateCollection {
    pub name: Name,
    pub if_not_exists: bool,
    pub dim: Spanned<u32>,
    pub metric: Metric,
    pub index: Option<VectorIndex>,
    pub quantize: Option<Quantize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    Cosine,
    L2,
    Dot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorIndex {
    Hnsw,
    Flat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantize {
    Int8,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Keyspaces,
    Collections,
    Shards,
    Indexes,
}
