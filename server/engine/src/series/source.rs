//! Series records shown as the entries that cells would be (see the module `key` of this crate), so that one read path and
//! one judge serve both layouts.
//!
//! ```text
//! records, in key order                                         entries
//! esc(row) | family be32 | 0x02 | !start (8) [| number be32]    a  !v9 !s, !v8 !s, …     each column's cells, from the
//!     -> ticks and blocks of the time block that begins there   b  !v9 !s, …             newest time block down
//! ```
//! A *group* is what one row has in one family. When it is entered, the directories of its blocks give the columns; then each
//! time block is united for one column at a time, or whole while little is held. Fresh ticks have no directory: they are
//! united at once, in the walk that finds their columns. Encoded records are held up to a bound, beyond it they are read
//! again: a row of many years costs time, not memory.

use super::block::is_block;
use super::facts::{Column, Facts, Qualifiers, Tick, digest};
use super::values::DecodeScratch;
use crate::api::EngineError;
use crate::key::{self, DIGEST_BYTES, VALUE_DEAD, VALUE_LIVE, What};
use crate::source::{FactSource, Place};
use std::cmp::Reverse;
use tidemark_base::codec::Malformed;
use tidemark_base::stamp::STAMP_BYTES;
use tidemark_base::{FamilyId, Stamp, VersionRange};

/// Behind the family in a record's key: greater than what a cell or a tombstone has there.
const KIND_SERIES: u8 = 2;
/// Greater than [`KIND_SERIES`]: the first key behind a group.
const KIND_BEHIND: u8 = 3;
/// Behind the family in a column's key.
const KIND_COLUMN: u8 = 1;
const FAMILY_BYTES: usize = 4;
const VERSION_BYTES: usize = 8;

/// What is held of one group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// Encoded records.
    bytes_max: usize,
    /// Decoded cells, about 20 bytes each. One time block more may be held.
    cells_max: usize,
    /// Encoded records that are looked at to enter a group. One that has more is not for this reader: it ends with
    /// [`EngineError::NotInMemory`].
    entered_bytes_max: usize,
}

impl Held {
    /// For readers.
    pub(crate) const READER: Held = Held {
        bytes_max: 8 << 20,
        cells_max: 128 << 10,
        entered_bytes_max: usize::MAX,
    };
    /// For readers on a thread that others wait for.
    pub(crate) const SHORT: Held = Held {
        entered_bytes_max: 256 << 10,
        ..Held::READER
    };
}

/// Which versions of a family a reader can want: time blocks that hold none of them are stepped over unread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) family: FamilyId,
    pub(crate) versions: VersionRange,
    /// Length of the family's time blocks.
    pub(crate) length: i64,
}

impl Window {
    fn is_past(&self, start: i64) -> bool {
        start.saturating_add(self.length - 1) < self.versions.from
    }
}

/// Replaces `out` by the key of the records of the time block that begins at `start`.
pub(super) fn push_record_key(out: &mut Vec<u8>, row: &[u8], family: FamilyId, start: i64) {
    out.clear();
    key::push_escaped(out, row);
    out.extend_from_slice(&family.0.to_be_bytes());
    push_start(out, start);
}

/// Where the time block of that length begins that holds `version`.
pub(crate) fn time_block(version: i64, length: i64) -> i64 {
    version.saturating_sub(version.rem_euclid(length.max(1)))
}

/// Length of `esc(row) | family` at the head of a key.
pub(super) fn group_len(key: &[u8]) -> Result<usize, Malformed> {
    let end = key::escaped_len(key)? + FAMILY_BYTES;
    if key.len() < end {
        return Err(Malformed("a series key ends early"));
    }
    Ok(end)
}

/// What the keys of the records begin with that may hold a cell: `cell_key` is its entry's.
pub(super) fn record_place(cell_key: &[u8], length: i64) -> Result<Vec<u8>, Malformed> {
    let group = group_len(cell_key)?;
    match key::parse_tail(&cell_key[group - FAMILY_BYTES..])?.what {
        What::Cell { version, .. } => {
            let mut place = cell_key[..group].to_vec();
            push_start(&mut place, time_block(version, length));
            Ok(place)
        }
        What::Tombstone { .. } => Err(Malformed("a tombstone is no series record")),
    }
}

