//! Commands as JSON. A verb's name never changes meaning.

use super::records::{CompressionForm, LayoutForm, PeerForm};
use super::{Malformed, from_base64, request_id, to_base64};
use crate::command::{Command, FamilySpec, LinkChange};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidemark_base::schema::Layout;
use tidemark_base::{NodeId, TableId};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CommandForm {
    Bootstrap {
        cluster_id: String,
    },
    RegisterNode {
        id: u64,
        address: String,
        zone: String,
        version: String,
        now_ms: u64,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        incarnation: String,
    },
    CreateTable {
        request: String,
        name: String,
        families: Vec<FamilySpecForm>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        split_at: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_future_micros: Option<i64>,
        #[serde(default)]
        if_not_exists: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generations: Option<BTreeMap<String, u32>>,
    },
    AlterTable {
        request: String,
        name: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        add: Vec<FamilySpecForm>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        set: Vec<FamilySpecForm>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        drop: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_future_micros: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generations: Option<BTreeMap<String, u32>>,
        now_micros: i64,
        hlc: u64,
    },
    DropTable {
        name: String,
    },
    PutPeer(PeerForm),
    RemovePeer {
        name: String,
    },
    SetLink {
        table: String,
        peer: String,
        change: LinkChangeForm,
    },
    Barrier,
}

#[derive(Serialize, Deserialize)]
pub(super) struct FamilySpecForm {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_micros: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_versions: Option<u32>,
    compression: CompressionForm,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layout: Option<LayoutForm>,
}

impl From<&FamilySpec> for FamilySpecForm {
    fn from(spec: &FamilySpec) -> FamilySpecForm {
        FamilySpecForm {
            name: spec.name.clone(),
            ttl_micros: spec.ttl_micros,
            max_versions: spec.max_versions,
            compression: spec.compression.into(),
            layout: spec.layout.map(LayoutForm::from),
        }
    }
}

impl From<FamilySpecForm> for FamilySpec {
    fn from(form: FamilySpecForm) -> FamilySpec {
        FamilySpec {
            name: form.name,
            ttl_micros: form.ttl_micros,
            max_versions: form.max_versions,
            compression: form.compression.into(),
            layout: form.layout.map(Layout::from),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LinkChangeForm {
    Prepare,
    Enable { peer_table: u64 },
    Pause,
    Resume,
    Remove,
}

impl From<LinkChange> for LinkChangeForm {
    fn from(change: LinkChange) -> LinkChangeForm {
        match change {
            LinkChange::Prepare => LinkChangeForm::Prepare,
            LinkChange::Enable { peer_table } => LinkChangeForm::Enable {
                peer_table: peer_table.0,
            },
            LinkChange::Pause => LinkChangeForm::Pause,
            LinkChange::Resume => LinkChangeForm::Resume,
            LinkChange::Remove => LinkChangeForm::Remove,
        }
    }
}

impl From<LinkChangeForm> for LinkChange {
    fn from(form: LinkChangeForm) -> LinkChange {
        match form {
            LinkChangeForm::Prepare => LinkChange::Prepare,
            LinkChangeForm::Enable { peer_table } => LinkChange::Enable {
                peer_table: TableId(peer_table),
            },
            LinkChangeForm::Pause => LinkChange::Pause,
            LinkChangeForm::Resume => LinkChange::Resume,
            LinkChangeForm::Remove => LinkChange::Remove,
        }
    }
}

impl From<&Command> for CommandForm {
    fn from(command: &Command) -> CommandForm {
        let specs = |all: &[FamilySpec]| all.iter().map(FamilySpecForm::from).collect();
        match command.clone() {
            Command::Bootstrap { cluster_id } => CommandForm::Bootstrap { cluster_id },
            Command::RegisterNode {
                id,
                address,
                zone,
                version,
                now_ms,
                incarnation,
            } => CommandForm::RegisterNode {
                id: id.0,
                address,
                zone,
                version,
                now_ms,
                incarnation,
            },
            Command::CreateTable {
                request_id,
                name,
                families,
                split_at,
                max_future_micros,
                if_not_exists,
                generations,
            } => CommandForm::CreateTable {
                request: request_id.to_string(),
                name,
                families: specs(&families),
                split_at: split_at.iter().map(|row| to_base64(row)).collect(),
                max_future_micros,
                if_not_exists,
                generations,
            },
            Command::AlterTable {
                request_id,
                name,
                add,
                set,
                drop,
                max_future_micros,
                generations,
                now_micros,
                hlc,
            } => CommandForm::AlterTable {
                request: request_id.to_string(),
                name,
                add: specs(&add),
                set: specs(&set),
                drop,
                max_future_micros,
                generations,
                now_micros,
                hlc,
            },
            Command::DropTable { name } => CommandForm::DropTable { name },
            Command::PutPeer(peer) => CommandForm::PutPeer(PeerForm::from(&peer)),
            Command::RemovePeer { name } => CommandForm::RemovePeer { name },
            Command::SetLink { table, peer, change } => CommandForm::SetLink {
                table,
                peer,
                change: change.into(),
            },
            Command::Barrier => CommandForm::Barrier,
        }
    }
}

impl CommandForm {
    pub(super) fn into_command(self) -> Result<Command, Malformed> {
        let specs = |all: Vec<FamilySpecForm>| all.into_iter().map(FamilySpec::from).collect();
        Ok(match self {
            CommandForm::Bootstrap { cluster_id } => Command::Bootstrap { cluster_id },
            CommandForm::RegisterNode {
                id,
                address,
                zone,
                version,
                now_ms,
                incarnation,
            } => Command::RegisterNode {
                id: NodeId(id),
                address,
                zone,
                version,
                now_ms,
                incarnation,
            },
            CommandForm::CreateTable {
                request,
                name,
                families,
                split_at,
                max_future_micros,
                if_not_exists,
                generations,
            } => Command::CreateTable {
                request_id: request_id(&request)?,
                name,
                families: specs(families),
                split_at: split_at.iter().map(|row| from_base64(row)).collect::<Result<_, _>>()?,
                max_future_micros,
                if_not_exists,
                generations,
            },
            CommandForm::AlterTable {
                request,
                name,
                add,
                set,
                drop,
                max_future_micros,
                generations,
                now_micros,
                hlc,
            } => Command::AlterTable {
                request_id: request_id(&request)?,
                name,
                add: specs(add),
                set: specs(set),
                drop,
                max_future_micros,
                generations,
                now_micros,
                hlc,
            },
            CommandForm::DropTable { name } => Command::DropTable { name },
            CommandForm::PutPeer(peer) => Command::PutPeer(peer.into()),
            CommandForm::RemovePeer { name } => Command::RemovePeer { name },
            CommandForm::SetLink { table, peer, change } => Command::SetLink {
                table,
                peer,
                change: change.into(),
            },
            CommandForm::Barrier => Command::Barrier,
        })
    }
}
