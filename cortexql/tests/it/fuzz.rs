//! Texts that are no statements: never a panic, never an error whose place is outside the text.
//!
//! Random bytes, random tokens, and the statements of the golden files with pieces cut out, doubled, swapped and
//! replaced. The seed is fixed, so a failure repeats; the time is bounded.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use cortexql::{Language, Preference, language_of, parse, parse_all, parse_piece, split};

use crate::random::Random;

/// Enough for some hundred thousand texts, short enough for every test run.
const SECONDS_MAX: u64 = 3;

/// Everything that can be done with a text.
fn exercise(text: &str) {
    let check = |error: &cortexql::SyntaxError| {
        let span = error.span;
        let is_inside = span.start <= span.end && span.end <= text.len();
        assert!(is_inside && text.is_char_boundary(span.start), "{error:?}\n{text}");
        assert!(text.is_char_boundary(span.end), "{error:?}\n{text}");
        let rendered = error.render(text);
        assert!(rendered.contains('^') && error.position(text) > 0);
    };
    match parse(text) {
        Ok(parsed) => {
            let canonical = parsed.statement.to_string();
            match parse(&canonical) {
                Ok(again) => assert_eq!(again.statement, parsed.statement, "{text}\n{canonical}"),
                Err(error) => panic!("{text}\n{}", error.render(&canonical)),
            }
        }
        Err(error) => check(&error),
    }
    if let Err(error) = parse_all(text) {
        check(&error);
    }
    for preference in [Preference::Auto, Preference::Sql, Preference::CortexQl] {
        let mut end = 0;
        for piece in split(text, preference).expect("within the bounds") {
            assert!(end <= piece.span.start && piece.span.start < piece.span.end);
            assert!(!piece.span.of(text).is_empty(), "{text}");
            end = piece.span.end;
            if preference == Preference::Auto {
                assert_eq!(language_of(piece.span.of(text)), piece.language, "{text}");
            }
            if piece.language == Language::CortexQl
                && let Err(error) = parse_piece(text, &piece)
            {
                check(&error);
            }
        }
    }
}

fn corpus() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parse");
    let mut statements = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder") {
        let text = fs::read_to_string(entry.expect("a file").path()).expect("a text");
        let cases = text.split("\n\n").filter_map(|block| block.split_once("\n----"));
        statements.extend(cases.map(|(case, _)| case.to_owned()));
    }
    statements.sort();
    statements
}

/// Fragments that a mutation puts in: quotes, brackets and what follows a slip of the hand.
const FRAGMENTS: &[&str] = &[
    "\"",
    "'",
    "\\",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "|",
    ";",
    ",",
    ".",
    "$1",
    "$",
    "-",
    "--",
    "#",
    "/*",
    "*/",
    "ü",
    "\u{1F600}",
    "\0",
    "\n",
    "0",
    "1e999",
    "NOT ",
    "(((",
    "X'",
    "E'",
    "$$",
    "\\u0000",
    "\\ud800",
    "JSON(",
    "VECTOR(",
    "WHERE ",
    " AND ",
    "30s",
    "==",
];

fn boundary(text: &str, random: &mut Random) -> usize {
    let mut offset = random.below(text.len() + 1);
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn mutate(text: &mut String, other: &str, random: &mut Random) {
    let (a, b) = (boundary(text, random), boundary(text, random));
    let (start, end) = (a.min(b), a.max(b));
    match random.below(5) {
        0 => text.replace_range(start..end, ""),
        1 => text.insert_str(start, FRAGMENTS[random.below(FRAGMENTS.len())]),
        2 => {
            let cut = boundary(other, random);
            text.truncate(start);
            text.push_str(&other[cut..]);
        }
        3 => {
            let copied = text[start..end].to_owned();
            text.insert_str(end, &copied);
        }
        _ => text.truncate(start),
    }
}

#[test]
fn no_text_panics() {
    let corpus = corpus();
    assert!(corpus.len() > 50, "the golden files are missing");
    let mut random = Random(0x00C0_47E7_DB5E_ED01);
    let start = Instant::now();
    let mut rounds = 0_u32;
    while start.elapsed() < Duration::from_secs(SECONDS_MAX) {
        let bytes: Vec<u8> = (0..random.below(40))
            .map(|_| u8::try_from(random.below(256)).expect("a byte"))
            .collect();
        exercise(&String::from_utf8_lossy(&bytes));
        let fragments: String =
            (0..random.below(12)).map(|_| FRAGMENTS[random.below(FRAGMENTS.len())]).collect();
        exercise(&fragments);
        for _ in 0..8 {
            let mut text = corpus[random.below(corpus.len())].clone();
            let other = &corpus[random.below(corpus.len())];
            for _ in 0..=random.below(3) {
                mutate(&mut text, other, &mut random);
            }
            exercise(&text);
        }
        rounds += 1;
    }
    assert!(rounds > 100, "only {rounds} rounds");
}

/// What a recursive parser dies of: deep nesting of everything that nests.
#[test]
fn depth_is_refused_and_not_run_into() {
    const DEEP: usize = 1_000_000;
    let texts = [
        format!("SCAN ALL | WHERE {}", "(".repeat(DEEP)),
        format!("SCAN ALL | WHERE {} key = 'a'", "NOT ".repeat(DEEP)),
        format!("PUT 'a' {}", "[".repeat(DEEP)),
        format!("PUT 'a' '{}'", "[".repeat(DEEP)),
        format!("PUT 'a' {}", "{\"a\":".repeat(DEEP)),
        format!("{}GET 'a'", "EXPLAIN ".repeat(DEEP)),
        format!("{}GET 'a'", "IN a ".repeat(DEEP)),
        format!("SCAN ALL{}", " | LIMIT 1".repeat(DEEP)),
        format!("SCAN ALL | PROJECT a{}", ".a".repeat(DEEP)),
        format!("SCAN ALL | PROJECT JSON('${}')", "[0]".repeat(DEEP)),
        format!("SCAN ALL | WHERE a = 1{}", " AND a = 1".repeat(DEEP)),
        format!("SCAN ALL | WHERE a IN (1{})", ", 1".repeat(DEEP)),
        format!("MGET{}", " 'a'".repeat(DEEP)),
        format!("VGET a VECTOR([1{}])", ", 1".repeat(DEEP)),
        format!("VSEARCH a VECTOR([1{}]) TOPK 1", ", 1".repeat(DEEP)),
        format!("VSEARCH a VECTOR([1]){} TOPK 1", ", VECTOR([1])".repeat(DEEP)),
        format!("CREATE KEYSPACE {}", "a".repeat(DEEP)),
        format!("CREATE KEYSPACE a SPLIT AT ('a'{})", ", 'a'".repeat(DEEP)),
        "/*".repeat(DEEP),
        "GET 'a';".repeat(DEEP),
    ];
    for text in texts {
        let begin = &text[..40];
        let error = parse_all(&text).expect_err(begin);
        assert!(error.to_string().len() < 400, "{begin}");
        assert!(error.render(&text).len() < 1_000, "{begin}");
        let _ = language_of(&text);
    }
    let big = "-".repeat(cortexql::limits::TEXT_BYTES_MAX + 1);
    assert_eq!(parse(&big).expect_err("too long").to_string(), "bytes of a text: at most 67108864");
}
