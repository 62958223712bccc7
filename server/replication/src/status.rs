//! From the nodes' reports to what an operator sees of a link. Pure, but for the memory of what was last known.
//!
//! Lag never lies (INV-43): the merge starts from the tablets that exist by the catalog, not from the reports that came. A tablet
//! that nobody reports is BLOCKED, with an upper bound of its lag: what was last known of it plus the time since, or, if
//! nothing ever was, the age of the link itself (nothing older can be unshipped).

use crate::cause::Cause;
use crate::lag::{Lag, millis};
use crate::report::{
    HeardReport, IncomingReport, IncomingTotals, LinkReport, NodeReport, OutgoingReport, StreamReport, StreamState,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tidemark_base::TabletId;
use tidemark_catalog::{CatalogView, LinkState};

/// A link as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Table name.
    pub table: String,
    /// Peer name.
    pub peer: String,
    /// How far switching on has come.
    pub state: LinkState,
    /// Held by an operator.
    pub paused: bool,
    /// When the link was made: nothing unshipped is older.
    pub linked_at_ms: u64,
    /// The table's tablets here.
    pub tablets: Vec<TabletId>,
}

/// The links of one table, or of all.
pub fn links(view: &CatalogView, table: Option<&str>) -> Vec<LinkFacts> {
    let tables = view
        .tables
        .values()
        .filter(|record| table.is_none_or(|table| record.name == table));
    tables
        .flat_map(|record| {
            let tablets: Vec<TabletId> = view.tablets_of(record.id).map(|tablet| tablet.id).collect();
            record.links.iter().map(move |(peer, link)| LinkFacts {
                table: record.name.clone(),
                peer: peer.clone(),
                state: link.state,
                paused: link.paused,
                linked_at_ms: link.linked_at_ms,
                tablets: tablets.clone(),
            })
        })
        .collect()
}

/// What was last known of each stream's lag, and when.
#[derive(Debug, Default)]
pub struct LastKnown {
    streams: BTreeMap<(String, String, u64), (u64, Duration)>,
}

impl LastKnown {
    /// Only of what a stream knows itself.
    fn learn(&mut self, stream: &StreamReport, now: Duration) {
        let key = (stream.table.clone(), stream.peer.clone(), stream.tablet);
        self.streams.insert(key, (stream.lag_ms, now));
    }

    fn bound_ms(&self, link: &LinkFacts, tablet: TabletId, now_ms: u64, now: Duration) -> u64 {
        let key = (link.table.clone(), link.peer.clone(), tablet.0);
        let of_link = now_ms.saturating_sub(link.linked_at_ms);
        match self.streams.get(&key) {
            // Of an earlier link it may be more than this one can lag.
            Some((lag_ms, at)) => lag_ms.saturating_add(millis(now.saturating_sub(*at))).min(of_link),
            None => of_link,
        }
    }

    /// Forgets streams of links that are gone.
    fn retain(&mut self, links: &[LinkFacts]) {
        let living: BTreeSet<(&str, &str)> = links.iter().map(|l| (l.table.as_str(), l.peer.as_str())).collect();
        self.streams
            .retain(|(table, peer, _), _| living.contains(&(table.as_str(), peer.as_str())));
    }
}

/// The moment of a merge, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Wall clock.
    pub ms: u64,
    /// Monotonic clock.
    pub monotonic: Duration,
}

/// Merges the reports of the nodes that answered. `all` are all links of the region, so that what is known of the others
/// is kept.
pub fn merge(
    all: &[LinkFacts],
    table: Option<&str>,
    reports: &[NodeReport],
    known: &mut LastKnown,
    now: Now,
    with_tablets: bool,
) -> Vec<LinkReport> {
    known.retain(all);
    let wanted = all.iter().filter(|link| table.is_none_or(|table| link.table == table));
    wanted
        .map(|link| merge_link(link, reports, known, now, with_tablets))
        .collect()
}

fn merge_link(
    link: &LinkFacts,
    reports: &[NodeReport],
    known: &mut LastKnown,
    now: Now,
    with_tablets: bool,
) -> LinkReport {
    let of_link = |table: &str, peer: &str| table == link.table && peer == link.peer;
    let mut newest: BTreeMap<u64, &StreamReport> = BTreeMap::new();
    for stream in reports.iter().flat_map(|report| &report.streams) {
        let later = newest.get(&stream.tablet).is_none_or(|other| other.term < stream.term);
        if of_link(&stream.table, &stream.peer) && later {
            newest.insert(stream.tablet, stream);
        }
    }
    let mut lag_known = true;
    let streams: Vec<StreamReport> = link
        .tablets
        .iter()
        .map(|tablet| match newest.get(&tablet.0) {
            Some(stream) if stream.lag_known => {
                known.learn(stream, now.monotonic);
                (*stream).clone()
            }
            // Two bounds from above: the lesser one is right too.
            Some(stream) => {
                lag_known = false;
                let bound_ms = known.bound_ms(link, *tablet, now.ms, now.monotonic);
                StreamReport {
                    lag_ms: stream.lag_ms.min(bound_ms),
                    ..(*stream).clone()
                }
            }
            None => {
                lag_known = false;
                unreported(link, *tablet, known, now)
            }
        })
        .collect();
    let counters = || {
        let links = reports.iter().flat_map(|report| &report.links);
        links.filter(|counters| of_link(&counters.table, &counters.peer))
    };
    let worst = streams
        .iter()
        .max_by_key(|stream| (stream.state, stream.lag_ms, !stream.cause.is_empty()));
    let outgoing = OutgoingReport {
        lag_ms: streams.iter().map(|stream| stream.lag_ms).max().unwrap_or(0),
        lag_known,
        backlog_records: streams.iter().map(|stream| stream.backlog_records).sum(),
        backlog_bytes: streams.iter().map(|stream| stream.backlog_bytes).sum(),
        rows_shipped: counters().map(|counters| counters.rows_shipped).sum(),
        bytes_shipped: counters().map(|counters| counters.bytes_shipped).sum(),
        acknowledged_micros: streams.iter().map(|s| s.acknowledged_micros).min().unwrap_or(0),
    };
    let says = |cause: Cause| (cause.words(&link.peer), cause.action(&link.table, &link.peer));
    let (state, (cause, action)) = match (link.state, link.paused, worst) {
        (LinkState::Preparing, ..) => (StreamState::Blocked, says(Cause::EnableUnfinished)),
        (_, true, _) => (StreamState::Paused, says(Cause::Paused)),
        (_, _, Some(worst)) => (worst.state, (worst.cause.clone(), worst.action.clone())),
        (_, _, None) => (StreamState::Streaming, Default::default()),
    };
    let duplicates = counters().map(|counters| counters.duplicates).sum();
    LinkReport {
        table: link.table.clone(),
        peer: link.peer.clone(),
        state,
        cause,
        action,
        outgoing,
        incoming: merge_incoming(link, reports, duplicates, now),
        streams: if with_tablets { streams } else { Vec::new() },
    }
}

