//! Any node answers any request: one that leads the tablet answers itself, any other passes the same public request on to
//! the leader, at most one hop.
//!
//! ```text
//! who next?   1 this node, if its replica leads         2 the leader by the last hint, this replica or the Leaders table
//!             3 the preferred replica                   4 the other replicas
//! and then?   answered                -> done; a forwarded answer says where to go next time (redirect)
//!             NOT_LEADER              -> nothing was done: the node that it names, else the next one
//!             never connected         -> nothing was done: forget that leader, the next one
//!             broken under way        -> the next one only where a repeat is harmless (reads, tokens); else unknown outcome
//!             any other error         -> that is the answer; of a change with a token that may have been made by an earlier
//!                                        try: unknown outcome
//!             nobody left to ask      -> nobody leads right now: the same again after a pause, for 1.5 s
//! ```

use crate::call::{Call, FORWARDED};
use crate::context::ServiceContext;
use crate::errors::{Failure, LeaderHint, from_status, from_write_status};
use std::collections::BTreeSet;
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, NodeId, Result, TabletId};
use tidemark_catalog::TabletRecord;
use tidemark_proto::v1::{Redirect, data_client::DataClient};
use tidemark_tablet::Tablet;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// The delay told to a caller while no leader is known: an election takes well below a second.
const NO_LEADER_RETRY: Duration = Duration::from_millis(100);

/// Between two rounds of asking everyone.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// Pauses before a tablet is said to have no leader: 1.5 s, twice what an election takes.
const ROUNDS_MAX: u32 = 30;

/// What a repeat of a request at another node may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Nothing: it reads.
    Harmless,
    /// Nothing more: it carries an idempotency token. But once a try may have taken effect, the whole request may have.
    Once,
    /// Take effect twice: only where the first try certainly had none.
    Risky,
}

/// Which replicas may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answerer {
    /// The leader only.
    Leader,
    /// Any, the one here first.
    Any,
}

/// How to find the answer to a request on one tablet.
#[derive(Clone, Copy, Debug)]
pub struct Forwarding {
    /// What a repeat may do.
    pub repeat: Repeat,
    /// Who may answer.
    pub answerer: Answerer,
    /// False = once the replica here has refused, say so instead of asking elsewhere: for requests whose order counts.
    pub onward: bool,
}

impl Forwarding {
    /// For reads.
    pub fn read(answerer: Answerer) -> Forwarding {
        Forwarding {
            repeat: Repeat::Harmless,
            answerer,
            onward: true,
        }
    }
}

/// The node that is believed to lead a tablet: by the replica here, else by what others said.
pub fn leader_of(context: &ServiceContext, tablet: TabletId) -> Option<NodeId> {
    let here = context.tablets.get(tablet).and_then(|tablet| tablet.group().leader());
    here.or_else(|| context.leaders.leader(tablet.group()))
}

/// Where that tablet's leader is believed to be, with its address.
pub fn hint(context: &ServiceContext, tablet: TabletId) -> Option<LeaderHint> {
    let node = leader_of(context, tablet)?;
    Some(LeaderHint {
        tablet,
        node,
        address: address_of(context, node)?,
    })
}

fn address_of(context: &ServiceContext, node: NodeId) -> Option<String> {
    if node == context.identity.node {
        return Some(context.identity.address.clone());
    }
    context
        .catalog
        .view()
        .nodes
        .get(&node)
        .map(|record| record.address.clone())
}

