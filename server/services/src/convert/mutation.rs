//! Readable mutations into the packed form, at the edge: from here on a batch is bytes that nobody encodes again.

use super::{at_most, family_unknown, row_key, row_range, versions};
use tidemark_base::batch::SERVER_VERSION;
use tidemark_base::{
    BatchBuilder, Error, FamilyId, PackedBatch, Result, RowRange, Scope, TableSchema, VersionRange, limits,
};
use tidemark_proto::v1;
use tidemark_tablet::{RmwChange, RmwRule};

/// A readable row, checked as far as its shape goes: what routes it, and how large it may become.
#[derive(Debug)]
pub enum Encoded<'a> {
    /// Mutations of one row.
    Row {
        /// Row key.
        row: &'a [u8],
        /// They, not yet checked.
        mutations: &'a [v1::Mutation],
        /// An upper bound of the packed size in bytes.
        bytes_max: usize,
    },
    /// A delete of a row range.
    Range {
        /// The rows.
        range: RowRange,
        /// Their versions.
        versions: VersionRange,
    },
}

impl<'a> Encoded<'a> {
    /// Looks at the row's shape: exactly one of row and range.
    pub fn of(row: &'a v1::RowMutation) -> Result<Encoded<'a>> {
        if let Some(delete) = &row.delete_range {
            if !row.row.is_empty() || !row.mutations.is_empty() {
                return Err(Error::invalid(
                    "ROW_INVALID",
                    "a row mutation has either a row with mutations or a range to delete, not both",
                ));
            }
            let range = row_range(delete.range.as_ref().unwrap_or(&v1::RowRange::default()))?;
            if range.is_empty() {
                return Err(Error::invalid("RANGE_EMPTY", "an empty range deletes nothing"));
            }
            return Ok(Encoded::Range {
                range,
                versions: versions(delete.versions.as_ref())?,
            });
        }
        row_key(&row.row)?;
        Ok(Encoded::Row {
            row: &row.row,
            mutations: &row.mutations,
            bytes_max: packed_bytes_max(row),
        })
    }
}

/// Encodes the mutations of one row into the builder. On an error the builder is as it was before.
pub fn encode_row(
    builder: &mut BatchBuilder,
    row: &[u8],
    mutations: &[v1::Mutation],
    schema: &TableSchema,
    table: &str,
) -> Result<()> {
    // Before the builder sees them: an unknown name must not leave a family in its dictionary.
    for name in mutations.iter().filter_map(family_of) {
        if schema.family_named(name).is_none() {
            return Err(family_unknown(schema, table, name));
        }
    }
    builder.begin_row(row)?;
    for mutation in mutations {
        push(builder, mutation, schema, table)?;
    }
    builder.end_row()
}

/// The mutations of one row as a batch of their own; `None` if there are none.
pub fn mutations(row: &[u8], list: &[v1::Mutation], schema: &TableSchema, table: &str) -> Result<Option<PackedBatch>> {
    if list.is_empty() {
        return Ok(None);
    }
    let mut builder = BatchBuilder::new();
    encode_row(&mut builder, row, list, schema, table)?;
    Ok(builder.finish())
}

/// One rule of a read-modify-write.
pub fn rmw_rule(rule: &v1::ReadModifyWriteRule, schema: &TableSchema, table: &str) -> Result<RmwRule> {
    use v1::read_modify_write_rule::Rule;
    at_most(
        "QUALIFIER_TOO_LARGE",
        "qualifier",
        rule.qualifier.len(),
        limits::QUALIFIER_BYTES_MAX,
    )?;
    let change = match &rule.rule {
        Some(Rule::Append(bytes)) => {
            at_most("VALUE_TOO_LARGE", "value", bytes.len(), limits::VALUE_BYTES_MAX)?;
            RmwChange::Append(bytes.clone())
        }
        Some(Rule::Increment(by)) => RmwChange::Increment(*by),
        None => return Err(Error::invalid("RULE_INVALID", "a rule says either append or increment")),
    };
    Ok(RmwRule {
        family: family_id(schema, table, &rule.family)?,
        qualifier: rule.qualifier.clone(),
        change,
    })
}

fn family_id(schema: &TableSchema, table: &str, name: &str) -> Result<FamilyId> {
    let family = schema.family_named(name);
    Ok(family.ok_or_else(|| family_unknown(schema, table, name))?.id)
}

fn family_of(mutation: &v1::Mutation) -> Option<&str> {
    use v1::mutation::Mutation;
    match mutation.mutation.as_ref()? {
        Mutation::Put(put) => Some(&put.family),
        Mutation::DeleteFromColumn(delete) => Some(&delete.family),
        Mutation::DeleteFromFamily(delete) => Some(&delete.family),
        Mutation::DeleteFromRow(_) => None,
    }
}

fn push(builder: &mut BatchBuilder, mutation: &v1::Mutation, schema: &TableSchema, table: &str) -> Result<()> {
    use v1::mutation::Mutation;
    let id = |name: &str| family_id(schema, table, name);
    match &mutation.mutation {
        None => Err(Error::invalid("MUTATION_INVALID", "a mutation says what it does")),
        Some(Mutation::Put(put)) => {
            let version = put.version.unwrap_or(SERVER_VERSION);
            builder.put(id(&put.family)?, &put.qualifier, version, &put.value)
        }
        Some(Mutation::DeleteFromColumn(delete)) => {
            let scope = Scope::Column {
                family: id(&delete.family)?,
                qualifier: &delete.qualifier,
            };
            builder.delete(scope, versions(delete.versions.as_ref())?)
        }
        Some(Mutation::DeleteFromFamily(delete)) => {
            let scope = Scope::Family {
                family: id(&delete.family)?,
            };
            builder.delete(scope, versions(delete.versions.as_ref())?)
        }
        Some(Mutation::DeleteFromRow(delete)) => builder.delete(Scope::Row, versions(delete.versions.as_ref())?),
    }
}

/// Lengths of the parts, and 40 bytes for each mutation's code, family, lengths and versions.
fn packed_bytes_max(row: &v1::RowMutation) -> usize {
    use v1::mutation::Mutation;
    let each = row.mutations.iter().map(|mutation| match &mutation.mutation {
        Some(Mutation::Put(put)) => put.qualifier.len() + put.value.len(),
        Some(Mutation::DeleteFromColumn(delete)) => delete.qualifier.len(),
        _ => 0,
    });
    each.map(|bytes| bytes + 40).sum::<usize>() + row.row.len() + 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_base::{FamilySettings, MutationRef, RegionId, RowRef};
    use v1::mutation::Mutation;

    fn schema() -> TableSchema {
        TableSchema {
            families: vec![FamilySettings::new("m", 0)],
            ..TableSchema::new(RegionId(1))
        }
    }

    fn put(family: &str, version: Option<i64>) -> v1::Mutation {
        v1::Mutation {
            mutation: Some(Mutation::Put(v1::Put {
                family: family.into(),
                qualifier: "q".into(),
                version,
                value: "v".into(),
            })),
        }
    }

    fn delete_row() -> v1::Mutation {
        v1::Mutation {
            mutation: Some(Mutation::DeleteFromRow(v1::DeleteFromRow {
                versions: Some(v1::VersionRange {
                    from: Some(3),
                    to: None,
                }),
            })),
        }
    }

    #[test]
    fn mutations_are_packed_in_order() {
        let list = [put("m", Some(7)), delete_row(), put("m", None)];
        let batch = mutations(b"r", &list, &schema(), "t").unwrap().unwrap();
        let RowRef::Mutation { row, mutations } = batch.rows().next().unwrap() else {
            panic!("a row mutation")
        };
        let family = schema().families[0].id;
        let put = |version| MutationRef::Put {
            family,
            qualifier: b"q",
            version,
            value: b"v",
        };
        let delete = MutationRef::Delete {
            scope: Scope::Row,
            versions: VersionRange { from: 3, to: i64::MAX },
        };
        assert_eq!(row, b"r");
        assert_eq!(mutations.collect::<Vec<_>>(), [put(7), delete, put(SERVER_VERSION)]);
    }

    #[test]
    fn a_bad_row_leaves_the_builder_as_it_was() {
        let mut builder = BatchBuilder::new();
        encode_row(&mut builder, b"a", &[put("m", None)], &schema(), "t").unwrap();
        let error = encode_row(&mut builder, b"b", &[put("m", None), put("x", None)], &schema(), "t").unwrap_err();
        assert_eq!(error.reason(), "FAMILY_UNKNOWN");
        assert_eq!(
            encode_row(&mut builder, b"b", &[], &schema(), "t")
                .unwrap_err()
                .reason(),
            "ROW_WITHOUT_MUTATIONS"
        );
        assert!(encode_row(&mut builder, b"b", &[v1::Mutation::default()], &schema(), "t").is_err());
        assert!(encode_row(&mut builder, b"b", &[put("m", Some(-2))], &schema(), "t").is_err());
        assert_eq!(builder.finish().unwrap().rows_len(), 1);
    }

    #[test]
    fn shapes() {
        let empty = v1::RowMutation::default();
        assert_eq!(Encoded::of(&empty).unwrap_err().reason(), "ROW_EMPTY");
        let both = v1::RowMutation {
            row: "r".into(),
            mutations: vec![],
            delete_range: Some(v1::RangeDelete::default()),
        };
        assert_eq!(Encoded::of(&both).unwrap_err().reason(), "ROW_INVALID");
        let whole = v1::RowMutation {
            delete_range: Some(v1::RangeDelete::default()),
            ..v1::RowMutation::default()
        };
        assert!(matches!(Encoded::of(&whole).unwrap(), Encoded::Range { range, .. } if range == RowRange::all()));
    }

    #[test]
    fn the_size_bound_holds() {
        let list = vec![put("m", Some(i64::MAX)), delete_row(), put("m", None)];
        let row = v1::RowMutation {
            row: "key".into(),
            mutations: list.clone(),
            delete_range: None,
        };
        let batch = mutations(b"key", &list, &schema(), "t").unwrap().unwrap();
        assert!(packed_bytes_max(&row) >= batch.bytes().len() - 16);
    }
}
