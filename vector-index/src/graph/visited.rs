//! Which nodes a search has seen: one mark per slot, cleared by counting up, and kept from search to search.

use parking_lot::Mutex;

/// Tables kept for later searches; more at once are made and dropped.
const POOL_MAX: usize = 64;

/// Marks of one search.
#[derive(Default)]
pub(crate) struct Visited {
    marks: Vec<u16>,
    epoch: u16,
}

impl Visited {
    fn begin(&mut self, n: usize) {
        if self.epoch >= u16::MAX - 2 {
            self.marks.fill(0);
            self.epoch = 0;
        }
        self.epoch += 2;
        if self.marks.len() < n {
            self.marks.resize(n, 0);
        }
    }

    /// Marks a node as seen; whether it was not before.
    #[inline]
    pub(crate) fn insert(&mut self, id: u32) -> bool {
        let mark = &mut self.marks[id as usize];
        let is_new = *mark != self.epoch;
        *mark = self.epoch;
        is_new
    }

    #[inline]
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.marks[id as usize] == self.epoch
    }

    /// Marks a node that does not match, so that it is not asked again; whether that was new.
    #[inline]
    pub(crate) fn refuse(&mut self, id: u32) {
        self.marks[id as usize] = self.epoch - 1;
    }

    #[inline]
    pub(crate) fn is_refused(&self, id: u32) -> bool {
        self.marks[id as usize] == self.epoch - 1
    }
}

/// Tables not in use.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<Visited>>);

impl Pool {
    pub(crate) fn take(&self, n: usize) -> Visited {
        let mut visited = self.0.lock().pop().unwrap_or_default();
        visited.begin(n);
        visited
    }

    pub(crate) fn give(&self, visited: Visited) {
        let mut pool = self.0.lock();
        if pool.len() < POOL_MAX {
            pool.push(visited);
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.0.lock().iter().map(|visited| 2 * visited.marks.capacity()).sum()
    }
}
