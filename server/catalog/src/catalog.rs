//! The handle on the catalog: start the group, execute commands from any node, wait for views.
//!
//! ```text
//! execute(command):
//!     envelope once: request id, time
//!     until the deadline:
//!         this node leads        -> propose here
//!         another node leads     -> forward the envelope to it
//!         nobody is known to     -> ask the seeds in turn (a node outside the group), or wait
//!         an answer              -> wait until this node's view has its revision; return it
//!         not leader, busy, not ready, nodes missing, unknown outcome -> pause with jitter, the same envelope again
//! ```
//!
//! The same envelope is what makes the retry after an unknown outcome safe: apply remembers the request's answer.

use crate::codec;
use crate::command::{Answer, Command, Envelope, Founding, RequestId, Response};
use crate::machine::{Machine, Published};
use crate::operation::create_table::NODES_MISSING;
use crate::state::{Identity, NOT_READY};
use crate::view::CatalogView;
use bytes::Bytes;
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, GroupId, NodeId, RegionId, Result};
use tidemark_consensus::{ConsensusError, Group, GroupStatus, Host, ProposeError, ReadError, Role};
use tidemark_runtime::{Entropy, SharedClock};
use tokio::sync::watch;

/// How long [`Catalog::execute`] tries. Several elections fit in.
const EXECUTE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one attempt may take: a leader that was cut off from its quorum keeps a proposal for longer than an election
/// takes, and the next leader answers the same envelope.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it then waits for its own node to see what the leader answered.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two attempts, before jitter.
const RETRY_PAUSE: Duration = Duration::from_millis(60);
/// The pause between two rounds of the keeper when nothing wakes it.
const KEEPER_PAUSE: Duration = Duration::from_secs(2);

/// What a catalog is started with.
pub struct CatalogOptions {
    /// The node's groups.
    pub host: Host,
    /// Where the state survives; the catalog's own directory, made if missing.
    pub dir: PathBuf,
    /// The cluster's configured name. It and the region must be those that the catalog was founded with.
    pub cluster: String,
    /// The region's name.
    pub region_name: String,
    /// The region's number.
    pub region: RegionId,
    /// This node.
    pub node: NodeId,
    /// Wall time for commands.
    pub clock: SharedClock,
    /// Request ids, the cluster's id, jitter.
    pub entropy: Entropy,
    /// The way to the leader on another node.
    pub forward: Arc<dyn CatalogForward>,
    /// The seeds: the nodes that found the catalog's group. The same on every node.
    pub voters: BTreeSet<NodeId>,
}

/// Carries an encoded command to [`Catalog::handle_forwarded`] on another node. Must give up by itself in bounded time
/// and say `UNKNOWN_OUTCOME` where the command may have arrived.
pub trait CatalogForward: Send + Sync {
    /// Sends it and returns the answer's bytes.
    fn propose_at(&self, leader: NodeId, command: Bytes) -> BoxFuture<'static, Result<Bytes>>;
}

/// This node's catalog. Clones are the same catalog.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

struct Inner {
    group: Group,
    published: Arc<Published>,
    identity: Identity,
    node: NodeId,
    voters: BTreeSet<NodeId>,
    clock: SharedClock,
    entropy: Entropy,
    forward: Arc<dyn CatalogForward>,
}

