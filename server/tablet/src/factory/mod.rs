//! Where a tablet's engine comes from: RocksDB in the product, memory in tests and simulation.

mod generations;
mod memory;
mod rocks;

pub use memory::MemoryFactory;
pub use rocks::RocksFactory;

use std::path::Path;
use std::sync::Arc;
use tidemark_base::TabletId;
use tidemark_engine::{Engine, EngineError};

/// Makes, replaces and destroys the engines of one node's tablets. Calls block.
pub trait EngineFactory: Send + Sync + 'static {
    /// Opens a tablet's engine, existing or new. What an interrupted replacement left behind is removed.
    fn open(&self, tablet: TabletId) -> Result<Arc<dyn Engine>, EngineError>;

    /// Replaces a tablet's engine by a checkpoint, which may be moved. Crash-safe: afterwards either the old or the new
    /// state opens. The old engine may still be read by open cursors until they end. With [`EngineError::NoSpace`] nothing
    /// was changed and the checkpoint is whole: the same may be tried again.
    fn install(&self, tablet: TabletId, checkpoint: &Path) -> Result<Arc<dyn Engine>, EngineError>;

    /// True if a file of some size can be written where that tablet lives. Asked while its engine says that the disk is full.
    fn has_room(&self, _tablet: TabletId) -> bool {
        true
    }

    /// Destroys a tablet's engine and all that it stored. Fine if there is none.
    fn destroy(&self, tablet: TabletId) -> Result<(), EngineError>;

    /// The log of a tablet has reached that time (microseconds since 1970) up to its flushed cut: compaction may forget
    /// what had expired by then, and nothing younger (see [`crate::LogTime`]).
    fn advance_log_time(&self, _tablet: TabletId, _micros: i64) {}
}
