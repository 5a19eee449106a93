//! Variance and regression. Integers and numerics exactly, in numeric; floats by Youngs and Cramer's updates, as PostgreSQL 12 and
//! later, so that the last digits agree.

use cortex_shard_api::{Datum, SqlType, ValueError, value::Numeric};

use super::{
    Spec,
    saved::{State, put_datum, put_f64, put_u64, take_datum, take_f64, take_u64},
};
use crate::{kernels::float, scalar::cast_value, session::EvalContext};

pub(super) fn state(spec: &Spec) -> Option<Box<dyn State>> {
    let name = spec.name.as_str();
    if let [ty] = spec.args[..] {
        let (root, sample) = match name {
            "stddev" | "stddev_samp" => (true, true),
            "stddev_pop" => (true, false),
            "variance" | "var_samp" => (false, true),
            "var_pop" => (false, false),
            _ => return None,
        };
        return Some(if matches!(ty, SqlType::Float4 | SqlType::Float8) {
            Box::new(FloatMoments { root, sample, n: 0.0, sx: 0.0, sxx: 0.0 })
        } else {
            Box::new(NumericMoments {
                ty,
                root,
                sample,
                n: 0,
                sum: Numeric::from_i64(0),
                squares: Numeric::from_i64(0),
            })
        });
    }
    let [_, _] = spec.args[..] else { return None };
    let result = match name {
        "corr" => Regression::Corr,
        "covar_pop" => Regression::CovarPop,
        "covar_samp" => Regression::CovarSamp,
        "regr_avgx" => Regression::AvgX,
        "regr_avgy" => Regression::AvgY,
        "regr_count" => Regression::Count,
        "regr_intercept" => Regression::Intercept,
        "regr_r2" => Regression::R2,
        "regr_slope" => Regression::Slope,
        "regr_sxx" => Regression::Sxx,
        "regr_sxy" => Regression::Sxy,
        "regr_syy" => Regression::Syy,
        _ => return None,
    };
    Some(Box::new(Regressed { result, n: 0.0, sx: 0.0, sxx: 0.0, sy: 0.0, syy: 0.0, sxy: 0.0 }))
}

#[derive(Debug)]
struct FloatMoments {
    root: bool,
    sample: bool,
    n: f64,
    sx: f64,
    sxx: f64,
}

impl State for FloatMoments {
    fn update(&mut self, args: &[Datum]) -> Result<(), ValueError> {
        if matches!(args[0], Datum::Null) {
            return Ok(());
        }
        let x = float(&args[0])?;
        self.n += 1.0;
        self.sx += x;
        if self.n > 1.0 {
            let distance = x * self.n - self.sx;
            self.sxx += distance * distance / (self.n * (self.n - 1.0));
        } else if !x.is_finite() {
            self.sxx = f64::NAN;
        }
        Ok(())
    }

    fn save(&self, out: &mut Vec<u8>) {
        for value in [self.n, self.sx, self.sxx] {
            put_f64(out, value);
        }
    }

    fn merge(&mut self, saved: &mut &[u8]) -> Result<(), ValueError> {
        let (n, sx, sxx) = (take_f64(saved)?, take_f64(saved)?, take_f64(saved)?);
        if n == 0.0 {
            return Ok(());
        }
        if self.n == 0.0 {
            (self.n, self.sx, self.sxx) = (n, sx, sxx);
            return Ok(());
        }
        let distance = self.sx / self.n - sx / n;
        let total = self.n + n;
        self.sxx += sxx + self.n * n * distance * distance / total;
        self.n = total;
        self.sx += sx;
        Ok(())
    }

    fn finish(&self) -> Result<Datum, ValueError> {
        let divisor = if self.sample { self.n - 1.0 } else { self.n };
        if divisor <= 0.0 {
            return Ok(Datum::Null);
        }
        let variance = self.sxx / divisor;
        Ok(Datum::Float8(if self.root { variance.sqrt() } else { variance }))
    }

    fn size(&self) -> usize {
        0
    }
}

#[derive(Debug)]
struct NumericMoments {
    ty: SqlType,
    root: bool,
    sample: bool,
    n: u64,
    sum: Numeric,
    squares: Numeric,
}

impl State for NumericMoments {
    fn update(&mut self, args: &[Datum]) -> Result<(), ValueError> {
        let value =
            cast_value(args[0].clone(), self.ty, SqlType::Numeric, true, &EvalContext::default())?;
        if let Datum::Numeric(x) = value {
            self.n += 1;
            self.sum = self.sum.add(&x)?;
            self.squares = self.squares.add(&x.mul(&x)?)?;
        }
        Ok(())
    }

    fn save(&self, out: &mut Vec<u8>) {
        put_u64(out, self.n);
        put_datum(out, &Datum::Numeric(self.sum.clone()), SqlType::Numeric);
        put_datum(out, &Datum::Numeric(self.squares.clone()), SqlType::Numeric);
    }

    fn merge(&mut self, saved: &mut &[u8]) -> Result<(), ValueError> {
        self.n += take_u64(saved)?;
        for sum in [&mut self.sum, &mut self.squares] {
            if let Datum::Numeric(other) = take_datum(saved, SqlType::Numeric)? {
                *sum = sum.add(&other)?;
            }
        }
        Ok(())
    }

