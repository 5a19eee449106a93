//! Plans there and back, and bytes that are no plans. Whole queries make this way in the planner's tests and in the SQL tests.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int32Array, RecordBatch, StringArray},
    compute::SortOptions,
    datatypes::{DataType, Field, Schema},
};
use cortex_shard_api::{
    Datum, Oid, ShardError, ShardId, SqlType, StorageId, TypeMod,
    client::{Access, BatchStream, FragmentPlan, ScanSource, ScanSpec},
    descriptor::{CheckDescriptor, ColumnDescriptor, Placement, TableDescriptor},
    value::{ArrayValue, arrow::field},
};
use datafusion::{
    common::{JoinSide, JoinType, NullEquality, ScalarValue},
    execution::{TaskContext, config::SessionConfig},
    functions_aggregate::{count::count_udaf, sum::sum_udaf},
    logical_expr::{Expr, Operator, ScalarUDF},
    physical_expr::{
        LexOrdering, PhysicalExpr, PhysicalSortExpr, ScalarFunctionExpr,
        aggregate::AggregateExprBuilder,
        expressions::{self, Column, Literal},
    },
    physical_plan::{
        ExecutionPlan, ExecutionPlanProperties,
        aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy},
        collect,
        coop::CooperativeExec,
        displayable,
        empty::EmptyExec,
        filter::FilterExec,
        joins::{
            CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode,
            utils::{ColumnIndex, JoinFilter},
        },
        limit::{GlobalLimitExec, LocalLimitExec},
        projection::ProjectionExec,
        sorts::sort::SortExec,
    },
};
use futures::stream;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    CodecError, EXPRESSION_DEPTH_MAX, PLAN_DEPTH_MAX, STACK_BYTES, VERSION, decode, encode,
};
use crate::{
    broadcast_rows::BroadcastRowsExec,
    fragment::PlanFragment,
    lower,
    registry::{resolve_aggregate, resolve_function},
    session::EvalContext,
    table_scan::{FragmentSource, ScanPartition, TableScanExec},
};

type Plan = Arc<dyn ExecutionPlan>;
type Expression = Arc<dyn PhysicalExpr>;

/// Rows of every scan: (1, 'a'), (2, NULL), ...
struct Rows;

impl ScanSource for Rows {
    fn scan(&self, spec: &ScanSpec) -> Result<BatchStream, ShardError> {
        assert_eq!(spec.table.name, "t");
        let ids: ArrayRef = Arc::new(Int32Array::from_iter_values(1..=6));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![
            Some("a"),
            None,
            Some("b"),
            Some("a"),
            Some("c"),
            Some("b"),
        ]));
        let schema = scan_schema();
        let batch = RecordBatch::try_new(schema, vec![ids, texts]).expect("a batch");
        Ok(Box::pin(stream::iter([Ok(batch)])))
    }
}

fn scan_schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        field("id", TypeMod::plain(SqlType::Int4), false),
        field("t", TypeMod::plain(SqlType::Text), true),
    ]))
}

fn column_descriptor(name: &str, ty: SqlType, not_null: bool) -> ColumnDescriptor {
    let missing = match ty {
        SqlType::Array(_) => Datum::Array(Box::new(ArrayValue {
            element: SqlType::Int4,
            lower_bound: 1,
            elements: vec![Datum::Int4(1), Datum::Null],
        })),
        _ => Datum::Null,
    };
    ColumnDescriptor {
        name: name.to_owned(),
        ty: TypeMod::plain(ty),
        not_null,
        dropped: false,
        added_in: 1,
        missing,
    }
}

