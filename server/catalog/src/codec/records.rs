//! Records as JSON: mirrors, so that the domain's types stay free of it.

use super::{Malformed, from_base64, to_base64};
use crate::record::{FamilyRecord, LinkRecord, LinkState, NodeRecord, PeerRecord, TableRecord, TabletRecord};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidemark_base::schema::{Compression, FamilySettings, Layout, PastLimit};
use tidemark_base::{FamilyId, NodeId, RegionId, RowRange, TableId, TabletId};

#[derive(Serialize, Deserialize)]
pub(super) struct NodeForm {
    id: u64,
    address: String,
    zone: String,
    version: String,
    registered_ms: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    incarnation: String,
}

impl From<&NodeRecord> for NodeForm {
    fn from(node: &NodeRecord) -> NodeForm {
        NodeForm {
            id: node.id.0,
            address: node.address.clone(),
            zone: node.zone.clone(),
            version: node.version.clone(),
            registered_ms: node.registered_ms,
            incarnation: node.incarnation.clone(),
        }
    }
}

impl From<NodeForm> for NodeRecord {
    fn from(form: NodeForm) -> NodeRecord {
        NodeRecord {
            id: NodeId(form.id),
            address: form.address,
            zone: form.zone,
            version: form.version,
            registered_ms: form.registered_ms,
            incarnation: form.incarnation,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct PeerForm {
    name: String,
    region: u16,
    addresses: Vec<String>,
}

impl From<&PeerRecord> for PeerForm {
    fn from(peer: &PeerRecord) -> PeerForm {
        PeerForm {
            name: peer.name.clone(),
            region: peer.region.0,
            addresses: peer.addresses.clone(),
        }
    }
}

impl From<PeerForm> for PeerRecord {
    fn from(form: PeerForm) -> PeerRecord {
        PeerRecord {
            name: form.name,
            region: RegionId(form.region),
            addresses: form.addresses,
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CompressionForm {
    None,
    Lz4,
    Zstd,
}

impl From<Compression> for CompressionForm {
    fn from(compression: Compression) -> CompressionForm {
        match compression {
            Compression::None => CompressionForm::None,
            Compression::Lz4 => CompressionForm::Lz4,
            Compression::Zstd => CompressionForm::Zstd,
        }
    }
}

impl From<CompressionForm> for Compression {
    fn from(form: CompressionForm) -> Compression {
        match form {
            CompressionForm::None => Compression::None,
            CompressionForm::Lz4 => Compression::Lz4,
            CompressionForm::Zstd => Compression::Zstd,
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LayoutForm {
    Cells,
    Series { block_micros: i64 },
}

impl From<Layout> for LayoutForm {
    fn from(layout: Layout) -> LayoutForm {
        match layout {
            Layout::Cells => LayoutForm::Cells,
            Layout::Series { block_micros } => LayoutForm::Series { block_micros },
        }
    }
}

impl From<LayoutForm> for Layout {
    fn from(form: LayoutForm) -> Layout {
        match form {
            LayoutForm::Cells => Layout::Cells,
            LayoutForm::Series { block_micros } => Layout::Series { block_micros },
        }
    }
}

#[derive(Serialize, Deserialize)]
struct PastLimitForm {
    until: u64,
    max_versions: u32,
}

#[derive(Serialize, Deserialize)]
struct FamilyForm {
    id: u32,
    name: String,
    generation: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_micros: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_versions: Option<u32>,
    /// None = the least version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiry_floor: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    past_limits: Vec<PastLimitForm>,
    compression: CompressionForm,
    /// None = cells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layout: Option<LayoutForm>,
}

impl From<&FamilyRecord> for FamilyForm {
    fn from(family: &FamilyRecord) -> FamilyForm {
        let settings = &family.settings;
        let past = |limit: &PastLimit| PastLimitForm {
            until: limit.until,
            max_versions: limit.max_versions,
        };
        FamilyForm {
            id: settings.id.0,
            name: settings.name.clone(),
            generation: family.generation,
            ttl_micros: settings.ttl_micros,
            max_versions: settings.max_versions,
            expiry_floor: Some(settings.expiry_floor).filter(|floor| *floor != i64::MIN),
            past_limits: settings.past_limits.iter().map(past).collect(),
            compression: settings.compression.into(),
            layout: Some(settings.layout)
                .filter(|layout| *layout != Layout::Cells)
                .map(LayoutForm::from),
        }
    }
}

impl FamilyForm {
    fn into_record(self) -> Result<FamilyRecord, Malformed> {
        if self.past_limits.len() > FamilySettings::PAST_LIMITS_MAX {
            return Err(Malformed::new(format!("family {} has too many past limits", self.name)));
        }
        let past = |form: PastLimitForm| PastLimit {
            until: form.until,
            max_versions: form.max_versions,
        };
        let settings = FamilySettings {
            id: FamilyId(self.id),
            name: self.name,
            ttl_micros: self.ttl_micros,
            max_versions: self.max_versions,
            expiry_floor: self.expiry_floor.unwrap_or(i64::MIN),
            past_limits: self.past_limits.into_iter().map(past).collect(),
            compression: self.compression.into(),
            layout: self.layout.map(Layout::from).unwrap_or_default(),
        };
        Ok(FamilyRecord {
            settings,
            generation: self.generation,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LinkStateForm {
    Preparing,
    Enabled,
}

#[derive(Serialize, Deserialize)]
struct LinkForm {
    region: u16,
    state: LinkStateForm,
    #[serde(default)]
    paused: bool,
    since_ms: u64,
    /// Without it, as older releases wrote it, `since_ms` counts.
    #[serde(default)]
    linked_at_ms: Option<u64>,
    #[serde(default)]
    link: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer_table: Option<u64>,
}

impl From<&LinkRecord> for LinkForm {
    fn from(link: &LinkRecord) -> LinkForm {
        LinkForm {
            region: link.peer.0,
            state: match link.state {
                LinkState::Preparing => LinkStateForm::Preparing,
                LinkState::Enabled => LinkStateForm::Enabled,
            },
            paused: link.paused,
            since_ms: link.since_ms,
            linked_at_ms: Some(link.linked_at_ms),
            link: link.link,
            peer_table: link.peer_table.map(|table| table.0),
        }
    }
}

impl From<LinkForm> for LinkRecord {
    fn from(form: LinkForm) -> LinkRecord {
        LinkRecord {
            peer: RegionId(form.region),
            state: match form.state {
                LinkStateForm::Preparing => LinkState::Preparing,
                LinkStateForm::Enabled => LinkState::Enabled,
            },
            paused: form.paused,
            since_ms: form.since_ms,
            linked_at_ms: form.linked_at_ms.unwrap_or(form.since_ms),
            link: form.link,
            peer_table: form.peer_table.map(TableId),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct TableForm {
    id: u64,
    name: String,
    revision: u64,
    families: Vec<FamilyForm>,
    next_generations: BTreeMap<String, u32>,
    max_future_micros: i64,
    #[serde(default)]
    links: BTreeMap<String, LinkForm>,
}

impl From<&TableRecord> for TableForm {
    fn from(table: &TableRecord) -> TableForm {
        TableForm {
            id: table.id.0,
            name: table.name.clone(),
            revision: table.revision,
            families: table.families.iter().map(FamilyForm::from).collect(),
            next_generations: table.next_generations.clone(),
            max_future_micros: table.max_future_micros,
            links: table
                .links
                .iter()
                .map(|(name, link)| (name.clone(), link.into()))
                .collect(),
        }
    }
}

impl TableForm {
    pub(super) fn into_record(self) -> Result<TableRecord, Malformed> {
        Ok(TableRecord {
            id: TableId(self.id),
            name: self.name,
            revision: self.revision,
            families: self
                .families
                .into_iter()
                .map(FamilyForm::into_record)
                .collect::<Result<_, _>>()?,
            next_generations: self.next_generations,
            max_future_micros: self.max_future_micros,
            links: self.links.into_iter().map(|(name, link)| (name, link.into())).collect(),
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct TabletForm {
    id: u64,
    table: u64,
    /// Base64; absent = the first row.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    start: String,
    /// Base64; absent = to the end of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    replicas: Vec<u64>,
}

impl From<&TabletRecord> for TabletForm {
    fn from(tablet: &TabletRecord) -> TabletForm {
        TabletForm {
            id: tablet.id.0,
            table: tablet.table.0,
            start: to_base64(&tablet.range.start),
            end: tablet.range.end.as_deref().map(to_base64),
            replicas: tablet.replicas.iter().map(|node| node.0).collect(),
        }
    }
}

impl TabletForm {
    pub(super) fn into_record(self) -> Result<TabletRecord, Malformed> {
        let range = RowRange {
            start: from_base64(&self.start)?,
            end: self.end.as_deref().map(from_base64).transpose()?,
        };
        Ok(TabletRecord {
            id: TabletId(self.id),
            table: TableId(self.table),
            range,
            replicas: self.replicas.into_iter().map(NodeId).collect(),
        })
    }
}
