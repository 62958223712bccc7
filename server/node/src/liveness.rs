//! Looking at the neighbours, about once a second: who leads what (for routing), whose clock says what (R8), and whether a
//! leadership should go back to the replica that the catalog prefers.

use crate::tablets::TabletKeeper;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::limits::MAX_SKEW_MS;
use tidemark_base::{GroupId, NodeId};
use tidemark_catalog::{Catalog, Leaders};
use tidemark_runtime::{SharedClock, Shutdown};
use tidemark_services::{PeerClients, Pong, TabletDirectory};
use tracing::{info, warn};

/// Between two rounds of pings.
const ROUND: Duration = Duration::from_millis(500);
/// A neighbour must have answered for that long before leaderships are handed to it.
const STEADY_MS: u64 = 5_000;

/// The watcher of neighbours.
pub struct Liveness {
    /// This node.
    pub node: NodeId,
    /// Placement.
    pub catalog: Catalog,
    /// This node's tablets.
    pub keeper: Arc<TabletKeeper>,
    /// The way to the neighbours.
    pub peers: Arc<PeerClients>,
    /// Where leaders are noted.
    pub leaders: Leaders,
    /// Time.
    pub clock: SharedClock,
    /// Since when (monotonic milliseconds) each neighbour has answered without a gap.
    pub steady_since: Mutex<BTreeMap<NodeId, u64>>,
}

impl Liveness {
    /// Pings until told to stop.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            self.round().await;
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(ROUND) => {}
            }
        }
    }

    async fn round(&self) {
        self.note_own_leaderships();
        let nodes: Vec<NodeId> = self
            .catalog
            .view()
            .nodes
            .keys()
            .copied()
            .filter(|n| *n != self.node)
            .collect();
        let asked = nodes.iter().map(|node| async move {
            let sent_ms = self.clock.monotonic().as_millis() as u64;
            let pong = self.peers.ping(*node).await.ok();
            let round_trip_ms = (self.clock.monotonic().as_millis() as u64).saturating_sub(sent_ms);
            (*node, pong, round_trip_ms)
        });
        let answers = futures::future::join_all(asked).await;
        let now_ms = self.clock.now_ms();
        let mut offsets_ms = BTreeMap::from([(self.node, 0i64)]);
        for (node, pong, round_trip_ms) in answers {
            self.note_answer(node, pong.as_ref());
            if let Some(pong) = pong
                && round_trip_ms <= MAX_SKEW_MS / 2
            {
                offsets_ms.insert(node, pong.now_ms as i64 - now_ms as i64);
            }
        }
        let trusted = trusted_clocks(&offsets_ms);
        self.judge_own_clock(&trusted, &offsets_ms);
        if trusted.contains(&self.node) {
            self.return_leaderships(&trusted).await;
        } else {
            self.give_up_leaderships(&trusted).await;
        }
    }

    fn note_own_leaderships(&self) {
        for tablet in self.keeper.all() {
            let leadership = tablet.group().leadership();
            if let Some(leader) = leadership.leader {
                self.leaders.report(tablet.group().id(), leadership.term, leader);
            }
        }
        let leadership = self.catalog.group().leadership();
        if let Some(leader) = leadership.leader {
            self.leaders.report(GroupId::CATALOG, leadership.term, leader);
        }
    }

    fn note_answer(&self, node: NodeId, pong: Option<&Pong>) {
        let mut steady = self.steady_since.lock();
        match pong {
            Some(pong) => {
                steady.entry(node).or_insert(self.clock.monotonic().as_millis() as u64);
                for leading in &pong.leading {
                    self.leaders.report(leading.group, leading.term, node);
                }
            }
            None => {
                if steady.remove(&node).is_some() {
                    info!(%node, "a neighbour stopped answering");
                }
                self.leaders.forget(node);
            }
        }
    }

    /// R8: a node whose clock is not among the trusted ones gives no stamps.
    fn judge_own_clock(&self, trusted: &BTreeSet<NodeId>, offsets_ms: &BTreeMap<NodeId, i64>) {
        if trusted.contains(&self.node) {
            self.keeper.set_stamping_allowed(true, "");
            return;
        }
        let reason = format!(
            "this node's clock is {} ms from the median of its neighbours'",
            -median(offsets_ms)
        );
        warn!(%reason, "not stamping writes; mend the clock (is NTP running?)");
        self.keeper.set_stamping_allowed(false, &reason);
    }

    /// A leader that may not stamp is of no use to its writers: another replica takes over.
    async fn give_up_leaderships(&self, trusted: &BTreeSet<NodeId>) {
        for tablet in self.keeper.all() {
            if !tablet.group().leadership().is_own() {
                continue;
            }
            let status = tablet.group().status();
            let Some((to, _)) = status
                .matched
                .iter()
                .filter(|(n, _)| trusted.contains(n))
                .max_by_key(|(_, at)| **at)
            else {
                continue;
            };
            if let Err(e) = tablet.group().transfer_leadership(*to).await {
                warn!(group = %status.group, %to, error = %e, "cannot hand the leadership over");
            }
        }
    }

    /// Leaders are spread by the catalog's preference. A leadership that moved in an emergency goes back once the preferred
    /// node has answered steadily and its replica has caught up; one at a time, so that the return is not a storm.
    async fn return_leaderships(&self, trusted: &BTreeSet<NodeId>) {
        let view = self.catalog.view();
        for tablet in self.keeper.all() {
            if !tablet.group().leadership().is_own() {
                continue;
            }
            let Some(record) = view.tablets.get(&tablet.descriptor().tablet) else {
                continue;
            };
            let Some(preferred) = record.replicas.first().copied() else {
                continue;
            };
            // To a node that would not stamp the leadership would only come back, round after round.
            if preferred == self.node || !trusted.contains(&preferred) {
                continue;
            }
            let status = tablet.group().status();
            let steady = self.steady_since.lock().get(&preferred).copied();
            let now_ms = self.clock.monotonic().as_millis() as u64;
            let is_steady = steady.is_some_and(|since| now_ms.saturating_sub(since) >= STEADY_MS);
            let caught_up = status
                .matched
                .get(&preferred)
                .is_some_and(|at| at + 100 >= status.last_index.unwrap_or(0));
            if is_steady && caught_up {
                match tablet.group().transfer_leadership(preferred).await {
                    Ok(()) => info!(tablet = %record.id, to = %preferred, "leadership returned"),
                    Err(e) => info!(tablet = %record.id, to = %preferred, error = %e, "leadership stays for now"),
                }
                return;
            }
        }
    }
}

