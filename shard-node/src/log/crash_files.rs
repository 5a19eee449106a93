//! The test twin of the file layer: a disk in memory that forgets what was not synced.
//!
//! For tests of whatever writes durable files: run it on a [`CrashDisk`], call [`CrashDisk::image`] at any moment, from any
//! thread, and open the image as the machine would find its disk after a power loss. kill -9 keeps the page cache and so
//! proves little; an image does not. It keeps everything that was synced, and of the rest what the seed says: writes
//! whole, dropped, torn at any byte, or mixed sector by sector in any order; created, renamed and removed names likewise.
//! The same seed and history give the same image.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{DirLock, LogFile, LogFiles};

/// What a disk writes at once; the unit of mixing.
const SECTOR_BYTES: u64 = 512;

/// A disk with directories. Clones are the same disk.
#[derive(Clone, Default)]
pub struct CrashDisk {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    inodes: Vec<Inode>,
    directories: BTreeMap<String, Directory>,
    /// Operations that change something, counted from the beginning.
    n_operations: u64,
    fault: Option<Fault>,
}

#[derive(Clone, Copy)]
struct Fault {
    /// The first operation that fails.
    at: u64,
    /// Every later one fails too, as after a power loss.
    is_final: bool,
}

#[derive(Clone, Default)]
struct Inode {
    /// What survives for certain.
    durable: Vec<u8>,
    /// What a read sees.
    current: Vec<u8>,
    /// Writes since the last sync, in order.
    pending: Vec<(u64, Vec<u8>)>,
}

#[derive(Clone, Default)]
struct Directory {
    durable: BTreeMap<String, usize>,
    current: BTreeMap<String, usize>,
    pending: Vec<DirectoryChange>,
    is_locked: bool,
}

#[derive(Clone)]
enum DirectoryChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

impl CrashDisk {
    /// An empty disk.
    pub fn new() -> CrashDisk {
        CrashDisk::default()
    }

    /// A directory, created on first use (its own name is always durable).
    pub fn directory(&self, name: &str) -> Arc<dyn LogFiles> {
        self.disk.lock().directories.entry(name.to_owned()).or_default();
        Arc::new(CrashFiles { disk: self.clone(), directory: name.to_owned() })
    }

    /// The disk after a power loss now. This disk is not changed and goes on.
    pub fn image(&self, seed: u64) -> CrashDisk {
        let disk = self.disk.lock();
        let mut random = Random(seed);
        let mut image = Disk::default();
        for (directory_name, directory) in &disk.directories {
            let mut names = directory.after_crash(&mut random);
            for number in names.values_mut() {
                if let Some(inode) = disk.inodes.get(*number) {
                    *number = image.inodes.len();
                    image.inodes.push(Inode::with(inode.after_crash(&mut random)));
                }
            }
            let directory =
                Directory { durable: names.clone(), current: names, ..Directory::default() };
            image.directories.insert(directory_name.clone(), directory);
        }
        image.into()
    }

    /// The disk after `kill -9`: the page cache survives. It is still not durable: an image of this one may lose it.
    pub fn image_after_kill(&self) -> CrashDisk {
        let disk = self.disk.lock();
        let directories = disk.directories.iter().map(|(name, directory)| {
            (name.clone(), Directory { is_locked: false, ..directory.clone() })
        });
        let directories = directories.collect();
        Disk { inodes: disk.inodes.clone(), directories, ..Disk::default() }.into()
    }

    /// How many operations changed this disk so far (writes, syncs, names).
    pub fn operations(&self) -> u64 {
        self.disk.lock().n_operations
    }

    /// After `n` more changing operations every further one fails, as if the power were gone.
    pub fn crash_after(&self, n: u64) {
        let mut disk = self.disk.lock();
        disk.fault = Some(Fault { at: disk.n_operations + n, is_final: true });
    }

    /// After `n` more changing operations, one fails with an I/O error.
    pub fn fail_once_after(&self, n: u64) {
        let mut disk = self.disk.lock();
        disk.fault = Some(Fault { at: disk.n_operations + n, is_final: false });
    }

    /// Takes back what was ordered of `crash_after` and `fail_once_after`.
    pub fn heal(&self) {
        self.disk.lock().fault = None;
    }

    /// Names in a directory.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let disk = self.disk.lock();
        disk.directories
            .get(directory)
            .map_or_else(Vec::new, |d| d.current.keys().cloned().collect())
    }

    /// Damages a file behind everybody's back, durably. False if there is no such file.
    pub fn damage(&self, directory: &str, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut disk = self.disk.lock();
        let found = disk.directories.get(directory).and_then(|d| d.current.get(name)).copied();
        let Some(inode) = found.and_then(|inode| disk.inodes.get_mut(inode)) else { return false };
        change(&mut inode.current);
        inode.durable = inode.current.clone();
        inode.pending.clear();
        true
    }
}

