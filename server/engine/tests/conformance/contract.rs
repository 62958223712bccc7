//! The interface, point by point, on both engines.

use crate::world::{
    self, LATEST_NOW, NOW, World, cell, family, read_engine, read_once, stamp, tombstone, write_engine,
};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemark_base::fact::{Fact, OwnedScope};
use tidemark_base::read::{QualifierFilter, ReadFilter};
use tidemark_base::{CellRef, FamilyId, ReadSpec, RowRange, Stamp, VersionRange, limits};
use tidemark_engine::{Engine, EngineError, GarbageCut};

fn values(engine: &dyn Engine) -> Vec<String> {
    let cells = read_engine(engine, &ReadSpec::default(), NOW).unwrap();
    cells
        .iter()
        .map(|c| String::from_utf8_lossy(&c.value).into_owned())
        .collect()
}

fn put_state(engine: &dyn Engine, key: &[u8], value: &[u8]) {
    let mut batch = engine.write_batch();
    batch.put_state(key, value);
    batch.commit().unwrap();
}

fn cut(n: u64) -> GarbageCut {
    GarbageCut {
        stable: stamp(n),
        now_micros: LATEST_NOW,
    }
}

fn column(f: usize, qualifier: &str) -> OwnedScope {
    OwnedScope::Column {
        family: family(f),
        qualifier: qualifier.to_owned().into(),
    }
}

#[test]
fn a_batch_is_written_as_a_whole_or_not_at_all() {
    for world in World::both() {
        let engine = world.engine();
        {
            let mut batch = engine.write_batch();
            batch.put_state(b"k", b"v");
            assert!(batch.size().bytes > 0);
        }
        assert_eq!(engine.state(b"k").unwrap(), None);
        let mut batch = engine.write_batch();
        batch.put_state(b"k", b"v");
        batch.put_feed(1, b"record");
        batch.put_cell(CellRef {
            row: b"r",
            family: family(0),
            qualifier: b"q",
            version: 1,
            stamp: stamp(1),
            value: b"x",
        });
        assert_eq!(batch.size().facts, 1);
        batch.commit().unwrap();
        assert_eq!(values(engine), ["x"]);
        assert_eq!(engine.feed_bounds().unwrap(), Some((1, 1)));
        assert_eq!(engine.state(b"k").unwrap(), Some(Bytes::from_static(b"v")));
        assert!(engine.unflushed_bytes() > 0);
        engine.flush().unwrap();
        assert_eq!(engine.unflushed_bytes(), 0);
    }
}

#[test]
fn family_zero_is_refused() {
    for world in World::both() {
        let mut batch = world.engine().write_batch();
        batch.put_cell(CellRef {
            row: b"r",
            family: FamilyId(0),
            qualifier: b"q",
            version: 1,
            stamp: stamp(1),
            value: b"x",
        });
        assert!(matches!(batch.commit(), Err(EngineError::Invalid(_))));
        assert!(world.engine().is_empty().unwrap());
    }
}

#[test]
fn the_five_scopes_hide_what_they_cover_and_nothing_else() {
    let scopes: [(OwnedScope, VersionRange, &[&str]); 5] = [
        (column(0, "q"), VersionRange::one(1), &["2", "p", "b", "s"]),
        (column(0, "q"), VersionRange::ALL, &["p", "b", "s"]),
        (
            OwnedScope::Family { family: family(0) },
            VersionRange { from: 0, to: 1 },
            &["2", "b", "s"],
        ),
        (OwnedScope::Row, VersionRange::ALL, &["s"]),
        (
            OwnedScope::RowRange { end: Some("s".into()) },
            VersionRange::ALL,
            &["s"],
        ),
    ];
    for (scope, versions, left) in scopes {
        for world in World::both() {
            let facts = [
                cell("r", 0, "q", 1, 1, "1"),
                cell("r", 0, "q", 2, 1, "2"),
                cell("r", 0, "p", 1, 1, "p"),
                cell("r", 1, "q", 1, 1, "b"),
                cell("s", 0, "q", 1, 1, "s"),
                tombstone("r", scope.clone(), versions, 2),
            ];
            write_engine(world.engine(), &facts).unwrap();
            let mut found = values(world.engine());
            let mut left: Vec<String> = left.iter().map(|v| (*v).to_owned()).collect();
            found.sort();
            left.sort();
            assert_eq!(found, left, "{scope:?}");
            // R4: a later write is visible, with whatever version.
            write_engine(world.engine(), &[cell("r", 0, "q", 0, 3, "again")]).unwrap();
            assert!(values(world.engine()).contains(&"again".to_owned()), "{scope:?}");
        }
    }
}

