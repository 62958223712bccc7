//! # tidemark-compare: the same rows into Tidemark and into the stores that its users would otherwise take
//!
//! Run by `./x compare`. Each peer is its public package, unpacked into a directory of its own and started by this program
//! with fresh data on loopback, its own defaults, and its process id remembered; nothing is installed, no service is
//! touched. What cannot be had here is skipped, loudly.
//!
//! **May not know:** the server's insides. It knows the protocols of its peers, each in a file of its own, and therefore
//! may use the libraries that speak them.
//!
//! ```text
//!  for each run, for each peer:          (so A B C A B C: what the machine does meanwhile hits all of them alike)
//!     start ─▶ load: fleet ─▶ batches ─▶ one sender a client ─▶ answers ─▶ settle ─▶ bytes on disk ─▶ end, remove
//!  then: the median of the runs, one row a peer
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`peers`] | what a peer is, and one file for each |
//! | [`load`] | clients that send batches and note how long each took |
//! | [`loader`] | Java processes of ours, for stores that only a Java library speaks to |
//! | [`package`] | public packages, unpacked |
//! | [`process`], [`spin`] | processes that are ours, and what keeps the machine awake |
//! | [`web`] | as much HTTP as peers need |
//! | [`run`], [`verdict`] | the order of things, and the table |

pub mod load;
pub mod loader;
pub mod package;
pub mod peers;
pub mod process;
pub mod run;
pub mod spin;
pub mod verdict;
pub mod web;
