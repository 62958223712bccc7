//! A packed batch as facts: its i-th row has the batch's stamp with `hlc + i`, and all of a row's mutations that one.
//!
//! R5 by applying the mutations in their order: a put replaces what an earlier put of the same row mutation left at its
//! coordinate, a delete removes what earlier puts of the same row mutation left in its scope.

use crate::covers;
use tidemark_base::fact::{Fact, OwnedScope};
use tidemark_base::{MutationRef, PackedBatch, RowRef, Stamp, VersionRange};

/// The facts of a batch whose first row has that stamp. Versions must have been assigned.
pub fn facts_of(batch: &PackedBatch, first: Stamp) -> Vec<Fact> {
    let mut facts = Vec::new();
    for (at, row) in batch.rows().enumerate() {
        let stamp = Stamp {
            hlc: first.hlc + at as u64,
            ..first
        };
        match row {
            RowRef::Mutation { row, mutations } => {
                let mut of_row = Vec::new();
                mutations.for_each(|mutation| push(&mut of_row, row, mutation, stamp));
                facts.extend(of_row);
            }
            RowRef::RangeDelete { start, end, versions } => {
                let end = end.map(|end| end.to_vec().into());
                facts.push(tombstone(start, OwnedScope::RowRange { end }, versions, stamp));
            }
        }
    }
    facts
}

fn push(facts: &mut Vec<Fact>, row: &[u8], mutation: MutationRef<'_>, stamp: Stamp) {
    match mutation {
        MutationRef::Put {
            family,
            qualifier,
            version,
            value,
        } => {
            facts.retain(|fact| {
                !matches!(fact, Fact::Cell { family: f, qualifier: q, version: v, .. }
                    if (*f, &q[..], *v) == (family, qualifier, version))
            });
            facts.push(Fact::Cell {
                row: row.to_vec().into(),
                family,
                qualifier: qualifier.to_vec().into(),
                version,
                stamp,
                value: value.to_vec().into(),
            });
        }
        MutationRef::Delete { scope, versions } => {
            let scope = scope.to_owned();
            facts.retain(|fact| match fact {
                Fact::Cell {
                    family,
                    qualifier,
                    version,
                    ..
                } => !covers(row, &scope, versions, (row, *family, qualifier, *version)),
                Fact::Tombstone { .. } => true,
            });
            facts.push(tombstone(row, scope, versions, stamp));
        }
    }
}

fn tombstone(row: &[u8], scope: OwnedScope, versions: VersionRange, stamp: Stamp) -> Fact {
    Fact::Tombstone {
        row: row.to_vec().into(),
        scope,
        versions,
        stamp,
    }
}
