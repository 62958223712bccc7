//! Aggregates: what is left of the numbers in cells when they are counted, added and compared, by time bucket.
//!
//! ```text
//! cells (row, family, qualifier, version, value)   ->   groups ([row,] family, qualifier, bucket) -> Stats
//! bucket of a version = the greatest multiple of its length that is not above it; without a length there is one, 0
//! ```
//! Groups of two tablets are united by adding their [`Stats`]; so a region may compute them wherever cells are.
//! Sums are of floats: another order of the same cells may differ in the last bits.

use crate::error::{Error, Result};
use crate::ids::FamilyId;
use crate::limits;
use bytes::Bytes;
use std::collections::BTreeMap;

/// How a value is read as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NumberForm {
    /// Eight bytes, big endian: a float as IEEE 754 has it.
    #[default]
    Float,
    /// Eight bytes, big endian: a signed integer, as increments write it. Beyond 2^53 it is rounded.
    Integer,
    /// Text: `-21.5`, `1e3`.
    Text,
}

impl NumberForm {
    /// The number that a value is; `None` if it is none, NaN included.
    pub fn number(self, value: &[u8]) -> Option<f64> {
        let eight = || <[u8; 8]>::try_from(value).ok();
        let number = match self {
            NumberForm::Float => f64::from_be_bytes(eight()?),
            NumberForm::Integer => i64::from_be_bytes(eight()?) as f64,
            NumberForm::Text => std::str::from_utf8(value).ok()?.trim().parse().ok()?,
        };
        (!number.is_nan()).then_some(number)
    }
}

/// What an aggregate asks for, beside the read that it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AggregateSpec {
    /// How values are read.
    pub form: NumberForm,
    /// Length of a bucket in microseconds, at least 1; `None` = one for all time.
    pub bucket_micros: Option<i64>,
    /// A group for each row, instead of one for all.
    pub by_row: bool,
}

impl AggregateSpec {
    /// Where the bucket of a version begins.
    pub fn bucket(&self, version: i64) -> i64 {
        match self.bucket_micros {
            Some(length) => version.saturating_sub(version.rem_euclid(length.max(1))),
            None => 0,
        }
    }
}

/// What is known of one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    /// Cells that are numbers.
    pub count: u64,
    /// Their sum. They are added in no promised order, so its last bits may differ from call to call.
    pub sum: f64,
    /// The least; infinite while there is none.
    pub min: f64,
    /// The greatest; infinite while there is none.
    pub max: f64,
    /// Cells that are no numbers.
    pub others: u64,
}

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            count: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            others: 0,
        }
    }
}

impl Stats {
    /// Adds one number, or something else.
    #[inline]
    pub fn add(&mut self, number: Option<f64>) {
        match number {
            Some(number) => {
                self.count += 1;
                self.sum += number;
                self.min = self.min.min(number);
                self.max = self.max.max(number);
            }
            None => self.others += 1,
        }
    }

    /// Adds numbers; NaN counts as no number.
    pub fn add_all(&mut self, numbers: &[f64]) {
        // Four of each, so that additions need not wait for each other.
        let mut lanes = [Stats::default(); 4];
        let chunks = numbers.chunks_exact(4);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, number) in lanes.iter_mut().zip(chunk) {
                let nan = number.is_nan();
                lane.others += u64::from(nan);
                lane.sum += if nan { 0.0 } else { *number };
                // Both ignore NaN.
                lane.min = lane.min.min(*number);
                lane.max = lane.max.max(*number);
            }
        }
        for lane in &mut lanes {
            lane.count = (numbers.len() / 4) as u64 - lane.others;
        }
        lanes.iter().for_each(|lane| self.merge(lane));
        rest.iter()
            .for_each(|number| self.add((!number.is_nan()).then_some(*number)));
    }

    /// Adds what is known of another part of the group.
    pub fn merge(&mut self, other: &Stats) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.others += other.others;
    }

    /// The mean; `None` without numbers.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// One column's groups, by bucket.
type Buckets = BTreeMap<i64, Stats>;

/// Of what a group is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// Row; empty unless grouped by row.
    pub row: Bytes,
    /// Family.
    pub family: FamilyId,
    /// Qualifier.
    pub qualifier: Bytes,
}

