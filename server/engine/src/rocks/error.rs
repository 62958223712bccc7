//! RocksDB's errors in the engine's words. They come as text; the text names the file.

use crate::api::EngineError;
use rocksdb::ErrorKind;
use std::path::Path;

/// Translates an error of the tablet in `dir`.
pub(super) fn map(dir: &Path, error: &rocksdb::Error) -> EngineError {
    let message = format!("{}: {}", dir.display(), error.as_ref());
    if is_no_space(error.as_ref()) {
        return EngineError::NoSpace(message);
    }
    match error.kind() {
        ErrorKind::Corruption => EngineError::Corruption(message),
        // RocksDB says so where a read was told to leave the disk alone.
        ErrorKind::Incomplete => EngineError::NotInMemory(message),
        ErrorKind::InvalidArgument | ErrorKind::NotSupported => EngineError::Invalid(message),
        _ => EngineError::Io(message),
    }
}

/// `ENOSPC` and `EDQUOT`, as strerror says them, and RocksDB's own sub-code.
fn is_no_space(message: &str) -> bool {
    ["No space left on device", "NoSpace", "Disk quota exceeded"]
        .iter()
        .any(|text| message.contains(text))
}

/// Translates an I/O error of the standard library.
pub(super) fn io(path: &Path, error: &std::io::Error) -> EngineError {
    let message = format!("{}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => EngineError::NoSpace(message),
        _ => EngineError::Io(message),
    }
}
