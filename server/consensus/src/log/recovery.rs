//! Reading the log at open: what every group holds, and what a crash may have left at the very end.
//!
//! A frame is followed by another one only after it was synced. So the only frame that a crash can leave incomplete is the
//! last frame of the last segment, and it was never acknowledged: it is cut off if it looks like an interrupted write (the
//! file ends within it, or a disk sector of it was never written and reads as zeros). Everything else that does not check
//! is damage to data that was acknowledged: open refuses and names the file and the offset (INV-06), because silently
//! dropping it could make this replica forget a promise to its group.

use super::disk::LogFile;
use super::file::FileLogOptions;
use super::index::{GroupIndex, Place, Slot};
use super::record::{self, FRAME_HEAD_BYTES, HEAD_BYTES, Record};
use super::segment::{Segment, segment_number};
use super::{LogError, Vote};
use crate::types::{Entry, LogPosition, Payload};
use crate::wire;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemark_base::GroupId;
use tidemark_runtime::planted::{Bug, planted};
use tidemark_runtime::{Mark, mark};

/// The unit in which a disk writes at least.
const SECTOR_BYTES: u64 = 512;

/// What the files say.
pub(super) struct Recovered {
    pub(super) groups: BTreeMap<GroupId, GroupIndex>,
    pub(super) segments: VecDeque<Arc<Segment>>,
    pub(super) next_frame: u64,
}

/// One group while records are replayed. Entries may have holes until the end: rewritten ones come later than their place.
#[derive(Default)]
struct Replay {
    vote: Option<Vote>,
    purged: Option<LogPosition>,
    committed: Option<LogPosition>,
    entries: BTreeMap<u64, Slot>,
}

fn io_error(path: &Path, error: std::io::Error) -> LogError {
    LogError::Io(format!("{}: {error}", path.display()))
}

/// Reads the whole log.
pub(super) fn recover(dir: &Path, options: &FileLogOptions) -> Result<Recovered, LogError> {
    options.disk.create_dir(dir).map_err(|error| io_error(dir, error))?;
    let mut paths: Vec<(u64, PathBuf)> = options
        .disk
        .list(dir)
        .map_err(|error| io_error(dir, error))?
        .into_iter()
        .filter_map(|path| Some((segment_number(&path)?, path)))
        .collect();
    paths.sort();
    if let Some(pair) = paths.windows(2).find(|pair| pair[1].0 != pair[0].0 + 1) {
        let path = pair[1].1.display().to_string();
        let detail = format!("segment {} is missing before it", pair[0].0 + 1);
        return Err(LogError::Damaged {
            path,
            offset: 0,
            detail,
        });
    }
    let mut groups = BTreeMap::new();
    let mut segments = VecDeque::new();
    let mut next_frame = None;
    let count = paths.len();
    for (at, (number, path)) in paths.into_iter().enumerate() {
        let last = at + 1 == count;
        let file = options.disk.open(&path).map_err(|error| io_error(&path, error))?;
        let size = file.len().map_err(|error| io_error(&path, error))?;
        let segment = Arc::new(Segment::new(number, path, file, size));
        let frames = read_segment(&segment, last, &mut next_frame, &mut groups)?;
        if frames == 0 && last {
            // Its creation was interrupted. It goes, so that the next one begins with every group's state again.
            options
                .disk
                .remove(&segment.path)
                .map_err(|error| io_error(&segment.path, error))?;
            options.disk.sync_dir(dir).map_err(|error| io_error(dir, error))?;
        } else {
            segments.push_back(segment);
        }
    }
    let groups = groups
        .into_iter()
        .map(|(id, replay)| Ok((id, finish(id, replay, dir)?)))
        .collect::<Result<_, _>>()?;
    Ok(Recovered {
        groups,
        segments,
        next_frame: next_frame.unwrap_or(1),
    })
}

