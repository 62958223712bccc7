//! Aggregates straight from the columns of series records.
//!
//! ```text
//! row by row    a series family without version limits, whose row has no tombstone and no cell record in it:
//!                   time block by time block, columns decoded as numbers, no entry made for a cell
//!               anything else: the one read path (`view`), cell by cell
//! ```
//! Both come to the same, which the conformance suite compares. Every family of a row is read at one moment of its own:
//! a row that needs both ways is read twice.
//!
//! In a plain family a version is visible unless it is expired, and of several facts at one coordinate the greatest stamp
//! wins; so a block whose versions rise strictly needs no look at its stamps.

use super::engine::RocksEngine;
use super::series::SeriesRecords;
use super::source::RocksSource;
use crate::api::EngineError;
use crate::key::{self, Level};
use crate::ops;
use crate::plan::{Column, Plan};
use crate::series::source::{group_prefix, record_start, records_from};
use crate::series::{ByteOrder, DecodeScratch, Facts, Merger, Segment, single_segment};
use crate::source::FactSource;
use crate::view::{RangeTombstones, tied};
use rocksdb::ReadOptions;
use tidemark_base::aggregate::{Aggregates, NumberForm};
use tidemark_base::codec::Malformed;
use tidemark_base::read::{ReadSpec, ValueFilter};
use tidemark_base::{FamilyId, FamilySettings, RowRange, VersionRange};

/// True if a filter chooses by rows, families, qualifiers and versions alone.
fn takes_columns(spec: &ReadSpec) -> bool {
    let filter = &spec.filter;
    let counts = filter.latest.is_some() || filter.cells_per_row.is_some() || spec.rows_limit.is_some();
    !counts && !filter.strip_values && filter.value == ValueFilter::Any
}

/// One pass over the rows of a read.
struct Pass<'a> {
    engine: &'a RocksEngine,
    spec: &'a ReadSpec,
    now_micros: i64,
    plan: Plan,
    cells: RocksSource<'a>,
    records: SeriesRecords<'a>,
    ranges: RangeTombstones,
    out: &'a mut Aggregates,
    row: Vec<u8>,
    /// `esc(row)`.
    prefix: Vec<u8>,
    /// Records of one time block.
    values: Vec<Vec<u8>>,
    merger: Merger,
    scratch: DecodeScratch,
    versions: Vec<i64>,
    chosen: Vec<i64>,
    positions: Vec<u32>,
    numbers: Vec<f64>,
    integers: Vec<i64>,
}

impl RocksEngine {
    /// See the module.
    pub(super) fn aggregate_read(
        &self,
        spec: &ReadSpec,
        now_micros: i64,
        out: &mut Aggregates,
    ) -> Result<(), EngineError> {
        let schema = self.schema.load_full();
        let plan = Plan::new(&spec.filter, schema.as_deref())?;
        let series = plan
            .families
            .iter()
            .any(|family| family.layout.block_micros().is_some());
        if !series || !takes_columns(spec) {
            return ops::aggregate_of(&mut *self.read_uncached(spec, now_micros)?, out);
        }
        let options = || {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options
        };
        let (cells, records, ranges) = self.both_sources(options);
        let mut pass = Pass {
            engine: self,
            spec,
            now_micros,
            plan,
            cells,
            records,
            ranges,
            out,
            row: Vec::new(),
            prefix: Vec::new(),
            values: Vec::new(),
            merger: Merger::new(),
            scratch: DecodeScratch::default(),
            versions: Vec::new(),
            chosen: Vec::new(),
            positions: Vec::new(),
            numbers: Vec::new(),
            integers: Vec::new(),
        };
        match spec.ranges.is_empty() {
            true => pass.range(&RowRange::all()),
            false => spec.ranges.iter().try_for_each(|range| pass.range(range)),
        }
    }
}

