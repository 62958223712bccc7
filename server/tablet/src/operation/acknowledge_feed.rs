//! Acknowledge feed: a peer has every record up to `seq`; what no peer needs any more is trimmed (R13).
//!
//! ```text
//! acknowledge feed := 0x07 | peer u16 | link u64 | seq u64 | rows held u64 | complete_hlc u64
//! ```
//! Of what the peer acknowledges some may wait in its quarantine. That is written down too, so that a leader that comes later
//! knows the lag without having heard the peer (R23). One for another link than the present one is refused (INV-42).

use crate::apply::Step;
use crate::feed::FeedEntry;
use crate::replication_state::PeerQuarantine;
use crate::response;
use crate::state::{Ack, ack_key, fault};
use bytes::Bytes;
use tidemark_base::codec::{Malformed, Reader};
use tidemark_base::{Error, ErrorKind, RegionId, TableSchema};
use tidemark_consensus::StateMachineFault;
use tidemark_runtime::planted::{Bug, planted};

pub(crate) const KIND: u8 = 7;

/// The decoded command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AcknowledgeFeed {
    pub(crate) peer: RegionId,
    pub(crate) link: u64,
    pub(crate) seq: u64,
    pub(crate) held: PeerQuarantine,
}

pub(crate) fn encode(command: &AcknowledgeFeed) -> Bytes {
    let mut out = vec![KIND];
    out.extend_from_slice(&command.peer.0.to_le_bytes());
    let held = command.held;
    for value in [command.link, command.seq, held.rows, held.complete_hlc] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.into()
}

pub(crate) fn decode(r: &mut Reader<'_>) -> Result<AcknowledgeFeed, Malformed> {
    Ok(AcknowledgeFeed {
        peer: RegionId(r.u16()?),
        link: r.u64()?,
        seq: r.u64()?,
        held: PeerQuarantine {
            rows: r.u64()?,
            complete_hlc: r.u64()?,
        },
    })
}

pub(crate) fn apply(command: AcknowledgeFeed, step: &mut Step<'_>) -> Result<Bytes, StateMachineFault> {
    let AcknowledgeFeed { peer, link, seq, held } = command;
    let Some(schema) = step.state.schema.clone().filter(|s| s.link(peer) == Some(link)) else {
        let say = format!("{peer} is not a peer of this table over link {link}");
        return Ok(refuse("PEER_UNKNOWN", say));
    };
    let last = step.state.marks.feed_next - 1;
    if seq > last {
        return Ok(refuse(
            "ACK_AHEAD",
            format!("record {seq} was never written; the last is {last}"),
        ));
    }
    let known = step.state.acks.get(&peer).copied().unwrap_or_default();
    if seq <= known.seq {
        return Ok(response::ok(&[]));
    }
    step.commit()?;
    let hlc = closed_after(step, seq)?.unwrap_or(known.hlc);
    let ack = Ack { seq, hlc, held };
    step.batch().put_state(&ack_key(peer), &ack.encode());
    step.state.acks.insert(peer, ack);
    trim(step, &schema);
    Ok(response::ok(&[]))
}

/// Through which hlc a peer has everything once it has that record; `None` for a number below the feed's beginning.
fn closed_after(step: &Step<'_>, seq: u64) -> Result<Option<u64>, StateMachineFault> {
    let records = step.engine.feed(seq, 1).map_err(fault)?;
    let record = records.first().filter(|r| r.seq == seq);
    let decoded = record.map(|r| FeedEntry::decode(&r.bytes)).transpose();
    // A record that does not decode any more ships as unreadable; what it closed is not known, so the stable cut waits.
    Ok(decoded.unwrap_or_default().map(|entry| entry.last_stamp().hlc))
}

/// Forgets the records that every peer has. A peer that never acknowledged holds everything.
pub(crate) fn trim(step: &mut Step<'_>, schema: &TableSchema) {
    let acks = &step.state.acks;
    let each = schema.peers.iter().map(|p| acks.get(p).map_or(0, |a| a.seq) + 1);
    // Planted: what one peer has, all have.
    let needed = match planted(Bug::FeedTrimmedByFastest) {
        true => each.max(),
        false => each.min(),
    };
    let needed = needed.unwrap_or(step.state.marks.feed_next);
    if needed > step.state.marks.feed_first {
        step.state.marks.feed_first = needed;
        step.batch().trim_feed(needed);
    }
}

fn refuse(reason: &'static str, message: String) -> Bytes {
    response::failed(&Error::new(ErrorKind::FailedPrecondition, reason, message))
}
