//! The contract of `ShardLog` on a real directory.

use std::sync::Arc;

use super::*;

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, prefill: Prefill::Inline, ..LogOptions::default() }
}

fn open_with(
    dir: &std::path::Path,
    options: LogOptions,
) -> Result<(SegmentedLog, OpenReport), LogError> {
    let files = DiskFiles::open(dir).expect("a writable directory");
    SegmentedLog::open(Arc::new(files), options)
}

fn open(dir: &std::path::Path) -> SegmentedLog {
    open_with(dir, options()).expect("the log opens").0
}

fn payload(index: u64, bytes: usize) -> Bytes {
    (0..bytes).map(|i| (index as usize * 31 + i) as u8).collect::<Vec<_>>().into()
}

fn entry(index: u64, bytes: usize) -> Entry {
    Entry { term: Term(1), index: LogIndex(index), payload: payload(index, bytes) }
}

fn entries(range: std::ops::Range<u64>, bytes: usize) -> Vec<Entry> {
    range.map(|index| entry(index, bytes)).collect()
}

fn all(log: &dyn ShardLog) -> Vec<Entry> {
    log.replay(log.first_index()..LogIndex(u64::MAX))
        .collect::<Result<_, _>>()
        .expect("every entry is readable")
}

#[test]
fn entries_are_readable_at_once_durable_after_wait_and_there_after_reopening() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    let ticket = log.append(entries(1..101, 2000)).expect("append");
    assert_eq!(log.durable_index(), LogIndex(0));
    assert_eq!(log.read(LogIndex(7)..LogIndex(9), 1 << 20).expect("read"), entries(7..9, 2000));
    log.wait(ticket).expect("wait");
    assert_eq!(log.durable_index(), LogIndex(100));
    drop(log);

    let (log, report) = open_with(dir.path(), options()).expect("open");
    assert_eq!((report.last_index, report.torn_bytes, report.is_new), (LogIndex(100), 0, false));
    assert_eq!(all(&log), entries(1..101, 2000));
    assert_eq!(log.last_point(), LogPoint { index: LogIndex(100), term: Term(1) });
}

#[test]
fn a_gap_is_refused_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    log.append(entries(1..3, 10)).expect("append");
    for wrong in [entries(4..5, 10), entries(2..3, 10), vec![entry(3, 10), entry(5, 10)]] {
        assert!(matches!(log.append(wrong), Err(LogError::Gap { .. })));
    }
    assert_eq!(log.last_index(), LogIndex(2));
    log.append(entries(3..4, 10)).expect("the log goes on");
}

#[test]
fn a_read_is_bounded_but_returns_at_least_one_entry() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    log.append(entries(1..51, 1000)).expect("append");
    let n = |from: u64, bytes| log.read(LogIndex(from)..LogIndex(99), bytes).expect("read").len();
    assert_eq!((n(1, 0), n(1, 2500), n(1, 1 << 20), n(50, 9), n(51, 9)), (1, 2, 50, 1, 0));
}

#[test]
fn an_entry_may_be_larger_than_a_segment_but_not_than_the_limit() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    let mut big = entries(1..2, 100);
    big.push(entry(2, 3 << 20));
    big.extend(entries(3..6, 100));
    log.wait(log.append(big.clone()).expect("append")).expect("wait");
    assert_eq!(all(&log), big);
    let huge = Entry { payload: Bytes::from(vec![0; ENTRY_BYTES_MAX + 1]), ..entry(6, 0) };
    assert!(matches!(log.append(vec![huge]), Err(LogError::EntryTooLarge { .. })));
    drop(log);
    assert_eq!(all(&open(dir.path())), big);
}

#[test]
fn truncated_entries_are_gone_and_their_indexes_are_used_again() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    log.append(entries(1..201, 1000)).expect("append");
    log.truncate_from(LogIndex(31)).expect("truncate");
    assert_eq!((log.last_index(), log.durable_index()), (LogIndex(30), LogIndex(30)));
    let others: Vec<_> = (31..60).map(|i| Entry { term: Term(2), ..entry(i, 50) }).collect();
    log.wait(log.append(others.clone()).expect("append")).expect("wait");
    log.truncate_from(LogIndex(55)).expect("truncate");
    let mut expected = entries(1..31, 1000);
    expected.extend(others.into_iter().filter(|entry| entry.index.0 < 55));
    assert_eq!(all(&log), expected);
    drop(log);
    let log = open(dir.path());
    assert_eq!(all(&log), expected);
    assert_eq!(log.last_point(), LogPoint { index: LogIndex(54), term: Term(2) });
}

