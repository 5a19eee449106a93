//! Opening a shard: its files, the checkpoint, and the replay that makes its state whole.
//!
//! Lives here: the directory's layout and versions, the checkpoint file, and `Applier`, through which entries reach the
//! storage, live and replayed alike. Not here: when checkpoints are taken (`maintenance`).
//!
//! ```text
//!   dir/FORMAT       version of the layout, the shard's id
//!   dir/CHECKPOINT   index C: everything up to C is in SSTables; the counts at C
//!   dir/log/         the shard log: the truth behind C
//!   dir/state/       fjall
//!   dir/spill/       write sets of transactions that are under way; emptied here
//! ```
//!
//! The state may be ahead of C in parts (each keyspace flushes for itself) and behind the log; replay from C puts both
//! right, because applying is idempotent. A log that does not reach back to C, or a state ahead of the log, is corruption.

use std::{fs, io, ops::Range, path::PathBuf, sync::Arc, time::Instant};

use bytes::{Buf, BufMut, Bytes};
use cortex_shard_api::{LogIndex, ShardId, StorageId, client::StorageStats};

use crate::{
    entry::{Entry, EntryError, OpReader},
    log::{DiskFiles, LogError, LogFiles, LogOptions, SegmentedLog, ShardLog},
    replication::storage_key,
    sequences::sequence_key,
    stats::{Change, Counters},
    storage::{
        KeyRange, Keyspace, Op, Storage, StorageError, StorageSnapshot, disk::DiskStorage,
        memory::MemoryStorage,
    },
};

/// Version of the directory's layout and of everything in it that has no version of its own.
const FORMAT_VERSION: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const CHECKPOINT_FILE: &str = "CHECKPOINT";
const CHECKPOINT_MAGIC: &[u8; 8] = b"CXCKPT01";

/// Chunks from which on a transaction goes into SSTables directly, past the memtable.
const INGEST_CHUNKS_MIN: u64 = 8;

/// Operations applied at a time during replay and cleaning.
pub(crate) const APPLY_OPS_MAX: usize = 10_000;

/// `Keyspace::Meta`: index of the last applied entry.
pub(crate) const APPLIED_KEY: &[u8] = b"applied";
/// `Keyspace::Meta`: storages whose keys are being deleted, `[prefix][storage u32 BE]`.
pub(crate) const DROP_PREFIX: &[u8] = b"drop/";

/// How a shard keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// In fjall, under the shard's directory.
    Disk,
    /// In memory, rebuilt from the log at every open: for tests.
    Memory,
}

/// What a shard needs to know to open.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    pub id: ShardId,
    pub directory: PathBuf,
    pub storage: StorageKind,
    /// Memory for blocks read from disk.
    pub cache_bytes: u64,
    /// Memory of one transaction's writes, before they go to disk.
    pub write_set_bytes: usize,
    /// Memory of all fragments that run at the same time.
    pub fragment_memory_bytes: usize,
    /// Log bytes after which a checkpoint is taken.
    pub checkpoint_log_bytes: u64,
}

impl ShardConfig {
    /// The defaults for a shard in a directory of its own.
    pub fn new(id: ShardId, directory: impl Into<PathBuf>) -> ShardConfig {
        ShardConfig {
            id,
            directory: directory.into(),
            storage: StorageKind::Disk,
            cache_bytes: 64 << 20,
            write_set_bytes: crate::txn::write_set::WRITE_SET_BYTES_MAX,
            fragment_memory_bytes: 512 << 20,
            checkpoint_log_bytes: 256 << 20,
        }
    }
}

/// Why a shard does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Written by another version of CortexDB.
    #[error("{path} has format version {found}, this program reads version {FORMAT_VERSION}")]
    Version { path: String, found: String },
    /// The directory of another shard.
    #[error("{path} belongs to shard {found}, not to shard {expected}")]
    Foreign { path: String, found: String, expected: ShardId },
    #[error("shard {shard} is corrupt: {what}")]
    Corrupt { shard: ShardId, what: String },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("shard {shard}: {context}: {error}")]
    Io { shard: ShardId, context: String, error: String },
}

