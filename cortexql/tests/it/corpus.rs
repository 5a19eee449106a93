//! Real statements of both languages: none is taken for the other's, alone or in one text with the other's.
//!
//! SQL comes from the suite that the whole database runs (`sql-tests/slt`), CortexQL from the golden files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cortexql::{Language, Preference, language_of, split};

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|one| one == extension) {
            found.push(path);
        }
    }
    found.sort();
}

/// The statements of the suite's files.
fn sql() -> Vec<String> {
    let mut paths = Vec::new();
    files(&folder("../sql-tests/slt"), "slt", &mut paths);
    let mut statements = Vec::new();
    for path in paths {
        let text = fs::read_to_string(path).expect("a text");
        for block in text.split("\n\n") {
            let lines: Vec<&str> = block.lines().collect();
            let head = lines
                .iter()
                .position(|line| line.starts_with("statement ") || line.starts_with("query "));
            let Some(head) = head else { continue };
            let body = lines[head + 1..].iter().take_while(|line| **line != "----");
            let statement = body.copied().collect::<Vec<_>>().join("\n");
            if !statement.trim().is_empty() {
                statements.push(statement);
            }
        }
    }
    statements
}

/// The statements of the golden files that parse.
pub(crate) fn cortexql() -> Vec<String> {
    let mut paths = Vec::new();
    files(&folder("tests/parse"), "txt", &mut paths);
    let mut statements = Vec::new();
    for path in paths.iter().filter(|path| !path.ends_with("errors.txt")) {
        let text = fs::read_to_string(path).expect("a text");
        let cases = text.split("\n\n").filter_map(|block| block.split_once("\n----"));
        statements.extend(cases.map(|(case, _)| case.to_owned()));
    }
    statements
}

/// BEGIN, COMMIT and ROLLBACK are SQL's in a mixed text.
fn is_shared(statement: &str) -> bool {
    ["begin", "commit", "rollback"].iter().any(|word| statement.to_lowercase().starts_with(word))
}

#[test]
fn statements_are_in_their_language() {
    let sql = sql();
    assert!(sql.len() > 500, "the suite is missing");
    for statement in sql {
        assert_eq!(language_of(&statement), Language::Sql, "{statement}");
    }
    for statement in cortexql() {
        let language = if is_shared(&statement) { Language::Sql } else { Language::CortexQl };
        assert_eq!(language_of(&statement), language, "{statement}");
    }
}

/// One text of all statements, SQL and CortexQL in turn, is cut into just these.
#[test]
fn a_mixed_text_is_cut_into_its_statements() {
    let (sql, cortexql) = (sql(), cortexql());
    let mut cortexql = cortexql.iter().filter(|statement| !is_shared(statement)).cycle();
    let mut text = String::new();
    let mut expected = Vec::new();
    for statement in &sql {
        let other = cortexql.next().expect("a cycle");
        for (language, preference, statement) in [
            (Language::Sql, Preference::Sql, statement),
            (Language::CortexQl, Preference::CortexQl, other),
        ] {
            let pieces = split(statement, preference).expect("within the bounds");
            expected.extend(pieces.iter().map(|piece| (language, piece.span.of(statement))));
            // On a line of its own, since a statement may end with a comment.
            text.push_str(statement);
            text.push_str("\n;");
        }
    }
    let pieces = split(&text, Preference::Auto).expect("within the bounds");
    let found: Vec<_> = pieces.iter().map(|piece| (piece.language, piece.span.of(&text))).collect();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

/// Comments full of quotes, semicolons and words between the words of a statement change nothing.
#[test]
fn comments_do_not_decide() {
    let statements = sql().into_iter().chain(cortexql());
    for statement in statements.filter(|statement| !statement.contains("/*")) {
        let language = language_of(&statement);
        let Some((first, rest)) = statement.split_once(' ') else { continue };
        for comment in
            ["/* it's ; \" FROM /* JSON */ KEYSPACE */", "-- it's ; \" FROM JSON\n", "\u{a0}\t\r\n"]
        {
            let text = format!("{comment}{first} {comment} {rest}");
            assert_eq!(language_of(&text), language, "{text}");
        }
    }
}
