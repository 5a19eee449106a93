//! Values recorded from PostgreSQL 15.

use proptest::prelude::*;

use super::*;

fn n(text: &str) -> Numeric {
    Numeric::parse(text).expect("a number")
}

#[test]
fn arithmetic_has_the_scales_of_postgres() {
    for (a, op, b, expected) in [
        ("1", "/", "3", "0.33333333333333333333"),
        ("10", "/", "4", "2.5000000000000000"),
        ("1.50", "+", "2.5", "4.00"),
        ("1.50", "*", "2.5", "3.750"),
        ("100000", "/", "7", "14285.714285714286"),
        ("1", "/", "100000", "0.000010000000000000000000"),
        ("-7", "%", "3", "-1"),
        ("7.5", "%", "-2", "1.5"),
        (
            "99999999999999999999999999999999999999",
            "+",
            "1",
            "100000000000000000000000000000000000000",
        ),
        (
            "170141183460469231731687303715884105727",
            "+",
            "1",
            "170141183460469231731687303715884105728",
        ),
        ("1e30", "*", "1e30", "1000000000000000000000000000000000000000000000000000000000000"),
        ("Infinity", "-", "Infinity", "NaN"),
        ("Infinity", "*", "0", "NaN"),
        ("1", "/", "-Infinity", "0"),
        ("5", "%", "Infinity", "5"),
    ] {
        let (x, y) = (n(a), n(b));
        let result = match op {
            "+" => x.add(&y),
            "-" => x.sub(&y),
            "*" => x.mul(&y),
            "/" => x.div(&y),
            _ => x.rem(&y),
        };
        assert_eq!(result.expect("no error").to_string(), expected, "{a} {op} {b}");
    }
    assert_eq!(n("1").div(&n("0")), Err(ValueError::division_by_zero()));
}

#[test]
fn text_reads_and_prints_as_in_postgres() {
    for (input, expected) in [
        (" 1.50 ", "1.50"),
        ("-0", "0"),
        (".5", "0.5"),
        ("5.", "5"),
        ("1e3", "1000"),
        ("1.5e-3", "0.0015"),
        ("1.5e3", "1500"),
        ("nan", "NaN"),
        ("-inf", "-Infinity"),
        ("0.000", "0.000"),
        ("-0.05", "-0.05"),
    ] {
        assert_eq!(n(input).to_string(), expected);
    }
    for bad in ["", ".", "1e", "abc", "1 2", "1.2.3", "--1", "1e+", "0x10", "1_000"] {
        let error = Numeric::parse(bad).expect_err("not a number");
        assert_eq!(error.message, format!("invalid input syntax for type numeric: \"{bad}\""));
    }
    assert_eq!(Numeric::parse("1e131072").expect_err("too large"), overflow());
    assert_eq!(n("1e131071").to_string().len(), 131_072);
}

#[test]
fn rounding_goes_away_from_zero() {
    assert_eq!(n("2.5").round(0).to_string(), "3");
    assert_eq!(n("-2.5").round(0).to_string(), "-3");
    assert_eq!(n("2.449").round(1).to_string(), "2.4");
    assert_eq!(n("1234.5").round(-2).to_string(), "1200");
    assert_eq!(n("1.5").round(3).to_string(), "1.500");
    assert_eq!(n("-1.59").trunc(1).to_string(), "-1.5");
    assert_eq!(n("-1.5").ceil().to_string(), "-1");
    assert_eq!(n("-1.5").floor().to_string(), "-2");
    let error = n("999.995").with_limits(5, 2).expect_err("too large");
    assert_eq!(error.message, "numeric field overflow");
    assert_eq!(
        error.detail.as_deref(),
        Some("A field with precision 5, scale 2 must round to an absolute value less than 10^3.")
    );
}

#[test]
fn floats_convert_as_in_postgres() {
    assert_eq!(Numeric::from_f64(0.1 + 0.2).to_string(), "0.3");
    assert_eq!(Numeric::from_f64(1e20).to_string(), "100000000000000000000");
    assert_eq!(Numeric::from_f64(123456.789e-10).to_string(), "0.0000123456789");
    assert_eq!(Numeric::from_f32(0.1).to_string(), "0.1");
    assert_eq!(n("0.1").to_f64(), 0.1);
    assert_eq!(n("1e400").to_f64(), f64::INFINITY);
    assert_eq!(n("2.5").to_i64(), Ok(3));
    assert_eq!(n("9223372036854775808").to_i64(), Err(ValueError::out_of_range("bigint")));
}

fn any_numeric() -> impl Strategy<Value = Numeric> {
    prop_oneof![
        (any::<i64>(), 0u16..30).prop_map(|(value, scale)| Numeric::from_i128(value.into(), scale)),
        (any::<i128>(), 0u16..60).prop_map(|(value, scale)| Numeric::from_i128(value, scale)),
        (-2000i128..2000, 0u16..8).prop_map(|(value, scale)| Numeric::from_i128(value, scale)),
        ("-?[1-9][0-9]{0,80}(\\.[0-9]{1,60})?").prop_map(|text| n(&text)),
        Just(Numeric::NAN),
        Just(Numeric::INFINITY),
        Just(Numeric::NEGATIVE_INFINITY),
    ]
}