/// What opening found and did.
#[derive(Clone, Debug)]
pub struct OpenReport {
    pub log: crate::log::OpenReport,
    /// Where replay began.
    pub checkpoint: LogIndex,
    /// Entries replayed.
    pub n_replayed: u64,
    /// Storages whose deletion goes on.
    pub n_dropping: usize,
    pub seconds: f64,
}

/// The counts and the index that a checkpoint guarantees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub index: LogIndex,
    pub counters: Counters,
}

impl Checkpoint {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = CHECKPOINT_MAGIC.to_vec();
        bytes.put_u64(self.index.0);
        bytes.put_u64(self.counters.iter().len() as u64);
        for (storage, stats) in self.counters.iter() {
            bytes.put_u32(storage.0);
            bytes.put_u64(stats.rows);
            bytes.put_u64(stats.bytes);
        }
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32(crc);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Checkpoint> {
        let (mut body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        body = body.strip_prefix(CHECKPOINT_MAGIC)?;
        let index = LogIndex(body.try_get_u64().ok()?);
        let n_counters = body.try_get_u64().ok()?;
        let mut counters = Counters::default();
        for _ in 0..n_counters {
            let storage = StorageId(body.try_get_u32().ok()?);
            let rows = body.try_get_u64().ok()?;
            let n_bytes = body.try_get_u64().ok()?;
            counters.set(storage, StorageStats { rows, bytes: n_bytes });
        }
        body.is_empty().then_some(Checkpoint { index, counters })
    }

    /// Replaces the checkpoint file; durable on return.
    pub(crate) fn write(&self, files: &dyn LogFiles) -> io::Result<()> {
        write_file(files, CHECKPOINT_FILE, &self.encode())
    }

    fn read(files: &dyn LogFiles) -> io::Result<Option<Option<Checkpoint>>> {
        Ok(read_file(files, CHECKPOINT_FILE)?.map(|bytes| Checkpoint::decode(&bytes)))
    }
}

fn write_file(files: &dyn LogFiles, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    match files.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = files.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    files.rename(&temporary, name)?;
    files.sync_dir()
}

fn read_file(files: &dyn LogFiles, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match files.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; file.len()? as usize];
    let n_read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n_read);
    Ok(Some(bytes))
}

/// Opens the state; told whether a checkpoint says that there is one.
pub(crate) type OpenStorage = Box<dyn FnOnce(bool) -> Result<Box<dyn Storage>, StorageError>>;

/// The pieces a shard is made of; tests bring their own.
pub(crate) struct Parts {
    /// The shard's directory, for FORMAT and CHECKPOINT.
    pub files: Arc<dyn LogFiles>,
    pub log_files: Arc<dyn LogFiles>,
    pub log_options: LogOptions,
    pub storage: OpenStorage,
}

impl Parts {
    pub(crate) fn on_disk(config: &ShardConfig) -> Result<Parts, OpenError> {
        let io_error = |error: io::Error| OpenError::Io {
            shard: config.id,
            context: format!("cannot use {}", config.directory.display()),
            error: error.to_string(),
        };
        let files = Arc::new(DiskFiles::open(&config.directory).map_err(io_error)?);
        let log_files = DiskFiles::open(config.directory.join("log")).map_err(io_error)?;
        let state = config.directory.join("state");
        let (kind, cache_bytes) = (config.storage, config.cache_bytes);
        let storage = move |has_checkpoint: bool| -> Result<Box<dyn Storage>, StorageError> {
            if kind == StorageKind::Memory {
                return Ok(Box::new(MemoryStorage::default()));
            }
            // Without a checkpoint nothing in it is promised, and it may be half made.
            if !has_checkpoint && state.exists() {
                fs::remove_dir_all(&state).map_err(|error| StorageError::Io(error.to_string()))?;
            }
            Ok(Box::new(DiskStorage::open(&state, cache_bytes)?))
        };
        Ok(Parts {
            files,
            log_files: Arc::new(log_files),
            log_options: LogOptions::default(),
            storage: Box::new(storage),
        })
    }
}

