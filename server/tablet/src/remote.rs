//! What a receiver hands to one tablet: the tablet's part of a peer's message, and the answer.
//!
//! ```text
//! remote batch := 0x01 | stream id | link u64 | range | first_seq u64 | last_seq u64 | closed_hlc u64
//!                 | parts varint, n x part | unreadable varint, n x unreadable
//! part         := seq u64 | first stamp(14) | offsets varint n (0 = identity), n varints | batch slice
//! unreadable   := seq u64 | cause slice | kept u8 (0, 1) | [bytes slice]                kept = 0: another tablet has them
//! outcome      := 0x01 | contiguous_seq u64 | complete_hlc u64 | rows_applied u64 | rows_quarantined u64 | duplicate u8
//! ```
//! `first_seq..=last_seq` is the range that the message covers, whether or not a record of it has rows for this tablet,
//! so that the cursors of all tablets under one stream move. A first message covers from 1 (or from the record after the
//! last acknowledged one) even if the origin's feed begins later: what it does not hold is not meant for this peer.
//!
//! `link` is the link that the receiver let the message in by, as this region's schema numbers it. Between that and apply
//! the link may have ended and another one begun: apply refuses what belongs to another link than its own (INV-42).

use crate::codec::{cut, done, get_batch, get_range, get_stamp, get_text, put_range, put_stamp, share};
use crate::feed::{at_offset, get_offset_list};
use crate::stream::StreamId;
use bytes::Bytes;
use tidemark_base::codec::{Malformed, Reader, put_slice, put_varint};
use tidemark_base::{PackedBatch, RowRange, Stamp, limits};

/// Bytes of an encoded remote batch: one record of the greatest size, or a message of several small ones.
pub const REMOTE_BYTES_MAX: usize = limits::BATCH_BYTES_MAX + (4 << 20);

/// This tablet's part of one message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteBatch {
    /// Which stream.
    pub stream: StreamId,
    /// By which link it came; see [`tidemark_base::TableSchema::link`].
    pub link: u64,
    /// The rows of the source tablet.
    pub range: RowRange,
    /// First record covered, from 1.
    pub first_seq: u64,
    /// Last record covered.
    pub last_seq: u64,
    /// The origin's hlc through which it is complete at `last_seq`.
    pub closed_hlc: u64,
    /// Rows of this tablet, by record.
    pub parts: Vec<RemotePart>,
    /// Records that could not be read; they go to quarantine.
    pub unreadable: Vec<UnreadableRecord>,
}

/// Rows of one record that belong to this tablet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePart {
    /// First stamp of the origin's batch.
    pub first: Stamp,
    /// Offset of each row's hlc from `first`, one per row; empty = 0, 1, 2, ….
    pub offsets: Vec<u32>,
    /// The rows, as they were written.
    pub batch: PackedBatch,
    /// The record.
    pub seq: u64,
}

/// A record that does not decode. It may hold rows of every tablet under its stream, so each of them holds its `complete` for
/// it (R17); the bytes are evidence, which one of them keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRecord {
    /// The record.
    pub seq: u64,
    /// Why.
    pub cause: String,
    /// What was received; `None` where another tablet keeps it.
    pub bytes: Option<Bytes>,
}

/// What became of a [`RemoteBatch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteOutcome {
    /// Every record up to here was taken by this tablet.
    pub contiguous_seq: u64,
    /// The origin's hlc through which nothing is missing here.
    pub complete_hlc: u64,
    /// Rows applied by this call.
    pub rows_applied: u64,
    /// Rows of this stream that are in quarantine after this call.
    pub rows_quarantined_now: u64,
    /// True if everything covered had been taken before.
    pub duplicate: bool,
}

impl RemotePart {
    /// The stamp of the `index`-th row.
    pub fn stamp(&self, index: usize) -> Stamp {
        let offset = self.offsets.get(index).map_or(index as u64, |o| u64::from(*o));
        at_offset(self.first, offset)
    }

    /// The greatest stamp of the part.
    pub fn last_stamp(&self) -> Stamp {
        let identity = (self.batch.rows_len() as u64).saturating_sub(1);
        let greatest = self.offsets.iter().copied().max().map_or(identity, u64::from);
        at_offset(self.first, greatest)
    }
}

impl RemoteBatch {
    /// The greatest stamp that the batch carries; [`Stamp::MIN`] without rows.
    pub fn greatest_stamp(&self) -> Stamp {
        self.parts
            .iter()
            .map(RemotePart::last_stamp)
            .max()
            .unwrap_or(Stamp::MIN)
    }

