//! What the leader checks and settles before the log: families, versions, range, epoch, normal form (R5).
//!
//! These checks spare the log what can never succeed and give each row its own error. Apply repeats those that a schema
//! change may overtake; the log decides.

use crate::apply::{epoch_fenced, family_unknown};
use crate::descriptor::TabletDescriptor;
use crate::operation::read_modify_write::{RULES_MAX, RmwRule};
use crate::quarantine::family_not_living;
use crate::response::Failures;
use std::time::Duration;
use tidemark_base::normalize::normalize;
use tidemark_base::{Error, ErrorKind, MutationRef, PackedBatch, Result, RowRange, RowRef, TableSchema, limits};
use tidemark_runtime::planted::{Bug, planted};

/// What is known when a request is admitted.
pub(crate) struct Gate<'a> {
    pub(crate) descriptor: &'a TabletDescriptor,
    pub(crate) schema: &'a TableSchema,
    pub(crate) now_micros: i64,
    /// Row-range tombstones that the tablet holds.
    pub(crate) range_tombstones: usize,
}

/// A batch that may be proposed, and the rows that were taken out of it.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// In normal form; `None` if no row is left.
    pub(crate) batch: Option<PackedBatch>,
    /// Index of each remaining row in the client's batch; `None` = all of them.
    pub(crate) kept: Option<Vec<u32>>,
    /// Rows refused, by their index in the client's batch, ascending.
    pub(crate) failures: Failures,
}

impl Gate<'_> {
    /// Refuses writers of another epoch (R20).
    pub(crate) fn check_epoch(&self, epoch: u32) -> Result<()> {
        let now = self.schema.epoch;
        if epoch > now {
            return Err(Error::unavailable(
                "EPOCH_AHEAD",
                format!("the write carries epoch {epoch}, the tablet knows {now} yet"),
                Duration::from_millis(200),
            ));
        }
        if epoch < now {
            return Err(epoch_fenced(epoch, now));
        }
        Ok(())
    }

    /// Checks a batch row by row and brings what may be written into normal form.
    pub(crate) fn admit(&self, batch: &PackedBatch) -> Result<Admitted> {
        let mut ranges = self.range_tombstones;
        let mut failures = Failures::new();
        // What holds for the whole batch is not asked of each mutation again.
        let latest = self.now_micros.saturating_add(self.schema.max_future_micros);
        let mutations_pass = batch.version_max() <= latest
            && batch
                .families()
                .iter()
                .all(|family| self.schema.family(*family).is_some());
        for (index, row) in batch.rows().enumerate() {
            if let Err(error) = self.check_row(&row, &mut ranges, mutations_pass) {
                failures.push((index as u32, error));
            }
        }
        if failures.is_empty() {
            return Ok(Admitted {
                batch: Some(self.normal(batch)?),
                kept: None,
                failures,
            });
        }
        let stays = |index: usize| failures.binary_search_by_key(&(index as u32), |(row, _)| *row).is_err();
        let kept = (0..batch.rows_len()).filter(|i| stays(*i)).map(|i| i as u32).collect();
        let rest = batch.subset(stays);
        Ok(Admitted {
            batch: rest.map(|rest| self.normal(&rest)).transpose()?,
            kept: Some(kept),
            failures,
        })
    }

    /// R5, with server versions filled in.
    fn normal(&self, batch: &PackedBatch) -> Result<PackedBatch> {
        // Planted: what names all its versions is taken as it is.
        if planted(Bug::RowNotNormalised) && !batch.has_server_versions() {
            return Ok(batch.clone());
        }
        normalize(batch, self.now_micros)
    }

    /// Checks the mutation of a conditional write: one row mutation of exactly that row.
    pub(crate) fn admit_row(&self, row: &[u8], batch: &PackedBatch) -> Result<PackedBatch> {
        let mut rows = batch.rows();
        let one = matches!((rows.next(), rows.next()), (Some(RowRef::Mutation { row: key, .. }), None) if key == row);
        if !one {
            return Err(Error::invalid(
                "BATCH_NOT_ONE_ROW",
                "a conditional write mutates exactly the row that it checks",
            ));
        }
        let admitted = self.admit(batch)?;
        match (admitted.batch, admitted.failures.into_iter().next()) {
            (Some(batch), None) => Ok(batch),
            (_, Some((_, error))) => Err(error),
            (None, None) => Err(Error::internal("a row was lost while it was admitted")),
        }
    }

    /// Checks the rules of a read-modify-write.
    pub(crate) fn admit_rules(&self, rules: &[RmwRule]) -> Result<()> {
        if rules.is_empty() || rules.len() > RULES_MAX {
            let text = format!("{} rules; an operation has 1 to {RULES_MAX}", rules.len());
            return Err(Error::invalid("RULES_INVALID", text));
        }
        for rule in rules {
            if self.schema.family(rule.family).is_none() {
                return Err(family_unknown(rule.family));
            }
            if rule.qualifier.len() > limits::QUALIFIER_BYTES_MAX {
                let text = format!("a qualifier of {} bytes", rule.qualifier.len());
                return Err(Error::invalid("QUALIFIER_TOO_LARGE", text)
                    .action(format!("use at most {} bytes", limits::QUALIFIER_BYTES_MAX)));
            }
            if let crate::RmwChange::Append(bytes) = &rule.change
                && bytes.len() > limits::VALUE_BYTES_MAX
            {
                let text = format!("an appended value of {} bytes", bytes.len());
                return Err(Error::invalid("VALUE_TOO_LARGE", text)
                    .action(format!("use at most {} bytes", limits::VALUE_BYTES_MAX)));
            }
        }
        Ok(())
    }

    /// Refuses a row outside this tablet's range.
    pub(crate) fn check_key(&self, row: &[u8]) -> Result<()> {
        if row.is_empty() {
            return Err(Error::invalid("ROW_EMPTY", "a row key has at least one byte"));
        }
        if row.len() > limits::ROW_BYTES_MAX {
            return Err(
                Error::invalid("ROW_KEY_TOO_LARGE", format!("a row key of {} bytes", row.len()))
                    .action(format!("use at most {} bytes", limits::ROW_BYTES_MAX)),
            );
        }
        if self.descriptor.range.contains(row) {
            return Ok(());
        }
        Err(self.elsewhere())
    }

    /// With `mutations_pass` every family and version of the batch is known to be admitted.
    fn check_row(&self, row: &RowRef<'_>, ranges: &mut usize, mutations_pass: bool) -> Result<()> {
        match row {
            RowRef::Mutation { row, mutations } => {
                self.check_key(row)?;
                if mutations_pass {
                    return Ok(());
                }
                let latest = self.now_micros.saturating_add(self.schema.max_future_micros);
                for mutation in mutations.clone() {
                    if let MutationRef::Put { version, .. } = mutation
                        && version > latest
                    {
                        return Err(version_ahead(version, self));
                    }
                }
            }
            RowRef::RangeDelete { start, end, .. } => {
                let range = RowRange {
                    start: start.to_vec().into(),
                    end: end.map(|e| e.to_vec().into()),
                };
                if range.is_empty() {
                    return Err(Error::invalid("RANGE_EMPTY", "an empty range deletes nothing"));
                }
                if range.intersect(&self.descriptor.range) != range {
                    return Err(self.elsewhere());
                }
                *ranges += 1;
                if *ranges > limits::RANGE_TOMBSTONES_MAX {
                    return Err(range_tombstones_full());
                }
            }
        }
        match family_not_living(self.schema, row) {
            Some(family) => Err(family_unknown(family).object(format!("table {}", self.descriptor.table_name))),
            None => Ok(()),
        }
    }

    fn elsewhere(&self) -> Error {
        Error::new(
            ErrorKind::FailedPrecondition,
            "ROW_NOT_IN_TABLET",
            "the row belongs to another tablet",
        )
        .object(self.descriptor.to_string())
        .action("read the table's routing again")
    }
}

