//! What can go wrong, as the caller sees it: each variant is a different thing to do next.

use crate::log::LogError;
use tidemark_base::{GroupId, NodeId};

/// Opening, starting, stopping and changing groups.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConsensusError {
    /// The settings contradict each other.
    #[error("consensus settings: {0}")]
    Settings(String),
    /// The log store failed or refuses.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state machine or the group is stopped because of a fault on this node.
    #[error("group stopped: {0}")]
    Stopped(String),
    /// The node already runs this group.
    #[error("{0} is already running on this node")]
    AlreadyRunning(GroupId),
    /// Ask the leader instead.
    #[error("not the leader{}", leader.map(|l| format!("; {l} is")).unwrap_or_default())]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// The group is not able to do this now, for example because another membership change runs. Try again later.
    #[error("refused: {0}")]
    Refused(String),
    /// It did not happen, or did not become visible, in time.
    #[error("timed out: {0}")]
    Timeout(String),
    /// A directory of snapshots could not be prepared.
    #[error("{0}")]
    Io(String),
}

/// Why a proposal has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was proposed; ask the leader.
    #[error("not the leader{}", leader.map(|l| format!("; {l} is")).unwrap_or_default())]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Nothing was proposed: too much is in flight, or the log's disk is full. Retry after a pause.
    #[error("busy: the bound on proposals in flight is reached or the log has no space")]
    Busy,
    /// It may or may not take effect, now or later: leadership was lost, or the time ran out.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Nothing was proposed; the group does not run on this node any more.
    #[error("group stopped: {0}")]
    Stopped(String),
}

/// Why a linearizable read may not proceed here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader.
    #[error("not the leader{}", leader.map(|l| format!("; {l} is")).unwrap_or_default())]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// No quorum confirmed the leader in time, or too many reads wait. Retry.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The group does not run on this node any more.
    #[error("group stopped: {0}")]
    Stopped(String),
}

/// Why a message from another node got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// This node does not (yet, or any more) run the group.
    #[error("{0} does not run on this node")]
    UnknownGroup(GroupId),
    /// The body is not what its kind promises.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The group could not process it.
    #[error("failed: {0}")]
    Failed(String),
}