    /// The greatest hlc that the batch carries: what the local clock must be moved past before it stamps again (R7).
    pub fn greatest_hlc(&self) -> u64 {
        self.parts.iter().map(|p| p.last_stamp().hlc).max().unwrap_or(0)
    }

    /// See the module's drawing.
    pub fn encode(&self) -> Bytes {
        let payload: usize = self.parts.iter().map(|p| p.batch.bytes().len() + 64).sum();
        let mut out = Vec::with_capacity(128 + payload);
        out.push(1);
        out.extend_from_slice(&self.stream.encode());
        out.extend_from_slice(&self.link.to_le_bytes());
        put_range(&mut out, &self.range);
        for value in [self.first_seq, self.last_seq, self.closed_hlc] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        put_varint(&mut out, self.parts.len() as u64);
        for part in &self.parts {
            out.extend_from_slice(&part.seq.to_le_bytes());
            put_stamp(&mut out, part.first);
            put_varint(&mut out, part.offsets.len() as u64);
            part.offsets.iter().for_each(|o| put_varint(&mut out, u64::from(*o)));
            put_slice(&mut out, part.batch.bytes());
        }
        put_varint(&mut out, self.unreadable.len() as u64);
        for record in &self.unreadable {
            out.extend_from_slice(&record.seq.to_le_bytes());
            put_slice(&mut out, cut(&record.cause).as_bytes());
            out.push(u8::from(record.bytes.is_some()));
            if let Some(bytes) = &record.bytes {
                put_slice(&mut out, bytes);
            }
        }
        out.into()
    }

    /// Decodes and checks, packed batches included. Zero copy of the rows.
    pub fn decode(bytes: &Bytes) -> Result<RemoteBatch, Malformed> {
        if bytes.len() > REMOTE_BYTES_MAX {
            return Err(Malformed("remote batch too long"));
        }
        let mut r = Reader::new(bytes);
        if r.u8()? != 1 {
            return Err(Malformed("not a remote batch of format 1"));
        }
        let mut batch = RemoteBatch {
            stream: StreamId::read(&mut r)?,
            link: r.u64()?,
            range: get_range(&mut r)?,
            first_seq: r.u64()?,
            last_seq: r.u64()?,
            closed_hlc: r.u64()?,
            parts: Vec::new(),
            unreadable: Vec::new(),
        };
        if batch.first_seq == 0 || batch.last_seq < batch.first_seq {
            return Err(Malformed("not a range of records"));
        }
        // Each record takes more than one byte, so the lists cannot outgrow the input.
        for _ in 0..r.length(bytes.len(), "too many parts")? {
            let part = get_part(bytes, &mut r)?;
            batch.check_seq(part.seq, batch.parts.last().map(|p| p.seq))?;
            batch.parts.push(part);
        }
        for _ in 0..r.length(bytes.len(), "too many unreadable records")? {
            let record = UnreadableRecord {
                seq: r.u64()?,
                cause: get_text(&mut r)?.to_owned(),
                bytes: match r.u8()? {
                    0 => None,
                    1 => Some(share(bytes, r.slice(REMOTE_BYTES_MAX, "record too long")?)),
                    _ => return Err(Malformed("kept is neither 0 nor 1")),
                },
            };
            batch.check_seq(record.seq, batch.unreadable.last().map(|p| p.seq))?;
            if batch.parts.binary_search_by_key(&record.seq, |p| p.seq).is_ok() {
                return Err(Malformed("a record is both readable and not"));
            }
            batch.unreadable.push(record);
        }
        done(&r)?;
        Ok(batch)
    }

    fn check_seq(&self, seq: u64, before: Option<u64>) -> Result<(), Malformed> {
        let inside = self.first_seq <= seq && seq <= self.last_seq;
        if inside && before.is_none_or(|b| b < seq) {
            Ok(())
        } else {
            Err(Malformed("records are not ascending inside the range"))
        }
    }
}

fn get_part(whole: &Bytes, r: &mut Reader<'_>) -> Result<RemotePart, Malformed> {
    let seq = r.u64()?;
    let first = get_stamp(r)?;
    let count = r.length(limits::BATCH_ROWS_MAX, "too many offsets")?;
    let offsets = get_offset_list(r, count)?;
    let batch = get_batch(whole, r)?;
    if !offsets.is_empty() && offsets.len() != batch.rows_len() {
        return Err(Malformed("not one offset per row"));
    }
    if batch.has_server_versions() {
        return Err(Malformed("a remote row without its version"));
    }
    Ok(RemotePart {
        first,
        offsets,
        batch,
        seq,
    })
}

