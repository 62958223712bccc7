//! Read, modify, write: appends and increments on one row, from what is there to what shall be. Decided at apply (ADR 6).
//!
//! ```text
//! read modify write := 0x03 | stamp(14) | token terms (token(16), expiry_ms u64, tokens_max u32) | now i64 | row slice
//!                      | rules varint, n x (family u32 | qualifier slice | change)
//! change            := 0x01 | appended slice | 0x02 | amount i64
//! response body     := cells (response.rs): each column once, as it is afterwards
//! ```
//! Semantics are Bigtable's: rules apply in order, a missing cell is empty or zero, a counter is eight bytes big endian and
//! wraps, the new cell's version is the server's time, or the latest version of the column if that is in the future. If one
//! rule fails nothing is written. `now` (microseconds) is the leader's clock and only becomes a version; what has expired is
//! decided by the stamp's time.

use crate::apply::{Step, epoch_fenced, evaluation_micros, family_unknown};
use crate::codec::{get_stamp, put_stamp};
use crate::response::{self, OwnedCell};
use crate::state::fault;
use crate::tokens::TokenTerms;
use bytes::Bytes;
use tidemark_base::codec::{Malformed, Reader, put_slice, put_varint};
use tidemark_base::read::QualifierFilter;
use tidemark_base::{BatchBuilder, Error, ErrorKind, FamilyId, ReadFilter, ReadSpec, Stamp, limits};
use tidemark_consensus::StateMachineFault;
use tidemark_runtime::planted::{Bug, planted};

pub(crate) const KIND: u8 = 3;
const APPEND: u8 = 1;
const INCREMENT: u8 = 2;
/// Rules of one operation; each may read.
pub const RULES_MAX: usize = 1_000;

/// One change of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RmwRule {
    /// Family of the column.
    pub family: FamilyId,
    /// Qualifier of the column.
    pub qualifier: Bytes,
    /// What to do with its latest value.
    pub change: RmwChange,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RmwChange {
    /// Appends these bytes; a missing cell is empty.
    Append(Bytes),
    /// Adds to a counter of eight bytes, big endian, wrapping; a missing cell is zero.
    Increment(i64),
}

/// The decoded command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReadModifyWriteCommand {
    pub(crate) stamp: Stamp,
    pub(crate) terms: TokenTerms,
    pub(crate) now_micros: i64,
    pub(crate) row: Bytes,
    pub(crate) rules: Vec<RmwRule>,
}

pub(crate) fn encode(command: &ReadModifyWriteCommand) -> Bytes {
    let mut out = vec![KIND];
    put_stamp(&mut out, command.stamp);
    command.terms.put(&mut out);
    out.extend_from_slice(&command.now_micros.to_le_bytes());
    put_slice(&mut out, &command.row);
    put_varint(&mut out, command.rules.len() as u64);
    for rule in &command.rules {
        out.extend_from_slice(&rule.family.0.to_le_bytes());
        put_slice(&mut out, &rule.qualifier);
        match &rule.change {
            RmwChange::Append(bytes) => {
                out.push(APPEND);
                put_slice(&mut out, bytes);
            }
            RmwChange::Increment(amount) => {
                out.push(INCREMENT);
                out.extend_from_slice(&amount.to_le_bytes());
            }
        }
    }
    out.into()
}

pub(crate) fn decode(whole: &Bytes, r: &mut Reader<'_>) -> Result<ReadModifyWriteCommand, Malformed> {
    let mut command = ReadModifyWriteCommand {
        stamp: get_stamp(r)?,
        terms: TokenTerms::get(r)?,
        now_micros: r.i64()?,
        row: whole.slice_ref(r.slice(limits::ROW_BYTES_MAX, "row key too long")?),
        rules: Vec::new(),
    };
    for _ in 0..r.length(RULES_MAX, "too many rules")? {
        let family = FamilyId(r.u32()?);
        let qualifier = whole.slice_ref(r.slice(limits::QUALIFIER_BYTES_MAX, "qualifier too long")?);
        let change = match r.u8()? {
            APPEND => RmwChange::Append(whole.slice_ref(r.slice(limits::VALUE_BYTES_MAX, "value too long")?)),
            INCREMENT => RmwChange::Increment(r.i64()?),
            _ => return Err(Malformed("unknown change")),
        };
        command.rules.push(RmwRule {
            family,
            qualifier,
            change,
        });
    }
    Ok(command)
}

