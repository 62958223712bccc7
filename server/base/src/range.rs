//! Row ranges and version ranges.

use bytes::Bytes;

/// A half-open range of rows `[start, end)`; an absent end is unbounded, an empty start is the first row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct RowRange {
    /// First row in the range.
    pub start: Bytes,
    /// First row after the range; `None` = to the end of the table.
    pub end: Option<Bytes>,
}

impl RowRange {
    /// Every row.
    pub fn all() -> RowRange {
        RowRange::default()
    }

    /// Exactly one row.
    pub fn row(row: &[u8]) -> RowRange {
        let mut end = Vec::with_capacity(row.len() + 1);
        end.extend_from_slice(row);
        end.push(0);
        RowRange {
            start: Bytes::copy_from_slice(row),
            end: Some(end.into()),
        }
    }

    /// All rows that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> RowRange {
        RowRange {
            start: Bytes::copy_from_slice(prefix),
            end: prefix_end(prefix).map(Bytes::from),
        }
    }

    /// True if `row` lies in the range.
    pub fn contains(&self, row: &[u8]) -> bool {
        row >= &self.start[..] && self.end.as_ref().is_none_or(|end| row < &end[..])
    }

    /// True if no row can lie in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end <= &self.start)
    }

    /// The rows in both ranges; may be empty.
    pub fn intersect(&self, other: &RowRange) -> RowRange {
        let start = self.start.clone().max(other.start.clone());
        let end = match (&self.end, &other.end) {
            (Some(a), Some(b)) => Some(a.clone().min(b.clone())),
            (Some(a), None) => Some(a.clone()),
            (None, b) => b.clone(),
        };
        RowRange { start, end }
    }

    /// True if the ranges share a row.
    pub fn overlaps(&self, other: &RowRange) -> bool {
        !self.intersect(other).is_empty()
    }
}

/// The least byte string greater than every string with that prefix; `None` if there is none (empty or all 0xff).
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|b| *b != 0xff)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

/// A closed range of versions `[from, to]`, in microseconds since the Unix epoch.
///
/// Closed, because a tombstone of one version is then `from == to` without arithmetic at the ends of `i64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionRange {
    /// Least version in the range.
    pub from: i64,
    /// Greatest version in the range.
    pub to: i64,
}

impl VersionRange {
    /// Every version.
    pub const ALL: VersionRange = VersionRange {
        from: i64::MIN,
        to: i64::MAX,
    };

    /// Exactly one version.
    pub fn one(version: i64) -> VersionRange {
        VersionRange {
            from: version,
            to: version,
        }
    }

    /// True if `version` lies in the range.
    pub fn contains(self, version: i64) -> bool {
        self.from <= version && version <= self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ranges() {
        assert_eq!(prefix_end(b"a"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
        assert!(RowRange::prefix(b"ab").contains(b"ab\xff\xff"));
        assert!(!RowRange::prefix(b"ab").contains(b"ac"));
        assert!(RowRange::row(b"x").contains(b"x") && !RowRange::row(b"x").contains(b"x\0"));
    }

    #[test]
    fn intersections() {
        let a = RowRange {
            start: "b".into(),
            end: Some("f".into()),
        };
        let b = RowRange {
            start: "d".into(),
            end: None,
        };
        assert_eq!(
            a.intersect(&b),
            RowRange {
                start: "d".into(),
                end: Some("f".into())
            }
        );
        assert!(
            !RowRange {
                start: "f".into(),
                end: None
            }
            .overlaps(&a)
        );
    }
}
