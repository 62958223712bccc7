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
use super::filter::{FilterFactory, FilterState};
use super::install;
use super::shared::{FACTS, FEED, RocksShared, STATE};
use crate::api::{CellCursor, Engine, EngineError, FeedRecord, GarbageCut, GarbageReport, RangeDigest, WriteBatch};
use crate::key::{self, RangeTombstone};
use crate::ops::{self, Edit};
use crate::reap::{Reaper, Rules};
use crate::source::FactSource;
use crate::view::{RangeTombstones, View};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, CompactOptions, DB, DBRawIterator, FlushOptions, ReadOptions, WriteOptions,
};
use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_base::fact::Fact;
use tidemark_base::range::prefix_end;
use tidemark_base::{FamilyId, ReadSpec, RowRange, TableSchema};
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
    db: DB,
    dir: PathBuf,
    /// What reads and sweeps go by.
    schema: ArcSwapOption<TableSchema>,
    /// What background compaction goes by.
    filter: Arc<FilterState>,
    /// Held for reading while an iterator is made, for writing while a row range is committed: a reader sees both or
    /// neither.
    ranges: RwLock<RangeTombstones>,
    writer: Mutex<Writer>,
    /// One flush at a time, so that "what was noted before" has one meaning.
    flushing: Mutex<()>,
    unflushed_bytes: AtomicU64,
    poisoned: Mutex<Option<String>>,
    _shared: Arc<RocksShared>,
}

#[derive(Default)]
struct Writer {
    overwritten: Notes,
    flushing: Notes,
    feed: FeedMeter,
}

/// Old values of state records, by key in the state space.
type Notes = HashMap<Vec<u8>, Option<Bytes>>;