fn table() -> TableDescriptor {
    let check = scalar_literal();
    TableDescriptor {
        oid: Oid(20_000),
        schema: "public".to_owned(),
        name: "t".to_owned(),
        storage: StorageId(9),
        version: 4,
        columns: vec![
            column_descriptor("id", SqlType::Int4, true),
            column_descriptor("t", SqlType::Text, false),
            column_descriptor("list", SqlType::Array(&SqlType::Int4), false),
        ],
        primary_key: vec![0],
        primary_key_name: Some("t_pkey".to_owned()),
        placement: Placement::Home(ShardId(3)),
        placement_epoch: 5,
        indexes: vec![],
        checks: vec![CheckDescriptor { oid: Oid(1), name: "c".to_owned(), expr: check }],
        foreign_keys: vec![],
        referenced_by: vec![],
    }
}

fn scalar_literal() -> cortex_shard_api::ScalarExpr {
    cortex_shard_api::ScalarExpr::literal(Datum::Bool(true), SqlType::Bool)
}

fn scan() -> Plan {
    let spec = ScanSpec {
        table: Arc::new(table()),
        columns: vec![0, 1],
        with_identity: false,
        access: Access::Full,
        limit: None,
        batch_rows: 1024,
    };
    let order = PhysicalSortExpr::new(
        column("id", 0),
        SortOptions { descending: false, nulls_first: false },
    );
    let partitions = vec![ScanPartition { shard: ShardId(3), spec }];
    Arc::new(TableScanExec::new(scan_schema(), partitions, LexOrdering::new([order]), Arc::new(())))
}

fn column(name: &str, index: usize) -> Expression {
    Arc::new(Column::new(name, index))
}

fn int(value: i32) -> Expression {
    Arc::new(Literal::new(ScalarValue::Int32(Some(value))))
}

fn binary(left: Expression, operator: Operator, right: Expression) -> Expression {
    Arc::new(expressions::BinaryExpr::new(left, operator, right))
}

/// A call of ours as an operator evaluates it.
fn physical(call: Expr, args: Vec<Expression>, input: &Plan) -> Expression {
    let Expr::ScalarFunction(function) = call else { panic!("{call} is no call") };
    physical_call(function.func.as_ref(), args, input)
}

fn physical_call(function: &ScalarUDF, args: Vec<Expression>, input: &Plan) -> Expression {
    let schema = input.schema();
    let options = Arc::new(datafusion::config::ConfigOptions::default());
    let function = Arc::new(function.clone());
    Arc::new(ScalarFunctionExpr::try_new(function, args, &schema, options).expect("a call"))
}

fn named(name: &str, args: &[SqlType]) -> Expr {
    let call = resolve_function(name, args).expect("a function");
    let args = args.iter().map(|ty| (Expr::Literal(ScalarValue::Null, None), TypeMod::plain(*ty)));
    lower::call(&call, args.collect())
}

fn filtered(predicate: Expression) -> Plan {
    Arc::new(FilterExec::try_new(predicate, scan()).expect("a filter"))
}

fn projected(outputs: Vec<Expression>) -> Plan {
    let outputs = outputs.into_iter().enumerate().map(|(n, expr)| (expr, format!("c{n}")));
    Arc::new(ProjectionExec::try_new(outputs.collect::<Vec<_>>(), scan()).expect("a projection"))
}

fn by_text() -> LexOrdering {
    let options = SortOptions { descending: true, nulls_first: true };
    LexOrdering::new([PhysicalSortExpr::new(column("t", 1), options)]).expect("an order")
}

