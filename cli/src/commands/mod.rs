//! One file a command: its arguments with their help, and `run`.

pub(crate) mod aggregate;
pub(crate) mod bench;
pub(crate) mod check_put;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod count;
pub(crate) mod delete;
pub(crate) mod digest;
pub(crate) mod export;
pub(crate) mod get;
pub(crate) mod import;
mod import_file;
mod import_state;
pub(crate) mod increment;
pub(crate) mod peer;
pub(crate) mod put;
mod quarantine;
pub(crate) mod replication;
pub(crate) mod scan;
pub(crate) mod table;

use crate::args::{Cli, Command};
use crate::connect::Context;
use crate::failure::Result;

/// Runs the command that was typed.
pub(crate) async fn run(cli: Cli) -> Result<()> {
    let context = Context::new(cli.global);
    match cli.command {
        Command::Table(command) => table::run(command, &context).await,
        Command::Put(command) => put::run(command, &context).await,
        Command::Get(command) => get::run(command, &context).await,
        Command::Scan(command) => scan::run(command, &context).await,
        Command::Count(command) => count::run(command, &context).await,
        Command::Aggregate(command) => aggregate::run(command, &context).await,
        Command::Delete(command) => delete::run(command, &context).await,
        Command::Increment(command) => increment::run(command, &context).await,
        Command::CheckPut(command) => check_put::run(command, &context).await,
        Command::Import(command) => import::run(command, &context).await,
        Command::Export(command) => export::run(command, &context).await,
        Command::Replication(command) => replication::run(command, &context).await,
        Command::Peer(command) => peer::run(command, &context).await,
        Command::Cluster(command) => cluster::run(command, &context).await,
        Command::Digest(command) => digest::run(command, &context).await,
        Command::Bench(command) => bench::run(command, &context).await,
        Command::Completions(command) => completions::run(&command),
    }
}