/// Groups while they are gathered, at most [`limits::AGGREGATE_GROUPS_MAX`].
#[derive(Debug, Default)]
pub struct Aggregates {
    spec: AggregateSpec,
    columns: BTreeMap<GroupKey, Buckets>,
    groups: usize,
    open: Option<Open>,
}

/// The group that was added to last: what comes next is usually of the same. It stands in `columns`, without these.
#[derive(Debug)]
struct Open {
    key: GroupKey,
    bucket: i64,
    stats: Stats,
}

impl Aggregates {
    /// No group yet.
    pub fn new(spec: AggregateSpec) -> Aggregates {
        Aggregates {
            spec,
            ..Aggregates::default()
        }
    }

    /// What is asked for.
    pub fn spec(&self) -> &AggregateSpec {
        &self.spec
    }

    /// Adds a cell.
    pub fn add(&mut self, row: &[u8], family: FamilyId, qualifier: &[u8], version: i64, value: &[u8]) -> Result<()> {
        let number = self.spec.form.number(value);
        let bucket = self.spec.bucket(version);
        self.group(row, family, qualifier, bucket)?.add(number);
        Ok(())
    }

    /// Adds numbers of one column, in any order of versions; equally many of both. NaN counts as no number.
    pub fn add_column(
        &mut self,
        row: &[u8],
        family: FamilyId,
        qualifier: &[u8],
        versions: &[i64],
        numbers: &[f64],
    ) -> Result<()> {
        debug_assert_eq!(versions.len(), numbers.len());
        let mut from = 0;
        while from < versions.len() {
            let bucket = self.spec.bucket(versions[from]);
            let run = match self.spec.bucket_micros {
                None => versions.len(),
                Some(length) => {
                    let end = bucket.saturating_add(length.max(1));
                    let inside = |version: &i64| (bucket..end).contains(version);
                    let beyond = versions[from..].iter().position(|version| !inside(version));
                    beyond.map_or(versions.len(), |beyond| from + beyond)
                }
            };
            self.group(row, family, qualifier, bucket)?.add_all(&numbers[from..run]);
            from = run;
        }
        Ok(())
    }

    /// Adds what is known of a part of one group. Fails when there would be too many groups.
    pub fn add_stats(
        &mut self,
        row: &[u8],
        family: FamilyId,
        qualifier: &[u8],
        bucket: i64,
        stats: &Stats,
    ) -> Result<()> {
        self.group(row, family, qualifier, bucket)?.merge(stats);
        Ok(())
    }

    /// Opens a group.
    fn group(&mut self, row: &[u8], family: FamilyId, qualifier: &[u8], bucket: i64) -> Result<&mut Stats> {
        let row = if self.spec.by_row { row } else { &[] };
        let same = |open: &Open| {
            open.bucket == bucket && open.key.family == family && open.key.qualifier == qualifier && open.key.row == row
        };
        if !self.open.as_ref().is_some_and(same) {
            self.close();
            let key = GroupKey {
                row: Bytes::copy_from_slice(row),
                family,
                qualifier: Bytes::copy_from_slice(qualifier),
            };
            let known = self
                .columns
                .get(&key)
                .is_some_and(|buckets| buckets.contains_key(&bucket));
            if !known && self.groups == limits::AGGREGATE_GROUPS_MAX {
                return Err(too_many_groups());
            }
            self.groups += usize::from(!known);
            self.columns.entry(key.clone()).or_default().entry(bucket).or_default();
            let stats = Stats::default();
            self.open = Some(Open { key, bucket, stats });
        }
        match &mut self.open {
            Some(open) => Ok(&mut open.stats),
            None => Err(Error::internal("a group that was opened is not open")),
        }
    }

    fn close(&mut self) {
        if let Some(Open { key, bucket, stats }) = self.open.take() {
            self.columns
                .entry(key)
                .or_default()
                .entry(bucket)
                .or_default()
                .merge(&stats);
        }
    }

    /// The groups in order of row, family, qualifier, bucket.
    pub fn groups(&mut self) -> impl Iterator<Item = (&GroupKey, i64, &Stats)> {
        self.close();
        let of = |(key, buckets)| std::iter::zip(std::iter::repeat(key), buckets);
        let all = self.columns.iter().flat_map(of);
        all.map(|(key, (bucket, stats)): (&GroupKey, (&i64, &Stats))| (key, *bucket, stats))
    }
}