/// Replaces `out` by the key of a cell's entry.
pub(super) fn push_entry(out: &mut Vec<u8>, group: &[u8], qualifier: &[u8], tick: Tick, digest: u16) {
    push_column(out, group, qualifier);
    push_coordinate(out, tick, digest);
}

/// Appends what stands behind the column in a cell's key.
fn push_coordinate(out: &mut Vec<u8>, tick: Tick, digest: u16) {
    key::push_version(out, tick.version);
    out.extend_from_slice(&tick.stamp.encode().map(|b| !b));
    out.extend_from_slice(&digest.to_be_bytes());
}

/// What the keys begin with of what a row has in a family.
pub(crate) fn group_prefix(row_prefix: &[u8], family: FamilyId) -> Vec<u8> {
    [row_prefix, &family.0.to_be_bytes()].concat()
}

/// The first key of a group's records that may hold that version or an older one.
pub(crate) fn records_from(group: &[u8], version: i64, length: i64) -> Vec<u8> {
    let mut key = group.to_vec();
    push_start(&mut key, time_block(version, length));
    key
}

/// The bounds of what one row has in one family in series records: `key` is an entry's.
pub(crate) fn group_range(key: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
    let group = &key[..group_len(key)?];
    Ok(([group, &[KIND_SERIES]].concat(), [group, &[KIND_BEHIND]].concat()))
}

/// Which of several records of its time block a record is; none for the first, to which ticks go.
pub(crate) fn record_number(key: &[u8]) -> Option<u32> {
    let tail = key.get(group_len(key).ok()? + 1 + VERSION_BYTES..)?;
    tail.try_into().ok().map(u32::from_be_bytes)
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub(crate) family: FamilyId,
    /// Where its time block begins.
    pub(crate) start: i64,
}

impl RecordPlace {
    /// Of a record's key.
    pub(crate) fn parse(key: &[u8]) -> Result<RecordPlace, Malformed> {
        let (group, tail) = key.split_at(group_len(key)?);
        let family = group.last_chunk::<FAMILY_BYTES>().copied().unwrap_or_default();
        Ok(RecordPlace {
            family: FamilyId(u32::from_be_bytes(family)),
            start: record_start(tail)?,
        })
    }
}

fn push_start(out: &mut Vec<u8>, start: i64) {
    out.push(KIND_SERIES);
    out.extend_from_slice(&(!ordered(start)).to_be_bytes());
}

/// A version as keys order it, upwards.
fn ordered(version: i64) -> u64 {
    version as u64 ^ 1 << 63
}

/// See the module.
pub(crate) struct SeriesSource<B> {
    records: B,
    held: Held,
    /// Of some families; of others everything is wanted.
    windows: Vec<Window>,
    /// `records` stands behind the group.
    behind: bool,
    group: Group,
    open: Open,
    at: Option<Position>,
    key: Vec<u8>,
    /// The column that `key` begins with, and how long that is.
    keyed: Option<(usize, usize)>,
    value: Vec<u8>,
    scratch: DecodeScratch,
    /// Memory of a part that was united, for the next one.
    spare: Facts,
    failed: Option<EngineError>,
}

/// What one row has in one family.
#[derive(Default)]
struct Group {
    /// `esc(row) | family`; empty while there is none.
    prefix: Vec<u8>,
    /// Newest first.
    parts: Vec<Part>,
    /// Sorted.
    qualifiers: Vec<Vec<u8>>,
    cells_held: usize,
}

/// One time block.
struct Part {
    start: i64,
    /// Its records, unless that would be too much.
    held: Option<Vec<Vec<u8>>>,
    /// All of it, if there was room.
    facts: Option<Facts>,
}

impl Group {
    /// After the last record of a part.
    fn close_part(&mut self, qualifiers: &mut Qualifiers) {
        if let Some(facts) = self.parts.last_mut().and_then(|part| part.facts.as_mut()) {
            facts.settle();
            self.cells_held += facts.len();
            qualifiers.add_columns(facts);
        }
    }
}

