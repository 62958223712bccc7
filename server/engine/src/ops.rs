//! What both engines answer from an ordered store of facts: digests, all facts, sweeps of garbage collection.

use crate::api::{CellCursor, EngineError, RangeDigest};
use crate::key::{self, Level, QUALIFIER_AT, RangeTombstone, VALUE_LIVE, What};
use crate::reap::{Reaper, Verdict};
use crate::source::{FactSource, Patience, Place};
use bytes::Bytes;
use tidemark_base::aggregate::Aggregates;
use tidemark_base::fact::{Fact, OwnedScope};
use tidemark_base::{CellRef, FamilyId, RegionId, Stamp, VersionRange};
use tidemark_runtime::planted::{Bug, planted};
use xxhash_rust::xxh3::xxh3_128;

/// XXH3-128 of a visible cell as [`RangeDigest`] sums it: over `row | family u32 | qualifier | version i64 | value`,
/// byte strings behind their length as u32, everything little endian; with the stamp behind it for `stamps_hash`.
///
/// Returns (content, with stamp). `buffer` is reused.
pub fn cell_hashes(cell: &CellRef<'_>, buffer: &mut Vec<u8>) -> (u128, u128) {
    buffer.clear();
    let slice = |bytes: &[u8], buffer: &mut Vec<u8>| {
        buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        buffer.extend_from_slice(bytes);
    };
    slice(cell.row, buffer);
    buffer.extend_from_slice(&cell.family.0.to_le_bytes());
    slice(cell.qualifier, buffer);
    buffer.extend_from_slice(&cell.version.to_le_bytes());
    slice(cell.value, buffer);
    let content = xxh3_128(buffer);
    buffer.extend_from_slice(&cell.stamp.encode());
    (content, xxh3_128(buffer))
}

/// The digest of what a cursor returns.
pub(crate) fn digest_of(cursor: &mut dyn CellCursor) -> Result<RangeDigest, EngineError> {
    let mut digest = RangeDigest::default();
    let mut buffer = Vec::new();
    while cursor.advance()? {
        let (content, with_stamp) = cell_hashes(&cursor.cell(), &mut buffer);
        digest.rows += u64::from(cursor.is_row_start());
        digest.cells += 1;
        digest.content_hash = digest.content_hash.wrapping_add(content);
        digest.stamps_hash = digest.stamps_hash.wrapping_add(with_stamp);
    }
    Ok(digest)
}

/// Adds what a cursor returns.
pub(crate) fn aggregate_of(cursor: &mut dyn CellCursor, out: &mut Aggregates) -> Result<(), EngineError> {
    while cursor.advance()? {
        let cell = cursor.cell();
        out.add(cell.row, cell.family, cell.qualifier, cell.version, cell.value)
            .map_err(refused)?;
    }
    Ok(())
}

/// A request that cannot be answered, as the engine says it.
pub(crate) fn refused(error: tidemark_base::Error) -> EngineError {
    EngineError::Invalid(format!("{}; {}", error.message(), error.next_action()))
}

/// Every fact of the store. A dead marker comes out as an empty cell and a tombstone that kills only it and what it
/// superseded, so that a copy of the facts means the same. (But for a family with an era that had no version limit: there
/// the tombstone can look older than the end of the era, and the copy may count one dead version less.)
pub(crate) fn all_facts<'a, S: FactSource>(
    mut source: S,
    ranges: impl Iterator<Item = &'a RangeTombstone>,
) -> Result<Vec<Fact>, EngineError> {
    let mut facts: Vec<Fact> = ranges.map(range_fact).collect();
    source.seek(&[]);
    while let Some((key, value)) = source.entry() {
        push_facts(key, value, &mut facts).map_err(|e| source.corruption(format!("{e}: {key:02x?}")))?;
        source.next();
    }
    source.status()?;
    Ok(facts)
}

fn range_fact(tombstone: &RangeTombstone) -> Fact {
    Fact::Tombstone {
        row: tombstone.start.clone(),
        scope: OwnedScope::RowRange {
            end: tombstone.end.clone(),
        },
        versions: tombstone.versions,
        stamp: tombstone.stamp,
    }
}

