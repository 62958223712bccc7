//! Looks after the regions' health beside the requests: one task a client, only if there is a choice of regions.
//!
//! A probe asks every known node of a region for the cluster's status at once; the first answer settles that the region
//! can be reached. A region other than the active one is also checked for health: a catalog leader, and a leader for
//! every tablet of the tables in use, which it has to know if the active region does. Suspicious regions are probed every few milliseconds, the others every second.

use crate::client::Shared;
use crate::error::{ClientError, Failure, Reach, Result};
use crate::failover::Event;
use crate::routing::RoutingView;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tidemark_base::ErrorKind;
use tidemark_proto::v1;
use tokio::time::Instant;

/// Between two probes of a region that gives no reason for more.
const CALM: Duration = Duration::from_secs(1);
/// Tables whose tablets are looked at before a region counts as healthy.
const TABLES_MAX: usize = 8;
/// Nodes asked at once.
const NODES_MAX: usize = 16;

/// Waits until a region answers, the preferred one first; moves to another one if it alone does.
pub(crate) async fn first(shared: &Arc<Shared>) -> Result<()> {
    let options = &shared.options;
    let timeout = options.first_answer_within.unwrap_or(options.request_timeout);
    let deadline = Instant::now() + timeout;
    loop {
        let probes = (0..shared.regions.len()).map(|region| probe(shared, region, timeout));
        let outcomes = futures::future::join_all(probes).await;
        // Others first, so that a lost preferred region finds somewhere to go.
        let mut last = None;
        for (region, outcome) in outcomes.into_iter().enumerate().rev() {
            match outcome {
                Ok(healthy) => shared.note(region, Event::Probed { healthy }),
                Err(failure) => {
                    shared.note(region, Event::ProbeLost);
                    last = Some(failure.error);
                }
            }
        }
        if !shared.suspicious(shared.active()) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let error = last.unwrap_or_else(|| ClientError::new(ErrorKind::Unavailable, "NO_REGION", "no answer"));
            return Err(error);
        }
        tokio::time::sleep(interval(shared)).await;
    }
}

/// Probes until the client is gone.
pub(crate) async fn run(client: Weak<Shared>) {
    loop {
        let Some(shared) = client.upgrade() else { return };
        let began = Instant::now();
        round(&shared).await;
        let often = interval(&shared);
        let pause = if shared.suspicious(shared.active()) {
            often
        } else {
            CALM
        };
        // Holding `shared` while waiting would keep the client alive for ever; a second at most is no harm.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The first failure is looked into at once, a burst of them once an interval.
            () = shared.probe_wanted.notified() => tokio::time::sleep_until(began + often).await,
        }
    }
}

/// Five looks within the time after which the region is left.
fn interval(shared: &Shared) -> Duration {
    (shared.options.failover_after / 5).max(Duration::from_millis(10))
}

async fn round(shared: &Arc<Shared>) {
    let timeout = shared.options.failover_after.max(Duration::from_millis(250));
    // Each region's event counts as soon as it is known: a silent region must not delay another's good news. The
    // other regions come first in a tie, so that a lost active region finds somewhere to go.
    let mut probes: FuturesUnordered<_> = (0..shared.regions.len())
        .rev()
        .map(|region| async move { (region, probe(shared, region, timeout).await) })
        .collect();
    while let Some((region, outcome)) = probes.next().await {
        match outcome {
            Ok(healthy) => shared.note(region, Event::Probed { healthy }),
            Err(_) => shared.note(region, Event::ProbeLost),
        }
    }
}

/// True if the region answers and is whole, false if it only answers.
async fn probe(shared: &Arc<Shared>, region: usize, timeout: Duration) -> std::result::Result<bool, Failure> {
    let mut asked: FuturesUnordered<_> = shared
        .addresses(region)
        .into_iter()
        .take(NODES_MAX)
        .map(|address| ask(shared, region, address, timeout))
        .collect();
    let mut last = Failure::local(ClientError::new(ErrorKind::Unavailable, "NO_ADDRESS", "no address"));
    let mut whole = None;
    while let Some(outcome) = asked.next().await {
        match outcome {
            Ok(healthy) => {
                whole = Some(healthy);
                break;
            }
            // It answers, even if only that it cannot.
            Err(failure) if failure.reach == Reach::Answered => whole = Some(false),
            Err(failure) => last = failure,
        }
    }
    match whole {
        Some(true) if region != shared.active() => Ok(all_led(shared, region).await),
        Some(whole) => Ok(whole),
        None => Err(last),
    }
}

async fn ask(
    shared: &Arc<Shared>,
    region: usize,
    address: Arc<str>,
    timeout: Duration,
) -> std::result::Result<bool, Failure> {
    let node = shared.connections.node(&address)?;
    let mut cluster = v1::cluster_client::ClusterClient::new(node.channel());
    let mut request = tonic::Request::new(v1::ClusterStatusRequest { tablets: false });
    request.set_timeout(timeout);
    let outcome = match tokio::time::timeout(timeout, cluster.cluster_status(request)).await {
        Ok(Ok(status)) => Ok(status.into_inner().catalog_leader != 0),
        Ok(Err(status)) => Err(Failure::from(status)),
        Err(_) => Err(Failure::timed_out(timeout)),
    };
    outcome.map_err(|mut failure| {
        failure.error = failure.error.at(&shared.regions[region].name, &address);
        if failure.reach == Reach::Answered {
            node.note_answer();
        } else {
            node.note_unreachable();
        }
        failure
    })
}

/// True if every tablet of the tables in use has a leader in that region. A table that the region does not have is an
/// obstacle as long as the active region has it: whoever uses it would be worse off there, and a region that comes back
/// in pieces may not know its own tables yet.
async fn all_led(shared: &Arc<Shared>, region: usize) -> bool {
    for table in shared.tables_in_use(TABLES_MAX) {
        match today(shared, region, &table).await {
            Ok(view) if view.all_led() => {}
            Err(failure) if is_missing(&failure) => {
                let active = today(shared, shared.active(), &table).await;
                if !active.is_err_and(|failure| is_missing(&failure)) {
                    return false;
                }
            }
            _ => return false,
        }
    }
    true
}

/// The table's routing as it is now: asking for a newer view than the newest makes sure of that.
async fn today(shared: &Arc<Shared>, region: usize, table: &str) -> std::result::Result<Arc<RoutingView>, Failure> {
    let newest = shared.routing(region, table, None).await;
    let stale = newest.ok().map(|view| view.generation);
    shared.routing(region, table, stale).await
}

fn is_missing(failure: &Failure) -> bool {
    failure.error.kind() == ErrorKind::NotFound
}
