//! One stream of a peer, message by message.

use super::support::*;
use crate::operation::remote;
use crate::remote::{RemoteBatch, RemoteOutcome, RemotePart};
use crate::stream::StreamId;
use tidemark_base::{PackedBatch, Result, RowRange, Stamp};

pub const STREAM: StreamId = StreamId {
    region: THERE,
    tablet: 40,
};

pub fn theirs(step: u64) -> Stamp {
    Stamp {
        region: THERE,
        ..stamp(step)
    }
}

/// A message with one record, `seq`, whose first stamp is that of step `seq`.
pub fn message(seq: u64, batch: PackedBatch) -> RemoteBatch {
    RemoteBatch {
        stream: STREAM,
        link: 0,
        range: RowRange::all(),
        first_seq: seq,
        last_seq: seq,
        closed_hlc: theirs(seq).hlc + 100,
        parts: vec![RemotePart {
            first: theirs(seq),
            offsets: Vec::new(),
            batch,
            seq,
        }],
        unreadable: Vec::new(),
    }
}

pub fn take(replica: &mut Replica, batch: &RemoteBatch) -> Result<RemoteOutcome> {
    take_bounded(replica, batch, 1 << 20)
}

pub fn take_bounded(replica: &mut Replica, batch: &RemoteBatch, quarantine_bytes_max: u64) -> Result<RemoteOutcome> {
    let body = replica.apply(remote::encode(quarantine_bytes_max, &batch.encode()))?;
    Ok(RemoteOutcome::decode(&body).unwrap())
}
