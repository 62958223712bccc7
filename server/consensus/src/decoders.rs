//! Every decoder of this crate that reads bytes from outside (disk, other nodes), by name, for tests with arbitrary bytes
//! (tests/decoders, fuzz/). A new decoder gets a line here.

use crate::log::record;
use crate::types::AppliedState;
use crate::{raft, rest, snapshot, wire};
use bytes::Bytes;

/// A decoder's name, and a function that decodes and says whether the bytes were what it decodes.
pub type Decoder = (&'static str, fn(&[u8]) -> bool);

/// What is decoded, and a function that decodes it and says whether it was that.
pub const DECODERS: &[Decoder] = &[
    ("raft-log", raft_log),
    ("raft-wire", raft_wire),
    ("raft-snapshot", raft_snapshot),
    ("raft-state", raft_state),
];

/// Heads of segments and frames, records with their checksums, and records whose checksum is right whatever they hold.
fn raft_log(bytes: &[u8]) -> bool {
    let head = bytes
        .first_chunk()
        .is_some_and(|head| record::decode_head(head).is_ok());
    let frame = record::decode_frame_head(bytes).is_ok();
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut records = 0;
    while !rest.is_empty() && record::decode(&mut rest).is_ok() {
        records += 1;
    }
    record::decode_body(Bytes::copy_from_slice(bytes)).is_ok() || head || frame || records > 0
}

/// The first byte chooses the message.
fn raft_wire(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    let body = Bytes::copy_from_slice(body);
    match kind % 8 {
        0 => wire::decode_append(body).is_ok(),
        1 => wire::decode_append_ack(body).is_ok(),
        2 => wire::decode_vote_request(body).is_ok(),
        3 => wire::decode_vote_response(body).is_ok(),
        4 => wire::decode_transfer(body).is_ok(),
        5 => wire::decode_transfer_ack(body).is_ok(),
        6 => rest::is_beat(body),
        _ => rest::is_request(body),
    }
}

fn raft_snapshot(bytes: &[u8]) -> bool {
    snapshot::is_message(Bytes::copy_from_slice(bytes))
}

/// What is read is written back as the same state.
fn raft_state(bytes: &[u8]) -> bool {
    let membership = raft::decode_membership(Bytes::copy_from_slice(bytes)).is_ok();
    match AppliedState::decode(bytes) {
        Ok(state) => {
            assert_eq!(AppliedState::decode(&state.encode()).ok(), Some(state));
            true
        }
        Err(_) => membership,
    }
}
