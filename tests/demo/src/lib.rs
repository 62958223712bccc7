//! # tidemark-demo: a disaster in a minute
//!
//! Starts two regions of three servers each as real processes, lets a device fleet write through the Rust client, kills a
//! tablet's leader, kills a whole region, brings it back, and then compares both regions with each other and with every
//! acknowledged write. `./x demo` runs it.
//!
//! ```text
//! options ─> run ─┬─ stage    processes, clients, set-up          (harness, client)
//!                 ├─ load     fleet and probers write              fleet: what is measured
//!                 ├─ ledger   what was written, what came of it    beats: gaps in service
//!                 ├─ sensors  CSV files, with --csv
//!                 ├─ audit    scans compared with the ledger
//!                 └─ report   text, JSON, the last line            progress: standard error
//! ```
//!
//! **May not know:** the server's insides. It sees what an application and an operator see.
//!
//! When you change what is written, change `audit` with it: a cell that no part of it knows counts as a stranger and
//! fails the demo.

pub mod audit;
pub mod beats;
pub mod fleet;
pub mod ledger;
pub mod load;
pub mod options;
pub mod progress;
pub mod report;
pub mod run;
pub mod sensors;
pub mod stage;
