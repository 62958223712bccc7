//! Which tablet this is.

use std::fmt;
use tidemark_base::{RowRange, TableId, TabletId};

/// A tablet's identity: numbers, the table's name for messages, and its rows. Fixed for the tablet's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TabletDescriptor {
    /// The tablet; its Raft group has the same number.
    pub tablet: TabletId,
    /// Its table.
    pub table: TableId,
    /// The table's name.
    pub table_name: String,
    /// Its rows.
    pub range: RowRange,
}

impl fmt::Display for TabletDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of table {}", self.tablet, self.table_name)
    }
}
