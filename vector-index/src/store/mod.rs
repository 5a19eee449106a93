//! Entries of an index whatever finds them: slots, keys, versions of a key, and who sees which.
//!
//! Lives here: placing and ending entries and handing out slots. Scans over them are in `flat`, links in `graph`.
//!
//! An entry is one version of a point: it is seen by readers at log index `s` with `from <= s < to`. What a log says
//! twice is done once: an event that is not newer than the newest of its key changes nothing, so a log tail may be
//! replayed over a snapshot that holds some of it already.
//!
//! Locks: whoever knows ids holds the shared side of `slots`, so taking the other side for a moment waits for all who
//! might know an id that is out of use. The order is `slots`, `keys`, then the others.

pub(crate) mod lines;
pub(crate) mod slots;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::*},
};

use parking_lot::{Mutex, RwLock};

use self::slots::{CHUNK_SLOTS, Kind, Layout, NONE, OPEN, Slots};
use crate::{
    error::{Error, Result},
    index::{Applied, Counts},
    options::Options,
    quantize::Probe,
};

/// Ids are u32, and the last is [`NONE`].
const SLOTS_MAX: usize = NONE as usize - CHUNK_SLOTS;

/// What one place of the map takes: key, id and a byte of the map's own, with the eighth that is always free.
const KEY_BYTES: usize = 19;

#[derive(Default)]
struct Allocator {
    next: usize,
    next_upper: usize,
    free: Vec<u32>,
}

/// See the module comment.
pub(crate) struct Store {
    pub(crate) options: Options,
    pub(crate) slots: RwLock<Slots>,
    layout: Layout,
    allocator: Mutex<Allocator>,
    /// The newest entry of each key; older ones follow by `Slots::older`.
    keys: RwLock<HashMap<u64, u32>>,
    n_open: AtomicUsize,
    n_ended: AtomicUsize,
    n_next: AtomicUsize,
    /// While a snapshot is being written no slot is given a second life.
    pub(crate) keep_freed: AtomicBool,
}

impl Store {
    pub(crate) fn new(options: Options, with_links: bool) -> Result<Self> {
        options.validate()?;
        let layout = Layout::new(&options, with_links);
        Ok(Self {
            options,
            slots: RwLock::new(Slots::new(layout)),
            layout,
            allocator: Mutex::default(),
            keys: RwLock::default(),
            n_open: AtomicUsize::new(0),
            n_ended: AtomicUsize::new(0),
            n_next: AtomicUsize::new(0),
            keep_freed: AtomicBool::new(false),
        })
    }

    /// Slots ever handed out: every id is below.
    pub(crate) fn n_slots(&self) -> u32 {
        self.n_next.load(Acquire) as u32
    }

