//! Templates of numbers: `FM9,999.00`, `S999`, `RN`.

use cortex_shard_api::{ValueError, ValueErrorKind, value::Numeric};

use super::{ordinal, roman};
use crate::kernels::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Nine,
    Zero,
    Point,
    Comma,
    /// S at its place in the template.
    Sign,
    Minus,
    Plus,
    SignAlways,
    Currency,
    Ordinal {
        upper: bool,
    },
    Literal(char),
}

/// Where the sign goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SignStyle {
    /// Before the first digit; a blank if positive.
    Before,
    /// S in front of the digits: + or - before the first digit.
    Explicit,
    /// S behind the digits.
    Behind,
    /// `<12>`.
    Brackets,
    /// MI or SG stand in the template themselves; PL alone leaves a minus before the digits.
    Placed,
}

#[derive(Debug)]
struct Template {
    pieces: Vec<Piece>,
    fill: bool,
    before: usize,
    after: usize,
    /// Digits behind V: the number is multiplied by as many tens.
    shift: usize,
    has_point: bool,
    style: SignStyle,
    /// RN: upper case or not.
    roman: Option<bool>,
    exponent: bool,
    /// First 0 before the point, and the last 0 behind it (counted from 1).
    zero_start: Option<usize>,
    zero_end: usize,
}

fn read(template: &str) -> Result<Template> {
    let mut t = Template {
        pieces: Vec::new(),
        fill: true,
        before: 0,
        after: 0,
        shift: 0,
        has_point: false,
        style: SignStyle::Before,
        roman: None,
        exponent: false,
        zero_start: None,
        zero_end: 0,
    };
    let mut shifted = false;
    let mut rest = template;
    while let Some(c) = rest.chars().next() {
        let starts =
            |word: &str| rest.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
        let mut length = c.len_utf8();
        if starts("FM") {
            t.fill = false;
            length = 2;
        } else if starts("RN") {
            t.roman = Some(c == 'R');
            length = 2;
        } else if starts("EEEE") {
            t.exponent = true;
            length = 4;
        } else if starts("MI") {
            t.pieces.push(Piece::Minus);
            t.style = SignStyle::Placed;
            length = 2;
        } else if starts("PL") {
            t.pieces.push(Piece::Plus);
            length = 2;
        } else if starts("SG") {
            t.pieces.push(Piece::SignAlways);
            t.style = SignStyle::Placed;
            length = 2;
        } else if starts("PR") {
            t.style = SignStyle::Brackets;
            length = 2;
        } else if starts("TH") {
            t.pieces.push(Piece::Ordinal { upper: c == 'T' });
            length = 2;
        } else {
            match c {
                '9' | '0' => {
                    if t.has_point {
                        t.after += 1;
                        if c == '0' {
                            t.zero_end = t.after;
                        }
                    } else {
                        if shifted {
                            t.shift += 1;
                        }
                        if c == '0' && t.zero_start.is_none() {
                            t.zero_start = Some(t.before);
                        }
                        t.before += 1;
                    }
                    t.pieces.push(if c == '0' { Piece::Zero } else { Piece::Nine });
                }
                '.' | 'D' | 'd' => {
                    if t.has_point {
                        return syntax("multiple decimal points");
                    }
                    t.has_point = true;
                    t.pieces.push(Piece::Point);
                }
                ',' | 'G' | 'g' => t.pieces.push(Piece::Comma),
                'V' | 'v' => shifted = true,
                'S' | 's' => {
                    if t.before == 0 && t.after == 0 {
                        t.style = SignStyle::Explicit;
                    } else {
                        t.style = SignStyle::Behind;
                        t.pieces.push(Piece::Sign);
                    }
                }
                'L' | 'l' => t.pieces.push(Piece::Currency),
                '"' => {
                    let inside = rest[1..].split('"').next().unwrap_or("");
                    t.pieces.extend(inside.chars().map(Piece::Literal));
                    length = (inside.len() + 2).min(rest.len());
                }
                '\\' => {
                    if let Some(next) = rest[1..].chars().next() {
                        t.pieces.push(Piece::Literal(next));
                        length += next.len_utf8();
                    }
                }
                c => t.pieces.push(Piece::Literal(c)),
            }
        }
        rest = &rest[length..];
    }
    Ok(t)
}

