//! Errors of the layers below, as the coarse error says them: what should the caller do?

use crate::descriptor::TabletDescriptor;
use std::time::Duration;
use tidemark_base::{Error, ErrorKind};
use tidemark_consensus::{ConsensusError, ProposeError, ReadError};
use tidemark_engine::EngineError;

/// An engine's error, naming the tablet.
pub(crate) fn engine(descriptor: &TabletDescriptor, error: EngineError) -> Error {
    engine_error(error).object(descriptor.to_string())
}

/// What a caller of [`crate::Tablet::engine`] should say of an engine's error.
pub fn engine_error(error: EngineError) -> Error {
    match error {
        EngineError::Invalid(text) => Error::invalid("REQUEST_INVALID", text),
        EngineError::Corruption(text) => Error::corruption("TABLET_CORRUPT", text)
            .action("take this node's replica out and let it be restored from the others"),
        EngineError::NoSpace(text) => disk_full(text),
        EngineError::Poisoned(text) => {
            Error::unavailable("TABLET_POISONED", text, Duration::from_secs(1)).action("see the node's log")
        }
        EngineError::Io(text) => Error::unavailable("TABLET_IO", text, Duration::from_secs(1)),
        EngineError::NotInMemory(text) => {
            Error::internal(format!("a read that may go to the disk was told not to: {text}"))
        }
    }
}

fn disk_full(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::StorageFull, "DISK_FULL", text)
        .action("make room on the disk; writes resume by themselves")
        .retry_after(Duration::from_secs(1))
}

/// Apply waits for room, so nothing more is taken into the log. Nothing was done.
pub(crate) fn apply_waits(descriptor: &TabletDescriptor) -> Error {
    disk_full("the tablet's store has no room on its disk; nothing was written").object(descriptor.to_string())
}

/// This node does not lead the tablet. Nothing was done.
pub(crate) fn not_leader(descriptor: &TabletDescriptor, leader: Option<tidemark_base::NodeId>) -> Error {
    let text = match leader {
        Some(leader) => format!("this node does not lead the tablet; {leader} does"),
        None => "this node does not lead the tablet, and no leader is known".to_owned(),
    };
    Error::new(ErrorKind::NotLeader, "NOT_LEADER", text)
        .object(descriptor.to_string())
        .retry_after(Duration::from_millis(50))
}

/// A proposal's error. `no_space` says that the log waits for room on its disk.
pub(crate) fn propose(descriptor: &TabletDescriptor, error: ProposeError, no_space: bool) -> Error {
    let error = match error {
        ProposeError::NotLeader { leader } => return not_leader(descriptor, leader),
        ProposeError::Busy if no_space => disk_full("the log has no room on its disk; nothing was written"),
        ProposeError::Busy => Error::new(ErrorKind::Busy, "TABLET_BUSY", "too many writes are in flight")
            .retry_after(Duration::from_millis(50)),
        ProposeError::Unknown(text) => unknown_outcome(text),
        ProposeError::Stopped(text) => stopped(text),
    };
    error.object(descriptor.to_string())
}

/// A read barrier's error.
pub(crate) fn read(descriptor: &TabletDescriptor, error: ReadError) -> Error {
    match error {
        ReadError::NotLeader { leader } => not_leader(descriptor, leader),
        ReadError::Unavailable(text) => Error::unavailable("NO_QUORUM", text, Duration::from_millis(100)),
        ReadError::Stopped(text) => stopped(text),
    }
    .object(descriptor.to_string())
}

/// An error of starting a group.
pub(crate) fn consensus(descriptor: &TabletDescriptor, error: ConsensusError) -> Error {
    Error::unavailable("TABLET_NOT_STARTED", error.to_string(), Duration::from_secs(1)).object(descriptor.to_string())
}

/// The tablet does not run here (any more). Nothing was done.
pub(crate) fn stopped(text: impl Into<String>) -> Error {
    Error::unavailable("TABLET_STOPPED", text, Duration::from_millis(200))
}

/// The write may or may not take effect.
pub(crate) fn unknown_outcome(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::UnknownOutcome, "OUTCOME_UNKNOWN", text)
        .action("a put with its own version may be repeated; an increment only with its token")
}

/// The queue is full. Nothing was done.
pub(crate) fn queue_full(descriptor: &TabletDescriptor) -> Error {
    Error::new(ErrorKind::Busy, "TABLET_BUSY", "the tablet's queue of writes is full")
        .object(descriptor.to_string())
        .retry_after(Duration::from_millis(50))
}
