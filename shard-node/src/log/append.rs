//! Appending: entries into batches, batches into the active segment, segments one after the other.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cortex_shard_api::ids::LogIndex;

use super::files::LogFile;
use super::filler::{Spare, fill};
use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchKind, ENTRY_BYTES_MAX, ENTRY_HEADER_BYTES, FIRST_BATCH,
    Place, SegmentHeader, encode_batch, segment_name,
};
use super::segment::{Runs, Segment};
use super::segmented::Inner;
use super::{Entry, LogError, LogPoint, Prefill, Ticket};

/// Entries of one append share batches up to this size; one larger entry gets a batch of its own. Bounds what a checksum
/// covers and what a read must fetch.
const BATCH_BYTES: usize = 1 << 20;

/// Everything that an append changes.
pub(super) struct Writer {
    pub(super) segments: VecDeque<Segment>,
    pub(super) runs: Runs,
    pub(super) next_seq: u64,
    pub(super) last: LogPoint,
    pub(super) purged: LogPoint,
    pub(super) durable_seq: u64,
    pub(super) durable_index: u64,
    /// While a sync runs: entries above were truncated since it began.
    pub(super) cut_since_sync: u64,
    /// The active segment is full at this size.
    pub(super) limit: u64,
    /// Bytes of the active segment's file that existed before it was begun; 0 if the file grows.
    pub(super) allocated: u64,
    /// Files with writes that no sync has taken.
    pub(super) dirty: Vec<Arc<dyn LogFile>>,
    pub(super) is_dir_dirty: bool,
    /// A segment whose mark should say that its successor is durable.
    pub(super) sealed: Option<u64>,
    pub(super) spares: Vec<Spare>,
    pub(super) buffer: Vec<u8>,
}

impl Inner {
    pub(super) fn append(&self, entries: &[Entry]) -> Result<Ticket, LogError> {
        self.check_poison()?;
        for entry in entries {
            if entry.payload.len() > ENTRY_BYTES_MAX {
                let bytes = entry.payload.len();
                return Err(LogError::EntryTooLarge { bytes, max: ENTRY_BYTES_MAX });
            }
        }
        let mut writer = self.writer.lock();
        for (entry, expected) in entries.iter().zip(writer.last.index.0 + 1..) {
            if entry.index.0 != expected {
                return Err(LogError::Gap { expected: LogIndex(expected), found: entry.index });
            }
        }
        let mut rest = entries;
        while !rest.is_empty() {
            let (batch, others) = rest.split_at(batch_length(rest));
            let first_index = writer.last.index.0 + 1;
            self.write_batch(&mut writer, BatchKind::Entries, first_index, batch, &[])?;
            rest = others;
        }
        self.want_spare(&writer);
        Ok(Ticket { batch: writer.next_seq - 1, last: writer.last.index })
    }

    /// Writes one batch behind the last, in a new segment if this one is full.
    pub(super) fn write_batch(
        &self,
        writer: &mut Writer,
        kind: BatchKind,
        first_index: u64,
        entries: &[Entry],
        extra: &[u8],
    ) -> Result<(), LogError> {
        let payload: usize =
            entries.iter().map(|entry| ENTRY_HEADER_BYTES + entry.payload.len()).sum();
        let bytes = (BATCH_HEADER_BYTES + payload + extra.len()) as u64;
        let end = writer.active().end;
        if end > FIRST_BATCH && end + bytes > writer.limit {
            self.begin_segment(writer)?;
        }
        let active = writer.active();
        let (segment, offset) = (active.number, active.end);
        let header = BatchHeader {
            kind,
            seq: writer.next_seq,
            durable_seq: writer.durable_seq,
            previous_end: active.previous_end,
            first_index: LogIndex(first_index),
            n_entries: 0,
            body_bytes: 0,
            body_crc: 0,
        };
        let place = Place { log_id: self.log_id, segment, offset };
        let file = Arc::clone(&active.file);
        let mut buffer = mem::take(&mut writer.buffer);
        buffer.clear();
        encode_batch(&mut buffer, place, header, entries, extra);
        let written = file.write_at(&buffer, offset);
        let end = offset + buffer.len() as u64;
        // Rare large batches should not hold their memory for ever.
        if buffer.capacity() <= 2 * BATCH_BYTES {
            writer.buffer = buffer;
        }
        written.map_err(|error| self.poison(format!("write {}", segment_name(segment)), error))?;

        writer.active_mut().end = end;
        writer.next_seq += 1;
        writer.mark_dirty(file);
        if let Some(last) = entries.last() {
            writer.runs.push(segment, offset, end, first_index, entries.len() as u64);
            writer.last = LogPoint { index: last.index, term: last.term };
            self.last_index.store(last.index.0, Ordering::Release);
        }
        Ok(())
    }

    /// Seals the active segment and begins the next, in a spare file if there is one.
    pub(super) fn begin_segment(&self, writer: &mut Writer) -> Result<(), LogError> {
        let previous = writer.active().clone();
        let number = previous.number + 1;
        let name = segment_name(number);
        let io = |error| self.poison(format!("begin {name}"), error);
        let target = self.target_bytes(writer);
        let (file, allocated, is_recycled) = match writer.spares.pop() {
            Some(spare) => {
                self.files.rename(&spare.name, &name).map_err(io)?;
                (spare.file, spare.bytes, spare.is_recycled)
            }
            None => {
                let file = self.files.create(&name).map_err(io)?;
                let allocated = if self.options.prefill == Prefill::Inline { target } else { 0 };
                fill(&*file, allocated).map_err(io)?;
                (file, allocated, false)
            }
        };
        let header = SegmentHeader {
            log_id: self.log_id,
            segment: number,
            first_seq: writer.next_seq,
            first_index: LogIndex(writer.last.index.0 + 1),
            previous_end: previous.end,
            allocated,
            is_recycled,
        };
        file.write_at(&header.encode(), 0).map_err(io)?;
        writer.is_dir_dirty = true;
        writer.mark_dirty(Arc::clone(&file));
        writer.limit = if allocated > 0 { allocated } else { target };
        writer.allocated = allocated;
        writer.sealed = Some(previous.number);
        writer.segments.push_back(Segment {
            number,
            file,
            first_seq: header.first_seq,
            end: FIRST_BATCH,
            previous_end: previous.end,
        });
        Ok(())
    }

    /// Small logs have small segments.
    pub(super) fn target_bytes(&self, writer: &Writer) -> u64 {
        writer.limit.saturating_mul(2).min(self.options.segment_bytes)
    }
}

impl Writer {
    pub(super) fn active(&self) -> &Segment {
        self.segments.back().expect("recovery refuses a log without segments, purge keeps the last")
    }

    pub(super) fn active_mut(&mut self) -> &mut Segment {
        self.segments
            .back_mut()
            .expect("recovery refuses a log without segments, purge keeps the last")
    }

    pub(super) fn mark_dirty(&mut self, file: Arc<dyn LogFile>) {
        if !self.dirty.iter().any(|other| Arc::ptr_eq(other, &file)) {
            self.dirty.push(file);
        }
    }
}

/// How many of the entries go into one batch: at least one, then as many as fit.
fn batch_length(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|entry| {
        bytes += ENTRY_HEADER_BYTES + entry.payload.len();
        bytes <= BATCH_BYTES
    });
    fitting.count().max(1)
}
