//! The memory twin: the same facts in ordered maps. For simulation and tests, and as the second implementation that
//! keeps the interface honest; it shares physical keys, the read path and garbage collection with the product, so only
//! storage itself differs.
//!
//! Durability is explicit: [`MemoryEngine::crash`] returns to the last flush, as a process that is killed does.
//!
//! ```text
//! checkpoint file `memory.tidemark` := 'M' 0x01 | facts map | ranges | feed map | state map | crc32c u32 over all before
//! map    := count varint, n x (key slice, value slice)      the feed's keys are its sequences, u64 big endian
//! ranges := count varint, n x slice                         keys as in the module `key`
//! ```

use crate::api::{
    CellCursor, EachCell, Engine, EngineError, FeedRecord, GarbageCut, GarbageReport, RangeDigest, RowParts,
    WriteBatch, WriteSize,
};
use crate::due::LastCollection;
use crate::kept::{KeptBatch, KeptBudget, KeptRows};
use crate::key::{self, RangeTombstone};
use crate::ops::{self, Edit};
use crate::reap::{Leftovers, Reaper, Rules};
use crate::source::FactSource;
use crate::view::{RangeTombstones, View};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use tidemark_base::aggregate::Aggregates;
use tidemark_base::codec::{Malformed, Reader, put_slice, put_varint};
use tidemark_base::fact::Fact;
use tidemark_base::{CellRef, FamilyId, ReadSpec, RowRange, Scope, Stamp, TableSchema, TombstoneRef};
use tidemark_runtime::planted::{Bug, planted};

type Map = Arc<BTreeMap<Bytes, Bytes>>;

/// An engine in memory. Clones share one tablet.
#[derive(Clone)]
pub struct MemoryEngine {
    inner: Arc<Mutex<Inner>>,
    kept: Arc<KeptRows>,
}

/// Bytes of kept rows.
const KEPT_BYTES_MAX: u64 = 1 << 20;

impl Default for MemoryEngine {
    fn default() -> MemoryEngine {
        MemoryEngine {
            inner: Arc::default(),
            kept: Arc::new(KeptRows::new(KeptBudget::new(KEPT_BYTES_MAX))),
        }
    }
}

#[derive(Default)]
struct Inner {
    now: Content,
    durable: Content,
    schema: Option<Arc<TableSchema>>,
    unflushed_bytes: u64,
    poisoned: Option<String>,
    /// After so many commits, so many find no room.
    no_space: (u64, u64),
    /// Facts ever committed.
    facts_written: u64,
    last_collection: LastCollection,
}

/// The maps are copied when a reader or the durable cut still holds them: readers see one moment, and never wait.
#[derive(Clone, Default)]
struct Content {
    facts: Map,
    ranges: RangeTombstones,
    feed: Arc<BTreeMap<u64, Bytes>>,
    state: Map,
}

/// The file that a checkpoint consists of.
const CHECKPOINT_FILE: &str = "memory.tidemark";
const MAGIC: [u8; 2] = [b'M', 1];

impl MemoryEngine {
    /// An empty tablet.
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    /// A tablet from the directory that [`Engine::checkpoint`] wrote.
    pub fn open_checkpoint(dir: &Path) -> Result<MemoryEngine, EngineError> {
        let path = dir.join(CHECKPOINT_FILE);
        let bytes = std::fs::read(&path).map_err(|e| EngineError::Io(format!("{}: {e}", path.display())))?;
        let content =
            Content::decode(&bytes).map_err(|e| EngineError::Corruption(format!("{}: {e}", path.display())))?;
        let engine = MemoryEngine::new();
        {
            let mut inner = engine.inner.lock();
            inner.durable = content.clone();
            inner.now = content;
        }
        Ok(engine)
    }

    /// What a killed process leaves: everything since the last flush is gone, the schema must be set again, and a
    /// poisoned engine is as good as reopened.
    pub fn crash(&self) {
        let mut inner = self.inner.lock();
        inner.now = inner.durable.clone();
        inner.schema = None;
        self.kept.set_schema(None);
        inner.last_collection.forget();
        inner.unflushed_bytes = 0;
        inner.poisoned = None;
    }

    /// Makes every later write fail as after an uncertain one, until [`MemoryEngine::crash`]; for tests.
    pub fn poison(&self, why: &str) {
        self.inner.lock().poisoned = Some(why.to_owned());
    }

    /// After `after` more commits, `commits` of them fail with [`EngineError::NoSpace`] and write nothing; for tests.
    pub fn refuse_commits(&self, after: u64, commits: u64) {
        self.inner.lock().no_space = (after, commits);
    }

