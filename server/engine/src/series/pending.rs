//! From cells to records: gathers what one row mutation writes in one family.
//!
//! ```text
//! push  push  push …      cells of one row, family and stamp, copied behind each other
//! emit                    one version in a time block   -> a tick, the usual case
//!                         several                       -> a block at once: somebody loads old data
//! ```
//! A mutation's records are merge operands. What does not suit a block is not taken: it becomes a cell record.

use super::block::Merger;
use super::facts::{Facts, Tick};
use super::source::{push_record_key, time_block};
use super::tick::TickBuilder;
use std::ops::Range;
use tidemark_base::{CellRef, FamilyId, Stamp};

/// Values beyond it gain nothing from columns, and would make blocks expensive to merge.
const VALUE_BYTES_MAX: usize = 4 << 10;
/// The same for qualifiers, of which a block keeps each once.
const QUALIFIER_BYTES_MAX: usize = 256;

/// See the module.
#[derive(Default)]
pub(crate) struct Pending {
    row: Vec<u8>,
    family: FamilyId,
    stamp: Stamp,
    cells: Vec<Held>,
    bytes: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
    merger: Merger,
}

/// A cell, by where its parts lie.
struct Held {
    version: i64,
    qualifier: Range<usize>,
    value: Range<usize>,
}

impl Pending {
    /// True if a cell belongs into a block.
    pub(crate) fn suits(cell: &CellRef<'_>) -> bool {
        cell.value.len() <= VALUE_BYTES_MAX && cell.qualifier.len() <= QUALIFIER_BYTES_MAX
    }

    /// True if a cell comes from the same row mutation as those that wait, or if none do.
    pub(crate) fn takes(&self, cell: &CellRef<'_>) -> bool {
        self.cells.is_empty() || (self.stamp == cell.stamp && self.family == cell.family && self.row == cell.row)
    }

    /// Adds a cell that [`Pending::takes`].
    pub(crate) fn push(&mut self, cell: &CellRef<'_>) {
        debug_assert!(self.takes(cell) && Pending::suits(cell));
        if self.cells.is_empty() {
            self.row.clear();
            self.row.extend_from_slice(cell.row);
            self.family = cell.family;
            self.stamp = cell.stamp;
        }
        let qualifier = append(&mut self.bytes, cell.qualifier);
        let value = append(&mut self.bytes, cell.value);
        self.cells.push(Held {
            version: cell.version,
            qualifier,
            value,
        });
    }

    /// Gives key and value of each record to `merge`, for a family with time blocks of that length, and forgets the cells.
    pub(crate) fn emit(&mut self, length: i64, mut merge: impl FnMut(&[u8], &[u8])) {
        let start = |cell: &Held| time_block(cell.version, length);
        if !self.cells.is_sorted_by_key(|cell| cell.version) {
            self.cells.sort_by_key(|cell| cell.version);
        }
        for cells in self.cells.chunk_by(|a, b| start(a) == start(b)) {
            let Some((first, rest)) = cells.split_first() else {
                continue;
            };
            push_record_key(&mut self.key, &self.row, self.family, start(first));
            let parts = |cell: &Held| (&self.bytes[cell.qualifier.clone()], &self.bytes[cell.value.clone()]);
            if rest.iter().all(|cell| cell.version == first.version) {
                let mut tick = TickBuilder::new(std::mem::take(&mut self.value), first.version, self.stamp);
                for cell in cells {
                    let (qualifier, value) = parts(cell);
                    tick.push(qualifier, value);
                }
                self.value = tick.finish();
                merge(&self.key, &self.value);
            } else {
                let mut facts = Facts::new();
                for cell in cells {
                    let (qualifier, value) = parts(cell);
                    let tick = Tick {
                        version: cell.version,
                        stamp: self.stamp,
                    };
                    facts.push(qualifier, tick, value);
                }
                facts.settle();
                merge(&self.key, &self.merger.encode(&facts));
            }
        }
        self.cells.clear();
        self.bytes.clear();
    }
}

fn append(bytes: &mut Vec<u8>, part: &[u8]) -> Range<usize> {
    let from = bytes.len();
    bytes.extend_from_slice(part);
    from..bytes.len()
}
