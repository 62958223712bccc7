//! Each verb, one by one.

use super::support::*;
use crate::feed::FeedEntry;
use crate::operation::check_and_mutate::{self, CheckAndMutateCommand};
use crate::operation::{acknowledge_feed, close, drain, set_schema, write};
use crate::{PeerQuarantine, RmwChange, RmwRule};
use bytes::Bytes;
use tidemark_base::{BatchBuilder, ReadFilter, RegionId, Stamp, VersionRange};
use tidemark_engine::Engine;

fn rule(name: &str, qualifier: &str, change: RmwChange) -> RmwRule {
    RmwRule {
        family: family(name),
        qualifier: Bytes::copy_from_slice(qualifier.as_bytes()),
        change,
    }
}

fn append(text: &str) -> RmwChange {
    RmwChange::Append(Bytes::copy_from_slice(text.as_bytes()))
}

fn feed_of(replica: &Replica) -> Vec<FeedEntry> {
    let records = replica.engine.feed(1, usize::MAX).unwrap();
    records.iter().map(|r| FeedEntry::decode(&r.bytes).unwrap()).collect()
}

#[test]
fn a_write_gives_each_row_its_stamp_and_feeds_the_clients_bytes() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    let batch = puts(&[("a", "f", "1"), ("b", "f", "2")]);
    let other = puts(&[("c", "f", "3")]);
    let entry = write::encode(&[(stamp(1), batch.clone()), (stamp(2), other.clone())]);
    replica.apply(entry).unwrap();
    assert_eq!(replica.value("b", "f").as_deref(), Some("2"));
    let marks = replica.state.marks;
    assert_eq!(
        (marks.hlc_max, marks.closed, marks.facts),
        (stamp(2).hlc, stamp(2).hlc, 3)
    );
    assert_eq!((marks.feed_next, marks.last_rows_seq), (3, 2));
    let expected = [(stamp(1), batch), (stamp(2), other)].map(|(first, batch)| FeedEntry::Write {
        first,
        offsets: None,
        batch,
    });
    assert_eq!(feed_of(&replica), expected);
}

/// O12: a record is the least that is shipped, so no row mutation may be spread over two.
#[test]
fn a_row_mutation_stands_whole_in_one_feed_record() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    for step in 1..=3 {
        let mut builder = BatchBuilder::new();
        for row in [b"a", b"b"] {
            builder.begin_row(row).unwrap();
            for qualifier in [b"p", b"q", b"r", b"s"] {
                builder.put(family("f"), qualifier, NOW, b"v").unwrap();
            }
            builder.end_row().unwrap();
        }
        replica.write(step, builder.finish().unwrap());
    }
    let feed = feed_of(&replica);
    assert_eq!(feed.len(), 3, "a record for each batch");
    for entry in feed {
        let FeedEntry::Write { batch, .. } = entry else {
            panic!("only rows were written: {entry:?}");
        };
        let cells = batch.rows().map(|row| match row {
            tidemark_base::RowRef::Mutation { mutations, .. } => mutations.count(),
            tidemark_base::RowRef::RangeDelete { .. } => 0,
        });
        assert_eq!(cells.collect::<Vec<_>>(), [4, 4], "a part of a row mutation");
    }
}

#[test]
fn a_table_without_peers_has_no_feed() {
    let mut replica = Replica::with(&[], &["f"]);
    replica.write(1, puts(&[("a", "f", "1")]));
    replica.close(2);
    assert_eq!(replica.engine.feed_bounds().unwrap(), None);
    assert_eq!(replica.state.marks.closed, stamp(2).hlc);
}

#[test]
fn rows_of_an_unknown_family_fail_alone_and_keep_the_others_stamps() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    let failures = replica.write(1, puts(&[("a", "f", "1"), ("b", "gone", "2"), ("c", "f", "3")]));
    assert_eq!(failures.len(), 1);
    assert_eq!((failures[0].0, failures[0].1.reason()), (1, "FAMILY_UNKNOWN"));
    let [FeedEntry::Write { first, offsets, batch }] = &feed_of(&replica)[..] else {
        panic!("one record");
    };
    assert_eq!(
        (*first, offsets.as_deref(), batch.rows_len()),
        (stamp(1), Some(&[0u32, 2][..]), 2)
    );
    let all = replica.write(2, puts(&[("a", "gone", "1")]));
    assert_eq!(all.len(), 1);
    assert!(matches!(feed_of(&replica)[1], FeedEntry::Close { .. }));
}

