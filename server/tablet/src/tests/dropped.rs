//! Families that were dropped at the receiver, and rows that an operator gives up: nothing waits for what can never come.

use super::remote_support::*;
use super::support::*;
use crate::operation::discard;
use crate::quarantine::{self, Discarded};
use crate::stream::StreamId;
use tidemark_base::{
    BatchBuilder, FamilySettings, PackedBatch, RegionId, RowRange, Scope, Stamp, TableSchema, VersionRange,
};
use tidemark_engine::Engine;

/// As [`schema`], with the first family of each of these names dropped.
fn schema_without(revision: u64, families: &[&str], dropped: &[&str]) -> TableSchema {
    let mut schema = schema(revision, &[THERE], families);
    schema.dropped = dropped.iter().map(|name| family(name)).collect();
    schema.dropped.sort();
    schema
}

/// One row mutation: a put in each family.
fn row_of(row: &str, families: &[&str]) -> PackedBatch {
    let mut builder = BatchBuilder::new();
    builder.begin_row(row.as_bytes()).unwrap();
    for name in families {
        builder.put(family(name), b"q", NOW, name.as_bytes()).unwrap();
    }
    builder.end_row().unwrap();
    builder.finish().unwrap()
}

#[test]
fn rows_of_a_dropped_family_hold_nothing_up_and_their_other_families_apply() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    replica.set_schema(schema_without(2, &["f"], &["old"]));
    let outcome = take(&mut replica, &message(1, row_of("a", &["f", "old"]))).unwrap();
    assert_eq!((outcome.rows_applied, outcome.rows_quarantined_now), (1, 0));
    assert_eq!(outcome.complete_hlc, theirs(1).hlc + 100, "nothing is missing here");
    assert_eq!(
        replica.value("a", "f").as_deref(),
        Some("f"),
        "the living part applies (O12)"
    );
    let outcome = take(&mut replica, &message(2, row_of("b", &["old"]))).unwrap();
    assert_eq!((outcome.rows_applied, outcome.rows_quarantined_now), (1, 0));
    assert!(
        !replica.engine.has_family_facts(family("old")).unwrap(),
        "dead on arrival, not kept"
    );
    assert_eq!(replica.view().len(), 1);
    // Deletes in that family are dead as well; a delete of the row is of every family.
    let mut builder = BatchBuilder::new();
    builder.begin_row(b"a").unwrap();
    builder
        .delete(Scope::Family { family: family("old") }, VersionRange::ALL)
        .unwrap();
    builder.delete(Scope::Row, VersionRange::ALL).unwrap();
    builder.end_row().unwrap();
    let outcome = take(&mut replica, &message(3, builder.finish().unwrap())).unwrap();
    assert_eq!((outcome.rows_applied, outcome.rows_quarantined_now), (1, 0));
    assert!(replica.view().is_empty());
    // An unknown family beside a dropped one still waits, whole.
    let outcome = take(&mut replica, &message(4, row_of("c", &["f", "old", "late"]))).unwrap();
    assert_eq!((outcome.rows_applied, outcome.rows_quarantined_now), (0, 1));
    replica.set_schema(schema_without(3, &["f", "late"], &["old"]));
    let row: Vec<_> = replica.view().into_iter().map(|(.., value)| value).collect();
    assert_eq!(row.len(), 2, "its living families came together: {row:?}");
    assert!(replica.state.pins.is_empty());
    assert!(!replica.engine.has_family_facts(family("old")).unwrap());
    let content = replica.content();
    replica.crash();
    assert_eq!(replica.content(), content);
}