/// Replays one segment and returns the number of its frames; cuts a torn last frame off.
fn read_segment(
    segment: &Arc<Segment>,
    last: bool,
    next_frame: &mut Option<u64>,
    groups: &mut BTreeMap<GroupId, Replay>,
) -> Result<u64, LogError> {
    let size = segment.size();
    match read_head(segment, size)? {
        Head::Good => {}
        Head::Torn if last => return Ok(0),
        Head::Torn => return Err(segment.damaged(0, "segment head")),
    }
    let mut at = HEAD_BYTES as u64;
    let mut frames = 0;
    let mut window = Window::new(segment, size);
    while at < size {
        let expected = *next_frame;
        match read_frame(&mut window, at, expected) {
            Ok((sequence, records, end)) => {
                for (offset, len, record) in records {
                    replay(segment, offset, len, record, groups);
                }
                *next_frame = Some(sequence + 1);
                frames += 1;
                at = end;
            }
            // What cannot be read is not thereby damaged, nor torn.
            Err(Unreadable::Io(error)) => return Err(error),
            Err(Unreadable::Damaged(detail)) => {
                if !last || !is_torn(segment, at, size)? {
                    return Err(segment.damaged(at, detail));
                }
                tracing::warn!(path = %segment.path.display(), offset = at, "an interrupted write is cut off");
                mark(Mark::TailTorn);
                cut(segment, at)?;
                break;
            }
        }
    }
    Ok(frames)
}

enum Head {
    Good,
    Torn,
}

fn read_head(segment: &Segment, size: u64) -> Result<Head, LogError> {
    if size < HEAD_BYTES as u64 {
        return Ok(Head::Torn);
    }
    let mut head = [0; HEAD_BYTES];
    read_at(segment, &mut head, 0)?;
    if head.iter().all(|byte| *byte == 0) {
        return Ok(Head::Torn);
    }
    match record::decode_head(&head) {
        Ok(number) if number == segment.number => Ok(Head::Good),
        Ok(number) => Err(segment.damaged(0, format!("the head says segment {number}"))),
        Err(error) => Err(segment.damaged(0, error.to_string())),
    }
}

fn read_at(segment: &Segment, bytes: &mut [u8], at: u64) -> Result<(), LogError> {
    segment
        .file
        .read_exact_at(bytes, at)
        .map_err(|error| io_error(&segment.path, error))
}

fn cut(segment: &Segment, at: u64) -> Result<(), LogError> {
    let file: &dyn LogFile = &*segment.file;
    file.set_len(at)
        .and_then(|()| file.sync_data())
        .map_err(|error| io_error(&segment.path, error))?;
    segment.size.store(at, Ordering::Relaxed);
    Ok(())
}

/// A frame's sequence, its records with their offsets and lengths, and where it ends.
type Frame = (u64, Vec<(u64, u32, Record)>, u64);

/// A part of a segment in memory: small frames are many, and a read of the file for each costs more than all else.
struct Window<'a> {
    segment: &'a Segment,
    size: u64,
    start: u64,
    bytes: Bytes,
}

/// What is read at once, unless a frame is larger.
const WINDOW_BYTES: u64 = 1 << 20;

impl<'a> Window<'a> {
    fn new(segment: &'a Segment, size: u64) -> Window<'a> {
        Window {
            segment,
            size,
            start: 0,
            bytes: Bytes::new(),
        }
    }

    /// The bytes of the file from `at` on, which the caller knows to be there.
    fn get(&mut self, at: u64, len: u64) -> Result<Bytes, LogError> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if at < held.start || at + len > held.end {
            let whole = len.max(WINDOW_BYTES.min(self.size - at));
            let mut bytes = vec![0; whole as usize];
            read_at(self.segment, &mut bytes, at)?;
            (self.start, self.bytes) = (at, bytes.into());
        }
        let from = (at - self.start) as usize;
        Ok(self.bytes.slice(from..from + len as usize))
    }
}

/// Why a frame was not read.
enum Unreadable {
    /// The disk did not give it.
    Io(LogError),
    /// What is wrong with its bytes.
    Damaged(String),
}