impl RemoteOutcome {
    /// See the module's drawing.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![1];
        let values = [
            self.contiguous_seq,
            self.complete_hlc,
            self.rows_applied,
            self.rows_quarantined_now,
        ];
        for value in values {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.push(u8::from(self.duplicate));
        out.into()
    }

    /// The inverse of [`RemoteOutcome::encode`].
    pub fn decode(bytes: &[u8]) -> Result<RemoteOutcome, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8()? != 1 {
            return Err(Malformed("not a remote outcome of format 1"));
        }
        let outcome = RemoteOutcome {
            contiguous_seq: r.u64()?,
            complete_hlc: r.u64()?,
            rows_applied: r.u64()?,
            rows_quarantined_now: r.u64()?,
            duplicate: r.u8()? != 0,
        };
        done(&r)?;
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemark_base::{BatchBuilder, FamilyId, RegionId};

    fn example() -> RemoteBatch {
        let mut builder = BatchBuilder::new();
        builder.begin_row(b"r").unwrap();
        builder.put(FamilyId(0x8000_0001), b"q", 5, b"v").unwrap();
        builder.end_row().unwrap();
        RemoteBatch {
            stream: StreamId {
                region: RegionId(2),
                tablet: 9,
            },
            link: 6,
            range: RowRange::all(),
            first_seq: 1,
            last_seq: 3,
            closed_hlc: 0x50,
            parts: vec![RemotePart {
                first: Stamp {
                    epoch: 0,
                    hlc: 0x40,
                    region: RegionId(2),
                },
                offsets: vec![4],
                batch: builder.finish().unwrap(),
                seq: 2,
            }],
            unreadable: vec![UnreadableRecord {
                seq: 3,
                cause: "checksum".to_owned(),
                bytes: Some(Bytes::from_static(b"??")),
            }],
        }
    }

    #[test]
    fn a_remote_batch_has_the_documented_bytes() {
        let batch = example();
        let mut golden = vec![1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for value in [1u64, 3, 0x50] {
            golden.extend_from_slice(&value.to_le_bytes());
        }
        golden.push(1);
        golden.extend_from_slice(&2u64.to_le_bytes());
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 2, 1, 4]);
        golden.push(u8::try_from(batch.parts[0].batch.bytes().len()).unwrap());
        golden.extend_from_slice(batch.parts[0].batch.bytes());
        golden.push(1);
        golden.extend_from_slice(&3u64.to_le_bytes());
        golden.extend_from_slice(b"\x08checksum\x01\x02??");
        assert_eq!(batch.encode(), golden);
        assert_eq!(RemoteBatch::decode(&golden.into()).unwrap(), batch);
        assert_eq!(batch.greatest_stamp().hlc, 0x44);
        let mut elsewhere = batch;
        elsewhere.unreadable[0].bytes = None;
        let encoded = elsewhere.encode();
        assert!(encoded.ends_with(b"\x08checksum\x00"));
        assert_eq!(RemoteBatch::decode(&encoded).unwrap(), elsewhere);
    }

    #[test]
    fn an_outcome_comes_back_as_it_went() {
        let outcome = RemoteOutcome {
            contiguous_seq: 7,
            complete_hlc: 8,
            rows_applied: 9,
            rows_quarantined_now: 10,
            duplicate: true,
        };
        assert_eq!(RemoteOutcome::decode(&outcome.encode()).unwrap(), outcome);
    }

    #[test]
    fn a_record_outside_the_range_is_refused() {
        let mut batch = example();
        batch.parts[0].seq = 4;
        assert!(RemoteBatch::decode(&batch.encode()).is_err());
        let mut batch = example();
        batch.first_seq = 4;
        assert!(RemoteBatch::decode(&batch.encode()).is_err());
        let mut batch = example();
        batch.unreadable[0].seq = 2;
        assert!(RemoteBatch::decode(&batch.encode()).is_err());
    }

    proptest! {
        #[test]
        fn the_decoders_never_panic(at in 0usize..300, xor in 1u8.., cut in 0usize..300) {
            let mut bytes = example().encode().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= xor;
            bytes.truncate(cut.max(1));
            let _ = RemoteBatch::decode(&bytes.clone().into());
            let _ = RemoteOutcome::decode(&bytes);
        }
    }
}
