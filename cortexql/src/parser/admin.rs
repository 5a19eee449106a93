//! The first word of a statement, keyspaces, indexes, introspection, transactions.

use super::Parser;
use crate::{
    ast::{CreateIndex, CreateKeyspace, KeyValue, Name, ShardBy, Show, Statement},
    error::SyntaxError,
    keyword::Keyword,
    limits::SPLITS_MAX,
    token::{Symbol, TokenKind},
};

const KEYSPACE: &str = "the name of a keyspace";

/// What a statement begins with.
pub(crate) const FIRST_WORDS: &[Keyword] = &[
    Keyword::Put,
    Keyword::Get,
    Keyword::Mget,
    Keyword::Delete,
    Keyword::Exists,
    Keyword::Ttl,
    Keyword::Expire,
    Keyword::Incr,
    Keyword::Scan,
    Keyword::In,
    Keyword::Use,
    Keyword::Create,
    Keyword::Drop,
    Keyword::Vcreate,
    Keyword::Vput,
    Keyword::Vget,
    Keyword::Vdelete,
    Keyword::Vsearch,
    Keyword::Vector,
    Keyword::Describe,
    Keyword::Stats,
    Keyword::Show,
    Keyword::Explain,
    Keyword::Begin,
    Keyword::Commit,
    Keyword::Rollback,
];

/// What stands behind SHOW.
pub(crate) const SHOWN: &[(Keyword, Show)] = &[
    (Keyword::Keyspaces, Show::Keyspaces),
    (Keyword::Collections, Show::Collections),
    (Keyword::Shards, Show::Shards),
    (Keyword::Indexes, Show::Indexes),
];

/// What stands behind `IN keyspace`.
const KEYSPACE_WORDS: &[Keyword] = &[
    Keyword::Scan,
    Keyword::Put,
    Keyword::Get,
    Keyword::Mget,
    Keyword::Delete,
    Keyword::Exists,
    Keyword::Ttl,
    Keyword::Expire,
    Keyword::Incr,
];

/// What EXPLAIN explains: what reads or writes rows.
const EXPLAINED_WORDS: &[Keyword] = &[
    Keyword::Scan,
    Keyword::Vsearch,
    Keyword::Vector,
    Keyword::In,
    Keyword::Put,
    Keyword::Get,
    Keyword::Mget,
    Keyword::Delete,
    Keyword::Exists,
    Keyword::Ttl,
    Keyword::Expire,
    Keyword::Incr,
    Keyword::Vput,
    Keyword::Vget,
    Keyword::Vdelete,
];

