//! Remote row mutations that cannot be applied yet, with their cause (R17). They keep their stamps, hold the stream's
//! `complete` watermark below the oldest of them, and leave by themselves when the cause is gone.
//!
//! ```text
//! state key   := 'q' | stream id(10) | seq u64 big endian
//! state value := 0x01 | pin_hlc u64 | cause slice
//!                | 0x01 | first stamp(14) | offsets varint n, n varints | batch slice        rows of an unknown family
//!                | 0x02 | bytes slice                                                        a record that does not decode
//!                | 0x03                                                                      the same; another tablet keeps it
//! ```
//! A row waits iff it names an *unknown* family: one that neither lives here nor was dropped here. Mutations of a dropped
//! family are dead on arrival: they are left out, and what else the row holds is applied at once (O12).
//!
//! `pin_hlc` is the least hlc in the entry; for a record that does not decode it is the least that it can have: one above
//! the stream's watermark at that moment. In memory stand only the pins, about 100 bytes an entry; an entry counts at
//! least [`ENTRY_BYTES_MIN`] against the bound, so that tiny entries cannot fill the memory.

use crate::codec::{cut, done, get_batch, get_stamp, get_text, put_stamp, share};
use crate::feed::{at_offset, get_offset_list};
use crate::remote::REMOTE_BYTES_MAX;
use crate::stream::StreamId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use tidemark_base::codec::{Malformed, Reader, put_slice, put_varint};
use tidemark_base::{FamilyId, MutationRef, PackedBatch, RegionId, RowRef, Scope, Stamp, TableSchema, limits};
use tidemark_engine::{Engine, EngineError};

/// What an entry counts at least against the bound.
pub const ENTRY_BYTES_MIN: u64 = 1 << 10;
pub(crate) const PREFIX: &[u8] = b"q";
/// Row keys shown of an entry.
pub const SAMPLE_ROWS_MAX: usize = 3;
/// Bytes of entries that one page is made from: they are read whole to be shown.
const PAGE_BYTES_MAX: usize = 32 << 20;

/// An entry as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineEntry {
    /// The stream that it came with.
    pub stream: StreamId,
    /// Its record in the origin's feed.
    pub seq: u64,
    /// Row mutations in it; 1 for a record that does not decode.
    pub rows: u64,
    /// The origin's hlc of the oldest row; of a record that does not decode, the least that it can have.
    pub oldest_hlc: u64,
    /// True for a record that does not decode: no schema change makes it leave.
    pub unreadable: bool,
    /// Why it waits.
    pub cause: String,
    /// Bytes of the rows as a packed batch, or of what was received.
    pub bytes: u64,
    /// The first row keys, at most [`SAMPLE_ROWS_MAX`]; none of a record that does not decode.
    pub sample_rows: Vec<Bytes>,
}

/// A part of the quarantine, as [`crate::Tablet::quarantine`] shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuarantinePage {
    /// By stream and record.
    pub entries: Vec<QuarantineEntry>,
    /// There are more entries than are shown.
    pub more: bool,
}

/// What an operator gave up; see [`crate::Tablet::discard_quarantine`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Entries.
    pub entries: u64,
    /// Row mutations in them; a record that does not decode counts as one.
    pub rows: u64,
    /// Bytes of their state records.
    pub bytes: u64,
}

/// What waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Rows {
        first: Stamp,
        offsets: Vec<u32>,
        batch: PackedBatch,
    },
    Unreadable {
        bytes: Bytes,
    },
    /// A record that does not decode and may hold rows of this tablet too: only its pin stands here.
    Elsewhere,
}

/// A state record of the quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pin_hlc: u64,
    pub(crate) cause: String,
    pub(crate) waiting: Waiting,
}

