//! Aggregates through DataFusion against PostgreSQL's recorded answers: in one partition, from partial states of two, and as windows.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    datatypes::Schema,
};
use cortex_shard_api::{
    Datum, SqlType, TypeMod,
    value::arrow::{array_from_datums, datum_at, field},
};
use datafusion::{
    datasource::MemTable,
    logical_expr::{Expr, WindowFrame},
    prelude::{SessionConfig, SessionContext, col},
};

use super::expression::evaluate;
use crate::{
    kernels::{array, to_text},
    lower,
    registry::{resolve_aggregate, type_by_name},
    session::EvalContext,
};

const ANSWERS: &str = include_str!("../../tests/data/aggregates.answers");

/// `name([distinct] args [order by key [desc]]) [within group (order by x [desc])]`, args of x, n, literals and *.
struct Aggregate {
    name: String,
    distinct: bool,
    args: Vec<String>,
    order_by: Option<(String, bool)>,
}

fn parse(text: &str) -> Aggregate {
    let (name, rest) = text.split_once('(').expect("an aggregate call");
    let (inner, group) = match rest.split_once(") within group (order by ") {
        Some((inner, group)) => (inner, Some(group.trim_end_matches(')'))),
        None => (&rest[..rest.len() - 1], None),
    };
    let direction = |text: &str| match text.strip_suffix(" desc") {
        Some(key) => (key.to_owned(), false),
        None => (text.to_owned(), true),
    };
    let (inner, mut order_by) = match inner.split_once(" order by ") {
        Some((inner, order)) => (inner, Some(direction(order))),
        None => (inner, None),
    };
    let (distinct, inner) = match inner.strip_prefix("distinct ") {
        Some(rest) => (true, rest),
        None => (false, inner),
    };
    let mut args = Vec::new();
    let mut rest = inner;
    while !rest.is_empty() && rest != "*" {
        let end = if let Some(literal) = rest.strip_prefix('\'') {
            literal.find('\'').expect("a closed literal") + 2
        } else {
            rest.find(',').unwrap_or(rest.len())
        };
        args.push(rest[..end].to_owned());
        rest = rest[end..].trim_start_matches(',').trim_start();
    }
    if let Some(group) = group {
        let (key, ascending) = direction(group);
        args.push(key.clone());
        order_by = Some((key, ascending));
    }
    Aggregate { name: name.to_owned(), distinct, args, order_by }
}

fn context(partitions: usize, columns: [ArrayRef; 2], ty: SqlType) -> SessionContext {
    let schema = Arc::new(Schema::new(vec![
        field("x", TypeMod::plain(ty), true),
        field("n", TypeMod::plain(SqlType::Int8), true),
    ]));
    let batch = RecordBatch::try_new(schema.clone(), columns.to_vec()).expect("a batch");
    let half = if partitions == 1 { batch.num_rows() } else { batch.num_rows() / 2 };
    let parts = [vec![batch.slice(0, half)], vec![batch.slice(half, batch.num_rows() - half)]];
    let table = MemTable::try_new(schema, parts[..partitions].to_vec()).expect("a table");
    let config = SessionConfig::new().with_target_partitions(partitions);
    let session = SessionContext::new_with_config(config);
    session.register_table("t", Arc::new(table)).expect("a new table");
    session
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Single,
    Partial,
    Window,
    MovingWindow,
}

