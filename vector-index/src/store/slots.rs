//! The arena: slots of a fixed size in chunks, each with a record, the full vector if codes are compared, and links.
//!
//! ```text
//! record   payload (codes or values), padded to 32 bytes
//!          key · from · to · (factor, norm²) · (residual, Σ codes) · (twin, kind)      six words
//! exact    values, only if the payload is codes
//! links    2·m ids of the lowest layer, ended by NONE
//! upper    blocks of m ids, one for each layer above
//! ```
//!
//! A record lies on whole cache lines and is all that a traversal reads of a node. Memory grows by a chunk and never moves.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

use super::lines::{self, Line, plain_f32, plain_i8, plain_u16, word};
use crate::{
    kernels::{self, CODE_LANES, F16_LANES, F32_LANES, Kernels},
    options::{Element, Metric, Options, Quantization},
    quantize::{self, Probe},
};

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

/// An entry that has not ended.
pub(crate) const OPEN: u64 = u64::MAX;

/// Slots by which memory grows: about a megabyte at 384 dimensions, so that small indexes stay small.
pub(crate) const CHUNK_SLOTS: usize = 512;

const HEADER_WORDS: usize = 6;

/// How much nearer (in squared distance) two candidates may be to one another than to the node, and both be linked. Measured on
/// 30,000 vectors of 384 dimensions against 1.0: the same work for a recall of 0.95, a quarter less for 0.99.
const APART_SLACK: f32 = 1.2;

/// What a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// Nothing, or not ready.
    Empty = 0,
    /// Written, and found by scans.
    Placed = 1,
    /// A node of the graph.
    Linked = 2,
    /// The same vector as a node, which names it in its chain.
    Twin = 3,
    /// Outside of the graph for good: see [`Probe::loose`].
    Loose = 4,
    /// A node that no snapshot needs and that is being taken out.
    Doomed = 5,
}