/// `count(id), sum(id) FILTER (WHERE id < 5), string_agg(t, t ORDER BY id)` by t.
fn aggregate(mode: AggregateMode, input: Plan, original: Plan) -> Plan {
    let schema = original.schema();
    let build = |function, args: Vec<Expression>, name: &str| {
        let call = AggregateExprBuilder::new(function, args).schema(schema.clone()).alias(name);
        Arc::new(call.build().expect("an aggregate"))
    };
    let resolved = resolve_aggregate("string_agg", &[SqlType::Text, SqlType::Text]);
    let logical = lower::aggregate(
        &resolved.expect("string_agg"),
        vec![text_column(), text_column()],
        false,
        None,
        vec![(Expr::Column("id".into()), true, false)],
    );
    let Expr::AggregateFunction(state) = logical.expect("a call").parts.remove(0) else {
        panic!("no aggregate")
    };
    let calls = vec![
        build(count_udaf(), vec![column("id", 0)], "n"),
        build(sum_udaf(), vec![cast(column("id", 0), DataType::Int64)], "s"),
        build(state.func, vec![column("t", 1), column("t", 1), column("id", 0)], "all"),
    ];
    let filter = binary(column("id", 0), Operator::Lt, int(5));
    let filters = match mode {
        AggregateMode::Final => vec![None, None, None],
        _ => vec![None, Some(filter), None],
    };
    let group = match mode {
        AggregateMode::Final => column("t", 0),
        _ => column("t", 1),
    };
    let groups = PhysicalGroupBy::new_single(vec![(group, "t".to_owned())]);
    Arc::new(
        AggregateExec::try_new(mode, groups, calls, filters, input, schema).expect("aggregates"),
    )
}

fn text_column() -> (Expr, TypeMod) {
    (Expr::Column("t".into()), TypeMod::plain(SqlType::Text))
}

fn cast(expr: Expression, to: DataType) -> Expression {
    Arc::new(expressions::CastExpr::new(expr, to, None))
}

fn hash_join(join_type: JoinType) -> Plan {
    let filter = JoinFilter::new(
        binary(column("l", 0), Operator::LtEq, column("r", 1)),
        vec![
            ColumnIndex { index: 0, side: JoinSide::Left },
            ColumnIndex { index: 0, side: JoinSide::Right },
        ],
        Arc::new(Schema::new(vec![
            Field::new("l", DataType::Int32, false),
            Field::new("r", DataType::Int32, false),
        ])),
    );
    let projection = matches!(join_type, JoinType::Inner).then(|| vec![3, 0]);
    let join = HashJoinExec::try_new(
        filtered(binary(column("id", 0), Operator::Gt, int(1))),
        scan(),
        vec![(column("t", 1), column("t", 1))],
        Some(filter),
        &join_type,
        projection,
        PartitionMode::CollectLeft,
        NullEquality::NullEqualsNothing,
        false,
    );
    Arc::new(join.expect("a join"))
}

