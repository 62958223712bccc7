//! What an engine can do, in facts, families, rows and cells, never in keys and values: a second physical layout of a
//! family must fit behind it.
//!
//! Two implementations pass one conformance suite: RocksDB (the product) and a memory twin (simulation, oracles).
//!
//! ```text
//!   apply:  write_batch() -> put_cell, put_tombstone, put_feed, put_state … -> commit     ONE atomic write
//!   read:   read(spec, now) -> cursor of visible cells, computed as if garbage collection had already run (O15)
//!   later:  flush() -> what is durable;  checkpoint(dir);  collect_garbage(cut)
//! ```
//! State records survive with the facts from one cut: applied position, membership, schema, cursors, tokens, quarantine.

use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use tidemark_base::aggregate::Aggregates;
use tidemark_base::{CellRef, FamilyId, ReadSpec, RowRange, Stamp, TableSchema, TombstoneRef};

/// Why an engine call failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EngineError {
    /// The request can never succeed (a filter's regex does not compile, a limit).
    #[error("{0}")]
    Invalid(String),
    /// Bytes on disk are not what was written: names the tablet's directory and, where known, the file.
    #[error("corruption: {0}")]
    Corruption(String),
    /// The disk is full; nothing was written.
    #[error("no space left: {0}")]
    NoSpace(String),
    /// A write's outcome is uncertain, or the engine was poisoned by an earlier one: it must be closed and reopened.
    #[error("poisoned: {0}")]
    Poisoned(String),
    /// Any other I/O failure of a read or of opening.
    #[error("I/O: {0}")]
    Io(String),
    /// [`Engine::read_in_memory`] came to something that only the disk has. Nothing is wrong: read again by
    /// [`Engine::read`].
    #[error("not in memory: {0}")]
    NotInMemory(String),
}

/// One feed record (R13): `seq` is numbered by the state machine, from 1, without holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedRecord {
    /// Position in this tablet's feed.
    pub seq: u64,
    /// Opaque to the engine.
    pub bytes: Bytes,
}

/// How much a batch or an engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteSize {
    /// Facts.
    pub facts: usize,
    /// Bytes, as encoded for storage.
    pub bytes: usize,
}

/// Up to where garbage may be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GarbageCut {
    /// Tombstones with a stamp at or below it may go (R12): no covered, older fact can still arrive. `Stamp::MIN` keeps
    /// all of them.
    pub stable: Stamp,
    /// Expired cells go when `version + ttl + max_offset <= now`; microseconds.
    pub now_micros: i64,
}

/// What a garbage collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GarbageReport {
    /// Cells dropped.
    pub cells_dropped: u64,
    /// Tombstones dropped.
    pub tombstones_dropped: u64,
    /// Nothing was looked at, because nothing can have become garbage since the last collection.
    pub skipped: bool,
}

/// An order-free digest of the visible cells of a range (R25): the sum of two ranges' digests is the digest of both.
///
/// Computed over (row, family id, qualifier, version, value); stamps are left out on purpose, so that an oracle that
/// knows only values can compare, and kept in `stamps_hash`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeDigest {
    /// Rows with at least one visible cell.
    pub rows: u64,
    /// Visible cells.
    pub cells: u64,
    /// Wrapping sum of XXH3-128 over each visible cell without its stamp.
    pub content_hash: u128,
    /// Wrapping sum of XXH3-128 over each visible cell with its stamp.
    pub stamps_hash: u128,
}

impl RangeDigest {
    /// The digest of two disjoint ranges.
    pub fn add(&mut self, other: RangeDigest) {
        self.rows += other.rows;
        self.cells += other.cells;
        self.content_hash = self.content_hash.wrapping_add(other.content_hash);
        self.stamps_hash = self.stamps_hash.wrapping_add(other.stamps_hash);
    }
}

