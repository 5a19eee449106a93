//! Power loss at any operation: no acknowledged change is lost, none is invented, the order is kept.
//!
//! Each seed drives random appends, waits, truncations, purges, resets, votes and reopenings on a `CrashDisk` whose power
//! fails at a random operation (also while the log opens), opens the image, compares it with a model, and goes on with
//! what it found, for several rounds, so that every repair is itself put to use.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::crash_files::CrashDisk;
use super::*;

/// What a log contains, as far as its user can see.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    /// The entries of index 1, 2, ...; those before `first` are placeholders once a reset skipped them.
    entries: Vec<Option<Entry>>,
    first: u64,
}

impl Content {
    fn empty() -> Content {
        Content { entries: Vec::new(), first: 1 }
    }

    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    fn of(log: &dyn ShardLog) -> Content {
        let first = log.first_index().0;
        let mut entries = vec![None; first as usize - 1];
        for entry in log.replay(LogIndex(first)..LogIndex(u64::MAX)) {
            let entry = entry.expect("an open log is readable");
            assert_eq!(entry.index.0, entries.len() as u64 + 1);
            entries.push(Some(entry));
        }
        assert_eq!(log.last_index().0, entries.len() as u64);
        assert_eq!(log.durable_index(), log.last_index(), "an opened log is durable");
        Content { entries, first }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Append(Vec<Entry>),
    Truncate(u64),
    Purge(u64),
    Reset(LogPoint),
    Vote(Vote),
}

impl Change {
    /// Applies it, calling `visit` at every content that a crash in the middle may leave, the last one included.
    fn apply(&self, content: &mut Content, mut visit: impl FnMut(&Content)) {
        match self {
            Change::Append(entries) => {
                for entry in entries {
                    content.entries.push(Some(entry.clone()));
                    visit(content);
                }
            }
            Change::Truncate(index) => content.entries.truncate(*index as usize - 1),
            Change::Purge(index) => {
                content.first = index + 1;
                content.entries.iter_mut().take(*index as usize).for_each(|entry| *entry = None);
            }
            Change::Reset(point) => {
                content.entries = vec![None; point.index.0 as usize];
                content.first = point.index.0 + 1;
            }
            Change::Vote(_) => {}
        }
        visit(content);
    }
}

/// A history: what was acknowledged, and what happened since.
struct Model {
    acknowledged: Content,
    /// What happened since then, oldest first; a crash may leave any beginning of it.
    since: Vec<Change>,
    newest: Content,
    /// A vote is durable by itself, whether earlier entries are or not.
    vote: Option<Vote>,
    /// The one that was not answered.
    next_vote: Option<Vote>,
}

impl Model {
    fn new(content: Content, vote: Option<Vote>) -> Model {
        Model {
            newest: content.clone(),
            acknowledged: content,
            since: Vec::new(),
            vote,
            next_vote: None,
        }
    }

    fn change(&mut self, change: Change) {
        if let Change::Vote(vote) = &change {
            self.next_vote = Some(*vote);
        }
        change.apply(&mut self.newest, |_| {});
        self.since.push(change);
    }

    /// Everything so far is durable.
    fn acknowledge(&mut self) {
        for change in self.since.drain(..) {
            change.apply(&mut self.acknowledged, |_| {});
        }
    }

