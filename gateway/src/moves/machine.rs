//! The order of a move's steps: from what is known and what happened to what is done next.
//!
//! Pure: no clock, no shard, no store; `driver` carries out the commands and tells what came of them. What is durable is the
//! record; a machine that is made of a record in any phase goes on from there.
//!
//! ```text
//!   planned ─► copying ─► following ─► cutover ─► cleaning ─► done
//!      ▲          │           │  ▲         │ published: the commit point
//!      │          ▼ tables    ▼  └─────────┘ something failed before it: old owners, epoch beyond the fence
//!      └──────── clearing ◄───┘
//!   any phase before cleaning ─► aborting ─► aborted
//! ```
//!
//! - **Attempts** have numbers of their own: what is still under way of an earlier one (a late request to delete, to store) is
//!   refused by the shard that ended it.
//! - **Cutover**: hold the writers, drain the log, fence target and source, drain up to the source's fence, publish. What makes
//!   it safe is the fence: behind it the source commits nothing under the old map, whether the hold still lasts or not.
//! - **Undo**: fences that were recorded and not published past are made harmless by a publication of the old owners with an
//!   epoch beyond them. It needs the meta shard alone, so a source or target that dies blocks nobody else.
//! - What leaves the cutover, either way, goes through the publication of a catalog: two that drive the same move cannot both
//!   get past that guard.

use cortex_shard_api::{LogIndex, Oid, StorageId};

use super::record::{Phase, Record, Wish};

/// How little of the source's log may be left to read when the cutover begins: read and applied within milliseconds.
const CUTOVER_BEHIND_BYTES: u64 = 256 << 10;

/// Rounds of following before the cutover at the least: the first may have read what the copying left.
const ROUNDS_MIN: u32 = 2;

/// Each cutover that fails doubles the rounds before the next, so often at the most: what is in its way may need a minute.
const FAILED_COUNTED_MAX: u32 = 6;

/// What is done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes sure that the target has copies of all reference tables, which any table may refer to.
    AddCopies,
    /// Takes the right to change the catalog and looks at it: `Locked`. It is kept as long as fences are on their way.
    LockCatalog,
    /// Writes the record: `Saved`.
    Save,
    /// Has a shard refuse maps below those of `Record::fenced`: `Fenced`.
    Fence(Side),
    /// Publishes the same owners with epochs beyond `Record::fenced`, and the record: `Published`. Unlocks the catalog.
    PublishOldOwners,
    /// Publishes the new owners with the epochs of `Record::fenced`, and the record, without fences and `cleaning`. Unlocks.
    PublishNewOwners,
    /// Copies a page: `Copied`.
    Copy,
    /// Reads and applies what the log has: `Followed`.
    Follow,
    /// Keeps writers out: `Held`.
    Hold,
    /// Reads and applies the log up to this entry: `Drained`.
    Drain(LogIndex),
    /// Hands the sequences of moved schemas over: `SequencesMoved`.
    MoveSequences,
    /// Has the source count them again: `SequencesMoved`.
    ReturnSequences,
    /// Makes sure that the source counts them no more: `SequencesClosed`.
    CloseSequences,
    /// Lets writers in: `Released`.
    Release,
    /// Deletes what moves from a shard that does not own it, and waits until it is gone: `Cleaned`.
    Clean(Side),
    /// Reads the record anew: somebody else may have written it, or its last write's outcome is not known. `Reloaded`.
    Reload,
    /// Waits a little before the next try: `Waited`.
    Wait,
    /// There is nothing to do, now or ever.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

/// What moves, as the catalog has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tables with their versions, by OID.
    pub tables: Vec<(Oid, u32)>,
    /// Placements with their epochs.
    pub placements: Vec<(Oid, u64)>,
    /// Storages of reference tables, which do not stay the same.
    pub storages: Vec<StorageId>,
    /// As many that nothing has yet, for a move that begins.
    pub fresh: Vec<StorageId>,
    pub owner: Owner,
}

/// Who owns what moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    Source,
    Target,
    /// Others, or several.
    Other,
    /// There is nothing of it any more.
    Gone,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    CopiesAdded,
    Locked(Layout),
    Saved,
    Fenced(LogIndex),
    Published,
    /// Whether it was the last page.
    Copied {
        is_last: bool,
    },
    Followed {
        behind_bytes: u64,
    },
    /// The tables are not those that are copied: their shape or their number has changed, or the log does not reach back.
    Outdated,
    Held(LogIndex),
    Drained,
    SequencesMoved,
    SequencesClosed,
    Released,
    Cleaned,
    /// `None`: there is no such record any more.
    Reloaded(Option<Box<Record>>),
    Waited,
    /// A user wants something.
    Wished(Wish),
    /// It did not work.
    Failed(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    /// Trying again may help: a shard is away, a lock was not to be had.
    pub is_transient: bool,
}

