//! What was acknowledged: the truth that both regions must agree with (O5, O6).
//!
//! It knows single-value cells only: `(row, family, qualifier, version) -> value`, each written once with its own version,
//! which is how a device fleet writes. Concurrent overwrites of one cell are checked by the tests that make them.

use bytes::Bytes;
use std::collections::HashMap;

/// A cell's coordinate.
pub type Coordinate = (Bytes, String, Bytes, i64);

/// Acknowledged cells.
#[derive(Debug, Default)]
pub struct Acknowledged {
    cells: HashMap<Coordinate, Bytes>,
}

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Acknowledged cells in all.
    pub acknowledged: u64,
    /// Acknowledged cells that a region does not show.
    pub missing: u64,
    /// Cells shown with another value than was acknowledged.
    pub different: u64,
    /// Cells shown that were never acknowledged (a write whose answer was lost may be there: not an error by itself).
    pub unacknowledged: u64,
    /// The first few missing coordinates, for the message.
    pub examples: Vec<String>,
}

impl Acknowledged {
    /// Notes one acknowledged cell.
    pub fn note(&mut self, row: Bytes, family: &str, qualifier: Bytes, version: i64, value: Bytes) {
        self.cells.insert((row, family.to_owned(), qualifier, version), value);
    }

    /// Takes what another one noted.
    pub fn merge(&mut self, other: Acknowledged) {
        self.cells.extend(other.cells);
    }

    /// Number of acknowledged cells.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// True if nothing was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Compares with everything that a region shows.
    pub fn audit(&self, shown: impl IntoIterator<Item = (Coordinate, Bytes)>) -> Audit {
        let mut audit = Audit {
            acknowledged: self.cells.len() as u64,
            ..Audit::default()
        };
        let mut found = 0u64;
        let mut seen = std::collections::HashSet::new();
        for (coordinate, value) in shown {
            match self.cells.get(&coordinate) {
                Some(expected) if *expected == value => found += 1,
                Some(_) => audit.different += 1,
                None => audit.unacknowledged += 1,
            }
            seen.insert(coordinate);
        }
        audit.missing = audit.acknowledged - found - audit.different;
        audit.examples = self
            .cells
            .keys()
            .filter(|c| !seen.contains(*c))
            .take(3)
            .map(|c| format!("{c:?}"))
            .collect();
        audit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_finds_each_kind_of_difference() {
        let mut oracle = Acknowledged::default();
        for n in 0..3 {
            oracle.note(
                Bytes::from_static(b"r"),
                "m",
                Bytes::from_static(b"q"),
                n,
                Bytes::from_static(b"v"),
            );
        }
        let cell = |n, v: &'static [u8]| {
            (
                (Bytes::from_static(b"r"), "m".to_owned(), Bytes::from_static(b"q"), n),
                Bytes::from_static(v),
            )
        };
        let audit = oracle.audit([cell(0, b"v"), cell(1, b"x"), cell(9, b"v")]);
        assert_eq!((audit.missing, audit.different, audit.unacknowledged), (1, 1, 1));
        assert_eq!(audit.examples.len(), 1);
    }
}
