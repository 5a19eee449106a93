//! Reading while others append and purge.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cortex_shard_api::ids::{LogIndex, Term};

use super::segment::read_run;
use super::segmented::Inner;
use super::{Entry, LogError};

impl Inner {
    pub(super) fn read(
        &self,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, LogError> {
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
    pub(super) fn read_run_of(&self, index: u64) -> Result<Option<Vec<Entry>>, LogError> {
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

    pub(super) fn term_at(&self, index: LogIndex) -> Result<Term, LogError> {
        let purged = self.writer.lock().purged;
        if index == purged.index {
            return Ok(purged.term);
        }
        let entries = self.read_run_of(index.0)?;
        Ok(entries.and_then(|entries| entries.first().map(|entry| entry.term)).unwrap_or_default())
    }
}