/// One plan for each kind of node, some of them together.
fn plans() -> Vec<Plan> {
    let scanned = scan();
    let upper = named("upper", &[SqlType::Text]);
    let upper = physical(upper, vec![column("t", 1)], &scanned);
    let to_text = lower::cast(
        Expr::Literal(ScalarValue::Null, None),
        TypeMod::plain(SqlType::Timestamptz),
        TypeMod::plain(SqlType::Text),
        true,
    );
    let stamp = ScalarValue::TimestampMicrosecond(Some(1_700_000_000_000_000), Some("UTC".into()));
    let to_text = physical(to_text, vec![Arc::new(Literal::new(stamp))], &scanned);
    let key = lower::comparison_key(Expr::Literal(ScalarValue::Null, None), SqlType::Float8);
    let key = physical(key, vec![cast(column("id", 0), DataType::Float64)], &scanned);
    let plus = crate::registry::resolve_operator("+", Some(SqlType::Int4), SqlType::Int4);
    let null = || (Expr::Literal(ScalarValue::Null, None), TypeMod::plain(SqlType::Int4));
    let plus = lower::call(&plus.expect("+"), vec![null(), null()]);
    let plus = physical(plus, vec![column("id", 0), int(3)], &scanned);
    let list = ScalarValue::new_list_nullable(
        &[ScalarValue::Int32(Some(1)), ScalarValue::Int32(None), ScalarValue::Int32(Some(4))],
        &DataType::Int32,
    );
    let lists: Vec<Expression> = vec![
        Arc::new(Literal::new(ScalarValue::List(list))),
        Arc::new(Literal::new(
            ScalarValue::try_from(&DataType::List(Arc::new(Field::new(
                "item",
                DataType::Utf8,
                true,
            ))))
            .expect("a NULL list"),
        )),
        Arc::new(Literal::new(ScalarValue::List(ScalarValue::new_list_nullable(
            &[],
            &DataType::Utf8,
        )))),
    ];
    let case = expressions::case(
        None,
        vec![(binary(column("id", 0), Operator::Eq, int(2)), int(20))],
        Some(int(0)),
    );
    let in_list =
        expressions::in_list(column("id", 0), vec![int(1), int(4)], &true, &scan_schema());
    let like = expressions::like(
        false,
        false,
        column("t", 1),
        Arc::new(Literal::new(ScalarValue::Utf8(Some("%a%".to_owned())))),
        &scan_schema(),
    );
    let chain = (0..200).fold(binary(column("id", 0), Operator::Eq, int(-1)), |chain, n| {
        binary(chain, Operator::Or, binary(column("id", 0), Operator::Eq, int(n)))
    });
    let partial = aggregate(AggregateMode::Partial, scan(), scan());
    let non_equal = JoinFilter::new(
        binary(column("l", 0), Operator::Gt, column("r", 1)),
        vec![
            ColumnIndex { index: 0, side: JoinSide::Left },
            ColumnIndex { index: 0, side: JoinSide::Right },
        ],
        Arc::new(Schema::new(vec![
            Field::new("l", DataType::Int32, false),
            Field::new("r", DataType::Int32, false),
        ])),
    );
    let mut plans: Vec<Plan> = vec![
        scan(),
        filtered(binary(column("id", 0), Operator::Gt, int(3))),
        filtered(chain),
        filtered(in_list.expect("IN")),
        filtered(like.expect("LIKE")),
        filtered(Arc::new(expressions::IsNullExpr::new(column("t", 1)))),
        filtered(Arc::new(expressions::NotExpr::new(Arc::new(expressions::IsNotNullExpr::new(
            column("t", 1),
        ))))),
        projected(vec![upper, to_text, key, plus, case.expect("CASE"), column("t", 1)]),
        projected(lists),
        Arc::new(SortExec::new(by_text(), scan())),
        Arc::new(SortExec::new(by_text(), scan()).with_fetch(Some(2))),
        Arc::new(LocalLimitExec::new(scan(), 2)),
        Arc::new(GlobalLimitExec::new(scan(), 1, Some(3))),
        Arc::new(CooperativeExec::new(scan())),
        Arc::new(CrossJoinExec::new(scan(), scan())),
        Arc::new(
            NestedLoopJoinExec::try_new(scan(), scan(), Some(non_equal), &JoinType::Left, None)
                .expect("a join"),
        ),
        partial.clone(),
        aggregate(AggregateMode::Single, scan(), scan()),
        aggregate(AggregateMode::Final, partial, scan()),
    ];
    let ids: ArrayRef = Arc::new(Int32Array::from(vec![2, 9, 4]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("b"), None, Some("a")]));
    let batch = RecordBatch::try_new(scan_schema(), vec![ids, texts]).expect("a batch");
    let sent = BroadcastRowsExec::awaited(1, scan_schema());
    let sent = sent.with_rows(&[batch.slice(0, 1), batch.slice(1, 2)]).expect("rows");
    plans.push(Arc::new(CrossJoinExec::new(Arc::new(sent), scan())));
    plans.extend(
        [
            JoinType::Inner,
            JoinType::Left,
            JoinType::Right,
            JoinType::Full,
            JoinType::LeftSemi,
            JoinType::LeftAnti,
            JoinType::RightSemi,
            JoinType::RightAnti,
        ]
        .map(hash_join),
    );
    plans
}

