//! Engines on RocksDB, one directory per tablet (`generations.rs`).

use super::EngineFactory;
use super::generations::{self, Generations};
use crate::time::LogTime;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use tidemark_base::TabletId;
use tidemark_engine::{Engine, EngineError, RocksEngine, RocksShared};
use tidemark_runtime::SharedClock;

/// The engines of one node under one directory.
pub struct RocksFactory {
    root: PathBuf,
    shared: Arc<RocksShared>,
    clock: SharedClock,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    times: BTreeMap<TabletId, Arc<LogTime>>,
    /// Generations that were replaced while a cursor may still read them; removed when the last one has ended.
    retired: Vec<(Weak<RocksEngine>, PathBuf)>,
    /// The engines that were handed out last.
    live: BTreeMap<TabletId, (Weak<RocksEngine>, PathBuf)>,
}

impl RocksFactory {
    /// Engines under `root`, which is made if it is not there, with the node's shared caches and threads.
    pub fn new(root: PathBuf, shared: Arc<RocksShared>, clock: SharedClock) -> Result<RocksFactory, EngineError> {
        generations::make_dir(&root)?;
        Ok(RocksFactory {
            root,
            shared,
            clock,
            known: Mutex::default(),
        })
    }

    fn generations(&self, tablet: TabletId) -> Generations {
        Generations::of(self.root.join(tablet.to_string()))
    }

    fn open_dir(&self, tablet: TabletId, dir: &Path) -> Result<Arc<RocksEngine>, EngineError> {
        let time = {
            let mut known = self.known.lock();
            let clock = self.clock.clone();
            known
                .times
                .entry(tablet)
                .or_insert_with(|| Arc::new(LogTime::new(clock)))
                .clone()
        };
        Ok(Arc::new(RocksEngine::open(dir, &self.shared, time)?))
    }
}

impl Known {
    fn sweep(&mut self) {
        self.retired.retain(|(engine, path)| {
            let read = engine.strong_count() > 0;
            if !read {
                generations::remove(path);
            }
            read
        });
    }

    fn is_read(&self, path: &Path) -> bool {
        self.retired.iter().any(|(_, retired)| retired == path)
    }
}

impl EngineFactory for RocksFactory {
    fn open(&self, tablet: TabletId) -> Result<Arc<dyn Engine>, EngineError> {
        let dir = {
            let mut known = self.known.lock();
            known.sweep();
            self.generations(tablet).open(|path| known.is_read(path))?
        };
        let engine = self.open_dir(tablet, &dir)?;
        self.known.lock().live.insert(tablet, (Arc::downgrade(&engine), dir));
        Ok(engine)
    }

    fn install(&self, tablet: TabletId, checkpoint: &Path) -> Result<Arc<dyn Engine>, EngineError> {
        let generations = self.generations(tablet);
        let (number, dir) = generations.adopt(checkpoint)?;
        // Opened before it is made live: what does not open must not take the place of what does.
        let opened = self.open_dir(tablet, &dir).and_then(|engine| {
            generations.switch(number)?;
            Ok(engine)
        });
        if let Err(EngineError::NoSpace(_)) = &opened {
            generations.give_back(&dir, checkpoint)?;
        }
        let engine = opened?;
        let mut known = self.known.lock();
        if let Some(old) = known.live.insert(tablet, (Arc::downgrade(&engine), dir)) {
            known.retired.push(old);
        }
        Ok(engine)
    }

    fn has_room(&self, tablet: TabletId) -> bool {
        self.generations(tablet).has_room()
    }

    fn destroy(&self, tablet: TabletId) -> Result<(), EngineError> {
        let mut known = self.known.lock();
        known.times.remove(&tablet);
        known.live.remove(&tablet);
        self.generations(tablet).destroy()
    }

    fn advance_log_time(&self, tablet: TabletId, micros: i64) {
        let mut known = self.known.lock();
        known.sweep();
        if let Some(time) = known.times.get(&tablet) {
            time.advance(micros);
        }
    }
}
