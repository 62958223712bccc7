//! Nodes of one region in one process: real sockets, real Raft and tablets, storage in memory.

#![allow(dead_code)] // Each test file uses its part.

pub mod request;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemark_base::{Error, NodeId, RegionId, Result, TableSchema, TabletId};
use tidemark_catalog::{Catalog, CatalogOptions, Command, Leaders};
use tidemark_consensus::{ConsensusSettings, Host, HostOptions, MemoryLog, Role};
use tidemark_proto::Dialer;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tidemark_proto::v1::data_client::DataClient;
use tidemark_proto::v1::replication_client::ReplicationClient;
use tidemark_proto::v1::tables_client::TablesClient;
use tidemark_replication::{NodeReport, ReplicationSettings, Replicator, ReplicatorOptions, TabletAccess};
use tidemark_runtime::{Entropy, Metrics, Shutdown, SystemClock, Tasks};
use tidemark_services::{
    Admission, DiskGuard, LeadingGroup, NodeIdentity, NodeInfo, PeerClients, Pong, RegionClients, ServiceContext,
    TabletDirectory, serve,
};
use tidemark_tablet::{MemoryFactory, Tablet, TabletDescriptor, TabletOptions, TabletSettings};
use tokio::net::TcpListener;
use tonic::transport::Channel;

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(30);
const CLUSTER: &str = "test";

/// A region's nodes.
pub struct World {
    pub region: RegionId,
    pub nodes: Vec<Node>,
}

/// One of them.
pub struct Node {
    pub id: NodeId,
    pub address: String,
    pub context: ServiceContext,
    pub facts: Arc<Facts>,
    tablets: Arc<Tablets>,
    shutdown: Shutdown,
    _dir: tempfile::TempDir,
}

impl World {
    /// Region 1 with that many nodes, all registered.
    pub async fn start(count: u64) -> World {
        World::start_region("east", RegionId(1), count).await
    }

    /// A region of that name and number.
    pub async fn start_region(name: &str, region: RegionId, count: u64) -> World {
        let mut listeners = Vec::new();
        let mut seeds = BTreeMap::new();
        for id in 1..=count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            seeds.insert(NodeId(id), listener.local_addr().unwrap().to_string());
            listeners.push((NodeId(id), listener));
        }
        let mut nodes = Vec::new();
        for (id, listener) in listeners {
            nodes.push(Node::start(id, name, region, &seeds, listener).await);
        }
        let world = World { region, nodes };
        for node in &world.nodes {
            node.register().await;
        }
        world
    }

    /// The node that leads that tablet.
    pub async fn leader(&self, tablet: TabletId) -> &Node {
        let mut found = None;
        eventually("the tablet has a leader", || {
            found = self.nodes.iter().position(|node| {
                node.tablets
                    .get(tablet)
                    .is_some_and(|tablet| tablet.group().status().leader_ready)
            });
            found.is_some()
        })
        .await;
        &self.nodes[found.unwrap()]
    }

    /// A node that does not lead that tablet.
    pub async fn other(&self, tablet: TabletId) -> &Node {
        let leader = self.leader(tablet).await.id;
        self.nodes.iter().find(|node| node.id != leader).unwrap()
    }
}

/// Waits for a condition, with a deadline.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("in time: {what}"));
}

