//! `tidemark bench`: a load on a cluster, and how it was taken. The workloads and their options are `tidemark-bench`'s.

use crate::connect::Context;
use crate::failure::{Code, Failure, Result};
use crate::output::{Form, one};
use clap::Args;
use std::path::PathBuf;
use tidemark_bench::{Setting, Workload};
use tidemark_client::ClientError;

/// Measure a cluster under a load
///
/// With --rate the load is open: op n is due at its time whatever became of those before, and its latency counts from
/// then. With --rate max each client sends its next op when the last is answered. Progress goes to stderr.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark bench ingest --fresh --devices 2000 --ticks 100
  tidemark bench latest --devices 2000 --ticks 100 --rate 5000 --seconds 30
  tidemark bench ycsb --mix a --server-pids $(pidof -s tidemarkd) --json a.json")]
pub(crate) struct Bench {
    #[command(subcommand)]
    workload: Workload,
    /// Process ids of the servers, if they run on this machine: their CPU and memory are measured too
    #[arg(long, global = true, value_delimiter = ',')]
    server_pids: Vec<u32>,
    /// HTTP/2 connections to each node, 1 to 8
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    connections: u8,
    /// Write the report to a file as well, as JSON
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

/// Runs it. A run in which ops failed or were answered wrongly is reported and then ends with an error.
pub(crate) async fn run(bench: Bench, context: &Context) -> Result<()> {
    let setting = Setting {
        client: context.client_over(usize::from(bench.connections)).await?,
        servers: bench.server_pids,
    };
    let report = bench.workload.run(&setting).await.map_err(failure)?;
    if let Some(path) = &bench.json {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::new(Code::Refused, format!("the report cannot be written as JSON: {error}")))?;
        std::fs::write(path, text + "\n").map_err(|error| Failure::from(error).doing(&path.display().to_string()))?;
    }
    let fields = report.fields();
    let fields = fields.iter().map(|(name, value)| (name.as_str(), value.clone()));
    // People have just typed the options, and they would make the table wider than any terminal.
    let shown = fields.filter(|(name, _)| context.form != Form::Table || *name != "options");
    one(context.form, &shown.collect::<Vec<_>>())?;
    let failed = report.errors + report.wrong;
    if failed > 0 {
        let what = format!(
            "{failed} ops failed or were answered wrongly: {}",
            report.first_error.unwrap_or_default()
        );
        return Err(Failure::new(Code::Refused, what).partial());
    }
    Ok(())
}

/// What the servers said keeps its own exit code.
fn failure(error: anyhow::Error) -> Failure {
    match error.downcast::<ClientError>() {
        Ok(error) => error.into(),
        Err(error) => Failure::new(Code::Refused, format!("{error:#}")),
    }
}
