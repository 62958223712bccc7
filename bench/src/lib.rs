//! # tidemark-bench: a load generator
//!
//! Sends a load to a cluster that runs already, and says how fast and at what cost it was taken. `tidemark bench` is its
//! command line; `./x compare` uses its generator and its meters for other stores as well.
//!
//! **May not know:** the server's insides; it sees what a client sees, and what /proc says of processes by their ids.
//!
//! ```text
//!  workload ── workers, one a client ──▶ drive ── op ──▶ client ──▶ cluster
//!     │                                    ▲    └─ latency, counted from when the op was due ─▶ latency
//!   fleet (rows, from a seed)          schedule (when each op is due, whatever became of those before)
//!
//!  drive + meter (CPU and memory of processes) ──▶ report ──▶ a table, or JSON
//! ```
//!
//! **Open loop.** With a rate, op n is due at `start + n / rate`, and its latency counts from then, so that an op that
//! waits behind a slow one is seen to wait (no coordinated omission). With `--rate max` each client sends its next op when
//! the last is answered: that measures throughput, and its latencies say only how long an op took that was sent.
//!
//! | module | what it holds |
//! |---|---|
//! | [`fleet`] | devices and their readings, the same from the same seed, for every store that is measured |
//! | [`schedule`], [`drive`], [`latency`] | when ops are due, who runs them, how long they took |
//! | [`meter`], [`report`] | what it cost, and what is said in the end |
//! | [`table`] | the table that is measured |
//! | [`workload`] | one file a workload: its options and its workers |
//!
//! When you add a workload: a file in `workload`, a line in [`workload::Workload`], a row in docs/PERFORMANCE.md.

pub mod drive;
pub mod fleet;
pub mod latency;
pub mod meter;
pub mod noise;
pub mod report;
pub mod schedule;
pub mod table;
pub mod workload;

pub use report::Report;
pub use workload::{Setting, Workload};
