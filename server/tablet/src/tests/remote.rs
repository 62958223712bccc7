//! Facts of a peer: order-free, idempotent, atomic per row, with a watermark that tells the truth.

use super::remote_support::*;
use super::support::*;
use crate::operation::drain;
use crate::remote::{RemotePart, UnreadableRecord};
use crate::stream::{AHEAD_MAX, StreamId};
use bytes::Bytes;
use tidemark_base::{BatchBuilder, RegionId, RowRange, Stamp, VersionRange};

#[test]
fn facts_keep_their_stamps_and_stay_out_of_the_feed() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    replica.write(5, puts(&[("a", "f", "mine")]));
    let outcome = take(&mut replica, &message(1, puts(&[("a", "f", "older"), ("b", "f", "x")]))).unwrap();
    assert_eq!((outcome.contiguous_seq, outcome.rows_applied), (1, 2));
    assert_eq!(outcome.complete_hlc, theirs(1).hlc + 100);
    assert_eq!(
        replica.value("a", "f").as_deref(),
        Some("mine"),
        "the greater stamp wins"
    );
    assert_eq!(replica.state.marks.feed_next, 2, "only what originated here (R14)");
    take(&mut replica, &message(9, puts(&[("a", "f", "newer")]))).unwrap();
    assert_eq!(replica.value("a", "f").as_deref(), Some("newer"));
    assert_eq!(replica.state.marks.hlc_max, theirs(9).hlc, "R7");
    assert_eq!(replica.state.marks.closed, stamp(5).hlc);
    assert_eq!(replica.state.marks.last_stamp, stamp(5));
}

#[test]
fn duplicates_and_gaps_move_only_what_they_should() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    let third = message(3, puts(&[("c", "f", "3")]));
    let outcome = take(&mut replica, &third).unwrap();
    assert_eq!(
        (outcome.contiguous_seq, outcome.complete_hlc, outcome.rows_applied),
        (0, 0, 1)
    );
    let again = take(&mut replica, &third).unwrap();
    assert!(again.duplicate && again.rows_applied == 0);
    // A message that covers 1..=3 again applies only what is missing.
    let mut wide = message(3, puts(&[("c", "f", "3")]));
    wide.first_seq = 1;
    wide.parts.insert(
        0,
        RemotePart {
            first: theirs(1),
            offsets: vec![2],
            batch: puts(&[("a", "f", "1")]),
            seq: 1,
        },
    );
    let outcome = take(&mut replica, &wide).unwrap();
    assert_eq!(
        (outcome.contiguous_seq, outcome.rows_applied, outcome.duplicate),
        (3, 1, false)
    );
    let shown = replica.state.publish(0).streams[&STREAM].clone();
    assert_eq!((shown.rows_applied, shown.applied_hlc), (2, theirs(3).hlc + 100));
    replica.crash();
    assert_eq!(replica.state.publish(0).streams[&STREAM], shown);
}

/// Messages overtake each other, so a delete may come before what it deletes (R4, R15).
#[test]
fn a_delete_hides_an_older_put_that_comes_behind_it() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    let mut builder = BatchBuilder::new();
    builder.begin_row(b"a").unwrap();
    builder.delete(tidemark_base::Scope::Row, VersionRange::ALL).unwrap();
    builder.end_row().unwrap();
    take(&mut replica, &message(2, builder.finish().unwrap())).unwrap();
    take(
        &mut replica,
        &message(1, puts(&[("a", "f", "deleted"), ("b", "f", "kept")])),
    )
    .unwrap();
    assert_eq!(
        replica.value("a", "f"),
        None,
        "a put came back that a newer delete covers"
    );
    take(&mut replica, &message(3, puts(&[("a", "f", "newer")]))).unwrap();
    assert_eq!(replica.value("a", "f").as_deref(), Some("newer"));
    assert_eq!(replica.value("b", "f").as_deref(), Some("kept"));
}

#[test]
fn a_window_too_wide_is_refused_and_takes_nothing() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    for n in 0..AHEAD_MAX as u64 {
        take(&mut replica, &message(2 + n * 2, puts(&[("a", "f", "x")]))).unwrap();
    }
    let before = replica.content();
    let error = take(
        &mut replica,
        &message(2 + AHEAD_MAX as u64 * 2, puts(&[("z", "f", "x")])),
    )
    .unwrap_err();
    assert_eq!(error.reason(), "STREAM_WINDOW");
    assert_eq!(replica.content().facts, before.facts);
    take(&mut replica, &message(1, puts(&[("a", "f", "x")]))).unwrap();
    take(
        &mut replica,
        &message(2 + AHEAD_MAX as u64 * 2, puts(&[("z", "f", "x")])),
    )
    .unwrap();
}

