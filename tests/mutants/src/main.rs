//! `tidemark-mutants`: runs the evidence against every planted bug, with the bug and without, and fails unless each is
//! caught for the right reason.

use anyhow::{Context, Result, bail};
use clap::Parser;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use tidemark_mutants::binaries::Binaries;
use tidemark_mutants::evidence::{Evidence, Layer, Means, evidence};
use tidemark_mutants::judge::{Verdict, caught};
use tidemark_mutants::run::run;
use tidemark_mutants::table::{Row, Table};
use tidemark_runtime::planted::Bug;

const EXAMPLES: &str = "\
Examples:
  ./x mutants                             every planted bug
  ./x mutants --bug tie-by-arrival        one of them
  ./x mutants --layer rules               only the cheapest evidence
  ./x mutants --list                      what would be run

The last line is `N passed, N failed`; the exit code is 0 only if every bug was caught by all of its evidence.";

/// Proves that the tests find the bugs that are planted in test builds.
#[derive(Clone, Debug, Parser)]
#[command(name = "tidemark-mutants", version, after_help = EXAMPLES)]
struct Options {
    /// Only this bug; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = bug)]
    bug: Vec<Bug>,

    /// Only evidence of this layer: rules, groups, simulation, servers.
    #[arg(long, value_name = "LAYER", value_parser = layer)]
    layer: Option<Layer>,

    /// Write the table to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Print the bugs and their evidence, and run nothing.
    #[arg(long)]
    list: bool,
}

fn bug(name: &str) -> Result<Bug, String> {
    Bug::parse(name).ok_or_else(|| format!("there is no bug of that name; see --list ({} bugs)", Bug::ALL.len()))
}

fn layer(name: &str) -> Result<Layer, String> {
    let all = [Layer::Rules, Layer::Groups, Layer::Simulation, Layer::Servers];
    let found = all.into_iter().find(|layer| layer.name() == name);
    found.ok_or_else(|| "one of rules, groups, simulation, servers".to_owned())
}

fn main() -> ExitCode {
    match perform(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutants: {error:#}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn perform(options: &Options) -> Result<bool> {
    // Set by `./x test --without-root`.
    let without_root = std::env::var_os("TIDEMARK_WITHOUT_ROOT").is_some();
    if without_root {
        eprintln!("without root: evidence of real servers is left out");
    }
    let wanted = |bug: &Bug| options.bug.is_empty() || options.bug.contains(bug);
    let plan: Vec<(Bug, Evidence)> = Bug::ALL
        .into_iter()
        .filter(wanted)
        .flat_map(|bug| evidence(bug).into_iter().map(move |one| (bug, one)))
        .filter(|(_, one)| options.layer.is_none_or(|layer| layer == one.layer))
        .filter(|(_, one)| one.layer != Layer::Servers || !without_root)
        .collect();
    if options.list {
        for (bug, one) in &plan {
            println!("{} | {} | {}", bug.name(), one.layer.name(), one.means.name());
        }
        return Ok(true);
    }
    if plan.is_empty() {
        bail!("no evidence of that layer for that bug: nothing would be proved");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let all: Vec<Evidence> = plan.iter().map(|(_, one)| *one).collect();
    let began = Instant::now();
    let binaries = Binaries::build(&root, &all)?;
    eprintln!(
        "==> built in {:.0} s; {} bugs and evidence to run",
        began.elapsed().as_secs_f64(),
        plan.len()
    );
    let table = try_all(&plan, &binaries)?;
    println!("{}", table.text());
    println!(
        "built in {:.0} s, all in {:.0} s",
        built_in(began, &table),
        began.elapsed().as_secs_f64()
    );
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&table)?;
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{}", table.last_line());
    Ok(table.counts().1 == 0)
}

fn built_in(began: Instant, table: &Table) -> f64 {
    let ran: f64 = table.rows.iter().map(|row| row.seconds).sum();
    (began.elapsed().as_secs_f64() - ran).max(0.0)
}

fn try_all(plan: &[(Bug, Evidence)], binaries: &Binaries) -> Result<Table> {
    let dir = tempfile::Builder::new().prefix("tidemark-mutants-").tempdir()?;
    // Evidence that several bugs share is run once without a bug.
    let mut without: BTreeMap<Means, Verdict> = BTreeMap::new();
    let mut table = Table::default();
    for (bug, one) in plan {
        let began = Instant::now();
        let program = binaries.program(&one.means).context("built before")?;
        let with = run(program, &one.means, Some(*bug), one.says, dir.path())?;
        let control = match without.get(&with.again) {
            Some(known) => known.clone(),
            None => run(program, &with.again, None, one.says, dir.path())?.verdict,
        };
        without.insert(with.again, control.clone());
        let outcome = caught(&with.verdict, &control, one.says);
        let row = Row {
            bug: bug.name(),
            layer: one.layer.name(),
            evidence: with.again.name(),
            missed: outcome.err(),
            seconds: began.elapsed().as_secs_f64(),
        };
        let mark = if row.missed.is_none() { "caught" } else { "MISSED" };
        eprintln!("{mark} {} by {} in {:.1} s", row.bug, row.evidence, row.seconds);
        table.rows.push(row);
    }
    Ok(table)
}
