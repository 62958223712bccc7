//! `latest` and `hour`: reads of random devices, linearizable, one request an op.

use super::{Load, Setting, metered, options_of};
use crate::drive::{Done, Worker};
use crate::fleet::{self, Fleet};
use crate::noise::Noise;
use crate::report::Report;
use crate::table::{self, FAMILY};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tidemark_client::{ClientError, Filter, Row, Table, VersionRange};

/// Options of `latest`.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Latest {
    #[command(flatten)]
    #[serde(flatten)]
    pub fleet: Fleet,
    #[command(flatten)]
    #[serde(flatten)]
    pub load: Load,
    /// The table, loaded by `ingest` with the same fleet
    #[arg(long, default_value = "bench")]
    pub table: String,
    /// Devices of a request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub batch: u64,
}

/// Options of `hour`.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Hour {
    #[command(flatten)]
    #[serde(flatten)]
    pub fleet: Fleet,
    #[command(flatten)]
    #[serde(flatten)]
    pub load: Load,
    /// The table, loaded by `ingest` with the same fleet
    #[arg(long, default_value = "bench")]
    pub table: String,
}

impl Latest {
    pub(super) async fn run(&self, setting: &Setting) -> Result<Report> {
        let table = table::existing(&setting.client, &self.table).await?;
        let workers = (0..self.load.clients.unwrap_or(64)).map(|n| LatestReader {
            table: table.clone(),
            noise: Noise::at(&[self.fleet.seed, 0x1a7e57, n]),
            fleet: self.fleet.clone(),
            batch: self.batch,
        });
        let pace = self.load.pace(200_000 / self.batch.min(200));
        let measured = metered(setting, "latest", &["read"], workers.collect(), pace, options_of(self));
        Ok(measured.await?.0)
    }
}

impl Hour {
    pub(super) async fn run(&self, setting: &Setting) -> Result<Report> {
        self.fleet.check()?;
        let table = table::existing(&setting.client, &self.table).await?;
        let workers = (0..self.load.clients.unwrap_or(1)).map(|n| HourReader {
            table: table.clone(),
            noise: Noise::at(&[self.fleet.seed, 0x4002, n]),
            fleet: self.fleet.clone(),
        });
        let pace = self.load.pace(5_000);
        let measured = metered(setting, "hour", &["read"], workers.collect(), pace, options_of(self));
        Ok(measured.await?.0)
    }
}

struct LatestReader {
    table: Table,
    noise: Noise,
    fleet: Fleet,
    batch: u64,
}

impl Worker for LatestReader {
    async fn run(&mut self) -> std::result::Result<Done, ClientError> {
        let filter = Filter::new().families([FAMILY]).latest(1);
        let mut devices: Vec<u64> = (0..self.batch).map(|_| self.noise.below(self.fleet.devices)).collect();
        devices.sort_unstable();
        devices.dedup();
        let rows = self
            .table
            .read_rows(devices.iter().map(|d| fleet::row(*d)), filter)
            .await?;
        Ok(returned(&rows, devices.len() as u64, self.fleet.metrics))
    }
}

struct HourReader {
    table: Table,
    noise: Noise,
    fleet: Fleet,
}

impl Worker for HourReader {
    async fn run(&mut self) -> std::result::Result<Done, ClientError> {
        let ticks = self.fleet.ticks_of_an_hour();
        let device = self.noise.below(self.fleet.devices);
        let first = self.noise.below(self.fleet.ticks - ticks + 1);
        let from = self.fleet.due(device, first);
        let hour = VersionRange {
            from,
            to: from + ticks as i64 * self.fleet.interval_micros() - 1,
        };
        let filter = Filter::new().families([FAMILY]).versions(hour);
        let row = self.table.get_filtered(fleet::row(device), filter).await?;
        Ok(returned(row.as_slice(), 1, ticks * self.fleet.metrics))
    }
}

/// Every row must have come, and each with as many cells as were written.
fn returned(rows: &[Row], expected: u64, cells_each: u64) -> Done {
    let samples = rows.iter().map(|row| row.cells.len() as u64).sum();
    Done {
        kind: 0,
        rows: rows.len() as u64,
        samples,
        wrong: rows.len() as u64 != expected || samples != expected * cells_each,
    }
}
