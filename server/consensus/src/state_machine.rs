//! Shows the layer above's state machine to openraft, and keeps what both need to know about it: the applied state, the
//! durable index, a fault.
//!
//! A "snapshot" in openraft's sense is here only a statement: the state machine has its own files, so the position up to
//! which the log *could* be replaced is simply what is applied. Files are made (a checkpoint) only when a follower needs
//! them. What may be purged is decided elsewhere, from the durable index (INV-05).

use crate::machine::{ApplyError, CheckpointError, StateMachine, StateMachineFault};
use crate::raft::{self, LogId, OpaqueBytes, SnapshotMeta, StoredMembership, Types};
use crate::raft_log::DurableFloor;
use crate::types::{AppliedState, Entry, Payload};
use futures::stream::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{OptionalSend, Snapshot};
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemark_base::GroupId;
use tidemark_runtime::{Mark, mark};

/// Entries applied in one call of the state machine, at most.
const APPLY_ENTRIES_MAX: usize = 512;
/// Bytes after which a call is closed.
const APPLY_BYTES_MAX: usize = 4 << 20;
/// Pause before what a full disk refused is tried again. The machine is free meanwhile: it can be read and closed.
const ROOM_PAUSE: Duration = Duration::from_millis(200);

/// A directory with a checkpoint or a received snapshot; removed when nobody needs it any more.
#[derive(Debug)]
pub(crate) struct SnapshotDir {
    path: PathBuf,
}

impl SnapshotDir {
    pub(crate) fn new(path: PathBuf) -> SnapshotDir {
        SnapshotDir { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SnapshotDir {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "old snapshot stays until the next start")
            }
        }
    }
}

/// What openraft hands around as a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFiles {
    /// None for the mere statement made while a replica starts.
    pub(crate) dir: Option<Arc<SnapshotDir>>,
    pub(crate) state: AppliedState,
}

struct Slot {
    /// None after the group was stopped: the machine is closed then, whoever still holds this.
    machine: Option<Box<dyn StateMachine>>,
}

/// The state machine of one group, shared by openraft's worker, housekeeping and status.
pub(crate) struct MachineShared {
    group: GroupId,
    slot: Mutex<Slot>,
    applied: Mutex<AppliedState>,
    fault: Mutex<Option<String>>,
    durable: DurableFloor,
    snapshot_root: PathBuf,
    snapshot_sequence: AtomicU64,
    /// Kept for retries, until housekeeping lets it go.
    checkpoint: Mutex<Option<(SnapshotFiles, u32)>>,
    /// False while openraft reads the initial state, when a statement is enough.
    running: AtomicBool,
}

impl MachineShared {
    pub(crate) fn open(
        group: GroupId,
        mut machine: Box<dyn StateMachine>,
        snapshot_root: PathBuf,
    ) -> Result<Arc<MachineShared>, StateMachineFault> {
        let applied = machine.applied()?;
        // What is there at open is the flushed cut, so it is durable whatever `durable_index` says yet.
        let durable = applied.position.map_or(0, |p| p.index).max(machine.durable_index());
        Ok(Arc::new(MachineShared {
            group,
            slot: Mutex::new(Slot { machine: Some(machine) }),
            applied: Mutex::new(applied),
            fault: Mutex::new(None),
            durable: Arc::new(AtomicU64::new(durable)),
            snapshot_root,
            snapshot_sequence: AtomicU64::new(0),
            checkpoint: Mutex::new(None),
            running: AtomicBool::new(false),
        }))
    }

    pub(crate) fn durable_floor(&self) -> DurableFloor {
        self.durable.clone()
    }

