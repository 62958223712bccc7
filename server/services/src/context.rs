//! What every service holds, and the seams through which the node fills it.

use crate::admission::Admission;
use crate::errors::Failure;
use crate::peer_client::PeerClients;
use crate::split::RowMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{Error, GroupId, NodeId, RegionId, Result, RowRange, TableId, TableSchema, TabletId};
use tidemark_catalog::{Catalog, CatalogView, Leaders};
use tidemark_consensus::Host;
use tidemark_replication::{RegionIdentity, Replicator};
use tidemark_runtime::{Entropy, Metrics, SharedClock};
use tidemark_tablet::Tablet;

/// How long a request waits for a newer catalog when it names something that this node has not heard of.
const CATALOG_PATIENCE: Duration = Duration::from_secs(1);
/// The delay told to a caller while the catalog cannot be asked: about an election.
const CATALOG_RETRY: Duration = Duration::from_millis(500);

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The cluster's configured name: nodes of another cluster are refused.
    pub cluster: String,
    /// The region's name.
    pub region_name: String,
    /// The region's number.
    pub region: RegionId,
    /// This node.
    pub node: NodeId,
    /// Where others reach its gRPC listener, `host:port`.
    pub address: String,
    /// The release that it runs.
    pub version: String,
    /// Which life of this number it is; see `NodeRecord::incarnation`.
    pub incarnation: String,
}

impl NodeIdentity {
    /// The region as it calls itself to other regions.
    pub fn region_identity(&self) -> RegionIdentity {
        RegionIdentity {
            name: self.region_name.clone(),
            region: self.region,
        }
    }
}

/// The tablets that this node hosts. Implemented by the node.
pub trait TabletDirectory: Send + Sync {
    /// The replica of that tablet here.
    fn get(&self, tablet: TabletId) -> Option<Tablet>;
    /// Every replica here.
    fn all(&self) -> Vec<Tablet>;
}

/// One tablet that a node leads, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeadingGroup {
    /// The tablet's group.
    pub group: GroupId,
    /// The term of its leadership.
    pub term: u64,
    /// Bytes on disk of this replica.
    pub disk_bytes: u64,
    /// What is wrong with it, in words; empty = nothing.
    pub trouble: String,
}

/// A node's answer to a ping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pong {
    /// The release that it runs.
    pub version: String,
    /// Its wall clock, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Replicas that it hosts.
    pub tablets: u32,
    /// Bytes used on the file system of its data directory.
    pub disk_used_bytes: u64,
    /// Bytes free there.
    pub disk_free_bytes: u64,
    /// What is wrong with the node, in words; empty = nothing.
    pub trouble: String,
    /// What it leads.
    pub leading: Vec<LeadingGroup>,
}

/// What this node knows of itself. Implemented by the node.
pub trait NodeInfo: Send + Sync {
    /// The answer to a ping: cheap, asked about once a second by each neighbour.
    fn pong(&self) -> Pong;
}

/// What the services are made of. Clones share everything.
#[derive(Clone)]
pub struct ServiceContext {
    /// Tables, tablets, nodes, peers.
    pub catalog: Catalog,
    /// Replicas on this node.
    pub tablets: Arc<dyn TabletDirectory>,
    /// Replication between regions.
    pub replicator: Replicator,
    /// Best known leaders.
    pub leaders: Leaders,
    /// The other nodes of this region.
    pub peers: Arc<PeerClients>,
    /// Time.
    pub clock: SharedClock,
    /// Randomness, for tokens and request ids.
    pub entropy: Entropy,
    /// Bounds.
    pub admission: Arc<Admission>,
    /// Metrics.
    pub metrics: Metrics,
    /// Who this node is.
    pub identity: NodeIdentity,
    /// Raft groups on this node.
    pub host: Host,
    /// What this node says of itself.
    pub node_info: Arc<dyn NodeInfo>,
}

/// A table as one request sees it: one view of the catalog from beginning to end.
#[derive(Clone)]
pub struct TableView {
    /// The catalog.
    pub view: Arc<CatalogView>,
    /// The table.
    pub id: TableId,
    /// Its name.
    pub name: String,
    /// Its schema.
    pub schema: Arc<TableSchema>,
}

impl TableView {
    fn of(view: Arc<CatalogView>, name: &str) -> Result<TableView> {
        let record = view.table_or_error(name)?;
        let (id, name) = (record.id, record.name.clone());
        let schema = view.schema(id).unwrap_or_else(|| Arc::new(record.schema(view.region)));
        Ok(TableView { view, id, name, schema })
    }
}

impl RowMap for TableView {
    fn route(&self, row: &[u8]) -> Option<(TabletId, &RowRange)> {
        self.view.route(self.id, row).map(|tablet| (tablet.id, &tablet.range))
    }

    fn overlapping(&self, range: &RowRange) -> Vec<(TabletId, &RowRange)> {
        let tablets = self.view.overlapping(self.id, range).into_iter();
        tablets.map(|tablet| (tablet.id, &tablet.range)).collect()
    }
}

impl ServiceContext {
    /// Runs `work` on a table. Where it fails because this node's catalog may be behind (a table or family that another
    /// node has just created), it waits for the catalog and tries once more. What is unknown then, although the catalog
    /// could not be asked, is `CATALOG_UNAVAILABLE`: that something does not exist is said only by the catalog as it is now.
    pub async fn with_table<T>(
        &self,
        name: &str,
        work: impl Fn(&TableView) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        let attempt = |view| {
            TableView::of(view, name)
                .map_err(Failure::from)
                .and_then(|table| work(&table))
        };
        let view = self.catalog.view();
        let revision = view.revision;
        let first = match attempt(view) {
            Err(failure) if is_unknown(&failure.error) => failure,
            other => return other,
        };
        match self.newer_catalog(revision).await {
            Ok(false) => Err(first),
            Ok(true) => attempt(self.catalog.view()),
            Err(unavailable) => match attempt(self.catalog.view()) {
                Err(failure) if is_unknown(&failure.error) => Err(unavailable.into()),
                other => other,
            },
        }
    }

    /// Waits, bounded, until this node has everything that the catalog had when it was asked; true if that is newer than
    /// `revision`. `CATALOG_UNAVAILABLE` where the catalog could not be asked: the view may then lack anything.
    pub async fn newer_catalog(&self, revision: u64) -> Result<bool> {
        match tokio::time::timeout(CATALOG_PATIENCE, self.catalog.read_barrier()).await {
            Ok(Ok(())) => Ok(self.catalog.view().revision > revision),
            Ok(Err(error)) => Err(catalog_unavailable(error.message())),
            Err(_) => Err(catalog_unavailable("it did not answer in time")),
        }
    }
}

/// True for an error that a newer catalog may take away.
pub fn is_unknown(error: &Error) -> bool {
    matches!(error.reason(), "TABLE_UNKNOWN" | "FAMILY_UNKNOWN")
}

fn catalog_unavailable(why: &str) -> Error {
    let message = format!("the catalog cannot be asked, so this node may not know everything: {why}");
    Error::unavailable("CATALOG_UNAVAILABLE", message, CATALOG_RETRY)
        .object("catalog")
        .action("repeat it; if it stays, most of the catalog's nodes are down: tidemark cluster status")
}