#[test]
fn a_write_of_another_epoch_is_fenced() {
    let mut replica = Replica::with(&[], &["f"]);
    let mut newer = schema(2, &[], &["f"]);
    newer.epoch = 1;
    replica.set_schema(newer);
    let failures = replica.write(1, puts(&[("a", "f", "1")]));
    assert_eq!(failures[0].1.reason(), "EPOCH_FENCED");
    assert!(replica.view().is_empty());
}

#[test]
fn inv_20_a_local_stamp_that_does_not_rise_stops_the_replica() {
    let mut replica = Replica::with(&[], &["f"]);
    replica.write(5, puts(&[("a", "f", "1"), ("b", "f", "1")]));
    let mut late = stamp(5);
    late.hlc += 1;
    let entry = write::encode(&[(late, puts(&[("c", "f", "1")]))]);
    let fault = replica.try_apply(vec![entry]).unwrap_err();
    assert!(fault.to_string().contains("INV-20"), "{fault}");
    let mut replica = Replica::with(&[], &["f"]);
    replica.close(5);
    assert!(replica.try_apply(vec![close::encode(stamp(5))]).is_err());
}

#[test]
fn a_command_that_does_not_decode_stops_the_replica() {
    for bytes in [&b""[..], &b"\x63what"[..], &b"\x01\x01short"[..]] {
        let mut replica = Replica::with(&[], &["f"]);
        assert!(replica.try_apply(vec![Bytes::copy_from_slice(bytes)]).is_err());
    }
    let mut replica = Replica::with(&[], &["f"]);
    let mut damaged = write::encode(&[(stamp(1), puts(&[("a", "f", "1")]))]).to_vec();
    let last = damaged.len() - 6;
    damaged[last] ^= 1;
    assert!(replica.try_apply(vec![damaged.into()]).is_err());
}

#[test]
fn check_and_mutate_sees_the_entries_before_it_in_the_same_call() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    let commands = vec![
        check(
            1,
            1,
            "a",
            Some(puts(&[("a", "f", "hit")])),
            Some(puts(&[("a", "f", "miss")])),
        ),
        write::encode(&[(stamp(2), puts(&[("b", "f", "x")]))]),
        check(3, 2, "b", Some(puts(&[("b", "f", "hit")])), None),
        check(4, 3, "c", Some(puts(&[("c", "f", "hit")])), None),
    ];
    let answers = replica.try_apply(commands).unwrap();
    let matched: Vec<u8> = [0, 2, 3].iter().map(|i| answers[*i][1]).collect();
    assert_eq!(matched, [0, 1, 0]);
    assert_eq!(replica.value("a", "f").as_deref(), Some("miss"));
    assert_eq!(replica.value("b", "f").as_deref(), Some("hit"));
    assert_eq!(replica.value("c", "f"), None);
    assert_eq!(feed_of(&replica).len(), 4);
}

#[test]
fn a_token_takes_effect_once_and_answers_again() {
    let mut replica = Replica::with(&[], &["f"]);
    let command = |step| check(step, 9, "a", None, Some(puts(&[("a", "f", "first")])));
    assert_eq!(replica.apply(command(1)).unwrap()[..], [0]);
    assert_eq!(
        replica.apply(command(2)).unwrap()[..],
        [0],
        "the stored answer, though the row is there now"
    );
    replica.crash();
    assert_eq!(replica.apply(command(3)).unwrap()[..], [0]);
    assert_eq!(replica.state.marks.facts, 1);
    let other = modify(4, 9, "a", vec![rule("f", "n", RmwChange::Increment(1))]);
    assert_eq!(replica.apply(other).unwrap_err().reason(), "TOKEN_REUSED");
}