impl Parser<'_> {
    pub(super) fn any_statement(&mut self) -> Result<Statement, SyntaxError> {
        let keyword = self.one_of(FIRST_WORDS, "a statement")?;
        match keyword {
            Keyword::Create => self.create(),
            Keyword::Drop => self.drop_keyspace(),
            Keyword::Use => Ok(Statement::Use { keyspace: self.name(KEYSPACE)? }),
            Keyword::Vcreate => Ok(Statement::CreateCollection(self.create_collection()?)),
            Keyword::Describe => {
                Ok(Statement::Describe { name: self.name("the name of a keyspace or collection")? })
            }
            Keyword::Stats => {
                Ok(Statement::Stats { name: self.name("the name of a keyspace or collection")? })
            }
            Keyword::Show => Ok(Statement::Show(self.choice(SHOWN)?)),
            Keyword::Explain => self.explain(),
            Keyword::Begin => self.transaction(Statement::Begin),
            Keyword::Commit => self.transaction(Statement::Commit),
            Keyword::Rollback => self.transaction(Statement::Rollback),
            _ => self.row_statement(keyword),
        }
    }

    /// Takes the keyword if it is among `words`; the error names them in its hint, since they are many.
    fn one_of(&mut self, words: &[Keyword], thing: &'static str) -> Result<Keyword, SyntaxError> {
        let found = self.keyword().filter(|keyword| words.contains(keyword));
        if let Some(keyword) = found {
            self.advance()?;
            return Ok(keyword);
        }
        let names = words.iter().map(|keyword| keyword.as_str());
        let word = if self.token.kind == TokenKind::Word { self.text() } else { "" };
        let hint = match crate::similar::suggest(word, names.clone()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("one of {}", names.collect::<Vec<_>>().join(", ")),
        };
        self.expected.clear();
        Err(self.missing(thing).hint(hint))
    }

    /// Behind a first word of `EXPLAINED_WORDS`.
    fn row_statement(&mut self, keyword: Keyword) -> Result<Statement, SyntaxError> {
        match keyword {
            Keyword::In => {
                let keyspace = self.name(KEYSPACE)?;
                let keyword = self.one_of(KEYSPACE_WORDS, "a command on keys")?;
                self.in_keyspace(Some(keyspace), keyword)
            }
            Keyword::Vput => self.put_vector(),
            Keyword::Vget => self.get_vector(),
            Keyword::Vdelete => self.delete_vector(),
            Keyword::Vsearch => self.vsearch().map(Statement::Pipeline),
            Keyword::Vector => self.vector_search().map(Statement::Pipeline),
            _ => self.in_keyspace(None, keyword),
        }
    }

    fn in_keyspace(
        &mut self,
        keyspace: Option<Name>,
        keyword: Keyword,
    ) -> Result<Statement, SyntaxError> {
        let command = match keyword {
            Keyword::Put => self.put()?,
            Keyword::Get => KeyValue::Get { key: self.key()? },
            Keyword::Mget => self.mget()?,
            Keyword::Delete => self.delete()?,
            Keyword::Exists => KeyValue::Exists { key: self.key()? },
            Keyword::Ttl => KeyValue::Ttl { key: self.key()? },
            Keyword::Expire => KeyValue::Expire { key: self.key()?, ttl: self.duration_input()? },
            Keyword::Incr => self.incr()?,
            _ => return self.scan(keyspace).map(Statement::Pipeline),
        };
        Ok(Statement::KeyValue { keyspace, command })
    }

    /// Behind EXPLAIN.
    fn explain(&mut self) -> Result<Statement, SyntaxError> {
        let analyze = self.eat(Keyword::Analyze)?;
        if !analyze && self.token.kind == TokenKind::Symbol(Symbol::LeftParen) {
            let error = self.missing("a command or pipeline");
            return Err(error.hint("CortexQL's EXPLAIN has one option: EXPLAIN ANALYZE ..."));
        }
        let statement = self.spanned(|parser| {
            let keyword = parser.one_of(EXPLAINED_WORDS, "a command or pipeline")?;
            parser.row_statement(keyword)
        })?;
        Ok(Statement::Explain { analyze, statement: Box::new(statement) })
    }

    /// Behind BEGIN, COMMIT or ROLLBACK.
    fn transaction(&mut self, statement: Statement) -> Result<Statement, SyntaxError> {
        let _ = self.eat(Keyword::Transaction)? || self.eat(Keyword::Work)?;
        Ok(statement)
    }

    /// Behind CREATE.
    fn create(&mut self) -> Result<Statement, SyntaxError> {
        if self.eat(Keyword::Keyspace)? {
            return Ok(Statement::CreateKeyspace(self.create_keyspace()?));
        }
        let is_unique = self.eat(Keyword::Unique)?;
        self.expect(Keyword::Index)?;
        Ok(Statement::CreateIndex(self.create_index(is_unique)?))
    }

    pub(super) fn if_not_exists(&mut self) -> Result<bool, SyntaxError> {
        let is_given = self.eat(Keyword::If)?;
        if is_given {
            self.expect(Keyword::Not)?;
            self.expect(Keyword::Exists)?;
        }
        Ok(is_given)
    }

    fn create_keyspace(&mut self) -> Result<CreateKeyspace, SyntaxError> {
        let if_not_exists = self.if_not_exists()?;
        let name = self.name(KEYSPACE)?;
        let (mut shard_by, mut ttl, mut schema) = (None, None, None);
        let mut split_at = Vec::new();
        loop {
            if self.option(Keyword::Shard, shard_by.is_some())? {
                self.expect(Keyword::By)?;
                shard_by =
                    Some(self.choice(&[
                        (Keyword::Hash, ShardBy::Hash),
                        (Keyword::Range, ShardBy::Range),
                    ])?);
            } else if self.option(Keyword::Split, !split_at.is_empty())? {
                self.expect(Keyword::At)?;
                self.expect_symbol(Symbol::LeftParen)?;
                split_at = self.list("split points", SPLITS_MAX, Self::key)?;
                self.expect_symbol(Symbol::RightParen)?;
            } else if self.option(Keyword::Ttl, ttl.is_some())? {
                ttl = Some(self.duration()?);
            } else if self.option(Keyword::Schema, schema.is_some())? {
                schema = Some(match self.json_object("SCHEMA")? {
                    Some(schema) => schema,
                    None => return Err(self.missing("a JSON object")),
                });
            } else {
                return Ok(CreateKeyspace { name, if_not_exists, shard_by, split_at, ttl, schema });
            }
        }
    }

    /// Behind DROP.
    fn drop_keyspace(&mut self) -> Result<Statement, SyntaxError> {
        self.expect(Keyword::Keyspace)?;
        let if_exists = self.eat(Keyword::If)?;
        if if_exists {
            self.expect(Keyword::Exists)?;
        }
        Ok(Statement::DropKeyspace { name: self.name(KEYSPACE)?, if_exists })
    }

    /// Behind INDEX; UNIQUE may stand in front, as in SQL, or at the end.
    fn create_index(&mut self, is_unique: bool) -> Result<CreateIndex, SyntaxError> {
        let if_not_exists = self.if_not_exists()?;
        let name = match self.at(Keyword::On) {
            true => None,
            false => Some(self.name("the name of an index")?),
        };
        self.expect(Keyword::On)?;
        let keyspace = self.name(KEYSPACE)?;
        let path = self.spanned(|parser| {
            parser.expect(Keyword::Json)?;
            parser.json_path()
        })?;
        let is_unique = if is_unique { true } else { self.eat(Keyword::Unique)? };
        Ok(CreateIndex { name, if_not_exists, keyspace, path, is_unique })
    }
}
