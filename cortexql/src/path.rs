//! JSON paths: `$`, then `.name`, `."any name"`, `["any name"]` and `[0]`.

use crate::{
    ast::{JsonPath, Step},
    error::{PathProblem, Problem, SyntaxError},
    lexer::{Quoted, char_at, is_word_start, quoted_char, word_end},
    limits::PATH_STEPS_MAX,
    token::Span,
};

/// Parses a whole text; spans count from its start.
pub(crate) fn parse(text: &str) -> Result<JsonPath, SyntaxError> {
    let mut steps = Vec::new();
    let trimmed = text.trim_end();
    let mut position = text.len() - text.trim_start().len();
    if char_at(trimmed, position) != Some('$') {
        let rooted = text.trim().trim_start_matches('.');
        let error = error(trimmed, PathProblem::Root, position);
        return Err(if rooted.is_empty() { error } else { error.hint(format!("$.{rooted}")) });
    }
    position += 1;
    while position < trimmed.len() {
        if steps.len() == PATH_STEPS_MAX {
            let problem = Problem::LimitExceeded { what: "steps of a path", max: PATH_STEPS_MAX };
            return Err(SyntaxError::new(problem, Span::new(position, trimmed.len())));
        }
        let (step, next) = match char_at(trimmed, position) {
            Some('.') => name(trimmed, position + 1)?,
            Some('[') => index(trimmed, position + 1)?,
            _ => return Err(error(trimmed, PathProblem::Step, position)),
        };
        steps.push(step);
        position = next;
    }
    Ok(JsonPath { steps })
}

fn error(text: &str, problem: PathProblem, position: usize) -> SyntaxError {
    let length = char_at(text, position).map_or(0, char::len_utf8);
    SyntaxError::new(Problem::InvalidPath(problem), Span::new(position, position + length))
}

fn name(text: &str, position: usize) -> Result<(Step, usize), SyntaxError> {
    match char_at(text, position) {
        Some('"') => quoted_name(text, position),
        Some(first) if is_word_start(first) => {
            let end = word_end(text, position);
            let name = text.get(position..end).unwrap_or_default();
            Ok((Step::Field(name.to_owned()), end))
        }
        Some('*') => Err(error(text, PathProblem::Wildcard, position)),
        _ => Err(error(text, PathProblem::Name, position)),
    }
}

fn quoted_name(text: &str, start: usize) -> Result<(Step, usize), SyntaxError> {
    let mut name = String::new();
    let mut position = start + 1;
    loop {
        match quoted_char(text, position, '"')? {
            Quoted::Char(character, next) => {
                name.push(character);
                position = next;
            }
            Quoted::Close(end) => return Ok((Step::Field(name), end)),
            Quoted::End => {
                let problem = Problem::UnterminatedText { quote: '"' };
                return Err(SyntaxError::new(problem, Span::new(start, text.len())));
            }
        }
    }
}

fn index(text: &str, position: usize) -> Result<(Step, usize), SyntaxError> {
    let rest = text.get(position..).unwrap_or_default();
    let (step, end) = match rest.chars().next() {
        Some('"') => quoted_name(text, position)?,
        Some('0'..='9') => {
            let end = position + rest.bytes().take_while(u8::is_ascii_digit).count();
            let digits = text.get(position..end).unwrap_or_default();
            let index = digits.parse::<i32>().ok().and_then(|index| u32::try_from(index).ok());
            let index = index.ok_or_else(|| {
                let problem = Problem::InvalidPath(PathProblem::IndexRange);
                SyntaxError::new(problem, Span::new(position, end))
            })?;
            (Step::Index(index), end)
        }
        Some('*') => return Err(error(text, PathProblem::Wildcard, position)),
        _ => return Err(error(text, PathProblem::Index, position)),
    };
    if char_at(text, end) != Some(']') {
        return Err(error(text, PathProblem::Close, end));
    }
    Ok((step, end + 1))
}
