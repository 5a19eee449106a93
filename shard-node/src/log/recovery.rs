//! Opening a log: walk the batches, decide what the end is, repair only what nothing proves durable.
//!
//! The walk stops at the first place that is not the batch expected there. Three explanations exist: the end of the log,
//! a tail torn by a crash, or damage to acknowledged entries. They are told apart by looking at everything behind that
//! place (the rest of the segment, its mark, all later segments): each valid header names the batches that were durable
//! when it was written. If one of them covers the missing batch, the log is corrupt and does not open. Otherwise nobody
//! was ever told that the batch is durable, so it and what follows is zeroed, removed, and reported.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cortex_shard_api::ids::{LogIndex, Term};

use super::format::{
    BATCH_ALIGN, BATCH_HEADER_BYTES, BatchHeader, BatchKind, FIRST_BATCH, LogId, MARK_OFFSET,
    Place, SegmentHeader, parse_segment_name, segment_name, u64_at,
};
use super::metadata::{META_FILE, META_TEMPORARY, Metadata};
use super::segment::{Runs, Segment};
use super::{LogError, LogFile, LogFiles, LogPoint};

/// A segment is read whole while the log opens. Far above any sensible `segment_bytes` and the largest entry.
const SEGMENT_FILE_BYTES_MAX: u64 = 2 << 30;

/// Beginning of the names of prepared segments.
pub(super) const SPARE_PREFIX: &str = "spare-";

/// What opening found and did. Worth a line in the shard's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    pub log_id: LogId,
    /// The directory held no log, so one was made.
    pub is_new: bool,
    pub first_index: LogIndex,
    pub last_index: LogIndex,
    /// Bytes of a torn tail that were zeroed. Nothing in them was ever acknowledged.
    pub torn_bytes: u64,
    /// Whole segments of a torn tail that were removed.
    pub torn_segments: usize,
    /// Files that an interrupted purge or preparation left behind.
    pub leftovers: usize,
}

/// The state of a log at the end of the walk.
pub(super) struct Recovered {
    pub segments: VecDeque<Segment>,
    pub runs: Runs,
    pub next_seq: u64,
    pub next_index: u64,
    pub purged: LogPoint,
    /// Length of the active segment's file.
    pub active_bytes: u64,
    pub report: OpenReport,
}

