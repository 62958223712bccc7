//! What a read asks for, as data. Filters are pushed down to the engine and applied in one fixed order:
//! families -> qualifiers -> visibility (R4, R10, R11) -> version range -> latest N of each column -> value -> cells per
//! row -> strip values; rows are chosen by ranges, row regex and row sample before, and the row limit counts rows that
//! kept at least one cell.
//!
//! ```text
//! filter := 'F' 0x01 | families: flag u8, [varint n, n x u32] | qualifier | from i64 | to i64 | latest: flag u8, [u32]
//!           | value | row_regex: flag u8, [slice] | sample: flag u8, [u32] | cells_per_row: flag u8, [u32] | strip u8
//! qualifier := 0 | 1 varint n, n x slice | 2 slice | 3 start slice, flag u8, [end slice] | 4 slice
//! value := 0 | 1 op u8, slice | 2 slice
//! ```

use crate::codec::{Malformed, Reader, put_slice, put_varint};
use crate::error::{Error, Result};
use crate::ids::FamilyId;
use crate::limits;
use crate::range::{RowRange, VersionRange};
use bytes::Bytes;

/// Which qualifiers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum QualifierFilter {
    /// All.
    #[default]
    Any,
    /// These, at most [`limits::READ_RANGES_MAX`].
    Exact(Vec<Bytes>),
    /// Those that begin so.
    Prefix(Bytes),
    /// Those in `[start, end)`.
    Range {
        /// First qualifier.
        start: Bytes,
        /// First one not included; `None` = all from start.
        end: Option<Bytes>,
    },
    /// Those that the whole regular expression matches (raw bytes).
    Regex(String),
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CompareOp {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl CompareOp {
    /// Applies the comparison to bytes in memory order.
    pub fn holds(self, value: &[u8], operand: &[u8]) -> bool {
        let order = value.cmp(operand);
        match self {
            CompareOp::Equal => order.is_eq(),
            CompareOp::NotEqual => order.is_ne(),
            CompareOp::Less => order.is_lt(),
            CompareOp::LessOrEqual => order.is_le(),
            CompareOp::Greater => order.is_gt(),
            CompareOp::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// Which values.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ValueFilter {
    /// All.
    #[default]
    Any,
    /// Those for which `value op operand` holds, bytes compared in memory order.
    Compare(CompareOp, Bytes),
    /// Those that the whole regular expression matches (raw bytes).
    Regex(String),
}

/// Which cells of the rows that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFilter {
    /// Families; `None` = all.
    pub families: Option<Vec<FamilyId>>,
    /// Qualifiers.
    pub qualifier: QualifierFilter,
    /// Versions, closed at both ends.
    pub versions: VersionRange,
    /// The newest N versions of each column within `versions`.
    pub latest: Option<u32>,
    /// Values, after `latest`.
    pub value: ValueFilter,
    /// Rows that the whole regular expression matches (raw bytes).
    pub row_regex: Option<String>,
    /// Rows whose hash falls into that many of a million buckets: the same rows each time.
    pub row_sample_per_million: Option<u32>,
    /// At most that many cells of each row.
    pub cells_per_row: Option<u32>,
    /// Return empty values (counting, existence).
    pub strip_values: bool,
}

impl Default for ReadFilter {
    fn default() -> ReadFilter {
        ReadFilter {
            families: None,
            qualifier: QualifierFilter::Any,
            versions: VersionRange::ALL,
            latest: None,
            value: ValueFilter::Any,
            row_regex: None,
            row_sample_per_million: None,
            cells_per_row: None,
            strip_values: false,
        }
    }
}

/// A read of one or more row ranges.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ReadSpec {
    /// Ranges in ascending order, not overlapping; empty = every row.
    pub ranges: Vec<RowRange>,
    /// Rows in descending order. Cells inside a row keep their order.
    pub reverse: bool,
    /// Which cells.
    pub filter: ReadFilter,
    /// At most that many rows.
    pub rows_limit: Option<u64>,
}

impl ReadSpec {
    /// One row, all of it.
    pub fn row(row: &[u8]) -> ReadSpec {
        ReadSpec {
            ranges: vec![RowRange::row(row)],
            ..ReadSpec::default()
        }
    }

    /// Sorts the ranges, joins those that overlap and drops empty ones, as [`ReadSpec::ranges`] promises. A spec whose
    /// ranges are all empty keeps one empty range, because no range at all means every row.
    pub fn normalize(&mut self) -> Result<()> {
        if self.ranges.len() > limits::READ_RANGES_MAX {
            return Err(Error::invalid(
                "RANGES_TOO_MANY",
                format!("{} row ranges in one read", self.ranges.len()),
            )
            .action(format!("ask for at most {} at a time", limits::READ_RANGES_MAX)));
        }
        if self.ranges.is_empty() {
            return Ok(());
        }
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.retain(|r| !r.is_empty());
        ranges.sort_by(|a, b| a.start.cmp(&b.start));
        for range in ranges {
            match self.ranges.last_mut() {
                Some(last) if last.end.as_ref().is_none_or(|end| *end >= range.start) => {
                    if let Some(end) = &last.end {
                        last.end = range.end.map(|e| e.max(end.clone()));
                    }
                }
                _ => self.ranges.push(range),
            }
        }
        if self.ranges.is_empty() {
            self.ranges.push(RowRange {
                start: Bytes::new(),
                end: Some(Bytes::new()),
            });
        }
        Ok(())
    }
}

impl ReadFilter {
    /// See the module's drawing.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[b'F', 1]);
        out.push(u8::from(self.families.is_some()));
        if let Some(families) = &self.families {
            put_varint(out, families.len() as u64);
            families.iter().for_each(|f| out.extend_from_slice(&f.0.to_le_bytes()));
        }
        encode_qualifier(out, &self.qualifier);
        out.extend_from_slice(&self.versions.from.to_le_bytes());
        out.extend_from_slice(&self.versions.to.to_le_bytes());
        put_option(out, self.latest);
        match &self.value {
            ValueFilter::Any => out.push(0),
            ValueFilter::Compare(op, operand) => {
                out.extend_from_slice(&[1, *op as u8]);
                put_slice(out, operand);
            }
            ValueFilter::Regex(source) => {
                out.push(2);
                put_slice(out, source.as_bytes());
            }
        }
        out.push(u8::from(self.row_regex.is_some()));
        if let Some(source) = &self.row_regex {
            put_slice(out, source.as_bytes());
        }
        put_option(out, self.row_sample_per_million);
        put_option(out, self.cells_per_row);
        out.push(u8::from(self.strip_values));
    }

    /// Reads one filter; what follows it is left to the caller.
    pub fn decode(r: &mut Reader<'_>) -> std::result::Result<ReadFilter, Malformed> {
        if r.take(2)? != [b'F', 1] {
            return Err(Malformed("not a filter of format 1"));
        }
        let families = if r.u8()? == 0 {
            None
        } else {
            let mut families = Vec::new();
            for _ in 0..r.length(limits::READ_RANGES_MAX, "too many families")? {
                families.push(FamilyId(r.u32()?));
            }
            Some(families)
        };
        let qualifier = decode_qualifier(r)?;
        let versions = VersionRange {
            from: r.i64()?,
            to: r.i64()?,
        };
        let latest = get_option(r)?;
        let value = match r.u8()? {
            0 => ValueFilter::Any,
            1 => {
                let op = decode_op(r.u8()?)?;
                ValueFilter::Compare(
                    op,
                    Bytes::copy_from_slice(r.slice(limits::VALUE_BYTES_MAX, "operand too long")?),
                )
            }
            2 => ValueFilter::Regex(get_regex(r)?),
            _ => return Err(Malformed("unknown value filter")),
        };
        let row_regex = if r.u8()? == 0 { None } else { Some(get_regex(r)?) };
        Ok(ReadFilter {
            families,
            qualifier,
            versions,
            latest,
            value,
            row_regex,
            row_sample_per_million: get_option(r)?,
            cells_per_row: get_option(r)?,
            strip_values: r.u8()? != 0,
        })
    }
}

