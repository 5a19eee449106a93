//! Routes name too many rows at times, too few never: every row that a predicate accepts is visited, whatever the placement,
//! and for predicates on keys few others are.

use cortex_functions::session::EvalContext;
use cortex_planner::{catalog::Table, route};
use cortex_shard_api::{
    Datum, ScalarExpr, SqlType, TableDescriptor, TypeMod,
    client::{Access, Row},
    key,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::cluster::TableBuilder;

/// Values of each column: few, so that predicates often hold.
const VALUES: i32 = 6;

fn tables() -> Vec<std::sync::Arc<Table>> {
    use SqlType::{Int4, Text};
    let columns = [("a", Int4, true), ("b", Int4, true), ("c", Int4, false), ("d", Text, false)];
    let table = |oid, key: &[usize]| TableBuilder::new(oid, "t", &columns, key);
    vec![
        table(30, &[0, 1]).build(),
        table(31, &[0, 1]).hash(&[0], 1, 4).index("c", &[(2, true)], false).build(),
        table(32, &[1, 0]).hash(&[0], 1, 3).index("dc", &[(3, false), (2, true)], false).build(),
        table(33, &[0, 1]).hash(&[1, 0], 1, 4).index("d", &[(3, false)], false).build(),
        table(34, &[]).hash(&[2], 1, 4).build(),
        table(35, &[0, 1])
            .range(0, &[2, 4], 3)
            .index("cb", &[(2, false), (1, false)], false)
            .build(),
        table(36, &[1]).range(0, &[1, 5], 2).build(),
        table(37, &[]).range(2, &[3], 2).build(),
        table(38, &[1]).reference(3).index("c", &[(2, false)], false).build(),
    ]
}

fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for number in 0..VALUES * VALUES {
        let (a, b) = (number / VALUES, number % VALUES);
        let c = if (a + b) % 5 == 0 { Datum::Null } else { Datum::Int4((a * 7 + b) % VALUES) };
        let d = if b == 3 { Datum::Null } else { Datum::Text(format!("d{}", a % 3).into()) };
        rows.push(vec![Datum::Int4(a), Datum::Int4(b), c, d]);
    }
    rows
}

/// A random predicate, for our binder's form and evaluated by hand.
enum Predicate {
    Compare(usize, &'static str, i32),
    IsNull(usize),
    And(Vec<Predicate>),
    Or(Vec<Predicate>),
    Not(Box<Predicate>),
}

fn random(rng: &mut StdRng, depth: usize) -> Predicate {
    let operator = ["eq", "eq", "eq", "ne", "lt", "le", "gt", "ge"][rng.random_range(0..8)];
    match rng.random_range(0..if depth == 0 { 8 } else { 14 }) {
        0 => Predicate::IsNull(rng.random_range(0..4)),
        1..8 => {
            let value = rng.random_range(-1..VALUES + 1);
            Predicate::Compare(rng.random_range(0..4), operator, value)
        }
        8..11 => Predicate::And((0..3).map(|_| random(rng, depth - 1)).collect()),
        11..13 => Predicate::Or((0..3).map(|_| random(rng, depth - 1)).collect()),
        _ => Predicate::Not(Box::new(random(rng, depth - 1))),
    }
}

fn constant(column: usize, value: i32) -> (Datum, SqlType) {
    match column {
        3 => (Datum::Text(format!("d{value}").into()), SqlType::Text),
        _ => (Datum::Int4(value), SqlType::Int4),
    }
}

impl Predicate {
    fn scalar(&self) -> ScalarExpr {
        let all = |parts: &[Predicate]| parts.iter().map(Predicate::scalar).collect();
        let column = |column: usize| {
            let ty = if column == 3 { SqlType::Text } else { SqlType::Int4 };
            ScalarExpr::Column { position: column, ty: TypeMod::plain(ty) }
        };
        match self {
            Predicate::Compare(position, operator, value) => {
                let (value, ty) = constant(*position, *value);
                let separator =
                    if ty == SqlType::Text && !matches!(*operator, "eq" | "ne") { "_" } else { "" };
                let name = ty.catalog_name();
                ScalarExpr::Call {
                    function: format!("{name}{separator}{operator}({name},{name})"),
                    args: vec![column(*position), ScalarExpr::literal(value, ty)],
                    ty: TypeMod::plain(SqlType::Bool),
                }
            }
            Predicate::IsNull(position) => ScalarExpr::IsNull(Box::new(column(*position))),
            Predicate::And(parts) => ScalarExpr::And(all(parts)),
            Predicate::Or(parts) => ScalarExpr::Or(all(parts)),
            Predicate::Not(part) => ScalarExpr::Not(Box::new(part.scalar())),
        }
    }
}

fn is_visited(table: &TableDescriptor, row: &Row, hidden: u64, route: &route::Route) -> bool {
    let row_key = key::row_key(table, row, Some(hidden)).expect("a key");
    let shard =
        if route.replicas.is_empty() { key::shard_of_row(table, row) } else { route.replicas[0] };
    route.scans.iter().filter(|scan| scan.shard == shard).any(|scan| match &scan.access {
        Access::Full => true,
        Access::Empty => false,
        Access::KeyRanges(ranges) => {
            ranges.iter().any(|(start, end)| *start <= row_key && row_key < *end)
        }
        Access::KeySkips { columns, ranges } => {
            let leading: Vec<Datum> =
                table.primary_key.iter().take(*columns).map(|it| row[*it].clone()).collect();
            let mut skipped = Vec::new();
            for (position, value) in table.primary_key.iter().zip(&leading) {
                let ty = table.columns[*position].ty.ty;
                key::encode_datum(&mut skipped, value, ty, key::KeyOrder::default());
            }
            let header = key::row_key_header(table);
            let rest = &row_key[header + skipped.len()..];
            assert_eq!(row_key[header..header + skipped.len()], skipped[..]);
            ranges.iter().any(|(start, end)| &start[..] <= rest && rest < &end[..])
        }
        Access::IndexRanges { index, ranges } => {
            let (entry, _) = key::index_entry(table, &table.indexes[*index], row, &row_key);
            ranges.iter().any(|(start, end)| *start <= entry && entry < *end)
        }
    })
}

#[test]
fn no_matching_row_is_left_out() {
    let mut rng = StdRng::seed_from_u64(7);
    let context = EvalContext::default();
    let (tables, rows) = (tables(), rows());
    for _ in 0..1500 {
        let predicate = random(&mut rng, 2).scalar();
        let matching: Vec<usize> = (0..rows.len())
            .filter(|row| {
                let value =
                    cortex_functions::scalar::evaluate(&predicate, &rows[*row], &[], &context);
                matches!(value.expect("a value"), Datum::Bool(true))
            })
            .collect();
        for table in &tables {
            let table = &table.descriptor;
            let route = route::for_scalar(table, Some(&predicate), &[], &context);
            for row in &matching {
                assert!(
                    is_visited(table, &rows[*row], *row as u64, &route),
                    "row {:?} of table {} is left out by {route} ({}) for {predicate:?}",
                    rows[*row],
                    table.oid,
                    route.path,
                );
            }
            for scan in &route.scans {
                if let Access::KeyRanges(ranges) | Access::IndexRanges { ranges, .. } = &scan.access
                {
                    assert!(ranges.iter().all(|(start, end)| start < end), "an empty range");
                    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "not disjoint");
                }
            }
        }
    }
}

