//! One log store per node for all groups: entries, votes and purge marks, durable before they are acknowledged.
//!
//! Two implementations pass one conformance suite: [`FileLog`] (segment files, one writer thread, one sync for everything
//! that waits) and [`MemoryLog`] (for tests; it forgets on command what was not synced).
//!
//! What every implementation promises:
//! - **INV-01** an entry or a vote is durable before its completion reports success;
//! - **INV-02** an appended entry is readable when `append` returns, before it is durable;
//! - **INV-03** completions of one group are called in the order of the calls;
//! - **INV-04** after a write whose outcome is unknown (a failed sync, a failed write other than "no space") the store is
//!   poisoned for ever: it never retries a sync and trusts the result;
//! - **INV-05** (kept by the callers) a group's log is purged only at or below what its state machine says is durable;
//! - **INV-06** damage other than a torn last record is an error that names the file and the offset, and open refuses.

mod disk;
mod file;
mod index;
mod memory;
pub(crate) mod record;
mod recovery;
mod segment;
mod writer;

#[cfg(test)]
mod conformance_tests;
#[cfg(test)]
mod file_tests;

pub use disk::{LogDisk, LogFile, SystemDisk};
pub use file::{FileLog, FileLogOptions, LogWriter};
pub use memory::MemoryLog;

use crate::types::{Entry, LogPosition};
use std::sync::Arc;
use tidemark_base::{GroupId, NodeId};
use tokio::sync::Semaphore;

/// What a replica promised about leaders: its term and whom it voted for or follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The candidate voted for, or the leader.
    pub node: NodeId,
    /// A quorum granted it: the node leads.
    pub committed: bool,
}

/// Why the log store did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A write had an unknown outcome; the store accepts nothing until the process restarts and reads the disk again.
    #[error("log store is poisoned: {0}")]
    Poisoned(String),
    /// Checksums or structure are wrong. Nothing was changed. A person must look; the replica can be rebuilt from its peers.
    #[error("log damaged: {path} at offset {offset}: {detail}")]
    Damaged {
        /// The file.
        path: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// Entries do not follow the last one.
    #[error("{group}: entry {index} does not follow entry {last:?}")]
    Hole {
        /// The group.
        group: GroupId,
        /// The first entry given.
        index: u64,
        /// The last entry present.
        last: Option<u64>,
    },
    /// An entry that should exist is not there.
    #[error("{group}: entry {index} is not in the log")]
    Missing {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
    },
    /// The disk failed in a way that left nothing uncertain.
    #[error("log i/o: {0}")]
    Io(String),
    /// The store was closed.
    #[error("log store is closed")]
    Closed,
}

/// Called once, when the operation is durable or has failed. Short: it runs on the store's writer.
pub type Completion = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// What the store holds of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last durable vote.
    pub vote: Option<Vote>,
    /// The last purged entry.
    pub purged: Option<LogPosition>,
    /// The last entry present; the purged one if none is.
    pub last: Option<LogPosition>,
    /// A position known to be committed; a hint that may be older than the truth.
    pub committed: Option<LogPosition>,
    /// Bytes of payload present.
    pub bytes: u64,
}

/// The log of every group of a node. Calls for one group come from one place at a time; groups are independent.
pub trait LogStore: Send + Sync + 'static {
    /// Groups with anything in the log, ascending.
    fn groups(&self) -> Vec<GroupId>;

    /// What the log holds of a group; the default for an unknown one.
    fn state(&self, group: GroupId) -> LogState;

    /// The position of an entry that is present.
    fn position(&self, group: GroupId, index: u64) -> Option<LogPosition>;

    /// Adds entries after the last one. Readable on return (INV-02), durable at completion (INV-01).
    fn append(&self, group: GroupId, entries: Vec<Entry>, done: Completion) -> Result<(), LogError>;

    /// Replaces the vote; durable, and only then visible in [`LogStore::state`], at completion.
    fn save_vote(&self, group: GroupId, vote: Vote, done: Completion) -> Result<(), LogError>;

    /// Remembers a committed position; made durable at leisure together with other writes.
    fn save_committed(&self, group: GroupId, committed: LogPosition) -> Result<(), LogError>;

    /// Removes the entries from index `from` on.
    fn truncate_from(&self, group: GroupId, from: u64) -> Result<(), LogError>;

    /// Removes the entries up to `upto`, which may lie beyond the last one (after a snapshot).
    fn purge(&self, group: GroupId, upto: LogPosition) -> Result<(), LogError>;

    /// Forgets the group with its vote; the group's id is never used again.
    fn destroy(&self, group: GroupId, done: Completion) -> Result<(), LogError>;

    /// Entries of `from..to` that are present, in order, stopping after `bytes_max` payload bytes but returning at least
    /// one if the first is present. May read the disk.
    fn read(&self, group: GroupId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, LogError>;

    /// True if that read would not touch the disk.
    fn is_cached(&self, group: GroupId, from: u64, to: u64) -> bool;

    /// Where a tail of the log begins that ends with entry `upto` and has at most so many entries and bytes of payload.
    fn tail_start(&self, group: GroupId, upto: u64, entries_max: u64, bytes_max: u64) -> u64;

    /// Calls `done` when every entry that the group's log shows is durable; before it returns if none waits. Never waits for
    /// another group's entries unless it has some of its own to wait for: a full disk must not keep a group from starting.
    fn settle(&self, group: GroupId, done: Completion) -> Result<(), LogError>;

    /// Payload bytes of the entries after `index`.
    fn bytes_after(&self, group: GroupId, index: u64) -> u64;

    /// Permits, one per KiB of entries that wait to be written. Appenders take theirs before they append and give them
    /// back at completion: this bounds the store's queue.
    fn admission(&self) -> &Arc<Semaphore>;

    /// True while writes wait for space on the disk.
    fn stalled_no_space(&self) -> bool;

    /// Why the store takes no more writes, if so.
    fn poisoned(&self) -> Option<String>;
}
