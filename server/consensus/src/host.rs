//! All groups of a node: one log, one transport, one round of housekeeping.

use crate::barrier::Barrier;
use crate::error::{ConsensusError, HandleError};
use crate::group::{self, Group, GroupInner};
use crate::log::{LogError, LogStore};
use crate::machine::StateMachine;
use crate::network::Network;
use crate::raft;
use crate::raft_log::RaftLog;
use crate::rest::{self, Beats, Rest};
use crate::settings::ConsensusSettings;
use crate::snapshot;
use crate::state_machine::{Machine, MachineShared};
use crate::transport::{MessageKind, RaftMessage, Transport};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tidemark_base::{GroupId, NodeId};
use tidemark_runtime::Entropy;
use tokio::sync::{Semaphore, oneshot, watch};

/// Groups that are looked after at the same time.
const HOUSEKEEPING_CONCURRENCY: usize = 16;

/// What a host is made from.
pub struct HostOptions {
    /// This node.
    pub node: NodeId,
    /// The node's only log store. Whoever opened it holds the lock on its directory.
    pub log: Arc<dyn LogStore>,
    /// For checkpoints and received snapshots: a directory of its own on the file system of the state machines.
    pub snapshot_dir: PathBuf,
    /// The way to the other nodes.
    pub transport: Arc<dyn Transport>,
    /// Timing and bounds.
    pub settings: ConsensusSettings,
    /// For what must differ between two starts of a node, and for times that must not be alike on all nodes.
    pub entropy: Entropy,
}

/// The groups of this node. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    inner: Arc<HostInner>,
}

struct HostInner {
    node: NodeId,
    log: Arc<dyn LogStore>,
    snapshot_dir: PathBuf,
    transport: Arc<dyn Transport>,
    settings: Arc<ConsensusSettings>,
    raft_config: Arc<openraft::Config>,
    proposal_bytes: Arc<Semaphore>,
    /// Numbers snapshot transfers.
    sessions: Arc<AtomicU64>,
    groups: Mutex<Groups>,
    beats: Arc<Beats>,
    entropy: Entropy,
}

#[derive(Default)]
struct Groups {
    running: BTreeMap<GroupId, Group>,
    /// Between the call of `start_group` and its end, so that two calls cannot open one state machine twice.
    starting: BTreeSet<GroupId>,
    closed: bool,
}

impl Host {
    /// Prepares the snapshot directory (removing what an earlier process left) and starts housekeeping. No group runs yet.
    pub async fn open(options: HostOptions) -> Result<Host, ConsensusError> {
        options.settings.validate()?;
        let raft_config = Arc::new(raft::config(&options.settings)?);
        let root = options.snapshot_dir.clone();
        tidemark_runtime::spawn_blocking(move || snapshot::prepare_root(&root))
            .await
            .map_err(|error| ConsensusError::Io(error.to_string()))?
            .map_err(ConsensusError::Io)?;
        let proposal_kib = options.settings.proposal_bytes_in_flight_max.div_ceil(1024);
        let inner = Arc::new(HostInner {
            node: options.node,
            log: options.log,
            snapshot_dir: options.snapshot_dir,
            transport: options.transport,
            settings: Arc::new(options.settings),
            raft_config,
            proposal_bytes: Arc::new(Semaphore::new(proposal_kib)),
            sessions: Arc::new(AtomicU64::new(1)),
            groups: Mutex::new(Groups::default()),
            beats: Arc::new(Beats::new(options.node, options.entropy.next_u64())),
            entropy: options.entropy,
        });
        tokio::spawn(housekeeping(Arc::downgrade(&inner)));
        tokio::spawn(looking_out(Arc::downgrade(&inner), rest::period(&inner.settings)));
        Ok(Host { inner })
    }