impl Entry {
    /// The rows of a part that name an unknown family, and why they wait. `offsets` has one entry per row of `batch`.
    pub(crate) fn rows(first: Stamp, offsets: Vec<u32>, batch: PackedBatch, cause: String) -> Entry {
        let least = offsets.iter().copied().min().unwrap_or(0);
        Entry {
            pin_hlc: at_offset(first, u64::from(least)).hlc,
            cause,
            waiting: Waiting::Rows { first, offsets, batch },
        }
    }

    pub(crate) fn rows_len(&self) -> u64 {
        match &self.waiting {
            Waiting::Rows { batch, .. } => batch.rows_len() as u64,
            Waiting::Unreadable { .. } => 1,
            Waiting::Elsewhere => 0,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.pin_hlc.to_le_bytes());
        put_slice(&mut out, cut(&self.cause).as_bytes());
        match &self.waiting {
            Waiting::Rows { first, offsets, batch } => {
                out.push(1);
                put_stamp(&mut out, *first);
                put_varint(&mut out, offsets.len() as u64);
                offsets.iter().for_each(|o| put_varint(&mut out, u64::from(*o)));
                put_slice(&mut out, batch.bytes());
            }
            Waiting::Unreadable { bytes } => {
                out.push(2);
                put_slice(&mut out, bytes);
            }
            Waiting::Elsewhere => out.push(3),
        }
        out
    }

    pub(crate) fn decode(value: &Bytes) -> Result<Entry, Malformed> {
        let mut r = Reader::new(value);
        if r.u8()? != 1 {
            return Err(Malformed("not a quarantine entry of format 1"));
        }
        let pin_hlc = r.u64()?;
        let cause = get_text(&mut r)?.to_owned();
        let waiting = match r.u8()? {
            1 => {
                let first = get_stamp(&mut r)?;
                let count = r.length(limits::BATCH_ROWS_MAX, "too many offsets")?;
                let offsets = get_offset_list(&mut r, count)?;
                let batch = get_batch(value, &mut r)?;
                if offsets.len() != batch.rows_len() {
                    return Err(Malformed("not one offset per row"));
                }
                Waiting::Rows { first, offsets, batch }
            }
            2 => Waiting::Unreadable {
                bytes: share(value, r.slice(REMOTE_BYTES_MAX, "record too long")?),
            },
            3 => Waiting::Elsewhere,
            _ => return Err(Malformed("unknown kind of quarantine entry")),
        };
        done(&r)?;
        Ok(Entry {
            pin_hlc,
            cause,
            waiting,
        })
    }

    /// The form for operators.
    pub(crate) fn show(self, stream: StreamId, seq: u64) -> QuarantineEntry {
        let rows = self.rows_len();
        let (unreadable, bytes, sample_rows) = match self.waiting {
            Waiting::Rows { batch, .. } => (false, batch.bytes().len(), first_rows(&batch)),
            Waiting::Unreadable { bytes } => (true, bytes.len(), Vec::new()),
            Waiting::Elsewhere => (true, 0, Vec::new()),
        };
        QuarantineEntry {
            stream,
            seq,
            rows,
            oldest_hlc: self.pin_hlc,
            unreadable,
            cause: self.cause,
            bytes: bytes as u64,
            sample_rows,
        }
    }
}

