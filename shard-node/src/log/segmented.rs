//! The running log: what it consists of, how it opens and closes, and the facade over its parts.
//!
//! The parts: `append` (the writer), `group_commit` (waiting and syncing), `read`, `retire` (truncate, purge, reset) and
//! `filler` (segments prepared ahead).
//!
//! Locks, in the order in which they may be taken: `metadata`, `writer`, then `commit` or `fill`.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use cortex_shard_api::ids::{LogIndex, Term};
use parking_lot::{Condvar, Mutex};

use super::append::Writer;
use super::files::{DirLock, LogFiles};
use super::filler::{Fill, fill, start_filler};
use super::format::{FIRST_BATCH, LogId, SegmentHeader, segment_name};
use super::group_commit::Commit;
use super::metadata::{self, Metadata};
use super::recovery::{self, OpenReport, Recovered};
use super::{Entry, LogError, LogOptions, LogPoint, Prefill, ShardLog, Ticket, Vote};

/// Size of the first segment; each next one doubles until `LogOptions::segment_bytes`.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;

/// The shard log on files. See [`ShardLog`] for the contract.
pub struct SegmentedLog {
    inner: Arc<Inner>,
    filler: Option<JoinHandle<()>>,
}

pub(super) struct Inner {
    pub(super) files: Arc<dyn LogFiles>,
    pub(super) options: LogOptions,
    pub(super) log_id: LogId,
    pub(super) writer: Mutex<Writer>,
    pub(super) commit: Mutex<Commit>,
    pub(super) committed: Condvar,
    pub(super) metadata: Mutex<Metadata>,
    /// Set once, by the first I/O error.
    pub(super) poison: OnceLock<Arc<str>>,
    /// Copies for readers that should not wait for a write.
    pub(super) first_index: AtomicU64,
    pub(super) last_index: AtomicU64,
    pub(super) durable_index: AtomicU64,
    pub(super) fill: Mutex<Fill>,
    pub(super) fill_wanted: Condvar,
    pub(super) n_spares_made: AtomicU64,
    pub(super) _lock: Box<dyn DirLock>,
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

    pub(super) fn check_poison(&self) -> Result<(), LogError> {
        match self.poison.get() {
            None => Ok(()),
            Some(reason) => Err(LogError::Poisoned { reason: Arc::clone(reason) }),
        }
    }

    /// The end of this log in this process. Waiters wake up to the error.
    pub(super) fn poison(&self, context: impl Into<String>, error: io::Error) -> LogError {
        let error = LogError::io(context, error);
        tracing::error!(%error, location = %self.files.location(), "the shard log is poisoned");
        let _ = self.poison.set(error.to_string().into());
        // Under the lock, so that nobody checks before and sleeps after.
        let _commit = self.commit.lock();
        self.committed.notify_all();
        error
    }
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
