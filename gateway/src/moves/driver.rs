//! Carries out what the machine says: over `ShardClient`s, the catalog and the records.
//!
//! Lives here: one command at a time, and what came of it. Whatever is kept between commands (a snapshot, a position, the
//! catalog's lock) can be lost at any time: it is asked for again. Not here: the order of commands (`machine`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cortex_planner::catalog::Catalog;
use cortex_shard_api::{
    LogIndex, ShardError, ShardId, SnapshotId, StorageId,
    client::{RequestContext, SequenceSpec, SequenceState, ShardClient},
    copies::CopyCursor,
    descriptor::Fence,
    moves::{
        ApplyMoving, HoldRanges, MovePosition, MovedRow, MovingFrom, MovingRequest, MovingRows,
        TableRanges,
    },
};
use futures::future::try_join_all;

use super::{
    copies,
    machine::{Command, Event, Failure, Machine, Side},
    record::{Phase, Record, Records},
    subject::{self, TargetKeys},
};
use crate::{
    catalog::CatalogStore,
    cluster::ClusterGuard,
    error::{PgError, SqlState},
    exec::gateway::now_micros,
};

/// How long things are waited for. Tests make it short.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Open transactions in the moving ranges may end by themselves for so long, once writers are held off.
    pub grace: Duration,
    /// Writers are let in again after so long, whatever becomes of who held them off.
    pub hold_limit: Duration,
    /// How long the source holds a question for log that it does not have yet.
    pub follow_wait: Duration,
    /// Before something that failed is tried again.
    pub pause: Duration,
    /// For the catalog's lock.
    pub lock_wait: Duration,
    /// For a copy of reference tables to be there.
    pub copies_wait: Duration,
    /// Between questions whether a range is clean.
    pub clean_poll: Duration,
    /// Between writes of the record that only tell how far it is.
    pub progress: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            grace: Duration::from_millis(500),
            hold_limit: Duration::from_secs(10),
            follow_wait: Duration::from_millis(200),
            pause: Duration::from_secs(1),
            lock_wait: Duration::from_secs(10),
            copies_wait: Duration::from_secs(30),
            clean_poll: Duration::from_millis(50),
            progress: Duration::from_secs(1),
        }
    }
}

/// Questions about a shard's clean-up before another look at wishes and the lock.
const CLEAN_POLLS_MAX: usize = 100;

/// While pages are copied the log is asked for so often, or the source would purge what comes behind the snapshot.
const LOG_TOUCH: Duration = Duration::from_secs(5);

/// Bounds of one question for log inside the cutover.
const DRAIN_WAIT: Duration = Duration::from_millis(20);

/// After a copy that schema changes made worthless the next one keeps them out for so long: less than they wait. What takes longer
/// to copy goes on without.
const CALM: Duration = Duration::from_secs(5);

/// See the module.
pub struct Driver {
    store: Arc<CatalogStore>,
    records: Records,
    timing: Timing,
    /// The right to drive moves.
    guard: Arc<ClusterGuard>,
    /// The record as it is on the meta shard.
    stored: Record,
    catalog: Option<(ClusterGuard, Arc<Catalog>)>,
    /// Until then the catalog stays locked while rows are copied.
    calm_until: Option<Instant>,
    copying: Option<Snapshot>,
    /// Of a version of the catalog: a descriptor travels once if it stays the same one.
    sides: Option<(u64, Sides)>,
    position: Option<MovePosition>,
    /// How far the log is read; the target may be told later, when there is something for it.
    cursor: Option<CopyCursor>,
    held: Option<Instant>,
    /// When the record was last written.
    saved: Instant,
    log_touched: Instant,
}

/// The moving parts of tables as the source and as the target have them.
#[derive(Clone)]
struct Sides {
    source: Arc<Vec<TableRanges>>,
    target: Arc<Vec<TableRanges>>,
}

/// A snapshot of the source.
struct Snapshot {
    source: Arc<dyn ShardClient>,
    id: SnapshotId,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.source.close_snapshot(self.id);
    }
}

