//! Groups at rest: where nothing is written or read, nothing is sent.
//!
//! A leader beats for each of its groups six times a second, and each replica looks at its timers thirty times; with a
//! hundred idle groups that was a fifth of a core. So a group that has had nothing to do for a while goes to rest: its
//! timers stop on all replicas, and the nodes beat for all groups of a pair at once.
//!
//! ```text
//! leader                               follower
//! timers off ── Rest(life, heartbeat) ──► takes the heartbeat; holds the same log: timers off
//!            ◄────────── yes ──────────
//! all have said yes: at rest
//! node of the leader ── Beat(life) ─────► the leader's node lives; one for all its groups at rest
//! ```
//! Whoever has something to do wakes his replica: a proposal, a barrier, a message of the group. A leader that wakes beats at
//! once, which wakes its followers; before a proposal it has its leadership confirmed, because its lease has run out. A follower wakes by itself
//! - when the leader's node was not heard for an election time-out: then it campaigns after a random time, as it would have,
//! - when that node says another life than it did: it was started again, or one of its groups ended without a word,
//! - when somebody asks for its vote.
//!
//! In the last two cases it tells the leader, so that all of the group beat again and anything unusual is left to Raft.
//!
//! **INV-07** Rest turns timers off and on and nothing else: no entry, vote, commit or read depends on it. So whatever goes wrong
//! here costs time, never an answer: the worst is a leader that is replaced without need, or found dead later.
//!
//! A beat stands for heartbeats that were not sent. If somebody asks for a follower's vote while its leader's node is heard,
//! the follower first takes the leader's last heartbeat in again, as if the network had repeated it: so its lease runs as it
//! would have, and it refuses. Without that, any node that lost sight of a leader at rest could take its place.
//!
//! CockroachDB (quiescence) and TiKV (hibernated regions) have the same idea. A follower must not wait for a node that was
//! started again (here: the life), and one that was stopped for a while must not judge by the beats that it slept through. So
//! time is counted in looks around, a third of a heartbeat apart: whoever sleeps counts none.

use crate::codec::{self, Malformed, Reader};
use crate::error::{HandleError, ReadError};
use crate::group::{Group, GroupInner};
use crate::raft::Types;
use crate::settings::ConsensusSettings;
use crate::transport::{MessageKind, RaftMessage};
use crate::types::Role;
use crate::wire;
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::{Instant as _, LinearizerOption, RaftMetrics, ServerState};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemark_base::{GroupId, NodeId};
use tidemark_runtime::{Mark, mark};

/// A heartbeat that was on its way when the leader went to rest does not wake a follower that it finds at rest already: for so
/// many looks, about a second.
const STRAY_LOOKS: u64 = 20;
/// Of so many rounds of housekeeping, groups at rest take part in one.
const ROUNDS_AT_REST: u32 = 20;
/// Looks around between two beats.
const LOOKS_A_BEAT: u64 = 3;
const YES: &[u8] = &[1];
const NO: &[u8] = &[0];

/// What a node says of itself and has heard of others.
pub(crate) struct Beats {
    node: NodeId,
    /// Another number after each start of the process, and when a group that led at rest has ended.
    life: AtomicU64,
    /// How often this node has looked around: its time.
    looks: AtomicU64,
    heard: Mutex<BTreeMap<NodeId, Heard>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    life: u64,
    /// At this node's look.
    at: u64,
}

impl Beats {
    pub(crate) fn new(node: NodeId, life: u64) -> Beats {
        Beats {
            node,
            life: AtomicU64::new(life),
            looks: AtomicU64::new(0),
            heard: Mutex::default(),
        }
    }

    fn sign(&self) -> Sign {
        Sign {
            node: self.node,
            life: self.life.load(Ordering::SeqCst),
        }
    }

