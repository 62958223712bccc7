//! The files of a node's Raft log in memory, with an explicit unsynced buffer: what was written is readable at once and
//! durable only after a sync. A crash keeps what was synced, and of the rest a prefix, a torn piece, or nothing.

use crate::trace::Trace;
use parking_lot::Mutex;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidemark_consensus::{LogDisk, LogFile};

/// The unit in which a disk writes at least.
const SECTOR_BYTES: usize = 512;
/// A sync takes so long, microseconds: from … to below.
const SYNC_MICROS: std::ops::Range<u64> = 200..3_000;

/// A disk. Clones are one disk; it outlives the node that uses it.
#[derive(Clone)]
pub struct SimulatedDisk {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    owner: String,
    trace: Trace,
    rng: ChaCha8Rng,
    files: BTreeMap<PathBuf, Content>,
    capacity_bytes: u64,
    slow: bool,
    fail_syncs: u32,
    counts: Counts,
}

/// What came of the disk's faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Unsynced writes that a crash dropped whole.
    pub dropped: u64,
    /// Unsynced writes of which a crash left a piece.
    pub torn: u64,
    /// Syncs that failed on command.
    pub failed_syncs: u64,
    /// Writes that found no room.
    pub refused: u64,
    /// Syncs that took long on command.
    pub slow_syncs: u64,
    /// Bits that were flipped on command.
    pub flipped: u64,
}

#[derive(Default)]
struct Content {
    /// What is read.
    bytes: Vec<u8>,
    /// What survives.
    durable: Vec<u8>,
    /// Writes since the last sync.
    unsynced: Vec<(u64, Vec<u8>)>,
    /// The directory entry was synced.
    durable_name: bool,
}

impl SimulatedDisk {
    /// An empty disk of that size.
    pub fn new(owner: &str, rng: ChaCha8Rng, capacity_bytes: u64, trace: Trace) -> SimulatedDisk {
        SimulatedDisk {
            inner: Arc::new(Mutex::new(Inner {
                owner: owner.to_owned(),
                trace,
                rng,
                files: BTreeMap::new(),
                capacity_bytes,
                slow: false,
                fail_syncs: 0,
                counts: Counts::default(),
            })),
        }
    }

    /// What its faults have done.
    pub fn counts(&self) -> Counts {
        self.inner.lock().counts
    }

    /// Free and used bytes.
    pub fn space(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        let used = inner.used();
        (inner.capacity_bytes.saturating_sub(used), used)
    }

    /// The next so many syncs fail, and what they were to make durable is lost.
    pub fn fail_syncs(&self, syncs: u32) {
        self.inner.lock().fail_syncs = syncs;
    }

    /// Leaves so much room from now on; the whole disk again with `u64::MAX`.
    pub fn leave_free(&self, bytes: u64) {
        let mut inner = self.inner.lock();
        inner.capacity_bytes = inner.used().saturating_add(bytes);
    }

    /// From now on syncs take a hundred times as long, or as long as ever.
    pub fn be_slow(&self, slow: bool) {
        self.inner.lock().slow = slow;
    }

    /// Flips a bit of what is durable, while nobody runs; false if there is nothing yet.
    pub fn flip_a_bit(&self) -> bool {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some(content) = inner.files.values_mut().find(|content| content.durable.len() > 64) else {
            return false;
        };
        // Not in the last frame, where it would pass for an interrupted write.
        let at = inner.rng.random_range(0..content.durable.len() / 2);
        content.durable[at] ^= 1 << inner.rng.random_range(0..8);
        content.bytes.clone_from(&content.durable);
        inner.counts.flipped += 1;
        true
    }

    /// The power goes: what was not synced is dropped, or torn.
    pub fn crash(&self) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.fail_syncs = 0;
        let rng = &mut inner.rng;
        let counts = &mut inner.counts;
        inner.files.retain(|_, content| {
            if !content.durable_name && rng.random_bool(0.5) {
                counts.dropped += content.unsynced.len() as u64;
                return false;
            }
            content.durable_name = true;
            let mut waiting = std::mem::take(&mut content.unsynced).into_iter();
            // Whole writes in order, then perhaps a piece of one, then nothing.
            for (offset, bytes) in waiting.by_ref() {
                match rng.random_range(0..4) {
                    0 => put(&mut content.durable, offset, &bytes),
                    1 => counts.dropped += 1,
                    2 => {
                        let kept = rng.random_range(0..=bytes.len().saturating_sub(1));
                        put(&mut content.durable, offset, &bytes[..kept]);
                        counts.torn += 1;
                        break;
                    }
                    _ => {
                        put(&mut content.durable, offset, &with_holes(rng, offset, bytes));
                        counts.torn += 1;
                        break;
                    }
                }
            }
            counts.dropped += waiting.len() as u64;
            content.bytes.clone_from(&content.durable);
            true
        });
    }
}

