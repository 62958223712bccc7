//! The product's engine: one RocksDB a tablet, without a write-ahead log, flushed atomically over its column families.
//! The only address of RocksDB in the server.
//!
//! ```text
//! shared     node-wide resources and all options
//! engine     open, commit, flush and the durable cut, the Engine trait
//! batch      one atomic write
//! source     facts in order, out of their column families
//! feed       what the feed holds, without asking the disk
//! aggregate  numbers straight from the columns of series records
//! filter     background compaction -> reap
//! series     the column family of series records: merge operator, filter, source, rewriting
//! error      RocksDB's messages -> EngineError
//! ```

mod aggregate;
mod batch;
mod engine;
mod error;
mod feed;
mod filter;
mod series;
mod shared;
mod source;

pub use engine::RocksEngine;
pub use shared::{RocksSettings, RocksShared};
