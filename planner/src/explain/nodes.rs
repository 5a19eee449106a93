//! Physical operators as nodes of the explained tree.

use std::{cell::Cell, sync::Arc, time::Duration};

use cortex_functions::{broadcast_rows::BroadcastRowsExec, table_scan::TableScanExec};
use cortex_shard_api::{ShardId, report::OperatorCounts};
use datafusion::{
    common::JoinType,
    physical_expr::{
        PhysicalExpr,
        aggregate::AggregateFunctionExpr,
        expressions::{Column, Literal},
    },
    physical_plan::{
        ExecutionPlan,
        aggregates::{AggregateExec, AggregateMode},
        coalesce_partitions::CoalescePartitionsExec,
        coop::CooperativeExec,
        display::DisplayableExecutionPlan,
        empty::EmptyExec,
        filter::FilterExec,
        joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec},
        limit::{GlobalLimitExec, LocalLimitExec},
        metrics::MetricsSet,
        placeholder_row::PlaceholderRowExec,
        projection::ProjectionExec,
        sorts::{sort::SortExec, sort_preserving_merge::SortPreservingMergeExec},
        union::UnionExec,
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};

use super::{
    Actual, Node,
    expression::{Names, expression, list, name, order},
};
use crate::{
    operators::{ShardFragmentExec, scatter::SHARD_TIME, table::ScanNote},
    route::Path,
};

/// Columns and expressions that are listed at the most.
const LISTED_MAX: usize = 20;

/// How DataFusion names an expression that it computes once for several uses.
const COMMON_PREFIX: &str = "__common_expr";

/// The tree of a plan.
pub fn tree(plan: &Arc<dyn ExecutionPlan>, analyze: bool) -> Node {
    let mut names = Names::new();
    collect_names(plan, &mut names);
    build(plan, if analyze { Counted::Here } else { Counted::Not }, &names)
}

/// Where the counts of an operator are.
#[derive(Clone, Copy)]
enum Counted<'a> {
    Not,
    /// It ran in the gateway and has them.
    Here,
    /// It ran in shards, which have reported.
    InShards(&'a Reports<'a>),
}

/// What the shards of a fragment reported; the operators are asked for in the order of the reports.
struct Reports<'a> {
    shards: Vec<(ShardId, &'a [OperatorCounts])>,
    next: Cell<usize>,
}

impl Reports<'_> {
    /// What the next operator did on each shard that says so.
    fn next(&self) -> Vec<(ShardId, Actual)> {
        let place = self.next.replace(self.next.get() + 1);
        let of = |(shard, counts): &(ShardId, &[OperatorCounts])| {
            let OperatorCounts { rows, nanos } = *counts.get(place)?;
            let rows = usize::try_from(rows).unwrap_or(usize::MAX);
            Some((*shard, Actual { rows, time: Some(Duration::from_nanos(nanos)) }))
        };
        self.shards.iter().filter_map(of).collect()
    }
}

/// What computes the columns that the binder names by number: aggregates and groups. Innermost first, so that later ones can
/// name them.
fn collect_names(plan: &Arc<dyn ExecutionPlan>, names: &mut Names) {
    if let Some(fragment) = plan.downcast_ref::<ShardFragmentExec>() {
        fragment.broadcasts().iter().for_each(|small| collect_names(small, names));
        collect_names(fragment.fragment(), names);
        return;
    }
    for child in plan.children() {
        collect_names(child, names);
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let shared = |alias: &str| alias.starts_with(COMMON_PREFIX);
        for output in projection.expr().iter().filter(|output| shared(&output.alias)) {
            names.insert(output.alias.clone(), expression(&output.expr, names));
        }
    }
    let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else { return };
    if matches!(aggregate.mode(), AggregateMode::Final | AggregateMode::FinalPartitioned) {
        return;
    }
    let groups = aggregate.group_expr().expr().iter();
    for (expr, alias) in groups.filter(|(expr, _)| !expr.is::<Column>()) {
        names.insert(alias.clone(), expression(expr, names));
    }
    for call in aggregate.aggr_expr() {
        names.insert(call.name().to_owned(), aggregate_call(call, names));
    }
}

