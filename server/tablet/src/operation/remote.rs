//! Remote: facts of a peer, with the stamps that they were given there (R3, R15, R16, R17).
//!
//! ```text
//! remote := 0x04 | quarantine_bytes_max u64 | remote batch (remote.rs)
//! ```
//! The cursor of the stream moves in the same entry as the facts, so delivery at least once has its effect exactly once.
//! A row that names an unknown family waits whole in quarantine; the rest is applied. Of a family that was dropped here
//! nothing is kept, and nothing waits for it: it can never come back under that id. Refusals take nothing: the stream
//! sends the same again.

use crate::apply::Step;
use crate::quarantine::{self, Entry, Waiting, charge, unknown_family};
use crate::remote::{REMOTE_BYTES_MAX, RemoteBatch, RemoteOutcome, RemotePart, UnreadableRecord};
use crate::response;
use crate::state::cursor_key;
use crate::stream::{AHEAD_MAX, Cursor, StreamId, Taken};
use bytes::Bytes;
use std::time::Duration;
use tidemark_base::codec::{Malformed, Reader};
use tidemark_base::{Error, TableSchema};
use tidemark_consensus::StateMachineFault;

pub(crate) const KIND: u8 = 4;

/// The decoded command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Remote {
    pub(crate) quarantine_bytes_max: u64,
    pub(crate) batch: RemoteBatch,
}

pub(crate) fn encode(quarantine_bytes_max: u64, remote_batch: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(remote_batch.len() + 9);
    out.push(KIND);
    out.extend_from_slice(&quarantine_bytes_max.to_le_bytes());
    out.extend_from_slice(remote_batch);
    out.into()
}

pub(crate) fn decode(whole: &Bytes, r: &mut Reader<'_>) -> Result<Remote, Malformed> {
    let quarantine_bytes_max = r.u64()?;
    if r.remaining() > REMOTE_BYTES_MAX {
        return Err(Malformed("remote batch too long"));
    }
    let rest = r.take(r.remaining())?;
    Ok(Remote {
        quarantine_bytes_max,
        batch: RemoteBatch::decode(&whole.slice_ref(rest))?,
    })
}

pub(crate) fn apply(command: Remote, step: &mut Step<'_>) -> Result<Bytes, StateMachineFault> {
    let Remote {
        quarantine_bytes_max,
        batch,
    } = command;
    let schema = match step.schema().and_then(|s| linked(&s, &batch).map(|()| s)) {
        Ok(schema) => schema,
        Err(error) => return Ok(response::failed(&error)),
    };
    let stream = batch.stream;
    let before = step.state.cursors.get(&stream).cloned();
    let before = before.unwrap_or_else(|| Cursor::new(batch.range.clone()));
    if before.has_all(batch.first_seq, batch.last_seq) {
        let outcome = outcome(step, stream, &before, 0, true);
        return Ok(response::ok(&outcome.encode()));
    }
    let waiting = to_quarantine(&schema, &batch, &before);
    let mut cursor = before.clone();
    cursor.range = batch.range.clone();
    cursor.take(Taken {
        first: batch.first_seq,
        last: batch.last_seq,
        closed_hlc: batch.closed_hlc,
    });
    if let Err(error) = check_bounds(step, &cursor, &waiting, quarantine_bytes_max) {
        return Ok(response::failed(&error));
    }
    let mut rows = 0;
    for part in batch.parts.iter().filter(|part| !before.has(part.seq)) {
        rows += apply_part(step, &schema, part);
    }
    // A quarantined row moves the clock too: whoever reads of it must write after it (R7).
    let marks = &mut step.state.marks;
    marks.hlc_max = marks.hlc_max.max(batch.greatest_hlc());
    for (seq, entry, value) in waiting {
        step.state.pins.put(stream, seq, &entry, value.len());
        step.batch().put_state(&quarantine::key(stream, seq), &value);
    }
    cursor.rows_applied += rows;
    step.batch().put_state(&cursor_key(stream), &cursor.encode());
    let outcome = outcome(step, stream, &cursor, rows, false);
    Ok(response::ok(&outcome.encode()))
}

