//! A set of cell facts of one row and family, in columns over a table of ticks. What blocks are merged in, and what a
//! reader gets where it needs more than one column's numbers.
//!
//! ```text
//! add      ticks and columns of each source, appended as they come
//! settle   ticks sorted, each once (version, then stamp); columns sorted by qualifier, cells by tick; the same fact once
//! ```
//! Two facts are the same if coordinate, stamp and value are. A dead marker is the same as the value whose digest it
//! carries, and stands for it. Two different values with one coordinate and one stamp (R5) are both kept: their tick comes
//! twice in the table, and every reader sees it.
//!
//! A settled set is a function of its facts alone, so that merging in any order and grouping gives the same bytes.

use super::block::{self, BLOCK};
use super::segment::{ColumnRef, Segment};
use super::slot::{Arena, Slot};
use super::tick::{TICK, TickRef};
use super::unite::{for_each_value, values_estimate};
use super::values::DecodeScratch;
use std::cmp::Ordering;
use std::collections::HashMap;
use tidemark_base::Stamp;
use tidemark_base::codec::Malformed;
use xxhash_rust::xxh3::xxh3_64;

/// One row of the table that columns refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick {
    /// Version in microseconds.
    pub version: i64,
    /// Stamp.
    pub stamp: Stamp,
}

/// The facts of one column.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// Qualifier.
    pub qualifier: Vec<u8>,
    /// For each fact the index of its tick; ascending once settled.
    pub ticks: Vec<u32>,
    /// For each fact its value.
    pub values: Vec<Slot>,
}

/// See the module's outline.
#[derive(Debug, Default)]
pub struct Facts {
    ticks: Vec<Tick>,
    columns: Vec<Column>,
    index: HashMap<Vec<u8>, u32>,
    arena: Arena,
    /// About so many more facts each column will have.
    expected: usize,
    /// Columns of an earlier use, empty, with the memory that they had.
    spare: Vec<Column>,
    /// Some fact is a dead marker.
    dead: bool,
    /// See [`Facts::is_plain`].
    plain: bool,
}

/// A set of more facts than this, or of more bytes of long values, gives its memory back when it is cleared.
const FACTS_KEPT_MAX: usize = 32 << 10;
const ARENA_KEPT_BYTES_MAX: usize = 1 << 20;
/// Room that is made for joined values before they are looked at.
const EXPECTED_MAX: usize = 512;
/// So many columns keep theirs.
const SPARE_MAX: usize = 64;

/// The qualifiers of some stored values, each once.
#[derive(Debug, Default)]
pub(crate) struct Qualifiers {
    list: Vec<Vec<u8>>,
    index: HashMap<Vec<u8>, usize>,
}

impl Qualifiers {
    /// Adds those that a stored value holds.
    pub(crate) fn add(&mut self, value: &[u8]) -> Result<(), Malformed> {
        for_each_value(value, |value| match value.first() {
            Some(&TICK) => {
                let mut next = 0;
                TickRef::parse(value)?.for_each(|qualifier, _| next = self.note(qualifier, next))
            }
            Some(&BLOCK) => block::for_each_segment(value, |segment| {
                let mut next = 0;
                for column in segment.columns() {
                    next = self.note(column.qualifier(), next);
                }
                Ok(())
            }),
            _ => Err(Malformed("neither a tick nor a block")),
        })
    }

    /// Adds those of a set.
    pub(crate) fn add_columns(&mut self, facts: &Facts) {
        let mut next = 0;
        for column in &facts.columns {
            next = self.note(&column.qualifier, next);
        }
    }

    /// Ticks and blocks name the same columns in the same order, nearly always: so it is looked for at `hint` first. Returns
    /// the place behind it.
    fn note(&mut self, qualifier: &[u8], hint: usize) -> usize {
        if self.list.get(hint).is_some_and(|known| known == qualifier) {
            return hint + 1;
        }
        if let Some(at) = self.index.get(qualifier) {
            return at + 1;
        }
        self.index.insert(qualifier.to_vec(), self.list.len());
        self.list.push(qualifier.to_vec());
        self.list.len()
    }

