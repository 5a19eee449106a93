//! A little reader of SQL expressions for tests: literals with types, calls, one operator at a time, casts.
//! Nested operators need parentheses, for there is no precedence.

use cortex_shard_api::{Datum, SqlType, TypeMod, ValueError, value::text::parse};

use crate::{
    kernels::Implementation,
    registry::{
        CastContext, ResolveError, ResolvedCall, bound_call, can_cast, resolve_array_operator,
        resolve_function, resolve_operator, type_by_name,
    },
    scalar,
    session::EvalContext,
};

/// What went wrong: the message is what the tests compare.
#[derive(Debug)]
pub(super) enum Failure {
    Resolve(ResolveError),
    Value(ValueError),
    Syntax(String),
}

impl Failure {
    pub(super) fn message(&self) -> String {
        match self {
            Failure::Resolve(error) => error.to_string(),
            Failure::Value(error) => error.to_string(),
            Failure::Syntax(message) => format!("syntax: {message}"),
        }
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Failure {
        Failure::Resolve(error)
    }
}

impl From<ValueError> for Failure {
    fn from(error: ValueError) -> Failure {
        Failure::Value(error)
    }
}

pub(super) struct Reader<'a> {
    rest: &'a str,
    context: &'a EvalContext,
}

type Typed = (Datum, SqlType);

/// The value and type of an expression.
pub(super) fn evaluate(text: &str, context: &EvalContext) -> Result<Typed, Failure> {
    let mut reader = Reader { rest: text, context };
    let value = reader.expression()?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(Failure::Syntax(format!("unread: {}", reader.rest))),
    }
}