/// Why a driver stops before its move has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The machine has nothing more to do.
    Ended,
    /// It has waited after a failure: another move may go on meanwhile.
    HadTrouble,
    /// Somebody else drives moves now.
    LostLock,
}

type Result<T> = std::result::Result<T, Failure>;

impl From<ShardError> for Failure {
    fn from(error: ShardError) -> Failure {
        let is_transient = error.is_retryable()
            || matches!(
                error,
                ShardError::Unavailable { .. }
                    | ShardError::OutcomeUnknown { .. }
                    | ShardError::LockNotAvailable { .. }
                    | ShardError::Poisoned { .. }
            );
        Failure { message: error.to_string(), is_transient }
    }
}

impl From<PgError> for Failure {
    fn from(error: PgError) -> Failure {
        let transient = [
            SqlState::SYSTEM_ERROR,
            SqlState::SERIALIZATION_FAILURE,
            SqlState::STATEMENT_COMPLETION_UNKNOWN,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::DEADLOCK_DETECTED,
        ];
        Failure { is_transient: transient.contains(&error.code), message: error.message.clone() }
    }
}

impl Driver {
    pub fn new(
        store: Arc<CatalogStore>,
        records: Records,
        timing: Timing,
        guard: Arc<ClusterGuard>,
        record: Record,
    ) -> Driver {
        Driver {
            store,
            records,
            timing,
            guard,
            stored: record,
            catalog: None,
            calm_until: None,
            copying: None,
            sides: None,
            position: None,
            cursor: None,
            held: None,
            saved: Instant::now(),
            log_touched: Instant::now(),
        }
    }

    /// Drives the move until there is nothing more to do for it.
    pub async fn run(mut self) -> Stopped {
        let mut machine = Machine::new(self.stored.clone());
        let mut command = machine.begin();
        loop {
            if machine.takes_wishes()
                && let Ok(Some(wish)) = self.records.take_wish(self.stored.id).await
            {
                tracing::info!(id = %self.stored.id, ?wish, "a user asks something of a move");
                command = machine.next(Event::Wished(wish));
                continue;
            }
            match command {
                Command::End => return Stopped::Ended,
                Command::Wait | Command::Reload if !self.guard.is_held().await.unwrap_or(true) => {
                    return Stopped::LostLock;
                }
                _ => {}
            }
            let has_waited = command == Command::Wait && machine.record.fenced.is_empty();
            let event = self.carry_out(&command, &mut machine.record).await;
            let event = event.unwrap_or_else(|failure| {
                tracing::debug!(id = %self.stored.id, ?command, message = failure.message, "a step of a move failed");
                self.forget();
                Event::Failed(failure)
            });
            command = machine.next(event);
            if has_waited && machine.takes_wishes() {
                return Stopped::HadTrouble;
            }
        }
    }

    /// What is kept between commands is asked for again after a failure.
    fn forget(&mut self) {
        self.copying = None;
        self.sides = None;
        self.position = None;
        self.cursor = None;
    }