#[test]
fn dropping_the_family_here_releases_what_waited_for_it() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    take(&mut replica, &message(1, row_of("a", &["f", "old"]))).unwrap();
    take(&mut replica, &message(2, row_of("b", &["old"]))).unwrap();
    take(&mut replica, &message(3, row_of("c", &["f"]))).unwrap();
    let stable = |replica: &Replica| {
        replica
            .state
            .publish(0)
            .stable_cut(&shared_schema(replica), &RowRange::all())
    };
    assert_eq!(replica.state.pins.rows(STREAM), 2);
    assert_eq!(replica.state.complete_hlc(STREAM), theirs(1).hlc - 1);
    // The family lived here for a moment, in another generation's place: the catalog counts it as used up.
    replica.set_schema(schema_without(2, &["f"], &["old"]));
    assert!(
        replica.state.pins.is_empty(),
        "no pin is left: complete, lag and garbage collection go on"
    );
    assert_eq!(replica.state.complete_hlc(STREAM), theirs(3).hlc + 100);
    assert_eq!(replica.value("a", "f").as_deref(), Some("f"));
    assert_eq!(replica.state.publish(0).streams[&STREAM].rows_applied, 3);
    replica.state.acks.insert(
        THERE,
        crate::state::Ack {
            seq: 0,
            hlc: theirs(3).hlc,
            ..crate::state::Ack::default()
        },
    );
    assert!(stable(&replica) > Stamp::MIN, "the stable cut moves again");
    // Nothing can be written to it here either.
    let failures = replica.write(9, puts(&[("d", "old", "x"), ("e", "f", "y")]));
    assert_eq!((failures.len(), failures[0].1.reason()), (1, "FAMILY_UNKNOWN"));
    // The next generation of the name is another family, and lives.
    let mut again = schema_without(3, &["f"], &["old"]);
    again.families.push(FamilySettings::new("old", 1));
    replica.set_schema(again);
    assert!(replica.view().iter().all(|(_, id, ..)| *id != family("old")));
}

#[test]
fn an_operator_gives_up_one_entry_or_all_of_a_peers() {
    let other = RegionId(7);
    let mut replica = Replica::with(&[THERE, other], &["f"]);
    for seq in 1..=3 {
        take(
            &mut replica,
            &message(seq, puts(&[("a", "late", "1"), ("b", "late", "2")])),
        )
        .unwrap();
    }
    let mut elsewhere = message(1, puts(&[("z", "late", "3")]));
    elsewhere.stream.region = other;
    take(&mut replica, &elsewhere).unwrap();
    let give_up = |replica: &mut Replica, region, places: &[(StreamId, u64)]| {
        let body = replica.apply(discard::encode(region, places)).unwrap();
        discard::decode_answer(&body).unwrap()
    };
    let one = give_up(&mut replica, THERE, &[(STREAM, 2)]);
    assert_eq!((one.entries, one.rows), (1, 2));
    assert_eq!(
        give_up(&mut replica, THERE, &[(STREAM, 2)]),
        Discarded::default(),
        "twice is once"
    );
    let wrong = [(elsewhere.stream, 1)];
    assert_eq!(
        give_up(&mut replica, THERE, &wrong),
        Discarded::default(),
        "of another peer"
    );
    assert_eq!(
        replica.state.complete_hlc(STREAM),
        theirs(1).hlc - 1,
        "1 and 3 still wait"
    );
    let shown = quarantine::page(&replica.engine, Some(THERE), 10).unwrap();
    let places: Vec<u64> = shown.entries.iter().map(|entry| entry.seq).collect();
    assert_eq!((places, shown.more), (vec![1, 3], false));
    let first = &shown.entries[0];
    assert_eq!(
        (first.rows, first.oldest_hlc, first.unreadable),
        (2, theirs(1).hlc, false)
    );
    assert_eq!(first.sample_rows, ["a", "b"]);
    assert!(quarantine::page(&replica.engine, None, 2).unwrap().more);
    assert_eq!(quarantine::page(&replica.engine, None, 10).unwrap().entries.len(), 3);

    let rest = give_up(&mut replica, THERE, &[]);
    assert_eq!((rest.entries, rest.rows), (2, 4));
    assert_eq!(
        replica.state.complete_hlc(STREAM),
        theirs(3).hlc + 100,
        "the pins are gone"
    );
    assert_eq!(
        replica.state.pins.rows(elsewhere.stream),
        1,
        "the other peer's rows stay"
    );
    let content = replica.content();
    replica.crash();
    assert_eq!(replica.content(), content);
    // What was given up does not come back with its family, nor when the peer repeats it.
    replica.set_schema(schema(2, &[THERE, other], &["f", "late"]));
    assert_eq!(replica.value("a", "late"), None);
    assert!(
        take(&mut replica, &message(1, puts(&[("a", "late", "1")])))
            .unwrap()
            .duplicate
    );
    assert_eq!(replica.value("z", "late").as_deref(), Some("3"));
}
