//! One atomic write: everything goes into one write batch of RocksDB, beside notes of what must be known to commit it.

use super::RocksEngine;
use super::engine::{META_STATE, RANGE_STATE};
use super::shared::SERIES_LAYER;
use crate::api::{Engine, EngineError, WriteBatch, WriteSize};
use crate::kept::KeptBatch;
use crate::key::{self, RangeTombstone};
use crate::memory::{family_zero, range_tombstone, scoped_family};
use crate::series::gathered::Gathered;
use crate::series::pending::Pending;
use tidemark_base::{CellRef, FamilyId, TombstoneRef};
use tidemark_runtime::planted::{Bug, planted};

/// A batch before its commit.
pub(super) struct RocksBatch<'a> {
    pub(super) engine: &'a RocksEngine,
    pub(super) batch: rocksdb::WriteBatch,
    pub(super) ranges: Vec<RangeTombstone>,
    /// Bit `n`: facts were put into layer `n`.
    pub(super) layers: u8,
    /// The family that was asked for last.
    home: Home,
    /// Cells on their way into series records.
    pending: Pending,
    /// Length of the time blocks of the family that they are of.
    pending_micros: i64,
    /// Series records, until the commit.
    gathered: Gathered,
    /// Keys of state records that are written, in their space.
    pub(super) state_keys: Vec<Vec<u8>>,
    pub(super) feed: Vec<FeedChange>,
    pub(super) size: WriteSize,
    pub(super) kept: KeptBatch<'a>,
    invalid: Option<String>,
    value: Vec<u8>,
}

/// What a batch does to the feed.
pub(super) enum FeedChange {
    Put { seq: u64, bytes: u64 },
    Trim { below: u64 },
}

impl<'a> RocksBatch<'a> {
    pub(super) fn new(engine: &'a RocksEngine) -> RocksBatch<'a> {
        RocksBatch {
            engine,
            batch: rocksdb::WriteBatch::default(),
            ranges: Vec::new(),
            layers: 0,
            home: Home::default(),
            pending: Pending::default(),
            pending_micros: 1,
            gathered: Gathered::default(),
            state_keys: Vec::new(),
            feed: Vec::new(),
            size: WriteSize::default(),
            kept: KeptBatch::begin(&engine.kept),
            invalid: None,
            value: Vec::new(),
        }
    }

    /// Puts a fact where facts of that family belong.
    fn put_fact(&mut self, family: FamilyId, key: &[u8], value: &[u8]) {
        let layer = self.home_of(family).layer;
        self.layers |= 1 << layer;
        self.batch.put_cf(self.engine.facts_cf(layer), key, value);
    }

    fn home_of(&mut self, family: FamilyId) -> Home {
        if self.home.family != family {
            self.home = Home {
                family,
                layer: self.engine.layer_of(family),
                block_micros: self.engine.block_micros_of(family),
            };
        }
        self.home
    }

    /// Adds a cell of a series family to those of its row mutation.
    fn put_series(&mut self, cell: &CellRef<'_>, block_micros: i64) {
        if !self.pending.takes(cell) {
            self.emit_series();
        }
        self.pending_micros = block_micros;
        self.pending.push(cell);
        self.size.facts += 1;
        self.size.bytes += cell.qualifier.len() + cell.value.len() + SERIES_CELL_BYTES;
    }

    /// Makes records of the cells that wait.
    fn emit_series(&mut self) {
        let (gathered, size) = (&mut self.gathered, &mut self.size);
        self.pending.emit(self.pending_micros, |key, value| {
            size.bytes += key.len() + SERIES_TICK_BYTES;
            gathered.push(key, value);
        });
    }

    /// Writes all series records, as merge operands.
    fn merge_series(&mut self) {
        self.emit_series();
        let series = self.engine.series_cf();
        let (batch, layers) = (&mut self.batch, &mut self.layers);
        self.gathered.emit(|key, operand| {
            *layers |= 1 << SERIES_LAYER;
            batch.merge_cf(series, key, operand);
        });
    }

    fn count(&mut self, facts: usize, bytes: usize) {
        self.size.facts += facts;
        self.size.bytes += bytes;
    }
}

/// Where facts of a family go.
#[derive(Clone, Copy, Default)]
struct Home {
    family: FamilyId,
    layer: usize,
    /// Of a series family.
    block_micros: Option<i64>,
}

/// What a cell takes in a tick beside its qualifier and value.
const SERIES_CELL_BYTES: usize = 2;
/// What a tick takes beside its key and cells.
const SERIES_TICK_BYTES: usize = 27;

/// A state record's key in the state space.
pub(super) fn state_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 1);
    out.push(META_STATE);
    out.extend_from_slice(key);
    out
}

