//! Which region is in use. The deciding core: no clock, no lock, no I/O; it is fed with events and says when to move.
//!
//! ```text
//!  active region          ──── probe of all nodes fails, nobody answered for failover_after ──▶ next reachable region
//!  active region          ──── answers, but only "unavailable" for failover_stalled_after   ──▶ next reachable region
//!  a better region again  ──── healthy in every probe for failback_after                    ──▶ back to it
//! ```
//! One node that does not answer only makes a region *suspicious*: it is then probed often, at all its nodes. Only such
//! a probe can condemn it, so that one dead node, or one tablet without a leader, never moves a client.

use std::time::Duration;
use tokio::time::Instant;

/// A probe older than this says nothing about a region any more.
const PROBE_FRESH: Duration = Duration::from_secs(5);

/// What the requests and the probes of a client have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request was answered and the region did its work (an error of the caller counts).
    Served,
    /// A node answered that the request cannot be served now.
    Stalled,
    /// A node could not be reached, or did not answer in time.
    Unreachable,
    /// All nodes were asked; at least one answered, and the region is whole if `healthy`.
    Probed {
        /// The catalog and all tablets of the tables in use have leaders.
        healthy: bool,
    },
    /// All nodes were asked and none answered.
    ProbeLost,
}

/// Times after which to move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) failover_after: Duration,
    pub(crate) stalled_after: Duration,
    pub(crate) failback_after: Duration,
}

#[derive(Debug, Default)]
struct Health {
    unreachable_since: Option<Instant>,
    stalled_since: Option<Instant>,
    healthy_since: Option<Instant>,
    /// The last probe that was answered by any node.
    reached_at: Option<Instant>,
}

/// The regions' health and the choice among them; index 0 is preferred.
#[derive(Debug)]
pub(crate) struct Failover {
    patience: Patience,
    regions: Vec<Health>,
    active: usize,
}

impl Failover {
    pub(crate) fn new(regions: usize, patience: Patience) -> Failover {
        Failover {
            patience,
            regions: (0..regions).map(|_| Health::default()).collect(),
            active: 0,
        }
    }

    pub(crate) fn active(&self) -> usize {
        self.active
    }

    /// True while the region has to be probed often.
    pub(crate) fn suspicious(&self, region: usize) -> bool {
        self.regions[region].unreachable_since.is_some()
    }

    /// Takes note of an event; the region to use from now on, if it is another one.
    pub(crate) fn apply(&mut self, region: usize, event: Event, now: Instant) -> Option<usize> {
        let health = &mut self.regions[region];
        match event {
            Event::Served => {
                health.unreachable_since = None;
                health.stalled_since = None;
            }
            Event::Stalled => {
                health.unreachable_since = None;
                health.stalled_since.get_or_insert(now);
            }
            Event::Unreachable => {
                health.unreachable_since.get_or_insert(now);
            }
            Event::Probed { healthy } => {
                health.unreachable_since = None;
                health.reached_at = Some(now);
                if healthy {
                    health.healthy_since.get_or_insert(now);
                } else {
                    health.healthy_since = None;
                }
            }
            Event::ProbeLost => {
                health.unreachable_since.get_or_insert(now);
                health.healthy_since = None;
                health.reached_at = None;
            }
        }
        self.decide(event == Event::ProbeLost && region == self.active, now)
    }

    fn decide(&mut self, active_probe_lost: bool, now: Instant) -> Option<usize> {
        let since = |moment: Option<Instant>, wait: Duration| moment.is_some_and(|m| now.duration_since(m) >= wait);
        let Patience {
            failover_after,
            stalled_after,
            failback_after,
        } = self.patience;
        let health = &self.regions[self.active];
        let lost = active_probe_lost && since(health.unreachable_since, failover_after);
        let stalled = since(health.stalled_since, stalled_after);
        if lost || stalled {
            let reached = |health: &Health| health.reached_at.is_some_and(|at| now.duration_since(at) < PROBE_FRESH);
            let usable = |at: &usize| {
                let health = &self.regions[*at];
                *at != self.active && reached(health) && health.unreachable_since.is_none()
            };
            if let Some(next) = (0..self.regions.len()).find(usable) {
                return Some(self.move_to(next));
            }
        }
        let better = (0..self.active).find(|at| since(self.regions[*at].healthy_since, failback_after));
        better.map(|next| self.move_to(next))
    }

