//! Distance kernels and the choice between them at run time.
//!
//! Lives here: inner products and squared distances over padded slices, a portable form of each and SIMD forms
//! for x86-64, and prefetching. Not here: norms, scales and what they mean (`quantize`, `store`).
//! Every slice is padded with zeros to whole lines, so no kernel has a tail.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

/// Slices of codes are whole multiples of this many bytes.
pub(crate) const CODE_LANES: usize = 32;

/// Slices of f32 values are whole multiples of this many.
pub(crate) const F32_LANES: usize = 16;

/// Slices of f16 values are whole multiples of this many.
pub(crate) const F16_LANES: usize = 16;

type Pair<A, B, R> = unsafe fn(&[A], &[B]) -> R;

/// One set of kernels. Built by [`best`] and [`portable`] alone, which check that the machine can run them.
pub(crate) struct Kernels {
    pub(crate) name: &'static str,
    dot_f32: Pair<f32, f32, f32>,
    l2_f32: Pair<f32, f32, f32>,
    dot_f16: Pair<u16, f32, f32>,
    l2_f16: Pair<u16, f32, f32>,
    dot_halves: Pair<u16, u16, f32>,
    dot_i8: unsafe fn(&[i8], &[i8], i32) -> i32,
}

static BEST: LazyLock<Kernels> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    if let Some(kernels) = x86::detect() {
        return kernels;
    }
    portable::kernels()
});

static PORTABLE: LazyLock<Kernels> = LazyLock::new(portable::kernels);

/// The fastest kernels this machine runs.
pub(crate) fn best() -> &'static Kernels {
    &BEST
}

/// Which kernels this machine runs, for logs and benchmarks.
#[must_use]
pub fn kernel_name() -> &'static str {
    best().name
}

/// Kernels for any machine, against which the others are tested.
#[cfg_attr(not(test), expect(dead_code, reason = "what tests compare with"))]
pub(crate) fn portable() -> &'static Kernels {
    &PORTABLE
}

#[expect(unsafe_code, reason = "calls of functions whose CPU features were detected")]
impl Kernels {
    /// Σ a·b.
    #[inline]
    pub(crate) fn dot_f32(&self, a: &[f32], b: &[f32]) -> f32 {
        assert!(a.len() == b.len() && a.len().is_multiple_of(F32_LANES));
        // SAFETY: the constructor detected the CPU features; lengths are equal and whole lanes.
        unsafe { (self.dot_f32)(a, b) }
    }

    /// Σ (a−b)².
    #[inline]
    pub(crate) fn l2_f32(&self, a: &[f32], b: &[f32]) -> f32 {
        assert!(a.len() == b.len() && a.len().is_multiple_of(F32_LANES));
        // SAFETY: as above.
        unsafe { (self.l2_f32)(a, b) }
    }

    /// Σ a·b of halves (as bits) and f32.
    #[inline]
    pub(crate) fn dot_f16(&self, a: &[u16], b: &[f32]) -> f32 {
        assert!(a.len() == b.len() && a.len().is_multiple_of(F16_LANES));
        // SAFETY: as above.
        unsafe { (self.dot_f16)(a, b) }
    }

    /// Σ (a−b)² of halves (as bits) and f32.
    #[inline]
    pub(crate) fn l2_f16(&self, a: &[u16], b: &[f32]) -> f32 {
        assert!(a.len() == b.len() && a.len().is_multiple_of(F16_LANES));
        // SAFETY: as above.
        unsafe { (self.l2_f16)(a, b) }
    }

    /// Σ a·b of halves (as bits).
    #[inline]
    pub(crate) fn dot_halves(&self, a: &[u16], b: &[u16]) -> f32 {
        assert!(a.len() == b.len() && a.len().is_multiple_of(F16_LANES));
        // SAFETY: as above.
        unsafe { (self.dot_halves)(a, b) }
    }

    /// Σ a·b of codes in −127..=127; `sum_b` is Σ b, which some kernels need.
    #[inline]
    pub(crate) fn dot_i8(&self, a: &[i8], b: &[i8], sum_b: i32) -> i32 {
        assert!(a.len() == b.len() && a.len().is_multiple_of(CODE_LANES));
        // SAFETY: as above.
        unsafe { (self.dot_i8)(a, b, sum_b) }
    }
}

/// Asks for the cache line that holds `at`, ahead of its use.
#[inline]
pub(crate) fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(at);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn every_set() -> Vec<Kernels> {
        #[cfg(target_arch = "x86_64")]
        return x86::every_set();
        #[cfg(not(target_arch = "x86_64"))]
        Vec::new()
    }

    #[test]
    fn simd_agrees_with_portable() {
        let mut rng = StdRng::seed_from_u64(7);
        for kernels in every_set().iter().chain([best()]) {
            for lanes in (1..40).chain([125, 500]) {
                let n = lanes * CODE_LANES;
                let a: Vec<f32> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
                let b: Vec<f32> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
                let h: Vec<u16> = a.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect();
                let close = |x: f32, y: f32| (x - y).abs() <= 1e-5 * n as f32;
                let p = portable();
                assert!(close(kernels.dot_f32(&a, &b), p.dot_f32(&a, &b)), "{}", kernels.name);
                assert!(close(kernels.l2_f32(&a, &b), p.l2_f32(&a, &b)));
                assert!(close(kernels.dot_f16(&h, &b), p.dot_f16(&h, &b)));
                assert!(close(kernels.l2_f16(&h, &b), p.l2_f16(&h, &b)));
                let g: Vec<u16> = b.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect();
                assert!(close(kernels.dot_halves(&h, &g), p.dot_halves(&h, &g)));
                let mut x: Vec<i8> = (0..n).map(|_| rng.random_range(-127..=127)).collect();
                let mut y: Vec<i8> = (0..n).map(|_| rng.random_range(-127..=127)).collect();
                for _ in 0..3 {
                    let sum = y.iter().map(|&c| i32::from(c)).sum();
                    assert_eq!(kernels.dot_i8(&x, &y, sum), p.dot_i8(&x, &y, sum));
                    x.fill(127);
                    let turned = if y[0] == 127 { -127 } else { 127 };
                    y.fill(turned);
                }
            }
        }
    }
}
