//! For tests of this and of higher layers: a network in memory whose links can be cut, a state machine that remembers what
//! it was given and what would survive a crash, and a disk for the log that fails on command.

use crate::codec::{self, Reader};
use crate::error::HandleError;
use crate::host::Host;
use crate::log::{LogDisk, LogFile, SystemDisk};
use crate::machine::{ApplyError, CheckpointError, StateMachine, StateMachineFault};
use crate::transport::{RaftMessage, Transport, TransportError};
use crate::types::{AppliedState, Entry, LogPosition, Payload};
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemark_base::NodeId;

/// All nodes of a test. A message goes straight to the target's [`Host::handle`].
#[derive(Default)]
pub struct MemoryNetwork {
    hosts: Mutex<BTreeMap<NodeId, Host>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    delivered: AtomicU64,
}

impl MemoryNetwork {
    /// A network without nodes.
    pub fn new() -> Arc<MemoryNetwork> {
        Arc::default()
    }

    /// The transport of one node.
    pub fn transport(self: &Arc<Self>, node: NodeId) -> Arc<dyn Transport> {
        Arc::new(MemoryTransport {
            network: self.clone(),
            node,
        })
    }

    /// Lets a node be reached; replaces an earlier host of the same node.
    pub fn attach(&self, node: NodeId, host: Host) {
        self.hosts.lock().insert(node, host);
    }

    /// A dead process: connections are refused at once.
    pub fn detach(&self, node: NodeId) {
        self.hosts.lock().remove(&node);
    }

    /// Cuts one direction: messages vanish and their senders time out.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.cut.lock().insert((from, to));
    }

    /// Cuts a node off from all others, both ways.
    pub fn isolate(&self, node: NodeId, others: impl IntoIterator<Item = NodeId>) {
        for other in others.into_iter().filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Heals every cut.
    pub fn heal(&self) {
        self.cut.lock().clear();
    }

    /// Messages that arrived so far.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.lock().contains(&(from, to))
    }
}

struct MemoryTransport {
    network: Arc<MemoryNetwork>,
    node: NodeId,
}

impl Transport for MemoryTransport {
    fn send(
        &self,
        target: NodeId,
        message: RaftMessage,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (network, node) = (self.network.clone(), self.node);
        Box::pin(async move {
            let exchange = async {
                if network.is_cut(node, target) {
                    std::future::pending::<()>().await;
                }
                let host = network.hosts.lock().get(&target).cloned();
                let host = host.ok_or_else(|| TransportError::Unreachable(format!("{target} is down")))?;
                network.delivered.fetch_add(1, Ordering::Relaxed);
                let answer = host.handle(message).await;
                if network.is_cut(target, node) {
                    std::future::pending::<()>().await;
                }
                answer.map_err(|error: HandleError| TransportError::Refused(error.to_string()))
            };
            tokio::time::timeout(timeout, exchange)
                .await
                .unwrap_or(Err(TransportError::Timeout))
        })
    }
}

/// What a [`MemoryMachine`] holds: every command with its position, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineContent {
    /// Applied position and membership.
    pub applied: AppliedState,
    /// The commands.
    pub commands: Vec<(LogPosition, Bytes)>,
}

#[derive(Default)]
struct MachineState {
    live: MachineContent,
    flushed: MachineContent,
    flush_every: u64,
    fail_apply: Option<String>,
    allow_gaps: bool,
    full: bool,
    refusals: u64,
}

/// The "disk" of a state machine in memory. Keep it across restarts of a replica; [`MachineDisk::machine`] opens it, which
/// forgets what was not flushed.
#[derive(Clone, Default)]
pub struct MachineDisk {
    state: Arc<Mutex<MachineState>>,
}

impl MachineDisk {
    /// An empty one that flushes only when it is asked to.
    pub fn new() -> MachineDisk {
        MachineDisk::default()
    }

    /// Flushes by itself whenever that many entries were applied since the last flush; 0 for never.
    pub fn flush_every(&self, entries: u64) {
        self.state.lock().flush_every = entries;
    }