impl From<Disk> for CrashDisk {
    fn from(disk: Disk) -> CrashDisk {
        CrashDisk { disk: Arc::new(Mutex::new(disk)) }
    }
}

impl Disk {
    /// Counts a changing operation and fails it if that was ordered.
    fn operate(&mut self) -> io::Result<()> {
        let now = self.n_operations;
        self.n_operations += 1;
        match self.fault {
            Some(Fault { at, is_final: true }) if now >= at => {
                Err(io::Error::other("the test's disk has no power"))
            }
            Some(Fault { at, is_final: false }) if now >= at => {
                self.fault = None;
                Err(io::Error::other("the test's disk failed once"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn directory(&mut self, name: &str) -> io::Result<&mut Directory> {
        self.directories.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&mut self, inode: usize) -> io::Result<&mut Inode> {
        self.inodes.get_mut(inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Inode {
    fn with(bytes: Vec<u8>) -> Inode {
        Inode { durable: bytes.clone(), current: bytes, pending: Vec::new() }
    }

    /// The content that a crash leaves.
    fn after_crash(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let n = self.pending.len() as u64;
        match random.below(6) {
            // Everything made it.
            0 => bytes = self.current.clone(),
            // Nothing did.
            1 => {}
            // The disk kept the order; the last write is torn at a byte.
            2 => {
                let n_kept = random.below(n + 1) as usize;
                for (offset, written) in self.pending.iter().take(n_kept) {
                    write_into(&mut bytes, *offset, written);
                }
                if let Some((offset, written)) = self.pending.get(n_kept) {
                    let n_bytes = random.below(written.len() as u64 + 1) as usize;
                    write_into(&mut bytes, *offset, &written[..n_bytes]);
                }
            }
            // Each write made it whole or not at all.
            3 => {
                for (offset, written) in &self.pending {
                    if random.below(2) == 0 {
                        write_into(&mut bytes, *offset, written);
                    }
                }
            }
            // Each sector stopped at some write.
            4 => {
                let mut n_writes_of = BTreeMap::new();
                for (i, (offset, written)) in self.pending.iter().enumerate() {
                    for (at, part) in sectors(*offset, written) {
                        let sector = at / SECTOR_BYTES;
                        let n_writes =
                            *n_writes_of.entry(sector).or_insert_with(|| random.below(n + 1));
                        if (i as u64) < n_writes {
                            write_into(&mut bytes, at, part);
                        }
                    }
                }
            }
            // Each write is whole, gone, or has only its beginning or its end.
            _ => {
                for (offset, written) in &self.pending {
                    let cut = random.below(written.len() as u64 + 1) as usize;
                    match random.below(4) {
                        0 => write_into(&mut bytes, *offset, written),
                        1 => write_into(&mut bytes, *offset, &written[..cut]),
                        2 => write_into(&mut bytes, *offset + cut as u64, &written[cut..]),
                        _ => {}
                    }
                }
            }
        }
        // The length is metadata: it may be ahead of the data, which then reads as zeros.
        if bytes.len() < self.current.len() && random.below(3) == 0 {
            bytes.resize(self.current.len(), 0);
        }
        bytes
    }
}

impl Directory {
    /// The names that a crash leaves.
    fn after_crash(&self, random: &mut Random) -> BTreeMap<String, usize> {
        let n = self.pending.len() as u64;
        let mode = random.below(4);
        let n_kept = match mode {
            0 => n,
            1 => 0,
            _ => random.below(n + 1),
        };
        let mut names = self.durable.clone();
        for (i, change) in self.pending.iter().enumerate() {
            // Journaling file systems keep the order; nobody promised it.
            let is_kept = if mode == 3 { random.below(2) == 0 } else { (i as u64) < n_kept };
            if is_kept {
                change.apply(&mut names);
            }
        }
        names
    }

    fn change(&mut self, change: DirectoryChange) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }
}

impl DirectoryChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            DirectoryChange::Create(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            DirectoryChange::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            DirectoryChange::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

/// Writes as a file does: extends, with zeros in a gap.
fn write_into(bytes: &mut Vec<u8>, offset: u64, written: &[u8]) {
    if written.is_empty() {
        return;
    }
    let (start, end) = (offset as usize, offset as usize + written.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(written);
}

/// Cuts a write at sector boundaries.
fn sectors(offset: u64, mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut parts = Vec::new();
    let mut at = offset;
    while !bytes.is_empty() {
        let n = (SECTOR_BYTES - at % SECTOR_BYTES).min(bytes.len() as u64);
        let (part, rest) = bytes.split_at(n as usize);
        parts.push((at, part));
        at += n;
        bytes = rest;
    }
    parts
}

/// splitmix64: small, seeded, and the same for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % n.max(1)
    }
}

struct CrashFiles {
    disk: CrashDisk,
    directory: String,
}

impl CrashFiles {
    fn handle(&self, inode: usize) -> Arc<dyn LogFile> {
        Arc::new(CrashFile { disk: self.disk.clone(), inode })
    }
}

impl LogFiles for CrashFiles {
    fn location(&self) -> String {
        format!("crash disk, {}", self.directory)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk.names(&self.directory))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let mut disk = self.disk.disk.lock();
        disk.operate()?;
        let inode = disk.inodes.len();
        let directory = disk.directory(&self.directory)?;
        if directory.current.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        directory.change(DirectoryChange::Create(name.to_owned(), inode));
        disk.inodes.push(Inode::default());
        Ok(self.handle(inode))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let mut disk = self.disk.disk.lock();
        let found = disk.directory(&self.directory)?.current.get(name).copied();
        found.map(|inode| self.handle(inode)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.disk.lock();
        disk.operate()?;
        let directory = disk.directory(&self.directory)?;
        if !directory.current.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        directory.change(DirectoryChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.disk.lock();
        disk.operate()?;
        let directory = disk.directory(&self.directory)?;
        if !directory.current.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        directory.change(DirectoryChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk.disk.lock();
        disk.operate()?;
        let directory = disk.directory(&self.directory)?;
        directory.durable = directory.current.clone();
        directory.pending.clear();
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn DirLock>> {
        let mut disk = self.disk.disk.lock();
        let directory = disk.directory(&self.directory)?;
        if directory.is_locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        directory.is_locked = true;
        Ok(Box::new(CrashLock { disk: self.disk.clone(), directory: self.directory.clone() }))
    }
}

struct CrashLock {
    disk: CrashDisk,
    directory: String,
}

impl DirLock for CrashLock {}

impl Drop for CrashLock {
    fn drop(&mut self) {
        if let Ok(directory) = self.disk.disk.lock().directory(&self.directory) {
            directory.is_locked = false;
        }
    }
}

struct CrashFile {
    disk: CrashDisk,
    inode: usize,
}

impl LogFile for CrashFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.disk.lock().inode(self.inode)?.current.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk.disk.lock();
        let bytes = disk.inode(self.inode)?.current.get(offset as usize..).unwrap_or(&[]);
        let n = bytes.len().min(buffer.len());
        buffer[..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk.disk.lock();
        // A write that fails may still have reached the disk in part.
        let outcome = disk.operate();
        let inode = disk.inode(self.inode)?;
        write_into(&mut inode.current, offset, bytes);
        inode.pending.push((offset, bytes.to_vec()));
        outcome
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk.disk.lock();
        disk.operate()?;
        let inode = disk.inode(self.inode)?;
        for (offset, written) in std::mem::take(&mut inode.pending) {
            write_into(&mut inode.durable, offset, &written);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_what_was_not_may_not() {
        let disk = CrashDisk::new();
        let files = disk.directory("d");
        let file = files.create("a").expect("create");
        file.write_at(b"synced", 0).expect("write");
        file.sync_data().expect("sync");
        files.sync_dir().expect("sync");
        file.write_at(b"UNSYNC", 3).expect("write");
        files.create("b").expect("create");
        files.rename("a", "c").expect("rename");

        let mut contents = std::collections::BTreeSet::new();
        let mut listings = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let image = disk.image(seed);
            let names = image.names("d");
            let files = image.directory("d");
            let name = if names.contains(&"a".to_owned()) { "a" } else { "c" };
            let file = files.open(name).expect("a synced name is there, old or new");
            let mut bytes = vec![0; 99];
            let n = file.read_at(&mut bytes, 0).expect("read");
            assert_eq!(&bytes[..3], b"syn");
            contents.insert(bytes[..n].to_vec());
            listings.insert(names);
            assert_eq!(image.names("d"), disk.image(seed).names("d"));
        }
        assert!(
            contents.contains(b"synced".as_slice()) && contents.contains(b"synUNSYNC".as_slice())
        );
        assert!(contents.len() > 5, "writes are torn: {contents:?}");
        assert_eq!(listings.len(), 4, "names come and go: {listings:?}");
    }
}
