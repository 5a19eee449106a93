//! Snapshots: entries, vectors and links as bytes (`docs/format/vector-index.md`).
//!
//! Lives here: writing and reading with a checksum on every block, so that damage is found before anything is used. Codes and
//! norms are not in it: they follow from the vectors. What does not fit together is an error, never a panic.

use std::{collections::VecDeque, io::Write, sync::atomic::Ordering::*};

use parking_lot::MutexGuard;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    error::{Error, Result},
    options::{Element, Engine, Metric, Options, Quantization},
    quantize::Probe,
    store::{
        Store,
        slots::{Kind, NONE, Slots},
    },
};

const MAGIC: &[u8; 8] = b"CXVECIDX";
const END: &[u8; 8] = b"CXVECEND";
const VERSION: u32 = 1;

/// Slots of a block: some hundred kilobytes at usual dimensions, so that neither side holds much.
const BLOCK_SLOTS: u32 = 256;

/// Length of the header before its checksum.
const HEADER_BYTES: usize = 64;

/// A graph's part of a snapshot.
pub(crate) struct Links<'a> {
    pub(crate) entry: Option<(u32, usize)>,
    pub(crate) root: u32,
    pub(crate) level: &'a dyn Fn(u32) -> usize,
    /// Holds a node's list of links still: one that is being rewritten may be read with a link missing.
    pub(crate) lock: &'a dyn Fn(u32) -> MutexGuard<'a, ()>,
}

/// What an opened snapshot says beside its entries.
pub(crate) struct Opened {
    pub(crate) applied: u64,
    pub(crate) entry: Option<u32>,
    pub(crate) root: u32,
}

/// Writes slots below `n_slots`. None of these may change its life meanwhile, or be half linked.
pub(crate) fn write(
    store: &Store,
    n_slots: u32,
    links: Option<&Links<'_>>,
    applied: u64,
    to: &mut dyn Write,
) -> Result<()> {
    let options = &store.options;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    for word in [
        VERSION,
        codes_of(options),
        options.dim as u32,
        options.m as u32,
        options.ef_construction as u32,
        n_slots,
        links.and_then(|links| links.entry).map_or(NONE, |(id, _)| id),
        links.map_or(NONE, |links| links.root),
    ] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    header.extend_from_slice(&applied.to_le_bytes());
    header.resize(HEADER_BYTES, 0);
    write_checked(to, &header)?;
    let mut block = Vec::new();
    let mut begin = 0;
    while begin < n_slots {
        let end = (begin + BLOCK_SLOTS).min(n_slots);
        block.clear();
        {
            let slots = store.slots.read();
            for id in begin..end {
                encode(&slots, options, id, n_slots, links, &mut block);
            }
        }
        to.write_all(&(block.len() as u32).to_le_bytes())?;
        write_checked(to, &block)?;
        begin = end;
    }
    to.write_all(END)?;
    Ok(())
}

fn write_checked(to: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes)?;
    to.write_all(&xxh3_64(bytes).to_le_bytes())?;
    Ok(())
}

fn codes_of(options: &Options) -> u32 {
    let metric = match options.metric {
        Metric::L2 => 0,
        Metric::InnerProduct => 1,
        Metric::Cosine => 2,
    };
    let element = match options.element {
        Element::F32 => 0,
        Element::F16 => 1,
    };
    let quantization = match options.quantization {
        Quantization::None => 0,
        Quantization::Int8 => 1,
    };
    let engine = match options.engine {
        Engine::Graph => 0,
        Engine::HnswRs => 1,
    };
    metric | element << 8 | quantization << 16 | engine << 24
}