fn syntax<T>(message: &str) -> Result<T> {
    Err(ValueError::new(ValueErrorKind::InvalidParameter, message))
}

/// A number by its template.
pub(super) fn format(value: &Numeric, template: &str) -> Result<String> {
    let t = read(template)?;
    if let Some(upper) = t.roman {
        return Ok(roman_form(value, upper, t.fill));
    }
    if t.exponent {
        return Ok(scientific(value, &t));
    }
    let mut number = value.clone();
    for _ in 0..t.shift {
        number = number.mul(&Numeric::from_i64(10))?;
    }
    let rounded = number.round(t.after as i32);
    let text = rounded.to_string();
    let finite = rounded.is_finite();
    let negative = text.starts_with('-') && text.bytes().any(|b| (b'1'..=b'9').contains(&b));
    let plain = text.trim_start_matches('-');
    let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
    // A lone zero before the point shows only where a 0 asks for it.
    let mut whole =
        if whole == "0" && (t.has_point && t.after > 0 || t.before == 0) { "" } else { whole }
            .to_owned();
    let mut fraction = format!("{fraction:0<width$}", width = t.after);
    if !finite || whole.len() > t.before {
        whole = "#".repeat(t.before);
        fraction = "#".repeat(t.after);
    }
    Ok(lay_out(&t, &whole, &fraction, negative))
}

fn lay_out(t: &Template, whole: &str, fraction: &str, negative: bool) -> String {
    let spaces = t.before - whole.len();
    // Without filling, zeros at the end of the fraction go, but for those that 0 asks for.
    let kept = if t.fill {
        t.after
    } else {
        fraction.trim_end_matches('0').len().max(t.zero_end).min(t.after)
    };
    // Where all of the fraction goes, a zero stays.
    let zero = t.before > 0 && whole.is_empty() && kept == 0;
    let (whole, spaces) = if zero { ("0", t.before - 1) } else { (whole, spaces) };
    let sign = match (t.style, negative) {
        (SignStyle::Before, true) => "-",
        (SignStyle::Explicit, true) => "-",
        (SignStyle::Explicit, false) => "+",
        (SignStyle::Brackets, true) => "<",
        (SignStyle::Before | SignStyle::Brackets, false) if t.fill => " ",
        _ => "",
    };
    let mut out = String::new();
    let mut sign_written = false;
    let mut at = 0;
    let mut behind = None;
    for piece in &t.pieces {
        match piece {
            Piece::Nine | Piece::Zero => match &mut behind {
                None => {
                    let from_zero = t.zero_start.is_some_and(|start| at >= start);
                    let digit = if at >= spaces {
                        whole.get(at - spaces..at - spaces + 1)
                    } else if from_zero {
                        Some("0")
                    } else {
                        None
                    };
                    match digit {
                        Some(digit) => {
                            if !sign_written {
                                out.push_str(sign);
                                sign_written = true;
                            }
                            out.push_str(digit);
                        }
                        None if t.fill => out.push(' '),
                        None => {}
                    }
                    at += 1;
                }
                Some(position) => {
                    if *position < kept {
                        out.push_str(&fraction[*position..*position + 1]);
                    }
                    *position += 1;
                }
            },
            Piece::Point => {
                if !sign_written {
                    out.push_str(sign);
                    sign_written = true;
                }
                if t.after > 0 {
                    out.push('.');
                }
                behind = Some(0);
            }
            Piece::Comma => {
                if behind.is_some() || sign_written {
                    out.push(',');
                } else if t.fill {
                    out.push(' ');
                }
            }
            Piece::Sign => {
                sign_written = true;
                out.push(if negative { '-' } else { '+' });
            }
            Piece::SignAlways => out.push(if negative { '-' } else { '+' }),
            Piece::Minus if negative => out.push('-'),
            Piece::Plus if !negative => out.push('+'),
            Piece::Minus | Piece::Plus | Piece::Currency if t.fill => out.push(' '),
            Piece::Minus | Piece::Plus | Piece::Currency => {}
            Piece::Ordinal { upper } => {
                if !negative && !t.has_point {
                    let ending = ordinal(whole);
                    out.push_str(&if *upper {
                        ending.to_ascii_uppercase()
                    } else {
                        ending.to_owned()
                    });
                }
            }
            Piece::Literal(c) => out.push(*c),
        }
    }
    if t.style == SignStyle::Brackets {
        if negative {
            out.push('>');
        } else if t.fill {
            out.push(' ');
        }
    }
    out
}

