//! Where one peer tablet's stream stands in this tablet (R15, R16): an order-free window and a watermark that waits.
//!
//! ```text
//! seq:   1 2 3 4 5 6 7 8 9 …                contiguous_seq = 4: everything up to 4 is applied
//!        # # # # . # # . .                  ahead = [(6, 7)]: applied too, but 5 is missing
//! cursor := 0x01 | range | contiguous_seq u64 | applied_hlc u64 | rows_applied u64
//!           | ahead: n u8, n x (first u64, last u64, closed_hlc u64)
//! stream id := region u16 big endian | tablet u64 big endian            (in keys, so that bytes order as ids do)
//! ```
//! A message covers a range of sequence numbers and says through which hlc its origin is complete at the end of that
//! range. The watermark takes that hlc over when the range becomes part of the prefix without a hole.

use crate::codec::{done, get_range, put_range};
use tidemark_base::codec::{Malformed, Reader};
use tidemark_base::{RegionId, RowRange};

/// Ranges ahead of the prefix that are remembered per stream. The shipper has fewer messages in flight.
pub const AHEAD_MAX: usize = 64;

/// Which stream: one tablet of one peer region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The origin's region.
    pub region: RegionId,
    /// The tablet's number in the origin's region.
    pub tablet: u64,
}

impl StreamId {
    /// Bytes of the encoded form.
    pub(crate) const LEN: usize = 10;

    pub(crate) fn encode(self) -> [u8; StreamId::LEN] {
        let mut out = [0; StreamId::LEN];
        out[..2].copy_from_slice(&self.region.0.to_be_bytes());
        out[2..].copy_from_slice(&self.tablet.to_be_bytes());
        out
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<StreamId, Malformed> {
        Ok(StreamId {
            region: RegionId(u16::from_be_bytes(r.array()?)),
            tablet: u64::from_be_bytes(r.array()?),
        })
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/tablet-{}", self.region, self.tablet)
    }
}

/// What is published of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// The rows of the source tablet.
    pub range: RowRange,
    /// Every record up to here was taken (applied or in quarantine).
    pub contiguous_seq: u64,
    /// The origin's hlc through which everything was taken, holes in quarantine allowed (R17).
    pub applied_hlc: u64,
    /// The same without any hole: stays below the oldest row in quarantine.
    pub complete_hlc: u64,
    /// Ranges beyond `contiguous_seq` that were taken already, ascending, both ends included.
    pub ahead: Vec<(u64, u64)>,
    /// Row mutations of this stream in quarantine now; an unreadable record counts as one.
    pub quarantined_rows: u64,
    /// Row mutations applied since the stream began, those that left quarantine included.
    pub rows_applied: u64,
}

/// A taken range of sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) closed_hlc: u64,
}

/// The replicated part of a stream's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) range: RowRange,
    pub(crate) contiguous_seq: u64,
    pub(crate) applied_hlc: u64,
    pub(crate) rows_applied: u64,
    /// Ascending, with at least one missing number between neighbours and before the first.
    ahead: Vec<Taken>,
}

impl Cursor {
    pub(crate) fn new(range: RowRange) -> Cursor {
        Cursor {
            range,
            contiguous_seq: 0,
            applied_hlc: 0,
            rows_applied: 0,
            ahead: Vec::new(),
        }
    }

    /// True if that record was taken before.
    pub(crate) fn has(&self, seq: u64) -> bool {
        seq <= self.contiguous_seq || self.ahead.iter().any(|t| t.first <= seq && seq <= t.last)
    }

    /// True if every record of that range was taken before.
    pub(crate) fn has_all(&self, first: u64, last: u64) -> bool {
        let from = first.max(self.contiguous_seq.saturating_add(1));
        last <= self.contiguous_seq || self.ahead.iter().any(|t| t.first <= from && last <= t.last)
    }

    pub(crate) fn ahead_len(&self) -> usize {
        self.ahead.len()
    }

    pub(crate) fn ahead(&self) -> Vec<(u64, u64)> {
        self.ahead.iter().map(|t| (t.first, t.last)).collect()
    }

