//! Series records against the same facts as cell records: every entry, every seek, every read.

use super::*;
use crate::api::CellCursor;
use crate::ops::Edit;
use crate::reap::{Reaper, Rules};
use crate::series::collect::{Edits, Left};
use crate::series::merged::Merged;
use crate::series::pending::Pending;
use crate::series::unite::unite;
use crate::series::{Merger, TickBuilder};
use crate::view::{RangeTombstones, View};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;
use tidemark_base::read::{QualifierFilter, ReadFilter, ReadSpec};
use tidemark_base::{CellRef, FamilySettings, RegionId, Scope, Stamp, TableSchema, TombstoneRef, VersionRange};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

const LENGTH: i64 = 10;

/// Entries of a map.
struct MapSource {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    at: Option<usize>,
}

impl MapSource {
    fn new(map: &Map) -> MapSource {
        MapSource {
            entries: map.clone().into_iter().collect(),
            at: None,
        }
    }
}

impl FactSource for MapSource {
    fn seek(&mut self, key: &[u8]) {
        self.at = Some(self.entries.partition_point(|(k, _)| k[..] < *key));
    }

    fn seek_before(&mut self, key: &[u8]) {
        self.at = self.entries.partition_point(|(k, _)| k[..] < *key).checked_sub(1);
    }

    fn seek_last(&mut self) {
        self.at = self.entries.len().checked_sub(1);
    }

    fn next(&mut self) {
        self.at = self.at.map(|at| at + 1);
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.entries.get(self.at?).map(|(k, v)| (&k[..], &v[..]))
    }

    fn status(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn corruption(&self, what: String) -> EngineError {
        EngineError::Corruption(what)
    }
}

/// One row mutation at one version, and how its record is kept.
#[derive(Clone, Debug)]
struct Write {
    row: Vec<u8>,
    family: u8,
    version: i64,
    stamp: Stamp,
    cells: BTreeMap<Vec<u8>, Vec<u8>>,
    /// As a tick of its own, merged with what is there, or in a record of its own number.
    kept: u8,
}

fn family(n: u8) -> FamilyId {
    FamilySettings::new(["a", "b", "c"][usize::from(n)], 0).id
}

fn any_write() -> impl Strategy<Value = Write> {
    let bytes = |n| proptest::collection::vec(0u8..3, 0..n);
    let cells = proptest::collection::btree_map(bytes(3), bytes(10), 1..4);
    let stamp = (0u64..5, 1u16..3).prop_map(|(hlc, region)| Stamp {
        epoch: 0,
        hlc,
        region: RegionId(region),
    });
    (
        proptest::collection::vec(0u8..3, 1..3),
        0u8..3,
        0i64..40,
        stamp,
        cells,
        0u8..3,
    )
        .prop_map(|(row, family, version, stamp, cells, kept)| Write {
            row,
            family,
            version,
            stamp,
            cells,
            kept,
        })
}

/// The same facts as cell records and as series records.
fn both(writes: &[Write]) -> (Map, Map) {
    let (mut cells, mut records) = (Map::new(), Map::new());
    let mut merger = Merger::new();
    for (number, write) in writes.iter().enumerate() {
        let family = family(write.family);
        let mut tick = TickBuilder::new(Vec::new(), write.version, write.stamp);
        for (qualifier, value) in &write.cells {
            tick.push(qualifier, value);
            let key = key::cell_key(&write.row, family, qualifier, write.version, write.stamp, value);
            cells.insert(key, [&[VALUE_LIVE], &value[..]].concat());
        }
        let tick = tick.finish();
        let mut key = Vec::new();
        push_record_key(&mut key, &write.row, family, time_block(write.version, LENGTH));
        if write.kept == 2 {
            key.extend_from_slice(&(number as u32).to_be_bytes());
        }
        let there = records.get(&key).cloned();
        let value = match there {
            Some(there) => merger.merge([&tick[..], &there[..]]).unwrap(),
            None if write.kept == 1 => merger.merge([&tick[..]]).unwrap(),
            None => tick,
        };
        records.insert(key, value);
    }
    (cells, records)
}

/// Everything held, records but no cells, nothing.
fn any_held() -> impl Strategy<Value = Held> {
    let held = |bytes_max, cells_max| Held {
        bytes_max,
        cells_max,
        ..Held::READER
    };
    prop_oneof![
        Just(Held::READER),
        Just(held(1 << 20, 0)),
        Just(held(100, 3)),
        Just(held(0, 0))
    ]
}

fn walk(source: &mut impl FactSource) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some((key, value)) = source.entry() {
        out.push((key.to_vec(), value.to_vec()));
        source.next();
    }
    source.status().unwrap();
    out
}

