//! One replica of one group: proposing, reading, changing members, and what is seen of it.

use crate::barrier::{Barrier, Round};
use crate::error::{ConsensusError, HandleError, ProposeError, ReadError};
use crate::log::LogStore;
use crate::raft::{self, OpaqueBytes, Reply, Types};
use crate::rest::{Beats, Rest};
use crate::settings::ConsensusSettings;
use crate::snapshot::Receiver;
use crate::state_machine::{Machine, MachineShared};
use crate::transport::{MessageKind, RaftMessage, Transport};
use crate::types::{GroupStatus, Proposed, Role};
use crate::wire;
use bytes::Bytes;
use futures::FutureExt;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, InitializeError, LinearizableReadError, RaftError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, FlushPoint};
use openraft::vote::RaftLeaderId;
use openraft::{EmptyNode, Instant as _, LinearizerOption, RaftMetrics, ServerState};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemark_base::{GroupId, NodeId};
use tidemark_runtime::planted::{Bug, planted};
use tidemark_runtime::{Mark, mark};
use tokio::sync::{Semaphore, watch};

type Raft = openraft::Raft<Types, Machine>;

/// Rounds of housekeeping after which an unused checkpoint or a silent transfer is dropped.
const IDLE_ROUNDS_MAX: u32 = 120;

/// A handle on this node's replica of a group. Cheap to clone; it stays valid after the group was stopped and then says so.
#[derive(Clone)]
pub struct Group {
    pub(crate) inner: Arc<GroupInner>,
}

pub(crate) struct GroupInner {
    pub(crate) id: GroupId,
    pub(crate) node: NodeId,
    pub(crate) raft: Raft,
    pub(crate) machine: Arc<MachineShared>,
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) settings: Arc<ConsensusSettings>,
    pub(crate) snapshot_root: PathBuf,
    pub(crate) receiver: Arc<Mutex<Receiver>>,
    pub(crate) barrier: Barrier,
    pub(crate) proposals: Arc<Semaphore>,
    /// Node-wide, one permit per KiB.
    pub(crate) proposal_bytes: Arc<Semaphore>,
    pub(crate) status: Arc<watch::Sender<GroupStatus>>,
    /// Somebody asked for the stop; an end without it is a fault.
    pub(crate) stopped: Arc<AtomicBool>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) rest: Rest,
    pub(crate) beats: Arc<Beats>,
}

