//! A tablet's RocksDB.
//!
//! ```text
//! state space (column family `default`)
//!   0x00 | "format"            -> u32 little endian, 1
//!   0x01 | key                 -> a state record
//!   0x02 | row range           -> 0x02                     see the module `key`
//! feed:  sequence u64 big endian -> the record
//! ```
//!
//! **The durable cut** (INV-11) is one batch boundary over all three spaces. RocksDB does not say what its files hold, so
//! the engine remembers what state records *were*:
//! ```text
//! commit    the first overwrite of a record since the last flush keeps its old value            -> overwritten
//! flush     takes the notes (-> flushing), flushes, forgets them; if it fails, puts them back
//! durable   flushing, else overwritten, else what is stored now
//! ```
//! A flush that RocksDB starts by itself (a full memtable) makes more durable than is reported, which is safe: atomic
//! flush moves all column families together.

use super::batch::{FeedChange, RocksBatch, range_key, state_key};
use super::error::{self, io};
use super::feed::FeedMeter;
use super::filter::FilterState;
use super::series::{SeriesEdits, SeriesRecords, TabletSource};
use super::shared::{FACTS, FEED, RocksShared, SERIES, SERIES_LAYER, STATE};
use super::source::RocksSource;
use crate::api::{
    CellCursor, EachCell, Engine, EngineError, FeedRecord, GarbageCut, GarbageReport, RangeDigest, RowParts, WriteBatch,
};
use crate::due::LastCollection;
use crate::kept::KeptRows;
use crate::key::{self, RangeTombstone};
use crate::ops::{self, Edit};
use crate::reap::{Leftovers, Reaper, Rules};
use crate::series::merged::Merged;
use crate::series::source::{Held, SeriesSource, Window};
use crate::source::FactSource;
use crate::view::{RangeTombstones, View};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, CompactOptions, DB, DBRawIterator, FlushOptions, ReadOptions, ReadTier,
    WriteOptions,
};
use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use tidemark_base::aggregate::Aggregates;
use tidemark_base::fact::Fact;
use tidemark_base::range::prefix_end;
use tidemark_base::{FamilyId, FamilySettings, ReadSpec, RowRange, TableSchema, VersionRange};
use tidemark_runtime::SharedClock;

/// First byte of a state record's key.
pub(super) const META_STATE: u8 = 1;
/// First byte of a row range's key.
pub(super) const RANGE_STATE: u8 = 2;
const FORMAT_KEY: &[u8] = b"\0format";
const FORMAT: u32 = 1;
/// Changes of a garbage collection that are written together.
const SWEEP_BATCH_BYTES: usize = 1 << 20;
/// From this size on, the middle row is taken from the bounds of files instead of a walk over rows.
const MIDDLE_BY_FILES_BYTES: u64 = 256 << 20;

/// One tablet on disk.
pub struct RocksEngine {
    pub(super) db: DB,
    dir: PathBuf,
    /// What reads and sweeps go by.
    pub(super) schema: ArcSwapOption<TableSchema>,
    /// What background compaction goes by.
    pub(super) filter: Arc<FilterState>,
    /// Held for reading while iterators are made, for writing while a row range or a batch over several layers of facts is
    /// committed: a reader sees all of it or nothing.
    ranges: RwLock<RangeTombstones>,
    /// Bit `n`: layer `n` of the facts may hold something. Set while `ranges` is held for writing; never cleared.
    layers: AtomicU8,
    pub(super) writer: Mutex<Writer>,
    /// One flush at a time, so that "what was noted before" has one meaning.
    flushing: Mutex<()>,
    unflushed_bytes: AtomicU64,
    /// Facts ever committed through this handle. It rises after the write, so whoever reads it first and the facts then
    /// has seen at least what it counts.
    facts_written: AtomicU64,
    /// One collection at a time, and what the last one left.
    collecting: Mutex<LastCollection>,
    poisoned: Mutex<Option<String>>,
    pub(super) kept: KeptRows,
    _shared: Arc<RocksShared>,
}