pub(crate) fn key(stream: StreamId, seq: u64) -> Vec<u8> {
    let mut key = PREFIX.to_vec();
    key.extend_from_slice(&stream.encode());
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

pub(crate) fn parse_key(key: &[u8]) -> Result<(StreamId, u64), Malformed> {
    let mut r = Reader::new(key);
    if r.take(PREFIX.len())? != PREFIX {
        return Err(Malformed("not a key of the quarantine"));
    }
    let stream = StreamId::read(&mut r)?;
    let seq = u64::from_be_bytes(r.array()?);
    done(&r)?;
    Ok((stream, seq))
}

/// A page of the quarantine: of all streams, or of one region's.
pub(crate) fn page(engine: &dyn Engine, region: Option<RegionId>, limit: usize) -> Result<QuarantinePage, EngineError> {
    let prefix = match region {
        Some(region) => [PREFIX, &region.0.to_be_bytes()].concat(),
        None => PREFIX.to_vec(),
    };
    let (mut shown, mut from, mut bytes) = (QuarantinePage::default(), Vec::new(), 0);
    loop {
        let records = engine.state_scan(&prefix, &from, 1)?;
        let Some((key, value)) = records.first() else {
            return Ok(shown);
        };
        if shown.entries.len() >= limit || bytes > PAGE_BYTES_MAX {
            shown.more = true;
            return Ok(shown);
        }
        bytes += value.len();
        let damaged =
            |e: Malformed| EngineError::Corruption(format!("a quarantine entry is not what was written: {}", e.0));
        let (stream, seq) = parse_key(key).map_err(damaged)?;
        let entry = Entry::decode(value).map_err(damaged)?;
        shown.entries.push(entry.show(stream, seq));
        from = [&key[..], &[0]].concat();
    }
}

fn first_rows(batch: &PackedBatch) -> Vec<Bytes> {
    let row = |row: RowRef<'_>| match row {
        RowRef::Mutation { row, .. } => Bytes::copy_from_slice(row),
        RowRef::RangeDelete { start, .. } => Bytes::copy_from_slice(start),
    };
    batch.rows().take(SAMPLE_ROWS_MAX).map(row).collect()
}

/// A family of a row that does not live, if there is one: nothing may be written to it here.
pub(crate) fn family_not_living(schema: &TableSchema, row: &RowRef<'_>) -> Option<FamilyId> {
    family_where(row, |family| schema.family(family).is_none())
}

/// A family of a peer's row that is unknown here, if there is one: the row must wait.
pub(crate) fn unknown_family(schema: &TableSchema, row: &RowRef<'_>) -> Option<FamilyId> {
    family_where(row, |family| schema.is_unknown(family))
}

fn family_where(row: &RowRef<'_>, picks: impl Fn(FamilyId) -> bool) -> Option<FamilyId> {
    let RowRef::Mutation { mutations, .. } = row else {
        return None;
    };
    mutations.clone().filter_map(family_of).find(|family| picks(*family))
}

