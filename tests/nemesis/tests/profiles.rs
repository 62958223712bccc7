//! One short pass of each profile that the gate runs, one after the other: each starts six servers, and what a pass may
//! take means something only while nobody else runs.
//!
//! The rig runs as a process of its own, because it moves to a network namespace and its runtime stands there with it.
//! With `TIDEMARK_WITHOUT_ROOT=1` (set by `./x test --without-root`) profiles that need root are left out, loudly.

use anyhow::{Result, ensure};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A pass takes half a minute; on a machine ten times slower it may take ten times that.
const PASS_MAX: Duration = Duration::from_secs(400);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn pass(profile: &str, seed: u32, needs_root: bool) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let without_root = std::env::var_os("TIDEMARK_WITHOUT_ROOT").is_some();
    if without_root && needs_root {
        eprintln!("LEFT OUT without root: ./x nemesis --profile {profile} --seed {seed}");
        return Ok(());
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark-nemesis"));
    command.args(["--profile", profile, "--seed", &seed.to_string()]);
    if without_root {
        command.arg("--without-root");
    }
    let out = tempfile::NamedTempFile::new()?;
    let log = out.as_file().try_clone()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > PASS_MAX {
            child.kill()?;
            break child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let said = std::fs::read_to_string(out.path()).unwrap_or_default();
    assert!(status.success(), "{profile}, seed {seed}, ended with {status}:\n{said}");
    let last = said
        .lines()
        .rev()
        .find(|line| line.starts_with("nemesis: "))
        .unwrap_or_default();
    ensure!(last.starts_with("nemesis: ok"), "{said}");
    println!("{last}");
    Ok(())
}

#[test]
fn kill() -> Result<()> {
    pass("kill", 1, false)
}

#[test]
fn pause() -> Result<()> {
    pass("pause", 1, false)
}

#[test]
fn partition() -> Result<()> {
    pass("partition", 1, true)
}

#[test]
fn wan_cut() -> Result<()> {
    pass("wan-cut", 1, true)
}

#[test]
fn region_kill() -> Result<()> {
    pass("region-kill", 1, false)
}

#[test]
fn power_loss() -> Result<()> {
    pass("power-loss", 1, true)
}
