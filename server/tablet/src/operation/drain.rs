//! Drain: rows leave the quarantine once their families are known (they live, or were dropped), in steps; and expired tokens are forgotten where no
//! command with a token comes by.
//!
//! ```text
//! drain := 0x08 | now_ms u64
//! ```
//! A schema change applies the first step itself; the leader proposes further ones while the state says where to go on.
//! Tokens expire by the lesser of `now_ms` and the time of the log (the greatest hlc applied): a leader whose clock runs
//! ahead must not forget what a repeat still needs (O11).

use crate::apply::Step;
use crate::feed::at_offset;
use crate::quarantine::{self, Entry, Waiting, unknown_family};
use crate::response;
use crate::state::{KEY_DRAIN, cursor_key, fault};
use crate::stream::StreamId;
use bytes::Bytes;
use tidemark_base::codec::{Malformed, Reader};
use tidemark_base::{PackedBatch, Stamp, TableSchema};
use tidemark_consensus::StateMachineFault;

pub(crate) const KIND: u8 = 8;
/// Bytes of quarantine that one entry looks at.
const STEP_BYTES_MAX: usize = 4 << 20;
/// Quarantine entries that one entry looks at.
const STEP_ENTRIES_MAX: usize = 1_024;
/// Entries read at a time: each may be as large as a record.
const PAGE: usize = 8;

/// The decoded command.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Drain {
    pub(crate) now_ms: u64,
}

pub(crate) fn encode(now_ms: u64) -> Bytes {
    let mut out = vec![KIND];
    out.extend_from_slice(&now_ms.to_le_bytes());
    out.into()
}

pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Drain, Malformed> {
    Ok(Drain { now_ms: r.u64()? })
}

pub(crate) fn apply(command: Drain, step: &mut Step<'_>) -> Result<Bytes, StateMachineFault> {
    step.commit()?;
    // The leader's clock may be wrong; the time of the log is what the tokens were given their expiry by.
    let log_ms = step.state.marks.hlc_max >> 16;
    step.forget_tokens(command.now_ms.min(log_ms), usize::MAX);
    if let Some(from) = step.state.drain_from.clone() {
        drain_from(step, &from)?;
    }
    Ok(response::ok(&[]))
}

/// Begins draining after a schema change. The caller has committed before.
pub(crate) fn begin(step: &mut Step<'_>) -> Result<(), StateMachineFault> {
    if step.state.pins.is_empty() {
        return Ok(());
    }
    drain_from(step, &[])
}

fn drain_from(step: &mut Step<'_>, from: &[u8]) -> Result<(), StateMachineFault> {
    let Some(schema) = step.state.schema.clone() else {
        return Ok(());
    };
    let mut from = from.to_vec();
    let (mut bytes, mut entries) = (0, 0);
    while bytes < STEP_BYTES_MAX && entries < STEP_ENTRIES_MAX {
        let page = step.engine.state_scan(quarantine::PREFIX, &from, PAGE).map_err(fault)?;
        for (key, value) in &page {
            let (stream, seq) = quarantine::parse_key(key).map_err(fault)?;
            let entry = Entry::decode(value).map_err(fault)?;
            drain_entry(step, &schema, stream, seq, entry);
            bytes += value.len();
            entries += 1;
            from = [&key[..], &[0]].concat();
        }
        if page.len() < PAGE {
            step.state.drain_from = None;
            step.batch().delete_state(KEY_DRAIN);
            return Ok(());
        }
    }
    step.batch().put_state(KEY_DRAIN, &from);
    step.state.drain_from = Some(from.into());
    Ok(())
}

/// Applies the rows of an entry whose families are all known now, living or dropped; what is left of it stays.
fn drain_entry(step: &mut Step<'_>, schema: &TableSchema, stream: StreamId, seq: u64, entry: Entry) {
    let Waiting::Rows { first, offsets, batch } = entry.waiting else {
        return;
    };
    let known: Vec<bool> = batch.rows().map(|row| unknown_family(schema, &row).is_none()).collect();
    if !known.contains(&true) {
        return;
    }
    let rows = apply_known(step, first, &offsets, &batch, &known);
    if let Some(cursor) = step.state.cursors.get_mut(&stream) {
        cursor.rows_applied += rows;
        let value = cursor.encode();
        step.batch().put_state(&cursor_key(stream), &value);
    }
    let key = quarantine::key(stream, seq);
    match batch.subset(|index| !known[index]) {
        None => {
            step.state.pins.remove(stream, seq);
            step.batch().delete_state(&key);
        }
        Some(rest) => {
            let left = offsets.iter().zip(&known).filter(|(_, known)| !**known);
            let offsets = left.map(|(offset, _)| *offset).collect();
            let entry = Entry::rows(first, offsets, rest, entry.cause);
            let value = entry.encode();
            step.state.pins.put(stream, seq, &entry, value.len());
            step.batch().put_state(&key, &value);
        }
    }
}

fn apply_known(step: &mut Step<'_>, first: Stamp, offsets: &[u32], batch: &PackedBatch, known: &[bool]) -> u64 {
    let mut rows = 0;
    for (index, row) in batch.rows().enumerate() {
        if known[index] {
            let offset = offsets.get(index).copied().unwrap_or(index as u32);
            rows += u64::from(step.put_remote_row(&row, at_offset(first, u64::from(offset))));
        }
    }
    rows
}
