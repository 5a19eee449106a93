//! Distributed plans give what one table in memory gives, over 1, 3 and 4 shards.

use std::{collections::BTreeMap, sync::Arc};

use cortex_planner::{catalog, operators::provider};
use cortex_shard_api::{Datum, SqlType, client::Row, value::arrow};
use datafusion::{
    arrow::{record_batch::RecordBatch, util::pretty::pretty_format_batches},
    catalog::{MemTable, TableProvider},
    common::JoinType,
    functions_aggregate::expr_fn::{count, max, sum},
    logical_expr::{Expr, col, lit},
    prelude::{DataFrame, SessionContext},
};

use crate::cluster::{Cluster, TableBuilder};

/// Names to tables with their rows.
pub type Tables = Vec<(Arc<catalog::Table>, Vec<Row>)>;

/// orders and items (hashed by tenant, co-located), kinds (reference), events (range), notes (home).
pub fn tables(n_shards: u32) -> Tables {
    use SqlType::{Int4, Int8, Text};
    let orders = TableBuilder::new(
        20,
        "orders",
        &[
            ("tenant", Int4, true),
            ("id", Int4, true),
            ("kind", Text, false),
            ("amount", Int8, false),
        ],
        &[0, 1],
    )
    .hash(&[0], 900, n_shards)
    .index("orders_kind", &[(2, false)], false)
    .index("orders_amount", &[(3, true)], false)
    .build();
    let items = TableBuilder::new(
        21,
        "items",
        &[
            ("i_tenant", Int4, true),
            ("i_order", Int4, true),
            ("line", Int4, true),
            ("sku", Text, true),
        ],
        &[0, 1, 2],
    )
    .hash(&[0], 900, n_shards)
    .build();
    let kinds = TableBuilder::new(22, "kinds", &[("k", Text, true), ("title", Text, false)], &[0])
        .reference(n_shards)
        .build();
    let events =
        TableBuilder::new(23, "events", &[("at", Int4, true), ("what", Text, false)], &[0])
            .range(0, &[100, 200, 300], n_shards)
            .build();
    let notes =
        TableBuilder::new(24, "notes", &[("n", Int4, true), ("body", Text, false)], &[0]).build();
    let text = |value: String| Datum::Text(value.into());
    let mut order_rows = vec![];
    let mut item_rows = vec![];
    for number in 0..400_i32 {
        let (tenant, id) = (number % 23, number / 23);
        let kind = if number % 11 == 0 { Datum::Null } else { text(format!("k{}", number % 7)) };
        let amount = i64::from(number * 37 % 101);
        order_rows.push(vec![Datum::Int4(tenant), Datum::Int4(id), kind, Datum::Int8(amount)]);
        for line in 0..number % 3 {
            let sku = text(format!("s{}", number * 13 % 17));
            let row = vec![Datum::Int4(tenant), Datum::Int4(id), Datum::Int4(line), sku];
            item_rows.push(row);
        }
    }
    let kind_rows =
        (0..5).map(|k| vec![text(format!("k{k}")), text(format!("Kind {k}"))]).collect();
    let event_rows =
        (0..400).map(|at| vec![Datum::Int4(at), text(format!("e{}", at % 5))]).collect();
    let note_rows = (0..50).map(|n| vec![Datum::Int4(n), text(format!("note {n}"))]).collect();
    vec![
        (orders, order_rows),
        (items, item_rows),
        (kinds, kind_rows),
        (events, event_rows),
        (notes, note_rows),
    ]
}

/// Table providers by name, in a session.
pub struct Scope {
    pub session: SessionContext,
    providers: BTreeMap<String, Arc<dyn TableProvider>>,
}

impl Scope {
    pub fn distributed(cluster: &Cluster, tables: &Tables) -> Scope {
        let named = |(table, _): &(Arc<catalog::Table>, Vec<Row>)| {
            (table.descriptor.name.clone(), provider(table, false))
        };
        Scope { session: cluster.session(), providers: tables.iter().map(named).collect() }
    }

