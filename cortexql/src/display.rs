//! AST → canonical text: `parse(print(ast)) == ast`.
//!
//! Keywords in upper case, options in the order of the grammar, text in double quotes unless it holds quotes or
//! backslashes itself, names bare unless they would be read otherwise.

use std::fmt::{self, Display, Formatter, Write};

use crate::{
    ast::{
        Aggregate, AggregateFunction, Comparison, Condition, CreateCollection, CreateIndex,
        CreateKeyspace, Field, Input, Json, JsonPath, Key, KeyRange, KeyValue, Metric, Name,
        Operand, Output, Pipeline, PutCondition, Quantize, ShardBy, Show, SortKey, Source, Stage,
        Statement, Step, Value, ValueKind, VectorIndex,
    },
    quote::{Escaped, Hex, Quoted, Text, is_word},
    token::Spanned,
};

impl<T: Display> Display for Spanned<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Statement::KeyValue { keyspace, command } => {
                in_keyspace(f, keyspace.as_ref())?;
                command.fmt(f)
            }
            Statement::Pipeline(pipeline) => pipeline.fmt(f),
            Statement::CreateKeyspace(create) => create.fmt(f),
            Statement::DropKeyspace { name, if_exists } => {
                let if_exists = if *if_exists { "IF EXISTS " } else { "" };
                write!(f, "DROP KEYSPACE {if_exists}{}", Quoted(name))
            }
            Statement::Use { keyspace } => write!(f, "USE {}", Quoted(keyspace)),
            Statement::CreateIndex(create) => create.fmt(f),
            Statement::CreateCollection(create) => create.fmt(f),
            Statement::PutVector { collection, id, vector, meta } => {
                write!(f, "VPUT {} {id} {}", Quoted(collection), Vector(vector))?;
                optional(f, " META ", meta.as_ref().map(|meta| &meta.node))
            }
            Statement::GetVector { collection, id } => {
                write!(f, "VGET {} {id}", Quoted(collection))
            }
            Statement::DeleteVector { collection, id } => {
                write!(f, "VDELETE {} {id}", Quoted(collection))
            }
            Statement::Describe { name } => write!(f, "DESCRIBE {}", Quoted(name)),
            Statement::Stats { name } => write!(f, "STATS {}", Quoted(name)),
            Statement::Explain { analyze, statement } => {
                write!(f, "EXPLAIN {}{statement}", if *analyze { "ANALYZE " } else { "" })
            }
            Statement::Show(show) => write!(f, "SHOW {show}"),
            Statement::Begin => f.write_str("BEGIN"),
            Statement::Commit => f.write_str("COMMIT"),
            Statement::Rollback => f.write_str("ROLLBACK"),
        }
    }
}

impl Display for KeyValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            KeyValue::Put { key, value, ttl, condition } => {
                write!(f, "PUT {key} {value}")?;
                optional(f, " TTL ", ttl.as_ref())?;
                match condition {
                    None => Ok(()),
                    Some(PutCondition::Absent) => f.write_str(" IF ABSENT"),
                    Some(PutCondition::Value(value)) => write!(f, " IF VALUE {value}"),
                }
            }
            KeyValue::Get { key } => write!(f, "GET {key}"),
            KeyValue::Mget { keys } => {
                f.write_str("MGET")?;
                keys.iter().try_for_each(|key| write!(f, " {key}"))
            }
            KeyValue::Delete { key } => write!(f, "DELETE {key}"),
            KeyValue::DeleteRange { range, filter } => {
                write!(f, "DELETE {range}")?;
                optional(f, " | WHERE ", filter.as_ref())
            }
            KeyValue::Exists { key } => write!(f, "EXISTS {key}"),
            KeyValue::Ttl { key } => write!(f, "TTL {key}"),
            KeyValue::Expire { key, ttl } => write!(f, "EXPIRE {key} {ttl}"),
            KeyValue::Incr { key, by } => {
                write!(f, "INCR {key}")?;
                optional(f, " BY ", by.as_ref())
            }
        }
    }
}

impl Display for Pipeline {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)?;
        self.stages.iter().try_for_each(|stage| write!(f, " | {stage}"))
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Source::Scan { keyspace, range, reverse } => {
                in_keyspace(f, keyspace.as_ref())?;
                write!(f, "SCAN {range}{}", if *reverse { " REVERSE" } else { "" })
            }
            Source::VectorSearch { collection, vectors, k, filter } => {
                write!(f, "VSEARCH {} ", Quoted(collection))?;
                separated(f, vectors.iter().map(Vector))?;
                write!(f, " TOPK {k}")?;
                optional(f, " FILTER ", filter.as_ref())
            }
        }
    }
}

