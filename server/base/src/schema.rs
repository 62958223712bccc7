//! Families and their settings, as every replica of a tablet needs them. A schema reaches a tablet through its own log,
//! so apply is deterministic.
//!
//! ```text
//! schema := 'S' 0x03 | revision u64 | region u16 | epoch u32 | max_future i64 | peers varint, n x (region u16, link u64)
//!           | families varint, n x family | dropped varint, n x u32, ascending
//! family := id u32 | name slice | flags u8 (1 ttl, 2 max_versions, 4 series) | [ttl i64] | [max_versions u32]
//!           | [time block i64] | expiry_floor i64 | past varint, n x (until u64, max_versions u32) | compression u8
//! ```
//! Format 1 had no `dropped` and no `link`; it is read as if nothing had been dropped and every link were number 0. Formats 1
//! and 2 had no series families. Only format 3 is written.
//!
//! Worked example (the golden test): revision 1 of region 1, no peer, family `m` of generation 1, the first `m` dropped
//! ```text
//! 53 03 | 01 00 00 00 00 00 00 00 | 01 00 | 00 00 00 00 | 00 60 d7 1d 14 00 00 00 | 00
//! | 01 | 10 67 cb ae | 01 6d | 00 | 00 00 00 00 00 00 00 80 | 00 | 01
//! | 01 | 59 a6 d0 f9
//! ```

use crate::codec::{Malformed, Reader, put_slice, put_varint};
use crate::ids::{FamilyId, RegionId};
use crate::limits;
use crate::stamp::Stamp;
use std::collections::BTreeMap;

/// How the storage compresses the files that hold a family's cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4: the default.
    #[default]
    Lz4,
    /// Zstandard level 1.
    Zstd,
}

/// In which physical form a family's cells are kept. It changes what things cost, never an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Layout {
    /// One record a cell, found by its qualifier.
    #[default]
    Cells,
    /// The cells of one row that fall into one time block are one record, in columns: for readings in the order of time.
    Series {
        /// Length of a time block, microseconds, at least 1. Where things stand depends on it, so it never changes.
        block_micros: i64,
    },
}

impl Layout {
    /// The length of a time block; `None` for cells.
    pub fn block_micros(self) -> Option<i64> {
        match self {
            Layout::Cells => None,
            Layout::Series { block_micros } => Some(block_micros),
        }
    }
}

/// In [`PastLimit::max_versions`]: there was no limit.
pub const NO_LIMIT: u32 = u32::MAX;

/// A limit that was in force and has since been raised, or the time without one that a limit ended (see
/// [`FamilySettings::past_limits`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastLimit {
    /// Facts with `stamp.hlc <= until` were subject to it.
    pub until: u64,
    /// The limit, or [`NO_LIMIT`].
    pub max_versions: u32,
}

/// One family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilySettings {
    /// Derived from name and generation; see [`FamilyId::derive`].
    pub id: FamilyId,
    /// Name.
    pub name: String,
    /// A cell is expired iff `version + ttl <= now`, computed when it is read, never shipped (R10).
    pub ttl_micros: Option<i64>,
    /// How many versions of a column count, ranked over everything ever written there, dead ones included (R11).
    pub max_versions: Option<u32>,
    /// Versions at or below it are expired whatever the TTL says. Set when a TTL is raised, so that a region that has
    /// already dropped a cell and one that has not answer alike (R10).
    pub expiry_floor: i64,
    /// Limits of earlier days, oldest first. They cut the facts into eras by stamp, and [`VersionRank`] applies each
    /// limit as if every replica had compacted when it ended: a fact that some replica may have dropped then stays
    /// hidden for ever, and does not count. Bounded at [`FamilySettings::PAST_LIMITS_MAX`].
    pub past_limits: Vec<PastLimit>,
    /// Storage compression.
    pub compression: Compression,
    /// Physical layout. It is given when the family is made and never changed.
    pub layout: Layout,
}

impl FamilySettings {
    /// How many raised limits are remembered; a further raise folds the oldest two into the stricter one.
    pub const PAST_LIMITS_MAX: usize = 8;

    /// A family with no limits.
    pub fn new(name: &str, generation: u32) -> FamilySettings {
        FamilySettings {
            id: FamilyId::derive(name, generation),
            name: name.to_owned(),
            ttl_micros: None,
            max_versions: None,
            expiry_floor: i64::MIN,
            past_limits: Vec::new(),
            compression: Compression::default(),
            layout: Layout::default(),
        }
    }

