//! What is known about one group's log without touching the disk: positions, places and the bytes that are still cached.
//!
//! Shared by both stores. It has one owner at a time (a lock held by the caller), does no input or output, and changes in
//! the order of the calls, ahead of the disk; what the disk holds is the writer's business.

use super::segment::Segment;
use super::{LogError, LogState, Vote};
use crate::types::{Entry, LogPosition};
use crate::wire;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use tidemark_base::{GroupId, NodeId};

/// Where an entry's record lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) segment: Arc<Segment>,
    /// Offset of the record in the file.
    pub(crate) offset: u32,
    /// Bytes of the whole record.
    pub(crate) len: u32,
}

/// One entry. Its index is its place in the deque.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) term: u64,
    pub(crate) leader: NodeId,
    /// Unique per append, so that the writer recognises an entry that was replaced while it was being written.
    pub(crate) sequence: u64,
    pub(crate) kind: u8,
    pub(crate) payload_len: u32,
    /// None until written.
    pub(crate) place: Option<Place>,
    /// None when only the disk has it. At least one of the two is there.
    pub(crate) cached: Option<Bytes>,
}

/// An entry that left the index, with its place if it had one: the writer frees the space when the removal is durable.
pub(crate) type Released = Vec<Place>;

/// Everything known about one group.
#[derive(Debug, Default)]
pub(crate) struct GroupIndex {
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogPosition>,
    pub(crate) committed: Option<LogPosition>,
    /// The committed position changed since it was last written.
    pub(crate) committed_dirty: bool,
    /// Index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    bytes: u64,
}

impl GroupIndex {
    pub(crate) fn state(&self) -> LogState {
        LogState {
            vote: self.vote,
            purged: self.purged,
            last: self.last(),
            committed: self.committed,
            bytes: self.bytes,
        }
    }

    /// The last entry present, or the purged one.
    pub(crate) fn last(&self) -> Option<LogPosition> {
        if self.slots.is_empty() {
            self.purged
        } else {
            self.position(self.next() - 1)
        }
    }

    fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(crate) fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(crate) fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots
            .get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// The last entry is durable, and so are those before it: they are written in order.
    pub(crate) fn last_is_written(&self) -> bool {
        self.slots.back().is_none_or(|slot| slot.place.is_some())
    }

    pub(crate) fn position(&self, index: u64) -> Option<LogPosition> {
        self.slot(index).map(|slot| LogPosition {
            term: slot.term,
            leader: slot.leader,
            index,
        })
    }

