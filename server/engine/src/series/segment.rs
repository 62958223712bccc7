//! A segment: cells of one row and family in columns, with one table of their versions and stamps.
//!
//! ```text
//! segment := ticks varint | columns varint | table length varint | table | entry{columns} | data{columns}
//! table   := versions ints | ms form u8 | ms ints | counts ints | epochs runs | regions runs        of all ticks
//! runs    := n varint | (value varint | [times varint, of all but the last])*
//! entry   := qualifier slice | shape u8 | [cells varint, unless presence 0] | length varint         of its data
//! shape   := presence (2 bits) | dead << 2 | coding << 3
//! data    := [presence 1: ticks ints of cells | presence 2: a bit for each tick]
//!            | [dead: n varint | positions ints | digest u16 each] | values of the live cells
//! ```
//! A stamp's clock is taken apart into milliseconds and count. Milliseconds are written as they are (form 0) or as their
//! distance from the tick's version (form 1): readings that arrive as they are made have their jitter in both.
//!
//! A stored segment's ticks and columns are settled (see `facts`), and so few that what decoding takes is bounded
//! (see `limits`). Entries stand together, so that one column is found without a look at the others' data.

use super::bits::mask;
use super::facts::{Column, Tick};
use super::limits::{FACTS_MAX, QUALIFIER_BYTES_MAX, TICKS_MAX};
use super::slot::{Arena, Slot};
use super::values::{self, Coding, DecodeScratch};
use super::{fixed::ByteOrder, ints};
use std::ops::Range;
use tidemark_base::codec::{Malformed, Reader, put_slice, put_varint};
use tidemark_base::{RegionId, Stamp};

const PRESENT_ALL: u8 = 0;
const PRESENT_LIST: u8 = 1;
const PRESENT_BITS: u8 = 2;
const DEAD: u8 = 4;
const CODING_SHIFT: u32 = 3;

/// Reused buffers of encoding.
#[derive(Default)]
pub(super) struct Scratch {
    numbers: Vec<i64>,
    live: Vec<Slot>,
    entries: Vec<u8>,
    data: Vec<u8>,
    candidate: Vec<u8>,
    values: values::Scratch,
}

/// Appends a segment of those ticks and of the columns' cells at them; columns without one are left out.
pub(super) fn encode<'a>(
    out: &mut Vec<u8>,
    ticks: &[Tick],
    within: Range<u32>,
    columns: impl Iterator<Item = &'a Column>,
    arena: &Arena,
    scratch: &mut Scratch,
) {
    scratch.entries.clear();
    scratch.data.clear();
    let mut count = 0;
    for column in columns {
        let from = column.ticks.partition_point(|tick| *tick < within.start);
        let to = column.ticks.partition_point(|tick| *tick < within.end);
        if from < to {
            let cells = (&column.ticks[from..to], &column.values[from..to]);
            encode_column(&column.qualifier, cells, within.clone(), arena, scratch);
            count += 1;
        }
    }
    put_varint(out, ticks.len() as u64);
    put_varint(out, count);
    let table = &mut scratch.candidate;
    table.clear();
    encode_table(table, ticks, &mut scratch.numbers);
    put_slice(out, table);
    out.extend_from_slice(&scratch.entries);
    out.extend_from_slice(&scratch.data);
}

fn encode_table(out: &mut Vec<u8>, ticks: &[Tick], numbers: &mut Vec<i64>) {
    let fill = |numbers: &mut Vec<i64>, number: &dyn Fn(&Tick) -> i64| {
        numbers.clear();
        numbers.extend(ticks.iter().map(number));
    };
    fill(numbers, &|tick| tick.version);
    ints::encode(out, numbers);
    fill(numbers, &distance_ms);
    let distance = ints::bits_estimate(numbers);
    fill(numbers, &|tick| tick.stamp.ms() as i64);
    let from_version = distance < ints::bits_estimate(numbers);
    out.push(u8::from(from_version));
    if from_version {
        fill(numbers, &distance_ms);
    }
    ints::encode(out, numbers);
    fill(numbers, &|tick| (tick.stamp.hlc & mask(16)) as i64);
    ints::encode(out, numbers);
    encode_runs(out, ticks.iter().map(|tick| tick.stamp.epoch));
    encode_runs(out, ticks.iter().map(|tick| u32::from(tick.stamp.region.0)));
}

fn distance_ms(tick: &Tick) -> i64 {
    (tick.stamp.ms() as i64).wrapping_sub(tick.version.div_euclid(1_000))
}