    fn check(&self, log: &dyn ShardLog, context: &str) {
        let found = Content::of(log);
        let mut content = self.acknowledged.clone();
        let mut is_possible = content == found;
        for change in &self.since {
            change.apply(&mut content, |content| {
                // Comparing entries is slow, comparing the bounds first is not.
                let is_alike = content.first == found.first && content.last() == found.last();
                is_possible |= is_alike && *content == found;
            });
        }
        assert!(
            is_possible,
            "{context}: found {}..={}; acknowledged {}..={}, newest {}..={}",
            found.first,
            found.last(),
            self.acknowledged.first,
            self.acknowledged.last(),
            self.newest.first,
            self.newest.last(),
        );
        let vote = log.vote();
        assert!(vote == self.vote || vote == self.next_vote, "{context}: {vote:?}");
    }
}

fn options(random: &mut StdRng) -> LogOptions {
    LogOptions {
        segment_bytes: [12 << 10, 20 << 10, 64 << 10][random.random_range(0..3)],
        prefill: match random.random_range(0..10) {
            0..5 => Prefill::Inline,
            5..9 => Prefill::Off,
            _ => Prefill::Background,
        },
        ..LogOptions::default()
    }
}

fn random_entries(random: &mut StdRng, after: u64, term: u64) -> Vec<Entry> {
    let n = random.random_range(1..12);
    (1..=n)
        .map(|i| {
            let bytes = match random.random_range(0..40) {
                0 => random.random_range(0..40_000),
                1..10 => random.random_range(0..3000),
                _ => random.random_range(0..200),
            };
            let mut payload = random.random::<u64>().to_le_bytes().repeat(bytes / 8 + 1);
            payload.truncate(bytes);
            Entry { term: Term(term), index: LogIndex(after + i), payload: payload.into() }
        })
        .collect()
}

/// Works until `n` changes are done or the power fails. Returns whether it failed.
fn work(log: &dyn ShardLog, model: &mut Model, random: &mut StdRng, n: u32) -> bool {
    let mut term = model.vote.map_or(1, |vote| vote.term.0);
    for _ in 0..n {
        let (first, last) = (model.newest.first, model.newest.last());
        let change = match random.random_range(0..100) {
            0..4 if last >= first => Change::Truncate(random.random_range(first..=last)),
            4..8 if last >= first => Change::Purge(random.random_range(first..=last)),
            8 if random.random_range(0..4) == 0 => Change::Reset(LogPoint {
                index: LogIndex(last + random.random_range(0..50)),
                term: Term(term),
            }),
            9..12 => {
                term += 1;
                Change::Vote(Vote { term: Term(term), node: Some(1), is_committed: false })
            }
            _ => Change::Append(random_entries(random, last, term)),
        };
        if let Change::Purge(_) = change {
            // Only what is durable may be purged; the log syncs the rest itself.
            if log.sync().is_err() {
                return true;
            }
            model.acknowledge();
        }
        model.change(change.clone());
        let done = match &change {
            Change::Append(entries) => match log.append(entries.clone()) {
                Ok(ticket) if random.random_range(0..3) == 0 => {
                    let waited = log.wait(ticket);
                    if waited.is_ok() {
                        model.acknowledge();
                    }
                    waited
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            },
            Change::Truncate(index) => log.truncate_from(LogIndex(*index)),
            Change::Purge(index) => log.purge_to(LogIndex(*index)),
            Change::Reset(point) => log.reset_to(*point),
            Change::Vote(vote) => log.set_vote(*vote),
        };
        match (done, change) {
            (Err(LogError::Io { .. } | LogError::Poisoned { .. }), _) => return true,
            (Err(error), change) => panic!("{change:?} failed: {error}"),
            (Ok(()), Change::Append(_)) => {}
            (Ok(()), Change::Vote(vote)) => model.vote = Some(vote),
            (Ok(()), Change::Truncate(_) | Change::Purge(_) | Change::Reset(_)) => {
                model.acknowledge();
            }
        }
    }
    false
}

/// Opens, with power failures while opening now and then.
fn open_at_last(
    disk: &mut CrashDisk,
    random: &mut StdRng,
    context: &str,
) -> (SegmentedLog, OpenReport) {
    for _ in 0..random.random_range(0..3) {
        disk.crash_after(random.random_range(0..12));
        match SegmentedLog::open(disk.directory("log"), options(random)) {
            Err(LogError::Io { .. }) => {}
            Err(error) => panic!("{context}: a crash while opening is not damage: {error}"),
            // Its `drop` meets the power failure at some point.
            Ok((log, _)) => drop(log),
        }
        *disk = disk.image(random.random());
    }
    let opened = SegmentedLog::open(disk.directory("log"), options(random));
    opened.unwrap_or_else(|error| panic!("{context}: a crash is not damage: {error}"))
}

/// One history; returns how many torn tails it saw.
fn live_and_die(seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut disk = CrashDisk::new();
    let mut model = Model::new(Content::empty(), None);
    let mut n_torn = 0;
    for round in 0..5 {
        let context = format!("seed {seed}, round {round}");
        let (log, report) = open_at_last(&mut disk, &mut random, &context);
        n_torn += usize::from(report.torn_bytes > 0 || report.torn_segments > 0);
        model.check(&log, &context);
        model = Model::new(Content::of(&log), log.vote());

        if random.random_range(0..3) > 0 {
            disk.crash_after(random.random_range(0..120));
        }
        let n = random.random_range(0..60);
        let has_failed = work(&log, &mut model, &mut random, n);
        if has_failed {
            assert!(log.poisoned().is_some());
            let next = LogIndex(log.last_index().0 + 1);
            let refused = Entry { term: Term(1), index: next, payload: Bytes::new() };
            assert!(matches!(log.append(vec![refused]), Err(LogError::Poisoned { .. })));
        }
        // The image is taken while the log is open, sometimes after it closed, sometimes after it reopened.
        match random.random_range(0..3) {
            0 if !has_failed => {
                drop(log);
                disk = disk.image(random.random());
            }
            1 => disk = disk.image_after_kill(),
            _ => disk = disk.image(random.random()),
        }
    }
    n_torn
}

#[test]
fn no_crash_loses_or_invents_an_entry() {
    let n_torn: usize = (0..500).map(live_and_die).sum();
    assert!(n_torn > 100, "the crashes tear tails: {n_torn}");
}

#[test]
#[ignore = "the nightly length of the same: CORTEX_LOG_SEEDS=from..to"]
fn no_crash_loses_or_invents_an_entry_over_many_seeds() {
    let seeds = std::env::var("CORTEX_LOG_SEEDS").unwrap_or_default();
    let (from, to) = seeds.split_once("..").unwrap_or(("1000", "20000"));
    let parse = |text: &str| text.parse::<u64>().expect("CORTEX_LOG_SEEDS is from..to");
    for seed in parse(from)..parse(to) {
        live_and_die(seed);
    }
}

#[test]
fn a_crash_under_concurrent_writers_keeps_what_was_acknowledged() {
    for seed in 0..30 {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = CrashDisk::new();
        let options = LogOptions { segment_bytes: 32 << 10, ..options(&mut random) };
        let (log, _) = SegmentedLog::open(disk.directory("log"), options).expect("open");
        let next = parking_lot::Mutex::new(1);
        let acknowledged = std::sync::atomic::AtomicU64::new(0);
        let entry = |index: u64| Entry {
            term: Term(1),
            index: LogIndex(index),
            payload: index.to_le_bytes().repeat(20).into(),
        };
        let (image, promised) = std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let ticket = {
                            let mut next = next.lock();
                            *next += 1;
                            log.append(vec![entry(*next - 1)]).expect("append")
                        };
                        log.wait(ticket).expect("wait");
                        acknowledged.fetch_max(ticket.last.0, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
            let wanted = random.random_range(0..300);
            loop {
                let promised = acknowledged.load(std::sync::atomic::Ordering::SeqCst);
                if promised >= wanted {
                    return (disk.image(seed), promised);
                }
                std::thread::yield_now();
            }
        });
        let (log, report) =
            SegmentedLog::open(image.directory("log"), LogOptions::default()).expect("open");
        assert!(report.last_index.0 >= promised, "seed {seed}: {report:?}, promised {promised}");
        for found in (&log as &dyn ShardLog).replay(LogIndex(1)..LogIndex(u64::MAX)) {
            let found = found.expect("readable");
            assert_eq!(found, entry(found.index.0));
        }
    }
}

#[test]
fn one_failed_operation_poisons_the_log_until_it_is_reopened() {
    let mut n_poisoned = 0;
    for seed in 0..100 {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = CrashDisk::new();
        let (log, _) =
            SegmentedLog::open(disk.directory("log"), options(&mut random)).expect("open");
        let mut model = Model::new(Content::empty(), None);
        disk.fail_once_after(random.random_range(0..60));
        if work(&log, &mut model, &mut random, 60) {
            n_poisoned += 1;
            assert!(matches!(log.sync(), Err(LogError::Poisoned { .. })));
            assert!(matches!(log.set_vote(Vote::default()), Err(LogError::Poisoned { .. })));
        }
        drop(log);
        let image = disk.image(seed);
        let opened = SegmentedLog::open(image.directory("log"), LogOptions::default());
        let (log, _) = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        model.check(&log, &format!("seed {seed}"));
    }
    assert!(n_poisoned > 50, "{n_poisoned}");
}
