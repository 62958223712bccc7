//! The tablets of this node: started where the catalog places a replica here, stopped and destroyed where it does not any
//! more, reopened after a fault that reopening can mend.
//!
//! The catalog decides; this module only makes the node agree with it, over and over (a level-triggered loop: what it
//! missed it sees in the next round).

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{Error, GroupId, NodeId, Result, TableSchema, TabletId};
use tidemark_catalog::{Catalog, CatalogView, TabletRecord};
use tidemark_consensus::{GroupStatus, Host};
use tidemark_replication::{NodeReport, TabletAccess};
use tidemark_runtime::{Metrics, SharedClock, Shutdown, Tasks};
use tidemark_services::{PeerClients, TabletDirectory};
use tidemark_tablet::{EngineFactory, Tablet, TabletDescriptor, TabletOptions, TabletSettings};
use tracing::{error, info, warn};

/// How often the loop looks even if the catalog did not change.
const ROUND: Duration = Duration::from_millis(500);
/// A tablet that is in trouble is reopened at most that often.
const REOPEN_PAUSE_MS: u64 = 5_000;
/// How long one tablet may take to stop before the others are looked after again.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What a tablet needs to start on this node.
pub struct TabletKit {
    /// This node.
    pub node: NodeId,
    /// Raft groups.
    pub host: Host,
    /// Engines.
    pub factory: Arc<dyn EngineFactory>,
    /// Time.
    pub clock: SharedClock,
    /// Tasks.
    pub tasks: Tasks,
    /// Bounds of a tablet.
    pub settings: TabletSettings,
    /// Metrics.
    pub metrics: Metrics,
}

/// The tablets that run here.
pub struct TabletKeeper {
    kit: TabletKit,
    catalog: Catalog,
    running: RwLock<BTreeMap<TabletId, Tablet>>,
    /// Why a tablet that should run does not, and when that was noticed (monotonic milliseconds).
    troubled: RwLock<BTreeMap<TabletId, (String, u64)>>,
}

impl TabletKeeper {
    /// A keeper with nothing running yet.
    pub fn new(kit: TabletKit, catalog: Catalog) -> Arc<TabletKeeper> {
        Arc::new(TabletKeeper {
            kit,
            catalog,
            running: RwLock::default(),
            troubled: RwLock::default(),
        })
    }