fn roman_form(value: &Numeric, upper: bool, fill: bool) -> String {
    let numeral = value.round(0).to_i64().ok().and_then(roman).unwrap_or_else(|| "#".repeat(15));
    let numeral = if upper { numeral } else { numeral.to_ascii_lowercase() };
    if fill { format!("{numeral:>15}") } else { numeral }
}

fn scientific(value: &Numeric, t: &Template) -> String {
    if !value.is_finite() {
        return format!(" {}", "#".repeat(t.before + t.after + 6));
    }
    let text = value.to_string();
    let digits = text.trim_start_matches('-').replace('.', "");
    let significant = digits.trim_start_matches('0');
    let whole = text.trim_start_matches('-').split('.').next().unwrap_or("").len() as i64;
    let mut exponent = if significant.is_empty() {
        0
    } else {
        whole - 1 - (digits.len() - significant.len()) as i64
    };
    // One digit before the point: round the digits as an integer with `after` more.
    let shift = t.after as i64 - exponent;
    let scaled = |shift: i64| {
        let ten = Numeric::from_i64(10);
        let mut number = value.abs();
        for _ in 0..shift.unsigned_abs() {
            let next = if shift > 0 { number.mul(&ten) } else { number.div(&ten) };
            match next {
                Ok(next) => number = next,
                Err(_) => break,
            }
        }
        number.round(0).to_string()
    };
    let mut mantissa = scaled(shift);
    if mantissa.len() > t.after + 1 {
        exponent += 1;
        mantissa.pop();
    }
    let mantissa = format!("{mantissa:0<width$}", width = t.after + 1);
    let sign = if value.is_negative() {
        "-"
    } else if t.fill {
        " "
    } else {
        ""
    };
    let point = if t.after > 0 { "." } else { "" };
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    format!(
        "{sign}{}{point}{}e{exponent_sign}{:02}",
        &mantissa[..1],
        &mantissa[1..],
        exponent.unsigned_abs()
    )
}

/// A number out of a text that follows a template.
pub(super) fn parse(input: &str, template: &str) -> Result<Numeric> {
    let t = read(template)?;
    let mut negative = false;
    let mut digits = String::new();
    let (mut before, mut after) = (0, 0);
    let mut seen_point = false;
    for c in input.chars() {
        match c {
            '-' | '<' => negative = true,
            '0'..='9' if seen_point && after < t.after => {
                digits.push(c);
                after += 1;
            }
            '0'..='9' if !seen_point && before < t.before => {
                digits.push(c);
                before += 1;
            }
            '.' if t.has_point && !seen_point => {
                seen_point = true;
                digits.push('.');
            }
            '.' => break,
            _ => {}
        }
    }
    if before + after == 0 {
        return Err(ValueError::invalid_text("numeric", input.trim()));
    }
    let mut number = Numeric::parse(digits.trim_end_matches('.'))?;
    for _ in 0..t.shift {
        number = number.div(&Numeric::from_i64(10))?;
    }
    Ok(if negative { number.neg() } else { number })
}
