//! Every bound of the data model, in one place, with its arithmetic. Each is tested at n-1, n and n+1.

/// A row key, in bytes. Keys are escaped in storage (at worst twice as long) and repeated per cell before compression.
pub const ROW_BYTES_MAX: usize = 4 << 10;
/// A column qualifier, in bytes.
pub const QUALIFIER_BYTES_MAX: usize = 16 << 10;
/// One cell's value, in bytes.
pub const VALUE_BYTES_MAX: usize = 8 << 20;
/// One row mutation as it stands in a packed batch, in bytes. Two values of the greatest size fit.
pub const ROW_MUTATION_BYTES_MAX: usize = 16 << 20;
/// A packed batch, in bytes: one row mutation of the greatest size, plus the header, dictionary and checksum.
pub const BATCH_BYTES_MAX: usize = ROW_MUTATION_BYTES_MAX + (64 << 10);
/// The cells of a packed batch written out, each with its row and its column, in bytes: what an apply holds at once. One row
/// mutation with the longest key and as many puts as it may have fits.
pub const BATCH_EXPANDED_BYTES_MAX: usize = 512 << 20;
/// Row mutations in one packed batch. Each takes one stamp; 65,536 is one millisecond of a hybrid logical clock.
pub const BATCH_ROWS_MAX: usize = 65_536;
/// Mutations in one row mutation (the same bound as Bigtable's).
pub const ROW_MUTATIONS_MAX: usize = 100_000;
/// Families of one table, living ones.
pub const FAMILIES_MAX: usize = 64;
/// Families a table may have had in all, dropped ones included: their ids are kept for ever.
pub const FAMILIES_EVER_MAX: usize = 4_096;
/// A name of a table, family, region or peer, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Live row-range tombstones of one tablet. They are held in memory and looked at by every read.
pub const RANGE_TOMBSTONES_MAX: usize = 1_024;
/// Row ranges and row keys in one read request.
pub const READ_RANGES_MAX: usize = 10_000;
/// A regular expression in a filter, in bytes of source.
pub const REGEX_BYTES_MAX: usize = 4 << 10;
/// The compiled size of a regular expression, in bytes.
pub const REGEX_COMPILED_BYTES_MAX: usize = 1 << 20;
/// An idempotency token, in bytes.
pub const TOKEN_BYTES: usize = 16;
/// Tablets of one table at creation (pre-split).
pub const TABLETS_AT_CREATE_MAX: usize = 1_024;
/// How far ahead of the local clock a client's version may be unless the table says otherwise (R8): one day.
pub const MAX_FUTURE_MICROS_DEFAULT: i64 = 24 * 3600 * 1_000_000;
/// Groups of one aggregate's answer: some 64 bytes each on the wire, so 6 MiB.
pub const AGGREGATE_GROUPS_MAX: usize = 100_000;
/// Length of a time block of a series family, if none is given: one hour; microseconds.
pub const SERIES_BLOCK_MICROS_DEFAULT: i64 = 3600 * 1_000_000;
/// How far ahead of the local clock a remote stamp may be before its stream is parked (R8).
pub const MAX_OFFSET_MS: u64 = 10_000;
/// How far a leader's clock may be from its group's median before it stops stamping (R8).
pub const MAX_SKEW_MS: u64 = 250;
