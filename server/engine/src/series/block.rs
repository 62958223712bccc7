//! A block: all that is known of one row, family and time block, in segments that are bounded.
//!
//! ```text
//! block := 0x02 | (length varint | segment)+ | crc32c u32 over all bytes before it
//! ```
//! Ticks fill segments in order; a segment is closed before the tick that would bring it over a limit, and a single tick
//! with more cells than a segment holds is spread over several. So the bytes are a function of the facts.

use super::facts::Facts;
use super::limits::{FACTS_MAX, SEGMENT_VALUES_BYTES, TICKS_MAX};
use super::segment::{self, Scratch, Segment};
use super::tick::{open, seal};
use super::values::DecodeScratch;
use std::ops::Range;
use tidemark_base::codec::{Malformed, Reader, put_slice};

/// First byte of a block.
pub(super) const BLOCK: u8 = 2;

/// Encodes blocks; holds buffers, so keep it.
#[derive(Default)]
pub struct Encoder {
    scratch: Scratch,
    segment: Vec<u8>,
}

impl Encoder {
    /// An encoder.
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// The block of a settled set of facts.
    pub fn encode(&mut self, facts: &Facts) -> Vec<u8> {
        let mut out = vec![BLOCK];
        for part in parts(facts) {
            self.segment.clear();
            let ticks = &facts.ticks()[part.ticks.start as usize..part.ticks.end as usize];
            let columns = facts.columns()[part.columns].iter();
            segment::encode(
                &mut self.segment,
                ticks,
                part.ticks,
                columns,
                facts.arena(),
                &mut self.scratch,
            );
            put_slice(&mut out, &self.segment);
        }
        seal(&mut out, 0);
        out
    }
}

/// What goes into one segment.
struct Part {
    ticks: Range<u32>,
    columns: Range<usize>,
}

fn parts(facts: &Facts) -> Vec<Part> {
    let n = facts.ticks().len() as u32;
    let all = 0..facts.columns().len();
    let (cells, bytes) = weigh(facts);
    let mut parts = Vec::new();
    let (mut from, mut cells_sum, mut bytes_sum) = (0u32, 0usize, 0usize);
    for tick in 0..n {
        let (c, b) = (cells[tick as usize] as usize, bytes[tick as usize]);
        let full =
            (tick - from) as usize == TICKS_MAX || cells_sum + c > FACTS_MAX || bytes_sum >= SEGMENT_VALUES_BYTES;
        if full && tick > from {
            parts.push(Part {
                ticks: from..tick,
                columns: all.clone(),
            });
            (from, cells_sum, bytes_sum) = (tick, 0, 0);
        }
        (cells_sum, bytes_sum) = (cells_sum + c, bytes_sum + b);
        if c > FACTS_MAX {
            // Only this tick stands since `from`.
            parts.extend(all.clone().step_by(FACTS_MAX).map(|start| Part {
                ticks: tick..tick + 1,
                columns: start..all.end.min(start + FACTS_MAX),
            }));
            (from, cells_sum, bytes_sum) = (tick + 1, 0, 0);
        }
    }
    if from < n {
        parts.push(Part {
            ticks: from..n,
            columns: all,
        });
    }
    parts
}

/// For each tick its cells and the bytes of their values.
fn weigh(facts: &Facts) -> (Vec<u32>, Vec<usize>) {
    let mut cells = vec![0; facts.ticks().len()];
    let mut bytes = vec![0; facts.ticks().len()];
    for column in facts.columns() {
        for (tick, value) in column.ticks.iter().zip(&column.values) {
            cells[*tick as usize] += 1;
            bytes[*tick as usize] += value.len();
        }
    }
    (cells, bytes)
}

/// True for a stored value that is one block; false for a tick, or several values.
pub(super) fn is_block(value: &[u8]) -> bool {
    value.first() == Some(&BLOCK)
}

/// Calls `each` for every segment of a block; checks the checksum first.
pub fn for_each_segment<'a>(
    block: &'a [u8],
    mut each: impl FnMut(Segment<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut r = Reader::new(open(block)?);
    if r.u8()? != BLOCK {
        return Err(Malformed("not a block of format 1"));
    }
    while !r.is_empty() {
        each(Segment::parse(r.slice(block.len(), "a segment is too long")?)?)?;
    }
    Ok(())
}

/// Each segment of a block as a block of its own, oldest first: together they are the same facts.
pub(crate) fn segments_as_blocks(block: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut r = Reader::new(open(block)?);
    if r.u8()? != BLOCK {
        return Err(Malformed("not a block of format 1"));
    }
    let mut blocks = Vec::new();
    while !r.is_empty() {
        let mut part = vec![BLOCK];
        put_slice(&mut part, r.slice(block.len(), "a segment is too long")?);
        seal(&mut part, 0);
        blocks.push(part);
    }
    Ok(blocks)
}

/// The only segment of a stored value that is one block; `None` for everything else.
pub fn single_segment(value: &[u8]) -> Result<Option<Segment<'_>>, Malformed> {
    if value.first() != Some(&BLOCK) {
        return Ok(None);
    }
    let mut r = Reader::new(open(value)?);
    r.u8()?;
    let bytes = r.slice(value.len(), "a segment is too long")?;
    match r.is_empty() {
        true => Segment::parse(bytes).map(Some),
        false => Ok(None),
    }
}

/// Merges ticks and blocks of one row, family and time block into one block: the union of their facts. Associative,
/// commutative and idempotent, to the byte, whatever is merged first.
pub struct Merger {
    encoder: Encoder,
    scratch: DecodeScratch,
    /// Of the last merge.
    facts: Facts,
}

impl Default for Merger {
    fn default() -> Merger {
        Merger::new()
    }
}

impl Merger {
    /// A merger; it holds buffers, so keep it.
    pub fn new() -> Merger {
        Merger {
            encoder: Encoder::new(),
            scratch: DecodeScratch::default(),
            facts: Facts::new(),
        }
    }

    /// The union of stored values. Fails if one of them is damaged.
    pub fn merge<'a>(&mut self, values: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, Malformed> {
        self.facts.clear();
        for value in values {
            self.facts.add(value, &mut self.scratch)?;
        }
        self.facts.settle();
        Ok(self.encoder.encode(&self.facts))
    }

    /// The union as a settled set.
    pub fn union<'a>(&mut self, values: impl IntoIterator<Item = &'a [u8]>) -> Result<Facts, Malformed> {
        let mut facts = Facts::new();
        for value in values {
            facts.add(value, &mut self.scratch)?;
        }
        facts.settle();
        Ok(facts)
    }

    /// The block of a settled set.
    pub fn encode(&mut self, facts: &Facts) -> Vec<u8> {
        self.encoder.encode(facts)
    }
}
