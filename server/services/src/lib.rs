//! # tidemark-services: gRPC at the edge
//!
//! Translates messages into the domain's words, admits or sheds them, finds who answers, and answers. The one place that
//! maps errors to the wire and back.
//!
//! **May not know:** RocksDB, openraft; how anything is stored or agreed on.
//!
//! ```text
//! request -> call (deadline, numbers, panics) -> admission -> convert -> route by the catalog's view
//!         -> forward: this node leads? the tablet here : the same request at the leader, one hop -> answer + redirect
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`context`] | what services are made of; the traits that the node implements |
//! | [`server`] | all services on one listener, with explicit bounds |
//! | [`call`] | deadline, span, metrics and panics of every request |
//! | [`admission`] | what this node takes on at one time |
//! | [`errors`] | errors to gRPC status and back |
//! | [`convert`] | messages to domain types and back, by hand, with every limit checked |
//! | [`forward`] | any node answers any request |
//! | [`split`] | rows of a request to tablets, pure |
//! | [`data`] | the data service; its methods in [`write`], [`write_stream`], [`read`], [`scan`], [`single_row`], [`digest`], [`aggregate`] |
//! | [`tables`], [`replication`], [`quarantine`], [`cluster`] | administration |
//! | [`peer`], [`peer_client`], `raft_line` | node to node, both sides |
//! | [`region`], [`region_client`] | region to region, both sides |
//! | [`channel`] | connections and their settings |
//!
//! When you change the error map: the client decodes the same details. When you add a public method: its limits in
//! [`convert`], its module, a test in `tests/`, the reflection test's list.

pub mod admission;
pub mod aggregate;
pub mod call;
pub mod channel;
pub mod cluster;
pub mod context;
pub mod convert;
pub mod data;
pub mod digest;
pub mod errors;
pub mod forward;
pub mod peer;
pub mod peer_client;
pub mod quarantine;
mod raft_line;
pub mod read;
pub mod region;
pub mod region_client;
pub mod replication;
pub mod scan;
pub mod scan_message;
pub mod server;
pub mod single_row;
pub mod split;
pub mod tables;
pub mod write;
pub mod write_stream;

pub use admission::{Admission, DiskGuard};
pub use context::{LeadingGroup, NodeIdentity, NodeInfo, Pong, ServiceContext, TabletDirectory};
pub use errors::{Failure, LeaderHint};
pub use peer_client::PeerClients;
pub use region_client::RegionClients;
pub use server::{serve, serve_connections};