    /// How many refusals are left.
    pub fn refusals_left(&self) -> u64 {
        self.inner.lock().no_space.1
    }

    /// What background compaction does: forgets what it may without knowing a stable cut.
    pub fn compact(&self, now_micros: i64) -> Result<(), EngineError> {
        self.sweep(now_micros, None).map(|_| ())
    }

    fn sweep(&self, now_micros: i64, stable: Option<Stamp>) -> Result<(GarbageReport, Leftovers, bool), EngineError> {
        let mut inner = self.inner.lock();
        let mut reaper = Reaper::new(Rules {
            schema: inner.schema.clone(),
            now_micros,
            range_tombstones: inner.now.ranges.clone(),
            stable,
        });
        let mut edits = Vec::new();
        let count = ops::sweep(MapSource::new(&inner.now.facts), &mut reaper, |edit, _, _| {
            edits.push(edit);
            Ok(())
        })?;
        for alarm in reaper.take_alarms() {
            tracing::error!("corruption in memory: {alarm}");
        }
        let mut leftovers = reaper.leftovers();
        let changed = !edits.is_empty();
        let facts = Arc::make_mut(&mut inner.now.facts);
        for edit in edits {
            match edit {
                Edit::Delete(key) => facts.remove(&key[..]),
                Edit::Strip(key) => facts.insert(key.into(), Bytes::from_static(&[key::VALUE_DEAD])),
                Edit::Move(key, value) => facts.insert(key.into(), value.into()),
            };
        }
        let mut report = GarbageReport {
            cells_dropped: count.cells_dropped,
            tombstones_dropped: count.tombstones_dropped,
            skipped: false,
        };
        let above = |t: &&RangeTombstone| stable.is_none_or(|stable| t.stamp > stable);
        inner
            .now
            .ranges
            .iter()
            .filter(above)
            .for_each(|t| leftovers.tombstone(t.stamp));
        if let Some(stable) = stable.filter(|_| !count.ranges_needed) {
            let ranges = Arc::make_mut(&mut inner.now.ranges);
            let before = ranges.len();
            ranges.retain(|t| t.stamp > stable);
            report.tombstones_dropped += (before - ranges.len()) as u64;
        }
        Ok((report, leftovers, changed))
    }

    fn view(&self, spec: &ReadSpec, now_micros: i64) -> Result<View<MapSource>, EngineError> {
        let inner = self.inner.lock();
        let source = MapSource::new(&inner.now.facts);
        View::new(
            source,
            spec,
            inner.schema.as_deref(),
            inner.now.ranges.clone(),
            now_micros,
        )
    }

    fn facts_source(&self) -> MapSource {
        MapSource::new(&self.inner.lock().now.facts)
    }
}

impl Inner {
    fn check(&self) -> Result<(), EngineError> {
        match &self.poisoned {
            Some(why) => Err(EngineError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }
}

struct MapSource {
    map: Map,
    at: Option<(Bytes, Bytes)>,
}

impl MapSource {
    fn new(map: &Map) -> MapSource {
        MapSource {
            map: map.clone(),
            at: None,
        }
    }

    fn first(&mut self, from: Bound<&[u8]>) {
        let mut range = self.map.range::<[u8], _>((from, Bound::Unbounded));
        self.at = range.next().map(|(k, v)| (k.clone(), v.clone()));
    }
}

impl FactSource for MapSource {
    fn seek(&mut self, key: &[u8]) {
        self.first(Bound::Included(key));
    }

    fn seek_before(&mut self, key: &[u8]) {
        let mut range = self.map.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(key)));
        self.at = range.next_back().map(|(k, v)| (k.clone(), v.clone()));
    }

    fn seek_last(&mut self) {
        self.at = self.map.last_key_value().map(|(k, v)| (k.clone(), v.clone()));
    }

    fn next(&mut self) {
        if let Some((key, _)) = self.at.take() {
            self.first(Bound::Excluded(&key));
        }
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.at.as_ref().map(|(k, v)| (&k[..], &v[..]))
    }

    fn status(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn corruption(&self, what: String) -> EngineError {
        EngineError::Corruption(format!("memory: {what}"))
    }
}

struct MemoryBatch<'a> {
    engine: &'a MemoryEngine,
    kept: KeptBatch<'a>,
    ops: Vec<Op>,
    size: WriteSize,
    invalid: Option<String>,
}

enum Op {
    Fact(Bytes, Bytes),
    Range(RangeTombstone),
    Feed(u64, Bytes),
    TrimFeed(u64),
    State(Bytes, Option<Bytes>),
    /// Removes the facts from one key to another. Only a planted bug does so.
    Forget(Vec<u8>, Vec<u8>),
}

