//! openraft's types as this crate uses them, and the translation from and to our own words.
//!
//! Node ids are plain `u64` inside, nodes have no metadata (addresses belong to the layer above), commands and responses
//! are opaque bytes. The leader id contains the node, so that two leaders in one term number cannot be confused.
//!
//! A membership is stored and sent as:
//!
//! ```text
//! membership := version u8 = 1 | configs u8 | (voters u32 | node u64 ...) per config | members u32 | node u64 ...
//! ```
//!
//! with ids ascending; two configs while a change is under way; members are the voters and the learners.

use crate::codec::{self, Malformed, Reader};
use crate::error::ConsensusError;
use crate::log::Vote;
use crate::types::{Entry, LogPosition, Payload};
use bytes::Bytes;
use openraft::impls::{BoxedErrorSource, InlineBatch, leader_id_adv};
use openraft::vote::RaftLeaderId;
use openraft::{EmptyNode, EntryPayload, OptionalSend, RaftTypeConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tidemark_base::NodeId;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// The type configuration of every group.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct Types;

pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type RaftVote = openraft::Vote<LeaderId>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Membership = openraft::Membership<u64, EmptyNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, EmptyNode>;
pub(crate) type RaftPayload = EntryPayload<OpaqueBytes, u64, EmptyNode>;
pub(crate) type RaftEntry = openraft::Entry<LeaderId, RaftPayload>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, EmptyNode>;

impl RaftTypeConfig for Types {
    type D = OpaqueBytes;
    type R = OpaqueBytes;
    type NodeId = u64;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = RaftVote;
    type Payload = RaftPayload;
    type Entry = RaftEntry;
    #[allow(deprecated)]
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// A command or a response: bytes that only the layer above understands.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct OpaqueBytes(pub(crate) Bytes);

impl fmt::Debug for OpaqueBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for OpaqueBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Carries a proposal's answer back, and its admission: the permits are given back only when openraft has let go of the
/// proposal, not when the caller has lost patience. So a leader without a quorum cannot collect proposals without a bound.
pub(crate) struct Reply<T> {
    sender: oneshot::Sender<T>,
    _admission: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl<T> Reply<T> {
    pub(crate) fn new(
        admission: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    ) -> (Reply<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (
            Reply {
                sender,
                _admission: admission,
            },
            receiver,
        )
    }
}

impl<T: OptionalSend + 'static> openraft::raft::responder::Responder<Types, T> for Reply<T> {
    fn on_complete(self, result: T) {
        // The caller may have stopped waiting; then nobody needs the answer.
        let _ = self.sender.send(result);
    }
}

pub(crate) fn log_id(position: &LogPosition) -> LogId {
    LogId::new(LeaderId::new(position.term, position.leader.0), position.index)
}

pub(crate) fn position(log_id: &LogId) -> LogPosition {
    LogPosition {
        term: log_id.leader_id.term,
        leader: NodeId(log_id.leader_id.node_id),
        index: log_id.index,
    }
}

pub(crate) fn raft_vote(vote: &Vote) -> RaftVote {
    RaftVote {
        leader_id: LeaderId::new(vote.term, vote.node.0),
        committed: vote.committed,
    }
}

pub(crate) fn vote(vote: &RaftVote) -> Vote {
    Vote {
        term: vote.leader_id.term,
        node: NodeId(vote.leader_id.node_id),
        committed: vote.committed,
    }
}

pub(crate) fn entry(entry: RaftEntry) -> Entry {
    let position = position(&entry.log_id);
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(command) => Payload::Command(command.0),
        EntryPayload::Membership(membership) => Payload::Membership(encode_membership(&membership)),
    };
    Entry { position, payload }
}

pub(crate) fn raft_entry(entry: Entry) -> Result<RaftEntry, Malformed> {
    let payload = match entry.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Command(bytes) => EntryPayload::Normal(OpaqueBytes(bytes)),
        Payload::Membership(bytes) => EntryPayload::Membership(decode_membership(bytes)?),
    };
    Ok(RaftEntry {
        log_id: log_id(&entry.position),
        payload,
    })
}