    /// Makes the node agree with the catalog until told to stop.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) {
        let mut changes = self.catalog.watch();
        loop {
            self.round().await;
            tokio::select! {
                () = shutdown.wait() => return,
                _ = changes.changed() => {}
                () = tokio::time::sleep(ROUND) => {}
            }
        }
    }

    async fn round(&self) {
        let view = self.catalog.view();
        if view.cluster_id.is_none() {
            return;
        }
        let wanted: BTreeMap<TabletId, &TabletRecord> = view
            .tablets
            .values()
            .filter(|t| t.replicas.contains(&self.kit.node))
            .map(|t| (t.id, t))
            .collect();
        for (id, record) in &wanted {
            let known = self.running.read().get(id).cloned();
            match known {
                None => self.start(&view, record).await,
                Some(tablet) => self.mend(&view, record, tablet).await,
            }
        }
        // "Dropped" is sound in an old view of the catalog; "not there" is not. Logs of groups that this node no longer
        // runs are looked at as well: a table may have been dropped while the node was down.
        let mut known: BTreeSet<TabletId> = self.running.read().keys().copied().collect();
        known.extend(
            self.kit
                .host
                .log()
                .groups()
                .into_iter()
                .filter(|g| *g != GroupId::CATALOG)
                .map(|g| TabletId(g.0)),
        );
        for id in known.into_iter().filter(|id| view.is_dropped(*id)) {
            self.remove(id).await;
        }
        self.troubled.write().retain(|id, _| wanted.contains_key(id));
    }

    async fn start(&self, view: &CatalogView, record: &TabletRecord) {
        if !self.may_try_again(record.id) {
            return;
        }
        let Some(table) = view.table_by_id(record.table) else {
            return;
        };
        let descriptor = TabletDescriptor {
            tablet: record.id,
            table: record.table,
            table_name: table.name.clone(),
            range: record.range.clone(),
        };
        let options = TabletOptions {
            descriptor,
            host: self.kit.host.clone(),
            factory: self.kit.factory.clone(),
            clock: self.kit.clock.clone(),
            tasks: self.kit.tasks.clone(),
            settings: self.kit.settings.clone(),
            initial_schema: view.schema(record.table),
            metrics: self.kit.metrics.clone(),
        };
        match Tablet::start(options).await {
            Ok(tablet) => {
                // Every replica asks for the same members, so it does not matter who comes first (openraft's rule).
                let voters: BTreeSet<NodeId> = record.replicas.iter().copied().collect();
                if let Err(e) = tablet.group().initialize(voters).await {
                    warn!(tablet = %record.id, error = %e, "cannot initialise the group; the next round tries again");
                    tablet.stop().await;
                    self.note_trouble(record.id, e.to_string());
                    return;
                }
                info!(tablet = %record.id, table = %table.name, "tablet started");
                self.troubled.write().remove(&record.id);
                self.running.write().insert(record.id, tablet);
            }
            Err(e) => {
                error!(tablet = %record.id, table = %table.name, error = %e, "a tablet of this node cannot start");
                self.note_trouble(record.id, e.to_string());
            }
        }
    }

    /// A poisoned engine or a fault of the group ends the replica; reopening replays from the flushed cut. Where the
    /// cause has not gone (a damaged file) the reopening fails, and says so again at most every few seconds.
    async fn mend(&self, view: &CatalogView, record: &TabletRecord, tablet: Tablet) {
        let Some(trouble) = tablet.trouble() else {
            return;
        };
        if !self.may_try_again(record.id) {
            return;
        }
        warn!(tablet = %record.id, %trouble, "reopening a tablet");
        self.running.write().remove(&record.id);
        // A group cannot stop while the log waits for space; then the tablet stays as it is until a later round.
        if tokio::time::timeout(STOP_LIMIT, tablet.stop()).await.is_err() {
            self.running.write().insert(record.id, tablet);
            self.note_trouble_quietly(record.id);
            return;
        }
        drop(tablet);
        self.troubled.write().remove(&record.id);
        self.start(view, record).await;
        if let Some((_, since)) = self.troubled.write().get_mut(&record.id) {
            *since = self.monotonic_ms();
        } else {
            self.note_trouble_quietly(record.id);
        }
    }

    async fn remove(&self, id: TabletId) {
        let running = self.running.write().remove(&id);
        if let Some(tablet) = running {
            tablet.stop().await;
        }
        // The files first: what makes a later round come back here is the group's log.
        if let Err(e) = self.kit.factory.destroy(id) {
            warn!(tablet = %id, error = %e, "cannot remove the files of a dropped tablet; the next round tries again");
            return;
        }
        match self.kit.host.destroy_group(id.group()).await {
            Ok(()) => info!(tablet = %id, "tablet removed"),
            Err(e) => warn!(tablet = %id, error = %e, "cannot forget the log of a dropped tablet"),
        }
    }

    fn monotonic_ms(&self) -> u64 {
        self.kit.clock.monotonic().as_millis() as u64
    }

    fn may_try_again(&self, id: TabletId) -> bool {
        let troubled = self.troubled.read();
        troubled
            .get(&id)
            .is_none_or(|(_, since)| self.monotonic_ms().saturating_sub(*since) >= REOPEN_PAUSE_MS)
    }

    fn note_trouble(&self, id: TabletId, why: String) {
        self.troubled.write().insert(id, (why, self.monotonic_ms()));
    }

    /// Remembers only when it was reopened, so that a tablet that fails at once is not reopened in a tight loop.
    fn note_trouble_quietly(&self, id: TabletId) {
        self.troubled.write().insert(id, (String::new(), self.monotonic_ms()));
    }

    /// What is wrong with tablets of this node, in words; empty = nothing.
    pub fn troubles(&self) -> BTreeMap<TabletId, String> {
        let mut out: BTreeMap<TabletId, String> = self
            .troubled
            .read()
            .iter()
            .filter(|(_, (why, _))| !why.is_empty())
            .map(|(id, (why, _))| (*id, why.clone()))
            .collect();
        for tablet in self.all() {
            if let Some(why) = tablet.trouble() {
                out.insert(tablet.descriptor().tablet, why);
            }
        }
        out
    }

    /// True once every tablet that the catalog places here runs or is known to be in trouble.
    pub fn has_caught_up(&self) -> bool {
        let view = self.catalog.view();
        let running = self.running.read();
        let troubled = self.troubled.read();
        view.tablets
            .values()
            .filter(|t| t.replicas.contains(&self.kit.node))
            .all(|t| running.contains_key(&t.id) || troubled.contains_key(&t.id))
    }

    /// Hands this node's tablets a verdict about its clock (R8).
    pub fn set_stamping_allowed(&self, allowed: bool, reason: &str) {
        for tablet in self.all() {
            tablet.set_stamping_allowed(allowed, reason);
        }
    }

    /// Stops every tablet.
    pub async fn stop_all(&self) {
        let tablets: Vec<Tablet> = std::mem::take(&mut *self.running.write()).into_values().collect();
        for tablet in tablets {
            tablet.stop().await;
        }
    }
}