impl Group {
    pub(crate) fn new(inner: GroupInner) -> Group {
        Group { inner: Arc::new(inner) }
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Makes this replica the first of a new group with these voters. Every voter may be told the same; ok if the group
    /// exists already.
    pub async fn initialize(&self, voters: BTreeSet<NodeId>) -> Result<(), ConsensusError> {
        let nodes: BTreeMap<u64, EmptyNode> = voters.iter().map(|node| (node.0, EmptyNode::default())).collect();
        match self.inner.raft.initialize(nodes).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(ConsensusError::Refused(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(self.stopped(&fatal)),
        }
    }

    /// Proposes a command and waits until it is committed on a quorum and applied here.
    ///
    /// Limits: `proposals_in_flight_max` per group and `proposal_bytes_in_flight_max` per node. A proposal keeps its place
    /// until its fate is known, even if its caller has stopped waiting.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed, ProposeError> {
        self.propose_inner(command, None).await
    }

    /// The same, but only while this node leads in exactly that term: a writer that stamped its command as leader of
    /// `term` must not have it committed by a later leadership of the same node, which may have seen other writes between.
    pub async fn propose_in_term(&self, term: u64, command: Bytes) -> Result<Proposed, ProposeError> {
        self.propose_inner(command, Some(term)).await
    }

    async fn propose_inner(&self, command: Bytes, term: Option<u64>) -> Result<Proposed, ProposeError> {
        self.submit_inner(command, term).await?.outcome().await
    }

    /// Hands a command over and returns as soon as it has its place in the order: commands submitted one after the other
    /// reach the log in that order, however late their outcomes are asked for. Otherwise as [`Group::propose_in_term`].
    ///
    /// For a writer that must keep the order of its stamps while many proposals are in flight.
    pub async fn submit_in_term(&self, term: u64, command: Bytes) -> Result<Pending, ProposeError> {
        self.submit_inner(command, Some(term)).await
    }

    async fn submit_inner(&self, command: Bytes, term: Option<u64>) -> Result<Pending, ProposeError> {
        let inner = &self.inner;
        if let Some(reason) = self.stop_reason() {
            return Err(ProposeError::Stopped(reason));
        }
        // A log that waits for space would take the proposal and never answer.
        if inner.log.stalled_no_space() {
            return Err(ProposeError::Busy);
        }
        let kib = u32::try_from(command.len() / 1024 + 1).map_err(|_| ProposeError::Busy)?;
        let place = inner
            .proposals
            .clone()
            .try_acquire_owned()
            .map_err(|_| ProposeError::Busy)?;
        let bytes = inner
            .proposal_bytes
            .clone()
            .try_acquire_many_owned(kib)
            .map_err(|_| ProposeError::Busy)?;
        self.rouse().await.map_err(not_proposed)?;
        let (reply, answer) = Reply::new(Some((place, bytes)));
        let request = inner.raft.write(OpaqueBytes(command)).responder(reply);
        let sent = match term {
            Some(term) => request.with_leader(raft::LeaderId::new(term, inner.node.0)).await,
            None => request.await,
        };
        if let Err(fatal) = sent {
            return Err(ProposeError::Stopped(self.reason(&fatal)));
        }
        let patience = Duration::from_millis(inner.settings.propose_timeout_ms);
        Ok(Pending { answer, patience })
    }

    /// Returns when a read made now on this replica is linearizable: a quorum has confirmed, after this call began, that
    /// this node leads, and everything that was ever answered is applied here: all entries of earlier terms, and of its own
    /// those that it answered.
    ///
    /// Never trusts a lease: a process that was stopped and continued cannot know how long it slept, but a quorum that
    /// answers its fresh question does. Concurrent callers share one round.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        if let Some(reason) = self.stop_reason() {
            return Err(ReadError::Stopped(reason));
        }
        // Planted: who leads as far as he knows does not ask.
        if planted(Bug::ReadNotConfirmed) && self.status().leader_ready {
            return Ok(());
        }
        let group = Arc::downgrade(&self.inner);
        let round: Round = Arc::new(move || {
            let group = group.upgrade();
            Box::pin(async move {
                match group {
                    Some(inner) => Group { inner }.confirm_leadership().await,
                    None => Err(ReadError::Stopped("stopped".to_string())),
                }
            })
        });
        self.inner.barrier.wait(round).await
    }

    async fn confirm_leadership(&self) -> Result<(), ReadError> {
        self.refuse_if_following()?;
        self.inner.touch();
        let rests = self.inner.rest.rests();
        let patience = Duration::from_millis(self.inner.settings.read_timeout_ms);
        // Age zero is ReadIndex: only acknowledgements of heartbeats sent from now on count.
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(patience);
        match self.inner.raft.get_read_linearizer(option).await {
            Ok(_) => self.inner.rest.confirm(rests),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                return Err(ReadError::NotLeader {
                    leader: forward.leader_id.map(NodeId),
                });
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                mark(Mark::StaleLeaderRefused);
                return Err(ReadError::Unavailable(
                    "no quorum confirmed the leader in time".to_string(),
                ));
            }
            Err(RaftError::Fatal(fatal)) => return Err(ReadError::Stopped(self.reason(&fatal))),
        }
        // Not: until everything committed is applied, as openraft's linearizer would. An entry of this leader's term is
        // answered only after it was applied here, so what is committed and not applied has been promised to nobody; and
        // while apply waits for room on a full disk, reads go on.
        match self.wait_leader_ready(patience).await {
            Ok(_) => Ok(()),
            Err(ConsensusError::Timeout(_)) => Err(ReadError::Unavailable(
                "the entries of earlier leaders were not applied in time".to_string(),
            )),
            Err(stopped) => Err(ReadError::Stopped(stopped.to_string())),
        }
    }

    /// Waits until this node leads and has applied every entry of earlier terms, and returns its term.
    pub async fn wait_leader_ready(&self, patience: Duration) -> Result<u64, ConsensusError> {
        // Nearly always so, and asked for every read: the lists of a status would cost more than the question.
        let leadership = self.leadership();
        if leadership.ready {
            return Ok(leadership.term);
        }
        let status = self.wait(patience, "to lead", |status| status.leader_ready).await?;
        Ok(status.term)
    }

    /// Waits until the status satisfies the predicate; `what` completes the sentence "waiting for g7 …".
    pub async fn wait(
        &self,
        patience: Duration,
        what: &str,
        mut predicate: impl FnMut(&GroupStatus) -> bool,
    ) -> Result<GroupStatus, ConsensusError> {
        let mut receiver = self.watch();
        let waiting = async {
            loop {
                let status = self.status();
                if predicate(&status) {
                    return Ok(status);
                }
                if receiver.changed().await.is_err() {
                    return Err(ConsensusError::Stopped("the group was stopped".to_string()));
                }
            }
        };
        match tokio::time::timeout(patience, waiting).await {
            Ok(result) => result,
            Err(_) => Err(ConsensusError::Timeout(format!("waiting for {} {what}", self.inner.id))),
        }
    }

    /// The replica's state now.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        build_status(&self.inner.view(), &metrics)
    }

    /// Who leads, as far as this replica knows; [`Group::status`] without its lists.
    pub fn leader(&self) -> Option<NodeId> {
        self.leadership().leader
    }

    /// Who leads in which term, and whether that is this replica: [`Group::status`] without its lists, for what is asked often.
    pub fn leadership(&self) -> Leadership {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let faulty = self.inner.machine.fault().is_some() || running_fault(&metrics).is_some();
        Leadership::of(self.inner.node, &metrics, faulty, self.inner.settings.lease())
    }

    /// Follows the status; intermediate states may be skipped.
    pub fn watch(&self) -> watch::Receiver<GroupStatus> {
        self.inner.status.subscribe()
    }

    /// Hands leadership to a voter and waits until this node does not lead any more. In doubt call again.
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), ConsensusError> {
        let status = self.status();
        if status.role != Role::Leader {
            return Err(ConsensusError::NotLeader { leader: status.leader });
        }
        if to == self.inner.node {
            return Ok(());
        }
        if !status.voters.contains(&to) {
            return Err(ConsensusError::Refused(format!(
                "{to} is not a voter of {}",
                self.inner.id
            )));
        }
        self.rouse().await.map_err(not_changed)?;
        self.end_rest();
        self.inner
            .raft
            .trigger()
            .transfer_leader(to.0)
            .await
            .map_err(|fatal| self.stopped(&fatal))?;
        let patience = Duration::from_millis(2 * self.inner.settings.election_timeout_max_ms);
        let left = |status: &GroupStatus| status.role != Role::Leader && status.leader != Some(status.node);
        self.wait(patience, "to leave the leadership", left).await.map(|_| ())
    }

    /// Adds a member without a vote; it is brought up to date in the background.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), ConsensusError> {
        self.rouse().await.map_err(not_changed)?;
        let result = self.inner.raft.add_learner(node.0, EmptyNode::default(), false).await;
        result.map(|_| ()).map_err(|error| self.change_error(error))
    }

    /// Makes exactly these nodes the voters, through a joint configuration. Nodes that are not members yet are added as
    /// learners first; former voters that are not named leave the group.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), ConsensusError> {
        self.rouse().await.map_err(not_changed)?;
        let status = self.status();
        for node in &voters {
            if !status.voters.contains(node) && !status.learners.contains(node) {
                self.inner
                    .raft
                    .add_learner(node.0, EmptyNode::default(), true)
                    .await
                    .map_err(|error| self.change_error(error))?;
            }
        }
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        self.rouse().await.map_err(not_changed)?;
        let result = self.inner.raft.change_membership(voters, false).await;
        result.map(|_| ()).map_err(|error| self.change_error(error))
    }

    /// Asks the state machine for a flush and purges the log as far as the settings allow.
    pub async fn trigger_snapshot(&self) -> Result<(), ConsensusError> {
        let machine = self.inner.machine.clone();
        tidemark_runtime::spawn_blocking(move || machine.request_flush())
            .await
            .map_err(|error| ConsensusError::Stopped(error.to_string()))?;
        self.inner.machine.refresh_durable();
        self.purge().await
    }

    /// Starts an election now, without asking first whether it would be won. It disturbs a healthy leader: for tests and
    /// for operators whose group has lost its timers.
    pub async fn trigger_election(&self) -> Result<(), ConsensusError> {
        self.inner.touch();
        self.inner
            .raft
            .trigger()
            .elect(false)
            .await
            .map_err(|fatal| self.stopped(&fatal))
    }

    // ------------------------------------------------------------------------------------------ for the host

    pub(crate) async fn handle(&self, message: RaftMessage) -> Result<Bytes, HandleError> {
        let raft = &self.inner.raft;
        let bad = |error: crate::codec::Malformed| HandleError::Malformed(error.to_string());
        let failed = |error: RaftError<Types>| HandleError::Failed(error.to_string());
        if self.is_at_rest() {
            self.disturbed_by(message.kind).await?;
        }
        match message.kind {
            MessageKind::Append => {
                let request = wire::decode_append(message.body).map_err(bad)?;
                if self.is_at_rest() {
                    self.stirred_by(&request);
                }
                let response = self.append(request).await.map_err(failed)?;
                Ok(wire::encode_append_ack(&response))
            }
            MessageKind::Vote => {
                let request = wire::decode_vote_request(message.body).map_err(bad)?;
                let response = raft.vote(request).await.map_err(failed)?;
                Ok(wire::encode_vote_response(&response))
            }
            MessageKind::PreVote => {
                let request = wire::decode_vote_request(message.body).map_err(bad)?;
                let response = raft.pre_vote(request).await.map_err(failed)?;
                Ok(wire::encode_vote_response(&response))
            }
            MessageKind::TransferLeader => {
                let request = wire::decode_transfer(message.body).map_err(bad)?;
                let response = raft.handle_transfer_leader(request).await;
                let response = response.map_err(|fatal| HandleError::Failed(fatal.to_string()))?;
                Ok(wire::encode_transfer_ack(&response))
            }
            MessageKind::SnapshotBegin | MessageKind::SnapshotChunk | MessageKind::SnapshotEnd => {
                self.handle_snapshot(message).await
            }
            MessageKind::Rest => self.rest(message.body).await,
            // Being disturbed was all; a beat belongs to the host.
            MessageKind::Wake | MessageKind::Beat => Ok(Bytes::new()),
        }
    }

    /// Takes entries or a heartbeat in.
    ///
    /// openraft answers either only when everything accepted before is on disk. For entries that is the point. For a
    /// heartbeat it is not: while a disk is slow or full, leaders would look unconfirmed and linearizable reads would fail
    /// although nothing that they need is missing. So a heartbeat that waits is answered as soon as it is certain that
    /// this replica still follows that leader and has the entry that the heartbeat names on disk ([`holds_on_disk`]).
    pub(crate) async fn append(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> Result<AppendEntriesResponse<Types>, RaftError<Types>> {
        let raft = self.inner.raft.clone();
        if !request.entries.is_empty() {
            return raft.append_entries(request).await;
        }
        let (vote, previous) = (request.vote, request.prev_log_id);
        let handler = raft.clone();
        let mut answer = Box::pin(async move { handler.append_entries(request).await });
        let patience = Duration::from_millis(self.inner.settings.heartbeat_ms / 5);
        if let Ok(answer) = tokio::time::timeout(patience, &mut answer).await {
            return answer;
        }
        // Asked behind the heartbeat in the same queue: if the vote is still the sender's, the heartbeat was accepted.
        let current = raft.with_raft_state(|state| *state.vote_ref()).await?;
        // Its own answer may have come meanwhile, and may be a refusal: it goes first.
        if let Some(answer) = (&mut answer).now_or_never() {
            return answer;
        }
        let flushed = raft.watch_log_progress().get();
        if current == vote && flushed.is_some_and(|flushed| holds_on_disk(&vote, previous, &flushed)) {
            return Ok(AppendEntriesResponse::Success);
        }
        answer.await
    }

    async fn handle_snapshot(&self, message: RaftMessage) -> Result<Bytes, HandleError> {
        let (receiver, root, id) = (
            self.inner.receiver.clone(),
            self.inner.snapshot_root.clone(),
            self.inner.id,
        );
        let received = tidemark_runtime::spawn_blocking(move || {
            let mut receiver = receiver.lock();
            match message.kind {
                MessageKind::SnapshotBegin => receiver.begin(&root, id, message.body).map(|()| None),
                MessageKind::SnapshotChunk => receiver.chunk(message.body).map(|()| None),
                _ => receiver.end(message.body).map(Some),
            }
        })
        .await
        .map_err(|error| HandleError::Failed(error.to_string()))?
        .map_err(|error| HandleError::Failed(error.to_string()))?;
        let Some(received) = received else {
            return Ok(Bytes::new());
        };
        let membership = raft::stored_membership(&received.files.state.membership)
            .map_err(|error| HandleError::Malformed(error.to_string()))?;
        // Planted: the members that the snapshot names are left out.
        let membership = match planted(Bug::SnapshotWithoutMembership) {
            true => raft::StoredMembership::default(),
            false => membership,
        };
        let meta = raft::SnapshotMeta {
            last_log_id: received.files.state.position.as_ref().map(raft::log_id),
            last_membership: membership,
        };
        let snapshot = openraft::Snapshot {
            meta,
            snapshot: received.files,
        };
        let response = self
            .inner
            .raft
            .install_full_snapshot(received.vote, snapshot)
            .await
            .map_err(|fatal| HandleError::Failed(fatal.to_string()))?;
        let mut out = Vec::with_capacity(17);
        wire::put_vote(&mut out, &raft::vote(&response.vote));
        Ok(out.into())
    }

    /// One round of housekeeping: see what is durable, ask for a flush if the log is long, purge, expire.
    pub(crate) async fn housekeep(&self) {
        let inner = &self.inner;
        inner.machine.expire_checkpoint(IDLE_ROUNDS_MAX);
        if let Some(mut receiver) = inner.receiver.try_lock() {
            receiver.expire(IDLE_ROUNDS_MAX);
        }
        if inner.rest.passes_round() {
            return;
        }
        inner.machine.refresh_durable();
        let durable = inner.machine.durable_index().unwrap_or(0);
        let again = self.status().applied_index.unwrap_or(0).saturating_sub(durable);
        if again > inner.settings.log_entries_before_flush
            || inner.log.bytes_after(inner.id, durable) > inner.settings.log_bytes_before_flush
        {
            let machine = inner.machine.clone();
            // The result is only that the thread ran; a fault shows in the status.
            let _ = tidemark_runtime::spawn_blocking(move || machine.request_flush()).await;
        }
        if let Err(error) = self.purge().await {
            tracing::debug!(group = %inner.id, %error, "log not purged in this round");
        }
        inner.publish();
        self.consider_rest().await;
    }

    async fn purge(&self) -> Result<(), ConsensusError> {
        let inner = &self.inner;
        let Some(durable) = inner.machine.durable_index() else {
            return Ok(());
        };
        let (entries, bytes) = (inner.settings.snapshot_lag_entries, inner.settings.snapshot_lag_bytes);
        let kept_from = inner.log.tail_start(inner.id, durable, entries, bytes);
        let upto = kept_from.saturating_sub(1).min(durable);
        let status = self.status();
        if upto == 0 || status.purged_index.is_some_and(|purged| purged >= upto) {
            return Ok(());
        }
        let trigger = inner.raft.trigger();
        if status.snapshot_index.is_none_or(|index| index < upto) {
            trigger.snapshot().await.map_err(|fatal| self.stopped(&fatal))?;
            let patience = Duration::from_millis(inner.settings.housekeeping_ms);
            let stated = |status: &GroupStatus| status.snapshot_index.is_some_and(|index| index >= upto);
            self.wait(patience, "to state its snapshot position", stated).await?;
        }
        inner
            .raft
            .trigger()
            .purge_log(upto)
            .await
            .map_err(|fatal| self.stopped(&fatal))
    }

    /// The voter that would have the least to catch up, if this node leads.
    pub(crate) fn successor(&self) -> Option<NodeId> {
        let status = self.status();
        if status.role != Role::Leader {
            return None;
        }
        let others = status.voters.iter().filter(|node| **node != self.inner.node);
        others.max_by_key(|node| status.matched.get(node)).copied()
    }

    /// Stops the replica and closes its state machine; the log stays.
    pub(crate) async fn stop(&self) {
        self.inner.stopped.store(true, Ordering::SeqCst);
        self.end_rest();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(group = %self.inner.id, %error, "group did not stop cleanly");
        }
        let machine = self.inner.machine.clone();
        let _ = tidemark_runtime::spawn_blocking(move || machine.close()).await;
    }

    /// Ends openraft's task as an error in its code would.
    #[cfg(test)]
    pub(crate) async fn panic_raft_task(&self) {
        let ended: Result<(), _> = self.inner.raft.with_raft_state(|_| panic!("asked for by a test")).await;
        assert!(matches!(ended, Err(Fatal::Panicked)));
    }

    fn stop_reason(&self) -> Option<String> {
        if let Some(fault) = self.inner.machine.fault() {
            return Some(fault);
        }
        if self.inner.stopped.load(Ordering::Acquire) {
            return Some("stopped".to_string());
        }
        self.inner.log.poisoned()
    }

    fn reason(&self, fatal: &Fatal<Types>) -> String {
        self.stop_reason().unwrap_or_else(|| fatal.to_string())
    }

    fn stopped(&self, fatal: &Fatal<Types>) -> ConsensusError {
        ConsensusError::Stopped(self.reason(fatal))
    }

    fn change_error(&self, error: RaftError<Types, ClientWriteError<Types>>) -> ConsensusError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => ConsensusError::NotLeader {
                leader: forward.leader_id.map(NodeId),
            },
            RaftError::APIError(error) => ConsensusError::Refused(error.to_string()),
            RaftError::Fatal(fatal) => self.stopped(&fatal),
        }
    }
}

