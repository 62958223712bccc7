//! The replicated state and the one place where a command is dispatched to its verb.
//!
//! ```text
//! execute(envelope):
//!     request remembered?            -> the remembered answer, nothing else
//!     not bootstrapped, other verb?  -> CATALOG_NOT_READY
//!     operation::<verb>::apply       -> changes records, or refuses and changes nothing
//!     changed?                       -> revision + 1, indexes rebuilt
//!     done?                          -> the answer is remembered under the request's id
//! ```
//!
//! No clock, no randomness, no I/O: equal states and equal commands give equal states on every replica.

use crate::command::{Answer, Command, Envelope, RequestId, Response};
use crate::limits::REQUESTS_MAX;
use crate::operation::{
    alter_table, bootstrap, create_table, drop_table, put_peer, register_node, remove_peer, set_link,
};
use crate::record::NodeRecord;
use crate::view::CatalogView;
use std::collections::VecDeque;
use std::time::Duration;
use tidemark_base::{Error, NodeId, RegionId, Result};

/// The first tablet's number: a tablet's group has its number, and group 1 is the catalog.
pub(crate) const TABLET_FIRST: u64 = 2;

/// Which cluster of which region this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) region_name: String,
    pub(crate) region: RegionId,
}

/// Everything that is replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogState {
    pub(crate) view: CatalogView,
    /// Until bootstrap what this node is configured for, from then on what the cluster was founded as.
    pub(crate) cluster: String,
    pub(crate) seeds: Vec<NodeId>,
    pub(crate) next_table: u64,
    /// Answers of the last requests that were done, oldest first; at most [`REQUESTS_MAX`].
    pub(crate) requests: VecDeque<(RequestId, Response)>,
}

/// What a verb did: whether records changed, and its answer.
pub(crate) struct Outcome {
    pub(crate) changed: bool,
    pub(crate) answer: Answer,
}

impl Outcome {
    pub(crate) fn changed(answer: Answer) -> Outcome {
        Outcome { changed: true, answer }
    }

    pub(crate) fn unchanged(answer: Answer) -> Outcome {
        Outcome { changed: false, answer }
    }
}

impl CatalogState {
    /// The state before the first command.
    pub(crate) fn new(identity: &Identity) -> CatalogState {
        CatalogState {
            view: CatalogView::empty(&identity.region_name, identity.region),
            cluster: identity.cluster.clone(),
            seeds: Vec::new(),
            next_table: 1,
            requests: VecDeque::new(),
        }
    }

    /// Which cluster the state belongs to, or is configured for before bootstrap.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            cluster: self.cluster.clone(),
            region_name: self.view.region_name.clone(),
            region: self.view.region,
        }
    }

    /// Applies one command; see the module.
    pub(crate) fn execute(&mut self, envelope: &Envelope) -> Response {
        // INV-31: a retry gets the answer of the first time and changes nothing.
        if let Some((_, response)) = self.requests.iter().rev().find(|(id, _)| *id == envelope.request) {
            return response.clone();
        }
        let outcome = match self.dispatch(envelope) {
            Ok(outcome) => outcome,
            Err(error) => {
                return Response {
                    revision: self.view.revision,
                    outcome: Err(error),
                };
            }
        };
        if outcome.changed {
            self.view.revision += 1;
            self.view.index();
        }
        let response = Response {
            revision: self.view.revision,
            outcome: Ok(outcome.answer),
        };
        // A repeat of a command that changed nothing changes nothing again; only the others need remembering.
        if outcome.changed {
            self.requests.push_back((envelope.request, response.clone()));
            while self.requests.len() > REQUESTS_MAX {
                self.requests.pop_front();
            }
        }
        response
    }

    fn dispatch(&mut self, envelope: &Envelope) -> Result<Outcome> {
        let command = &envelope.command;
        if self.view.cluster_id.is_none() && !matches!(command, Command::Bootstrap { .. } | Command::Barrier) {
            return Err(not_ready());
        }
        match command {
            Command::Bootstrap { cluster_id } => bootstrap::apply(self, cluster_id, envelope.founding.as_ref()),
            Command::RegisterNode {
                id,
                address,
                zone,
                version,
                now_ms,
                incarnation,
            } => {
                let record = NodeRecord {
                    id: *id,
                    address: address.clone(),
                    zone: zone.clone(),
                    version: version.clone(),
                    registered_ms: *now_ms,
                    incarnation: incarnation.clone(),
                };
                register_node::apply(self, record)
            }
            Command::CreateTable {
                name,
                families,
                split_at,
                max_future_micros,
                if_not_exists,
                generations,
                ..
            } => {
                let request = create_table::Request {
                    name,
                    families,
                    split_at,
                    max_future_micros: *max_future_micros,
                    if_not_exists: *if_not_exists,
                    generations: generations.as_ref(),
                };
                create_table::apply(self, &request)
            }
            Command::AlterTable {
                name,
                add,
                set,
                drop,
                max_future_micros,
                generations,
                now_micros,
                hlc,
                ..
            } => {
                let request = alter_table::Request {
                    name,
                    add,
                    set,
                    drop,
                    max_future_micros: *max_future_micros,
                    generations: generations.as_ref(),
                    now_micros: *now_micros,
                    hlc: *hlc,
                };
                alter_table::apply(self, &request)
            }
            Command::DropTable { name } => drop_table::apply(self, name),
            Command::PutPeer(record) => put_peer::apply(self, record),
            Command::RemovePeer { name } => remove_peer::apply(self, name),
            Command::SetLink { table, peer, change } => set_link::apply(self, table, peer, *change, envelope.now_ms),
            Command::Barrier => Ok(Outcome::unchanged(Answer::Done)),
        }
    }
}

/// The reason of [`not_ready`].
pub(crate) const NOT_READY: &str = "CATALOG_NOT_READY";

fn not_ready() -> Error {
    Error::unavailable(
        NOT_READY,
        "the cluster is not bootstrapped yet",
        Duration::from_millis(200),
    )
}

/// A mutable table by name, or `TABLE_UNKNOWN`.
pub(crate) fn table_mut<'a>(state: &'a mut CatalogState, name: &str) -> Result<&'a mut crate::record::TableRecord> {
    let id = state.view.table_or_error(name)?.id;
    Ok(state
        .view
        .tables
        .get_mut(&id)
        .expect("the name index points at a table that is there"))
}
