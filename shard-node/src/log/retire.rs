//! Giving entries up: at the end (truncate), at the beginning (purge), or all of them (reset); and the metadata, which
//! remembers where the log begins.

use std::sync::atomic::Ordering;

use cortex_shard_api::ids::LogIndex;

use super::filler::Spare;
use super::format::{BatchKind, segment_name};
use super::metadata::{self, Metadata};
use super::segmented::Inner;
use super::{LogError, LogPoint, Prefill};

/// Segments kept for reuse: one in use soon and one for a burst. More would only hold disk space.
const SPARES_MAX: usize = 2;

impl Inner {
    pub(super) fn truncate_from(&self, index: LogIndex) -> Result<(), LogError> {
        self.check_poison()?;
        let (purged, last) = {
            let writer = self.writer.lock();
            (writer.purged, writer.last)
        };
        if index > last.index {
            return Ok(());
        }
        if index <= purged.index {
            return Err(LogError::Purged { index, first: LogIndex(purged.index.0 + 1) });
        }
        let kept =
            LogPoint { index: LogIndex(index.0 - 1), term: self.term_at(LogIndex(index.0 - 1))? };
        let seq = {
            let mut writer = self.writer.lock();
            self.write_batch(&mut writer, BatchKind::Truncate, index.0, &[], &[])?;
            writer.last = kept;
            writer.runs.truncate_from(index.0);
            writer.cut_since_sync = writer.cut_since_sync.min(kept.index.0);
            writer.durable_index = writer.durable_index.min(kept.index.0);
            self.last_index.store(kept.index.0, Ordering::Release);
            self.durable_index.store(writer.durable_index, Ordering::Release);
            writer.next_seq - 1
        };
        self.wait_for(seq)
    }

    pub(super) fn purge_to(&self, index: LogIndex) -> Result<(), LogError> {
        self.check_poison()?;
        let mut meta = self.metadata.lock();
        if index <= meta.purged.index {
            return Ok(());
        }
        // Truncations too must be durable, or a crash would bring back entries whose segment is gone.
        self.sync_all()?;
        let durable = LogIndex(self.durable_index.load(Ordering::Acquire));
        if index > durable {
            return Err(LogError::PurgeAhead { index, durable });
        }
        let point = LogPoint { index, term: self.term_at(index)? };
        let first_segment = {
            let writer = self.writer.lock();
            let needed = writer.runs.find(index.0 + 1).map(|run| run.segment);
            needed.unwrap_or(writer.active().number)
        };
        self.retire(&mut meta, point, first_segment)
    }

    pub(super) fn reset_to(&self, point: LogPoint) -> Result<(), LogError> {
        self.check_poison()?;
        let mut meta = self.metadata.lock();
        if point.index < meta.purged.index {
            let first = LogIndex(meta.purged.index.0 + 1);
            return Err(LogError::Purged { index: point.index, first });
        }
        let (seq, first_segment) = {
            let mut writer = self.writer.lock();
            let term = point.term.0.to_le_bytes();
            self.write_batch(&mut writer, BatchKind::Reset, point.index.0 + 1, &[], &term)?;
            writer.last = point;
            writer.runs.clear();
            writer.purged = point;
            writer.cut_since_sync = 0;
            writer.durable_index = 0;
            self.last_index.store(point.index.0, Ordering::Release);
            self.first_index.store(point.index.0 + 1, Ordering::Release);
            self.durable_index.store(0, Ordering::Release);
            (writer.next_seq - 1, writer.active().number)
        };
        self.wait_for(seq)?;
        self.retire(&mut meta, point, first_segment)
    }

    /// Records the purge point, then gives up the segments before `first_segment`.
    pub(super) fn retire(
        &self,
        meta: &mut Metadata,
        point: LogPoint,
        first_segment: u64,
    ) -> Result<(), LogError> {
        let first_seq = {
            let writer = self.writer.lock();
            let segment = writer.segments.iter().find(|segment| segment.number == first_segment);
            segment.map_or(meta.first_seq, |segment| segment.first_seq)
        };
        let changed = Metadata { purged: point, first_segment, first_seq, ..meta.clone() };
        self.replace_metadata(meta, changed)?;

        let (retired, n_spares) = {
            let mut writer = self.writer.lock();
            writer.purged = point;
            writer.runs.purge_to(point.index.0);
            self.first_index.store(point.index.0 + 1, Ordering::Release);
            let n = writer.segments.iter().take_while(|s| s.number < first_segment).count();
            (writer.segments.drain(..n).collect::<Vec<_>>(), writer.spares.len())
        };
        let mut free_places = SPARES_MAX.saturating_sub(n_spares);
        for segment in retired {
            let name = segment_name(segment.number);
            let io = |error| self.poison(format!("retire {name}"), error);
            let bytes = segment.file.len().map_err(io)?;
            let is_wanted = self.options.prefill != Prefill::Off
                && free_places > 0
                && bytes == self.options.segment_bytes;
            if !is_wanted {
                self.files.remove(&name).map_err(io)?;
                continue;
            }
            free_places -= 1;
            let spare = self.spare_name();
            self.files.rename(&name, &spare).map_err(io)?;
            let file = segment.file;
            self.writer.lock().spares.push(Spare { name: spare, file, bytes, is_recycled: true });
        }
        Ok(())
    }

    pub(super) fn replace_metadata(
        &self,
        meta: &mut Metadata,
        mut changed: Metadata,
    ) -> Result<(), LogError> {
        self.check_poison()?;
        changed.durable_seq = self.writer.lock().durable_seq;
        let encoded = changed.encode()?;
        metadata::write(&*self.files, &encoded)
            .map_err(|error| self.poison("write the metadata", error))?;
        *meta = changed;
        Ok(())
    }
}
