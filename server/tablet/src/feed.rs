//! Feed records (R13): what a tablet tells its peers, in the order of its log.
//!
//! ```text
//! feed record := 0x01 | first stamp(14) | flags u8 (bit 0: offsets) | [offsets] | batch slice      rows, written here
//!              | 0x02 | stamp(14)                                                                  close
//! offsets     := varint n = rows of the batch, then n varints: row i has the stamp first with hlc + offset
//! ```
//! Without offsets the i-th row has the offset i. The batch is the client's packed batch, byte for byte. A close says that
//! no stamp at or below it will be committed here any more; after a rows record the same holds for its last stamp. The
//! worked example is the golden test below, drawn in docs/formats/feed.md.

use crate::codec::{done, get_batch, get_stamp, put_stamp};
use bytes::Bytes;
use tidemark_base::codec::{Malformed, Reader, put_slice, put_varint};
use tidemark_base::{PackedBatch, Stamp, limits};

const KIND_WRITE: u8 = 1;
const KIND_CLOSE: u8 = 2;
const FLAG_OFFSETS: u8 = 1;

/// A feed record, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEntry {
    /// Row mutations that originated here.
    Write {
        /// Stamp of the first row of the client's batch.
        first: Stamp,
        /// Offset of each row's hlc from `first`; `None` = 0, 1, 2, ….
        offsets: Option<Vec<u32>>,
        /// The rows.
        batch: PackedBatch,
    },
    /// Nothing at or below this stamp will follow.
    Close {
        /// The closing stamp.
        stamp: Stamp,
    },
}

impl FeedEntry {
    /// See the module's drawing.
    pub fn encode(&self) -> Bytes {
        match self {
            FeedEntry::Write { first, offsets, batch } => encode_write(*first, offsets.as_deref(), batch).into(),
            FeedEntry::Close { stamp } => encode_close(*stamp).into(),
        }
    }

    /// Decodes and checks a record, the batch's checksum included. Zero copy.
    pub fn decode(bytes: &Bytes) -> Result<FeedEntry, Malformed> {
        let mut r = Reader::new(bytes);
        let entry = match r.u8()? {
            KIND_WRITE => {
                let first = get_stamp(&mut r)?;
                let offsets = get_offsets(&mut r)?;
                let batch = get_batch(bytes, &mut r)?;
                if offsets.as_ref().is_some_and(|o| o.len() != batch.rows_len()) {
                    return Err(Malformed("not one offset per row"));
                }
                FeedEntry::Write { first, offsets, batch }
            }
            KIND_CLOSE => FeedEntry::Close {
                stamp: get_stamp(&mut r)?,
            },
            _ => return Err(Malformed("unknown kind of feed record")),
        };
        done(&r)?;
        Ok(entry)
    }

    /// The greatest stamp in the record: the origin is complete through it once the record is applied.
    pub fn last_stamp(&self) -> Stamp {
        match self {
            FeedEntry::Close { stamp } => *stamp,
            FeedEntry::Write { first, offsets, batch } => {
                let identity = batch.rows_len() as u64 - 1;
                let last = offsets
                    .as_ref()
                    .map_or(identity, |o| o.iter().copied().max().unwrap_or(0).into());
                at_offset(*first, last)
            }
        }
    }
}

/// What can be read of a record without looking at its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FeedHead {
    /// True for rows, false for a close.
    pub(crate) rows: bool,
    /// The record's first stamp.
    pub(crate) first: Stamp,
}

impl FeedHead {
    pub(crate) fn decode(bytes: &[u8]) -> Result<FeedHead, Malformed> {
        let mut r = Reader::new(bytes);
        let rows = match r.u8()? {
            KIND_WRITE => true,
            KIND_CLOSE => false,
            _ => return Err(Malformed("unknown kind of feed record")),
        };
        let first = get_stamp(&mut r)?;
        Ok(FeedHead { rows, first })
    }
}

pub(crate) fn encode_write(first: Stamp, offsets: Option<&[u32]>, batch: &PackedBatch) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + batch.bytes().len());
    out.push(KIND_WRITE);
    put_stamp(&mut out, first);
    out.push(if offsets.is_some() { FLAG_OFFSETS } else { 0 });
    if let Some(offsets) = offsets {
        put_varint(&mut out, offsets.len() as u64);
        offsets.iter().for_each(|o| put_varint(&mut out, u64::from(*o)));
    }
    put_slice(&mut out, batch.bytes());
    out
}

