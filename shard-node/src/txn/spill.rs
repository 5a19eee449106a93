//! Sorted runs: the part of a big write set that is on disk until its commit.
//!
//! Lives here: writing a run, looking a key up in it, reading it in order. A run is private scratch, not a format: it
//! dies with its transaction or, after a crash, with the next open. Its memory is one index entry per block and ten
//! bits per key.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::write_set::{Version, Written};
use crate::{
    entry::{EntryError, get_bytes, get_varint, put_bytes, put_varint},
    storage::{Keyspace, StorageError},
};

/// Entries are found by binary search over blocks of about this size.
const BLOCK_BYTES: usize = 16 << 10;

/// Blocks read at a time in order.
const READ_AHEAD_BLOCKS: usize = 16;

/// Gives a false positive rate of about 1%.
const BLOOM_BITS_PER_KEY: usize = 10;
const BLOOM_HASHES: u64 = 7;

/// Numbers the files of this process.
static NEXT_RUN: AtomicU64 = AtomicU64::new(0);

fn io_error(error: io::Error) -> StorageError {
    StorageError::Io(format!("spilling a transaction's writes: {error}"))
}

impl From<EntryError> for StorageError {
    fn from(error: EntryError) -> StorageError {
        StorageError::Corrupt(error.to_string())
    }
}

struct Bloom(Vec<u64>);

impl Bloom {
    fn new(n_keys: usize) -> Bloom {
        Bloom(vec![0; (n_keys * BLOOM_BITS_PER_KEY).div_ceil(64).max(1)])
    }

    fn bits(&self, keyspace: Keyspace, key: &[u8]) -> impl Iterator<Item = (usize, u64)> + use<> {
        let hash = xxh3_64_with_seed(key, keyspace as u64);
        let step = hash.rotate_left(32) | 1;
        let n_bits = self.0.len() as u64 * 64;
        (0..BLOOM_HASHES).map(move |i| {
            let bit = hash.wrapping_add(i.wrapping_mul(step)) % n_bits;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    fn insert(&mut self, keyspace: Keyspace, key: &[u8]) {
        for (word, bit) in self.bits(keyspace, key) {
            if let Some(word) = self.0.get_mut(word) {
                *word |= bit;
            }
        }
    }

    fn may_contain(&self, keyspace: Keyspace, key: &[u8]) -> bool {
        self.bits(keyspace, key).all(|(word, bit)| self.0.get(word).is_some_and(|w| w & bit != 0))
    }
}

/// The file goes away with its last user.
struct RunFile {
    file: File,
    path: PathBuf,
}

impl Drop for RunFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a spilled run was not removed");
        }
    }
}

struct Block {
    keyspace: Keyspace,
    first_key: Bytes,
    offset: u64,
}

/// First and last key of a keyspace in a run.
struct Span {
    keyspace: Keyspace,
    first: Bytes,
    last: Bytes,
}

struct Content {
    file: RunFile,
    blocks: Vec<Block>,
    spans: Vec<Span>,
    bytes: u64,
    bloom: Bloom,
    first_mark: u32,
    last_mark: u32,
}

/// A sorted run. Cheap to clone with other marks cancelled.
pub(crate) struct Run {
    content: Arc<Content>,
    /// Versions with marks from here on are undone.
    cancelled_from: u32,
}

/// Writes a run in (keyspace, key) order.
pub(crate) struct RunWriter {
    writer: BufWriter<File>,
    path: PathBuf,
    blocks: Vec<Block>,
    block: Vec<u8>,
    spans: Vec<Span>,
    offset: u64,
    bloom: Bloom,
    first_mark: u32,
    last_mark: u32,
}