#[test]
fn state_records_are_ordered_and_by_themselves() {
    for world in World::both() {
        let engine = world.engine();
        // A row range is stored nearby and must not show.
        let range = OwnedScope::RowRange { end: None };
        write_engine(engine, &[tombstone("", range, VersionRange::ALL, 1)]).unwrap();
        for key in ["a", "ab", "abc", "b", "\u{7f}"] {
            put_state(engine, key.as_bytes(), key.as_bytes());
        }
        put_state(engine, &[0xff], b"last");
        let keys = |prefix: &[u8], from: &[u8], limit| -> Vec<Bytes> {
            let found = engine.state_scan(prefix, from, limit).unwrap();
            found.into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(b"a", b"", 9), ["a", "ab", "abc"]);
        assert_eq!(keys(b"a", b"ab", 9), ["ab", "abc"]);
        assert_eq!(keys(b"a", b"ab\0", 1), ["abc"]);
        assert_eq!(keys(b"", b"", 9).len(), 6);
        assert_eq!(keys(&[0xff], b"", 9), [Bytes::from_static(&[0xff])]);
        let mut batch = engine.write_batch();
        batch.delete_state(b"ab");
        batch.put_state(b"a", b"new");
        batch.commit().unwrap();
        assert_eq!(keys(b"a", b"", 9), ["a", "abc"]);
        assert_eq!(engine.state(b"a").unwrap(), Some("new".into()));
        assert_eq!(engine.range_tombstones(), 1);
    }
}

#[test]
fn the_feed_is_appended_and_trimmed() {
    for mut world in World::both() {
        let engine = world.engine();
        assert_eq!(engine.feed_bounds().unwrap(), None);
        for seq in 1..=10u64 {
            let mut batch = engine.write_batch();
            batch.put_feed(seq, &[seq as u8; 100]);
            batch.commit().unwrap();
        }
        let sequences = |engine: &dyn Engine, from, bytes_max| -> Vec<u64> {
            engine
                .feed(from, bytes_max)
                .unwrap()
                .into_iter()
                .map(|r| r.seq)
                .collect()
        };
        assert_eq!(sequences(engine, 0, 250), [1, 2]);
        assert_eq!(sequences(engine, 4, 0), [4], "at least one");
        assert_eq!(sequences(engine, 9, usize::MAX), [9, 10]);
        assert_eq!(sequences(engine, 11, usize::MAX), [0u64; 0]);
        assert!(engine.feed_bytes() >= 1_000);
        let mut batch = engine.write_batch();
        batch.trim_feed(4);
        batch.put_feed(11, b"x");
        batch.commit().unwrap();
        assert_eq!(engine.feed_bounds().unwrap(), Some((4, 11)));
        assert_eq!(sequences(engine, 1, usize::MAX), [4, 5, 6, 7, 8, 9, 10, 11]);
        engine.flush().unwrap();
        world.crash();
        assert_eq!(world.engine().feed_bounds().unwrap(), Some((4, 11)));
        assert_eq!(sequences(world.engine(), 1, 150), [4]);
        let mut batch = world.engine().write_batch();
        batch.trim_feed(12);
        batch.commit().unwrap();
        assert_eq!(world.engine().feed_bounds().unwrap(), None);
        assert_eq!(sequences(world.engine(), 1, 150), [0u64; 0]);
    }
}