#[test]
fn strangers_are_refused() {
    let mut replica = Replica::with(&[RegionId(7)], &["f"]);
    let error = take(&mut replica, &message(1, puts(&[("a", "f", "x")]))).unwrap_err();
    assert_eq!(error.reason(), "PEER_NOT_LINKED");
    assert!(replica.view().is_empty());
    let mut replica = Replica::new();
    let error = take(&mut replica, &message(1, puts(&[("a", "f", "x")]))).unwrap_err();
    assert_eq!(error.reason(), "SCHEMA_PENDING");
}

#[test]
fn unknown_families_wait_whole_and_hold_the_complete_watermark() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    take(&mut replica, &message(1, puts(&[("a", "f", "1")]))).unwrap();
    // One row mutation with a known and an unknown family: atomic, so neither is seen (O12).
    let mut builder = BatchBuilder::new();
    builder.begin_row(b"b").unwrap();
    builder.put(family("f"), b"q", NOW, b"known").unwrap();
    builder.put(family("late"), b"q", NOW, b"unknown").unwrap();
    builder.end_row().unwrap();
    builder.begin_row(b"c").unwrap();
    builder.put(family("f"), b"q", NOW, b"fine").unwrap();
    builder.end_row().unwrap();
    let outcome = take(&mut replica, &message(2, builder.finish().unwrap())).unwrap();
    assert_eq!((outcome.rows_applied, outcome.rows_quarantined_now), (1, 1));
    assert_eq!(outcome.complete_hlc, theirs(2).hlc - 1, "what waits is not complete");
    assert_eq!(
        (replica.value("b", "f"), replica.value("c", "f").as_deref()),
        (None, Some("fine"))
    );
    take(&mut replica, &message(3, puts(&[("d", "f", "3")]))).unwrap();
    let shown = replica.state.publish(0);
    assert_eq!(
        shown.streams[&STREAM].applied_hlc,
        theirs(3).hlc + 100,
        "applied goes on"
    );
    assert_eq!(shown.streams[&STREAM].complete_hlc, theirs(2).hlc - 1, "complete waits");
    assert_eq!(
        shown.stable_cut(&shared_schema(&replica), &RowRange::all()),
        Stamp::MIN,
        "a pin"
    );
    replica.crash();

    replica.set_schema(schema(2, &[THERE], &["f", "late"]));
    assert_eq!(replica.value("b", "late").as_deref(), Some("unknown"));
    assert_eq!(replica.value("b", "f").as_deref(), Some("known"));
    let shown = replica.state.publish(0).streams[&STREAM].clone();
    assert_eq!((shown.quarantined_rows, shown.rows_applied), (0, 4));
    assert_eq!(shown.complete_hlc, shown.applied_hlc);
    let drained = replica.content();
    replica.crash();
    assert_eq!(replica.content(), drained);
}

#[test]
fn only_rows_whose_families_came_leave_the_quarantine() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    let batch = puts(&[("a", "x", "1"), ("b", "y", "2"), ("c", "f", "3"), ("d", "y", "4")]);
    take(&mut replica, &message(1, batch)).unwrap();
    assert_eq!(replica.state.pins.rows(STREAM), 3);
    replica.set_schema(schema(2, &[THERE], &["f", "x"]));
    assert_eq!(replica.state.pins.rows(STREAM), 2);
    let at_b = theirs(1).hlc + 1;
    assert_eq!(replica.state.complete_hlc(STREAM), at_b - 1, "row b is the oldest now");
    replica.set_schema(schema(3, &[THERE], &["f", "x", "y"]));
    assert!(replica.state.pins.is_empty());
    assert_eq!(replica.view().len(), 4);
}

#[test]
fn a_large_quarantine_drains_in_steps() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    let large = "x".repeat(1 << 20);
    for seq in 1..=20u64 {
        let row = format!("r{seq:02}");
        take_bounded(&mut replica, &message(seq, puts(&[(&row, "late", &large)])), 64 << 20).unwrap();
    }
    replica.set_schema(schema(2, &[THERE], &["f", "late"]));
    assert!(replica.state.drain_from.is_some(), "one entry does not do it all");
    let left = replica.state.pins.rows(STREAM);
    assert!(left > 0 && left < 20, "{left}");
    replica.crash();
    let mut rounds = 0;
    while replica.state.publish(0).drain_pending {
        replica.apply(drain::encode(0)).unwrap();
        rounds += 1;
        assert!(rounds < 20);
    }
    assert_eq!(replica.view().len(), 20);
    assert!(replica.state.pins.is_empty());
}

