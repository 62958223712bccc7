//! The read path: facts in key order go in, visible cells come out, as if garbage collection had already run (O15).
//! One code for both engines.
//!
//! ```text
//! next_row     by range, forward or backward; row regex and sample; row tombstones and row ranges -> row cover
//!   enter_family   only families of the schema and the filter; family tombstones -> family cover
//!     enter_column     qualifier filter, by seek where it is narrow; column tombstones -> column cover
//!       coordinate         all facts of one (row, family, qualifier, version): the first is the winner; the others
//!                          only matter for version limits; two with one stamp are corruption (R5)
//!         -> rank (R11) -> dead (R4) -> expired (R10) -> version range -> latest N -> value -> cells per row -> strip
//!       run                the same for cells that the source knows to stand alone, without their keys
//! ```
//! The source always stands behind the coordinate that was read last, so the current cell is a copy.

use crate::api::{CellCursor, EngineError};
use crate::cover::Cover;
use crate::key::{self, Level, QUALIFIER_AT, RangeTombstone, Tail, VALUE_LIVE, What};
use crate::plan::{Column, Plan, Values};
use crate::source::{FactSource, Patience, skip_to};
use std::collections::BTreeSet;
use std::sync::Arc;
use tidemark_base::read::ReadSpec;
use tidemark_base::schema::{Eras, VersionRank};
use tidemark_base::stamp::STAMP_BYTES;
use tidemark_base::{CellRef, FamilyId, FamilySettings, RowRange, Stamp, TableSchema};

/// Row-range tombstones, shared with readers.
pub(crate) type RangeTombstones = Arc<BTreeSet<RangeTombstone>>;

/// A cursor over visible cells.
pub(crate) struct View<S> {
    source: S,
    plan: Plan,
    range_tombstones: RangeTombstones,
    now_micros: i64,
    /// In the order in which they are read; the one at `range` is being read.
    ranges: Vec<RowRange>,
    range: usize,
    reverse: bool,
    rows_left: u64,
    phase: Phase,
    row: RowState,
    column: ColumnState,
    cell: CurrentCell,
    run: Run,
    visited: u64,
    patience: Patience,
    scratch: Vec<u8>,
}

/// Cells of the current column that need no look at their keys; see [`FactSource::run`].
#[derive(Default)]
struct Run {
    /// How many; 0 while there is no run.
    cells: usize,
    /// How many were taken.
    taken: usize,
    /// Bytes of the first entry's key, for what is visited.
    key_bytes: usize,
}

enum Phase {
    /// Position at the start of the range.
    Start,
    /// Leave the current row.
    NextRow,
    InRow,
    Done,
}

#[derive(Default)]
struct RowState {
    prefix: Vec<u8>,
    row: Vec<u8>,
    cover: Cover,
    cells_returned: u32,
    /// See [`View::row_is_plain`].
    plain: bool,
    /// Index into the plan's families, once one was entered.
    family: Option<usize>,
    family_cover: Cover,
}

#[derive(Default)]
struct ColumnState {
    /// The escaped qualifier; empty before the first column of a family.
    escaped: Vec<u8>,
    qualifier: Vec<u8>,
    cover: Cover,
    rank: VersionRank,
    latest: u32,
    /// Nothing more of this column is wanted.
    done: bool,
}

#[derive(Default)]
struct CurrentCell {
    version: i64,
    stamp: Stamp,
    value: Vec<u8>,
    row_start: bool,
    /// The key of the coordinate being read, up to its version.
    coordinate: Vec<u8>,
}

/// What a step inside a row found.
enum Step {
    Cell,
    Continue,
    RowEnd,
}