/// INV-11: facts, feed and state are always from one cut, the last flushed one.
#[test]
fn a_crash_returns_to_the_last_flush() {
    for mut world in World::both() {
        let step = |engine: &dyn Engine, n: u64| {
            let mut batch = engine.write_batch();
            batch.put_cell(CellRef {
                row: format!("r{n}").as_bytes(),
                family: family(0),
                qualifier: b"q",
                version: 1,
                stamp: stamp(n),
                value: n.to_string().as_bytes(),
            });
            batch.put_feed(n, b"record");
            batch.put_state(b"applied", &n.to_le_bytes());
            batch.put_state(format!("once{n}").as_bytes(), b"");
            batch.commit().unwrap();
        };
        let applied = |value: Option<Bytes>| value.map(|v| u64::from_le_bytes(v[..].try_into().unwrap()));
        assert_eq!(applied(world.engine().durable_state(b"applied")), None);
        for n in 1..=3 {
            step(world.engine(), n);
        }
        assert_eq!(applied(world.engine().durable_state(b"applied")), None);
        world.engine().flush().unwrap();
        assert_eq!(applied(world.engine().durable_state(b"applied")), Some(3));
        step(world.engine(), 4);
        step(world.engine(), 5);
        let range = OwnedScope::RowRange { end: None };
        write_engine(world.engine(), &[tombstone("", range, VersionRange::ALL, 30)]).unwrap();
        let mut batch = world.engine().write_batch();
        batch.delete_state(b"once1");
        batch.trim_feed(3);
        batch.commit().unwrap();
        let engine = world.engine();
        assert_eq!(applied(engine.durable_state(b"applied")), Some(3));
        assert_eq!(engine.durable_state(b"once1"), Some(Bytes::new()));
        assert_eq!(engine.durable_state(b"once4"), None);
        assert_eq!(applied(engine.state(b"applied").unwrap()), Some(5));
        assert!(values(engine).is_empty());
        world.crash();
        let engine = world.engine();
        assert_eq!(values(engine), ["1", "2", "3"]);
        assert_eq!(engine.feed_bounds().unwrap(), Some((1, 3)));
        assert_eq!(applied(engine.state(b"applied").unwrap()), Some(3));
        assert_eq!(applied(engine.durable_state(b"applied")), Some(3));
        assert_eq!(engine.state_scan(b"once", b"", 9).unwrap().len(), 3);
        assert_eq!(engine.range_tombstones(), 0);
    }
}

#[test]
fn two_values_with_one_stamp_are_an_alarm_before_and_after_compaction() {
    for world in World::both() {
        let facts = [
            cell("r", 0, "q", 7, 1, "one"),
            cell("r", 0, "q", 7, 1, "two"),
            cell("s", 0, "q", 7, 1, "fine"),
        ];
        write_engine(world.engine(), &facts).unwrap();
        for _ in 0..3 {
            let error = read_engine(world.engine(), &ReadSpec::default(), NOW).unwrap_err();
            let EngineError::Corruption(message) = &error else {
                panic!("{error:?}");
            };
            for part in ["\"r\"", "\"q\"", "version 7"] {
                assert!(message.contains(part), "{message}");
            }
            assert!(world.engine().digest(&RowRange::all(), NOW).is_err());
            assert_eq!(read_engine(world.engine(), &ReadSpec::row(b"s"), NOW).unwrap().len(), 1);
            world.engine().flush().unwrap();
            world.compact();
            world.engine().collect_garbage(cut(1)).unwrap();
        }
    }
}