const OPERATOR_CHARS: &str = "+-*/<>=~!@#%^&|`?";

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn eat(&mut self, token: &str) -> bool {
        self.peek();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn operator(&mut self) -> Option<String> {
        self.peek();
        let length = self.rest.find(|c| !OPERATOR_CHARS.contains(c)).unwrap_or(self.rest.len());
        if length == 0 {
            return None;
        }
        let (operator, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(operator.to_owned())
    }

    fn expression(&mut self) -> Result<Typed, Failure> {
        if let Some(operator) = self.operator() {
            let operand = self.operand()?;
            let call = resolve_operator(&operator, None, operand.1)?;
            return self.call(&call, vec![operand]);
        }
        let left = self.operand()?;
        let Some(operator) = self.operator() else { return Ok(left) };
        for (word, all) in [("ANY", false), ("ALL", true)] {
            if self.eat(word) {
                let right = self.operand()?;
                let call = resolve_array_operator(&operator, left.1, right.1, all)?;
                return self.call(&call, vec![left, right]);
            }
        }
        let right = self.operand()?;
        let call = resolve_operator(&operator, Some(left.1), right.1)?;
        self.call(&call, vec![left, right])
    }

    fn call(&mut self, call: &ResolvedCall, args: Vec<Typed>) -> Result<Typed, Failure> {
        let values = args
            .into_iter()
            .zip(&call.arg_types)
            .map(|((value, from), to)| scalar::coerce(value, from, *to, self.context))
            .collect::<Result<Vec<_>, _>>()?;
        let bound = bound_call(&call.signature)
            .ok_or_else(|| Failure::Syntax(format!("no signature {}", call.signature)))?;
        assert_eq!(bound.returns, call.returns, "{}", call.signature);
        if matches!(bound.implementation, Implementation::Set(_)) {
            let rows = scalar::set_returning(&call.signature, &values, self.context)?;
            // As ARRAY(SELECT f(...)) would.
            let elements = rows.into_iter().map(|mut row| row.remove(0)).collect();
            return Ok((
                crate::kernels::make_array(call.returns, elements),
                call.returns.array().unwrap_or(call.returns),
            ));
        }
        Ok((scalar::dispatch(&bound, &values, self.context)?, call.returns))
    }

    fn operand(&mut self) -> Result<Typed, Failure> {
        let mut value = self.primary()?;
        while self.eat("::") {
            let name = self.type_name();
            let to = type_of(&name)?;
            if !can_cast(value.1, to.ty, CastContext::Explicit) {
                return Err(Failure::Syntax(format!(
                    "cannot cast type {} to {}",
                    value.1.sql_name(),
                    to.ty.sql_name()
                )));
            }
            let from = TypeMod::plain(value.1);
            value = (scalar::cast(value.0, from, to, true, self.context)?, to.ty);
        }
        Ok(value)
    }

    /// A type's name with modifier and brackets: `numeric(10,2)`, `int4[]`.
    fn type_name(&mut self) -> String {
        self.peek();
        let mut depth = 0;
        let length = self
            .rest
            .char_indices()
            .find(|(_, c)| {
                match c {
                    '(' => depth += 1,
                    ')' if depth > 0 => {
                        depth -= 1;
                        return false;
                    }
                    _ => {}
                }
                !(c.is_alphanumeric()
                    || *c == '_'
                    || *c == '['
                    || *c == ']'
                    || *c == '"'
                    || depth > 0)
            })
            .map_or(self.rest.len(), |(at, _)| at);
        let (name, rest) = self.rest.split_at(length);
        self.rest = rest;
        name.to_owned()
    }

    fn primary(&mut self) -> Result<Typed, Failure> {
        if self.eat("(") {
            let value = self.expression()?;
            return if self.eat(")") { Ok(value) } else { Err(Failure::Syntax("no )".to_owned())) };
        }
        match self.peek() {
            Some('\'') => Ok((Datum::Text(self.literal()?.into()), SqlType::Unknown)),
            Some(c) if c.is_ascii_digit() => self.number(),
            Some(_) => self.named(),
            None => Err(Failure::Syntax("nothing".to_owned())),
        }
    }

    fn literal(&mut self) -> Result<String, Failure> {
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c != '\'' {
                out.push(c);
            } else if matches!(chars.peek(), Some((_, '\''))) {
                chars.next();
                out.push('\'');
            } else {
                self.rest = &self.rest[at + 1..];
                return Ok(out);
            }
        }
        Err(Failure::Syntax("unterminated literal".to_owned()))
    }

    fn number(&mut self) -> Result<Typed, Failure> {
        let length =
            self.rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        let ty = if digits.contains('.') {
            SqlType::Numeric
        } else if digits.parse::<i32>().is_ok() {
            SqlType::Int4
        } else if digits.parse::<i64>().is_ok() {
            SqlType::Int8
        } else {
            SqlType::Numeric
        };
        Ok((parse(ty, digits, &self.context.settings)?, ty))
    }

    /// NULL, `true`, `type 'literal'`, `f(...)`.
    fn named(&mut self) -> Result<Typed, Failure> {
        let length = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '"'))
            .unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(length);
        if name.is_empty() {
            return Err(Failure::Syntax(format!("what is {}", self.rest)));
        }
        self.rest = rest;
        match name {
            "NULL" => return Ok((Datum::Null, SqlType::Unknown)),
            "true" | "false" => return Ok((Datum::Bool(name == "true"), SqlType::Bool)),
            _ => {}
        }
        if self.peek() == Some('\'') {
            let to = type_of(name)?;
            let literal = Datum::Text(self.literal()?.into());
            let from = TypeMod::plain(SqlType::Unknown);
            return Ok((scalar::cast(literal, from, to, true, self.context)?, to.ty));
        }
        let name = name.trim_matches('"').to_owned();
        let mut args = Vec::new();
        if self.eat("(") && !self.eat(")") {
            if name == "extract" {
                let unit = self.type_name();
                args.push((Datum::Text(unit.into()), SqlType::Text));
                self.eat("from");
            }
            loop {
                args.push(self.expression()?);
                if !self.eat(",") {
                    break;
                }
            }
            if !self.eat(")") {
                return Err(Failure::Syntax("no ) after arguments".to_owned()));
            }
        }
        let types = args.iter().map(|(_, ty)| *ty).collect::<Vec<_>>();
        let call = resolve_function(&name, &types)?;
        self.call(&call, args)
    }
}

fn type_of(name: &str) -> Result<TypeMod, Failure> {
    let unknown = || Failure::Syntax(format!("type {name}"));
    let (base, modifier) = match name.split_once('(') {
        Some((base, rest)) => (base, rest.strip_suffix(')')),
        None => (name, None),
    };
    let ty = type_by_name(base).ok_or_else(unknown)?;
    let typmod = match modifier {
        None => -1,
        Some(list) => {
            let numbers =
                list.split(',').filter_map(|n| n.trim().parse::<i32>().ok()).collect::<Vec<_>>();
            match (ty, &numbers[..]) {
                (SqlType::Numeric, [p]) => (p << 16) + 4,
                (SqlType::Numeric, [p, s]) => ((p << 16) | s) + 4,
                (SqlType::Varchar | SqlType::Bpchar, [n]) => n + 4,
                (_, [n]) => *n,
                _ => return Err(unknown()),
            }
        }
    };
    Ok(TypeMod { ty, typmod })
}
