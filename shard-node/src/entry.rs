//! Entries of the shard log: what a shard does, as bytes.
//!
//! Lives here: encoding and decoding, nothing else; `txn::sequencer` writes entries and `recovery` replays them. An
//! entry is physical (keys and values as stored), deterministic and idempotent. Format: docs/format/entries.md.

use bytes::{Buf, BufMut, Bytes};
use cortex_shard_api::{LogIndex, StorageId};

use crate::{
    stats::Delta,
    storage::{Keyspace, Op},
};

/// Version of every entry. An entry of another version stops the shard.
const VERSION: u8 = 1;

const KIND_BATCH: u8 = 1;
const KIND_CHUNK: u8 = 2;
const KIND_COMMIT: u8 = 3;
const KIND_DROP: u8 = 4;
const KIND_DROPPED: u8 = 5;

/// Set in an operation's tag when it deletes.
const TAG_DELETE: u8 = 0x80;

/// Bytes in front of the operations of an empty batch.
pub(crate) const HEADER_BYTES: usize = 2;

/// Where a chunk or batch is cut: big enough to be written at disk speed, small enough to be held several times.
/// Tests cut small, so that big transactions stay quick.
pub(crate) const CHUNK_BYTES: usize = if cfg!(test) { 4 << 10 } else { 1 << 20 };

/// A decoded entry. Keys and values are slices of the payload.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A whole transaction, or a change of the engine's own.
    Batch { deltas: Vec<Delta>, ops: OpReader },
    /// A part of a transaction that nobody sees before its commit record.
    Chunk { ops: OpReader },
    /// Makes the chunks `first .. first + n_chunks` visible; it stands directly behind them.
    Commit { first: LogIndex, n_chunks: u64, deltas: Vec<Delta> },
    /// These storages have no keys any more; their deletion begins.
    Drop { storages: Vec<StorageId> },
    /// The keys of this storage are deleted.
    Dropped { storage: StorageId },
}

/// Why bytes are not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    #[error("log entry of version {0}, this program writes version {VERSION}")]
    Version(u8),
    #[error("malformed log entry: {0}")]
    Malformed(&'static str),
}

/// Builds a batch or a chunk.
pub(crate) struct OpWriter {
    bytes: Vec<u8>,
    n_ops: usize,
}

impl OpWriter {
    pub(crate) fn batch(deltas: &[Delta]) -> OpWriter {
        let mut bytes = vec![VERSION, KIND_BATCH];
        put_deltas(&mut bytes, deltas);
        OpWriter { bytes, n_ops: 0 }
    }

    pub(crate) fn chunk() -> OpWriter {
        let mut bytes = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
        bytes.extend_from_slice(&[VERSION, KIND_CHUNK]);
        OpWriter { bytes, n_ops: 0 }
    }

    /// Appends a change. A row's value gets the index of the transaction's first entry in front.
    pub(crate) fn push(
        &mut self,
        keyspace: Keyspace,
        key: &[u8],
        value: Option<&[u8]>,
        version: LogIndex,
    ) {
        match value {
            Some(value) if keyspace == Keyspace::Rows => {
                self.n_ops += 1;
                self.bytes.push(keyspace as u8);
                put_bytes(&mut self.bytes, key);
                put_varint(&mut self.bytes, value.len() as u64 + 8);
                self.bytes.put_u64(version.0);
                self.bytes.extend_from_slice(value);
            }
            value => self.push_stored(keyspace, key, value),
        }
    }