    async fn carry_out(&mut self, command: &Command, record: &mut Record) -> Result<Event> {
        // From the look at the catalog to its publication it must stay as it is. A schema without tables has no fences.
        let keeps_lock = matches!(
            command,
            Command::Save
                | Command::Fence(_)
                | Command::Hold
                | Command::Drain(_)
                | Command::MoveSequences
                | Command::ReturnSequences
                | Command::PublishOldOwners
                | Command::PublishNewOwners
                | Command::Release
        );
        let is_calm = matches!(command, Command::Copy | Command::Follow | Command::LockCatalog)
            && self.calm_until.is_some_and(|until| Instant::now() < until);
        if !keeps_lock && !is_calm {
            self.catalog = None;
        }
        Ok(match command {
            Command::AddCopies => {
                copies::add(&self.store, record.to, self.timing).await?;
                Event::CopiesAdded
            }
            Command::LockCatalog => {
                let guard = self.lock_catalog().await?;
                let catalog = self.store.current();
                let mut layout = subject::layout(&catalog, record);
                if record.phase == Phase::Planned {
                    if record.began_micros != 0 {
                        self.calm_until = Some(Instant::now() + CALM);
                    }
                    for _ in &layout.storages {
                        self.store.reserve_ids(&catalog.ids).await?;
                        layout.fresh.push(catalog.ids.storage().map_err(PgError::from)?);
                    }
                }
                self.catalog = Some((guard, catalog));
                Event::Locked(layout)
            }
            Command::Save => {
                self.stamp(record).await;
                self.save(record).await?;
                Event::Saved
            }
            Command::Fence(side) => Event::Fenced(self.fence(*side, record).await?),
            Command::PublishOldOwners => {
                let base = self.locked()?;
                let next = subject::with_old_owners(&base, record);
                self.publish(&base, &next, record).await?;
                Event::Published
            }
            Command::PublishNewOwners => {
                let base = self.locked()?;
                let next = subject::with_new_owners(&base, record);
                let moved = Record { phase: Phase::Cleaning, ..record.clone() };
                self.publish(&base, &next, &moved).await?;
                Event::Published
            }
            Command::Copy => self.copy(record).await?,
            Command::Follow => self.follow(record).await?,
            Command::Hold => {
                self.held = Some(Instant::now());
                let tables = subject::parts(&*self.locked()?, record, Side::Source, false);
                let (grace, limit) = (self.timing.grace, self.timing.hold_limit);
                let request = HoldRanges { id: record.attempt, tables, grace, limit };
                Event::Held(self.shard(record.from)?.hold_ranges(request).await?)
            }
            Command::Drain(to) => {
                self.drain(*to, record).await?;
                Event::Drained
            }
            Command::MoveSequences => {
                self.move_sequences(record).await?;
                Event::SequencesMoved
            }
            Command::ReturnSequences => {
                self.return_sequences(record).await?;
                Event::SequencesMoved
            }
            Command::CloseSequences => {
                self.close_sequences(record).await?;
                Event::SequencesClosed
            }
            Command::Release => {
                self.shard(record.from)?.release_ranges(record.attempt).await?;
                if let Some(held) = self.held.take() {
                    let micros = held.elapsed().as_micros() as u64;
                    // Of several tries the longest is what a client saw.
                    record.stall_micros = Some(record.stall_micros.unwrap_or(0).max(micros));
                }
                Event::Released
            }
            Command::Clean(side) => {
                self.clean(*side, record).await?;
                if *side == Side::Target {
                    // This one has ended there for good.
                    record.attempt = self.records.number().await?;
                }
                Event::Cleaned
            }
            Command::Reload => {
                let stored = self.records.get(record.id).await?;
                if let Some(stored) = &stored {
                    self.stored = stored.clone();
                }
                let stall = record.stall_micros;
                Event::Reloaded(stored.map(|mut stored| {
                    stored.stall_micros = stored.stall_micros.max(stall);
                    Box::new(stored)
                }))
            }
            Command::Wait => {
                // What went wrong is to be seen by others, too.
                if record.trouble != self.stored.trouble && record.fenced == self.stored.fenced {
                    let told = Record { trouble: record.trouble.clone(), ..self.stored.clone() };
                    if self.save(&told).await.is_err() {
                        tracing::debug!(id = %record.id, "a move's trouble is not written down");
                    }
                }
                tokio::time::sleep(self.timing.pause).await;
                Event::Waited
            }
            Command::End => Event::Waited,
        })
    }

    fn shard(&self, id: ShardId) -> Result<Arc<dyn ShardClient>> {
        Ok(self.store.cluster().shards.client(id)?)
    }

    /// The lock that is held already, or a new one.
    async fn lock_catalog(&mut self) -> Result<ClusterGuard> {
        if let Some((guard, _)) = self.catalog.take()
            && guard.is_held().await.unwrap_or(false)
        {
            return Ok(guard);
        }
        Ok(self.store.lock_ddl(Some(self.timing.lock_wait)).await?)
    }