impl MemoryBatch<'_> {
    fn push_fact(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.size.facts += 1;
        self.size.bytes += key.len() + value.len();
        self.ops.push(Op::Fact(key.into(), value.into()));
    }
}

impl WriteBatch for MemoryBatch<'_> {
    fn put_cell(&mut self, cell: CellRef<'_>) {
        self.invalid = self.invalid.take().or_else(|| family_zero(cell.family));
        self.kept.put(&cell);
        let key = key::cell_key(
            cell.row,
            cell.family,
            cell.qualifier,
            cell.version,
            cell.stamp,
            cell.value,
        );
        // Planted: of two values of one time, the one that comes last stays.
        if planted(Bug::TieByArrival) {
            let ties = key::ties(&key).map(|(from, below)| Op::Forget(from, below));
            self.ops.extend(ties);
        }
        self.push_fact(key, [&[key::VALUE_LIVE], cell.value].concat());
    }

    fn put_tombstone(&mut self, tombstone: TombstoneRef<'_>) {
        match key::tombstone_key(tombstone) {
            Some(key) => {
                self.kept.delete(tombstone.row, scoped_family(tombstone));
                self.push_fact(key, vec![key::VALUE_TOMBSTONE]);
            }
            None => {
                self.kept.delete_range();
                let range = range_tombstone(tombstone);
                self.size.facts += 1;
                self.size.bytes += range.key().len();
                self.ops.push(Op::Range(range));
            }
        }
    }

    fn put_feed(&mut self, seq: u64, bytes: &[u8]) {
        self.size.bytes += 8 + bytes.len();
        self.ops.push(Op::Feed(seq, Bytes::copy_from_slice(bytes)));
    }

    fn trim_feed(&mut self, below_seq: u64) {
        self.ops.push(Op::TrimFeed(below_seq));
    }

    fn put_state(&mut self, key: &[u8], value: &[u8]) {
        self.size.bytes += key.len() + value.len();
        let value = Bytes::copy_from_slice(value);
        self.ops.push(Op::State(Bytes::copy_from_slice(key), Some(value)));
    }

    fn delete_state(&mut self, key: &[u8]) {
        self.size.bytes += key.len();
        self.ops.push(Op::State(Bytes::copy_from_slice(key), None));
    }

    fn size(&self) -> WriteSize {
        self.size
    }

    fn commit(self: Box<Self>) -> Result<(), EngineError> {
        if let Some(invalid) = self.invalid {
            return Err(EngineError::Invalid(invalid));
        }
        let mut inner = self.engine.inner.lock();
        inner.check()?;
        match inner.no_space {
            (0, 0) => {}
            (0, left) => {
                inner.no_space.1 = left - 1;
                return Err(EngineError::NoSpace("refused on command".to_owned()));
            }
            (after, _) => inner.no_space.0 = after - 1,
        }
        inner.unflushed_bytes += self.size.bytes as u64;
        inner.facts_written += self.size.facts as u64;
        let now = &mut inner.now;
        for op in self.ops {
            match op {
                Op::Fact(key, value) => {
                    Arc::make_mut(&mut now.facts).insert(key, value);
                }
                Op::Range(range) => {
                    Arc::make_mut(&mut now.ranges).insert(range);
                }
                Op::Feed(seq, bytes) => {
                    Arc::make_mut(&mut now.feed).insert(seq, bytes);
                }
                Op::TrimFeed(below) => {
                    let feed = Arc::make_mut(&mut now.feed);
                    *feed = feed.split_off(&below);
                }
                Op::State(key, Some(value)) => {
                    Arc::make_mut(&mut now.state).insert(key, value);
                }
                Op::State(key, None) => {
                    Arc::make_mut(&mut now.state).remove(&key);
                }
                Op::Forget(from, below) => {
                    Arc::make_mut(&mut now.facts).retain(|key, _| key[..] < from[..] || key[..] >= below[..]);
                }
            }
        }
        drop(inner);
        self.kept.finish();
        Ok(())
    }
}

/// Family 0 is the row level of keys.
pub(crate) fn family_zero(family: FamilyId) -> Option<String> {
    (family.0 == 0).then(|| "family 0 is never assigned".to_owned())
}

/// The family of which a tombstone covers a part; none = all of them.
pub(crate) fn scoped_family(tombstone: TombstoneRef<'_>) -> Option<FamilyId> {
    match tombstone.scope {
        Scope::Column { family, .. } | Scope::Family { family } => Some(family),
        Scope::Row | Scope::RowRange { .. } => None,
    }
}

