//! The file in which the state survives: one document, replaced as a whole.
//!
//! ```text
//! catalog.json := "tidemark-catalog 1 crc32c=" <8 hex digits> " bytes=" <decimal> "\n" | the JSON of `codec::state`
//! ```
//!
//! Checksum and length are those of the JSON alone. A new document is written beside the old one, synced, renamed over
//! it, and the directory is synced: after a crash at any point one of the two opens. A document that does not match its
//! first line is damage: nothing is guessed, the error names the file. Files are 0600, directories 0700.

use crate::codec::Stored;
use crate::state::CatalogState;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tidemark_base::{Error, ErrorKind, Result};
use tidemark_consensus::AppliedState;

/// The document's name in its directory.
const FILE: &str = "catalog.json";
const TEMPORARY: &str = "catalog.json.new";
/// Greatest document that is read, in bytes: far above what the catalog's bounds allow.
const DOCUMENT_BYTES_MAX: u64 = 1 << 30;
/// Greatest length of the first line.
const HEADER_BYTES_MAX: usize = 80;

/// Why the document was not replaced.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The old document is there, untouched: the same may be tried again.
    Kept(io::Error),
    /// Which of the two is durable is unknown: nothing may be claimed from here on.
    Uncertain(io::Error),
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WriteError::Kept(error) => write!(f, "{FILE} was not replaced: {error}"),
            WriteError::Uncertain(error) => write!(f, "{FILE} may or may not have been replaced: {error}"),
        }
    }
}

/// Makes the directory if it is missing, readable by its owner only.
pub(crate) fn prepare(dir: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| failed(dir, "create the directory", &error))
}

/// The stored state; none if there is no document yet.
pub(crate) fn load(dir: &Path) -> Result<Option<Stored>> {
    let path = dir.join(FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&path, "open", &error)),
    };
    let length = file.metadata().map_err(|error| failed(&path, "look at", &error))?.len();
    if length > DOCUMENT_BYTES_MAX {
        return Err(damaged(&path, format!("{length} bytes are too many")));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|error| failed(&path, "read", &error))?;
    let json = checked(&bytes).map_err(|say| damaged(&path, say.to_owned()))?;
    Stored::decode(json)
        .map(Some)
        .map_err(|malformed| damaged(&path, malformed.to_string()))
}

/// Replaces the document; durable when it returns.
pub(crate) fn save(dir: &Path, applied: &AppliedState, state: &CatalogState) -> std::result::Result<(), WriteError> {
    let (temporary, path) = (dir.join(TEMPORARY), dir.join(FILE));
    let document = document(&Stored::encode(applied, state));
    write_synced(&temporary, &document).map_err(WriteError::Kept)?;
    // From here on an error says nothing about what is on disk.
    std::fs::rename(&temporary, &path).map_err(WriteError::Uncertain)?;
    sync_dir(dir).map_err(WriteError::Uncertain)
}

/// Writes a copy of the state into a directory that does not exist yet.
pub(crate) fn save_copy(dir: &Path, applied: &AppliedState, state: &CatalogState) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)?;
    write_synced(&dir.join(FILE), &document(&Stored::encode(applied, state)))?;
    sync_dir(dir)
}

/// The document's path, for messages.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

fn document(json: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "tidemark-catalog 1 crc32c={:08x} bytes={}\n",
        crc32c::crc32c(json),
        json.len()
    )
    .into_bytes();
    bytes.extend_from_slice(json);
    bytes
}

/// The JSON, if it is what the first line says.
fn checked(bytes: &[u8]) -> std::result::Result<&[u8], &'static str> {
    let head = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
    let end = head
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or("it has no first line")?;
    let header = std::str::from_utf8(&bytes[..end]).map_err(|_| "its first line is not text")?;
    let rest = header.strip_prefix("tidemark-catalog ").ok_or("it is not a catalog")?;
    let rest = rest
        .strip_prefix("1 crc32c=")
        .ok_or("its format is not 1: a newer release wrote it")?;
    let (sum, length) = rest.split_once(" bytes=").ok_or("its first line is cut")?;
    let sum = u32::from_str_radix(sum, 16).map_err(|_| "its checksum is not a number")?;
    let length: usize = length.parse().map_err(|_| "its length is not a number")?;
    let json = &bytes[end + 1..];
    if json.len() != length {
        return Err("it is shorter or longer than its first line says");
    }
    if crc32c::crc32c(json) != sum {
        return Err("its checksum does not match");
    }
    Ok(json)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // An earlier attempt may have left its file: a failed sync is never repeated on the same file.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn damaged(path: &Path, say: String) -> Error {
    Error::corruption("CATALOG_DAMAGED", format!("{} is damaged: {say}", path.display()))
        .object(path.display().to_string())
        .action("do not edit it; keep it for inspection and rebuild this node from its peers under a new node number")
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull => ErrorKind::StorageFull,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, "CATALOG_IO", format!("cannot {what} {}: {error}", path.display()))
        .object(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Identity;
    use std::os::unix::fs::PermissionsExt;
    use tidemark_base::RegionId;

    fn state() -> CatalogState {
        CatalogState::new(&Identity {
            cluster: "c".into(),
            region_name: "east".into(),
            region: RegionId(1),
        })
    }

    #[test]
    fn what_was_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("catalog");
        prepare(&home).unwrap();
        assert_eq!(load(&home).unwrap(), None);
        save(&home, &AppliedState::default(), &state()).unwrap();
        save(&home, &AppliedState::default(), &state()).unwrap();
        assert_eq!(load(&home).unwrap().unwrap().state, state());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&home), mode(&path(&home))), (0o700, 0o600));
        save_copy(&dir.path().join("copy"), &AppliedState::default(), &state()).unwrap();
        assert_eq!(load(&dir.path().join("copy")).unwrap().unwrap().state, state());
    }

    #[test]
    fn every_damaged_byte_is_noticed_and_the_file_named() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &AppliedState::default(), &state()).unwrap();
        let good = std::fs::read(path(dir.path())).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(path(dir.path()), &bad).unwrap();
            // The case of a hex digit in the first line carries no information.
            let Err(error) = load(dir.path()) else {
                panic!("byte {at} was changed and nobody noticed")
            };
            assert_eq!(error.kind(), ErrorKind::Corruption);
            assert!(error.to_string().contains("catalog.json"), "{error}");
        }
        for length in 0..good.len() {
            std::fs::write(path(dir.path()), &good[..length]).unwrap();
            assert!(load(dir.path()).is_err(), "cut to {length} bytes");
        }
    }

    #[test]
    fn what_a_crash_left_behind_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(TEMPORARY), b"half").unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        save(dir.path(), &AppliedState::default(), &state()).unwrap();
        assert!(load(dir.path()).unwrap().is_some() && !dir.path().join(TEMPORARY).exists());
    }
}