/// One column of one time block, in the order of entries.
#[derive(Default)]
struct Open {
    place: Option<(usize, usize)>,
    /// The column alone, where the part does not hold everything.
    facts: Option<Facts>,
    column: Option<usize>,
    cells: usize,
    /// The facts are plain: entries are the column from its end.
    plain: bool,
    /// Of facts that are not plain: the index of each entry.
    order: Vec<u32>,
}

impl Open {
    /// Where in the column an entry stands.
    fn index(&self, cell: usize) -> usize {
        match self.plain {
            true => self.cells - 1 - cell,
            false => self.order[cell] as usize,
        }
    }
}

/// Indexes: of the column, of the part, in the order of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    column: usize,
    part: usize,
    cell: usize,
}

impl<B: FactSource> SeriesSource<B> {
    /// Of a store of series records.
    #[cfg(test)]
    pub(crate) fn new(records: B, held: Held) -> SeriesSource<B> {
        SeriesSource::within(records, held, Vec::new())
    }

    /// Of a store of series records, of which not all is wanted.
    pub(crate) fn within(records: B, held: Held, windows: Vec<Window>) -> SeriesSource<B> {
        SeriesSource {
            records,
            held,
            windows,
            behind: false,
            group: Group::default(),
            open: Open::default(),
            at: None,
            key: Vec::new(),
            keyed: None,
            value: Vec::new(),
            scratch: DecodeScratch::default(),
            spare: Facts::new(),
            failed: None,
        }
    }

    /// Loads the group of the record here; false at the end.
    fn load(&mut self) -> Result<bool, Malformed> {
        let group = std::mem::take(&mut self.group);
        if let Some(facts) = group.parts.into_iter().find_map(|part| part.facts) {
            self.spare = facts;
        }
        self.open = Open::default();
        self.keyed = None;
        let Some((key, _)) = self.records.entry() else {
            return Ok(false);
        };
        self.group.prefix.extend_from_slice(&key[..group_len(key)?]);
        let family = RecordPlace::parse(key)?.family;
        let window = self.windows.iter().find(|window| window.family == family).copied();
        if let Some(window) = window {
            let from = records_from(&self.group.prefix, window.versions.to, window.length);
            if *key < from[..] {
                self.records.seek(&from);
            }
        }
        let mut qualifiers = Qualifiers::default();
        let (mut held, mut entered) = (0, 0);
        self.behind = true;
        while let Some((key, value)) = self.records.entry() {
            let Some(tail) = key.strip_prefix(&self.group.prefix[..]) else {
                break;
            };
            let start = record_start(tail)?;
            entered += value.len();
            if entered > self.held.entered_bytes_max {
                let why = "a row has more than this thread may look at".to_owned();
                self.failed = Some(EngineError::NotInMemory(why));
                self.group = Group::default();
                return Ok(false);
            }
            if window.is_some_and(|window| window.is_past(start)) {
                self.behind = false;
                break;
            }
            if self.group.parts.last().is_none_or(|part| part.start != start) {
                self.group.close_part(&mut qualifiers);
                let unite = !is_block(value) && self.group.cells_held < self.held.cells_max;
                self.group.parts.push(Part {
                    start,
                    held: (!unite).then(Vec::new),
                    facts: unite.then(|| {
                        let mut facts = std::mem::take(&mut self.spare);
                        facts.clear();
                        facts
                    }),
                });
            }
            let part = self.group.parts.last_mut().expect("just pushed");
            if let Some(facts) = &mut part.facts {
                facts.add(value, &mut self.scratch)?;
            } else {
                qualifiers.add(value)?;
                held += value.len();
                if held > self.held.bytes_max {
                    part.held = None;
                }
                if let Some(held) = &mut part.held {
                    held.push(value.to_vec());
                }
            }
            self.records.next();
        }
        if self.records_failed() {
            self.group = Group::default();
            return Ok(false);
        }
        self.group.close_part(&mut qualifiers);
        self.group.qualifiers = qualifiers.finish();
        Ok(true)
    }

    /// True, and kept for good, if the records ended with an error and not because there are no more: what was loaded is not all,
    /// and a seek would make the error forgotten.
    fn records_failed(&mut self) -> bool {
        if self.failed.is_none() && self.records.entry().is_none() {
            self.failed = self.records.status().err();
        }
        self.failed.is_some()
    }

