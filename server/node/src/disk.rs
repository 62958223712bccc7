//! The disk guard: writes are refused while the free space is under the reserve, so that the Raft log, votes and flushes
//! of what has been accepted always find room. Space is looked at, not assumed: when it returns, writes return, without
//! a restart.

use crate::surroundings::{Space, Storage};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Free and used space of the data directory's file system, as last measured.
pub struct DiskGauge {
    path: PathBuf,
    storage: Arc<dyn Storage>,
    reserve_bytes: u64,
    free_bytes: AtomicU64,
    used_bytes: AtomicU64,
    low: AtomicBool,
}

impl DiskGauge {
    /// A gauge of the file system that holds `path`. Measures once.
    pub fn new(path: PathBuf, reserve_bytes: u64, storage: Arc<dyn Storage>) -> DiskGauge {
        let gauge = DiskGauge {
            path,
            storage,
            reserve_bytes,
            free_bytes: AtomicU64::new(u64::MAX),
            used_bytes: AtomicU64::new(0),
            low: AtomicBool::new(false),
        };
        gauge.measure();
        gauge
    }

    /// Looks at the file system. Returns true if the answer to [`DiskGauge::is_low`] changed.
    ///
    /// A little hysteresis (an eighth of the reserve) keeps a disk at the edge from flapping.
    pub fn measure(&self) -> bool {
        let Some(Space { free_bytes, used_bytes }) = self.storage.space(&self.path) else {
            return false;
        };
        let free = free_bytes;
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        self.used_bytes.store(used_bytes, Ordering::Relaxed);
        let was = self.low.load(Ordering::Relaxed);
        let is = if was {
            free < self.reserve_bytes + self.reserve_bytes / 8
        } else {
            free < self.reserve_bytes
        };
        self.low.store(is, Ordering::Relaxed);
        was != is
    }

    /// True while writes must be refused.
    pub fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// Bytes that are free to this process.
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Bytes used on the file system.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// The reserve.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surroundings::SystemStorage;

    #[test]
    fn low_under_an_impossible_reserve_and_not_under_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(DiskGauge::new(dir.path().into(), u64::MAX / 2, Arc::new(SystemStorage)).is_low());
        let gauge = DiskGauge::new(dir.path().into(), 0, Arc::new(SystemStorage));
        assert!(!gauge.is_low() && gauge.free_bytes() > 0 && gauge.free_bytes() < u64::MAX);
    }
}
