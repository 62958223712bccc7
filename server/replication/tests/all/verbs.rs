//! Switching on and off, and the states that an operator meets: refusals with the next command, repeats after a crash at
//! each step, pause, quarantine, clocks.

use crate::support::{Region, Wires, east_and_west, tablet_settings, until, until_equal};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_base::ErrorKind;
use tidemark_catalog::{Command, LinkState, PeerRecord};
use tidemark_replication::StreamState;

fn link_state(region: &Region, table: &str, peer: &str) -> Option<LinkState> {
    let view = region.view();
    view.table(table)?.links.get(peer).map(|link| link.state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enabling_creates_the_table_with_the_same_tablets_and_families() {
    let (_wires, east, west) = east_and_west(1).await;
    east.create_table("t", &["m", "n"], &["h", "p"]).await;
    let enabled = east.replicator.enable("t", "west").await.unwrap();
    assert!(enabled.created_at_peer);
    west.table_ready("t").await;
    let ids = |region: &Region| -> Vec<u32> {
        let view = region.view();
        let families = &view.table("t").unwrap().families;
        families.iter().map(|family| family.settings.id.0).collect()
    };
    assert_eq!(ids(&east), ids(&west));
    let starts: Vec<Vec<u8>> = west
        .tablets("t")
        .iter()
        .map(|t| t.descriptor().range.start.to_vec())
        .collect();
    assert_eq!(starts, [b"".to_vec(), b"h".to_vec(), b"p".to_vec()]);
    assert_eq!(link_state(&east, "t", "west"), Some(LinkState::Enabled));
    assert_eq!(link_state(&west, "t", "east"), Some(LinkState::Enabled));
    // Again: nothing to do, nothing refused, although there are rows by now.
    west.put("t", "a", "m", "1").await;
    until_equal("t", &[&east, &west]).await;
    assert_eq!(east.replicator.enable("t", "west").await.unwrap(), Default::default());
    assert_eq!(west.replicator.enable("t", "east").await.unwrap(), Default::default());
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_name_the_next_command_and_change_nothing() {
    let wires = Wires::new(2);
    let east = Region::start("east", 1, &wires, tablet_settings()).await;
    let west = Region::start("west", 2, &wires, tablet_settings()).await;
    east.create_table("t", &["m"], &["h"]).await;
    let refused = |error: tidemark_base::Error, reason: &str, action: &str| {
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.next_action().contains(action), "{error}");
    };
    let enable = || east.replicator.enable("t", "west");
    assert_eq!(
        east.replicator.enable("nope", "west").await.unwrap_err().reason(),
        "TABLE_UNKNOWN"
    );
    refused(enable().await.unwrap_err(), "PEER_UNKNOWN", "tidemark peer add west");
    east.add_peer(&west).await;
    let action = "run in region west: tidemark peer add east --region 1 --addresses east.example:7311";
    refused(enable().await.unwrap_err(), "PEER_DOES_NOT_KNOW_US", action);
    west.add_peer(&east).await;
    // Rows at the peer.
    west.create_table("t", &["m"], &[]).await;
    west.put("t", "a", "m", "1").await;
    refused(enable().await.unwrap_err(), "TABLE_NOT_EMPTY", "tidemark export t");
    west.catalog
        .execute(Command::DropTable { name: "t".into() })
        .await
        .unwrap();
    // Rows here.
    east.put("t", "x", "m", "1").await;
    refused(enable().await.unwrap_err(), "TABLE_NOT_EMPTY", "tidemark export t");
    assert_eq!(link_state(&east, "t", "west"), None);
    assert!(west.view().table("t").is_none(), "a dry run creates nothing");
    assert!(
        east.tablets("t")
            .iter()
            .all(|tablet| tablet.schema().unwrap().peers.is_empty())
    );
    // A name for another region.
    let wrong = PeerRecord {
        name: "west".into(),
        region: tidemark_base::RegionId(7),
        addresses: vec!["west.example:7311".into()],
    };
    east.catalog
        .execute(Command::RemovePeer { name: "west".into() })
        .await
        .unwrap();
    east.catalog.execute(Command::PutPeer(wrong)).await.unwrap();
    refused(
        enable().await.unwrap_err(),
        "PEER_MISMATCH",
        "tidemark peer add west --region 2",
    );
    east.stop().await;
    west.stop().await;
}

/// The answer to step 3 is lost: the peer is on, this side does not know. Writes go on; the verb is run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enabling_again_after_a_lost_answer_loses_nothing() {
    let (wires, east, west) = east_and_west(3).await;
    east.create_table("t", &["m"], &["h"]).await;
    wires
        .wire("east", "west")
        .lose_prepare_answers
        .store(1, Ordering::Relaxed);
    let error = east.replicator.enable("t", "west").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error
            .next_action()
            .contains("tidemark replication enable t --peer west"),
        "{error}"
    );
    assert_eq!(link_state(&east, "t", "west"), Some(LinkState::Preparing));
    let status = east.status("t").await;
    assert_eq!(status.state, StreamState::Blocked);
    // Both sides take writes; the peer's stream is refused until this side has finished, and says why.
    east.put("t", "a", "m", "east").await;
    west.put("t", "z", "m", "west").await;
    let waiting = west
        .until_status("t", "refused", |link| {
            link.state == StreamState::Blocked && !link.cause.is_empty()
        })
        .await;
    assert!(waiting.cause.contains("has not finished"), "{}", waiting.cause);
    east.replicator.enable("t", "west").await.unwrap();
    until_equal("t", &[&east, &west]).await;
    assert_eq!(west.cells("t").len(), 2);
    east.stop().await;
    west.stop().await;
}

