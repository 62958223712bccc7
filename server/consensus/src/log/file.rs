//! The log store on disk.
//!
//! ```text
//! append ──> the group's index (readable now) ──> queue ──┐
//! save_vote ─────────────────────────────────────> queue ──┤      one writer (a thread):
//! purge, truncate ──> the group's index ─────────> queue ──┴──>   take all that waits -> one frame -> one write ->
//!                                                                  one sync -> places into the indexes -> completions
//! ```
//!
//! So the cost of a sync is shared by everything that waits, whichever group it belongs to, and the queue's length is bounded
//! by the appenders' permits ([`LogStore::admission`]). The drawing of the bytes is in `record`, what a crash may leave
//! behind in `recovery`.

use super::disk::{LogDisk, SystemDisk};
use super::index::{GroupIndex, Released};
use super::recovery;
use super::segment::Segment;
use super::writer::{self, Writer};
use super::{Completion, LogError, LogState, LogStore, Vote};
use crate::raft_log::ADMISSION_KIB_MAX;
use crate::types::{Entry, LogPosition};
use crate::wire;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use tidemark_base::GroupId;
use tokio::sync::{Notify, Semaphore};

/// Offsets are 32 bits, and a segment may exceed its size by one frame.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Sizes of a [`FileLog`].
#[derive(Clone)]
pub struct FileLogOptions {
    /// Bytes after which a new segment file is begun, at most 1 GiB. Removal works in whole segments.
    pub segment_bytes: u64,
    /// Bytes of recent entries kept in memory for replication and apply, all groups together.
    pub cache_bytes: usize,
    /// Bytes of entries that may wait for the writer, at least 32 MiB; appenders wait beyond.
    pub queue_bytes: usize,
    /// Bytes of sealed segments from which on an old segment with few needed entries is rewritten.
    pub rewrite_above_bytes: u64,
    /// Milliseconds between two attempts while the disk is full.
    pub no_space_retry_ms: u64,
    /// The files; replaced in tests.
    pub disk: Arc<dyn LogDisk>,
    /// What writes them.
    pub writer: LogWriter,
}

/// What the log's writer runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogWriter {
    /// A thread: a sync blocks.
    Thread,
    /// A task of the runtime that opens the log: the same seed gives the same order of writes. For disks that do not block.
    Task,
}

impl Default for FileLogOptions {
    fn default() -> Self {
        FileLogOptions {
            segment_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            rewrite_above_bytes: 128 << 20,
            no_space_retry_ms: 200,
            disk: Arc::new(SystemDisk),
            writer: LogWriter::Thread,
        }
    }
}

/// One group: its index, and its id for those who only hold the group.
#[derive(Debug)]
pub(crate) struct GroupLog {
    pub(crate) id: GroupId,
    pub(crate) index: Mutex<GroupIndex>,
}

/// An operation on its way to the disk.
pub(crate) enum Operation {
    /// The entries are in the group's index, under these sequences.
    Append {
        entries: Vec<(Entry, u64)>,
    },
    Vote(Vote),
    Truncate {
        from: u64,
        released: Released,
    },
    Purge {
        upto: LogPosition,
        released: Released,
    },
    Destroy {
        released: Released,
    },
}

pub(crate) struct Queued {
    pub(crate) group: Arc<GroupLog>,
    pub(crate) operation: Operation,
    pub(crate) done: Option<Completion>,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) waiting: VecDeque<Queued>,
    pub(crate) closed: bool,
    /// The writer sleeps; whoever adds something wakes it.
    pub(crate) idle: bool,
}

/// What the callers and the writer share.
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    pub(crate) options: FileLogOptions,
    pub(crate) groups: RwLock<BTreeMap<GroupId, Arc<GroupLog>>>,
    pub(crate) queue: Mutex<Queue>,
    /// Wakes a writer that is a thread …
    pub(crate) wake: Condvar,
    /// … and one that is a task.
    pub(crate) wake_task: Notify,
    pub(crate) admission: Arc<Semaphore>,
    pub(crate) sequence: AtomicU64,
    pub(crate) poisoned: Mutex<Option<String>>,
    pub(crate) stalled: AtomicBool,
    pub(crate) bytes_on_disk: AtomicU64,
    pub(crate) segments: AtomicU64,
    pub(crate) syncs: AtomicU64,
}

