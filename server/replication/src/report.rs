//! What nodes tell each other about streams, and what an operator is shown. Reports are derived code: they live for one
//! release and never reach a disk.
//!
//! Lag never lies (R23, INV-43): where it is not known a bound from above stands in its place, marked so (see [`crate::lag`]). A
//! node reports only streams that it runs; what nobody reports is merged as BLOCKED with such a bound (see
//! [`crate::status`]).

use serde::{Deserialize, Serialize};
use std::fmt;
use tidemark_base::{Error, Result};

/// A stream's or a link's state (R19, the part of it that exists without bootstrap and resync).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StreamState {
    /// Records flow, or there is nothing to ship.
    Streaming,
    /// Records flow, but the oldest waits for longer than the warning threshold.
    Lagging,
    /// An operator stopped shipping; the feed is kept.
    Paused,
    /// Nothing flows; the cause says why and what to do.
    Blocked,
}

impl StreamState {
    /// As shown to people.
    pub fn name(self) -> &'static str {
        match self {
            StreamState::Streaming => "STREAMING",
            StreamState::Lagging => "LAGGING",
            StreamState::Paused => "PAUSED",
            StreamState::Blocked => "BLOCKED",
        }
    }
}

impl fmt::Display for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One stream that this node ships: a tablet that it leads, to one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReport {
    /// Table name.
    pub table: String,
    /// Peer name.
    pub peer: String,
    /// Tablet, the stream's number.
    pub tablet: u64,
    /// The term in which this node leads the tablet: of two reports the later term is right.
    pub term: u64,
    /// State.
    pub state: StreamState,
    /// Why, in words; empty when all is well.
    pub cause: String,
    /// What to do, in words; empty when nothing is.
    pub action: String,
    /// Age of the oldest write that the peer has not applied; 0 if there is none. Milliseconds.
    pub lag_ms: u64,
    /// False if `lag_ms` is only an upper bound.
    pub lag_known: bool,
    /// Feed records that the peer has not acknowledged.
    pub backlog_records: u64,
    /// Bytes of the feed kept for the slowest peer: an upper bound of what this one lacks.
    pub backlog_bytes: u64,
    /// Every record up to here is applied at the peer.
    pub acked_seq: u64,
    /// Last record in the feed.
    pub last_seq: u64,
    /// Everything of this tablet up to here is applied at the peer; microseconds of this region's clock.
    pub acknowledged_micros: i64,
    /// Row mutations that the peer holds in quarantine.
    pub rows_quarantined: u64,
}

/// What one link shipped from this node since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Table name.
    pub table: String,
    /// Peer name.
    pub peer: String,
    /// Row mutations whose records the peer acknowledged, each counted once per leader that shipped it.
    pub rows_shipped: u64,
    /// Bytes sent over the link, compressed, repeats included.
    pub bytes_shipped: u64,
    /// Messages that were sent more than once.
    pub messages_resent: u64,
    /// Received from the peer: messages of which some part was applied before.
    pub duplicates: u64,
    /// Received from the peer: messages applied.
    pub messages_received: u64,
}

/// Watermarks of one tablet led by this node, for what comes from one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncomingReport {
    /// Table name.
    pub table: String,
    /// Peer name.
    pub peer: String,
    /// The tablet here.
    pub tablet: u64,
    /// Term in which this node leads it.
    pub term: u64,
    /// True if the peer's known streams cover all rows of the tablet; otherwise the watermarks are not known (0).
    pub covered: bool,
    /// Applied up to here, holes allowed; the peer's hybrid logical clock.
    pub applied_hlc: u64,
    /// Applied up to here without a hole.
    pub complete_hlc: u64,
    /// Row mutations in quarantine.
    pub rows_quarantined: u64,
    /// Row mutations applied.
    pub rows_applied: u64,
}

/// When this node last heard of one stream of a peer: the ground of RPO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardReport {
    /// Table name.
    pub table: String,
    /// Peer name.
    pub peer: String,
    /// The stream: a tablet of the peer.
    pub tablet: u64,
    /// First row of that tablet.
    pub start: Vec<u8>,
    /// First row after it; absent for the last.
    pub end: Option<Vec<u8>>,
    /// The lag that the peer reported, plus the time since, in milliseconds.
    pub rpo_ms: u64,
    /// False if the peer itself knew only an upper bound.
    pub rpo_known: bool,
}

