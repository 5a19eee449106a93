//! The file layer: the few operations that the log needs of one directory.
//!
//! Two implementations: `DiskFiles` (here) and the test twin `crash_files`, which forgets what was not synced. Whoever
//! writes durable files in a shard uses this trait, so that the crash tests see all of it. Rules of the layer, which are
//! the rules of POSIX disks: written bytes survive a crash after `sync_data` of the file; a created, renamed or removed
//! name survives after `sync_dir`; without them any part of either may survive.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One directory without subdirectories.
pub trait LogFiles: Send + Sync {
    /// Where this is, for messages.
    fn location(&self) -> String;

    /// Names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new, empty file; `AlreadyExists` if the name is taken.
    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>>;

    /// An existing file, to read and write.
    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>>;

    /// Atomically gives the file a new name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Open handles stay usable.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes created, renamed and removed names durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Takes the directory for this process until the lock is dropped; `WouldBlock` if another has it.
    fn lock(&self) -> io::Result<Box<dyn DirLock>>;
}

/// Held while the directory is in use.
pub trait DirLock: Send + Sync {}

/// An open file; all operations name their offset, so that threads can share it.
pub trait LogFile: Send + Sync {
    /// Current length.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads until the buffer or the file ends; the count says which.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes, extending the file if they end behind it.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes written bytes and the length durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// The name of the lock file; the log leaves it alone otherwise.
pub(super) const LOCK_FILE: &str = "LOCK";

/// A directory of the operating system.
pub struct DiskFiles {
    path: PathBuf,
}

impl DiskFiles {
    /// Uses `path`, creating it durably if it is missing.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<DiskFiles> {
        let path = path.into();
        create_dir_durably(&path)?;
        Ok(DiskFiles { path })
    }
}

/// A directory exists after a crash only when its parent was synced.
fn create_dir_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    create_dir_durably(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    File::open(parent)?.sync_all()
}

impl LogFiles for DiskFiles {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is not ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path.join(name))?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn DirLock>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path.join(LOCK_FILE))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(DiskLock { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// The operating system releases it when the file closes, also after a kill.
struct DiskLock {
    _file: File,
}

impl DirLock for DiskLock {}

struct DiskFile(File);

impl LogFile for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut n_read = 0;
        while let Some(rest) = buffer.get_mut(n_read..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + n_read as u64) {
                Ok(0) => break,
                Ok(n) => n_read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(n_read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
