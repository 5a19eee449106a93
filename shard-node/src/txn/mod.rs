//! Transactions in one shard, READ COMMITTED.
//!
//! Lives here: what a transaction owns (`write_set`, its locks), what a reader sees (`snapshot`), and how a commit becomes
//! durable and visible (`sequencer`). Not here: the rules of SQL writes (`write`).
//!
//! ```text
//!   statement ─► locks ─► newest published snapshot ∪ own writes ─► write set
//!   commit    ─► sequencer: append ─► fdatasync (one for the group) ─► apply ─► publish ─► release locks ─► answer
//! ```

pub(crate) mod locks;

pub(crate) mod sequencer;

pub(crate) mod snapshot;

pub(crate) mod spill;

pub(crate) mod write_set;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use cortex_shard_api::{LogIndex, Oid, ShardId, StorageId, TableDescriptor, TxnId};
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use crate::{
    fences::{FenceKey, Used},
    moves::Step,
};
use write_set::WriteSet;

/// A transaction as one shard knows it.
pub(crate) struct Txn {
    pub id: TxnId,
    pub writes: Arc<RwLock<WriteSet>>,
    pub state: Mutex<TxnState>,
}

#[derive(Default)]
pub(crate) struct TxnState {
    /// Tables of which it holds a lock, so that the next statement need not ask.
    pub tables: HashSet<Oid>,
    /// Row locks taken by table, until they escalate.
    pub row_locks: HashMap<Oid, usize>,
    /// Tables that nobody else can write.
    pub sole: HashSet<Oid>,
    /// Tables that it holds exclusively: it may be changing their schema.
    pub exclusive: HashSet<Oid>,
    /// The oldest versions with which it has written: no fence may pass them before it commits.
    pub used: SmallVec<[Used; 2]>,
    /// Fences that it raises, each with the mark of its statement.
    pub fences: Vec<(u32, FenceKey, u64)>,
    /// Versions of tables that it wrote while it held them exclusively. They bind others once it commits, until a restart.
    pub versions: BTreeMap<FenceKey, u64>,
    /// What the running statement still owes to foreign keys of a table that refers to itself.
    pub deferred: Option<crate::write::Deferred>,
    /// Storages of reference tables that it may have written, on their primary copy.
    pub copied: BTreeSet<StorageId>,
    /// It applies what another shard's reference tables have become: its values are as stored, their versions included.
    pub follows: Option<Follows>,
    /// It is a step of a move on its target.
    pub moving: Option<Step>,
    /// It was committed or rolled back; a request that is still under way must not write.
    pub is_over: bool,
}

/// Which copies a transaction brings from where to where, as indexes of the source's log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Follows {
    pub source: ShardId,
    pub from: LogIndex,
    pub to: LogIndex,
}

impl TxnState {
    /// Notes with which versions it writes a table.
    pub(crate) fn note_used(&mut self, table: &TableDescriptor) {
        for (key, version) in FenceKey::of_table(table) {
            let used = Used { table: table.oid, key, version };
            match self.used.iter_mut().find(|it| it.key == key && it.table == table.oid) {
                Some(known) => known.version = version.min(known.version),
                None => self.used.push(used),
            }
        }
    }
}

impl Txn {
    pub(crate) fn new(id: TxnId, spill_directory: &Path, budget: usize) -> Txn {
        let writes = WriteSet::new(spill_directory.to_owned(), budget);
        Txn { id, writes: Arc::new(RwLock::new(writes)), state: Mutex::default() }
    }

    pub(crate) fn has_written(&self) -> bool {
        !self.writes.read().is_empty()
    }

    /// Whether its commit leaves anything in the log.
    pub(crate) fn is_writing(&self) -> bool {
        self.has_written() || !self.state.lock().fences.is_empty()
    }
}