fn encode_runs(out: &mut Vec<u8>, values: impl Iterator<Item = u32> + Clone) {
    let mut runs: Vec<(u32, u64)> = Vec::new();
    for value in values {
        match runs.last_mut() {
            Some((last, times)) if *last == value => *times += 1,
            _ => runs.push((value, 1)),
        }
    }
    put_varint(out, runs.len() as u64);
    for (at, (value, times)) in runs.iter().enumerate() {
        put_varint(out, u64::from(*value));
        if at + 1 < runs.len() {
            put_varint(out, *times);
        }
    }
}

fn encode_column(
    qualifier: &[u8],
    (ticks, values): (&[u32], &[Slot]),
    within: Range<u32>,
    arena: &Arena,
    scratch: &mut Scratch,
) {
    let Scratch {
        numbers,
        live,
        entries,
        data,
        candidate,
        values: value_scratch,
    } = scratch;
    let from = data.len();
    let presence = encode_presence(data, ticks, within, numbers, candidate);
    let dead = values.iter().any(|slot| slot.dead_digest().is_some());
    if dead {
        encode_dead(data, values, numbers);
        live.clear();
        live.extend(values.iter().filter(|slot| slot.dead_digest().is_none()));
    }
    let written = if dead { live } else { values };
    let coding = values::encode(data, written, arena, value_scratch);
    put_slice(entries, qualifier);
    entries.push(presence | if dead { DEAD } else { 0 } | coding.number() << CODING_SHIFT);
    if presence != PRESENT_ALL {
        put_varint(entries, ticks.len() as u64);
    }
    put_varint(entries, (data.len() - from) as u64);
}

fn encode_presence(
    out: &mut Vec<u8>,
    ticks: &[u32],
    within: Range<u32>,
    numbers: &mut Vec<i64>,
    list: &mut Vec<u8>,
) -> u8 {
    let n = within.len();
    if ticks.len() == n {
        return PRESENT_ALL;
    }
    numbers.clear();
    numbers.extend(ticks.iter().map(|tick| i64::from(tick - within.start)));
    list.clear();
    ints::encode(list, numbers);
    if list.len() <= n.div_ceil(8) {
        out.extend_from_slice(list);
        return PRESENT_LIST;
    }
    let from = out.len();
    out.resize(from + n.div_ceil(8), 0);
    for tick in numbers.iter() {
        out[from + *tick as usize / 8] |= 1 << (tick % 8);
    }
    PRESENT_BITS
}

fn encode_dead(out: &mut Vec<u8>, values: &[Slot], numbers: &mut Vec<i64>) {
    numbers.clear();
    let dead = || {
        values
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.dead_digest().is_some())
    };
    numbers.extend(dead().map(|(at, _)| at as i64));
    put_varint(out, numbers.len() as u64);
    ints::encode(out, numbers);
    for digest in dead().filter_map(|(_, slot)| slot.dead_digest()) {
        out.extend_from_slice(&digest.to_le_bytes());
    }
}

/// A segment whose entries were read and whose counts are within the limits.
#[derive(Debug)]
pub struct Segment<'a> {
    ticks: usize,
    table: &'a [u8],
    columns: Vec<ColumnRef<'a>>,
}

