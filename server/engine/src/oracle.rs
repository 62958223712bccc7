//! The meaning of reads, straight from the definitions and slow: a set of facts, and functions over it. Nothing here
//! shares code with the engines except the types; every layer's tests compare with it.

use std::collections::{BTreeMap, BTreeSet};
use tidemark_base::fact::Fact;
use tidemark_base::read::{QualifierFilter, ReadSpec, ValueFilter};
use tidemark_base::{CellRef, FamilyId, FamilySettings, RowRange, Stamp, TableSchema, TombstoneRef};

use crate::api::{Engine, EngineError, RangeDigest};
use crate::{ops, plan};
use bytes::Bytes;

/// A visible cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VisibleCell {
    /// Row.
    pub row: Bytes,
    /// Family.
    pub family: FamilyId,
    /// Qualifier.
    pub qualifier: Bytes,
    /// Version in microseconds.
    pub version: i64,
    /// Stamp of the winner.
    pub stamp: Stamp,
    /// Value.
    pub value: Bytes,
}

/// A set of facts (R3). Merging two is the union of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oracle {
    facts: BTreeSet<Fact>,
}

/// A column's facts by version and stamp.
type Column = BTreeMap<i64, BTreeMap<Stamp, Bytes>>;

/// A column's facts by version, newest first: (stamp, value), greatest stamp first.
type Versions = Vec<(i64, Vec<(Stamp, Bytes)>)>;

impl Oracle {
    /// No facts.
    pub fn new() -> Oracle {
        Oracle::default()
    }

    /// Adds a fact; the same twice is one.
    pub fn add(&mut self, fact: Fact) {
        self.facts.insert(fact);
    }

    /// Adds all facts of the other.
    pub fn merge(&mut self, other: &Oracle) {
        self.facts.extend(other.facts.iter().cloned());
    }

    /// The facts.
    pub fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.facts.iter()
    }

    /// Every visible cell in order: rows, then families by id, qualifiers, newest version first.
    pub fn visible(&self, schema: &TableSchema, now_micros: i64) -> Vec<VisibleCell> {
        let mut columns: BTreeMap<(Bytes, FamilyId, Bytes), Column> = BTreeMap::new();
        for fact in &self.facts {
            if let Fact::Cell {
                row,
                family,
                qualifier,
                version,
                stamp,
                value,
            } = fact
            {
                let column = columns.entry((row.clone(), *family, qualifier.clone())).or_default();
                column.entry(*version).or_default().insert(*stamp, value.clone());
            }
        }
        let mut out = Vec::new();
        for ((row, family, qualifier), versions) in columns {
            let Some(settings) = schema.family(family) else {
                continue;
            };
            let versions: Versions = versions
                .into_iter()
                .rev()
                .map(|(version, facts)| (version, facts.into_iter().rev().collect()))
                .collect();
            let kept = self.within_limits(settings, &row, &qualifier, &versions);
            for (version, facts) in versions {
                let (stamp, value) = facts[0].clone();
                let dead = self.killed(&row, family, &qualifier, version, stamp, u64::MAX);
                if kept.contains(&(version, stamp)) && !dead && !settings.expired(version, now_micros) {
                    out.push(VisibleCell {
                        row: row.clone(),
                        family,
                        qualifier: qualifier.clone(),
                        version,
                        stamp,
                        value,
                    });
                }
            }
        }
        out
    }

    /// What a read returns.
    pub fn read(&self, spec: &ReadSpec, schema: &TableSchema, now_micros: i64) -> Vec<VisibleCell> {
        let mut rows: BTreeMap<Bytes, Vec<VisibleCell>> = BTreeMap::new();
        for cell in self.visible(schema, now_micros) {
            rows.entry(cell.row.clone()).or_default().push(cell);
        }
        let ranges = if spec.ranges.is_empty() {
            vec![RowRange::all()]
        } else {
            spec.ranges.clone()
        };
        let mut rows: Vec<(Bytes, Vec<VisibleCell>)> = rows
            .into_iter()
            .filter(|(row, _)| ranges.iter().any(|range| range.contains(row)) && wants_row(spec, row))
            .map(|(row, cells)| (row, row_cells(spec, cells)))
            .filter(|(_, cells)| !cells.is_empty())
            .collect();
        if spec.reverse {
            rows.reverse();
        }
        rows.truncate(
            spec.rows_limit
                .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        );
        rows.into_iter().flat_map(|(_, cells)| cells).collect()
    }

    /// The digest of the visible cells in a range.
    pub fn digest(&self, range: &RowRange, schema: &TableSchema, now_micros: i64) -> RangeDigest {
        let mut digest = RangeDigest::default();
        let mut last = None;
        let mut buffer = Vec::new();
        for cell in self
            .visible(schema, now_micros)
            .iter()
            .filter(|c| range.contains(&c.row))
        {
            let (content, with_stamp) = ops::cell_hashes(&cell.borrow(), &mut buffer);
            digest.rows += u64::from(last != Some(&cell.row));
            last = Some(&cell.row);
            digest.cells += 1;
            digest.content_hash = digest.content_hash.wrapping_add(content);
            digest.stamps_hash = digest.stamps_hash.wrapping_add(with_stamp);
        }
        digest
    }

    /// R11 by its definition (see `VersionRank`): `F(e)` = the facts of `F(e-1)` and of era `e` that stand at the
    /// `limit(e)` greatest versions.
    fn within_limits(
        &self,
        settings: &FamilySettings,
        row: &[u8],
        qualifier: &[u8],
        versions: &Versions,
    ) -> BTreeSet<(i64, Stamp)> {
        let mut kept: BTreeSet<(i64, Stamp)> = BTreeSet::new();
        for era in 0..=settings.past_limits.len() {
            let limit = settings.era_limit(era);
            let last = era == settings.past_limits.len();
            for (version, facts) in versions {
                for (stamp, _) in facts.iter().filter(|(stamp, _)| settings.era(*stamp) == era) {
                    let forgotten = limit.is_none()
                        && !last
                        && self.killed(row, settings.id, qualifier, *version, *stamp, settings.era_until(era));
                    if !forgotten {
                        kept.insert((*version, *stamp));
                    }
                }
            }
            if let Some(limit) = limit {
                let greatest: BTreeSet<i64> = kept.iter().map(|(version, _)| *version).collect();
                let greatest: BTreeSet<i64> = greatest.into_iter().rev().take(limit as usize).collect();
                kept.retain(|(version, _)| greatest.contains(version));
            }
        }
        kept
    }

    /// True if a tombstone with `stamp.hlc <= hlc_max` kills such a cell (R4).
    fn killed(&self, row: &[u8], family: FamilyId, qualifier: &[u8], version: i64, stamp: Stamp, hlc_max: u64) -> bool {
        let cell = CellRef {
            row,
            family,
            qualifier,
            version,
            stamp,
            value: &[],
        };
        self.facts.iter().any(|fact| match fact {
            Fact::Tombstone {
                row,
                scope,
                versions,
                stamp,
            } => {
                let tombstone = TombstoneRef {
                    row,
                    scope: scope.borrow(),
                    versions: *versions,
                    stamp: *stamp,
                };
                stamp.hlc <= hlc_max && tombstone.kills(&cell)
            }
            Fact::Cell { .. } => false,
        })
    }
}