    pub(crate) fn durable_index(&self) -> Option<u64> {
        Some(self.durable.load(Ordering::Acquire)).filter(|index| *index > 0)
    }

    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    /// Ends this replica's service for a reason outside the machine. The first reason stays; the machine is not called
    /// again.
    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(group = %self.group, %reason, "replica poisoned: its group stops on this node");
        self.fault.lock().get_or_insert(reason);
    }

    pub(crate) fn set_running(&self) {
        self.running.store(true, Ordering::Release);
    }

    /// Closes the state machine. Blocking: it may take as long as closing its files takes.
    pub(crate) fn close(&self) {
        self.checkpoint.lock().take();
        let machine = self.slot.lock().machine.take();
        drop(machine);
    }

    /// Runs one call on the machine. After a fault, or a panic inside the machine, it is never called again (poisoned).
    fn call<T>(
        &self,
        f: impl FnOnce(&mut dyn StateMachine) -> Result<T, StateMachineFault>,
    ) -> Result<T, StateMachineFault> {
        if let Some(fault) = self.fault() {
            return Err(StateMachineFault(fault));
        }
        let mut slot = self.slot.lock();
        let Some(machine) = slot.machine.as_deref_mut() else {
            return Err(StateMachineFault("stopped".to_string()));
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(machine)))
            .unwrap_or_else(|_| Err(StateMachineFault("panicked".to_string())));
        match &result {
            Ok(_) => self.raise_durable(machine.durable_index()),
            Err(fault) => self.fail(fault.0.clone()),
        }
        result
    }

    /// Runs a call about a checkpoint; the inner error says that nothing was changed, and does not poison.
    fn call_checkpoint<T>(
        &self,
        f: impl FnOnce(&mut dyn StateMachine) -> Result<T, CheckpointError>,
    ) -> Result<Result<T, String>, StateMachineFault> {
        self.call(|machine| match f(machine) {
            Ok(done) => Ok(Ok(done)),
            Err(CheckpointError::Kept(why)) => Ok(Err(why)),
            Err(CheckpointError::Fault(fault)) => Err(fault),
        })
    }

    fn raise_durable(&self, index: u64) {
        // The durable index never says more than what was applied here.
        let applied = self.applied.lock().position.map_or(0, |p| p.index);
        self.durable.fetch_max(index.min(applied), Ordering::AcqRel);
    }

    /// Reads the durable index if the machine is not busy; a later round will see it otherwise.
    pub(crate) fn refresh_durable(&self) {
        let index = match self.slot.try_lock() {
            Some(slot) => slot.machine.as_ref().map(|machine| machine.durable_index()),
            None => None,
        };
        if let Some(index) = index {
            self.raise_durable(index);
        }
    }

    /// Asks for a flush. Blocking while the machine is busy.
    pub(crate) fn request_flush(&self) {
        let _ = self.call(|machine| {
            machine.request_flush();
            Ok(())
        });
    }

    /// Lets go of a checkpoint that no transfer used for `rounds` rounds of housekeeping.
    pub(crate) fn expire_checkpoint(&self, rounds: u32) {
        let mut checkpoint = self.checkpoint.lock();
        let Some((files, age)) = checkpoint.as_mut() else {
            return;
        };
        let in_use = files.dir.as_ref().is_some_and(|dir| Arc::strong_count(dir) > 1);
        *age = if in_use { 0 } else { *age + 1 };
        if *age > rounds {
            *checkpoint = None;
        }
    }

    /// Applies entries, all of them or, if the disk is full, the first few: one response for each that was applied, and
    /// what the storage said about the rest.
    fn apply(&self, entries: &[Entry]) -> Result<(Vec<bytes::Bytes>, Option<String>), StateMachineFault> {
        if entries.is_empty() {
            return Ok((Vec::new(), None));
        }
        self.call(|machine| {
            let (responses, full) = match machine.apply(entries.to_vec()) {
                Ok(responses) if responses.len() == entries.len() => (responses, None),
                Err(ApplyError::NoSpace { responses, why }) if responses.len() < entries.len() => {
                    (responses, Some(why))
                }
                Ok(responses) | Err(ApplyError::NoSpace { responses, .. }) => {
                    return Err(StateMachineFault(format!(
                        "{} responses for {} entries",
                        responses.len(),
                        entries.len()
                    )));
                }
                Err(ApplyError::Fault(fault)) => return Err(fault),
            };
            let done = &entries[..responses.len()];
            let membership = done.iter().rev().find_map(|entry| match &entry.payload {
                Payload::Membership(bytes) => Some((entry.position, bytes.clone())),
                _ => None,
            });
            let mut applied = self.applied.lock();
            if let Some(last) = done.last() {
                applied.position = Some(last.position);
            }
            if membership.is_some() {
                applied.membership = membership;
            }
            Ok((responses, full))
        })
    }

    fn checkpoint(&self, dir: &Path) -> Result<Result<AppliedState, String>, StateMachineFault> {
        self.call_checkpoint(|machine| machine.checkpoint(dir))
    }

    /// Installs a received snapshot; the inner error says that the old state is still there, and the snapshot whole.
    fn install(&self, files: &SnapshotFiles) -> Result<Result<(), String>, StateMachineFault> {
        let dir = files
            .dir
            .clone()
            .ok_or_else(|| StateMachineFault("a snapshot without files".to_string()))?;
        self.call_checkpoint(|machine| {
            let installed = machine.install(dir.path())?;
            if installed != files.state {
                let fault = StateMachineFault(format!(
                    "the installed snapshot holds {:?}, its sender promised {:?}",
                    installed.position, files.state.position
                ));
                return Err(fault.into());
            }
            *self.applied.lock() = installed.clone();
            // `install` promises that the new state is durable.
            self.durable
                .fetch_max(installed.position.map_or(0, |p| p.index), Ordering::AcqRel);
            Ok(())
        })
    }

    fn meta(&self, state: &AppliedState) -> io::Result<SnapshotMeta> {
        let membership = raft::stored_membership(&state.membership).map_err(io::Error::other)?;
        Ok(SnapshotMeta {
            last_log_id: state.position.as_ref().map(raft::log_id),
            last_membership: membership,
        })
    }

    fn statement(&self) -> io::Result<Snapshot<raft::LeaderId, u64, openraft::EmptyNode, SnapshotFiles>> {
        let state = self.applied.lock().clone();
        Ok(Snapshot {
            meta: self.meta(&state)?,
            snapshot: SnapshotFiles { dir: None, state },
        })
    }
}