#[test]
fn tokens_go_by_the_clock_of_the_log_and_by_number() {
    let mut replica = Replica::with(&[], &["f"]);
    let command = |step: u64, n: u8, tokens_max| {
        let mut terms = terms(n);
        terms.expiry_ms = stamp(step).ms() + 10;
        terms.tokens_max = tokens_max;
        check_and_mutate::encode(&CheckAndMutateCommand {
            stamp: stamp(step),
            terms,
            row: Bytes::from_static(b"a"),
            predicate: ReadFilter::default(),
            on_match: None,
            on_mismatch: None,
        })
    };
    for n in 1..=5 {
        replica.apply(command(u64::from(n), n, 3)).unwrap();
    }
    assert_eq!(replica.state.tokens.len(), 3);
    replica.apply(command(14, 6, 3)).unwrap();
    assert_eq!(
        replica.state.tokens.len(),
        2,
        "3 and 4 have expired at 14; 5 and 6 stay"
    );
    replica.apply(drain::encode(stamp(100).ms())).unwrap();
    assert_eq!(
        replica.state.tokens.len(),
        2,
        "a leader's clock that runs ahead of the log forgets nothing"
    );
    replica.close(100);
    replica.apply(drain::encode(stamp(15).ms())).unwrap();
    assert_eq!(replica.state.tokens.len(), 1, "nor does the log ahead of the clock");
    replica.apply(drain::encode(stamp(100).ms())).unwrap();
    assert_eq!(replica.state.tokens.len(), 0);
    assert_eq!(replica.engine.state_scan(b"t", b"", 10).unwrap(), []);
}

#[test]
fn a_bad_filter_or_family_writes_nothing_and_is_not_remembered() {
    let mut replica = Replica::with(&[], &["f"]);
    let bad = check_and_mutate::encode(&CheckAndMutateCommand {
        stamp: stamp(1),
        terms: terms(1),
        row: Bytes::from_static(b"a"),
        predicate: ReadFilter {
            row_regex: Some("(".to_owned()),
            ..ReadFilter::default()
        },
        on_match: None,
        on_mismatch: None,
    });
    assert_eq!(replica.apply(bad).unwrap_err().reason(), "FILTER_INVALID");
    let unknown = check(2, 1, "a", None, Some(puts(&[("a", "gone", "x")])));
    assert_eq!(replica.apply(unknown).unwrap_err().reason(), "FAMILY_UNKNOWN");
    assert_eq!((replica.state.tokens.len(), replica.state.marks.facts), (0, 0));
}

#[test]
fn appends_and_increments_build_on_each_other() {
    let mut replica = Replica::with(&[THERE], &["f"]);
    let rules = vec![
        rule("f", "text", append("ab")),
        rule("f", "n", RmwChange::Increment(5)),
        rule("f", "text", append("cd")),
        rule("f", "n", RmwChange::Increment(-7)),
    ];
    let cells = Replica::cells(&replica.apply(modify(1, 1, "a", rules)).unwrap());
    assert_eq!(cells.len(), 2);
    assert_eq!(cells[0].value, &b"abcd"[..]);
    assert_eq!(cells[1].value, &(-2i64).to_be_bytes()[..]);
    assert_eq!(cells[0].version, NOW + 1_000);
    let again = vec![rule("f", "n", RmwChange::Increment(i64::MIN))];
    let cells = Replica::cells(&replica.apply(modify(2, 2, "a", again)).unwrap());
    assert_eq!(cells[0].value, &(i64::MIN.wrapping_add(-2)).to_be_bytes()[..]);
    assert_eq!(feed_of(&replica).len(), 2);
}

#[test]
fn one_rule_that_fails_writes_nothing() {
    let mut replica = Replica::with(&[], &["f"]);
    replica.write(1, puts(&[("a", "f", "text")]));
    let rules = vec![rule("f", "new", append("x")), rule("f", "q", RmwChange::Increment(1))];
    let error = replica.apply(modify(2, 1, "a", rules)).unwrap_err();
    assert_eq!(error.reason(), "NOT_A_COUNTER");
    assert_eq!(replica.view().len(), 1);
    assert_eq!(replica.state.tokens.len(), 0);
    let unknown = vec![rule("gone", "q", append("x"))];
    assert_eq!(
        replica.apply(modify(3, 1, "a", unknown)).unwrap_err().reason(),
        "FAMILY_UNKNOWN"
    );
}

#[test]
fn a_version_in_the_future_is_overwritten_in_place() {
    let mut replica = Replica::with(&[], &["f"]);
    let mut builder = BatchBuilder::new();
    builder.begin_row(b"a").unwrap();
    builder
        .put(family("f"), b"n", NOW + 60_000_000, &1i64.to_be_bytes())
        .unwrap();
    builder.end_row().unwrap();
    replica.write(1, builder.finish().unwrap());
    let rules = vec![rule("f", "n", RmwChange::Increment(1))];
    let cells = Replica::cells(&replica.apply(modify(2, 1, "a", rules)).unwrap());
    assert_eq!(
        (cells[0].version, &cells[0].value[..]),
        (NOW + 60_000_000, &2i64.to_be_bytes()[..])
    );
    assert_eq!(replica.view().len(), 1);
}