    fn begin_new_life(&self) {
        self.life.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes the beat of another node in.
    pub(crate) fn hear(&self, body: Bytes) -> Result<(), Malformed> {
        let mut reader = Reader::new(body);
        let sign = Sign::read(&mut reader)?;
        reader.finish("beat")?;
        self.note(sign);
        Ok(())
    }

    fn note(&self, sign: Sign) {
        let heard = Heard {
            life: sign.life,
            at: self.now(),
        };
        // As many as there are nodes; a peer's number is checked before its message comes here.
        self.heard.lock().insert(sign.node, heard);
    }

    fn heard(&self, node: NodeId) -> Option<Heard> {
        self.heard.lock().get(&node).copied()
    }

    fn now(&self) -> u64 {
        self.looks.load(Ordering::SeqCst)
    }
}

/// Who beats, in which life: `node u64 | life u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sign {
    node: NodeId,
    life: u64,
}

impl Sign {
    fn put(self, out: &mut Vec<u8>) {
        codec::put_u64(out, self.node.0);
        codec::put_u64(out, self.life);
    }

    fn read(reader: &mut Reader) -> Result<Sign, Malformed> {
        Ok(Sign {
            node: NodeId(reader.u64("beating node")?),
            life: reader.u64("life")?,
        })
    }
}

/// For [`crate::decoders`].
pub(crate) fn is_beat(body: Bytes) -> bool {
    Beats::new(NodeId(0), 0).hear(body).is_ok()
}

/// For [`crate::decoders`].
pub(crate) fn is_request(body: Bytes) -> bool {
    read_request(body).is_ok()
}

/// `sign | append without entries`
fn read_request(body: Bytes) -> Result<(Sign, AppendEntriesRequest<Types>), Malformed> {
    let mut reader = Reader::new(body);
    let sign = Sign::read(&mut reader)?;
    let heartbeat = wire::decode_append(reader.tail())?;
    match heartbeat.entries.is_empty() {
        true => Ok((sign, heartbeat)),
        false => Err(Malformed("heartbeat with entries")),
    }
}

/// Where a replica stands.
enum State {
    Awake,
    /// It leads, its timers are off, and it asks its followers.
    Asking {
        followers: Vec<NodeId>,
    },
    /// It leads, and all followers rest.
    Leading {
        followers: Vec<NodeId>,
    },
    Following(Following),
}

#[derive(Clone)]
struct Following {
    leader: Sign,
    /// The leader's last, to be taken in again when somebody asks.
    heartbeat: AppendEntriesRequest<Types>,
    /// The look at which it went to rest.
    since: u64,
}

/// One replica's rest.
pub(crate) struct Rest {
    /// Not awake. All that a request on its way looks at.
    resting: AtomicBool,
    /// How often it led without beating, and how often of these a quorum has confirmed it since: before that openraft takes no
    /// proposal. Numbers, because a round that began before a rest proves nothing behind it.
    rests: AtomicU64,
    confirmed: AtomicU64,
    /// Followers may rest under this replica, also while it is awake again. If it stops leading, its node begins a new life.
    answers_for: AtomicBool,
    /// Counts what there was to do.
    touched: AtomicU64,
    state: Mutex<State>,
    quiet: Mutex<Quiet>,
}

#[derive(Default)]
struct Quiet {
    touched: u64,
    rounds: u32,
}

impl Rest {
    pub(crate) fn new() -> Rest {
        Rest {
            resting: AtomicBool::new(false),
            rests: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            answers_for: AtomicBool::new(false),
            touched: AtomicU64::new(0),
            state: Mutex::new(State::Awake),
            quiet: Mutex::default(),
        }
    }

    pub(crate) fn is_resting(&self) -> bool {
        self.resting.load(Ordering::SeqCst)
    }

    /// How often it rested as leader.
    pub(crate) fn rests(&self) -> u64 {
        self.rests.load(Ordering::SeqCst)
    }

    /// A round that began after so many rests has confirmed that this replica leads.
    pub(crate) fn confirm(&self, rests: u64) {
        self.confirmed.fetch_max(rests, Ordering::SeqCst);
    }

    fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::SeqCst) == self.rests()
    }

    /// True if this round of housekeeping is not for this group.
    pub(crate) fn passes_round(&self) -> bool {
        if !self.is_resting() {
            return false;
        }
        let mut quiet = self.quiet.lock();
        quiet.rounds = (quiet.rounds + 1) % ROUNDS_AT_REST;
        quiet.rounds != 0
    }

    /// Counts a round of housekeeping; the count of touches if nothing was touched for so many rounds.
    fn quiet_for(&self, rounds: u32) -> Option<u64> {
        let touched = self.touched.load(Ordering::SeqCst);
        let mut quiet = self.quiet.lock();
        if quiet.touched != touched {
            *quiet = Quiet { touched, rounds: 0 };
            return None;
        }
        quiet.rounds += 1;
        if quiet.rounds < rounds {
            return None;
        }
        // Who is refused waits as long again.
        quiet.rounds = 0;
        Some(touched)
    }
}

/// What a replica at rest finds when it looks around.
enum Sight {
    Nothing,
    /// It leads at rest: these are to hear that its node lives.
    Leads(Vec<NodeId>),
    /// It led, and does not any more.
    Lost,
    /// Its leader's node is in another life.
    OtherLife,
    /// Its leader's node was not heard for too long.
    Silence,
}

impl GroupInner {
    /// There is something to do here. Before it is done, so that no rest begins beside it.
    pub(crate) fn touch(&self) {
        // Both in one order for everybody: either this sees that the replica rests, or who puts it to rest sees the count.
        self.rest.touched.fetch_add(1, Ordering::SeqCst);
        if self.rest.is_resting() {
            self.wake();
        }
    }

    fn wake(&self) {
        let mut state = self.rest.state.lock();
        if !matches!(*state, State::Awake) {
            self.change(&mut state, State::Awake);
        }
    }

    /// The timers go with the state.
    fn change(&self, state: &mut MutexGuard<'_, State>, to: State) {
        let rests = !matches!(to, State::Awake);
        **state = to;
        self.rest.resting.store(rests, Ordering::SeqCst);
        self.raft.runtime_config().tick(!rests);
    }

    /// The leader's last heartbeat, if this replica leads, everything is done, and all others have everything.
    fn last_heartbeat(&self) -> Option<(AppendEntriesRequest<Types>, Vec<NodeId>)> {
        if self.proposals.available_permits() < self.settings.proposals_in_flight_max {
            return None;
        }
        let metrics = self.raft.metrics();
        let metrics: &RaftMetrics<Types> = &metrics.borrow_watched();
        let status = crate::group::build_status(&self.view(), metrics);
        let members = metrics.membership_config.membership();
        // One that is away would only be waited for.
        let lease = self.settings.lease();
        let answers = |node: &NodeId| {
            let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&node.0)).copied();
            heard.flatten().is_some_and(|at| at.elapsed() < lease)
        };
        let followers: Vec<NodeId> = members
            .nodes()
            .map(|(id, _)| NodeId(*id))
            .filter(|n| *n != self.node)
            .collect();
        let done = status.role == Role::Leader
            && status.leader_ready
            && status.fault.is_none()
            && members.get_joint_config().len() == 1
            && status.committed_index == status.last_index
            && status.applied_index == status.last_index
            && followers
                .iter()
                .all(|node| answers(node) && status.matched.get(node).copied() == status.last_index);
        let last = metrics.last_applied.filter(|_| done)?;
        let heartbeat = AppendEntriesRequest {
            vote: metrics.vote,
            prev_log_id: Some(last),
            entries: Vec::new(),
            leader_commit: Some(last),
        };
        Some((heartbeat, followers))
    }

    fn sight(&self, silence_max: u64) -> Sight {
        let state = self.rest.state.lock();
        match &*state {
            State::Awake => Sight::Nothing,
            State::Asking { followers } | State::Leading { followers } => match self.leads() {
                true => Sight::Leads(followers.clone()),
                false => Sight::Lost,
            },
            State::Following(following) => match self.beats.heard(following.leader.node) {
                Some(heard) if heard.life != following.leader.life => Sight::OtherLife,
                Some(heard) if self.beats.now() - heard.at < silence_max => Sight::Nothing,
                _ => Sight::Silence,
            },
        }
    }

    fn leads(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let runs = metrics.running_state.is_ok() && self.machine.fault().is_none() && self.log.poisoned().is_none();
        runs && metrics.state == ServerState::Leader
    }

    fn following(&self) -> Option<Following> {
        if !self.rest.is_resting() {
            return None;
        }
        match &*self.rest.state.lock() {
            State::Following(following) => Some(following.clone()),
            _ => None,
        }
    }

    fn send_aside(&self, to: NodeId, kind: MessageKind, body: Bytes) {
        let timeout = Duration::from_millis(2 * self.settings.heartbeat_ms);
        let message = RaftMessage {
            group: self.id,
            kind,
            body,
        };
        let sending = self.transport.send(to, message, timeout);
        // Whether it arrives shows elsewhere.
        tokio::spawn(async move { drop(tokio::time::timeout(timeout, sending).await) });
    }
}

