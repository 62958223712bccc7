//! A link begins anew (INV-42): what belongs to an earlier one with the same peer is neither kept nor taken; and what a bad
//! record may hold is waited for by every tablet that it may concern.

use super::remote_support::*;
use super::support::*;
use crate::PeerQuarantine;
use crate::operation::acknowledge_feed::{self, AcknowledgeFeed};
use crate::operation::set_schema;
use crate::remote::{RemoteBatch, UnreadableRecord};
use bytes::Bytes;
use tidemark_base::{RowRange, TableSchema};

fn linked(revision: u64, link: u64) -> TableSchema {
    let mut schema = schema(revision, &[THERE], &["f"]);
    schema.links.insert(THERE, link);
    schema
}

fn over(link: u64, batch: RemoteBatch) -> RemoteBatch {
    RemoteBatch { link, ..batch }
}

fn closes(seq: u64) -> RemoteBatch {
    let mut batch = message(seq, puts(&[("a", "f", "1")]));
    batch.parts.clear();
    batch
}

fn acknowledged(link: u64, seq: u64, held: PeerQuarantine) -> Bytes {
    let peer = THERE;
    acknowledge_feed::encode(&AcknowledgeFeed { peer, link, seq, held })
}

/// INV-42: switched off and on again while this tablet saw neither: only the number tells.
#[test]
fn a_tablet_that_missed_the_end_of_a_link_forgets_it_when_the_next_one_comes() {
    let mut replica = Replica::new();
    replica.set_schema(linked(1, 1));
    replica.close(1);
    take(&mut replica, &over(1, closes(7))).unwrap();
    let held = PeerQuarantine {
        rows: 2,
        complete_hlc: 9,
    };
    replica.apply(acknowledged(1, 1, held)).unwrap();
    let shown = replica.state.publish(0);
    assert_eq!(shown.acked_held[&THERE], held);
    assert_eq!((shown.acked[&THERE], shown.streams.len()), (1, 1));
    // Families change, the link stays: nothing is forgotten.
    replica.set_schema(linked(2, 1));
    assert_eq!(replica.state.publish(0).streams.len(), 1);
    // Revision 3 ended the link and 4 brought the next; this tablet gets only 5.
    replica.set_schema(linked(5, 4));
    let shown = replica.state.publish(0);
    assert!(shown.acked.is_empty() && shown.acked_held.is_empty() && shown.streams.is_empty());
    // Its stream begins at 1 again, and is not taken for a repeat.
    let outcome = take(&mut replica, &over(4, message(1, puts(&[("a", "f", "new")])))).unwrap();
    assert_eq!((outcome.rows_applied, outcome.duplicate), (1, false));
    let states = replica.content();
    replica.crash();
    assert_eq!(replica.content(), states);
}

/// INV-42: a row of an earlier table, let in before the link changed, and an acknowledgement for its feed.
#[test]
fn what_comes_late_over_an_earlier_link_is_refused_at_apply() {
    let mut replica = Replica::new();
    replica.set_schema(linked(1, 1));
    let late = over(1, message(1, puts(&[("a", "f", "of the old table")])));
    replica.set_schema(linked(3, 3));
    assert_eq!(take(&mut replica, &late).unwrap_err().reason(), "PEER_NOT_LINKED");
    assert!(replica.view().is_empty() && replica.state.cursors.is_empty());
    replica.close(2);
    let refused = replica.apply(acknowledged(1, 1, PeerQuarantine::default()));
    assert_eq!(refused.unwrap_err().reason(), "PEER_UNKNOWN");
    replica.apply(acknowledged(3, 1, PeerQuarantine::default())).unwrap();
    let ahead = over(4, message(1, puts(&[("a", "f", "x")])));
    assert_eq!(take(&mut replica, &ahead).unwrap_err().reason(), "PEER_NOT_LINKED");
}

/// A peer that came again while rows were written is a new peer: what it would lack is not in its feed.
#[test]
fn a_link_that_comes_again_asks_for_an_empty_table() {
    let mut replica = Replica::new();
    replica.set_schema(linked(1, 1));
    replica.write(1, puts(&[("a", "f", "x")]));
    let refused = replica.apply(set_schema::encode(&linked(3, 3), true));
    assert_eq!(refused.unwrap_err().reason(), "TABLE_NOT_EMPTY");
    assert_eq!(shared_schema(&replica).revision, 1);
    replica.apply(set_schema::encode(&linked(2, 1), true)).unwrap();
    assert_eq!(
        shared_schema(&replica).revision,
        2,
        "a change of families is no new link"
    );
}

/// R12, R17: the record may hold a row of this tablet, so neither `complete` nor the stable cut passes it here, although
/// another tablet keeps its bytes.
#[test]
fn a_bad_record_that_another_tablet_keeps_pins_this_one_too() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    take(&mut replica, &message(1, puts(&[("a", "f", "1")]))).unwrap();
    let mut batch = message(3, puts(&[("c", "f", "3")]));
    batch.first_seq = 2;
    batch.unreadable.push(UnreadableRecord {
        seq: 2,
        cause: "checksum; kept by tablet-7".to_owned(),
        bytes: None,
    });
    let outcome = take(&mut replica, &batch).unwrap();
    assert_eq!((outcome.contiguous_seq, outcome.rows_quarantined_now), (3, 0));
    assert_eq!(outcome.complete_hlc, theirs(1).hlc + 100);
    replica.close(9);
    replica.apply(acknowledged(0, 1, PeerQuarantine::default())).unwrap();
    let cut = |replica: &Replica| {
        let state = replica.state.publish(0);
        state.stable_cut(&shared_schema(replica), &RowRange::all())
    };
    assert_eq!(cut(&replica).hlc, theirs(1).hlc + 100);
    replica.crash();
    assert_eq!(replica.state.complete_hlc(STREAM), theirs(1).hlc + 100);
}
