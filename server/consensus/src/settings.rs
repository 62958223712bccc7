//! The settings of consensus: few, each with unit, default and bound.

use crate::error::ConsensusError;
use std::time::Duration;

/// Timing and bounds of all groups of a node. [`ConsensusSettings::default`] suits zones with a round trip below 5 ms.
///
/// Kill-to-leader arithmetic: openraft lets a follower campaign after its lease on the old leader (half of the longest
/// silence) plus a random time. The two add up to `election_timeout_min_ms..election_timeout_max_ms` since the last
/// heartbeat. That heartbeat was up to one interval before the death, so a new leader appears 430 to 750 ms after it, plus
/// one round of votes, with the defaults. Other nodes refuse to vote while their own lease runs: that is what keeps a
/// returned node from disturbing a healthy leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusSettings {
    /// Milliseconds between a leader's heartbeats, 10..=10,000. Idle cost grows as it shrinks.
    pub heartbeat_ms: u64,
    /// Shortest silence, in milliseconds, after which a follower campaigns. Raised, if need be, to half of the longest one
    /// plus four thirds of a heartbeat, below which votes would have no time to travel.
    pub election_timeout_min_ms: u64,
    /// Longest such silence. Greater than the shortest, and more than three heartbeats.
    pub election_timeout_max_ms: u64,
    /// Most entries in one append message, 1..=100,000.
    pub append_entries_max: u64,
    /// Bytes of entries after which an append message is closed. One larger entry travels alone.
    pub append_bytes_max: usize,
    /// Milliseconds that a follower has for making one append message durable, at least the heartbeat. Longer than a bad
    /// moment of a disk; heartbeats without entries are answered from memory and do not wait for it.
    pub append_timeout_ms: u64,
    /// Bytes of one snapshot chunk, 4 KiB..=16 MiB.
    pub snapshot_chunk_bytes: usize,
    /// Entries kept in the log behind the durable index, so that a follower that lags a little needs no snapshot.
    pub snapshot_lag_entries: u64,
    /// Bytes kept in the log behind the durable index for the same purpose; whichever is reached first ends the keeping.
    pub snapshot_lag_bytes: u64,
    /// Bytes of a group's log above the durable index after which the state machine is asked to flush.
    pub log_bytes_before_flush: u64,
    /// Entries above the durable index after which it is asked as well: a node that starts applies them again, some 40 µs each,
    /// however small they are.
    pub log_entries_before_flush: u64,
    /// Milliseconds that [`crate::Group::propose`] waits for commit and apply before it says "unknown".
    pub propose_timeout_ms: u64,
    /// Milliseconds that a read barrier waits for a quorum and for apply.
    pub read_timeout_ms: u64,
    /// Proposals in flight per group.
    pub proposals_in_flight_max: usize,
    /// Bytes of proposals in flight on this node, all groups together.
    pub proposal_bytes_in_flight_max: usize,
    /// Readers waiting for a barrier per group.
    pub barrier_waiters_max: usize,
    /// Milliseconds of one snapshot message's round trip (a chunk).
    pub snapshot_chunk_timeout_ms: u64,
    /// Milliseconds that installing a received snapshot may take.
    pub snapshot_install_timeout_ms: u64,
    /// Milliseconds between two rounds of purging, flush requests and expiry of abandoned snapshots.
    pub housekeeping_ms: u64,
    /// Milliseconds without anything to do after which a group goes to rest, in whole rounds of housekeeping; 0 for never.
    pub rest_after_ms: u64,
}

impl Default for ConsensusSettings {
    fn default() -> Self {
        ConsensusSettings {
            heartbeat_ms: 150,
            election_timeout_min_ms: 580,
            election_timeout_max_ms: 750,
            append_entries_max: 1024,
            append_bytes_max: 1 << 20,
            append_timeout_ms: 1_000,
            snapshot_chunk_bytes: 512 << 10,
            snapshot_lag_entries: 8192,
            snapshot_lag_bytes: 16 << 20,
            log_bytes_before_flush: 64 << 20,
            log_entries_before_flush: 10_000,
            propose_timeout_ms: 10_000,
            read_timeout_ms: 2_000,
            proposals_in_flight_max: 4096,
            proposal_bytes_in_flight_max: 256 << 20,
            barrier_waiters_max: 65_536,
            snapshot_chunk_timeout_ms: 5_000,
            snapshot_install_timeout_ms: 120_000,
            housekeeping_ms: 500,
            rest_after_ms: 3_000,
        }
    }
}

impl ConsensusSettings {
    /// openraft's election timeouts (shortest, longest, in milliseconds): it adds one of them to a lease that is as long as
    /// the longest.
    pub(crate) fn election_timeouts_ms(&self) -> (u64, u64) {
        let lease = self.election_timeout_max_ms / 2;
        let shortest = self
            .election_timeout_min_ms
            .saturating_sub(lease)
            .max(self.heartbeat_ms * 4 / 3 + 1);
        (shortest.min(lease - 1), lease)
    }

    /// How long a follower that heard its leader refuses others its vote.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.election_timeouts_ms().1)
    }

    /// The shortest and the longest silence after which a follower campaigns.
    pub(crate) fn silence_range(&self) -> (Duration, Duration) {
        let (shortest, longest) = self.election_timeouts_ms();
        (
            self.lease() + Duration::from_millis(shortest),
            self.lease() + Duration::from_millis(longest),
        )
    }

    /// Refuses combinations that cannot work, naming the field.
    pub fn validate(&self) -> Result<(), ConsensusError> {
        let refuse = |text: &str| Err(ConsensusError::Settings(text.to_string()));
        if !(10..=10_000).contains(&self.heartbeat_ms) {
            return refuse("heartbeat_ms must be 10..=10000");
        }
        if self.election_timeout_max_ms <= 3 * self.heartbeat_ms {
            return refuse("election_timeout_max_ms must exceed three times heartbeat_ms");
        }
        if self.election_timeout_max_ms <= self.election_timeout_min_ms {
            return refuse("election_timeout_max_ms must exceed election_timeout_min_ms");
        }
        if !(1..=100_000).contains(&self.append_entries_max) || self.append_bytes_max == 0 {
            return refuse("append_entries_max must be 1..=100000 and append_bytes_max positive");
        }
        if self.append_timeout_ms < self.heartbeat_ms {
            return refuse("append_timeout_ms must be at least heartbeat_ms");
        }
        if !(4 << 10..=16 << 20).contains(&self.snapshot_chunk_bytes) {
            return refuse("snapshot_chunk_bytes must be 4 KiB..=16 MiB");
        }
        if self.proposals_in_flight_max == 0 || self.proposal_bytes_in_flight_max == 0 || self.barrier_waiters_max == 0
        {
            return refuse("in-flight bounds must be positive");
        }
        if self.housekeeping_ms == 0 || self.propose_timeout_ms == 0 || self.read_timeout_ms == 0 {
            return refuse("intervals and timeouts must be positive");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up_to_the_silence() {
        let settings = ConsensusSettings::default();
        settings.validate().unwrap();
        let (shortest, longest) = settings.election_timeouts_ms();
        assert_eq!((longest + shortest, longest + longest), (580, 750));
        let tight = ConsensusSettings {
            election_timeout_min_ms: 450,
            election_timeout_max_ms: 460,
            ..settings
        };
        tight.validate().unwrap();
        let (shortest, longest) = tight.election_timeouts_ms();
        assert!(tight.heartbeat_ms < shortest && shortest < longest);
        assert!(
            ConsensusSettings {
                election_timeout_max_ms: 450,
                ..tight
            }
            .validate()
            .is_err()
        );
    }
}
