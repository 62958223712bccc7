//! What apply answers to the proposer, as bytes, because answers travel through the consensus layer and, for operations
//! with a token, stay in the state.
//!
//! ```text
//! response := 0x00 | body | 0x01 | error
//! write    := batches varint, n x (failures varint, n x (row varint, error))
//! matched  := u8
//! cells    := varint n, n x (family u32, qualifier slice, version i64, value slice)
//! ```
//! Other operations have an empty body, or one that their module draws.

use crate::codec::{done, get_error, put_error};
use bytes::Bytes;
use tidemark_base::codec::{Malformed, Reader, put_slice, put_varint};
use tidemark_base::{Error, FamilyId, Result, limits};

/// A cell as read-modify-write returns it: what the column holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedCell {
    /// Family.
    pub family: FamilyId,
    /// Qualifier.
    pub qualifier: Bytes,
    /// Version in microseconds.
    pub version: i64,
    /// Value.
    pub value: Bytes,
}

/// Failures of one batch: the row's index and why.
pub(crate) type Failures = Vec<(u32, Error)>;

pub(crate) fn ok(body: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(body.len() + 1);
    out.push(0);
    out.extend_from_slice(body);
    out.into()
}

pub(crate) fn failed(error: &Error) -> Bytes {
    let mut out = vec![1];
    put_error(&mut out, error);
    out.into()
}

/// The body, or the error that the operation ended with.
pub(crate) fn body(response: &Bytes) -> Result<Bytes> {
    let mut r = Reader::new(response);
    match r.u8() {
        Ok(0) => Ok(response.slice(1..)),
        Ok(1) => Err(get_error(&mut r).unwrap_or_else(defect)),
        _ => Err(defect(Malformed("unknown kind of response"))),
    }
}

/// An answer of our own apply that does not decode.
pub(crate) fn defect(error: Malformed) -> Error {
    Error::internal(format!("the answer of apply does not decode: {}", error.0))
}

pub(crate) fn encode_write(batches: &[Failures]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, batches.len() as u64);
    for failures in batches {
        put_varint(&mut out, failures.len() as u64);
        for (row, error) in failures {
            put_varint(&mut out, u64::from(*row));
            put_error(&mut out, error);
        }
    }
    out
}

pub(crate) fn decode_write(body: &[u8]) -> std::result::Result<Vec<Failures>, Malformed> {
    let mut r = Reader::new(body);
    let mut batches = Vec::new();
    for _ in 0..r.length(body.len(), "too many batches")? {
        let mut failures = Vec::new();
        for _ in 0..r.length(limits::BATCH_ROWS_MAX, "too many failures")? {
            let row = r.length(limits::BATCH_ROWS_MAX, "row index too large")?;
            failures.push((row as u32, get_error(&mut r)?));
        }
        batches.push(failures);
    }
    done(&r)?;
    Ok(batches)
}

pub(crate) fn encode_cells(cells: &[OwnedCell]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, cells.len() as u64);
    for cell in cells {
        out.extend_from_slice(&cell.family.0.to_le_bytes());
        put_slice(&mut out, &cell.qualifier);
        out.extend_from_slice(&cell.version.to_le_bytes());
        put_slice(&mut out, &cell.value);
    }
    out
}

pub(crate) fn decode_cells(body: &Bytes) -> std::result::Result<Vec<OwnedCell>, Malformed> {
    let mut r = Reader::new(body);
    let mut cells = Vec::new();
    for _ in 0..r.length(limits::ROW_MUTATIONS_MAX, "too many cells")? {
        cells.push(OwnedCell {
            family: FamilyId(r.u32()?),
            qualifier: body.slice_ref(r.slice(limits::QUALIFIER_BYTES_MAX, "qualifier too long")?),
            version: r.i64()?,
            value: body.slice_ref(r.slice(limits::VALUE_BYTES_MAX, "value too long")?),
        });
    }
    done(&r)?;
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_come_back_as_they_went() {
        let failures = vec![vec![], vec![(3, Error::invalid("FAMILY_UNKNOWN", "no such family"))]];
        let response = ok(&encode_write(&failures));
        assert_eq!(decode_write(&body(&response).unwrap()).unwrap(), failures);
        let cells = vec![OwnedCell {
            family: FamilyId(7),
            qualifier: Bytes::from_static(b"q"),
            version: -5,
            value: Bytes::from_static(b"v"),
        }];
        assert_eq!(decode_cells(&body(&ok(&encode_cells(&cells))).unwrap()).unwrap(), cells);
        let error = Error::invalid("NOT_A_COUNTER", "three bytes");
        assert_eq!(body(&failed(&error)).unwrap_err(), error);
        assert_eq!(body(&Bytes::new()).unwrap_err().reason(), "INTERNAL");
    }

    proptest! {
        #[test]
        fn the_decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let bytes = Bytes::from(bytes);
            let _ = body(&bytes);
            let _ = decode_write(&bytes);
            let _ = decode_cells(&bytes);
        }
    }
}