#[test]
fn a_full_quarantine_parks_the_stream() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    take_bounded(&mut replica, &message(1, puts(&[("a", "late", "1")])), 1_024).unwrap();
    let error = take_bounded(&mut replica, &message(2, puts(&[("b", "late", "2")])), 1_024).unwrap_err();
    assert_eq!(error.reason(), "QUARANTINE_FULL");
    assert_eq!(
        replica.state.cursors[&STREAM].contiguous_seq, 1,
        "nothing was taken, so nothing is lost"
    );
    take_bounded(&mut replica, &message(2, puts(&[("b", "f", "2")])), 1_024).unwrap();
}

#[test]
fn an_unreadable_record_waits_with_its_cause_and_the_rest_flows() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    take(&mut replica, &message(1, puts(&[("a", "f", "1")]))).unwrap();
    let mut batch = message(3, puts(&[("c", "f", "3")]));
    batch.first_seq = 2;
    batch.unreadable.push(UnreadableRecord {
        seq: 2,
        cause: "checksum".to_owned(),
        bytes: Some(Bytes::from_static(b"garbage")),
    });
    let outcome = take(&mut replica, &batch).unwrap();
    assert_eq!((outcome.contiguous_seq, outcome.rows_quarantined_now), (3, 1));
    assert_eq!(
        outcome.complete_hlc,
        theirs(1).hlc + 100,
        "what it held is not known, so nothing after 1 is complete"
    );
    replica.set_schema(schema(2, &[THERE], &["f", "g"]));
    assert_eq!(replica.state.pins.rows(STREAM), 1, "no schema makes it readable");
}

#[test]
fn a_peer_that_leaves_takes_its_streams_and_its_quarantine_along() {
    let other = RegionId(7);
    let mut replica = Replica::with(&[THERE, other], &["f"]);
    take(&mut replica, &message(1, puts(&[("a", "f", "1"), ("b", "late", "2")]))).unwrap();
    let mut elsewhere = message(2, puts(&[("c", "late", "3")]));
    elsewhere.stream.region = other;
    take(&mut replica, &elsewhere).unwrap();
    replica.set_schema(schema(2, &[other], &["f"]));
    let left: Vec<StreamId> = replica.state.cursors.keys().copied().collect();
    assert_eq!(left, [elsewhere.stream]);
    assert_eq!(
        (replica.state.pins.rows(STREAM), replica.state.pins.rows(left[0])),
        (0, 1)
    );
    replica.set_schema(schema(3, &[], &["f"]));
    assert!(replica.state.cursors.is_empty() && replica.state.pins.is_empty());
    assert_eq!(
        replica
            .state
            .publish(0)
            .stable_cut(&shared_schema(&replica), &RowRange::all())
            .hlc,
        replica.state.marks.hlc_max,
        "nothing holds garbage collection any more"
    );
    let states = replica.content().states;
    assert!(
        !states
            .iter()
            .any(|(key, _)| key.starts_with(b"q") || key.starts_with(b"c"))
    );
    replica.crash();
    assert_eq!(replica.content().states, states);
    // The same region again: its stream begins at 1, and the family that came is not filled with what was dropped.
    replica.set_schema(schema(4, &[THERE], &["f", "late"]));
    let outcome = take(&mut replica, &message(1, puts(&[("d", "f", "4")]))).unwrap();
    assert_eq!(
        (outcome.contiguous_seq, outcome.rows_applied, outcome.duplicate),
        (1, 1, false)
    );
    assert_eq!(replica.value("b", "late"), None);
}

#[test]
fn range_deletes_are_clipped_to_the_tablet() {
    let range = RowRange {
        start: Bytes::from_static(b"b"),
        end: Some(Bytes::from_static(b"d")),
    };
    let mut replica = Replica::of(range);
    replica.set_schema(schema(1, &[THERE], &["f"]));
    replica.write(1, puts(&[("b", "f", "1"), ("c", "f", "2")]));
    let mut builder = BatchBuilder::new();
    builder.push_range_delete(&RowRange::all(), VersionRange::ALL).unwrap();
    builder.begin_row(b"zz").unwrap();
    builder.put(family("f"), b"q", NOW, b"elsewhere").unwrap();
    builder.end_row().unwrap();
    let outcome = take(&mut replica, &message(9, builder.finish().unwrap())).unwrap();
    assert_eq!(outcome.rows_applied, 1, "a row of another tablet is not ours");
    assert!(replica.view().is_empty());
    let facts = replica.content().facts;
    assert!(
        facts
            .iter()
            .any(|f| matches!(f, tidemark_base::fact::Fact::Tombstone { row, .. } if row == &b"b"[..])),
        "{facts:?}"
    );
}
