//! EXPLAIN: a plan as a tree of our stages, as text or as the JSON that Postgres plan viewers read.
//!
//! Lives here: the tree and its two forms; `nodes` makes it from a physical plan, `expression` prints expressions as a user
//! would write them. Not here: who asks, and what EXPLAIN's options are (`gateway::exec`). For each table the tree says which
//! shards are reached and how they find the rows; what stands below `ShardFragment` runs in the shards, what stands above it in
//! the gateway.

use std::{fmt::Write, sync::Arc, time::Duration};

use cortex_shard_api::{ShardId, TableDescriptor};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use serde_json::{Value, json};

use crate::route::Route;

/// Expressions as text.
mod expression;

/// Physical operators as nodes of the tree.
mod nodes;

/// An explained statement.
#[derive(Clone, Debug)]
pub struct Explain {
    root: Node,
}

/// How much of what happened is shown.
#[derive(Clone, Copy, Debug)]
pub struct Detail {
    pub times: bool,
    /// In text, what every operator of a fragment did on each shard: VERBOSE. JSON has it always.
    pub parts: bool,
}

impl Default for Detail {
    fn default() -> Detail {
        Detail { times: true, parts: false }
    }
}

/// One operator.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Our name of it: `ShardFragment`, `TopK`.
    name: String,
    /// The nearest of Postgres's node types, for plan viewers.
    node_type: &'static str,
    /// What it does, in order; an empty key stands for a value that speaks for itself.
    details: Vec<(&'static str, String)>,
    actual: Option<Actual>,
    /// Of a fragment: what each shard did.
    shards: Vec<(ShardId, Actual)>,
    /// Of an operator inside a fragment: what it did on each shard.
    parts: Vec<(ShardId, Actual)>,
    children: Vec<Node>,
}

/// What really happened, with ANALYZE.
#[derive(Clone, Copy, Debug, Default)]
struct Actual {
    rows: usize,
    time: Option<Duration>,
}

/// Explains a plan. With `analyze`, which needs a plan that was run to its end, also what happened.
pub fn explain(plan: &Arc<dyn ExecutionPlan>, analyze: bool) -> Explain {
    let root = nodes::tree(plan, analyze);
    if plan.output_partitioning().partition_count() == 1 {
        return Explain { root };
    }
    // Whoever runs a plan of several streams brings them together.
    let actual = root.actual.map(|actual| Actual { time: None, ..actual });
    let gather = Node {
        name: "Gather".to_owned(),
        node_type: "Gather",
        actual,
        children: vec![root],
        ..Node::default()
    };
    Explain { root: gather }
}

/// Explains a statement that never sees DataFusion: `FastPath: select orders, route=One(shard 2), access=1 key`.
pub fn explain_fast(
    operation: &str,
    table: &TableDescriptor,
    route: &Route,
    filter: Option<&str>,
) -> Explain {
    let mut details = vec![
        ("", format!("{operation} {}", table.name)),
        ("route", route.to_string()),
        ("access", route.path.to_string()),
    ];
    details.extend(filter.map(|filter| ("filter", filter.to_owned())));
    let name = "FastPath".to_owned();
    Explain { root: Node { name, node_type: "Index Scan", details, ..Node::default() } }
}

impl Explain {
    /// The plan as the input of a stage that is not DataFusion's: `Update: orders`, over the rows it reads.
    pub fn below(self, name: &str, detail: &str) -> Explain {
        Explain {
            root: Node {
                name: name.to_owned(),
                node_type: "ModifyTable",
                details: vec![("", detail.to_owned())],
                children: vec![self.root],
                ..Node::default()
            },
        }
    }

    /// A stage without a plan below it: `Insert: orders, rows=3`.
    pub fn stage(name: &str, detail: &str) -> Explain {
        let details = vec![("", detail.to_owned())];
        Explain {
            root: Node {
                name: name.to_owned(),
                node_type: "ModifyTable",
                details,
                ..Node::default()
            },
        }
    }

    /// One line for each operator, children indented below it.
    pub fn text(&self, detail: Detail) -> Vec<String> {
        let mut lines = Vec::new();
        self.root.write(&mut lines, "", "", detail);
        lines
    }

