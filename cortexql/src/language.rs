//! CortexQL or SQL: the first words decide, and for those that both have, what follows.
//!
//! Only words, quotes and comments at the head of a statement are looked at, by rules that both languages share.
//!
//! | first words | CortexQL | SQL |
//! |---|---|---|
//! | BEGIN, COMMIT, ROLLBACK | | always: they mean the same, and SQL has more options |
//! | DELETE | everything else | before FROM |
//! | CREATE [UNIQUE] INDEX | before `ON name JSON` | everything else |
//! | CREATE, DROP | before KEYSPACE | everything else |
//! | SHOW | before KEYSPACES, COLLECTIONS, SHARDS, INDEXES | everything else |
//! | EXPLAIN | as what it explains | as what it explains |
//! | a near miss of a word that only CortexQL has | if it is no near miss of SQL's | otherwise |

use crate::{
    keyword::Keyword,
    lexer::{is_word_start, skip_blanks, word_end},
    parser::SHOWN,
    similar::distance,
};

/// The languages of a query text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Sql,
    CortexQl,
}

/// Bytes of a statement that are looked at: a text of many statements, each of which opens a comment to the end of the
/// same long line, must not be read once for each.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// First words that SQL does not have.
const CORTEXQL_WORDS: &[Keyword] = &[
    Keyword::Put,
    Keyword::Get,
    Keyword::Mget,
    Keyword::Exists,
    Keyword::Ttl,
    Keyword::Expire,
    Keyword::Incr,
    Keyword::Scan,
    Keyword::In,
    Keyword::Use,
    Keyword::Vcreate,
    Keyword::Vput,
    Keyword::Vget,
    Keyword::Vdelete,
    Keyword::Vsearch,
    Keyword::Vector,
    Keyword::Describe,
    Keyword::Stats,
];

/// First words of Postgres's statements: a near miss of one of these is left to SQL.
const SQL_WORDS: &[&str] = &[
    "ABORT",
    "ALTER",
    "ANALYZE",
    "BEGIN",
    "CALL",
    "CHECKPOINT",
    "CLOSE",
    "CLUSTER",
    "COMMENT",
    "COMMIT",
    "COPY",
    "CREATE",
    "DEALLOCATE",
    "DECLARE",
    "DELETE",
    "DISCARD",
    "DO",
    "DROP",
    "END",
    "EXECUTE",
    "EXPLAIN",
    "FETCH",
    "GRANT",
    "IMPORT",
    "INSERT",
    "LISTEN",
    "LOAD",
    "LOCK",
    "MERGE",
    "MOVE",
    "NOTIFY",
    "PREPARE",
    "REASSIGN",
    "REFRESH",
    "REINDEX",
    "RELEASE",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SECURITY",
    "SELECT",
    "SET",
    "SHOW",
    "START",
    "TABLE",
    "TRUNCATE",
    "UNLISTEN",
    "UPDATE",
    "VACUUM",
    "VALUES",
    "WITH",
];

/// The language of the one statement of a text, or of its first.
pub fn language_of(text: &str) -> Language {
    let start = skip_blanks(text, 0).unwrap_or(text.len());
    let mut end = text.len().min(start + HEAD_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut head = Head { text: text.get(..end).unwrap_or_default(), position: start };
    let Lexeme::Word(first) = head.next() else { return Language::Sql };
    if !is(first, "EXPLAIN") {
        return head.language_behind(first, true);
    }
    let mut has_parentheses = false;
    loop {
        match head.next() {
            Lexeme::Word(option)
                if ["ANALYZE", "ANALYSE", "VERBOSE"].iter().any(|o| is(option, o)) => {}
            Lexeme::Symbol('(') if !has_parentheses => {
                has_parentheses = true;
                head.skip_parentheses();
            }
            Lexeme::Word(word) => return head.language_behind(word, !has_parentheses),
            _ => return Language::Sql,
        }
    }
}

fn is(word: &str, keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword)
}

/// Whether a word is a keyword but for one slip.
fn is_nearly(word: &str, keyword: Keyword) -> bool {
    distance(&word.to_ascii_uppercase(), keyword.as_str()) <= 1
}

/// A first word that neither language has, one slip away from CortexQL's and not from SQL's.
fn is_near_miss(word: &str) -> bool {
    const LETTERS_MIN: usize = 3;
    // Every SQL statement comes by here, and most begin with a word as it should be.
    if word.len() < LETTERS_MIN || SQL_WORDS.iter().any(|sql| is(word, sql)) {
        return false;
    }
    let word = word.to_ascii_uppercase();
    CORTEXQL_WORDS.iter().any(|keyword| distance(&word, keyword.as_str()) == 1)
        && !SQL_WORDS.iter().any(|sql| distance(&word, sql) <= 1)
}

