//! openraft's own storage suite against both log stores and the state machine's glue.

use crate::log::{FileLog, FileLogOptions, LogStore, MemoryLog};
use crate::raft::Types;
use crate::raft_log::RaftLog;
use crate::state_machine::{Machine, MachineShared};
use crate::testing::MachineDisk;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;
use tempfile::TempDir;
use tidemark_base::GroupId;

struct MemoryStores;
struct FileStores;

fn stores(dir: TempDir, store: Arc<dyn LogStore>) -> (TempDir, RaftLog, Machine) {
    let group = GroupId(9);
    let log = RaftLog {
        store,
        group,
        read_bytes_max: 1 << 20,
        durable: None,
    };
    let disk = MachineDisk::new();
    disk.allow_gaps();
    disk.flush_every(1);
    let shared = MachineShared::open(group, disk.machine(), dir.path().to_path_buf()).unwrap();
    shared.set_running();
    (dir, log.clone(), Machine { shared, log })
}

impl StoreBuilder<Types, RaftLog, Machine, TempDir> for MemoryStores {
    async fn build(&self) -> Result<(TempDir, RaftLog, Machine), StorageError<Types>> {
        Ok(stores(tempfile::tempdir().unwrap(), MemoryLog::new()))
    }
}

impl StoreBuilder<Types, RaftLog, Machine, TempDir> for FileStores {
    async fn build(&self) -> Result<(TempDir, RaftLog, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let log = FileLog::open(&dir.path().join("log"), FileLogOptions::default()).unwrap();
        Ok(stores(dir, log))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_log_passes_openrafts_storage_suite() {
    Suite::test_all(MemoryStores).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_log_passes_openrafts_storage_suite() {
    Suite::test_all(FileStores).await.unwrap();
}
