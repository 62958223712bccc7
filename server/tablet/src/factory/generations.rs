//! The directory of one tablet: generations of data, one of them current.
//!
//! ```text
//! <root>/tablet-9.removed/      what an interrupted removal of tablet 9 left; removed
//! <root>/tablet-7/
//!     CURRENT        "data-3\n": the live generation. Replaced by writing CURRENT.tmp, fsync, rename, fsync of the directory
//!     data-3/        an engine's files
//!     data-2/        what an interrupted or finished replacement left; removed
//! ```
//! A generation is made, or moved into place, before CURRENT names it, so after a crash CURRENT names either the old state or
//! the new one, and both are whole. A crash while the first generation is made leaves it empty, and no CURRENT; a generation
//! with files but no CURRENT is damage, and nothing is removed then. Directories are 0700, files 0600.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tidemark_engine::EngineError;

const CURRENT: &str = "CURRENT";
const CURRENT_TMP: &str = "CURRENT.tmp";
const PREFIX: &str = "data-";
/// Extension of the directory of a tablet that is being removed.
const REMOVED: &str = "removed";
/// Written and removed to see whether the disk has room; nothing reads it.
const ROOM: &str = "ROOM.tmp";
/// Its length, in bytes.
const ROOM_BYTES: usize = 4 << 20;

/// The generations of one tablet.
#[derive(Clone, Debug)]
pub(crate) struct Generations {
    dir: PathBuf,
}

impl Generations {
    /// Of the tablet whose directory this is; it need not exist yet.
    pub(crate) fn of(dir: PathBuf) -> Generations {
        Generations { dir }
    }

    /// The directory of the live generation; a new tablet gets its first, empty one. Removes what is not live, except what
    /// `keep` says is still read.
    pub(crate) fn open(&self, keep: impl Fn(&Path) -> bool) -> Result<PathBuf, EngineError> {
        remove(&self.dir.with_extension(REMOVED));
        make_dir(&self.dir)?;
        let live = match self.current()? {
            Some(generation) => {
                let live = self.path(generation);
                if !live.is_dir() {
                    let text = format!("{} names {}, which is not there", self.file().display(), live.display());
                    return Err(EngineError::Corruption(text));
                }
                live
            }
            None => {
                self.check_never_used()?;
                let first = self.path(1);
                self.sweep(&[], |_| false);
                make_dir(&first)?;
                self.switch(1)?;
                first
            }
        };
        self.sweep(&[&live], keep);
        Ok(live)
    }

    /// Moves a checkpoint in as the next generation, without making it live. Returns its number and directory.
    pub(crate) fn adopt(&self, checkpoint: &Path) -> Result<(u64, PathBuf), EngineError> {
        make_dir(&self.dir)?;
        let next = self.generations()?.into_iter().max().unwrap_or(0) + 1;
        let path = self.path(next);
        fs::rename(checkpoint, &path).map_err(|e| failed("move", checkpoint, &e))?;
        sync_dir(&self.dir)?;
        Ok((next, path))
    }

    /// Undoes [`Generations::adopt`].
    pub(crate) fn give_back(&self, generation: &Path, checkpoint: &Path) -> Result<(), EngineError> {
        let moved = fs::rename(generation, checkpoint);
        moved.map_err(|e| uncertain("move", generation, &e))
    }

    /// Tries whether there is room for a file.
    pub(crate) fn has_room(&self) -> bool {
        let path = self.dir.join(ROOM);
        let write = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?;
            // Not zeros: a file system may store those without room.
            file.write_all(&vec![0x5a; ROOM_BYTES])?;
            file.sync_all()
        };
        let written = write().is_ok();
        fs::remove_file(&path).is_ok() && written
    }

    /// Makes a generation the live one, durably. With [`EngineError::NoSpace`] the old one is still live.
    pub(crate) fn switch(&self, generation: u64) -> Result<(), EngineError> {
        let tmp = self.dir.join(CURRENT_TMP);
        let write = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&tmp)?;
            file.write_all(format!("{PREFIX}{generation}\n").as_bytes())?;
            file.sync_all()
        };
        // The directory's own entries (the generation's among them) before the name that points at them.
        sync_dir(&self.dir)?;
        write().map_err(|e| failed("write", &tmp, &e))?;
        // From here on an error says nothing about which one is live.
        fs::rename(&tmp, self.file())
            .and_then(|()| fs::File::open(&self.dir)?.sync_all())
            .map_err(|e| uncertain("replace", &self.file(), &e))
    }

    /// Removes the tablet's directory. It gets another name first: half of it must not be taken for a damaged tablet.
    pub(crate) fn destroy(&self) -> Result<(), EngineError> {
        let gone = self.dir.with_extension(REMOVED);
        let remove = || match fs::remove_dir_all(&gone) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &gone, &e)),
            _ => Ok(()),
        };
        remove()?;
        match fs::rename(&self.dir, &gone) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed("move", &self.dir, &e)),
        }
        if let Some(parent) = self.dir.parent() {
            sync_dir(parent)?;
        }
        remove()
    }

    fn file(&self) -> PathBuf {
        self.dir.join(CURRENT)
    }

    fn path(&self, generation: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{generation}"))
    }

    fn current(&self) -> Result<Option<u64>, EngineError> {
        let text = match fs::read_to_string(self.file()) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("read", &self.file(), &e)),
        };
        match parse(text.trim_end_matches('\n')) {
            Some(generation) if text.ends_with('\n') => Ok(Some(generation)),
            _ => Err(EngineError::Corruption(format!(
                "{} does not name a generation",
                self.file().display()
            ))),
        }
    }

    /// Without CURRENT there may be empty generations, and nothing else: a crash in the very first creation leaves that.
    fn check_never_used(&self) -> Result<(), EngineError> {
        for generation in self.generations()? {
            let path = self.path(generation);
            let mut entries = fs::read_dir(&path).map_err(|e| failed("list", &path, &e))?;
            if entries.next().is_some() {
                return Err(EngineError::Corruption(format!(
                    "{} is missing, but {} holds data: which generation is live is not known",
                    self.file().display(),
                    path.display()
                )));
            }
        }
        Ok(())
    }

    fn generations(&self) -> Result<Vec<u64>, EngineError> {
        let entries = fs::read_dir(&self.dir).map_err(|e| failed("list", &self.dir, &e))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| parse(&name)).collect())
    }

    /// Removes generations that are not live. A failure costs space, not correctness, and the next open tries again.
    fn sweep(&self, live: &[&Path], keep: impl Fn(&Path) -> bool) {
        for generation in self.generations().unwrap_or_default() {
            let path = self.path(generation);
            if !live.contains(&&*path) && !keep(&path) {
                remove(&path);
            }
        }
    }
}

