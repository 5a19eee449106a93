//! Scans and stages.

use super::Parser;
use crate::{
    ast::{
        Aggregate, AggregateFunction, Field, Name, Output, Pipeline, SortKey, Source, Stage, Step,
    },
    error::{Expected, Problem, SyntaxError},
    keyword::Keyword,
    lexer,
    limits::{COLUMNS_MAX, NAME_BYTES_MAX, PATH_STEPS_MAX, STAGES_MAX},
    token::{Spanned, Symbol, TokenKind},
};

/// The stages, and whether a VSEARCH has them: its rows are few and in order already.
pub(super) const STAGES: &[(Keyword, bool)] = &[
    (Keyword::Where, true),
    (Keyword::Project, true),
    (Keyword::Sort, false),
    (Keyword::Aggregate, false),
    (Keyword::Limit, true),
    (Keyword::Cursor, false),
];

impl Parser<'_> {
    /// Behind SCAN.
    pub(super) fn scan(&mut self, keyspace: Option<Name>) -> Result<Pipeline, SyntaxError> {
        let Some(range) = self.key_range()? else { return Err(self.unexpected()) };
        let reverse = self.eat(Keyword::Reverse)?;
        self.stages(Source::Scan { keyspace, range, reverse })
    }

    /// Everything behind a source.
    pub(super) fn stages(&mut self, source: Source) -> Result<Pipeline, SyntaxError> {
        let is_search = matches!(source, Source::VectorSearch { .. });
        let mut stages: Vec<Spanned<Stage>> = Vec::new();
        while self.eat_symbol(Symbol::Pipe)? {
            self.limit("stages of a pipeline", stages.len() + 1, STAGES_MAX)?;
            let stage = self.spanned(|parser| parser.stage(is_search))?;
            self.check_cursor(&stages, &stage)?;
            stages.push(stage);
        }
        Ok(Pipeline { source, stages })
    }

    /// A cursor points into the order of keys, so nothing may lose that order, and there is one.
    fn check_cursor(
        &self,
        before: &[Spanned<Stage>],
        stage: &Spanned<Stage>,
    ) -> Result<(), SyntaxError> {
        let is_cursor = |stage: &Spanned<Stage>| matches!(stage.node, Stage::Cursor(_));
        let reorders = |stage: &Spanned<Stage>| match &stage.node {
            Stage::SortBy(_) => Some("SORT BY"),
            Stage::Aggregate { .. } => Some("AGGREGATE"),
            Stage::Limit { offset: Some(_), .. } => Some("OFFSET"),
            _ => None,
        };
        let problem = if is_cursor(stage) {
            let second = before.iter().any(is_cursor).then_some(Problem::Duplicate("CURSOR"));
            second.or_else(|| before.iter().find_map(reorders).map(Problem::CursorConflict))
        } else {
            let conflict = reorders(stage).map(Problem::CursorConflict);
            conflict.filter(|_| before.iter().any(is_cursor))
        };
        problem.map_or(Ok(()), |problem| Err(SyntaxError::new(problem, stage.span)))
    }

    /// Behind a `|`.
    fn stage(&mut self, is_search: bool) -> Result<Stage, SyntaxError> {
        let mut found = None;
        for (keyword, is_for_search) in STAGES {
            if (*is_for_search || !is_search) && self.at(*keyword) {
                found = Some(*keyword);
                break;
            }
        }
        let Some(keyword) = found else {
            let is_group = self.keyword() == Some(Keyword::Group);
            let error = self.unexpected();
            return Err(if is_group {
                error
                    .hint("GROUP BY stands behind the aggregates: | AGGREGATE COUNT() GROUP BY ...")
            } else {
                error
            });
        };
        self.advance()?;
        match keyword {
            Keyword::Where => Ok(Stage::Where(self.condition()?)),
            Keyword::Project => {
                Ok(Stage::Project(self.list("columns of PROJECT", COLUMNS_MAX, Self::output)?))
            }
            Keyword::Sort => {
                self.expect(Keyword::By)?;
                Ok(Stage::SortBy(self.list("keys of SORT BY", COLUMNS_MAX, Self::sort_key)?))
            }
            Keyword::Aggregate => self.aggregate_stage(),
            Keyword::Limit => self.limit_stage(),
            _ => self.cursor_stage(),
        }
    }

    fn limit_stage(&mut self) -> Result<Stage, SyntaxError> {
        let limit = self.count("a number of rows", 0)?;
        let offset = self.eat(Keyword::Offset)?;
        let offset = if offset { Some(self.count("a number of rows", 0)?) } else { None };
        Ok(Stage::Limit { limit, offset })
    }

    fn cursor_stage(&mut self) -> Result<Stage, SyntaxError> {
        let is_token = matches!(
            self.token.kind,
            TokenKind::DoubleQuoted | TokenKind::SingleQuoted | TokenKind::Parameter(_)
        );
        if is_token {
            return Ok(Stage::Cursor(Some(self.text_input("a token")?)));
        }
        self.note(Expected::Thing("a token"));
        Ok(Stage::Cursor(None))
    }

    fn aggregate_stage(&mut self) -> Result<Stage, SyntaxError> {
        let aggregates = self.list("aggregates", COLUMNS_MAX, Self::aggregate)?;
        let group_by = if self.eat(Keyword::Group)? {
            self.expect(Keyword::By)?;
            self.list("columns of GROUP BY", COLUMNS_MAX, Self::output)?
        } else {
            Vec::new()
        };
        Ok(Stage::Aggregate { aggregates, group_by })
    }

    fn aggregate(&mut self) -> Result<Aggregate, SyntaxError> {
        let function = self.choice(&[
            (Keyword::Count, AggregateFunction::Count),
            (Keyword::Min, AggregateFunction::Min),
            (Keyword::Max, AggregateFunction::Max),
            (Keyword::Sum, AggregateFunction::Sum),
            (Keyword::Avg, AggregateFunction::Avg),
        ])?;
        self.expect_symbol(Symbol::LeftParen)?;
        let is_count = function == AggregateFunction::Count;
        let counts_rows =
            is_count && (self.eat_symbol(Symbol::Star)? || self.at_symbol(Symbol::RightParen));
        let argument = if counts_rows { None } else { Some(self.field()?) };
        self.expect_symbol(Symbol::RightParen)?;
        Ok(Aggregate { function, argument, alias: self.alias()? })
    }

    fn output(&mut self) -> Result<Output, SyntaxError> {
        Ok(Output { field: self.field()?, alias: self.alias()? })
    }

    fn alias(&mut self) -> Result<Option<Name>, SyntaxError> {
        if self.eat(Keyword::As)? { self.name("an alias").map(Some) } else { Ok(None) }
    }

    fn sort_key(&mut self) -> Result<SortKey, SyntaxError> {
        let field = self.field()?;
        let is_descending = !self.eat(Keyword::Asc)? && self.eat(Keyword::Desc)?;
        Ok(SortKey { field, is_descending })
    }

    /// `JSON("$.a")`, a column, or a path into a column.
    pub(super) fn field(&mut self) -> Result<Spanned<Field>, SyntaxError> {
        let error = match self.field_if_any()? {
            Some(field) => return Ok(field),
            None => self.missing("a column"),
        };
        let is_text = matches!(self.token.kind, TokenKind::DoubleQuoted | TokenKind::SingleQuoted);
        Err(match is_text {
            true => error.hint(
                "a column stands without quotes, a field of the document as JSON(\"$.name\")",
            ),
            false => error,
        })
    }

    pub(super) fn field_if_any(&mut self) -> Result<Option<Spanned<Field>>, SyntaxError> {
        if self.token.kind != TokenKind::Word {
            self.note(Expected::Word(Keyword::Json.as_str()));
            return Ok(None);
        }
        let keyword = self.keyword();
        let next = lexer::token_at(self.source, self.token.span.end)?;
        let is_call = next.kind == TokenKind::Symbol(Symbol::LeftParen);
        if keyword != Some(Keyword::Json) {
            let is_reserved = keyword.is_some_and(Keyword::is_reserved_in_conditions);
            self.note(Expected::Word(Keyword::Json.as_str()));
            if is_reserved || is_call {
                return Ok(None);
            }
        }
        self.spanned(|parser| {
            if keyword == Some(Keyword::Json) {
                parser.advance()?;
                return Ok(Field::Json(parser.json_path()?));
            }
            let name = parser.text().to_ascii_lowercase();
            parser.limit("bytes of a name", name.len(), NAME_BYTES_MAX)?;
            parser.advance()?;
            Ok(Field::Column { name, steps: parser.steps()? })
        })
        .map(Some)
    }

    /// `.name` and `[0]` behind a column.
    fn steps(&mut self) -> Result<Vec<Step>, SyntaxError> {
        let mut steps = Vec::new();
        loop {
            self.limit("steps of a path", steps.len(), PATH_STEPS_MAX)?;
            // Not asked for by name: they could stand behind every column, and would be in every list.
            if self.token.kind == TokenKind::Symbol(Symbol::Dot) {
                self.advance()?;
                let step = match self.token.kind {
                    TokenKind::Word => self.text().to_owned(),
                    TokenKind::DoubleQuoted | TokenKind::SingleQuoted => {
                        lexer::unquote(self.source, self.token.span)
                    }
                    _ => return Err(self.missing("the name of a field")),
                };
                self.advance()?;
                steps.push(Step::Field(step));
            } else if self.token.kind == TokenKind::Symbol(Symbol::LeftBracket) {
                self.advance()?;
                let index = self.integer("an index", 0, i64::from(i32::MAX))?.node;
                self.expect_symbol(Symbol::RightBracket)?;
                steps.push(Step::Index(u32::try_from(index).unwrap_or_default()));
            } else {
                return Ok(steps);
            }
        }
    }
}
