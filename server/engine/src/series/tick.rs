//! A tick: the cells that one row mutation writes at one version in one family, as they go into the store.
//!
//! ```text
//! tick := 0x01 | version i64 | stamp (14) | cell+ | crc32c u32 over all bytes before it
//! cell := qualifier slice | value slice
//! ```
//! It is written for every row mutation and lives until the first flush or compaction puts it into a block, so it is
//! quick to write and repeats its qualifiers.

use super::limits::{QUALIFIER_BYTES_MAX, VALUE_BYTES_MAX};
use tidemark_base::Stamp;
use tidemark_base::codec::{Malformed, Reader, put_slice};
use tidemark_base::stamp::STAMP_BYTES;

/// First byte of a tick.
pub(super) const TICK: u8 = 1;
pub(super) const SUM_BYTES: usize = 4;

/// Writes one tick.
#[derive(Debug)]
pub struct TickBuilder {
    out: Vec<u8>,
}

impl TickBuilder {
    /// A tick without cells. `out` is reused.
    pub fn new(mut out: Vec<u8>, version: i64, stamp: Stamp) -> TickBuilder {
        out.clear();
        out.push(TICK);
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&stamp.encode());
        TickBuilder { out }
    }

    /// Adds a cell. A qualifier comes once: a row mutation in normal form has no two puts at one coordinate.
    #[inline]
    pub fn push(&mut self, qualifier: &[u8], value: &[u8]) {
        put_slice(&mut self.out, qualifier);
        put_slice(&mut self.out, value);
    }

    /// The finished bytes.
    pub fn finish(mut self) -> Vec<u8> {
        seal(&mut self.out, 0);
        self.out
    }
}

/// Appends the checksum of what stands from `from` on.
pub(super) fn seal(out: &mut Vec<u8>, from: usize) {
    let sum = crc32c::crc32c(&out[from..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// The content of sealed bytes.
pub(super) fn open(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let (content, sum) = bytes
        .len()
        .checked_sub(SUM_BYTES)
        .map(|at| bytes.split_at(at))
        .ok_or(Malformed("shorter than its checksum"))?;
    if crc32c::crc32c(content).to_le_bytes() != sum {
        return Err(Malformed("the checksum of a series record does not match"));
    }
    Ok(content)
}

/// A tick that was opened.
#[derive(Clone, Copy, Debug)]
pub struct TickRef<'a> {
    /// Version of all its cells.
    pub version: i64,
    /// Stamp of all its cells.
    pub stamp: Stamp,
    cells: Reader<'a>,
}

impl<'a> TickRef<'a> {
    /// Reads what [`TickBuilder`] wrote; the checksum first.
    pub fn parse(bytes: &'a [u8]) -> Result<TickRef<'a>, Malformed> {
        let mut r = Reader::new(open(bytes)?);
        if r.u8()? != TICK {
            return Err(Malformed("not a tick of format 1"));
        }
        Ok(TickRef {
            version: r.i64()?,
            stamp: Stamp::decode(&r.array::<STAMP_BYTES>()?),
            cells: r,
        })
    }

    /// Calls `each` with every cell's qualifier and value.
    #[inline]
    pub fn for_each(mut self, mut each: impl FnMut(&'a [u8], &'a [u8])) -> Result<(), Malformed> {
        while !self.cells.is_empty() {
            let qualifier = self.cells.slice(QUALIFIER_BYTES_MAX, "qualifier too long")?;
            each(qualifier, self.cells.slice(VALUE_BYTES_MAX, "value too long")?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemark_base::RegionId;

    #[test]
    fn golden() {
        let stamp = Stamp {
            epoch: 0,
            hlc: 2 << 16 | 3,
            region: RegionId(1),
        };
        let mut tick = TickBuilder::new(Vec::new(), 5, stamp);
        tick.push(b"t", b"20.5");
        let bytes = tick.finish();
        let expected: &[u8] = &[
            1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 1, 1, b't', 4, b'2', b'0', b'.', b'5',
        ];
        assert_eq!(&bytes[..bytes.len() - SUM_BYTES], expected);
        let mut cells = Vec::new();
        let tick = TickRef::parse(&bytes).unwrap();
        tick.for_each(|q, v| cells.push((q.to_vec(), v.to_vec()))).unwrap();
        assert_eq!((tick.version, tick.stamp), (5, stamp));
        assert_eq!(cells, [(b"t".to_vec(), b"20.5".to_vec())]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = TickRef::parse(&bytes);
            bytes.insert(0, TICK);
            seal(&mut bytes, 0);
            let _ = TickRef::parse(&bytes).and_then(|tick| tick.for_each(|_, _| {}));
        }
    }
}
