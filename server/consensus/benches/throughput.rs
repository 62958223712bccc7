//! Measures the log store alone and three replicas in one process. Not a test: run it on a quiet machine.
//!
//! `cargo bench -p tidemark-consensus -- [DIR [cluster]]`; DIR lies on the disk to be measured.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_base::{GroupId, NodeId};
use tidemark_consensus::testing::{MachineDisk, MemoryNetwork};
use tidemark_consensus::{
    ConsensusSettings, Entry, FileLog, FileLogOptions, Group, Host, HostOptions, LogPosition, LogStore, Payload,
};
use tokio::sync::oneshot;

/// CPU time of this process so far: the scheduler's own nanoseconds of every thread that still lives. (The usual counters
/// are sampled with the clock tick and miss most of what short wake-ups cost.)
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = |path: std::path::PathBuf| -> u64 {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split_whitespace()
            .next()
            .and_then(|field| field.parse().ok())
            .unwrap_or(0)
    };
    Duration::from_nanos(tasks.map(|task| nanoseconds(task.path())).sum())
}

fn report(what: &str, count: u64, elapsed: Duration, cpu: Duration, mut latencies: Vec<Duration>) {
    latencies.sort();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "{what}: {:.0}/s, {:.2} us CPU each, p50 {:?}, p99 {:?}",
        count as f64 / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count as f64,
        at(0.5),
        at(0.99),
    );
}

