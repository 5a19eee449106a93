//! Memory for vectors: cache lines that may be written while others are read.
//!
//! Everything is made of atomics, so writing is safe code. Reading by SIMD needs plain slices; that cast is the
//! one promise of this module. The protocol that keeps it: a payload is written only while its slot is unpublished,
//! that is, fresh, or taken back after every search that could know it has ended (`Store::allocate`, `collect`).

use std::sync::atomic::{AtomicU64, Ordering};

/// Eight words on one cache line.
#[derive(Default)]
#[repr(C, align(64))]
pub(crate) struct Line([AtomicU64; Line::WORDS]);

impl Line {
    pub(crate) const WORDS: usize = 8;
    pub(crate) const BYTES: usize = 64;

    /// Lines for so many bytes.
    pub(crate) fn count_for(bytes: usize) -> usize {
        bytes.div_ceil(Self::BYTES)
    }

    pub(crate) fn zeroed(n_lines: usize) -> Box<[Self]> {
        (0..n_lines).map(|_| Self::default()).collect()
    }
}

/// The word at a position counted over all lines.
#[inline]
pub(crate) fn word(lines: &[Line], at: usize) -> &AtomicU64 {
    &lines[at / Line::WORDS].0[at % Line::WORDS]
}

/// Writes bytes from the first line on. Only for a slot that nobody else can name.
pub(crate) fn write_bytes(lines: &[Line], bytes: impl Iterator<Item = u8>) {
    let mut chunk = [0; 8];
    let mut n = 0;
    for byte in bytes {
        chunk[n % 8] = byte;
        n += 1;
        if n % 8 == 0 {
            word(lines, n / 8 - 1).store(u64::from_ne_bytes(chunk), Ordering::Relaxed);
            chunk = [0; 8];
        }
    }
    if n % 8 != 0 {
        word(lines, n / 8).store(u64::from_ne_bytes(chunk), Ordering::Relaxed);
    }
}

macro_rules! plain {
    ($name:ident, $type:ty) => {
        /// The first `n` values, for a kernel to read.
        #[expect(unsafe_code, reason = "kernels read what is made of atomics")]
        #[inline]
        pub(crate) fn $name(lines: &[Line], n: usize) -> &[$type] {
            assert!(n * size_of::<$type>() <= size_of_val(lines));
            // SAFETY: in bounds by the assertion, aligned to a line, any bits are a value, and the payload of a
            // published slot is not written (module comment). Words behind it, which are, are not covered.
            unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), n) }
        }
    };
}

plain!(plain_i8, i8);
plain!(plain_u16, u16);
plain!(plain_f32, f32);