/// A repeat that is refused keeps the link, and with it the feed that the first call began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_repeat_keeps_the_feed() {
    let (wires, east, west) = east_and_west(9).await;
    east.create_table("t", &["m"], &["h"]).await;
    wires
        .wire("east", "west")
        .lose_prepare_answers
        .store(1, Ordering::Relaxed);
    east.replicator.enable("t", "west").await.unwrap_err();
    east.put("t", "a", "m", "written meanwhile").await;
    let drop_at_peer = async || {
        west.replicator.disable("t", "east", true).await.unwrap();
        let drop = Command::DropTable { name: "t".into() };
        west.catalog.execute(drop).await.unwrap();
    };
    drop_at_peer().await;
    west.create_table("t", &["m"], &[]).await;
    west.put("t", "b", "m", "in the way").await;
    let refused = east.replicator.enable("t", "west").await.unwrap_err();
    assert_eq!(refused.reason(), "TABLE_NOT_EMPTY");
    assert!(refused.next_action().contains("nothing is lost: repeat"), "{refused}");
    assert_eq!(link_state(&east, "t", "west"), Some(LinkState::Preparing));
    drop_at_peer().await;
    east.replicator.enable("t", "west").await.unwrap();
    until_equal("t", &[&east, &west]).await;
    assert_eq!(west.cells("t").len(), 1, "what was written before the refusal has come");
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabling_ends_both_sides_and_an_empty_table_can_be_enabled_again() {
    let (wires, east, west) = east_and_west(4).await;
    east.create_table("t", &["m"], &[]).await;
    east.replicator.enable("t", "west").await.unwrap();
    west.table_ready("t").await;
    // Close markers are shipped meanwhile: the stream has a history when it ends.
    until("the peer has heard of the stream", || {
        !west.replicator.node_report().heard.is_empty()
    })
    .await;
    east.replicator.disable("t", "west", false).await.unwrap();
    assert_eq!(
        (link_state(&east, "t", "west"), link_state(&west, "t", "east")),
        (None, None)
    );
    until("no peer is left", || {
        [&east, &west]
            .iter()
            .all(|region| region.tablets("t")[0].schema().unwrap().peers.is_empty())
    })
    .await;
    east.replicator.disable("t", "west", false).await.unwrap();
    east.replicator.enable("t", "west").await.unwrap();
    east.put("t", "a", "m", "1").await;
    west.put("t", "b", "m", "2").await;
    until_equal("t", &[&east, &west]).await;
    assert_eq!(east.cells("t").len(), 2);
    let complete = west
        .until_status("t", "complete", |link| link.incoming.complete_micros > 0)
        .await;
    assert_eq!(complete.incoming.rows_applied, 1);
    // Unreachable: only here, and the peer's stream says what it meets.
    wires.wire("east", "west").cut.store(true, Ordering::Relaxed);
    let error = east.replicator.disable("t", "west", false).await.unwrap_err();
    assert!(error.next_action().contains("--local-only"), "{error}");
    assert_eq!(link_state(&east, "t", "west"), Some(LinkState::Enabled));
    east.replicator.disable("t", "west", true).await.unwrap();
    west.put("t", "c", "m", "3").await;
    let missing = west
        .until_status("t", "link missing", |link| link.state == StreamState::Blocked)
        .await;
    assert!(missing.cause.contains("no link"), "{}", missing.cause);
    wires.wire("east", "west").cut.store(false, Ordering::Relaxed);
    let rows = east.replicator.enable("t", "west").await.unwrap_err();
    assert_eq!(rows.reason(), "TABLE_NOT_EMPTY");
    // The other side has a link that this one has not: neither may go on as if nothing had happened.
    let stale = west.replicator.enable("t", "east").await.unwrap_err();
    assert_eq!(stale.reason(), "LINK_STALE");
    assert!(
        stale
            .next_action()
            .contains("in region west: tidemark replication disable t --peer east --local-only")
    );
    east.catalog
        .execute(Command::DropTable { name: "t".into() })
        .await
        .unwrap();
    east.create_table("t", &["m"], &[]).await;
    let stale = east.replicator.enable("t", "west").await.unwrap_err();
    assert_eq!(stale.reason(), "LINK_STALE", "{stale}");
    west.replicator.disable("t", "east", true).await.unwrap();
    let rows = east.replicator.enable("t", "west").await.unwrap_err();
    assert_eq!(rows.reason(), "TABLE_NOT_EMPTY", "the peer's rows");
    assert_eq!(link_state(&east, "t", "west"), None);
    east.stop().await;
    west.stop().await;
}

