//! `scan`: the whole table, each client its own part of the rows.

use super::{Load, Setting, metered, options_of};
use crate::drive::{Done, Pace, Worker};
use crate::fleet::{self, Fleet};
use crate::report::{Report, round};
use crate::table::{self, FAMILY};
use anyhow::Result;
use clap::Args;
use futures::TryStreamExt;
use serde::Serialize;
use tidemark_base::RowRange;
use tidemark_client::{ClientError, CompareOp, Filter, ScanRequest, Table};

/// Options of `scan`.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Scan {
    #[command(flatten)]
    #[serde(flatten)]
    pub fleet: Fleet,
    #[command(flatten)]
    #[serde(flatten)]
    pub load: Load,
    /// The table, loaded by `ingest` with the same fleet
    #[arg(long, default_value = "bench")]
    pub table: String,
    /// Only so many metrics, the first ones; 0 = all
    #[arg(long, default_value_t = 0)]
    pub columns: u64,
    /// Only values above this one
    #[arg(long)]
    pub above: Option<f64>,
    /// How often the table is read
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
}

impl Scan {
    pub(super) async fn run(&self, setting: &Setting) -> Result<Report> {
        let mut filter = Filter::new().families([FAMILY]);
        if self.columns > 0 {
            filter = filter.qualifiers(self.fleet.metric_names().into_iter().take(self.columns as usize));
        }
        if let Some(above) = self.above {
            // Values above 0 sort by their bytes as they do by their size.
            filter = filter.value(CompareOp::Greater, above.to_be_bytes());
        }
        let all_come_back = self.columns == 0 && self.above.is_none();
        let table = table::existing(&setting.client, &self.table).await?;
        let workers = ranges(&self.fleet, self.load.clients).map(|(range, cells)| Scanner {
            table: table.clone(),
            request: ScanRequest::range(range).filter(filter.clone()),
            cells: all_come_back.then_some(cells),
            rounds: self.rounds,
        });
        let (mut report, _) = metered(
            setting,
            "scan",
            &["part"],
            workers.collect(),
            endless(&self.load),
            options_of(self),
        )
        .await?;
        read_figures(&mut report, &self.fleet, self.rounds);
        Ok(report)
    }
}

/// A part of the rows a client, and how many cells it holds.
pub(super) fn ranges(fleet: &Fleet, clients: Option<u64>) -> impl Iterator<Item = (RowRange, u64)> {
    let fleet = fleet.clone();
    let clients = clients.unwrap_or(2).min(fleet.devices);
    (0..clients).map(move |n| {
        let bound = |n: u64| fleet.devices * n / clients;
        let end = (n + 1 < clients).then(|| fleet::row(bound(n + 1)).into());
        let start = if n == 0 { String::new() } else { fleet::row(bound(n)) };
        let range = RowRange {
            start: start.into(),
            end,
        };
        (range, (bound(n + 1) - bound(n)) * fleet.ticks * fleet.metrics)
    })
}

/// Workers end by themselves after their rounds.
pub(super) fn endless(load: &Load) -> Pace {
    load.pace(u64::MAX)
}

pub(super) fn read_figures(report: &mut Report, fleet: &Fleet, rounds: u64) {
    let read = fleet.samples() * rounds;
    report.figure("cells_read", read);
    report.figure("cells_read_per_s", round(read as f64 / report.seconds, 0));
    if let Some(cost) = report.cost {
        let seconds = (cost.server_cpu_s + cost.client_cpu_s).max(1e-9);
        report.figure("cells_read_per_cpu_second", round(read as f64 / seconds, 0));
    }
    report.note("cells read are those that the fleet has, whether the filter let them through or not");
}

struct Scanner {
    table: Table,
    request: ScanRequest,
    /// How many cells must come, where that is known.
    cells: Option<u64>,
    rounds: u64,
}

impl Worker for Scanner {
    fn has_more(&self) -> bool {
        self.rounds > 0
    }

    async fn run(&mut self) -> std::result::Result<Done, ClientError> {
        self.rounds -= 1;
        let mut rows = self.table.scan(self.request.clone());
        let mut done = Done::default();
        while let Some(row) = rows.try_next().await? {
            done.rows += 1;
            done.samples += row.cells.len() as u64;
        }
        done.wrong = self.cells.is_some_and(|cells| cells != done.samples);
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_row_once() {
        let fleet = Fleet::of(10, 2);
        let parts: Vec<(RowRange, u64)> = ranges(&fleet, Some(3)).collect();
        assert_eq!(parts.iter().map(|p| p.1).sum::<u64>(), fleet.samples());
        for device in 0..10 {
            let holds = |part: &&(RowRange, u64)| part.0.contains(fleet::row(device).as_bytes());
            assert_eq!(parts.iter().filter(holds).count(), 1, "device {device}");
        }
        assert_eq!(ranges(&fleet, Some(1)).next().map(|p| p.0), Some(RowRange::all()));
    }
}
