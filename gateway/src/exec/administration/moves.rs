//! Moves asked for by hand: `cortex.move_slots` and its like, and what can be done with a move.

use std::time::Duration;

use cortex_planner::catalog::placement::{range_column, schemas_tied_to};
use cortex_shard_api::{
    Datum, MoveId, Oid, ShardId,
    client::{RequestContext, Row},
    descriptor::{Placement, SLOTS},
    key::range_of,
};

use super::{Arguments, no_move};
use crate::{
    error::{PgError, SqlState},
    exec::{gateway::now_micros, session::Session},
    moves::{
        machine::Side,
        plan::runs_of,
        record::{Phase, Record, Subject, Wish},
        subject,
    },
    statement::Notice,
};

/// Between looks how far a move is that a statement waits for.
const POLL: Duration = Duration::from_millis(20);

fn invalid(message: String) -> PgError {
    PgError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

impl Session {
    pub(super) async fn move_slots(&mut self, arguments: &Arguments) -> Result<Vec<Row>, PgError> {
        let (table, from, to) = (arguments.oid(0)?, arguments.shard(1)?, arguments.shard(2)?);
        let catalog = self.gateway.store.refresh().await?;
        let found = catalog.tables.get(&table).map(|table| &table.descriptor);
        let Some(Placement::Hash { map, .. }) = found.map(|table| &table.placement) else {
            let name = found.map_or_else(String::new, |table| format!("\"{}\" ", table.name));
            return Err(PgError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("table {name}is not sharded by hash"),
            )
            .with_hint("cortex.move_range() moves ranges, cortex.move_schema() home tables."));
        };
        let owned_by = |slot: &u16| map.owner.get(usize::from(*slot)) == Some(&from);
        let slots: Vec<u16> = match arguments.maybe_text(3) {
            Some(text) => parse_slots(text)?,
            None => (0..SLOTS).filter(owned_by).collect(),
        };
        if let Some(other) = slots.iter().find(|slot| !owned_by(slot)) {
            return Err(invalid(format!("shard {from} does not own slot {other}"))
                .with_hint("cortex.slots shows the owner of each slot."));
        }
        if slots.is_empty() {
            return Err(invalid(format!("shard {from} owns no slot of the table")));
        }
        let subject = Subject::Slots { group: map.group, runs: runs_of(slots) };
        self.start_move(subject, from, to, arguments.boolean(4)?).await
    }

    pub(super) async fn move_range(&mut self, arguments: &Arguments) -> Result<Vec<Row>, PgError> {
        let (table, at, to) = (arguments.oid(0)?, arguments.text(1)?, arguments.shard(2)?);
        let catalog = self.gateway.store.refresh().await?;
        range_column(&catalog, table)?;
        let at = self.range_bound(table, at)?;
        let Some(Placement::Range { map, .. }) =
            catalog.tables.get(&table).map(|table| &table.descriptor.placement)
        else {
            return Err(PgError::internal("a range table without ranges"));
        };
        let range = range_of(map, &at);
        let start = range.checked_sub(1).and_then(|before| map.splits.get(before)).cloned();
        let end = map.splits.get(range).cloned();
        let from = map.owner.get(range).copied().unwrap_or_default();
        let subject = Subject::Range { table, start, end };
        self.start_move(subject, from, to, arguments.boolean(3)?).await
    }

    pub(super) async fn move_schema(&mut self, arguments: &Arguments) -> Result<Vec<Row>, PgError> {
        let (name, to) = (arguments.text(0)?, arguments.shard(1)?);
        let catalog = self.gateway.store.refresh().await?;
        let Some(schema) = catalog.schema_by_name(name).cloned() else {
            return Err(PgError::new(
                SqlState::INVALID_SCHEMA_NAME,
                format!("schema \"{name}\" does not exist"),
            ));
        };
        let schemas = schemas_tied_to(&catalog, schema.oid);
        let others: Vec<&str> = schemas
            .iter()
            .filter(|oid| **oid != schema.oid)
            .filter_map(|oid| catalog.schemas.get(oid).map(|schema| schema.name.as_str()))
            .collect();
        if !others.is_empty() {
            self.notices.push(Notice {
                severity: "NOTICE",
                code: "00000",
                message: format!("schema {} moves along", others.join(", ")),
                detail: Some("Foreign keys between home tables tie them together.".to_owned()),
                hint: None,
            });
        }
        self.start_move(Subject::Schemas { schemas }, schema.home, to, arguments.boolean(2)?).await
    }

    /// A shard that can take rows.
    pub(super) fn check_takes(&self, to: ShardId) -> Result<(), PgError> {
        let cluster = self.gateway.store.cluster();
        if !cluster.shards.data().contains(&to) {
            return Err(invalid(format!("there is no shard {to}")));
        }
        let members = cluster.members();
        if members.shards().any(|shard| shard.id == to.0 && shard.is_draining) {
            return Err(invalid(format!("shard {to} is being drained"))
                .with_hint("Nothing new is placed on it."));
        }
        Ok(())
    }

    async fn start_move(
        &mut self,
        subject: Subject,
        from: ShardId,
        to: ShardId,
        wait: bool,
    ) -> Result<Vec<Row>, PgError> {
        if from == to {
            return Err(invalid(format!("it is on shard {to} already")));
        }
        self.check_takes(to)?;
        let mut record = Record::new(subject, from, to, "asked for by hand".to_owned());
        record.created_micros = now_micros();
        let added = self.add_moves(vec![record]).await?;
        let id = added.first().map(|record| record.id).unwrap_or_default();
        if wait {
            self.await_move(id).await?;
        }
        Ok(vec![vec![Datum::Int8(i64::from(id.0))]])
    }

    /// Writes moves down; 55006 if one of them concerns what another one moves.
    pub(super) async fn add_moves(&self, new: Vec<Record>) -> Result<Vec<Record>, PgError> {
        let subjects: Vec<Subject> = new.iter().map(|record| record.subject.clone()).collect();
        let check = |existing: &[Record]| {
            let open = || existing.iter().filter(|record| record.is_open());
            let meets = |record: &&Record| subjects.iter().any(|it| record.overlaps(it));
            match open().find(meets) {
                None => Ok(()),
                Some(other) => Err(PgError::new(
                    SqlState::OBJECT_IN_USE,
                    format!("move {} is about some of it", other.id),
                )
                .with_hint(format!(
                    "Wait for it, or give it up: SELECT cortex.abort({}).",
                    other.id
                ))),
            }
        };
        let added = self.gateway.moves.records.add(new, check).await?;
        self.gateway.moves.wake();
        Ok(added)
    }

    async fn move_by_id(&self, id: MoveId) -> Result<Record, PgError> {
        let found = self.gateway.moves.records.get(id).await?;
        found.ok_or_else(|| no_move(id))
    }

    /// Waits until a move has ended. It goes on if the statement is cancelled.
    async fn await_move(&self, id: MoveId) -> Result<(), PgError> {
        loop {
            let record = self.move_by_id(id).await?;
            if let Some(reason) = &record.failed {
                return Err(PgError::new(
                    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("move {id} failed: {reason}"),
                )
                .with_hint(format!("SELECT cortex.retry({id}), or cortex.abort({id}).")));
            }
            match record.phase {
                Phase::Done => break,
                Phase::Aborted => {
                    let reason = record.trouble.map(|it| format!(": {it}")).unwrap_or_default();
                    return Err(PgError::new(
                        SqlState::QUERY_CANCELED,
                        format!("move {id} was given up{reason}"),
                    ));
                }
                Phase::Planned
                | Phase::Clearing
                | Phase::Copying
                | Phase::Following
                | Phase::Cutover
                | Phase::Cleaning
                | Phase::Aborting => tokio::time::sleep(POLL).await,
            }
        }
        // The next statement of this session sees the new map.
        self.gateway.store.refresh().await?;
        Ok(())
    }

    pub(super) async fn retry_move(&mut self, arguments: &Arguments) -> Result<(), PgError> {
        let id = arguments.move_id(0)?;
        if self.move_by_id(id).await?.failed.is_none() {
            return Err(PgError::new(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("move {id} has not failed"),
            ));
        }
        self.gateway.moves.records.wish(id, Wish::Retry).await?;
        self.gateway.moves.wake();
        Ok(())
    }

    pub(super) async fn abort_move(&mut self, arguments: &Arguments) -> Result<(), PgError> {
        let (id, wait) = (arguments.move_id(0)?, arguments.boolean(1)?);
        let committed = |record: &Record| {
            PgError::new(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("the cutover of move {id} has committed"),
            )
            .with_hint(format!("Move it back: from shard {} to shard {}.", record.to, record.from))
        };
        let record = self.move_by_id(id).await?;
        match record.phase {
            Phase::Cleaning | Phase::Done => return Err(committed(&record)),
            Phase::Aborted => return Ok(()),
            _ => {}
        }
        self.gateway.moves.records.wish(id, Wish::Abort).await?;
        self.gateway.moves.wake();
        if !wait {
            return Ok(());
        }
        loop {
            let record = self.move_by_id(id).await?;
            match record.phase {
                Phase::Aborted => return Ok(()),
                Phase::Cleaning | Phase::Done => return Err(committed(&record)),
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    pub(super) async fn verify_move(&mut self, arguments: &Arguments) -> Result<Vec<Row>, PgError> {
        let record = self.move_by_id(arguments.move_id(0)?).await?;
        let catalog = self.gateway.store.refresh().await?;
        let parts = subject::parts(&catalog, &record, Side::Source, false);
        let on_target = subject::parts(&catalog, &record, Side::Target, false);
        let context = RequestContext { now_micros: now_micros(), ..RequestContext::default() };
        let shards = &self.gateway.shards;
        let (source, target) = (shards.get(record.from)?, shards.get(record.to)?);
        let (source, target) = futures::try_join!(
            source.checksum_ranges(&context, parts.clone()),
            target.checksum_ranges(&context, on_target)
        )?;
        let number = |value: u64| Datum::Int8(value as i64);
        let rows = parts.iter().zip(source.iter().zip(&target)).map(|(part, (source, target))| {
            vec![
                Datum::Text(part.table.qualified_name().into()),
                number(source.rows),
                number(source.checksum),
                number(target.rows),
                number(target.checksum),
                Datum::Bool(source == target),
            ]
        });
        Ok(rows.collect())
    }

    pub(super) async fn rebalance_status(&mut self) -> Result<Vec<Row>, PgError> {
        let records = self.gateway.moves.records.all().await?;
        let now = now_micros();
        Ok(records.iter().map(|record| self.status_row(record, now)).collect())
    }

    fn status_row(&self, record: &Record, now: i64) -> Row {
        let number = |value: u64| Datum::Int8(i64::try_from(value).unwrap_or(i64::MAX));
        let shard = |shard: ShardId| Datum::Int4(shard.0 as i32);
        let text = |text: &str| Datum::Text(text.into());
        let time = |micros: i64| match micros {
            0 => Datum::Null,
            micros => Datum::Timestamptz(micros),
        };
        let phase = if record.failed.is_some() { "failed" } else { record.phase.name() };
        let error = record.failed.as_deref().or(record.trouble.as_deref());
        vec![
            Datum::Int8(i64::from(record.id.0)),
            Datum::Text(self.subject_text(&record.subject).into()),
            shard(record.from),
            shard(record.to),
            text(phase),
            number(record.rows),
            number(record.bytes),
            number(record.bytes_total),
            number(record.behind_bytes),
            remaining_seconds(record, now).map_or(Datum::Null, Datum::Float8),
            record.stall_micros.map_or(Datum::Null, |it| Datum::Float8(it as f64 / 1000.0)),
            time(record.created_micros),
            time(record.ended_micros),
            text(&record.reason),
            error.map_or(Datum::Null, text),
        ]
    }

    /// `slots 0-99 of public.t`
    pub(super) fn subject_text(&self, subject: &Subject) -> String {
        let catalog = self.catalog();
        let table = |oid: &Oid| match catalog.tables.get(oid) {
            Some(table) => table.descriptor.qualified_name(),
            None => format!("table {oid}"),
        };
        match subject {
            Subject::Slots { group, runs } => {
                let runs: Vec<String> = runs
                    .iter()
                    .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") })
                    .collect();
                let tables: Vec<String> =
                    subject.tables(&catalog).iter().map(|table| table.qualified_name()).collect();
                let of =
                    if tables.is_empty() { format!("group {group}") } else { tables.join(", ") };
                format!("slots {} of {of}", runs.join(","))
            }
            Subject::Range { table: oid, start, end } => {
                let bound = |bound: &Option<Vec<u8>>| match bound {
                    None => "...".to_owned(),
                    Some(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                };
                format!("range [{}, {}) of {}", bound(start), bound(end), table(oid))
            }
            Subject::Schemas { schemas } => {
                let names = schemas.iter().map(|oid| match catalog.schemas.get(oid) {
                    Some(schema) => schema.name.clone(),
                    None => oid.to_string(),
                });
                format!("schema {}", names.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// From what was copied in how much time; `None` before and after.
fn remaining_seconds(record: &Record, now: i64) -> Option<f64> {
    let is_copying = matches!(record.phase, Phase::Copying | Phase::Following);
    if !is_copying || record.began_micros == 0 || record.bytes == 0 {
        return None;
    }
    let seconds = (now - record.began_micros).max(1) as f64 / 1e6;
    let left = record.bytes_total.saturating_sub(record.bytes) + record.behind_bytes;
    Some(left as f64 * seconds / record.bytes as f64)
}

/// `0-99,200`
fn parse_slots(text: &str) -> Result<Vec<u16>, PgError> {
    let wrong = || {
        invalid(format!("\"{text}\" is no list of slots"))
            .with_hint(format!("Slots are 0 to {}: '0-99,200'.", SLOTS - 1))
    };
    let mut slots = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let slot = |text: &str| text.trim().parse::<u16>().ok().filter(|slot| *slot < SLOTS);
        let (first, last) = slot(first).zip(slot(last)).ok_or_else(wrong)?;
        if first > last {
            return Err(wrong());
        }
        slots.extend(first..=last);
    }
    Ok(slots.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_numbers_and_ranges() {
        assert_eq!(parse_slots("3, 0-2,1").ok(), Some(vec![0, 1, 2, 3]));
        for wrong in ["", "a", "5-3", "1024", "-1", "1-", "0-99999"] {
            assert!(parse_slots(wrong).is_err(), "{wrong}");
        }
    }
}