/// The peer's tablets are others after its table was created again: what was heard and taken of the old ones is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_with_a_table_created_again_begins_anew() {
    let (_wires, east, west) = east_and_west(10).await;
    east.create_table("t", &["m"], &[]).await;
    east.replicator.enable("t", "west").await.unwrap();
    west.table_ready("t").await;
    until("the peer has taken part of the stream", || {
        let taken = |tablet: &tidemark_tablet::Tablet| !tablet.replication_state().streams.is_empty();
        !west.replicator.node_report().heard.is_empty() && west.tablets("t").iter().all(taken)
    })
    .await;
    east.replicator.disable("t", "west", false).await.unwrap();
    east.catalog
        .execute(Command::DropTable { name: "t".into() })
        .await
        .unwrap();
    east.create_table("t", &["m"], &[]).await;
    east.replicator.enable("t", "west").await.unwrap();
    east.put("t", "a", "m", "1").await;
    until_equal("t", &[&east, &west]).await;
    let since = tidemark_runtime::Clock::now_micros(&*west.clock);
    // Both move on beyond this moment: nothing of the earlier stream holds them.
    west.until_status("t", "complete and rpo move", |link| {
        link.incoming.complete_micros > since + 1_500_000 && link.incoming.rpo_known && link.incoming.rpo_ms < 1_000
    })
    .await;
    assert_eq!(west.replicator.node_report().heard.len(), 1);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_link_keeps_its_feed_and_its_lag() {
    let (_wires, east, west) = east_and_west(5).await;
    east.create_table("t", &["m"], &["h"]).await;
    east.replicator.enable("t", "west").await.unwrap();
    east.put("t", "a", "m", "1").await;
    until_equal("t", &[&east, &west]).await;
    east.replicator.pause("t", "west").await.unwrap();
    // The link says so at once; its streams have to hear of it.
    let paused = east
        .until_status("t", "paused", |link| {
            link.state == StreamState::Paused && link.streams.iter().all(|stream| stream.state == StreamState::Paused)
        })
        .await;
    assert!(paused.action.contains("tidemark replication resume t --peer west"));
    east.put("t", "b", "m", "2").await;
    // The other direction goes on.
    west.put("t", "c", "m", "3").await;
    until("the other direction flows", || east.cells("t").len() == 3).await;
    let late = east
        .until_status("t", "the lag grows", |link| link.outgoing.lag_ms > 700)
        .await;
    assert_eq!(late.state, StreamState::Paused);
    assert_eq!(west.cells("t").len(), 2);
    assert!(
        west.status("t").await.incoming.rpo_ms > 600,
        "the survivor knows as well"
    );
    east.replicator.resume("t", "west").await.unwrap();
    until_equal("t", &[&east, &west]).await;
    east.until_status("t", "streaming", |link| {
        link.state == StreamState::Streaming && link.outgoing.lag_ms == 0
    })
    .await;
    east.stop().await;
    west.stop().await;
}