impl Shared {
    pub(crate) fn poison(&self, reason: String) -> LogError {
        tracing::error!(dir = %self.dir.display(), %reason, "log store poisoned: nothing is written any more until a restart");
        LogError::Poisoned(self.poisoned.lock().get_or_insert(reason).clone())
    }

    pub(crate) fn check(&self) -> Result<(), LogError> {
        match &*self.poisoned.lock() {
            Some(reason) => Err(LogError::Poisoned(reason.clone())),
            None => Ok(()),
        }
    }
}

/// See the module. Dropping the last handle writes what waits, and ends the writer.
pub struct FileLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl FileLog {
    /// Opens or creates the log in `dir`. Reads every segment; cuts a torn last frame off; refuses anything else that is
    /// damaged ([`LogError::Damaged`] names file and offset). The caller holds a lock on the directory.
    pub fn open(dir: &Path, options: FileLogOptions) -> Result<Arc<FileLog>, LogError> {
        if options.segment_bytes > SEGMENT_BYTES_MAX {
            return Err(LogError::Io(format!(
                "segment_bytes must be at most {SEGMENT_BYTES_MAX}"
            )));
        }
        let queue_kib = (options.queue_bytes / 1024).max(ADMISSION_KIB_MAX as usize);
        let recovered = recovery::recover(dir, &options)?;
        let groups = recovered.groups.into_iter().map(|(id, index)| {
            (
                id,
                Arc::new(GroupLog {
                    id,
                    index: Mutex::new(index),
                }),
            )
        });
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            groups: RwLock::new(groups.collect()),
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            wake_task: Notify::new(),
            admission: Arc::new(Semaphore::new(queue_kib)),
            sequence: AtomicU64::new(1),
            poisoned: Mutex::new(None),
            stalled: AtomicBool::new(false),
            bytes_on_disk: AtomicU64::new(recovered.segments.iter().map(|segment| segment.size()).sum()),
            segments: AtomicU64::new(recovered.segments.len() as u64),
            syncs: AtomicU64::new(0),
            options,
        });
        let writer = Writer::new(shared.clone(), recovered.segments, recovered.next_frame);
        let thread = match shared.options.writer {
            LogWriter::Thread => {
                let thread = std::thread::Builder::new().name("tidemark-log".to_string());
                let started = thread.spawn(move || writer::run(writer));
                Some(started.map_err(|error| LogError::Io(format!("starting the log writer: {error}")))?)
            }
            LogWriter::Task => {
                tokio::spawn(writer::run_as_task(writer));
                None
            }
        };
        Ok(Arc::new(FileLog {
            shared,
            writer: Mutex::new(thread),
        }))
    }

    /// True while writes wait for space on the disk; reads go on.
    pub fn stalled_no_space(&self) -> bool {
        self.shared.stalled.load(Ordering::Acquire)
    }

    /// Why the store takes no more writes, if so.
    pub fn poisoned(&self) -> Option<String> {
        self.shared.poisoned.lock().clone()
    }

    /// Bytes of all segment files.
    pub fn bytes_on_disk(&self) -> u64 {
        self.shared.bytes_on_disk.load(Ordering::Relaxed)
    }

    /// Segment files.
    pub fn segments(&self) -> u64 {
        self.shared.segments.load(Ordering::Relaxed)
    }

    /// Syncs so far; with the entries so far it tells how well they share them.
    pub fn syncs(&self) -> u64 {
        self.shared.syncs.load(Ordering::Relaxed)
    }

    /// Writes what waits and ends the writer; later operations fail with [`LogError::Closed`]. Blocking, if the writer is a
    /// thread; a task ends a little later.
    pub fn close(&self) {
        {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            self.shared.wake.notify_all();
            self.shared.wake_task.notify_one();
        }
        if let Some(thread) = self.writer.lock().take()
            && thread.join().is_err()
        {
            self.shared.poison("the log writer panicked".to_string());
        }
    }

    fn group(&self, id: GroupId) -> Option<Arc<GroupLog>> {
        self.shared.groups.read().get(&id).cloned()
    }

    fn group_or_new(&self, id: GroupId) -> Arc<GroupLog> {
        if let Some(group) = self.group(id) {
            return group;
        }
        let mut groups = self.shared.groups.write();
        groups
            .entry(id)
            .or_insert_with(|| {
                Arc::new(GroupLog {
                    id,
                    index: Mutex::default(),
                })
            })
            .clone()
    }

    /// Changes the index and queues the operation in one step, so that both see the same order (INV-03).
    fn submit(
        &self,
        id: GroupId,
        done: Option<Completion>,
        change: impl FnOnce(&mut GroupIndex) -> Result<Operation, LogError>,
    ) -> Result<(), LogError> {
        self.shared.check()?;
        let group = self.group_or_new(id);
        let mut index = group.index.lock();
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            return Err(LogError::Closed);
        }
        let operation = change(&mut index)?;
        queue.waiting.push_back(Queued {
            group: group.clone(),
            operation,
            done,
        });
        if queue.idle {
            queue.idle = false;
            match self.shared.options.writer {
                LogWriter::Thread => drop(self.shared.wake.notify_one()),
                LogWriter::Task => self.shared.wake_task.notify_one(),
            }
        }
        Ok(())
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where to find one entry, taken from the index under its lock and used without it.
enum Source {
    Memory(Entry),
    Disk {
        segment: Arc<Segment>,
        offset: u32,
        len: u32,
        position: LogPosition,
    },
}

