//! The bounds of shipping and receiving, with their units, limits and reasons.

use crate::run::BODY_BYTES_MAX;
use std::time::Duration;
use tidemark_base::limits;

/// Records in one run, at most. A record is at least some twenty bytes, so this is above what a run of small records
/// holds; it keeps a malformed count from costing anything.
pub const RUN_RECORDS_MAX: usize = 100_000;

/// A run before compression, in bytes, at most: the greatest `ship_bytes_max` (2 MiB), one more record of the greatest
/// size (16 MiB and a little), and headers. Below the 24 MiB that a message between regions may have.
pub const RUN_BYTES_MAX: usize = (2 << 20) + limits::BATCH_BYTES_MAX + (1 << 20);

/// What one run holds at most while it is read: records up to `ship_bytes_max`, or one larger record, and their headers.
pub const RUN_HELD_BYTES_MAX: usize = BODY_BYTES_MAX + (2 << 20);

/// Settings of the layer. All have defaults that suit a WAN of some tens of milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationSettings {
    /// Bytes of feed records packed into one message, before compression; 4 KiB to 2 MiB. A single larger record still
    /// travels, alone.
    pub ship_bytes_max: usize,
    /// Messages of one stream under way at a time; 1 to 32 (a target tablet remembers 64 ranges ahead of a hole).
    pub ship_window: usize,
    /// How long a stream waits after a message before it sends a small one, so that trickles are grouped; 0 to 1,000 ms.
    pub ship_linger_ms: u64,
    /// After this the answer to a message is no longer waited for; the message is sent again. 1,000 to 120,000 ms.
    pub ship_timeout_ms: u64,
    /// Bytes of runs that all streams of this node to one peer hold together, before compression; at least 32 MiB. A stream
    /// takes as much as the greatest run may have before it reads, because nobody knows how large the next record is, and
    /// gives back what was not needed: so the bound holds, and some 18 MiB of it serve reading.
    pub ship_memory_bytes_max: usize,
    /// Bytes of runs that this node unpacks and applies at a time; beyond it the origin is told to wait. At least 32 MiB.
    pub receive_memory_bytes_max: usize,
    /// First delay after a failed message; doubles up to `retry_delay_max_ms`, with jitter. 1 to 10,000 ms.
    pub retry_delay_ms: u64,
    /// The greatest delay between tries, which also bounds how late a returned peer is noticed; up to 60,000 ms.
    pub retry_delay_max_ms: u64,
    /// How often a stream's acknowledged position is written into its tablet's log; 10 to 60,000 ms. What was
    /// acknowledged since then is shipped again after a crash, and recognised there as duplicate.
    pub ack_interval_ms: u64,
    /// The position is also written when it has advanced by so many records; at least 1.
    pub ack_records: u64,
    /// Above this lag a stream is shown as LAGGING; at least 1 ms.
    pub lag_warn_ms: u64,
    /// How often streams are started and stopped to match leaders, links and schemas, and how often an idle stream looks
    /// at itself; 10 to 5,000 ms.
    pub reconcile_interval_ms: u64,
    /// How long an operator's verb waits for tablets and the peer before it reports that it did not finish;
    /// 1,000 to 120,000 ms.
    pub verb_timeout_ms: u64,
}

impl Default for ReplicationSettings {
    fn default() -> Self {
        ReplicationSettings {
            ship_bytes_max: 1 << 20,
            ship_window: 8,
            ship_linger_ms: 20,
            ship_timeout_ms: 15_000,
            ship_memory_bytes_max: 64 << 20,
            receive_memory_bytes_max: 128 << 20,
            retry_delay_ms: 100,
            retry_delay_max_ms: 3_000,
            ack_interval_ms: 500,
            ack_records: 10_000,
            lag_warn_ms: 10_000,
            reconcile_interval_ms: 200,
            verb_timeout_ms: 15_000,
        }
    }
}

impl ReplicationSettings {
    /// Every value moved into its bounds: a typo must not stop a stream.
    pub fn clamped(mut self) -> ReplicationSettings {
        self.ship_bytes_max = self.ship_bytes_max.clamp(4 << 10, 2 << 20);
        self.ship_window = self.ship_window.clamp(1, 32);
        self.ship_linger_ms = self.ship_linger_ms.min(1_000);
        self.ship_timeout_ms = self.ship_timeout_ms.clamp(1_000, 120_000);
        self.ship_memory_bytes_max = self.ship_memory_bytes_max.max(32 << 20);
        self.receive_memory_bytes_max = self.receive_memory_bytes_max.max(32 << 20);
        self.retry_delay_ms = self.retry_delay_ms.clamp(1, 10_000);
        self.retry_delay_max_ms = self.retry_delay_max_ms.clamp(self.retry_delay_ms, 60_000);
        self.ack_interval_ms = self.ack_interval_ms.clamp(10, 60_000);
        self.ack_records = self.ack_records.max(1);
        self.lag_warn_ms = self.lag_warn_ms.max(1);
        self.reconcile_interval_ms = self.reconcile_interval_ms.clamp(10, 5_000);
        self.verb_timeout_ms = self.verb_timeout_ms.clamp(1_000, 120_000);
        self
    }

    /// [`ReplicationSettings::ship_linger_ms`] as a duration.
    pub(crate) fn ship_linger(&self) -> Duration {
        Duration::from_millis(self.ship_linger_ms)
    }

    /// [`ReplicationSettings::ack_interval_ms`] as a duration.
    pub(crate) fn ack_interval(&self) -> Duration {
        Duration::from_millis(self.ack_interval_ms)
    }

    /// The greatest delay before asking for what passes within a moment.
    pub(crate) fn retry_delay_soon(&self) -> Duration {
        Duration::from_millis(self.retry_delay_max_ms.min(200))
    }

    /// The greatest delay before asking a peer again that has too much to do.
    pub(crate) fn retry_delay_gentle(&self) -> Duration {
        Duration::from_millis(self.retry_delay_max_ms.min(1_000))
    }

    /// The delay before the `failures`-th retry (from 1), before jitter.
    pub(crate) fn retry_delay(&self, failures: u32) -> Duration {
        let doubled = self
            .retry_delay_ms
            .saturating_mul(1 << failures.saturating_sub(1).min(20));
        Duration::from_millis(doubled.min(self.retry_delay_max_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_moved_into_their_bounds() {
        let wild = ReplicationSettings {
            ship_bytes_max: usize::MAX,
            ship_window: 0,
            retry_delay_ms: 0,
            retry_delay_max_ms: 0,
            ..ReplicationSettings::default()
        }
        .clamped();
        assert_eq!((wild.ship_bytes_max, wild.ship_window), (2 << 20, 1));
        assert_eq!((wild.retry_delay_ms, wild.retry_delay_max_ms), (1, 1));
        let small = ReplicationSettings {
            ship_memory_bytes_max: 0,
            ..ReplicationSettings::default()
        };
        // A read asks for that much at once: more than there is would never be met.
        assert!(small.clamped().ship_memory_bytes_max >= RUN_HELD_BYTES_MAX);
        let default = ReplicationSettings::default();
        assert_eq!(default.clone().clamped(), default);
    }

    #[test]
    fn delays_double_up_to_the_greatest() {
        let settings = ReplicationSettings::default();
        let delays: Vec<u128> = [1, 2, 3, 6, 100]
            .iter()
            .map(|n| settings.retry_delay(*n).as_millis())
            .collect();
        assert_eq!(delays, [100, 200, 400, 3_000, 3_000]);
    }
}
