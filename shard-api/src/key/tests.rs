//! Keys: order, round trips, slots that must never change.

use std::{cmp::Ordering, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    descriptor::{ColumnDescriptor, IndexColumn, IndexState, SlotMap},
    ids::Oid,
    types::TypeMod,
    value::{ArrayValue, Interval, Numeric, json},
};

const ORDERS: [KeyOrder; 4] = [
    KeyOrder { descending: false, nulls_first: false },
    KeyOrder { descending: false, nulls_first: true },
    KeyOrder { descending: true, nulls_first: false },
    KeyOrder { descending: true, nulls_first: true },
];

/// SQL order of two values of one type, NULLs aside.
fn sql_order(a: &Datum, b: &Datum) -> Ordering {
    match (a, b) {
        (Datum::Bool(a), Datum::Bool(b)) => a.cmp(b),
        (Datum::Int2(a), Datum::Int2(b)) => a.cmp(b),
        (Datum::Int8(a), Datum::Int8(b)) => a.cmp(b),
        (Datum::Float8(a), Datum::Float8(b)) => match (a.is_nan(), b.is_nan()) {
            (false, false) => a.partial_cmp(b).expect("no NaN"),
            (a, b) => a.cmp(&b),
        },
        (Datum::Float4(a), Datum::Float4(b)) => match (a.is_nan(), b.is_nan()) {
            (false, false) => a.partial_cmp(b).expect("no NaN"),
            (a, b) => a.cmp(&b),
        },
        (Datum::Numeric(a), Datum::Numeric(b)) => a.cmp(b),
        (Datum::Text(a), Datum::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Datum::Bytea(a), Datum::Bytea(b)) => a.cmp(b),
        (Datum::Interval(a), Datum::Interval(b)) => {
            let total = |i: &Interval| {
                (i128::from(i.months) * 30 + i128::from(i.days)) * 86_400_000_000
                    + i128::from(i.micros)
            };
            total(a).cmp(&total(b))
        }
        (Datum::Array(a), Datum::Array(b)) => {
            for (x, y) in a.elements.iter().zip(&b.elements) {
                let order = match (x.is_null(), y.is_null()) {
                    (false, false) => sql_order(x, y),
                    (a, b) => a.cmp(&b),
                };
                if order != Ordering::Equal {
                    return order;
                }
            }
            a.elements.len().cmp(&b.elements.len()).then(a.lower_bound.cmp(&b.lower_bound))
        }
        _ => panic!("no order for {a:?} and {b:?}"),
    }
}

fn values_of(ty: SqlType) -> BoxedStrategy<Datum> {
    match ty {
        SqlType::Bool => any::<bool>().prop_map(Datum::Bool).boxed(),
        SqlType::Int2 => any::<i16>().prop_map(Datum::Int2).boxed(),
        SqlType::Int8 => any::<i64>().prop_map(Datum::Int8).boxed(),
        SqlType::Float4 => any::<f32>().prop_map(Datum::Float4).boxed(),
        SqlType::Float8 => {
            prop_oneof![any::<f64>(), Just(f64::NAN), Just(0.0), Just(-0.0), Just(f64::INFINITY)]
                .prop_map(Datum::Float8)
                .boxed()
        }
        SqlType::Numeric => (any::<i64>(), 0u16..20)
            .prop_map(|(value, scale)| Datum::Numeric(Numeric::from_i128(value.into(), scale)))
            .boxed(),
        SqlType::Text => "[ab\u{0}é]{0,4}".prop_map(|text| Datum::Text(text.into())).boxed(),
        SqlType::Bytea => {
            proptest::collection::vec(prop_oneof![Just(0u8), Just(255), Just(1)], 0..5)
                .prop_map(|bytes| Datum::Bytea(bytes.into()))
                .boxed()
        }
        SqlType::Interval => (-3i32..3, -95i32..95, any::<i64>())
            .prop_map(|(months, days, micros)| {
                Datum::Interval(Interval { months, days, micros: micros % 200_000_000_000 })
            })
            .boxed(),
        SqlType::Array(element) => {
            let element_value = prop_oneof![4 => values_of(*element), 1 => Just(Datum::Null)];
            (proptest::collection::vec(element_value, 0..3), 0..2)
                .prop_map(move |(elements, lower_bound)| {
                    Datum::Array(Box::new(ArrayValue { element: *element, lower_bound, elements }))
                })
                .boxed()
        }
        _ => Just(Datum::Null).boxed(),
    }
}