#[test]
fn garbage_goes_and_what_is_needed_stays() {
    for mut world in World::both() {
        let mut schema = world::schema();
        schema.families[1].max_versions = Some(2);
        world.set_schema(schema);
        let facts = [
            // Superseded, deleted, deleted with the row.
            cell("a", 0, "q", 1, 1, "old"),
            cell("a", 0, "q", 1, 3, "new"),
            cell("a", 0, "p", 1, 1, "deleted"),
            tombstone("a", column(0, "p"), VersionRange::ALL, 2),
            cell("b", 0, "q", 1, 1, "row"),
            tombstone("b", OwnedScope::Row, VersionRange::ALL, 2),
            // A tombstone above the cut stays.
            tombstone("b", OwnedScope::Row, VersionRange::ALL, 9),
            // Beyond the limit, and within it but dead.
            cell("c", 1, "q", 3, 1, "3"),
            cell("c", 1, "q", 2, 1, "2"),
            cell("c", 1, "q", 1, 1, "1"),
            tombstone("c", column(1, "q"), VersionRange::one(3), 2),
            // A range of rows.
            cell("x", 0, "q", 1, 1, "range"),
            tombstone("w", OwnedScope::RowRange { end: None }, VersionRange::ALL, 2),
        ];
        write_engine(world.engine(), &facts).unwrap();
        let before = read_engine(world.engine(), &ReadSpec::default(), NOW).unwrap();
        let report = world.engine().collect_garbage(cut(5)).unwrap();
        assert_eq!(report.cells_dropped, 5, "old, deleted, row, 1, range");
        assert_eq!(report.tombstones_dropped, 4);
        assert_eq!(world.engine().range_tombstones(), 0);
        assert_eq!(read_engine(world.engine(), &ReadSpec::default(), NOW).unwrap(), before);
        let left = world.engine().facts().unwrap();
        let (cells, tombstones): (Vec<&Fact>, Vec<&Fact>) = left.iter().partition(|f| matches!(f, Fact::Cell { .. }));
        assert_eq!(cells.len(), 3, "new, the dead marker of 3, and 2: {cells:?}");
        assert_eq!(
            tombstones.len(),
            2,
            "the one above the cut, and the marker's: {tombstones:?}"
        );
        world.crash();
        assert_eq!(read_engine(world.engine(), &ReadSpec::default(), NOW).unwrap(), before);
        assert_eq!(world.engine().collect_garbage(cut(5)).unwrap().cells_dropped, 0);
    }
}

#[test]
fn everything_deleted_leaves_nothing() {
    for world in World::both() {
        let mut facts: Vec<Fact> = (0..50).map(|n| cell(&format!("r{n}"), 0, "q", 1, 1, "v")).collect();
        facts.push(tombstone("", OwnedScope::RowRange { end: None }, VersionRange::ALL, 2));
        write_engine(world.engine(), &facts).unwrap();
        assert!(!world.engine().is_empty().unwrap() && world.engine().has_family_facts(family(0)).unwrap());
        world.engine().collect_garbage(cut(2)).unwrap();
        assert!(world.engine().is_empty().unwrap() && !world.engine().has_family_facts(family(0)).unwrap());
    }
}

#[test]
fn facts_of_unknown_families_are_invisible_and_kept() {
    for mut world in World::both() {
        let facts = [
            cell("r", 2, "q", 1, 1, "dead"),
            tombstone("r", OwnedScope::Row, VersionRange::ALL, 2),
            cell("r", 2, "q", 1, 3, "alive"),
            cell("r", 2, "p", 1, 1, "dead too"),
        ];
        write_engine(world.engine(), &facts).unwrap();
        world.engine().collect_garbage(cut(5)).unwrap();
        assert!(values(world.engine()).is_empty());
        assert!(world.engine().has_family_facts(family(2)).unwrap());
        assert!(!world.engine().has_family_facts(family(0)).unwrap());
        let mut schema = world::schema();
        schema
            .families
            .push(tidemark_base::FamilySettings::new(world::FAMILIES[2], 0));
        world.set_schema(schema);
        assert_eq!(values(world.engine()), ["alive"]);
    }
}

