//! Tidemark: one region of three servers on loopback, with their defaults.

use super::{About, Peer, Site};
use crate::load::{Batch, Sender};
use crate::process::{Process, disk_bytes};
use crate::web::answers;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};
use tidemark_bench::fleet::{Fleet, Tick};
use tidemark_bench::table::{self, Layout};
use tidemark_bench::workload::mutation;
use tidemark_client::{Client, ClientOptions, RowMutation, ScanRequest, Table};
use tidemark_harness::{World, WorldOptions};
use tokio::runtime::Handle;

const NODES: u64 = 3;
const TABLETS: u64 = 4;
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Its files are at rest when they have stayed the same for so long.
const SETTLED_AFTER: Duration = Duration::from_secs(6);
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// Memory and log of the second start, so that what was written goes to the tablets' files and leaves the log.
const SMALL: [(&str, &str); 2] = [
    ("TIDEMARK_STORAGE__MEMTABLES", "4MiB"),
    ("TIDEMARK_STORAGE__LOG_SEGMENT", "1MiB"),
];

pub(super) struct Tidemark {
    world: World,
    /// The servers after their second start.
    again: Vec<Process>,
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
            again: Vec::new(),
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

    /// What was written last stays in memory and in the log until there is more, and nothing asks a server to flush; for the
    /// bytes on disk it is started again with little memory and a short log, after everything else was measured.
    fn settle(&mut self) -> Result<()> {
        let region = &mut self.world.regions[0];
        region.stop_all(Duration::from_secs(30))?;
        let binary = tidemark_harness::world::binary("tidemarkd")?;
        let environment = SMALL.map(|(name, value)| (name, value.to_owned()));
        for node in &region.nodes {
            let arguments = ["--config".to_owned(), node.config_path().display().to_string()];
            let process = Process::start(&binary, &arguments, &environment, &node.log_path())?;
            self.again.push(process);
        }
        for (process, node) in self.again.iter_mut().zip(&region.nodes) {
            process.wait_ready(READY_WITHIN, || answers(&node.spec().admin, "/readyz"))?;
        }
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

    /// Everything below the data directories: tablets, Raft log, catalog.
    fn disk_bytes(&self) -> Result<u64> {
        let nodes = self.world.regions[0].nodes.iter();
        nodes.map(|node| disk_bytes(&node.data_dir())).sum()
    }

    fn samples(&mut self) -> Result<Option<u64>> {
        let count = self.runtime.block_on(self.table.count(ScanRequest::all()))?;
        Ok(Some(count.cells))
    }

    fn log_bytes(&self) -> Result<u64> {
        let nodes = self.world.regions[0].nodes.iter();
        nodes.map(|node| disk_bytes(&node.data_dir().join("log"))).sum()
    }

    fn stop(mut self: Box<Self>) -> Result<()> {
        for process in std::mem::take(&mut self.again) {
            process.stop()?;
        }
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
            let tick = Tick {
                device,
                version,
                values,
            };
            mutation(&tick, &self.names)
        });
        let rows: Vec<RowMutation> = rows.collect();
        self.runtime.block_on(self.table.mutate_rows(&rows))?;
        Ok(())
    }
}