impl Kind {
    fn from_bits(bits: u32) -> Self {
        match bits {
            1 => Self::Placed,
            2 => Self::Linked,
            3 => Self::Twin,
            4 => Self::Loose,
            5 => Self::Doomed,
            _ => Self::Empty,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payload {
    Codes,
    F32,
    F16,
}

/// What is known of a slot beside its record; not read on the way of a search.
struct Cold {
    parent: AtomicU32,
    n_children: AtomicU32,
    older: AtomicU32,
    upper: AtomicU32,
}

/// Sizes that follow from the options.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    payload: Payload,
    metric: Metric,
    element: Element,
    /// Values or codes of a payload, with padding.
    n_payload: usize,
    n_values: usize,
    header_at: usize,
    record_lines: usize,
    exact_lines: usize,
    /// Links of the lowest layer; none in an index without a graph of ours.
    n_links: usize,
    n_upper: usize,
}

impl Layout {
    pub(crate) fn new(options: &Options, with_links: bool) -> Self {
        let dim = options.dim;
        let (payload, n_payload, bytes) = match (options.quantization, options.element) {
            (Quantization::Int8, _) => {
                let n = dim.next_multiple_of(CODE_LANES);
                (Payload::Codes, n, n)
            }
            (Quantization::None, Element::F32) => {
                let n = dim.next_multiple_of(F32_LANES);
                (Payload::F32, n, 4 * n)
            }
            (Quantization::None, Element::F16) => {
                let n = dim.next_multiple_of(F16_LANES);
                (Payload::F16, n, 2 * n)
            }
        };
        let header_at = bytes.div_ceil(8);
        let n_values = dim.next_multiple_of(F32_LANES);
        let exact_bytes = match (payload, options.element) {
            (Payload::Codes, Element::F32) => 4 * n_values,
            (Payload::Codes, Element::F16) => 2 * n_values,
            (Payload::F32 | Payload::F16, _) => 0,
        };
        Self {
            payload,
            metric: options.metric,
            element: options.element,
            n_payload,
            n_values,
            header_at,
            record_lines: Line::count_for(8 * (header_at + HEADER_WORDS)),
            exact_lines: Line::count_for(exact_bytes),
            n_links: if with_links { 2 * options.m } else { 0 },
            n_upper: if with_links { options.m } else { 0 },
        }
    }
}

impl Layout {
    pub(crate) fn record_lines(&self) -> usize {
        self.record_lines
    }
}

/// All slots. Behind a lock whose shared side every operation holds while it knows ids (`Store::slots`).
pub(crate) struct Slots {
    layout: Layout,
    kernels: &'static Kernels,
    records: Vec<Box<[Line]>>,
    exact: Vec<Box<[Line]>>,
    links: Vec<Box<[AtomicU32]>>,
    upper: Vec<Box<[AtomicU32]>>,
    cold: Vec<Box<[Cold]>>,
}

impl Slots {
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            kernels: kernels::best(),
            records: Vec::new(),
            exact: Vec::new(),
            links: Vec::new(),
            upper: Vec::new(),
            cold: Vec::new(),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.records.len() * CHUNK_SLOTS
    }

    pub(crate) fn upper_capacity(&self) -> usize {
        self.upper.len() * CHUNK_SLOTS
    }

    pub(crate) fn grow(&mut self) {
        let layout = &self.layout;
        let ids = |n: usize| (0..n).map(|_| AtomicU32::new(NONE)).collect();
        self.records.push(Line::zeroed(CHUNK_SLOTS * layout.record_lines));
        self.exact.push(Line::zeroed(CHUNK_SLOTS * layout.exact_lines));
        self.links.push(ids(CHUNK_SLOTS * layout.n_links));
        self.cold.push(
            (0..CHUNK_SLOTS)
                .map(|_| Cold {
                    parent: AtomicU32::new(NONE),
                    n_children: AtomicU32::new(0),
                    older: AtomicU32::new(NONE),
                    upper: AtomicU32::new(NONE),
                })
                .collect(),
        );
    }

    pub(crate) fn grow_upper(&mut self) {
        let n = CHUNK_SLOTS * self.layout.n_upper;
        self.upper.push((0..n).map(|_| AtomicU32::new(NONE)).collect());
    }

    /// Bytes of all chunks.
    pub(crate) fn memory_bytes(&self) -> usize {
        let layout = &self.layout;
        let slot = (layout.record_lines + layout.exact_lines) * Line::BYTES
            + 4 * layout.n_links
            + size_of::<Cold>();
        self.capacity() * slot + self.upper_capacity() * 4 * layout.n_upper
    }

    #[inline]
    fn record(&self, id: u32) -> &[Line] {
        let (chunk, slot) = (id as usize / CHUNK_SLOTS, id as usize % CHUNK_SLOTS);
        let n = self.layout.record_lines;
        &self.records[chunk][slot * n..(slot + 1) * n]
    }

    fn exact_lines(&self, id: u32) -> &[Line] {
        let (chunk, slot) = (id as usize / CHUNK_SLOTS, id as usize % CHUNK_SLOTS);
        let n = self.layout.exact_lines;
        &self.exact[chunk][slot * n..(slot + 1) * n]
    }

    #[inline]
    fn header(&self, id: u32, at: usize) -> &AtomicU64 {
        word(self.record(id), self.layout.header_at + at)
    }

    fn cold(&self, id: u32) -> &Cold {
        &self.cold[id as usize / CHUNK_SLOTS][id as usize % CHUNK_SLOTS]
    }

    /// Asks for a whole record ahead of its use.
    #[inline]
    pub(crate) fn prefetch(&self, id: u32) {
        for line in self.record(id) {
            kernels::prefetch(line);
        }
    }

    /// The same for what tells who sees an entry.
    #[inline]
    pub(crate) fn prefetch_header(&self, id: u32) {
        kernels::prefetch(self.header(id, 0));
        kernels::prefetch(self.header(id, HEADER_WORDS - 1));
    }

    pub(crate) fn key(&self, id: u32) -> u64 {
        self.header(id, 0).load(Relaxed)
    }

    pub(crate) fn from(&self, id: u32) -> u64 {
        self.header(id, 1).load(Relaxed)
    }

    pub(crate) fn to(&self, id: u32) -> u64 {
        self.header(id, 2).load(Acquire)
    }

    pub(crate) fn end(&self, id: u32, to: u64) {
        self.header(id, 2).store(to, Release);
    }

    /// Whether a reader at `at` sees the entry.
    #[inline]
    pub(crate) fn is_visible(&self, id: u32, at: u64) -> bool {
        self.from(id) <= at && at < self.to(id)
    }

    pub(crate) fn is_open(&self, id: u32) -> bool {
        self.to(id) == OPEN
    }

    #[inline]
    fn factor_and_norm2(&self, id: u32) -> (f32, f32) {
        unpack(self.header(id, 3).load(Relaxed))
    }

    pub(crate) fn norm2(&self, id: u32) -> f32 {
        self.factor_and_norm2(id).1
    }

    fn residual(&self, id: u32) -> f32 {
        unpack(self.header(id, 4).load(Relaxed)).0
    }

    #[inline]
    fn code_sum(&self, id: u32) -> i32 {
        unpack(self.header(id, 4).load(Relaxed)).1.to_bits().cast_signed()
    }

    pub(crate) fn kind(&self, id: u32) -> Kind {
        Kind::from_bits((self.header(id, 5).load(Acquire) >> 32) as u32)
    }

    #[inline]
    pub(crate) fn twin(&self, id: u32) -> u32 {
        self.header(id, 5).load(Acquire) as u32
    }

    /// Kind and twin change under the slot's stripe lock once the slot is published.
    pub(crate) fn set_kind(&self, id: u32, kind: Kind, twin: u32) {
        self.header(id, 5).store(u64::from(kind as u32) << 32 | u64::from(twin), Release);
    }

    pub(crate) fn parent(&self, id: u32) -> u32 {
        self.cold(id).parent.load(Acquire)
    }

    pub(crate) fn set_parent(&self, id: u32, parent: u32) {
        self.cold(id).parent.store(parent, Release);
    }

    pub(crate) fn n_children(&self, id: u32) -> &AtomicU32 {
        &self.cold(id).n_children
    }

    pub(crate) fn older(&self, id: u32) -> u32 {
        self.cold(id).older.load(Acquire)
    }

    pub(crate) fn set_older(&self, id: u32, older: u32) {
        self.cold(id).older.store(older, Release);
    }

    pub(crate) fn upper_at(&self, id: u32) -> u32 {
        self.cold(id).upper.load(Acquire)
    }

    pub(crate) fn set_upper_at(&self, id: u32, upper: u32) {
        self.cold(id).upper.store(upper, Release);
    }

    /// Ids a node names in a layer, ended by [`NONE`].
    #[inline]
    pub(crate) fn links(&self, id: u32, layer: usize) -> &[AtomicU32] {
        if layer == 0 {
            let n = self.layout.n_links;
            let (chunk, slot) = (id as usize / CHUNK_SLOTS, id as usize % CHUNK_SLOTS);
            return &self.links[chunk][slot * n..(slot + 1) * n];
        }
        let n = self.layout.n_upper;
        let block = self.upper_at(id) as usize + layer - 1;
        let (chunk, slot) = (block / CHUNK_SLOTS, block % CHUNK_SLOTS);
        &self.upper[chunk][slot * n..(slot + 1) * n]
    }

    /// The same, read one by one up to the end.
    #[inline]
    pub(crate) fn neighbours(&self, id: u32, layer: usize) -> impl Iterator<Item = u32> + '_ {
        self.links(id, layer).iter().map(|link| link.load(Acquire)).take_while(|&id| id != NONE)
    }

