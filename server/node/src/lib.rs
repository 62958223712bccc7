//! # tidemark-node: the `tidemarkd` binary
//!
//! Settings, wiring, start and stop. It knows every layer and decides nothing that a layer could decide.
//!
//! | module | what |
//! |---|---|
//! | [`args`], [`settings`], [`config_page`] | what was typed, checked, shown |
//! | [`surroundings`] | what a node takes from outside: clock, entropy, network, storage |
//! | [`identity`] | whose data directory it is, and that one process at a time has it |
//! | [`serve`] | building the layers and taking them down |
//! | [`tablets`] | making this node's tablets agree with the catalog |
//! | [`liveness`] | neighbours: leaders, clocks, returning leaderships |
//! | [`maintenance`], [`disk`], [`report`] | slow loops, the disk guard, what the node says of itself |
//!
//! When you add a setting: its section in [`settings`], docs/operations/settings.md, and where it is used in [`serve`].

pub mod args;
pub mod config_page;
pub mod disk;
pub mod identity;
pub mod liveness;
pub mod logging;
pub mod maintenance;
pub mod report;
pub mod serve;
pub mod settings;
pub mod surroundings;
pub mod tablets;