fn here(source: &impl FactSource) -> Option<(Vec<u8>, Vec<u8>)> {
    source.entry().map(|(k, v)| (k.to_vec(), v.to_vec()))
}

#[derive(Clone, Debug)]
enum Step {
    Next,
    /// Cut off so many bytes of an entry's key and go there.
    Seek(Index, u8),
    /// Behind its row or column.
    Behind(Index, bool),
    SeekBefore(Index),
    SeekLast,
    /// So much of the run here, if there is one.
    PassRun(Index),
    /// Behind the column of the run here, if there is one.
    PassColumn,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Next),
        3 => (any::<Index>(), 0u8..40).prop_map(|(at, cut)| Step::Seek(at, cut)),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(at, row)| Step::Behind(at, row)),
        1 => any::<Index>().prop_map(Step::SeekBefore),
        1 => Just(Step::SeekLast),
        2 => any::<Index>().prop_map(Step::PassRun),
        1 => Just(Step::PassColumn),
    ]
}

/// The cells of the run here.
fn run(source: &mut impl FactSource) -> Vec<(i64, Stamp, Vec<u8>)> {
    let cell = |n| {
        let mut value = Vec::new();
        let (version, stamp) = source.run_cell(n, &mut value)?;
        Some((version, stamp, value))
    };
    let cells: Vec<_> = (0..).map_while(cell).collect();
    let n = source.run();
    assert!(n == 0 || n == cells.len(), "{n} cells are said, {} shown", cells.len());
    if n == 0 { Vec::new() } else { cells }
}

/// Runs of `series` show what entries of `plain` do; both stand at the same entry before and afterwards.
fn apply_to_run(step: &Step, plain: &mut MapSource, series: &mut impl FactSource) {
    let shown = run(series);
    let Some((key, _)) = here(plain).filter(|_| !shown.is_empty()) else {
        return;
    };
    let column = key::column_of(&key).to_vec();
    let mut from = MapSource {
        entries: plain.entries.clone(),
        at: plain.at,
    };
    let entries = std::iter::from_fn(|| {
        let entry = here(&from);
        from.next();
        entry
    });
    let of_column: Vec<_> = entries.take_while(|(key, _)| key.starts_with(&column)).collect();
    for (at, (version, stamp, value)) in shown.iter().enumerate() {
        let (key, stored) = &of_column[at];
        let tail = key::parse_tail(&key[key::escaped_len(key).unwrap()..]).unwrap().what;
        assert!(matches!(tail, What::Cell { version: v, stamp: s } if v == *version && s == *stamp));
        assert_eq!(stored[..], [&[VALUE_LIVE], &value[..]].concat());
    }
    let passed = match step {
        Step::PassRun(n) => {
            let n = n.index(shown.len() + 1);
            series.pass_run(n);
            n
        }
        _ => {
            series.pass_column();
            of_column.len()
        }
    };
    (0..passed).for_each(|_| plain.next());
}

