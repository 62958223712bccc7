//! What is written: mutations of one row, kept flat so that a row of ten cells costs a handful of allocations.

use crate::error::ClientError;
use bytes::Bytes;
use std::collections::HashMap;
use tidemark_base::{BatchBuilder, FamilyId, MutationRef, Scope, VersionRange};

pub use tidemark_base::batch::SERVER_VERSION;

/// Mutations of one row, applied in order and atomically: either all or none, at the peer region too.
///
/// Versions are microseconds since 1970. A put with its own version may be sent twice without harm; with
/// [`SERVER_VERSION`] it may not, and neither may a delete (a write that came between would be deleted as well), so a
/// lost answer to such a mutation is an unknown outcome.
///
/// ```
/// use tidemark_client::{RowMutation, SERVER_VERSION};
/// let safe = RowMutation::new("device-17").put("m", "temperature", 1_700_000_000_000_000, "21.5");
/// assert!(safe.may_repeat());
/// assert!(!safe.put("m", "humidity", SERVER_VERSION, "40").may_repeat());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowMutation {
    row: Bytes,
    families: Vec<Box<str>>,
    ops: Vec<Op>,
    /// Qualifiers and values, one after the other, in the order of `ops`.
    data: Vec<u8>,
    may_repeat: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Put {
        family: u32,
        qualifier_bytes: u32,
        value_bytes: u32,
        version: i64,
    },
    DeleteColumn {
        family: u32,
        qualifier_bytes: u32,
        versions: VersionRange,
    },
    DeleteFamily {
        family: u32,
        versions: VersionRange,
    },
    DeleteRow {
        versions: VersionRange,
    },
}

/// Why a row cannot be encoded.
#[derive(Debug)]
pub(crate) enum Unencodable {
    /// The routing table knows no family of that name; a newer one may.
    FamilyUnknown(String),
    /// It breaks a limit.
    Refused(tidemark_base::Error),
}

impl RowMutation {
    /// No mutation yet; at least one is needed to write it.
    pub fn new(row: impl AsRef<[u8]>) -> RowMutation {
        RowMutation::with_capacity(row, 0, 0)
    }

    /// The same, with room for so many mutations whose qualifiers and values have so many bytes together. Growing step by
    /// step instead was more than half of what a client used that wrote ticks of ten cells as fast as it could.
    pub fn with_capacity(row: impl AsRef<[u8]>, mutations: usize, bytes: usize) -> RowMutation {
        RowMutation {
            row: Bytes::copy_from_slice(row.as_ref()),
            families: Vec::new(),
            ops: Vec::with_capacity(mutations),
            data: Vec::with_capacity(bytes),
            may_repeat: true,
        }
    }

    /// Writes one cell. `version` in microseconds since 1970, or [`SERVER_VERSION`].
    pub fn put(mut self, family: &str, qualifier: impl AsRef<[u8]>, version: i64, value: impl AsRef<[u8]>) -> Self {
        let op = Op::Put {
            family: self.family(family),
            qualifier_bytes: self.append(qualifier.as_ref()),
            value_bytes: self.append(value.as_ref()),
            version,
        };
        self.may_repeat &= version != SERVER_VERSION;
        self.ops.push(op);
        self
    }

    /// Deletes one version of a column.
    pub fn delete_cell(self, family: &str, qualifier: impl AsRef<[u8]>, version: i64) -> Self {
        self.delete_column_versions(family, qualifier, VersionRange::one(version))
    }

    /// Deletes all versions of a column.
    pub fn delete_column(self, family: &str, qualifier: impl AsRef<[u8]>) -> Self {
        self.delete_column_versions(family, qualifier, VersionRange::ALL)
    }

    /// Deletes those versions of a column.
    pub fn delete_column_versions(mut self, family: &str, qualifier: impl AsRef<[u8]>, versions: VersionRange) -> Self {
        let op = Op::DeleteColumn {
            family: self.family(family),
            qualifier_bytes: self.append(qualifier.as_ref()),
            versions,
        };
        self.delete(op)
    }

    /// Deletes a family of the row; [`VersionRange::ALL`] for all of it.
    pub fn delete_family(mut self, family: &str, versions: VersionRange) -> Self {
        let op = Op::DeleteFamily {
            family: self.family(family),
            versions,
        };
        self.delete(op)
    }

    /// Deletes the row; [`VersionRange::ALL`] for all of it.
    pub fn delete_row(self, versions: VersionRange) -> Self {
        self.delete(Op::DeleteRow { versions })
    }

    /// The row's key.
    pub fn row(&self) -> &Bytes {
        &self.row
    }

    /// Number of mutations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// True without a mutation.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// True if a second application changes nothing: only puts with their own versions.
    pub fn may_repeat(&self) -> bool {
        self.may_repeat
    }

    /// About what it takes in a batch and in the writer's buffer, in bytes.
    pub fn bytes_len(&self) -> usize {
        self.row.len() + self.data.len() + self.ops.len() * 24 + 16
    }

    fn delete(mut self, op: Op) -> Self {
        self.may_repeat = false;
        self.ops.push(op);
        self
    }

    fn family(&mut self, name: &str) -> u32 {
        let at = self.families.iter().position(|f| **f == *name).unwrap_or_else(|| {
            self.families.push(name.into());
            self.families.len() - 1
        });
        at as u32
    }

