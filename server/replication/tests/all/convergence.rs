//! Regions that write at the same time end equal, and equal an oracle (O5); each write crosses each link once (O13), whole
//! (O12), through cuts, repeats and reordering (R14 to R16).

use crate::support::oracle::visible;
use crate::support::{Region, Wires, cell, east_and_west, tablet_settings, until, until_equal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemark_base::fact::Fact;
use tidemark_base::normalize::normalize;
use tidemark_base::{BatchBuilder, FamilyId, PackedBatch, RowRange, Scope, VersionRange};
use tidemark_oracle::facts_of;
use tidemark_replication::StreamState;
use tidemark_runtime::Entropy;

fn family(name: &str) -> FamilyId {
    FamilyId::derive(name, 0)
}

/// One random row mutation or, now and then, the delete of a range inside `range`; rows and columns are few, so that the
/// regions meet.
fn random_batch(entropy: &Entropy, range: &RowRange, tag: &str) -> Option<PackedBatch> {
    let mut batch = BatchBuilder::new();
    for n in 0..entropy.range(1..4) {
        let row = format!("{}{}", (b'a' + entropy.range(0..20) as u8) as char, entropy.range(0..3));
        if !range.contains(row.as_bytes()) {
            continue;
        }
        if entropy.range(0..12) == 0 {
            let end = format!("{}~", &row[..1]);
            let deleted = RowRange {
                start: row.into(),
                end: Some(end.into()),
            };
            let inside = deleted.intersect(range);
            batch.push_range_delete(&inside, VersionRange::ALL).unwrap();
            continue;
        }
        batch.begin_row(row.as_bytes()).unwrap();
        for _ in 0..entropy.range(1..5) {
            let qualifier = [b'p' + entropy.range(0..4) as u8];
            let name = if entropy.range(0..2) == 0 { "m" } else { "n" };
            let version = entropy.range(1..4) as i64;
            let scope = Scope::Column {
                family: family(name),
                qualifier: &qualifier,
            };
            match entropy.range(0..8) {
                0 => batch.delete(scope, VersionRange::one(version)).unwrap(),
                1 => batch.delete(Scope::Row, VersionRange::ALL).unwrap(),
                _ => {
                    let value = format!("{tag}-{n}-{}", entropy.range(0..1_000_000));
                    batch.put(family(name), &qualifier, version, value.as_bytes()).unwrap();
                }
            }
        }
        batch.end_row().unwrap();
    }
    batch.finish().map(|batch| normalize(&batch, 0).unwrap())
}

/// Writes random batches, each inside one tablet; the facts acknowledged.
async fn write_randomly(region: &Region, table: &str, batches: usize, seed: u64) -> (Vec<Fact>, u64) {
    let entropy = Entropy::from_seed(seed);
    let ranges: Vec<RowRange> = region
        .tablets(table)
        .iter()
        .map(|tablet| tablet.descriptor().range.clone())
        .collect();
    let (mut facts, mut rows) = (Vec::new(), 0);
    for _ in 0..batches {
        let range = &ranges[entropy.range(0..ranges.len() as u64) as usize];
        if let Some(batch) = random_batch(&entropy, range, &region.name) {
            let first = region.write(table, &batch).await;
            facts.extend(facts_of(&batch, first));
            rows += batch.rows_len() as u64;
        }
    }
    (facts, rows)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_with_other_splits_write_the_same_cells_and_end_equal_to_the_oracle() {
    let (_wires, east, west) = east_and_west(1).await;
    east.create_table("t", &["m", "n"], &["h"]).await;
    west.create_table("t", &["m", "n"], &["d", "m"]).await;
    let enabled = east.replicator.enable("t", "west").await.unwrap();
    assert!(!enabled.created_at_peer && enabled.families_added.is_empty());
    let ((mut facts, east_rows), (west_facts, west_rows)) =
        tokio::join!(write_randomly(&east, "t", 250, 11), write_randomly(&west, "t", 250, 12),);
    facts.extend(west_facts);
    until_equal("t", &[&east, &west]).await;
    let expected = visible(facts);
    assert!(!expected.is_empty());
    assert_eq!(east.cells("t"), expected);
    assert_eq!(west.cells("t"), expected);
    // O13, INV-41: what was written here was shipped, once; nothing came back.
    let (at_east, at_west) = (east.status("t").await, west.status("t").await);
    assert_eq!(at_east.outgoing.rows_shipped, east_rows);
    assert_eq!(at_west.outgoing.rows_shipped, west_rows);
    assert_eq!((at_east.incoming.duplicates, at_west.incoming.duplicates), (0, 0));
    assert_eq!(
        (at_east.state, at_west.state),
        (StreamState::Streaming, StreamState::Streaming)
    );
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_lost_answers_and_reordering_change_nothing() {
    let (wires, east, west) = east_and_west(2).await;
    for (from, to) in [("east", "west"), ("west", "east")] {
        let wire = wires.wire(from, to);
        wire.double.store(true, Ordering::Relaxed);
        wire.lose_answer_each.store(7, Ordering::Relaxed);
        wire.delay_ms_max.store(20, Ordering::Relaxed);
    }
    east.create_table("t", &["m", "n"], &["h"]).await;
    assert!(east.replicator.enable("t", "west").await.unwrap().created_at_peer);
    west.table_ready("t").await;
    let ((mut facts, east_rows), (west_facts, west_rows)) =
        tokio::join!(write_randomly(&east, "t", 150, 21), write_randomly(&west, "t", 150, 22),);
    facts.extend(west_facts);
    until_equal("t", &[&east, &west]).await;
    let expected = visible(facts);
    assert_eq!(east.cells("t"), expected);
    assert_eq!(west.cells("t"), expected);
    let (at_east, at_west) = (east.status("t").await, west.status("t").await);
    assert!(at_west.incoming.duplicates > 0 && at_east.incoming.duplicates > 0);
    // Applied once each, although every message came twice and more. The same splits: a row here is a row there.
    assert_eq!(at_west.incoming.rows_applied, east_rows);
    assert_eq!(at_east.incoming.rows_applied, west_rows);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_regions_in_a_mesh_ship_each_write_once_over_each_link() {
    let wires = Wires::new(3);
    let mut regions = Vec::new();
    for (name, number) in [("east", 1), ("west", 2), ("north", 3)] {
        regions.push(Region::start(name, number, &wires, tablet_settings()).await);
    }
    for a in &regions {
        for b in regions.iter().filter(|b| b.id != a.id) {
            a.add_peer(b).await;
        }
    }
    let [east, west, north] = &regions[..] else {
        unreachable!()
    };
    east.create_table("t", &["m", "n"], &["h"]).await;
    east.replicator.enable("t", "west").await.unwrap();
    east.replicator.enable("t", "north").await.unwrap();
    west.replicator.enable("t", "north").await.unwrap();
    let ((mut facts, rows_e), (facts_w, rows_w), (facts_n, rows_n)) = tokio::join!(
        write_randomly(east, "t", 80, 31),
        write_randomly(west, "t", 80, 32),
        write_randomly(north, "t", 80, 33),
    );
    facts.extend(facts_w.into_iter().chain(facts_n));
    until_equal("t", &[east, west, north]).await;
    let expected = visible(facts);
    for region in [east, west, north] {
        assert_eq!(region.cells("t"), expected, "{}", region.name);
    }
    for (from, rows) in [(east, rows_e), (west, rows_w), (north, rows_n)] {
        for to in regions.iter().filter(|to| to.id != from.id) {
            let shipped = from.status_with("t", &to.name).await.outgoing.rows_shipped;
            assert_eq!(shipped, rows, "{} ships what was written there, once", from.name);
            let incoming = to.status_with("t", &from.name).await.incoming;
            assert_eq!((incoming.rows_applied, incoming.duplicates), (rows, 0));
        }
    }
    for region in regions {
        region.stop().await;
    }
}

/// O12: a reader at the peer sees all cells of a row mutation or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_mutation_is_atomic_at_the_peer() {
    const CELLS: usize = 8;
    let (_wires, east, west) = east_and_west(4).await;
    east.create_table("t", &["m"], &["h"]).await;
    east.replicator.enable("t", "west").await.unwrap();
    west.table_ready("t").await;
    let done = Arc::new(AtomicBool::new(false));
    let watch = {
        let (tablets, done) = (west.tablets("t"), done.clone());
        tokio::task::spawn_blocking(move || {
            let (mut rows_seen, mut last_round) = (0u64, false);
            loop {
                for tablet in &tablets {
                    let engine = tablet.engine();
                    let mut cursor = engine.read(&tidemark_base::ReadSpec::default(), 0).unwrap();
                    let mut row: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
                    let mut check = |row: &mut Vec<(Vec<u8>, Vec<u8>)>| {
                        if !row.is_empty() {
                            assert_eq!(row.len(), CELLS, "a part of a row mutation");
                            assert!(
                                row.iter().all(|cell| cell.1 == row[0].1),
                                "a mixture of two row mutations: {row:?}"
                            );
                            rows_seen += 1;
                        }
                        row.clear();
                    };
                    while cursor.advance().unwrap() {
                        if cursor.is_row_start() {
                            check(&mut row);
                        }
                        let cell = cursor.cell();
                        row.push((cell.row.to_vec(), cell.value.to_vec()));
                    }
                    check(&mut row);
                }
                if last_round {
                    return rows_seen;
                }
                last_round = done.load(Ordering::Relaxed);
            }
        })
    };
    for n in 0..200 {
        let mut batch = BatchBuilder::new();
        for row in ["a", "b", "c"] {
            batch.begin_row(row.as_bytes()).unwrap();
            for column in 0..CELLS {
                let qualifier = [b'a' + column as u8];
                batch
                    .put(family("m"), &qualifier, 1, format!("{n}").as_bytes())
                    .unwrap();
            }
            batch.end_row().unwrap();
        }
        east.write("t", &batch.finish().unwrap()).await;
    }
    until_equal("t", &[&east, &west]).await;
    done.store(true, Ordering::Relaxed);
    assert!(watch.await.unwrap() > 0);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_goes_away_and_comes_back_gets_what_it_lacks() {
    let (wires, east, west) = east_and_west(5).await;
    east.create_table("t", &["m"], &["h"]).await;
    east.replicator.enable("t", "west").await.unwrap();
    east.put("t", "a", "m", "1").await;
    until_equal("t", &[&east, &west]).await;
    wires.wire("east", "west").cut.store(true, Ordering::Relaxed);
    for n in 0..50 {
        east.put("t", &format!("b{n}"), "m", "2").await;
    }
    let blocked = east
        .until_status("t", "blocked, and late", |link| {
            link.state == StreamState::Blocked && link.outgoing.lag_ms > 500
        })
        .await;
    assert!(blocked.cause.contains("west") && !blocked.action.is_empty());
    assert!(blocked.outgoing.backlog_records > 0 && blocked.outgoing.backlog_bytes > 0);
    // The lag of a stuck stream grows with time, and nothing else (R23).
    let before = east.status("t").await.outgoing.lag_ms;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = east.status("t").await.outgoing.lag_ms;
    assert!(after >= before + 250, "{before} -> {after}");
    // The survivor knows what it would miss: what it last heard grows older.
    let lacking = west.status("t").await.incoming;
    assert!(lacking.rpo_known && lacking.rpo_ms >= 500, "{lacking:?}");
    wires.wire("east", "west").cut.store(false, Ordering::Relaxed);
    until_equal("t", &[&east, &west]).await;
    let healed = east
        .until_status("t", "streaming", |link| link.state == StreamState::Streaming)
        .await;
    assert_eq!((healed.outgoing.lag_ms, healed.cause.as_str()), (0, ""));
    until("the survivor hears again", || {
        let heard = west.replicator.node_report().heard;
        heard.len() == 2 && heard.iter().all(|stream| stream.rpo_ms < 500)
    })
    .await;
    east.stop().await;
    west.stop().await;
}

/// Idle streams go on saying that nothing is missing, and everything shipped is trimmed from the feed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_streams_are_right_and_their_feeds_short() {
    let (_wires, east, west) = east_and_west(6).await;
    east.create_table("t", &["m"], &[]).await;
    east.replicator.enable("t", "west").await.unwrap();
    east.write("t", &cell("a", "m", "1")).await;
    until_equal("t", &[&east, &west]).await;
    let first = west
        .until_status("t", "complete", |link| link.incoming.complete_micros > 0)
        .await;
    let later = west
        .until_status("t", "the watermark goes on without writes", |link| {
            link.incoming.complete_micros > first.incoming.complete_micros + 200_000
        })
        .await;
    assert_eq!(later.incoming.complete_micros, later.incoming.applied_micros);
    assert!(later.incoming.rpo_known);
    let shipped = east.status("t").await.outgoing;
    assert_eq!((shipped.lag_ms, shipped.rows_shipped), (0, 1));
    until("the feed is trimmed", || {
        let state = east.tablets("t")[0].replication_state();
        // Of an empty feed the first is behind the last.
        state.feed_first_seq > 3 && state.feed_last_seq < state.feed_first_seq + 10
    })
    .await;
    assert!(
        east.metrics
            .encode()
            .contains("tidemark_replication_lag_ms{table=\"t\",peer=\"west\"} 0")
    );
    east.stop().await;
    west.stop().await;
}

/// Leaders crash on both sides while writes and messages are under way: positions that were not written down are shipped
/// again, and recognised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_of_leaders_lose_and_double_nothing() {
    let (_wires, east, west) = east_and_west(7).await;
    east.create_table("t", &["m", "n"], &["h"]).await;
    east.replicator.enable("t", "west").await.unwrap();
    west.table_ready("t").await;
    let (mut facts, mut rows) = (Vec::new(), 0);
    for round in 0..4 {
        let (written, count) = write_randomly(&east, "t", 40, 70 + round).await;
        facts.extend(written);
        rows += count;
        if round % 2 == 0 { &east } else { &west }.restart_tablets().await;
        for region in [&east, &west] {
            region.table_ready("t").await;
        }
    }
    until_equal("t", &[&east, &west]).await;
    let expected = visible(facts);
    assert_eq!(east.cells("t"), expected);
    assert_eq!(west.cells("t"), expected);
    assert_eq!(west.status("t").await.incoming.rows_applied, rows);
    east.stop().await;
    west.stop().await;
}
