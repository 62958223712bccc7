//! The command line's declaration: global flags and the list of commands. Each command declares its own arguments.

use crate::commands::{
    aggregate, bench, check_put, cluster, completions, count, delete, digest, export, get, import, increment, peer,
    put, replication, scan, table,
};
use crate::output::Form;
use crate::times::duration;
use clap::{Args, Parser, Subcommand};
use std::time::Duration;

const AFTER: &str = "\
Times: RFC 3339 (2013-12-02T21:15:00Z), relative to now (-15m), or microseconds since 1970.
Bytes that are not printable UTF-8 are written \\xNN, a backslash \\\\, in arguments and in answers.
Exit codes: 0 done, 1 refused or not found, 2 usage, 3 unavailable or too late, 4 unknown outcome, 5 partly done.";

const BEFORE: &str = "\
Examples:
  tidemark table create telemetry --family m:ttl=90d
  tidemark put telemetry device-17 m:temperature=21.5
  tidemark scan telemetry --prefix device- --since -15m --latest 1
  tidemark import readings.csv --table telemetry --family m
  tidemark replication enable telemetry --peer west";

/// Tidemark's command line.
#[derive(Debug, Parser)]
#[command(name = "tidemark", version, before_help = BEFORE, after_help = AFTER, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Nodes of the region, host:port; several with commas
    #[arg(
        long,
        global = true,
        env = "TIDEMARK_ADDRESS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7311",
        help_heading = "Global options"
    )]
    pub(crate) address: Vec<String>,
    /// Nodes of a second region, used when the first is lost
    #[arg(
        long,
        global = true,
        env = "TIDEMARK_REGION_ADDRESSES",
        value_delimiter = ',',
        help_heading = "Global options"
    )]
    pub(crate) region_addresses: Vec<String>,
    /// Form of the answer [default: table on a terminal, jsonl on a pipe]
    #[arg(long, global = true, value_enum, help_heading = "Global options")]
    pub(crate) output: Option<Form>,
    /// How long to try [default: 10s; wait: 60s]
    #[arg(long, global = true, value_parser = a_duration, help_heading = "Global options")]
    pub(crate) timeout: Option<Duration>,
    /// Say on stderr what is done where
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub(crate) verbose: bool,
}

/// The commands, in the order of the help.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, list, describe, alter and drop tables
    #[command(subcommand)]
    Table(table::Command),
    Put(put::Put),
    Get(get::Get),
    Scan(scan::Scan),
    Count(count::Count),
    Aggregate(aggregate::Aggregate),
    Delete(delete::Delete),
    Increment(increment::Increment),
    CheckPut(check_put::CheckPut),
    Import(import::Import),
    Export(export::Export),
    /// Switch replication of tables on and off, and look at it
    #[command(subcommand)]
    Replication(replication::Command),
    /// Add, list and remove peer regions
    #[command(subcommand)]
    Peer(peer::Command),
    /// Look at the region's servers
    #[command(subcommand)]
    Cluster(cluster::Command),
    Digest(digest::Digest),
    Bench(bench::Bench),
    Completions(completions::Completions),
}

/// For clap, whose errors are texts.
pub(crate) fn a_duration(text: &str) -> std::result::Result<Duration, String> {
    duration(text).map_err(|_| format!("{text:?} is not a duration; give a number and its unit: 15m, 30d, 500ms"))
}