/// What the machine does once the catalog is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Begin,
    Cutover,
    Undo,
}

/// Where in a phase it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// At the beginning of the phase.
    Idle,
    Locking(Purpose),
    /// The record with fences is being written.
    Announcing,
    FencingTarget,
    Holding,
    Draining,
    FencingSource,
    DrainingToFence,
    MovingSequences,
    ReturningSequences,
    Publishing(Purpose),
    Releasing,
    ClosingSequences,
    /// The record is being written, without anything to follow but the phase's own beginning.
    Saving,
    Working,
    Waiting,
    /// Something failed where the record's state on disk matters: it is read again, once writers are let in.
    ReleasingToReload,
    Reloading,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Machine {
    pub record: Record,
    step: Step,
    rounds: u32,
    /// The target has been given copies of reference tables.
    has_copies: bool,
    /// Something failed where it could not wait; it waits as soon as nobody else has to.
    owes_pause: bool,
    /// Cutovers that failed one after the other.
    n_failed: u32,
}

impl Machine {
    pub fn new(record: Record) -> Machine {
        Machine {
            record,
            step: Step::Idle,
            rounds: 0,
            has_copies: false,
            owes_pause: false,
            n_failed: 0,
        }
    }

    /// The first command.
    pub fn begin(&mut self) -> Command {
        self.proceed()
    }

    /// Whether a user's wish can be taken now: nothing is held or half done.
    pub fn takes_wishes(&self) -> bool {
        let is_between = matches!(self.step, Step::Idle | Step::Working | Step::Waiting);
        // Fences that nothing goes beyond yet come first.
        is_between && self.record.phase != Phase::Cutover && self.record.fenced.is_empty()
    }

    /// What is done next, after this.
    pub fn next(&mut self, event: Event) -> Command {
        match event {
            Event::Failed(failure) => self.failed(failure),
            Event::Wished(wish) => self.wished(wish),
            Event::Reloaded(None) => {
                self.step = Step::Idle;
                Command::End
            }
            Event::Reloaded(Some(record)) => {
                let trouble = self.record.trouble.take();
                self.record = *record;
                self.record.trouble = trouble.or(self.record.trouble.take());
                if self.record.fenced.is_empty() && self.record.phase != Phase::Cutover {
                    return self.proceed_slowly();
                }
                self.proceed()
            }
            Event::Waited | Event::Saved if matches!(self.step, Step::Saving | Step::Waiting) => {
                self.proceed()
            }
            other => self.advance(other),
        }
    }

    fn go(&mut self, step: Step, command: Command) -> Command {
        self.step = step;
        command
    }

    /// From the record alone: what a machine does first, and after each step that ended a part.
    fn proceed(&mut self) -> Command {
        if !self.record.is_open() || self.record.failed.is_some() {
            // A move that failed must not leave fences behind that nobody goes beyond.
            if self.record.fenced.is_empty() {
                return self.go(Step::Idle, Command::End);
            }
        }
        if !self.record.fenced.is_empty() || self.record.phase == Phase::Cutover {
            return self.go(Step::Locking(Purpose::Undo), Command::LockCatalog);
        }
        match self.record.phase {
            Phase::Planned if !self.has_copies => self.go(Step::Working, Command::AddCopies),
            Phase::Planned => self.go(Step::Locking(Purpose::Begin), Command::LockCatalog),
            Phase::Clearing | Phase::Aborting if self.record.copied.is_empty() => self.cleared(),
            Phase::Clearing | Phase::Aborting => {
                self.go(Step::Working, Command::Clean(Side::Target))
            }
            Phase::Copying => self.go(Step::Working, Command::Copy),
            Phase::Following => {
                self.rounds = 0;
                self.go(Step::Working, Command::Follow)
            }
            Phase::Cleaning => self.go(Step::Releasing, Command::Release),
            Phase::Cutover | Phase::Done | Phase::Aborted => self.go(Step::Idle, Command::End),
        }
    }

    /// After a pause, if one is owed.
    fn proceed_slowly(&mut self) -> Command {
        if std::mem::take(&mut self.owes_pause) {
            return self.go(Step::Waiting, Command::Wait);
        }
        self.proceed()
    }

