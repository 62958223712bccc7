//! Nodes in one process: real consensus over an in-memory network, memory engines, one clock that a test owns.
// Not every test file uses all of it.
#![allow(dead_code)]

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_base::{
    BatchBuilder, FamilyId, FamilySettings, NodeId, PackedBatch, ReadSpec, RegionId, RowRange, TableId, TableSchema,
    TabletId,
};
use tidemark_consensus::testing::MemoryNetwork;
use tidemark_consensus::{ConsensusSettings, Host, HostOptions, MemoryLog};
use tidemark_engine::MemoryEngine;
use tidemark_runtime::{ManualClock, Metrics, Tasks};
use tidemark_tablet::{MemoryFactory, Tablet, TabletDescriptor, TabletOptions, TabletSettings, WriteOutcome};

pub const TABLET: TabletId = TabletId(7);
pub const EAST: RegionId = RegionId(1);
pub const WEST: RegionId = RegionId(2);
pub const NOW: i64 = 1_700_000_000_000_000;
/// How long a condition may take to come true on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn family() -> FamilyId {
    FamilyId::derive("f", 0)
}

pub fn schema(revision: u64, region: RegionId, peers: &[RegionId]) -> TableSchema {
    let mut schema = TableSchema::new(region);
    schema.revision = revision;
    schema.peers = peers.to_vec();
    schema.families.push(FamilySettings::new("f", 0));
    schema
}

pub fn put(row: &str, version: i64, value: &str) -> PackedBatch {
    let mut builder = BatchBuilder::new();
    builder.begin_row(row.as_bytes()).unwrap();
    builder.put(family(), b"q", version, value.as_bytes()).unwrap();
    builder.end_row().unwrap();
    builder.finish().unwrap()
}

pub struct Node {
    pub id: NodeId,
    pub host: Host,
    pub tablet: Tablet,
}

pub struct Cluster {
    pub network: Arc<MemoryNetwork>,
    pub clock: ManualClock,
    pub settings: TabletSettings,
    pub consensus: ConsensusSettings,
    pub schema: TableSchema,
    pub nodes: BTreeMap<NodeId, Node>,
    logs: BTreeMap<NodeId, Arc<MemoryLog>>,
    factories: BTreeMap<NodeId, MemoryFactory>,
    dir: tempfile::TempDir,
    size: u64,
}

impl Cluster {
    /// Nobody campaigns unless asked, however long a busy machine starves the leader: for tests that hold on to one.
    pub async fn start_calm(size: u64, schema: TableSchema) -> Cluster {
        let silence_ms = (60_000, 80_000);
        Cluster::start_with(size, schema, TabletSettings::default(), silence_ms).await
    }

    /// An election comes soon, yet not because the machine is busy with another test.
    pub async fn start(size: u64, schema: TableSchema, settings: TabletSettings) -> Cluster {
        Cluster::start_with(size, schema, settings, (1_500, 2_000)).await
    }

    async fn start_with(size: u64, schema: TableSchema, settings: TabletSettings, silence_ms: (u64, u64)) -> Cluster {
        let consensus = ConsensusSettings {
            housekeeping_ms: 50,
            election_timeout_min_ms: silence_ms.0,
            election_timeout_max_ms: silence_ms.1,
            snapshot_lag_entries: 5,
            snapshot_lag_bytes: 1,
            ..ConsensusSettings::default()
        };
        let mut cluster = Cluster {
            network: MemoryNetwork::new(),
            clock: ManualClock::new(NOW),
            settings,
            consensus,
            schema,
            nodes: BTreeMap::new(),
            logs: BTreeMap::new(),
            factories: BTreeMap::new(),
            dir: tempfile::tempdir().unwrap(),
            size,
        };
        for id in 1..=size {
            cluster.start_node(NodeId(id)).await;
        }
        let voters: BTreeSet<NodeId> = (1..=size).map(NodeId).collect();
        // One of them: three that campaign at once may unseat each other for a while, or split their votes.
        let first = &cluster.nodes[&NodeId(1)].tablet;
        first.group().initialize(voters.clone()).await.unwrap();
        cluster
    }