#[test]
fn a_key_is_one_row_and_a_slot_is_one_shard() {
    let context = EvalContext::default();
    let equal = |position, value| Predicate::Compare(position, "eq", value);
    for (number, table) in tables().iter().enumerate() {
        let table = &table.descriptor;
        let key: Vec<Predicate> = if table.primary_key.is_empty() {
            vec![equal(0, 3), equal(1, 4), equal(2, 2)]
        } else {
            vec![equal(0, 3), equal(1, 4)]
        };
        let predicate = Predicate::And(key).scalar();
        let route = route::for_scalar(table, Some(&predicate), &[], &context);
        assert_eq!(route.scans.len(), 1, "table {number}: {route}");
        let visited = rows()
            .iter()
            .enumerate()
            .filter(|(hidden, row)| is_visited(table, row, *hidden as u64, &route))
            .count();
        // The rows are unique in (a, b) only.
        let expected = if table.primary_key.len() == 2 { 1..=1 } else { 1..=rows().len() };
        assert!(expected.contains(&visited), "table {number}: {visited} rows, {}", route.path);
    }
}

#[test]
fn routes_read_well() {
    let context = EvalContext::default();
    let tables = tables();
    let show = |table: usize, predicate: Predicate| {
        let table = &tables[table].descriptor;
        let route = route::for_scalar(table, Some(&predicate.scalar()), &[], &context);
        format!("{route}, {}", route.path)
    };
    let equal = |position, value| Predicate::Compare(position, "eq", value);
    let both = |a, b| Predicate::And(vec![a, b]);
    let either = |a, b| Predicate::Or(vec![a, b]);
    let cases = [
        (show(0, equal(0, 1)), "One(shard 1), key range"),
        (show(0, both(equal(0, 1), equal(1, 2))), "One(shard 1), 1 key"),
        (show(0, equal(2, 1)), "One(shard 1), full scan"),
        (show(0, both(equal(0, 1), equal(0, 2))), "None, nothing"),
        (show(1, equal(2, 1)), "All(4), index c"),
        (show(1, Predicate::IsNull(2)), "All(4), index c"),
        (show(1, Predicate::Compare(2, "gt", 1)), "All(4), full scan"),
        (show(2, both(equal(3, 1), equal(2, 1))), "All(3), index dc"),
        (show(3, both(equal(0, 1), equal(1, 1))), "One(shard 3, pruned 3), 1 key"),
        (show(4, equal(2, 1)), "One(shard 4, pruned 3), 1 slot"),
        (show(5, Predicate::Compare(0, "lt", 2)), "One(shard 1, pruned 2), key range"),
        (show(5, Predicate::Compare(0, "ge", 3)), "Some(2 of 3, pruned 1), key range"),
        (show(5, either(equal(0, 0), equal(0, 5))), "Some(2 of 3, pruned 1), key range"),
        (show(8, equal(1, 1)), "AnyCopy(3), 1 key"),
        (show(8, Predicate::Not(Box::new(equal(1, 1)))), "AnyCopy(3), full scan"),
    ];
    let (got, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    assert_eq!(got, expected);
}
