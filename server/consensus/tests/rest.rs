//! Groups at rest: what they send, what wakes them, and that nothing about them is lost but time (INV-07).
// In a test a panic is the answer.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;
use support::{Cluster, eventually, numbered};
use tidemark_base::{GroupId, NodeId};
use tidemark_consensus::{ConsensusSettings, Group, ProposeError, ReadError, Role};

const G: GroupId = GroupId(7);
const OTHER: GroupId = GroupId(8);

/// Rests soon; an election comes soon, yet not because the machine is busy with another test.
fn resting() -> ConsensusSettings {
    ConsensusSettings {
        housekeeping_ms: 50,
        rest_after_ms: 200,
        election_timeout_min_ms: 1_500,
        election_timeout_max_ms: 2_000,
        ..ConsensusSettings::default()
    }
}

async fn at_rest(cluster: &Cluster, groups: usize) {
    eventually("all replicas to rest", async || {
        let nodes = cluster.nodes();
        nodes.iter().all(|node| cluster.host(*node).groups_at_rest() == groups)
    })
    .await;
}

/// Leader and term, and that nothing has moved since.
fn place(group: &Group) -> (Role, NodeId, u64) {
    let status = group.status();
    (status.role, status.node, status.term)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_groups_at_rest_cost_a_beat_a_pair_of_nodes_and_wake_for_work() {
    let cluster = Cluster::start(3, resting()).await;
    for group in 1..=32 {
        cluster.start_group(GroupId(group)).await;
    }
    for group in 1..=32 {
        cluster.propose_anywhere(GroupId(group), numbered(1)).await;
    }
    at_rest(&cluster, 32).await;
    let before = cluster.network.delivered();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let sent = cluster.network.delivered() - before;
    // 6 pairs, a beat each 150 ms; awake they would be some 640 heartbeats.
    assert!((6..=80).contains(&sent), "{sent} messages in 1.5 s");
    assert_eq!(cluster.host(NodeId(1)).groups_at_rest(), 32);

    let leader = cluster.leader(GroupId(5)).await;
    let term = leader.status().term;
    leader.propose(numbered(2)).await.unwrap();
    leader.read_barrier().await.unwrap();
    assert_eq!(leader.status().term, term, "it is the same leadership");
    cluster.wait_all_equal(GroupId(5), 2).await;
    // And again.
    at_rest(&cluster, 32).await;
    assert_eq!(leader.status().term, term);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_at_rest_is_replaced() {
    let mut cluster = Cluster::start(3, resting()).await;
    cluster.start_group(G).await;
    cluster.propose_anywhere(G, numbered(1)).await;
    at_rest(&cluster, 1).await;
    let (_, old, term) = place(&cluster.leader(G).await);
    cluster.kill(old).await;
    let next = cluster.leader_except(G, old).await;
    assert!(next.status().term > term);
    next.propose(numbered(2)).await.unwrap();
    cluster.restart(old).await;
    cluster.start_group_on(old, G).await;
    cluster.wait_all_equal(G, 2).await;
    at_rest(&cluster, 1).await;
    cluster.stop().await;
}

/// The node comes back before anybody misses its beats, and knows nothing of what it led.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_again_at_once_leads_nothing_by_its_beats() {
    let mut cluster = Cluster::start(3, resting()).await;
    for group in [G, OTHER] {
        cluster.start_group(group).await;
        cluster.propose_anywhere(group, numbered(1)).await;
    }
    // Both leaders on one node, so that it goes on beating for the other group.
    let node = cluster.leader(G).await.status().node;
    let other = cluster.leader(OTHER).await;
    other.transfer_leadership(node).await.unwrap();
    cluster
        .group(node, OTHER)
        .wait_leader_ready(support::PATIENCE)
        .await
        .unwrap();
    at_rest(&cluster, 2).await;
    let term = cluster.group(node, G).status().term;

    // As after a fault in one group: its replica ends, the process lives and beats for the other. It has just been woken, and
    // its followers need not have noticed.
    cluster.group(node, G).read_barrier().await.unwrap();
    cluster.host(node).stop_group(G).await;
    let next = cluster.leader_except(G, node).await;
    assert!(next.status().term > term);
    next.propose(numbered(2)).await.unwrap();

    // And a start so quick that the time without beats is short.
    cluster.kill(node).await;
    cluster.restart(node).await;
    for group in [G, OTHER] {
        cluster.start_group_on(node, group).await;
    }
    for (group, count) in [(G, 3), (OTHER, 2)] {
        cluster.propose_anywhere(group, numbered(9)).await;
        cluster.wait_all_equal(group, count).await;
    }
    cluster.stop().await;
}

/// Who asks a follower at rest by mistake is sent to the leader and wakes nobody: the follower's time-out has long passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_asked_at_rest_knows_its_leader_and_rests_on() {
    let cluster = Cluster::start(3, resting()).await;
    cluster.start_group(G).await;
    cluster.propose_anywhere(G, numbered(1)).await;
    at_rest(&cluster, 1).await;
    let leader = cluster.leader(G).await;
    let before = place(&leader);
    let knows = Some(before.1);
    for node in cluster.nodes().into_iter().filter(|node| *node != before.1) {
        let follower = cluster.group(node, G);
        assert_eq!(
            follower.read_barrier().await,
            Err(ReadError::NotLeader { leader: knows })
        );
        let refused = ProposeError::NotLeader { leader: knows };
        assert_eq!(follower.propose(numbered(2)).await.unwrap_err(), refused);
    }
    assert!(
        cluster
            .nodes()
            .iter()
            .all(|node| cluster.host(*node).groups_at_rest() == 1)
    );
    assert_eq!(place(&leader), before);
    cluster.stop().await;
}

