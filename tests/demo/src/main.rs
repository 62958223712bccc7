//! `tidemark-demo`: runs the demo, prints the report, keeps the logs when something went wrong.

use anyhow::{Context, Result};
use clap::Parser;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tidemark_demo::options::Options;
use tidemark_demo::progress::Progress;
use tidemark_demo::report::Report;
use tidemark_demo::run::run;
use tidemark_demo::stage::log_tails;

/// Lines of each node's log that are shown after a failure.
const TAIL_LINES: usize = 8;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match perform(&options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("demo: FAILED {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

async fn perform(options: &Options) -> Result<bool> {
    let dir = tempfile::Builder::new().prefix("tidemark-demo-").tempdir()?;
    let progress = Arc::new(Progress::new());
    let outcome = tokio::select! {
        outcome = run(options, dir.path(), progress.clone()) => outcome,
        // The processes end with their standard input, the directory with this function.
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    progress.finish();
    let good = outcome.as_ref().is_ok_and(|report| report.ok);
    if !good {
        show_logs(dir.path());
    }
    if options.keep || !good {
        eprintln!("configurations, logs and data are kept in {}", dir.keep().display());
    }
    publish(options, &outcome?)?;
    Ok(good)
}

fn publish(options: &Options, report: &Report) -> Result<()> {
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("\nTidemark demo: two regions, three servers each\n{}", report.text());
    println!("{}", report.last_line());
    Ok(())
}

fn show_logs(dir: &Path) {
    for (path, tail) in log_tails(dir, TAIL_LINES)
        .into_iter()
        .filter(|(_, tail)| !tail.is_empty())
    {
        eprintln!("--- last lines of {}\n{tail}", path.display());
    }
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
