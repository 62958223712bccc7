//! Families and their settings, as every replica of a tablet needs them. A schema reaches a tablet through its own log,
//! so apply is deterministic.
//!
//! ```text
//! schema := 'S' 0x01 | revision u64 | region u16 | epoch u32 | max_future i64 | peers varint, n x u16
//!           | families varint, n x family
//! family := id u32 | name slice | flags u8 (1 ttl, 2 max_versions) | [ttl i64] | [max_versions u32]
//!           | expiry_floor i64 | past varint, n x (until u64, max_versions u32) | compression u8
//! ```

use crate::codec::{Malformed, Reader, put_slice, put_varint};
use crate::ids::{FamilyId, RegionId};
use crate::limits;
use crate::stamp::Stamp;

/// How the storage compresses a family's cells.
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
    /// Living families.
    pub families: Vec<FamilySettings>,
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
            families: Vec::new(),
        }
    }

    /// The family with that id.
    pub fn family(&self, id: FamilyId) -> Option<&FamilySettings> {
        self.families.iter().find(|f| f.id == id)
    }

    /// The family of that name.
    pub fn family_named(&self, name: &str) -> Option<&FamilySettings> {
        self.families.iter().find(|f| f.name == name)
    }

    /// See the module's drawing.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![b'S', 1];
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.extend_from_slice(&self.region.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.max_future_micros.to_le_bytes());
        put_varint(&mut out, self.peers.len() as u64);
        for peer in &self.peers {
            out.extend_from_slice(&peer.0.to_le_bytes());
        }
        put_varint(&mut out, self.families.len() as u64);
        for family in &self.families {
            encode_family(&mut out, family);
        }
        out
    }

    /// The inverse of [`TableSchema::encode`].
    pub fn decode(bytes: &[u8]) -> Result<TableSchema, Malformed> {
        let mut r = Reader::new(bytes);
        if r.take(2)? != [b'S', 1] {
            return Err(Malformed("not a schema of format 1"));
        }
        let mut schema = TableSchema {
            revision: r.u64()?,
            region: RegionId(r.u16()?),
            epoch: r.u32()?,
            max_future_micros: r.i64()?,
            peers: Vec::new(),
            families: Vec::new(),
        };
        for _ in 0..r.length(usize::from(u16::MAX), "too many peers")? {
            schema.peers.push(RegionId(r.u16()?));
        }
        for _ in 0..r.length(limits::FAMILIES_MAX, "too many families")? {
            schema.families.push(decode_family(&mut r)?);
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
    out.push(u8::from(family.ttl_micros.is_some()) | u8::from(family.max_versions.is_some()) << 1);
    if let Some(ttl) = family.ttl_micros {
        out.extend_from_slice(&ttl.to_le_bytes());
    }
    if let Some(max) = family.max_versions {
        out.extend_from_slice(&max.to_le_bytes());
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

fn decode_family(r: &mut Reader<'_>) -> Result<FamilySettings, Malformed> {
    let id = FamilyId(r.u32()?);
    let name = std::str::from_utf8(r.slice(limits::NAME_BYTES_MAX, "family name too long")?)
        .map_err(|_| Malformed("family name is not UTF-8"))?
        .to_owned();
    let flags = r.u8()?;
    let ttl_micros = if flags & 1 != 0 { Some(r.i64()?) } else { None };
    let max_versions = if flags & 2 != 0 { Some(r.u32()?) } else { None };
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
            peers: vec![RegionId(2)],
            families: vec![m, FamilySettings::new("s", 1)],
            ..TableSchema::new(RegionId(1))
        }
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