impl<S: FactSource> View<S> {
    /// A cursor before the first cell. The spec is normalised.
    pub(crate) fn new(
        source: S,
        spec: &ReadSpec,
        schema: Option<&TableSchema>,
        range_tombstones: RangeTombstones,
        now_micros: i64,
    ) -> Result<View<S>, EngineError> {
        let plan = Plan::new(&spec.filter, schema)?;
        let mut ranges = spec.ranges.clone();
        if ranges.is_empty() {
            ranges.push(RowRange::all());
        }
        if spec.reverse {
            ranges.reverse();
        }
        let rows_left = spec.rows_limit.unwrap_or(u64::MAX);
        let idle = plan.wants_nothing() || rows_left == 0;
        Ok(View {
            source,
            plan,
            range_tombstones,
            now_micros,
            ranges,
            range: 0,
            reverse: spec.reverse,
            rows_left,
            phase: if idle { Phase::Done } else { Phase::Start },
            row: RowState::default(),
            column: ColumnState::default(),
            cell: CurrentCell::default(),
            run: Run::default(),
            visited: 0,
            patience: Patience::default(),
            scratch: Vec::new(),
        })
    }

    /// True if of the row that was entered last nothing was seen but living cells of families whose version limits were never
    /// raised: then which version is the newest depends on puts and expiry alone.
    pub(crate) fn row_is_plain(&self) -> bool {
        self.row.plain
    }

    /// Moves to the next row that may hold something; false when there is none.
    fn next_row(&mut self) -> Result<bool, EngineError> {
        match self.phase {
            Phase::Start => self.enter_range(),
            _ => self.leave_row(),
        }
        // Nothing further in this direction means nothing in later ranges either.
        while self.load_row_key()? {
            let range = &self.ranges[self.range];
            let row = &self.row.row[..];
            let before = row < &range.start[..];
            let behind = range.end.as_ref().is_some_and(|end| row >= &end[..]);
            let (not_yet, passed) = if self.reverse {
                (behind, before)
            } else {
                (before, behind)
            };
            if passed {
                self.range += 1;
                if self.range == self.ranges.len() {
                    return Ok(false);
                }
            } else if not_yet {
                self.enter_range();
            } else if self.plan.wants_row(&self.row.row) {
                self.begin_row();
                return Ok(true);
            } else {
                self.leave_row();
            }
        }
        Ok(false)
    }

    /// Positions at the start of the current range, without stepping back over what was read.
    fn enter_range(&mut self) {
        let range = &self.ranges[self.range];
        if self.reverse {
            match &range.end {
                Some(end) => self.source.seek_before(&key::row_prefix(end)),
                None => self.source.seek_last(),
            }
        } else if matches!(self.phase, Phase::Start) {
            self.source.seek(&key::row_prefix(&range.start));
        } else {
            skip_to(
                &mut self.source,
                &key::row_prefix(&range.start),
                &mut self.visited,
                &mut self.patience,
            );
        }
        self.phase = Phase::NextRow;
    }

    fn leave_row(&mut self) {
        if self.reverse {
            self.source.seek_before(&self.row.prefix);
        } else {
            key::behind(&self.row.prefix, &mut self.scratch);
            skip_to(&mut self.source, &self.scratch, &mut self.visited, &mut self.patience);
        }
    }

    /// Reads the row of the entry here; false at the end.
    fn load_row_key(&mut self) -> Result<bool, EngineError> {
        let Some((key, value)) = self.source.entry() else {
            return self.source.status().map(|()| false);
        };
        self.visited += (key.len() + value.len()) as u64;
        let length = key::escaped_len(key).map_err(|e| self.source.corruption(format!("{e}: {key:02x?}")))?;
        self.row.prefix.clear();
        self.row.prefix.extend_from_slice(&key[..length]);
        key::unescape(&self.row.prefix, &mut self.row.row);
        Ok(true)
    }

    fn begin_row(&mut self) {
        if self.reverse {
            self.source.seek(&self.row.prefix);
        }
        self.row.cover.clear();
        self.row.plain = true;
        for tombstone in self.range_tombstones.iter().filter(|t| t.covers_row(&self.row.row)) {
            self.row.plain = false;
            self.row.cover.add(tombstone.versions, tombstone.stamp);
        }
        self.row.cells_returned = 0;
        self.row.family = None;
        self.phase = Phase::InRow;
    }