/// A follower that cannot hear the leader's node campaigns; the other one, whose leader's node is heard, refuses it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lost_sight_of_a_leader_at_rest_does_not_take_its_place() {
    let cluster = Cluster::start(3, resting()).await;
    cluster.start_group(G).await;
    cluster.propose_anywhere(G, numbered(1)).await;
    at_rest(&cluster, 1).await;
    let leader = cluster.leader(G).await;
    let before = place(&leader);
    let away = cluster.other_than(before.1);
    cluster.network.cut(before.1, away);
    cluster.network.cut(away, before.1);
    eventually("the follower to wake", async || {
        cluster.host(away).groups_at_rest() == 0
    })
    .await;
    // Several of its time-outs.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(place(&leader), before, "nobody took its place");
    leader.propose(numbered(2)).await.unwrap();
    cluster.network.heal();
    cluster.wait_all_equal(G, 2).await;
    assert_eq!(place(&leader), before);
    at_rest(&cluster, 1).await;
    cluster.stop().await;
}

/// A leader that hands over takes no more proposals and does not beat; if the chosen one does not come, the others must
/// miss it. Asking them to rest was a beat (seed 51 of the simulation).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_that_nobody_took_up_ends_in_an_election() {
    let cluster = Cluster::start(3, resting()).await;
    cluster.start_group(G).await;
    cluster.propose_anywhere(G, numbered(1)).await;
    at_rest(&cluster, 1).await;
    let leader = cluster.leader(G).await;
    let (_, node, term) = place(&leader);
    let others: Vec<NodeId> = cluster.nodes().into_iter().filter(|other| *other != node).collect();
    // Awake before its message is lost, so that nothing but the hand-over goes wrong.
    leader.propose(numbered(2)).await.unwrap();
    others.iter().for_each(|other| cluster.network.cut(node, *other));
    let (handing, to) = (leader.clone(), others[0]);
    let handing_over = tokio::spawn(async move { handing.transfer_leadership(to).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.network.heal();
    cluster.propose_anywhere(G, numbered(3)).await;
    assert!(cluster.leader(G).await.status().term > term);
    handing_over.await.unwrap().ok();
    cluster.wait_all_equal(G, 3).await;
    cluster.stop().await;
}

/// With a node away the others stay awake: somebody has to find out when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_a_follower_away_does_not_rest() {
    let mut cluster = Cluster::start(3, resting()).await;
    cluster.start_group(G).await;
    cluster.propose_anywhere(G, numbered(1)).await;
    let leader = cluster.leader(G).await;
    let away = cluster.other_than(leader.status().node);
    cluster.kill(away).await;
    leader.propose(numbered(2)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        leader.status().role == Role::Leader,
        "asking its followers to rest costs it nothing"
    );
    assert_eq!(cluster.host(leader.status().node).groups_at_rest(), 0);
    cluster.restart(away).await;
    cluster.start_group_on(away, G).await;
    cluster.wait_all_equal(G, 2).await;
    at_rest(&cluster, 1).await;
    cluster.stop().await;
}