impl Display for KeyRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            KeyRange::All => f.write_str("ALL"),
            KeyRange::Prefix(prefix) => write!(f, "PREFIX {prefix}"),
            KeyRange::Between(from, to) => write!(f, "RANGE {from} {to}"),
        }
    }
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Where(condition) => write!(f, "WHERE {condition}"),
            Stage::Project(outputs) => {
                f.write_str("PROJECT ")?;
                separated(f, outputs.iter())
            }
            Stage::SortBy(keys) => {
                f.write_str("SORT BY ")?;
                separated(f, keys.iter())
            }
            Stage::Aggregate { aggregates, group_by } => {
                f.write_str("AGGREGATE ")?;
                separated(f, aggregates.iter())?;
                if group_by.is_empty() {
                    return Ok(());
                }
                f.write_str(" GROUP BY ")?;
                separated(f, group_by.iter())
            }
            Stage::Limit { limit, offset } => {
                write!(f, "LIMIT {limit}")?;
                optional(f, " OFFSET ", offset.as_ref())
            }
            Stage::Cursor(token) => {
                f.write_str("CURSOR")?;
                optional(f, " ", token.as_ref().map(|token| TextInput(&token.node)))
            }
        }
    }
}

impl Display for Output {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.field.fmt(f)?;
        optional(f, " AS ", self.alias.as_ref().map(Quoted))
    }
}

impl Display for SortKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.field, if self.is_descending { " DESC" } else { "" })
    }
}

impl Display for Aggregate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.function)?;
        optional(f, "", self.argument.as_ref())?;
        f.write_str(")")?;
        optional(f, " AS ", self.alias.as_ref().map(Quoted))
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Or(terms) => {
                joined(f, terms, " OR ", |term| matches!(term, Condition::Or(_)))
            }
            Condition::And(terms) => joined(f, terms, " AND ", Condition::is_chain),
            Condition::Not(inner) => {
                f.write_str("NOT ")?;
                parenthesized(f, &inner.node, inner.node.is_chain())
            }
            Condition::Compare { left, operator, right } => write!(f, "{left} {operator} {right}"),
            Condition::Between { operand, is_negated, low, high } => {
                write!(f, "{operand} {}BETWEEN {low} AND {high}", not(*is_negated))
            }
            Condition::In { operand, is_negated, list } => {
                write!(f, "{operand} {}IN (", not(*is_negated))?;
                separated(f, list.iter())?;
                f.write_str(")")
            }
            Condition::Like { operand, is_negated, pattern } => {
                write!(f, "{operand} {}LIKE {}", not(*is_negated), TextInput(&pattern.node))
            }
            Condition::IsNull { operand, is_negated } => {
                write!(f, "{operand} IS {}NULL", not(*is_negated))
            }
            Condition::Exists(field) => write!(f, "EXISTS {field}"),
        }
    }
}

impl Condition {
    fn is_chain(&self) -> bool {
        matches!(self, Condition::And(_) | Condition::Or(_))
    }
}

fn not(is_negated: bool) -> &'static str {
    if is_negated { "NOT " } else { "" }
}

fn joined(
    f: &mut Formatter<'_>,
    terms: &[Spanned<Condition>],
    separator: &str,
    needs_parentheses: impl Fn(&Condition) -> bool,
) -> fmt::Result {
    for (position, term) in terms.iter().enumerate() {
        if position > 0 {
            f.write_str(separator)?;
        }
        parenthesized(f, &term.node, needs_parentheses(&term.node))?;
    }
    Ok(())
}

fn parenthesized(f: &mut Formatter<'_>, condition: &Condition, is_needed: bool) -> fmt::Result {
    if is_needed { write!(f, "({condition})") } else { condition.fmt(f) }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Field::Json(path) => path.fmt(f),
            Field::Column { name, steps } => {
                f.write_str(name)?;
                steps.iter().try_for_each(|step| match step {
                    Step::Field(name) if is_word(name) => write!(f, ".{name}"),
                    Step::Field(name) => write!(f, ".{}", Text(name)),
                    Step::Index(index) => write!(f, "[{index}]"),
                })
            }
        }
    }
}

impl Display for JsonPath {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut path = String::from("$");
        for step in &self.steps {
            match step {
                Step::Field(name) if is_word(name) => write!(path, ".{name}")?,
                Step::Field(name) => write!(path, ".{}", Escaped(name))?,
                Step::Index(index) => write!(path, "[{index}]")?,
            }
        }
        write!(f, "JSON({})", Text(&path))
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Field(field) => field.fmt(f),
            Operand::Text(text) => Text(text).fmt(f),
            Operand::Bytes(bytes) => Hex(bytes).fmt(f),
            Operand::Number(digits) => f.write_str(digits),
            Operand::Bool(value) => f.write_str(if *value { "TRUE" } else { "FALSE" }),
            Operand::Parameter(index) => write!(f, "${index}"),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Key::Text(text) => Text(text).fmt(f),
            Key::Bytes(bytes) => Hex(bytes).fmt(f),
            Key::Parameter(index) => write!(f, "${index}"),
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => Text(text).fmt(f),
            Value::Bytes(bytes) => Hex(bytes).fmt(f),
            Value::Json(json) => json.fmt(f),
            Value::Parameter { index, kind: None } => write!(f, "${index}"),
            Value::Parameter { index, kind: Some(kind) } => write!(f, "{kind} ${index}"),
        }
    }
}

