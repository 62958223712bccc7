//! Writers go on while nodes are killed, cut off and brought back. Afterwards every acknowledged command is there exactly
//! once, in the order in which its writer sent them, on every replica.

// In a test a panic is the answer.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::Cluster;
use tidemark_base::{GroupId, NodeId};
use tidemark_consensus::{ConsensusSettings, Group, ProposeError};
use tokio::sync::Mutex;

const GROUPS: [GroupId; 3] = [GroupId(2), GroupId(3), GroupId(4)];
const WRITERS: u64 = 4;

/// A small generator, so that a run is told by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

/// What a writer knows of its commands: acknowledged, or of unknown fate.
#[derive(Default)]
struct Written {
    acknowledged: Vec<Bytes>,
    unknown: Vec<Bytes>,
}

/// Writes one command after the other on whichever node leads, until told to stop.
async fn write(cluster: Arc<Mutex<Cluster>>, group: GroupId, writer: u64, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written::default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let replicas: Vec<Group> = cluster.lock().await.running(group);
        let Some(leader) = replicas.into_iter().find(|replica| replica.status().leader_ready) else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let command = Bytes::from(format!("{group} {writer} {number:06} {}", "x".repeat(100)));
        match leader.propose(command.clone()).await {
            Ok(_) => written.acknowledged.push(command),
            Err(ProposeError::Unknown(_)) => written.unknown.push(command),
            // Nothing was proposed: the same number may be used again.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
        }
        number += 1;
    }
    written
}

async fn disturb(cluster: &Mutex<Cluster>, dice: &mut Dice) {
    let node = NodeId(1 + dice.roll(3));
    match dice.roll(4) {
        0 | 1 => {
            cluster.lock().await.kill(node).await;
            tokio::time::sleep(Duration::from_millis(dice.roll(800))).await;
            let mut cluster = cluster.lock().await;
            cluster.restart(node).await;
            for group in GROUPS {
                cluster.start_group_on(node, group).await;
            }
        }
        2 => {
            let network = cluster.lock().await.network.clone();
            network.isolate(node, (1..=3).map(NodeId));
            tokio::time::sleep(Duration::from_millis(300 + dice.roll(1200))).await;
            network.heal();
        }
        _ => {
            let replicas = cluster.lock().await.running(GROUPS[dice.roll(3) as usize]);
            for replica in replicas {
                let _ = replica.transfer_leadership(node).await;
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(dice.roll(400))).await;
}

fn check(group: GroupId, commands: &[Bytes], written: &[Written]) {
    let mut counts: BTreeMap<&Bytes, usize> = BTreeMap::new();
    for command in commands {
        *counts.entry(command).or_default() += 1;
    }
    for writer in written {
        for command in &writer.acknowledged {
            assert_eq!(counts.get(command), Some(&1), "{group}: {command:?} was acknowledged");
        }
        for command in &writer.unknown {
            assert!(
                counts.get(command).is_none_or(|count| *count == 1),
                "{group}: {command:?} took effect twice"
            );
        }
        let acknowledged: BTreeSet<&Bytes> = writer.acknowledged.iter().collect();
        let order: Vec<&Bytes> = commands
            .iter()
            .filter(|command| acknowledged.contains(command))
            .collect();
        assert!(
            order.is_sorted(),
            "{group}: a writer's acknowledged commands keep their order"
        );
    }
    let total: usize = written
        .iter()
        .map(|writer| writer.acknowledged.len() + writer.unknown.len())
        .sum();
    assert!(commands.len() <= total, "{group}: nothing appears from nowhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_happens_twice() {
    let seed = std::env::var("CHAOS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    println!("CHAOS_SEED={seed}");
    let mut dice = Dice(seed);
    let settings = ConsensusSettings {
        housekeeping_ms: 50,
        snapshot_lag_entries: 50,
        log_bytes_before_flush: 20 << 10,
        propose_timeout_ms: 1_000,
        ..ConsensusSettings::default()
    };
    let cluster = Cluster::start(3, settings).await;
    for group in GROUPS {
        cluster.start_group(group).await;
    }
    let cluster = Arc::new(Mutex::new(cluster));
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = BTreeMap::new();
    for group in GROUPS {
        let tasks: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write(cluster.clone(), group, writer, stop.clone())))
            .collect();
        writers.insert(group, tasks);
    }
    for _ in 0..10 {
        disturb(&cluster, &mut dice).await;
    }
    // The healthy end: everybody is back, and the last write of each group is seen by all.
    stop.store(true, Ordering::Relaxed);
    let mut written = BTreeMap::new();
    for (group, tasks) in writers {
        let mut done = Vec::new();
        for task in tasks {
            done.push(task.await.unwrap());
        }
        written.insert(group, done);
    }
    let cluster = Arc::into_inner(cluster).expect("the writers are done").into_inner();
    for (group, written) in &written {
        cluster.propose_anywhere(*group, Bytes::from_static(b"last")).await;
        cluster.wait_equal(*group).await;
        let mut commands = cluster.disk(NodeId(1), *group).commands();
        commands.retain(|command| command != "last");
        check(*group, &commands, written);
        println!("{group}: {} commands", commands.len());
    }
    cluster.stop().await;
}
