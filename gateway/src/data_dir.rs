//! The data directory as a whole: made, claimed by one process, and of a known format.
//!
//! Lives here: the lock file and the format file at its top, and the identity of a process of a cluster. Not here: what is inside
//! the shards' own directories, which they version themselves.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use cortex_shard_api::cluster::Identity;
use serde::{Deserialize, Serialize};

use crate::config::SHARDS_DEFAULT;

/// Of the directory's layout. A program reads its own version and no other.
const FORMAT_VERSION: u32 = 1;
const FORMAT_FILE: &str = "cortexdb.format";
const LOCK_FILE: &str = "cortexdb.lock";
const IDENTITY_FILE: &str = "cortexdb.identity";

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

/// Whose data directory it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// `cortexdb start`: meta shard and data shards.
    #[default]
    Embedded,
    /// `cortexdb meta`
    Meta,
    /// `cortexdb shard`
    Shard,
}

impl Owner {
    fn command(self) -> &'static str {
        match self {
            Owner::Embedded => "cortexdb start",
            Owner::Meta => "cortexdb meta",
            Owner::Shard => "cortexdb shard",
        }
    }
}

/// The format file.
#[derive(Debug, Serialize, Deserialize)]
struct Format {
    version: u32,
    #[serde(default)]
    owner: Owner,
    /// Data shards of an embedded database.
    shards: u32,
}

/// The data directory of one process of a cluster.
#[derive(Debug)]
pub struct NodeDir {
    pub path: PathBuf,
    pub is_new: bool,
    pub identity: NodeIdentity,
    _lock: File,
}

/// Who the process is, for as long as the directory exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Drawn when the directory was made.
    pub node: Identity,
    /// The cluster that it belongs to, once it has joined one.
    pub cluster: Option<Identity>,
    /// The shard that it is, once the cluster has said so.
    pub shard: Option<u32>,
}

/// The identity file.
#[derive(Debug, Serialize, Deserialize)]
struct StoredIdentity {
    node: String,
    cluster: Option<String>,
    shard: Option<u32>,
}

impl NodeDir {
    /// Opens or makes the data directory of a meta or shard process.
    pub fn open(path: &Path, owner: Owner) -> Result<NodeDir> {
        let (format, is_new, lock) = claim(path, owner, 0)?;
        let identity_path = path.join(IDENTITY_FILE);
        let identity = match fs::read_to_string(&identity_path) {
            Ok(text) => read_identity(&text)
                .with_context(|| format!("{} cannot be read", identity_path.display()))?,
            // Nothing was written behind it yet: the format file comes after it.
            Err(error) if error.kind() == ErrorKind::NotFound && is_new => {
                NodeIdentity { node: Identity(rand::random()), cluster: None, shard: None }
            }
            Err(error) => {
                let context = format!("cannot read {}", identity_path.display());
                return Err(error).context(context);
            }
        };
        let dir = NodeDir { path: path.to_owned(), is_new, identity, _lock: lock };
        if is_new {
            dir.write_identity()?;
            let format_path = path.join(FORMAT_FILE);
            write_durably(&format_path, &toml::to_string(&format)?)
                .with_context(|| format!("cannot write {}", format_path.display()))?;
        }
        Ok(dir)
    }

    /// Remembers what the cluster said.
    pub fn joined(&mut self, cluster: Identity, shard: Option<u32>) -> Result<()> {
        let identity = NodeIdentity { node: self.identity.node, cluster: Some(cluster), shard };
        if identity != self.identity {
            self.identity = identity;
            self.write_identity()?;
        }
        Ok(())
    }

    fn write_identity(&self) -> Result<()> {
        let stored = StoredIdentity {
            node: self.identity.node.to_string(),
            cluster: self.identity.cluster.map(|it| it.to_string()),
            shard: self.identity.shard,
        };
        let path = self.path.join(IDENTITY_FILE);
        write_durably(&path, &toml::to_string(&stored)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn read_identity(text: &str) -> Result<NodeIdentity> {
    let stored: StoredIdentity =
        toml::from_str(text).map_err(|error| anyhow!("{}", error.message()))?;
    let parse = |text: &str| text.parse::<Identity>().map_err(|error| anyhow!(error));
    Ok(NodeIdentity {
        node: parse(&stored.node)?,
        cluster: stored.cluster.as_deref().map(parse).transpose()?,
        shard: stored.shard,
    })
}

impl DataDir {
    /// Opens or makes the data directory of an embedded database. `shards` is what was asked for, if anything was.
    pub fn open(path: &Path, shards: Option<u32>) -> Result<DataDir> {
        let (format, is_new, lock) =
            claim(path, Owner::Embedded, shards.unwrap_or(SHARDS_DEFAULT))?;
        if let Some(asked) = shards.filter(|asked| *asked != format.shards) {
            bail!(
                "data directory {} has {} shards, not {asked}: leave out --shards, or give \
                 another --data-dir",
                path.display(),
                format.shards
            );
        }
        if is_new {
            let format_path = path.join(FORMAT_FILE);
            write_durably(&format_path, &toml::to_string(&format)?)
                .with_context(|| format!("cannot write {}", format_path.display()))?;
        }
        Ok(DataDir { path: path.to_owned(), shards: format.shards, is_new, _lock: lock })
    }
}

/// Locks a directory, made if it is not there, and reads its format; a new one has this one, not written yet.
fn claim(path: &Path, owner: Owner, shards: u32) -> Result<(Format, bool, File)> {
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
            (Format { version: FORMAT_VERSION, owner, shards }, true)
        }
        Err(error) => {
            let context = format!("cannot read {}", format_path.display());
            return Err(error).context(context);
        }
    };
    if format.owner != owner {
        bail!(
            "data directory {shown} was made by `{}`: give another --data-dir to `{}`",
            format.owner.command(),
            owner.command()
        );
    }
    Ok((format, is_new, lock))
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
fn write_durably(path: &Path, text: &str) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
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

    #[test]
    fn a_node_keeps_its_identity_and_its_role() {
        let path = fresh("node");
        let mut first = NodeDir::open(&path, Owner::Shard).expect("a new directory");
        assert!(first.is_new && first.identity.cluster.is_none());
        let cluster = Identity([7; 16]);
        first.joined(cluster, Some(3)).expect("writes");
        let identity = first.identity.clone();
        drop(first);
        let error = DataDir::open(&path, None).expect_err("not an embedded database");
        assert!(error.to_string().contains("was made by `cortexdb shard`"), "{error}");
        let error = NodeDir::open(&path, Owner::Meta).expect_err("not a meta directory");
        assert!(error.to_string().contains("another --data-dir"), "{error}");
        let again = NodeDir::open(&path, Owner::Shard).expect("the same");
        assert_eq!((again.is_new, &again.identity), (false, &identity));
        assert_eq!(identity.shard, Some(3));
        let _ = fs::remove_dir_all(&path);
    }
}