fn apply(step: &Step, keys: &[Vec<u8>], source: &mut impl FactSource) {
    let row = |key: &Vec<u8>| key[..key::escaped_len(key).unwrap()].to_vec();
    match step {
        Step::Next => source.next(),
        Step::Seek(at, cut) => {
            let key = &keys[at.index(keys.len())];
            source.seek(&key[..key.len().saturating_sub(usize::from(*cut))]);
        }
        Step::Behind(at, of_row) => {
            let key = &keys[at.index(keys.len())];
            let row = row(key);
            let column = row.len() + key::parse_tail(&key[row.len()..]).unwrap().qualifier_end;
            let mut target = Vec::new();
            key::behind(if *of_row { &row } else { &key[..column] }, &mut target);
            source.seek(&target);
        }
        Step::SeekBefore(at) => source.seek_before(&row(&keys[at.index(keys.len())])),
        Step::SeekLast => source.seek_last(),
        Step::PassRun(_) | Step::PassColumn => {}
    }
}

fn any_spec() -> impl Strategy<Value = ReadSpec> {
    let filter = (
        proptest::option::of(1u32..4),
        (0i64..40, 0i64..40),
        proptest::option::of(proptest::collection::vec(0u8..3, 0..3)),
        proptest::option::of(1u32..3),
    );
    (filter, any::<bool>()).prop_map(|((latest, (a, b), qualifier, cells_per_row), reverse)| ReadSpec {
        filter: ReadFilter {
            latest,
            versions: VersionRange {
                from: a.min(b),
                to: a.max(b),
            },
            qualifier: qualifier.map_or(QualifierFilter::Any, |q| QualifierFilter::Exact(vec![q.into()])),
            cells_per_row,
            ..ReadFilter::default()
        },
        reverse,
        ..ReadSpec::default()
    })
}

type Seen = (Vec<u8>, FamilyId, Vec<u8>, i64, Stamp, Vec<u8>);

fn read(source: impl FactSource, spec: &ReadSpec, schema: &TableSchema) -> Result<Vec<Seen>, EngineError> {
    let mut view = View::new(source, spec, Some(schema), RangeTombstones::default(), 30)?;
    let mut out = Vec::new();
    while view.advance()? {
        let c = view.cell();
        out.push((
            c.row.to_vec(),
            c.family,
            c.qualifier.to_vec(),
            c.version,
            c.stamp,
            c.value.to_vec(),
        ));
    }
    Ok(out)
}

/// Families with a TTL and with a version limit, and one with neither.
fn schema() -> TableSchema {
    let mut schema = TableSchema::new(RegionId(1));
    schema.families = vec![
        FamilySettings::new("a", 0),
        FamilySettings::new("b", 0),
        FamilySettings::new("c", 0),
    ];
    schema.families[1].max_versions = Some(2);
    schema.families[2].ttl_micros = Some(15);
    schema
}

proptest! {
    #[test]
    fn entries_and_seeks_are_those_of_cells(
        writes in proptest::collection::vec(any_write(), 1..25),
        steps in proptest::collection::vec(any_step(), 1..30),
        held in any_held(),
    ) {
        let (cells, records) = both(&writes);
        let (mut plain, mut series) = (MapSource::new(&cells), SeriesSource::new(MapSource::new(&records), held));
        plain.seek(&[]);
        series.seek(&[]);
        prop_assert_eq!(walk(&mut series), walk(&mut plain));
        let keys: Vec<Vec<u8>> = cells.keys().cloned().collect();
        for step in &steps {
            match step {
                Step::PassRun(_) | Step::PassColumn => apply_to_run(step, &mut plain, &mut series),
                _ => {
                    apply(step, &keys, &mut plain);
                    apply(step, &keys, &mut series);
                }
            }
            prop_assert_eq!(here(&series), here(&plain), "{:?}", step);
        }
    }

    /// Some families as series, tombstones beside them: the read path sees no difference.
    #[test]
    fn reads_are_those_of_cells(
        writes in proptest::collection::vec(any_write(), 1..25),
        deletes in proptest::collection::vec((any_write(), 0u8..3, 0i64..40), 0..4),
        split in 0u8..4,
        spec in any_spec(),
        held in any_held(),
    ) {
        let (all, _) = both(&writes);
        let of = |series: bool| -> Vec<Write> {
            writes.iter().filter(|w| (w.family < split) == series).cloned().collect()
        };
        let (mut cells, records) = (both(&of(false)).0, both(&of(true)).1);
        let mut all = all;
        for (like, scope, to) in &deletes {
            let qualifier = like.cells.keys().next().unwrap();
            let tombstone = key::tombstone_key(TombstoneRef {
                row: &like.row,
                scope: match scope {
                    0 => Scope::Column { family: family(like.family), qualifier },
                    1 => Scope::Family { family: family(like.family) },
                    _ => Scope::Row,
                },
                versions: VersionRange { from: 0, to: *to },
                stamp: like.stamp,
            }).unwrap();
            all.insert(tombstone.clone(), vec![key::VALUE_TOMBSTONE]);
            cells.insert(tombstone, vec![key::VALUE_TOMBSTONE]);
        }
        let merged = Merged::new(MapSource::new(&cells), SeriesSource::new(MapSource::new(&records), held));
        let schema = schema();
        prop_assert_eq!(read(merged, &spec, &schema).ok(), read(MapSource::new(&all), &spec, &schema).ok());
    }
}

