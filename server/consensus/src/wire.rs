//! The bodies of the messages between two replicas of a group (node to node, one release).
//!
//! ```text
//! vote        := term u64 | node u64 | committed u8
//! position?   := 0 u8 | 1 u8 position
//! append      := vote | prev position? | commit position? | count u32 | entry*
//! entry       := position | kind u8 | len u32 | payload            kind 0 blank, 1 command, 2 membership
//! append ack  := 0 | 1 matched position? | 2 | 3 vote              done, done up to, conflict, higher vote
//! vote ask    := vote | last position? | transfer u8
//! vote answer := vote | granted u8 | last position?
//! transfer    := vote | to u64 | last position?
//! transfer ack:= 0 | 1 vote vote | 2 position? position?           done, vote changed, log not flushed
//! snapshot    : see `snapshot.rs`
//! ```
//!
//! Payloads are slices of the received message: no copy between the transport and the log.

use crate::codec::{self, Malformed, Reader};
use crate::log::Vote;
use crate::raft::{self, LogId, RaftEntry, RaftVote, Types};
use crate::types::{Entry, Payload};
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use tidemark_base::NodeId;

/// Smallest encoded entry: position, kind, length. Bounds the count before anything is allocated.
const ENTRY_BYTES_MIN: usize = 24 + 1 + 4;

pub(crate) fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    codec::put_u64(out, vote.term);
    codec::put_u64(out, vote.node.0);
    out.push(u8::from(vote.committed));
}

pub(crate) fn read_vote(reader: &mut Reader) -> Result<Vote, Malformed> {
    Ok(Vote {
        term: reader.u64("vote term")?,
        node: NodeId(reader.u64("vote node")?),
        committed: reader.flag("vote committed")?,
    })
}

fn put_raft_vote(out: &mut Vec<u8>, vote: &RaftVote) {
    put_vote(out, &raft::vote(vote));
}

fn read_raft_vote(reader: &mut Reader) -> Result<RaftVote, Malformed> {
    Ok(raft::raft_vote(&read_vote(reader)?))
}

fn put_log_id_opt(out: &mut Vec<u8>, log_id: &Option<LogId>) {
    codec::put_position_opt(out, log_id.as_ref().map(raft::position).as_ref());
}

fn read_log_id_opt(reader: &mut Reader, field: &'static str) -> Result<Option<LogId>, Malformed> {
    Ok(reader.position_opt(field)?.as_ref().map(raft::log_id))
}

/// The code of a payload in messages and in the log; never changes meaning.
pub(crate) fn payload_code(payload: &Payload) -> u8 {
    match payload {
        Payload::Blank => 0,
        Payload::Command(_) => 1,
        Payload::Membership(_) => 2,
    }
}

/// The payload of a code; a blank one carries nothing.
pub(crate) fn payload_from(code: u8, bytes: Bytes) -> Result<Payload, Malformed> {
    match code {
        0 if bytes.is_empty() => Ok(Payload::Blank),
        1 => Ok(Payload::Command(bytes)),
        2 => Ok(Payload::Membership(bytes)),
        _ => Err(Malformed("payload kind")),
    }
}

fn put_entry(out: &mut Vec<u8>, entry: &RaftEntry) {
    codec::put_position(out, &raft::position(&entry.log_id));
    match &entry.payload {
        EntryPayload::Blank => out.extend_from_slice(&[0, 0, 0, 0, 0]),
        EntryPayload::Normal(command) => {
            out.push(1);
            codec::put_bytes(out, &command.0);
        }
        EntryPayload::Membership(membership) => {
            out.push(2);
            codec::put_bytes(out, &raft::encode_membership(membership));
        }
    }
}

fn entry_bytes(entry: &RaftEntry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(command) => ENTRY_BYTES_MIN + command.0.len(),
        _ => ENTRY_BYTES_MIN + 128,
    }
}

pub(crate) fn encode_append(request: &AppendEntriesRequest<Types>) -> Bytes {
    let entries: usize = request.entries.iter().map(entry_bytes).sum();
    let mut out = Vec::with_capacity(96 + entries);
    put_raft_vote(&mut out, &request.vote);
    put_log_id_opt(&mut out, &request.prev_log_id);
    put_log_id_opt(&mut out, &request.leader_commit);
    codec::put_u32(
        &mut out,
        u32::try_from(request.entries.len()).expect("append_entries_max bounds it"),
    );
    for entry in &request.entries {
        put_entry(&mut out, entry);
    }
    out.into()
}

