//! What a tablet does from time to time: flush, drain, forget, collect garbage. Called by the node about every second.

use crate::operation::drain;
use crate::proposer::What;
use crate::shared::durable_log_micros;
use crate::tablet::Tablet;
use std::sync::atomic::Ordering;
use tidemark_base::{Stamp, limits};
use tidemark_engine::{EngineError, GarbageCut};
use tokio::sync::oneshot;

/// Bytes of a command that carries nothing but numbers, for the queue's budget.
const SMALL: usize = 64;
/// While the tablet is nearly out of row-range tombstones, collections come this many times as often.
const GC_HURRY: i64 = 60;

impl Tablet {
    /// One round; one at a time. Errors are logged here: nobody else waits for them, and the next round tries again.
    pub async fn maintain(&self) {
        self.flush_if_due();
        self.shared().engine().shed_kept();
        self.drain().await;
        self.collect_garbage_if_due().await;
    }

    fn flush_if_due(&self) {
        let shared = self.shared();
        let bytes = shared.engine().unflushed_bytes();
        let (now, since) = (
            self.monotonic_micros(),
            shared.unflushed_at_micros.load(Ordering::Relaxed),
        );
        let late = since != i64::MIN
            && u64::try_from(now.saturating_sub(since) / 1_000).is_ok_and(|ms| ms >= shared.settings.flush_after_ms);
        // A flush shows in that less is unflushed than a round ago. Where it fails it is asked for again in the next round.
        let before = shared.unflushed_seen_bytes.swap(bytes, Ordering::Relaxed);
        if bytes >= shared.settings.flush_bytes || (bytes > 0 && late) {
            shared.flush_wanted.notify_one();
        }
        if bytes == 0 {
            shared.unflushed_at_micros.store(i64::MIN, Ordering::Relaxed);
        } else if since == i64::MIN || bytes < before {
            shared.unflushed_at_micros.store(now, Ordering::Relaxed);
        }
    }

    /// On the leader: the next step of draining the quarantine, or of forgetting tokens.
    async fn drain(&self) {
        let shared = self.shared();
        let state = shared.replication();
        let wanted = state.drain_pending || (state.tokens > 0 && self.token_round());
        // Tokens expire by this clock: not while it is not trusted.
        let trusted = shared.refused_stamping().is_none();
        if !wanted || !trusted || !self.leads() {
            return;
        }
        let command = drain::encode(shared.clock.now_ms());
        if let Err(error) = self.ask(SMALL, |answer| What::Plain(command, answer)).await {
            tracing::debug!(tablet = %shared.descriptor, %error, "draining waits for the next round");
        }
    }

    async fn collect_garbage_if_due(&self) {
        let shared = self.shared();
        let Some(schema) = shared.schema() else { return };
        let since = self.since_gc_micros();
        let interval = i64::try_from(shared.settings.gc_interval_ms).unwrap_or(i64::MAX / 1_000) * 1_000;
        let hurry = shared.engine().range_tombstones() > limits::RANGE_TOMBSTONES_MAX / 4 * 3;
        if since < if hurry { interval / GC_HURRY } else { interval } {
            return;
        }
        shared.gc_at_micros.store(self.monotonic_micros(), Ordering::Relaxed);
        // Expiry follows the log (time.rs): a tablet that is written no more needs an entry that says how late it is.
        if self.leads() && schema.peers.is_empty() {
            let closed = self.ask(SMALL, What::Close).await;
            if let Err(error) = closed {
                tracing::debug!(tablet = %shared.descriptor, %error, "garbage is collected by the last stamp");
            }
        }
        self.collect_garbage().await;
    }

    /// Collects garbage now, up to the stable cut. Blocks a blocking thread, not the caller's.
    pub async fn collect_garbage(&self) {
        let shared = self.shared().clone();
        let stable = self.stable_cut();
        let wall = shared.clock.now_micros();
        let collect = move || -> Result<_, EngineError> {
            shared.flush()?;
            let engine = shared.engine();
            let now_micros = durable_log_micros(&*engine).unwrap_or(i64::MIN).min(wall);
            let report = engine.collect_garbage(GarbageCut { stable, now_micros })?;
            if !report.skipped {
                shared.counters.garbage_collections.inc();
            }
            Ok(report)
        };
        let descriptor = &self.shared().descriptor;
        match tidemark_runtime::spawn_blocking(collect).await {
            Ok(Ok(report)) => {
                tracing::debug!(tablet = %descriptor, cells = report.cells_dropped,
                    tombstones = report.tombstones_dropped, skipped = report.skipped, "garbage collected");
            }
            Ok(Err(error)) => tracing::error!(tablet = %descriptor, %error, "garbage collection failed"),
            Err(error) => tracing::error!(tablet = %descriptor, %error, "garbage collection panicked"),
        }
    }

    /// R12 in its simple form: no fact with a stamp at or below it can arrive here any more.
    pub fn stable_cut(&self) -> Stamp {
        let shared = self.shared();
        match shared.schema() {
            Some(schema) => shared.replication().stable_cut(&schema, &shared.descriptor.range),
            None => Stamp::MIN,
        }
    }

    /// Time since the last round of garbage collection, microseconds. The first call only sets the mark: a node that
    /// starts a thousand tablets does not compact all of them at once.
    fn since_gc_micros(&self) -> i64 {
        let shared = self.shared();
        let now = self.monotonic_micros();
        let last = shared.gc_at_micros.load(Ordering::Relaxed);
        if last == i64::MIN {
            shared.gc_at_micros.store(now, Ordering::Relaxed);
            return 0;
        }
        now.saturating_sub(last)
    }

    fn monotonic_micros(&self) -> i64 {
        i64::try_from(self.shared().clock.monotonic().as_micros()).unwrap_or(i64::MAX)
    }

    /// True about once in sixty rounds.
    fn token_round(&self) -> bool {
        self.shared().rounds.fetch_add(1, Ordering::Relaxed).is_multiple_of(60)
    }

    /// Sends a request and waits for the body of its response.
    pub(crate) async fn ask(
        &self,
        bytes: usize,
        what: impl FnOnce(oneshot::Sender<tidemark_base::Result<bytes::Bytes>>) -> What,
    ) -> tidemark_base::Result<bytes::Bytes> {
        let (answer, outcome) = oneshot::channel();
        self.send(bytes, what(answer))?;
        self.wait(outcome).await
    }
}
