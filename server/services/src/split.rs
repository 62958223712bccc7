//! Which rows of a batch go to which tablet, and which request row each of them was. Pure: no tablet is asked.
//!
//! ```text
//! request rows    0      1      2 (range delete over both)   3
//! tablet 7        0             2 cut at the boundary                -> batch of 2 rows, request rows [0, 2]
//! tablet 8               1      2 the rest                   3       -> batch of 3 rows, request rows [1, 2, 3]
//! ```
//! The order of rows inside a tablet is the request's: the i-th row of a batch gets the i-th stamp, so order decides who
//! wins. A packed batch whose rows all belong to one tablet passes as it is, the same bytes.

use crate::convert::{Encoded, encode_row};
use std::collections::BTreeMap;
use tidemark_base::{
    BatchBuilder, Error, PackedBatch, Result, RowRange, RowRef, TableSchema, TabletId, VersionRange, limits,
};
use tidemark_proto::v1;

/// Which tablet holds which rows. Implemented by the catalog's view of one table, and by lists in tests.
pub trait RowMap {
    /// The tablet that holds the row, with its range.
    fn route(&self, row: &[u8]) -> Option<(TabletId, &RowRange)>;
    /// The tablets that share a row with the range, in order.
    fn overlapping(&self, range: &RowRange) -> Vec<(TabletId, &RowRange)>;
}

/// A batch for one tablet.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Its rows.
    pub batch: PackedBatch,
    /// The request's row of each row of the batch; `None` where they are the same numbers.
    pub indexes: Option<Vec<u32>>,
}

impl Piece {
    /// The request's row of the batch's `row`-th one.
    pub fn request_row(&self, row: u32) -> u32 {
        let indexes = self.indexes.as_ref();
        indexes.map_or(row, |list| list.get(row as usize).copied().unwrap_or(row))
    }

    /// The request's rows in this piece.
    pub fn request_rows(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.batch.rows_len() as u32).map(|row| self.request_row(row))
    }
}

/// A request, cut by tablets.
#[derive(Debug, Default)]
pub struct Split {
    /// For each tablet its batches, to be written one after the other.
    pub tablets: BTreeMap<TabletId, Vec<Piece>>,
    /// Rows that were refused here, by their index in the request.
    pub failures: BTreeMap<u32, Error>,
    /// Rows in the request.
    pub rows: u32,
}

/// Cuts a packed batch.
pub fn split_packed(batch: PackedBatch, map: &impl RowMap) -> Result<Split> {
    let rows = batch.rows_len() as u32;
    let mut out = Split {
        rows,
        ..Split::default()
    };
    if let Some(tablet) = only_tablet(&batch, map) {
        out.tablets.insert(tablet, vec![Piece { batch, indexes: None }]);
        return Ok(out);
    }
    let mut members: BTreeMap<TabletId, Members> = BTreeMap::new();
    for (index, row) in batch.rows().enumerate() {
        let whole = match &row {
            RowRef::Mutation { .. } => None,
            RowRef::RangeDelete { .. } => Some(range_of(&row)),
        };
        let Some(range) = whole else {
            let (tablet, _) = map.route(row.key()).ok_or_else(no_tablet)?;
            members.entry(tablet).or_default().rows.push(index as u32);
            continue;
        };
        let overlapping = map.overlapping(&range);
        for (tablet, tablet_range) in &overlapping {
            let member = members.entry(*tablet).or_default();
            member.rows.push(index as u32);
            member.cut |= overlapping.len() > 1 || !inside(&range, tablet_range);
            member.range = (*tablet_range).clone();
        }
    }
    for (tablet, member) in members {
        let taken = if member.cut {
            member.rebuild(&batch)?
        } else {
            member.take(&batch)
        };
        let batch = taken.ok_or_else(|| Error::internal("a tablet's part of a batch has no row"))?;
        let indexes = Some(member.rows);
        out.tablets.insert(tablet, vec![Piece { batch, indexes }]);
    }
    Ok(out)
}

/// The rows of a packed batch that go to one tablet.
#[derive(Default)]
struct Members {
    rows: Vec<u32>,
    /// Some range delete must be cut to `range`: then the bytes cannot be taken over.
    cut: bool,
    range: RowRange,
}

