//! Every line of tests/data/*.txt is an expression with PostgreSQL's answer; ours must be the same.

use std::{fs, path::Path};

use cortex_shard_api::{Datum, SqlType};

use super::expression::evaluate;
use crate::{kernels::to_text, session::EvalContext};

/// The answer of one expression in the files' form.
fn answer(expression: &str, context: &EvalContext) -> String {
    match evaluate(expression, context) {
        Err(failure) => format!("error\t{}", failure.message()),
        Ok((value, ty)) => {
            // A bare literal is text by the time it is shown.
            let ty = if ty == SqlType::Unknown { SqlType::Text } else { ty };
            let shown = match &value {
                Datum::Null => "\\N".to_owned(),
                value => to_text(value, ty, context)
                    .unwrap_or_else(|error| format!("cannot print: {error}"))
                    .replace('\\', "\\\\")
                    .replace('\n', "\\n"),
            };
            format!("{}\t{shown}", ty.sql_name())
        }
    }
}

#[test]
fn expressions_answer_as_postgres_does() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let context = EvalContext::default();
    let (mut lines, mut wrong) = (0, Vec::new());
    let only = std::env::var("CORTEX_TEST_ANSWERS").unwrap_or_default();
    for entry in fs::read_dir(directory).expect("the data is beside the tests") {
        let path = entry.expect("a readable directory").path();
        if path.extension().is_none_or(|extension| extension != "txt")
            || !path.to_string_lossy().contains(&only)
        {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a readable file");
        for line in text.lines() {
            let Some((expression, expected)) = line.split_once('\t') else { continue };
            // SQLSTATEs are the gateway's; the message tells.
            let expected = match expected.strip_prefix("error\t") {
                Some(rest) => format!("error\t{}", rest.split_once('\t').map_or("", |(_, m)| m)),
                None => expected.to_owned(),
            };
            lines += 1;
            let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                answer(expression, &context)
            }))
            .unwrap_or_else(|_| "panic".to_owned());
            if got != expected {
                wrong.push(format!("{expression}\n    expected {expected}\n    got      {got}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {lines} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
