//! Identities. Each is a newtype, so that a slot can never be passed where a shard is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id!(
    /// One engine with its log. 0 is the meta shard, data shards count from 1.
    ShardId, u32
);
id!(
    /// A persistent object identifier, as `pg_class.oid` shows it. User objects start at 16384.
    Oid, u32
);
id!(
    /// The prefix of a table's or an index's keys. Not the OID: TRUNCATE and rewrites switch it, so that
    /// old and new contents never mix and the old ones are deleted in the background.
    StorageId, u32
);
id!(
    /// A transaction of one session, unique in the cluster's lifetime: which start of a gateway (a number that the meta shard
    /// gives once), then a counter.
    TxnId, u64
);
id!(
    /// Position in a shard's log, counting from 1. 0 means "before the first entry".
    LogIndex, u64
);
id!(
    /// Leadership period of a shard.
    Term, u64
);
id!(
    /// Version of a co-location group's shard map.
    Epoch, u64
);
id!(
    /// Unit of placement of a hash table, `0..SLOTS`.
    Slot, u16
);
id!(
    /// A move of a part of a co-location group, a table or a schema from one shard to another; never used again.
    MoveId, u32
);
id!(
    /// A consistent view of one shard, leased to one statement.
    SnapshotId, u64
);

impl ShardId {
    /// The meta shard, which owns the catalog and holds no user rows.
    pub const META: ShardId = ShardId(0);
    /// Where tables live that nobody sharded.
    pub const HOME: ShardId = ShardId(1);
}

impl Oid {
    /// The first OID given to objects that users create; smaller ones belong to Postgres's own catalog.
    pub const FIRST_USER: Oid = Oid(16384);
    /// "No object".
    pub const INVALID: Oid = Oid(0);
}
