//! Replicas apply alike (INV-21), whatever the batching, crashes and garbage; deliveries converge, whatever their order.

use super::support::*;
use crate::operation::{acknowledge_feed, close, drain, remote, set_schema, write};
use crate::remote::{RemoteBatch, RemotePart};
use crate::response;
use crate::state::State;
use crate::stream::StreamId;
use crate::{PeerQuarantine, RmwChange, RmwRule};
use bytes::Bytes;
use proptest::prelude::*;
use tidemark_base::{BatchBuilder, PackedBatch, RowRange, Scope, Stamp, VersionRange};
use tidemark_consensus::ApplyError;
use tidemark_engine::{Engine, GarbageCut};

const FAMILIES: [&str; 3] = ["f", "g", "late"];
const STREAM: StreamId = StreamId {
    region: THERE,
    tablet: 40,
};

/// One step of a random history; made into a command with rising stamps.
#[derive(Clone, Debug)]
enum Verb {
    Write(Vec<(u8, u8, u8)>),
    Delete(u8),
    Check(u8, u8),
    Modify(u8, u8),
    Remote(u8, Vec<(u8, u8, u8)>),
    Schema(bool),
    Close,
    Acknowledge(u8),
    Drain,
}

fn rows() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    proptest::collection::vec((0u8..6, 0u8..3, any::<u8>()), 1..4)
}

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        4 => rows().prop_map(Verb::Write),
        1 => (0u8..6).prop_map(Verb::Delete),
        2 => (0u8..6, 0u8..8).prop_map(|(row, token)| Verb::Check(row, token)),
        2 => (0u8..6, 0u8..8).prop_map(|(row, token)| Verb::Modify(row, token)),
        4 => (0u8..30, rows()).prop_map(|(seq, rows)| Verb::Remote(seq, rows)),
        1 => any::<bool>().prop_map(Verb::Schema),
        1 => Just(Verb::Close),
        1 => (0u8..20).prop_map(Verb::Acknowledge),
        1 => Just(Verb::Drain),
    ]
}

fn batch(rows: &[(u8, u8, u8)]) -> PackedBatch {
    let mut builder = BatchBuilder::new();
    for (row, name, value) in rows {
        builder.begin_row(&[b'a' + row]).unwrap();
        builder
            .put(
                family(FAMILIES[usize::from(*name)]),
                b"q",
                NOW - i64::from(*value % 4),
                &[*value],
            )
            .unwrap();
        builder.end_row().unwrap();
    }
    builder.finish().unwrap()
}

/// The log of a history. Remote stamps lie just above the local ones of their step.
fn log(verbs: &[Verb]) -> Vec<Bytes> {
    let mut log = vec![set_schema::encode(&schema(1, &[THERE], &["f", "g"]), false)];
    let mut revision = 1;
    for (index, verb) in verbs.iter().enumerate() {
        // A remote stamp of an earlier step may exceed this one's first millisecond; steps are far enough apart.
        let step = index as u64 * 10 + 10;
        log.push(match verb {
            Verb::Write(rows) => write::encode(&[(stamp(step), batch(rows)), (stamp(step + 1), batch(&rows[..1]))]),
            Verb::Delete(row) => {
                let mut builder = BatchBuilder::new();
                builder.begin_row(&[b'a' + row]).unwrap();
                builder.delete(Scope::Row, VersionRange::ALL).unwrap();
                builder.end_row().unwrap();
                write::encode(&[(stamp(step), builder.finish().unwrap())])
            }
            Verb::Check(row, token) => {
                let name = char::from(b'a' + row).to_string();
                check(
                    step,
                    *token,
                    &name,
                    Some(batch(&[(*row, 0, 1)])),
                    Some(batch(&[(*row, 1, 2)])),
                )
            }
            Verb::Modify(row, token) => {
                let rule = RmwRule {
                    family: family("f"),
                    qualifier: Bytes::from_static(b"n"),
                    change: RmwChange::Increment(i64::from(*token) + 1),
                };
                modify(step, token + 100, &char::from(b'a' + row).to_string(), vec![rule])
            }
            Verb::Remote(seq, rows) => {
                let seq = u64::from(*seq) + 1;
                remote::encode(1 << 20, &delivery(seq, seq, batch(rows), step + 2).encode())
            }
            Verb::Schema(late) => {
                revision += 1;
                let families: &[&str] = if *late { &FAMILIES } else { &FAMILIES[..2] };
                set_schema::encode(&schema(revision, &[THERE], families), false)
            }
            Verb::Close => close::encode(stamp(step)),
            Verb::Acknowledge(seq) => acknowledge_feed::encode(&acknowledgement(u64::from(*seq))),
            Verb::Drain => drain::encode(stamp(step).ms()),
        });
    }
    log
}

