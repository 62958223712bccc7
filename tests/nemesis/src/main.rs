//! `tidemark-nemesis`: checks what the machine can do, runs, prints the report, removes what it made.

use anyhow::{Context, Result};
use clap::Parser;
use std::path::Path;
use std::process::ExitCode;
use tidemark_nemesis::arena::run_name;
use tidemark_nemesis::options::Options;
use tidemark_nemesis::plan::Plan;
use tidemark_nemesis::progress::Progress;
use tidemark_nemesis::report::Report;
use tidemark_nemesis::{capability, network, orphans, run};

fn main() -> ExitCode {
    let options = Options::parse();
    let plan = Plan::of(&options);
    if options.show_plan {
        print!("{plan}");
        return ExitCode::SUCCESS;
    }
    match perform(&options, &plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            println!("nemesis: FAILED could not run; again: {}", options.command());
            ExitCode::FAILURE
        }
    }
}

fn perform(options: &Options, plan: &Plan) -> Result<bool> {
    if options.without_root {
        eprintln!(
            "without root: servers on loopback and in plain directories; left out: partitions, the link between the regions, \
             power loss, full disks. Profiles: {}",
            capability::rootless().join(", ")
        );
    } else {
        orphans::remove();
    }
    capability::check(options)?;
    eprint!("{plan}");
    let prefix = format!("tidemark-nemesis-{}-", std::process::id());
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir()?;
    let outcome = in_place(options, plan, dir.path());
    let good = outcome.as_ref().is_ok_and(|report| report.ok);
    if options.keep || !good {
        let kept = dir.keep();
        // The disks are unmounted by now; their images hold what the nodes had.
        eprintln!(
            "configurations, logs, data and history.jsonl are kept in {}",
            kept.display()
        );
    }
    publish(options, &outcome?)?;
    Ok(good)
}

/// Runs with all threads at the clients' place: this one moves there first, and threads stand where their parent stood.
fn in_place(options: &Options, plan: &Plan, dir: &Path) -> Result<Report> {
    let progress = Progress::new();
    let network = match options.without_root {
        true => None,
        false => Some(network::Network::build_for(options, &run_name(std::process::id()))?),
    };
    let place = network.as_ref().map(|n| n.client_place()).transpose()?;
    if let Some(place) = &place {
        network::enter(place)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .context("no runtime")?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = run::run(options, plan, network, dir, &progress) => outcome,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        }
    });
    // Tasks that are left hold servers, disks and network; they go with the runtime.
    runtime.shutdown_timeout(std::time::Duration::from_secs(10));
    outcome
}

fn publish(options: &Options, report: &Report) -> Result<()> {
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!(
        "\nTidemark nemesis {}: two regions, three servers each\n{}",
        report.profile,
        report.text()
    );
    println!("{}", report.last_line());
    Ok(())
}