/// Nothing was proposed because the leadership was not confirmed.
fn not_proposed(error: ReadError) -> ProposeError {
    match error {
        ReadError::NotLeader { leader } => ProposeError::NotLeader { leader },
        ReadError::Unavailable(_) => ProposeError::NotLeader { leader: None },
        ReadError::Stopped(reason) => ProposeError::Stopped(reason),
    }
}

/// The same for a change of leader or members.
fn not_changed(error: ReadError) -> ConsensusError {
    match error {
        ReadError::NotLeader { leader } => ConsensusError::NotLeader { leader },
        ReadError::Unavailable(reason) => ConsensusError::Timeout(reason),
        ReadError::Stopped(reason) => ConsensusError::Stopped(reason),
    }
}

/// A command that has its place in the order and whose outcome is not known yet. Dropping it changes nothing for the
/// command.
pub struct Pending {
    answer: tokio::sync::oneshot::Receiver<Result<openraft::raft::ClientWriteResponse<Types>, ClientWriteError<Types>>>,
    patience: Duration,
}

impl Pending {
    /// Waits until the command is committed on a quorum and applied here, at most `propose_timeout_ms`.
    pub async fn outcome(self) -> Result<Proposed, ProposeError> {
        match tokio::time::timeout(self.patience, self.answer).await {
            Ok(Ok(Ok(done))) => Ok(Proposed {
                position: raft::position(&done.log_id),
                response: done.data.0,
            }),
            Ok(Ok(Err(error))) => {
                mark(Mark::LeaderChangedUnderLoad);
                Err(propose_error(error))
            }
            Ok(Err(_)) => Err(ProposeError::Unknown(
                "the group stopped before it answered".to_string(),
            )),
            Err(_) => Err(ProposeError::Unknown(format!(
                "no answer within {} ms",
                self.patience.as_millis()
            ))),
        }
    }
}