/// One column of a segment, still encoded.
#[derive(Clone, Copy, Debug)]
pub struct ColumnRef<'a> {
    qualifier: &'a [u8],
    ticks: usize,
    cells: usize,
    presence: u8,
    dead: bool,
    coding: Coding,
    data: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Reads the head and the entries.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Segment<'a>, Malformed> {
        let mut r = Reader::new(bytes);
        let ticks = r.length(TICKS_MAX, "too many ticks")?;
        let count = r.length(FACTS_MAX.min(r.remaining()), "too many columns")?;
        let table = r.slice(bytes.len(), "the table is too long")?;
        let mut columns = Vec::with_capacity(count);
        let mut facts = 0;
        for _ in 0..count {
            let (column, length) = read_entry(&mut r, ticks)?;
            facts += column.cells;
            if facts > FACTS_MAX {
                return Err(Malformed("too many cells"));
            }
            columns.push((column, length));
        }
        let mut read = Vec::with_capacity(count);
        for (column, length) in columns {
            let data = r.take(length)?;
            read.push(ColumnRef { data, ..column });
        }
        if !r.is_empty() {
            return Err(Malformed("bytes behind a segment"));
        }
        Ok(Segment {
            ticks,
            table,
            columns: read,
        })
    }

    /// Number of ticks.
    pub fn ticks_len(&self) -> usize {
        self.ticks
    }

    /// The columns, sorted by qualifier.
    pub fn columns(&self) -> &[ColumnRef<'a>] {
        &self.columns
    }

    /// Replaces `out` by the versions of the ticks, ascending.
    pub fn versions(&self, out: &mut Vec<i64>) -> Result<(), Malformed> {
        ints::decode(&mut Reader::new(self.table), self.ticks, out)
    }

    /// Appends the ticks.
    pub fn ticks(&self, out: &mut Vec<Tick>, scratch: &mut DecodeScratch) -> Result<(), Malformed> {
        let mut r = Reader::new(self.table);
        let first = out.len();
        ints::decode(&mut r, self.ticks, &mut scratch.numbers)?;
        out.extend(scratch.numbers.iter().map(|version| Tick {
            version: *version,
            stamp: Stamp::MIN,
        }));
        let ticks = &mut out[first..];
        let from_version = match r.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("unknown form of milliseconds")),
        };
        ints::decode(&mut r, self.ticks, &mut scratch.numbers)?;
        for (tick, ms) in ticks.iter_mut().zip(&scratch.numbers) {
            let base = if from_version {
                tick.version.div_euclid(1_000)
            } else {
                0
            };
            tick.stamp.hlc = (ms.wrapping_add(base) as u64) << 16;
        }
        ints::decode(&mut r, self.ticks, &mut scratch.numbers)?;
        for (tick, count) in ticks.iter_mut().zip(&scratch.numbers) {
            tick.stamp.hlc |= u64::from(u16::try_from(*count).map_err(|_| Malformed("a stamp's count"))?);
        }
        decode_runs(&mut r, ticks, |tick, epoch| {
            tick.stamp.epoch = epoch;
            Ok(())
        })?;
        decode_runs(&mut r, ticks, |tick, region| {
            tick.stamp.region = RegionId(u16::try_from(region).map_err(|_| Malformed("a stamp's region"))?);
            Ok(())
        })
    }
}

fn decode_runs(
    r: &mut Reader<'_>,
    ticks: &mut [Tick],
    set: impl Fn(&mut Tick, u32) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let runs = r.length(ticks.len(), "more runs than ticks")?;
    let mut at = 0;
    for run in 0..runs {
        let value = u32::try_from(r.varint()?).map_err(|_| Malformed("a run's value"))?;
        let left = ticks.len() - at;
        let times = if run + 1 < runs {
            r.length(left, "a run is too long")?
        } else {
            left
        };
        for tick in &mut ticks[at..at + times] {
            set(tick, value)?;
        }
        at += times;
    }
    if at == ticks.len() {
        Ok(())
    } else {
        Err(Malformed("runs end early"))
    }
}

fn read_entry<'a>(r: &mut Reader<'a>, ticks: usize) -> Result<(ColumnRef<'a>, usize), Malformed> {
    let qualifier = r.slice(QUALIFIER_BYTES_MAX, "qualifier too long")?;
    let shape = r.u8()?;
    let presence = shape & 3;
    let cells = match presence {
        PRESENT_ALL => ticks,
        PRESENT_LIST | PRESENT_BITS => r.length(ticks, "more cells than ticks")?,
        _ => return Err(Malformed("unknown presence")),
    };
    let column = ColumnRef {
        qualifier,
        ticks,
        cells,
        presence,
        dead: shape & DEAD != 0,
        coding: Coding::from_number(shape >> CODING_SHIFT)?,
        data: &[],
    };
    let length = r.length(usize::MAX, "a column's length")?;
    Ok((column, length))
}