    /// The version of the catalog that is locked.
    fn locked(&self) -> Result<Arc<Catalog>> {
        let missing = || Failure {
            message: "the right to change the catalog was lost".to_owned(),
            is_transient: true,
        };
        self.catalog.as_ref().map(|(_, catalog)| catalog.clone()).ok_or_else(missing)
    }

    async fn save(&mut self, record: &Record) -> Result<()> {
        if *record != self.stored {
            self.records.replace(&self.stored, record).await?;
            self.stored = record.clone();
        }
        self.saved = Instant::now();
        Ok(())
    }

    /// Times, and the estimate of what there is to copy.
    async fn stamp(&mut self, record: &mut Record) {
        if record.began_micros == 0 && !record.copied.is_empty() {
            record.began_micros = now_micros();
            if let Ok(bytes) = self.estimate(record).await {
                record.bytes_total = bytes;
            }
        }
        if record.phase.has_ended() && record.ended_micros == 0 {
            record.ended_micros = now_micros();
        }
    }

    /// Bytes of what moves: each table's on the source, by its share of the slots or ranges there.
    async fn estimate(&self, record: &Record) -> Result<u64> {
        let catalog = self.store.current();
        let source = self.shard(record.from)?;
        let mut bytes = 0;
        for table in record.subject.tables(&catalog) {
            let stats = source.storage_stats(table.storage).await?;
            bytes += super::plan::share(&record.subject, &table, record.from, stats.bytes);
        }
        Ok(bytes)
    }

    async fn publish(&mut self, base: &Catalog, next: &Catalog, record: &Record) -> Result<()> {
        let record = Record { fenced: Vec::new(), ..record.clone() };
        let published = self.store.publish_with(base, next, vec![record.write()?]).await?;
        self.stored = record;
        self.catalog = None;
        let store = self.store.clone();
        // Who has not loaded it learns from the shards; nobody waits for them here.
        tokio::spawn(async move { store.await_gateways(published.version).await });
        Ok(())
    }

    async fn fence(&self, side: Side, record: &Record) -> Result<LogIndex> {
        let shard = match side {
            Side::Source => record.from,
            Side::Target => record.to,
        };
        let fences =
            record.fenced.iter().map(|(id, epoch)| Fence::Placement { id: *id, epoch: *epoch });
        let fences: Vec<Fence> = fences.collect();
        let context = RequestContext { now_micros: now_micros(), ..RequestContext::default() };
        if side == Side::Target {
            // Who reads the old copies would not know what there is to wait for.
            let catalog = self.locked()?;
            let of_references: Vec<Fence> = record
                .subject
                .tables(&catalog)
                .iter()
                .filter(|table| table.primary_copy().is_some())
                .filter_map(|table| {
                    let (id, epoch) = record.fenced.iter().find(|(id, _)| *id == table.oid)?;
                    Some(Fence::Placement { id: *id, epoch: *epoch })
                })
                .collect();
            let copies = subject::other_copies(&catalog, record);
            let mut others = Vec::new();
            if !of_references.is_empty() {
                others = self.store.data_shards();
                others.retain(|other| *other != record.from && *other != record.to);
            }
            let fenced = others.into_iter().map(|other| {
                let (context, fences, copies) = (&context, of_references.clone(), &copies);
                async move {
                    match self.shard(other)?.fence(context, fences).await {
                        // It gave its copies up before, and nobody can read them now.
                        Err(ShardError::Unavailable { .. }) if !copies.contains(&other) => Ok(()),
                        fenced => fenced.map(drop).map_err(Failure::from),
                    }
                }
            });
            try_join_all(fenced).await?;
        }
        Ok(self.shard(shard)?.fence(&context, fences).await?)
    }

    /// Whether the tables are still those that are copied.
    fn is_current(&self, catalog: &Catalog, record: &Record) -> bool {
        subject::layout(catalog, record).tables == record.copied
            && subject::has_storages(catalog, record)
    }