/// A row range's key in the state space.
pub(super) fn range_key(range: &RangeTombstone) -> Vec<u8> {
    let mut out = vec![RANGE_STATE];
    out.extend_from_slice(&range.key());
    out
}

/// More records than this are trimmed as a range.
const TRIMMED_SINGLY_MAX: u64 = 10_000;

impl WriteBatch for RocksBatch<'_> {
    fn put_cell(&mut self, cell: CellRef<'_>) {
        self.invalid = self.invalid.take().or_else(|| family_zero(cell.family));
        self.kept.put(&cell);
        if let Some(block_micros) = self.home_of(cell.family).block_micros
            && Pending::suits(&cell)
        {
            return self.put_series(&cell, block_micros);
        }
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
            let facts = self.engine.facts_cf(self.engine.layer_of(cell.family));
            for (from, below) in key::ties(&key) {
                self.batch.delete_range_cf(facts, from, below);
            }
        }
        let mut value = std::mem::take(&mut self.value);
        value.clear();
        value.push(key::VALUE_LIVE);
        value.extend_from_slice(cell.value);
        self.put_fact(cell.family, &key, &value);
        self.value = value;
        self.count(1, key.len() + cell.value.len() + 1);
    }

    fn put_tombstone(&mut self, tombstone: TombstoneRef<'_>) {
        match key::tombstone_key(tombstone) {
            Some(key) => {
                let family = scoped_family(tombstone);
                self.kept.delete(tombstone.row, family);
                self.put_fact(family.unwrap_or(FamilyId(0)), &key, &[key::VALUE_TOMBSTONE]);
                self.count(1, key.len() + 1);
            }
            None => {
                self.kept.delete_range();
                let range = range_tombstone(tombstone);
                let key = range_key(&range);
                self.batch.put_cf(self.engine.state_cf(), &key, [key::VALUE_TOMBSTONE]);
                self.count(1, key.len() + 1);
                self.ranges.push(range);
            }
        }
    }

    fn put_feed(&mut self, seq: u64, bytes: &[u8]) {
        self.batch.put_cf(self.engine.feed_cf(), seq.to_be_bytes(), bytes);
        self.count(0, 8 + bytes.len());
        self.feed.push(FeedChange::Put {
            seq,
            bytes: 8 + bytes.len() as u64,
        });
    }

    fn trim_feed(&mut self, below_seq: u64) {
        // One by one: every read behind a range deletion sorts all range deletions of the memtable anew, and a feed is
        // trimmed with every acknowledgement. Only what a long silence left behind goes as a range.
        let held = self.engine.feed_bounds().ok().flatten().map(|(first, _)| first);
        let put = self.feed.iter().filter_map(|change| match change {
            FeedChange::Put { seq, .. } => Some(*seq),
            FeedChange::Trim { .. } => None,
        });
        let first = put.chain(held).min().unwrap_or(below_seq);
        if below_seq.saturating_sub(first) <= TRIMMED_SINGLY_MAX {
            for seq in first..below_seq {
                self.batch.delete_cf(self.engine.feed_cf(), seq.to_be_bytes());
            }
        } else {
            self.batch
                .delete_range_cf(self.engine.feed_cf(), first.to_be_bytes(), below_seq.to_be_bytes());
        }
        self.feed.push(FeedChange::Trim { below: below_seq });
    }

    fn put_state(&mut self, key: &[u8], value: &[u8]) {
        let key = state_key(key);
        self.batch.put_cf(self.engine.state_cf(), &key, value);
        self.count(0, key.len() + value.len());
        self.state_keys.push(key);
    }

    fn delete_state(&mut self, key: &[u8]) {
        let key = state_key(key);
        self.batch.delete_cf(self.engine.state_cf(), &key);
        self.count(0, key.len());
        self.state_keys.push(key);
    }

    fn size(&self) -> WriteSize {
        self.size
    }

    fn commit(mut self: Box<Self>) -> Result<(), EngineError> {
        self.merge_series();
        match self.invalid {
            Some(invalid) => Err(EngineError::Invalid(invalid)),
            None => self.engine.commit(*self),
        }
    }
}
