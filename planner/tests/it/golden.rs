//! Golden plans: `tests/explain/*.txt`, one file for each rule.
//!
//! A case is a head line `explain shards=4 expect=Rule expect-not=Rule`, a query, `----` and the plan. `expect=` means that the
//! plan would be another one without the rule. `CORTEX_GOLDEN=1 cargo test -p cortex-planner` rewrites the plans.

use std::{fmt::Write, fs, path::Path};

use cortex_planner::{
    explain::{Detail, explain},
    rules::physical_rules,
};
use datafusion::{execution::SessionStateBuilder, prelude::SessionContext};

use crate::{cluster::Cluster, fragments::tables, statement::Scope};

/// The plan of a query on a cluster, without one of the rules.
async fn plan(sql: &str, n_shards: u32, without: Option<&str>) -> String {
    let tables = tables(n_shards);
    let cluster = Cluster::new(&tables);
    let mut scope = Scope::distributed(&cluster, &tables);
    let rules = physical_rules().into_iter().filter(|rule| Some(rule.name()) != without).collect();
    let state = SessionStateBuilder::new_from_existing(scope.session.state())
        .with_physical_optimizer_rules(rules)
        .build();
    scope.session = SessionContext::new_with_state(state);
    let plan = scope.physical(sql).await.expect("a plan");
    explain(&plan, false).text(Detail::default()).join("\n")
}

/// Runs the cases of one file and returns it as it should be.
async fn replay(text: &str, path: &str) -> String {
    let mut output = String::new();
    for block in text.split("\n\n") {
        let Some(head) = block.lines().find(|line| line.starts_with("explain ")) else {
            writeln!(output, "{}\n", block.trim_end()).expect("a string");
            continue;
        };
        let case = block.split_once("----").map_or(block, |(case, _)| case).trim_end();
        let (_, query) = case.split_once(head).expect("the head line");
        let query = query.trim();
        let options: Vec<(&str, &str)> =
            head.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        let shards = options.iter().find(|(key, _)| *key == "shards").map_or("4", |(_, n)| n);
        let shards = shards.parse().expect("a number of shards");
        let shown = plan(query, shards, None).await;
        for (key, rule) in options.iter().filter(|(key, _)| key.starts_with("expect")) {
            let fired = plan(query, shards, Some(rule)).await != shown;
            assert_eq!(fired, *key == "expect", "{path}: {query}: {key}={rule}\n{shown}");
        }
        writeln!(output, "{case}\n----\n{shown}\n").expect("a string");
    }
    format!("{}\n", output.trim_end())
}

#[tokio::test]
async fn plans_are_what_the_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain");
    let mut n_files = 0;
    for entry in fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("a file").path();
        let text = fs::read_to_string(&path).expect("a text");
        let name = path.file_name().expect("a name").to_string_lossy();
        let replayed = replay(&text, &name).await;
        if std::env::var_os("CORTEX_GOLDEN").is_some() {
            fs::write(&path, &replayed).expect("a file to write");
        } else {
            assert!(replayed == text, "{name} should be\n{replayed}");
        }
        n_files += 1;
    }
    assert!(n_files >= 3);
}