    fn advance(&mut self, event: Event) -> Command {
        match (self.step, event) {
            (Step::Working, event) => self.worked(event),
            (Step::Locking(purpose), Event::Locked(layout)) => self.locked(purpose, &layout),
            (Step::Announcing, Event::Saved) => self.go(Step::Holding, Command::Hold),
            (Step::Holding, Event::Held(index)) => self.go(Step::Draining, Command::Drain(index)),
            (Step::Draining, Event::Drained) => {
                self.go(Step::FencingTarget, Command::Fence(Side::Target))
            }
            (Step::FencingTarget, Event::Fenced(_)) => {
                self.go(Step::FencingSource, Command::Fence(Side::Source))
            }
            (Step::FencingSource, Event::Fenced(index)) => {
                self.go(Step::DrainingToFence, Command::Drain(index))
            }
            (Step::DrainingToFence, Event::Drained) => {
                self.go(Step::MovingSequences, Command::MoveSequences)
            }
            (Step::ReturningSequences, Event::SequencesMoved) => {
                self.go(Step::Publishing(Purpose::Undo), Command::PublishOldOwners)
            }
            (Step::MovingSequences, Event::SequencesMoved) => {
                self.go(Step::Publishing(Purpose::Cutover), Command::PublishNewOwners)
            }
            (Step::Publishing(Purpose::Cutover), Event::Published) => {
                self.record.phase = Phase::Cleaning;
                self.record.fenced.clear();
                self.go(Step::Releasing, Command::Release)
            }
            (Step::Publishing(_), Event::Published) => {
                self.record.fenced.clear();
                self.proceed_slowly()
            }
            (Step::Releasing, Event::Released) => {
                self.go(Step::ClosingSequences, Command::CloseSequences)
            }
            (Step::ClosingSequences, Event::SequencesClosed) => {
                self.go(Step::Working, Command::Clean(Side::Source))
            }
            (Step::ReleasingToReload, _) => self.go(Step::Reloading, Command::Reload),
            // An answer that does not belong to what was asked: what is durable decides.
            (_, _) => self.go(Step::Reloading, Command::Reload),
        }
    }

    /// A phase's own work, a piece at a time.
    fn worked(&mut self, event: Event) -> Command {
        match (self.record.phase, event) {
            (Phase::Planned, Event::CopiesAdded) => {
                self.has_copies = true;
                self.proceed()
            }
            (Phase::Copying, Event::Copied { is_last: false }) => Command::Copy,
            (Phase::Copying, Event::Copied { is_last: true }) => {
                self.record.phase = Phase::Following;
                self.record.trouble = None;
                self.go(Step::Saving, Command::Save)
            }
            (Phase::Following, Event::Followed { behind_bytes }) => {
                self.rounds += 1;
                self.record.behind_bytes = behind_bytes;
                let rounds_min = ROUNDS_MIN << self.n_failed.min(FAILED_COUNTED_MAX);
                if self.rounds >= rounds_min && behind_bytes <= CUTOVER_BEHIND_BYTES {
                    return self.go(Step::Locking(Purpose::Cutover), Command::LockCatalog);
                }
                Command::Follow
            }
            (Phase::Copying | Phase::Following, Event::Outdated) => self.begin_anew(),
            (Phase::Clearing | Phase::Aborting, Event::Cleaned) => self.cleared(),
            (Phase::Cleaning, Event::Cleaned) => {
                self.record.phase = Phase::Done;
                self.record.trouble = None;
                self.go(Step::Saving, Command::Save)
            }
            (_, _) => self.go(Step::Reloading, Command::Reload),
        }
    }

    fn begin_anew(&mut self) -> Command {
        self.record.phase = Phase::Clearing;
        self.go(Step::Saving, Command::Save)
    }

    /// The target has nothing of the move.
    fn cleared(&mut self) -> Command {
        self.record.copied.clear();
        self.record.storages.clear();
        (self.record.rows, self.record.bytes, self.record.behind_bytes) = (0, 0, 0);
        self.record.phase = match self.record.phase {
            Phase::Aborting => Phase::Aborted,
            _ => Phase::Planned,
        };
        self.go(Step::Saving, Command::Save)
    }

