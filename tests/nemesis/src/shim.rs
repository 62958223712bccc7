//! Syncs that fail or take long: `shim/sync.c`, compiled here and preloaded into a node, steered through a shared file.

use crate::host::run;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The source, so that a built rig needs no checkout.
const SOURCE: &str = include_str!("../shim/sync.c");
/// Numbers of the shared file, as in the source.
const NUMBERS: usize = 8;
const CALLS: usize = 0;
const FAIL_FROM: usize = 1;
const FAIL_COUNT: usize = 2;
const SLOW_FROM: usize = 3;
const SLOW_COUNT: usize = 4;
const SLOW_US: usize = 5;
const FAILED: usize = 6;
const SLOWED: usize = 7;

/// What the shim counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Syncs {
    /// Syncs asked for.
    pub calls: u64,
    /// Of these, failed on purpose.
    pub failed: u64,
    /// Of these, delayed on purpose.
    pub slowed: u64,
}

/// Compiles the shim into `dir`.
pub fn compile(dir: &Path) -> Result<PathBuf> {
    let (source, library) = (dir.join("sync.c"), dir.join("sync.so"));
    fs::write(&source, SOURCE)?;
    let (from, to) = (source.display().to_string(), library.display().to_string());
    run(
        "cc",
        &["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", &to, &from, "-ldl"],
    )
    .context("cannot compile the sync shim")?;
    Ok(library)
}

/// One node's steering file.
#[derive(Debug)]
pub struct SyncShim {
    file: File,
    path: PathBuf,
    library: PathBuf,
}

impl SyncShim {
    /// A steering file that asks for nothing.
    pub fn new(library: &Path, path: &Path) -> Result<SyncShim> {
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(path)?;
        file.set_len((NUMBERS * 8) as u64)?;
        Ok(SyncShim {
            file,
            path: path.to_owned(),
            library: library.to_owned(),
        })
    }

    /// What the node's process needs in its environment.
    pub fn environment(&self) -> [(String, String); 2] {
        [
            ("LD_PRELOAD".into(), self.library.display().to_string()),
            ("SYNC_SHIM_FILE".into(), self.path.display().to_string()),
        ]
    }

    /// The sync that comes after `skip` others fails, and so do the `count - 1` after it.
    pub fn fail(&self, skip: u64, count: u64) -> Result<()> {
        self.write(FAIL_COUNT, count)?;
        self.write(FAIL_FROM, self.read(CALLS)? + 1 + skip)
    }

    /// The next `count` syncs take that much longer.
    pub fn slow(&self, count: u64, by: Duration) -> Result<()> {
        self.write(SLOW_US, u64::try_from(by.as_micros())?)?;
        self.write(SLOW_COUNT, count)?;
        self.write(SLOW_FROM, self.read(CALLS)? + 1)
    }

    /// Nothing fails or is delayed any more.
    pub fn calm(&self) -> Result<()> {
        self.write(FAIL_FROM, 0)?;
        self.write(SLOW_FROM, 0)
    }

    /// What was counted so far.
    pub fn syncs(&self) -> Result<Syncs> {
        Ok(Syncs {
            calls: self.read(CALLS)?,
            failed: self.read(FAILED)?,
            slowed: self.read(SLOWED)?,
        })
    }

    fn read(&self, number: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, number as u64 * 8)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn write(&self, number: usize, value: u64) -> Result<()> {
        self.file.write_all_at(&value.to_ne_bytes(), number as u64 * 8)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// `sync FILE` is fsync and its exit code: enough to see the shim at work, without a server and without root.
    fn sync(shim: &SyncShim, file: &Path) -> bool {
        let mut command = Command::new("sync");
        command.arg(file).envs(shim.environment());
        command.stderr(std::process::Stdio::null()).status().unwrap().success()
    }

    #[test]
    fn the_chosen_call_fails_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let library = compile(dir.path()).unwrap();
        let shim = SyncShim::new(&library, &dir.path().join("node.shim")).unwrap();
        let file = dir.path().join("data");
        fs::write(&file, b"x").unwrap();
        shim.fail(1, 2).unwrap();
        let seen: Vec<bool> = (0..5).map(|_| sync(&shim, &file)).collect();
        assert_eq!(seen, [true, false, false, true, true]);
        shim.slow(1, Duration::from_millis(1)).unwrap();
        assert!(sync(&shim, &file) && sync(&shim, &file));
        let counted = shim.syncs().unwrap();
        assert_eq!((counted.calls, counted.failed, counted.slowed), (7, 2, 1));
    }
}
