//! Entries of the meta shard that say which shards belong to the cluster: `[0x02][kind u8]...` → CBOR.
//! Format: docs/format/catalog.md.

use std::collections::BTreeMap;

use bytes::Bytes;
use cortex_shard_api::{
    ShardError, ShardId,
    client::{MetaWrite, ShardClient},
    cluster::Identity,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// All entries begin with it.
const PREFIX: u8 = 2;

/// Version of this format; another one is refused.
const FORMAT: u16 = 1;

const HEAD: u8 = 0;
const SHARD: u8 = 1;

/// The cluster as a whole: the guard of every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    format: u16,
    pub cluster: Identity,
    /// The next shard that is new gets it.
    pub next_shard: u32,
    /// The next gateway that starts gets it.
    pub next_gateway: u32,
}

/// A registered shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShardRecord {
    pub node: Identity,
    pub address: String,
    pub is_draining: bool,
    /// It was taken out: its process is refused.
    pub is_removed: bool,
}

/// What the entries add up to.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub head: Head,
    pub shards: BTreeMap<ShardId, ShardRecord>,
}

impl Records {
    /// Reads them, or makes a new cluster.
    pub async fn open(meta: &dyn ShardClient) -> Result<Records, ShardError> {
        let entries = meta.meta_scan(&[PREFIX]).await?;
        if entries.is_empty() {
            let cluster = Identity(rand::random());
            let head =
                Head { format: FORMAT, cluster, next_shard: ShardId::HOME.0, next_gateway: 1 };
            let write = MetaWrite { key: head_key(), value: Some(encode(&head)?) };
            meta.meta_write((head_key(), None), vec![write]).await?;
            return Ok(Records { head, shards: BTreeMap::new() });
        }
        let mut head = None;
        let mut shards = BTreeMap::new();
        for (key, value) in &entries {
            match key.get(1..) {
                Some([HEAD]) => head = Some(decode::<Head>(value)?),
                Some([SHARD, id @ ..]) => {
                    let id = <[u8; 4]>::try_from(id).map_err(|_| corrupt("a shard's key"))?;
                    shards.insert(ShardId(u32::from_be_bytes(id)), decode(value)?);
                }
                Some(_) | None => return Err(corrupt("an entry of an unknown kind")),
            }
        }
        let head = head.ok_or_else(|| corrupt("shards without a cluster"))?;
        if head.format != FORMAT {
            return Err(corrupt(&format!(
                "format {} of the cluster's entries; this program reads format {FORMAT}",
                head.format
            )));
        }
        Ok(Records { head, shards })
    }

    /// Writes another head, and a shard's record with it. There is one writer, so the guard only fails if two processes
    /// serve one meta shard.
    pub async fn change(
        &mut self,
        meta: &dyn ShardClient,
        head: Head,
        shard: Option<(ShardId, ShardRecord)>,
    ) -> Result<(), ShardError> {
        let guard = (head_key(), Some(encode(&self.head)?));
        let mut writes = vec![MetaWrite { key: head_key(), value: Some(encode(&head)?) }];
        if let Some((id, record)) = &shard {
            let key = [&[PREFIX, SHARD][..], &id.0.to_be_bytes()].concat();
            writes.push(MetaWrite { key, value: Some(encode(record)?) });
        }
        meta.meta_write(guard, writes).await?;
        self.head = head;
        self.shards.extend(shard);
        Ok(())
    }
}

fn head_key() -> Vec<u8> {
    vec![PREFIX, HEAD]
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ShardError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|error| ShardError::Internal {
        shard: ShardId::META,
        what: format!("an entry of the cluster cannot be encoded: {error}"),
    })?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ShardError> {
    ciborium::from_reader(&bytes[..]).map_err(|error| corrupt(&error.to_string()))
}

fn corrupt(what: &str) -> ShardError {
    let what = format!("entries of the cluster cannot be read: {what}");
    ShardError::Corrupt { shard: ShardId::META, what }
}
