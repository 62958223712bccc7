//! Reading the feed of a tablet: the next run to ship, and how old what lies unread is. Blocking; called on threads that
//! may block.
//!
//! A record that cannot be decoded here is not a reason to stop: it travels as unreadable and ends in the target's
//! quarantine, where an operator sees it (R17).

use crate::cut::{Decoded, decode_records};
use crate::link::ShipCodec;
use crate::run::{RunRecord, compress, encode_run};
use crate::settings::RUN_RECORDS_MAX;
use bytes::Bytes;
use tidemark_tablet::Tablet;

/// Bytes looked at in one peek.
const PEEK_BYTES: usize = 256 << 10;

/// A run, ready for the link.
#[derive(Clone, Debug)]
pub struct PackedRun {
    /// Last sequence in it.
    pub last_seq: u64,
    /// Compression of `records`.
    pub codec: ShipCodec,
    /// The run.
    pub records: Bytes,
    /// Its size before compression.
    pub records_bytes: u64,
    /// Row mutations.
    pub rows: u64,
    /// Time of the oldest record that carries rows.
    pub oldest_rows_hlc: Option<u64>,
    /// Time of the last record that could be read.
    pub closed_hlc: u64,
    /// The feed had about as much as was asked for, so there is likely more.
    pub full: bool,
}

/// What reading found.
#[derive(Clone, Debug)]
pub enum FeedRead {
    /// A run.
    Run(Box<PackedRun>),
    /// Nothing at or after the sequence asked for.
    Empty,
    /// The feed begins later than asked for.
    Trimmed {
        /// Where it begins.
        first_seq: u64,
    },
}

/// Reads a run of about `bytes_max` bytes that begins at `from_seq`. With `fresh` a feed that begins later is no gap:
/// there was nothing for the peer before.
pub fn read_run(tablet: &Tablet, from_seq: u64, fresh: bool, bytes_max: usize) -> Result<FeedRead, String> {
    let mut feed = tablet
        .engine()
        .feed(from_seq, bytes_max)
        .map_err(|error| error.to_string())?;
    let Some(first) = feed.first() else {
        return Ok(FeedRead::Empty);
    };
    if first.seq > from_seq && !fresh {
        return Ok(FeedRead::Trimmed { first_seq: first.seq });
    }
    let expected = first.seq..;
    if let Some((record, seq)) = feed.iter().zip(expected).find(|(record, seq)| record.seq != *seq) {
        return Err(format!("record {seq} is missing before record {}", record.seq));
    }
    let read_bytes: usize = feed.iter().map(|record| record.bytes.len()).sum();
    // The feed stops before the record that would not fit, so a full run is one that is nearly so.
    let full = read_bytes >= bytes_max / 2 || feed.len() > RUN_RECORDS_MAX;
    feed.truncate(RUN_RECORDS_MAX);
    let mut records: Vec<RunRecord> = feed
        .into_iter()
        .map(|record| RunRecord {
            seq: record.seq,
            body: record.bytes,
            unreadable: None,
        })
        .collect();
    let decoded = decode_records(records.clone());
    for (record, decoded) in records.iter_mut().zip(&decoded.records) {
        if let Decoded::Unreadable(unreadable) = decoded {
            tracing::error!(
                tablet = %tablet.descriptor().tablet, seq = record.seq, cause = %unreadable.cause,
                "a feed record cannot be read; it is shipped into the peer's quarantine"
            );
            record.unreadable = Some(format!("unreadable at its origin: {}", unreadable.cause));
        }
    }
    let last_seq = records.last().map_or(from_seq, |record| record.seq);
    let run = encode_run(&records);
    let records_bytes = run.len() as u64;
    let (codec, records) = compress(run);
    Ok(FeedRead::Run(Box::new(PackedRun {
        last_seq,
        codec,
        records,
        records_bytes,
        rows: decoded.rows,
        oldest_rows_hlc: decoded.oldest_rows_hlc,
        closed_hlc: decoded.closed_hlc,
        full,
    })))
}

/// What a look at the unread part found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// Sequence and time of the first record that carries rows.
    pub found: Option<(u64, u64)>,
    /// Last sequence looked at.
    pub to_seq: u64,
}

/// Looks for the first record from `from_seq` on that carries rows, in a bounded piece of the feed.
pub fn peek(tablet: &Tablet, from_seq: u64) -> Result<Peeked, String> {
    let feed = tablet
        .engine()
        .feed(from_seq, PEEK_BYTES)
        .map_err(|error| error.to_string())?;
    let mut to_seq = from_seq.saturating_sub(1);
    for record in feed {
        let seq = record.seq;
        let decoded = decode_records(vec![RunRecord {
            seq,
            body: record.bytes,
            unreadable: None,
        }]);
        if let Some(hlc) = decoded.oldest_rows_hlc {
            return Ok(Peeked {
                found: Some((seq, hlc)),
                to_seq: seq,
            });
        }
        to_seq = seq;
    }
    Ok(Peeked { found: None, to_seq })
}
