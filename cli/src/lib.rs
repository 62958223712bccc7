//! # tidemark-cli: the `tidemark` command
//!
//! One file a command in `commands`; each declares its arguments with their help and runs them. Around them: `args`
//! (global flags), `connect` (a client from them), `text`, `times` and `schema` (what people type), `output` (what they
//! get), `failure` (exit codes and error texts, documented in docs/operations/cli.md).
//!
//! **May not know:** gRPC; the client does.
//!
//! Data goes to stdout, talk to stderr. When you add a command: a file in `commands`, a line in `args::Command`, a
//! paragraph in docs/operations/cli.md.

mod args;
mod commands;
mod connect;
mod failure;
mod output;
mod schema;
mod select;
mod splits;
mod text;
mod times;

use clap::Parser;
use std::process::ExitCode;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // clap prints help and usage errors by itself: exit codes 0 and 2.
    let cli = args::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failure::Failure::from(error).report(),
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
