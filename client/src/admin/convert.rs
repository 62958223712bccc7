//! Between the plain types of administration and the wire, by hand.

use super::{
    ClusterStatus, Compression, Family, Layout, LinkStatus, NodeStatus, Peer, StreamStatus, TableChange, TableInfo,
    TableSpec, TabletStatus,
};
use std::time::Duration;
use tidemark_base::RowRange;
use tidemark_proto::v1;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<Family> for v1::Family {
    fn from(family: Family) -> v1::Family {
        let compression = match family.compression {
            Compression::Lz4 => v1::Compression::Lz4,
            Compression::None => v1::Compression::None,
            Compression::Zstd => v1::Compression::Zstd,
        };
        let (layout, block) = match family.layout {
            None => (v1::Layout::Unspecified, None),
            Some(Layout::Cells) => (v1::Layout::Cells, None),
            Some(Layout::Series { block }) => (v1::Layout::Series, block),
        };
        v1::Family {
            name: family.name,
            ttl_ms: family.ttl.map(millis),
            max_versions: family.max_versions,
            compression: compression.into(),
            id: 0,
            layout: layout.into(),
            block_ms: block.map(millis),
        }
    }
}

impl From<v1::Family> for Family {
    fn from(family: v1::Family) -> Family {
        Family {
            compression: match family.compression() {
                v1::Compression::Lz4 => Compression::Lz4,
                v1::Compression::None => Compression::None,
                v1::Compression::Zstd => Compression::Zstd,
            },
            layout: match family.layout() {
                v1::Layout::Unspecified => None,
                v1::Layout::Cells => Some(Layout::Cells),
                v1::Layout::Series => Some(Layout::Series {
                    block: family.block_ms.map(Duration::from_millis),
                }),
            },
            name: family.name,
            ttl: family.ttl_ms.map(Duration::from_millis),
            max_versions: family.max_versions,
        }
    }
}

fn families(families: Vec<Family>) -> Vec<v1::Family> {
    families.into_iter().map(v1::Family::from).collect()
}

impl From<TableSpec> for v1::CreateTableRequest {
    fn from(spec: TableSpec) -> v1::CreateTableRequest {
        v1::CreateTableRequest {
            name: spec.name,
            families: families(spec.families),
            split_at: spec.split_at.into_iter().map(Into::into).collect(),
            max_future_ms: spec.max_future.map_or(0, millis),
            if_not_exists: spec.if_not_exists,
        }
    }
}

pub(super) fn alter(name: &str, change: TableChange) -> v1::AlterTableRequest {
    v1::AlterTableRequest {
        name: name.to_owned(),
        add_families: families(change.add_families),
        set_families: families(change.set_families),
        drop_families: change.drop_families,
        max_future_ms: change.max_future.map(millis),
    }
}

impl From<v1::Table> for TableInfo {
    fn from(table: v1::Table) -> TableInfo {
        TableInfo {
            name: table.name,
            id: table.id,
            families: table.families.into_iter().map(Family::from).collect(),
            max_future: Duration::from_millis(table.max_future_ms),
            tablets: table.tablets,
            revision: table.revision,
            peers: table.peers,
        }
    }
}

impl From<Peer> for v1::Peer {
    fn from(peer: Peer) -> v1::Peer {
        v1::Peer {
            name: peer.name,
            region: peer.region,
            addresses: peer.addresses,
        }
    }
}

impl From<v1::Peer> for Peer {
    fn from(peer: v1::Peer) -> Peer {
        Peer {
            name: peer.name,
            region: peer.region,
            addresses: peer.addresses,
        }
    }
}

impl From<v1::LinkStatus> for LinkStatus {
    fn from(link: v1::LinkStatus) -> LinkStatus {
        let outgoing = link.outgoing.unwrap_or_default();
        let incoming = link.incoming.unwrap_or_default();
        LinkStatus {
            table: link.table,
            peer: link.peer,
            state: link.state,
            cause: link.cause,
            action: link.action,
            lag_ms: outgoing.lag_ms,
            lag_known: outgoing.lag_known,
            backlog_records: outgoing.backlog_records,
            backlog_bytes: outgoing.backlog_bytes,
            rows_shipped: outgoing.rows_shipped,
            bytes_shipped: outgoing.bytes_shipped,
            acknowledged_micros: outgoing.acknowledged_micros,
            rpo_ms: incoming.rpo_ms,
            rpo_known: incoming.rpo_known,
            applied_micros: incoming.applied_micros,
            complete_micros: incoming.complete_micros,
            rows_quarantined: incoming.rows_quarantined,
            rows_applied: incoming.rows_applied,
            streams: link.streams.into_iter().map(StreamStatus::from).collect(),
        }
    }
}

impl From<v1::StreamStatus> for StreamStatus {
    fn from(stream: v1::StreamStatus) -> StreamStatus {
        StreamStatus {
            tablet: stream.tablet,
            state: stream.state,
            lag_ms: stream.lag_ms,
            lag_known: stream.lag_known,
            backlog_records: stream.backlog_records,
            backlog_bytes: stream.backlog_bytes,
            cause: stream.cause,
        }
    }
}

impl From<v1::ClusterStatusResponse> for ClusterStatus {
    fn from(status: v1::ClusterStatusResponse) -> ClusterStatus {
        ClusterStatus {
            region: status.region,
            region_id: status.region_id,
            version: status.version,
            catalog_leader: status.catalog_leader,
            nodes: status.nodes.into_iter().map(NodeStatus::from).collect(),
            tablets: status.tablets.into_iter().map(TabletStatus::from).collect(),
        }
    }
}

impl From<v1::NodeStatus> for NodeStatus {
    fn from(status: v1::NodeStatus) -> NodeStatus {
        let node = status.node.unwrap_or_default();
        NodeStatus {
            id: node.id,
            address: node.address,
            zone: node.zone,
            alive: status.alive,
            tablets: status.tablets,
            leaders: status.leaders,
            disk_used_bytes: status.disk_used_bytes,
            disk_free_bytes: status.disk_free_bytes,
            version: status.version,
            trouble: status.trouble,
        }
    }
}

impl From<v1::TabletStatus> for TabletStatus {
    fn from(tablet: v1::TabletStatus) -> TabletStatus {
        let range = tablet.range.unwrap_or_default();
        TabletStatus {
            tablet: tablet.tablet,
            table: tablet.table,
            range: RowRange {
                start: range.start,
                end: range.end,
            },
            replicas: tablet.replicas,
            leader: tablet.leader,
            disk_bytes: tablet.disk_bytes,
            trouble: tablet.trouble,
        }
    }
}