pub(crate) fn stored_membership(state: &Option<(LogPosition, Bytes)>) -> Result<StoredMembership, Malformed> {
    match state {
        Some((position, bytes)) => Ok(StoredMembership::new(
            Some(log_id(position)),
            decode_membership(bytes.clone())?,
        )),
        None => Ok(StoredMembership::default()),
    }
}

const MEMBERSHIP_VERSION: u8 = 1;
/// More members than any group will ever have; a decoder's sanity bound.
const MEMBERS_MAX: u32 = 1000;

pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let configs = membership.get_joint_config();
    let mut out = vec![
        MEMBERSHIP_VERSION,
        u8::try_from(configs.len()).expect("a change has at most two configs"),
    ];
    for voters in configs {
        put_ids(&mut out, voters.iter().copied());
    }
    put_ids(&mut out, membership.nodes().map(|(id, _)| *id));
    out.into()
}

fn put_ids(out: &mut Vec<u8>, ids: impl Iterator<Item = u64>) {
    let ids: Vec<u64> = ids.collect();
    codec::put_u32(out, u32::try_from(ids.len()).expect("a group has few members"));
    for id in ids {
        codec::put_u64(out, id);
    }
}

pub(crate) fn decode_membership(bytes: Bytes) -> Result<Membership, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.u8("membership version")? != MEMBERSHIP_VERSION {
        return Err(Malformed("membership version"));
    }
    let configs = reader.u8("membership configs")?;
    if configs > 2 {
        return Err(Malformed("membership configs"));
    }
    let mut joint = Vec::with_capacity(usize::from(configs));
    for _ in 0..configs {
        joint.push(read_ids(&mut reader)?);
    }
    let members: BTreeMap<u64, EmptyNode> = read_ids(&mut reader)?
        .into_iter()
        .map(|id| (id, EmptyNode::default()))
        .collect();
    reader.finish("membership")?;
    Membership::new(joint, members).map_err(|_| Malformed("membership without its voters"))
}

fn read_ids(reader: &mut Reader) -> Result<BTreeSet<u64>, Malformed> {
    let count = reader.u32("membership ids")?;
    if count > MEMBERS_MAX {
        return Err(Malformed("membership ids"));
    }
    let mut ids = BTreeSet::new();
    for _ in 0..count {
        ids.insert(reader.u64("membership id")?);
    }
    Ok(ids)
}

/// openraft's configuration for our settings.
pub(crate) fn config(settings: &crate::ConsensusSettings) -> Result<openraft::Config, ConsensusError> {
    let (election_timeout_min, election_timeout_max) = settings.election_timeouts_ms();
    let config = openraft::Config {
        cluster_name: "tidemark".to_string(),
        heartbeat_interval: settings.heartbeat_ms,
        election_timeout_min,
        election_timeout_max,
        max_payload_entries: settings.append_entries_max,
        install_snapshot_timeout: settings.snapshot_install_timeout_ms,
        // A snapshot here is only a statement about what was applied; files are made when a follower needs them.
        // Purging is decided by housekeeping from the durable index (INV-05), never by this policy.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // The state machine is behind the log after a restart, so a former leader must win an election again.
        enable_leader_restore: Some(false),
        backoff: "50ms, 100ms, 200ms, ...400ms".to_string(),
        ..Default::default()
    };
    config
        .validate()
        .map_err(|error| ConsensusError::Settings(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_has_the_documented_bytes() {
        let membership = Membership::new_with_defaults(vec![BTreeSet::from([1, 2])], [7]);
        let bytes = encode_membership(&membership);
        let mut expected = vec![1, 1, 2, 0, 0, 0];
        expected.extend_from_slice(&1u64.to_le_bytes());
        expected.extend_from_slice(&2u64.to_le_bytes());
        expected.extend_from_slice(&[3, 0, 0, 0]);
        for id in [1u64, 2, 7] {
            expected.extend_from_slice(&id.to_le_bytes());
        }
        assert_eq!(&bytes[..], &expected[..]);
        assert_eq!(decode_membership(bytes).unwrap(), membership);
    }

    proptest::proptest! {
        #[test]
        fn the_membership_decoder_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100)) {
            let _ = decode_membership(bytes.into());
        }
    }
}
