//! Physical keys: how facts are ordered on disk. Blind puts only; no two facts share a key.
//!
//! ```text
//! facts space, in byte order (tombstones stand before the cells that they cover, so a row is read in one pass):
//!
//!   esc(row) | 0x00000000                                    | tombstone     of the row
//!   esc(row) | family be32 | 0x00                            | tombstone     of the family in the row
//!   esc(row) | family be32 | 0x01 | esc(qualifier) | 0x00    | tombstone     of the column
//!   esc(row) | family be32 | 0x01 | esc(qualifier) | 0x01    | !version(8) | !stamp(14) | digest(2)         cell
//!
//!   tombstone := !stamp(14) | from(8) | to(8)               newest first
//!   esc(b)    := each 0x00 of b becomes 0x00 0xff, then 0x00 0x01: orders as b does, and nothing is another's prefix
//!   version   := i64 big endian with the sign bit flipped; `!` complements every byte, so the newest comes first
//!   digest    := the lower 16 bits of XXH3-64 of the value, big endian
//!
//!   value     := 0x00 | the cell's value        a cell
//!              | 0x01                           a dead marker: a cell that nothing can revive, kept because it counts
//!              | 0x02                           a tombstone
//!
//! row ranges, in the state space behind the byte 0x02:   esc(start) | bounded(1) | [esc(end)] | tombstone  ->  0x02
//! ```
//! The stamp is part of a cell's key: an overwrite is another key, the winner is the first key of its coordinate, and
//! compaction drops the rest. The digest makes two different values with one coordinate and one stamp (R5: corruption)
//! two adjacent keys, which every pass over them sees.
//!
//! Worked example (the golden test): row `r 00`, family 0x80000001, qualifier `q`, version 5, stamp 1/2.3@4, value `v`
//! ```text
//! 72 00 ff 00 01 | 80 00 00 01 | 01 | 71 00 01 | 01 | 7f ff ff ff ff ff ff fa
//! | ff ff ff fe ff ff ff ff ff fd ff fc ff fb | 07 14
//! ```

use bytes::Bytes;
use tidemark_base::codec::Malformed;
use tidemark_base::stamp::STAMP_BYTES;
use tidemark_base::{FamilyId, Scope, Stamp, TombstoneRef, VersionRange};
use xxhash_rust::xxh3::xxh3_64;

/// First byte of a live cell's stored value.
pub const VALUE_LIVE: u8 = 0;
/// The stored value of a dead marker.
pub const VALUE_DEAD: u8 = 1;
/// The stored value of a tombstone.
pub const VALUE_TOMBSTONE: u8 = 2;

const ESCAPED: u8 = 0xff;
const END: u8 = 0x01;
/// Greater than [`END`], less than [`ESCAPED`]: put in END's place it makes a key behind everything with that prefix.
const BEHIND: u8 = 0x02;
const KIND_TOMBSTONE: u8 = 0x00;
const KIND_DEEPER: u8 = 0x01;
const SIGN: u64 = 1 << 63;
const TOMBSTONE_BYTES: usize = STAMP_BYTES + 16;
const CELL_BYTES: usize = 8 + STAMP_BYTES + DIGEST_BYTES;
/// Bytes of the digest at the end of a cell's key.
pub const DIGEST_BYTES: usize = 2;

/// Appends `esc(bytes)`.
pub fn push_escaped(out: &mut Vec<u8>, mut bytes: &[u8]) {
    while let Some(zero) = bytes.iter().position(|b| *b == 0) {
        out.extend_from_slice(&bytes[..zero]);
        out.extend_from_slice(&[0, ESCAPED]);
        bytes = &bytes[zero + 1..];
    }
    out.extend_from_slice(bytes);
    out.extend_from_slice(&[0, END]);
}

/// Length of the escaped string at the head of `key`, its end mark included.
pub fn escaped_len(key: &[u8]) -> Result<usize, Malformed> {
    let mut at = 0;
    while let Some(zero) = key[at..].iter().position(|b| *b == 0) {
        match key.get(at + zero + 1) {
            Some(&END) => return Ok(at + zero + 2),
            Some(&ESCAPED) => at += zero + 2,
            _ => break,
        }
    }
    Err(Malformed("a key's escaped part has no end"))
}

