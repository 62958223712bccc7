//! Blocks against a naive map, the merge laws, and damage.

use super::*;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeSet;
use tidemark_base::{RegionId, Stamp};

/// The meaning: a set of facts. A live value, or the digest of a dead one.
type Fact = (Vec<u8>, i64, Stamp, Result<Vec<u8>, u16>);
type Set = BTreeSet<Fact>;

/// Dead markers stand for the values that they were.
fn normal(mut set: Set) -> Set {
    let dead: Vec<Fact> = set.iter().filter(|f| f.3.is_err()).cloned().collect();
    set.retain(|(q, v, s, value)| {
        value.as_ref().map_or(true, |value| {
            let twin = (q.clone(), *v, *s, Err(digest(value)));
            !dead.contains(&twin)
        })
    });
    set
}

fn list(facts: &Facts) -> Set {
    let mut set = Set::new();
    for column in facts.columns() {
        for (tick, slot) in column.ticks.iter().zip(&column.values) {
            let tick = facts.ticks()[*tick as usize];
            let value = match slot.dead_digest() {
                Some(digest) => Err(digest),
                None => Ok(slot.with_bytes(facts.arena(), <[u8]>::to_vec)),
            };
            let new = set.insert((column.qualifier.clone(), tick.version, tick.stamp, value));
            assert!(new, "a settled set holds each fact once");
        }
    }
    assert_eq!(set.len(), facts.len());
    set
}

fn decode(block: &[u8]) -> Set {
    list(&Merger::new().union([block]).unwrap())
}

fn merge(values: &[Vec<u8>]) -> Vec<u8> {
    Merger::new().merge(values.iter().map(|v| &v[..])).unwrap()
}

