//! The bounds of a statement. Each is checked while parsing, before anything grows past it.

/// Bytes of a query text: as many as the gateway takes in one message.
pub const TEXT_BYTES_MAX: usize = 64 << 20;

/// Statements in a query text: as many as the gateway takes of SQL.
pub const STATEMENTS_MAX: usize = 10_000;

/// Bytes of a name; Postgres's identifiers are as long, and keyspaces are tables.
pub const NAME_BYTES_MAX: usize = 63;

/// Parentheses and NOTs inside each other in a condition: every pass over it may recurse that deep.
pub const CONDITION_DEPTH_MAX: usize = 100;

/// Comparisons in one condition: lowering chains them into a tree that must fit the stack of later passes.
pub const COMPARISONS_MAX: usize = 4_000;

/// Objects and arrays inside each other in a JSON literal; a `jsonb` value holds as many.
pub const JSON_DEPTH_MAX: usize = 1_000;

/// Steps of a JSON path.
pub const PATH_STEPS_MAX: usize = 64;

/// Stages of a pipeline: each becomes a level of the plan.
pub const STAGES_MAX: usize = 64;

/// Entries of PROJECT, AGGREGATE, GROUP BY and SORT BY; Postgres's select lists are as long.
pub const COLUMNS_MAX: usize = 1_664;

/// Keys of MGET and values of an IN list.
pub const LIST_MAX: usize = 10_000;

/// Split points of a keyspace.
pub const SPLITS_MAX: usize = 1_024;

/// Components of a vector; pgvector's `vector` holds as many.
pub const VECTOR_DIM_MAX: usize = 16_000;

/// Vectors of one VSEARCH.
pub const VECTORS_MAX: usize = 1_024;

/// Parameters are numbered by 16 bits in the wire protocol.
pub const PARAMETER_MAX: u16 = u16::MAX;

/// A hundred years: beyond it "never" is meant, and arithmetic on timestamps stays far from overflow.
pub const DURATION_MS_MAX: u64 = 36_500 * 86_400_000;

/// Characters of source shown before and after the place of an error.
pub const EXCERPT_CHARS_MAX: usize = 60;