fn unreported(link: &LinkFacts, tablet: TabletId, known: &LastKnown, now: Now) -> StreamReport {
    let cause = Cause::NoLeader;
    StreamReport {
        table: link.table.clone(),
        peer: link.peer.clone(),
        tablet: tablet.0,
        term: 0,
        state: StreamState::Blocked,
        cause: cause.words(&link.peer),
        action: cause.action(&link.table, &link.peer),
        lag_ms: known.bound_ms(link, tablet, now.ms, now.monotonic),
        lag_known: false,
        backlog_records: 0,
        backlog_bytes: 0,
        acked_seq: 0,
        last_seq: 0,
        acknowledged_micros: 0,
        rows_quarantined: 0,
    }
}

fn merge_incoming(link: &LinkFacts, reports: &[NodeReport], duplicates: u64, now: Now) -> IncomingTotals {
    let of_link = |table: &str, peer: &str| table == link.table && peer == link.peer;
    let mut newest: BTreeMap<u64, &IncomingReport> = BTreeMap::new();
    for tablet in reports.iter().flat_map(|report| &report.incoming) {
        let later = newest.get(&tablet.tablet).is_none_or(|other| other.term < tablet.term);
        if of_link(&tablet.table, &tablet.peer) && later {
            newest.insert(tablet.tablet, tablet);
        }
    }
    let covered = link
        .tablets
        .iter()
        .all(|tablet| newest.get(&tablet.0).is_some_and(|report| report.covered));
    let least = |pick: fn(&IncomingReport) -> u64| {
        let hlc = newest.values().map(|report| pick(report)).min().unwrap_or(0);
        if covered { micros(hlc) } else { 0 }
    };
    let heard = reports.iter().flat_map(|report| &report.heard);
    let rpo = rpo(heard.filter(|heard| of_link(&heard.table, &heard.peer)));
    let rpo = rpo.unwrap_or_else(|| Lag {
        ms: now.ms.saturating_sub(link.linked_at_ms),
        known: false,
    });
    IncomingTotals {
        rpo_ms: rpo.ms,
        rpo_known: rpo.known,
        applied_micros: least(|report| report.applied_hlc),
        complete_micros: least(|report| report.complete_hlc),
        rows_quarantined: newest.values().map(|report| report.rows_quarantined).sum(),
        rows_applied: newest.values().map(|report| report.rows_applied).sum(),
        duplicates,
    }
}

/// The wall part of a hybrid logical clock, in microseconds.
fn micros(hlc: u64) -> i64 {
    i64::try_from((hlc >> 16).saturating_mul(1_000)).unwrap_or(i64::MAX)
}

/// The greatest over the streams of the latest that any node heard of each; none unless they cover every row together.
fn rpo<'a>(heard: impl Iterator<Item = &'a HeardReport>) -> Option<Lag> {
    let mut latest: BTreeMap<u64, &HeardReport> = BTreeMap::new();
    for stream in heard {
        let later = latest
            .get(&stream.tablet)
            .is_none_or(|other| other.rpo_ms > stream.rpo_ms);
        if later {
            latest.insert(stream.tablet, stream);
        }
    }
    let mut ranges: Vec<(&[u8], Option<&[u8]>)> = latest
        .values()
        .map(|stream| (&stream.start[..], stream.end.as_deref()))
        .collect();
    ranges.sort();
    covers(&ranges, b"", None).then(|| Lag {
        ms: latest.values().map(|stream| stream.rpo_ms).max().unwrap_or(0),
        known: latest.values().all(|stream| stream.rpo_known),
    })
}

/// True if the ranges, sorted by their start, leave no gap between `start` and `end`.
pub(crate) fn covers(ranges: &[(&[u8], Option<&[u8]>)], start: &[u8], end: Option<&[u8]>) -> bool {
    let mut reached = start;
    for (from, to) in ranges {
        if *from > reached {
            return false;
        }
        match to {
            None => return true,
            Some(to) => reached = reached.max(to),
        }
        if end.is_some_and(|end| reached >= end) {
            return true;
        }
    }
    false
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
