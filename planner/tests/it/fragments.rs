//! Distributed plans give what one table in memory gives, over 1, 3 and 4 shards.

use cortex_shard_api::{Datum, SqlType, value::Numeric};
use datafusion::arrow::util::pretty::pretty_format_batches;

use crate::{
    cluster::{Cluster, TableBuilder, Tables},
    statement::Scope,
};

/// orders and items (hashed by tenant, co-located), kinds (reference), events (range), notes (home), prices
/// (hashed, with values that are equal and look different).
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
    let prices = TableBuilder::new(
        25,
        "prices",
        &[("p", Int4, true), ("price", SqlType::Numeric, false), ("code", SqlType::Bpchar, false)],
        &[0],
    )
    .hash(&[0], 901, n_shards)
    .index("prices_price", &[(1, false)], false)
    .index("prices_code", &[(2, false)], false)
    .build();
    let text = |value: String| Datum::Text(value.into());
    let price_rows = (0..60).map(|p| {
        let price = format!("{}.{}", p % 4, ["5", "50", "500", "0"][p % 3]);
        let price = Numeric::parse(&price).expect("a number");
        let code = text(format!("{:5}", ["a", "b", "c"][p % 3]));
        vec![Datum::Int4(p as i32), Datum::Numeric(price), code]
    });
    let price_rows = price_rows.collect();
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
        (prices, price_rows),
    ]
}