/// A row-range tombstone with its own bytes; any other scope counts as its one row.
pub(crate) fn range_tombstone(tombstone: TombstoneRef<'_>) -> RangeTombstone {
    let row = RowRange::row(tombstone.row);
    RangeTombstone {
        start: row.start,
        end: match tombstone.scope {
            Scope::RowRange { end } => end.map(Bytes::copy_from_slice),
            _ => row.end,
        },
        versions: tombstone.versions,
        stamp: tombstone.stamp,
    }
}

impl Engine for MemoryEngine {
    fn write_batch(&self) -> Box<dyn WriteBatch + '_> {
        Box::new(MemoryBatch {
            engine: self,
            kept: KeptBatch::begin(&self.kept),
            ops: Vec::new(),
            size: WriteSize::default(),
            invalid: None,
        })
    }

    fn set_schema(&self, schema: Arc<TableSchema>) {
        self.inner.lock().schema = Some(schema.clone());
        self.kept.set_schema(Some(&schema));
    }

    fn state(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.inner.lock().now.state.get(key).cloned())
    }

    fn state_scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let state = self.inner.lock().now.state.clone();
        let start = from.max(prefix);
        let range = state.range::<[u8], _>((Bound::Included(start), Bound::Unbounded));
        let found = range.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(found.map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn feed(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<FeedRecord>, EngineError> {
        let feed = self.inner.lock().now.feed.clone();
        let mut records = Vec::new();
        let mut bytes = 0;
        for (seq, record) in feed.range(from_seq..) {
            bytes += record.len();
            if !records.is_empty() && bytes > bytes_max {
                break;
            }
            records.push(FeedRecord {
                seq: *seq,
                bytes: record.clone(),
            });
        }
        Ok(records)
    }

    fn feed_bounds(&self) -> Result<Option<(u64, u64)>, EngineError> {
        let feed = &self.inner.lock().now.feed;
        Ok(feed
            .first_key_value()
            .zip(feed.last_key_value())
            .map(|(a, b)| (*a.0, *b.0)))
    }

    fn feed_bytes(&self) -> u64 {
        self.inner
            .lock()
            .now
            .feed
            .values()
            .map(|record| 8 + record.len() as u64)
            .sum()
    }

    fn read(&self, spec: &ReadSpec, now_micros: i64) -> Result<Box<dyn CellCursor + '_>, EngineError> {
        Ok(Box::new(self.view(spec, now_micros)?))
    }

    fn newest(&self, row: &RowParts<'_>, each: EachCell<'_>) -> bool {
        let schema = self.inner.lock().schema.clone();
        self.kept.give(row, schema.as_deref(), each)
    }

    fn read_newest(&self, row: &RowParts<'_>, _in_memory: bool, each: EachCell<'_>) -> Result<(), EngineError> {
        let view = |spec: &ReadSpec| self.view(spec, row.now_micros);
        self.kept.read_through(row, view, each)
    }

    fn read_in_memory(&self, spec: &ReadSpec, now_micros: i64) -> Result<Box<dyn CellCursor + '_>, EngineError> {
        self.read(spec, now_micros)
    }

    fn shed_kept(&self) {
        self.kept.shed();
    }

    fn aggregate(&self, spec: &ReadSpec, now_micros: i64, out: &mut Aggregates) -> Result<(), EngineError> {
        ops::aggregate_of(&mut *self.read(spec, now_micros)?, out)
    }

    fn digest(&self, range: &RowRange, now_micros: i64) -> Result<RangeDigest, EngineError> {
        let spec = ReadSpec {
            ranges: vec![range.clone()],
            ..ReadSpec::default()
        };
        ops::digest_of(&mut *self.read(&spec, now_micros)?)
    }

    fn is_empty(&self) -> Result<bool, EngineError> {
        let inner = self.inner.lock();
        Ok(inner.now.facts.is_empty() && inner.now.ranges.is_empty())
    }

    fn range_tombstones(&self) -> usize {
        self.inner.lock().now.ranges.len()
    }

    fn facts(&self) -> Result<Vec<Fact>, EngineError> {
        let ranges = self.inner.lock().now.ranges.clone();
        ops::all_facts(self.facts_source(), ranges.iter())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut inner = self.inner.lock();
        inner.check()?;
        inner.durable = inner.now.clone();
        inner.unflushed_bytes = 0;
        Ok(())
    }

    fn durable_state(&self, key: &[u8]) -> Option<Bytes> {
        self.inner.lock().durable.state.get(key).cloned()
    }

    fn unflushed_bytes(&self) -> u64 {
        self.inner.lock().unflushed_bytes
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), EngineError> {
        self.flush()?;
        let bytes = self.inner.lock().durable.encode();
        let write = || {
            std::fs::create_dir(dir)?;
            let path = dir.join(CHECKPOINT_FILE);
            std::fs::write(&path, bytes)?;
            std::fs::File::open(&path)?.sync_all()?;
            std::fs::File::open(dir)?.sync_all()
        };
        write().map_err(|e| EngineError::Io(format!("{}: {e}", dir.display())))
    }

    fn collect_garbage(&self, cut: GarbageCut) -> Result<GarbageReport, EngineError> {
        self.flush()?;
        let (facts_written, schema) = {
            let inner = self.inner.lock();
            if !inner
                .last_collection
                .is_due(cut, inner.schema.as_ref(), inner.facts_written)
            {
                return Ok(GarbageReport {
                    skipped: true,
                    ..GarbageReport::default()
                });
            }
            (inner.facts_written, inner.schema.clone())
        };
        let (report, leftovers, changed) = self.sweep(cut.now_micros, Some(cut.stable))?;
        self.flush()?;
        let last = &mut self.inner.lock().last_collection;
        last.note(cut, schema, facts_written, leftovers, changed);
        Ok(report)
    }

    fn disk_bytes(&self) -> u64 {
        let inner = self.inner.lock();
        let maps = [&inner.durable.facts, &inner.durable.state];
        let bytes = |map: &Map| map.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum::<u64>();
        let feed: u64 = inner.durable.feed.values().map(|record| 8 + record.len() as u64).sum();
        maps.into_iter().map(bytes).sum::<u64>() + feed
    }

    fn poisoned(&self) -> Option<String> {
        self.inner.lock().poisoned.clone()
    }

    fn middle_row(&self) -> Result<Option<Bytes>, EngineError> {
        ops::middle_row(self.facts_source())
    }

    fn has_family_facts(&self, family: FamilyId) -> Result<bool, EngineError> {
        ops::has_family(self.facts_source(), family)
    }
}

