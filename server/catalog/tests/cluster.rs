//! Catalogs of several nodes in one process, on a network in memory whose links can be cut: forwarding, retries, restarts,
//! nodes outside the group.

// Helpers of a test are test code, which clippy sees only inside test functions.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tidemark_base::{Error, ErrorKind, NodeId, RegionId, Result};
use tidemark_catalog::{Answer, Catalog, CatalogForward, CatalogOptions, Command, FamilySpec, RequestId};
use tidemark_consensus::testing::MemoryNetwork;
use tidemark_consensus::{ConsensusSettings, Host, HostOptions, MemoryLog};
use tidemark_runtime::{Entropy, SystemClock};

const PATIENCE: Duration = Duration::from_secs(20);

/// The way between the catalogs of a test.
#[derive(Default)]
struct Wires {
    catalogs: Mutex<BTreeMap<NodeId, Catalog>>,
    /// So many forwarded commands are carried out but their answers lost.
    lose_answers: AtomicUsize,
    forwarded: AtomicUsize,
}

#[derive(Clone)]
struct Wire(Arc<Wires>);

impl CatalogForward for Wire {
    fn propose_at(&self, leader: NodeId, command: Bytes) -> BoxFuture<'static, Result<Bytes>> {
        let wires = self.0.clone();
        Box::pin(async move {
            let catalog = wires.catalogs.lock().get(&leader).cloned();
            let catalog = catalog.ok_or_else(|| {
                Error::unavailable("NODE_DOWN", format!("{leader} is down"), Duration::from_millis(50))
            })?;
            wires.forwarded.fetch_add(1, Ordering::Relaxed);
            let answer = catalog.handle_forwarded(command).await?;
            let take = |left: usize| left.checked_sub(1);
            match wires
                .lose_answers
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            {
                Ok(_) => Err(Error::new(
                    ErrorKind::UnknownOutcome,
                    "ANSWER_LOST",
                    "the connection broke",
                )),
                Err(_) => Ok(answer),
            }
        })
    }
}

struct Node {
    host: Host,
    log: Arc<MemoryLog>,
}

struct Cluster {
    home: TempDir,
    network: Arc<MemoryNetwork>,
    wires: Arc<Wires>,
    seeds: BTreeSet<NodeId>,
    nodes: BTreeMap<NodeId, Node>,
}

impl Cluster {
    async fn start(count: u64) -> Cluster {
        let mut cluster = Cluster {
            home: tempfile::tempdir().unwrap(),
            network: MemoryNetwork::new(),
            wires: Arc::default(),
            seeds: (1..=count).map(NodeId).collect(),
            nodes: BTreeMap::new(),
        };
        for node in cluster.seeds.clone() {
            cluster.run(node).await;
        }
        cluster
    }

    /// Starts a node, new or with the log that it had.
    async fn run(&mut self, node: NodeId) {
        let home = self.home.path().join(node.to_string());
        let log = self.nodes.remove(&node).map_or_else(MemoryLog::new, |old| old.log);
        let settings = ConsensusSettings {
            heartbeat_ms: 100,
            election_timeout_min_ms: 1_500,
            election_timeout_max_ms: 2_000,
            snapshot_lag_entries: 4,
            housekeeping_ms: 50,
            ..ConsensusSettings::default()
        };
        let options = HostOptions {
            node,
            log: log.clone(),
            snapshot_dir: home.join("snapshots"),
            transport: self.network.transport(node),
            settings,
            entropy: tidemark_runtime::Entropy::from_os(),
        };
        std::fs::create_dir_all(&home).unwrap();
        let host = Host::open(options).await.unwrap();
        self.network.attach(node, host.clone());
        let catalog = Catalog::start(CatalogOptions {
            host: host.clone(),
            dir: home.join("catalog"),
            cluster: "tides".into(),
            region_name: "east".into(),
            region: RegionId(1),
            node,
            clock: SystemClock::shared(),
            entropy: Entropy::from_seed(node.0),
            forward: Arc::new(Wire(self.wires.clone())),
            voters: self.seeds.clone(),
        });
        let catalog = catalog.await.unwrap();
        self.wires.catalogs.lock().insert(node, catalog);
        self.nodes.insert(node, Node { host, log });
    }

    async fn stop(&mut self, node: NodeId) {
        self.network.detach(node);
        self.wires.catalogs.lock().remove(&node);
        self.nodes[&node].host.shutdown(Duration::from_millis(200)).await;
    }

