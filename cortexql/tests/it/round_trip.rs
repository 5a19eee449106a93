//! `parse(print(ast)) == ast`, over generated ASTs of every production.

use cortexql::{
    Span, Spanned,
    ast::{
        Aggregate, AggregateFunction, Comparison, Condition, CreateCollection, CreateIndex,
        CreateKeyspace, Duration, Field, Input, Json, JsonPath, Key, KeyRange, KeyValue, Metric,
        Name, Operand, Output, Pipeline, PutCondition, Quantize, ShardBy, Show, SortKey, Source,
        Stage, Statement, Step, Value, ValueKind, VectorIndex,
    },
    parse,
};
use proptest::{
    collection::vec,
    option,
    prelude::{BoxedStrategy, Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest},
    sample::select,
};

fn at<T>(node: T) -> Spanned<T> {
    Spanned::new(node, Span::default())
}

fn spanned<T: std::fmt::Debug + Clone + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Spanned<T>> {
    strategy.prop_map(at).boxed()
}

/// Any text, and the ones that quoting could get wrong.
fn text() -> BoxedStrategy<String> {
    prop_oneof![
        "[a-z:_%]{0,8}",
        "[\"'\\\\{}\\[\\]a ;|$#\n\t-]{0,8}",
        "\\PC{0,6}",
        any::<String>().prop_map(|text| text.replace('\0', "")),
    ]
    .boxed()
}

/// Names, keywords among them.
fn name() -> BoxedStrategy<Name> {
    let words = select(cortexql::Keyword::ALL).prop_map(|keyword| keyword.as_str().to_owned());
    let lower = words.clone().prop_map(|word| word.to_lowercase());
    let odd = text().prop_filter("a name has 1 to 63 bytes", |name| (1..=63).contains(&name.len()));
    spanned(prop_oneof!["[a-z_][a-z0-9_]{0,8}", words, lower, odd])
}

fn parameter() -> impl Strategy<Value = u16> {
    1..=u16::MAX
}

fn key() -> BoxedStrategy<Spanned<Key>> {
    spanned(prop_oneof![
        text().prop_map(Key::Text),
        vec(any::<u8>(), 0..6).prop_map(Key::Bytes),
        parameter().prop_map(Key::Parameter),
    ])
}

fn json_string() -> impl Strategy<Value = String> {
    "[a-z' ;]{0,6}".prop_map(|text| format!("\"{text}\\\"\\u00e4\\n\""))
}

fn number() -> BoxedStrategy<String> {
    "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?".boxed()
}

fn json_text() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        number(),
        json_string(),
        select(vec!["true", "false", "null", "{}", "[]"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" ,\n"))),
            vec((json_string(), inner), 0..4).prop_map(|members| {
                let members: Vec<String> =
                    members.iter().map(|(name, value)| format!("{name}:{value}")).collect();
                format!("{{{}}}", members.join(", "))
            }),
        ]
    })
    .boxed()
}

fn json_object() -> BoxedStrategy<Json> {
    (json_string(), json_text())
        .prop_map(|(name, value)| Json { text: format!("{{{name}: {value}}}") })
        .boxed()
}

fn value() -> BoxedStrategy<Spanned<Value>> {
    let kinds = option::of(select(vec![ValueKind::Text, ValueKind::Bytes, ValueKind::Json]));
    spanned(prop_oneof![
        text().prop_map(Value::Text),
        vec(any::<u8>(), 0..6).prop_map(Value::Bytes),
        json_text().prop_map(|text| Value::Json(Json { text })),
        (parameter(), kinds).prop_map(|(index, kind)| Value::Parameter { index, kind }),
    ])
}

fn input<T: std::fmt::Debug + Clone + 'static>(
    literal: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Spanned<Input<T>>> {
    spanned(prop_oneof![literal.prop_map(Input::Literal), parameter().prop_map(Input::Parameter)])
}

fn duration() -> BoxedStrategy<Duration> {
    prop_oneof![1..=3_153_600_000_000_u64, (1..=36_500_u64).prop_map(|days| days * 86_400_000)]
        .prop_map(|ms| Duration { ms })
        .boxed()
}

fn count(min: i64) -> BoxedStrategy<Spanned<Input<u64>>> {
    input((min..=i64::MAX).prop_map(i64::unsigned_abs))
}

fn step() -> BoxedStrategy<Step> {
    prop_oneof![
        "[A-Za-z_][A-Za-z0-9_]{0,5}".prop_map(Step::Field),
        text().prop_map(Step::Field),
        (0..=2_147_483_647_u32).prop_map(Step::Index),
    ]
    .boxed()
}

fn path() -> BoxedStrategy<JsonPath> {
    vec(step(), 0..5).prop_map(|steps| JsonPath { steps }).boxed()
}

fn field() -> BoxedStrategy<Field> {
    let columns = select(vec!["key", "value", "meta", "distance", "ttl", "where", "größe", "n1"]);
    prop_oneof![
        path().prop_map(Field::Json),
        (columns, vec(step(), 0..4))
            .prop_map(|(name, steps)| Field::Column { name: name.to_owned(), steps }),
    ]
    .boxed()
}

