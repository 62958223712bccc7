//! The replicated state beside the facts: what apply decides by. All of it lives in state records of the engine, from the
//! same cut as the facts; this is their image in memory, owned by apply alone.
//!
//! ```text
//! 'a'                      applied position and membership, as the consensus layer encodes them
//! 'd'                      where draining the quarantine goes on: a key of the quarantine
//! 'k' | region u16 be      ack := 0x01 | seq u64 | hlc u64 | rows held u64 | complete_hlc u64
//! 'm'                      marks := 0x01 | hlc_max u64 | last_stamp(14) | closed u64 | feed_first u64 | feed_next u64
//!                                   | last_rows_seq u64 | facts u64
//! 'q' …                    quarantine (quarantine.rs)
//! 's'                      schema, as tidemark_base::schema draws it
//! 't' …                    tokens (tokens.rs)
//! 'c' | stream id(10)      cursor (stream.rs)
//! ```

use crate::codec::{done, get_stamp, put_stamp};
use crate::quarantine::{self, Pins};
use crate::replication_state::{PeerQuarantine, ReplicationState};
use crate::stream::{Cursor, StreamId, StreamState};
use crate::tokens::{self, Remembered, Tokens};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_base::codec::{Malformed, Reader};
use tidemark_base::{RegionId, RowRange, Stamp, TableSchema};
use tidemark_consensus::{AppliedState, StateMachineFault};
use tidemark_engine::Engine;
use tidemark_runtime::planted::{Bug, planted};

pub(crate) const KEY_APPLIED: &[u8] = b"a";
pub(crate) const KEY_DRAIN: &[u8] = b"d";
pub(crate) const KEY_MARKS: &[u8] = b"m";
pub(crate) const KEY_SCHEMA: &[u8] = b"s";
const PREFIX_ACK: &[u8] = b"k";
const PREFIX_CURSOR: &[u8] = b"c";
/// Small records read at a time while loading.
const PAGE: usize = 1_024;
/// The same where a record may hold rows.
const PAGE_OF_ROWS: usize = 8;

/// What stands in the way of applying: a storage fault, or bytes that this code did not write.
pub(crate) fn fault(what: impl std::fmt::Display) -> StateMachineFault {
    StateMachineFault(what.to_string())
}

/// Counters and stamps that move with nearly every entry, in one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The greatest hlc of any stamp applied, local or remote (R7).
    pub(crate) hlc_max: u64,
    /// The greatest stamp of a local row.
    pub(crate) last_stamp: Stamp,
    /// No local stamp at or below this hlc will be committed any more.
    pub(crate) closed: u64,
    /// First record that is kept in the feed, if there is one.
    pub(crate) feed_first: u64,
    /// The number of the next feed record.
    pub(crate) feed_next: u64,
    /// The last feed record that carries rows; 0 = none ever.
    pub(crate) last_rows_seq: u64,
    /// Rows ever applied, local and remote. Emptiness is decided by it: what garbage collection has left on a replica is
    /// not the same everywhere, this is.
    pub(crate) facts: u64,
}

impl Marks {
    fn new() -> Marks {
        Marks {
            hlc_max: 0,
            last_stamp: Stamp::MIN,
            closed: 0,
            feed_first: 1,
            feed_next: 1,
            last_rows_seq: 0,
            facts: 0,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.hlc_max.to_le_bytes());
        put_stamp(&mut out, self.last_stamp);
        for value in [
            self.closed,
            self.feed_first,
            self.feed_next,
            self.last_rows_seq,
            self.facts,
        ] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Marks, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8()? != 1 {
            return Err(Malformed("not marks of format 1"));
        }
        let marks = Marks {
            hlc_max: r.u64()?,
            last_stamp: get_stamp(&mut r)?,
            closed: r.u64()?,
            feed_first: r.u64()?,
            feed_next: r.u64()?,
            last_rows_seq: r.u64()?,
            facts: r.u64()?,
        };
        done(&r)?;
        Ok(marks)
    }
}

/// How far a peer has taken this tablet's feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ack {
    /// It has every record up to here.
    pub(crate) seq: u64,
    /// And so every local stamp up to this hlc.
    pub(crate) hlc: u64,
    /// What of that waits in its quarantine.
    pub(crate) held: PeerQuarantine,
}