pub(crate) fn encode_close(stamp: Stamp) -> Vec<u8> {
    let mut out = vec![KIND_CLOSE];
    put_stamp(&mut out, stamp);
    out
}

/// The stamp of a row whose hlc lies `offset` above the first.
pub(crate) fn at_offset(first: Stamp, offset: u64) -> Stamp {
    Stamp {
        hlc: first.hlc.saturating_add(offset),
        ..first
    }
}

fn get_offsets(r: &mut Reader<'_>) -> Result<Option<Vec<u32>>, Malformed> {
    match r.u8()? {
        0 => Ok(None),
        FLAG_OFFSETS => {
            let count = r.length(limits::BATCH_ROWS_MAX, "too many offsets")?;
            get_offset_list(r, count).map(Some)
        }
        _ => Err(Malformed("unknown feed flags")),
    }
}

/// Reads `count` offsets; each takes at least one byte, so what is allocated is bounded by what is there.
pub(crate) fn get_offset_list(r: &mut Reader<'_>, count: usize) -> Result<Vec<u32>, Malformed> {
    if count > r.remaining() {
        return Err(Malformed("input ends early"));
    }
    let mut offsets = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = u32::try_from(r.varint()?).map_err(|_| Malformed("offset too large"))?;
        if offset as usize >= limits::BATCH_ROWS_MAX {
            return Err(Malformed("offset too large"));
        }
        offsets.push(offset);
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemark_base::{BatchBuilder, FamilyId, RegionId};

    fn stamp(hlc: u64) -> Stamp {
        Stamp {
            epoch: 0,
            hlc,
            region: RegionId(7),
        }
    }

    fn batch(rows: usize) -> PackedBatch {
        let mut builder = BatchBuilder::new();
        for i in 0..rows {
            builder.begin_row(&[b'r', i as u8]).unwrap();
            builder.put(FamilyId(0x8000_0001), b"q", 5, b"v").unwrap();
            builder.end_row().unwrap();
        }
        builder.finish().unwrap()
    }

    #[test]
    fn a_close_has_the_documented_bytes() {
        let entry = FeedEntry::Close { stamp: stamp(0x0102) };
        let golden = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 7];
        assert_eq!(entry.encode(), &golden[..]);
        assert_eq!(FeedEntry::decode(&Bytes::copy_from_slice(&golden)).unwrap(), entry);
    }

    #[test]
    fn a_write_has_the_documented_bytes() {
        let batch = batch(2);
        let entry = FeedEntry::Write {
            first: stamp(0x0102),
            offsets: Some(vec![0, 3]),
            batch: batch.clone(),
        };
        let mut golden = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 7, 1, 2, 0, 3];
        golden.push(u8::try_from(batch.bytes().len()).unwrap());
        golden.extend_from_slice(batch.bytes());
        assert_eq!(entry.encode(), golden);
        assert_eq!(FeedEntry::decode(&entry.encode()).unwrap(), entry);
        assert_eq!(entry.last_stamp(), stamp(0x0105));
    }

    #[test]
    fn a_write_without_offsets_ends_at_its_last_row() {
        let entry = FeedEntry::Write {
            first: stamp(10),
            offsets: None,
            batch: batch(3),
        };
        assert_eq!(entry.last_stamp(), stamp(12));
        let head = FeedHead::decode(&entry.encode()).unwrap();
        assert_eq!((head.rows, head.first), (true, stamp(10)));
    }

    #[test]
    fn offsets_must_fit_the_rows() {
        let bytes = encode_write(stamp(1), Some(&[0]), &batch(2));
        assert!(FeedEntry::decode(&bytes.into()).is_err());
    }

    proptest! {
        #[test]
        fn the_decoder_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = FeedEntry::decode(&bytes.clone().into());
            let _ = FeedHead::decode(&bytes);
        }

        #[test]
        fn a_flipped_byte_is_noticed_or_harmless(at in 0usize..200, xor in 1u8..) {
            let entry = FeedEntry::Write { first: stamp(9), offsets: None, batch: batch(4) };
            let mut bytes = entry.encode().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= xor;
            if let Ok(FeedEntry::Write { batch: decoded, .. }) = FeedEntry::decode(&bytes.into()) {
                prop_assert_eq!(decoded, batch(4), "only the stamp may have changed");
            }
        }
    }
}
