//! What a predicate says about one column (`Domain`), and about a row's columns together (`Constraint`).
//!
//! Lives here: sets of points and ranges over a column's values, their intersection and union. Values are compared by
//! their key encoding, so this agrees with the order of keys by construction. Not here: where the sets come from
//! (`predicate`, `scalar`), what they are used for (`prune`). A set may be too big, never too small.

use std::{cmp::Ordering, collections::BTreeMap};

use cortex_shard_api::{
    Datum, SqlType,
    key::{KeyOrder, encode_datum},
};

/// Spans of a domain at the most. Beyond, the hull is used: an IN list that long is cheaper read as a range than
/// expanded into keys.
pub const SPANS_MAX: usize = 1000;

/// A position between values. `At` is before or after all values that equal `value`.
#[derive(Clone, Debug)]
pub enum Cut {
    Min,
    At { value: Datum, encoded: Vec<u8>, after: bool },
    Max,
}

/// The values between two cuts; never empty, never NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub low: Cut,
    pub high: Cut,
}

/// A set of values of one column, NULL apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Ascending and disjoint.
    spans: Vec<Span>,
    nulls: bool,
}

/// A comparison with a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// The comparison with its sides swapped.
    pub fn flipped(self) -> Comparison {
        match self {
            Comparison::Equal => Comparison::Equal,
            Comparison::NotEqual => Comparison::NotEqual,
            Comparison::Less => Comparison::Greater,
            Comparison::LessOrEqual => Comparison::GreaterOrEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterOrEqual => Comparison::LessOrEqual,
        }
    }
}

impl Cut {
    fn at(value: &Datum, ty: SqlType, after: bool) -> Cut {
        let mut encoded = Vec::new();
        encode_datum(&mut encoded, value, ty, KeyOrder::default());
        Cut::At { value: value.clone(), encoded, after }
    }
}

impl PartialEq for Cut {
    fn eq(&self, other: &Cut) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Cut {}

impl PartialOrd for Cut {
    fn partial_cmp(&self, other: &Cut) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Cut {
    fn cmp(&self, other: &Cut) -> Ordering {
        match (self, other) {
            (Cut::Min, Cut::Min) | (Cut::Max, Cut::Max) => Ordering::Equal,
            (Cut::Min, _) | (_, Cut::Max) => Ordering::Less,
            (Cut::Max, _) | (_, Cut::Min) => Ordering::Greater,
            (
                Cut::At { encoded: left, after: left_after, .. },
                Cut::At { encoded: right, after: right_after, .. },
            ) => left.cmp(right).then(left_after.cmp(right_after)),
        }
    }
}

impl Span {
    const ALL: Span = Span { low: Cut::Min, high: Cut::Max };

    fn new(low: Cut, high: Cut) -> Option<Span> {
        (low < high).then_some(Span { low, high })
    }

    /// The value, if the span holds just one.
    pub fn point(&self) -> Option<&Datum> {
        match (&self.low, &self.high) {
            (
                Cut::At { value, encoded: low, after: false },
                Cut::At { encoded: high, after: true, .. },
            ) if low == high => Some(value),
            _ => None,
        }
    }

    /// Bounded below and above.
    pub fn is_bounded(&self) -> bool {
        !matches!(self.low, Cut::Min) && !matches!(self.high, Cut::Max)
    }
}

impl Domain {
    pub fn everything() -> Domain {
        Domain { spans: vec![Span::ALL], nulls: true }
    }

    pub fn nothing() -> Domain {
        Domain { spans: vec![], nulls: false }
    }

    pub fn null() -> Domain {
        Domain { spans: vec![], nulls: true }
    }

    pub fn not_null() -> Domain {
        Domain { spans: vec![Span::ALL], nulls: false }
    }

    /// The values for which the comparison is true. Comparing with NULL is never true.
    pub fn compare(comparison: Comparison, value: &Datum, ty: SqlType) -> Domain {
        if matches!(value, Datum::Null) {
            return Domain::nothing();
        }
        let (before, after) = (Cut::at(value, ty, false), Cut::at(value, ty, true));
        let spans = match comparison {
            Comparison::Equal => vec![Span::new(before, after)],
            Comparison::NotEqual => {
                vec![Span::new(Cut::Min, before), Span::new(after, Cut::Max)]
            }
            Comparison::Less => vec![Span::new(Cut::Min, before)],
            Comparison::LessOrEqual => vec![Span::new(Cut::Min, after)],
            Comparison::Greater => vec![Span::new(after, Cut::Max)],
            Comparison::GreaterOrEqual => vec![Span::new(before, Cut::Max)],
        };
        Domain { spans: spans.into_iter().flatten().collect(), nulls: false }
    }

    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    pub fn has_nulls(&self) -> bool {
        self.nulls
    }

    pub fn is_everything(&self) -> bool {
        self.nulls && self.spans == [Span::ALL]
    }