impl Ack {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        for value in [self.seq, self.hlc, self.held.rows, self.held.complete_hlc] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Ack, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8()? != 1 {
            return Err(Malformed("not an acknowledgement of format 1"));
        }
        let ack = Ack {
            seq: r.u64()?,
            hlc: r.u64()?,
            held: PeerQuarantine {
                rows: r.u64()?,
                complete_hlc: r.u64()?,
            },
        };
        done(&r)?;
        Ok(ack)
    }
}

pub(crate) fn ack_key(region: RegionId) -> Vec<u8> {
    [PREFIX_ACK, &region.0.to_be_bytes()].concat()
}

pub(crate) fn cursor_key(stream: StreamId) -> Vec<u8> {
    [PREFIX_CURSOR, &stream.encode()].concat()
}

/// See the module's drawing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) range: RowRange,
    pub(crate) applied: AppliedState,
    pub(crate) schema: Option<Arc<TableSchema>>,
    pub(crate) marks: Marks,
    pub(crate) acks: BTreeMap<RegionId, Ack>,
    pub(crate) cursors: BTreeMap<StreamId, Cursor>,
    pub(crate) pins: Pins,
    pub(crate) tokens: Tokens,
    pub(crate) drain_from: Option<Bytes>,
}

impl State {
    /// Reads the state of an engine, new or existing, and gives the engine its schema.
    pub(crate) fn load(engine: &dyn Engine, range: RowRange) -> Result<State, StateMachineFault> {
        let mut state = State {
            range,
            applied: AppliedState::default(),
            schema: None,
            marks: Marks::new(),
            acks: BTreeMap::new(),
            cursors: BTreeMap::new(),
            pins: Pins::default(),
            tokens: Tokens::default(),
            drain_from: engine.state(KEY_DRAIN).map_err(fault)?,
        };
        if let Some(bytes) = engine.state(KEY_APPLIED).map_err(fault)? {
            state.applied = AppliedState::decode(&bytes).map_err(|e| fault(format!("applied position: {e}")))?;
        }
        if let Some(bytes) = engine.state(KEY_MARKS).map_err(fault)? {
            state.marks = Marks::decode(&bytes).map_err(damaged)?;
        }
        if let Some(bytes) = engine.state(KEY_SCHEMA).map_err(fault)? {
            let schema = Arc::new(TableSchema::decode(&bytes).map_err(damaged)?);
            engine.set_schema(schema.clone());
            state.schema = Some(schema);
        }
        state.load_lists(engine)?;
        Ok(state)
    }

    fn load_lists(&mut self, engine: &dyn Engine) -> Result<(), StateMachineFault> {
        for_each(engine, PREFIX_ACK, PAGE, |key, value| {
            let region = Reader::new(&key[PREFIX_ACK.len()..]).array().map(u16::from_be_bytes)?;
            self.acks.insert(RegionId(region), Ack::decode(value)?);
            Ok(())
        })?;
        for_each(engine, PREFIX_CURSOR, PAGE, |key, value| {
            let stream = StreamId::read(&mut Reader::new(&key[PREFIX_CURSOR.len()..]))?;
            self.cursors.insert(stream, Cursor::decode(value)?);
            Ok(())
        })?;
        for_each(engine, quarantine::PREFIX, PAGE_OF_ROWS, |key, value| {
            let (stream, seq) = quarantine::parse_key(key)?;
            self.pins
                .put(stream, seq, &quarantine::Entry::decode(value)?, value.len());
            Ok(())
        })?;
        for_each(engine, tokens::PREFIX, PAGE_OF_ROWS, |key, value| {
            let remembered = Remembered::decode(value)?;
            self.tokens
                .insert(tokens::parse_key(key)?, remembered.order, remembered.expiry_ms);
            Ok(())
        })
    }

    /// True if apply writes the feed.
    pub(crate) fn has_peers(&self) -> bool {
        self.schema.as_ref().is_some_and(|s| !s.peers.is_empty())
    }