/// A collection that can forget nothing does nothing; one that may, does its work.
#[test]
fn collections_are_skipped_where_nothing_can_have_become_garbage() {
    for mut world in World::both() {
        let collect = |world: &World, n: u64, now_micros: i64| {
            let cut = GarbageCut {
                stable: stamp(n),
                now_micros,
            };
            world.engine().collect_garbage(cut).unwrap()
        };
        let compactions = |world: &World| match world {
            World::Memory(..) => 0,
            World::Rocks { engine, .. } => engine.as_ref().unwrap().compactions(),
        };
        let mut schema = world::schema();
        schema.families[1].ttl_micros = Some(1_000);
        world.set_schema(schema.clone());
        let facts = [
            cell("r", 0, "q", NOW, 1, "stays"),
            cell("r", 1, "q", NOW, 1, "expires"),
            cell("s", 0, "q", NOW, 2, "dies"),
            tombstone("s", OwnedScope::Row, VersionRange::ALL, 30),
        ];
        write_engine(world.engine(), &facts).unwrap();
        let expires_at = NOW + 1_000 + LATEST_NOW - NOW;
        assert!(!collect(&world, 20, NOW).skipped, "the first looks");
        // What the first deleted is still in files, so a second compaction is due; from then on nothing is.
        while !collect(&world, 20, NOW).skipped {}
        let before = compactions(&world);
        for n in [20, 29, 0, 20] {
            assert!(collect(&world, n, expires_at - 1).skipped, "{n}");
        }
        assert_eq!(compactions(&world), before, "not one file was rewritten");
        let report = collect(&world, 30, NOW);
        assert_eq!(
            (report.skipped, report.tombstones_dropped),
            (false, 1),
            "the cut passed the tombstone"
        );
        while !collect(&world, 30, NOW).skipped {}
        let report = collect(&world, 30, expires_at);
        assert_eq!((report.skipped, report.cells_dropped), (false, 1), "a cell expired");
        assert_eq!(values(world.engine()), ["stays"]);
        while !collect(&world, 30, expires_at).skipped {}
        write_engine(world.engine(), &[cell("t", 0, "q", NOW, 40, "new")]).unwrap();
        assert!(!collect(&world, 30, expires_at).skipped, "a fact came");
        while !collect(&world, 30, expires_at).skipped {}
        schema.revision += 1;
        schema.families[0].max_versions = Some(1);
        world.set_schema(schema);
        assert!(!collect(&world, 30, expires_at).skipped, "another schema");
        world.engine().flush().unwrap();
        world.crash();
        assert!(
            !collect(&world, 30, expires_at).skipped,
            "after opening nothing is known"
        );
    }
}

#[test]
fn facts_of_dropped_families_go_whoever_comes_first_and_unknown_ones_stay() {
    let family_facts = |f: usize| {
        [
            cell("r", f, "q", 1, 1, "old"),
            cell("r", f, "q", 1, 9, "new"),
            cell("s", f, "q", 1, 2, "alone"),
            tombstone("r", OwnedScope::Family { family: family(f) }, VersionRange::ALL, 5),
            tombstone("s", column(f, "q"), VersionRange::ALL, 1),
        ]
    };
    // By background compaction, and by a collection that may drop no tombstone yet: nothing waits for the cut.
    for collect in [false, true] {
        for mut world in World::both() {
            for f in 0..3 {
                write_engine(world.engine(), &family_facts(f)).unwrap();
            }
            let mut schema = world::schema();
            schema.families.remove(1);
            schema.dropped = vec![family(1)];
            world.set_schema(schema.clone());
            assert_eq!(values(world.engine()), ["new", "alone"], "only `a` lives");
            world.engine().flush().unwrap();
            match collect {
                true => {
                    let keep_tombstones = GarbageCut {
                        stable: Stamp::MIN,
                        now_micros: LATEST_NOW,
                    };
                    let report = world.engine().collect_garbage(keep_tombstones).unwrap();
                    assert!(report.cells_dropped + report.tombstones_dropped >= 5, "{report:?}");
                }
                false => world.compact(),
            }
            let held = [0, 1, 2].map(|f| world.engine().has_family_facts(family(f)).unwrap());
            assert_eq!(held, [true, false, true], "living, dropped, unknown");
            assert_eq!(values(world.engine()), ["new", "alone"]);
            // What was unknown may come to life, whole.
            schema
                .families
                .push(tidemark_base::FamilySettings::new(world::FAMILIES[2], 0));
            world.set_schema(schema);
            assert_eq!(values(world.engine()).len(), 4);
            world.engine().flush().unwrap();
            world.crash();
            assert!(!world.engine().has_family_facts(family(1)).unwrap());
        }
    }
}

