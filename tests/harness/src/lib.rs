//! # tidemark-harness: regions of real processes
//!
//! Starts `tidemarkd` processes on loopback addresses of their own, in directories of their own, and ends only what it
//! started, by process id. Used by the integration tests and by `./x demo`.
//!
//! ```text
//! World::start ─> Region east ─> Node 1..3 (tidemarkd, config file, log file, data directory)
//!              └> Region west ─> Node 1..3
//! ```
//! Every wait has a deadline and says what it was waiting for.

pub mod node;
pub mod oracle;
pub mod ready;
pub mod world;

pub use node::{Launch, NodeProcess, NodeSpec};
pub use world::{RegionHandle, RegionSpec, World, WorldOptions};
