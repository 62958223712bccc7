//! What the other region is asked, in domain words, and how this crate reaches tablets: the three seams of the layer.
//!
//! The wire forms live in proto/tidemark/region/v1/region.proto and are translated in the services layer; nothing here
//! knows gRPC. Each trait has two implementations: the product's, and the in-process one of the tests.

use crate::report::NodeReport;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use tidemark_base::schema::{Compression, Layout};
use tidemark_base::{FamilyId, RegionId, Result, RowRange, TableId, TableSchema, TabletId};
use tidemark_catalog::PeerRecord;
use tidemark_tablet::Tablet;

/// A region as it calls itself: both parts must match what is registered, so that two regions that were given one
/// number by mistake never exchange a stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionIdentity {
    /// Its name.
    pub name: String,
    /// Its number, part of every stamp that it gives.
    pub region: RegionId,
}

/// The answer to "who are you?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The region asked.
    pub region: RegionIdentity,
    /// Its software version, for people.
    pub version: String,
    /// True if the asking region is registered there as a peer under exactly that name and number.
    pub knows_asker: bool,
}

/// A family as it must exist in both regions: same name and generation, hence the same id; and same limits, or one region
/// would hide what the other shows (R10, R11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFamily {
    /// Name.
    pub name: String,
    /// Its id at the region that tells of it; equal to [`FamilyId::derive`] of name and generation.
    pub id: FamilyId,
    /// How often a family of that name was dropped before.
    pub generation: u32,
    /// Time to live in microseconds.
    pub ttl_micros: Option<i64>,
    /// Versions kept.
    pub max_versions: Option<u32>,
    /// Storage compression.
    pub compression: Compression,
    /// Physical layout. It need not be the same in both regions; a family that is made for a link gets the other's.
    pub layout: Layout,
}

/// Asks the peer to have the table, empty, with these families, and to link it back to the asking region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareTable {
    /// Who asks.
    pub from: RegionIdentity,
    /// Table name.
    pub table: String,
    /// The table's number at the asking region: only what is shipped of that table is taken over the link that is made.
    pub table_id: TableId,
    /// Its living families.
    pub families: Vec<PeerFamily>,
    /// Split keys, ascending, used only where the table is created.
    pub split_at: Vec<Bytes>,
    /// How far ahead of the clock a version may be (microseconds); used only where the table is created.
    pub max_future_micros: i64,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What [`PrepareTable`] did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// The table was created.
    pub created: bool,
    /// Families that were added to an existing table.
    pub families_added: Vec<String>,
    /// Families that the table has in the region asked and that the asking region did not name: it adds them.
    pub families_missing: Vec<PeerFamily>,
    /// The table's number in the region asked; none as long as it is not created there.
    pub table_id: Option<TableId>,
}

/// Ends the replication of a table with the asking region, at the region asked. Idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseTable {
    /// Who asks.
    pub from: RegionIdentity,
    /// Table name.
    pub table: String,
}

/// How the records of a [`Ship`] are compressed. Codes never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShipCodec {
    /// As they are: small runs, or bytes that do not shrink.
    None,
    /// Zstandard, one frame.
    Zstd,
}

impl ShipCodec {
    /// The number on the wire.
    pub fn code(self) -> u32 {
        match self {
            ShipCodec::None => 0,
            ShipCodec::Zstd => 1,
        }
    }

    /// The inverse of [`ShipCodec::code`]; `None` for a codec of a later release.
    pub fn from_code(code: u32) -> Option<ShipCodec> {
        match code {
            0 => Some(ShipCodec::None),
            1 => Some(ShipCodec::Zstd),
            _ => None,
        }
    }
}

/// A run of one stream's feed records: everything of the stream in `first_seq..=last_seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ship {
    /// The origin.
    pub from: RegionIdentity,
    /// Table name, which pairs the tables of two regions when a link is made.
    pub table: String,
    /// The number of the table at the origin: names can be used again, numbers are not (INV-42).
    pub from_table: TableId,
    /// The number of the table that it is meant for, in the region asked.
    pub to_table: TableId,
    /// The stream: one tablet of the origin.
    pub tablet: TabletId,
    /// The rows of that tablet.
    pub range: RowRange,
    /// First sequence covered. It may lie below the first record in the run: there was nothing for this peer.
    pub first_seq: u64,
    /// Last sequence covered, and the last record in the run.
    pub last_seq: u64,
    /// How `records` is compressed.
    pub codec: ShipCodec,
    /// The packed run (docs/formats/ship.md), compressed.
    pub records: Bytes,
    /// Size of `records` before compression, in bytes: the receiver refuses more than its limit before it allocates.
    pub records_bytes: u64,
    /// The stream's lag at the origin when this was sent, so that the receiver knows its RPO without comparing clocks.
    pub lag_ms: u64,
    /// False if `lag_ms` is only an upper bound.
    pub lag_known: bool,
}

/// The answer to a [`Ship`]: all of it is committed in the region asked, unless `clock_quarantine`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shipped {
    /// Every record of the stream up to here is applied there, in every tablet that it concerns.
    pub applied_seq: u64,
    /// Row mutations of this stream in quarantine there now.
    pub rows_quarantined: u64,
    /// The time (hybrid logical clock of the origin) up to which nothing of the stream is missing there, quarantine
    /// included; 0 = not known. With rows in quarantine the origin's lag counts from here (R17, R23).
    pub complete_hlc: u64,
    /// Nothing was taken: a stamp is too far ahead of that region's clock (R8).
    pub clock_quarantine: bool,
    /// In words, where something is unusual.
    pub cause: String,
}

/// What the other region is asked. Calls may fail with any coarse error; a repeat is always safe.
#[async_trait]
pub trait PeerLink: Send + Sync {
    /// Who are you, and do you know me?
    async fn identify(&self, asker: RegionIdentity) -> Result<PeerIdentity>;
    /// See [`PrepareTable`].
    async fn prepare_table(&self, request: PrepareTable) -> Result<Prepared>;
    /// See [`ReleaseTable`].
    async fn release_table(&self, request: ReleaseTable) -> Result<()>;
    /// Delivers a run. Order-free and idempotent; answered when all of it is committed there.
    async fn ship(&self, ship: Ship) -> Result<Shipped>;
}

/// Makes links to peers: caches per peer, tries its addresses, sticks to one that works.
pub trait PeerConnector: Send + Sync {
    /// The link to that peer. Does not connect: an unreachable peer shows when it is asked.
    fn link(&self, peer: &PeerRecord) -> Arc<dyn PeerLink>;
}

/// The tablets of this node, and the way to the leaders of the others. Implemented by the node.
#[async_trait]
pub trait TabletAccess: Send + Sync {
    /// Every replica hosted here, leading or not.
    fn local(&self) -> Vec<Tablet>;
    /// Hands an encoded `RemoteBatch` to the tablet's leader, wherever in this region it is; the answer is an encoded
    /// `RemoteOutcome`.
    async fn apply_remote(&self, tablet: TabletId, command: Bytes) -> Result<Bytes>;
    /// Proposes a schema at the tablet's leader. Without effect if it already has that revision or a later one.
    async fn set_schema(&self, tablet: TabletId, schema: Arc<TableSchema>, require_empty: bool) -> Result<()>;
    /// The reports of the region's other nodes, one result per node; an error for each that cannot be asked.
    async fn remote_reports(&self) -> Vec<Result<NodeReport>>;
}