/// Whether a directory without metadata is one in which a log was being created; anything else lost its metadata.
pub(super) fn is_unborn(files: &dyn LogFiles) -> Result<bool, LogError> {
    for (number, name) in segments_in(files)? {
        let (_, bytes) = read_segment(files, &name)?;
        if number != 1 || written_bytes(&bytes) > MARK_OFFSET {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Opens the segments that the metadata names, repairs a torn tail, and makes what is left durable.
pub(super) fn recover(files: &dyn LogFiles, meta: &Metadata) -> Result<Recovered, LogError> {
    let mut names = segments_in(files)?;
    let mut walk = Walk {
        log_id: meta.log_id,
        runs: Runs::default(),
        next_seq: meta.first_seq,
        next_index: None,
        purged: meta.purged,
        proof: meta.durable_seq,
    };
    let mut leftovers = remove_leftovers(files)?;
    let live = names.split_off(&meta.first_segment);
    for name in names.values() {
        remove(files, name)?;
        leftovers += 1;
    }

    let mut segments: VecDeque<Segment> = VecDeque::new();
    // The bytes of the last segment walked.
    let mut tail = Vec::new();
    let mut is_recycled = false;
    let mut number = meta.first_segment;
    while let Some(name) = live.get(&number) {
        let (file, bytes) = read_segment(files, name)?;
        let Some(header) = SegmentHeader::decode(name, &bytes, meta.log_id)?
            .filter(|header| header.segment == number && header.first_seq == walk.next_seq)
        else {
            break;
        };
        if (bytes.len() as u64) < header.allocated {
            return Err(LogError::corrupt(name, bytes.len() as u64, "the file was cut off"));
        }
        let previous_end = segments.back().map_or(header.previous_end, |segment| segment.end);
        if header.previous_end != previous_end {
            return Err(LogError::corrupt(
                name,
                0,
                format!(
                    "the segment before it ended at {}, not at {previous_end}",
                    header.previous_end
                ),
            ));
        }
        let end = walk.segment(name, &header, &bytes)?;
        segments.push_back(Segment {
            number,
            file,
            first_seq: header.first_seq,
            end,
            previous_end,
        });
        is_recycled = header.is_recycled;
        tail = bytes;
        number += 1;
    }
    let Some(active) = segments.back() else {
        let name = segment_name(meta.first_segment);
        return Err(LogError::corrupt(name, 0, "the oldest segment is missing or has no header"));
    };

    let beyond: BTreeMap<u64, String> = live.into_iter().filter(|(n, _)| *n >= number).collect();
    walk.collect_proof(active.number, &tail, active.end);
    for (number, name) in &beyond {
        let (_, bytes) = read_segment(files, name)?;
        walk.collect_proof(*number, &bytes, FIRST_BATCH);
    }
    if walk.proof >= walk.next_seq {
        return Err(LogError::corrupt(
            segment_name(active.number),
            active.end,
            format!(
                "batch {} is missing or damaged here, although batches up to {} were durable",
                walk.next_seq, walk.proof
            ),
        ));
    }

    for name in beyond.values() {
        remove(files, name)?;
    }
    let torn = walk.torn_tail(active.number, &tail, active.end, is_recycled);
    zero(active, torn)?;
    // What a killed process left in the page cache reads well, but is not durable before this.
    for segment in &segments {
        let context = || format!("sync {}", segment_name(segment.number));
        segment.file.sync_data().map_err(|error| LogError::io(context(), error))?;
    }
    files.sync_dir().map_err(|error| LogError::io("sync directory", error))?;

    let (next_index, purged) = walk.finish()?;
    Ok(Recovered {
        report: OpenReport {
            log_id: meta.log_id,
            is_new: false,
            first_index: LogIndex(purged.index.0 + 1),
            last_index: LogIndex(next_index - 1),
            torn_bytes: torn,
            torn_segments: beyond.len(),
            leftovers,
        },
        active_bytes: tail.len() as u64,
        segments,
        runs: walk.runs,
        next_seq: walk.next_seq,
        next_index,
        purged,
    })
}

/// The walk over all segments.
struct Walk {
    log_id: LogId,
    runs: Runs,
    next_seq: u64,
    /// Known from the first segment's header on.
    next_index: Option<u64>,
    purged: LogPoint,
    /// The highest batch that some header outside the walked stream knows to be durable.
    proof: u64,
}

impl Walk {
    /// Takes in the batches of one segment and returns where they end.
    fn segment(
        &mut self,
        name: &str,
        header: &SegmentHeader,
        bytes: &[u8],
    ) -> Result<u64, LogError> {
        let next_index = *self.next_index.get_or_insert(header.first_index.0);
        if next_index != header.first_index.0 {
            return Err(LogError::corrupt(
                name,
                0,
                format!("it begins at index {}, not at {next_index}", header.first_index),
            ));
        }
        self.proof = self.proof.max(self.mark(header.segment, bytes));
        let mut at = FIRST_BATCH as usize;
        while let Some(rest) = bytes.get(at..) {
            let place = self.place(header.segment, at);
            let Some(batch) = BatchHeader::decode(rest, place).filter(|batch| {
                batch.kind != BatchKind::Mark
                    && batch.seq == self.next_seq
                    && batch.previous_end == header.previous_end
            }) else {
                break;
            };
            let end = at + batch.total_bytes();
            // The padding belongs to the batch: a read fetches it too.
            let Some(body) = batch.body(rest, place).filter(|_| end <= bytes.len()) else { break };
            self.batch(place, &batch, body, end as u64)
                .ok_or_else(|| LogError::corrupt(name, at as u64, "a batch contradicts the log"))?;
            self.next_seq += 1;
            at = end;
        }
        Ok(at as u64)
    }

    /// Applies one intact batch; `None` if it cannot follow what came before.
    fn batch(&mut self, place: Place, batch: &BatchHeader, body: &[u8], end: u64) -> Option<()> {
        let next_index = self.next_index?;
        let first = batch.first_index.0;
        match batch.kind {
            BatchKind::Entries => {
                let n = u64::from(batch.n_entries);
                if first != next_index || n == 0 {
                    return None;
                }
                self.runs.push(place.segment, place.offset, end, first, n);
                self.next_index = Some(first.checked_add(n)?);
            }
            BatchKind::Truncate => {
                if first > next_index || first == 0 {
                    return None;
                }
                self.runs.truncate_from(first);
                self.next_index = Some(first);
            }
            BatchKind::Reset => {
                let point = LogPoint {
                    index: LogIndex(first.checked_sub(1)?),
                    term: Term(u64_at(body, 0)?),
                };
                self.runs.clear();
                self.next_index = Some(first);
                // A later purge is in the metadata already.
                if point.index > self.purged.index {
                    self.purged = point;
                }
            }
            BatchKind::Mark => {}
        }
        Some(())
    }

    fn place(&self, segment: u64, at: usize) -> Place {
        Place { log_id: self.log_id, segment, offset: at as u64 }
    }

    /// What the mark page of a segment proves.
    fn mark(&self, segment: u64, bytes: &[u8]) -> u64 {
        let at = MARK_OFFSET as usize;
        bytes
            .get(at..)
            .and_then(|rest| BatchHeader::decode(rest, self.place(segment, at)))
            .map_or(0, |mark| mark.durable_seq)
    }

    /// Valid headers from `from` on, whatever stands between them.
    fn headers<'a>(
        &'a self,
        segment: u64,
        bytes: &'a [u8],
        from: u64,
    ) -> impl Iterator<Item = (usize, BatchHeader)> + 'a {
        let end = written_bytes(bytes) as usize;
        (from as usize..end).step_by(BATCH_ALIGN).filter_map(move |at| {
            Some((at, BatchHeader::decode(bytes.get(at..)?, self.place(segment, at))?))
        })
    }

    /// Takes the proofs from a stretch that the walk could not follow.
    fn collect_proof(&mut self, segment: u64, bytes: &[u8], from: u64) {
        let found = self.headers(segment, bytes, from).map(|(_, header)| header.durable_seq).max();
        self.proof = self.proof.max(self.mark(segment, bytes)).max(found.unwrap_or(0));
    }

    /// How many bytes behind `end` are the remains of batches that a crash tore.
    ///
    /// In a recycled segment, remains cannot be told from the older segment's bytes; those without a valid header can do
    /// no harm, and if there is a valid header, everything is cleared.
    fn torn_tail(&self, segment: u64, bytes: &[u8], end: u64, is_recycled: bool) -> u64 {
        let rest = bytes.get(end as usize..).unwrap_or(&[]);
        let mark_bytes = match BatchHeader::decode(rest, self.place(segment, end as usize)) {
            Some(header) if header.kind == BatchKind::Mark => BATCH_HEADER_BYTES,
            Some(_) | None => 0,
        };
        let is_torn = if is_recycled {
            self.headers(segment, bytes, end + mark_bytes as u64).next().is_some()
        } else {
            written_bytes(rest) > mark_bytes as u64
        };
        if is_torn { written_bytes(rest) } else { 0 }
    }

    /// The entries must reach back to the purge point.
    fn finish(&self) -> Result<(u64, LogPoint), LogError> {
        let next_index = self.next_index.unwrap_or(1);
        let first_needed = self.purged.index.0 + 1;
        let first = self.runs.front().map_or(next_index, |run| run.first);
        if first > first_needed || next_index < first_needed {
            return Err(LogError::corrupt(
                META_FILE,
                0,
                format!(
                    "the log was purged to {}, but holds the entries from {first} to {}",
                    self.purged.index,
                    next_index - 1
                ),
            ));
        }
        Ok((next_index, self.purged))
    }
}

/// The length without the zeros at the end.
fn written_bytes(bytes: &[u8]) -> u64 {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut end = bytes.len();
    // Whole chunks first: segments are mostly prefill.
    while let Some(start) = end.checked_sub(ZEROS.len()) {
        if bytes[start..end] != ZEROS {
            break;
        }
        end = start;
    }
    bytes[..end].iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

/// Overwrites `n` bytes behind the end of the last batch.
fn zero(active: &Segment, n: u64) -> Result<(), LogError> {
    let zeros = vec![0; ZERO_BYTES.min(n as usize)];
    let mut done = 0;
    while done < n {
        let part = (n - done).min(zeros.len() as u64);
        active
            .file
            .write_at(&zeros[..part as usize], active.end + done)
            .map_err(|error| LogError::io("zero a torn tail", error))?;
        done += part;
    }
    Ok(())
}

/// Size of one write of zeros.
const ZERO_BYTES: usize = 1 << 20;

fn segments_in(files: &dyn LogFiles) -> Result<BTreeMap<u64, String>, LogError> {
    let names = files.list().map_err(|error| LogError::io("list directory", error))?;
    Ok(names.into_iter().filter_map(|name| Some((parse_segment_name(&name)?, name))).collect())
}

/// Removes what only a running log needs.
fn remove_leftovers(files: &dyn LogFiles) -> Result<usize, LogError> {
    let names = files.list().map_err(|error| LogError::io("list directory", error))?;
    let mut n = 0;
    for name in names {
        if name.starts_with(SPARE_PREFIX) || name == META_TEMPORARY {
            remove(files, &name)?;
            n += 1;
        }
    }
    Ok(n)
}

pub(super) fn remove(files: &dyn LogFiles, name: &str) -> Result<(), LogError> {
    files.remove(name).map_err(|error| LogError::io(format!("remove {name}"), error))
}

fn read_segment(files: &dyn LogFiles, name: &str) -> Result<(Arc<dyn LogFile>, Vec<u8>), LogError> {
    let io = |what: &str, error| LogError::io(format!("{what} {name}"), error);
    let file = files.open(name).map_err(|error| io("open", error))?;
    let length = file.len().map_err(|error| io("length of", error))?;
    if length > SEGMENT_FILE_BYTES_MAX {
        return Err(LogError::corrupt(name, length, "longer than a segment can be"));
    }
    let mut bytes = vec![0; length as usize];
    let n = file.read_at(&mut bytes, 0).map_err(|error| io("read", error))?;
    bytes.truncate(n);
    Ok((file, bytes))
}