    fn locked(&mut self, purpose: Purpose, layout: &Layout) -> Command {
        match purpose {
            Purpose::Undo => {
                if self.record.phase == Phase::Cutover {
                    self.record.phase = Phase::Following;
                }
                self.go(Step::ReturningSequences, Command::ReturnSequences)
            }
            Purpose::Begin => match layout.owner {
                Owner::Source => {
                    self.record.copied = layout.tables.clone();
                    let fresh = layout.fresh.iter().copied();
                    self.record.storages = layout.storages.iter().copied().zip(fresh).collect();
                    self.record.phase = Phase::Copying;
                    self.go(Step::Saving, Command::Save)
                }
                Owner::Gone => self.end_as_gone(),
                Owner::Target | Owner::Other => {
                    let message = "the source does not own all of it any more".to_owned();
                    self.give_up(message)
                }
            },
            Purpose::Cutover => {
                let storages = self.record.storages.iter().map(|(old, _)| old);
                let is_same =
                    layout.tables == self.record.copied && layout.storages.iter().eq(storages);
                match layout.owner {
                    Owner::Source if is_same => {
                        self.record.phase = Phase::Cutover;
                        self.announce(layout)
                    }
                    Owner::Source => self.begin_anew(),
                    Owner::Gone => self.end_as_gone(),
                    Owner::Target | Owner::Other => {
                        let message = "the source does not own all of it any more".to_owned();
                        self.give_up(message)
                    }
                }
            }
        }
    }

    fn announce(&mut self, layout: &Layout) -> Command {
        self.record.trouble = None;
        self.record.fenced =
            layout.placements.iter().map(|(placement, epoch)| (*placement, epoch + 1)).collect();
        self.go(Step::Announcing, Command::Save)
    }

    /// What was to move was dropped: what is on the target goes, and that is all.
    fn end_as_gone(&mut self) -> Command {
        self.record.trouble = Some("what was to move was dropped".to_owned());
        self.record.phase = Phase::Aborting;
        self.go(Step::Saving, Command::Save)
    }

    fn give_up(&mut self, message: String) -> Command {
        self.record.failed = Some(message);
        self.go(Step::Saving, Command::Save)
    }

    fn failed(&mut self, failure: Failure) -> Command {
        match self.step {
            // Fences may be set, the outcome of a write may be open, or writers may wait: let them in, and see what is durable.
            Step::Announcing
            | Step::FencingTarget
            | Step::Holding
            | Step::Draining
            | Step::FencingSource
            | Step::DrainingToFence
            | Step::MovingSequences
            | Step::ReturningSequences
            | Step::Publishing(_) => {
                self.record.trouble = Some(failure.message);
                self.owes_pause = true;
                self.n_failed = self.n_failed.saturating_add(1);
                self.go(Step::ReleasingToReload, Command::Release)
            }
            Step::ReleasingToReload => self.go(Step::Reloading, Command::Reload),
            // Nothing can be known or written without the meta shard.
            Step::Reloading => self.go(Step::Reloading, Command::Wait),
            Step::Saving => self.go(Step::Reloading, Command::Wait),
            // The commit point is behind: whatever is in the way, it is tried again for ever.
            Step::Releasing | Step::ClosingSequences => {
                self.record.trouble = Some(failure.message);
                self.go(Step::Waiting, Command::Wait)
            }
            Step::Locking(Purpose::Undo) => {
                self.record.trouble = Some(failure.message);
                self.go(Step::Waiting, Command::Wait)
            }
            Step::Locking(_) | Step::Working | Step::Waiting | Step::Idle => {
                let must_end = matches!(
                    self.record.phase,
                    Phase::Cleaning | Phase::Aborting | Phase::Clearing
                );
                if failure.is_transient || must_end {
                    self.record.trouble = Some(failure.message);
                    return self.go(Step::Waiting, Command::Wait);
                }
                self.give_up(failure.message)
            }
        }
    }

    fn wished(&mut self, wish: Wish) -> Command {
        match wish {
            Wish::Retry => {
                if self.record.failed.take().is_some() {
                    self.record.trouble = None;
                    return self.go(Step::Saving, Command::Save);
                }
            }
            Wish::Abort => match self.record.phase {
                Phase::Planned | Phase::Clearing | Phase::Copying | Phase::Following => {
                    self.record.failed = None;
                    self.record.phase = Phase::Aborting;
                    return self.go(Step::Saving, Command::Save);
                }
                Phase::Cutover
                | Phase::Cleaning
                | Phase::Done
                | Phase::Aborting
                | Phase::Aborted => {}
            },
        }
        self.proceed()
    }
}
