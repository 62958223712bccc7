//! `idle`: CPU and memory of the servers while nothing is asked of them, by number of tablets.

use super::{Setting, options_of};
use crate::drive::Measured;
use crate::fleet::Fleet;
use crate::meter::{Cost, Meter};
use crate::report::{Report, round};
use crate::table::{self, Layout};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// Options of `idle`.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Idle {
    /// How many tablets are there, one measurement each
    #[arg(long, value_delimiter = ',', default_value = "0,10,100")]
    pub tablets: Vec<u64>,
    /// How long each is measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Seconds between the making of tablets and the measurement, for elections and first files
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub settle: u64,
}

const TABLE: &str = "bench-idle";

impl Idle {
    pub(super) async fn run(&self, setting: &Setting) -> Result<Report> {
        ensure!(
            !setting.servers.is_empty(),
            "idle measures processes of this machine: name them by --server-pids"
        );
        let began = Instant::now();
        let mut total = Cost::default();
        let mut steps = Vec::new();
        for tablets in &self.tablets {
            let cost = self.step(setting, *tablets).await?;
            let nodes = setting.servers.len() as f64;
            steps.push(json!({
                "tablets": tablets,
                "core_percent_a_node": round(100.0 * cost.server_cpu_s / self.seconds as f64 / nodes, 2),
                "rss_mb_a_node": round(cost.server_rss_bytes as f64 / nodes / 1e6, 1),
            }));
            eprintln!("idle: {}", steps[steps.len() - 1]);
            total = cost;
        }
        let measured = Measured {
            elapsed: began.elapsed(),
            ..Measured::default()
        };
        let mut report = Report::new("idle", options_of(self), &measured, Some(total));
        report.figure("steps", steps);
        Ok(report)
    }

    async fn step(&self, setting: &Setting, tablets: u64) -> Result<Cost> {
        if tablets > 0 {
            // One row a tablet: the fleet is here only for its rows.
            let splits = Fleet::of(tablets, 1).splits(tablets);
            table::create(&setting.client, TABLE, Layout::Cells, splits, true).await?;
        }
        tokio::time::sleep(Duration::from_secs(self.settle)).await;
        let meter = Meter::start(&setting.servers).context("--server-pids names a process that is not there")?;
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
        let cost = meter.cost().context("a server ended during the run")?;
        if tablets > 0 {
            setting.client.admin().drop_table(TABLE).await?;
        }
        Ok(cost)
    }
}