    /// R10. `now` and versions in microseconds.
    pub fn expired(&self, version: i64, now_micros: i64) -> bool {
        version <= self.expiry_floor
            || self
                .ttl_micros
                .is_some_and(|ttl| version.checked_add(ttl).is_some_and(|end| end <= now_micros))
    }

    /// True if some version limit, present or past, can hide a cell.
    pub fn limits_versions(&self) -> bool {
        self.max_versions.is_some() || !self.past_limits.is_empty()
    }

    /// Changes the TTL. `now` is when the change is decided; raising or removing a TTL leaves an expiry floor.
    pub fn set_ttl(&mut self, ttl_micros: Option<i64>, now_micros: i64) {
        if let Some(old) = self.ttl_micros {
            let raised = ttl_micros.is_none_or(|new| new > old);
            if raised {
                self.expiry_floor = self.expiry_floor.max(now_micros.saturating_sub(old));
            }
        }
        self.ttl_micros = ttl_micros;
    }

    /// The era of a fact: which limit was in force when it was stamped. Past limits count from 0; the last era is now.
    pub fn era(&self, stamp: Stamp) -> usize {
        let past = self.past_limits.iter().position(|limit| stamp.hlc <= limit.until);
        past.unwrap_or(self.past_limits.len())
    }

    /// The limit of an era; `None` where there was none.
    pub fn era_limit(&self, era: usize) -> Option<u32> {
        match self.past_limits.get(era) {
            Some(limit) => Some(limit.max_versions).filter(|max| *max != NO_LIMIT),
            None => self.max_versions,
        }
    }

    /// Up to which `hlc` an era reaches.
    pub fn era_until(&self, era: usize) -> u64 {
        self.past_limits.get(era).map_or(u64::MAX, |limit| limit.until)
    }

    /// Changes the version limit. `hlc` must be at or above every stamp that may have been compacted under the old
    /// limit (now plus the greatest offset between clocks). Raising or removing a limit ends an era, and so does the
    /// first limit after a time without: until then deleted cells could be forgotten, from then on they count (R11).
    pub fn set_max_versions(&mut self, max_versions: Option<u32>, hlc: u64) {
        let ended = match (self.max_versions, max_versions) {
            (None, Some(_)) => Some(NO_LIMIT),
            (Some(old), new) if new.is_none_or(|new| new > old) => Some(old),
            _ => None,
        };
        if let Some(ended) = ended {
            self.past_limits.push(PastLimit {
                until: self.past_limits.last().map_or(hlc, |last| last.until.max(hlc)),
                max_versions: ended,
            });
            if self.past_limits.len() > Self::PAST_LIMITS_MAX {
                let oldest = self.past_limits.remove(0);
                self.past_limits[0].max_versions = self.past_limits[0].max_versions.min(oldest.max_versions);
            }
        }
        self.max_versions = max_versions;
    }
}

/// A set of eras: bit `e` for [`FamilySettings::era`] `e`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Eras(u16);

impl Eras {
    /// Adds one.
    pub fn insert(&mut self, era: usize) {
        self.0 |= 1 << era;
    }

    /// True if it is in the set.
    pub fn contains(self, era: usize) -> bool {
        self.0 >> era & 1 == 1
    }
}

/// Walks a column's versions from the greatest down and says which are hidden by a version limit, present or past.
///
/// ```text
/// F(-1) = nothing
/// F(e)  = the facts of F(e-1) and of era e that stand at their limit(e) greatest versions
/// a version is hidden iff the last F does not hold its winner
/// ```
/// So each limit is applied as if every replica had compacted when it ended: what one of them may have dropped is
/// hidden on all, and no longer counts against a later limit. Dead facts count (R11), except in an era without a limit
/// those that a tombstone of that era or an earlier one kills: they could be forgotten.
#[derive(Debug, Default, Clone)]
pub struct VersionRank {
    counts: [u32; FamilySettings::PAST_LIMITS_MAX + 1],
}

impl VersionRank {
    /// A rank before the first version of a column.
    pub fn new() -> VersionRank {
        VersionRank::default()
    }