pub(crate) fn decode_append(body: Bytes) -> Result<AppendEntriesRequest<Types>, Malformed> {
    let mut reader = Reader::new(body);
    let vote = read_raft_vote(&mut reader)?;
    let prev_log_id = read_log_id_opt(&mut reader, "previous position")?;
    let leader_commit = read_log_id_opt(&mut reader, "commit position")?;
    let count = reader.u32("entry count")? as usize;
    if count > reader.remaining() / ENTRY_BYTES_MIN {
        return Err(Malformed("entry count"));
    }
    let mut entries = Vec::with_capacity(count);
    let mut next_index = prev_log_id.map_or(0, |id: LogId| id.index.wrapping_add(1));
    for _ in 0..count {
        let position = reader.position("entry position")?;
        let code = reader.u8("payload kind")?;
        let payload = payload_from(code, reader.bytes("payload")?)?;
        // A hole or a jump would make the follower's core panic; a message like that was never ours.
        if position.index != next_index {
            return Err(Malformed("entry index"));
        }
        next_index = next_index.wrapping_add(1);
        entries.push(raft::raft_entry(Entry { position, payload })?);
    }
    reader.finish("append")?;
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    })
}

pub(crate) fn encode_append_ack(response: &AppendEntriesResponse<Types>) -> Bytes {
    let mut out = Vec::with_capacity(32);
    match response {
        AppendEntriesResponse::Success => out.push(0),
        AppendEntriesResponse::PartialSuccess(matched) => {
            out.push(1);
            put_log_id_opt(&mut out, matched);
        }
        AppendEntriesResponse::Conflict => out.push(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.push(3);
            put_raft_vote(&mut out, vote);
        }
    }
    out.into()
}

pub(crate) fn decode_append_ack(body: Bytes) -> Result<AppendEntriesResponse<Types>, Malformed> {
    let mut reader = Reader::new(body);
    let response = match reader.u8("append ack")? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(read_log_id_opt(&mut reader, "matched position")?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(read_raft_vote(&mut reader)?),
        _ => return Err(Malformed("append ack")),
    };
    reader.finish("append ack")?;
    Ok(response)
}

pub(crate) fn encode_vote_request(request: &VoteRequest<Types>) -> Bytes {
    let mut out = Vec::with_capacity(48);
    put_raft_vote(&mut out, &request.vote);
    put_log_id_opt(&mut out, &request.last_log_id);
    out.push(u8::from(request.leadership_transfer));
    out.into()
}

pub(crate) fn decode_vote_request(body: Bytes) -> Result<VoteRequest<Types>, Malformed> {
    let mut reader = Reader::new(body);
    let vote = read_raft_vote(&mut reader)?;
    let last_log_id = read_log_id_opt(&mut reader, "last position")?;
    let leadership_transfer = reader.flag("transfer")?;
    reader.finish("vote request")?;
    Ok(VoteRequest {
        vote,
        last_log_id,
        leadership_transfer,
    })
}

pub(crate) fn encode_vote_response(response: &VoteResponse<Types>) -> Bytes {
    let mut out = Vec::with_capacity(48);
    put_raft_vote(&mut out, &response.vote);
    out.push(u8::from(response.vote_granted));
    put_log_id_opt(&mut out, &response.last_log_id);
    out.into()
}

pub(crate) fn decode_vote_response(body: Bytes) -> Result<VoteResponse<Types>, Malformed> {
    let mut reader = Reader::new(body);
    let vote = read_raft_vote(&mut reader)?;
    let vote_granted = reader.flag("granted")?;
    let last_log_id = read_log_id_opt(&mut reader, "last position")?;
    reader.finish("vote response")?;
    Ok(VoteResponse {
        vote,
        vote_granted,
        last_log_id,
    })
}

pub(crate) fn encode_transfer(request: &TransferLeaderRequest<Types>) -> Bytes {
    let mut out = Vec::with_capacity(56);
    put_raft_vote(&mut out, request.from_leader());
    codec::put_u64(&mut out, *request.to_node_id());
    put_log_id_opt(&mut out, &request.last_log_id().copied());
    out.into()
}

pub(crate) fn decode_transfer(body: Bytes) -> Result<TransferLeaderRequest<Types>, Malformed> {
    let mut reader = Reader::new(body);
    let from = read_raft_vote(&mut reader)?;
    let to = reader.u64("transfer target")?;
    let last_log_id = read_log_id_opt(&mut reader, "last position")?;
    reader.finish("transfer")?;
    Ok(TransferLeaderRequest::new(from, to, last_log_id))
}