impl Group {
    /// True while this replica has nothing to do and sends nothing; see [`crate::ConsensusSettings::rest_after_ms`].
    pub fn is_at_rest(&self) -> bool {
        self.inner.rest.is_resting()
    }

    /// Puts the group to rest if it has been quiet for long enough. Called by each round of housekeeping.
    pub(crate) async fn consider_rest(&self) {
        let inner = &self.inner;
        let (after_ms, round_ms) = (inner.settings.rest_after_ms, inner.settings.housekeeping_ms);
        if after_ms == 0 || inner.rest.is_resting() {
            return;
        }
        let rounds = u32::try_from(after_ms.div_ceil(round_ms)).unwrap_or(u32::MAX);
        let Some(touched) = inner.rest.quiet_for(rounds.max(1)) else {
            return;
        };
        let Some((heartbeat, followers)) = inner.last_heartbeat() else {
            return;
        };
        if !self.would_be_confirmed().await {
            return;
        }
        {
            let mut state = inner.rest.state.lock();
            // Whoever stops the replica says so first and looks at the state then; see `end_rest`.
            if !matches!(*state, State::Awake) || inner.stopped.load(Ordering::SeqCst) {
                return;
            }
            inner.rest.rests.fetch_add(1, Ordering::SeqCst);
            inner.rest.answers_for.store(true, Ordering::SeqCst);
            let asking = State::Asking {
                followers: followers.clone(),
            };
            inner.change(&mut state, asking);
        }
        let quiet = inner.rest.touched.load(Ordering::SeqCst) == touched;
        if !quiet || !self.all_rest(&heartbeat, &followers).await {
            inner.wake();
            // Without waiting for the timer: the followers' leases have run for the time of the question.
            let _ = inner.raft.trigger().heartbeat().await;
            return;
        }
        let mut state = inner.rest.state.lock();
        // Else something came meanwhile and woke it.
        if matches!(*state, State::Asking { .. }) {
            inner.change(&mut state, State::Leading { followers });
            mark(Mark::GroupAtRest);
            tracing::debug!(group = %inner.id, "at rest");
        }
    }

    /// Before a proposal: touches the group, and if it led at rest has its leadership confirmed first. Callers share a round.
    pub(crate) async fn rouse(&self) -> Result<(), ReadError> {
        self.refuse_if_following()?;
        self.inner.touch();
        match self.inner.rest.is_confirmed() {
            true => Ok(()),
            false => self.read_barrier().await,
        }
    }

    /// A follower at rest knows its leader, and who asks it in error does not wake it: its time-out has long passed, and it would
    /// campaign at once.
    pub(crate) fn refuse_if_following(&self) -> Result<(), ReadError> {
        match self.inner.following() {
            Some(following) => Err(ReadError::NotLeader {
                leader: Some(following.leader.node),
            }),
            None => Ok(()),
        }
    }

    /// A leader that hands over answers nobody and does not beat, so that the others elect one if the chosen one does not come.
    /// To ask them to rest would be to beat, for ever: seed 51 of the simulation.
    async fn would_be_confirmed(&self) -> bool {
        let patience = Duration::from_millis(self.inner.settings.heartbeat_ms);
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(patience);
        self.inner.raft.get_read_linearizer(option).await.is_ok()
    }