impl Members {
    fn take(&self, batch: &PackedBatch) -> Option<PackedBatch> {
        let mut wanted = self.rows.iter().peekable();
        batch.subset(|index| wanted.next_if(|row| **row as usize == index).is_some())
    }

    fn rebuild(&self, batch: &PackedBatch) -> Result<Option<PackedBatch>> {
        let mut builder = BatchBuilder::new();
        let mut wanted = self.rows.iter().peekable();
        for (index, row) in batch.rows().enumerate() {
            if wanted.next_if(|wanted| **wanted as usize == index).is_none() {
                continue;
            }
            match &row {
                RowRef::Mutation { row, mutations } => {
                    builder.begin_row(row)?;
                    mutations.clone().try_for_each(|mutation| builder.push(mutation))?;
                    builder.end_row()?;
                }
                RowRef::RangeDelete { versions, .. } => {
                    builder.push_range_delete(&range_of(&row).intersect(&self.range), *versions)?;
                }
            }
        }
        Ok(builder.finish())
    }
}

/// Encodes readable rows, each for its tablet. A row that is refused fails alone.
pub fn split_readable(rows: &[v1::RowMutation], schema: &TableSchema, table: &str, map: &impl RowMap) -> Split {
    let mut out = Split {
        rows: rows.len() as u32,
        ..Split::default()
    };
    let mut open: BTreeMap<TabletId, Building> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let index = index as u32;
        let placed = Encoded::of(row).and_then(|row| match row {
            Encoded::Row {
                row,
                mutations,
                bytes_max,
            } => {
                let (tablet, _) = map.route(row).ok_or_else(no_tablet)?;
                let building = open.entry(tablet).or_default();
                building.make_room(bytes_max);
                encode_row(&mut building.builder, row, mutations, schema, table)?;
                building.indexes.push(index);
                Ok(())
            }
            Encoded::Range { range, versions } => place_range(&mut open, index, &range, versions, map),
        });
        if let Err(error) = placed {
            out.failures.insert(index, error);
        }
    }
    for (tablet, mut building) in open {
        building.close();
        if !building.done.is_empty() {
            out.tablets.insert(tablet, building.done);
        }
    }
    out
}

fn place_range(
    open: &mut BTreeMap<TabletId, Building>,
    index: u32,
    range: &RowRange,
    versions: VersionRange,
    map: &impl RowMap,
) -> Result<()> {
    for (tablet, tablet_range) in map.overlapping(range) {
        let building = open.entry(tablet).or_default();
        building.make_room(2 * limits::ROW_BYTES_MAX + 64);
        building
            .builder
            .push_range_delete(&range.intersect(tablet_range), versions)?;
        building.indexes.push(index);
    }
    Ok(())
}

/// Batches of one tablet under construction.
#[derive(Default)]
struct Building {
    builder: BatchBuilder,
    indexes: Vec<u32>,
    done: Vec<Piece>,
}

impl Building {
    /// Closes the open batch if a row of that size might not fit any more.
    fn make_room(&mut self, bytes_max: usize) {
        let full = self.builder.rows_len() >= limits::BATCH_ROWS_MAX
            || self.builder.bytes_len() + bytes_max > limits::BATCH_BYTES_MAX;
        if full && self.builder.rows_len() > 0 {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(batch) = self.builder.finish() {
            let indexes = Some(std::mem::take(&mut self.indexes));
            self.done.push(Piece { batch, indexes });
        }
    }
}

/// The tablet that holds every row of the batch, if one does.
fn only_tablet(batch: &PackedBatch, map: &impl RowMap) -> Option<TabletId> {
    let mut rows = batch.rows();
    let (tablet, range) = map.route(rows.next()?.key())?;
    let all = batch.rows().all(|row| match &row {
        RowRef::Mutation { row, .. } => range.contains(row),
        RowRef::RangeDelete { .. } => inside(&range_of(&row), range),
    });
    all.then_some(tablet)
}

fn range_of(row: &RowRef<'_>) -> RowRange {
    match row {
        RowRef::Mutation { row, .. } => RowRange::row(row),
        RowRef::RangeDelete { start, end, .. } => RowRange {
            start: start.to_vec().into(),
            end: end.map(|end| end.to_vec().into()),
        },
    }
}

fn inside(range: &RowRange, of: &RowRange) -> bool {
    range.intersect(of) == *range
}

fn no_tablet() -> Error {
    Error::internal("no tablet of the table holds this row: the catalog has a hole")
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