    /// Replaces a list of links. Readers may see a mixture of the old and the new one.
    pub(crate) fn set_links(&self, id: u32, layer: usize, to: &[u32]) {
        let links = self.links(id, layer);
        for (at, link) in links.iter().enumerate() {
            link.store(to.get(at).copied().unwrap_or(NONE), Release);
        }
    }

    /// Writes an entry into a slot that nobody else can name.
    pub(crate) fn write(&self, id: u32, key: u64, from: u64, to: u64, probe: &Probe) {
        let record = self.record(id);
        let halves = |x: &f32| half::f16::from_f32(*x).to_bits().to_ne_bytes();
        match self.layout.payload {
            Payload::Codes => {
                lines::write_bytes(record, probe.codes.iter().map(|c| c.cast_unsigned()));
                let exact = self.exact_lines(id);
                match self.layout.element {
                    Element::F32 => {
                        lines::write_bytes(exact, probe.values.iter().flat_map(|x| x.to_ne_bytes()))
                    }
                    Element::F16 => {
                        lines::write_bytes(exact, probe.values.iter().flat_map(halves));
                    }
                }
            }
            Payload::F32 => {
                lines::write_bytes(record, probe.values.iter().flat_map(|x| x.to_ne_bytes()));
            }
            Payload::F16 => lines::write_bytes(record, probe.values.iter().flat_map(halves)),
        }
        self.header(id, 0).store(key, Relaxed);
        self.header(id, 1).store(from, Relaxed);
        self.header(id, 2).store(to, Relaxed);
        self.header(id, 3).store(pack(probe.factor, probe.norm2), Relaxed);
        let sum = f32::from_bits(probe.code_sum.cast_unsigned());
        self.header(id, 4).store(pack(probe.residual, sum), Relaxed);
        self.set_parent(id, NONE);
        self.set_older(id, NONE);
        self.n_children(id).store(0, Relaxed);
        self.set_kind(id, Kind::Placed, NONE);
    }

