//! What the catalog knows, as plain records. Domain types: their JSON forms live in `codec` and nowhere else.

use std::collections::BTreeMap;
use tidemark_base::schema::FamilySettings;
use tidemark_base::{Error, ErrorKind, FamilyId, NodeId, RegionId, Result, RowRange, TableId, TableSchema, TabletId};

/// One table server process of this region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its number: given once, never reused.
    pub id: NodeId,
    /// Where its gRPC listener is reached, `host:port`.
    pub address: String,
    /// What fails together with it. Replicas of a tablet go to distinct zones where there are enough.
    pub zone: String,
    /// The release that it runs.
    pub version: String,
    /// When this registration was last changed; milliseconds since the Unix epoch, by the clock of the registering node.
    pub registered_ms: u64,
    /// Which life of that number this is: random, made with the node's data directory and kept with it. Another one under
    /// the same number has forgotten its votes and what it acknowledged, and is refused. Empty = not told yet.
    pub incarnation: String,
}

/// The reason with which a node is refused whose number belongs to another incarnation.
pub const NODE_ID_USED: &str = "NODE_ID_USED";

impl NodeRecord {
    /// Refuses (`NODE_ID_USED`) whoever comes under this number and is another incarnation of it. A record that was not
    /// told yet takes anyone.
    pub fn check_incarnation(&self, incarnation: &str) -> Result<()> {
        if self.incarnation.is_empty() || self.incarnation == incarnation {
            return Ok(());
        }
        let say = format!(
            "{} is known here as another node: its data directory was lost or replaced, and with it what it had voted \
             for and acknowledged",
            self.id
        );
        Err(Error::new(ErrorKind::FailedPrecondition, NODE_ID_USED, say)
            .object(self.id.to_string())
            .action("start it with an empty directory under a new node.id, or give it its old directory back"))
    }
}

/// One family of a table with the generation that its id is derived from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyRecord {
    /// Settings as the tablets get them.
    pub settings: FamilySettings,
    /// 0 for the first family of that name, one more after each drop.
    pub generation: u32,
}

/// How far switching replication on has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The feed is being written (so that nothing is missed), the peer is not ready yet.
    Preparing,
    /// Both regions are ready: the feed is shipped and what the peer ships is taken.
    Enabled,
}

impl LinkState {
    /// The stable name, as in reports.
    pub fn name(self) -> &'static str {
        match self {
            LinkState::Preparing => "PREPARING",
            LinkState::Enabled => "ENABLED",
        }
    }
}

/// A table's replication with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRecord {
    /// The peer's region number, as registered when the link was made.
    pub peer: RegionId,
    /// How far it has come.
    pub state: LinkState,
    /// Shipping from here is stopped by an operator; the feed goes on.
    pub paused: bool,
    /// When state or pause last changed; milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// When the link was made, milliseconds since the Unix epoch; nothing that it has to ship is older.
    pub linked_at_ms: u64,
    /// The table's revision that the link came with: tells it from an earlier one with the same peer. Not the time: a
    /// clock may show one moment twice.
    pub link: u64,
    /// The number of the table at the peer that the link is with; known once the link is enabled. A table of the same name
    /// that was created later is another one.
    pub peer_table: Option<TableId>,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRecord {
    /// Its number in this region: never reused.
    pub id: TableId,
    /// Its name, unique in the region; names pair tables of two regions.
    pub name: String,
    /// Revision of the schema, from 1. Rises with each change that tablets must learn: families, max_future, peers.
    pub revision: u64,
    /// Living families, in the order of their creation.
    pub families: Vec<FamilyRecord>,
    /// For every family name ever used here: the least generation that was never used. Ids are never reused.
    pub next_generations: BTreeMap<String, u32>,
    /// How far ahead of the leader's clock a client's version may be (R8); microseconds.
    pub max_future_micros: i64,
    /// Replication, by the peer's name.
    pub links: BTreeMap<String, LinkRecord>,
}

impl TableRecord {
    /// The living family of that name.
    pub fn family(&self, name: &str) -> Option<&FamilyRecord> {
        self.families.iter().find(|family| family.settings.name == name)
    }

    /// The schema for this table's tablets in `region`. A preparing link counts as a peer: the feed must be written
    /// before the first write that the peer has to see.
    pub fn schema(&self, region: RegionId) -> TableSchema {
        let mut peers: Vec<RegionId> = self.links.values().map(|link| link.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        TableSchema {
            revision: self.revision,
            max_future_micros: self.max_future_micros,
            peers,
            links: self.links.values().map(|link| (link.peer, link.link)).collect(),
            families: self.families.iter().map(|family| family.settings.clone()).collect(),
            dropped: self.dropped_families(),
            ..TableSchema::new(region)
        }
    }

    /// Every id that no family of this table can have any more, ascending (INV-30): those of generations that are used up
    /// and do not live. A generation that was skipped here, because the peer was further on, is among them: what the peer
    /// still ships of it can never be of use here. At most `FAMILIES_EVER_MAX`, because a new family is refused beyond.
    ///
    /// Derived and not stored: a second list could disagree with `next_generations`, which decides about new families.
    fn dropped_families(&self) -> Vec<FamilyId> {
        let used = self.next_generations.iter().flat_map(|(name, next)| {
            let ids = (0..*next).map(move |generation| FamilyId::derive(name, generation));
            ids.filter(|id| self.families.iter().all(|family| family.settings.id != *id))
        });
        let mut ids: Vec<FamilyId> = used.collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// One tablet: a key range of a table and where its replicas are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TabletRecord {
    /// Its number, which is also its Raft group's: from 2 on, never reused.
    pub id: TabletId,
    /// The table.
    pub table: TableId,
    /// Its rows. The tablets of a table cover every row exactly once.
    pub range: RowRange,
    /// Its replicas; the first is the preferred leader.
    pub replicas: Vec<NodeId>,
}

/// Another region that tables may be replicated with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// The region's name, as it calls itself.
    pub name: String,
    /// The region's number, part of its stamps.
    pub region: RegionId,
    /// `host:port` of some of its nodes, tried in turn.
    pub addresses: Vec<String>,
}
