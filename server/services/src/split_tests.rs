//! Tests of the split: every row arrives at its tablet, in order, with its index.

use super::*;
use proptest::prelude::*;
use tidemark_base::{FamilySettings, MutationRef, RegionId};

struct Map(Vec<(TabletId, RowRange)>);

impl Map {
    fn at(bounds: &[&[u8]]) -> Map {
        let mut ranges = Vec::new();
        let mut start: &[u8] = b"";
        for end in bounds {
            ranges.push((start, Some(*end)));
            start = end;
        }
        ranges.push((start, None));
        let range = |(start, end): (&[u8], Option<&[u8]>)| RowRange {
            start: start.to_vec().into(),
            end: end.map(|end| end.to_vec().into()),
        };
        Map(ranges
            .into_iter()
            .enumerate()
            .map(|(i, r)| (TabletId(i as u64 + 2), range(r)))
            .collect())
    }
}

impl RowMap for Map {
    fn route(&self, row: &[u8]) -> Option<(TabletId, &RowRange)> {
        self.0
            .iter()
            .find(|(_, range)| range.contains(row))
            .map(|(id, range)| (*id, range))
    }
    fn overlapping(&self, range: &RowRange) -> Vec<(TabletId, &RowRange)> {
        self.0
            .iter()
            .filter(|(_, r)| r.overlaps(range))
            .map(|(id, r)| (*id, r))
            .collect()
    }
}

fn schema() -> TableSchema {
    TableSchema {
        families: vec![FamilySettings::new("m", 0)],
        ..TableSchema::new(RegionId(1))
    }
}

fn put(row: &[u8], family: &str) -> v1::RowMutation {
    v1::RowMutation {
        row: row.to_vec().into(),
        mutations: vec![v1::Mutation {
            mutation: Some(v1::mutation::Mutation::Put(v1::Put {
                family: family.into(),
                qualifier: "q".into(),
                version: Some(1),
                value: row.to_vec().into(),
            })),
        }],
        delete_range: None,
    }
}

fn delete(start: &[u8], end: Option<&[u8]>) -> v1::RowMutation {
    v1::RowMutation {
        delete_range: Some(v1::RangeDelete {
            range: Some(v1::RowRange {
                start: start.to_vec().into(),
                end: end.map(|end| end.to_vec().into()),
            }),
            versions: None,
        }),
        ..v1::RowMutation::default()
    }
}

/// `tablet: request row -> key` of everything in the split, and that the pieces stay in order.
fn shape(split: &Split) -> Vec<(u64, Vec<(u32, String)>)> {
    let show = |row: RowRef<'_>| match row {
        RowRef::Mutation { row, mutations } => {
            assert!(mutations.count() > 0);
            String::from_utf8_lossy(row).into_owned()
        }
        RowRef::RangeDelete { start, end, .. } => {
            let end = end.map(String::from_utf8_lossy).unwrap_or_default();
            format!("{}..{end}", String::from_utf8_lossy(start))
        }
    };
    let rows = |pieces: &Vec<Piece>| {
        let each = pieces
            .iter()
            .flat_map(|piece| piece.request_rows().zip(piece.batch.rows().map(show)));
        each.collect::<Vec<_>>()
    };
    split.tablets.iter().map(|(id, pieces)| (id.0, rows(pieces))).collect()
}

fn packed(rows: &[v1::RowMutation]) -> PackedBatch {
    let split = split_readable(rows, &schema(), "t", &Map::at(&[]));
    split.tablets[&TabletId(2)][0].batch.clone()
}

fn owned(list: &[(u32, &str)]) -> Vec<(u32, String)> {
    list.iter().map(|(index, key)| (*index, (*key).to_owned())).collect()
}