    /// Entries that have not ended.
    pub(crate) fn n_open(&self) -> usize {
        self.n_open.load(Relaxed)
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            n_open: self.n_open.load(Relaxed),
            n_ended: self.n_ended.load(Relaxed),
            n_free: self.allocator.lock().free.len(),
        }
    }

    /// Cache lines of a record.
    pub(crate) fn record_lines(&self) -> usize {
        self.layout.record_lines()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.slots.read().memory_bytes() + self.keys.read().capacity() * KEY_BYTES
    }

    /// Takes a slot with room for the links of `n_layers(id)` upper layers. The caller must not hold `slots`.
    fn allocate(&self, n_layers: &dyn Fn(u32) -> usize) -> Result<u32> {
        loop {
            {
                let slots = self.slots.read();
                let mut allocator = self.allocator.lock();
                if !self.keep_freed.load(Acquire)
                    && let Some(id) = allocator.free.pop()
                {
                    return Ok(id);
                }
                if allocator.next >= SLOTS_MAX {
                    return Err(Error::Full { slots: allocator.next });
                }
                let id = allocator.next as u32;
                let n = n_layers(id);
                if allocator.next < slots.capacity()
                    && allocator.next_upper + n <= slots.upper_capacity()
                {
                    slots.set_upper_at(id, allocator.next_upper as u32);
                    allocator.next += 1;
                    allocator.next_upper += n;
                    self.n_next.store(allocator.next, Release);
                    return Ok(id);
                }
            }
            self.grow(n_layers);
        }
    }

    fn grow(&self, n_layers: &dyn Fn(u32) -> usize) {
        let mut slots = self.slots.write();
        let allocator = self.allocator.lock();
        if allocator.next >= slots.capacity() {
            slots.grow();
        }
        while allocator.next_upper + n_layers(allocator.next as u32) > slots.upper_capacity() {
            slots.grow_upper();
        }
    }

    /// Makes an entry of `key` from log index `at` on and ends the one before it. `None` if that was done before.
    ///
    /// One key's events come one after the other; different keys may come side by side.
    pub(crate) fn place(
        &self,
        key: u64,
        at: u64,
        probe: &Probe,
        n_layers: &dyn Fn(u32) -> usize,
    ) -> Result<Option<u32>> {
        if self.is_repeated(key, at) {
            return Ok(None);
        }
        let id = self.allocate(n_layers)?;
        let slots = self.slots.read();
        slots.write(id, key, at, OPEN, probe);
        let older = self.keys.write().insert(key, id);
        if let Some(older) = older {
            slots.set_older(id, older);
            self.end(&slots, older, at);
        }
        self.n_open.fetch_add(1, Relaxed);
        Ok(Some(id))
    }

    /// Whether something as new as `at` is known of the key.
    fn is_repeated(&self, key: u64, at: u64) -> bool {
        let slots = self.slots.read();
        let keys = self.keys.read();
        keys.get(&key).is_some_and(|&newest| {
            let (from, to) = (slots.from(newest), slots.to(newest));
            from >= at || (to != OPEN && to > at)
        })
    }

    fn end(&self, slots: &Slots, id: u32, at: u64) -> bool {
        if !slots.is_open(id) || slots.from(id) >= at {
            return false;
        }
        slots.end(id, at);
        self.n_open.fetch_sub(1, Relaxed);
        self.n_ended.fetch_add(1, Relaxed);
        true
    }

    pub(crate) fn remove(&self, key: u64, at: u64) -> Applied {
        let slots = self.slots.read();
        let newest = self.keys.read().get(&key).copied();
        if newest.is_some_and(|id| self.end(&slots, id, at)) {
            Applied::Done
        } else {
            Applied::Repeated
        }
    }

    /// The entry of a key that a reader at `at` sees.
    pub(crate) fn find(&self, slots: &Slots, key: u64, at: u64) -> Option<u32> {
        let mut id = self.keys.read().get(&key).copied();
        while let Some(entry) = id {
            if slots.is_visible(entry, at) {
                return Some(entry);
            }
            id = Some(slots.older(entry)).filter(|&older| older != NONE && slots.from(entry) > at);
        }
        None
    }

    /// Takes ended entries out of the chains of their keys, so that nothing names them by key.
    pub(crate) fn forget(&self, slots: &Slots, ids: &[u32], is_gone: &dyn Fn(u32) -> bool) {
        let mut keys = self.keys.write();
        for &id in ids {
            let key = slots.key(id);
            let Some(&newest) = keys.get(&key) else { continue };
            if is_gone(newest) {
                // Older versions ended before this one did, so no reader needs them either.
                keys.remove(&key);
                continue;
            }
            let mut entry = newest;
            while entry != NONE {
                let older = slots.older(entry);
                if older != NONE && is_gone(older) {
                    slots.set_older(entry, NONE);
                    break;
                }
                entry = older;
            }
        }
    }

    /// Gives slots a second life. Nobody may know their ids any more.
    pub(crate) fn release(&self, ids: &[u32]) {
        self.n_ended.fetch_sub(ids.len(), Relaxed);
        self.allocator.lock().free.extend_from_slice(ids);
    }

    /// Puts an entry of a snapshot where it was. Keys are joined by [`Store::restore_keys`].
    pub(crate) fn restore(
        &self,
        entry: Option<(u64, u64, u64, &Probe)>,
        n_layers: &dyn Fn(u32) -> usize,
    ) -> Result<u32> {
        let id = self.allocate(n_layers)?;
        match entry {
            Some((key, from, to, probe)) => self.slots.read().write(id, key, from, to, probe),
            None => self.slots.read().set_kind(id, Kind::Empty, NONE),
        }
        Ok(id)
    }

    /// After [`Store::restore`] of all: orders the versions of each key and counts.
    pub(crate) fn restore_keys(&self) -> Result<()> {
        let slots = self.slots.read();
        let (free, mut ids): (Vec<u32>, Vec<u32>) =
            (0..self.n_slots()).partition(|&id| slots.kind(id) == Kind::Empty);
        ids.sort_unstable_by_key(|&id| (slots.key(id), slots.from(id)));
        let mut keys = self.keys.write();
        let mut before = NONE;
        for &id in &ids {
            let key = slots.key(id);
            if before != NONE && slots.key(before) == key {
                if slots.to(before) > slots.from(id) {
                    return Err(Error::Damaged { what: "two entries of a key at one time" });
                }
                slots.set_older(id, before);
            }
            keys.insert(key, id);
            before = id;
        }
        let n_open = ids.iter().filter(|&&id| slots.is_open(id)).count();
        self.n_open.store(n_open, Relaxed);
        self.n_ended.store(ids.len() - n_open, Relaxed);
        self.allocator.lock().free = free;
        Ok(())
    }
}