fn shown(plan: &Plan) -> String {
    let schema = plan.schema();
    let fields = schema.fields().iter();
    let fields: Vec<_> =
        fields.map(|f| (f.name().clone(), f.data_type().clone(), f.is_nullable())).collect();
    let ordering = plan.output_ordering().map(ToString::to_string);
    format!("{fields:?} {ordering:?}\n{}", displayable(plan.as_ref()).indent(true))
}

async fn rows(plan: &Plan) -> String {
    let source = FragmentSource(Arc::new(Rows));
    let config = SessionConfig::new().with_extension(Arc::new(source));
    let context = TaskContext::default().with_session_config(config);
    let batches = collect(plan.clone(), Arc::new(context)).await.expect("rows");
    arrow::util::pretty::pretty_format_batches(&batches).expect("a table").to_string()
}

fn bytes_of(plan: &Plan) -> Vec<u8> {
    encode(plan, &EvalContext::default()).expect("bytes").to_vec()
}

#[tokio::test]
async fn every_kind_of_node_comes_back_as_it_was() {
    for plan in plans() {
        let bytes = bytes_of(&plan);
        let decoded = decode(VERSION, &bytes).expect("a plan").plan;
        assert_eq!(shown(&decoded), shown(&plan));
        assert_eq!(rows(&decoded).await, rows(&plan).await, "{}", shown(&plan));
        // The same plan gives the same bytes, also after it has run.
        assert_eq!(bytes_of(&plan), bytes);
        assert_eq!(bytes_of(&decoded).len(), bytes.len());
    }
}

#[tokio::test]
async fn functions_see_the_settings_of_the_sender() {
    let settings = cortex_shard_api::value::ValueSettings {
        time_zone: chrono_tz::Asia::Kolkata,
        day_first: true,
        extra_float_digits: -3,
        bytea_escape: true,
        now_micros: 77,
    };
    let context = EvalContext { settings, transaction_micros: 1_234_567, ..EvalContext::default() };
    let plan = plans().remove(7);
    let fragment = PlanFragment::new(plan, Arc::new(context));
    let (version, bytes) = fragment.encode().expect("bytes");
    let decoded = decode(version, &bytes).expect("a plan");
    assert_eq!(decoded.context.settings.time_zone, chrono_tz::Asia::Kolkata);
    assert_eq!(decoded.context.settings.extra_float_digits, -3);
    assert_eq!(decoded.context.settings.now_micros, 77);
    assert!(decoded.context.settings.day_first && decoded.context.settings.bytea_escape);
    assert_eq!(decoded.context.transaction_micros, 1_234_567);
    let shown = rows(&decoded.plan).await;
    assert!(shown.contains("2023-11-15 03:43:20+05:30"), "{shown}");
}

#[test]
fn a_scan_leaves_behind_what_a_scan_does_not_need() {
    let decoded = decode(VERSION, &bytes_of(&scan())).expect("a plan").plan;
    let scan = decoded.downcast_ref::<TableScanExec>().expect("a scan");
    let table = &scan.partitions()[0].spec.table;
    assert!(table.checks.is_empty());
    assert_eq!((table.version, table.epoch(), table.storage), (4, 5, StorageId(9)));
    let missing = &table.columns[2].missing;
    assert!(matches!(missing, Datum::Array(array) if array.elements.len() == 2));
    assert_eq!(scan.schema_ref().as_ref(), scan_schema().as_ref());
}

#[test]
fn what_must_not_travel_is_refused() {
    let operator: Plan = Arc::new(EmptyExec::new(scan_schema()));
    let refused = encode(&operator, &EvalContext::default());
    assert!(matches!(refused, Err(CodecError::Operator(name)) if name == "Empty"));
    let random = physical(named("random", &[]), vec![], &scan());
    let refused = encode(&projected(vec![random]), &EvalContext::default());
    assert!(matches!(refused, Err(CodecError::Function(name)) if name == "random"));
    let other = datafusion::functions::math::abs();
    let other = physical_call(&other, vec![column("id", 0)], &scan());
    let refused = encode(&projected(vec![other]), &EvalContext::default());
    assert!(matches!(refused, Err(CodecError::Function(name)) if name == "abs"));
}

