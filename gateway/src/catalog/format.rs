//! Entries of the meta shard: `[0x01][kind u8][oid u32 BE]...` → CBOR. Format: docs/format/catalog.md.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use cortex_planner::catalog::{
    Catalog, CommentKey, Group, IdSource, Role, Schema, Sequence, Table, View, edit::Grouped,
};
use cortex_shard_api::{
    Oid, SqlType,
    client::MetaWrite,
    descriptor::{Placement, SlotMap},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{PgError, SqlState};

/// Version of this format; another one is refused.
pub const FORMAT: u16 = 1;

/// All entries of the catalog begin with it.
pub const PREFIX: u8 = 1;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// Format and catalog version: the guard of every change.
    Head = 0,
    /// The end of the reserved object identifiers.
    Ids = 1,
    Schema = 2,
    Table = 3,
    View = 4,
    Sequence = 5,
    Role = 6,
    Group = 7,
    Comment = 8,
    /// A schema change that is about to reach its commit point: `[oid 0][gateway u32 BE]`.
    Intent = 9,
    /// Which publication made the version of the head.
    Author = 10,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        const KINDS: [Kind; 11] = [
            Kind::Head,
            Kind::Ids,
            Kind::Schema,
            Kind::Table,
            Kind::View,
            Kind::Sequence,
            Kind::Role,
            Kind::Group,
            Kind::Comment,
            Kind::Intent,
            Kind::Author,
        ];
        KINDS.into_iter().find(|kind| *kind as u8 == byte)
    }
}

#[derive(Serialize, Deserialize)]
struct StoredGroup {
    key_types: Vec<SqlType>,
    default: bool,
    map: SlotMap,
}

/// A schema change whose shard transactions may be committed. It ends with the version that has the change; one that was left
/// behind is undone by raising the versions of its tables (`store`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The start of the gateway that wrote it.
    pub gateway: u32,
    /// Tables with the versions that shards may demand from now on.
    pub fences: Vec<(Oid, u32)>,
}

impl Intent {
    /// What the keys of all begin with.
    pub fn prefix() -> Vec<u8> {
        key(Kind::Intent, Oid::INVALID)
    }

    pub fn read(value: &[u8]) -> Result<Intent, PgError> {
        decode(value)
    }

    pub fn key(&self) -> Vec<u8> {
        let mut key = key(Kind::Intent, Oid::INVALID);
        key.extend_from_slice(&self.gateway.to_be_bytes());
        key
    }

    /// What writes it.
    pub fn write(&self) -> Result<MetaWrite, PgError> {
        Ok(MetaWrite { key: self.key(), value: Some(encode(self)?) })
    }

    /// What ends it.
    pub fn delete(&self) -> MetaWrite {
        MetaWrite { key: self.key(), value: None }
    }
}

fn key(kind: Kind, oid: Oid) -> Vec<u8> {
    let mut key = vec![PREFIX, kind as u8];
    key.extend_from_slice(&oid.0.to_be_bytes());
    key
}

fn comment_key(comment: &CommentKey) -> Vec<u8> {
    let mut key = key(Kind::Comment, comment.class);
    key.extend_from_slice(&comment.object.0.to_be_bytes());
    key.extend_from_slice(&comment.column.to_be_bytes());
    key
}

/// The head's key and value at a catalog version.
pub fn head(version: u64) -> (Vec<u8>, Vec<u8>) {
    let mut value = FORMAT.to_be_bytes().to_vec();
    value.extend_from_slice(&version.to_be_bytes());
    (key(Kind::Head, Oid::INVALID), value)
}

/// Key and value of the mark that a publication leaves: who does not know whether its write was done finds it.
pub fn author(mark: u64) -> (Vec<u8>, Vec<u8>) {
    (key(Kind::Author, Oid::INVALID), mark.to_be_bytes().to_vec())
}