    /// `[{"Plan": {...}}]`; times are added where they are known.
    pub fn json(
        &self,
        detail: Detail,
        planning: Option<Duration>,
        execution: Option<Duration>,
    ) -> String {
        let mut statement = json!({ "Plan": self.root.json(detail) });
        if let Some(planning) = planning {
            statement["Planning Time"] = json!(millis(planning));
        }
        if let Some(execution) = execution {
            statement["Execution Time"] = json!(millis(execution));
        }
        let pretty = serde_json::to_string_pretty(&json!([statement]));
        pretty.unwrap_or_else(|error| format!("[\"{error}\"]"))
    }
}

/// Milliseconds with three digits, as Postgres prints times.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl Node {
    fn write(&self, lines: &mut Vec<String>, first: &str, rest: &str, detail: Detail) {
        let mut line = format!("{first}{}", self.name);
        for (number, (key, value)) in self.details.iter().enumerate() {
            line.push_str(if number == 0 { ": " } else { ", " });
            if !key.is_empty() {
                let _ = write!(line, "{key}=");
            }
            line.push_str(value);
        }
        if let Some(actual) = &self.actual {
            let _ = write!(line, " ({})", actual.text(detail));
        }
        lines.push(line);
        let bar = if self.children.is_empty() { "   " } else { "│  " };
        let parts = self.parts.iter().filter(|_| detail.parts);
        for (shard, actual) in self.shards.iter().chain(parts) {
            lines.push(format!("{rest}{bar}shard {shard}: {}", actual.text(detail)));
        }
        for (number, child) in self.children.iter().enumerate() {
            let is_last = number + 1 == self.children.len();
            let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            child.write(lines, &format!("{rest}{branch}"), &format!("{rest}{below}"), detail);
        }
    }

    fn json(&self, detail: Detail) -> Value {
        let mut node = json!({ "Node Type": self.node_type, "Stage": self.name });
        for (key, value) in &self.details {
            node[json_key(self.node_type, key)] = json!(value);
        }
        // Viewers read these; we estimate nothing.
        for key in ["Startup Cost", "Total Cost", "Plan Rows", "Plan Width"] {
            node[key] = json!(0);
        }
        if let Some(actual) = &self.actual {
            actual.write_json(&mut node, detail);
        }
        if !(self.shards.is_empty() && self.parts.is_empty()) {
            let shards = self.shards.iter().chain(&self.parts).map(|(shard, actual)| {
                let mut entry = json!({ "Shard": shard.0 });
                actual.write_json(&mut entry, detail);
                entry
            });
            node["Shards"] = Value::Array(shards.collect());
        }
        if !self.children.is_empty() {
            let children = self.children.iter().map(|child| child.json(detail));
            node["Plans"] = Value::Array(children.collect());
        }
        node
    }
}

/// The name under which viewers look for a detail.
fn json_key(node_type: &str, key: &str) -> String {
    match (node_type, key) {
        (_, "on") => "Hash Cond".to_owned(),
        (_, "order") => "Sort Key".to_owned(),
        (_, "groups") => "Group Key".to_owned(),
        (_, "columns") => "Output".to_owned(),
        (_, "filter") | ("Result", "") => "Filter".to_owned(),
        ("Seq Scan" | "Index Scan" | "ModifyTable", "") => "Relation Name".to_owned(),
        ("Hash Join" | "Nested Loop", "") => "Join Type".to_owned(),
        (_, "") => "Detail".to_owned(),
        (_, other) => {
            let mut letters = other.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            first.into_iter().chain(letters).collect()
        }
    }
}

impl Actual {
    fn write_json(&self, node: &mut Value, detail: Detail) {
        node["Actual Rows"] = json!(self.rows);
        node["Actual Loops"] = json!(1);
        if let Some(time) = self.time.filter(|_| detail.times) {
            node["Actual Startup Time"] = json!(0.0);
            node["Actual Total Time"] = json!(millis(time));
        }
    }

    fn text(&self, detail: Detail) -> String {
        let rows = format!("actual rows={}", self.rows);
        match self.time.filter(|_| detail.times) {
            Some(time) => format!("{rows} time={:.3} ms", millis(time)),
            None => rows,
        }
    }
}

impl std::iter::Sum for Actual {
    fn sum<I: Iterator<Item = Actual>>(all: I) -> Actual {
        all.fold(Actual::default(), |sum, one| Actual {
            rows: sum.rows.saturating_add(one.rows),
            time: Some(sum.time.unwrap_or_default() + one.time.unwrap_or_default()),
        })
    }
}
