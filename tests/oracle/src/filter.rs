//! What a read asks for, filter by filter, in the fixed order: rows are chosen by ranges, row regex and sample; of each
//! row's visible cells families, qualifiers, versions, the latest N of each column, values, cells per row; then values
//! are stripped, and the row limit counts rows that kept a cell.

use crate::VisibleCell;
use bytes::Bytes;
use regex::bytes::RegexBuilder;
use std::cmp::Ordering;
use tidemark_base::read::{CompareOp, QualifierFilter, ReadFilter, ValueFilter};
use tidemark_base::{ReadSpec, RowRange};

/// Rows in ascending order in, cells out.
pub(crate) fn read(spec: &ReadSpec, mut rows: Vec<(Bytes, Vec<VisibleCell>)>) -> Vec<VisibleCell> {
    rows.retain(|(row, _)| wants_row(spec, row));
    let mut rows: Vec<Vec<VisibleCell>> = rows.into_iter().map(|(_, cells)| of_row(&spec.filter, cells)).collect();
    rows.retain(|cells| !cells.is_empty());
    if spec.reverse {
        rows.reverse();
    }
    if let Some(limit) = spec.rows_limit {
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    rows.concat()
}

/// `[start, end)`, an absent end is unbounded.
pub(crate) fn in_range(range: &RowRange, row: &[u8]) -> bool {
    let below = range.end.as_ref().is_none_or(|end| *row < end[..]);
    range.start[..] <= *row && below
}

fn wants_row(spec: &ReadSpec, row: &[u8]) -> bool {
    let filter = &spec.filter;
    let chosen = spec.ranges.is_empty() || spec.ranges.iter().any(|range| in_range(range, row));
    let sampled = match filter.row_sample_per_million {
        Some(n) => xxhash_rust::xxh3::xxh3_64(row) % 1_000_000 < u64::from(n),
        None => true,
    };
    chosen && sampled && filter.row_regex.as_ref().is_none_or(|source| matches(source, row))
}

/// The whole of the bytes, any byte for `.`. One that is no regular expression matches nothing here; that engines refuse
/// it is tested elsewhere.
fn matches(source: &str, bytes: &[u8]) -> bool {
    let whole = format!(r"\A(?:{source})\z");
    let regex = RegexBuilder::new(&whole)
        .unicode(false)
        .dot_matches_new_line(true)
        .build();
    regex.is_ok_and(|regex| regex.is_match(bytes))
}

fn of_row(filter: &ReadFilter, mut cells: Vec<VisibleCell>) -> Vec<VisibleCell> {
    cells.retain(|cell| {
        filter
            .families
            .as_ref()
            .is_none_or(|families| families.contains(&cell.family))
    });
    cells.retain(|cell| wants_qualifier(&filter.qualifier, &cell.qualifier));
    cells.retain(|cell| filter.versions.from <= cell.version && cell.version <= filter.versions.to);
    if let Some(n) = filter.latest {
        let all = cells.clone();
        cells.retain(|cell| {
            let newer = all.iter().filter(|other| {
                (other.family, &other.qualifier) == (cell.family, &cell.qualifier) && other.version > cell.version
            });
            newer.count() < n as usize
        });
    }
    cells.retain(|cell| wants_value(&filter.value, &cell.value));
    if let Some(n) = filter.cells_per_row {
        cells.truncate(n as usize);
    }
    if filter.strip_values {
        cells.iter_mut().for_each(|cell| cell.value = Bytes::new());
    }
    cells
}

fn wants_qualifier(filter: &QualifierFilter, qualifier: &Bytes) -> bool {
    match filter {
        QualifierFilter::Any => true,
        QualifierFilter::Exact(list) => list.contains(qualifier),
        QualifierFilter::Prefix(prefix) => qualifier.starts_with(prefix),
        QualifierFilter::Range { start, end: None } => qualifier >= start,
        QualifierFilter::Range { start, end: Some(end) } => qualifier >= start && qualifier < end,
        QualifierFilter::Regex(source) => matches(source, qualifier),
    }
}

fn wants_value(filter: &ValueFilter, value: &[u8]) -> bool {
    match filter {
        ValueFilter::Any => true,
        ValueFilter::Regex(source) => matches(source, value),
        ValueFilter::Compare(op, operand) => {
            let order = value.cmp(&operand[..]);
            match op {
                CompareOp::Equal => order == Ordering::Equal,
                CompareOp::NotEqual => order != Ordering::Equal,
                CompareOp::Less => order == Ordering::Less,
                CompareOp::LessOrEqual => order != Ordering::Greater,
                CompareOp::Greater => order == Ordering::Greater,
                CompareOp::GreaterOrEqual => order != Ordering::Less,
            }
        }
    }
}
