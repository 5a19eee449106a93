//! Segments prepared ahead, so that an append overwrites blocks that exist (see [`Prefill`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use super::append::Writer;
use super::files::LogFile;
use super::recovery::SPARE_PREFIX;
use super::segmented::Inner;
use super::{LogError, Prefill};

/// One write of a prefill.
const FILL_BYTES: usize = 1 << 20;

/// A file that can become a segment with a rename.
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) file: Arc<dyn LogFile>,
    pub(super) bytes: u64,
    pub(super) is_recycled: bool,
}

/// Orders to the filler thread.
#[derive(Default)]
pub(super) struct Fill {
    pub(super) wanted_bytes: Option<u64>,
    pub(super) is_stopped: bool,
}

/// Writes zeros up to `bytes` and makes them durable.
pub(super) fn fill(file: &dyn LogFile, bytes: u64) -> io::Result<()> {
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
pub(super) fn start_filler(inner: &Arc<Inner>) -> Result<JoinHandle<()>, LogError> {
    let inner = Arc::clone(inner);
    std::thread::Builder::new()
        .name("log-filler".to_owned())
        .spawn(move || inner.run_filler())
        .map_err(|error| LogError::io("start the filler thread", error))
}

impl Inner {
    pub(super) fn spare_name(&self) -> String {
        format!("{SPARE_PREFIX}{:08}", self.n_spares_made.fetch_add(1, Ordering::Relaxed))
    }

    /// Orders the next segment when the active one is half full.
    pub(super) fn want_spare(&self, writer: &Writer) {
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
    pub(super) fn run_filler(&self) {
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