/// What a collection changes in a store of cell records.
fn apply_edit(cells: &mut Map, edit: Edit) {
    match edit {
        Edit::Delete(key) => cells.remove(&key),
        Edit::Strip(key) => cells.insert(key, vec![VALUE_DEAD]),
        Edit::Move(key, value) => cells.insert(key, value),
    };
}

fn put_left(records: &mut Map, key: &[u8], left: Left) {
    match left {
        Left::All => {}
        Left::Some(block) => {
            records.insert(key.to_vec(), block);
        }
        Left::Nothing => {
            records.remove(key);
        }
    }
}

fn rules(schema: &TableSchema, now_micros: i64, stable: Option<Stamp>) -> Rules {
    Rules {
        schema: Some(std::sync::Arc::new(schema.clone())),
        now_micros,
        range_tombstones: RangeTombstones::default(),
        stable,
    }
}

/// Sweeps series records as the engine does: judge, then read, change and write each record.
fn sweep_series(tombstones: &mut Map, records: &mut Map, held: Held, rules: Rules) {
    let source = Merged::new(
        MapSource::new(tombstones),
        SeriesSource::new(MapSource::new(records), held),
    );
    let mut reaper = Reaper::new(rules);
    let (mut edits, mut others) = (Edits::default(), Vec::new());
    crate::ops::sweep(source, &mut reaper, |edit, _, _| {
        let key = match &edit {
            Edit::Delete(key) | Edit::Strip(key) | Edit::Move(key, _) => key,
        };
        match tombstones.contains_key(key) {
            true => others.push(edit),
            false => edits.push(edit, LENGTH).unwrap(),
        }
        Ok(())
    })
    .unwrap();
    others.into_iter().for_each(|edit| apply_edit(tombstones, edit));
    let mut merger = Merger::new();
    for place in edits.places().map(<[u8]>::to_vec).collect::<Vec<_>>() {
        let found: Vec<_> = records
            .range(place.clone()..)
            .take_while(|(key, _)| key.starts_with(&place))
            .collect();
        let found: Vec<_> = found.into_iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert!(
            !found.is_empty(),
            "a fact that was judged stands in a record of its place"
        );
        for (key, value) in found {
            let left = edits.rewrite(&mut merger, &place, &key, &value).unwrap();
            put_left(records, &key, left);
        }
    }
}

