//! The digest by which regions are compared (R25): an order-free sum of hashes, so that it must be the same whatever the
//! tablets and their order.
//!
//! ```text
//! hash(cell) := XXH3-128 over  row | family u32 | qualifier | version i64 | value       (byte strings behind a u32 length)
//! with stamp := the same bytes | epoch u32 | hlc u64 | region u16, these three big endian; all else little endian
//! digest     := rows, cells, wrapping sum of hash(cell), wrapping sum of the hashes with stamps
//! ```

use crate::VisibleCell;
use xxhash_rust::xxh3::xxh3_128;

/// The digest of some visible cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Rows with a visible cell.
    pub rows: u64,
    /// Visible cells.
    pub cells: u64,
    /// Without stamps.
    pub content_hash: u128,
    /// With stamps.
    pub stamps_hash: u128,
}

impl Digest {
    /// Of cells in order.
    pub fn of(cells: &[VisibleCell]) -> Digest {
        let mut digest = Digest::default();
        let mut last = None;
        for cell in cells {
            let mut bytes = Vec::new();
            let slice = |bytes: &mut Vec<u8>, part: &[u8]| {
                bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
                bytes.extend_from_slice(part);
            };
            slice(&mut bytes, &cell.row);
            bytes.extend_from_slice(&cell.family.0.to_le_bytes());
            slice(&mut bytes, &cell.qualifier);
            bytes.extend_from_slice(&cell.version.to_le_bytes());
            slice(&mut bytes, &cell.value);
            digest.content_hash = digest.content_hash.wrapping_add(xxh3_128(&bytes));
            bytes.extend_from_slice(&cell.stamp.epoch.to_be_bytes());
            bytes.extend_from_slice(&cell.stamp.hlc.to_be_bytes());
            bytes.extend_from_slice(&cell.stamp.region.0.to_be_bytes());
            digest.stamps_hash = digest.stamps_hash.wrapping_add(xxh3_128(&bytes));
            digest.cells += 1;
            digest.rows += u64::from(last != Some(&cell.row));
            last = Some(&cell.row);
        }
        digest
    }
}
