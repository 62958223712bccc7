//! Background compaction asks the judge (`reap`) for each fact that it rewrites.
//!
//! A compaction sees some files only, so no tombstone goes here (`Rules::stable` is `None`); what was seen is enough to
//! drop what it kills or supersedes, because a fact that existed once stays true.

use crate::reap::{Reaper, Rules, Verdict};
use crate::view::RangeTombstones;
use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_base::TableSchema;
use tidemark_runtime::SharedClock;

/// What compactions go by. The engine writes it, filters read it when they begin.
///
/// All of it is as of the last flush. A compaction changes files at once, while a crash takes away what was applied since
/// the flush: had it gone by a newer row range or schema, the tablet would be short of cells that the entries to be
/// replayed could still see.
pub(super) struct FilterState {
    pub(super) dir: PathBuf,
    pub(super) schema: ArcSwapOption<TableSchema>,
    pub(super) range_tombstones: ArcSwap<BTreeSet<crate::key::RangeTombstone>>,
    pub(super) clock: SharedClock,
    pub(super) cells_dropped: AtomicU64,
    /// Filters made: one for each compaction.
    pub(super) compactions: AtomicU64,
    /// Keys of series records that grew above their bound; see `RocksEngine::cut_large_blocks`.
    pub(super) large: Mutex<BTreeSet<Vec<u8>>>,
}

impl FilterState {
    fn rules(&self) -> Rules {
        Rules {
            schema: self.schema.load_full(),
            now_micros: self.clock.now_micros(),
            range_tombstones: RangeTombstones::clone(&self.range_tombstones.load()),
            stable: None,
        }
    }
}

/// Makes a filter for each compaction of a tablet's facts.
pub(super) struct FilterFactory(pub(super) Arc<FilterState>);

impl CompactionFilterFactory for FilterFactory {
    type Filter = Filter;

    fn create(&mut self, _context: CompactionFilterContext) -> Filter {
        self.0.compactions.fetch_add(1, Ordering::Relaxed);
        Filter {
            reaper: Reaper::new(self.0.rules()),
            state: self.0.clone(),
            cells_dropped: 0,
        }
    }

    fn name(&self) -> &CStr {
        c"tidemark.facts"
    }
}

/// One compaction's judge.
pub(super) struct Filter {
    reaper: Reaper,
    state: Arc<FilterState>,
    cells_dropped: u64,
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        match self.reaper.judge(key, value) {
            Verdict::Keep => CompactionDecision::Keep,
            Verdict::Strip => CompactionDecision::Change(&[crate::key::VALUE_DEAD]),
            Verdict::Drop | Verdict::Forget => {
                self.cells_dropped += 1;
                CompactionDecision::Remove
            }
        }
    }

    fn name(&self) -> &CStr {
        c"tidemark.facts"
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        self.state
            .cells_dropped
            .fetch_add(self.cells_dropped, Ordering::Relaxed);
        for alarm in self.reaper.take_alarms() {
            // Both facts were kept, so every read of the coordinate raises the error as well.
            tracing::error!(dir = %self.state.dir.display(), "corruption: {alarm}");
        }
    }
}