fn pair() -> impl Strategy<Value = (SqlType, Datum, Datum)> {
    prop::sample::select(vec![
        SqlType::Bool,
        SqlType::Int2,
        SqlType::Int8,
        SqlType::Float4,
        SqlType::Float8,
        SqlType::Numeric,
        SqlType::Text,
        SqlType::Bytea,
        SqlType::Interval,
        SqlType::Array(&SqlType::Text),
        SqlType::Array(&SqlType::Int2),
        SqlType::Array(&SqlType::Numeric),
    ])
    .prop_flat_map(|ty| {
        let value = || prop_oneof![6 => values_of(ty), 1 => Just(Datum::Null)];
        (Just(ty), value(), value())
    })
}

proptest! {
    #[test]
    fn byte_order_is_sql_order((ty, a, b) in pair()) {
        for order in ORDERS {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            encode_datum(&mut x, &a, ty, order);
            encode_datum(&mut y, &b, ty, order);
            let expected = match (a.is_null(), b.is_null()) {
                (true, true) => Ordering::Equal,
                (true, false) => if order.nulls_first { Ordering::Less } else { Ordering::Greater },
                (false, true) => if order.nulls_first { Ordering::Greater } else { Ordering::Less },
                (false, false) if order.descending => sql_order(&b, &a),
                (false, false) => sql_order(&a, &b),
            };
            prop_assert_eq!(x.cmp(&y), expected, "{:?} {:?} {:?}", a, b, order);
            // Self-delimiting, and equal after the round trip.
            let n_bytes = x.len();
            x.extend_from_slice(&y);
            let (decoded, taken) = decode_datum(&x, ty, order).expect("well-formed");
            prop_assert_eq!(taken, n_bytes);
            prop_assert_eq!(datum_len(&x, ty, order).expect("well-formed"), n_bytes);
            let mut again = Vec::new();
            encode_datum(&mut again, &decoded, ty, order);
            prop_assert_eq!(&again[..], &x[..n_bytes]);
        }
    }

    #[test]
    fn damaged_keys_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let types = crate::types::SCALARS.iter().copied();
        for ty in types.chain([SqlType::Array(&SqlType::Text), SqlType::Array(&SqlType::Numeric)]) {
            for order in ORDERS {
                _ = decode_datum(&bytes, ty, order);
                let marked = [&[1], &bytes[..]].concat();
                _ = decode_datum(&marked, ty, order);
            }
        }
    }
}

#[test]
fn jsonb_orders_as_in_postgres() {
    // ORDER BY of PostgreSQL 15.
    let sorted = [
        "[]",
        "null",
        "\"\"",
        "\"a\"",
        "\"b\"",
        "-1",
        "1",
        "1.5",
        "10",
        "false",
        "true",
        "[null]",
        "[1]",
        "[[]]",
        "[1, 2]",
        "{}",
        "{\"b\": 0}",
        "{\"a\": 1, \"b\": 1}",
    ];
    let encoded: Vec<Vec<u8>> = sorted
        .iter()
        .map(|text| {
            let mut key = Vec::new();
            let value = Datum::Jsonb(json::canonical(text).expect("valid"));
            encode_datum(&mut key, &value, SqlType::Jsonb, KeyOrder::default());
            let (back, _) = decode_datum(&key, SqlType::Jsonb, KeyOrder::default()).expect("valid");
            assert!(back.is_identical(&value), "{text}");
            key
        })
        .collect();
    for (i, window) in encoded.windows(2).enumerate() {
        assert!(window[0] < window[1], "{} < {}", sorted[i], sorted[i + 1]);
    }
}

fn table(placement: Placement, primary_key: Vec<usize>) -> TableDescriptor {
    let column = |name: &str, ty| ColumnDescriptor {
        name: name.into(),
        ty: TypeMod::plain(ty),
        not_null: false,
        dropped: false,
        added_in: 1,
        missing: Datum::Null,
    };
    TableDescriptor {
        oid: Oid(16384),
        schema: "public".into(),
        name: "t".into(),
        storage: StorageId(7),
        version: 1,
        columns: vec![
            column("id", SqlType::Int8),
            column("name", SqlType::Text),
            column("n", SqlType::Int4),
        ],
        primary_key,
        primary_key_name: None,
        placement,
        placement_epoch: 0,
        indexes: Vec::new(),
        checks: Vec::new(),
        foreign_keys: Vec::new(),
        referenced_by: Vec::new(),
    }
}

