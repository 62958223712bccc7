//! Running the command line and looking at what it says.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tidemark_harness::world::binary;

/// `tidemark`, aimed at a region.
#[derive(Clone, Debug)]
pub struct Tidemark {
    binary: PathBuf,
    address: String,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Talk.
    pub stderr: String,
}

/// A command ends within this.
const COMMAND_MAX: Duration = Duration::from_secs(120);

impl Tidemark {
    /// The binary of this workspace, for the region with those nodes.
    pub fn new(addresses: &[String]) -> Result<Tidemark> {
        Ok(Tidemark {
            binary: binary("tidemark")?,
            address: addresses.join(","),
        })
    }

    /// Runs a command and waits for its end.
    pub async fn run<S: AsRef<str>>(&self, arguments: &[S]) -> Result<Said> {
        let output = tokio::process::Command::new(&self.binary)
            .arg("--address")
            .arg(&self.address)
            .args(arguments.iter().map(AsRef::as_ref))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(COMMAND_MAX, output)
            .await
            .context("the command did not end")??;
        Ok(Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that must succeed, and returns its data.
    pub async fn ok<S: AsRef<str>>(&self, arguments: &[S]) -> Result<String> {
        let said = self.run(arguments).await?;
        let line: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        ensure!(
            said.code == 0,
            "tidemark {} ended with {}: {}",
            line.join(" "),
            said.code,
            said.stderr
        );
        Ok(said.stdout)
    }

    /// Runs a command that must fail with that code and say each of those words on standard error.
    pub async fn refused<S: AsRef<str>>(&self, arguments: &[S], code: i32, words: &[&str]) -> Result<()> {
        let said = self.run(arguments).await?;
        let shown: Vec<&str> = arguments
            .iter()
            .map(|a| &a.as_ref()[..a.as_ref().len().min(80)])
            .collect();
        let line = shown.join(" ");
        ensure!(
            said.code == code,
            "tidemark {line} ended with {}, not {code}: {}",
            said.code,
            said.stderr
        );
        for word in words {
            ensure!(
                said.stderr.contains(word),
                "tidemark {line} does not say {word:?}: {}",
                said.stderr
            );
        }
        Ok(())
    }
}
