//! Packed cells: the form in which visible cells are answered to the client and to heavy analysts. A cell repeats
//! nothing that it shares with the one before it.
//!
//! ```text
//! packed cells := 'C' 0x01 | cell* | crc32c u32 over all bytes before it
//! cell := flags u8 (1 same row, 2 same family, 4 same qualifier, 8 same version as the cell before)
//!         | [row slice] | [family u32] | [qualifier slice] | [version i64] | value slice
//! ```
//! Versions are little endian. A cell of another row repeats family, qualifier and version flags as it likes: flags refer
//! to the cell before, in whichever row it stood.

use crate::codec::{Malformed, Reader, put_slice};
use crate::ids::FamilyId;
use crate::limits;
use bytes::{BufMut, Bytes, BytesMut};

const MAGIC: [u8; 2] = [b'C', 1];
const SAME_ROW: u8 = 1;
const SAME_FAMILY: u8 = 2;
const SAME_QUALIFIER: u8 = 4;
const SAME_VERSION: u8 = 8;

/// One visible cell, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedCell<'a> {
    /// Row key.
    pub row: &'a [u8],
    /// Family.
    pub family: FamilyId,
    /// Qualifier.
    pub qualifier: &'a [u8],
    /// Version in microseconds.
    pub version: i64,
    /// Value.
    pub value: &'a [u8],
}

/// Builds packed cells.
#[derive(Debug, Default)]
pub struct CellsBuilder {
    out: Vec<u8>,
    cells: usize,
    row: Vec<u8>,
    family: FamilyId,
    qualifier: Vec<u8>,
    version: i64,
}

impl CellsBuilder {
    /// An empty builder.
    pub fn new() -> CellsBuilder {
        CellsBuilder {
            out: MAGIC.to_vec(),
            ..CellsBuilder::default()
        }
    }

    /// Cells so far.
    pub fn len(&self) -> usize {
        self.cells
    }

    /// True without a cell.
    pub fn is_empty(&self) -> bool {
        self.cells == 0
    }

    /// Bytes so far, without the checksum.
    pub fn bytes_len(&self) -> usize {
        self.out.len()
    }

    /// Adds one cell.
    pub fn push(&mut self, cell: PackedCell<'_>) {
        let first = self.cells == 0;
        let mut flags = 0;
        if !first {
            flags |= if self.row == cell.row { SAME_ROW } else { 0 };
            flags |= if self.family == cell.family { SAME_FAMILY } else { 0 };
            flags |= if self.qualifier == cell.qualifier {
                SAME_QUALIFIER
            } else {
                0
            };
            flags |= if self.version == cell.version { SAME_VERSION } else { 0 };
        }
        self.out.push(flags);
        if flags & SAME_ROW == 0 {
            put_slice(&mut self.out, cell.row);
            self.row.clear();
            self.row.extend_from_slice(cell.row);
        }
        if flags & SAME_FAMILY == 0 {
            self.out.extend_from_slice(&cell.family.0.to_le_bytes());
            self.family = cell.family;
        }
        if flags & SAME_QUALIFIER == 0 {
            put_slice(&mut self.out, cell.qualifier);
            self.qualifier.clear();
            self.qualifier.extend_from_slice(cell.qualifier);
        }
        if flags & SAME_VERSION == 0 {
            self.out.extend_from_slice(&cell.version.to_le_bytes());
            self.version = cell.version;
        }
        put_slice(&mut self.out, cell.value);
        self.cells += 1;
    }

    /// The finished bytes; the builder is empty afterwards.
    pub fn finish(&mut self) -> Bytes {
        let this = std::mem::replace(self, CellsBuilder::new());
        let mut out = BytesMut::with_capacity(this.out.len() + 4);
        out.put_slice(&this.out);
        let sum = crc32c::crc32c(&out);
        out.put_u32_le(sum);
        out.freeze()
    }
}

/// Calls `each` for every packed cell, in order. Checks the checksum first.
pub fn for_each_cell(bytes: &[u8], mut each: impl FnMut(PackedCell<'_>)) -> Result<(), Malformed> {
    let end = bytes
        .len()
        .checked_sub(4)
        .ok_or(Malformed("packed cells shorter than their checksum"))?;
    let (content, sum) = bytes.split_at(end);
    if crc32c::crc32c(content).to_le_bytes() != sum {
        return Err(Malformed("the checksum of packed cells does not match"));
    }
    let mut r = Reader::new(content);
    if r.take(2)? != MAGIC {
        return Err(Malformed("not packed cells of format 1"));
    }
    let mut cell = PackedCell {
        row: &[],
        family: FamilyId(0),
        qualifier: &[],
        version: 0,
        value: &[],
    };
    let mut first = true;
    while !r.is_empty() {
        let flags = r.u8()?;
        if flags & !(SAME_ROW | SAME_FAMILY | SAME_QUALIFIER | SAME_VERSION) != 0 || (first && flags != 0) {
            return Err(Malformed("unknown cell flags"));
        }
        first = false;
        if flags & SAME_ROW == 0 {
            cell.row = r.slice(limits::ROW_BYTES_MAX, "row key too long")?;
        }
        if flags & SAME_FAMILY == 0 {
            cell.family = FamilyId(r.u32()?);
        }
        if flags & SAME_QUALIFIER == 0 {
            cell.qualifier = r.slice(limits::QUALIFIER_BYTES_MAX, "qualifier too long")?;
        }
        if flags & SAME_VERSION == 0 {
            cell.version = r.i64()?;
        }
        cell.value = r.slice(limits::VALUE_BYTES_MAX, "value too long")?;
        each(cell);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (Vec<u8>, u32, Vec<u8>, i64, Vec<u8>);

    fn pack(cells: &[Owned]) -> Bytes {
        let mut b = CellsBuilder::new();
        for (row, family, qualifier, version, value) in cells {
            b.push(PackedCell {
                row,
                family: FamilyId(*family),
                qualifier,
                version: *version,
                value,
            });
        }
        b.finish()
    }

    fn unpack(bytes: &[u8]) -> Result<Vec<Owned>, Malformed> {
        let mut out = Vec::new();
        for_each_cell(bytes, |c| {
            out.push((
                c.row.to_vec(),
                c.family.0,
                c.qualifier.to_vec(),
                c.version,
                c.value.to_vec(),
            ))
        })?;
        Ok(out)
    }

    #[test]
    fn golden() {
        let cells = vec![
            (b"r".to_vec(), 1, b"a".to_vec(), 5, b"x".to_vec()),
            (b"r".to_vec(), 1, b"b".to_vec(), 5, b"y".to_vec()),
        ];
        let bytes = pack(&cells);
        let expected: &[u8] = &[
            b'C', 1, 0, 1, b'r', 1, 0, 0, 0, 1, b'a', 5, 0, 0, 0, 0, 0, 0, 0, 1, b'x', 11, 1, b'b', 1, b'y',
        ];
        assert_eq!(&bytes[..bytes.len() - 4], expected);
    }

    proptest! {
        #[test]
        fn round_trip(cells in proptest::collection::vec(
            (proptest::collection::vec(0u8..3, 0..3), 0u32..3, proptest::collection::vec(0u8..3, 0..2), 0i64..3, proptest::collection::vec(any::<u8>(), 0..4)), 0..20)) {
            prop_assert_eq!(unpack(&pack(&cells)), Ok(cells));
        }

        #[test]
        fn arbitrary_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut content = MAGIC.to_vec();
            content.extend_from_slice(&tail);
            let sum = crc32c::crc32c(&content).to_le_bytes();
            content.extend_from_slice(&sum);
            let _ = unpack(&content);
        }
    }
}
