//! Bytes of relations: asked of the shards, summed.

use std::{collections::BTreeMap, time::Duration};

use cortex_shard_api::{Datum, Oid, ShardError, StorageId, ids::ShardId};

use super::{Call, Result, ask, is_database, shard_error};

/// `\d+` and dashboards ask for sizes: one that is not there soon is not worth the wait.
const SIZE_WAIT_MAX: Duration = Duration::from_secs(1);

fn shown(bytes: Option<i64>) -> Datum {
    bytes.map_or(Datum::Null, Datum::Int8)
}

impl Call<'_> {
    pub(super) fn relation_size(&self, name: &str) -> Result<Datum> {
        let oid = self.oid(0).unwrap_or_default();
        let catalog = self.session.catalog();
        if let Some((table, position)) = catalog.index(oid) {
            // The primary key is the table itself: it takes no room of its own.
            let storages: Vec<StorageId> = position
                .and_then(|position| table.descriptor.indexes.get(position))
                .map(|index| index.storage)
                .into_iter()
                .collect();
            return self.bytes(&table.descriptor.shards(), &storages).map(shown);
        }
        let Some(table) = catalog.tables.get(&oid) else {
            let known = catalog.relation_by_oid(oid).is_some()
                || crate::catalog::relations::facts::relation_by_oid(oid).is_some();
            return Ok(if known { Datum::Int8(0) } else { Datum::Null });
        };
        let (rows, indexes) = (table.descriptor.storage, &table.descriptor.indexes);
        let storages: Vec<StorageId> = match name {
            "pg_relation_size" | "pg_table_size" => vec![rows],
            "pg_indexes_size" => indexes.iter().map(|index| index.storage).collect(),
            _ => table.storages(),
        };
        self.bytes(&table.descriptor.shards(), &storages).map(shown)
    }

    pub(super) fn database_size(&self) -> Result<Datum> {
        if self.oid(0).is_some_and(|oid| !is_database(oid) && oid != Oid(1663)) {
            return Ok(Datum::Null);
        }
        let mut by_shards: BTreeMap<Vec<ShardId>, Vec<StorageId>> = BTreeMap::new();
        for table in self.session.catalog().tables.values() {
            by_shards.entry(table.descriptor.shards()).or_default().extend(table.storages());
        }
        let mut total = 0;
        for (shards, storages) in by_shards {
            let Some(bytes) = self.bytes(&shards, &storages)? else { return Ok(Datum::Null) };
            total += bytes;
        }
        Ok(Datum::Int8(total))
    }

    /// `None` while one of the shards is down: a part of the size is not the size.
    fn bytes(&self, shards: &[ShardId], storages: &[StorageId]) -> Result<Option<i64>> {
        let mut bytes = 0;
        for shard in shards {
            let Ok(client) = self.session.store().shard(*shard) else { return Ok(None) };
            let storages = storages.to_vec();
            let sum = ask(*shard, SIZE_WAIT_MAX, async move {
                let mut sum = 0;
                for storage in storages {
                    sum += client.storage_stats(storage).await?.bytes;
                }
                Ok(sum)
            });
            match sum {
                Ok(sum) => bytes += sum as i64,
                Err(ShardError::Unavailable { .. }) => return Ok(None),
                Err(error) => return Err(shard_error(error)),
            }
        }
        Ok(Some(bytes))
    }

    pub(super) fn relation_filenode(&self) -> Result<Datum> {
        let oid = self.oid(0).unwrap_or_default();
        let catalog = self.session.catalog();
        if let Some(table) = catalog.tables.get(&oid) {
            return Ok(Datum::Oid(table.descriptor.storage.0));
        }
        let index = catalog
            .index(oid)
            .and_then(|(table, position)| Some(table.descriptor.indexes.get(position?)?.storage));
        Ok(index.map_or(Datum::Null, |storage| Datum::Oid(storage.0)))
    }
}
