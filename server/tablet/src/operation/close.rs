//! Close: no local stamp at or below this one will be committed any more (ADR 3).
//!
//! ```text
//! close := 0x06 | stamp(14)
//! ```
//! With peers it is also a feed record, so that watermarks move while nothing is written. Without peers it moves the time of
//! the log, by which garbage collection knows what has expired (`time.rs`).

use crate::apply::Step;
use crate::codec::{get_stamp, put_stamp};
use crate::response;
use bytes::Bytes;
use tidemark_base::Stamp;
use tidemark_base::codec::{Malformed, Reader};
use tidemark_consensus::StateMachineFault;

pub(crate) const KIND: u8 = 6;

/// The decoded command.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Close {
    pub(crate) stamp: Stamp,
}

pub(crate) fn encode(stamp: Stamp) -> Bytes {
    let mut out = vec![KIND];
    put_stamp(&mut out, stamp);
    out.into()
}

pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Close, Malformed> {
    Ok(Close { stamp: get_stamp(r)? })
}

pub(crate) fn apply(command: Close, step: &mut Step<'_>) -> Result<Bytes, StateMachineFault> {
    step.take_local_stamps(command.stamp, 1)?;
    step.feed_close(command.stamp);
    Ok(response::ok(&[]))
}
