//! A cluster of hosts in one process, each with a log on disk, on a network in memory.

// Each test file uses its part of it.
#![allow(dead_code)]

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tidemark_base::{GroupId, NodeId};
use tidemark_consensus::testing::{FaultyDisk, MachineDisk, MemoryNetwork};
use tidemark_consensus::{ConsensusSettings, FileLog, FileLogOptions, Group, Host, HostOptions};

/// How long a test waits for something that should happen soon.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition, with a deadline.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// A command with a number.
pub fn numbered(i: u64) -> Bytes {
    Bytes::from(format!("command {i}"))
}

struct Node {
    host: Option<Host>,
    log: Option<Arc<FileLog>>,
    disks: BTreeMap<GroupId, MachineDisk>,
    log_disk: FaultyDisk,
}

/// See the module.
pub struct Cluster {
    pub network: Arc<MemoryNetwork>,
    dir: TempDir,
    settings: ConsensusSettings,
    nodes: parking_lot_free::Lock<BTreeMap<NodeId, Node>>,
}

/// The std mutex without its poison, to keep the tests short.
mod parking_lot_free {
    pub struct Lock<T>(std::sync::Mutex<T>);

    impl<T> Lock<T> {
        pub fn new(value: T) -> Lock<T> {
            Lock(std::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> std::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
        }
    }
}

impl Cluster {
    pub async fn start(nodes: u64, settings: ConsensusSettings) -> Cluster {
        let mut cluster = Cluster {
            network: MemoryNetwork::new(),
            dir: tempfile::tempdir().unwrap(),
            settings,
            nodes: parking_lot_free::Lock::new(BTreeMap::new()),
        };
        for node in 1..=nodes {
            let empty = Node {
                host: None,
                log: None,
                disks: BTreeMap::new(),
                log_disk: FaultyDisk::new(),
            };
            cluster.nodes.lock().insert(NodeId(node), empty);
            cluster.restart(NodeId(node)).await;
        }
        cluster
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        self.nodes.lock().keys().copied().collect()
    }

    pub fn node_dir(&self, node: NodeId) -> PathBuf {
        self.dir.path().join(node.to_string())
    }

    /// Starts a node's host on its log.
    pub async fn restart(&mut self, node: NodeId) {
        let dir = self.node_dir(node);
        let disk = Arc::new(self.log_disk(node));
        let log_options = FileLogOptions {
            disk,
            no_space_retry_ms: 10,
            ..FileLogOptions::default()
        };
        let log = FileLog::open(&dir.join("log"), log_options).unwrap();
        let options = HostOptions {
            node,
            log: log.clone(),
            snapshot_dir: dir.join("snapshots"),
            transport: self.network.transport(node),
            settings: self.settings.clone(),
            entropy: tidemark_runtime::Entropy::from_os(),
        };
        let host = Host::open(options).await.unwrap();
        self.network.attach(node, host.clone());
        let mut nodes = self.nodes.lock();
        let state = nodes.get_mut(&node).unwrap();
        state.host = Some(host);
        state.log = Some(log);
    }

    /// Ends a node as a crash would: nobody is told, and what its state machines did not flush is lost.
    pub async fn kill(&mut self, node: NodeId) {
        self.network.detach(node);
        let (host, log) = {
            let mut nodes = self.nodes.lock();
            let state = nodes.get_mut(&node).unwrap();
            (state.host.take(), state.log.take())
        };
        if let Some(host) = host {
            for group in host.groups() {
                host.stop_group(group).await;
            }
        }
        if let Some(log) = log {
            tokio::task::spawn_blocking(move || log.close()).await.unwrap();
        }
    }

    /// Ends a node in order.
    pub async fn shutdown(&mut self, node: NodeId) {
        let host = self.host(node);
        host.shutdown(Duration::from_secs(5)).await;
        self.kill(node).await;
    }

    pub fn host(&self, node: NodeId) -> Host {
        self.nodes.lock()[&node].host.clone().expect("the node runs")
    }

    /// The disk under a node's log, to make it fail.
    pub fn log_disk(&self, node: NodeId) -> FaultyDisk {
        self.nodes.lock()[&node].log_disk.clone()
    }

    pub fn disk(&self, node: NodeId, group: GroupId) -> MachineDisk {
        let mut nodes = self.nodes.lock();
        let disks = &mut nodes.get_mut(&node).unwrap().disks;
        disks.entry(group).or_default().clone()
    }

    pub fn group(&self, node: NodeId, group: GroupId) -> Group {
        self.host(node).group(group).expect("the group runs")
    }

    pub async fn start_group_on(&self, node: NodeId, group: GroupId) -> Group {
        let machine = self.disk(node, group).machine();
        self.host(node).start_group(group, machine).await.unwrap()
    }

    /// Starts a group on all nodes and initialises it on one, which differs from group to group.
    pub async fn start_group(&self, group: GroupId) {
        let nodes = self.nodes();
        for node in &nodes {
            self.start_group_on(*node, group).await;
        }
        let first = nodes[group.0 as usize % nodes.len()];
        self.group(first, group)
            .initialize(nodes.iter().copied().collect())
            .await
            .unwrap();
    }

    /// The replicas that run now.
    pub fn running(&self, group: GroupId) -> Vec<Group> {
        let nodes = self.nodes.lock();
        nodes
            .values()
            .filter_map(|node| node.host.as_ref()?.group(group))
            .collect()
    }

    /// The leader that is ready, on any node.
    pub async fn leader(&self, group: GroupId) -> Group {
        self.leader_except(group, NodeId(0)).await
    }

    pub async fn leader_except(&self, group: GroupId, not: NodeId) -> Group {
        let mut found = None;
        eventually("a leader", async || {
            let groups = self.running(group);
            let best = groups
                .into_iter()
                .filter(|group| group.status().leader_ready)
                .max_by_key(|g| g.status().term);
            found = best.filter(|group| group.status().node != not);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub fn other_than(&self, node: NodeId) -> NodeId {
        self.nodes().into_iter().find(|other| *other != node).unwrap()
    }

    pub async fn propose_anywhere(&self, group: GroupId, command: Bytes) {
        eventually("a proposal", async || {
            self.leader(group).await.propose(command.clone()).await.is_ok()
        })
        .await;
    }

    /// Waits until every running replica has applied the same `count` commands.
    pub async fn wait_all_equal(&self, group: GroupId, count: usize) {
        eventually("all replicas to be equal", async || {
            let running: Vec<NodeId> = self.running(group).iter().map(|group| group.status().node).collect();
            let contents: Vec<_> = running.iter().map(|node| self.disk(*node, group).content()).collect();
            contents
                .iter()
                .all(|content| content.commands.len() == count && content.commands == contents[0].commands)
        })
        .await;
    }

    /// Waits until all replicas hold the same commands, the last one proposed included.
    pub async fn wait_equal(&self, group: GroupId) {
        eventually("all replicas to be equal", async || {
            let contents: Vec<_> = self
                .nodes()
                .into_iter()
                .map(|node| self.disk(node, group).content())
                .collect();
            let last = contents
                .iter()
                .any(|content| content.commands.last().is_some_and(|(_, c)| c == "last"));
            last && contents.iter().all(|content| content.commands == contents[0].commands)
        })
        .await;
    }

    pub async fn wait_no_incoming(&self, node: NodeId) {
        let dir = self.node_dir(node).join("snapshots");
        eventually("received snapshots to be removed", async || {
            let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().starts_with("in-")).count() == 0
        })
        .await;
    }

    pub async fn stop(mut self) {
        for node in self.nodes() {
            self.kill(node).await;
        }
    }
}