/// The nodes whose clocks may stamp: within the allowed skew of the median of those that were measured. With two clocks
/// there is no median to trust more than one's own, so with fewer than three all are trusted.
fn trusted_clocks(offsets_ms: &BTreeMap<NodeId, i64>) -> BTreeSet<NodeId> {
    if offsets_ms.len() < 3 {
        return offsets_ms.keys().copied().collect();
    }
    let median = median(offsets_ms);
    let near = |offset: i64| (offset - median).unsigned_abs() <= MAX_SKEW_MS;
    offsets_ms
        .iter()
        .filter(|(_, offset)| near(**offset))
        .map(|(node, _)| *node)
        .collect()
}

fn median(offsets_ms: &BTreeMap<NodeId, i64>) -> i64 {
    let mut sorted: Vec<i64> = offsets_ms.values().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(offsets_ms: &[i64]) -> Vec<u64> {
        let offsets = offsets_ms
            .iter()
            .enumerate()
            .map(|(at, offset)| (NodeId(at as u64 + 1), *offset))
            .collect();
        trusted_clocks(&offsets).into_iter().map(|n| n.0).collect()
    }

    #[test]
    fn one_wrong_clock_of_three_is_found_by_all() {
        let skew = MAX_SKEW_MS as i64;
        // Seen by node 1, whose own offset is 0: node 3 is wrong, then node 1 itself is.
        assert_eq!(trusted(&[0, 10, skew + 11]), [1, 2]);
        assert_eq!(trusted(&[0, skew + 100, skew + 120]), [2, 3]);
        assert_eq!(trusted(&[0, skew, -skew]), [1, 2, 3]);
    }

    #[test]
    fn two_clocks_have_no_median() {
        assert_eq!(trusted(&[0, 60_000]), [1, 2]);
    }
}