    /// Lengths beyond 32 bits are capped; the batch builder refuses them long before.
    fn append(&mut self, bytes: &[u8]) -> u32 {
        self.data.extend_from_slice(bytes);
        u32::try_from(bytes.len()).unwrap_or(u32::MAX)
    }

    /// Adds the row to a batch, family names looked up in `ids`. On an error the batch is as it was.
    pub(crate) fn encode(
        &self,
        ids: &HashMap<String, FamilyId>,
        batch: &mut BatchBuilder,
    ) -> std::result::Result<(), Unencodable> {
        let mut families = Vec::with_capacity(self.families.len());
        for name in &self.families {
            let id = ids.get(&**name).copied();
            families.push(id.ok_or_else(|| Unencodable::FamilyUnknown(name.to_string()))?);
        }
        let refuse = Unencodable::Refused;
        batch.begin_row(&self.row).map_err(refuse)?;
        let mut rest = &self.data[..];
        for op in &self.ops {
            let mut take = |len: u32| {
                let (head, tail) = rest.split_at((len as usize).min(rest.len()));
                rest = tail;
                head
            };
            let mutation = match *op {
                Op::Put {
                    family,
                    qualifier_bytes,
                    value_bytes,
                    version,
                } => MutationRef::Put {
                    family: families[family as usize],
                    qualifier: take(qualifier_bytes),
                    version,
                    value: take(value_bytes),
                },
                Op::DeleteColumn {
                    family,
                    qualifier_bytes,
                    versions,
                } => MutationRef::Delete {
                    scope: Scope::Column {
                        family: families[family as usize],
                        qualifier: take(qualifier_bytes),
                    },
                    versions,
                },
                Op::DeleteFamily { family, versions } => MutationRef::Delete {
                    scope: Scope::Family {
                        family: families[family as usize],
                    },
                    versions,
                },
                Op::DeleteRow { versions } => MutationRef::Delete {
                    scope: Scope::Row,
                    versions,
                },
            };
            batch.push(mutation).map_err(refuse)?;
        }
        batch.end_row().map_err(refuse)
    }

    /// The readable wire form, for the requests that do not take packed batches.
    pub(crate) fn to_wire(&self) -> Vec<tidemark_proto::v1::Mutation> {
        use tidemark_proto::v1::{self, mutation::Mutation as M};
        let mut rest = &self.data[..];
        let mut take = |len: u32| {
            let (head, tail) = rest.split_at((len as usize).min(rest.len()));
            rest = tail;
            Bytes::copy_from_slice(head)
        };
        let name = |family: u32| self.families[family as usize].to_string();
        let wire = |op: &Op| match *op {
            Op::Put {
                family,
                qualifier_bytes,
                value_bytes,
                version,
            } => M::Put(v1::Put {
                family: name(family),
                qualifier: take(qualifier_bytes),
                version: Some(version),
                value: take(value_bytes),
            }),
            Op::DeleteColumn {
                family,
                qualifier_bytes,
                versions,
            } => M::DeleteFromColumn(v1::DeleteFromColumn {
                family: name(family),
                qualifier: take(qualifier_bytes),
                versions: crate::filter::wire_versions(versions),
            }),
            Op::DeleteFamily { family, versions } => M::DeleteFromFamily(v1::DeleteFromFamily {
                family: name(family),
                versions: crate::filter::wire_versions(versions),
            }),
            Op::DeleteRow { versions } => M::DeleteFromRow(v1::DeleteFromRow {
                versions: crate::filter::wire_versions(versions),
            }),
        };
        let wrap = |mutation| v1::Mutation {
            mutation: Some(mutation),
        };
        self.ops.iter().map(wire).map(wrap).collect()
    }
}

/// The error for a family that even a fresh routing table does not know.
pub(crate) fn family_unknown(table: &str, family: &str) -> ClientError {
    ClientError::new(
        tidemark_base::ErrorKind::InvalidArgument,
        "FAMILY_UNKNOWN",
        format!("table {table} has no family {family}"),
    )
    .object_named(format!("table {table}"))
    .action_is(format!("add it: tidemark table alter {table} --add-family {family}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_base::RowRef;

    #[test]
    fn a_row_is_encoded_in_order_and_a_refused_one_leaves_no_trace() {
        let ids = HashMap::from([("m".to_owned(), FamilyId(7))]);
        let mut batch = BatchBuilder::default();
        let row = RowMutation::new("r")
            .delete_row(VersionRange::ALL)
            .put("m", "a", 5, "x")
            .delete_column("m", "b")
            .put("m", "c", 6, "yz");
        row.encode(&ids, &mut batch).unwrap();
        assert!(matches!(
            RowMutation::new("r").put("n", "a", 5, "x").encode(&ids, &mut batch),
            Err(Unencodable::FamilyUnknown(name)) if name == "n"
        ));
        assert!(matches!(
            RowMutation::new("").put("m", "a", 5, "x").encode(&ids, &mut batch),
            Err(Unencodable::Refused(_))
        ));
        let packed = batch.finish().unwrap();
        let rows: Vec<RowRef<'_>> = packed.rows().collect();
        assert_eq!(rows.len(), 1);
        let RowRef::Mutation { row, mutations } = &rows[0] else {
            panic!("a row mutation");
        };
        assert_eq!(*row, b"r");
        let last = mutations.clone().last();
        let expected = MutationRef::Put {
            family: FamilyId(7),
            qualifier: b"c",
            version: 6,
            value: b"yz",
        };
        assert_eq!(last, Some(expected));
        assert_eq!(mutations.clone().count(), 4);
    }
}