    /// Starts this node's replica of a group: replays what the log knows to be committed, then joins its peers. A replica of
    /// a group that does not exist yet waits until it is initialised or a leader finds it.
    pub async fn start_group(&self, id: GroupId, machine: Box<dyn StateMachine>) -> Result<Group, ConsensusError> {
        {
            let mut groups = self.inner.groups.lock();
            if groups.closed {
                return Err(ConsensusError::Stopped("the host is shut down".to_string()));
            }
            if groups.running.contains_key(&id) || !groups.starting.insert(id) {
                return Err(ConsensusError::AlreadyRunning(id));
            }
        }
        let started = self.start(id, machine).await;
        let mut groups = self.inner.groups.lock();
        groups.starting.remove(&id);
        let group = started?;
        groups.running.insert(id, group.clone());
        Ok(group)
    }

    async fn start(&self, id: GroupId, machine: Box<dyn StateMachine>) -> Result<Group, ConsensusError> {
        let inner = &self.inner;
        // INV-04: what a failed sync was to keep is still in the log's memory. A replica that began anew would find it there,
        // write nothing, and report it as held; only a restart forgets it.
        if let Some(reason) = inner.log.poisoned() {
            return Err(LogError::Poisoned(reason).into());
        }
        self.settle(id).await?;
        let snapshot_root = inner.snapshot_dir.clone();
        let opening = tidemark_runtime::spawn_blocking(move || MachineShared::open(id, machine, snapshot_root));
        let shared = opening
            .await
            .map_err(|error| ConsensusError::Stopped(error.to_string()))?
            .map_err(|fault| ConsensusError::Stopped(fault.to_string()))?;
        let log = RaftLog {
            store: inner.log.clone(),
            group: id,
            read_bytes_max: inner.settings.append_bytes_max,
            durable: Some(shared.durable_floor()),
        };
        let network = Network {
            group: id,
            node: inner.node,
            transport: inner.transport.clone(),
            settings: inner.settings.clone(),
            sessions: inner.sessions.clone(),
        };
        let machine = Machine {
            shared: shared.clone(),
            log: log.clone(),
        };
        let raft = openraft::Raft::new(inner.node.0, inner.raft_config.clone(), network, log, machine)
            .await
            .map_err(|fatal| ConsensusError::Stopped(shared.fault().unwrap_or_else(|| fatal.to_string())))?;
        shared.set_running();
        let view = group::view(id, inner.node, shared.clone());
        let metrics = raft.metrics();
        let status = Arc::new(watch::Sender::new(group::build_status(
            &view,
            &metrics.borrow_watched(),
        )));
        let stopped = Arc::new(AtomicBool::new(false));
        tokio::spawn(group::follow_metrics(view, metrics, status.clone(), stopped.clone()));
        Ok(Group::new(GroupInner {
            id,
            node: inner.node,
            raft,
            machine: shared,
            log: inner.log.clone(),
            settings: inner.settings.clone(),
            snapshot_root: inner.snapshot_dir.clone(),
            receiver: Arc::default(),
            barrier: Barrier::new(inner.settings.barrier_waiters_max),
            proposals: Arc::new(Semaphore::new(inner.settings.proposals_in_flight_max)),
            proposal_bytes: inner.proposal_bytes.clone(),
            status,
            stopped,
            transport: inner.transport.clone(),
            rest: Rest::new(),
            beats: inner.beats.clone(),
        }))
    }