/// How far a read may go for what it needs, and what it leaves in the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Memtables and caches.
    Memory,
    /// The disk; what it brings stays in the cache.
    Disk,
    /// The disk; what it brings does not push out what others need.
    PassingBy,
}

#[derive(Default)]
pub(super) struct Writer {
    overwritten: Notes,
    flushing: Notes,
    feed: FeedMeter,
}

/// Old values of state records, by key in the state space.
type Notes = HashMap<Vec<u8>, Option<Bytes>>;

impl RocksEngine {
    /// Opens the tablet in `dir`, or creates it (mode 0700; the parent must exist). `clock` is only asked by background compactions, for expiry; give it one that is not
    /// ahead of what the tablet has applied and flushed, because what is replayed after a crash must find its cells.
    ///
    /// Fails with [`EngineError::Corruption`] if RocksDB sees damage already now, with [`EngineError::Io`] if another
    /// process has the directory. Until [`Engine::set_schema`] nothing is visible and nothing is forgotten.
    pub fn open(dir: &Path, shared: &Arc<RocksShared>, clock: SharedClock) -> Result<RocksEngine, EngineError> {
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(dir, &e)),
            _ => {}
        }
        let filter = Arc::new(FilterState {
            dir: dir.to_owned(),
            schema: ArcSwapOption::empty(),
            range_tombstones: ArcSwap::default(),
            clock,
            cells_dropped: AtomicU64::new(0),
            compactions: AtomicU64::new(0),
            large: Mutex::default(),
        });
        let families = shared.column_families(&filter);
        let db = DB::open_cf_descriptors(shared.database(), dir, families).map_err(|e| error::map(dir, &e))?;
        let engine = RocksEngine {
            db,
            dir: dir.to_owned(),
            schema: ArcSwapOption::empty(),
            filter,
            ranges: RwLock::default(),
            layers: AtomicU8::new(1),
            writer: Mutex::default(),
            flushing: Mutex::default(),
            unflushed_bytes: AtomicU64::new(0),
            facts_written: AtomicU64::new(0),
            collecting: Mutex::default(),
            poisoned: Mutex::default(),
            kept: KeptRows::new(shared.kept_rows().clone()),
            _shared: shared.clone(),
        };
        engine.check_format()?;
        engine.load()?;
        Ok(engine)
    }

    /// The tablet's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Compacts everything now by the rules of background compaction: no tombstone goes. For tests and tools. RocksDB
    /// flushes first, which makes more durable than is reported.
    pub fn compact(&self) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        for layer in self.layers_in_use() {
            self.db
                .compact_range_cf_opt(self.layer_cf(layer), None::<&[u8]>, None::<&[u8]>, &options);
        }
    }

    /// Compactions of facts since it was opened, background ones included; for tests and metrics.
    pub fn compactions(&self) -> u64 {
        self.filter.compactions.load(Ordering::Relaxed)
    }

    /// The column family of a layer of the facts: they are numbered as in [`FACTS`].
    pub(super) fn facts_cf(&self, layer: usize) -> &ColumnFamily {
        let (name, _) = FACTS[layer];
        self.db.cf_handle(name).expect("opened with this column family")
    }

    /// The column family of any layer, that of series records included.
    fn layer_cf(&self, layer: usize) -> &ColumnFamily {
        match layer {
            SERIES_LAYER => self.series_cf(),
            facts => self.facts_cf(facts),
        }
    }

    /// Where facts of that family are put. What it returns may change with the schema, and reads find a fact wherever it
    /// is: a collection moves what stands elsewhere.
    pub(super) fn layer_of(&self, family: FamilyId) -> usize {
        let schema = self.schema.load();
        let settings = schema.as_ref().and_then(|schema| schema.family(family));
        let compression = settings.map(|family| family.compression).unwrap_or_default();
        FACTS.iter().position(|(_, kind)| *kind == compression).unwrap_or(0)
    }

    /// Those of [`FACTS`], and [`SERIES_LAYER`].
    fn layers_in_use(&self) -> impl Iterator<Item = usize> + use<> {
        let used = self.layers.load(Ordering::Acquire);
        (0..=SERIES_LAYER).filter(move |layer| used >> layer & 1 == 1)
    }

    fn cell_layers_in_use(&self) -> impl Iterator<Item = usize> + use<> {
        self.layers_in_use().filter(|layer| *layer != SERIES_LAYER)
    }

    pub(super) fn feed_cf(&self) -> &ColumnFamily {
        self.db.cf_handle(FEED).expect("opened with this column family")
    }

    pub(super) fn state_cf(&self) -> &ColumnFamily {
        self.db.cf_handle(STATE).expect("every RocksDB has this column family")
    }

    fn all_cfs(&self) -> Vec<&ColumnFamily> {
        let facts = (0..=SERIES_LAYER).map(|layer| self.layer_cf(layer));
        [self.state_cf(), self.feed_cf()].into_iter().chain(facts).collect()
    }

    fn check_format(&self) -> Result<(), EngineError> {
        let found = self
            .db
            .get_cf(self.state_cf(), FORMAT_KEY)
            .map_err(|e| self.error(&e))?;
        match found.as_deref() {
            None => self.write(|batch| batch.put_cf(self.state_cf(), FORMAT_KEY, FORMAT.to_le_bytes())),
            Some(bytes) if *bytes == FORMAT.to_le_bytes() => Ok(()),
            Some(bytes) => Err(EngineError::Invalid(format!(
                "{}: written in format {bytes:?}, this release reads format {FORMAT}",
                self.dir.display()
            ))),
        }
    }

    /// Reads what is kept in memory: row ranges, the feed's bounds.
    fn load(&self) -> Result<(), EngineError> {
        let mut ranges = BTreeSet::new();
        for (key, _) in self.scan_state(&[RANGE_STATE], &[], usize::MAX)? {
            let range = RangeTombstone::decode(&key[1..]);
            ranges.insert(range.map_err(|e| self.corruption(format!("{e}: {key:02x?}")))?);
        }
        let ranges = RangeTombstones::new(ranges);
        self.filter.range_tombstones.store(ranges.clone());
        *self.ranges.write() = ranges;
        for layer in 1..=SERIES_LAYER {
            let mut facts = self.db.raw_iterator_cf(self.layer_cf(layer));
            facts.seek_to_first();
            facts.status().map_err(|e| self.error(&e))?;
            if facts.valid() {
                self.layers.fetch_or(1 << layer, Ordering::Release);
            }
        }
        let mut feed = self.db.raw_iterator_cf(self.feed_cf());
        feed.seek_to_first();
        let first = feed.key().and_then(sequence);
        feed.seek_to_last();
        let last = feed.key().and_then(sequence);
        feed.status().map_err(|e| self.error(&e))?;
        let whole = rocksdb::Range::new(&[], &[0xff; 9]);
        let bytes = self.db.get_approximate_sizes_cf(self.feed_cf(), &[whole]);
        self.writer.lock().feed = FeedMeter::found(first.zip(last), bytes.iter().sum());
        Ok(())
    }

    pub(super) fn error(&self, error: &rocksdb::Error) -> EngineError {
        error::map(&self.dir, error)
    }

    pub(super) fn corruption(&self, what: String) -> EngineError {
        EngineError::Corruption(format!("{}: {what}", self.dir.display()))
    }

    /// After a write that failed for any reason but a full disk nobody knows what was written.
    ///
    /// A full disk is different: without a write-ahead log a write touches memory only, and RocksDB refuses it at the
    /// door while a flush cannot be finished; it resumes by itself when there is room again.
    fn failed_write(&self, error: &rocksdb::Error) -> EngineError {
        match self.error(error) {
            full @ EngineError::NoSpace(_) => full,
            other => self.poison(other.to_string()),
        }
    }

    fn poison(&self, why: String) -> EngineError {
        tracing::error!(dir = %self.dir.display(), "the tablet's store takes no more writes: {why}");
        self.poisoned.lock().get_or_insert(why.clone());
        EngineError::Poisoned(why)
    }

    fn check(&self) -> Result<(), EngineError> {
        match &*self.poisoned.lock() {
            Some(why) => Err(EngineError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    fn write_raw(&self, batch: rocksdb::WriteBatch) -> Result<(), EngineError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|e| self.failed_write(&e))
    }

    fn write(&self, fill: impl FnOnce(&mut rocksdb::WriteBatch)) -> Result<(), EngineError> {
        let mut batch = rocksdb::WriteBatch::default();
        fill(&mut batch);
        self.write_raw(batch)
    }

    /// Commits a batch; see the module's outline for the notes.
    pub(super) fn commit(&self, batch: RocksBatch<'_>) -> Result<(), EngineError> {
        self.check()?;
        let mut writer = self.writer.lock();
        for key in &batch.state_keys {
            if !writer.overwritten.contains_key(key) {
                let old = self.db.get_cf(self.state_cf(), key).map_err(|e| self.error(&e))?;
                writer.overwritten.insert(key.clone(), old.map(Bytes::from));
            }
        }
        if batch.ranges.is_empty() && self.is_one_layer(batch.layers) {
            self.write_raw(batch.batch)?;
        } else {
            let mut ranges = self.ranges.write();
            self.layers.fetch_or(batch.layers, Ordering::Release);
            self.write_raw(batch.batch)?;
            if !batch.ranges.is_empty() {
                Arc::make_mut(&mut ranges).extend(batch.ranges);
            }
        }
        batch
            .feed
            .iter()
            .for_each(|change: &FeedChange| writer.feed.apply(change));
        self.unflushed_bytes
            .fetch_add(batch.size.bytes as u64, Ordering::Relaxed);
        self.facts_written.fetch_add(batch.size.facts as u64, Ordering::Release);
        batch.kept.finish();
        Ok(())
    }

    /// True if all facts are in the first layer, those with these bits included: then one iterator sees one moment by itself.
    fn is_one_layer(&self, more: u8) -> bool {
        (self.layers.load(Ordering::Acquire) | more) <= 1
    }

    /// `_moment`: what is held while iterators are made, so that all of them are from one.
    fn facts_source(
        &self,
        options: impl Fn() -> ReadOptions,
        windows: Vec<Window>,
        held: Held,
        _moment: &RwLockReadGuard<'_, RangeTombstones>,
    ) -> TabletSource<'_> {
        let cells = self.cells_source(&options);
        if self.layers_in_use().all(|layer| layer != SERIES_LAYER) {
            return TabletSource::Cells(cells);
        }
        let records = SeriesRecords::new(self, self.layer_iterator(SERIES_LAYER, &options));
        let series = SeriesSource::within(records, held, windows);
        TabletSource::Both(Box::new(Merged::new(cells, series)))
    }

    fn layer_iterator(&self, layer: usize, options: &impl Fn() -> ReadOptions) -> DBRawIterator<'_> {
        let mut options = options();
        options.set_verify_checksums(true);
        self.db.raw_iterator_cf_opt(self.layer_cf(layer), options)
    }

    fn cells_source(&self, options: &impl Fn() -> ReadOptions) -> RocksSource<'_> {
        let iterators = self.cell_layers_in_use();
        RocksSource::new(
            self,
            iterators.map(|layer| (layer, self.layer_iterator(layer, options))),
        )
    }

    /// Cells and series records beside each other, and the row ranges, all of one moment.
    pub(super) fn both_sources(
        &self,
        options: impl Fn() -> ReadOptions,
    ) -> (RocksSource<'_>, SeriesRecords<'_>, RangeTombstones) {
        let ranges = self.ranges.read();
        let records = SeriesRecords::new(self, self.layer_iterator(SERIES_LAYER, &options));
        (self.cells_source(&options), records, ranges.clone())
    }

    /// A source for a pass over everything, which must not push what readers need out of the cache; and the row ranges of
    /// the same moment.
    fn whole_source(&self) -> (TabletSource<'_>, RangeTombstones) {
        let ranges = self.ranges.read();
        let options = || {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options
        };
        (
            self.facts_source(options, Vec::new(), Held::READER, &ranges),
            ranges.clone(),
        )
    }

    /// Writes changes of a collection, which readers see as one where it takes more than one iterator.
    pub(super) fn write_edits(&self, batch: rocksdb::WriteBatch) -> Result<(), EngineError> {
        let _moment = (!self.is_one_layer(0)).then(|| self.ranges.write());
        self.write_raw(batch)
    }

    /// Adds one change of a collection. The fact may stand in several layers.
    pub(super) fn push_edit(&self, batch: &mut rocksdb::WriteBatch, edit: Edit, family: FamilyId) {
        let home = self.layer_of(family);
        let delete = |batch: &mut rocksdb::WriteBatch, key: &[u8], but: Option<usize>| {
            for layer in self.cell_layers_in_use().filter(|layer| Some(*layer) != but) {
                batch.delete_cf(self.facts_cf(layer), key);
            }
        };
        let (key, value) = match edit {
            Edit::Delete(key) => return delete(batch, &key, None),
            Edit::Strip(key) => (key, vec![key::VALUE_DEAD]),
            Edit::Move(key, value) => (key, value),
        };
        delete(batch, &key, Some(home));
        if !self.is_one_layer(1 << home) {
            let _moment = self.ranges.write();
            self.layers.fetch_or(1 << home, Ordering::Release);
        }
        batch.put_cf(self.facts_cf(home), key, value);
    }

    fn view(&self, spec: &ReadSpec, now_micros: i64, reach: Reach) -> Result<View<TabletSource<'_>>, EngineError> {
        let options = || {
            let mut options = ReadOptions::default();
            options.fill_cache(reach != Reach::PassingBy);
            if reach == Reach::Memory {
                options.set_read_tier(ReadTier::BlockCache);
            }
            if let Some(first) = spec.ranges.first().filter(|range| !range.start.is_empty()) {
                options.set_iterate_lower_bound(key::row_prefix(&first.start));
            }
            if let Some(end) = spec.ranges.last().and_then(|range| range.end.as_ref()) {
                options.set_iterate_upper_bound(key::row_prefix(end));
            }
            options
        };
        let schema = self.schema.load_full();
        let (source, ranges) = {
            let ranges = self.ranges.read();
            let windows = windows(schema.as_deref(), spec.filter.versions);
            let held = match reach {
                Reach::Memory => Held::SHORT,
                Reach::Disk | Reach::PassingBy => Held::READER,
            };
            (self.facts_source(options, windows, held, &ranges), ranges.clone())
        };
        View::new(source, spec, schema.as_deref(), ranges, now_micros)
    }

    /// A read that does not push what others need out of the cache.
    pub(super) fn read_uncached(
        &self,
        spec: &ReadSpec,
        now_micros: i64,
    ) -> Result<Box<dyn CellCursor + '_>, EngineError> {
        Ok(Box::new(self.view(spec, now_micros, Reach::PassingBy)?))
    }

    /// Records of the state space with that prefix, keys whole.
    fn scan_state(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let mut options = ReadOptions::default();
        if let Some(end) = prefix_end(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mut iterator = self.db.raw_iterator_cf_opt(self.state_cf(), options);
        iterator.seek(from.max(prefix));
        let mut found = Vec::new();
        while let Some((key, value)) = iterator.item().filter(|_| found.len() < limit) {
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            iterator.next();
        }
        iterator.status().map_err(|e| self.error(&e))?;
        Ok(found)
    }

    /// Judges everything and writes the verdicts; then forgets row ranges, whose cells are gone now.
    fn sweep(&self, cut: GarbageCut) -> Result<Swept, EngineError> {
        let (source, ranges) = self.whole_source();
        let mut reaper = Reaper::new(Rules {
            schema: self.schema.load_full(),
            now_micros: cut.now_micros,
            range_tombstones: ranges.clone(),
            stable: Some(cut.stable),
        });
        let mut batch = rocksdb::WriteBatch::default();
        let mut series = SeriesEdits::default();
        let count = ops::sweep(source, &mut reaper, |edit, family, place| {
            // A tombstone goes after what it kills.
            let tombstone = family == FamilyId(0);
            if series.is_full() || tombstone && !series.is_empty() {
                self.write_series_edits(std::mem::take(&mut series))?;
            }
            self.push_placed_edit(&mut batch, &mut series, edit, family, place)?;
            if batch.size_in_bytes() >= SWEEP_BATCH_BYTES {
                self.write_edits(std::mem::take(&mut batch))?;
            }
            Ok(())
        });
        for alarm in reaper.take_alarms() {
            tracing::error!(dir = %self.dir.display(), "corruption: {alarm}");
        }
        let count = count?;
        let changed = count.edits > 0;
        self.write_series_edits(series)?;
        self.write_edits(batch)?;
        let mut leftovers = reaper.leftovers();
        let above = ranges.iter().filter(|t| t.stamp > cut.stable);
        above.for_each(|t| leftovers.tombstone(t.stamp));
        let gone: Vec<&RangeTombstone> = ranges
            .iter()
            .filter(|t| !count.ranges_needed && t.stamp <= cut.stable)
            .collect();
        if !gone.is_empty() {
            let mut held = self.ranges.write();
            self.write(|batch| {
                for range in &gone {
                    batch.delete_cf(self.state_cf(), range_key(range));
                }
            })?;
            let held = Arc::make_mut(&mut held);
            gone.iter().for_each(|range| {
                held.remove(range);
            });
        }
        Ok(Swept {
            report: GarbageReport {
                cells_dropped: count.cells_dropped,
                tombstones_dropped: count.tombstones_dropped + gone.len() as u64,
                skipped: false,
            },
            leftovers,
            changed,
        })
    }

    fn property(&self, family: &ColumnFamily, name: &std::ffi::CStr) -> u64 {
        let value = self.db.property_int_value_cf(family, name);
        value.ok().flatten().unwrap_or(0)
    }

    /// The row at half the bytes, by the bounds of the files.
    fn middle_by_files(&self) -> Result<Option<Bytes>, EngineError> {
        let mut files: Vec<(Vec<u8>, u64)> = self
            .db
            .live_files()
            .map_err(|e| self.error(&e))?
            .into_iter()
            .filter(|file| {
                FACTS.iter().any(|(name, _)| file.column_family_name == *name) || file.column_family_name == SERIES
            })
            .filter_map(|file| Some((file.start_key?, file.size as u64)))
            .collect();
        files.sort();
        let half = files.iter().map(|(_, size)| size).sum::<u64>() / 2;
        let mut passed = 0;
        let middle = files.iter().skip(1).zip(&files).find(|(_, (_, size))| {
            passed += size;
            passed >= half
        });
        let Some(((key, _), _)) = middle else {
            return Ok(None);
        };
        let length = key::escaped_len(key).map_err(|e| self.corruption(e.to_string()))?;
        let mut row = Vec::new();
        key::unescape(&key[..length], &mut row);
        Ok((!files[0].0.starts_with(&key[..length])).then(|| row.into()))
    }
}

