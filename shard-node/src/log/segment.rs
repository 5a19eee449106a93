//! Segments in memory: the open files, the sparse map from index to place, and reading a stretch of batches.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cortex_shard_api::ids::LogIndex;

use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchKind, LogId, Place, decode_entries, segment_name,
};
use super::{Entry, LogError, LogFile};

/// Batches of one run are read together; a small read costs at most this much more than it needs, and 1 GiB of log costs
/// about 1 MiB of memory.
const RUN_BYTES: u64 = 64 << 10;

/// One segment file.
#[derive(Clone)]
pub(super) struct Segment {
    pub number: u64,
    pub file: Arc<dyn LogFile>,
    pub first_seq: u64,
    /// Where its last batch ends, and the next one goes if it is the active segment.
    pub end: u64,
    pub previous_end: u64,
}

/// A stretch of consecutive batches with consecutive entries, all in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub first: u64,
    /// Inclusive. The last batch may hold more, which a truncation removed.
    pub last: u64,
    pub segment: u64,
    pub start: u64,
    pub end: u64,
}

/// Where each entry is, sparsely. Runs are in order and without gaps.
#[derive(Default)]
pub(super) struct Runs {
    runs: VecDeque<Run>,
}

impl Runs {
    /// Adds a batch of `n` entries from `first` on.
    pub fn push(&mut self, segment: u64, start: u64, end: u64, first: u64, n: u64) {
        let last = first + n - 1;
        match self.runs.back_mut() {
            Some(run)
                if run.segment == segment
                    && run.end == start
                    && run.last + 1 == first
                    && run.end - run.start < RUN_BYTES =>
            {
                run.last = last;
                run.end = end;
            }
            _ => self.runs.push_back(Run { first, last, segment, start, end }),
        }
    }

    /// Forgets `index` and what follows.
    pub fn truncate_from(&mut self, index: u64) {
        while self.runs.back().is_some_and(|run| run.first >= index) {
            self.runs.pop_back();
        }
        if let Some(run) = self.runs.back_mut() {
            run.last = run.last.min(index - 1);
        }
    }

    /// Forgets runs that lie completely at or below `index`.
    pub fn purge_to(&mut self, index: u64) {
        while self.runs.front().is_some_and(|run| run.last <= index) {
            self.runs.pop_front();
        }
    }

    pub fn clear(&mut self) {
        self.runs.clear();
    }

    pub fn front(&self) -> Option<&Run> {
        self.runs.front()
    }

    /// The run that holds `index`.
    pub fn find(&self, index: u64) -> Option<Run> {
        let at = self.runs.partition_point(|run| run.last < index);
        self.runs.get(at).copied().filter(|run| run.first <= index)
    }
}

/// Reads the batches of a run and returns its entries from `first` to the run's last.
pub(super) fn read_run(
    file: &dyn LogFile,
    log_id: LogId,
    run: Run,
    first: u64,
) -> Result<Vec<Entry>, LogError> {
    let name = || segment_name(run.segment);
    let corrupt = |offset: u64, what: &str| LogError::corrupt(name(), offset, what);
    let mut bytes = vec![0; (run.end - run.start) as usize];
    let n = file
        .read_at(&mut bytes, run.start)
        .map_err(|error| LogError::io(format!("read {}", name()), error))?;
    if n < bytes.len() {
        return Err(corrupt(run.start + n as u64, "the file was cut off"));
    }
    let bytes = Bytes::from(bytes);
    let mut entries = Vec::new();
    let mut at = 0;
    let mut expected = run.first;
    while at < bytes.len() {
        let place = Place { log_id, segment: run.segment, offset: run.start + at as u64 };
        let rest = bytes.slice(at..);
        let header = BatchHeader::decode(&rest, place)
            .filter(|header| header.kind == BatchKind::Entries && header.first_index.0 == expected)
            .ok_or_else(|| corrupt(place.offset, "not the batch header that was written here"))?;
        header
            .body(&rest, place)
            .ok_or_else(|| corrupt(place.offset, "checksum mismatch in a batch"))?;
        let body = rest.slice(BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + header.body_bytes as usize);
        let batch = decode_entries(&header, body)
            .ok_or_else(|| corrupt(place.offset, "malformed entries"))?;
        entries
            .extend(batch.into_iter().filter(|entry| (first..=run.last).contains(&entry.index.0)));
        expected += u64::from(header.n_entries);
        at += header.total_bytes();
    }
    match entries.last() {
        Some(entry) if entry.index == LogIndex(run.last) => Ok(entries),
        _ => Err(corrupt(run.start, "entries are missing")),
    }
}