fn hashed() -> Placement {
    let owner = (0..SLOTS).map(|slot| ShardId(1 + u32::from(slot % 4))).collect();
    Placement::Hash { key: vec![0], map: Arc::new(SlotMap { group: Oid(1), epoch: 1, owner }) }
}

fn row(id: i64, name: &str, n: i32) -> Vec<Datum> {
    vec![Datum::Int8(id), Datum::Text(name.into()), Datum::Int4(n)]
}

#[test]
fn slots_are_frozen() {
    let slots: Vec<u16> = (0..6)
        .map(|id| slot(&[(&Datum::Int8(id), SqlType::Int8)]).0)
        .chain([slot(&[(&Datum::Text("tenant".into()), SqlType::Text)]).0])
        .collect();
    assert_eq!(slots, FROZEN_SLOTS);
}

const FROZEN_SLOTS: [u16; 7] = [89, 318, 939, 717, 25, 31, 238];

#[test]
fn row_keys_of_every_placement() {
    let home = table(Placement::Home(ShardId(3)), vec![0]);
    let key = row_key(&home, &row(5, "x", 1), None).expect("a key");
    assert_eq!(&key[..], [0, 0, 0, 7, 1, 0x80, 0, 0, 0, 0, 0, 0, 5]);
    assert_eq!(key, row_key_from_primary_key(&home, &[Datum::Int8(5)]));
    assert_eq!(shard_of_key(&home, &key), ShardId(3));

    let hash = table(hashed(), vec![1, 0]);
    let key = row_key(&hash, &row(5, "x", 1), None).expect("a key");
    let from_key = row_key_from_primary_key(&hash, &[Datum::Text("x".into()), Datum::Int8(5)]);
    assert_eq!(key, from_key);
    let expected = slot(&[(&Datum::Int8(5), SqlType::Int8)]);
    assert_eq!(slot_of_key(&key), Some(expected));
    assert_eq!(shard_of_key(&hash, &key), ShardId(1 + u32::from(expected.0 % 4)));
    assert_eq!(shard_of_row(&hash, &row(5, "x", 1)), shard_of_key(&hash, &key));

    let mut split = Vec::new();
    encode_datum(&mut split, &Datum::Int4(10), SqlType::Int4, KeyOrder::default());
    let map = Arc::new(RangeMap {
        group: Oid(2),
        epoch: 1,
        splits: vec![split],
        owner: vec![ShardId(1), ShardId(2)],
    });
    let range = table(Placement::Range { key: vec![2], map }, vec![0]);
    for (n, shard) in [(9, 1), (10, 2), (11, 2), (-5, 1)] {
        let key = row_key(&range, &row(5, "x", n), None).expect("a key");
        assert_eq!(shard_of_key(&range, &key), ShardId(shard));
        assert_eq!(shard_of_row(&range, &row(5, "x", n)), ShardId(shard));
    }
    assert!(row_key(&table(Placement::Home(ShardId(1)), vec![]), &row(1, "", 1), None).is_err());
    let hidden = row_key(&table(hashed(), vec![]), &row(1, "", 1), Some(9)).expect("a key");
    assert_eq!(hidden.len(), 4 + 2 + 8);
}

#[test]
fn index_entries_lead_back_to_the_row() {
    for unique in [false, true] {
        for placement in [hashed(), Placement::Home(ShardId(1))] {
            let mut table = table(placement, vec![0]);
            let index_column =
                |column, descending| IndexColumn { column, descending, nulls_first: descending };
            table.indexes.push(IndexDescriptor {
                oid: Oid(16400),
                name: "i".into(),
                storage: StorageId(8),
                unique,
                constraint: false,
                columns: vec![index_column(1, true), index_column(2, false)],
                state: IndexState::Public,
            });
            for name in [Datum::Text("abc".into()), Datum::Null] {
                let mut row = row(5, "", 1);
                row[1] = name;
                let key = row_key(&table, &row, None).expect("a key");
                let index = &table.indexes[0];
                let (entry, value) = index_entry(&table, index, &row, &key);
                assert_eq!(value.is_empty(), !unique || row[1].is_null());
                let back = row_key_of_entry(&table, index, &entry, &value).expect("a key");
                assert_eq!(back, key);
            }
        }
    }
}

#[test]
fn prefix_ends() {
    assert_eq!(prefix_end(&[1, 2]).as_deref(), Some(&[1u8, 3][..]));
    assert_eq!(prefix_end(&[1, 0xff]).as_deref(), Some(&[2u8][..]));
    assert_eq!(prefix_end(&[0xff]), None);
}
