//! Check and mutate: one of two mutations of a row, by whether a predicate finds a cell in it. Decided at apply (ADR 6).
//!
//! ```text
//! check and mutate := 0x02 | stamp(14) | token terms (token(16), expiry_ms u64, tokens_max u32) | row slice
//!                     | filter (tidemark_base::read) | flags u8 (1 on match, 2 on mismatch) | [batch slice] | [batch slice]
//! response body    := matched u8
//! ```
//! Every replica evaluates the predicate against the same facts, the same schema and the time in the stamp, so all decide
//! alike whatever each has compacted (O15). What is written has the command's stamp and enters the feed as ordinary rows.

use crate::apply::{Step, epoch_fenced, evaluation_micros, family_unknown};
use crate::codec::{get_batch, get_stamp, put_stamp};
use crate::quarantine::family_not_living;
use crate::response;
use crate::state::fault;
use crate::tokens::TokenTerms;
use bytes::Bytes;
use tidemark_base::codec::{Malformed, Reader, put_slice};
use tidemark_base::{Error, PackedBatch, ReadFilter, ReadSpec, Stamp, limits};
use tidemark_consensus::StateMachineFault;
use tidemark_engine::EngineError;

pub(crate) const KIND: u8 = 2;
const ON_MATCH: u8 = 1;
const ON_MISMATCH: u8 = 2;

/// The decoded command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CheckAndMutateCommand {
    pub(crate) stamp: Stamp,
    pub(crate) terms: TokenTerms,
    pub(crate) row: Bytes,
    pub(crate) predicate: ReadFilter,
    pub(crate) on_match: Option<PackedBatch>,
    pub(crate) on_mismatch: Option<PackedBatch>,
}

pub(crate) fn encode(command: &CheckAndMutateCommand) -> Bytes {
    let mut out = vec![KIND];
    put_stamp(&mut out, command.stamp);
    command.terms.put(&mut out);
    put_slice(&mut out, &command.row);
    command.predicate.encode(&mut out);
    let flag = |batch: &Option<PackedBatch>, flag| if batch.is_some() { flag } else { 0 };
    out.push(flag(&command.on_match, ON_MATCH) | flag(&command.on_mismatch, ON_MISMATCH));
    for batch in [&command.on_match, &command.on_mismatch].into_iter().flatten() {
        put_slice(&mut out, batch.bytes());
    }
    out.into()
}

pub(crate) fn decode(whole: &Bytes, r: &mut Reader<'_>) -> Result<CheckAndMutateCommand, Malformed> {
    let stamp = get_stamp(r)?;
    let terms = TokenTerms::get(r)?;
    let row = whole.slice_ref(r.slice(limits::ROW_BYTES_MAX, "row key too long")?);
    let predicate = ReadFilter::decode(r)?;
    let flags = r.u8()?;
    if flags & !(ON_MATCH | ON_MISMATCH) != 0 {
        return Err(Malformed("unknown flags"));
    }
    let mut batch = |flag: u8| {
        if flags & flag == 0 {
            return Ok(None);
        }
        let batch = get_batch(whole, r)?;
        if batch.has_server_versions() || batch.rows_len() != 1 {
            return Err(Malformed("not one row with its versions"));
        }
        Ok(Some(batch))
    };
    Ok(CheckAndMutateCommand {
        stamp,
        terms,
        row,
        predicate,
        on_match: batch(ON_MATCH)?,
        on_mismatch: batch(ON_MISMATCH)?,
    })
}

pub(crate) fn apply(command: CheckAndMutateCommand, step: &mut Step<'_>) -> Result<Bytes, StateMachineFault> {
    step.commit()?;
    step.take_local_stamps(command.stamp, 1)?;
    if let Some(answer) = step.remembered(&command.terms.token, KIND)? {
        step.feed_close(command.stamp);
        return Ok(answer);
    }
    let response = match decide(&command, step)? {
        Ok(matched) => response::ok(&[u8::from(matched)]),
        Err(error) => {
            step.feed_close(command.stamp);
            return Ok(response::failed(&error));
        }
    };
    step.remember(&command.terms, KIND, command.stamp.ms(), &response);
    Ok(response)
}

/// Evaluates and writes; the inner error leaves the facts as they were.
fn decide(command: &CheckAndMutateCommand, step: &mut Step<'_>) -> Result<Result<bool, Error>, StateMachineFault> {
    let schema = match step.schema() {
        Ok(schema) => schema,
        Err(error) => return Ok(Err(error)),
    };
    if command.stamp.epoch != schema.epoch {
        return Ok(Err(epoch_fenced(command.stamp.epoch, schema.epoch)));
    }
    let matched = match evaluate(command, step) {
        Ok(matched) => matched,
        Err(EngineError::Invalid(text)) => return Ok(Err(Error::invalid("FILTER_INVALID", text))),
        Err(error) => return Err(fault(error)),
    };
    let chosen = if matched {
        &command.on_match
    } else {
        &command.on_mismatch
    };
    let Some(batch) = chosen else {
        step.feed_close(command.stamp);
        return Ok(Ok(matched));
    };
    if let Some(family) = batch.rows().find_map(|row| family_not_living(&schema, &row)) {
        return Ok(Err(family_unknown(family)));
    }
    for row in batch.rows() {
        step.put_local_row(&row, command.stamp);
    }
    step.feed_rows(command.stamp, None, batch);
    Ok(Ok(matched))
}

fn evaluate(command: &CheckAndMutateCommand, step: &Step<'_>) -> Result<bool, EngineError> {
    let spec = ReadSpec {
        filter: command.predicate.clone(),
        rows_limit: Some(1),
        ..ReadSpec::row(&command.row)
    };
    let mut cursor = step.engine.read(&spec, evaluation_micros(command.stamp))?;
    cursor.advance()
}