/// The reservation's key and value.
pub fn ids(limit: u32) -> (Vec<u8>, Vec<u8>) {
    (key(Kind::Ids, Oid::INVALID), limit.to_be_bytes().to_vec())
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, PgError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes)
        .map_err(|error| PgError::internal(format!("catalog entry cannot be encoded: {error}")))?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PgError> {
    ciborium::from_reader(bytes).map_err(|error| corrupt(&error.to_string()))
}

fn corrupt(what: &str) -> PgError {
    PgError::new(SqlState::DATA_CORRUPTED, format!("catalog entry cannot be read: {what}"))
}

/// Entries that differ between two versions. Objects are compared by pointer: an edit makes new ones.
pub fn difference(old: &Catalog, new: &Catalog) -> Result<Vec<MetaWrite>, PgError> {
    let mut writes = Vec::new();
    map_difference(&mut writes, Kind::Schema, &old.schemas, &new.schemas, encode)?;
    map_difference(&mut writes, Kind::Table, &old.tables, &new.tables, |v| {
        encode(&without_map(v))
    })?;
    map_difference(&mut writes, Kind::View, &old.views, &new.views, encode)?;
    map_difference(&mut writes, Kind::Sequence, &old.sequences, &new.sequences, encode)?;
    map_difference(&mut writes, Kind::Role, &old.roles, &new.roles, encode)?;
    map_difference(&mut writes, Kind::Group, &old.groups, &new.groups, |group| {
        encode(&StoredGroup {
            key_types: group.key_types.clone(),
            default: group.default,
            map: SlotMap::clone(&group.map),
        })
    })?;
    for (comment, text) in &new.comments {
        if old.comments.get(comment) != Some(text) {
            let value = Some(text.as_bytes().to_vec());
            writes.push(MetaWrite { key: comment_key(comment), value });
        }
    }
    for comment in old.comments.keys().filter(|comment| !new.comments.contains_key(comment)) {
        writes.push(MetaWrite { key: comment_key(comment), value: None });
    }
    Ok(writes)
}

fn map_difference<T>(
    writes: &mut Vec<MetaWrite>,
    kind: Kind,
    old: &BTreeMap<Oid, Arc<T>>,
    new: &BTreeMap<Oid, Arc<T>>,
    encode: impl Fn(&T) -> Result<Vec<u8>, PgError>,
) -> Result<(), PgError> {
    for (oid, object) in new {
        if !old.get(oid).is_some_and(|other| Arc::ptr_eq(object, other)) {
            writes.push(MetaWrite { key: key(kind, *oid), value: Some(encode(object)?) });
        }
    }
    for oid in old.keys().filter(|oid| !new.contains_key(oid)) {
        writes.push(MetaWrite { key: key(kind, *oid), value: None });
    }
    Ok(())
}

/// A table as it is stored: the slot map is its group's.
fn without_map(table: &Table) -> Table {
    let mut table = table.clone();
    let descriptor = Arc::make_mut(&mut table.descriptor);
    if let Placement::Hash { map, .. } = &mut descriptor.placement {
        *map = Arc::new(SlotMap { group: map.group, epoch: map.epoch, owner: Vec::new() });
    }
    table
}