    async fn all_rest(&self, heartbeat: &AppendEntriesRequest<Types>, followers: &[NodeId]) -> bool {
        let inner = &self.inner;
        let mut body = Vec::new();
        inner.beats.sign().put(&mut body);
        body.extend_from_slice(&wire::encode_append(heartbeat));
        let body = Bytes::from(body);
        let timeout = Duration::from_millis(inner.settings.heartbeat_ms);
        let asked = followers.iter().map(|follower| {
            let message = RaftMessage {
                group: inner.id,
                kind: MessageKind::Rest,
                body: body.clone(),
            };
            tokio::time::timeout(timeout, inner.transport.send(*follower, message, timeout))
        });
        let answers = futures::future::join_all(asked).await;
        answers.iter().all(|answer| matches!(answer, Ok(Ok(yes)) if yes == YES))
    }

    /// A leader asks this replica to rest.
    pub(crate) async fn rest(&self, body: Bytes) -> Result<Bytes, HandleError> {
        let malformed = |error: Malformed| HandleError::Malformed(error.to_string());
        let (leader, heartbeat) = read_request(body).map_err(malformed)?;
        self.inner.wake();
        let failed = |error: &dyn std::fmt::Display| HandleError::Failed(error.to_string());
        let taken = self.append(heartbeat.clone()).await.map_err(|error| failed(&error))?;
        // Asked behind the heartbeat: the vote is as new as its answer. The metrics below may be a little older, and then the
        // answer is a needless no.
        let vote = self.inner.raft.with_raft_state(|state| *state.vote_ref()).await;
        let vote = vote.map_err(|fatal| failed(&fatal))?;
        let same_log = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.last_log_index == heartbeat.prev_log_id.map(|id| id.index) && metrics.state != ServerState::Leader
        };
        if taken != AppendEntriesResponse::Success || vote != heartbeat.vote || !same_log {
            return Ok(Bytes::from_static(NO));
        }
        self.inner.beats.note(leader);
        let following = Following {
            leader,
            heartbeat,
            since: self.inner.beats.now(),
        };
        let mut state = self.inner.rest.state.lock();
        self.inner.change(&mut state, State::Following(following));
        Ok(Bytes::from_static(YES))
    }

    /// A message for a replica at rest. Who asks a leader at rest for its vote is refused: the leader has to beat first, or it
    /// would not know that its followers still hear it.
    pub(crate) async fn disturbed_by(&self, kind: MessageKind) -> Result<(), HandleError> {
        match (kind, self.inner.following()) {
            // These say themselves whether they wake; see `stirred_by` and `rest`.
            (MessageKind::Append | MessageKind::Rest, _) => {}
            (MessageKind::Vote | MessageKind::PreVote, Some(following)) => self.vouch_and_wake(following).await,
            (MessageKind::Vote | MessageKind::PreVote, None) => {
                self.inner.touch();
                return Err(HandleError::Failed(
                    "was at rest and beats again: ask again".to_string(),
                ));
            }
            _ => self.inner.touch(),
        }
        Ok(())
    }

    /// A message of a leader for a replica at rest.
    pub(crate) fn stirred_by(&self, request: &AppendEntriesRequest<Types>) {
        let stray = self.inner.following().is_some_and(|following| {
            let same =
                request.vote == following.heartbeat.vote && request.prev_log_id == following.heartbeat.prev_log_id;
            same && request.entries.is_empty() && self.inner.beats.now() - following.since < STRAY_LOOKS
        });
        if !stray {
            self.inner.touch();
        }
    }

    /// Lets the lease run as it would if the leader, whose node is heard, had gone on beating; then all of the group wake.
    async fn vouch_and_wake(&self, following: Following) {
        let heard = self.inner.beats.heard(following.leader.node);
        // Not longer than a lease runs behind a heartbeat: followers that have lost their leader must not hold each other up.
        let lease = looks(self.inner.settings.lease(), &self.inner.settings);
        if heard.is_some_and(|heard| self.inner.beats.now() - heard.at < lease) {
            let patience = Duration::from_millis(self.inner.settings.heartbeat_ms);
            let _ = tokio::time::timeout(patience, self.append(following.heartbeat)).await;
        }
        self.inner.touch();
        self.inner
            .send_aside(following.leader.node, MessageKind::Wake, Bytes::new());
    }

    /// The leader's node is silent: campaigns like a follower whose time-out has passed, at a random time, so that the votes
    /// are not split.
    fn wake_alone(&self, delay: Duration) {
        let following = {
            let mut state = self.inner.rest.state.lock();
            let State::Following(following) = &*state else {
                return;
            };
            let following = following.clone();
            // From now on it is woken like any other; only its timers start later.
            *state = State::Awake;
            self.inner.rest.resting.store(false, Ordering::SeqCst);
            following
        };
        self.inner
            .send_aside(following.leader.node, MessageKind::Wake, Bytes::new());
        let group = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let state = group.inner.rest.state.lock();
            if matches!(*state, State::Awake) {
                group.inner.raft.runtime_config().tick(true);
            }
        });
    }

    /// Looks around once; adds who is to hear that this node lives.
    fn look_around(&self, chance: f64, to_beat: &mut BTreeSet<NodeId>) {
        let settings = &self.inner.settings;
        let (shortest, longest) = settings.silence_range();
        match self.inner.sight(looks(shortest, settings)) {
            Sight::Nothing => {}
            Sight::Leads(followers) => to_beat.extend(followers),
            Sight::Lost => self.inner.wake(),
            Sight::OtherLife => {
                if let Some(following) = self.inner.following() {
                    let group = self.clone();
                    tokio::spawn(async move { group.vouch_and_wake(following).await });
                }
            }
            Sight::Silence => self.wake_alone((longest - shortest).mul_f64(chance)),
        }
    }

    /// Followers that still rest under this replica shall not wait for it: it ends, or hands over.
    pub(crate) fn end_rest(&self) {
        self.inner.wake();
        if self.inner.rest.answers_for.swap(false, Ordering::SeqCst) {
            self.inner.beats.begin_new_life();
        }
    }

    /// The same if it does not lead any more, for whatever reason.
    fn check_leadership(&self) {
        if self.inner.rest.answers_for.load(Ordering::SeqCst) && !self.inner.leads() {
            self.end_rest();
        }
    }
}

