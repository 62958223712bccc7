//! Replacing a closed tablet's directory by a checkpoint, so that a crash at any moment leaves the old one or the new.
//!
//! ```text
//!   1 rename checkpoint   -> DIR.installing      from here on the new one counts
//!   2 rename DIR          -> DIR.replaced
//!   3 rename DIR.installing -> DIR
//!   4 remove DIR.replaced
//! finish (at every open): DIR.installing is there: go on at 2; DIR.replaced is there: remove it
//! ```
//! Each rename is followed by an fsync of the parent directory.

use super::error::io;
use crate::api::EngineError;
use std::fs;
use std::path::{Path, PathBuf};

/// Replaces the closed tablet in `dir` (which may not exist yet) by the checkpoint in `checkpoint_dir`, which must be on
/// the same file system and is gone afterwards.
pub fn install(dir: &Path, checkpoint_dir: &Path) -> Result<(), EngineError> {
    finish(dir)?;
    rename(checkpoint_dir, &beside(dir, "installing"))?;
    finish(dir)
}

/// Removes a closed tablet, all of it or, after a crash, at the next call or open of the same directory.
pub fn destroy(dir: &Path) -> Result<(), EngineError> {
    finish(dir)?;
    if dir.exists() {
        rename(dir, &beside(dir, "replaced"))?;
    }
    finish(dir)
}

/// Completes what a crash interrupted.
pub(super) fn finish(dir: &Path) -> Result<(), EngineError> {
    let (installing, replaced) = (beside(dir, "installing"), beside(dir, "replaced"));
    if installing.exists() {
        if dir.exists() {
            remove(&replaced)?;
            rename(dir, &replaced)?;
        }
        rename(&installing, dir)?;
    }
    remove(&replaced)
}

fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(suffix);
    dir.with_file_name(name)
}

fn rename(from: &Path, to: &Path) -> Result<(), EngineError> {
    fs::rename(from, to).map_err(|e| io(from, &e))?;
    for path in [from, to] {
        sync_parent(path)?;
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<(), EngineError> {
    match fs::remove_dir_all(dir) {
        Ok(()) => sync_parent(dir),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io(dir, &e)),
    }
}

fn sync_parent(path: &Path) -> Result<(), EngineError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| io(parent, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_with(path: &Path, mark: &str) {
        fs::create_dir(path).unwrap();
        fs::write(path.join("mark"), mark).unwrap();
    }

    fn mark(dir: &Path) -> String {
        fs::read_to_string(dir.join("mark")).unwrap_or_default()
    }

    /// Every state that a crash can leave, made by hand, ends in the new directory and nothing else.
    #[test]
    fn an_interrupted_install_is_finished() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("t");
        let make = |name: &str, text: &str| dir_with(&temp.path().join(name), text);
        let states: [&[(&str, &str)]; 4] = [
            &[("t", "old"), ("t.installing", "new")],
            &[("t.replaced", "old"), ("t.installing", "new")],
            &[("t.replaced", "old"), ("t", "new")],
            &[("t.replaced", "older"), ("t", "old"), ("t.installing", "new")],
        ];
        for state in states {
            state.iter().for_each(|(name, text)| make(name, text));
            finish(&dir).unwrap();
            assert_eq!(mark(&dir), "new", "{state:?}");
            assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "{state:?}");
            fs::remove_dir_all(&dir).unwrap();
        }
    }

    #[test]
    fn install_over_nothing_and_over_something_then_destroy() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("t");
        for text in ["one", "two"] {
            dir_with(&temp.path().join("c"), text);
            install(&dir, &temp.path().join("c")).unwrap();
            assert_eq!(mark(&dir), text);
        }
        destroy(&dir).unwrap();
        destroy(&dir).unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
