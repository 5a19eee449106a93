//! Kernels in plain Rust. Sixteen sums side by side let the compiler use whatever vectors the target has.

use super::{F32_LANES, Kernels};

const LANES: usize = F32_LANES;

pub(super) fn kernels() -> Kernels {
    Kernels { name: "portable", dot_f32, l2_f32, dot_f16, l2_f16, dot_halves, dot_i8 }
}

fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    sums(a, b, |sum, x, y| sum + x * y)
}

fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    sums(a, b, |sum, x, y| sum + (x - y) * (x - y))
}

fn dot_f16(a: &[u16], b: &[f32]) -> f32 {
    sums(a, b, |sum, x, y| sum + widen(x) * y)
}

fn l2_f16(a: &[u16], b: &[f32]) -> f32 {
    sums(a, b, |sum, x, y| {
        let d = widen(x) - y;
        sum + d * d
    })
}

fn dot_halves(a: &[u16], b: &[u16]) -> f32 {
    sums(a, b, |sum, x, y| sum + widen(x) * widen(y))
}

fn dot_i8(a: &[i8], b: &[i8], _sum_b: i32) -> i32 {
    a.iter().zip(b).map(|(&x, &y)| i32::from(i16::from(x) * i16::from(y))).sum()
}

fn widen(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32_const()
}

#[inline(always)]
fn sums<A: Copy, B: Copy>(a: &[A], b: &[B], step: impl Fn(f32, A, B) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    for (x, y) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for lane in 0..LANES {
            sums[lane] = step(sums[lane], x[lane], y[lane]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}