#[test]
fn an_unknown_function_and_another_version_are_refused() {
    let upper = physical(named("upper", &[SqlType::Text]), vec![column("t", 1)], &scan());
    let bytes = bytes_of(&projected(vec![upper]));
    let refused = decode(VERSION + 1, &bytes).expect_err("another version");
    assert!(matches!(refused, CodecError::Version { found } if found == VERSION + 1));
    assert!(matches!(ShardError::from(refused), ShardError::Execution(_)));
    // The signature, as it stands in the bytes, made another of the same length.
    let signature = b"upper(text)";
    let at = bytes.windows(signature.len()).position(|it| it == signature).expect("a name");
    for (other, is_known) in [(&b"uppex(text)"[..], false), (b"lower(text)", true)] {
        let mut changed = bytes.clone();
        changed[at..at + other.len()].copy_from_slice(other);
        match decode(VERSION, &changed) {
            Ok(_) => assert!(is_known),
            Err(error) => {
                assert!(!is_known);
                assert!(matches!(error, CodecError::Function(name) if name == "uppex(text)"));
            }
        }
    }
}

#[test]
fn depth_is_bounded_on_both_sides() {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(bounded_depths);
    thread.expect("a thread").join().expect("no panic");
}

fn bounded_depths() {
    let nested = |depth: usize| {
        (0..depth).fold(column("t", 1), |inner, _| {
            Arc::new(expressions::IsNullExpr::new(inner)) as Expression
        })
    };
    let plan = projected(vec![nested(EXPRESSION_DEPTH_MAX)]);
    let bytes = bytes_of(&plan);
    assert!(decode(VERSION, &bytes).is_ok());
    let refused =
        encode(&projected(vec![nested(EXPRESSION_DEPTH_MAX + 1)]), &EvalContext::default());
    assert!(matches!(refused, Err(CodecError::TooDeep { limit: EXPRESSION_DEPTH_MAX })));
    let limited = |depth: usize| {
        (0..depth).fold(scan(), |inner, _| Arc::new(LocalLimitExec::new(inner, 5)) as Plan)
    };
    assert!(decode(VERSION, &bytes_of(&limited(PLAN_DEPTH_MAX - 1))).is_ok());
    let refused = encode(&limited(PLAN_DEPTH_MAX), &EvalContext::default());
    assert!(matches!(refused, Err(CodecError::TooDeep { limit: PLAN_DEPTH_MAX })));
}

#[test]
fn bytes_that_are_no_plan_are_errors() {
    let plans: Vec<Vec<u8>> = plans().iter().map(bytes_of).collect();
    for bytes in &plans {
        // Long ones at some lengths only.
        for length in (0..bytes.len()).step_by(1 + bytes.len() / 300) {
            assert!(decode(VERSION, &bytes[..length]).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(decode(VERSION, &longer).is_err());
    }
    // What panics inside of the engine is caught, and need not be told.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut random = StdRng::seed_from_u64(55);
    for round in 0..6_000 {
        let mut bytes = plans[round % plans.len()].clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len().min(6_000));
            bytes[at] = match random.random_range(0..3) {
                0 => random.random(),
                1 => bytes[at] ^ (1 << random.random_range(0..8)),
                _ => [0, 0xff, 0x7f, 0x80][random.random_range(0..4)],
            };
        }
        // Either is fine, as long as it is an answer.
        drop(decode(VERSION, &bytes));
    }
    std::panic::set_hook(hook);
}

#[test]
fn a_fragment_is_encoded_once() {
    let fragment = PlanFragment::new(scan(), Arc::new(EvalContext::default()));
    let (_, first) = fragment.encode().expect("bytes");
    let (_, second) = fragment.encode().expect("bytes");
    assert_eq!(first.as_ptr(), second.as_ptr());
}