/// The error while the tablet holds as many row-range tombstones as it may. The leader decides it, before the log: how many
/// garbage collection has left is not the same on every replica.
pub(crate) fn range_tombstones_full() -> Error {
    Error::new(
        ErrorKind::FailedPrecondition,
        "RANGE_TOMBSTONES_FULL",
        format!(
            "the tablet holds {} row-range deletes, the most it may",
            limits::RANGE_TOMBSTONES_MAX
        ),
    )
    .action("wait for garbage collection, or delete rows one by one")
    .retry_after(Duration::from_secs(30))
}

fn version_ahead(version: i64, gate: &Gate<'_>) -> Error {
    let ahead_ms = version.saturating_sub(gate.now_micros) / 1_000;
    Error::invalid(
        "VERSION_TOO_FAR_AHEAD",
        format!("version {version} is {ahead_ms} ms ahead of the server's clock"),
    )
    .object(format!("table {}", gate.descriptor.table_name))
    .action(format!(
        "versions are microseconds since 1970; at most {} ms ahead is accepted here",
        gate.schema.max_future_micros / 1_000
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_base::{BatchBuilder, FamilyId, FamilySettings, RegionId, TableId, TabletId, VersionRange};

    const NOW: i64 = 1_700_000_000_000_000;

    fn descriptor() -> TabletDescriptor {
        TabletDescriptor {
            tablet: TabletId(2),
            table: TableId(1),
            table_name: "t".to_owned(),
            range: RowRange {
                start: b"b".to_vec().into(),
                end: Some(b"m".to_vec().into()),
            },
        }
    }

    fn schema() -> TableSchema {
        let mut schema = TableSchema::new(RegionId(1));
        schema.families.push(FamilySettings::new("f", 0));
        schema
    }

    fn put(builder: &mut BatchBuilder, row: &[u8], family: FamilyId, version: i64) {
        builder.begin_row(row).unwrap();
        builder.put(family, b"q", version, b"v").unwrap();
        builder.end_row().unwrap();
    }

    #[test]
    fn each_row_gets_its_own_error_and_the_rest_goes_on() {
        let (descriptor, schema) = (descriptor(), schema());
        let gate = Gate {
            descriptor: &descriptor,
            schema: &schema,
            now_micros: NOW,
            range_tombstones: limits::RANGE_TOMBSTONES_MAX,
        };
        let family = schema.families[0].id;
        let mut builder = BatchBuilder::new();
        put(&mut builder, b"c", family, NOW + schema.max_future_micros);
        put(&mut builder, b"d", FamilyId(7), 1);
        put(&mut builder, b"e", family, NOW + schema.max_future_micros + 1);
        put(&mut builder, b"z", family, 1);
        builder
            .push_range_delete(&RowRange::row(b"f"), VersionRange::ALL)
            .unwrap();
        put(&mut builder, b"g", family, tidemark_base::batch::SERVER_VERSION);
        let admitted = gate.admit(&builder.finish().unwrap()).unwrap();
        let reasons: Vec<(u32, &str)> = admitted.failures.iter().map(|(i, e)| (*i, e.reason())).collect();
        assert_eq!(
            reasons,
            [
                (1, "FAMILY_UNKNOWN"),
                (2, "VERSION_TOO_FAR_AHEAD"),
                (3, "ROW_NOT_IN_TABLET"),
                (4, "RANGE_TOMBSTONES_FULL")
            ]
        );
        assert_eq!(admitted.kept, Some(vec![0, 5]));
        let batch = admitted.batch.unwrap();
        assert_eq!(batch.rows_len(), 2);
        assert!(!batch.has_server_versions());
    }

    #[test]
    fn what_parsing_has_seen_of_a_batch_changes_no_verdict() {
        let (descriptor, schema) = (descriptor(), schema());
        let gate = Gate {
            descriptor: &descriptor,
            schema: &schema,
            now_micros: NOW,
            range_tombstones: 0,
        };
        let family = schema.families[0].id;
        let latest = NOW + schema.max_future_micros;
        for (rows, refused) in [
            (
                vec![(&b"c"[..], family, latest), (b"z", family, 1)],
                vec![(1, "ROW_NOT_IN_TABLET")],
            ),
            (
                vec![(b"c", family, latest + 1), (b"d", family, 1)],
                vec![(0, "VERSION_TOO_FAR_AHEAD")],
            ),
            (
                vec![(b"c", family, 1), (b"d", FamilyId(7), 1)],
                vec![(1, "FAMILY_UNKNOWN")],
            ),
        ] {
            let mut builder = BatchBuilder::new();
            rows.iter()
                .for_each(|(row, family, version)| put(&mut builder, row, *family, *version));
            let built = builder.finish().unwrap();
            let parsed = PackedBatch::parse(built.bytes().clone()).unwrap();
            assert!(parsed.is_ascending_puts() && !built.is_ascending_puts());
            for batch in [built, parsed] {
                let admitted = gate.admit(&batch).unwrap();
                let reasons: Vec<(u32, &str)> = admitted.failures.iter().map(|(i, e)| (*i, e.reason())).collect();
                assert_eq!(reasons, refused);
            }
        }
    }

    #[test]
    fn two_values_at_one_coordinate_of_a_row_mutation_become_the_later_one() {
        let (descriptor, schema) = (descriptor(), schema());
        let gate = Gate {
            descriptor: &descriptor,
            schema: &schema,
            now_micros: NOW,
            range_tombstones: 0,
        };
        let mut builder = BatchBuilder::new();
        builder.begin_row(b"c").unwrap();
        for value in [b"first", b"later"] {
            builder.put(schema.families[0].id, b"q", 5, value).unwrap();
        }
        builder.end_row().unwrap();
        let admitted = gate.admit(&builder.finish().unwrap()).unwrap().batch.unwrap();
        let Some(RowRef::Mutation { mutations, .. }) = admitted.rows().next() else {
            panic!("one row went in");
        };
        let values: Vec<&[u8]> = mutations
            .filter_map(|m| match m {
                MutationRef::Put { value, .. } => Some(value),
                MutationRef::Delete { .. } => None,
            })
            .collect();
        assert_eq!(values, [b"later"], "one stamp cannot order two values (R5)");
    }

    #[test]
    fn a_conditional_write_touches_only_its_row() {
        let (descriptor, schema) = (descriptor(), schema());
        let gate = Gate {
            descriptor: &descriptor,
            schema: &schema,
            now_micros: NOW,
            range_tombstones: 0,
        };
        let mut builder = BatchBuilder::new();
        put(&mut builder, b"c", schema.families[0].id, 1);
        let batch = builder.finish().unwrap();
        assert!(gate.admit_row(b"c", &batch).is_ok());
        assert_eq!(gate.admit_row(b"d", &batch).unwrap_err().reason(), "BATCH_NOT_ONE_ROW");
        assert!(gate.check_epoch(0).is_ok());
        assert_eq!(gate.check_epoch(1).unwrap_err().reason(), "EPOCH_AHEAD");
        assert_eq!(gate.admit_rules(&[]).unwrap_err().reason(), "RULES_INVALID");
    }
}