fn propose_error(error: ClientWriteError<Types>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => ProposeError::NotLeader {
            leader: forward.leader_id.map(NodeId),
        },
        // The entry was in this log and left it: another leader's log may still hold it.
        other => ProposeError::Unknown(other.to_string()),
    }
}

/// True if what was flushed proves that this replica's log on disk holds the entry that a message of the leader with that
/// vote names.
///
/// The order of log ids alone proves nothing: an uncommitted entry of a later term than the named one may stand in its
/// place. But a flushed entry that the leader itself made was taken in only behind everything before it in the leader's
/// log, and is never cut off under the same vote; so every entry of the leader's log up to it is on disk here. Before the
/// first such entry is, only a message that names no entry passes.
pub(crate) fn holds_on_disk(vote: &raft::RaftVote, previous: Option<raft::LogId>, flushed: &FlushPoint<Types>) -> bool {
    let follows = vote.committed && flushed.vote == *vote;
    let made_by_leader = flushed.last_log_id.is_some_and(|last| last.leader_id == vote.leader_id);
    follows && (previous.is_none() || (made_by_leader && flushed.last_log_id >= previous))
}

/// What a status is made from, besides openraft's own view.
#[derive(Clone)]
pub(crate) struct View {
    group: GroupId,
    node: NodeId,
    machine: Arc<MachineShared>,
}

