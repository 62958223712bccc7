//! # tidemark-mutants: do the tests find what they are for?
//!
//! A checker that has never caught anything proves nothing. The product holds mistakes on purpose
//! (`tidemark_runtime::planted`), one of which a process of a test build may run with. For each of them this crate names
//! the evidence that must find it, runs that evidence with the bug and without, and believes only a failure that says
//! what is wrong.
//!
//! ```text
//! evidence   bug ─► what must catch it, and the words of its failure
//! binaries   cargo, once, with the feature: all that evidence runs
//! run        one process, bounded in time, its output in a file
//! judge      output ─► passed, failed with these words, or nothing that counts
//! table      what was caught by what, in how many seconds
//! ```
//! What does not count: a build that fails, a test that was not run, a process that crashed or hung, a failure that says
//! something else, and evidence that fails without the bug as well.
//!
//! **May not know:** how the product works; it starts processes and reads what they print.

pub mod binaries;
pub mod evidence;
pub mod judge;
pub mod run;
pub mod table;
