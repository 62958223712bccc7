//! Tidemark: one region of three servers on loopback, with their defaults.

use super::{About, Peer, Site};
use crate::load::{Batch, Sender};
use crate::process::disk_bytes;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};
use tidemark_bench::fleet::{self, Fleet};
use tidemark_bench::table::{self, FAMILY, Layout};
use tidemark_client::{Client, ClientOptions, RowMutation, ScanRequest, Table};
use tidemark_harness::{World, WorldOptions};
use tokio::runtime::Handle;

const NODES: u64 = 3;
const TABLETS: u64 = 4;
/// Nothing asks a server to compact; it is waited until its files stay as they are.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

pub(super) struct Tidemark {
    world: World,
    table: Table,
    fleet: Fleet,
    runtime: Handle,
}

pub(super) fn start(site: &Site, layout: Layout) -> Result<Tidemark> {
    site.runtime.block_on(async {
        let options = WorldOptions {
            dir: Some(site.dir.clone()),
            ..WorldOptions::one(NODES)
        };
        let world = World::start(options).await?;
        let region = &world.regions[0];
        let options = ClientOptions::builder()
            .region(&region.name, region.addresses())
            .build()?;
        let client = Client::connect(options).await?;
        let table = table::create(&client, "bench", layout, site.fleet.splits(TABLETS), false).await?;
        Ok(Tidemark {
            world,
            table,
            fleet: site.fleet.clone(),
            runtime: site.runtime.clone(),
        })
    })
}

impl Peer for Tidemark {
    fn about(&self) -> About {
        About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            copies: NODES as u32,
            durability: "fsync of a majority before the answer",
            how: "its Rust client, a batch a call; a row a device, a column a metric; 3 servers, 4 tablets, defaults",
        }
    }

    fn pids(&self) -> Vec<u32> {
        self.world.regions[0]
            .nodes
            .iter()
            .filter_map(|node| node.pid())
            .collect()
    }

    fn sender(&self) -> Result<Box<dyn Sender>> {
        Ok(Box::new(RowSender {
            table: self.table.clone(),
            names: self.fleet.metric_names(),
            runtime: self.runtime.clone(),
        }))
    }

    fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        let (mut last, mut since) = (0, Instant::now());
        while since.elapsed() < SETTLED_AFTER && Instant::now() < deadline {
            let bytes = self.disk_bytes()?;
            if bytes != last {
                (last, since) = (bytes, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        Ok(())
    }

    /// Everything below the data directories: tablets, their memtables' part of the Raft log, the catalog.
    fn disk_bytes(&self) -> Result<u64> {
        let nodes = self.world.regions[0].nodes.iter();
        nodes.map(|node| disk_bytes(&node.data_dir())).sum()
    }

    fn samples(&mut self) -> Result<Option<u64>> {
        let count = self.runtime.block_on(self.table.count(ScanRequest::all()))?;
        Ok(Some(count.cells))
    }

    fn stop(mut self: Box<Self>) -> Result<()> {
        self.world.regions[0]
            .stop_all(Duration::from_secs(30))
            .context("tidemarkd")
    }
}

struct RowSender {
    table: Table,
    names: Vec<String>,
    runtime: Handle,
}

impl Sender for RowSender {
    fn send(&mut self, batch: &Batch) -> Result<()> {
        let rows = batch.iter().map(|(device, version, values)| {
            let columns = self.names.iter().zip(values);
            columns.fold(RowMutation::new(fleet::row(device)), |row, (name, value)| {
                row.put(FAMILY, name, version, value.to_be_bytes())
            })
        });
        let rows: Vec<RowMutation> = rows.collect();
        self.runtime.block_on(self.table.mutate_rows(&rows))?;
        Ok(())
    }
}
