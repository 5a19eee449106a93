//! How deep values that contain themselves may nest when they are read from bytes.
//!
//! Bytes come from other processes and from disk. Reading nests as they do, so without a bound a few kilobytes would overflow the
//! stack. Writing has the bound of whoever made the value.

use std::cell::Cell;

use serde::de::Error;

/// What a binder makes (`functions::scalar::DEPTH_MAX`), and a little more.
const DEPTH_MAX: usize = 1100;

/// Stack that one level may need, in a build without optimization.
const STACK_PER_LEVEL: usize = 64 << 10;

/// The stack grows by so much, on the heap.
const STACK_GROWS: usize = 2 << 20;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

struct Level;

impl Drop for Level {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Reads one level.
pub(crate) fn read<T, E: Error>(read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let depth = DEPTH.get();
    if depth >= DEPTH_MAX {
        return Err(E::custom(format!("nests more than {DEPTH_MAX} levels deep")));
    }
    DEPTH.set(depth + 1);
    let _level = Level;
    stacker::maybe_grow(STACK_PER_LEVEL, STACK_GROWS, read)
}

/// Writes one level.
pub(crate) fn write<T>(write: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_PER_LEVEL, STACK_GROWS, write)
}