impl From<String> for Unreadable {
    fn from(detail: String) -> Unreadable {
        Unreadable::Damaged(detail)
    }
}

impl From<LogError> for Unreadable {
    fn from(error: LogError) -> Unreadable {
        Unreadable::Io(error)
    }
}

/// Reads the frame at `at` completely before anything of it is replayed.
fn read_frame(window: &mut Window<'_>, at: u64, expected: Option<u64>) -> Result<Frame, Unreadable> {
    let size = window.size;
    if size - at < FRAME_HEAD_BYTES as u64 {
        return Err("the file ends within a frame head".to_string().into());
    }
    let head = window.get(at, FRAME_HEAD_BYTES as u64)?;
    let (bytes, sequence) = record::decode_frame_head(&head).map_err(|error| error.to_string())?;
    if expected.is_some_and(|expected| expected != sequence) {
        return Err(format!("frame {sequence} where frame {} should be", expected.unwrap_or(0)).into());
    }
    let start = at + FRAME_HEAD_BYTES as u64;
    // Planted: what is there of the frame is taken for all of it.
    let bytes = match planted(Bug::TornTailTrusted) {
        true => u64::from(bytes).min(size - start) as u32,
        false => bytes,
    };
    // Checked before anything is allocated.
    if u64::from(bytes) > size - start {
        return Err("the file ends within a frame".to_string().into());
    }
    let mut rest = window.get(start, u64::from(bytes)).map_err(|error| error.to_string())?;
    let end = start + u64::from(bytes);
    let mut records = Vec::new();
    while !rest.is_empty() {
        let offset = end - rest.len() as u64;
        let before = rest.len();
        let record = record::decode(&mut rest).map_err(|error| format!("record at {offset}: {error}"))?;
        records.push((offset, (before - rest.len()) as u32, record));
    }
    Ok((sequence, records, end))
}

/// Decides whether the frame at `at`, which does not check, is an interrupted last write. See the module.
fn is_torn(segment: &Segment, at: u64, size: u64) -> Result<bool, LogError> {
    // Segments end soon after `segment_bytes`, so this is bounded.
    let mut tail = vec![0; usize::try_from(size - at).expect("segments are far below 4 GiB")];
    read_at(segment, &mut tail, at)?;
    let head = record::decode_frame_head(&tail).ok();
    let (search_from, frame) = match head {
        Some((bytes, _)) => {
            let end = FRAME_HEAD_BYTES as u64 + u64::from(bytes);
            if end > tail.len() as u64 {
                return Ok(true);
            }
            (end as usize, &tail[..end as usize])
        }
        None => (1, &tail[..head_sectors_end(at).min(tail.len())]),
    };
    // A frame behind this one was written after this one was synced.
    let mut from = search_from;
    while let Some(found) = record::find_frame_magic(&tail, from) {
        if record::decode_frame_head(&tail[found..]).is_ok() {
            return Ok(false);
        }
        from = found + 1;
    }
    Ok(frame.len() < FRAME_HEAD_BYTES || begins_unwritten(frame, at) || has_unwritten_sector(frame, at))
}

/// Where the sectors end, counted from `at`, that hold the head of a frame which begins there.
fn head_sectors_end(at: u64) -> usize {
    let end = (at + FRAME_HEAD_BYTES as u64).next_multiple_of(SECTOR_BYTES);
    (end - at) as usize
}

/// True if the sector in which the frame begins has its old content: zeros where the frame should begin, however few they
/// are, because a frame begins with letters.
fn begins_unwritten(frame: &[u8], at: u64) -> bool {
    let first = (SECTOR_BYTES - at % SECTOR_BYTES).min(frame.len() as u64) as usize;
    frame[..first].iter().all(|byte| *byte == 0)
}