impl Display for Json {
    /// Bare; a JSON string would be read as text, and is marked.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.text.starts_with('"') {
            write!(f, "JSON '{}'", self.text.replace('\'', "''"))
        } else {
            f.write_str(&self.text)
        }
    }
}

impl<T: Display> Display for Input<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Input::Literal(literal) => literal.fmt(f),
            Input::Parameter(index) => write!(f, "${index}"),
        }
    }
}

impl Display for CreateKeyspace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let if_not_exists = if self.if_not_exists { "IF NOT EXISTS " } else { "" };
        write!(f, "CREATE KEYSPACE {if_not_exists}{}", Quoted(&self.name))?;
        optional(f, " SHARD BY ", self.shard_by)?;
        if !self.split_at.is_empty() {
            f.write_str(" SPLIT AT (")?;
            separated(f, self.split_at.iter())?;
            f.write_str(")")?;
        }
        optional(f, " TTL ", self.ttl.as_ref())?;
        optional(f, " SCHEMA ", self.schema.as_ref())
    }
}

impl Display for CreateIndex {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("CREATE INDEX ")?;
        if self.if_not_exists {
            f.write_str("IF NOT EXISTS ")?;
        }
        if let Some(name) = &self.name {
            write!(f, "{} ", Quoted(name))?;
        }
        let unique = if self.is_unique { " UNIQUE" } else { "" };
        write!(f, "ON {} {}{unique}", Quoted(&self.keyspace), self.path)
    }
}

impl Display for CreateCollection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let if_not_exists = if self.if_not_exists { "IF NOT EXISTS " } else { "" };
        write!(f, "VCREATE {if_not_exists}{}", Quoted(&self.name))?;
        write!(f, " DIM {} METRIC {}", self.dim, self.metric)?;
        optional(f, " INDEX ", self.index)?;
        optional(f, " QUANTIZE ", self.quantize)
    }
}

macro_rules! words {
    ($($type:ident { $($variant:ident $keyword:literal),* })*) => {
        $(impl Display for $type {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($type::$variant => $keyword),* })
            }
        })*
    };
}

words! {
    ShardBy { Hash "HASH", Range "RANGE" }
    Metric { Cosine "cosine", L2 "l2", Dot "dot" }
    VectorIndex { Hnsw "hnsw", Flat "flat" }
    Quantize { Int8 "int8", None "none" }
    Show { Keyspaces "KEYSPACES", Collections "COLLECTIONS", Shards "SHARDS", Indexes "INDEXES" }
    ValueKind { Text "TEXT", Bytes "BYTES", Json "JSON" }
    AggregateFunction { Count "COUNT", Min "MIN", Max "MAX", Sum "SUM", Avg "AVG" }
    Comparison {
        Equal "==", NotEqual "!=", Less "<", LessOrEqual "<=", Greater ">", GreaterOrEqual ">="
    }
}

fn in_keyspace(f: &mut Formatter<'_>, keyspace: Option<&Name>) -> fmt::Result {
    keyspace.map_or(Ok(()), |keyspace| write!(f, "IN {} ", Quoted(keyspace)))
}

fn optional(f: &mut Formatter<'_>, before: &str, shown: Option<impl Display>) -> fmt::Result {
    shown.map_or(Ok(()), |shown| write!(f, "{before}{shown}"))
}

fn separated<T: Display>(f: &mut Formatter<'_>, items: impl Iterator<Item = T>) -> fmt::Result {
    for (position, item) in items.enumerate() {
        write!(f, "{}{item}", if position > 0 { ", " } else { "" })?;
    }
    Ok(())
}

struct TextInput<'a>(&'a Input<String>);

impl Display for TextInput<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Input::Literal(text) => Text(text).fmt(f),
            Input::Parameter(index) => write!(f, "${index}"),
        }
    }
}

struct Vector<'a>(&'a Spanned<Input<Vec<f32>>>);

impl Display for Vector<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0.node {
            Input::Parameter(index) => write!(f, "VECTOR(${index})"),
            Input::Literal(components) => {
                f.write_str("VECTOR([")?;
                // `Debug` writes exponents for very large and small ones and never loses a bit.
                for (position, component) in components.iter().enumerate() {
                    let text = format!("{component:?}");
                    let comma = if position > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", text.strip_suffix(".0").unwrap_or(&text))?;
                }
                f.write_str("])")
            }
        }
    }
}