/// Queries that must not notice how many shards there are. A top-level ORDER BY orders completely.
const QUERIES: &[&str] = &[
    "SELECT * FROM orders",
    "SELECT * FROM orders WHERE tenant = 3 AND id = 5",
    "SELECT * FROM orders WHERE tenant = 3",
    "SELECT * FROM orders WHERE tenant IN (1, 2, 99)",
    "SELECT * FROM orders WHERE tenant = 1 AND tenant = 2",
    "SELECT * FROM orders WHERE tenant = 4 AND id BETWEEN 3 AND 9",
    "SELECT * FROM orders WHERE (tenant, id) IN ((1, 2), (3, 4), (5, 600))",
    "SELECT * FROM orders WHERE kind = 'k3'",
    "SELECT * FROM orders WHERE kind IS NULL",
    "SELECT * FROM orders WHERE amount BETWEEN 10 AND 20",
    "SELECT * FROM orders WHERE amount > 10 AND amount < 20 AND kind IS NOT NULL",
    "SELECT * FROM orders WHERE tenant = 1 OR kind = 'k2'",
    "SELECT * FROM orders WHERE tenant <> 3",
    "SELECT * FROM orders WHERE tenant = 3::int8",
    "SELECT * FROM orders WHERE tenant = 3000000000",
    "SELECT * FROM orders WHERE tenant < 3000000000 AND id = 1",
    "SELECT o.id, n.body FROM orders o JOIN notes n ON o.id = n.n",
    "SELECT n.n, count(*), sum(o.amount) FROM orders o JOIN notes n ON o.id = n.n GROUP BY n.n",
    "SELECT o.id, n.body FROM orders o LEFT JOIN notes n ON o.id = n.n AND n.n < 7",
    "SELECT o.id, n.body FROM orders o RIGHT JOIN notes n ON o.id = n.n AND o.amount > 50",
    "SELECT o.id, n.body FROM orders o FULL JOIN notes n ON o.id = n.n AND o.amount > 50",
    "SELECT o.tenant, o.id FROM orders o WHERE o.id IN (SELECT n FROM notes WHERE n % 2 = 0)",
    "SELECT o.tenant, o.id FROM orders o WHERE o.id NOT IN (SELECT n FROM notes WHERE n % 2 = 0)",
    "SELECT o.tenant, o.id FROM orders o WHERE NOT EXISTS (SELECT 1 FROM notes WHERE n = o.id)",
    "SELECT count(*) FROM orders o JOIN notes n ON o.id = n.n JOIN events e ON e.at = o.amount",
    "SELECT count(*) FROM orders o JOIN notes n ON o.amount < n.n",
    "SELECT count(*), min(b) FROM orders CROSS JOIN (VALUES ('x'), ('y')) v (b)",
    "SELECT o.kind, v.b FROM orders o JOIN (VALUES ('k1', 1), ('k2', 2), (NULL, 3)) v (k, b) ON o.kind = v.k ORDER BY 1, 2 LIMIT 9",
    "SELECT o.id, length(b.big) FROM orders o JOIN (SELECT n, repeat('x', 100000) AS big FROM notes) b ON o.id = b.n AND o.amount < 9",
    "SELECT b.n, count(*), min(length(b.big)) FROM orders o JOIN (SELECT n, repeat('x', 100000) AS big FROM notes) b ON o.id = b.n AND o.amount < 9 GROUP BY b.n",
    "SELECT o.id, s.n FROM orders o JOIN (SELECT count(*) AS n, tenant FROM items JOIN orders ON i_order = amount GROUP BY tenant) s ON s.n = o.id",
    "SELECT count(*) FROM orders",
    "SELECT count(*), sum(amount), avg(amount), min(kind) FROM orders WHERE tenant = 1 AND tenant = 2",
    "SELECT kind, count(*), sum(amount), max(id), avg(amount) FROM orders GROUP BY kind",
    "SELECT tenant, sum(amount), count(DISTINCT kind) FROM orders GROUP BY tenant",
    "SELECT tenant, kind, count(*) FROM orders GROUP BY ROLLUP (tenant, kind)",
    "SELECT kind, count(*) FROM orders WHERE tenant = 5 GROUP BY kind HAVING count(*) > 1",
    "SELECT DISTINCT kind FROM orders",
    "SELECT * FROM orders ORDER BY amount DESC, tenant, id LIMIT 7 OFFSET 2",
    "SELECT * FROM orders ORDER BY id, tenant DESC",
    "SELECT kind, id FROM orders ORDER BY kind NULLS FIRST, tenant, id LIMIT 50",
    "SELECT * FROM events WHERE at >= 150 AND at < 260 ORDER BY at LIMIT 70",
    "SELECT * FROM events ORDER BY at DESC LIMIT 3",
    "SELECT * FROM notes ORDER BY n LIMIT 4 OFFSET 3",
    "SELECT count(*) FROM (SELECT * FROM orders LIMIT 33) few",
    "SELECT * FROM orders JOIN items ON tenant = i_tenant AND id = i_order",
    "SELECT * FROM orders LEFT JOIN items ON tenant = i_tenant AND id = i_order AND line > 0",
    "SELECT sku, count(id), count(line) FROM (SELECT * FROM orders WHERE kind = 'k1') o \
     FULL JOIN items ON tenant = i_tenant AND id = i_order GROUP BY sku",
    "SELECT * FROM orders JOIN items ON tenant = i_tenant WHERE tenant = 7",
    "SELECT sku, count(*) FROM orders JOIN items ON id = line GROUP BY sku",
    "SELECT * FROM orders WHERE NOT EXISTS (SELECT 1 FROM items WHERE tenant = i_tenant AND id = i_order)",
    "SELECT * FROM orders WHERE (tenant, id) IN (SELECT i_tenant, i_order FROM items WHERE sku = 's3')",
    "SELECT * FROM orders WHERE id NOT IN (SELECT line FROM items)",
    "SELECT * FROM orders WHERE kind NOT IN (SELECT k FROM kinds WHERE k < 'k3')",
    "SELECT * FROM orders JOIN kinds ON kind = k",
    "SELECT * FROM orders LEFT JOIN kinds ON kind = k",
    "SELECT * FROM kinds LEFT JOIN (SELECT * FROM orders WHERE kind <> 'k1') o ON k = kind",
    "SELECT title, count(*) FROM orders JOIN kinds ON kind = k JOIN items ON tenant = i_tenant \
     AND id = i_order GROUP BY title",
    "SELECT * FROM kinds WHERE k > 'k1'",
    "SELECT * FROM notes CROSS JOIN kinds WHERE n < 3",
    "SELECT id FROM orders UNION ALL SELECT n FROM notes",
    "SELECT id FROM orders INTERSECT SELECT n FROM notes",
    "SELECT tenant, id, rank() OVER (PARTITION BY tenant ORDER BY amount, id) FROM orders",
    "SELECT tenant, id, sum(amount) OVER (PARTITION BY tenant ORDER BY id) FROM orders WHERE tenant = 6",
    "SELECT * FROM orders WHERE amount > (SELECT avg(amount) FROM orders)",
    "SELECT o.tenant, (SELECT count(*) FROM items WHERE i_tenant = o.tenant) FROM orders o WHERE id = 3",
    "WITH RECURSIVE t(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM t JOIN notes USING (n) WHERE n < 9) \
     SELECT * FROM t",
    "SELECT a.tenant, count(*) FROM orders a JOIN orders b ON a.tenant = b.tenant AND a.id < b.id \
     GROUP BY a.tenant",
    "SELECT price, count(*) FROM prices GROUP BY price",
    "SELECT * FROM prices WHERE price = 1.5",
    "SELECT * FROM prices WHERE price > 1.50 AND price < 3",
    "SELECT * FROM prices WHERE code = 'b'",
    "SELECT * FROM prices ORDER BY price, p",
    "SELECT DISTINCT ON (kind) kind, amount, tenant, id FROM orders ORDER BY kind, amount, tenant, id",
    "SELECT a.p, x.p FROM prices a JOIN prices x USING (price)",
];

async fn answer(scope: &Scope, sql: &str) -> Vec<String> {
    let batches = scope.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let text = pretty_format_batches(&batches).expect("text").to_string();
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join("|"))
        .collect();
    if !sql.contains(" ORDER BY ") || sql.contains(" OVER ") {
        lines.sort();
    }
    lines
}

#[tokio::test]
async fn every_query_answers_the_same_over_1_3_and_4_shards() {
    let (one, three, four) = (tables(1), tables(3), tables(4));
    let on_shards = [&one, &three, &four].map(|tables| (Cluster::new(tables), tables));
    for sql in QUERIES {
        let expected = answer(&Scope::in_memory(&one), sql).await;
        for (cluster, tables) in &on_shards {
            let got = answer(&Scope::distributed(cluster, tables), sql).await;
            assert!(
                got == expected,
                "{sql} over {cluster:?}:\n{}\nbut one table gives\n{}",
                got.join("\n"),
                expected.join("\n")
            );
            assert_eq!(cluster.open_snapshots(), 0, "{sql} left a snapshot open");
        }
    }
}