enum Lexeme<'a> {
    Word(&'a str),
    /// A name or a text.
    Quoted,
    Symbol(char),
    End,
}

/// The first words of a statement.
struct Head<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Head<'a> {
    fn next(&mut self) -> Lexeme<'a> {
        let Ok(start) = skip_blanks(self.text, self.position) else { return Lexeme::End };
        let rest = self.text.get(start..).unwrap_or_default();
        let Some(first) = rest.chars().next() else { return Lexeme::End };
        self.position = start + first.len_utf8();
        match first {
            ';' => {
                self.position = start;
                Lexeme::End
            }
            '"' | '\'' => {
                let close = rest.get(1..).and_then(|inside| inside.find(first));
                self.position = close.map_or(self.text.len(), |length| start + length + 2);
                Lexeme::Quoted
            }
            _ if is_word_start(first) => {
                self.position = word_end(self.text, start);
                Lexeme::Word(self.text.get(start..self.position).unwrap_or_default())
            }
            _ => Lexeme::Symbol(first),
        }
    }

    /// Behind an opening parenthesis, to where it closes.
    fn skip_parentheses(&mut self) {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.next() {
                Lexeme::Symbol('(') => depth += 1,
                Lexeme::Symbol(')') => depth -= 1,
                Lexeme::End => return,
                Lexeme::Word(_) | Lexeme::Quoted | Lexeme::Symbol(_) => {}
            }
        }
    }

    fn language_behind(&mut self, first: &str, with_near_misses: bool) -> Language {
        let is_cortexql = if CORTEXQL_WORDS.iter().any(|keyword| keyword.is(first)) {
            true
        } else if is(first, "DELETE") {
            !matches!(self.next(), Lexeme::Word(word) if is(word, "FROM"))
        } else if is(first, "CREATE") {
            self.is_cortexql_create()
        } else if is(first, "DROP") {
            matches!(self.next(), Lexeme::Word(word) if is_nearly(word, Keyword::Keyspace))
        } else if is(first, "SHOW") {
            let is_shown = matches!(self.next(), Lexeme::Word(word) if SHOWN.iter().any(|(shown, _)| shown.is(word)));
            // `shards.x` would be a setting.
            is_shown && !matches!(self.next(), Lexeme::Symbol('.'))
        } else {
            with_near_misses && is_near_miss(first)
        };
        if is_cortexql { Language::CortexQl } else { Language::Sql }
    }

    fn is_cortexql_create(&mut self) -> bool {
        match self.next() {
            Lexeme::Word(word) if is_nearly(word, Keyword::Keyspace) => true,
            Lexeme::Word(word) if is(word, "INDEX") => self.is_cortexql_index(),
            Lexeme::Word(word) if is(word, "UNIQUE") => {
                matches!(self.next(), Lexeme::Word(word) if is(word, "INDEX"))
                    && self.is_cortexql_index()
            }
            _ => false,
        }
    }

    /// Behind INDEX: `[CONCURRENTLY] [IF NOT EXISTS] [name] ON name JSON`.
    fn is_cortexql_index(&mut self) -> bool {
        let mut lexeme = self.next();
        if matches!(lexeme, Lexeme::Word(word) if is(word, "CONCURRENTLY")) {
            lexeme = self.next();
        }
        if matches!(lexeme, Lexeme::Word(word) if is(word, "IF")) {
            self.next();
            self.next();
            lexeme = self.next();
        }
        if !matches!(lexeme, Lexeme::Word(word) if is(word, "ON")) {
            lexeme = self.behind_name();
        }
        if !matches!(lexeme, Lexeme::Word(word) if is(word, "ON")) {
            return false;
        }
        self.next();
        matches!(self.behind_name(), Lexeme::Word(word) if is_nearly(word, Keyword::Json))
    }

    /// What stands behind a name whose first part was read.
    fn behind_name(&mut self) -> Lexeme<'a> {
        loop {
            match self.next() {
                Lexeme::Symbol('.') => self.next(),
                lexeme => return lexeme,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every word that both languages have, in every way that decides.
    const CASES: &[(&str, Language)] = &[
        // Words that only CortexQL has.
        ("PUT 'a' 'b'", Language::CortexQl),
        ("get \"a\"", Language::CortexQl),
        ("MGET 'a' 'b'", Language::CortexQl),
        ("EXISTS 'a'", Language::CortexQl),
        ("TTL 'a'", Language::CortexQl),
        ("EXPIRE 'a' 1h", Language::CortexQl),
        ("INCR 'a'", Language::CortexQl),
        ("SCAN ALL", Language::CortexQl),
        ("IN sessions SCAN ALL", Language::CortexQl),
        ("USE sessions", Language::CortexQl),
        ("VCREATE e DIM 3 METRIC l2", Language::CortexQl),
        ("VPUT e 'a' VECTOR([1])", Language::CortexQl),
        ("VGET e 'a'", Language::CortexQl),
        ("VDELETE e 'a'", Language::CortexQl),
        ("VSEARCH e VECTOR([1]) TOPK 1", Language::CortexQl),
        ("VECTOR SEARCH e WITH VECTOR([1]) TOPK 1", Language::CortexQl),
        ("DESCRIBE sessions", Language::CortexQl),
        ("STATS sessions", Language::CortexQl),
        // Words that only SQL has, and texts that begin with no word.
        ("SELECT 1", Language::Sql),
        ("WITH put AS (SELECT 1) TABLE put", Language::Sql),
        ("INSERT INTO kv VALUES ('a')", Language::Sql),
        ("UPDATE kv SET key = 'PUT'", Language::Sql),
        ("VALUES (1)", Language::Sql),
        ("TABLE scan", Language::Sql),
        ("(SELECT 1)", Language::Sql),
        ("\"PUT\" 'a'", Language::Sql),
        ("'PUT' 'a'", Language::Sql),
        ("", Language::Sql),
        (";", Language::Sql),
        ("-- PUT 'a' 'b'", Language::Sql),
        ("PREPARE q AS SELECT 1", Language::Sql),
        ("EXECUTE put", Language::Sql),
        ("ANALYZE kv", Language::Sql),
        ("FETCH ALL FROM c", Language::Sql),
        // The same in both; SQL has more options.
        ("BEGIN", Language::Sql),
        ("BEGIN ISOLATION LEVEL READ COMMITTED", Language::Sql),
        ("COMMIT", Language::Sql),
        ("ROLLBACK", Language::Sql),
        ("ROLLBACK TO SAVEPOINT a", Language::Sql),
        // DELETE
        ("DELETE FROM kv", Language::Sql),
        ("DELETE\n\tFROM ONLY kv", Language::Sql),
        ("DELETE /* 'a' */ FROM kv", Language::Sql),
        ("DELETE -- 'a'\nFROM kv", Language::Sql),
        ("DELETE 'FROM'", Language::CortexQl),
        ("DELETE \"from\"", Language::CortexQl),
        ("DELETE PREFIX 'user:'", Language::CortexQl),
        ("DELETE PREFIX 'user:' | WHERE value = 'FROM'", Language::CortexQl),
        ("DELETE RANGE 'a' 'b'", Language::CortexQl),
        ("DELETE ALL", Language::CortexQl),
        ("DELETE WHERE key = 'a'", Language::CortexQl),
        ("DELETE $1", Language::CortexQl),
        ("DELETE X'00'", Language::CortexQl),
        ("DELETE", Language::CortexQl),
        // CREATE and DROP
        ("CREATE KEYSPACE sessions", Language::CortexQl),
        ("CREATE KEYSPCE sessions", Language::CortexQl),
        ("CREATE TABLE keyspace (a int)", Language::Sql),
        ("CREATE SCHEMA keyspace", Language::Sql),
        ("CREATE", Language::Sql),
        ("DROP KEYSPACE sessions", Language::CortexQl),
        ("DROP TABLE keyspace", Language::Sql),
        ("DROP INDEX json", Language::Sql),
        // CREATE INDEX
        ("CREATE INDEX ON users JSON('$.email')", Language::CortexQl),
        ("CREATE INDEX ON users json ('$.email') UNIQUE", Language::CortexQl),
        ("CREATE INDEX ON users JSN('$.email')", Language::CortexQl),
        ("CREATE INDEX ON \"users\" JSON('$.email')", Language::CortexQl),
        ("CREATE INDEX ON public.users JSON('$.email')", Language::CortexQl),
        ("CREATE UNIQUE INDEX by_email ON users JSON('$.email')", Language::CortexQl),
        ("CREATE INDEX IF NOT EXISTS by_email ON users JSON('$.email')", Language::CortexQl),
        ("CREATE INDEX ON users (email)", Language::Sql),
        ("CREATE INDEX ON json (json)", Language::Sql),
        ("CREATE INDEX json ON users (json)", Language::Sql),
        ("CREATE INDEX ON users USING gin (value)", Language::Sql),
        ("CREATE INDEX ON users ((value ->> 'email'))", Language::Sql),
        ("CREATE INDEX CONCURRENTLY ON users (email)", Language::Sql),
        (
            "CREATE UNIQUE INDEX IF NOT EXISTS s.by_email ON ONLY public.users (email)",
            Language::Sql,
        ),
        ("CREATE INDEX", Language::Sql),
        ("CREATE INDEX ON", Language::Sql),
        ("CREATE UNIQUE", Language::Sql),
        // SHOW
        ("SHOW KEYSPACES", Language::CortexQl),
        ("show collections;", Language::CortexQl),
        ("SHOW SHARDS", Language::CortexQl),
        ("SHOW INDEXES", Language::CortexQl),
        ("SHOW shards.replicas", Language::Sql),
        ("SHOW \"shards\"", Language::Sql),
        ("SHOW search_path", Language::Sql),
        ("SHOW ALL", Language::Sql),
        ("SHOW", Language::Sql),
        // EXPLAIN
        ("EXPLAIN SELECT 1", Language::Sql),
        ("EXPLAIN ANALYZE VERBOSE SELECT 1", Language::Sql),
        ("EXPLAIN (ANALYZE, FORMAT json) SELECT 1", Language::Sql),
        ("EXPLAIN (SELECT 1)", Language::Sql),
        ("EXPLAIN (SELECT ')') UNION (SELECT 'a')", Language::Sql),
        ("EXPLAIN DELETE FROM kv", Language::Sql),
        ("EXPLAIN EXECUTE q", Language::Sql),
        ("EXPLAIN", Language::Sql),
        ("EXPLAIN ANALYZE", Language::Sql),
        ("EXPLAIN (", Language::Sql),
        ("EXPLAIN SCAN ALL", Language::CortexQl),
        ("EXPLAIN SCANN ALL", Language::CortexQl),
        ("EXPLAIN ANALYZE GET 'a'", Language::CortexQl),
        ("EXPLAIN (ANALYZE) SCAN ALL", Language::CortexQl),
        ("EXPLAIN DELETE PREFIX 'a'", Language::CortexQl),
        ("EXPLAIN IN sessions GET 'a'", Language::CortexQl),
        ("EXPLAIN VSEARCH e VECTOR([1]) TOPK 1", Language::CortexQl),
        // Comments in front.
        ("-- SELECT 1\nPUT 'a' 'b'", Language::CortexQl),
        ("# SELECT 1\nPUT 'a' 'b'", Language::CortexQl),
        ("# PUT 'a' 'b'\nSELECT 1", Language::Sql),
        ("/* SELECT /* 1 */ 2 */ PUT 'a' 'b'", Language::CortexQl),
        ("/* PUT 'a' 'b'", Language::Sql),
        // Near misses.
        ("SCANN ALL", Language::CortexQl),
        ("VSERCH e VECTOR([1]) TOPK 1", Language::CortexQl),
        ("GTE 'a'", Language::CortexQl),
        ("DESCRIB users", Language::CortexQl),
        ("SELCT 1", Language::Sql),
        ("DELETEE 'a'", Language::Sql),
        ("PUTS", Language::CortexQl),
        ("SETT a", Language::Sql),
        ("banana", Language::Sql),
        ("scanner_state", Language::Sql),
    ];

    #[test]
    fn first_words_decide() {
        for (text, language) in CASES {
            assert_eq!(language_of(text), *language, "{text}");
        }
    }

    fn has_comment(text: &str) -> bool {
        ["/*", "--", "#"].iter().any(|comment| text.contains(comment))
    }

    #[test]
    fn comments_between_the_words_change_nothing() {
        for (text, language) in CASES.iter().filter(|(text, _)| !has_comment(text)) {
            for comment in [" /* it's \" ; FROM JSON */ ", " -- it's \" ; FROM JSON\n"] {
                let commented = text.replace(' ', comment);
                assert_eq!(language_of(&commented), *language, "{commented}");
            }
        }
    }

    /// No first word of CortexQL is missing in the table, and none is both in the list here and in SQL's.
    #[test]
    fn every_first_word_is_decided() {
        for keyword in crate::parser::FIRST_WORDS {
            let is_listed = CASES.iter().any(|(text, _)| {
                text.split_whitespace().next().is_some_and(|first| keyword.is(first))
            });
            assert!(is_listed, "{}", keyword.as_str());
            let is_ours = CORTEXQL_WORDS.contains(keyword);
            assert_eq!(is_ours, !SQL_WORDS.contains(&keyword.as_str()), "{}", keyword.as_str());
        }
    }
}