impl FileLog {
    fn sources(&self, group: &GroupLog, from: u64, to: u64, bytes_max: usize) -> Vec<Source> {
        let index = group.index.lock();
        let Some(last) = index.last() else { return Vec::new() };
        let from = from.max(index.purged.map_or(0, |purged| purged.index + 1));
        let mut sources = Vec::new();
        let mut bytes = 0usize;
        for at in from..to.min(last.index + 1) {
            let Some(slot) = index.slot(at) else { continue };
            bytes += slot.payload_len as usize;
            if bytes > bytes_max && !sources.is_empty() {
                break;
            }
            let position = LogPosition {
                term: slot.term,
                leader: slot.leader,
                index: at,
            };
            let source = match (&slot.cached, &slot.place) {
                (Some(payload), _) => Source::Memory(Entry {
                    position,
                    payload: wire::payload_from(slot.kind, payload.clone()).expect("it came from a payload"),
                }),
                (None, Some(place)) => Source::Disk {
                    segment: place.segment.clone(),
                    offset: place.offset,
                    len: place.len,
                    position,
                },
                (None, None) => unreachable!("an entry is in memory until it has a place on disk"),
            };
            sources.push(source);
        }
        sources
    }
}

impl LogStore for FileLog {
    fn groups(&self) -> Vec<GroupId> {
        let groups = self.shared.groups.read();
        let held = |group: &&Arc<GroupLog>| group.index.lock().state() != LogState::default();
        groups.values().filter(held).map(|group| group.id).collect()
    }

    fn state(&self, group: GroupId) -> LogState {
        self.group(group)
            .map(|group| group.index.lock().state())
            .unwrap_or_default()
    }

    fn position(&self, group: GroupId, index: u64) -> Option<LogPosition> {
        self.group(group)?.index.lock().position(index)
    }

