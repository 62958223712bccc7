//! The services of one node and of several, in one process. One binary, so that linking happens once.

#![allow(clippy::unwrap_used)] // These are tests, their short forms included.

mod one_node;
mod three_nodes;
mod trouble;
mod two_regions;
mod world;