/// A shard's durable half, opened and whole.
pub(crate) struct Recovered {
    pub files: Arc<dyn LogFiles>,
    pub log: Arc<dyn ShardLog>,
    pub storage: Box<dyn Storage>,
    pub counters: Counters,
    pub applied: LogIndex,
    pub dropping: Vec<StorageId>,
    pub report: OpenReport,
}

/// Opens everything and replays the log from the checkpoint.
pub(crate) fn recover(config: &ShardConfig, parts: Parts) -> Result<Recovered, OpenError> {
    let started = Instant::now();
    let shard = config.id;
    let io_error = |context: &str, error: io::Error| OpenError::Io {
        shard,
        context: context.to_owned(),
        error: error.to_string(),
    };
    let corrupt = |what: String| OpenError::Corrupt { shard, what };
    // FORMAT is written behind the log's own first files: once it is there, a log that is missing was lost.
    let is_new = !check_format(shard, &*parts.files)?;
    let _ = fs::remove_dir_all(config.directory.join("spill"));
    let checkpoint = Checkpoint::read(&*parts.files)
        .map_err(|error| io_error("reading the checkpoint", error))?;
    let has_checkpoint = checkpoint.is_some();
    let checkpoint = match checkpoint {
        Some(Some(checkpoint)) => checkpoint,
        Some(None) => return Err(corrupt("the checkpoint file is damaged".to_owned())),
        None => Checkpoint::default(),
    };
    let (log, log_report) =
        SegmentedLog::open(parts.log_files, LogOptions { create: is_new, ..parts.log_options })?;
    let log: Arc<dyn ShardLog> = Arc::new(log);
    if is_new {
        if has_checkpoint || log.last_index().0 > 0 {
            return Err(corrupt(format!("{FORMAT_FILE} is missing, but there is data")));
        }
        let text = format!("cortexdb shard, format {FORMAT_VERSION}, id {shard}\n");
        write_file(&*parts.files, FORMAT_FILE, text.as_bytes())
            .map_err(|error| io_error("writing FORMAT", error))?;
    }
    let storage_error = |error: StorageError| match error {
        StorageError::Corrupt(what) => OpenError::Corrupt { shard, what },
        StorageError::Io(error) => OpenError::Io { shard, context: "state".to_owned(), error },
    };
    let (first, last) = (log.first_index(), log.last_index());
    if first.0 > checkpoint.index.0 + 1 {
        return Err(corrupt(format!(
            "the log begins at entry {first}, but the state is complete only up to {}",
            checkpoint.index
        )));
    }
    if last < checkpoint.index {
        return Err(corrupt(format!(
            "the state is at entry {}, but the log ends at {last}",
            checkpoint.index
        )));
    }
    let storage = (parts.storage)(has_checkpoint).map_err(storage_error)?;
    let applied = storage.snapshot().get(Keyspace::Meta, APPLIED_KEY).map_err(storage_error)?;
    let applied =
        applied.and_then(|bytes| bytes.first_chunk::<8>().map(|b| u64::from_be_bytes(*b)));
    if applied.is_some_and(|applied| applied > last.0) {
        return Err(corrupt(format!(
            "the state is at entry {}, but the log ends at {last}",
            applied.unwrap_or(0)
        )));
    }
    let mut counters = checkpoint.counters;
    let behind = LogIndex(checkpoint.index.0 + 1)..LogIndex(last.0 + 1);
    let n_replayed = behind.end.0.saturating_sub(behind.start.0);
    replay(shard, &*log, &*storage, &mut counters, behind)?;
    let dropping = dropping(&*storage.snapshot()).map_err(storage_error)?;
    let report = OpenReport {
        log: log_report,
        checkpoint: checkpoint.index,
        n_replayed,
        n_dropping: dropping.len(),
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok(Recovered { files: parts.files, log, storage, counters, applied: last, dropping, report })
}

/// Whether FORMAT is there; an error if it is another version's or another shard's.
fn check_format(shard: ShardId, files: &dyn LogFiles) -> Result<bool, OpenError> {
    let io_error = |error: io::Error| OpenError::Io {
        shard,
        context: format!("{FORMAT_FILE} in {}", files.location()),
        error: error.to_string(),
    };
    let path = || format!("{}/{FORMAT_FILE}", files.location());
    let Some(bytes) = read_file(files, FORMAT_FILE).map_err(io_error)? else { return Ok(false) };
    let text = String::from_utf8_lossy(&bytes);
    let field = |name: &str| {
        let mut fields = text.trim().split(", ");
        fields.find_map(|field| field.strip_prefix(name)).unwrap_or("unknown").trim().to_owned()
    };
    let found = field("format ");
    if found != FORMAT_VERSION.to_string() {
        return Err(OpenError::Version { path: path(), found });
    }
    let found = field("id ");
    if found != shard.to_string() {
        return Err(OpenError::Foreign { path: path(), found, expected: shard });
    }
    Ok(true)
}

/// Storages whose deletion is not finished.
pub(crate) fn dropping(snapshot: &dyn StorageSnapshot) -> Result<Vec<StorageId>, StorageError> {
    let entries = snapshot.range(Keyspace::Meta, KeyRange::prefix(DROP_PREFIX), false);
    let mut storages = Vec::new();
    for entry in entries {
        let (key, _) = entry?;
        if let Some(bytes) = key.last_chunk::<4>() {
            storages.push(StorageId(u32::from_be_bytes(*bytes)));
        }
    }
    Ok(storages)
}

fn replay(
    shard: ShardId,
    log: &dyn ShardLog,
    storage: &dyn Storage,
    counters: &mut Counters,
    range: Range<LogIndex>,
) -> Result<(), OpenError> {
    let end = range.end;
    let mut expected = range.start;
    let storage_error = |error: StorageError| match error {
        StorageError::Corrupt(what) => OpenError::Corrupt { shard, what },
        StorageError::Io(error) => OpenError::Io { shard, context: "replay".to_owned(), error },
    };
    let mut applier = Applier::new(storage, log);
    for entry in log.replay(range) {
        let entry = entry?;
        if entry.index != expected {
            let what = format!("the log has entry {} where {expected} belongs", entry.index);
            return Err(OpenError::Corrupt { shard, what });
        }
        expected.0 += 1;
        let decoded = Entry::decode(&entry.payload).map_err(|error| match error {
            EntryError::Version(found) => OpenError::Version {
                path: format!("log entry {}", entry.index),
                found: found.to_string(),
            },
            EntryError::Malformed(_) => {
                OpenError::Corrupt { shard, what: format!("log entry {}: {error}", entry.index) }
            }
        })?;
        if let Entry::Dropped { storage: dropped } = &decoded {
            applier.delete_storage(*dropped).map_err(storage_error)?;
        }
        applier.apply(entry.index, decoded).map_err(storage_error)?;
    }
    if expected != end {
        let what = format!("the log ends before entry {expected}");
        return Err(OpenError::Corrupt { shard, what });
    }
    if end.0 > 1 {
        let changes = applier.finish(LogIndex(end.0 - 1)).map_err(storage_error)?;
        changes.iter().for_each(|change| counters.change(change));
    }
    Ok(())
}

/// Brings entries into the storage, in log order.
pub(crate) struct Applier<'a> {
    storage: &'a dyn Storage,
    log: &'a dyn ShardLog,
    ops: Vec<Op>,
    changes: Vec<Change>,
}