fn encode_qualifier(out: &mut Vec<u8>, filter: &QualifierFilter) {
    match filter {
        QualifierFilter::Any => out.push(0),
        QualifierFilter::Exact(list) => {
            out.push(1);
            put_varint(out, list.len() as u64);
            list.iter().for_each(|q| put_slice(out, q));
        }
        QualifierFilter::Prefix(prefix) => {
            out.push(2);
            put_slice(out, prefix);
        }
        QualifierFilter::Range { start, end } => {
            out.push(3);
            put_slice(out, start);
            out.push(u8::from(end.is_some()));
            if let Some(end) = end {
                put_slice(out, end);
            }
        }
        QualifierFilter::Regex(source) => {
            out.push(4);
            put_slice(out, source.as_bytes());
        }
    }
}

fn decode_qualifier(r: &mut Reader<'_>) -> std::result::Result<QualifierFilter, Malformed> {
    let long = "qualifier too long";
    Ok(match r.u8()? {
        0 => QualifierFilter::Any,
        1 => {
            let mut list = Vec::new();
            for _ in 0..r.length(limits::READ_RANGES_MAX, "too many qualifiers")? {
                list.push(Bytes::copy_from_slice(r.slice(limits::QUALIFIER_BYTES_MAX, long)?));
            }
            QualifierFilter::Exact(list)
        }
        2 => QualifierFilter::Prefix(Bytes::copy_from_slice(r.slice(limits::QUALIFIER_BYTES_MAX, long)?)),
        3 => {
            let start = Bytes::copy_from_slice(r.slice(limits::QUALIFIER_BYTES_MAX, long)?);
            let end = match r.u8()? {
                0 => None,
                _ => Some(Bytes::copy_from_slice(r.slice(limits::QUALIFIER_BYTES_MAX, long)?)),
            };
            QualifierFilter::Range { start, end }
        }
        4 => QualifierFilter::Regex(get_regex(r)?),
        _ => return Err(Malformed("unknown qualifier filter")),
    })
}

