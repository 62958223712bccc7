//! Write: client batches, several in one entry.
//!
//! ```text
//! write := 0x01 | batches varint (1..), n x (first stamp(14) | batch slice)
//! ```
//! The batches are the clients' bytes. The i-th row of a batch has its first stamp with `hlc + i`. Rows that the schema does
//! not admit by the time they are applied fail alone; the rest of their batch is written.

use crate::apply::{Step, epoch_fenced, family_unknown};
use crate::codec::{get_batch, get_stamp, put_stamp};
use crate::feed::at_offset;
use crate::quarantine::family_not_living;
use crate::response::{self, Failures};
use bytes::Bytes;
use tidemark_base::codec::{Malformed, Reader, put_slice, put_varint};
use tidemark_base::{Error, PackedBatch, Stamp, TableSchema};
use tidemark_consensus::StateMachineFault;

pub(crate) const KIND: u8 = 1;

/// The decoded command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Write {
    pub(crate) batches: Vec<(Stamp, PackedBatch)>,
}

pub(crate) fn encode(batches: &[(Stamp, PackedBatch)]) -> Bytes {
    let payload: usize = batches.iter().map(|(_, b)| b.bytes().len() + 20).sum();
    let mut out = Vec::with_capacity(payload + 8);
    out.push(KIND);
    put_varint(&mut out, batches.len() as u64);
    for (first, batch) in batches {
        put_stamp(&mut out, *first);
        put_slice(&mut out, batch.bytes());
    }
    out.into()
}

pub(crate) fn decode(whole: &Bytes, r: &mut Reader<'_>) -> Result<Write, Malformed> {
    let mut batches = Vec::new();
    for _ in 0..r.length(whole.len(), "too many batches")? {
        let first = get_stamp(r)?;
        let batch = get_batch(whole, r)?;
        if batch.has_server_versions() {
            return Err(Malformed("a row without its version"));
        }
        batches.push((first, batch));
    }
    Ok(Write { batches })
}

pub(crate) fn apply(command: Write, step: &mut Step<'_>) -> Result<Bytes, StateMachineFault> {
    let mut answers = Vec::with_capacity(command.batches.len());
    for (first, batch) in &command.batches {
        step.take_local_stamps(*first, batch.rows_len())?;
        answers.push(write_batch(step, *first, batch));
    }
    Ok(response::ok(&response::encode_write(&answers)))
}

fn write_batch(step: &mut Step<'_>, first: Stamp, batch: &PackedBatch) -> Failures {
    let all = |error: Error| (0..batch.rows_len() as u32).map(|row| (row, error.clone())).collect();
    let schema = match step.schema() {
        Ok(schema) => schema,
        Err(error) => return all(error),
    };
    if first.epoch != schema.epoch {
        return all(epoch_fenced(first.epoch, schema.epoch));
    }
    let failures = refused(&schema, batch);
    let mut next_failure = failures.iter().map(|(row, _)| *row).peekable();
    for (index, row) in batch.rows().enumerate() {
        if next_failure.next_if_eq(&(index as u32)).is_none() {
            step.put_local_row(&row, at_offset(first, index as u64));
        }
    }
    feed(step, first, batch, &failures);
    failures
}

/// The rows that the schema does not admit. Usually the batch's dictionary shows that there are none.
fn refused(schema: &TableSchema, batch: &PackedBatch) -> Failures {
    if batch.families().iter().all(|f| schema.family(*f).is_some()) {
        return Vec::new();
    }
    let rows = batch.rows().enumerate();
    let unknown = rows.filter_map(|(index, row)| Some((index as u32, family_not_living(schema, &row)?)));
    unknown.map(|(index, family)| (index, family_unknown(family))).collect()
}

/// One feed record for what was written; the client's own bytes unless a row was refused.
fn feed(step: &mut Step<'_>, first: Stamp, batch: &PackedBatch, failures: &Failures) {
    if failures.is_empty() {
        return step.feed_rows(first, None, batch);
    }
    let written = |index: usize| failures.binary_search_by_key(&(index as u32), |(row, _)| *row).is_err();
    let offsets: Vec<u32> = (0..batch.rows_len())
        .filter(|i| written(*i))
        .map(|i| i as u32)
        .collect();
    match batch.subset(written) {
        Some(rest) => step.feed_rows(first, Some(&offsets), &rest),
        // The stamps are taken all the same; peers learn it from this close.
        None => step.feed_close(at_offset(first, batch.rows_len() as u64 - 1)),
    }
}
