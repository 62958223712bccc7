//! R5 inside one row mutation: a later put on the same coordinate replaces the earlier one, a later delete removes the
//! puts that it covers. What is left has no two facts that one stamp could not order: a put that survives beside a
//! delete came after it, and equal stamps leave it visible (R4 asks for a strictly smaller one).
//!
//! The leader also assigns server versions here, before the log.

use crate::batch::{BatchBuilder, MutationRef, PackedBatch, RowRef, SERVER_VERSION};
use crate::error::Result;
use crate::fact::{Scope, TombstoneRef};
use crate::ids::FamilyId;
use crate::range::RowRange;
use crate::stamp::Stamp;
use std::collections::HashMap;

/// Returns the batch in normal form with server versions set to `now_micros`. A batch that is already so is returned as
/// it is, the same bytes: that is the usual case, and it costs nothing where parsing has seen it, else one look at each row.
pub fn normalize(batch: &PackedBatch, now_micros: i64) -> Result<PackedBatch> {
    if !batch.has_server_versions() && (batch.is_ascending_puts() || batch.rows().all(|row| is_normal(&row))) {
        return Ok(batch.clone());
    }
    let mut builder = BatchBuilder::new();
    for row in batch.rows() {
        match row {
            RowRef::Mutation { row, mutations } => {
                builder.begin_row(row)?;
                for mutation in normal_form(row, mutations, now_micros) {
                    builder.push(mutation)?;
                }
                builder.end_row()?;
            }
            RowRef::RangeDelete { start, end, versions } => {
                let range = RowRange {
                    start: start.to_vec().into(),
                    end: end.map(|e| e.to_vec().into()),
                };
                builder.push_range_delete(&range, versions)?;
            }
        }
    }
    // A batch has at least one row, and normalising never drops a row's last mutation.
    Ok(builder.finish().unwrap_or_else(|| batch.clone()))
}

/// True if the row needs no change: no put before a delete, and no two puts on one coordinate.
///
/// Puts in strictly ascending order of (family, qualifier, version) are seen to be distinct without a table; that is
/// how the client's writer builds them.
fn is_normal(row: &RowRef<'_>) -> bool {
    let RowRef::Mutation { mutations, .. } = row else {
        return true;
    };
    let mut last: Option<(FamilyId, &[u8], i64)> = None;
    let mut ascending = true;
    for mutation in mutations.clone() {
        match mutation {
            MutationRef::Put {
                family,
                qualifier,
                version,
                ..
            } => {
                let at = (family, qualifier, version);
                ascending &= last.is_none_or(|l| l < at);
                last = Some(at);
            }
            MutationRef::Delete { .. } if last.is_some() => return false,
            MutationRef::Delete { .. } => {}
        }
    }
    ascending || {
        let mut seen = std::collections::HashSet::new();
        mutations.clone().all(|m| match m {
            MutationRef::Put {
                family,
                qualifier,
                version,
                ..
            } => seen.insert((family, qualifier, version)),
            MutationRef::Delete { .. } => true,
        })
    }
}

fn normal_form<'a>(
    row: &'a [u8],
    mutations: impl Iterator<Item = MutationRef<'a>>,
    now_micros: i64,
) -> Vec<MutationRef<'a>> {
    let mut out: Vec<Option<MutationRef<'a>>> = Vec::new();
    let mut puts: HashMap<(FamilyId, &'a [u8], i64), usize> = HashMap::new();
    for mutation in mutations {
        match mutation {
            MutationRef::Put {
                family,
                qualifier,
                version,
                value,
            } => {
                let version = if version == SERVER_VERSION { now_micros } else { version };
                if let Some(earlier) = puts.insert((family, qualifier, version), out.len()) {
                    out[earlier] = None;
                }
                out.push(Some(MutationRef::Put {
                    family,
                    qualifier,
                    version,
                    value,
                }));
            }
            MutationRef::Delete { scope, versions } => {
                let tombstone = TombstoneRef {
                    row,
                    scope: row_scope(scope),
                    versions,
                    stamp: Stamp::MAX,
                };
                puts.retain(|(family, qualifier, version), index| {
                    let covered = tombstone.covers(row, *family, qualifier, *version);
                    if covered {
                        out[*index] = None;
                    }
                    !covered
                });
                out.push(Some(mutation));
            }
        }
    }
    out.into_iter().flatten().collect()
}

/// Inside a row mutation no scope reaches beyond the row.
fn row_scope(scope: Scope<'_>) -> Scope<'_> {
    match scope {
        Scope::RowRange { .. } => Scope::Row,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::VersionRange;

    const F: FamilyId = FamilyId(0x8000_0001);

    fn build(mutations: &[MutationRef<'_>]) -> PackedBatch {
        let mut b = BatchBuilder::new();
        b.begin_row(b"r").unwrap();
        mutations.iter().for_each(|m| b.push(*m).unwrap());
        b.end_row().unwrap();
        b.finish().unwrap()
    }

    fn put(qualifier: &'static [u8], version: i64, value: &'static [u8]) -> MutationRef<'static> {
        MutationRef::Put {
            family: F,
            qualifier,
            version,
            value,
        }
    }

    fn list(batch: &PackedBatch) -> Vec<MutationRef<'_>> {
        match batch.rows().next().unwrap() {
            RowRef::Mutation { mutations, .. } => mutations.collect(),
            RowRef::RangeDelete { .. } => vec![],
        }
    }

    #[test]
    fn a_normal_batch_passes_unchanged() {
        let batch = build(&[put(b"a", 1, b"x"), put(b"b", 1, b"y")]);
        assert_eq!(normalize(&batch, 9).unwrap().bytes().as_ptr(), batch.bytes().as_ptr());
        let unsorted = build(&[put(b"b", 1, b"x"), put(b"a", 1, b"y")]);
        assert_eq!(
            normalize(&unsorted, 9).unwrap().bytes().as_ptr(),
            unsorted.bytes().as_ptr()
        );
    }

    #[test]
    fn later_puts_replace_and_later_deletes_remove() {
        let delete = MutationRef::Delete {
            scope: Scope::Column {
                family: F,
                qualifier: b"a",
            },
            versions: VersionRange::ALL,
        };
        let batch = build(&[
            put(b"a", 1, b"x"),
            put(b"b", 1, b"1"),
            delete,
            put(b"a", 1, b"z"),
            put(b"b", 1, b"2"),
        ]);
        let normal = normalize(&batch, 9).unwrap();
        assert_eq!(list(&normal), vec![delete, put(b"a", 1, b"z"), put(b"b", 1, b"2")]);
    }

    #[test]
    fn server_versions_are_assigned_and_then_collide_like_any_other() {
        let batch = build(&[put(b"a", SERVER_VERSION, b"x"), put(b"a", 9, b"y")]);
        assert_eq!(list(&normalize(&batch, 9).unwrap()), vec![put(b"a", 9, b"y")]);
    }
}
