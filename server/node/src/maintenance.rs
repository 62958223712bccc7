//! The node's slow loops: measuring, flushing, forgetting garbage, and making itself known to the catalog.

use crate::identity::DataDir;
use crate::report::NodeFacts;
use crate::tablets::TabletKeeper;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::GroupId;
use tidemark_catalog::{Catalog, Command, NODE_ID_USED};
use tidemark_consensus::{FileLog, LogStore};
use tidemark_runtime::{Entropy, Shutdown};
use tidemark_services::{NodeIdentity, PeerClients, TabletDirectory};
use tokio::sync::oneshot;
use tracing::{info, warn};

/// Between two looks at the disk.
const DISK_ROUND: Duration = Duration::from_millis(200);
/// Rounds of the disk between two rounds of the tablets.
const TABLET_EVERY: u32 = 5;
/// Between two attempts to register.
const REGISTER_PAUSE: Duration = Duration::from_millis(300);

/// A group that no catalog gives out: what is written of it says nothing.
const NOBODY: GroupId = GroupId(0);
/// For making the log's first segment durable. Longer means a disk that serves nobody.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);

/// Makes the Raft log exist on disk and notes in the identity that it does, before anybody can reach this node: from here on
/// a directory without its log is refused, and no vote or entry was promised before that. Not by a look now and then, which
/// leaves a moment in which a promise could be lost unseen.
pub async fn begin_log(data: &DataDir, log: &FileLog) -> Result<()> {
    if log.segments() == 0 {
        let (written, done) = oneshot::channel();
        let report = Box::new(move |result| drop(written.send(result)));
        log.destroy(NOBODY, report).context("the Raft log cannot be begun")?;
        let waited = tokio::time::timeout(BEGIN_LIMIT, done).await;
        waited
            .context("the Raft log cannot be begun: the disk does not answer, or has no room")?
            .context("the Raft log was closed while it was begun")?
            .context("the Raft log cannot be begun")?;
    }
    data.note_log_begun()
}

/// Measures and maintains until told to stop.
pub async fn run(facts: Arc<NodeFacts>, keeper: Arc<TabletKeeper>, shutdown: Shutdown) {
    let mut round = 0u32;
    loop {
        if facts.measure() {
            let (free, reserve) = (facts.disk().free_bytes(), facts.disk().reserve_bytes());
            if facts.disk().is_low() {
                warn!(
                    free,
                    reserve, "the disk is nearly full: writes are refused until space returns"
                );
            } else {
                info!(free, reserve, "disk space has returned: writes are taken again");
            }
        }
        if round.is_multiple_of(TABLET_EVERY) {
            for tablet in keeper.all() {
                tablet.maintain().await;
            }
        }
        round = round.wrapping_add(1);
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(DISK_ROUND) => {}
        }
    }
}

/// Bootstraps the catalog if it is new, and registers this node (again with each start: address, zone and version may have
/// changed). Tries until it is done, or refused for good because the number belongs to another incarnation; readiness waits
/// for it.
pub async fn register(
    facts: Arc<NodeFacts>,
    catalog: Catalog,
    peers: Arc<PeerClients>,
    identity: NodeIdentity,
    entropy: Entropy,
    shutdown: Shutdown,
) {
    let settings = facts.settings();
    loop {
        let step = async {
            // Only founders found; a node that joins later sees the catalog after it has registered.
            if settings.seeds.contains_key(&settings.node) && catalog.view().cluster_id.is_none() {
                let cluster_id = format!("{:016x}{:016x}", entropy.next_u64(), entropy.next_u64());
                catalog.execute(Command::Bootstrap { cluster_id }).await?;
            }
            catalog
                .execute(Command::RegisterNode {
                    id: settings.node,
                    address: settings.advertise.clone(),
                    zone: settings.typed.node.zone.clone(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    now_ms: facts.now_ms(),
                    incarnation: identity.incarnation.clone(),
                })
                .await
        };
        match step.await {
            Ok(_) => {
                facts.set_registered();
                info!(node = settings.node.0, "registered in the catalog");
                return;
            }
            Err(e) if e.reason() == NODE_ID_USED => return peers.note_refusal(&e),
            Err(e) => tracing::debug!(error = %e, "cannot register yet"),
        }
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(REGISTER_PAUSE) => {}
        }
    }
}
