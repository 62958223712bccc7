//! What a region takes and refuses when it is asked directly, as a peer with a defect or of another release would.

use crate::support::{Region, cell, east_and_west};
use bytes::Bytes;
use tidemark_base::{Error, ErrorKind, RegionId, RowRange, Stamp, TabletId};
use tidemark_replication::run::{RunRecord, encode_run};
use tidemark_replication::settings::RUN_BYTES_MAX;
use tidemark_replication::{RegionIdentity, Ship, ShipCodec};
use tidemark_runtime::Clock;
use tidemark_tablet::FeedEntry;

fn record(seq: u64, body: Bytes) -> RunRecord {
    RunRecord {
        seq,
        body,
        unreadable: None,
    }
}

/// A record with one row, stamped now by east.
fn write(region: &Region, seq: u64, row: &str) -> RunRecord {
    let first = Stamp {
        epoch: 0,
        hlc: (region.clock.now_ms() << 16) + seq,
        region: RegionId(1),
    };
    let entry = FeedEntry::Write {
        first,
        offsets: None,
        batch: cell(row, "m", "v"),
    };
    record(seq, entry.encode())
}

/// As east would ship it over the link that there is.
fn ship(west: &Region, records: &[RunRecord]) -> Ship {
    let view = west.view();
    let table = view.table("t").unwrap();
    let run = encode_run(records);
    Ship {
        from: RegionIdentity {
            name: "east".into(),
            region: RegionId(1),
        },
        table: "t".into(),
        from_table: table.links["east"].peer_table.unwrap(),
        to_table: table.id,
        tablet: TabletId(77),
        range: RowRange::all(),
        first_seq: 1,
        last_seq: records.last().unwrap().seq,
        codec: ShipCodec::None,
        records_bytes: run.len() as u64,
        records: run.into(),
        lag_ms: 5,
        lag_known: true,
    }
}

/// East and west, linked. East ships its own streams meanwhile; the tests speak of one that it does not have.
async fn linked(seed: u64) -> (Region, Region) {
    let (_wires, east, west) = east_and_west(seed).await;
    east.create_table("t", &["m"], &["h"]).await;
    east.replicator.enable("t", "west").await.unwrap();
    west.table_ready("t").await;
    (east, west)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_damaged_messages_are_refused_and_nothing_is_taken() {
    let (east, west) = linked(1).await;
    let good = ship(&west, &[write(&east, 1, "a"), write(&east, 2, "z")]);
    let refused = async |change: &dyn Fn(&mut Ship)| -> Error {
        let mut bad = good.clone();
        change(&mut bad);
        west.replicator.on_ship(bad).await.unwrap_err()
    };
    let reason = async |change: &dyn Fn(&mut Ship)| refused(change).await.reason().to_owned();
    assert_eq!(reason(&|ship| ship.from.name = "nord".into()).await, "PEER_UNKNOWN");
    assert_eq!(reason(&|ship| ship.from.region = RegionId(3)).await, "PEER_MISMATCH");
    assert_eq!(reason(&|ship| ship.table = "u".into()).await, "LINK_MISSING");
    assert_eq!(reason(&|ship| ship.from_table.0 += 1).await, "LINK_STALE");
    assert_eq!(reason(&|ship| ship.to_table.0 += 1).await, "LINK_STALE");
    assert_eq!(reason(&|ship| ship.first_seq = 0).await, "RUN_DAMAGED");
    assert_eq!(reason(&|ship| ship.first_seq = 2).await, "RUN_DAMAGED");
    assert_eq!(reason(&|ship| ship.last_seq = 3).await, "RUN_DAMAGED");
    assert_eq!(reason(&|ship| ship.records_bytes += 1).await, "RUN_DAMAGED");
    assert_eq!(reason(&|ship| ship.codec = ShipCodec::Zstd).await, "RUN_DAMAGED");
    let too_large = reason(&|ship| ship.records_bytes = RUN_BYTES_MAX as u64 + 1).await;
    assert_eq!(too_large, "RUN_TOO_LARGE");
    let busy = refused(&|ship| ship.records_bytes = u64::MAX).await;
    assert_eq!((busy.kind(), busy.delay().is_some()), (ErrorKind::Busy, true));
    let unlinked = refused(&|ship| ship.table = "u".into()).await;
    assert_eq!(unlinked.kind(), ErrorKind::FailedPrecondition);
    assert!(west.cells("t").is_empty());
    let taken = west.replicator.on_ship(good.clone()).await.unwrap();
    assert_eq!((taken.applied_seq, taken.rows_quarantined), (2, 0));
    assert_eq!(west.cells("t").len(), 2);
    east.stop().await;
    west.stop().await;
}

/// R17: one bad record neither stops the stream nor is skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_is_kept_aside_once_and_the_rest_flows() {
    let (east, west) = linked(2).await;
    let mut lost = record(3, Bytes::from_static(b"lost"));
    lost.unreadable = Some("its origin could not read it".into());
    let torn = record(2, Bytes::from_static(b"\x01torn"));
    let message = ship(&west, &[write(&east, 1, "a"), torn, lost, write(&east, 4, "z")]);
    let taken = west.replicator.on_ship(message.clone()).await.unwrap();
    assert_eq!((taken.applied_seq, taken.rows_quarantined), (4, 2));
    assert_eq!(west.cells("t").len(), 2);
    let again = west.replicator.on_ship(message).await.unwrap();
    assert_eq!((again.applied_seq, again.rows_quarantined), (4, 2));
    let incoming = west.status("t").await.incoming;
    assert_eq!(
        (incoming.rows_quarantined, incoming.rows_applied, incoming.duplicates),
        (2, 2, 1)
    );
    // Kept once, and waited for by both tablets: it may hold rows of either (INV-40).
    let tablets = west.tablets("t");
    let mut entries = Vec::new();
    for tablet in &tablets {
        entries.extend(tablet.quarantine(None, 10).await.unwrap().entries);
    }
    let kept: Vec<&str> = entries
        .iter()
        .filter(|e| e.rows > 0)
        .map(|e| e.cause.as_str())
        .collect();
    assert_eq!((kept.len(), entries.len()), (2, 4), "{entries:?}");
    assert!(
        kept.iter().any(|cause| cause.contains("its origin could not read it")),
        "{kept:?}"
    );
    for tablet in &tablets {
        let state = tablet.replication_state();
        let bad = state.streams.iter().find(|(id, _)| id.tablet == 77).unwrap().1;
        assert_eq!(bad.contiguous_seq, 4);
        assert!(
            bad.complete_hlc < bad.applied_hlc,
            "the record lies below applied, so complete stays below it: {bad:?}"
        );
    }
    east.stop().await;
    west.stop().await;
}
