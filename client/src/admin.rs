//! [`Admin`]: tables, replication and the cluster's state, as plain types.

use crate::call::{Call, Safety};
use crate::client::{Shared, Target};
use crate::error::{Failure, Result};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::RowRange;
use tidemark_proto::v1;

mod convert;
mod quarantine;

pub use quarantine::{Discarded, Quarantine, QuarantineEntry};

/// How a family is compressed on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// LZ4: quick.
    #[default]
    Lz4,
    /// None.
    None,
    /// Zstandard: smaller.
    Zstd,
}

/// How a family's cells are kept on disk. It changes what things cost, never an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One record a cell: what a family has if nothing is said.
    Cells,
    /// Readings of one row and time block in columns: for time series.
    Series {
        /// Length of a time block, from 1 s to 31 days; `None` = one hour.
        block: Option<Duration>,
    },
}

/// A family's settings.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// How long cells live after their version; `None` = for ever. Milliseconds count, finer parts are cut off.
    pub ttl: Option<Duration>,
    /// How many versions of a column count; `None` = all.
    pub max_versions: Option<u32>,
    /// On disk.
    pub compression: Compression,
    /// Given when the family is made and never changed; `None` = cells for a new family, as it is for an old one.
    pub layout: Option<Layout>,
}

impl Family {
    /// A family that keeps everything.
    pub fn new(name: impl Into<String>) -> Family {
        Family {
            name: name.into(),
            ..Family::default()
        }
    }
}

/// A table to create.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TableSpec {
    /// Its name.
    pub name: String,
    /// At least one.
    pub families: Vec<Family>,
    /// First rows of the second and later tablets, ascending.
    pub split_at: Vec<Vec<u8>>,
    /// How far ahead of the server's clock a version may be; `None` = one day.
    pub max_future: Option<Duration>,
    /// Return the table without an error if it exists with the same families.
    pub if_not_exists: bool,
}

impl TableSpec {
    /// A table of one tablet.
    pub fn new(name: impl Into<String>, families: impl IntoIterator<Item = Family>) -> TableSpec {
        TableSpec {
            name: name.into(),
            families: families.into_iter().collect(),
            ..TableSpec::default()
        }
    }
}

/// Changes of a table. Families that are set get all the settings given.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TableChange {
    /// New families.
    pub add_families: Vec<Family>,
    /// Families whose settings are replaced.
    pub set_families: Vec<Family>,
    /// Families that go, with all their cells.
    pub drop_families: Vec<String>,
    /// How far ahead of the server's clock a version may be.
    pub max_future: Option<Duration>,
}

/// A table as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Its name.
    pub name: String,
    /// Its number in its region; a table of the same name that is created later has another.
    pub id: u64,
    /// Its families.
    pub families: Vec<Family>,
    /// How far ahead of the server's clock a version may be.
    pub max_future: Duration,
    /// Number of tablets.
    pub tablets: u32,
    /// Rises with each change.
    pub revision: u64,
    /// Names of the peers that it is replicated with.
    pub peers: Vec<String>,
}

/// A peer region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The region's name, as it calls itself.
    pub name: String,
    /// The region's number, as it calls itself; 0 when adding = ask it.
    pub region: u32,
    /// `host:port` of some of its nodes.
    pub addresses: Vec<String>,
}

/// What switching replication on has done at the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnableOutcome {
    /// The table was missing there and was created.
    pub created_at_peer: bool,
    /// Families that were missing there and were added.
    pub families_added: Vec<String>,
    /// Families that the peer has and that were missing here.
    pub families_added_here: Vec<String>,
}

/// Replication was switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisableOutcome;

/// One table and one peer, as this region sees both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// The table's name.
    pub table: String,
    /// The peer's name.
    pub peer: String,
    /// `STREAMING`, `LAGGING`, `PAUSED`, `BLOCKED`, ….
    pub state: String,
    /// Why it is in that state.
    pub cause: String,
    /// What to do about it.
    pub action: String,
    /// Age of the oldest write of this region that the peer has not applied, milliseconds (R23).
    pub lag_ms: u64,
    /// False if something is not known: then `lag_ms` is an upper bound.
    pub lag_known: bool,
    /// Records not yet applied at the peer.
    pub backlog_records: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// Row mutations shipped since the node's start.
    pub rows_shipped: u64,
    /// Bytes shipped since the node's start.
    pub bytes_shipped: u64,
    /// Everything of this region up to here is applied at the peer; microseconds of this region's clock.
    pub acknowledged_micros: i64,
    /// What would be missing here if the peer were lost now, as an age in milliseconds.
    pub rpo_ms: u64,
    /// False if something is not known: then `rpo_ms` is an upper bound.
    pub rpo_known: bool,
    /// Everything of the peer up to here is applied here, holes allowed; microseconds of the peer's clock.
    pub applied_micros: i64,
    /// The same without a hole.
    pub complete_micros: i64,
    /// Row mutations set aside here because they cannot be applied yet.
    pub rows_quarantined: u64,
    /// Row mutations of the peer applied here since the node's start.
    pub rows_applied: u64,
    /// One entry a tablet, if asked for.
    pub streams: Vec<StreamStatus>,
}

