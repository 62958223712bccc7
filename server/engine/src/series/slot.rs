//! A value in sixteen bytes: short ones inside, long ones in an arena.

use std::cmp::Ordering;

/// In [`Slot::len`]: the cell is dead, its value is forgotten, and `word` is the value's digest.
const DEAD: u32 = u32::MAX;

/// One value of a column, or a dead marker.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Up to eight bytes, read big endian, filled up with zeros behind; else the offset in the arena.
    word: u64,
    len: u32,
}

/// Where long values lie.
#[derive(Clone, Debug, Default)]
pub struct Arena {
    bytes: Vec<u8>,
}

impl Arena {
    /// Keeps a value.
    #[inline]
    pub fn slot(&mut self, value: &[u8]) -> Slot {
        if let Some(eight) = value.first_chunk::<8>().filter(|_| value.len() == 8) {
            return Slot::word(u64::from_be_bytes(*eight));
        }
        if value.len() < 8 {
            let mut bytes = [0; 8];
            bytes[..value.len()].copy_from_slice(value);
            return Slot {
                word: u64::from_be_bytes(bytes),
                len: value.len() as u32,
            };
        }
        let word = self.bytes.len() as u64;
        self.bytes.extend_from_slice(value);
        Slot {
            word,
            len: value.len() as u32,
        }
    }

    /// Bytes that it has room for.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

impl Slot {
    /// A value of eight bytes.
    #[inline]
    pub fn word(word: u64) -> Slot {
        Slot { word, len: 8 }
    }

    /// A dead marker.
    pub fn dead(digest: u16) -> Slot {
        Slot {
            word: u64::from(digest),
            len: DEAD,
        }
    }

    /// The digest of a dead marker; `None` for a value.
    #[inline]
    pub fn dead_digest(self) -> Option<u16> {
        (self.len == DEAD).then_some(self.word as u16)
    }

    /// The word of a value of eight bytes.
    #[inline]
    pub fn as_word(self) -> Option<u64> {
        (self.len == 8).then_some(self.word)
    }

    /// Bytes of the value; 0 for a dead marker.
    #[inline]
    pub fn len(self) -> usize {
        if self.len == DEAD { 0 } else { self.len as usize }
    }

    /// True for an empty value and a dead marker.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Gives the value's bytes; empty for a dead marker.
    #[inline]
    pub fn with_bytes<T>(self, arena: &Arena, give: impl FnOnce(&[u8]) -> T) -> T {
        match self.len {
            DEAD => give(&[]),
            0..=8 => give(&self.word.to_be_bytes()[..self.len as usize]),
            _ => give(&arena.bytes[self.word as usize..self.word as usize + self.len as usize]),
        }
    }

    /// Dead markers first, then values by their bytes.
    pub fn compare(self, other: Slot, arena: &Arena) -> Ordering {
        match (self.dead_digest(), other.dead_digest()) {
            (Some(a), Some(b)) => a.cmp(&b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            // Filled up with zeros, words order as their bytes do, but for zeros at the end.
            (None, None) if self.len <= 8 && other.len <= 8 => (self.word, self.len).cmp(&(other.word, other.len)),
            (None, None) => self.with_bytes(arena, |a| other.with_bytes(arena, |b| a.cmp(b))),
        }
    }
}