    /// The tables as source and target have them.
    fn sides(&mut self, catalog: &Arc<Catalog>, record: &Record) -> Sides {
        match &self.sides {
            Some((version, sides)) if *version == catalog.version => sides.clone(),
            Some(_) | None => {
                let of = |side| Arc::new(subject::parts(catalog, record, side, false));
                let sides = Sides { source: of(Side::Source), target: of(Side::Target) };
                self.sides = Some((catalog.version, sides.clone()));
                sides
            }
        }
    }

    async fn position(&mut self, record: &Record) -> Result<Option<MovePosition>> {
        if self.position.is_none() {
            self.position = self.shard(record.to)?.move_position(record.attempt).await?;
        }
        Ok(self.position.clone())
    }

    async fn apply(
        &mut self,
        record: &Record,
        tables: Vec<TableRanges>,
        page: Option<(bytes::Bytes, bytes::Bytes)>,
        rows: Vec<MovedRow>,
        to: MovePosition,
    ) -> Result<()> {
        let keys = TargetKeys::new(record);
        let rows = rows
            .into_iter()
            .map(|row| MovedRow { key: keys.of(row.key), value: row.value })
            .collect();
        let from = self.position.clone();
        let request = ApplyMoving { id: record.attempt, tables, page, rows, from, to: to.clone() };
        self.shard(record.to)?.apply_moving(request).await?;
        self.position = Some(to);
        Ok(())
    }

    async fn copy(&mut self, record: &mut Record) -> Result<Event> {
        let catalog = self.store.current();
        if !self.is_current(&catalog, record) {
            return Ok(Event::Outdated);
        }
        let (start, log) = match self.position(record).await? {
            Some(MovePosition::Copying { next: Some(next), log }) => (Some(next), Some(log)),
            Some(MovePosition::Copying { next: None, .. } | MovePosition::Following { .. }) => {
                return Ok(Event::Copied { is_last: true });
            }
            None => (None, None),
        };
        let source = self.shard(record.from)?;
        if self.copying.is_none() {
            let context = RequestContext { now_micros: now_micros(), ..RequestContext::default() };
            let id = source.open_snapshot(&context, &[]).await?;
            self.copying = Some(Snapshot { source: source.clone(), id });
        }
        let Some(snapshot) = self.copying.as_ref().map(|it| it.id) else {
            return Ok(Event::Copied { is_last: false });
        };
        let sides = self.sides(&catalog, record);
        if sides.source.is_empty() {
            return self.nothing_to_copy(record).await;
        }
        let from = MovingFrom::Snapshot { snapshot, start };
        let request = MovingRequest { id: record.attempt, tables: sides.source.to_vec(), from };
        let MovingRows::Page { start, end, rows, next, index } =
            source.read_moving(request).await?
        else {
            return Err(unexpected());
        };
        let log = log.unwrap_or(CopyCursor { after: index, part: None });
        let is_last = next.is_none();
        let to = match &next {
            Some(_) => MovePosition::Copying { next, log },
            None => MovePosition::Following { log },
        };
        count(record, &rows);
        let page = TargetKeys::new(record).of_page(start, end);
        self.apply(record, sides.target.to_vec(), Some(page), rows, to).await?;
        if is_last {
            self.copying = None;
        } else {
            self.touch_log(record, log).await?;
            self.tell_progress(record).await?;
        }
        Ok(Event::Copied { is_last })
    }

    /// A schema without tables: there is nothing but the sequences and the home.
    async fn nothing_to_copy(&mut self, record: &Record) -> Result<Event> {
        let status = self.shard(record.from)?.status().await?;
        let log = CopyCursor { after: status.applied, part: None };
        self.copying = None;
        self.apply(record, Vec::new(), None, Vec::new(), MovePosition::Following { log }).await?;
        Ok(Event::Copied { is_last: true })
    }

    /// Keeps the source from purging the log behind the snapshot.
    async fn touch_log(&mut self, record: &Record, cursor: CopyCursor) -> Result<()> {
        if self.log_touched.elapsed() < LOG_TOUCH {
            return Ok(());
        }
        self.log_touched = Instant::now();
        let from = MovingFrom::Log { cursor, wait: Duration::ZERO };
        let request = MovingRequest { id: record.attempt, tables: Vec::new(), from };
        self.shard(record.from)?.read_moving(request).await?;
        Ok(())
    }