    /// The origin's hlc through which nothing of the stream is missing here.
    pub(crate) fn complete_hlc(&self, stream: StreamId) -> u64 {
        let applied = self.cursors.get(&stream).map_or(0, |c| c.applied_hlc);
        // Planted: what waits counts as done.
        if planted(Bug::QuarantineNotCounted) {
            return applied;
        }
        let below = self.pins.oldest_hlc(stream).map(|hlc| hlc.saturating_sub(1));
        below.map_or(applied, |below| applied.min(below))
    }

    /// What is shown of the state.
    pub(crate) fn publish(&self, feed_bytes: u64) -> ReplicationState {
        let streams = self.cursors.iter().map(|(id, cursor)| {
            let shown = StreamState {
                range: cursor.range.clone(),
                contiguous_seq: cursor.contiguous_seq,
                applied_hlc: cursor.applied_hlc,
                complete_hlc: self.complete_hlc(*id),
                ahead: cursor.ahead(),
                quarantined_rows: self.pins.rows(*id),
                rows_applied: cursor.rows_applied,
            };
            (*id, shown)
        });
        ReplicationState {
            feed_first_seq: self.marks.feed_first,
            feed_last_seq: self.marks.feed_next - 1,
            feed_bytes,
            last_rows_seq: self.marks.last_rows_seq,
            last_stamp: self.marks.last_stamp,
            closed: self.marks.closed,
            acked: self.acks.iter().map(|(region, ack)| (*region, ack.seq)).collect(),
            acked_hlc: self.acks.iter().map(|(region, ack)| (*region, ack.hlc)).collect(),
            acked_held: self.acks.iter().map(|(region, ack)| (*region, ack.held)).collect(),
            streams: streams.collect(),
            hlc_max: self.marks.hlc_max,
            quarantine_bytes: self.pins.charged(),
            facts: self.marks.facts,
            tokens: self.tokens.len() as u64,
            drain_pending: self.drain_from.is_some(),
        }
    }
}

fn damaged(error: Malformed) -> StateMachineFault {
    fault(format!("a state record is not what was written: {}", error.0))
}

/// Calls `each` for every state record with that prefix, a page at a time.
pub(crate) fn for_each(
    engine: &dyn Engine,
    prefix: &[u8],
    page_len: usize,
    mut each: impl FnMut(&Bytes, &Bytes) -> Result<(), Malformed>,
) -> Result<(), StateMachineFault> {
    let mut from = Vec::new();
    loop {
        let page = engine.state_scan(prefix, &from, page_len).map_err(fault)?;
        for (key, value) in &page {
            each(key, value).map_err(damaged)?;
        }
        match page.last() {
            Some((key, _)) if page.len() == page_len => from = [&key[..], &[0]].concat(),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_have_the_documented_bytes() {
        let marks = Marks {
            hlc_max: 1,
            last_stamp: Stamp {
                epoch: 0,
                hlc: 2,
                region: RegionId(3),
            },
            closed: 4,
            feed_first: 5,
            feed_next: 6,
            last_rows_seq: 7,
            facts: 8,
        };
        let mut golden = vec![1, 1, 0, 0, 0, 0, 0, 0, 0];
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3]);
        for value in [4u64, 5, 6, 7, 8] {
            golden.extend_from_slice(&value.to_le_bytes());
        }
        assert_eq!(marks.encode(), golden);
        assert_eq!(Marks::decode(&golden).unwrap(), marks);
    }

    #[test]
    fn acknowledgements_have_the_documented_bytes() {
        let ack = Ack {
            seq: 1,
            hlc: 2,
            held: PeerQuarantine {
                rows: 3,
                complete_hlc: 4,
            },
        };
        let mut golden = vec![1];
        for value in [1u64, 2, 3, 4] {
            golden.extend_from_slice(&value.to_le_bytes());
        }
        assert_eq!(ack.encode(), golden);
        assert_eq!(Ack::decode(&golden).unwrap(), ack);
    }

    #[test]
    fn keys_do_not_collide() {
        assert_eq!(ack_key(RegionId(258)), [b'k', 1, 2]);
        let stream = StreamId {
            region: RegionId(1),
            tablet: 2,
        };
        assert_eq!(cursor_key(stream), [b'c', 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    }
}