/// Has a request on one tablet answered by whoever can. `local` answers with the replica here, `remote` sends it to
/// another node, within the time given.
///
/// While nobody leads, which is how a tablet is for well below a second after its leader died, the request waits here: that
/// is sooner answered than sent again by its caller, and nothing was done yet.
pub async fn at_leader<T, L, LF, R, RF>(
    context: &ServiceContext,
    call: &Call,
    tablet: &TabletRecord,
    how: Forwarding,
    local: L,
    remote: R,
) -> std::result::Result<(T, Option<Redirect>), Failure>
where
    L: Fn(Tablet) -> LF,
    LF: Future<Output = Result<T>>,
    R: Fn(DataClient<Channel>, Duration) -> RF,
    RF: Future<Output = std::result::Result<T, Status>>,
{
    let mut pauses_left = ROUNDS_MAX;
    let mut uncertain = false;
    loop {
        let last = match round(context, call, tablet, how, &mut uncertain, &local, &remote).await {
            Ok(Round::Answered(answer, redirect)) => return Ok((answer, redirect)),
            Ok(Round::Nobody(last)) => last,
            Err(failure) => return Err(doubted(failure, uncertain)),
        };
        if pauses_left == 0 || call.left() < 2 * ROUND_PAUSE {
            return Err(doubted(exhausted(tablet.id, last).into(), uncertain));
        }
        pauses_left -= 1;
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

/// The failure of a request of which a try may have taken effect: then it is not certain, however certain the last try's
/// failure is.
fn doubted(failure: Failure, uncertain: bool) -> Failure {
    let error = failure.error;
    if !uncertain || matches!(error.kind(), ErrorKind::UnknownOutcome | ErrorKind::DeadlineExceeded) {
        return Failure { error, ..failure };
    }
    let message = format!("a try may have taken effect; the one after it failed: {error}");
    Error::new(ErrorKind::UnknownOutcome, "OUTCOME_UNKNOWN", message)
        .object(error.object_name())
        .action("repeat it with the same token, or read the row")
        .into()
}

/// What came of asking everyone once.
enum Round<T> {
    Answered(T, Option<Redirect>),
    /// Nobody leads, or none that does could be reached: with the last reason. Nothing was done, or a repeat is harmless.
    Nobody(Option<Error>),
}

async fn round<T, L, LF, R, RF>(
    context: &ServiceContext,
    call: &Call,
    tablet: &TabletRecord,
    how: Forwarding,
    uncertain: &mut bool,
    local: &L,
    remote: &R,
) -> std::result::Result<Round<T>, Failure>
where
    L: Fn(Tablet) -> LF,
    LF: Future<Output = Result<T>>,
    R: Fn(DataClient<Channel>, Duration) -> RF,
    RF: Future<Output = std::result::Result<T, Status>>,
{
    let mut last = None;
    let here = context.tablets.get(tablet.id);
    if let Some(replica) = here.filter(|replica| how.answerer == Answerer::Any || leads(context, replica)) {
        match local(replica).await {
            Ok(answer) => return Ok(Round::Answered(answer, None)),
            Err(error) if error.kind() != ErrorKind::NotLeader || !how.onward => {
                return Err(with_hint(context, tablet, error));
            }
            Err(error) => last = Some(error),
        }
    }
    if call.forwarded {
        let error = last.unwrap_or_else(|| not_leader(context, tablet.id));
        return Err(with_hint(context, tablet, error));
    }
    let mut search = Search::new(context, tablet);
    while let Some(target) = search.next() {
        let Ok(client) = context.peers.data(target.node) else {
            continue;
        };
        let failure = match remote(client, call.left()).await {
            Ok(answer) => return Ok(Round::Answered(answer, Some(target.redirect()))),
            Err(status) if how.repeat == Repeat::Harmless => from_status(&status),
            Err(status) => from_write_status(&status),
        };
        let unreachable = failure.error.reason() == "PEER_UNREACHABLE";
        match failure.error.kind() {
            ErrorKind::NotLeader => search.prefer = failure.hint.map(|hint| hint.node),
            ErrorKind::Unavailable if unreachable => context.leaders.forget(target.node),
            ErrorKind::UnknownOutcome if how.repeat != Repeat::Risky => *uncertain |= how.repeat == Repeat::Once,
            _ => return Err(failure),
        }
        tracing::debug!(tablet = %tablet.id, node = %target.node, error = %failure.error, "asking the next node");
        last = Some(failure.error);
    }
    Ok(Round::Nobody(last))
}

/// A request to another node, marked as passed on, with the time that it has.
pub fn onward<T>(message: T, left: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(FORWARDED, MetadataValue::from_static("1"));
    request.set_timeout(left);
    request
}

/// True if this node's replica believes to lead.
fn leads(context: &ServiceContext, replica: &Tablet) -> bool {
    replica.group().leader() == Some(context.identity.node)
}

/// Nodes to ask, each once.
struct Search<'a> {
    context: &'a ServiceContext,
    tablet: &'a TabletRecord,
    tried: BTreeSet<NodeId>,
    /// Named by the last node that refused.
    prefer: Option<NodeId>,
}

impl<'a> Search<'a> {
    fn new(context: &'a ServiceContext, tablet: &'a TabletRecord) -> Search<'a> {
        Search {
            context,
            tablet,
            tried: BTreeSet::from([context.identity.node]),
            prefer: leader_of(context, tablet.id),
        }
    }

    fn next(&mut self) -> Option<LeaderHint> {
        let candidates = self
            .prefer
            .take()
            .into_iter()
            .chain(self.tablet.replicas.iter().copied());
        for node in candidates {
            if let Some(address) = address_of(self.context, node)
                && self.tried.insert(node)
            {
                return Some(LeaderHint {
                    tablet: self.tablet.id,
                    node,
                    address,
                });
            }
        }
        None
    }
}

/// The error of a node that is asked for a tablet that it does not lead.
pub fn not_leader(context: &ServiceContext, tablet: TabletId) -> Error {
    Error::new(
        ErrorKind::NotLeader,
        "NOT_LEADER",
        format!("{} does not lead {tablet}", context.identity.node),
    )
    .object(tablet.to_string())
    .action("ask the node named in the hint, or any node without the mark of a forwarded request")
    .retry_after(NO_LEADER_RETRY)
}

/// Adds where the leader is, unless that would be this node, which has just refused.
fn with_hint(context: &ServiceContext, tablet: &TabletRecord, error: Error) -> Failure {
    let useful = error.kind() == ErrorKind::NotLeader;
    let known = hint(context, tablet.id).filter(|hint| useful && hint.node != context.identity.node);
    Failure { error, hint: known }
}

/// Nobody could answer: the last reason, unless it only sent us in circles.
fn exhausted(tablet: TabletId, last: Option<Error>) -> Error {
    match last {
        Some(error) if error.kind() == ErrorKind::UnknownOutcome => error,
        other => {
            let why = other.map_or_else(
                || "no replica is known here".to_owned(),
                |error| error.message().to_owned(),
            );
            Error::unavailable(
                "NO_LEADER",
                format!("{tablet} has no leader right now: {why}"),
                NO_LEADER_RETRY,
            )
            .object(tablet.to_string())
            .action("it elects one by itself when most of its replicas are up: tidemark cluster status --tablets")
        }
    }
}