/// openraft's handle on the machine.
pub(crate) struct Machine {
    pub(crate) shared: Arc<MachineShared>,
    /// The last purged index of this group's log: a checkpoint below it cannot be continued from the log.
    pub(crate) log: crate::raft_log::RaftLog,
}

/// Blocking calls of a machine run on a blocking thread; a lost thread is a fault like any other.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, StateMachineFault> + Send + 'static,
) -> io::Result<T> {
    tidemark_runtime::spawn_blocking(f)
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}

impl Machine {
    async fn apply_batch(
        &self,
        entries: &mut Vec<Entry>,
        responders: &mut Vec<Option<ApplyResponder<Types>>>,
    ) -> io::Result<()> {
        let mut waits = false;
        loop {
            let (responses, full) = self.shared.apply(entries).map_err(io::Error::other)?;
            entries.drain(..responses.len());
            for (responder, response) in responders.drain(..responses.len()).zip(responses) {
                if let Some(responder) = responder {
                    responder.send(OpaqueBytes(response));
                }
            }
            let Some(why) = full else {
                if waits {
                    tracing::info!(group = %self.shared.group, "there is room again: committed entries are applied");
                }
                return Ok(());
            };
            if !std::mem::replace(&mut waits, true) {
                tracing::warn!(group = %self.shared.group, %why, "the disk is full: committed entries wait to be applied");
            }
            tokio::time::sleep(ROOM_PAUSE).await;
        }
    }

    /// The kept checkpoint if the log still continues it, or a new one. If none can be made now (a full disk), a mere
    /// statement: its transfer fails, and openraft asks again after a while.
    async fn checkpoint(&self) -> io::Result<SnapshotFiles> {
        let purged = self.log.store.state(self.log.group).purged.map_or(0, |p| p.index);
        if let Some((files, age)) = self.shared.checkpoint.lock().as_mut()
            && files.state.position.is_some_and(|p| p.index >= purged)
        {
            *age = 0;
            return Ok(files.clone());
        }
        let sequence = self.shared.snapshot_sequence.fetch_add(1, Ordering::Relaxed);
        let path = self
            .shared
            .snapshot_root
            .join(format!("out-{}-{sequence}", self.shared.group.0));
        let dir = Arc::new(SnapshotDir::new(path));
        let (shared, target) = (self.shared.clone(), dir.clone());
        let state = match blocking(move || shared.checkpoint(target.path())).await? {
            Ok(state) => state,
            Err(why) => {
                tracing::warn!(group = %self.shared.group, %why, "no checkpoint can be made now; it is tried again");
                let state = self.shared.applied.lock().clone();
                return Ok(SnapshotFiles { dir: None, state });
            }
        };
        let files = SnapshotFiles { dir: Some(dir), state };
        *self.shared.checkpoint.lock() = Some((files.clone(), 0));
        Ok(files)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = StatementBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.shared.applied.lock().clone();
        let membership = raft::stored_membership(&state.membership).map_err(io::Error::other)?;
        Ok((state.position.as_ref().map(raft::log_id), membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Vec::new();
        let mut responders = Vec::new();
        let mut bytes = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let entry = raft::entry(entry);
            bytes += entry.payload.len();
            batch.push(entry);
            responders.push(responder);
            if batch.len() >= APPLY_ENTRIES_MAX || bytes >= APPLY_BYTES_MAX {
                self.apply_batch(&mut batch, &mut responders).await?;
                bytes = 0;
            }
        }
        self.apply_batch(&mut batch, &mut responders).await
    }

    async fn get_snapshot_builder(&mut self) -> StatementBuilder {
        StatementBuilder {
            shared: self.shared.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFiles) -> Result<(), io::Error> {
        debug_assert_eq!(meta.last_log_id, snapshot.state.position.as_ref().map(raft::log_id));
        self.shared.checkpoint.lock().take();
        // openraft has decided that this state comes next: until it is there, nothing can be applied. So it waits here.
        loop {
            let (shared, files) = (self.shared.clone(), snapshot.clone());
            match blocking(move || shared.install(&files)).await? {
                Ok(()) => {
                    mark(Mark::SnapshotInstalled);
                    return Ok(());
                }
                Err(why) => {
                    tracing::warn!(group = %self.shared.group, %why, "a snapshot cannot be installed now; it is tried again");
                    tokio::time::sleep(ROOM_PAUSE).await;
                }
            }
        }
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<raft::LeaderId, u64, openraft::EmptyNode, SnapshotFiles>>, io::Error> {
        if self.shared.applied.lock().position.is_none() {
            return Ok(None);
        }
        if !self.shared.running.load(Ordering::Acquire) {
            return self.shared.statement().map(Some);
        }
        let files = self.checkpoint().await?;
        Ok(Some(Snapshot {
            meta: self.shared.meta(&files.state)?,
            snapshot: files,
        }))
    }
}

/// "Builds" a snapshot by stating what is applied.
pub(crate) struct StatementBuilder {
    shared: Arc<MachineShared>,
}

impl RaftSnapshotBuilder<Types> for StatementBuilder {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(
        &mut self,
    ) -> Result<Snapshot<raft::LeaderId, u64, openraft::EmptyNode, SnapshotFiles>, io::Error> {
        self.shared.statement()
    }
}