    /// Counts one version, given the eras of all the facts at its coordinate that count; true if a limit hides it.
    pub fn count(&mut self, family: &FamilySettings, eras: Eras) -> bool {
        let mut inside = false;
        for era in 0..=family.past_limits.len().min(FamilySettings::PAST_LIMITS_MAX) {
            inside |= eras.contains(era);
            if let Some(limit) = family.era_limit(era).filter(|_| inside) {
                self.counts[era] = self.counts[era].saturating_add(1);
                inside = self.counts[era] <= limit;
            }
        }
        !inside
    }
}

/// A table's schema as its tablets hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSchema {
    /// Rises by at least one with each change; a tablet ignores an older one.
    pub revision: u64,
    /// The region that this tablet's leader stamps for.
    pub region: RegionId,
    /// 0 for active-active tables (R20).
    pub epoch: u32,
    /// How far ahead of the leader's clock a client's version may be (R8), microseconds.
    pub max_future_micros: i64,
    /// Regions that the table is replicated with. Not empty = apply writes the feed (R13).
    pub peers: Vec<RegionId>,
    /// Which link with each peer that is: the revision that brought it. A peer that left and came back has another one,
    /// also for a tablet that saw neither, so nothing of the earlier link is taken for a part of this one. A peer that is
    /// not in here has link 0.
    pub links: BTreeMap<RegionId, u64>,
    /// Living families.
    pub families: Vec<FamilySettings>,
    /// Families that the table had and never has again, ascending; none of them lives. Their facts are dead: nobody will
    /// see them, so what still arrives is taken and not kept (R17), and what is stored may be forgotten. An id that is in
    /// neither list is *unknown*: it may come to life with a later revision, and its facts must wait.
    ///
    /// It only grows from revision to revision. At most [`limits::FAMILIES_EVER_MAX`]: 16 KiB encoded.
    pub dropped: Vec<FamilyId>,
}

