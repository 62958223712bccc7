//! The bytes of the log on disk. Codes never change meaning.
//!
//! ```text
//! segment := head frame*                                        log-<number, 16 hex digits>.seg
//! head    := "TIDELOG1" | number u64 | format u32 = 1 | crc32c u32 of the 20 bytes before            24 bytes
//! frame   := "TMFR" | bytes u32 | sequence u64 | crc32c u32 of the 16 bytes before | record*         20 bytes + records
//! record  := bytes u32 | crc32c u32 of the body | body          `bytes` counts the body
//! body    := kind u8 | group u64 | fields
//!   1 entry     position | payload kind u8 | payload            appended: follows the group's last entry
//!   2 moved     the same fields                                 an entry rewritten so that its old segment can go
//!   3 vote      term u64 | node u64 | committed u8
//!   4 truncate  from u64                                        entries from this index on are gone
//!   5 purge     position                                        entries up to this one are gone
//!   6 destroyed                                                 the group is gone
//!   7 committed position                                        a hint
//!   8 state     flags u8 | [vote] | [purged position] | [committed position]      flags: 1, 2, 4
//! ```
//!
//! A frame is what one write and one sync made durable; the next frame was written only after that. `sequence` counts
//! frames over all segments without a gap. So a frame that follows proves that the one before was synced, and damage in it
//! is damage, not a torn write (see `recovery`).
//!
//! The first frame of every segment begins with a state record for each group, so that votes and purge marks survive the
//! removal of the segments in which they were first written. Segments are removed from the oldest on.
//!
//! Example: the record of an empty blank entry at term 2, leader 3, index 4 of group 5:
//!
//! ```text
//! 22 00 00 00  |  crc32c  |  01  05 00 00 00 00 00 00 00  02 00 00 00 00 00 00 00  03 00 … 00  04 00 … 00  00
//! ```

use super::Vote;
use crate::codec::{self, Malformed, Reader};
use crate::types::{Entry, LogPosition, Payload};
use crate::wire;
use bytes::Bytes;
use tidemark_base::GroupId;
use tidemark_runtime::planted::{Bug, planted};

pub(crate) const HEAD_BYTES: usize = 24;
pub(crate) const FRAME_HEAD_BYTES: usize = 20;
/// Length and checksum in front of a body.
pub(crate) const RECORD_HEAD_BYTES: usize = 8;

const HEAD_MAGIC: &[u8; 8] = b"TIDELOG1";
const FRAME_MAGIC: &[u8; 4] = b"TMFR";
const FORMAT: u32 = 1;

const ENTRY: u8 = 1;
const MOVED: u8 = 2;
const VOTE: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const DESTROYED: u8 = 6;
const COMMITTED: u8 = 7;
const STATE: u8 = 8;

/// What a group's state record says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateRecord {
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogPosition>,
    pub(crate) committed: Option<LogPosition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Entry { group: GroupId, entry: Entry, moved: bool },
    Vote { group: GroupId, vote: Vote },
    Truncate { group: GroupId, from: u64 },
    Purge { group: GroupId, upto: LogPosition },
    Destroyed { group: GroupId },
    Committed { group: GroupId, position: LogPosition },
    State { group: GroupId, state: StateRecord },
}

