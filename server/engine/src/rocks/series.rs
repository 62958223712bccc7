//! The column family of series records: how RocksDB unites them, which of them background compaction drops, how they are
//! read beside the other facts and changed by a sweep (ADR 11).
//!
//! ```text
//! write    merge operands, blind           flush, compaction    operands of one key -> a block
//! read     SeriesRecords -> SeriesSource --+
//!          RocksSource -------------------+-> TabletSource: what there is, in key order
//! sweep    edits, gathered by record -> under the writer's lock: read, rewrite, put or delete
//! ```
//! Compaction drops a block as a whole or not at all: RocksDB's filter takes no new value made for one key. What goes from
//! inside of a block goes by the sweep.

use super::engine::RocksEngine;
use super::filter::FilterState;
use super::source::RocksSource;
use crate::api::EngineError;
use crate::ops::Edit;
use crate::series::collect::{Edits, Left};
use crate::series::limits::BLOCK_BYTES_TARGET;
use crate::series::merged::Merged;
use crate::series::source::{RecordPlace, SeriesSource, group_range, record_number};
use crate::series::unite::{Reading, is_joined, unite};
use crate::series::{Merger, segments_as_blocks};
use crate::source::{FactSource, Place};
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{CompactionDecision, DBRawIterator, MergeOperands, Options, ReadOptions};
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemark_base::range::prefix_end;
use tidemark_base::{FamilyId, Stamp, TableSchema, limits};

/// Changes of a sweep that are gathered before records are rewritten: some 200 bytes each.
const EDITS_MAX: usize = 64 << 10;

/// Names on disk: they never change.
const MERGE_NAME: &str = "tidemark.series";

/// Adds what the column family of series records has beyond the others.
pub(super) fn configure(options: &mut Options, filter: &Arc<FilterState>) {
    let state = filter.clone();
    let full = move |key: &[u8], there: Option<&[u8]>, operands: &MergeOperands| {
        let united = unite_operands(key, there, operands)?;
        if united.len() > BLOCK_BYTES_TARGET && !is_joined(&united) {
            state.note_large(key);
        }
        Some(united)
    };
    options.set_merge_operator(MERGE_NAME, full, unite_operands);
    options.set_compaction_filter_factory(SeriesFilterFactory(filter.clone()));
}

/// `None` makes RocksDB keep what it has and report damage to whoever asked.
fn unite_operands(_key: &[u8], there: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    let values: Vec<&[u8]> = there.into_iter().chain(operands.iter()).collect();
    unite(values.iter().copied())
}

impl FilterState {
    /// Notes a block above its bound. A key that finds no room is noted again when it is merged the next time.
    fn note_large(&self, key: &[u8]) {
        let mut large = self.large.lock();
        if large.len() < LARGE_MAX {
            large.insert(key.to_vec());
        }
    }
}

/// Makes a filter for each compaction of a tablet's series records.
struct SeriesFilterFactory(Arc<FilterState>);

impl CompactionFilterFactory for SeriesFilterFactory {
    type Filter = SeriesFilter;

    fn create(&mut self, _context: CompactionFilterContext) -> SeriesFilter {
        self.0.compactions.fetch_add(1, Ordering::Relaxed);
        SeriesFilter {
            schema: self.0.schema.load_full(),
            now_micros: self.0.clock.now_micros(),
            merger: Merger::new(),
            state: self.0.clone(),
        }
    }

    fn name(&self) -> &CStr {
        c"tidemark.series"
    }
}

/// Drops records of families that were dropped, and time blocks that are expired from end to end.
///
/// It is shown whole values only, never operands; and a value hides whatever lies below it, so dropping it brings nothing
/// back.
struct SeriesFilter {
    schema: Option<Arc<TableSchema>>,
    now_micros: i64,
    /// To count what is dropped.
    merger: Merger,
    state: Arc<FilterState>,
}