fn operand() -> BoxedStrategy<Spanned<Operand>> {
    spanned(prop_oneof![
        3 => field().prop_map(Operand::Field),
        1 => text().prop_map(Operand::Text),
        1 => vec(any::<u8>(), 0..4).prop_map(Operand::Bytes),
        1 => number().prop_map(Operand::Number),
        1 => any::<bool>().prop_map(Operand::Bool),
        1 => parameter().prop_map(Operand::Parameter),
    ])
}

fn condition() -> BoxedStrategy<Spanned<Condition>> {
    let comparisons = select(vec![
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Less,
        Comparison::LessOrEqual,
        Comparison::Greater,
        Comparison::GreaterOrEqual,
    ]);
    let leaf = spanned(prop_oneof![
        (operand(), comparisons, operand())
            .prop_map(|(left, operator, right)| Condition::Compare { left, operator, right }),
        (operand(), any::<bool>(), operand(), operand()).prop_map(
            |(operand, is_negated, low, high)| Condition::Between {
                operand,
                is_negated,
                low,
                high
            }
        ),
        (operand(), any::<bool>(), vec(operand(), 1..4))
            .prop_map(|(operand, is_negated, list)| Condition::In { operand, is_negated, list }),
        (operand(), any::<bool>(), input(text())).prop_map(|(operand, is_negated, pattern)| {
            Condition::Like { operand, is_negated, pattern }
        }),
        (operand(), any::<bool>())
            .prop_map(|(operand, is_negated)| Condition::IsNull { operand, is_negated }),
        spanned(field()).prop_map(Condition::Exists),
    ]);
    leaf.prop_recursive(5, 24, 4, |inner| {
        spanned(prop_oneof![
            vec(inner.clone(), 2..4).prop_map(Condition::And),
            vec(inner.clone(), 2..4).prop_map(Condition::Or),
            inner.prop_map(|inner| Condition::Not(Box::new(inner))),
        ])
    })
    .boxed()
}

fn key_range() -> BoxedStrategy<KeyRange> {
    prop_oneof![
        Just(KeyRange::All),
        key().prop_map(KeyRange::Prefix),
        (key(), key()).prop_map(|(from, to)| KeyRange::Between(from, to)),
    ]
    .boxed()
}

fn key_value() -> BoxedStrategy<KeyValue> {
    let put_condition =
        prop_oneof![Just(PutCondition::Absent), value().prop_map(PutCondition::Value)];
    prop_oneof![
        (key(), value(), option::of(input(duration())), option::of(put_condition))
            .prop_map(|(key, value, ttl, condition)| KeyValue::Put { key, value, ttl, condition }),
        key().prop_map(|key| KeyValue::Get { key }),
        vec(key(), 1..5).prop_map(|keys| KeyValue::Mget { keys }),
        key().prop_map(|key| KeyValue::Delete { key }),
        (key_range(), option::of(condition()))
            .prop_map(|(range, filter)| KeyValue::DeleteRange { range, filter }),
        key().prop_map(|key| KeyValue::Exists { key }),
        key().prop_map(|key| KeyValue::Ttl { key }),
        (key(), input(duration())).prop_map(|(key, ttl)| KeyValue::Expire { key, ttl }),
        (key(), option::of(input(any::<i64>()))).prop_map(|(key, by)| KeyValue::Incr { key, by }),
    ]
    .boxed()
}

fn output() -> BoxedStrategy<Output> {
    (spanned(field()), option::of(name()))
        .prop_map(|(field, alias)| Output { field, alias })
        .boxed()
}

fn aggregate() -> BoxedStrategy<Aggregate> {
    let functions = select(vec![
        AggregateFunction::Min,
        AggregateFunction::Max,
        AggregateFunction::Sum,
        AggregateFunction::Avg,
        AggregateFunction::Count,
    ]);
    prop_oneof![
        option::of(name()).prop_map(|alias| Aggregate {
            function: AggregateFunction::Count,
            argument: None,
            alias
        }),
        (functions, spanned(field()), option::of(name())).prop_map(|(function, field, alias)| {
            Aggregate { function, argument: Some(field), alias }
        }),
    ]
    .boxed()
}

fn stage_of_search() -> BoxedStrategy<Stage> {
    prop_oneof![
        condition().prop_map(Stage::Where),
        vec(output(), 1..4).prop_map(Stage::Project),
        (count(0), option::of(count(0))).prop_map(|(limit, offset)| Stage::Limit { limit, offset }),
    ]
    .boxed()
}

fn stage() -> BoxedStrategy<Stage> {
    let sort_key = (spanned(field()), any::<bool>())
        .prop_map(|(field, is_descending)| SortKey { field, is_descending });
    prop_oneof![
        3 => stage_of_search(),
        1 => vec(sort_key, 1..4).prop_map(Stage::SortBy),
        1 => (vec(aggregate(), 1..4), vec(output(), 0..3))
            .prop_map(|(aggregates, group_by)| Stage::Aggregate { aggregates, group_by }),
    ]
    .boxed()
}

