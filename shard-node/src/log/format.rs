//! The bytes of a log: segment headers, batches and marks. Pure: slices in, values out. `docs/format/log.md` has the tables.
//!
//! Every checksum of a batch begins with the log id, the segment and the offset. So a batch is only valid where it was
//! written: leftovers in a recycled segment, a page that the disk wrote to the wrong place and another shard's bytes all
//! fail, without having to clear anything first.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;
use cortex_shard_api::ids::{LogIndex, Term};

use super::{Entry, LogError};

/// Version of segments and metadata alike.
pub(super) const VERSION: u16 = 1;

/// Bounds what a read must hold at once. The engine's chunk records are a few MiB.
pub const ENTRY_BYTES_MAX: usize = 64 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"CXLOGSEG";
/// "CXB1", little-endian.
const BATCH_MAGIC: u32 = 0x3142_5843;

pub(super) const SEGMENT_HEADER_BYTES: usize = 80;
/// The mark of a segment has a page of its own, so that one bad page never takes the last batch and its proof.
pub(super) const MARK_OFFSET: u64 = 4096;
pub(super) const FIRST_BATCH: u64 = 8192;
pub(super) const BATCH_HEADER_BYTES: usize = 56;
/// Batches begin at multiples of this, so that recovery can look for headers.
pub(super) const BATCH_ALIGN: usize = 8;
/// `len u32, term u64` before each payload.
pub(super) const ENTRY_HEADER_BYTES: usize = 12;
/// What one body can be: the largest entry, or many small ones (`append::BATCH_BYTES`), which are fewer.
const BODY_BYTES_MAX: usize = ENTRY_BYTES_MAX + ENTRY_HEADER_BYTES + BATCH_ALIGN;

/// Identity of one log, in every file of it. A copy that lives its own life should get its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogId(pub u128);

impl LogId {
    /// A fresh id. The standard library's hash keys are the operating system's randomness.
    pub fn random() -> LogId {
        let half = || u128::from(RandomState::new().build_hasher().finish());
        LogId(half() << 64 | half())
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u128_at(bytes: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Name of a segment's file.
pub(super) fn segment_name(segment: u64) -> String {
    format!("{segment:016}.seg")
}

/// The segment that a file name stands for.
pub(super) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 16).then(|| digits.parse().ok()).flatten()
}

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub log_id: LogId,
    pub segment: u64,
    /// Sequence number of its first batch.
    pub first_seq: u64,
    /// The index that the log expected when the segment began.
    pub first_index: LogIndex,
    /// End of the last batch in the segment before it; 0 for the first.
    pub previous_end: u64,
    /// The file was at least this long, durably, before the header was written. Shorter now: cut off.
    pub allocated: u64,
    /// The file held an older segment: what lies behind the end is not zero.
    pub is_recycled: bool,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u16::from(self.is_recycled).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.log_id.0.to_le_bytes());
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&self.first_index.0.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&self.allocated.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        let mut block = [0; SEGMENT_HEADER_BYTES];
        block.copy_from_slice(&out);
        let crc = crc32fast::hash(&block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// `Ok(None)`: no valid header, as in a file that was never begun or is damaged. Errors: another version, another log.
    pub fn decode(
        file: &str,
        bytes: &[u8],
        expected: LogId,
    ) -> Result<Option<SegmentHeader>, LogError> {
        let Some(block) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>() else { return Ok(None) };
        if block[..8] != SEGMENT_MAGIC {
            return Ok(None);
        }
        // Another version may place its checksum elsewhere, so this version's checksum only decides for its own files.
        let version = u16::from_le_bytes([block[8], block[9]]);
        let mut plain = *block;
        plain[12..16].fill(0);
        if u32_at(block, 12) != Some(crc32fast::hash(&plain)) {
            return match version {
                0 | VERSION => Ok(None),
                found => {
                    Err(LogError::Version { file: file.to_owned(), found, supported: VERSION })
                }
            };
        }
        if version != VERSION {
            let file = file.to_owned();
            return Err(LogError::Version { file, found: version, supported: VERSION });
        }
        let header = (|| {
            Some(SegmentHeader {
                log_id: LogId(u128_at(block, 16)?),
                segment: u64_at(block, 32)?,
                first_seq: u64_at(block, 40)?,
                first_index: LogIndex(u64_at(block, 48)?),
                previous_end: u64_at(block, 56)?,
                allocated: u64_at(block, 64)?,
                is_recycled: u16_at(block, 10)? & 1 != 0,
            })
        })();
        match header {
            Some(header) if header.log_id != expected => {
                Err(LogError::Foreign { file: file.to_owned(), found: header.log_id, expected })
            }
            header => Ok(header),
        }
    }
}

