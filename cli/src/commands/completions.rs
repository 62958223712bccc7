//! `tidemark completions`: a shell's completion script.

use crate::args::Cli;
use crate::failure::Result;
use clap::{Args, CommandFactory};
use std::io::Write;

/// Print a shell's completion script
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark completions bash > /etc/bash_completion.d/tidemark
  tidemark completions fish > ~/.config/fish/completions/tidemark.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

/// Runs it.
pub(crate) fn run(completions: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(completions.shell, &mut Cli::command(), "tidemark", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
