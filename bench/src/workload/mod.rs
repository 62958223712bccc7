//! The workloads: one file each, with its options and its workers.

mod aggregate;
mod idle;
mod ingest;
mod lag;
mod read;
mod scan;
mod ycsb;
mod zipf;

pub use ingest::mutation;

use crate::drive::{Measured, Pace, Worker, drive};
use crate::meter::Meter;
use crate::report::Report;
use crate::schedule::Rate;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use tidemark_client::Client;

/// Where a workload runs.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Connected; a second region is needed by `lag` alone.
    pub client: Client,
    /// Process ids of the servers, if they run on this machine.
    pub servers: Vec<u32>,
}

/// What is measured.
#[derive(Clone, Debug, Subcommand, Serialize)]
#[serde(untagged)]
pub enum Workload {
    /// Write the readings of a fleet of devices
    Ingest(ingest::Ingest),
    /// Read the latest reading of random devices
    Latest(read::Latest),
    /// Read an hour of random devices
    Hour(read::Hour),
    /// Read the whole table through a filter
    Scan(scan::Scan),
    /// Count, sum, least, greatest and mean of each metric by time bucket
    Aggregate(aggregate::Aggregate),
    /// The mixes of the Yahoo! Cloud Serving Benchmark
    Ycsb(ycsb::Ycsb),
    /// How long writes take to be seen in the other region
    Lag(lag::Lag),
    /// What tablets cost while nothing happens
    Idle(idle::Idle),
}

/// How much and how long; each workload has its own number of clients and of ops unless told otherwise.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Load {
    /// Ops a second (ingest and lag: samples a second), or `max`: each client sends its next op when the last is answered
    #[arg(long, default_value = "max")]
    pub rate: Rate,
    /// Clients: ops under way at once
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    pub clients: Option<u64>,
    /// End after so many ops
    #[arg(long)]
    pub ops: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_parser = seconds)]
    pub seconds: Option<f64>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err(format!("{text:?} is not a number of seconds up to a day")),
    }
}

impl Load {
    /// As fast as it goes, with the workload's own clients and ops.
    pub fn max() -> Load {
        Load {
            rate: Rate::Max,
            clients: None,
            ops: None,
            seconds: None,
        }
    }

    /// Without an end of its own a run ends after `ops`.
    fn pace(&self, ops: u64) -> Pace {
        Pace {
            rate: self.rate,
            ops_max: self.ops.or(self.seconds.is_none().then_some(ops)),
            seconds_max: self.seconds,
        }
    }
}

impl Workload {
    /// Runs it to its end.
    pub async fn run(&self, setting: &Setting) -> Result<Report> {
        match self {
            Workload::Ingest(ingest) => ingest.run(setting).await,
            Workload::Latest(latest) => latest.run(setting).await,
            Workload::Hour(hour) => hour.run(setting).await,
            Workload::Scan(scan) => scan.run(setting).await,
            Workload::Aggregate(aggregate) => aggregate.run(setting).await,
            Workload::Ycsb(ycsb) => ycsb.run(setting).await,
            Workload::Lag(lag) => lag.run(setting).await,
            Workload::Idle(idle) => idle.run(setting).await,
        }
    }
}

/// Drives workers and meters what they cost.
async fn metered<W: Worker>(
    setting: &Setting,
    name: &'static str,
    kinds: &'static [&'static str],
    workers: Vec<W>,
    pace: Pace,
    options: Value,
) -> Result<(Report, Measured)> {
    let meter = Meter::start(&setting.servers).context("--server-pids names a process that is not there")?;
    let measured = drive(name, kinds, workers, pace).await?;
    let cost = meter.cost().context("a server ended during the run")?;
    Ok((Report::new(name, options, &measured, Some(cost)), measured))
}

fn options_of<T: Serialize>(options: &T) -> Value {
    // Structs of numbers and texts; what cannot be written is left out of the report, which is no reason to lose a run.
    serde_json::to_value(options).unwrap_or(Value::Null)
}