    /// Opens a column of a part; returns how many cells it has.
    fn open(&mut self, column: usize, part: usize) -> Result<usize, Malformed> {
        if self.open.place == Some((column, part)) {
            return Ok(self.open.cells);
        }
        self.open.place = None;
        self.open.facts = None;
        if self.group.parts[part].facts.is_none() {
            self.unite(part, column)?;
        }
        let facts = self.group.parts[part].facts.as_ref().or(self.open.facts.as_ref());
        let facts = facts.expect("a part is united before it is looked at");
        self.open.column = facts.find(&self.group.qualifiers[column]);
        self.open.plain = facts.is_plain();
        self.open.cells = self.open.column.map_or(0, |column| facts.columns()[column].ticks.len());
        self.open.order.clear();
        if let Some(column) = self.open.column.filter(|_| !self.open.plain) {
            put_in_order(facts, &facts.columns()[column], &mut self.open.order);
        }
        self.open.place = Some((column, part));
        Ok(self.open.cells)
    }

    /// The open column and the facts that it belongs to.
    fn opened(&self, part: usize) -> Option<(&Facts, &Column)> {
        let facts = self
            .group
            .parts
            .get(part)?
            .facts
            .as_ref()
            .or(self.open.facts.as_ref())?;
        Some((facts, facts.columns().get(self.open.column?)?))
    }

    /// Unites a part: whole, if it fits beside what is held, else one column of it.
    fn unite(&mut self, part: usize, column: usize) -> Result<(), Malformed> {
        let qualifier = &self.group.qualifiers[column][..];
        let mut facts = std::mem::take(&mut self.spare);
        facts.clear();
        match &self.group.parts[part].held {
            Some(held) => {
                let whole = self.group.cells_held < self.held.cells_max;
                for value in held {
                    facts.add_column(value, (!whole).then_some(qualifier), &mut self.scratch)?;
                }
                facts.settle();
                if whole {
                    self.group.cells_held += facts.len();
                    self.group.parts[part].facts = Some(facts);
                    return Ok(());
                }
            }
            None => {
                let mut from = self.group.prefix.clone();
                push_start(&mut from, self.group.parts[part].start);
                self.behind = false;
                self.records.seek(&from);
                while let Some((_, value)) = self.records.entry().filter(|(key, _)| key.starts_with(&from)) {
                    facts.add_column(value, Some(qualifier), &mut self.scratch)?;
                    self.records.next();
                }
                facts.settle();
                // What was united is not all then; no entry is shown any more.
                self.records_failed();
            }
        }
        self.open.facts = Some(facts);
        Ok(())
    }

    /// Stands at that position, or at the first one behind it that exists; goes on to later groups.
    fn settle_at(&mut self, mut place: Position) -> Result<(), Malformed> {
        loop {
            while place.column < self.group.qualifiers.len() {
                while place.part < self.group.parts.len() {
                    if place.cell < self.open(place.column, place.part)? {
                        return self.show(place);
                    }
                    (place.part, place.cell) = (place.part + 1, 0);
                }
                (place.column, place.part, place.cell) = (place.column + 1, 0, 0);
            }
            if !self.next_group()? {
                self.at = None;
                return Ok(());
            }
            place = Position {
                column: 0,
                part: 0,
                cell: 0,
            };
        }
    }

    fn next_group(&mut self) -> Result<bool, Malformed> {
        if self.group.prefix.is_empty() {
            return Ok(false);
        }
        if !self.behind {
            self.group.prefix.push(KIND_BEHIND);
            self.records.seek(&self.group.prefix);
        }
        self.load()
    }

    /// Writes the entry of a position that exists, whose column is open.
    fn show(&mut self, place: Position) -> Result<(), Malformed> {
        let opened = self.group.parts[place.part].facts.as_ref().or(self.open.facts.as_ref());
        let (Some(facts), Some(column)) = (opened, self.open.column) else {
            return Err(Malformed("a column that was open is not"));
        };
        let column = &facts.columns()[column];
        let at = self.open.index(place.cell);
        let tick = facts.ticks()[column.ticks[at] as usize];
        let slot = column.values[at];
        self.value.clear();
        let digest = match slot.dead_digest() {
            Some(digest) => {
                self.value.push(VALUE_DEAD);
                digest
            }
            None => {
                self.value.push(VALUE_LIVE);
                slot.with_bytes(facts.arena(), |bytes| {
                    self.value.extend_from_slice(bytes);
                    digest(bytes)
                })
            }
        };
        match self.keyed {
            Some((of, length)) if of == place.column => self.key.truncate(length),
            _ => {
                push_column(&mut self.key, &self.group.prefix, &column.qualifier);
                self.keyed = Some((place.column, self.key.len()));
            }
        }
        push_coordinate(&mut self.key, tick, digest);
        self.at = Some(place);
        Ok(())
    }

