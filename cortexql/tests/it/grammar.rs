//! `GRAMMAR.md` against the parser, both ways: what the grammar makes parses, the examples parse, and the keywords of
//! one are the keywords of the other.

use std::collections::{BTreeMap, BTreeSet};

use cortexql::{Keyword, Problem, parse};

use crate::random::Random;

const GRAMMAR: &str = include_str!("../../GRAMMAR.md");

/// Statements made from the grammar; each takes some microseconds.
const GENERATED: u32 = 20_000;

/// Beyond this depth the shortest alternatives are taken.
const DEPTH_MAX: usize = 14;

enum Node {
    Terminal(String),
    Name(String),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Optional(Box<Node>),
    Repeated(Box<Node>),
}

/// The fenced blocks of a kind.
fn blocks(kind: &str) -> Vec<&'static str> {
    let parts = GRAMMAR.split("```").skip(1).step_by(2);
    parts.filter_map(|part| part.strip_prefix(kind)?.strip_prefix('\n')).collect()
}

/// Words, quoted terminals and punctuation of the EBNF.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => rest[1..].find('"').expect("a closing quote") + 2,
            _ if first.is_alphabetic() => {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            }
            _ => 1,
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    tokens
}

fn choice(tokens: &[String], position: &mut usize) -> Node {
    let mut alternatives = Vec::new();
    let mut sequence = Vec::new();
    while let Some(token) = tokens.get(*position) {
        *position += 1;
        match token.as_str() {
            "|" => alternatives.push(Node::Sequence(std::mem::take(&mut sequence))),
            ";" | ")" | "]" | "}" => break,
            "(" => sequence.push(choice(tokens, position)),
            "[" => sequence.push(Node::Optional(Box::new(choice(tokens, position)))),
            "{" => sequence.push(Node::Repeated(Box::new(choice(tokens, position)))),
            quoted if quoted.starts_with('"') => {
                sequence.push(Node::Terminal(quoted.trim_matches('"').to_owned()));
            }
            name => sequence.push(Node::Name(name.to_owned())),
        }
    }
    alternatives.push(Node::Sequence(sequence));
    Node::Choice(alternatives)
}

fn productions() -> BTreeMap<String, Node> {
    let mut productions = BTreeMap::new();
    for block in blocks("ebnf") {
        let tokens = tokens(block);
        let mut position = 0;
        while position < tokens.len() {
            let name = tokens[position].clone();
            assert_eq!(tokens[position + 1], "=", "{name}");
            position += 2;
            let node = choice(&tokens, &mut position);
            assert!(productions.insert(name.clone(), node).is_none(), "{name} is defined twice");
        }
    }
    productions
}

/// The examples of each lexical element, from the table.
fn lexical() -> BTreeMap<String, Vec<String>> {
    let (_, table) = GRAMMAR.split_once("## Lexical elements").expect("the table");
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').rsplitn(2, '|').collect();
        let name = cells[1].trim().split_once(' ').expect("a name").0.to_owned();
        let examples = cells[0].split('·').map(|one| one.trim().trim_matches('`').to_owned());
        (name, examples.collect())
    })
    .collect()
}

fn visit(node: &Node, see: &mut impl FnMut(&Node)) {
    see(node);
    match node {
        Node::Terminal(_) | Node::Name(_) => {}
        Node::Sequence(nodes) | Node::Choice(nodes) => nodes.iter().for_each(|one| visit(one, see)),
        Node::Optional(inner) | Node::Repeated(inner) => visit(inner, see),
    }
}

#[test]
fn the_examples_parse() {
    let examples: Vec<&str> = blocks("cortexql")
        .into_iter()
        .flat_map(str::lines)
        .filter(|line| !line.is_empty())
        .collect();
    assert!(examples.len() > 40);
    for example in examples {
        if let Err(error) = parse(example) {
            panic!("{}", error.render(example));
        }
    }
}

#[test]
fn keywords_are_the_parsers() {
    let mut terminals = BTreeSet::new();
    for node in productions().values() {
        visit(node, &mut |node| {
            if let Node::Terminal(text) = node {
                terminals.insert(text.clone());
            }
        });
    }
    let words: BTreeSet<String> =
        terminals.into_iter().filter(|text| text.starts_with(char::is_alphabetic)).collect();
    let keywords: BTreeSet<String> =
        Keyword::ALL.iter().map(|keyword| keyword.as_str().to_owned()).collect();
    assert_eq!(words, keywords);
}

