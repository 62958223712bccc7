//! How much the feed holds, kept in memory: bounds and bytes are asked for often and must not cost a look at the disk,
//! least of all one that steps over what was trimmed.

use super::batch::FeedChange;
use std::collections::VecDeque;

/// Bounds and size of the feed.
#[derive(Debug, Default)]
pub(super) struct FeedMeter {
    bounds: Option<(u64, u64)>,
    /// (last sequence, bytes) of pieces of the feed, oldest first.
    pieces: VecDeque<(u64, u64)>,
}

/// A piece is closed at this size, so trimming is accounted for at this grain.
const PIECE_BYTES: u64 = 1 << 20;
/// More pieces than this are joined in pairs.
const PIECES_MAX: usize = 4_096;

impl FeedMeter {
    /// A feed found on disk.
    pub(super) fn found(bounds: Option<(u64, u64)>, bytes: u64) -> FeedMeter {
        FeedMeter {
            bounds,
            pieces: bounds.map(|(_, last)| (last, bytes)).into_iter().collect(),
        }
    }

    /// First and last sequence.
    pub(super) fn bounds(&self) -> Option<(u64, u64)> {
        self.bounds
    }

    /// Bytes, approximately.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|(_, bytes)| bytes).sum()
    }

    /// A committed change.
    pub(super) fn apply(&mut self, change: &FeedChange) {
        match *change {
            FeedChange::Put { seq, bytes } => self.put(seq, bytes),
            FeedChange::Trim { below } => self.trim(below),
        }
    }

    fn put(&mut self, seq: u64, bytes: u64) {
        self.bounds = Some(match self.bounds {
            Some((first, last)) => (first.min(seq), last.max(seq)),
            None => (seq, seq),
        });
        match self.pieces.back_mut() {
            Some((last, held)) if *held < PIECE_BYTES => {
                *last = seq.max(*last);
                *held += bytes;
            }
            _ => self.pieces.push_back((seq, bytes)),
        }
        if self.pieces.len() > PIECES_MAX {
            let old: Vec<(u64, u64)> = self.pieces.drain(..).collect();
            self.pieces = old
                .chunks(2)
                .map(|pair| (pair[pair.len() - 1].0, pair.iter().map(|(_, bytes)| bytes).sum()))
                .collect();
        }
    }

    fn trim(&mut self, below: u64) {
        self.bounds = self
            .bounds
            .and_then(|(first, last)| (below <= last).then_some((first.max(below), last)));
        while self.pieces.front().is_some_and(|(last, _)| *last < below) {
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_bytes_follow_the_changes() {
        let mut meter = FeedMeter::default();
        for seq in 1..=10 {
            meter.apply(&FeedChange::Put {
                seq,
                bytes: PIECE_BYTES,
            });
        }
        assert_eq!((meter.bounds(), meter.bytes()), (Some((1, 10)), 10 * PIECE_BYTES));
        meter.apply(&FeedChange::Trim { below: 4 });
        assert_eq!((meter.bounds(), meter.bytes()), (Some((4, 10)), 7 * PIECE_BYTES));
        meter.apply(&FeedChange::Trim { below: 2 });
        assert_eq!(meter.bounds(), Some((4, 10)));
        meter.apply(&FeedChange::Trim { below: 11 });
        assert_eq!((meter.bounds(), meter.bytes()), (None, 0));
        for seq in 11..10_000 {
            meter.apply(&FeedChange::Put {
                seq,
                bytes: PIECE_BYTES,
            });
        }
        assert!(meter.pieces.len() <= PIECES_MAX);
        assert_eq!(meter.bytes(), 9_989 * PIECE_BYTES);
    }
}
