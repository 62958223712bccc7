//! The one writer, a thread or a task: everything that waits becomes one frame, one write, one sync. Then places are noted, votes
//! become visible, completions are called in order, and segments that nobody needs are removed.
//!
//! A failed sync, or a failed write that is not "no space", poisons the store (INV-04). "No space" is determinate: the file is
//! cut back to the end of the last frame and the same frame is tried again until there is room; completions just wait.
//! Should the store be closed meanwhile, that frame and everything queued behind it fail together.

use super::file::{GroupLog, Operation, Queue, Queued, Shared, payload_bytes};
use super::index::{GroupIndex, Place, Released};
use super::record::{self, StateRecord};
use super::segment::{Segment, segment_path};
use super::{LogError, LogState};
use crate::types::{Entry, LogPosition};
use crate::wire;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_base::GroupId;
use tidemark_runtime::planted::{Bug, planted};

/// Bytes of payload after which a frame is closed; what waits beyond goes into the next one.
const FRAME_BYTES_MAX: usize = 4 << 20;
/// Bytes of old entries that one frame carries along while an old segment is emptied.
const MOVE_BYTES_MAX: usize = 256 << 10;

/// An entry whose payload is kept in memory.
struct Cached {
    group: Arc<GroupLog>,
    index: u64,
    sequence: u64,
    bytes: usize,
}

/// An entry of the oldest segment that must be rewritten before the segment can go.
struct Moving {
    group: Arc<GroupLog>,
    index: u64,
    sequence: u64,
}

/// Where an entry's record was put within the buffer.
struct Written {
    group: Arc<GroupLog>,
    index: u64,
    sequence: u64,
    at: usize,
    len: u32,
    moved: bool,
}

/// Owned by the thread or the task.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Oldest first; the last one is written.
    segments: VecDeque<Arc<Segment>>,
    next_frame: u64,
    cache: VecDeque<Cached>,
    cache_bytes: usize,
    moving: VecDeque<Moving>,
    /// Moving failed once: the segment stays, and a person was told.
    moving_disabled: bool,
    buffer: Vec<u8>,
    written: Vec<Written>,
}

/// The thread's main loop; ends when the log is closed and nothing waits.
///
/// What was queued after an operation that was not written relies on it: an entry on the one before it, a truncation on
/// the entries that it removes. So the first error, of whatever kind, is the answer to everything after it, and nothing is
/// written any more; a store that closes on a full disk must not put the second half of its queue behind a hole.
pub(super) fn run(mut writer: Writer) {
    let mut healthy = Ok(());
    while let Some(batch) = writer.take() {
        healthy = healthy
            .and_then(|()| writer.shared.check())
            .and_then(|()| writer.write(&batch));
        writer.end(batch, &healthy);
    }
}

/// The same as a task, for processes that must repeat themselves: time passes between a write and its sync as the disk
/// says ([`super::LogDisk::sync_takes`]), and a crash may come between the two.
pub(super) async fn run_as_task(mut writer: Writer) {
    let mut healthy = Ok(());
    loop {
        let taken = {
            let shared = writer.shared.clone();
            let mut queue = shared.queue.lock();
            writer.take_from(&mut queue)
        };
        let batch = match taken {
            Taken::Batch(batch) => batch,
            Taken::Closed => return,
            Taken::Nothing => {
                writer.shared.wake_task.notified().await;
                continue;
            }
        };
        let ready = healthy.and_then(|()| writer.shared.check());
        healthy = match ready {
            Ok(()) => {
                let frame = writer.encode(&batch);
                writer.write_as_task(frame).await
            }
            Err(error) => Err(error),
        };
        writer.end(batch, &healthy);
    }
}

/// What there is to do.
enum Taken {
    /// Operations; none means: only old entries are to be moved.
    Batch(Vec<Queued>),
    Nothing,
    Closed,
}

/// The bytes in the buffer on their way to the disk.
struct Frame {
    /// They begin a new segment.
    roll: bool,
    number: u64,
    /// Where they go, once that is open.
    segment: Option<Arc<Segment>>,
}

/// What came of trying to put a frame.
enum Put {
    Written(Arc<Segment>),
    NoSpace,
}

