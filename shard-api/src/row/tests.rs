//! Rows as they are stored, and as scans read them.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    descriptor::{ColumnDescriptor, Placement},
    ids::{LogIndex, Oid, ShardId, StorageId},
    types::{SCALARS, TypeMod},
    value::arrow::{RowBatchBuilder, array_from_datums, datum_at},
};

fn column(name: &str, ty: SqlType, added_in: u32) -> ColumnDescriptor {
    ColumnDescriptor {
        name: name.into(),
        ty: TypeMod::plain(ty),
        not_null: false,
        dropped: false,
        added_in,
        missing: Datum::Null,
    }
}

fn table(types: &[SqlType]) -> TableDescriptor {
    TableDescriptor {
        oid: Oid(16384),
        schema: "public".into(),
        name: "t".into(),
        storage: StorageId(7),
        version: 1,
        columns: types.iter().map(|ty| column(ty.catalog_name(), *ty, 1)).collect(),
        primary_key: Vec::new(),
        primary_key_name: None,
        placement: Placement::Home(ShardId(1)),
        placement_epoch: 0,
        indexes: Vec::new(),
        checks: Vec::new(),
        foreign_keys: Vec::new(),
        referenced_by: Vec::new(),
    }
}

fn value_of(ty: SqlType) -> BoxedStrategy<Datum> {
    match ty {
        SqlType::Bool => any::<bool>().prop_map(Datum::Bool).boxed(),
        SqlType::Int2 => any::<i16>().prop_map(Datum::Int2).boxed(),
        SqlType::Int4 => any::<i32>().prop_map(Datum::Int4).boxed(),
        SqlType::Int8 => any::<i64>().prop_map(Datum::Int8).boxed(),
        SqlType::Float4 => any::<f32>().prop_map(Datum::Float4).boxed(),
        SqlType::Float8 => any::<f64>().prop_map(Datum::Float8).boxed(),
        SqlType::Numeric => (any::<i128>(), 0u16..50)
            .prop_map(|(value, scale)| Datum::Numeric(Numeric::from_i128(value, scale)))
            .boxed(),
        SqlType::Bytea => any::<Vec<u8>>().prop_map(|bytes| Datum::Bytea(bytes.into())).boxed(),
        SqlType::Date => any::<i32>().prop_map(Datum::Date).boxed(),
        SqlType::Time => any::<i64>().prop_map(Datum::Time).boxed(),
        SqlType::Timestamp => any::<i64>().prop_map(Datum::Timestamp).boxed(),
        SqlType::Timestamptz => any::<i64>().prop_map(Datum::Timestamptz).boxed(),
        SqlType::Interval => (any::<i32>(), any::<i32>(), any::<i32>())
            .prop_map(|(months, days, micros)| {
                Datum::Interval(Interval { months, days, micros: micros.into() })
            })
            .boxed(),
        SqlType::Uuid => any::<[u8; 16]>().prop_map(Datum::Uuid).boxed(),
        SqlType::Json => Just(Datum::Json("[1,  2]".into())).boxed(),
        SqlType::Jsonb => Just(Datum::Jsonb("[1, 2]".into())).boxed(),
        SqlType::Void => Just(Datum::Null).boxed(),
        SqlType::Array(element) => {
            let value = prop_oneof![3 => value_of(*element), 1 => Just(Datum::Null)];
            proptest::collection::vec(value, 0..5)
                .prop_map(move |elements| {
                    Datum::Array(Box::new(ArrayValue {
                        element: *element,
                        lower_bound: 1,
                        elements,
                    }))
                })
                .boxed()
        }
        _ if ty.is_oid_like() => any::<u32>().prop_map(Datum::Oid).boxed(),
        _ => any::<String>().prop_map(|text| Datum::Text(text.into())).boxed(),
    }
}

fn any_type() -> impl Strategy<Value = SqlType> {
    let arrays = SCALARS.iter().filter_map(|ty| ty.array());
    prop::sample::select(SCALARS.iter().copied().chain(arrays).collect::<Vec<_>>())
}

fn table_and_rows() -> impl Strategy<Value = (Vec<SqlType>, Vec<Vec<Datum>>)> {
    proptest::collection::vec(any_type(), 0..12).prop_flat_map(|types| {
        let row: Vec<_> = types
            .iter()
            .map(|ty| prop_oneof![3 => value_of(*ty), 1 => Just(Datum::Null)])
            .collect();
        (Just(types), proptest::collection::vec(row, 0..4))
    })
}