/// Replaces `out` by the bytes whose escaped form, end mark included, is `escaped`.
pub fn unescape(escaped: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut rest = &escaped[..escaped.len().saturating_sub(2)];
    while let Some(zero) = rest.iter().position(|b| *b == 0) {
        out.extend_from_slice(&rest[..=zero]);
        rest = rest.get(zero + 2..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

/// The first key that a fact of `row`, or of any row behind it, can have.
pub fn row_prefix(row: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(row.len() + 2);
    push_escaped(&mut out, row);
    out
}

/// Replaces `out` by the first key behind everything that begins with `prefix`, which ends with an escaped string.
pub fn behind(prefix: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(prefix);
    if let Some(last) = out.last_mut() {
        *last = BEHIND;
    }
}

/// Replaces `out` by the first key that a column at or behind `qualifier` can have.
pub fn column_start(out: &mut Vec<u8>, row_prefix: &[u8], family: FamilyId, qualifier: &[u8]) {
    family_start(out, row_prefix, family);
    out.push(KIND_DEEPER);
    push_escaped(out, qualifier);
}

/// Replaces `out` by the first key that a family at or behind `family` can have in the row.
pub fn family_start(out: &mut Vec<u8>, row_prefix: &[u8], family: FamilyId) {
    out.clear();
    out.extend_from_slice(row_prefix);
    out.extend_from_slice(&family.0.to_be_bytes());
}

/// Appends to a column's prefix what makes it the first key that a cell at or below `version` can have.
pub fn push_version(column_prefix: &mut Vec<u8>, version: i64) {
    column_prefix.push(KIND_DEEPER);
    column_prefix.extend_from_slice(&(!ordered(version)).to_be_bytes());
}

/// What all keys of a cell's column begin with, out of the cell's key.
pub fn column_of(cell_key: &[u8]) -> &[u8] {
    &cell_key[..cell_key.len().saturating_sub(CELL_BYTES + 1)]
}

/// A cell's key.
pub fn cell_key(row: &[u8], family: FamilyId, qualifier: &[u8], version: i64, stamp: Stamp, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(row.len() + qualifier.len() + 4 + 4 + 2 + CELL_BYTES);
    push_escaped(&mut out, row);
    out.extend_from_slice(&family.0.to_be_bytes());
    out.push(KIND_DEEPER);
    push_escaped(&mut out, qualifier);
    push_version(&mut out, version);
    out.extend_from_slice(&stamp.encode().map(|b| !b));
    out.extend_from_slice(&(xxh3_64(value) as u16).to_be_bytes());
    out
}

/// What a planted bug takes for the same fact: the keys (from, below) of one coordinate and one time, of other regions.
pub(crate) fn ties(cell_key: &[u8]) -> [(Vec<u8>, Vec<u8>); 2] {
    const REGION_BYTES: usize = 2;
    let at = cell_key.len() - DIGEST_BYTES - REGION_BYTES;
    let (time, own) = (&cell_key[..at], &cell_key[..at + REGION_BYTES]);
    let behind_own = [own, &[0xff; DIGEST_BYTES + 1]].concat();
    let behind = [time, &[0xff; REGION_BYTES + DIGEST_BYTES + 1]].concat();
    [(time.to_vec(), own.to_vec()), (behind_own, behind)]
}

/// A tombstone's key in the facts space; `None` for a row range, which lives in the state space.
pub fn tombstone_key(tombstone: TombstoneRef<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(tombstone.row.len() + 8 + TOMBSTONE_BYTES);
    push_escaped(&mut out, tombstone.row);
    match tombstone.scope {
        Scope::Row => out.extend_from_slice(&[0; 4]),
        Scope::Family { family } => {
            out.extend_from_slice(&family.0.to_be_bytes());
            out.push(KIND_TOMBSTONE);
        }
        Scope::Column { family, qualifier } => {
            out.extend_from_slice(&family.0.to_be_bytes());
            out.push(KIND_DEEPER);
            push_escaped(&mut out, qualifier);
            out.push(KIND_TOMBSTONE);
        }
        Scope::RowRange { .. } => return None,
    }
    push_tombstone(&mut out, tombstone.stamp, tombstone.versions);
    Some(out)
}

/// A tombstone over a range of rows. Few (bounded), so all of them are held in memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RangeTombstone {
    /// First row covered.
    pub start: Bytes,
    /// First row not covered; `None` = to the end.
    pub end: Option<Bytes>,
    /// Which versions.
    pub versions: VersionRange,
    /// When it was written.
    pub stamp: Stamp,
}

impl RangeTombstone {
    /// True if the row is covered.
    pub fn covers_row(&self, row: &[u8]) -> bool {
        row >= &self.start[..] && self.end.as_ref().is_none_or(|end| row < &end[..])
    }

    /// Its key, without the byte of its space.
    pub fn key(&self) -> Vec<u8> {
        let mut out = row_prefix(&self.start);
        out.push(u8::from(self.end.is_some()));
        if let Some(end) = &self.end {
            push_escaped(&mut out, end);
        }
        push_tombstone(&mut out, self.stamp, self.versions);
        out
    }

    /// The inverse of [`RangeTombstone::key`].
    pub fn decode(key: &[u8]) -> Result<RangeTombstone, Malformed> {
        let (start, rest) = key.split_at(escaped_len(key)?);
        let (bounded, rest) = rest.split_first().ok_or(Malformed("a row range ends early"))?;
        let (end, rest) = match bounded {
            0 => (None, rest),
            1 => {
                let (end, rest) = rest.split_at(escaped_len(rest)?);
                (Some(unescaped(end)), rest)
            }
            _ => return Err(Malformed("a row range is neither bounded nor unbounded")),
        };
        let (stamp, versions) = read_tombstone(rest)?;
        Ok(RangeTombstone {
            start: unescaped(start),
            end,
            versions,
            stamp,
        })
    }
}

/// What a fact's key says behind its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Row, family or column.
    pub level: Level,
    /// The family; meaningless at row level.
    pub family: FamilyId,
    /// Where the escaped qualifier ends in the tail; it begins at [`QUALIFIER_AT`]. 0 above column level.
    pub qualifier_end: usize,
    /// Tombstone or cell.
    pub what: What,
}

/// Where an escaped qualifier begins in the part of a key behind its row.
pub const QUALIFIER_AT: usize = 5;

/// How deep in a row a fact stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Level {
    Row,
    Family,
    Column,
}

