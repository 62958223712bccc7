//! One segment file of the log: its number, its open file, and how much of it is still needed.

use super::LogError;
use super::disk::LogFile;
use super::record;
use crate::types::{Entry, LogPosition};
use bytes::Bytes;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_base::GroupId;

/// Shared by the entries that lie in it; readers keep the file open even after it was removed.
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn LogFile>,
    /// Bytes written, header included.
    pub(crate) size: AtomicU64,
    /// Bytes of records of entries that are still in some group's log, as far as that is durable.
    pub(crate) live: AtomicU64,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}", self.number)
    }
}

/// `log-0000000000000001.seg`
pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log-{number:016x}.seg"))
}

/// The number in a segment's file name, if it is one.
pub(crate) fn segment_number(path: &Path) -> Option<u64> {
    let hex = path.file_name()?.to_str()?.strip_prefix("log-")?.strip_suffix(".seg")?;
    if hex.len() != 16 {
        None
    } else {
        u64::from_str_radix(hex, 16).ok()
    }
}

impl Segment {
    pub(crate) fn new(number: u64, path: PathBuf, file: Arc<dyn LogFile>, size: u64) -> Segment {
        Segment {
            number,
            path,
            file,
            size: AtomicU64::new(size),
            live: AtomicU64::new(0),
        }
    }

    pub(crate) fn add_live(&self, bytes: u64) {
        self.live.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: u64) {
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub(crate) fn damaged(&self, offset: u64, detail: impl Into<String>) -> LogError {
        LogError::Damaged {
            path: self.path.display().to_string(),
            offset,
            detail: detail.into(),
        }
    }

    /// Reads the record of an entry and checks that it is the one that was asked for.
    pub(crate) fn read_entry(
        &self,
        offset: u32,
        len: u32,
        group: GroupId,
        position: LogPosition,
    ) -> Result<Entry, LogError> {
        let mut bytes = vec![0; len as usize];
        let at = u64::from(offset);
        self.file
            .read_exact_at(&mut bytes, at)
            .map_err(|error| LogError::Io(format!("{} at {offset}: {error}", self.path.display())))?;
        let mut rest = Bytes::from(bytes);
        match record::decode(&mut rest) {
            Ok(record::Record::Entry {
                group: found, entry, ..
            }) if found == group && entry.position == position => Ok(entry),
            Ok(other) => Err(self.damaged(at, format!("found {other:?} in place of {group} {position}"))),
            Err(error) => Err(self.damaged(at, error.to_string())),
        }
    }
}
