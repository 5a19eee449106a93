//! Group commit: many waiters, one fdatasync; and the marks that prove it to a later open.
//!
//! `append` writes into the page cache under the writer's lock and returns. The first thread that waits becomes the
//! syncer: it takes everything written so far, syncs it without holding a lock, and wakes all whose batch is covered;
//! meanwhile the next group forms. There is no commit delay, the fsync itself is the delay.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cortex_shard_api::ids::LogIndex;

use super::LogError;
use super::append::Writer;
use super::format::{BATCH_HEADER_BYTES, BatchHeader, BatchKind, MARK_OFFSET, Place};
use super::segment::Segment;
use super::segmented::Inner;

/// What waiters look at.
pub(super) struct Commit {
    pub(super) durable_seq: u64,
    pub(super) is_syncing: bool,
}

impl Inner {
    pub(super) fn wait_for(&self, seq: u64) -> Result<(), LogError> {
        let mut commit = self.commit.lock();
        loop {
            if commit.durable_seq >= seq {
                return Ok(());
            }
            self.check_poison()?;
            if commit.is_syncing {
                self.committed.wait(&mut commit);
                continue;
            }
            commit.is_syncing = true;
            drop(commit);
            let synced = self.sync_written();
            commit = self.commit.lock();
            commit.is_syncing = false;
            if let Ok(durable_seq) = synced {
                commit.durable_seq = durable_seq;
            }
            self.committed.notify_all();
            synced?;
        }
    }

    pub(super) fn sync_all(&self) -> Result<(), LogError> {
        self.check_poison()?;
        let seq = self.writer.lock().next_seq - 1;
        self.wait_for(seq)
    }

    /// Syncs what was written until now and returns the last batch of it. One thread at a time.
    pub(super) fn sync_written(&self) -> Result<u64, LogError> {
        let (files, is_dir_dirty, seq, index) = {
            let mut writer = self.writer.lock();
            writer.cut_since_sync = u64::MAX;
            let is_dir_dirty = mem::take(&mut writer.is_dir_dirty);
            (mem::take(&mut writer.dirty), is_dir_dirty, writer.next_seq - 1, writer.last.index.0)
        };
        for file in &files {
            file.sync_data().map_err(|error| self.poison("fsync", error))?;
        }
        if is_dir_dirty {
            self.files.sync_dir().map_err(|error| self.poison("fsync of the directory", error))?;
        }
        let mut writer = self.writer.lock();
        writer.durable_seq = seq;
        let durable = writer.durable_index.max(index.min(writer.cut_since_sync));
        writer.durable_index = durable;
        self.durable_index.store(durable, Ordering::Release);
        self.write_marks(&mut writer)?;
        Ok(seq)
    }

    /// Writes the proofs that a later open needs, if no batch will carry them at once. They need no fsync of their own:
    /// they guard against damage, and damage together with a crash of the next seconds is two faults.
    pub(super) fn write_marks(&self, writer: &mut Writer) -> Result<(), LogError> {
        let durable_seq = writer.durable_seq;
        let first_index = LogIndex(writer.last.index.0 + 1);
        let is_idle = writer.next_seq - 1 == durable_seq;
        let write = |segment: &Segment, offset: u64| {
            let place = Place { log_id: self.log_id, segment: segment.number, offset };
            let header = BatchHeader {
                kind: BatchKind::Mark,
                seq: durable_seq,
                durable_seq,
                previous_end: segment.previous_end,
                first_index,
                n_entries: 0,
                body_bytes: 0,
                body_crc: 0,
            };
            segment
                .file
                .write_at(&header.encode(place), offset)
                .map_err(|error| self.poison("write a mark", error))
        };
        let active = writer.active();
        if is_idle {
            write(active, MARK_OFFSET)?;
            let end = active.end + BATCH_HEADER_BYTES as u64;
            if writer.allocated == 0 || end <= writer.allocated {
                write(active, active.end)?;
            }
        }
        // A segment that disappears as a whole is missed by the one before it.
        if durable_seq >= active.first_seq
            && let Some(sealed) = writer.sealed.take()
            && let Some(segment) = writer.segments.iter().find(|segment| segment.number == sealed)
        {
            write(segment, MARK_OFFSET)?;
            let file = Arc::clone(&segment.file);
            writer.mark_dirty(file);
        }
        Ok(())
    }

    pub(super) fn close(&self) -> Result<(), LogError> {
        self.sync_all()?;
        let files: Vec<_> = {
            let mut writer = self.writer.lock();
            let active = Arc::clone(&writer.active().file);
            writer.mark_dirty(active);
            mem::take(&mut writer.dirty)
        };
        for file in files {
            file.sync_data().map_err(|error| self.poison("fsync", error))?;
        }
        let mut meta = self.metadata.lock();
        let changed = meta.clone();
        self.replace_metadata(&mut meta, changed)
    }
}
