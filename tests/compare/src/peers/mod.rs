//! The stores that are compared.

mod cassandra;
mod etcd;
mod hbase;
mod influxdb;
mod lines;
mod questdb;
mod rocks;
mod tidemark;
mod victoria_metrics;

use crate::load::Sender;
use crate::package::Shelf;
use anyhow::{Result, bail};
use serde::Serialize;
use std::path::PathBuf;
use tidemark_bench::fleet::Fleet;

/// Every peer there is, in the order of the table.
pub const NAMES: &[&str] = &[
    "tidemark-cells",
    "tidemark-series",
    "rocksdb-cells",
    "rocksdb-ticks",
    "victoria-metrics",
    "influxdb",
    "etcd",
    "questdb",
    "hbase",
    "hbase-hsync",
    "cassandra",
    "cassandra-batch",
];

/// Where and with what a peer is started.
#[derive(Clone, Debug)]
pub struct Site {
    /// Public packages.
    pub shelf: Shelf,
    /// Empty, and the peer's alone.
    pub dir: PathBuf,
    /// What will be loaded.
    pub fleet: Fleet,
    /// Ticks of a batch.
    pub batch: u64,
    /// Runs the client of Tidemark and of etcd.
    pub runtime: tokio::runtime::Handle,
}

/// What has to stand beside a peer's numbers.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// As its package says.
    pub version: String,
    /// Of each row.
    pub copies: u32,
    /// What an answered batch has survived.
    pub durability: &'static str,
    /// Protocol, data model and every setting that is not the default.
    pub how: &'static str,
}

/// A running store with nothing in it.
pub trait Peer {
    /// What has to stand beside its numbers.
    fn about(&self) -> About;
    /// Its processes; none if it runs in this one.
    fn pids(&self) -> Vec<u32>;
    /// Processes of ours beside this one that speak to it: they are the client.
    fn client_pids(&self) -> Vec<u32> {
        Vec::new()
    }
    /// A client's connection. Called once a client.
    fn sender(&self) -> Result<Box<dyn Sender>>;
    /// Brings what was loaded into the form in which it stays on disk, as far as the store offers that.
    fn settle(&mut self) -> Result<()>;
    /// Bytes on disk, all copies together, log included.
    fn disk_bytes(&self) -> Result<u64>;
    /// Its write-ahead log's part of them, as far as that is apart: it does not grow with the data.
    fn log_bytes(&self) -> Result<u64> {
        Ok(0)
    }
    /// How many samples it says it has; `None` if it cannot be asked.
    fn samples(&mut self) -> Result<Option<u64>>;
    /// Ends it.
    fn stop(self: Box<Self>) -> Result<()>;
}

/// Starts a peer by its name. An error is the reason why it is skipped.
pub fn start(name: &str, site: &Site) -> Result<Box<dyn Peer>> {
    use tidemark_bench::table::Layout;
    Ok(match name {
        "tidemark-cells" => Box::new(tidemark::start(site, Layout::Cells)?),
        "tidemark-series" => Box::new(tidemark::start(site, Layout::Series)?),
        "rocksdb-cells" => Box::new(rocks::start(site, rocks::Record::Cell)?),
        "rocksdb-ticks" => Box::new(rocks::start(site, rocks::Record::Tick)?),
        "victoria-metrics" => Box::new(victoria_metrics::start(site)?),
        "influxdb" => Box::new(influxdb::start(site)?),
        "etcd" => Box::new(etcd::start(site)?),
        "questdb" => Box::new(questdb::start(site)?),
        "hbase" => Box::new(hbase::start(site, hbase::Sync::Flush)?),
        "hbase-hsync" => Box::new(hbase::start(site, hbase::Sync::Fsync)?),
        "cassandra" => Box::new(cassandra::start(site, cassandra::Sync::Periodic)?),
        "cassandra-batch" => Box::new(cassandra::start(site, cassandra::Sync::Batch)?),
        other => bail!("there is no peer {other:?}; there are {}", NAMES.join(", ")),
    })
}
