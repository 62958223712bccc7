//! Discard: an operator gives up what waits in quarantine. The rows are lost here, on purpose: the origin never sends them
//! again, and `complete` no longer waits for them.
//!
//! ```text
//! discard := 0x09 | region u16 | places varint n, n x (stream id(10) | seq u64)      n = 0: all of that region
//! answer  := entries u64 | rows u64 | bytes u64
//! ```
//! Which entries go is decided here, in the log: a place that has drained meanwhile is not there any more and is no error,
//! so that the command may be sent again.

use crate::apply::Step;
use crate::quarantine::{self, Discarded};
use crate::response;
use crate::stream::StreamId;
use bytes::Bytes;
use tidemark_base::RegionId;
use tidemark_base::codec::{Malformed, Reader, put_varint};
use tidemark_consensus::StateMachineFault;

pub(crate) const KIND: u8 = 9;
/// Places that one command names.
pub(crate) const PLACES_MAX: usize = 1_000;

/// The decoded command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Discard {
    pub(crate) region: RegionId,
    /// Empty = all of the region's.
    pub(crate) places: Vec<(StreamId, u64)>,
}

pub(crate) fn encode(region: RegionId, places: &[(StreamId, u64)]) -> Bytes {
    let mut out = vec![KIND];
    out.extend_from_slice(&region.0.to_le_bytes());
    put_varint(&mut out, places.len() as u64);
    for (stream, seq) in places {
        out.extend_from_slice(&stream.encode());
        out.extend_from_slice(&seq.to_le_bytes());
    }
    out.into()
}

pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Discard, Malformed> {
    let region = RegionId(r.u16()?);
    let count = r.length(PLACES_MAX, "too many places")?;
    let mut places = Vec::new();
    for _ in 0..count {
        places.push((StreamId::read(r)?, r.u64()?));
    }
    Ok(Discard { region, places })
}

pub(crate) fn apply(command: Discard, step: &mut Step<'_>) -> Result<Bytes, StateMachineFault> {
    let places = match command.places.is_empty() {
        true => step.state.pins.of_region(command.region),
        false => command.places,
    };
    let mut discarded = Discarded::default();
    for (stream, seq) in places.into_iter().filter(|(stream, _)| stream.region == command.region) {
        if let Some((rows, bytes)) = step.state.pins.remove(stream, seq) {
            step.batch().delete_state(&quarantine::key(stream, seq));
            discarded.entries += 1;
            discarded.rows += rows;
            discarded.bytes += bytes;
        }
    }
    Ok(response::ok(&encode_answer(discarded)))
}

fn encode_answer(discarded: Discarded) -> Vec<u8> {
    let numbers = [discarded.entries, discarded.rows, discarded.bytes];
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

pub(crate) fn decode_answer(body: &[u8]) -> Result<Discarded, Malformed> {
    let mut r = Reader::new(body);
    let discarded = Discarded {
        entries: r.u64()?,
        rows: r.u64()?,
        bytes: r.u64()?,
    };
    crate::codec::done(&r)?;
    Ok(discarded)
}