    fn exact_f32(&self, id: u32) -> &[f32] {
        match self.layout.payload {
            Payload::F32 => plain_f32(self.record(id), self.layout.n_values),
            Payload::Codes | Payload::F16 => plain_f32(self.exact_lines(id), self.layout.n_values),
        }
    }

    fn exact_f16(&self, id: u32) -> &[u16] {
        match self.layout.payload {
            Payload::F16 => plain_u16(self.record(id), self.layout.n_values),
            Payload::Codes | Payload::F32 => plain_u16(self.exact_lines(id), self.layout.n_values),
        }
    }

    /// The vector of an entry, without padding, as f32.
    pub(crate) fn values(&self, id: u32, dim: usize) -> Vec<f32> {
        match self.layout.element {
            Element::F32 => self.exact_f32(id)[..dim].to_vec(),
            Element::F16 => self.exact_f16(id)[..dim]
                .iter()
                .map(|&bits| half::f16::from_bits(bits).to_f32_const())
                .collect(),
        }
    }

    /// What orders the answer, from the full vectors.
    pub(crate) fn exact_rank(&self, probe: &Probe, id: u32) -> f64 {
        let kernels = self.kernels;
        let dot = || match self.layout.element {
            Element::F32 => kernels.dot_f32(self.exact_f32(id), &probe.values),
            Element::F16 => kernels.dot_f16(self.exact_f16(id), &probe.values),
        };
        let l2 = || match self.layout.element {
            Element::F32 => kernels.l2_f32(self.exact_f32(id), &probe.values),
            Element::F16 => kernels.l2_f16(self.exact_f16(id), &probe.values),
        };
        quantize::rank_of(self.layout.metric, probe, self.norm2(id), dot, l2)
    }