pub(crate) fn encode_transfer_ack(response: &TransferLeaderResponse<Types>) -> Bytes {
    let mut out = Vec::with_capacity(64);
    match response {
        Ok(()) => out.push(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.push(1);
            put_raft_vote(&mut out, expected);
            put_raft_vote(&mut out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.push(2);
            put_log_id_opt(&mut out, expected);
            put_log_id_opt(&mut out, actual);
        }
    }
    out.into()
}

pub(crate) fn decode_transfer_ack(body: Bytes) -> Result<TransferLeaderResponse<Types>, Malformed> {
    let mut reader = Reader::new(body);
    let response = match reader.u8("transfer ack")? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged {
            expected: read_raft_vote(&mut reader)?,
            actual: read_raft_vote(&mut reader)?,
        }),
        2 => Err(TransferLeaderError::LogNotFlushed {
            expected: read_log_id_opt(&mut reader, "expected position")?,
            actual: read_log_id_opt(&mut reader, "actual position")?,
        }),
        _ => return Err(Malformed("transfer ack")),
    };
    reader.finish("transfer ack")?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LogPosition;
    use proptest::prelude::*;

    fn command(term: u64, index: u64, bytes: &'static [u8]) -> RaftEntry {
        let position = LogPosition {
            term,
            leader: NodeId(3),
            index,
        };
        raft::raft_entry(Entry {
            position,
            payload: Payload::Command(Bytes::from_static(bytes)),
        })
        .unwrap()
    }

    #[test]
    fn an_append_has_the_documented_bytes() {
        let request = AppendEntriesRequest {
            vote: raft::raft_vote(&Vote {
                term: 2,
                node: NodeId(3),
                committed: true,
            }),
            prev_log_id: None,
            entries: vec![command(2, 0, b"ab")],
            leader_commit: None,
        };
        let mut expected = Vec::new();
        expected.extend_from_slice(&2u64.to_le_bytes());
        expected.extend_from_slice(&3u64.to_le_bytes());
        expected.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0]);
        for value in [2u64, 3, 0] {
            expected.extend_from_slice(&value.to_le_bytes());
        }
        expected.extend_from_slice(&[1, 2, 0, 0, 0, b'a', b'b']);
        assert_eq!(&encode_append(&request)[..], &expected[..]);
        let back = decode_append(expected.into()).unwrap();
        assert_eq!(back.entries, request.entries);
        assert_eq!(back.vote, request.vote);
    }

    #[test]
    fn a_count_beyond_the_message_allocates_nothing() {
        let mut body = encode_append(&AppendEntriesRequest {
            vote: raft::raft_vote(&Vote {
                term: 2,
                node: NodeId(3),
                committed: true,
            }),
            prev_log_id: None,
            entries: vec![],
            leader_commit: None,
        })
        .to_vec();
        let len = body.len();
        body[len - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode_append(body.into()).unwrap_err(), Malformed("entry count"));
    }

    #[test]
    fn a_jump_in_the_indexes_is_refused() {
        let request = AppendEntriesRequest {
            vote: raft::raft_vote(&Vote {
                term: 2,
                node: NodeId(3),
                committed: true,
            }),
            prev_log_id: None,
            entries: vec![command(2, 0, b"a"), command(2, 2, b"b")],
            leader_commit: None,
        };
        assert_eq!(
            decode_append(encode_append(&request)).unwrap_err(),
            Malformed("entry index")
        );
    }

    proptest! {
        #[test]
        fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            let _ = decode_append(bytes.clone());
            let _ = decode_append_ack(bytes.clone());
            let _ = decode_vote_request(bytes.clone());
            let _ = decode_vote_response(bytes.clone());
            let _ = decode_transfer(bytes.clone());
            let _ = decode_transfer_ack(bytes);
        }

        #[test]
        fn a_damaged_append_never_panics(position in 0usize..200, bit in 0u8..8, payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            let position_of = |index| LogPosition { term: 2, leader: NodeId(3), index };
            let entries = (0..3)
                .map(|index| raft::raft_entry(Entry { position: position_of(index), payload: Payload::Command(payload.clone().into()) }).unwrap())
                .collect();
            let request = AppendEntriesRequest {
                vote: raft::raft_vote(&Vote { term: 2, node: NodeId(3), committed: true }),
                prev_log_id: None,
                entries,
                leader_commit: Some(raft::log_id(&position_of(1))),
            };
            let mut body = encode_append(&request).to_vec();
            let at = position % body.len();
            body[at] ^= 1 << bit;
            let _ = decode_append(body.into());
        }
    }
}