/// One tablet's stream to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// The tablet.
    pub tablet: u64,
    /// As in [`LinkStatus::state`].
    pub state: String,
    /// As in [`LinkStatus::lag_ms`].
    pub lag_ms: u64,
    /// As in [`LinkStatus::lag_known`].
    pub lag_known: bool,
    /// As in [`LinkStatus::backlog_records`].
    pub backlog_records: u64,
    /// As in [`LinkStatus::backlog_bytes`].
    pub backlog_bytes: u64,
    /// Why it is in that state.
    pub cause: String,
}

/// A region's servers and tablets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The region's name.
    pub region: String,
    /// The region's number.
    pub region_id: u32,
    /// The software's version on the node that answered.
    pub version: String,
    /// The node that leads the catalog; 0 = none does.
    pub catalog_leader: u64,
    /// The servers.
    pub nodes: Vec<NodeStatus>,
    /// The tablets, if asked for.
    pub tablets: Vec<TabletStatus>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its number.
    pub id: u64,
    /// `host:port`.
    pub address: String,
    /// Its zone.
    pub zone: String,
    /// It answers the others.
    pub alive: bool,
    /// Replicas of tablets on it.
    pub tablets: u32,
    /// Those that lead.
    pub leaders: u32,
    /// Bytes of data.
    pub disk_used_bytes: u64,
    /// Bytes left on its disk.
    pub disk_free_bytes: u64,
    /// Its software's version.
    pub version: String,
    /// What is wrong with it; empty = nothing.
    pub trouble: String,
}

/// One tablet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TabletStatus {
    /// Its number.
    pub tablet: u64,
    /// Its table.
    pub table: String,
    /// Its rows.
    pub range: RowRange,
    /// The nodes that hold it.
    pub replicas: Vec<u64>,
    /// The node that leads it; 0 = none.
    pub leader: u64,
    /// Bytes on the leader's disk.
    pub disk_bytes: u64,
    /// What is wrong with it; empty = nothing.
    pub trouble: String,
}

/// Administration of one region. Any node of it answers.
#[derive(Clone, Debug)]
pub struct Admin {
    shared: Arc<Shared>,
    region: Option<usize>,
}

impl Admin {
    pub(crate) fn new(shared: Arc<Shared>) -> Admin {
        Admin { shared, region: None }
    }

    /// The same for the region of that name, whichever is active.
    pub fn in_region(&self, region: &str) -> Result<Admin> {
        Ok(Admin {
            region: Some(self.shared.region_named(region)?),
            shared: self.shared.clone(),
        })
    }

    /// Creates a table. With `if_not_exists` it may be repeated; without, a lost answer is an unknown outcome.
    pub async fn create_table(&self, spec: TableSpec) -> Result<TableInfo> {
        let safety = if spec.if_not_exists {
            Safety::Repeatable
        } else {
            Safety::Once
        };
        let request = v1::CreateTableRequest::from(spec);
        let create = |t: Target, r| async move { Ok(t.tables().create_table(t.request(r)).await?.into_inner()) };
        self.ask(safety, request, create).await.map(TableInfo::from)
    }

    /// All tables, by name.
    pub async fn list_tables(&self) -> Result<Vec<TableInfo>> {
        let list = |t: Target, r| async move { Ok(t.tables().list_tables(t.request(r)).await?.into_inner()) };
        let answer = self.ask(Safety::Read, v1::ListTablesRequest {}, list).await?;
        Ok(answer.tables.into_iter().map(TableInfo::from).collect())
    }

    /// One table.
    pub async fn get_table(&self, name: &str) -> Result<TableInfo> {
        let request = v1::GetTableRequest { name: name.to_owned() };
        let get = |t: Target, r| async move { Ok(t.tables().get_table(t.request(r)).await?.into_inner()) };
        self.ask(Safety::Read, request, get).await.map(TableInfo::from)
    }

    /// Changes a table.
    pub async fn alter_table(&self, name: &str, change: TableChange) -> Result<TableInfo> {
        let request = convert::alter(name, change);
        let alter = |t: Target, r| async move { Ok(t.tables().alter_table(t.request(r)).await?.into_inner()) };
        self.ask(Safety::Once, request, alter).await.map(TableInfo::from)
    }

    /// Drops a table and all its cells.
    pub async fn drop_table(&self, name: &str) -> Result<()> {
        let request = v1::DropTableRequest { name: name.to_owned() };
        let drop = |t: Target, r| async move { Ok(t.tables().drop_table(t.request(r)).await?.into_inner()) };
        self.ask(Safety::Once, request, drop).await.map(|_| ())
    }

