//! Durations: a whole number and its unit, in milliseconds.

use std::fmt;

use crate::{
    error::{Problem, SyntaxError},
    limits::DURATION_MS_MAX,
    token::Span,
};

/// Longest first, so that printing takes the first that divides.
const UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration {
    pub ms: u64,
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, ms)| self.ms.is_multiple_of(*ms) && self.ms > 0);
        let (name, ms) = unit.copied().unwrap_or(("ms", 1));
        write!(f, "{}{name}", self.ms / ms)
    }
}

/// The duration that digits with letters mean.
pub(crate) fn parse(text: &str, span: Span) -> Result<Duration, SyntaxError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
    let (Some((_, factor)), false) = (factor, number.is_empty()) else {
        let problem = Problem::InvalidDuration { found: text.to_owned() };
        return Err(SyntaxError::new(problem, span)
            .hint("a whole number and its unit, without a blank: 500ms, 30s, 5m, 1h, 1d"));
    };
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor));
    match ms {
        Some(ms @ 1..=DURATION_MS_MAX) => Ok(Duration { ms }),
        _ => Err(SyntaxError::new(Problem::DurationOutOfRange, span)),
    }
}