    /// The region that is left starts its time of good conduct anew; the one that is entered starts without a record.
    fn move_to(&mut self, next: usize) -> usize {
        self.regions[self.active].healthy_since = None;
        self.regions[self.active].stalled_since = None;
        self.regions[next].stalled_since = None;
        self.active = next;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EAST: usize = 0;
    const WEST: usize = 1;

    /// Feeds `(milliseconds, region, event)` and gives the active region after each.
    fn play(events: &[(u64, usize, Event)]) -> Vec<usize> {
        let patience = Patience {
            failover_after: Duration::from_millis(500),
            stalled_after: Duration::from_secs(3),
            failback_after: Duration::from_secs(10),
        };
        let start = Instant::now();
        let mut failover = Failover::new(2, patience);
        events
            .iter()
            .map(|(ms, region, event)| {
                failover.apply(*region, *event, start + Duration::from_millis(*ms));
                failover.active()
            })
            .collect()
    }

    use Event::{ProbeLost, Probed, Served, Stalled, Unreachable};
    const WELL: Event = Probed { healthy: true };

    #[test]
    fn one_dead_node_never_moves_a_client() {
        let events = [
            (0, WEST, WELL),
            (100, EAST, Unreachable),
            (900, EAST, Unreachable),
            (950, EAST, WELL),
            (1_000, EAST, Unreachable),
        ];
        assert_eq!(play(&events), [EAST; 5]);
    }

    #[test]
    fn a_lost_region_is_left_after_failover_after_and_not_before() {
        let events = [
            (0, WEST, WELL),
            (100, EAST, Unreachable),
            (200, EAST, ProbeLost),
            (599, EAST, ProbeLost),
            (600, EAST, ProbeLost),
        ];
        assert_eq!(play(&events), [EAST, EAST, EAST, EAST, WEST]);
    }

    #[test]
    fn nobody_moves_to_a_region_that_does_not_answer() {
        let events = [(0, WEST, ProbeLost), (100, EAST, ProbeLost), (900, EAST, ProbeLost)];
        assert_eq!(play(&events), [EAST; 3]);
    }

    #[test]
    fn a_region_without_a_quorum_is_left_later_and_only_if_nothing_is_served() {
        let stalled = [
            (0, WEST, WELL),
            (100, EAST, Stalled),
            (2_900, WEST, WELL),
            (3_099, EAST, Stalled),
            (3_100, EAST, Stalled),
        ];
        assert_eq!(play(&stalled), [EAST, EAST, EAST, EAST, WEST]);
        let served = [
            (0, WEST, WELL),
            (100, EAST, Stalled),
            (2_000, EAST, Served),
            (2_900, WEST, WELL),
            (3_200, EAST, Stalled),
        ];
        assert_eq!(play(&served), [EAST; 5]);
    }

    #[test]
    fn the_way_back_needs_unbroken_health() {
        let events = [
            (0, WEST, WELL),
            (100, EAST, ProbeLost),
            (700, EAST, ProbeLost),
            (1_000, EAST, WELL),
            (9_000, EAST, Probed { healthy: false }),
            (10_000, EAST, WELL),
            (11_000, EAST, WELL),
            (19_999, EAST, WELL),
            (20_000, EAST, WELL),
        ];
        assert_eq!(play(&events), [EAST, EAST, WEST, WEST, WEST, WEST, WEST, WEST, EAST]);
    }
}