    /// Looks at the entry here, which may end the row.
    fn step(&mut self) -> Result<Step, EngineError> {
        if self.run.cells > 0 {
            return Ok(self.take());
        }
        if self.column.done {
            self.skip_column();
        }
        let Some((key, value)) = self.source.entry() else {
            return self.source.status().map(|()| Step::RowEnd);
        };
        if !key.starts_with(&self.row.prefix) {
            return Ok(Step::RowEnd);
        }
        self.visited += (key.len() + value.len()) as u64;
        let tail_at = self.row.prefix.len();
        let tail = key::parse_tail(&key[tail_at..]).map_err(|e| self.source.corruption(format!("{e}: {key:02x?}")))?;
        if tail.level != Level::Row && !self.is_current_family(tail.family) {
            return Ok(self.enter_family(tail.family));
        }
        if tail.level == Level::Column
            && key[tail_at + QUALIFIER_AT..tail_at + tail.qualifier_end] != self.column.escaped
        {
            return Ok(self.enter_column(tail));
        }
        match tail.what {
            What::Tombstone { versions, stamp } => {
                self.row.plain = false;
                let cover = match tail.level {
                    Level::Row => &mut self.row.cover,
                    Level::Family => &mut self.row.family_cover,
                    Level::Column => &mut self.column.cover,
                };
                cover.add(versions, stamp);
                self.source.next();
                Ok(Step::Continue)
            }
            What::Cell { version, stamp } => self.coordinate(version, stamp),
        }
    }

    fn is_current_family(&self, family: FamilyId) -> bool {
        self.row.family.is_some_and(|at| self.plan.families[at].id == family)
    }

    /// At the first entry of another family: enters it, or skips to the next one that is wanted.
    fn enter_family(&mut self, family: FamilyId) -> Step {
        let families = &self.plan.families;
        match families.binary_search_by_key(&family, |f| f.id) {
            Ok(at) => {
                self.row.family = Some(at);
                self.row.family_cover.clear();
                self.column.escaped.clear();
                self.column.done = false;
                Step::Continue
            }
            Err(at) => match families.get(at) {
                Some(next) => {
                    key::family_start(&mut self.scratch, &self.row.prefix, next.id);
                    skip_to(&mut self.source, &self.scratch, &mut self.visited, &mut self.patience);
                    Step::Continue
                }
                None => Step::RowEnd,
            },
        }
    }

    /// At the first entry of another column of the current family: enters it, or skips to the next one that is wanted.
    fn enter_column(&mut self, tail: Tail) -> Step {
        let Some((key, _)) = self.source.entry() else {
            return Step::RowEnd;
        };
        let tail_at = self.row.prefix.len();
        self.column.escaped.clear();
        self.column
            .escaped
            .extend_from_slice(&key[tail_at + QUALIFIER_AT..tail_at + tail.qualifier_end]);
        key::unescape(&self.column.escaped, &mut self.column.qualifier);
        match self.plan.qualifiers.judge(&self.column.qualifier) {
            Column::Wanted => {
                self.column.cover.clear();
                self.column.rank = VersionRank::new();
                self.column.latest = 0;
                return Step::Continue;
            }
            Column::Next => self.column.done = true,
            Column::SkipTo(qualifier) => {
                key::column_start(&mut self.scratch, &self.row.prefix, tail.family, qualifier);
                skip_to(&mut self.source, &self.scratch, &mut self.visited, &mut self.patience);
            }
            Column::Done => match self.plan.families.iter().find(|f| f.id > tail.family) {
                Some(next) => {
                    key::family_start(&mut self.scratch, &self.row.prefix, next.id);
                    skip_to(&mut self.source, &self.scratch, &mut self.visited, &mut self.patience);
                }
                None => return Step::RowEnd,
            },
        }
        Step::Continue
    }

    /// Skips what is left of the column.
    fn skip_column(&mut self) {
        self.column.done = false;
        if let Some(family) = self.row.family {
            let family = self.plan.families[family].id;
            key::column_start(&mut self.scratch, &self.row.prefix, family, &self.column.qualifier);
            let column = std::mem::take(&mut self.scratch);
            key::behind(&column, &mut self.scratch);
            skip_to(&mut self.source, &self.scratch, &mut self.visited, &mut self.patience);
        }
    }

