//! The lowered form of every operator (and some functions and casts) answers as its scalar kernel does, on values that include
//! the edges: NULL, NaN, -0, infinities, the least and the greatest, equal values that look different.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::Schema};
use cortex_shard_api::{
    Datum, SqlType, TypeMod, ValueError,
    value::{
        arrow::{array_from_datums, datum_at, field},
        text::parse,
    },
};
use datafusion::{
    common::DFSchema,
    logical_expr::Expr,
    prelude::{SessionConfig, SessionContext, col},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    kernels::to_text,
    lower,
    registry::{
        CastContext, ResolvedCall, bound_call, can_cast, operators, resolve_function,
        resolve_operator,
    },
    scalar,
    session::{EvalContext, install},
};

const SEED: u64 = 20_261_122;
const ROWS: usize = 64;

/// Interesting values of a type, as text; empty for types that are not tested.
fn edges(ty: SqlType) -> &'static [&'static str] {
    match ty {
        SqlType::Bool => &["t", "f"],
        SqlType::Int2 => &["0", "1", "-1", "7", "32767", "-32768"],
        SqlType::Int4 => &["0", "1", "-1", "5", "33", "2147483647", "-2147483648"],
        SqlType::Int8 => &["0", "1", "-1", "64", "9223372036854775807", "-9223372036854775808"],
        SqlType::Float4 => &["0", "-0", "1.5", "-2.25", "NaN", "Infinity", "-Infinity", "1e38"],
        SqlType::Float8 => {
            &["0", "-0", "1.5", "-2.25", "NaN", "Infinity", "-Infinity", "1e308", "1e-300"]
        }
        SqlType::Numeric => {
            &["0", "0.00", "1", "1.0", "1.00", "-1.5", "1e10", "123.456", "NaN", "Infinity"]
        }
        SqlType::Text | SqlType::Varchar | SqlType::Name => {
            &["", "a", "A", "ab", "a ", "a%", "é", "a\\b", "b_"]
        }
        SqlType::Bpchar => &["", "a", "a ", "a  ", "ab", "B"],
        SqlType::Bytea => &["\\x", "\\x00", "\\x0001", "\\xff"],
        SqlType::Date => &["1970-01-01", "2020-02-29", "infinity", "-infinity", "0044-03-15 BC"],
        SqlType::Time => &["00:00", "12:34:56.789", "24:00:00"],
        SqlType::Timestamp => &["1970-01-01", "2020-02-29 23:59:59.5", "infinity", "-infinity"],
        SqlType::Timestamptz => &["1970-01-01 00:00+00", "2020-02-29 01:00+00", "infinity"],
        SqlType::Interval => &["0", "1 month", "30 days", "720:00:00", "-1 day", "1 day 00:00:01"],
        SqlType::Uuid => {
            &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
        }
        SqlType::Oid => &["0", "1", "4294967295"],
        SqlType::Jsonb => {
            &["null", "1", "1.0", "\"a\"", "[]", "[1]", "{}", "{\"a\":1}", "{\"a\":1.00}", "true"]
        }
        SqlType::Array(SqlType::Int4) => &["{}", "{1}", "{1,NULL}", "{1,2}", "{2}"],
        SqlType::Array(SqlType::Text) => &["{}", "{a}", "{a,b}", "{a,NULL}"],
        SqlType::Array(SqlType::Numeric) => &["{1.0}", "{1.00}", "{2}"],
        _ => &[],
    }
}

fn value(ty: SqlType, rng: &mut StdRng) -> Datum {
    let edges = edges(ty);
    if rng.random_range(0..8) == 0 {
        return Datum::Null;
    }
    let text = edges[rng.random_range(0..edges.len())];
    parse(ty, text, &EvalContext::default().settings).expect("an edge is a value")
}

/// Makes the lowered expression from its arguments.
type Build<'a> = dyn Fn(Vec<(Expr, TypeMod)>) -> Expr + 'a;

/// The same on one row.
type Kernel<'a> = dyn Fn(&[Datum], &EvalContext) -> Result<Datum, ValueError> + 'a;

struct Bench {
    session: SessionContext,
    context: EvalContext,
    rng: StdRng,
    wrong: Vec<String>,
    checked: usize,
}

impl Bench {
    fn new() -> Bench {
        let context = EvalContext::default();
        let mut config = SessionConfig::new();
        install(config.options_mut(), Arc::new(context.clone()));
        Bench {
            session: SessionContext::new_with_config(config),
            context,
            rng: StdRng::seed_from_u64(SEED),
            wrong: Vec::new(),
            checked: 0,
        }
    }

    /// One evaluation of a lowered expression over rows of the given types.
    fn vectorized(
        &self,
        build: &Build<'_>,
        types: &[SqlType],
        rows: &[Vec<Datum>],
        returns: SqlType,
    ) -> Result<Vec<Datum>, String> {
        let fields = types
            .iter()
            .enumerate()
            .map(|(n, ty)| field(&format!("c{n}"), TypeMod::plain(*ty), true))
            .collect::<Vec<_>>();
        let schema = Arc::new(Schema::new(fields));
        let columns = types
            .iter()
            .enumerate()
            .map(|(n, ty)| {
                let column = rows.iter().map(|row| row[n].clone()).collect::<Vec<_>>();
                array_from_datums(*ty, &column).expect("values of their type")
            })
            .collect();
        let batch = RecordBatch::try_new(schema.clone(), columns).expect("a batch");
        let args = types
            .iter()
            .enumerate()
            .map(|(n, ty)| (col(format!("c{n}")), TypeMod::plain(*ty)))
            .collect();
        let schema = DFSchema::try_from(schema.as_ref().clone()).expect("a schema");
        let shown = |error: datafusion::error::DataFusionError| match lower::value_error(&error) {
            Some(value) => value.to_string(),
            None => format!("not a value error: {error}"),
        };
        let physical = self.session.create_physical_expr(build(args), &schema).map_err(shown)?;
        let result = physical
            .evaluate(&batch)
            .and_then(|value| value.into_array(batch.num_rows()))
            .map_err(shown)?;
        (0..rows.len())
            .map(|row| datum_at(&result, row, returns).map_err(|error| error.to_string()))
            .collect()
    }