    /// All of them, sorted.
    pub(crate) fn finish(mut self) -> Vec<Vec<u8>> {
        self.list.sort_unstable();
        self.list
    }
}

/// What becomes of a fact; see [`Facts::judge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Keep,
    /// It becomes a dead marker.
    Strip,
    /// It is forgotten.
    Drop,
}

/// The digest that a dead marker keeps of its value: that of a cell's key.
pub fn digest(value: &[u8]) -> u16 {
    xxh3_64(value) as u16
}

impl Facts {
    /// An empty set.
    pub fn new() -> Facts {
        Facts::default()
    }

    /// Empties the set. It keeps the memory of a set of usual size, for the next one: blocks are merged one after the other,
    /// and growing each column anew was a seventh of a flush.
    pub(super) fn clear(&mut self) {
        if self.len() > FACTS_KEPT_MAX || self.arena.capacity() > ARENA_KEPT_BYTES_MAX {
            *self = Facts::default();
            return;
        }
        self.ticks.clear();
        self.index.clear();
        self.arena.clear();
        (self.dead, self.plain) = (false, false);
        let room = SPARE_MAX.saturating_sub(self.spare.len());
        for mut column in self.columns.drain(..).take(room) {
            column.qualifier.clear();
            column.ticks.clear();
            column.values.clear();
            self.spare.push(column);
        }
    }

