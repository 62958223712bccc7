//! Bounds of a segment, the unit in which blocks are encoded and decoded. What a decoder allocates is bounded by them and
//! by the bytes that are there, never by a number that was read.

/// Ticks of one segment: 24 bytes each when decoded, so 384 KiB.
pub const TICKS_MAX: usize = 16 << 10;
/// Cells of one segment: 20 bytes each when decoded, so 5 MiB. A row mutation (at most 100,000 puts) always fits.
pub const FACTS_MAX: usize = 256 << 10;
/// A segment is closed when its values reach this.
pub const SEGMENT_VALUES_BYTES: usize = 1 << 20;
/// One value.
pub const VALUE_BYTES_MAX: usize = tidemark_base::limits::VALUE_BYTES_MAX;
/// One qualifier.
pub const QUALIFIER_BYTES_MAX: usize = tidemark_base::limits::QUALIFIER_BYTES_MAX;
/// A block above this is worth cutting into several records; see docs/formats/series-block.md.
pub const BLOCK_BYTES_TARGET: usize = 1 << 20;