pub(crate) fn apply(command: ReadModifyWriteCommand, step: &mut Step<'_>) -> Result<Bytes, StateMachineFault> {
    step.commit()?;
    step.take_local_stamps(command.stamp, 1)?;
    // Planted: an operation that comes again is a new one.
    let known = match planted(Bug::IncrementTwice) {
        true => None,
        false => step.remembered(&command.terms.token, KIND)?,
    };
    if let Some(answer) = known {
        step.feed_close(command.stamp);
        return Ok(answer);
    }
    let cells = match change(&command, step)? {
        Ok(cells) => cells,
        Err(error) => {
            step.feed_close(command.stamp);
            return Ok(response::failed(&error));
        }
    };
    let response = response::ok(&response::encode_cells(&cells));
    step.remember(&command.terms, KIND, command.stamp.ms(), &response);
    Ok(response)
}

/// Reads, computes and writes; the inner error leaves the facts as they were.
fn change(
    command: &ReadModifyWriteCommand,
    step: &mut Step<'_>,
) -> Result<Result<Vec<OwnedCell>, Error>, StateMachineFault> {
    if let Err(error) = admit(command, step) {
        return Ok(Err(error));
    }
    let mut cells: Vec<OwnedCell> = Vec::new();
    for rule in &command.rules {
        let known = cells
            .iter()
            .position(|c| c.family == rule.family && c.qualifier == rule.qualifier);
        let at = match known {
            Some(at) => at,
            None => {
                cells.push(latest(command, rule, step)?);
                cells.len() - 1
            }
        };
        match changed(&cells[at].value, &rule.change) {
            Ok(value) => cells[at].value = value,
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(write(command, &cells, step).map(|()| cells))
}

fn admit(command: &ReadModifyWriteCommand, step: &Step<'_>) -> Result<(), Error> {
    let schema = step.schema()?;
    if command.stamp.epoch != schema.epoch {
        return Err(epoch_fenced(command.stamp.epoch, schema.epoch));
    }
    match command.rules.iter().find(|r| schema.family(r.family).is_none()) {
        Some(rule) => Err(family_unknown(rule.family)),
        None => Ok(()),
    }
}

/// The column's latest cell with the version that the new one gets; an empty value if there is none.
fn latest(command: &ReadModifyWriteCommand, rule: &RmwRule, step: &Step<'_>) -> Result<OwnedCell, StateMachineFault> {
    let spec = ReadSpec {
        filter: ReadFilter {
            families: Some(vec![rule.family]),
            qualifier: QualifierFilter::Exact(vec![rule.qualifier.clone()]),
            latest: Some(1),
            ..ReadFilter::default()
        },
        ..ReadSpec::row(&command.row)
    };
    let mut cursor = step
        .engine
        .read(&spec, evaluation_micros(command.stamp))
        .map_err(fault)?;
    let mut cell = OwnedCell {
        family: rule.family,
        qualifier: rule.qualifier.clone(),
        version: command.now_micros.max(0),
        value: Bytes::new(),
    };
    if cursor.advance().map_err(fault)? {
        let found = cursor.cell();
        cell.version = cell.version.max(found.version);
        cell.value = Bytes::copy_from_slice(found.value);
    } else if matches!(rule.change, RmwChange::Increment(_)) {
        cell.value = Bytes::copy_from_slice(&0i64.to_be_bytes());
    }
    Ok(cell)
}

fn changed(value: &Bytes, change: &RmwChange) -> Result<Bytes, Error> {
    match change {
        RmwChange::Append(tail) => {
            let len = value.len() + tail.len();
            if len > limits::VALUE_BYTES_MAX {
                let text = format!(
                    "the value would have {len} bytes, over the limit of {}",
                    limits::VALUE_BYTES_MAX
                );
                return Err(Error::invalid("VALUE_TOO_LARGE", text));
            }
            Ok([&value[..], &tail[..]].concat().into())
        }
        RmwChange::Increment(amount) => {
            let bytes: [u8; 8] = value[..].try_into().map_err(|_| {
                Error::new(
                    ErrorKind::FailedPrecondition,
                    "NOT_A_COUNTER",
                    format!("the latest value has {} bytes; a counter has eight", value.len()),
                )
                .action("delete the column first, or count in another one")
            })?;
            let sum = i64::from_be_bytes(bytes).wrapping_add(*amount);
            Ok(Bytes::copy_from_slice(&sum.to_be_bytes()))
        }
    }
}

fn write(command: &ReadModifyWriteCommand, cells: &[OwnedCell], step: &mut Step<'_>) -> Result<(), Error> {
    let mut builder = BatchBuilder::new();
    builder.begin_row(&command.row)?;
    for cell in cells {
        builder.put(cell.family, &cell.qualifier, cell.version, &cell.value)?;
    }
    builder.end_row()?;
    if let Some(batch) = builder.finish() {
        for row in batch.rows() {
            step.put_local_row(&row, command.stamp);
        }
        step.feed_rows(command.stamp, None, &batch);
    }
    Ok(())
}
