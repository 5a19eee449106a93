//! The running log: appends, group commit, purge, and the segments prepared ahead.
//!
//! `append` writes into the page cache under the writer's lock and returns. The first thread that waits becomes the
//! syncer: it takes everything written so far, syncs it without holding a lock, and wakes all whose batch is covered;
//! meanwhile the next group forms. There is no commit delay, the fsync itself is the delay.
//!
//! Locks, in the order in which they may be taken: `metadata`, `writer`, then `commit` or `fill`.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use cortex_shard_api::ids::{LogIndex, Term};
use parking_lot::{Condvar, Mutex};

use super::files::{DirLock, LogFile, LogFiles};
use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchKind, ENTRY_BYTES_MAX, ENTRY_HEADER_BYTES, FIRST_BATCH,
    LogId, MARK_OFFSET, Place, SegmentHeader, encode_batch, segment_name,
};
use super::metadata::{self, Metadata};
use super::recovery::{self, OpenReport, Recovered, SPARE_PREFIX};
use super::segment::{Runs, Segment, read_run};
use super::{Entry, LogError, LogOptions, LogPoint, Prefill, ShardLog, Ticket, Vote};

/// Entries of one append share batches up to this size; one larger entry gets a batch of its own. Bounds what a checksum
/// covers and what a read must fetch.
const BATCH_BYTES: usize = 1 << 20;
/// Size of the first segment; each next one doubles until `LogOptions::segment_bytes`.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;
/// Segments kept for reuse: one in use soon and one for a burst. More would only hold disk space.
const SPARES_MAX: usize = 2;
/// One write of a prefill.
const FILL_BYTES: usize = 1 << 20;

/// The shard log on files. See [`ShardLog`] for the contract.
pub struct SegmentedLog {
    inner: Arc<Inner>,
    filler: Option<JoinHandle<()>>,
}

struct Inner {
    files: Arc<dyn LogFiles>,
    options: LogOptions,
    log_id: LogId,
    writer: Mutex<Writer>,
    commit: Mutex<Commit>,
    committed: Condvar,
    metadata: Mutex<Metadata>,
    /// Set once, by the first I/O error.
    poison: OnceLock<Arc<str>>,
    /// Copies for readers that should not wait for a write.
    first_index: AtomicU64,
    last_index: AtomicU64,
    durable_index: AtomicU64,
    fill: Mutex<Fill>,
    fill_wanted: Condvar,
    n_spares_made: AtomicU64,
    _lock: Box<dyn DirLock>,
}

/// Everything that an append changes.
struct Writer {
    segments: VecDeque<Segment>,
    runs: Runs,
    next_seq: u64,
    last: LogPoint,
    purged: LogPoint,
    durable_seq: u64,
    durable_index: u64,
    /// While a sync runs: entries above were truncated since it began.
    cut_since_sync: u64,
    /// The active segment is full at this size.
    limit: u64,
    /// Bytes of the active segment's file that existed before it was begun; 0 if the file grows.
    allocated: u64,
    /// Files with writes that no sync has taken.
    dirty: Vec<Arc<dyn LogFile>>,
    is_dir_dirty: bool,
    /// A segment whose mark should say that its successor is durable.
    sealed: Option<u64>,
    spares: Vec<Spare>,
    buffer: Vec<u8>,
}

/// A file that can become a segment with a rename.
struct Spare {
    name: String,
    file: Arc<dyn LogFile>,
    bytes: u64,
    is_recycled: bool,
}

/// What waiters look at.
struct Commit {
    durable_seq: u64,
    is_syncing: bool,
}

/// Orders to the filler thread.
#[derive(Default)]
struct Fill {
    wanted_bytes: Option<u64>,
    is_stopped: bool,
}

impl SegmentedLog {
    /// Opens or creates the log in a directory, repairs a torn tail, and says what it found.
    pub fn open(
        files: Arc<dyn LogFiles>,
        options: LogOptions,
    ) -> Result<(SegmentedLog, OpenReport), LogError> {
        let directory = || files.location();
        let lock = files.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => LogError::Locked { directory: directory() },
            _ => LogError::io("lock directory", error),
        })?;
        let (meta, is_new) = match metadata::read(&*files)? {
            Some(meta) => (meta, false),
            None if !recovery::is_unborn(&*files)? => {
                return Err(LogError::corrupt(
                    metadata::META_FILE,
                    0,
                    "the file is missing, but there are entries",
                ));
            }
            None if !options.create => return Err(LogError::Missing { directory: directory() }),
            None => (create(&*files, &options)?, true),
        };
        if let Some(expected) = options.log_id.filter(|expected| *expected != meta.log_id) {
            return Err(LogError::Foreign {
                file: metadata::META_FILE.to_owned(),
                found: meta.log_id,
                expected,
            });
        }
        let recovered = recovery::recover(&*files, &meta)?;
        let report = OpenReport { is_new, ..recovered.report.clone() };
        let inner = Inner::new(files, options, meta, recovered, lock)?;
        let inner = Arc::new(inner);
        let filler = match inner.options.prefill {
            Prefill::Background => Some(start_filler(&inner)?),
            Prefill::Off | Prefill::Inline => None,
        };
        Ok((SegmentedLog { inner, filler }, report))
    }
}

