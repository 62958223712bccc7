//! # tidemark-checkers: what a run proves, and whether it proved anything
//!
//! Simulation and nemesis runs write a history; this crate judges it.
//!
//! ```text
//! history        the records of a run and their writer                 docs/formats/history.md
//! ```
//! **May not know:** how the run was made: no network, no processes, no clock, nothing of the server.

pub mod history;