/// A tick as it is stored, and the facts in it.
fn tick(version: i64, stamp: Stamp, cells: &[(Vec<u8>, Vec<u8>)]) -> (Vec<u8>, Set) {
    let mut builder = TickBuilder::new(Vec::new(), version, stamp);
    let mut set = Set::new();
    for (qualifier, value) in cells {
        builder.push(qualifier, value);
        set.insert((qualifier.clone(), version, stamp, Ok(value.clone())));
    }
    (builder.finish(), set)
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0i32..500).prop_map(|m| (f64::from(m) / 10.0).to_be_bytes().to_vec()),
        2 => (0i64..500).prop_map(|m| m.to_be_bytes().to_vec()),
        2 => (-500i32..500).prop_map(|m| (f64::from(m) / 10.0).to_string().into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

fn any_stamp() -> impl Strategy<Value = Stamp> {
    (0u32..2, 0u64..4, 0u64..3, 0u16..3).prop_map(|(epoch, ms, count, region)| Stamp {
        epoch,
        hlc: ms << 16 | count,
        region: RegionId(region),
    })
}

/// Few coordinates and stamps, so that overwrites, repeats and ties happen.
fn any_tick() -> impl Strategy<Value = (Vec<u8>, Set)> {
    let cells = proptest::collection::btree_map(proptest::collection::vec(97u8..101, 0..2), any_value(), 1..5);
    (0i64..12, any_stamp(), cells).prop_map(|(version, stamp, cells)| {
        let cells: Vec<_> = cells.into_iter().collect();
        tick(version * 1_000_000 - 3_000_000, stamp, &cells)
    })
}

/// Stored values, as ticks or as blocks, some of whose facts became dead markers.
fn any_stored() -> impl Strategy<Value = (Vec<u8>, Set)> {
    let block = (proptest::collection::vec(any_tick(), 1..8), any::<u64>()).prop_map(|(ticks, dead)| {
        let mut merger = Merger::new();
        let mut facts = merger.union(ticks.iter().map(|(bytes, _)| &bytes[..])).unwrap();
        let mut at = 0;
        facts.judge(|_, _, _, _| {
            at += 1;
            if dead >> (at % 64) & 7 == 7 {
                Fate::Strip
            } else {
                Fate::Keep
            }
        });
        (merger.encode(&facts), list(&facts))
    });
    prop_oneof![3 => any_tick(), 1 => block]
}

fn union(all: &[(Vec<u8>, Set)]) -> Set {
    normal(all.iter().flat_map(|(_, set)| set.iter().cloned()).collect())
}

proptest! {
    #[test]
    fn a_block_holds_exactly_the_facts(all in proptest::collection::vec(any_stored(), 1..20)) {
        let block = merge(&all.iter().map(|(bytes, _)| bytes.clone()).collect::<Vec<_>>());
        prop_assert_eq!(decode(&block), union(&all));
    }

    /// O1 to the byte: any order, any grouping, any repetition.
    #[test]
    fn merging_is_associative_commutative_and_idempotent(
        all in proptest::collection::vec(any_stored(), 1..14),
        steps in proptest::collection::vec((any::<Index>(), any::<Index>(), any::<bool>()), 0..30),
    ) {
        let values: Vec<Vec<u8>> = all.into_iter().map(|(bytes, _)| bytes).collect();
        let whole = merge(&values);
        let mut left = values;
        for (a, b, keep) in steps {
            let (a, b) = (a.index(left.len()), b.index(left.len()));
            let merged = merge(&[left[a].clone(), left[b].clone()]);
            if keep {
                left.push(merged);
            } else {
                left[a] = merged;
                if a != b {
                    left.swap_remove(b);
                }
            }
        }
        left.push(whole.clone());
        prop_assert_eq!(merge(&left), whole);
    }

    /// What the judge sees, and what is left of it.
    #[test]
    fn judging_goes_from_new_to_old_and_forgets_what_it_is_told(
        all in proptest::collection::vec(any_stored(), 1..12), pattern in any::<u64>(),
    ) {
        let mut merger = Merger::new();
        let mut facts = merger.union(all.iter().map(|(bytes, _)| &bytes[..])).unwrap();
        let mut expected = Set::new();
        let (mut at, mut last) = (0u32, None);
        facts.judge(|qualifier, tick, slot, arena| {
            let place = (qualifier.to_vec(), std::cmp::Reverse(tick));
            assert!(last.as_ref().is_none_or(|last| *last <= place), "columns in order, newest first");
            last = Some(place);
            at += 1;
            let value = slot.with_bytes(arena, <[u8]>::to_vec);
            let dead = slot.dead_digest().unwrap_or_else(|| digest(&value));
            let (fate, value) = match pattern >> (at % 31 * 2) & 3 {
                0 => (Fate::Drop, None),
                1 => (Fate::Strip, Some(Err(dead))),
                _ => (Fate::Keep, Some(slot.dead_digest().map_or(Ok(value), Err))),
            };
            expected.extend(value.map(|value| (qualifier.to_vec(), tick.version, tick.stamp, value)));
            fate
        });
        let expected = normal(expected);
        prop_assert_eq!(list(&facts), expected.clone());
        let block = merger.encode(&facts);
        prop_assert_eq!(decode(&block), expected);
        prop_assert_eq!(merge(std::slice::from_ref(&block)), block);
    }

    /// A reader of columns sees what a reader of cells sees.
    #[test]
    fn columns_of_numbers_are_the_cells(all in proptest::collection::vec(any_tick(), 1..30)) {
        let block = merge(&all.iter().map(|(bytes, _)| bytes.clone()).collect::<Vec<_>>());
        let mut seen = BTreeSet::new();
        let mut expected = BTreeSet::new();
        let (mut versions, mut positions, mut floats) = (Vec::new(), Vec::new(), Vec::new());
        let mut scratch = DecodeScratch::default();
        for_each_segment(&block, |segment| {
            segment.versions(&mut versions)?;
            for column in segment.columns() {
                column.positions(&mut positions, &mut scratch)?;
                assert_eq!(positions.len(), column.cells());
                let eight = column.floats(ByteOrder::Big, &mut floats, &mut scratch)?;
                if !eight && !column.texts(&mut floats, &mut scratch)? {
                    continue;
                }
                assert_eq!(floats.len(), column.cells());
                for (position, float) in positions.iter().zip(&floats) {
                    seen.insert((column.qualifier().to_vec(), versions[*position as usize], float.to_bits()));
                }
                for (q, v, _, value) in union(&all).iter().filter(|fact| fact.0 == column.qualifier()) {
                    let value = value.as_ref().unwrap();
                    let float = match eight {
                        true => f64::from_be_bytes(value[..].try_into().unwrap()),
                        false => std::str::from_utf8(value).ok().and_then(|t| t.parse().ok()).unwrap_or(f64::NAN),
                    };
                    expected.insert((q.clone(), *v, float.to_bits()));
                }
            }
            Ok(())
        }).unwrap();
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn a_damaged_block_is_refused_or_read_without_a_panic(
        all in proptest::collection::vec(any_stored(), 1..8),
        at in any::<Index>(), flip in 1u8..=255, cut in any::<Index>(), reseal in any::<bool>(),
    ) {
        let mut block = merge(&all.into_iter().map(|(bytes, _)| bytes).collect::<Vec<_>>());
        if !reseal {
            let at = at.index(block.len());
            block[at] ^= flip;
            prop_assert!(Merger::new().merge([&block[..]]).is_err());
            return Ok(());
        }
        // Damage that a checksum does not see: what a wrong encoder or an attacker would write.
        block.truncate(block.len() - 4);
        let at = at.index(block.len() - 1) + 1;
        block[at] ^= flip;
        block.truncate(cut.index(block.len()).max(1).max(at));
        tick::seal(&mut block, 0);
        let _ = Merger::new().merge([&block[..]]);
        let mut scratch = DecodeScratch::default();
        let _ = for_each_segment(&block, |segment| {
            for column in segment.columns() {
                let _ = column.integers(ByteOrder::Little, &mut Vec::new(), &mut scratch);
                let _ = column.floats(ByteOrder::Big, &mut Vec::new(), &mut scratch);
                let _ = column.texts(&mut Vec::new(), &mut scratch);
            }
            segment.versions(&mut Vec::new())
        });
    }

    #[test]
    fn arbitrary_segments_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let mut block = vec![block::BLOCK, bytes.len() as u8];
        block.append(&mut bytes);
        tick::seal(&mut block, 0);
        let _ = Merger::new().merge([&block[..]]);
    }
}

fn stamp(hlc: u64) -> Stamp {
    Stamp {
        epoch: 0,
        hlc,
        region: RegionId(1),
    }
}

#[test]
fn long_blocks_are_cut_into_segments_and_come_back() {
    let mut facts = Facts::new();
    let n = limits::TICKS_MAX as i64 * 2 + 5;
    for i in (0..n).rev() {
        let at = Tick {
            version: i * 10,
            stamp: stamp(i as u64 % 7),
        };
        facts.push(b"q", at, &i.to_be_bytes());
    }
    facts.settle();
    let block = Encoder::new().encode(&facts);
    let mut segments = Vec::new();
    for_each_segment(&block, |segment| {
        segments.push(segment.ticks_len());
        Ok(())
    })
    .unwrap();
    assert_eq!(segments, [limits::TICKS_MAX, limits::TICKS_MAX, 5]);
    assert_eq!(decode(&block), list(&facts));
}

#[test]
fn a_tick_wider_than_a_segment_and_large_values_are_cut() {
    let mut facts = Facts::new();
    let at = |version| Tick {
        version,
        stamp: stamp(9),
    };
    for i in 0..limits::FACTS_MAX as u32 + 3 {
        facts.push(&i.to_be_bytes(), at(5), b"1");
    }
    for version in 6..9 {
        facts.push(
            b"large",
            at(version),
            &vec![version as u8; limits::SEGMENT_VALUES_BYTES],
        );
    }
    facts.settle();
    let block = Encoder::new().encode(&facts);
    let mut segments = Vec::new();
    for_each_segment(&block, |segment| {
        segments.push((segment.ticks_len(), segment.columns().len()));
        Ok(())
    })
    .unwrap();
    assert_eq!(segments, [(1, limits::FACTS_MAX), (1, 3), (1, 1), (1, 1), (1, 1)]);
    assert_eq!(Merger::new().merge([&block[..], &block[..]]).unwrap(), block);
    assert_eq!(decode(&block).len(), limits::FACTS_MAX + 6);
}

#[test]
fn two_values_with_one_stamp_are_both_kept() {
    let (a, _) = tick(
        5,
        stamp(1),
        &[(b"q".to_vec(), b"1".to_vec()), (b"r".to_vec(), b"7".to_vec())],
    );
    let (b, _) = tick(5, stamp(1), &[(b"q".to_vec(), b"2".to_vec())]);
    let block = merge(&[a, b]);
    let facts = Merger::new().union([&block[..]]).unwrap();
    assert_eq!(facts.len(), 3);
    assert_eq!(facts.ticks().len(), 2, "the tick stands twice in the table");
}

/// Docs/formats/series-block.md draws these bytes.
#[test]
fn golden() {
    let ticks = [
        (1_000_000i64, 20.5f64, "on"),
        (2_000_000, 20.6, "on"),
        (3_000_000, 20.4, "standby"),
    ];
    let ticks: Vec<Vec<u8>> = ticks
        .iter()
        .zip(0..)
        .map(|((version, temperature, state), i)| {
            let mut tick = TickBuilder::new(Vec::new(), *version, stamp((5_000 << 16) + i));
            tick.push(b"s", state.as_bytes());
            tick.push(b"t", &temperature.to_be_bytes());
            tick.finish()
        })
        .collect();
    let block = merge(&ticks);
    let expected: &[u8] = &[
        2, 58, // one segment of 58 bytes
        3, 2, 23, // three ticks, two columns, a table of 23 bytes
        0x08, 0xc0, 0x84, 0x3d, 0x80, 0x89, 0x7a, 2, 2,
        0x21, // versions: level, unit and base 1,000,000; 0 1 2 = 1 + (-1 0 1)
        0, 0, 0x90, 0x4e, 0, // milliseconds as they are: level 5,000, rests of no bits
        0, 2, 2, 0x21, // counts: level 1, rests -1 0 1
        1, 0, 1, 1, // one run of epoch 0, one of region 1
        1, b's', 8, 16, // `s`: every tick, coding 1 (dictionary), 16 bytes
        1, b't', 32, 8, // `t`: every tick, coding 4 (decimals, big endian), 8 bytes
        2, 2, b'o', b'n', 7, b's', b't', b'a', b'n', b'd', b'b', b'y', 0, 0, 65,
        0x0c, // entries, then indexes 0 0 1 in Rice form
        1, 0, 0, 0, 0x9a, 3, 2, 0x18, // one digit, not nudged, no exception: level 205, rests 0 1 -1
        4, 0x9b, 0x42, 0x1a,
    ];
    println!("{block:02x?}");
    assert_eq!(block, expected);
    assert_eq!(decode(&block).len(), 6);
}