/// Some sectors of a write did not arrive and read as zeros; the last one is among them often enough.
fn with_holes(rng: &mut ChaCha8Rng, offset: u64, mut bytes: Vec<u8>) -> Vec<u8> {
    let first = SECTOR_BYTES - (offset as usize % SECTOR_BYTES);
    let mut starts = vec![0];
    starts.extend((first..bytes.len()).step_by(SECTOR_BYTES));
    let hole = starts[rng.random_range(0..starts.len())];
    let end = starts
        .iter()
        .find(|start| **start > hole)
        .copied()
        .unwrap_or(bytes.len());
    bytes[hole..end].fill(0);
    bytes
}

fn put(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset as usize..end].copy_from_slice(bytes);
}

impl Inner {
    fn used(&self) -> u64 {
        self.files.values().map(|content| content.bytes.len() as u64).sum()
    }

    fn content(&mut self, path: &Path) -> io::Result<&mut Content> {
        self.files
            .get_mut(path)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, path.display().to_string()))
    }
}

impl LogDisk for SimulatedDisk {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let inner = self.inner.lock();
        Ok(inner
            .files
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .cloned()
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        let mut inner = self.inner.lock();
        if inner.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        inner.files.insert(path.to_owned(), Content::default());
        Ok(Arc::new(SimulatedFile {
            disk: self.clone(),
            path: path.to_owned(),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        self.inner.lock().content(path)?;
        Ok(Arc::new(SimulatedFile {
            disk: self.clone(),
            path: path.to_owned(),
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.lock().files.remove(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let here = inner.files.iter_mut().filter(|(path, _)| path.parent() == Some(dir));
        here.for_each(|(_, content)| content.durable_name = true);
        Ok(())
    }

    fn sync_takes(&self) -> Duration {
        let mut inner = self.inner.lock();
        let micros = inner.rng.random_range(SYNC_MICROS);
        let slow = inner.slow;
        inner.counts.slow_syncs += u64::from(slow);
        Duration::from_micros(if slow { micros * 100 } else { micros })
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    path: PathBuf,
}

impl LogFile for SimulatedFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        let room = inner.capacity_bytes.saturating_sub(inner.used());
        if room < bytes.len() as u64 {
            inner.counts.refused += 1;
            // As much as fits is written, as a file system does.
            let content = inner.content(&self.path)?;
            put(&mut content.bytes, offset, &bytes[..room as usize]);
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.trace.event(&inner.owner, bytes);
        let content = inner.content(&self.path)?;
        put(&mut content.bytes, offset, bytes);
        content.unsynced.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        let content = inner.content(&self.path)?;
        let start = offset as usize;
        let found = content.bytes.get(start..start + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        if inner.fail_syncs > 0 {
            inner.fail_syncs -= 1;
            inner.counts.failed_syncs += 1;
            // The kernel drops the pages: still readable, never durable.
            inner.content(&self.path)?.unsynced.clear();
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let content = inner.content(&self.path)?;
        for (offset, bytes) in std::mem::take(&mut content.unsynced) {
            put(&mut content.durable, offset, &bytes);
        }
        content.durable.truncate(content.bytes.len());
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        let content = inner.content(&self.path)?;
        content.bytes.resize(len as usize, 0);
        content
            .unsynced
            .retain(|(offset, bytes)| offset + bytes.len() as u64 <= len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut inner = self.disk.inner.lock();
        Ok(inner.content(&self.path)?.bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_never_more_than_was_written() {
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..64 {
            let rng = crate::chance::stream(seed, "disk");
            let disk = SimulatedDisk::new("n", rng, 1 << 20, Trace::new());
            let path = Path::new("log/a.seg");
            let file = disk.create(path).unwrap();
            disk.sync_dir(Path::new("log")).unwrap();
            file.write_all_at(&[1; 700], 0).unwrap();
            file.sync_data().unwrap();
            file.write_all_at(&[2; 1500], 700).unwrap();
            disk.crash();
            let file = disk.open(path).unwrap();
            let mut all = vec![0; file.len().unwrap() as usize];
            file.read_exact_at(&mut all, 0).unwrap();
            assert_eq!(all[..700], [1; 700]);
            assert!(all[700..].iter().all(|byte| *byte == 2 || *byte == 0));
            match all.len() {
                700 => lost += 1,
                2200 if all[700..].iter().all(|byte| *byte == 2) => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(kept > 0 && lost > 0 && torn > 0, "{kept} {lost} {torn}");
    }

    #[test]
    fn a_failed_sync_loses_what_it_was_to_keep_and_a_full_disk_refuses() {
        let disk = SimulatedDisk::new("n", crate::chance::stream(1, "disk"), 1_000, Trace::new());
        let file = disk.create(Path::new("log/a.seg")).unwrap();
        disk.sync_dir(Path::new("log")).unwrap();
        file.write_all_at(&[1; 10], 0).unwrap();
        disk.fail_syncs(1);
        assert!(file.sync_data().is_err());
        assert_eq!(file.len().unwrap(), 10);
        disk.crash();
        assert_eq!(file.len().unwrap(), 0);
        let error = file.write_all_at(&[1; 2_000], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.counts().refused, 1);
    }
}