fn decode_op(code: u8) -> std::result::Result<CompareOp, Malformed> {
    Ok(match code {
        0 => CompareOp::Equal,
        1 => CompareOp::NotEqual,
        2 => CompareOp::Less,
        3 => CompareOp::LessOrEqual,
        4 => CompareOp::Greater,
        5 => CompareOp::GreaterOrEqual,
        _ => return Err(Malformed("unknown comparison")),
    })
}

fn get_regex(r: &mut Reader<'_>) -> std::result::Result<String, Malformed> {
    let source = r.slice(limits::REGEX_BYTES_MAX, "regular expression too long")?;
    std::str::from_utf8(source)
        .map(str::to_owned)
        .map_err(|_| Malformed("regular expression is not UTF-8"))
}

fn put_option(out: &mut Vec<u8>, value: Option<u32>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn get_option(r: &mut Reader<'_>) -> std::result::Result<Option<u32>, Malformed> {
    Ok(if r.u8()? == 0 { None } else { Some(r.u32()?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn filters_round_trip() {
        let filter = ReadFilter {
            families: Some(vec![FamilyId(7)]),
            qualifier: QualifierFilter::Range {
                start: "a".into(),
                end: Some("b".into()),
            },
            versions: VersionRange { from: 1, to: 2 },
            latest: Some(3),
            value: ValueFilter::Compare(CompareOp::GreaterOrEqual, "x".into()),
            row_regex: Some("d.*".into()),
            row_sample_per_million: Some(4),
            cells_per_row: Some(5),
            strip_values: true,
        };
        let mut out = Vec::new();
        filter.encode(&mut out);
        assert_eq!(ReadFilter::decode(&mut Reader::new(&out)), Ok(filter));
    }

    #[test]
    fn ranges_are_sorted_and_joined() {
        let range = |a: &str, b: &str| RowRange {
            start: a.to_owned().into(),
            end: Some(b.to_owned().into()),
        };
        let mut spec = ReadSpec {
            ranges: vec![range("m", "p"), range("a", "c"), range("b", "d"), range("z", "z")],
            ..Default::default()
        };
        spec.normalize().unwrap();
        assert_eq!(spec.ranges, vec![range("a", "d"), range("m", "p")]);
        let mut none = ReadSpec {
            ranges: vec![range("z", "z")],
            ..Default::default()
        };
        none.normalize().unwrap();
        assert!(none.ranges.len() == 1 && none.ranges[0].is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = ReadFilter::decode(&mut Reader::new(&bytes));
            let mut framed = vec![b'F', 1];
            framed.extend_from_slice(&bytes);
            let _ = ReadFilter::decode(&mut Reader::new(&framed));
        }
    }
}
