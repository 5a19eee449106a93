//! The metadata file: log id, purge point, and a small key-value map (vote, and whatever the shard adds).
//!
//! Replaced as a whole: written to `meta.tmp`, synced, renamed to `meta`, directory synced. So it is the old or the new
//! one after a crash, never a mixture, and every change rewrites the vote and the purge point together. It is also what
//! makes a directory a log: it is created last, and a segment without it is refused.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use cortex_shard_api::ids::{LogIndex, Term};

use super::format::{LogId, VERSION, u32_at, u64_at, u128_at};
use super::{LogError, LogFiles, LogPoint, Vote};

const MAGIC: [u8; 8] = *b"CXLOGMET";
const HEADER_BYTES: usize = 80;
/// A vote and a handful of small values; more belongs into the storage.
pub(super) const METADATA_BYTES_MAX: usize = 1 << 20;

pub(super) const META_FILE: &str = "meta";
pub(super) const META_TEMPORARY: &str = "meta.tmp";

/// Key of the vote in the map. Keys of others must not begin with a dot.
const VOTE_KEY: &str = ".vote";

/// The decoded file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub log_id: LogId,
    /// Entries up to here are given up.
    pub purged: LogPoint,
    /// The oldest segment that counts; older files are leftovers of a purge.
    pub first_segment: u64,
    /// Sequence number of the first batch in it.
    pub first_seq: u64,
    /// Batches up to here were durable when this was written: one more proof, in another file.
    pub durable_seq: u64,
    pub values: BTreeMap<String, Bytes>,
}

impl Metadata {
    pub fn new(log_id: LogId) -> Metadata {
        Metadata {
            log_id,
            purged: LogPoint::default(),
            first_segment: 1,
            first_seq: 1,
            durable_seq: 0,
            values: BTreeMap::new(),
        }
    }

    pub fn vote(&self) -> Option<Vote> {
        let bytes = self.values.get(VOTE_KEY)?;
        let flags = bytes.get(16)?;
        Some(Vote {
            term: Term(u64_at(bytes, 0)?),
            node: if flags & 1 != 0 { Some(u64_at(bytes, 8)?) } else { None },
            is_committed: flags & 2 != 0,
        })
    }

    pub fn set_vote(&mut self, vote: Vote) {
        let mut bytes = Vec::with_capacity(17);
        bytes.extend_from_slice(&vote.term.0.to_le_bytes());
        bytes.extend_from_slice(&vote.node.unwrap_or(0).to_le_bytes());
        bytes.push(u8::from(vote.node.is_some()) | u8::from(vote.is_committed) << 1);
        self.values.insert(VOTE_KEY.to_owned(), bytes.into());
    }

    pub fn encode(&self) -> Result<Vec<u8>, LogError> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&self.log_id.0.to_le_bytes());
        out.extend_from_slice(&self.purged.index.0.to_le_bytes());
        out.extend_from_slice(&self.purged.term.0.to_le_bytes());
        out.extend_from_slice(&self.first_segment.to_le_bytes());
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&self.durable_seq.to_le_bytes());
        out.extend_from_slice(&(self.values.len() as u32).to_le_bytes());
        out.resize(HEADER_BYTES, 0);
        for (key, value) in &self.values {
            out.extend_from_slice(&(key.len() as u32).to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(value);
            if out.len() > METADATA_BYTES_MAX {
                break;
            }
        }
        if out.len() > METADATA_BYTES_MAX {
            return Err(LogError::MetadataTooLarge { bytes: out.len(), max: METADATA_BYTES_MAX });
        }
        let crc = crc32fast::hash(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        Ok(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Metadata, LogError> {
        let corrupt = |what: &str| LogError::corrupt(META_FILE, 0, what);
        let header = bytes
            .first_chunk::<HEADER_BYTES>()
            .ok_or_else(|| corrupt("shorter than its header"))?;
        if header[..8] != MAGIC {
            return Err(corrupt("not a log's metadata"));
        }
        let mut plain = bytes.to_vec();
        plain[12..16].fill(0);
        let version = u16::from_le_bytes([header[8], header[9]]);
        let is_intact = u32_at(bytes, 12) == Some(crc32fast::hash(&plain));
        if version != VERSION && (is_intact || version != 0) {
            let file = META_FILE.to_owned();
            return Err(LogError::Version { file, found: version, supported: VERSION });
        }
        if !is_intact {
            return Err(corrupt("checksum mismatch"));
        }
        decode_fields(bytes).ok_or_else(|| corrupt("malformed fields"))
    }
}

fn decode_fields(bytes: &[u8]) -> Option<Metadata> {
    let mut values = BTreeMap::new();
    let mut at = HEADER_BYTES;
    for _ in 0..u32_at(bytes, 72)? {
        let key_bytes = u32_at(bytes, at)? as usize;
        let value_bytes = u32_at(bytes, at + 4)? as usize;
        at += 8;
        let key = std::str::from_utf8(bytes.get(at..at.checked_add(key_bytes)?)?).ok()?;
        at += key_bytes;
        let value = bytes.get(at..at.checked_add(value_bytes)?)?;
        at += value_bytes;
        values.insert(key.to_owned(), Bytes::copy_from_slice(value));
    }
    (at == bytes.len()).then_some(())?;
    Some(Metadata {
        log_id: LogId(u128_at(bytes, 16)?),
        purged: LogPoint { index: LogIndex(u64_at(bytes, 32)?), term: Term(u64_at(bytes, 40)?) },
        first_segment: u64_at(bytes, 48)?,
        first_seq: u64_at(bytes, 56)?,
        durable_seq: u64_at(bytes, 64)?,
        values,
    })
}

/// Reads the file; `None` if there is none.
pub(super) fn read(files: &dyn LogFiles) -> Result<Option<Metadata>, LogError> {
    let file = match files.open(META_FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LogError::io("open meta", error)),
    };
    let length = file.len().map_err(|error| LogError::io("length of meta", error))?;
    if length > METADATA_BYTES_MAX as u64 {
        return Err(LogError::corrupt(META_FILE, length, "longer than it can be"));
    }
    let mut bytes = vec![0; length as usize];
    let n = file.read_at(&mut bytes, 0).map_err(|error| LogError::io("read meta", error))?;
    bytes.truncate(n);
    Metadata::decode(&bytes).map(Some)
}

/// Replaces the file, durably.
pub(super) fn write(files: &dyn LogFiles, encoded: &[u8]) -> io::Result<()> {
    match files.remove(META_TEMPORARY) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = files.create(META_TEMPORARY)?;
    file.write_at(encoded, 0)?;
    file.sync_data()?;
    files.rename(META_TEMPORARY, META_FILE)?;
    files.sync_dir()
}