/// True if the part of `bytes` (which lie at `at` in the file) in some sector is all zeros.
fn has_unwritten_sector(bytes: &[u8], at: u64) -> bool {
    let first = (SECTOR_BYTES - at % SECTOR_BYTES).min(bytes.len() as u64) as usize;
    let (head, rest) = bytes.split_at(first);
    let zeros = |piece: &[u8]| piece.len() >= 16 && piece.iter().all(|byte| *byte == 0);
    zeros(head) || rest.chunks(SECTOR_BYTES as usize).any(zeros)
}

fn replay(segment: &Arc<Segment>, offset: u64, len: u32, record: Record, groups: &mut BTreeMap<GroupId, Replay>) {
    match record {
        Record::Entry { group, entry, moved } => {
            let place = Place {
                segment: segment.clone(),
                offset: offset as u32,
                len,
            };
            replay_entry(groups.entry(group).or_default(), &entry, moved, place);
        }
        Record::Vote { group, vote } => groups.entry(group).or_default().vote = Some(vote),
        Record::Truncate { group, from } => drop(groups.entry(group).or_default().entries.split_off(&from)),
        Record::Purge { group, upto } => groups.entry(group).or_default().purge(upto),
        Record::Destroyed { group } => drop(groups.remove(&group)),
        Record::Committed { group, position } => groups.entry(group).or_default().committed = Some(position),
        Record::State { group, state } => {
            let replay = groups.entry(group).or_default();
            replay.vote = state.vote.or(replay.vote);
            replay.committed = state.committed.or(replay.committed);
            if let Some(upto) = state.purged {
                replay.purge(upto);
            }
        }
    }
}

impl Replay {
    fn purge(&mut self, upto: LogPosition) {
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.entries = self.entries.split_off(&(upto.index + 1));
            self.purged = Some(upto);
        }
    }
}

fn replay_entry(replay: &mut Replay, entry: &Entry, moved: bool, place: Place) {
    let index = entry.position.index;
    if replay.purged.is_some_and(|purged| index <= purged.index) {
        return;
    }
    if !moved {
        // What stood here or behind was replaced. Nearly always that is nothing, and splitting a map costs more than a look.
        if replay.entries.last_key_value().is_some_and(|(last, _)| *last >= index) {
            drop(replay.entries.split_off(&index));
        }
    } else if replay
        .entries
        .get(&index)
        .is_some_and(|slot| slot.term != entry.position.term)
    {
        return;
    }
    let payload_len = entry.payload.len();
    let slot = Slot {
        term: entry.position.term,
        leader: entry.position.leader,
        sequence: 0,
        kind: wire::payload_code(&entry.payload),
        payload_len: payload_len as u32,
        place: Some(place),
        // Nothing is cached at open: most of it will never be read again.
        cached: matches!(entry.payload, Payload::Blank).then(Bytes::new),
    };
    replay.entries.insert(index, slot);
}

/// Checks that nothing is missing and makes the index.
fn finish(id: GroupId, replay: Replay, dir: &Path) -> Result<GroupIndex, LogError> {
    let mut index = GroupIndex::default();
    index.vote = replay.vote;
    let mut expected = replay.purged.map(|purged| purged.index + 1);
    if let Some(purged) = replay.purged {
        index.purge(purged);
    }
    for (at, slot) in replay.entries {
        if expected.is_some_and(|expected| expected != at) {
            let detail = format!("{id}: entries {} to {} are missing", expected.unwrap_or(0), at - 1);
            return Err(LogError::Damaged {
                path: dir.display().to_string(),
                offset: 0,
                detail,
            });
        }
        expected = Some(at + 1);
        let place = slot.place.as_ref().expect("a replayed entry has a place");
        place.segment.add_live(u64::from(place.len));
        index.push_slot(at, slot);
    }
    // Only a hint; one that the entries do not confirm is worth nothing.
    index.committed = replay.committed.filter(|position| {
        index.position(position.index) == Some(*position) || index.purged.is_some_and(|p| p.index >= position.index)
    });
    Ok(index)
}
