//! The product's engine: one RocksDB a tablet, without a write-ahead log, flushed atomically over its column families.
//! The only address of RocksDB in the server.
//!
//! ```text
//! shared     node-wide resources and all options
//! engine     open, commit, flush and the durable cut, the Engine trait
//! batch      one atomic write
//! source     facts in order, out of their column families
//! feed       what the feed holds, without asking the disk
//! filter     background compaction -> reap
//! error      RocksDB's messages -> EngineError
//! ```

mod batch;
mod engine;
mod error;
mod feed;
mod filter;
mod shared;
mod source;

pub use engine::RocksEngine;
pub use shared::{RocksSettings, RocksShared};
