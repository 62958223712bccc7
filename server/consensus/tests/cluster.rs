//! Three replicas in one process: elections, commits, restarts, snapshots, partitions.
// In a test a panic is the answer.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use std::time::Duration;
use support::{Cluster, PATIENCE, eventually, numbered};
use tidemark_base::{GroupId, NodeId};
use tidemark_consensus::{ConsensusSettings, ProposeError, ReadError, Role};

const G: GroupId = GroupId(7);

/// For tests that lose a leader: an election comes soon, yet not because the machine is busy with another test.
fn quick() -> ConsensusSettings {
    ConsensusSettings {
        housekeeping_ms: 50,
        election_timeout_min_ms: 1_500,
        election_timeout_max_ms: 2_000,
        ..ConsensusSettings::default()
    }
}

/// For tests that hold on to one leader: nobody campaigns unless asked, however long a busy machine starves the leader.
fn calm() -> ConsensusSettings {
    ConsensusSettings {
        election_timeout_min_ms: 60_000,
        election_timeout_max_ms: 80_000,
        append_timeout_ms: 10_000,
        read_timeout_ms: 10_000,
        ..quick()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_elect_a_leader_and_commit() {
    let cluster = Cluster::start(3, calm()).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    for i in 0..100 {
        let done = leader.propose(numbered(i)).await.unwrap();
        assert_eq!(done.response, numbered(i));
    }
    cluster.wait_all_equal(G, 100).await;
    leader.read_barrier().await.unwrap();
    let status = leader.status();
    assert_eq!(leader.leader(), status.leader, "asked without a status");
    assert!(status.leader_ready);
    assert_eq!(status.voters, [NodeId(1), NodeId(2), NodeId(3)]);
    assert_eq!(status.matched.len(), 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(3, quick()).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    for i in 0..20 {
        leader.propose(numbered(i)).await.unwrap();
    }
    let old = leader.status().node;
    let term = leader.status().term;
    let killed = std::time::Instant::now();
    cluster.kill(old).await;
    let next = cluster.leader(G).await;
    println!("leader gap: {:?}", killed.elapsed());
    assert_ne!(next.status().node, old);
    assert!(next.status().term > term);
    for i in 20..40 {
        next.propose(numbered(i)).await.unwrap();
    }
    cluster.restart(old).await;
    cluster.start_group_on(old, G).await;
    cluster.wait_all_equal(G, 40).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_stopped_keep_every_acknowledged_entry() {
    let mut cluster = Cluster::start(3, quick()).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    for i in 0..50 {
        leader.propose(numbered(i)).await.unwrap();
    }
    drop(leader);
    for node in 1..=3 {
        cluster.kill(NodeId(node)).await;
    }
    for node in 1..=3 {
        cluster.restart(NodeId(node)).await;
        cluster.start_group_on(NodeId(node), G).await;
    }
    let leader = cluster.leader(G).await;
    leader.read_barrier().await.unwrap();
    let expected: Vec<Bytes> = (0..50).map(numbered).collect();
    assert_eq!(cluster.disk(leader.status().node, G).commands(), expected);
    cluster.wait_all_equal(G, 50).await;
    cluster.stop().await;
}

/// What a leader knows is what there is for as long as nobody else can lead; then it says for how long it has not been sure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_not_confirmed() {
    let cluster = Cluster::start(3, calm()).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    leader.propose(numbered(0)).await.unwrap();
    assert_eq!(leader.leadership().unconfirmed, Duration::ZERO);
    let cut_at = std::time::Instant::now();
    cluster.network.isolate(leader.status().node, cluster.nodes());
    while leader.leadership().unconfirmed.is_zero() {
        assert!(leader.leadership().is_own() && cut_at.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let others = cluster.nodes().into_iter().filter(|node| *node != leader.status().node);
    for other in others {
        let status = cluster.group(other, G).status();
        assert_ne!(
            status.role,
            Role::Leader,
            "another leads while this one counts as confirmed"
        );
    }
    cluster.network.heal();
    cluster.stop().await;
}

/// However small its entries are, a node that starts has few of them to apply again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_entries_are_flushed() {
    let settings = ConsensusSettings {
        log_entries_before_flush: 20,
        ..calm()
    };
    let cluster = Cluster::start(1, settings).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    for i in 0..15 {
        leader.propose(numbered(i)).await.unwrap();
    }
    // Some rounds of housekeeping see fewer.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(leader.status().durable_index.unwrap_or(0) < 15);
    for i in 15..40 {
        leader.propose(numbered(i)).await.unwrap();
    }
    let flushed = |status: &tidemark_consensus::GroupStatus| status.durable_index.is_some_and(|index| index > 20);
    leader.wait(PATIENCE, "to flush", flushed).await.unwrap();
    cluster.stop().await;
}

/// Checks INV-05: purging went up to what is durable, and what was purged is in the snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_a_purged_log_gets_a_snapshot_with_its_membership() {
    let settings = ConsensusSettings {
        snapshot_lag_entries: 5,
        snapshot_chunk_bytes: 4096,
        ..calm()
    };
    let mut cluster = Cluster::start(3, settings).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    let away = cluster.other_than(leader.status().node);
    cluster.kill(away).await;
    for i in 0..300 {
        leader.propose(Bytes::from(format!("{i:0>100}"))).await.unwrap();
    }
    leader.trigger_snapshot().await.unwrap();
    let purged = |status: &tidemark_consensus::GroupStatus| status.purged_index.is_some_and(|index| index > 200);
    leader.wait(PATIENCE, "to purge", purged).await.unwrap();
    cluster.restart(away).await;
    let group = cluster.start_group_on(away, G).await;
    cluster.wait_all_equal(G, 300).await;
    let installed = |status: &tidemark_consensus::GroupStatus| status.snapshot_index.is_some_and(|index| index > 200);
    let status = group.wait(PATIENCE, "to show its snapshot", installed).await.unwrap();
    assert_eq!(status.voters, [NodeId(1), NodeId(2), NodeId(3)]);
    // The temporary directories go when nobody needs them: the receiver's at once.
    cluster.wait_no_incoming(away).await;
    // And again from its own disk.
    cluster.kill(away).await;
    cluster.restart(away).await;
    let group = cluster.start_group_on(away, G).await;
    leader.propose(numbered(300)).await.unwrap();
    cluster.wait_all_equal(G, 301).await;
    assert_eq!(group.status().voters.len(), 3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partitioned_old_leader_answers_no_linearizable_read() {
    let cluster = Cluster::start(3, quick()).await;
    cluster.start_group(G).await;
    let old = cluster.leader(G).await;
    old.propose(numbered(0)).await.unwrap();
    old.read_barrier().await.unwrap();
    let node = old.status().node;
    cluster.network.isolate(node, cluster.nodes());
    let error = old.read_barrier().await.unwrap_err();
    assert!(
        matches!(error, ReadError::Unavailable(_) | ReadError::NotLeader { .. }),
        "{error:?}"
    );
    let new = cluster.leader_except(G, node).await;
    new.propose(numbered(1)).await.unwrap();
    new.read_barrier().await.unwrap();
    cluster.network.heal();
    cluster.wait_all_equal(G, 2).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_returning_partitioned_follower_does_not_disturb_the_leader() {
    let cluster = Cluster::start(3, quick()).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    let term = leader.status().term;
    let away = cluster.other_than(leader.status().node);
    cluster.network.isolate(away, cluster.nodes());
    // Long enough for several of its election time-outs, measured in proposals.
    let until = std::time::Instant::now() + Duration::from_millis(2500);
    let mut proposed = 0;
    while std::time::Instant::now() < until {
        leader.propose(numbered(proposed)).await.unwrap();
        proposed += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        cluster.group(away, G).status().term,
        term,
        "pre-vote keeps the isolated node's term"
    );
    cluster.network.heal();
    cluster.wait_all_equal(G, proposed as usize).await;
    let status = leader.status();
    assert_eq!((status.role, status.term), (Role::Leader, term));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request_and_on_shutdown() {
    let mut cluster = Cluster::start(3, quick()).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    leader.propose(numbered(0)).await.unwrap();
    let to = cluster.other_than(leader.status().node);
    let begun = std::time::Instant::now();
    leader.transfer_leadership(to).await.unwrap();
    let next = cluster.group(to, G);
    next.wait_leader_ready(PATIENCE).await.unwrap();
    println!("transfer took {:?}", begun.elapsed());
    let from = leader.status().node;
    let error = leader.propose(numbered(1)).await.unwrap_err();
    assert!(matches!(error, ProposeError::NotLeader { .. }), "{error:?}");
    next.propose(numbered(1)).await.unwrap();

    // A node that shuts down hands over first: the next leader is there without an election time-out.
    let begun = std::time::Instant::now();
    cluster.shutdown(to).await;
    let last = cluster.leader_except(G, to).await;
    println!("handed over at shutdown within {:?}", begun.elapsed());
    last.propose(numbered(2)).await.unwrap();
    assert!([from, NodeId(6 - from.0 - to.0)].contains(&last.status().node));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_group_leaves_nothing() {
    let cluster = Cluster::start(1, calm()).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    leader.propose(numbered(0)).await.unwrap();
    let host = cluster.host(NodeId(1));
    host.destroy_group(G).await.unwrap();
    assert!(host.group(G).is_none());
    assert!(host.log().groups().is_empty());
    assert!(matches!(
        leader.propose(numbered(1)).await,
        Err(ProposeError::Stopped(_))
    ));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_groups_share_one_log() {
    let cluster = Cluster::start(3, calm()).await;
    let groups: Vec<GroupId> = (2..66).map(GroupId).collect();
    for group in &groups {
        cluster.start_group(*group).await;
    }
    let work = groups.iter().map(|group| {
        let cluster = &cluster;
        async move {
            for i in 0..10 {
                cluster.propose_anywhere(*group, numbered(i)).await;
            }
            cluster.wait_all_equal(*group, 10).await;
        }
    });
    futures::future::join_all(work).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_state_machine_stops_its_replica_only() {
    let cluster = Cluster::start(3, calm()).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    let sick = cluster.other_than(leader.status().node);
    cluster.disk(sick, G).fail_apply(Some("disk on fire"));
    leader.propose(numbered(0)).await.unwrap();
    let group = cluster.group(sick, G);
    let status = group
        .wait(PATIENCE, "to fail", |status| status.fault.is_some())
        .await
        .unwrap();
    assert_eq!(status.fault.as_deref(), Some("disk on fire"));
    assert!(matches!(
        group.propose(numbered(1)).await,
        Err(ProposeError::Stopped(_))
    ));
    assert!(matches!(group.read_barrier().await, Err(ReadError::Stopped(_))));
    leader.propose(numbered(1)).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_in_flight_are_bounded_while_there_is_no_quorum() {
    let settings = ConsensusSettings {
        proposals_in_flight_max: 4,
        propose_timeout_ms: 200,
        ..calm()
    };
    let cluster = Cluster::start(3, settings).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    cluster.network.isolate(leader.status().node, cluster.nodes());
    // All five are asked at once: four take their places, which they keep until their fate is known.
    let outcomes = futures::future::join_all((0..5).map(|i| leader.propose(numbered(i)))).await;
    let unknown = |outcome: &Result<_, ProposeError>| matches!(outcome, Err(ProposeError::Unknown(_)));
    assert!(outcomes[..4].iter().all(unknown), "{outcomes:?}");
    assert_eq!(outcomes[4], Err(ProposeError::Busy));
    cluster.network.heal();
    let group = cluster.leader(G).await;
    support::eventually("a proposal to succeed again", async || {
        group.propose(numbered(5)).await.is_ok()
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_stamped_in_another_term_is_not_committed() {
    let cluster = Cluster::start(1, calm()).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    let term = leader.status().term;
    leader.propose_in_term(term, numbered(0)).await.unwrap();
    let error = leader.propose_in_term(term + 1, numbered(1)).await.unwrap_err();
    assert!(matches!(error, ProposeError::NotLeader { .. }), "{error:?}");
    assert_eq!(cluster.disk(NodeId(1), G).commands(), [numbered(0)]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change() {
    let cluster = Cluster::start(3, quick()).await;
    // A group of one grows to three and shrinks to the other two.
    for node in 2..=3 {
        cluster.start_group_on(NodeId(node), G).await;
    }
    let first = cluster.start_group_on(NodeId(1), G).await;
    first.initialize([NodeId(1)].into()).await.unwrap();
    first.initialize([NodeId(1)].into()).await.unwrap();
    first.wait_leader_ready(PATIENCE).await.unwrap();
    first.propose(numbered(0)).await.unwrap();
    first.add_learner(NodeId(2)).await.unwrap();
    assert_eq!(first.status().learners, [NodeId(2)]);
    first
        .change_voters([NodeId(1), NodeId(2), NodeId(3)].into())
        .await
        .unwrap();
    first.propose(numbered(1)).await.unwrap();
    cluster.wait_all_equal(G, 2).await;
    first.change_voters([NodeId(2), NodeId(3)].into()).await.unwrap();
    let next = cluster.leader_except(G, NodeId(1)).await;
    next.propose(numbered(2)).await.unwrap();
    assert_eq!(next.status().voters, [NodeId(2), NodeId(3)]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_everywhere_stops_writes_and_nothing_else() {
    let settings = ConsensusSettings {
        propose_timeout_ms: 300,
        ..calm()
    };
    let cluster = Cluster::start(3, settings).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    leader.propose(numbered(0)).await.unwrap();
    for node in cluster.nodes() {
        cluster.log_disk(node).set_no_space(true);
    }
    // The first one finds out.
    let error = leader.propose(numbered(1)).await.unwrap_err();
    assert!(matches!(error, ProposeError::Unknown(_)), "{error:?}");
    assert_eq!(leader.propose(numbered(2)).await.unwrap_err(), ProposeError::Busy);
    leader.read_barrier().await.unwrap();
    for node in cluster.nodes() {
        cluster.log_disk(node).set_no_space(false);
    }
    support::eventually("writes to go on", async || leader.propose(numbered(3)).await.is_ok()).await;
    assert!(leader.status().fault.is_none());
    // The one with the unknown outcome took effect after all; the refused one did not.
    cluster.wait_all_equal(G, 3).await;
    assert_eq!(
        cluster.disk(leader.status().node, G).commands(),
        [numbered(0), numbered(1), numbered(3)]
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_log_fails_a_sync_stops_and_the_others_go_on() {
    let mut cluster = Cluster::start(3, quick()).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    leader.propose(numbered(0)).await.unwrap();
    let node = leader.status().node;
    cluster.log_disk(node).fail_next_sync();
    // A quorum of the others may commit it, or it may get lost with the leader: either way nobody lies.
    let outcome = leader.propose(numbered(1)).await;
    leader
        .wait(PATIENCE, "to stop", |status| status.fault.is_some())
        .await
        .unwrap();
    assert!(matches!(
        leader.propose(numbered(2)).await,
        Err(ProposeError::Stopped(_))
    ));
    let next = cluster.leader_except(G, node).await;
    next.propose(numbered(3)).await.unwrap();
    let commands = cluster.disk(next.status().node, G).commands();
    assert!(
        outcome.is_err() || commands.contains(&numbered(1)),
        "{outcome:?} {commands:?}"
    );
    // A restart reads the disk again and is well.
    cluster.kill(node).await;
    cluster.restart(node).await;
    cluster.start_group_on(node, G).await;
    cluster.wait_all_equal(G, commands.len()).await;
    cluster.stop().await;
}

/// A full disk under the state machines (not under the logs): what is committed waits and is then applied in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_machine_without_room_waits_and_goes_on_by_itself() {
    let cluster = Cluster::start(3, calm()).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    leader.propose(numbered(0)).await.unwrap();
    let node = leader.status().node;
    let disk = cluster.disk(node, G);
    disk.set_full(true);
    let waiting = tokio::spawn({
        let leader = leader.clone();
        async move { leader.propose(numbered(1)).await }
    });
    eventually("a refusal", async || disk.refusals() > 1).await;
    assert_eq!(leader.status().fault, None);
    // Reads stay up: what waits has been promised to nobody.
    leader.read_barrier().await.unwrap();
    assert!(!waiting.is_finished());
    disk.set_full(false);
    assert_eq!(waiting.await.unwrap().unwrap().response, numbered(1));
    cluster.wait_all_equal(G, 2).await;
    // A group that waits can be stopped.
    disk.set_full(true);
    let refusals = disk.refusals();
    let waiting = tokio::spawn(async move { leader.propose(numbered(2)).await });
    eventually("another refusal", async || disk.refusals() > refusals).await;
    cluster.host(node).stop_group(G).await;
    assert!(waiting.await.unwrap().is_err());
    disk.set_full(false);
    cluster.stop().await;
}

/// Neither a leader that cannot make a checkpoint nor a follower that cannot install one is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_without_room_on_either_side_waits_and_arrives() {
    let settings = ConsensusSettings {
        snapshot_lag_entries: 5,
        ..calm()
    };
    let mut cluster = Cluster::start(3, settings).await;
    cluster.start_group(G).await;
    let leader = cluster.leader(G).await;
    let node = leader.status().node;
    let away = cluster.other_than(node);
    cluster.kill(away).await;
    for i in 0..100 {
        leader.propose(numbered(i)).await.unwrap();
    }
    // Full before anything is purged: as soon as the one that is away needs a snapshot a checkpoint is made, and kept.
    let (sender, receiver) = (cluster.disk(node, G), cluster.disk(away, G));
    sender.set_full(true);
    receiver.set_full(true);
    leader.trigger_snapshot().await.unwrap();
    let purged = |status: &tidemark_consensus::GroupStatus| status.purged_index.is_some_and(|index| index > 50);
    leader.wait(PATIENCE, "to purge", purged).await.unwrap();
    cluster.restart(away).await;
    let group = cluster.start_group_on(away, G).await;
    eventually("no checkpoint", async || sender.refusals() > 1).await;
    assert_eq!(leader.status().fault, None);
    sender.set_full(false);
    eventually("no installation", async || receiver.refusals() > 1).await;
    assert_eq!(group.status().fault, None);
    receiver.set_full(false);
    cluster.wait_all_equal(G, 100).await;
    cluster.stop().await;
}
