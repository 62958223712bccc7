//! The lag of a stream: the age of the oldest write that the peer has not applied (R23). It is exact or, where something is
//! not known, an upper bound that says so; never less than the truth (INV-43).
//!
//! ```text
//! feed    ├── acknowledged ──────────┤── under way ──┤── unread ──┤
//!              in the peer's             oldest          found by a look, or younger than what was read
//!              quarantine: `held`
//! ```
//! A leader that was cut off from its neighbours does not know what another one has acknowledged since: once its lease is over, its word
//! is a bound, the time since a quorum heard of it. Else a region whose other nodes cannot be asked would say that nothing is missing.
//!
//! What is not known: what lies unread when a leader has just come, until it has looked; that is younger than what the peer has
//! acknowledged. And what waits in the quarantine where the peer cannot say how old it is; what the peer can never get
//! any more: then the age of the link is the bound, because nothing that the peer lacks is older.

use std::time::Duration;
use tidemark_tablet::PeerQuarantine;

/// The lag at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Milliseconds; 0 if the peer lacks nothing.
    pub ms: u64,
    /// False if that is only an upper bound.
    pub known: bool,
}

impl Lag {
    /// The lag as a leader may state it that no quorum has confirmed for that long (zero: it is confirmed). If it was replaced, others
    /// have acknowledged what it does not see, and nothing of that is older; nor older than the link.
    pub fn confirmed(self, unconfirmed: Duration, link_age_ms: u64) -> Lag {
        match unconfirmed.is_zero() {
            true => self,
            false => Lag {
                ms: self.ms.max(millis(unconfirmed).min(link_age_ms)),
                known: false,
            },
        }
    }
}

/// The oldest row mutation that is not applied at the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oldest {
    /// Its time by this region's hybrid logical clock, or an earlier one; `None` if only known to exist.
    pub hlc: Option<u64>,
    /// When this stream first saw it, monotonic.
    pub seen_at: Duration,
}

impl Oldest {
    /// R23: its age by the local clock. Never less than the time for which it has been in sight: a clock that jumps back,
    /// or stamps pulled ahead by another region, must not make the lag small.
    pub fn age_ms(&self, now_ms: u64, now: Duration) -> u64 {
        let by_clock = self.hlc.map_or(0, |hlc| now_ms.saturating_sub(hlc >> 16));
        by_clock.max(millis(now.saturating_sub(self.seen_at)))
    }
}

/// What a stream knows of what the peer lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The oldest row mutation in sight that the peer has not taken.
    pub oldest: Option<Oldest>,
    /// What the peer has taken and could not apply.
    pub held: PeerQuarantine,
    /// The peer has spoken of it to this stream; otherwise some of it may have drained.
    pub held_heard: bool,
    /// `oldest` is not what is lacking but something before it, which the peer has.
    pub bound: bool,
    /// Something else may be lacking, of an age that is not known.
    pub unknown: bool,
    /// When the link was made, by this region's clock.
    pub linked_at_ms: u64,
}

impl Lacking {
    /// Nothing is known yet of a link that was made at that time.
    pub fn unknown(linked_at_ms: u64) -> Lacking {
        Lacking {
            oldest: None,
            held: PeerQuarantine::default(),
            held_heard: false,
            bound: false,
            unknown: true,
            linked_at_ms,
        }
    }

    /// INV-43: exact, or a bound from above.
    pub fn lag(&self, now_ms: u64, now: Duration) -> Lag {
        let in_sight = self.oldest.map_or(0, |oldest| oldest.age_ms(now_ms, now));
        let holds = self.held.rows > 0;
        let ageless = self.unknown || (holds && self.held.complete_hlc == 0);
        let held = match (holds, ageless) {
            (_, true) => now_ms.saturating_sub(self.linked_at_ms),
            (true, false) => now_ms.saturating_sub(self.held.complete_hlc >> 16),
            (false, false) => 0,
        };
        Lag {
            ms: in_sight.max(held),
            known: !ageless && !self.bound && (!holds || self.held_heard),
        }
    }
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn lacking(rows: u64, complete_ms: u64, held_heard: bool) -> Lacking {
        Lacking {
            held: PeerQuarantine {
                rows,
                complete_hlc: complete_ms << 16,
            },
            held_heard,
            unknown: false,
            ..Lacking::unknown(NOW_MS - 90_000)
        }
    }

    fn lag(lacking: Lacking) -> (u64, bool) {
        let lag = lacking.lag(NOW_MS, Duration::from_secs(50));
        (lag.ms, lag.known)
    }

    /// INV-43.
    #[test]
    fn a_leader_that_may_have_been_replaced_states_a_bound() {
        let exact = |ms| Lag { ms, known: true };
        assert_eq!(exact(5).confirmed(Duration::ZERO, 9_000), exact(5));
        for (ms, bound) in [(0, 700), (5_000, 5_000)] {
            let lag = exact(ms).confirmed(Duration::from_millis(700), 9_000);
            assert_eq!((lag.ms, lag.known), (bound, false));
        }
        assert_eq!(exact(0).confirmed(Duration::MAX, 9_000).ms, 9_000);
    }

    #[test]
    fn what_is_not_known_is_never_a_zero() {
        assert_eq!(lag(lacking(0, 0, true)), (0, true));
        assert_eq!(lag(lacking(2, NOW_MS - 4_000, true)), (4_000, true));
        assert_eq!(
            lag(lacking(2, NOW_MS - 4_000, false)),
            (4_000, false),
            "some may have drained"
        );
        assert_eq!(
            lag(lacking(2, 0, true)),
            (90_000, false),
            "the peer cannot say since when"
        );
        assert_eq!(lag(Lacking::unknown(NOW_MS - 90_000)), (90_000, false));
    }

    #[test]
    fn the_oldest_of_all_counts() {
        let mut both = lacking(2, NOW_MS - 4_000, true);
        both.oldest = Some(Oldest {
            hlc: Some((NOW_MS - 7_000) << 16),
            seen_at: Duration::from_secs(49),
        });
        assert_eq!(lag(both), (7_000, true));
        both.oldest = Some(Oldest {
            hlc: Some((NOW_MS + 7_000) << 16),
            seen_at: Duration::from_secs(45),
        });
        assert_eq!(
            lag(both),
            (5_000, true),
            "a clock that jumped back makes nothing younger"
        );
    }
}
