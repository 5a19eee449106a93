//! Making an index: empty, from points on all cores, or from a snapshot.

use crate::{
    error::Result,
    graph::Graph,
    index::VectorIndex,
    kernels,
    library::Library,
    options::{Engine, Options, Quantization},
    parallel::{cores, in_parallel},
    quantize::{Probe, rank_of},
    store::{
        Store,
        slots::{Kind, OPEN},
    },
};

/// A point of a build.
#[derive(Debug, Clone, Copy)]
pub struct Point<'a> {
    /// Its key; no two points have the same one.
    pub key: u64,
    /// The log index from which on it is seen.
    pub from: u64,
    /// Its vector.
    pub vector: &'a [f32],
}

/// An empty index.
pub fn create(options: &Options) -> Result<Box<dyn VectorIndex>> {
    Ok(match options.engine {
        Engine::Graph => Box::new(Graph::new(*options)?),
        Engine::HnswRs => Box::new(Library::new(*options)?),
    })
}

/// An index of so many points, on so many threads (all cores for `None`). Every point is found afterwards.
pub fn build<'a>(
    options: &Options,
    n_points: usize,
    point: &(dyn Fn(usize) -> Point<'a> + Sync),
    n_threads: Option<usize>,
) -> Result<Box<dyn VectorIndex>> {
    let index = create(options)?;
    in_parallel(n_points, n_threads.unwrap_or_else(cores), &|i| {
        let Point { key, from, vector } = point(i);
        index.insert(key, from, vector).map(|_| ())
    })?;
    index.settle();
    Ok(index)
}

/// The index of a snapshot and the log index up to which it is whole.
///
/// Errors for which [`crate::Error::is_rebuild_needed`] holds say that it has to be built from the rows instead.
pub fn open(options: &Options, bytes: &[u8]) -> Result<(Box<dyn VectorIndex>, u64)> {
    Ok(match options.engine {
        Engine::Graph => {
            let (index, applied) = Graph::open(*options, bytes)?;
            (Box::new(index), applied)
        }
        Engine::HnswRs => {
            let (index, applied) = Library::open(*options, bytes)?;
            (Box::new(index), applied)
        }
    })
}

/// The distance of two vectors as an index with these options computes it, for rows that are not in one yet.
pub fn distance(options: &Options, a: &[f32], b: &[f32]) -> Result<f64> {
    let plain = Options { quantization: Quantization::None, ..*options };
    let (a, b) = (Probe::new(&plain, a)?, Probe::new(&plain, b)?);
    let kernels = kernels::best();
    let rank = rank_of(
        options.metric,
        &a,
        b.norm2,
        || kernels.dot_f32(&b.values, &a.values),
        || kernels.l2_f32(&b.values, &a.values),
    );
    Ok(options.metric.distance(rank + 0.0))
}

/// Puts every entry that has not ended at or before `oldest` into another index.
pub(crate) fn copy_entries(store: &Store, oldest: u64, to: &dyn VectorIndex) -> Result<()> {
    let mut entries: Vec<(u64, u64, u32)> = {
        let slots = store.slots.read();
        (0..store.n_slots())
            .filter(|&id| slots.kind(id) != Kind::Empty && slots.to(id) > oldest)
            .map(|id| (slots.key(id), slots.from(id), id))
            .collect()
    };
    entries.sort_unstable();
    // One thread takes all versions of a key, in their order, as `insert` wants it.
    let keys: Vec<&[(u64, u64, u32)]> = entries.chunk_by(|a, b| a.0 == b.0).collect();
    in_parallel(keys.len(), cores(), &|i| {
        for &(key, from, id) in keys[i] {
            let (values, end) = {
                let slots = store.slots.read();
                // The slot may have got another life since; then the entry had ended.
                if (slots.key(id), slots.from(id)) != (key, from) {
                    continue;
                }
                (slots.values(id, store.options.dim), slots.to(id))
            };
            to.insert(key, from, &values)?;
            if end != OPEN {
                to.remove(key, end)?;
            }
        }
        Ok(())
    })
}