    fn catalog(&self, node: u64) -> Catalog {
        self.wires.catalogs.lock()[&NodeId(node)].clone()
    }

    async fn register_all(&self) {
        for node in self.nodes.keys() {
            self.catalog(node.0).execute(register(node.0)).await.unwrap();
        }
    }

    /// The leader, as soon as one is known to all.
    async fn leader(&self) -> NodeId {
        let mut found = None;
        eventually("one leader", || {
            let catalogs = self.wires.catalogs.lock();
            let known: BTreeSet<_> = catalogs
                .values()
                .map(|catalog| catalog.group().status().leader)
                .collect();
            found = known.first().copied().flatten();
            known.len() == 1 && found.is_some()
        })
        .await;
        found.unwrap()
    }

    async fn follower(&self) -> NodeId {
        let leader = self.leader().await;
        self.seeds.iter().copied().find(|node| *node != leader).unwrap()
    }

    async fn all_equal(&self) {
        eventually("equal views", || {
            let catalogs = self.wires.catalogs.lock();
            let views: Vec<_> = catalogs.values().map(Catalog::view).collect();
            views.windows(2).all(|pair| pair[0] == pair[1])
        })
        .await;
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

fn register(node: u64) -> Command {
    Command::RegisterNode {
        id: NodeId(node),
        address: format!("10.0.0.{node}:7400"),
        zone: format!("z{node}"),
        version: "0.1.0".into(),
        now_ms: 1,
        incarnation: format!("life of {node}"),
    }
}

fn create(name: &str, request: u8) -> Command {
    Command::CreateTable {
        request_id: RequestId([request; 16]),
        name: name.into(),
        families: vec![FamilySpec::new("m")],
        split_at: vec![Bytes::from_static(b"m")],
        max_future_micros: None,
        if_not_exists: false,
        generations: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_commands_and_sees_them_at_once() {
    let cluster = Cluster::start(3).await;
    cluster.register_all().await;
    for node in 1..=3 {
        let catalog = cluster.catalog(node);
        let name = format!("t{node}");
        let Answer::Table(id) = catalog.execute(create(&name, node as u8)).await.unwrap() else {
            panic!("a created table is answered with its number");
        };
        let view = catalog.view();
        assert_eq!(view.table(&name).unwrap().id, id, "a node sees what it was asked to do");
        assert_eq!(view.tablets_of(id).count(), 2);
        assert!(view.tablets_of(id).all(|tablet| tablet.replicas.len() == 3));
        let error = catalog.execute(create(&name, 100 + node as u8)).await.unwrap_err();
        assert_eq!(error.reason(), "TABLE_EXISTS");
    }
    assert!(cluster.wires.forwarded.load(Ordering::Relaxed) > 0);
    cluster.all_equal().await;
    let view = cluster.catalog(1).view();
    assert_eq!(view.cluster_id.as_ref().map(String::len), Some(32));
    assert_eq!(view.nodes.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_asked_for_again_and_applied_once() {
    let cluster = Cluster::start(3).await;
    cluster.register_all().await;
    let follower = cluster.catalog(cluster.follower().await.0);
    cluster.wires.lose_answers.store(2, Ordering::Relaxed);
    let first = follower.execute(create("t", 7)).await.unwrap();
    cluster.wires.lose_answers.store(1, Ordering::Relaxed);
    let revision = follower.view().revision;
    assert_eq!(
        follower.execute(create("t", 7)).await.unwrap(),
        first,
        "the caller's own retry"
    );
    assert_eq!(follower.view().revision, revision);
    cluster.wires.lose_answers.store(1, Ordering::Relaxed);
    let dropped = follower.execute(Command::DropTable { name: "t".into() }).await;
    assert_eq!(
        dropped.unwrap(),
        Answer::Done,
        "a drop whose answer was lost does not find its table missing"
    );
    assert!(follower.view().tables.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_survive_the_leader() {
    let mut cluster = Cluster::start(3).await;
    cluster.register_all().await;
    let leader = cluster.leader().await;
    let survivor = cluster.catalog(cluster.follower().await.0);
    survivor.execute(create("before", 1)).await.unwrap();
    cluster.stop(leader).await;
    survivor.execute(create("after", 2)).await.unwrap();
    cluster.run(leader).await;
    let back = cluster.catalog(leader.0);
    back.read_barrier().await.unwrap();
    assert!(back.view().table("before").is_some() && back.view().table("after").is_some());
    cluster.all_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_a_purged_log_gets_the_state() {
    let mut cluster = Cluster::start(3).await;
    cluster.register_all().await;
    let absent = cluster.follower().await;
    cluster.stop(absent).await;
    let leader = cluster.catalog(cluster.seeds.iter().find(|node| **node != absent).unwrap().0);
    let applied = |catalog: &Catalog| catalog.group().status().applied_index.unwrap_or(0);
    let behind = applied(&leader);
    // Enough commands for the state to be flushed and the log purged behind it.
    for turn in 0..150u64 {
        let mut command = register(1);
        if let Command::RegisterNode { zone, .. } = &mut command {
            *zone = format!("zone{turn}");
        }
        leader.execute(command).await.unwrap();
    }
    leader.execute(create("t", 1)).await.unwrap();
    eventually("a purged log", || {
        let catalogs = cluster.wires.catalogs.lock();
        catalogs
            .values()
            .all(|catalog| catalog.group().status().purged_index > Some(behind))
    })
    .await;
    cluster.run(absent).await;
    cluster.catalog(absent.0).read_barrier().await.unwrap();
    assert!(cluster.catalog(absent.0).view().table("t").is_some());
    cluster.all_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_stop_and_come_back_with_everything() {
    let mut cluster = Cluster::start(3).await;
    cluster.register_all().await;
    cluster.catalog(1).execute(create("t", 1)).await.unwrap();
    cluster.all_equal().await;
    let before = cluster.catalog(1).view();
    for node in cluster.seeds.clone() {
        cluster.stop(node).await;
    }
    for node in cluster.seeds.clone() {
        cluster.run(node).await;
    }
    for node in cluster.seeds.clone() {
        let catalog = cluster.catalog(node.0);
        catalog.read_barrier().await.unwrap();
        assert_eq!(catalog.view(), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_outside_the_group_registers_and_follows() {
    let mut cluster = Cluster::start(3).await;
    cluster.register_all().await;
    cluster.run(NodeId(4)).await;
    let outsider = cluster.catalog(4);
    outsider.execute(register(4)).await.unwrap();
    outsider.execute(create("t", 1)).await.unwrap();
    assert!(outsider.view().table("t").is_some());
    cluster.all_equal().await;
    let voters = cluster.catalog(1).group().status().voters;
    assert_eq!(voters, [NodeId(1), NodeId(2), NodeId(3)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_alone_is_a_cluster() {
    let cluster = Cluster::start(1).await;
    cluster.register_all().await;
    let catalog = cluster.catalog(1);
    let mut revisions = catalog.watch();
    let before = *revisions.borrow_and_update();
    catalog.execute(create("t", 1)).await.unwrap();
    catalog.read_barrier().await.unwrap();
    assert!(*revisions.borrow_and_update() > before);
    assert!(
        catalog
            .view()
            .tablets
            .values()
            .all(|tablet| tablet.replicas == [NodeId(1)])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_alone_does_not_say_done() {
    let cluster = Cluster::start(3).await;
    cluster.register_all().await;
    let leader = cluster.leader().await;
    cluster.network.isolate(leader, cluster.seeds.clone());
    let alone = cluster.catalog(leader.0);
    let others = cluster.catalog(cluster.seeds.iter().find(|node| **node != leader).unwrap().0);
    // The wires between catalogs still work: what the lonely leader cannot do, the next one does, once.
    let (first, second) = tokio::join!(alone.execute(create("t", 1)), others.execute(create("t", 1)));
    assert_eq!(second.unwrap(), Answer::Table(tidemark_base::TableId(1)));
    if let Err(error) = &first {
        assert_eq!(error.kind(), ErrorKind::UnknownOutcome, "{error}");
    }
    cluster.network.heal();
    cluster.all_equal().await;
    assert_eq!(others.view().tables.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_a_command_never_reaches_the_log() {
    let cluster = Cluster::start(1).await;
    cluster.register_all().await;
    let catalog = cluster.catalog(1);
    let error = catalog
        .handle_forwarded(Bytes::from_static(b"{\"v\":9}"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    catalog.execute(create("t", 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_does_not_forward_what_was_forwarded_to_it() {
    let cluster = Cluster::start(3).await;
    cluster.register_all().await;
    let follower = cluster.catalog(cluster.follower().await.0);
    let barrier = br#"{"v":1,"request":"00000000000000000000000000000001","now_ms":0,"command":"barrier"}"#;
    let error = follower
        .handle_forwarded(Bytes::from_static(barrier))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotLeader);
}
