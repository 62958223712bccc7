//! Links and what they join: one table of each region, alike, and never a later one of the same name (INV-42); and that a
//! link flows soon after whatever held it up has gone.

use crate::support::{Region, Wires, cell, east_and_west, replication, tablet_settings, until, until_equal};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_base::{BatchBuilder, FamilyId, RegionId, RowRange, Stamp, TableId, TabletId};
use tidemark_catalog::{Command, FamilySpec};
use tidemark_replication::run::{RunRecord, encode_run};
use tidemark_replication::{RegionIdentity, ReplicationSettings, Ship, ShipCodec, StreamState};
use tidemark_runtime::Clock;
use tidemark_tablet::FeedEntry;

/// A message with one row, as a tablet of east's table shipped it to west's; it may have been under way for long.
fn under_way(east: &Region, from_table: TableId, to_table: TableId) -> Ship {
    let first = Stamp {
        epoch: 0,
        hlc: east.clock.now_ms() << 16,
        region: RegionId(1),
    };
    let entry = FeedEntry::Write {
        first,
        offsets: None,
        batch: cell("old", "m", "of an earlier table"),
    };
    let run = encode_run(&[RunRecord {
        seq: 1,
        body: entry.encode(),
        unreadable: None,
    }]);
    Ship {
        from: RegionIdentity {
            name: "east".into(),
            region: RegionId(1),
        },
        table: "t".into(),
        from_table,
        to_table,
        tablet: TabletId(77),
        range: RowRange::all(),
        first_seq: 1,
        last_seq: 1,
        codec: ShipCodec::None,
        records_bytes: run.len() as u64,
        records: run.into(),
        lag_ms: 0,
        lag_known: true,
    }
}

fn table_id(region: &Region) -> TableId {
    region.view().table("t").unwrap().id
}

async fn drop_table(region: &Region) {
    let drop = Command::DropTable { name: "t".into() };
    region.catalog.execute(drop).await.unwrap();
}

/// INV-42: dropped and created again in both regions, in the target, in the origin: what was under way stays out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_an_earlier_table_is_never_taken_for_the_present_one() {
    let (_wires, east, west) = east_and_west(21).await;
    east.create_table("t", &["m"], &[]).await;
    east.replicator.enable("t", "west").await.unwrap();
    west.table_ready("t").await;
    for (drop_east, drop_west) in [(true, true), (false, true), (true, false)] {
        let late = under_way(&east, table_id(&east), table_id(&west));
        east.replicator.disable("t", "west", false).await.unwrap();
        if drop_east {
            drop_table(&east).await;
            east.create_table("t", &["m"], &[]).await;
        }
        if drop_west {
            drop_table(&west).await;
        }
        east.replicator.enable("t", "west").await.unwrap();
        west.table_ready("t").await;
        let refused = west.replicator.on_ship(late).await.unwrap_err();
        assert_eq!(refused.reason(), "LINK_STALE", "{refused}");
        assert!(west.cells("t").is_empty() && west.facts("t").is_empty());
        let now = under_way(&east, table_id(&east), table_id(&west));
        let heard = west.replicator.node_report().heard;
        assert!(
            heard.iter().all(|stream| stream.tablet != now.tablet.0),
            "nothing was heard of it either"
        );
    }
    // The link that there is works.
    east.put("t", "a", "m", "1").await;
    until_equal("t", &[&east, &west]).await;
    assert_eq!(west.cells("t").len(), 1);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_that_only_the_peer_has_are_created_here() {
    let (_wires, east, west) = east_and_west(22).await;
    east.create_table("t", &["m", "east"], &[]).await;
    west.create_table("t", &["m", "west"], &["k"]).await;
    let enabled = east.replicator.enable("t", "west").await.unwrap();
    assert_eq!(enabled.families_added, ["east"]);
    assert_eq!(enabled.families_added_here, ["west"]);
    west.put("t", "a", "west", "1").await;
    east.put("t", "z", "east", "2").await;
    until_equal("t", &[&east, &west]).await;
    assert_eq!(east.cells("t").len(), 2);
    // Later ones too, with a repeat.
    west.add_family("t", "late").await;
    let again = east.replicator.enable("t", "west").await.unwrap();
    assert_eq!(again.families_added_here, ["late"]);
    east.stop().await;
    west.stop().await;
}

/// R10, R11, O5: limits that differ would show different cells for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_with_other_limits_are_refused_and_nothing_changes() {
    let (_wires, east, west) = east_and_west(23).await;
    let month = FamilySpec {
        ttl_micros: Some(30 * 86_400_000_000),
        ..FamilySpec::new("m")
    };
    east.create_table("t", &["m"], &[]).await;
    west.create_table("t", &["m"], &[]).await;
    east.set_family("t", month.clone()).await;
    let refused = east.replicator.enable("t", "west").await.unwrap_err();
    assert_eq!(refused.reason(), "FAMILY_SETTINGS_DIFFER");
    assert_eq!(
        refused.message(),
        "family m: ttl is none in region west and 2592000000 ms in region east"
    );
    for region in [&east, &west] {
        assert!(region.view().table("t").unwrap().links.is_empty());
    }
    west.set_family("t", month).await;
    east.replicator.enable("t", "west").await.unwrap();
    // A repeat says whether they are still alike, and leaves the link as it is.
    west.set_family("t", FamilySpec::new("m")).await;
    let differ = east.replicator.enable("t", "west").await.unwrap_err();
    assert_eq!(differ.reason(), "FAMILY_SETTINGS_DIFFER");
    east.put("t", "a", "m", "1").await;
    until("the link works", || west.facts("t").len() == 1).await;
    east.stop().await;
    west.stop().await;
}

