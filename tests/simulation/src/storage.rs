//! What outlives a node's process: its disk and its engines.

use crate::disk::SimulatedDisk;
use anyhow::Result;
use std::path::Path;
use std::sync::Arc;
use tidemark_consensus::{FileLogOptions, LogDisk, LogWriter};
use tidemark_node::identity::DataDir;
use tidemark_node::settings::Settings;
use tidemark_node::surroundings::{Space, Storage};
use tidemark_runtime::SharedClock;
use tidemark_tablet::{EngineFactory, MemoryFactory};

/// A node's storage. Clones are one storage.
#[derive(Clone)]
pub struct SimulatedStorage {
    /// The files of the Raft log.
    pub disk: SimulatedDisk,
    /// The tablets; one that is opened again comes back at its last flush.
    pub engines: MemoryFactory,
}

impl Storage for SimulatedStorage {
    fn log_disk(&self) -> Arc<dyn LogDisk> {
        Arc::new(self.disk.clone())
    }

    fn log_options(&self, settings: &Settings) -> FileLogOptions {
        FileLogOptions {
            segment_bytes: settings.typed.storage.log_segment.as_u64(),
            cache_bytes: 256 << 10,
            disk: self.log_disk(),
            writer: LogWriter::Task,
            ..FileLogOptions::default()
        }
    }

    fn engines(&self, _settings: &Settings, _data: &DataDir, _clock: &SharedClock) -> Result<Arc<dyn EngineFactory>> {
        Ok(Arc::new(self.engines.clone()))
    }

    fn space(&self, _path: &Path) -> Option<Space> {
        let (free_bytes, used_bytes) = self.disk.space();
        Some(Space { free_bytes, used_bytes })
    }
}