impl SeriesFilter {
    fn forgets(&self, key: &[u8]) -> bool {
        let (Some(schema), Ok(place)) = (&self.schema, RecordPlace::parse(key)) else {
            return false;
        };
        if schema.is_dropped(place.family) {
            return true;
        }
        let Some(family) = schema.family(place.family) else {
            return false;
        };
        let Some(length) = family.layout.block_micros() else {
            return false;
        };
        // As the judge does: for readers of every clock within the bounds of R8.
        let now_micros = self.now_micros.saturating_sub(limits::MAX_OFFSET_MS as i64 * 1_000);
        family.expired(place.start.saturating_add(length - 1), now_micros)
    }
}

impl CompactionFilter for SeriesFilter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        if !self.forgets(key) {
            return CompactionDecision::Keep;
        }
        let cells = self.merger.union([value]).map_or(0, |facts| facts.len());
        self.state.cells_dropped.fetch_add(cells as u64, Ordering::Relaxed);
        CompactionDecision::Remove
    }

    fn name(&self) -> &CStr {
        c"tidemark.series"
    }
}

/// Series records as they are stored, united for a reader.
pub(super) struct SeriesRecords<'a> {
    engine: &'a RocksEngine,
    iterator: DBRawIterator<'a>,
}

impl<'a> SeriesRecords<'a> {
    pub(super) fn new(engine: &'a RocksEngine, iterator: DBRawIterator<'a>) -> SeriesRecords<'a> {
        SeriesRecords { engine, iterator }
    }
}

impl FactSource for SeriesRecords<'_> {
    fn seek(&mut self, key: &[u8]) {
        let _reading = Reading::begin();
        self.iterator.seek(key);
    }

    fn seek_before(&mut self, key: &[u8]) {
        let _reading = Reading::begin();
        // At or before; no record's whole key is a row's prefix.
        self.iterator.seek_for_prev(key);
    }

    fn seek_last(&mut self) {
        let _reading = Reading::begin();
        self.iterator.seek_to_last();
    }

    fn next(&mut self) {
        let _reading = Reading::begin();
        if self.iterator.valid() {
            self.iterator.next();
        }
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.iterator.item()
    }

    fn status(&self) -> Result<(), EngineError> {
        self.iterator.status().map_err(|e| self.engine.error(&e))
    }

    fn corruption(&self, what: String) -> EngineError {
        self.engine.corruption(what)
    }
}

/// All facts of a tablet. A tablet without series records pays nothing for them.
pub(super) enum TabletSource<'a> {
    Cells(RocksSource<'a>),
    Both(Box<Merged<RocksSource<'a>, SeriesSource<SeriesRecords<'a>>>>),
}

/// One call on whatever there is.
macro_rules! on {
    ($self:ident, $source:ident => $call:expr) => {
        match $self {
            TabletSource::Cells($source) => $call,
            TabletSource::Both($source) => $call,
        }
    };
}

impl FactSource for TabletSource<'_> {
    fn seek(&mut self, key: &[u8]) {
        on!(self, source => source.seek(key))
    }

    fn seek_before(&mut self, key: &[u8]) {
        on!(self, source => source.seek_before(key))
    }

    fn seek_last(&mut self) {
        on!(self, source => source.seek_last())
    }

    fn next(&mut self) {
        on!(self, source => source.next())
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        on!(self, source => source.entry())
    }

    fn status(&self) -> Result<(), EngineError> {
        on!(self, source => source.status())
    }

    fn corruption(&self, what: String) -> EngineError {
        on!(self, source => source.corruption(what))
    }

    fn place(&self) -> Place {
        on!(self, source => source.place())
    }

    fn run(&mut self) -> usize {
        on!(self, source => source.run())
    }

    fn run_cell(&self, n: usize, value: &mut Vec<u8>) -> Option<(i64, Stamp)> {
        on!(self, source => source.run_cell(n, value))
    }

    fn pass_run(&mut self, n: usize) {
        on!(self, source => source.pass_run(n))
    }

    fn pass_column(&mut self) {
        on!(self, source => source.pass_column())
    }

    fn misplaced(&self, family: FamilyId) -> bool {
        on!(self, source => source.misplaced(family))
    }
}

/// What a sweep changes in series records, until it is written.
#[derive(Default)]
pub(super) struct SeriesEdits {
    edits: Edits,
    count: usize,
    /// What one row had in a family that was dropped: all of it goes, once. Key bounds.
    dropped: Vec<(Vec<u8>, Vec<u8>)>,
}