    /// The first entry of the group at or behind `target`.
    fn seek_in_group(&mut self, target: &[u8]) -> Result<(), Malformed> {
        let mut column = Vec::new();
        let prefix = &self.group.prefix;
        // Entries of a column begin with its prefix and the mark of a cell.
        let first = self.group.qualifiers.partition_point(|qualifier| {
            push_column(&mut column, prefix, qualifier);
            column.push(KIND_COLUMN);
            column[..] < *target && !target.starts_with(&column)
        });
        let mut place = Position {
            column: first,
            part: 0,
            cell: 0,
        };
        let Some(qualifier) = self.group.qualifiers.get(first) else {
            return self.settle_at(place);
        };
        push_column(&mut column, prefix, qualifier);
        column.push(KIND_COLUMN);
        let inside = target
            .strip_prefix(&column[..])
            .and_then(|tail| tail.first_chunk::<8>());
        if let Some(version) = inside {
            let version = (!u64::from_be_bytes(*version) ^ 1 << 63) as i64;
            // Time blocks that begin later hold newer versions only.
            place.part = self.group.parts.partition_point(|part| part.start > version);
        }
        self.settle_at(place)?;
        // What is left stands in one column of one time block, or the target names no more than a column.
        while self.at.is_some_and(|at| at.column == first) && self.key[..] < *target {
            self.skip_towards(target)?;
        }
        Ok(())
    }

    /// Forward in the open column to the first entry at or behind `target`, or to the next part.
    fn skip_towards(&mut self, target: &[u8]) -> Result<(), Malformed> {
        let Some(at) = self.at else { return Ok(()) };
        let (mut low, mut high) = (at.cell + 1, self.open.cells);
        while low < high {
            let cell = low + (high - low) / 2;
            self.show(Position { cell, ..at })?;
            if self.key[..] < *target {
                low = cell + 1
            } else {
                high = cell
            }
        }
        self.settle_at(Position { cell: low, ..at })
    }

    /// The group's last entry.
    fn settle_last(&mut self) -> Result<(), Malformed> {
        for column in (0..self.group.qualifiers.len()).rev() {
            for part in (0..self.group.parts.len()).rev() {
                let cells = self.open(column, part)?;
                if let Some(cell) = cells.checked_sub(1) {
                    return self.show(Position { column, part, cell });
                }
            }
        }
        self.at = None;
        Ok(())
    }

    /// Loads the group of the record here, which is its last, and stands at its last entry.
    fn load_last(&mut self) -> Result<(), Malformed> {
        self.at = None;
        // Nothing of a group may be wanted; then it is the one before.
        while let Some((key, _)) = self.records.entry() {
            let prefix = key[..group_len(key)?].to_vec();
            self.records.seek(&prefix);
            self.load()?;
            self.settle_last()?;
            if self.at.is_some() || self.failed.is_some() {
                return Ok(());
            }
            self.records.seek_before(&prefix);
        }
        // The records no longer stand behind the group.
        self.group = Group::default();
        Ok(())
    }

    fn seek_or_fail(&mut self, target: &[u8]) -> Result<(), Malformed> {
        self.at = None;
        // In a group or before its entries, at or behind the target's family.
        let group = key::escaped_len(target)
            .ok()
            .and_then(|row| target.get(..row + FAMILY_BYTES));
        let inside = group.is_some_and(|group| group == self.group.prefix);
        if !inside {
            self.records.seek(group.unwrap_or(target));
            if !self.load()? {
                return Ok(());
            }
        }
        if self.group.prefix[..] >= *target {
            return self.settle_at(Position {
                column: 0,
                part: 0,
                cell: 0,
            });
        }
        self.seek_in_group(target)
    }