/// Rebuilds a catalog from its entries; `None` if there are none. Identifiers go on behind the last reservation.
pub fn load(entries: &[(Bytes, Bytes)]) -> Result<Option<Catalog>, PgError> {
    let mut catalog = Catalog::default();
    let mut version = None;
    let mut ids_limit = Oid::FIRST_USER.0;
    for (key, value) in entries {
        let (kind, oid, rest) = split_key(key)?;
        match kind {
            Kind::Head => version = Some(read_head(value)?),
            Kind::Ids => {
                ids_limit = read_ids(value)?;
            }
            Kind::Schema => {
                catalog.schemas.insert(oid, Arc::new(decode::<Schema>(value)?));
            }
            Kind::Table => {
                catalog.tables.insert(oid, Arc::new(decode::<Table>(value)?));
            }
            Kind::View => {
                catalog.views.insert(oid, Arc::new(decode::<View>(value)?));
            }
            Kind::Sequence => {
                catalog.sequences.insert(oid, Arc::new(decode::<Sequence>(value)?));
            }
            Kind::Role => {
                catalog.roles.insert(oid, Arc::new(decode::<Role>(value)?));
            }
            Kind::Group => {
                let group = decode::<StoredGroup>(value)?;
                let group = Group {
                    key_types: group.key_types,
                    default: group.default,
                    map: Arc::new(group.map),
                };
                catalog.groups.insert(oid, Arc::new(group));
            }
            Kind::Comment => {
                let comment = read_comment_key(oid, rest)?;
                let text = std::str::from_utf8(value).map_err(|_| corrupt("comment"))?;
                catalog.comments.insert(comment, Arc::from(text));
            }
            // Whoever changes the catalog looks for them.
            Kind::Intent | Kind::Author => {}
        }
    }
    let Some(version) = version else { return Ok(None) };
    catalog.version = version;
    share_maps(&mut catalog)?;
    catalog.ids = Arc::new(IdSource::new(ids_limit, ids_limit));
    catalog.rebuild_names();
    Ok(Some(catalog))
}

fn split_key(key: &[u8]) -> Result<(Kind, Oid, &[u8]), PgError> {
    let (head, rest) = key.split_first_chunk::<6>().ok_or_else(|| corrupt("short key"))?;
    let kind = Kind::from_byte(head[1]).ok_or_else(|| corrupt("unknown kind"))?;
    Ok((kind, Oid(u32::from_be_bytes([head[2], head[3], head[4], head[5]])), rest))
}

fn read_comment_key(class: Oid, rest: &[u8]) -> Result<CommentKey, PgError> {
    let bytes = <[u8; 8]>::try_from(rest).map_err(|_| corrupt("comment key"))?;
    let [a, b, c, d, e, f, g, h] = bytes;
    Ok(CommentKey {
        class,
        object: Oid(u32::from_be_bytes([a, b, c, d])),
        column: i32::from_be_bytes([e, f, g, h]),
    })
}

/// The reservation's value.
pub fn read_ids(value: &[u8]) -> Result<u32, PgError> {
    let bytes = <[u8; 4]>::try_from(value).map_err(|_| corrupt("ids"))?;
    Ok(u32::from_be_bytes(bytes))
}

/// The version that a head's value says.
pub fn read_head(value: &[u8]) -> Result<u64, PgError> {
    let bytes = <[u8; 10]>::try_from(value).map_err(|_| corrupt("head"))?;
    let [f0, f1, version @ ..] = bytes;
    let format = u16::from_be_bytes([f0, f1]);
    if format != FORMAT {
        return Err(PgError::new(
            SqlState::DATA_CORRUPTED,
            format!("the catalog has format {format}; this program reads format {FORMAT}"),
        )
        .with_hint("Start the CortexDB version that wrote the data directory."));
    }
    Ok(u64::from_be_bytes(version))
}

/// Gives all tables of a group the same map.
fn share_maps(catalog: &mut Catalog) -> Result<(), PgError> {
    let hashed: Vec<(Oid, Oid)> = catalog
        .tables
        .iter()
        .filter_map(|(oid, table)| Some((*oid, table.descriptor.group()?)))
        .collect();
    for (oid, group) in hashed {
        let shared =
            catalog.groups.get(&group).ok_or_else(|| corrupt("missing group"))?.map.clone();
        let Some(table) = catalog.tables.get_mut(&oid) else { continue };
        let descriptor = Arc::make_mut(&mut Arc::make_mut(table).descriptor);
        if let Placement::Hash { map, .. } = &mut descriptor.placement {
            *map = shared;
        }
    }
    Ok(())
}
