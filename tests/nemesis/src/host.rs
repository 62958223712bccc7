//! Commands of the host system: `ip`, `iptables`, `mount` and their like. Each is bounded in time, and an error says what
//! the command said.

use anyhow::{Context, Result, ensure};
use std::process::{Command, Output, Stdio};

/// No command of the host takes longer; `timeout` ends it then.
const COMMAND_MAX_SECONDS: &str = "60";

/// Runs a command that must succeed, and returns what it printed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = output(program, arguments)?;
    ensure!(
        output.status.success(),
        "{program} {} ended with {}: {}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command whose failure is no reason to stop: on the way out, where the rest must be cleaned up too.
pub fn attempt(program: &str, arguments: &[&str]) {
    // The only thing that could be done about an error here is to go on.
    let _ = output(program, arguments);
}

/// True if the command can be run and succeeds.
pub fn works(program: &str, arguments: &[&str]) -> bool {
    output(program, arguments).is_ok_and(|o| o.status.success())
}

fn output(program: &str, arguments: &[&str]) -> Result<Output> {
    let ask = || {
        Command::new("timeout")
            .arg(COMMAND_MAX_SECONDS)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {program}"))
    };
    // Mounting takes a while; the load's tasks must not wait behind it. Outside a runtime this is a plain call.
    tokio::task::block_in_place(ask)
}