#[test]
fn rows_go_to_their_tablets_in_order_and_bad_ones_fail_alone() {
    let rows = [
        put(b"a", "m"),
        put(b"z", "m"),
        put(b"b", "nope"),
        delete(b"c", Some(b"q")),
        put(b"", "m"),
        put(b"c", "m"),
    ];
    let split = split_readable(&rows, &schema(), "t", &Map::at(&[b"m"]));
    let expected = vec![
        (2, owned(&[(0, "a"), (3, "c..m"), (5, "c")])),
        (3, owned(&[(1, "z"), (3, "m..q")])),
    ];
    assert_eq!(shape(&split), expected);
    let reasons: Vec<_> = split
        .failures
        .iter()
        .map(|(i, e)| (*i, e.reason().to_owned()))
        .collect();
    assert_eq!(reasons, [(2, "FAMILY_UNKNOWN".to_owned()), (4, "ROW_EMPTY".to_owned())]);
    assert_eq!(split.rows, 6);
}

#[test]
fn a_packed_batch_of_one_tablet_passes_as_it_is() {
    let batch = packed(&[put(b"n", "m"), delete(b"m", Some(b"x")), put(b"o", "m")]);
    let split = split_packed(batch.clone(), &Map::at(&[b"m", b"x"])).unwrap();
    let piece = &split.tablets[&TabletId(3)][0];
    assert_eq!(piece.batch.bytes().as_ptr(), batch.bytes().as_ptr());
    assert_eq!(piece.request_rows().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_packed_batch_of_two_tablets_is_cut() {
    let batch = packed(&[put(b"a", "m"), put(b"z", "m"), delete(b"b", None), put(b"c", "m")]);
    let split = split_packed(batch, &Map::at(&[b"m"])).unwrap();
    let expected = vec![
        (2, owned(&[(0, "a"), (2, "b..m"), (3, "c")])),
        (3, owned(&[(1, "z"), (2, "m..")])),
    ];
    assert_eq!(shape(&split), expected);
}

#[test]
fn readable_rows_beyond_one_batch_open_another() {
    let value = vec![0u8; 6 << 20];
    let row = |key: &str| {
        let mut row = put(key.as_bytes(), "m");
        let Some(v1::mutation::Mutation::Put(put)) = &mut row.mutations[0].mutation else {
            unreachable!("put() makes a put")
        };
        put.value = value.clone().into();
        row
    };
    let rows = [row("a"), row("b"), row("c")];
    let split = split_readable(&rows, &schema(), "t", &Map::at(&[]));
    assert!(split.failures.is_empty());
    let pieces: Vec<Vec<u32>> = split.tablets[&TabletId(2)]
        .iter()
        .map(|p| p.request_rows().collect())
        .collect();
    assert_eq!(pieces, [vec![0, 1], vec![2]]);
}

proptest! {
    /// Both ways of cutting agree, and no row is lost, doubled or reordered.
    #[test]
    fn packed_and_readable_rows_are_cut_alike(
        keys in proptest::collection::vec((proptest::collection::vec(1u8..6, 1..3), any::<bool>()), 1..20),
        bounds in proptest::collection::btree_set(proptest::collection::vec(1u8..6, 1..3), 0..4),
    ) {
        let bounds: Vec<&[u8]> = bounds.iter().map(Vec::as_slice).collect();
        let map = Map::at(&bounds);
        let rows: Vec<_> = keys
            .iter()
            .map(|(key, range)| if *range { delete(key, Some(&[9])) } else { put(key, "m") })
            .collect();
        let readable = split_readable(&rows, &schema(), "t", &map);
        let cut = split_packed(packed(&rows), &map).unwrap();
        prop_assert_eq!(shape(&readable), shape(&cut));
        for (tablet, pieces) in &cut.tablets {
            let range = &map.0[tablet.0 as usize - 2].1;
            for piece in pieces {
                let parsed = PackedBatch::parse(piece.batch.bytes().clone()).unwrap();
                prop_assert_eq!(parsed.rows_len(), piece.request_rows().count());
                prop_assert!(piece.batch.rows().all(|row| range.contains(row.key())));
                prop_assert!(piece.request_rows().is_sorted());
            }
        }
        let puts = |split: &Split| -> usize {
            split.tablets.values().flatten().map(|p| p.batch.rows().filter(|r| matches!(r, RowRef::Mutation { mutations, .. } if mutations.clone().all(|m| matches!(m, MutationRef::Put { .. })))).count()).sum()
        };
        prop_assert_eq!(puts(&cut), keys.iter().filter(|(_, range)| !range).count());
    }
}