impl TableSchema {
    /// A schema without families.
    pub fn new(region: RegionId) -> TableSchema {
        TableSchema {
            revision: 1,
            region,
            epoch: 0,
            max_future_micros: limits::MAX_FUTURE_MICROS_DEFAULT,
            peers: Vec::new(),
            links: BTreeMap::new(),
            families: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// Which link with that peer this is; `None` if it is no peer.
    pub fn link(&self, peer: RegionId) -> Option<u64> {
        let linked = self.peers.contains(&peer);
        linked.then(|| self.links.get(&peer).copied().unwrap_or(0))
    }

    /// True if it has a link that `before` has not: a peer that came, or that left and came again.
    pub fn has_new_link(&self, before: &TableSchema) -> bool {
        let mut peers = self.peers.iter();
        peers.any(|peer| self.link(*peer) != before.link(*peer))
    }

    /// The family with that id.
    pub fn family(&self, id: FamilyId) -> Option<&FamilySettings> {
        self.families.iter().find(|f| f.id == id)
    }

    /// True if that family lived and was dropped; see [`TableSchema::dropped`].
    pub fn is_dropped(&self, id: FamilyId) -> bool {
        self.dropped.binary_search(&id).is_ok()
    }

    /// True if that family neither lives nor was dropped: it may live one day.
    pub fn is_unknown(&self, id: FamilyId) -> bool {
        self.family(id).is_none() && !self.is_dropped(id)
    }

    /// The family of that name.
    pub fn family_named(&self, name: &str) -> Option<&FamilySettings> {
        self.families.iter().find(|f| f.name == name)
    }

    /// See the module's drawing.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![b'S', 3];
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.extend_from_slice(&self.region.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.max_future_micros.to_le_bytes());
        put_varint(&mut out, self.peers.len() as u64);
        for peer in &self.peers {
            out.extend_from_slice(&peer.0.to_le_bytes());
            out.extend_from_slice(&self.link(*peer).unwrap_or(0).to_le_bytes());
        }
        put_varint(&mut out, self.families.len() as u64);
        for family in &self.families {
            encode_family(&mut out, family);
        }
        debug_assert!(self.dropped.is_sorted(), "looked up by bisection");
        put_varint(&mut out, self.dropped.len() as u64);
        for id in &self.dropped {
            out.extend_from_slice(&id.0.to_le_bytes());
        }
        out
    }

    /// The inverse of [`TableSchema::encode`].
    pub fn decode(bytes: &[u8]) -> Result<TableSchema, Malformed> {
        let mut r = Reader::new(bytes);
        let format = match r.take(2)? {
            [b'S', format @ 1..=3] => *format,
            _ => return Err(Malformed("not a schema of format 1 to 3")),
        };
        let mut schema = TableSchema {
            revision: r.u64()?,
            region: RegionId(r.u16()?),
            epoch: r.u32()?,
            max_future_micros: r.i64()?,
            peers: Vec::new(),
            links: BTreeMap::new(),
            families: Vec::new(),
            dropped: Vec::new(),
        };
        for _ in 0..r.length(usize::from(u16::MAX), "too many peers")? {
            let peer = RegionId(r.u16()?);
            schema.peers.push(peer);
            match if format >= 2 { r.u64()? } else { 0 } {
                0 => {}
                link => _ = schema.links.insert(peer, link),
            }
        }
        for _ in 0..r.length(limits::FAMILIES_MAX, "too many families")? {
            schema.families.push(decode_family(&mut r, format)?);
        }
        if format >= 2 {
            decode_dropped(&mut r, &mut schema)?;
        }
        if !r.is_empty() {
            return Err(Malformed("bytes after the schema"));
        }
        Ok(schema)
    }
}

fn encode_family(out: &mut Vec<u8>, family: &FamilySettings) {
    out.extend_from_slice(&family.id.0.to_le_bytes());
    put_slice(out, family.name.as_bytes());
    let block = family.layout.block_micros();
    let given = [
        family.ttl_micros.is_some(),
        family.max_versions.is_some(),
        block.is_some(),
    ];
    out.push(given.iter().rev().fold(0, |flags, given| flags << 1 | u8::from(*given)));
    if let Some(ttl) = family.ttl_micros {
        out.extend_from_slice(&ttl.to_le_bytes());
    }
    if let Some(max) = family.max_versions {
        out.extend_from_slice(&max.to_le_bytes());
    }
    if let Some(block) = block {
        out.extend_from_slice(&block.to_le_bytes());
    }
    out.extend_from_slice(&family.expiry_floor.to_le_bytes());
    put_varint(out, family.past_limits.len() as u64);
    for past in &family.past_limits {
        out.extend_from_slice(&past.until.to_le_bytes());
        out.extend_from_slice(&past.max_versions.to_le_bytes());
    }
    out.push(match family.compression {
        Compression::None => 0,
        Compression::Lz4 => 1,
        Compression::Zstd => 2,
    });
}

fn decode_dropped(r: &mut Reader<'_>, schema: &mut TableSchema) -> Result<(), Malformed> {
    for _ in 0..r.length(limits::FAMILIES_EVER_MAX, "too many dropped families")? {
        let id = FamilyId(r.u32()?);
        if schema.dropped.last().is_some_and(|last| *last >= id) {
            return Err(Malformed("dropped families do not ascend"));
        }
        if schema.family(id).is_some() {
            return Err(Malformed("a family lives and is dropped"));
        }
        schema.dropped.push(id);
    }
    Ok(())
}

fn decode_family(r: &mut Reader<'_>, format: u8) -> Result<FamilySettings, Malformed> {
    let id = FamilyId(r.u32()?);
    let name = std::str::from_utf8(r.slice(limits::NAME_BYTES_MAX, "family name too long")?)
        .map_err(|_| Malformed("family name is not UTF-8"))?
        .to_owned();
    let flags = r.u8()?;
    if flags > if format >= 3 { 7 } else { 3 } {
        return Err(Malformed("a family with a setting that this release does not know"));
    }
    let ttl_micros = if flags & 1 != 0 { Some(r.i64()?) } else { None };
    let max_versions = if flags & 2 != 0 { Some(r.u32()?) } else { None };
    let layout = match flags & 4 != 0 {
        true => Layout::Series { block_micros: r.i64()? },
        false => Layout::Cells,
    };
    if layout.block_micros().is_some_and(|block| block < 1) {
        return Err(Malformed("a time block without length"));
    }
    let expiry_floor = r.i64()?;
    let mut past_limits = Vec::new();
    for _ in 0..r.length(FamilySettings::PAST_LIMITS_MAX, "too many past limits")? {
        past_limits.push(PastLimit {
            until: r.u64()?,
            max_versions: r.u32()?,
        });
    }
    let compression = match r.u8()? {
        0 => Compression::None,
        1 => Compression::Lz4,
        2 => Compression::Zstd,
        _ => return Err(Malformed("unknown compression")),
    };
    Ok(FamilySettings {
        id,
        name,
        ttl_micros,
        max_versions,
        expiry_floor,
        past_limits,
        compression,
        layout,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> TableSchema {
        let mut m = FamilySettings::new("m", 0);
        m.ttl_micros = Some(5);
        m.set_max_versions(Some(2), 0);
        m.set_max_versions(Some(9), 77);
        TableSchema {
            peers: vec![RegionId(2), RegionId(3)],
            links: BTreeMap::from([(RegionId(2), 7)]),
            families: vec![m, series()],
            dropped: sorted(["s", "t", "u"].map(|name| FamilyId::derive(name, 0))),
            ..TableSchema::new(RegionId(1))
        }
    }

    fn series() -> FamilySettings {
        FamilySettings {
            layout: Layout::Series {
                block_micros: 60_000_000,
            },
            ..FamilySettings::new("s", 1)
        }
    }

    fn sorted<const N: usize>(mut ids: [FamilyId; N]) -> Vec<FamilyId> {
        ids.sort();
        ids.to_vec()
    }

    fn encoded_golden() -> TableSchema {
        TableSchema {
            families: vec![FamilySettings::new("m", 1)],
            dropped: vec![FamilyId::derive("m", 0)],
            ..TableSchema::new(RegionId(1))
        }
    }

    /// The module's worked example, and the same as earlier formats wrote it, which must be readable for ever.
    #[test]
    fn golden() {
        let head = [
            0x53, 3, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x00, 0x60, 0xd7, 0x1d, 0x14, 0, 0, 0, 0,
        ];
        let family = [1, 0x10, 0x67, 0xcb, 0xae, 1, 0x6d, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 1];
        let dropped = [1, 0x59, 0xa6, 0xd0, 0xf9];
        let bytes = [&head[..], &family, &dropped].concat();
        assert_eq!(encoded_golden().encode(), bytes, "{:02x?}", encoded_golden().encode());
        assert_eq!(TableSchema::decode(&bytes), Ok(encoded_golden()));
        let mut second = bytes.clone();
        second[1] = 2;
        assert_eq!(TableSchema::decode(&second), Ok(encoded_golden()));
        let mut old = [&head[..], &family].concat();
        old[1] = 1;
        let read = TableSchema::decode(&old).unwrap();
        assert_eq!(
            read,
            TableSchema {
                dropped: Vec::new(),
                ..encoded_golden()
            }
        );
    }

    #[test]
    fn living_dropped_and_unknown_are_three_things() {
        let schema = encoded_golden();
        let [living, dropped, unknown] = [1, 0, 2].map(|generation| FamilyId::derive("m", generation));
        assert_eq!(
            [living, dropped, unknown].map(|id| schema.is_dropped(id)),
            [false, true, false]
        );
        assert_eq!(
            [living, dropped, unknown].map(|id| schema.is_unknown(id)),
            [false, false, true]
        );
        let twice = TableSchema {
            dropped: vec![living],
            ..encoded_golden()
        };
        assert!(
            TableSchema::decode(&twice.encode()).is_err(),
            "a family cannot live and be dropped"
        );
    }

    #[test]
    fn as_many_dropped_families_as_a_table_may_have_had() {
        let with = |n: usize| TableSchema {
            dropped: (1..=n as u32).map(FamilyId).collect(),
            ..TableSchema::new(RegionId(1))
        };
        for (n, good) in [
            (limits::FAMILIES_EVER_MAX - 1, true),
            (limits::FAMILIES_EVER_MAX, true),
            (limits::FAMILIES_EVER_MAX + 1, false),
        ] {
            assert_eq!(TableSchema::decode(&with(n).encode()).is_ok(), good, "{n}");
        }
    }

    /// Two peers, of which the second came with revision 7; format 1 knew no links.
    #[test]
    fn links_have_the_documented_bytes() {
        let schema = TableSchema {
            peers: vec![RegionId(2), RegionId(3)],
            links: BTreeMap::from([(RegionId(3), 7)]),
            ..TableSchema::new(RegionId(1))
        };
        let peers = [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let bytes = schema.encode();
        assert_eq!(bytes[24..], peers);
        assert_eq!(
            [2, 3, 4].map(|peer| schema.link(RegionId(peer))),
            [Some(0), Some(7), None]
        );
        let mut old = bytes[..24].to_vec();
        old.extend_from_slice(&[2, 2, 0, 3, 0, 0]);
        old[1] = 1;
        let read = TableSchema::decode(&old).unwrap();
        assert_eq!([2, 3].map(|peer| read.link(RegionId(peer))), [Some(0), Some(0)]);
    }

    /// The flag, and the length of the time block behind the limits; no earlier format had it.
    #[test]
    fn series_families_have_the_documented_bytes() {
        let mut out = Vec::new();
        encode_family(&mut out, &series());
        let expected = [4, 0, 0x87, 0x93, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 1];
        assert_eq!(out[6..], expected, "{:02x?}", &out[6..]);
        for (format, good) in [(1, false), (2, false), (3, true)] {
            assert_eq!(decode_family(&mut Reader::new(&out), format).is_ok(), good, "{format}");
        }
        out[6] = 8;
        assert!(
            decode_family(&mut Reader::new(&out), 3).is_err(),
            "a setting of a later release"
        );
        out[6] = 4;
        out[7..15].fill(0);
        assert!(decode_family(&mut Reader::new(&out), 3).is_err(), "no length");
    }

    #[test]
    fn round_trip() {
        assert_eq!(TableSchema::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn raising_a_ttl_leaves_a_floor_and_lowering_does_not() {
        let mut f = FamilySettings::new("m", 0);
        f.set_ttl(Some(100), 1_000);
        assert!(f.expired(900, 1_000) && !f.expired(901, 1_000));
        f.set_ttl(Some(500), 1_000);
        assert!(f.expired(900, 1_000), "was expired before the raise and stays so");
        assert!(!f.expired(901, 1_000));
        f.set_ttl(Some(10), 1_001);
        assert_eq!(f.expiry_floor, 900);
    }

    #[test]
    fn raising_max_versions_keeps_hidden_what_may_be_dropped_already() {
        let mut f = FamilySettings::new("m", 0);
        f.set_max_versions(Some(1), 0);
        f.set_max_versions(Some(3), 50);
        let mut rank = VersionRank::new();
        let hidden: Vec<bool> = [60, 40, 30, 70]
            .into_iter()
            .map(|hlc| rank.count(&f, eras(&f, &[hlc])))
            .collect();
        assert_eq!(
            hidden,
            [false, false, true, false],
            "what the old limit dropped does not count against the new one"
        );
        let mut rank = VersionRank::new();
        assert!(!rank.count(&f, eras(&f, &[60, 40])));
        assert!(
            rank.count(&f, eras(&f, &[30])),
            "a version of those days counts there even if it was written again later"
        );
    }

    #[test]
    fn the_first_limit_ends_an_era_without_one() {
        let mut f = FamilySettings::new("m", 0);
        f.set_max_versions(Some(2), 50);
        assert_eq!(
            f.past_limits,
            vec![PastLimit {
                until: 50,
                max_versions: NO_LIMIT
            }]
        );
        let mut rank = VersionRank::new();
        let hidden: Vec<bool> = [40, 30, 60]
            .into_iter()
            .map(|hlc| rank.count(&f, eras(&f, &[hlc])))
            .collect();
        assert_eq!(hidden, [false, false, true]);
        for n in 0..20 {
            f.set_max_versions(None, 100 + n);
            f.set_max_versions(Some(1), 100 + n);
        }
        assert_eq!(f.past_limits.len(), FamilySettings::PAST_LIMITS_MAX);
    }

    fn eras(family: &FamilySettings, hlcs: &[u64]) -> Eras {
        let mut eras = Eras::default();
        for hlc in hlcs {
            eras.insert(family.era(Stamp {
                epoch: 0,
                hlc: *hlc,
                region: RegionId(1),
            }));
        }
        eras
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..300) {
            let _ = TableSchema::decode(&bytes);
            let good = sample().encode();
            let cut = cut.min(good.len());
            prop_assert_eq!(TableSchema::decode(&good[..cut]).is_ok(), cut == good.len());
        }
    }
}
