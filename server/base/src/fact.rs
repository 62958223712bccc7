//! Facts (R3): a region's state is a set of cells and tombstones; merging two states is the union of the sets.
//!
//! Visibility (R4) has one rule: a cell is dead iff a tombstone covers its coordinate and `cell.stamp < tombstone.stamp`.
//! Of several cells at one coordinate the one with the greatest stamp counts. Two facts with one coordinate and one
//! stamp but different bytes are corruption (R5): raise an alarm, never pick one.

use crate::ids::FamilyId;
use crate::range::VersionRange;
use crate::stamp::Stamp;
use bytes::Bytes;

/// A cell: `(row, family, qualifier, version)` is its coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CellRef<'a> {
    /// Row key.
    pub row: &'a [u8],
    /// Family.
    pub family: FamilyId,
    /// Column qualifier; may be empty.
    pub qualifier: &'a [u8],
    /// Microseconds since the Unix epoch, not negative.
    pub version: i64,
    /// What decides the winner at this coordinate.
    pub stamp: Stamp,
    /// The value; may be empty.
    pub value: &'a [u8],
}

/// What a tombstone covers, besides its version range (R9: five scopes, one kind of fact; a single version is a column
/// with `from == to`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope<'a> {
    /// One column of one row.
    Column {
        /// Family of the column.
        family: FamilyId,
        /// Qualifier of the column.
        qualifier: &'a [u8],
    },
    /// One family of one row.
    Family {
        /// The family.
        family: FamilyId,
    },
    /// One row.
    Row,
    /// Every row from the tombstone's row up to `end`.
    RowRange {
        /// First row not covered; `None` = to the end of the table.
        end: Option<&'a [u8]>,
    },
}

/// A tombstone: hides every covered cell with a smaller stamp, whatever the cell's version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TombstoneRef<'a> {
    /// The row, or the first row of a row range.
    pub row: &'a [u8],
    /// What is covered.
    pub scope: Scope<'a>,
    /// Which versions are covered.
    pub versions: VersionRange,
    /// When it was written.
    pub stamp: Stamp,
}

impl TombstoneRef<'_> {
    /// True if the tombstone's scope and versions contain that coordinate, stamps aside.
    pub fn covers(&self, row: &[u8], family: FamilyId, qualifier: &[u8], version: i64) -> bool {
        let scope = match self.scope {
            Scope::Column {
                family: f,
                qualifier: q,
            } => row == self.row && family == f && qualifier == q,
            Scope::Family { family: f } => row == self.row && family == f,
            Scope::Row => row == self.row,
            Scope::RowRange { end } => row >= self.row && end.is_none_or(|end| row < end),
        };
        scope && self.versions.contains(version)
    }

    /// R4, the only visibility rule.
    pub fn kills(&self, cell: &CellRef<'_>) -> bool {
        cell.stamp < self.stamp && self.covers(cell.row, cell.family, cell.qualifier, cell.version)
    }
}

/// An owned fact, for tests, oracles and tools; the hot paths use the borrowed forms.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// A cell.
    Cell {
        /// Row key.
        row: Bytes,
        /// Family.
        family: FamilyId,
        /// Qualifier.
        qualifier: Bytes,
        /// Version in microseconds.
        version: i64,
        /// Stamp.
        stamp: Stamp,
        /// Value.
        value: Bytes,
    },
    /// A tombstone.
    Tombstone {
        /// Row, or first row of a range.
        row: Bytes,
        /// Scope.
        scope: OwnedScope,
        /// Versions covered.
        versions: VersionRange,
        /// Stamp.
        stamp: Stamp,
    },
}

/// [`Scope`] with its own bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnedScope {
    /// See [`Scope::Column`].
    Column {
        /// Family.
        family: FamilyId,
        /// Qualifier.
        qualifier: Bytes,
    },
    /// See [`Scope::Family`].
    Family {
        /// Family.
        family: FamilyId,
    },
    /// See [`Scope::Row`].
    Row,
    /// See [`Scope::RowRange`].
    RowRange {
        /// First row not covered.
        end: Option<Bytes>,
    },
}

impl OwnedScope {
    /// The borrowed form.
    pub fn borrow(&self) -> Scope<'_> {
        match self {
            OwnedScope::Column { family, qualifier } => Scope::Column {
                family: *family,
                qualifier,
            },
            OwnedScope::Family { family } => Scope::Family { family: *family },
            OwnedScope::Row => Scope::Row,
            OwnedScope::RowRange { end } => Scope::RowRange { end: end.as_deref() },
        }
    }
}

impl Scope<'_> {
    /// A copy with its own bytes.
    pub fn to_owned(&self) -> OwnedScope {
        match *self {
            Scope::Column { family, qualifier } => OwnedScope::Column {
                family,
                qualifier: Bytes::copy_from_slice(qualifier),
            },
            Scope::Family { family } => OwnedScope::Family { family },
            Scope::Row => OwnedScope::Row,
            Scope::RowRange { end } => OwnedScope::RowRange {
                end: end.map(Bytes::copy_from_slice),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RegionId;

    fn stamp(hlc: u64) -> Stamp {
        Stamp {
            epoch: 0,
            hlc,
            region: RegionId(1),
        }
    }

    #[test]
    fn a_put_after_a_delete_is_visible_even_with_an_older_version() {
        let family = FamilyId(9);
        let delete = TombstoneRef {
            row: b"r",
            scope: Scope::Row,
            versions: VersionRange::ALL,
            stamp: stamp(10),
        };
        let cell = |version, hlc| CellRef {
            row: b"r",
            family,
            qualifier: b"q",
            version,
            stamp: stamp(hlc),
            value: b"",
        };
        assert!(
            delete.kills(&cell(i64::MAX, 9)),
            "hides an earlier write versioned in the far future"
        );
        assert!(!delete.kills(&cell(0, 11)));
        assert!(
            !delete.kills(&cell(0, 10)),
            "an equal stamp is the same row mutation: the put was normalised to stay"
        );
    }

    #[test]
    fn scopes() {
        let family = FamilyId(9);
        let with = |scope| TombstoneRef {
            row: b"b",
            scope,
            versions: VersionRange { from: 5, to: 6 },
            stamp: stamp(1),
        };
        assert!(
            with(Scope::Column {
                family,
                qualifier: b"q"
            })
            .covers(b"b", family, b"q", 5)
        );
        assert!(
            !with(Scope::Column {
                family,
                qualifier: b"q"
            })
            .covers(b"b", family, b"p", 5)
        );
        assert!(!with(Scope::Family { family }).covers(b"b", FamilyId(8), b"p", 5));
        assert!(!with(Scope::Row).covers(b"b", family, b"p", 7));
        let range = with(Scope::RowRange { end: Some(b"d") });
        assert!(range.covers(b"c", family, b"", 6) && !range.covers(b"d", family, b"", 6));
        assert!(!range.covers(b"a", family, b"", 6));
    }
}