    fn shown(&self, value: &Datum, ty: SqlType) -> String {
        match value {
            Datum::Null => "NULL".to_owned(),
            value => to_text(value, ty, &self.context).expect("printable"),
        }
    }

    /// Compares both forms: all rows without an error at once, and each row with one alone.
    fn compare(
        &mut self,
        name: &str,
        types: &[SqlType],
        returns: SqlType,
        build: &Build<'_>,
        kernel: &Kernel<'_>,
    ) {
        let rows = (0..ROWS)
            .map(|_| types.iter().map(|ty| value(*ty, &mut self.rng)).collect::<Vec<_>>())
            .collect::<Vec<_>>();
        let (mut fine, mut expected) = (Vec::new(), Vec::new());
        let mut failed = 0;
        for row in rows {
            match kernel(&row, &self.context) {
                Ok(value) => {
                    expected.push(self.shown(&value, returns));
                    fine.push(row);
                }
                Err(error) => {
                    failed += 1;
                    if failed > 4 {
                        continue;
                    }
                    self.checked += 1;
                    match self.vectorized(build, types, std::slice::from_ref(&row), returns) {
                        Err(message) if message == error.to_string() => {}
                        got => self.wrong.push(format!("{name} {row:?}: {error} but {got:?}")),
                    }
                }
            }
        }
        match self.vectorized(build, types, &fine, returns) {
            Err(message) => self.wrong.push(format!("{name}: {message}")),
            Ok(values) => {
                for ((value, expected), row) in values.iter().zip(&expected).zip(&fine) {
                    self.checked += 1;
                    let got = self.shown(value, returns);
                    if got != *expected {
                        self.wrong.push(format!("{name} {row:?}: {expected} but {got}"));
                    }
                }
            }
        }
    }

    fn call(&mut self, name: &str, call: &ResolvedCall) {
        if call.arg_types.iter().any(|ty| edges(*ty).is_empty()) {
            return;
        }
        let bound = bound_call(&call.signature).expect("a resolved signature is bound");
        self.compare(
            name,
            &call.arg_types,
            call.returns,
            &|args| lower::call(call, args),
            &|row, context| scalar::dispatch(&bound, row, context),
        );
    }

    fn finish(self) {
        assert!(self.checked > 0, "nothing was checked");
        let shown = self.wrong.iter().take(30).cloned().collect::<Vec<_>>().join("\n");
        assert!(self.wrong.is_empty(), "{} of {} wrong:\n{shown}", self.wrong.len(), self.checked);
    }
}

#[test]
fn operators_agree_with_their_kernels() {
    let mut bench = Bench::new();
    for operator in operators() {
        let (left, right) = (SqlType::from_oid(operator.left), SqlType::from_oid(operator.right));
        let Some(right) = right else { continue };
        if operator.left != 0 && left.is_none() {
            continue;
        }
        let call = resolve_operator(operator.name, left, right).expect("the operator exists");
        bench.call(&format!("{} {}", operator.name, call.signature), &call);
    }
    for ty in [&SqlType::Int4, &SqlType::Text, &SqlType::Numeric] {
        for op in ["=", "<>", "<", "<=", ">", ">="] {
            let array = SqlType::Array(ty);
            let call = resolve_operator(op, Some(array), array).expect("arrays compare");
            bench.call(&format!("{op} {}", call.signature), &call);
        }
    }
    bench.finish();
}

#[test]
fn functions_agree_with_their_kernels() {
    use SqlType::{Float8, Int4, Numeric, Text};
    let mut bench = Bench::new();
    let cases: &[(&str, &[SqlType])] = &[
        ("upper", &[Text]),
        ("lower", &[Text]),
        ("length", &[Text]),
        ("length", &[SqlType::Bpchar]),
        ("substr", &[Text, Int4]),
        ("left", &[Text, Int4]),
        ("concat", &[Text, Int4, SqlType::Bool]),
        ("replace", &[Text, Text, Text]),
        ("abs", &[Int4]),
        ("abs", &[Numeric]),
        ("round", &[Numeric]),
        ("round", &[Float8]),
        ("sqrt", &[Float8]),
        ("array_append", &[SqlType::Array(&SqlType::Int4), Int4]),
        ("to_jsonb", &[Numeric]),
        ("md5", &[Text]),
    ];
    for (name, types) in cases {
        let call = resolve_function(name, types).expect("the function exists");
        bench.call(&call.signature.clone(), &call);
    }
    bench.finish();
}

#[test]
fn casts_agree_with_their_kernel() {
    let mut bench = Bench::new();
    let types = cortex_shard_api::types::SCALARS;
    for from in types.iter().copied().filter(|ty| !edges(*ty).is_empty()) {
        for to in types.iter().copied().filter(|ty| !edges(*ty).is_empty()) {
            if !can_cast(from, to, CastContext::Explicit) {
                continue;
            }
            let (from, to) = (TypeMod::plain(from), TypeMod::plain(to));
            bench.compare(
                &format!("{} to {}", from.ty.sql_name(), to.ty.sql_name()),
                &[from.ty],
                to.ty,
                &|mut args| lower::cast(args.remove(0).0, from, to, true),
                &|row, context| scalar::cast(row[0].clone(), from, to, true, context),
            );
        }
    }
    bench.finish();
}
