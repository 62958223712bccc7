//! `tidemarkd`: reads settings, then serves until it is told to stop.

use clap::Parser;
use std::process::ExitCode;
use tidemark_node::args::{Cli, Command, ConfigAction};
use tidemark_node::{config_page, serve};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Config {
            action: ConfigAction::Check,
        }) => config_page::check(&cli.options),
        None => serve::run(&cli.options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Settings and start-up errors go to a person at a terminal or in a unit's journal.
            eprintln!("tidemarkd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
