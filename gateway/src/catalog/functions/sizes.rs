//! Bytes of relations: asked of the shards, summed.

use std::collections::BTreeMap;

use cortex_shard_api::{Datum, Oid, StorageId, ValueError, ValueErrorKind, ids::ShardId};

use super::{Call, Result, is_database, wait};

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
            return self.bytes(&table.descriptor.shards(), &storages).map(Datum::Int8);
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
        self.bytes(&table.descriptor.shards(), &storages).map(Datum::Int8)
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
            total += self.bytes(&shards, &storages)?;
        }
        Ok(Datum::Int8(total))
    }

    fn bytes(&self, shards: &[ShardId], storages: &[StorageId]) -> Result<i64> {
        let internal = |message: String| ValueError::new(ValueErrorKind::Internal, message);
        let mut bytes = 0;
        for shard in shards {
            let client = self
                .session
                .store()
                .shard(*shard)
                .map_err(|error| internal(error.message.clone()))?;
            for storage in storages {
                let stats = wait(client.storage_stats(*storage))
                    .map_err(|error| internal(error.to_string()))?;
                bytes += stats.bytes as i64;
            }
        }
        Ok(bytes)
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