    /// Slots with their indexes, front to back.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (u64, &Slot)> {
        (self.first..).zip(self.slots.iter())
    }

    /// Refuses entries that would leave a hole; an empty log without a purge mark may start anywhere.
    pub(crate) fn check_follows(&self, group: GroupId, index: u64) -> Result<(), LogError> {
        let last = self.last();
        let follows = match last {
            Some(last) => index == last.index + 1,
            None => true,
        };
        if follows {
            Ok(())
        } else {
            Err(LogError::Hole {
                group,
                index,
                last: last.map(|l| l.index),
            })
        }
    }

    /// Adds an entry; the caller checked that it follows.
    pub(crate) fn push(&mut self, entry: &Entry, sequence: u64) {
        let bytes = match &entry.payload {
            crate::Payload::Blank => Bytes::new(),
            crate::Payload::Command(bytes) | crate::Payload::Membership(bytes) => bytes.clone(),
        };
        let slot = Slot {
            term: entry.position.term,
            leader: entry.position.leader,
            sequence,
            kind: wire::payload_code(&entry.payload),
            payload_len: u32::try_from(bytes.len()).expect("limits keep every payload far below 4 GiB"),
            place: None,
            cached: Some(bytes),
        };
        self.push_slot(entry.position.index, slot);
    }

    pub(crate) fn push_slot(&mut self, index: u64, slot: Slot) {
        if self.slots.is_empty() {
            self.first = index;
        }
        debug_assert_eq!(index, self.next(), "INV-02: a log has no holes");
        self.bytes += u64::from(slot.payload_len);
        self.slots.push_back(slot);
    }

    pub(crate) fn truncate_from(&mut self, from: u64) -> Released {
        let keep = usize::try_from(from.saturating_sub(self.first))
            .unwrap_or(usize::MAX)
            .min(self.slots.len());
        let removed: Vec<Slot> = self.slots.drain(keep..).collect();
        self.release(removed)
    }

    pub(crate) fn purge(&mut self, upto: LogPosition) -> Released {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Vec::new();
        }
        let count = usize::try_from((upto.index + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        let removed: Vec<Slot> = self.slots.drain(..count.min(self.slots.len())).collect();
        if self.slots.is_empty() {
            self.first = upto.index + 1;
        } else {
            self.first = upto.index.saturating_add(1).max(self.first);
        }
        self.purged = Some(upto);
        self.release(removed)
    }

    fn release(&mut self, removed: Vec<Slot>) -> Released {
        self.bytes -= removed.iter().map(|slot| u64::from(slot.payload_len)).sum::<u64>();
        removed.into_iter().filter_map(|slot| slot.place).collect()
    }

    /// Everything, when the group is destroyed.
    pub(crate) fn clear(&mut self) -> Released {
        let removed: Vec<Slot> = self.slots.drain(..).collect();
        let released = self.release(removed);
        *self = GroupIndex::default();
        released
    }

    /// The first index of the longest tail that ends with `upto` and keeps both bounds. Walks no more than that tail.
    pub(crate) fn tail_start(&self, upto: u64, entries_max: u64, bytes_max: u64) -> u64 {
        let mut start = upto.saturating_add(1).min(self.next());
        let floor = start.saturating_sub(entries_max).max(self.first);
        let mut bytes = 0u64;
        while start > floor {
            bytes += self.slot(start - 1).map_or(0, |slot| u64::from(slot.payload_len));
            if bytes > bytes_max {
                break;
            }
            start -= 1;
        }
        start
    }

    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        let next = index.saturating_add(1);
        if next <= self.first {
            return self.bytes;
        }
        let skip = usize::try_from(next - self.first)
            .unwrap_or(usize::MAX)
            .min(self.slots.len());
        // Walk the shorter side.
        if skip > self.slots.len() / 2 {
            self.slots
                .iter()
                .skip(skip)
                .map(|slot| u64::from(slot.payload_len))
                .sum()
        } else {
            self.bytes
                - self
                    .slots
                    .iter()
                    .take(skip)
                    .map(|slot| u64::from(slot.payload_len))
                    .sum::<u64>()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Payload;

    fn filled(indexes: std::ops::Range<u64>) -> GroupIndex {
        let mut index = GroupIndex::default();
        for i in indexes {
            let position = LogPosition {
                term: 1,
                leader: NodeId(1),
                index: i,
            };
            index.push(
                &Entry {
                    position,
                    payload: Payload::Command(Bytes::from(vec![0; 10])),
                },
                i,
            );
        }
        index
    }

    #[test]
    fn purge_and_truncate_keep_the_bytes_right() {
        let mut index = filled(0..10);
        assert_eq!(index.state().bytes, 100);
        assert_eq!(index.bytes_after(6), 30);
        assert_eq!(index.bytes_after(1), 80);
        assert_eq!(index.tail_start(9, 100, 25), 8);
        assert_eq!(index.tail_start(7, 100, 25), 6);
        assert_eq!(index.tail_start(7, 1, 25), 7);
        assert_eq!(index.tail_start(7, 100, 1000), 0);
        assert_eq!(index.tail_start(100, 3, 1000), 7);
        index.truncate_from(8);
        index.purge(LogPosition {
            term: 1,
            leader: NodeId(1),
            index: 2,
        });
        assert_eq!(index.state().bytes, 50);
        assert_eq!(index.state().last.unwrap().index, 7);
        assert!(index.check_follows(GroupId(1), 8).is_ok());
        assert!(index.check_follows(GroupId(1), 9).is_err());
        index.purge(LogPosition {
            term: 1,
            leader: NodeId(1),
            index: 20,
        });
        assert_eq!(index.state().last.unwrap().index, 20);
        assert!(index.check_follows(GroupId(1), 21).is_ok());
        assert_eq!(index.state().bytes, 0);
    }
}