    /// (n·Σx² - (Σx)²) / (n·(n or n-1)), as `numeric_stddev_internal`; the root has as many digits as the quotient.
    fn finish(&self) -> Result<Datum, ValueError> {
        let minimum = if self.sample { 1 } else { 0 };
        if self.n <= minimum {
            return Ok(Datum::Null);
        }
        let n = Numeric::from_i64(self.n as i64);
        let numerator = n.mul(&self.squares)?.sub(&self.sum.mul(&self.sum)?)?;
        if numerator <= Numeric::from_i64(0) {
            return Ok(Datum::Numeric(Numeric::from_i64(0)));
        }
        let divisor =
            if self.sample { n.mul(&Numeric::from_i64(self.n as i64 - 1))? } else { n.mul(&n)? };
        let variance = numerator.div(&divisor)?;
        Ok(Datum::Numeric(if self.root {
            variance.sqrt_to(i32::from(variance.scale()))?
        } else {
            variance
        }))
    }

    fn size(&self) -> usize {
        0
    }
}

#[derive(Clone, Copy, Debug)]
enum Regression {
    Corr,
    CovarPop,
    CovarSamp,
    AvgX,
    AvgY,
    Count,
    Intercept,
    R2,
    Slope,
    Sxx,
    Sxy,
    Syy,
}

#[derive(Debug)]
struct Regressed {
    result: Regression,
    n: f64,
    sx: f64,
    sxx: f64,
    sy: f64,
    syy: f64,
    sxy: f64,
}

impl State for Regressed {
    /// Arguments are (y, x), as SQL has them.
    fn update(&mut self, args: &[Datum]) -> Result<(), ValueError> {
        if matches!(args[0], Datum::Null) || matches!(args[1], Datum::Null) {
            return Ok(());
        }
        let (y, x) = (float(&args[0])?, float(&args[1])?);
        self.n += 1.0;
        self.sx += x;
        self.sy += y;
        if self.n > 1.0 {
            let (dx, dy) = (x * self.n - self.sx, y * self.n - self.sy);
            let scale = 1.0 / (self.n * (self.n - 1.0));
            self.sxx += dx * dx * scale;
            self.syy += dy * dy * scale;
            self.sxy += dx * dy * scale;
        } else {
            if !x.is_finite() {
                (self.sxx, self.sxy) = (f64::NAN, f64::NAN);
            }
            if !y.is_finite() {
                (self.syy, self.sxy) = (f64::NAN, f64::NAN);
            }
        }
        Ok(())
    }

    fn save(&self, out: &mut Vec<u8>) {
        for value in [self.n, self.sx, self.sxx, self.sy, self.syy, self.sxy] {
            put_f64(out, value);
        }
    }

    fn merge(&mut self, saved: &mut &[u8]) -> Result<(), ValueError> {
        let mut next = || take_f64(saved);
        let (n, sx, sxx, sy, syy, sxy) = (next()?, next()?, next()?, next()?, next()?, next()?);
        if n == 0.0 {
            return Ok(());
        }
        if self.n == 0.0 {
            (self.n, self.sx, self.sxx, self.sy, self.syy, self.sxy) = (n, sx, sxx, sy, syy, sxy);
            return Ok(());
        }
        let total = self.n + n;
        let (dx, dy) = (self.sx / self.n - sx / n, self.sy / self.n - sy / n);
        self.sxx += sxx + self.n * n * dx * dx / total;
        self.syy += syy + self.n * n * dy * dy / total;
        self.sxy += sxy + self.n * n * dx * dy / total;
        self.n = total;
        self.sx += sx;
        self.sy += sy;
        Ok(())
    }

    fn finish(&self) -> Result<Datum, ValueError> {
        if let Regression::Count = self.result {
            return Ok(Datum::Int8(self.n as i64));
        }
        if self.n < 1.0 {
            return Ok(Datum::Null);
        }
        let value = match self.result {
            Regression::Corr if self.sxx == 0.0 || self.syy == 0.0 => None,
            Regression::Corr => Some(self.sxy / (self.sxx * self.syy).sqrt()),
            Regression::CovarPop => Some(self.sxy / self.n),
            Regression::CovarSamp if self.n < 2.0 => None,
            Regression::CovarSamp => Some(self.sxy / (self.n - 1.0)),
            Regression::AvgX => Some(self.sx / self.n),
            Regression::AvgY => Some(self.sy / self.n),
            Regression::Intercept | Regression::Slope | Regression::R2 if self.sxx == 0.0 => None,
            Regression::Intercept => Some((self.sy - self.sx * self.sxy / self.sxx) / self.n),
            Regression::Slope => Some(self.sxy / self.sxx),
            Regression::R2 if self.syy == 0.0 => Some(1.0),
            Regression::R2 => Some(self.sxy * self.sxy / (self.sxx * self.syy)),
            Regression::Sxx => Some(self.sxx),
            Regression::Sxy => Some(self.sxy),
            Regression::Syy => Some(self.syy),
            Regression::Count => None,
        };
        Ok(value.map_or(Datum::Null, Datum::Float8))
    }

    fn size(&self) -> usize {
        0
    }
}