impl GroupInner {
    pub(crate) fn view(&self) -> View {
        View {
            group: self.id,
            node: self.node,
            machine: self.machine.clone(),
        }
    }

    fn publish(&self) {
        let metrics = self.raft.metrics();
        show(&self.status, build_status(&self.view(), &metrics.borrow_watched()));
    }
}

/// Shows a status to those who follow it, if it says anything new. Each answer to a heartbeat changes openraft's metrics, and
/// waking everybody for it was a tenth of what an idle group costs.
fn show(shown: &watch::Sender<GroupStatus>, status: GroupStatus) {
    shown.send_if_modified(|current| {
        let changed = *current != status;
        if changed {
            *current = status;
        }
        changed
    });
}

pub(crate) fn view(group: GroupId, node: NodeId, machine: Arc<MachineShared>) -> View {
    View { group, node, machine }
}

/// Translates openraft's metrics into statuses until the replica ends. An end that nobody asked for, a panic of openraft's
/// task included, becomes the replica's fault, so that the last status shows it and callers are refused at once.
pub(crate) async fn follow_metrics(
    view: View,
    mut metrics: openraft::alias::WatchReceiverOf<Types, RaftMetrics<Types>>,
    status: Arc<watch::Sender<GroupStatus>>,
    stopped: Arc<AtomicBool>,
) {
    loop {
        let current = build_status(&view, &metrics.borrow_and_update());
        show(&status, current);
        if metrics.changed().await.is_err() {
            break;
        }
    }
    if !stopped.load(Ordering::Acquire) {
        // A panic leaves the last metrics as they were.
        let reason = running_fault(&metrics.borrow_watched()).unwrap_or_else(|| "the Raft task ended".to_string());
        view.machine.fail(reason);
    }
    status.send_replace(build_status(&view, &metrics.borrow_watched()));
}