impl Drop for SegmentedLog {
    /// A clean end: everything durable, with the marks that prove it.
    fn drop(&mut self) {
        self.inner.fill.lock().is_stopped = true;
        self.inner.fill_wanted.notify_all();
        if let Some(filler) = self.filler.take() {
            // A filler that panicked left a file that the next open removes.
            let _ = filler.join();
        }
        if self.inner.poison.get().is_none()
            && let Err(error) = self.inner.close()
        {
            tracing::warn!(%error, "the shard log could not be closed cleanly");
        }
    }
}

/// Makes a log: the first segment, then the metadata, which is what makes the directory a log.
fn create(files: &dyn LogFiles, options: &LogOptions) -> Result<Metadata, LogError> {
    let io = |error| LogError::io("create the log", error);
    let name = segment_name(1);
    match files.remove(&name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        Ok(()) | Err(_) => {}
    }
    let meta = Metadata::new(options.log_id.unwrap_or_else(LogId::random));
    let file = files.create(&name).map_err(io)?;
    let allocated = match options.prefill {
        // The page of the mark must exist, so that a file cut off before it is noticed.
        Prefill::Off => FIRST_BATCH,
        Prefill::Inline | Prefill::Background => FIRST_SEGMENT_BYTES.min(options.segment_bytes),
    };
    fill(&*file, allocated).map_err(io)?;
    let header = SegmentHeader {
        log_id: meta.log_id,
        segment: 1,
        first_seq: 1,
        first_index: LogIndex(1),
        previous_end: 0,
        allocated,
        is_recycled: false,
    };
    file.write_at(&header.encode(), 0).map_err(io)?;
    file.sync_data().map_err(io)?;
    files.sync_dir().map_err(io)?;
    metadata::write(files, &meta.encode()?).map_err(io)?;
    Ok(meta)
}

/// Writes zeros up to `bytes` and makes them durable.
fn fill(file: &dyn LogFile, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let zeros = vec![0; FILL_BYTES.min(bytes as usize)];
    let mut at = 0;
    while at < bytes {
        let part = (bytes - at).min(zeros.len() as u64);
        file.write_at(&zeros[..part as usize], at)?;
        at += part;
    }
    file.sync_data()
}

/// Starts the one background thread of a log. It ends with the log.
fn start_filler(inner: &Arc<Inner>) -> Result<JoinHandle<()>, LogError> {
    let inner = Arc::clone(inner);
    std::thread::Builder::new()
        .name("log-filler".to_owned())
        .spawn(move || inner.run_filler())
        .map_err(|error| LogError::io("start the filler thread", error))
}

impl Inner {
    fn new(
        files: Arc<dyn LogFiles>,
        options: LogOptions,
        meta: Metadata,
        recovered: Recovered,
        lock: Box<dyn DirLock>,
    ) -> Result<Inner, LogError> {
        let Recovered { segments, runs, next_seq, next_index, purged, active_bytes, .. } =
            recovered;
        let last_index = next_index - 1;
        let writer = Writer {
            segments,
            runs,
            next_seq,
            last: LogPoint { index: LogIndex(last_index), term: Term(0) },
            purged,
            durable_seq: next_seq - 1,
            durable_index: last_index,
            cut_since_sync: u64::MAX,
            limit: active_bytes.max(FIRST_SEGMENT_BYTES.min(options.segment_bytes)),
            allocated: if options.prefill == Prefill::Off { 0 } else { active_bytes },
            dirty: Vec::new(),
            is_dir_dirty: false,
            sealed: None,
            spares: Vec::new(),
            buffer: Vec::new(),
        };
        let inner = Inner {
            files,
            options,
            log_id: meta.log_id,
            writer: Mutex::new(writer),
            commit: Mutex::new(Commit { durable_seq: next_seq - 1, is_syncing: false }),
            committed: Condvar::new(),
            metadata: Mutex::new(meta),
            poison: OnceLock::new(),
            first_index: AtomicU64::new(purged.index.0 + 1),
            last_index: AtomicU64::new(last_index),
            durable_index: AtomicU64::new(last_index),
            fill: Mutex::new(Fill::default()),
            fill_wanted: Condvar::new(),
            n_spares_made: AtomicU64::new(0),
            _lock: lock,
        };
        let term = inner.term_at(LogIndex(last_index))?;
        let mut writer = inner.writer.lock();
        writer.last.term = term;
        inner.write_marks(&mut writer)?;
        drop(writer);
        Ok(inner)
    }