#[test]
fn every_name_is_defined_and_used() {
    let (productions, lexical) = (productions(), lexical());
    let mut used = BTreeSet::from(["statement".to_owned()]);
    for node in productions.values() {
        visit(node, &mut |node| {
            if let Node::Name(name) = node {
                used.insert(name.clone());
            }
        });
    }
    let defined: BTreeSet<String> = productions.keys().chain(lexical.keys()).cloned().collect();
    assert_eq!(used, defined);
}

struct Generator {
    productions: BTreeMap<String, Node>,
    lexical: BTreeMap<String, Vec<String>>,
    random: Random,
    /// Productions that were taken at least once.
    taken: BTreeSet<String>,
    /// How often each alternative of a choice was taken, by the place of the choice.
    counts: BTreeMap<usize, Vec<u32>>,
}

impl Generator {
    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    /// Any, but every other time one of those that were taken least: rare ones have their turn too.
    fn alternative(&mut self, nodes: &[Node]) -> usize {
        let random = self.below(nodes.len());
        let is_random = self.below(2) == 0;
        let counts = self.counts.entry(nodes.as_ptr().addr()).or_insert(vec![0; nodes.len()]);
        let least = (0..nodes.len()).min_by_key(|index| counts[*index]).expect("an alternative");
        let chosen = if is_random { random } else { least };
        counts[chosen] += 1;
        chosen
    }

    fn write(
        &mut self,
        productions: &BTreeMap<String, Node>,
        node: &Node,
        depth: usize,
        text: &mut String,
    ) {
        let is_deep = depth > DEPTH_MAX;
        match node {
            Node::Terminal(terminal) => self.token(terminal, text),
            Node::Name(name) => {
                self.taken.insert(name.clone());
                if let Some(examples) = self.lexical.get(name) {
                    let count = examples.len();
                    let chosen = self.below(count);
                    let example = self.lexical[name][chosen].clone();
                    self.token(&example, text);
                } else {
                    self.write(productions, &productions[name], depth + 1, text);
                }
            }
            Node::Sequence(nodes) => {
                for one in nodes {
                    self.write(productions, one, depth, text);
                }
            }
            Node::Choice(nodes) => {
                // The last alternative of a production that recurses does not.
                let chosen = if is_deep { nodes.len() - 1 } else { self.alternative(nodes) };
                self.write(productions, &nodes[chosen], depth, text);
            }
            Node::Optional(inner) => {
                if !is_deep && self.below(2) == 0 {
                    self.write(productions, inner, depth, text);
                }
            }
            Node::Repeated(inner) => {
                while !is_deep && self.below(3) == 0 {
                    self.write(productions, inner, depth, text);
                }
            }
        }
    }

    /// A token and what may stand between tokens; keywords in any case.
    fn token(&mut self, token: &str, text: &mut String) {
        let blanks = [" ", " ", " ", "\n", " -- it's\n", "/* \" */", " # {\n"];
        text.push_str(blanks[self.below(blanks.len())]);
        let is_keyword = Keyword::ALL.iter().any(|keyword| keyword.as_str() == token);
        match is_keyword && self.below(2) == 0 {
            true => text.push_str(&token.to_lowercase()),
            false => text.push_str(token),
        }
    }
}

/// What the grammar says in words, not in productions.
fn is_said_in_words(problem: &Problem) -> bool {
    matches!(problem, Problem::CursorConflict(_) | Problem::Duplicate("CURSOR" | "TTL" | "IF"))
}

#[test]
fn what_the_grammar_makes_parses() {
    let mut generator = Generator {
        productions: productions(),
        lexical: lexical(),
        random: Random(7),
        taken: BTreeSet::new(),
        counts: BTreeMap::new(),
    };
    let productions = std::mem::take(&mut generator.productions);
    let mut parsed = 0;
    for _ in 0..GENERATED {
        let mut text = String::new();
        generator.write(&productions, &Node::Name("statement".to_owned()), 0, &mut text);
        match parse(&text) {
            Ok(_) => parsed += 1,
            Err(error) if is_said_in_words(&error.problem) => {}
            // Vectors of one search have one dimension, and the grammar's two examples do not.
            Err(error) if matches!(*error.problem, Problem::DimMismatch { .. }) => {}
            Err(error) => panic!("{}\n\n{text}", error.render(&text)),
        }
    }
    assert!(parsed > GENERATED / 2, "{parsed}");
    let names: BTreeSet<String> =
        productions.keys().chain(generator.lexical.keys()).cloned().collect();
    assert_eq!(generator.taken, names);
}
