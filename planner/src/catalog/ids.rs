//! Where OIDs and storage ids come from.
//!
//! One source is shared by all versions of a catalog, so an identity that a rolled back statement took is not given
//! again. It hands out what was reserved durably beforehand: after a crash counting goes on behind the reservation.

use std::sync::atomic::{AtomicU32, Ordering};

use cortex_shard_api::{Oid, StorageId};

use crate::{PlanError, PlanErrorKind};

/// Counters up to a reserved limit.
#[derive(Debug)]
pub struct IdSource {
    next: AtomicU32,
    limit: AtomicU32,
}

impl Default for IdSource {
    fn default() -> Self {
        IdSource::new(Oid::FIRST_USER.0, u32::MAX)
    }
}

impl IdSource {
    /// Hands out `next..limit`.
    pub fn new(next: u32, limit: u32) -> IdSource {
        IdSource { next: AtomicU32::new(next), limit: AtomicU32::new(limit) }
    }

    /// How many are left before the next reservation.
    pub fn left(&self) -> u32 {
        let next = self.next.load(Ordering::Acquire);
        self.limit.load(Ordering::Acquire).saturating_sub(next)
    }

    /// The end of what is reserved.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Acquire)
    }

    /// A larger reservation is durable.
    pub fn extend(&self, limit: u32) {
        self.limit.fetch_max(limit, Ordering::AcqRel);
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
        let limit = self.limit.load(Ordering::Acquire);
        self.next
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |next| {
                (next < limit).then_some(next + 1)
            })
            .map_err(|_| {
                PlanError::new(PlanErrorKind::Internal, "object identifiers are used up")
                    .with_hint("Split the statement: it makes more objects than one statement may.")
            })
    }
}