    // ---- poison ----

    fn check_poison(&self) -> Result<(), LogError> {
        match self.poison.get() {
            None => Ok(()),
            Some(reason) => Err(LogError::Poisoned { reason: Arc::clone(reason) }),
        }
    }

    /// The end of this log in this process. Waiters wake up to the error.
    fn poison(&self, context: impl Into<String>, error: io::Error) -> LogError {
        let error = LogError::io(context, error);
        tracing::error!(%error, location = %self.files.location(), "the shard log is poisoned");
        let _ = self.poison.set(error.to_string().into());
        // Under the lock, so that nobody checks before and sleeps after.
        let _commit = self.commit.lock();
        self.committed.notify_all();
        error
    }

    // ---- writing ----

    fn append(&self, entries: &[Entry]) -> Result<Ticket, LogError> {
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
    fn write_batch(
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
    fn begin_segment(&self, writer: &mut Writer) -> Result<(), LogError> {
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
    fn target_bytes(&self, writer: &Writer) -> u64 {
        writer.limit.saturating_mul(2).min(self.options.segment_bytes)
    }

    // ---- group commit ----

    fn wait_for(&self, seq: u64) -> Result<(), LogError> {
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

    fn sync_all(&self) -> Result<(), LogError> {
        self.check_poison()?;
        let seq = self.writer.lock().next_seq - 1;
        self.wait_for(seq)
    }

    /// Syncs what was written until now and returns the last batch of it. One thread at a time.
    fn sync_written(&self) -> Result<u64, LogError> {
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
    fn write_marks(&self, writer: &mut Writer) -> Result<(), LogError> {
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

    fn close(&self) -> Result<(), LogError> {
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

    // ---- reading ----

    fn read(&self, range: Range<LogIndex>, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut n_bytes = 0;
        let mut next = range.start.0.max(1);
        while next < range.end.0 {
            let found = self.read_run_of(next);
            let run = match found {
                Ok(Some(run)) => run,
                Ok(None) => break,
                // Purged while we were reading: what we have is right.
                Err(LogError::Purged { .. }) if !entries.is_empty() => break,
                Err(error) => return Err(error),
            };
            for entry in run {
                n_bytes += entry.payload.len();
                let is_full = n_bytes > bytes_max && !entries.is_empty();
                if entry.index >= range.end || is_full {
                    return Ok(entries);
                }
                next = entry.index.0 + 1;
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// The entries from `index` to the end of its run; `None` behind the end of the log.
    fn read_run_of(&self, index: u64) -> Result<Option<Vec<Entry>>, LogError> {
        let purged =
            |first: u64| LogError::Purged { index: LogIndex(index), first: LogIndex(first) };
        let (file, run) = {
            let writer = self.writer.lock();
            if index <= writer.purged.index.0 {
                return Err(purged(writer.purged.index.0 + 1));
            }
            let Some(run) = writer.runs.find(index) else { return Ok(None) };
            let segment = writer.segments.iter().find(|segment| segment.number == run.segment);
            let Some(segment) = segment else { return Ok(None) };
            (Arc::clone(&segment.file), run)
        };
        match read_run(&*file, self.log_id, run, index) {
            Ok(entries) => Ok(Some(entries)),
            Err(error) => {
                // A purge may have handed the file to a new segment meanwhile.
                let first = self.first_index.load(Ordering::Acquire);
                if index < first {
                    return Err(purged(first));
                }
                if let LogError::Io { context, source } = &error {
                    self.poison(context.clone(), io::Error::new(source.kind(), source.to_string()));
                }
                Err(error)
            }
        }
    }

    fn term_at(&self, index: LogIndex) -> Result<Term, LogError> {
        let purged = self.writer.lock().purged;
        if index == purged.index {
            return Ok(purged.term);
        }
        let entries = self.read_run_of(index.0)?;
        Ok(entries.and_then(|entries| entries.first().map(|entry| entry.term)).unwrap_or_default())
    }

    // ---- truncate, purge, reset ----

    fn truncate_from(&self, index: LogIndex) -> Result<(), LogError> {
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

    fn purge_to(&self, index: LogIndex) -> Result<(), LogError> {
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

    fn reset_to(&self, point: LogPoint) -> Result<(), LogError> {
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
    fn retire(
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

    fn replace_metadata(&self, meta: &mut Metadata, mut changed: Metadata) -> Result<(), LogError> {
        self.check_poison()?;
        changed.durable_seq = self.writer.lock().durable_seq;
        let encoded = changed.encode()?;
        metadata::write(&*self.files, &encoded)
            .map_err(|error| self.poison("write the metadata", error))?;
        *meta = changed;
        Ok(())
    }

    // ---- preparing segments ----

    fn spare_name(&self) -> String {
        format!("{SPARE_PREFIX}{:08}", self.n_spares_made.fetch_add(1, Ordering::Relaxed))
    }

    /// Orders the next segment when the active one is half full.
    fn want_spare(&self, writer: &Writer) {
        if self.options.prefill == Prefill::Background
            && writer.spares.is_empty()
            && writer.active().end > writer.limit / 2
        {
            let mut fill = self.fill.lock();
            if fill.wanted_bytes.is_none() {
                fill.wanted_bytes = Some(self.target_bytes(writer));
                self.fill_wanted.notify_one();
            }
        }
    }

    /// The filler thread: one order at a time, until the log closes.
    fn run_filler(&self) {
        loop {
            let bytes = {
                let mut fill = self.fill.lock();
                loop {
                    if fill.is_stopped {
                        return;
                    }
                    match fill.wanted_bytes {
                        Some(bytes) => break bytes,
                        None => self.fill_wanted.wait(&mut fill),
                    }
                }
            };
            let name = self.spare_name();
            let made = self.files.create(&name).and_then(|file| {
                fill(&*file, bytes)?;
                Ok(file)
            });
            match made {
                Ok(file) => {
                    let spare = Spare { name, file, bytes, is_recycled: false };
                    self.writer.lock().spares.push(spare);
                }
                // Nothing acknowledged depends on a spare: the log goes on without, and meets a full disk itself.
                Err(error) => {
                    tracing::warn!(%error, "could not prepare a log segment");
                    let _ = self.files.remove(&name);
                }
            }
            self.fill.lock().wanted_bytes = None;
        }
    }
}

impl Writer {
    fn active(&self) -> &Segment {
        self.segments.back().expect("recovery refuses a log without segments, purge keeps the last")
    }

    fn active_mut(&mut self) -> &mut Segment {
        self.segments
            .back_mut()
            .expect("recovery refuses a log without segments, purge keeps the last")
    }

    fn mark_dirty(&mut self, file: Arc<dyn LogFile>) {
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

impl ShardLog for SegmentedLog {
    fn log_id(&self) -> LogId {
        self.inner.log_id
    }

    fn append(&self, entries: Vec<Entry>) -> Result<Ticket, LogError> {
        self.inner.append(&entries)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), LogError> {
        self.inner.wait_for(ticket.batch)
    }

    fn sync(&self) -> Result<(), LogError> {
        self.inner.sync_all()
    }

    fn first_index(&self) -> LogIndex {
        LogIndex(self.inner.first_index.load(Ordering::Acquire))
    }

    fn last_index(&self) -> LogIndex {
        LogIndex(self.inner.last_index.load(Ordering::Acquire))
    }

    fn last_point(&self) -> LogPoint {
        self.inner.writer.lock().last
    }

    fn durable_index(&self) -> LogIndex {
        LogIndex(self.inner.durable_index.load(Ordering::Acquire))
    }

    fn read(&self, range: Range<LogIndex>, max_bytes: usize) -> Result<Vec<Entry>, LogError> {
        self.inner.read(range, max_bytes)
    }

    fn truncate_from(&self, index: LogIndex) -> Result<(), LogError> {
        self.inner.truncate_from(index)
    }

    fn purge_to(&self, index: LogIndex) -> Result<(), LogError> {
        self.inner.purge_to(index)
    }

    fn purge_point(&self) -> LogPoint {
        self.inner.writer.lock().purged
    }

    fn reset_to(&self, point: LogPoint) -> Result<(), LogError> {
        self.inner.reset_to(point)
    }

    fn metadata(&self, key: &str) -> Option<Bytes> {
        self.inner.metadata.lock().values.get(key).cloned()
    }

    fn set_metadata(&self, key: &str, value: Option<Bytes>) -> Result<(), LogError> {
        assert!(!key.starts_with('.'), "keys with a dot belong to the log itself");
        let mut meta = self.inner.metadata.lock();
        let mut changed = meta.clone();
        match value {
            Some(value) => changed.values.insert(key.to_owned(), value),
            None => changed.values.remove(key),
        };
        self.inner.replace_metadata(&mut meta, changed)
    }

    fn vote(&self) -> Option<Vote> {
        self.inner.metadata.lock().vote()
    }

    fn set_vote(&self, vote: Vote) -> Result<(), LogError> {
        let mut meta = self.inner.metadata.lock();
        let mut changed = meta.clone();
        changed.set_vote(vote);
        self.inner.replace_metadata(&mut meta, changed)
    }

    fn poisoned(&self) -> Option<String> {
        self.inner.poison.get().map(|reason| reason.to_string())
    }
}