impl VisibleCell {
    /// The borrowed form.
    pub fn borrow(&self) -> CellRef<'_> {
        CellRef {
            row: &self.row,
            family: self.family,
            qualifier: &self.qualifier,
            version: self.version,
            stamp: self.stamp,
            value: &self.value,
        }
    }
}

/// What an engine's read returns, in the oracle's form, and checks its marks of row starts.
pub fn read_engine(engine: &dyn Engine, spec: &ReadSpec, now_micros: i64) -> Result<Vec<VisibleCell>, EngineError> {
    let mut cursor = engine.read(spec, now_micros)?;
    let mut out: Vec<VisibleCell> = Vec::new();
    while cursor.advance()? {
        let cell = cursor.cell();
        let starts = out.last().is_none_or(|last| last.row != cell.row);
        assert_eq!(cursor.is_row_start(), starts, "row start of {cell:?}");
        out.push(VisibleCell {
            row: Bytes::copy_from_slice(cell.row),
            family: cell.family,
            qualifier: Bytes::copy_from_slice(cell.qualifier),
            version: cell.version,
            stamp: cell.stamp,
            value: Bytes::copy_from_slice(cell.value),
        });
    }
    Ok(out)
}

/// Adds facts to an engine, in one atomic write.
pub fn write_engine<'a>(engine: &dyn Engine, facts: impl IntoIterator<Item = &'a Fact>) -> Result<(), EngineError> {
    let mut batch = engine.write_batch();
    for fact in facts {
        match fact {
            Fact::Cell {
                row,
                family,
                qualifier,
                version,
                stamp,
                value,
            } => batch.put_cell(CellRef {
                row,
                family: *family,
                qualifier,
                version: *version,
                stamp: *stamp,
                value,
            }),
            Fact::Tombstone {
                row,
                scope,
                versions,
                stamp,
            } => batch.put_tombstone(TombstoneRef {
                row,
                scope: scope.borrow(),
                versions: *versions,
                stamp: *stamp,
            }),
        }
    }
    batch.commit()
}

fn wants_row(spec: &ReadSpec, row: &[u8]) -> bool {
    let filter = &spec.filter;
    let sampled = filter.row_sample_per_million.is_none_or(|n| plan::in_sample(row, n));
    sampled && filter.row_regex.as_deref().is_none_or(|source| matches(source, row))
}

fn matches(source: &str, bytes: &[u8]) -> bool {
    plan::whole_regex(source).is_ok_and(|regex| regex.is_match(bytes))
}

/// The filters in their fixed order.
fn row_cells(spec: &ReadSpec, cells: Vec<VisibleCell>) -> Vec<VisibleCell> {
    let filter = &spec.filter;
    let mut columns: BTreeMap<(FamilyId, Bytes), u32> = BTreeMap::new();
    let mut out: Vec<VisibleCell> = cells
        .into_iter()
        .filter(|c| filter.families.as_ref().is_none_or(|list| list.contains(&c.family)))
        .filter(|c| match &filter.qualifier {
            QualifierFilter::Any => true,
            QualifierFilter::Exact(list) => list.contains(&c.qualifier),
            QualifierFilter::Prefix(prefix) => c.qualifier.starts_with(prefix),
            QualifierFilter::Range { start, end } => {
                c.qualifier >= *start && end.as_ref().is_none_or(|end| c.qualifier < *end)
            }
            QualifierFilter::Regex(source) => matches(source, &c.qualifier),
        })
        .filter(|c| filter.versions.contains(c.version))
        .filter(|c| {
            let count = columns.entry((c.family, c.qualifier.clone())).or_default();
            *count += 1;
            filter.latest.is_none_or(|n| *count <= n)
        })
        .filter(|c| match &filter.value {
            ValueFilter::Any => true,
            ValueFilter::Compare(op, operand) => op.holds(&c.value, operand),
            ValueFilter::Regex(source) => matches(source, &c.value),
        })
        .collect();
    out.truncate(filter.cells_per_row.map_or(usize::MAX, |n| n as usize));
    if filter.strip_values {
        out.iter_mut().for_each(|c| c.value = Bytes::new());
    }
    out
}