impl Pass<'_> {
    fn range(&mut self, range: &RowRange) -> Result<(), EngineError> {
        let start = key::row_prefix(&range.start);
        self.cells.seek(&start);
        self.records.seek(&start);
        let end = range.end.as_deref().map(key::row_prefix);
        while self.enter_row(end.as_deref())? {
            if self.plan.wants_row(&self.row) {
                self.row()?;
            }
            let mut behind = Vec::new();
            key::behind(&self.prefix, &mut behind);
            for source in [&mut self.cells as &mut dyn FactSource, &mut self.records] {
                if source.entry().is_some_and(|(key, _)| key < &behind[..]) {
                    source.seek(&behind);
                }
            }
        }
        Ok(())
    }

    /// Goes to the next row of either source; false at the end.
    fn enter_row(&mut self, end: Option<&[u8]>) -> Result<bool, EngineError> {
        self.cells.status()?;
        self.records.status()?;
        let keys = [self.cells.entry(), self.records.entry()];
        let next = keys.into_iter().flatten().map(|(key, _)| key).min();
        let Some(next) = next.filter(|next| end.is_none_or(|end| *next < end)) else {
            return Ok(false);
        };
        let length = key::escaped_len(next).map_err(|e| self.engine.corruption(e.to_string()))?;
        self.prefix.clear();
        self.prefix.extend_from_slice(&next[..length]);
        key::unescape(&self.prefix, &mut self.row);
        Ok(true)
    }

    fn row(&mut self) -> Result<(), EngineError> {
        let has_cells = self.cells.entry().is_some_and(|(key, _)| key.starts_with(&self.prefix));
        let covered = self.ranges.iter().any(|tombstone| tombstone.covers_row(&self.row));
        let covered = covered || has_cells && self.begins_with_tombstone()?;
        let mut rest = Vec::new();
        for at in 0..self.plan.families.len() {
            let family = self.plan.families[at].clone();
            let plain = !covered && family.layout.block_micros().is_some() && !family.limits_versions();
            if plain && !(has_cells && self.has_cells_of(family.id)) {
                self.group(&family)?;
            } else {
                rest.push(family.id);
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        let mut spec = ReadSpec::row(&self.row);
        spec.filter = self.spec.filter.clone();
        spec.filter.families = Some(rest);
        ops::aggregate_of(&mut *self.engine.read_uncached(&spec, self.now_micros)?, self.out)
    }

    /// True if the row has a tombstone of its own; the cells stand at its first entry.
    fn begins_with_tombstone(&self) -> Result<bool, EngineError> {
        let Some((key, _)) = self.cells.entry() else {
            return Ok(false);
        };
        let tail = key::parse_tail(&key[self.prefix.len()..]);
        let tail = tail.map_err(|e| self.engine.corruption(format!("{e}: {key:02x?}")))?;
        Ok(tail.level == Level::Row)
    }

    /// True if there are tombstones or cell records of that family in the row.
    fn has_cells_of(&mut self, family: FamilyId) -> bool {
        let mut start = Vec::new();
        key::family_start(&mut start, &self.prefix, family);
        self.cells.seek(&start);
        self.cells.entry().is_some_and(|(key, _)| key.starts_with(&start))
    }

    /// The versions of a plain family that can be seen.
    fn wanted_versions(&self, family: &FamilySettings) -> VersionRange {
        let mut wanted = self.plan.versions;
        wanted.from = wanted.from.max(family.expiry_floor.saturating_add(1));
        if let Some(ttl) = family.ttl_micros {
            wanted.from = wanted.from.max(self.now_micros.saturating_sub(ttl).saturating_add(1));
        }
        wanted
    }

    /// What the row has in one plain family, from the newest time block down.
    fn group(&mut self, family: &FamilySettings) -> Result<(), EngineError> {
        let length = family.layout.block_micros().unwrap_or(i64::MAX);
        let wanted = self.wanted_versions(family);
        if wanted.from > wanted.to {
            return Ok(());
        }
        let group = group_prefix(&self.prefix, family.id);
        let from = records_from(&group, wanted.to, length);
        if self.records.entry().is_some_and(|(key, _)| key < &from[..]) {
            self.records.seek(&from);
        }
        loop {
            self.values.clear();
            let mut start = None;
            while let Some((key, value)) = self.records.entry() {
                let Some(tail) = key.strip_prefix(&group[..]) else {
                    break;
                };
                let here = record_start(tail).map_err(|e| self.engine.corruption(format!("{e}: {key:02x?}")))?;
                if *start.get_or_insert(here) != here || here.saturating_add(length - 1) < wanted.from {
                    break;
                }
                self.values.push(value.to_vec());
                self.records.next();
            }
            self.records.status()?;
            if self.values.is_empty() {
                return Ok(());
            }
            self.time_block(family.id, wanted)?;
        }
    }

    fn time_block(&mut self, family: FamilyId, wanted: VersionRange) -> Result<(), EngineError> {
        let values = std::mem::take(&mut self.values);
        let done = match &values[..] {
            [one] => match single_segment(one) {
                Ok(Some(segment)) => self.segment(family, one, &segment, wanted),
                Ok(None) => Ok(false),
                Err(malformed) => Err(self.damaged(family, malformed)),
            },
            _ => Ok(false),
        };
        let result = match done {
            Ok(false) => self.united(family, &values, wanted),
            other => other.map(|_| ()),
        };
        self.values = values;
        result
    }

    fn damaged(&self, family: FamilyId, malformed: Malformed) -> EngineError {
        let row = bytes::Bytes::copy_from_slice(&self.row);
        self.engine
            .corruption(format!("{malformed}: series record of row {row:?}, family {family}"))
    }

    /// Adds a block's only segment column by column; false, and nothing added, where its versions come more than once.
    fn segment(
        &mut self,
        family: FamilyId,
        value: &[u8],
        segment: &Segment<'_>,
        wanted: VersionRange,
    ) -> Result<bool, EngineError> {
        let mut versions = std::mem::take(&mut self.versions);
        let read = segment.versions(&mut versions);
        read.map_err(|e| self.damaged(family, e))?;
        if !versions.is_sorted_by(|a, b| a < b) {
            self.versions = versions;
            return Ok(false);
        }
        for column in segment.columns() {
            if self.plan.qualifiers.judge(column.qualifier()) != Column::Wanted {
                continue;
            }
            let numbers = self.numbers(column);
            if !numbers.map_err(|e| self.damaged(family, e))? {
                // Values of another kind, or dead ones: cell by cell.
                self.united_column(family, &[value], column.qualifier(), wanted)?;
                continue;
            }
            let chosen = if column.is_full() {
                &versions
            } else {
                let read = column.positions(&mut self.positions, &mut self.scratch);
                read.map_err(|e| self.damaged(family, e))?;
                self.chosen.clear();
                self.chosen
                    .extend(self.positions.iter().map(|at| versions[*at as usize]));
                &self.chosen
            };
            let from = chosen.partition_point(|version| *version < wanted.from);
            let to = chosen.partition_point(|version| *version <= wanted.to);
            self.out
                .add_column(
                    &self.row,
                    family,
                    column.qualifier(),
                    &chosen[from..to],
                    &self.numbers[from..to],
                )
                .map_err(ops::refused)?;
        }
        self.versions = versions;
        Ok(true)
    }

    /// A column's values as numbers; false where they are not all of the kind that is asked for.
    fn numbers(&mut self, column: &crate::series::ColumnRef<'_>) -> Result<bool, Malformed> {
        match self.out.spec().form {
            NumberForm::Float => column.floats(ByteOrder::Big, &mut self.numbers, &mut self.scratch),
            NumberForm::Text => column.texts(&mut self.numbers, &mut self.scratch),
            NumberForm::Integer => {
                let read = column.integers(ByteOrder::Big, &mut self.integers, &mut self.scratch)?;
                self.numbers.clear();
                self.numbers.extend(self.integers.iter().map(|n| *n as f64));
                Ok(read)
            }
        }
    }

    /// Adds what several records of a time block come to together.
    fn united(&mut self, family: FamilyId, values: &[Vec<u8>], wanted: VersionRange) -> Result<(), EngineError> {
        let facts = self.merger.union(values.iter().map(Vec::as_slice));
        let facts = facts.map_err(|e| self.damaged(family, e))?;
        for column in 0..facts.columns().len() {
            if self.plan.qualifiers.judge(&facts.columns()[column].qualifier) == Column::Wanted {
                self.winners(family, &facts, column, wanted)?;
            }
        }
        Ok(())
    }

    fn united_column(
        &mut self,
        family: FamilyId,
        values: &[&[u8]],
        qualifier: &[u8],
        wanted: VersionRange,
    ) -> Result<(), EngineError> {
        let mut facts = Facts::new();
        for value in values {
            let added = facts.add_column(value, Some(qualifier), &mut self.scratch);
            added.map_err(|e| self.damaged(family, e))?;
        }
        facts.settle();
        match facts.find(qualifier) {
            Some(column) => self.winners(family, &facts, column, wanted),
            None => Ok(()),
        }
    }

    /// Adds the winner of each version of a column.
    fn winners(
        &mut self,
        family: FamilyId,
        facts: &Facts,
        column: usize,
        wanted: VersionRange,
    ) -> Result<(), EngineError> {
        let column = &facts.columns()[column];
        let tick = |at: usize| facts.ticks()[column.ticks[at] as usize];
        let form = self.out.spec().form;
        self.chosen.clear();
        self.numbers.clear();
        for at in 0..column.ticks.len() {
            let here = tick(at);
            let next = (at + 1 < column.ticks.len()).then(|| tick(at + 1));
            if !wanted.contains(here.version) || next.is_some_and(|next| next.version == here.version && next != here) {
                continue;
            }
            if next == Some(here) {
                let what = tied(&self.row, family, &column.qualifier, here.version, here.stamp);
                return Err(self.engine.corruption(what));
            }
            let slot = column.values[at];
            if slot.dead_digest().is_some() {
                continue;
            }
            let number = slot.with_bytes(facts.arena(), |bytes| form.number(bytes));
            self.chosen.push(here.version);
            self.numbers.push(number.unwrap_or(f64::NAN));
        }
        self.out
            .add_column(&self.row, family, &column.qualifier, &self.chosen, &self.numbers)
            .map_err(ops::refused)
    }
}
