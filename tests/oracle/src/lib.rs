//! # tidemark-oracle: what a table means
//!
//! The naive model that every layer's tests compare with: facts in a plain list, and functions over it that say what the
//! rules say (R3, R4, R5, R9, R10, R11), slowly and without cleverness. It forgets nothing, indexes nothing, and uses the
//! product's types but none of its judgements: what covers, who wins, what has expired, which versions count and what a
//! filter lets through are all written a second time here, on purpose.
//!
//! ```text
//! lib        facts and what is visible of them          R3, R4, R5, R9
//! limits     time to live and version limits            R10, R11
//! filter     what a read asks for                       the plain meaning of each filter
//! digest     the hash that regions are compared by      R25
//! batch      a packed batch as facts                    R2, R5
//! ```
//! When a rule changes, change it here first, from the rule, not from the engine's code; then see what fails.
//!
//! **May not know:** the engine, logs, nodes, time other than what it is told.

pub mod batch;
mod digest;
mod filter;
mod limits;

pub use batch::facts_of;
pub use digest::Digest;

use bytes::Bytes;
use std::collections::BTreeMap;
use tidemark_base::fact::{Fact, OwnedScope};
use tidemark_base::{CellRef, FamilyId, ReadSpec, RowRange, Stamp, TableSchema, VersionRange};

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

/// A set of facts (R3), as a list. Merging two is adding one's facts to the other's.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    facts: Vec<Fact>,
}

/// A column's facts: by version, newest first; at each version by stamp, greatest first, with the values.
type Column = Vec<(i64, Vec<(Stamp, Bytes)>)>;

/// The same while it is collected.
type ByVersion = BTreeMap<i64, BTreeMap<Stamp, Bytes>>;

impl Oracle {
    /// No facts.
    pub fn new() -> Oracle {
        Oracle::default()
    }

    /// Adds a fact; the same twice is one.
    pub fn add(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    /// Adds all facts of the other.
    pub fn merge(&mut self, other: &Oracle) {
        self.facts.extend(other.facts.iter().cloned());
    }

    /// The facts in order, each once.
    pub fn facts(&self) -> Vec<Fact> {
        let mut facts = self.facts.clone();
        facts.sort();
        facts.dedup();
        facts
    }

    /// R5: two cells with one coordinate and one stamp but different values. There must be none.
    pub fn corruption(&self) -> Option<(Fact, Fact)> {
        let facts = self.facts();
        let same_place = |pair: &&[Fact]| match pair {
            [
                Fact::Cell {
                    row: r,
                    family: f,
                    qualifier: q,
                    version: v,
                    stamp: s,
                    ..
                },
                Fact::Cell {
                    row,
                    family,
                    qualifier,
                    version,
                    stamp,
                    ..
                },
            ] => (r, f, q, v, s) == (row, family, qualifier, version, stamp),
            _ => false,
        };
        // Facts are ordered by coordinate, stamp, value: the two stand side by side.
        let pair = facts.windows(2).find(same_place)?;
        Some((pair[0].clone(), pair[1].clone()))
    }

    /// Every visible cell in order: rows, then families by id, qualifiers, newest version first.
    ///
    /// At a coordinate only the fact with the greatest stamp can be visible (R3). It is, unless a tombstone kills it (R4),
    /// it has expired (R10), or greater versions fill the column's limit (R11).
    pub fn visible(&self, schema: &TableSchema, now_micros: i64) -> Vec<VisibleCell> {
        let mut out = Vec::new();
        for ((row, family, qualifier), column) in self.columns() {
            let Some(settings) = schema.families.iter().find(|settings| settings.id == family) else {
                continue;
            };
            let kept = limits::within(settings, &column, |version, stamp, hlc_max| {
                self.is_killed(&row, family, &qualifier, version, stamp, hlc_max)
            });
            for (version, facts) in column {
                let (stamp, value) = facts[0].clone();
                let dead = self.is_killed(&row, family, &qualifier, version, stamp, u64::MAX);
                if dead || limits::expired(settings, version, now_micros) || !kept.contains(&(version, stamp)) {
                    continue;
                }
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
        out
    }

    /// What is visible by R3 and R4 alone, in families without limits, whatever the schema is.
    pub fn alive(&self) -> Vec<VisibleCell> {
        let mut schema = TableSchema::new(tidemark_base::RegionId(0));
        for (_, family, _) in self.columns().into_keys() {
            if schema.families.iter().all(|settings| settings.id != family) {
                let mut settings = tidemark_base::FamilySettings::new("any", 0);
                settings.id = family;
                schema.families.push(settings);
            }
        }
        self.visible(&schema, 0)
    }

    /// What a read returns. The ranges must be sorted and disjoint, as in a normalised spec.
    pub fn read(&self, spec: &ReadSpec, schema: &TableSchema, now_micros: i64) -> Vec<VisibleCell> {
        let mut rows: BTreeMap<Bytes, Vec<VisibleCell>> = BTreeMap::new();
        for cell in self.visible(schema, now_micros) {
            rows.entry(cell.row.clone()).or_default().push(cell);
        }
        filter::read(spec, rows.into_iter().collect())
    }

    /// The digest of the visible cells in a range.
    pub fn digest(&self, range: &RowRange, schema: &TableSchema, now_micros: i64) -> Digest {
        let mut visible = self.visible(schema, now_micros);
        visible.retain(|cell| filter::in_range(range, &cell.row));
        Digest::of(&visible)
    }

    fn columns(&self) -> BTreeMap<(Bytes, FamilyId, Bytes), Column> {
        let mut columns: BTreeMap<(Bytes, FamilyId, Bytes), ByVersion> = BTreeMap::new();
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
        let newest_first = |column: ByVersion| {
            let versions = column.into_iter().rev();
            versions
                .map(|(version, facts)| (version, facts.into_iter().rev().collect()))
                .collect()
        };
        columns
            .into_iter()
            .map(|(at, column)| (at, newest_first(column)))
            .collect()
    }

    /// R4: a tombstone covers the coordinate and has a greater stamp. Only tombstones up to `hlc_max` count.
    fn is_killed(
        &self,
        row: &[u8],
        family: FamilyId,
        qualifier: &[u8],
        version: i64,
        stamp: Stamp,
        hlc_max: u64,
    ) -> bool {
        self.facts.iter().any(|fact| match fact {
            Fact::Cell { .. } => false,
            Fact::Tombstone {
                row: at,
                scope,
                versions,
                stamp: deleted,
            } => {
                deleted.hlc <= hlc_max
                    && stamp < *deleted
                    && covers(at, scope, *versions, (row, family, qualifier, version))
            }
        })
    }
}

/// R9: the scopes of a delete. A single version is a column with a range of one.
fn covers(at: &[u8], scope: &OwnedScope, versions: VersionRange, cell: (&[u8], FamilyId, &[u8], i64)) -> bool {
    let (row, family, qualifier, version) = cell;
    let in_scope = match scope {
        OwnedScope::Column {
            family: f,
            qualifier: q,
        } => at == row && *f == family && q[..] == *qualifier,
        OwnedScope::Family { family: f } => at == row && *f == family,
        OwnedScope::Row => at == row,
        OwnedScope::RowRange { end: None } => at <= row,
        OwnedScope::RowRange { end: Some(end) } => at <= row && *row < end[..],
    };
    in_scope && versions.from <= version && version <= versions.to
}