impl<'a> Applier<'a> {
    pub(crate) fn new(storage: &'a dyn Storage, log: &'a dyn ShardLog) -> Applier<'a> {
        Applier { storage, log, ops: Vec::new(), changes: Vec::new() }
    }

    pub(crate) fn apply(&mut self, index: LogIndex, entry: Entry) -> Result<(), StorageError> {
        match entry {
            Entry::Batch { deltas, ops } => {
                self.push_ops(ops)?;
                if !deltas.is_empty() {
                    self.changes.push(Change::Add(deltas));
                }
            }
            // Waits for its commit record, which may never come.
            Entry::Chunk { .. } => {}
            Entry::Commit { first, n_chunks, deltas } => {
                if first.0 + n_chunks != index.0 {
                    return Err(StorageError::Corrupt(format!(
                        "commit record {index} does not stand behind its chunks"
                    )));
                }
                self.flush()?;
                self.apply_chunks(first..index, n_chunks)?;
                self.changes.push(Change::Add(deltas));
            }
            Entry::Drop { storages } => {
                for storage in storages {
                    let key = drop_key(storage);
                    let value = Some(Bytes::from_static(b"1"));
                    self.ops.push(Op { keyspace: Keyspace::Meta, key, value });
                    self.changes.push(Change::Remove(storage));
                }
            }
            Entry::Dropped { storage } => {
                for key in [drop_key(storage), sequence_key(storage), storage_key(storage)] {
                    self.ops.push(Op { keyspace: Keyspace::Meta, key, value: None });
                }
                self.changes.push(Change::Remove(storage));
            }
        }
        if self.ops.len() >= APPLY_OPS_MAX { self.flush() } else { Ok(()) }
    }

    /// Applies what is left and notes how far the state is; returns what became of the counts.
    pub(crate) fn finish(mut self, applied: LogIndex) -> Result<Vec<Change>, StorageError> {
        let value = Some(Bytes::copy_from_slice(&applied.0.to_be_bytes()));
        let key = Bytes::from_static(APPLIED_KEY);
        self.ops.push(Op { keyspace: Keyspace::Meta, key, value });
        self.flush()?;
        Ok(self.changes)
    }

    /// Deletes what replay brought back of a storage that is gone.
    fn delete_storage(&mut self, storage: StorageId) -> Result<(), StorageError> {
        self.flush()?;
        let snapshot = self.storage.snapshot();
        for keyspace in [Keyspace::Rows, Keyspace::Index] {
            let prefix = cortex_shard_api::key::storage_prefix(storage);
            for entry in snapshot.range(keyspace, KeyRange::prefix(&prefix), false) {
                let (key, _) = entry?;
                // Not the slice of its block, which the memtable would keep whole.
                let key = Bytes::copy_from_slice(&key);
                self.ops.push(Op { keyspace, key, value: None });
                if self.ops.len() >= APPLY_OPS_MAX {
                    self.flush()?;
                }
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        if self.ops.is_empty() {
            return Ok(());
        }
        self.storage.apply(std::mem::take(&mut self.ops))
    }

    fn push_ops(&mut self, ops: OpReader) -> Result<(), StorageError> {
        for op in ops {
            self.ops.push(op?);
        }
        Ok(())
    }

    fn apply_chunks(&mut self, chunks: Range<LogIndex>, n_chunks: u64) -> Result<(), StorageError> {
        let log_error = |error: LogError| match error {
            LogError::Io { .. } => StorageError::Io(error.to_string()),
            other => StorageError::Corrupt(other.to_string()),
        };
        let entries = self.log.replay(chunks).map(move |entry| {
            match Entry::decode(&entry.map_err(log_error)?.payload)? {
                Entry::Chunk { ops } => Ok(ops),
                _ => {
                    Err(StorageError::Corrupt("a commit record names what is no chunk".to_owned()))
                }
            }
        });
        if n_chunks < INGEST_CHUNKS_MIN {
            for ops in entries {
                self.push_ops(ops?)?;
                self.flush()?;
            }
            return Ok(());
        }
        let ops = entries.flat_map(|ops: Result<OpReader, StorageError>| {
            let (ops, error) = match ops {
                Ok(ops) => (Some(ops), None),
                Err(error) => (None, Some(Err(error))),
            };
            ops.into_iter().flatten().map(|op| op.map_err(StorageError::from)).chain(error)
        });
        let mut ops = ops.peekable();
        while let Some(head) = ops.peek() {
            let keyspace = match head {
                Ok(op) => op.keyspace,
                Err(error) => return Err(error.clone()),
            };
            let mut of_keyspace = std::iter::from_fn(|| {
                ops.next_if(|op| op.as_ref().map_or(true, |op| op.keyspace == keyspace))
            });
            self.storage.ingest(keyspace, &mut of_keyspace)?;
        }
        Ok(())
    }
}

fn drop_key(storage: StorageId) -> Bytes {
    let mut key = DROP_PREFIX.to_vec();
    key.put_u32(storage.0);
    Bytes::from(key)
}
