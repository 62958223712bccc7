//! What the parts of one tablet share: who it is, the current engine, and what apply has published.

use crate::descriptor::TabletDescriptor;
use crate::factory::EngineFactory;
use crate::replication_state::ReplicationState;
use crate::settings::TabletSettings;
use crate::state::{KEY_MARKS, Marks, State};
use crate::time::log_micros;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::time::Duration;
use tidemark_base::limits::MAX_SKEW_MS;
use tidemark_base::{RegionId, TableSchema};
use tidemark_engine::{Engine, EngineError};
use tidemark_runtime::{Counter, Metrics, SharedClock};
use tokio::sync::{Notify, watch};

/// See the module. Nothing here is held across an await.
pub(crate) struct Shared {
    pub(crate) descriptor: TabletDescriptor,
    pub(crate) settings: TabletSettings,
    pub(crate) clock: SharedClock,
    pub(crate) factory: Arc<dyn EngineFactory>,
    engine: RwLock<Arc<dyn Engine>>,
    schema: RwLock<Option<Arc<TableSchema>>>,
    replication: watch::Sender<Arc<ReplicationState>>,
    /// Someone wants the engine flushed.
    pub(crate) flush_wanted: Notify,
    /// Why this node must not stamp (R8), if so.
    pub(crate) stamping_refused: Mutex<Option<String>>,
    /// Wall clock (milliseconds) and monotonic clock when the wall clock was last found right; `None` = never yet.
    pub(crate) clock_found_right: Mutex<Option<(u64, Duration)>>,
    /// What broke apply, if something did.
    pub(crate) fault: Mutex<Option<String>>,
    /// Apply waits for room on the disk.
    pub(crate) no_space: AtomicBool,
    /// Per peer: the first feed record with rows behind its acknowledgement, as (number, hlc); it stays the answer until
    /// the peer has acknowledged it.
    pub(crate) oldest_unacked: Mutex<BTreeMap<RegionId, (u64, u64)>>,
    /// Monotonic time of the last garbage collection, microseconds; `i64::MIN` = none yet.
    pub(crate) gc_at_micros: AtomicI64,
    /// Monotonic time since when something was seen unflushed, microseconds; `i64::MIN` = nothing is.
    pub(crate) unflushed_at_micros: AtomicI64,
    /// How many bytes were, then.
    pub(crate) unflushed_seen_bytes: AtomicU64,
    /// Rounds of maintenance so far.
    pub(crate) rounds: AtomicU64,
    pub(crate) counters: Counters,
}

/// What a tablet counts, by table.
pub(crate) struct Counters {
    pub(crate) rows_written: Counter,
    pub(crate) entries_proposed: Counter,
    pub(crate) remote_rows: Counter,
    pub(crate) remote_duplicates: Counter,
    pub(crate) garbage_collections: Counter,
}

impl Counters {
    fn new(metrics: &Metrics, table: &str) -> Counters {
        let counter = |name, help| metrics.counter(name, help, &["table"]).with(&[table]);
        Counters {
            rows_written: counter("tidemark_tablet_rows_written", "Rows written by clients, by table."),
            entries_proposed: counter("tidemark_tablet_entries_proposed", "Log entries proposed, by table."),
            remote_rows: counter("tidemark_tablet_remote_rows", "Rows of peers applied, by table."),
            remote_duplicates: counter(
                "tidemark_tablet_remote_duplicates",
                "Messages of peers that had been applied before, by table.",
            ),
            garbage_collections: counter("tidemark_tablet_garbage_collections", "Garbage collections, by table."),
        }
    }
}

impl Shared {
    /// Why this node must not stamp now (R8), if so. Neighbours are compared with twice a second; a clock that jumps in
    /// between is caught by the monotonic one, before it gives a single stamp: one stamp of an hour ahead would hold
    /// the stream to every peer up for that hour.
    pub(crate) fn refused_stamping(&self) -> Option<String> {
        let refused = self.stamping_refused.lock().clone();
        refused.or_else(|| {
            let (wall_ms, then) = (*self.clock_found_right.lock())?;
            let passed = self.clock.monotonic().saturating_sub(then);
            let expected_ms = wall_ms.saturating_add(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX));
            let jumped_ms = self.clock.now_ms().abs_diff(expected_ms);
            (jumped_ms > MAX_SKEW_MS).then(|| format!("it jumped by {jumped_ms} ms since it was found right"))
        })
    }

    pub(crate) fn new(
        descriptor: TabletDescriptor,
        settings: TabletSettings,
        clock: SharedClock,
        factory: Arc<dyn EngineFactory>,
        engine: Arc<dyn Engine>,
        metrics: &Metrics,
    ) -> Shared {
        Shared {
            counters: Counters::new(metrics, &descriptor.table_name),
            descriptor,
            settings,
            clock,
            factory,
            engine: RwLock::new(engine),
            schema: RwLock::new(None),
            replication: watch::Sender::new(Arc::default()),
            flush_wanted: Notify::new(),
            stamping_refused: Mutex::new(None),
            clock_found_right: Mutex::new(None),
            fault: Mutex::new(None),
            no_space: AtomicBool::new(false),
            oldest_unacked: Mutex::default(),
            gc_at_micros: AtomicI64::new(i64::MIN),
            unflushed_at_micros: AtomicI64::new(i64::MIN),
            unflushed_seen_bytes: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
        }
    }

    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        self.engine.read().clone()
    }

    /// A snapshot took the old engine's place. Open cursors keep the old one until they end.
    pub(crate) fn replace_engine(&self, engine: Arc<dyn Engine>) {
        *self.engine.write() = engine;
        self.oldest_unacked.lock().clear();
    }

    pub(crate) fn schema(&self) -> Option<Arc<TableSchema>> {
        self.schema.read().clone()
    }

    pub(crate) fn replication(&self) -> Arc<ReplicationState> {
        self.replication.borrow().clone()
    }

    pub(crate) fn watch_replication(&self) -> watch::Receiver<Arc<ReplicationState>> {
        self.replication.subscribe()
    }

    /// Shows what apply has reached. Called by the owner of the state after each call.
    pub(crate) fn publish(&self, state: &State, engine: &dyn Engine) {
        let mut schema = self.schema.write();
        let same = match (&*schema, &state.schema) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        if !same {
            schema.clone_from(&state.schema);
            // A peer that left and came back begins anew.
            self.oldest_unacked.lock().clear();
        }
        drop(schema);
        let feed_bytes = if state.has_peers() { engine.feed_bytes() } else { 0 };
        self.replication.send_replace(Arc::new(state.publish(feed_bytes)));
    }

    /// Flushes, and tells compaction which time the flushed log has reached. Blocks.
    pub(crate) fn flush(&self) -> Result<(), EngineError> {
        let engine = self.engine();
        engine.flush()?;
        self.tell_time(&*engine);
        Ok(())
    }

    /// See `time.rs`.
    pub(crate) fn tell_time(&self, engine: &dyn Engine) {
        if let Some(micros) = durable_log_micros(engine) {
            self.factory.advance_log_time(self.descriptor.tablet, micros);
        }
    }
}

/// The time of the log up to the engine's flushed cut.
pub(crate) fn durable_log_micros(engine: &dyn Engine) -> Option<i64> {
    let marks = Marks::decode(&engine.durable_state(KEY_MARKS)?).ok()?;
    Some(log_micros(marks.hlc_max))
}