proptest! {
    #[test]
    fn sortable_bytes_order_as_values_and_read_back(a in any_numeric(), b in any_numeric()) {
        let (x, y) = (a.to_sortable(), b.to_sortable());
        let expected = a.cmp(&b).then(a.scale().cmp(&b.scale()));
        prop_assert_eq!(x.cmp(&y), expected, "{} {}", &a, &b);
        let back = Numeric::from_sortable(&x).expect("well-formed");
        prop_assert_eq!(back.to_string(), a.to_string());
        prop_assert_eq!(a.normalized().to_sortable() == b.normalized().to_sortable(), a == b);
        let mut key = Vec::new();
        a.write_key(&mut key);
        key.extend_from_slice(b"tail");
        let (value, n_bytes) = Numeric::from_key(&key).expect("well-formed");
        prop_assert_eq!(n_bytes, key.len() - 4);
        prop_assert_eq!(value.to_string(), a.normalized().to_string());
    }

    #[test]
    fn the_wire_form_reads_back(a in any_numeric()) {
        let mut bytes = Vec::new();
        to_wire(&a, &mut bytes);
        prop_assert_eq!(from_wire(&bytes).expect("well-formed").to_string(), a.to_string());
    }

    #[test]
    fn damaged_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        _ = Numeric::from_sortable(&bytes);
        _ = Numeric::from_key(&bytes);
        _ = from_wire(&bytes);
    }

    #[test]
    fn small_and_big_paths_agree(a in any::<i64>(), b in any::<i64>(), s in 0u16..12, t in 0u16..12) {
        let (x, y) = (Numeric::from_i128(a.into(), s), Numeric::from_i128(b.into(), t));
        let big = |value: &Numeric| {
            let scale = value.scale();
            Numeric(Repr::Big { unscaled: Box::new(value.unscaled_at(scale)), scale })
        };
        let (v, w) = (big(&x), big(&y));
        prop_assert_eq!(x.cmp(&y), v.cmp(&w));
        prop_assert_eq!(x.add(&y).expect("fits").to_string(), v.add(&w).expect("fits").to_string());
        prop_assert_eq!(x.mul(&y).expect("fits").to_string(), v.mul(&w).expect("fits").to_string());
        if b != 0 {
            prop_assert_eq!(x.div(&y).expect("fits").to_string(), v.div(&w).expect("fits").to_string());
            prop_assert_eq!(x.rem(&y).expect("fits").to_string(), v.rem(&w).expect("fits").to_string());
        }
        prop_assert_eq!(x.round(3).to_string(), v.round(3).to_string());
    }
}

/// `'a'::numeric + 'b'::numeric`, `round('a'::numeric, 2)`, `'a'::numeric::int8`
fn evaluate(expression: &str) -> Result<String, ValueError> {
    let quoted: Vec<&str> = expression.split('\'').skip(1).step_by(2).collect();
    let shape: String = expression.split('\'').step_by(2).collect::<Vec<_>>().join("#");
    let shape = shape.replace("#::numeric", "#");
    let a = || Numeric::parse(quoted[0]);
    let b = || Numeric::parse(quoted[1]);
    let text = |value: Numeric| Ok(value.to_string());
    if let Some((function, rest)) = shape.split_once('(') {
        let n = || {
            let n = rest.split_once(", ").expect("a number").1.trim_end_matches(')');
            n.parse::<i32>().expect("a number")
        };
        return text(match (function, quoted.len()) {
            ("round", _) => a()?.round(n()),
            ("trunc", _) => a()?.trunc(n()),
            ("ceil", _) => a()?.ceil(),
            ("floor", _) => a()?.floor(),
            ("abs", _) => a()?.abs(),
            ("sign", _) if a()?.is_nan() => Numeric::NAN,
            ("sign", _) => Numeric::from_i64(a()?.signum().into()),
            ("sqrt", _) => a()?.sqrt()?,
            ("exp", _) => a()?.exp()?,
            ("ln", _) => a()?.ln()?,
            ("log", 1) => a()?.log10()?,
            ("log", _) => b()?.log(&a()?)?,
            ("power", _) => a()?.power(&b()?)?,
            other => panic!("no function {other:?}"),
        });
    }
    match shape.as_str() {
        "# + #" => text(a()?.add(&b()?)?),
        "# - #" => text(a()?.sub(&b()?)?),
        "# * #" => text(a()?.mul(&b()?)?),
        "# / #" => text(a()?.div(&b()?)?),
        "# % #" => text(a()?.rem(&b()?)?),
        "#::float8" => {
            let mut out = String::new();
            crate::value::text::format_f64(a()?.to_f64(), 1, &mut out);
            Ok(out)
        }
        "#::float8::numeric" => text(Numeric::from_f64(quoted[0].parse().expect("a float"))),
        "#::float4::numeric" => text(Numeric::from_f32(quoted[0].parse().expect("a float"))),
        "#::int8" => Ok(a()?.to_i64()?.to_string()),
        "#::int4" => Ok(a()?.to_integer::<i32>("integer")?.to_string()),
        other => panic!("no shape {other}"),
    }
}

fn check_recorded(recorded: &str) {
    let mut wrong = Vec::new();
    for line in recorded.lines().filter(|line| line.starts_with("op")) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (expression, expected) = (fields[1], fields[2]);
        // Error codes are checked with the text forms; here only the message counts.
        let (ours, expected) = match evaluate(expression) {
            Ok(text) => (text, expected),
            Err(error) => (error.message, expected.get(7..).unwrap_or("")),
        };
        if ours != expected {
            wrong.push(format!("{expression}\n  expected {expected}\n  got      {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn results_are_those_of_postgres() {
    check_recorded(include_str!("../../../testdata/op_numeric.txt"));
}

#[test]
fn roots_and_logarithms_are_those_of_postgres() {
    check_recorded(include_str!("../../../testdata/op_math.txt"));
}