/// The family that a mutation names; a row's deletion names none.
pub(crate) fn family_of(mutation: MutationRef<'_>) -> Option<FamilyId> {
    match mutation {
        MutationRef::Put { family, .. } => Some(family),
        MutationRef::Delete { scope, .. } => match scope {
            Scope::Column { family, .. } | Scope::Family { family } => Some(family),
            Scope::Row | Scope::RowRange { .. } => None,
        },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pin {
    pin_hlc: u64,
    rows: u64,
    charged: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct StreamPins {
    by_seq: BTreeMap<u64, Pin>,
    by_hlc: BTreeSet<(u64, u64)>,
    rows: u64,
}

/// The pins of all entries: what watermarks and bounds need, without the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pins {
    streams: BTreeMap<StreamId, StreamPins>,
    charged: u64,
}

impl Pins {
    /// Adds an entry, or replaces the one at its place. `value_len` is the length of its state record.
    pub(crate) fn put(&mut self, stream: StreamId, seq: u64, entry: &Entry, value_len: usize) {
        self.remove(stream, seq);
        let pin = Pin {
            pin_hlc: entry.pin_hlc,
            rows: entry.rows_len(),
            charged: charge(value_len),
        };
        let pins = self.streams.entry(stream).or_default();
        pins.by_seq.insert(seq, pin);
        pins.by_hlc.insert((pin.pin_hlc, seq));
        pins.rows += pin.rows;
        self.charged += pin.charged;
    }

    /// Takes out an entry; returns its rows and the bytes that it counted, if it was there.
    pub(crate) fn remove(&mut self, stream: StreamId, seq: u64) -> Option<(u64, u64)> {
        let pins = self.streams.get_mut(&stream)?;
        let pin = pins.by_seq.remove(&seq)?;
        pins.by_hlc.remove(&(pin.pin_hlc, seq));
        pins.rows -= pin.rows;
        self.charged -= pin.charged;
        if pins.by_seq.is_empty() {
            self.streams.remove(&stream);
        }
        Some((pin.rows, pin.charged))
    }

    /// Places of all entries of a region's streams.
    pub(crate) fn of_region(&self, region: RegionId) -> Vec<(StreamId, u64)> {
        let places = self.streams.iter().filter(|(stream, _)| stream.region == region);
        places
            .flat_map(|(stream, pins)| pins.by_seq.keys().map(move |seq| (*stream, *seq)))
            .collect()
    }

    /// Bytes counted against the bound.
    pub(crate) fn charged(&self) -> u64 {
        self.charged
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Rows of that stream.
    pub(crate) fn rows(&self, stream: StreamId) -> u64 {
        self.streams.get(&stream).map_or(0, |p| p.rows)
    }

    /// The least hlc that waits in that stream.
    pub(crate) fn oldest_hlc(&self, stream: StreamId) -> Option<u64> {
        let pins = self.streams.get(&stream)?;
        pins.by_hlc.first().map(|(hlc, _)| *hlc)
    }
}

/// What an entry with a record of that length counts.
pub(crate) fn charge(value_len: usize) -> u64 {
    (value_len as u64).max(ENTRY_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream() -> StreamId {
        StreamId {
            region: RegionId(2),
            tablet: 9,
        }
    }

    fn unreadable(pin_hlc: u64) -> Entry {
        Entry {
            pin_hlc,
            cause: "sum".to_owned(),
            waiting: Waiting::Unreadable {
                bytes: Bytes::from_static(b"xy"),
            },
        }
    }

    #[test]
    fn an_entry_has_the_documented_bytes() {
        let golden = [1, 5, 0, 0, 0, 0, 0, 0, 0, 3, b's', b'u', b'm', 2, 2, b'x', b'y'];
        assert_eq!(unreadable(5).encode(), golden);
        assert_eq!(Entry::decode(&Bytes::copy_from_slice(&golden)).unwrap(), unreadable(5));
        let key = key(stream(), 258);
        assert_eq!(key, [b'q', 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(parse_key(&key).unwrap(), (stream(), 258));
    }

    #[test]
    fn a_pin_alone_has_the_documented_bytes_and_holds_like_any_other() {
        let pin = Entry {
            waiting: Waiting::Elsewhere,
            ..unreadable(5)
        };
        let golden = [1, 5, 0, 0, 0, 0, 0, 0, 0, 3, b's', b'u', b'm', 3];
        assert_eq!(pin.encode(), golden);
        assert_eq!(Entry::decode(&Bytes::copy_from_slice(&golden)).unwrap(), pin);
        let mut pins = Pins::default();
        pins.put(stream(), 4, &pin, golden.len());
        assert_eq!((pins.oldest_hlc(stream()), pins.rows(stream())), (Some(5), 0));
    }

    #[test]
    fn pins_add_up_and_go_away() {
        let mut pins = Pins::default();
        pins.put(stream(), 4, &unreadable(40), 10);
        pins.put(stream(), 5, &unreadable(30), 4_000);
        pins.put(stream(), 5, &unreadable(35), 4_000);
        assert_eq!(pins.oldest_hlc(stream()), Some(35));
        assert_eq!((pins.rows(stream()), pins.charged()), (2, 4_000 + ENTRY_BYTES_MIN));
        pins.remove(stream(), 5);
        assert_eq!(pins.oldest_hlc(stream()), Some(40));
        pins.remove(stream(), 4);
        assert_eq!(pins, Pins::default());
    }

    proptest! {
        #[test]
        fn the_decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_key(&bytes);
            let _ = Entry::decode(&bytes.into());
        }
    }
}
