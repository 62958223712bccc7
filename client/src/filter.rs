//! What a read asks for. The server applies the parts in a fixed order: families, qualifiers, visibility, versions, latest,
//! value, cells per row, strip; rows are chosen by ranges, row regex and sample before.

use bytes::Bytes;
use tidemark_base::VersionRange;
use tidemark_proto::v1::{self, compare, qualifier_filter, value_filter};

/// How a value is compared with an operand, byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// A filter; the default lets everything through. Regexes match the whole of raw bytes.
///
/// ```
/// use tidemark_client::{CompareOp, Filter};
/// let filter = Filter::new().families(["m"]).qualifier_prefix("temp").latest(1).value(CompareOp::NotEqual, "");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    wire: v1::Filter,
}

impl Filter {
    /// Everything.
    pub fn new() -> Filter {
        Filter::default()
    }

    /// Only those families.
    pub fn families<S: Into<String>>(mut self, families: impl IntoIterator<Item = S>) -> Filter {
        self.wire.families = families.into_iter().map(Into::into).collect();
        self
    }

    /// Only exactly those qualifiers.
    pub fn qualifiers<B: AsRef<[u8]>>(self, qualifiers: impl IntoIterator<Item = B>) -> Filter {
        let qualifiers = qualifiers
            .into_iter()
            .map(|q| Bytes::copy_from_slice(q.as_ref()))
            .collect();
        self.qualifier(qualifier_filter::Filter::Exact(v1::Qualifiers { qualifiers }))
    }

    /// Only qualifiers with that prefix.
    pub fn qualifier_prefix(self, prefix: impl AsRef<[u8]>) -> Filter {
        self.qualifier(qualifier_filter::Filter::Prefix(Bytes::copy_from_slice(
            prefix.as_ref(),
        )))
    }

    /// Only qualifiers from `start` up to, not including, `end`; without an `end` to the last.
    pub fn qualifier_range(self, start: impl AsRef<[u8]>, end: Option<&[u8]>) -> Filter {
        self.qualifier(qualifier_filter::Filter::Range(v1::QualifierRange {
            start: Bytes::copy_from_slice(start.as_ref()),
            end: end.map(Bytes::copy_from_slice),
        }))
    }

    /// Only qualifiers that match as a whole.
    pub fn qualifier_regex(self, regex: impl Into<String>) -> Filter {
        self.qualifier(qualifier_filter::Filter::Regex(regex.into()))
    }

    /// Only versions in that closed range, microseconds since 1970.
    pub fn versions(mut self, versions: VersionRange) -> Filter {
        self.wire.versions = wire_versions(versions);
        self
    }

    /// The newest `n` versions of each column.
    pub fn latest(mut self, n: u32) -> Filter {
        self.wire.latest = Some(n);
        self
    }

    /// Only cells whose value compares so with the operand.
    pub fn value(mut self, op: CompareOp, operand: impl AsRef<[u8]>) -> Filter {
        let op = match op {
            CompareOp::Equal => compare::Op::Equal,
            CompareOp::NotEqual => compare::Op::NotEqual,
            CompareOp::Less => compare::Op::Less,
            CompareOp::LessOrEqual => compare::Op::LessOrEqual,
            CompareOp::Greater => compare::Op::Greater,
            CompareOp::GreaterOrEqual => compare::Op::GreaterOrEqual,
        };
        self.wire.value = Some(v1::ValueFilter {
            filter: Some(value_filter::Filter::Compare(v1::Compare {
                op: op.into(),
                operand: Bytes::copy_from_slice(operand.as_ref()),
            })),
        });
        self
    }

    /// Only cells whose value matches as a whole.
    pub fn value_regex(mut self, regex: impl Into<String>) -> Filter {
        self.wire.value = Some(v1::ValueFilter {
            filter: Some(value_filter::Filter::Regex(regex.into())),
        });
        self
    }

    /// Only rows whose key matches as a whole.
    pub fn row_regex(mut self, regex: impl Into<String>) -> Filter {
        self.wire.row_regex = regex.into();
        self
    }

    /// Of a million rows about that many, always the same ones.
    pub fn row_sample_per_million(mut self, rows: u32) -> Filter {
        self.wire.row_sample_per_million = Some(rows);
        self
    }

    /// At most that many cells of each row.
    pub fn cells_per_row(mut self, cells: u32) -> Filter {
        self.wire.cells_per_row = Some(cells);
        self
    }

    /// Leaves the values away: for counting and for looking at keys.
    pub fn strip_values(mut self) -> Filter {
        self.wire.strip_values = true;
        self
    }

    pub(crate) fn to_wire(&self) -> v1::Filter {
        self.wire.clone()
    }

    fn qualifier(mut self, filter: qualifier_filter::Filter) -> Filter {
        self.wire.qualifier = Some(v1::QualifierFilter { filter: Some(filter) });
        self
    }
}

/// The wire's form: an end that is open is absent.
pub(crate) fn wire_versions(versions: VersionRange) -> Option<v1::VersionRange> {
    (versions != VersionRange::ALL).then(|| v1::VersionRange {
        from: (versions.from != i64::MIN).then_some(versions.from),
        to: (versions.to != i64::MAX).then_some(versions.to),
    })
}

/// The wire's form of a row range.
pub(crate) fn wire_range(range: &tidemark_base::RowRange) -> v1::RowRange {
    v1::RowRange {
        start: range.start.clone(),
        end: range.end.clone(),
    }
}