/// Only a peer's facts may come in: the stable cut of a tablet counts on knowing every door (R12). INV-42: and only over
/// the link that there is now; what was let in by an earlier one may be of a table that is no more.
fn linked(schema: &TableSchema, batch: &RemoteBatch) -> Result<(), Error> {
    let stream = batch.stream;
    if schema.link(stream.region) == Some(batch.link) {
        return Ok(());
    }
    Err(Error::unavailable(
        "PEER_NOT_LINKED",
        format!(
            "the table is not replicated with {} over this link here, or not yet",
            stream.region
        ),
        Duration::from_millis(100),
    ))
}

fn check_bounds(
    step: &Step<'_>,
    cursor: &Cursor,
    waiting: &[(u64, Entry, Vec<u8>)],
    quarantine_bytes_max: u64,
) -> Result<(), Error> {
    if cursor.ahead_len() > AHEAD_MAX {
        return Err(Error::unavailable(
            "STREAM_WINDOW",
            format!("more than {AHEAD_MAX} ranges of the stream wait for earlier ones"),
            Duration::from_millis(100),
        ));
    }
    let added: u64 = waiting.iter().map(|(_, _, value)| charge(value.len())).sum();
    if added > 0 && step.state.pins.charged().saturating_add(added) > quarantine_bytes_max {
        let error = Error::unavailable(
            "QUARANTINE_FULL",
            format!(
                "the quarantine holds {} of {quarantine_bytes_max} bytes",
                step.state.pins.charged()
            ),
            Duration::from_secs(5),
        );
        return Err(error.action("add the missing families, or look at the quarantine: tidemark replication status"));
    }
    Ok(())
}

/// The entries that the batch adds to the quarantine, with their state records.
fn to_quarantine(schema: &TableSchema, batch: &RemoteBatch, before: &Cursor) -> Vec<(u64, Entry, Vec<u8>)> {
    let mut out = Vec::new();
    for part in batch.parts.iter().filter(|part| !before.has(part.seq)) {
        if let Some(entry) = unknown_rows(schema, part) {
            let value = entry.encode();
            out.push((part.seq, entry, value));
        }
    }
    for record in batch.unreadable.iter().filter(|record| !before.has(record.seq)) {
        let UnreadableRecord { seq, cause, bytes } = record.clone();
        let entry = Entry {
            pin_hlc: before.applied_hlc.saturating_add(1),
            cause,
            waiting: bytes.map_or(Waiting::Elsewhere, |bytes| Waiting::Unreadable { bytes }),
        };
        let value = entry.encode();
        out.push((seq, entry, value));
    }
    out
}

/// The rows of a part that name an unknown family.
fn unknown_rows(schema: &TableSchema, part: &RemotePart) -> Option<Entry> {
    if !part.batch.families().iter().any(|f| schema.is_unknown(*f)) {
        return None;
    }
    let unknown: Vec<Option<_>> = part.batch.rows().map(|row| unknown_family(schema, &row)).collect();
    let family = unknown.iter().flatten().next()?;
    let cause = format!("FAMILY_UNKNOWN: family {family} does not belong to the table here");
    let rows = part.batch.subset(|index| unknown[index].is_some())?;
    let offsets = (0..unknown.len()).filter(|i| unknown[*i].is_some());
    let offsets = offsets
        .map(|i| part.offsets.get(i).copied().unwrap_or(i as u32))
        .collect();
    Some(Entry::rows(part.first, offsets, rows, cause))
}

fn apply_part(step: &mut Step<'_>, schema: &TableSchema, part: &RemotePart) -> u64 {
    let all_known = !part.batch.families().iter().any(|f| schema.is_unknown(*f));
    let mut rows = 0;
    for (index, row) in part.batch.rows().enumerate() {
        if all_known || unknown_family(schema, &row).is_none() {
            rows += u64::from(step.put_remote_row(&row, part.stamp(index)));
        }
    }
    rows
}

/// The answer, and the cursor's place in the state.
fn outcome(step: &mut Step<'_>, stream: StreamId, cursor: &Cursor, rows: u64, duplicate: bool) -> RemoteOutcome {
    step.state.cursors.insert(stream, cursor.clone());
    RemoteOutcome {
        contiguous_seq: cursor.contiguous_seq,
        complete_hlc: step.state.complete_hlc(stream),
        rows_applied: rows,
        rows_quarantined_now: step.state.pins.rows(stream),
        duplicate,
    }
}
