//! What the meta shard keeps of moves: `[0x03][kind u8][id u32 BE]` → CBOR. Format: docs/format/moves.md.
//!
//! One record for each move, written by whoever drives it and guarded by what it was before; requests of users (abort, retry)
//! are entries of their own, so that they never meet that guard. Not here: what is done when (`machine`).

use bytes::Bytes;
use cortex_planner::catalog::placement::SlotRun;
use cortex_shard_api::{
    Oid, ShardError, ShardId, StorageId,
    client::{MetaWrite, ShardClient},
    ids::MoveId,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// All entries begin with it.
const PREFIX: u8 = 3;

/// Version of this format; another one is refused.
const FORMAT: u16 = 1;

const HEAD: u8 = 0;
const RECORD: u8 = 1;
const WISH: u8 = 2;

/// How often a new move is numbered again when another gateway was quicker.
const TRIES_MAX: usize = 100;

/// Moves that have ended and are still shown.
const ENDED_MAX: usize = 200;

/// What moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// Slots of a co-location group: of all its tables.
    Slots { group: Oid, runs: Vec<SlotRun> },
    /// Keys in `[start, end)` of a range table.
    Range { table: Oid, start: Option<Vec<u8>>, end: Option<Vec<u8>> },
    /// Home tables, primary copies of reference tables, and sequences of schemas, and where new ones are made.
    Schemas { schemas: Vec<Oid> },
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing has been done.
    Planned,
    /// What an attempt copied is taken off the target, because tables changed meanwhile; then it begins anew.
    Clearing,
    /// Pages of a snapshot go to the target.
    Copying,
    /// The target follows the source's log.
    Following,
    /// Writers are held off, and shards refuse the old map, or soon do.
    Cutover,
    /// The new map is in force; the source's rows are deleted.
    Cleaning,
    Done,
    /// What was copied is taken off the target.
    Aborting,
    Aborted,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Planned => "planned",
            Phase::Clearing => "clearing",
            Phase::Copying => "copying",
            Phase::Following => "following",
            Phase::Cutover => "cutover",
            Phase::Cleaning => "cleaning",
            Phase::Done => "done",
            Phase::Aborting => "aborting",
            Phase::Aborted => "aborted",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Phase::Done | Phase::Aborted)
    }
}

/// One move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: MoveId,
    /// What shards know it by: another number for each attempt.
    pub attempt: MoveId,
    pub subject: Subject,
    pub from: ShardId,
    pub to: ShardId,
    /// Why: what a user asked for, or the plan's reason.
    pub reason: String,
    pub phase: Phase,
    /// Tables of this attempt with their versions: what is on the target fits these, and nothing is there before they are set.
    pub copied: Vec<(Oid, u32)>,
    /// Storages of reference tables: what they are on the source, and what they are on the target and become everywhere. The
    /// copies of the old ones go on following the source and can do no harm to the new ones.
    #[serde(default)]
    pub storages: Vec<(StorageId, StorageId)>,
    /// Fences that shards may have and no published map goes beyond: (placement, epoch). Until one does, those shards refuse
    /// everybody.
    pub fenced: Vec<(Oid, u64)>,
    /// Why it does not go on: it waits for `retry` or `abort`.
    pub failed: Option<String>,
    /// What it met last and tries again.
    pub trouble: Option<String>,
    pub rows: u64,
    pub bytes: u64,
    /// What the source was estimated to have when it began.
    pub bytes_total: u64,
    /// Log of the source that is not applied yet, as of the last round.
    pub behind_bytes: u64,
    /// How long writers waited in the cutover.
    pub stall_micros: Option<u64>,
    /// Microseconds since 1970-01-01 UTC; 0: not yet.
    pub created_micros: i64,
    pub began_micros: i64,
    pub ended_micros: i64,
    /// Part of `rebalance_start`: `rebalance_stop` takes it back if it has not begun.
    pub is_of_plan: bool,
}