#[test]
fn a_cursor_shows_one_moment() {
    for world in World::both() {
        let engine = world.engine();
        let facts: Vec<Fact> = (0..20).map(|n| cell(&format!("r{n:02}"), 0, "q", 1, 1, "v")).collect();
        write_engine(engine, &facts).unwrap();
        let mut cursor = engine.read(&ReadSpec::default(), NOW).unwrap();
        assert!(cursor.advance().unwrap());
        let range = OwnedScope::RowRange { end: None };
        write_engine(
            engine,
            &[
                tombstone("", range, VersionRange::ALL, 5),
                cell("r99", 0, "q", 1, 6, "v"),
            ],
        )
        .unwrap();
        engine.collect_garbage(cut(5)).unwrap();
        let mut count = 1;
        while cursor.advance().unwrap() {
            count += 1;
        }
        assert_eq!(count, 20);
        assert!(!cursor.advance().unwrap(), "the end stays the end");
        assert_eq!(values(engine).len(), 1);
    }
}

#[test]
fn a_scan_resumes_behind_its_last_row_in_both_directions() {
    for world in World::both() {
        let facts: Vec<Fact> = (0..10)
            .flat_map(|n| {
                [
                    cell(&format!("r{n}"), 0, "q", 1, 1, "v"),
                    cell(&format!("r{n}"), 1, "q", 1, 1, "w"),
                ]
            })
            .collect();
        write_engine(world.engine(), &facts).unwrap();
        for reverse in [false, true] {
            let mut rows = Vec::new();
            let mut range = RowRange::all();
            loop {
                let spec = ReadSpec {
                    ranges: vec![range.clone()],
                    reverse,
                    rows_limit: Some(3),
                    ..ReadSpec::default()
                };
                let cells = read_engine(world.engine(), &spec, NOW).unwrap();
                let Some(last) = cells.last() else {
                    break;
                };
                match reverse {
                    true => range.end = Some(last.row.clone()),
                    false => range.start = RowRange::row(&last.row).end.unwrap(),
                }
                rows.extend(cells.into_iter().map(|c| c.row));
            }
            rows.dedup();
            let mut expected: Vec<Bytes> = (0..10).map(|n| format!("r{n}").into()).collect();
            if reverse {
                expected.reverse();
            }
            assert_eq!(rows, expected);
        }
    }
}

#[test]
fn digests_of_parts_add_up() {
    for world in World::both() {
        let facts: Vec<Fact> = (0..30).map(|n| cell(&format!("r{n:02}"), 0, "q", 1, n, "v")).collect();
        write_engine(world.engine(), &facts).unwrap();
        let range = |start: &str, end: Option<&str>| RowRange {
            start: start.to_owned().into(),
            end: end.map(|e| e.to_owned().into()),
        };
        let whole = world.engine().digest(&RowRange::all(), NOW).unwrap();
        let mut sum = world.engine().digest(&range("", Some("r17")), NOW).unwrap();
        sum.add(world.engine().digest(&range("r17", None), NOW).unwrap());
        assert_eq!((sum, whole.rows, whole.cells), (whole, 30, 30));
        let middle = world.engine().middle_row().unwrap().unwrap();
        assert!(middle > "r10" && middle < "r20", "{middle:?}");
    }
}

#[test]
fn the_middle_of_too_little_is_none() {
    for world in World::both() {
        assert_eq!(world.engine().middle_row().unwrap(), None);
        write_engine(
            world.engine(),
            &[cell("r", 0, "q", 1, 1, "v"), cell("r", 0, "p", 1, 1, "v")],
        )
        .unwrap();
        assert_eq!(world.engine().middle_row().unwrap(), None);
        write_engine(world.engine(), &[cell("s", 0, "q", 1, 1, "v")]).unwrap();
        assert_eq!(world.engine().middle_row().unwrap(), Some("s".into()));
    }
}

#[test]
fn bad_filters_are_refused_when_the_read_begins() {
    for world in World::both() {
        for source in ["(".to_owned(), "a".repeat(limits::REGEX_BYTES_MAX + 1)] {
            let filter = ReadFilter {
                qualifier: QualifierFilter::Regex(source),
                ..ReadFilter::default()
            };
            let spec = ReadSpec {
                filter,
                ..ReadSpec::default()
            };
            assert!(matches!(world.engine().read(&spec, NOW), Err(EngineError::Invalid(_))));
        }
    }
}

