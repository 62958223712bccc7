//! # tidemark-base: the nouns
//!
//! Keys, cells, stamps and their one order, ranges, ids, limits, error kinds, and the packed batch in which a mutation
//! travels from the client's memory to the peer region's disk.
//!
//! **May not know:** async, I/O, serde, the wire (proto), any storage.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ids`] | node, group, tablet, table, region, family |
//! | [`limits`] | every size bound of the data model, with its arithmetic |
//! | [`error`] | the coarse error kinds: what should the caller do? |
//! | [`names`] | which names are legal |
//! | [`stamp`] | what decides the winner (R2) |
//! | [`range`] | row ranges and version ranges |
//! | [`fact`] | cells and tombstones, visibility (R3, R4) |
//! | [`schema`] | families and their settings as a tablet needs them |
//! | [`codec`] | bounds-checked reading, varints |
//! | [`batch`] | the packed batch: encode once, pass through log, feed and wire |
//! | [`normalize`] | R5 inside one row mutation |
//! | [`read`] | what a read asks for, as data |
//! | [`cells`] | packed cells: the answer form of scans |
//! | [`aggregate`] | numbers in cells, counted and added by time bucket |
//!
//! When you change the packed batch or packed cells: docs/formats, the golden examples, and the client are touched too.

pub mod aggregate;
pub mod batch;
pub mod cells;
pub mod codec;
pub mod error;
pub mod fact;
pub mod ids;
pub mod limits;
pub mod names;
pub mod normalize;
pub mod range;
pub mod read;
pub mod schema;
pub mod stamp;

pub use batch::{BatchBuilder, MutationRef, PackedBatch, RowRef};
pub use error::{Error, ErrorKind, Result};
pub use fact::{CellRef, Scope, TombstoneRef};
pub use ids::{FamilyId, GroupId, NodeId, RegionId, TableId, TabletId};
pub use range::{RowRange, VersionRange};
pub use read::{ReadFilter, ReadSpec};
pub use schema::{FamilySettings, TableSchema};
pub use stamp::Stamp;
