//! What a group replicates: the contract between a group and the state machine that the layer above gives it.

use crate::types::{AppliedState, Entry};
use bytes::Bytes;
use std::path::Path;

/// A storage fault of a state machine. The replica is poisoned: its group stops on this node and its status says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("state machine fault: {0}")]
pub struct StateMachineFault(pub String);

/// Why [`StateMachine::apply`] did not apply every entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The disk is full. The first entries are applied, with these responses; nothing of the others is in the state. They
    /// are given again, a little later, until there is room or the group is stopped.
    #[error("no space left: {why}")]
    NoSpace {
        /// One for each entry that was applied.
        responses: Vec<Bytes>,
        /// What the storage said.
        why: String,
    },
    /// The replica is poisoned.
    #[error(transparent)]
    Fault(#[from] StateMachineFault),
}

/// Why a checkpoint was not made, or not installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The state and its files are as before, and so is the checkpoint to be installed: the same may be tried again.
    #[error("{0}")]
    Kept(String),
    /// The replica is poisoned.
    #[error(transparent)]
    Fault(#[from] StateMachineFault),
}

/// A replicated state machine with state of its own on disk (or in memory, in tests).
///
/// One owner calls it, one call at a time. The log is its write-ahead log: it need not sync on apply, but it must say
/// truthfully what survives without the log ([`StateMachine::durable_index`]).
pub trait StateMachine: Send + 'static {
    /// The state at open is the flushed cut; entries after it are replayed. Later calls return what is applied by then.
    fn applied(&mut self) -> Result<AppliedState, StateMachineFault>;

    /// Applies committed entries in order and returns one response for each (empty for blank and membership entries).
    /// Short and synchronous. Must not fail for bad input, only for storage faults. A full disk is not a fault: what could
    /// not be written waits ([`ApplyError::NoSpace`]).
    fn apply(&mut self, entries: Vec<Entry>) -> Result<Vec<Bytes>, ApplyError>;

    /// Every entry up to this index survives a power loss of this replica without the log; 0 means none. The log is
    /// purged only at or below it. Must be cheap.
    fn durable_index(&self) -> u64;

    /// Asks for a flush so that the durable index advances (called when this group's log is long). May be asynchronous.
    fn request_flush(&mut self);

    /// Writes a self-contained, fsynced copy of the state into `dir`, which does not exist yet and lies on the file system
    /// of the snapshot directory (hard links are allowed). Returns what the copy contains.
    /// When it fails with [`CheckpointError::Kept`], the transfer fails and is tried again; `dir` is removed by the caller.
    fn checkpoint(&mut self, dir: &Path) -> Result<AppliedState, CheckpointError>;

    /// Replaces the state by the content of `dir` (made by `checkpoint` on another replica), which it may move. Crash-safe:
    /// afterwards either the old or the new state opens. The new state is durable when it returns.
    /// With [`CheckpointError::Kept`] the old state is there, `dir` is whole, and the same call comes again a little later.
    fn install(&mut self, dir: &Path) -> Result<AppliedState, CheckpointError>;
}