/// Everything that one node knows of replication at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node.
    pub node: u64,
    /// Streams that it ships.
    pub streams: Vec<StreamReport>,
    /// Counters per link.
    pub links: Vec<LinkCounters>,
    /// Watermarks of the tablets that it leads.
    pub incoming: Vec<IncomingReport>,
    /// Streams that it heard of.
    pub heard: Vec<HeardReport>,
}

impl NodeReport {
    /// JSON, for the wire between nodes of one release.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a report has string keys and plain numbers only")
    }

    /// The inverse of [`NodeReport::encode`]; unknown fields are ignored, missing ones are an error.
    pub fn decode(bytes: &[u8]) -> Result<NodeReport> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::invalid("REPORT_MALFORMED", format!("a node's replication report: {error}")))
    }
}

/// What this region ships over one link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutgoingReport {
    /// Age of the oldest write of this region that the peer has not applied (R23).
    pub lag_ms: u64,
    /// False if something of some tablet's stream is not known: then `lag_ms` is an upper bound.
    pub lag_known: bool,
    /// Feed records that the peer has not acknowledged.
    pub backlog_records: u64,
    /// Bytes of feed kept, an upper bound of what the peer lacks.
    pub backlog_bytes: u64,
    /// Row mutations shipped since the nodes' start.
    pub rows_shipped: u64,
    /// Bytes sent since the nodes' start, compressed.
    pub bytes_shipped: u64,
    /// Everything of this region up to here is applied at the peer; microseconds of this region's clock; 0 = not known.
    pub acknowledged_micros: i64,
}

/// What this region has from the peer over one link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncomingTotals {
    /// What would be missing here if the peer were lost now, as an age: its lag when it last reported plus the time since.
    pub rpo_ms: u64,
    /// False if not every row of the table is covered by a stream heard of, or the peer itself did not know its lag: then
    /// `rpo_ms` is an upper bound.
    pub rpo_known: bool,
    /// Everything of the peer up to here is applied here, holes allowed; microseconds of the peer's clock; 0 = not known.
    pub applied_micros: i64,
    /// The same without a hole.
    pub complete_micros: i64,
    /// Row mutations in quarantine here.
    pub rows_quarantined: u64,
    /// Row mutations applied here.
    pub rows_applied: u64,
    /// Messages of which some part was applied before.
    pub duplicates: u64,
}

/// One table and one peer, as this region sees both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// Table name.
    pub table: String,
    /// Peer name.
    pub peer: String,
    /// The worst state of its streams.
    pub state: StreamState,
    /// Why, in words.
    pub cause: String,
    /// What to do, in words.
    pub action: String,
    /// To the peer.
    pub outgoing: OutgoingReport,
    /// From the peer.
    pub incoming: IncomingTotals,
    /// Per tablet, where asked for.
    pub streams: Vec<StreamReport>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_wire() {
        let report = NodeReport {
            node: 3,
            streams: vec![StreamReport {
                table: "telemetry".into(),
                peer: "west".into(),
                tablet: 7,
                term: 2,
                state: StreamState::Lagging,
                cause: "c".into(),
                action: "a".into(),
                lag_ms: u64::MAX,
                lag_known: true,
                backlog_records: 1,
                backlog_bytes: 2,
                acked_seq: 3,
                last_seq: 4,
                acknowledged_micros: -1,
                rows_quarantined: 0,
            }],
            heard: vec![HeardReport {
                table: "telemetry".into(),
                peer: "west".into(),
                tablet: 9,
                start: vec![0, 255],
                end: None,
                rpo_ms: 5,
                rpo_known: false,
            }],
            ..NodeReport::default()
        };
        assert_eq!(NodeReport::decode(&report.encode()).unwrap(), report);
        assert!(NodeReport::decode(b"{").is_err());
        assert_eq!(serde_json::to_string(&StreamState::Blocked).unwrap(), "\"BLOCKED\"");
    }
}