proptest! {
    /// Mutations with several versions and families, as the engine's batch gathers them.
    #[test]
    fn records_hold_the_cells_that_were_put(
        puts in proptest::collection::vec((any_write(), proptest::collection::vec(0i64..40, 1..5)), 1..12),
    ) {
        let (mut cells, mut records, mut pending) = (Map::new(), Map::new(), Pending::default());
        let merge = |records: &mut Map, key: &[u8], value: &[u8]| {
            let there = records.get(key).cloned();
            let values = there.iter().map(|v| &v[..]).chain([value]);
            let value = unite(values.clone()).filter(|_| values.count() > 1).unwrap_or_else(|| value.to_vec());
            records.insert(key.to_vec(), value);
        };
        for (write, versions) in &puts {
            for (qualifier, value) in &write.cells {
                for version in versions {
                    let cell = CellRef {
                        row: &write.row, family: family(write.family), qualifier, version: *version,
                        stamp: write.stamp, value,
                    };
                    let key = key::cell_key(cell.row, cell.family, qualifier, cell.version, cell.stamp, value);
                    cells.insert(key, [&[VALUE_LIVE], &value[..]].concat());
                    if !pending.takes(&cell) {
                        pending.emit(LENGTH, |key, value| merge(&mut records, key, value));
                    }
                    pending.push(&cell);
                }
            }
        }
        pending.emit(LENGTH, |key, value| merge(&mut records, key, value));
        let mut series = SeriesSource::new(MapSource::new(&records), Held::READER);
        let mut plain = MapSource::new(&cells);
        plain.seek(&[]);
        series.seek(&[]);
        prop_assert_eq!(walk(&mut series), walk(&mut plain));
    }

    /// A sweep leaves of series records what it leaves of cell records.
    #[test]
    fn a_sweep_forgets_the_same(
        writes in proptest::collection::vec(any_write(), 1..25),
        deletes in proptest::collection::vec((any_write(), 0i64..40), 0..5),
        stable in 0u64..5, now in 0i64..60, held in any_held(),
    ) {
        let (mut all, mut records) = both(&writes);
        let mut tombstones = Map::new();
        for (like, to) in &deletes {
            let tombstone = key::tombstone_key(TombstoneRef {
                row: &like.row,
                scope: if to % 2 == 0 { Scope::Row } else { Scope::Family { family: family(like.family) } },
                versions: VersionRange { from: 0, to: *to },
                stamp: like.stamp,
            }).unwrap();
            tombstones.insert(tombstone, vec![key::VALUE_TOMBSTONE]);
        }
        all.extend(tombstones.clone());
        let stable = Some(Stamp { hlc: stable, ..Stamp::MIN });
        // Past the offset that a reader's clock may have.
        let rules = rules(&schema(), now + 10_000_000, stable);
        sweep_series(&mut tombstones, &mut records, held, rules.clone());
        let mut edits = Vec::new();
        crate::ops::sweep(MapSource::new(&all), &mut Reaper::new(rules), |edit, _, _| {
            edits.push(edit);
            Ok(())
        }).unwrap();
        edits.into_iter().for_each(|edit| apply_edit(&mut all, edit));
        let mut merged = Merged::new(MapSource::new(&tombstones), SeriesSource::new(MapSource::new(&records), held));
        let mut plain = MapSource::new(&all);
        merged.seek(&[]);
        plain.seek(&[]);
        prop_assert_eq!(walk(&mut merged), walk(&mut plain));
    }
}

/// What a device writes tick by tick is a run for each column and time block, fresh or packed; a cell record, a tie or a dead
/// marker in the time block makes it entries.
#[test]
fn a_column_of_a_time_block_is_a_run() {
    let write = |version, hlc, kept| Write {
        row: b"r".to_vec(),
        family: 0,
        version,
        stamp: Stamp { hlc, ..Stamp::MIN },
        cells: [(b"p".to_vec(), vec![1; 8]), (b"q".to_vec(), vec![2; 9])].into(),
        kept,
    };
    let runs = |writes: &[Write], cells: &Map| {
        let records = both(writes).1;
        let series = SeriesSource::new(MapSource::new(&records), Held::READER);
        let mut source = Merged::new(MapSource::new(cells), series);
        source.seek(&[]);
        let mut lengths = Vec::new();
        while source.entry().is_some() {
            let n = run(&mut source).len();
            lengths.push(n);
            if n == 0 { source.next() } else { source.pass_run(n) }
        }
        lengths
    };
    for kept in 0..2 {
        let mut writes: Vec<Write> = (0..15).map(|version| write(version, 1, kept)).collect();
        // The newer time block has five, the older one ten.
        assert_eq!(runs(&writes, &Map::new()), [5, 10, 5, 10]);
        // A cell record in the first column.
        let beside = both(&[write(3, 2, kept)]).0;
        let first: Map = beside.into_iter().take(1).collect();
        assert_eq!(runs(&writes, &first), [[0; 12].as_slice(), &[4, 5, 10]].concat());
        writes.push(write(12, 2, kept));
        let lengths = runs(&writes, &Map::new());
        assert_eq!(lengths, [[0; 6].as_slice(), &[10], &[0; 6], &[10]].concat());
    }
}

