//! The cut, against a direct reading of its rule: every row reaches exactly the tablet that holds it, with its stamp.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tidemark_base::{FamilyId, RegionId, VersionRange};

const FAMILY: FamilyId = FamilyId(0x8000_0001);

fn range(start: &str, end: &str) -> RowRange {
    RowRange {
        start: Bytes::copy_from_slice(start.as_bytes()),
        end: (!end.is_empty()).then(|| Bytes::copy_from_slice(end.as_bytes())),
    }
}

fn stamp(hlc: u64) -> Stamp {
    Stamp {
        epoch: 0,
        hlc,
        region: RegionId(1),
    }
}

#[derive(Clone, Debug)]
enum Row {
    Put(Vec<u8>),
    DeleteRange(Vec<u8>, Option<Vec<u8>>),
}

fn batch(rows: &[Row]) -> PackedBatch {
    let mut builder = BatchBuilder::new();
    for row in rows {
        match row {
            Row::Put(key) => {
                builder.begin_row(key).unwrap();
                builder.put(FAMILY, b"a", 1, b"x").unwrap();
                builder.put(FAMILY, b"b", 2, b"y").unwrap();
                builder.end_row().unwrap();
            }
            Row::DeleteRange(start, end) => {
                let range = RowRange {
                    start: start.clone().into(),
                    end: end.clone().map(Bytes::from),
                };
                builder.push_range_delete(&range, VersionRange::ALL).unwrap();
            }
        }
    }
    builder.finish().unwrap()
}

fn run(range: RowRange, records: Vec<Decoded>) -> Run {
    Run {
        stream: StreamId {
            region: RegionId(1),
            tablet: 9,
        },
        link: 4,
        range,
        first_seq: 1,
        last_seq: 9,
        decoded: DecodedRun {
            closed_hlc: 500,
            records,
            ..DecodedRun::default()
        },
    }
}

fn write(seq: u64, first: u64, offsets: &[u32], rows: &[Row]) -> Decoded {
    Decoded::Write {
        seq,
        first: stamp(first),
        offsets: offsets.to_vec(),
        batch: batch(rows),
        body: Bytes::from_static(b"body"),
    }
}

fn tablets() -> Vec<(TabletId, RowRange)> {
    vec![
        (TabletId(2), range("", "c")),
        (TabletId(3), range("c", "k")),
        (TabletId(4), range("k", "")),
    ]
}

fn put(key: &str) -> Row {
    Row::Put(key.as_bytes().to_vec())
}

#[test]
fn every_tablet_gets_the_whole_range_of_sequences_also_without_rows() {
    let close = Decoded::Close {
        seq: 9,
        stamp: stamp(500),
    };
    let batches = cut(run(RowRange::all(), vec![close]), &tablets());
    assert_eq!(batches.len(), 3);
    for (_, batch) in batches {
        assert_eq!((batch.first_seq, batch.last_seq, batch.closed_hlc), (1, 9, 500));
        assert!(batch.parts.is_empty() && batch.unreadable.is_empty());
    }
}

#[test]
fn rows_go_to_their_tablet_with_their_stamps() {
    let record = write(3, 100, &[0, 2, 5], &[put("k"), put("b"), put("z")]);
    let batches = cut(run(RowRange::all(), vec![record]), &tablets());
    let parts = |at: usize| batches[at].1.parts.clone();
    assert_eq!(parts(0)[0].offsets, [2]);
    assert!(parts(1).is_empty());
    assert_eq!(
        (parts(2)[0].offsets.clone(), parts(2)[0].seq, parts(2)[0].first),
        (vec![0, 5], 3, stamp(100))
    );
    let keys: Vec<Vec<u8>> = parts(2)[0].batch.rows().map(|row| row.key().to_vec()).collect();
    assert_eq!(keys, [b"k".to_vec(), b"z".to_vec()]);
}

#[test]
fn a_batch_of_one_tablet_passes_as_it_is() {
    let record = write(1, 100, &[0, 1], &[put("d"), put("e")]);
    let Decoded::Write { batch, .. } = &record else {
        unreachable!()
    };
    let bytes = batch.bytes().clone();
    let batches = cut(run(RowRange::all(), vec![record]), &tablets());
    assert_eq!(batches[1].1.parts[0].batch.bytes().as_ptr(), bytes.as_ptr());
}

#[test]
fn a_range_delete_is_clipped_and_keeps_its_stamp() {
    let record = write(
        1,
        100,
        &[0, 1],
        &[put("a"), Row::DeleteRange(b"b".to_vec(), Some(b"m".to_vec()))],
    );
    let batches = cut(run(RowRange::all(), vec![record]), &tablets());
    let ranges: Vec<(Vec<u8>, Option<Vec<u8>>, u32)> = batches
        .iter()
        .flat_map(|(_, batch)| &batch.parts)
        .flat_map(|part| {
            part.batch
                .rows()
                .zip(part.offsets.clone())
                .filter_map(|(row, offset)| match row {
                    RowRef::RangeDelete { start, end, .. } => Some((start.to_vec(), end.map(<[u8]>::to_vec), offset)),
                    RowRef::Mutation { .. } => None,
                })
                .collect::<Vec<_>>()
        })
        .collect();
    let expected = [("b", "c"), ("c", "k"), ("k", "m")]
        .map(|(start, end)| (start.as_bytes().to_vec(), Some(end.as_bytes().to_vec()), 1));
    assert_eq!(ranges, expected);
    assert_eq!(batches[0].1.parts[0].offsets, [0, 1]);
}

