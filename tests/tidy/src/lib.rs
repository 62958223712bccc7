//! Rules of this repository that neither the compiler nor clippy can keep.
//!
//! Each rule is a function from a [`Repository`] (paths and texts) to its [`Breach`]es, so that it can be tried on a
//! small planted one: every module here proves that its check can fail. `tests/tidy.rs` applies them all to the real
//! repository. A message says what to do instead.
//!
//! ```text
//! repository  the files
//! source      one Rust file: code without comments and strings, test parts, functions
//! layers      which crate may use which (docs/ARCHITECTURE.md), one address for each heavy library
//! manifest    every dependency says why it is here
//! lengths     files and functions
//! bans        clocks, randomness, unbounded channels, what may not be left behind
//! names       drawers and generations that we refuse, words that do not belong here
//! planted     bugs on purpose: each planted, none in builds for use
//! invariants  INV-.. numbers: document, code and tests agree
//! ```
//!
//! To add a rule: a function here, a planted breach beside it, a line in `tests/tidy.rs`.

pub mod bans;
pub mod invariants;
pub mod layers;
pub mod lengths;
pub mod manifest;
pub mod names;
pub mod planted;
pub mod repository;
pub mod source;

pub use repository::{Breach, File, Repository};