    fn append(&self, group: GroupId, entries: Vec<Entry>, done: Completion) -> Result<(), LogError> {
        let first_sequence = self.shared.sequence.fetch_add(entries.len() as u64, Ordering::Relaxed);
        self.submit(group, Some(done), |index| {
            if let Some(first) = entries.first() {
                index.check_follows(group, first.position.index)?;
            }
            if let Some(pair) = entries
                .windows(2)
                .find(|pair| pair[1].position.index != pair[0].position.index + 1)
            {
                let (last, next) = (pair[0].position.index, pair[1].position.index);
                return Err(LogError::Hole {
                    group,
                    index: next,
                    last: Some(last),
                });
            }
            let entries: Vec<(Entry, u64)> = entries.into_iter().zip(first_sequence..).collect();
            for (entry, sequence) in &entries {
                index.push(entry, *sequence);
            }
            Ok(Operation::Append { entries })
        })
    }

    fn save_vote(&self, group: GroupId, vote: Vote, done: Completion) -> Result<(), LogError> {
        self.submit(group, Some(done), |_| Ok(Operation::Vote(vote)))
    }

    fn save_committed(&self, group: GroupId, committed: LogPosition) -> Result<(), LogError> {
        self.shared.check()?;
        let group = self.group_or_new(group);
        let mut index = group.index.lock();
        index.committed = Some(committed);
        index.committed_dirty = true;
        Ok(())
    }

    fn truncate_from(&self, group: GroupId, from: u64) -> Result<(), LogError> {
        self.submit(group, None, |index| {
            Ok(Operation::Truncate {
                from,
                released: index.truncate_from(from),
            })
        })
    }

    fn purge(&self, group: GroupId, upto: LogPosition) -> Result<(), LogError> {
        self.submit(group, None, |index| {
            Ok(Operation::Purge {
                upto,
                released: index.purge(upto),
            })
        })
    }

    fn destroy(&self, group: GroupId, done: Completion) -> Result<(), LogError> {
        self.submit(group, Some(done), |index| {
            Ok(Operation::Destroy {
                released: index.clear(),
            })
        })
    }

    fn read(&self, group: GroupId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let Some(group) = self.group(group) else {
            return Ok(Vec::new());
        };
        let read = |source| match source {
            Source::Memory(entry) => Ok(entry),
            Source::Disk {
                segment,
                offset,
                len,
                position,
            } => segment.read_entry(offset, len, group.id, position),
        };
        self.sources(&group, from, to, bytes_max)
            .into_iter()
            .map(read)
            .collect()
    }

    fn is_cached(&self, group: GroupId, from: u64, to: u64) -> bool {
        let Some(group) = self.group(group) else { return true };
        let index = group.index.lock();
        let end = index.last().map_or(0, |last| last.index + 1).min(to);
        let from = from.max(index.purged.map_or(0, |purged| purged.index + 1));
        (from..end).all(|at| index.slot(at).is_none_or(|slot| slot.cached.is_some()))
    }

    fn tail_start(&self, group: GroupId, upto: u64, entries_max: u64, bytes_max: u64) -> u64 {
        self.group(group)
            .map_or(0, |group| group.index.lock().tail_start(upto, entries_max, bytes_max))
    }

    fn settle(&self, group: GroupId, done: Completion) -> Result<(), LogError> {
        self.shared.check()?;
        let settled = self
            .group(group)
            .is_none_or(|group| group.index.lock().last_is_written());
        if settled {
            done(Ok(()));
            return Ok(());
        }
        // Nothing, behind what waits: completed in order (INV-03).
        self.append(group, Vec::new(), done)
    }

    fn bytes_after(&self, group: GroupId, index: u64) -> u64 {
        self.group(group)
            .map_or(0, |group| group.index.lock().bytes_after(index))
    }

    fn admission(&self) -> &Arc<Semaphore> {
        &self.shared.admission
    }

    fn stalled_no_space(&self) -> bool {
        FileLog::stalled_no_space(self)
    }

    fn poisoned(&self) -> Option<String> {
        FileLog::poisoned(self)
    }
}

/// The payload of an entry as bytes.
pub(crate) fn payload_bytes(entry: &Entry) -> &[u8] {
    match &entry.payload {
        crate::Payload::Blank => &[],
        crate::Payload::Command(bytes) | crate::Payload::Membership(bytes) => bytes as &Bytes,
    }
}
