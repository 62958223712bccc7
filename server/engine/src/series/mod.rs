//! The stored form of `series` families: cells of one row, family and time block, in columns. Pure functions from bytes to
//! bytes; what is stored where is said in ADR 11 and docs/formats/series-block.md.
//!
//! ```text
//! a row mutation's cells at one version -> TickBuilder -> tick  --+
//!                                                    another tick --+-> Merger::merge -> block -> …
//!                                                           block --+        the union of their facts (R3)
//!
//! block -> for_each_segment -> Segment -> versions, ColumnRef::floats …     numbers in columns: scans, aggregates
//!       -> Merger::union -> Facts -> columns over a table of ticks          every cell with its stamp: reads, merging
//!                        -> Facts::judge                                    what garbage collection leaves of it
//!
//! limits    bounds of a segment
//! bits      bit fields, zigzag
//! ints      sequences of integers: prediction, unit, chunks of their own width
//! fixed     8-byte values: decimals, XOR                     text     decimal numbers as text
//! values    a column's values: the smallest form that fits   slot     a value in sixteen bytes
//! pending   from a row mutation's cells to records           gathered a write batch's records, one operand a key
//! tick      what one row mutation writes                     segment  columns and their table of ticks
//! facts     the set that is merged, and its one order        block    segments, checksum; Merger
//! unite     the store's merge operator                        collect  what is forgotten inside of records
//! source    records shown as the entries that cells would be merged   two stores of facts as one
//! ```
//! A set of facts has one block, whatever it was merged from and in what order: [`Merger::merge`] is associative,
//! commutative and idempotent to the byte. That is what lets the store merge any two neighbours at any time.
//!
//! Worked example (the test `golden`): row mutations at 1, 2 and 3 s write `s` = `on`, `on`, `standby` and `t` = 20.5, 20.6,
//! 20.4 as big-endian floats, with stamps 0/5000.0@1 to 0/5000.2@1
//! ```text
//! 02 3a                             block; a segment of 58 bytes
//! 03 02 17                          3 ticks, 2 columns, a table of 23 bytes:
//!   08 c0843d 80897a 02 02 21         versions: level with unit and base 1,000,000, middle 1; 2 bits each: -1 0 1
//!   …
//! ```
//! and on, byte by byte, in docs/formats/series-block.md.
//!
//! Decoders never panic, and allocate by the bounds in `limits` and the bytes that are there, never by a number that was read.
//!
//! When you change an encoding, take a new number for it: old blocks are read for ever. Choosing among the encodings may
//! change between releases; blocks of the same facts then differ in bytes, and merging stays right.

mod bits;
mod block;
pub(crate) mod collect;
mod facts;
mod fixed;
pub(crate) mod gathered;
mod ints;
pub mod limits;
pub(crate) mod merged;
pub(crate) mod pending;
mod segment;
mod slot;
pub(crate) mod source;
#[cfg(test)]
mod tests;
mod text;
mod tick;
pub(crate) mod unite;
mod values;

pub(crate) use block::segments_as_blocks;
pub use block::{Encoder, Merger, for_each_segment, single_segment};
pub use facts::{Column, Facts, Fate, Tick, digest};
pub use fixed::ByteOrder;
pub use segment::{ColumnRef, Segment};
pub use slot::{Arena, Slot};
pub use tick::{TickBuilder, TickRef};
pub use values::DecodeScratch;
