//! # tidemark-tablet: one key range
//!
//! A tablet is a Raft group whose state machine is an engine: commands go into the log, every replica applies them to its
//! own facts, and all replicas come out the same.
//!
//! **May not know:** other tablets, the catalog, gRPC.
//!
//! ```text
//!   Tablet::write ──► admit ──► proposer ──► Raft log ──► machine ──► apply (Step) ──► operation/<verb> ──► engine
//!                     checks    one task     (consensus)  entries      one batch:       same names in each   one atomic
//!                     R5        stamps R2                              facts, feed,                          write
//!                                                                      cursors, marks
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`tablet`] | the handle: write, conditional writes, remote facts, schema, feed, reads |
//! | `admit` | what the leader checks before the log |
//! | `proposer` | the one task that stamps, joins writes and proposes in order |
//! | `command`, `operation` | the log's payloads: docs/formats/commands.md |
//! | `machine`, `apply` | entries in, one atomic write out |
//! | `state` | the replicated state beside the facts |
//! | [`feed`] | what peers are told: docs/formats/feed.md |
//! | `reading` | walks over cells; rows that are kept ready |
//! | [`remote`], `stream` | what peers tell: parts, cursors, watermarks |
//! | [`quarantine`] | remote rows that cannot be applied yet |
//! | `tokens` | conditional writes take effect once |
//! | `replication_state` | what is published after each apply; the stable cut (R12) |
//! | `room` | apply on a full disk |
//! | `planted` | mistakes on purpose that take more than a line |
//! | `maintain`, `time` | flush, drain, garbage collection, and by which clock |
//! | [`factory`] | where engines come from, and their directories |
//!
//! Invariants: INV-20, local stamps rise strictly along the log and lie above every stamp before them: by the proposer's
//! order, checked at apply (`Step::take_local_stamps`). INV-21, replicas apply alike: apply reads no clock, no setting and
//! nothing that garbage collection changes.
//!
//! When you change a command: its drawing and golden test in `operation/`, docs/formats/commands.md, and think of a group
//! whose nodes run two versions. A feed record: `feed`'s drawing, docs/formats/feed.md, and the peer may be two releases
//! away. A state record: `state`'s drawing, and old directories must open.

mod admit;
mod apply;
mod closed;
mod codec;
mod command;
pub mod decoders;
mod descriptor;
mod error;
pub mod factory;
pub mod feed;
mod machine;
mod maintain;
mod operation;
mod planted;
mod proposer;
pub mod quarantine;
mod reading;
pub mod remote;
mod replication_state;
mod response;
mod room;
mod settings;
mod shared;
mod state;
mod stream;
pub mod tablet;
#[cfg(test)]
mod tests;
mod time;
mod tokens;

pub use descriptor::TabletDescriptor;
pub use error::engine_error;
pub use factory::{EngineFactory, MemoryFactory, RocksFactory};
pub use feed::FeedEntry;
pub use operation::read_modify_write::{RULES_MAX, RmwChange, RmwRule};
pub use quarantine::{Discarded, QuarantineEntry, QuarantinePage};
pub use reading::ReadEnd;
pub use remote::{RemoteBatch, RemoteOutcome, RemotePart, UnreadableRecord};
pub use replication_state::{PeerQuarantine, ReplicationState};
pub use response::OwnedCell;
pub use settings::TabletSettings;
pub use stream::{AHEAD_MAX, StreamId, StreamState};
pub use tablet::{CheckAndMutate, ReadModifyWrite, Tablet, TabletOptions, WriteOutcome};
pub use time::LogTime;
pub use tokens::Token;
// What the handle's signatures name of the layers below, for callers that do not depend on those crates.
pub use tidemark_consensus::{Group, GroupStatus, Host, Role};
pub use tidemark_engine::{CellCursor, Engine, EngineError, FeedRecord, RangeDigest};