proptest! {
    #[test]
    fn rows_read_back_whole_projected_and_as_columns((types, rows) in table_and_rows()) {
        let table = table(&types);
        let positions: Vec<usize> = (0..types.len()).rev().collect();
        let mut batch = RowBatchBuilder::new(&table, &positions, true, 8);
        for row in &rows {
            let stored = encode(&table, row);
            let back = decode(&table, &stored).expect("well-formed");
            prop_assert!(back.iter().zip(row).all(|(a, b)| a.is_identical(b)), "{row:?} {back:?}");
            let some = decode_columns(&table, &stored, &positions).expect("well-formed");
            prop_assert!(some.iter().zip(row.iter().rev()).all(|(a, b)| a.is_identical(b)));
            batch.push(&Bytes::from_static(b"key"), LogIndex(3), &stored).expect("well-formed");
        }
        let batch = batch.finish().expect("a batch");
        prop_assert_eq!(batch.num_rows(), rows.len());
        prop_assert_eq!(batch.num_columns(), types.len() + 2);
        for (at, position) in positions.iter().enumerate() {
            let column: Vec<Datum> = rows.iter().map(|row| row[*position].clone()).collect();
            let made = array_from_datums(types[*position], &column).expect("fits");
            prop_assert_eq!(&made, batch.column(at));
            for (i, value) in column.iter().enumerate() {
                let back = datum_at(&made, i, types[*position]).expect("well-formed");
                prop_assert!(back.is_identical(value), "{value:?} {back:?}");
            }
        }
    }

    #[test]
    fn damaged_rows_never_panic(
        (types, rows) in table_and_rows(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let table = table(&types);
        for row in &rows {
            let mut stored = encode(&table, row);
            for (at, byte) in &flips {
                let at = at.index(stored.len());
                stored[at] = *byte;
            }
            for bytes in [&stored[..], &stored[..cut.index(stored.len())]] {
                _ = decode(&table, bytes);
                let mut batch = RowBatchBuilder::new(&table, &(0..types.len()).collect::<Vec<_>>(), false, 1);
                if batch.push(&Bytes::new(), LogIndex(0), bytes).is_ok() {
                    _ = batch.finish();
                }
            }
        }
    }
}

#[test]
fn old_rows_read_new_columns_as_missing() {
    let mut table = table(&[SqlType::Int4, SqlType::Text]);
    let old = encode(&table, &[Datum::Int4(1), Datum::Text("a".into())]);
    table.version = 2;
    table.columns.push(ColumnDescriptor {
        missing: Datum::Text("filled".into()),
        ..column("added", SqlType::Text, 2)
    });
    table.columns[0].dropped = true;
    let new = encode(&table, &[Datum::Int4(9), Datum::Text("b".into()), Datum::Null]);
    let texts = |row: Row| -> Vec<Option<String>> {
        row.into_iter()
            .map(|value| match value {
                Datum::Text(text) => Some(text.into()),
                _ => None,
            })
            .collect()
    };
    let old_row = texts(decode(&table, &old).expect("well-formed"));
    assert_eq!(old_row, [None, Some("a".into()), Some("filled".into())]);
    assert_eq!(texts(decode(&table, &new).expect("well-formed")), [None, Some("b".into()), None]);

    let mut batch = RowBatchBuilder::new(&table, &[2, 1, 0], false, 8);
    for stored in [&old, &new, &old] {
        batch.push(&Bytes::new(), LogIndex(1), stored).expect("well-formed");
    }
    let batch = batch.finish().expect("a batch");
    let added: Vec<Datum> =
        (0..3).map(|i| datum_at(batch.column(0), i, SqlType::Text).expect("text")).collect();
    assert_eq!(texts(added), [Some("filled".into()), None, Some("filled".into())]);
    assert_eq!(batch.column(2).null_count(), 3);
}

#[test]
fn wide_rows_take_wide_offsets() {
    let table = table(&[SqlType::Text, SqlType::Int2, SqlType::Bytea]);
    let row =
        [Datum::Text("x".repeat(70_000).into()), Datum::Int2(3), Datum::Bytea(vec![1; 10].into())];
    let stored = encode(&table, &row);
    assert_eq!(stored[0], FORMAT_WIDE);
    let back = decode(&table, &stored).expect("well-formed");
    assert!(back.iter().zip(&row).all(|(a, b)| a.is_identical(b)));
}
