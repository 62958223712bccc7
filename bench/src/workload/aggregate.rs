//! `aggregate`: count, sum, least, greatest and mean of each metric by time bucket, over the whole table, worked out by the
//! servers. Each client asks for its own part of the rows.

use super::scan::{endless, ranges, read_figures};
use super::{Load, Setting, metered, options_of};
use crate::drive::{Done, Worker};
use crate::fleet::Fleet;
use crate::report::Report;
use crate::table::{self, FAMILY};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::time::Duration;
use tidemark_client::{AggregateRequest, ClientError, Filter, ScanRequest, Table};

/// Options of `aggregate`.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Aggregate {
    #[command(flatten)]
    #[serde(flatten)]
    pub fleet: Fleet,
    #[command(flatten)]
    #[serde(flatten)]
    pub load: Load,
    /// The table, loaded by `ingest` with the same fleet
    #[arg(long, default_value = "bench")]
    pub table: String,
    /// Seconds of a bucket; 0 = all times in one
    #[arg(long, default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    pub bucket_seconds: u64,
    /// How often the table is read
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
}

impl Aggregate {
    pub(super) async fn run(&self, setting: &Setting) -> Result<Report> {
        let table = table::existing(&setting.client, &self.table).await?;
        let workers = ranges(&self.fleet, self.load.clients).map(|(range, cells)| {
            let cells_of = ScanRequest::range(range).filter(Filter::new().families([FAMILY]));
            let mut request = AggregateRequest::of(cells_of);
            if self.bucket_seconds > 0 {
                request = request.every(Duration::from_secs(self.bucket_seconds));
            }
            Adder {
                table: table.clone(),
                request,
                cells,
                rounds: self.rounds,
            }
        });
        let (mut report, _) = metered(
            setting,
            "aggregate",
            &["part"],
            workers.collect(),
            endless(&self.load),
            options_of(self),
        )
        .await?;
        read_figures(&mut report, &self.fleet, self.rounds);
        report
            .note("worked out by the servers; samples are the cells that were counted, rows the groups that came back");
        Ok(report)
    }
}

struct Adder {
    table: Table,
    request: AggregateRequest,
    cells: u64,
    rounds: u64,
}

impl Worker for Adder {
    fn has_more(&self) -> bool {
        self.rounds > 0
    }

    async fn run(&mut self) -> std::result::Result<Done, ClientError> {
        self.rounds -= 1;
        let groups = self.table.aggregate(self.request.clone()).await?;
        let samples = groups.iter().map(|group| group.stats.count).sum();
        Ok(Done {
            kind: 0,
            rows: groups.len() as u64,
            samples,
            wrong: samples != self.cells,
        })
    }
}
