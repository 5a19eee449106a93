//! States of one value: sums, extremes, boolean and bit aggregates. NULLs do not count.

use cortex_shard_api::{Datum, SqlType, ValueError};

use super::{
    Spec,
    saved::{State, heap_size, put_datum, take_datum},
};
use crate::{kernels::datetime::add_intervals, scalar::compare};

#[derive(Clone, Copy, Debug)]
enum Step {
    Sum,
    Min,
    Max,
    And,
    Or,
    BitAnd,
    BitOr,
    BitXor,
}

pub(super) fn state(spec: &Spec) -> Option<Box<dyn State>> {
    let [ty] = spec.args[..] else { return None };
    let step = match spec.name.as_str() {
        "sum" if matches!(ty, SqlType::Numeric | SqlType::Interval) => Step::Sum,
        "sum" if ty.is_number() => return Some(Box::new(NumberSum::new(ty, spec.returns))),
        "min" => Step::Min,
        "max" => Step::Max,
        "bool_and" | "every" => Step::And,
        "bool_or" => Step::Or,
        "bit_and" => Step::BitAnd,
        "bit_or" => Step::BitOr,
        "bit_xor" => Step::BitXor,
        _ => return None,
    };
    Some(Box::new(Folded { step, ty, value: Datum::Null }))
}

/// A value folded with each next one.
#[derive(Debug)]
struct Folded {
    step: Step,
    ty: SqlType,
    value: Datum,
}

impl Folded {
    fn fold(&mut self, next: Datum) -> Result<(), ValueError> {
        if matches!(next, Datum::Null) {
            return Ok(());
        }
        if matches!(self.value, Datum::Null) {
            self.value = next;
            return Ok(());
        }
        let folded = match (self.step, &self.value, &next) {
            (Step::Sum, Datum::Numeric(sum), Datum::Numeric(next)) => {
                Datum::Numeric(sum.add(next)?)
            }
            (Step::Sum, Datum::Interval(sum), Datum::Interval(next)) => {
                Datum::Interval(add_intervals(*sum, *next)?)
            }
            (Step::Min, value, next) if compare(next, value, self.ty).is_lt() => next.clone(),
            (Step::Max, value, next) if compare(next, value, self.ty).is_gt() => next.clone(),
            (Step::And, Datum::Bool(a), Datum::Bool(b)) => Datum::Bool(*a && *b),
            (Step::Or, Datum::Bool(a), Datum::Bool(b)) => Datum::Bool(*a || *b),
            (Step::BitAnd | Step::BitOr | Step::BitXor, a, b) => self.bits(a, b)?,
            _ => return Ok(()),
        };
        self.value = folded;
        Ok(())
    }

    fn bits(&self, left: &Datum, right: &Datum) -> Result<Datum, ValueError> {
        let (left, right) = (crate::kernels::int(left)?, crate::kernels::int(right)?);
        let bits = match self.step {
            Step::BitAnd => left & right,
            Step::BitOr => left | right,
            _ => left ^ right,
        };
        crate::kernels::make_int(bits, self.ty)
    }
}

impl State for Folded {
    fn update(&mut self, args: &[Datum]) -> Result<(), ValueError> {
        self.fold(args[0].clone())
    }

    fn save(&self, out: &mut Vec<u8>) {
        put_datum(out, &self.value, self.ty);
    }

    fn merge(&mut self, saved: &mut &[u8]) -> Result<(), ValueError> {
        let next = take_datum(saved, self.ty)?;
        self.fold(next)
    }

    fn finish(&self) -> Result<Datum, ValueError> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        heap_size(&self.value)
    }
}

/// `sum(DISTINCT ...)` of integers and floats goes this way.
#[derive(Debug)]
struct NumberSum {
    ty: SqlType,
    returns: SqlType,
    sum: Folded,
}

impl NumberSum {
    fn new(ty: SqlType, returns: SqlType) -> NumberSum {
        let sum = Folded { step: Step::Sum, ty: SqlType::Numeric, value: Datum::Null };
        NumberSum { ty, returns, sum }
    }
}

impl State for NumberSum {
    fn update(&mut self, args: &[Datum]) -> Result<(), ValueError> {
        let context = crate::session::EvalContext::default();
        self.sum.fold(crate::scalar::cast_value(
            args[0].clone(),
            self.ty,
            SqlType::Numeric,
            true,
            &context,
        )?)
    }

    fn save(&self, out: &mut Vec<u8>) {
        self.sum.save(out);
    }

    fn merge(&mut self, saved: &mut &[u8]) -> Result<(), ValueError> {
        self.sum.merge(saved)
    }

    fn finish(&self) -> Result<Datum, ValueError> {
        let context = crate::session::EvalContext::default();
        crate::scalar::cast_value(
            self.sum.value.clone(),
            SqlType::Numeric,
            self.returns,
            true,
            &context,
        )
    }

    fn size(&self) -> usize {
        self.sum.size()
    }
}
