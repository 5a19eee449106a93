//! The data directory as a whole: made, claimed by one process, and of a known format.
//!
//! Lives here: the lock file and the format file at its top. Not here: what is inside the shards' own directories, which they
//! version themselves.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::config::SHARDS_DEFAULT;

/// Of the directory's layout. A program reads its own version and no other.
const FORMAT_VERSION: u32 = 1;
const FORMAT_FILE: &str = "cortexdb.format";
const LOCK_FILE: &str = "cortexdb.lock";

/// A data directory that belongs to this process until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    pub path: PathBuf,
    /// Data shards in it.
    pub shards: u32,
    /// It was empty before.
    pub is_new: bool,
    _lock: File,
}

/// The format file.
#[derive(Debug, Serialize, Deserialize)]
struct Format {
    version: u32,
    shards: u32,
}

impl DataDir {
    /// Opens or makes a data directory. `shards` is what was asked for, if anything was.
    pub fn open(path: &Path, shards: Option<u32>) -> Result<DataDir> {
        let shown = path.display();
        // Readable for its owner alone, as Postgres's is.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make data directory {shown}"))?;
        let lock = lock(path)?;
        let format_path = path.join(FORMAT_FILE);
        let (format, is_new) = match fs::read_to_string(&format_path) {
            Ok(text) => (read_format(&text, path)?, false),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                refuse_foreign(path)?;
                let shards = shards.unwrap_or(SHARDS_DEFAULT);
                (Format { version: FORMAT_VERSION, shards }, true)
            }
            Err(error) => {
                let context = format!("cannot read {}", format_path.display());
                return Err(error).context(context);
            }
        };
        if let Some(asked) = shards.filter(|asked| *asked != format.shards) {
            bail!(
                "data directory {shown} has {} shards, not {asked}: leave out --shards, or give \
                 another --data-dir",
                format.shards
            );
        }
        if is_new {
            write_format(&format_path, &format)
                .with_context(|| format!("cannot write {}", format_path.display()))?;
        }
        Ok(DataDir { path: path.to_owned(), shards: format.shards, is_new, _lock: lock })
    }
}

/// The lock ends with the process, however it ends.
fn lock(path: &Path) -> Result<File> {
    let lock_path = path.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&lock_path)
        .with_context(|| format!("cannot open {}", lock_path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let owner = fs::read_to_string(&lock_path).unwrap_or_default();
            let owner = owner.trim();
            let owner =
                if owner.is_empty() { String::new() } else { format!(" (process {owner})") };
            bail!("data directory {} is in use by another cortexdb{owner}", path.display());
        }
        Err(fs::TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", lock_path.display()));
        }
    }
    // For whoever finds it locked; the lock itself is the operating system's.
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

fn read_format(text: &str, path: &Path) -> Result<Format> {
    let format: Format = toml::from_str(text).map_err(|error| {
        let shown = path.join(FORMAT_FILE);
        anyhow!("{} is not a format file of CortexDB: {}", shown.display(), error.message())
    })?;
    if format.version != FORMAT_VERSION {
        bail!(
            "data directory {} has format version {}, this program reads version {FORMAT_VERSION}: \
             use the program that made it",
            path.display(),
            format.version
        );
    }
    Ok(format)
}

/// A directory with other things in it is probably a mistake in a path.
fn refuse_foreign(path: &Path) -> Result<()> {
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    for entry in entries {
        let name = entry?.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with("cortexdb."));
        if !is_ours && name != "lost+found" {
            bail!(
                "{} is not empty and not a data directory of CortexDB (it holds {})",
                path.display(),
                name.display()
            );
        }
    }
    Ok(())
}

/// Durable before the first shard writes: a directory without its format would be taken for something else.
fn write_format(path: &Path, format: &Format) -> Result<()> {
    let temporary = path.with_extension("format.new");
    let mut file = File::create(&temporary)?;
    file.write_all(toml::to_string(format)?.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("cortex-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_directory_belongs_to_one_process() {
        let path = fresh("lock");
        let first = DataDir::open(&path, None).expect("a new directory");
        assert!((first.is_new, first.shards) == (true, SHARDS_DEFAULT));
        let error = DataDir::open(&path, None).expect_err("in use");
        assert!(error.to_string().contains("in use by another cortexdb"), "{error}");
        drop(first);
        let again = DataDir::open(&path, None).expect("free again");
        assert!(!again.is_new);
        drop(again);
        let error = DataDir::open(&path, Some(7)).expect_err("other number of shards");
        assert!(error.to_string().contains("has 4 shards, not 7"), "{error}");
        fs::remove_dir_all(&path).expect("clean up");
    }

    #[test]
    fn other_formats_and_other_things_are_refused() {
        let path = fresh("format");
        fs::create_dir_all(&path).expect("directory");
        fs::write(path.join(FORMAT_FILE), "version = 99\nshards = 4\n").expect("write");
        let error = DataDir::open(&path, None).expect_err("from the future");
        assert!(error.to_string().contains("has format version 99"), "{error}");
        fs::remove_file(path.join(FORMAT_FILE)).expect("remove");
        fs::write(path.join("thesis.tex"), "x").expect("write");
        let error = DataDir::open(&path, None).expect_err("not ours");
        assert!(error.to_string().contains("thesis.tex"), "{error}");
        fs::remove_dir_all(&path).expect("clean up");
    }
}