impl Catalog {
    /// Loads the state, starts the group and, on a seed, founds it (every seed may: the first wins). Returns before there
    /// is a leader. Errors: a damaged document, another cluster's document, a group that cannot start.
    pub async fn start(options: CatalogOptions) -> Result<Catalog> {
        let identity = Identity {
            cluster: options.cluster,
            region_name: options.region_name,
            region: options.region,
        };
        let (dir, expected) = (options.dir, identity.clone());
        let machine = tidemark_runtime::spawn_blocking(move || Machine::open(&dir, &expected))
            .await
            .map_err(|error| Error::internal(format!("opening the catalog: {error}")))??;
        let published = machine.published();
        let started = options.host.start_group(GroupId::CATALOG, Box::new(machine)).await;
        let group = started.map_err(|error| not_started(&error))?;
        if options.voters.contains(&options.node) {
            group
                .initialize(options.voters.clone())
                .await
                .map_err(|error| not_started(&error))?;
        }
        let inner = Arc::new(Inner {
            group,
            published,
            identity,
            node: options.node,
            voters: options.voters,
            clock: options.clock,
            entropy: options.entropy,
            forward: options.forward,
        });
        tokio::spawn(keep(inner.group.watch(), Arc::downgrade(&inner)));
        Ok(Catalog { inner })
    }

    /// What this node knows now. May lag behind the leader; never goes back.
    pub fn view(&self) -> Arc<CatalogView> {
        self.inner.published.view()
    }

    /// The revision of [`Catalog::view`], to wait for changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.inner.published.watch()
    }

    /// Does it, wherever the leader is, and returns when this node's view shows it.
    ///
    /// A refusal is the verb's own error. `UNAVAILABLE` after ten seconds without a leader: nothing was done.
    /// `UNKNOWN_OUTCOME`: it may have been done or may be done yet; a repeat of a create or alter with the same request id
    /// is safe.
    pub async fn execute(&self, command: Command) -> Result<Answer> {
        self.inner.execute(command).await
    }

    /// The leader's side of [`CatalogForward`]. `NOT_LEADER` elsewhere: a command is forwarded once.
    pub async fn handle_forwarded(&self, command: Bytes) -> Result<Bytes> {
        // Before it reaches the log: what this release cannot read would stop every replica.
        codec::decode_envelope(&command).map_err(|malformed| {
            Error::new(
                ErrorKind::Unsupported,
                "CATALOG_COMMAND",
                format!("not a catalog command: {malformed}"),
            )
            .action("run one release of tidemarkd on all nodes of the region")
        })?;
        self.inner.propose(command).await
    }

    /// Returns when [`Catalog::view`] shows everything that was done before the call, on any node.
    pub async fn read_barrier(&self) -> Result<()> {
        match self.inner.group.read_barrier().await {
            Ok(()) => Ok(()),
            // Here the leader cannot be asked for its index; a command that changes nothing finds its place behind all.
            Err(ReadError::NotLeader { .. } | ReadError::Unavailable(_)) => {
                self.inner.execute(Command::Barrier).await.map(|_| ())
            }
            Err(ReadError::Stopped(say)) => Err(stopped(&say)),
        }
    }

    /// The catalog's Raft group.
    pub fn group(&self) -> &Group {
        &self.inner.group
    }
}

impl Inner {
    async fn execute(&self, command: Command) -> Result<Answer> {
        let verb = command.verb();
        let bytes = codec::encode_envelope(&self.envelope(command));
        if bytes.len() > crate::limits::COMMAND_BYTES_MAX {
            let say = format!(
                "the command takes {} bytes, more than {}",
                bytes.len(),
                crate::limits::COMMAND_BYTES_MAX
            );
            return Err(Error::invalid("COMMAND_TOO_LARGE", say).action("give fewer or shorter split keys"));
        }
        let mut attempts = Attempts::default();
        let done = tokio::time::timeout(EXECUTE_TIMEOUT, self.attempt_until_done(bytes, &mut attempts)).await;
        let response = match done {
            Ok(response) => response?,
            Err(_) => return Err(attempts.give_up(verb)),
        };
        let answer = response.outcome?;
        self.catch_up(response.revision).await?;
        Ok(answer)
    }

    /// What is proposed, the same in every attempt.
    fn envelope(&self, command: Command) -> Envelope {
        let founding = matches!(command, Command::Bootstrap { .. }).then(|| Founding {
            identity: self.identity.clone(),
            seeds: self.voters.iter().copied().collect(),
        });
        Envelope {
            request: command.request_id().unwrap_or_else(|| self.fresh_request()),
            now_ms: self.clock.now_ms(),
            founding,
            command,
        }
    }