/// The node of an operator.
fn build(plan: &Arc<dyn ExecutionPlan>, counted: Counted<'_>, names: &Names) -> Node {
    if let Some(fragment) = plan.downcast_ref::<ShardFragmentExec>() {
        return shard_fragment(fragment, !matches!(counted, Counted::Not), names);
    }
    let (actual, parts) = match counted {
        Counted::Not => (None, vec![]),
        Counted::Here => (Some(actual(plan.as_ref())), vec![]),
        Counted::InShards(reports) => {
            let parts = reports.next();
            let is_there = !parts.is_empty();
            (is_there.then(|| parts.iter().map(|(_, actual)| *actual).sum()), parts)
        }
    };
    let mut children: Vec<Node> =
        plan.children().into_iter().map(|child| build(child, counted, names)).collect();
    if plan.is::<CooperativeExec>()
        && let Some(only) = children.pop()
    {
        return only;
    }
    let (node_type, name, details) = describe(plan.as_ref(), names);
    Node { name, node_type, details, actual, parts, children, ..Node::default() }
}

fn actual(plan: &dyn ExecutionPlan) -> Actual {
    let metrics = plan.metrics().unwrap_or_default();
    let nanos = metrics.elapsed_compute().unwrap_or(0);
    Actual {
        rows: metrics.output_rows().unwrap_or(0),
        time: Some(Duration::from_nanos(nanos as u64)),
    }
}

fn shard_fragment(fragment: &ShardFragmentExec, analyze: bool, names: &Names) -> Node {
    let told = fragment.reports().filter_map(|(shard, it)| Some((shard, it.operators()?)));
    let reports = Reports { shards: told.collect(), next: Cell::new(0) };
    let untold = fragment.reports().filter(|(_, report)| report.operators().is_none());
    let untold: Vec<String> = untold.map(|(shard, _)| shard.to_string()).collect();
    let metrics = fragment.metrics().filter(|_| analyze).unwrap_or_default();
    let shards: Vec<(ShardId, Actual)> = if analyze {
        let shards = fragment.shards().iter().enumerate();
        shards.map(|(partition, shard)| (*shard, of_partition(&metrics, partition))).collect()
    } else {
        vec![]
    };
    let broadcasts = fragment.broadcasts().iter();
    let numbers = fragment.shards().iter().map(|shard| shard.to_string());
    let mut details = vec![("shards", list(numbers))];
    if analyze && !untold.is_empty() {
        // Whoever reads had enough: what these had done by then is not known.
        details.push(("stopped", list(untold)));
    }
    let here = if analyze { Counted::Here } else { Counted::Not };
    let inside = if analyze { Counted::InShards(&reports) } else { Counted::Not };
    Node {
        name: "ShardFragment".to_owned(),
        node_type: "Custom Scan",
        details,
        actual: analyze.then(|| Actual { rows: metrics.output_rows().unwrap_or(0), time: None }),
        shards,
        children: [build(fragment.fragment(), inside, names)]
            .into_iter()
            .chain(broadcasts.enumerate().map(|(number, small)| {
                let mut details = vec![("", format!("rows {number}"))];
                if fragment.joined_here() == Some(true) {
                    details.push(("", "too many to be sent: joined here".to_owned()));
                }
                let child = build(small, here, names);
                let actual = child.actual.map(|actual| Actual { time: None, ..actual });
                Node {
                    name: "Broadcast".to_owned(),
                    node_type: "Custom Scan",
                    details,
                    actual,
                    children: vec![child],
                    ..Node::default()
                }
            }))
            .collect(),
        ..Node::default()
    }
}

/// What one shard answered, and how long it took from the request to the last row.
fn of_partition(metrics: &MetricsSet, partition: usize) -> Actual {
    let own = || metrics.iter().filter(|metric| metric.partition() == Some(partition));
    let sum = |name: &str| -> usize {
        own().filter(|metric| metric.value().name() == name).map(|m| m.value().as_usize()).sum()
    };
    Actual { rows: sum("output_rows"), time: Some(Duration::from_nanos(sum(SHARD_TIME) as u64)) }
}