    /// What orders the traversal: from codes where there are some.
    #[inline]
    pub(crate) fn rank(&self, probe: &Probe, id: u32) -> f32 {
        let (factor, norm2) = self.factor_and_norm2(id);
        let record = self.record(id);
        let dot = match self.layout.payload {
            Payload::Codes => {
                let codes = plain_i8(record, self.layout.n_payload);
                self.kernels.dot_i8(&probe.codes, codes, self.code_sum(id)) as f32
            }
            Payload::F32 => {
                let values = plain_f32(record, self.layout.n_payload);
                if self.layout.metric == Metric::L2 {
                    return self.kernels.l2_f32(values, &probe.values);
                }
                self.kernels.dot_f32(values, &probe.values)
            }
            Payload::F16 => {
                let values = plain_u16(record, self.layout.n_payload);
                if self.layout.metric == Metric::L2 {
                    return self.kernels.l2_f16(values, &probe.values);
                }
                self.kernels.dot_f16(values, &probe.values)
            }
        };
        self.rank_of_dot(dot * (factor * probe.factor), norm2, probe.norm2)
    }

    #[inline]
    fn rank_of_dot(&self, dot: f32, norm2_a: f32, norm2_b: f32) -> f32 {
        match self.layout.metric {
            Metric::L2 => norm2_a + norm2_b - 2.0 * dot,
            Metric::InnerProduct | Metric::Cosine => -dot,
        }
    }

    /// How far [`Slots::rank`] may be from [`Slots::exact_rank`], at most.
    #[inline]
    pub(crate) fn rank_error(&self, probe: &Probe, id: u32, rounding: f32) -> f32 {
        let metric = self.layout.metric;
        let norm2 = self.norm2(id);
        let (x, q) = (quantize::length(metric, norm2), probe.length(metric));
        // x·q − x̂·q̂ = x·(q−q̂) + (x−x̂)·q̂, and |q̂| is at most |q| + |q−q̂|.
        let off = x * probe.residual + self.residual(id) * (q + probe.residual);
        match metric {
            Metric::L2 => 2.0 * off + rounding * (norm2 + probe.norm2),
            Metric::InnerProduct | Metric::Cosine => off + rounding * x * q,
        }
    }

    /// The rank of two entries to one another.
    pub(crate) fn rank_between(&self, a: u32, b: u32) -> f32 {
        let (factor_a, norm2_a) = self.factor_and_norm2(a);
        let (factor_b, norm2_b) = self.factor_and_norm2(b);
        let (x, y, n) = (self.record(a), self.record(b), self.layout.n_payload);
        let dot = match self.layout.payload {
            Payload::Codes => {
                self.kernels.dot_i8(plain_i8(x, n), plain_i8(y, n), self.code_sum(b)) as f32
            }
            Payload::F32 => self.kernels.dot_f32(plain_f32(x, n), plain_f32(y, n)),
            Payload::F16 => self.kernels.dot_halves(plain_u16(x, n), plain_u16(y, n)),
        };
        self.rank_of_dot(dot * (factor_a * factor_b), norm2_a, norm2_b)
    }

    /// Whether two candidates lie in different directions, so that both are worth a link from where `a` has this rank.
    ///
    /// A little nearer to one another than to there is still apart: denser lists find more for each distance computed.
    pub(crate) fn is_apart(&self, a: u32, b: u32, rank: f32) -> bool {
        let between = self.rank_between(a, b);
        match self.layout.metric {
            Metric::L2 => between * APART_SLACK >= rank,
            Metric::Cosine => (1.0 + between) * APART_SLACK >= 1.0 + rank,
            // Not a distance: there is nothing to multiply.
            Metric::InnerProduct => between >= rank,
        }
    }

    /// Whether two entries have the same vector, bit for bit.
    pub(crate) fn is_same_vector(&self, a: u32, b: u32) -> bool {
        match self.layout.element {
            Element::F32 => self.exact_f32(a) == self.exact_f32(b),
            Element::F16 => self.exact_f16(a) == self.exact_f16(b),
        }
    }
}

fn pack(low: f32, high: f32) -> u64 {
    u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32
}

fn unpack(word: u64) -> (f32, f32) {
    (f32::from_bits(word as u32), f32::from_bits((word >> 32) as u32))
}