impl RunWriter {
    pub(crate) fn create(directory: &Path, n_keys: usize) -> Result<RunWriter, StorageError> {
        fs::create_dir_all(directory).map_err(io_error)?;
        let number = NEXT_RUN.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{}-{number}.run", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        Ok(RunWriter {
            writer: BufWriter::with_capacity(1 << 20, file.map_err(io_error)?),
            path,
            blocks: Vec::new(),
            block: Vec::with_capacity(2 * BLOCK_BYTES),
            spans: Vec::new(),
            offset: 0,
            bloom: Bloom::new(n_keys),
            first_mark: u32::MAX,
            last_mark: 0,
        })
    }

    pub(crate) fn push(
        &mut self,
        keyspace: Keyspace,
        key: &Bytes,
        written: &Written,
    ) -> Result<(), StorageError> {
        if self.block.is_empty() {
            let block = Block { keyspace, first_key: key.clone(), offset: self.offset };
            self.blocks.push(block);
        }
        self.bloom.insert(keyspace, key);
        match self.spans.last_mut() {
            Some(span) if span.keyspace == keyspace => span.last = key.clone(),
            Some(_) | None => {
                self.spans.push(Span { keyspace, first: key.clone(), last: key.clone() });
            }
        }
        self.block.push(keyspace as u8);
        put_bytes(&mut self.block, key);
        // 0 is "nothing committed", so that a size is shifted by one.
        put_varint(&mut self.block, written.base.map_or(0, |base| base + 1));
        put_varint(&mut self.block, written.versions.len() as u64);
        for version in &written.versions {
            self.first_mark = self.first_mark.min(version.mark);
            self.last_mark = self.last_mark.max(version.mark);
            put_varint(&mut self.block, version.epoch);
            self.block.put_u32(version.mark);
            self.block.push(u8::from(version.value.is_some()));
            if let Some(value) = &version.value {
                put_bytes(&mut self.block, value);
            }
        }
        if self.block.len() >= BLOCK_BYTES {
            self.end_block()?;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), StorageError> {
        self.writer.write_all(&self.block).map_err(io_error)?;
        self.offset += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<Run, StorageError> {
        self.end_block()?;
        let file = self.writer.into_inner().map_err(|error| io_error(error.into_error()))?;
        let content = Content {
            file: RunFile { file, path: self.path },
            blocks: self.blocks,
            spans: self.spans,
            bytes: self.offset,
            bloom: self.bloom,
            first_mark: self.first_mark,
            last_mark: self.last_mark,
        };
        Ok(Run { content: Arc::new(content), cancelled_from: u32::MAX })
    }
}

impl Run {
    pub(crate) fn bytes(&self) -> u64 {
        self.content.bytes
    }

    pub(crate) fn first_mark(&self) -> u32 {
        self.content.first_mark
    }

    /// The last mark that is not undone.
    pub(crate) fn last_mark(&self) -> u32 {
        self.content.last_mark.min(self.cancelled_from.saturating_sub(1))
    }

    pub(crate) fn without_marks_from(&self, mark: u32) -> Run {
        Run { content: self.content.clone(), cancelled_from: mark.min(self.cancelled_from) }
    }

    /// Whether it has no key from `first` to `last`, by the ends of what it has.
    pub(crate) fn is_outside(&self, keyspace: Keyspace, first: &[u8], last: &[u8]) -> bool {
        let mut spans = self.content.spans.iter().filter(|span| span.keyspace == keyspace);
        spans.all(|span| span.last[..] < *first || span.first[..] > *last)
    }

    pub(crate) fn get(
        &self,
        keyspace: Keyspace,
        key: &[u8],
    ) -> Result<Option<Written>, StorageError> {
        if self.is_outside(keyspace, key, key) || !self.content.bloom.may_contain(keyspace, key) {
            return Ok(None);
        }
        for entry in self.read_from(keyspace, key)? {
            let (at, found, written) = entry?;
            if (at, &found[..]) == (keyspace, key) {
                return Ok(Some(written));
            }
            if (at, &found[..]) > (keyspace, key) {
                break;
            }
        }
        Ok(None)
    }

    /// Entries from the first one at or behind the key on.
    pub(crate) fn read_from(
        &self,
        keyspace: Keyspace,
        key: &[u8],
    ) -> Result<RunReader, StorageError> {
        let blocks = &self.content.blocks;
        let behind = blocks
            .partition_point(|block| (block.keyspace, &block.first_key[..]) <= (keyspace, key));
        let mut reader = RunReader {
            content: self.content.clone(),
            cancelled_from: self.cancelled_from,
            next_block: behind.saturating_sub(1),
            // Most reads are of one key.
            n_ahead: 1,
            buffer: Bytes::new(),
            skipped: None,
        };
        while let Some(entry) = reader.read_next()? {
            if (entry.0, &entry.1[..]) >= (keyspace, key) {
                reader.skipped = Some(entry);
                break;
            }
        }
        Ok(reader)
    }
}

/// Reads a run in order. Entries whose versions are all undone are left out.
pub(crate) struct RunReader {
    content: Arc<Content>,
    cancelled_from: u32,
    next_block: usize,
    n_ahead: usize,
    buffer: Bytes,
    /// Read while looking for the start.
    skipped: Option<(Keyspace, Bytes, Written)>,
}

impl RunReader {
    pub(super) fn read_next(&mut self) -> Result<Option<(Keyspace, Bytes, Written)>, StorageError> {
        if let Some(entry) = self.skipped.take() {
            return Ok(Some(entry));
        }
        loop {
            if self.buffer.is_empty() && !self.read_blocks()? {
                return Ok(None);
            }
            let (keyspace, key, written) = self.parse()?;
            if !written.versions.is_empty() {
                return Ok(Some((keyspace, key, written)));
            }
        }
    }

    fn read_blocks(&mut self) -> Result<bool, StorageError> {
        let Some(first) = self.content.blocks.get(self.next_block) else { return Ok(false) };
        let end_block = self.next_block + self.n_ahead;
        let end =
            self.content.blocks.get(end_block).map_or(self.content.bytes, |block| block.offset);
        let mut bytes = vec![0; (end - first.offset) as usize];
        self.content.file.file.read_exact_at(&mut bytes, first.offset).map_err(io_error)?;
        self.buffer = Bytes::from(bytes);
        self.next_block = end_block;
        self.n_ahead = READ_AHEAD_BLOCKS;
        Ok(true)
    }

    fn parse(&mut self) -> Result<(Keyspace, Bytes, Written), StorageError> {
        let cut_off = || StorageError::Corrupt("a spilled run is damaged".to_owned());
        let bytes = &mut self.buffer;
        let keyspace = bytes.try_get_u8().ok().and_then(Keyspace::from_byte).ok_or_else(cut_off)?;
        let key = get_bytes(bytes)?;
        let base = get_varint(bytes)?.checked_sub(1);
        let n_versions = get_varint(bytes)?;
        let mut versions = SmallVec::new();
        for _ in 0..n_versions {
            let epoch = get_varint(bytes)?;
            let mark = bytes.try_get_u32().map_err(|_| cut_off())?;
            let has_value = bytes.try_get_u8().map_err(|_| cut_off())? == 1;
            let value = if has_value { Some(get_bytes(bytes)?) } else { None };
            if mark < self.cancelled_from {
                versions.push(Version { epoch, mark, value });
            }
        }
        Ok((keyspace, key, Written { base, versions }))
    }
}
