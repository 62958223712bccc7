//! The product's engine: one RocksDB a tablet, without a write-ahead log, flushed atomically over its column families.
//! The only address of RocksDB in the server.
//!
//! ```text
//! shared     node-wide resources and all options
//! engine     open, commit, flush and the durable cut, the Engine trait
//! batch      one atomic write
//! feed       what the feed holds, without asking the disk
//! filter     background compaction -> reap
//! install    replace a directory by a checkpoint; destroy
//! error      RocksDB's messages -> EngineError
//! ```

mod batch;
mod engine;
mod error;
mod feed;
mod filter;
mod install;
mod shared;

pub use engine::RocksEngine;
pub use install::{destroy, install};
pub use shared::{RocksSettings, RocksShared};
