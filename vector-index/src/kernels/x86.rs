//! Kernels for x86-64: AVX2 with FMA and F16C, and the code product with AVX-512 VNNI where the machine has it
//! (one instruction for 64 products; the f32 kernels wait for memory, and wider registers did not help them).

#![expect(unsafe_code, reason = "SIMD intrinsics and a prefetch hint")]

use std::arch::x86_64::*;

use super::Kernels;

pub(super) fn detect() -> Option<Kernels> {
    every_set().into_iter().next_back()
}

/// Every set this machine runs, the best one last.
pub(super) fn every_set() -> Vec<Kernels> {
    let mut sets = Vec::new();
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
    {
        sets.push(avx2());
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
        {
            sets.push(Kernels { name: "avx2 + avx512 vnni", dot_i8: dot_i8_vnni, ..avx2() });
        }
    }
    sets
}

fn avx2() -> Kernels {
    Kernels {
        name: "avx2",
        dot_f32: dot_f32_avx2,
        l2_f32: l2_f32_avx2,
        dot_f16: dot_f16_avx2,
        l2_f16: l2_f16_avx2,
        dot_halves: dot_halves_avx2,
        dot_i8: dot_i8_avx2,
    }
}

/// A hint to the cache; it never faults, whatever the address.
#[inline(always)]
pub(super) fn prefetch<T>(at: &T) {
    // SAFETY: SSE is part of x86-64, and a prefetch has no effect a program can see.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_f32(x: __m256) -> f32 {
    let halves = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
    _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps::<1>(pairs, pairs)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_i32(x: __m256i) -> i32 {
    let halves = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let pairs = _mm_add_epi32(halves, _mm_shuffle_epi32::<0b00_00_11_10>(halves));
    _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32::<1>(pairs)))
}

/// Four sums of eight lanes hide the latency of the multiply-add. `len` is a whole multiple of 16.
macro_rules! f32_kernel {
    ($name:ident, $left:ty, $load:expr, $right:ty, $load_right:expr, $step:expr) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn $name(a: &[$left], b: &[$right]) -> f32 {
            let (a, b, n) = (a.as_ptr(), b.as_ptr(), a.len().min(b.len()));
            let mut sums = [_mm256_setzero_ps(); 4];
            let mut at = 0;
            while at + 32 <= n {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: at + 32 <= n, and each of four loads takes eight values.
                    let (x, y) = unsafe {
                        let at = at + 8 * lane;
                        ($load(a.add(at)), $load_right(b.add(at)))
                    };
                    *sum = $step(x, y, *sum);
                }
                at += 32;
            }
            while at + 8 <= n {
                // SAFETY: at + 8 <= n.
                let (x, y) = unsafe { ($load(a.add(at)), $load_right(b.add(at))) };
                sums[0] = $step(x, y, sums[0]);
                at += 8;
            }
            let [s0, s1, s2, s3] = sums;
            sum_f32(_mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3)))
        }
    };
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_add(x: __m256, y: __m256, sum: __m256) -> __m256 {
    _mm256_fmadd_ps(x, y, sum)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn square_add(x: __m256, y: __m256, sum: __m256) -> __m256 {
    let d = _mm256_sub_ps(x, y);
    _mm256_fmadd_ps(d, d, sum)
}

/// # Safety
/// Eight halves can be read at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_f16(at: *const u16) -> __m256 {
    // SAFETY: the caller's promise; the load needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
}

f32_kernel!(dot_f32_avx2, f32, _mm256_loadu_ps, f32, _mm256_loadu_ps, multiply_add);
f32_kernel!(l2_f32_avx2, f32, _mm256_loadu_ps, f32, _mm256_loadu_ps, square_add);
f32_kernel!(dot_f16_avx2, u16, load_f16, f32, _mm256_loadu_ps, multiply_add);
f32_kernel!(l2_f16_avx2, u16, load_f16, f32, _mm256_loadu_ps, square_add);
f32_kernel!(dot_halves_avx2, u16, load_f16, u16, load_f16, multiply_add);

/// `maddubs` wants one unsigned side: |a| and b with a's sign. Two products of at most 127² fit an i16.
#[target_feature(enable = "avx2")]
fn dot_i8_avx2(a: &[i8], b: &[i8], _sum_b: i32) -> i32 {
    let n = a.len().min(b.len());
    let ones = _mm256_set1_epi16(1);
    let mut sum = _mm256_setzero_si256();
    let mut at = 0;
    while at + 32 <= n {
        // SAFETY: at + 32 <= n, and each load takes 32 bytes.
        let (x, y) = unsafe {
            (
                _mm256_loadu_si256(a.as_ptr().add(at).cast()),
                _mm256_loadu_si256(b.as_ptr().add(at).cast()),
            )
        };
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(y, x));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        at += 32;
    }
    sum_i32(sum)
}

/// `dpbusd` wants one unsigned side: a + 128, whose surplus of 128·Σb is taken off at the end.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot_i8_vnni(a: &[i8], b: &[i8], sum_b: i32) -> i32 {
    let n = a.len().min(b.len());
    let flip = _mm512_set1_epi8(-128);
    let mut sums = [_mm512_setzero_si512(); 2];
    let mut at = 0;
    while at + 128 <= n {
        for (lane, sum) in sums.iter_mut().enumerate() {
            // SAFETY: at + 128 <= n, and each of two loads takes 64 bytes.
            let (x, y) = unsafe {
                let at = at + 64 * lane;
                (
                    _mm512_loadu_si512(a.as_ptr().add(at).cast()),
                    _mm512_loadu_si512(b.as_ptr().add(at).cast()),
                )
            };
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(x, flip), y);
        }
        at += 128;
    }
    let sum = _mm512_add_epi32(sums[0], sums[1]);
    let mut sum =
        _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum));
    while at + 32 <= n {
        // SAFETY: at + 32 <= n, and each load takes 32 bytes.
        let (x, y) = unsafe {
            (
                _mm256_loadu_si256(a.as_ptr().add(at).cast()),
                _mm256_loadu_si256(b.as_ptr().add(at).cast()),
            )
        };
        sum = _mm256_dpbusd_epi32(sum, _mm256_xor_si256(x, _mm512_castsi512_si256(flip)), y);
        at += 32;
    }
    sum_i32(sum) - 128 * sum_b
}
