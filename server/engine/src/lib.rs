//! # tidemark-engine: facts on disk
//!
//! One engine holds one tablet: its facts (cells and tombstones), its feed, and a small ordered space of state records.
//! Everything one log entry changes is one atomic write.
//!
//! ```text
//! api        what an engine can do, in facts, families, rows and cells
//! key        physical keys, drawn; golden example                    docs/formats/engine-keys.md
//! plan       a read filter made ready
//! view       facts in, visible cells out: the one read path          R4, R10, R11, O15
//! reap       which facts may be forgotten: the one judge             R6, R12, O2
//! due        whether a collection can forget anything at all
//! kept       rows whose newest cells are kept ready                                INV-12
//! ops        digests, sweeps, all facts: over either store
//! rocks      the product: one RocksDB a tablet, node-wide resources shared
//! series     blocks of cells in columns: the second layout's bytes             docs/formats/series-block.md
//! memory     the twin
//! //! ```
//! What flows through: mutations come as facts and become keys (`key`); a read opens a `FactSource` (an iterator of
//! RocksDB, or a walk over a map), `view` turns its entries into visible cells; compaction and garbage collection show
//! the same entries to `reap`.
//!
//! When you change
//! - what is visible: `view`, `reap` and tests/oracle say it three times on purpose; tests/conformance compares them;
//! - a key or a stored value: `key`'s drawing and golden test, docs/formats/engine-keys.md, and old directories must open;
//! - version limits: `VersionRank` in base, which explains eras;
//! - a drop rule in `reap`: its comment argues why every later arrival is neutral; so must yours.
//!
//! **May not know:** Raft, peers, what "now" is (it is told; the clock it gets is for background compaction only).
//! RocksDB is named only in `rocks`.

pub mod api;
mod cover;
mod due;
pub mod kept;
pub mod key;
pub mod memory;
pub mod ops;
pub mod plan;
mod reap;
pub mod rocks;
pub mod series;
mod source;
mod view;

pub use api::{
    CellCursor, EachCell, Engine, EngineError, FeedRecord, GarbageCut, GarbageReport, RangeDigest, RowParts,
    WriteBatch, WriteSize,
};
pub use memory::MemoryEngine;
pub use rocks::{RocksEngine, RocksSettings, RocksShared};