fn vector() -> BoxedStrategy<Spanned<Input<Vec<f32>>>> {
    let component = prop_oneof![
        (-100_i16..100).prop_map(|whole| f32::from(whole) / 8.0),
        prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO,
    ];
    input(vec(component, 3..=3))
}

fn pipeline() -> BoxedStrategy<Pipeline> {
    let scan = || {
        (option::of(name()), key_range(), any::<bool>())
            .prop_map(|(keyspace, range, reverse)| Source::Scan { keyspace, range, reverse })
    };
    let search = (name(), vec(vector(), 1..3), count(1), option::of(condition())).prop_map(
        |(collection, vectors, k, filter)| Source::VectorSearch { collection, vectors, k, filter },
    );
    let walked = (option::of(condition()), option::of(input(text())), any::<bool>()).prop_map(
        |(condition, token, has_limit)| {
            let mut stages: Vec<Stage> = condition.map(Stage::Where).into_iter().collect();
            if has_limit {
                stages.push(Stage::Limit { limit: at(Input::Literal(7)), offset: None });
            }
            stages.push(Stage::Cursor(token));
            stages
        },
    );
    let parts = prop_oneof![
        2 => (scan(), vec(stage(), 0..5)),
        1 => (scan(), walked),
        2 => (search, vec(stage_of_search(), 0..4)),
    ];
    parts
        .prop_map(|(source, stages)| Pipeline {
            source,
            stages: stages.into_iter().map(at).collect(),
        })
        .boxed()
}

fn create() -> BoxedStrategy<Statement> {
    let keyspace = (
        (name(), any::<bool>(), option::of(select(vec![ShardBy::Hash, ShardBy::Range]))),
        (vec(key(), 0..3), option::of(spanned(duration())), option::of(spanned(json_object()))),
    );
    let index = (option::of(name()), any::<bool>(), name(), spanned(path()), any::<bool>());
    let collection = (
        (name(), any::<bool>(), spanned(1..=16_000_u32)),
        select(vec![Metric::Cosine, Metric::L2, Metric::Dot]),
        option::of(select(vec![VectorIndex::Hnsw, VectorIndex::Flat])),
        option::of(select(vec![Quantize::Int8, Quantize::None])),
    );
    prop_oneof![
        keyspace.prop_map(|((name, if_not_exists, shard_by), (split_at, ttl, schema))| {
            Statement::CreateKeyspace(CreateKeyspace {
                name,
                if_not_exists,
                shard_by,
                split_at,
                ttl,
                schema,
            })
        }),
        index.prop_map(|(name, if_not_exists, keyspace, path, is_unique)| {
            Statement::CreateIndex(CreateIndex { name, if_not_exists, keyspace, path, is_unique })
        }),
        collection.prop_map(|((name, if_not_exists, dim), metric, index, quantize)| {
            Statement::CreateCollection(CreateCollection {
                name,
                if_not_exists,
                dim,
                metric,
                index,
                quantize,
            })
        }),
    ]
    .boxed()
}

fn row_statement() -> BoxedStrategy<Statement> {
    prop_oneof![
        4 => (option::of(name()), key_value())
            .prop_map(|(keyspace, command)| Statement::KeyValue { keyspace, command }),
        4 => pipeline().prop_map(Statement::Pipeline),
        1 => (name(), key(), vector(), option::of(input(json_object()))).prop_map(
            |(collection, id, vector, meta)| Statement::PutVector { collection, id, vector, meta }
        ),
        1 => (name(), key()).prop_map(|(collection, id)| Statement::GetVector { collection, id }),
        1 => (name(), key()).prop_map(|(collection, id)| Statement::DeleteVector { collection, id }),
    ]
    .boxed()
}

fn statement() -> BoxedStrategy<Statement> {
    let shows = select(vec![Show::Keyspaces, Show::Collections, Show::Shards, Show::Indexes]);
    prop_oneof![
        6 => row_statement(),
        2 => create(),
        1 => (any::<bool>(), spanned(row_statement())).prop_map(|(analyze, statement)| {
            Statement::Explain { analyze, statement: Box::new(statement) }
        }),
        1 => (name(), any::<bool>())
            .prop_map(|(name, if_exists)| Statement::DropKeyspace { name, if_exists }),
        1 => name().prop_map(|keyspace| Statement::Use { keyspace }),
        1 => name().prop_map(|name| Statement::Describe { name }),
        1 => name().prop_map(|name| Statement::Stats { name }),
        1 => prop_oneof![
            shows.prop_map(Statement::Show),
            select(vec![Statement::Begin, Statement::Commit, Statement::Rollback]),
        ],
    ]
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn printed_statements_read_as_themselves(statement in statement()) {
        let text = statement.to_string();
        match parse(&text) {
            Ok(parsed) => {
                assert_eq!(parsed.statement.node, statement, "{text}");
                assert_eq!(parsed.statement.span.of(&text), text);
                assert_eq!(parsed.statement.to_string(), text);
            }
            Err(error) => panic!("{}", error.render(&text)),
        }
    }
}