    /// INV-01: what an earlier incarnation of the replica has appended is in the log before it is durable, and openraft takes
    /// what it finds there at its start for durable: it would write nothing when the leader sends it again, and say that it
    /// holds it.
    async fn settle(&self, id: GroupId) -> Result<(), ConsensusError> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result| {
            let _ = sender.send(result);
        });
        self.inner.log.settle(id, done)?;
        receiver
            .await
            .unwrap_or(Err(LogError::Closed))
            .map_err(ConsensusError::from)
    }

    /// The node that this host belongs to.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// The node's log store.
    pub fn log(&self) -> &Arc<dyn LogStore> {
        &self.inner.log
    }

    /// A running group.
    pub fn group(&self, id: GroupId) -> Option<Group> {
        self.inner.groups.lock().running.get(&id).cloned()
    }

    /// The running groups, ascending.
    pub fn groups(&self) -> Vec<GroupId> {
        self.inner.groups.lock().running.keys().copied().collect()
    }

    /// How many of them are at rest; see [`ConsensusSettings::rest_after_ms`].
    pub fn groups_at_rest(&self) -> usize {
        let groups = self.inner.groups.lock();
        groups.running.values().filter(|group| group.is_at_rest()).count()
    }

    /// Stops a group and closes its state machine; its log and vote stay for the next start.
    pub async fn stop_group(&self, id: GroupId) {
        let group = self.inner.groups.lock().running.remove(&id);
        if let Some(group) = group {
            group.stop().await;
        }
    }

    /// Stops a group and forgets its log and vote, durably. Only for a group that is gone for ever (a dropped table): a
    /// replica that comes back without its vote could vote twice.
    pub async fn destroy_group(&self, id: GroupId) -> Result<(), ConsensusError> {
        self.stop_group(id).await;
        let (sender, receiver) = oneshot::channel();
        self.inner.log.destroy(
            id,
            Box::new(move |result| {
                let _ = sender.send(result);
            }),
        )?;
        receiver
            .await
            .unwrap_or(Err(LogError::Closed))
            .map_err(ConsensusError::from)
    }

    /// Answers a message of another node.
    pub async fn handle(&self, message: RaftMessage) -> Result<Bytes, HandleError> {
        if message.kind == MessageKind::Beat {
            let heard = self.inner.beats.hear(message.body);
            return heard
                .map(|()| Bytes::new())
                .map_err(|error| HandleError::Malformed(error.to_string()));
        }
        match self.group(message.group) {
            Some(group) => group.handle(message).await,
            None => Err(HandleError::UnknownGroup(message.group)),
        }
    }

    /// Hands leaderships over to the most caught-up voters, then stops all groups. Takes at most `deadline`: half of it for
    /// the handing over, so that a group without a healthy peer does not cost the clean stop.
    pub async fn shutdown(&self, deadline: Duration) {
        self.inner.groups.lock().closed = true;
        let groups: Vec<Group> = self.inner.groups.lock().running.values().cloned().collect();
        let handing_over = join_all(groups.iter().map(|group| async move {
            if let Some(successor) = group.successor()
                && let Err(error) = group.transfer_leadership(successor).await
            {
                tracing::info!(group = %group.id(), %successor, %error, "leadership not handed over");
            }
        }));
        if tokio::time::timeout(deadline / 2, handing_over).await.is_err() {
            tracing::warn!("some leaderships were not handed over in time");
        }
        let stopping = join_all(groups.iter().map(|group| group.stop()));
        if tokio::time::timeout(deadline / 2, stopping).await.is_err() {
            tracing::warn!("some groups did not stop in time");
        }
        self.inner.groups.lock().running.clear();
    }
}

/// Goes round all groups until the host is gone.
async fn housekeeping(host: Weak<HostInner>) {
    loop {
        let interval = match host.upgrade() {
            Some(inner) if !inner.groups.lock().closed => Duration::from_millis(inner.settings.housekeeping_ms),
            _ => return,
        };
        tokio::time::sleep(interval).await;
        let groups: Vec<Group> = match host.upgrade() {
            Some(inner) => inner.groups.lock().running.values().cloned().collect(),
            None => return,
        };
        // Several at a time: one state machine that is busy with a checkpoint must not hold the others' logs.
        let rounds = futures::stream::iter(groups);
        rounds
            .for_each_concurrent(HOUSEKEEPING_CONCURRENCY, |group| async move { group.housekeep().await })
            .await;
    }
}

/// Beats for the groups at rest, and looks after those that follow, until the host is gone.
async fn looking_out(host: Weak<HostInner>, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        let Some(inner) = host.upgrade() else { return };
        let groups: Vec<Group> = {
            let groups = inner.groups.lock();
            if groups.closed {
                return;
            }
            groups.running.values().cloned().collect()
        };
        let chance = || inner.entropy.range(0..1_000) as f64 / 1_000.0;
        let (nodes, body) = inner.beats.look(&groups, chance);
        let timeout = Duration::from_millis(2 * inner.settings.heartbeat_ms);
        for node in nodes {
            let sending = inner.transport.send(node, rest::beat(body.clone()), timeout);
            // Who does not hear it wakes; there is nothing to do about it here.
            tokio::spawn(async move { drop(tokio::time::timeout(timeout, sending).await) });
        }
    }
}