    pub async fn start_node(&mut self, id: NodeId) {
        let log = self.logs.entry(id).or_insert_with(MemoryLog::new).clone();
        let host = Host::open(HostOptions {
            node: id,
            log,
            snapshot_dir: self.dir.path().join(format!("snapshots-{}", id.0)),
            transport: self.network.transport(id),
            settings: self.consensus.clone(),
            entropy: tidemark_runtime::Entropy::from_os(),
        })
        .await
        .unwrap();
        self.network.attach(id, host.clone());
        let factory = self.factories.entry(id).or_default().clone();
        let tablet = Tablet::start(TabletOptions {
            descriptor: TabletDescriptor {
                tablet: TABLET,
                table: TableId(1),
                table_name: "telemetry".to_owned(),
                range: RowRange::all(),
            },
            host: host.clone(),
            factory: Arc::new(factory),
            clock: Arc::new(self.clock.clone()),
            tasks: Tasks::new(),
            settings: self.settings.clone(),
            initial_schema: Some(Arc::new(self.schema.clone())),
            metrics: Metrics::new(),
        })
        .await
        .unwrap();
        self.nodes.insert(id, Node { id, host, tablet });
    }

    /// The engine of a node's replica, to make it fail.
    pub fn engine(&self, id: NodeId) -> MemoryEngine {
        self.factories[&id].engine(TABLET).unwrap()
    }

    /// Kills a node as a crash does: what its engine had not flushed is gone.
    pub async fn kill(&mut self, id: NodeId) {
        self.network.detach(id);
        let node = self.nodes.remove(&id).unwrap();
        node.tablet.stop().await;
        node.host.shutdown(Duration::ZERO).await;
    }

    /// The tablet on the node that leads and has its schema.
    pub async fn leader(&self) -> Tablet {
        let mut found = None;
        until("a leader with a schema", || {
            let ready = |t: &Tablet| t.group().status().leader_ready && t.schema().is_some();
            found = self.nodes.values().map(|n| &n.tablet).find(|t| ready(t)).cloned();
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub fn follower(&self) -> NodeId {
        let follows = |n: &&Node| !n.tablet.leads();
        self.nodes.values().find(follows).unwrap().id
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Every replica holds the same facts, feed position and marks.
    pub async fn wait_all_equal(&self) {
        let content = |tablet: &Tablet| {
            let mut facts = tablet.engine().facts().unwrap();
            facts.sort();
            let mut state = (*tablet.replication_state()).clone();
            state.feed_bytes = 0;
            (facts, state)
        };
        until("all replicas are equal", || {
            let mut contents = self.nodes.values().map(|n| content(&n.tablet));
            let first = contents.next().unwrap();
            contents.all(|other| other == first)
        })
        .await;
    }

    pub async fn stop(&mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.kill(id).await;
        }
    }
}

/// Waits for a condition, with a deadline.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Writes until it is acknowledged, wherever the leader is.
pub async fn write_somewhere(cluster: &Cluster, batch: PackedBatch) -> WriteOutcome {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match cluster.leader().await.write(batch.clone(), 0).await {
            Ok(outcome) => return outcome,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn values(tablet: &Tablet) -> BTreeMap<Bytes, String> {
    let spec = ReadSpec::default();
    let engine = tablet.engine();
    let mut cursor = engine.read(&spec, NOW).unwrap();
    let mut out = BTreeMap::new();
    while cursor.advance().unwrap() {
        let cell = cursor.cell();
        let row = Bytes::copy_from_slice(cell.row);
        out.entry(row)
            .or_insert_with(|| String::from_utf8(cell.value.to_vec()).unwrap());
    }
    out
}
