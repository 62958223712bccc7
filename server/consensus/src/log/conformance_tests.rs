//! What every log store must do, run against both. A subject can be reopened as after a crash.

use super::{Completion, FileLog, FileLogOptions, LogError, LogState, LogStore, MemoryLog, Vote};
use crate::types::{Entry, LogPosition, Payload};
use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use tidemark_base::{GroupId, NodeId};

const G: GroupId = GroupId(5);
const PATIENCE: Duration = Duration::from_secs(20);

enum Subject {
    Memory(Arc<MemoryLog>),
    File {
        dir: TempDir,
        options: FileLogOptions,
        log: Option<Arc<FileLog>>,
    },
}

impl Subject {
    fn store(&self) -> Arc<dyn LogStore> {
        match self {
            Subject::Memory(log) => log.clone(),
            Subject::File { log, .. } => log.clone().unwrap(),
        }
    }

    fn reopen(&mut self) {
        match self {
            Subject::Memory(log) => log.crash(),
            Subject::File { dir, options, log } => {
                log.take().unwrap().close();
                *log = Some(FileLog::open(dir.path(), options.clone()).unwrap());
            }
        }
    }
}

fn file_subject(options: FileLogOptions) -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let log = Some(FileLog::open(dir.path(), options.clone()).unwrap());
    Subject::File { dir, options, log }
}

/// Small segments, no cache and early rewriting: everything that takes long in life happens often.
fn cramped() -> FileLogOptions {
    FileLogOptions {
        segment_bytes: 300,
        cache_bytes: 0,
        rewrite_above_bytes: 600,
        ..FileLogOptions::default()
    }
}

fn subjects() -> Vec<Subject> {
    vec![
        Subject::Memory(MemoryLog::new()),
        file_subject(FileLogOptions::default()),
        file_subject(cramped()),
    ]
}

pub(super) fn at(term: u64, index: u64) -> LogPosition {
    LogPosition {
        term,
        leader: NodeId(1),
        index,
    }
}

pub(super) fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
    let entry = |index| Entry {
        position: at(term, index),
        payload: Payload::Command(Bytes::from(format!("{term}:{index}"))),
    };
    indexes.map(entry).collect()
}

/// A completion and the place where its result arrives.
pub(super) fn waiter() -> (Completion, mpsc::Receiver<Result<(), LogError>>) {
    let (sender, receiver) = mpsc::sync_channel(1);
    let done: Completion = Box::new(move |result| {
        let _ = sender.send(result);
    });
    (done, receiver)
}

pub(super) fn append(store: &dyn LogStore, group: GroupId, entries: Vec<Entry>) {
    let (done, result) = waiter();
    store.append(group, entries, done).unwrap();
    result.recv_timeout(PATIENCE).unwrap().unwrap();
}

pub(super) fn save_vote(store: &dyn LogStore, group: GroupId, vote: Vote) {
    let (done, result) = waiter();
    store.save_vote(group, vote, done).unwrap();
    result.recv_timeout(PATIENCE).unwrap().unwrap();
}

fn all(store: &dyn LogStore, group: GroupId) -> Vec<Entry> {
    store.read(group, 0, u64::MAX, usize::MAX).unwrap()
}

const VOTE: Vote = Vote {
    term: 3,
    node: NodeId(2),
    committed: true,
};

#[test]
fn entries_are_read_back_before_and_after_a_restart() {
    for mut subject in subjects() {
        let store = subject.store();
        let (done, result) = waiter();
        store.append(G, entries(1, 0..5), done).unwrap();
        // INV-02: readable at once.
        assert_eq!(all(&*store, G), entries(1, 0..5));
        result.recv_timeout(PATIENCE).unwrap().unwrap();
        append(&*store, G, entries(2, 5..7));
        assert_eq!(store.position(G, 6), Some(at(2, 6)));
        assert_eq!(store.read(G, 2, 4, usize::MAX).unwrap(), entries(1, 2..4));
        drop(store);
        subject.reopen();
        let store = subject.store();
        let expected: Vec<Entry> = entries(1, 0..5).into_iter().chain(entries(2, 5..7)).collect();
        assert_eq!(all(&*store, G), expected);
        assert_eq!(store.state(G).last, Some(at(2, 6)));
        append(&*store, G, entries(2, 7..8));
        assert_eq!(all(&*store, G).len(), 8);
    }
}

#[test]
fn a_read_stops_at_its_byte_bound_but_not_before_one_entry() {
    for subject in subjects() {
        let store = subject.store();
        append(&*store, G, entries(1, 0..10));
        assert_eq!(store.read(G, 0, 10, 1).unwrap().len(), 1);
        assert_eq!(store.read(G, 0, 10, 7).unwrap().len(), 2);
        assert_eq!(store.read(G, 20, 30, 7).unwrap().len(), 0);
    }
}

