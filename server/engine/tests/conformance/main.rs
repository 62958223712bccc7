//! One suite for both engines: whatever [`Engine`](tidemark_engine::Engine) promises is tested here on each of them,
//! against the oracle where meaning is concerned.
//!
//! ```text
//! world      an engine of either kind that can be compacted, crashed and reopened
//! contract   the interface, point by point
//! reads      every filter, order and limit against the oracle, on generated facts
//! neutral    O1, O2, O15: schedules of writes, flushes, compactions, garbage collections, restarts, schema changes
//! trims      the cost of trimming a feed
//! ties       stamps that differ in their region alone
//! disk       RocksDB only: crash at the flushed cut, damaged files, compression
//! metamorphic  one list of operations under many options and schedules: the same answers, byte for byte
//! ```

#![allow(clippy::unwrap_used)] // Everything here is a test, helpers included.

mod contract;
mod disk;
mod metamorphic;
mod neutral;
mod reads;
mod ties;
mod trims;
mod world;
