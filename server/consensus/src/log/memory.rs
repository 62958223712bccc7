//! A log store in memory, for tests of everything above it. It is explicit about what a disk leaves implicit: operations
//! wait in an unsynced buffer until [`MemoryLog::sync`] (or at once, by default), and [`MemoryLog::crash`] forgets them.

use super::index::GroupIndex;
use super::{Completion, LogError, LogState, LogStore, Vote};
use crate::types::{Entry, LogPosition};
use crate::wire;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_base::GroupId;
use tokio::sync::Semaphore;

/// Bound on entries waiting for a sync, in KiB.
const QUEUE_KIB: usize = 256 << 10;

#[derive(Clone)]
enum Operation {
    Append(GroupId, Vec<Entry>),
    Vote(GroupId, Vote),
    Committed(GroupId, LogPosition),
    Truncate(GroupId, u64),
    Purge(GroupId, LogPosition),
    Destroy(GroupId),
}

#[derive(Default)]
struct Inner {
    /// What readers see.
    visible: BTreeMap<GroupId, GroupIndex>,
    /// Everything that was synced since the beginning, in order: replaying it gives what survives a crash.
    durable: Vec<Operation>,
    unsynced: Vec<(Operation, Option<Completion>)>,
    manual_sync: bool,
}

/// See the module.
pub struct MemoryLog {
    inner: Mutex<Inner>,
    admission: Arc<Semaphore>,
}

impl MemoryLog {
    /// A store that syncs every operation at once.
    pub fn new() -> Arc<MemoryLog> {
        Arc::new(MemoryLog {
            inner: Mutex::new(Inner::default()),
            admission: Arc::new(Semaphore::new(QUEUE_KIB)),
        })
    }

    /// With `true`, operations wait for [`MemoryLog::sync`].
    pub fn set_manual_sync(&self, manual: bool) {
        self.inner.lock().manual_sync = manual;
        if !manual {
            self.sync();
        }
    }

    /// Makes everything that waits durable and completes it, in order.
    pub fn sync(&self) {
        let completions: Vec<Completion> = {
            let mut inner = self.inner.lock();
            let waiting = std::mem::take(&mut inner.unsynced);
            let mut completions = Vec::new();
            for (operation, done) in waiting {
                if let Operation::Vote(group, vote) = &operation {
                    inner.visible.entry(*group).or_default().vote = Some(*vote);
                }
                inner.durable.push(operation);
                completions.extend(done);
            }
            completions
        };
        for done in completions {
            done(Ok(()));
        }
    }

    /// Operations that wait for a sync.
    pub fn unsynced(&self) -> usize {
        self.inner.lock().unsynced.len()
    }

    /// A power loss: what was not synced is gone, and its completions are never called with success.
    pub fn crash(&self) {
        let lost = {
            let mut inner = self.inner.lock();
            let lost = std::mem::take(&mut inner.unsynced);
            inner.visible = BTreeMap::new();
            for operation in inner.durable.clone() {
                apply(&mut inner.visible, &operation);
                if let Operation::Vote(group, vote) = operation {
                    inner.visible.entry(group).or_default().vote = Some(vote);
                }
            }
            lost
        };
        for (_, done) in lost {
            if let Some(done) = done {
                done(Err(LogError::Closed));
            }
        }
    }

    fn submit(&self, operation: Operation, done: Option<Completion>) -> Result<(), LogError> {
        let manual = {
            let mut inner = self.inner.lock();
            if let Operation::Append(group, entries) = &operation
                && let Some(first) = entries.first()
            {
                inner
                    .visible
                    .entry(*group)
                    .or_default()
                    .check_follows(*group, first.position.index)?;
            }
            apply(&mut inner.visible, &operation);
            inner.unsynced.push((operation, done));
            inner.manual_sync
        };
        if !manual {
            self.sync();
        }
        Ok(())
    }

    fn with<T>(&self, group: GroupId, f: impl FnOnce(&GroupIndex) -> T) -> Option<T> {
        self.inner.lock().visible.get(&group).map(f)
    }
}