#[test]
fn a_purge_frees_segments_and_survives() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    for first in (1..2001).step_by(100) {
        log.append(entries(first..first + 100, 200)).expect("append");
    }
    assert!(matches!(log.purge_to(LogIndex(2001)), Err(LogError::PurgeAhead { .. })));
    log.purge_to(LogIndex(1500)).expect("purge");
    assert_eq!(log.first_index(), LogIndex(1501));
    let old = log.read(LogIndex(1500)..LogIndex(1502), 9);
    assert!(matches!(old, Err(LogError::Purged { .. })));
    assert_eq!(all(&log), entries(1501..2001, 200));
    let n_files = std::fs::read_dir(dir.path()).expect("list").count();
    assert!(n_files < 9, "{n_files} files are left");
    // Recycled segments are written over.
    for first in (2001..3001).step_by(100) {
        log.append(entries(first..first + 100, 200)).expect("append");
    }
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.purge_point(), LogPoint { index: LogIndex(1500), term: Term(1) });
    assert_eq!(all(&log), entries(1501..3001, 200));
    log.purge_to(LogIndex(3000)).expect("purge all");
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.last_point(), LogPoint { index: LogIndex(3000), term: Term(1) });
    assert_eq!(all(&log), vec![]);
    log.append(entries(3001..3002, 10)).expect("append");
}

#[test]
fn a_reset_log_continues_after_the_snapshot() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    log.append(entries(1..301, 500)).expect("append");
    let point = LogPoint { index: LogIndex(5000), term: Term(7) };
    log.reset_to(point).expect("reset");
    assert_eq!((log.first_index(), log.durable_index()), (LogIndex(5001), LogIndex(5000)));
    assert!(matches!(log.append(entries(301..302, 1)), Err(LogError::Gap { .. })));
    log.append(entries(5001..5003, 10)).expect("append");
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.purge_point(), point);
    assert_eq!(all(&log), entries(5001..5003, 10));
}

#[test]
fn vote_and_metadata_survive() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    let vote = Vote { term: Term(9), node: Some(3), is_committed: true };
    assert_eq!(log.vote(), None);
    log.set_vote(vote).expect("vote");
    log.set_metadata("a", Some(Bytes::from_static(b"1"))).expect("set");
    log.set_metadata("b", Some(Bytes::from_static(b"2"))).expect("set");
    log.set_metadata("a", None).expect("remove");
    let large = Some(Bytes::from(vec![0; 2 << 20]));
    assert!(matches!(log.set_metadata("c", large), Err(LogError::MetadataTooLarge { .. })));
    log.append(entries(1..3, 10)).expect("append");
    log.purge_to(LogIndex(1)).expect("purge");
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.vote(), Some(vote));
    assert_eq!(log.metadata("b"), Some(Bytes::from_static(b"2")));
    assert_eq!((log.metadata("a"), log.metadata("c")), (None, None));
}

#[test]
fn a_missing_foreign_newer_or_open_log_is_refused_with_its_name() {
    let dir = tempfile::tempdir().expect("tempdir");
    let refused = |options| open_with(dir.path(), options).map(|_| ()).expect_err("refused");
    let missing = refused(LogOptions { create: false, ..options() });
    assert!(matches!(missing, LogError::Missing { .. }));
    let log = open(dir.path());
    assert!(matches!(refused(options()), LogError::Locked { .. }));
    drop(log);
    let foreign = refused(LogOptions { log_id: Some(LogId(5)), ..options() });
    assert!(matches!(foreign, LogError::Foreign { expected: LogId(5), .. }));

    let other = tempfile::tempdir().expect("tempdir");
    drop(open(other.path()));
    let segment = "0000000000000001.seg";
    let original = std::fs::read(dir.path().join(segment)).expect("read");
    std::fs::copy(other.path().join(segment), dir.path().join(segment)).expect("copy");
    assert!(matches!(refused(options()), LogError::Foreign { .. }));

    for (name, at) in [(segment, 8), ("meta", 8)] {
        std::fs::write(dir.path().join(segment), &original).expect("write");
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[at] = 2;
        std::fs::write(&path, bytes).expect("write");
        assert!(matches!(refused(options()), LogError::Version { found: 2, .. }), "{name}");
    }
}

#[test]
fn threads_share_fsyncs_while_one_purges_and_the_filler_prepares_segments() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = LogOptions { prefill: Prefill::Background, ..options() };
    let (log, _) = open_with(dir.path(), options).expect("open");
    let next = parking_lot::Mutex::new(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The applier purges while the sequencer appends.
            while log.durable_index() < LogIndex(400) {
                let durable = log.durable_index().0;
                log.purge_to(LogIndex(durable / 2)).expect("purge");
            }
        });
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let ticket = {
                        let mut next = next.lock();
                        *next += 1;
                        log.append(vec![entry(*next - 1, 1000)]).expect("append")
                    };
                    log.wait(ticket).expect("wait");
                    assert!(log.durable_index() >= ticket.last);
                }
            });
        }
    });
    drop(log);
    let log = open(dir.path());
    let first = log.first_index().0;
    assert!(first > 1, "it was purged meanwhile");
    assert_eq!(all(&log), entries(first..401, 1000));
}