    /// At the winner of a coordinate: reads all its facts and decides whether the cell is returned.
    fn coordinate(&mut self, version: i64, stamp: Stamp) -> Result<Step, EngineError> {
        let family = &self.plan.families[self.row.family.expect("a family was entered before its cells")];
        let limited = family.limits_versions();
        if version > self.plan.versions.to && !limited {
            self.skip_to_version();
            return Ok(Step::Continue);
        }
        // Versions fall from here on, and so it goes for the rest of the column.
        if version < self.plan.versions.from || family.expired(version, self.now_micros) {
            self.column.done = true;
            return Ok(Step::Continue);
        }
        let cells = if limited { 0 } else { self.source.run() };
        let (key, value) = self.source.entry().expect("the caller has just read this entry");
        if cells > 0 {
            self.run = Run {
                cells,
                taken: 0,
                key_bytes: key.len(),
            };
            return Ok(Step::Continue);
        }
        let live = value.first() == Some(&VALUE_LIVE);
        self.row.plain &= live && family.past_limits.is_empty();
        let dead = !live || killed(&self.row, &self.column, version, stamp, u64::MAX);
        let copied = !dead && version <= self.plan.versions.to && self.needs_value();
        self.cell.value.clear();
        if copied {
            self.cell.value.extend_from_slice(&value[1..]);
        }
        self.cell.coordinate.clear();
        self.cell
            .coordinate
            .extend_from_slice(&key[..key.len() - STAMP_BYTES - key::DIGEST_BYTES]);
        let eras = self.pass_coordinate(version, stamp)?;
        let family = &self.plan.families[self.row.family.expect("still in it")];
        if limited && self.column.rank.count(family, eras) {
            // Without eras, everything further down is hidden as well.
            self.column.done = family.past_limits.is_empty();
            return Ok(Step::Continue);
        }
        if dead || version > self.plan.versions.to {
            return Ok(Step::Continue);
        }
        self.column.latest += 1;
        self.column.done = self.plan.latest.is_some_and(|n| self.column.latest >= n);
        if !self.plan.values.wants(&self.cell.value) {
            return Ok(Step::Continue);
        }
        self.cell.version = version;
        self.cell.stamp = stamp;
        Ok(Step::Cell)
    }

    /// The next cell of the run that is returned; at its end, or where no more of the column is wanted, the source goes on
    /// behind it. Without version limits every cell is judged by itself.
    fn take(&mut self) -> Step {
        let Some(family) = self.row.family.map(|at| &self.plan.families[at]) else {
            return Step::RowEnd;
        };
        while !self.column.done {
            self.cell.value.clear();
            let Some((version, stamp)) = self.source.run_cell(self.run.taken, &mut self.cell.value) else {
                self.source.pass_run(self.run.taken);
                self.run = Run::default();
                return Step::Continue;
            };
            if version < self.plan.versions.from || family.expired(version, self.now_micros) {
                self.column.done = true;
                break;
            }
            self.run.taken += 1;
            self.visited += (self.run.key_bytes + self.cell.value.len()) as u64;
            if killed(&self.row, &self.column, version, stamp, u64::MAX) {
                continue;
            }
            self.column.latest += 1;
            self.column.done = self.plan.latest.is_some_and(|n| self.column.latest >= n);
            if self.plan.values.wants(&self.cell.value) {
                self.cell.version = version;
                self.cell.stamp = stamp;
                return Step::Cell;
            }
        }
        self.source.pass_column();
        self.column.done = false;
        self.run = Run::default();
        Step::Continue
    }

    fn needs_value(&self) -> bool {
        !self.plan.strip_values || !matches!(self.plan.values, Values::Any)
    }

    fn skip_to_version(&mut self) {
        if let Some(family) = self.row.family {
            let family = self.plan.families[family].id;
            key::column_start(&mut self.scratch, &self.row.prefix, family, &self.column.qualifier);
            key::push_version(&mut self.scratch, self.plan.versions.to);
            skip_to(&mut self.source, &self.scratch, &mut self.visited, &mut self.patience);
        }
    }