fn apply(groups: &mut BTreeMap<GroupId, GroupIndex>, operation: &Operation) {
    match operation {
        Operation::Append(group, entries) => {
            let index = groups.entry(*group).or_default();
            for entry in entries {
                index.push(entry, 0);
            }
        }
        // A vote becomes visible when it is durable.
        Operation::Vote(..) => {}
        Operation::Committed(group, position) => groups.entry(*group).or_default().committed = Some(*position),
        Operation::Truncate(group, from) => drop(groups.entry(*group).or_default().truncate_from(*from)),
        Operation::Purge(group, upto) => drop(groups.entry(*group).or_default().purge(*upto)),
        Operation::Destroy(group) => drop(groups.remove(group)),
    }
}

impl LogStore for MemoryLog {
    fn groups(&self) -> Vec<GroupId> {
        self.inner.lock().visible.keys().copied().collect()
    }

    fn state(&self, group: GroupId) -> LogState {
        self.with(group, GroupIndex::state).unwrap_or_default()
    }

    fn position(&self, group: GroupId, index: u64) -> Option<LogPosition> {
        self.with(group, |log| log.position(index)).flatten()
    }

    fn append(&self, group: GroupId, entries: Vec<Entry>, done: Completion) -> Result<(), LogError> {
        self.submit(Operation::Append(group, entries), Some(done))
    }

    fn save_vote(&self, group: GroupId, vote: Vote, done: Completion) -> Result<(), LogError> {
        self.submit(Operation::Vote(group, vote), Some(done))
    }

    fn save_committed(&self, group: GroupId, committed: LogPosition) -> Result<(), LogError> {
        self.submit(Operation::Committed(group, committed), None)
    }

    fn truncate_from(&self, group: GroupId, from: u64) -> Result<(), LogError> {
        self.submit(Operation::Truncate(group, from), None)
    }

    fn purge(&self, group: GroupId, upto: LogPosition) -> Result<(), LogError> {
        self.submit(Operation::Purge(group, upto), None)
    }

    fn destroy(&self, group: GroupId, done: Completion) -> Result<(), LogError> {
        self.submit(Operation::Destroy(group), Some(done))
    }

    fn read(&self, group: GroupId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        self.with(group, |log| {
            let mut entries = Vec::new();
            let mut bytes = 0;
            let last = log.last().map_or(0, |last| last.index + 1);
            for index in from..to.min(last) {
                let Some(slot) = log.slot(index) else { continue };
                let payload = slot.cached.clone().expect("the memory store keeps every payload");
                bytes += payload.len();
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(Entry {
                    position: LogPosition {
                        term: slot.term,
                        leader: slot.leader,
                        index,
                    },
                    payload: wire::payload_from(slot.kind, payload).expect("it came from a payload"),
                });
            }
            entries
        })
        .map_or(Ok(Vec::new()), Ok)
    }

    fn is_cached(&self, _group: GroupId, _from: u64, _to: u64) -> bool {
        true
    }

    fn tail_start(&self, group: GroupId, upto: u64, entries_max: u64, bytes_max: u64) -> u64 {
        self.with(group, |log| log.tail_start(upto, entries_max, bytes_max))
            .unwrap_or(0)
    }

    fn settle(&self, group: GroupId, done: Completion) -> Result<(), LogError> {
        let waits = |(operation, _): &(Operation, Option<Completion>)| matches!(operation, Operation::Append(id, _) if *id == group);
        if !self.inner.lock().unsynced.iter().any(waits) {
            done(Ok(()));
            return Ok(());
        }
        self.append(group, Vec::new(), done)
    }

    fn bytes_after(&self, group: GroupId, index: u64) -> u64 {
        self.with(group, |log| log.bytes_after(index)).unwrap_or(0)
    }

    fn admission(&self) -> &Arc<Semaphore> {
        &self.admission
    }

    fn stalled_no_space(&self) -> bool {
        false
    }

    fn poisoned(&self) -> Option<String> {
        None
    }
}