/// R17: what cannot be applied waits aside and holds `complete`, the rest flows, and it drains by itself.
/// Checks INV-40: complete stays below what waits, applied goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_family_waits_in_quarantine_and_drains_by_itself() {
    let (_wires, east, west) = east_and_west(6).await;
    east.create_table("t", &["m"], &["h"]).await;
    east.replicator.enable("t", "west").await.unwrap();
    west.table_ready("t").await;
    east.add_family("t", "late").await;
    east.put("t", "a", "late", "held").await;
    east.put("t", "b", "m", "flows").await;
    until("the known family flows", || west.cells("t").len() == 1).await;
    let held = west
        .until_status("t", "applied passes complete", |link| {
            link.incoming.rows_quarantined == 1 && link.incoming.applied_micros > link.incoming.complete_micros
        })
        .await;
    assert!(held.incoming.complete_micros > 0);
    // The origin counts it as lag: its peer does not have that write.
    let origin = east
        .until_status("t", "the origin says so", |link| link.outgoing.lag_ms > 500)
        .await;
    assert!(origin.cause.contains("quarantine"), "{origin:#?}");
    west.add_family("t", "late").await;
    until_equal("t", &[&east, &west]).await;
    assert_eq!(west.cells("t").len(), 2);
    west.until_status("t", "complete follows", |link| {
        link.incoming.rows_quarantined == 0 && link.incoming.complete_micros == link.incoming.applied_micros
    })
    .await;
    east.until_status("t", "and the origin's lag ends", |link| {
        link.outgoing.lag_ms == 0 && link.cause.is_empty()
    })
    .await;
    east.stop().await;
    west.stop().await;
}

/// R8: stamps from the future are not taken; the stream parks visibly and goes on when the clocks agree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stamps_from_the_future_park_the_stream() {
    let (_wires, east, west) = east_and_west(7).await;
    east.create_table("t", &["m"], &["h"]).await;
    east.replicator.enable("t", "west").await.unwrap();
    west.table_ready("t").await;
    east.skew(Duration::from_secs(3_600));
    east.put("t", "a", "m", "from the future").await;
    let parked = east
        .until_status("t", "parked", |link| link.cause.contains("clock quarantine"))
        .await;
    assert_eq!(parked.state, StreamState::Blocked);
    assert!(west.cells("t").is_empty());
    let hlc_max = west
        .tablets("t")
        .iter()
        .map(|tablet| tablet.replication_state().hlc_max)
        .max();
    let ahead = Duration::from_secs(1_800).as_millis() as u64;
    let now_ms = tidemark_runtime::Clock::now_ms(&*west.clock);
    assert!(hlc_max.unwrap() >> 16 < now_ms + ahead, "the local clock was not moved");
    west.skew(Duration::from_secs(3_600));
    until_equal("t", &[&east, &west]).await;
    assert_eq!(west.cells("t").len(), 1);
    east.stop().await;
    west.stop().await;
}

/// A tablet without a leader has no stream and no report: its lag is bounded from above, never 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tablet_that_nobody_leads_is_shown_as_blocked() {
    let (_wires, east, west) = east_and_west(8).await;
    east.create_table("t", &["m"], &["h"]).await;
    east.replicator.enable("t", "west").await.unwrap();
    east.put("t", "a", "m", "1").await;
    until_equal("t", &[&east, &west]).await;
    let well = east.status("t").await;
    assert!(well.outgoing.lag_known && well.outgoing.lag_ms == 0);
    east.tablets("t")[1].stop().await;
    let lost = east
        .until_status("t", "blocked", |link| {
            !link.outgoing.lag_known && link.outgoing.lag_ms > 300
        })
        .await;
    assert_eq!(lost.state, StreamState::Blocked);
    assert!(lost.cause.contains("leads the tablet"), "{lost:#?}");
    assert_eq!(lost.streams.len(), 2);
    east.stop().await;
    west.stop().await;
}