impl SeriesEdits {
    /// Notes a change of a fact that stands in a series record. `length`: of the family's time blocks; none = the family was
    /// dropped, and with it everything that the row has there.
    pub(super) fn push(&mut self, edit: Edit, length: Option<i64>) -> Result<(), tidemark_base::codec::Malformed> {
        match (edit, length) {
            (edit, Some(length)) => {
                self.count += 1;
                self.edits.push(edit, length)
            }
            (Edit::Delete(key) | Edit::Strip(key) | Edit::Move(key, _), None) => {
                let range = group_range(&key)?;
                if self.dropped.last() != Some(&range) {
                    self.dropped.push(range);
                }
                Ok(())
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && self.dropped.is_empty()
    }

    /// True if it should be written before more is gathered.
    pub(super) fn is_full(&self) -> bool {
        self.count + self.dropped.len() >= EDITS_MAX
    }
}

impl RocksEngine {
    /// Rewrites the records that a sweep changes. Under the writer's lock each is read again: a tick that came since it was
    /// judged is in it, and one that comes later is merged onto what is put.
    pub(super) fn write_series_edits(&self, edits: SeriesEdits) -> Result<(), EngineError> {
        if edits.is_empty() {
            return Ok(());
        }
        let mut merger = Merger::new();
        let places: Vec<&[u8]> = edits.edits.places().collect();
        // Some at a time: writers wait meanwhile.
        for places in places.chunks(REWRITTEN_AT_ONCE) {
            let _writer = self.writer.lock();
            let mut batch = rocksdb::WriteBatch::default();
            for place in places {
                self.rewrite(&edits.edits, place, &mut merger, &mut batch)?;
            }
            self.write_edits(batch)?;
        }
        let mut batch = rocksdb::WriteBatch::default();
        for (from, below) in &edits.dropped {
            batch.delete_range_cf(self.series_cf(), &from[..], &below[..]);
        }
        self.write_edits(batch)
    }

    fn rewrite(
        &self,
        edits: &Edits,
        place: &[u8],
        merger: &mut Merger,
        batch: &mut rocksdb::WriteBatch,
    ) -> Result<(), EngineError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_verify_checksums(true);
        if let Some(end) = prefix_end(place) {
            options.set_iterate_upper_bound(end);
        }
        let mut records = SeriesRecords::new(self, self.db.raw_iterator_cf_opt(self.series_cf(), options));
        records.seek(place);
        while let Some((key, value)) = records.entry() {
            let left = edits
                .rewrite(merger, place, key, value)
                .map_err(|e| self.corruption(format!("{e}: series record {key:02x?}")))?;
            match left {
                Left::All => {}
                Left::Some(value) => batch.put_cf(self.series_cf(), key, value),
                Left::Nothing => batch.delete_cf(self.series_cf(), key),
            }
            records.next();
        }
        records.status()
    }

    /// Cuts blocks that grew above their bound: all segments but the newest move to records of their own. Where in its time
    /// block a fact stands means nothing, since reads unite all records of one, so this changes no answer; and a crash in
    /// between loses no more than the cut.
    pub(super) fn cut_large_blocks(&self) -> Result<(), EngineError> {
        let large = std::mem::take(&mut *self.filter.large.lock());
        let mut merger = Merger::new();
        for key in large {
            // A record that was cut before is full, and stays.
            if record_number(&key).is_none() {
                let _writer = self.writer.lock();
                self.cut_block(&key, &mut merger)?;
            }
        }
        Ok(())
    }

    fn cut_block(&self, key: &[u8], merger: &mut Merger) -> Result<(), EngineError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        if let Some(end) = prefix_end(key) {
            options.set_iterate_upper_bound(end);
        }
        let mut records = SeriesRecords::new(self, self.db.raw_iterator_cf_opt(self.series_cf(), options));
        records.seek(key);
        let mut number = 0;
        let mut block = None;
        while let Some((found, value)) = records.entry() {
            match record_number(found) {
                None => block = Some(value.to_vec()),
                Some(taken) => number = number.max(taken.saturating_add(1)),
            }
            records.next();
        }
        records.status()?;
        let Some(block) = block else { return Ok(()) };
        let damaged = |e| self.corruption(format!("{e}: series record {key:02x?}"));
        // What a reader gets may be several records behind each other.
        let block = merger.merge([&block[..]]).map_err(damaged)?;
        let mut parts = segments_as_blocks(&block).map_err(damaged)?;
        let Some(newest) = parts.pop().filter(|_| !parts.is_empty()) else {
            return Ok(());
        };
        let mut batch = rocksdb::WriteBatch::default();
        for part in parts {
            batch.put_cf(self.series_cf(), [key, &number.to_be_bytes()].concat(), part);
            number = number.saturating_add(1);
        }
        batch.put_cf(self.series_cf(), key, newest);
        self.write_edits(batch)
    }

