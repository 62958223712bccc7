//! `ingest`: the readings of a fleet, in batches of ticks.
//!
//! Each client has its own run of neighbouring devices, as a collector has in the field, and writes tick after tick of all
//! of them. An op is a batch of so many ticks, and its latency is that of the slowest row.

use super::{Load, Setting, metered, options_of};
use crate::drive::{Done, Pace, Worker};
use crate::fleet::{self, Fleet, Part, Tick};
use crate::report::{Report, round};
use crate::schedule::Rate;
use crate::table::{self, FAMILY, Layout};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_client::{ClientError, RowMutation, Table, Writer, WriterOptions};

const CLIENTS: u64 = 8;
/// Generated before a run, to know what the readings themselves cost.
const GENERATED: u64 = 100_000;

/// Options of `ingest`.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Ingest {
    #[command(flatten)]
    #[serde(flatten)]
    pub fleet: Fleet,
    #[command(flatten)]
    #[serde(flatten)]
    pub load: Load,
    /// The table; created if it is missing
    #[arg(long, default_value = "bench")]
    pub table: String,
    /// Drop the table first
    #[arg(long)]
    pub fresh: bool,
    /// How the cells of a new table lie on disk
    #[arg(long, value_enum, default_value_t = Layout::Cells)]
    pub layout: Layout,
    /// Tablets of a new table
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub tablets: u64,
    /// Ticks of a batch
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub batch: u64,
    /// Hand ticks one by one to the client's writer, which makes the batches, instead of sending them as batches
    #[arg(long)]
    pub writer: bool,
}

impl Ingest {
    pub(super) async fn run(&self, setting: &Setting) -> Result<Report> {
        self.fleet.check()?;
        let table = table::create(
            &setting.client,
            &self.table,
            self.layout,
            self.fleet.splits(self.tablets),
            self.fresh,
        )
        .await?;
        let generator = generation_cost(&self.fleet);
        let (mut report, measured) = metered(
            setting,
            "ingest",
            &["batch"],
            self.workers(&table),
            self.pace(),
            options_of(self),
        )
        .await?;
        report.figure("generator_cpu_us_per_sample", round(generator, 4));
        let bytes = table::disk_bytes(&setting.client, &self.table).await?;
        if measured.samples > 0 {
            let each = bytes as f64 / measured.samples as f64;
            report.figure("table_bytes_per_sample_one_copy", round(each, 2));
            report.note("bytes are those of the leaders' files right after the run: neither flushed nor compacted");
        }
        Ok(report)
    }

    /// Clients, each with its devices.
    pub(super) fn workers(&self, table: &Table) -> Vec<Collector> {
        let clients = self.load.clients.unwrap_or(CLIENTS).min(self.fleet.devices);
        let parts = self.fleet.parts(clients).into_iter();
        parts.map(|part| Collector::new(table, part, self)).collect()
    }

    /// The rate is given in samples, ops are batches.
    pub(super) fn pace(&self) -> Pace {
        let mut pace = self.load.pace(u64::MAX);
        if let Rate::PerSecond(samples) = pace.rate {
            pace.rate = Rate::PerSecond(samples / (self.batch * self.fleet.metrics) as f64);
        }
        pace
    }
}

/// Writes the readings of some devices.
pub(super) struct Collector {
    way: Way,
    part: Part,
    names: Arc<[String]>,
    batch: usize,
}

/// How rows go to the cluster.
enum Way {
    Batches(Table, Vec<RowMutation>),
    Writer(Writer),
}

impl Collector {
    fn new(table: &Table, part: Part, ingest: &Ingest) -> Collector {
        let batch = ingest.batch as usize;
        let options = WriterOptions {
            // A batch is cut by its number of rows alone, and sent when it is complete.
            batch_bytes: usize::MAX,
            batch_rows: batch,
            linger: Duration::from_secs(1),
            ..WriterOptions::default()
        };
        let way = match ingest.writer {
            true => Way::Writer(table.writer(options)),
            false => Way::Batches(table.clone(), Vec::with_capacity(batch)),
        };
        Collector {
            way,
            part,
            names: ingest.fleet.metric_names().into(),
            batch,
        }
    }

    /// The next tick as a mutation.
    fn tick(&mut self) -> Option<RowMutation> {
        self.part.tick().map(|tick| mutation(&tick, &self.names))
    }
}

/// A tick as one row mutation: a column a metric, its value as an 8-byte big-endian float.
pub fn mutation(tick: &Tick<'_>, names: &[String]) -> RowMutation {
    let bytes = names.iter().map(|name| name.len() + 8).sum();
    let row = RowMutation::with_capacity(fleet::row(tick.device), names.len(), bytes);
    let columns = names.iter().zip(tick.values);
    columns.fold(row, |row, (name, value)| {
        row.put(FAMILY, name, tick.version, value.to_be_bytes())
    })
}

impl Worker for Collector {
    fn has_more(&self) -> bool {
        self.part.left() > 0
    }

    async fn run(&mut self) -> std::result::Result<Done, ClientError> {
        let mut done = Done::default();
        while done.rows < self.batch as u64 {
            let Some(mutation) = self.tick() else { break };
            done.rows += 1;
            done.samples += mutation.len() as u64;
            match &mut self.way {
                Way::Batches(_, rows) => rows.push(mutation),
                // The ticket is dropped: `flush` tells the first error of the batch, and one is enough to count it as
                // failed.
                Way::Writer(writer) => drop(writer.write(mutation).await?),
            }
        }
        match &mut self.way {
            Way::Batches(table, rows) => {
                let written = table.mutate_rows(rows).await;
                rows.clear();
                written?;
            }
            Way::Writer(writer) => writer.flush().await?,
        }
        Ok(done)
    }
}

/// Microseconds that the making of one sample takes: a part of the client's cost that is not the cluster's doing.
fn generation_cost(fleet: &Fleet) -> f64 {
    let mut part = fleet.part(0, fleet.devices.min(1_000));
    let (began, mut sum) = (Instant::now(), 0.0);
    let mut samples = 0;
    while let Some(tick) = part.tick().filter(|_| samples < GENERATED) {
        sum += std::hint::black_box(tick.values).iter().sum::<f64>();
        samples += fleet.metrics;
    }
    std::hint::black_box(sum);
    began.elapsed().as_secs_f64() * 1e6 / samples.max(1) as f64
}