fn parse(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    let generation = digits.parse().ok()?;
    // One spelling a number: "data-01" is not ours.
    (format!("{generation}") == digits).then_some(generation)
}

/// Removes a generation that nobody needs.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "an old generation of a tablet stays until the next start");
    }
}

/// Makes a directory that only this user may enter, durably.
pub(crate) fn make_dir(dir: &Path) -> Result<(), EngineError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| failed("create", dir, &e))?;
    match dir.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<(), EngineError> {
    fs::File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| failed("sync", dir, &e))
}

fn uncertain(verb: &str, path: &Path, error: &io::Error) -> EngineError {
    EngineError::Poisoned(format!("cannot {verb} {}: {error}", path.display()))
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> EngineError {
    let text = format!("cannot {verb} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull => EngineError::NoSpace(text),
        _ => EngineError::Io(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(path: &Path, text: &str) {
        fs::write(path.join("mark"), text).unwrap();
    }

    fn marked(path: &Path) -> String {
        fs::read_to_string(path.join("mark")).unwrap()
    }

    #[test]
    fn a_replacement_is_seen_only_once_it_is_switched_to() {
        let root = tempfile::tempdir().unwrap();
        let generations = Generations::of(root.path().join("tablet-7"));
        let first = generations.open(|_| false).unwrap();
        mark(&first, "old");
        assert_eq!(generations.open(|_| false).unwrap(), first);

        let checkpoint = root.path().join("checkpoint");
        fs::create_dir(&checkpoint).unwrap();
        mark(&checkpoint, "new");
        let (number, path) = generations.adopt(&checkpoint).unwrap();
        // A crash here: the old state opens, and the half-installed one is swept away.
        assert_eq!(marked(&generations.open(|p| p == path).unwrap()), "old");
        assert!(path.exists());
        generations.switch(number).unwrap();
        assert_eq!(marked(&generations.open(|_| false).unwrap()), "new");
        assert!(!first.exists());
        generations.destroy().unwrap();
        generations.destroy().unwrap();
    }

    #[test]
    fn a_damaged_or_dangling_current_is_named() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("tablet-7");
        let generations = Generations::of(dir.clone());
        let live = generations.open(|_| false).unwrap();
        fs::remove_dir_all(&live).unwrap();
        let error = generations.open(|_| false).unwrap_err().to_string();
        assert!(error.contains("CURRENT") && error.contains("data-1"), "{error}");
        fs::write(dir.join(CURRENT), "data-x\n").unwrap();
        let error = generations.open(|_| false).unwrap_err();
        assert!(matches!(error, EngineError::Corruption(_)), "{error}");
    }

    #[test]
    fn a_lost_current_is_damage_and_an_interrupted_creation_is_not() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("tablet-7");
        let generations = Generations::of(dir.clone());
        // A crash before the first CURRENT.
        fs::create_dir_all(dir.join("data-1")).unwrap();
        let live = generations.open(|_| false).unwrap();
        mark(&live, "acknowledged");
        fs::remove_file(dir.join(CURRENT)).unwrap();
        for _ in 0..2 {
            let error = generations.open(|_| false).unwrap_err();
            assert!(matches!(error, EngineError::Corruption(_)), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("tablet-7/CURRENT") && text.contains("tablet-7/data-1"),
                "{text}"
            );
            assert_eq!(marked(&live), "acknowledged");
        }
    }

    #[test]
    fn what_was_adopted_can_be_given_back() {
        let root = tempfile::tempdir().unwrap();
        let generations = Generations::of(root.path().join("tablet-7"));
        let live = generations.open(|_| false).unwrap();
        let checkpoint = root.path().join("checkpoint");
        fs::create_dir(&checkpoint).unwrap();
        mark(&checkpoint, "new");
        for _ in 0..2 {
            let (_, path) = generations.adopt(&checkpoint).unwrap();
            generations.give_back(&path, &checkpoint).unwrap();
            assert_eq!(marked(&checkpoint), "new");
        }
        assert_eq!(generations.open(|_| false).unwrap(), live);
        assert!(generations.has_room());
        assert_eq!(fs::read_dir(root.path().join("tablet-7")).unwrap().count(), 2);
    }

    #[test]
    fn only_one_spelling_names_a_generation() {
        assert_eq!(parse("data-12"), Some(12));
        for name in ["data-", "data-01", "data--1", "data-1x", "date-1"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