type Description = (&'static str, String, Vec<(&'static str, String)>);

fn describe(plan: &dyn ExecutionPlan, names: &Names) -> Description {
    scan(plan)
        .or_else(|| one_input(plan, names))
        .or_else(|| merge(plan, names))
        .or_else(|| join(plan, names))
        .unwrap_or_else(|| other(plan))
}

fn described(
    node_type: &'static str,
    name: &str,
    details: Vec<(&'static str, String)>,
) -> Option<Description> {
    Some((node_type, name.to_owned(), details))
}

fn scan(plan: &dyn ExecutionPlan) -> Option<Description> {
    let scan = plan.downcast_ref::<TableScanExec>()?;
    let spec = &scan.partitions().first()?.spec;
    let mut details = vec![("", spec.table.name.clone())];
    let mut node_type = "Seq Scan";
    if let Some(note) = scan.note().downcast_ref::<ScanNote>() {
        details.push(("route", note.route.to_string()));
        details.push(("access", note.route.path.to_string()));
        if !matches!(note.route.path, Path::Full | Path::Slots(_)) {
            node_type = "Index Scan";
        }
    }
    let columns = spec.columns.iter().filter_map(|position| spec.table.columns.get(*position));
    details.push(("columns", listed(columns.map(|column| column.name.clone()))));
    details.extend(spec.limit.map(|limit| ("limit", limit.to_string())));
    described(node_type, "TableScan", details)
}

fn one_input(plan: &dyn ExecutionPlan, names: &Names) -> Option<Description> {
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let limit = filter.fetch().map(|limit| ("limit", limit.to_string()));
        let details = [("", expression(filter.predicate(), names))].into_iter().chain(limit);
        return described("Result", "Filter", details.collect());
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let outputs =
            projection.expr().iter().map(|output| aliased(&output.expr, &output.alias, names));
        return described("Result", "Project", vec![("columns", listed(outputs))]);
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return described("Aggregate", "Aggregate", aggregate_details(aggregate, names));
    }
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        let order = ("order", order(sort.expr(), names));
        return match sort.fetch() {
            Some(k) => described("Sort", "TopK", vec![("k", k.to_string()), order]),
            None => described("Sort", "Sort", vec![order]),
        };
    }
    if let Some(limit) = plan.downcast_ref::<LocalLimitExec>() {
        return described("Limit", "Limit", vec![("limit", limit.fetch().to_string())]);
    }
    if let Some(limit) = plan.downcast_ref::<GlobalLimitExec>() {
        let fetch = limit.fetch().map(|fetch| ("limit", fetch.to_string()));
        let skip = (limit.skip() > 0).then(|| ("offset", limit.skip().to_string()));
        return described("Limit", "Limit", fetch.into_iter().chain(skip).collect());
    }
    let windows = plan
        .downcast_ref::<WindowAggExec>()
        .map(WindowAggExec::window_expr)
        .or_else(|| plan.downcast_ref::<BoundedWindowAggExec>().map(|plan| plan.window_expr()))?;
    let windows = windows.iter().map(|window| name(window.name(), names));
    described("WindowAgg", "Window", vec![("functions", listed(windows))])
}

/// Operators that bring the shards' streams together in the gateway.
fn merge(plan: &dyn ExecutionPlan, names: &Names) -> Option<Description> {
    if let Some(merge) = plan.downcast_ref::<SortPreservingMergeExec>() {
        let order = ("order", order(merge.expr(), names));
        return match merge.fetch() {
            Some(k) => described("Gather Merge", "TopKMerge", vec![("k", k.to_string()), order]),
            None => described("Gather Merge", "OrderedMerge", vec![order]),
        };
    }
    let gather = plan.downcast_ref::<CoalescePartitionsExec>()?;
    let limit = gather.fetch().map(|limit| ("limit", limit.to_string()));
    described("Gather", "Gather", limit.into_iter().collect())
}