    fn note(&mut self, result: Result<(), Malformed>) {
        if let Err(malformed) = result {
            self.at = None;
            let place = self.group.prefix.clone();
            self.failed = Some(
                self.records
                    .corruption(format!("{malformed}: series records at {place:02x?}")),
            );
        }
    }
}

/// Where the time block begins of a record with that key behind its group.
pub(crate) fn record_start(tail: &[u8]) -> Result<i64, Malformed> {
    let wrong = Malformed("a series key has another form");
    let (kind, rest) = tail.split_first().ok_or(wrong)?;
    let (start, number) = rest.split_first_chunk::<VERSION_BYTES>().ok_or(wrong)?;
    if *kind != KIND_SERIES || !matches!(number.len(), 0 | 4) {
        return Err(wrong);
    }
    Ok((!u64::from_be_bytes(*start) ^ 1 << 63) as i64)
}

/// Replaces `out` by a column's prefix.
fn push_column(out: &mut Vec<u8>, group: &[u8], qualifier: &[u8]) {
    out.clear();
    out.extend_from_slice(group);
    out.push(KIND_COLUMN);
    key::push_escaped(out, qualifier);
}

/// The indexes of a column's facts as keys order them: newest version first, greatest stamp first, then by digest.
fn put_in_order(facts: &Facts, column: &Column, order: &mut Vec<u32>) {
    order.extend((0..column.ticks.len() as u32).rev());
    let tick = |at: &u32| facts.ticks()[column.ticks[*at as usize] as usize];
    if order.is_sorted_by(|a, b| tick(a) > tick(b)) {
        return;
    }
    // Only values with one stamp (R5) get here.
    order.sort_by_key(|at| {
        let slot = column.values[*at as usize];
        let digest = slot
            .dead_digest()
            .unwrap_or_else(|| slot.with_bytes(facts.arena(), digest));
        (Reverse(tick(at)), digest)
    });
}

impl<B: FactSource> FactSource for SeriesSource<B> {
    fn seek(&mut self, key: &[u8]) {
        let result = self.seek_or_fail(key);
        self.note(result);
    }

    fn seek_before(&mut self, key: &[u8]) {
        self.records.seek_before(key);
        let result = self.load_last();
        self.note(result);
    }

    fn seek_last(&mut self) {
        self.records.seek_last();
        let result = self.load_last();
        self.note(result);
    }

    fn next(&mut self) {
        if let Some(at) = self.at {
            let result = self.settle_at(Position {
                cell: at.cell + 1,
                ..at
            });
            self.note(result);
        }
    }

    fn run(&mut self) -> usize {
        match self.at {
            Some(at) if self.open.plain && self.failed.is_none() => self.open.cells - at.cell,
            _ => 0,
        }
    }

    #[inline]
    fn run_cell(&self, n: usize, value: &mut Vec<u8>) -> Option<(i64, Stamp)> {
        let at = self.at.filter(|at| at.cell + n < self.open.cells)?;
        let (facts, column) = self.opened(at.part)?;
        let index = self.open.index(at.cell + n);
        let tick = facts.ticks()[column.ticks[index] as usize];
        column.values[index].with_bytes(facts.arena(), |bytes| value.extend_from_slice(bytes));
        Some((tick.version, tick.stamp))
    }

    fn pass_run(&mut self, n: usize) {
        if let Some(at) = self.at {
            let result = self.settle_at(Position {
                cell: at.cell + n,
                ..at
            });
            self.note(result);
        }
    }

    fn pass_column(&mut self) {
        if let Some(at) = self.at {
            let result = self.settle_at(Position {
                column: at.column + 1,
                part: 0,
                cell: 0,
            });
            self.note(result);
        }
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        debug_assert!(self.at.is_none() || self.key.len() > STAMP_BYTES + DIGEST_BYTES);
        self.at
            .filter(|_| self.failed.is_none())
            .map(|_| (&self.key[..], &self.value[..]))
    }

    fn status(&self) -> Result<(), EngineError> {
        match &self.failed {
            Some(failed) => Err(failed.clone()),
            None => self.records.status(),
        }
    }

    fn corruption(&self, what: String) -> EngineError {
        self.records.corruption(what)
    }

    fn place(&self) -> Place {
        Place::SERIES
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