async fn run(way: Way, text: &str, ty: SqlType, values: &str) -> Result<String, String> {
    let eval = EvalContext::default();
    let literal = format!("'{}'::{}[]", values.replace('\'', "''"), ty.catalog_name());
    let (value, _) = evaluate(&literal, &eval).map_err(|failure| failure.message())?;
    let elements = &array(&value).expect("an array").elements;
    let x = array_from_datums(ty, elements).expect("values of their type");
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(1..=elements.len() as i64));
    let session = context(if way == Way::Partial { 2 } else { 1 }, [x, n], ty);

    let aggregate = parse(text);
    let args = aggregate
        .args
        .iter()
        .map(|arg| match arg.as_str() {
            "x" => (col("x"), ty),
            "n" => (col("n"), SqlType::Int8),
            other => {
                let (value, ty) = evaluate(other, &eval).expect("a constant");
                (lower::literal(&value, ty).expect("a constant"), ty)
            }
        })
        .collect::<Vec<_>>();
    let types = args.iter().map(|(_, ty)| *ty).collect::<Vec<_>>();
    let call = resolve_aggregate(&aggregate.name, &types).map_err(|error| error.to_string())?;
    let args = args
        .into_iter()
        .zip(&call.arg_types)
        .map(|((expr, from), to)| {
            let to = TypeMod::plain(*to);
            (lower::cast(expr, TypeMod::plain(from), to, false), to)
        })
        .collect::<Vec<_>>();
    let order_by = aggregate
        .order_by
        .iter()
        .map(|(key, ascending)| {
            let ty = if key == "n" { SqlType::Int8 } else { ty };
            (lower::comparison_key(col(key.as_str()), ty), *ascending, !*ascending)
        })
        .collect::<Vec<_>>();
    let lowered = match way {
        Way::Single | Way::Partial => {
            lower::aggregate(&call, args, aggregate.distinct, None, order_by)
        }
        Way::Window | Way::MovingWindow => {
            let frame = if way == Way::Window {
                WindowFrame::new(None)
            } else {
                let all = datafusion::common::ScalarValue::UInt64(Some(100));
                WindowFrame::new_bounds(
                    datafusion::logical_expr::WindowFrameUnits::Rows,
                    datafusion::logical_expr::WindowFrameBound::Preceding(all.clone()),
                    datafusion::logical_expr::WindowFrameBound::Following(all),
                )
            };
            let spec = lower::WindowSpec {
                partition_by: Vec::new(),
                order_by: vec![col("n").sort(true, false)],
                frame,
            };
            lower::window(&call, args, None, spec)
        }
    }
    .map_err(|error| error.to_string())?;

    let frame = session.table("t").await.map_err(|error| error.to_string())?;
    let parts = lowered
        .parts
        .iter()
        .enumerate()
        .map(|(position, part)| part.clone().alias(format!("part{position}")))
        .collect::<Vec<_>>();
    let computed = match way {
        Way::Single | Way::Partial => frame.aggregate(Vec::new(), parts),
        Way::Window | Way::MovingWindow => frame.window(parts),
    }
    .map_err(|error| error.to_string())?;
    let columns = (0..lowered.parts.len()).map(|n| col(format!("part{n}"))).collect::<Vec<Expr>>();
    let batches = match computed.select(vec![lowered.finish(columns).alias("result")]) {
        Ok(frame) => frame.collect().await,
        Err(error) => Err(error),
    }
    .map_err(|error| match lower::value_error(&error) {
        Some(value) => value.to_string(),
        None => error.to_string(),
    })?;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).ok_or("no rows")?;
    let last = batch.num_rows() - 1;
    let result =
        datum_at(batch.column(0), last, call.returns).map_err(|error| error.to_string())?;
    let shown = match &result {
        Datum::Null => "\\N".to_owned(),
        value => to_text(value, call.returns, &eval).map_err(|error| error.to_string())?,
    };
    Ok(format!("{}\t{shown}", call.returns.sql_name()))
}

#[test]
fn aggregates_answer_as_postgres_does() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (mut lines, mut wrong) = (0, Vec::new());
    for line in ANSWERS.lines() {
        let fields = line.split('\t').collect::<Vec<_>>();
        let [aggregate, ty, values, answer @ ..] = &fields[..] else { continue };
        let expected = match answer {
            ["error", _, message] => (*message).to_owned(),
            other => other.join("\t"),
        };
        let ty = type_by_name(ty).expect("a type");
        for way in [Way::Single, Way::Partial, Way::Window, Way::MovingWindow] {
            let windowed = matches!(way, Way::Window | Way::MovingWindow);
            let inside = ["distinct", "order by"].iter().any(|word| aggregate.contains(word));
            if windowed && (inside || *values == "{}") {
                continue;
            }
            lines += 1;
            let got = match runtime.block_on(run(way, aggregate, ty, values)) {
                Ok(answer) => answer,
                Err(message) => message,
            };
            if got != expected {
                wrong.push(format!(
                    "{way:?} {aggregate} over {} {values}\n    expected {expected}\n    got      {got}",
                    ty.sql_name()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {lines} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