impl RocksEngine {
    /// Opens the tablet in `dir`, or creates it (mode 0700; the parent must exist). Finishes an interrupted
    /// [`install`](super::install). `clock` is only asked by background compactions, for expiry; give it one that is not
    /// ahead of what the tablet has applied and flushed, because what is replayed after a crash must find its cells.
    ///
    /// Fails with [`EngineError::Corruption`] if RocksDB sees damage already now, with [`EngineError::Io`] if another
    /// process has the directory. Until [`Engine::set_schema`] nothing is visible and nothing is forgotten.
    pub fn open(dir: &Path, shared: &Arc<RocksShared>, clock: SharedClock) -> Result<RocksEngine, EngineError> {
        install::finish(dir)?;
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
        });
        let families = shared.column_families(FilterFactory(filter.clone()));
        let db = DB::open_cf_descriptors(shared.database(), dir, families).map_err(|e| error::map(dir, &e))?;
        let engine = RocksEngine {
            db,
            dir: dir.to_owned(),
            schema: ArcSwapOption::empty(),
            filter,
            ranges: RwLock::default(),
            writer: Mutex::default(),
            flushing: Mutex::default(),
            unflushed_bytes: AtomicU64::new(0),
            poisoned: Mutex::default(),
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
        self.db
            .compact_range_cf_opt(self.facts_cf(), None::<&[u8]>, None::<&[u8]>, &options);
    }

    pub(super) fn facts_cf(&self) -> &ColumnFamily {
        self.db.cf_handle(FACTS).expect("opened with this column family")
    }

    pub(super) fn feed_cf(&self) -> &ColumnFamily {
        self.db.cf_handle(FEED).expect("opened with this column family")
    }

    pub(super) fn state_cf(&self) -> &ColumnFamily {
        self.db.cf_handle(STATE).expect("every RocksDB has this column family")
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

    fn error(&self, error: &rocksdb::Error) -> EngineError {
        error::map(&self.dir, error)
    }

    fn corruption(&self, what: String) -> EngineError {
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
        if batch.ranges.is_empty() {
            self.write_raw(batch.batch)?;
        } else {
            let mut ranges = self.ranges.write();
            self.write_raw(batch.batch)?;
            Arc::make_mut(&mut ranges).extend(batch.ranges);
        }
        batch
            .feed
            .iter()
            .for_each(|change: &FeedChange| writer.feed.apply(change));
        self.unflushed_bytes
            .fetch_add(batch.size.bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    fn facts_source(&self, mut options: ReadOptions) -> RocksSource<'_> {
        options.set_verify_checksums(true);
        RocksSource {
            iterator: self.db.raw_iterator_cf_opt(self.facts_cf(), options),
            engine: self,
        }
    }

    /// A source for a pass over everything, which must not push what readers need out of the cache.
    fn whole_source(&self) -> RocksSource<'_> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        self.facts_source(options)
    }

    fn view(&self, spec: &ReadSpec, now_micros: i64, fill_cache: bool) -> Result<View<RocksSource<'_>>, EngineError> {
        let mut options = ReadOptions::default();
        options.fill_cache(fill_cache);
        if let Some(first) = spec.ranges.first().filter(|range| !range.start.is_empty()) {
            options.set_iterate_lower_bound(key::row_prefix(&first.start));
        }
        if let Some(end) = spec.ranges.last().and_then(|range| range.end.as_ref()) {
            options.set_iterate_upper_bound(key::row_prefix(end));
        }
        let schema = self.schema.load_full();
        let (source, ranges) = {
            let ranges = self.ranges.read();
            (self.facts_source(options), ranges.clone())
        };
        View::new(source, spec, schema.as_deref(), ranges, now_micros)
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
    fn sweep(&self, cut: GarbageCut) -> Result<GarbageReport, EngineError> {
        let (source, ranges) = {
            let ranges = self.ranges.read();
            (self.whole_source(), ranges.clone())
        };
        let mut reaper = Reaper::new(Rules {
            schema: self.schema.load_full(),
            now_micros: cut.now_micros,
            range_tombstones: ranges.clone(),
            stable: Some(cut.stable),
        });
        let mut batch = rocksdb::WriteBatch::default();
        let count = ops::sweep(source, &mut reaper, |edit| {
            match edit {
                Edit::Delete(key) => batch.delete_cf(self.facts_cf(), key),
                Edit::Strip(key) => batch.put_cf(self.facts_cf(), key, [key::VALUE_DEAD]),
                Edit::Put(key, value) => batch.put_cf(self.facts_cf(), key, value),
            }
            if batch.size_in_bytes() >= SWEEP_BATCH_BYTES {
                self.write_raw(std::mem::take(&mut batch))?;
            }
            Ok(())
        });
        for alarm in reaper.take_alarms() {
            tracing::error!(dir = %self.dir.display(), "corruption: {alarm}");
        }
        let count = count?;
        self.write_raw(batch)?;
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
        Ok(GarbageReport {
            cells_dropped: count.cells_dropped,
            tombstones_dropped: count.tombstones_dropped + gone.len() as u64,
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
            .filter(|file| file.column_family_name == FACTS)
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

fn sequence(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

struct RocksSource<'a> {
    iterator: DBRawIterator<'a>,
    engine: &'a RocksEngine,
}

impl FactSource for RocksSource<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.iterator.seek(key);
    }

    fn seek_before(&mut self, key: &[u8]) {
        // At or before; no entry's whole key is a row's prefix.
        self.iterator.seek_for_prev(key);
    }

    fn seek_last(&mut self) {
        self.iterator.seek_to_last();
    }

    fn next(&mut self) {
        self.iterator.next();
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

impl Engine for RocksEngine {
    fn write_batch(&self) -> Box<dyn WriteBatch + '_> {
        Box::new(RocksBatch::new(self))
    }

    fn set_schema(&self, schema: Arc<TableSchema>) {
        self.schema.store(Some(schema.clone()));
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
        Ok(Box::new(self.view(spec, now_micros, true)?))
    }

    fn digest(&self, range: &RowRange, now_micros: i64) -> Result<RangeDigest, EngineError> {
        let spec = ReadSpec {
            ranges: vec![range.clone()],
            ..ReadSpec::default()
        };
        ops::digest_of(&mut self.view(&spec, now_micros, false)?)
    }

    fn is_empty(&self) -> Result<bool, EngineError> {
        if self.range_tombstones() > 0 {
            return Ok(false);
        }
        let mut source = self.whole_source();
        source.seek(&[]);
        let empty = source.entry().is_none();
        source.status().map(|()| empty)
    }

    fn range_tombstones(&self) -> usize {
        self.ranges.read().len()
    }

    fn facts(&self) -> Result<Vec<Fact>, EngineError> {
        let (source, ranges) = {
            let ranges = self.ranges.read();
            (self.whole_source(), ranges.clone())
        };
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
        let families = [self.state_cf(), self.facts_cf(), self.feed_cf()];
        let flushed = self.db.flush_cfs_opt(&families, &options);
        let mut writer = self.writer.lock();
        let notes = std::mem::take(&mut writer.flushing);
        match flushed {
            Ok(()) => {
                self.unflushed_bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.filter.range_tombstones.store(ranges);
                self.filter.schema.store(schema);
                Ok(())
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
        self.flush()?;
        // Compaction first: it drops the bulk while it rewrites anyway, so that the sweep has few changes to write.
        let before = self.filter.cells_dropped.load(Ordering::Relaxed);
        self.compact();
        let compacted = self.filter.cells_dropped.load(Ordering::Relaxed) - before;
        let mut report = self.sweep(cut)?;
        report.cells_dropped += compacted;
        self.flush()?;
        Ok(report)
    }

    fn disk_bytes(&self) -> u64 {
        [self.state_cf(), self.facts_cf(), self.feed_cf()]
            .into_iter()
            .map(|family| self.property(family, rocksdb::properties::TOTAL_SST_FILES_SIZE.as_c_str()))
            .sum()
    }

    fn poisoned(&self) -> Option<String> {
        self.poisoned.lock().clone()
    }

    fn middle_row(&self) -> Result<Option<Bytes>, EngineError> {
        let bytes = self.property(self.facts_cf(), rocksdb::properties::TOTAL_SST_FILES_SIZE.as_c_str());
        if bytes >= MIDDLE_BY_FILES_BYTES
            && let Some(row) = self.middle_by_files()?
        {
            return Ok(Some(row));
        }
        ops::middle_row(self.whole_source())
    }

    fn has_family_facts(&self, family: FamilyId) -> Result<bool, EngineError> {
        ops::has_family(self.whole_source(), family)
    }
}