/// What a batch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum BatchKind {
    /// Entries from `first_index` on.
    Entries = 1,
    /// Nothing; it stands behind the last batch and says that it is durable. Overwritten by the next batch.
    Mark = 2,
    /// Removes `first_index` and everything after it.
    Truncate = 3,
    /// Forgets everything; the log continues at `first_index`. Body: the term of the entry before it.
    Reset = 4,
}

/// The fixed part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub kind: BatchKind,
    /// Batches count from 1 without gaps, through all segments. A mark repeats the number of the last batch.
    pub seq: u64,
    /// Every batch up to this one was durable when this header was written. This is what turns a bad batch into a proof
    /// of corruption.
    pub durable_seq: u64,
    /// End of the last batch in the segment before this one.
    pub previous_end: u64,
    pub first_index: LogIndex,
    pub n_entries: u32,
    pub body_bytes: u32,
    pub body_crc: u32,
}

impl BatchHeader {
    /// Bytes from the header to where the next batch begins.
    pub fn total_bytes(&self) -> usize {
        (BATCH_HEADER_BYTES + self.body_bytes as usize).next_multiple_of(BATCH_ALIGN)
    }

    pub fn encode(&self, place: Place) -> [u8; BATCH_HEADER_BYTES] {
        let mut block = [0; BATCH_HEADER_BYTES];
        block[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        block[8..12].copy_from_slice(&self.body_crc.to_le_bytes());
        block[12] = self.kind as u8;
        block[16..24].copy_from_slice(&self.seq.to_le_bytes());
        block[24..32].copy_from_slice(&self.durable_seq.to_le_bytes());
        block[32..40].copy_from_slice(&self.previous_end.to_le_bytes());
        block[40..48].copy_from_slice(&self.first_index.0.to_le_bytes());
        block[48..52].copy_from_slice(&self.body_bytes.to_le_bytes());
        block[52..56].copy_from_slice(&self.n_entries.to_le_bytes());
        let crc = place.checksum(&block[8..]);
        block[4..8].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// The header at the beginning of `bytes`, if it was written exactly here.
    pub fn decode(bytes: &[u8], place: Place) -> Option<BatchHeader> {
        let block = bytes.first_chunk::<BATCH_HEADER_BYTES>()?;
        if u32_at(block, 0)? != BATCH_MAGIC || u32_at(block, 4)? != place.checksum(&block[8..]) {
            return None;
        }
        let header = BatchHeader {
            kind: match block[12] {
                1 => BatchKind::Entries,
                2 => BatchKind::Mark,
                3 => BatchKind::Truncate,
                4 => BatchKind::Reset,
                _ => return None,
            },
            seq: u64_at(block, 16)?,
            durable_seq: u64_at(block, 24)?,
            previous_end: u64_at(block, 32)?,
            first_index: LogIndex(u64_at(block, 40)?),
            body_bytes: u32_at(block, 48)?,
            n_entries: u32_at(block, 52)?,
            body_crc: u32_at(block, 8)?,
        };
        (header.body_bytes as usize <= BODY_BYTES_MAX).then_some(header)
    }

    /// The body behind the header in `bytes`, if it is whole.
    pub fn body<'a>(&self, bytes: &'a [u8], place: Place) -> Option<&'a [u8]> {
        let body = bytes.get(BATCH_HEADER_BYTES..)?.get(..self.body_bytes as usize)?;
        (place.checksum(body) == self.body_crc).then_some(body)
    }
}

/// Where a batch stands: the seed of its checksums.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub log_id: LogId,
    pub segment: u64,
    pub offset: u64,
}