impl Node {
    async fn start(
        id: NodeId,
        region_name: &str,
        region: RegionId,
        seeds: &BTreeMap<NodeId, String>,
        listener: TcpListener,
    ) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let (clock, entropy, metrics, tasks) = (
            SystemClock::shared(),
            Entropy::from_seed(id.0),
            Metrics::new(),
            Tasks::new(),
        );
        let shutdown = Shutdown::new();
        let identity = NodeIdentity {
            cluster: CLUSTER.into(),
            region_name: region_name.into(),
            region,
            node: id,
            address: seeds[&id].clone(),
            version: "test".into(),
            incarnation: format!("life of {id}"),
        };
        let peers = PeerClients::new(identity.clone(), seeds.clone(), Dialer::system());
        let host = open_host(id, dir.path(), peers.clone()).await;
        let catalog = Catalog::start(CatalogOptions {
            host: host.clone(),
            dir: dir.path().join("catalog"),
            cluster: CLUSTER.into(),
            region_name: region_name.into(),
            region,
            node: id,
            clock: clock.clone(),
            entropy: entropy.fork(),
            forward: peers.clone(),
            voters: seeds.keys().copied().collect(),
        })
        .await
        .unwrap();
        peers.follow(catalog.clone());
        let tablets = Arc::new(Tablets {
            node: id,
            catalog: catalog.clone(),
            running: RwLock::default(),
            peers: peers.clone(),
            leaders: Leaders::new(),
        });
        let replicator = Replicator::start(ReplicatorOptions {
            catalog: catalog.clone(),
            tablets: tablets.clone(),
            peers: RegionClients::new(identity.clone(), Dialer::system()),
            clock: clock.clone(),
            entropy: entropy.fork(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            settings: ReplicationSettings::default(),
        });
        let facts = Arc::new(Facts {
            tablets: tablets.clone(),
            disk_low: AtomicBool::new(false),
        });
        let context = ServiceContext {
            catalog: catalog.clone(),
            tablets: tablets.clone(),
            replicator,
            leaders: tablets.leaders.clone(),
            peers,
            clock: clock.clone(),
            entropy,
            admission: Arc::new(Admission::new(64 << 20, 8, facts.clone())),
            metrics: metrics.clone(),
            identity,
            host: host.clone(),
            node_info: facts.clone(),
        };
        tasks.spawn("grpc", serve(listener, context.clone(), shutdown.clone()));
        let kit = Kit {
            host,
            factory: Arc::new(MemoryFactory::new()),
            tasks: tasks.clone(),
            metrics,
        };
        tasks.spawn("tablets", tablets.clone().keep(kit, shutdown.clone()));
        Node {
            id,
            address: seeds[&id].clone(),
            context,
            facts,
            tablets,
            shutdown,
            _dir: dir,
        }
    }

    async fn register(&self) {
        let command = Command::RegisterNode {
            id: self.id,
            address: self.address.clone(),
            zone: format!("zone-{}", self.id.0),
            version: "test".into(),
            now_ms: 0,
            incarnation: self.context.identity.incarnation.clone(),
        };
        let registering = async {
            while let Err(error) = self.context.catalog.execute(command.clone()).await {
                assert!(error.kind().is_retryable(), "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, registering)
            .await
            .expect("the node registers in time");
    }

    /// A client of this node.
    pub fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect_lazy()
    }

    /// Its data service.
    pub fn data(&self) -> DataClient<Channel> {
        DataClient::new(self.channel())
            .max_decoding_message_size(32 << 20)
            .max_encoding_message_size(32 << 20)
    }

    /// Its tables service.
    pub fn tables(&self) -> TablesClient<Channel> {
        TablesClient::new(self.channel())
    }

    /// Its replication service.
    pub fn replication(&self) -> ReplicationClient<Channel> {
        ReplicationClient::new(self.channel())
    }

    /// Its cluster service.
    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel())
    }

    /// The node dies: it answers nothing any more.
    pub async fn kill(&self) {
        self.shutdown.trigger();
        self.context.replicator.stop();
        self.context.host.shutdown(Duration::from_millis(1)).await;
    }
}

async fn open_host(node: NodeId, dir: &Path, peers: Arc<PeerClients>) -> Host {
    let options = HostOptions {
        node,
        log: MemoryLog::new(),
        snapshot_dir: dir.join("snapshots"),
        transport: peers,
        // An election comes soon, yet not because the machine is busy with another test.
        settings: ConsensusSettings {
            election_timeout_min_ms: 1_500,
            election_timeout_max_ms: 2_000,
            ..ConsensusSettings::default()
        },
        entropy: tidemark_runtime::Entropy::from_os(),
    };
    Host::open(options).await.unwrap()
}

/// What a tablet needs.
struct Kit {
    host: Host,
    factory: Arc<MemoryFactory>,
    tasks: Tasks,
    metrics: Metrics,
}

/// The tablets of a node, as the catalog places them.
pub struct Tablets {
    node: NodeId,
    catalog: Catalog,
    running: RwLock<BTreeMap<TabletId, Tablet>>,
    peers: Arc<PeerClients>,
    leaders: Leaders,
}

