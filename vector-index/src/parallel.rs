//! Work on all cores.

use std::sync::atomic::{AtomicUsize, Ordering::*};

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Points a thread takes at once.
const STEP: usize = 64;

/// Calls `each` for 0..n on so many threads, until one fails.
pub(crate) fn in_parallel(
    n: usize,
    n_threads: usize,
    each: &(dyn Fn(usize) -> Result<()> + Sync),
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        while failed.lock().is_none() {
            let begin = next.fetch_add(STEP, Relaxed);
            if begin >= n {
                return;
            }
            for i in begin..(begin + STEP).min(n) {
                if let Err(error) = each(i) {
                    failed.lock().get_or_insert(error);
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..n_threads.min(n.div_ceil(STEP)) {
            scope.spawn(work);
        }
        work();
    });
    failed.into_inner().map_or(Ok(()), Err)
}

/// Threads of a build, if nobody says.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
