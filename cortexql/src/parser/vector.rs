//! Collections of vectors: VCREATE, VPUT, VGET, VDELETE, and both spellings of the search.

use super::{ParameterRole, Parser};
use crate::{
    ast::{
        CreateCollection, Input, Metric, Name, Pipeline, Quantize, Source, Statement, VectorIndex,
    },
    components,
    error::{Problem, SyntaxError},
    keyword::Keyword,
    lexer,
    limits::{VECTOR_DIM_MAX, VECTORS_MAX},
    token::{Spanned, Symbol, TokenKind},
};

const COLLECTION: &str = "the name of a collection";

impl Parser<'_> {
    /// Behind VCREATE; options in any order, DIM and METRIC needed.
    pub(super) fn create_collection(&mut self) -> Result<CreateCollection, SyntaxError> {
        let if_not_exists = self.if_not_exists()?;
        let name = self.name(COLLECTION)?;
        let (mut dim, mut metric, mut index, mut quantize) = (None, None, None, None);
        loop {
            if self.option(Keyword::Dim, dim.is_some())? {
                dim = Some(self.dim()?);
            } else if self.option(Keyword::Metric, metric.is_some())? {
                metric = Some(self.choice(&[
                    (Keyword::Cosine, Metric::Cosine),
                    (Keyword::L2, Metric::L2),
                    (Keyword::Dot, Metric::Dot),
                ])?);
            } else if self.option(Keyword::Index, index.is_some())? {
                index = Some(self.choice(&[
                    (Keyword::Hnsw, VectorIndex::Hnsw),
                    (Keyword::Flat, VectorIndex::Flat),
                ])?);
            } else if self.option(Keyword::Quantize, quantize.is_some())? {
                quantize =
                    Some(self.choice(&[
                        (Keyword::Int8, Quantize::Int8),
                        (Keyword::None, Quantize::None),
                    ])?);
            } else {
                break;
            }
        }
        match (dim, metric) {
            (Some(dim), Some(metric)) => {
                Ok(CreateCollection { name, if_not_exists, dim, metric, index, quantize })
            }
            _ => Err(self.unexpected()),
        }
    }

    fn dim(&mut self) -> Result<Spanned<u32>, SyntaxError> {
        let max = i64::try_from(VECTOR_DIM_MAX).unwrap_or(i64::MAX);
        let dim = self.integer("a dimension", 1, max)?;
        Ok(dim.map(|dim| u32::try_from(dim).unwrap_or_default()))
    }

    /// Behind VPUT.
    pub(super) fn put_vector(&mut self) -> Result<Statement, SyntaxError> {
        let collection = self.name(COLLECTION)?;
        let id = self.key()?;
        let vector = self.vector()?;
        let meta = self.eat(Keyword::Meta)?;
        let meta = if meta { Some(self.json_input("META")?) } else { None };
        Ok(Statement::PutVector { collection, id, vector, meta })
    }

    /// Behind VGET.
    pub(super) fn get_vector(&mut self) -> Result<Statement, SyntaxError> {
        Ok(Statement::GetVector { collection: self.name(COLLECTION)?, id: self.key()? })
    }

    /// Behind VDELETE.
    pub(super) fn delete_vector(&mut self) -> Result<Statement, SyntaxError> {
        Ok(Statement::DeleteVector { collection: self.name(COLLECTION)?, id: self.key()? })
    }

    /// Behind VSEARCH.
    pub(super) fn vsearch(&mut self) -> Result<Pipeline, SyntaxError> {
        let collection = self.name(COLLECTION)?;
        self.search(collection)
    }

    /// Behind VECTOR: `SEARCH name WITH ...`
    pub(super) fn vector_search(&mut self) -> Result<Pipeline, SyntaxError> {
        self.expect(Keyword::Search)?;
        let collection = self.name(COLLECTION)?;
        self.expect(Keyword::With)?;
        self.search(collection)
    }

    fn search(&mut self, collection: Name) -> Result<Pipeline, SyntaxError> {
        let vectors = self.vectors()?;
        self.expect(Keyword::Topk)?;
        let k = self.count("a number of rows", 1)?;
        let filter = self.eat(Keyword::Filter)?;
        let filter = if filter { Some(self.condition()?) } else { None };
        self.stages(Source::VectorSearch { collection, vectors, k, filter })
    }

    /// One or more, with or without commas, all of one dimension.
    fn vectors(&mut self) -> Result<Vec<Spanned<Input<Vec<f32>>>>, SyntaxError> {
        let mut vectors: Vec<Spanned<Input<Vec<f32>>>> = vec![self.vector()?];
        while self.eat_symbol(Symbol::Comma)? || self.at(Keyword::Vector) {
            self.limit("vectors of a search", vectors.len() + 1, VECTORS_MAX)?;
            let vector = self.vector()?;
            let dim = |vector: &Input<Vec<f32>>| match vector {
                Input::Literal(components) => Some(components.len()),
                Input::Parameter(_) => None,
            };
            let first = vectors.iter().find_map(|vector| dim(&vector.node));
            if let (Some(first), Some(found)) = (first, dim(&vector.node))
                && first != found
            {
                let problem = Problem::DimMismatch { first, found };
                return Err(SyntaxError::new(problem, vector.span));
            }
            vectors.push(vector);
        }
        Ok(vectors)
    }

    /// `VECTOR([...])`, `VECTOR('[...]')` or `VECTOR($1)`
    fn vector(&mut self) -> Result<Spanned<Input<Vec<f32>>>, SyntaxError> {
        self.spanned(|parser| {
            parser.expect(Keyword::Vector)?;
            parser.expect_symbol(Symbol::LeftParen)?;
            let vector = parser.components()?;
            parser.expect_symbol(Symbol::RightParen)?;
            Ok(vector)
        })
    }

    fn components(&mut self) -> Result<Input<Vec<f32>>, SyntaxError> {
        if let Some(index) = self.parameter(ParameterRole::Vector)? {
            return Ok(Input::Parameter(index));
        }
        let (source, span) = (self.source, self.token.span);
        match self.token.kind {
            TokenKind::Symbol(Symbol::LeftBracket) => {
                let (components, end) = components::scan(source, span.start)?;
                self.continue_at(end)?;
                Ok(Input::Literal(components))
            }
            TokenKind::DoubleQuoted | TokenKind::SingleQuoted => {
                let text = lexer::unquote(source, span);
                let components = components::parse(&text).map_err(|error| {
                    error.moved(|offset| lexer::place_in_quotes(source, span, offset))
                })?;
                self.advance()?;
                Ok(Input::Literal(components))
            }
            _ => Err(self.missing("a vector").hint("for example VECTOR([0.1, 0.2])")),
        }
    }
}