    /// An id that no earlier request had. Time and node are part of it: a process that is started again with the same seed
    /// draws the same numbers, and would otherwise be given the answers of its former life.
    fn fresh_request(&self) -> RequestId {
        let drawn = self.entropy.next_u64() ^ self.node.0.rotate_left(48);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.clock.now_micros().to_be_bytes());
        bytes[8..].copy_from_slice(&drawn.to_be_bytes());
        RequestId(bytes)
    }

    /// Tries until there is an answer that a repeat would not change.
    async fn attempt_until_done(&self, bytes: Bytes, attempts: &mut Attempts) -> Result<Response> {
        loop {
            // A proposal that is cut off by a deadline may still be carried out.
            attempts.running = true;
            let attempt = self.attempt(&bytes, attempts.count);
            let result = tokio::time::timeout(ATTEMPT_TIMEOUT, attempt)
                .await
                .unwrap_or_else(|_| Err(unanswered()));
            attempts.running = false;
            attempts.count += 1;
            let mut pause = RETRY_PAUSE;
            let error = match result {
                Ok(response) => match &response.outcome {
                    // Each of these attempts is an entry in the log: not more often than the refusal itself proposes.
                    Err(error) if [NOT_READY, NODES_MISSING].contains(&error.reason()) => {
                        pause = error.delay().unwrap_or(pause);
                        error.clone()
                    }
                    _ => return Ok(response),
                },
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::UnknownOutcome | ErrorKind::DeadlineExceeded => attempts.uncertain = true,
                kind if kind.is_retryable() && error.reason() != STOPPED => {}
                _ => return Err(error),
            }
            attempts.last = Some(error);
            tokio::time::sleep(self.entropy.jitter(pause)).await;
        }
    }

    async fn attempt(&self, bytes: &Bytes, count: usize) -> Result<Response> {
        let status = self.group.status();
        let answer = match self.target(&status, count) {
            Some(node) if node == self.node => self.propose(bytes.clone()).await?,
            Some(node) => self.forward.propose_at(node, bytes.clone()).await?,
            None => return Err(no_leader()),
        };
        codec::decode_response(&answer)
            .map_err(|malformed| Error::internal(format!("the catalog's answer is not readable: {malformed}")))
    }

    /// Whom to ask. A node outside the group hears from no leader, so it asks the seeds in turn.
    fn target(&self, status: &GroupStatus, count: usize) -> Option<NodeId> {
        if status.role == Role::Leader {
            return Some(self.node);
        }
        let known = status.leader.filter(|leader| *leader != self.node);
        let member = status.voters.contains(&self.node) || self.voters.contains(&self.node);
        if known.is_some() || member {
            return known;
        }
        let others: Vec<NodeId> = self.voters.iter().copied().filter(|node| *node != self.node).collect();
        others.get(count % others.len().max(1)).copied()
    }

    async fn propose(&self, command: Bytes) -> Result<Bytes> {
        match self.group.propose(command).await {
            Ok(proposed) => Ok(proposed.response),
            Err(ProposeError::NotLeader { leader }) => {
                let say = match leader {
                    Some(node) => format!("the catalog's leader is {node}"),
                    None => "the catalog has no leader at the moment".to_owned(),
                };
                Err(Error::new(ErrorKind::NotLeader, "CATALOG_NOT_LEADER", say).object("catalog"))
            }
            Err(ProposeError::Busy) => {
                let say = "the catalog takes no more commands at the moment, or the disk of its log is full";
                Err(Error::new(ErrorKind::Busy, "CATALOG_BUSY", say).retry_after(Duration::from_millis(200)))
            }
            Err(ProposeError::Unknown(say)) => Err(Error::new(ErrorKind::UnknownOutcome, "CATALOG_UNKNOWN", say)),
            Err(ProposeError::Stopped(say)) => Err(stopped(&say)),
        }
    }

    /// Waits until the view here has that revision.
    async fn catch_up(&self, revision: u64) -> Result<()> {
        let mut seen = self.published.watch();
        let waited = tokio::time::timeout(CATCH_UP_TIMEOUT, seen.wait_for(|at| *at >= revision)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let say = "it is done, but this node has not heard of it in time";
                Err(Error::new(ErrorKind::UnknownOutcome, "CATALOG_LAGS", say)
                    .object(self.node.to_string())
                    .action("repeat it; look at the nodes: tidemark cluster status"))
            }
        }
    }

    /// What only the leader does: found the cluster, and let nodes that are no voters follow the catalog.
    async fn lead(&self, status: &GroupStatus) {
        let view = self.published.view();
        if view.cluster_id.is_none() {
            let cluster_id = RequestId::random(&self.entropy).to_string();
            let envelope = self.envelope(Command::Bootstrap { cluster_id });
            if let Err(error) = self.propose(codec::encode_envelope(&envelope)).await {
                tracing::info!(%error, "cluster not founded yet");
            }
        }
        let outside = |node: &&NodeId| !status.voters.contains(node) && !status.learners.contains(node);
        for node in view.nodes.keys().filter(outside) {
            if let Err(error) = self.group.add_learner(*node).await {
                tracing::info!(%node, %error, "node does not follow the catalog yet");
            }
        }
    }
}