impl Record {
    pub fn new(subject: Subject, from: ShardId, to: ShardId, reason: String) -> Record {
        Record {
            id: MoveId(0),
            attempt: MoveId(0),
            subject,
            from,
            to,
            reason,
            phase: Phase::Planned,
            copied: Vec::new(),
            storages: Vec::new(),
            fenced: Vec::new(),
            failed: None,
            trouble: None,
            rows: 0,
            bytes: 0,
            bytes_total: 0,
            behind_bytes: 0,
            stall_micros: None,
            created_micros: 0,
            began_micros: 0,
            ended_micros: 0,
            is_of_plan: false,
        }
    }

    /// Whether it still wants something done by somebody.
    pub fn is_open(&self) -> bool {
        !self.phase.has_ended()
    }

    /// Whether both have a part in common.
    pub fn overlaps(&self, other: &Subject) -> bool {
        match (&self.subject, other) {
            (Subject::Slots { group, runs }, Subject::Slots { group: of, runs: others }) => {
                let meet = |a: &SlotRun, b: &SlotRun| a.0 <= b.1 && b.0 <= a.1;
                group == of && runs.iter().any(|run| others.iter().any(|it| meet(run, it)))
            }
            (
                Subject::Range { table, start, end },
                Subject::Range { table: of, start: from, end: to },
            ) => {
                let begins_below =
                    |start: &Option<Vec<u8>>, end: &Option<Vec<u8>>| match (start, end) {
                        (Some(start), Some(end)) => start < end,
                        (None, _) | (_, None) => true,
                    };
                table == of && begins_below(start, to) && begins_below(from, end)
            }
            (Subject::Schemas { schemas }, Subject::Schemas { schemas: others }) => {
                schemas.iter().any(|schema| others.contains(schema))
            }
            _ => false,
        }
    }

    fn key(id: MoveId) -> Vec<u8> {
        key(RECORD, id)
    }

    /// Writes the record whatever is there: part of a write that is guarded by more than it.
    pub fn write(&self) -> Result<MetaWrite, ShardError> {
        Ok(MetaWrite { key: Record::key(self.id), value: Some(encode(self)?) })
    }
}

/// What a user wants of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    Abort,
    Retry,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    format: u16,
    next: u32,
}

fn key(kind: u8, id: MoveId) -> Vec<u8> {
    [&[PREFIX, kind][..], &id.0.to_be_bytes()].concat()
}

fn head_key() -> Vec<u8> {
    vec![PREFIX, HEAD]
}

/// The records of the meta shard.
#[derive(Clone, Debug)]
pub struct Records(pub std::sync::Arc<dyn ShardClient>);

impl Records {
    /// All moves, by number.
    pub async fn all(&self) -> Result<Vec<Record>, ShardError> {
        let entries = self.0.meta_scan(&[PREFIX, RECORD]).await?;
        entries.iter().map(|(_, value)| decode(value)).collect()
    }

    pub async fn get(&self, id: MoveId) -> Result<Option<Record>, ShardError> {
        let entries = self.0.meta_scan(&Record::key(id)).await?;
        entries.first().map(|(_, value)| decode(value)).transpose()
    }

