//! What can be asked of the catalog, and its answers.
//!
//! A command travels in an envelope with a request id and the time at which it was issued, so that apply needs no clock
//! and a retry applies once. Commands whose caller may retry by itself (create, alter) carry the request id visibly.

use crate::record::PeerRecord;
use crate::state::Identity;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use tidemark_base::schema::{Compression, Layout};
use tidemark_base::{NodeId, TableId};
use tidemark_runtime::Entropy;

/// Identifies one request through all its retries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub [u8; 16]);

impl RequestId {
    /// A fresh one. Not with entropy that repeats after a restart: the catalog would answer with what it remembers.
    pub fn random(entropy: &Entropy) -> RequestId {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        RequestId(bytes)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A family as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilySpec {
    /// Name; see `tidemark_base::names`.
    pub name: String,
    /// Time to live in microseconds, at least 1,000; none = for ever.
    pub ttl_micros: Option<i64>,
    /// Versions of a column that count, at least 1; none = all.
    pub max_versions: Option<u32>,
    /// Storage compression.
    pub compression: Compression,
    /// Physical layout; none = cells for a new family, as it is for one that is changed. A time block is between
    /// [`SERIES_BLOCK_MICROS_MIN`](crate::limits::SERIES_BLOCK_MICROS_MIN) and
    /// [`SERIES_BLOCK_MICROS_MAX`](crate::limits::SERIES_BLOCK_MICROS_MAX) long.
    pub layout: Option<Layout>,
}

impl FamilySpec {
    /// A family with no limits.
    pub fn new(name: impl Into<String>) -> FamilySpec {
        FamilySpec {
            name: name.into(),
            ttl_micros: None,
            max_versions: None,
            compression: Compression::default(),
            layout: None,
        }
    }
}

/// A step in the life of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// Begin: the feed is written from now on. No effect on a link that is there already.
    Prepare,
    /// The peer is ready. Refused unless prepared, and if the link is enabled with another table; no effect if enabled.
    Enable {
        /// The number of the table there.
        peer_table: TableId,
    },
    /// Stop shipping from here.
    Pause,
    /// Ship again.
    Resume,
    /// End. No effect if there is no link.
    Remove,
}

/// What is asked of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Founds the cluster: its first command, issued by the leader itself and by every node at its start. Carries, out of
    /// the caller's sight, the region that this node is configured for and the seeds. Later ones of the same cluster have
    /// no effect and answer with the first one's id; one of another cluster is refused.
    Bootstrap {
        /// Random.
        cluster_id: String,
    },
    /// A node announces itself at start, or after its address changed. A repeat that changes nothing has no effect. Refused
    /// (`NODE_ID_USED`) for a number that is known under another incarnation.
    RegisterNode {
        /// Its number.
        id: NodeId,
        /// `host:port` of its gRPC listener.
        address: String,
        /// What fails together with it.
        zone: String,
        /// The release that it runs, at most 128 bytes.
        version: String,
        /// Its clock; milliseconds since the Unix epoch.
        now_ms: u64,
        /// See [`crate::NodeRecord::incarnation`]; at most 64 bytes.
        incarnation: String,
    },
    /// Makes a table and places its tablets. Answers [`Answer::Table`].
    CreateTable {
        /// The same in every retry.
        request_id: RequestId,
        /// Unique in the region.
        name: String,
        /// At most 64, names distinct.
        families: Vec<FamilySpec>,
        /// First rows of the second and later tablets: ascending, distinct, not empty, at most 4 KiB each, at most 1,023.
        split_at: Vec<Bytes>,
        /// None = the default of one day.
        max_future_micros: Option<i64>,
        /// A table of that name with the same families and max_future is an answer, not an error.
        if_not_exists: bool,
        /// By family name, for a table that is made after a peer's: the peer's generations, so that the ids agree. A
        /// family that is not named gets 0.
        generations: Option<BTreeMap<String, u32>>,
    },
    /// Changes a table's families: drops, then sets, then adds. All or nothing. Answers [`Answer::Table`].
    AlterTable {
        /// The same in every retry.
        request_id: RequestId,
        /// The table.
        name: String,
        /// New families.
        add: Vec<FamilySpec>,
        /// Families whose settings are all replaced.
        set: Vec<FamilySpec>,
        /// Families that go, with their cells.
        drop: Vec<String>,
        /// None = as it was.
        max_future_micros: Option<i64>,
        /// As in `CreateTable`, for the added families. Refused if one is below what this region has used already.
        generations: Option<BTreeMap<String, u32>>,
        /// The issuer's clock: raising a TTL leaves an expiry floor (R10).
        now_micros: i64,
        /// At or above every stamp that a compaction may have seen under the old settings: the issuer's clock plus the
        /// greatest offset between clocks (R11). See [`crate::alter_hlc`].
        hlc: u64,
    },
    /// Removes a table and its tablets. Refused while a link exists.
    DropTable {
        /// The table.
        name: String,
    },
    /// Registers a peer or changes its addresses.
    PutPeer(PeerRecord),
    /// Forgets a peer. Refused while a link uses it.
    RemovePeer {
        /// The peer.
        name: String,
    },
    /// Changes a table's link with a peer.
    SetLink {
        /// The table.
        table: String,
        /// The peer.
        peer: String,
        /// The step.
        change: LinkChange,
    },
    /// Changes nothing: its place in the log is its meaning (a read barrier asked for on a follower).
    Barrier,
}

impl Command {
    /// The request id that the caller chose, if this command carries one.
    pub fn request_id(&self) -> Option<RequestId> {
        match self {
            Command::CreateTable { request_id, .. } | Command::AlterTable { request_id, .. } => Some(*request_id),
            _ => None,
        }
    }

    /// The name for logs.
    pub fn verb(&self) -> &'static str {
        match self {
            Command::Bootstrap { .. } => "bootstrap",
            Command::RegisterNode { .. } => "register_node",
            Command::CreateTable { .. } => "create_table",
            Command::AlterTable { .. } => "alter_table",
            Command::DropTable { .. } => "drop_table",
            Command::PutPeer(_) => "put_peer",
            Command::RemovePeer { .. } => "remove_peer",
            Command::SetLink { .. } => "set_link",
            Command::Barrier => "barrier",
        }
    }
}

/// What a command came to; refusals are `tidemark_base::Error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is so now.
    Done,
    /// The table created, found or changed.
    Table(TableId),
    /// The cluster's id.
    Cluster(String),
}

/// A command as it is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) request: RequestId,
    /// The issuer's clock; milliseconds since the Unix epoch.
    pub(crate) now_ms: u64,
    /// With [`Command::Bootstrap`] alone: what the cluster is founded as.
    pub(crate) founding: Option<Founding>,
    pub(crate) command: Command,
}

/// What a cluster is founded as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Founding {
    pub(crate) identity: Identity,
    /// Nodes that must have registered before the first table is placed.
    pub(crate) seeds: Vec<NodeId>,
}

/// What apply answers: the outcome, and the revision after it, for which a follower waits before it answers its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) revision: u64,
    pub(crate) outcome: tidemark_base::Result<Answer>,
}