#[test]
fn the_feed_is_trimmed_by_the_slowest_peer() {
    let third = RegionId(3);
    let mut replica = Replica::with(&[THERE, third], &["f"]);
    for step in 1..=5 {
        replica.write(step, puts(&[("a", "f", "x")]));
    }
    let ack = |peer, seq| {
        acknowledge_feed::encode(&acknowledge_feed::AcknowledgeFeed {
            peer,
            link: 0,
            seq,
            held: PeerQuarantine::default(),
        })
    };
    replica.apply(ack(THERE, 4)).unwrap();
    assert_eq!(
        replica.engine.feed_bounds().unwrap(),
        Some((1, 5)),
        "the other peer holds everything"
    );
    replica.apply(ack(third, 2)).unwrap();
    assert_eq!(replica.engine.feed_bounds().unwrap(), Some((3, 5)));
    replica.apply(ack(third, 1)).unwrap();
    assert_eq!(replica.state.acks[&third].seq, 2, "an acknowledgement never goes back");
    assert_eq!(replica.state.acks[&third].hlc, stamp(2).hlc);
    assert_eq!(replica.apply(ack(third, 6)).unwrap_err().reason(), "ACK_AHEAD");
    assert_eq!(replica.apply(ack(RegionId(9), 1)).unwrap_err().reason(), "PEER_UNKNOWN");

    replica.set_schema(schema(2, &[third], &["f"]));
    assert!(
        !replica.state.acks.contains_key(&THERE),
        "a peer that left is forgotten"
    );
    replica.set_schema(schema(3, &[], &["f"]));
    assert_eq!(replica.engine.feed_bounds().unwrap(), None);
    replica.write(6, puts(&[("a", "f", "x")]));
    replica.set_schema(schema(4, &[THERE], &["f"]));
    replica.write(7, puts(&[("a", "f", "x")]));
    assert_eq!(
        replica.engine.feed_bounds().unwrap(),
        Some((6, 6)),
        "numbers are never used twice"
    );
    replica.apply(ack(THERE, 6)).unwrap();
    replica.crash();
    assert_eq!((replica.state.marks.feed_first, replica.state.marks.feed_next), (7, 7));
}

#[test]
fn a_peer_is_added_only_before_the_first_row() {
    let mut replica = Replica::with(&[], &["f"]);
    replica.close(1);
    let with_peer = |revision| set_schema::encode(&schema(revision, &[THERE], &["f"]), true);
    replica.apply(with_peer(2)).unwrap();
    replica.write(2, puts(&[("a", "f", "x")]));
    replica.apply(with_peer(3)).unwrap();
    let two = set_schema::encode(&schema(4, &[THERE, RegionId(3)], &["f"]), true);
    assert_eq!(replica.apply(two).unwrap_err().reason(), "TABLE_NOT_EMPTY");
    assert_eq!(shared_schema(&replica).revision, 3);
    replica.set_schema(schema(2, &[], &["g"]));
    assert_eq!(shared_schema(&replica).revision, 3, "an older revision changes nothing");
    replica.crash();
    assert_eq!(shared_schema(&replica).revision, 3);
}

#[test]
fn a_delete_and_a_put_of_one_row_mutation_share_a_stamp() {
    let mut replica = Replica::with(&[], &["f"]);
    replica.write(1, puts(&[("a", "f", "old")]));
    let mut builder = BatchBuilder::new();
    builder.begin_row(b"a").unwrap();
    builder.delete(tidemark_base::Scope::Row, VersionRange::ALL).unwrap();
    builder.put(family("f"), b"q", NOW - 5, b"new").unwrap();
    builder.end_row().unwrap();
    replica.write(2, builder.finish().unwrap());
    assert_eq!(replica.value("a", "f").as_deref(), Some("new"));
    assert_eq!(replica.view().len(), 1);
}

#[test]
fn nothing_is_written_before_the_schema() {
    let mut replica = Replica::new();
    let failures = replica.write(1, puts(&[("a", "f", "x")]));
    assert_eq!(failures[0].1.reason(), "SCHEMA_PENDING");
    assert_eq!(replica.state.marks.last_stamp, Stamp::MIN);
}