    /// Marks a range as taken and moves the watermark as far as there is no hole.
    pub(crate) fn take(&mut self, taken: Taken) {
        self.ahead.push(taken);
        self.ahead.sort_by_key(|t| (t.first, t.last));
        let mut joined: Vec<Taken> = Vec::with_capacity(self.ahead.len());
        for next in self.ahead.drain(..) {
            if next.first <= self.contiguous_seq.saturating_add(1) {
                if next.last >= self.contiguous_seq {
                    self.contiguous_seq = next.last;
                    self.applied_hlc = self.applied_hlc.max(next.closed_hlc);
                }
                continue;
            }
            match joined.last_mut() {
                Some(before) if next.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(next.last);
                    before.closed_hlc = before.closed_hlc.max(next.closed_hlc);
                }
                _ => joined.push(next),
            }
        }
        self.ahead = joined;
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        put_range(&mut out, &self.range);
        for value in [self.contiguous_seq, self.applied_hlc, self.rows_applied] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.push(u8::try_from(self.ahead.len()).expect("bounded by AHEAD_MAX"));
        for taken in &self.ahead {
            for value in [taken.first, taken.last, taken.closed_hlc] {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Cursor, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8()? != 1 {
            return Err(Malformed("not a stream cursor of format 1"));
        }
        let mut cursor = Cursor::new(get_range(&mut r)?);
        cursor.contiguous_seq = r.u64()?;
        cursor.applied_hlc = r.u64()?;
        cursor.rows_applied = r.u64()?;
        for _ in 0..r.u8()? {
            cursor.ahead.push(Taken {
                first: r.u64()?,
                last: r.u64()?,
                closed_hlc: r.u64()?,
            });
        }
        done(&r)?;
        Ok(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(cursor: &mut Cursor, first: u64, last: u64) {
        cursor.take(Taken {
            first,
            last,
            closed_hlc: last * 10,
        });
    }

    #[test]
    fn the_watermark_waits_for_the_hole() {
        let mut cursor = Cursor::new(RowRange::all());
        take(&mut cursor, 1, 2);
        take(&mut cursor, 5, 6);
        take(&mut cursor, 9, 9);
        assert_eq!((cursor.contiguous_seq, cursor.applied_hlc), (2, 20));
        assert_eq!(cursor.ahead(), [(5, 6), (9, 9)]);
        assert!(cursor.has(6) && !cursor.has(7) && cursor.has_all(1, 2) && !cursor.has_all(2, 5));
        take(&mut cursor, 3, 4);
        assert_eq!((cursor.contiguous_seq, cursor.applied_hlc), (6, 60));
        take(&mut cursor, 7, 8);
        assert_eq!((cursor.contiguous_seq, cursor.applied_hlc), (9, 90));
        assert!(cursor.ahead().is_empty());
    }

    #[test]
    fn a_cursor_has_the_documented_bytes() {
        let mut cursor = Cursor::new(RowRange::row(b"a"));
        take(&mut cursor, 1, 2);
        take(&mut cursor, 4, 4);
        let mut golden = vec![1, 1, b'a', 1, 2, b'a', 0];
        for value in [2u64, 20, 0] {
            golden.extend_from_slice(&value.to_le_bytes());
        }
        golden.push(1);
        for value in [4u64, 4, 40] {
            golden.extend_from_slice(&value.to_le_bytes());
        }
        assert_eq!(cursor.encode(), golden);
        assert_eq!(Cursor::decode(&golden).unwrap(), cursor);
    }

    proptest! {
        #[test]
        fn any_order_with_repeats_ends_at_the_same_place(
            mut order in Just((0u64..12).collect::<Vec<_>>()).prop_shuffle(),
            repeats in proptest::collection::vec(0u64..12, 0..10),
        ) {
            order.extend(repeats);
            let mut cursor = Cursor::new(RowRange::all());
            let mut seen = std::collections::BTreeSet::new();
            for piece in order {
                take(&mut cursor, piece * 3 + 1, piece * 3 + 3);
                seen.insert(piece);
                let prefix = (0..12).take_while(|p| seen.contains(p)).count() as u64;
                prop_assert_eq!(cursor.contiguous_seq, prefix * 3);
                prop_assert_eq!(cursor.applied_hlc, prefix * 30);
                for piece in 0..12 {
                    prop_assert_eq!(cursor.has_all(piece * 3 + 1, piece * 3 + 3), seen.contains(&piece));
                }
            }
            prop_assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
        }

        #[test]
        fn the_decoder_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Cursor::decode(&bytes);
        }
    }
}
