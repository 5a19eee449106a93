//! Component lists of vectors: `[1, -2.5, 3e-2]`, as f32, the type that collections hold.

use crate::{
    error::{Expected, Problem, SyntaxError},
    json,
    limits::VECTOR_DIM_MAX,
    token::Span,
};

/// Reads the list that starts at `start`, behind blanks, and says where it ends.
pub(crate) fn scan(text: &str, start: usize) -> Result<(Vec<f32>, usize), SyntaxError> {
    let mut components = Vec::new();
    let mut position = skip_blanks(text, start);
    if byte_at(text, position) != Some(b'[') {
        return Err(unexpected(text, position, vec![Expected::Symbol("[")]));
    }
    position += 1;
    loop {
        position = skip_blanks(text, position);
        if components.len() == VECTOR_DIM_MAX {
            let problem =
                Problem::LimitExceeded { what: "components of a vector", max: VECTOR_DIM_MAX };
            return Err(SyntaxError::new(problem, Span::new(start, position)));
        }
        let (component, end) = number(text, position)?;
        components.push(component);
        position = skip_blanks(text, end);
        match byte_at(text, position) {
            Some(b',') => position += 1,
            Some(b']') => return Ok((components, position + 1)),
            _ => {
                let expected = vec![Expected::Symbol(","), Expected::Symbol("]")];
                return Err(unexpected(text, position, expected));
            }
        }
    }
}

/// Reads a whole text.
pub(crate) fn parse(text: &str) -> Result<Vec<f32>, SyntaxError> {
    let (components, end) = scan(text, 0)?;
    let rest = skip_blanks(text, end);
    if rest < text.len() {
        return Err(unexpected(text, rest, vec![Expected::Thing("the end of the vector")]));
    }
    Ok(components)
}

fn number(text: &str, position: usize) -> Result<(f32, usize), SyntaxError> {
    let end = json::scan_number(text, position)
        .ok_or_else(|| unexpected(text, position, vec![Expected::Thing("a number")]))?;
    let found = text.get(position..end).unwrap_or_default();
    match found.parse::<f32>() {
        Ok(component) if component.is_finite() => Ok((component, end)),
        _ => {
            let problem = Problem::ComponentOutOfRange { found: found.to_owned() };
            Err(SyntaxError::new(problem, Span::new(position, end)))
        }
    }
}

fn byte_at(text: &str, position: usize) -> Option<u8> {
    text.as_bytes().get(position).copied()
}

fn skip_blanks(text: &str, position: usize) -> usize {
    let rest = text.as_bytes().get(position..).unwrap_or_default();
    position + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

fn unexpected(text: &str, position: usize, expected: Vec<Expected>) -> SyntaxError {
    let rest = text.get(position..).unwrap_or_default();
    let word = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
    let length = word.max(rest.chars().next().map_or(0, char::len_utf8));
    let found = match rest.get(..length) {
        None | Some("") => "the end".to_owned(),
        Some(found) => format!("\"{}\"", found.chars().take(40).collect::<String>()),
    };
    SyntaxError::new(
        Problem::Unexpected { expected, found },
        Span::new(position, position + length),
    )
}