fn join(plan: &dyn ExecutionPlan, names: &Names) -> Option<Description> {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        let pairs = join.on().iter();
        let on = pairs.map(|(left, right)| {
            format!("{} = {}", expression(left, names), expression(right, names))
        });
        let mut details = vec![("", kind(join.join_type())), ("on", list(on))];
        details
            .extend(join.filter().map(|filter| ("filter", expression(filter.expression(), names))));
        return described("Hash Join", "HashJoin", details);
    }
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        let mut details = vec![("", kind(join.join_type()))];
        details
            .extend(join.filter().map(|filter| ("filter", expression(filter.expression(), names))));
        return described("Nested Loop", "NestedLoopJoin", details);
    }
    plan.is::<CrossJoinExec>().then(|| ("Nested Loop", "CrossJoin".to_owned(), vec![]))
}

fn kind(join: &JoinType) -> String {
    join.to_string().to_lowercase()
}

fn other(plan: &dyn ExecutionPlan) -> Description {
    let known = if let Some(rows) = plan.downcast_ref::<BroadcastRowsExec>() {
        described("Result", "BroadcastRows", vec![("", format!("rows {}", rows.number()))])
    } else if plan.is::<EmptyExec>() {
        described("Result", "Empty", vec![("", "no row can match".to_owned())])
    } else if plan.is::<PlaceholderRowExec>() {
        described("Result", "OneRow", vec![])
    } else if plan.is::<UnionExec>() {
        described("Append", "Union", vec![])
    } else {
        None
    };
    known.unwrap_or_else(|| {
        let name = plan.name().strip_suffix("Exec").unwrap_or(plan.name());
        // The operator's own words, without its name in front.
        let line = DisplayableExecutionPlan::new(plan).one_line().to_string();
        let words =
            line.trim().strip_prefix(plan.name()).unwrap_or("").trim_start_matches(':').trim();
        let details = if words.is_empty() { vec![] } else { vec![("", words.to_owned())] };
        ("Result", name.to_owned(), details)
    })
}

fn aggregate_details(aggregate: &AggregateExec, names: &Names) -> Vec<(&'static str, String)> {
    let mode = match aggregate.mode() {
        AggregateMode::Partial => "partial",
        AggregateMode::Final | AggregateMode::FinalPartitioned => "final",
        AggregateMode::Single | AggregateMode::SinglePartitioned => "whole",
        _ => "partial",
    };
    let mut details = vec![("mode", mode.to_owned())];
    let groups = aggregate.group_expr();
    if !groups.is_empty() {
        let groups = groups.expr().iter().map(|(expr, alias)| match expr.is::<Column>() {
            true => expression(expr, names),
            false if mode == "final" => name(alias, names),
            false => expression(expr, names),
        });
        details.push(("groups", listed(groups)));
    }
    if !aggregate.aggr_expr().is_empty() {
        let calls = aggregate.aggr_expr().iter().map(|call| aggregate_call(call, names));
        details.push(("aggregates", listed(calls)));
    }
    details
}

fn aggregate_call(call: &AggregateFunctionExpr, names: &Names) -> String {
    let args = call.expressions();
    let name = call.fun().name();
    if let ("count", [only]) = (name, args.as_slice())
        && only.is::<Literal>()
    {
        return "count(*)".to_owned();
    }
    let args: Vec<String> = args.iter().map(|arg| expression(arg, names)).collect();
    let distinct = if call.is_distinct() { "DISTINCT " } else { "" };
    format!("{name}({distinct}{})", args.join(", "))
}

fn aliased(expr: &Arc<dyn PhysicalExpr>, alias: &str, names: &Names) -> String {
    let text = expression(expr, names);
    let alias = name(alias, names);
    if text == alias { text } else { format!("{text} AS {alias}") }
}

fn listed(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<String> = items.collect();
    let more = items.len().saturating_sub(LISTED_MAX);
    if more > 0 {
        items.truncate(LISTED_MAX);
        items.push(format!("and {more} more"));
    }
    list(items)
}
