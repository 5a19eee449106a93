//! Two storages side by side; every read is asked of both and must agree. For tests.

use std::sync::Arc;

use bytes::Bytes;

use super::{Entries, FlushToken, KeyRange, Keyspace, Op, Storage, StorageError, StorageSnapshot};

/// Writes go to both, reads compare.
pub(crate) struct Mirror {
    pub left: Box<dyn Storage>,
    pub right: Box<dyn Storage>,
}

impl Storage for Mirror {
    fn apply(&self, ops: Vec<Op>) -> Result<(), StorageError> {
        self.left.apply(ops.clone())?;
        self.right.apply(ops)
    }

    fn ingest(
        &self,
        keyspace: Keyspace,
        ops: &mut dyn Iterator<Item = Result<Op, StorageError>>,
    ) -> Result<(), StorageError> {
        let ops: Vec<Op> = ops.collect::<Result<_, _>>()?;
        self.left.ingest(keyspace, &mut ops.clone().into_iter().map(Ok))?;
        self.right.ingest(keyspace, &mut ops.into_iter().map(Ok))
    }

    fn snapshot(&self) -> Arc<dyn StorageSnapshot> {
        Arc::new(MirrorSnapshot { left: self.left.snapshot(), right: self.right.snapshot() })
    }

    fn begin_flush(&self) -> Result<FlushToken, StorageError> {
        self.right.begin_flush()?;
        self.left.begin_flush()
    }

    fn is_flushed(&self, token: &FlushToken) -> bool {
        self.left.is_flushed(token)
    }

    fn is_persistent(&self) -> bool {
        self.left.is_persistent()
    }
}

struct MirrorSnapshot {
    left: Arc<dyn StorageSnapshot>,
    right: Arc<dyn StorageSnapshot>,
}

impl StorageSnapshot for MirrorSnapshot {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let left = self.left.get(keyspace, key)?;
        assert_eq!(left, self.right.get(keyspace, key)?, "{keyspace:?} {key:?}");
        Ok(left)
    }

    fn range(&self, keyspace: Keyspace, range: KeyRange, reverse: bool) -> Entries {
        let mut right = self.right.range(keyspace, range.clone(), reverse);
        let left = self.left.range(keyspace, range, reverse);
        let mut is_over = false;
        let compared = left.map(Some).chain(std::iter::once(None)).filter_map(move |left| {
            if is_over {
                return None;
            }
            let other = right.next().map(|entry| entry.expect("the right side reads"));
            match left {
                Some(Ok(left)) => {
                    assert_eq!(Some(&left), other.as_ref(), "{keyspace:?}");
                    Some(Ok(left))
                }
                Some(Err(error)) => {
                    is_over = true;
                    Some(Err(error))
                }
                None => {
                    assert_eq!(None, other, "{keyspace:?}");
                    None
                }
            }
        });
        Box::new(compared)
    }
}