    /// Notes one change of a collection: what stands in a series record waits in `edits`, the rest goes into `batch`.
    pub(super) fn push_placed_edit(
        &self,
        batch: &mut rocksdb::WriteBatch,
        edits: &mut SeriesEdits,
        edit: Edit,
        family: FamilyId,
        place: Place,
    ) -> Result<(), EngineError> {
        if place.series && !matches!(edit, Edit::Move(..)) {
            let again = match &edit {
                Edit::Delete(key) => Edit::Delete(key.clone()),
                Edit::Strip(key) | Edit::Move(key, _) => Edit::Strip(key.clone()),
            };
            edits
                .push(again, self.block_micros_of(family))
                .map_err(|e| self.corruption(e.to_string()))?;
        }
        if place.cell || matches!(edit, Edit::Move(..)) {
            self.push_edit(batch, edit, family);
        }
        Ok(())
    }

    /// The length of a family's time blocks; none if it keeps cells, or is not known.
    pub(super) fn block_micros_of(&self, family: FamilyId) -> Option<i64> {
        let schema = self.schema.load();
        schema.as_ref()?.family(family)?.layout.block_micros()
    }

    pub(super) fn series_cf(&self) -> &rocksdb::ColumnFamily {
        self.db
            .cf_handle(super::shared::SERIES)
            .expect("opened with this column family")
    }
}

