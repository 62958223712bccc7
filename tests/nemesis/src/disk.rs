//! File systems that can lose power or run full, one a node.
//!
//! ```text
//! durable    an image file ── loop device ── XFS: shut down without a flush, then mounted again, it holds what was
//!            synced and nothing else, whatever the page cache held
//! small      a tmpfs of some megabytes and a ballast file
//! ```

use crate::host::{attempt, run};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// XFS takes no less than 300 MiB; the image is sparse.
const IMAGE_MIB: u64 = 400;
/// What is smaller than a block of a file system cannot be taken.
const LEAST_BLOCK_BYTES: u64 = 4 << 10;
/// Written and synced: must be there after the power came back.
const KEPT: &str = "canary-synced";
/// Written and not synced: must not be there, or the power was not lost.
const LOST: &str = "canary-unsynced";
/// The file that takes the space.
const BALLAST: &str = "ballast";

/// A mounted file system of one node. Dropping it unmounts.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
    image: Option<PathBuf>,
}

/// What a power loss did to a file system, as its canaries tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// What was not synced is gone.
    pub unsynced_gone: bool,
    /// What was synced is there.
    pub synced_kept: bool,
}

impl Disk {
    /// An XFS of its own on an image file in `dir`, mounted at `dir/disk`.
    pub fn durable(dir: &Path) -> Result<Disk> {
        let place = dir.join("disk");
        let image = dir.join("disk.image");
        fs::create_dir_all(&place)?;
        File::create(&image)?.set_len(IMAGE_MIB << 20)?;
        run("mkfs.xfs", &["-q", "-f", &image.display().to_string()])?;
        let disk = Disk {
            place,
            image: Some(image),
        };
        disk.mount()?;
        Ok(disk)
    }

    /// A tmpfs of that size, mounted at `dir/disk`.
    pub fn small(dir: &Path, mib: u32) -> Result<Disk> {
        let place = dir.join("disk");
        fs::create_dir_all(&place)?;
        let size = format!("size={mib}m,mode=0700");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "tidemark-rig", &place.display().to_string()],
        )?;
        Ok(Disk { place, image: None })
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Path {
        &self.place
    }

    fn mount(&self) -> Result<()> {
        let image = self.image.as_ref().context("only an image can be mounted again")?;
        run(
            "mount",
            &[
                "-o",
                "loop",
                &image.display().to_string(),
                &self.place.display().to_string(),
            ],
        )?;
        Ok(())
    }

    /// Puts a canary on the disk and another one in the page cache only.
    pub fn set_canaries(&self) -> Result<()> {
        let mut kept = File::create(self.place.join(KEPT))?;
        kept.write_all(b"synced")?;
        kept.sync_all()?;
        File::open(&self.place)?.sync_all()?;
        fs::write(self.place.join(LOST), b"not synced")?;
        Ok(())
    }

    /// The power goes: nothing that was not on the disk will ever be. Whoever has files open gets errors from now on.
    pub fn lose_power(&self) -> Result<()> {
        ensure!(self.image.is_some(), "a tmpfs knows no power loss");
        run("xfs_io", &["-x", "-c", "shutdown", &self.place.display().to_string()])?;
        ensure!(
            fs::read_dir(&self.place).is_err(),
            "{} can still be read after its shutdown",
            self.place.display()
        );
        Ok(())
    }

    /// The power is back: the file system recovers by its own log. No process may have files open.
    pub fn regain_power(&self) -> Result<Recovered> {
        run("umount", &[&self.place.display().to_string()])?;
        self.mount()?;
        let recovered = Recovered {
            unsynced_gone: fs::read(self.place.join(LOST)).map_or(true, |bytes| bytes != b"not synced"),
            synced_kept: fs::read(self.place.join(KEPT)).is_ok_and(|bytes| bytes == b"synced"),
        };
        Ok(recovered)
    }

    /// Takes all space that is left, without writing it: blocks are reserved, which takes as good as no time.
    pub fn fill(&self) -> Result<u64> {
        use rustix::fs::{FallocateFlags, fallocate};
        let ballast = File::create(self.place.join(BALLAST))?;
        let (mut taken, mut block) = (0, 64 << 20);
        while block >= LEAST_BLOCK_BYTES {
            match fallocate(&ballast, FallocateFlags::empty(), taken, block) {
                Ok(()) => taken += block,
                Err(rustix::io::Errno::NOSPC) => block /= 2,
                Err(error) => bail!("cannot fill {}: {error}", self.place.display()),
            }
        }
        Ok(taken)
    }

    /// Gives the space back.
    pub fn relieve(&self) -> Result<()> {
        fs::remove_file(self.place.join(BALLAST)).context("there is no ballast")
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.place)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still hold a file. The loop device goes with the last of them.
        attempt("umount", &["--lazy", &self.place.display().to_string()]);
    }
}