#[test]
fn a_hole_is_refused_and_changes_nothing() {
    for subject in subjects() {
        let store = subject.store();
        append(&*store, G, entries(1, 0..3));
        let (done, _) = waiter();
        assert!(matches!(
            store.append(G, entries(1, 4..5), done),
            Err(LogError::Hole {
                index: 4,
                last: Some(2),
                ..
            })
        ));
        assert_eq!(store.state(G).last, Some(at(1, 2)));
    }
}

#[test]
fn votes_survive_and_the_last_one_counts() {
    for mut subject in subjects() {
        let store = subject.store();
        save_vote(
            &*store,
            G,
            Vote {
                term: 2,
                node: NodeId(9),
                committed: false,
            },
        );
        save_vote(&*store, G, VOTE);
        assert_eq!(store.state(G).vote, Some(VOTE));
        drop(store);
        subject.reopen();
        assert_eq!(subject.store().state(G).vote, Some(VOTE));
    }
}

#[test]
fn truncated_entries_do_not_come_back() {
    for mut subject in subjects() {
        let store = subject.store();
        append(&*store, G, entries(1, 0..10));
        store.truncate_from(G, 4).unwrap();
        assert_eq!(store.state(G).last, Some(at(1, 3)));
        append(&*store, G, entries(2, 4..6));
        drop(store);
        subject.reopen();
        let expected: Vec<Entry> = entries(1, 0..4).into_iter().chain(entries(2, 4..6)).collect();
        assert_eq!(all(&*subject.store(), G), expected);
    }
}

#[test]
fn a_purge_may_reach_beyond_the_last_entry() {
    for mut subject in subjects() {
        let store = subject.store();
        append(&*store, G, entries(1, 0..10));
        store.purge(G, at(1, 3)).unwrap();
        assert_eq!(all(&*store, G), entries(1, 4..10));
        assert_eq!(store.state(G).purged, Some(at(1, 3)));
        store.purge(G, at(4, 100)).unwrap();
        assert_eq!(store.state(G).last, Some(at(4, 100)));
        append(&*store, G, entries(4, 101..103));
        drop(store);
        subject.reopen();
        let store = subject.store();
        assert_eq!(all(&*store, G), entries(4, 101..103));
        assert_eq!(store.state(G).purged, Some(at(4, 100)));
    }
}

#[test]
fn a_destroyed_group_is_forgotten_and_others_are_not() {
    for mut subject in subjects() {
        let store = subject.store();
        for group in [G, GroupId(6)] {
            append(&*store, group, entries(1, 0..3));
            save_vote(&*store, group, VOTE);
        }
        let (done, result) = waiter();
        store.destroy(G, done).unwrap();
        result.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(store.groups(), [GroupId(6)]);
        drop(store);
        subject.reopen();
        let store = subject.store();
        assert_eq!(store.groups(), [GroupId(6)]);
        assert_eq!(store.state(G), LogState::default());
        assert_eq!(all(&*store, GroupId(6)), entries(1, 0..3));
    }
}

/// Checks INV-03.
#[test]
fn completions_come_in_order() {
    for subject in subjects() {
        let store = subject.store();
        let order = Arc::new(Mutex::new(Vec::new()));
        let (last, result) = waiter();
        let mut last = Some(last);
        for i in 0..200u64 {
            let order = order.clone();
            let last = if i == 199 { last.take() } else { None };
            let done: Completion = Box::new(move |result| {
                order.lock().push(i);
                if let Some(last) = last {
                    last(result);
                }
            });
            store.append(G, entries(1, i..i + 1), done).unwrap();
        }
        result.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(*order.lock(), (0..200).collect::<Vec<u64>>());
    }
}

/// Checks INV-01: settled means durable, and what waits for nothing is settled at once.
#[test]
fn settled_is_behind_everything_appended() {
    for mut subject in subjects() {
        let store = subject.store();
        let settle = || {
            let (done, result) = waiter();
            store.settle(G, done).unwrap();
            result
        };
        settle().try_recv().unwrap().unwrap();
        for i in 0..20 {
            let (done, result) = waiter();
            store.append(G, entries(1, i..i + 1), done).unwrap();
            settle().recv_timeout(PATIENCE).unwrap().unwrap();
            result.try_recv().unwrap().unwrap();
        }
        settle().try_recv().unwrap().unwrap();
        drop(store);
        subject.reopen();
        assert_eq!(all(&*subject.store(), G), entries(1, 0..20));
    }
}

#[test]
fn a_committed_position_is_a_hint_that_never_points_beyond_the_log() {
    for mut subject in subjects() {
        let store = subject.store();
        append(&*store, G, entries(1, 0..5));
        store.save_committed(G, at(1, 3)).unwrap();
        append(&*store, G, entries(1, 5..6));
        store.save_committed(G, at(1, 5)).unwrap();
        assert_eq!(store.state(G).committed, Some(at(1, 5)));
        drop(store);
        subject.reopen();
        let committed = subject.store().state(G).committed.unwrap();
        assert!(committed == at(1, 3) || committed == at(1, 5));
    }
}