fn refuse(batch: Vec<Queued>, error: &LogError) {
    for done in batch.into_iter().filter_map(|queued| queued.done) {
        done(Err(error.clone()));
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, segments: VecDeque<Arc<Segment>>, next_frame: u64) -> Writer {
        Writer {
            shared,
            segments,
            next_frame,
            cache: VecDeque::new(),
            cache_bytes: 0,
            moving: VecDeque::new(),
            moving_disabled: false,
            buffer: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Waits for work; none when the log is closed and nothing waits.
    fn take(&mut self) -> Option<Vec<Queued>> {
        let shared = self.shared.clone();
        let mut queue = shared.queue.lock();
        loop {
            match self.take_from(&mut queue) {
                Taken::Batch(batch) => return Some(batch),
                Taken::Closed => return None,
                Taken::Nothing => shared.wake.wait(&mut queue),
            }
        }
    }

    fn take_from(&mut self, queue: &mut Queue) -> Taken {
        if queue.waiting.is_empty() {
            if queue.closed {
                return Taken::Closed;
            }
            if !self.moving.is_empty() && self.shared.poisoned.lock().is_none() {
                return Taken::Batch(Vec::new());
            }
            queue.idle = true;
            return Taken::Nothing;
        }
        queue.idle = false;
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < FRAME_BYTES_MAX
            && let Some(queued) = queue.waiting.pop_front()
        {
            if let Operation::Append { entries } = &queued.operation {
                bytes += entries.iter().map(|(entry, _)| entry.payload.len()).sum::<usize>();
            }
            batch.push(queued);
        }
        Taken::Batch(batch)
    }

    fn write(&mut self, batch: &[Queued]) -> Result<(), LogError> {
        let mut frame = self.encode(batch);
        let segment = loop {
            match self.put(&mut frame)? {
                Put::Written(segment) => break segment,
                Put::NoSpace => self.wait_for_space()?,
            }
        };
        self.settle(&frame, &segment)
    }

    async fn write_as_task(&mut self, mut frame: Frame) -> Result<(), LogError> {
        let segment = loop {
            match self.put(&mut frame)? {
                Put::Written(segment) => break segment,
                Put::NoSpace => self.sleep_for_space().await?,
            }
        };
        tokio::time::sleep(self.shared.options.disk.sync_takes()).await;
        self.settle(&frame, &segment)
    }

    /// The batch is durable, or it and what follows never will be.
    fn end(&mut self, batch: Vec<Queued>, healthy: &Result<(), LogError>) {
        match healthy {
            Ok(()) => self.finish(batch),
            Err(error) => refuse(batch, error),
        }
    }

    // ---------------------------------------------------------------------------------------------- encoding

    fn encode(&mut self, batch: &[Queued]) -> Frame {
        self.buffer.clear();
        self.written.clear();
        let roll = self
            .segments
            .back()
            .is_none_or(|current| current.size() >= self.shared.options.segment_bytes);
        let number = self
            .segments
            .back()
            .map_or(1, |current| current.number + u64::from(roll));
        if roll {
            self.buffer.extend_from_slice(&record::encode_head(number));
        }
        let start = record::begin_frame(&mut self.buffer);
        if roll {
            self.put_states();
        }
        for queued in batch {
            self.put_operation(queued);
        }
        self.put_committed(batch);
        self.put_moved();
        record::finish_frame(&mut self.buffer, start, self.next_frame);
        let current = self.segments.back().cloned();
        Frame {
            roll,
            number,
            segment: current.filter(|_| !roll),
        }
    }

    /// The frame is written: makes it durable and notes where its entries lie.
    fn settle(&mut self, frame: &Frame, segment: &Arc<Segment>) -> Result<(), LogError> {
        self.sync(segment, frame.roll)?;
        self.next_frame += 1;
        let offset = segment.size();
        let len = self.buffer.len() as u64;
        segment.size.store(offset + len, Ordering::Relaxed);
        self.shared.bytes_on_disk.fetch_add(len, Ordering::Relaxed);
        if frame.roll {
            self.segments.push_back(segment.clone());
            self.shared.segments.fetch_add(1, Ordering::Relaxed);
        }
        self.note_places(segment, offset);
        Ok(())
    }

    /// Every group's vote and marks, so that older segments are not needed for them.
    fn put_states(&mut self) {
        let groups: Vec<Arc<GroupLog>> = self.shared.groups.read().values().cloned().collect();
        for group in groups {
            let index = group.index.lock();
            if index.state() == LogState::default() {
                continue;
            }
            let committed = index.committed.filter(|position| is_written(&index, position, 0));
            let state = StateRecord {
                vote: index.vote,
                purged: index.purged,
                committed,
            };
            record::put_state(&mut self.buffer, group.id, &state);
        }
    }

    fn put_operation(&mut self, queued: &Queued) {
        let (group, out) = (queued.group.id, &mut self.buffer);
        match &queued.operation {
            Operation::Append { entries } => {
                for (entry, sequence) in entries {
                    let at = out.len();
                    let kind = wire::payload_code(&entry.payload);
                    let payload = payload_bytes(entry);
                    let len = record::put_entry(out, group, &entry.position, kind, payload, false);
                    self.written.push(Written {
                        group: queued.group.clone(),
                        index: entry.position.index,
                        sequence: *sequence,
                        at,
                        len,
                        moved: false,
                    });
                }
            }
            Operation::Vote(vote) => record::put_vote(out, group, vote),
            Operation::Truncate { from, .. } => record::put_truncate(out, group, *from),
            Operation::Purge { upto, .. } => record::put_purge(out, group, upto),
            Operation::Destroy { .. } => record::put_destroyed(out, group),
        }
    }

    /// Committed positions ride along with the writes of their groups; they never cause a write.
    fn put_committed(&mut self, batch: &[Queued]) {
        let mut last_sequence: BTreeMap<GroupId, (&Arc<GroupLog>, u64)> = BTreeMap::new();
        for queued in batch {
            let (_, sequence) = last_sequence.entry(queued.group.id).or_insert((&queued.group, 0));
            if let Operation::Append { entries } = &queued.operation {
                *sequence = entries.last().map_or(*sequence, |(_, last)| *last);
            }
        }
        for (id, (group, sequence)) in last_sequence {
            let mut index = group.index.lock();
            if !index.committed_dirty {
                continue;
            }
            // The index runs ahead of the disk. A committed position whose entry is not on disk before it could, after a
            // crash, point at an entry that the pending writes were about to replace.
            if let Some(position) = index.committed
                && is_written(&index, &position, sequence)
            {
                index.committed_dirty = false;
                record::put_committed(&mut self.buffer, id, &position);
            }
        }
    }

    fn put_moved(&mut self) {
        let mut bytes = 0;
        while bytes < MOVE_BYTES_MAX
            && let Some(moving) = self.moving.pop_front()
        {
            let entry = match read_for_move(&moving) {
                Ok(Some(entry)) => entry,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(%error, "an old log segment cannot be rewritten; it stays");
                    self.moving.clear();
                    self.moving_disabled = true;
                    return;
                }
            };
            let at = self.buffer.len();
            let kind = wire::payload_code(&entry.payload);
            let payload = payload_bytes(&entry);
            let len = record::put_entry(&mut self.buffer, moving.group.id, &entry.position, kind, payload, true);
            bytes += len as usize;
            let Moving { group, index, sequence } = moving;
            self.written.push(Written {
                group,
                index,
                sequence,
                at,
                len,
                moved: true,
            });
        }
    }

    // --------------------------------------------------------------------------------------------------- disk

    /// Writes the buffer at the end of its segment, which is made first if it is a new one.
    fn put(&self, frame: &mut Frame) -> Result<Put, LogError> {
        let segment = match &frame.segment {
            Some(segment) => segment.clone(),
            None => {
                let path = segment_path(&self.shared.dir, frame.number);
                let file = match self.shared.options.disk.create(&path) {
                    Ok(file) => file,
                    Err(error) if is_no_space(&error) => return Ok(Put::NoSpace),
                    Err(error) => return Err(self.shared.poison(format!("creating {}: {error}", path.display()))),
                };
                frame
                    .segment
                    .insert(Arc::new(Segment::new(frame.number, path, file, 0)))
                    .clone()
            }
        };
        let offset = segment.size();
        match segment.file.write_all_at(&self.buffer, offset) {
            Ok(()) => {}
            Err(error) if is_no_space(&error) => {
                // What was written of the frame is known to be no part of the log: cut it off, then wait.
                if let Err(error) = segment.file.set_len(offset) {
                    let text = format!("cutting {} back to {offset}: {error}", segment.path.display());
                    return Err(self.shared.poison(text));
                }
                return Ok(Put::NoSpace);
            }
            Err(error) => {
                let text = format!("writing {} at {offset}: {error}", segment.path.display());
                return Err(self.shared.poison(text));
            }
        }
        if self.shared.stalled.swap(false, Ordering::AcqRel) {
            tracing::warn!(dir = %self.shared.dir.display(), "the log has space again; writes go on");
        }
        Ok(Put::Written(segment))
    }

    fn note_stall(&self) -> Duration {
        if !self.shared.stalled.swap(true, Ordering::AcqRel) {
            tracing::error!(dir = %self.shared.dir.display(), "no space for the log: writes wait until there is some");
        }
        Duration::from_millis(self.shared.options.no_space_retry_ms)
    }

    fn wait_for_space(&self) -> Result<(), LogError> {
        let pause = self.note_stall();
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            return Err(LogError::Closed);
        }
        self.shared.wake.wait_for(&mut queue, pause);
        Ok(())
    }

    async fn sleep_for_space(&self) -> Result<(), LogError> {
        let pause = self.note_stall();
        if self.shared.queue.lock().closed {
            return Err(LogError::Closed);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// INV-01, INV-04: durable, or poisoned for ever. The kernel may drop dirty pages on a failed sync and report the next
    /// one as a success, so a second try proves nothing.
    fn sync(&self, segment: &Segment, new: bool) -> Result<(), LogError> {
        // Planted: what was written counts as durable.
        let entries = self.written.iter().any(|written| !written.moved);
        if planted(if entries { Bug::LogNotSynced } else { Bug::VoteNotSynced }) {
            return Ok(());
        }
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        let mut synced = segment.file.sync_data();
        // Planted: the second try is believed.
        if synced.is_err() && planted(Bug::FailedSyncTrusted) {
            synced = segment.file.sync_data();
        }
        synced.map_err(|error| {
            self.shared
                .poison(format!("syncing {}: {error}", segment.path.display()))
        })?;
        if new {
            self.shared.options.disk.sync_dir(&self.shared.dir).map_err(|error| {
                self.shared
                    .poison(format!("syncing directory {}: {error}", self.shared.dir.display()))
            })?;
        }
        Ok(())
    }

    // -------------------------------------------------------------------------------------------------- after

    fn note_places(&mut self, segment: &Arc<Segment>, offset: u64) {
        for written in self.written.drain(..) {
            let at = u32::try_from(offset + written.at as u64).expect("segments are far below 4 GiB");
            let place = Place {
                segment: segment.clone(),
                offset: at,
                len: written.len,
            };
            let mut index = written.group.index.lock();
            let Some(slot) = index
                .slot_mut(written.index)
                .filter(|slot| slot.sequence == written.sequence)
            else {
                // Purged or replaced meanwhile: its bytes are dead from the start.
                continue;
            };
            let old = slot.place.replace(place);
            segment.add_live(u64::from(written.len));
            if let Some(old) = old {
                old.segment.release(u64::from(old.len));
            }
            let bytes = slot.payload_len as usize;
            drop(index);
            if !written.moved {
                self.cache_bytes += bytes;
                let Written {
                    group, index, sequence, ..
                } = written;
                self.cache.push_back(Cached {
                    group,
                    index,
                    sequence,
                    bytes,
                });
            }
        }
    }

    /// The batch is durable: tell everyone, in order.
    fn finish(&mut self, batch: Vec<Queued>) {
        for queued in batch {
            match queued.operation {
                Operation::Append { .. } => {}
                Operation::Vote(vote) => queued.group.index.lock().vote = Some(vote),
                Operation::Truncate { released, .. } | Operation::Purge { released, .. } => release(released),
                Operation::Destroy { released } => {
                    release(released);
                    self.forget(&queued.group);
                }
            }
            if let Some(done) = queued.done {
                done(Ok(()));
            }
        }
        self.evict();
        self.remove_dead();
        self.plan_move();
    }

    fn forget(&self, group: &Arc<GroupLog>) {
        let mut groups = self.shared.groups.write();
        if group.index.lock().state() == LogState::default() {
            groups.remove(&group.id);
        }
    }

    fn evict(&mut self) {
        while self.cache_bytes > self.shared.options.cache_bytes
            && let Some(oldest) = self.cache.pop_front()
        {
            self.cache_bytes -= oldest.bytes;
            let mut index = oldest.group.index.lock();
            if let Some(slot) = index.slot_mut(oldest.index)
                && slot.sequence == oldest.sequence
            {
                slot.cached = None;
            }
        }
    }

    /// Removes segments from the oldest on: a later one never depends on them, because its first frame has every group's
    /// state and the entries that are still needed lie elsewhere.
    fn remove_dead(&mut self) {
        let mut removed = false;
        while self.segments.len() > 1 && self.segments[0].live() == 0 {
            let oldest = &self.segments[0];
            if let Err(error) = self.shared.options.disk.remove(&oldest.path) {
                tracing::warn!(path = %oldest.path.display(), %error, "old log segment not removed; tried again later");
                break;
            }
            self.shared.bytes_on_disk.fetch_sub(oldest.size(), Ordering::Relaxed);
            self.shared.segments.fetch_sub(1, Ordering::Relaxed);
            self.segments.pop_front();
            removed = true;
        }
        // If the removal is forgotten in a crash, the segment is read once more and removed again.
        if removed && let Err(error) = self.shared.options.disk.sync_dir(&self.shared.dir) {
            tracing::warn!(%error, "removal of log segments not synced");
        }
    }

    /// Decides to empty the oldest segment when a few needed entries (of a group that lags or rests) keep many dead bytes.
    fn plan_move(&mut self) {
        if !self.moving.is_empty() || self.moving_disabled || self.segments.len() < 3 {
            return;
        }
        let sealed = self.segments.iter().take(self.segments.len() - 1);
        let (size, live) = sealed.fold((0, 0), |(size, live), segment| {
            (size + segment.size(), live + segment.live())
        });
        if size <= self.shared.options.rewrite_above_bytes || live > size / 2 {
            return;
        }
        let oldest = self.segments[0].clone();
        for group in self.shared.groups.read().values() {
            let index = group.index.lock();
            for (at, slot) in index.slots() {
                if slot
                    .place
                    .as_ref()
                    .is_some_and(|place| Arc::ptr_eq(&place.segment, &oldest))
                {
                    self.moving.push_back(Moving {
                        group: group.clone(),
                        index: at,
                        sequence: slot.sequence,
                    });
                }
            }
        }
    }
}

fn release(released: Released) {
    for place in released {
        place.segment.release(u64::from(place.len));
    }
}

/// True if the entry at that position is on disk, or in the frame being written (up to `sequence`).
fn is_written(index: &GroupIndex, position: &LogPosition, sequence: u64) -> bool {
    index.position(position.index) == Some(*position)
        && index
            .slot(position.index)
            .is_some_and(|slot| slot.place.is_some() || slot.sequence <= sequence)
}

/// The entry to move, or none if it is not needed any more.
fn read_for_move(moving: &Moving) -> Result<Option<Entry>, LogError> {
    let (place, position, cached) = {
        let index = moving.group.index.lock();
        let Some(slot) = index.slot(moving.index).filter(|slot| slot.sequence == moving.sequence) else {
            return Ok(None);
        };
        let position = LogPosition {
            term: slot.term,
            leader: slot.leader,
            index: moving.index,
        };
        let Some(place) = slot.place.clone() else {
            return Ok(None);
        };
        (place, position, slot.cached.clone().map(|bytes| (slot.kind, bytes)))
    };
    if let Some((kind, bytes)) = cached {
        let payload = wire::payload_from(kind, bytes).expect("it came from a payload");
        return Ok(Some(Entry { position, payload }));
    }
    place
        .segment
        .read_entry(place.offset, place.len, moving.group.id, position)
        .map(Some)
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