fn push_facts(key: &[u8], value: &[u8], facts: &mut Vec<Fact>) -> Result<(), tidemark_base::codec::Malformed> {
    let row_end = key::escaped_len(key)?;
    let tail = key::parse_tail(&key[row_end..])?;
    let unescaped = |escaped: &[u8]| {
        let mut out = Vec::new();
        key::unescape(escaped, &mut out);
        Bytes::from(out)
    };
    let row = unescaped(&key[..row_end]);
    let family = tail.family;
    let qualifier = match tail.level {
        Level::Column => unescaped(&key[row_end + QUALIFIER_AT..row_end + tail.qualifier_end]),
        _ => Bytes::new(),
    };
    match tail.what {
        What::Tombstone { versions, stamp } => facts.push(Fact::Tombstone {
            row,
            scope: match tail.level {
                Level::Row => OwnedScope::Row,
                Level::Family => OwnedScope::Family { family },
                Level::Column => OwnedScope::Column { family, qualifier },
            },
            versions,
            stamp,
        }),
        What::Cell { version, stamp } => {
            let live = value.first() == Some(&VALUE_LIVE);
            if !live {
                facts.push(Fact::Tombstone {
                    row: row.clone(),
                    scope: OwnedScope::Column {
                        family,
                        qualifier: qualifier.clone(),
                    },
                    versions: VersionRange::one(version),
                    stamp: successor(stamp),
                });
            }
            facts.push(Fact::Cell {
                row,
                family,
                qualifier,
                version,
                stamp,
                value: Bytes::copy_from_slice(if live { &value[1..] } else { &[] }),
            });
        }
    }
    Ok(())
}

/// The least greater stamp.
fn successor(stamp: Stamp) -> Stamp {
    let (region, carry) = stamp.region.0.overflowing_add(1);
    let (hlc, carry) = stamp.hlc.overflowing_add(u64::from(carry));
    Stamp {
        epoch: stamp.epoch.saturating_add(u32::from(carry)),
        hlc,
        region: RegionId(region),
    }
}

/// True if some fact names that family.
pub(crate) fn has_family<S: FactSource>(mut source: S, family: FamilyId) -> Result<bool, EngineError> {
    source.seek(&[]);
    let (mut prefix, mut scratch) = (Vec::new(), Vec::new());
    while let Some((key, _)) = source.entry() {
        let length = key::escaped_len(key).map_err(|e| source.corruption(e.to_string()))?;
        prefix.clear();
        prefix.extend_from_slice(&key[..length]);
        key::family_start(&mut scratch, &prefix, family);
        source.seek(&scratch);
        if source.entry().is_some_and(|(key, _)| key.starts_with(&scratch)) {
            return Ok(true);
        }
        key::behind(&prefix, &mut scratch);
        source.seek(&scratch);
    }
    source.status().map(|()| false)
}

/// Rows that [`middle_row`] keeps in mind.
const SAMPLE_ROWS_MAX: usize = 4_096;

/// The middle one of the stored rows, by count; `None` with fewer than two. Walks from row to row: for small tablets.
pub(crate) fn middle_row<S: FactSource>(mut source: S) -> Result<Option<Bytes>, EngineError> {
    let (mut sample, mut every, mut count) = (Vec::<Bytes>::new(), 1usize, 0usize);
    let (mut row, mut target) = (Vec::new(), Vec::new());
    source.seek(&[]);
    while let Some((key, _)) = source.entry() {
        let length = key::escaped_len(key).map_err(|e| source.corruption(e.to_string()))?;
        if count % every == 0 {
            key::unescape(&key[..length], &mut row);
            sample.push(Bytes::copy_from_slice(&row));
            if sample.len() == SAMPLE_ROWS_MAX {
                let mut at = 0;
                sample.retain(|_| {
                    at += 1;
                    at % 2 == 1
                });
                every *= 2;
            }
        }
        count += 1;
        key::behind(&key[..length], &mut target);
        let mut visited = 0;
        crate::source::skip_to(&mut source, &target, &mut visited, &mut Patience::default());
    }
    source.status()?;
    Ok((count >= 2).then(|| sample[sample.len() / 2].clone()))
}