/// Every group appends, waits until it is durable, and appends again.
async fn log_store(dir: &Path, groups: u64, entries_per_append: u64, seconds: u64) {
    let log = FileLog::open(dir, FileLogOptions::default()).expect("the log opens");
    let stop = Instant::now() + Duration::from_secs(seconds);
    let count = Arc::new(AtomicU64::new(0));
    let (begun, cpu_before) = (Instant::now(), cpu());
    let tasks: Vec<_> = (1..=groups)
        .map(|group| {
            let (log, count) = (log.clone(), count.clone());
            tokio::spawn(async move {
                let payload = Bytes::from(vec![7u8; 1024]);
                let (mut index, mut latencies) = (0, Vec::new());
                while Instant::now() < stop {
                    let position = |i| LogPosition {
                        term: 1,
                        leader: NodeId(1),
                        index: i,
                    };
                    let entries = (index..index + entries_per_append)
                        .map(|i| Entry {
                            position: position(i),
                            payload: Payload::Command(payload.clone()),
                        })
                        .collect();
                    index += entries_per_append;
                    let (sender, receiver) = oneshot::channel();
                    let begun = Instant::now();
                    let done = Box::new(move |result| {
                        let _ = sender.send(result);
                    });
                    log.append(GroupId(group), entries, done).expect("the log accepts");
                    receiver.await.expect("an answer").expect("durable");
                    latencies.push(begun.elapsed());
                    count.fetch_add(entries_per_append, Ordering::Relaxed);
                    if index % 4096 < entries_per_append {
                        log.purge(GroupId(group), position(index - 1)).expect("the log accepts");
                    }
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("the task ends"));
    }
    let what = format!(
        "log, {groups} groups, {entries_per_append} x 1 KiB an append, {} syncs",
        log.syncs()
    );
    report(
        &what,
        count.load(Ordering::Relaxed),
        begun.elapsed(),
        cpu().saturating_sub(cpu_before),
        latencies,
    );
}

async fn cluster(dir: &Path, groups: u64, writers: u64, bytes: usize, seconds: u64) {
    let network = MemoryNetwork::new();
    let mut hosts = BTreeMap::new();
    let mut logs = Vec::new();
    for node in (1..=3).map(NodeId) {
        let dir = dir.join(node.to_string());
        let log = FileLog::open(&dir.join("log"), FileLogOptions::default()).expect("the log opens");
        logs.push(log.clone());
        let options = HostOptions {
            node,
            log,
            snapshot_dir: dir.join("snapshots"),
            transport: network.transport(node),
            settings: ConsensusSettings::default(),
            entropy: tidemark_runtime::Entropy::from_os(),
        };
        let host = Host::open(options).await.expect("the host opens");
        network.attach(node, host.clone());
        hosts.insert(node, host);
    }
    let mut leaders: Vec<Group> = Vec::new();
    for group in (1..=groups).map(GroupId) {
        for host in hosts.values() {
            let disk = MachineDisk::new();
            host.start_group(group, disk.machine()).await.expect("the group starts");
        }
        let first = &hosts[&NodeId(group.0 % 3 + 1)];
        let leader = first.group(group).expect("it runs");
        leader
            .initialize(hosts.keys().copied().collect())
            .await
            .expect("initialised");
        leader
            .wait_leader_ready(Duration::from_secs(10))
            .await
            .expect("it leads");
        leaders.push(leader);
    }
    let stop = Instant::now() + Duration::from_secs(seconds);
    let (begun, cpu_before) = (Instant::now(), cpu());
    let command = Bytes::from(vec![7u8; bytes]);
    let tasks: Vec<_> = leaders
        .iter()
        .flat_map(|leader| (0..writers).map(move |_| leader.clone()))
        .map(|leader| {
            let command = command.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < stop {
                    let begun = Instant::now();
                    leader.propose(command.clone()).await.expect("committed");
                    latencies.push(begun.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("the task ends"));
    }
    let syncs: u64 = logs.iter().map(|log| log.syncs()).sum();
    let what = format!("three replicas, {groups} groups x {writers} writers, {bytes} bytes, {syncs} syncs");
    report(
        &what,
        latencies.len() as u64,
        begun.elapsed(),
        cpu().saturating_sub(cpu_before),
        latencies,
    );
    let (begun, cpu_before) = (Instant::now(), cpu());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = cpu().saturating_sub(cpu_before).as_secs_f64() / begun.elapsed().as_secs_f64();
    println!(
        "  idle afterwards: {:.1} % of a core for {groups} groups x 3 replicas",
        idle * 100.0
    );
    for host in hosts.values() {
        host.shutdown(Duration::from_secs(5)).await;
    }
}

/// Kills the leader of one group again and again and measures until another one is ready.
async fn leader_gap(dir: &Path, kills: u64) {
    let network = MemoryNetwork::new();
    let mut hosts = BTreeMap::new();
    let mut disks = BTreeMap::new();
    let open = |node: NodeId| {
        let dir = dir.join(node.to_string());
        HostOptions {
            node,
            log: FileLog::open(&dir.join("log"), FileLogOptions::default()).expect("the log opens"),
            snapshot_dir: dir.join("snapshots"),
            transport: network.transport(node),
            settings: ConsensusSettings::default(),
            entropy: tidemark_runtime::Entropy::from_os(),
        }
    };
    let id = GroupId(1);
    for node in (1..=3).map(NodeId) {
        let host = Host::open(open(node)).await.expect("the host opens");
        network.attach(node, host.clone());
        let disk = MachineDisk::new();
        host.start_group(id, disk.machine()).await.expect("the group starts");
        disks.insert(node, disk);
        hosts.insert(node, host);
    }
    let voters = hosts.keys().copied().collect();
    hosts[&NodeId(1)]
        .group(id)
        .expect("it runs")
        .initialize(voters)
        .await
        .expect("initialised");
    let mut gaps = Vec::new();
    for _ in 0..kills {
        let leader = loop {
            let ready = |host: &Host| host.group(id).is_some_and(|group| group.status().leader_ready);
            if let Some((node, _)) = hosts.iter().find(|(_, host)| ready(host)) {
                break *node;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        tokio::time::sleep(Duration::from_millis(700)).await;
        network.detach(leader);
        let begun = Instant::now();
        let dead = hosts.remove(&leader).expect("it ran");
        let stopping = tokio::spawn(async move { dead.stop_group(id).await });
        while !hosts
            .values()
            .any(|host| host.group(id).is_some_and(|group| group.status().leader_ready))
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        gaps.push(begun.elapsed());
        stopping.await.expect("the task ends");
        let host = Host::open(open(leader)).await.expect("the host opens");
        network.attach(leader, host.clone());
        host.start_group(id, disks[&leader].machine())
            .await
            .expect("the group starts");
        hosts.insert(leader, host);
    }
    gaps.sort();
    println!(
        "leader gap over {kills} kills: p50 {:?}, greatest {:?}",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    );
}

#[tokio::main]
async fn main() {
    // cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let root = arguments.first().map_or_else(std::env::temp_dir, Into::into);
    let root = root.join(format!("tidemark-throughput-{}", std::process::id()));
    leader_gap(&root.join("gap"), 20).await;
    let only_cluster = arguments.get(1).is_some_and(|what| what == "cluster");
    let store_runs: &[(u64, u64)] = if only_cluster {
        &[]
    } else {
        &[(64, 1), (64, 8), (512, 1)]
    };
    for (number, (groups, entries)) in store_runs.iter().copied().enumerate() {
        log_store(&root.join(format!("log-{number}")), groups, entries, 5).await;
    }
    for (number, (groups, writers, bytes)) in [(1, 1, 1024), (1, 64, 1024), (64, 2, 1024), (64, 16, 1024)]
        .into_iter()
        .enumerate()
    {
        cluster(&root.join(format!("cluster-{number}")), groups, writers, bytes, 5).await;
    }
    if let Err(error) = std::fs::remove_dir_all(&root) {
        eprintln!("{}: {error}", root.display());
    }
}
