//! # tidemark-simulation: two or three regions in one thread, from a seed
//!
//! The product's own node, client and replication run under simulated time, chance, network and disk. One seed decides
//! everything: the workload, the faults, every delay and every tear. So a run that fails fails again, with one command.
//!
//! ```text
//! seed ─► plan        which faults, when, on whom
//!      ─► workload    what clients ask, recorded as a history; rivals: writes that meet; lag: what regions promise
//!      ─► time        virtual clocks; each node's wall clock has an offset of its own
//!      ─► network     turmoil: latency, cuts in one or both directions, links that hold what is sent
//!      ─► disk        files of the Raft log with an explicit unsynced buffer; a crash drops or tears it
//!      ─► region, site  the hosts: nodes that crash, come back from what was durable, and are looked into
//! logs     what the nodes log, by node
//! run      setup, faults, heal, liveness, audit; after every few steps the invariants, one file each; judge: the checkers
//! patience how long a seed may take: CPU counts, and not the time on the wall
//! trace    a hash over everything that nodes wrote and said: two runs of a seed end in the same one
//! ```
//! One seed a process: the operating system's clock and entropy are answered for the whole process (in the binary only,
//! `os.rs`), and what one run leaves in a static must not leak into the next.
//!
//! **May not know:** how a run is judged beyond its invariants; that is `tests/checkers`.

pub mod audit;
pub mod chance;
pub mod control;
pub mod disk;
pub mod faults;
pub mod invariants;
mod judge;
pub mod lag;
pub mod logs;
pub mod network;
pub mod panics;
pub mod patience;
pub mod plan;
pub mod rivals;
pub mod run;
pub mod site;
pub mod storage;
pub mod time;
pub mod trace;
pub mod workload;