    /// The ticks; see [`Facts::settle`].
    pub fn ticks(&self) -> &[Tick] {
        &self.ticks
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Where the columns' long values lie.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// True for a settled set in which each coordinate has one fact, and none of them is dead. False if that is not known.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Number of facts.
    pub fn len(&self) -> usize {
        self.columns.iter().map(|c| c.ticks.len()).sum()
    }

    /// True without a fact.
    pub fn is_empty(&self) -> bool {
        self.columns.iter().all(|c| c.ticks.is_empty())
    }

    /// Adds one fact; facts of one tick that follow each other share its row in the table.
    pub fn push(&mut self, qualifier: &[u8], tick: Tick, value: &[u8]) {
        let slot = self.arena.slot(value);
        let at = self.tick(tick);
        let column = self.column(qualifier, 0);
        self.columns[column].ticks.push(at);
        self.columns[column].values.push(slot);
    }

    fn tick(&mut self, tick: Tick) -> u32 {
        if self.ticks.last() != Some(&tick) {
            self.ticks.push(tick);
        }
        self.ticks.len() as u32 - 1
    }

    /// The column of that qualifier, looked for at `hint` first.
    fn column(&mut self, qualifier: &[u8], hint: usize) -> usize {
        if self.columns.get(hint).is_some_and(|c| c.qualifier == qualifier) {
            return hint;
        }
        if let Some(at) = self.index.get(qualifier) {
            return *at as usize;
        }
        let at = self.columns.len();
        self.index.insert(qualifier.to_vec(), at as u32);
        let mut column = self.spare.pop().unwrap_or_default();
        column.ticks.reserve(self.expected);
        column.values.reserve(self.expected);
        column.qualifier.extend_from_slice(qualifier);
        self.columns.push(column);
        at
    }

    /// Adds what a stored value holds: a tick or a block. After an error the set is of no use.
    pub fn add(&mut self, value: &[u8], scratch: &mut DecodeScratch) -> Result<(), Malformed> {
        self.add_column(value, None, scratch)
    }

    /// As [`Facts::add`], of one column alone if one is named.
    pub fn add_column(
        &mut self,
        value: &[u8],
        only: Option<&[u8]>,
        scratch: &mut DecodeScratch,
    ) -> Result<(), Malformed> {
        self.expected = values_estimate(value).min(EXPECTED_MAX);
        self.ticks.reserve(self.expected);
        for_each_value(value, |value| match value.first() {
            Some(&TICK) => self.add_tick(TickRef::parse(value)?, only),
            Some(&BLOCK) => block::for_each_segment(value, |segment| self.add_segment(&segment, only, scratch)),
            _ => Err(Malformed("neither a tick nor a block")),
        })
    }

    /// The index of a settled set's column.
    pub fn find(&self, qualifier: &[u8]) -> Option<usize> {
        self.columns
            .binary_search_by(|column| column.qualifier[..].cmp(qualifier))
            .ok()
    }

    fn add_tick(&mut self, tick: TickRef<'_>, only: Option<&[u8]>) -> Result<(), Malformed> {
        // Not shared with an equal tick before it: that may be another source's, with the same facts.
        self.ticks.push(Tick {
            version: tick.version,
            stamp: tick.stamp,
        });
        let at = self.ticks.len() as u32 - 1;
        let mut next = 0;
        tick.for_each(|qualifier, value| {
            if only.is_some_and(|only| only != qualifier) {
                return;
            }
            let slot = self.arena.slot(value);
            let column = self.column(qualifier, next);
            next = column + 1;
            self.columns[column].ticks.push(at);
            self.columns[column].values.push(slot);
        })
    }

    fn add_segment(
        &mut self,
        segment: &Segment<'_>,
        only: Option<&[u8]>,
        scratch: &mut DecodeScratch,
    ) -> Result<(), Malformed> {
        let wanted = |column: &&ColumnRef<'_>| only.is_none_or(|only| only == column.qualifier());
        if !segment.columns().iter().any(|column| wanted(&column)) {
            return Ok(());
        }
        let base = self.ticks.len() as u32;
        segment.ticks(&mut self.ticks, scratch)?;
        let mut next = 0;
        for column in segment.columns().iter().filter(wanted) {
            let at = self.column(column.qualifier(), next);
            next = at + 1;
            self.dead |= column.has_dead();
            let Column { ticks, values, .. } = &mut self.columns[at];
            column.decode(base, ticks, values, &mut self.arena, scratch)?;
        }
        Ok(())
    }

    /// Brings the set into its one form; see the module's outline.
    pub fn settle(&mut self) {
        let map = self.settle_ticks();
        let arena = &self.arena;
        let mut tied = false;
        for column in &mut self.columns {
            if let Some(map) = &map {
                column.ticks.iter_mut().for_each(|tick| *tick = map[*tick as usize]);
            }
            if !column.ticks.is_sorted_by(|a, b| a < b) {
                tied |= settle_column(column, arena);
            }
        }
        self.columns.retain(|column| !column.ticks.is_empty());
        if !self.columns.is_sorted_by(|a, b| a.qualifier < b.qualifier) {
            self.columns.sort_by(|a, b| a.qualifier.cmp(&b.qualifier));
            self.index.clear();
        }
        if tied {
            self.spread_ties();
        }
        // A tied version stands twice in the table.
        self.plain = !self.dead && self.ticks.is_sorted_by(|a, b| a.version < b.version);
    }

    /// Sorts the ticks and makes them unique; where that moves some, returns where each went.
    fn settle_ticks(&mut self) -> Option<Vec<u32>> {
        if self.ticks.is_sorted_by(|a, b| a < b) {
            return None;
        }
        let mut order: Vec<u32> = (0..self.ticks.len() as u32).collect();
        order.sort_by_key(|at| self.ticks[*at as usize]);
        let mut map = vec![0; order.len()];
        let mut settled: Vec<Tick> = Vec::with_capacity(order.len());
        for at in order {
            let tick = self.ticks[at as usize];
            if settled.last() != Some(&tick) {
                settled.push(tick);
            }
            map[at as usize] = settled.len() as u32 - 1;
        }
        self.ticks = settled;
        Some(map)
    }

    /// Gives a tick at which some column has several values one row of the table for each.
    fn spread_ties(&mut self) {
        let mut rows = vec![1u32; self.ticks.len()];
        for column in &self.columns {
            for run in column.ticks.chunk_by(|a, b| a == b) {
                let rows = &mut rows[run[0] as usize];
                *rows = (*rows).max(run.len() as u32);
            }
        }
        let mut starts = Vec::with_capacity(rows.len());
        let mut ticks = Vec::with_capacity(rows.len());
        for (tick, rows) in self.ticks.iter().zip(&rows) {
            starts.push(ticks.len() as u32);
            ticks.extend(std::iter::repeat_n(*tick, *rows as usize));
        }
        self.ticks = ticks;
        for column in &mut self.columns {
            let (mut last, mut run) = (None, 0);
            for tick in &mut column.ticks {
                run = if last == Some(*tick) { run + 1 } else { 0 };
                last = Some(*tick);
                *tick = starts[*tick as usize] + run;
            }
        }
    }

    /// Asks for every fact of the settled set what becomes of it: columns in order, of each the newest version first, of
    /// a version the greatest stamp first. Returns whether something changed.
    pub fn judge(&mut self, mut fate: impl FnMut(&[u8], Tick, Slot, &Arena) -> Fate) -> bool {
        let mut changed = false;
        for column in &mut self.columns {
            let mut kept = 0;
            let Column {
                qualifier,
                ticks,
                values,
            } = column;
            // From the back, so that the judge sees the newest first; what stays gathers at the end.
            let n = ticks.len();
            for at in (0..n).rev() {
                let (tick, slot) = (ticks[at], values[at]);
                let slot = match fate(qualifier, self.ticks[tick as usize], slot, &self.arena) {
                    Fate::Keep => slot,
                    Fate::Drop => {
                        changed = true;
                        continue;
                    }
                    Fate::Strip => {
                        changed |= slot.dead_digest().is_none();
                        self.dead = true;
                        let digest = slot
                            .dead_digest()
                            .unwrap_or_else(|| slot.with_bytes(&self.arena, digest));
                        Slot::dead(digest)
                    }
                };
                kept += 1;
                ticks[n - kept] = tick;
                values[n - kept] = slot;
            }
            ticks.drain(..n - kept);
            values.drain(..n - kept);
        }
        if changed {
            self.forget_empty_ticks();
            self.settle();
        }
        changed
    }

    fn forget_empty_ticks(&mut self) {
        let mut used = vec![false; self.ticks.len()];
        for column in &self.columns {
            column.ticks.iter().for_each(|tick| used[*tick as usize] = true);
        }
        if used.iter().all(|used| *used) {
            return;
        }
        let mut map = vec![0; used.len()];
        let mut left = Vec::new();
        for (at, tick) in self.ticks.iter().enumerate() {
            map[at] = left.len() as u32;
            if used[at] {
                left.push(*tick);
            }
        }
        self.ticks = left;
        for column in &mut self.columns {
            column.ticks.iter_mut().for_each(|tick| *tick = map[*tick as usize]);
        }
    }
}

/// Sorts a column and makes its facts unique; true if it has several values at one tick.
fn settle_column(column: &mut Column, arena: &Arena) -> bool {
    let mut facts: Vec<(u32, Slot)> = column.ticks.drain(..).zip(column.values.drain(..)).collect();
    facts.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.compare(b.1, arena)));
    facts.dedup_by(|b, a| a.0 == b.0 && a.1.compare(b.1, arena) == Ordering::Equal);
    let mut tied = false;
    for run in facts.chunk_by(|a, b| a.0 == b.0) {
        // Dead markers come first, so all of them are seen before the values that they stand for.
        let dead = run.iter().filter_map(|(_, slot)| slot.dead_digest());
        let stands_for =
            |slot: Slot| slot.dead_digest().is_none() && dead.clone().any(|d| slot.with_bytes(arena, digest) == d);
        let before = column.ticks.len();
        for (tick, slot) in run {
            if run.len() == 1 || !stands_for(*slot) {
                column.ticks.push(*tick);
                column.values.push(*slot);
            }
        }
        tied |= column.ticks.len() > before + 1;
    }
    tied
}