    pub fn is_nothing(&self) -> bool {
        !self.nulls && self.spans.is_empty()
    }

    /// Whether something is known of the least or the greatest value: a gap in the middle (`<>`) narrows no search.
    pub fn is_bounded(&self) -> bool {
        let (first, last) = (self.spans.first(), self.spans.last());
        first.is_none_or(|span| !matches!(span.low, Cut::Min))
            || last.is_none_or(|span| !matches!(span.high, Cut::Max))
    }

    /// All values, NULL last, if they can be listed.
    pub fn points(&self) -> Option<Vec<Datum>> {
        let mut points: Vec<Datum> =
            self.spans.iter().map(|span| span.point().cloned()).collect::<Option<_>>()?;
        if self.nulls {
            points.push(Datum::Null);
        }
        Some(points)
    }

    pub fn and(&self, other: &Domain) -> Domain {
        let (mut left, mut right) = (self.spans.iter().peekable(), other.spans.iter().peekable());
        let mut spans = Vec::new();
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            let low = (&a.low).max(&b.low).clone();
            let high = (&a.high).min(&b.high).clone();
            spans.extend(Span::new(low, high));
            if a.high <= b.high {
                left.next()
            } else {
                right.next()
            };
        }
        Domain { spans, nulls: self.nulls && other.nulls }
    }

    pub fn or(&self, other: &Domain) -> Domain {
        Domain::union(vec![self.clone(), other.clone()])
    }

    /// The union of many, in one pass.
    pub fn union(domains: Vec<Domain>) -> Domain {
        let nulls = domains.iter().any(|domain| domain.nulls);
        let mut all: Vec<Span> = domains.into_iter().flat_map(|domain| domain.spans).collect();
        all.sort_by(|a, b| a.low.cmp(&b.low));
        let mut spans: Vec<Span> = Vec::with_capacity(all.len());
        for span in all {
            match spans.last_mut() {
                Some(last) if span.low <= last.high => {
                    if span.high > last.high {
                        last.high = span.high;
                    }
                }
                _ => spans.push(span),
            }
        }
        if spans.len() > SPANS_MAX
            && let (Some(first), Some(last)) = (spans.first(), spans.last())
        {
            spans = vec![Span { low: first.low.clone(), high: last.high.clone() }];
        }
        Domain { spans, nulls }
    }
}

/// What a predicate says about the columns of a row that satisfies it: each column's value is in its domain.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// By column position; a column that is not here may have any value.
    columns: BTreeMap<usize, Domain>,
    /// No row satisfies the predicate.
    never: bool,
}

impl Constraint {
    pub fn everything() -> Constraint {
        Constraint { columns: BTreeMap::new(), never: false }
    }

    pub fn nothing() -> Constraint {
        Constraint { columns: BTreeMap::new(), never: true }
    }

    pub fn column(position: usize, domain: Domain) -> Constraint {
        if domain.is_nothing() {
            return Constraint::nothing();
        }
        if domain.is_everything() {
            return Constraint::everything();
        }
        Constraint { columns: BTreeMap::from([(position, domain)]), never: false }
    }

    pub fn is_everything(&self) -> bool {
        !self.never && self.columns.is_empty()
    }

    pub fn is_nothing(&self) -> bool {
        self.never
    }

    /// What is known of a column; `None` is nothing.
    pub fn domain(&self, position: usize) -> Option<&Domain> {
        self.columns.get(&position)
    }

    pub fn and(mut self, other: Constraint) -> Constraint {
        if self.never || other.never {
            return Constraint::nothing();
        }
        for (position, domain) in other.columns {
            let both = match self.columns.get(&position) {
                Some(known) => known.and(&domain),
                None => domain,
            };
            if both.is_nothing() {
                return Constraint::nothing();
            }
            self.columns.insert(position, both);
        }
        self
    }

    /// Column by column: too big where several columns differ together, never too small.
    pub fn or(self, other: Constraint) -> Constraint {
        Constraint::any(vec![self, other])
    }

    /// The union of many alternatives.
    pub fn any(alternatives: Vec<Constraint>) -> Constraint {
        let mut alternatives: Vec<Constraint> =
            alternatives.into_iter().filter(|alternative| !alternative.never).collect();
        let Some(first) = alternatives.pop() else { return Constraint::nothing() };
        let mut columns = BTreeMap::new();
        for (position, domain) in first.columns {
            let mut domains = vec![domain];
            for alternative in &mut alternatives {
                match alternative.columns.remove(&position) {
                    Some(domain) => domains.push(domain),
                    None => break,
                }
            }
            if domains.len() == alternatives.len() + 1 {
                let union = Domain::union(domains);
                if !union.is_everything() {
                    columns.insert(position, union);
                }
            }
        }
        Constraint { columns, never: false }
    }
}