/// What happened to one command so far.
#[derive(Default)]
struct Attempts {
    count: usize,
    /// One is under way.
    running: bool,
    /// One may have been carried out.
    uncertain: bool,
    last: Option<Error>,
}

impl Attempts {
    /// The error after the deadline: certain only if no attempt can have reached a log.
    fn give_up(self, verb: &str) -> Error {
        if self.uncertain || self.running {
            let say = format!(
                "no answer to {verb} within {} s; it may or may not be done",
                EXECUTE_TIMEOUT.as_secs()
            );
            return Error::new(ErrorKind::UnknownOutcome, "CATALOG_UNKNOWN", say)
                .action("look whether it is done before you repeat it");
        }
        let error = self.last.unwrap_or_else(no_leader);
        match error.kind() {
            ErrorKind::NotLeader => no_leader(),
            _ => error,
        }
    }
}

/// The keeper: runs [`Inner::lead`] while this node leads, until the catalog is gone or its group stops.
async fn keep(mut status: watch::Receiver<GroupStatus>, inner: std::sync::Weak<Inner>) {
    loop {
        let mut revision = {
            let Some(inner) = inner.upgrade() else { return };
            let now = status.borrow_and_update().clone();
            if now.fault.is_some() {
                return;
            }
            let revision = inner.published.watch();
            if now.leader_ready {
                inner.lead(&now).await;
            }
            revision
        };
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            changed = revision.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(KEEPER_PAUSE) => {}
        }
    }
}

const STOPPED: &str = "CATALOG_STOPPED";

fn stopped(say: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        STOPPED,
        format!("the catalog does not run on this node: {say}"),
    )
    .object("catalog")
    .action("look at this node's log and restart it; other nodes go on")
}

fn unanswered() -> Error {
    let say = format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs());
    Error::new(ErrorKind::UnknownOutcome, "CATALOG_UNKNOWN", say)
}

fn no_leader() -> Error {
    let say = "the catalog has no leader: most of its nodes do not answer";
    Error::unavailable("CATALOG_NO_LEADER", say, Duration::from_millis(500))
        .object("catalog")
        .action("start the missing nodes; look at them: tidemark cluster status")
}

fn not_started(error: &ConsensusError) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "CATALOG_NOT_STARTED",
        format!("the catalog's group did not start: {error}"),
    )
    .object("catalog")
}