    /// Moves behind all facts of the coordinate. Returns the eras of those that count.
    fn pass_coordinate(&mut self, version: i64, winner: Stamp) -> Result<Eras, EngineError> {
        let family = &self.plan.families[self.row.family.expect("a family was entered before its cells")];
        let mut eras = Eras::default();
        let mut stamp = winner;
        loop {
            if let Some(era) = counted_era(family, stamp, |hlc_max| {
                killed(&self.row, &self.column, version, stamp, hlc_max)
            }) {
                eras.insert(era);
            }
            self.source.next();
            let Some((key, value)) = self.source.entry() else {
                return self.source.status().map(|()| eras);
            };
            if !key.starts_with(&self.cell.coordinate) {
                return Ok(eras);
            }
            self.visited += (key.len() + value.len()) as u64;
            let next = stamp_of(key).ok_or_else(|| self.source.corruption("a cell's key ends early".to_owned()))?;
            if next == stamp {
                return Err(self.source.corruption(tied(
                    &self.row.row,
                    family.id,
                    &self.column.qualifier,
                    version,
                    stamp,
                )));
            }
            stamp = next;
        }
    }
}

/// True if a tombstone seen so far, with `stamp.hlc <= hlc_max`, kills a cell of the current column.
fn killed(row: &RowState, column: &ColumnState, version: i64, stamp: Stamp, hlc_max: u64) -> bool {
    [&row.cover, &row.family_cover, &column.cover]
        .iter()
        .any(|cover| cover.kills(version, stamp, hlc_max))
}

/// The era in which a fact counts for version limits. In an era without a limit, facts that were killed before it ended
/// count nowhere: they could be forgotten (see [`VersionRank`]). `killed_by(hlc_max)` asks for such a tombstone.
pub(crate) fn counted_era(family: &FamilySettings, stamp: Stamp, killed_by: impl Fn(u64) -> bool) -> Option<usize> {
    if family.past_limits.is_empty() {
        return Some(0);
    }
    let era = family.era(stamp);
    (family.era_limit(era).is_some() || !killed_by(family.era_until(era))).then_some(era)
}

/// The stamp in a cell's key.
pub(crate) fn stamp_of(key: &[u8]) -> Option<Stamp> {
    let end = key.len().checked_sub(key::DIGEST_BYTES)?;
    let bytes: &[u8; STAMP_BYTES] = key.get(end.checked_sub(STAMP_BYTES)?..end)?.try_into().ok()?;
    Some(Stamp::decode(&bytes.map(|b| !b)))
}

/// The message of R5's alarm.
pub(crate) fn tied(row: &[u8], family: FamilyId, qualifier: &[u8], version: i64, stamp: Stamp) -> String {
    format!(
        "two values with one stamp {stamp:?} at row {:?}, family {family}, qualifier {:?}, version {version}",
        bytes::Bytes::copy_from_slice(row),
        bytes::Bytes::copy_from_slice(qualifier)
    )
}

impl<S: FactSource> CellCursor for View<S> {
    fn advance(&mut self) -> Result<bool, EngineError> {
        loop {
            match self.phase {
                Phase::Done => return Ok(false),
                Phase::Start | Phase::NextRow => {
                    if !self.next_row()? {
                        self.phase = Phase::Done;
                    }
                }
                Phase::InRow => match self.step()? {
                    Step::Continue => {}
                    Step::Cell => {
                        self.cell.row_start = self.row.cells_returned == 0;
                        self.row.cells_returned += 1;
                        if self.plan.cells_per_row.is_some_and(|n| self.row.cells_returned >= n) {
                            self.end_row();
                        }
                        return Ok(true);
                    }
                    Step::RowEnd => self.end_row(),
                },
            }
        }
    }

    fn cell(&self) -> CellRef<'_> {
        CellRef {
            row: &self.row.row,
            family: self.row.family.map_or(FamilyId(0), |at| self.plan.families[at].id),
            qualifier: &self.column.qualifier,
            version: self.cell.version,
            stamp: self.cell.stamp,
            value: if self.plan.strip_values { &[] } else { &self.cell.value },
        }
    }

    fn is_row_start(&self) -> bool {
        self.cell.row_start
    }

    fn visited_bytes(&self) -> u64 {
        self.visited
    }
}

impl<S: FactSource> View<S> {
    fn end_row(&mut self) {
        self.column.done = false;
        self.run = Run::default();
        self.phase = Phase::NextRow;
        if self.row.cells_returned > 0 {
            self.rows_left -= 1;
            if self.rows_left == 0 {
                self.phase = Phase::Done;
            }
        }
    }
}