    /// Makes the next applies fail.
    pub fn fail_apply(&self, fault: Option<&str>) {
        self.state.lock().fail_apply = fault.map(str::to_string);
    }

    /// While set, it has no room for commands, checkpoints and snapshots, and says so.
    pub fn set_full(&self, full: bool) {
        self.state.lock().full = full;
    }

    /// How often something was refused because it was full.
    pub fn refusals(&self) -> u64 {
        self.state.lock().refusals
    }

    fn check_room(&self) -> Result<(), CheckpointError> {
        let mut state = self.state.lock();
        if !state.full {
            return Ok(());
        }
        state.refusals += 1;
        Err(CheckpointError::Kept("full on command".to_string()))
    }

    /// Accepts entries that do not follow each other, as openraft's storage suite applies them.
    pub fn allow_gaps(&self) {
        self.state.lock().allow_gaps = true;
    }

    /// Opens it as after a crash: what was not flushed is gone.
    pub fn machine(&self) -> Box<MemoryMachine> {
        let mut state = self.state.lock();
        state.live = state.flushed.clone();
        Box::new(MemoryMachine { disk: self.clone() })
    }

    /// What is applied now.
    pub fn content(&self) -> MachineContent {
        self.state.lock().live.clone()
    }

    /// The applied commands, without positions.
    pub fn commands(&self) -> Vec<Bytes> {
        self.state
            .lock()
            .live
            .commands
            .iter()
            .map(|(_, command)| command.clone())
            .collect()
    }
}

/// See [`MachineDisk`]. Its response to a command is the command itself.
pub struct MemoryMachine {
    disk: MachineDisk,
}

const CONTENT_FILE: &str = "content";

fn encode_content(content: &MachineContent) -> Vec<u8> {
    let mut out = Vec::new();
    codec::put_bytes(&mut out, &content.applied.encode());
    codec::put_u64(&mut out, content.commands.len() as u64);
    for (position, command) in &content.commands {
        codec::put_position(&mut out, position);
        codec::put_bytes(&mut out, command);
    }
    out
}

fn decode_content(bytes: Bytes) -> Result<MachineContent, codec::Malformed> {
    let mut reader = Reader::new(bytes);
    let applied = AppliedState::decode(&reader.bytes("applied state")?)?;
    let count = reader.u64("count")?;
    let mut commands = Vec::new();
    for _ in 0..count {
        commands.push((reader.position("position")?, reader.bytes("command")?));
    }
    reader.finish("content")?;
    Ok(MachineContent { applied, commands })
}

fn fault(error: impl std::fmt::Display) -> StateMachineFault {
    StateMachineFault(error.to_string())
}

