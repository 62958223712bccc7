//! A tablet on three nodes: writes, conditional writes, leader changes, crashes, snapshots, a clock that jumps.
// In a test a panic is the answer.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use futures::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::*;
use tidemark_base::batch::SERVER_VERSION;
use tidemark_base::{ErrorKind, NodeId, ReadFilter, RowRange, Stamp};
use tidemark_runtime::Clock;
use tidemark_tablet::{
    CheckAndMutate, FeedEntry, PeerQuarantine, ReadModifyWrite, RemoteBatch, RemoteOutcome, RemotePart, RmwChange,
    RmwRule, StreamId, TabletSettings,
};

fn increment(token: u8) -> ReadModifyWrite {
    ReadModifyWrite {
        row: Bytes::from_static(b"counter"),
        rules: vec![RmwRule {
            family: family(),
            qualifier: Bytes::from_static(b"n"),
            change: RmwChange::Increment(1),
        }],
        token: [token; 16],
        epoch: 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_are_joined_and_reach_every_replica() {
    let mut cluster = Cluster::start_calm(3, schema(1, EAST, &[])).await;
    let leader = cluster.leader().await;
    let writes = (0..500).map(|i| {
        let leader = leader.clone();
        async move { leader.write(put(&format!("r{i:03}"), i, "v"), 0).await.unwrap() }
    });
    let mut stamps: Vec<Stamp> = join_all(writes).await.iter().map(|o| o.first_stamp.unwrap()).collect();
    stamps.sort();
    stamps.dedup();
    assert_eq!(stamps.len(), 500, "no stamp is given twice");
    let entries = leader.group().status().last_index.unwrap();
    assert!(entries < 400, "{entries} entries for 500 writes");
    cluster.wait_all_equal().await;
    leader.read_barrier().await.unwrap();
    assert_eq!(values(&leader).len(), 500);
    let digest = leader.digest(RowRange::all(), NOW).await.unwrap();
    assert_eq!((digest.rows, digest.cells), (500, 500));

    let follower = &cluster.nodes[&cluster.follower()].tablet;
    let error = follower.write(put("x", 1, "v"), 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotLeader);
    assert_eq!(follower.read_barrier().await.unwrap_err().kind(), ErrorKind::NotLeader);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stamps_rise_over_leader_changes_and_a_clock_that_jumps_back() {
    let mut cluster = Cluster::start(3, schema(1, EAST, &[]), TabletSettings::default()).await;
    let mut last = Stamp::MIN;
    for round in 0..4 {
        for i in 0..5 {
            let outcome = write_somewhere(&cluster, put("same", SERVER_VERSION, &format!("{round}-{i}"))).await;
            let stamp = outcome.first_stamp.unwrap();
            assert!(stamp > last, "{stamp:?} after {last:?}");
            last = stamp;
        }
        cluster.clock.set_back(Duration::from_secs(3_600));
        let leader = cluster.leader().await.group().status().node;
        cluster.kill(leader).await;
        cluster.leader().await;
        cluster.start_node(leader).await;
    }
    cluster.wait_all_equal().await;
    // The version is the server's clock, which went back; the stamp decides only at one version. So ask for the facts.
    let facts = cluster.leader().await.engine().facts().unwrap();
    assert_eq!(facts.len(), 20);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_all_nodes_crash() {
    let mut cluster = Cluster::start(3, schema(1, EAST, &[WEST]), TabletSettings::default()).await;
    for i in 0..30 {
        write_somewhere(&cluster, put(&format!("r{i:02}"), i, "v")).await;
        if i == 10 {
            let node = cluster.follower();
            cluster.nodes[&node].tablet.engine().flush().unwrap();
        }
    }
    for id in 1..=cluster.size() {
        cluster.kill(tidemark_base::NodeId(id)).await;
    }
    for id in 1..=cluster.size() {
        cluster.start_node(tidemark_base::NodeId(id)).await;
    }
    let leader = cluster.leader().await;
    leader.read_barrier().await.unwrap();
    assert_eq!(values(&leader).len(), 30);
    cluster.wait_all_equal().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_a_purged_log_gets_the_engine_of_another() {
    let mut cluster = Cluster::start(3, schema(1, EAST, &[WEST]), TabletSettings::default()).await;
    write_somewhere(&cluster, put("early", 1, "v")).await;
    let away = cluster.follower();
    cluster.kill(away).await;
    for i in 0..60 {
        write_somewhere(&cluster, put(&format!("r{i:02}"), i, "v")).await;
    }
    let leader = cluster.leader().await;
    leader.engine().flush().unwrap();
    let purged = |status: &tidemark_consensus::GroupStatus| status.purged_index.is_some_and(|index| index > 20);
    leader.group().wait(PATIENCE, "to purge", purged).await.unwrap();
    cluster.start_node(away).await;
    cluster.wait_all_equal().await;
    assert_eq!(values(&cluster.nodes[&away].tablet).len(), 61);
    assert!(cluster.nodes[&away].tablet.trouble().is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditional_writes_are_decided_once() {
    let mut cluster = Cluster::start_calm(3, schema(1, EAST, &[])).await;
    let leader = cluster.leader().await;
    let take = |token: u8, value: &'static str| CheckAndMutate {
        row: Bytes::from_static(b"lock"),
        predicate: ReadFilter::default(),
        on_match: None,
        on_mismatch: Some(put("lock", SERVER_VERSION, value)),
        token: [token; 16],
        epoch: 0,
    };
    let attempts = (0..10u8).map(|i| {
        let (leader, op) = (leader.clone(), take(i, if i % 2 == 0 { "even" } else { "odd" }));
        async move { leader.check_and_mutate(op).await.unwrap() }
    });
    let won = join_all(attempts).await.iter().filter(|matched| !**matched).count();
    assert_eq!(won, 1, "exactly one found the row empty");

    let counted = (0..40u8).map(|i| {
        let leader = leader.clone();
        // Every increment is sent twice, as after a time-out.
        async move { leader.read_modify_write(increment(100 + i / 2)).await.unwrap() }
    });
    join_all(counted).await;
    let cells = leader.read_modify_write(increment(200)).await.unwrap();
    assert_eq!(cells[0].value, &21i64.to_be_bytes()[..], "each token counts once");
    cluster.wait_all_equal().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_tablet_with_peers_closes_and_a_peers_facts_come_in() {
    let mut cluster = Cluster::start(1, schema(1, EAST, &[WEST]), TabletSettings::default()).await;
    let leader = cluster.leader().await;
    let written = leader.write(put("mine", 1, "v"), 0).await.unwrap().first_stamp.unwrap();
    assert_eq!(leader.oldest_unacked_hlc(WEST).unwrap(), Some(written.hlc));
    cluster.clock.advance(Duration::from_millis(300));
    until("a closing stamp", || leader.replication_state().closed > written.hlc).await;
    let state = leader.replication_state();
    let records = leader.engine().feed(1, usize::MAX).unwrap();
    assert_eq!(records.last().unwrap().seq, state.feed_last_seq);
    let last = FeedEntry::decode(&records.last().unwrap().bytes).unwrap();
    assert!(matches!(last, FeedEntry::Close { .. }), "{last:?}");

    let hlc = written.hlc + (5_000 << 16);
    let message = |hlc: u64, seq: u64| RemoteBatch {
        stream: StreamId {
            region: WEST,
            tablet: 3,
        },
        link: 0,
        range: RowRange::all(),
        first_seq: seq,
        last_seq: seq,
        closed_hlc: hlc,
        parts: vec![RemotePart {
            first: Stamp {
                epoch: 0,
                hlc,
                region: WEST,
            },
            offsets: Vec::new(),
            batch: put("theirs", 1, "v"),
            seq,
        }],
        unreadable: Vec::new(),
    };
    let body = leader.apply_remote(message(hlc, 1).encode()).await.unwrap();
    let outcome = RemoteOutcome::decode(&body).unwrap();
    assert_eq!(
        (outcome.contiguous_seq, outcome.rows_applied, outcome.complete_hlc),
        (1, 1, hlc)
    );
    let next = leader
        .write(put("theirs", 1, "after"), 0)
        .await
        .unwrap()
        .first_stamp
        .unwrap();
    assert!(next.hlc > hlc, "a write after a peer's fact beats it (R7)");
    let far = leader
        .apply_remote(message(hlc + (60_000 << 16), 2).encode())
        .await
        .unwrap_err();
    assert_eq!(far.reason(), "CLOCK_QUARANTINE");

    let state = leader.replication_state();
    let held = PeerQuarantine::default();
    leader
        .acknowledge_feed(WEST, 0, state.feed_last_seq, held)
        .await
        .unwrap();
    assert_eq!(leader.oldest_unacked_hlc(WEST).unwrap(), None);
    assert_eq!(leader.stable_cut().hlc, hlc, "complete from the peer is the least");
    cluster.stop().await;
}

/// O14: facts of a peer that are on their way to commit do not put a close off; only own stamps do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_does_not_wait_for_a_peers_facts() {
    let mut cluster = Cluster::start(1, schema(1, EAST, &[WEST]), TabletSettings::default()).await;
    let leader = cluster.leader().await;
    let engine = cluster.engine(NodeId(1));
    // Apply stands still, so the message stays on its way for as long as the test wants.
    engine.refuse_commits(0, u64::MAX);
    let message = RemoteBatch {
        stream: StreamId {
            region: WEST,
            tablet: 3,
        },
        link: 0,
        range: RowRange::all(),
        first_seq: 1,
        last_seq: 1,
        closed_hlc: 1,
        parts: Vec::new(),
        unreadable: Vec::new(),
    };
    let waiting = tokio::spawn({
        let leader = leader.clone();
        async move { leader.apply_remote(message.encode()).await }
    });
    until("apply to meet the message", || engine.refusals_left() < u64::MAX).await;
    let before = leader.group().status().last_index;
    cluster.clock.advance(Duration::from_millis(300));
    until("a close in the log", || leader.group().status().last_index > before).await;
    assert!(!waiting.is_finished());
    engine.refuse_commits(0, 0);
    waiting.await.unwrap().unwrap();
    until("the close to be applied", || {
        leader.replication_state().feed_last_seq > 0
    })
    .await;
    cluster.stop().await;
}

/// O14: a tablet that only receives, without a pause, tells its own peers all the same that it wrote nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tablet_that_only_receives_closes_too() {
    let mut cluster = Cluster::start(1, schema(1, EAST, &[WEST]), TabletSettings::default()).await;
    let leader = cluster.leader().await;
    let written = leader.write(put("mine", 1, "v"), 0).await.unwrap().first_stamp.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    // So many at a time that something is always in the queue, and something always on its way.
    let streams = (0..48u64).map(|tablet| {
        let (leader, done) = (leader.clone(), done.clone());
        tokio::spawn(async move {
            let mut seq = 0;
            while !done.load(Ordering::Relaxed) {
                seq += 1;
                let message = RemoteBatch {
                    stream: StreamId { region: WEST, tablet },
                    link: 0,
                    range: RowRange::all(),
                    first_seq: seq,
                    last_seq: seq,
                    closed_hlc: seq,
                    parts: Vec::new(),
                    unreadable: Vec::new(),
                };
                leader.apply_remote(message.encode()).await.unwrap();
            }
            seq
        })
    });
    let streams: Vec<_> = streams.collect();
    for round in 1..=5 {
        let before = leader.replication_state().closed;
        cluster.clock.advance(Duration::from_millis(300));
        until("a closing stamp", || leader.replication_state().closed > before).await;
        let closed_ms = leader.replication_state().closed >> 16;
        assert!(closed_ms >= (written.hlc >> 16) + 300 * round, "by the clock's time");
    }
    done.store(true, Ordering::Relaxed);
    let received: u64 = join_all(streams).await.into_iter().map(|seq| seq.unwrap()).sum();
    assert!(received > 100, "{received} messages prove nothing");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_must_not_stamp_writes_nothing() {
    let mut cluster = Cluster::start(1, schema(1, EAST, &[]), TabletSettings::default()).await;
    let leader = cluster.leader().await;
    leader.set_stamping_allowed(false, "400 ms from the median");
    let error = leader.write(put("a", 1, "v"), 0).await.unwrap_err();
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Unavailable, "CLOCK_SKEW"));
    leader.set_stamping_allowed(true, "");
    leader.write(put("a", 1, "v"), 0).await.unwrap();
    let fenced = leader.write(put("a", 1, "v"), 3).await.unwrap_err();
    assert_eq!(fenced.reason(), "EPOCH_AHEAD");
    cluster.stop().await;
    let stopped = leader.write(put("a", 1, "v"), 0).await.unwrap_err();
    assert!(stopped.kind().is_retryable(), "{stopped}");
}

/// R8: one stamp of an hour ahead would hold the stream to every peer up for that hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_between_two_comparisons_gives_no_stamp() {
    let mut cluster = Cluster::start(1, schema(1, EAST, &[]), TabletSettings::default()).await;
    let leader = cluster.leader().await;
    leader.set_stamping_allowed(true, "");
    cluster.clock.advance(Duration::from_secs(30));
    leader
        .write(put("a", 1, "time that passes is no jump"), 0)
        .await
        .unwrap();
    for jump_micros in [3_600_000_000, -3_600_000_000, 300_000] {
        let right = cluster.clock.now_micros();
        cluster.clock.set_micros(right + jump_micros);
        let error = leader.write(put("a", 1, "v"), 0).await.unwrap_err();
        assert_eq!((error.kind(), error.reason()), (ErrorKind::Unavailable, "CLOCK_SKEW"));
        cluster.clock.set_micros(right);
        leader.write(put("a", 1, "right again"), 0).await.unwrap();
    }
    cluster.stop().await;
}

/// INV-01 seen from above: what one node alone has in its log is not done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_quorum_acknowledges_no_write() {
    let mut cluster = Cluster::start(3, schema(1, EAST, &[]), TabletSettings::default()).await;
    let leader = cluster.leader().await;
    leader.write(put("before", 1, "v"), 0).await.unwrap();
    let node = leader.group().status().node;
    cluster.network.isolate(node, (1..=3).map(NodeId));
    // However long one waits for it.
    let alone = tokio::time::timeout(Duration::from_secs(2), leader.write(put("alone", 1, "v"), 0)).await;
    let acknowledged = matches!(alone, Ok(Ok(_)));
    assert!(!acknowledged, "a write that no quorum has was acknowledged: {alone:?}");
    cluster.network.heal();
    write_somewhere(&cluster, put("after", 1, "v")).await;
    cluster.wait_all_equal().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_goes_while_reads_stay_the_same() {
    let settings = TabletSettings {
        gc_interval_ms: 1_000,
        ..TabletSettings::default()
    };
    let mut cluster = Cluster::start(1, schema(1, EAST, &[]), settings).await;
    let leader = cluster.leader().await;
    for i in 0..20 {
        leader.write(put("row", 1, &format!("v{i}")), 0).await.unwrap();
    }
    assert_eq!(leader.engine().facts().unwrap().len(), 20);
    leader.maintain().await;
    cluster.clock.advance(Duration::from_secs(2));
    leader.maintain().await;
    assert_eq!(leader.engine().facts().unwrap().len(), 1);
    assert_eq!(values(&leader).values().next().unwrap(), "v19");
    until("collecting has flushed", || {
        leader.group().status().durable_index > Some(20)
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_flushed_for_long_is_however_little_it_is() {
    let settings = TabletSettings {
        flush_after_ms: 60_000,
        ..TabletSettings::default()
    };
    let mut cluster = Cluster::start(1, schema(1, EAST, &[]), settings).await;
    let leader = cluster.leader().await;
    leader.write(put("row", 1, "v"), 0).await.unwrap();
    leader.maintain().await;
    cluster.clock.advance(Duration::from_secs(59));
    leader.maintain().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(leader.engine().unflushed_bytes() > 0);
    cluster.clock.advance(Duration::from_secs(2));
    leader.maintain().await;
    until("it is flushed", || leader.engine().unflushed_bytes() == 0).await;
    // Nothing new, nothing to do; and what comes then has its own time.
    leader.maintain().await;
    leader.write(put("row", 2, "v"), 0).await.unwrap();
    leader.maintain().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(leader.engine().unflushed_bytes() > 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_meets_a_full_disk_in_apply_waits_and_is_done_when_there_is_room() {
    let mut cluster = Cluster::start(1, schema(1, EAST, &[]), TabletSettings::default()).await;
    let tablet = cluster.leader().await;
    tablet.write(put("before", 1, "v"), 0).await.unwrap();
    let engine = cluster.engine(NodeId(1));
    engine.refuse_commits(0, u64::MAX);
    let waiting = tokio::spawn({
        let tablet = tablet.clone();
        async move { tablet.write(put("during", 1, "v"), 0).await }
    });
    until("two refusals", || engine.refusals_left() < u64::MAX - 1).await;
    // Nothing more is taken in, nothing is broken, and what was applied is there.
    let refused = tablet.write(put("refused", 1, "v"), 0).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.reason()),
        (ErrorKind::StorageFull, "DISK_FULL")
    );
    assert_eq!(tablet.trouble(), None);
    assert_eq!(values(&tablet).len(), 1);
    assert!(!waiting.is_finished());
    engine.refuse_commits(0, 0);
    assert_eq!(waiting.await.unwrap().unwrap().rows_written, 1);
    tablet.write(put("after", 1, "v"), 0).await.unwrap();
    let rows: Vec<_> = values(&tablet).into_keys().collect();
    assert_eq!(rows, ["after", "before", "during"]);
    cluster.stop().await;
}