    /// A number that nothing else has.
    pub async fn number(&self) -> Result<MoveId, ShardError> {
        for _ in 0..TRIES_MAX {
            let stored = self.0.meta_scan(&head_key()).await?;
            let Some((_, old)) = stored.first() else { break };
            let head = decode::<Head>(old)?;
            let next = Head { next: head.next + 1, format: head.format };
            let write = MetaWrite { key: head_key(), value: Some(encode(&next)?) };
            match self.0.meta_write((head_key(), Some(old.to_vec())), vec![write]).await {
                Ok(_) => return Ok(MoveId(head.next)),
                Err(ShardError::MetaConflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ShardError::MetaConflict)
    }

    /// Numbers new moves and writes them, all or none. `check` sees the moves there are.
    pub async fn add<E: From<ShardError>>(
        &self,
        mut new: Vec<Record>,
        check: impl Fn(&[Record]) -> Result<(), E>,
    ) -> Result<Vec<Record>, E> {
        for _ in 0..TRIES_MAX {
            let stored = self.0.meta_scan(&head_key()).await?;
            let old = stored.first().map(|(_, value)| value.to_vec());
            let head = match &old {
                Some(bytes) => decode::<Head>(bytes)?,
                None => Head { format: FORMAT, next: 1 },
            };
            if head.format != FORMAT {
                return Err(corrupt(&format!(
                    "format {}; this program reads format {FORMAT}",
                    head.format
                ))
                .into());
            }
            let existing = self.all().await?;
            check(&existing)?;
            let mut next = head.next;
            let mut writes = Vec::new();
            for record in &mut new {
                record.id = MoveId(next);
                record.attempt = record.id;
                next += 1;
                writes.push(record.write()?);
            }
            let ended: Vec<&Record> = existing.iter().filter(|it| !it.is_open()).collect();
            let surplus = ended.len().saturating_sub(ENDED_MAX);
            for record in ended.into_iter().take(surplus) {
                writes.push(MetaWrite { key: Record::key(record.id), value: None });
            }
            let head = Head { next, ..head };
            writes.push(MetaWrite { key: head_key(), value: Some(encode(&head)?) });
            match self.0.meta_write((head_key(), old), writes).await {
                Ok(_) => return Ok(new),
                Err(ShardError::MetaConflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ShardError::MetaConflict.into())
    }

    /// Replaces a record; `ShardError::MetaConflict` if it is not `old` any more.
    pub async fn replace(&self, old: &Record, new: &Record) -> Result<(), ShardError> {
        let guard = (Record::key(old.id), Some(encode(old)?));
        self.0.meta_write(guard, vec![new.write()?]).await.map(drop)
    }

    /// Leaves a wish for whoever drives the move.
    pub async fn wish(&self, id: MoveId, wish: Wish) -> Result<(), ShardError> {
        let key = key(WISH, id);
        for _ in 0..TRIES_MAX {
            let old = self.0.meta_scan(&key).await?;
            let old = old.first().map(|(_, value)| value.to_vec());
            let write = MetaWrite { key: key.clone(), value: Some(encode(&wish)?) };
            match self.0.meta_write((key.clone(), old), vec![write]).await {
                Ok(_) => return Ok(()),
                Err(ShardError::MetaConflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ShardError::MetaConflict)
    }

    /// Takes the wish for a move, if there is one.
    pub async fn take_wish(&self, id: MoveId) -> Result<Option<Wish>, ShardError> {
        let key = key(WISH, id);
        let found = self.0.meta_scan(&key).await?;
        let Some((_, value)) = found.first() else { return Ok(None) };
        let write = MetaWrite { key: key.clone(), value: None };
        match self.0.meta_write((key, Some(value.to_vec())), vec![write]).await {
            Ok(_) => decode(value).map(Some),
            // It was changed just now; the next question finds it.
            Err(ShardError::MetaConflict) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Moves that somebody wants something of.
    pub async fn wishes(&self) -> Result<Vec<MoveId>, ShardError> {
        let entries = self.0.meta_scan(&[PREFIX, WISH]).await?;
        let id = |key: &Bytes| key.last_chunk::<4>().map(|id| MoveId(u32::from_be_bytes(*id)));
        Ok(entries.iter().filter_map(|(key, _)| id(key)).collect())
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ShardError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|error| ShardError::Internal {
        shard: ShardId::META,
        what: format!("an entry of a move cannot be encoded: {error}"),
    })?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ShardError> {
    ciborium::from_reader(bytes).map_err(|error| corrupt(&error.to_string()))
}

fn corrupt(what: &str) -> ShardError {
    let what = format!("entries of moves cannot be read: {what}");
    ShardError::Corrupt { shard: ShardId::META, what }
}