fn running_fault(metrics: &RaftMetrics<Types>) -> Option<String> {
    match &metrics.running_state {
        Err(fatal) if !matches!(fatal, Fatal::Stopped) => Some(fatal.to_string()),
        _ => None,
    }
}

/// Who leads, and whether a leader here may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    state: ServerState,
    /// The leader as far as this replica knows.
    pub leader: Option<NodeId>,
    /// The replica's term.
    pub term: u64,
    /// As [`GroupStatus::leader_ready`].
    pub ready: bool,
    /// Of a leader: zero while nobody else can lead, because a quorum has heard from this one so lately that it refuses its votes to
    /// others; else how long ago it has. Others may have acknowledged since then, and no longer, what this node does not know.
    ///
    /// Known gap: the voter that a leadership is handed to may lead within the old one's lease, and a leader that is cut off just
    /// then counts as confirmed for the rest of it.
    pub unconfirmed: Duration,
}

impl Leadership {
    /// True if this replica leads.
    pub fn is_own(&self) -> bool {
        self.state == ServerState::Leader
    }

    /// A replica that serves no more leads nothing, whatever was last heard of it.
    fn of(node: NodeId, metrics: &RaftMetrics<Types>, faulty: bool, lease: Duration) -> Leadership {
        let state = match faulty {
            true => ServerState::Shutdown,
            false => metrics.state,
        };
        let own = raft::LeaderId::new(metrics.current_term, node.0);
        let leader = metrics.current_leader.map(NodeId);
        Leadership {
            state,
            leader: leader.filter(|leader| !faulty || *leader != node),
            term: metrics.current_term,
            // The first entry of a leadership is its blank one; once an entry of this leadership is applied, so is all before.
            ready: state == ServerState::Leader && metrics.last_applied.is_some_and(|applied| applied.leader_id == own),
            unconfirmed: unconfirmed(metrics, lease),
        }
    }
}