impl StateMachine for MemoryMachine {
    fn applied(&mut self) -> Result<AppliedState, StateMachineFault> {
        Ok(self.disk.state.lock().live.applied.clone())
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<Vec<Bytes>, ApplyError> {
        let mut state = self.disk.state.lock();
        if let Some(text) = &state.fail_apply {
            return Err(StateMachineFault(text.clone()).into());
        }
        let mut responses = Vec::with_capacity(entries.len());
        for entry in entries {
            if state.full && matches!(entry.payload, Payload::Command(_)) {
                state.refusals += 1;
                let why = "full on command".to_string();
                return Err(ApplyError::NoSpace { responses, why });
            }
            let follows = state.live.applied.position.map_or(0, |before| before.index + 1);
            assert!(
                state.allow_gaps || entry.position.index == follows,
                "entries are applied without holes"
            );
            state.live.applied.position = Some(entry.position);
            match entry.payload {
                Payload::Blank => responses.push(Bytes::new()),
                Payload::Membership(bytes) => {
                    state.live.applied.membership = Some((entry.position, bytes));
                    responses.push(Bytes::new());
                }
                Payload::Command(command) => {
                    responses.push(command.clone());
                    state.live.commands.push((entry.position, command));
                }
            }
        }
        let flushed = state.flushed.applied.position.map_or(0, |p| p.index);
        let applied = state.live.applied.position.map_or(0, |p| p.index);
        if state.flush_every > 0 && applied >= flushed + state.flush_every {
            state.flushed = state.live.clone();
        }
        Ok(responses)
    }

    fn durable_index(&self) -> u64 {
        self.disk.state.lock().flushed.applied.position.map_or(0, |p| p.index)
    }

    fn request_flush(&mut self) {
        let mut state = self.disk.state.lock();
        state.flushed = state.live.clone();
    }

    fn checkpoint(&mut self, dir: &Path) -> Result<AppliedState, CheckpointError> {
        self.disk.check_room()?;
        let content = self.disk.state.lock().live.clone();
        std::fs::create_dir(dir).map_err(fault)?;
        std::fs::write(dir.join(CONTENT_FILE), encode_content(&content)).map_err(fault)?;
        Ok(content.applied)
    }

    fn install(&mut self, dir: &Path) -> Result<AppliedState, CheckpointError> {
        self.disk.check_room()?;
        let bytes = std::fs::read(dir.join(CONTENT_FILE)).map_err(fault)?;
        let content = decode_content(bytes.into()).map_err(fault)?;
        let mut state = self.disk.state.lock();
        state.live = content.clone();
        state.flushed = content.clone();
        Ok(content.applied)
    }
}

/// What a [`FaultyDisk`] does wrong at the moment; shared by its clones.
#[derive(Default)]
struct Faults {
    /// Writes above `room_bytes` fail.
    no_space: AtomicBool,
    room_bytes: AtomicU64,
    fail_sync: AtomicBool,
    fail_write: AtomicBool,
    syncs: AtomicU64,
}

/// The system's files, with faults on command.
#[derive(Clone, Default)]
pub struct FaultyDisk {
    faults: Arc<Faults>,
}

impl FaultyDisk {
    /// Without faults for now.
    pub fn new() -> FaultyDisk {
        FaultyDisk::default()
    }

    /// While set, every write puts half of its bytes down and then fails with "no space", and no file can be created.
    pub fn set_no_space(&self, full: bool) {
        self.faults.room_bytes.store(0, Ordering::SeqCst);
        self.faults.no_space.store(full, Ordering::SeqCst);
    }

    /// As [`FaultyDisk::set_no_space`] with `true`, but a write of at most `bytes` still fits.
    pub fn set_room_bytes(&self, bytes: u64) {
        self.faults.room_bytes.store(bytes, Ordering::SeqCst);
        self.faults.no_space.store(true, Ordering::SeqCst);
    }

    /// The next sync fails; later ones would succeed.
    pub fn fail_next_sync(&self) {
        self.faults.fail_sync.store(true, Ordering::SeqCst);
    }

    /// The next write fails with an input/output error.
    pub fn fail_next_write(&self) {
        self.faults.fail_write.store(true, Ordering::SeqCst);
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.faults.syncs.load(Ordering::SeqCst)
    }
}

fn no_space() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl LogDisk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        SystemDisk.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        SystemDisk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        if self.faults.no_space.load(Ordering::SeqCst) {
            return Err(no_space());
        }
        Ok(Arc::new(FaultyFile {
            file: SystemDisk.create(path)?,
            faults: self.faults.clone(),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(FaultyFile {
            file: SystemDisk.open(path)?,
            faults: self.faults.clone(),
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        SystemDisk.sync_dir(dir)
    }
}

struct FaultyFile {
    file: Arc<dyn LogFile>,
    faults: Arc<Faults>,
}

impl LogFile for FaultyFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let room_bytes = self.faults.room_bytes.load(Ordering::SeqCst);
        if self.faults.no_space.load(Ordering::SeqCst) && bytes.len() as u64 > room_bytes {
            self.file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(no_space());
        }
        if self.faults.fail_write.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("the disk failed a write"));
        }
        self.file.write_all_at(bytes, offset)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        if self.faults.fail_sync.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("the disk failed a sync"));
        }
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
