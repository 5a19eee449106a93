//! Golden files: `tests/parse/*.txt`.
//!
//! A case is a statement, `----`, and what comes of it: the canonical text, the AST with places and the parameters, or
//! the error with its caret. `CORTEX_GOLDEN=1 cargo test -p cortexql` rewrites the files.

use std::{fmt::Write, fs, path::Path};

use cortexql::{Parsed, SyntaxError, parse, parse_all};

/// What a statement comes to.
fn outcome(text: &str) -> String {
    match parse(text) {
        Ok(parsed) => shown(&parsed),
        Err(error) => refused(text, &error),
    }
}

fn shown(parsed: &Parsed) -> String {
    let canonical = parsed.statement.to_string();
    let again = parse(&canonical).unwrap_or_else(|error| panic!("{}", error.render(&canonical)));
    assert_eq!(again.statement, parsed.statement, "{canonical}");
    let mut text = format!("{canonical}\n{:?}", parsed.statement);
    for parameter in &parsed.parameters {
        let (span, role) = (parameter.span, parameter.role);
        write!(text, "\n${}@{}..{}: {role:?}", parameter.index, span.start, span.end)
            .expect("a string");
    }
    text
}

fn refused(text: &str, error: &SyntaxError) -> String {
    assert!(error.span.start <= error.span.end && error.span.end <= text.len(), "{error:?}");
    format!("{}\nCLASS:  {:?}", error.render(text), error.class())
}

/// Runs the cases of one file and returns it as it should be.
fn replay(text: &str, of: impl Fn(&str) -> String) -> String {
    let mut output = String::new();
    for block in text.trim_end().split("\n\n") {
        let case = block.split_once("\n----").map_or(block, |(case, _)| case);
        let is_comment = case.lines().all(|line| line.starts_with("%"));
        if is_comment {
            writeln!(output, "{case}\n").expect("a string");
        } else {
            writeln!(output, "{case}\n----\n{}\n", of(case)).expect("a string");
        }
    }
    format!("{}\n", output.trim_end())
}

#[test]
fn statements_are_what_the_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parse");
    let mut n_files = 0;
    for entry in fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("a file").path();
        let text = fs::read_to_string(&path).expect("a text");
        let replayed = replay(&text, outcome);
        let is_error_file = path.file_stem().is_some_and(|stem| stem == "errors");
        for block in replayed.split("\n\n").filter(|block| block.contains("\n----")) {
            assert_eq!(block.contains("\nERROR:  "), is_error_file, "{path:?}: {block}");
        }
        if std::env::var_os("CORTEX_GOLDEN").is_some() {
            fs::write(&path, &replayed).expect("the file");
        } else {
            assert!(text == replayed, "{path:?}: CORTEX_GOLDEN=1 rewrites it\n{replayed}");
        }
        n_files += 1;
    }
    assert!(n_files >= 6, "the golden files are missing");
}

/// A problem that no case shows would be one that nobody has read.
#[test]
fn every_problem_has_a_case() {
    let errors = include_str!("../parse/errors.txt");
    let source = include_str!("../../src/error.rs");
    // The fixed beginning of each message.
    let messages = source.split("#[error(\"").skip(1).map(|rest| {
        let end = rest.find(['{', '}', '"', '\\']).unwrap_or(rest.len());
        &rest[..end]
    });
    let mut n_messages = 0;
    for message in messages.filter(|message| message.len() > 3) {
        assert!(errors.contains(message), "no case in errors.txt says: {message}");
        n_messages += 1;
    }
    assert!(n_messages > 25, "{n_messages}");
}

#[test]
fn statements_of_a_text_keep_their_places() {
    let text = "PUT 'a' 'x;y'; -- one\n# two\n\nGET \"a\\\";\" ;; SCAN ALL | LIMIT 5";
    let parsed = parse_all(text).expect("three statements");
    let texts: Vec<&str> = parsed.iter().map(|parsed| parsed.statement.span.of(text)).collect();
    assert_eq!(texts, ["PUT 'a' 'x;y'", "GET \"a\\\";\"", "SCAN ALL | LIMIT 5"]);
    assert!(parse_all("").expect("nothing").is_empty());
    let text = "GET 'a';\n GETT 'b'";
    let error = parse_all(text).expect_err("the second");
    assert_eq!((error.span.of(text), error.position(text)), ("GETT", 11));
    assert!(error.render(text).starts_with(
        "ERROR:  expected a statement, found \"GETT\"\nLINE 2:  GETT 'b'\n         ^^^^"
    ));
}

#[test]
fn an_error_in_a_long_line_shows_what_is_around_it() {
    let text = format!("PUT 'ä' '{}' TTLL 1s", "ü".repeat(100));
    let error = parse(&text).expect_err("a slip");
    let lines: Vec<String> = error.render(&text).lines().map(str::to_owned).collect();
    let caret = lines[2].find('^').expect("a caret");
    assert_eq!(lines[1].chars().skip(caret).collect::<String>(), "TTLL 1s");
    assert!(lines[1].starts_with("LINE 1: ...ü"), "{}", lines[1]);
    assert_eq!(error.position(&text), 112);
}