fn encode(
    slots: &Slots,
    options: &Options,
    id: u32,
    n_slots: u32,
    links: Option<&Links<'_>>,
    block: &mut Vec<u8>,
) {
    let kind = slots.kind(id);
    block.push(kind as u8);
    if kind == Kind::Empty {
        return;
    }
    for word in [slots.key(id), slots.from(id), slots.to(id)] {
        block.extend_from_slice(&word.to_le_bytes());
    }
    for value in slots.values(id, options.dim) {
        match options.element {
            Element::F32 => block.extend_from_slice(&value.to_le_bytes()),
            Element::F16 => block.extend_from_slice(&half::f16::from_f32(value).to_le_bytes()),
        }
    }
    let Some(links) = links else { return };
    // A newer twin stands before the older ones.
    let mut twin = slots.twin(id);
    while twin != NONE && twin >= n_slots {
        twin = slots.twin(twin);
    }
    block.extend_from_slice(&twin.to_le_bytes());
    block.extend_from_slice(&slots.parent(id).to_le_bytes());
    if kind != Kind::Linked {
        return;
    }
    let _lock = (links.lock)(id);
    for layer in 0..=(links.level)(id) {
        let ids: Vec<u32> = slots.neighbours(id, layer).filter(|&other| other < n_slots).collect();
        block.push(ids.len() as u8);
        ids.iter().for_each(|other| block.extend_from_slice(&other.to_le_bytes()));
    }
}

/// Bytes that may end too soon.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) =
            self.0.split_at_checked(n).ok_or(Error::Damaged { what: "it ends too soon" })?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// So many bytes and their checksum.
    fn checked(&mut self, n: usize) -> Result<Reader<'a>> {
        let bytes = self.bytes(n)?;
        if self.u64()? == xxh3_64(bytes) {
            Ok(Reader(bytes))
        } else {
            Err(Error::Damaged { what: "a checksum is wrong" })
        }
    }
}

/// Fills an empty store from a snapshot.
pub(crate) fn read(
    bytes: &[u8],
    store: &Store,
    level: Option<&dyn Fn(u32) -> usize>,
) -> Result<Opened> {
    let mut reader = Reader(bytes);
    if !bytes.starts_with(MAGIC) {
        return Err(Error::Damaged { what: "it does not begin as one" });
    }
    let mut header = reader.checked(HEADER_BYTES)?;
    header.bytes(MAGIC.len())?;
    let options = &store.options;
    if header.u32()? != VERSION {
        return Err(Error::Foreign { what: "version" });
    }
    if header.u32()? != codes_of(options) {
        return Err(Error::Foreign { what: "metric, element type, quantization or engine" });
    }
    let sizes = [options.dim, options.m, options.ef_construction];
    for (what, expected) in ["dimensions", "m", "ef_construction"].into_iter().zip(sizes) {
        if header.u32()? as usize != expected {
            return Err(Error::Foreign { what });
        }
    }
    let (n_slots, entry, root) = (header.u32()?, header.u32()?, header.u32()?);
    let applied = header.u64()?;
    let mut graph = VecDeque::new();
    let mut n_read = 0;
    while n_read < n_slots {
        let n_bytes = reader.u32()? as usize;
        let mut block = reader.checked(n_bytes)?;
        for _ in 0..BLOCK_SLOTS.min(n_slots - n_read) {
            decode(&mut block, store, level, &mut graph)?;
            n_read += 1;
        }
        if !block.0.is_empty() {
            return Err(Error::Damaged { what: "a block holds more than its slots" });
        }
    }
    if reader.0 != END {
        return Err(Error::Damaged { what: "it does not end as one" });
    }
    store.restore_keys()?;
    if let Some(level) = level {
        link(store, n_slots, root, entry, graph, level)?;
    }
    Ok(Opened { applied, entry: (entry != NONE).then_some(entry), root })
}

/// A slot's part of the graph as read, before it is known that all ids exist.
struct Node {
    id: u32,
    kind: Kind,
    twin: u32,
    parent: u32,
    layers: Vec<Vec<u32>>,
}