/// One atomic write. Dropping it without [`WriteBatch::commit`] writes nothing.
pub trait WriteBatch: Send {
    /// Adds a cell fact. No read is made; the same fact twice is one fact.
    fn put_cell(&mut self, cell: CellRef<'_>);
    /// Adds a tombstone fact.
    fn put_tombstone(&mut self, tombstone: TombstoneRef<'_>);
    /// Appends a feed record; the caller numbers without holes.
    fn put_feed(&mut self, seq: u64, bytes: &[u8]);
    /// Forgets feed records below `seq`.
    fn trim_feed(&mut self, below_seq: u64);
    /// Writes a state record.
    fn put_state(&mut self, key: &[u8], value: &[u8]);
    /// Removes a state record.
    fn delete_state(&mut self, key: &[u8]);
    /// How much the batch holds.
    fn size(&self) -> WriteSize;
    /// Makes the batch visible, all or nothing. Durable only after a later flush: the Raft log is the WAL.
    fn commit(self: Box<Self>) -> Result<(), EngineError>;
}

/// Visible cells in order. Lending: what [`CellCursor::cell`] returns is valid until the next advance.
pub trait CellCursor: Send {
    /// Moves to the next visible cell that passes the filter; false at the end (also at the rows limit).
    fn advance(&mut self) -> Result<bool, EngineError>;
    /// The current cell. Only after `advance` returned true.
    fn cell(&self) -> CellRef<'_>;
    /// True if the current cell is the first returned of its row.
    fn is_row_start(&self) -> bool;
    /// Approximate bytes of storage visited so far, for budgets of scans that match little.
    fn visited_bytes(&self) -> u64;
}

/// What is asked of one row.
#[derive(Clone, Copy, Debug)]
pub struct RowParts<'a> {
    /// Its key.
    pub row: &'a [u8],
    /// Families, sorted, each once; none = all.
    pub families: Option<&'a [FamilyId]>,
    /// Decides expiry.
    pub now_micros: i64,
}

/// Is given cells with the bytes that were visited so far, and says whether it wants more.
pub type EachCell<'a> = &'a mut dyn FnMut(&CellRef<'_>, u64) -> bool;

/// One tablet's storage. Calls are synchronous; reads may run beside one writer.
pub trait Engine: Send + Sync {
    /// Starts an atomic write.
    fn write_batch(&self) -> Box<dyn WriteBatch + '_>;

    /// Sets the schema that reads and garbage collection use. The caller persists it as a state record and sets it again
    /// at open. Facts of families that it does not name are invisible, and kept; facts of families that it names as dropped
    /// are invisible, and garbage.
    fn set_schema(&self, schema: Arc<TableSchema>);

    /// A state record.
    fn state(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;
    /// State records with that prefix, from `from` on (a full key, or empty), at most `limit`, in key order.
    fn state_scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError>;

    /// Feed records from `from_seq` on, until `bytes_max` is reached (at least one if there is one).
    fn feed(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<FeedRecord>, EngineError>;
    /// The first and last sequence in the feed; `None` when it is empty.
    fn feed_bounds(&self) -> Result<Option<(u64, u64)>, EngineError>;
    /// Bytes held by the feed, approximately.
    fn feed_bytes(&self) -> u64;

    /// Visible cells. The spec must be normalised. `now_micros` decides expiry. The view is from one moment.
    fn read(&self, spec: &ReadSpec, now_micros: i64) -> Result<Box<dyn CellCursor + '_>, EngineError>;
    /// The same for a thread that must not wait for a disk: it, or its advances, end with [`EngineError::NotInMemory`] where
    /// the answer is not in memtables and caches alone. What was seen before that is true, and incomplete.
    fn read_in_memory(&self, spec: &ReadSpec, now_micros: i64) -> Result<Box<dyn CellCursor + '_>, EngineError>;
    /// The newest visible cell of each column of a row that is kept ready, in order, until `each` returns false. False, and
    /// nothing given, where not all of it is kept: read it by [`Engine::read_newest`].
    fn newest(&self, row: &RowParts<'_>, each: EachCell<'_>) -> bool;
    /// The same for any row, from the store; and keeps it ready, if it is one that can be. With `in_memory` as
    /// [`Engine::read_in_memory`].
    fn read_newest(&self, row: &RowParts<'_>, in_memory: bool, each: EachCell<'_>) -> Result<(), EngineError>;
    /// Gives up rows that are kept ready, if memory for them is short. To be called every second or so.
    fn shed_kept(&self);
    /// Adds the numbers among the cells that a read would return; see [`tidemark_base::aggregate`]. Order and limits of rows
    /// count as they do for a read. [`EngineError::Invalid`] where there would be too many groups.
    fn aggregate(&self, spec: &ReadSpec, now_micros: i64, out: &mut Aggregates) -> Result<(), EngineError>;
    /// The digest of the visible cells in a range.
    fn digest(&self, range: &RowRange, now_micros: i64) -> Result<RangeDigest, EngineError>;
    /// True if there is no fact at all, tombstones included.
    fn is_empty(&self) -> Result<bool, EngineError>;
    /// Number of row-range tombstones held.
    fn range_tombstones(&self) -> usize;
    /// Every fact, in no promised order: for oracles, tools and tests; streams nothing, so small tablets only.
    fn facts(&self) -> Result<Vec<tidemark_base::fact::Fact>, EngineError>;

    /// Makes everything committed so far durable, from one cut over facts, feed and state. Blocks.
    fn flush(&self) -> Result<(), EngineError>;
    /// Value of that state record in the durable cut: what a crash right now would leave. Cheap.
    ///
    /// The caller keeps its applied position in one record and purges the log by this.
    fn durable_state(&self, key: &[u8]) -> Option<Bytes>;
    /// Bytes committed but not yet flushed.
    fn unflushed_bytes(&self) -> u64;

    /// Writes a self-contained, fsynced copy into `dir`, which must not exist; hard links where possible.
    fn checkpoint(&self, dir: &Path) -> Result<(), EngineError>;
    /// Flushes, then compacts everything and forgets what nobody can see and no arrival can revive. Blocks; reads and
    /// writes go on. Neutral to every read and every later merge (R6). Where nothing can have become garbage since the last
    /// call, it does nothing and says so.
    fn collect_garbage(&self, cut: GarbageCut) -> Result<GarbageReport, EngineError>;
    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
    /// Why the engine no longer takes writes, if so.
    fn poisoned(&self) -> Option<String>;
    /// Approximate middle row of the stored rows, for splitting; `None` when too few.
    fn middle_row(&self) -> Result<Option<Bytes>, EngineError>;
    /// Facts of that family, for tests and dropped families.
    fn has_family_facts(&self, family: FamilyId) -> Result<bool, EngineError>;
}
