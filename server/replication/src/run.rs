//! The packed run: consecutive feed records of one stream, as they cross the link between two regions.
//!
//! ```text
//! run    := 'R' 0x01 | records varint (1..=100,000) | record{records}          little endian
//! record := seq u64
//!           | kind u8                     0 a feed record, as the origin's apply wrote it (docs/formats/feed.md)
//!                                         1 bytes that the origin itself cannot read
//!           | [cause slice]               only of kind 1: why, UTF-8, at most 256 bytes
//!           | body slice
//!           | crc32c u32                  over everything of the record before it
//! slice  := length varint | bytes
//! ```
//! Sequences rise strictly. The origin's bytes are not touched, so a batch that was encoded once by the client crosses
//! the ocean as it is. The sum per record makes damage on the way visible before anything is decoded; the sums inside a
//! packed batch guard against damage before it was packed here (R17: such a record travels as kind 1 and ends in
//! quarantine at the target, and the others flow).
//!
//! The run is compressed as a whole (zstd level 1) unless that does not shrink it. The example of the golden test is
//! drawn in docs/formats/ship.md.

use crate::link::ShipCodec;
use crate::settings::{RUN_BYTES_MAX, RUN_RECORDS_MAX};
use bytes::Bytes;
use tidemark_base::codec::{Malformed, Reader, put_slice, put_varint};
use tidemark_base::limits;
use tidemark_base::{Error, Result};

const MAGIC: [u8; 2] = [b'R', 1];
const KIND_RECORD: u8 = 0;
const KIND_UNREADABLE: u8 = 1;
/// A cause is for people; it is cut to this many bytes.
const CAUSE_BYTES_MAX: usize = 256;
/// A feed record holds at most one packed batch, its header, and an offset for each of its rows.
pub(crate) const BODY_BYTES_MAX: usize = limits::BATCH_BYTES_MAX + limits::BATCH_ROWS_MAX * 5 + (4 << 10);
/// Below this a frame costs more than it saves.
const COMPRESS_FROM_BYTES: usize = 256;
const ZSTD_LEVEL: i32 = 1;

/// One record of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// Position in the stream.
    pub seq: u64,
    /// The feed record's bytes, verbatim.
    pub body: Bytes,
    /// Set if the origin cannot read it: why.
    pub unreadable: Option<String>,
}

