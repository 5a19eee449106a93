//! Ordered-set aggregates: percentile_cont, percentile_disc, mode. The last argument is what WITHIN GROUP orders.

use cortex_shard_api::{
    Datum, SqlType, ValueError, ValueErrorKind,
    value::{ArrayValue, Interval},
};

use super::{
    Spec,
    saved::{State, heap_size, put_datum, put_u64, take_datum, take_u64},
};
use crate::{
    kernels::{
        datetime::{add_intervals, multiply_interval},
        float,
    },
    scalar::compare,
};

#[derive(Clone, Copy, Debug)]
enum Pick {
    Continuous,
    Discrete,
    Mode,
}

pub(super) fn state(spec: &Spec) -> Option<Box<dyn State>> {
    let pick = match spec.name.as_str() {
        "percentile_cont" => Pick::Continuous,
        "percentile_disc" => Pick::Discrete,
        "mode" => Pick::Mode,
        _ => return None,
    };
    let ty = *spec.args.last()?;
    let direct = (spec.args.len() > 1).then(|| spec.args[0]);
    Some(Box::new(OrderedSet {
        pick,
        ty,
        direct,
        returns: spec.returns,
        descending: spec.order.first().is_some_and(|order| !order.ascending),
        fraction: Datum::Null,
        values: Vec::new(),
        bytes: 0,
    }))
}

#[derive(Debug)]
struct OrderedSet {
    pick: Pick,
    ty: SqlType,
    /// The type of the fraction: float8 or an array of it.
    direct: Option<SqlType>,
    returns: SqlType,
    descending: bool,
    fraction: Datum,
    values: Vec<Datum>,
    bytes: usize,
}

impl OrderedSet {
    fn push(&mut self, value: Datum) {
        if !matches!(value, Datum::Null) {
            self.bytes += size_of::<Datum>() + heap_size(&value);
            self.values.push(value);
        }
    }

    fn sorted(&self) -> Vec<&Datum> {
        let mut values = self.values.iter().collect::<Vec<_>>();
        values.sort_by(|a, b| {
            let order = compare(a, b, self.ty);
            if self.descending { order.reverse() } else { order }
        });
        values
    }

    fn at_fraction(&self, sorted: &[&Datum], fraction: &Datum) -> Result<Datum, ValueError> {
        if matches!(fraction, Datum::Null) {
            return Ok(Datum::Null);
        }
        let fraction = float(fraction)?;
        if !(0.0..=1.0).contains(&fraction) {
            return Err(ValueError::new(
                ValueErrorKind::OutOfRange,
                format!("percentile value {fraction} is not between 0 and 1"),
            ));
        }
        let n = sorted.len();
        if let Pick::Discrete = self.pick {
            let rank = (fraction * n as f64).ceil().max(1.0) as usize;
            return Ok(sorted[rank.min(n) - 1].clone());
        }
        let place = fraction * (n - 1) as f64;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        between(sorted[low], sorted[high], place - low as f64)
    }

    fn mode(&self) -> Datum {
        let sorted = self.sorted();
        let mut best: Option<(&Datum, usize)> = None;
        let mut at = 0;
        while at < sorted.len() {
            let run = sorted[at..]
                .iter()
                .take_while(|value| compare(value, sorted[at], self.ty).is_eq())
                .count();
            if best.is_none_or(|(_, most)| run > most) {
                best = Some((sorted[at], run));
            }
            at += run;
        }
        best.map_or(Datum::Null, |(value, _)| value.clone())
    }
}

/// Linear interpolation between two neighbours.
fn between(low: &Datum, high: &Datum, part: f64) -> Result<Datum, ValueError> {
    match (low, high) {
        (Datum::Interval(low), Datum::Interval(high)) => {
            let distance = add_intervals(
                *high,
                Interval { months: -low.months, days: -low.days, micros: -low.micros },
            )?;
            Ok(Datum::Interval(add_intervals(*low, multiply_interval(distance, part)?)?))
        }
        _ => {
            let (low, high) = (float(low)?, float(high)?);
            Ok(Datum::Float8(if part == 0.0 { low } else { low + part * (high - low) }))
        }
    }
}

impl State for OrderedSet {
    fn update(&mut self, args: &[Datum]) -> Result<(), ValueError> {
        if self.direct.is_some() && matches!(self.fraction, Datum::Null) {
            self.fraction = args[0].clone();
        }
        self.push(args[usize::from(self.direct.is_some())].clone());
        Ok(())
    }

    fn save(&self, out: &mut Vec<u8>) {
        if let Some(ty) = self.direct {
            put_datum(out, &self.fraction, ty);
        }
        put_u64(out, self.values.len() as u64);
        for value in &self.values {
            put_datum(out, value, self.ty);
        }
    }

    fn merge(&mut self, saved: &mut &[u8]) -> Result<(), ValueError> {
        if let Some(ty) = self.direct {
            let fraction = take_datum(saved, ty)?;
            if matches!(self.fraction, Datum::Null) {
                self.fraction = fraction;
            }
        }
        for _ in 0..take_u64(saved)? {
            let value = take_datum(saved, self.ty)?;
            self.push(value);
        }
        Ok(())
    }

    fn finish(&self) -> Result<Datum, ValueError> {
        if self.values.is_empty() {
            return Ok(Datum::Null);
        }
        if let Pick::Mode = self.pick {
            return Ok(self.mode());
        }
        let sorted = self.sorted();
        match &self.fraction {
            Datum::Array(fractions) => {
                let elements = fractions
                    .elements
                    .iter()
                    .map(|fraction| self.at_fraction(&sorted, fraction))
                    .collect::<Result<Vec<_>, _>>()?;
                let element = self.returns.element().unwrap_or(self.ty);
                Ok(Datum::Array(Box::new(ArrayValue { element, lower_bound: 1, elements })))
            }
            fraction => self.at_fraction(&sorted, fraction),
        }
    }

    fn size(&self) -> usize {
        self.bytes
    }
}