impl<'a> ColumnRef<'a> {
    /// The column's qualifier.
    pub fn qualifier(&self) -> &'a [u8] {
        self.qualifier
    }

    /// Number of cells, dead markers included.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// True if every tick has a cell of this column.
    pub fn is_full(&self) -> bool {
        self.presence == PRESENT_ALL
    }

    /// True if some of its cells are dead markers.
    pub fn has_dead(&self) -> bool {
        self.dead
    }

    /// Replaces `out` by the index of each cell's tick, ascending.
    pub fn positions(&self, out: &mut Vec<u32>, scratch: &mut DecodeScratch) -> Result<(), Malformed> {
        out.clear();
        self.presence(&mut Reader::new(self.data), 0, out, scratch)
    }

    /// Appends `base` and the index of each cell's tick.
    fn presence(
        &self,
        r: &mut Reader<'a>,
        base: u32,
        out: &mut Vec<u32>,
        scratch: &mut DecodeScratch,
    ) -> Result<(), Malformed> {
        match self.presence {
            PRESENT_ALL => out.extend((0..self.ticks as u32).map(|tick| base + tick)),
            PRESENT_LIST => {
                ints::decode(r, self.cells, &mut scratch.numbers)?;
                let ascending = scratch.numbers.is_sorted_by(|a, b| a < b);
                let first = scratch.numbers.first().is_none_or(|first| *first >= 0);
                let last = scratch.numbers.last().is_none_or(|last| *last < self.ticks as i64);
                if !(ascending && first && last) {
                    return Err(Malformed("the ticks of a column"));
                }
                out.extend(scratch.numbers.iter().map(|tick| base + *tick as u32));
            }
            _ => {
                let bits = r.take(self.ticks.div_ceil(8))?;
                let before = out.len();
                out.extend(
                    (0..self.ticks as u32)
                        .filter(|t| bits[*t as usize / 8] >> (t % 8) & 1 == 1)
                        .map(|t| base + t),
                );
                if out.len() - before != self.cells {
                    return Err(Malformed("the bits of a column's ticks"));
                }
            }
        }
        Ok(())
    }

    /// Skips the presence.
    fn skip_presence(&self, r: &mut Reader<'a>, scratch: &mut DecodeScratch) -> Result<(), Malformed> {
        match self.presence {
            PRESENT_ALL => Ok(()),
            PRESENT_LIST => ints::decode(r, self.cells, &mut scratch.numbers),
            _ => r.take(self.ticks.div_ceil(8)).map(|_| ()),
        }
    }

    /// Appends all cells: the index of each one's tick plus `base`, and its value.
    pub(super) fn decode(
        &self,
        base: u32,
        ticks: &mut Vec<u32>,
        values: &mut Vec<Slot>,
        arena: &mut Arena,
        scratch: &mut DecodeScratch,
    ) -> Result<(), Malformed> {
        let mut r = Reader::new(self.data);
        self.presence(&mut r, base, ticks, scratch)?;
        if self.dead {
            self.decode_with_dead(&mut r, values, arena, scratch)?;
        } else {
            values::decode(&mut r, self.coding, self.cells, arena, values, scratch)?;
        }
        if r.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes behind a column"))
        }
    }

    fn decode_with_dead(
        &self,
        r: &mut Reader<'a>,
        values: &mut Vec<Slot>,
        arena: &mut Arena,
        scratch: &mut DecodeScratch,
    ) -> Result<(), Malformed> {
        let count = r.length(self.cells, "more dead markers than cells")?;
        ints::decode(r, count, &mut scratch.numbers)?;
        let mut dead = vec![None; self.cells];
        for position in &scratch.numbers {
            let slot = usize::try_from(*position).ok().and_then(|at| dead.get_mut(at));
            let slot: &mut Option<u16> = slot.ok_or(Malformed("a dead marker's position"))?;
            if slot.replace(r.u16()?).is_some() {
                return Err(Malformed("two dead markers for one cell"));
            }
        }
        let mut live = Vec::new();
        values::decode(r, self.coding, self.cells - count, arena, &mut live, scratch)?;
        let mut live = live.into_iter();
        for dead in dead {
            let slot = dead.map(Slot::dead).or_else(|| live.next());
            values.push(slot.ok_or(Malformed("fewer values than cells"))?);
        }
        Ok(())
    }

    /// Replaces `out` by the values of all cells, 8 bytes in that order, read as floats. False, and nothing said about
    /// `out`, where values may be something else or some are dead: then decode the cells.
    pub fn floats(&self, order: ByteOrder, out: &mut Vec<f64>, scratch: &mut DecodeScratch) -> Result<bool, Malformed> {
        let mut r = Reader::new(self.data);
        self.skip_presence(&mut r, scratch)?;
        Ok(!self.dead && values::decode_floats(&mut r, self.coding, self.cells, order, scratch, out)?)
    }

    /// As [`ColumnRef::floats`], for numbers written as text; what is no number becomes NaN.
    pub fn texts(&self, out: &mut Vec<f64>, scratch: &mut DecodeScratch) -> Result<bool, Malformed> {
        let mut r = Reader::new(self.data);
        self.skip_presence(&mut r, scratch)?;
        Ok(!self.dead && values::decode_texts(&mut r, self.coding, self.cells, scratch, out)?)
    }

    /// As [`ColumnRef::floats`], for integers of 8 bytes.
    pub fn integers(
        &self,
        order: ByteOrder,
        out: &mut Vec<i64>,
        scratch: &mut DecodeScratch,
    ) -> Result<bool, Malformed> {
        let mut r = Reader::new(self.data);
        self.skip_presence(&mut r, scratch)?;
        Ok(!self.dead && values::decode_integers(&mut r, self.coding, self.cells, order, scratch, out)?)
    }
}