#[test]
fn cells_at_their_limits_are_stored_and_read() {
    let big = |n: usize| "x".repeat(n);
    for world in World::both() {
        let fact = cell(
            &big(limits::ROW_BYTES_MAX),
            0,
            &big(limits::QUALIFIER_BYTES_MAX),
            i64::MAX,
            1,
            &big(limits::VALUE_BYTES_MAX),
        );
        write_engine(world.engine(), &[fact, cell("", 0, "", 0, 1, "")]).unwrap();
        world.engine().flush().unwrap();
        let cells = read_engine(world.engine(), &ReadSpec::default(), NOW).unwrap();
        assert_eq!(cells.len(), 2);
        assert_eq!(cells[1].value.len(), limits::VALUE_BYTES_MAX);
    }
}

/// Readers beside a writer and a collector: a batch replaces all rows by a row range and new cells at once, so a reader
/// sees one generation, whole.
#[test]
fn readers_never_see_half_a_batch() {
    const ROWS: usize = 8;
    const GENERATIONS: u64 = 60;
    for world in World::both() {
        let engine = world.engine();
        let generation = |n: u64| {
            let range = OwnedScope::RowRange { end: None };
            let mut facts = vec![tombstone("", range, VersionRange::ALL, 2 * n)];
            facts.extend((0..ROWS).map(|r| cell(&format!("r{r}"), 0, "q", n as i64, 2 * n + 1, &n.to_string())));
            write_engine(engine, &facts).unwrap();
        };
        generation(1);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 2..GENERATIONS {
                    generation(n);
                    if n % 10 == 0 {
                        engine.collect_garbage(cut(2 * n - 8)).unwrap();
                    }
                }
                done.store(true, Ordering::Release);
            });
            for reverse in [false, true] {
                let done = &done;
                scope.spawn(move || {
                    while !done.load(Ordering::Acquire) {
                        let spec = ReadSpec {
                            reverse,
                            ..ReadSpec::default()
                        };
                        let cells = read_once(engine, &spec, NOW).unwrap();
                        assert_eq!(cells.len(), ROWS);
                        assert!(cells.iter().all(|c| c.value == cells[0].value), "{cells:?}");
                    }
                });
            }
        });
        assert!(engine.range_tombstones() < GENERATIONS as usize);
    }
}

#[test]
fn expired_cells_go_only_after_every_clock_agrees() {
    for mut world in World::both() {
        let mut schema = world::schema();
        schema.families[0].ttl_micros = Some(3);
        world.set_schema(schema);
        let facts = [
            cell("r", 0, "q", NOW - 3, 1, "gone"),
            cell("r", 0, "q", NOW - 2, 1, "stays"),
        ];
        write_engine(world.engine(), &facts).unwrap();
        assert_eq!(values(world.engine()), ["stays"]);
        let early = GarbageCut {
            stable: Stamp::MIN,
            now_micros: NOW,
        };
        world.engine().flush().unwrap();
        let report = world.engine().collect_garbage(early).unwrap();
        // RocksDB's own compaction goes by its clock, which says the latest now.
        let compacted = matches!(world, World::Rocks { .. });
        assert_eq!(report.cells_dropped, u64::from(compacted));
        world.engine().collect_garbage(cut(0)).unwrap();
        assert_eq!(world.engine().facts().unwrap().len(), 1);
        assert_eq!(values(world.engine()), ["stays"]);
    }
}

#[test]
fn a_poisoned_twin_takes_no_writes_until_it_is_reopened() {
    let mut world = World::memory();
    write_engine(world.engine(), &[cell("r", 0, "q", 1, 1, "v")]).unwrap();
    if let World::Memory(engine, _) = &world {
        engine.poison("a test says so");
    }
    let refused = write_engine(world.engine(), &[cell("r", 0, "q", 2, 1, "v")]);
    assert!(matches!(refused, Err(EngineError::Poisoned(_))));
    assert!(world.engine().poisoned().is_some() && world.engine().flush().is_err());
    world.crash();
    assert!(world.engine().poisoned().is_none() && world.engine().is_empty().unwrap());
}