    async fn tell_progress(&mut self, record: &Record) -> Result<()> {
        if self.saved.elapsed() >= self.timing.progress {
            self.save(record).await?;
        }
        Ok(())
    }

    /// Reads once behind the cursor and applies it. `None`: the log does not reach back so far.
    async fn read_log(
        &mut self,
        record: &mut Record,
        tables: (Vec<TableRanges>, Vec<TableRanges>),
        wait: Duration,
    ) -> Result<Option<(CopyCursor, u64)>> {
        let Some(MovePosition::Following { log }) = self.position(record).await? else {
            return Ok(None);
        };
        let cursor = self.cursor.unwrap_or(log);
        let (read, stored) = tables;
        let from = MovingFrom::Log { cursor, wait };
        let request = MovingRequest { id: record.attempt, tables: read, from };
        match self.shard(record.from)?.read_moving(request).await? {
            MovingRows::Log { rows, next, behind_bytes } => {
                if !rows.is_empty() {
                    count(record, &rows);
                    let to = MovePosition::Following { log: next };
                    self.apply(record, stored, None, rows, to).await?;
                }
                self.cursor = Some(next);
                Ok(Some((next, behind_bytes)))
            }
            MovingRows::Behind => Ok(None),
            MovingRows::Page { .. } => Err(unexpected()),
        }
    }

    async fn follow(&mut self, record: &mut Record) -> Result<Event> {
        let catalog = self.store.current();
        if !self.is_current(&catalog, record) {
            return Ok(Event::Outdated);
        }
        let sides = self.sides(&catalog, record);
        let tables = (sides.source.to_vec(), sides.target.to_vec());
        let wait = self.timing.follow_wait;
        let Some((next, behind_bytes)) = self.read_log(record, tables, wait).await? else {
            return Ok(Event::Outdated);
        };
        record.behind_bytes = behind_bytes;
        let behind = self.copy_behind(&catalog, record).await?;
        if let Some(copy) = behind {
            let message = format!("shard {copy} has not copied the reference tables yet");
            record.trouble = Some(message);
        }
        self.tell_progress(record).await?;
        // Inside a transaction there is more to come, however little it is.
        let has_more = next.part.is_some() || behind.is_some();
        let behind_bytes = if has_more { u64::MAX } else { behind_bytes };
        Ok(Event::Followed { behind_bytes })
    }

    /// A shard whose copies of moving reference tables do not have what the target has: after the cutover they are read.
    async fn copy_behind(&self, catalog: &Catalog, record: &Record) -> Result<Option<ShardId>> {
        if record.storages.is_empty() {
            return Ok(None);
        }
        let newest = self.shard(record.to)?;
        let newest = newest.copy_position(record.to, LogIndex(0), Duration::ZERO).await?;
        for copy in subject::other_copies(catalog, record).into_iter().chain([record.from]) {
            let client = self.shard(copy)?;
            let wait = self.timing.follow_wait;
            if client.copy_position(record.to, newest, wait).await? < newest {
                return Ok(Some(copy));
            }
        }
        Ok(None)
    }

    async fn drain(&mut self, to: LogIndex, record: &mut Record) -> Result<()> {
        let catalog = self.locked()?;
        let read = subject::parts(&catalog, record, Side::Source, false);
        let stored = subject::parts(&catalog, record, Side::Target, true);
        loop {
            let tables = (read.clone(), stored.clone());
            let Some((next, _)) = self.read_log(record, tables, DRAIN_WAIT).await? else {
                let message = "the log does not reach back to what the target has".to_owned();
                return Err(Failure { message, is_transient: true });
            };
            if next.after >= to && next.part.is_none() {
                return Ok(());
            }
        }
    }

