//! # tidemark-integration: the product as its users meet it
//!
//! Real processes on loopback, the real client, the real command line. This library holds what the tests share; the tests
//! are one binary (`tests/all`), so that linking happens once, and they run one at a time, because each of them starts
//! several servers.
//!
//! | module | what it holds |
//! |---|---|
//! | [`scene`] | a started world with clients, one test at a time, each with a time limit |
//! | [`command`] | running `tidemark` and looking at what it says |
//! | [`load`] | writers that note what was acknowledged |
//! | [`shown`] | everything that a region shows, as a map |
//! | [`history`] | writes with the times at which they ran: which of them may have won? |
//! | [`mount`] | a small file system that can be full |
//!
//! **May not know:** the server's insides, except where a test damages them on purpose.

pub mod command;
pub mod history;
pub mod load;
pub mod mount;
pub mod scene;
pub mod shown;
