//! The engine of a tablet that was stopped: it answers nothing. It takes the real one's place in handles that are still
//! held somewhere, so that the real one closes its files and can be opened again.

use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use tidemark_base::aggregate::Aggregates;
use tidemark_base::fact::Fact;
use tidemark_base::{CellRef, FamilyId, ReadSpec, RowRange, TableSchema, TombstoneRef};
use tidemark_engine::{
    CellCursor, EachCell, Engine, EngineError, FeedRecord, GarbageCut, GarbageReport, RangeDigest, RowParts,
    WriteBatch, WriteSize,
};

/// See the module.
pub(crate) struct ClosedEngine;

fn closed<T>() -> Result<T, EngineError> {
    Err(EngineError::Poisoned("the tablet was stopped on this node".to_owned()))
}

struct ClosedBatch;

impl WriteBatch for ClosedBatch {
    fn put_cell(&mut self, _cell: CellRef<'_>) {}
    fn put_tombstone(&mut self, _tombstone: TombstoneRef<'_>) {}
    fn put_feed(&mut self, _seq: u64, _bytes: &[u8]) {}
    fn trim_feed(&mut self, _below_seq: u64) {}
    fn put_state(&mut self, _key: &[u8], _value: &[u8]) {}
    fn delete_state(&mut self, _key: &[u8]) {}
    fn size(&self) -> WriteSize {
        WriteSize::default()
    }
    fn commit(self: Box<Self>) -> Result<(), EngineError> {
        closed()
    }
}

impl Engine for ClosedEngine {
    fn write_batch(&self) -> Box<dyn WriteBatch + '_> {
        Box::new(ClosedBatch)
    }
    fn set_schema(&self, _schema: Arc<TableSchema>) {}
    fn state(&self, _key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        closed()
    }
    fn state_scan(&self, _prefix: &[u8], _from: &[u8], _limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        closed()
    }
    fn feed(&self, _from_seq: u64, _bytes_max: usize) -> Result<Vec<FeedRecord>, EngineError> {
        closed()
    }
    fn feed_bounds(&self) -> Result<Option<(u64, u64)>, EngineError> {
        closed()
    }
    fn feed_bytes(&self) -> u64 {
        0
    }
    fn read(&self, _spec: &ReadSpec, _now_micros: i64) -> Result<Box<dyn CellCursor + '_>, EngineError> {
        closed()
    }
    fn read_in_memory(&self, _spec: &ReadSpec, _now_micros: i64) -> Result<Box<dyn CellCursor + '_>, EngineError> {
        closed()
    }
    fn newest(&self, _row: &RowParts<'_>, _each: EachCell<'_>) -> bool {
        false
    }
    fn read_newest(&self, _row: &RowParts<'_>, _in_memory: bool, _each: EachCell<'_>) -> Result<(), EngineError> {
        closed()
    }
    fn shed_kept(&self) {}
    fn aggregate(&self, _spec: &ReadSpec, _now_micros: i64, _out: &mut Aggregates) -> Result<(), EngineError> {
        closed()
    }
    fn digest(&self, _range: &RowRange, _now_micros: i64) -> Result<RangeDigest, EngineError> {
        closed()
    }
    fn is_empty(&self) -> Result<bool, EngineError> {
        closed()
    }
    fn range_tombstones(&self) -> usize {
        0
    }
    fn facts(&self) -> Result<Vec<Fact>, EngineError> {
        closed()
    }
    fn flush(&self) -> Result<(), EngineError> {
        closed()
    }
    fn durable_state(&self, _key: &[u8]) -> Option<Bytes> {
        None
    }
    fn unflushed_bytes(&self) -> u64 {
        0
    }
    fn checkpoint(&self, _dir: &Path) -> Result<(), EngineError> {
        closed()
    }
    fn collect_garbage(&self, _cut: GarbageCut) -> Result<GarbageReport, EngineError> {
        closed()
    }
    fn disk_bytes(&self) -> u64 {
        0
    }
    fn poisoned(&self) -> Option<String> {
        None
    }
    fn middle_row(&self) -> Result<Option<Bytes>, EngineError> {
        closed()
    }
    fn has_family_facts(&self, _family: FamilyId) -> Result<bool, EngineError> {
        closed()
    }
}