/// Blocks that wait to be cut: some 100 bytes each.
const LARGE_MAX: usize = 1_024;
/// Records that are rewritten under one hold of the writer's lock: some milliseconds.
const REWRITTEN_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocks::{RocksSettings, RocksShared};
    use crate::{Engine, GarbageCut};
    use tidemark_base::aggregate::{AggregateSpec, Aggregates};
    use tidemark_base::schema::Layout;
    use tidemark_base::{CellRef, FamilySettings, ReadSpec, RegionId};
    use tidemark_runtime::ManualClock;

    const BLOCK_MICROS: i64 = 100;

    fn schema() -> TableSchema {
        let mut schema = TableSchema::new(RegionId(1));
        schema.families = vec![FamilySettings {
            layout: Layout::Series {
                block_micros: BLOCK_MICROS,
            },
            ..FamilySettings::new("s", 0)
        }];
        schema
    }

    fn put(engine: &RocksEngine, versions: std::ops::Range<i64>, n: u64) {
        let mut batch = engine.write_batch();
        for version in versions {
            batch.put_cell(CellRef {
                row: b"r",
                family: FamilyId::derive("s", 0),
                qualifier: b"q",
                version,
                stamp: Stamp {
                    hlc: n << 16,
                    ..Stamp::MIN
                },
                value: &version.to_be_bytes(),
            });
        }
        batch.commit().unwrap();
    }

    fn visible(engine: &RocksEngine, now_micros: i64) -> Vec<i64> {
        let mut cursor = engine.read(&ReadSpec::default(), now_micros).unwrap();
        let mut found = Vec::new();
        while cursor.advance().unwrap() {
            found.push(cursor.cell().version);
        }
        found
    }

    fn records(engine: &RocksEngine) -> usize {
        let mut iterator = engine.db.raw_iterator_cf(engine.series_cf());
        iterator.seek_to_first();
        let mut count = 0;
        while iterator.valid() {
            count += 1;
            iterator.next();
        }
        count
    }

    /// A device that writes without end into one time block makes several records of bounded size, and no other answers.
    #[test]
    fn blocks_above_their_bound_are_cut() {
        const ROUNDS: i64 = 6;
        const TICKS: i64 = 20_000;
        let shared = RocksShared::new(RocksSettings::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let engine = RocksEngine::open(&dir.path().join("t"), &shared, ManualClock::new(1_000).shared()).unwrap();
        let mut endless = schema();
        endless.families[0].layout = Layout::Series {
            block_micros: i64::from(u32::MAX),
        };
        engine.set_schema(Arc::new(endless));
        for round in 0..ROUNDS {
            let mut batch = engine.write_batch();
            for tick in 0..TICKS {
                let version = tick * ROUNDS + round;
                for qualifier in [b"a", b"b"] {
                    // Nothing that could be packed.
                    let value =
                        (version as u64 + 7).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(qualifier[0]) << 33;
                    batch.put_cell(CellRef {
                        row: b"r",
                        family: FamilyId::derive("s", 0),
                        qualifier,
                        version,
                        stamp: Stamp {
                            hlc: (version as u64) << 16,
                            ..Stamp::MIN
                        },
                        value: &value.to_be_bytes(),
                    });
                }
            }
            batch.commit().unwrap();
            engine.flush().unwrap();
            engine.compact();
            engine.flush().unwrap();
        }
        assert!(records(&engine) > 1);
        let mut iterator = engine.db.raw_iterator_cf(engine.series_cf());
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            assert!(
                value.len() < 3 * BLOCK_BYTES_TARGET,
                "{} bytes at {key:02x?}",
                value.len()
            );
            iterator.next();
        }
        let found = visible(&engine, 0);
        assert_eq!(found.len() as i64, ROUNDS * TICKS * 2);
        let newest_first: Vec<i64> = (0..ROUNDS * TICKS).rev().collect();
        assert_eq!(found[..newest_first.len()], newest_first, "every tick, once, in order");
        let mut sums = Aggregates::new(AggregateSpec::default());
        engine.aggregate(&ReadSpec::default(), 0, &mut sums).unwrap();
        let counted: u64 = sums.groups().map(|(_, _, stats)| stats.count + stats.others).sum();
        assert_eq!(counted as i64, ROUNDS * TICKS * 2);
    }

    #[test]
    fn cells_of_a_time_block_are_one_record_and_go_with_it() {
        let shared = RocksShared::new(RocksSettings::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(1_000);
        let engine = RocksEngine::open(&dir.path().join("t"), &shared, clock.shared()).unwrap();
        engine.set_schema(Arc::new(schema()));
        put(&engine, 0..150, 1);
        put(&engine, 100..250, 2);
        assert_eq!(visible(&engine, 0).len(), 250);
        assert_eq!(records(&engine), 3);
        engine.flush().unwrap();
        engine.compact();
        assert_eq!((visible(&engine, 0).len(), records(&engine)), (250, 3));
        let mut facts = engine.db.raw_iterator_cf(engine.facts_cf(0));
        facts.seek_to_first();
        assert!(!facts.valid(), "everything stands in blocks");

        let mut expiring = schema();
        expiring.families[0].ttl_micros = Some(50);
        engine.set_schema(Arc::new(expiring));
        engine.flush().unwrap();
        clock.set_micros(10_000_000 + 100 + 50);
        engine.compact();
        assert_eq!(records(&engine), 2, "the first time block is expired from end to end");
        let cut = GarbageCut {
            stable: Stamp::MIN,
            now_micros: 10_000_000 + 150 + 50,
        };
        engine.collect_garbage(cut).unwrap();
        assert_eq!(
            engine.facts().unwrap().len(),
            99,
            "the sweep takes the half of the second one"
        );
        assert_eq!(visible(&engine, 150).len(), 99);
        let mut dropped = schema();
        dropped.dropped = vec![dropped.families.remove(0).id];
        engine.set_schema(Arc::new(dropped));
        engine.collect_garbage(cut).unwrap();
        assert!(engine.is_empty().unwrap());
    }
}
