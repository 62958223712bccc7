//! A node's wall clock made wrong by libfaketime, which reads the offset from a file again and again.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// One node's wrong time.
#[derive(Debug)]
pub struct WrongTime {
    library: PathBuf,
    file: PathBuf,
}

impl WrongTime {
    /// A clock that is right for now, steered by `file`.
    pub fn new(library: &Path, file: &Path) -> Result<WrongTime> {
        let clock = WrongTime {
            library: library.to_owned(),
            file: file.to_owned(),
        };
        clock.set(0)?;
        Ok(clock)
    }

    /// What the node's process needs in its environment. The monotonic clock stays true: a wrong one is a broken
    /// machine, not a wrong clock.
    pub fn environment(&self) -> [(String, String); 4] {
        [
            ("LD_PRELOAD".into(), self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE".into(), self.file.display().to_string()),
            ("FAKETIME_NO_CACHE".into(), "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
        ]
    }

    /// The clock is that many milliseconds ahead from now on; negative = behind.
    pub fn set(&self, offset_ms: i64) -> Result<()> {
        // Written beside and renamed: the node reads at any moment.
        let beside = self.file.with_extension("next");
        fs::write(&beside, format!("{}\n", offset_text(offset_ms)))?;
        fs::rename(&beside, &self.file).with_context(|| format!("cannot set {}", self.file.display()))
    }
}

/// The library, if it is installed.
pub fn library() -> Option<PathBuf> {
    let places = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
    places
        .iter()
        .map(|arch| PathBuf::from(format!("/usr/lib/{arch}/faketime/libfaketimeMT.so.1")))
        .find(|path| path.is_file())
}

fn offset_text(offset_ms: i64) -> String {
    let sign = if offset_ms < 0 { '-' } else { '+' };
    let size = offset_ms.unsigned_abs();
    format!("{sign}{}.{:03}", size / 1000, size % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_signed_seconds() {
        let texts = [0, 300, -300, 3_600_000, -1].map(offset_text);
        assert_eq!(texts, ["+0.000", "+0.300", "-0.300", "+3600.000", "-0.001"]);
    }
}