fn unconfirmed(metrics: &RaftMetrics<Types>, lease: Duration) -> Duration {
    // A quorum of one is its leader.
    if metrics.membership_config.membership().voter_ids().count() == 1 {
        return Duration::ZERO;
    }
    // Counted from when the message was sent that the quorum has answered; whoever answered refuses others from then on at least.
    let heard = metrics.last_quorum_acked.map(|at| at.elapsed());
    match heard {
        Some(ago) if ago <= lease => Duration::ZERO,
        Some(ago) => ago,
        None => Duration::MAX,
    }
}

pub(crate) fn build_status(view: &View, metrics: &RaftMetrics<Types>) -> GroupStatus {
    let fault = view.machine.fault().or_else(|| running_fault(metrics));
    let leadership = Leadership::of(view.node, metrics, fault.is_some(), Duration::ZERO);
    let members = metrics.membership_config.membership();
    let leads = leadership.state == ServerState::Leader;
    let matched = metrics.replication.iter().flatten().filter(|_| leads);
    GroupStatus {
        group: view.group,
        node: view.node,
        role: match leadership.state {
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            _ => Role::Learner,
        },
        leader: leadership.leader,
        leader_ready: leadership.ready,
        term: leadership.term,
        last_index: metrics.last_log_index,
        committed_index: metrics.local_committed.map(|id| id.index),
        applied_index: metrics.last_applied.map(|id| id.index),
        durable_index: view.machine.durable_index(),
        snapshot_index: metrics.snapshot.map(|id| id.index),
        purged_index: metrics.purged.map(|id| id.index),
        voters: members.voter_ids().map(NodeId).collect(),
        learners: members.learner_ids().map(NodeId).collect(),
        fault,
        matched: matched
            .filter(|(node, _)| **node != view.node.0)
            .filter_map(|(node, id)| id.map(|id| (NodeId(*node), id.index)))
            .collect(),
    }
}
