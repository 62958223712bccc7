//! # tidemark-catalog: what exists in a region, and where
//!
//! Nodes, tables, tablets and peers as one replicated state machine, in a Raft group of its own
//! (`GroupId::CATALOG`), and the plan by which tablets are placed.
//!
//! **May not know:** cell values, tablet internals, gRPC, RocksDB. It uses base, runtime and consensus.
//!
//! What flows through: a [`Command`] enters at [`Catalog::execute`] on any node, is put into an envelope (request id,
//! time) and proposed by the leader; apply (`operation/<verb>.rs`, deterministic) changes the state; every node then
//! publishes a new [`CatalogView`], from which requests are routed without asking anyone.
//!
//! | module | what |
//! |---|---|
//! | `record` | nodes, tables, tablets, peers, links as plain records |
//! | `command` | commands and answers |
//! | `view` | the snapshot that readers route by |
//! | `state`, `operation/<verb>` | the state and its changes |
//! | `placement` | where a new table's tablets go |
//! | `codec` | the JSON forms of commands, answers and the stored state |
//! | `store` | the file in which the state survives |
//! | `machine` | the state as a consensus state machine |
//! | `catalog` | the handle: start, execute, forward, wait |
//! | `leaders` | who leads which group, as a hint |
//! | `limits` | the catalog's own bounds |
//!
//! When you add a command: `command`, `operation/<verb>`, its JSON form and golden example in `codec`, and the list of
//! random commands in the property test. When you change a record: its JSON form; old files must still be read.

mod catalog;
mod codec;
mod command;
pub mod decoders;
mod leaders;
pub mod limits;
mod machine;
mod operation;
mod placement;
mod record;
mod state;
mod store;
mod view;

pub use catalog::{Catalog, CatalogForward, CatalogOptions};
pub use command::{Answer, Command, FamilySpec, LinkChange, RequestId};
pub use leaders::Leaders;
pub use placement::{Candidate, place, replica_count};
pub use record::{
    FamilyRecord, LinkRecord, LinkState, NODE_ID_USED, NodeRecord, PeerRecord, TableRecord, TabletRecord,
};
pub use view::CatalogView;

use tidemark_base::limits::MAX_OFFSET_MS;
use tidemark_runtime::{Clock, hlc_from_ms};

/// The `hlc` of an [`Command::AlterTable`] issued now: this clock plus the greatest offset between clocks.
pub fn alter_hlc(clock: &dyn Clock) -> u64 {
    hlc_from_ms(clock.now_ms().saturating_add(MAX_OFFSET_MS + 1))
}