impl Content {
    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put_map(
            &mut out,
            self.facts.iter().map(|(k, v)| (&k[..], &v[..])),
            self.facts.len(),
        );
        put_varint(&mut out, self.ranges.len() as u64);
        self.ranges.iter().for_each(|range| put_slice(&mut out, &range.key()));
        put_varint(&mut out, self.feed.len() as u64);
        for (seq, record) in self.feed.iter() {
            put_slice(&mut out, &seq.to_be_bytes());
            put_slice(&mut out, record);
        }
        put_map(
            &mut out,
            self.state.iter().map(|(k, v)| (&k[..], &v[..])),
            self.state.len(),
        );
        let sum = crc32c::crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Content, Malformed> {
        let (content, sum) = bytes
            .split_last_chunk::<4>()
            .ok_or(Malformed("a checkpoint shorter than its checksum"))?;
        if crc32c::crc32c(content).to_le_bytes() != *sum {
            return Err(Malformed("the checkpoint's checksum does not match"));
        }
        let mut r = Reader::new(content);
        if r.take(2)? != MAGIC {
            return Err(Malformed("not a checkpoint of format 1"));
        }
        let facts = Arc::new(read_map(&mut r)?);
        let mut ranges = std::collections::BTreeSet::new();
        for _ in 0..r.varint()? {
            ranges.insert(RangeTombstone::decode(r.slice(usize::MAX, "range too long")?)?);
        }
        let mut feed = BTreeMap::new();
        for (seq, record) in read_map(&mut r)? {
            let seq = seq[..]
                .try_into()
                .map_err(|_| Malformed("a feed sequence is not 8 bytes"))?;
            feed.insert(u64::from_be_bytes(seq), record);
        }
        Ok(Content {
            facts,
            ranges: Arc::new(ranges),
            feed: Arc::new(feed),
            state: Arc::new(read_map(&mut r)?),
        })
    }
}

fn put_map<'a>(out: &mut Vec<u8>, entries: impl Iterator<Item = (&'a [u8], &'a [u8])>, count: usize) {
    put_varint(out, count as u64);
    for (key, value) in entries {
        put_slice(out, key);
        put_slice(out, value);
    }
}

fn read_map(r: &mut Reader<'_>) -> Result<BTreeMap<Bytes, Bytes>, Malformed> {
    let mut map = BTreeMap::new();
    for _ in 0..r.varint()? {
        let key = Bytes::copy_from_slice(r.slice(usize::MAX, "key too long")?);
        map.insert(key, Bytes::copy_from_slice(r.slice(usize::MAX, "value too long")?));
    }
    Ok(map)
}
