//! Where OIDs and storage ids come from.
//!
//! One source is shared by all versions of a catalog in a gateway, so an identity that a rolled back statement took is not
//! given again. It hands out what was reserved durably beforehand, for this gateway alone: after a crash counting goes on
//! behind the reservation.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cortex_shard_api::{Oid, StorageId};

use crate::{PlanError, PlanErrorKind};

/// Counters up to a reserved limit.
#[derive(Debug)]
pub struct IdSource(Mutex<Range>);

#[derive(Clone, Copy, Debug)]
struct Range {
    next: u32,
    limit: u32,
}

impl Default for IdSource {
    fn default() -> Self {
        IdSource::new(Oid::FIRST_USER.0, u32::MAX)
    }
}

impl IdSource {
    /// Hands out `next..limit`.
    pub fn new(next: u32, limit: u32) -> IdSource {
        IdSource(Mutex::new(Range { next, limit }))
    }

    fn range(&self) -> MutexGuard<'_, Range> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are left before the next reservation.
    pub fn left(&self) -> u32 {
        let range = self.range();
        range.limit.saturating_sub(range.next)
    }

    /// `first..limit` is reserved durably. What is left of the last reservation goes on if this one follows it, and is lost
    /// otherwise: another gateway reserved in between.
    pub fn extend(&self, first: u32, limit: u32) {
        let mut range = self.range();
        let next = if range.limit == first { range.next } else { first };
        *range = Range { next, limit };
    }

    /// A fresh object identifier. Storage ids come from the same counter: one number is never both.
    pub fn oid(&self) -> Result<Oid, PlanError> {
        self.take().map(Oid)
    }

    /// A fresh storage id.
    pub fn storage(&self) -> Result<StorageId, PlanError> {
        self.take().map(StorageId)
    }

    fn take(&self) -> Result<u32, PlanError> {
        let mut range = self.range();
        if range.next >= range.limit {
            let error = PlanError::new(PlanErrorKind::Internal, "object identifiers are used up");
            return Err(error
                .with_hint("Split the statement: it makes more objects than one statement may."));
        }
        range.next += 1;
        Ok(range.next - 1)
    }
}
