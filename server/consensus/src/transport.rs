//! How messages of groups travel between nodes: opaque bodies with a group and a kind, one answer each.
//!
//! The transport knows nodes and connections; this crate knows neither. Messages of one pair of nodes may overtake each
//! other: correctness never depends on their order.

use bytes::Bytes;
use futures::future::BoxFuture;
use std::time::Duration;
use tidemark_base::{GroupId, NodeId};

/// What a message asks for. The codes never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageKind {
    /// Entries, a heartbeat, or a commit index, from a leader.
    Append = 1,
    /// A candidate asks for a vote.
    Vote = 2,
    /// A replica asks whether it would get a vote, without disturbing anyone.
    PreVote = 3,
    /// A leader hands its leadership over.
    TransferLeader = 4,
    /// A leader starts to send its state, file by file.
    SnapshotBegin = 5,
    /// A piece of one file.
    SnapshotChunk = 6,
    /// All pieces were sent: verify and install.
    SnapshotEnd = 7,
    /// A leader asks a follower to rest; see `rest`.
    Rest = 8,
    /// A follower that was at rest tells its leader that it is awake.
    Wake = 9,
    /// A node with leaders at rest lives. It belongs to no group.
    Beat = 10,
}

impl MessageKind {
    /// All kinds, for tests and registries.
    pub const ALL: [MessageKind; 10] = [
        MessageKind::Append,
        MessageKind::Vote,
        MessageKind::PreVote,
        MessageKind::TransferLeader,
        MessageKind::SnapshotBegin,
        MessageKind::SnapshotChunk,
        MessageKind::SnapshotEnd,
        MessageKind::Rest,
        MessageKind::Wake,
        MessageKind::Beat,
    ];

    /// The code on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind of a code; none for codes that this release does not know.
    pub fn from_code(code: u8) -> Option<MessageKind> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// One request between two replicas of a group.
#[derive(Clone, Debug)]
pub struct RaftMessage {
    /// The group that both belong to.
    pub group: GroupId,
    /// What the body is.
    pub kind: MessageKind,
    /// Encoded by this crate. At most about `append_bytes_max` (1 MiB) plus one entry, or one snapshot chunk.
    pub body: Bytes,
}

/// Why a message has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection: the sender backs off before it tries again.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer in time; whether it was processed is unknown.
    #[error("timed out")]
    Timeout,
    /// The other node answered that it will not: unknown group, malformed, or failed.
    #[error("refused: {0}")]
    Refused(String),
}

/// Sends one message to a node and returns its answer. Must give up by itself when `timeout` has passed.
pub trait Transport: Send + Sync + 'static {
    /// Sends; the returned future owns everything that it needs and may be dropped at any time.
    fn send(
        &self,
        target: NodeId,
        message: RaftMessage,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_what_they_always_were() {
        let codes: Vec<u8> = MessageKind::ALL.into_iter().map(MessageKind::code).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(MessageKind::from_code(3), Some(MessageKind::PreVote));
        assert_eq!(MessageKind::from_code(0), None);
        assert_eq!(MessageKind::from_code(11), None);
    }
}