    fn in_memory(tables: &Tables) -> Scope {
        let named = |(table, rows): &(Arc<catalog::Table>, Vec<Row>)| {
            let schema = provider(table, false).schema();
            let columns = table.descriptor.columns.iter().enumerate().map(|(position, column)| {
                let values: Vec<Datum> = rows.iter().map(|row| row[position].clone()).collect();
                arrow::array_from_datums(column.ty.ty, &values).expect("a column")
            });
            let batch = RecordBatch::try_new(schema.clone(), columns.collect()).expect("a batch");
            let memory = MemTable::try_new(schema, vec![vec![batch]]).expect("a table");
            (table.descriptor.name.clone(), Arc::new(memory) as Arc<dyn TableProvider>)
        };
        let providers = tables.iter().map(named).collect();
        Scope { session: SessionContext::new(), providers }
    }

    pub fn table(&self, name: &str) -> DataFrame {
        let table = self.session.read_table(self.providers[name].clone()).expect("a table");
        table.alias(name).expect("an alias")
    }
}

/// A query, and whether its order counts.
pub struct Query {
    pub name: &'static str,
    pub ordered: bool,
    pub build: fn(&Scope) -> datafusion::error::Result<DataFrame>,
}

fn tenant(number: i32) -> Expr {
    col("tenant").eq(lit(number))
}