/// Packs records; they are not empty, and their sequences rise strictly.
pub fn encode_run(records: &[RunRecord]) -> Vec<u8> {
    let bytes: usize = records.iter().map(|record| record.body.len() + 32).sum();
    let mut out = Vec::with_capacity(bytes + 8);
    out.extend_from_slice(&MAGIC);
    put_varint(&mut out, records.len() as u64);
    for record in records {
        let from = out.len();
        out.extend_from_slice(&record.seq.to_le_bytes());
        match &record.unreadable {
            None => out.push(KIND_RECORD),
            Some(cause) => {
                out.push(KIND_UNREADABLE);
                put_slice(&mut out, shorten(cause).as_bytes());
            }
        }
        put_slice(&mut out, &record.body);
        let sum = crc32c::crc32c(&out[from..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }
    out
}

/// The inverse of [`encode_run`], on bytes from outside: bounds, order and sums are checked; bodies are slices of
/// `bytes`, nothing is copied, and nothing is allocated from a count that the bytes cannot hold.
pub fn decode_run(bytes: &Bytes) -> std::result::Result<Vec<RunRecord>, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.take(2)? != MAGIC {
        return Err(Malformed("not a run of format 1"));
    }
    let count = reader.length(RUN_RECORDS_MAX, "too many records in the run")?;
    if count == 0 {
        return Err(Malformed("a run has at least one record"));
    }
    // A record takes at least 14 bytes: a count beyond that lies, and is found out when the input ends.
    let mut records: Vec<RunRecord> = Vec::with_capacity(count.min(reader.remaining() / 14));
    for _ in 0..count {
        let record = decode_record(bytes, &mut reader)?;
        if records.last().is_some_and(|last| last.seq >= record.seq) {
            return Err(Malformed("the run's sequences do not rise"));
        }
        records.push(record);
    }
    if !reader.is_empty() {
        return Err(Malformed("bytes after the last record"));
    }
    Ok(records)
}

fn decode_record(bytes: &Bytes, reader: &mut Reader<'_>) -> std::result::Result<RunRecord, Malformed> {
    let from = reader.position();
    let seq = reader.u64()?;
    let unreadable = match reader.u8()? {
        KIND_RECORD => None,
        KIND_UNREADABLE => {
            let cause = reader.slice(CAUSE_BYTES_MAX, "cause too long")?;
            Some(String::from_utf8_lossy(cause).into_owned())
        }
        _ => return Err(Malformed("unknown kind of record")),
    };
    let length = reader.slice(BODY_BYTES_MAX, "record too long")?.len();
    let end = reader.position();
    let body = bytes.slice(end - length..end);
    if crc32c::crc32c(&bytes[from..end]) != reader.u32()? {
        return Err(Malformed("a record's sum does not match its bytes"));
    }
    Ok(RunRecord { seq, body, unreadable })
}

fn shorten(cause: &str) -> &str {
    let mut end = cause.len().min(CAUSE_BYTES_MAX);
    while !cause.is_char_boundary(end) {
        end -= 1;
    }
    &cause[..end]
}

/// Compresses a run for the link, if that helps.
pub fn compress(run: Vec<u8>) -> (ShipCodec, Bytes) {
    if run.len() >= COMPRESS_FROM_BYTES
        && let Ok(small) = zstd::bulk::compress(&run, ZSTD_LEVEL)
        && small.len() < run.len()
    {
        return (ShipCodec::Zstd, small.into());
    }
    (ShipCodec::None, run.into())
}

/// The run as it was before [`compress`]. `declared` is its size as the origin says; more than [`RUN_BYTES_MAX`] is
/// refused before anything is allocated, and bytes that come out longer or shorter are refused too.
pub fn decompress(codec: ShipCodec, packed: &Bytes, declared: u64) -> Result<Bytes> {
    let declared = usize::try_from(declared)
        .ok()
        .filter(|bytes| *bytes <= RUN_BYTES_MAX)
        .ok_or_else(|| {
            Error::invalid(
                "RUN_TOO_LARGE",
                format!("a run of {declared} bytes is over the limit of {RUN_BYTES_MAX}"),
            )
            .action("lower ship_bytes_max in the sending region")
        })?;
    let run = match codec {
        ShipCodec::None => packed.clone(),
        ShipCodec::Zstd => zstd::bulk::decompress(packed, declared)
            .map_err(|error| damaged(&format!("it does not decompress: {error}")))?
            .into(),
    };
    if run.len() != declared {
        return Err(damaged(&format!(
            "it has {} bytes, its header says {declared}",
            run.len()
        )));
    }
    Ok(run)
}

/// The error of a run that was damaged on its way, or badly built. Nothing was taken; a repeat that is packed anew helps.
pub(crate) fn damaged(why: &str) -> Error {
    Error::invalid("RUN_DAMAGED", format!("the run of feed records is damaged: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<RunRecord> {
        vec![
            RunRecord {
                seq: 5,
                body: Bytes::from_static(b"ab"),
                unreadable: None,
            },
            RunRecord {
                seq: 6,
                body: Bytes::from_static(b"?"),
                unreadable: Some("bad".into()),
            },
        ]
    }

    /// Drawn in docs/formats/ship.md.
    #[test]
    fn golden() {
        let mut expected = vec![b'R', 1, 2];
        for body in [
            vec![5, 0, 0, 0, 0, 0, 0, 0, 0, 2, b'a', b'b'],
            vec![6, 0, 0, 0, 0, 0, 0, 0, 1, 3, b'b', b'a', b'd', 1, b'?'],
        ] {
            let sum = crc32c::crc32c(&body);
            expected.extend_from_slice(&body);
            expected.extend_from_slice(&sum.to_le_bytes());
        }
        assert_eq!(encode_run(&sample()), expected);
        let hex: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN_HEX);
        assert_eq!(decode_run(&expected.into()).unwrap(), sample());
    }

    const GOLDEN_HEX: &str = "520102050000000000000000026162443d7a8306000000000000000103626164013fb598cb63";

    #[test]
    fn a_damaged_or_unordered_run_is_refused() {
        let good = encode_run(&sample());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(decode_run(&bad.into()).is_err(), "byte {at}");
            assert!(decode_run(&good[..at].to_vec().into()).is_err());
        }
        let mut unordered = sample();
        unordered.swap(0, 1);
        assert!(decode_run(&encode_run(&unordered).into()).is_err());
        let long = "é".repeat(300);
        assert_eq!(shorten(&long).len(), 256);
    }

    #[test]
    fn compression_round_trips_and_refuses_what_it_did_not_say() {
        let run = vec![7u8; 100_000];
        let (codec, packed) = compress(run.clone());
        assert_eq!(codec, ShipCodec::Zstd);
        assert!(packed.len() < 1_000);
        assert_eq!(decompress(codec, &packed, 100_000).unwrap(), run);
        for wrong in [0, 99_999, 100_001] {
            assert_eq!(decompress(codec, &packed, wrong).unwrap_err().reason(), "RUN_DAMAGED");
        }
        let reason = |declared| decompress(codec, &packed, declared).unwrap_err().reason().to_owned();
        assert_eq!(reason(RUN_BYTES_MAX as u64), "RUN_DAMAGED");
        assert_eq!(reason(RUN_BYTES_MAX as u64 + 1), "RUN_TOO_LARGE");
        assert_eq!(reason(u64::MAX), "RUN_TOO_LARGE");
        let (codec, packed) = compress(vec![1, 2, 3]);
        assert_eq!(
            (codec, decompress(codec, &packed, 3).unwrap().len()),
            (ShipCodec::None, 3)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            let _ = decode_run(&bytes);
            let mut with_head = vec![b'R', 1];
            with_head.extend_from_slice(&bytes);
            let _ = decode_run(&with_head.into());
            let _ = decompress(ShipCodec::Zstd, &bytes, 1_000);
        }

        #[test]
        fn round_trip(bodies in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..50), any::<bool>()), 1..20)) {
            let records: Vec<RunRecord> = bodies.into_iter().enumerate().map(|(n, (body, bad))| RunRecord {
                seq: n as u64 * 3,
                body: body.into(),
                unreadable: bad.then(|| "cause".to_owned()),
            }).collect();
            prop_assert_eq!(decode_run(&encode_run(&records).into()).unwrap(), records);
        }
    }
}
