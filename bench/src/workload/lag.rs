//! `lag`: a load in the first region, and probes that wait until the second region shows them.
//!
//! ```text
//! collectors ── readings at --rate ──▶ first region ── feed, link ──▶ second region
//! probe: write one row there ──────────▶                             read it here again and again: seen ─▶ latency
//! ```
//! A probe's latency counts from when it was due, its commit in the first region included, to the answer that shows it: an
//! upper bound of the lag, by about one read. The link's own delay is not this tool's business: shape it outside.

use super::ingest::Ingest;
use super::{Load, Setting, metered, options_of};
use crate::drive::{Done, Pace, Worker, drive};
use crate::fleet::Fleet;
use crate::report::{Report, round};
use crate::schedule::Rate;
use crate::table::{self, FAMILY, Layout};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};
use tidemark_client::{Admin, Client, ClientError, LinkStatus, Peer, Table, now_micros};

const PROBERS: u64 = 64;
/// How long the regions may take to begin shipping.
const STREAMING_WITHIN: Duration = Duration::from_secs(30);
/// A probe that is not seen by then counts as wrong.
const SEEN_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// Options of `lag`; the second region is named by --region-addresses.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Lag {
    #[command(flatten)]
    #[serde(flatten)]
    pub fleet: Fleet,
    #[command(flatten)]
    #[serde(flatten)]
    pub load: Load,
    /// The table; created and replicated if it is missing
    #[arg(long, default_value = "lag")]
    pub table: String,
    /// How the cells of a new table lie on disk
    #[arg(long, value_enum, default_value_t = Layout::Cells)]
    pub layout: Layout,
    /// Tablets of a new table
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub tablets: u64,
    /// Ticks of a batch of the load
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub batch: u64,
    /// Probes a second
    #[arg(long, default_value_t = 20.0)]
    pub probes: f64,
}

impl Lag {
    pub(super) async fn run(&self, setting: &Setting) -> Result<Report> {
        self.fleet.check()?;
        ensure!(self.probes > 0.0, "--probes must be above 0");
        let seconds = self.load.seconds.context("lag needs --seconds: how long to measure")?;
        let regions = setting.client.options().regions();
        let [first, second] = regions else {
            anyhow::bail!("lag needs a second region: name its nodes by --region-addresses");
        };
        let (first, second) = (first.name.clone(), second.name.clone());
        let table = self.replicated(&setting.client, &first, &second).await?;
        let before = link(&setting.client.admin().in_region(&first)?, &self.table).await?;
        let probers = (0..PROBERS).map(|n| Prober {
            here: table.clone(),
            there: None,
            second: second.clone(),
            row: format!("~probe-{n:03}"),
        });
        let pace = Pace {
            rate: Rate::PerSecond(self.probes),
            ops_max: None,
            seconds_max: Some(seconds),
        };
        let ingest = self.ingest();
        let load = drive("lag load", &["batch"], ingest.workers(&table), ingest.pace());
        let probes = metered(setting, "lag", &["seen"], probers.collect(), pace, options_of(self));
        let (load, probes) = tokio::join!(load, probes);
        let (load, (mut report, _)) = (load?, probes?);
        let after = link(&setting.client.admin().in_region(&first)?, &self.table).await?;
        let loaded_for = load.elapsed.as_secs_f64().max(1e-9);
        report.figure("load_samples_per_s", round(load.samples as f64 / loaded_for, 0));
        report.figure("load_errors", load.errors);
        // What was used was used for the load: for each probe it would mean nothing.
        (report.cpu_us_per_op, report.client_cpu_us_per_op) = (None, None);
        let micros = report
            .cost
            .map(|cost| (cost.server_cpu_s + cost.client_cpu_s) * 1e6 / load.samples.max(1) as f64);
        report.cpu_us_per_sample = micros;
        // What it would be as rows of versions, names and values: 8 bytes each and the names once a tick.
        let raw = load.samples * (8 + 8 + "metric_00".len() as u64);
        let shipped = after.bytes_shipped.saturating_sub(before.bytes_shipped);
        report.figure("link_bytes", shipped);
        report.figure("link_bytes_to_raw", round(shipped as f64 / raw.max(1) as f64, 3));
        report.note("raw is 25 bytes a sample: version, value and the metric's name");
        report.note("link bytes are counted by the node that answered; with several nodes look at their metrics");
        Ok(report)
    }

    fn ingest(&self) -> Ingest {
        Ingest {
            fleet: self.fleet.clone(),
            load: self.load.clone(),
            table: self.table.clone(),
            fresh: false,
            layout: self.layout,
            tablets: self.tablets,
            batch: self.batch,
            writer: false,
        }
    }

    /// The table in the first region, replicated with the second, both of which know each other afterwards.
    async fn replicated(&self, client: &Client, first: &str, second: &str) -> Result<Table> {
        let splits = self.fleet.splits(self.tablets);
        let table = table::create(client, &self.table, self.layout, splits, false)
            .await?
            .in_region(first)?;
        let (here, there) = (client.admin().in_region(first)?, client.admin().in_region(second)?);
        let (this, other) = (as_peer(&here).await?, as_peer(&there).await?);
        let name = other.name.clone();
        here.add_peer(other).await?;
        there.add_peer(this).await?;
        here.enable_replication(&self.table, &name).await?;
        let deadline = Instant::now() + STREAMING_WITHIN;
        loop {
            let link = link(&here, &self.table).await?;
            if link.state == "STREAMING" {
                return Ok(table);
            }
            ensure!(
                Instant::now() < deadline,
                "{} is not replicated after {STREAMING_WITHIN:?}: {} {}",
                self.table,
                link.state,
                link.cause
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A region as the other one has to know it.
async fn as_peer(admin: &Admin) -> Result<Peer> {
    let status = admin.cluster_status(false).await?;
    Ok(Peer {
        name: status.region,
        region: status.region_id,
        addresses: status.nodes.into_iter().map(|node| node.address).collect(),
    })
}

async fn link(admin: &Admin, table: &str) -> Result<LinkStatus> {
    let links = admin.replication_status(Some(table), false).await?;
    links.into_iter().next().with_context(|| format!("{table} has no link"))
}

struct Prober {
    here: Table,
    there: Option<Table>,
    second: String,
    row: String,
}

impl Worker for Prober {
    async fn run(&mut self) -> std::result::Result<Done, ClientError> {
        let there = match &self.there {
            Some(there) => there.clone(),
            None => self.there.insert(self.here.in_region(&self.second)?).clone(),
        };
        let version = now_micros();
        self.here.put(&self.row, FAMILY, "probe", version, b"x").await?;
        let deadline = Instant::now() + SEEN_WITHIN;
        let mut done = Done {
            rows: 1,
            samples: 1,
            ..Done::default()
        };
        loop {
            let row = there.get(&self.row).await?;
            if row.is_some_and(|row| row.cells.iter().any(|cell| cell.version == version)) {
                return Ok(done);
            }
            if Instant::now() >= deadline {
                done.wrong = true;
                return Ok(done);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
