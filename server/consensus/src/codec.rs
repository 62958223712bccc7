//! The primitive pieces of every binary format in this crate: a writer over `Vec<u8>` and a checked reader over `Bytes`.
//!
//! All integers are little endian. The reader never panics, never allocates from a length that it has not compared with
//! what is left, and hands out payloads as slices of the buffer that it was given (no copy).

use crate::types::LogPosition;
use bytes::{Buf, Bytes};
use tidemark_base::NodeId;

/// Bytes that are not what the format allows; the text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// Reads fields front to back; each read says which field it is for, so that an error names it.
#[derive(Debug)]
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Reader {
        Reader { rest: bytes }
    }

    fn need(&self, len: usize, field: &'static str) -> Result<(), Malformed> {
        if self.rest.len() < len {
            Err(Malformed(field))
        } else {
            Ok(())
        }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.need(1, field)?;
        Ok(self.rest.get_u8())
    }

    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, Malformed> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed(field)),
        }
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.need(4, field)?;
        Ok(self.rest.get_u32_le())
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.need(8, field)?;
        Ok(self.rest.get_u64_le())
    }

    /// A `u32` length and that many bytes, as a slice of the input.
    pub(crate) fn bytes(&mut self, field: &'static str) -> Result<Bytes, Malformed> {
        let len = self.u32(field)? as usize;
        self.need(len, field)?;
        Ok(self.rest.split_to(len))
    }

    /// Everything that is left.
    pub(crate) fn tail(self) -> Bytes {
        self.rest
    }

    pub(crate) fn position(&mut self, field: &'static str) -> Result<LogPosition, Malformed> {
        let term = self.u64(field)?;
        let leader = NodeId(self.u64(field)?);
        let index = self.u64(field)?;
        Ok(LogPosition { term, leader, index })
    }

    pub(crate) fn position_opt(&mut self, field: &'static str) -> Result<Option<LogPosition>, Malformed> {
        if self.flag(field)? {
            Ok(Some(self.position(field)?))
        } else {
            Ok(None)
        }
    }

    /// Refuses trailing bytes: a message that says more than we read was not written by this format.
    pub(crate) fn finish(self, field: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed(field))
        }
    }
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("limits keep every payload far below 4 GiB");
    put_u32(out, len);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_position(out: &mut Vec<u8>, position: &LogPosition) {
    put_u64(out, position.term);
    put_u64(out, position.leader.0);
    put_u64(out, position.index);
}

pub(crate) fn put_position_opt(out: &mut Vec<u8>, position: Option<&LogPosition>) {
    match position {
        Some(position) => {
            out.push(1);
            put_position(out, position);
        }
        None => out.push(0),
    }
}