/// The peer's streams begin before this side has finished; they must not wait long after it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_flow_soon_after_an_unfinished_enable_is_finished() {
    let wires = Wires::new(24);
    let patient = ReplicationSettings {
        retry_delay_ms: 50,
        retry_delay_max_ms: 60_000,
        ..replication()
    };
    let east = Region::start_with("east", 1, &wires, tablet_settings(), patient.clone()).await;
    let west = Region::start_with("west", 2, &wires, tablet_settings(), patient).await;
    east.add_peer(&west).await;
    west.add_peer(&east).await;
    east.create_table("t", &["m"], &[]).await;
    let wire = wires.wire("east", "west");
    wire.lose_prepare_answers.store(1, Ordering::Relaxed);
    east.replicator.enable("t", "west").await.unwrap_err();
    west.put("t", "a", "m", "1").await;
    let waiting = west
        .until_status("t", "held up", |link| {
            link.state == StreamState::Blocked && link.outgoing.lag_ms > 2_500
        })
        .await;
    assert!(
        waiting.cause.contains("is switching replication on"),
        "{}",
        waiting.cause
    );
    let since = east.clock.monotonic();
    east.replicator.enable("t", "west").await.unwrap();
    until("the peer's row comes", || east.cells("t").len() == 1).await;
    // With doubled delays the next attempt would have come after six seconds and more.
    let took = east.clock.monotonic().saturating_sub(since);
    assert!(took < Duration::from_secs(4), "{took:?}");
    west.until_status("t", "streaming", |link| link.state == StreamState::Streaming)
        .await;
    east.stop().await;
    west.stop().await;
}

/// A tablet here that changes its leader does not send the origin away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_leaders_is_waited_for_at_the_target() {
    let (_wires, east, west) = east_and_west(25).await;
    east.create_table("t", &["m"], &[]).await;
    east.replicator.enable("t", "west").await.unwrap();
    west.table_ready("t").await;
    let ship = under_way(&east, table_id(&east), table_id(&west));
    west.gate.leaderless.store(true, Ordering::Relaxed);
    let gate = west.gate.clone();
    let elected = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(600)).await;
        gate.leaderless.store(false, Ordering::Relaxed);
    });
    let taken = west.replicator.on_ship(ship).await.unwrap();
    elected.await.unwrap();
    assert_eq!(taken.applied_seq, 1);
    assert!(
        west.gate.turned_away.load(Ordering::Relaxed) > 1,
        "it was asked for again"
    );
    // Who does not come back is not waited for for ever.
    west.gate.leaderless.store(true, Ordering::Relaxed);
    let mut next = under_way(&east, table_id(&east), table_id(&west));
    next.tablet = TabletId(78);
    let error = west.replicator.on_ship(next).await.unwrap_err();
    assert_eq!(error.reason(), "NO_LEADER");
    west.gate.leaderless.store(false, Ordering::Relaxed);
    east.stop().await;
    west.stop().await;
}

/// What is on its way to a peer is counted with the size that it has, however large one record is; and when there is no room
/// for another, it waits and comes later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_for_shipping_is_counted_and_bounded() {
    const MIB: usize = 1 << 20;
    let wires = Wires::new(26);
    let least = ReplicationSettings {
        ship_memory_bytes_max: 0,
        ..replication()
    };
    let east = Region::start_with("east", 1, &wires, tablet_settings(), least).await;
    let west = Region::start("west", 2, &wires, tablet_settings()).await;
    east.add_peer(&west).await;
    west.add_peer(&east).await;
    east.create_table("t", &["m"], &["c", "e", "g"]).await;
    east.replicator.enable("t", "west").await.unwrap();
    let wire = wires.wire("east", "west");
    wire.hold.store(true, Ordering::Relaxed);
    for row in ["a", "d", "f", "z"] {
        let mut batch = BatchBuilder::new();
        batch.begin_row(row.as_bytes()).unwrap();
        batch
            .put(FamilyId::derive("m", 0), b"q", 1, &vec![row.as_bytes()[0]; 7 * MIB])
            .unwrap();
        batch.end_row().unwrap();
        east.write("t", &batch.finish().unwrap()).await;
    }
    let used = || -> usize {
        let text = east.metrics.encode();
        let line = text
            .lines()
            .find(|line| line.starts_with("tidemark_replication_ship_memory_bytes{"));
        line.and_then(|line| line.rsplit(' ').next())
            .and_then(|number| number.parse::<f64>().ok())
            .unwrap_or(0.0) as usize
    };
    until("two records are held, by their size", || used() > 14 * MIB).await;
    for _ in 0..20 {
        assert!(used() <= 32 * MIB, "{} bytes are held", used());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    wire.hold.store(false, Ordering::Relaxed);
    until_equal("t", &[&east, &west]).await;
    assert_eq!(west.cells("t").len(), 4);
    until("everything is given back", || used() < MIB).await;
    east.stop().await;
    west.stop().await;
}