pub fn queries() -> Vec<Query> {
    let query = |name, ordered, build| Query { name, ordered, build };
    vec![
        query("all rows", false, |s| Ok(s.table("orders"))),
        query("one key", false, |s| s.table("orders").filter(tenant(3).and(col("id").eq(lit(5))))),
        query("one tenant", false, |s| s.table("orders").filter(tenant(3))),
        query("some tenants", false, |s| {
            s.table("orders").filter(col("tenant").in_list(vec![lit(1), lit(2), lit(99)], false))
        }),
        query("no tenant", false, |s| s.table("orders").filter(tenant(1).and(tenant(2)))),
        query("a range of a tenant", false, |s| {
            s.table("orders").filter(tenant(4).and(col("id").between(lit(3), lit(9))))
        }),
        query("by index", false, |s| s.table("orders").filter(col("kind").eq(lit("k3")))),
        query("null by index", false, |s| s.table("orders").filter(col("kind").is_null())),
        query("range by descending index", false, |s| {
            s.table("orders").filter(col("amount").between(lit(10_i64), lit(20_i64)))
        }),
        query("or over columns", false, |s| {
            s.table("orders").filter(tenant(1).or(col("kind").eq(lit("k2"))))
        }),
        query("not equal", false, |s| s.table("orders").filter(col("tenant").not_eq(lit(3)))),
        query("wider constant", false, |s| s.table("orders").filter(col("tenant").eq(lit(3_i64)))),
        query("count", false, |s| s.table("orders").aggregate(vec![], vec![count(lit(1))])),
        query("count of nothing", false, |s| {
            s.table("orders")
                .filter(tenant(1).and(tenant(2)))?
                .aggregate(vec![], vec![count(lit(1))])
        }),
        query("groups", false, |s| {
            s.table("orders").aggregate(
                vec![col("kind")],
                vec![count(lit(1)), sum(col("amount")), max(col("id"))],
            )
        }),
        query("groups by shard key", false, |s| {
            s.table("orders").aggregate(vec![col("tenant")], vec![sum(col("amount"))])
        }),
        query("groups of one tenant", false, |s| {
            s.table("orders").filter(tenant(5))?.aggregate(vec![col("kind")], vec![count(lit(1))])
        }),
        query("distinct", false, |s| s.table("orders").select(vec![col("kind")])?.distinct()),
        query("top", true, |s| {
            s.table("orders")
                .sort(vec![
                    col("amount").sort(false, false),
                    col("tenant").sort(true, false),
                    col("id").sort(true, false),
                ])?
                .limit(2, Some(7))
        }),
        query("sorted", true, |s| {
            s.table("orders")
                .sort(vec![col("id").sort(true, false), col("tenant").sort(false, false)])
        }),
        query("key order of a range table", true, |s| {
            s.table("events")
                .filter(col("at").gt_eq(lit(150)).and(col("at").lt(lit(260))))?
                .sort(vec![col("at").sort(true, false)])?
                .limit(0, Some(70))
        }),
        query("home table in key order", true, |s| {
            s.table("notes").sort(vec![col("n").sort(true, false)])?.limit(3, Some(4))
        }),
        query("limit counts", false, |s| {
            s.table("orders").limit(0, Some(33))?.aggregate(vec![], vec![count(lit(1))])
        }),
        query("co-located join", false, |s| {
            s.table("orders").join(
                s.table("items"),
                JoinType::Inner,
                &["tenant", "id"],
                &["i_tenant", "i_order"],
                None,
            )
        }),
        query("co-located left join", false, |s| {
            s.table("orders").join(
                s.table("items"),
                JoinType::Left,
                &["tenant", "id"],
                &["i_tenant", "i_order"],
                None,
            )
        }),
        query("co-located full join, grouped", false, |s| {
            s.table("orders")
                .filter(col("kind").eq(lit("k1")))?
                .join(
                    s.table("items"),
                    JoinType::Full,
                    &["tenant", "id"],
                    &["i_tenant", "i_order"],
                    None,
                )?
                .aggregate(vec![col("sku")], vec![count(col("id")), count(col("line"))])
        }),
        query("join of one tenant", false, |s| {
            s.table("orders").filter(tenant(7))?.join(
                s.table("items"),
                JoinType::Inner,
                &["tenant"],
                &["i_tenant"],
                None,
            )
        }),
        query("join by another column", false, |s| {
            s.table("orders")
                .join(s.table("items"), JoinType::Inner, &["id"], &["line"], None)?
                .aggregate(vec![col("sku")], vec![count(lit(1))])
        }),
        query("anti join", false, |s| {
            s.table("orders").join(
                s.table("items"),
                JoinType::LeftAnti,
                &["tenant", "id"],
                &["i_tenant", "i_order"],
                None,
            )
        }),
        query("reference join", false, |s| {
            s.table("orders").join(s.table("kinds"), JoinType::Inner, &["kind"], &["k"], None)
        }),
        query("reference left join", false, |s| {
            s.table("orders").join(s.table("kinds"), JoinType::Left, &["kind"], &["k"], None)
        }),
        query("reference on the preserved side", false, |s| {
            s.table("kinds").join(
                s.table("orders").filter(col("kind").not_eq(lit("k1")))?,
                JoinType::Left,
                &["k"],
                &["kind"],
                None,
            )
        }),
        query("reference alone", false, |s| s.table("kinds").filter(col("k").gt(lit("k1")))),
        query("cross join with a home table", false, |s| {
            s.table("notes").filter(col("n").lt(lit(3)))?.join(
                s.table("kinds"),
                JoinType::Inner,
                &[],
                &[],
                None,
            )
        }),
        query("union", false, |s| {
            s.table("orders")
                .select(vec![col("id")])?
                .union(s.table("notes").select(vec![col("n").alias("id")])?)
        }),
    ]
}

pub async fn answer(scope: &Scope, query: &Query) -> Vec<String> {
    let frame = (query.build)(scope).expect(query.name);
    let batches = frame.collect().await.unwrap_or_else(|error| panic!("{}: {error}", query.name));
    let text = pretty_format_batches(&batches).expect("text").to_string();
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join("|"))
        .collect();
    if !query.ordered {
        lines.sort();
    }
    lines
}

#[tokio::test]
async fn every_query_answers_the_same_over_1_3_and_4_shards() {
    for n_shards in [1, 3, 4] {
        let tables = tables(n_shards);
        let borrowed: Vec<_> =
            tables.iter().map(|(table, rows)| (table.as_ref(), rows.as_slice())).collect();
        let cluster = Cluster::new(&borrowed);
        for query in queries() {
            let expected = answer(&Scope::in_memory(&tables), &query).await;
            let got = answer(&Scope::distributed(&cluster, &tables), &query).await;
            assert!(
                got == expected,
                "{} over {n_shards} shards:\n{}\nbut one table gives\n{}",
                query.name,
                got.join("\n"),
                expected.join("\n")
            );
            assert_eq!(cluster.open_snapshots(), 0, "{} left a snapshot open", query.name);
        }
    }
}