/// One change that a sweep makes.
#[derive(Debug)]
pub(crate) enum Edit {
    /// Forget the fact with that key.
    Delete(Vec<u8>),
    /// Replace its value by the dead marker.
    Strip(Vec<u8>),
    /// Write the same fact, with this key and value, where its family's facts belong.
    Move(Vec<u8>, Vec<u8>),
}

/// What a sweep decided.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SweepCount {
    pub(crate) cells_dropped: u64,
    pub(crate) tombstones_dropped: u64,
    /// Changes of any kind.
    pub(crate) edits: u64,
    /// Row ranges hide cells that had to be kept, so they stay.
    pub(crate) ranges_needed: bool,
}

/// Judges every fact and gives the changes to `apply`, a tombstone's only after those of everything in its row: whatever
/// part of the changes becomes visible or durable first, no cell outlives the tombstone that kills it.
pub(crate) fn sweep<S: FactSource>(
    mut source: S,
    reaper: &mut Reaper,
    mut apply: impl FnMut(Edit, FamilyId, Place) -> Result<(), EngineError>,
) -> Result<SweepCount, EngineError> {
    let mut count = SweepCount::default();
    let mut tombstones: Vec<Vec<u8>> = Vec::new();
    let mut row = Vec::new();
    source.seek(&[]);
    while let Some((key, value)) = source.entry() {
        if row.is_empty() || !key.starts_with(&row) {
            end_row(reaper, &mut tombstones, &mut count, &mut apply)?;
            let length = key::escaped_len(key).map_err(|e| source.corruption(e.to_string()))?;
            row.clear();
            row.extend_from_slice(&key[..length]);
        }
        let place = source.place();
        match reaper.judge(key, value) {
            // Planted: what survives is as new as the collection that it survived.
            Verdict::Keep if planted(Bug::CompactionRestamps) => {
                if let Some(stamped_anew) = reaper.restamped(key) {
                    apply(Edit::Move(stamped_anew, value.to_vec()), reaper.family(), place)?;
                    apply(Edit::Delete(key.to_vec()), reaper.family(), place)?;
                }
            }
            Verdict::Keep if source.misplaced(reaper.family()) => {
                count.edits += 1;
                apply(Edit::Move(key.to_vec(), value.to_vec()), reaper.family(), place)?;
            }
            Verdict::Keep => {}
            Verdict::Strip => {
                count.edits += 1;
                apply(Edit::Strip(key.to_vec()), reaper.family(), place)?;
            }
            Verdict::Drop if is_tombstone(value) => tombstones.push(key.to_vec()),
            Verdict::Drop | Verdict::Forget => {
                match is_tombstone(value) {
                    true => count.tombstones_dropped += 1,
                    false => count.cells_dropped += 1,
                }
                count.edits += 1;
                apply(Edit::Delete(key.to_vec()), reaper.family(), place)?;
            }
        }
        source.next();
    }
    source.status()?;
    end_row(reaper, &mut tombstones, &mut count, &mut apply)?;
    Ok(count)
}

fn is_tombstone(value: &[u8]) -> bool {
    value.first() == Some(&key::VALUE_TOMBSTONE)
}

fn end_row(
    reaper: &mut Reaper,
    tombstones: &mut Vec<Vec<u8>>,
    count: &mut SweepCount,
    apply: &mut impl FnMut(Edit, FamilyId, Place) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    if reaper.take_unknown_killed() {
        count.ranges_needed = true;
        tombstones.clear();
    }
    for tombstone in tombstones.drain(..) {
        count.tombstones_dropped += 1;
        count.edits += 1;
        apply(Edit::Delete(tombstone), FamilyId(0), Place::CELL)?;
    }
    Ok(())
}