fn too_many_groups() -> Error {
    let most = limits::AGGREGATE_GROUPS_MAX;
    Error::invalid(
        "GROUPS_TOO_MANY",
        format!("the answer would have more than {most} groups"),
    )
    .action("take longer buckets, a shorter time range or fewer rows, or leave the grouping by row out")
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: FamilyId = FamilyId(7);

    fn spec(bucket_micros: Option<i64>, by_row: bool) -> AggregateSpec {
        AggregateSpec {
            form: NumberForm::Float,
            bucket_micros,
            by_row,
        }
    }

    fn listed(all: &mut Aggregates) -> Vec<(String, i64, u64, f64)> {
        let name = |key: &GroupKey| String::from_utf8([&key.row[..], b"/", &key.qualifier[..]].concat()).unwrap();
        all.groups()
            .map(|(key, at, stats)| (name(key), at, stats.count, stats.sum))
            .collect()
    }

    #[test]
    fn values_are_numbers_in_one_form() {
        assert_eq!(NumberForm::Float.number(&1.5f64.to_be_bytes()), Some(1.5));
        assert_eq!(NumberForm::Integer.number(&(-3i64).to_be_bytes()), Some(-3.0));
        assert_eq!(NumberForm::Text.number(b" -2.5e1 "), Some(-25.0));
        for none in [NumberForm::Float.number(b"1.5"), NumberForm::Text.number(b"on")] {
            assert_eq!(none, None);
        }
        assert_eq!(NumberForm::Float.number(&f64::NAN.to_be_bytes()), None);
    }

    #[test]
    fn columns_and_cells_come_to_the_same() {
        let versions: Vec<i64> = (-7..30).collect();
        let numbers: Vec<f64> = versions
            .iter()
            .map(|v| if v % 5 == 0 { f64::NAN } else { *v as f64 / 2.0 })
            .collect();
        for bucket in [None, Some(1), Some(10), Some(1_000)] {
            let (mut cells, mut columns) = (
                Aggregates::new(spec(bucket, false)),
                Aggregates::new(spec(bucket, false)),
            );
            columns.add_column(b"r", F, b"q", &versions, &numbers).unwrap();
            for (version, number) in versions.iter().zip(&numbers) {
                cells.add(b"r", F, b"q", *version, &number.to_be_bytes()).unwrap();
            }
            let (cells, columns): (Vec<_>, Vec<_>) = (cells.groups().collect(), columns.groups().collect());
            assert_eq!(cells, columns, "{bucket:?}");
        }
    }

    #[test]
    fn groups_are_by_column_and_bucket_and_row_if_asked() {
        for (by_row, expected) in [
            (false, vec![("/a", 0, 2, 3.0), ("/a", 10, 1, 4.0), ("/b", -10, 1, 8.0)]),
            (
                true,
                vec![
                    ("r/a", 0, 1, 1.0),
                    ("s/a", 0, 1, 2.0),
                    ("s/a", 10, 1, 4.0),
                    ("s/b", -10, 1, 8.0),
                ],
            ),
        ] {
            let mut all = Aggregates::new(spec(Some(10), by_row));
            for (row, qualifier, version, number) in [
                ("r", "a", 1, 1f64),
                ("s", "a", 9, 2.0),
                ("s", "a", 10, 4.0),
                ("s", "b", -1, 8.0),
            ] {
                let (row, qualifier) = (row.as_bytes(), qualifier.as_bytes());
                all.add(row, F, qualifier, version, &number.to_be_bytes()).unwrap();
            }
            let expected: Vec<_> = expected
                .iter()
                .map(|(n, b, c, s)| ((*n).to_owned(), *b, *c, *s))
                .collect();
            assert_eq!(listed(&mut all), expected);
        }
    }

    #[test]
    fn groups_are_bounded() {
        let mut all = Aggregates::new(spec(Some(1), false));
        for version in 0..limits::AGGREGATE_GROUPS_MAX as i64 {
            all.add(b"r", F, b"q", version, b"").unwrap();
        }
        all.add(b"r", F, b"q", 0, b"").unwrap();
        let refused = all.add(b"r", F, b"q", -1, b"").unwrap_err();
        assert_eq!(refused.reason(), "GROUPS_TOO_MANY");
    }
}
