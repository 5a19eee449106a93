//! Storage in fjall, an LSM tree.
//!
//! fjall's own journal is never trusted: a flipped bit in it opens silently and loses what is behind it. The shard log
//! is replayed from the last checkpoint anyway, so `open` empties the journals first, and the state is exactly what
//! reached SSTables. See docs/adr/0004-state-from-sstables.md.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use fjall::{AbstractTree, CompressionType, Database, KeyspaceCreateOptions, Readable};

use super::{Entries, FlushToken, KeyRange, Keyspace, Op, Storage, StorageError, StorageSnapshot};

/// Background threads for flushes and compactions of one shard: one of each.
const WORKER_THREADS: usize = 2;

/// Memory that rows may fill before they go to an SSTable.
const ROWS_MEMTABLE_BYTES: u64 = 32 << 20;
const INDEX_MEMTABLE_BYTES: u64 = 16 << 20;
/// Small keyspaces with few keys.
const SMALL_MEMTABLE_BYTES: u64 = 4 << 20;

impl From<fjall::Error> for StorageError {
    fn from(error: fjall::Error) -> StorageError {
        match error {
            fjall::Error::Io(error) => StorageError::Io(error.to_string()),
            fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                StorageError::Io(error.to_string())
            }
            other => StorageError::Corrupt(other.to_string()),
        }
    }
}

/// See the module's documentation.
pub(crate) struct DiskStorage {
    keyspaces: [fjall::Keyspace; 4],
    database: Database,
}

impl DiskStorage {
    /// Opens the state in `path` as its SSTables have it, or creates it.
    pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<DiskStorage, StorageError> {
        empty_journals(path).map_err(|error| StorageError::Io(error.to_string()))?;
        let database = Database::builder(path)
            .cache_size(cache_bytes)
            .worker_threads(WORKER_THREADS)
            .manual_journal_persist(true)
            .journal_compression(CompressionType::None)
            .open()?;
        let open = |keyspace: Keyspace| {
            let memtable = match keyspace {
                Keyspace::Rows => ROWS_MEMTABLE_BYTES,
                Keyspace::Index => INDEX_MEMTABLE_BYTES,
                Keyspace::Kv | Keyspace::Meta => SMALL_MEMTABLE_BYTES,
            };
            database.keyspace(keyspace.name(), || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(memtable)
                    .manual_journal_persist(true)
            })
        };
        let keyspaces = [
            open(Keyspace::Rows)?,
            open(Keyspace::Index)?,
            open(Keyspace::Kv)?,
            open(Keyspace::Meta)?,
        ];
        Ok(DiskStorage { keyspaces, database })
    }

    fn keyspace(&self, keyspace: Keyspace) -> &fjall::Keyspace {
        match keyspace {
            Keyspace::Rows => &self.keyspaces[0],
            Keyspace::Index => &self.keyspaces[1],
            Keyspace::Kv => &self.keyspaces[2],
            Keyspace::Meta => &self.keyspaces[3],
        }
    }
}

/// Removes sealed journals and empties the newest. One must stay: without any, fjall 3.1 takes the database for one
/// whose sequence numbers begin at 0.
fn empty_journals(path: &Path) -> std::io::Result<()> {
    if !path.join("version").try_exists()? {
        return Ok(());
    }
    let mut journals = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        if entry.extension().is_some_and(|extension| extension == "jnl") {
            let number = entry
                .file_stem()
                .and_then(|stem| stem.to_str())
                .and_then(|stem| stem.parse::<u64>().ok());
            journals.push((number, entry));
        }
    }
    journals.sort();
    match journals.pop() {
        Some((_, newest)) => fs::File::create(newest)?.sync_all()?,
        None => fs::File::create(path.join("0.jnl"))?.sync_all()?,
    }
    for (_, journal) in journals {
        fs::remove_file(journal)?;
    }
    fs::File::open(path)?.sync_all()
}

impl Storage for DiskStorage {
    fn apply(&self, ops: Vec<Op>) -> Result<(), StorageError> {
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), ops.len());
        for op in ops {
            let keyspace = self.keyspace(op.keyspace);
            match op.value {
                Some(value) => batch.insert(keyspace, op.key, value),
                None => batch.remove(keyspace, op.key),
            }
        }
        batch.commit()?;
        Ok(())
    }

    fn ingest(
        &self,
        keyspace: Keyspace,
        ops: &mut dyn Iterator<Item = Result<Op, StorageError>>,
    ) -> Result<(), StorageError> {
        let mut ingestion = self.keyspace(keyspace).start_ingestion()?;
        for op in ops {
            let op = op?;
            match op.value {
                Some(value) => ingestion.write(op.key, value)?,
                None => ingestion.write_tombstone(op.key)?,
            }
        }
        ingestion.finish()?;
        Ok(())
    }

    fn snapshot(&self) -> Arc<dyn StorageSnapshot> {
        Arc::new(DiskSnapshot {
            snapshot: self.database.snapshot(),
            keyspaces: self.keyspaces.clone(),
        })
    }

    fn begin_flush(&self) -> Result<FlushToken, StorageError> {
        let mut newest = Vec::new();
        for keyspace in &self.keyspaces {
            newest.push(keyspace.tree.get_highest_memtable_seqno());
            keyspace.rotate_memtable()?;
        }
        Ok(FlushToken(newest))
    }

    fn is_flushed(&self, token: &FlushToken) -> bool {
        self.keyspaces.iter().zip(&token.0).all(|(keyspace, newest)| {
            let Some(newest) = newest else { return true };
            // Compaction may zero sequence numbers, so an empty queue counts too.
            keyspace.tree.sealed_memtable_count() == 0
                || keyspace.tree.get_highest_persisted_seqno() >= Some(*newest)
        })
    }

    fn is_persistent(&self) -> bool {
        true
    }
}

struct DiskSnapshot {
    snapshot: fjall::Snapshot,
    keyspaces: [fjall::Keyspace; 4],
}

impl DiskSnapshot {
    fn keyspace(&self, keyspace: Keyspace) -> &fjall::Keyspace {
        match keyspace {
            Keyspace::Rows => &self.keyspaces[0],
            Keyspace::Index => &self.keyspaces[1],
            Keyspace::Kv => &self.keyspaces[2],
            Keyspace::Meta => &self.keyspaces[3],
        }
    }
}

impl StorageSnapshot for DiskSnapshot {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.snapshot.get(self.keyspace(keyspace), key)?.map(Bytes::from))
    }

    fn range(&self, keyspace: Keyspace, range: KeyRange, reverse: bool) -> Entries {
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let keyspace = self.keyspace(keyspace);
        let iterator = match range.end {
            Some(end) => self.snapshot.range(keyspace, range.start..end),
            None => self.snapshot.range(keyspace, range.start..),
        };
        let read = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner()?;
            Ok((Bytes::from(key), Bytes::from(value)))
        };
        if reverse { Box::new(iterator.rev().map(read)) } else { Box::new(iterator.map(read)) }
    }
}
