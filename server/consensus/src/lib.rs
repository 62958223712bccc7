//! Consensus: many Raft groups of opaque entries on one node, with one log store for all of them.
//!
//! **Architecture invariant.** This layer may not know keys, tables, gRPC or RocksDB. It uses base and runtime. openraft is
//! used here and nowhere else, and none of its types leaves this crate.
//!
//! What flows through: a command enters at [`Group::propose`], becomes an entry in the [`LogStore`] of a quorum (durable
//! before anyone says so), is sent to the others through the [`Transport`], and reaches each replica's [`StateMachine`] in
//! the same order. The state machine is the truth about what is applied; the log is its write-ahead log.
//!
//! | module | what |
//! |---|---|
//! | `host` | all groups of a node: start, stop, messages, housekeeping, shutdown |
//! | `group` | one replica: propose, read barrier, members, status |
//! | `barrier` | readers that share confirmation rounds |
//! | `machine`, `state_machine` | the contract with the layer above, and its openraft side |
//! | `log` | the store: segment files, the writer thread, recovery; the memory twin; one conformance suite |
//! | `raft_log` | the openraft side of the log |
//! | `transport`, `network`, `wire` | messages between nodes, their openraft side, their bytes |
//! | `snapshot` | moving a replica's files to another node |
//! | `rest` | groups with nothing to do, which send nothing |
//! | `raft` | openraft's types and their translation |
//! | `testing` | a network in memory with links to cut, and a state machine in memory |
//!
//! The invariants are numbered INV-01 to INV-06 in [`LogStore`]'s module, INV-07 in `rest`. When you change a message, also touch `wire`'s
//! drawing and golden test; when you change a record, `log::record`'s; a setting, [`ConsensusSettings`]' documentation.
//!
//! How the log is kept short: the state machine says what survives without the log ([`StateMachine::durable_index`]); the
//! housekeeping round purges behind it, leaves a tail for followers that lag a little, and asks for a flush where a log
//! has grown long. A follower that needs purged entries is sent a checkpoint.

mod barrier;
mod codec;
pub mod decoders;
mod error;
mod group;
#[cfg(test)]
mod group_tests;
mod host;
mod log;
mod machine;
mod network;
mod raft;
mod raft_log;
mod rest;
mod settings;
mod snapshot;
mod state_machine;
#[cfg(test)]
mod storage_suite;
pub mod testing;
mod transport;
mod types;
mod wire;

pub use codec::Malformed;
pub use error::{ConsensusError, HandleError, ProposeError, ReadError};
pub use group::{Group, Leadership, Pending};
pub use host::{Host, HostOptions};
pub use log::{
    Completion, FileLog, FileLogOptions, LogDisk, LogError, LogFile, LogState, LogStore, LogWriter, MemoryLog,
    SystemDisk, Vote,
};
pub use machine::{ApplyError, CheckpointError, StateMachine, StateMachineFault};
pub use settings::ConsensusSettings;
pub use transport::{MessageKind, RaftMessage, Transport, TransportError};
pub use types::{AppliedState, Entry, GroupStatus, LogPosition, Payload, Proposed, Role};