/// What a fact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum What {
    Tombstone { versions: VersionRange, stamp: Stamp },
    Cell { version: i64, stamp: Stamp },
}

/// Reads the part of a fact's key behind `esc(row)`. Never panics.
pub fn parse_tail(tail: &[u8]) -> Result<Tail, Malformed> {
    let short = Malformed("a fact's key ends early");
    let (family, rest) = tail.split_first_chunk::<4>().ok_or(short)?;
    let family = FamilyId(u32::from_be_bytes(*family));
    let tombstone = |level, qualifier_end, rest| {
        let (stamp, versions) = read_tombstone(rest)?;
        Ok(Tail {
            level,
            family,
            qualifier_end,
            what: What::Tombstone { versions, stamp },
        })
    };
    if family.0 == 0 {
        return tombstone(Level::Row, 0, rest);
    }
    let rest = match rest.split_first().ok_or(short)? {
        (&KIND_TOMBSTONE, rest) => return tombstone(Level::Family, 0, rest),
        (&KIND_DEEPER, rest) => rest,
        _ => return Err(Malformed("a fact's key has an unknown kind")),
    };
    let length = escaped_len(rest)?;
    let qualifier_end = QUALIFIER_AT + length;
    let rest = match rest[length..].split_first().ok_or(short)? {
        (&KIND_TOMBSTONE, rest) => return tombstone(Level::Column, qualifier_end, rest),
        (&KIND_DEEPER, rest) => rest,
        _ => return Err(Malformed("a column's key has an unknown kind")),
    };
    let (version, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
    let (stamp, rest) = rest.split_first_chunk::<STAMP_BYTES>().ok_or(short)?;
    if rest.len() != DIGEST_BYTES {
        return Err(Malformed("a cell's key has another length"));
    }
    Ok(Tail {
        level: Level::Column,
        family,
        qualifier_end,
        what: What::Cell {
            version: unordered(!u64::from_be_bytes(*version)),
            stamp: Stamp::decode(&stamp.map(|b| !b)),
        },
    })
}

fn push_tombstone(out: &mut Vec<u8>, stamp: Stamp, versions: VersionRange) {
    out.extend_from_slice(&stamp.encode().map(|b| !b));
    out.extend_from_slice(&ordered(versions.from).to_be_bytes());
    out.extend_from_slice(&ordered(versions.to).to_be_bytes());
}

fn read_tombstone(bytes: &[u8]) -> Result<(Stamp, VersionRange), Malformed> {
    let wrong = Malformed("a tombstone's key has another length");
    let (stamp, rest) = bytes.split_first_chunk::<STAMP_BYTES>().ok_or(wrong)?;
    let (from, rest) = rest.split_first_chunk::<8>().ok_or(wrong)?;
    let to: &[u8; 8] = rest.try_into().map_err(|_| wrong)?;
    let versions = VersionRange {
        from: unordered(u64::from_be_bytes(*from)),
        to: unordered(u64::from_be_bytes(*to)),
    };
    Ok((Stamp::decode(&stamp.map(|b| !b)), versions))
}

fn ordered(version: i64) -> u64 {
    version as u64 ^ SIGN
}

fn unordered(bits: u64) -> i64 {
    (bits ^ SIGN) as i64
}

fn unescaped(escaped: &[u8]) -> Bytes {
    let mut out = Vec::new();
    unescape(escaped, &mut out);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemark_base::RegionId;

    fn stamp(hlc: u64) -> Stamp {
        Stamp {
            epoch: 1,
            hlc,
            region: RegionId(4),
        }
    }

    #[test]
    fn golden() {
        let key = cell_key(b"r\0", FamilyId(0x8000_0001), b"q", 5, stamp((2 << 16) | 3), b"v");
        let expected: &[u8] = &[
            0x72, 0, 0xff, 0, 1, 0x80, 0, 0, 1, 1, 0x71, 0, 1, 1, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfa, 0xff,
            0xff, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfd, 0xff, 0xfc, 0xff, 0xfb, 0x07, 0x14,
        ];
        assert_eq!(key, expected, "{key:02x?}");
        let row = tombstone_key(TombstoneRef {
            row: b"r",
            scope: Scope::Row,
            versions: VersionRange { from: 0, to: 1 },
            stamp: stamp((2 << 16) | 3),
        })
        .unwrap();
        let expected: &[u8] = &[
            0x72, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfd, 0xff, 0xfc, 0xff, 0xfb,
            0x80, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 1,
        ];
        assert_eq!(row, expected, "{row:02x?}");
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(0xff), any::<u8>()], 0..6)
    }

    type Coordinate = (Vec<u8>, u32, Vec<u8>, i64, u64);

    fn coordinate() -> impl Strategy<Value = Coordinate> {
        (bytes(), 1u32..4, bytes(), any::<i64>(), any::<u64>())
    }

    proptest! {
        #[test]
        fn escaping_keeps_the_order_and_is_free_of_prefixes(a in bytes(), b in bytes()) {
            let (ea, eb) = (row_prefix(&a), row_prefix(&b));
            prop_assert_eq!(ea.cmp(&eb), a.cmp(&b));
            prop_assert_eq!(ea.starts_with(&eb), a == b);
            prop_assert_eq!(escaped_len(&ea), Ok(ea.len()));
            let mut out = vec![9];
            unescape(&ea, &mut out);
            prop_assert_eq!(&out, &a);
            behind(&ea, &mut out);
            prop_assert!(ea < out);
            prop_assert_eq!(eb > out, b > a);
        }

        #[test]
        fn cells_order_by_row_family_qualifier_then_newest_first(a in coordinate(), b in coordinate()) {
            let key = |c: &Coordinate| cell_key(&c.0, FamilyId(c.1), &c.2, c.3, stamp(c.4), b"");
            let order = |c: &Coordinate| {
                (c.0.clone(), c.1, c.2.clone(), std::cmp::Reverse(c.3), std::cmp::Reverse(c.4))
            };
            prop_assert_eq!(key(&a).cmp(&key(&b)), order(&a).cmp(&order(&b)));
            let k = key(&a);
            let row = escaped_len(&k).unwrap();
            let tail = parse_tail(&k[row..]).unwrap();
            prop_assert_eq!(tail.what, What::Cell { version: a.3, stamp: stamp(a.4) });
            prop_assert_eq!((tail.level, tail.family), (Level::Column, FamilyId(a.1)));
            let mut qualifier = Vec::new();
            unescape(&k[row + QUALIFIER_AT..row + tail.qualifier_end], &mut qualifier);
            prop_assert_eq!(qualifier, a.2);
        }

        #[test]
        fn tombstones_stand_before_what_they_cover(c in coordinate(), from in any::<i64>(), to in any::<i64>()) {
            let versions = VersionRange { from, to };
            let cell = cell_key(&c.0, FamilyId(c.1), &c.2, c.3, stamp(c.4), b"");
            let scopes = [
                (Scope::Row, Level::Row),
                (Scope::Family { family: FamilyId(c.1) }, Level::Family),
                (Scope::Column { family: FamilyId(c.1), qualifier: &c.2 }, Level::Column),
            ];
            for (scope, level) in scopes {
                let key = tombstone_key(TombstoneRef { row: &c.0, scope, versions, stamp: stamp(c.4) }).unwrap();
                prop_assert!(key < cell);
                let tail = parse_tail(&key[escaped_len(&key).unwrap()..]).unwrap();
                prop_assert_eq!(tail.level, level);
                prop_assert_eq!(tail.what, What::Tombstone { versions, stamp: stamp(c.4) });
            }
            let range = RangeTombstone { start: c.0.into(), end: Some(c.2.into()), versions, stamp: stamp(c.4) };
            prop_assert_eq!(RangeTombstone::decode(&range.key()), Ok(range.clone()));
            let open = RangeTombstone { end: None, ..range };
            prop_assert_eq!(RangeTombstone::decode(&open.key()), Ok(open));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = escaped_len(&bytes);
            let _ = parse_tail(&bytes);
            let _ = RangeTombstone::decode(&bytes);
            unescape(&bytes, &mut Vec::new());
        }
    }
}
