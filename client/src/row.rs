//! What comes back: rows and cells, and their decoding from packed cells.

use crate::error::ClientError;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use tidemark_base::cells::for_each_cell;
use tidemark_base::{ErrorKind, FamilyId};
use tidemark_proto::v1;

/// A row as a read returned it: only the cells that the filter let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The row's key.
    pub key: Bytes,
    /// By family, then qualifier, then version descending.
    pub cells: Vec<Cell>,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The family's name.
    pub family: Arc<str>,
    /// The column's qualifier.
    pub qualifier: Bytes,
    /// Microseconds since 1970.
    pub version: i64,
    /// The value.
    pub value: Bytes,
}

impl Row {
    /// The newest value of a column that the row holds, if it holds one.
    pub fn value(&self, family: &str, qualifier: impl AsRef<[u8]>) -> Option<&Bytes> {
        let qualifier = qualifier.as_ref();
        let cells = self
            .cells
            .iter()
            .filter(|c| *c.family == *family && c.qualifier == qualifier);
        cells.max_by_key(|c| c.version).map(|c| &c.value)
    }
}

impl From<v1::Row> for Row {
    fn from(row: v1::Row) -> Row {
        let mut last: Arc<str> = "".into();
        let cell = |cell: v1::Cell| {
            // Neighbours share their family's name.
            if *last != *cell.family {
                last = cell.family.into();
            }
            Cell {
                family: last.clone(),
                qualifier: cell.qualifier,
                version: cell.version,
                value: cell.value,
            }
        };
        Row {
            key: row.key,
            cells: row.cells.into_iter().map(cell).collect(),
        }
    }
}

/// The rows of packed cells, in order; neighbouring cells of one key form a row. Slices share the message's memory.
///
/// An unknown family id means that the routing table is older than the data: [`ErrorKind::Unavailable`], so that the
/// caller refreshes it and reads again.
pub(crate) fn unpack(packed: &Bytes, families: &HashMap<FamilyId, Arc<str>>) -> Result<Vec<Row>, ClientError> {
    let mut rows: Vec<Row> = Vec::new();
    let mut unknown = None;
    let walked = for_each_cell(packed, |cell| {
        let Some(family) = families.get(&cell.family) else {
            unknown.get_or_insert(cell.family);
            return;
        };
        if rows.last().is_none_or(|row| row.key != cell.row) {
            rows.push(Row {
                key: packed.slice_ref(cell.row),
                cells: Vec::new(),
            });
        }
        if let Some(row) = rows.last_mut() {
            row.cells.push(Cell {
                family: family.clone(),
                qualifier: packed.slice_ref(cell.qualifier),
                version: cell.version,
                value: packed.slice_ref(cell.value),
            });
        }
    });
    walked.map_err(|e| ClientError::new(ErrorKind::Corruption, "PACKED_CELLS_MALFORMED", e.to_string()))?;
    match unknown {
        Some(family) => Err(ClientError::new(
            ErrorKind::Unavailable,
            "FAMILY_ID_UNKNOWN",
            format!("the answer names family {family}, which the routing table does not know"),
        )),
        None => Ok(rows),
    }
}