impl TabletDirectory for TabletKeeper {
    fn get(&self, tablet: TabletId) -> Option<Tablet> {
        self.running.read().get(&tablet).cloned()
    }

    fn all(&self) -> Vec<Tablet> {
        self.running.read().values().cloned().collect()
    }
}

/// The replication layer's way to tablets: local ones directly, the others at their leaders.
pub struct TabletGate {
    /// This node's tablets.
    pub keeper: Arc<TabletKeeper>,
    /// The other nodes.
    pub peers: Arc<PeerClients>,
    /// Placement.
    pub catalog: Catalog,
    /// Known leaders.
    pub leaders: tidemark_catalog::Leaders,
    /// This node.
    pub node: NodeId,
}

impl TabletGate {
    /// The local replica if it leads, else the node that should be asked.
    fn leader_of(&self, tablet: TabletId) -> Result<std::result::Result<Tablet, NodeId>> {
        let local = self.keeper.get(tablet);
        if let Some(tablet) = &local
            && tablet.group().leader() == Some(self.node)
        {
            return Ok(Ok(tablet.clone()));
        }
        let hint = local
            .and_then(|t| t.group().leader())
            .or_else(|| self.leaders.leader(tablet.group()));
        if let Some(node) = hint
            && node != self.node
        {
            return Ok(Err(node));
        }
        Err(Error::unavailable(
            "NO_LEADER",
            format!("{tablet} has no known leader right now"),
            Duration::from_millis(100),
        ))
    }
}

impl TabletGate {
    /// Returns when the replica here hears of another leader; never where there is none to hear it.
    async fn leader_moves(&self, tablet: TabletId, from: NodeId) {
        let Some(local) = self.keeper.get(tablet) else {
            return std::future::pending().await;
        };
        let moved = |status: &GroupStatus| status.leader.is_some_and(|leader| leader != from);
        let mut status = local.group().watch();
        if status.wait_for(moved).await.is_err() {
            std::future::pending().await
        }
    }
}

#[async_trait]
impl TabletAccess for TabletGate {
    fn local(&self) -> Vec<Tablet> {
        self.keeper.all()
    }

    async fn apply_remote(&self, tablet: TabletId, command: Bytes) -> Result<Bytes> {
        match self.leader_of(tablet)? {
            Ok(local) => local.apply_remote(command).await,
            // A leader that hangs would be waited for until its own limit; a repeat at the next one takes nothing twice.
            Err(node) => tokio::select! {
                answer = self.peers.apply_remote(node, tablet, command) => answer,
                () = self.leader_moves(tablet, node) => Err(Error::unavailable(
                    "LEADER_MOVED",
                    format!("{tablet} has another leader than {node} now"),
                    Duration::from_millis(50),
                )),
            },
        }
    }

    async fn set_schema(&self, tablet: TabletId, schema: Arc<TableSchema>, require_empty: bool) -> Result<()> {
        match self.leader_of(tablet)? {
            Ok(local) => local.set_schema(schema, require_empty).await,
            Err(node) => self.peers.set_schema(node, tablet, schema, require_empty).await,
        }
    }

    async fn remote_reports(&self) -> Vec<Result<NodeReport>> {
        let nodes: Vec<NodeId> = self
            .catalog
            .view()
            .nodes
            .keys()
            .copied()
            .filter(|n| *n != self.node)
            .collect();
        futures::future::join_all(nodes.into_iter().map(|node| self.peers.streams(node))).await
    }
}