impl Tablets {
    async fn keep(self: Arc<Self>, kit: Kit, shutdown: Shutdown) {
        while !shutdown.is_triggered() {
            let view = self.catalog.view();
            for record in view
                .tablets_on(self.node)
                .filter(|record| self.get(record.id).is_none())
            {
                let tablet = Tablet::start(TabletOptions {
                    descriptor: TabletDescriptor {
                        tablet: record.id,
                        table: record.table,
                        table_name: view.table_by_id(record.table).unwrap().name.clone(),
                        range: record.range.clone(),
                    },
                    host: kit.host.clone(),
                    factory: kit.factory.clone(),
                    clock: SystemClock::shared(),
                    tasks: kit.tasks.clone(),
                    settings: TabletSettings::default(),
                    initial_schema: view.schema(record.table),
                    metrics: kit.metrics.clone(),
                })
                .await
                .unwrap();
                let voters: BTreeSet<NodeId> = record.replicas.iter().copied().collect();
                tablet.group().initialize(voters).await.unwrap();
                self.running.write().insert(record.id, tablet);
            }
            self.note_leaders().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a node's liveness loop does, without its delays.
    async fn note_leaders(&self) {
        for tablet in self.all() {
            let status = tablet.group().status();
            if let Some(leader) = status.leader {
                self.leaders.report(status.group, status.term, leader);
            }
        }
        let others: Vec<NodeId> = self
            .catalog
            .view()
            .nodes
            .keys()
            .copied()
            .filter(|node| *node != self.node)
            .collect();
        for node in others {
            match self.peers.ping(node).await {
                Ok(pong) => pong
                    .leading
                    .iter()
                    .for_each(|led| self.leaders.report(led.group, led.term, node)),
                Err(_) => self.leaders.forget(node),
            }
        }
    }

    fn leader(&self, tablet: TabletId) -> Result<NodeId> {
        let here = self.get(tablet).and_then(|tablet| tablet.group().status().leader);
        let leader = here.or_else(|| self.leaders.leader(tablet.group()));
        leader.ok_or_else(|| Error::unavailable("NO_LEADER", "no leader is known", Duration::from_millis(50)))
    }
}

impl TabletDirectory for Tablets {
    fn get(&self, tablet: TabletId) -> Option<Tablet> {
        self.running.read().get(&tablet).cloned()
    }

    fn all(&self) -> Vec<Tablet> {
        self.running.read().values().cloned().collect()
    }
}

#[async_trait]
impl TabletAccess for Tablets {
    fn local(&self) -> Vec<Tablet> {
        self.all()
    }

    async fn apply_remote(&self, tablet: TabletId, command: Bytes) -> Result<Bytes> {
        match (self.leader(tablet)?, self.get(tablet)) {
            (leader, Some(here)) if leader == self.node => here.apply_remote(command).await,
            (leader, _) => self.peers.apply_remote(leader, tablet, command).await,
        }
    }

    async fn set_schema(&self, tablet: TabletId, schema: Arc<TableSchema>, require_empty: bool) -> Result<()> {
        match (self.leader(tablet)?, self.get(tablet)) {
            (leader, Some(here)) if leader == self.node => here.set_schema(schema, require_empty).await,
            (leader, _) => self.peers.set_schema(leader, tablet, schema, require_empty).await,
        }
    }

    async fn remote_reports(&self) -> Vec<Result<NodeReport>> {
        let mut reports = Vec::new();
        let others: Vec<NodeId> = self
            .catalog
            .view()
            .nodes
            .keys()
            .copied()
            .filter(|node| *node != self.node)
            .collect();
        for node in others {
            reports.push(self.peers.streams(node).await);
        }
        reports
    }
}

/// What a node says of itself.
pub struct Facts {
    tablets: Arc<Tablets>,
    pub disk_low: AtomicBool,
}

impl NodeInfo for Facts {
    fn pong(&self) -> Pong {
        let all = self.tablets.all();
        let leading = all
            .iter()
            .map(|tablet| tablet.group().status())
            .filter(|status| status.role == Role::Leader);
        Pong {
            version: "test".into(),
            tablets: all.len() as u32,
            leading: leading
                .map(|status| LeadingGroup {
                    group: status.group,
                    term: status.term,
                    ..LeadingGroup::default()
                })
                .collect(),
            ..Pong::default()
        }
    }
}

impl DiskGuard for Facts {
    fn is_low(&self) -> bool {
        self.disk_low.load(Ordering::Relaxed)
    }

    fn explain(&self) -> String {
        "the test says that the disk is full".into()
    }
}