impl Place {
    fn checksum(&self, bytes: &[u8]) -> u32 {
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&self.log_id.0.to_le_bytes());
        seed[16..24].copy_from_slice(&self.segment.to_le_bytes());
        seed[24..].copy_from_slice(&self.offset.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&seed);
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// Appends one batch to `out`. `header.body_bytes`, `body_crc` and `n_entries` are computed here.
pub(super) fn encode_batch(
    out: &mut Vec<u8>,
    place: Place,
    mut header: BatchHeader,
    entries: &[Entry],
    extra: &[u8],
) {
    let start = out.len();
    out.resize(start + BATCH_HEADER_BYTES, 0);
    for entry in entries {
        // `append` has checked the size against ENTRY_BYTES_MAX.
        out.extend_from_slice(&(entry.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&entry.term.0.to_le_bytes());
        out.extend_from_slice(&entry.payload);
    }
    out.extend_from_slice(extra);
    let body = &out[start + BATCH_HEADER_BYTES..];
    header.n_entries = entries.len() as u32;
    header.body_bytes = body.len() as u32;
    header.body_crc = place.checksum(body);
    let block = header.encode(place);
    out[start..start + BATCH_HEADER_BYTES].copy_from_slice(&block);
    out.resize(start + header.total_bytes(), 0);
}

/// Cuts a verified body into entries that share its memory. `None` if it is not what the header says.
pub(super) fn decode_entries(header: &BatchHeader, mut body: Bytes) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for i in 0..u64::from(header.n_entries) {
        let len = u32_at(&body, 0)? as usize;
        let term = Term(u64_at(&body, 4)?);
        if body.len() < ENTRY_HEADER_BYTES + len {
            return None;
        }
        let mut payload = body.split_to(ENTRY_HEADER_BYTES + len);
        let payload = payload.split_off(ENTRY_HEADER_BYTES);
        entries.push(Entry { term, index: LogIndex(header.first_index.0 + i), payload });
    }
    body.is_empty().then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { log_id: LogId(1), segment: 2, offset: 8192 }
    }

    fn batch() -> (Vec<u8>, Vec<Entry>) {
        let entry = |index, payload: &'static [u8]| Entry {
            term: Term(4),
            index: LogIndex(index),
            payload: Bytes::from_static(payload),
        };
        let entries = vec![entry(7, b"seven"), entry(8, b""), entry(9, b"nine")];
        let header = BatchHeader {
            kind: BatchKind::Entries,
            seq: 3,
            durable_seq: 2,
            previous_end: 9000,
            first_index: LogIndex(7),
            n_entries: 0,
            body_bytes: 0,
            body_crc: 0,
        };
        let mut bytes = Vec::new();
        encode_batch(&mut bytes, place(), header, &entries, &[]);
        (bytes, entries)
    }

    #[test]
    fn a_batch_is_valid_only_where_it_was_written() {
        let (bytes, entries) = batch();
        assert_eq!(bytes.len() % BATCH_ALIGN, 0);
        let header = BatchHeader::decode(&bytes, place()).expect("valid here");
        assert_eq!((header.total_bytes(), header.n_entries), (bytes.len(), 3));
        let body = header.body(&bytes, place()).expect("valid here").to_vec();
        assert_eq!(decode_entries(&header, body.into()), Some(entries));
        for elsewhere in [
            Place { log_id: LogId(9), ..place() },
            Place { segment: 3, ..place() },
            Place { offset: 8200, ..place() },
        ] {
            assert_eq!(BatchHeader::decode(&bytes, elsewhere), None);
            assert_eq!(header.body(&bytes, elsewhere), None);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_batch_is_noticed() {
        let (bytes, _) = batch();
        let end = BATCH_HEADER_BYTES + u32_at(&bytes, 48).expect("length") as usize;
        for bit in 0..end * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let header = BatchHeader::decode(&damaged, place());
            assert!(header.is_none_or(|h| h.body(&damaged, place()).is_none()), "bit {bit}");
        }
    }

    #[test]
    fn a_segment_header_names_version_and_log() {
        let header = SegmentHeader {
            log_id: LogId(1),
            segment: 2,
            first_seq: 3,
            first_index: LogIndex(4),
            previous_end: 5,
            allocated: 6,
            is_recycled: true,
        };
        let bytes = header.encode();
        let decode = |bytes: &[u8], id| SegmentHeader::decode("f", bytes, LogId(id));
        assert_eq!(decode(&bytes, 1).expect("valid"), Some(header));
        assert!(matches!(decode(&bytes, 2), Err(LogError::Foreign { .. })));
        assert_eq!(decode(&bytes[..79], 1).expect("torn"), None);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            match decode(&damaged, 1) {
                Ok(None) | Err(LogError::Version { .. }) => {}
                other => panic!("bit {bit}: {other:?}"),
            }
        }
    }
}