#[test]
fn what_does_not_fit_goes_whole_to_the_first_tablet() {
    let outside = write(4, 100, &[0, 1], &[put("d"), put("x")]);
    let lost = Decoded::Unreadable(UnreadableRecord {
        seq: 5,
        cause: "sum".into(),
        bytes: Some(Bytes::new()),
    });
    let batches = cut(run(range("c", "k"), vec![outside, lost]), &tablets()[1..2]);
    let seqs: Vec<u64> = batches[0].1.unreadable.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, [4, 5]);
    assert!(batches[0].1.parts.is_empty());
}

/// INV-40: nobody knows whose rows it held, so no tablet's watermark may pass it.
#[test]
fn a_bad_record_pins_every_tablet_that_it_may_concern_and_is_kept_once() {
    let lost = Decoded::Unreadable(UnreadableRecord {
        seq: 5,
        cause: "sum".into(),
        bytes: Some(Bytes::from_static(b"evidence")),
    });
    let batches = cut(run(RowRange::all(), vec![lost]), &tablets());
    let pins: Vec<(u64, Option<&[u8]>)> = batches
        .iter()
        .flat_map(|(_, batch)| &batch.unreadable)
        .map(|record| (record.seq, record.bytes.as_deref()))
        .collect();
    assert_eq!(pins, [(5, Some(&b"evidence"[..])), (5, None), (5, None)]);
    let cause = &batches[2].1.unreadable[0].cause;
    assert!(
        cause.contains(&TabletId(2).to_string()) && cause.contains("sum"),
        "{cause}"
    );
    assert!(batches.iter().all(|(_, batch)| batch.link == 4));
}

#[test]
fn what_cannot_be_decoded_counts_as_a_write_and_never_advances_the_closed_time() {
    let garbage = RunRecord {
        seq: 1,
        body: Bytes::from_static(b"\xff\xff"),
        unreadable: None,
    };
    let run = decode_records(vec![garbage]);
    assert!(matches!(run.records[0], Decoded::Unreadable(_)));
    assert_eq!((run.closed_hlc, run.oldest_rows_hlc), (0, Some(0)));
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(b'a'..b'e', 1..4)
}

fn row() -> impl Strategy<Value = Row> {
    let delete = (key(), proptest::option::of(key())).prop_map(|(start, end)| match end {
        Some(end) if end <= start => Row::DeleteRange(start, None),
        end => Row::DeleteRange(start, end),
    });
    prop_oneof![3 => key().prop_map(Row::Put), 1 => delete]
}

/// For each probed key: which offsets touch it.
fn touched(batch: &PackedBatch, offsets: &[u32], only: &RowRange) -> BTreeMap<Vec<u8>, Vec<u32>> {
    let mut probes = vec![b"a".to_vec(), b"e".to_vec()];
    for a in b'a'..b'e' {
        for b in b'a'..b'e' {
            probes.push(vec![a, b]);
            probes.push(vec![a, b, b'a']);
            probes.push(vec![a]);
        }
    }
    let mut out: BTreeMap<Vec<u8>, Vec<u32>> = BTreeMap::new();
    for probe in probes.into_iter().filter(|probe| only.contains(probe)) {
        let hit = out.entry(probe.clone()).or_default();
        hit.clear();
        for (row, offset) in batch.rows().zip(offsets) {
            let covers = match row {
                RowRef::Mutation { row, .. } => row == probe,
                RowRef::RangeDelete { start, end, .. } => probe[..] >= *start && end.is_none_or(|end| probe[..] < *end),
            };
            if covers {
                hit.push(*offset);
            }
        }
    }
    out
}

proptest! {
    /// Read tablet by tablet, the parts say about every row exactly what the whole said.
    #[test]
    fn the_parts_are_together_the_whole(
        rows in proptest::collection::vec(row(), 1..12),
        mut splits in proptest::collection::btree_set(key(), 0..5),
    ) {
        splits.insert(Vec::new());
        let starts: Vec<Vec<u8>> = splits.into_iter().collect();
        let tablets: Vec<(TabletId, RowRange)> = starts.iter().enumerate().map(|(n, start)| {
            let end = starts.get(n + 1).cloned().map(Bytes::from);
            (TabletId(n as u64 + 2), RowRange { start: start.clone().into(), end })
        }).collect();
        let offsets: Vec<u32> = (0..rows.len() as u32).map(|n| n * 3).collect();
        let whole = batch(&rows);
        let batches = cut(run(RowRange::all(), vec![write(1, 10, &offsets, &rows)]), &tablets);
        for ((_, range), (_, batch)) in tablets.iter().zip(&batches) {
            prop_assert!(batch.unreadable.is_empty());
            let expected = touched(&whole, &offsets, range);
            let got = match batch.parts.first() {
                Some(part) => {
                    prop_assert_eq!(part.batch.rows_len(), part.offsets.len());
                    prop_assert!(PackedBatch::parse(part.batch.bytes().clone()).is_ok());
                    touched(&part.batch, &part.offsets, range)
                }
                None => expected.keys().map(|key| (key.clone(), Vec::new())).collect(),
            };
            prop_assert_eq!(got, expected);
        }
    }
}