/// What a sweep did and left.
struct Swept {
    report: GarbageReport,
    leftovers: Leftovers,
    /// It deleted or stripped something, which lies in the files until the next compaction.
    changed: bool,
}

/// Which versions of series families matter to a read of these. Where versions are counted (R11), newer ones matter as well.
fn windows(schema: Option<&TableSchema>, versions: VersionRange) -> Vec<Window> {
    let families = schema.map_or(&[][..], |schema| &schema.families[..]);
    let window = |family: &FamilySettings| {
        let to = if family.limits_versions() {
            i64::MAX
        } else {
            versions.to
        };
        let length = family.layout.block_micros()?;
        Some(Window {
            family: family.id,
            versions: VersionRange { to, ..versions },
            length,
        })
    };
    families.iter().filter_map(window).collect()
}

fn sequence(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

impl Engine for RocksEngine {
    fn write_batch(&self) -> Box<dyn WriteBatch + '_> {
        Box::new(RocksBatch::new(self))
    }

    fn set_schema(&self, schema: Arc<TableSchema>) {
        self.schema.store(Some(schema.clone()));
        self.kept.set_schema(Some(&schema));
        // Whoever sets a schema has committed it; with nothing unflushed it is durable.
        if self.unflushed_bytes() == 0 {
            self.filter.schema.store(Some(schema));
        }
    }

    fn state(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let found = self.db.get_cf(self.state_cf(), state_key(key));
        Ok(found.map_err(|e| self.error(&e))?.map(Bytes::from))
    }

    fn state_scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let found = self.scan_state(&state_key(prefix), &state_key(from), limit)?;
        Ok(found.into_iter().map(|(key, value)| (key.slice(1..), value)).collect())
    }

    fn feed(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<FeedRecord>, EngineError> {
        // Not from further down: what was trimmed would have to be stepped over.
        let first = self.feed_bounds()?.map_or(from_seq, |(first, _)| first.max(from_seq));
        let mut iterator = self.db.raw_iterator_cf(self.feed_cf());
        iterator.seek(first.to_be_bytes());
        let mut records = Vec::new();
        let mut bytes = 0;
        while let Some((key, value)) = iterator.item() {
            bytes += value.len();
            if !records.is_empty() && bytes > bytes_max {
                break;
            }
            let seq = sequence(key).ok_or_else(|| self.corruption(format!("a feed record's key is {key:02x?}")))?;
            records.push(FeedRecord {
                seq,
                bytes: Bytes::copy_from_slice(value),
            });
            iterator.next();
        }
        iterator.status().map_err(|e| self.error(&e))?;
        Ok(records)
    }

    fn feed_bounds(&self) -> Result<Option<(u64, u64)>, EngineError> {
        Ok(self.writer.lock().feed.bounds())
    }

    fn feed_bytes(&self) -> u64 {
        self.writer.lock().feed.bytes()
    }

    fn read(&self, spec: &ReadSpec, now_micros: i64) -> Result<Box<dyn CellCursor + '_>, EngineError> {
        Ok(Box::new(self.view(spec, now_micros, Reach::Disk)?))
    }

    fn read_in_memory(&self, spec: &ReadSpec, now_micros: i64) -> Result<Box<dyn CellCursor + '_>, EngineError> {
        Ok(Box::new(self.view(spec, now_micros, Reach::Memory)?))
    }

    fn newest(&self, row: &RowParts<'_>, each: EachCell<'_>) -> bool {
        let schema = self.schema.load();
        self.kept.give(row, schema.as_deref(), each)
    }

    fn read_newest(&self, row: &RowParts<'_>, in_memory: bool, each: EachCell<'_>) -> Result<(), EngineError> {
        let reach = if in_memory { Reach::Memory } else { Reach::Disk };
        let view = |spec: &ReadSpec| self.view(spec, row.now_micros, reach);
        self.kept.read_through(row, view, each)
    }

    fn shed_kept(&self) {
        self.kept.shed();
    }

    fn aggregate(&self, spec: &ReadSpec, now_micros: i64, out: &mut Aggregates) -> Result<(), EngineError> {
        self.aggregate_read(spec, now_micros, out)
    }

    fn digest(&self, range: &RowRange, now_micros: i64) -> Result<RangeDigest, EngineError> {
        let spec = ReadSpec {
            ranges: vec![range.clone()],
            ..ReadSpec::default()
        };
        ops::digest_of(&mut self.view(&spec, now_micros, Reach::PassingBy)?)
    }

    fn is_empty(&self) -> Result<bool, EngineError> {
        if self.range_tombstones() > 0 {
            return Ok(false);
        }
        let (mut source, _) = self.whole_source();
        source.seek(&[]);
        let empty = source.entry().is_none();
        source.status().map(|()| empty)
    }

    fn range_tombstones(&self) -> usize {
        self.ranges.read().len()
    }

    fn facts(&self) -> Result<Vec<Fact>, EngineError> {
        let (source, ranges) = self.whole_source();
        ops::all_facts(source, ranges.iter())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let _one = self.flushing.lock();
        self.check()?;
        let (bytes, ranges, schema) = {
            let mut writer = self.writer.lock();
            debug_assert!(
                writer.flushing.is_empty(),
                "INV-11: the notes of one flush are still in use"
            );
            writer.flushing = std::mem::take(&mut writer.overwritten);
            let bytes = self.unflushed_bytes.load(Ordering::Relaxed);
            (bytes, self.ranges.read().clone(), self.schema.load_full())
        };
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families = self.all_cfs();
        let flushed = self.db.flush_cfs_opt(&families, &options);
        let mut writer = self.writer.lock();
        let notes = std::mem::take(&mut writer.flushing);
        match flushed {
            Ok(()) => {
                self.unflushed_bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.filter.range_tombstones.store(ranges);
                self.filter.schema.store(schema);
                drop(writer);
                self.cut_large_blocks()
            }
            Err(e) => {
                // What was noted before is older, so it counts.
                writer.overwritten.extend(notes);
                Err(self.failed_write(&e))
            }
        }
    }

    fn durable_state(&self, key: &[u8]) -> Option<Bytes> {
        let key = state_key(key);
        let writer = self.writer.lock();
        let noted = writer.flushing.get(&key).or_else(|| writer.overwritten.get(&key));
        match noted {
            Some(old) => old.clone(),
            // A record that cannot be read is reported as not there: the log is kept.
            None => self.db.get_cf(self.state_cf(), &key).ok().flatten().map(Bytes::from),
        }
    }

    fn unflushed_bytes(&self) -> u64 {
        self.unflushed_bytes.load(Ordering::Relaxed)
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), EngineError> {
        self.flush()?;
        let checkpoint = Checkpoint::new(&self.db).map_err(|e| self.error(&e))?;
        checkpoint.create_checkpoint(dir).map_err(|e| self.error(&e))?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(|e| io(dir, &e))
    }

    fn collect_garbage(&self, cut: GarbageCut) -> Result<GarbageReport, EngineError> {
        let mut last = self.collecting.lock();
        let (facts_written, schema) = (self.facts_written.load(Ordering::Acquire), self.schema.load_full());
        if !last.is_due(cut, schema.as_ref(), facts_written) {
            return Ok(GarbageReport {
                skipped: true,
                ..GarbageReport::default()
            });
        }
        last.forget();
        self.flush()?;
        // Compaction first: it drops the bulk while it rewrites anyway, so that the sweep has few changes to write.
        let before = self.filter.cells_dropped.load(Ordering::Relaxed);
        self.compact();
        let compacted = self.filter.cells_dropped.load(Ordering::Relaxed) - before;
        let Swept {
            mut report,
            leftovers,
            changed,
        } = self.sweep(cut)?;
        report.cells_dropped += compacted;
        self.flush()?;
        last.note(cut, schema, facts_written, leftovers, changed);
        Ok(report)
    }

    fn disk_bytes(&self) -> u64 {
        self.all_cfs()
            .into_iter()
            .map(|family| self.property(family, rocksdb::properties::TOTAL_SST_FILES_SIZE.as_c_str()))
            .sum()
    }

    fn poisoned(&self) -> Option<String> {
        self.poisoned.lock().clone()
    }

    fn middle_row(&self) -> Result<Option<Bytes>, EngineError> {
        let size = rocksdb::properties::TOTAL_SST_FILES_SIZE.as_c_str();
        let layers = self.layers_in_use().map(|layer| self.layer_cf(layer));
        let bytes: u64 = layers.map(|facts| self.property(facts, size)).sum();
        if bytes >= MIDDLE_BY_FILES_BYTES
            && let Some(row) = self.middle_by_files()?
        {
            return Ok(Some(row));
        }
        ops::middle_row(self.whole_source().0)
    }

    fn has_family_facts(&self, family: FamilyId) -> Result<bool, EngineError> {
        ops::has_family(self.whole_source().0, family)
    }
}
