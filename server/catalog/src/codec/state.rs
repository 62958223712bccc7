//! The stored state as JSON: what a restart and a snapshot carry.
//!
//! ```text
//! state := {"v":1, "applied":"<base64: what consensus stores verbatim>", "cluster":"…", "cluster_id":"…"?,
//!           "region":{"name":"…", "number":N}, "seeds":[N…], "revision":N, "next_table":N, "next_tablet":N,
//!           "nodes":[…], "tables":[…], "tablets":[…], "peers":[…], "requests":[{"id":"<hex>", "response":{…}}…]}
//! ```

use super::records::{NodeForm, PeerForm, TableForm, TabletForm};
use super::{Malformed, RegionForm, ResponseForm, VERSION, check_version, from_base64, request_id, to_base64};
use crate::limits::REQUESTS_MAX;
use crate::record::{NodeRecord, PeerRecord};
use crate::state::{CatalogState, Identity, TABLET_FIRST};
use serde::{Deserialize, Serialize};
use tidemark_base::{NodeId, RegionId};
use tidemark_consensus::AppliedState;

/// The state with the position that it stands at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) applied: AppliedState,
    pub(crate) state: CatalogState,
}

#[derive(Serialize, Deserialize)]
struct RequestForm {
    id: String,
    response: ResponseForm,
}

#[derive(Serialize, Deserialize)]
struct StateForm {
    v: u32,
    applied: String,
    cluster: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    region: RegionForm,
    #[serde(default)]
    seeds: Vec<u64>,
    revision: u64,
    next_table: u64,
    next_tablet: u64,
    #[serde(default)]
    nodes: Vec<NodeForm>,
    #[serde(default)]
    tables: Vec<TableForm>,
    #[serde(default)]
    tablets: Vec<TabletForm>,
    #[serde(default)]
    peers: Vec<PeerForm>,
    #[serde(default)]
    requests: Vec<RequestForm>,
}

impl Stored {
    /// As in the module's drawing, indented for people.
    pub(crate) fn encode(applied: &AppliedState, state: &CatalogState) -> Vec<u8> {
        let view = &state.view;
        let request = |(id, response): &(crate::command::RequestId, crate::command::Response)| RequestForm {
            id: id.to_string(),
            response: ResponseForm::from_response(response),
        };
        let form = StateForm {
            v: VERSION,
            applied: to_base64(&applied.encode()),
            cluster: state.cluster.clone(),
            cluster_id: view.cluster_id.clone(),
            region: RegionForm {
                name: view.region_name.clone(),
                number: view.region.0,
            },
            seeds: state.seeds.iter().map(|node| node.0).collect(),
            revision: view.revision,
            next_table: state.next_table,
            next_tablet: view.next_tablet,
            nodes: view.nodes.values().map(NodeForm::from).collect(),
            tables: view.tables.values().map(TableForm::from).collect(),
            tablets: view.tablets.values().map(TabletForm::from).collect(),
            peers: view.peers.values().map(PeerForm::from).collect(),
            requests: state.requests.iter().map(request).collect(),
        };
        serde_json::to_vec_pretty(&form).expect("strings, numbers and maps with text keys always have a JSON form")
    }

    /// The inverse of [`Stored::encode`]; checks what apply relies on.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Stored, Malformed> {
        check_version(bytes)?;
        let form: StateForm = serde_json::from_slice(bytes).map_err(Malformed::new)?;
        let applied = AppliedState::decode(&from_base64(&form.applied)?).map_err(Malformed::new)?;
        let identity = Identity {
            cluster: form.cluster,
            region_name: form.region.name,
            region: RegionId(form.region.number),
        };
        let mut state = CatalogState::new(&identity);
        state.seeds = form.seeds.into_iter().map(NodeId).collect();
        state.next_table = form.next_table;
        let view = &mut state.view;
        view.cluster_id = form.cluster_id;
        view.revision = form.revision;
        view.next_tablet = form.next_tablet;
        view.nodes = form
            .nodes
            .into_iter()
            .map(NodeRecord::from)
            .map(|node| (node.id, node))
            .collect();
        view.peers = form
            .peers
            .into_iter()
            .map(PeerRecord::from)
            .map(|peer| (peer.name.clone(), peer))
            .collect();
        for table in form.tables {
            let table = table.into_record()?;
            view.tables.insert(table.id, table);
        }
        for tablet in form.tablets {
            let tablet = tablet.into_record()?;
            view.tablets.insert(tablet.id, tablet);
        }
        if form.requests.len() > REQUESTS_MAX {
            return Err(Malformed::new("too many remembered requests"));
        }
        for request in form.requests {
            state
                .requests
                .push_back((request_id(&request.id)?, request.response.into_response()?));
        }
        check(&state)?;
        state.view.index();
        Ok(Stored { applied, state })
    }
}

/// Numbers that were given may not be given again, and tablets belong to tables.
fn check(state: &CatalogState) -> Result<(), Malformed> {
    let view = &state.view;
    if view.next_tablet < TABLET_FIRST || view.tablets.keys().any(|id| id.0 >= view.next_tablet) {
        return Err(Malformed::new("next_tablet is not above every tablet"));
    }
    if state.next_table == 0 || view.tables.keys().any(|id| id.0 >= state.next_table) {
        return Err(Malformed::new("next_table is not above every table"));
    }
    if view
        .tablets
        .values()
        .any(|tablet| !view.tables.contains_key(&tablet.table))
    {
        return Err(Malformed::new("a tablet belongs to no table"));
    }
    Ok(())
}
