//! The settings of a tablet: few, each with unit, default and bound.
//!
//! What must come out the same on every replica (token life, quarantine bound) is copied by the leader into the commands
//! that need it, so two nodes with different settings still apply alike.

use tidemark_base::{Error, Result, limits};

/// Bounds and intervals of one tablet on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TabletSettings {
    /// Bytes of client batches that are joined into one log entry, 4 KiB..=16 MiB. One larger batch travels alone.
    pub proposal_bytes_max: usize,
    /// Log entries on their way to commit at one time, 1..=4,096.
    pub proposals_in_flight_max: usize,
    /// Bytes of requests that wait for the proposer or are in flight; more is refused as busy. At least as large as the
    /// greatest batch.
    pub queue_bytes_max: usize,
    /// Unflushed bytes after which `maintain` flushes the engine.
    pub flush_bytes: u64,
    /// Milliseconds after which `maintain` flushes what it has seen unflushed, however little: a node that starts applies it
    /// again, for each of its tablets.
    pub flush_after_ms: u64,
    /// Idempotency tokens remembered; beyond that the oldest is forgotten. 1..=1,000,000 (about 100 bytes of memory each).
    pub tokens_max: u32,
    /// How long a token is remembered, milliseconds, by the clock of the log.
    pub token_ttl_ms: u64,
    /// How long a write waits for commit and apply before its outcome is called unknown, milliseconds.
    pub write_timeout_ms: u64,
    /// Of a tablet with peers: silence, in milliseconds, after which its leader commits a closing stamp.
    pub close_interval_ms: u64,
    /// Bytes of remote row mutations in quarantine; beyond that their stream parks. An entry counts at least 1 KiB.
    pub quarantine_bytes_max: u64,
    /// Bytes of feed beyond which writes are refused, so that an unreachable peer cannot fill the disk; 0 = no bound but
    /// the disk's, which is the default: a lost region must not stop the one that is left.
    pub feed_bytes_max: u64,
    /// Milliseconds between two full garbage collections of a tablet.
    pub gc_interval_ms: u64,
}

impl Default for TabletSettings {
    fn default() -> TabletSettings {
        TabletSettings {
            proposal_bytes_max: 1 << 20,
            proposals_in_flight_max: 64,
            queue_bytes_max: 32 << 20,
            flush_bytes: 64 << 20,
            flush_after_ms: 5 * 60 * 1_000,
            tokens_max: 100_000,
            token_ttl_ms: 600_000,
            write_timeout_ms: 10_000,
            close_interval_ms: 200,
            quarantine_bytes_max: 256 << 20,
            feed_bytes_max: 0,
            gc_interval_ms: 3_600_000,
        }
    }
}

impl TabletSettings {
    /// Refuses values that cannot work, naming the field.
    pub fn validate(&self) -> Result<()> {
        let refuse = |text: &str| Err(Error::invalid("SETTINGS_INVALID", text));
        if !(4 << 10..=16 << 20).contains(&self.proposal_bytes_max) {
            return refuse("proposal_bytes_max must be 4 KiB..=16 MiB");
        }
        if !(1..=4_096).contains(&self.proposals_in_flight_max) {
            return refuse("proposals_in_flight_max must be 1..=4096");
        }
        if self.queue_bytes_max < limits::BATCH_BYTES_MAX {
            return refuse("queue_bytes_max must hold the greatest batch (16 MiB and 64 KiB)");
        }
        if !(1..=1_000_000).contains(&self.tokens_max) {
            return refuse("tokens_max must be 1..=1000000");
        }
        if self.write_timeout_ms == 0 || self.close_interval_ms == 0 || self.gc_interval_ms == 0 {
            return refuse("write_timeout_ms, close_interval_ms and gc_interval_ms must be positive");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_each_bound_is_checked() {
        let good = TabletSettings::default();
        good.validate().unwrap();
        let mut bad = good.clone();
        bad.proposals_in_flight_max = 0;
        assert!(bad.validate().is_err());
        let mut bad = good.clone();
        bad.queue_bytes_max = limits::BATCH_BYTES_MAX - 1;
        assert!(bad.validate().is_err());
        let mut bad = good.clone();
        bad.tokens_max = 0;
        assert!(bad.validate().is_err());
        let mut bad = good.clone();
        bad.proposal_bytes_max = 100;
        assert!(bad.validate().is_err());
        let mut bad = good;
        bad.close_interval_ms = 0;
        assert!(bad.validate().is_err());
    }
}
