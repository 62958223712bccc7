//! # tidemark-proto: the wires
//!
//! Generated from the `.proto` files beside this crate: the public API ([`v1`], kept for years), node to node
//! ([`internal`], one release) and region to region ([`region`], two releases); and [`dial`], how a channel reaches its address. Nothing here decides anything; the crates
//! at the edge translate by hand into the domain's types.
//!
//! **May not know:** any other crate of Tidemark.

#![allow(missing_docs, clippy::all)]

pub mod dial;

pub use dial::{Accepted, ByteStream, Dial, Dialer};

/// The public API: `tidemark.v1`.
pub mod v1 {
    tonic::include_proto!("tidemark.v1");
}

/// Node to node inside one region.
pub mod internal {
    tonic::include_proto!("tidemark.internal.v1");
}

/// Region to region.
pub mod region {
    tonic::include_proto!("tidemark.region.v1");
}

/// Encoded file descriptors of all services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
