//! One client's rhythm and chance.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;
use tokio::sync::watch;

/// When a client does its next operation, and what chance says.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The client's number in the history.
    pub(crate) client: u64,
    /// Chance, by seed and client.
    pub(crate) chance: ChaCha8Rng,
    every: Duration,
    stop: watch::Receiver<bool>,
}

impl Pace {
    pub(crate) fn new(seed: u64, client: u64, every_ms: u64, stop: watch::Receiver<bool>) -> Pace {
        Pace {
            client,
            chance: ChaCha8Rng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(client)),
            every: Duration::from_millis(every_ms),
            stop,
        }
    }

    /// Waits for the next turn, give or take a half; false when the load ends.
    pub(crate) async fn turn(&mut self) -> bool {
        let wait = self.every.mul_f64(self.chance.random_range(0.5..1.5));
        // Told to stop, or the load is gone: both end the wait before its time.
        let stopped = self.stop.wait_for(|stop| *stop);
        tokio::time::timeout(wait, stopped).await.is_err()
    }
}