fn acknowledgement(seq: u64) -> acknowledge_feed::AcknowledgeFeed {
    acknowledge_feed::AcknowledgeFeed {
        peer: THERE,
        link: 0,
        seq,
        held: PeerQuarantine::default(),
    }
}

fn delivery(first_seq: u64, last_seq: u64, batch: PackedBatch, step: u64) -> RemoteBatch {
    RemoteBatch {
        stream: STREAM,
        link: 0,
        range: RowRange::all(),
        first_seq,
        last_seq,
        closed_hlc: stamp(step).hlc + 50,
        parts: vec![RemotePart {
            first: Stamp {
                region: THERE,
                ..stamp(step)
            },
            offsets: Vec::new(),
            batch,
            seq: last_seq,
        }],
        unreadable: Vec::new(),
    }
}

/// Plays a log in calls of the given lengths, over and over.
fn play(log: &[Bytes], lengths: &[usize], mut between: impl FnMut(&mut Replica, usize)) -> (Replica, Vec<Bytes>) {
    let mut replica = Replica::new();
    let mut answers = Vec::new();
    let mut at = 0;
    for length in lengths.iter().cycle() {
        if at == log.len() {
            break;
        }
        let to = (at + length).min(log.len());
        answers.extend(replica.try_apply(log[at..to].to_vec()).unwrap());
        at = to;
        between(&mut replica, at);
    }
    (replica, answers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn inv_21_batching_changes_nothing(
        verbs in proptest::collection::vec(verb(), 1..40),
        lengths in proptest::collection::vec(1usize..9, 1..6),
    ) {
        let log = log(&verbs);
        let (one, answers) = play(&log, &[1], |_, _| {});
        let (other, others) = play(&log, &lengths, |_, _| {});
        prop_assert_eq!(answers, others);
        prop_assert_eq!(one.content(), other.content());
        prop_assert_eq!(one.state, other.state);
    }

    #[test]
    fn inv_21_a_crash_and_replay_change_nothing(
        verbs in proptest::collection::vec(verb(), 1..40),
        lengths in proptest::collection::vec(1usize..9, 1..6),
        flush_every in 1usize..12,
        crash_every in 1usize..12,
    ) {
        let log = log(&verbs);
        let (one, _) = play(&log, &[5], |_, _| {});
        let (mut other, _) = play(&log, &lengths, |replica, at| {
            if at % flush_every == 0 {
                replica.engine.flush().unwrap();
            }
            if at % crash_every == 0 {
                replica.crash();
            }
        });
        other.crash();
        prop_assert_eq!(one.content(), other.content());
        prop_assert_eq!(one.state, other.state);
    }

    /// What a full disk refused is given again, as consensus does; in between the state is what the engine holds.
    #[test]
    fn inv_21_a_full_disk_changes_nothing(
        verbs in proptest::collection::vec(verb(), 1..40),
        lengths in proptest::collection::vec(1usize..9, 1..6),
        refused_after in proptest::collection::vec(0u64..4, 1..6),
    ) {
        let log = log(&verbs);
        let (one, answers) = play(&log, &[5], |_, _| {});
        let mut other = Replica::new();
        other.log.extend(log.clone());
        let (mut others, mut at) = (Vec::new(), 0);
        for (length, after) in lengths.iter().cycle().zip(refused_after.iter().cycle()) {
            let to = (at + length).min(log.len());
            if at == to {
                break;
            }
            other.engine.refuse_commits(*after, 1);
            let applied = match other.play(at, to) {
                Ok(applied) => applied,
                Err(ApplyError::NoSpace { responses, .. }) => {
                    prop_assert!(responses.len() < to - at);
                    let held = State::load(&other.engine, other.state.range.clone()).unwrap();
                    prop_assert_eq!(&held, &other.state);
                    at += responses.len();
                    others.extend(responses);
                    other.engine.refuse_commits(0, 0);
                    other.play(at, to).unwrap()
                }
                Err(fault) => panic!("{fault}"),
            };
            at += applied.len();
            others.extend(applied);
        }
        other.engine.refuse_commits(0, 0);
        prop_assert_eq!(answers, others);
        prop_assert_eq!(one.content(), other.content());
        prop_assert_eq!(one.state, other.state);
    }

    #[test]
    fn inv_21_garbage_collected_here_and_not_there_changes_no_answer(
        verbs in proptest::collection::vec(verb(), 1..40),
        lengths in proptest::collection::vec(1usize..9, 1..6),
    ) {
        let log = log(&verbs);
        let (one, answers) = play(&log, &[3], |_, _| {});
        let (other, others) = play(&log, &lengths, |replica, _| {
            if let Some(schema) = &replica.state.schema {
                // Deliveries of this test come late and unordered, so nothing is stable but expiry and superseded cells.
                let _ = schema;
                let cut = GarbageCut { stable: Stamp::MIN, now_micros: NOW };
                replica.engine.collect_garbage(cut).unwrap();
            }
        });
        prop_assert_eq!(answers, others);
        prop_assert_eq!(one.view(), other.view());
        prop_assert_eq!(one.content().states, other.content().states);
        prop_assert_eq!(one.content().feed, other.content().feed);
    }

    #[test]
    fn deliveries_in_any_order_with_repeats_converge(
        batches in proptest::collection::vec(rows(), 1..12),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
        late_at in 0usize..12,
    ) {
        let deliver = |replica: &mut Replica, index: usize| {
            let seq = index as u64 + 1;
            // Stamps do not depend on the order of delivery: the origin gave them.
            let message = delivery(seq, seq, batch(&batches[index]), seq * 10);
            replica.apply(remote::encode(1 << 20, &message.encode())).unwrap();
        };
        let late = || schema(2, &[THERE], &FAMILIES);
        let mut one = Replica::with(&[THERE], &["f", "g"]);
        for index in 0..batches.len() {
            deliver(&mut one, index);
        }
        one.set_schema(late());
        let mut other = Replica::with(&[THERE], &["f", "g"]);
        for (n, index) in order.iter().enumerate() {
            if n == late_at {
                other.set_schema(late());
            }
            deliver(&mut other, index.index(batches.len()));
        }
        for index in (0..batches.len()).rev() {
            deliver(&mut other, index);
        }
        if shared_schema(&other).revision == 1 {
            other.set_schema(late());
        }
        let (a, b) = (one.content(), other.content());
        prop_assert_eq!(a.facts, b.facts);
        prop_assert_eq!(one.view(), other.view());
        let (a, b) = (one.state.publish(0), other.state.publish(0));
        prop_assert_eq!(&a.streams, &b.streams);
        prop_assert_eq!(a.streams[&STREAM].complete_hlc, stamp(batches.len() as u64 * 10).hlc + 50);
        prop_assert_eq!(a.hlc_max, b.hlc_max);
    }

    #[test]
    fn the_complete_watermark_never_goes_back_nor_passes_what_waits(
        verbs in proptest::collection::vec(verb(), 1..60),
    ) {
        let log = log(&verbs);
        let mut before = 0;
        play(&log, &[1], |replica, _| {
            let complete = replica.state.complete_hlc(STREAM);
            assert!(complete >= before, "complete fell from {before} to {complete}");
            if let Some(oldest) = replica.state.pins.oldest_hlc(STREAM) {
                assert!(complete < oldest);
            }
            before = complete;
        });
    }

    #[test]
    fn a_token_counts_once(tokens in proptest::collection::vec(0u8..5, 1..30), crash_every in 1usize..6) {
        let mut replica = Replica::with(&[], &["f"]);
        for (n, token) in tokens.iter().enumerate() {
            let rule = RmwRule {
                family: family("f"),
                qualifier: Bytes::from_static(b"n"),
                change: RmwChange::Increment(1),
            };
            let answer = replica.apply(modify(n as u64 + 1, *token, "a", vec![rule])).unwrap();
            prop_assert_eq!(response::decode_cells(&answer).unwrap().len(), 1);
            if n % crash_every == 0 {
                replica.crash();
            }
        }
        let distinct = tokens.iter().collect::<std::collections::BTreeSet<_>>().len() as i64;
        let newest = replica.view().into_iter().max_by_key(|c| c.3).unwrap();
        prop_assert_eq!(newest.4, distinct.to_be_bytes().to_vec());
    }
}