fn decode(
    block: &mut Reader<'_>,
    store: &Store,
    level: Option<&dyn Fn(u32) -> usize>,
    graph: &mut VecDeque<Node>,
) -> Result<()> {
    let options = &store.options;
    let n_layers = |id: u32| level.map_or(0, |level| level(id));
    let kind = match block.u8()? {
        0 => {
            store.restore(None, &n_layers)?;
            return Ok(());
        }
        1 if level.is_none() => Kind::Placed,
        2 if level.is_some() => Kind::Linked,
        3 if level.is_some() => Kind::Twin,
        4 => Kind::Loose,
        _ => return Err(Error::Damaged { what: "unknown kind of slot" }),
    };
    let (key, from, to) = (block.u64()?, block.u64()?, block.u64()?);
    if from >= to {
        return Err(Error::Damaged { what: "an entry ends before it begins" });
    }
    let mut values = Vec::with_capacity(options.dim);
    for _ in 0..options.dim {
        values.push(match options.element {
            Element::F32 => f32::from_le_bytes(block.array()?),
            Element::F16 => half::f16::from_le_bytes(block.array()?).to_f32(),
        });
    }
    let probe =
        Probe::new(options, &values).map_err(|_| Error::Damaged { what: "a vector is not one" })?;
    let id = store.restore(Some((key, from, to, &probe)), &n_layers)?;
    let Some(level) = level else { return Ok(()) };
    let (twin, parent) = (block.u32()?, block.u32()?);
    let mut layers = Vec::new();
    if kind == Kind::Linked {
        for layer in 0..=level(id) {
            let n = usize::from(block.u8()?);
            if n > if layer == 0 { 2 * options.m } else { options.m } {
                return Err(Error::Damaged { what: "too many links" });
            }
            layers.push((0..n).map(|_| block.u32()).collect::<Result<_>>()?);
        }
    }
    graph.push_back(Node { id, kind, twin, parent, layers });
    Ok(())
}

fn link(
    store: &Store,
    n_slots: u32,
    root: u32,
    entry: u32,
    graph: VecDeque<Node>,
    level: &dyn Fn(u32) -> usize,
) -> Result<()> {
    let mut kinds = vec![Kind::Empty; n_slots as usize];
    for node in &graph {
        kinds[node.id as usize] = node.kind;
    }
    let is = |id: u32, kind: Kind| kinds.get(id as usize) == Some(&kind);
    let is_empty = !kinds.contains(&Kind::Linked);
    if [root, entry].into_iter().any(|id| if is_empty { id != NONE } else { !is(id, Kind::Linked) })
    {
        return Err(Error::Damaged { what: "no entry point" });
    }
    check_shape(&graph, &kinds, root)?;
    let slots = store.slots.read();
    for node in graph {
        let has_parent = match node.kind {
            Kind::Linked => node.id == root && node.parent == NONE || is(node.parent, Kind::Linked),
            Kind::Twin => is(node.parent, Kind::Linked),
            Kind::Empty | Kind::Placed | Kind::Loose | Kind::Doomed => true,
        };
        if !has_parent || (node.twin != NONE && !is(node.twin, Kind::Twin)) {
            return Err(Error::Damaged { what: "a parent or twin is missing" });
        }
        slots.set_kind(node.id, node.kind, node.twin);
        slots.set_parent(node.id, node.parent);
        if node.kind == Kind::Linked && node.parent != NONE {
            slots.n_children(node.parent).fetch_add(1, Relaxed);
        }
        for (layer, ids) in node.layers.iter().enumerate() {
            if !ids.iter().all(|&id| is(id, Kind::Linked) && level(id) >= layer) {
                return Err(Error::Damaged { what: "a link leads nowhere" });
            }
            slots.set_links(node.id, layer, ids);
        }
    }
    Ok(())
}

/// Each twin is in one chain at most, and all parents lead to the root: walks along them come to an end.
fn check_shape(graph: &VecDeque<Node>, kinds: &[Kind], root: u32) -> Result<()> {
    let mut parents = vec![NONE; kinds.len()];
    let mut is_chained = vec![false; kinds.len()];
    for node in graph {
        parents[node.id as usize] = node.parent;
        let Some(chained) = is_chained.get_mut(node.twin as usize) else { continue };
        if std::mem::replace(chained, true) {
            return Err(Error::Damaged { what: "a twin is in two chains" });
        }
    }
    let mut leads_to_root = vec![false; kinds.len()];
    if let Some(root) = leads_to_root.get_mut(root as usize) {
        *root = true;
    }
    for node in graph.iter().filter(|node| node.kind == Kind::Linked) {
        let mut path = Vec::new();
        let mut id = node.id;
        while leads_to_root.get(id as usize) == Some(&false) && path.len() <= kinds.len() {
            path.push(id);
            id = parents[id as usize];
        }
        if leads_to_root.get(id as usize) != Some(&true) {
            return Err(Error::Damaged { what: "a parent does not lead to the root" });
        }
        path.into_iter().for_each(|id| leads_to_root[id as usize] = true);
    }
    Ok(())
}
