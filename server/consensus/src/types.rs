//! The words of this crate: positions, entries, what a state machine holds, roles and status.
//!
//! Nothing here names openraft. Positions and applied states have a small binary form, because state machines store them
//! verbatim next to their own data:
//!
//! ```text
//! position      := term u64 | leader u64 | index u64                          24 bytes, little endian
//! applied state := version u8 = 1 | flags u8 | [position] | [position | len u32 | membership bytes]
//!                  flags bit 0: something was applied; bit 1: a membership is known
//! ```

use crate::codec::{self, Malformed, Reader};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use tidemark_base::{GroupId, NodeId};

/// Where an entry stands in its group's log.
///
/// The derived order (term, leader, index) is the one by which Raft compares logs: the leader is part of it because two
/// nodes may both have led in one term number when elections collide, and only one of their entries can be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Term in which the entry was proposed.
    pub term: u64,
    /// Node that proposed it.
    pub leader: NodeId,
    /// Place in the log, from 0 (the group's first membership) without holes.
    pub index: u64,
}

impl LogPosition {
    /// Bytes of the encoded form.
    pub const ENCODED_LEN: usize = 24;

    /// The 24-byte form drawn at the top of this module.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::ENCODED_LEN);
        codec::put_position(&mut out, self);
        out
    }

    /// Reads exactly one encoded position.
    pub fn decode(bytes: &[u8]) -> Result<LogPosition, Malformed> {
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
        let position = reader.position("log position")?;
        reader.finish("log position")?;
        Ok(position)
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.term, self.leader, self.index)
    }
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Proposed by a new leader to commit what earlier terms left behind.
    Blank,
    /// Opaque bytes of the layer above.
    Command(Bytes),
    /// Who belongs to the group, encoded by this crate; the state machine stores the last one verbatim.
    Membership(Bytes),
}

impl Payload {
    /// Bytes that the payload occupies, without headers.
    pub fn len(&self) -> usize {
        match self {
            Payload::Blank => 0,
            Payload::Command(bytes) | Payload::Membership(bytes) => bytes.len(),
        }
    }

    /// True for a blank entry or an empty command.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub position: LogPosition,
    /// Its content.
    pub payload: Payload,
}

/// What a state machine says that it holds: the last applied entry and the last membership with its position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedState {
    /// The last entry whose effect is part of the state; none in a fresh replica.
    pub position: Option<LogPosition>,
    /// The last membership applied, verbatim, with the position of its entry.
    pub membership: Option<(LogPosition, Bytes)>,
}

const APPLIED_STATE_VERSION: u8 = 1;

impl AppliedState {
    /// The form drawn at the top of this module.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![APPLIED_STATE_VERSION];
        out.push(u8::from(self.position.is_some()) | u8::from(self.membership.is_some()) << 1);
        if let Some(position) = &self.position {
            codec::put_position(&mut out, position);
        }
        if let Some((position, bytes)) = &self.membership {
            codec::put_position(&mut out, position);
            codec::put_bytes(&mut out, bytes);
        }
        out
    }

    /// Reads exactly one encoded applied state.
    pub fn decode(bytes: &[u8]) -> Result<AppliedState, Malformed> {
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
        let state = Self::read(&mut reader)?;
        reader.finish("applied state")?;
        Ok(state)
    }

    pub(crate) fn read(reader: &mut Reader) -> Result<AppliedState, Malformed> {
        if reader.u8("applied state version")? != APPLIED_STATE_VERSION {
            return Err(Malformed("applied state version"));
        }
        let flags = reader.u8("applied state flags")?;
        if flags > 3 {
            return Err(Malformed("applied state flags"));
        }
        let position = if flags & 1 != 0 {
            Some(reader.position("applied position")?)
        } else {
            None
        };
        let membership = if flags & 2 != 0 {
            Some((reader.position("membership position")?, reader.bytes("membership")?))
        } else {
            None
        };
        Ok(AppliedState { position, membership })
    }
}

/// A proposal that was committed and applied on the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Where it was committed.
    pub position: LogPosition,
    /// What the state machine answered.
    pub response: Bytes,
}

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Proposes and replicates.
    Leader,
    /// Votes and follows.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Follows without a vote; also a replica that belongs to no membership yet.
    Learner,
}

/// A replica's state in one view, for routing, placement, health and inspection. Indexes are `None` while there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// This node.
    pub node: NodeId,
    /// What this replica is.
    pub role: Role,
    /// The leader as far as this replica knows.
    pub leader: Option<NodeId>,
    /// This node leads AND has applied every entry of earlier terms (its own term's blank entry is applied). Only then may
    /// a leader stamp writes: before that it has not seen everything that it must stamp above.
    pub leader_ready: bool,
    /// The current term.
    pub term: u64,
    /// Last entry in the log, flushed or not.
    pub last_index: Option<u64>,
    /// Last entry known to be committed.
    pub committed_index: Option<u64>,
    /// Last entry applied by the state machine.
    pub applied_index: Option<u64>,
    /// Last entry that survives without the log.
    pub durable_index: Option<u64>,
    /// Up to where the log could be replaced by a snapshot.
    pub snapshot_index: Option<u64>,
    /// Last entry removed from the log.
    pub purged_index: Option<u64>,
    /// Members with a vote, ascending; during a change the union of the old and the new.
    pub voters: Vec<NodeId>,
    /// Members without a vote, ascending.
    pub learners: Vec<NodeId>,
    /// Why this replica stopped without being asked to, if it did. A person must look. It leads nothing then, and its role
    /// is [`Role::Learner`]; the group can be stopped and started again in the same process.
    pub fault: Option<String>,
    /// On the leader: up to where each other member's log is known to match. Empty elsewhere.
    pub matched: BTreeMap<NodeId, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, leader: u64, index: u64) -> LogPosition {
        LogPosition {
            term,
            leader: NodeId(leader),
            index,
        }
    }

    #[test]
    fn the_applied_state_has_the_documented_bytes() {
        let state = AppliedState {
            position: Some(at(2, 3, 9)),
            membership: Some((at(1, 3, 0), Bytes::from_static(b"m"))),
        };
        let mut expected = vec![1, 3];
        for value in [2u64, 3, 9, 1, 3, 0] {
            expected.extend_from_slice(&value.to_le_bytes());
        }
        expected.extend_from_slice(&[1, 0, 0, 0, b'm']);
        assert_eq!(state.encode(), expected);
        assert_eq!(AppliedState::decode(&expected).unwrap(), state);
        assert_eq!(LogPosition::decode(&at(2, 3, 9).encode()).unwrap(), at(2, 3, 9));
    }

    #[test]
    fn positions_order_by_term_then_leader_then_index() {
        assert!(at(1, 9, 9) < at(2, 1, 1));
        assert!(at(2, 1, 9) < at(2, 2, 1));
        assert!(at(2, 2, 1) < at(2, 2, 2));
    }

    proptest::proptest! {
        #[test]
        fn decoders_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = AppliedState::decode(&bytes);
            let _ = LogPosition::decode(&bytes);
        }
    }
}