/// That time in looks around, of which one begins.
fn looks(time: Duration, settings: &ConsensusSettings) -> u64 {
    let period = period(settings).as_micros().max(1);
    u64::try_from(time.as_micros().div_ceil(period)).unwrap_or(u64::MAX)
}

/// Between two looks around.
pub(crate) fn period(settings: &ConsensusSettings) -> Duration {
    Duration::from_micros(settings.heartbeat_ms * 1_000 / LOOKS_A_BEAT)
}

impl Beats {
    /// Looks around once in all groups. Returns the nodes to beat to, and the beat. `chance` gives `0.0..1.0`.
    pub(crate) fn look(&self, groups: &[Group], mut chance: impl FnMut() -> f64) -> (Vec<NodeId>, Bytes) {
        let look = self.looks.fetch_add(1, Ordering::SeqCst) + 1;
        let mut to_beat = BTreeSet::new();
        for group in groups {
            group.check_leadership();
            if group.is_at_rest() {
                group.look_around(chance(), &mut to_beat);
            }
        }
        if !look.is_multiple_of(LOOKS_A_BEAT) {
            to_beat.clear();
        }
        let mut body = Vec::new();
        self.sign().put(&mut body);
        (to_beat.into_iter().collect(), body.into())
    }
}

/// The message that says that this node lives. It belongs to no group.
pub(crate) fn beat(body: Bytes) -> RaftMessage {
    RaftMessage {
        group: GroupId(0),
        kind: MessageKind::Beat,
        body,
    }
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
