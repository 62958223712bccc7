//! Bounds of the catalog itself; those of the data model stand in `tidemark_base::limits`.
//!
//! The catalog is one JSON document that is held in memory on every node and rewritten as a whole. At these bounds and
//! with row keys of usual length (about 40 bytes) it takes some 10 MiB.

/// Tables of one region.
pub const TABLES_MAX: usize = 1_024;
/// Tablets of one region, all tables together.
pub const TABLETS_MAX: usize = 32_768;
/// Nodes of one region.
pub const NODES_MAX: usize = 1_024;
/// Peers of one region.
pub const PEERS_MAX: usize = 64;
/// Addresses of one peer.
pub const PEER_ADDRESSES_MAX: usize = 64;
/// One address, in bytes: a DNS name (253), a colon, a port (5).
pub const ADDRESS_BYTES_MAX: usize = 259;
/// A node's incarnation, in bytes: it is 32 hex digits.
pub const INCARNATION_BYTES_MAX: usize = 64;
/// A node's version text, in bytes.
pub const VERSION_BYTES_MAX: usize = 128;
/// Requests whose answers are remembered, so that a retry applies once. A retry comes within seconds; this many
/// commands take minutes.
pub const REQUESTS_MAX: usize = 1_024;
/// An encoded command, in bytes: 1,023 split keys of 4 KiB in base64 are 5.6 MiB.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;
/// Replicas of a tablet where there are enough nodes.
pub const REPLICAS: usize = 3;
/// The shortest time to live; microseconds. Versions are microseconds, clocks agree to milliseconds at best.
pub const TTL_MICROS_MIN: i64 = 1_000;
/// The shortest time block of a series family; microseconds. Much shorter ones hold too few readings to gain anything.
pub const SERIES_BLOCK_MICROS_MIN: i64 = 1_000_000;
/// The longest time block (31 days): a reader of one reading decodes its column's whole time block.
pub const SERIES_BLOCK_MICROS_MAX: i64 = 31 * 24 * 3600 * 1_000_000;
/// The greatest `max_future_micros` (a hundred years), so that adding it to a clock never overflows.
pub const MAX_FUTURE_MICROS_MAX: i64 = 100 * 366 * 24 * 3600 * 1_000_000;
