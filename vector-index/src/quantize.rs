//! From a vector to what is stored and compared: padding, int8 codes, norms, and how far a code may be off.
//!
//! A code stands for `scale · code`; the residual is the length of what that leaves out. With the triangle inequality
//! it bounds how far a product of codes is from the product of the vectors, which makes scans over codes exact.

use half::f16;

use crate::{
    error::{Error, Result},
    kernels::{self, CODE_LANES, F32_LANES},
    options::{Element, Metric, Options, Quantization},
};

/// Codes reach from −127 to 127, so that a sign can be turned.
const CODE_MAX: f32 = 127.0;

/// Squared norms above this could overflow in a sum of two.
const NORM2_MAX: f32 = 1e37;

/// A vector made ready: padded, with its codes, norms and factors.
pub(crate) struct Probe {
    /// The values as stored (rounded to halves for `F16`), padded with zeros.
    pub(crate) values: Vec<f32>,
    /// Empty without quantization.
    pub(crate) codes: Vec<i8>,
    /// What a product of codes (or, unquantized, of values) is multiplied with on this side.
    pub(crate) factor: f32,
    /// Σ values².
    pub(crate) norm2: f32,
    /// Length of `values − scale · codes`, rounded up; in units of the norm for cosine.
    pub(crate) residual: f32,
    /// Σ codes.
    pub(crate) code_sum: i32,
    /// The vector has no place in a graph: its norm overflows, or it has no direction under cosine.
    pub(crate) loose: bool,
}

impl Probe {
    pub(crate) fn new(options: &Options, vector: &[f32]) -> Result<Self> {
        if vector.len() != options.dim {
            return Err(Error::DimMismatch { expected: options.dim, found: vector.len() });
        }
        let mut values = vector.to_vec();
        if options.element == Element::F16 {
            values.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32());
        }
        if let Some(position) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::NotFinite { position });
        }
        values.resize(options.dim.next_multiple_of(F32_LANES), 0.0);
        let norm2 = kernels::best().dot_f32(&values, &values);
        let cosine = options.metric == Metric::Cosine;
        let is_huge = norm2.is_nan() || norm2 > NORM2_MAX;
        let loose = is_huge || (cosine && norm2 < f32::MIN_POSITIVE);
        let mut probe = Self {
            values,
            codes: Vec::new(),
            factor: if cosine && !loose { norm2.sqrt().recip() } else { 1.0 },
            norm2,
            residual: 0.0,
            code_sum: 0,
            loose,
        };
        if options.quantization == Quantization::Int8 {
            probe.quantize(options);
        }
        Ok(probe)
    }

    fn quantize(&mut self, options: &Options) {
        let largest = self.values.iter().fold(0f32, |most, x| most.max(x.abs()));
        let scale = largest / CODE_MAX;
        let inverse = if scale > f32::MIN_POSITIVE { CODE_MAX / largest } else { 0.0 };
        let quantized = |x: &f32| (x * inverse).round().clamp(-CODE_MAX, CODE_MAX) as i8;
        self.codes = self.values.iter().map(quantized).collect();
        self.codes.resize(options.dim.next_multiple_of(CODE_LANES), 0);
        self.code_sum = self.codes.iter().map(|&c| i32::from(c)).sum();
        let left: f64 = self
            .values
            .iter()
            .zip(&self.codes)
            .map(|(&x, &c)| (f64::from(x) - f64::from(scale) * f64::from(c)).powi(2))
            .sum();
        self.residual = (left.sqrt() * f64::from(self.factor) * (1.0 + 1e-6)) as f32;
        self.factor *= scale;
    }

    /// Length of the vector in the units of `residual`: 1 for cosine.
    pub(crate) fn length(&self, metric: Metric) -> f32 {
        length(metric, self.norm2)
    }
}

/// See [`Probe::length`].
pub(crate) fn length(metric: Metric, norm2: f32) -> f32 {
    match metric {
        Metric::Cosine => 1.0,
        Metric::L2 | Metric::InnerProduct => norm2.sqrt(),
    }
}

/// What orders answers, from full vectors. NaN where the metric has no value, which sorts last.
pub(crate) fn rank_of(
    metric: Metric,
    probe: &Probe,
    norm2: f32,
    dot: impl Fn() -> f32,
    l2: impl Fn() -> f32,
) -> f64 {
    let rank = match metric {
        Metric::L2 => f64::from(l2()),
        Metric::InnerProduct => -f64::from(dot()),
        Metric::Cosine => {
            let norms = f64::from(norm2) * f64::from(probe.norm2);
            -(f64::from(dot()) / norms.sqrt()).clamp(-1.0, 1.0)
        }
    };
    if rank.is_nan() { f64::NAN.abs() } else { rank }
}

/// How far rounding may move any of our sums over `dim` values, relative to the product of the lengths.
///
/// A sum runs in at least 16 lanes, so each lane adds `dim / 16` products, and the rest are a few operations.
pub(crate) fn rounding(dim: usize) -> f32 {
    (dim as f32 / 8.0 + 64.0) * f32::EPSILON
}
