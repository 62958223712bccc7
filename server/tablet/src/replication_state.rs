//! What a tablet shows of its replication after each apply: for the shipper, the receiver's watermarks, lag, garbage
//! collection and status. A snapshot in time, shared and never changed.

use crate::stream::{StreamId, StreamState};
use std::collections::BTreeMap;
use tidemark_base::{RegionId, RowRange, Stamp, TableSchema};
use tidemark_runtime::planted::{Bug, planted};

/// What of a feed's acknowledged part waits in a peer's quarantine, as the peer last said: it may have drained since. It cannot
/// have grown, because only what is being taken is put there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerQuarantine {
    /// Row mutations.
    pub rows: u64,
    /// The hlc through which the peer lacks nothing; 0 = it could not say.
    pub complete_hlc: u64,
}

/// See the module. Hybrid logical clock values are milliseconds since 1970 in the upper 48 bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationState {
    /// First record in the feed, or the number of the next one while it is empty.
    pub feed_first_seq: u64,
    /// Last record ever written to the feed; below `feed_first_seq` while the feed is empty.
    pub feed_last_seq: u64,
    /// Bytes that the feed holds, approximately.
    pub feed_bytes: u64,
    /// The last feed record that carries rows, 0 = none: a peer that acknowledged it lacks no write.
    pub last_rows_seq: u64,
    /// The greatest stamp of a row written here.
    pub last_stamp: Stamp,
    /// No stamp of this region at or below this hlc will be committed in this tablet any more.
    pub closed: u64,
    /// Up to which record each peer has everything. A peer that never acknowledged is not in it.
    pub acked: BTreeMap<RegionId, u64>,
    /// The hlc through which each peer has every write made here.
    pub acked_hlc: BTreeMap<RegionId, u64>,
    /// What of that waits in the peer's quarantine: so a new leader knows it too (R23).
    pub acked_held: BTreeMap<RegionId, PeerQuarantine>,
    /// What came from peers.
    pub streams: BTreeMap<StreamId, StreamState>,
    /// The greatest hlc of any stamp applied.
    pub hlc_max: u64,
    /// Bytes in quarantine, each entry counted with at least 1 KiB.
    pub quarantine_bytes: u64,
    /// Rows ever applied, local and remote.
    pub facts: u64,
    /// Idempotency tokens remembered.
    pub tokens: u64,
    /// Rows in quarantine can be applied, and wait for the next step of draining.
    pub drain_pending: bool,
}

impl ReplicationState {
    /// R12 in its simple form: stamps at or below it cannot arrive here any more.
    ///
    /// Without peers that is everything applied. With peers it is the least, over the peers, of what is complete from it
    /// here and what it has of ours; nothing while the peer's known streams do not cover `range`, or while anything waits in
    /// quarantine.
    pub fn stable_cut(&self, schema: &TableSchema, range: &RowRange) -> Stamp {
        // Planted: only what was applied late counts as late.
        let unpinned = planted(Bug::QuarantineNotPinned);
        if !unpinned && self.streams.values().any(|s| s.quarantined_rows > 0) {
            return Stamp::MIN;
        }
        let mut hlc = self.hlc_max;
        for peer in &schema.peers {
            let streams = self.streams.iter().filter(|(id, _)| id.region == *peer);
            let relevant: Vec<&StreamState> = streams.map(|(_, s)| s).filter(|s| s.range.overlaps(range)).collect();
            if !covers(range, relevant.iter().map(|s| &s.range)) {
                return Stamp::MIN;
            }
            let through = |s: &&StreamState| if unpinned { s.applied_hlc } else { s.complete_hlc };
            let complete = relevant.iter().map(through).min().unwrap_or(0);
            let acked = self.acked_hlc.get(peer).copied().unwrap_or(0);
            hlc = hlc.min(complete).min(acked);
        }
        if hlc == 0 {
            return Stamp::MIN;
        }
        Stamp {
            epoch: schema.epoch,
            hlc,
            region: RegionId(u16::MAX),
        }
    }
}

/// True if the union of the ranges contains `range`.
fn covers<'a>(range: &RowRange, ranges: impl Iterator<Item = &'a RowRange>) -> bool {
    let mut sorted: Vec<&RowRange> = ranges.collect();
    sorted.sort_by(|a, b| a.start.cmp(&b.start));
    let mut reached = range.start.clone();
    for next in sorted {
        if next.start > reached {
            return false;
        }
        match &next.end {
            None => return true,
            Some(end) if *end > reached => reached = end.clone(),
            Some(_) => {}
        }
    }
    range.end.as_ref().is_some_and(|end| *end <= reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &[u8], end: Option<&[u8]>) -> RowRange {
        RowRange {
            start: start.to_vec().into(),
            end: end.map(|e| e.to_vec().into()),
        }
    }

    fn stream(range: RowRange, complete_hlc: u64) -> StreamState {
        StreamState {
            range,
            contiguous_seq: 1,
            applied_hlc: complete_hlc,
            complete_hlc,
            ahead: Vec::new(),
            quarantined_rows: 0,
            rows_applied: 0,
        }
    }

    fn id(region: u16, tablet: u64) -> StreamId {
        StreamId {
            region: RegionId(region),
            tablet,
        }
    }

    #[test]
    fn ranges_cover_only_without_a_gap() {
        let whole = range(b"c", Some(b"p"));
        let (a, b, c) = (range(b"", Some(b"f")), range(b"f", Some(b"m")), range(b"m", None));
        assert!(covers(&whole, [&c, &a, &b].into_iter()));
        assert!(!covers(&whole, [&a, &c].into_iter()));
        assert!(!covers(&whole, [&a, &b].into_iter()));
        assert!(!covers(&RowRange::all(), [&a, &b].into_iter()));
        assert!(covers(&RowRange::all(), [&RowRange::all()].into_iter()));
    }

    #[test]
    fn the_cut_is_the_least_of_all_that_may_still_arrive() {
        let mut schema = TableSchema::new(RegionId(1));
        let mut state = ReplicationState {
            hlc_max: 100,
            ..ReplicationState::default()
        };
        assert_eq!(state.stable_cut(&schema, &RowRange::all()).hlc, 100);
        schema.peers.push(RegionId(2));
        assert_eq!(state.stable_cut(&schema, &RowRange::all()), Stamp::MIN);
        state.streams.insert(id(2, 5), stream(range(b"", Some(b"m")), 80));
        state.acked_hlc.insert(RegionId(2), 70);
        assert_eq!(state.stable_cut(&schema, &RowRange::all()), Stamp::MIN);
        assert_eq!(state.stable_cut(&schema, &range(b"a", Some(b"b"))).hlc, 70);
        state.streams.insert(id(2, 6), stream(range(b"m", None), 60));
        assert_eq!(state.stable_cut(&schema, &RowRange::all()).hlc, 60);
        state.streams.get_mut(&id(2, 6)).unwrap().quarantined_rows = 1;
        let pinned = state.stable_cut(&schema, &RowRange::all());
        assert_eq!(pinned, Stamp::MIN, "what waits holds the cut");
    }
}