/// The head of segment `number`.
pub(crate) fn encode_head(number: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(HEAD_MAGIC);
    head[8..16].copy_from_slice(&number.to_le_bytes());
    head[16..20].copy_from_slice(&FORMAT.to_le_bytes());
    let crc = crc32c::crc32c(&head[..20]);
    head[20..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// The number that a head states.
pub(crate) fn decode_head(head: &[u8; HEAD_BYTES]) -> Result<u64, Malformed> {
    if &head[..8] != HEAD_MAGIC {
        return Err(Malformed("segment magic"));
    }
    let (crc, format) = (u32_at(head, 20), u32_at(head, 16));
    if crc32c::crc32c(&head[..20]) != crc {
        return Err(Malformed("segment head checksum"));
    }
    if format != FORMAT {
        return Err(Malformed("segment format"));
    }
    Ok(u64_at(head, 8))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Room for a frame's head; [`finish_frame`] fills it when the records are there.
pub(crate) fn begin_frame(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.resize(start + FRAME_HEAD_BYTES, 0);
    start
}

/// Fills the head of the frame that begins at `start` and ends at the end of `out`.
pub(crate) fn finish_frame(out: &mut [u8], start: usize, sequence: u64) {
    let bytes = u32::try_from(out.len() - start - FRAME_HEAD_BYTES).expect("a frame is far below 4 GiB");
    let head = &mut out[start..start + FRAME_HEAD_BYTES];
    head[..4].copy_from_slice(FRAME_MAGIC);
    head[4..8].copy_from_slice(&bytes.to_le_bytes());
    head[8..16].copy_from_slice(&sequence.to_le_bytes());
    let crc = crc32c::crc32c(&head[..16]);
    head[16..].copy_from_slice(&crc.to_le_bytes());
}

/// Bytes of records and sequence of a frame head, if it is one.
pub(crate) fn decode_frame_head(head: &[u8]) -> Result<(u32, u64), Malformed> {
    if head.len() < FRAME_HEAD_BYTES || &head[..4] != FRAME_MAGIC {
        return Err(Malformed("frame magic"));
    }
    if crc32c::crc32c(&head[..16]) != u32_at(head, 16) {
        return Err(Malformed("frame head checksum"));
    }
    Ok((u32_at(head, 4), u64_at(head, 8)))
}

/// Where a frame magic lies in `bytes`, at or after `from`.
pub(crate) fn find_frame_magic(bytes: &[u8], from: usize) -> Option<usize> {
    bytes
        .get(from..)?
        .windows(FRAME_MAGIC.len())
        .position(|window| window == FRAME_MAGIC)
        .map(|at| from + at)
}

fn record(out: &mut Vec<u8>, kind: u8, group: GroupId, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
    out.push(kind);
    codec::put_u64(out, group.0);
    fields(out);
    let body = start + RECORD_HEAD_BYTES;
    let bytes = u32::try_from(out.len() - body).expect("limits keep every record far below 4 GiB");
    let crc = crc32c::crc32c(&out[body..]);
    out[start..start + 4].copy_from_slice(&bytes.to_le_bytes());
    out[start + 4..body].copy_from_slice(&crc.to_le_bytes());
}

/// Appends the record of an entry and returns its length.
pub(crate) fn put_entry(
    out: &mut Vec<u8>,
    group: GroupId,
    position: &LogPosition,
    payload_kind: u8,
    payload: &[u8],
    moved: bool,
) -> u32 {
    let start = out.len();
    record(out, if moved { MOVED } else { ENTRY }, group, |out| {
        codec::put_position(out, position);
        out.push(payload_kind);
        out.extend_from_slice(payload);
    });
    (out.len() - start) as u32
}

pub(crate) fn put_vote(out: &mut Vec<u8>, group: GroupId, vote: &Vote) {
    record(out, VOTE, group, |out| wire::put_vote(out, vote));
}

pub(crate) fn put_truncate(out: &mut Vec<u8>, group: GroupId, from: u64) {
    record(out, TRUNCATE, group, |out| codec::put_u64(out, from));
}

pub(crate) fn put_purge(out: &mut Vec<u8>, group: GroupId, upto: &LogPosition) {
    record(out, PURGE, group, |out| codec::put_position(out, upto));
}

pub(crate) fn put_destroyed(out: &mut Vec<u8>, group: GroupId) {
    record(out, DESTROYED, group, |_| {});
}

pub(crate) fn put_committed(out: &mut Vec<u8>, group: GroupId, position: &LogPosition) {
    record(out, COMMITTED, group, |out| codec::put_position(out, position));
}

pub(crate) fn put_state(out: &mut Vec<u8>, group: GroupId, state: &StateRecord) {
    record(out, STATE, group, |out| {
        let flag = |present: bool, bit: u8| if present { bit } else { 0 };
        let flags = flag(state.vote.is_some(), 1) | flag(state.purged.is_some(), 2);
        out.push(flags | flag(state.committed.is_some(), 4));
        if let Some(vote) = &state.vote {
            wire::put_vote(out, vote);
        }
        for position in [&state.purged, &state.committed].into_iter().flatten() {
            codec::put_position(out, position);
        }
    });
}

/// Takes one record off the front of `rest`.
pub(crate) fn decode(rest: &mut Bytes) -> Result<Record, Malformed> {
    if rest.len() < RECORD_HEAD_BYTES {
        return Err(Malformed("record head"));
    }
    let (mut bytes, mut crc) = (u32_at(rest, 0) as usize, u32_at(rest, 4));
    // Planted: a record that ends early is whole, and what its checksum says does not count.
    if planted(Bug::TornTailTrusted) && rest.len() - RECORD_HEAD_BYTES < bytes {
        bytes = rest.len() - RECORD_HEAD_BYTES;
        crc = crc32c::crc32c(&rest[RECORD_HEAD_BYTES..]);
    }
    if rest.len() - RECORD_HEAD_BYTES < bytes {
        return Err(Malformed("record length"));
    }
    let body = rest.slice(RECORD_HEAD_BYTES..RECORD_HEAD_BYTES + bytes);
    if crc32c::crc32c(&body) != crc {
        return Err(Malformed("record checksum"));
    }
    let record = decode_body(body)?;
    *rest = rest.slice(RECORD_HEAD_BYTES + bytes..);
    Ok(record)
}

pub(crate) fn decode_body(body: Bytes) -> Result<Record, Malformed> {
    let mut reader = Reader::new(body);
    let kind = reader.u8("record kind")?;
    let group = GroupId(reader.u64("record group")?);
    let record = match kind {
        ENTRY | MOVED => {
            let position = reader.position("entry position")?;
            let code = reader.u8("payload kind")?;
            let payload: Payload = wire::payload_from(code, reader.tail())?;
            return Ok(Record::Entry {
                group,
                entry: Entry { position, payload },
                moved: kind == MOVED,
            });
        }
        VOTE => Record::Vote {
            group,
            vote: wire::read_vote(&mut reader)?,
        },
        TRUNCATE => Record::Truncate {
            group,
            from: reader.u64("truncate from")?,
        },
        PURGE => Record::Purge {
            group,
            upto: reader.position("purge position")?,
        },
        DESTROYED => Record::Destroyed { group },
        COMMITTED => Record::Committed {
            group,
            position: reader.position("committed position")?,
        },
        STATE => Record::State {
            group,
            state: decode_state(&mut reader)?,
        },
        _ => return Err(Malformed("record kind")),
    };
    reader.finish("record")?;
    Ok(record)
}

fn decode_state(reader: &mut Reader) -> Result<StateRecord, Malformed> {
    let flags = reader.u8("state flags")?;
    if flags > 7 {
        return Err(Malformed("state flags"));
    }
    let vote = if flags & 1 != 0 {
        Some(wire::read_vote(reader)?)
    } else {
        None
    };
    let purged = if flags & 2 != 0 {
        Some(reader.position("purged position")?)
    } else {
        None
    };
    let committed = if flags & 4 != 0 {
        Some(reader.position("committed position")?)
    } else {
        None
    };
    Ok(StateRecord {
        vote,
        purged,
        committed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemark_base::NodeId;

    const AT: LogPosition = LogPosition {
        term: 2,
        leader: NodeId(3),
        index: 4,
    };

    #[test]
    fn a_record_has_the_documented_bytes() {
        let mut out = Vec::new();
        assert_eq!(put_entry(&mut out, GroupId(5), &AT, 0, b"", false), 42);
        let mut body = vec![1u8];
        for value in [5u64, 2, 3, 4] {
            body.extend_from_slice(&value.to_le_bytes());
        }
        body.push(0);
        assert_eq!(&out[..4], [0x22, 0, 0, 0]);
        assert_eq!(&out[4..8], crc32c::crc32c(&body).to_le_bytes());
        assert_eq!(&out[8..], body);
        assert_eq!(out.len(), RECORD_HEAD_BYTES + 1 + 8 + 24 + 1);
    }

    #[test]
    fn heads_have_the_documented_bytes() {
        let head = encode_head(0x0102);
        assert_eq!(&head[..20], b"TIDELOG1\x02\x01\0\0\0\0\0\0\x01\0\0\0");
        assert_eq!(decode_head(&head).unwrap(), 0x0102);
        let mut frame = Vec::new();
        let start = begin_frame(&mut frame);
        frame.extend_from_slice(b"xyz");
        finish_frame(&mut frame, start, 9);
        assert_eq!(&frame[..16], b"TMFR\x03\0\0\0\x09\0\0\0\0\0\0\0");
        assert_eq!(decode_frame_head(&frame).unwrap(), (3, 9));
    }

    #[test]
    fn every_record_comes_back() {
        let vote = Vote {
            term: 7,
            node: NodeId(1),
            committed: true,
        };
        let group = GroupId(5);
        let mut out = Vec::new();
        put_entry(&mut out, group, &AT, 1, b"hello", true);
        put_vote(&mut out, group, &vote);
        put_truncate(&mut out, group, 9);
        put_purge(&mut out, group, &AT);
        put_destroyed(&mut out, group);
        put_committed(&mut out, group, &AT);
        let state = StateRecord {
            vote: Some(vote),
            purged: None,
            committed: Some(AT),
        };
        put_state(&mut out, group, &state);
        let mut rest = Bytes::from(out);
        let mut records = Vec::new();
        while !rest.is_empty() {
            records.push(decode(&mut rest).unwrap());
        }
        let entry = Entry {
            position: AT,
            payload: Payload::Command(Bytes::from_static(b"hello")),
        };
        let expected = vec![
            Record::Entry {
                group,
                entry,
                moved: true,
            },
            Record::Vote { group, vote },
            Record::Truncate { group, from: 9 },
            Record::Purge { group, upto: AT },
            Record::Destroyed { group },
            Record::Committed { group, position: AT },
            Record::State { group, state },
        ];
        assert_eq!(records, expected);
    }

    proptest! {
        #[test]
        fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_frame_head(&bytes);
            let mut rest = Bytes::from(bytes.clone());
            let _ = decode(&mut rest);
            // Past the checksum as well.
            let _ = decode_body(bytes.into());
        }
    }
}
