//! # tidemark-replication: facts from region to region
//!
//! Per table and peer, what was written in this region is shipped to the peer's tablets, and what the peer ships is
//! applied here (rules R8, R13 to R17, R19 and R23 of the replication design).
//!
//! **May not know:** RocksDB, openraft, gRPC. It reads feeds and proposes commands through the tablet layer, asks other
//! regions through [`PeerLink`], and reaches tablets led elsewhere through [`TabletAccess`].
//!
//! ```text
//!  tablet apply ─> feed ─> feed_reader ─> run (pack, zstd) ─> stream ─> PeerLink::ship ═══ WAN ═══╗
//!                   ^                                            │ window, retries, lag            ║
//!                   └──────── acknowledge_feed <─────────────────┘                                 ║
//!  tablets' leaders <── TabletAccess::apply_remote <── cut (by this region's tablets) <── receiver ╝
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`link`] | the seams: what a peer is asked, how tablets are reached |
//! | [`run`] | the packed run that crosses the link; compression |
//! | [`window`], [`stream_core`] | what one stream decides, synchronous |
//! | [`lag`] | what the peer lacks, and since when, or a bound of it |
//! | [`feed_reader`], [`stream`] | reading the feed; the stream's task |
//! | [`shipper`] | which streams run |
//! | [`cut`], [`receiver`] | taking a run: by tablet, with stamps kept, never inside a row mutation |
//! | [`verbs`], [`prepare`] | enable, disable, pause, resume; the asked side |
//! | [`keeper`] | schemas from the catalog to the tablets |
//! | [`cause`], [`report`], [`status`], [`counters`] | what an operator sees |
//! | [`settings`] | bounds |
//!
//! Loops are impossible (R14): only local-origin facts enter a feed, which the tablet's apply decides; here the counters
//! of rows shipped and messages recognised as duplicates prove it (O13).
//!
//! When you change the run: docs/formats/ship.md and its golden test. A new cause: its words and docs/operations/replication.md.
//! A field of [`Ship`] or [`Shipped`]: region.proto and the services' conversion.

pub mod cause;
pub mod counters;
pub mod cut;
pub mod feed_reader;
pub mod keeper;
pub mod lag;
pub mod link;
mod prepare;
mod receiver;
mod replicator;
pub mod report;
pub mod run;
pub mod settings;
mod shipper;
pub mod status;
pub mod stream;
pub mod stream_core;
mod verbs;
pub mod window;

pub use keeper::keep_schemas;
pub use lag::Lag;
pub use link::{
    PeerConnector, PeerFamily, PeerIdentity, PeerLink, PrepareTable, Prepared, RegionIdentity, ReleaseTable, Ship,
    ShipCodec, Shipped, TabletAccess,
};
pub use replicator::{Replicator, ReplicatorOptions};
pub use report::{
    HeardReport, IncomingReport, IncomingTotals, LinkCounters, LinkReport, NodeReport, OutgoingReport, StreamReport,
    StreamState,
};
pub use settings::ReplicationSettings;
pub use verbs::Enabled;