/// Checks INV-01 on the twin: durable means that it survives a crash.
#[test]
fn the_memory_log_forgets_what_was_not_synced() {
    let log = MemoryLog::new();
    append(&*log, G, entries(1, 0..2));
    log.set_manual_sync(true);
    let (done, result) = waiter();
    log.append(G, entries(1, 2..4), done).unwrap();
    let (vote_done, vote_result) = waiter();
    log.save_vote(G, VOTE, vote_done).unwrap();
    assert_eq!(all(&*log, G).len(), 4);
    assert_eq!(log.state(G).vote, None);
    log.crash();
    assert!(result.recv().unwrap().is_err() && vote_result.recv().unwrap().is_err());
    assert_eq!(all(&*log, G), entries(1, 0..2));
    assert_eq!(log.state(G).vote, None);
}

// ------------------------------------------------------------------------------------------- against a model

#[derive(Clone, Debug)]
enum Step {
    Append { group: u64, count: u64, bytes: usize },
    Truncate { group: u64, back: u64 },
    Purge { group: u64, share: u64 },
    Vote { group: u64, term: u64 },
    Destroy { group: u64 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..5u64, 1..6u64, 0..120usize).prop_map(|(group, count, bytes)| Step::Append { group, count, bytes }),
        2 => (1..5u64, 1..4u64).prop_map(|(group, back)| Step::Truncate { group, back }),
        4 => (1..5u64, 0..100u64).prop_map(|(group, share)| Step::Purge { group, share }),
        2 => (1..5u64, 1..9u64).prop_map(|(group, term)| Step::Vote { group, term }),
        1 => (4..5u64).prop_map(|group| Step::Destroy { group }),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Default, Clone)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogPosition>,
    entries: BTreeMap<u64, Entry>,
    term: u64,
}

impl Model {
    fn next(&self) -> u64 {
        self.entries
            .keys()
            .last()
            .map_or(self.purged.map_or(0, |p| p.index + 1), |last| last + 1)
    }
}

fn run(step: &Step, subject: &mut Subject, models: &mut BTreeMap<u64, Model>) {
    let store = subject.store();
    match *step {
        Step::Append { group, count, bytes } => {
            let model = models.entry(group).or_default();
            let new: Vec<Entry> = (model.next()..model.next() + count)
                .map(|index| Entry {
                    position: at(model.term, index),
                    payload: Payload::Command(Bytes::from(vec![index as u8; bytes])),
                })
                .collect();
            model
                .entries
                .extend(new.iter().map(|entry| (entry.position.index, entry.clone())));
            append(&*store, GroupId(group), new);
        }
        Step::Truncate { group, back } => {
            let model = models.entry(group).or_default();
            let first = model.purged.map_or(0, |p| p.index + 1);
            let from = model.next().saturating_sub(back).max(first);
            drop(model.entries.split_off(&from));
            model.term += 1;
            store.truncate_from(GroupId(group), from).unwrap();
        }
        Step::Purge { group, share } => {
            let model = models.entry(group).or_default();
            let Some(upto) = model
                .entries
                .keys()
                .nth(model.entries.len() * share as usize / 100)
                .copied()
            else {
                return;
            };
            let position = model.entries[&upto].position;
            model.entries = model.entries.split_off(&(upto + 1));
            model.purged = Some(position);
            store.purge(GroupId(group), position).unwrap();
        }
        Step::Vote { group, term } => {
            let vote = Vote {
                term,
                node: NodeId(group),
                committed: term % 2 == 0,
            };
            models.entry(group).or_default().vote = Some(vote);
            save_vote(&*store, GroupId(group), vote);
        }
        Step::Destroy { group } => {
            models.insert(group, Model::default());
            let (done, result) = waiter();
            store.destroy(GroupId(group), done).unwrap();
            result.recv_timeout(PATIENCE).unwrap().unwrap();
        }
        Step::Reopen => {
            drop(store);
            subject.reopen();
        }
    }
}

fn check(subject: &Subject, models: &BTreeMap<u64, Model>) {
    let store = subject.store();
    for (group, model) in models {
        let state = store.state(GroupId(*group));
        assert_eq!((state.vote, state.purged), (model.vote, model.purged));
        let expected: Vec<Entry> = model.entries.values().cloned().collect();
        assert_eq!(all(&*store, GroupId(*group)), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn stores_agree_with_a_model(steps in proptest::collection::vec(step(), 1..80)) {
        for mut subject in [Subject::Memory(MemoryLog::new()), file_subject(cramped())] {
            let mut models = BTreeMap::new();
            for step in &steps {
                run(step, &mut subject, &mut models);
            }
            check(&subject, &models);
            subject.reopen();
            check(&subject, &models);
        }
    }
}
