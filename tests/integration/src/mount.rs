//! A small file system in memory that can be full. Needs the right to mount.

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts a file system of that many MiB on an existing directory. `None` if this user may not mount.
    pub fn mount(path: &Path, mib: u32) -> Result<Option<SmallDisk>> {
        let size = format!("size={mib}m,mode=0700");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tidemark-test"])
            .arg(path)
            .output()?;
        if output.status.success() {
            return Ok(Some(SmallDisk { path: path.to_owned() }));
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let denied = ["permission denied", "must be superuser", "only root", "not permitted"];
        ensure!(
            denied.iter().any(|word| said.to_lowercase().contains(word)),
            "mount failed: {said}"
        );
        Ok(None)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Free bytes.
    pub fn free(&self) -> Result<u64> {
        let output = Command::new("df")
            .args(["--block-size=1", "--output=avail"])
            .arg(&self.path)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().nth(1).unwrap_or_default().trim().parse()?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that ends at the same time may still hold a file.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