    /// Registers or changes a peer region.
    pub async fn add_peer(&self, peer: Peer) -> Result<Peer> {
        let request = v1::AddPeerRequest {
            peer: Some(peer.into()),
        };
        let add = |t: Target, r| async move { Ok(t.replication().add_peer(t.request(r)).await?.into_inner()) };
        self.ask(Safety::Repeatable, request, add).await.map(Peer::from)
    }

    /// All peers.
    pub async fn list_peers(&self) -> Result<Vec<Peer>> {
        let list = |t: Target, r| async move { Ok(t.replication().list_peers(t.request(r)).await?.into_inner()) };
        let answer = self.ask(Safety::Read, v1::ListPeersRequest {}, list).await?;
        Ok(answer.peers.into_iter().map(Peer::from).collect())
    }

    /// Forgets a peer that no table is replicated with.
    pub async fn remove_peer(&self, name: &str) -> Result<()> {
        let request = v1::RemovePeerRequest { name: name.to_owned() };
        let remove = |t: Target, r| async move { Ok(t.replication().remove_peer(t.request(r)).await?.into_inner()) };
        self.ask(Safety::Once, request, remove).await.map(|_| ())
    }

    /// Switches replication of a table on, in both regions and both directions.
    pub async fn enable_replication(&self, table: &str, peer: &str) -> Result<EnableOutcome> {
        let request = v1::EnableReplicationRequest {
            table: table.to_owned(),
            peer: peer.to_owned(),
        };
        let enable =
            |t: Target, r| async move { Ok(t.replication().enable_replication(t.request(r)).await?.into_inner()) };
        let answer = self.ask(Safety::Repeatable, request, enable).await?;
        Ok(EnableOutcome {
            created_at_peer: answer.created_at_peer,
            families_added: answer.families_added,
            families_added_here: answer.families_added_here,
        })
    }

    /// Switches replication of a table off, in both regions; with `local_only` here although the peer does not answer.
    pub async fn disable_replication(&self, table: &str, peer: &str, local_only: bool) -> Result<DisableOutcome> {
        let request = v1::DisableReplicationRequest {
            table: table.to_owned(),
            peer: peer.to_owned(),
            local_only,
        };
        let disable =
            |t: Target, r| async move { Ok(t.replication().disable_replication(t.request(r)).await?.into_inner()) };
        self.ask(Safety::Repeatable, request, disable)
            .await
            .map(|_| DisableOutcome)
    }

    /// Stops shipping a table from this region to the peer; what is written meanwhile is kept for it.
    pub async fn pause_replication(&self, table: &str, peer: &str) -> Result<()> {
        let request = v1::PauseReplicationRequest {
            table: table.to_owned(),
            peer: peer.to_owned(),
        };
        let pause =
            |t: Target, r| async move { Ok(t.replication().pause_replication(t.request(r)).await?.into_inner()) };
        self.ask(Safety::Repeatable, request, pause).await.map(|_| ())
    }

    /// Goes on shipping.
    pub async fn resume_replication(&self, table: &str, peer: &str) -> Result<()> {
        let request = v1::ResumeReplicationRequest {
            table: table.to_owned(),
            peer: peer.to_owned(),
        };
        let resume =
            |t: Target, r| async move { Ok(t.replication().resume_replication(t.request(r)).await?.into_inner()) };
        self.ask(Safety::Repeatable, request, resume).await.map(|_| ())
    }

    /// The state of a table's replication, or of all tables', with one entry a tablet if wanted.
    pub async fn replication_status(&self, table: Option<&str>, tablets: bool) -> Result<Vec<LinkStatus>> {
        let request = v1::ReplicationStatusRequest {
            table: table.unwrap_or_default().to_owned(),
            tablets,
        };
        let status =
            |t: Target, r| async move { Ok(t.replication().replication_status(t.request(r)).await?.into_inner()) };
        let answer = self.ask(Safety::Read, request, status).await?;
        Ok(answer.links.into_iter().map(LinkStatus::from).collect())
    }

    /// The state of the region's servers, and of its tablets if wanted.
    pub async fn cluster_status(&self, tablets: bool) -> Result<ClusterStatus> {
        let request = v1::ClusterStatusRequest { tablets };
        let status = |t: Target, r| async move { Ok(t.cluster().cluster_status(t.request(r)).await?.into_inner()) };
        self.ask(Safety::Read, request, status).await.map(ClusterStatus::from)
    }

    /// One administrative request, at any node. Schema changes go through several groups and the peer: they get twice
    /// the usual time.
    async fn ask<R, T, F, Fut>(&self, safety: Safety, request: R, rpc: F) -> Result<T>
    where
        R: Clone,
        F: Fn(Target, R) -> Fut,
        Fut: Future<Output = std::result::Result<T, Failure>>,
    {
        let call = Call {
            table: None,
            row: None,
            safety,
            region: self.region,
            timeout: self.shared.options.request_timeout * 2,
        };
        self.shared.call(call, |target| rpc(target, request.clone())).await
    }
}
