//! What a table must hold: a plain map over acknowledged writes. It shares nothing with the engine but the nouns.

use std::collections::BTreeMap;
use tidemark_base::fact::{Fact, OwnedScope};
use tidemark_base::{MutationRef, PackedBatch, RowRef, Scope, Stamp, VersionRange};

/// Row, family, qualifier, version.
type Coordinate = (Vec<u8>, u32, Vec<u8>, i64);
/// Visible cells.
pub type Cells = BTreeMap<Coordinate, Vec<u8>>;

/// What is visible of a set of facts: the greatest stamp wins at a coordinate; a tombstone with a greater stamp hides.
pub fn visible(facts: Vec<Fact>) -> Cells {
    let mut cells: BTreeMap<Coordinate, (Stamp, Vec<u8>)> = BTreeMap::new();
    let mut tombstones = Vec::new();
    for fact in facts {
        match fact {
            Fact::Cell {
                row,
                family,
                qualifier,
                version,
                stamp,
                value,
            } => {
                let entry = cells.entry((row.to_vec(), family.0, qualifier.to_vec(), version));
                let cell = entry.or_insert((stamp, value.to_vec()));
                if cell.0 < stamp {
                    *cell = (stamp, value.to_vec());
                }
            }
            Fact::Tombstone {
                row,
                scope,
                versions,
                stamp,
            } => tombstones.push((row.to_vec(), scope, versions, stamp)),
        }
    }
    cells.retain(|(row, family, qualifier, version), (stamp, _)| {
        !tombstones.iter().any(|(at, scope, versions, deleted)| {
            let covered = match scope {
                OwnedScope::Column {
                    family: f,
                    qualifier: q,
                } => at == row && f.0 == *family && q[..] == qualifier[..],
                OwnedScope::Family { family: f } => at == row && f.0 == *family,
                OwnedScope::Row => at == row,
                OwnedScope::RowRange { end } => row >= at && end.as_ref().is_none_or(|end| row[..] < end[..]),
            };
            covered && versions.from <= *version && *version <= versions.to && *stamp < *deleted
        })
    });
    cells.into_iter().map(|(at, (_, value))| (at, value)).collect()
}

/// The facts of an acknowledged batch whose first row got that stamp.
pub fn facts_of(batch: &PackedBatch, first: Stamp) -> Vec<Fact> {
    let mut facts = Vec::new();
    for (at, row) in batch.rows().enumerate() {
        let stamp = Stamp {
            hlc: first.hlc + at as u64,
            ..first
        };
        match row {
            RowRef::Mutation { row, mutations } => {
                facts.extend(mutations.map(|mutation| fact_of(row, mutation, stamp)));
            }
            RowRef::RangeDelete { start, end, versions } => {
                facts.push(tombstone(start, Scope::RowRange { end }, versions, stamp));
            }
        }
    }
    facts
}

fn fact_of(row: &[u8], mutation: MutationRef<'_>, stamp: Stamp) -> Fact {
    match mutation {
        MutationRef::Put {
            family,
            qualifier,
            version,
            value,
        } => Fact::Cell {
            row: row.to_vec().into(),
            family,
            qualifier: qualifier.to_vec().into(),
            version,
            stamp,
            value: value.to_vec().into(),
        },
        MutationRef::Delete { scope, versions } => tombstone(row, scope, versions, stamp),
    }
}

fn tombstone(row: &[u8], scope: Scope<'_>, versions: VersionRange, stamp: Stamp) -> Fact {
    Fact::Tombstone {
        row: row.to_vec().into(),
        scope: scope.to_owned(),
        versions,
        stamp,
    }
}