#[test]
fn damage_is_named() {
    let (_, mut records) = both(&[Write {
        row: b"r".to_vec(),
        family: 0,
        version: 5,
        stamp: Stamp::MIN,
        cells: [(b"q".to_vec(), b"v".to_vec())].into(),
        kept: 1,
    }]);
    let value = records.values_mut().next().unwrap();
    value[4] ^= 1;
    let mut series = SeriesSource::new(MapSource::new(&records), Held::READER);
    series.seek(&[]);
    assert!(series.entry().is_none());
    assert!(matches!(series.status(), Err(EngineError::Corruption(_))));
}

#[test]
fn time_blocks() {
    assert_eq!((time_block(25, 10), time_block(20, 10), time_block(0, 10)), (20, 20, 0));
    assert_eq!(time_block(-1, 10), -10);
}

/// A store of which one record cannot be read without waiting for a disk.
struct Cold {
    inner: MapSource,
    cold: usize,
}

impl Cold {
    fn meets_it(&self) -> bool {
        self.inner.at == Some(self.cold)
    }
}

impl FactSource for Cold {
    fn seek(&mut self, key: &[u8]) {
        self.inner.seek(key);
    }

    fn seek_before(&mut self, key: &[u8]) {
        self.inner.seek_before(key);
    }

    fn seek_last(&mut self) {
        self.inner.seek_last();
    }

    fn next(&mut self) {
        self.inner.next();
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        if self.meets_it() { None } else { self.inner.entry() }
    }

    fn status(&self) -> Result<(), EngineError> {
        match self.meets_it() {
            true => Err(EngineError::NotInMemory("cold".to_owned())),
            false => Ok(()),
        }
    }

    fn corruption(&self, what: String) -> EngineError {
        self.inner.corruption(what)
    }
}

/// A reader that goes on elsewhere must not forget that a group was not loaded to its end.
#[test]
fn a_group_that_was_loaded_in_part_is_no_whole_one() {
    let write = |version, hlc, qualifier: &[u8]| Write {
        row: b"r".to_vec(),
        family: 0,
        version,
        stamp: Stamp { hlc, ..Stamp::MIN },
        cells: [(qualifier.to_vec(), b"v".to_vec())].into(),
        kept: 1,
    };
    // What is asked for stands in the older time block alone; the newer one has more than a reader steps over.
    let mut writes = vec![write(5, 1, b"p")];
    for version in 10..20 {
        writes.extend([write(version, 1, b"q"), write(version, 2, b"q")]);
    }
    let records = both(&writes).1;
    assert_eq!(records.len(), 2);
    let spec = ReadSpec {
        filter: ReadFilter {
            qualifier: QualifierFilter::Exact(vec!["p".into()]),
            ..ReadFilter::default()
        },
        ..ReadSpec::default()
    };
    let seen = |cold| {
        let inner = MapSource::new(&records);
        read(SeriesSource::new(Cold { inner, cold }, Held::READER), &spec, &schema())
    };
    assert_eq!(seen(usize::MAX).unwrap().len(), 1, "everything is in memory");
    for cold in 0..2 {
        assert!(matches!(seen(cold), Err(EngineError::NotInMemory(_))), "{cold}");
    }
}