    /// Appends a change whose value is as it will be stored.
    pub(crate) fn push_stored(&mut self, keyspace: Keyspace, key: &[u8], value: Option<&[u8]>) {
        self.n_ops += 1;
        match value {
            Some(value) => {
                self.bytes.push(keyspace as u8);
                put_bytes(&mut self.bytes, key);
                put_bytes(&mut self.bytes, value);
            }
            None => {
                self.bytes.push(keyspace as u8 | TAG_DELETE);
                put_bytes(&mut self.bytes, key);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.n_ops == 0
    }

    pub(crate) fn finish(self) -> Bytes {
        Bytes::from(self.bytes)
    }
}

/// A commit record.
pub(crate) fn commit(first: LogIndex, n_chunks: u64, deltas: &[Delta]) -> Bytes {
    let mut bytes = vec![VERSION, KIND_COMMIT];
    bytes.put_u64(first.0);
    bytes.put_u64(n_chunks);
    put_deltas(&mut bytes, deltas);
    Bytes::from(bytes)
}

pub(crate) fn drop_storages(storages: &[StorageId]) -> Bytes {
    let mut bytes = vec![VERSION, KIND_DROP];
    put_varint(&mut bytes, storages.len() as u64);
    for storage in storages {
        bytes.put_u32(storage.0);
    }
    Bytes::from(bytes)
}

pub(crate) fn dropped(storage: StorageId) -> Bytes {
    let mut bytes = vec![VERSION, KIND_DROPPED];
    bytes.put_u32(storage.0);
    Bytes::from(bytes)
}

impl Entry {
    pub(crate) fn decode(payload: &Bytes) -> Result<Entry, EntryError> {
        let mut rest = payload.clone();
        if rest.len() < HEADER_BYTES {
            return Err(EntryError::Malformed("too short"));
        }
        let version = rest.get_u8();
        if version != VERSION {
            return Err(EntryError::Version(version));
        }
        let entry = match rest.get_u8() {
            KIND_BATCH => Entry::Batch { deltas: get_deltas(&mut rest)?, ops: OpReader(rest) },
            KIND_CHUNK => Entry::Chunk { ops: OpReader(rest) },
            KIND_COMMIT => {
                let first = LogIndex(get_u64(&mut rest)?);
                let n_chunks = get_u64(&mut rest)?;
                Entry::Commit { first, n_chunks, deltas: get_deltas(&mut rest)? }
            }
            KIND_DROP => {
                let n_storages = get_varint(&mut rest)?;
                let mut storages = Vec::new();
                for _ in 0..n_storages {
                    storages.push(StorageId(get_u32(&mut rest)?));
                }
                Entry::Drop { storages }
            }
            KIND_DROPPED => Entry::Dropped { storage: StorageId(get_u32(&mut rest)?) },
            _ => return Err(EntryError::Malformed("unknown kind")),
        };
        Ok(entry)
    }
}

/// The operations of a batch or chunk, in order.
#[derive(Debug)]
pub(crate) struct OpReader(Bytes);

impl OpReader {
    fn read(&mut self) -> Result<Op, EntryError> {
        let tag = self.0.get_u8();
        let keyspace = Keyspace::from_byte(tag & !TAG_DELETE)
            .ok_or(EntryError::Malformed("unknown keyspace"))?;
        let key = get_bytes(&mut self.0)?;
        if key.is_empty() {
            return Err(EntryError::Malformed("empty key"));
        }
        let value = if tag & TAG_DELETE == 0 { Some(get_bytes(&mut self.0)?) } else { None };
        Ok(Op { keyspace, key, value })
    }
}

impl Iterator for OpReader {
    type Item = Result<Op, EntryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let op = self.read();
        if op.is_err() {
            self.0.clear();
        }
        Some(op)
    }
}

fn put_deltas(bytes: &mut Vec<u8>, deltas: &[Delta]) {
    put_varint(bytes, deltas.len() as u64);
    for delta in deltas {
        bytes.put_u32(delta.storage.0);
        bytes.put_i64(delta.rows);
        bytes.put_i64(delta.bytes);
    }
}

fn get_deltas(bytes: &mut Bytes) -> Result<Vec<Delta>, EntryError> {
    let n_deltas = get_varint(bytes)?;
    let mut deltas = Vec::new();
    for _ in 0..n_deltas {
        let storage = StorageId(get_u32(bytes)?);
        // Two's complement both ways.
        let rows = get_u64(bytes)? as i64;
        let n_bytes = get_u64(bytes)? as i64;
        deltas.push(Delta { storage, rows, bytes: n_bytes });
    }
    Ok(deltas)
}

/// LEB128.
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

pub(crate) fn put_bytes(bytes: &mut Vec<u8>, value: &[u8]) {
    put_varint(bytes, value.len() as u64);
    bytes.extend_from_slice(value);
}

pub(crate) fn get_varint(bytes: &mut Bytes) -> Result<u64, EntryError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        if bytes.is_empty() {
            return Err(EntryError::Malformed("number cut off"));
        }
        let byte = bytes.get_u8();
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(EntryError::Malformed("number too long"))
}

pub(crate) fn get_bytes(bytes: &mut Bytes) -> Result<Bytes, EntryError> {
    let len = get_varint(bytes)? as usize;
    if len > bytes.len() {
        return Err(EntryError::Malformed("bytes cut off"));
    }
    Ok(bytes.split_to(len))
}

fn get_u32(bytes: &mut Bytes) -> Result<u32, EntryError> {
    bytes.try_get_u32().map_err(|_| EntryError::Malformed("number cut off"))
}

fn get_u64(bytes: &mut Bytes) -> Result<u64, EntryError> {
    bytes.try_get_u64().map_err(|_| EntryError::Malformed("number cut off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_reads_back_and_damage_is_an_error() {
        let delta = Delta { storage: StorageId(7), rows: -1, bytes: 300 };
        let mut writer = OpWriter::batch(&[delta]);
        writer.push(Keyspace::Rows, b"key", Some(b"row"), LogIndex(9));
        writer.push(Keyspace::Index, b"entry", None, LogIndex(9));
        let payload = writer.finish();
        let Ok(Entry::Batch { deltas, ops }) = Entry::decode(&payload) else {
            panic!("not a batch");
        };
        assert_eq!(deltas, [delta]);
        let ops: Vec<Op> = ops.collect::<Result<_, _>>().expect("reads back");
        assert_eq!(&ops[0].key[..], b"key");
        assert_eq!(ops[0].value.as_deref(), Some(&b"\0\0\0\0\0\0\0\x09row"[..]));
        assert_eq!((ops[1].keyspace, &ops[1].value), (Keyspace::Index, &None));
        for cut in 0..payload.len() {
            if let Ok(Entry::Batch { ops, .. }) = Entry::decode(&payload.slice(..cut)) {
                let n_ops = ops.filter(Result::is_ok).count();
                assert!(n_ops < 2, "cut at {cut}");
            }
        }
    }
}
