//! # tidemark-client: the Rust client
//!
//! Connects to one or several regions, prefers the first, moves to another when a whole region is lost and returns with
//! hysteresis. Routes every request to the leader of the row's tablet, batches writes with bounded memory and order per
//! row, retries what may be retried, and says plainly when an outcome is unknown.
//!
//! **May not know:** the server's insides; only `base` (the nouns) and `proto` (the wire), which stops in here: no public
//! type of this crate is a wire type.
//!
//! ```text
//!  Client ── Table ── put/get/scan/check_and_mutate/…        one call: `call` retries single attempts
//!    │         └──── Writer: `writer::core` decides, `writer::run` carries bytes
//!    ├── Admin: tables, replication, cluster
//!    └── Shared: `failover` (which region), `routing` (which node), `connections` (which channel)
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`options`] | settings with units, bounds and defaults |
//! | [`error`] | [`ClientError`]: what to do, where it failed, after how many attempts |
//! | [`mutation`], [`row`], [`filter`] | what is written, what comes back, what is asked |
//! | [`table`], [`scan`], [`writer`], [`admin`] | the handles |
//!
//! When you change how an error is classified (`call::judge`), also look at `writer::core`: it follows the same rules
//! for batches.
//!
//! ```no_run
//! use tidemark_client::{Client, ClientOptions, RowMutation, ScanRequest, now_micros};
//! use futures::StreamExt;
//!
//! # async fn example() -> Result<(), tidemark_client::ClientError> {
//! let options = ClientOptions::builder()
//!     .region("east", ["127.0.0.1:7311", "127.0.0.1:7321"])
//!     .region("west", ["127.0.0.1:8311"])
//!     .build()?;
//! let client = Client::connect(options).await?;
//! let table = client.table("telemetry");
//! table.mutate_row(RowMutation::new("device-17").put("m", "temperature", now_micros(), "21.5")).await?;
//! let mut rows = table.scan(ScanRequest::prefix("device-"));
//! while let Some(row) = rows.next().await {
//!     println!("{:?}", row?.key);
//! }
//! # Ok(()) }
//! ```

pub mod admin;
pub mod aggregate;
mod call;
mod client;
mod connections;
pub mod error;
mod failover;
pub mod filter;
pub mod mutation;
pub mod options;
mod probe;
mod routing;
pub mod row;
pub mod scan;
pub mod table;
pub mod writer;

pub use admin::{
    Admin, ClusterStatus, Compression, DisableOutcome, Discarded, EnableOutcome, Family, Layout, LinkStatus,
    NodeStatus, Peer, Quarantine, QuarantineEntry, StreamStatus, TableChange, TableInfo, TableSpec, TabletStatus,
};
pub use aggregate::{AggregateGroup, AggregateRequest};
pub use client::Client;
pub use error::{ClientError, Result};
pub use filter::{CompareOp, Filter};
pub use mutation::{RowMutation, SERVER_VERSION};
pub use options::{ClientOptions, ClientOptionsBuilder, RegionEndpoints, RetryPolicy};
pub use row::{Cell, Row};
pub use scan::{Consistency, Scan, ScanRequest};
pub use table::{Count, Digest, Rule, Table};
pub use tidemark_base::aggregate::{NumberForm, Stats};
pub use tidemark_base::{ErrorKind, RowRange, VersionRange};
pub use tidemark_proto::{ByteStream, Dial, Dialer};
pub use writer::{WriteTicket, Writer, WriterOptions, Written};

/// The wall clock in microseconds since 1970: a version for a reading taken now. Giving a version makes a put a fact that
/// may be sent twice; [`SERVER_VERSION`] does not.
pub fn now_micros() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}