    async fn clean(&mut self, side: Side, record: &Record) -> Result<()> {
        let shard = match side {
            Side::Source => record.from,
            Side::Target => record.to,
        };
        self.forget();
        let catalog = self.store.refresh().await?;
        if record.subject.owners(&catalog).contains(&shard) {
            let message = format!("shard {shard} owns a part of what is to be deleted there");
            return Err(Failure { message, is_transient: false });
        }
        let mut tables = subject::parts(&catalog, record, side, false);
        // Storages of reference tables go as a whole, on all shards.
        tables.retain(|part| part.table.primary_copy().is_none());
        let client = self.shard(shard)?;
        client.drop_ranges(record.attempt, tables).await?;
        for _ in 0..CLEAN_POLLS_MAX {
            if client.is_range_clean(record.attempt).await? {
                let of_side = |(old, new): &(StorageId, StorageId)| match side {
                    Side::Source => *old,
                    Side::Target => *new,
                };
                let storages = record.storages.iter().map(of_side);
                self.store.drop_storages(storages.collect());
                return Ok(());
            }
            tokio::time::sleep(self.timing.clean_poll).await;
        }
        let message = format!("shard {shard} still deletes what moved");
        Err(Failure { message, is_transient: true })
    }

    /// Takes the counters from the source, which gives no values any more, to the target.
    async fn move_sequences(&self, record: &Record) -> Result<()> {
        let catalog = self.locked()?;
        for sequence in record.subject.sequences(&catalog) {
            let spec = &sequence.spec;
            let (source, target) = (self.shard(record.from)?, self.shard(record.to)?);
            // Read first: what another coordinator does from here on must not be undone by this one.
            let turn = turn_after(target.sequence_get(spec).await?);
            let state = end_sequence(&*source, spec).await?;
            target.sequence_set(spec, SequenceState { is_gone: false, turn, ..state }).await?;
        }
        Ok(())
    }

    /// Has the source give values again, from where it stopped.
    async fn return_sequences(&self, record: &Record) -> Result<()> {
        let catalog = self.locked()?;
        for sequence in record.subject.sequences(&catalog) {
            let source = self.shard(record.from)?;
            // Also one that gives values: a request to end it may be on its way, and comes too late then.
            let state = end_sequence(&*source, &sequence.spec).await?;
            let turn = turn_after(Some(state));
            let state = SequenceState { is_gone: false, turn, ..state };
            source.sequence_set(&sequence.spec, state).await?;
        }
        Ok(())
    }

    /// After the publication: somebody who thought that the move still could be undone may have had the source count again.
    async fn close_sequences(&self, record: &Record) -> Result<()> {
        let catalog = self.store.current();
        let source = self.shard(record.from)?;
        for sequence in record.subject.sequences(&catalog) {
            if sequence.home != record.from {
                end_sequence(&*source, &sequence.spec).await?;
            }
        }
        Ok(())
    }
}

/// The number of what is to follow a sequence's state.
fn turn_after(state: Option<SequenceState>) -> u64 {
    state.map_or(0, |state| state.turn).saturating_add(1)
}

/// Ends a sequence's life on a shard; tells where the counter stopped.
async fn end_sequence(shard: &dyn ShardClient, spec: &SequenceSpec) -> Result<SequenceState> {
    let turn = turn_after(shard.sequence_get(spec).await?);
    let gone = SequenceState { is_gone: true, turn, ..SequenceState::default() };
    shard.sequence_set(spec, gone).await?;
    let state = shard.sequence_get(spec).await?.ok_or_else(unexpected)?;
    if state.turn != turn {
        let message = "somebody else moves a sequence meanwhile".to_owned();
        return Err(Failure { message, is_transient: true });
    }
    Ok(state)
}

fn count(record: &mut Record, rows: &[MovedRow]) {
    record.rows += rows.len() as u64;
    let bytes = |row: &MovedRow| row.key.len() + row.value.as_ref().map_or(0, bytes::Bytes::len);
    record.bytes += rows.iter().map(bytes).sum::<usize>() as u64;
}

fn unexpected() -> Failure {
    let message = "moving rows came in another shape than asked for".to_owned();
    Failure { message, is_transient: false }
}
