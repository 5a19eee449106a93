//! Conditions: OR, AND, NOT, comparisons. The only productions that recurse; chains become lists, so depth comes from
//! parentheses and NOTs alone, and both are counted.

use super::{ParameterRole, Parser};
use crate::{
    ast::{Comparison, Condition, Operand},
    error::{Expected, SyntaxError},
    keyword::Keyword,
    limits::{COMPARISONS_MAX, CONDITION_DEPTH_MAX, LIST_MAX},
    token::{Span, Spanned, Symbol, TokenKind},
};

const COMPARISONS: &[(Symbol, Comparison)] = &[
    (Symbol::EqualEqual, Comparison::Equal),
    (Symbol::Equal, Comparison::Equal),
    (Symbol::BangEqual, Comparison::NotEqual),
    (Symbol::LessGreater, Comparison::NotEqual),
    (Symbol::Less, Comparison::Less),
    (Symbol::LessEqual, Comparison::LessOrEqual),
    (Symbol::Greater, Comparison::Greater),
    (Symbol::GreaterEqual, Comparison::GreaterOrEqual),
];

impl Parser<'_> {
    /// A whole condition, behind WHERE or FILTER.
    pub(super) fn condition(&mut self) -> Result<Spanned<Condition>, SyntaxError> {
        self.comparisons = 0;
        self.or_condition()
    }

    fn or_condition(&mut self) -> Result<Spanned<Condition>, SyntaxError> {
        self.chain(Keyword::Or, Condition::Or, Self::and_condition)
    }

    fn and_condition(&mut self) -> Result<Spanned<Condition>, SyntaxError> {
        self.chain(Keyword::And, Condition::And, Self::not_condition)
    }

    fn chain(
        &mut self,
        keyword: Keyword,
        make: fn(Vec<Spanned<Condition>>) -> Condition,
        read: fn(&mut Self) -> Result<Spanned<Condition>, SyntaxError>,
    ) -> Result<Spanned<Condition>, SyntaxError> {
        let start = self.token.span.start;
        let first = read(self)?;
        if !self.at(keyword) {
            return Ok(first);
        }
        let mut terms = vec![first];
        while self.eat(keyword)? {
            terms.push(read(self)?);
        }
        Ok(Spanned::new(make(terms), Span::new(start, self.end)))
    }

    fn not_condition(&mut self) -> Result<Spanned<Condition>, SyntaxError> {
        if !self.at(Keyword::Not) {
            return self.predicate();
        }
        self.nested(|parser| {
            parser.spanned(|parser| {
                parser.advance()?;
                Ok(Condition::Not(Box::new(parser.not_condition()?)))
            })
        })
    }

    fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<T, SyntaxError> {
        self.limit("parentheses and NOTs inside each other", self.depth + 1, CONDITION_DEPTH_MAX)?;
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn predicate(&mut self) -> Result<Spanned<Condition>, SyntaxError> {
        if self.at_symbol(Symbol::LeftParen) {
            return self.nested(|parser| {
                parser.advance()?;
                let inner = parser.or_condition()?;
                parser.expect_symbol(Symbol::RightParen)?;
                Ok(inner)
            });
        }
        self.comparisons += 1;
        self.limit("comparisons in a condition", self.comparisons, COMPARISONS_MAX)?;
        self.spanned(|parser| {
            if parser.eat(Keyword::Exists)? {
                let has_parentheses = parser.eat_symbol(Symbol::LeftParen)?;
                let field = parser.field()?;
                if has_parentheses {
                    parser.expect_symbol(Symbol::RightParen)?;
                }
                return Ok(Condition::Exists(field));
            }
            let operand = parser.operand()?;
            parser.comparison(operand)
        })
    }

    /// What stands behind the left operand.
    fn comparison(&mut self, left: Spanned<Operand>) -> Result<Condition, SyntaxError> {
        for (symbol, operator) in COMPARISONS {
            if self.token.kind == TokenKind::Symbol(*symbol) {
                self.advance()?;
                let right = self.operand()?;
                return Ok(Condition::Compare { left, operator: *operator, right });
            }
        }
        self.note(Expected::Thing("a comparison"));
        if self.eat(Keyword::Is)? {
            let is_negated = self.eat(Keyword::Not)?;
            self.expect(Keyword::Null)?;
            return Ok(Condition::IsNull { operand: left, is_negated });
        }
        if let Operand::Field(field) = &left.node
            && self.eat(Keyword::Exists)?
        {
            return Ok(Condition::Exists(Spanned::new(field.clone(), left.span)));
        }
        let is_negated = self.eat(Keyword::Not)?;
        if self.eat(Keyword::In)? {
            self.expect_symbol(Symbol::LeftParen)?;
            let list = self.list("values of an IN list", LIST_MAX, Self::operand)?;
            self.expect_symbol(Symbol::RightParen)?;
            return Ok(Condition::In { operand: left, is_negated, list });
        }
        if self.eat(Keyword::Like)? {
            let pattern = self.text_input("a pattern")?;
            return Ok(Condition::Like { operand: left, is_negated, pattern });
        }
        if self.eat(Keyword::Between)? {
            let low = self.operand()?;
            self.expect(Keyword::And)?;
            let high = self.operand()?;
            return Ok(Condition::Between { operand: left, is_negated, low, high });
        }
        Err(self.unexpected())
    }

    fn operand(&mut self) -> Result<Spanned<Operand>, SyntaxError> {
        let span = self.token.span;
        if let Some(index) = self.parameter(ParameterRole::Operand)? {
            return Ok(Spanned::new(Operand::Parameter(index), span));
        }
        if let Some(text) = self.quoted_text()? {
            return Ok(Spanned::new(Operand::Text(text), span));
        }
        if let Some(bytes) = self.bytes()? {
            return Ok(Spanned::new(Operand::Bytes(bytes), span));
        }
        if self.token.kind == TokenKind::Number {
            let digits = self.text().to_owned();
            self.advance()?;
            return Ok(Spanned::new(Operand::Number(digits), span));
        }
        match self.keyword() {
            Some(keyword @ (Keyword::True | Keyword::False)) => {
                self.advance()?;
                return Ok(Spanned::new(Operand::Bool(keyword == Keyword::True), span));
            }
            Some(Keyword::Null) => {
                let error = self.missing("an operand");
                return Err(error.hint("nothing equals NULL; write IS NULL or IS NOT NULL"));
            }
            _ => {}
        }
        match self.field_if_any()? {
            Some(field) => Ok(field.map(Operand::Field)),
            None => Err(self.missing("an operand")),
        }
    }
}
