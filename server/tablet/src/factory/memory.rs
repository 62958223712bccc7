//! Engines in memory: for tests and simulation. They live as long as the factory, so a tablet can be stopped and started.

use super::EngineFactory;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tidemark_base::TabletId;
use tidemark_engine::{Engine, EngineError, MemoryEngine};

/// Keeps one memory engine per tablet. Clones are the same node.
#[derive(Clone, Default)]
pub struct MemoryFactory {
    engines: Arc<Mutex<BTreeMap<TabletId, MemoryEngine>>>,
}

impl MemoryFactory {
    /// A node without tablets.
    pub fn new() -> MemoryFactory {
        MemoryFactory::default()
    }

    /// A tablet's engine, if it was opened before: to look inside, to crash it, to make it fail.
    pub fn engine(&self, tablet: TabletId) -> Option<MemoryEngine> {
        self.engines.lock().get(&tablet).cloned()
    }
}

impl EngineFactory for MemoryFactory {
    /// An engine that was open before comes back as a crash would leave it: at its last flush.
    fn open(&self, tablet: TabletId) -> Result<Arc<dyn Engine>, EngineError> {
        let mut engines = self.engines.lock();
        let engine = engines.entry(tablet).or_default();
        engine.crash();
        Ok(Arc::new(engine.clone()))
    }

    fn install(&self, tablet: TabletId, checkpoint: &Path) -> Result<Arc<dyn Engine>, EngineError> {
        let engine = MemoryEngine::open_checkpoint(checkpoint)?;
        engine.flush()?;
        self.engines.lock().insert(tablet, engine.clone());
        Ok(Arc::new(engine))
    }

    fn destroy(&self, tablet: TabletId) -> Result<(), EngineError> {
        self.engines.lock().remove(&tablet);
        Ok(())
    }
}
